"""What contacts cost: bytes a row in our tables, and seconds a million in each kind of pass."""

from __future__ import annotations

from typing import Any

import asyncpg

SHARE = 10  # per cent of the contacts that are changed at once, to size what waits
SIZES = """
select pg_total_relation_size($1::regclass)::float8
       + coalesce((select sum(pg_total_relation_size(t.relid))::float8
                     from pg_partition_tree($1::regclass) t), 0)"""
ROOM = """
select sum(pg_total_relation_size(c.oid))::float8
  from pg_class c where c.relname = any($1) and c.relnamespace = 'public'::regnamespace"""
WATCH = "select syncd.watch('contacts', 'id', 'bench')"
CHANGE = f"update contacts set company = 'moved ' || id where id % {100 // SHARE} = 0"


async def row_bytes(url: str, *tables: str) -> dict[str, int]:
    """Bytes a row, its share of every index included, of these tables of ours."""
    connection = await asyncpg.connect(url)
    found = {}
    for table in tables:
        rows = await connection.fetchval(f"select count(*) from syncd.{table}")
        size = await connection.fetchval(SIZES, f"syncd.{table}")
        found[table] = round(size / rows)
    await connection.close()
    return found


async def source_bytes(url: str, n: int) -> int:
    """Bytes a contact in the source itself, to compare with."""
    connection = await asyncpg.connect(url)
    size: int = await connection.fetchval(ROOM, ["contacts", "memberships"])
    await connection.close()
    return round(size / n)


def per_million(told: dict[str, Any], n: int) -> dict[str, float]:
    """What a run of n contacts took, scaled to a million."""
    return {name: round(told[name] * 1e6 / n, 1) for name in ("wall_s", "cpu_s", "pg_cpu_s")}
