"""A provider that is away, or sick: what that costs its own contacts, and nobody else's."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, cast

import pytest
from acme import Acme, serving
from aiohttp import web
from support import Hand, World, add_destination, many, rename, world
from test_meter import allowed, burst

from syncd.db import Pool
from syncd.flow import Flow
from syncd.meter import Meters
from syncd.model import Meter

LONG = 120.0  # seconds that a slow machine may take


class Timed(Acme):
    """Notes when each write came, and how many of them were there at a time."""

    def __init__(self, *args: Any, **more: Any) -> None:
        super().__init__(*args, **more)
        self.times: list[float] = []
        self.now = self.most = 0

    async def push(self, request: web.Request) -> web.StreamResponse:
        self.times.append(time.monotonic())
        self.now += 1
        self.most = max(self.most, self.now)
        try:
            return await super().push(request)
        finally:
            self.now -= 1


@asynccontextmanager
async def pumping(*flows: Flow) -> AsyncIterator[None]:
    """These flows send until the block ends."""
    tasks = [asyncio.create_task(one.pump(until_empty=False)) for one in flows]
    try:
        yield
    finally:
        for one in flows:
            one.stop.set()
            one.bells.push.set()
        await asyncio.wait_for(asyncio.gather(*tasks), LONG)


async def until(reached: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(LONG):
        while not await reached():
            await asyncio.sleep(0.02)


def metered(hand: Hand, limit: Meter) -> None:
    """From now on its requests ask a real meter."""
    meters = Meters(hand.pool, hand.destination.name, {"default": limit}, "one", 5.0)
    cast("Any", hand.push.adapter)._wire._permits = meters


async def pass_time(hand: Hand, flow: Flow) -> None:
    """Whatever waits for a time has waited for it: the contacts, the breaker, a hold-off."""
    await hand.hurry()
    flow.breaker.open_until = 0.0
    flow.bells.push.set()


# ── An hour without the provider ────────────────────────────────────────────────────────────


@pytest.mark.parametrize("status", [429, 503])
async def test_an_hours_outage_uses_up_no_attempt_and_ends_without_a_herd(
    pool: Pool, status: int
) -> None:
    """The hour is passed by the clocks that it is waited for with: due times and the breaker's.

    After a 503 to a write it may have been done: that is doubt, and counted, but nobody is rejected
    for it. At its end all rows are due at one instant. Arrivals are the provider's own notes; the
    rate is that of any length of time after the end, not only of the whole.
    """
    rate, in_flight, number = 20.0, 3, 400
    async with world(pool, batch=10, server_kind=Timed) as w:
        acme = cast("Timed", w.acme)
        metered(w.hand, Meter(rate, in_flight))
        await many(pool, number)
        await w.hand.plan()
        flow = w.flow(w.hand)
        acme.always = status
        async with pumping(flow):
            await until(lambda: opened(flow))
            for _ in range(12):  # every five minutes of the hour everybody is due again
                before = len(acme.times)
                await pass_time(w.hand, flow)
                await until(lambda before=before: more(acme, before))  # type: ignore[misc]
            await until(lambda: rests(w))
            assert flow.breaker.is_open
            assert len(acme.times) - number / 10 <= 40  # single probes
            kept = "attempts = 0 and not doubtful" if status == 429 else "true"
            assert await w.hand.count(f"state = 'due' and {kept}") == number
            assert acme.records == {}
            acme.always, begun = None, len(acme.times)
            acme.most = 0
            await pass_time(w.hand, flow)
            await until(lambda: emptied(w))

        assert len(acme.records) == number
        assert burst(acme.times[begun:], rate) <= allowed(rate)
        assert acme.most <= in_flight
        assert status == 503 or len(acme.times) - begun <= number / 10 + 5  # whole batches


async def opened(flow: Flow) -> bool:
    return flow.breaker.is_open


async def more(acme: Timed, than: int) -> bool:
    return len(acme.times) > than


async def rests(w: World) -> bool:
    return await w.hand.count("state = 'sent'") == 0


async def emptied(w: World) -> bool:
    return await w.hand.count("true") == 0


# ── One sick destination ────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("sickness", ["hangs", 500])
async def test_a_sick_destination_slows_no_other(pool: Pool, sickness: str | int) -> None:
    """One pool, one worker, one event loop for both. What the well one has to do it does, and is
    given more, and does that, while not one request of the sick one comes to anything."""
    async with world(pool, batch=20) as w, serving("ours") as well:
        await add_destination(pool, "well")
        hand = await beside(w, well)
        await many(pool, 600)
        for one in (w.hand, hand):
            await one.plan()
        if sickness == "hangs":
            w.acme.before.clear()
        else:
            w.acme.always = 500
        flow = w.flow(hand)
        async with pumping(w.flow(w.hand), flow):
            await w.acme.arrival(1)
            await until(lambda: none_left(hand))
            assert len(well.records) == 600
            for name in ("B", "C", "D"):
                await rename(pool, "c00001", name)
                await hand.plan()
                flow.bells.push.set()
                await until(lambda name=name: is_called(well, name))  # type: ignore[misc]
            assert w.acme.records == {}
            w.acme.before.set()
            w.acme.always = None

        assert well.breaches == []


async def none_left(hand: Hand) -> bool:
    return await hand.count("true") == 0


async def is_called(acme: Acme, name: str) -> bool:
    return acme.mailed()["c1@x.test"] == name


async def beside(w: World, other: Acme) -> Hand:
    """A second destination, `well`, of the same worker, at another server."""
    first, w.acme = w.acme, other
    try:
        return await w.another("well", w.hand.worker)
    finally:
        w.acme = first
