"""What an audit makes of one contact: pure functions, no database, no provider.

A difference here (desired against mirror) is the plan's own judgement; one there is mirror against
what was read, in the form in which the provider keeps it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import orjson

from syncd.classify import HELD, classify
from syncd.db import Row
from syncd.desired import Field
from syncd.model import Comparer, Differences, Person, Traits
from syncd.preview import differences, kind_of, shown

Kind = Literal["here", "there", "both", "missing", "opted_out", "rejected", "unsettled"]
KINDS: Sequence[Kind] = ("opted_out", "missing", "there", "both", "here", "rejected", "unsettled")


@dataclass(frozen=True, slots=True)
class Record:
    """A record as it was read. list_key: in a page of that list; '' of the account, or alone.

    opted_out: not a record, but an opt-out that was news.
    """

    list_key: str
    email: str | None
    subscribed: bool | None
    lists: Sequence[str]
    fields: Mapping[str, Any] | None
    opted_out: bool
    read_at: float  # when it was asked for: seconds since 1970, by the database's clock


@dataclass(frozen=True, slots=True)
class Scope:
    """What can be compared at this destination.

    lists: remote id → ours, of the lists that are there.  tells_lists: whether records say who is
    in them.  by_list: a contact is there by being in a list.  settles: seconds until what was
    written can be read.
    """

    traits: Traits
    when_gone: str
    fields: Sequence[Field]
    lists: Mapping[str, str]
    tells_lists: bool
    by_list: bool
    compare: Comparer | None
    settles: float
    began: float
    reads: bool = True  # whether anything could be read at all


@dataclass(slots=True)
class Verdict:
    """One contact that is not equal three ways, or has more than one record there.

    there: what → (as the mirror has it, as it was read); here: what → (mirror, desired).
    on: it is mailed there, and should not be.  says_no: the record says so, no event did.
    """

    contact_id: str
    email: str | None
    kind: Kind | None
    here: Differences = field(default_factory=dict)
    there: dict[str, tuple[Any, Any]] = field(default_factory=dict)
    pushed_at: Any = None
    held: bool = False
    fields: dict[str, Any] = field(default_factory=dict)  # as read, of those that differ
    left: Sequence[str] = ()
    joined: Sequence[str] = ()
    lists: Sequence[str] | None = None  # as read, ours
    on: bool = False
    says_no: bool = False
    evidence: Mapping[str, Any] = field(default_factory=dict)
    doubles: int = 0
    reason: str | None = None


def judge(row: Row, scope: Scope) -> Verdict | None:
    """None: equal, here and there, or rightly nowhere."""
    made = Verdict(row["contact_id"], row["m_email"] or row["raw_email"], None)
    made.pushed_at, made.held = row["m_pushed_at"], row["m_state"] in HELD
    records = _records(row)
    pending = _pending(row, scope)
    if scope.reads:
        _look(made, row, records, scope)
    told = made.kind == "opted_out" and not made.says_no
    if (made.kind is not None or made.there) and not told and _moves(row, records, scope):
        made.kind = "unsettled"
    elif made.kind is None and made.there:
        made.kind = "both" if pending else "there"
    elif made.kind is None:
        made.kind = pending
    if pending is not None and made.kind in ("here", "both"):
        made.here = _told_here(row, scope)
    if made.kind == "rejected":
        made.reason = row["fault"] or row["j_error"]
    return made if made.kind is not None or made.doubles else None


def _records(row: Row) -> list[Record]:
    if row["records"] is None:
        return []
    return [Record(**one) for one in orjson.loads(row["records"])]


# ── Here ────────────────────────────────────────────────────────────────────────────────────


def _pending(row: Row, scope: Scope) -> Kind | None:
    """Whether the plan would do something about it."""
    planned = classify(row, scope.when_gone, full=True, force=False)
    if not row["wanted"]:
        return "here" if planned is not None and planned.wish == "remove" else None
    kind = kind_of(row, planned, scope.traits)
    if kind == "rejected" or row["j_state"] == "rejected":
        return "rejected"
    return None if kind in (None, "absent") else "here"


def _told_here(row: Row, scope: Scope) -> Differences:
    """Old and new, as `plan` shows them."""
    old: dict[str, Any] = {}
    if row["m_state"] in HELD:
        old = {"e-mail": row["m_email"], **orjson.loads(row["m_fields"])}
        old |= {"lists": list(row["m_lists"]), "subscribed": row["m_subscribed"]}
    if not row["wanted"]:
        return {"contact": ("there", "gone from the source or its lists")}
    return differences(old, shown(row, scope.fields))


# ── There ───────────────────────────────────────────────────────────────────────────────────


def _look(made: Verdict, row: Row, records: Sequence[Record], scope: Scope) -> None:
    """What was read against what the mirror says."""
    real = best(records)
    there = sorted({scope.lists[n] for one in real for n in one.lists if n in scope.lists})
    made.lists = there
    made.doubles = _doubles(records, scope)
    if any(one.opted_out for one in records):
        made.kind = "opted_out"
        return
    if not (made.held and row["m_subscribed"]):
        _look_off(made, row, real, scope)
        return
    lacking: Sequence[str] = row["m_lacking"]
    conveyed = not any(one.startswith("subscription") for one in lacking)
    if conveyed and any(one.subscribed is False for one in real):
        made.kind, made.says_no = "opted_out", True
        made.there["subscribed"] = (True, False)
        return
    expected = [one for one in row["m_lists"] if one in scope.lists.values()]
    if not real:
        if conveyed and (expected or not scope.by_list):
            made.kind = "missing"
        return
    if conveyed and scope.tells_lists:
        _look_at_lists(made, there, expected, lacking)
    _look_at_data(made, row, real[0], scope)


def _look_off(made: Verdict, row: Row, real: Sequence[Record], scope: Scope) -> None:
    """Who is not to be mailed there: is anybody?"""
    if scope.by_list:
        made.on = bool(made.lists) and not any(one.subscribed is False for one in real)
    else:
        made.on = any(one.subscribed is True for one in real)
    if made.on and row["m_state"] is not None:
        made.there["subscribed"] = (False, True)
    else:
        made.on = False


def _look_at_lists(
    made: Verdict, there: Sequence[str], expected: Sequence[str], lacking: Sequence[str]
) -> None:
    named = [one.removeprefix("list:") for one in lacking if one.startswith("list:")]

    def is_told(one: str) -> bool:
        return any(said == one or said.startswith(f"{one} ") for said in named)

    made.left = sorted(one for one in set(expected) - set(there) if not is_told(one))
    made.joined = sorted(one for one in set(there) - set(expected) if not is_told(one))
    if made.left or made.joined:
        made.there["lists"] = (sorted(expected), list(there))
    made.lists = sorted({*there, *(one for one in expected if is_told(one))})


def _look_at_data(made: Verdict, row: Row, record: Record, scope: Scope) -> None:
    """Address and fields; what the provider could not be given is not looked at."""
    if record.email is not None and record.email.strip().lower() != row["m_email"]:
        made.there["e-mail"] = (row["m_email"], record.email)
    if scope.compare is None or record.fields is None:
        return
    lacking: Sequence[str] = row["m_lacking"]
    given = orjson.loads(row["m_fields"])
    person = Person(row["m_email"], given, {}, True)
    for name, pair in scope.compare(person, record.fields).items():
        if not any(one.startswith(f"field:{name} ") for one in lacking):
            made.there[name] = pair
            if name in given:
                made.fields[name] = pair[1] or None


def best(records: Sequence[Record]) -> Sequence[Record]:
    """Those that were read last and whole, where a contact was read alone after its pages."""
    real = [one for one in records if not one.opted_out]
    return [one for one in real if not one.list_key] or real


def _doubles(records: Sequence[Record], scope: Scope) -> int:
    """Records beyond the one; where lists are read, of one list."""
    real = [one for one in records if not one.opted_out]
    if not scope.by_list:
        return max(0, len(real) - 1)
    lists = [one.list_key for one in real if one.list_key]
    return len(lists) - len(set(lists))


def _moves(row: Row, records: Sequence[Record], scope: Scope) -> bool:
    """Whether it was written while, or so shortly before, it was read that nothing can be said."""
    if row["j_state"] == "sent" or row["j_doubtful"] or row["in_window"]:
        return True
    pushed = row["m_pushed_at"]
    if pushed is None:
        return False
    read = min((one.read_at for one in best(records)), default=scope.began)
    return bool(pushed.timestamp() > read - scope.settles)
