"""What watching a table costs its writers: `python -m tests.bench.capture` prints one JSON line.

Bulk: an update of 100,000 rows of a watched table against the same table unwatched, alternating,
each pair its own ratio, the median of them; 1.7 is the bar. Single: 8 connections commit updates
of one row each. Tables have the default fillfactor; where every update is HOT the ratio is
higher, as there is less to compare with. A private PostgreSQL with fsync on is started, unless
SYNCD_BENCH_URL names one (its database then gets, and loses, a schema `bench`).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import asyncpg

from syncd import db
from syncd.migrate import migrate

ROWS = 100_000
PAIRS = 5
SECONDS = 4.0
CONNECTIONS = 8
MODES = {"quiet": False, "notify": True}


@contextlib.contextmanager
def postgres() -> Iterator[str]:
    """The address of the database to measure in."""
    if url := os.environ.get("SYNCD_BENCH_URL"):
        yield url
        return
    folder = Path(tempfile.mkdtemp(prefix="syncd-bench-"))
    folder.chmod(0o755)
    try:
        with db.server(f"embedded:{folder / 'pg'}") as url:
            yield url
    finally:
        shutil.rmtree(folder, ignore_errors=True)


async def prepare(connection: asyncpg.Connection) -> None:
    """Two equal tables of the shape of syncd.contact, one to be watched."""
    await migrate(connection)
    await connection.execute("drop schema if exists bench cascade; create schema bench")
    for table in ("plain", "watched"):
        await connection.execute(f"""
            create table bench.{table} (like syncd.contact including all)
              with (autovacuum_enabled = off);
            insert into bench.{table} (id, email, first_name, city)
            select g, 'person' || g || '@example.test', 'Person ' || g, 'Utrecht'
              from generate_series(1, {ROWS}) g""")
    await connection.execute("vacuum analyze bench.plain")
    await connection.execute("vacuum analyze bench.watched")


async def timed_update(connection: asyncpg.Connection, table: str) -> float:
    """Seconds that one update of every row takes, from a clean table."""
    await connection.execute(f"vacuum bench.{table}")
    await connection.execute("truncate syncd.change")
    await connection.execute("checkpoint")
    began = time.perf_counter()
    await connection.execute(f"update bench.{table} set city = city || '', updated_at = now()")
    return time.perf_counter() - began


async def bulk(connection: asyncpg.Connection) -> dict[str, float | list[float]]:
    """The median ratio of watched to plain, and what it is the median of."""
    pairs = []
    for turn in range(PAIRS + 1):  # the first pair warms caches and is not counted
        order = ("plain", "watched") if turn % 2 else ("watched", "plain")
        seconds = {table: await timed_update(connection, table) for table in order}
        pairs.append((seconds["plain"], seconds["watched"]))
    ratios = [watched / plain for plain, watched in pairs[1:]]
    return {
        "ratio": round(statistics.median(ratios), 2),
        "ratios": [round(ratio, 2) for ratio in ratios],
        "plain_ms": round(1000 * statistics.median(plain for plain, _ in pairs[1:])),
        "watched_ms": round(1000 * statistics.median(watched for _, watched in pairs[1:])),
    }


async def commits(url: str, table: str) -> float:
    """Single-row commits a second over all connections."""
    pool = await asyncpg.create_pool(url, min_size=CONNECTIONS, max_size=CONNECTIONS)
    until = time.perf_counter() + SECONDS

    async def writer(number: int) -> int:
        made = 0
        async with pool.acquire() as connection:
            text = f"update bench.{table} set city = 'Delft' where id = $1"
            statement = await connection.prepare(text)
            while time.perf_counter() < until:
                await statement.fetch(str(number * 1000 + made % 1000 + 1))
                made += 1
        return made

    total = sum(await asyncio.gather(*(writer(number) for number in range(CONNECTIONS))))
    await pool.close()
    return total / SECONDS


async def measure(url: str) -> dict[str, object]:
    """Every figure, by mode; leaves nothing behind in the database but syncd's own schema."""
    connection = await asyncpg.connect(url)
    await prepare(connection)
    found: dict[str, object] = {"rows": ROWS, "server": connection.get_server_version().major}
    plain = [await commits(url, "plain")]
    for mode, notify in MODES.items():
        await connection.execute(
            f"select syncd.watch('bench.watched', 'id', notify => {str(notify).lower()})"
        )
        single = await commits(url, "watched")
        plain.append(await commits(url, "plain"))
        found[mode] = {**await bulk(connection), "commits": round(single)}
    found["plain_commits"] = round(statistics.mean(plain))
    await connection.execute("drop schema bench cascade")
    await connection.close()
    return found


def main() -> None:
    with postgres() as url:
        found = asyncio.run(measure(url))
    sys.stdout.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    main()
