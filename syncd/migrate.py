"""`syncd migrate`: numbered, forward-only SQL files, each applied once, under one lock.

Old and new versions run side by side while a fleet is upgraded: the schema is migrated first, then
one daemon after the other is replaced. So a migration only expands, unless it says at its top

    -- contracts: 0031 (why nothing that knows this migration needs any more what goes)

No program that does not bring migration 0031 is then served; `expansion.faults` sees to it.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from typing import NamedTuple

from syncd import sql
from syncd.db import Connection
from syncd.errors import ConfigError, DatabaseUnreachable

LOCK = 0x73796E6364  # "syncd"; an advisory lock of the transaction, so PgBouncer is no obstacle

_BOOK = """
create schema if not exists syncd;
create table if not exists syncd.migration (
    version int primary key, name text not null, checksum text not null,
    applied_at timestamptz not null default now());
alter table syncd.migration add column if not exists needs int not null default 0;
comment on column syncd.migration.needs is
    'programs that do not bring the migration of this number cannot work with the schema any more';
"""
_CONTRACTS = re.compile(r"^-- contracts: (\d{4})\b", re.MULTILINE)


class Migration(NamedTuple):
    version: int
    name: str
    text: str

    @property
    def checksum(self) -> str:
        return hashlib.sha256(self.text.encode()).hexdigest()

    @property
    def needs(self) -> int:
        """The migration that a program must bring to work after this one; 0: any program does."""
        found = _CONTRACTS.search(self.text)
        return 0 if found is None else int(found[1])


def migrations() -> Sequence[Migration]:
    """Every migration that this version of syncd brings, in order."""
    paths = sorted((sql.folder() / "migrations").glob("[0-9][0-9][0-9][0-9]_*.sql"))
    return [Migration(int(p.name[:4]), p.stem[5:], p.read_text("utf-8")) for p in paths]


def script() -> str:
    """All migrations as one text to be read, or run by hand through psql."""
    parts = [f"-- syncd {m.version:04d} {m.name}\n{m.text}{_entry(m)}" for m in migrations()]
    return (
        f"begin;\nselect pg_advisory_xact_lock({LOCK});\n{_BOOK}\n" + "\n".join(parts) + "commit;"
    )


def _entry(migration: Migration) -> str:
    return (
        "insert into syncd.migration (version, name, checksum, needs) values "
        f"({migration.version}, '{migration.name}', '{migration.checksum}', {migration.needs});\n"
    )


async def migrate(connection: Connection) -> Sequence[Migration]:
    """Apply what is missing in one transaction; return it.

    Raises ConfigError when an applied file has changed since, or the schema is newer than us.
    Daemons of an older version may serve meanwhile, and go on after it.
    """
    async with connection.transaction():
        await connection.execute(f"select pg_advisory_xact_lock({LOCK})")
        await connection.execute(_BOOK)
        done = await _applied(connection)
        _compare(done, _unknown(done))
        missing = [m for m in migrations() if m.version not in done]
        for migration in missing:
            await connection.execute(migration.text)
            await connection.execute(_entry(migration))
    return missing


async def check_schema(connection: Connection) -> None:
    """Raise DatabaseUnreachable unless the schema has all that this version was written for;
    ConfigError if a newer one has taken away what it needs."""
    if not await connection.fetchval("select to_regclass('syncd.migration') is not null"):
        raise DatabaseUnreachable("the database has no syncd schema yet: run `syncd migrate`")
    done = await _applied(connection)
    _compare(done, await _outgrown(connection))
    if any(m.version not in done for m in migrations()):
        raise DatabaseUnreachable("the syncd schema is older than this program: `syncd migrate`")


async def _applied(connection: Connection) -> dict[int, str]:
    rows = await connection.fetch("select version, checksum from syncd.migration")
    return {row["version"]: row["checksum"] for row in rows}


async def newer(connection: Connection) -> Sequence[int]:
    """Migrations in the database that this version does not know, and works with all the same."""
    return sorted((await _applied(connection)).keys() - {m.version for m in migrations()})


def _unknown(done: dict[int, str]) -> Sequence[str]:
    return [
        f"migration {v:04d} in the database is unknown to this version: upgrade syncd on this host"
        for v in sorted(done.keys() - {m.version for m in migrations()})
    ]


async def _outgrown(connection: Connection) -> Sequence[str]:
    """What this version cannot do without, and the schema has no more. An older book says nothing
    of it."""
    latest = migrations()[-1].version
    rows = await connection.fetch(
        "select m.version, (to_jsonb(m) ->> 'needs')::int as needs from syncd.migration m"
        " where (to_jsonb(m) ->> 'needs')::int > $1 order by 1",
        latest,
    )
    return [
        f"migration {row['version']:04d} in the database took away what this version (schema"
        f" {latest:04d}) needs: upgrade syncd on this host to one that brings {row['needs']:04d}"
        for row in rows
    ]


def _compare(done: dict[int, str], more: Sequence[str]) -> None:
    """ConfigError with *more*, and with every file that is not what was applied."""
    ours = {m.version: m for m in migrations()}
    faults = [
        *more,
        *(
            f"migration {v:04d}_{ours[v].name}.sql differs from what was applied: restore the file"
            for v in sorted(done.keys() & ours.keys())
            if done[v] != ours[v].checksum
        ),
    ]
    if faults:
        raise ConfigError(*faults)
