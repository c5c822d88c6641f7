"""How one destination stands, as values: what `syncd status --json` prints, key by key."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any


@dataclass(slots=True)
class Lane:
    """What waits in one lane of the journal."""

    name: str
    due: int = 0
    sent: int = 0
    since: datetime | None = None


@dataclass(slots=True)
class Held:
    """A plan that waits for a person, and what that person can type."""

    id: int
    kind: str
    rows: int
    reason: str
    since: datetime
    approve: str
    discard: str


@dataclass(slots=True)
class Said:
    """A reason, and how many contacts have it."""

    reason: str
    contacts: int
    ids: Sequence[str] = ()
    opt_out: bool = False


@dataclass(slots=True)
class Budget:
    """One meter of the account. None: no such limit."""

    meter: str
    per_second: float | None
    in_flight: int | None
    per_day: int | None
    left_today: int | None
    not_before: datetime | None


@dataclass(slots=True)
class Credential:
    """The credential as this host sees it; `fault` where it cannot."""

    name: str
    expires_on: str | None = None
    days_left: int | None = None
    fault: str | None = None


@dataclass(slots=True)
class Drift:
    """What the latest whole scans found. extra: not ours.  stray: ours, not put there by us.

    missing: ours, not met.  since: the oldest of those scans.
    """

    scans: int
    since: datetime
    seen: int
    extra: int
    stray: int
    missing: int
    address_differs: int


@dataclass(slots=True)
class Standing:
    """One destination."""

    provider: str
    source: str
    credential: Credential
    in_step: bool = False
    why: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    here: int = 0
    pending: int = 0
    pending_since: datetime | None = None
    lanes: list[Lane] = field(default_factory=list)
    estimate_seconds: float | None = None
    waiting_because: list[Said] = field(default_factory=list)
    doubtful: int = 0
    held: list[Held] = field(default_factory=list)
    rejected: int = 0
    rejected_because: list[Said] = field(default_factory=list)
    lacking: int = 0
    lacking_opt_outs: int = 0
    lacking_what: list[Said] = field(default_factory=list)
    lists: dict[str, int] = field(default_factory=dict)
    paused: bool = False
    halted: str | None = None
    news: bool = False
    owes_full: bool = False
    filled: bool = False
    created_at: datetime | None = None
    planned_at: datetime | None = None
    read_at: datetime | None = None
    drift: Drift | None = None
    scans_open: int = 0
    full_pass: dict[str, Any] | None = None
    running: list[dict[str, Any]] = field(default_factory=list)
    meters: list[Budget] = field(default_factory=list)


@dataclass(slots=True)
class Status:
    """All of them, and what they share."""

    at: datetime
    in_step: bool
    ok: bool
    destinations: dict[str, Standing]
    workers: list[dict[str, Any]]
    open_transactions: list[dict[str, Any]]
