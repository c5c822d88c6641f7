"""`syncd` as a process whose connections know the crash points, forked from one that is warm.

Nothing of this is in the program: the switch is a connection class that asyncpg's own
`connection_class` puts below the pool, in this process alone. So what runs in production has not
even the check whether to crash, and what is attacked here is that very code.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import pkgutil
import sys
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

import asyncpg

import syncd

from .points import Mode, Point, name_of, writes

DIED = 99  # exit code of a process that crashed as it was told to

_LOST = "connection was closed in the middle of operation"
_Run = Callable[[], Awaitable[Any]]


class Watch:
    """What this process does at its points: notes each in a file, and strikes at some."""

    def __init__(self, folder: Path, armed: Mapping[Point, Mode]) -> None:
        self.armed = dict(armed)
        self.met: Counter[str] = Counter()
        self.notes = (folder / "points").open("a", buffering=1)

    async def reach(self, connection: Any, name: str, run: _Run) -> Any:
        """Carry out a statement that writes, or a COMMIT of such; unless this is a point."""
        self.met[name] += 1
        point = Point(name, self.met[name])
        mode = self.armed.pop(point, None)
        self.notes.write(f"{point.name}\t{point.nth}\t{mode or ''}\n")
        if mode is None:
            return await run()
        if mode == "exit":
            os._exit(DIED)
        if mode == "after":
            await run()
        connection.terminate()
        raise asyncpg.ConnectionDoesNotExistError(_LOST)


_watch: Watch


class Mortal(asyncpg.Connection):
    """A connection that knows which of its statements write, and what its transaction wrote."""

    wrote: list[str]

    async def execute(self, query: str, *args: Any, **more: Any) -> Any:
        return await self._pass(query, partial(super().execute, query, *args, **more))

    async def executemany(self, command: str, args: Any, **more: Any) -> Any:
        return await self._pass(command, partial(super().executemany, command, args, **more))

    async def fetch(self, query: str, *args: Any, **more: Any) -> Any:
        return await self._pass(query, partial(super().fetch, query, *args, **more))

    async def fetchrow(self, query: str, *args: Any, **more: Any) -> Any:
        return await self._pass(query, partial(super().fetchrow, query, *args, **more))

    async def fetchval(self, query: str, *args: Any, **more: Any) -> Any:
        return await self._pass(query, partial(super().fetchval, query, *args, **more))

    async def _pass(self, query: str, run: _Run) -> Any:
        first = query.lstrip()[:8].lower()
        if first.startswith("begin"):
            self.wrote = []
            return await run()
        if first.startswith("commit"):
            if not self.wrote:
                return await run()
            wrote = dict.fromkeys(self.wrote)
            return await _watch.reach(self, f"COMMIT {' '.join(wrote)}", run)
        if not writes(query):
            return await run()
        if self.is_in_transaction():
            self.wrote.append(name_of(query))
        return await _watch.reach(self, name_of(query), run)


def main(
    args: Sequence[str], environ: Mapping[str, str], folder: Path, armed: Mapping[Point, Mode]
) -> None:
    """Be `syncd ARGS` with this environment and nothing else; what it prints goes to files."""
    global _watch
    os.environ.clear()
    os.environ.update(environ)
    os.chdir(folder)
    for number, name in enumerate(("out", "err"), 1):
        with (folder / name).open("ab") as file:
            os.dup2(file.fileno(), number)
    from syncd import cli, outcomes

    _watch = Watch(folder, armed)
    vars(asyncpg)["create_pool"] = partial(asyncpg.create_pool, connection_class=Mortal)
    outcomes.FIRST_WAIT, outcomes.LONGEST_WAIT = 0.05, 0.4
    sys.argv = ["syncd", *args]
    cli.main()


_warm = multiprocessing.get_context("forkserver")
_modules = [one.name for one in pkgutil.walk_packages(syncd.__path__, "syncd.")]
_warm.set_forkserver_preload(["uvloop", *(x for x in _modules if not x.endswith("__main__"))])


def start(*how: Any) -> ForkServerProcess:
    """Start `main(*how)` as a process of its own."""
    process = _warm.Process(target=main, args=how, daemon=True)
    process.start()
    return process


async def ended(process: ForkServerProcess, timeout: float) -> int:
    """Its exit code; TimeoutError with the process killed."""
    try:
        async with asyncio.timeout(timeout):
            while process.exitcode is None:
                await asyncio.sleep(0.01)
    except TimeoutError:
        process.kill()
        process.join()
        raise
    return int(process.exitcode or 0)
