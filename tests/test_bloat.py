"""The journal does not grow with what has passed through it."""

from __future__ import annotations

import asyncpg
from bench.bloat import settled

FIRST = 20_000
DUE = """
select (o.option)[1]::int + (o.option)[2]::real * $1 < $1
  from pg_class c,
       lateral (select array_agg(option_value order by option_name desc)
                  from pg_options_to_table(c.reloptions)
                 where option_name in ('autovacuum_vacuum_threshold',
                                       'autovacuum_vacuum_scale_factor')) o (option)
 where c.oid = 'syncd.journal'::regclass"""


async def test_the_journal_stays_as_small_as_it_was_after_twenty_thousand(database: str) -> None:
    """VACUUM is run here where autovacuum, by the settings of the migration, is due: how soon it
    comes is the machine's affair. `python -m tests.bench bloat` leaves it to autovacuum."""
    connection = await asyncpg.connect(database)
    await connection.execute("alter table syncd.journal set (autovacuum_enabled = off)")
    sizes = []
    async for size in settled(connection, 200_000, FIRST):
        sizes.append(size)
        assert await connection.fetchval(DUE, FIRST)
        await connection.execute("vacuum syncd.journal")
    await connection.close()

    assert len(sizes) == 10
    assert max(sizes) <= 3 * sizes[0]
