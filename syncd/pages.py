"""One page of a scan: matched, written down together with the cursor, in one transaction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import orjson

from syncd import sql
from syncd.db import Connection, Pool, Row, array_literal, transact
from syncd.desired import Desired
from syncd.errors import Fenced
from syncd.matching import Known, Matched, Matcher, Mirrored, Tried, address
from syncd.model import Page, Seen
from syncd.tombstone import Tombstones


@dataclass(frozen=True, slots=True)
class Scan:
    """A scan as this worker runs it."""

    id: int
    begun_at: datetime
    cursor: Mapping[str, Any] | None
    matcher: Matcher

    @property
    def list_key(self) -> str:
        return self.matcher.list_key


@dataclass(slots=True)
class Pages:
    """Writes the pages of scans of one destination down."""

    pool: Pool
    desired: Desired
    worker_id: int
    tombstones: Tombstones | None = None
    is_planned: bool = field(default=False)  # a pass has been made: what is news must be noted

    @property
    def _me(self) -> int:
        return self.desired.destination_id

    async def write(self, scan: Scan, page: Page) -> Matched:
        """Fenced when another worker has taken the scan over; then nothing is written."""
        records = {one.remote_id: one for one in page.records}
        return await transact(self.pool, lambda c: self._write(c, scan, page, records))

    async def _write(
        self, connection: Connection, scan: Scan, page: Page, records: Mapping[str, Seen]
    ) -> Matched:
        await connection.fetchrow(sql.plan.lock_feed, self._me)
        cursor = orjson.dumps(page.cursor, default=str).decode()
        if await connection.fetchval(sql.reading.move, scan.id, self.worker_id, cursor) is None:
            raise Fenced("this scan was taken over by another worker")
        if self.tombstones is not None:
            source = self.desired.source.name
            told = await self.tombstones.masked(connection, source, list(records.values()))
            records = {one.remote_id: one for one in told}
        known = await self._known(connection, scan, list(records.values()))
        matched = scan.matcher.match(list(records.values()), known)
        await self._remember(connection, matched)
        rows = [_row(one, matched.owners.get(one.remote_id)) for one in records.values()]
        if rows:
            columns = map(list, zip(*rows, strict=True))
            await connection.execute(sql.reading.meet, self._me, scan.list_key, scan.id, *columns)
        if scan.matcher.tells_lists and matched.owners:
            await self._note_left(connection, scan, matched)
        if not scan.list_key:
            await self._meet_members(connection, scan, records, matched)
        if matched.news and await connection.fetchval(sql.reading.is_planned, self._me):
            source = self.desired.source.name
            await connection.execute(sql.plan.note_changes, source, sorted(matched.news))
        return matched

    async def _note_left(self, connection: Connection, scan: Scan, matched: Matched) -> None:
        ids, lists = ([one[n] for one in sorted(matched.left)] for n in (0, 1))
        met = sorted(set(matched.owners.values()))
        await connection.execute(
            sql.reading.left, self._me, scan.id, met, ids, lists, scan.begun_at
        )

    async def _meet_members(
        self,
        connection: Connection,
        scan: Scan,
        records: Mapping[str, Seen],
        matched: Matched,
    ) -> None:
        """Where a scan of the account goes on list by list: who is in which of ours."""
        if scan.matcher.tells_lists:
            return
        members: dict[str, list[tuple[str | None, ...]]] = {}
        for one in records.values():
            for there in one.lists:
                if (ours := scan.matcher.source_lists.get(there)) is not None:
                    row = _row(one, matched.owners.get(one.remote_id))
                    members.setdefault(ours, []).append(row)
        for ours, rows in sorted(members.items()):
            columns = map(list, zip(*rows, strict=True))
            await connection.execute(sql.reading.meet, self._me, ours, scan.id, *columns)

    async def _known(self, connection: Connection, scan: Scan, records: Sequence[Seen]) -> Known:
        me, numbers = self._me, [one.remote_id for one in records]
        rows = await connection.fetch(sql.reading.met_before, me, scan.list_key, numbers)
        prior = {row["remote_id"]: row["contact_id"] for row in rows}
        emails = sorted({e for e in map(address, records) if e is not None})
        holders = await self._holders(connection, emails)
        named = {one.contact_id for one in records if one.contact_id is not None}
        ids = sorted({*prior.values(), *named, *holders.values()})
        rows = await connection.fetch(sql.reading.tried, me, ids, emails, scan.list_key)
        tried = [row for row in rows if row["state"] == "sent" or row["doubtful"]]
        ids = sorted({*ids, *(row["contact_id"] for row in tried)})
        mirror = await connection.fetch(sql.reading.mirrored, me, ids, emails, scan.begun_at)
        everyone = sorted({*ids, *(row["contact_id"] for row in mirror)})
        met = await connection.fetch(
            sql.reading.met_now, me, scan.list_key, scan.id, everyone, numbers
        )
        return Known(
            prior,
            {row["contact_id"]: row["remote_id"] for row in met},
            {row["contact_id"]: _mirrored(row) for row in mirror},
            {row["contact_id"]: Tried(*row) for row in tried},
            holders,
        )

    async def _holders(self, connection: Connection, emails: Sequence[str]) -> dict[str, str]:
        """Who of the source is to have an address; the first id, as where several share it."""
        if not emails:
            return {}
        rows = await connection.fetch(self.desired.at_addresses, emails)
        pairs = sorted(((row["email"], row["contact_id"]) for row in rows), reverse=True)
        return dict(pairs)

    async def _remember(self, connection: Connection, matched: Matched) -> None:
        if not matched.rows:
            return
        rows = sorted(matched.rows.values())
        columns = zip(
            *(
                (
                    one.contact_id, one.email, one.state, orjson.dumps(one.remote).decode(),
                    array_literal(one.lists), one.subscribed, one.differs,
                )
                for one in rows
            ),
            strict=True,
        )  # fmt: skip
        await connection.execute(sql.reading.remember, self._me, *map(list, columns))


def _mirrored(row: Row) -> Mirrored:
    remote = None if row["remote"] is None else orjson.loads(row["remote"])
    return Mirrored(
        row["contact_id"], row["email"], row["state"], remote, row["lists"], row["subscribed"],
        row["settled"],
    )  # fmt: skip


def _row(seen: Seen, owner: str | None) -> tuple[str, str | None, str | None, str | None]:
    status = {None: None, True: "subscribed", False: "unsubscribed"}[seen.subscribed]
    return seen.remote_id, address(seen), status, owner
