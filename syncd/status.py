"""How every destination stands: what is pending, since when, why, how long yet, and what to do.

Reads only. The words, and what a person is to do, are `syncd.status_words`. Design, promise 10.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import orjson

from syncd import control, log, meter, sql
from syncd.assemble import limits_of, options_of
from syncd.control import Destination
from syncd.db import Row
from syncd.erasure_words import requests
from syncd.errors import ConfigError
from syncd.estimate import DAY, even, requests_for, seconds_for
from syncd.model import Meter, Traits
from syncd.providers import provider
from syncd.secrets import account_key, expiry
from syncd.standing import Budget, Credential, Drift, Held, Lane, Said, Standing, Status
from syncd.status_words import notes, reasons

if TYPE_CHECKING:
    from syncd.app import App

LANES = ("opt-outs", "fresh", "removals", "backfill")


async def status(app: App, names: Sequence[str] = ()) -> Status:
    """Look at the destinations called *names* (none: all)."""
    chosen = await app.destinations(names)
    ids = [d.id for d in chosen]
    rows = {r["id"]: r for r in await app.pool.fetch(sql.status.destinations, ids)}
    at: datetime = await app.pool.fetchval("select now()")
    found = {d.id: _begun(d, rows[d.id]) for d in chosen if d.id in rows}
    await _journal(app, found)
    await _held(app, {d.name: found[d.id] for d in chosen if d.id in found})
    await _mirror(app, found)
    await _passes(app, found)
    await _scans(app, found)
    workers = [dict(r) for r in await app.pool.fetch(sql.status.workers)]
    for d in chosen:
        if d.id in found:
            await _account(app, d, found[d.id], at)
            judge(found[d.id], d.name, at, bool(workers))
    standings = {d.name: found[d.id] for d in chosen if d.id in found}
    erasures = await requests(app)
    asks = any(one.open for one in erasures)
    return Status(
        at,
        all(one.in_step for one in standings.values()),
        all(one.in_step and not one.why for one in standings.values()) and not asks,
        standings,
        workers,
        [_open(r) for r in await app.pool.fetch(sql.status.open_long)],
        erasures,
    )


def _begun(d: Destination, row: Row) -> Standing:
    secret = Credential(d.credential)
    standing = Standing(d.provider, d.source, secret, here=row["here"])
    standing.paused, standing.halted = row["paused"], row["halted"]
    standing.news, standing.owes_full = row["news"], row["owes_full"]
    standing.filled = not row["never_planned"]
    standing.created_at = row["created_at"]
    standing.planned_at, standing.read_at = row["planned_at"], row["read_at"]
    return standing


async def _journal(app: App, found: Mapping[int, Standing]) -> None:
    for row in await app.pool.fetch(sql.status.journal, list(found)):
        one = found[row["destination_id"]]
        one.doubtful += row["doubtful"]
        if row["state"] == "rejected":
            one.rejected += row["n"]
        if row["state"] not in ("due", "sent"):
            continue
        name = LANES[row["lane"]]
        if not one.lanes or one.lanes[-1].name != name:
            one.lanes.append(Lane(name))
        lane = one.lanes[-1]
        setattr(lane, row["state"], row["n"])
        lane.since = min(lane.since or row["since"], row["since"])
        one.pending += row["n"]
        one.pending_since = min(one.pending_since or row["since"], row["since"])
    for row in await app.pool.fetch(sql.status.words, list(found)):
        one = found[row["destination_id"]]
        said = one.waiting_because if row["state"] == "due" else one.rejected_because
        said.append(Said(row["said"], row["n"]))


async def _held(app: App, found: Mapping[str, Standing]) -> None:
    plans = await control.held_plans(app.pool, list(found))
    ids = [plan.id for plan in plans]
    since = {r["id"]: r["created_at"] for r in await app.pool.fetch(sql.status.held_since, ids)}
    for plan in plans:
        found[plan.destination].held.append(
            Held(
                plan.id,
                plan.kind,
                plan.rows,
                plan.reason,
                since[plan.id],
                f"syncd approve {plan.id} --rows {plan.rows}",
                f"syncd discard {plan.id}",
            )
        )


async def _mirror(app: App, found: Mapping[int, Standing]) -> None:
    for row in await app.pool.fetch(sql.status.lacking_contacts, list(found)):
        one = found[row["destination_id"]]
        one.lacking, one.lacking_opt_outs = row["n"], row["silent"]
    for row in await app.pool.fetch(sql.status.lacking, list(found)):
        said = Said(row["what"], row["n"], row["contacts"], row["silent"])
        found[row["destination_id"]].lacking_what.append(said)
    for row in await app.pool.fetch(sql.status.lists, list(found)):
        found[row["destination_id"]].lists[row["state"]] = row["n"]


async def _scans(app: App, found: Mapping[int, Standing]) -> None:
    for row in await app.pool.fetch(sql.status.drift, list(found)):
        told = {name: row[name] for name in Drift.__slots__}
        found[row["destination_id"]].drift = Drift(**told)
    for row in await app.pool.fetch(sql.status.scans_open, list(found)):
        found[row["destination_id"]].scans_open = row["n"]


async def _passes(app: App, found: Mapping[int, Standing]) -> None:
    for row in await app.pool.fetch(sql.status.full_passes, list(found)):
        told = {name: row[name] for name in ("started_at", "finished_at", "error")}
        told["counts"] = orjson.loads(row["counts"])
        found[row["destination_id"]].full_pass = told
    for row in await app.pool.fetch(sql.status.running, list(found)):
        names = ("kind", "started_at", "worker", "host")
        found[row["destination_id"]].running.append({name: row[name] for name in names})


# ── The account: credential, meters, how long yet ───────────────────────────────────────────


async def _account(app: App, d: Destination, standing: Standing, now: datetime) -> None:
    """What only this host's secrets tell; without them the limits are the destination's own."""
    try:
        kind = provider(d.provider)
        options = options_of(d, kind)
        limits = limits_of(d, kind, options)
        credential = await app.secrets.credential(d.credential, kind.credential_model)
    except ConfigError as error:
        standing.credential.fault = error.faults[0]
        return
    if (day := expiry(credential)) is not None:
        standing.credential.expires_on = day.isoformat()
        standing.credential.days_left = (day - now.date()).days
    scope = meter.scope_key(kind.name, kind.scope(options, credential), account_key(app.environ))
    rows = {r["meter"]: r for r in await app.pool.fetch(sql.status.meters, scope)}
    standing.meters = [_budget(name, limits[name], rows.get(name)) for name in limits]
    creates = await _creates(app, d, standing.pending)
    standing.estimate_seconds = estimate(
        standing.pending, kind.traits, standing.meters[0], now, creates
    )


async def _creates(app: App, d: Destination, pending: int) -> int:
    """About how many of the pending contacts are still to be made."""
    share = await app.pool.fetchval(sql.status.new_share, d.id) if pending else 0
    return round(pending * float(share))


def _budget(name: str, limit: Meter, row: Row | None) -> Budget:
    if row is None:
        return Budget(name, limit.per_second, limit.in_flight, limit.per_day, limit.per_day, None)
    per_day = row["per_day"]
    left = None if per_day is None else max(0, per_day - row["used_today"])
    return Budget(name, row["per_second"], row["in_flight"], per_day, left, row["not_before"])


def estimate(
    pending: int, traits: Traits, budget: Budget, now: datetime, creates: int = 0
) -> float | None:
    """Seconds that *pending* contacts take under the write meter, so many of them to be made; None
    where nothing is pending."""
    if not pending:
        return None
    requests = requests_for(even(creates, pending - creates), traits)
    if budget.left_today is not None and budget.per_day and requests > budget.left_today:
        midnight = now.astimezone(UTC).replace(hour=0, minute=0, second=0) + timedelta(days=1)
        days = math.ceil((requests - budget.left_today) / budget.per_day) - 1
        return (midnight - now).total_seconds() + days * DAY
    held = 0.0 if budget.not_before is None else (budget.not_before - now).total_seconds()
    limit = Meter(budget.per_second, budget.in_flight)
    return max(0.0, held) + seconds_for(requests, {budget.meter: limit})


# ── In step, or why not ─────────────────────────────────────────────────────────────────────


def judge(one: Standing, name: str, now: datetime, served: bool) -> None:
    """Fill `in_step`, `why` and `notes`. In step: nothing due, sent or held, nothing to plan."""
    one.why = reasons(one, name, now, served)
    one.notes = notes(one, name, now, served)
    still = one.paused or one.halted is not None
    lists = sum(n for state, n in one.lists.items() if state in ("due", "sent"))
    one.in_step = not (
        still or one.pending or one.held or one.news or one.owes_full or not one.filled or lists
    )


def _open(row: Row) -> dict[str, Any]:
    """A transaction that has been open for long; its query without what may be somebody's data."""
    told = dict(row)
    query = " ".join((told.pop("query") or "").split())
    told["query"] = log.masked(query)[:80] or None
    return told
