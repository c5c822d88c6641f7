"""What every stand-in shares: the ledger, the options, and the contract.

A provider's stand-in is one module `syncd/sandbox/<provider>.py` that ends with
`STAND_IN = <its class>`, a subclass of StandIn. It decides answers; it knows nothing of
sockets or faults. `server.py` carries the calls to it.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections import Counter
from typing import Any, ClassVar

import orjson
from pydantic import BaseModel, ConfigDict

from syncd.sandbox.call import Answer, Call
from syncd.sandbox.faults import Faults
from syncd.sandbox.meters import Meter, Meters

MOST_VIOLATIONS = 1000  # kept word for word; the rest are only counted


class Options(BaseModel):
    """Base of a stand-in's limits and options; unknown names and wrong types are refused."""

    model_config = ConfigDict(extra="forbid", validate_assignment=True)

    keep_history: bool = True
    keep_records: bool = False  # into the history, too: every request, and what it made of whom


class Ledger:
    """What happened, for checkers: counts, violations, and every write in order."""

    def __init__(self) -> None:
        self.requests = 0
        self.by_path: Counter[str] = Counter()
        self.answers: Counter[str] = Counter()
        self.violations: list[dict[str, Any]] = []
        self.violations_count = 0
        self.history: list[dict[str, Any]] = []

    def violate(self, call: Call, rule: str, detail: str) -> None:
        """Record something a correct client never does."""
        self.violations_count += 1
        if len(self.violations) < MOST_VIOLATIONS:
            entry = {"rule": rule, "detail": detail, "at": time.time()}
            self.violations.append({**entry, "request": call.number, "path": call.path})


class StandIn(ABC):
    """A provider's double: strict where the documents are, silent where they are."""

    provider: ClassVar[str]
    demo: ClassVar[dict[str, str]]  # credentials that work out of the box
    options: ClassVar[type[Options]]

    def __init__(self, **options: Any) -> None:
        self.limits: Any = self.options.model_validate(options)
        self.faults = Faults()
        self.ledger = Ledger()
        self.meters = Meters()
        self._records: dict[str, bytes] = {}  # as they were when last looked at
        self.clear()

    @abstractmethod
    def clear(self) -> None:
        """Forget all data."""

    @abstractmethod
    def open(self, call: Call) -> Meter | None:
        """Decode the call, fill in its claims, and name its meter."""

    @abstractmethod
    def answer(self, call: Call, apply: bool) -> Answer:
        """Check the call and, if *apply*, carry it out."""

    @abstractmethod
    def failed(self, status: int, text: str) -> Answer:
        """The provider's shape of a failed request."""

    @abstractmethod
    def unauthorised(self, call: Call) -> Answer:
        """The provider's answer to credentials it does not accept."""

    @abstractmethod
    def act(self, deed: dict[str, Any]) -> dict[str, Any]:
        """Do what a person does in the provider's app; ValueError says why not."""

    @abstractmethod
    def held(self) -> dict[str, Any]:
        """The provider's own part of GET /_state; it has at least "profiles"."""

    def set_limits(self, given: dict[str, Any]) -> None:
        """Change the options named; the others stay."""
        self.limits = self.options.model_validate({**self.limits.model_dump(), **given})

    def reset(self, faults: bool = False, limits: bool = False) -> None:
        """Forget data and counts; on request also faults and limits."""
        self.ledger, self.meters = Ledger(), Meters()
        self._records = {}
        self.faults.struck.clear()
        if faults:
            self.faults.set({})
        if limits:
            self.limits = self.options()
        self.clear()

    def note(self, number: int, what: str, **facts: Any) -> None:
        """Append one entry to the history."""
        if self.limits.keep_history:
            entry = {"request": number, "at": time.time(), "what": what, **facts}
            self.ledger.history.append(entry)

    def note_records(self, number: int, began: float, **facts: Any) -> None:
        """Append the request, and every record that it left other than it was (None: gone).

        began: when it arrived; an entry's `at` is when it was applied. Number 0: a person's deed.
        """
        if not self.limits.keep_records:
            return
        self.note(number, "request", began=began, **facts)
        there = {
            str(key): orjson.dumps(record, option=orjson.OPT_NON_STR_KEYS | orjson.OPT_SORT_KEYS)
            for key, record in self.held()["profiles"].items()
        }
        for key in sorted(there.keys() | self._records.keys()):
            if there.get(key) != self._records.get(key):
                now = orjson.loads(there.get(key, b"null"))
                self.note(number, "record", began=began, record=key, now=now)
        self._records = there

    def snapshot(self, profiles: bool = True) -> dict[str, Any]:
        """GET /_state; without *profiles* it stays small however much is held."""
        ledger, held = self.ledger, self.held()
        if not profiles:
            held["profiles"] = len(held["profiles"])
        return {
            "provider": self.provider,
            **held,
            "requests": ledger.requests,
            "by_path": ledger.by_path,
            "answers": ledger.answers,
            "violations": ledger.violations,
            "violations_count": ledger.violations_count,
            "in_flight_max": self.meters.most,
            "faults": self.faults.struck,
            "history": len(ledger.history),
        }
