"""Every row that is held about a person, in the company's tables and in ours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import orjson

from syncd import source as sources
from syncd import sql
from syncd.control import Destination
from syncd.db import Connection, Row
from syncd.errors import ConfigError
from syncd.plan import castable
from syncd.source import Source

if TYPE_CHECKING:
    from syncd.app import App

Rows = list[dict[str, Any]]

OF_DESTINATIONS = (
    "mirror", "journal", "sharer", "opt_out", "delivery", "seen", "missing", "intent", "staged",
)  # fmt: skip
"""Statements of sql/explain.sql that take destinations, contact ids and the address."""


@dataclass(slots=True)
class Held:
    """What one source, and the destinations that it feeds, hold about an address."""

    name: str
    source: Source | None = None  # None: its row or its relations are faulty
    faults: Sequence[str] = ()
    ids: list[str] = field(default_factory=list)
    contacts: Rows = field(default_factory=list)
    lists: Rows = field(default_factory=list)  # contact_id, list_id, name
    rows: dict[str, Rows] = field(default_factory=dict)

    def of(self, table: str, destination_id: int, contact_id: str) -> Rows:
        """The rows of a table about one contact at one destination, the oldest first."""
        return [
            row
            for row in self.rows.get(table, ())
            if row["destination_id"] == destination_id and row.get("contact_id") == contact_id
        ]


async def rows_of(app: App, email: str, everyone: Sequence[Destination]) -> Sequence[Held]:
    """What is held about *email* (lower case, no blanks around), by source in use."""
    found = []
    async with app.pool.acquire() as connection:
        for name in sorted({d.source for d in everyone} or {"default"}):
            of_source = [d.id for d in everyone if d.source == name]
            found.append(await _of_source(connection, name, email, of_source))
    return found


async def _of_source(
    connection: Connection, name: str, email: str, destinations: Sequence[int]
) -> Held:
    held = Held(name)
    ids = {row[0] for row in await connection.fetch(sql.explain.ids, destinations, email)}
    try:
        held.source = await sources.describe(connection, name)
        ids |= await _ids_in_source(connection, held.source, email)
    except ConfigError as error:
        held.faults = error.faults
    held.ids = sorted(ids)
    if held.source is not None:
        await _source_rows(connection, held, held.source)
    for table in OF_DESTINATIONS:
        statement = getattr(sql.explain, table)
        held.rows[table] = _loaded(await connection.fetch(statement, destinations, held.ids, email))
    held.rows["change"] = _loaded(await connection.fetch(sql.explain.change, name, held.ids))
    for table in ("erasure", "command"):
        statement = getattr(sql.explain, table)
        held.rows[table] = _loaded(await connection.fetch(statement, held.ids, email))
    numbers = [str(row["id"]) for row in held.rows["opt_out"]]
    log = await connection.fetch(sql.explain.control_log, numbers)
    held.rows["control_log"] = _loaded(log)
    return held


async def _ids_in_source(connection: Connection, source: Source, email: str) -> set[str]:
    contact = source.contact.name
    query = f"select c.id::text from {contact} c where lower(btrim(c.email::text)) = $1"
    return {row[0] for row in await connection.fetch(query, email) if row[0] is not None}


async def _source_rows(connection: Connection, held: Held, source: Source) -> None:
    keys = castable(source, held.ids)
    those = f"any($1::text[]::{source.key}[])"
    held.contacts = _loaded(
        await connection.fetch(
            f"select to_jsonb(c)::text from {source.contact.name} c where c.id = {those}"
            " order by c.id",
            keys,
        )
    )
    rows = await connection.fetch(
        f"""
select m.contact_id::text as contact_id, m.list_id::text as list_id,
       (select min(l.name::text) from {source.list.name} l where l.id = m.list_id) as name
  from {source.membership.name} m
 where m.contact_id = {those}
 order by 1, 2""",
        keys,
    )
    held.lists = [dict(row) for row in rows]


def _loaded(rows: Sequence[Row]) -> Rows:
    return [orjson.loads(row[0]) for row in rows]


def every_row(found: Sequence[Held], names: Mapping[int, str]) -> dict[str, Rows]:
    """All of it by table, for a person who asks what is held; destinations by name."""
    tables: dict[str, Rows] = {}
    for held in found:
        if held.source is not None:
            tables.setdefault(held.source.contact.name, []).extend(held.contacts)
            tables.setdefault(held.source.membership.name, []).extend(held.lists)
        for table, rows in held.rows.items():
            known = tables.setdefault(f"syncd.{table}", [])
            for row in rows:
                if "destination_id" in row:
                    row = {"destination": names.get(row["destination_id"]), **row}
                if row not in known:
                    known.append(row)
    return {table: rows for table, rows in tables.items() if rows}
