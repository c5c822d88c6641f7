"""How one destination fares, as one worker knows it: well, out of reach, or halted.

What the answers of the provider teach about the destination, as against single contacts: design,
section 6, the lower half of the table of outcomes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import structlog

from syncd import control
from syncd.breaker import Breaker, Refusals
from syncd.control import Destination
from syncd.db import Pool
from syncd.errors import OtherAccount, ProviderError, Unintelligible
from syncd.push import Push
from syncd.pushed import Pushed
from syncd.settlement import Settled

log = structlog.get_logger()

CONFIGURATION = "configuration: "  # how `halted` begins where rows or secrets are wrong
CREATES = "creates: "  # how `halted` begins where only creates are stopped


@dataclass(slots=True)
class Tally:
    """What this process has done for the destination since it started, by outcome."""

    outcomes: dict[str, int] = field(default_factory=dict)
    failure: ProviderError | None = None  # the last one, until a success
    planned: int = 0  # differences that passes found

    def add(self, results: Sequence[Settled], created: int = 0) -> Counter[str]:
        """Returns what was added, by outcome."""
        counted = Counter(one.outcome for one in results)
        counted["created"] += created
        for outcome, n in (+counted).items():
            self.outcomes[outcome] = self.outcomes.get(outcome, 0) + n
        return +counted


class Condition:
    """Of one destination. It outlives no process; `halted` is written to the destination's row."""

    def __init__(self, destination: Destination, pool: Pool, push: Push) -> None:
        self.destination = destination
        self.pool = pool
        self.push = push
        self.breaker = Breaker()
        self.refusals = Refusals(max(10, destination.guard_floor))
        self.tally = Tally()
        self.fingerprint: str | None = None  # of the credential

    # ── What may be done ────────────────────────────────────────────────────────────────────

    @property
    def stands_still(self) -> str | None:
        """Why nothing may be sent; None where something may."""
        if self.destination.paused:
            return "paused"
        return None if self.creates_halted else self.destination.halted

    @property
    def creates_halted(self) -> bool:
        return (self.destination.halted or "").startswith(CREATES)

    @property
    def may_send(self) -> bool:
        return self.stands_still is None and self.breaker.may_send

    # ── What the answers teach ──────────────────────────────────────────────────────────────

    async def learn(self, pushed: Pushed) -> Sequence[Settled]:
        """Take up what a push met with; returns its results, with nobody rejected for a refusal
        that is not about contacts."""
        if pushed.errors:
            await self.failed(pushed.errors)
        elif pushed.succeeded:
            self.succeeded()
        self.push.outages = self.breaker.outages
        words = self.refusals.judge(pushed.results, pushed.since if pushed.plain else None)
        if words is None:
            return pushed.results
        return await self._halt_creates(words, pushed.results)

    async def failed(self, errors: Sequence[ProviderError]) -> None:
        """Whole calls came to nothing: halt where a person is needed, else back off."""
        person = next((error for error in errors if error.needs_a_person), None)
        self.tally.failure = person or errors[0]
        if person is not None:
            await self._halt(person)
            return
        after = max(error.after for error in errors)
        if all(isinstance(error, Unintelligible) for error in errors):
            log.warning("answer not understood", reason=errors[0].reason)
        if self.breaker.failed(after):
            log.warning("provider is not available", reason=errors[0].reason)

    def succeeded(self) -> None:
        self.tally.failure = None
        if self.breaker.succeeded():
            log.info("provider is back")

    async def _halt(self, refusal: ProviderError) -> None:
        """Stop the destination, unless a fresh probe says that it was this request alone."""
        probed = refusal if isinstance(refusal, OtherAccount) else await self._probed(refusal)
        if probed is None:
            return
        self.tally.failure = probed
        if await self._write_halt(probed.reason):
            log.error("destination halted", reason=probed.reason)

    async def _probed(self, refusal: ProviderError) -> ProviderError | None:
        """The refusal in the words of a fresh probe; None where that found nothing wrong."""
        try:
            findings = await self.push.adapter.check()
        except ProviderError as error:
            return error if error.needs_a_person else None
        errors = [one for one in findings if one.level == "error"]
        if not errors:
            return None
        return type(refusal)(f"{errors[0].says}. {errors[0].remedy}", status=refusal.status)

    async def _halt_creates(self, words: str, results: Sequence[Settled]) -> Sequence[Settled]:
        """The same refusal for many contacts running is not about contacts: reject nobody."""
        contacts, self.refusals.contacts = sorted(self.refusals.contacts), set()
        reason = f"{CREATES}refused for {len(contacts)} contacts running: {words}"
        if await self._write_halt(reason):
            log.error("creates halted", reason=words)
        await control.retry(self.pool, [self.destination.name], contacts)
        return [
            one._replace(state="due", outcome="postponed", attempt_used=False, after=60.0)
            if one.outcome == "rejected" and one.entry.contact_id in contacts
            else one
            for one in results
        ]

    async def _write_halt(self, reason: str) -> bool:
        """Here at once, and for everybody; returns whether it is news."""
        self.destination = replace(self.destination, halted=reason)
        return await control.halt(self.pool, self.destination.id, reason, self.fingerprint)
