"""A source, a stand-in and `syncd` as a process; put back to any stage's beginning in no time.

What a stage begins with is a database to clone and a copy of the stand-in's memory.
"""

from __future__ import annotations

import asyncio
import contextlib
import copy
import itertools
import os
import shutil
import signal
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import asyncpg
import orjson
import service
from clusters import named, open_folder
from conftest import fresh_database

from syncd.assemble import options_of
from syncd.control import destinations
from syncd.meter import scope_key
from syncd.providers import provider
from syncd.sandbox import Handle, serve
from syncd.secrets import Secrets, account_key, variable

from . import victim
from .kinds import Kind
from .points import Mode, Point

SETTINGS = {
    "LEASE_SECONDS": "6",
    "HEARTBEAT_SECONDS": "0.5",
    "REQUEST_TIMEOUT_SECONDS": "3",
    "POLL_SECONDS": "0.03",
    "CONTROL_POLL_SECONDS": "0.05",
    "DRAIN_SECONDS": "5",
    "POOL_SIZE": "4",
    "LOG_FORMAT": "json",
}
PATIENCE = 240.0  # seconds for one process
NAME = "shop"

NO_POINTS: Mapping[Point, Mode] = {}

_numbers = itertools.count(1)


class Stuck(Exception):
    """A process did not get done, or ended as it never should."""


@dataclass
class Memory:
    """Where a stage begins."""

    database: str
    stand_in: Any


@dataclass
class World:
    """One provider's stand-in, and the databases cloned one after the other."""

    cluster: str
    kind: Kind
    box: Handle
    folder: Path
    database: str
    environ: dict[str, str] = field(default_factory=dict)

    @property
    def url(self) -> str:
        return named(self.cluster, self.database)

    # ── Time travel ─────────────────────────────────────────────────────────────────────────

    async def remember(self) -> Memory:
        """How everything stands; goes on in a clone."""
        memory = Memory(self.database, copy.deepcopy(self.box.state))
        await self.go_back(memory)
        return memory

    async def go_back(self, memory: Memory) -> None:
        """Stand where *memory* was made."""
        old, self.database = self.database, f"crash_{os.getpid()}_{next(_numbers)}"
        admin = await asyncpg.connect(self.cluster)
        try:
            if old != memory.database:
                await admin.execute(f'drop database "{old}" with (force)')
            await admin.execute(f'create database "{self.database}" template "{memory.database}"')
        finally:
            await admin.close()
        live = self.box.state
        then = copy.deepcopy(memory.stand_in, {id(memory.stand_in): live})
        assert then is live
        parts = {id(memory.stand_in): live}
        for name, value in vars(memory.stand_in).items():
            setattr(live, name, copy.deepcopy(value, parts))

    @contextlib.asynccontextmanager
    async def connected(self) -> AsyncIterator[asyncpg.Connection]:
        connection = await asyncpg.connect(self.url, server_settings=service.OURS)
        try:
            yield connection
        finally:
            await connection.close()

    # ── Processes ───────────────────────────────────────────────────────────────────────────

    async def run(self, args: tuple[str, ...], armed: Mapping[Point, Mode] = NO_POINTS) -> Ran:
        """One `syncd ARGS` to its end; a daemon until nothing is left to be done."""
        folder = self.folder / str(next(_numbers))
        folder.mkdir()
        process = victim.start(args, self._environ(), folder, armed)
        try:
            async with self._hurried():
                if args[0] == "run":
                    await self._until_quiet(process, folder)
                code = await victim.ended(process, PATIENCE)
        except TimeoutError:
            raise Stuck(f"{args} did not end: {await self._left()}{_said(folder)}") from None
        finally:
            if process.exitcode is None:
                process.kill()
                process.join()
        return Ran(code, folder)

    @contextlib.asynccontextmanager
    async def _hurried(self) -> AsyncIterator[None]:
        """Meanwhile the time that rows in backoff wait passes in a second."""
        async with self.connected() as connection:

            async def hurry() -> None:
                while True:
                    await asyncio.sleep(1)
                    await connection.execute(
                        "update syncd.journal set due_at = now() where state = 'due'"
                        " and waits_for is null and due_at > now() + interval '1 s'"
                    )

            hurrying = asyncio.create_task(hurry())
            try:
                yield
            finally:
                hurrying.cancel()
                await asyncio.wait([hurrying])

    def _environ(self) -> dict[str, str]:
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("SYNCD_", "PG"))}
        said = {f"SYNCD_{name}": value for name, value in SETTINGS.items()}
        return {**kept, **said, "SYNCD_DATABASE_URL": self.url, **self.environ}

    async def _until_quiet(self, process: Any, folder: Path) -> None:
        """Tell the daemon to stop as soon as it serves and nothing is left for it to do: before, it
        would not know what SIGTERM asks of it."""
        serves = "select exists (select 1 from syncd.worker where pid = $1 and alive_until > now())"
        deadline, says = time.monotonic() + PATIENCE, "?"
        async with self.connected() as connection:
            while process.exitcode is None:
                says = await outstanding(connection)
                if not says and await connection.fetchval(serves, process.pid):
                    os.kill(process.pid, signal.SIGTERM)
                    return
                if time.monotonic() > deadline:
                    raise Stuck(f"not quiet: {says}{_said(folder)}")
                await asyncio.sleep(0.03)

    async def _left(self) -> str:
        """What keeps it from its end."""
        async with self.connected() as connection:
            rows = await connection.fetch(service._STUCK)
            scans = await connection.fetch(
                "select list_key, begun_at, claimed_by, not_before, moved_at, now()"
                " from syncd.scan where finished_at is null"
            )
            return "\n".join(str(tuple(one)) for one in (*rows, *scans))

    async def refused(self) -> str:
        """Who is set aside, with the reason, and what became of them."""
        async with self.connected() as connection:
            rows = await connection.fetch(
                "select contact_id, wish, attempts, email, last_error from syncd.journal"
                " where state = 'rejected' order by contact_id limit 5"
            )
            told = await connection.fetch(
                "select contact_id, kind, outcome, error, at from syncd.delivery"
                " where contact_id = any($1) order by at",
                [row["contact_id"] for row in rows],
            )
        return "".join(f"\n{tuple(one)}" for one in (*rows, *told))

    async def bury(self) -> None:
        """Let the time pass in which a dead process could still be taken for alive."""
        async with self.connected() as connection:
            await connection.execute("update syncd.worker set alive_until = now() - interval '1 s'")
            await connection.execute("update syncd.slot set holder = '', expires_at = '-infinity'")


@dataclass(frozen=True)
class Ran:
    """How a process ended."""

    code: int
    folder: Path

    def _met(self) -> list[tuple[Point, str]]:
        lines = (self.folder / "points").read_text().splitlines()
        return [(Point(name, int(nth)), mode) for name, nth, mode in (x.split("\t") for x in lines)]

    @property
    def points(self) -> list[Point]:
        """All that it came to, in their order."""
        return [point for point, _ in self._met()]

    @property
    def struck(self) -> set[Point]:
        """Those at which it crashed, or lost its connection."""
        return {point for point, mode in self._met() if mode}

    @property
    def said(self) -> str:
        return _said(self.folder)


def _said(folder: Path) -> str:
    texts = [(folder / name).read_text("utf-8", "replace") for name in ("out", "err")]
    return "\n".join(["", *(line[:1500] for text in texts for line in text.splitlines()[-8:])])


async def outstanding(connection: asyncpg.Connection) -> str:
    """What keeps the destination from being in step, or a command from being done; '' for none."""
    says = await connection.fetchval(service._OUTSTANDING, [NAME])
    open_commands = await connection.fetchval(
        "select count(*) from syncd.command where finished_at is null"
    )
    return "; ".join(filter(None, [says, open_commands and f"{open_commands} commands"]))


# ── Beginning ───────────────────────────────────────────────────────────────────────────────


@contextlib.asynccontextmanager
async def world(cluster: str, template: str, kind: Kind) -> AsyncIterator[World]:
    """A destination without anybody in it, at a stand-in of this kind."""
    folder = open_folder()
    async with contextlib.AsyncExitStack() as stack:
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        box = await stack.enter_async_context(serve(kind.provider, **kind.limits))
        url = await stack.enter_async_context(fresh_database(cluster, template))
        made = World(cluster, kind, box, folder, url.partition("?")[0].rpartition("/")[2])
        secret = orjson.dumps(box.state.demo).decode()
        made.environ = {variable(NAME): secret, variable("tombstone"): "a long secret"}
        async with made.connected() as connection:
            await _destination(connection, made, secret)
        yield made


async def _destination(connection: asyncpg.Connection, at: World, secret: str) -> None:
    options = {"base_url": at.box.url, **at.kind.options}
    if at.kind.provider == "copernica":
        options["auth_url"] = f"{at.box.url}/authenticate"
    await connection.execute(
        "insert into syncd.destination (name, provider, credential, options, fields, per_second,"
        " guard_floor) values ($1, $2, $1, $3, $4, 2000, 1000)",
        NAME, at.kind.provider, orjson.dumps(options).decode(), at.kind.fields,
    )  # fmt: skip
    if at.kind.findings is not None:
        pool: Any = connection
        (row,) = await destinations(pool, [NAME])
        model = provider(at.kind.provider)
        credential = model.credential_model.model_validate_json(secret)
        scope = model.scope(options_of(row, model), credential)
        await connection.execute(
            "insert into syncd.account (scope, findings, credential_hash) values ($1, $2, $3)",
            scope_key(at.kind.provider, scope, account_key(at.environ)),
            orjson.dumps(at.kind.findings).decode(), Secrets(None, {}).fingerprint(secret),
        )  # fmt: skip
