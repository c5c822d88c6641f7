"""Leave for one HTTP request, within the provider's limits over all processes.

What holds (tests/test_meter.py), with `rate` for per_second and `share` for read_share:

- Rate: in any t seconds at most `rate * (t + lapse) + max(1, rate * 0.025)` requests start, one
  more while reads and writes both run; `lapse` is 25 ms, below 4 a second a tenth of the time
  between two requests (at most 250 ms). So the burst is 50 ms' worth from 40 a second on, and under
  2 requests below. A draw takes up to 25 ms' worth of permits for use within `lapse`, counted from
  before the statement left, so latency can only make permits lapse. Where the database is so slow
  that they all do, they are asked for longer, and paid for longer.
- Turns: each draw promises the next free place in the order of asking, so no process starves. A
  place further off than 50 ms is confirmed just before use: it is void if the rate was changed or
  the provider said to wait.
- Reading has `share` of the rate whatever writes do, and all of it when they rest: `syncd.place`.
- In flight: a request starts only on a slot row of ours that outlives it by its timeout, killed or
  not. A slot starts requests for at most 250 ms, then others go first; idle, it is given back.
- Per day: each request is counted at the draw (UTC, the database's clock); what lapsed unused is
  credited at the next draw. The last `lane0_share` of the day is for purpose 'opt_out'.
- A hold-off (Retry-After) is seen by other processes within 50 ms and `lapse` (250 ms where there
  is no rate); on a meter without limits, whose permits ask nobody, only by this one, and by others
  once they call `waiting()`.

Several destinations of one scope must be given the smallest limits of all: `smallest`.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import hmac
import itertools
import os
import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import AbstractAsyncContextManager
from contextvars import ContextVar
from datetime import datetime
from typing import Any, NamedTuple, Protocol

import asyncpg

from syncd import sql
from syncd.db import LOST
from syncd.errors import ConfigError, Transient
from syncd.meter_lane import BATCH, TURN, Lane, Purpose, Slot
from syncd.model import Meter

purpose: ContextVar[Purpose] = ContextVar("purpose", default="write")
"""What the current task sends for; `permit` reads it where it is not told."""
_current = purpose

LAPSE = 0.025  # seconds in which a drawn permit must be used; see `_lapse`
MARGIN = 1.0  # seconds by which a slot outlives TURN and the request timeout
STEP = 1.0  # seconds after which a place or a refusal is looked at again
NEAR = 0.05  # seconds: a place nearer than this is not confirmed

DAY = "the day's quota of "  # how the reason begins of whoever waits for the day to end
WHY = {
    "day": DAY + "'{}' requests is used up",
    "held": "the provider asked to wait with '{}' requests",
    "rate": "the rate of '{}' requests leaves no place within a minute",
}

_UNLIMITED = Meter()
_numbers = itertools.count(1)


class Pool(Protocol):
    """As much of an asyncpg pool as is used here; every statement is a transaction of its own."""

    async def fetchrow(self, query: str, /, *args: object) -> Any: ...

    async def execute(self, query: str, /, *args: object) -> Any: ...


class Budget(NamedTuple):
    """How a meter stands in the whole scope; `queued` wait in this process.

    left_today: None without a daily quota.  next_at: None if a write could start now.
    """

    left_today: int | None
    next_at: datetime | None
    in_flight: int
    queued: int


def scope_key(provider: str, account: str, key: bytes) -> str:
    """Name the account that a provider counts by without giving it away: HMAC-SHA256, hex."""
    return hmac.new(key, f"{provider}\0{account}".encode(), hashlib.sha256).hexdigest()


def smallest(meters: Iterable[Meter]) -> Meter:
    """Join the limits of destinations that share a scope: of each limit the smallest."""
    known = list(meters)
    return Meter(
        min((m.per_second for m in known if m.per_second is not None), default=None),
        min((m.in_flight for m in known if m.in_flight is not None), default=None),
        min((m.per_day for m in known if m.per_day is not None), default=None),
    )


class _Unmetered(AbstractAsyncContextManager[None]):
    """Leave where there is no limit, at a tenth of what a generator costs."""

    __slots__ = ("_meter", "_meters")

    def __init__(self, meters: Meters, meter: str) -> None:
        self._meters, self._meter = meters, meter

    async def __aenter__(self) -> None:
        await self._meters.await_holds(self._meter)

    async def __aexit__(self, *exc: object) -> None:
        return None


class Meters:
    """The permits of one scope: `async with meters.permit("upload"): send()`.

    holder: the worker's id, shown in `slot`.  request_timeout: no request lasts longer.
    patience: seconds that a permit waits for a day or a hold-off to end; beyond it, Transient.
    fence: called last; raises Fenced when the worker's lease is too old to send anything.
    """

    def __init__(
        self,
        pool: Pool,
        scope: str,
        limits: Mapping[str, Meter],
        holder: str,
        request_timeout: float,
        *,
        read_share: float = 0.2,
        lane0_share: float = 0.1,
        patience: float = 5.0,
        fence: Callable[[], None] = lambda: None,
    ) -> None:
        if not (0 < read_share < 1 and 0 <= lane0_share < 1):
            raise ConfigError("the shares of reading and of opt-outs must lie between 0 and 1")
        self._pool, self._scope, self._limits = pool, scope, _checked(limits)
        self._holder = f"{holder}/{os.getpid()}.{next(_numbers)}"
        self._shares = (read_share, lane0_share)
        self._lasts = TURN + request_timeout + MARGIN
        self._patience, self._fence = patience, fence
        self._lanes: dict[tuple[str, Purpose], Lane] = {}
        self._declared: set[str] = set()
        self._holds: dict[str, float] = {}  # of meters without limits, by the local clock

    def permit(
        self, meter: str, *, purpose: Purpose | None = None
    ) -> AbstractAsyncContextManager[None]:
        """Leave for one HTTP request, to be sent at once inside; waits for it.

        Raises Transient when the day's quota or a hold-off ends later than `patience`.
        """
        if self._limit(meter) == _UNLIMITED:
            return _Unmetered(self, meter)
        return self._metered(self._lane(meter, purpose or _current.get()))

    async def hold_off(self, meter: str, seconds: float) -> None:
        """Let nobody in the scope use *meter* for *seconds*: the provider said so."""
        if seconds <= 0:
            return
        self._hold(meter, seconds)
        for lane in self._lanes_of(meter):
            lane.void()
        await self._pool.execute(sql.meter.hold_off, self._scope, meter, seconds)

    async def set_limits(self, limits: Mapping[str, Meter]) -> None:
        """Replace the limits, for every process of the scope, from the next draw on."""
        old, self._limits = self._limits, _checked(limits)
        for meter in sorted(old.keys() | self._limits.keys()):
            if old.get(meter, _UNLIMITED) != self._limit(meter):
                for lane in self._lanes_of(meter):
                    lane.void()
                    lane.refused = (0.0, 0.0, "")
                await self._declare(meter)

    async def budget_left(self, meter: str) -> Budget:
        """How *meter* stands, in one statement; also hears of hold-offs set elsewhere."""
        queued = sum(lane.queued for lane in self._lanes_of(meter))
        row = await self._pool.fetchrow(sql.meter.budget, self._scope, meter)
        if row is None:
            return Budget(self._limit(meter).per_day, None, 0, queued)
        self._hold(meter, row["hold"])
        return Budget(row["left_today"], row["next_at"], row["in_flight"], queued)

    async def waiting(self) -> Mapping[str, Budget]:
        """How every meter stands."""
        return {meter: await self.budget_left(meter) for meter in self._limits}

    async def release(self) -> None:
        """Give back every slot that no request is using, and credit unused permits."""
        for lane in self._lanes.values():
            async with lane.turn:
                lane.void()
                lane.forget((*lane.spare, *lane.fresh))
                lane.spare, lane.fresh = [], []
                await self._tidy(lane)

    # ── Waiting ─────────────────────────────────────────────────────────────────────────────

    async def await_holds(self, meter: str) -> None:
        """Wait until no hold-off keeps a meter without limits; the fence comes last."""
        while (wait := self._holds.get(meter, 0.0) - time.monotonic()) > 0:
            await self._bide(meter, wait, wait, "held")
        self._fence()

    @contextlib.asynccontextmanager
    async def _metered(self, lane: Lane) -> AsyncIterator[None]:
        slot = await self._enter(lane)
        try:
            self._fence()
            yield
        finally:
            await self._leave(lane, slot)

    async def _enter(self, lane: Lane) -> Slot | None:
        lane.queued += 1
        try:
            async with lane.turn:
                slot = await self._leave_to_send(lane)
        except BaseException:
            lane.queued -= 1
            await self._leave(lane, None)
            raise
        lane.queued -= 1
        return slot

    async def _leave_to_send(self, lane: Lane) -> Slot | None:
        """Stay head of the queue until there is a permit and, where they count, a slot."""
        while True:
            now = time.monotonic()
            lane.sweep(now)
            slot = lane.seat(now)
            seated = slot is not None or self._limit(lane.meter).in_flight is None
            until, due, why = lane.refused
            if now < until:
                await self._bide(lane.meter, until - now, due - now, why)
            elif lane.permits and lane.opens > now:
                await self._await_place(lane, lane.opens - now)
            elif not (lane.permits and seated):
                await self._draw(lane)
            else:
                lane.take(slot)
                return slot

    async def _bide(self, meter: str, pause: float, due: float, why: str) -> None:
        if due > self._patience:
            raise Transient(WHY[why].format(meter), after=due)
        await asyncio.sleep(pause)

    async def _await_place(self, lane: Lane, wait: float) -> None:
        if wait <= NEAR:
            await asyncio.sleep(wait)
            return
        await asyncio.sleep(min(wait - 0.8 * NEAR, STEP))
        await self._draw(lane)

    async def _leave(self, lane: Lane, slot: Slot | None) -> None:
        """Pass *slot* on, or give it back when its turn is over; with no queue, all the idle."""
        if slot is not None and lane.queued and time.monotonic() < slot.until:
            lane.spare.append(slot)
            lane.freed.set()
            return
        done = [] if slot is None else [slot]
        if not lane.queued:
            done += [*lane.spare, *lane.fresh]
            lane.spare, lane.fresh = [], []
        if done:
            await self._give_back(lane, done)
            lane.freed.set()

    # ── Statements ──────────────────────────────────────────────────────────────────────────

    async def _draw(self, lane: Lane) -> None:
        """Ask the database for what is missing; permits in hand are only confirmed."""
        limit = self._limit(lane.meter)
        if lane.meter not in self._declared:
            await self._declare(lane.meter)
        lane.drop_stale(time.monotonic())
        keep = min(1.0, _lapse(limit.per_second) * lane.stretch)
        want = 0 if lane.permits else lane.wish()
        seats = 0
        if limit.in_flight and not (lane.spare or lane.fresh):
            seats = min(lane.queued, lane.permits or BATCH)
        lane.freed.clear()
        sent = time.monotonic()
        try:
            row = await self._ask(lane, want, keep, seats)
        except asyncio.CancelledError:
            await self._tidy(lane)
            raise
        if row is None:  # somebody removed the meter's row
            self._declared.discard(lane.meter)
            return
        lane.accept(row, sent, keep)
        if row["why"] == "slot":
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(row["wait"]):
                    await lane.freed.wait()
        elif row["why"]:
            now = time.monotonic()
            lane.refused = (now + min(row["wait"], STEP), now + row["wait"], row["why"])

    async def _ask(self, lane: Lane, want: int, keep: float, seats: int) -> Any:
        limit = self._limit(lane.meter)
        back, lane.back = lane.back, 0  # if the answer is lost, so is the credit
        return await self._pool.fetchrow(
            sql.meter.draw,
            *(self._scope, lane.meter, lane.holder, lane.purpose),
            *(want, keep, seats),
            *(list(lane.held), [slot.n for slot in lane.fresh], self._lasts),
            *(back, lane.day),
            *(limit.per_second, limit.in_flight, limit.per_day),
        )

    async def _tidy(self, lane: Lane) -> None:
        """Free what an answer that was lost gave; failing that, it frees itself in time."""
        sent = time.monotonic()
        with contextlib.suppress(*LOST, asyncpg.PostgresError):
            if (row := await self._ask(lane, 0, LAPSE, 0)) is not None:
                lane.accept(row, sent, LAPSE)

    async def _give_back(self, lane: Lane, slots: list[Slot]) -> None:
        """Free *slots*, even when cancelled meanwhile; failing that, they expire."""
        numbers, expiries = [slot.n for slot in slots], [slot.expires for slot in slots]
        names = (self._scope, lane.meter, lane.holder)
        try:
            with contextlib.suppress(*LOST, asyncpg.PostgresError):
                try:
                    await self._pool.execute(sql.meter.give_back, *names, numbers, expiries)
                except asyncio.CancelledError:
                    await self._pool.execute(sql.meter.give_back, *names, numbers, expiries)
                    raise
        finally:
            lane.forget(slots)

    async def _declare(self, meter: str) -> None:
        limit = self._limit(meter)
        await self._pool.execute(
            sql.meter.declare,
            *(self._scope, meter, limit.per_second, limit.in_flight, limit.per_day),
            *self._shares,
        )
        self._declared.add(meter)

    # ── Local state ─────────────────────────────────────────────────────────────────────────

    def _limit(self, meter: str) -> Meter:
        return self._limits.get(meter, _UNLIMITED)

    def _lane(self, meter: str, purpose: Purpose) -> Lane:
        lane = self._lanes.get((meter, purpose))
        if lane is None:
            lane = Lane(meter, purpose, f"{self._holder}/{purpose}")
            self._lanes[meter, purpose] = lane
        return lane

    def _lanes_of(self, meter: str) -> list[Lane]:
        return [lane for (name, _), lane in self._lanes.items() if name == meter]

    def _hold(self, meter: str, seconds: float) -> None:
        self._holds[meter] = max(self._holds.get(meter, 0.0), time.monotonic() + seconds)


def _lapse(rate: float | None) -> float:
    """How long drawn permits may be used; syncd.place has the same numbers and charges for more."""
    return TURN if rate is None else max(LAPSE, min(0.25, 0.1 / rate))


def _checked(limits: Mapping[str, Meter]) -> Mapping[str, Meter]:
    """ConfigError for a limit that is not above nought; it would stop everything in silence."""
    faults = [
        f"the limit {name} of meter '{meter}' is {value}; it must be above 0, or absent"
        for meter, limit in limits.items()
        for name in ("per_second", "in_flight", "per_day")
        if (value := getattr(limit, name)) is not None and not value > 0
    ]
    if faults:
        raise ConfigError(*faults)
    return dict(limits)
