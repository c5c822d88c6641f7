"""The backfill: read every named destination, then a full pass, then push until nothing is due.

The daemon's own loops with "stop when empty" (`Flow.backfill`). It can be stopped and started again
at will, and works beside running daemons: what it does stands in the journal, not here.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import structlog

from syncd import db, faults, sql
from syncd.backfill_part import Part
from syncd.bells import first_of
from syncd.condition import CONFIGURATION, CREATES
from syncd.control import Destination
from syncd.errors import ConfigError, DatabaseUnreachable, Fenced, ProviderError
from syncd.estimate import estimate
from syncd.members import list_id, plan_members
from syncd.outcomes import backoff
from syncd.serve import FOLLOWED
from syncd.words import count

if TYPE_CHECKING:
    from syncd.app import App
    from syncd.worker import Worker

log = structlog.get_logger()

ROUNDS = 30  # looks at the feed, at the end, before a busy source is left to the daemon
PREPARING = 15.0  # seconds for a provider to answer at all, before anything is written
AWAY = 60.0  # seconds that a lost database is waited for
LOSSES = 10  # in a row, with nothing settled between them


class Backfill:
    """One backfill of some destinations, by one process."""

    def __init__(
        self,
        app: App,
        destinations: Sequence[Destination],
        *,
        force: bool = False,
        only: str | None = None,
    ) -> None:
        self.app = app
        self.parts = [Part(one) for one in destinations]
        self.force = force
        self.only = only
        self.stop = asyncio.Event()  # take no more windows; finish what is in flight
        self.announce: Callable[[], None] = lambda: None  # called before anything is written
        self._began = time.monotonic()

    async def run(self) -> None:
        """To its end. ConfigError with every fault; DatabaseUnreachable after a minute without."""
        rows = [part.destination for part in self.parts]
        if found := await faults.find(self.app.pool, self.app.secrets, rows):
            raise ConfigError(*found)
        if self.only is not None:
            for row in rows:
                await list_id(self.app.pool, row, self.only)
        losses, before = 0, -1
        while not await self._attempted():
            settled = sum(part.settled for part in self.parts)
            losses, before = (1 if settled > before else losses + 1), settled
            await self._wait_for_database(losses)
        for part in self.parts:
            await self._stand(part)

    @property
    def exit_code(self) -> int:
        """0 all in step; the gravest fault's; else 1 where something is left or was refused."""
        graves = [part.exit_code for part in self.parts if not part.in_step]
        fine = all(p.in_step and not p.rejected and not p.unconveyed for p in self.parts)
        return max([*graves, 0 if fine else 1])

    def summary(self) -> dict[str, Any]:
        return {"destinations": {part.destination.name: part.summary() for part in self.parts}}

    # ── The database ────────────────────────────────────────────────────────────────────────

    async def _attempted(self) -> bool:
        """True at the end; False when the database was lost."""
        lost = ""
        try:
            async with self.app.worker() as worker:
                await self._all(worker)
        except* (*db.LOST, Fenced) as group:
            lost = type(group.exceptions[0]).__name__
        if lost:
            log.warning("lost the database", error=lost)
        return not lost

    async def _wait_for_database(self, losses: int) -> None:
        until, tries = time.monotonic() + AWAY, losses
        while time.monotonic() < until and losses < LOSSES and not self.stop.is_set():
            await first_of(self.stop, timeout=backoff(min(tries, 3)))
            tries += 1
            try:
                await self.app.pool.fetchval("select 1", timeout=5)
            except db.LOST:
                continue
            return
        raise DatabaseUnreachable(
            "PostgreSQL was lost and did not come back. Start the backfill again when it is there:"
            " it goes on where it was"
        )

    async def _stand(self, part: Part) -> None:
        """How the destination stands now that nothing more is done here."""
        me = part.destination.id
        row = await self.app.pool.fetchrow(sql.flow.counts, [me])
        if row is not None:
            part.pending, part.held, part.rejected = row["pending"], row["held"], row["rejected"]
        part.unconveyed = await self.app.pool.fetchval(sql.flow.unconveyed, me)
        if part.tally.failure is not None:
            part.failed(part.tally.failure)
        if part.pending and not part.why:
            reasons = await self.app.pool.fetch(sql.flow.reasons, me)
            said = "; ".join(f"{row['n']:,}: {row['why'] or 'not tried yet'}" for row in reasons)
            part.why = f"{count(part.pending, 'change')} still pending: {said}"

    # ── All destinations ────────────────────────────────────────────────────────────────────

    async def _all(self, worker: Worker) -> None:
        everyone = await self.app.destinations()
        async with AsyncExitStack() as stack:
            for part in self.parts:
                made = self.app.assembled(part.destination, everyone, worker)
                part.begin(await stack.enter_async_context(made))
            try:
                async with asyncio.TaskGroup() as group:
                    follower = group.create_task(self._follow())
                    await _each(self.parts, self._prepare)
                    for part in self.parts:
                        await self._estimate(part)
                    self.announce()
                    await _each(await self._writable(), self._fill)
                    follower.cancel()
            finally:
                for part in self.parts:
                    part.end()

    async def _follow(self) -> None:
        """Take up what is edited meanwhile: pauses, limits of the guard, halts; and `stop`."""
        while not self.stop.is_set():
            await first_of(self.stop, timeout=self.app.settings.control_poll_seconds)
            rows = {row.id: row for row in await self.app.destinations()}
            for part in self.parts:
                row = rows.get(part.destination.id)
                if row is None or _made_of(row) != _made_of(part.destination):
                    part.leave("its row was changed meanwhile: start the backfill again")
                elif row != part.flow.destination:
                    part.flow.follow(row)
        for part in self.parts:
            part.flow.stop.set()

    async def _prepare(self, part: Part) -> None:
        """Read what people did at the provider; learn what the account is like."""
        flow, until = part.flow, time.monotonic() + PREPARING
        await self._reconsider(part)
        while not flow.stop.is_set():
            if why := flow.stands_still:
                part.leave(why)
            elif await flow.is_same_account() and await flow.read() and await flow.prepare():
                part.ready = True
                return
            elif time.monotonic() > until:
                return
            await first_of(flow.stop, timeout=max(0.5, min(5.0, flow.breaker.pause)))

    async def _reconsider(self, part: Part) -> None:
        """A halt ends where its reason has: rows that are sound now, credentials that work now."""
        halted = part.flow.destination.halted
        if halted is None or halted.startswith(CREATES):
            return
        if not halted.startswith(CONFIGURATION):
            try:
                findings = await part.flow.push.adapter.check()
            except ProviderError as error:
                part.tally.failure = error
                return
            if errors := [one for one in findings if one.level == "error"]:
                part.exit_code = max(one.exit_code for one in errors)
                return
        await self.app.pool.execute(sql.app.clear_halt, part.destination.id, halted)
        part.flow.follow(replace(part.flow.destination, halted=None))

    async def _estimate(self, part: Part) -> None:
        if part.ready and part.made is not None:
            part.estimate = await estimate(self.app.pool, part.made, self.force)

    async def _writable(self) -> Sequence[Part]:
        """Those that were read; none that must know of opt-outs at one that never could be read."""
        unread = []
        for part in self.parts:
            known = await self.app.pool.fetchval(sql.flow.is_read, part.destination.id)
            if not (part.ready or known or part.destination.paused):
                unread.append(part)
        ready = []
        for part in (one for one in self.parts if one.ready):
            missing = [one.destination.name for one in unread if part.hears(one)]
            if missing:
                part.leave(f"waits: opt-outs at {', '.join(missing)} have never been read")
            else:
                ready.append(part)
        return ready

    # ── One destination ─────────────────────────────────────────────────────────────────────

    async def _fill(self, part: Part) -> None:
        if self.only is None:
            await part.flow.backfill(self.force)
        await self._erased(part)
        for _ in range(ROUNDS):
            if part.flow.gives_up or part.flow.sender.is_stuck or part.flow.destination.paused:
                break
            if not await (self._looked(part) if self.only is None else self._planned(part)):
                part.quiet = True
                break
            await part.flow.pump(until_empty=True)
        part.seconds = time.monotonic() - self._began

    async def _erased(self, part: Part) -> None:
        """Whoever is being erased is deleted, and read back as far as that can be by now."""
        before, due = -1, 0
        while not (part.flow.gives_up or part.flow.stands_still):
            before, due = due, await part.flow.erase()
            if not due or due == before:  # what was refused is not tried again
                return
            await part.flow.pump(until_empty=True)

    async def _looked(self, part: Part) -> bool:
        """Whether the feed had anything since the pass."""
        passed = await part.flow.look()
        if passed.owes_full:
            await part.flow.backfill()
        return bool(passed.planned or passed.owes_full)

    async def _planned(self, part: Part) -> bool:
        """Plan the members of the one list; whether anything is due."""
        assert self.only is not None
        chosen = await list_id(self.app.pool, part.destination, self.only)
        planner, first = part.flow.planner, not part.tally.planned
        planned = await plan_members(planner, chosen, part.flow.window, self.force and first)
        due = await self.app.pool.fetchval(sql.flow.due, part.destination.id)
        part.tally.planned += planned if due or first else 0
        return bool(due)


def _made_of(row: Destination) -> dict[str, str]:
    """What a flow is put together from; a change of it needs another flow."""
    names = [name for name in Destination.__slots__ if name not in FOLLOWED]
    return {name: repr(getattr(row, name)) for name in names}


async def _each(parts: Sequence[Part], work: Callable[[Part], Awaitable[None]]) -> None:
    async def one(part: Part) -> None:
        with structlog.contextvars.bound_contextvars(destination=part.destination.name):
            await work(part)

    async with asyncio.TaskGroup() as group:
        for part in parts:
            group.create_task(one(part), name=f"backfill:{part.destination.name}")
