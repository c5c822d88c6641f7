"""What a push came to."""

from __future__ import annotations

from dataclasses import dataclass, field

from syncd.errors import ProviderError
from syncd.model import Outcome
from syncd.settlement import Settled


class HandedBack:
    """Nothing was sent for it, because this worker stops."""


Answered = Outcome | ProviderError | HandedBack


@dataclass(slots=True)
class Pushed:
    """What one claim came to: a result for every entry, and what the destination learns of it."""

    results: list[Settled]
    errors: list[ProviderError] = field(default_factory=list)
    waits: dict[str, set[str]] = field(default_factory=dict)  # contact → lists to be scanned first
    succeeded: bool = False
    plain: int = 0  # of a window: how many were applied, and need no result of their own
    since: int = 0  # where the results begin that came after the last of those

    @property
    def scans(self) -> set[str]:
        """The lists that contacts of this claim wait for."""
        return {one for lists in self.waits.values() for one in lists}
