"""What a destination learns from the answers it gets: outages, and refusals not about contacts."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from syncd.outcomes import backoff
from syncd.settlement import Settled

TRIPS_AFTER = 3  # failed requests in a row


@dataclass(slots=True)
class Breaker:
    """Opens after repeated outages; then single probes, ever further apart, until one succeeds."""

    outages: int = 0
    open_until: float = 0.0  # time.monotonic()
    since: float | None = None  # when the outage began

    @property
    def is_open(self) -> bool:
        return self.outages >= TRIPS_AFTER

    @property
    def may_send(self) -> bool:
        return not self.is_open or time.monotonic() >= self.open_until

    @property
    def pause(self) -> float:
        """Seconds until the next probe may be sent."""
        return max(0.0, self.open_until - time.monotonic()) if self.is_open else 0.0

    def failed(self, after: float) -> bool:
        """Count an outage; True when this one opens the breaker."""
        self.outages += 1
        self.since = self.since or time.monotonic()
        if self.is_open:
            wait = max(after, min(60.0, backoff(self.outages - TRIPS_AFTER)))
            self.open_until = time.monotonic() + wait
        return self.outages == TRIPS_AFTER

    def succeeded(self) -> bool:
        """Close; True when it was open."""
        was_open = self.is_open
        self.outages, self.open_until, self.since = 0, 0.0, None
        return was_open


@dataclass(slots=True)
class Refusals:
    """Finds the same refusal of many different contacts running: then it is not about them.

    most: how many the provider may refuse in a row with the same words.
    """

    most: int
    words: str = ""
    contacts: set[str] = field(default_factory=set)

    def judge(self, results: Sequence[Settled], since: int | None = None) -> str | None:
        """Count creates that were refused; the words, once they have been said too often.

        since: where the results begin that came after a success; None: there was none beside them.
        """
        said: str | None = None
        if since is not None:
            self.words, self.contacts = "", set()
        for one in results[since or 0 :]:
            if one.outcome != "rejected" or one.status is None:
                if self.words and one.outcome in ("created", "updated"):
                    self.words, self.contacts = "", set()
                continue
            if one.entry.mirror_state is not None:
                continue
            words = re.sub(r"\d+", "#", one.error or "")
            if words != self.words:
                self.words, self.contacts = words, set()
            self.contacts.add(one.entry.contact_id)
            said = one.error
        return said if len(self.contacts) >= self.most else None
