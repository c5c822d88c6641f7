"""From COMMIT to the provider's door: the daemon beside the least loop that could do it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Mapping
from itertools import chain
from pathlib import Path
from typing import Any

import aiohttp
import asyncpg

from . import bare

PER_SECOND = 50
SECONDS = 8.0
ROOT = Path(__file__).resolve().parents[2]

Line = tuple[str, float | None, dict[str, Any]]


@contextlib.asynccontextmanager
async def running(what: str, environ: Mapping[str, str]) -> AsyncIterator[None]:
    """The daemon, or the minimal loop, as a process; ready, and warm after the first changes."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.bench.runner", what),
        cwd=ROOT,
        env=dict(environ),
        stdout=subprocess.PIPE,
    )
    try:
        assert process.stdout
        await process.stdout.readline()
        await asyncio.sleep(3.0)
        yield
        if process.returncode is not None:
            raise SystemExit(f"{what} ended with {process.returncode}")
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGTERM if what == "run" else signal.SIGKILL)
        await process.wait()


async def arrivals(provider: str) -> Mapping[str, float]:
    async with aiohttp.ClientSession() as session, session.get(f"{provider}/_seen") as answer:
        told = await answer.json()
        return dict(told["marks"])


async def delays(url: str, provider: str, most: int, seconds: float) -> list[float]:
    """Milliseconds from the return of each single-row commit to the provider's receipt."""
    connection = await asyncpg.connect(url)
    statement = await connection.prepare("update contacts set company = $2 where id = $1")
    await arrivals(provider)
    committed: dict[str, float] = {}
    base = random.randrange(10**9)
    count = int(PER_SECOND * seconds)
    began = time.monotonic()
    for number in range(count):
        mark = f"mark-{base + number}-"
        await asyncio.sleep(max(0.0, began + number / PER_SECOND - time.monotonic()))
        await statement.fetch(random.randint(1, most), mark)
        committed[mark] = time.monotonic()
    await connection.close()
    await asyncio.sleep(2.0)
    came = await arrivals(provider)
    # A contact drawn twice within milliseconds may arrive once, with the later mark.
    assert len(came) >= count - 3, f"{len(came)} of {count} arrived"
    return [1000 * (came[mark] - at) for mark, at in committed.items() if mark in came]


def _point(values: list[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


def _facts(values: list[float]) -> dict[str, Any]:
    points = (("p50_ms", 0.5), ("p90_ms", 0.9), ("p99_ms", 0.99), ("max_ms", 1.0))
    return {name: round(_point(values, share), 2) for name, share in points} | {"of": len(values)}


async def _minimal(url: str, environ: Mapping[str, str], most: int) -> list[float]:
    connection = await asyncpg.connect(url)
    await connection.execute(bare.WATCH)
    try:
        async with running("minimal", environ):
            await delays(url, environ["BENCH_PROVIDER"], most, 1.0)
            return await delays(url, environ["BENCH_PROVIDER"], most, SECONDS)
    finally:
        await connection.execute(bare.UNWATCH)
        await connection.close()


async def _daemon(
    url: str, environ: Mapping[str, str], most: int, *, held_open: bool
) -> list[float]:
    connection = await asyncpg.connect(url)
    await connection.execute("select syncd.watch('contacts', 'id', 'bench')")
    other = await asyncpg.connect(url)
    try:
        async with running("run", environ):
            await delays(url, environ["BENCH_PROVIDER"], most, 1.0)
            if held_open:
                await other.execute("begin; select pg_current_xact_id()")
            return await delays(url, environ["BENCH_PROVIDER"], most, SECONDS)
    finally:
        await other.close()
        await connection.execute("select syncd.unwatch('contacts')")
        await connection.close()


async def measure(url: str, environ: Mapping[str, str], pairs: int) -> list[Line]:
    """One line for the daemon beside the minimal loop, one with a transaction held open."""
    connection = await asyncpg.connect(url)
    most = await connection.fetchval("select max(id) from contacts")
    await connection.close()
    quiet = {**os.environ, **environ}
    least, ours = [], []
    for _ in range(pairs):
        least.append(await _minimal(url, quiet, most))
        ours.append(await _daemon(url, quiet, most, held_open=False))
    held = await _daemon(url, quiet, most, held_open=True)
    ratio = statistics.median(
        _point(o, 0.5) / _point(m, 0.5) for o, m in zip(ours, least, strict=True)
    )
    facts = {"syncd": _facts([*chain(*ours)]), "minimal": _facts([*chain(*least)])}
    each = [[round(_point(o, 0.5), 2), round(_point(o, 0.99), 2)] for o in ours]
    return [
        ("latency", ratio, {**facts, "p50_p99_each": each}),
        ("latency, a transaction held open", None, {"syncd": _facts(held)}),
    ]
