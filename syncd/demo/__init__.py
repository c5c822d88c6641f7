"""`syncd demo`: a private PostgreSQL, five sandboxes, 300 people, and what syncd does with them.

A main program of its own, so the one package beside the command line that composes an app. What
is run is here, what is shown is in `story`, what is proven in `proof`.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Callable
from typing import Any

import orjson

from syncd import db, migrate
from syncd.app import App, opened
from syncd.demo import story
from syncd.demo.server import cluster
from syncd.demo.shelves import SHELVES
from syncd.demo.stage import Result, Stage, Story
from syncd.demo.story import TITLES
from syncd.sandbox import Handle, serve
from syncd.secrets import variable
from syncd.serve import Service
from syncd.settings import Settings

__all__ = ["TITLES", "Result", "Stage", "Story", "cluster", "perform"]

Kept = Callable[[Stage], Any]


async def perform(
    settings: Settings, tell: Story, *, port: int = 0, kept: Kept | None = None
) -> Result:
    """The whole demo; `kept` is awaited with everything running, before it is taken down."""
    result = Result()
    with cluster() as url:
        tell.chapter("A private PostgreSQL is running; nothing of it will be left behind")
        connection = await db.connect(url)
        await migrate.migrate(connection)
        await connection.close()
        async with _boxes(port) as boxes:
            environ = dict(os.environ)
            tell.chapter("Strict stand-ins of the providers are listening")
            for name, box in boxes.items():
                tell.line(f"{TITLES[name]} at {box.url}")
                environ[variable(name)] = orjson.dumps(box.state.demo).decode()
            mine = settings.model_copy(update={"database_url": url})
            async with opened(mine, environ) as app:
                await _play(Stage(app, boxes, tell, result), kept)
    return result


@contextlib.asynccontextmanager
async def _boxes(port: int) -> AsyncIterator[dict[str, Handle]]:
    """One stand-in a provider, on *port* and those that follow; 0: wherever there is room."""
    async with contextlib.AsyncExitStack() as stack:
        yield {
            shelf.name: await stack.enter_async_context(
                serve(shelf.name, port + number if port else 0)
            )
            for number, shelf in enumerate(SHELVES)
        }


async def _play(stage: Stage, kept: Kept | None) -> None:
    await story.fill(stage)
    async with _serving(stage.app):
        await story.changes(stage)
        await story.opt_out(stage)
        await story.vanished(stage)
        await story.mass_change(stage)
        await story.prove(stage)
        if kept is not None:
            await kept(stage)


@contextlib.asynccontextmanager
async def _serving(app: App) -> AsyncIterator[None]:
    """The daemon, in this process."""
    stop = asyncio.Event()
    async with app.worker() as worker, asyncio.TaskGroup() as group:
        group.create_task(Service(app, worker, stop).run(), name="daemon")
        yield
        stop.set()
