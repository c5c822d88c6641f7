"""`check`, a destination: its row, its credential, its account; and those it shares it with."""

from __future__ import annotations

from collections.abc import Iterator, Sequence, Set
from dataclasses import replace
from datetime import UTC, date, datetime
from typing import TYPE_CHECKING, Any, NamedTuple

import asyncpg

from syncd import account, sql
from syncd.assemble import NOT_OF_THE_WIRE, Assembled, desired_of, learn, limits_of, options_of
from syncd.check_people import doubles, sample
from syncd.condition import CONFIGURATION, CREATES
from syncd.control import Destination
from syncd.errors import ConfigError, ProviderError, Refused
from syncd.faults import faults_of
from syncd.model import Can, Finding, Meter
from syncd.providers import LooksUpPeople, Provider, provider
from syncd.schedule import parse
from syncd.secrets import expiry
from syncd.status_words import EXPIRES_SOON
from syncd.words import count, listed

if TYPE_CHECKING:
    from syncd.app import App

EDIT = "mend the row in syncd.destination (or the file, and `syncd apply`)"
PLACES = ("lists_property", "database")
"""Options by which several destinations have a place each in one account."""


class Known(NamedTuple):
    """What could be found out of a destination's row and credential."""

    destination: Destination
    kind: type[Provider]
    options: Any
    scope: str | None  # what limits are counted by, in clear; None without a credential
    account: str | None = None  # whose it is, as far as that is known


async def check_row(app: App, d: Destination, told: Set[str]) -> tuple[list[Finding], Known | None]:
    """Findings about the row and the secret; None where the row cannot be understood at all.

    told: faults of its source that have been told already.
    """
    faults = await faults_of(app.pool, app.secrets, d)
    found = [_fault(d, line) for line in faults if line not in told]
    refused = await app.pool.fetchval(sql.app.halted_with, d.id) is not None
    found += [*_never(d), *_guard(d), *_stopped(d, refused)]
    try:
        kind = provider(d.provider)
        options = options_of(d, kind)
    except ConfigError:
        return found, None
    if not faults:
        desired = await desired_of(app.pool, d, kind, options)
        mapped = ", ".join(f"{f.name} ← {f.column}" for f in desired.fields) or "none"
        found.append(Finding(d.name, "ok", f"fields: {mapped}"))
    try:
        credential = await app.secrets.credential(d.credential, kind.credential_model)
    except ConfigError:
        return found, Known(d, kind, options, None)
    found += _expiry(d, expiry(credential), datetime.now(UTC).date())
    whose = account.named_in(kind, credential) or await app.pool.fetchval(sql.account.pinned, d.id)
    return found, Known(d, kind, options, kind.scope(options, credential), whose)


def _fault(d: Destination, line: str) -> Finding:
    says = line.removeprefix(f"destination {d.name!r}: ")
    secret = says.startswith("secret ")
    return Finding(
        d.name, "error", says, f"`syncd secret set {d.credential}`" if secret else EDIT, 78
    )


def _never(d: Destination) -> Iterator[Finding]:
    """Bells that never ring."""
    missed = {"read_schedule": "opt-outs are never read", "full_schedule": "no full pass is made"}
    for column, what in missed.items():
        try:
            schedule = parse(getattr(d, column))
        except ConfigError:
            continue
        if schedule.every is None and schedule.cron is None:
            says = f"{column} is 'on change': {what} by the clock"
            yield Finding(d.name, "warning", says, "set an interval or cron, as '15m'")


def _guard(d: Destination) -> Iterator[Finding]:
    if d.guard_percent >= 100:
        says = "guard_percent is 100: a mass removal is sent without asking anybody"
        yield Finding(d.name, "warning", says, "set guard_percent to 10, the default")


def _stopped(d: Destination, refused: bool) -> Iterator[Finding]:
    """refused: whether a provider's answer to the credential has halted it (or its creates)."""
    if d.halted is not None:
        code = _halt_code(d.halted, refused)
        remedy = f"mend that, then `syncd resume {d.name}`"
        yield Finding(d.name, "error" if code else "warning", f"halted: {d.halted}", remedy, code)
    if d.paused:
        yield Finding(d.name, "warning", "paused: nothing is sent", f"`syncd resume {d.name}`")


def _halt_code(halted: str, refused: bool) -> int:
    """0 where something is sent all the same, or a person halted it with words of their own."""
    if halted.startswith(CONFIGURATION):
        return ConfigError.exit_code
    return Refused.exit_code if refused and not halted.startswith(CREATES) else 0


def _expiry(d: Destination, day: date | None, today: date) -> Iterator[Finding]:
    if day is None:
        return
    left = (day - today).days
    remedy = f"get a new credential and `syncd secret set {d.credential}` (with its expires_on)"
    if left < 0:
        says = f"secret {d.credential!r} expired on {day}"
        yield Finding(d.name, "error", says, remedy, Refused.exit_code)
    elif left <= EXPIRES_SOON:
        says = f"secret {d.credential!r} expires in {count(left, 'day')}, on {day}"
        yield Finding(d.name, "warning", says, remedy)
    else:
        yield Finding(d.name, "ok", f"secret {d.credential!r} is good until {day}")


# ── Accounts that destinations share ────────────────────────────────────────────────────────


def check_scopes(known: Sequence[Known], chosen: Set[str]) -> Iterator[Finding]:
    """Limits are counted by scope: of several destinations the smallest hold. What is written is
    the account's, whichever credential leads there."""
    scopes: dict[tuple[str, str], list[Known]] = {}
    for one in known:
        if one.scope is not None:
            scopes.setdefault((one.kind.name, one.scope), []).append(one)
    accounts: dict[tuple[str, str], list[Known]] = {}
    for (name, scope), group in scopes.items():
        told = next((one.account for one in group if one.account is not None), scope)
        for one in group:
            accounts.setdefault((name, one.account or told), []).append(one)
        if _concerns(group, chosen):
            yield _limits(group)
    for group in accounts.values():
        if _concerns(group, chosen):
            if len({one.scope for one in group}) > 1:
                yield _several_ways(group)
            yield from _same_place(group)


def _concerns(group: Sequence[Known], chosen: Set[str]) -> bool:
    return len(group) > 1 and any(one.destination.name in chosen for one in group)


def _several_ways(group: Sequence[Known]) -> Finding:
    says = f"destinations {listed([one.destination.name for one in group])} fill one account"
    remedy = "share the credential, too: then they share its limits"
    return Finding("accounts", "warning", f"{says} by different credentials", remedy)


def _limits(group: Sequence[Known]) -> Finding:
    names = [one.destination.name for one in group]
    limits = {one.destination.name: limits_of(*one[:3]) for one in group}
    holds = []
    for name in limits[names[0]]:
        for what in Meter.__slots__:
            said = {n: v for n in names if (v := getattr(limits[n][name], what)) is not None}
            if len(set(said.values())) > 1 or 0 < len(said) < len(names):
                who = min(said, key=lambda n: said[n])
                holds.append(f"{name} {what} {said[who]:g} of {who}")
    one_account = len({one.account for one in group}) == 1
    says = f"destinations {listed(names)} share one {'account' if one_account else 'quota'}"
    if not holds:
        return Finding("accounts", "ok", f"{says}, and its limits")
    remedy = "set the same limits for all of them, or leave them out"
    return Finding("accounts", "warning", f"{says}; the smallest holds: {listed(holds)}", remedy)


def _same_place(group: Sequence[Known]) -> Iterator[Finding]:
    known = type(group[0].options).model_fields
    option = next((one for one in PLACES if one in known), None)
    own = f"place (as options.{option})" if option else "account"
    places: dict[str, list[str]] = {}
    for one in group:
        place = getattr(one.options, "lists_property", None)
        place = place or repr(one.options.model_dump(exclude=set(NOT_OF_THE_WIRE), mode="json"))
        places.setdefault(place, []).append(one.destination.name)
    for names in places.values():
        if len(names) > 1:
            says = f"{listed(names)} write the same place of one account: each undoes the other's"
            remedy = f"give each its own {own}, or make them one"
            yield Finding("accounts", "warning", says, remedy)


# ── The provider itself ─────────────────────────────────────────────────────────────────────


async def check_account(
    app: App, known: Known, everyone: Sequence[Destination], probe: bool
) -> list[Finding]:
    """Ask the provider; with *probe* also learn what the account is like (writes a canary)."""
    name = known.destination.name
    try:
        async with app.assembled(known.destination, everyone) as made:
            told = [*await made.adapter.check()]
            if made.provider.traits.can & Can.FIELDS and all(f.level != "error" for f in told):
                told += await made.adapter.check_fields([f.name for f in made.desired.fields])
            if isinstance(made.adapter, LooksUpPeople) and all(f.level != "error" for f in told):
                told += await made.adapter.check_people(await sample(made))
            told += await doubles(made)
            if all(f.level != "error" for f in told) and (differs := await account.look(made)):
                told.append(differs)
            found = [replace(f, subject=f"{name}: {f.subject}") for f in told]
            if not any(f.level == "error" for f in found):
                found.append(await _learned(made, probe))
    except ConfigError:
        return []  # told already, where the row was looked at
    except ProviderError as error:
        remedy = "try again later" if not error.needs_a_person else "mend it, and check again"
        return [Finding(name, "error", error.reason, remedy, error.exit_code)]
    return found


async def _learned(made: Assembled, probe: bool) -> Finding:
    subject, pool = f"{made.destination.name}: account", made.planner.pool
    if probe:
        await learn(made)
    row = await pool.fetchrow(sql.scan.account, made.scope)
    if row is None or row["credential_hash"] != made.credential.fingerprint:
        says = "what the account can do is not known yet: found out before the first write"
        return Finding(subject, "ok", says, "`--probe` finds out now, with a canary")
    return Finding(subject, "ok", f"known: {row['findings']}")


def of_database(subject: str, error: asyncpg.PostgresError) -> Finding:
    """A question that PostgreSQL would not answer."""
    remedy = "see sql/roles.sql for the rights that syncd needs"
    return Finding(subject, "error", f"PostgreSQL: {error}", remedy, ConfigError.exit_code)
