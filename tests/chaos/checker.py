"""Holds what the providers wrote down against what the source said when. Pure functions."""

from __future__ import annotations

import re
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from .evidence import At, Evidence, Finding, No, Version
from .final import differences
from .said import deadlocks, leaked, unexplained, unsettled

WINDOW = 5.0  # seconds over which a rate is looked at
HICCUP = 1.5  # seconds that a busy machine may bunch what was sent evenly
DAY = 86400.0  # seconds; quotas begin anew at midnight UTC
WAKES = 1.0  # seconds after SIGCONT within which what stood ready to be sent leaves

HARMLESS = {
    re.compile(
        r"unknown (field: list_|interest: )List"
    ): "written to a list just renamed, and again",
    re.compile(r"field made twice: sync_id"): "two workers made our field at once; one was refused",
}
"""What the stand-ins object to where two workers are at work at once, and why it does no harm: that
it did none is seen in the end."""


class Verdict:
    """Findings, and what the promises name as residues, counted."""

    def __init__(self, seen: Evidence) -> None:
        self.seen = seen
        self.residues: Counter[str] = Counter()
        self.noes = [no for no in seen.noes if self._is_told(no)]
        self.late = {no for at in seen.shops for no in self._late(at)}
        self.findings = sorted({
            *(found for at in seen.shops for found in self._of(at)),
            *unsettled(seen), *unexplained(seen), *leaked(seen), *deadlocks(seen),
            *(Finding("died", "", says) for says in seen.deaths),
        })  # fmt: skip

    def _of(self, at: At) -> Iterator[Finding]:
        yield from self._stale(at)
        yield from self._resubscribed(at)
        yield from doubled(at)
        yield from self._violations(at)
        yield from self._crowded(at)
        yield from limits(at)
        yield from differences(at, self.seen, [no for no in self.noes if no not in self.late])

    def _violations(self, at: At) -> Iterator[Finding]:
        for one in at.violations:
            said = f"{one['rule']}: {one['detail']}"
            if self._crossed(at, one):
                self.residues["a no of ours crossed the person's own"] += 1
            elif reason := next(
                (why for known, why in HARMLESS.items() if known.match(said)), None
            ):
                self.residues[reason] += 1
            else:
                yield Finding("violation", at.name, f"{said} {one.get('path', '')}")

    def _crossed(self, at: At, violation: Mapping[str, Any]) -> bool:
        """Whether the person said no after our look, and before our own no arrived."""
        if violation["rule"] != "opted out twice":
            return False
        return any(
            one.key == violation["detail"]
            and one.request == 0
            and 0 <= violation["at"] - one.at < self.seen.timeout
            and not (one.now and one.now.mailable)
            for one in at.became
        )

    def _crowded(self, at: At) -> Iterator[Finding]:
        """More requests at once than are allowed. One of a process that stood still past its lease
        leaves when it wakes, as its fence was passed already."""
        for meter, allowed in at.in_flight.items():
            most = at.in_flight_max.get(meter, 0)
            if most <= allowed:
                continue
            if most == allowed + 1 and self.seen.stops:
                self.residues["in flight: one more, where a process stood still"] += 1
            else:
                yield Finding("in flight", at.name, f"{most} at once in {meter}, not {allowed}")

    # ── Older after newer ───────────────────────────────────────────────────────────────────

    def _stale(self, at: At) -> Iterator[Finding]:
        """A record was given older data of a contact than were there, anywhere, before."""
        owners = {one.number: one.contact for one in self.seen.versions if one.email is not None}
        newest: dict[str, tuple[int, float]] = {}
        last: dict[str, int | None] = {}
        senders = {one.number: one for one in at.requests}
        for one in at.became:
            number = one.now.version if one.now else None
            before, last[one.key] = last.get(one.key), number
            if number is None or number == before or one.request == 0:
                continue
            owner = owners.get(number)
            if owner is None:
                yield Finding("unknown data", at.name, f"V{number} was never committed: {one}")
                continue
            known, when = newest.get(owner, (0, 0.0))
            if number >= known:
                newest[owner] = number, one.at
                continue
            sent = senders.get(one.request)
            if self._woke(one.began):
                self.residues["stale: sent by a process that woke past its lease"] += 1
            elif one.now is not None and not one.now.mailable:
                self.residues["stale: old data of somebody whose mail was turned off"] += 1
            elif one.at - one.began >= self.seen.timeout:
                self.residues["stale: applied after the request timeout"] += 1
            else:
                yield Finding(
                    "stale", at.name,
                    f"{owner} V{number} at {one.at:.3f} (arrived {one.began:.3f}) after V{known}"
                    f" at {when:.3f}: {sent}",
                )  # fmt: skip

    def _woke(self, arrived: float) -> bool:
        return any(until <= arrived <= until + WAKES for _, until in self.seen.stops)

    # ── A no ────────────────────────────────────────────────────────────────────────────────

    def _resubscribed(self, at: At) -> Iterator[Finding]:
        """Mail was turned on at an address after its no, without newer consent."""
        mails: dict[str, bool] = {}
        emails: dict[str, str] = {}
        for one in at.became:
            before, mails[one.key] = mails.get(one.key), bool(one.now and one.now.mailable)
            was, emails[one.key] = emails.get(one.key), one.now.email if one.now else ""
            if one.now is None or not one.now.mailable or one.request == 0:
                continue
            if before and was == one.now.email:
                continue
            no = self._binding(one.now.email, one.now.version, one.at, at.name)
            if no is None:
                continue
            if self._within_our_request(no, one.began):
                self.residues["resubscribed: the no came within our own request"] += 1
            else:
                yield Finding(
                    "resubscribed", at.name,
                    f"{one.now.email} (V{one.now.version}) at {one.at:.3f}, no at {no.at:.3f}",
                )  # fmt: skip

    def _is_told(self, no: No) -> bool:
        """Whether anybody can learn of it, and whose it is; the other noes are counted."""
        if no.silent:
            self.residues["a no that the provider cannot tell"] += 1
            return False
        last: dict[str, Version] = {}
        for one in self.seen.versions:
            if one.at <= no.at:
                last[one.contact] = one
        owner = next((v.contact for v in self.seen.versions if v.number == no.version), None)
        if no.version is None or owner not in last or last[owner].email != no.email:
            self.residues["a no at a record that was somebody else's by then"] += 1
            return False
        return True

    def _binding(self, email: str, version: int | None, now: float, shop: str) -> No | None:
        """The last no said there at this address that no consent known by *now* has ended."""
        said = [no for no in self.noes
                if no.email == email and no.shop == shop and no.at < now]  # fmt: skip
        holders = {one.contact for one in self.seen.versions
                   if one.email == email or one.number == version}  # fmt: skip
        mine = [one for one in self.seen.versions if one.contact in holders]
        consents = [one.consented for one in mine if one.consented and one.at <= now + 0.001]
        return next((no for no in reversed(said) if not any(c > no.at for c in consents)), None)

    def _within_our_request(self, no: No, began: float) -> bool:
        """A push looks before it turns mail on: the no came after the look, before the write."""
        return no.at >= began - self.seen.timeout

    def _late(self, at: At) -> set[No]:
        """Noes that a request of ours, on its way already, wrote over: nobody can know them."""
        return {
            no
            for no in self.noes
            if no.shop == at.name
            and any(
                one.request and one.now and one.now.mailable and one.now.email == no.email
                and no.at <= one.at and self._within_our_request(no, one.began)
                for one in at.became
            )
        }  # fmt: skip


# ── Twice ───────────────────────────────────────────────────────────────────────────────────


def doubled(at: At) -> Iterator[Finding]:
    """More than one record of one person in the end, or ever by the stand-in's own count."""
    mailed = Counter(one.email for one in at.held.values() if one.mailable and one.email)
    for email, n in mailed.items():
        if n > 1:
            yield Finding("double", at.name, f"{n} records are mailed at {email}")
    for one in at.doubles:
        yield Finding("double", at.name, f"the stand-in says: {one}")


# ── Limits ──────────────────────────────────────────────────────────────────────────────────


def limits(at: At) -> Iterator[Finding]:
    days = Counter(int(one.began // DAY) for one in at.requests if one.began < at.per_day_until)
    sent = max(days.values(), default=0)
    if at.per_day is not None and sent > at.per_day:
        yield Finding("quota", at.name, f"{sent} requests, {at.per_day} a day allowed")
    if at.per_second is not None:
        yield from _paced(at, at.per_second)


def _paced(at: At, rate: float) -> Iterator[Finding]:
    times = sorted(one.began for one in at.requests)
    most = rate * (WINDOW + HICCUP) + max(at.in_flight.values(), default=10)
    for n, first in enumerate(times):
        inside = bisect_left(times, first + WINDOW) - n
        if inside > most:
            yield Finding("rate", at.name, f"{inside} within {WINDOW:g} s, {rate:g} a second")
            return


def judge(seen: Evidence) -> tuple[Sequence[Finding], Counter[str]]:
    """Every finding, in order, and the residues by kind."""
    verdict = Verdict(seen)
    return verdict.findings, verdict.residues
