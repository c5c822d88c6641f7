"""Lists at Copernica: one field each, or one interest each of our own group. Reference, 3b, 3c, 6.

Fields and interests that do not bear our prefix, or are of another group, are the customer's.
"""

from __future__ import annotations

from collections.abc import Mapping

from syncd.errors import Indivisible, Unintelligible
from syncd.providers.copernica_calls import Calls
from syncd.providers.copernica_database import Database, Place
from syncd.providers.copernica_translate import (
    LONGEST_NAME,
    field_name,
    list_name,
    tidy,
)


class Lists:
    """What the core asks about lists."""

    def __init__(self, calls: Calls, place: Place) -> None:
        self._calls, self._place = calls, place

    @property
    def _prefix(self) -> str | None:
        return self._place.ours.prefix

    async def all(self) -> Mapping[str, str]:
        """Ids and names, read anew."""
        found = (await self._place.look(anew=True)).lists
        if (prefix := self._prefix) is None:
            return found
        return {one: list_name(prefix, name) for one, name in found.items()}

    async def create(self, name: str) -> str:
        """Read before, made, read again where the answer tells no id."""
        database = await self._place.look(anew=True)
        spelt = self._spelt(database, name)
        if self._prefix is None:
            path, kind = "interests", {"group": self._place.ours.group}
        else:
            path, kind = "fields", {"type": "integer", "value": "0"}
        told = await self._calls.make(f"{self._calls.base}/{path}", {"name": spelt, **kind})
        lists = (await self._place.look(anew=True)).lists
        made = told if told in lists else next((n for n, s in lists.items() if s == spelt), None)
        if made is None:
            raise Unintelligible("a list was made and is not shown")
        return made

    async def rename(self, remote_id: str, name: str) -> None:
        database = await self._place.look(anew=True)
        spelt = self._spelt(database, name, remote_id)
        if self._prefix is None:
            said = {"name": spelt, "group": self._place.ours.group}
            await self._calls.change("PUT", f"interest/{remote_id}", said)
        else:
            path = f"{self._calls.base}/field/{remote_id}"
            await self._calls.change("PUT", path, {"name": spelt})
        await self._place.look(anew=True)

    async def delete(self, remote_id: str) -> None:
        """Only what is ours; what is not there any more is deleted."""
        if remote_id not in (await self._place.look(anew=True)).lists:
            return
        own = f"interest/{remote_id}"
        path = own if self._prefix is None else f"{self._calls.base}/field/{remote_id}"
        await self._calls.change("DELETE", path)
        await self._place.look(anew=True)

    def _spelt(self, database: Database, name: str, mine: str = "") -> str:
        """The name as it is written there; refused where it could be taken for another."""
        sent = tidy(name).strip()
        if not sent:
            raise Indivisible("the list's name is empty")
        if self._prefix is None:
            spelt, others = sent, set(database.others)
        else:
            spelt = field_name(self._prefix, sent)
            others = set(database.fields)
        if len(spelt) > LONGEST_NAME and self._prefix is not None:
            raise Indivisible(f"the list's name is too long for a field ({LONGEST_NAME})")
        own = database.lists.get(mine, "")
        taken = {one.lower() for one in (*others, *database.lists.values()) if one != own}
        if spelt.lower() in taken:
            raise Indivisible(f"{spelt!r} is there already, as something else or in other letters")
        return spelt
