"""From a `Change` to CleverTap's records: pure. Reference, sections 3.1, 3.5, 3.6, 4 and 6."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time
from functools import lru_cache
from math import isfinite
from typing import Any, Literal

from syncd.model import Change, Outcome, Person, Rejected, Value, Verb

SYSTEM = frozenset(
    ("Name", "Email", "Phone", "Gender", "Employed", "Married", "Education", "Age", "DOB", "Photo")
)
BYTES = 512  # of a value; a longer one would be cut there, silently
NAME_BYTES = 120
MOST_LISTS = 100
SHORT = BYTES // 4  # characters that fit in any case
SHAPED = frozenset(("Phone", "DOB"))  # what is not sent as it is
MOST_NAMES = 255  # 256 an account, one of them holds the lists

Mark = Literal["Unsubscribe", "Resubscribe"]
LISTS = "Lists"  # the property that holds list ids, unless an option names another

_FORBIDDEN = frozenset("%><!|&.:;$'\"\\#")
_BLANKS = re.compile(r"[\t\r\n\v\f]+")
_UNSEEN = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
_ADDRESS = re.compile(r"[^\s@]+@[^\s@.]+(?:\.[^\s@.]+)+")
_NUMBER = re.compile(r"\+[1-9][0-9]{6,14}")


@dataclass(frozen=True, slots=True)
class Rules:
    """What the options and the findings of an account change in the translation."""

    lists_property: str = LISTS
    country: str = ""  # default country code of phone numbers, digits
    marker: str | None = None
    delete_works: bool = False
    negative_dates: bool = False
    adopts: bool = False  # profiles are looked for by address before one is made


@dataclass(slots=True)
class Draft:
    """One change on its way: what must be sent for it, and what became of it so far.

    records: one a round, never two in the same upload.  mark: what to say of the address.
    """

    change: Change
    identity: str
    looks_first: bool = False
    records: list[dict[str, Any]] = field(default_factory=list)
    mark: tuple[str, Mark] | None = None
    deletes: bool = False
    others: Sequence[str] = ()  # identities that go with it: who else has an erased address
    remote: dict[str, Any] | None = None
    lacking: list[str] = field(default_factory=list)
    outcome: Outcome | None = None


def drafted(change: Change, rules: Rules) -> Draft:
    """What one change asks of CleverTap. A fault found here costs no request."""
    if (record := plain(change, rules)) is not None:
        made = Draft(change, change.contact_id, records=[record])
        _remember_property(made, rules)
        return made
    draft = Draft(change, identity_of(change))
    if fault := identity_fault(draft.identity):
        draft.outcome = Rejected(f"identity {fault}")
    elif change.verb is Verb.PUT:
        _put(draft, rules)
    elif change.verb is Verb.WITHDRAW:
        _withdraw(draft)
    else:
        draft.deletes = True
        if change.verb is Verb.ERASE and change.was and not email_fault(change.was.email):
            draft.mark = (change.was.email, "Unsubscribe")
    return draft


def plain(change: Change, rules: Rules) -> dict[str, Any] | None:
    """The record of a new, mailable contact of which every value is sent as it is; else None.

    Nearly all of a first fill: what `_put` would make, without looking at each thing apart.
    """
    want = change.want
    if want is None or change.was is not None or not (change.may_create and want.subscribed):
        return None
    if change.remote or change.doubtful or rules.marker or not change.contact_id.isalnum():
        return None
    if rules.adopts or change.resubscribe:
        return None
    data: dict[str, Any] = {**want.fields}
    make_name = _plain_names(tuple(data), rules.lists_property)
    if make_name is None:
        return None
    values = data.values()
    try:
        text = "".join(values)
    except TypeError:
        return None
    if not text.isprintable() or not all(values):
        return None
    if len(text) > SHORT and max(map(len, values)) > SHORT:
        return None
    if "Phone" in data and not _NUMBER.fullmatch(data["Phone"]):
        return None
    if make_name:
        data["Name"] = " ".join([data[one] for one in make_name])
    email = data["Email"] = want.email
    if len(email) > SHORT or not email.isprintable() or not _ADDRESS.fullmatch(email):
        return None
    if want.lists:
        lists = _plain_lists(tuple(want.lists))
        if lists is None:
            return None
        data[rules.lists_property] = lists
    return {"identity": change.contact_id, "type": "profile", "profileData": data}


@lru_cache(maxsize=256)
def _plain_names(names: Sequence[str], lists_property: str) -> Sequence[str] | None:
    """What `Name` is to be made of; None unless every property may be called and sent as it is.

    The mapping is the same for all contacts.
    """
    if not _all_sound(names, lists_property) or "DOB" in names:
        return None
    return [one for one in ("First Name", "Last Name") if one in names and "Name" not in names]


@lru_cache(maxsize=65_536)
def _plain_lists(ids: Sequence[str]) -> Mapping[str, Sequence[str]] | None:
    """How these are added; None unless a profile can hold them all."""
    if len(ids) > MOST_LISTS or not all(map(_is_list_id, ids)):
        return None
    return {"$add": sorted(ids)}


def identity_of(change: Change) -> str:
    """The profile's identity: the contact's id, unless a profile was adopted under its own."""
    return str((change.remote or {}).get("identity") or change.contact_id)


def refuse_twins(drafts: Sequence[Draft]) -> None:
    """Never two records of one identity in one batch (5): contacts that adopted one profile."""
    taken: set[str] = set()
    for draft in drafts:
        if draft.outcome is None and draft.identity in taken:
            draft.outcome = Rejected("another contact holds the same profile")
            draft.mark = None if draft.mark and draft.mark[1] == "Resubscribe" else draft.mark
        taken.add(draft.identity)


def _put(draft: Draft, rules: Rules) -> None:
    change, want, was = draft.change, draft.change.want, draft.change.was
    if want is None:
        raise ValueError("a PUT without `want`")
    silences, resubscribes = _silences(change, want), change.resubscribe and want.subscribed
    address = want.email
    if fault := email_fault(address):
        # A no must not wait until somebody repairs the address: the old one still gets mail.
        if not (silences and was and not email_fault(was.email)):
            draft.outcome = Rejected(f"Email {fault}")
            return
        address = was.email
        draft.lacking.append(f"field:Email {fault}")
    data = _properties(draft, want, None if fault else address, rules)
    if silences or resubscribes:
        data["MSG-email"] = resubscribes
        draft.mark = (address, "Resubscribe" if resubscribes else "Unsubscribe")
    elif want.subscribed and was is not None and not was.subscribed:
        draft.lacking.append("subscription: still off there, no leave to turn it on")
    creates = change.may_create and want.subscribed
    draft.looks_first = was is None and (rules.adopts or not creates)
    _put_lists(draft, want, data, rules)
    _put_marker(draft, rules)
    _remember_property(draft, rules)


def _silences(change: Change, want: Person) -> bool:
    """Whether this change says the person's no. The address mark is per address: repeated
    where the address changed. The old address keeps its mark: to take it off would be a
    Resubscribe that nobody has consented to (3.5: the mark cannot be read, and may be older than
    ours). Whoever gets that address later is not mailed until a resubscription of its own."""
    was = change.was
    return not want.subscribed and (
        was is None or was.subscribed or change.doubtful or was.email.lower() != want.email.lower()
    )


def _withdraw(draft: Draft) -> None:
    """Stop mail on this profile; the address is left alone, for nobody said no."""
    was = draft.change.was
    data: dict[str, Any] = {"MSG-email": False}
    if was and was.lists:
        data[_property_of(draft.change)] = {"$remove": sorted(was.lists)}
    draft.looks_first = was is None  # an upload would make the profile
    draft.records.append(_record(draft.identity, data))


def _record(identity: str, data: dict[str, Any]) -> dict[str, Any]:
    return {"identity": identity, "type": "profile", "profileData": data}


def _properties(draft: Draft, want: Person, email: str | None, rules: Rules) -> dict[str, Any]:
    """Name, Email, then the mapped fields: values as CleverTap takes them, or a word in lacking."""
    had = with_name(draft.change.was.fields) if draft.change.was else {}
    fields = with_name(want.fields)
    data: dict[str, Any] = {"Name": None} if "Name" in fields else {}
    if email is not None:
        data["Email"] = email
    sound = _all_sound(tuple(fields), rules.lists_property)
    for count, (name, value) in enumerate(fields.items()):
        if (  # most values: text that is sent as it is
            sound
            and type(value) is str
            and 0 < len(value) <= SHORT
            and value.isprintable()
            and name not in SHAPED
        ):
            data[name] = value
            continue
        if fault := name_fault(name, rules.lists_property) or (
            "one name too many" if count >= MOST_NAMES else ""
        ):
            draft.lacking.append(f"field:{name} {fault}")
            continue
        sent: Any
        sent, note = shaped(name, value, rules)
        if sent is None and not note:
            sent, note = _cleared(name, had.get(name), draft.change, rules)
        if sent is not None:
            data[name] = sent
        if note:
            draft.lacking.append(f"field:{name} {note}")
    if data.get("Name", "") is None:
        del data["Name"]
    return data


@lru_cache(maxsize=256)
def _all_sound(names: Sequence[str], lists_property: str) -> bool:
    """Whether every property may be called that: the mapping is the same for all contacts."""
    return len(names) <= MOST_NAMES and not any(name_fault(one, lists_property) for one in names)


def _cleared(
    name: str, had: Value, change: Change, rules: Rules
) -> tuple[Mapping[str, bool] | None, str]:
    """How an empty value is sent. Never as '' or null (3.1); `$delete` where a canary proved it,
    and only on properties of our own: a system key is validated and could cost the record."""
    if name not in SYSTEM and rules.delete_works:
        return ({"$delete": True} if had is not None or change.doubtful else None), ""
    return None, "not cleared" if had not in (None, "") else ""


def _put_lists(draft: Draft, want: Person, data: dict[str, Any], rules: Rules) -> None:
    """One record cannot add and remove: remove first, for the 101st value drops the oldest."""
    kept, over = _kept(want.lists)
    draft.lacking.extend(f"list:{one}" for one in over)
    was, change = draft.change.was, draft.change
    had = was.lists if was else {}
    known = set() if change.doubtful or change.resubscribe else set(_kept(had)[0])
    if had and (old := _property_of(change)) != rules.lists_property:  # they move house
        data.setdefault(old, {"$remove": sorted(_kept(had)[0])})
        had, known = {}, set()
    remove = sorted(set(had).difference(kept)) if had else ()
    add = [one for one in kept if one not in known] if known else kept
    draft.records.append(_record(draft.identity, data))
    if remove:
        data[rules.lists_property] = {"$remove": remove}
    if add and remove:
        draft.records.append(_record(draft.identity, {rules.lists_property: {"$add": add}}))
    elif add:
        data[rules.lists_property] = {"$add": add}


def _property_of(change: Change) -> str:
    """Where the contact's lists are by now; the usual place is not written down."""
    return str((change.remote or {}).get("lists") or LISTS)


def _remember_property(draft: Draft, rules: Rules) -> None:
    if _property_of(draft.change) != rules.lists_property:
        before = {**(draft.change.remote or {}), **(draft.remote or {})}
        draft.remote = {**before, "lists": rules.lists_property}


def _kept(lists: Mapping[str, str]) -> tuple[Sequence[str], Sequence[str]]:
    """The list ids that a profile can hold (the first hundred in order), and the others."""
    fit = [one for one in sorted(lists) if _is_list_id(one)]
    kept = fit[:MOST_LISTS]
    return kept, sorted(set(lists).difference(kept)) if len(kept) < len(lists) else ()


@lru_cache(maxsize=65_536)
def _is_list_id(one: str) -> bool:
    return bool(one) and one == cut(tidy(one))


def _put_marker(draft: Draft, rules: Rules) -> None:
    """The marker event, once a contact: only profiles with an event can be enumerated (3.3)."""
    remembered = draft.change.remote or {}
    if rules.marker and remembered.get("marker") != rules.marker:
        event = {"identity": draft.identity, "type": "event", "evtName": rules.marker}
        draft.records.append({**event, "evtData": {}})
        draft.remote = {**remembered, "marker": rules.marker}


# ── Values: section 4 (limits are not reported in the answer) and 6 ─────────────────────────


def with_name(fields: Mapping[str, Value]) -> Mapping[str, Value]:
    """Add `Name`, first and last joined, where only those two are mapped."""
    if "Name" in fields or not ("First Name" in fields or "Last Name" in fields):
        return fields
    parts = [tidy(str(fields[one])) for one in ("First Name", "Last Name") if fields.get(one)]
    return {"Name": " ".join(parts) or None, **fields}


def shaped(name: str, value: Value, rules: Rules) -> tuple[Value, str]:
    """The value as sent (None: nothing), and what was lost on the way."""
    if name == "Phone" and value not in (None, ""):
        number = phone(str(value), rules.country)
        return number, "" if number else "not E.164, left out"
    if name == "DOB" and value not in (None, ""):
        return _birthday(str(value), rules)
    if isinstance(value, str):
        text = tidy(value)
        short = cut(text)
        return short or None, "" if short == text else f"cut to {BYTES} bytes"
    if isinstance(value, float) and not isfinite(value):
        return None, "not a number, left out"
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        return str(value), ""
    return value, ""


def _birthday(text: str, rules: Rules) -> tuple[Value, str]:
    try:
        day = date.fromisoformat(text)
    except ValueError:
        return None, "not a date, left out"
    if day.year < 1970 and not rules.negative_dates:
        return None, "before 1970, left out"
    return dollar_date(day), ""


def dollar_date(day: date) -> str:
    """`$D_` and the epoch of noon UTC: the same day from UTC-12 to UTC+11."""
    return f"$D_{int(datetime.combine(day, time(12), UTC).timestamp())}"


def phone(text: str, country: str = "") -> str | None:
    """E.164, or None: an unreadable number refuses the whole record (516)."""
    if _NUMBER.fullmatch(text):
        return text
    digits = re.sub(r"[\s().\-/\u00a0\u2010-\u2015]", "", text.replace("(0)", ""))
    if digits.startswith("00"):
        digits = f"+{digits[2:]}"
    elif country and not digits.startswith("+"):
        digits = f"+{country}{digits.removeprefix('0')}"
    return digits if _NUMBER.fullmatch(digits) else None


def tidy(text: str) -> str:
    """Without control characters and halves of surrogate pairs; a line break becomes a blank."""
    return text if text.isprintable() else _UNSEEN.sub("", _BLANKS.sub(" ", text))


def cut(text: str) -> str:
    """At most 512 bytes of UTF-8, never half a character."""
    if len(text) * 4 <= BYTES or len(raw := text.encode()) <= BYTES:
        return text
    return raw[:BYTES].decode(errors="ignore")


@lru_cache(maxsize=4096)
def name_fault(name: str, lists_property: str = "") -> str:
    """Why a property cannot be called that; '' if it can. Consent is never a mapped field."""
    if name == "Email" or name == lists_property or name.upper().startswith("MSG-"):
        return "is not a field"
    if not name or name != name.strip() or _UNSEEN.search(name) or _FORBIDDEN & set(name):
        return "is not allowed as a name"
    return "is too long a name" if len(name.encode()) > NAME_BYTES else ""


def identity_fault(identity: str) -> str:
    """Why this cannot be an identity; '' if it can (3.1: no surrounding blanks, ever)."""
    if not identity or identity != identity.strip():
        return "is empty" if not identity.strip() else "has blanks around it"
    unseen = not identity.isprintable() and _UNSEEN.search(identity)
    return "holds control characters" if unseen else ""


def email_fault(email: str) -> str:
    """Why this is no address, loosely (515 is the provider's judgement); '' if it may be one."""
    if not email:
        return "is empty"
    if len(email) > 255:
        return "is longer than 255 characters"
    if not email.isprintable() and _UNSEEN.search(email):
        return "holds control characters"
    return "" if _ADDRESS.fullmatch(email) else "is not an address"
