"""`check`: whether the account knows contacts who are not there yet as somebody else, and whom it
holds twice."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from syncd import sql
from syncd.db import Connection, transact
from syncd.model import Finding
from syncd.words import count

if TYPE_CHECKING:
    from syncd.assemble import Assembled

SAMPLE = 50  # contacts looked up, a request or two each
NAMED = 5  # contacts that are there twice, by our ids
WINDOW, WINDOWS = 2000, 10  # ids at a time, and how often; beyond that few are left to be made

_NOT_THERE_YET = """
select coalesce(d.remote_key, d.contact_id) as identity, d.email
  from ({}) d
 where d.fault is null and d.subscribed
   and not exists (select 1 from syncd.mirror m
                    where m.destination_id = $3::int and m.contact_id = d.contact_id)
 limit $4::int
"""


async def sample(made: Assembled) -> Mapping[str, str]:
    """Address by identity (what the provider is to know them by) of some who are to be made."""
    found: dict[str, str] = {}
    last: str | None = None
    for _ in range(WINDOWS):
        first_last = await made.planner.pool.fetchrow(made.desired.window, last, WINDOW)
        if first_last is None or not first_last["n"] or len(found) >= SAMPLE:
            break
        last = first_last["last"]
        found |= await _in_window(made, first_last["first"], first_last["last"], len(found))
    return found


async def _in_window(made: Assembled, first: str, last: str, known: int) -> Mapping[str, str]:
    async def work(connection: Connection) -> Mapping[str, str]:
        await connection.execute("set local plan_cache_mode = force_custom_plan")
        rows = await connection.fetch(
            _NOT_THERE_YET.format(made.desired.by_window),
            first,
            last,
            made.destination.id,
            SAMPLE - known,
        )
        return {row["identity"]: row["email"] for row in rows if row["identity"]}

    return await transact(made.planner.pool, work)


async def doubles(made: Assembled) -> list[Finding]:
    """Whom the last whole scans have met twice under one address; asks the provider nothing."""
    row = await made.planner.pool.fetchrow(sql.check.doubles, made.destination.id, NAMED)
    assert row is not None
    if not (n := row["contacts"]):
        return []
    named = ", ".join(row["ids"]) + (f" and {n - NAMED} more" if n > NAMED else "")
    says = (
        f"{count(n, 'contact')} of yours, by the last reading, there more than once under one"
        f" address: {named}; one record is kept up, the others stay as they are"
    )
    remedy = "merge or delete the second records there: they may be mailed, too"
    return [Finding("doubles", "warning", says, remedy)]
