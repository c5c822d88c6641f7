"""What can go wrong, by what has to be done about it.

SyncdError
├── ConfigError        settings, files or rows are wrong              exit 78
├── DatabaseUnreachable  PostgreSQL cannot be reached or is not ready   exit 69
└── ProviderError      a whole call to a provider failed
    ├── Transient      nothing was applied: again, not before `after`
    │   └── OverQuota  a limit of the whole account: nobody who shares it sends before `after`
    ├── Ambiguous      the request left, the answer was lost
    ├── Refused        credentials or permission: a person is needed
    ├── Misconfigured  wrong path, host or account settings: a person is needed
    │   └── OtherAccount  the credential is of another account than the destination's
    └── Unintelligible the provider answered outside its own contract

A single bad record is never an exception: it is an `Outcome` (see `syncd.model`).
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import ClassVar


class SyncdError(Exception):
    """Root of everything that is shown to a person without a traceback."""

    exit_code: ClassVar[int] = 1


class ConfigError(SyncdError):
    """Something a person wrote is wrong. Carries every fault found, not just the first."""

    exit_code = 78

    def __init__(self, *faults: str) -> None:
        super().__init__("\n".join(faults))
        self.faults: Sequence[str] = faults


class DatabaseUnreachable(SyncdError):
    """PostgreSQL does not answer, or its schema does not fit this version."""

    exit_code = 69


class ProviderError(SyncdError):
    """A whole call failed. One bad record is an Outcome, never an exception."""

    exit_code = 69
    may_be_applied: ClassVar[bool] = False
    needs_a_person: ClassVar[bool] = False

    def __init__(self, reason: str, *, status: int | None = None, after: float = 0.0) -> None:
        super().__init__(reason)
        self.reason = reason
        self.status = status
        self.after = after  # seconds, as the provider asked (Retry-After); 0 if it did not
        # Which part of a backoff is waited, by all whom the call was about: a batch stays together.
        self.jitter = random.uniform(0.1, 1.0)  # noqa: S311  spreads load, hides nothing


class Transient(ProviderError):
    """Nothing was applied: send the same batch again, not before `after` seconds."""


class OverQuota(Transient):
    """A limit that all destinations of the account share: none of them sends before `after`."""


class Ambiguous(ProviderError):
    """The request left and the answer was lost: look before sending again."""

    may_be_applied = True


class Refused(ProviderError):
    """Credentials or permission, in the provider's own way of saying so."""

    exit_code = 77
    needs_a_person = True


class Misconfigured(ProviderError):
    """The destination's settings do not fit the account: wrong host, path, or feature."""

    exit_code = 78
    needs_a_person = True


class OtherAccount(Misconfigured):
    """The credential works, and is of another account than the one this destination fills."""


class Unintelligible(ProviderError):
    """The provider answered outside its own contract; what it did is unknown."""

    may_be_applied = True


class Indivisible(ProviderError):
    """The provider refused a whole batch and named no culprit: halve it and send the halves."""


class Fenced(SyncdError):
    """This worker's lease is too old to send anything more: nothing left."""
