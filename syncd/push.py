"""Push: what was claimed goes to the adapter once, and every entry gets its outcome.

Knows no HTTP and no provider: an adapter is an object whose traits say what it can. Only the
journal retries.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, TypeVar

from syncd.claim import Claim
from syncd.decide import Entry
from syncd.errors import Ambiguous, Fenced, Indivisible, ProviderError, Unintelligible
from syncd.found import to_scan
from syncd.fresh import Fresh
from syncd.journal import Journal
from syncd.lookup import LookUp
from syncd.model import (
    APPLIED,
    Absent,
    Applied,
    Can,
    Change,
    Outcome,
    Rejected,
    Traits,
    Verb,
    Waits,
)
from syncd.outcomes import halve, postponed, settled, unsent
from syncd.pushed import Answered, HandedBack, Pushed
from syncd.settlement import Settled

T = TypeVar("T")


class Adapter(Protocol):
    """What push needs of a provider; `find` and `resume` only where the traits say so."""

    @property
    def traits(self) -> Traits: ...

    async def push(self, changes: Sequence[Change]) -> Sequence[Outcome]: ...


@dataclass(slots=True)
class Push:
    """Sends claims of one destination."""

    adapter: Any
    journal: Journal
    concurrency: int
    refresh_opt_outs: Callable[[int], Awaitable[set[str]]]  # for the claim of this number
    outages: int = 0
    stop: asyncio.Event = field(default_factory=asyncio.Event)  # then nothing more is begun
    _gate: asyncio.Semaphore = field(init=False)
    _turn: asyncio.Lock = field(default_factory=asyncio.Lock)  # of the claim that is being sent

    def __post_init__(self) -> None:
        self._gate = asyncio.Semaphore(self.concurrency)

    @property
    def can(self) -> Can:
        traits: Traits = self.adapter.traits
        return traits.can

    async def attempt(self, claim: Claim) -> Pushed:
        """Push once and say what becomes of every entry; nothing is settled here."""
        results = [settled(one.entry, Absent(one.why)) for one in claim.settled]
        pushed = Pushed(results)
        if claim.receipt is not None:
            answers = await self._off_anyhow(claim.entries, await self._resume(claim))
            self._judge(claim.entries, answers, pushed)
            return pushed
        try:
            look = LookUp(self.adapter, self.journal, self.refresh_opt_outs)
            entries = await look.ask(claim, pushed)
        except ProviderError as error:
            judged = {one.entry.contact_id for one in pushed.results}
            rest = [one for one in claim.entries if one.contact_id not in judged]
            self._judge(rest, [error] * len(rest), pushed)
            return pushed
        answers = await self._all([one.change for one in entries])
        self._judge(entries, await self._off_anyhow(entries, answers), pushed)
        if self._batch > 1:
            pushed.results = list(halve(pushed.results))
        return pushed

    async def attempt_fresh(self, fresh: Fresh) -> Pushed:
        """Push a window's contacts; results only for those where there is more to say than that
        they were applied."""
        pushed = Pushed([])
        answered = await self._answers(list(batches(fresh.changes, self._batch)))
        numbers: list[int] = []
        unusual: list[Answered] = []
        first = 0
        for answers in answered:
            if answers.count(APPLIED) == len(answers):
                pushed.plain, pushed.since = pushed.plain + len(answers), len(unusual)
            else:
                for number, answer in enumerate(answers, first):
                    if answer == APPLIED:
                        pushed.plain, pushed.since = pushed.plain + 1, len(unusual)
                    else:
                        numbers.append(number)
                        unusual.append(answer)
            first += len(answers)
        self._judge([fresh.entry(number) for number in numbers], unusual, pushed)
        pushed.succeeded = pushed.succeeded or pushed.plain > 0
        return pushed

    def _judge(self, entries: Sequence[Entry], answers: Sequence[Answered], pushed: Pushed) -> None:
        for entry, answer in zip(entries, answers, strict=True):
            if type(answer) is Applied:  # nearly all of them
                pushed.succeeded = True
                pushed.results.append(settled(entry, answer))
                continue
            if isinstance(answer, HandedBack):
                pushed.results.append(unsent(entry, "handed back"))
                continue
            if isinstance(answer, ProviderError):
                pushed.results.append(self._postponed(entry, answer))
                if answer not in pushed.errors:
                    pushed.errors.append(answer)
                continue
            pushed.succeeded = True
            if isinstance(answer, Waits):
                pushed.waits[entry.contact_id] = {answer.scan_of, *self._in_doubt(entry, answer)}
            pushed.results.append(settled(entry, answer))

    def _postponed(self, entry: Entry, error: ProviderError) -> Settled:
        late = postponed(entry, error, self.outages)
        if error.may_be_applied and not self.can & Can.REPEAT:  # it must be visible by then
            late = late._replace(after=max(late.after, self.adapter.traits.visible_after))
        return late

    def _in_doubt(self, entry: Entry, answer: Waits) -> Sequence[str]:
        """Doubt ends for all lists at once: so all are scanned."""
        doubtful = answer.doubtful or entry.change.doubtful
        return to_scan(entry, self.adapter.traits) if doubtful else ()

    # ── Send ────────────────────────────────────────────────────────────────────────────────

    @property
    def _batch(self) -> int:
        most: int = self.adapter.traits.batch
        return most

    async def _all(self, changes: Sequence[Change]) -> Sequence[Answered]:
        """Send them in batches; one answer each, in the same order."""
        answered = await self._answers(list(batches(changes, self._batch)))
        return [answer for answers in answered for answer in answers]

    async def _answers(self, jobs: Sequence[Sequence[Change]]) -> Sequence[Sequence[Answered]]:
        """Send these batches, each once, and as many at a time as may be; claims in the order in
        which they came, so that the first is settled while the next is sent."""
        answered: list[Sequence[Answered]] = [()] * len(jobs)
        numbers, begun = iter(range(len(jobs))), asyncio.Event()

        async def serve() -> None:
            for number in numbers:
                async with self._gate:
                    answered[number] = await self._send(jobs[number])
            begun.set()

        async with asyncio.TaskGroup() as group, self._turn:
            for _ in range(min(self.concurrency, len(jobs))):
                group.create_task(serve())
            if jobs:
                await begun.wait()
        return answered

    async def _send(self, changes: Sequence[Change]) -> Sequence[Answered]:
        if self.stop.is_set():
            return [HandedBack()] * len(changes)
        return await self._halving(changes)

    async def _off_anyhow(
        self, entries: Sequence[Entry], answers: Sequence[Answered]
    ) -> Sequence[Answered]:
        """A no does not wait until a field is mended: where a silence was refused together with
        the rest of the contact, the contact is withdrawn. What was refused stays listed."""
        refused = [
            (number, answer)
            for number, (entry, answer) in enumerate(zip(entries, answers, strict=True))
            if isinstance(answer, Rejected) and _silences(entry.change)
        ]
        if not refused:
            return answers
        found = list(answers)
        said = await self._all([_withdrawal(entries[number].change) for number, _ in refused])
        for (number, rejected), answer in zip(refused, said, strict=True):
            if isinstance(answer, Applied | Absent):
                found[number] = replace(rejected, withdrawn=True)
            elif isinstance(answer, ProviderError | HandedBack):
                found[number] = answer  # all of it once more
        return found

    async def _halving(
        self, changes: Sequence[Change], refusal: Indivisible | None = None
    ) -> Sequence[Answered]:
        """Push; where a batch is refused and no culprit named, halve it until one stands alone.

        refusal: what was said of a batch whose other half was then accepted; the culprit must be
        among these, so they are not sent together again.
        """
        if refusal is not None and len(changes) == 1:
            return [await self._alone(changes, refusal)]
        try:
            if refusal is None:
                return _checked(changes, await self.adapter.push(changes))
        except Indivisible as error:
            refusal = error
            if len(changes) == 1:
                return [await self._alone(changes, error)]
        except ProviderError as error:
            return [error] * len(changes)
        except Fenced as error:  # an earlier request of this push may have left
            return [Ambiguous(str(error))] * len(changes)
        middle = len(changes) // 2
        first = await self._halving(changes[:middle])
        accepted = all(isinstance(one, (Applied, Absent)) for one in first)
        rest = await self._halving(changes[middle:], refusal if accepted else None)
        return [*first, *rest]

    async def _alone(self, changes: Sequence[Change], refusal: Indivisible) -> Answered:
        """A refusal without a name may be a passing one: once more before it counts."""
        try:
            return _checked(changes, await self.adapter.push(changes))[0]
        except Indivisible:
            return Rejected(refusal.reason, refusal.status)
        except ProviderError as error:
            return error

    async def _resume(self, claim: Claim) -> Sequence[Answered]:
        changes = [one.change for one in claim.entries]
        try:
            async with self._gate:
                return _checked(changes, await self.adapter.resume(claim.receipt, changes))
        except ProviderError as error:
            return [error] * len(changes)


def _silences(change: Change) -> bool:
    """Whether it is to turn mail off at a record that may be mailed."""
    want, was = change.want, change.was
    return want is not None and not want.subscribed and was is not None and was.subscribed


def _withdrawal(change: Change) -> Change:
    return change._replace(verb=Verb.WITHDRAW, want=None, may_create=False, resubscribe=False)


def _checked(changes: Sequence[Change], outcomes: Sequence[Outcome]) -> Sequence[Outcome]:
    if len(outcomes) != len(changes):
        raise Unintelligible(f"{len(outcomes)} outcomes for {len(changes)} changes")
    return outcomes


def batches(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]
