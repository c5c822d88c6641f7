"""Bulk jobs: many contacts a request, where a job can say all there is to say. Reference, 3 to 5.

A job adds to lists and sets what is not empty; it clears nothing, moves no address, changes no
status. What is left to do later, or one by one, waits under a receipt as a job does.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from syncd.errors import Ambiguous, Indivisible, ProviderError, Transient
from syncd.model import Applied, Change, OptedOut, Outcome, Rejected, Started, Verb
from syncd.providers.constantcontact_calls import Calls
from syncd.providers.constantcontact_translate import (
    Rules,
    address_of,
    csv,
    elements,
    email_fault,
    has_columns,
    table,
)
from syncd.redact import SHOWN, redacted

ADD, REMOVE = "SV_ADD", "REMOVE_CONTACTS_FROM_LISTS"
LARGEST = 3_500_000  # bytes of a job, encoded; the provider's limit is 4 MB
LONGEST_POLL = 60.0

Outcomes = dict[int, Outcome]


@dataclass(frozen=True, slots=True)
class Plan:
    """One job: who, and which lists for all of them."""

    kind: str
    lists: frozenset[str]
    members: Sequence[int]  # positions among the changes


def later(after: float = 0.0, *, single: bool = False, doubtful: bool = False) -> Started:
    """To be taken up again together, by whoever comes first."""
    kind = "single" if single else "later"
    return Started({kind: secrets.token_hex(8)}, after, runs=False, doubtful=doubtful)


def suits(change: Change, rules: Rules) -> bool:
    """Whether a job can carry the whole change."""
    was, want = change.was, change.want
    if change.verb is Verb.WITHDRAW:
        return bool(was and was.subscribed and was.lists and was.email and not change.doubtful)
    if change.verb is not Verb.PUT or want is None or not want.subscribed or change.resubscribe:
        return False
    email = address_of(want.email)
    if not want.lists or email_fault(email) or "," in email or '"' in email:
        return False
    values = elements(want, rules)
    if not has_columns(values):
        return False
    if was is None:
        return change.may_create and not change.doubtful
    if not was.subscribed or address_of(was.email) != email:
        return False
    if change.doubtful or not was.fields:  # what is there is not known: it may have to be cleared
        return all(values.values())
    before = elements(was, rules)
    return all(values[name] or not before.get(name) for name in values)


def plans(kind: str, lists: Mapping[int, frozenset[str]]) -> tuple[Sequence[Plan], bool]:
    """The fewest jobs: one for each set of lists, or one for each list; and whether it is the
    latter, so that a contact may be in several of them."""
    by_set: dict[frozenset[str], list[int]] = {}
    by_list: dict[str, list[int]] = {}
    for number, wanted in lists.items():
        by_set.setdefault(wanted, []).append(number)
        for one in wanted:
            by_list.setdefault(one, []).append(number)
    if len(by_list) < len(by_set):
        return [Plan(kind, frozenset({one}), who) for one, who in sorted(by_list.items())], True
    ordered = sorted(by_set.items(), key=lambda one: sorted(one[0]))
    return [Plan(kind, wanted, who) for wanted, who in ordered], False


class Jobs:
    """The bulk jobs of one account, as this process knows them."""

    def __init__(self, calls: Calls, rules: Rules, poll: float) -> None:
        self._calls, self._rules, self._poll = calls, rules, poll
        self._running: dict[str, frozenset[str]] = {}  # job → its lists

    async def start(self, changes: Sequence[Change]) -> Sequence[Outcome]:
        """Begin what can be begun now; never two jobs at a time with the same list."""
        adds = {n: joined(one) for n, one in enumerate(changes) if one.verb is Verb.PUT}
        if adds:
            done = await self._begin(changes, ADD, adds)
        else:
            done = {}
        leaves = {n: left(one) for n, one in enumerate(changes) if n not in adds}
        if leaves:
            try:
                done |= await self._begin(changes, REMOVE, leaves)
            except ProviderError as err:
                if not any(map(is_job, done.values())) or err.may_be_applied:
                    raise
                done |= dict.fromkeys(leaves, later(max(err.after, self._poll)))
        return [done[n] for n in range(len(changes))]

    async def _begin(
        self, changes: Sequence[Change], kind: str, lists: Mapping[int, frozenset[str]]
    ) -> Outcomes:
        before = await self._calls.recent()
        busy = self._taken(before)
        if busy is None:
            return dict.fromkeys(lists, later(self._poll))
        found, overlap = plans(kind, lists)
        if overlap:
            if busy & {one for plan in found for one in plan.lists}:
                return dict.fromkeys(lists, later(self._poll))
            return await self._begin_all(changes, found, before)
        done: Outcomes = {}
        for plan in found:
            if busy & plan.lists:
                done |= dict.fromkeys(plan.members, later(self._poll))
                continue
            done |= await self._begin_one(changes, plan, before, any(map(is_job, done.values())))
            busy |= plan.lists
        return done

    def _taken(self, recent: Mapping[str, bool]) -> set[str] | None:
        """Lists that have a job by now. None: another process has one, of whose lists nobody
        tells."""
        running = {one for one, still in recent.items() if still}
        self._running = {n: taken for n, taken in self._running.items() if n in running}
        if running - self._running.keys():
            return None
        return {one for taken in self._running.values() for one in taken}

    async def is_free(self, lists: frozenset[str]) -> bool:
        """Whether a job may be begun at these lists."""
        busy = self._taken(await self._calls.recent())
        return busy is not None and not busy & lists

    def keep(self, number: str, lists: frozenset[str]) -> None:
        """This job runs."""
        self._running[number] = lists

    def forget(self, number: str) -> None:
        self._running.pop(number, None)

    async def _begin_all(
        self, changes: Sequence[Change], found: Sequence[Plan], before: dict[str, bool]
    ) -> Outcomes:
        """One job a list; who is in several settles when the last of them is over."""
        members = sorted({n for plan in found for n in plan.members})
        if any(self._is_large(changes, plan) for plan in found):
            return halves(members)
        numbers: list[str] = []
        try:
            for plan in found:
                numbers += [await self._started(changes, plan, before)]
        except Indivisible:
            return halves(members, self._poll, doubtful=bool(numbers))
        except ProviderError as err:
            if not numbers or err.may_be_applied:
                raise
            again = later(max(err.after, self._poll), doubtful=True)  # to add again does no harm
            return dict.fromkeys(members, again)
        return dict.fromkeys(members, self._receipt(numbers, found[0].kind))

    async def _begin_one(
        self, changes: Sequence[Change], plan: Plan, before: dict[str, bool], others: bool
    ) -> Outcomes:
        """*others*: jobs of this push run already, so no fault may say that nothing was done."""
        if self._is_large(changes, plan):
            return halves(plan.members)
        try:
            number = await self._started(changes, plan, before)
        except Indivisible:
            return halves(plan.members)
        except ProviderError as err:
            if not others or err.may_be_applied:
                raise
            return dict.fromkeys(plan.members, later(max(err.after, self._poll)))
        return dict.fromkeys(plan.members, self._receipt([number], plan.kind))

    def _receipt(self, numbers: Sequence[str], kind: str) -> Started:
        return Started({"jobs": list(numbers), "do": kind, "looks": 0}, self._poll)

    def _data(self, changes: Sequence[Change], plan: Plan) -> str:
        chosen = [changes[n] for n in plan.members]
        if plan.kind == REMOVE:
            return csv(["EMAIL ADDRESS"], [[email_of(one)] for one in chosen])
        values = [elements(one.want, self._rules) for one in chosen if one.want is not None]
        return table([email_of(one) for one in chosen], values)

    def _is_large(self, changes: Sequence[Change], plan: Plan) -> bool:
        """Whether it must be parted; percent-encoding makes three of most bytes that it touches."""
        if len(plan.members) < 2:
            return False
        data = self._data(changes, plan)
        plain = sum(map(str.isalnum, data)) if data.isascii() else 0
        return plain + 3 * (len(data.encode()) - plain) > LARGEST

    async def _started(self, changes: Sequence[Change], plan: Plan, before: dict[str, bool]) -> str:
        uris = [await self._calls.list_uri(one) for one in sorted(plan.lists)]
        try:
            number = await self._calls.start(plan.kind, self._data(changes, plan), uris)
        except Ambiguous as err:  # jobs are listed: was it begun?
            try:
                recent = await self._calls.recent()
            except ProviderError:
                raise err from None
            if recent.keys() - before.keys():
                raise
            raise Transient(f"{err.reason}; the job was not begun", status=err.status) from None
        before[number] = True
        self.keep(number, plan.lists)
        return number

    # ── Looking after them ──────────────────────────────────────────────────────────────────

    async def resume(
        self, receipt: Mapping[str, Any], changes: Sequence[Change]
    ) -> Sequence[Outcome]:
        """Look at the jobs of a receipt; when all are over, what became of each contact."""
        everyone = range(len(changes))
        numbers: list[str] = list(receipt["jobs"])
        left: list[str] = list(receipt.get("left", numbers))
        errors: dict[str, str] = {}
        failed = False
        for number in [*left, *(one for one in numbers if one not in left)]:
            job = await self._calls.job(number)
            if job is None:  # kept for two weeks; what it did is done again
                return outcomes(everyone, halves(everyone, self._poll, doubtful=True))
            if not job.is_done:
                looks = int(receipt["looks"]) + 1
                still = {**receipt, "left": left, "looks": looks}
                wait = min(LONGEST_POLL, self._poll * 2 ** min(looks, 10))
                return [Started(still, wait)] * len(changes)
            left = [one for one in left if one != number]
            self.forget(number)
            failed |= job.status == "ERROR"
            errors |= job.errors
        if failed:
            return outcomes(everyone, halves(everyone, self._poll, doubtful=True))
        return await self._over(str(receipt["do"]), changes, errors)

    async def _over(
        self, kind: str, changes: Sequence[Change], errors: Mapping[str, str]
    ) -> Sequence[Outcome]:
        done: Outcomes = {}
        refused = sorted({email_of(one) for one in changes} & errors.keys())
        there = await self._calls.search(refused) if refused else {}
        for n, change in enumerate(changes):
            email = email_of(change)
            if email not in errors:
                done[n] = self._applied(change)
            elif (record := there.get(email)) is not None and record.is_opted_out:
                done[n] = OptedOut(evidence={"job": words(errors[email]), "Status": record.status})
            elif kind == ADD:
                done[n] = Rejected(words(errors[email]))
            else:
                done[n] = Applied() if record is None else later(single=True, doubtful=True)
        if kind == ADD:
            await self._then_leave(changes, done)
        return outcomes(range(len(changes)), done)

    def _applied(self, change: Change) -> Outcome:
        lacking: list[str] = []
        if change.want is not None:
            elements(change.want, self._rules, lacking)
        return Applied(lacking=tuple(lacking))

    async def _then_leave(self, changes: Sequence[Change], done: Outcomes) -> None:
        """Who changes lists leaves the old ones after the new ones have been joined."""
        leaves = {n: left(one) for n, one in enumerate(changes) if isinstance(done[n], Applied)}
        leaves = {n: lists for n, lists in leaves.items() if lists}
        if not leaves:
            return
        try:
            begun = await self._begin(changes, REMOVE, leaves)
        except ProviderError as err:
            if err.needs_a_person:
                raise
            begun = dict.fromkeys(leaves, later(max(err.after, self._poll)))
        for n, one in begun.items():  # it has joined the others by now
            done[n] = replace(one, doubtful=True) if isinstance(one, Started) else one


def joined(change: Change) -> frozenset[str]:
    """The lists that a job must name: those to be joined, else one of those it stays in, for a job
    without a list there is not. Whoever left a list over there is not put into it needlessly."""
    want, was = change.want, change.was
    assert want is not None
    wanted = frozenset(want.lists.values())
    if was is None:
        return wanted
    return wanted - frozenset(change.sure_lists.values()) or frozenset(sorted(wanted)[:1])


def left(change: Change) -> frozenset[str]:
    was, want = change.was, change.want
    if was is None or (change.verb is Verb.PUT and want is None):
        return frozenset()
    stays = frozenset() if want is None else frozenset(want.lists.values())
    return frozenset(was.lists.values()) - stays


def email_of(change: Change) -> str:
    person = change.want or change.was
    return "" if person is None else address_of(person.email)


def words(said: str) -> str:
    """The provider's, fit to be shown."""
    return redacted(said)[:SHOWN]


def is_job(outcome: Outcome) -> bool:
    return isinstance(outcome, Started) and "jobs" in outcome.receipt


def halves(members: Sequence[int], after: float = 0.0, *, doubtful: bool = False) -> Outcomes:
    """A refused job names no culprit: its halves are tried, at last one contact at a time."""
    middle = (len(members) + 1) // 2
    first, second = (later(after, doubtful=doubtful) for _ in range(2))
    return {n: first if place < middle else second for place, n in enumerate(members)}


def outcomes(everyone: Iterable[int], done: Mapping[int, Outcome]) -> Sequence[Outcome]:
    return [done[n] for n in everyone]
