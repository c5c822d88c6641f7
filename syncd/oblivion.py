"""Our own tables forget whoever was erased everywhere: what named them goes, or is hashed."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import orjson
import structlog

from syncd import source as sources
from syncd import sql, tombstone
from syncd.db import Connection, Pool, Row, transact
from syncd.errors import ConfigError
from syncd.plan import castable
from syncd.tombstone import Tombstones

log = structlog.get_logger()

# A contact's address may be anything in its source: as a word it would be blotted out of texts that
# say nothing of the person.
_AT = re.compile(r"[^\s@]@[^\s@]")


async def forget(pool: Pool, tombstones: Tombstones) -> int:
    """Forget the people of every request that all destinations have seen to; returns how many.

    ConfigError where the secret `tombstone` is needed and cannot be had: then nothing is forgotten,
    for nothing would keep them away.
    """
    ready = {row["id"]: row for row in await pool.fetch(sql.erasure.ready)}
    if not ready:
        return 0
    key = (await tombstones.keys(make=True))[0]

    async def work(connection: Connection) -> Sequence[int]:
        await connection.execute(sql.erasure.lock_feeds)
        locked = await connection.fetch(sql.erasure.lock_ready, list(ready))
        ids = [row["id"] for row in locked]
        if ids:
            await _forget(connection, key, [ready[one] for one in ids])
        return ids

    done = await transact(pool, work)
    for one in done:
        log.info("erased", erasure=one, finished=ready[one]["is_over"])
    return len(done)


async def _forget(connection: Connection, key: bytes, requests: Sequence[Row]) -> None:
    ids = [row["id"] for row in requests]
    pieces = await connection.fetch(sql.erasure.pieces, ids)
    await _bury(connection, key, pieces)
    still = await _still_there(connection, pieces)
    rows = await _rows(connection, key, pieces)
    for one in ids:
        said = {"forgotten_rows": rows, "still_in": still.get(one, [])}
        await connection.execute(sql.erasure.purged, one, orjson.dumps(said).decode())
    if over := [row["id"] for row in requests if row["is_over"]]:
        await connection.execute(sql.erasure.finish, over)


async def _bury(connection: Connection, key: bytes, pieces: Sequence[Row]) -> None:
    hashes = [_tomb(key, piece) for piece in pieces]
    owners = [piece["erasure_id"] for piece in pieces]
    await connection.execute(sql.erasure.bury, hashes, owners, tombstone.key_id(key))


def _tomb(key: bytes, piece: Mapping[str, Any]) -> str | None:
    if piece["email"] is not None:
        return tombstone.of_address(key, piece["email"])
    return tombstone.of_contact(key, piece["source"], piece["contact_id"])


async def _rows(connection: Connection, key: bytes, pieces: Sequence[Row]) -> int:
    """Delete or hash what names them, in the order that every writer takes (races 19)."""
    contacts = [p for p in pieces if p["contact_id"] is not None]
    addresses = [p for p in pieces if p["email"] is not None]
    emails = [p["email"] for p in addresses]
    pairs = await connection.fetch(
        sql.erasure.whose,
        [p["source"] for p in contacts],
        [p["contact_id"] for p in contacts],
    )
    tombs = {p["contact_id"]: _tomb(key, p) for p in contacts}
    whose = [r["destination_id"] for r in pairs], [r["contact_id"] for r in pairs]
    of_ids = [tombs[one] for one in whose[1]]
    e, total = sql.erasure, 0
    for statement in (e.forget_journal, e.forget_mirror):
        total += _count(await connection.execute(statement, *whose, emails))
    hashed = await connection.execute(
        e.hash_noes, *whose, emails, [_tomb(key, p) for p in addresses], of_ids
    )
    total += _count(hashed)
    for statement in (e.forget_sharers, e.forget_seen):
        total += _count(await connection.execute(statement, *whose, emails))
    for statement in (e.forget_missing, e.forget_deliveries):
        total += _count(await connection.execute(statement, *whose))
    names = {one.lower() for one in (*whose[1], *emails) if "@" in one}
    total += _count(await connection.execute(e.forget_changes, sorted(names)))
    addresses_only = sorted(one for one in {*emails, *names} if _AT.search(one))
    return total + int(await connection.fetchval(e.blot_out, addresses_only))


def _count(tag: str) -> int:
    """How many rows a statement was about, by its command tag."""
    return int(tag.rpartition(" ")[2])


async def _still_there(
    connection: Connection, pieces: Sequence[Row]
) -> Mapping[int, Sequence[str]]:
    """By request: the sources that still have the person. They are the company's to clear."""
    found: dict[int, list[str]] = {}
    for row in await connection.fetch(sql.app.sources):
        try:
            source = await sources.describe(connection, row["name"])
        except ConfigError:
            continue  # its own fault, told by `check`
        for one in sorted({p["erasure_id"] for p in pieces}):
            mine = [p for p in pieces if p["erasure_id"] == one]
            ids = [p["contact_id"] for p in mine if p["source"] == row["name"]]
            emails = [p["email"] for p in mine if p["email"] is not None]
            if await connection.fetch(sources.people(source), castable(source, ids), emails):
                found.setdefault(one, []).append(row["name"])
    return found
