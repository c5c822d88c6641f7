"""`syncd migrate`: numbered, forward-only SQL files, each applied once, under one lock."""

from __future__ import annotations

import hashlib
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
"""


class Migration(NamedTuple):
    version: int
    name: str
    text: str

    @property
    def checksum(self) -> str:
        return hashlib.sha256(self.text.encode()).hexdigest()


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
        "insert into syncd.migration (version, name, checksum) values "
        f"({migration.version}, '{migration.name}', '{migration.checksum}');\n"
    )


async def migrate(connection: Connection) -> Sequence[Migration]:
    """Apply what is missing in one transaction; return it.

    Raises ConfigError when an applied file has changed since, or the schema is newer than us.
    """
    async with connection.transaction():
        await connection.execute(f"select pg_advisory_xact_lock({LOCK})")
        await connection.execute(_BOOK)
        done = await _applied(connection)
        _compare(done)
        missing = [m for m in migrations() if m.version not in done]
        for migration in missing:
            await connection.execute(migration.text)
            await connection.execute(_entry(migration))
    return missing


async def check_schema(connection: Connection) -> None:
    """Raise DatabaseUnreachable unless the schema is the one this version was written for."""
    if not await connection.fetchval("select to_regclass('syncd.migration') is not null"):
        raise DatabaseUnreachable("the database has no syncd schema yet: run `syncd migrate`")
    done = await _applied(connection)
    _compare(done)
    if any(m.version not in done for m in migrations()):
        raise DatabaseUnreachable("the syncd schema is older than this program: `syncd migrate`")


async def _applied(connection: Connection) -> dict[int, str]:
    rows = await connection.fetch("select version, checksum from syncd.migration")
    return {row["version"]: row["checksum"] for row in rows}


def _compare(done: dict[int, str]) -> None:
    ours = {m.version: m for m in migrations()}
    faults = [
        f"migration {v:04d} in the database is unknown to this version: upgrade syncd on this host"
        for v in sorted(done.keys() - ours.keys())
    ]
    faults += [
        f"migration {v:04d}_{ours[v].name}.sql differs from what was applied: restore the file"
        for v in sorted(done.keys() & ours.keys())
        if done[v] != ours[v].checksum
    ]
    if faults:
        raise ConfigError(*faults)
