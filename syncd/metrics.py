"""Prometheus' view: what this process counted, and how every destination stands in the database.

Every daemon tells the same standings, so aggregate those by `max by (destination)`; what a process
counted itself (requests, passes, settled contacts, `syncd_breaker_open`) by `sum`. Base units, as
Prometheus wants them: seconds, and moments as seconds since 1970.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, NamedTuple

from prometheus_client import (
    CollectorRegistry,
    Counter,
    GCCollector,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from syncd import __version__
from syncd.db import LOST
from syncd.health import Health
from syncd.observer import Observer
from syncd.standing import Standing, Status
from syncd.status import LANES, status

if TYPE_CHECKING:
    from syncd.app import App

FRESH = 2.0  # seconds that what the database said is told again: several may scrape at once
PATIENCE = 5.0  # seconds that the database may take

REQUESTS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
PASSES = (0.01, 0.05, 0.25, 1, 5, 30, 120, 600, 3600)


class _Counted(Observer):
    """One destination's share of the counters."""

    def __init__(self, metrics: Metrics, destination: str) -> None:
        self._metrics, self._destination = metrics, destination

    def requested(self, meter: str, outcome: str, seconds: float) -> None:
        self._metrics.requests.labels(self._destination, meter, outcome).inc()
        self._metrics.latency.labels(self._destination, meter).observe(seconds)

    def settled(self, outcome: str, contacts: int) -> None:
        self._metrics.contacts.labels(self._destination, outcome).inc(contacts)

    def passed(self, kind: str, seconds: float) -> None:
        self._metrics.passes.labels(self._destination, kind).observe(seconds)


class Metrics:
    """The counters of one process, for as long as it lives."""

    def __init__(self) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]  # a series more for each
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        GCCollector(registry=self.registry)
        where = ("destination", "meter")
        self.requests = Counter(
            "syncd_requests", "HTTP requests by outcome: 2xx to 5xx, unsent, lost.",
            (*where, "outcome"), registry=self.registry,
        )  # fmt: skip
        self.latency = Histogram(
            "syncd_request_duration_seconds", "From first byte sent to last byte read.",
            where, buckets=REQUESTS, registry=self.registry,
        )  # fmt: skip
        self.contacts = Counter(
            "syncd_contacts_settled", "Contacts by what became of them.",
            ("destination", "outcome"), registry=self.registry,
        )  # fmt: skip
        self.passes = Histogram(
            "syncd_pass_duration_seconds", "Keyed and full plan passes, and readings of opt-outs.",
            ("destination", "kind"), buckets=PASSES, registry=self.registry,
        )  # fmt: skip
        self._known: Status | None = None
        self._known_at = -FRESH
        self._asking = asyncio.Lock()

    def observer(self, destination: str) -> Observer:
        return _Counted(self, destination)

    async def text(self, app: App, health: Health) -> bytes:
        """Prometheus' text format; without the database, what this process knows by itself."""
        found = await self._standings(app)
        looked = CollectorRegistry(auto_describe=False)
        looked.register(_Looked(found, health))
        return generate_latest(self.registry) + generate_latest(looked)

    async def _standings(self, app: App) -> Status | None:
        async with self._asking:
            if time.monotonic() - self._known_at >= FRESH:
                try:
                    async with asyncio.timeout(PATIENCE):
                        self._known = await status(app)
                except LOST:
                    self._known = None
                self._known_at = time.monotonic()
            return self._known


# ── What the database says ──────────────────────────────────────────────────────────────────


class Gauge(NamedTuple):
    """A figure of a standing: its name, what it is, and how to read it (None: there is none)."""

    name: str
    says: str
    value: Callable[[Standing, datetime], float | None]


def _age(then: datetime | None, now: datetime) -> float | None:
    return None if then is None else max(0.0, (now - then).total_seconds())


def _expiry(one: Standing) -> float | None:
    day = one.credential.expires_on
    return None if day is None else datetime.fromisoformat(day).replace(tzinfo=UTC).timestamp()


GAUGES = (
    Gauge("syncd_in_step", "1 where nothing is due, sent, held or owed.",
          lambda one, _: one.in_step),
    Gauge("syncd_paused", "1 where a person paused it.", lambda one, _: one.paused),
    Gauge("syncd_halted", "1 where it waits for a person; `syncd status` says why.",
          lambda one, _: one.halted is not None),
    Gauge("syncd_contacts", "Contacts at the destination.", lambda one, _: one.here),
    Gauge("syncd_rejected_contacts", "Contacts that the provider refused.",
          lambda one, _: one.rejected),
    Gauge("syncd_held_contacts", "Contacts of plans that wait for approval.",
          lambda one, _: sum(plan.rows for plan in one.held)),
    Gauge("syncd_doubtful_contacts", "Contacts whose last outcome is not known.",
          lambda one, _: one.doubtful),
    Gauge("syncd_lacking_contacts", "Contacts of which the provider cannot express something.",
          lambda one, _: one.lacking),
    Gauge("syncd_opt_outs_not_conveyed_contacts", "Contacts whose no the provider was not told.",
          lambda one, _: one.lacking_opt_outs),
    Gauge("syncd_opt_out_read_age_seconds",
          "Since opt-outs were last read completely, or since the row was made.",
          lambda one, now: _age(one.read_at or one.created_at, now)),
    Gauge("syncd_plan_age_seconds", "Since the last plan pass.",
          lambda one, now: _age(one.planned_at, now)),
    Gauge("syncd_credential_usable", "0 where this host has no usable credential.",
          lambda one, _: one.credential.fault is None),
    Gauge("syncd_credential_expiry_timestamp_seconds", "When the credential expires.",
          lambda one, _: _expiry(one)),
)  # fmt: skip


class _Looked(Collector):
    """One look at everything that is no counter."""

    def __init__(self, found: Status | None, health: Health) -> None:
        self._found, self._health = found, health

    def collect(self) -> Iterator[GaugeMetricFamily]:
        health = self._health
        yield _family("syncd_build_info", "The version.", ("version",), [((__version__,), 1)])
        yield _family("syncd_ready", "1 while the database is reached and work moves.", (),
                      [((), health.ready)])  # fmt: skip
        yield _family("syncd_database_up", "1 where the database answers.", (),
                      [((), self._found is not None)])  # fmt: skip
        flows = sorted(health.flows().items())
        yield _family("syncd_breaker_open", "1 while a provider is not available to this process.",
                      ("destination",), [((n,), f.breaker.is_open) for n, f in flows])  # fmt: skip
        yield _family("syncd_still_seconds", "How long this process's work has not moved.",
                      ("destination",), [((n,), f.sender.still) for n, f in flows])  # fmt: skip
        if self._found is not None:
            yield from _standings(self._found)


def _standings(found: Status) -> Iterator[GaugeMetricFamily]:
    yield _family("syncd_workers", "Live processes.", (), [((), len(found.workers))])
    ones = sorted(found.destinations.items())
    for gauge in GAUGES:
        told = [((name,), gauge.value(one, found.at)) for name, one in ones]
        yield _family(gauge.name, gauge.says, ("destination",), told)
    backlog: list[Sample] = []
    oldest: list[Sample] = []
    left: list[Sample] = []
    for name, one in ones:
        lanes = {lane.name: lane for lane in one.lanes}
        for lane in LANES:
            known = lanes.get(lane)
            backlog.append(((name, lane), known.due + known.sent if known else 0))
            oldest.append(((name, lane), (known and _age(known.since, found.at)) or 0.0))
        left += [((name, b.meter), b.left_today) for b in one.meters]
    by_lane = ("destination", "lane")
    yield _family("syncd_backlog_contacts", "Contacts that are due or being sent.", by_lane,
                  backlog)  # fmt: skip
    yield _family("syncd_backlog_oldest_age_seconds", "How long the oldest of them has waited.",
                  by_lane, oldest)  # fmt: skip
    yield _family("syncd_budget_left_requests", "What is left of the day's quota, where there is.",
                  ("destination", "meter"), left)  # fmt: skip


Sample = tuple[tuple[str, ...], float | None]


def _family(
    name: str, says: str, labels: Sequence[str], samples: Iterable[Sample]
) -> GaugeMetricFamily:
    family = GaugeMetricFamily(name, says, labels=labels)
    for values, value in samples:
        if value is not None:
            family.add_metric(values, float(value))
    return family
