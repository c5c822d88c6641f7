"""PostgreSQL in trouble: restarted, refusing, read-only, full, failed over. The daemon says what is
wrong once, waits, recovers by itself; and nothing is lost or doubled by it.

A server of this module's own: what is done to it would end every other test.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import re
import shutil
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import asyncpg
import clusters
import hosts
import needs
import pytest
import service
from clusters import QUICK, Cluster, named
from service import Process, Service, until

from syncd.migrate import migrate

N = 150
SEATS = 40  # connections, at most
LONG = 180.0  # seconds; on a busy machine every try of a daemon takes its time
UNGUARDED: dict[str, Any] = {"guard_percent": 100, "guard_floor": 1_000_000}
_numbers = itertools.count(1)


@pytest.fixture(scope="module")
def server() -> Iterator[Cluster]:
    with clusters.cluster(*QUICK, f"max_connections={SEATS}") as made:
        yield made


@contextlib.asynccontextmanager
async def filled(server: Cluster, place: str = "", n: int = N) -> AsyncIterator[Service]:
    """A database of this test's own with *n* contacts, and one sandbox that is to have them."""
    name = f"trouble_{next(_numbers)}"
    admin = await asyncpg.connect(server.url)
    await admin.execute(f"create database {name} {place}")
    await admin.close()
    url = named(server.url, name)
    first = await asyncpg.connect(url)
    await migrate(first)
    await first.close()
    async with service.serving(url) as made:
        made.settings = {**service.MORTAL, "LEASE_SECONDS": "5"}
        await service.fill(made.db, n)
        box = await made.sandbox()
        box.set_faults(seed=4, latency_ms=[10, 60])
        await made.destination("shop", box, **UNGUARDED)
        yield made


@pytest.fixture
async def syncd(server: Cluster) -> AsyncIterator[Service]:
    async with filled(server) as made:
        yield made


# ── What is done, and what is seen ──────────────────────────────────────────────────────────


async def reconnected(syncd: Service) -> None:
    """The test's own connection, after one that died."""
    syncd.db.terminate()

    async def again() -> Any:
        with contextlib.suppress(OSError, asyncpg.PostgresError):
            return await asyncpg.connect(syncd.url, server_settings=service.OURS)

    syncd.db = await until(again, "the server is back")


async def renamed(syncd: Service, company: str) -> None:
    await syncd.db.execute("update syncd.contact set company = $1", company)


async def cut(admin: asyncpg.Connection, syncd: Service) -> None:
    """End every session of the database."""
    await admin.execute(
        "select pg_terminate_backend(pid) from pg_stat_activity"
        " where datname = $1 and pid <> pg_backend_pid()",
        syncd.url.partition("?")[0].rpartition("/")[2],
    )


def lost(daemon: Process) -> list[str]:
    return [one["error"] for one in daemon.told("lost the database")]


def back(daemon: Process) -> int:
    return len(daemon.told("the database is back"))


def says(daemon: Process, words: str) -> bool:
    """Whether it has said that this is what is wrong."""
    still = [one["error"] for one in daemon.told("still without the database")]
    return any(re.search(words, one) for one in lost(daemon) + still)


async def recovered(
    syncd: Service, daemon: Process, company: str, *, is_another: bool = False
) -> None:
    """It serves by itself: what is changed now arrives, and nothing has been lost or doubled."""
    await until(lambda: back(daemon) == len(lost(daemon)) > 0, "it says that it is back", LONG)
    await renamed(syncd, company)
    await syncd.hasten()
    await syncd.in_step(timeout=LONG)
    await syncd.same("shop")
    assert daemon.alive
    turns = [one["event"] for one in daemon.log if "the database" in one["event"]]
    turns = [one for one in turns if one != "still without the database"]
    if is_another:
        turns.remove("the database was restored or failed over")
    assert turns == ["lost the database", "the database is back"] * (len(turns) // 2), daemon.said
    reasons = [one["error"] for one in daemon.told("still without the database")]
    assert len(reasons) == len(set(reasons)), reasons
    errors = [one for one in daemon.log if one["level"] == "error"]
    assert errors == daemon.told("lost the database"), errors


@contextlib.asynccontextmanager
async def locked(syncd: Service, table: str) -> AsyncIterator[None]:
    """*table* can be read but not written, until the block ends or the server does."""
    other = await asyncpg.connect(syncd.url, server_settings=service.OURS)
    await other.execute("begin")
    await other.execute(f"lock table syncd.{table} in exclusive mode")
    try:
        yield
    finally:
        other.terminate()


async def waits_for(syncd: Service, table: str) -> int | None:
    """The session that waits for a lock on *table*."""
    found = await syncd.db.fetchval(
        "select pid from pg_locks where not granted and relation = $1::text::regclass limit 1",
        f"syncd.{table}",
    )
    return None if found is None else int(found)


# ── Restarted ───────────────────────────────────────────────────────────────────────────────


async def test_a_restart_within_plan_claim_and_settle_loses_and_doubles_nothing(
    server: Cluster, syncd: Service
) -> None:
    """Each statement is met while it runs; immediate: as a power cut of the server."""
    daemon = await syncd.daemon()
    await syncd.in_step()
    for where, table, how in (
        ("plan", "feed", "immediate"),
        ("claim", "journal", "fast"),
        ("settle", "mirror", "immediate"),
    ):
        async with locked(syncd, table):
            await renamed(syncd, where)
            await until(partial(waits_for, syncd, table), f"{where} waits")
            await asyncio.to_thread(server.stop, how)
        await asyncio.to_thread(server.start)
        await reconnected(syncd)
        await syncd.hasten()
        await syncd.in_step(timeout=LONG)
        await syncd.same("shop")
    await recovered(syncd, daemon, "after")


async def test_a_restart_within_a_backfill_is_waited_for(server: Cluster, syncd: Service) -> None:
    backfill = None
    for table, how in (("intent", "fast"), ("mirror", "immediate")):
        async with locked(syncd, table):
            backfill = backfill or syncd.start("backfill", "--json", window="40")
            await until(partial(waits_for, syncd, table), f"waits for {table}")
            await asyncio.to_thread(server.stop, how)
        await asyncio.to_thread(server.start)
        await reconnected(syncd)
        await syncd.hasten()
    assert backfill is not None
    assert await backfill.ended() == 0, backfill.said
    assert backfill.answer()["destinations"]["shop"]["in_step"]
    await syncd.same("shop")
    assert 1 <= backfill.said.count("lost the database") <= 2, backfill.said


# ── Refusing ────────────────────────────────────────────────────────────────────────────────

Trouble = Callable[[Cluster, asyncpg.Connection, Service, bool], Awaitable[None]]


def _database(syncd: Service) -> str:
    return syncd.url.partition("?")[0].rpartition("/")[2]


async def _closed(_: Cluster, admin: asyncpg.Connection, syncd: Service, on: bool) -> None:
    await admin.execute(f"alter database {_database(syncd)} allow_connections {not on}")


async def _read_only(_: Cluster, admin: asyncpg.Connection, syncd: Service, on: bool) -> None:
    await admin.execute(
        f"alter database {_database(syncd)} set default_transaction_read_only = {on}"
    )


async def _turned_away(
    server: Cluster, admin: asyncpg.Connection, syncd: Service, on: bool
) -> None:
    rules = server.data / "pg_hba.conf"
    kept = [line for line in rules.read_text().splitlines() if not line.endswith("reject")]
    mine = [f"local {_database(syncd)} all reject"] if on else []
    rules.write_text("\n".join([*mine, *kept]) + "\n")
    await admin.execute("select pg_reload_conf()")


TROUBLES: dict[str, tuple[Trouble, str]] = {
    "closed": (_closed, "not currently accepting connections"),
    "read only": (_read_only, "read-only transaction"),
    "turned away": (_turned_away, "pg_hba.conf rejects connection"),
}


async def test_a_server_that_refuses_is_waited_for(server: Cluster) -> None:
    """Each in a database of its own, side by side."""
    async with asyncio.TaskGroup() as group:
        for kind in TROUBLES:
            group.create_task(_refused(server, kind))


async def _refused(server: Cluster, kind: str) -> None:
    trouble, words = TROUBLES[kind]
    async with filled(server) as syncd:
        daemon = await syncd.daemon()
        await syncd.in_step()
        await renamed(syncd, "before")
        admin = await asyncpg.connect(server.url, server_settings=service.OURS)
        try:
            await trouble(server, admin, syncd, True)
            await cut(admin, syncd)
            await until(lambda: says(daemon, words), f"says that it is {kind}", LONG)
            assert len(lost(daemon)) == 1, "said once"
            assert back(daemon) == 0
        finally:
            await trouble(server, admin, syncd, False)
            await admin.close()
        await reconnected(syncd)
        await recovered(syncd, daemon, "after")


async def test_a_server_without_a_seat_left_is_waited_for(server: Cluster, syncd: Service) -> None:
    daemon = await syncd.daemon()
    await syncd.in_step()
    await renamed(syncd, "before")
    seats: list[asyncpg.Connection] = []
    await cut(syncd.db, syncd)
    try:
        with contextlib.suppress(asyncpg.TooManyConnectionsError):
            while True:
                seats.append(await asyncpg.connect(server.url, server_settings=service.OURS))
        words = "too many clients already|remaining connection slots"
        await until(lambda: says(daemon, words), "says why", LONG)
        assert (len(lost(daemon)), back(daemon)) == (1, 0)
    finally:
        for one in seats:
            await one.close()
    await recovered(syncd, daemon, "after")


async def test_statements_that_are_cancelled_or_wait_for_a_lock_in_vain_end_nobody(
    server: Cluster,
) -> None:
    """By a person or statement_timeout, by a lock_timeout of the role: all the same to us. Each in
    a database of its own, side by side."""
    async with asyncio.TaskGroup() as group:
        group.create_task(_cancelled(server, "user request", by_hand=True))
        group.create_task(_cancelled(server, "lock timeout", by_hand=False))


async def _cancelled(server: Cluster, why: str, by_hand: bool) -> None:
    async with filled(server) as syncd:
        await syncd.db.execute(f"alter database {_database(syncd)} set lock_timeout = '2s'")
        daemon = await syncd.daemon()
        await syncd.in_step()
        async with locked(syncd, "journal"):
            if by_hand:
                pid = await until(partial(waits_for, syncd, "journal"), "waits")
                await syncd.db.execute("select pg_cancel_backend($1)", pid)
            await until(lambda: says(daemon, f"canceling statement due to {why}"), "says why", LONG)
        await recovered(syncd, daemon, "after")


async def test_transactions_that_are_killed_while_idle_are_made_again(syncd: Service) -> None:
    """What idle_in_transaction_session_timeout does to a process that was stopped within one."""
    daemon = await syncd.daemon()
    await until(lambda: syncd.boxes["shop"].state.profiles.all, "first contacts")
    killed = 0
    for n in range(400):
        killed += await syncd.db.fetchval(
            "select count(pg_terminate_backend(pid)) from pg_stat_activity where datname = $1"
            " and state like 'idle in transaction%' and application_name <> $2",
            _database(syncd), service.OURS["application_name"],
        )  # fmt: skip
        if killed >= 5:
            break
        if n % 20 == 0:
            await renamed(syncd, f"company {n}")
        await asyncio.sleep(0.01)
    assert killed
    await recovered(syncd, daemon, "after")


async def test_a_network_that_swallows_everything_is_noticed(
    server: Cluster, syncd: Service
) -> None:
    """No error comes of it: every connection waits, and so would a request to cancel."""
    passes = asyncio.Event()
    (path,) = (str(one) for one in server.folder.glob(".s.PGSQL.*[0-9]"))
    async with hosts.relay("127.0.0.1", path, passes) as port:
        url = f"postgresql://postgres@127.0.0.1:{port}/{_database(syncd)}"
        syncd.settings = {**syncd.settings, "LEASE_SECONDS": "3", "DATABASE_URL": url}
        daemon = await syncd.daemon()
        await syncd.in_step()
        passes.clear()
        await renamed(syncd, "before")
        await until(lambda: lost(daemon), "it says so")
        passes.set()
        await recovered(syncd, daemon, "after")
        assert await daemon.terminated() == 0


async def test_two_connections_are_enough_for_three_destinations(syncd: Service) -> None:
    """Heartbeat, passes, claims and settlements queue for them, and nobody waits for ever."""
    for name in ("second", "third"):
        await syncd.destination(name, await syncd.sandbox(), account=name, **UNGUARDED)
    daemon = await syncd.daemon(pool_size="2", lease_seconds="9")
    await syncd.in_step()
    await renamed(syncd, "changed")
    await syncd.in_step()
    for name in ("shop", "second", "third"):
        await syncd.same(name)
    assert lost(daemon) == []
    used = await syncd.db.fetchval(
        "select count(*) from pg_stat_activity where datname = $1 and query not ilike 'listen%'"
        " and application_name <> $2",
        _database(syncd), service.OURS["application_name"],
    )  # fmt: skip
    assert used <= 2


# ── Failed over ─────────────────────────────────────────────────────────────────────────────


async def test_a_standby_is_waited_for_until_it_is_promoted(
    server: Cluster, syncd: Service
) -> None:
    """The server comes back as one that lets nobody in, then as one that can only be read, and at
    last as the new primary: of another timeline, so that everything is looked at again."""
    daemon = await syncd.daemon()
    await syncd.in_step()
    await renamed(syncd, "before")
    await asyncio.to_thread(server.stop, "immediate")
    (server.data / "standby.signal").touch()
    server.set("hot_standby=off")
    try:
        await asyncio.to_thread(server.start, wait=False)
        await until(lambda: says(daemon, r"the database system is .*(starting up|accept)"),
                    "starting up", LONG)  # fmt: skip
        await asyncio.to_thread(server.stop, "fast")
        server.set("hot_standby=on")
        await asyncio.to_thread(server.start)
        await until(
            lambda: says(daemon, "in a read-only transaction|during recovery"), "read only", LONG
        )
        assert (len(lost(daemon)), back(daemon)) == (1, 0)
    finally:
        await asyncio.to_thread(server.control, "promote")
    await reconnected(syncd)
    await recovered(syncd, daemon, "after", is_another=True)
    assert len(daemon.told("the database was restored or failed over")) == 1


# ── Full ────────────────────────────────────────────────────────────────────────────────────


@contextlib.contextmanager
def small_disk(server: Cluster, megabytes: int) -> Iterator[Path]:
    """A tablespace `small` on a file system of its own; yields its folder."""
    place = server.folder / "small"
    place.mkdir()
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", place], capture_output=True
    ).returncode:
        needs.missing("no tmpfs may be mounted here (it takes root)")
    try:
        if server.user:
            shutil.chown(place, server.user)
        yield place
    finally:
        subprocess.run(["umount", "-l", place], check=True)


async def test_a_full_disk_is_waited_for(server: Cluster) -> None:
    """Small writes find room in their pages, a plan of thousands does not."""
    with small_disk(server, 96) as place:
        admin = await asyncpg.connect(server.url, server_settings=service.OURS)
        await admin.execute(f"create tablespace small location '{place}'")
        try:
            async with filled(server, "tablespace small", 3000) as syncd:
                await _fill_up(syncd, place / "filler")
        finally:
            await admin.execute(f"drop database {_database(syncd)} with (force)")
            await admin.execute("drop tablespace small")
            await admin.close()


async def _fill_up(syncd: Service, filler: Path) -> None:
    await syncd.set("shop", paused=True)
    daemon = await syncd.daemon()
    with contextlib.suppress(OSError), filler.open("wb", buffering=0) as out:
        while True:
            out.write(bytes(1 << 16))
    await syncd.set("shop", paused=False)
    await until(lambda: says(daemon, "No space left on device"), "says why", LONG)
    assert len(lost(daemon)) == 1
    filler.unlink()
    await recovered(syncd, daemon, "after")
    assert len(syncd.boxes["shop"].state.profiles.all) == 3000
