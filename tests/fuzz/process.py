"""Worker processes inside one: each with its own connections, each to be killed or to stall."""

from __future__ import annotations

import asyncio
import time
import traceback
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import asyncpg

from syncd import outcomes
from syncd.assemble import Assembled
from syncd.claim import Claim
from syncd.db import Pool
from syncd.errors import Fenced
from syncd.flow import Flow
from syncd.fullpass import FullPass
from syncd.journal import Journal
from syncd.push import Push
from syncd.pushed import Pushed
from syncd.worker import Worker

from .provider import Badge, claimed_at

if TYPE_CHECKING:
    from .driver import Run

LEASE, HEARTBEAT, TIMEOUT = 0.3, 0.05, 0.12


class Stalls:
    """Lets a worker stand still: everything it would do next waits until it wakes."""

    def __init__(self) -> None:
        self.awake = asyncio.Event()
        self.awake.set()

    async def pass_by(self) -> None:
        await self.awake.wait()


class StallingWorker(Worker):
    """A worker whose heartbeat stands still with it."""

    stalls: Stalls

    async def beat(self) -> bool:
        await self.stalls.pass_by()
        return await super().beat()

    def until(self) -> float:
        """Until when, by the wall clock, its lease lets a request leave."""
        return time.time() + (self.alive_since + self.lease - self.timeout - self.now())


@dataclass(slots=True)
class Permits:
    """The wire's permits; a worker may stall before the fence, or just behind it."""

    real: Any
    stalls: Stalls

    @asynccontextmanager
    async def permit(self, meter: str) -> AsyncIterator[None]:
        await self.stalls.pass_by()
        async with self.real.permit(meter):
            await asyncio.sleep(0)
            await self.stalls.pass_by()
            yield


class NotedJournal(Journal):
    """A journal that knows when each claim was begun, and stalls before it settles."""

    stalls: Stalls
    began: dict[int, float]

    async def claim(self, *args: Any) -> Claim:
        await self.stalls.pass_by()
        began = time.time()
        claim = await super().claim(*args)
        self.began[claim.number] = began
        return claim

    async def settle(self, claim: Claim, results: Any) -> Sequence[str]:
        await self.stalls.pass_by()
        return await super().settle(claim, results)


class Process:
    """A worker with its own connections; `kill` leaves everything as it stands."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.stalls = Stalls()
        self.killed = False
        self.task: asyncio.Task[None] | None = None
        self.pool: Pool | None = None
        self.made: Assembled | None = None
        self.worker: StallingWorker | None = None

    @property
    def flow(self) -> Flow | None:
        return self.made.flow if self.made is not None else None

    def start(self) -> None:
        self.task = asyncio.create_task(self._run())

    async def _run(self) -> None:
        try:
            await self._serve()
        except BaseException as error:
            if not self.killed and not _only_fenced(error):
                text = "".join(traceback.format_exception(_innermost(error)))
                self.run.violations.append(f"a worker crashed: {text[-1200:]}")
        finally:
            if self.pool is not None:
                self.pool.terminate()

    async def _serve(self) -> None:
        async with AsyncExitStack() as stack:
            self.pool = await asyncpg.create_pool(
                self.run.url, min_size=1, max_size=6, command_timeout=30
            )
            worker = StallingWorker(self.pool, LEASE, HEARTBEAT, TIMEOUT)
            worker.stalls = self.stalls
            await worker.begin()
            self.worker = worker
            made = await stack.enter_async_context(self.run.assembled(self.pool, worker))
            self._instrument(made, worker)
            self.made = made
            stop = asyncio.Event()
            async with asyncio.TaskGroup() as group:
                group.create_task(worker.keep_alive(stop))
                group.create_task(worker.take_over(stop))
                group.create_task(self._flow(made, stop))

    async def _flow(self, made: Assembled, stop: asyncio.Event) -> None:
        assert made.flow is not None
        await made.flow.run()
        stop.set()

    def _instrument(self, made: Assembled, worker: StallingWorker) -> None:
        flow = made.flow
        assert flow is not None
        made.credential.value = Badge(worker=str(worker.id), until=worker.until)
        made.wire._permits = Permits(made.wire._permits, self.stalls)
        old = flow.journal
        journal = NotedJournal(*(getattr(old, name) for name in (
            "pool", "destination_id", "source", "worker_id", "compare")))  # fmt: skip
        journal.stalls, journal.began = self.stalls, {}
        flow.journal = flow.sender.journal = journal
        flow.push.journal = journal
        if not self.run.variant.full:
            flow.full_pass = self.run.no_full_pass  # type: ignore[method-assign]

    def kill(self) -> None:
        """As kill -9: connections break, nothing is cleaned up."""
        self.killed = True
        if self.pool is not None:
            self.pool.terminate()
        if self.made is not None:
            connector = self.made.wire.exchanges.connector
            if connector is not None:
                self.run.leftovers += [asyncio.ensure_future(one) for one in connector._close()]
        if self.task is not None:
            self.task.cancel()

    async def stop(self) -> None:
        if self.flow is not None:
            self.flow.stop.set()
            for bell in (self.flow.bells.plan, self.flow.bells.push, self.flow.bells.full):
                bell.set()
        assert self.task is not None
        done, _ = await asyncio.wait([self.task], timeout=5)
        if not done:
            self.run.violations.append("a worker did not stop when asked")
            self.kill()
            await asyncio.wait([self.task], timeout=5)


def _only_fenced(error: BaseException) -> bool:
    if isinstance(error, BaseExceptionGroup):
        return all(_only_fenced(one) for one in error.exceptions)
    return isinstance(error, Fenced)


def _innermost(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        error = next((e for e in error.exceptions if not _only_fenced(e)), error.exceptions[0])
    return error


@contextmanager
def fast() -> Iterator[None]:
    """Waits of milliseconds instead of seconds; requests know when their claim was begun."""
    waits = outcomes.FIRST_WAIT, outcomes.LONGEST_WAIT
    window, attempt = FullPass._window, Push.attempt

    async def noted(self: FullPass, run_id: int, first: str, last: str) -> None:
        claimed_at.set(time.time())
        await window(self, run_id, first, last)

    async def told(self: Push, claim: Claim) -> Pushed:
        if isinstance(self.journal, NotedJournal) and not claim.window:
            claimed_at.set(self.journal.began[claim.number])
        return await attempt(self, claim)

    outcomes.FIRST_WAIT, outcomes.LONGEST_WAIT = 0.02, 0.2
    FullPass._window = noted  # type: ignore[method-assign]
    Push.attempt = told  # type: ignore[method-assign]
    try:
        yield
    finally:
        outcomes.FIRST_WAIT, outcomes.LONGEST_WAIT = waits
        FullPass._window = window  # type: ignore[method-assign]
        Push.attempt = attempt  # type: ignore[method-assign]
