"""CleverTap's rules for one record of an upload: what it refuses, what it silently mends.

`refusal` names the one reason that the answer gives. `cleaned` does what happens without a
word (names dropped, values cut) and reports each case to *note*, for a client is expected
to check these things itself.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

Note = Callable[[str, str], None]
Refusal = tuple[int, str]

IDENTIFIERS = ("identity", "objectId", "FBID", "GPID")
RECORD_KEYS = {*IDENTIFIERS, "type", "ts", "profileData", "evtName", "evtData"}
SYSTEM = frozenset(
    [
        "Name",
        "Email",
        "Phone",
        "Gender",
        "Employed",
        "Married",
        "Education",
        "Age",
        "DOB",
        "Photo",
        "MSG-email",
        "MSG-sms",
        "MSG-push",
        "MSG-whatsapp",
    ]
)
FLAGS = frozenset(name for name in SYSTEM if name.startswith("MSG-"))
OPERATIONS = frozenset({"$add", "$remove", "$set", "$delete", "$incr", "$decr"})
RESERVED_EVENTS = frozenset({"App Launched", "Channel Unsubscribed", "Notification Sent"})
MOST_NAMES, LONGEST_NAME, LONGEST_VALUE, MOST_VALUES = 256, 120, 512, 100

_email = re.compile(r"[^@\s]+@[^@\s]+\.[^@\s.]+").fullmatch
_phone = re.compile(r"\+[1-9][0-9]{6,14}").fullmatch
_date = re.compile(r"\$D_-?[0-9]{1,12}").fullmatch
_forbidden = re.compile(r"""[%><!|&.:;$'"\\#]""").search


def is_email(value: Any) -> bool:
    """Loosely an address."""
    return isinstance(value, str) and _email(value) is not None


def is_phone(value: Any) -> bool:
    """`+`, country code, number."""
    return isinstance(value, str) and _phone(value) is not None


def is_age(value: Any) -> bool:
    """An integer, or its digits."""
    if isinstance(value, str):
        return value.isascii() and value.isdigit()
    return type(value) is int and value >= 0


def one_of(*allowed: str) -> Callable[[Any], bool]:
    """A check for one of a few words."""
    return lambda value: isinstance(value, str) and value in allowed


# In the order in which the live API was seen to report them; Gender's place is not recorded.
CHECKS: tuple[tuple[str, Callable[[Any], bool], int, str], ...] = (
    ("Email", is_email, 515, "Email is not valid"),
    ("Phone", is_phone, 516, "Phone is not valid"),
    ("Employed", one_of("Y", "N"), 517, "Employed needs to be Y/N"),
    (
        "Education",
        one_of("School", "College", "Graduate"),
        518,
        "Education needs to be School/College/Graduate",
    ),
    ("Married", one_of("Y", "N"), 519, "Married needs to be Y/N"),
    ("Age", is_age, 520, "Age is invalid"),
    ("Gender", one_of("M", "F"), 514, "Gender is not valid"),
)


def refusal(record: Any, note: Note) -> Refusal | None:
    """The first reason to refuse this record, or None."""
    if not isinstance(record, dict) or record.get("type") not in ("profile", "event"):
        note("record shape", "neither profile nor event")
        return 524, "Record is neither event nor profile"
    if not record.keys() <= RECORD_KEYS:
        unknown = record.keys() - RECORD_KEYS
        note("record shape", f"unknown key {min(unknown)}")
    if wrong := _misnamed(record, note):
        return wrong
    ts = record.get("ts")
    if ts is not None and (type(ts) is not int or not 0 < ts < 10**11):
        return 525, "ts is not epoch"
    if record["type"] == "event":
        return _event_refusal(record, note)
    data = record.get("profileData")
    if not isinstance(data, dict):
        note("record shape", "profileData is not an object")
        return 512, "Structure is not valid"
    for name, valid, code, text in CHECKS:
        if data.get(name) is not None and not valid(data[name]):
            return code, text
    return None


def _misnamed(record: Mapping[str, Any], note: Note) -> Refusal | None:
    """What is wrong with the way the record names its profile."""
    given = [name for name in IDENTIFIERS if record.get(name) not in (None, "")]
    if not given:
        note("identifier", "missing")
        return 523, "Identity is missing"
    if len(given) > 1:
        note("identifier", f"more than one: {', '.join(given)}")
        return 523, "More than one identity"
    value = record[given[0]]
    if not isinstance(value, str):
        note("identifier", f"not a string: {value!r}")
    elif value != value.strip():
        note("identifier", f"surrounding blanks: {value!r}")
    return None


def _event_refusal(record: Mapping[str, Any], note: Note) -> Refusal | None:
    name, data = record.get("evtName"), record.get("evtData", {})
    if not isinstance(name, str) or not name:
        note("record shape", "evtName missing")
        return 509, "Event name is missing"
    if not isinstance(data, dict):
        note("record shape", "evtData is not an object")
        return 512, "Structure is not valid"
    if name in RESERVED_EVENTS:
        note("reserved event", name)
        return 513, "Event name is reserved"
    return (522, "Too many properties") if len(data) > 256 else None


def echoed(record: Any) -> Any:
    """The record as a refusal shows it: not as it was sent."""
    if not isinstance(record, dict):
        return record
    echo = dict(record)
    if "identity" in echo:
        echo["identity"] = str(echo["identity"])
    if isinstance(data := echo.get("profileData"), dict):
        data = echo["profileData"] = dict(data)
        if is_phone(data.get("Phone")):
            data["Phone"] = int(data["Phone"][1:])
        if "identity" in data:
            data["identity"] = str(data["identity"])
    return echo


def cleaned(data: Mapping[str, Any], names: set[str], note: Note, learn: bool) -> dict[str, Any]:
    """The properties that CleverTap would keep of *data*, as it would keep them.

    *names* are the account's custom property names; new ones are added if *learn*.
    """
    kept: dict[str, Any] = {}
    for name, value in data.items():
        if name not in names and name not in SYSTEM and not _admitted(name, names, note, learn):
            continue
        if name in FLAGS:
            if isinstance(value, bool):
                kept[name] = value
            else:
                note("flag not boolean", f"{name}: {value!r}")
        elif type(value) is str and value and value[0] != "$" and len(value) <= 128:
            kept[name] = value  # the usual case: at most 512 bytes in any script
        elif (value := _kept_value(name, value, note)) is not None:
            kept[name] = value
    dob = data.get("DOB")
    if dob is not None and not (isinstance(dob, str) and _date(dob)):
        note("date", f"DOB is not $D_<epoch>: {dob!r}")
    return kept


def _admitted(name: str, names: set[str], note: Note, learn: bool) -> bool:
    if not name or len(name.encode()) > LONGEST_NAME or _forbidden(name):
        note("property name", name)
        return False
    if len(names) >= MOST_NAMES:
        note("too many property names", name)
        return False
    if learn:
        names.add(name)
    return True


def _kept_value(name: str, value: Any, note: Note) -> Any:
    match value:
        case None | "":
            note("empty value", name)
        case str():
            if value.startswith("$D_") and not _date(value):
                note("date", f"{name}: {value!r}")
            return cut(name, value, note)
        case bool() | int() | float():
            return value
        case dict() if len(value) == 1 and next(iter(value)) in OPERATIONS:
            return _kept_operation(name, value, note)
        case _:
            note("property value", f"{name}: neither scalar nor one operation")
    return None


def _kept_operation(name: str, value: dict[str, Any], note: Note) -> dict[str, Any] | None:
    (verb, operand), *_ = value.items()
    if verb == "$delete":
        right = operand is True
    elif verb in ("$incr", "$decr"):
        right = type(operand) in (int, float)
    else:
        right = isinstance(operand, list) and all(type(item) is str and item for item in operand)
        if right:
            return {verb: [cut(name, item, note) for item in operand]}
    if not right:
        note("operation", f"{name}: {verb} with {operand!r}")
        return None
    return value


def cut(name: str, value: str, note: Note) -> str:
    """At most 512 bytes of the value, whole characters only."""
    if len(value) <= LONGEST_VALUE // 4 or len(coded := value.encode()) <= LONGEST_VALUE:
        return value
    note("value too long", f"{name}: {len(coded)} bytes")
    return coded[:LONGEST_VALUE].decode(errors="ignore")
