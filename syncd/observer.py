"""What happens at one destination, told to whoever counts it, and when it last moved."""

from __future__ import annotations

import time
from dataclasses import dataclass, field


class Observer:
    """Hears of one destination's requests, contacts and passes; this one keeps nothing."""

    def requested(self, meter: str, outcome: str, seconds: float) -> None:
        """One HTTP request ended: '2xx' … '5xx', 'unsent' (never left) or 'lost' (no answer)."""

    def settled(self, outcome: str, contacts: int) -> None:
        """So many contacts came to this outcome."""

    def passed(self, kind: str, seconds: float) -> None:
        """A 'keyed' or 'full' pass, or the reading of 'opt_outs', ended."""


NOBODY = Observer()


@dataclass(slots=True)
class Pulse:
    """When a flow last moved: it found nothing to do, settled a claim, or had an answer."""

    at: float = field(default_factory=time.monotonic)

    def beat(self) -> None:
        self.at = time.monotonic()

    @property
    def still(self) -> float:
        """Seconds without a beat."""
        return time.monotonic() - self.at
