"""`backfill --only LIST`: a keyed plan over the members of one list, window by window.

Members alone are looked at, so nobody is found to be gone: removals are the full pass's to judge.
"""

from __future__ import annotations

from syncd import source as sources
from syncd import sql
from syncd.control import Destination
from syncd.db import Connection, Pool, transact
from syncd.errors import ConfigError
from syncd.plan import Planner, castable


async def list_id(pool: Pool, destination: Destination, wanted: str) -> str:
    """The id of the source's list with that id, else with that name; ConfigError if there is none.

    A list that the destination does not have is an error too: nothing would be sent.
    """
    async with pool.acquire() as connection:
        source = await sources.describe(connection, destination.source)
        rows = await connection.fetch(
            f"select id::text as id from {source.list.name}"  # noqa: S608  quoted by PostgreSQL
            " where id::text = $1 or name::text = $1 order by id::text <> $1 limit 1",
            wanted,
        )
    if not rows:
        raise ConfigError(f"list {wanted!r} is no id and no name in {source.list.name}")
    found = str(rows[0]["id"])
    if destination.lists is not None and found not in destination.lists:
        raise ConfigError(
            f"destination {destination.name!r} does not take list {wanted!r}: its `lists` are"
            f" {', '.join(destination.lists)}"
        )
    return found


async def plan_members(planner: Planner, list_id: str, window: int, force: bool = False) -> int:
    """Journal what differs among the members; returns how many do. The guard holds as always."""
    planned, last = 0, None
    while True:
        rows = await planner.pool.fetch(planner.desired.members, list_id, last, window)
        if not rows:
            return planned
        last = rows[-1]["contact_id"]
        keys = [row["contact_id"] for row in rows]
        planned += await transact(planner.pool, lambda c, k=keys: _plan(planner, c, k, force))  # type: ignore[misc]


async def _plan(planner: Planner, connection: Connection, keys: list[str], force: bool) -> int:
    await connection.fetchrow(sql.plan.lock_feed, planner.destination.id)
    rows = await connection.fetch(planner.desired.belonging, castable(planner.desired, keys))
    belong = sorted({row["contact_id"] for row in rows})
    done = await planner.plan_keys(connection, belong, force=force)
    return done.planned
