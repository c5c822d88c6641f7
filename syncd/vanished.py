"""Contacts that vanished at a provider are opted out there: `opt_out`, `mirror` and journal.

Knows no provider. Called by whoever has judged that they are gone (`syncd.absence`), and by whoever
carries out what a person approved (`syncd.control`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import orjson

from syncd import sql
from syncd.db import Connection, Pool, Row, transact


class Gone(NamedTuple):
    """A contact that is missing. lists: those it vanished from; whole: there is no other; met: in
    the account, so that it has only left them."""

    contact_id: str
    email: str
    lists: Sequence[str]
    whole: bool
    met: bool = False


def gone(row: Row) -> Gone:
    """A row of `absence.lock_mirror` as a value."""
    missed, lists = set(row["gone"]), set(row["lists"])
    met = row["met"] and "" not in missed
    whole = "" in missed or (missed >= lists and not met)
    return Gone(row["contact_id"], row["email"], sorted(missed), whole, met)


async def write(connection: Connection, destination_id: int, ids: Sequence[str]) -> int:
    """Opt these out, as far as they are still missing and nothing is in flight; returns how many.

    Rows in the order feed, journal, mirror, opt_out (races 19).
    """
    await connection.fetchrow(sql.plan.lock_feed, destination_id)
    journal = await connection.fetch(sql.absence.lock_journal, destination_id, ids)
    busy = {row["contact_id"] for row in journal if row["busy"]}
    free = [one for one in ids if one not in busy]
    found = await connection.fetch(sql.absence.lock_mirror, destination_id, free)
    missing = [one for one in map(gone, found) if one.lists]
    await connection.execute(sql.absence.free, destination_id, [one.contact_id for one in missing])
    await _write_mirror(connection, destination_id, missing)
    if missing:
        columns = zip(*(row for one in missing for row in _opt_outs(one)), strict=True)
        await connection.execute(sql.absence.note, destination_id, *map(list, columns))
    await connection.execute(sql.absence.forget, destination_id, free)
    return len(missing)


async def _write_mirror(
    connection: Connection, destination_id: int, missing: Sequence[Gone]
) -> None:
    if partly := [one for one in missing if not one.whole]:
        lists = ["{" + ",".join(map(_quoted, one.lists)) + "}" for one in partly]
        ids = [one.contact_id for one in partly]
        await connection.execute(sql.absence.leave_lists, destination_id, ids, lists)
    if wholly := [one.contact_id for one in missing if one.whole]:
        await connection.execute(sql.journal.delete_mirror, destination_id, wholly)
        await connection.execute(sql.journal.tally_here, destination_id, -len(wholly))


def _quoted(item: str) -> str:
    return '"' + item.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _opt_outs(one: Gone) -> Sequence[tuple[Any, ...]]:
    """Of all mail where nothing is left, else of each list."""
    how = "left, and is still in the account" if one.met else "missed by two whole scans of"
    evidence = orjson.dumps({how: one.lists}).decode()
    lists = [None] if one.whole else list(one.lists)
    return [(one.contact_id, one.email, list_id, evidence) for list_id in lists]


async def release_approved(pool: Pool) -> int:
    """Carry out, in blocks, what has been approved; returns how many contacts."""
    released = 0
    while (row := await pool.fetchrow(sql.absence.approved)) is not None:
        me, ids = row["destination_id"], row["contacts"]

        async def work(connection: Connection, me: int = me, ids: Sequence[str] = ids) -> int:
            return await write(connection, me, ids)

        released += await transact(pool, work)
    return released
