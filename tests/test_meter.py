"""The providers' limits: real PostgreSQL, real processes. Times are compared, speed is not.

Run as a program (`python tests/test_meter.py`) this file is the other process of its own tests.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from syncd import db, sql
from syncd.errors import ConfigError, Fenced, Transient
from syncd.meter import Meters, purpose, scope_key, smallest
from syncd.meter_lane import Purpose
from syncd.model import Meter

SLACK = 0.1  # seconds that a busy machine may put between a permit and the time noted for it


class Sent(NamedTuple):
    """One request: when it began and ended, by the machine's monotonic clock."""

    began: float
    ended: float


def burst(times: Sequence[float], rate: float) -> float:
    """The most by which a window of any length holds more than *rate* times its length."""
    most, lowest = 0.0, float("inf")
    for number, moment in enumerate(sorted(times)):
        lowest = min(lowest, number - rate * moment)
        most = max(most, number + 1 - rate * moment - lowest)
    return most


def allowed(rate: float) -> float:
    """What the module's docstring promises, and the machine's own slack."""
    lapse = max(0.025, min(0.25, 0.1 / rate))
    return rate * (lapse + SLACK) + max(1, rate * 0.025)


def overlap(sent: Sequence[Sent]) -> int:
    """The most requests that were under way at one moment."""
    edges = sorted([(s.began, 1) for s in sent] + [(s.ended, -1) for s in sent])
    under_way = most = 0
    for _, step in edges:
        under_way += step
        most = max(most, under_way)
    return most


# ── The other process ───────────────────────────────────────────────────────────────────────


class Other:
    """A process that sends as fast as it is let, for `seconds`; `sent()` is what it did."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process

    @classmethod
    async def start(cls, database: str, **job: Any) -> Other:
        """Start it and wait until it is connected; `go` sets it off."""
        here = Path(__file__).resolve()
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, str(here), database, json.dumps(job)),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": str(here.parent.parent)},
        )
        assert process.stdout
        assert await process.stdout.readline() == b"ready\n"
        return cls(process)

    def go(self) -> None:
        self.say(b"go\n")

    def say(self, line: bytes) -> None:
        assert self.process.stdin
        self.process.stdin.write(line)

    async def line(self) -> bytes:
        assert self.process.stdout
        return await self.process.stdout.readline()

    async def sent(self) -> list[Sent]:
        """Let it end when its time is over, and tell what it sent."""
        out, _ = await self.process.communicate(b"")  # closes its input
        assert self.process.returncode == 0
        return [Sent(*pair) for pair in json.loads(out.splitlines()[-1])]


async def be_the_other(database: str, job: dict[str, Any]) -> None:
    """Send with `workers` tasks for `seconds`, each request lasting `lasts`; print the times."""
    limits = {"m": Meter(job.get("rate"), job.get("in_flight"), job.get("per_day"))}
    sent: list[Sent] = []
    async with db.pool(database, 4) as pool:
        meters = Meters(pool, "scope", limits, "other", job.get("timeout", 5.0))
        await pool.fetchval("select 1")
        print("ready", flush=True)
        await asyncio.to_thread(sys.stdin.readline)
        tasks = [
            asyncio.create_task(send(meters, sent, job.get("lasts", 0.0), job.get("for", "write")))
            for _ in range(job.get("workers", 20))
        ]
        await asyncio.sleep(job["seconds"])
        await asyncio.to_thread(sys.stdin.read)  # until our tests have closed it
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await meters.release()
    print(json.dumps(sent), flush=True)


async def send(meters: Meters, sent: list[Sent], lasts: float, why: Purpose = "write") -> None:
    while True:
        try:
            async with meters.permit("m", purpose=why):
                await request(sent, lasts)
        except Transient:
            await asyncio.sleep(0.05)


async def request(sent: list[Sent], lasts: float) -> None:
    began = time.monotonic()
    if lasts >= 1 and __name__ == "__main__":
        print("began", flush=True)
    try:
        await asyncio.sleep(lasts)
    finally:
        sent.append(Sent(began, time.monotonic()))
        if len(sent) == 1 and __name__ == "__main__":
            print("first", flush=True)


@contextlib.asynccontextmanager
async def sending(meters: Meters, workers: int, lasts: float = 0.0) -> AsyncIterator[list[Sent]]:
    """Send in this process meanwhile."""
    sent: list[Sent] = []
    tasks = [asyncio.create_task(send(meters, sent, lasts)) for _ in range(workers)]
    try:
        yield sent
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


# ── Rate and requests in flight, over processes ─────────────────────────────────────────────


@pytest.mark.parametrize(
    ("rate", "in_flight", "seconds"),
    [(0.5, None, 6), (20, None, 3), (1000, None, 3), (None, 3, 3), (40, 2, 3), (1, 1, 4)],
)
async def test_two_processes_together_stay_within_rate_and_in_flight(
    database: str, rate: float | None, in_flight: int | None, seconds: float
) -> None:
    lasts = 0.02 if in_flight else 0.0
    job = {"rate": rate, "in_flight": in_flight, "seconds": seconds, "lasts": lasts}
    others = [await Other.start(database, **job) for _ in range(2)]
    for other in others:
        other.go()
    for other in others:
        assert await other.line() == b"first\n"  # neither is starved, however long it takes
    each = [await other.sent() for other in others]

    both = [*each[0], *each[1]]
    if rate is not None:
        assert burst([s.began for s in both], rate) <= allowed(rate)
    if in_flight is not None:
        assert overlap(both) <= in_flight


async def test_slots_of_a_killed_process_come_back_after_the_request_timeout_not_before(
    database: str, pool: db.Pool
) -> None:
    limits = {"m": Meter(in_flight=2)}
    killed = await Other.start(database, in_flight=2, seconds=60, lasts=60, timeout=1.0, workers=3)
    killed.go()
    assert [await killed.line() for _ in range(2)] == [b"began\n"] * 2
    began = time.monotonic()
    killed.process.kill()
    await killed.process.wait()

    mine = Meters(pool, "scope", limits, "mine", 1.0)
    assert (await mine.budget_left("m")).in_flight == 2
    async with mine.permit("m"), mine.permit("m"):
        waited = time.monotonic() - began

    assert waited >= 1.0 - SLACK  # the process began a little before we read so


async def test_a_busy_process_does_not_keep_the_only_slot(pool: db.Pool) -> None:
    """Either has requests waiting all the time; the slot goes round."""
    limits = {"m": Meter(in_flight=1)}
    one = Meters(pool, "scope", limits, "one", 5.0)
    two = Meters(pool, "scope", limits, "two", 5.0)
    async with sending(one, 5, 0.005) as first, sending(two, 5, 0.005) as second:
        while not (len(first) > 100 and len(second) > 100):
            await asyncio.sleep(0.05)

    assert overlap([*first, *second]) == 1


async def ask_for_slot(pool: db.Pool, holder: str, held: Sequence[int] = ()) -> list[int]:
    """What one draw answers to *holder*, who waits for one slot of two."""
    row = await pool.fetchrow(
        sql.meter.draw,
        *("scope", "m", f"{holder}/write", "write", 0, 0.025, 1, list(held), [], 9.0),
        *(0, date.min, None, 2, None),
    )
    assert row
    return list(row["slots"])


async def test_a_slot_goes_first_to_who_found_none_and_has_no_more(pool: db.Pool) -> None:
    await Meters(pool, "scope", {}, "any", 5.0).set_limits({"m": Meter(in_flight=2)})
    assert await ask_for_slot(pool, "rich") == [1]
    assert await ask_for_slot(pool, "rich", held=[1]) == [2]
    assert await ask_for_slot(pool, "poor") == []
    assert await ask_for_slot(pool, "rich", held=[1]) == []  # gives 2 back and wants it again

    assert await ask_for_slot(pool, "poor") == [2]
    assert await ask_for_slot(pool, "late") == []
    assert await ask_for_slot(pool, "rich", held=[]) == []
    assert await ask_for_slot(pool, "late") == [1]


# ── The rule itself, on a clock of its own ──────────────────────────────────────────────────


class Draw(NamedTuple):
    starts: float
    permits: int


async def simulate(
    pool: db.Pool, rate: float, seconds: float, askers: dict[str, int]
) -> dict[str, list[Draw]]:
    """Let *askers* (kind → how many) draw full chunks without rest, on an imagined clock."""
    zero = datetime.fromisoformat("2030-01-01T00:00:00+00:00")
    clocks = {"tat": zero, "read": zero}
    wanted = {"write": zero, "read": zero}
    ready = [(zero + timedelta(milliseconds=i), i, kind) for i, kind in enumerate(_each(askers))]
    drawn: dict[str, list[Draw]] = {kind: [] for kind in askers}
    async with pool.acquire() as connection:
        while (asked := min(ready))[0] < zero + timedelta(seconds=seconds):
            at, number, kind = asked
            row = await connection.fetchrow(
                "select p.* from syncd.place(row('s', 'm', $1::float8, null, null, 0.2, 0.1,"
                " $2::timestamptz, $3::timestamptz, $4::timestamptz, $5::timestamptz, '-infinity',"
                " '', 0, '-infinity', '-infinity', 0, 0)::syncd.meter, $6::timestamptz, $7::bool,"
                " 100000, 0.025) p",
                *(rate, clocks["tat"], clocks["read"], wanted["write"], wanted["read"]),
                *(at, kind == "read"),
            )
            assert row
            clocks = {"tat": row["tat"], "read": row["read_tat"]}
            wanted[kind] = max(wanted[kind], row["starts"] + timedelta(seconds=1))
            drawn[kind].append(Draw((row["starts"] - zero).total_seconds(), row["permits"]))
            ready.remove(asked)
            ready.append((max(at, row["starts"]) + timedelta(milliseconds=3), number, kind))
    return drawn


def _each(askers: dict[str, int]) -> Iterator[str]:
    for kind, number in askers.items():
        yield from [kind] * number


def within(draws: Sequence[Draw], begin: float, end: float) -> int:
    return sum(d.permits for d in draws if begin <= d.starts < end)


@pytest.mark.parametrize("rate", [0.5, 3.0, 7.5, 40.0, 1000.0, 33333.3])
@pytest.mark.parametrize("writers", [1, 9])
async def test_reading_keeps_its_share_and_both_together_the_rate(
    pool: db.Pool, rate: float, writers: int
) -> None:
    seconds = max(20.0, 100 / rate) if rate < 40 else 4.0
    drawn = await simulate(pool, rate, seconds, {"write": writers, "read": 1})

    spread = [d.starts for draws in drawn.values() for d in draws for _ in range(d.permits)]
    assert burst(spread, rate) <= max(1, rate * 0.05) + 1
    begin = seconds / 4  # what was promised before the first reader asked is over
    length = seconds - begin
    assert within(drawn["read"], begin, seconds) >= rate * 0.2 * length * 0.75 - 2
    assert within(drawn["write"], begin, seconds) >= rate * 0.8 * length * 0.75 - 2


@pytest.mark.parametrize("kind", ["read", "write"])
async def test_who_is_alone_has_the_whole_rate(pool: db.Pool, kind: str) -> None:
    drawn = await simulate(pool, 200.0, 4.0, {kind: 3})

    assert 200 * 4 - 20 <= within(drawn[kind], 0, 4.0) <= 200 * 4 + 10


async def test_reads_get_through_while_another_process_writes_all_it_can(
    database: str, pool: db.Pool
) -> None:
    other = await Other.start(database, rate=100, in_flight=10, seconds=3, workers=60)
    mine = Meters(pool, "scope", {"m": Meter(100, 10)}, "mine", 5.0)
    reads: list[float] = []
    other.go()
    for _ in range(20):
        async with mine.permit("m", purpose="read"):
            reads.append(time.monotonic())
    writes = [s.began for s in await other.sent()]

    meanwhile = [t for t in writes if reads[0] + 0.5 <= t <= reads[-1]]
    assert burst([*writes, *reads], 100) <= allowed(100) + 1
    assert burst(meanwhile, 80) <= allowed(100)


# ── The day ─────────────────────────────────────────────────────────────────────────────────


async def spend(meters: Meters, why: Purpose) -> tuple[int, float]:
    """Send until refused; how many went, and how long the refusal says to wait."""
    for number in range(1000):
        try:
            async with meters.permit("m", purpose=why):
                pass
        except Transient as refused:
            return number, refused.after
    raise AssertionError("never refused")


async def test_a_day_ends_with_the_share_that_is_kept_for_opt_outs(pool: db.Pool) -> None:
    """Requests are counted, not draws; a used-up day is told with the seconds till midnight."""
    limits = {"m": Meter(per_second=1000, per_day=20)}
    meters = Meters(pool, "scope", limits, "mine", 5.0, lane0_share=0.25)

    number, after = await spend(meters, "write")
    assert number == 15
    assert 0 < after <= 86400
    assert (await spend(meters, "read"))[0] == 0
    budget = await meters.budget_left("m")
    assert budget.left_today == 5
    assert budget.next_at is not None
    assert budget.next_at.time() == datetime.min.time()  # midnight, UTC
    assert (await spend(meters, "opt_out"))[0] == 5
    assert (await meters.budget_left("m")).left_today == 0

    await pool.execute("update syncd.meter set day = day - 1")  # midnight
    with contextlib.suppress(Transient):  # the refusal is believed for up to a second
        await spend(meters, "write")
    await asyncio.sleep(1.01)
    assert (await spend(meters, "write"))[0] == 15


async def test_the_day_is_counted_over_processes(database: str, pool: db.Pool) -> None:
    job = {"rate": 500, "per_day": 400, "seconds": 2.5, "workers": 7}
    others = [await Other.start(database, **job) for _ in range(2)]
    for other in others:
        other.go()
    number = sum([len(await other.sent()) for other in others])

    used = await pool.fetchval("select used_today from syncd.meter")
    assert 0 < number <= used <= 360


# ── Hold-offs and changed limits ────────────────────────────────────────────────────────────


@pytest.mark.parametrize("rate", [50, None])
async def test_a_hold_off_stops_the_other_process_and_a_shorter_one_does_not_shorten_it(
    database: str, pool: db.Pool, rate: float | None
) -> None:
    in_flight = None if rate else 3
    job = {"rate": rate, "in_flight": in_flight, "seconds": 4, "workers": 10, "lasts": 0.001}
    other = await Other.start(database, **job)
    mine = Meters(pool, "scope", {"m": Meter(rate, in_flight)}, "mine", 5.0)
    other.go()
    await asyncio.sleep(0.5)
    before = time.monotonic()
    await mine.hold_off("m", 1.5)
    after = time.monotonic()
    await mine.hold_off("m", 0.01)
    began = [s.began for s in await other.sent()]

    assert not [t - after for t in began if after + 0.275 + SLACK < t < before + 1.5]
    assert any(t > before + 1.5 for t in began), "never went on"


async def test_a_long_hold_off_is_an_error_with_its_end_and_costs_the_queue_no_statements(
    pool: db.Pool,
) -> None:
    counting = Counting(pool)
    meters = Meters(counting, "scope", {"m": Meter(5)}, "mine", 5.0)
    await meters.hold_off("m", 600)
    counting.statements = 0

    outcomes = await asyncio.gather(*(spend(meters, "write") for _ in range(50)))

    assert {number for number, _ in outcomes} == {0}
    assert all(590 < after <= 600 for _, after in outcomes)
    assert counting.statements < 10


async def test_without_limits_a_hold_off_is_local_until_others_ask_how_things_stand(
    pool: db.Pool,
) -> None:
    one = Meters(pool, "scope", {"m": Meter()}, "one", 5.0)
    two = Meters(pool, "scope", {"m": Meter()}, "two", 5.0)
    await one.hold_off("m", 60)
    with pytest.raises(Transient, match="asked to wait"):
        async with one.permit("m"):
            pass
    async with two.permit("m"):
        pass
    budgets = await two.waiting()
    assert budgets["m"].next_at is not None

    with pytest.raises(Transient, match="asked to wait"):
        async with two.permit("m"):
            pass


async def test_a_lowered_rate_holds_at_once_in_the_other_process(
    database: str, pool: db.Pool
) -> None:
    other = await Other.start(database, rate=1000, seconds=3)
    mine = Meters(pool, "scope", {"m": Meter(1000)}, "mine", 5.0)
    async with mine.permit("m"):
        pass
    other.go()
    await asyncio.sleep(1)
    await mine.set_limits({"m": Meter(4)})
    lowered = time.monotonic()
    began = [s.began for s in await other.sent()]

    assert burst([t for t in began if t > lowered + 0.075 + SLACK], 4) <= allowed(4)


async def test_a_raised_rate_frees_who_was_promised_a_place_far_ahead(pool: db.Pool) -> None:
    meters = Meters(pool, "scope", {"m": Meter(0.02)}, "mine", 5.0)
    async with meters.permit("m"):
        pass
    began = time.monotonic()
    waiter = asyncio.create_task(spend_one(meters))
    await asyncio.sleep(0.2)
    await meters.set_limits({"m": Meter(20)})
    await waiter

    assert time.monotonic() - began < 45  # of the 50 it was promised


@pytest.mark.parametrize("said", ["wait", "slower"])
async def test_a_place_promised_for_later_is_void_when_the_provider_or_a_person_says_so(
    pool: db.Pool, said: str
) -> None:
    """The waiter hears of it from the database, not from the process that was told."""
    waiting = Meters(pool, "scope", {"m": Meter(0.5)}, "one", 5.0, patience=60)
    told = Meters(pool, "scope", {"m": Meter(0.5)}, "two", 5.0)
    await spend_one(waiting)
    began = time.monotonic()
    waiter = asyncio.create_task(spend_one(waiting))
    await asyncio.sleep(0.3)
    if said == "wait":
        await told.hold_off("m", 3.2)
    else:
        await told.set_limits({"m": Meter(0.25)})
    await waiter

    assert time.monotonic() - began >= 3.4


async def spend_one(meters: Meters) -> None:
    async with meters.permit("m"):
        pass


async def test_a_lowered_in_flight_holds_at_once_for_new_requests(pool: db.Pool) -> None:
    """Five are under way when the limit becomes two: nothing starts until only one is left."""
    meters = Meters(pool, "scope", {"m": Meter(in_flight=5)}, "mine", 5.0)
    ends = [asyncio.Event() for _ in range(5)]
    tasks = [asyncio.create_task(until(meters, end)) for end in ends]
    while (await meters.budget_left("m")).in_flight < 5:
        await asyncio.sleep(0.01)
    other = Meters(pool, "scope", {"m": Meter(in_flight=5)}, "other", 5.0)
    await other.set_limits({"m": Meter(in_flight=2)})

    for end, task in list(zip(ends, tasks, strict=True))[:3]:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.15), other.permit("m"):
                pass
        end.set()
        await task
    assert (await other.budget_left("m")).in_flight == 2
    ends[3].set()
    await tasks[3]
    async with other.permit("m"):
        assert (await other.budget_left("m")).in_flight == 2
    ends[4].set()
    await tasks[4]


async def until(meters: Meters, end: asyncio.Event) -> None:
    async with meters.permit("m"):
        await end.wait()


# ── Cancelled, fenced, slow, unlimited ──────────────────────────────────────────────────────


class Counting:
    """A pool that counts statements and can be slow on the way there and back."""

    def __init__(self, pool: db.Pool, delay: Callable[[], float] = lambda: 0.0) -> None:
        self.pool, self.delay, self.statements = pool, delay, 0

    async def fetchrow(self, query: str, /, *args: object) -> Any:
        self.statements += 1
        await asyncio.sleep(self.delay())
        row = await self.pool.fetchrow(query, *args)
        await asyncio.sleep(self.delay())
        return row

    async def execute(self, query: str, /, *args: object) -> Any:
        self.statements += 1
        await asyncio.sleep(self.delay())
        status = await self.pool.execute(query, *args)
        await asyncio.sleep(self.delay())
        return status


async def test_a_cancelled_waiter_leaks_neither_slot_nor_place_in_the_queue(pool: db.Pool) -> None:
    """Cancelled at any point, even between the database's commit and its answer."""
    dice = random.Random(27)
    slow = Counting(pool, lambda: dice.choice([0, 0, 0.002]))
    meters = Meters(slow, "scope", {"m": Meter(2000, 3)}, "mine", 30.0)
    for _ in range(150):
        tasks = [asyncio.create_task(spend_one(meters)) for _ in range(dice.randint(1, 6))]
        await asyncio.sleep(dice.random() * 0.015)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        budget = await meters.budget_left("m")
        assert (budget.in_flight, budget.queued) == (0, 0)

    async with meters.permit("m"), meters.permit("m"), meters.permit("m"):
        assert (await meters.budget_left("m")).in_flight == 3


async def test_a_database_slower_than_a_permit_lasts_stops_nobody(pool: db.Pool) -> None:
    slow = Counting(pool, lambda: 0.04)
    meters = Meters(slow, "scope", {"m": Meter(50, 2)}, "mine", 5.0)
    times = []
    for _ in range(8):
        async with meters.permit("m"):
            times.append(time.monotonic())

    assert burst(times, 50) <= allowed(50)


async def test_a_slow_moment_of_the_database_is_soon_made_up_for(pool: db.Pool) -> None:
    """Permits that last longer are paid for by everybody: a stall must not slow a fleet for
    minutes."""
    delay = 0.1
    slow = Counting(pool, lambda: delay)
    meters = Meters(slow, "scope", {"m": Meter(50)}, "mine", 5.0)
    await spend_one(meters)
    (lane,) = meters._lanes.values()
    stretched = lane.stretch
    delay = 0.0
    for _ in range(15):
        await spend_one(meters)
    assert stretched >= 16
    assert lane.stretch <= 2


async def test_the_fence_is_asked_last_and_a_fenced_permit_holds_nothing(pool: db.Pool) -> None:
    def fence() -> None:
        raise Fenced("too old")

    meters = Meters(pool, "scope", {"m": Meter(10, 2)}, "mine", 5.0, fence=fence)
    for name in ("m", "unlimited"):
        with pytest.raises(Fenced):
            async with meters.permit(name):
                raise AssertionError("sent")
    assert (await meters.budget_left("m")).in_flight == 0


async def test_a_meter_without_limits_never_asks_the_database() -> None:
    class Forbidden:
        async def fetchrow(self, query: str, /, *args: object) -> Any:
            raise AssertionError(query)

        execute = fetchrow

    meters = Meters(Forbidden(), "scope", {"m": Meter()}, "mine", 5.0)
    for name in ("m", "unheard of"):
        async with meters.permit(name):
            pass


async def test_requests_leave_in_the_order_in_which_they_asked(pool: db.Pool) -> None:
    meters = Meters(pool, "scope", {"m": Meter(200, 3)}, "mine", 5.0)
    order: list[int] = []

    async def ask(number: int) -> None:
        async with meters.permit("m"):
            order.append(number)
            await asyncio.sleep(0.001)

    async with asyncio.TaskGroup() as group:
        for number in range(60):
            group.create_task(ask(number))

    assert order == sorted(order)


async def test_a_queue_shares_draws_and_slots(pool: db.Pool) -> None:
    """Statements follow time and chunks, not requests."""
    counting = Counting(pool)
    meters = Meters(counting, "scope", {"m": Meter(4000, 10)}, "mine", 5.0)
    async with sending(meters, 50, 0.0001) as sent:
        while len(sent) < 1000:
            await asyncio.sleep(0.01)

    assert counting.statements < len(sent) / 3
    assert overlap(sent) <= 10


async def one_of_ten(meters: Meters) -> None:
    """Let ten ask at once, and nine be cancelled when the first has got a permit."""
    tasks = [asyncio.create_task(spend_one(meters)) for _ in range(10)]
    await tasks[0]
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def test_permits_that_were_not_used_in_time_are_not_used_later(pool: db.Pool) -> None:
    counting = Counting(pool)
    meters = Meters(counting, "scope", {"m": Meter(400)}, "mine", 5.0)
    await one_of_ten(meters)
    drawn = counting.statements
    await asyncio.sleep(0.05)
    await spend_one(meters)

    assert counting.statements > drawn


async def test_what_was_drawn_and_not_sent_goes_back_into_the_day(pool: db.Pool) -> None:
    meters = Meters(pool, "scope", {"m": Meter(None, None, 100)}, "mine", 5.0)
    await one_of_ten(meters)
    assert await pool.fetchval("select used_today from syncd.meter") == 10
    await meters.release()

    assert (await meters.budget_left("m")).left_today in range(90, 100)
    assert await pool.fetchval("select used_today from syncd.meter") < 10


async def test_release_gives_back_what_no_request_uses(pool: db.Pool) -> None:
    meters = Meters(pool, "scope", {"m": Meter(100, 3, 1000)}, "mine", 60.0)
    async with meters.permit("m"):
        await meters.release()
        assert (await meters.budget_left("m")).in_flight == 1
    await meters.release()
    budget = await meters.budget_left("m")
    assert (budget.in_flight, budget.left_today) == (0, 999)


async def test_the_purpose_may_come_from_the_context(pool: db.Pool) -> None:
    meters = Meters(pool, "scope", {"m": Meter(100)}, "mine", 5.0)
    token = purpose.set("read")
    try:
        async with meters.permit("m"):
            pass
    finally:
        purpose.reset(token)
    assert await pool.fetchval("select read_wanted_until > write_wanted_until from syncd.meter")


async def test_a_meter_whose_row_was_removed_is_declared_again(pool: db.Pool) -> None:
    meters = Meters(pool, "scope", {"m": Meter(100, 2)}, "mine", 5.0)
    await spend_one(meters)
    await pool.execute("delete from syncd.meter")
    await spend_one(meters)
    assert await pool.fetchval("select per_second from syncd.meter") == 100


# ── Values ──────────────────────────────────────────────────────────────────────────────────


def test_of_destinations_in_one_scope_the_smallest_limits_hold() -> None:
    assert smallest([Meter(5, None, 100), Meter(None, 3, 50)]) == Meter(5, 3, 50)
    assert smallest([]) == Meter()


def test_a_scope_names_an_account_without_giving_it_away() -> None:
    key = scope_key("acme", "account-1", b"k")
    assert len(key) == 64
    assert "account" not in key
    assert (
        len({key, scope_key("acme", "account-2", b"k"), scope_key("acme", "account-1", b"j")}) == 3
    )


def test_limits_that_would_stop_everything_are_refused(pool: db.Pool) -> None:
    with pytest.raises(ConfigError) as fault:
        Meters(pool, "scope", {"m": Meter(0.0, -1)}, "mine", 5.0)
    assert len(fault.value.faults) == 2
    with pytest.raises(ConfigError):
        Meters(pool, "scope", {}, "mine", 5.0, read_share=1.0)


if __name__ == "__main__":
    asyncio.run(be_the_other(sys.argv[1], json.loads(sys.argv[2])))
