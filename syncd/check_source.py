"""`check`, a source: the shape of its relations, what is watched, how fast and how clean it is."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any

import orjson

from syncd import source as sources
from syncd import sql
from syncd.check_rows import check_rows
from syncd.db import Connection, Row
from syncd.errors import ConfigError
from syncd.model import Finding
from syncd.source import Relation, Source
from syncd.words import listed

BIG = 10_000  # rows from which a look-up without an index is worth a warning
PATIENCE = "60s"  # for counting addresses; a bigger table than that is left uncounted
ADDRESS = r"^[^@\s]+@[^@\s]+\.[^@\s]+$"
KINDS = {"v": "view", "m": "materialized view", "f": "foreign table", "p": "table", "r": "table"}
KEYS = {"contact": "id", "list": "id", "membership": "contact_id"}


async def check_source(connection: Connection, name: str) -> AsyncIterator[Finding]:
    """Every finding about the source called *name*."""
    subject = f"source {name}"
    try:
        source = await sources.describe(connection, name)
    except ConfigError as error:
        for fault in error.faults:
            says = fault.removeprefix(f"source {name!r}: ")
            yield Finding(subject, "error", says, _shape_remedy(says, name), ConfigError.exit_code)
        return
    yield Finding(subject, "ok", _shape(source))
    for role in KEYS:
        for finding in await _watching(connection, source, role):
            yield finding
    for row in await connection.fetch(sql.check.watched, name):
        for finding in _triggers(subject, row):
            yield finding
    for finding in await _speed(connection, source):
        yield finding
    for finding in await check_rows(connection, source):
        yield finding


def _shape_remedy(says: str, name: str) -> str:
    if "does not exist" in says:
        return f"mend the name in the row {name!r} of syncd.source"
    if "no column" in says:
        return "put a view over it that has these columns, and name the view in syncd.source"
    return "put a view over it that casts the key, and name the view in syncd.source"


def _shape(source: Source) -> str:
    kinds = {role: getattr(source, role) for role in KEYS}
    told = ", ".join(f"{r} {k.name} ({KINDS[k.kind]})" for r, k in kinds.items())
    return f"{told}; keys are {source.key}"


# ── Watched or not ──────────────────────────────────────────────────────────────────────────


async def _watching(connection: Connection, source: Source, role: str) -> list[Finding]:
    """Whether changes of one relation are noticed at once, or by full passes only."""
    relation: Relation = getattr(source, role)
    subject, lives = f"source {source.name}", "found by full passes only (full_schedule)"
    if relation.kind in ("m", "f"):
        says = f"{role} {relation.name} is a {KINDS[relation.kind]}: its changes are {lives}"
        remedy = "make full_schedule as frequent as you need, or use a view over watched tables"
        return [Finding(subject, "warning", says, remedy)]
    beneath = await connection.fetch(sql.check.base_tables, relation.name, source.name)
    missing = [row["name"] for row in beneath if not row["watched"]]
    if not missing:
        return []
    if relation.kind == "v":
        return [_view(source, role, missing, watches_some=len(missing) < len(beneath))]
    says = f"{role} {relation.name} is not watched: its changes are {lives}"
    return [Finding(subject, "warning", says, _watch(relation.name, KEYS[role], source.name))]


def _view(source: Source, role: str, missing: list[str], *, watches_some: bool) -> Finding:
    """A table that rarely changes may well be left to full passes, so that is no warning."""
    says = (
        f"{role} {getattr(source, role).name} is a view; changes of {listed(missing)} beneath it"
        " are found by full passes only (full_schedule)"
    )
    remedy = _watch(missing[0], "THE COLUMN WITH THE CONTACT'S ID", source.name)
    fine = watches_some or role == "list"
    return Finding(f"source {source.name}", "ok" if fine else "warning", says, remedy)


def _watch(relation: str, key: str, source: str) -> str:
    words = ", ".join("'" + word.replace("'", "''") + "'" for word in (relation, key, source))
    return f"select syncd.watch({words});"


def _triggers(subject: str, row: Row) -> Iterator[Finding]:
    name, again = row["name"], "select syncd.rewatch();"
    if not row["has_key"]:
        says = f"{name} is watched by its column {row['key']!r}, which is no longer there"
        yield Finding(subject, "warning", says, f"select syncd.watch('{name}', 'THE NEW KEY', …);")
    elif not row["has_trigger"]:
        yield Finding(subject, "warning", f"{name} is watched, but its triggers are gone", again)
    elif row["silenced"]:
        says = f"the triggers of {name} are disabled: its changes are found by full passes only"
        yield Finding(subject, "warning", says, f"alter table {name} enable trigger user; {again}")


# ── Speed ───────────────────────────────────────────────────────────────────────────────────


async def _speed(connection: Connection, source: Source) -> list[Finding]:
    """Which look-ups of a keyed pass read a big table from end to end."""
    none = "00000000-0000-0000-0000-000000000000" if source.key == "uuid" else "0"
    ids = f"any(array['{none}']::text[]::{source.key}[])"
    contact, membership = source.contact.name, source.membership.name
    looks = (
        ("contacts by id", "id", f"{contact} x where x.id = {ids}"),
        (
            "contacts by address",
            "lower(btrim(email))",
            f"{contact} x where lower(btrim(x.email::text)) = any(array['a@b.c'])",
        ),
        ("lists by contact", "contact_id", f"{membership} x where x.contact_id = {ids}"),
    )
    found = []
    for what, column, query in looks:
        text = await connection.fetchval(f"explain (verbose, format json) select from {query}")
        tables = sorted(_scanned(orjson.loads(text)))
        schemas, names = [one[0] for one in tables], [one[1] for one in tables]
        for row in await connection.fetch(sql.check.sizes, schemas, names):
            if row["rows"] > BIG:
                says = f"looking up {what} reads all of {row['name']}: {row['rows']:,} rows"
                remedy = f"create index concurrently on {row['name']} ({column});"
                found.append(Finding(f"source {source.name}", "warning", says, remedy))
    return found


def _scanned(plan: Any) -> set[tuple[str, str]]:
    """Schema and name of the tables that a plan reads from end to end."""
    if isinstance(plan, list):
        return {table for one in plan for table in _scanned(one)}
    if not isinstance(plan, dict):
        return set()
    inner = {table for value in plan.values() for table in _scanned(value)}
    own = (
        {(plan["Schema"], plan["Relation Name"])} if plan.get("Node Type") == "Seq Scan" else set()
    )
    return inner | own
