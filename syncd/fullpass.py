"""The full pass: two sweeps that make promise 1 independent of triggers.

First windows of source ids in the source's order: what the provider may create is sent at once,
under one intent row a window; everything else enters the journal. Then windows of mirror ids,
anti-joined to the source: removals. Removals and changes wait, held, until the pass has counted
them all. Design, section 5; races 2, 23, 30 and section C.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial

import orjson
import structlog

from syncd import sql
from syncd.addresses import Holder
from syncd.control import release_decided
from syncd.db import Connection, Row, transact
from syncd.decide import Entry, Release, Rules, person
from syncd.errors import Fenced
from syncd.journal import Claim, Journal, Settled
from syncd.model import Can, Change, Verb
from syncd.plan import Planner, castable

log = structlog.get_logger()

Send = Callable[[Claim], Awaitable[Sequence[Settled]]]


@dataclass(slots=True)
class Counts:
    """What a full pass saw and did, while it runs and at its end."""

    looked_at: int = 0
    sent: int = 0
    planned: int = 0
    held: int = 0
    matched: int = 0
    differing: int = 0
    removals: int = 0

    def as_json(self) -> str:
        return orjson.dumps({name: getattr(self, name) for name in self.__slots__}).decode()


@dataclass(slots=True)
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
    counts: Counts = field(default_factory=Counts)
    _addresses: set[str] = field(default_factory=set)  # of windows in flight

    @property
    def _me(self) -> int:
        return self.planner.destination.id

    async def run(self) -> Counts | None:
        """Sweep; None when another live worker is at it. Stopped half-way it is owed again."""
        run_id = await transact(self.planner.pool, self._begin)
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

    async def _begin(self, connection: Connection) -> int | None:
        feed = await connection.fetchrow(sql.plan.lock_feed, self._me)
        if feed is None:
            return None
        other = feed["pass_by"] not in (None, self.journal.worker_id)
        if other and await connection.fetchval(sql.plan.worker_alive, feed["pass_by"]):
            return None
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
        here = await connection.fetchval(sql.plan.count_here, self._me)
        if await connection.fetchval(sql.plan.end_pass, self._me, run_id, here, complete) is None:
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
        number = await self.planner.pool.fetchval(
            sql.journal.begin_intent, self._me, first, last, self.journal.worker_id
        )
        rows = await self._read(first, last)
        fresh = [] if self.send is None else [r for r in rows if self._sendable(r)]
        claim = self._claim(number, fresh)
        direct = set(claim.contact_ids)
        rest = [row for row in rows if row["contact_id"] not in direct]
        plain = [row for row in rest if row["holder"] is None]
        rivals = sorted(row["contact_id"] for row in rest if row["holder"] is not None)
        if plain:
            await transact(self.planner.pool, lambda c: self._plan(c, plain, run_id, number))
        if rivals:  # apart: their addresses are locked before anything is written (races 19)
            await transact(self.planner.pool, lambda c: self._plan_keys(c, rivals, run_id, number))
        if not claim.entries or self.send is None:
            await self.planner.pool.execute(sql.journal.end_intent, self._me, number)
            return
        await self._send(claim)

    async def _read(self, first: str, last: str) -> Sequence[Row]:
        async def work(connection: Connection) -> Sequence[Row]:
            await connection.execute("set local plan_cache_mode = force_custom_plan")
            return await connection.fetch(self.planner.compare.by_window, first, last, self.force)

        rows = await transact(self.planner.pool, work)
        self.counts.looked_at += rows[0]["total"]
        self.counts.matched += rows[0]["matched"]
        differing = [row for row in rows if row["contact_id"] is not None]
        self.counts.differing += len(differing)
        return differing

    def _sendable(self, row: Row) -> bool:
        """Whether nothing but a create is to be done: new, wanted, mailable, its address free."""
        return (
            row["fault"] is None
            and row["subscribed"]
            and row["m_state"] in (None, "absent")
            and row["m_digest"] != row["digest"]
            and row["j_state"] is None
            and row["holder"] is None
            and row["email"] not in self._addresses
            and (bool(row["lists"]) or not self.rules.traits.needs_list)
            and (bool(row["remote_key"]) or self.rules.key_name is None)
        )

    def _claim(self, number: int, rows: Sequence[Row]) -> Claim:
        claim = Claim(number=number, window=True)
        for row in rows:
            want = person(row, self.rules)
            if isinstance(want, Release) or row["email"] in self._addresses:
                continue
            self._addresses.add(row["email"])
            remote = {self.rules.key_name: row["remote_key"]} if self.rules.key_name else None
            change = Change(row["contact_id"], Verb.PUT, want, None, remote, True, False)
            known = row["m_state"]
            claim.entries.append(
                Entry(
                    change[0], change, row["digest"], row["email"], 1, 0, known, row["lists"], True
                )
            )
        claim.taken = len(claim.entries)
        return claim

    async def _send(self, claim: Claim) -> None:
        """The intent with its ids is on disk before the first request leaves."""
        assert self.send is not None
        emails = [one.email for one in claim.entries]
        try:
            await transact(self.planner.pool, partial(self._fill, claim))
            if not claim.entries:  # all of them contested: nobody may wait for this window
                await self.planner.pool.execute(sql.journal.end_intent, self._me, claim.number)
                return
            results = await self.send(claim)
            await self.journal.settle(claim, results)
            self.counts.sent += len(results)
        finally:
            self._addresses.difference_update(emails)

    async def _fill(self, claim: Claim, connection: Connection) -> None:
        """Write the intent down; who would share an address with a request in flight is left to
        the feed. Claims and windows take turns, so each sees what the other has in flight."""
        await connection.execute(sql.journal.claim_turn, self._me)
        await self._still_ours(connection, claim.number)
        emails = [one.email for one in claim.entries]
        rows = await connection.fetch(sql.journal.contested, self._me, emails)
        if rows:
            own = {one.email: one.contact_id for one in claim.entries}
            contested = {row["email"] for row in rows if own[row["email"]] != row["contact_id"]}
            late = [one.contact_id for one in claim.entries if one.email in contested]
            await connection.execute(sql.plan.note_changes, self.journal.source, late)
            claim.entries = [one for one in claim.entries if one.email not in contested]
        emails = [one.email for one in claim.entries]
        lists = sorted({list_id for one in claim.entries for list_id in one.lists})
        await connection.execute(
            sql.journal.fill_intent, self._me, claim.number, claim.contact_ids, emails, lists
        )

    async def _plan(
        self, connection: Connection, rows: Sequence[Row], run_id: int, number: int
    ) -> None:
        await connection.fetchrow(sql.plan.lock_feed, self._me)
        await self._still_ours(connection, number)
        planned = self.planner.classified(rows, full=True, force=self.force)
        await self.planner.journal(connection, planned, run_id, force=self.force)
        self.counts.planned += len(planned)

    async def _plan_keys(
        self, connection: Connection, keys: Sequence[str], run_id: int, number: int
    ) -> None:
        await connection.fetchrow(sql.plan.lock_feed, self._me)
        await self._still_ours(connection, number)
        done = await self.planner.plan_keys(connection, keys, full_run=run_id, force=self.force)
        self.counts.planned += done.planned

    async def _still_ours(self, connection: Connection, number: int) -> None:
        """What was read is only good while the intent stands: without it, nobody waited for us."""
        if await connection.fetchval(sql.journal.lock_intent, self._me, number) is None:
            raise Fenced("a window of this full pass was taken over by another worker")

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
        moved = await self.planner.pool.fetchval(sql.plan.here_moved_since, self._me, started)
        here = await self.planner.pool.fetchval(sql.plan.count_here, self._me)
        return not moved and bool(here == self.counts.matched)

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
