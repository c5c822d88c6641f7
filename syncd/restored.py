"""A database that went back: restored from a backup, or failed over to a server that lags behind.

Then nothing in flight is certain, and what was written since the backup is known to the providers
alone: all is doubted, and read again before anything is sent. Noticed by what no copy takes along:
the cluster's own number, its timeline, the number of our table (of a dump that was read back), a
position ahead of the server's count; and, by a process that lives through it, by its write-ahead
log, which never gets shorter otherwise.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress

import asyncpg
import structlog

from syncd import sql
from syncd.db import LOST, Pool
from syncd.errors import Fenced

log = structlog.get_logger()


class Watermark:
    """How far this process has seen the server's log written to its disk."""

    def __init__(self) -> None:
        self.highest = 0

    async def went_back(self, pool: Pool) -> bool:
        """Whether it is shorter now. A server that does not tell has not."""
        before = self.highest  # before the question: who asks at once may be answered first
        try:
            now = await pool.fetchval(sql.plan.flushed)
        except LOST:
            raise
        except asyncpg.PostgresError:  # some who offer PostgreSQL as a service forbid the question
            return False
        self.highest = max(self.highest, now or 0)
        if now is None or now >= before:
            return False
        self.highest = now
        return True

    async def keep(self, pool: Pool, stop: asyncio.Event, every: float) -> None:
        """Look now and then, until *stop*. Fenced when it went back: all begins anew."""
        while not stop.is_set():
            with suppress(*LOST):  # the heartbeat says so
                if await self.went_back(pool):
                    await recover(pool, went_back=True)
                    raise Fenced("the database was restored under this worker")
            with suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), every)


async def recover(pool: Pool, *, went_back: bool = False) -> None:
    """Doubt everything at the destinations whose feed is of another time or server."""
    engine = await pool.fetchrow(sql.plan.engine)
    assert engine is not None
    now = (engine["system_identifier"], engine["timeline"], engine["relation"])
    for feed in await pool.fetch(sql.app.feeds):
        known = (feed["system_identifier"], feed["timeline"], feed["relation"])
        other = any(a != b for a, b in zip(known, now, strict=True) if a is not None)
        if other or feed["ahead"] or went_back:
            log.warning("the database was restored or failed over", feed=feed["destination_id"])
            await pool.execute(sql.plan.doubt_everything, feed["destination_id"])
        if known != now:
            await pool.execute(sql.plan.stamp_engine, feed["destination_id"], *now)
