"""`fields[]` conditions as Copernica reads them: what it cannot read, it ignores."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl

from syncd.sandbox.copernica_account import Account, Profile

if TYPE_CHECKING:
    from syncd.sandbox.call import Call

SHAPE = re.compile(r"(?P<name>[^=!<>~]*)(?P<op>==|!=|<>|<=|>=|=~|!~|<|>)(?P<value>.*)", re.DOTALL)
PARAMETER = re.compile(r"fields\[\d*\]")


@dataclass(frozen=True, slots=True)
class Condition:
    """One that was understood."""

    name: str
    operator: str
    value: str

    def holds(self, profile: Profile) -> bool:
        known: str | int = profile.fields.get(self.name, "")
        value: str | int = self.value
        if self.name == "id":
            known, value = profile.id, int(self.value) if self.value.isdigit() else -1
        elif self.name == "modified":
            known = profile.modified
        elif self.name == "code":
            known = profile.secret
        if isinstance(known, str):
            known, value = known.lower(), str(value).lower()
        if self.operator in ("=~", "!~"):
            pattern = re.escape(str(value)).replace("%", ".*").replace("_", ".")
            return bool(re.fullmatch(pattern, str(known))) == (self.operator == "=~")
        match self.operator:
            case "==":
                return known == value
            case "!=" | "<>":
                return known != value
            case "<":
                return known < value  # type: ignore[operator]
            case ">":
                return known > value  # type: ignore[operator]
            case "<=":
                return known <= value  # type: ignore[operator]
        return known >= value  # type: ignore[operator]


def given(call: Call) -> list[str]:
    """The raw conditions of a call."""
    pairs = parse_qsl(call.raw_query, keep_blank_values=True)
    return [value for name, value in pairs if PARAMETER.fullmatch(name)]


def read(account: Account, text: str) -> Condition | None:
    """None: an unknown field or an unreadable condition, which matches everything."""
    found = SHAPE.fullmatch(text.strip())
    if found is None:
        return None
    column = account.column(found["name"])
    if column is not None:
        return Condition(column.name, found["op"], found["value"])
    special = found["name"].lower()
    return Condition(special, found["op"], found["value"]) if special in SPECIAL else None


SPECIAL = ("id", "code", "modified")
