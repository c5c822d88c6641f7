"""`backfill` and `plan`."""

from __future__ import annotations

import asyncio
import signal
import sys
import time
from typing import Annotated

import typer

from syncd import faults
from syncd.app import App, on_signals
from syncd.backfill import Backfill
from syncd.cli import (
    Config,
    Dests,
    Json,
    command,
    console,
    opened_app,
    output,
    preview_page,
    print_json,
    remark,
)
from syncd.cli import progress as screen
from syncd.control import Destination
from syncd.errors import ConfigError
from syncd.preview import Preview, Previewer


@command(example="syncd backfill marketing --only newsletter")
async def backfill(
    dest: Dests = None,
    only: Annotated[
        str | None, typer.Option("--only", metavar="LIST", help="Members of this list only.")
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Send also what is in step; guard and consent hold.")
    ] = False,
    json: Json = False,
    config: Config = None,
) -> int:
    """Bring destinations in step and end. Stop it and start it again at will; it works beside a
    running daemon."""
    began = time.monotonic()
    async with opened_app(config) as app:
        job = Backfill(app, await chosen(app, dest), force=force, only=only)
        signalled = await until_signal(app, job)
    if json or not sys.stdout.isatty():
        print_json(job.summary())
    else:
        console().print(screen.table(job, began))
    for line in remarks(job):
        remark(line)
    return 128 + signalled if signalled else job.exit_code


@command(example="syncd plan marketing --sample 5")
async def plan(
    dest: Dests = None,
    sample: Annotated[
        int, typer.Option("--sample", metavar="N", min=0, help="Contacts shown of each kind.")
    ] = 3,
    json: Json = False,
    config: Config = None,
) -> None:
    """Show what a full pass would do: counts, examples, requests, time. Writes nothing."""
    async with opened_app(config) as app:
        previews = await previewed(app, await chosen(app, dest), sample)
    data = {"destinations": {one.destination.name: one.summary() for one in previews}}
    output(json, data, lambda on: preview_page.show(previews, on))


async def previewed(app: App, rows: list[Destination], sample: int) -> list[Preview]:
    """One after the other; ConfigError with every fault of all of them."""
    if found := await faults.find(app.pool, app.secrets, rows):
        raise ConfigError(*found)
    everyone, done = await app.destinations(), []
    for row in rows:
        async with app.assembled(row, everyone) as made:
            done.append(await Previewer(app.pool, made, app.settings.window, sample).run())
    return done


async def chosen(app: App, names: list[str] | None) -> list[Destination]:
    """The destinations named (none: all); ConfigError where there is none at all."""
    found = list(await app.destinations(names or ()))
    if not found:
        raise ConfigError(
            "there is no destination yet: `syncd init` writes an example; `syncd apply` reads it"
        )
    return found


async def until_signal(app: App, job: Backfill) -> int:
    """Run the job; the first signal lets it drain, the second ends it. Returns the signal or 0."""
    task, told = asyncio.current_task(), 0

    def stop(number: int) -> None:
        nonlocal told
        assert task is not None
        if told:
            task.cancel()
        told = told or number
        job.stop.set()
        asyncio.get_running_loop().call_later(app.settings.drain_seconds, task.cancel)

    try:
        with on_signals(stop, signal.SIGTERM, signal.SIGINT):
            async with screen.shown(job, console(stderr=True)):
                await job.run()
    except asyncio.CancelledError:
        if not told or task is None:
            raise
        task.uncancel()
    except Exception:
        if not told:
            raise
    return told


def remarks(job: Backfill) -> list[str]:
    """What a person should know, and do, beyond the numbers."""
    said = []
    for part in job.parts:
        name = part.destination.name
        if part.why and not part.in_step:
            said.append(f"{name}: {part.why}")
        if part.held:
            said.append(f"{name}: held: {part.held:,}. `syncd status` says why, and what to do")
        if part.rejected:
            said.append(f"{name}: rejected: {part.rejected:,}. See `syncd rejected {name}`")
        if part.unconveyed:
            said.append(f"{name}: opt-outs the provider could not be told: {part.unconveyed:,}")
    return said
