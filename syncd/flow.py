"""One destination at work: plan, push, read back, until told to stop.

The same loops serve the daemon (`run`) and the backfill (`backfill`, which stops when nothing is
due). Bells only wake them; every loop also looks for itself now and then.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field, replace

import structlog

from syncd import control, meter, sql
from syncd.breaker import Breaker, Refusals
from syncd.control import Destination
from syncd.db import Row
from syncd.decide import Rules
from syncd.erasure import Erasures
from syncd.errors import Ambiguous, Fenced, OtherAccount, ProviderError, Transient, Unintelligible
from syncd.fresh import Fresh
from syncd.fullpass import Counts, FullPass, may_send_directly
from syncd.journal import Claim, Journal, MirrorRow, Settled
from syncd.lists import Lists
from syncd.model import Can
from syncd.observer import NOBODY, Observer, Pulse
from syncd.outcomes import postponed, unsent
from syncd.plan import Passed, Planner
from syncd.push import Push, Pushed
from syncd.reading import Reading
from syncd.scan import OptOutReader
from syncd.upkeep import measure

log = structlog.get_logger()

SCAN_POLL = 1.0  # seconds between looks whether a scan is asked for, and may run
ERASE_POLL = 30.0  # seconds between looks whether an erasure can be read back
LIST_POLL = 1.0  # seconds between looks whether a list is due
RENAMED = Ambiguous("a list was renamed meanwhile")
CREATES = "creates: "  # how `halted` begins where only creates are stopped


@dataclass(slots=True)
class Bells:
    """What wakes a flow's loops."""

    plan: asyncio.Event = field(default_factory=asyncio.Event)
    push: asyncio.Event = field(default_factory=asyncio.Event)
    read: asyncio.Event = field(default_factory=asyncio.Event)
    full: asyncio.Event = field(default_factory=asyncio.Event)
    scan: asyncio.Event = field(default_factory=asyncio.Event)  # everything that is there
    waits: asyncio.Event = field(default_factory=asyncio.Event)  # somebody waits for a scan
    erase: asyncio.Event = field(default_factory=asyncio.Event)  # an erasure may have got further


@dataclass(slots=True)
class Tally:
    """What this process has done for the destination since it started, by outcome."""

    outcomes: dict[str, int] = field(default_factory=dict)
    failure: ProviderError | None = None  # the last one, until a success
    planned: int = 0  # differences that passes found

    def add(self, results: Sequence[Settled], created: int = 0) -> Counter[str]:
        """Returns what was added, by outcome."""
        counted = Counter(one.outcome for one in results)
        counted["created"] += created
        for outcome, n in (+counted).items():
            self.outcomes[outcome] = self.outcomes.get(outcome, 0) + n
        return +counted


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


class Flow:
    """One destination, as one worker serves it."""

    def __init__(
        self,
        destination: Destination,
        planner: Planner,
        journal: Journal,
        push: Push,
        rules: Rules,
        reader: OptOutReader,
        *,
        poll: float,
        window: int,
        claims: int,
        claim_size: int | None = None,
        learn: Callable[[], Awaitable[None]],
        identify: Callable[[], Awaitable[None]],
        lists: Lists,
        erasures: Erasures,
        reading: Reading,
    ) -> None:
        self.destination = destination
        self.planner = planner
        self.journal = journal
        self.push = push
        self.rules = rules
        self.reader = reader
        self.poll = poll
        self.window = window
        self.claims = claims
        self.claim_size = claim_size or rules.traits.batch
        self.learn = learn
        self.identify = identify
        self.lists = lists
        self.erasures = erasures
        self.reading = reading
        self.bells = Bells()
        self.breaker = Breaker()
        self.refusals = Refusals(max(10, destination.guard_floor))
        self.tally = Tally()
        self.stop = reading.stop = push.stop
        self.full: FullPass | None = None  # the one that runs
        self.fingerprint: str | None = None  # of the credential
        self.observer: Observer = NOBODY
        self.answers: Callable[[], int] = lambda: 0  # so many came from the provider
        self.pulse = Pulse()
        self._answered = 0  # of them: known to the pulse
        self._pumping = False
        self.patience = 60.0  # seconds a backfill waits for a provider that does not answer
        self.is_stuck = False  # the last pump gave up on rows that never get done
        self._busy = 0
        self._sweeping = False
        self._lists_at = 0.0  # when to look for due lists again
        self._draining = False  # pumping until nothing is left

    # ── Whether ─────────────────────────────────────────────────────────────────────────────

    def follow(self, destination: Destination) -> None:
        """Take up what was changed without a new mapping: paused, halted, guard, schedules."""
        self.destination = self.planner.destination = destination
        for bell in (self.bells.push, self.bells.plan):
            bell.set()

    @property
    def stands_still(self) -> str | None:
        """Why nothing may be sent; None where something may."""
        halted = self.destination.halted
        if self.destination.paused:
            return "paused"
        if halted is not None and not halted.startswith(CREATES):
            return halted
        return None

    @property
    def still(self) -> float:
        """Seconds in which the pump has not moved: nothing was claimed, settled or answered, and
        it did not find either that there is nothing to do, or that nothing may be sent."""
        if not self._pumping:
            return 0.0
        if (answered := self.answers()) != self._answered:
            self._answered = answered
            self.pulse.beat()
        return self.pulse.still

    def _current_rules(self) -> Rules:
        creates = (self.destination.halted or "").startswith(CREATES)
        return replace(self.rules, creates_halted=creates) if creates else self.rules

    # ── Loops ───────────────────────────────────────────────────────────────────────────────

    async def run(self) -> None:
        """Serve until `stop`; a bug in one loop ends all of them."""
        with structlog.contextvars.bound_contextvars(destination=self.destination.name):
            await self._prepare()
            async with asyncio.TaskGroup() as group:
                group.create_task(self._plan_loop(), name="plan")
                group.create_task(self._full_loop(), name="full")
                group.create_task(self._read_loop(), name="read")
                group.create_task(self._erase_loop(), name="erase")
                if self.reading.can_scan:
                    group.create_task(self._scan_loop(), name="scan")
                group.create_task(self.pump(until_empty=False), name="push")

    async def _prepare(self) -> None:
        while not self.stop.is_set() and not await self.prepare():
            await first_of(self.stop, self.bells.push, timeout=max(1.0, self.breaker.pause))
            self.bells.push.clear()

    async def prepare(self) -> bool:
        """Read a new destination before its first write, and learn what its account is like."""
        if self.stands_still is not None or not await self.is_same_account():
            return False
        if not (await self._was_read() or await self.read()):
            return False
        if not (await self._was_scanned() or await self.scan_first()):
            return False
        return await self._asked(self.learn) and await self.keep_lists()

    async def is_same_account(self) -> bool:
        """Before anything is read: another account behind the credential is none of ours."""
        try:
            await self.identify()
        except (ProviderError, Fenced) as error:
            await self._failed([_put_off(error)])
            return False
        return True

    async def keep_lists(self, *, look_only: bool = False) -> bool:
        """Bring the lists in step before the contacts in them; False when the provider failed."""
        if errors := await self.lists.keep(look_only=look_only):
            await self._failed(errors)
        elif not look_only:
            await self.reading.ask_new()
        return not errors

    async def scan_first(self) -> bool:
        """Read what the account holds already, so that nobody in it is made a second time."""
        done = False

        async def scan() -> None:
            nonlocal done
            done = await self.reading.first()

        return await self.keep_lists(look_only=True) and await self._asked(scan) and done

    async def _was_read(self) -> bool:
        row = await self.planner.pool.fetchval(
            "select read_at is not null from syncd.feed where destination_id = $1",
            self.destination.id,
        )
        return bool(row)

    async def scan_all(self) -> int:
        """Scan whatever is there, now; returns how many scans that took. Errors pass through."""
        done = 0
        await self.reading.ask_all()
        while await self.reading.any_asked() and await self.reading.step(first=True):
            done += 1
        return done

    async def _was_scanned(self) -> bool:
        return not self.reading.can_scan or bool(
            await self.planner.pool.fetchval(sql.reading.is_scanned, self.destination.id)
        )

    async def read(self) -> bool:
        """Read opt-outs back; False when the provider would not let us."""
        before = meter.purpose.set("read")
        try:
            with self._timed("opt_outs"):
                return await self._asked(self.reader.read)
        finally:
            meter.purpose.reset(before)

    async def _asked(self, question: Callable[[], Awaitable[object]]) -> bool:
        try:
            await question()
        except (ProviderError, Fenced) as error:
            await self._failed([_put_off(error)])
            return False
        await self._succeeded()
        return True

    async def _read_loop(self) -> None:
        while not self.stop.is_set():
            await first_of(self.stop, self.bells.read)
            self.bells.read.clear()
            if not self.stop.is_set() and self.stands_still is None:
                await self.read()

    async def _erase_loop(self) -> None:
        """See to erasures: when one is asked for, when one was conveyed, and now and then."""
        while not self.stop.is_set():
            self.bells.erase.clear()
            if self.stands_still is None and self.breaker.may_send:
                await self.erase()
            await first_of(self.stop, self.bells.erase, timeout=ERASE_POLL)

    async def erase(self) -> int:
        """Have whoever is to be erased told to the provider, and read back what was; returns how
        many are still to be told."""
        if not await self.erasures.any_open():
            return 0
        if due := await self.erasures.plan():
            self.bells.push.set()
        await self._asked(self.erasures.finish)
        return due

    async def _scan_loop(self) -> None:
        """Run the scans that are asked for, by whoever waits for one or by the schedule."""
        while not self.stop.is_set():
            if self.stands_still is None and self.breaker.may_send:
                await self._scan()
            pause = max(self.breaker.pause, SCAN_POLL)
            rung = () if self.bells.scan.is_set() else (self.bells.scan, self.bells.waits)
            await first_of(self.stop, *rung, timeout=pause)
            self.bells.waits.clear()

    async def _scan(self) -> None:
        try:
            if self.bells.scan.is_set():
                await self.reading.ask_all()
                self.bells.scan.clear()
            while not self.stop.is_set() and self.stands_still is None:
                if not (await self.reading.any_asked() and await self.reading.step()):
                    return
                await self._succeeded()
                for bell in (self.bells.push, self.bells.plan):
                    bell.set()
        except (ProviderError, Fenced) as error:
            await self._failed([_put_off(error)])

    async def _plan_loop(self) -> None:
        rung = False
        while not self.stop.is_set():
            self.bells.plan.clear()
            if not self.destination.paused:
                await self.look(rung)
            await first_of(self.stop, self.bells.plan, timeout=self.poll)
            rung = self.bells.plan.is_set()

    async def look(self, rung: bool = False) -> Passed:
        """A keyed pass if there is something new; when *rung*, without asking first."""
        if not rung and not await self.planner.anything_new():
            return Passed()
        with self._timed("keyed"):
            passed = await self.planner.keyed_pass()
        self.tally.planned += passed.planned
        if passed.lists and self.stands_still is None:
            await self.keep_lists()
        if passed.keys:
            self.bells.erase.set()
        if passed.planned:
            self.bells.push.set()
        if passed.owes_full:
            self.bells.full.set()
        return passed

    async def _full_loop(self) -> None:
        while not self.stop.is_set():
            await first_of(self.stop, self.bells.full)
            self.bells.full.clear()
            if self.stop.is_set() or self.stands_still is not None:
                continue
            await self.full_pass()
            self.bells.push.set()

    async def full_pass(self, force: bool = False) -> Counts | None:
        """Sweep source and mirror; None when another worker does. Opens the way for pushes."""
        direct = may_send_directly(self.push.can) and not self.destination.halted
        self.full = FullPass(
            self.planner,
            self.journal,
            self._current_rules(),
            self._send_window if direct else None,
            window=self.window,
            force=force,
            stop=self.stop,
            due=self.bells.push,
        )
        try:
            await self.keep_lists()
            with self._timed("full"):
                counts = await self.full.run()
        finally:
            self.tally.planned += self.full.counts.sent + self.full.counts.planned
            self.full = None
        if counts is not None:
            await measure(self.planner.pool)
            log.info("full pass done", looked_at=counts.looked_at, planned=counts.planned)
        return counts

    @contextmanager
    def _timed(self, kind: str) -> Iterator[None]:
        """What is ended by an error took no time that means anything."""
        began = time.monotonic()
        yield
        self.observer.passed(kind, time.monotonic() - began)

    # ── Push ────────────────────────────────────────────────────────────────────────────────

    async def pump(self, until_empty: bool) -> None:
        """Claim and send; the next claim and the last settlement overlap with what is in flight."""
        self._draining, self.is_stuck, still = until_empty, False, Standstill()
        async with self._scanning(until_empty), self._moving(), asyncio.TaskGroup() as group:
            while not self.stop.is_set():
                self.bells.push.clear()
                await self._keep_due_lists()
                claim = await self._next_claim()
                if claim is not None or not self._busy:
                    self.pulse.beat()
                if claim is None or not claim.taken:
                    if until_empty and not self._busy and await self._finished(still):
                        return
                    await self._rest(claim)
                    continue
                if claim.entries or claim.settled:
                    self._busy += 1
                    group.create_task(self._carry(claim))
                elif until_empty:
                    await self.look()  # what was released may have to be planned anew
                if claim.taken < self.claim_size and not until_empty:
                    await self._rest(claim)  # there was no more than this: wait for a bell

    @asynccontextmanager
    async def _moving(self) -> AsyncIterator[None]:
        """While it pumps somebody may ask when it last moved."""
        self.pulse.beat()
        self._pumping = True
        try:
            yield
        finally:
            self._pumping = False

    async def _keep_due_lists(self) -> None:
        """Now and then: contacts wait for a list whose making failed, or was put to a person."""
        may_send = self.stands_still is None and self.breaker.may_send
        if not may_send or time.monotonic() < self._lists_at:
            return
        self._lists_at = time.monotonic() + LIST_POLL
        if await self.lists.any_due():
            await self.keep_lists()

    @asynccontextmanager
    async def _scanning(self, needed: bool) -> AsyncIterator[None]:
        """Scans run beside a pump that is to end when nothing is due: somebody may wait for one."""
        if not (needed and self.reading.can_scan):
            yield
            return
        async with asyncio.TaskGroup() as group:
            scans = group.create_task(self._scan_loop(), name="scan")
            yield
            scans.cancel()

    async def _next_claim(self) -> Claim | None:
        """The next claim; None while nothing may be sent."""
        most = 1 if self.breaker.is_open else self.claims
        if self._busy >= most or self.stands_still is not None or not self.breaker.may_send:
            return None
        rules = self._current_rules()
        if self.push.can & Can.JOBS:
            job = await self.journal.claim_job(rules)
            if job.taken:
                return job
        return await self.journal.claim(self.claim_size, rules)

    async def _rest(self, claim: Claim | None) -> None:
        due = None if claim is None else await self.journal.next_due()
        pause = 1.0 if due is None else min(1.0, max(0.01, due))
        if claim is None and not self._busy:
            pause = max(0.05, min(1.0, self.breaker.pause or 1.0))
        await first_of(self.stop, self.bells.push, timeout=pause)

    async def _finished(self, still: Standstill) -> bool:
        """Whether a backfill is over: nothing due or sent, here or at any other worker; or nothing
        of it has been done for so long that it may never be, for a change that waits for a person
        holds it up, or the provider puts it off for ever."""
        if self.gives_up or self.destination.paused:
            return True
        if self._sweeping:
            return False
        row = await self.planner.pool.fetchrow(sql.flow.pending, self.destination.id)
        assert row is not None
        if not row["due"] and not row["sent"] and not row["windows"]:
            return True
        if row["windows"] or not self.breaker.may_send:
            return False
        left = await self.planner.pool.fetchrow(sql.flow.waiting, self.destination.id, still.until)
        assert left is not None
        self.is_stuck = still.seconds(left) > self.patience
        if self.is_stuck:
            log.warning("gave up waiting: nothing that is due gets done", contacts=left["n"])
        return self.is_stuck

    async def _carry(self, claim: Claim) -> None:
        try:
            mark = await self._list_names()
            pushed = await self.push.attempt(claim)
            await self._doubt_renamed(mark, pushed)
            results = await self._learn(pushed)
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
            self._busy -= 1
            if self._busy + 1 >= self.claims or self.breaker.is_open or self._draining:
                self.bells.push.set()  # somebody waits for the place, or for the end

    async def _send_window(self, fresh: Fresh) -> Pushed:
        while not self.breaker.may_send and not self.gives_up:
            await first_of(self.stop, timeout=min(1.0, self.breaker.pause))
        if self.gives_up or self.stands_still is not None:
            return Pushed([unsent(one, "handed back") for one in fresh.entries()])
        mark = await self._list_names()
        pushed = await self.push.attempt_fresh(fresh)
        if self.rules.traits.lists_by_name and not await self.lists.are_called(mark):
            pushed = Pushed([postponed(one, RENAMED, 0) for one in fresh.entries()])
        pushed.results = list(await self._learn(pushed))
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
        for outcome, n in self.tally.add(results, created).items():
            self.observer.settled(outcome, n)

    # ── What the answers teach ──────────────────────────────────────────────────────────────

    async def _learn(self, pushed: Pushed) -> Sequence[Settled]:
        if pushed.errors:
            await self._failed(pushed.errors)
        elif pushed.succeeded:
            await self._succeeded()
        self.push.outages = self.breaker.outages
        words = self.refusals.judge(pushed.results, pushed.since if pushed.plain else None)
        if words is None:
            return pushed.results
        return await self._halt_creates(words, pushed.results)

    async def _failed(self, errors: Sequence[ProviderError]) -> None:
        person = next((error for error in errors if error.needs_a_person), None)
        self.tally.failure = person or errors[0]
        if person is not None:
            await self._halt(person)
            return
        after = max(error.after for error in errors)
        if all(isinstance(error, Unintelligible) for error in errors):
            log.warning("answer not understood", reason=errors[0].reason)
        if self.breaker.failed(after):
            log.warning("provider is not available", reason=errors[0].reason)

    async def _succeeded(self) -> None:
        self.tally.failure = None
        if self.breaker.succeeded():
            log.info("provider is back")

    async def _halt(self, refusal: ProviderError) -> None:
        """Stop the destination, unless a fresh probe says that it was this request alone."""
        probed = refusal if isinstance(refusal, OtherAccount) else await self._probed(refusal)
        if probed is None:
            return
        refusal = probed
        self.tally.failure = refusal
        self.destination = replace(self.destination, halted=refusal.reason)
        if await self._write_halt(refusal.reason):
            log.error("destination halted", reason=refusal.reason)

    async def _probed(self, refusal: ProviderError) -> ProviderError | None:
        """The refusal in the words of a fresh probe; None where that found nothing wrong."""
        try:
            findings = await self.push.adapter.check()
        except ProviderError as error:
            return error if error.needs_a_person else None
        errors = [one for one in findings if one.level == "error"]
        if not errors:
            return None
        return type(refusal)(f"{errors[0].says}. {errors[0].remedy}", status=refusal.status)

    async def _write_halt(self, reason: str) -> bool:
        pool, me = self.planner.pool, self.destination.id
        return await control.halt(pool, me, reason, self.fingerprint)

    async def _halt_creates(self, words: str, results: Sequence[Settled]) -> Sequence[Settled]:
        """The same refusal for many contacts running is not about contacts: reject nobody."""
        reason = f"{CREATES}refused for {len(self.refusals.contacts)} contacts running: {words}"
        contacts, self.refusals.contacts = sorted(self.refusals.contacts), set()
        self.destination = replace(self.destination, halted=reason)
        if await self._write_halt(reason):
            log.error("creates halted", reason=words)
        await control.retry(self.planner.pool, [self.destination.name], contacts)
        return [
            one._replace(state="due", outcome="postponed", attempt_used=False, after=60.0)
            if one.outcome == "rejected" and one.entry.contact_id in contacts
            else one
            for one in results
        ]

    # ── One shot ────────────────────────────────────────────────────────────────────────────

    async def backfill(self, force: bool = False) -> None:
        """Sweep, and push until nothing is due; the destination has been read before.

        Ends early, with rows left due, where a person is needed or the provider stays away.
        """
        with structlog.contextvars.bound_contextvars(destination=self.destination.name):
            self._sweeping = True
            async with asyncio.TaskGroup() as group:
                group.create_task(self._sweep(force))
                await self.pump(until_empty=True)

    async def _sweep(self, force: bool) -> None:
        try:
            while not self.gives_up and await self.full_pass(force) is None:
                await first_of(self.stop, timeout=1.0)  # another worker is at it
        finally:
            self._sweeping = False
            self.bells.push.set()

    @property
    def gives_up(self) -> bool:
        """Whether a backfill should leave the rest for later."""
        since = self.breaker.since
        away = since is not None and time.monotonic() - since > self.patience
        return self.stop.is_set() or away or self.destination.halted is not None


def _put_off(error: ProviderError | Fenced) -> ProviderError:
    """A heartbeat that is late lets nothing be sent for a moment; a lease that is lost ends the
    worker, not this."""
    return Transient(str(error)) if isinstance(error, Fenced) else error


async def first_of(*events: asyncio.Event, timeout: float | None = None) -> None:
    """Return when one of the events is set, or after *timeout* seconds."""
    if any(event.is_set() for event in events):
        return
    waits = [asyncio.ensure_future(event.wait()) for event in events]
    try:
        await asyncio.wait(waits, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for wait in waits:
            wait.cancel()
