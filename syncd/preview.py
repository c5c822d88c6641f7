"""The plan shown and not carried out: what a full pass would do, read in read-only transactions.

Judged with the plan's own functions, window by window; nothing is written, not even who shares an
address. What a provider will refuse, or holds without our knowing, no preview can tell.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, TypeVar

import orjson

from syncd import addresses, sql
from syncd.assemble import Assembled
from syncd.classify import HELD, Counted, Planned, classify
from syncd.control import Destination
from syncd.db import Connection, Pool, Row
from syncd.decide import values
from syncd.desired import Field
from syncd.estimate import Load, requests_for, seconds_for
from syncd.guard import KINDS
from syncd.model import Traits
from syncd.plan import castable

Kind = Literal["create", "update", "opt_out", "remove", "rejected", "absent"]
SHOWN: Sequence[Kind] = ("create", "update", "opt_out", "remove", "rejected", "absent")
SENT: Sequence[Kind] = ("create", "update", "opt_out", "remove")

T = TypeVar("T")


class Sample(NamedTuple):
    """One contact as an example. `changes`: what → (old, new)."""

    contact_id: str
    email: str | None
    changes: Mapping[str, tuple[Any, Any]]
    reason: str | None = None


@dataclass(slots=True)
class Preview:
    """What a full pass of one destination would do."""

    destination: Destination
    contacts: int = 0
    counts: dict[Kind, int] = field(default_factory=lambda: dict.fromkeys(SHOWN, 0))
    counted: dict[Counted, int] = field(default_factory=lambda: dict.fromkeys(KINDS, 0))
    held: dict[Counted, tuple[int, str]] = field(default_factory=dict)
    samples: dict[Kind, list[Sample]] = field(default_factory=lambda: {k: [] for k in SHOWN})
    load: Load = field(default_factory=Load)
    requests: int = 0
    seconds: float = 0.0

    def note(self, kind: Kind, planned: Planned | None) -> None:
        self.counts[kind] += 1
        if planned is not None and planned.counted is not None:
            self.counted[planned.counted] += 1

    def summary(self) -> dict[str, Any]:
        return {
            "contacts": self.contacts,
            **{str(kind): n for kind, n in self.counts.items()},
            "held": {kind: {"rows": n, "reason": why} for kind, (n, why) in self.held.items()},
            "requests": self.requests,
            "seconds": round(self.seconds, 1),
            "samples": {k: [s._asdict() for s in found] for k, found in self.samples.items()},
        }


class Previewer:
    """Reads one destination."""

    def __init__(self, pool: Pool, made: Assembled, window: int, samples: int) -> None:
        self.pool = pool
        self.made = made
        self.window = window
        self.most = samples
        self.preview = Preview(made.destination)
        self.sharers = Sharers()

    @property
    def _me(self) -> int:
        return self.made.destination.id

    @property
    def _traits(self) -> Traits:
        traits: Traits = self.made.adapter.traits
        return traits

    async def run(self) -> Preview:
        self.sharers = await self._read(self._sharers)
        matched = 0
        async for rows in self._windows():
            self.preview.contacts += rows[0]["total"]
            matched += rows[0]["matched"]
            for row in rows:
                if row["contact_id"] is not None:
                    self._judge(row)
        if matched != await self._read(lambda c: c.fetchval(sql.plan.count_here, self._me)):
            async for gone in self._gone():
                self._judge_gone(gone)
        await self._read(self._compare_samples)
        await self._read(self._guard)
        return self.preview

    async def _read(self, work: Callable[[Connection], Awaitable[T]]) -> T:
        async with self.pool.acquire() as connection, connection.transaction(readonly=True):
            return await work(connection)

    # ── The source ──────────────────────────────────────────────────────────────────────────

    async def _sharers(self, connection: Connection) -> Sharers:
        found = await connection.fetch(self.made.desired.shared_addresses)
        holders = [addresses.Holder(*row) for row in found]
        emails = sorted({one.email for one in holders})
        mirrored = await connection.fetch(sql.plan.at_mirror_addresses, self._me, emails)
        keepers = {r["email"]: r["contact_id"] for r in mirrored if r["state"] == "here"}
        known = await connection.fetch(sql.preview.sharers, self._me)
        return Sharers(
            {one.contact_id: one for one in addresses.sharers(holders, keepers)},
            {row["contact_id"]: addresses.Sharer(*row) for row in known},
        )

    async def _windows(self) -> AsyncIterator[Sequence[Row]]:
        last: str | None = None
        everyone = not self.sharers.is_known

        async def work(connection: Connection) -> tuple[str | None, Sequence[Row]]:
            await connection.execute("set local plan_cache_mode = force_custom_plan")
            row = await connection.fetchrow(self.made.desired.window, last, self.window)
            if row is None or not row["n"]:
                return None, ()
            by_window = self.made.planner.compare.by_window
            rows = await connection.fetch(by_window, row["first"], row["last"], everyone)
            return row["last"], rows

        while True:
            last, rows = await self._read(work)
            if last is None:
                return
            yield rows

    def _judge(self, given: Row) -> None:
        row = self.sharers.overlaid(given)
        planned = classify(row, self.made.destination.when_gone, full=True, force=False)
        kind = kind_of(row, planned, self.made.provider.traits)
        if kind is None:
            return
        self.preview.note(kind, planned)
        self._weigh(kind, len(row["lists"] or ()))
        if len(self.preview.samples[kind]) < self.most:
            new = shown(row, self.made.desired.fields)
            sample = Sample(row["contact_id"], row["raw_email"], new, row["fault"])
            self.preview.samples[kind].append(sample)

    def _weigh(self, kind: Kind, lists: int) -> None:
        """Add one contact to what is to be sent."""
        load, traits = self.preview.load, self._traits
        if kind == "create":
            load.creates += 1
            load.lists_of_creates += traits.creating.lists(lists)
        elif kind in SENT:
            load.changes += 1
            load.lists_of_changes += traits.changing.lists(max(1, lists))

    # ── The mirror ──────────────────────────────────────────────────────────────────────────

    async def _gone(self) -> AsyncIterator[Sequence[Row]]:
        """Windows of contacts that are there and no longer wanted."""
        desired, compare, last = self.made.desired, self.made.planner.compare, ""

        async def work(connection: Connection) -> tuple[str | None, Sequence[Row]]:
            rows = await connection.fetch(sql.plan.mirror_window, self._me, last, self.window)
            if not rows:
                return None, ()
            ids = [row["contact_id"] for row in rows]
            belong = await connection.fetch(desired.belonging, castable(desired, ids))
            gone = sorted(set(ids) - {row["contact_id"] for row in belong})
            keys = castable(desired, gone)
            found = await connection.fetch(compare.by_keys, keys, gone, False) if gone else ()
            return ids[-1], found

        while True:
            after, rows = await self._read(work)
            if after is None:
                return
            last = after
            yield rows

    def _judge_gone(self, rows: Sequence[Row]) -> None:
        for row in rows:
            planned = classify(row, self.made.destination.when_gone, full=True, force=False)
            if planned is None or planned.wish != "remove":
                continue
            self.preview.note("remove", planned)
            self._weigh("remove", 0)  # from how many lists, only the mirror knows
            if len(self.preview.samples["remove"]) < self.most:
                sample = Sample(row["contact_id"], row["m_email"], {})
                self.preview.samples["remove"].append(sample)

    # ── What it comes to ────────────────────────────────────────────────────────────────────

    async def _compare_samples(self, connection: Connection) -> None:
        """Put beside the new values what the provider was last given; only what differs stays."""
        ids = [one.contact_id for found in self.preview.samples.values() for one in found]
        rows = await connection.fetch(sql.preview.mirrored, self._me, ids)
        old = {row["contact_id"]: _held(row) for row in rows if row["state"] in HELD}
        refused = await connection.fetch(sql.preview.rejections, self._me, ids)
        reasons = {row["contact_id"]: row["last_error"] for row in refused}
        for kind, found in self.preview.samples.items():
            self.preview.samples[kind] = [
                one._replace(
                    changes=differences(old.get(one.contact_id, {}), one.changes),
                    reason=one.reason or reasons.get(one.contact_id),
                )
                for one in found
            ]

    async def _guard(self, connection: Connection) -> None:
        planner, preview = self.made.planner, self.preview
        for kind in KINDS:
            if not (n := preview.counted[kind]):
                continue
            waiting = await connection.fetchrow(sql.plan.undecided_plan, self._me, kind)
            waits = waiting is not None and waiting["state"] == "held"
            if waits or n > await planner.allowed(connection, kind):
                preview.held[kind] = n, await planner.reason(connection, kind, n)
        held = sum(n for n, _ in preview.held.values())
        preview.requests = requests_for(preview.load.without(held), self._traits)
        preview.seconds = seconds_for(preview.requests, self.made.limits)


@dataclass(frozen=True, slots=True)
class Sharers:
    """Who shares an address by the source (`now`), and what the last pass wrote down (`known`)."""

    now: Mapping[str, addresses.Sharer] = field(default_factory=dict)
    known: Mapping[str, addresses.Sharer] = field(default_factory=dict)

    @property
    def is_known(self) -> bool:
        return self.now == self.known

    def overlaid(self, row: Row) -> Mapping[str, Any]:
        """The row as it would be read once `now` were written down."""
        contact_id = row["contact_id"]
        now, known = self.now.get(contact_id), self.known.get(contact_id)
        if now == known:
            return row  # type: ignore[no-any-return]
        fault, subscribed = row["fault"], row["subscribed"]
        if known is not None and (fault or "").startswith("shares its address"):
            fault = None
        if now is not None and now.email == row["email"]:
            subscribed = subscribed and now.subscribed
            if now.holder != contact_id:
                fault = (
                    fault or f"shares its address with contact {now.holder}, which holds it here"
                )
        return {**row, "fault": fault, "subscribed": subscribed, "digest": "not yet known"}


def kind_of(row: Mapping[str, Any], planned: Planned | None, traits: Traits) -> Kind | None:
    """What would become of a contact of the source; None: nothing."""
    refused = row["j_state"] == "rejected" and row["j_digest"] == row["digest"]
    if row["fault"] is not None or (refused and planned is not None):
        return "rejected"
    in_step = row["m_digest"] == row["digest"] and row["m_state"] in ("here", "absent")
    if planned is None or in_step:
        return None
    if row["m_state"] in HELD:
        return "opt_out" if row["m_subscribed"] and not row["subscribed"] else "update"
    unlisted = traits.needs_list and not row["lists"]
    if row["m_state"] != "withdrawn" and (unlisted or not row["subscribed"]):
        return "absent"
    return "create"


def shown(row: Mapping[str, Any], fields: Sequence[Field]) -> dict[str, Any]:
    """A desired contact, flat: field → value."""
    known = {"e-mail": row["email"], **values(row, fields)}
    return {**known, "lists": list(row["lists"] or ()), "subscribed": row["subscribed"]}


def _held(row: Row) -> dict[str, Any]:
    known = {"e-mail": row["email"], **orjson.loads(row["fields"])}
    return {**known, "lists": list(row["lists"]), "subscribed": row["subscribed"]}


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> Mapping[str, tuple[Any, Any]]:
    """field → (old, new) where they are not the same; an empty value is no value."""
    names = dict.fromkeys([*new, *old]) if new else {}
    pairs = {name: (_filled(old.get(name)), _filled(new.get(name))) for name in names}
    return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}


def _filled(value: Any) -> Any:
    return None if value in ("", []) else value
