"""How many requests a transfer takes, and how long under the limits: said before it begins."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from syncd import sql
from syncd.assemble import Assembled
from syncd.db import Pool
from syncd.model import Meter, Traits

ROUND_TRIP = 0.3  # seconds of one request, where nothing better is known
PLANNED_A_SECOND = 20_000  # contacts compared and written down
DAY = 86_400.0


@dataclass(frozen=True, slots=True)
class Estimate:
    """contacts: who belongs.  here: who is there already.  changes: about what is to be sent."""

    contacts: int = 0
    here: int = 0
    changes: int = 0
    requests: int = 0
    seconds: float = 0.0


async def estimate(pool: Pool, made: Assembled, force: bool = False) -> Estimate:
    """By counts alone: exact for a first fill; changed contacts are not known before the plan."""
    me = made.destination.id
    contacts = int(await pool.fetchval(made.desired.count))
    here = int(await pool.fetchval(sql.plan.here, me))
    due = await pool.fetchval(sql.flow.due, me)
    changes = contacts if force else max(int(due), contacts - here, 0)
    requests = requests_for(changes, made.provider.traits)
    seconds = seconds_for(requests, made.limits) + contacts / PLANNED_A_SECOND
    return Estimate(contacts, here, changes, requests, round(seconds, 1))


def requests_for(changes: int, traits: Traits) -> int:
    """How many HTTP requests so many changes are."""
    return math.ceil(math.ceil(changes / traits.batch) * traits.requests_per_batch)


def seconds_for(requests: int, limits: Mapping[str, Meter], reads: bool = False) -> float:
    """How long so many requests take under the first meter, that of writes; *reads*: under the
    meter called so, where there is one. A day for every daily quota needed."""
    meter = next(iter(limits.values()))
    if reads:
        meter = limits.get("read", meter)
    seconds = requests * ROUND_TRIP / (meter.in_flight or 16)
    if meter.per_second:
        seconds = max(seconds, requests / meter.per_second)
    if meter.per_day and requests > meter.per_day:
        seconds = max(seconds, (math.ceil(requests / meter.per_day) - 1) * DAY)
    return seconds


def spoken(seconds: float) -> str:
    """A length of time as one would say it: '2 h 5 min'."""
    if seconds < 1:
        return "under a second"
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes} min" if hours < 48 else f"{hours / 24:.0f} days"
