"""The core in small: what it remembers of each contact, and what it does about every outcome.

Without a database, so that a suite of many small tests stays quick; halving is the core's own.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import orjson

from syncd.errors import ProviderError
from syncd.model import (
    Absent,
    Applied,
    Can,
    Change,
    Outcome,
    Person,
    Postponed,
    Seen,
    Started,
    Vanished,
    Verb,
    Waits,
)
from syncd.push import Push, batches

ROUNDS = 80  # of one change; more, and it never ends
PAUSE = 0.02  # seconds: nobody waits as long as a provider asks for


@dataclass
class Known:
    """A mirror row."""

    person: Person
    remote: Mapping[str, Any] | None


@dataclass
class Core:
    """Sends changes through one adapter until each has a final outcome."""

    adapter: Any
    mirror: dict[str, Known] = field(default_factory=dict)

    def __post_init__(self) -> None:
        async def nobody(_claim: int) -> set[str]:
            return set()

        self._push = Push(self.adapter, cast("Any", None), 16, nobody)

    @property
    def can(self) -> Can:
        can: Can = self.adapter.traits.can
        return can

    # ── What is asked for ───────────────────────────────────────────────────────────────────

    async def put(self, people: Mapping[str, Person], **more: Any) -> dict[str, Outcome]:
        """Have these people be there as they are given."""
        return await self.carry([self.change(key, want, **more) for key, want in people.items()])

    async def drop(self, verb: Verb, *ids: str) -> dict[str, Outcome]:
        return await self.carry([self.leaving(verb, one) for one in ids])

    def change(self, contact_id: str, want: Person, **more: Any) -> Change:
        """As the plan makes it. `resubscribe`: unless said otherwise, where we turned mail off."""
        known = self.mirror.get(contact_id)
        was = None if known is None else known.person
        made = Change(
            contact_id, Verb.PUT, want, was, None if known is None else known.remote,
            may_create=want.subscribed and known is None,
            resubscribe=want.subscribed and was is not None and not was.subscribed,
        )  # fmt: skip
        return made._replace(**more)

    def leaving(self, verb: Verb, contact_id: str) -> Change:
        known = self.mirror[contact_id]
        return Change(contact_id, verb, None, known.person, known.remote, False, False)

    # ── Until it is done ────────────────────────────────────────────────────────────────────

    async def carry(self, changes: Sequence[Change]) -> dict[str, Outcome]:
        """The final outcome of each; an error that needs a person passes through."""
        done: dict[str, Outcome] = {}
        left = list(changes)
        for _ in range(ROUNDS):
            if not left:
                return {one.contact_id: done[one.contact_id] for one in changes}
            left = await self._round(left, done)
        raise AssertionError(f"it never ends: {[one.contact_id for one in left]}")

    async def _round(self, changes: Sequence[Change], done: dict[str, Outcome]) -> list[Change]:
        ready = [kept for one in changes if (kept := await self._looked_up(one, done)) is not None]
        left: list[Change] = []
        for chunk in batches(ready, self.adapter.traits.batch):
            told = await self._push._all(chunk)
            left += await self._judged(chunk, told, done)
        return left

    async def _looked_up(self, change: Change, done: dict[str, Outcome]) -> Change | None:
        """Doubt is ended by a look, where repeating might make a second record."""
        if not change.doubtful or self.can & (Can.REPEAT | Can.SORTS_DOUBT):
            return change
        if not self.can & Can.FIND:
            return await self._scanned(change)
        try:
            (found,) = await self.adapter.find([change])
        except ProviderError as error:
            if error.needs_a_person:
                raise
            return change
        if found.remote is None:
            if change.verb is Verb.PUT:
                return change
            done[change.contact_id] = Applied()
            self._remember(change, Applied())
            return None
        return change._replace(remote=found.remote, may_create=False)

    async def _judged(
        self, changes: Sequence[Change], told: Sequence[Any], done: dict[str, Outcome]
    ) -> list[Change]:
        left: list[Change] = []
        jobs: dict[bytes, list[tuple[Change, Started]]] = {}
        for change, outcome in zip(changes, told, strict=True):
            match outcome:
                case ProviderError():
                    left.append(await self._failed(change, outcome))
                case Started():
                    jobs.setdefault(orjson.dumps(outcome.receipt), []).append((change, outcome))
                case Postponed():
                    await asyncio.sleep(min(PAUSE, outcome.after))
                    left.append(change)
                case Waits() if outcome.scan_of not in change.missed:
                    left.append(await self._scanned(change))
                case _:
                    done[change.contact_id] = outcome
                    self._remember(change, outcome)
        for some in jobs.values():
            left += await self._resumed(some, done)
        return left

    async def _failed(self, change: Change, error: ProviderError) -> Change:
        if error.needs_a_person and not error.may_be_applied:
            raise error
        await asyncio.sleep(min(PAUSE, error.after))
        if not error.may_be_applied:
            return change
        was, want = change.was, change.want
        if want is not None:
            lists = {**(was.lists if was is not None else {}), **want.lists}
            was = Person(want.email, {}, lists, True) if was is None else was._replace(lists=lists)
            if not want.subscribed:
                was = was._replace(subscribed=True)
        return change._replace(was=was, doubtful=True)

    async def _resumed(
        self, some: Sequence[tuple[Change, Started]], done: dict[str, Outcome]
    ) -> list[Change]:
        changes, (first, *_) = [one for one, _ in some], [outcome for _, outcome in some]
        await asyncio.sleep(min(PAUSE, first.look_after))
        try:
            told = await self.adapter.resume(first.receipt, changes)
        except ProviderError as error:
            if error.needs_a_person:
                raise
            told = [first] * len(changes)  # the receipt is still good
        return await self._judged(changes, told, done)

    async def _scanned(self, change: Change) -> Change:
        """Look for it in every list that it is, is to be, or may be in."""
        people = [one for one in (change.was, change.want) if one is not None]
        emails = {one.email.lower() for one in people}
        lists: dict[str, str | None] = {k: v for one in people for k, v in one.lists.items()}
        if not self.adapter.traits.scans_lists:
            lists = {"": None}
        remote, missed = change.remote, []
        for ours, theirs in lists.items():
            met = await self._read(theirs)
            own = [s for s in met if s.contact_id == change.contact_id]
            same = own or [s for s in met if (s.email or "").lower() in emails]
            missed += [] if same else [ours]
            if same:
                remote = self.adapter.remembered(remote, theirs, same[0])
        may = change.may_create and remote == change.remote
        return change._replace(remote=remote, missed=missed, may_create=may)

    async def _read(self, remote_list: str | None) -> list[Seen]:
        """A whole scan, begun again where it was cut off."""
        for _ in range(ROUNDS):
            try:
                pages = self.adapter.scan(remote_list, None)
                return [one async for page in pages for one in page.records]
            except ProviderError as error:
                if error.needs_a_person:
                    raise
        raise AssertionError("a scan never ends")

    def _remember(self, change: Change, outcome: Outcome) -> None:
        if isinstance(outcome, (Absent, Vanished)):
            self.mirror.pop(change.contact_id, None)
        elif isinstance(outcome, Applied):
            remote = change.remote if outcome.remote is None else outcome.remote
            if change.want is not None:
                self.mirror[change.contact_id] = Known(change.want, remote)
            elif change.verb is Verb.WITHDRAW and change.was is not None:
                gone = change.was._replace(fields={}, lists={}, subscribed=False)
                self.mirror[change.contact_id] = Known(gone, remote)
            else:
                self.mirror.pop(change.contact_id, None)


def of(outcomes: Mapping[str, Outcome], ids: Iterable[str]) -> list[type[Outcome]]:
    """The kinds of these outcomes."""
    return [type(outcomes[one]) for one in ids]
