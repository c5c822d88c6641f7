"""What is due is claimed, sent and settled, until told to stop or until nothing is left.

The next claim and the last settlement overlap with what is in flight. What becomes of an entry is
decided by `syncd.outcomes`, what becomes of the destination by `syncd.condition`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace

import structlog

from syncd import sql
from syncd.bells import Bells, first_of
from syncd.claim import Claim
from syncd.condition import Condition
from syncd.db import Row
from syncd.decide import Rules
from syncd.errors import Ambiguous, Fenced, ProviderError
from syncd.fresh import Fresh
from syncd.journal import Journal
from syncd.lists import Lists
from syncd.model import Can
from syncd.observer import NOBODY, Observer, Pulse
from syncd.outcomes import postponed, unsent
from syncd.push import Push
from syncd.pushed import Pushed
from syncd.reading import Reading
from syncd.settlement import MirrorRow, Settled

log = structlog.get_logger()

LIST_POLL = 1.0  # seconds between looks whether a list is due
BREATH = 0.02  # seconds between the last claim and a look at what is due next
RENAMED = Ambiguous("a list was renamed meanwhile")


@dataclass(slots=True)
class Standstill:
    """How long a backfill has waited for what was due when nothing more could be claimed.

    Only that counts: what is planned meanwhile comes and goes, for others and for ever.
    """

    until: object = None  # rows planned later are not waited for
    fewest: int | None = None
    since: float = 0.0

    def seconds(self, row: Row) -> float:
        """Without one of them done, at this look. Whoever waits for a bulk job, or for a scan that
        gets on, moves on."""
        now = time.monotonic()
        if self.fewest is None or row["n"] < self.fewest or row["jobs"]:
            self.fewest, self.since = row["n"], now
            self.until = self.until or row["now"]
        return now - self.since


class Sender:
    """Of one destination, as one worker serves it."""

    def __init__(
        self,
        condition: Condition,
        journal: Journal,
        push: Push,
        rules: Rules,
        lists: Lists,
        reading: Reading,
        bells: Bells,
        *,
        claims: int,
        claim_size: int | None,
        look: Callable[[], Awaitable[object]],
        keep_lists: Callable[[], Awaitable[object]],
    ) -> None:
        """claims: how many at a time; look: plan what is new; keep_lists: bring lists in step."""
        self.condition = condition
        self.journal = journal
        self.push = push
        self.rules = rules
        self.lists = lists
        self.reading = reading
        self.bells = bells
        self.claims = claims
        self.claim_size = claim_size or rules.traits.batch
        self.look = look
        self.keep_lists = keep_lists
        self.stop = push.stop
        self.observer: Observer = NOBODY
        self.answers: Callable[[], int] = lambda: 0  # so many came from the provider
        self.pulse = Pulse()
        self.patience = 60.0  # seconds a backfill waits for a provider that does not answer
        self.is_stuck = False  # the last one gave up on rows that never get done
        self.sweeping = False  # a pass is still to find what is due
        self.busy = 0  # claims that are being carried out
        self._answered = 0  # of `answers`: known to the pulse
        self._running = False
        self._draining = False  # until nothing is left
        self._lists_at = 0.0  # when to look for due lists again

    @property
    def still(self) -> float:
        """Seconds in which it has not moved: nothing was claimed, settled or answered, and it did
        not find either that there is nothing to do, or that nothing may be sent."""
        if not self._running:
            return 0.0
        if (answered := self.answers()) != self._answered:
            self._answered = answered
            self.pulse.beat()
        return self.pulse.still

    @property
    def gives_up(self) -> bool:
        """Whether a backfill should leave the rest for later."""
        since = self.condition.breaker.since
        away = since is not None and time.monotonic() - since > self.patience
        return self.stop.is_set() or away or self.condition.destination.halted is not None

    def current_rules(self) -> Rules:
        halted = self.condition.creates_halted
        return replace(self.rules, creates_halted=True) if halted else self.rules

    # ── Claims ──────────────────────────────────────────────────────────────────────────────

    async def run(self, until_empty: bool) -> None:
        """Claim and send; the next claim and the last settlement overlap with what is in flight."""
        self._draining, self.is_stuck, still = until_empty, False, Standstill()
        async with self._moving(), asyncio.TaskGroup() as group:
            while not self.stop.is_set():
                self.bells.push.clear()
                await self._keep_due_lists()
                claim = await self.next_claim()
                if claim is not None or not self.busy:
                    self.pulse.beat()
                if claim is None or not claim.taken:
                    if until_empty and not self.busy and await self.is_over(still):
                        return
                    await self._rest(claim)
                    continue
                if claim.entries or claim.settled:
                    self.busy += 1
                    group.create_task(self.carry(claim))
                elif until_empty:
                    await self.look()  # what was released may have to be planned anew
                if claim.taken < self.claim_size and not until_empty:
                    await self._rest(claim)  # there was no more than this: wait for a bell

    @asynccontextmanager
    async def _moving(self) -> AsyncIterator[None]:
        """While it runs somebody may ask when it last moved."""
        self.pulse.beat()
        self._running = True
        try:
            yield
        finally:
            self._running = False

    async def _keep_due_lists(self) -> None:
        """Now and then: contacts wait for a list whose making failed, or was put to a person."""
        if not self.condition.may_send or time.monotonic() < self._lists_at:
            return
        self._lists_at = time.monotonic() + LIST_POLL
        if await self.lists.any_due():
            await self.keep_lists()

    async def next_claim(self) -> Claim | None:
        """The next claim; None while nothing may be sent."""
        most = 1 if self.condition.breaker.is_open else self.claims
        if self.busy >= most or not self.condition.may_send:
            return None
        rules = self.current_rules()
        if self.push.can & Can.JOBS:
            job = await self.journal.claim_job(rules)
            if job.taken:
                return job
        return await self.journal.claim(self.claim_size, rules)

    async def _rest(self, claim: Claim | None) -> None:
        if claim is not None and claim.taken:  # let that go out before anything else is asked
            await first_of(self.stop, self.bells.push, timeout=BREATH)
            if self.bells.push.is_set():
                return
        due = None if claim is None else await self.journal.next_due()
        pause = 1.0 if due is None else min(1.0, max(0.01, due))
        if claim is None and not self.busy:
            pause = max(0.05, min(1.0, self.condition.breaker.pause or 1.0))
        await first_of(self.stop, self.bells.push, timeout=pause)

    async def is_over(self, still: Standstill) -> bool:
        """Whether a backfill is over: nothing due or sent, here or at any other worker; or nothing
        of it has been done for so long that it may never be, for a change that waits for a person
        holds it up, or the provider puts it off for ever."""
        if self.gives_up or self.condition.destination.paused:
            return True
        if self.sweeping:
            return False
        pool, me = self.journal.pool, self.journal.destination_id
        row = await pool.fetchrow(sql.flow.pending, me)
        assert row is not None
        if not row["due"] and not row["sent"] and not row["windows"]:
            return True
        if row["windows"] or not self.condition.breaker.may_send:
            return False
        left = await pool.fetchrow(sql.flow.waiting, me, still.until)
        assert left is not None
        self.is_stuck = still.seconds(left) > self.patience
        if self.is_stuck:
            log.warning("gave up waiting: nothing that is due gets done", contacts=left["n"])
        return self.is_stuck

    async def carry(self, claim: Claim) -> None:
        try:
            mark = await self._list_names()
            pushed = await self.push.attempt(claim)
            await self._doubt_renamed(mark, pushed)
            results = await self.condition.learn(pushed)
            lost = await self.journal.settle(claim, results)
            self.pulse.beat()
            self._counted(results)
            if any(one.entry.erases for one in results):
                self.bells.erase.set()
            await self.reading.wait(pushed.waits)
            await self.reading.learn()
            if pushed.waits:
                self.bells.waits.set()
            if lost:
                log.warning("another worker had taken over", contacts=len(lost))
        finally:
            self.busy -= 1
            if self.busy + 1 >= self.claims or self.condition.breaker.is_open or self._draining:
                self.bells.push.set()  # somebody waits for the place, or for the end

    async def send_window(self, fresh: Fresh) -> Pushed:
        while not self.condition.breaker.may_send and not self.gives_up:
            await first_of(self.stop, timeout=min(1.0, self.condition.breaker.pause))
        if self.gives_up or self.condition.stands_still is not None:
            return Pushed([unsent(one, "handed back") for one in fresh.entries()])
        mark = await self._list_names()
        pushed = await self.push.attempt_fresh(fresh)
        if self.rules.traits.lists_by_name and not await self.lists.are_called(mark):
            pushed = Pushed([postponed(one, RENAMED, 0) for one in fresh.entries()])
        pushed.results = list(await self.condition.learn(pushed))
        self._counted(pushed.results, created=pushed.plain)
        return pushed

    async def _list_names(self) -> str | None:
        """See that lists are written by the names that they have by now; see `Lists.names`."""
        if not self.rules.traits.lists_by_name:
            return None
        try:
            return await self.lists.names()
        except (ProviderError, Fenced):
            return None  # what is sent now fails as well, or is not believed

    async def _doubt_renamed(self, mark: str | None, pushed: Pushed) -> None:
        """Whoever was put into a list that somebody else renamed meanwhile may not be in it."""
        if not self.rules.traits.lists_by_name or await self.lists.are_called(mark):
            return
        pushed.results = [
            postponed(one.entry, RENAMED, 0)
            if one.state == "done" and isinstance(one.mirror, MirrorRow) and one.mirror.lists
            else one
            for one in pushed.results
        ]

    def _counted(self, results: Sequence[Settled], created: int = 0) -> None:
        for outcome, n in self.condition.tally.add(results, created).items():
            self.observer.settled(outcome, n)
