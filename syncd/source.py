"""What somebody else's tables look like: the relations a `source` row names, their columns, keys.

Names come from control rows, so nothing here trusts them: a relation is resolved by PostgreSQL and
quoted from its catalogues, a column is taken from the list of columns there are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import asyncpg

from syncd.db import Connection, savepoint
from syncd.errors import ConfigError

KeyKind = Literal["bigint", "uuid", "text"]

KEY_KINDS: Mapping[str, KeyKind] = {
    "int2": "bigint",
    "int4": "bigint",
    "int8": "bigint",
    "uuid": "uuid",
    "text": "text",
    "varchar": "text",
}


def _up_to(most: str) -> str:
    """A pattern of the numbers with as many digits as *most* that are not larger."""
    forms = [most]
    for n, digit in enumerate(most):
        low = 1 if n == 0 else 0
        if int(digit) > low:
            forms.append(f"{most[:n]}[{low}-{int(digit) - 1}][0-9]{{{len(most) - n - 1}}}")
    return "|".join(forms)


PATTERNS: Mapping[KeyKind, str] = {
    "bigint": f"^(0|-?([1-9][0-9]{{0,17}}|{_up_to(str(2**63 - 1))})|{-(2**63)})$",
    "uuid": r"^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$",
    "text": r"^",
}
"""A stored id that does not match cannot be a key of that kind: it counts as gone (races 20)."""


@dataclass(frozen=True, slots=True)
class Column:
    name: str
    type: str  # pg_type.typname
    collation: str | None  # quoted, where the type has one


@dataclass(frozen=True, slots=True)
class Relation:
    """A table, view, materialized view or foreign table, as the catalogues have it."""

    name: str  # quoted, with its schema
    kind: str  # pg_class.relkind
    columns: Mapping[str, Column]
    unique: frozenset[frozenset[str]]  # sets of columns that a unique index holds
    leading: frozenset[str]  # columns or lower(column) that an index starts with

    def is_unique(self, *columns: str) -> bool:
        return any(index <= set(columns) for index in self.unique)


@dataclass(frozen=True, slots=True)
class Source:
    """The three relations of one source."""

    name: str
    contact: Relation
    list: Relation
    membership: Relation

    @property
    def key(self) -> KeyKind:
        return KEY_KINDS[self.contact.columns["id"].type]

    @property
    def list_key(self) -> KeyKind:
        return KEY_KINDS[self.list.columns["id"].type]


def people(source: Source) -> str:
    """SELECT of contact_id, email: who has one of the ids $1 (castable) or of the addresses $2."""
    contact = source.contact.name
    return f"""
select c.id::text as contact_id, lower(btrim(c.email::text)) as email from {contact} c
 where c.id = any($1::text[]::{source.key}[])
    or lower(btrim(c.email::text)) = any($2::text[])"""  # noqa: S608  quoted from the catalogues


_RESOLVE = """
select c.oid, quote_ident(n.nspname) || '.' || quote_ident(c.relname) as name,
       c.relkind::text as kind
  from pg_class c join pg_namespace n on n.oid = c.relnamespace
 where c.oid = to_regclass($1::text) and c.relkind in ('r', 'p', 'v', 'm', 'f')
"""
_COLUMNS = """
select a.attname::text as name, coalesce(b.typname, t.typname)::text as type,
       (select quote_ident(n.nspname) || '.' || quote_ident(l.collname)
          from pg_collation l join pg_namespace n on n.oid = l.collnamespace
         where l.oid = a.attcollation) as collation
  from pg_attribute a
  join pg_type t on t.oid = a.atttypid
  left join pg_type b on b.oid = t.typbasetype
 where a.attrelid = $1::oid and a.attnum > 0 and not a.attisdropped
 order by a.attnum
"""
_INDEXES = """
select i.indisunique and i.indpred is null and i.indexprs is null as is_unique,
       array(select a.attname::text from pg_attribute a
              where a.attrelid = i.indrelid and a.attnum = any(i.indkey::int2[])) as columns,
       pg_get_indexdef(i.indexrelid, 1, true) as leading
  from pg_index i
 where i.indrelid = $1::oid and i.indisvalid
"""

NEEDED: Mapping[str, Sequence[str]] = {
    "contact": ("id", "email"),
    "list": ("id", "name"),
    "membership": ("list_id", "contact_id"),
}
_KEYS: Mapping[str, Sequence[str]] = {
    "contact": ("id",),
    "list": ("id",),
    "membership": ("list_id", "contact_id"),
}


async def describe(connection: Connection, name: str) -> Source:
    """Resolve the source called *name*; ConfigError naming every fault there is."""
    row = await connection.fetchrow(
        "select contact, list, membership from syncd.source where name = $1", name
    )
    if row is None:
        raise ConfigError(f"source {name!r} does not exist: insert a row into syncd.source")
    found, faults = {}, []
    for role in NEEDED:
        try:
            found[role] = await _relation(connection, role, row[role])
        except ConfigError as error:
            faults += [f"source {name!r}: {fault}" for fault in error.faults]
    if not faults:
        faults = [f"source {name!r}: {fault}" for fault in _key_faults(found)]
    if faults:
        raise ConfigError(*faults)
    return Source(name, **found)


async def _relation(connection: Connection, role: str, text: str) -> Relation:
    try:
        async with savepoint(connection):  # a caller's transaction outlives a name that is none
            row = await connection.fetchrow(_RESOLVE, text)
    except asyncpg.PostgresError as error:
        raise ConfigError(f"{role} {text!r} is not a relation's name: {error}") from None
    if row is None:
        raise ConfigError(f"{role} {text!r} does not exist, or is no table or view")
    columns = {
        c["name"]: Column(c["name"], c["type"], c["collation"])
        for c in await connection.fetch(_COLUMNS, row["oid"])
    }
    indexes = await connection.fetch(_INDEXES, row["oid"])
    unique = frozenset(frozenset(i["columns"]) for i in indexes if i["is_unique"])
    leading = frozenset(i["leading"] for i in indexes)
    relation = Relation(row["name"], row["kind"], columns, unique, leading)
    if faults := list(_column_faults(role, relation)):
        raise ConfigError(*faults)
    return relation


def _column_faults(role: str, relation: Relation) -> list[str]:
    there = ", ".join(relation.columns)
    faults = [
        f"{role} {relation.name} has no column {column!r}; it has: {there}"
        for column in NEEDED[role]
        if column not in relation.columns
    ]
    for column in _KEYS[role]:
        if column in relation.columns and relation.columns[column].type not in KEY_KINDS:
            kind = relation.columns[column].type
            faults.append(
                f"{role} {relation.name}: key {column!r} is of type {kind};"
                " use integer, uuid or text (cast it in a view)"
            )
    return faults


def _key_faults(found: Mapping[str, Relation]) -> list[str]:
    pairs = (("contact", "contact_id"), ("list", "list_id"))
    faults = []
    for role, column in pairs:
        ours = KEY_KINDS[found[role].columns["id"].type]
        theirs = KEY_KINDS[found["membership"].columns[column].type]
        if ours != theirs:
            faults.append(
                f"membership {found['membership'].name}.{column} is {theirs},"
                f" but {role} {found[role].name}.id is {ours}: they cannot be compared"
            )
    return faults
