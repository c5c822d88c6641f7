"""How this process is: one record, for systemd, for /healthz and /readyz, and for a person."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from syncd.flow import Flow
from syncd.words import count

Phase = Literal["starting", "serving", "waiting for the database", "reloading", "stopping"]

STALL = 90.0
"""Seconds without a move that are one too many. A permit may be waited for for a minute."""


@dataclass
class Health:
    """The phase of a process, and whether its work moves."""

    stall_after: float = STALL
    phase: Phase = "starting"
    flows: Callable[[], Mapping[str, Flow]] = dict
    heard: Callable[[], None] = lambda: None  # called when the phase has changed
    since: float = field(default_factory=time.monotonic)

    def enter(self, phase: Phase) -> None:
        """Begin *phase*. Once it is stopping it stops, whatever is entered later."""
        if self.phase not in (phase, "stopping"):
            self.phase, self.since = phase, time.monotonic()
            self.heard()

    def serve(self, flows: Callable[[], Mapping[str, Flow]]) -> None:
        """The database is reached and its schema fits: these flows are served from now on."""
        self.flows = flows
        self.enter("serving")

    @property
    def stalled(self) -> list[str]:
        """Destinations where nothing has moved for too long, though something may."""
        if self.phase != "serving":
            return []
        return sorted(n for n, flow in self.flows().items() if flow.sender.still > self.stall_after)

    @property
    def ready(self) -> bool:
        return self.phase == "serving" and not self.stalled

    @property
    def says(self) -> str:
        """One line for a person."""
        if self.phase != "serving":
            return self.phase
        flows = self.flows()
        parts = [f"serving {count(len(flows), 'destination')}"]
        parts += [f"{name}: {why}" for name, flow in sorted(flows.items()) if (why := _why(flow))]
        parts += [f"{name}: stalled" for name in self.stalled]
        done = sum(sum(flow.tally.outcomes.values()) for flow in flows.values())
        return "; ".join([*parts, f"{count(done, 'contact')} settled"])


def _why(flow: Flow) -> str:
    if flow.destination.paused:
        return "paused"
    if flow.destination.halted is not None:
        return "halted"
    return "provider is not available" if flow.breaker.is_open else ""
