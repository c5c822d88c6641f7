"""When to look: 'on change', an interval, or cron; and the bells that ring then.

APScheduler finds the times. Its cron differs from cron's (0 is Monday there; a day of the month
and a day of the week must both fit; `jan-mar/2` silently loses its step), so every field is
expanded here to plain numbers first, and it gets no other.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta, tzinfo
from typing import NamedTuple, Self
from zoneinfo import ZoneInfo

import structlog
from apscheduler.jobstores.base import JobLookupError
from apscheduler.schedulers.asyncio import AsyncIOScheduler
from apscheduler.triggers.base import BaseTrigger
from apscheduler.triggers.combining import OrTrigger
from apscheduler.triggers.cron import CronTrigger
from apscheduler.triggers.interval import IntervalTrigger

from syncd.errors import ConfigError

log = structlog.get_logger()

ALLOWED = (
    "allowed are 'on change', an interval from 1s to 366d ('30s', '15m', '2h', '1d'), or five cron"
    " fields (minute hour day-of-month month day-of-week), with 'CRON_TZ=Europe/Berlin ' before"
    " them if not meant in UTC"
)
LONGEST = timedelta(days=366)

_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}
_DAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_LENGTHS = (31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)


class _Field(NamedTuple):
    name: str
    lowest: int
    highest: int
    names: Mapping[str, int] = {}


_FIELDS = (
    _Field("minute", 0, 59),
    _Field("hour", 0, 23),
    _Field("day of month", 1, 31),
    _Field("month", 1, 12, {name: n for n, name in enumerate(_MONTHS, 1)}),
    _Field("day of week", 0, 7, {name: n for n, name in enumerate(_DAYS)}),
)


@dataclass(frozen=True, slots=True)
class Schedule:
    """A parsed schedule: an interval, or cron, or neither (on change). Equal where it says so."""

    text: str
    every: timedelta | None = None
    cron: _Cron | None = field(default=None, compare=False, repr=False)


def parse(text: str) -> Schedule:
    """Read a schedule; ConfigError names the text, what is wrong, and what is allowed."""
    plain = " ".join(text.split())
    if plain.lower() == "on change":
        return Schedule("on change")
    try:
        if match := re.fullmatch(r"([0-9]{1,9}) ?([smhd])", plain.lower()):
            every = timedelta(**{_UNITS[match[2]]: int(match[1])})
            if not timedelta(seconds=1) <= every <= LONGEST:
                raise ValueError("the interval is too short or too long")
            return Schedule(f"{match[1]}{match[2]}", every)
        return Schedule(plain, cron=_cron(plain))
    except ValueError as error:
        fault = str(error)
    raise ConfigError(f"schedule {text!r}: {fault}; {ALLOWED}")


def next_after(schedule: Schedule, at: datetime) -> datetime | None:
    """When it rings next, strictly after *at*; None: only on change."""
    if schedule.every is not None:
        return at + schedule.every
    if schedule.cron is None:
        return None
    return schedule.cron.get_next_fire_time(None, at.astimezone(UTC) + timedelta(microseconds=1))


def due_since(schedule: Schedule, last: datetime | None, now: datetime) -> bool:
    """Whether a run was missed since *last* (None: there was none yet), to be made up for once."""
    missed = next_after(schedule, last or now)
    return missed is not None and (last is None or missed <= now)


class _Cron(BaseTrigger):  # type: ignore[misc]  # it has no types
    """CronTrigger, but never a day less: in spring it loses the midnight after the clock change.

    So the clock's own reading is asked too, as if it were UTC. In autumn the hour that comes twice
    rings twice; a time that spring leaves out rings an hour later (of several, the first).
    """

    __slots__ = ("_clock", "_moment", "_zone")

    def __init__(self, zone: tzinfo, texts: Sequence[str]) -> None:
        self._zone = zone
        self._moment = OrTrigger([CronTrigger.from_crontab(text, zone) for text in texts])
        self._clock = OrTrigger([CronTrigger.from_crontab(text, UTC) for text in texts])

    def get_next_fire_time(self, previous: datetime | None, now: datetime) -> datetime | None:
        """Of moments strictly after *previous* and not before *now*; missed ones too."""
        start = now if previous is None else min(now, previous + timedelta(microseconds=1))
        reading = start.astimezone(self._zone).replace(tzinfo=UTC, fold=0)
        found = [self._moment.get_next_fire_time(None, start)]
        if shown := self._clock.get_next_fire_time(None, reading):
            found.append(shown.replace(tzinfo=self._zone, fold=0))
        moments = [at.astimezone(UTC) for at in found if at is not None]
        return min((at for at in moments if at >= start), default=None)


def _cron(text: str) -> _Cron:
    zone: tzinfo = UTC
    parts = text.split()
    if parts and parts[0].startswith("CRON_TZ="):
        zone = _zone(parts.pop(0).removeprefix("CRON_TZ="))
    if len(parts) != len(_FIELDS):
        raise ValueError("neither an interval nor five cron fields")
    numbers = [_expanded(part, of) for part, of in zip(parts, _FIELDS, strict=True)]
    _possible(parts, numbers)
    minute, hour, day, month, _ = (_listed(p, n) for p, n in zip(parts, numbers, strict=True))
    weekday = _listed(parts[4], sorted({(n - 1) % 7 for n in numbers[4]}))  # 0 is Monday there
    days = [(day, weekday)]
    if not parts[2].startswith("*") and not parts[4].startswith("*"):
        days = [(day, "*"), ("*", weekday)]  # cron rings on either where both are restricted
    return _Cron(zone, [f"{minute} {hour} {d} {month} {w}" for d, w in days])


def _zone(name: str) -> ZoneInfo:
    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError):
        pass
    raise ValueError(f"{name!r} is no time zone")


def _listed(part: str, numbers: Sequence[int]) -> str:
    return "*" if part == "*" else ",".join(map(str, numbers))


def _expanded(part: str, of: _Field) -> Sequence[int]:
    """Every number a field stands for: `*`, `n`, `a-b`, each with `/step`, in a list."""
    found: set[int] = set()
    for item in part.lower().split(","):
        match = re.fullmatch(r"(?:\*|([0-9]+|[a-z]+)(?:-([0-9]+|[a-z]+))?)(?:/([0-9]{1,4}))?", item)
        if not match or (match[3] and int(match[3]) == 0):
            raise ValueError(f"{of.name} {part!r} is not understood")
        highest = 6 if of.highest == 7 else of.highest  # 7 is Sunday once more
        first = _number(match[1], of) if match[1] else of.lowest
        last = _number(match[2], of) if match[2] else first
        if match[2] == "sun" and first > 0:
            last = 7
        if not match[2] and (not match[1] or match[3]):
            last = max(first, highest)
        if first > last:
            raise ValueError(f"{of.name} {part!r}: the range goes backwards")
        found.update(range(first, last + 1, int(match[3] or 1)))
    return sorted({n % 7 for n in found} if of.highest == 7 else found)


def _number(text: str, of: _Field) -> int:
    if text in of.names:
        return of.names[text]
    if not text.isdigit() or not of.lowest <= int(text) <= of.highest:
        names = f" or {', '.join(of.names)}" if of.names else ""
        raise ValueError(f"{of.name} {text!r}: expected {of.lowest} to {of.highest}{names}")
    return int(text)


def _possible(parts: Sequence[str], numbers: Sequence[Sequence[int]]) -> None:
    """31 February never comes, and APScheduler would look for it until the year 9999."""
    if parts[4].startswith("*") and not any(
        day <= _LENGTHS[month - 1] for day in numbers[2] for month in numbers[3]
    ):
        raise ValueError("there is no such day in any year")


class Bells:
    """Rings callbacks at their times. A callback only sets an event: work is done elsewhere.

    `on_error` is told of an exception in a callback: a bug, and so the end of the process (the
    scheduler itself would log it and go on). Enter it inside a running loop.
    """

    def __init__(self, on_error: Callable[[BaseException], None]) -> None:
        self._on_error = on_error
        self._rung: dict[str, Schedule] = {}
        self._scheduler = AsyncIOScheduler(
            timezone=UTC,
            job_defaults={"coalesce": True, "misfire_grace_time": None, "max_instances": 1},
        )

    async def __aenter__(self) -> Self:
        self._scheduler.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        self._scheduler.shutdown(wait=False)
        await asyncio.sleep(0)  # it stops in the loop's next turn

    def ring(self, name: str, schedule: Schedule, callback: Callable[[], Awaitable[None]]) -> None:
        """Call *callback* by *schedule* from now on, in place of what *name* rang before.

        The same schedule again keeps its time, so that editing a row does not put a day off.
        """
        if not inspect.iscoroutinefunction(callback):
            raise TypeError(f"the callback of bell {name!r} must be an async def")
        if self._rung.get(name) == schedule:
            self._scheduler.modify_job(name, args=(name, callback))
            return
        self.silence(name)
        trigger: BaseTrigger = schedule.cron
        if schedule.every is not None:
            trigger = IntervalTrigger(seconds=int(schedule.every.total_seconds()), timezone=UTC)
        if trigger is not None:
            self._scheduler.add_job(self._call, trigger, (name, callback), id=name)
            self._rung[name] = schedule

    def silence(self, name: str) -> None:
        """Ring *name* no more; nothing happens if it never rang."""
        self._rung.pop(name, None)
        with contextlib.suppress(JobLookupError):
            self._scheduler.remove_job(name)

    def names(self) -> Sequence[str]:
        """What rings, in alphabetical order."""
        return sorted(self._rung)

    async def _call(self, name: str, callback: Callable[[], Awaitable[None]]) -> None:
        try:
            await callback()
        except Exception as error:
            log.exception("bell failed", bell=name)
            self._on_error(error)
