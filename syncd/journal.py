"""The journal: claims, settlements, leases. The only place that writes `journal` and `mirror`.

Every multi-row write goes in primary-key order, tables in the order journal, mirror, opt_out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Literal, NamedTuple

import asyncpg
import orjson
import structlog

from syncd import sql
from syncd.classify import HELD
from syncd.compare import Compare
from syncd.db import Connection, Pool, Row, transact
from syncd.decide import (
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
from syncd.model import Can, OptedOut, Verb
from syncd.plan import castable, sparse
from syncd.tombstone import Buried, Tombstones

log = structlog.get_logger()

GOES_ON = 60.0  # seconds that a scan may stand still, and keep those in its list from being sent

State = Literal["done", "due", "rejected"]


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


class MirrorRow(NamedTuple):
    """One row of `mirror` to write; columns in the order of `write_mirror`."""

    contact_id: str
    email: str
    fields: str
    lists: str
    subscribed: bool
    digest: Any
    state: str
    remote: str | None
    lacking: str


_USUAL = MirrorRow(None, None, None, None, True, None, "here", None, "{}")  # type: ignore[arg-type]


class Settled(NamedTuple):
    """What becomes of one entry. `mirror`: a row, what to do with the row there is, or nothing."""

    entry: Entry
    state: State = "done"
    mirror: MirrorRow | Literal["withdraw", "delete", "unknown"] | None = None
    after: float = 0.0
    doubtful: bool = False
    attempt_used: bool = True
    outcome: str = "applied"
    error: str | None = None
    status: int | None = None
    receipt: Mapping[str, Any] | None = None
    opt_out: OptedOut | None = None
    batch_cap: int | None = None
    here: int = 0  # how the number of mirror rows in state here changes


class Journal:
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

    # ── Claim ───────────────────────────────────────────────────────────────────────────────

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
        decisions: Sequence[Decision] = [decide(r, taken[r["contact_id"]], rules) for r in rows]
        if rows and rows[0]["buries"]:
            decisions = await self._without_erased(connection, decisions)
        if claim.receipt is None and rules.traits.can & Can.SCAN:
            decisions = await self._spare(connection, decisions)
        can = rules.traits.can
        # Where doubt is ended by a scan, or by a look under the address that was tried, the intent
        # must not forget that address.
        remembers = bool(can & Can.SCAN) and not can & (Can.FIND | Can.REPEAT)
        remembers |= bool(can & Can.FIND) and rules.traits.key == "remote id"
        await self._write_decisions(connection, _one_per_address(decisions), claim, remembers)
        return claim

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

    # ── Settle ──────────────────────────────────────────────────────────────────────────────

    async def settle(self, claim: Claim, results: Sequence[Settled]) -> Sequence[str]:
        """Write what became of a claim, in one transaction; returns the contacts it had lost.

        Guarded by the claim number: where another worker has taken a contact over, its row stays
        as it is, the mirror forgets what it believed, and the contact is pushed once more.
        """
        if not results:
            return ()
        ordered = sorted(results, key=lambda one: one.entry.contact_id)
        lost = await transact(
            self.pool, lambda c: self._settle(c, claim, ordered, feed_first=False)
        )
        if lost is None:
            lost = await transact(
                self.pool, lambda c: self._settle(c, claim, ordered, feed_first=True)
            )
        assert lost is not None
        return lost

    async def _settle(
        self,
        connection: Connection,
        claim: Claim,
        results: Sequence[Settled],
        *,
        feed_first: bool,
    ) -> Sequence[str] | None:
        """feed_first: it may make rows anew, which no lock orders against a pass that lets mirror
        rows change hands. None: it must, and nothing has been written (races 19)."""
        me, number = self.destination_id, claim.number
        if feed_first:
            await connection.fetchrow(sql.plan.lock_feed, me)
        ids = [one.entry.contact_id for one in results]
        rows = {
            r["contact_id"]: r for r in await connection.fetch(sql.journal.lock, me, ids, number)
        }
        lost = [i for i in ids if not (i in rows and rows[i]["ours"])]
        if lost and not feed_first:
            return None
        await self.write_journal(connection, claim, results, rows, set(lost))
        await self.write_mirror(connection, results, set(lost))
        await self.write_news(connection, claim, results, set(lost))
        await self._write_proof(connection, results, set(lost))
        return lost

    async def _write_proof(
        self, connection: Connection, results: Sequence[Settled], lost: set[str]
    ) -> None:
        """Of whom this destination was told to erase: what a read-back needs."""
        rows = [
            (r.entry.contact_id, _erased_email(r.entry), _json(r.entry.change.remote))
            for r in results
            if r.entry.erases and r.state == "done" and r.entry.contact_id not in lost
        ]
        if rows:
            columns = map(list, zip(*rows, strict=True))
            await connection.execute(sql.erasure.sent, self.destination_id, *columns)

    async def write_journal(
        self,
        connection: Connection,
        claim: Claim,
        results: Sequence[Settled],
        rows: Mapping[str, Row],
        lost: set[str],
    ) -> None:
        done, kept, soften, acknowledged = [], [], [], []
        for one in results:
            contact_id = one.entry.contact_id
            row = rows.get(contact_id)
            # a row beside a window was written while the window was in flight
            again = row is not None and (claim.window or (row["ours"] and row["again"]))
            if contact_id in lost:
                kept.append(_kept(one, "due", doubtful=True))
            elif again and row is not None:
                if row["plan"] == "discarded":
                    soften.append(contact_id)
                held = row["plan"] in ("held", "open")
                kept.append(_kept(one, "held" if held else "due", doubtful=_doubt(one)))
                if one.state == "done":
                    acknowledged.append(contact_id)
            elif one.state != "done":
                kept.append(_kept(one, one.state, doubtful=_doubt(one)))
            elif not claim.window:
                done.append(contact_id)
        if done:
            await connection.execute(sql.journal.drop, self.destination_id, done)
        if kept:
            *columns, lists = map(list, zip(*kept, strict=True))
            await connection.execute(
                sql.journal.settle, self.destination_id, *columns, claim.number, lists
            )
        if acknowledged:
            await connection.execute(sql.journal.acknowledged, self.destination_id, acknowledged)
        if soften:
            await connection.execute(sql.journal.soften, self.destination_id, soften)

    async def write_mirror(
        self, connection: Connection, results: Sequence[Settled], lost: set[str]
    ) -> None:
        me = self.destination_id
        written = [r.mirror for r in results if isinstance(r.mirror, MirrorRow)]
        if written:
            rows = written
            if lost:
                rows = await self._superseded(connection, rows, lost)
            if silent := [r.entry.contact_id for r in results if _says_nothing_of_mail(r)]:
                found = await connection.fetch(sql.journal.off_meanwhile, me, silent)
                off = {row["contact_id"] for row in found}
                rows = [
                    row._replace(digest=None, subscribed=False) if row.contact_id in off else row
                    for row in rows
                ]
            columns = map(sparse, zip(*rows, strict=True), _USUAL)
            await connection.execute(sql.journal.write_mirror, me, *columns)

        if lost:  # which of two came last is unknown: absence is no news where either was at work
            tried = [(r.entry.contact_id, _tried_lists(r)) for r in results]
            ids, lists = zip(*(one for one in tried if one[0] in lost), strict=True)
            await connection.execute(sql.journal.unsure, me, ids, lists)

        others = [r for r in results if isinstance(r.mirror, str)]

        def those(what: str) -> list[str]:
            return [r.entry.contact_id for r in others if r.mirror == what]

        if withdrawn := [i for i in those("withdraw") if i not in lost]:
            await connection.execute(sql.journal.withdraw_mirror, me, withdrawn)
        if deleted := [i for i in those("delete") if i not in lost]:
            await connection.execute(sql.journal.delete_mirror, me, deleted)
        removals = {
            r.entry.contact_id
            for r in results
            if r.entry.change.want is None
            and not r.entry.left_over
            and (r.doubtful or r.entry.contact_id in lost)
        }
        if unknown := sorted({*those("unknown"), *lost} - removals):
            await connection.execute(sql.journal.unknown_mirror, me, unknown)
        if removals:
            await connection.execute(sql.journal.doubt_removal, me, sorted(removals))
        if told := [r.entry.contact_id for r in results if _says_no(r) or _may_be_silent(r, lost)]:
            await connection.execute(sql.journal.mail_off, me, told)
        if here := sum(r.here for r in results if r.entry.contact_id not in lost):
            await connection.execute(sql.journal.tally_here, me, here)

    async def _superseded(
        self, connection: Connection, rows: Sequence[MirrorRow], lost: set[str]
    ) -> list[MirrorRow]:
        """Of whoever was taken over: in step with nothing, and in the successor's lists, too."""
        late = [(row.contact_id, row.lists) for row in rows if row.contact_id in lost]
        ids, lists = ([one[n] for one in late] for n in (0, 1))
        found = await connection.fetch(sql.journal.all_lists, self.destination_id, ids, lists)
        both = {row["contact_id"]: row["lists"] for row in found}
        return [
            row._replace(digest=None, lists=both.get(row.contact_id, row.lists))
            if row.contact_id in lost
            else row
            for row in rows
        ]

    async def write_news(
        self, connection: Connection, claim: Claim, results: Sequence[Settled], lost: set[str]
    ) -> None:
        me = self.destination_id
        refused = [r for r in results if r.opt_out is not None]
        if refused:
            columns = zip(*(_opt_out(r) for r in refused), strict=True)
            await connection.execute(sql.journal.opt_out, me, *map(list, columns))
        told = [
            (
                r.entry.contact_id,
                r.entry.change.verb.value,
                "superseded" if r.entry.contact_id in lost else r.outcome,
                r.status,
                r.error,
                r.entry.attempts,
            )
            for r in results
            if not claim.window or r.outcome != "created"  # the mirror tells of a first fill
        ]
        if told and self.notes_deliveries:
            await connection.execute(sql.journal.deliver, me, *map(list, zip(*told, strict=True)))

    # ── Beside the two ──────────────────────────────────────────────────────────────────────

    async def others_records(self, found: Sequence[tuple[str, str]]) -> set[str]:
        """Which of these contacts were found in a record (its remote) that is another's."""
        if not found:
            return set()
        columns = map(list, zip(*found, strict=True))
        rows = await self.pool.fetch(sql.journal.others_records, self.destination_id, *columns)
        return {row["contact_id"] for row in rows}

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
        self, found: Sequence[tuple[str, str, bool, str, str, str | None]]
    ) -> None:
        """Write down the remote ids that a look-up of doubtful contacts has found, the lists that
        they may be in, and at which address they are, if it was told: (contact, address that is
        about to be sent, subscribed, remote, lists, told)."""
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

    async def mailable(self, ids: Sequence[str]) -> set[str]:
        """Which of these the source and every opt-out noted by now still let us mail."""
        keys = castable(self.compare.desired, ids)
        text = f"select d.contact_id from ({self.compare.desired.by_keys}) d where d.subscribed"  # noqa: S608
        return {row["contact_id"] for row in await self.pool.fetch(text, keys)}

    async def next_due(self) -> float | None:
        """Seconds until something is due (negative: now); None when nothing is."""
        value = await self.pool.fetchval(sql.journal.next_due, self.destination_id)
        return None if value is None else float(value)


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


def _erased_email(entry: Entry) -> str | None:
    return (entry.change.was.email or None) if entry.change.was is not None else None


def _json(value: object | None) -> str | None:
    return None if value is None else orjson.dumps(value).decode()


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
    """The one it is to have, and where a lost try may have left it: no mirror row tells of that."""
    tried = entry.sent_email if entry.change.doubtful else None
    return {one for one in (entry.email, tried) if one}


def _intent(entry: Entry) -> tuple[Any, ...]:
    silences = entry.change.want is None or not entry.change.want.subscribed
    lists = array_literal(entry.lists)
    was = entry.change.was
    left = () if was is None else [o for o in was.lists if silences or o not in entry.lists]
    return (
        entry.contact_id, entry.digest, entry.email or None, lists, silences, array_literal(left),
    )  # fmt: skip


def _tried_lists(one: Settled) -> str:
    was = one.entry.change.was
    return array_literal(sorted({*one.entry.lists, *(was.lists if was is not None else ())}))


def _doubt(one: Settled) -> bool:
    return one.doubtful if one.state != "done" else False


def _says_nothing_of_mail(one: Settled) -> bool:
    """Whether a known contact was written without its mail being turned on: a no that was noted
    meanwhile still holds."""
    change = one.entry.change
    known = one.entry.mirror_state in HELD and change.want is not None
    on = change.want is not None and change.want.subscribed
    return known and on and not change.resubscribe and isinstance(one.mirror, MirrorRow)


def _may_be_silent(one: Settled, lost: set[str]) -> bool:
    """Whether a silence was sent of which nobody knows what came: it may have to be undone."""
    want = one.entry.change.want
    in_doubt = one.doubtful or one.entry.contact_id in lost
    return in_doubt and want is not None and not want.subscribed


def _says_no(one: Settled) -> bool:
    told = one.opt_out
    return told is not None and told.list_id is None and told.kind in ("unsubscribed", "complained")


def _kept(one: Settled, state: str, *, doubtful: bool) -> tuple[Any, ...]:
    """A row for `settle`, in the order of its parameters."""
    entry = one.entry
    wish = "upsert" if entry.change.want is not None else "remove"
    attempts = entry.attempts if one.attempt_used else max(entry.attempts - 1, 0)
    receipt = None if one.receipt is None else orjson.dumps(one.receipt).decode()
    running = one.receipt is not None and entry.receipt is not None
    digest = entry.sent_digest if running else entry.digest  # a job keeps what it was given
    lane = 1 if wish == "upsert" else 2
    error = one.error if state != "rejected" else one.error or "refused without a reason"
    return (
        entry.contact_id, wish, lane, state, digest, doubtful, attempts,
        one.after if one.state != "done" else 0.0, receipt, one.status, error, one.batch_cap,
        array_literal(entry.lists),
    )  # fmt: skip


def _opt_out(one: Settled) -> tuple[Any, ...]:
    told = one.opt_out
    assert told is not None
    evidence = orjson.dumps(told.evidence, default=str).decode()
    email = (told.email or one.entry.email).lower() or None
    return one.entry.contact_id, email, told.list_id, told.kind, told.occurred_at, evidence


def array_literal(items: Sequence[str]) -> str:
    """A text[] as PostgreSQL reads it from text."""
    if not items:
        return "{}"
    return "{" + ",".join(map(_quoted, items)) + "}"


@lru_cache(maxsize=65_536)
def _quoted(item: str) -> str:
    escaped = item.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


async def reap(pool: Pool, crash_limit: int = 2) -> int:
    """Take back what dead workers had in flight: due, doubtful; returns how many rows.

    Rows that a stopped process still holds locked are left for the next call: waiting for them
    would cost the caller its own lease.
    """
    total = 0
    await pool.execute(sql.plan.abandoned)
    for row in await pool.fetch(sql.journal.orphaned):
        with suppress(asyncpg.LockNotAvailableError):
            total += await _take_back(pool, row, crash_limit, crashed=True)
    if total:
        log.warning("taken over from a dead worker", rows=total)
    return total


async def leave(pool: Pool, worker_id: int) -> int:
    """As `reap`, of a worker that was told to stop: nobody counts it as a crash."""
    total = 0
    for row in await pool.fetch(sql.journal.in_hand, worker_id):
        total += await _take_back(pool, row, 0, crashed=False)
    return total


async def _take_back(pool: Pool, row: Row, crash_limit: int, *, crashed: bool) -> int:
    destination, worker = row["destination_id"], row["worker"]

    async def work(connection: Connection) -> int:
        if crashed:
            await connection.execute("set local lock_timeout = '300ms'")
        await connection.fetchrow(sql.plan.lock_feed, destination)  # it makes rows: see `_settle`
        freed = await connection.fetchrow(
            sql.journal.reap, destination, worker, crash_limit, crashed
        )
        assert freed is not None
        n = freed["n"]
        await connection.execute(sql.journal.doubt_removal, destination, freed["removals"])
        await connection.execute(sql.journal.mail_off, destination, freed["silences"])
        for window in await connection.fetch(sql.window.orphaned, destination, worker):
            ids = window["ids"] or []
            await connection.execute(
                sql.window.doubt, destination, ids, window["addresses"], window["lists"]
            )
            await connection.execute(sql.window.finish, destination, window["claim"])
            n += len(ids)
        return int(n)

    return await transact(pool, work)
