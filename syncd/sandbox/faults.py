"""Seeded misfortune: what may go wrong with a request, drawn once per request.

The same seed and the same order of requests give the same faults. A fault strikes either
before the request is applied (nothing happens at the provider) or after (it happened, and
the answer is lost or unreadable); a client can rarely tell which.
"""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

Rate = Annotated[float, Field(ge=0, le=1)]
Kind = Literal[
    "error",
    "error_html",
    "rate_429",
    "cut_before",
    "malformed",
    "revoked",
    "outage_close",
    "outage_503",
    "error_after",
    "cut_after",
    "half_answer",
    "html",
    "garbage",
    "truncated_json",
]

BEFORE: frozenset[str] = frozenset(
    [
        "error",
        "error_html",
        "rate_429",
        "cut_before",
        "malformed",
        "revoked",
        "outage_close",
        "outage_503",
    ]
)
CUTS: frozenset[str] = frozenset({"cut_before", "cut_after", "outage_close"})


class OneShot(BaseModel):
    """A fault that strikes the next *times* requests of *method* to *path* (any when absent)."""

    model_config = ConfigDict(extra="forbid")

    kind: Kind
    times: int = Field(default=1, ge=1)
    method: str | None = None
    path: str | None = None
    status: int | None = None
    retry_after: float | None = None


class Settings(BaseModel):
    """Body of POST /_faults; rates are chances between 0 and 1 that add up to at most 1."""

    model_config = ConfigDict(extra="forbid")

    seed: int = 0
    latency_ms: tuple[float, float] = (0.0, 0.0)
    error_rate: Rate = 0.0
    error_html: Rate = 0.0
    error_after: Rate = 0.0
    statuses: list[int] = Field(default=[500, 502, 503, 504], min_length=1)
    rate_429: Rate = 0.0
    retry_after: float | None = None
    cut_before: Rate = 0.0
    cut_after: Rate = 0.0
    half_answer: Rate = 0.0
    html: Rate = 0.0
    garbage: Rate = 0.0
    truncated_json: Rate = 0.0
    malformed: Rate = 0.0
    outage: bool | Literal["close", "503"] = False
    revoked: bool = False
    paths: list[str] | None = None
    next: list[OneShot] = Field(default_factory=list)

    def chances(self) -> list[tuple[Kind, float]]:
        """Each random fault with its chance, in a fixed order."""
        return [
            ("error", self.error_rate),
            ("error_html", self.error_html),
            ("error_after", self.error_after),
            ("rate_429", self.rate_429),
            ("cut_before", self.cut_before),
            ("cut_after", self.cut_after),
            ("half_answer", self.half_answer),
            ("html", self.html),
            ("garbage", self.garbage),
            ("truncated_json", self.truncated_json),
            ("malformed", self.malformed),
        ]


@dataclass(frozen=True, slots=True)
class Fault:
    """What happens to one request: a wait on either side of applying it, and a mishap."""

    kind: Kind | None = None
    wait_before: float = 0.0
    wait_after: float = 0.0
    status: int = 500
    retry_after: float | None = None

    @property
    def before(self) -> bool:
        """True if the request never reaches the provider's data."""
        return self.kind in BEFORE


class Faults:
    """Draws one Fault per request and counts those that struck."""

    def __init__(self) -> None:
        self.struck: Counter[str] = Counter()
        self.set({})

    def set(self, given: dict[str, Any]) -> None:
        """Replace every setting; what is not named goes back to "never"."""
        self.settings = Settings.model_validate(given)
        self._random = random.Random(self.settings.seed)  # noqa: S311 - to be repeated

    def push(self, kind: Kind, times: int = 1, path: str | None = None, **more: Any) -> None:
        """Queue one more one-shot fault, leaving everything else as it is."""
        shot = OneShot(kind=kind, times=times, path=path, **more)
        self.settings.next.append(shot)

    def draw(self, path: str, method: str = "") -> Fault:
        """Decide the fate of one request; three numbers are drawn whatever the outcome."""
        spread, split, lot = (self._random.random() for _ in range(3))
        if self.settings.paths is not None and path not in self.settings.paths:
            spread, lot = 0.0, 1.0
            low = high = 0.0
        else:
            low, high = self.settings.latency_ms
        wait = (low + (high - low) * spread) / 1000
        shot = self._one_shot(path, method)
        kind = shot.kind if shot else self._lasting(path) or self._by_lot(lot)
        if kind is not None:
            self.struck[kind] += 1
        return Fault(
            kind,
            wait * split,
            wait * (1 - split),
            self._status(shot, split),
            self.settings.retry_after if shot is None else shot.retry_after,
        )

    def _one_shot(self, path: str, method: str) -> OneShot | None:
        for shot in self.settings.next:
            if shot.path in (None, path) and shot.method in (None, method):
                shot.times -= 1
                if not shot.times:
                    self.settings.next.remove(shot)
                return shot
        return None

    def _lasting(self, path: str) -> Kind | None:
        if self.settings.paths is not None and path not in self.settings.paths:
            return None
        if self.settings.outage:
            return "outage_503" if self.settings.outage == "503" else "outage_close"
        return "revoked" if self.settings.revoked else None

    def _by_lot(self, lot: float) -> Kind | None:
        reached = 0.0
        for kind, chance in self.settings.chances():
            reached += chance
            if lot < reached:
                return kind
        return None

    def _status(self, shot: OneShot | None, lot: float) -> int:
        statuses = self.settings.statuses
        if shot is not None:
            return shot.status or statuses[0]
        return statuses[int(lot * len(statuses))]
