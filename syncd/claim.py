"""Claims: due rows are locked and marked, read, and their intent is written, in one transaction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import asyncpg
import orjson

from syncd import sql
from syncd.classify import HELD
from syncd.compare import Compare
from syncd.db import Connection, Pool, Row, array_literal, transact
from syncd.decide import (
    PUT_OFF,
    Decision,
    Drop,
    Entry,
    Refuse,
    Release,
    Rules,
    Settle,
    decide,
    spared,
    touched,
)
from syncd.model import Can, Verb
from syncd.plan import castable
from syncd.tombstone import Buried, Tombstones

GOES_ON = 60.0  # seconds that a scan may stand still, and keep those in its list from being sent


@dataclass(slots=True)
class Claim:
    """What one claim brought: entries to send, and those settled without asking the provider."""

    number: int = 0
    entries: list[Entry] = field(default_factory=list)
    settled: list[Settle] = field(default_factory=list)
    taken: int = 0  # rows marked; more than the entries where some were dropped or released
    receipt: Mapping[str, Any] | None = None
    window: bool = False  # of a full pass: its entries have no journal rows of their own

    @property
    def contact_ids(self) -> Sequence[str]:
        return [one.contact_id for one in self.entries]


class Claims:
    """What `Journal` does to claim."""

    pool: Pool
    destination_id: int
    source: str
    worker_id: int
    compare: Compare
    tombstones: Tombstones | None

    async def claim(self, batch: int, rules: Rules) -> Claim:
        """Take up to *batch* due rows: lock and mark, then read, then write the intent; commit."""
        return await self._claim(sql.journal.claim, (self.destination_id, batch), rules)

    async def claim_job(self, rules: Rules) -> Claim:
        """Take all rows of the bulk job that has been due longest."""
        return await self._claim(sql.journal.claim_job, (self.destination_id,), rules)

    async def _claim(self, statement: str, args: tuple[int, ...], rules: Rules) -> Claim:
        async def work(connection: Connection) -> Claim:
            taken = await connection.fetch(statement, *args, self.worker_id)
            if not taken:
                return Claim()
            return await self._read(connection, {row["contact_id"]: row for row in taken}, rules)

        try:
            return await transact(
                self.pool,
                work,
                keep_plans=self.compare.is_grown,
                first=f"{claim_turn(self.destination_id)}, nextval('syncd.claims_made')",
            )
        except asyncpg.UniqueViolationError:  # of a bulk job, whose addresses nobody asks about
            return Claim()

    async def _read(self, connection: Connection, taken: Mapping[str, Row], rules: Rules) -> Claim:
        ids = sorted(taken)
        keys = castable(self.compare.desired, ids)
        tried = [taken[one]["email"] if taken[one]["doubtful"] else None for one in ids]
        rows = await connection.fetch(self.compare.for_claim, keys, ids, tried)
        first = next(iter(taken.values()))
        claim = Claim(number=first["claim"], taken=len(taken))
        if first["receipt"] is not None:
            claim.receipt = orjson.loads(first["receipt"])
        await _learn_lists(connection, rows, taken, rules)
        late = await self._part(connection, claim, rows, taken)
        decisions: Sequence[Decision] = [
            decide(r, taken[r["contact_id"]], rules) for r in rows if r["contact_id"] not in late
        ]
        if rows and rows[0]["buries"]:
            decisions = await self._without_erased(connection, decisions)
        if claim.receipt is None and rules.traits.can & Can.SCAN:
            decisions = await self._spare(connection, decisions)
        # Where doubt is ended by a scan, or by a look under the address that was tried, the intent
        # must not forget that address.
        can = rules.traits.can
        remembers = bool(can & (Can.SCAN | Can.FIND)) and not can & Can.REPEAT
        await self._write_decisions(connection, _one_per_address(decisions), claim, remembers)
        return claim

    async def _part(
        self, connection: Connection, claim: Claim, rows: Sequence[Row], taken: Mapping[str, Row]
    ) -> set[str]:
        """Who leaves those put off together: to be something else by now, which the intent does not
        say, and must before it is sent."""
        if claim.receipt is None or PUT_OFF not in claim.receipt:
            return set()
        changed = [r["contact_id"] for r in rows if r["digest"] != taken[r["contact_id"]]["digest"]]
        if changed:
            doubtful = claim.receipt[PUT_OFF] == "in doubt"
            await connection.execute(
                sql.journal.part, self.destination_id, sorted(changed), doubtful
            )
        return set(changed)

    async def erased(
        self, connection: Connection | Pool, contacts: Sequence[tuple[str, str | None]]
    ) -> Mapping[str, Buried]:
        """Which of these contacts (id, address) were erased, and must not be made again."""
        if self.tombstones is None or not contacts:
            return {}
        return await self.tombstones.of_contacts(connection, self.source, contacts)

    async def _without_erased(
        self, connection: Connection, decisions: Sequence[Decision]
    ) -> Sequence[Decision]:
        """Nobody who was erased is made, nor gets a known contact an erased address."""
        made = {one.contact_id: entry for one in decisions if (entry := _makes(one)) is not None}
        found = await self.erased(connection, [(key, one.email) for key, one in made.items()])
        return [
            Refuse(one.contact_id, found[one.contact_id].reason, made[one.contact_id].digest)
            if one.contact_id in found
            else one
            for one in decisions
        ]

    async def _spare(
        self, connection: Connection, decisions: Sequence[Decision]
    ) -> Sequence[Decision]:
        """Leave whoever is in a list that is being read; a scan that nobody goes on with is begun
        anew once its list is written to."""
        me = self.destination_id
        scans = await connection.fetch(sql.reading.begun, me, GOES_ON)
        decisions = spared(decisions, {row["list_key"] for row in scans if row["running"]})
        idle = {row["list_key"] for row in scans if not row["running"]}
        written = {key for d in decisions if isinstance(d, Entry) for key in touched(d)}
        if cut := sorted(idle & written):
            await connection.execute(sql.reading.give_up, me, cut)
            await connection.execute(sql.reading.ask, me, cut)
        return decisions

    async def _write_decisions(
        self, connection: Connection, decisions: Sequence[Decision], claim: Claim, remembers: bool
    ) -> None:
        """remembers: under which address a try was lost, until `try_at` or an answer ends that."""
        me = self.destination_id
        claim.entries = [d for d in decisions if isinstance(d, Entry)]
        claim.settled = [d for d in decisions if isinstance(d, Settle)]
        if drops := [d for d in decisions if isinstance(d, Drop)]:
            await connection.execute(sql.journal.drop, me, [d.contact_id for d in drops])
        if releases := [d for d in decisions if isinstance(d, Release)]:
            columns = zip(*((d.contact_id, d.after, d.why) for d in releases), strict=True)
            await connection.execute(sql.journal.release, me, *map(list, columns))
        if refusals := [d for d in decisions if isinstance(d, Refuse)]:
            columns = zip(*((d.contact_id, d.reason, d.digest) for d in refusals), strict=True)
            await connection.execute(sql.journal.refuse, me, *map(list, columns))
        sent = [*claim.entries, *(d.entry for d in claim.settled)]
        if sent and claim.receipt is None:
            columns = zip(*map(_intent, sent), strict=True)
            await connection.execute(sql.journal.write_intent, me, *map(list, columns), remembers)
        if unfit := [d.contact_id for d in claim.entries if d.unfit]:
            await connection.execute(sql.journal.claim_again, me, unfit)
        if forget := [d.contact_id for d in drops if d.forget]:
            await connection.execute(sql.journal.forget_mirror, me, forget)
        if again := [d.contact_id for d in releases if d.replan]:
            await connection.execute(sql.plan.note_changes, self.source, again)


async def _learn_lists(
    connection: Connection, rows: Sequence[Row], taken: Mapping[str, Row], rules: Rules
) -> None:
    """Another process may have made a list since this one looked: nobody is left in it for that."""
    if rules.left_ids is None or rules.learn_lists is None:
        return
    there: set[str] = set()
    for row in rows:
        there.update(row["m_lists"] or ())
    for entry in taken.values():
        there.update(entry["sent_lists"] or ())
    if any(rules.left_ids(one) is None for one in there):
        await rules.learn_lists(connection)


def claim_turn(destination_id: int) -> str:
    """Claims of one destination take turns, and windows of a full pass with them: two that begin at
    the same instant would not see each other's addresses (promise 2). The key spells 'sync'."""
    return f"select pg_advisory_xact_lock(1937337955, {destination_id:d})"


def _makes(decision: Decision) -> Entry | None:
    """The entry that puts a contact where it is not, or under an address it has not there."""
    entry = decision.entry if isinstance(decision, Settle) else decision
    if not isinstance(entry, Entry) or entry.change.verb is not Verb.PUT:
        return None
    was = entry.change.was
    known = entry.mirror_state in HELD and was is not None and was.email.lower() == entry.email
    return None if known else entry


def _one_per_address(decisions: Sequence[Decision]) -> Sequence[Decision]:
    """Within one claim an address is sent once; a second contact with it is planned anew."""
    taken: set[str] = set()
    kept: list[Decision] = []
    for one in decisions:
        held = one.entry if isinstance(one, Settle) else one
        about = _addresses_of(held) if isinstance(held, Entry) else set()
        if about & taken:
            kept.append(Release(one.contact_id, 1.0, "its address is being sent", replan=True))
            continue
        taken |= about
        kept.append(one)
    return kept


def _addresses_of(entry: Entry) -> set[str]:
    """The one it is to have, the one it leaves, and where a lost try may have left it."""
    tried = entry.sent_email if entry.change.doubtful else None
    left = entry.change.was.email.lower() if entry.change.was is not None else None
    return {one for one in (entry.email, left, tried) if one}


def _intent(entry: Entry) -> tuple[Any, ...]:
    want = entry.change.want
    silences = not entry.left_over and (want is None or not want.subscribed)
    lists = array_literal(entry.lists)
    was = entry.change.was
    left = () if was is None else [o for o in was.lists if silences or o not in entry.lists]
    return (
        entry.contact_id, entry.digest, entry.email or None, lists, silences, array_literal(left),
    )  # fmt: skip
