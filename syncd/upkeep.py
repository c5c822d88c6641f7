"""Housekeeping: what is not needed any more goes, what the planner must know is measured."""

from __future__ import annotations

from syncd import control, sql
from syncd.db import Pool
from syncd.settings import Settings


async def tidy(pool: Pool, settings: Settings) -> None:
    """Everything that is done now and then; safe beside any number of others who do it."""
    await control.release_decided(pool)
    await pool.execute(sql.app.drop_backlog, settings.max_keys)
    await pool.fetchval(sql.app.trim_change)
    await pool.fetchval(sql.app.keep_deliveries, settings.keep_deliveries_days)
    await pool.execute(sql.app.trim_mirror, int(settings.keep_gone_days))
    await pool.execute(sql.app.trim_workers)
    await pool.execute(sql.audit.clear_old)
    await measure(pool)


async def measure(pool: Pool) -> None:
    """ANALYZE what has changed a lot: plans made with the statistics of an empty table go wrong."""
    for row in await pool.fetch(sql.app.analyze_wanted):
        await pool.execute(f"analyze {row['relation']}")  # quoted by regclass
