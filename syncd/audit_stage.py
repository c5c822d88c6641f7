"""Reading a provider for an audit: pages, then contacts one by one, into `audited`.

Nothing is written but that table. A page that fails for the moment is asked for again from where
the reading stood.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, TypeVar

import orjson
import structlog

from syncd import sql
from syncd.bells import first_of
from syncd.db import Pool, array_literal
from syncd.desired import Desired
from syncd.errors import Fenced, Indivisible, ProviderError, Transient, Unintelligible
from syncd.model import Can, Change, Page, Person, Seen, Started, Verb
from syncd.outcomes import backoff

log = structlog.get_logger()

PATIENCE = 60.0  # seconds without any answer, before the audit is given up
LONGEST_EXPORT = 1800.0  # seconds that a list may take to be written out
UNWRITTEN = (Indivisible, Unintelligible)  # an export that failed, or that nobody can read
BLOCK = 1000  # contacts of an export written down at once
CHUNK = 20  # contacts read one by one between two writes, by each of a few
AT_ONCE = 4  # who read them; the meter decides how many requests leave

T = TypeVar("T")


@dataclass(slots=True)
class Stage:
    """What one audit has read."""

    pool: Pool
    desired: Desired
    adapter: Any
    run_id: int
    stop: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def _me(self) -> int:
        return self.desired.destination_id

    async def read_pages(self, lists: Sequence[str | None]) -> None:
        """Page through these remote lists; None: through the account."""
        for one in lists:
            cursor: Mapping[str, Any] | None = None
            since, failures = time.monotonic(), 0
            while True:
                try:
                    asked = await self._now()
                    async for page in self.adapter.scan(one, cursor):
                        await self._meet_page(page, one, asked)
                        cursor, since, failures = page.cursor, time.monotonic(), 0
                        asked = await self._now()  # the next one is asked for only now
                    break
                except (ProviderError, Fenced) as error:
                    failures += 1
                    await self._wait_out(error, since, failures)

    async def _now(self) -> Any:
        return await self.pool.fetchval(sql.audit.now)

    async def _meet_page(self, page: Page, list_id: str | None, asked: Any) -> None:
        """Records of a page, each once: a list that was asked for stands in for silence."""
        records: dict[str, Seen] = {}
        for one in page.records:
            lists = {*one.lists, *(() if list_id is None else (list_id,))}
            records[one.remote_id] = replace(one, lists=sorted(lists))
        await self._meet(list(records.values()), list_id, asked, sure=False)

    async def read_exports(self, lists: Sequence[str]) -> None:
        """Fields of everybody whom pages of these lists have shown. A list that cannot be had so
        is left to `read_singly`."""
        for one in lists:
            try:
                told = await self._exported(one)
            except UNWRITTEN as fault:
                log.warning("a list is read contact by contact", reason=fault.reason)
                continue
            pairs = sorted(told.items())
            for start in range(0, len(pairs), BLOCK):
                emails, fields = zip(*pairs[start : start + BLOCK], strict=True)
                texts = [_json(one) for one in fields]
                await self.pool.execute(sql.audit.fill, self.run_id, self._me, list(emails), texts)

    async def _exported(self, list_id: str) -> Mapping[str, Mapping[str, Any]]:
        receipt: Mapping[str, Any] | None = None
        ends = time.monotonic() + LONGEST_EXPORT
        while True:
            told = await self.patiently(partial(self.adapter.export, list_id, receipt), UNWRITTEN)
            if not isinstance(told, Started):
                return told  # type: ignore[no-any-return]
            receipt = told.receipt
            if time.monotonic() > ends:
                raise Indivisible("the export does not come to its end")
            await first_of(self.stop, timeout=told.look_after)
            if self.stop.is_set():
                raise Transient("told to stop while a list was being written out")

    async def read_chosen(self, ids: Sequence[str]) -> bool:
        """Read these alone who were not yet; False where there is nobody."""
        rows = await self.pool.fetch(sql.audit.to_read_again, self._me, self.run_id, ids)
        asked = [self._question(row) for row in rows]
        for start in range(0, len(asked), CHUNK * AT_ONCE):
            some = asked[start : start + CHUNK * AT_ONCE]
            await self._each([some[n : n + CHUNK] for n in range(0, len(some), CHUNK)])
        return bool(asked)

    async def read_singly(self, met_only: bool) -> None:
        """Read everybody whole who should be there, and is not told of in full by now; *met_only*:
        and was met in a page."""
        last = ""
        while True:
            rows = await self.pool.fetch(
                sql.audit.to_read, self._me, self.run_id, last, CHUNK * AT_ONCE
            )
            if not rows:
                return
            last = rows[-1]["contact_id"]
            there = [row for row in rows if row["remote_id"] is not None or not met_only]
            chosen = [row for row in there if not row["told"]]
            asked = [self._question(row) for row in chosen]
            chunks = [asked[n : n + CHUNK] for n in range(0, len(asked), CHUNK)]
            await self._each(chunks)

    def _question(self, row: Any) -> Change:
        was = Person(row["email"], {}, {}, True)
        remote = None if row["remote"] is None else orjson.loads(row["remote"])
        if row["remote_id"] is not None:
            met = Seen(row["remote_id"], row["email"])
            remote = self.adapter.remembered(remote, None, met)
        return Change(row["contact_id"], Verb.WITHDRAW, None, was, remote, False, False)

    async def _each(self, chunks: Sequence[Sequence[Change]]) -> None:
        try:
            async with asyncio.TaskGroup() as group:
                for chunk in chunks:
                    group.create_task(self._read_chunk(chunk))
        except* (ProviderError, Fenced) as faults:
            fault = faults.exceptions[0]
        else:
            return
        raise fault

    async def _read_chunk(self, changes: Sequence[Change]) -> None:
        asked = await self._now()
        found = await self.patiently(lambda: self.adapter.read_whole(changes))
        there = {one.remote_id: one for one in found if one is not None}
        await self._meet(list(there.values()), None, asked, sure=True)

    async def _meet(
        self, records: Sequence[Seen], list_id: str | None, asked: Any, *, sure: bool
    ) -> None:
        if not records:
            return
        emails = sorted({email for one in records if (email := _address(one)) is not None})
        rows = [] if sure else await self.pool.fetch(self.desired.at_addresses, emails)
        pairs = sorted(((row["email"], row["contact_id"]) for row in rows), reverse=True)
        wanting = dict(pairs)
        columns = zip(
            *(
                (
                    one.remote_id, _address(one), one.subscribed, array_literal(one.lists),
                    _json(one.fields), one.contact_id, self._remote(one, list_id),
                    wanting.get(_address(one) or ""),
                )
                for one in records
            ),
            strict=True,
        )  # fmt: skip
        await self.pool.execute(
            sql.audit.meet,
            self._me,
            self.run_id,
            sure,
            list_id or "",
            asked,
            *(list(column) for column in columns),
        )

    def _remote(self, one: Seen, list_id: str | None) -> str | None:
        """What the mirror remembers of a contact whose record this is."""
        if not self.adapter.traits.can & Can.SCAN:
            return None
        return orjson.dumps(self.adapter.remembered(None, list_id, one)).decode()

    # ── Patience ────────────────────────────────────────────────────────────────────────────

    async def patiently(
        self, question: Callable[[], Awaitable[T]], final: tuple[type[ProviderError], ...] = ()
    ) -> T:
        """Ask again for a while; the last fault passes through, and a final one at once."""
        since, failures = time.monotonic(), 0
        while True:
            try:
                return await question()
            except final:
                raise
            except (ProviderError, Fenced) as error:
                failures += 1
                await self._wait_out(error, since, failures)

    async def _wait_out(self, error: ProviderError | Fenced, since: float, failures: int) -> None:
        """Until it may be tried again; raises what no waiting mends."""
        left = PATIENCE - (time.monotonic() - since)
        pause = backoff(min(failures, 4))
        if isinstance(error, ProviderError):
            pause = max(error.after, pause)
        if getattr(error, "needs_a_person", False) or pause > left:
            raise error
        try:
            await asyncio.wait_for(self.stop.wait(), pause)
        except TimeoutError:
            return
        raise error


def _address(one: Seen) -> str | None:
    return (one.email or "").strip().lower() or None


def _json(value: Mapping[str, Any] | None) -> str | None:
    """PostgreSQL keeps no NUL in text."""
    if value is None:
        return None
    return orjson.dumps(value, default=str).decode().replace("\\u0000", "")
