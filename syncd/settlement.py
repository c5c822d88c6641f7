"""Settlements: what became of a claim, or of a window, is written in one transaction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import orjson

from syncd import sql
from syncd.claim import Claim
from syncd.classify import HELD
from syncd.db import Connection, Pool, Row, array_literal, sparse, transact
from syncd.decide import Entry
from syncd.model import OptedOut

State = Literal["done", "due", "rejected"]


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
    may_be_applied: bool = False  # by this try: where doubtful, that is not all of an earlier one


class Settlements:
    """What `Journal` does to settle."""

    pool: Pool
    destination_id: int
    notes_deliveries: bool

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
            *columns, lists, emails = map(list, zip(*kept, strict=True))
            await connection.execute(
                sql.journal.settle, self.destination_id, *columns, claim.number, lists, emails
            )
        unsaid = [r.entry.contact_id for r in results if _unsaid(r)]
        if unsaid := [one for one in unsaid if one not in lost]:
            await connection.execute(sql.journal.unsaid, self.destination_id, unsaid)
        left = [r.entry.contact_id for r in results if r.entry.left_over and not r.doubtful]
        if left := [one for one in left if one not in lost]:
            await connection.execute(sql.journal.doubt_before, self.destination_id, left)
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
                off = {row["contact_id"]: row["email"] for row in found}
                rows = [_refused(one, off[one.contact_id]) if one.contact_id in off else one
                        for one in rows]  # fmt: skip
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
        removals = {  # not where nothing was sent, and the doubt is of an earlier change
            r.entry.contact_id
            for r in results
            if r.entry.change.want is None
            and not r.entry.left_over
            and ((r.doubtful and r.may_be_applied) or r.entry.contact_id in lost)
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


def _erased_email(entry: Entry) -> str | None:
    return (entry.change.was.email or None) if entry.change.was is not None else None


def _json(value: object | None) -> str | None:
    return None if value is None else orjson.dumps(value).decode()


def _tried_lists(one: Settled) -> str:
    was = one.entry.change.was
    return array_literal(sorted({*one.entry.lists, *(was.lists if was is not None else ())}))


def _doubt(one: Settled) -> bool:
    return one.doubtful if one.state != "done" else False


def _unsaid(one: Settled) -> bool:
    """Whether nothing was sent of what was to turn mail off, and no earlier try was to either."""
    entry, want = one.entry, one.entry.change.want
    off = not entry.left_over and (want is None or not want.subscribed)
    again = one.state == "due" and one.doubtful and one.receipt is None
    return off and again and not entry.silenced and not one.may_be_applied


def _says_nothing_of_mail(one: Settled) -> bool:
    """Whether a known contact was written without its mail being turned on: a no that was noted
    meanwhile still holds."""
    change = one.entry.change
    known = one.entry.mirror_state in HELD and change.want is not None
    on = change.want is not None and change.want.subscribed
    return known and on and not change.resubscribe and isinstance(one.mirror, MirrorRow)


def _refused(row: MirrorRow, at: str | None) -> MirrorRow:
    """A no was noted meanwhile, *at* that address: at another one nothing is off yet."""
    return row._replace(digest=None, subscribed=row.email != at)


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
        array_literal(entry.lists), entry.email or None,
    )  # fmt: skip


def _opt_out(one: Settled) -> tuple[Any, ...]:
    told = one.opt_out
    assert told is not None
    evidence = orjson.dumps(told.evidence, default=str).decode()
    email = (told.email or one.entry.email).lower() or None
    return one.entry.contact_id, email, told.list_id, told.kind, told.occurred_at, evidence
