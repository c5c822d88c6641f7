"""Schedules: cron as cron means it, intervals, and bells that are never lost silently."""

from __future__ import annotations

import asyncio
import calendar
import functools
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo, available_timezones

import pytest
import structlog
from apscheduler.triggers.cron import CronTrigger
from hypothesis import given, settings
from hypothesis import strategies as st

from syncd.errors import ConfigError
from syncd.schedule import Bells, Schedule, due_since, next_after, parse

MONDAY = datetime(2026, 6, 1, tzinfo=UTC)  # the first of a month, too
WEEK = ["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"]


def rings(text: str, count: int, start: datetime = MONDAY) -> list[datetime]:
    schedule, found = parse(text), [start - timedelta(seconds=1)]
    for _ in range(count):
        after = next_after(schedule, found[-1])
        assert after is not None
        found.append(after)
    return found[1:]


def weekdays(text: str) -> list[str]:
    days = {WEEK[at.weekday()] for at in rings(f"0 0 * * {text}", 14)}
    return [day for day in WEEK if day in days]


@pytest.mark.parametrize(
    ("text", "days"),
    [
        ("0", "Sun"),
        ("7", "Sun"),
        ("1", "Mon"),
        ("6", "Sat"),
        ("sun", "Sun"),
        ("MON", "Mon"),
        ("1-5", "Mon Tue Wed Thu Fri"),
        ("5-7", "Fri Sat Sun"),
        ("fri-sun", "Fri Sat Sun"),
        ("0-2", "Mon Tue Sun"),
        ("sun-tue", "Mon Tue Sun"),
        ("sun-sun", "Sun"),
        ("0,3", "Wed Sun"),
        ("mon,WED,5", "Mon Wed Fri"),
        ("1-5/2", "Mon Wed Fri"),
        ("*/2", "Tue Thu Sat Sun"),
        ("2/2", "Tue Thu Sat"),
        ("0-7", "Mon Tue Wed Thu Fri Sat Sun"),
    ],
)
def test_days_of_the_week_are_numbered_as_cron_does(text: str, days: str) -> None:
    assert weekdays(text) == days.split()


def cron_says(at: datetime, fields: list[set[int]], dom_star: bool, dow_star: bool) -> bool:
    """Vixie cron's own test of a minute, written down again."""
    minute, hour, dom, month, dow = fields
    by_dom, by_dow = at.day in dom, (at.weekday() + 1) % 7 in dow
    day = by_dom and by_dow if dom_star or dow_star else by_dom or by_dow
    return at.minute in minute and at.hour in hour and at.month in month and day


@settings(deadline=None, max_examples=150)
@given(
    minute=st.sets(st.integers(0, 59), min_size=1, max_size=3),
    hour=st.sets(st.integers(0, 23), min_size=1, max_size=3),
    dom=st.none() | st.sets(st.integers(1, 28), min_size=1, max_size=3),
    month=st.none() | st.sets(st.integers(1, 12), min_size=1, max_size=4),
    dow=st.none() | st.sets(st.integers(0, 6), min_size=1, max_size=3),
    start=st.integers(-60_000_000, 60_000_000).map(lambda n: MONDAY + timedelta(seconds=n)),
)
def test_the_next_ring_is_the_next_minute_cron_would_choose(
    minute: set[int],
    hour: set[int],
    dom: set[int] | None,
    month: set[int] | None,
    dow: set[int] | None,
    start: datetime,
) -> None:
    text = " ".join("*" if one is None else ",".join(map(str, one)) for one in (dom, month, dow))
    text = f"{','.join(map(str, minute))} {','.join(map(str, hour))} {text}"
    fields = [minute, hour, dom or set(range(32)), month or set(range(13)), dow or set(range(7))]
    at = next_after(parse(text), start)
    day = start.replace(hour=0, minute=0, second=0, microsecond=0)
    expected = min(
        moment
        for n in range(400)
        for h in hour
        for m in minute
        if (moment := day + timedelta(days=n, hours=h, minutes=m)) > start
        and cron_says(moment, fields, dom is None, dow is None)
    )

    assert at == expected


@pytest.mark.parametrize(
    ("text", "first"),
    [
        ("17 3 * * *", "2026-06-01 03:17"),
        ("*/20 * * * *", "2026-06-01 00:00"),
        ("10/20 5 * * *", "2026-06-01 05:10"),
        ("0 9-17/4 * * *", "2026-06-01 09:00"),
        ("0 0 * jul-sep/2 *", "2026-07-01 00:00"),
        ("0 0 * FEB *", "2027-02-01 00:00"),
        ("0 0 29 2 *", "2028-02-29 00:00"),
        ("0 0 13 * fri", "2026-06-05 00:00"),
        ("0 0 31 2 fri", "2027-02-05 00:00"),
        ("0 0 */2 * fri", "2026-06-05 00:00"),
        ("  0   0  2 *  * ", "2026-06-02 00:00"),
        ("CRON_TZ=Europe/Berlin 17 3 * * *", "2026-06-01 01:17"),
        ("CRON_TZ=America/New_York 0 22 * * 0", "2026-06-01 02:00"),
    ],
)
def test_the_first_ring_of(text: str, first: str) -> None:
    assert f"{rings(text, 1)[0].astimezone(UTC):%Y-%m-%d %H:%M}" == first


def test_february_29_as_a_step_keeps_to_real_days() -> None:
    days = {(at.month, at.day) for at in rings("0 12 28-31 2 *", 6)}

    assert days == {(2, 28), (2, 29)}
    assert calendar.isleap(2028)


CHANGES = [  # midnight that there is not, half an hour, a change at midnight, the usual ones
    ("Europe/Berlin", datetime(2026, 3, 28, tzinfo=UTC)),
    ("Europe/Berlin", datetime(2026, 10, 24, tzinfo=UTC)),
    ("America/New_York", datetime(2026, 3, 7, tzinfo=UTC)),
    ("America/Santiago", datetime(2026, 9, 5, tzinfo=UTC)),
    ("Asia/Beirut", datetime(2026, 3, 28, tzinfo=UTC)),
    ("Australia/Lord_Howe", datetime(2026, 4, 3, tzinfo=UTC)),
    ("Australia/Lord_Howe", datetime(2026, 10, 2, tzinfo=UTC)),
]


@pytest.mark.parametrize(("zone", "start"), CHANGES)
@pytest.mark.parametrize(
    ("hours", "minutes"),
    [({0}, {0}), ({2}, {30}), ({1, 2, 3}, {0, 59}), (set(range(24)), {0, 40})],
)
def test_a_change_of_the_clock_loses_no_ring(
    zone: str, start: datetime, hours: set[int], minutes: set[int]
) -> None:
    """Every minute whose clock reading fits; and what spring leaves out, an hour later."""
    text = f"{','.join(map(str, sorted(minutes)))} {','.join(map(str, sorted(hours)))} * * *"
    there = ZoneInfo(zone)
    moments = [start + timedelta(minutes=n) for n in range(3 * 24 * 60)]
    readings = [(at, at.astimezone(there)) for at in moments]
    fitting = {at for at, clock in readings if clock.hour in hours and clock.minute in minutes}
    shown = {clock.replace(tzinfo=None) for _, clock in readings}
    hole = [
        first.replace(tzinfo=there).astimezone(UTC)
        for first in {min(shown) + timedelta(minutes=m) for m in range(3 * 24 * 60)} - shown
        if first < max(shown) and first.hour in hours and first.minute in minutes
    ]
    expected = sorted(fitting | set(hole))

    assert rings(f"CRON_TZ={zone} {text}", len(expected), start) == expected


def test_the_scheduler_is_told_of_every_ring_since_the_last_one() -> None:
    cron = parse("CRON_TZ=Europe/Berlin 0 0 * * *").cron
    assert cron is not None
    at, now, found = datetime(2026, 3, 27, 23, tzinfo=UTC), MONDAY, []
    while (after := cron.get_next_fire_time(at, now)) and after <= now:
        found.append(at := after)

    assert len(found) == 65


def test_intervals_and_on_change_are_read_however_they_are_spaced() -> None:
    assert parse("30s").every == timedelta(seconds=30)
    assert parse(" 15 M ").every == timedelta(minutes=15)
    assert parse("2h") == parse("2 H")
    assert parse("366d").every == timedelta(days=366)
    assert parse(" On  Change ") == Schedule("on change")
    assert parse("0 1 * * *") == parse("0  1 * * *") != parse("0 2 * * *")


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "neither"),
        ("hourly", "neither"),
        ("0s", "too short"),
        ("367d", "too long"),
        ("999999999d", "too long"),
        ("1.5h", "neither"),
        ("-5s", "neither"),
        ("* * * *", "neither"),
        ("* * * * * *", "neither"),
        ("60 * * * *", "minute '60': expected 0 to 59"),
        ("* 24 * * *", "hour '24': expected 0 to 23"),
        ("* * 0 * *", "day of month '0': expected 1 to 31"),
        ("* * * 13 *", "month '13': expected 1 to 12 or jan, feb"),
        ("* * * * 8", "day of week '8': expected 0 to 7 or sun, mon"),
        ("* * * * funday", "day of week 'funday'"),
        ("* * * * mon-", "is not understood"),
        ("*/0 * * * *", "is not understood"),
        ("1,,2 * * * *", "is not understood"),
        ("5-1 * * * *", "the range goes backwards"),
        ("* * last * *", "day of month 'last'"),
        ("* * * * mon#2", "is not understood"),
        ("٣ * * * *", "is not understood"),
        ("0 0 31 2,4 *", "no such day"),
        ("0 0 30-31 2 */2", "no such day"),
        ("CRON_TZ=Mars/Olympus * * * * *", "'Mars/Olympus' is no time zone"),
        ("CRON_TZ=../../etc/passwd * * * * *", "is no time zone"),
        ("CRON_TZ=Europe * * * * *", "is no time zone"),
        ("CRON_TZ= * * * * *", "'' is no time zone"),
        ("CRON_TZ=UTC", "neither"),
    ],
)
def test_a_wrong_schedule_is_told_with_the_text_the_fault_and_what_is_allowed(
    text: str, why: str
) -> None:
    with pytest.raises(ConfigError) as raised:
        parse(text)
    [fault] = raised.value.faults

    assert fault.startswith(f"schedule {text!r}: ")
    assert why in fault
    assert "allowed are 'on change', an interval" in fault


def test_time_zones_are_there() -> None:
    assert "Europe/Berlin" in available_timezones()


@pytest.mark.parametrize(
    ("text", "last", "due"),
    [
        ("on change", None, False),
        ("on change", -900, False),
        ("15m", None, True),
        ("15m", -899, False),
        ("15m", -900, True),
        ("15m", 5, False),
        ("0 0 * * *", None, True),
        ("0 0 * * *", -86400 * 9, True),
        ("0 0 * * *", -1, True),
        ("0 0 * * *", 0, False),
        ("30 23 * * *", -1801, True),
        ("30 23 * * *", -1800, False),
    ],
)
def test_a_run_that_was_missed_is_due_once(text: str, last: int | None, due: bool) -> None:
    before = None if last is None else MONDAY + timedelta(seconds=last)

    assert due_since(parse(text), before, MONDAY) is due
    assert due_since(parse(text), MONDAY, MONDAY) is False


# ── Bells ───────────────────────────────────────────────────────────────────────────────────


class Heard:
    """A callback that counts, and lets a test wait for it."""

    def __init__(self) -> None:
        self.times = 0
        self.event = asyncio.Event()

    async def ring(self) -> None:
        self.times += 1
        self.event.set()

    async def soon(self) -> None:
        self.event.clear()
        await asyncio.wait_for(self.event.wait(), 60)


def never(error: BaseException) -> None:
    raise AssertionError(error)


async def test_a_bell_rings_by_its_interval_until_it_is_silenced() -> None:
    heard = Heard()
    async with Bells(never) as bells:
        bells.ring("acme", parse("1s"), heard.ring)
        await heard.soon()
        await heard.soon()
        assert bells.names() == ["acme"]
        bells.silence("acme")
        bells.silence("acme")
        assert bells.names() == []
        times = heard.times
        await asyncio.sleep(1.3)

    assert heard.times == times == 2


async def test_a_cron_bell_rings() -> None:
    heard = Heard()
    async with Bells(never) as bells:
        schedule = parse("* * * * *")
        cron: Any = schedule.cron  # a minute is long for a test: the same, every second
        cron._moment = cron._clock = CronTrigger(second="*", timezone=UTC)
        bells.ring("acme", schedule, heard.ring)
        await heard.soon()


async def test_on_change_rings_nothing_and_silences_what_rang_before() -> None:
    heard = Heard()
    async with Bells(never) as bells:
        bells.ring("acme", parse("1s"), heard.ring)
        bells.ring("acme", parse("on change"), heard.ring)
        await asyncio.sleep(1.3)
        assert bells.names() == []

    assert heard.times == 0


async def test_a_new_schedule_replaces_the_old_one_while_it_runs() -> None:
    slow, fast = Heard(), Heard()
    async with Bells(never) as bells:
        bells.ring("acme", parse("1d"), slow.ring)
        bells.ring("acme", parse("1s"), fast.ring)
        await fast.soon()

    assert slow.times == 0


async def test_the_same_schedule_again_keeps_its_time_and_takes_the_new_callback() -> None:
    old, new = Heard(), Heard()
    async with Bells(never) as bells:
        bells.ring("acme", parse("2s"), old.ring)
        for _ in range(5):
            await asyncio.sleep(0.3)
            bells.ring("acme", parse("2s"), new.ring)
        await asyncio.wait_for(new.event.wait(), 1.5)

    assert (old.times, new.times) == (0, 1)


async def test_a_callback_that_fails_is_logged_and_ends_the_process() -> None:
    failed: asyncio.Future[BaseException] = asyncio.get_running_loop().create_future()

    async def broken() -> None:
        raise RuntimeError("a bug")

    with structlog.testing.capture_logs() as logs:
        async with Bells(failed.set_result) as bells:
            bells.ring("acme", parse("1s"), broken)
            error = await asyncio.wait_for(failed, 60)

    assert repr(error) == "RuntimeError('a bug')"
    assert [(entry["event"], entry["bell"]) for entry in logs] == [("bell failed", "acme")]


async def test_only_an_async_def_may_be_rung() -> None:
    def plain() -> Any: ...

    async with Bells(never) as bells:
        with pytest.raises(TypeError, match="must be an async def"):
            bells.ring("acme", parse("1s"), plain)
        bells.ring("acme", parse("1d"), functools.partial(Heard().ring))
        assert bells.names() == ["acme"]


async def test_bells_hung_up_before_the_start_ring_after_it() -> None:
    heard = Heard()
    bells = Bells(never)
    bells.ring("acme", parse("1d"), heard.ring)
    bells.ring("acme", parse("1s"), heard.ring)
    async with bells:
        await heard.soon()


async def test_a_loop_that_was_blocked_rings_once_for_all_it_missed() -> None:
    heard = Heard()
    async with Bells(never) as bells:
        bells.ring("acme", parse("1s"), heard.ring)
        await asyncio.sleep(0)
        blocked = datetime.now(UTC) + timedelta(seconds=3.5)
        while datetime.now(UTC) < blocked:
            pass
        await asyncio.sleep(0.2)

    assert heard.times == 1
