"""What a CleverTap profile tells, beside what it was given: pure. Reference, sections 3.2, 3.6."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, date, datetime
from typing import Any

from syncd.model import Differences, Person, Seen
from syncd.providers.clevertap_translate import Rules, name_fault, shaped, with_name


def flag(record: Mapping[str, Any]) -> Any:
    """Whether mail is on; None where the account does not show it."""
    return (record.get("profileData") or {}).get("MSG-email")


def seen(record: Mapping[str, Any], identity: str, contact_id: str, rules: Rules) -> Seen:
    """The profile, with its properties under the names by which they are sent."""
    fields = {**(record.get("profileData") or {})}
    fields |= {name: record[key] for name, key in (("Name", "name"), ("Phone", "phone"))
               if key in record}  # fmt: skip
    lists = fields.pop(rules.lists_property, None)
    many = lists if isinstance(lists, list) else [] if lists in (None, "") else [lists]
    told = flag(record)
    return Seen(
        identity, str(record.get("email") or "") or None, told if told in (True, False) else None,
        contact_id, [str(one) for one in many], {"MSG-email": told}, fields,
    )  # fmt: skip


def unlike(rules: Rules, person: Person, told: Mapping[str, Any]) -> Differences:
    """Properties that are not as they were sent; what could not be sent is not looked at."""
    found = {}
    for name, value in with_name(person.fields).items():
        if name_fault(name, rules.lists_property):
            continue
        sent, note = shaped(name, value, rules)
        if sent is None and note:
            continue
        wanted, there = _plain(name, sent), _plain(name, told.get(name))
        if wanted != there:
            found[name] = wanted, there
    return found


def _plain(name: str, value: Any) -> str:
    """A value as text that is the same whichever way it comes back."""
    if value is None:
        return ""
    if name == "Phone":
        return re.sub(r"[^0-9]", "", str(value))
    if name == "DOB":
        return _day(value)
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return str(value)


def _day(value: Any) -> str:
    """A birthday: `$D_` and an epoch, the epoch alone, or a date in words of its own."""
    text = str(value).removeprefix("$D_")
    try:
        if re.fullmatch(r"-?[0-9]{1,13}", text):
            return str(datetime.fromtimestamp(int(text), UTC).date())
        return str(date.fromisoformat(text[:10]))
    except (ValueError, OverflowError):
        return text
