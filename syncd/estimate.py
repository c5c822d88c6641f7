"""How many requests a transfer takes, and how long under the limits: said before it begins."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from syncd import sql
from syncd.assemble import Assembled
from syncd.db import Pool
from syncd.model import Cost, Meter, Traits

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


@dataclass(slots=True)
class Load:
    """What is to be sent: contacts to be made and other changes, with how many of their lists cost
    something (`Cost.lists`)."""

    creates: int = 0
    changes: int = 0
    lists_of_creates: int = 0
    lists_of_changes: int = 0

    def without(self, changes: int) -> Load:
        """What is left where so many of the changes are not sent; lists in proportion."""
        left = max(0, self.changes - changes)
        lists = round(self.lists_of_changes * left / max(1, self.changes))
        return Load(self.creates, left, self.lists_of_creates, lists)


async def estimate(pool: Pool, made: Assembled, force: bool = False) -> Estimate:
    """By counts alone: exact for a first fill; changed contacts are not known before the plan."""
    me = made.destination.id
    contacts = int(await pool.fetchval(made.desired.count))
    here = int(await pool.fetchval(sql.plan.here, me))
    due = await pool.fetchval(sql.flow.due, me)
    changes = contacts if force else max(int(due), contacts - here, 0)
    traits: Traits = made.adapter.traits
    creates = min(changes, max(contacts - here, 0))
    load = await _load(pool, made, traits, creates, changes - creates, contacts)
    requests = requests_for(load, traits)
    seconds = seconds_for(requests, made.limits) + contacts / PLANNED_A_SECOND
    return Estimate(contacts, here, changes, requests, round(seconds, 1))


async def _load(
    pool: Pool, made: Assembled, traits: Traits, creates: int, changes: int, contacts: int
) -> Load:
    """With as many lists a contact as there are on average."""
    if not (traits.creating.a_list or traits.changing.a_list):
        return Load(creates, changes)
    [(memberships, members)] = await pool.fetch(made.desired.memberships)

    def lists(n: int, cost: Cost) -> int:
        told = memberships if cost.most_lists is None else members * cost.most_lists
        return int(n * told / max(1, contacts))

    return Load(creates, changes, lists(creates, traits.creating), lists(changes, traits.changing))


def even(creates: int, changes: int) -> Load:
    """A load of which no lists are known: one a contact."""
    return Load(creates, changes, creates, changes)


def requests_for(load: Load, traits: Traits) -> int:
    """How many HTTP requests a load is."""
    create, change = traits.creating, traits.changing
    lists = load.lists_of_creates * create.a_list + load.lists_of_changes * change.a_list
    if create == change:
        return math.ceil(_batches(load.creates + load.changes, traits) * create.each + lists)
    made, changed = _batches(load.creates, traits), _batches(load.changes, traits)
    return math.ceil(made * create.each + changed * change.each + lists)


def _batches(n: int, traits: Traits) -> int:
    return math.ceil(n / traits.batch)


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
