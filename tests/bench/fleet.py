"""One, two and four daemons on a provider that takes one contact a request and 50 ms for it."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import asyncpg

from . import server

ROOT = Path(__file__).resolve().parents[2]
LATENCY = 0.05
COUNTS = (1, 2, 4)
HERE = "select count(*) from syncd.mirror where state = 'here'"
WAIT = 900.0


async def measure(
    url: str, environ: Mapping[str, str], postmaster: int, n: int, daemons: int
) -> dict[str, Any]:
    """Contacts a second; what PostgreSQL and the daemons spent per 1,000 contacts."""
    wall, spent, processor = await _filled(url, environ, postmaster, n, daemons)
    return {
        "daemons": daemons,
        "contacts": n,
        "per_second": round(n / wall, 1),
        "wall_s": round(wall, 2),
        "pg_cpu_s_per_1000": round(1000 * spent / n, 3),
        "daemon_cpu_s_per_1000": round(1000 * processor / n, 3),
    }


async def _filled(
    url: str, environ: Mapping[str, str], postmaster: int, n: int, daemons: int
) -> tuple[float, float, float]:
    connection = await asyncpg.connect(url)
    await connection.execute("update syncd.destination set paused = true")
    running = [
        await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "syncd", "run"),
            cwd=ROOT,
            env=dict(environ),
            stderr=subprocess.DEVNULL,
        )
        for _ in range(daemons)
    ]
    try:
        alive = "select count(*) from syncd.worker where alive_until > now()"
        await _until(connection, alive, daemons)
        spent, processor = server.busy(postmaster), _children()
        began = time.monotonic()
        await connection.execute("update syncd.destination set paused = false")
        await _until(connection, HERE, n)
        wall = time.monotonic() - began
        spent = server.busy(postmaster) - spent
    finally:
        for one in running:
            one.send_signal(signal.SIGTERM)
        for one in running:
            await one.wait()
        await connection.close()
    return wall, spent, _children() - processor


def _children() -> float:
    times = os.times()
    return times.children_user + times.children_system


async def _until(connection: asyncpg.Connection, query: str, number: int) -> None:
    deadline = time.monotonic() + WAIT
    while (found := await connection.fetchval(query)) != number:
        if time.monotonic() > deadline:
            raise SystemExit(f"{found} of {number} after {WAIT:g} s")
        await asyncio.sleep(0.1)
