"""What a Copernica account holds: one database of fields, interests and profiles."""

from __future__ import annotations

import itertools
import re
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from zoneinfo import ZoneInfo

ZONE = ZoneInfo("Europe/Amsterdam")
TYPES = ("text", "email", "integer", "float", "date", "empty_date", "datetime", "empty_datetime",
         "phone_fax", "phone_gsm", "select", "big", "foreign_key")  # fmt: skip
ONCE = ("email", "phone_fax", "phone_gsm")
NAME = re.compile(r"[A-Za-z0-9_]+")
TEXTS = ("first_name", "last_name", "company", "phone", "address", "city", "state", "zip",
         "country")  # fmt: skip


class Refused(Exception):
    """The call is answered with 400 and this message."""


@dataclass(slots=True)
class Column:
    """A field of the database."""

    id: int
    name: str
    type: str = "text"
    value: str = ""
    length: int = 255
    index: bool = False
    displayed: bool = True

    @property
    def choices(self) -> list[str]:
        return [one.strip().removesuffix("*") for one in self.value.splitlines()]

    @property
    def default(self) -> str:
        if self.type == "select":
            marked = [one.strip()[:-1] for one in self.value.splitlines() if one.endswith("*")]
            return marked[0] if marked else ""
        return self.cast(self.value)

    def cast(self, value: Any) -> str:
        """As PHP would store it."""
        if isinstance(value, bool):
            value = "1" if value else ""
        text = "" if value is None or isinstance(value, dict | list) else str(value)
        match self.type:
            case "integer" | "foreign_key":
                found = re.match(r"\s*-?\d+", text)
                return str(int(found[0])) if found else "0"
            case "float":
                found = re.match(r"\s*-?\d+(\.\d+)?", text)
                return found[0].strip() if found else "0"
            case "select":
                return text if text in self.choices else ""
            case "date" | "empty_date":
                day = text if re.fullmatch(r"\d{4}-\d\d-\d\d", text) else ""
                return day or ("0000-00-00" if self.type == "date" else "")
            case "big":
                return text
        return text[: self.length]

    def loses(self, value: Any) -> bool:
        """Whether storing makes something else of it: a client is to validate before."""
        return bool(value) and self.cast(value) != str(value)

    def shown(self) -> dict[str, Any]:
        return {
            "ID": str(self.id), "name": self.name, "type": self.type, "value": self.value,
            "displayed": self.displayed, "ordered": False, "length": str(self.length),
            "textlines": "0", "hidden": False, "index": self.index,
        }  # fmt: skip


@dataclass(slots=True)
class Profile:
    """One row."""

    id: int
    fields: dict[str, str]
    interests: set[str] = field(default_factory=set)
    secret: str = "e5903b43c08a"  # noqa: S105  the reference's own
    created: str = ""
    modified: str = ""
    removed: str | None = None
    visible: float = 0.0  # to conditions, from then on
    writes: int = 0


def clock() -> str:
    return datetime.now(ZONE).strftime("%Y-%m-%d %H:%M:%S")


class Account:
    """The data, and who of them was mailed against a no."""

    def __init__(self, first: dict[str, int], behaviour: dict[str, Any]) -> None:
        self.database, self.name = first["database"], "Contacts"
        self._fields, self._interests = itertools.count(first["field"]), itertools.count(3053)
        self._profiles = itertools.count(first["profile"])
        self.columns: dict[int, Column] = {}
        self.interests: dict[int, tuple[str, str]] = {}
        self.profiles: dict[int, Profile] = {}
        self.behaviour = behaviour
        self.said_no: dict[int, str] = {}
        self.turned_on: list[dict[str, Any]] = []
        self.lost_writes: list[int] = []
        self.add_column("email", "email")
        for name in TEXTS:
            self.add_column(name)
        self.add_column("birth_date", "empty_date")
        self.add_column("newsletter", "select", "yes*\r\nno")

    # ── Definitions ─────────────────────────────────────────────────────────────────────────

    def column(self, name: str) -> Column | None:
        """Names match in any letters."""
        low = name.lower()
        return next((one for one in self.columns.values() if one.name.lower() == low), None)

    def add_column(
        self, name: str, kind: str = "text", value: str = "", length: int = 255, index: bool = False
    ) -> Column:
        if not NAME.fullmatch(name) or name.lower() in ("id", "code") or self.column(name):
            raise Refused("Failed to create field")
        if kind not in TYPES or (kind in ONCE and self._has(kind)):
            raise Refused("Failed to create field")
        made = Column(next(self._fields), name, kind, value, length, index)
        self.columns[made.id] = made
        for one in self.profiles.values():
            one.fields[name] = made.default
        return made

    def _has(self, kind: str) -> bool:
        return any(one.type == kind for one in self.columns.values())

    def rename_column(self, column: Column, name: str) -> None:
        other = self.column(name)
        if not NAME.fullmatch(name) or (other is not None and other is not column):
            raise Refused("Failed to update field")
        for one in self.profiles.values():
            one.fields[name] = one.fields.pop(column.name)
        column.name = name

    def drop_column(self, column: Column) -> None:
        del self.columns[column.id]
        for one in self.profiles.values():
            one.fields.pop(column.name, None)

    def add_interest(self, name: str, group: str) -> int:
        number = next(self._interests)
        self.interests[number] = (name, group)
        return number

    def rename_interest(self, number: int, name: str, group: str) -> None:
        old, _ = self.interests[number]
        self.interests[number] = (name, group)
        for one in self.profiles.values():
            if old in one.interests:
                one.interests = {name if each == old else each for each in one.interests}

    # ── Profiles ────────────────────────────────────────────────────────────────────────────

    def live(self) -> Iterator[Profile]:
        return (one for one in self.profiles.values() if one.removed is None)

    def add(self, given: dict[str, Any], visible: float = 0.0) -> Profile:
        fields = {one.name: one.default for one in self.columns.values()}
        now = clock()
        number = next(self._profiles)
        made = Profile(number, fields, created=now, modified=now, visible=time.time() + visible)
        self.profiles[made.id] = made
        self.store(made, given)
        return made

    def store(self, profile: Profile, given: dict[str, Any]) -> None:
        """Unknown names are dropped; `modified` moves only when a value changes."""
        profile.writes += 1
        if profile.removed is not None:
            self.lost_writes.append(profile.id)
            return
        for name, value in given.items():
            column = self.column(name)
            if column is not None and profile.fields[column.name] != (text := column.cast(value)):
                profile.fields[column.name] = text
                profile.modified = clock()

    def remove(self, profile: Profile) -> None:
        profile.removed = clock()
        profile.fields = dict.fromkeys(profile.fields, "")
        profile.interests = set()

    def is_off(self, profile: Profile) -> bool:
        off = self.behaviour["fields"]
        return bool(off) and all(profile.fields.get(n) == value for n, value in off.items())

    def mailable(self, profile: Profile) -> bool:
        return bool(profile.fields.get("email")) and not self.is_off(profile)

    def watch(self, profile: Profile, was_off: bool, request: int) -> None:
        """An API write that turns mail on again for somebody who said no."""
        if was_off and not self.is_off(profile) and profile.id in self.said_no:
            said = self.said_no.pop(profile.id)
            self.turned_on.append({"profile": profile.id, "said": said, "request": request})

    def duplicates(self, name: str) -> list[dict[str, Any]]:
        column = self.column(name)
        if column is None:
            return []
        times = Counter(one.fields[column.name].lower() for one in self.live())
        return [{"field": name, "value": v} for v, n in times.items() if v and n > 1]
