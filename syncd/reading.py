"""Scans: paging through what a provider holds, list by list or the whole account.

A scan is asked for once per list, runs when the adds to it are drained (at once where an opt-out
waits for it), goes on after a crash where its cursor stood, and proves an absence only together
with the scan after it. While one runs nobody in its list is written to.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson
import structlog

from syncd import meter, sql
from syncd.claim import claim_turn
from syncd.db import Connection, Pool, Row, transact
from syncd.drain import Drain
from syncd.ending import Ending
from syncd.errors import Fenced, ProviderError
from syncd.lists import Lists
from syncd.matching import Matcher
from syncd.model import Can, Notice
from syncd.pages import Pages, Scan
from syncd.plan import Planner
from syncd.tombstone import Tombstones

log = structlog.get_logger()

WAITS = 900.0  # seconds after which whoever waits for a scan that never came asks again
ENOUGH = 10  # scans in a row that do not let a contact be sent, before a person is asked
SHOWN = 5  # second records of a page that the log names
TOO_OLD = 3600.0  # seconds that a scan may stand still and still be gone on with


@dataclass(slots=True)
class Reading:
    """The scans of one destination, as one worker runs them. Nothing where there are none."""

    planner: Planner
    worker_id: int
    adapter: Any
    lists: Lists
    note: Callable[[Sequence[Notice]], Awaitable[object]]
    found_out: Callable[[Mapping[str, Any]], Awaitable[object]]
    tombstones: Tombstones | None = None
    stop: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def pool(self) -> Pool:
        return self.planner.pool

    @property
    def _me(self) -> int:
        return self.planner.destination.id

    @property
    def can_scan(self) -> bool:
        return bool(self.adapter.traits.can & Can.SCAN)

    @property
    def _by_list(self) -> bool:
        return bool(self.adapter.traits.scans_lists)

    @property
    def _ending(self) -> Ending:
        return Ending(self.planner, self.worker_id, self.adapter, self.lists)

    # ── Asking ──────────────────────────────────────────────────────────────────────────────

    async def ask(self, keys: Iterable[str]) -> None:
        """Have these lists scanned, once."""
        if self.can_scan and (chosen := sorted(set(keys))):
            await self.pool.execute(sql.reading.ask, self._me, chosen)

    async def ask_all(self) -> None:
        """Have all there is scanned; first see whether the lists are still as they were."""
        if self.can_scan:
            await self.lists.look()
            await self.ask(await self._keys())

    async def ask_new(self) -> bool:
        """Have lists scanned that were found, not made: who is in them? True if there are any."""
        if not (self.can_scan and self._by_list):
            return False
        rows = await self.pool.fetch(sql.lists.unread, self._me)
        await self.ask(row["list_id"] for row in rows)
        return bool(rows)

    async def wait(self, waits: Mapping[str, Collection[str]]) -> None:
        """These contacts wait for scans of these lists."""
        if not waits:
            return
        by_list = self._by_list
        pairs = sorted((c, one if by_list else "") for c, lists in waits.items() for one in lists)
        ids, keys = (list(column) for column in zip(*pairs, strict=True))
        await self._asked_with(sql.reading.wait, ids, keys, WAITS, ENOUGH)

    async def _asked_with(self, statement: str, *args: object) -> None:
        """Have those lists scanned that a statement returns; it never holds without that."""

        async def work(connection: Connection) -> None:
            rows = await connection.fetch(statement, self._me, *args)
            if keys := sorted(row["list_key"] for row in rows):
                await connection.execute(sql.reading.ask, self._me, keys)

        await transact(self.pool, work)

    async def learn(self) -> None:
        """Keep what the adapter has found out about the account while it worked."""
        if self.adapter.traits.can & Can.LEARNS and (findings := self.adapter.found_out()):
            await self.found_out(findings)

    async def any_asked(self) -> bool:
        """Whether a scan is to be run, or the end of one to be seen to."""
        return self.can_scan and bool(
            await self.pool.fetchval(sql.reading.any_open, self._me, self.worker_id)
        )

    async def _keys(self) -> dict[str, str | None]:
        """What can be scanned: our id of a list → the remote id; '' → the whole account."""
        if not self._by_list:
            return {"": None}
        rows = await self.pool.fetch(sql.lists.there, self._me)
        return {row["list_id"]: row["remote_id"] for row in rows}

    # ── Before the first write ──────────────────────────────────────────────────────────────

    async def first(self) -> bool:
        """Read all that is there before anything is written; False while that is not done.

        Provider errors pass through; what was read by then is not read again.
        """
        if not self.can_scan or await self.pool.fetchval(sql.reading.is_scanned, self._me):
            return True
        await self.ask(await self._keys())
        while not self.stop.is_set() and await self.any_asked():
            if not await self.step(first=True):
                return False  # another worker is at it
        if self.stop.is_set():
            return False
        await self.pool.execute(sql.reading.stamp_account, self._me)
        return True

    # ── One scan ────────────────────────────────────────────────────────────────────────────

    async def step(self, first: bool = False) -> bool:
        """Run one of the scans that may run now, to its end; False if there is nothing to do."""
        if not self.can_scan:
            return False
        await self._asked_with(sql.reading.give_up_old, TOO_OLD)
        told = await self._judge()
        keys = await self._keys()
        fresh = {row["list_id"] for row in await self.pool.fetch(sql.lists.unread, self._me)}
        drain = Drain(self.planner)
        for row in await self.pool.fetch(sql.reading.open, self._me, self.worker_id):
            key = row["list_key"]
            if key not in keys:
                continue
            at_once = first or row["begun"] or row["urgent"] or key in fresh
            if not at_once and not await drain.is_over(key):
                continue
            if (scan := await self._begin(row, keys)) is not None:
                await self._run(scan)
                return True
        return told

    async def _judge(self) -> bool:
        """Tell those who wait what came of scans that can tell them nothing more themselves; False
        where there is no such scan."""
        gone = await self.pool.fetch(sql.reading.drop, self._me) if self._by_list else []
        over = await self.pool.fetch(sql.reading.unjudged, self._me, self.worker_id)
        if gone or over:
            await self._ending.answer()
            await self.pool.execute(sql.reading.judged, [row["id"] for row in (*gone, *over)])
        return bool(gone or over)

    async def _begin(self, row: Row, keys: Mapping[str, str | None]) -> Scan | None:
        key, remote = row["list_key"], keys[row["list_key"]]

        async def work(connection: Connection) -> Row | None:
            found: Row | None = await connection.fetchrow(
                sql.reading.begin, self._me, row["id"], self.worker_id, remote
            )
            return found

        begun = await transact(self.pool, work, first=claim_turn(self._me))
        if begun is None:
            return None
        cursor = None if begun["cursor"] is None else orjson.loads(begun["cursor"])
        ours = {there: ours for ours, there in self.lists.known.items()}
        tells = bool(self.adapter.traits.tells_lists)
        by_address = self.adapter.traits.key == "address"
        matcher = Matcher(key, remote, self.adapter.remembered, ours, tells, by_address)
        return Scan(begun["id"], begun["begun_at"], cursor, matcher)

    async def _run(self, scan: Scan) -> None:
        purpose, judged = meter.purpose.set("read"), False
        try:
            if await self._read(scan):
                await self._ending.finish(scan)
            judged = True
        except ProviderError as error:
            await self._interrupted(scan, error)
        except Fenced:
            log.info("another worker goes on with the scan", list=scan.list_key)
        finally:
            meter.purpose.reset(purpose)
            await self.pool.execute(sql.reading.leave, scan.id, self.worker_id, judged)

    async def _read(self, scan: Scan) -> bool:
        """Page through it; False when told to stop on the way."""
        pages = Pages(self.pool, self.planner.desired, self.worker_id, self.tombstones)
        async for page in self.adapter.scan(scan.matcher.remote_list, scan.cursor):
            matched = await pages.write(scan, page)
            if matched.notices:
                await self.note(matched.notices)
            if matched.doubles:
                some = dict(sorted(matched.doubles.items())[:SHOWN])
                count = len(matched.doubles)
                log.warning("contacts are there twice", records=count, second_and_kept=some)
            if page.findings:
                await self.found_out(page.findings)
            if self.stop.is_set():
                return False
        return True

    async def _interrupted(self, scan: Scan, error: ProviderError) -> None:
        """It is gone on with later, unless the list is not there any more."""
        if scan.list_key and error.status is not None and not await self._is_there(scan):
            await self.pool.execute(sql.reading.fail, scan.id, "the list is not there any more")
            return
        raise error

    async def _is_there(self, scan: Scan) -> bool:
        there = await self.lists.look()
        remote = scan.matcher.remote_list
        return scan.list_key in await self._keys() and (remote is None or remote in there)
