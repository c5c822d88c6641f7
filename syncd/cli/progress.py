"""How a backfill is shown while it runs: bars on a terminal, a log line now and then elsewhere."""

from __future__ import annotations

import asyncio
import contextlib
import sys
import time
from collections.abc import AsyncIterator

import structlog
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from syncd import log as logs
from syncd.backfill import Backfill
from syncd.backfill_part import Part
from syncd.cli.screen import Line
from syncd.estimate import spoken

log = structlog.get_logger()

EVERY = 10.0  # seconds between two log lines
NUMBERS = ("created", "updated", "withdrawn", "absent", "rejected", "held", "pending", "requests")


@contextlib.asynccontextmanager
async def shown(job: Backfill, console: Console) -> AsyncIterator[None]:
    """Show the job's progress until the block ends, on *console* (standard error)."""
    painter = _bars(job, console) if console.is_terminal else _lines(job)
    async with painter:
        yield


def announced(part: Part) -> str:
    """What is about to be done, in a sentence."""
    e = part.estimate
    if not part.ready:
        return f"{part.destination.name}: nothing is sent ({part.why or 'no answer'})"
    there = f"{part.destination.name}: {e.contacts:,} contacts, {e.here:,} of them there"
    if not e.changes:
        return f"{there}; what differs is sent as it is found"
    requests = "1 request" if e.requests == 1 else f"{e.requests:,} requests"
    return f"{there}; about {e.changes:,} to send: {requests}, {spoken(e.seconds)} by the limits"


@contextlib.asynccontextmanager
async def _every(seconds: float, tick: object) -> AsyncIterator[None]:
    async def beat() -> None:
        while True:
            await asyncio.sleep(seconds)
            tick()  # type: ignore[operator]

    task = asyncio.create_task(beat())
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


@contextlib.asynccontextmanager
async def _lines(job: Backfill) -> AsyncIterator[None]:
    logs.configure("info")

    def announce() -> None:
        for part in job.parts:
            log.info("backfill begins", plan=announced(part))

    def tell() -> None:
        for part in job.parts:
            done = {k: v for k, v in part.tally.outcomes.items() if v}
            of = part.estimate.contacts
            log.info("backfill", destination=part.destination.name, seen=part.seen, of=of, **done)

    job.announce = announce
    async with _every(EVERY, tell):
        yield


class _Rate(TextColumn):
    """Contacts a second since the start."""

    def __init__(self) -> None:
        super().__init__("")

    def render(self, task: Task) -> Line:
        elapsed = task.finished_time or task.elapsed
        rate = task.completed / elapsed if elapsed else 0
        return Line(f"{rate:,.0f}/s", style="cyan")


@contextlib.asynccontextmanager
async def _bars(job: Backfill, console: Console) -> AsyncIterator[None]:
    progress = Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        _Rate(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=console,
        transient=True,
    )
    names = [part.destination.name for part in job.parts]
    tasks = {name: progress.add_task(f"{name} is read", total=None) for name in names}

    def announce() -> None:
        for part in job.parts:
            progress.console.print(announced(part))
            progress.reset(tasks[part.destination.name], description=part.destination.name)

    def paint() -> None:
        for part in job.parts:
            total = max(part.estimate.contacts, part.seen) or None
            progress.update(tasks[part.destination.name], completed=part.seen, total=total)

    job.announce = announce
    try:
        with progress:
            logs.configure("warning", stream=sys.stderr)  # above the bars, not through them
            async with _every(0.2, paint):
                yield
    finally:
        logs.configure("warning", stream=sys.stderr)


def table(job: Backfill, began: float) -> Table:
    """The summary, for eyes."""
    made = Table(title=None, box=None, pad_edge=False, header_style="bold")
    made.add_column("destination")
    for name in NUMBERS:
        made.add_column(name, justify="right")
    made.add_column("in step")
    for part in job.parts:
        said = part.summary()
        in_step = Line("yes", "green") if part.in_step else Line("no", "bold red")
        made.add_row(
            part.destination.name, *(f"{said[n]:,}" if said[n] else "·" for n in NUMBERS), in_step
        )
    made.caption = f"{time.monotonic() - began:.1f} s"
    made.caption_justify = "left"
    return made
