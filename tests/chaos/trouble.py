"""Who makes trouble: at the database, at the providers, in the control tables."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import orjson

from syncd import control
from syncd.errors import ConfigError

from .boxes import Box
from .cluster import Cluster, Link
from .shapes import list_ids, record
from .source import Writer
from .variant import FIELDS, Variant

Counts = Counter[str]


class Database:
    """Restarts PostgreSQL, cuts connections off, has its answers delayed."""

    def __init__(self, cluster: Cluster, rng: random.Random, counts: Counts) -> None:
        self.cluster, self.rng, self.counts = cluster, rng, counts
        self.link = Link(cluster.url)

    async def strike(self) -> None:
        name = self.rng.choices(("fast", "immediate", "cut", "cut one", "delay"), (1, 1, 2, 3, 4))[
            0
        ]
        self.counts[f"database {name}"] += 1
        match name:
            case "fast" | "immediate":
                await self.cluster.restart(name, self.rng.choice((0.0, 0.5, 5.0)))
            case "cut":
                await self.link.fetch(f"select pg_terminate_backend(pid) {_THEIRS}")
            case "cut one":
                await self.link.fetch(
                    f"select pg_terminate_backend(pid) {_THEIRS} order by random() limit 1"
                )
            case "delay":
                await self._delay()

    async def _delay(self) -> None:
        """Some of its processes stand still for a while, perhaps holding locks."""
        rows = await self.link.fetch(f"select pid {_THEIRS} order by pid")
        pids = [row["pid"] for row in rows if self.rng.random() < 0.5]
        try:
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGSTOP)
            await asyncio.sleep(self.rng.choice((0.1, 0.4, 1.5)))
        finally:
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGCONT)


_THEIRS = """
 from pg_stat_activity
where backend_type = 'client backend' and application_name <> 'the test'"""

MISHAPS = ("error_rate", "error_html", "error_after", "rate_429", "cut_before", "cut_after",
           "half_answer", "html", "garbage", "truncated_json")  # fmt: skip


class Provider:
    """Makes one provider slow, erratic, absent, or deaf to its credential."""

    def __init__(self, box: Box, rng: random.Random, counts: Counts) -> None:
        self.box, self.rng, self.counts = box, rng, counts

    async def strike(self) -> None:
        name = self.rng.choices(("erratic", "calm", "outage", "revoked"), (5, 2, 2, 0.5))[0]
        self.counts[f"provider {name}"] += 1
        seed, latency = self.rng.randrange(10**6), self.rng.choice(([0, 10], [5, 100], [50, 600]))
        faults: dict[str, Any] = {"seed": seed, "latency_ms": latency}
        match name:
            case "erratic":
                some = self.rng.sample(MISHAPS, self.rng.randint(1, 5))
                faults |= {one: round(self.rng.uniform(0.02, 0.15), 3) for one in some}
                if self.rng.random() < 0.3:
                    faults["retry_after"] = self.rng.choice((1, 2))
            case "outage":
                faults["outage"] = self.rng.choice(("close", "503"))
            case "revoked":
                faults["revoked"] = True
        await self.box.post("/_faults", **faults)

    async def calm(self) -> None:
        await self.box.post("/_faults", latency_ms=[0, 20])


LEAVES: Mapping[str, Callable[[str, str], Mapping[str, Any]]] = {
    "clevercampaign": lambda number, _: {"do": "leave", "list": number},
    "constantcontact": lambda number, _: {"do": "leave_list", "list": int(number)},
    "copernica": lambda _, name: {"do": "leave", "name": name},
}
"""How somebody leaves one list, by its id and its name there, where people can."""


class Public:
    """People who say no at a provider, to all mail or to one list."""

    def __init__(self, boxes: Mapping[str, Box], link: Link, writer: Writer, rng: random.Random,
                 counts: Counts) -> None:  # fmt: skip
        self.boxes, self.link, self.writer, self.rng = boxes, link, writer, rng
        self.counts = counts
        self.left: set[tuple[str, str, str]] = set()  # shop, record, id of the list there

    async def strike(self) -> None:
        name = self.rng.choice(sorted(self.boxes))
        if name in LEAVES and self.rng.random() < 0.3:
            await self._leave(name)
        else:
            await self._refuse(name)

    async def _leave(self, name: str) -> None:
        """One of several lists."""
        state = await self.boxes[name].get("/_state")
        ids = list_ids(name, state)
        some = [
            (key, one, called)
            for key, raw in sorted(state["profiles"].items())
            if (one := record(name, key, raw)) is not None and one.mailable and len(one.lists) > 1
            for called in sorted(one.lists)
        ]
        if not some:
            return
        key, one, called = self.rng.choice(some)
        number = ids.get(called, called)
        if await self.boxes[name].post("/_act", email=one.email, **LEAVES[name](number, called)):
            self.left.add((name, key, number))
            self.counts["lists left at a provider"] += 1

    async def _refuse(self, name: str) -> None:
        rows = await self.link.fetch("select email from syncd.contact order by id")
        if not rows:
            return
        email = self.rng.choice(rows)["email"]
        self.writer.spoken.add(email)
        if await self.boxes[name].post("/_act", do="unsubscribe", email=email):
            self.counts["noes at a provider"] += 1


class Operator:
    """Pauses, resumes, maps anew, gives commands, approves, mends what was halted."""

    def __init__(self, variant: Variant, url: str, rng: random.Random, counts: Counts) -> None:
        self.variant, self.rng, self.counts = variant, rng, counts
        self.link = Link(url)
        self.mapping = {shop.provider: 0 for shop in variant.shops}

    async def strike(self) -> None:
        shop = self.rng.choice(self.variant.shops).provider
        kind = self.rng.choices(
            ("pause", "map", "full", "scan", "sync", "retry", "audit", "mend"),
            (2, 1, 2, 2, 1, 1, 1, 3),
        )[0]
        self.counts[f"operator {kind}"] += 1
        match kind:
            case "pause":
                await self.set(shop, "paused", True)
                await asyncio.sleep(self.rng.uniform(0.2, 2.0))
                await self.set(shop, "paused", False)
            case "map":
                await self.map(shop, self.rng.randrange(2))
            case "mend":
                await self.mend()
            case _:
                args = {"repair": True} if kind == "audit" else {}
                await self.command(kind, shop, args)
        await self.approve()

    async def set(self, shop: str, column: str, value: Any) -> None:
        await self.link.execute(
            f"update syncd.destination set {column} = $2 where name = $1", shop, value
        )

    async def map(self, shop: str, number: int) -> None:
        self.mapping[shop] = number
        await self.set(shop, "fields", orjson.dumps(FIELDS[shop][number]).decode())

    async def command(self, kind: str, shop: str, args: Mapping[str, Any]) -> Any:
        return await self.link.fetchval(
            "insert into syncd.command (kind, destination, args) values ($1, $2, $3::text::jsonb)"
            " returning id", kind, shop, orjson.dumps(args).decode(),
        )  # fmt: skip

    async def mend(self) -> None:
        """Whatever was halted goes on, as `syncd resume` has it."""
        await self.link.execute(
            "update syncd.destination set halted = null, paused = false where halted is not null"
        )

    async def approve(self) -> None:
        async def work(connection: Any) -> None:
            for plan in await control.held_plans(connection):
                with contextlib.suppress(ConfigError):
                    await self.command("approve", plan.destination,
                                       {"plan": plan.id, "rows": plan.rows})  # fmt: skip

        await self.link.run(work)


class Sleeper:
    """A transaction that stays open for seconds, of a contact that nobody else changes."""

    def __init__(self, url: str, writer: Writer, rng: random.Random, counts: Counts) -> None:
        self.link, self.writer, self.rng, self.counts = Link(url), writer, rng, counts

    async def strike(self) -> None:
        rows = await self.link.fetch("select id from syncd.contact order by id")
        key = self.rng.choice([row["id"] for row in rows])
        self.writer.kept.add(key)
        self.counts["long transactions"] += 1

        async def work(connection: Any) -> None:
            await connection.execute(
                "update syncd.contact set company = $2 where id = $1", key,
                f"Slow {self.rng.randrange(999)}",
            )  # fmt: skip
            await asyncio.sleep(self.rng.choice((0.5, 2.0, 4.0)))

        try:
            await self.link.transact(work)
        finally:
            self.writer.kept.discard(key)
