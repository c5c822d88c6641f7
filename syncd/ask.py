"""What an operator asks for: a reading of opt-outs, a lifted no; by the daemon, or at once here."""

from __future__ import annotations

import asyncio
import getpass
import os
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import orjson

from syncd import control, sql
from syncd import source as sources
from syncd.control import Destination, Note, no_note
from syncd.errors import ConfigError, ProviderError
from syncd.explain import Explained, explain
from syncd.model import Can
from syncd.providers import provider

if TYPE_CHECKING:
    from syncd.app import App


def who() -> str:
    """Who asks, for the record: the user and host of this process."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a user id without a name, as in containers
        user = str(os.getuid())
    return f"{user}@{socket.gethostname()}"


# ── A reading of opt-outs ───────────────────────────────────────────────────────────────────


@dataclass(slots=True)
class Read:
    """How the reading of one destination ended. noted: opt-outs that were new.  scans: of lists,
    or of the whole account."""

    done: bool = False
    noted: int = 0
    scans: int = 0
    why: str = ""  # it is not done
    exit_code: int = 0


async def scan(app: App, names: Sequence[str], wait: float) -> dict[str, Read]:
    """Have opt-outs (and contacts, where they can be) read back now: by a worker, else here."""
    chosen = await app.destinations(names)
    if await app.pool.fetchval(sql.ask.workers_alive):
        until = time.monotonic() + wait
        async with asyncio.TaskGroup() as group:
            tasks = {d.name: group.create_task(_by_worker(app, d, until)) for d in chosen}
        return {name: task.result() for name, task in tasks.items()}
    everyone = await app.destinations()
    return {d.name: await _here(app, d, everyone) for d in chosen}


async def _by_worker(app: App, d: Destination, until: float) -> Read:
    row = await app.pool.fetchrow(sql.ask.command, "scan", d.name, "{}", who())
    assert row is not None
    told = False
    while time.monotonic() < until:
        if not told and (ended := await app.pool.fetchrow(sql.ask.outcome, row["id"])):
            result = orjson.loads(ended["result"])
            if ended["outcome"] != "done":
                return Read(why=result.get("error", "the worker could not do it"), exit_code=1)
            told = True
        if told and (read := await _read_since(app, d, row["requested_at"])):
            return read
        await asyncio.sleep(0.1)
    await app.pool.execute(sql.ask.withdraw_command, row["id"])
    return Read(why=await _why_not(app, d), exit_code=1)


async def _read_since(app: App, d: Destination, then: object) -> Read | None:
    """The reading that was begun since; None while there is none."""
    row = await app.pool.fetchrow(sql.ask.read_since, d.id, then)
    if row is not None and row["error"] is not None:
        return Read(False, row["noted"], why=row["error"])
    if row is None and not await app.pool.fetchval(sql.ask.stamped_since, d.id, then):
        return None
    scans = await _scanned_since(app, d, then)
    return None if scans is None else Read(True, 0 if row is None else row["noted"], scans)


async def _scanned_since(app: App, d: Destination, then: object) -> int | None:
    """How many scans ended since; None while some are to come. 0 where nothing can be scanned."""
    traits = provider(d.provider).traits
    if not traits.can & Can.SCAN:
        return 0
    row = await app.pool.fetchrow(sql.ask.scanned_since, d.id, then, traits.scans_lists)
    assert row is not None
    return None if row["open"] or not (row["n"] or row["nothing"]) else int(row["n"])


async def _why_not(app: App, d: Destination) -> str:
    row = await app.pool.fetchrow(sql.ask.standstill, d.id)
    if row is not None and row["paused"]:
        return f"it is paused: `syncd resume {d.name}` first"
    if row is not None and row["halted"] is not None:
        return f"it is halted: {row['halted']}. Mend it, then `syncd resume {d.name}`"
    return "not within the time given: `syncd status` tells when it was read last"


async def _here(app: App, d: Destination, everyone: Sequence[Destination]) -> Read:
    try:
        async with app.worker() as worker, app.assembled(d, everyone, worker) as made:
            flow = made.flow
            assert flow is not None
            noted = await flow.reader.read()
            return Read(True, noted, await flow.scan_all())
    except* (ProviderError, ConfigError) as group:
        error: BaseException = group
        while isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
    faults = error.faults if isinstance(error, ConfigError) else [str(error)]
    return Read(why="; ".join(faults), exit_code=getattr(error, "exit_code", 1))


# ── A no that does not hold ─────────────────────────────────────────────────────────────────


@dataclass(slots=True)
class Lifted:
    """The opt-outs that were closed, those that still hold, and how the person stands now."""

    lifted: list[int]
    open: list[dict[str, object]]
    says: dict[str, list[str]]
    tombstones: int = 0  # of an erasure, which end too


async def lift(
    app: App,
    email: str,
    list_id: str | None,
    reason: str,
    by: str | None = None,
    note: Note = no_note,
) -> Lifted:
    """Close the open opt-outs of an address, for all mail or of one list; into `control_log`.

    note: told of it in the same transaction.
    """
    before = await explain(app, email)
    tombs = [row["hash"] for row in before.rows.get("syncd.tombstone", [])]
    closed = await control.lift(
        app.pool, email, list_id, reason, by or who(), before.contacts, tombs, note
    )
    now = await explain(app, email)
    first = {name: [v.says[0] for v in verdicts] for name, verdicts in now.destinations.items()}
    erased = len(tombs) if list_id is None else 0
    return Lifted(list(closed), _open(now), first, erased)


async def knows_list(app: App, list_id: str) -> bool:
    """Whether a source has it, or ever had; a faulty source may."""
    if await app.pool.fetchval(sql.control.list_is_known, list_id):
        return True
    async with app.pool.acquire() as connection:
        for name in sorted({d.source for d in await app.destinations()} or {"default"}):
            try:
                source = await sources.describe(connection, name)
            except ConfigError:
                return True
            query = f"select true from {source.list.name} where id::text = $1"  # noqa: S608  quoted
            if await connection.fetchval(query, list_id):
                return True
    return False


def _open(told: Explained) -> list[dict[str, object]]:
    keys = ("id", "destination", "kind", "list_id", "email", "occurred_at", "observed_at")
    rows = told.rows.get("syncd.opt_out", [])
    return [{key: row.get(key) for key in keys} for row in rows if row["lifted_at"] is None]
