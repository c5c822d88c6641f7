"""Random concurrency against a provider with a memory (races.md, section D).

    python -m tests.fuzz.driver --seeds 100 --start 1

Several workers, writers, planners and a reader of opt-outs work at once on a dozen contacts with
few addresses, while workers are killed or stall past their lease and answers get lost. Then the
faults stop; the feed (or, in the other mode, feed and full passes) must bring the provider to
exactly what the source says. A seed fixes what is tried, not how it interleaves.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import logging
import os
import random
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import asyncpg
import orjson
import structlog

from syncd import control, db, providers
from syncd.assemble import Assembled, assemble
from syncd.db import Pool
from syncd.errors import ConfigError
from syncd.migrate import migrate
from syncd.model import Key
from syncd.secrets import Secrets
from syncd.settings import Settings
from syncd.worker import Worker

from .process import LEASE, TIMEOUT, Process, StallingWorker, fast
from .provider import KINDS, Badge, Faults, Server, Store
from .verdict import Verdict
from .writers import CONTACTS, LISTS, SELECTED, Writers

KILLED = (*db.LOST, asyncio.CancelledError, asyncpg.PostgresError, RuntimeError)

_names = itertools.count(1)


@dataclass(frozen=True, slots=True)
class Variant:
    """What one seed tries."""

    seed: int
    key: Key
    full: bool  # full passes run beside the feed
    selected: bool  # only contacts of two of the three lists belong
    when_gone: str
    guarded: bool  # a tight guard, and somebody who approves
    addresses: int
    tells_ours: bool
    flag_only: bool

    @staticmethod
    def of(seed: int, tells_ours: bool = False) -> Variant:
        rng = random.Random(seed)
        keys: Sequence[Key] = ("ours", "remote id", "address")
        return Variant(
            seed,
            keys[seed % 3],
            (seed // 3) % 2 == 1,
            rng.random() < 0.5,
            rng.choice(("withdraw", "withdraw", "delete")),
            rng.random() < 0.25,
            rng.choice((8, 10, 14, 18)),
            tells_ours and rng.random() < 0.5,
            rng.random() < 0.3,
        )


def _unhandled(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """What the pools of the killed leave behind is no news."""
    left = context["message"].startswith("Resetting connection")
    if not left and not isinstance(context.get("exception"), KILLED):
        loop.default_exception_handler(context)


# ── A run ───────────────────────────────────────────────────────────────────────────────────


@dataclass
class Run:
    """One seed against one database."""

    variant: Variant
    url: str
    seconds: float = 2.5
    violations: list[str] = field(default_factory=list)
    residues: Counter[str] = field(default_factory=Counter)
    doubts: Counter[str] = field(default_factory=Counter)
    counts: Counter[str] = field(default_factory=Counter)
    processes: list[Process] = field(default_factory=list)
    leftovers: list[asyncio.Future[Any]] = field(default_factory=list)
    over: bool = False

    def __post_init__(self) -> None:
        v = self.variant
        self.random = random.Random(v.seed * 7919)
        self.store = Store(v.key, TIMEOUT, v.tells_ours, v.flag_only, random.Random(v.seed + 1))
        self.server = Server(self.store)

    # ── Setting up ──────────────────────────────────────────────────────────────────────────

    async def go(self) -> Run:
        asyncio.get_running_loop().set_exception_handler(_unhandled)
        logging.getLogger("asyncpg.pool").setLevel(logging.CRITICAL)
        # Not called as the workers are: whoever takes over ends the sessions of the dead ones.
        async with (
            asyncpg.create_pool(self.url, min_size=1, max_size=8) as pool,
            self.server.serving(),
        ):
            self.pool = pool
            emails = [f"a{n}@x.test" for n in range(self.variant.addresses)]
            self.writers = Writers(
                pool, self.random, emails, self.store.consents, self.variant.full
            )
            await self._set_up()
            with fast():
                await self._first_pass()
                await self._trouble()
                await self._settle_down()
                self.counts["requests"] = len(self.store.history)
                self.counts["writes"] = self.writers.writes
                for process in self.processes:
                    await process.stop()
            self.violations += self.store.violations
            for owner, told in self.store.second_records():
                self.violations.append(told + Verdict(self).history(owner))
            self.residues += self.store.residues
            await self._check()
        await asyncio.gather(*self.leftovers, return_exceptions=True)
        await self._check_deadlocks()
        return self

    async def _set_up(self) -> None:
        v = self.variant
        await self.pool.executemany(
            "insert into syncd.list (id, name) values ($1, $1)", [(one,) for one in LISTS]
        )
        tight = v.guarded
        await self.pool.execute(
            "insert into syncd.destination (name, provider, credential, options, fields, lists,"
            " when_gone, guard_percent, guard_floor)"
            " values ('fuzz', $1, 'fuzz', $2::jsonb, $3::jsonb, $4, $5, $6, $7)",
            KINDS[v.key].name,
            orjson.dumps({"base_url": self.server.base}).decode(),
            orjson.dumps({"name": "first_name", "v": "attributes.v"}).decode(),
            list(SELECTED) if v.selected else None,
            v.when_gone,
            20.0 if tight else 100.0,
            6 if tight else 100_000,
        )
        await self.pool.execute("create sequence public.v")
        async with self.pool.acquire() as connection, connection.transaction():
            for one in CONTACTS:
                if self.random.random() < 0.7:
                    await self.writers.insert(connection, one)

    @asynccontextmanager
    async def assembled(self, pool: Pool, worker: Worker) -> AsyncIterator[Assembled]:
        settings = Settings(
            lease_seconds=10, poll_seconds=0.03, request_timeout_seconds=TIMEOUT, window=3
        )
        environ = {"SYNCD_SECRET_FUZZ": orjson.dumps({"worker": "0"}).decode()}
        secrets = Secrets(pool, environ)
        (destination,) = await control.destinations(pool)
        async with assemble(
            pool, settings, secrets, environ, destination, [destination], worker
        ) as made:
            yield made

    async def no_full_pass(self, force: bool = False) -> None:
        self.violations.append("a full pass was owed though only the feed may serve")

    async def _first_pass(self) -> None:
        """Gives the feed its position; an ordinary full pass by a process of its own."""
        process = Process(self)
        async with AsyncExitStack() as stack:
            worker = StallingWorker(self.pool, 60, 1, TIMEOUT)
            await worker.begin()
            made = await stack.enter_async_context(self.assembled(self.pool, worker))
            assert made.flow is not None
            made.credential.value = Badge(worker=str(worker.id), until=worker.until)
            process.made = made
            await made.flow.prepare()
            await made.flow.full_pass()
            await worker.end()

    # ── Trouble ─────────────────────────────────────────────────────────────────────────────

    async def _trouble(self) -> None:
        rng = self.random
        self.store.faults = Faults(
            rng.choice((0, 0.05, 0.1)), rng.choice((0, 0.05, 0.15)), rng.choice((0, 0.05)),
            rng.choice((0, 0.04)), rng.choice((0, 0.1)), rng.choice((0.005, 0.015, 0.03)),
        )  # fmt: skip
        for _ in range(rng.choice((2, 3))):
            self._spawn()
        until = time.monotonic() + self.seconds
        jobs: list[Callable[[], Awaitable[None]]] = [
            *[self.writers.write] * rng.choice((2, 3)),
            self._refuse, self._kill_or_stall, self._ring, self._operate,
        ]  # fmt: skip
        async with asyncio.TaskGroup() as group:
            for job in jobs:
                group.create_task(self._until(until, job))
        self.store.faults = Faults()
        for process in self.processes:
            process.stalls.awake.set()

    async def _until(self, until: float, job: Callable[[], Awaitable[None]]) -> None:
        while time.monotonic() < until:
            await job()

    def _spawn(self) -> None:
        process = Process(self)
        self.processes.append(process)
        process.start()

    async def _kill_or_stall(self) -> None:
        await asyncio.sleep(self.random.uniform(0.1, 0.6))
        for process in list(self.processes):
            assert process.task is not None
            if process.task.done():
                self.processes.remove(process)
                self._spawn()
        process = self.random.choice(self.processes)
        if self.random.random() < 0.5:
            self.counts["kills"] += 1
            process.kill()
        else:
            self.counts["stalls"] += 1
            process.stalls.awake.clear()
            await asyncio.sleep(self.random.choice((0.1, LEASE, LEASE * 1.5)))
            process.stalls.awake.set()

    async def _refuse(self) -> None:
        await asyncio.sleep(self.random.uniform(0.1, 0.5))
        self.store.refuse()

    async def _ring(self) -> None:
        """Time passes: what waits is due, loops look, opt-outs are read."""
        await asyncio.sleep(0.02)
        await self._hurry()
        for process in self.processes:
            if process.flow is None:
                continue
            process.flow.bells.push.set()
            if self.random.random() < 0.15:
                process.flow.bells.read.set()
            if self.variant.full and self.random.random() < 0.05:
                process.flow.bells.full.set()

    async def _hurry(self) -> None:
        await self.pool.execute("""
update syncd.journal j set due_at = now()
 where j.ctid = any(array(select ctid from syncd.journal
                           where state = 'due' and due_at > now() + interval '30 ms'
                             for update skip locked))""")

    async def _operate(self) -> None:
        """Approve what is held, retry what crashes set aside."""
        await asyncio.sleep(self.random.uniform(0.1, 0.3))
        await self._approve()

    async def _approve(self) -> None:
        for plan in await control.held_plans(self.pool):
            with contextlib.suppress(ConfigError):
                # What is discarded comes back with the next full pass only.
                if self.variant.full and self.random.random() < 0.2 and not self.over:
                    await control.discard(self.pool, plan.id, "fuzz")
                else:
                    await control.approve(self.pool, plan.id, plan.rows, "fuzz")
        await control.release_decided(self.pool)
        await self.pool.fetchval("select syncd.trim_change()")

    # ── Settling down ───────────────────────────────────────────────────────────────────────

    async def _settle_down(self) -> None:
        """No more faults: within seconds nothing may be left to do."""
        self.over = True
        if self.variant.full:
            await self.pool.execute("update syncd.feed set owes_full = true")
        until, calm = time.monotonic() + 180, 0
        while calm < 3:
            if time.monotonic() > until:
                self.violations.append("it did not come to rest: " + await self._left())
                return
            for process in list(self.processes):
                if process.task is None or process.task.done():
                    self.processes.remove(process)
            while len(self.processes) < 2:
                self._spawn()
            await self._ring()
            for process in self.processes:
                if process.flow is not None:
                    process.flow.bells.read.set()
            await self._approve()
            await self.pool.execute(
                "update syncd.journal set state = 'due' where ctid = any(array(select ctid from"
                " syncd.journal where state = 'rejected' and last_error like '%crashes%'"
                " for update skip locked))"
            )
            calm = calm + 1 if await self._calm() else 0
            await asyncio.sleep(0.05)

    async def _calm(self) -> bool:
        row = await self.pool.fetchrow("""
select not exists (select 1 from syncd.journal where state <> 'rejected') as empty,
       not exists (select 1 from syncd.intent) as closed,
       not exists (select 1 from syncd.change c, syncd.feed f
                    where c.xid >= pg_snapshot_xmin(f.position)
                      and not pg_visible_in_snapshot(c.xid, f.position)) as read,
       not exists (select 1 from syncd.feed where owes_full) as swept,
       (select coalesce(max((cursor ->> 'until')::timestamptz), '-infinity') from syncd.scan
         where finished_at is not null) as read_at""")
        assert row is not None
        read = max((one.at for one in self.store.refusals), default=0) < row["read_at"].timestamp()
        idle = not self.variant.full or all(
            p.flow is None or p.flow.full is None for p in self.processes
        )
        return bool(
            row["empty"] and row["closed"] and row["read"] and row["swept"] and read and idle
        )

    async def _left(self) -> str:
        rows = await self.pool.fetch(
            "select contact_id, wish, state, lane, attempts, doubtful, last_error"
            " from syncd.journal where state <> 'rejected'"
        )
        others = await self.pool.fetch("select destination_id, lo, hi, ids from syncd.intent")
        others += await self.pool.fetch(
            "select 'mirror', m.contact_id, m.email, m.state, m.subscribed, m.digest, m.remote,"
            " exists (select from syncd.contact c where c.id = m.contact_id) from syncd.mirror m"
        )
        others += await self.pool.fetch(
            "select 'new', c.contact_id, count(*) from syncd.change c, syncd.feed f where c.xid >="
            " pg_snapshot_xmin(f.position) and not pg_visible_in_snapshot(c.xid, f.position)"
            " group by c.contact_id"
        )
        feed = await self.pool.fetch("select owes_full, position from syncd.feed")
        plans = await self.pool.fetch("select * from syncd.plan where state in ('open', 'held')")
        return "\n    ".join(str(tuple(row)) for row in (*rows, *others, *feed, *plans))

    # ── The verdict ─────────────────────────────────────────────────────────────────────────

    async def _check(self) -> None:
        verdict = Verdict(self)
        await verdict.read()
        verdict.judge()

    async def _check_deadlocks(self) -> None:
        connection = await asyncpg.connect(self.url)
        try:
            n = await connection.fetchval(
                "select deadlocks from pg_stat_database where datname = current_database()"
            )
        finally:
            await connection.close()
        if n:
            self.violations.append(f"{n} deadlocks in PostgreSQL")


# ── The command line ──────────────────────────────────────────────────────────────


async def run_seed(seed: int, url: str, seconds: float = 2.5, tells_ours: bool = False) -> Run:
    with _installed():
        return await Run(Variant.of(seed, tells_ours), url, seconds).go()


@contextmanager
def _installed() -> Iterator[None]:
    """Its adapters among the providers: no package of ours names them."""
    there = cast("dict[str, Any]", providers.providers())
    there.update({kind.name: kind for kind in KINDS.values()})
    try:
        yield
    finally:
        for kind in KINDS.values():
            there.pop(kind.name, None)


@contextmanager
def private_server() -> Iterator[tuple[str, Path]]:
    """A PostgreSQL of our own for the campaign: the address of its database `postgres`, its log."""
    with tempfile.TemporaryDirectory(prefix="syncd-fuzz-") as folder:
        Path(folder).chmod(0o755)
        os.environ.setdefault("XDG_RUNTIME_DIR", folder)
        with db.server(f"embedded:{folder}/pg") as url:
            yield url, Path(folder) / "pg" / "log"


async def campaign(
    server: str, log: Path, seeds: Sequence[int], seconds: float, tells_ours: bool
) -> int:
    """Run the seeds one after another; returns how many were not clean."""
    admin = await asyncpg.connect(server)
    head, _, query = server.partition("?")
    unclean, totals, residues, doubts = 0, Counter[str](), Counter[str](), Counter[str]()
    for setting in ("fsync = off", "synchronous_commit = off", "full_page_writes = off"):
        await admin.execute(f"alter system set {setting}")
    await admin.execute("select pg_reload_conf()")
    for seed in seeds:
        name = f"fuzz_{next(_names)}"
        await admin.execute(f"create database {name}")
        url = f"{head.rsplit('/', 1)[0]}/{name}?{query}"
        made = await asyncpg.connect(url)
        await migrate(made)
        await made.close()
        run = await run_seed(seed, url, seconds, tells_ours)
        await admin.execute(f"drop database {name} with (force)")
        v = run.variant
        print(
            f"seed {seed:4} {v.key:9} {'full' if v.full else 'feed'} {v.when_gone:8}"
            f" {'lists' if v.selected else 'all  '} {'guard' if v.guarded else '     '}"
            f" {'ours ' if v.tells_ours else '     '}{'flag ' if v.flag_only else '     '}"
            f" {dict(run.counts)} {'CLEAN' if not run.violations else 'VIOLATED'}"
            f" {dict(run.residues) or ''} {dict(run.doubts) or ''}",
            flush=True,
        )
        for text in run.violations[:6]:
            print("   ", text[:4000], flush=True)
        if any("deadlocks" in text for text in run.violations):
            lines = log.read_text(errors="replace").splitlines()
            at = max((n for n, one in enumerate(lines) if "deadlock detected" in one), default=0)
            print("\n".join(_told(lines[at:])), flush=True)
        unclean += bool(run.violations)
        totals[f"{v.key}/{'full' if v.full else 'feed'}"] += not run.violations
        residues += run.residues
        doubts += run.doubts
    await admin.close()
    print(f"clean {len(seeds) - unclean} of {len(seeds)}: {dict(totals)}")
    print(f"residues {dict(residues)}; doubts {dict(doubts)}")
    return unclean


def _told(lines: Sequence[str]) -> Iterator[str]:
    """Of a deadlock: who waited for whom, and the first lines of what they were doing."""
    end = next((n for n, one in enumerate(lines) if "HINT" in one), len(lines))
    for n, one in enumerate(lines[: end + 4]):
        if "Process" in one or "CONTEXT" in one:
            yield one[:160]
            yield from (f"    {line.strip()[:100]}" for line in lines[n + 1 : n + 7])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--start", type=int, default=1)
    parser.add_argument("--key", choices=sorted(KINDS), help="only seeds of this key")
    parser.add_argument("--seconds", type=float, default=2.5)
    parser.add_argument(
        "--tells-ours", action="store_true", help="some providers tell of our own removals as noes"
    )
    said = parser.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    chosen = (n for n in itertools.count(said.start) if said.key in (None, Variant.of(n).key))
    seeds = list(itertools.islice(chosen, said.seeds))
    with private_server() as (server, log):
        return 1 if asyncio.run(campaign(server, log, seeds, said.seconds, said.tells_ours)) else 0


if __name__ == "__main__":
    raise SystemExit(main())
