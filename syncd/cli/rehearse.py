"""`sandbox` and `demo`: to see it work before one's own data are involved."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import signal
import sys
from collections.abc import Iterator
from typing import Annotated

import typer
from rich.console import Console

from syncd import demo as demonstration
from syncd import sandbox
from syncd.app import on_signals
from syncd.cli import Config, Json, command, console, print_json, refuse_faulty, settings_of
from syncd.cli.screen import Line
from syncd.errors import ConfigError
from syncd.secrets import variable


@command(example="syncd sandbox --port 8800", name="sandbox")
async def sandbox_(
    port: Annotated[
        int,
        typer.Option(
            "--port", metavar="PORT", min=1, max=65_530, help="The first of five, one a provider."
        ),
    ] = 8800,
    json: Json = False,
    config: Config = None,
) -> None:
    """Serve strict local stand-ins of the providers, to rehearse on one's own data. Ctrl-C ends
    it. GET /_state shows what they hold; POST /_faults makes them misbehave."""
    refuse_faulty(config)
    with _ports():
        await sandbox.run(port, as_json=json)


@contextlib.contextmanager
def _ports() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.EADDRINUSE, errno.EACCES):
            raise
        raise ConfigError(f"{error.strerror}: choose another --port") from None


@command(example="syncd demo --keep")
async def demo(
    keep: Annotated[bool, typer.Option("--keep", help="Leave it running until Ctrl-C.")] = False,
    port: Annotated[
        int, typer.Option("--port", metavar="PORT", min=0, max=65_530, help="Of the sandboxes.")
    ] = 0,
    json: Json = False,
    config: Config = None,
) -> int:
    """Show everything at once: a private PostgreSQL, sandboxes, 300 contacts, changes arriving.
    Under a minute; leaves nothing behind."""
    settings = settings_of(config, "error")
    tell = demonstration.Story() if json else Page(console())
    kept = None if not keep else lambda stage: _until_told(stage, sys.stderr if json else None)
    with _ports():
        result = await demonstration.perform(settings, tell, port=port, kept=kept)
    if json:
        print_json(result.as_json())
    else:
        verdict = "the two sides differ" if result.differences else "equal, row by row"
        tell.chapter(f"Done: {result.contacts} contacts, {verdict}")
    return 1 if result.differences else 0


class Page(demonstration.Story):
    """The story as lines on a screen."""

    def __init__(self, on: Console) -> None:
        self.on = on

    def chapter(self, title: str) -> None:
        self.on.print()
        self.on.print(Line(title, "bold"))

    def line(self, text: str, seconds: float | None = None, good: bool = True) -> None:
        mark = ("  ✓ ", "green") if good else ("  ✗ ", "bold red")
        took = "" if seconds is None else _took(seconds)
        self.on.print(Line.assemble(mark, (f"{took:>7}  ", "cyan"), text))


def _took(seconds: float) -> str:
    return f"{seconds * 1000:.0f} ms" if seconds < 1 else f"{seconds:.1f} s"


async def _until_told(stage: demonstration.Stage, stream: object) -> None:
    """Print what can be tried, and wait for Ctrl-C; that is how this ends, so it is no fault."""
    told = asyncio.Event()
    out = console(stderr=stream is not None)
    secrets = [variable(name) for name in demonstration.TITLES]
    with on_signals(lambda _: told.set(), signal.SIGINT, signal.SIGTERM):  # before it is told
        out.print()
        out.print(Line("It goes on running. In another terminal:", "bold"))
        out.print()
        for line in (
            f"export SYNCD_DATABASE_URL='{stage.app.url}'",
            *(f"export {name}='{stage.app.environ[name]}'" for name in secrets),
            "syncd status",
            "syncd explain person063@demo.example",
            "syncd plan",
            "psql $SYNCD_DATABASE_URL -c \"update syncd.contact set city='Rio' where id='c0001'\"",
            *(f"curl -s '{box.url}/_state?profiles=0'" for box in stage.boxes.values()),
        ):
            out.print(Line(f"    {line}"), soft_wrap=True)
        out.print()
        out.print(Line("Ctrl-C ends it, and removes it all.", "bold"))
        await told.wait()
