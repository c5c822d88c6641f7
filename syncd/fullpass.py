"""The full pass: two sweeps that make promise 1 independent of triggers.

First windows of source ids in the source's order: what the provider may create is sent at once,
under one intent row a window; everything else enters the journal. Then windows of mirror ids,
anti-joined to the source: removals. Removals and changes wait, held, until the pass has counted
them all. Design, section 5; races 2, 23, 30 and section C.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property, partial

import orjson
import structlog

from syncd import sql
from syncd.addresses import Holder
from syncd.bells import first_of
from syncd.control import release_decided
from syncd.db import Connection, Row, transact
from syncd.decide import Rules
from syncd.fresh import Fresh
from syncd.journal import Journal
from syncd.model import Can
from syncd.orphans import reap
from syncd.plan import Planner, castable
from syncd.pushed import Pushed
from syncd.window import Windows

log = structlog.get_logger()

Send = Callable[[Fresh], Awaitable[Pushed]]

RETRY_SECONDS = 0.3


class LeftBehind(Exception):
    """A dead worker's window stands; nothing may be read before it has been taken back."""


@dataclass(slots=True)
class Counts:
    """What a full pass saw and did, while it runs and at its end."""

    looked_at: int = 0
    sent: int = 0
    planned: int = 0
    held: int = 0
    matched: int = 0
    made: int = 0  # by windows, that were not there before
    differing: int = 0
    removals: int = 0

    def as_json(self) -> str:
        return orjson.dumps({name: getattr(self, name) for name in self.__slots__}).decode()


@dataclass
class FullPass:
    """One full pass of one destination by one worker."""

    planner: Planner
    journal: Journal
    rules: Rules
    send: Send | None  # None: nothing is sent directly, everything is journalled
    window: int = 5000
    at_once: int = 3
    force: bool = False
    stop: asyncio.Event = field(default_factory=asyncio.Event)
    due: asyncio.Event = field(default_factory=asyncio.Event)  # set when a window has been planned
    counts: Counts = field(default_factory=Counts)
    _addresses: set[str] = field(default_factory=set)  # of windows in flight

    @property
    def _me(self) -> int:
        return self.planner.destination.id

    @cached_property
    def _windows(self) -> Windows:
        return Windows(self.journal, self.rules.traits.needs_list, self.rules.key_name)

    async def run(self) -> Counts | None:
        """Sweep; None when another live worker is at it. Stopped half-way it is owed again."""
        run_id = await self._begun()
        if run_id is None:
            return None
        complete = False
        try:
            started = await self._share_addresses()
            await self._sweep_source(run_id)
            if not self.stop.is_set():
                await self._sweep_mirror(run_id, started)
                await self._sweep_rejected()
                await self._sweep_journal(run_id)
            complete = not self.stop.is_set()
        finally:
            await self._finish(run_id, complete)
        return self.counts

    # ── Begin and end ───────────────────────────────────────────────────────────────────────

    async def _begun(self) -> int | None:
        """The number of the run, once no window of a dead worker is left: whom it may have made is
        in doubt, and must not be met as new."""
        while not self.stop.is_set():
            with contextlib.suppress(LeftBehind):
                return await transact(self.planner.pool, self._begin)
            if not await reap(self.planner.pool):  # a process that was stopped has its rows locked
                await first_of(self.stop, timeout=RETRY_SECONDS)
        return None

    async def _begin(self, connection: Connection) -> int | None:
        feed = await connection.fetchrow(sql.plan.lock_feed, self._me)
        if feed is None:
            return None
        other = feed["pass_by"] not in (None, self.journal.worker_id)
        if other and await connection.fetchval(sql.plan.worker_alive, feed["pass_by"]):
            return None
        if await connection.fetchval(sql.window.left_behind, self._me):
            raise LeftBehind
        await self.planner.check_lists(connection)
        run_id = await connection.fetchval(
            sql.plan.begin_run, "full", self._me, self.journal.worker_id
        )
        await connection.execute(
            sql.plan.start_pass,
            self._me,
            self.planner.desired.generation,
            run_id,
            self.journal.worker_id,
        )
        return int(run_id)

    async def _finish(self, run_id: int, complete: bool) -> None:
        """Write down how it ended; where that fails too, the first failure is the one to tell."""
        try:
            await transact(self.planner.pool, lambda c: self._end(c, run_id, complete))
            await release_decided(self.planner.pool)
        except Exception:
            if complete:
                raise

    async def _end(self, connection: Connection, run_id: int, complete: bool) -> None:
        await connection.fetchrow(sql.plan.lock_feed, self._me)
        if await connection.fetchval(sql.plan.end_pass, self._me, run_id, complete) is None:
            log.warning("full pass was taken over", destination=self.planner.destination.name)
        elif complete:
            self.counts.held = await self.planner.decide_open_plans(connection)
        error = None if complete else "stopped"
        await connection.execute(sql.plan.end_run, run_id, self.counts.as_json(), error)

    async def _share_addresses(self) -> datetime:
        """Write down who shares an address, before any window is read; returns when."""

        async def work(connection: Connection) -> datetime:
            await connection.execute("set local work_mem = '64MB'")
            await connection.fetchrow(sql.plan.lock_feed, self._me)
            found = await connection.fetch(self.planner.desired.shared_addresses)
            holders = [Holder(*row) for row in found]
            emails = sorted({one.email for one in holders})
            mirrored = await connection.fetch(sql.plan.at_mirror_addresses, self._me, emails)
            await connection.execute(sql.plan.forget_sharers, self._me, None)
            await self.planner.write_sharers(connection, holders, mirrored, None)
            now: datetime = await connection.fetchval("select clock_timestamp()")
            return now

        return await transact(self.planner.pool, work)

    # ── First sweep: the source ─────────────────────────────────────────────────────────────

    async def windows(self) -> AsyncIterator[tuple[str, str]]:
        """First and last id of every window, in the source's order."""
        last: str | None = None
        while not self.stop.is_set():
            row = await self.planner.pool.fetchrow(self.planner.desired.window, last, self.window)
            assert row is not None
            if not row["n"]:
                return
            last = row["last"]
            yield row["first"], row["last"]

    async def _sweep_source(self, run_id: int) -> None:
        gate = asyncio.Semaphore(self.at_once)

        async def one(first: str, last: str) -> None:
            try:
                await self._window(run_id, first, last)
            finally:
                gate.release()

        async with asyncio.TaskGroup() as group:
            async for first, last in self.windows():
                await gate.acquire()
                group.create_task(one(first, last))

    async def _window(self, run_id: int, first: str, last: str) -> None:
        fresh = await self._windows.begin(first, last)
        number = fresh.number
        rows = await self._read(number, first, last)
        new = [row for row in rows if row["is_new"]]
        erased = await self._erased(new)
        fresh.take([r for r in new if r["contact_id"] not in erased], self.rules, self._addresses)
        fresh.left_out += erased  # the claim refuses them, with the reason
        left_out = set(fresh.left_out)
        rest = [row for row in rows if not row["is_new"] or row["contact_id"] in left_out]
        plain = [row for row in rest if row["holder"] is None]
        rivals = sorted(row["contact_id"] for row in rest if row["holder"] is not None)
        if plain:
            await transact(self.planner.pool, lambda c: self._plan(c, plain, run_id, number))
        if rivals:  # apart: their addresses are locked before anything is written (races 19)
            await transact(self.planner.pool, lambda c: self._plan_keys(c, rivals, run_id, number))
        if rest:
            self.due.set()
        if fresh.rows and self.send is not None:
            await self._send(fresh, self.send)
        else:
            await self._windows.finish(number)

    async def _erased(self, rows: Sequence[Row]) -> Collection[str]:
        """Who of them was erased; asked only where anybody ever was."""
        tombstones, pool = self.journal.tombstones, self.planner.pool
        if not rows or tombstones is None or not await tombstones.any(pool):
            return ()
        return await self.journal.erased(pool, [(r["contact_id"], r["email"]) for r in rows])

    async def _read(self, number: int, first: str, last: str) -> Sequence[Row]:
        stages = self.send is not None
        rows = await self._windows.read(number, first, last, force=self.force, stages=stages)
        self.counts.looked_at += rows[0]["total"]
        self.counts.matched += rows[0]["matched"]
        if rows[0]["contact_id"] is None:
            return ()
        self.counts.differing += len(rows)
        return rows

    async def _send(self, fresh: Fresh, send: Send) -> None:
        emails = [row["email"] for row in fresh.rows]
        try:
            await self._windows.fill(fresh)
            pushed = await send(fresh) if fresh.rows else Pushed([])
            await self._windows.settle(fresh, pushed)
            self.counts.sent += len(fresh.rows)
            self.counts.made += pushed.plain + sum(one.here for one in pushed.results)
        finally:
            self._addresses.difference_update(emails)

    async def _plan(
        self, connection: Connection, rows: Sequence[Row], run_id: int, number: int
    ) -> None:
        await connection.fetchrow(sql.plan.lock_feed, self._me)
        await self._windows.check(connection, number)
        planned = self.planner.classified(rows, full=True, force=self.force)
        await self.planner.journal(connection, planned, run_id, force=self.force)
        self.counts.planned += len(planned)

    async def _plan_keys(
        self, connection: Connection, keys: Sequence[str], run_id: int, number: int
    ) -> None:
        await connection.fetchrow(sql.plan.lock_feed, self._me)
        await self._windows.check(connection, number)
        done = await self.planner.plan_keys(connection, keys, full_run=run_id, force=self.force)
        self.counts.planned += done.planned

    # ── Second sweep: the mirror ────────────────────────────────────────────────────────────

    async def _sweep_mirror(self, run_id: int, started: datetime) -> None:
        """Find who is there but no longer wanted; skipped when the numbers prove there is none."""
        if await self._all_matched(started):
            return
        last = ""
        while not self.stop.is_set():
            ids = await self._mirror_window(last)
            if not ids:
                return
            last = ids[-1]
            if gone := await self._not_belonging(ids):
                await transact(self.planner.pool, partial(self._remove, gone, run_id))

    async def _sweep_journal(self, run_id: int) -> None:
        """What was rejected or held, and whose contact is gone since, has no mirror row perhaps."""
        last = ""
        while not self.stop.is_set():
            rows = await self.planner.pool.fetch(
                sql.plan.journal_window, self._me, last, self.window
            )
            if not rows:
                return
            last = rows[-1]["contact_id"]
            if gone := await self._not_belonging([row["contact_id"] for row in rows]):
                await transact(self.planner.pool, partial(self._remove, gone, run_id))

    async def _sweep_rejected(self) -> None:
        """What was refused of contacts that are gone: the feed sees to it, and drops it."""
        last = ""
        while not self.stop.is_set():
            rows = await self.planner.pool.fetch(
                sql.plan.rejected_window, self._me, last, self.window
            )
            if not rows:
                return
            last = rows[-1]["contact_id"]
            if gone := await self._not_belonging([row["contact_id"] for row in rows]):
                await self.planner.pool.execute(sql.plan.note_changes, self.journal.source, gone)

    async def _all_matched(self, started: datetime) -> bool:
        """Whether everybody there was met in the source: counted then, or made by our windows, and
        by nobody else since."""
        row = await self.planner.pool.fetchrow(sql.plan.recount, self._me, started)
        assert row is not None
        seen = self.counts.matched + self.counts.made
        return bool(row["moved"] == self.counts.made and row["here"] == seen)

    async def _mirror_window(self, after: str) -> list[str]:
        rows = await self.planner.pool.fetch(sql.plan.mirror_window, self._me, after, self.window)
        return [row["contact_id"] for row in rows]

    async def _not_belonging(self, ids: Sequence[str]) -> list[str]:
        keys = castable(self.planner.desired, ids)
        rows = await self.planner.pool.fetch(self.planner.desired.belonging, keys)
        return sorted(set(ids) - {row["contact_id"] for row in rows})

    async def _remove(self, gone: Sequence[str], run_id: int, connection: Connection) -> None:
        await connection.fetchrow(sql.plan.lock_feed, self._me)
        await self.planner.check_lists(connection)
        done = await self.planner.plan_keys(connection, gone, full_run=run_id, force=self.force)
        self.counts.removals += done.planned
        self.counts.planned += done.planned


def may_send_directly(can: Can) -> bool:
    """Whether a window's creates need no journal rows: a lost answer can be repeated or found."""
    return bool(can & (Can.REPEAT | Can.FIND))
