"""What one audit found, as values: what `syncd audit --json` prints, key by key."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple

from syncd.audit_verdict import KINDS, Kind, Verdict

ALWAYS = 3  # requests that prove the credentials and look at the lists, about
AN_EXPORT = 8  # requests for a list that is written out, looks at it included, about


class Reading(NamedTuple):
    """How much there is to read. pages: of lists, or of the account; singly: contact by contact;
    exports: requests for lists that are written out."""

    pages: int
    singly: int
    seconds: float
    exports: int = 0

    @property
    def requests(self) -> int:
        return self.pages + self.singly + self.exports + ALWAYS


@dataclass(slots=True)
class Audit:
    """What one audit found. extra: records that are nobody's of ours, never touched.

    doubles: second records of our contacts.  cannot: what this provider does not let be compared.
    """

    name: str
    contacts: int = 0
    read: int = 0
    counts: dict[Kind, int] = field(default_factory=lambda: dict.fromkeys(KINDS, 0))
    extra: int = 0
    doubles: int = 0
    cannot: list[str] = field(default_factory=list)
    estimate: Reading = field(default_factory=lambda: Reading(0, 0, 0.0))
    requests: int = 0
    seconds: float = 0.0
    repaired: bool = False
    mended: int = 0
    noted: int = 0
    held: list[str] = field(default_factory=list)
    samples: dict[Kind, list[Verdict]] = field(default_factory=lambda: {k: [] for k in KINDS})
    double_samples: list[Verdict] = field(default_factory=list)
    extra_samples: list[tuple[str, str | None]] = field(default_factory=list)
    whole: bool = True  # the provider could be read

    @property
    def equal(self) -> bool:
        return self.whole and not self.doubles and not any(self.counts.values())

    def summary(self) -> dict[str, Any]:
        """The keys that programs rely on."""
        done = {"mended": self.mended, "opted_out": self.noted, "held": self.held}
        return {
            "equal": self.equal,
            "contacts": self.contacts,
            "read": self.read,
            **{str(kind): n for kind, n in self.counts.items()},
            "extra": self.extra,
            "doubles": self.doubles,
            "cannot": self.cannot,
            "repaired": done if self.repaired else None,
            "estimate": {
                "requests": self.estimate.requests,
                "seconds": round(self.estimate.seconds, 1),
            },
            "requests": self.requests,
            "seconds": round(self.seconds, 2),
            "samples": {k: [_sample(one) for one in some] for k, some in self.samples.items()},
            "doubled": [_sample(one) for one in self.double_samples],
            "extras": [{"remote_id": n, "email": email} for n, email in self.extra_samples],
        }


def _sample(one: Verdict) -> dict[str, Any]:
    return {
        "contact_id": one.contact_id,
        "email": one.email,
        "here": {name: list(pair) for name, pair in one.here.items()},
        "there": {name: list(pair) for name, pair in one.there.items()},
        "reason": one.reason,
    }
