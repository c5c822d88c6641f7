"""The command line: each command is a few lines over a library function.

    @command(example="syncd status marketing")
    async def status(dest: Dests = None, json: Json = False, config: Config = None) -> int:
        \"\"\"Say what is pending, since when, and why.\"\"\"
        async with opened_app(config) as app:
            data = await ...
        output(json, data, lambda console: console.print(...))
        return 0

What a command returns is the exit code (None: 0). Faults of ours leave as `syncd: …` lines.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import importlib.util
import inspect
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import asyncpg
import orjson
import typer
from rich.console import Console

from syncd import __version__, log
from syncd.app import App, opened
from syncd.cli.complete import destination_names
from syncd.cli.screen import Screen, inert
from syncd.db import LOST
from syncd.errors import ConfigError, DatabaseUnreachable, SyncdError
from syncd.settings import Settings, load

app = typer.Typer(
    name="syncd",
    help="Keeps e-mail-marketing providers in step with the contacts and lists in PostgreSQL.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)


def _tell_version(wanted: bool) -> None:
    if wanted:
        sys.stdout.write(f"syncd {__version__}\n")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option("--version", is_eager=True, callback=_tell_version, help="Show the version."),
    ] = False,
) -> None: ...


Json = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]
Config = Annotated[
    Path | None,
    typer.Option("--config", metavar="PATH", help="The settings file, instead of ./syncd.toml."),
]
Dest = Annotated[
    str,
    typer.Argument(metavar="DEST", help="A destination's name.", autocompletion=destination_names),
]
Dests = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="DEST",
        help="Names of destinations; none: all of them.",
        autocompletion=destination_names,
    ),
]

Level = Literal["debug", "info", "warning", "error"]


def command(
    *, example: str, name: str | None = None, group: typer.Typer = app
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Register a function, plain or async, as a command; its docstring is the help."""

    def register(function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def run(*args: Any, **kwargs: Any) -> None:
            raise typer.Exit(_finished(function, *args, **kwargs))

        group.command(name, epilog=f"Example: {example}")(run)
        return function

    return register


def _finished(function: Callable[..., Any], *args: Any, **kwargs: Any) -> int:
    """Run it to its end, or to a fault that a person can read; returns the exit code."""
    try:
        done = function(*args, **kwargs)
        if inspect.iscoroutine(done):
            done = _run(done)
        return int(done or 0)
    except Exception as error:
        faults = readable(error)
        if not faults:
            raise
        return tell(faults)


def readable(error: BaseException) -> list[SyncdError]:
    """What a person needs to know of it; empty where it is a bug, which deserves a traceback."""
    if isinstance(error, BaseExceptionGroup):
        parts = [readable(one) for one in error.exceptions if not _is_cancelled(one)]
        return [one for part in parts for one in part] if all(parts) else []
    match error:
        case SyncdError():
            return [error]
        case asyncpg.InsufficientPrivilegeError():
            return [ConfigError(f"PostgreSQL: {error}; the rights syncd needs: sql/roles.sql")]
        case OSError() if not isinstance(error, ConnectionError | TimeoutError):
            return []
        case _ if isinstance(error, LOST):
            reason = str(error) or type(error).__name__
            return [DatabaseUnreachable(f"the connection to PostgreSQL was lost: {reason}")]
    return []


def _is_cancelled(error: BaseException) -> bool:
    return isinstance(error, asyncio.CancelledError)


def tell(faults: list[SyncdError]) -> int:
    """Every fault on a line of its own, once; returns the exit code of the gravest."""
    mark = "<3>" if log.is_journal(sys.stderr) else ""
    for line in dict.fromkeys(line for fault in faults for line in _lines(fault)):
        remark(line, mark)
    return max(fault.exit_code for fault in faults)


def _lines(fault: SyncdError) -> Sequence[str]:
    return fault.faults if isinstance(fault, ConfigError) else [str(fault)]


def remark(line: str, mark: str = "") -> None:
    """Beside the output, for a person; data in it make no second line. mark: for the journal."""
    sys.stderr.write(f"{mark}syncd: {inert(line)}\n")


# ── Running ─────────────────────────────────────────────────────────────────────────────────


def _run(work: Coroutine[Any, Any, Any]) -> Any:
    """Run it on uvloop where there is one; SIGTERM unwinds as Ctrl-C does."""
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        return runner.run(_until_told(work))


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    if importlib.util.find_spec("uvloop") is None:
        return None
    import uvloop

    return uvloop.new_event_loop


async def _until_told(work: Coroutine[Any, Any, Any]) -> Any:
    task, told = asyncio.current_task(), False

    def stop() -> None:
        nonlocal told
        told = True
        assert task is not None
        task.cancel()

    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop)
    try:
        return await work
    except asyncio.CancelledError:
        if told:
            raise typer.Exit(128 + signal.SIGTERM) from None
        raise


@contextlib.asynccontextmanager
async def opened_app(
    config: Path | None, *, level: Level | None = "warning", check: bool = True
) -> AsyncIterator[App]:
    """Settings read, log configured (level None: as the settings say), database connected."""
    settings = settings_of(config, level)
    async with opened(settings, check=check) as made:
        yield made


def refuse_faulty(config: Path | None) -> None:
    """ConfigError for a settings file that is named, and not right, by who needs none of it."""
    if config is not None:
        load(config)


def settings_of(config: Path | None, level: Level | None = "warning") -> Settings:
    """The settings, with the log set up as they say; only `debug` there outdoes *level*."""
    settings = load(config)
    chosen = settings.log_level if level is None or settings.log_level == "debug" else level
    log.configure(chosen, settings.log_format)
    return settings


# ── Showing ─────────────────────────────────────────────────────────────────────────────────


def output(as_json: bool, data: Any, render: Callable[[Console], None]) -> None:
    """One JSON line, or what *render* prints for eyes."""
    if as_json:
        print_json(data)
    else:
        render(console())


def print_json(data: Any) -> None:
    """One line on standard output."""
    sys.stdout.write(orjson.dumps(data, default=str).decode() + "\n")
    sys.stdout.flush()


def print_lines(to: Console, lines: Iterable[str]) -> None:
    """Each on a line of its own."""
    for line in lines:
        to.print(line)


def console(stderr: bool = False) -> Console:
    """Where tables and progress go; no wrapping at 80 columns when it is no terminal."""
    made = Screen(stderr=stderr, soft_wrap=False)
    if not made.is_terminal:
        made.width = 160
    return made


@contextlib.contextmanager
def _plain_stdout() -> Iterator[None]:
    """No traceback because a name cannot be shown here, or a pipe was closed (`| head`)."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:  # closed by whoever started us: the next file would be it
            os.open(os.devnull, os.O_RDWR if number else os.O_RDONLY)
            setattr(sys, name, os.fdopen(number, "w" if number else "r", closefd=False))
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    try:
        yield
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        sys.exit(128 + signal.SIGPIPE)


def main() -> None:
    """The entry point `syncd`."""
    with _plain_stdout():
        app(prog_name="syncd")


_GROUPS = (
    "configure", "daemon", "transfer", "operate", "audit", "secret", "authorize", "rehearse"
)  # fmt: skip

for _group in _GROUPS:  # each registers its commands with `app`; the help keeps this order
    if importlib.util.find_spec(f"syncd.cli.{_group}") is not None:
        importlib.import_module(f"syncd.cli.{_group}")
