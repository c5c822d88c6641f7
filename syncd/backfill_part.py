"""One destination's share of a backfill, and what is told of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from syncd.assemble import Assembled
from syncd.condition import Tally
from syncd.control import Destination
from syncd.errors import ProviderError
from syncd.estimate import Estimate
from syncd.flow import Flow

REMOVED = ("withdrawn", "deleted", "erased")
SETTLED = ("created", "updated", "absent", "rejected", *REMOVED)


@dataclass(slots=True)
class Part:
    """It outlives a loss of the database; what it is carried out with does not."""

    destination: Destination
    tally: Tally = field(default_factory=Tally)
    estimate: Estimate = field(default_factory=Estimate)
    made: Assembled | None = None
    ready: bool = False  # read: it may be written to
    quiet: bool = False  # the last plan was empty
    why: str = ""  # it was left early
    exit_code: int = 0  # of what went wrong
    seconds: float = 0.0
    pending: int = 0
    held: int = 0
    rejected: int = 0
    unconveyed: int = 0
    left: int = 0  # requests of earlier wires
    in_step_seen: int = 0

    @property
    def flow(self) -> Flow:
        assert self.made is not None
        assert self.made.flow is not None
        return self.made.flow

    def begin(self, made: Assembled) -> None:
        self.made, self.ready, self.quiet = made, False, False
        self.flow.condition.tally = self.tally

    def end(self) -> None:
        self.left, self.made = self.requests, None

    def leave(self, why: str) -> None:
        """Do no more for this destination, and say why."""
        self.why = self.why or why
        self.flow.stop.set()

    def failed(self, failure: ProviderError) -> None:
        if not self.in_step:
            self.exit_code = self.exit_code or failure.exit_code
            self.why = failure.reason

    def hears(self, other: Part) -> bool:
        """Whether an opt-out at the other one counts here too."""
        if self.made is None or self is other:
            return False
        shares = self.made.options.opt_out_scope != "destination"
        return shares and self.destination.source == other.destination.source

    @property
    def requests(self) -> int:
        """HTTP requests that left."""
        counts = {} if self.made is None else self.made.wire.requests
        return self.left + sum(n for (_, what), n in counts.items() if what != "unsent")

    @property
    def settled(self) -> int:
        return sum(self.tally.outcomes.get(one, 0) for one in SETTLED)

    @property
    def seen(self) -> int:
        """Contacts that need nothing more, for a progress bar: in step already, or settled."""
        if self.made is not None and (full := self.flow.full) is not None:
            in_step = full.counts.looked_at - full.counts.differing
            self.in_step_seen = max(self.in_step_seen, in_step)
        return self.in_step_seen + self.settled

    @property
    def in_step(self) -> bool:
        return self.quiet and not self.pending and not self.held

    def summary(self) -> dict[str, Any]:
        """The keys that programs rely on."""
        said = self.tally.outcomes
        return {
            "planned": self.tally.planned,
            "created": said.get("created", 0),
            "updated": said.get("updated", 0),
            "withdrawn": sum(said.get(one, 0) for one in REMOVED),
            "absent": said.get("absent", 0),
            "rejected": self.rejected,
            "held": self.held,
            "pending": self.pending,
            "requests": self.requests,
            "seconds": round(self.seconds, 2),
            "in_step": self.in_step,
        }
