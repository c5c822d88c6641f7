"""The worker processes: the real program, to be killed, stopped, and shown another time of day."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from service import Process

HERE = Path(__file__).resolve().parent
LEASE, TIMEOUT = 6.0, 3.0
SETTINGS: Mapping[str, str] = {
    "LEASE_SECONDS": str(LEASE),
    "HEARTBEAT_SECONDS": "0.5",
    "REQUEST_TIMEOUT_SECONDS": str(TIMEOUT),
    "POLL_SECONDS": "0.2",
    "CONTROL_POLL_SECONDS": "0.5",
    "DRAIN_SECONDS": "4",
    "POOL_SIZE": "5",
    "WINDOW": "10",
    "LOG_FORMAT": "json",
}
STOPS = 60.0  # seconds within which a process that was asked to has stopped, on any machine
UNREACHABLE = 69  # its exit code where the database is away when it starts


class Worker(Process):
    """One `syncd run`, with a clock of its own."""

    def __init__(self, environ: Mapping[str, str], folder: Path) -> None:
        self.clock = folder / "clock"
        super().__init__(("run",), {
            **environ, "CHAOS_CLOCK": str(self.clock),
            "PYTHONPATH": os.pathsep.join([str(HERE / "clock"), *_path(environ)]),
        }, folder)  # fmt: skip
        self.asked = False  # to end, or killed

    def step(self, seconds: float) -> None:
        self.clock.write_text(str(seconds), "ascii")


class Fleet:
    """So many workers; those that were killed are replaced."""

    def __init__(self, size: int, environ: Mapping[str, str], folder: Path) -> None:
        self.size, self.folder = size, folder
        self.environ = {**environ, **{f"SYNCD_{k}": v for k, v in SETTINGS.items()}}
        self.all: list[Worker] = []
        self.counts: Counter[str] = Counter()
        self.stops: list[tuple[float, float]] = []
        self.deaths: list[str] = []

    @property
    def alive(self) -> list[Worker]:
        return [one for one in self.all if one.alive]

    def fill(self) -> None:
        """Start as many as are missing; who ended unasked is noted, save where nothing answered."""
        for one in self.all:
            if not one.alive and not one.asked:
                one.asked = True
                code = one._popen.returncode
                if code != UNREACHABLE:
                    self.deaths.append(
                        f"{one.out.parent.name} ended with {code}: {one.said[-1500:]}"
                    )
        while len(self.alive) < self.size:
            folder = self.folder / f"{len(self.all):03d}"
            folder.mkdir()
            self.all.append(Worker(self.environ, folder))
            self.counts["starts"] += 1

    async def strike(self, rng: random.Random) -> None:
        """Something happens to one of them."""
        self.fill()
        victim = rng.choice(self.alive)
        name = rng.choices(("kill", "term", "stop", "clock", "none"), (4, 1, 2, 1, 1))[0]
        self.counts[name] += 1
        match name:
            case "kill":
                victim.asked = True
                victim.kill()
            case "term":
                victim.asked = True
                victim.tell(signal.SIGTERM)
            case "stop":
                await self._stop(victim, rng.choice((0.3, 2.0, LEASE + 0.5, LEASE + 1.5)))
            case "clock":
                victim.step(rng.choice((-3600.0, -5.0, 0.0, 5.0, 86_400.0)))
        self.fill()

    async def _stop(self, victim: Worker, seconds: float) -> None:
        began = time.time()
        victim.tell(signal.SIGSTOP)
        try:
            await asyncio.sleep(seconds)
        finally:
            victim.tell(signal.SIGCONT)
            if time.time() - began > LEASE - TIMEOUT - 1:
                self.stops.append((began, time.time()))

    async def end(self) -> None:
        """All are asked to stop; whoever does not is killed, and noted."""
        self.fill_not()
        for one in self.alive:
            one.asked = True
            one.tell(signal.SIGTERM)
        until = time.monotonic() + STOPS
        while self.alive and time.monotonic() < until:
            await asyncio.sleep(0.05)
        for one in self.alive:
            self.deaths.append(f"{one.out.parent.name} did not stop when asked: {one.said[-1500:]}")
            one.kill()

    def fill_not(self) -> None:
        self.size = 0
        self.fill()

    def kill(self) -> None:
        for one in self.alive:
            one.kill()

    def logs(self) -> dict[str, str]:
        return {one.out.parent.name: one.said + one.printed for one in self.all}


def _path(environ: Mapping[str, str]) -> list[str]:
    return [environ["PYTHONPATH"]] if "PYTHONPATH" in environ else []


def environment(url: str, secrets: Mapping[str, str], listen: bool) -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("SYNCD_", "PG"))}
    return {**kept, "SYNCD_DATABASE_URL": url, "SYNCD_LISTEN": str(listen).lower(), **secrets}
