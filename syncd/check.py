"""`check`: everything that can be wrong, all at once, each with its remedy. Never stops early."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import asyncpg

from syncd import db, log, migrate, sql
from syncd.app import App, opened
from syncd.check_destination import Known, check_account, check_row, check_scopes, of_database
from syncd.check_source import check_source
from syncd.control import Destination
from syncd.errors import ConfigError, DatabaseUnreachable, SyncdError
from syncd.model import Finding
from syncd.secrets import KEY_VARIABLE, sealing_keys
from syncd.settings import Settings, load, shown_url
from syncd.tombstone import NAME as TOMBSTONE
from syncd.tombstone import Tombstones

OLDEST, NEWEST = 14, 18  # versions of PostgreSQL that every release is tested with
CLOCKS = 5.0  # seconds the host and the database may differ


async def check(
    config: Path | None,
    names: Sequence[str] = (),
    *,
    probe: bool = False,
    environ: Mapping[str, str] | None = None,
) -> AsyncIterator[Finding]:
    """Every finding, as it is made. *names*: destinations to look at; none: all of them."""
    try:
        settings = load(config)
    except ConfigError as error:
        for fault in error.faults:
            yield Finding("settings", "error", fault, "see config/syncd.toml", error.exit_code)
        return
    log.configure("error" if settings.log_level != "debug" else "debug", settings.log_format)
    yield Finding("settings", "ok", f"read; database {shown_url(settings.database_url) or 'PG*'}")
    environ = os.environ if environ is None else environ
    for finding in _keys(environ):
        yield finding
    try:
        async with opened(settings, _usable(environ), check=False) as app:
            async for finding in _inside(app, names, probe):
                yield finding
    except (DatabaseUnreachable, *db.LOST) as error:
        says = str(error) or f"the connection was lost ({type(error).__name__})"
        remedy = "start it, or mend SYNCD_DATABASE_URL (or the PG* variables)"
        yield Finding("database", "error", says, remedy, DatabaseUnreachable.exit_code)
    except ConfigError as error:
        for fault in error.faults:
            yield Finding("database", "error", fault, "mend the address", error.exit_code)


def _keys(environ: Mapping[str, str]) -> list[Finding]:
    try:
        keys = sealing_keys(environ)
    except ConfigError as error:
        remedy = f"mend {KEY_VARIABLE}; the table of secrets cannot be read meanwhile"
        return [Finding("secrets", "error", f, remedy, error.exit_code) for f in error.faults]
    if keys:
        return []
    says = "no key: the table syncd.secret cannot be used, account names are hashed without one"
    return [Finding("secrets", "ok", says, f"set {KEY_VARIABLE} to keep secrets in the database")]


def _usable(environ: Mapping[str, str]) -> Mapping[str, str]:
    """Without faulty keys, which have been told, so that the rest can be looked at."""
    try:
        sealing_keys(environ)
    except ConfigError:
        hidden = (KEY_VARIABLE, "CREDENTIALS_DIRECTORY")
        return {name: value for name, value in environ.items() if name not in hidden}
    return environ


async def _inside(app: App, names: Sequence[str], probe: bool) -> AsyncIterator[Finding]:
    sound = True
    async for finding in _database(app):
        sound = sound and finding.level != "error"
        yield finding
    if not sound:
        return
    try:
        chosen, everyone = await app.destinations(names), await app.destinations()
    except ConfigError as error:
        for fault in error.faults:
            yield Finding("destinations", "error", fault, "mend the name", error.exit_code)
        chosen, everyone = [], await app.destinations()
        chosen = [d for d in everyone if d.name in names]
    if not everyone:
        remedy = "`syncd init` writes an example; `syncd apply FILE` reads it"
        yield Finding("destinations", "warning", "there is none yet", remedy)
    async for finding in _erased(app):
        yield finding
    async for finding in _destinations(app, chosen, everyone, probe):
        yield finding


async def _erased(app: App) -> AsyncIterator[Finding]:
    """Where people were erased and this host cannot tell whom, nothing may be sent."""
    try:
        await Tombstones(app.pool, app.secrets).check()
    except ConfigError as error:
        remedy = f"give this host the secret {TOMBSTONE!r} (or the key that it was sealed with)"
        for fault in error.faults:
            yield Finding("tombstones", "error", fault, remedy, error.exit_code)
    except asyncpg.PostgresError as error:
        yield of_database("tombstones", error)


# ── The database ────────────────────────────────────────────────────────────────────────────


async def _database(app: App) -> AsyncIterator[Finding]:
    began = time.time()
    row = await app.pool.fetchrow(sql.check.server)
    middle, half = (began + time.time()) / 2, (time.time() - began) / 2
    assert row is not None
    yield _version(row["number"] // 10_000, row["version"])
    apart = row["now"].timestamp() - middle
    if abs(apart) - half > CLOCKS:
        says = f"the clocks of this host and of the database are {abs(apart):.0f} s apart"
        yield Finding("database", "warning", says, "let NTP set both; syncd goes by the database's")
    try:
        async with app.pool.acquire() as connection:
            await migrate.check_schema(connection)
            newer = await migrate.newer(connection)
        yield Finding("database", "ok", f"schema {len(migrate.migrations()):04d}")
        if newer:
            says = f"the schema is newer ({newer[-1]:04d}) than this program, which works with it"
            yield Finding("database", "warning", says, "upgrade syncd on this host, too")
    except SyncdError as error:
        yield Finding("database", "error", str(error), "`syncd migrate`", error.exit_code)
    except asyncpg.PostgresError as error:
        yield of_database("database", error)
    if row["connections"] <= app.settings.pool_size + 1:
        says = f"max_connections is {row['connections']}, pool_size {app.settings.pool_size}"
        yield Finding("database", "warning", says, "raise the one or lower the other")
    yield await _notices(app.url, app.settings, row["prepared"])


def _version(number: int, text: str) -> Finding:
    if number < OLDEST:
        remedy = f"upgrade the server to {OLDEST} or later"
        return Finding("database", "error", f"PostgreSQL {text} is too old", remedy, 78)
    if number > NEWEST:
        says = f"PostgreSQL {text} is newer than any this version was tested with"
        return Finding("database", "warning", says, "look for a newer syncd")
    return Finding("database", "ok", f"PostgreSQL {text}")


async def _notices(url: str, settings: Settings, prepared: int) -> Finding:
    """Whether NOTIFY arrives, which a pooler in transaction mode would not let it."""
    polling = f"polling every {settings.poll_seconds:g} s serves"
    if not settings.listen:
        return Finding("database", "ok", f"listen is off: {polling}")
    if prepared:
        return Finding("database", "ok", f"max_prepared_transactions > 0, no NOTIFY: {polling}")
    channel, heard = f"syncd_check_{os.getpid()}", asyncio.Event()
    arrived = False
    with suppress(asyncpg.PostgresError, TimeoutError, SyncdError, *db.LOST):
        connection = await db.connect(settings.listen_url or url)
        try:
            if not settings.listen_url and await db.is_pooled(connection):
                says = f"a pooler stands before it, so NOTIFY does not arrive: {polling}"
                remedy = "set listen_url to PostgreSQL itself, or listen = false"
                return Finding("database", "warning", says, remedy)
            await connection.add_listener(channel, lambda *_: heard.set())
            await connection.execute("select pg_notify($1, '')", channel)
            await asyncio.wait_for(heard.wait(), 3)
            arrived = True
        finally:
            await connection.close(timeout=5)
    if arrived:
        return Finding("database", "ok", "NOTIFY arrives")
    remedy = "set listen_url to PostgreSQL itself, or listen = false"
    return Finding("database", "warning", f"NOTIFY does not arrive: {polling}", remedy)


# ── Sources and destinations ────────────────────────────────────────────────────────────────


async def _destinations(
    app: App, chosen: Sequence[Destination], everyone: Sequence[Destination], probe: bool
) -> AsyncIterator[Finding]:
    told: set[str] = set()
    for name in sorted({d.source for d in chosen}):
        try:
            async with app.pool.acquire() as connection:
                async for finding in check_source(connection, name):
                    told.add(f"source {name!r}: {finding.says}")
                    yield finding
        except asyncpg.PostgresError as error:
            yield of_database(f"source {name}", error)
    known: list[Known] = []
    for d in everyone:
        try:
            found, one = await check_row(app, d, told)
        except asyncpg.PostgresError as error:
            found, one = [of_database(d.name, error)], None
        if one is not None:
            known.append(one)
        for finding in found if d in chosen else ():
            yield finding
    for finding in check_scopes(known, {d.name for d in chosen}):
        yield finding
    for one in known:
        if one.destination in chosen and one.scope is not None:
            for finding in await check_account(app, one, everyone, probe):
                yield finding


def exit_code(findings: Sequence[Finding]) -> int:
    """Of the gravest error: 78 before 77 before 69; 0 where there is none."""
    return max((one.exit_code for one in findings if one.level == "error"), default=0)
