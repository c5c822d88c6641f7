"""What `audit --repair` does about differences: it never writes to the provider itself.

What may be mended is put where the plan sees it, so that guard and consent decide as always; who
is missing, or left a list, has said no there, as far as anybody can tell.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import orjson

from syncd import sql
from syncd.absence import Absence
from syncd.audit_verdict import Scope, Verdict
from syncd.db import Connection, Pool, array_literal, transact
from syncd.flow import Flow
from syncd.model import Can, Notice

BLOCK = 1000


@dataclass(slots=True)
class Mender:
    """Repairs one destination. Used window by window, then `finish`."""

    flow: Flow
    scope: Scope
    scan: Callable[[], Awaitable[object]]  # has everything scanned, by whoever serves it
    read_again: Callable[[], Awaitable[int]]  # what was read is read anew; returns the run
    mended: int = 0  # contacts that the plan looks at again
    noted: int = 0  # opt-outs that were written down
    held: list[str] = field(default_factory=list)  # what was not done, and why
    _missing: list[str] = field(default_factory=list)
    _leavers: list[Verdict] = field(default_factory=list)  # no more than the guard lets pass
    _left: int = 0  # memberships that have ended there
    _scans: bool = False
    _room: int | None = None

    @property
    def _me(self) -> int:
        return self.flow.destination.id

    @property
    def _pool(self) -> Pool:
        return self.flow.planner.pool

    @property
    def _can_scan(self) -> bool:
        return self.flow.reading.can_scan

    async def mend(self, found: Sequence[Verdict]) -> None:
        """A window of differences."""
        drifted = [one for one in found if one.kind in ("there", "both")]
        leavers = [one for one in drifted if one.left and self._may_be_a_no]
        await self._keep_leavers(leavers)
        stays = [one for one in drifted if not (one.left and self._may_be_a_no)]
        await self._adopt([one for one in stays if self._is_ours_to_mend(one)])
        missing = [one.contact_id for one in found if one.kind == "missing"]
        if self._can_scan:
            lists = self.scope.by_list and any(one.left or one.joined for one in drifted)
            self._scans |= bool(missing) or lists or any(one.on for one in drifted)
        elif missing:
            self._missing += missing
            if len(self._missing) >= BLOCK:
                await self._miss()

    # ── Lists that were left ────────────────────────────────────────────────────────────────

    @property
    def _may_be_a_no(self) -> bool:
        """Where lists are objects of their own people leave them; list by list a scan tells."""
        return bool(self.scope.traits.can & Can.LISTS) and not self.scope.by_list

    async def _keep_leavers(self, found: Sequence[Verdict]) -> None:
        if not found:
            return
        if self._room is None:
            self._room = max(0, await self._absence.allowed())
        self._left += sum(len(one.left) for one in found)
        if self._left <= self._room:
            self._leavers += found
        else:
            self._leavers = []

    async def _note_left(self) -> None:
        """Few: each is that person's no to that list, if a second reading says so too. Many:
        somebody has emptied a list, and a person has to look."""
        if self._room is not None and self._left > self._room:
            self.held.append(
                f"{self._left} memberships have ended there, more than the guard lets pass in a day"
                " as opt-outs: look there first; raise guard_floor if people did leave"
            )
        if not self._leavers:
            return
        remote = {ours: there for there, ours in self.scope.lists.items()}
        pairs = [(one.contact_id, two, remote[two]) for one in self._leavers for two in one.left]
        columns = map(list, zip(*pairs, strict=True))
        run = await self.read_again()
        rows = await self._pool.fetch(sql.audit.still_left, run, *columns)
        still = {(row["contact_id"], row["list_id"]) for row in rows}
        notices = [
            Notice(one, None, "unsubscribed", None, list_id, {"audit": "left there"})
            for one, list_id in sorted(still)
        ]
        self.noted += len(await self.flow.reader.write(notices))
        if notices:
            await self._pool.execute(sql.plan.count, self._me, "vanish", len(notices))
        for start in range(0, len(self._leavers), BLOCK):
            await self._adopt(self._leavers[start : start + BLOCK])

    # ── What is otherwise there than it should be ───────────────────────────────────────────

    def _is_ours_to_mend(self, one: Verdict) -> bool:
        """Whoever is not kept there by the mirror is found, and judged, by a scan; and so is who
        left a list, before anything is sent that might put it back."""
        if not one.held or one.says_no or (self.scope.by_list and one.left):
            return False
        return not (self.scope.by_list and one.there.keys() <= {"lists", "subscribed"})

    async def _adopt(self, found: Sequence[Verdict]) -> None:
        if not found:
            return

        async def work(connection: Connection) -> int:
            await connection.fetchrow(sql.plan.lock_feed, self._me)
            columns = map(list, zip(*(self._row(one) for one in found), strict=True))
            rows = await connection.fetch(sql.audit.adopt, self._me, *columns)
            ids = sorted(row["contact_id"] for row in rows)
            if ids and await connection.fetchval(sql.reading.is_planned, self._me):
                source = self.flow.destination.source
                await connection.execute(sql.plan.note_changes, source, ids)
            return len(ids)

        self.mended += await transact(self._pool, work)

    def _row(self, one: Verdict) -> tuple[Any, ...]:
        """Lists that were left stay the mirror's, where leaving them was a no: they are not in
        what is wanted any more."""
        lists = None
        if "lists" in one.there and not self.scope.by_list:
            kept = one.left if self._may_be_a_no else ()
            lists = array_literal(sorted({*(one.lists or ()), *kept}))
        fields = orjson.dumps(one.fields).decode()
        return one.contact_id, one.pushed_at, fields, lists, one.on

    # ── Who is not there ────────────────────────────────────────────────────────────────────

    @property
    def _absence(self) -> Absence:
        return Absence(self.flow.planner, self.flow.push.adapter)

    async def _miss(self) -> None:
        began = datetime.fromtimestamp(self.scope.began, UTC)
        await self._pool.execute(sql.audit.miss, self._me, self._missing, began)
        self._missing = []

    async def finish(self) -> None:
        """Judge who is missing; put what is to be mended into the journal."""
        await self._note_left()
        if self._scans:
            await self.scan()
        elif not self._can_scan:
            if self._missing:
                await self._miss()
            self.noted += await self._absence.judge()
        if (await self.flow.look(rung=True)).owes_full:
            self.held.append("a full pass is owed: the daemon makes it, or `syncd backfill`")
