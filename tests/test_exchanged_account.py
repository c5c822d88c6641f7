"""Providers that do not tell whose account it is: another one behind the secret does no harm.

Its lists are not ours, nobody of ours is in it: nothing is made there, nothing of it is touched,
and a person is asked.
"""

from __future__ import annotations

from typing import Any

import pytest
from company import company
from test_consent_roads import KNOWS

from syncd.db import Pool

PEOPLE = [f"p{n:02d}" for n in range(12)]
THEIRS = "theirs@other.test"


@pytest.mark.parametrize("holds", ["nobody", "others"])
@pytest.mark.parametrize("name", ["clevercampaign", "redcappi"])
async def test_another_account_is_neither_filled_nor_touched(
    database: str, pool: Pool, name: str, holds: str
) -> None:
    guard: dict[str, Any] = {"guard_percent": 10.0, "guard_floor": 5}
    async with company(database, pool, [name], contacts=PEOPLE, options=KNOWS, **guard) as at:
        await at.backfill()
        await at.scan(name)
        box = at.boxes[name]
        ours = set(box.snapshot()["lists"])
        box.reset()
        for n in range(6):
            box.act("add_list", name=f"Theirs {n}")
        for one in set(box.snapshot()["lists"]) & ours:  # ids are the provider's, over all accounts
            box.act("delete_list", list=one if name == "clevercampaign" else int(one))
        lists = {one: told["name"] for one, told in box.snapshot()["lists"].items()}
        if holds == "others":
            more = {} if name == "clevercampaign" else {"list": int(min(lists))}
            box.act("add", email=THEIRS, **more)
        before = at.there(name)

        await pool.execute(  # what has just been made need not show in a look
            "update syncd.list_mirror set pushed_at = pushed_at - interval '1 minute'"
        )
        await pool.execute("update syncd.contact set first_name = 'B' where id = 'p03'")
        await at.settle()
        await at.scan(name)
        await at.backfill(quiet=False)
        await at.backfill(quiet=False)

        assert at.there(name) == before, "nobody was made, changed or taken away"
        now = {one: told["name"] for one, told in box.snapshot()["lists"].items()}
        assert now == lists
        asked = await pool.fetchval(
            "select (select count(*) from syncd.list_mirror where state = 'asks')"
            " + (select count(*) from syncd.plan where state = 'held')"
        )
        assert asked, "a person is told"
        assert await pool.fetchval("select count(*) from syncd.opt_out") <= 1
