"""From a `Change` to Copernica's fields: pure. Reference, sections 3b, 5, 6 and 8.

What an adapter asks to be remembered of a contact (`remote`): {"id": profile id}.
"""

from __future__ import annotations

import hashlib
import math
import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

from syncd.model import Differences, Person, Value
from syncd.providers.copernica_answers import is_number, shaped
from syncd.providers.copernica_calls import OPERATORS

ZONE = ZoneInfo("Europe/Amsterdam")  # observed: clocks have no zone (4)
CLOCK = "%Y-%m-%d %H:%M:%S"
LONGEST_KEY = 255
LONGEST_NAME = 64  # of a field; not documented, and every database allows so many
ON, OFF = "1", "0"

_UNSEEN = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff]")
_ADDRESS = re.compile(r"[^\s@]+@[^\s@.]+(?:\.[^\s@.]+)+")
_KEY = re.compile(r"(?P<id>.*)~(?P<hash>[0-9a-f]{8})", re.DOTALL)
_INTEGER = re.compile(r"-?\d{1,18}")


@dataclass(frozen=True, slots=True)
class Field:
    """One field of the database. choices: of a select."""

    id: str
    name: str
    type: str
    length: int
    default: str
    choices: Sequence[str] = ()

    def flag(self, on: bool) -> str:
        """Membership as this field holds it."""
        for yes, no in (("yes", "no"), ("1", "0"), ("true", "false"), ("ja", "nee")):
            spelt = {one.lower(): one for one in self.choices}
            if yes in spelt and no in spelt:
                return spelt[yes] if on else spelt[no]
        return ON if on else OFF

    def is_on(self, value: str) -> bool:
        return value.strip().lower() == self.flag(True).lower()


def field_of(row: Mapping[str, Any]) -> Field:
    """A field's object. The choices of a select are lines; `*` marks the default."""
    row = shaped(row, "ID", "name")
    value, kind, longest = (str(row.get(name) or "") for name in ("value", "type", "length"))
    length = int(longest) if is_number(longest) else 0
    if kind != "select":
        return Field(str(row["ID"]), str(row["name"]), kind, length, value)
    lines = [one.strip() for one in value.splitlines()]
    default = next((one[:-1] for one in lines if one.endswith("*")), lines[0] if lines else "")
    choices = tuple(one.removesuffix("*") for one in lines)
    return Field(str(row["ID"]), str(row["name"]), kind, length, default, choices)


# ── Keys, addresses, names of lists ─────────────────────────────────────────────────────────


def key_of(contact_id: str) -> str:
    """Our id as the key field holds it: texts compare without regard to case there.

    What another id might be taken for carries a piece of its own hash.
    """
    plain = contact_id.isascii() and contact_id == contact_id.lower().strip()
    if plain and contact_of(contact_id) == contact_id:
        return contact_id
    return f"{contact_id}~{hashlib.sha256(contact_id.encode()).hexdigest()[:8]}"


def contact_of(key: str) -> str:
    """The inverse."""
    found = _KEY.fullmatch(key)
    if found and hashlib.sha256(found["id"].encode()).hexdigest()[:8] == found["hash"]:
        return found["id"]
    return key


def key_fault(contact_id: str) -> str:
    """Why this id cannot be looked for; '' if it can."""
    if not contact_id or contact_id[0] in OPERATORS or contact_id[0].isspace():
        return "begins with what a condition cannot hold, or is empty"
    if _UNSEEN.search(contact_id) or not contact_id.isprintable():
        return "holds control characters"
    return "is too long" if len(key_of(contact_id)) > LONGEST_KEY else ""


def address(email: str) -> str:
    return email.strip().lower()


def email_fault(email: str) -> str:
    """Why this is no address, loosely; '' if it may be one."""
    text = address(email)
    if not text:
        return "is empty"
    if text[0] in OPERATORS:
        return "begins with an operator: it cannot be looked for without doubt"
    if _UNSEEN.search(text):
        return "holds control characters"
    return "" if _ADDRESS.fullmatch(text) else "is not an address"


def excess(email: str, field: Field) -> str:
    """Why the address does not fit its field, where it would be cut without a word; '' if it does.

    A field that declares no length is taken to hold anything.
    """
    most = field.length
    return f"is longer than {most} characters" if most and len(address(email)) > most else ""


def field_name(prefix: str, name: str) -> str:
    """A list's name as a field's: letters, digits and `_` are all there is.

    A space is `__`, anything else `_` and two hexadecimal digits a byte.
    """
    made = "".join(_spelt(char) for char in unicodedata.normalize("NFC", name))
    return prefix + made


def _spelt(char: str) -> str:
    if char.isascii() and char.isalnum():
        return char
    return "__" if char == " " else "".join(f"_{b:02X}" for b in char.encode("utf-8", "replace"))


def list_name(prefix: str, field: str) -> str:
    """The inverse; what was never made by it is shown as it is."""
    made, rest = bytearray(), field[len(prefix) :]
    while rest:
        if rest[0] != "_":
            made += rest[0].encode()
            rest = rest[1:]
        elif rest[1:2] == "_":
            made += b" "
            rest = rest[2:]
        elif re.fullmatch(r"[0-9A-F]{2}", rest[1:3]):
            made.append(int(rest[1:3], 16))
            rest = rest[3:]
        else:
            made += b"_"
            rest = rest[1:]
    return made.decode("utf-8", "replace")


# ── Values ──────────────────────────────────────────────────────────────────────────────────


def content(person: Person, fields: Mapping[str, Field], lacking: list[str]) -> dict[str, str]:
    """The mapped fields as text, `""` for none; what cannot be held is named in *lacking*."""
    made = {}
    for name, value in person.fields.items():
        text = "" if value is None else _shaped(fields[name], value)
        if text is None:
            lacking.append(f"field:{name} not a value of its type ({fields[name].type}), left out")
        else:
            made[name] = _fitting(fields[name], text, lacking)
    return made


def unlike(fields: Mapping[str, Field], person: Person, told: Mapping[str, Any]) -> Differences:
    """Fields that do not hold what was sent; what is not in the database is not looked at."""
    known = {name: value for name, value in person.fields.items() if name in fields}
    sent = content(person._replace(fields=known), fields, [])
    pairs = {name: (text, str(told.get(name) or "")) for name, text in sent.items()}
    return {
        name: pair
        for name, pair in pairs.items()
        if len({_held(fields[name], one) for one in pair}) > 1
    }


def _held(field: Field, text: str) -> str:
    """A value as this type keeps it, whichever way it was written."""
    text = text.strip()
    match field.type:
        case "integer" | "foreign_key" | "float":
            try:
                return repr(float(text or 0))
            except ValueError:
                return text
        case "date" | "datetime" | "empty_date" | "empty_datetime":
            return "" if text.startswith("0000") else text
        case "email":
            return text.lower()
    return text.replace("\r\n", "\n")


def _shaped(field: Field, value: Value) -> str | None:
    """A value as its type holds it; None where a conversion there would make something else."""
    text = (OFF, ON)[value] if isinstance(value, bool) else tidy(str(value))
    match field.type:
        case "integer" | "foreign_key":
            return text if _INTEGER.fullmatch(text) or not text else None
        case "float":
            return _number(text)
        case "date" | "empty_date":
            return _day(text)
        case "datetime" | "empty_datetime":
            return _moment(text)
        case "select":
            return text if text in field.choices or not text else None
    return text


def _number(text: str) -> str | None:
    try:
        return text if not text or math.isfinite(float(text)) else None
    except ValueError:
        return None


def _day(text: str) -> str | None:
    try:
        return str(date.fromisoformat(text[:10])) if text else ""
    except ValueError:
        return None


def _moment(text: str) -> str | None:
    """In the account's own time."""
    try:
        when = datetime.fromisoformat(text) if text else None
    except ValueError:
        return None
    if when is None:
        return ""
    return (when.astimezone(ZONE) if when.tzinfo else when).strftime(CLOCK)


def _fitting(field: Field, text: str, lacking: list[str]) -> str:
    most = field.length if field.type in ("text", "email", "phone_gsm", "phone_fax") else 0
    if not most or len(text) <= most:
        return text
    lacking.append(f"field:{field.name} cut to {most} characters")
    return text[:most]


def tidy(text: str) -> str:
    """Without control characters and halves of surrogate pairs, in NFC; lines stay."""
    if text.isascii() and text.isprintable():
        return text
    return unicodedata.normalize("NFC", _UNSEEN.sub("", text))


# ── Clocks ──────────────────────────────────────────────────────────────────────────────────


def clock(when: datetime) -> str:
    """A moment as the account's clocks show it."""
    return when.astimezone(ZONE).strftime(CLOCK)


def moment(text: str) -> datetime | None:
    """The latest moment that a clock there can mean."""
    try:
        local = datetime.strptime(text, CLOCK).replace(tzinfo=ZONE, fold=1)
        return local.astimezone(UTC) + timedelta(seconds=1)
    except (ValueError, OverflowError):
        return None
