"""The journal of one destination: claims, settlements, and what is asked beside.

Whoever writes journal and mirror does it as these two do: every multi-row write goes in primary-key
order, tables in the order journal, mirror, opt_out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from syncd import sql
from syncd.claim import Claims
from syncd.compare import Compare
from syncd.db import Pool
from syncd.plan import castable
from syncd.settlement import Settlements
from syncd.tombstone import Tombstones


class Journal(Claims, Settlements):
    """The journal of one destination, as one worker uses it."""

    def __init__(
        self,
        pool: Pool,
        destination_id: int,
        source: str,
        worker_id: int,
        compare: Compare,
        *,
        notes_deliveries: bool = True,
        tombstones: Tombstones | None = None,
    ) -> None:
        self.pool = pool
        self.destination_id = destination_id
        self.source = source
        self.worker_id = worker_id
        self.compare = compare
        self.notes_deliveries = notes_deliveries
        self.tombstones = tombstones

    async def others_records(self, found: Sequence[tuple[str, str]]) -> set[tuple[str, str]]:
        """Of these contacts, and the records (remotes) that they were found in: which are
        another's."""
        if not found:
            return set()
        columns = map(list, zip(*found, strict=True))
        rows = await self.pool.fetch(sql.journal.others_records, self.destination_id, *columns)
        return {(row["contact_id"], row["remote"]) for row in rows}

    async def is_anothers(
        self, contact_id: str, remotes: Sequence[Mapping[str, Any]], names: Sequence[str]
    ) -> bool:
        """Whether a record is another contact's: its mirror row says so (`remotes`: what it would
        say), or the record bears the id of a contact that we know, or that the source has."""
        texts = [orjson.dumps(one).decode() for one in remotes]
        me, others = self.destination_id, [one for one in names if one != contact_id]
        if await self.pool.fetchval(sql.journal.is_anothers, me, contact_id, texts, others):
            return True
        desired = self.compare.desired
        keys = castable(desired, others)
        return bool(keys) and bool(await self.pool.fetch(desired.people, keys, []))

    async def remember_remote(
        self, found: Sequence[tuple[str, str, bool, str, str, str | None, bool]]
    ) -> None:
        """Write down the remote ids that a look-up of doubtful contacts has found, the lists that
        they may be in, at which address they are, if it was told, and whether they have been
        turned on: (contact, address that is about to be sent, subscribed, remote, lists, told,
        turned on)."""
        if found:
            columns = map(list, zip(*sorted(found), strict=True))
            unknown = orjson.dumps({one.name: "" for one in self.compare.desired.fields}).decode()
            await self.pool.execute(
                sql.journal.remember_remote, self.destination_id, *columns, unknown
            )

    async def try_at(self, claim: int, addresses: Sequence[tuple[str, str]]) -> None:
        """Where these contacts are about to be put, now that a look has ended the older doubt."""
        if addresses:
            columns = map(list, zip(*addresses, strict=True))
            await self.pool.execute(sql.journal.try_at, self.destination_id, claim, *columns)

    async def mailable(self, addresses: Mapping[str, str]) -> set[str]:
        """Which of these contacts, each at its address as the source has it, the source and every
        opt-out noted by now still let us mail."""
        keys = castable(self.compare.desired, list(addresses))
        text = f"""
select d.contact_id, d.email from ({self.compare.desired.by_keys}) d
 where d.subscribed"""  # noqa: S608
        rows = await self.pool.fetch(text, keys)
        return {r["contact_id"] for r in rows if r["email"] == addresses[r["contact_id"]]}

    async def next_due(self) -> float | None:
        """Seconds until something is due (negative: now); None when nothing is."""
        value = await self.pool.fetchval(sql.journal.next_due, self.destination_id)
        return None if value is None else float(value)
