"""What the database is like: its fields, its interests, what it does when somebody unsubscribes.

The API drops names it does not know without a word, so nothing is written that was not just read
here. Only the key field, the mark beside it and the lists are ours to make. Reference, 3b, 3c, 3f.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from syncd.errors import Indivisible, Misconfigured, Transient, Unintelligible
from syncd.providers.copernica_answers import Profile, is_number, page, shaped
from syncd.providers.copernica_calls import Calls
from syncd.providers.copernica_translate import LONGEST_KEY, Field, contact_of, field_of

FRESH = 60.0  # seconds that what was read is believed
MENU = (
    'Profiles > (the database) > Database management > "unsubscribe behaviour" in the Publisher, or'
    " Database & Profiles > (the database) > cog wheel in the Marketing Suite"
)


@dataclass(frozen=True, slots=True)
class Ours:
    """What of the database belongs to syncd, and what it is told by options."""

    key: str
    subscribed: Mapping[str, str]
    prefix: str | None  # of list fields; None: lists are interests
    group: str

    @property
    def mark(self) -> str:
        """The field that says that mail was turned off by us, not by the person."""
        return f"{self.key}_off"


@dataclass(frozen=True, slots=True)
class Database:
    """One reading of it. off: the values that unsubscribing writes; lists: id → name."""

    id: str
    fields: Mapping[str, Field]
    off: Mapping[str, str]
    lists: Mapping[str, str]  # of a list field its own name; of an interest, too
    ours: Ours
    behavior: str = "update"
    others: Mapping[str, str] = field(default_factory=dict)  # interests of other groups → group

    @property
    def email(self) -> str:
        return next((one.name for one in self.fields.values() if one.type == "email"), "")

    def is_off(self, profile: Profile) -> bool:
        """Unsubscribed: every one of these values is in the profile."""
        return bool(self.off) and all(
            _alike(profile.get(name), value) for name, value in self.off.items()
        )

    def is_ours(self, profile: Profile) -> bool:
        """Whether it was us who turned mail off."""
        return profile.get(self.ours.mark) == "1"

    def lists_of(self, profile: Profile) -> Sequence[str]:
        """Ids of our lists that the profile is in."""
        if self.ours.prefix is None:
            return [one for one, name in self.lists.items() if name in profile.interests]
        return [
            one for one, name in self.lists.items() if self.fields[name].is_on(profile.get(name))
        ]

    def contact(self, profile: Profile) -> str | None:
        return contact_of(key) if (key := profile.get(self.ours.key)) else None

    def on(self) -> dict[str, str]:
        """What is written to turn mail on."""
        return {**self.ours.subscribed, self.ours.mark: "0"}

    @property
    def begins_on(self) -> bool:
        """Whether a new profile is subscribed by the fields' own defaults."""
        said = self.ours.subscribed.items()
        return all(_alike(self.fields[name].default, value) for name, value in said)

    # ── What is wrong with it ───────────────────────────────────────────────────────────────

    def faults(self, mapped: Iterable[str]) -> list[tuple[str, str, str]]:
        """Subject, fault, remedy: each stops the destination."""
        found = []
        if not self.email:
            says = "the database has no field of the type email"
            found.append(("fields", says, "make one there: it is the contact's address"))
        missing = sorted(set(mapped) - set(self.fields))
        if missing:
            says = f"mapped fields are not in the database: {', '.join(missing)}"
            remedy = (
                "make them there, or mend `fields` of the destination (spelling and case count);"
                f" there are: {', '.join(sorted(self.fields))}"
            )
            found.append(("fields", says, remedy))
        taken = {self.email, self.ours.key, self.ours.mark, *self.off}
        taken |= set() if self.ours.prefix is None else set(self.lists.values())
        if both := sorted(set(mapped) & taken - {""}):
            says = f"mapped fields are not to be mapped: {', '.join(both)}"
            remedy = "take them out of `fields`: syncd, or unsubscribing, writes them itself"
            found.append(("fields", says, remedy))
        return found + self._unsubscribing()

    def _unsubscribing(self) -> list[tuple[str, str, str]]:
        if self.behavior != "update" or not self.off:
            lost = "look like deletions" if self.behavior == "remove" else "are lost"
            says = f"unsubscribe behaviour is {self.behavior!r}: opt-outs {lost}"
            return [("unsubscribe", says, f"set it to change a field's value: {MENU}")]
        if strange := sorted(set(self.off) - set(self.fields)):
            says = f"unsubscribing writes fields that are not there: {', '.join(strange)}"
            return [("unsubscribe", says, f"set it anew: {MENU}")]
        said = self.ours.subscribed
        changed = [n for n in self.off if n in said and not _alike(said[n], self.off[n])]
        if not changed or set(said) - set(self.off):
            says = "options.subscribed_values does not undo what unsubscribing writes"
            remedy = f"say there what {', '.join(sorted(self.off))} hold for who is subscribed"
            return [("unsubscribe", says, f"{remedy} (other fields have no place there)")]
        return []


class Place:
    """The database as this process knows it: read anew each minute, completed before writing."""

    def __init__(self, calls: Calls, ours: Ours) -> None:
        self.calls, self.ours = calls, ours
        self.mapped: set[str] = set()
        self._turn = asyncio.Lock()
        self._known: Database | None = None
        self._read_at = 0.0

    async def look(self, *, anew: bool = False) -> Database:
        """What is there, whatever is wrong with it."""
        async with self._turn:
            known = self._known
            if known is None or anew or time.monotonic() - self._read_at > FRESH:
                known = await self._read()
            return known

    async def reading(self) -> Database:
        """Fit to be read. Misconfigured where opt-outs could not be seen."""
        return self._fit(await self.look(), ())

    async def writing(self, mapped: Iterable[str] = ()) -> Database:
        """Fit to be written: nothing mapped is missing, what is ours is there."""
        self.mapped |= set(mapped)
        found = self._fit(await self.look(), self.mapped)
        wanted = (self.ours.key, self.ours.mark)
        if all(name in found.fields for name in wanted):
            return found
        async with self._turn:
            found = await self._read()  # by now somebody else may have made them
            for name in wanted:
                if name not in found.fields:
                    await self._make(name)
                    found = await self._read()
        if lost := [name for name in wanted if name not in found.fields]:
            raise Unintelligible(f"fields that were made are not there: {', '.join(lost)}")
        return found

    def _fit(self, found: Database, mapped: Iterable[str]) -> Database:
        if faults := found.faults(mapped):
            raise Misconfigured("; ".join(f"{says}: {remedy}" for _, says, remedy in faults))
        return found

    async def _make(self, name: str) -> None:
        """A field of ours. Refused: perhaps another worker has just made it; the reading tells."""
        text = {"type": "text", "value": "", "length": str(LONGEST_KEY), "index": True}
        flag = {"type": "integer", "value": "0", "index": False}
        kind = text if name == self.ours.key else flag
        try:
            said = {"name": name, "displayed": False, **kind}
            await self.calls.make(f"{self.calls.base}/fields", said)
        except Indivisible as fault:
            if name not in (await self._read()).fields:
                raise Misconfigured(f"field {name} cannot be made: {fault.reason}") from fault

    async def _read(self) -> Database:
        calls, ours = self.calls, self.ours
        told = shaped(await calls.must_get(calls.base), "ID")
        if not is_number(number := str(told["ID"])):
            raise Transient("the database does not tell its id")
        calls.database = number
        rows = await self._whole(told, "fields")
        fields = {one.name: one for one in map(field_of, rows)}
        behaviour = shaped(await calls.must_get(f"{calls.base}/unsubscribe"))
        values = behaviour.get("fields")
        spelt = {name.lower(): name for name in fields}
        off = values.items() if isinstance(values, Mapping) else ()
        lists, others = {}, {}
        if ours.prefix is not None:
            start = ours.prefix.lower()
            lists = {f.id: f.name for f in fields.values() if f.name.lower().startswith(start)}
        else:
            for row in await self._whole(told, "interests"):
                row = shaped(row, "ID", "name")
                name, group = str(row["name"]), str(row.get("group") or "")
                if group == ours.group:
                    lists[str(row["ID"])] = name
                else:
                    others[name] = group
        self._read_at = time.monotonic()
        self._known = Database(
            calls.database, fields,
            {str(spelt.get(n.lower(), n)): str(v) for n, v in off}, lists, ours,
            str(behaviour.get("behavior") or "nothing"), others,
        )  # fmt: skip
        return self._known

    async def _whole(self, told: Mapping[str, Any], name: str) -> Sequence[Mapping[str, Any]]:
        """A collection inside the database's object; read apart where it is not all of it."""
        inside = told.get(name)
        if isinstance(inside, Mapping):
            rows, _, total = page(inside)
            if total is not None and total <= len(rows):
                return rows
        return await self.calls.rows(f"{self.calls.base}/{name}")


def _alike(one: str, other: str) -> bool:
    return one.strip().lower() == other.strip().lower()
