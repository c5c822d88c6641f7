"""syncd in a process of its own: `-m tests.bench.runner backfill|pass|plan|keyed|minimal|run`.

Prints one JSON line (`run` and `minimal` serve until killed). The database is
SYNCD_DATABASE_URL's, the destination is `bench`. What is measured starts where the ideal script's
clock starts: connected, everything imported; the provider has been read.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import re
import resource
import statistics
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import asyncpg
import orjson
import uvloop

from syncd import app, log, settings
from syncd.assemble import Assembled
from syncd.db import Pool
from syncd.flow import Flow
from syncd.plan import Passed

from . import bare


def peak_mb() -> float:
    """The most this process has ever had in memory (getrusage would count its parent's, too)."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found
    return round(int(found[1]) / 1024, 1)


def used() -> float:
    spent = resource.getrusage(resource.RUSAGE_SELF)
    return spent.ru_utime + spent.ru_stime


@asynccontextmanager
async def assembled() -> AsyncIterator[tuple[Pool, Assembled, Flow]]:
    """The destination, ready: opt-outs read, the account learned."""
    async with app.opened(settings.load()) as opened, opened.worker() as worker:
        everyone = await opened.destinations()
        async with opened.assembled(everyone[0], everyone, worker) as made:
            assert made.flow is not None
            if not await made.flow.prepare():
                raise SystemExit(f"could not prepare: {made.flow.tally.failure!r}")
            yield opened.pool, made, made.flow


async def timed(work: Callable[[], Awaitable[object]]) -> dict[str, Any]:
    """Wall and processor time of *work*, and the peak of memory since the process began."""
    spent, began = used(), time.perf_counter()
    await work()
    wall = time.perf_counter() - began
    return {"wall_s": round(wall, 3), "cpu_s": round(used() - spent, 3), "rss_mb": peak_mb()}


async def backfill() -> dict[str, Any]:
    async with assembled() as (_, made, flow):
        made.wire.requests.clear()
        told = await timed(flow.backfill)
        failure, requests = flow.tally.failure, made.wire.requests.total()
        said = {"outcomes": flow.tally.outcomes, "failure": failure and failure.reason}
        return {**told, "requests": requests, **said}


async def full_pass() -> dict[str, Any]:
    async with assembled() as (_, _, flow):
        return await timed(flow.full_pass)


async def plan() -> dict[str, Any]:
    """What has changed enters the journal, and stays there."""
    async with assembled() as (_, made, _):
        passed: list[Passed] = []

        async def once() -> None:
            passed.append(await made.planner.keyed_pass())

        return {**await timed(once), "planned": passed[0].planned}


async def keyed() -> dict[str, Any]:
    """Rounds of: change contacts, the bare query of those keys, the keyed pass, push."""
    count, rounds = int(sys.argv[2]), int(sys.argv[3])
    pairs: list[tuple[float, float, float]] = []
    async with assembled() as (pool, made, flow):
        most = await pool.fetchval("select max(id) from contacts")
        connection = await asyncpg.connect(os.environ["SYNCD_DATABASE_URL"])
        statement = await connection.prepare(bare.KEYED)
        for number in range(rounds + 2):
            ids = sorted(random.sample(range(1, most + 1), count))
            await connection.execute(
                "update contacts set company = 'changed ' || $2 where id = any($1::bigint[])",
                ids,
                f"{number} {time.time()}",
            )
            began = time.perf_counter()
            await statement.fetch(ids)
            middle = time.perf_counter()
            passed = await made.planner.keyed_pass()
            end = time.perf_counter()
            assert passed.planned == count, passed
            await flow.pump(until_empty=True)
            pairs.append((middle - began, end - middle, time.perf_counter() - end))
        await connection.close()
    pairs = pairs[2:]  # the first ones prepare statements
    bare_ms, pass_ms, push_ms = (1000 * statistics.median(one) for one in zip(*pairs, strict=True))
    ratio = statistics.median(b / a for a, b, _ in pairs)
    return {
        "keys": count,
        "bare_ms": round(bare_ms, 2),
        "keyed_pass_ms": round(pass_ms, 2),
        "push_ms": round(push_ms, 2),
        "ratio": round(ratio, 2),
    }


async def minimal() -> None:
    """The least that brings a change out: outbox row, NOTIFY, delete returning, POST."""
    bell = asyncio.Event()
    hearing = await asyncpg.connect(os.environ["SYNCD_DATABASE_URL"])
    await hearing.add_listener("outbox", lambda *_: bell.set())
    connection = await asyncpg.connect(os.environ["SYNCD_DATABASE_URL"])
    statement = await connection.prepare(bare.DRAIN)
    async with aiohttp.ClientSession() as session:
        print("ready", flush=True)
        while True:
            await bell.wait()
            bell.clear()
            while rows := await statement.fetch():
                body = orjson.dumps({"d": [bare.record(row) for row in rows]})
                url = os.environ["BENCH_PROVIDER"] + "/1/upload"
                async with session.post(url, data=body) as answer:
                    await answer.read()


async def daemon() -> None:
    print("ready", flush=True)
    await app.run(settings.load())


if __name__ == "__main__":
    works: dict[str, Callable[[], Awaitable[Any]]] = {
        "backfill": backfill,
        "pass": full_pass,
        "plan": plan,
        "keyed": keyed,
        "minimal": minimal,
        "run": daemon,
    }
    log.configure("warning", "json")
    result: Any = uvloop.run(works[sys.argv[1]]())  # type: ignore[arg-type]
    if result is not None:
        print(json.dumps(result))
