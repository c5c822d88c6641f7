"""One destination at Acme, moved step by step: plan, claim, push, settle, each by hand."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import replace
from typing import Any

import acme
from acme import Acme, AcmeKey

from syncd import control
from syncd.assemble import desired_of
from syncd.claim import Claim
from syncd.control import Destination
from syncd.db import Connection, Pool
from syncd.decide import Rules
from syncd.desired import Desired
from syncd.erasure import Erasures
from syncd.flow import Flow
from syncd.fresh import Fresh
from syncd.fullpass import Counts, FullPass
from syncd.journal import Journal
from syncd.lists import Lists
from syncd.model import Can, Key
from syncd.orphans import reap
from syncd.plan import Bounds, Passed, Planner
from syncd.providers import Options, Provider
from syncd.push import Push
from syncd.pushed import Pushed
from syncd.reading import Reading
from syncd.scan import OptOutReader
from syncd.secrets import Secrets
from syncd.tombstone import Tombstones
from syncd.wire import HttpWire
from syncd.worker import Worker

TIMEOUT = 5.0  # of a request


class Leave:
    """Permits without limits; a request passes the worker's fence all the same."""

    def __init__(self, fence: Callable[[], None]) -> None:
        self._fence = fence

    @asynccontextmanager
    async def _permit(self) -> AsyncIterator[None]:
        self._fence()
        yield

    def permit(self, meter: str) -> AbstractAsyncContextManager[None]:
        return self._permit()


class Hand:
    """One worker at one destination."""

    def __init__(
        self,
        pool: Pool,
        destination: Destination,
        desired: Desired,
        kind: type[Provider],
        adapter: Any,
        worker: Worker,
        list_ids: dict[str, str],
    ) -> None:
        self.pool, self.destination, self.desired = pool, destination, desired
        self.worker, self.kind = worker, kind
        self.planner = Planner(pool, destination, desired, kind.traits.key)
        compare = self.planner.compare
        secrets = Secrets(pool, {"SYNCD_SECRET_TOMBSTONE": "a long secret"})
        self.tombstones = Tombstones(pool, secrets)
        self.journal = Journal(
            pool, destination.id, destination.source, worker.id, compare,
            tombstones=self.tombstones,
        )  # fmt: skip
        self.reader = OptOutReader(pool, destination.id, destination.name, worker.id, adapter)
        self.push = Push(adapter, self.journal, 16, self.reader.refresh)
        can = kind.traits.can
        self.rules = Rules(
            destination.when_gone, kind.traits, desired.fields, list_ids.get,
            bool(can & Can.FIND), bool(can & Can.LISTS),
        )  # fmt: skip
        self.list_ids = list_ids

    @property
    def id(self) -> int:
        return self.destination.id

    # ── Steps ───────────────────────────────────────────────────────────────────────────────

    async def plan(self) -> Passed:
        """One keyed pass."""
        return await self.planner.keyed_pass()

    async def full(
        self, *, direct: bool = False, force: bool = False, window: int = 5000
    ) -> Counts:
        """One full pass; what can be created is sent from the windows if *direct*."""
        send = self.send_window if direct else None
        full = FullPass(self.planner, self.journal, self.rules, send, window=window, force=force)
        counts = await full.run()
        assert counts is not None
        return counts

    async def send_window(self, fresh: Fresh) -> Pushed:
        return await self.push.attempt_fresh(fresh)

    async def claim(self, most: int = 1000) -> Claim:
        return await self.journal.claim(most, self.rules)

    async def send(self, claim: Claim) -> Pushed:
        """Push what was claimed; nothing is settled."""
        return await self.push.attempt(claim)

    async def carry(self, claim: Claim) -> Sequence[str]:
        """Push and settle; returns the contacts that this worker had lost."""
        pushed = await self.push.attempt(claim)
        return await self.journal.settle(claim, pushed.results)

    async def step(self, most: int = 1000) -> Claim:
        """Claim, push and settle once, whatever waits in backoff."""
        await self.hurry()
        claim = await self.claim(most)
        if claim.taken and (claim.entries or claim.settled):
            await self.carry(claim)
        return claim

    async def hurry(self) -> None:
        """Nobody waits any longer."""
        await self.pool.execute(
            "update syncd.journal set due_at = now() where destination_id = $1 and state = 'due'"
            " and due_at > now()",
            self.id,
        )

    async def hurry_all(self) -> None:
        """As `hurry`, save who waits for a scan; lists do not wait any longer either."""
        await self.pool.execute(
            "update syncd.journal set due_at = now() where destination_id = $1 and state = 'due'"
            " and due_at > now() and waits_for is null",
            self.id,
        )
        await self.pool.execute("update syncd.list_mirror set due_at = now()")

    async def drain(self, most: int = 1000, rounds: int = 40) -> None:
        """Plan and push until nothing is new and nothing is due."""
        for _ in range(rounds):
            passed = await self.plan()
            await self.hurry()
            if Can.JOBS in self.kind.traits.can:
                job = await self.journal.claim_job(self.rules)
                if job.taken and (job.entries or job.settled):
                    await self.carry(job)
            await self.step(most)
            due = await self.count("state in ('due', 'sent')")
            if not due and not passed.keys:
                return
        raise AssertionError(f"still at it after {rounds} rounds: {await self.rows()}")

    async def die(self) -> None:
        """This worker's lease runs out; what it had is taken back."""
        await self.pool.execute(
            "update syncd.worker set alive_until = now() - interval '1 s' where id = $1",
            self.worker.id,
        )
        await reap(self.pool)

    # ── What is there ───────────────────────────────────────────────────────────────────────

    async def rows(self) -> dict[str, dict[str, Any]]:
        """The journal by contact."""
        found = await self.pool.fetch(
            "select * from syncd.journal where destination_id = $1", self.id
        )
        return {row["contact_id"]: dict(row) for row in found}

    async def row(self, contact_id: str) -> dict[str, Any]:
        return (await self.rows())[contact_id]

    async def mirror(self) -> dict[str, dict[str, Any]]:
        found = await self.pool.fetch(
            "select * from syncd.mirror where destination_id = $1", self.id
        )
        return {row["contact_id"]: dict(row) for row in found}

    async def count(self, condition: str) -> int:
        text = f"select count(*) from syncd.journal where destination_id = $1 and {condition}"
        return int(await self.pool.fetchval(text, self.id))

    async def held(self) -> dict[str, int]:
        """How many rows each held plan of this destination has, by kind."""
        plans = await control.held_plans(self.pool, [self.destination.name])
        return {plan.kind: plan.rows for plan in plans}


class World:
    """A database, Acme, and the workers of one destination there."""

    def __init__(self, pool: Pool, server: Acme, stack: AsyncExitStack) -> None:
        self.pool, self.acme, self._stack = pool, server, stack
        self.kind: type[Provider] = acme.adapter(server.key, Can.NOTHING)
        self.list_ids: dict[str, str] = {}
        self.hands: list[Hand] = []
        self.findings: dict[str, Any] = {}

    async def keep_findings(self, found: Mapping[str, Any]) -> None:
        self.findings |= found

    @property
    def hand(self) -> Hand:
        """The first worker."""
        return self.hands[0]

    async def worker(self, lease: float = 3600.0, now: Callable[[], float] | None = None) -> Worker:
        clock = {} if now is None else {"now": now}
        worker = Worker(self.pool, lease, lease / 3, TIMEOUT, **clock)
        await worker.begin()
        return worker

    async def another(self, name: str = "acme", worker: Worker | None = None) -> Hand:
        """One more worker at the destination."""
        worker = worker or await self.worker()
        destination = (await control.destinations(self.pool, [name]))[0]
        options = Options(base_url=self.acme.base, **destination.options)
        desired = await desired_of(self.pool, destination, self.kind, options)
        await self.pool.execute(
            "update syncd.feed set generation = $2"
            " where destination_id = $1 and generation is null",
            destination.id, desired.generation,
        )  # fmt: skip
        wire = HttpWire(self.kind, options, AcmeKey, Leave(worker.fence), timeout=TIMEOUT)
        await self._stack.enter_async_context(wire)
        adapter = self.kind(wire, options, {})
        hand = Hand(self.pool, destination, desired, self.kind, adapter, worker, self.list_ids)
        self.hands.append(hand)
        return hand

    def flow(self, hand: Hand) -> Flow:
        """A whole flow over the same parts."""
        adapter = hand.push.adapter
        lists = Lists(self.pool, hand.desired, hand.worker.id, adapter, False, self.list_ids)
        if Can.LISTS in hand.kind.traits.can:
            hand.rules = replace(hand.rules, left_ids=lists.known.get)

        async def learn() -> None:
            return None

        reading = Reading(
            hand.planner, hand.worker.id, adapter, lists, hand.reader.note, self.keep_findings
        )
        return Flow(
            hand.destination, hand.planner, hand.journal, hand.push, hand.rules, hand.reader,
            lists=lists,
            erasures=Erasures(
                self.pool, hand.destination, hand.desired, adapter, hand.tombstones
            ),
            poll=0.05, window=5000, claims=4, learn=learn, identify=learn, reading=reading,
        )  # fmt: skip


@asynccontextmanager
async def world(
    pool: Pool,
    key: Key = "ours",
    can: Can = Can.REPEAT | Can.FIND,
    *,
    batch: int = 1000,
    list_ids: dict[str, str] | None = None,
    traits: dict[str, Any] | None = None,
    server_kind: type[Acme] = Acme,
    **columns: Any,
) -> AsyncIterator[World]:
    """Acme with one destination, its feed open; *columns* of its control row."""
    async with acme.serving(key, server_kind) as server, AsyncExitStack() as stack:
        made = World(pool, server, stack)
        made.kind = acme.adapter(key, can, batch, **(traits or {}))
        made.list_ids = list_ids or {}
        await add_destination(pool, "acme", **columns)
        await made.another()
        yield made
        assert not server.breaches, server.breaches


async def add_destination(pool: Pool, name: str, **columns: Any) -> int:
    """A destination whose feed stands at this moment."""
    names = ["name", "provider", *columns]
    places = ", ".join(f"${n}" for n in range(1, len(names) + 1))
    number = await pool.fetchval(
        f"insert into syncd.destination ({', '.join(names)}) values ({places}) returning id",
        name, "acme", *columns.values(),
    )  # fmt: skip
    await pool.execute(
        "update syncd.feed set position = pg_current_snapshot(), owes_full = false, read_at = now()"
        " where destination_id = $1",
        number,
    )
    return int(number)


async def set_bounds(hand: Hand, keys: int) -> None:
    hand.planner.bounds = Bounds(keys, 0.0)


# ── Source ──────────────────────────────────────────────────────────────────────────────────


async def put(pool: Pool | Connection, *contacts: str, first: str = "A") -> None:
    """Contacts as 'id' (address id@x.test) or 'id=address'; inserted, or changed to this."""
    pairs = [one.partition("=") for one in contacts]
    rows = [(one, email or f"{one}@x.test", first) for one, _, email in pairs]
    await pool.executemany(
        "insert into syncd.contact (id, email, first_name) values ($1, $2, $3)"
        " on conflict (id) do update set email = excluded.email, first_name = excluded.first_name",
        rows,
    )


async def many(pool: Pool, number: int, first: str = "A") -> None:
    """Contacts c00001 … in one statement."""
    await pool.execute(
        "insert into syncd.contact (id, email, first_name)"
        " select 'c' || to_char(n, 'FM00000'), 'c' || n || '@x.test', $2"
        "   from generate_series(1, $1::int) n"
        " on conflict (id) do update set first_name = excluded.first_name",
        number, first,
    )  # fmt: skip


async def rename(pool: Pool | Connection, contact_id: str, first: str) -> None:
    await pool.execute("update syncd.contact set first_name = $2 where id = $1", contact_id, first)


async def move(pool: Pool | Connection, **addresses: str) -> None:
    """Give these contacts these addresses, in one statement."""
    await pool.execute(
        "update syncd.contact c set email = u.email"
        " from unnest($1::text[], $2::text[]) u (id, email) where c.id = u.id",
        list(addresses), list(addresses.values()),
    )  # fmt: skip


async def gone(pool: Pool | Connection, *ids: str) -> None:
    await pool.execute("delete from syncd.contact where id = any($1::text[])", list(ids))


# ── Waiting for locks ───────────────────────────────────────────────────────────────────────


async def blocked(pool: Pool, number: int = 1) -> None:
    """Wait until that many statements of this database wait for a lock."""
    async with asyncio.timeout(60):
        while True:
            waiting = await pool.fetchval(
                "select count(*) from pg_stat_activity"
                " where datname = current_database() and wait_event_type = 'Lock'"
            )
            if waiting >= number:
                return
            await asyncio.sleep(0.005)


@asynccontextmanager
async def holding(pool: Pool, statement: str, *args: Any) -> AsyncIterator[Connection]:
    """A transaction that has run *statement* and stays open, with its locks."""
    async with pool.acquire() as connection, connection.transaction():
        await connection.execute(statement, *args)
        yield connection


def ids(start: int, stop: int) -> Iterator[str]:
    return (f"c{n:05d}" for n in range(start, stop))
