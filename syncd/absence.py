"""What is made of contacts that two whole scans in a row have missed. Design, section 5.

A few are opted out there (`vanished`): never made again on their own. Many at once, or a list that
seems to be empty, are a plan that a person decides: one answer is no proof that thousands left.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import orjson
import structlog

from syncd import sql, vanished
from syncd.db import Connection, Pool, Row, transact
from syncd.model import Can, Change, Found, Person, Verb
from syncd.plan import Planner

log = structlog.get_logger()

BLOCK = 1000  # contacts held by one statement


@dataclass(slots=True)
class Absence:
    """Judges the absentees of one destination."""

    planner: Planner
    adapter: Any

    @property
    def pool(self) -> Pool:
        return self.planner.pool

    @property
    def _me(self) -> int:
        return self.planner.destination.id

    async def judge(self) -> int:
        """Opt out, or hold, whoever is absent by now; returns how many were opted out."""
        await self.pool.execute(sql.absence.drop_empty, self._me)
        allowed = await self.allowed()
        if self.adapter.traits.tells_lists:
            await self._look_for_leavers(max(allowed, 0))
        most, members = max(allowed, 0) + 1, self.adapter.traits.tells_members
        rows = await self.pool.fetch(sql.absence.candidates, self._me, most, members)
        if not rows:
            return 0
        if len(rows) > allowed or any(row["suspect"] for row in rows):
            await self._hold()
            return 0
        there = await self._found(rows)
        ids = [row["contact_id"] for row in rows if row["contact_id"] not in there]
        return await transact(self.pool, lambda c: self._write(c, ids, sorted(there)))

    async def allowed(self) -> int:
        """How many more may vanish today; below zero where a plan is held already."""
        room = await self.pool.fetchrow(sql.plan.room, self._me, "vanish")
        assert room is not None
        if room["held"] is not None:
            return -1
        d = self.planner.destination
        share = int(room["here"] * d.guard_percent / 100)
        return max(d.guard_floor, share) - int(room["today"])

    async def _write(self, connection: Connection, ids: Sequence[str], there: Sequence[str]) -> int:
        await connection.fetchrow(sql.plan.lock_feed, self._me)
        await connection.execute(sql.absence.forget, self._me, there)
        n = await vanished.write(connection, self._me, ids)
        if n:
            await connection.execute(sql.plan.count, self._me, "vanish", n)
            log.warning("contacts vanished", destination=self.planner.destination.name, contacts=n)
        return n

    # ── Many at once ────────────────────────────────────────────────────────────────────────

    async def _hold(self) -> None:
        while await transact(self.pool, self._hold_block) == BLOCK:
            pass

    async def _hold_block(self, connection: Connection) -> int:
        await connection.fetchrow(sql.plan.lock_feed, self._me)
        members = self.adapter.traits.tells_members
        rows = await connection.fetch(sql.absence.candidates, self._me, BLOCK, members)
        if not rows:
            return 0
        reason = await self._reason(connection, rows)
        plan = await connection.fetchrow(
            sql.plan.begin_plan, self._me, "vanish", "held", None, reason
        )
        assert plan is not None
        ids = [row["contact_id"] for row in rows]
        await connection.execute(sql.absence.hold, self._me, ids, plan["id"])
        log.warning("plan held", destination=self.planner.destination.name, kind="vanish")
        return len(rows)

    async def _reason(self, connection: Connection, rows: Sequence[Row]) -> str:
        empty = sorted({one for row in rows if row["suspect"] for one in row["gone"]} - {""})
        here = await connection.fetchval(sql.plan.here, self._me)
        d = self.planner.destination
        if any(row["suspect"] for row in rows):
            where = f"list {', '.join(empty)}" if empty else "the account"
            return f"{where} was read as empty there, twice; {here} contacts should be there"
        said = "two whole scans did not meet them"
        if not self.adapter.traits.scans_lists and not any("" in row["gone"] for row in rows):
            lists = ", ".join(sorted({one for row in rows for one in row["gone"]}))
            said = f"they are not in lists that they were put into ({lists})"
        return (
            f"{said}, of {here} there; the guard lets"
            f" {max(d.guard_floor, int(here * d.guard_percent / 100))} vanish in a day"
        )

    # ── A look-up of its own ────────────────────────────────────────────────────────────────

    async def _found(self, rows: Sequence[Row]) -> set[str]:
        """Who is there after all, where the provider can be asked for one contact."""
        traits = self.adapter.traits
        if not traits.scans_lists:  # of lists, a look-up was made before, or tells nothing
            rows = [row for row in rows if "" in row["gone"]]
        if not (rows and traits.can & (Can.FIND | Can.SEES_GONE)):
            return set()
        ids = [row["contact_id"] for row in rows]
        mirror = await self.pool.fetch(sql.absence.mirrored, self._me, ids)
        there: set[str] = set()
        for start in range(0, len(mirror), traits.batch):
            some = mirror[start : start + traits.batch]
            found: Sequence[Found] = await self.adapter.find([_question(one) for one in some])
            pairs = zip(some, found, strict=True)
            there |= {row["contact_id"] for row, one in pairs if one.remote is not None}
        return there

    # ── Who was met, and not in its lists ───────────────────────────────────────────────────

    async def _look_for_leavers(self, allowed: int) -> None:
        """A scan of the account has met them outside a list: look at each once more. Once more than
        are *allowed* did leave, a person is to be asked, and these stand for the rest."""
        left = 0
        while left <= allowed and self.adapter.traits.can & Can.FIND:
            rows = await self.pool.fetch(sql.absence.leavers, self._me, self.adapter.traits.batch)
            if not rows:
                return
            found: Sequence[Found] = await self.adapter.find([_question(one) for one in rows])
            gone = [_left(row, one) for row, one in zip(rows, found, strict=True)]
            left += sum(map(bool, gone))
            ids, lists = ([pair[n] for pairs in gone for pair in pairs] for n in (0, 1))
            looked = [row["contact_id"] for row in rows]
            await self.pool.execute(sql.absence.leave, self._me, ids, lists, looked, left > allowed)


def _left(row: Row, found: Found) -> list[tuple[str, str]]:
    if found.remote is None or found.lists is None or found.opted_out is not None:
        return []
    pairs = zip(row["lists"], row["remote_lists"], strict=True)
    return [(row["contact_id"], ours) for ours, there in pairs if there not in found.lists]


def _question(row: Row) -> Change:
    """Asks for a contact in the lists that it is missing from."""
    lists = dict(zip(row["lists"], row["remote_lists"] or (), strict=True))
    was = Person(row["email"], orjson.loads(row["fields"]), lists, True)
    remote = None if row["remote"] is None else orjson.loads(row["remote"])
    return Change(row["contact_id"], Verb.WITHDRAW, None, was, remote, False, False)
