"""One seed: set up, attack, let rest, judge."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import asyncpg
import orjson

from syncd.migrate import migrate
from syncd.secrets import variable

from . import source
from .boxes import Box, sandbox
from .checker import judge
from .cluster import Cluster, Link, cluster
from .evidence import Finding
from .fleet import Fleet, environment
from .gather import gather
from .rest import Rest
from .trouble import Database, Operator, Provider, Public, Sleeper
from .variant import Variant

QUOTA = 250  # requests a day, from the first fault on, of a shop that has a quota


@dataclass
class Outcome:
    """What became of a seed."""

    seed: int
    findings: Sequence[Finding]
    residues: Counter[str]
    counts: Counter[str]
    folder: Path

    def summary(self) -> dict[str, Any]:
        counts = dict(sorted(self.counts.items()))
        return {"seed": self.seed, "findings": len(self.findings), **counts,
                "residues": dict(self.residues)}  # fmt: skip


class Campaign:
    """One seed against everything real."""

    def __init__(self, seed: int, seconds: float, folder: Path) -> None:
        self.variant, self.seconds, self.folder = Variant.of(seed), seconds, folder
        self.counts: Counter[str] = Counter()
        self.quotas: dict[str, tuple[int, float]] = {}  # by shop: requests, and when it was lifted
        self.erased: set[str] = set()
        self.left: set[tuple[str, str, str]] = set()  # shop, record and list: somebody left it

    def rng(self, who: str) -> random.Random:
        return random.Random(f"{self.variant.seed} {who}")

    async def run(self) -> Outcome:
        with cluster(self.folder) as server:
            async with sandbox(self.folder) as boxes:
                self.boxes = {shop.provider: boxes[shop.provider] for shop in self.variant.shops}
                return await self._with(server)

    async def _with(self, server: Cluster) -> Outcome:
        await self._set_up(server.url)
        secrets = {variable(name): json.dumps(box.credential) for name, box in self.boxes.items()}
        secrets[variable("tombstone")] = "a long random text of the campaign"
        fleet = Fleet(
            self.variant.workers, environment(server.url, secrets, self.variant.listen), self.folder
        )
        operator = Operator(self.variant, server.url, self.rng("operator"), self.counts)
        link = Link(server.url)
        try:
            fleet.fill()
            unsettled = await Rest(link, operator).first()
            if not unsettled:
                await self._trouble(server, fleet, operator)
                await self._calm(fleet, operator)
                unsettled = await Rest(link, operator).come()
            await fleet.end()
            seen, raw = await gather(
                self.variant,
                self.boxes,
                server,
                fleet,
                unsettled,
                self.quotas,
                self.left,
                self.erased,
            )
        finally:
            fleet.kill()
            link.close()
            operator.link.close()
        findings, residues = judge(seen)
        self.counts += fleet.counts
        self.counts["requests"] = sum(len(at.requests) for at in seen.shops)
        self.counts["faults"] = sum(sum(one["faults"].values()) for one in raw["states"].values())
        (self.folder / "evidence.json").write_bytes(
            orjson.dumps({**raw, "stops": fleet.stops}, option=orjson.OPT_NON_STR_KEYS)
        )
        (self.folder / "findings").write_text("".join(f"{one}\n" for one in findings), "utf-8")
        return Outcome(self.variant.seed, findings, residues, self.counts, self.folder)

    async def _set_up(self, url: str) -> None:
        made = await asyncpg.connect(url)
        await migrate(made)
        await source.fill(made, self.rng("fill"), self.variant.contacts)
        operator = Operator(self.variant, url, self.rng("set up"), Counter())
        for shop in self.variant.shops:
            box = self.boxes[shop.provider]
            await box.post("/_limits", **shop.limits)
            auth = {"auth_url": f"{box.url}/authenticate"} if shop.provider == "copernica" else {}
            row = {
                "name": shop.provider, "provider": shop.provider, **shop.columns,
                "options": orjson.dumps({"base_url": box.url, **auth, **shop.options}).decode(),
            }  # fmt: skip
            marks = ", ".join(f"${n}" for n in range(1, len(row) + 1))
            await made.execute(
                f"insert into syncd.destination ({', '.join(row)}) values ({marks})", *row.values()
            )
            await operator.map(shop.provider, 0)
        operator.link.close()
        await made.close()

    # ── Trouble ─────────────────────────────────────────────────────────────────────────────

    async def _trouble(self, server: Cluster, fleet: Fleet, operator: Operator) -> None:
        writer = source.Writer(self.rng("writer"))
        self.erased = writer.erased
        link, asking = Link(server.url), Link(server.url)
        database = Database(server, self.rng("database"), self.counts)
        public = Public(self.boxes, asking, writer, self.rng("public"), self.counts)
        self.left = public.left
        sleeper = Sleeper(server.url, writer, self.rng("sleeper"), self.counts)
        rng = self.rng("fleet")

        async def write() -> None:
            self.counts[f"source {await link.transact(writer.step)}"] += 1
            self.counts["changes"] += 1

        await self._set_quotas(operator)
        until = time.monotonic() + self.seconds
        async with asyncio.TaskGroup() as group:
            self._every(group, until, self.variant.pace, write)
            self._every(group, until, 3.0, lambda: fleet.strike(rng))
            self._every(group, until, 9.0, database.strike)
            self._every(group, until, 2.0, public.strike)
            self._every(group, until, 4.0, operator.strike)
            self._every(group, until, 8.0, sleeper.strike)
            for name, box in self.boxes.items():
                provider = Provider(box, self.rng(name), self.counts)
                self._every(group, until, 3.0, provider.strike)
        for one in (link, asking, database.link, sleeper.link):
            one.close()

    def _every(self, group: asyncio.TaskGroup, until: float, pause: float,
               work: Callable[[], Awaitable[Any]]) -> None:  # fmt: skip
        rng = self.rng(f"pause {pause} {work!r}".partition(" at 0x")[0])

        async def repeat() -> None:
            while (wait := rng.uniform(0, 2 * pause)) + time.monotonic() < until:
                await asyncio.sleep(wait)
                await work()

        group.create_task(repeat())

    async def _set_quotas(self, operator: Operator) -> None:
        """What was sent already, and some more."""
        for shop in self.variant.shops:
            if shop.quota:
                told = await self.boxes[shop.provider].get("/_history")
                most = QUOTA + sum(one["what"] == "request" for one in told)
                self.quotas[shop.provider] = most, float("inf")
                await operator.set(shop.provider, "per_day", most)

    async def _lift_quotas(self, operator: Operator) -> None:
        for name, (most, _) in self.quotas.items():
            self.quotas[name] = most, time.time()
            await operator.set(name, "per_day", None)

    async def _calm(self, fleet: Fleet, operator: Operator) -> None:
        for box in self.boxes.values():
            await Provider(box, self.rng("calm"), self.counts).calm()
        for worker in fleet.alive:
            with contextlib.suppress(OSError):
                worker.step(0.0)
        fleet.fill()
        await operator.mend()
        await self._lift_quotas(operator)


async def run(seed: int, seconds: float, folder: Path) -> Outcome:
    """One seed, all of whose traces are left in *folder* (which others may enter)."""
    return await Campaign(seed, seconds, folder).run()


__all__ = ["Box", "Outcome", "run"]
