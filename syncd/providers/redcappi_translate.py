"""From a `Change` to RedCappi's requests: pure. Reference, sections 3, 5 and 6.

What an adapter asks to be remembered of a contact (`remote`):

    {"ids": {remote list id: contact id}, "lists": {source list id: remote list id},
     "stays": [remote list id]}

`lists` are the memberships that were acknowledged; `stays`, where there are any, those of them that
could not be ended. `ids` comes from reading, for no answer to an add tells an id: a scan adds to it
what it saw (`RedCappi.remembered`). What the mirror (`Change.was`) says wins: a membership that it
does not know of any more has ended, and an id left over from it says nothing.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from typing import Any

from syncd.model import Absent, Applied, Change, Outcome, Person, Rejected, Value, Verb, Waits
from syncd.providers.redcappi_sign import Body

FIELDS = (
    "address",
    "city",
    "company",
    "country",
    "dob",
    "email_address",
    "first_name",
    "last_name",
    "name",
    "phone",
    "state",
    "zip_code",
)
ISO = "%Y-%m-%d"
LONGEST_NAME, SHORTEST_NAME = 100, 5

_BREAKS = re.compile(r"[ \t]*(?:\r\n|[\n\r\v\f\x1c-\x1e\x85\u2028\u2029])[ \t]*")
_UNSEEN = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
_ADDRESS = re.compile(r"[^\s@]+@[^\s@.]+(?:\.[^\s@.]+)+")
_PLAIN = re.compile(r"[A-Za-z0-9 ._-]*")


@dataclass(frozen=True, slots=True)
class Rules:
    """What the options change in the translation."""

    joins_name: bool = True  # `name` is "first last" where nothing is mapped to it
    dob_format: str = ISO


@dataclass(slots=True)
class Plan:
    """What one change asks of RedCappi: one request a membership, by remote list id.

    edits, leaves: list → contact id.  joins: lists.  looks: lists whose record must be seen first.
    held: remote list → source list, as it is now; names: of any list met.
    returns: was taken out of its lists before, so that ids left over prove nothing.
    """

    change: Change
    body: bytes = b""
    edits: dict[str, str] = field(default_factory=dict)
    looks: dict[str, str] = field(default_factory=dict)
    joins: list[str] = field(default_factory=list)
    leaves: dict[str, str] = field(default_factory=dict)
    held: dict[str, str] = field(default_factory=dict)
    names: dict[str, str] = field(default_factory=dict)
    ids: dict[str, str] = field(default_factory=dict)
    missed: frozenset[str] = frozenset()  # whole scans did not see the contact there
    stuck: list[str] = field(default_factory=list)  # lists that could not be left
    returns: bool = False
    takes_out: bool = False  # of every list: nothing is to stay
    differs: bool = True  # fields or address, from what was last given
    lacking: list[str] = field(default_factory=list)

    def source(self, remote: str) -> str:
        """Our own id of a list."""
        return self.names.get(remote, remote)

    def remembered(self) -> dict[str, Any]:
        """What is known of the contact by now."""
        known = {"ids": self.ids, "lists": {ours: there for there, ours in self.held.items()}}
        stays = [one for one in self.stuck if one in self.held]
        return {**known, "stays": stays} if stays else known


def planned(change: Change, rules: Rules) -> Plan | Outcome:
    """What one change asks of RedCappi, or what becomes of it without a request."""
    want = change.want
    if want is not None and want.subscribed and want.lists and _is_new(change):
        return _added(change, want, rules)
    plan = _known(change)
    if change.verb is not Verb.PUT or want is None:
        return _taken_out(plan)
    if not want.subscribed or not want.lists:
        return _nowhere(plan, want)
    if fault := email_fault(want.email):
        return Rejected(f"email_address {fault}")
    was = change.was
    known = bool(plan.held or plan.ids)
    if not (known or was or change.may_create or change.resubscribe):
        return Absent("not there, and not to be created")
    if was is not None and not was.subscribed and not change.resubscribe:
        return Applied(lacking=("subscription: not there any more, no leave to add it again",))
    values = content(want, rules, plan.lacking)
    plan.body = Body.of(values)
    same = was is not None and content(was, rules, []) == values
    return _placed(plan, want, same)


def _is_new(change: Change) -> bool:
    """Whether nothing at all is known of the contact: as in a first backfill, of everybody."""
    known = change.was is not None or change.remote or change.doubtful or change.missed
    return change.may_create and not known and change.verb is Verb.PUT


def _added(change: Change, want: Person, rules: Rules) -> Plan | Outcome:
    """What `_placed` comes to for them: an add to each list."""
    if fault := email_fault(want.email):
        return Rejected(f"email_address {fault}")
    names = {there: ours for ours, there in want.lists.items()}
    plan = Plan(change, joins=list(names), names=names)
    plan.body = Body.of(content(want, rules, plan.lacking))
    return plan


def _known(change: Change) -> Plan:
    """What is known of the contact's memberships before anything is done."""
    remote, was = change.remote or {}, change.was
    plan = Plan(change, ids=dict(remote.get("ids") or {}))
    wanted = change.want.lists if change.want is not None else {}
    named = {**(was.lists if was is not None else {}), **wanted}
    plan.missed = frozenset(named[ours] for ours in change.missed if ours in named)
    held: Mapping[str, str] = {}
    if change.verb is Verb.PUT and was is not None and not was.subscribed and not change.doubtful:
        plan.returns = True
    else:
        held = _held(change, plan)
        if was is not None and not change.doubtful:
            there = held.values()
            plan.ids = {one: number for one, number in plan.ids.items() if one in there}
    plan.held = {there: ours for ours, there in held.items()}
    plan.names = {**plan.held, **{there: ours for ours, there in wanted.items()}}
    return plan


def _held(change: Change, plan: Plan) -> Mapping[str, str]:
    """Memberships: those that were acknowledged and are not over, and those that a scan saw."""
    remote: Mapping[str, Any] = change.remote or {}
    told: Mapping[str, str] | None = remote.get("lists")
    if change.was is None:
        return told or {}
    held = {
        ours: there
        for ours, there in change.was.lists.items()
        if there in plan.ids or (not change.doubtful if told is None else told.get(ours) == there)
    }
    if told is not None:
        held |= {ours: there for ours, there in told.items() if there in remote.get("stays", ())}
    if change.doubtful:  # looked for in vain: a lost add was not applied, or a lost delete was
        held = {ours: there for ours, there in held.items() if there not in plan.missed}
    return held


def _nowhere(plan: Plan, want: Person) -> Plan | Outcome:
    """Without a list there is no contact; a no takes it out of every one."""
    if plan.held or plan.ids or plan.change.doubtful:
        return _taken_out(plan)
    if want.subscribed:
        return Absent("it is in no list")
    return Absent("not subscribed, so not created") if plan.change.was is None else Applied()


def _taken_out(plan: Plan) -> Plan | Outcome:
    """Out of every list that is known, or suspected, to hold the contact."""
    change = plan.change
    plan.takes_out = True
    if change.doubtful and change.was is not None:  # a lost add may have been applied
        suspected = {there: ours for ours, there in change.was.lists.items()}
        plan.held = {**suspected, **plan.held}
        plan.names = {**suspected, **plan.names}
    for there, ours in plan.held.items():
        if there not in plan.ids and there not in plan.missed:
            return Waits(ours)
    plan.leaves = dict(plan.ids)
    return plan


def _placed(plan: Plan, want: Person, same: bool) -> Plan | Outcome:
    """One request for each list: edit where it stays, add where it is new, delete where it ends."""
    change = plan.change
    wanted = {there: ours for ours, there in want.lists.items()}
    plan.held = {  # a list that was made anew has another id: the old one is no longer ours
        there: ours for there, ours in plan.held.items() if want.lists.get(ours, there) == there
    }
    stays = [one for one in wanted if one in plan.ids or one in plan.held]
    plan.joins = [one for one in wanted if one not in plan.ids and one not in plan.held]
    ends = [one for one in plan.held if one not in wanted]
    if change.doubtful:  # a lost add may have been applied: never a second one unseen
        was = change.was.lists if change.was is not None else {}
        lost = {there: ours for ours, there in was.items() if there not in plan.held}
        unseen = [one for one in (*plan.joins, *lost) if one not in plan.missed]
        if unseen:
            return Waits({**lost, **wanted}[unseen[0]])
    plan.differs = change.doubtful or not same
    edits = [] if not plan.differs and (plan.joins or ends) else stays
    if not edits and _moved(change, want):  # by id: adding the new address makes a second record
        edits = [one for one in ends if one in plan.ids][:1]
    for one in (*ends, *edits):
        gone = one in ends and one in plan.missed
        if one not in plan.ids and not gone:
            return Waits(plan.source(one))
    plan.edits = {one: plan.ids[one] for one in edits}
    plan.leaves = {one: plan.ids[one] for one in ends if one in plan.ids}
    for one in ends:
        if one in plan.missed:
            plan.held.pop(one, None)
    plan.looks = _looks(plan, stays, ends)
    known = (*stays, *ends)
    if plan.joins and known and not (plan.edits or plan.looks or plan.returns):
        return Waits(plan.source(known[0]))  # without an id nobody can look whether it is there
    if not plan.returns:
        plan.held |= {one: wanted[one] for one in stays}
    return plan


def _moved(change: Change, want: Person) -> bool:
    """Whether the record there may have another address."""
    return change.was is not None and (
        change.doubtful or change.was.email.lower() != want.email.lower()
    )


def _looks(plan: Plan, stays: Sequence[str], ends: Sequence[str]) -> dict[str, str]:
    """Records that must be seen before anything is written.

    Adding somebody turns mail on there. Who was known already may have said no meanwhile, which
    shows only by being gone; an edit would tell, else one read does.
    """
    if plan.returns:
        return {one: plan.ids[one] for one in stays if one in plan.ids}
    if plan.edits or not plan.joins:
        return {}
    known = next((one for one in (*stays, *ends) if one in plan.ids), None)
    return {} if known is None else {known: plan.ids[known]}


# ── Values: sections 3 (all twelve, strings) and 6 ──────────────────────────────────────────


def content(person: Person, rules: Rules, lacking: list[str]) -> dict[str, str]:
    """All twelve fields, `""` for none; what has no place is added to *lacking*."""
    fields = person.fields
    made = dict.fromkeys(FIELDS, "")
    made["email_address"] = person.email if person.email.isascii() else tidy(person.email)
    for name, value in fields.items():
        if name not in made or name == "email_address":
            lacking.append(f"field:{name} has no place there")
        elif type(value) is str and value.isascii() and value.isprintable() and name != "dob":
            made[name] = value
        elif value is not None and value != "":
            made[name] = _shaped(name, value, rules, lacking)
    if rules.joins_name and "name" not in fields:
        made["name"] = f"{made['first_name']} {made['last_name']}".strip()
    return made


def _shaped(name: str, value: Value, rules: Rules, lacking: list[str]) -> str:
    if name == "dob":
        try:
            day = date.fromisoformat(str(value))
            return day.strftime(rules.dob_format) if rules.dob_format != ISO else str(day)
        except ValueError:
            lacking.append("field:dob not a date, left out")
            return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    return tidy(str(value), ", " if name == "address" else " ")


def tidy(text: str, between_lines: str = " ") -> str:
    """Without control characters and halves of surrogate pairs, in NFC, on one line."""
    if text.isascii() and text.isprintable():
        return text
    if not text.isprintable():
        text = _UNSEEN.sub("", _BREAKS.sub(between_lines, text.strip("\r\n\v\f")))
    return unicodedata.normalize("NFC", text)


def email_fault(email: str) -> str:
    """Why this is no address, loosely (a refusal is the provider's); '' if it may be one."""
    if not email:
        return "is empty"
    if not email.isprintable() and _UNSEEN.search(email):
        return "holds control characters"
    return "" if _ADDRESS.fullmatch(email) else "is not an address"


def list_name(name: str) -> tuple[str, str]:
    """A list's name as it is sent, and why it cannot be ('' if it can)."""
    sent = tidy(name).strip()
    if not sent:
        return sent, "is empty"
    return sent, f"is longer than {LONGEST_NAME} characters" if len(sent) > LONGEST_NAME else ""


def is_plain(name: str) -> bool:
    """Whether any web server takes the name in a path."""
    return _PLAIN.fullmatch(name) is not None
