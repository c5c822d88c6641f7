"""One destination put together: control row, source, adapter, wire, meters → a `Flow`."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import orjson
from pydantic import ValidationError

from syncd import account as accounts
from syncd import meter, sql, wire
from syncd import source as sources
from syncd.compare import Compare
from syncd.control import UNREADABLE, Destination
from syncd.db import Connection, Pool
from syncd.decide import Rules
from syncd.desired import Desired, Field, mapping
from syncd.erasure import Erasures
from syncd.errors import ConfigError
from syncd.flow import Flow
from syncd.journal import Journal
from syncd.lists import Lists
from syncd.model import Can, Meter, Traits
from syncd.observer import NOBODY, Observer
from syncd.plan import Bounds, Planner
from syncd.providers import Options, Provider, TakesOver, provider
from syncd.push import Push
from syncd.reading import Reading
from syncd.scan import OptOutReader
from syncd.secrets import Secrets, account_key
from syncd.settings import Settings
from syncd.tombstone import Tombstones
from syncd.worker import Worker

NOT_OF_THE_WIRE = frozenset(Options.model_fields)
"""Options that change where and how fast is sent, not what: they are not in the generation."""

SINGLES = 500  # contacts of one claim, where a request carries but one and none limits them


@dataclass(slots=True)
class Held:
    """A credential as it is now; `wire` asks for it at every request."""

    value: Any
    fingerprint: str


@dataclass(slots=True)
class Assembled:
    """A destination ready to work, and what it was made of."""

    destination: Destination
    adapter: Any
    provider: type[Provider]
    options: Any
    credential: Held
    scope: str
    desired: Desired
    planner: Planner
    wire: wire.HttpWire
    meters: meter.Meters
    limits: Mapping[str, Meter]  # as they hold for the account
    flow: Flow | None  # None where nothing is to be sent (plan, check)
    list_ids: dict[str, str]
    tombstones: Tombstones


def options_of(destination: Destination, kind: type[Provider]) -> Any:
    """The checked options; ConfigError naming every fault."""
    if fault := destination.options.get(UNREADABLE):
        raise ConfigError(f"destination {destination.name!r}: options cannot be read: {fault}")
    try:
        return kind.options_model.model_validate(dict(destination.options))
    except ValidationError as error:
        raise ConfigError(
            *(
                f"destination {destination.name!r}: options.{_where(detail)}: {detail['msg']}"
                for detail in error.errors(include_url=False, include_input=False)
            )
        ) from None


def _where(detail: Mapping[str, Any]) -> str:
    return ".".join(str(part) for part in detail["loc"]) or "(all)"


def limits_of(destination: Destination, kind: type[Provider], options: Any) -> dict[str, Meter]:
    """The provider's meters with the operator's numbers in place of the provider's."""
    meters = dict(kind.meters(options))
    first = next(iter(meters))
    own = {
        "per_second": destination.per_second,
        "in_flight": destination.in_flight,
        "per_day": destination.per_day,
    }
    chosen = {first: {k: v for k, v in own.items() if v is not None}}
    for name, said in options.meters.items():
        if name not in meters:
            raise ConfigError(
                f"destination {destination.name!r}: options.meters has no {name!r};"
                f" there is: {', '.join(meters)}"
            )
        chosen[name] = {**said, **chosen.get(name, {})}
    return {name: _meter(known, chosen.get(name, {})) for name, known in meters.items()}


def _meter(known: Meter, said: Mapping[str, Any]) -> Meter:
    """A number ≤ 0 in `options.meters` takes the limit away (for a sandbox, or a benchmark)."""

    def one(name: str, kind: type) -> Any:
        if name not in said:
            return getattr(known, name)
        return kind(said[name]) if said[name] > 0 else None

    return Meter(one("per_second", float), one("in_flight", int), one("per_day", int))


async def desired_of(
    pool: Pool, destination: Destination, kind: type[Provider], options: Any
) -> Desired:
    """The compiled mapping; ConfigError naming every fault of source and mapping."""
    async with pool.acquire() as connection:
        return await desired_on(connection, destination, kind, options)


async def desired_on(
    connection: Connection, destination: Destination, kind: type[Provider], options: Any
) -> Desired:
    """As `desired_of`, on a connection whose transaction may have changed the rows."""
    source = await sources.describe(connection, destination.source)
    faults = await _list_faults(connection, destination, source)
    key = kind.key_column(options)
    fields: Sequence[Field] = ()
    try:
        fields = mapping(source.contact, destination.fields, kind.traits.default_fields)
        if key is not None:
            mapping(source.contact, {f"(key) {key.name}": key.column}, {})
    except ConfigError as error:
        faults += error.faults
    if faults:
        raise ConfigError(*(f"destination {destination.name!r}: {fault}" for fault in faults))
    wire_options = options.model_dump(exclude=set(NOT_OF_THE_WIRE), mode="json")
    return Desired(
        destination.id,
        source,
        tuple(fields),
        destination.lists,
        destination.everyone,
        options.opt_out_scope == "destination",
        wire_options,
        destination.when_gone,
        None if key is None else key.column,
        kind.traits.names_lists,
    )


async def _list_faults(
    connection: Any, destination: Destination, source: sources.Source
) -> list[str]:
    """A selected list that is not there would deselect everybody: an error, not a plan."""
    if destination.lists is None:
        return []
    rows = await connection.fetch(
        f"select id::text as id, name::text as name from {source.list.name}"  # noqa: S608  quoted
    )
    known = {row["id"]: row["name"] for row in rows}
    names = {name: one for one, name in known.items()}
    return [
        f"list {one!r} does not exist in {source.list.name}"
        + (f"; it is the name of list {names[one]!r}" if one in names else "")
        for one in destination.lists
        if one not in known
    ]


async def list_ids(pool: Pool, destination_id: int, reads: bool) -> dict[str, str]:
    """Source list id → remote id, of the lists that contacts may be put into."""
    rows = await pool.fetch(sql.lists.ids, destination_id, reads)
    return {row["list_id"]: row["remote_id"] for row in rows}


async def scope_limits(
    destination: Destination, everyone: Sequence[Destination], secrets: Secrets
) -> tuple[dict[str, Meter], list[str]]:
    """The limits that hold for the account: the smallest any of its destinations sets; and who."""
    kind = provider(destination.provider)
    mine = kind.scope(
        options_of(destination, kind),
        await secrets.credential(destination.credential, kind.credential_model),
    )
    found = limits_of(destination, kind, options_of(destination, kind))
    sharing = []
    for other in everyone:
        if other.id == destination.id or other.provider != destination.provider:
            continue
        try:
            options = options_of(other, kind)
            theirs = await secrets.credential(other.credential, kind.credential_model)
            if kind.scope(options, theirs) != mine:
                continue
            limits = limits_of(other, kind, options)
        except ConfigError:
            continue  # that destination's own fault, told where it is assembled
        sharing.append(other.name)
        found = {name: meter.smallest([one, limits[name]]) for name, one in found.items()}
    return found, sharing


@asynccontextmanager
async def assemble(
    pool: Pool,
    settings: Settings,
    secrets: Secrets,
    environ: Mapping[str, str],
    destination: Destination,
    everyone: Sequence[Destination],
    worker: Worker | None = None,
    observer: Observer = NOBODY,
) -> AsyncIterator[Assembled]:
    """Put a destination together; ConfigError where its rows or secrets are wrong."""
    kind = provider(destination.provider)
    options = options_of(destination, kind)
    value = await secrets.get(destination.credential)
    credential = await secrets.credential(destination.credential, kind.credential_model)
    held = Held(credential, secrets.fingerprint(value))
    desired = await desired_of(pool, destination, kind, options)
    tombstones = Tombstones(pool, secrets)
    await tombstones.check()
    limits, _ = await scope_limits(destination, everyone, secrets)
    scope = meter.scope_key(kind.name, kind.scope(options, credential), account_key(environ))
    permits = meter.Meters(
        pool,
        scope,
        limits,
        str(worker.id if worker else 0),
        settings.request_timeout_seconds,
        read_share=settings.read_share,
        lane0_share=settings.lane0_share,
        fence=worker.fence if worker else lambda: None,
    )
    out = wire.HttpWire(
        kind,
        options,
        lambda: held.value,
        permits,
        timeout=settings.request_timeout_seconds,
        cap=settings.answer_cap_mb * 2**20,
        connections=settings.connections_per_destination,
        observer=observer,
    )
    async with out:
        account = await pool.fetchrow(sql.scan.account, scope)
        known = account is not None and account["credential_hash"] == held.fingerprint
        findings = orjson.loads(account["findings"]) if account is not None and known else {}
        adapter = kind(out, options, findings)
        bounds = Bounds(settings.max_keys, settings.max_keys_percent)
        planner = Planner(pool, destination, desired, kind.traits.key, bounds)
        made = Assembled(
            destination, adapter, kind, options, held, scope, desired, planner, out, permits,
            limits, None,
            await list_ids(
                pool,
                destination.id,
                bool(adapter.traits.can & Can.SCAN) and adapter.traits.scans_lists,
            ),
            tombstones,
        )  # fmt: skip
        if worker is not None:
            made.flow = _flow(made, settings, worker, limits)
            made.flow.condition.fingerprint = held.fingerprint
            made.flow.observe(observer, out.requests.total)
        try:
            yield made
        finally:
            await permits.release()


def _flow(made: Assembled, settings: Settings, worker: Worker, limits: Mapping[str, Meter]) -> Flow:
    pool, destination = made.planner.pool, made.destination
    traits: Traits = made.adapter.traits  # of this account, where they differ
    compare: Compare = made.planner.compare
    journal = Journal(
        pool,
        destination.id,
        destination.source,
        worker.id,
        compare,
        notes_deliveries=settings.keep_deliveries_days > 0,
        tombstones=made.tombstones,
    )
    key = made.provider.key_column(made.options)
    name = None if key is None else key.name
    _introduce(made.adapter, journal)
    reader = OptOutReader(
        pool, destination.id, destination.name, worker.id, made.adapter, name,
        lambda c, notices: made.tombstones.without(c, destination.source, notices),
    )  # fmt: skip
    lists = Lists(
        pool,
        made.desired,
        worker.id,
        made.adapter,
        destination.when_list_gone == "delete",
        made.list_ids,
    )
    writes = next(iter(limits.values()))
    most = writes.in_flight or 32
    singly = made.provider.traits.batch == 1
    rules = Rules(
        destination.when_gone,
        traits,
        made.desired.fields,
        made.list_ids.get,
        bool(traits.can & Can.FIND),
        bool(traits.can & Can.LISTS),
        name,
        left_ids=lists.known.get if traits.can & Can.LISTS else None,
        learn_lists=lists.remember,
    )
    return Flow(
        destination,
        made.planner,
        journal,
        Push(made.adapter, journal, most, reader.refresh),
        rules,
        reader,
        poll=settings.poll_seconds,
        window=settings.window,
        claims=min(most, 3 if singly else 8),
        claim_size=claim_size(made.provider.traits, writes),
        learn=lambda: learn(made),
        identify=lambda: accounts.identify(made),
        lists=lists,
        erasures=Erasures(pool, destination, made.desired, made.adapter, made.tombstones),
        reading=Reading(
            made.planner,
            worker.id,
            made.adapter,
            lists,
            reader.note,
            lambda f: keep(made, f),
            made.tombstones,
        ),
    )


def _introduce(adapter: Any, journal: Journal) -> None:
    """Let an adapter that takes records over ask whose they are (`TakesOver`)."""
    if isinstance(adapter, TakesOver):
        adapter.belongs = journal.is_anothers


def claim_size(traits: Traits, writes: Meter) -> int:
    """How many contacts one claim takes: a batch; where a request carries but one, as many as may
    be sent in half a second, so that not every one of them costs transactions of its own."""
    if traits.batch > 1:
        return traits.batch
    return (
        SINGLES if writes.per_second is None else min(SINGLES, max(1, int(writes.per_second / 2)))
    )


async def keep(made: Assembled, findings: Mapping[str, Any]) -> None:
    """Remember what was found out about the account, until its credential changes."""
    text = orjson.dumps(findings, default=str).decode()
    await made.planner.pool.execute(
        sql.scan.found_out, made.scope, text, made.credential.fingerprint
    )


async def learn(made: Assembled) -> None:
    """Find out what the account is like, once per credential, before the first write."""
    pool, fingerprint = made.planner.pool, made.credential.fingerprint
    account = await pool.fetchrow(sql.scan.account, made.scope)
    if account is not None and account["credential_hash"] == fingerprint:
        return
    learned = await made.adapter.learn()
    findings = {} if learned is None else dict(learned.findings)
    identity = "" if learned is None else learned.identity
    text = orjson.dumps(findings).decode()
    kept = await pool.fetchval(sql.scan.learn, made.scope, identity, text, fingerprint)
    made.adapter = made.provider(made.wire, made.options, orjson.loads(kept))
    if made.flow is not None:
        _introduce(made.adapter, made.flow.journal)
        made.flow.push.adapter = made.flow.reader.adapter = made.adapter
        made.flow.lists.adapter = made.flow.erasures.adapter = made.adapter
        made.flow.reading.adapter = made.adapter
