"""What the tests of one adapter share: changes as the core makes them, and permits."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from syncd.model import Change, Meter, Outcome, Person, Verb


@dataclass
class Permits:
    """As many at a time as each meter says; every request must ask for one of them."""

    meters: Mapping[str, Meter]
    taken: Counter[str] = field(default_factory=Counter)
    held: list[float] = field(default_factory=list)  # for how long who shares the scope was put off
    _gates: dict[str, asyncio.Semaphore] = field(default_factory=dict)

    @asynccontextmanager
    async def permit(self, meter: str) -> AsyncIterator[None]:
        assert meter in self.meters, f"no such meter: {meter!r}"
        most = self.meters[meter].in_flight or 1000
        async with self._gates.setdefault(meter, asyncio.Semaphore(most)):
            self.taken[meter] += 1
            yield

    async def hold_off(self, meter: str, seconds: float) -> None:
        self.held.append(seconds)


def put(want: Person, was: Person | None = None, name: str = "c-1", **more: Any) -> Change:
    """Somebody to be there; new unless *was* says what the mirror knows."""
    facts = {"may_create": was is None, "resubscribe": False, "remote": None, **more}
    return Change(contact_id=name, verb=Verb.PUT, want=want, was=was, **facts)


def drop(
    verb: Verb, was: Person | None, remote: Any = None, name: str = "c-1", **more: Any
) -> Change:
    """Somebody to leave."""
    facts = {"may_create": False, "resubscribe": False, **more}
    return Change(name, verb, None, was, remote, **facts)


async def pushed(adapter: Any, change: Change) -> Outcome:
    """What becomes of one change."""
    (outcome,) = await adapter.push([change])
    return outcome  # type: ignore[no-any-return]
