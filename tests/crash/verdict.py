"""Whether the stand-in holds what the source says; written from the documents, not from our SQL."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import asyncpg
from stands import Held, SandboxStand, stands

from .script import Stage
from .world import World


async def faults(at: World, db: asyncpg.Connection, stage: Stage) -> list[str]:
    """Every way in which somebody is doubled, missing, stale, or mailed against a no."""
    stand = _stand(at)
    held = stand.held()
    found = [f"breach: {one}" for one in stand.breaches()]
    wanted = await _wanted(at, db, stage)
    for email, want in wanted.items():
        found += [f"{email}: {says}" for says in _unlike(at, stand.at(email), want)]
    found += [
        f"{one.email} is mailed: {one}"
        for one in held
        if one.mailable and one.email.lower() not in wanted
    ]
    return found + await _lists(at, db)


def _stand(at: World) -> SandboxStand:
    kind: Any = stands()[at.kind.provider]
    made: SandboxStand = kind(at.box, next(iter(kind.ways)))
    return made


async def _wanted(
    at: World, db: asyncpg.Connection, stage: Stage
) -> Mapping[str, tuple[str, frozenset[str]]]:
    """First name and lists, as the stand-in calls them, of everybody who is mailed, by address."""
    rows = await db.fetch(
        "select c.id, lower(c.email) as email,"
        " coalesce(c.attributes ->> 'before', c.first_name) as first_name,"
        " array_remove(array_agg(l.id), null) as lists from syncd.contact c"
        " left join syncd.membership m on m.contact_id = c.id"
        " left join syncd.list l on l.id = m.list_id"
        " where c.subscribed and lower(c.email) <> all($1) group by c.id",
        list(stage.noes),
    )
    there = await _remote_lists(at, db)
    return {
        row["email"]: (
            row["first_name"],
            frozenset(there.get(one, one) for one in row["lists"]),
        )
        for row in rows
    }


async def _remote_lists(at: World, db: asyncpg.Connection) -> dict[str, str]:
    """What the stand-in calls each list: its number under the list's present name."""
    if at.kind.provider == "clevertap":  # by our own ids
        return {}
    if at.kind.provider == "copernica":  # columns, whose names are made of ours
        rows = await db.fetch("select list_id, remote_id from syncd.list_mirror")
        return {row["list_id"]: row["remote_id"] for row in rows}
    names = {one["name"]: str(n) for n, one in at.box.snapshot()["lists"].items()}
    rows = await db.fetch("select id, name from syncd.list")
    return {row["id"]: names.get(row["name"], "not there") for row in rows}


def _unlike(at: World, held: Sequence[Held], want: tuple[str, frozenset[str]]) -> list[str]:
    mailed = [one for one in held if one.mailable]
    if len(mailed) != 1:
        return [f"is mailed {len(mailed)} times: {held}"]
    (one,) = mailed
    found = []
    if one.fields.get(at.kind.name_field) != want[0]:
        found.append(f"{one.fields.get(at.kind.name_field)} instead of {want[0]}")
    if one.lists != want[1]:
        found.append(f"in {sorted(one.lists)} instead of {sorted(want[1])}")
    return found


async def _lists(at: World, db: asyncpg.Connection) -> list[str]:
    """No list is there twice, or missing."""
    if at.kind.provider == "clevertap":
        return []
    if at.kind.provider == "copernica":
        columns = at.box.state.data.columns.values()
        n = sum(one.name.startswith("list_") for one in columns)
        there = await db.fetchval("select count(*) from syncd.list")
        return [] if n == there else [f"{n} columns of lists instead of {there}"]
    names = sorted(one["name"] for one in at.box.snapshot()["lists"].values())
    wanted = sorted(row["name"] for row in await db.fetch("select name from syncd.list"))
    return [] if names == wanted else [f"lists {names} instead of {wanted}"]
