"""One destination at work: plan, push, read back, until told to stop.

The same loops serve the daemon (`run`) and the backfill (`backfill`, which stops when nothing is
due). Bells only wake them; every loop also looks for itself now and then.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager

import structlog

from syncd import meter, sql
from syncd.bells import Bells, first_of
from syncd.breaker import Breaker
from syncd.condition import Condition, Tally
from syncd.control import Destination, release_decided
from syncd.decide import Rules
from syncd.erasure import Erasures
from syncd.errors import Fenced, ProviderError, Transient
from syncd.fullpass import Counts, FullPass, may_send_directly
from syncd.journal import Journal
from syncd.lists import Lists
from syncd.observer import NOBODY, Observer
from syncd.plan import Passed, Planner
from syncd.push import Push
from syncd.reading import Reading
from syncd.scan import OptOutReader
from syncd.sender import Sender
from syncd.upkeep import measure

log = structlog.get_logger()

SCAN_POLL = 1.0  # seconds between looks whether a scan is asked for, and may run
ERASE_POLL = 30.0  # seconds between looks whether an erasure can be read back
ERASE_AFTER = 0.2  # seconds that what rang the bell has for itself


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
        self.condition = Condition(destination, planner.pool, push)
        self.planner = planner
        self.journal = journal
        self.push = push
        self.rules = rules
        self.reader = reader
        self.poll = poll
        self.window = window
        self.learn = learn
        self.identify = identify
        self.lists = lists
        self.erasures = erasures
        self.reading = reading
        self.bells = Bells()
        self.stop = reading.stop = push.stop
        self.full: FullPass | None = None  # the one that runs
        self.observer: Observer = NOBODY
        self.sender = Sender(
            self.condition, journal, push, rules, lists, reading, self.bells, claims=claims,
            claim_size=claim_size, look=self.look, keep_lists=self.keep_lists,
        )  # fmt: skip

    # ── Whether ─────────────────────────────────────────────────────────────────────────────

    def follow(self, destination: Destination) -> None:
        """Take up what was changed without a new mapping: paused, halted, guard, schedules."""
        self.condition.destination = self.planner.destination = destination
        for bell in (self.bells.push, self.bells.plan):
            bell.set()

    @property
    def destination(self) -> Destination:
        return self.condition.destination

    @property
    def breaker(self) -> Breaker:
        return self.condition.breaker

    @property
    def tally(self) -> Tally:
        return self.condition.tally

    @property
    def stands_still(self) -> str | None:
        """Why nothing may be sent; None where something may."""
        return self.condition.stands_still

    @property
    def gives_up(self) -> bool:
        """Whether a backfill should leave the rest for later."""
        return self.sender.gives_up

    def observe(self, observer: Observer, answers: Callable[[], int]) -> None:
        """Tell somebody what is done; answers: how many came from the provider so far."""
        self.observer = self.sender.observer = observer
        self.sender.answers = answers

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
        await self.planner.pool.execute(sql.flow.quota_again, self.destination.id, meter.DAY + "%")
        return await self._asked(self.learn) and await self.keep_lists()

    async def is_same_account(self) -> bool:
        """Before anything is read: another account behind the credential is none of ours."""
        try:
            await self.identify()
        except (ProviderError, Fenced) as error:
            await self.condition.failed([_put_off(error)])
            return False
        return True

    async def keep_lists(self, *, look_only: bool = False) -> bool:
        """Bring the lists in step before the contacts in them; False when the provider failed."""
        if errors := await self.lists.keep(look_only=look_only):
            await self.condition.failed(errors)
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
            await self.condition.failed([_put_off(error)])
            return False
        self.condition.succeeded()
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
            if self.condition.may_send:
                await self.erase()
            await first_of(self.stop, self.bells.erase, timeout=ERASE_POLL)
            await first_of(self.stop, timeout=ERASE_AFTER)

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
            if self.condition.may_send:
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
                self.condition.succeeded()
                for bell in (self.bells.push, self.bells.plan):
                    bell.set()
        except (ProviderError, Fenced) as error:
            await self.condition.failed([_put_off(error)])

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
            self.sender.current_rules(),
            self.sender.send_window if direct else None,
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
        """Claim and send, until `stop` or until nothing is left."""
        async with self._scanning(until_empty):
            await self.sender.run(until_empty)

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

    # ── One shot ────────────────────────────────────────────────────────────────────────────

    async def backfill(self, force: bool = False) -> None:
        """Sweep, and push until nothing is due; the destination has been read before.

        Ends early, with rows left due, where a person is needed or the provider stays away.
        """
        with structlog.contextvars.bound_contextvars(destination=self.destination.name):
            self.sender.sweeping = True
            async with asyncio.TaskGroup() as group:
                group.create_task(self._sweep(force))
                await self.pump(until_empty=True)
            # A settlement that was slower than the end of the pass has left its row in a plan that
            # was decided meanwhile.
            while not self.gives_up and await release_decided(self.planner.pool):
                await self.pump(until_empty=True)

    async def _sweep(self, force: bool) -> None:
        try:
            while not self.gives_up and await self.full_pass(force) is None:
                await first_of(self.stop, timeout=1.0)  # another worker is at it
        finally:
            self.sender.sweeping = False
            self.bells.push.set()


def _put_off(error: ProviderError | Fenced) -> ProviderError:
    """A heartbeat that is late lets nothing be sent for a moment; a lease that is lost ends the
    worker, not this."""
    return Transient(str(error)) if isinstance(error, Fenced) else error
