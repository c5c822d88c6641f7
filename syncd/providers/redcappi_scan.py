"""Paging through a RedCappi list: reference, section 4.

Nobody says whether `offset` counts rows or pages, nor from where: the first pages tell, by what
they have in common. A server may cut pages short. So reading never ends at a short page, only at an
empty one or one that brings nothing new.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from syncd.errors import Indivisible, Transient
from syncd.model import Answer, Page, Seen
from syncd.providers.redcappi_answers import is_gone, refusal, table
from syncd.providers.redcappi_push import Calls

LEAST = 10  # rows of a page: it is not halved further
HALVINGS = 3  # of one page, before the fault is passed on
STEP_BACK = 10  # rows read twice, for rows move up when others go meanwhile

Unit = Literal["rows", "pages"]
Rows = Mapping[str, str]  # contact id → address


@dataclass(slots=True)
class Place:
    """Where the reading of one list stands; `offset` is what is asked for next.

    base: the lowest offset that the server takes, or tells from the next one.
    last: the page before.  shrunk: the page size was changed, so offsets may mean other rows.
    """

    list_id: str
    size: int
    unit: Unit | None = None
    base: int = 0
    offset: int = 0
    last: Rows = field(default_factory=dict)
    shrunk: bool = False
    findings: dict[str, Any] = field(default_factory=dict)

    @property
    def is_second(self) -> bool:
        """Whether the next one is the second page of those that are counted."""
        return self.unit == "pages" and self.offset == self.base + 1

    def next(self, rows: Rows) -> Page | None:
        """Move on; the page's news, if it brought any."""
        fresh = {one: rows[one] for one in rows if one not in self.last}
        if self.unit == "rows":
            self.offset += len(rows) - min(STEP_BACK, len(rows) // 2)
        else:
            self.offset += 1
        self.last = rows
        return self.page(fresh) if fresh else None

    def page(self, rows: Rows) -> Page:
        seen = [Seen(one, rows[one] or None, lists=(self.list_id,)) for one in rows]
        cursor: dict[str, Any] = {"list": self.list_id, "offset": self.offset}
        if self.unit is not None:
            cursor |= {"unit": self.unit, "base": self.base, "size": self.size}
        return Page(seen, cursor, dict(self.findings))


class Scan:
    """One reading: of a list, or of all of them one after the other.

    unit, and what `findings` hold, were learned before (or are forced by an option).
    """

    def __init__(
        self, calls: Calls, unit: Unit | None, size: int, findings: Mapping[str, Any]
    ) -> None:
        self._calls, self._unit = calls, unit
        self._base = int(findings.get("offset_from", 0))
        self._size = min(size, int(findings.get("page_size", size)))
        self._most = 0  # rows of the longest page so far: what is shorter was not cut

    async def pages(
        self, list_id: str | None, cursor: Mapping[str, Any] | None
    ) -> AsyncIterator[Page]:
        """As `Scans.scan` says."""
        there = [list_id] if list_id is not None else sorted(await self._calls.lists(), key=int)
        start = str((cursor or {}).get("list", ""))
        for one in there[there.index(start) :] if start in there else there:
            place = Place(one, self._size, self._unit, self._base, self._base)
            if cursor and one == start and (unit := cursor.get("unit")):
                place.unit, place.size = unit, cursor["size"]
                place.base, place.offset = cursor["base"], cursor["offset"]
                if place.is_second:  # whether the first was cut short is to be seen again
                    place.offset = place.base
            async for page in self._list(place, alone=list_id is not None):
                yield page
            if place.findings:  # what one list taught holds for the next
                self._unit = place.findings.get("offset_unit", self._unit)
                self._base = place.base
                self._size = min(self._size, place.findings.get("page_size", self._size))

    async def _list(self, place: Place, *, alone: bool) -> AsyncIterator[Page]:
        """*alone*: a list that is gone is a fault, where nothing else was asked for."""
        rows = await self._first(place, alone)
        while place.unit is None and rows:
            first = rows
            rows = await self._discover(place, first)
            yield place.page(first)
        while rows:
            before, asked = place.last, place.offset
            if (news := place.next(rows)) is not None:
                yield news
            elif not self._is_base_twice(place, asked, before.keys() == rows.keys()):
                return
            rows = await self._second(place) if place.is_second else await self._page(place)

    @staticmethod
    def _is_base_twice(place: Place, asked: int, same: bool) -> bool:
        """Offsets that count from 1, with 0 taken as 1: the second page is no end."""
        if place.base or asked != 1 or not same:
            return False
        place.base = place.findings["offset_from"] = 1
        return True

    async def _second(self, place: Place) -> Rows:
        """The second page, where pages are counted.

        If the first was short, the server may have a limit, and yet count pages by the size asked
        for: rows between them would be left out. So pages are then asked for as long as it was.
        """
        short = self._most <= len(place.last) < place.size and len(place.last) > 1
        if short:
            place.size = len(place.last)
        rows = await self._page(place)
        if short and rows and rows.keys() != place.last.keys():
            place.findings["page_size"] = place.size
        return rows

    async def _first(self, place: Place, alone: bool) -> Rows:
        """The first page. Empty is believed when it is said twice, of a list that is there."""
        try:
            rows = await self._page(place)
        except Indivisible:
            if place.offset:
                raise
            place.base = place.offset = place.findings["offset_from"] = 1  # 0 is not taken
            rows = await self._page(place)
        if rows or place.offset > place.base or (rows := await self._page(place)):
            return rows
        if alone and place.list_id not in await self._calls.lists():
            raise Indivisible(f"list {place.list_id} is not there any more", status=404)
        return {}

    async def _discover(self, place: Place, first: Rows) -> Rows:
        """Read on until two pages tell the unit. Returns what to go on with; {}: that was all."""
        base = place.base
        for step in (1, 2):
            place.offset, place.shrunk = base + step, False
            rows = await self._page(place)
            if place.shrunk:  # pages of two sizes cannot be compared
                place.offset = base
                return await self._page(place)
            if rows.keys() != first.keys():
                break
        else:
            return {}  # the same for any offset: this is all there is
        if rows.keys() & first.keys():
            self._settle(place, first, "rows", base)
        else:
            self._settle(place, first, "pages", base + step - 1)
            if len(first) < place.size:
                return await self._second(place)
        return rows

    @staticmethod
    def _settle(place: Place, first: Rows, unit: Unit, base: int) -> None:
        place.unit, place.last = unit, first
        if len(first) < 2:
            return  # a single row may look like either
        place.findings["offset_unit"] = unit
        if unit == "pages" and base:
            place.base = place.findings["offset_from"] = base

    async def _page(self, place: Place) -> Rows:
        """One page; a smaller one where the server does not manage."""
        for left in range(HALVINGS, -1, -1):
            target = (
                f"/v1/contacts.json/{place.list_id}/contacts/"
                f"?offset={place.offset}&pagesize={place.size}"
            )
            try:
                rows = _rows(await self._calls.read(target))
                self._most = max(self._most, len(rows))
                return rows
            except Transient as fault:
                if not left or place.size <= LEAST or not _may_be_the_size(fault):
                    raise
            _halve(place)
        raise AssertionError("unreachable")


def _halve(place: Place) -> None:
    """Half the rows a page, from the same row on."""
    at = (place.offset - place.base) * place.size
    place.size, place.shrunk = max(place.size // 2, LEAST), True
    if place.unit == "pages":
        place.offset = place.base + at // place.size


def _may_be_the_size(fault: Transient) -> bool:
    """A 5xx, or no answer in time; not a refused connection, and not a limit on requests."""
    if fault.status is not None:
        return fault.status >= 500 or fault.status == 408
    return "cannot connect" not in fault.reason


def _rows(answer: Answer) -> Rows:
    if is_gone(answer):
        return {}
    if (refused := refusal(answer)) is not None:
        raise Indivisible(refused, status=answer.status)
    return table(answer, "email_address", "email")
