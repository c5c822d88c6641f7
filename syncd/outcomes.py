"""What becomes of an entry, by what the provider said: the one place that decides. Pure.

Design, section 6, the table of outcomes.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import orjson

from syncd.classify import HELD
from syncd.db import array_literal
from syncd.decide import PUT_OFF, Entry
from syncd.errors import ProviderError
from syncd.model import (
    Absent,
    Applied,
    OptedOut,
    Outcome,
    Postponed,
    Rejected,
    Started,
    Vanished,
    Verb,
    Waits,
)
from syncd.settlement import MirrorRow, Settled

FIRST_WAIT, LONGEST_WAIT = 1.0, 900.0  # seconds
UNSENT_WAIT = 5.0  # seconds, at most: another host may reach the provider; a breaker keeps this one
HALVE_AFTER = 2  # answers lost or not understood with the same batch


def backoff(tries: int, jitter: float | None = None) -> float:
    """Seconds: a tenth to the whole, by *jitter* or at random, of 1 s doubled with every try, which
    is at most a quarter of an hour."""
    if jitter is None:
        jitter = random.uniform(0.1, 1.0)  # noqa: S311  spreads load, hides nothing
    return jitter * min(LONGEST_WAIT, FIRST_WAIT * 2.0 ** min(tries, 20))


def settled(entry: Entry, outcome: Outcome) -> Settled:
    """What the journal and the mirror say after this outcome."""
    older = entry.receipt is not None and entry.sent_digest != entry.digest
    if older and not isinstance(outcome, Started):
        return _superseded(entry, outcome)
    return _settled(entry, outcome)


def located(entry: Entry, *, is_there: bool) -> Settled:
    """A look-up has found out where it is, or that it is nowhere; it is still to be done. What the
    tries have made of it there is in doubt as before."""
    return Settled(entry, "due", doubtful=is_there, attempt_used=False, outcome="looked up")


def hindered(entry: Entry) -> Settled:
    """A look-up has found another contact's record where it is to be put, and its own nowhere."""
    why = "waits for another contact's record to leave its address"
    return located(entry, is_there=False)._replace(after=1.0, error=why)


def _superseded(entry: Entry, outcome: Outcome) -> Settled:
    """A job was given something older than what the source says now: whatever came of it, the
    contact is due again, and nothing that was learned is thrown away (races 17)."""
    again = _in_part(Settled(entry, "due", outcome="superseded", attempt_used=False))
    known = entry.mirror_state in HELD
    if not isinstance(outcome, Applied):
        again = again._replace(doubtful=entry.change.doubtful)
    match outcome:
        case OptedOut() | Vanished():
            return _settled(entry, outcome)._replace(state="due", attempt_used=False)
        case Applied() if entry.sent_digest is None:  # it took the contact away
            return again._replace(mirror="withdraw", here=-1 if known else 0)
        case Applied() if not known:  # it made the contact
            remote = None if outcome.remote is None else orjson.dumps(outcome.remote).decode()
            lists, email = array_literal(entry.sent_lists), entry.sent_email or entry.email
            row = MirrorRow(entry.contact_id, email, "{}", lists, True, None, "here", remote, "{}")
            return again._replace(mirror=row, here=1)
    return again


def _settled(entry: Entry, outcome: Outcome) -> Settled:
    match outcome:
        case Applied() | Absent() if entry.left_over:  # now the contact itself
            return Settled(entry, "due", outcome="withdrawn", attempt_used=False)
        case Applied():
            return _applied(entry, outcome)
        case Absent():
            return _absent(entry, outcome.why)
        case Rejected():
            off = outcome.withdrawn
            return Settled(
                entry,
                "rejected",
                # An earlier part of it may have been applied.
                "withdraw" if off else _unknown(entry),
                doubtful=entry.change.doubtful and not off,
                outcome="rejected",
                error=outcome.reason,
                status=outcome.status,
                here=-1 if off and entry.mirror_state in HELD else 0,
                may_be_applied=not off,
            )
        case OptedOut() if _is_no_news(entry, outcome):
            known = entry.mirror_state in HELD
            return _applied(entry, Applied()) if known else _absent(entry, "has said no there")
        case OptedOut():
            done = Settled(entry, outcome=f"opted out: {outcome.kind}", opt_out=outcome)
            if not entry.change.doubtful:
                return done
            return done._replace(state="due", doubtful=True, attempt_used=False)
        case Vanished():
            lost = -1 if entry.mirror_state in HELD else 0
            told = OptedOut("vanished", evidence=outcome.evidence)
            return Settled(entry, mirror="delete", outcome="vanished", opt_out=told, here=lost)
        case Waits():
            why = f"waits for a scan of list {outcome.scan_of}"
            late = _later(entry, 30.0, why, doubtful=outcome.doubtful or entry.change.doubtful)
            return _in_part(late) if outcome.doubtful else late
        case Started():
            return Settled(
                entry,
                "due",
                after=outcome.look_after,
                doubtful=entry.change.doubtful,  # what an earlier try did is still not known
                attempt_used=False,
                outcome="started" if outcome.runs else "put off",
                receipt=outcome.receipt if outcome.runs else _put_off(outcome),
            )
        case Postponed():
            after = outcome.after or backoff(entry.attempts)
            late = _later(entry, after, outcome.reason, doubtful=entry.change.doubtful, used=True)
            return _in_part(late)


def _put_off(outcome: Started) -> Mapping[str, Any]:
    """A receipt that tells claims that no job runs; and whether anything may have been applied."""
    return {**outcome.receipt, PUT_OFF: "in doubt" if outcome.doubtful else "unsent"}


def _is_no_news(entry: Entry, told: OptedOut) -> bool:
    """Whether nothing else was wanted: to write it down again would only plan it again."""
    want = entry.change.want
    return told.list_id is None and want is not None and not want.subscribed


def _in_part(one: Settled) -> Settled:
    """Some of it, or all, may have been applied."""
    return one._replace(mirror=_unknown(one.entry), may_be_applied=True)


def _unknown(entry: Entry) -> Literal["unknown"] | None:
    return "unknown" if entry.mirror_state is not None else None


def _later(entry: Entry, after: float, why: str, *, doubtful: bool, used: bool = False) -> Settled:
    return Settled(
        entry,
        "due",
        after=after,
        doubtful=doubtful,
        attempt_used=used,
        outcome="postponed",
        error=why,
    )


def _applied(entry: Entry, outcome: Applied) -> Settled:
    verb = entry.change.verb
    known = entry.mirror_state in HELD
    if verb is Verb.WITHDRAW:
        return Settled(entry, mirror="withdraw", outcome="withdrawn", here=-1 if known else 0)
    if verb is not Verb.PUT:  # what stays off is remembered: who comes back is turned on there
        left: Literal["withdraw", "delete"] = "withdraw" if outcome.stays_off else "delete"
        return Settled(entry, mirror=left, outcome=f"{verb.value}d", here=-1 if known else 0)
    remote = entry.change.remote if outcome.remote is None else outcome.remote
    row = mirror_row(entry, "here", remote, outcome.lacking)
    if entry.mirror_state is None:
        return Settled(entry, "done", row, 0.0, False, True, "created", here=1)
    said = "updated" if known else "created"
    return Settled(entry, mirror=row, outcome=said, here=0 if known else 1)


def _absent(entry: Entry, why: str) -> Settled:
    if entry.change.verb is not Verb.PUT:
        return _applied(entry, Applied())
    row = mirror_row(entry, "absent", None, ())
    known = entry.mirror_state in HELD
    return Settled(entry, mirror=row, outcome="absent", error=why or None, here=-1 if known else 0)


def mirror_row(
    entry: Entry, state: str, remote: object | None, lacking: Sequence[str]
) -> MirrorRow:
    """The mirror row of what was sent."""
    want = entry.change.want
    assert want is not None
    return MirrorRow(
        entry.contact_id,
        entry.email,
        orjson.dumps(want.fields).decode(),
        array_literal(entry.lists),
        entry.subscribed,
        entry.digest,
        state,
        None if remote is None else orjson.dumps(remote).decode(),
        array_literal(lacking) if lacking else "{}",
    )


def postponed(entry: Entry, error: ProviderError, outages: int) -> Settled:
    """What becomes of an entry whose whole request failed. *outages*: how many in a row."""
    receipt = None if entry.receipt is None else orjson.loads(entry.receipt)  # the job goes on
    if error.may_be_applied:
        return Settled(
            entry,
            "due",
            _unknown(entry),
            after=max(error.after, backoff(entry.attempts, error.jitter)),
            doubtful=True,
            outcome="unknown",
            error=error.reason,
            status=error.status,
            receipt=receipt,
            may_be_applied=True,
        )
    wait = backoff(outages, error.jitter)
    if error.status is None:
        wait = min(wait, UNSENT_WAIT)
    return Settled(
        entry,
        "due",
        after=max(error.after, wait),
        doubtful=entry.change.doubtful,
        attempt_used=False,
        outcome="postponed",
        error=error.reason,
        status=error.status,
        receipt=receipt,
    )


def unsent(entry: Entry, why: str) -> Settled:
    """Nothing was sent: due again, with the doubt it had, without an attempt."""
    return Settled(entry, "due", doubtful=entry.change.doubtful, attempt_used=False, outcome=why)


def halve(results: Sequence[Settled]) -> Sequence[Settled]:
    """Rows whose answers got lost again and again come back in a batch of half the size."""
    unknown = [one for one in results if one.outcome == "unknown"]
    if len(unknown) < 2 or max(one.entry.attempts for one in unknown) < HALVE_AFTER:
        return results
    cap = (len(unknown) + 1) // 2
    return [one._replace(batch_cap=cap) if one.outcome == "unknown" else one for one in results]
