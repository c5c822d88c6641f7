"""What the demo plays on: the app, the stand-ins, and who is told."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from syncd.app import App
from syncd.demo.proof import Side
from syncd.demo.shelves import SHELVES, Shelf
from syncd.sandbox import Handle

PATIENCE = 60.0  # seconds for a change to arrive before it counts as lost
LOOKS = 0.02  # seconds between two looks


@dataclass(slots=True)
class Result:
    """What was proven."""

    summary: dict[str, Any] = field(default_factory=dict)
    contacts: int = 0
    differences: list[str] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        return {**self.summary, "contacts": self.contacts, "equal": not self.differences}


class Story:
    """Where the demo tells what happens; the command line shows it."""

    def chapter(self, title: str) -> None: ...

    def line(self, text: str, seconds: float | None = None, good: bool = True) -> None: ...


@dataclass(slots=True)
class Stage:
    """Everything that runs."""

    app: App
    boxes: Mapping[str, Handle]  # by the provider's name
    tell: Story
    result: Result

    def one(self, shelf: Shelf, contact_id: str, email: str) -> Side | None:
        """What one provider holds of a contact."""
        return shelf.one(self.boxes[shelf.name], contact_id, email)

    def everywhere(
        self,
        contact_id: str,
        email: str,
        holds: Callable[[Side | None], bool],
        shelves: Iterable[Shelf] = SHELVES,
    ) -> bool:
        """Whether it holds at each of these providers."""
        return all(holds(self.one(shelf, contact_id, email)) for shelf in shelves)

    async def arrives(self, what: str, there: Callable[[], Any]) -> None:
        """Wait until the providers show it, and tell how long that took."""

        async def look() -> bool:
            return bool(there())

        await self._until(what, look)

    async def arrives_here(self, what: str, question: str, *args: object) -> None:
        """As `arrives`, of something that our own tables will say."""

        async def look() -> bool:
            return bool(await self.app.pool.fetchval(question, *args))

        await self._until(what, look)

    async def settled(self) -> None:
        """Wait until the daemon has nothing more to do."""
        question = """
            select not exists (select 1 from syncd.journal where state in ('due', 'sent'))
               and not exists (select 1 from syncd.feed where owes_full or pass_run is not null)"""
        await became_true(lambda: self.app.pool.fetchval(question))

    async def _until(self, what: str, look: Callable[[], Awaitable[bool]]) -> None:
        began = time.monotonic()
        found = await became_true(look)
        if not found:
            self.result.differences.append(f"did not arrive in {PATIENCE:g} s: {what}")
        self.tell.line(what, time.monotonic() - began, good=found)


async def became_true(look: Callable[[], Awaitable[object]]) -> bool:
    """Look again and again, as long as patience lasts."""
    until = time.monotonic() + PATIENCE
    while not await look():
        if time.monotonic() > until:
            return False
        await asyncio.sleep(LOOKS)
    return True
