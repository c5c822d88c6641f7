"""Control rows as values: destinations, and what a person may do to them.

Never imports a provider: what only an adapter knows (its options' model) is checked by `app`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import orjson

from syncd import sql, vanished
from syncd.db import Connection, Pool, Row, transact
from syncd.errors import ConfigError

Note = Callable[[Connection, Mapping[str, int]], Awaitable[object]]
"""Writes down, in the transaction of a decision, what came of it: whoever dies once they have
decided have also said so."""

UNREADABLE = "(unreadable)"
"""The one key of `options` that cannot be read as JSON; its value says why."""


@dataclass(frozen=True, slots=True)
class Destination:
    """One row of `destination`, as it was read."""

    id: int
    name: str
    provider: str
    source: str
    options: Mapping[str, Any]
    credential: str
    fields: Mapping[str, Any] | None
    lists: Sequence[str] | None
    everyone: bool
    when_gone: str
    when_list_gone: str
    schedule: str
    read_schedule: str
    full_schedule: str
    per_second: float | None
    in_flight: int | None
    per_day: int | None
    guard_percent: float
    guard_floor: int
    paused: bool
    halted: str | None
    updated_at: object


def destination(row: Row) -> Destination:
    """A row of `select * from syncd.destination` as a value."""
    values = {name: row[name] for name in Destination.__slots__}
    try:
        values["options"] = orjson.loads(row["options"])
    except orjson.JSONDecodeError as error:  # jsonb takes numbers of any size, and any depth
        values["options"] = {UNREADABLE: error.msg}
    values["fields"] = None if row["fields"] is None else orjson.loads(row["fields"])
    values["credential"] = row["credential"] or row["name"]
    return Destination(**values)


async def destinations(pool: Pool, names: Sequence[str] = ()) -> Sequence[Destination]:
    """Those called *names* (none: all), in order of name; ConfigError naming the unknown ones."""
    rows = [destination(row) for row in await pool.fetch(sql.control.destinations)]
    known = {row.name for row in rows}
    if unknown := [name for name in names if name not in known]:
        there = ", ".join(sorted(known)) or "none yet: insert into syncd.destination"
        raise ConfigError(
            *(f"destination {name!r} does not exist; there is: {there}" for name in unknown)
        )
    return [row for row in rows if not names or row.name in names]


async def pause(pool: Pool, names: Sequence[str], paused: bool) -> Sequence[str]:
    """Pause or resume; returns the names that changed. Resuming also clears a halt."""
    found = [d.name for d in await destinations(pool, names)]
    return [r["name"] for r in await pool.fetch(sql.control.pause, found, paused)]


async def halt(
    pool: Pool, destination_id: int, reason: str, fingerprint: str | None = None
) -> bool:
    """Stop a destination with the reason for a person; False if it was halted already.

    fingerprint: of the credential in use; another one lifts the halt.
    """
    return await pool.fetchval(sql.control.halt, destination_id, reason, fingerprint) is not None


class HeldPlan(NamedTuple):
    """A plan that waits for a person."""

    id: int
    destination: str
    kind: str
    rows: int
    reason: str


async def held_plans(pool: Pool | Connection, names: Sequence[str] = ()) -> Sequence[HeldPlan]:
    rows = await pool.fetch(sql.control.held_plans, list(names) or None)
    return [HeldPlan(**row) for row in rows]


async def no_note(_: Connection, __: Mapping[str, int]) -> None:
    """The note of whoever needs none."""


async def approve(pool: Pool, plan_id: int, rows: int, who: str, note: Note = no_note) -> int:
    """Release exactly that held plan; returns how many changes are now due.

    ConfigError when it is not held, or no longer has that many rows.
    """

    async def work(connection: Connection) -> None:
        await _decide(connection, plan_id, "approved", rows, who)
        await note(connection, {"due": rows})

    await transact(pool, work)
    await release_decided(pool)
    return rows


async def release_decided(pool: Pool) -> int:
    """Make due, in blocks, what still waits in plans that have been approved or released; opt out
    whoever a person agreed has vanished."""
    released = await vanished.release_approved(pool)
    while n := await transact(pool, lambda c: c.fetchval(sql.control.release)):
        released += n
    return released


async def discard(pool: Pool, plan_id: int, who: str, note: Note = no_note) -> int:
    """Drop a held plan; the next full pass will ask again. Returns how many rows went."""

    async def work(connection: Connection) -> int:
        await _decide(connection, plan_id, "discarded", None, who)
        absent = await connection.fetch(sql.absence.discard, plan_id)
        dropped = len(absent) + int(await connection.fetchval(sql.control.drop_held, plan_id))
        await note(connection, {"dropped": dropped})
        return dropped

    return await transact(pool, work)


async def _decide(
    connection: Connection, plan_id: int, state: str, rows: int | None, who: str
) -> None:
    """Decide a held plan under the lock of its feed, which every pass takes first."""
    if await connection.fetchval(sql.control.lock_feed_of_plan, plan_id) is None:
        raise ConfigError(f"plan {plan_id} does not exist: `syncd status` lists what is held")
    plan = await connection.fetchrow(sql.control.held_plan, plan_id)
    if plan is None:
        raise ConfigError(f"plan {plan_id} is not held (any more): `syncd status` lists what is")
    if rows is not None and plan["rows"] != rows:
        change = "grown" if plan["rows"] > rows else "shrunk"
        raise ConfigError(
            f"plan {plan_id} has {change}: it now has {plan['rows']} rows, not {rows};"
            " look at it again before approving"
        )
    await connection.execute(sql.control.decide, plan_id, state, who)


async def lift(
    pool: Pool,
    email: str,
    list_id: str | None,
    reason: str,
    who: str,
    contact_ids: Sequence[str] = (),
    tombs: Sequence[str] = (),
    note: Note = no_note,
) -> Sequence[int]:
    """Close the open opt-outs of an address (of one list, or all mail); returns their ids.

    contact_ids: who has the address, for opt-outs that were told without one.  tombs: the hashes
    under which an erasure has left opt-outs, and keeps the person away; that ends with all mail's.
    """

    async def work(connection: Connection) -> Sequence[int]:
        rows = await connection.fetch(
            sql.control.lift, email.strip().lower(), list_id, f"{who}: {reason}", contact_ids, tombs
        )
        if tombs and list_id is None:
            await connection.execute(sql.control.exhume, tombs, f"{who}: {reason}", contact_ids)
        erased = len(tombs) if list_id is None else 0
        await note(connection, {"lifted": len(rows), "tombstones": erased})
        return [row["id"] for row in rows]

    return await transact(pool, work)


async def not_waiting(
    pool: Pool, names: Sequence[str], contact_ids: Sequence[str]
) -> Sequence[str]:
    """Those contacts of whom nothing is rejected, or waits, at any of the destinations."""
    ids = [d.id for d in await destinations(pool, names)]
    return [row[0] for row in await pool.fetch(sql.control.not_waiting, ids, list(contact_ids))]


async def retry(
    pool: Pool, names: Sequence[str], contact_ids: Sequence[str] | None, note: Note = no_note
) -> int:
    """Make rejected rows (and lists) due again; returns how many."""
    ids = [d.id for d in await destinations(pool, names)]
    chosen = None if contact_ids is None else list(contact_ids)

    async def work(connection: Connection) -> int:
        due = int(await connection.fetchval(sql.control.retry, ids, chosen))
        due += int(await connection.fetchval(sql.control.retry_lists, ids))
        await note(connection, {"due": due})
        return due

    return await transact(pool, work)
