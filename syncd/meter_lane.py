"""What one process holds of a meter for one purpose: permits drawn, and slots."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import date, datetime
from typing import Any, Literal

Purpose = Literal["write", "read", "opt_out"]

TURN = 0.25  # seconds in which a slot may start requests
BATCH = 1000  # most permits, or slots, asked for at a time


@dataclass(frozen=True, slots=True)
class Slot:
    """A place in the meter, ours for a turn."""

    n: int
    expires: datetime  # the database's word, and the token it is given back by
    until: float  # no request may start on it later (monotonic)


@dataclass(slots=True)
class Lane:
    """One purpose of one meter in this process. Its lock is the queue: first come, first served."""

    meter: str
    purpose: Purpose
    holder: str
    turn: asyncio.Lock = field(default_factory=asyncio.Lock)
    freed: asyncio.Event = field(default_factory=asyncio.Event)
    queued: int = 0
    permits: int = 0  # drawn, not used yet; for use from `opens` to `closes` (monotonic)
    opens: float = 0.0
    closes: float = 0.0
    used: int = 0  # of the latest draw
    spilt: bool = False  # the latest draw was not used up
    stretch: float = 1.0  # of the lapse, while the database is slow
    epoch: int = 0
    back: int = 0  # drawn on `day` and not used: to be credited
    day: date = date.min
    held: dict[int, Slot] = field(default_factory=dict)  # all that the database may show as ours
    fresh: list[Slot] = field(default_factory=list)  # of them: not used yet, can be renewed
    spare: list[Slot] = field(default_factory=list)  # of them: used, and free for the next request
    refused: tuple[float, float, str] = (0.0, 0.0, "")  # until when, due when, why

    def seat(self, now: float) -> Slot | None:
        """A slot on which a request may start now."""
        return next((slot for slot in (*self.spare, *self.fresh) if slot.until > now), None)

    def take(self, slot: Slot | None) -> None:
        """Use one permit, and *slot*."""
        self.permits -= 1
        self.used += 1
        for slots in (self.spare, self.fresh):
            if slot in slots:
                slots.remove(slot)

    def sweep(self, now: float) -> None:
        """Let permits lapse; if none of a draw was in time, ask for longer."""
        if self.permits and now > self.closes:
            if not self.used:
                self.stretch = min(32.0, self.stretch * 2)
            self.void()

    def void(self) -> None:
        """Use no permit of the latest draw any more."""
        self.spilt = self.spilt or self.permits > 0
        self.back += self.permits
        self.permits = 0

    def wish(self) -> int:
        """How many permits to ask for: what is queued or twice what was used, if that was all."""
        return min(BATCH, max(1, 2 * self.used, 0 if self.spilt else self.queued))

    def drop_stale(self, now: float) -> None:
        """Forget used slots whose turn is over: the next draw frees what is not in `held`."""
        stale = [slot for slot in self.spare if slot.until <= now]
        self.spare = [slot for slot in self.spare if slot.until > now]
        self.forget(stale)

    def forget(self, slots: Iterable[Slot]) -> None:
        for slot in slots:  # a number may be ours a second time by now
            if self.held.get(slot.n) is slot:
                del self.held[slot.n]

    def accept(self, row: Any, sent: float, keep: float) -> None:
        """Take over what a draw gave: to be used after its return, by a clock begun before it."""
        if row["permits"]:
            if self.used:  # soon again: what is longer is paid for, by everybody in the scope
                self.stretch = max(1.0, self.stretch * 0.7)
            self.permits, self.used, self.spilt = row["permits"], 0, False
            self.opens = time.monotonic() + row["wait"]
            self.closes = sent + row["wait"] + keep
            self.day = row["day"]
        elif row["epoch"] != self.epoch:
            self.void()
        self.epoch = row["epoch"]
        self.forget(self.fresh)
        self.fresh = [Slot(n, row["expires"], sent + TURN) for n in row["slots"]]
        self.held.update((slot.n, slot) for slot in self.fresh)
