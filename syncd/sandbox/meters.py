"""Limits on calls in flight and per second, and what two calls in flight share."""

from __future__ import annotations

import time
from collections import Counter, deque
from dataclasses import dataclass

from syncd.sandbox.call import Call


@dataclass(frozen=True, slots=True)
class Meter:
    """One limit that a call counts against; `None` means no limit."""

    name: str
    account: str
    in_flight: int | None = None
    per_second: float | None = None
    published: bool = False  # a client that reads the documents never exceeds the rate


class Meters:
    """Counts calls in flight and calls per second, per account and meter.

    A call whose client hung up no longer counts: its sender cannot know that we still
    hold it, and is told by every reference to send it again.
    """

    def __init__(self) -> None:
        self.most: Counter[str] = Counter()
        self.inside: dict[tuple[str, str], set[Call]] = {}
        self._recent: dict[tuple[str, str], deque[float]] = {}

    def enter(self, call: Call, meter: Meter) -> str | None:
        """Let the call in, or name the limit that it breaks."""
        key = (meter.name, meter.account)
        inside = {other for other in self.inside.get(key, ()) if other.alive()}
        self.inside[key] = inside
        self.most[meter.name] = max(self.most[meter.name], len(inside) + 1)
        if meter.in_flight is not None and len(inside) >= meter.in_flight:
            return "in flight"
        if meter.per_second is not None and not self._paced(key, meter.per_second):
            return "rate"
        inside.add(call)
        return None

    def beside(self, call: Call, meter: Meter) -> str:
        """Which calls are in flight, and since when: `517 for 0.213 s, 519 for 0.002 s`."""
        others = sorted(self.inside[meter.name, meter.account], key=lambda one: one.number)
        return ", ".join(f"{one.number} for {call.at - one.at:.3f} s" for one in others)

    def leave(self, call: Call) -> None:
        """Forget the call; harmless if it never got in."""
        for inside in self.inside.values():
            inside.discard(call)

    def clash(self, call: Call) -> set[str]:
        """What this call touches that another one in flight touches too."""
        found: set[str] = set()
        for inside in self.inside.values():
            for other in inside:
                if other is not call and other.alive() and other.claims:
                    found |= call.claims & other.claims
        return found

    def _paced(self, key: tuple[str, str], rate: float) -> bool:
        now = time.monotonic()
        recent = self._recent.setdefault(key, deque())
        while recent and recent[0] <= now - max(1.0, 1 / rate):
            recent.popleft()
        if len(recent) >= max(1.0, rate):
            return False
        recent.append(now)
        return True
