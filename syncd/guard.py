"""The guard: plans that do more than is usual in a day are held until a person has decided."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import structlog

from syncd import sql
from syncd.classify import FRESH_LANE, Counted, Planned
from syncd.control import Destination
from syncd.db import Connection, Row, sparse

log = structlog.get_logger()

KINDS: Sequence[Counted] = ("opt_out", "change", "remove")
WORDS: Mapping[str, str] = {"opt_out": "silence", "change": "change", "remove": "remove"}


class Guard:
    """What `Planner` does to write the journal's rows, held or not."""

    destination: Destination

    async def allowed(self, connection: Connection, kind: Counted) -> int:
        """How many more of this kind the guard lets pass today."""
        room = await connection.fetchrow(sql.plan.room, self.destination.id, kind)
        assert room is not None
        return self._allowed(room)

    def _allowed(self, room: Row) -> int:
        share = int(room["here"] * self.destination.guard_percent / 100)
        return max(self.destination.guard_floor, share) - int(room["today"])

    async def journal(
        self,
        connection: Connection,
        planned: Sequence[Planned],
        full_run: int | None = None,
        *,
        force: bool = False,
        doubtful: bool = False,
    ) -> int:
        """Write the rows, held where the guard says so; returns how many are held."""
        if not planned:
            return 0
        rows = sorted(planned)
        counts = Counter(one.counted for one in rows)
        kind = rows[0].counted
        alone = len(counts) == 1 and (kind is None or full_run is None)  # nearly always
        if alone and await self._write(connection, rows, (), kind, force, doubtful):
            return 0
        plans: dict[Counted | None, int | None] = {None: None}
        for one in KINDS:
            if n := counts[one]:
                await self.end_emptied(connection, one, _leaving(one, rows))
                plans[one] = await self._plan_for(connection, one, n, full_run)
        plan_ids = [plans[row.counted] for row in rows]
        await self._write(connection, rows, plan_ids, None, force, doubtful)
        return len(rows) - plan_ids.count(None)

    async def _write(
        self,
        connection: Connection,
        rows: Sequence[Planned],
        plan_ids: Sequence[int | None],
        kind: Counted | None,
        force: bool,
        doubtful: bool,
    ) -> bool:
        """False, and nothing is written, where the guard lets no so many more of *kind* pass."""
        d = self.destination
        ids, wishes, lanes, _, digests, faults = zip(*rows, strict=True)
        room = await connection.fetchrow(
            sql.plan.journal, d.id, ids, sparse(wishes, "upsert"), sparse(lanes, FRESH_LANE),
            digests, sparse(plan_ids, None), doubtful, sparse(faults, None), force,
            kind, len(rows), d.guard_floor, d.guard_percent,
        )  # fmt: skip
        assert room is not None
        return bool(room["passes"])

    async def _plan_for(
        self, connection: Connection, kind: Counted, n: int, full_run: int | None
    ) -> int | None:
        """The plan that these rows must wait in, or None: they may go at once, and are counted."""
        me = self.destination.id
        if full_run is not None:
            row = await connection.fetchrow(sql.plan.begin_plan, me, kind, "open", full_run, None)
            assert row is not None
            return int(row["id"])
        room = await self._take_room(connection, kind, n)
        if room["held"] is not None or room["passes"]:
            return None if room["passes"] else int(room["held"])
        row = await connection.fetchrow(
            sql.plan.begin_plan, me, kind, "held", None, await self.reason(connection, kind, n)
        )
        assert row is not None
        log.warning("plan held", destination=self.destination.name, kind=kind, plan=row["id"])
        return int(row["id"])

    async def _take_room(self, connection: Connection, kind: Counted, n: int) -> Row:
        """Count these for today, if the guard lets them pass."""
        d = self.destination
        room = await connection.fetchrow(
            sql.plan.take_room, d.id, kind, n, d.guard_floor, d.guard_percent
        )
        assert room is not None
        return room

    async def end_emptied(
        self, connection: Connection, kind: Counted | None = None, leaving: Sequence[str] = ()
    ) -> None:
        """A held plan of which nothing is left ends: nobody need decide, and nothing waits with it.

        kind: None for every one.  leaving: whose rows this transaction frees. The feed is locked.
        """
        me = self.destination.id
        if await connection.fetchval(sql.plan.end_emptied, me, kind, leaving):
            log.info("held plan is empty and ends", destination=self.destination.name, kind=kind)

    async def reason(self, connection: Connection, kind: Counted, n: int) -> str:
        """Why a plan is held, for the person who is to decide."""
        d = self.destination
        here = await connection.fetchval(sql.plan.here, d.id)
        today = await connection.fetchval(sql.plan.counted_today, d.id, kind)
        before = f" after {today} within a day" if today else ""
        return (
            f"it would {WORDS[kind]} {n} contacts{before}, of {here} there; the guard lets"
            f" {max(d.guard_floor, int(here * d.guard_percent / 100))} pass in a day"
        )

    async def decide_open_plans(self, connection: Connection) -> int:
        """At the end of a full pass: release what the guard lets pass, hold the rest.

        What is released is made due by `control.release_decided`, in blocks.
        """
        await self.end_emptied(connection)
        held = 0
        for plan in await connection.fetch(sql.plan.open_plans, self.destination.id):
            if (await self._take_room(connection, plan["kind"], plan["rows"]))["passes"]:
                await connection.execute(sql.control.decide, plan["id"], "released", "syncd")
            else:
                reason = await self.reason(connection, plan["kind"], plan["rows"])
                await connection.execute(sql.plan.hold_plan, plan["id"], reason)
                log.warning("plan held", destination=self.destination.name, plan=plan["id"])
                held += plan["rows"]
        return held


def _leaving(kind: Counted, rows: Sequence[Planned]) -> Sequence[str]:
    """Who does not stay in a held plan of this kind: who is free, or has another wish."""
    wish = "remove" if kind == "remove" else "upsert"
    return [row.contact_id for row in rows if row.counted is None or row.wish != wish]
