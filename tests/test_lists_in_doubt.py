"""Lists of a contact whose last answer was lost: what a try of ours may have done to its lists is
done again, what only a person over there can have done stays."""

from __future__ import annotations

import asyncio

import pytest
from company import company
from test_consent_roads import ANN, KNOWS, is_in, traits

from syncd.db import Pool
from syncd.model import Can
from syncd.sandbox import PROVIDERS

LEFT_BY = {"clevercampaign": "DELETE", "constantcontact": "PUT", "copernica": "PUT"}
"""How a list is left, where a doubt is ended by a look; RedCappi's lists are scanned for it."""


def test_every_provider_that_looks_is_meant() -> None:
    looks = Can.LISTS | Can.FIND
    assert set(LEFT_BY) == {name for name in PROVIDERS if traits(name).can & looks == looks}


@pytest.mark.parametrize("name", LEFT_BY)
async def test_who_comes_back_while_the_leaving_is_in_doubt_is_in_the_list_again(
    database: str, pool: Pool, name: str
) -> None:
    """The lost try took ann out of vip; the mirror does not know, and she is wanted there again."""
    async with company(database, pool, [name], contacts=["ann"], options=KNOWS) as at:
        await pool.execute("insert into syncd.membership values ('vip', 'ann')")
        await at.backfill()
        vip = await pool.fetchval("select remote_id from syncd.list_mirror where list_id = 'vip'")
        assert is_in(at, name, ANN, vip)
        at.boxes[name].next_fault("cut_after", method=LEFT_BY[name])
        await pool.execute("delete from syncd.membership where list_id = 'vip'")
        settling = asyncio.create_task(at.settle())
        async with asyncio.timeout(60):
            while not await pool.fetchval("select bool_or(doubtful) from syncd.journal"):
                await asyncio.sleep(0.01)
        assert not is_in(at, name, ANN, vip)
        await pool.execute("insert into syncd.membership values ('vip', 'ann')")
        await settling
        await at.settle()
        assert is_in(at, name, ANN, vip)
        assert await pool.fetch("select * from syncd.opt_out") == []


async def test_a_contact_found_after_a_lost_create_is_put_into_its_lists(
    database: str, pool: Pool
) -> None:
    """Also where that fails at first: that the record was found says nothing of its lists."""
    name = "clevercampaign"
    async with company(database, pool, [name], contacts=["ann"], options=KNOWS) as at:
        await at.backfill()
        await pool.execute("insert into syncd.contact (id, email) values ('zoe', 'zoe@x.test')")
        await pool.execute("insert into syncd.membership values ('news', 'zoe'), ('vip', 'zoe')")
        rows = await pool.fetch("select list_id, remote_id from syncd.list_mirror")
        box = at.boxes[name]
        box.next_fault("cut_after", method="POST")
        for row in rows:
            box.next_fault("error", 2, f"/list/{row['remote_id']}/contact", method="POST")
        await at.settle()
        assert box.state.faults.struck["error"] >= 1
        for row in rows:
            assert is_in(at, name, "zoe@x.test", row["remote_id"]), row["list_id"]
