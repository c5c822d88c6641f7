"""Whether, and how, an account can be read: probe, search, pages. Reference, sections 3 to 5.

Nothing about reading is documented, and it harms nobody: so it is always tried, and what does not
work is named together with the setting to correct. What has worked once is not doubted any more: a
strange answer is then a passing fault.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence

from syncd.errors import Misconfigured, Transient
from syncd.model import Answer
from syncd.providers.clevercampaign_answers import (
    Record,
    email_of,
    is_page,
    record_id,
    records,
    words,
)
from syncd.providers.clevercampaign_calls import Calls

TRIES = 3  # strange answers in a row, before a road counts as closed
NOBODY = "syncd-probe@nobody.invalid"


class Account:
    """What is known of one account.

    search, pages, items: whether contacts can be found by address, paged through, read by id; None
    while nobody knows.  why: of each that does not work, what was answered and what to correct.
    """

    def __init__(self, calls: Calls) -> None:
        self._calls, self._options = calls, calls.options
        self.search: bool | None = None if calls.options.find_param else False
        self.pages: bool | None = None
        self.items: bool | None = None
        self.why: dict[str, str] = {}
        if self.search is False:
            self.why["search"] = "contacts cannot be searched: find_param is empty"
        self._turn = asyncio.Lock()

    @property
    def can_be_read(self) -> bool:
        """Whether there is any way to see who is there."""
        return bool(self.search or self.pages)

    async def know(self) -> None:
        """Find out what is not known yet; errors of the provider pass through."""
        async with self._turn:
            if self.pages is None:
                await self._try_pages()
            if self.search is None:
                await self._matching(NOBODY)

    async def _try_pages(self) -> None:
        try:
            await self.page(self._options.contact_path, self._options.first_page, 1)
        except Misconfigured as err:
            self.close("pages", err.reason)
        else:
            self.pages = True

    def close(self, road: str, why: str) -> None:
        """This way of reading does not work."""
        setattr(self, road, False)
        self.why[road] = why

    async def page(self, path: str, number: int, size: int | None = None) -> Sequence[Record]:
        """One page. Misconfigured where that is no page at all, and never was."""
        answer = Answer(0, {}, b"")
        for _ in range(TRIES):
            answer = await self._calls.page(path, number, size)
            found = records(answer, self._options) if answer.status < 300 else None
            if found is not None:
                return found
            if answer.status in (404, 410) and number > self._options.first_page:
                return []
            if path == self._options.contact_path and self.pages:
                raise Transient(f"a page could not be read: {_said(answer)}", status=answer.status)
        raise Misconfigured(f"GET /{path}: {_said(answer)}", status=answer.status)

    # ── One contact ─────────────────────────────────────────────────────────────────────────

    async def at(self, email: str) -> Sequence[Record] | None:
        """The records of an address; None where accounts like this cannot be searched."""
        await self.know()
        return await self._matching(email) if self.search else None

    async def _matching(self, email: str) -> Sequence[Record] | None:
        """Search; an item counts only if its address is the one that was asked for."""
        o, answer = self._options, Answer(0, {}, b"")
        for _ in range(TRIES):
            answer = await self._calls.read(o.contact_path, **{o.find_param: email})
            found = records(answer, o) if answer.status < 300 else None
            if answer.status == 404 and self.pages:  # the path is known: nobody matches
                found = []
            if found is not None:
                return self._checked(email, found)
            if self.search:
                raise Transient(f"a search failed: {_said(answer)}", status=answer.status)
        self.close("search", f"find_param {o.find_param!r} is not taken: {_said(answer)}")
        return None

    def _checked(self, email: str, found: Sequence[Record]) -> Sequence[Record] | None:
        same = [one for one in found if email_of(one, self._options) == email.lower()]
        if found and not same:
            self.close("search", f"find_param {self._options.find_param!r} is ignored there")
            return None
        self.search = True
        return sorted(same, key=self._rank)

    def _rank(self, record: Record) -> tuple[int, str]:
        """The lowest id first, a number or not: of doubles it is the one that is kept."""
        number = record_id(record, self._options) or ""
        return len(number), number

    async def by_id(self, contact_id: str) -> Record | None:
        """One contact; None: it is not there, or contacts cannot be read by id (see `items`)."""
        answer = Answer(0, {}, b"")
        for _ in range(TRIES if self.items is None else bool(self.items)):
            answer = await self._calls.contact(contact_id)
            found = records(answer, self._options) if answer.status < 300 else None
            if found and record_id(found[0], self._options) == contact_id:
                self.items = True
                return found[0]
            if answer.status in (404, 405, 410) or found is not None:
                return None
        if self.items:
            raise Transient(f"a contact could not be read: {_said(answer)}", status=answer.status)
        self.items = False
        return None

    async def reads_items(self) -> bool:
        """Whether contacts can be read by id: tried on somebody who is there."""
        await self.know()
        if self.items is None and self.pages:
            some = await self.page(self._options.contact_path, self._options.first_page, 1)
            if some and (one := record_id(some[0], self._options)) is not None:
                await self.by_id(one)
        return bool(self.items)

    # ── Collections ─────────────────────────────────────────────────────────────────────────

    async def paged(
        self, path: str, start: int | None = None
    ) -> AsyncIterator[tuple[int, Sequence[Record]]]:
        """The pages from *start* on, with the number of the next; ended by what brings nothing new.

        Never by a short page: a server may have a limit of its own (4).
        """
        o = self._options
        number = o.first_page if start is None else start
        first: set[str | None] = set()
        last: set[str | None] = set()
        while found := await self.page(path, number):
            ids = {record_id(one, o) for one in found}
            if ids <= last | first:
                if number == o.first_page + 1 and len(ids) > 1:
                    await self._must_take_pages(path, found)
                return
            first, last, number = first or ids, ids, number + 1
            yield number, found
            if not o.page_param:
                return

    async def _must_take_pages(self, path: str, same: Sequence[Record]) -> None:
        """The second page is the first: was that all, or does the server not take page numbers?

        Then the account may hold more than it shows, and nobody could be called absent.
        """
        o = self._options
        found = await self.page(path, o.first_page + 1, 1)
        if len(found) == 1 and record_id(found[0], o) != record_id(same[0], o):
            return
        why = (
            f"GET /{path}: {o.page_param!r} is ignored, the same {len(same)} come again: correct "
            "page_param and size_param, or set page_param to '' if one answer holds everything"
        )
        if path == o.contact_path:
            self.close("pages", why)
        raise Misconfigured(why)


def _said(answer: Answer) -> str:
    if answer.status < 300:
        return "a web page" if is_page(answer) else "neither contacts nor none"
    return f"{answer.status} {words(answer)}"
