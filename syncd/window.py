"""Windows of a full pass: an intent, what it stages, and its settlement. Design, section 5.

What is new at the provider is staged by the very statement that reads it, and becomes mirror rows
when it is acknowledged; it needs neither journal rows nor a second way through this process.
"""

from __future__ import annotations

from collections.abc import Sequence, Set
from dataclasses import dataclass

import asyncpg

from syncd import sql
from syncd.claim import Claim, claim_turn
from syncd.db import Connection, Pool, Row, transact
from syncd.errors import Fenced
from syncd.fresh import Fresh
from syncd.journal import Journal
from syncd.model import APPLIED
from syncd.outcomes import settled
from syncd.pushed import Pushed
from syncd.settlement import Settled


class Unstaged(Exception):
    """PostgreSQL crashed, and has forgotten what was staged."""


@dataclass(frozen=True, slots=True)
class Windows:
    """The windows of one destination, as one worker sweeps them."""

    journal: Journal
    needs_list: bool
    key_name: str | None

    @property
    def _pool(self) -> Pool:
        return self.journal.pool

    @property
    def _me(self) -> int:
        return self.journal.destination_id

    async def begin(self, first: str, last: str) -> Fresh:
        """Write the intent down; from now on claims leave these ids alone."""

        async def work(connection: Connection) -> Fresh:
            row = await connection.fetchrow(
                sql.window.begin, self._me, first, last, self.journal.worker_id
            )
            assert row is not None
            return Fresh(row["claim"], row["claims"])

        return await transact(self._pool, work, first=claim_turn(self._me))

    async def read(
        self, number: int, first: str, last: str, *, force: bool, stages: bool
    ) -> Sequence[Row]:
        """The rows of `Compare.by_window`; if it *stages*, whoever `is_new` has been staged."""
        compare, key = self.journal.compare, (first, last, force)

        async def work(connection: Connection) -> Sequence[Row]:
            await connection.execute("set local plan_cache_mode = force_custom_plan")
            if not stages:
                return await connection.fetch(compare.by_window, *key)
            return await connection.fetch(
                compare.staging, *key, number, self.needs_list, self.key_name
            )

        return await transact(self._pool, work)

    async def fill(self, fresh: Fresh) -> None:
        """Let the intent name who is about to be sent, before the first request leaves.

        Who would share an address with a request in flight, or with somebody who got it since the
        window was read, is left to the feed. Claims and windows take turns, so each sees what the
        other has in flight.
        """

        async def work(connection: Connection) -> None:
            if await self.check(connection, fresh.number) != fresh.claims:
                rows = await connection.fetch(sql.window.contested, self._me, fresh.number)
                if late := fresh.leave_out([(row["email"], row["contact_id"]) for row in rows]):
                    await connection.execute(sql.plan.note_changes, self.journal.source, late)
            if fresh.left_out:
                await connection.execute(sql.window.leave_out, fresh.number, fresh.left_out)
            lists = sorted({one for row in fresh.rows for one in row["lists"]})
            await connection.execute(sql.window.fill, self._me, fresh.number, lists)

        await transact(self._pool, work, first=claim_turn(self._me))

    async def check(self, connection: Connection, number: int) -> int:
        """What was read is only good while the intent stands: without it, nobody waited for us.

        Returns how many claims have been made by now. Fenced where it stands no longer.
        """
        row = await connection.fetchrow(sql.window.lock, self._me, number)
        if row is None:
            raise Fenced("a window of this full pass was taken over by another worker")
        return int(row["claims"])

    async def finish(self, number: int) -> None:
        await self._pool.execute(sql.window.finish, self._me, number)

    # ── Settle ──────────────────────────────────────────────────────────────────────────────

    async def settle(self, fresh: Fresh, pushed: Pushed) -> None:
        """Write what became of a window, in one transaction with its end.

        Where it was taken over meanwhile, or is no longer staged, everybody in it is doubtful.
        """
        results = _merged(
            fresh,
            pushed.results,
            {one["contact_id"] for one in fresh.rows if one["m_state"] is not None},
        )
        makes_rows = any(one.state != "done" for one in results)

        async def work(connection: Connection) -> bool:
            if makes_rows:  # rows made anew, which no lock orders otherwise (races 19)
                await connection.fetchrow(sql.plan.lock_feed, self._me)
            return await self._settle(connection, fresh, results)

        try:
            if await transact(self._pool, work):
                return
        except (Unstaged, asyncpg.UniqueViolationError):  # somebody wrote mirror rows beside us
            pass
        everyone = {one["contact_id"] for one in fresh.rows}
        claim = Claim(fresh.number, fresh.entries())
        await self.journal.settle(claim, _merged(fresh, results, everyone))
        await self.finish(fresh.number)

    async def _settle(self, connection: Connection, fresh: Fresh, told: Sequence[Settled]) -> bool:
        if await connection.fetchval(sql.window.lock, self._me, fresh.number) is None:
            return False
        found = await connection.fetch(sql.window.beside, self._me, fresh.number)
        beside = {row["contact_id"]: row for row in found}
        results = _merged(fresh, told, beside.keys())
        if results:
            claim = Claim(fresh.number, window=True)
            results.sort(key=lambda one: one.entry.contact_id)
            await self.journal.write_journal(connection, claim, results, beside, set())
            await self.journal.write_mirror(connection, results, set())
            await self.journal.write_news(connection, claim, results, set())
        ids = [one.entry.contact_id for one in results]
        staged = await connection.fetchval(sql.window.settle, self._me, fresh.number, ids)
        if staged != len(fresh.rows):
            raise Unstaged
        return True


def _merged(fresh: Fresh, told: Sequence[Settled], ids: Set[str]) -> list[Settled]:
    """The results that are told, and those of *ids* that were applied without a further word."""
    ids = ids - {one.entry.contact_id for one in told}
    numbers = [n for n, row in enumerate(fresh.rows) if row["contact_id"] in ids] if ids else ()
    return [*told, *(settled(fresh.entry(n), APPLIED) for n in numbers)]
