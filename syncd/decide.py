"""What a claim does with one contact, now that desired and mirror have been read: pure functions.

A claim may soften the plan's wish (remove → upsert → nothing), never harden it (races 1): a contact
that is gone without the wish 'remove' goes back to the plan, and so through the guard.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, NamedTuple
from uuid import UUID

import orjson

from syncd.classify import HELD, unfit
from syncd.db import Connection, Row
from syncd.desired import Field
from syncd.model import Can, Change, Person, Traits, Value, Verb

PUT_OFF = "put off"  # in a receipt: no job runs; 'unsent', or 'in doubt'
LONGEST = 30.0  # seconds after which whoever waits for another contact asks again, at the most


class Entry(NamedTuple):
    """One claimed contact: what the journal said, what is to be sent, what the mirror will say."""

    contact_id: str
    change: Change
    digest: Any  # of `change.want`; None for a removal
    email: str  # lower case, of what is sent
    attempts: int
    crashes: int
    mirror_state: str | None
    lists: Sequence[str]
    subscribed: bool
    look_first: bool = False
    receipt: Any = None
    sent_digest: Any = None  # of what the job was given
    planned_at: Any = None
    sent_email: str | None = None  # as sent_digest
    sent_lists: Sequence[str] = ()
    unfit: bool = False  # leaves because it cannot be sent; to be listed as refused when it has
    left_over: bool = False  # of a lost try; the contact itself is still to be done
    erases: bool = False
    looks_only: bool = False  # in doubt, and in the way of others: only to find out where it is
    silenced: bool = False  # a lost try may have turned mail off
    refused: bool = False  # a no is known, which consent has overcome perhaps


@dataclass(frozen=True, slots=True)
class Drop:
    """Nothing to do. `forget`: the mirror row of a contact that is rightly not there goes too."""

    contact_id: str
    forget: bool = False


@dataclass(frozen=True, slots=True)
class Release:
    """Back to due, without an attempt. `replan`: the plan must look at it again."""

    contact_id: str
    after: float
    why: str
    replan: bool = False


@dataclass(frozen=True, slots=True)
class Refuse:
    """Cannot be sent as the source has it; for a person, in words."""

    contact_id: str
    reason: str
    digest: Any


@dataclass(frozen=True, slots=True)
class Settle:
    """Settled without asking the provider: it cannot hold the contact, or need not."""

    contact_id: str
    entry: Entry
    why: str


COLUMNS = tuple(f"f{n}" for n in range(1600))  # as many as a relation can have

EXCHANGED = UUID(int=0)
"""The digest of a mirror row whose address was exchanged, and that has not been sent since."""

Decision = Entry | Drop | Release | Refuse | Settle


@dataclass(frozen=True, slots=True)
class Rules:
    """What a decision depends on beside the rows."""

    when_gone: str
    traits: Traits
    fields: Sequence[Field]
    list_ids: Callable[[str], str | None]  # source list id → remote id, None if not yet known
    can_find: bool
    has_lists: bool
    key_name: str | None = None  # what `remote` calls the value of the key column
    creates_halted: bool = False
    left_ids: Callable[[str], str | None] | None = None  # as list_ids, of lists to be left, too
    learn_lists: Callable[[Connection], Awaitable[None]] | None = None  # what both of these tell of


def decide(row: Row, entry: Row, rules: Rules) -> Decision:
    """Judge one claimed contact. *row*: from `Compare.for_claim`; *entry*: its journal row.

    Nobody is sent to an address that a request in flight is about. Claims take turns, so none gets
    there meanwhile; left to the unique index, one such contact would stop the whole claim, and the
    index would wait for a pass that waits for us (races 19).
    """
    made = _decide(row, entry, rules)
    sent = made.entry if isinstance(made, Settle) else made
    if isinstance(sent, Entry) and _is_contested(row, sent):
        return Release(row["contact_id"], 0.2, "its address is in flight for another contact")
    return made


def _is_contested(row: Row, sent: Entry) -> bool:
    if row["tried_in_flight"] is not None and sent.email not in (row["email"], _there(row)):
        return True  # it is about the address of a lost try, or one that is to be erased
    return row["in_flight"] is not None and not sent.left_over


def _decide(row: Row, entry: Row, rules: Rules) -> Decision:
    contact_id = row["contact_id"]
    if row["in_window"]:
        return Release(contact_id, 0.2, "a full pass has its window in flight")
    if _tried_elsewhere(row, entry, rules):
        return _left_over(row, entry, rules)
    if not row["wanted"]:
        return _gone(row, entry, rules)
    if row["fault"] is not None:
        if unfit(row) and entry["wish"] == "remove" and rules.when_gone != "keep":
            return _leaving(row, entry, rules)
        return Refuse(contact_id, row["fault"], row["digest"])
    equal = row["m_digest"] == row["digest"] and row["m_state"] in ("here", "absent")
    doubtful = _in_doubt(entry)
    if equal and not doubtful and not entry["force"]:
        return Drop(contact_id)
    rival = row["in_flight"] or (row["holder"] if rules.traits.key != "ours" else None)
    if rival is not None:
        if row["in_flight"] is None and _must_be_located(row, entry, rules):
            return _located(row, entry, rules)
        return Release(contact_id, 1.0, f"waits for contact {rival} to leave its address", True)
    if row["in_flight_window"]:
        return Release(contact_id, 0.2, "its address is in flight in a full pass")
    if row["in_doubt"] is not None and rules.traits.key != "ours":
        return _waits_for_doubt(contact_id, entry, row["in_doubt"])
    known = row["m_state"] in HELD
    made = _put(row, entry, rules)
    if not isinstance(made, Entry):
        return made
    if rules.creates_halted and made.change.may_create:
        return Release(contact_id, 60.0, "creates are halted: see `syncd status`")
    if not known and row["m_state"] != "withdrawn" and not doubtful:
        if rules.traits.needs_list and not row["lists"]:
            return Settle(contact_id, made, "it is in no list")
        if not row["subscribed"] and not rules.can_find:
            return Settle(contact_id, made, "not subscribed, so not created")
    return made


def spared(decisions: Sequence[Decision], scanned: set[str]) -> Sequence[Decision]:
    """Leave out whoever is, or is to be, in a list that is being scanned: its rows must not shift
    under the reader, and nobody be taken for absent who is only just being put into it."""
    return [
        Release(one.contact_id, 2.0, "a scan of its list is running")
        if isinstance(one, Entry) and not scanned.isdisjoint(touched(one))
        else one
        for one in decisions
    ]


def touched(entry: Entry) -> set[str]:
    """Lists that it is, is to be, or may have been put into."""
    was = entry.change.was
    return {*entry.lists, *entry.sent_lists, *(was.lists if was is not None else ())}


def _in_doubt(entry: Row) -> bool:
    """Whether an earlier try may have been applied; what a job makes of it is not known yet."""
    return entry["doubtful"] or entry["receipt"] is not None


def _tried_elsewhere(row: Row, entry: Row, rules: Rules) -> bool:
    """Whether a lost try may have left a record under an address that is no longer wanted.

    Only where the address is the key: elsewhere it was the same record, or will be found by id.
    Where a job has it in hand, that is asked first.
    """
    asks = entry["doubtful"] and not _in_a_job(entry) and rules.traits.key == "address"
    tried = entry["email"] if asks else None
    return tried not in (None, _there(row), row["email"]) and row["holder_of_tried"] is None


def _in_a_job(entry: Row) -> bool:
    return entry["receipt"] is not None and PUT_OFF not in _json(entry["receipt"])


def _there(row: Row) -> str | None:
    """The address under which the mirror knows a record."""
    return row["m_email"] if _is_known(row) else None


def _must_be_located(row: Row, entry: Row, rules: Rules) -> bool:
    """Whether a contact that waits for an address may itself keep others waiting: its lost try may
    have got to the address that the one it waits for is to have. Not where the mirror, too, says
    that it is at the address of that try: an earlier look has found it there."""
    can_look = rules.can_find or Can.SCAN in rules.traits.can
    tried = entry["doubtful"] and entry["email"] not in (None, _there(row))
    tried = tried and entry["receipt"] is None
    return bool(tried and can_look and rules.traits.key == "remote id")


def _located(row: Row, entry: Row, rules: Rules) -> Entry | Release | Refuse:
    made = _put(row, entry, rules)
    if not isinstance(made, Entry):
        return made
    return made._replace(email=entry["email"], look_first=True, looks_only=True)


def _left_over(row: Row, entry: Row, rules: Rules) -> Entry:
    """Take that record away first; what is wanted now is sent after it."""
    verb = Verb.DELETE if rules.when_gone == "delete" else Verb.WITHDRAW
    lists = _lists_there(entry["sent_lists"] or (), rules)
    was = Person(entry["email"], {}, lists, True)
    change = Change(row["contact_id"], verb, None, was, None, False, False, True)
    return Entry(
        row["contact_id"], change, entry["digest"], entry["email"], entry["attempts"],
        entry["crashes"], row["m_state"], (), False, rules.can_find,
        planned_at=entry["planned_at"], left_over=True,
    )  # fmt: skip


def _gone(row: Row, entry: Row, rules: Rules) -> Decision:
    contact_id, doubtful = row["contact_id"], _in_doubt(entry)
    if row["erase"] and row["in_doubt_there"] is not None:
        return _waits_for_doubt(contact_id, entry, row["in_doubt_there"])
    if row["erase"] and row["leaving"] is not None:
        return _waits(contact_id, entry, f"waits for contact {row['leaving']} to leave its address")
    if row["erase"]:
        return _erasure(row, entry, rules)
    passed = row["successor"] is not None and rules.traits.key != "ours"
    if passed and row["m_state"] in (None, "absent", "withdrawn"):
        return Drop(contact_id, forget=True)  # its record is somebody else's now
    if row["m_state"] in (None, "absent"):
        if not doubtful:
            return Drop(contact_id, forget=row["m_state"] is not None)
        verb = Verb.DELETE if rules.when_gone == "delete" else Verb.WITHDRAW
        return _removal(row, entry, rules, verb, look_first=True)
    if rules.when_gone == "keep" or (row["m_state"] == "withdrawn" and not doubtful):
        return Drop(contact_id)
    if entry["wish"] != "remove" and row["m_state"] != "withdrawn":
        return Release(contact_id, 0.2, "gone from the source: planned anew", replan=True)
    return _leaving(row, entry, rules)


def _waits_for_doubt(contact_id: str, entry: Row, other: str) -> Release:
    return _waits(contact_id, entry, f"a lost try may have left contact {other} at its address")


def _waits(contact_id: str, entry: Row, why: str) -> Release:
    """A provider that is away may keep it waiting for an hour: it is looked at ever more seldom."""
    waited = (datetime.now(UTC) - entry["planned_at"]).total_seconds()
    return Release(contact_id, min(LONGEST, max(0.2, waited / 4)), why)


def _erasure(row: Row, entry: Row, rules: Rules) -> Entry:
    """Also of whom nothing is known there: the adapter looks. Where nothing can be erased, deleted.

    By an address only where that is to be forgotten: another contact may have it, and stays.
    """
    verb = Verb.ERASE if rules.traits.can & Can.ERASE else Verb.DELETE
    made = _removal(row, entry, rules, verb, look_first=False)
    email = row["erase_email"] or ""
    was = made.change.was or (Person(email, {}, {}, True) if email else None)
    was = None if was is None else was._replace(email=email)
    sent = made.email or email
    return made._replace(change=made.change._replace(was=was), email=sent, erases=True)


def _leaving(row: Row, entry: Row, rules: Rules) -> Decision:
    if row["in_flight"] is not None or row["in_flight_window"]:
        return Release(row["contact_id"], 0.2, "its address is in flight for another contact")
    verb = Verb.DELETE if rules.when_gone == "delete" else Verb.WITHDRAW
    return _removal(row, entry, rules, verb, look_first=False)


def _removal(row: Row, entry: Row, rules: Rules, verb: Verb, look_first: bool) -> Entry:
    was = was_person(row, entry, rules)
    change = Change(
        row["contact_id"], verb, None, was, _json(row["m_remote"]), False, False,
        entry["doubtful"], _missed(row, entry),
    )  # fmt: skip
    email = _there(row) or entry["email"] or ""
    return Entry(
        row["contact_id"], change, None, email, entry["attempts"], entry["crashes"],
        row["m_state"], (), False, look_first, entry["receipt"], entry["digest"],
        entry["planned_at"], entry["email"], entry["sent_lists"] or (), bool(row["wanted"]),
        silenced=bool(entry.get("silenced")),
    )  # fmt: skip


def _put(row: Row, entry: Row, rules: Rules) -> Entry | Release | Refuse:
    want = person(row, rules)
    if isinstance(want, Release):
        return want
    remote = None if row["m_state"] == "absent" else _json(row["m_remote"])
    if rules.key_name is not None and not (remote or {}).get(rules.key_name):
        if not row["remote_key"]:
            return Refuse(row["contact_id"], f"has no {rules.key_name}", row["digest"])
        remote = {**(remote or {}), rules.key_name: row["remote_key"]}
    was = was_person(row, entry, rules)
    if row["holder_of_tried"] is not None and rules.traits.key == "address" and not _is_known(row):
        was = None  # what a lost try may have left is another contact's by now
    if was is not None and entry["doubtful"] and not want.subscribed:
        was = was._replace(subscribed=True)  # a silence that may not have arrived is said again
    if was is not None and row["m_digest"] == EXCHANGED and not want.subscribed:
        # The record is the same, the address another one, which may never have been silenced.
        was = was._replace(subscribed=rules.traits.key == "ours" or was.subscribed)
    known = row["m_state"] in HELD or row["m_state"] == "withdrawn"
    # Another address is another record, where the address is the key: it may be off there.
    other = rules.traits.key == "address" and was is not None and was.email != row["email"]
    off = was is not None and (other or not was.subscribed)
    # So may somebody be whom it does not hold (any more): a no stays with an address.
    resubscribe = want.subscribed and (off or (row["was_refused"] and not _is_known(row)))
    change = Change(
        row["contact_id"],
        Verb.PUT,
        want,
        was,
        remote,
        may_create=want.subscribed and not known,
        resubscribe=resubscribe,
        doubtful=entry["doubtful"],
        missed=_missed(row, entry),
        sure=_sure(row, entry) if was is not None and was.subscribed else (),
    )
    return Entry(
        row["contact_id"], change, row["digest"], row["email"], entry["attempts"],
        entry["crashes"], row["m_state"], list(want.lists), want.subscribed,
        False, entry["receipt"], entry["digest"], entry["planned_at"],
        entry["email"], entry["sent_lists"] or (), silenced=bool(entry.get("silenced")),
        refused=row["was_refused"],
    )  # fmt: skip


def _missed(row: Row, entry: Row) -> Sequence[str]:
    """Of scans before a lost try nothing follows."""
    return () if entry["doubtful"] else row["missed"]


def _sure(row: Row, entry: Row) -> Sequence[str]:
    """Lists that lost tries have left as they were: it is in them, or has been taken out by
    somebody over there."""
    if not entry["doubtful"] or row["m_state"] not in HELD:
        return ()
    left = entry["left_lists"] or ()
    return [one for one in row["m_lists"] if one not in left]


def person(row: Row, rules: Rules) -> Person | Release:
    """The desired contact as an adapter is given it; Release while a list has no remote id.

    A no waits for no list: whoever is not to be mailed need not be put into it.
    """
    ids = row["lists"]
    lists: dict[str, str] = dict(zip(ids, row["list_names"] or ids, strict=True))
    for one in ids if rules.has_lists else ():
        remote = rules.list_ids(one)
        if remote is None and not row["subscribed"]:
            del lists[one]
            continue
        if remote is None:
            return Release(row["contact_id"], 1.0, f"waits for list {one} to be made there")
        lists[one] = remote
    return Person(row["raw_email"], values(row, rules.fields), lists, row["subscribed"])


def values(row: Row, fields: Sequence[Field]) -> dict[str, Value]:
    """The mapped fields by the provider's names; JSON scalars decoded, nested data as text."""
    columns = zip(fields, COLUMNS, strict=False)
    return {f.name: _decoded(row[c]) if f.is_json else row[c] for f, c in columns}


def _decoded(raw: Any) -> Value:
    if raw is not None and raw[:1] not in "{[":
        decoded: Value = orjson.loads(raw)
        return decoded
    return raw  # type: ignore[no-any-return]


def _is_known(row: Row) -> bool:
    """Whether the mirror has a record of the contact, be it withdrawn."""
    return row["m_state"] is not None and row["m_state"] != "absent"


def was_person(row: Row, entry: Row, rules: Rules) -> Person | None:
    """The mirror's word, with the lists that a lost try may have left there.

    None where the provider is not known, and not suspected, to have the contact.
    """
    left = entry["sent_lists"] if entry["doubtful"] else None
    # A no that was sent, but never acknowledged, is remembered by no mirror row.
    mailed = not (entry["doubtful"] and entry.get("silenced"))
    if not _is_known(row):
        if not (left or (entry["doubtful"] and entry["email"])):
            return None
        return Person(entry["email"] or "", {}, _lists_there(left or (), rules), mailed)
    lists = _lists_there((*row["m_lists"], *(left or ())), rules)
    on = row["m_subscribed"] and mailed
    email = row["m_email"]
    may_be_gone = row["m_state"] == "withdrawn" or not row["m_subscribed"]
    if entry["doubtful"] and may_be_gone and rules.traits.key == "remote id":
        email = entry["email"] or email  # a lost try may have made another record, there
    return Person(email, _json(row["m_fields"]) or {}, lists, on)


def _lists_there(ids: Sequence[str], rules: Rules) -> dict[str, str]:
    """Source id → remote id; nobody can be in a list that is not there any more."""
    if rules.left_ids is None:
        return {one: one for one in ids}
    found = {one: rules.left_ids(one) for one in ids}
    return {one: remote for one, remote in found.items() if remote is not None}


def _json(text: str | None) -> Any:
    return None if text is None else orjson.loads(text)
