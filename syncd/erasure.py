"""Erasures at one destination: who is meant, what is left there, and the proof.

The deletion itself goes through the journal like any change (lane 0, `Verb.ERASE`), and is noted in
the transaction that settles it. `syncd.oblivion` makes our own tables forget. Design, section 5.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import groupby
from typing import Any

import orjson
import structlog

from syncd import oblivion, sql
from syncd.control import Destination
from syncd.db import Connection, Pool, transact
from syncd.desired import Desired
from syncd.errors import ConfigError
from syncd.model import Can, Change, Erased, Person, Seen, Traits, Verb
from syncd.plan import castable
from syncd.tombstone import Tombstones

log = structlog.get_logger()

ROUNDS = 10  # of finding more about a person from what was found


@dataclass(slots=True)
class Erasures:
    """The erasures of one destination, as one worker sees to them."""

    pool: Pool
    destination: Destination
    desired: Desired
    adapter: Any
    tombstones: Tombstones
    _told: str = field(default="")  # the last fault logged

    @property
    def _me(self) -> int:
        return self.destination.id

    async def any_open(self) -> bool:
        return bool(await self.pool.fetchval(sql.erasure.any_open))

    async def plan(self) -> int:
        """Find out who is meant, and have the destination told; returns how many are still due."""
        await self._resolve()
        rows = await self.pool.fetch(sql.erasure.untold, self._me, self.destination.source)
        if not rows:
            return 0
        await self._recognise({r["email"]: r["contact_id"] for r in rows if r["email"] is not None})
        ids = [row["contact_id"] for row in rows]

        async def work(connection: Connection) -> None:
            await connection.fetchrow(sql.plan.lock_feed, self._me)
            await connection.execute(sql.erasure.plan, self._me, ids)

        await transact(self.pool, work)
        return len(rows)

    async def finish(self) -> None:
        """Read back what was done, and forget whoever is forgotten everywhere.

        Provider errors pass through.
        """
        await self._read_back()
        try:
            await oblivion.forget(self.pool, self.tombstones)
        except ConfigError as error:
            if self._told != str(error):
                self._told = str(error)
                log.error("an erasure waits", faults=error.faults)

    # ── Who is meant ────────────────────────────────────────────────────────────────────────

    async def _resolve(self) -> None:
        source = self.destination.source
        for row in await self.pool.fetch(sql.erasure.open, source):
            ids, emails = set(row["ids"] or ()), set(row["emails"] or ())
            said = {row["named"]} - {None}
            for _ in range(ROUNDS):
                more_ids, more_emails, shared = await self._more(ids, emails, said, row["known"])
                if shared:
                    await self.pool.execute(sql.erasure.shared, row["erasure_id"], shared)
                if not more_ids and not more_emails:
                    break
                ids, emails = ids | more_ids, emails | more_emails
                await self.pool.execute(
                    sql.erasure.found, row["erasure_id"], source, sorted(more_ids),
                    sorted(more_emails),
                )  # fmt: skip

    async def _more(
        self,
        ids: Collection[str],
        emails: Collection[str],
        said: Collection[str],
        before: Collection[str],
    ) -> tuple[set[str], set[str], list[str]]:
        """Whoever has one of the addresses that were *said*; the addresses of the ids that nobody
        else has.

        emails: those that were said, and those found so far.
        before: addresses under which the contact was known when the request was made.
        Third: contacts who have one of these too. An address that somebody was named by is
        everybody's who has it; one that was only found is left to those who were not named.
        """
        here = await self.pool.fetch(sql.erasure.known, self._me, sorted(ids), sorted(emails))
        known = {(r["contact_id"], r["email"]) for r in here if not _is_piece(r["contact_id"])}
        asked = sorted({*emails, *before, *(email for one, email in known if one in ids)})
        named = sorted({*ids, *(one for one, _ in known)})
        source = await self._of_source(named, asked)
        his = {email for one, email in (*source, *known) if one in ids and email}
        his |= set(before)
        if late := his - set(asked):
            source = await self._of_source(named, sorted({*asked, *late}))
        there = {one for one, _ in source}
        more = {one for one, email in source if email in said}
        more |= {one for one, email in known if email in said and one not in there}
        person = more | set(ids)
        others = {(one, email) for one, email in source if email in his and one not in person}
        taken = {email for _, email in others}
        return more - set(ids), his - set(emails) - taken, sorted({one for one, _ in others})

    async def _of_source(self, ids: Sequence[str], emails: Sequence[str]) -> list[tuple[str, str]]:
        rows = await self.pool.fetch(self.desired.people, castable(self.desired, ids), emails)
        return [(row["contact_id"], row["email"]) for row in rows]

    async def _recognise(self, pieces: Mapping[str, str]) -> None:
        """What a scan has met under such an address, and is not ours, is deleted by its record."""
        if not self.adapter.traits.can & Can.SCAN or not pieces:
            return
        rows = await self.pool.fetch(sql.erasure.strangers, self._me, list(pieces))
        for email, records in groupby(rows, key=lambda row: row["email"]):
            remote: Mapping[str, Any] | None = None
            lists = []
            for row in records:
                seen = Seen(row["remote_id"], email)
                remote = self.adapter.remembered(remote, row["remote_list"], seen)
                lists += [row["list_key"]] if row["list_key"] else []
            text = orjson.dumps(remote).decode()
            await self.pool.execute(
                sql.erasure.remember_stranger, self._me, pieces[email], email, lists, text
            )

    # ── Reading back ────────────────────────────────────────────────────────────────────────

    async def _read_back(self) -> None:
        """Ask the provider what is left of whom."""
        traits: Traits = self.adapter.traits
        rows = await self.pool.fetch(sql.erasure.unconfirmed, self._me, traits.visible_after)
        for row in rows:
            records, at = orjson.loads(row["records"]), row["sent_at"]
            found = [await self._left(record, at) for record in records]
            await self.pool.execute(sql.erasure.note, row["id"], self._me, _proof(found))

    async def _left(self, record: Mapping[str, Any], at: datetime) -> Erased:
        if not self.adapter.traits.can & Can.ERASE:
            return Erased(
                by_hand=f"{self.destination.provider} cannot erase anybody by its interface: the"
                " contact was deleted as far as that goes. Look for the address there, and delete"
                " what is found."
            )
        email = record.get("email")
        was = Person(email, {}, {}, False) if email else None
        remote = record.get("remote")
        change = Change(record["contact_id"], Verb.ERASE, None, was, remote, False, False)
        erased: Erased = await self.adapter.erased(change, at)
        return erased


def _is_piece(contact_id: str) -> bool:
    return contact_id.startswith("erasure ")


def _proof(found: Sequence[Erased]) -> str:
    """What is added to the proof, of all records: what must be done by hand, else what is waited
    for, else that nothing is left."""
    said_so = [one for one in found if one.by_hand]
    exact = [one for one in said_so if not one.vague]
    by_hand = dict.fromkeys(one.by_hand for one in exact or said_so)
    waits = [one.wait_until for one in found if one.wait_until is not None]
    if waits:  # what is to be done by hand is told again then
        said: dict[str, Any] = {"waiting_until": max(waits)}
    elif by_hand:
        said = {"by_hand": " ".join(by_hand)}
    else:
        said = {"confirmed_at": datetime.now(UTC)}
    return orjson.dumps(said).decode()
