"""Reading back: what a provider says of people who opted out there.

Scans of contacts use the same table through `Can.SCAN`: `syncd.reading`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any, Protocol

import orjson
import structlog

from syncd import sql
from syncd.db import Connection, Pool, transact
from syncd.model import Can, Notice, Traits

log = structlog.get_logger()

FEED = "opt_outs"


class ReadsOptOuts(Protocol):
    """What this module needs of an adapter."""

    @property
    def traits(self) -> Traits: ...

    def opt_outs(self, since: datetime | None) -> AsyncIterator[Sequence[Notice]]: ...


class _Undone(Exception):
    """What would be news; the transaction that found it is taken back."""

    def __init__(self, found: Sequence[Any]) -> None:
        super().__init__()
        self.found = found


class OptOutReader:
    """Reads one destination's opt-outs into `opt_out`, from where the last reading stood."""

    def __init__(
        self,
        pool: Pool,
        destination_id: int,
        name: str,
        worker_id: int,
        adapter: ReadsOptOuts,
        key_name: str | None = None,
        erased: Callable[[Connection, Sequence[Notice]], Awaitable[Sequence[Notice]]] | None = None,
    ) -> None:
        """erased: leaves the notices about people who were erased out."""
        self.pool = pool
        self.destination_id = destination_id
        self.name = name
        self.worker_id = worker_id
        self.adapter = adapter
        self.erased = erased
        self.key_name = key_name  # what `remote` calls the provider's own name of a contact

    @property
    def can_read(self) -> bool:
        return bool(self.adapter.traits.can & Can.OPT_OUT)

    async def read(self, claim: int | None = None) -> int:
        """Read what is new; returns how many opt-outs were noted. Provider errors pass through.

        A reading that is cut off proves nothing: the next one starts where this one did.
        claim: nothing of this claim has been sent yet.
        """
        if not self.can_read:
            await self.pool.execute(sql.scan.stamp, self.destination_id)
            return 0
        since = await self.since()
        scan = await self.pool.fetchrow(sql.scan.begin, self.destination_id, FEED, self.worker_id)
        assert scan is not None
        pages = noted = told = 0
        async for notices in self.adapter.opt_outs(since):
            pages, told = pages + 1, told + len(notices)
            noted += len(await self.note(notices, claim))
        cursor = orjson.dumps({"until": scan["started_at"]}).decode()
        counts = orjson.dumps({"pages": pages, "told": told, "noted": noted}).decode()
        await self.pool.execute(sql.scan.finish, scan["id"], cursor, counts, None)
        await self.pool.execute(sql.scan.stamp, self.destination_id)
        if noted:
            log.info("opt-outs read", destination=self.name, noted=noted)
        return noted

    async def since(self) -> datetime | None:
        """Until when the last whole reading has read."""
        until = await self.pool.fetchval(sql.scan.latest, self.destination_id, FEED)
        return None if until is None else datetime.fromisoformat(until)

    async def note(
        self, notices: Sequence[Notice], claim: int | None = None, *, keep: bool = True
    ) -> Sequence[Any]:
        """Write down what was told; returns what of it was news. *keep* False: only say so."""
        if notices and self.key_name is not None:
            notices = await self._translated(notices)
        return await self.write(notices, claim, keep=keep)

    async def write(
        self, notices: Sequence[Notice], claim: int | None = None, *, keep: bool = True
    ) -> Sequence[Any]:
        """As `note`, of contacts by our own ids."""
        if not notices:
            return ()

        async def work(connection: Connection) -> Sequence[Any]:
            await connection.fetchrow(sql.plan.lock_feed, self.destination_id)  # addresses stay
            kept = notices if self.erased is None else await self.erased(connection, notices)
            if not kept:
                return ()
            told = [list(column) for column in zip(*map(_row, kept), strict=True)]
            await connection.fetch(sql.scan.lock_told, self.destination_id, told[0], told[1])
            by_person = [one.by_person for one in kept]
            of_record = [one.of_record for one in kept]
            found = await connection.fetch(
                sql.scan.note, self.destination_id, *told, claim, by_person, of_record
            )
            if not keep:
                raise _Undone(found)
            return found

        try:
            return await transact(self.pool, work)
        except _Undone as undone:
            return undone.found

    async def _translated(self, notices: Sequence[Notice]) -> Sequence[Notice]:
        """The provider's names of contacts as ours, as the mirror remembers them."""
        named = [one.contact_id for one in notices if one.contact_id is not None]
        rows = await self.pool.fetch(sql.scan.translate, self.destination_id, self.key_name, named)
        ours = {row["name"]: row["contact_id"] for row in rows}
        found = [replace(one, contact_id=ours.get(one.contact_id or "")) for one in notices]
        return [one for one in found if one.contact_id is not None or one.email is not None]

    async def refresh(self, claim: int | None = None) -> set[str]:
        """Read now, and name (by contact id and by address) whoever has said no since then.

        claim: whose push is about to turn mail on, and waits for this.
        """
        if not self.can_read:
            return set()
        started = await self.pool.fetchval("select clock_timestamp()")
        if not await self.read(claim):
            return set()
        rows = await self.pool.fetch(sql.scan.refused_since, self.destination_id, started)
        return {value for row in rows for value in row if value is not None}


def _row(notice: Notice) -> tuple[Any, ...]:
    evidence = orjson.dumps(notice.evidence, default=str, option=orjson.OPT_SORT_KEYS).decode()
    return (
        notice.contact_id, notice.email, notice.kind, notice.list_id, notice.occurred_at, evidence,
    )  # fmt: skip
