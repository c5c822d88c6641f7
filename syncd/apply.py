"""`apply` and `export`: sources and destinations as files declare them, and as the rows are.

Everything is tried out in one transaction: the rows are written, then looked at as a daemon would
look at them, and kept only if nothing is wrong with any of them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import asyncpg

from syncd import control, declared, sql
from syncd import source as sources
from syncd.db import Connection
from syncd.declared import Columns, Declared
from syncd.errors import ConfigError
from syncd.faults import row_faults

if TYPE_CHECKING:
    from syncd.app import App

Rows = Mapping[str, Columns]


@dataclass(slots=True)
class Change:
    """One row: what becomes of it. `columns`: of each that changes, what it was and what it is."""

    kind: str
    name: str
    action: str  # 'added', 'changed' or 'same'
    columns: dict[str, dict[str, Any]] = field(default_factory=dict)


@dataclass(slots=True)
class Applied:
    """What was done, or would be. needed: secrets that this host does not find, and why."""

    dry_run: bool
    changes: list[Change]
    needed: list[str] = field(default_factory=list)


async def apply(app: App, wanted: Declared, *, dry_run: bool = False) -> Applied:
    """Make the rows what *wanted* says, all or none; ConfigError names every fault of all of them.

    Rows it does not speak of stay, and so does a pause that it does not speak of.
    """
    async with app.pool.acquire() as connection:
        transaction = connection.transaction()
        await transaction.start()
        try:
            changes = await _tried(connection, wanted)
        except BaseException:
            await transaction.rollback()
            raise
        await (transaction.rollback() if dry_run else transaction.commit())
    return Applied(dry_run, changes, [one async for one in _needed(app, wanted)])


async def export(app: App, names: Sequence[str] = ()) -> str:
    """The rows as a file for `apply`: of these destinations and their sources (none: of all)."""
    chosen = {d.name for d in await app.destinations(names)}
    async with app.pool.acquire() as connection:
        rows = await _rows(connection, sql.apply.destinations_as_they_are)
        known = await _rows(connection, sql.apply.sources_as_they_are)
    destinations = {name: _unpaused(row) for name, row in rows.items() if name in chosen}
    used = {row["source"] for row in destinations.values()}
    return declared.written(
        {name: row for name, row in known.items() if name in used or not names}, destinations
    )


def _unpaused(row: Columns) -> Columns:
    """Without a pause that is none: whoever applies the file elsewhere does not end one there."""
    return {name: value for name, value in row.items() if name != "paused" or value}


# ── One transaction ─────────────────────────────────────────────────────────────────────────


async def _tried(connection: Connection, wanted: Declared) -> list[Change]:
    """Write it all and look at it; ConfigError where something is wrong."""
    before = {
        "source": await _rows(connection, sql.apply.sources),
        "destination": await _rows(connection, sql.apply.destinations),
    }
    faults = await _written(connection, wanted, before["source"])
    for row in await connection.fetch(sql.apply.destinations_of_sources, _touched(wanted, before)):
        faults += await row_faults(connection, control.destination(row))
    if faults:
        raise ConfigError(*dict.fromkeys(faults))
    after = {
        "source": await _rows(connection, sql.apply.sources_as_they_are),
        "destination": await _rows(connection, sql.apply.destinations_as_they_are),
    }
    return [
        _change(kind, name, before[kind].get(name), after[kind][name])
        for kind in declared.KINDS
        for name in wanted.rows(kind)
    ]


async def _rows(connection: Connection, statement: str) -> dict[str, dict[str, Any]]:
    """By name, the columns in the order in which a file has them."""
    kind = "source" if "syncd.source" in statement else "destination"
    order = declared.FORMS[kind].model_fields
    found = {r["name"]: json.loads(r["columns"]) for r in await connection.fetch(statement)}
    return {name: {column: row[column] for column in order} for name, row in found.items()}


async def _written(connection: Connection, wanted: Declared, known: Rows) -> list[str]:
    """Write the rows; what is wrong with those that could not be."""
    faults: list[str] = []
    for name, row in wanted.source.items():
        faults += await _kept(connection, wanted, "source", name, row)
    for name, row in wanted.destination.items():
        if row["source"] not in known and row["source"] not in wanted.source:
            there = ", ".join(sorted({*known, *wanted.source}))
            faults.append(
                f"{wanted.places['destination', name]}: destination {name!r}: source"
                f" {row['source']!r} does not exist; there is: {there}"
            )
            continue
        stored = {**row, "lists": await _as_ids(connection, row)}
        faults += await _kept(connection, wanted, "destination", name, stored)
    return faults


async def _kept(
    connection: Connection, wanted: Declared, kind: str, name: str, row: Columns
) -> list[str]:
    statement = sql.apply.keep_source if kind == "source" else sql.apply.keep_destination
    try:
        async with connection.transaction():
            await connection.execute(statement, name, json.dumps(row))
    except (asyncpg.DataError, asyncpg.IntegrityConstraintViolationError) as error:
        return [f"{wanted.places[kind, name]}: {kind} {name!r}: PostgreSQL: {error}"]
    return []


async def _as_ids(connection: Connection, row: Columns) -> list[str] | None:
    """Names of lists turned into ids, each once; what is neither is told with the row's faults."""
    lists: list[str] | None = row["lists"]
    if not lists:
        return lists
    try:
        async with connection.transaction():
            source = await sources.describe(connection, row["source"])
            found = await connection.fetch(
                f"select id::text as id, name::text as name from {source.list.name}"  # noqa: S608  quoted
            )
    except (ConfigError, asyncpg.PostgresError):
        return lists
    ids = {one["id"] for one in found}
    named = {one["name"]: one["id"] for one in found}
    return list(dict.fromkeys(x if x in ids else named.get(x, x) for x in lists))


def _touched(wanted: Declared, before: Mapping[str, Rows]) -> list[str]:
    """Sources whose destinations must be looked at: they changed, or a destination of theirs."""
    changed = {name for name, row in wanted.source.items() if before["source"].get(name) != row}
    return sorted(changed | {row["source"] for row in wanted.destination.values()})


# ── The difference ──────────────────────────────────────────────────────────────────────────


def _change(kind: str, name: str, before: Columns | None, after: Columns) -> Change:
    old, new = _flat(before or {}), _flat(after)
    columns = {
        key: {"from": old.get(key), "to": new.get(key)}
        for key in {**old, **new}
        if old.get(key) != new.get(key)
    }
    action = "added" if before is None else "changed" if columns else "same"
    return Change(kind, name, action, columns)


def _flat(row: Columns) -> dict[str, Any]:
    """Options and fields one by one."""
    return {key: value for name, told in row.items() for key, value in _parts(name, told)}


def _parts(name: str, told: Any) -> Iterator[tuple[str, Any]]:
    if name in ("options", "fields") and told:
        yield from ((f"{name}.{key}", value) for key, value in told.items())
    else:
        yield name, told


async def _needed(app: App, wanted: Declared) -> Any:
    for name, row in wanted.destination.items():
        try:
            await app.secrets.get(row["credential"] or name)
        except ConfigError as error:
            for fault in error.faults:
                yield f"{name}: {fault}"
