"""What wakes the loops of a destination's flow. Bells only hasten: every loop looks for itself."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field


@dataclass(slots=True)
class Bells:
    """One for each loop."""

    plan: asyncio.Event = field(default_factory=asyncio.Event)
    push: asyncio.Event = field(default_factory=asyncio.Event)
    read: asyncio.Event = field(default_factory=asyncio.Event)
    full: asyncio.Event = field(default_factory=asyncio.Event)
    scan: asyncio.Event = field(default_factory=asyncio.Event)  # everything that is there
    waits: asyncio.Event = field(default_factory=asyncio.Event)  # somebody waits for a scan
    erase: asyncio.Event = field(default_factory=asyncio.Event)  # an erasure may have got further


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
