"""The journal's size while rows come and go: what autovacuum, as it is set here, keeps up with.

Rows are planned, claimed and settled a thousand at a time by the statements that the program uses;
only the provider is left out. Also the measure of tests/test_bloat.py.
"""

from __future__ import annotations

from collections.abc import AsyncIterator

import asyncpg

from syncd import sql

BATCH = 1000
PLAN = """
insert into syncd.journal (destination_id, contact_id, wish, lane, state)
select 1, 'c' || ((n * 7919) % 10000000), 'upsert', 1, 'due'
  from generate_series($1::bigint, $1::bigint + $2 - 1) n"""


async def settled(connection: asyncpg.Connection, number: int, every: int) -> AsyncIterator[int]:
    """Settle *number* contacts; yields the bytes of the journal and its indexes now and then."""
    for done in range(0, number, BATCH):
        await connection.execute(PLAN, done, BATCH)
        taken = await connection.fetch(sql.journal.claim, 1, BATCH, 1)
        ids = sorted(row["contact_id"] for row in taken)
        assert len(ids) == BATCH
        async with connection.transaction():
            await connection.fetch(sql.journal.lock, 1, ids, taken[0]["claim"])
            await connection.execute(sql.journal.drop, 1, ids)
        if (done + BATCH) % every == 0:
            yield await connection.fetchval("select pg_total_relation_size('syncd.journal')")
