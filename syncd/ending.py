"""The end of a whole scan: who was missed, what has drifted, and who need wait no more."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import orjson
import structlog

from syncd import sql
from syncd.absence import Absence
from syncd.db import Connection, Pool, transact
from syncd.errors import Fenced
from syncd.lists import Lists
from syncd.pages import Scan
from syncd.plan import Planner

log = structlog.get_logger()

TAKEN_OVER = "this scan was taken over by another worker"
WINDOW = 5000  # mirror rows looked at by one statement


@dataclass(slots=True)
class Ending:
    """Ends scans of one destination. Fenced where another worker has taken the scan over."""

    planner: Planner
    worker_id: int
    adapter: Any
    lists: Lists

    @property
    def pool(self) -> Pool:
        return self.planner.pool

    @property
    def _me(self) -> int:
        return self.planner.destination.id

    async def finish(self, scan: Scan) -> None:
        """All pages have been met: note who was not among them."""
        me, key = self._me, scan.list_key
        visible: float = self.adapter.traits.visible_after
        await self._miss(scan, key)
        for one in await self._lists_read(key):
            await self._miss(scan, one)
        since = (scan.begun_at, visible)
        await self._fenced(scan, sql.reading.miss_waiting, me, key, scan.id, *since)
        drift = await transact(self.pool, lambda c: self._close(c, scan))
        log.info("scan done", list=key, **drift)
        if key and not drift["seen"] and drift["expected"]:
            await self.lists.look()  # emptied, or is it the list that is gone?
        await self.answer()
        await self.lists.remember()

    async def _lists_read(self, key: str) -> Sequence[str]:
        """Our lists whose members a scan of the account has told, too."""
        if key or not self.adapter.traits.tells_members:
            return ()
        await self.lists.look()  # of one that is gone there nobody was met
        return [row["list_id"] for row in await self.pool.fetch(sql.lists.there, self._me)]

    async def _miss(self, scan: Scan, key: str) -> None:
        """Who should have been met in that list ('': the account), and was not."""
        last, visible = "", self.adapter.traits.visible_after
        while to := await self.pool.fetchval(sql.reading.last_missing, self._me, last, WINDOW):
            window = (last, to, scan.begun_at, visible)
            await self._fenced(scan, sql.reading.miss, self._me, key, scan.id, *window)
            last = to

    async def _fenced(self, scan: Scan, statement: str, *args: object) -> None:
        """Nobody is missed by a scan that another worker has ended, nor by the one after it."""

        async def work(connection: Connection) -> None:
            ours = await connection.fetchval(sql.reading.still_ours, scan.id, self.worker_id)
            if ours is None:
                raise Fenced(TAKEN_OVER)
            await connection.execute(statement, *args)

        await transact(self.pool, work)

    async def _close(self, connection: Connection, scan: Scan) -> dict[str, int]:
        me, key = self._me, scan.list_key
        await connection.execute(sql.reading.excuse, me, key, scan.id)
        row = await connection.fetchrow(sql.reading.drift, me, key, scan.id)
        assert row is not None
        drift = dict(row)
        await connection.execute(sql.reading.forget_seen, me, key, scan.id)
        if not key and self.adapter.traits.tells_members:
            await connection.execute(sql.reading.forget_members, me, scan.id)
        counts = orjson.dumps(drift).decode()
        if await connection.fetchval(sql.reading.finish, scan.id, self.worker_id, counts) is None:
            raise Fenced(TAKEN_OVER)
        visible: float = self.adapter.traits.visible_after
        members = bool(self.adapter.traits.tells_members)
        await connection.execute(sql.reading.ask_again, me, key, scan.id, visible, members)
        await connection.execute(sql.reading.stamp_list, me, key)
        return drift

    async def answer(self) -> int:
        """Judge who is missing; then whoever waited is due. Returns how many."""
        tells = self.adapter.traits.tells_lists
        if tells and await self.pool.fetchval(sql.absence.any_left, self._me):
            await self.lists.look()  # left, or is it the list that is gone?
        await Absence(self.planner, self.adapter).judge()
        return int(await transact(self.pool, self._answer))

    async def _answer(self, connection: Connection) -> int:
        """After a pass, not beside it: it locks rows in the order in which it learns of them."""
        await connection.fetchrow(sql.plan.lock_feed, self._me)
        return int(await connection.fetchval(sql.reading.answer, self._me))
