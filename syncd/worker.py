"""A live process: its lease, and the fence that its requests must pass.

A worker sends only while the time since its last heartbeat, plus the time a request may take, is
under the lease; so whoever takes its work over finds none of its requests still under way.
"""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import Callable
from contextlib import suppress

import structlog

import syncd
from syncd import sql
from syncd.db import LOST, Pool, drop
from syncd.errors import Fenced
from syncd.orphans import leave, reap

log = structlog.get_logger()

Clock = Callable[[], float]


def clock() -> float:
    """Seconds that also pass while the machine sleeps, where the system can tell."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


class Worker:
    """One row of `worker`, kept alive."""

    def __init__(
        self, pool: Pool, lease: float, heartbeat: float, timeout: float, now: Clock = clock
    ) -> None:
        self.pool = pool
        self.lease = lease
        self.heartbeat = heartbeat
        self.timeout = timeout
        self.now = now
        self.id = 0
        self.alive_since = 0.0  # when the last acknowledged heartbeat was begun

    async def begin(self) -> None:
        began = self.now()
        self.id = await self.pool.fetchval(
            sql.journal.begin_worker,
            socket.gethostname(),
            os.getpid(),
            syncd.__version__,
            self.lease,
        )
        self.alive_since = began

    def fence(self) -> None:
        """Raise Fenced unless a request sent now ends before the lease does."""
        if self.now() - self.alive_since + self.timeout >= self.lease:
            raise Fenced("the lease of this worker is too old to send anything")

    async def beat(self) -> bool:
        """Renew the lease; False when it had run out already."""
        began = self.now()
        # A network that swallows everything gives no error, and all connections wait in it.
        async with self.pool.acquire(timeout=self.lease) as connection:
            renewed = await connection.fetchval(
                sql.journal.heartbeat, self.id, self.lease, timeout=self.lease
            )
        if renewed is None:
            return False
        self.alive_since = began
        return True

    async def keep_alive(self, stop: asyncio.Event) -> None:
        """Beat until *stop*. Fenced once the lease is lost: whatever this process has in flight may
        belong to others now."""
        while not stop.is_set():
            try:
                if not await self.beat():
                    raise Fenced("the lease of this worker ran out; others may have its work")
            except LOST as error:
                log.warning("heartbeat failed", error=type(error).__name__)
                if self.now() - self.alive_since > self.lease:
                    drop(self.pool)
                    raise Fenced("the database was away for longer than the lease") from error
            try:
                await asyncio.wait_for(stop.wait(), self.heartbeat)
            except TimeoutError:
                continue

    async def take_over(self, stop: asyncio.Event) -> None:
        """Until *stop*, take back what dead workers left; never in the way of a heartbeat."""
        while not stop.is_set():
            with suppress(*LOST):  # the heartbeat says so
                await reap(self.pool)
            with suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), self.heartbeat)

    async def end(self) -> None:
        """Give up the lease; what is still in flight is doubtful, but nobody has crashed."""
        await leave(self.pool, self.id)
        await self.pool.execute(sql.journal.end_worker, self.id)
