"""What a worker left in flight: taken back, due and in doubt."""

from __future__ import annotations

from contextlib import suppress

import asyncpg
import structlog

from syncd import sql
from syncd.db import Connection, Pool, Row, transact

log = structlog.get_logger()


async def reap(pool: Pool, crash_limit: int = 2) -> int:
    """Take back what dead workers had in flight: due, doubtful; returns how many rows.

    Sessions that dead workers left in a transaction are ended. Rows that are still locked are left
    for the next call: waiting for them would cost the caller its own lease.
    """
    total = 0
    if ended := await pool.fetchval(sql.journal.end_sessions):
        log.warning("ended what a dead worker still had open in the database", sessions=ended)
    await pool.execute(sql.plan.abandoned)
    for row in await pool.fetch(sql.journal.orphaned):
        with suppress(asyncpg.LockNotAvailableError):
            total += await _take_back(pool, row, crash_limit, crashed=True)
    if total:
        log.warning("taken over from a dead worker", rows=total)
    return total


async def leave(pool: Pool, worker_id: int) -> int:
    """As `reap`, of a worker that was told to stop: nobody counts it as a crash."""
    total = 0
    for row in await pool.fetch(sql.journal.in_hand, worker_id):
        total += await _take_back(pool, row, 0, crashed=False)
    return total


async def _take_back(pool: Pool, row: Row, crash_limit: int, *, crashed: bool) -> int:
    destination, worker = row["destination_id"], row["worker"]

    async def work(connection: Connection) -> int:
        if crashed:
            await connection.execute("set local lock_timeout = '300ms'")
        await connection.fetchrow(sql.plan.lock_feed, destination)  # it makes rows: see `_settle`
        freed = await connection.fetchrow(
            sql.journal.reap, destination, worker, crash_limit, crashed
        )
        assert freed is not None
        n = freed["n"]
        await connection.execute(sql.journal.doubt_removal, destination, freed["removals"])
        await connection.execute(sql.journal.mail_off, destination, freed["silences"])
        for window in await connection.fetch(sql.window.orphaned, destination, worker):
            ids = window["ids"] or []
            await connection.execute(
                sql.window.doubt, destination, ids, window["addresses"], window["lists"]
            )
            await connection.execute(sql.window.finish, destination, window["claim"])
            n += len(ids)
        return int(n)

    return await transact(pool, work)
