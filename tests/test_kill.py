"""Whatever is killed, and whenever: in the end the provider holds exactly what the source says.

The instants are drawn from a seed that is printed and stands in the failure's message;
SYNCD_TEST_SEED repeats it (the processes' own timing is never quite the same).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
from collections.abc import AsyncIterator, Iterator
from functools import partial
from typing import Any

import pytest
import service
from service import Process, Service, changing, until

from syncd.sandbox import Handle

TURNS = ("lost the database", "the database is back")
KILLS = 18  # in each of the three series
UNGUARDED: dict[str, Any] = {"guard_percent": 100, "guard_floor": 1_000_000}


@contextlib.contextmanager
def seeded(name: str) -> Iterator[random.Random]:
    """A generator whose seed is printed, and told where the test fails."""
    said = os.environ.get("SYNCD_TEST_SEED")
    seed = int(said) if said else random.SystemRandom().randrange(10**9)
    print(f"{name}: SYNCD_TEST_SEED={seed}")
    try:
        yield random.Random(seed)
    except BaseException as error:
        error.add_note(f"SYNCD_TEST_SEED={seed}")
        raise


@pytest.fixture
async def syncd(cluster: str, template: str) -> AsyncIterator[Service]:
    async with service.served(cluster, template) as made:
        made.settings = service.MORTAL
        yield made


async def filled(syncd: Service, n: int = 600, **limits: Any) -> None:
    await service.fill(syncd.db, n)
    await syncd.destination("shop", await syncd.sandbox(**limits), **UNGUARDED)


async def settled(syncd: Service) -> None:
    """Nothing dies any more: whoever was set aside for crashes is retried, then all is in step."""
    syncd.boxes["shop"].set_faults()
    if not any(one.alive and one.args[0] == "run" for one in syncd.processes):
        await syncd.daemon()
    await syncd.hasten()
    await syncd.in_step()
    crashed = await syncd.db.fetchval(
        "select count(*) from syncd.journal"
        " where state = 'rejected' and last_error like 'rejected after % crashes%'"
    )
    if crashed:
        print(f"set aside after crashes: {crashed}")
        await syncd.command("retry", "shop")
        await syncd.in_step()


# ── kill -9 ─────────────────────────────────────────────────────────────────────────────────


class Killer:
    """Keeps processes going, and kills one of those that work, again and again."""

    def __init__(self, syncd: Service, rng: random.Random, kinds: tuple[str, ...]) -> None:
        self.syncd, self.rng, self.kinds = syncd, rng, kinds
        self.alive: list[Process] = []
        self.killed: list[str] = []
        self.instants: list[str] = []

    def _start(self) -> None:
        kind = self.rng.choice(self.kinds)
        args = ("run",) if kind == "run" else ("backfill", "--json")
        self.alive.append(self.syncd.start(*args))

    async def kill(self, times: int, at_once: int = 3) -> None:
        while len(self.killed) < times:
            self.alive = [one for one in self.alive if one.alive]
            while len(self.alive) < at_once:
                self._start()
            working = await self.syncd.db.fetch(
                "select pid from syncd.worker where alive_until > now() and pid = any($1)",
                [one.pid for one in self.alive],
            )
            await asyncio.sleep(self.rng.uniform(0.0, 0.5))
            pids = {row["pid"] for row in working}
            victims = [one for one in self.alive if one.pid in pids and one.alive]
            if victims:
                await self._strike(self.rng.choice(victims))

    async def _strike(self, victim: Process) -> None:
        victim.kill()
        self.killed.append(victim.args[0])
        row = await self.syncd.db.fetchrow(
            "select (select count(*) from syncd.journal where state = 'sent') as sent,"
            " (select count(*) from syncd.intent) as windows"
        )
        if row and (row["sent"] or row["windows"]):
            self.instants.append(f"{row['sent']}/{row['windows']}")


@pytest.mark.parametrize("kinds", [("run",), ("backfill",), ("run", "backfill")], ids="+".join)
async def test_kill_9_at_any_instant_loses_doubles_and_mails_nobody(
    syncd: Service, kinds: tuple[str, ...]
) -> None:
    with seeded(f"kill -9 of {kinds}") as rng:
        await filled(syncd)
        box = syncd.boxes["shop"]
        box.set_faults(seed=rng.randrange(10**6), latency_ms=[5, 120])
        changes = await changing(syncd, rng)
        stop = asyncio.Event()
        killer = Killer(syncd, rng, kinds)
        async with asyncio.TaskGroup() as group:
            group.create_task(changes.keep_on(stop))
            await killer.kill(KILLS)
            stop.set()
        for one in killer.alive:
            if one.args[0] == "backfill":
                one.kill()
        print(
            f"killed {len(killer.killed)}, in flight at {killer.instants}, {changes.done} changes"
        )
        await settled(syncd)
        await syncd.same("shop")


async def test_a_full_pass_that_died_half_way_is_made_again(syncd: Service) -> None:
    """Nobody noted these contacts as changed: only the full pass can find them."""
    await filled(syncd, 100)
    box = syncd.boxes["shop"]
    first = await syncd.daemon(window="50")
    await syncd.in_step()
    await syncd.db.execute("alter table syncd.contact disable trigger user")
    await syncd.db.execute(
        "insert into syncd.contact (id, email)"
        " select 'x' || i, 'x' || i || '@example.org' from generate_series(1, 1000) i"
    )
    await syncd.db.execute("alter table syncd.contact enable trigger user")
    await syncd.db.execute("delete from syncd.change")
    box.set_faults(latency_ms=[200, 300])
    assert (await syncd.command("full", "shop"))[0] == "done"
    await until(partial(_there, box, 150), "half way")
    first.kill()
    assert len(box.state.profiles.all) < 1100
    box.set_faults()
    await syncd.daemon()
    await until(partial(_there, box, 1100), "the rest")
    await syncd.in_step()
    await syncd.same("shop")


# ── SIGTERM, SIGSTOP ────────────────────────────────────────────────────────────────────────


async def test_a_backfill_told_to_stop_goes_on_where_it_was_when_started_again(
    syncd: Service,
) -> None:
    await filled(syncd, 2000)
    box = syncd.boxes["shop"]
    box.set_faults(latency_ms=[100, 200])
    codes = []
    for least in (1, 500, 1200):
        backfill = syncd.start("backfill", "--json", window="100")
        await until(partial(_there, box, least), "profiles")
        codes.append(await backfill.terminated())
    assert codes == [143, 143, 143], syncd.logs()
    assert len(box.state.profiles.all) < 2000
    left = await syncd.db.fetchval("select count(*) from syncd.journal where doubtful")
    assert left == 0, "a backfill that was asked to stop leaves no doubt"
    box.set_faults()
    last = syncd.start("backfill", "--json")
    assert await last.ended() == 0, last.said
    assert last.answer()["destinations"]["shop"]["in_step"] is True
    await syncd.same("shop")
    assert set(box.state.profiles.creates.values()) == {1}


async def test_a_process_that_stood_still_past_its_lease_overwrites_nobody(
    syncd: Service,
) -> None:
    with seeded("SIGSTOP") as rng:
        await filled(syncd, 300)
        box = syncd.boxes["shop"]
        box.set_faults(seed=1, latency_ms=[20, 150])
        changes = await changing(syncd, rng)
        daemons = [await syncd.daemon(), await syncd.daemon()]
        stop = asyncio.Event()
        async with asyncio.TaskGroup() as group:
            group.create_task(changes.keep_on(stop))
            for n in range(3):
                asleep = daemons[n % 2]
                await asyncio.sleep(rng.uniform(0.2, 0.6))
                asleep.tell(signal.SIGSTOP)
                await until(partial(_expired, syncd, asleep), "lease")
                asleep.tell(signal.SIGCONT)
                await until(partial(_serves_again, asleep, 1 + n // 2), "serving again")
            stop.set()
        assert all(one.alive for one in daemons)
        await settled(syncd)
        await syncd.same("shop")


def _there(box: Handle, least: int) -> bool:
    return len(box.state.profiles.all) >= least


def _struck(box: Handle, least: int) -> bool:
    return bool(box.state.faults.struck.total() >= least)


def _answered(box: Handle, least: int) -> bool:
    return bool(box.state.ledger.answers["200"] >= least)


def _serves_again(process: Process, than: int) -> bool:
    return process.served > than


async def _expired(syncd: Service, process: Process) -> bool:
    """Its lease ran out, and whatever it had in flight has been taken over."""
    live = await syncd.db.fetchval(
        "select exists (select 1 from syncd.worker w where w.pid = $1 and (w.alive_until > now()"
        " or exists (select 1 from syncd.journal j where j.claimed_by = w.id)))",
        process.pid,
    )
    return not live


# ── Two daemons; an outage of the provider ──────────────────────────────────────────────────


async def test_two_daemons_share_the_work_and_an_outage_holds_neither_up_for_good(
    syncd: Service,
) -> None:
    with seeded("two daemons, outages") as rng:
        await filled(syncd, 400)
        box = syncd.boxes["shop"]
        box.set_faults(seed=2, latency_ms=[5, 60])
        changes = await changing(syncd, rng)
        daemons = [await syncd.daemon(), await syncd.daemon()]
        await until(lambda: len(box.state.profiles.all) > 100, "first contacts")
        stop = asyncio.Event()
        async with asyncio.TaskGroup() as group:
            group.create_task(changes.keep_on(stop, 0.01))
            for kind in ("close", "503"):
                await asyncio.sleep(1.0)
                struck = box.state.faults.struck.total()
                box.set_faults(outage=kind)
                await until(partial(_struck, box, struck + 4), "tries")
                box.set_faults(seed=3, latency_ms=[5, 60])
                answered = box.state.ledger.answers["200"]
                await until(partial(_answered, box, answered + 1), "back")
            stop.set()
        await settled(syncd)
        await syncd.same("shop")
        for one in daemons:
            assert len(one.told("provider is not available")) <= 2, one.said
            assert len(one.told("provider is back")) <= len(one.told("provider is not available"))
        claims = await syncd.db.fetch("select id from syncd.worker where alive_until > now()")
        assert len(claims) == 2
        spent = await syncd.db.fetchval("select max(attempts) from syncd.journal")
        assert spent is None, "nothing is left in the journal"


# ── The database ────────────────────────────────────────────────────────────────────────────


async def test_terminated_backends_are_said_once_and_done_without(syncd: Service) -> None:
    """Whether a termination meets a statement, or idle connections alone, is a matter of luck: in
    both cases contacts arrive again, and the log does not repeat itself."""
    with seeded("pg_terminate_backend") as rng:
        await filled(syncd, 300)
        box = syncd.boxes["shop"]
        box.set_faults(seed=4, latency_ms=[20, 80])
        changes = await changing(syncd, rng)
        daemon = await syncd.daemon()
        await until(partial(_answered, box, 1), "first contacts")
        stop = asyncio.Event()
        times = 4  # it waits ever longer between them
        async with asyncio.TaskGroup() as group:
            group.create_task(changes.keep_on(stop))
            for _ in range(times):
                await asyncio.sleep(rng.uniform(0.1, 0.5))
                ended = await syncd.db.fetchval(
                    "select count(pg_terminate_backend(pid)) from pg_stat_activity"
                    " where datname = current_database() and application_name <> 'the test'"
                )
                assert ended
                enough = box.state.ledger.answers["200"] + 5  # some were on their way
                await until(partial(_answered, box, enough), "answering again")
            stop.set()
        await settled(syncd)
        await syncd.same("shop")
        assert daemon.alive
        turns = [one["event"] for one in daemon.log if one["event"] in TURNS]
        assert turns == [TURNS[n % 2] for n in range(len(turns))], daemon.said
        assert len(turns) <= 2 * times
