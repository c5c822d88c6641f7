"""Windows of a full pass: what is staged, what becomes of it, and what if it is not there."""

from __future__ import annotations

import asyncio
from typing import Any

import orjson
import pytest
from support import World, add_destination, many, put, rename, world

from syncd.db import Pool
from syncd.model import Can

FIND = Can.FIND


async def in_flight(w: World) -> asyncio.Task[Any]:
    """A full pass whose window waits for its answer."""
    w.acme.after.clear()
    full = asyncio.create_task(w.hand.full(direct=True))
    await w.acme.arrival(w.acme.arrived + 1)
    return full


async def settled(w: World, full: asyncio.Task[Any]) -> None:
    w.acme.after.set()
    await full


async def left(pool: Pool) -> tuple[int, int]:
    """Rows of `staged` and of `intent`."""
    row = await pool.fetchrow(
        "select (select count(*) from syncd.staged), (select count(*) from syncd.intent)"
    )
    assert row is not None
    return row[0], row[1]


async def test_a_window_leaves_neither_journal_rows_nor_anything_staged(pool: Pool) -> None:
    async with world(pool) as w:
        await many(pool, 25)
        full = await in_flight(w)
        assert await left(pool) == (25, 1)
        assert await w.hand.rows() == {}
        await settled(w, full)

        assert await left(pool) == (0, 0)
        assert len(await w.hand.mirror()) == 25
        assert await pool.fetchval("select sum(n) from syncd.tally where kind = 'here'") is None
        assert await pool.fetchval("select here from syncd.feed") == 25
        assert (await w.hand.full(direct=True)).differing == 0


async def test_what_is_staged_is_what_a_claim_would_have_remembered(pool: Pool) -> None:
    """Numbers, nothing, nested data as text: both ways to the mirror write the same."""
    fields = {
        "first": "first_name", "born": "birth_date", "plan": "attributes.plan",
        "score": "attributes.score", "deep": "attributes.deep", "on": "attributes.on",
        "none": "attributes.none", "all": "attributes", "yes": "subscribed",
    }  # fmt: skip
    attributes = {"plan": 'pro \u2028 "x"', "score": 12.5, "deep": {"a": [1]}, "on": True}
    async with world(pool, fields=orjson.dumps(fields).decode()) as w:
        await pool.execute("insert into syncd.list values ('l1', 'L'), ('l,2', 'M')")
        await pool.execute(
            "insert into syncd.contact (id, email, first_name, birth_date, attributes)"
            " values ('a', 'Ünä@X.test', 'O''Neil \U0001f600', '1970-02-01', $1),"
            "        ('b', 'b@x.test', null, null, '{}')",
            orjson.dumps(attributes).decode(),
        )
        await pool.execute("insert into syncd.membership values ('l1', 'a'), ('l,2', 'a')")
        await w.hand.full(direct=True)
        by_window = await w.hand.mirror()
        await pool.execute("truncate syncd.mirror")
        await w.hand.full()
        await w.hand.step()
        by_claim = await w.hand.mirror()

        assert by_window.keys() == by_claim.keys() == {"a", "b"}
        for contact_id, one in by_window.items():
            other = by_claim[contact_id]
            assert orjson.loads(one["fields"]) == orjson.loads(other["fields"])
            del one["fields"], other["fields"], one["pushed_at"], other["pushed_at"]
            assert one == other


async def test_text_alone_is_staged_as_a_claim_would_have_remembered_it(pool: Pool) -> None:
    async with world(pool, fields='{"first": "first_name", "town": "city"}') as w:
        await put(pool, "a", first='"{,}\\')
        await w.hand.full(direct=True)
        assert (await w.hand.mirror())["a"]["fields"] == '{"town": null, "first": "\\"{,}\\\\"}'


async def test_what_postgresql_forgot_in_a_crash_is_doubtful_and_sent_again(pool: Pool) -> None:
    """`staged` is not logged."""
    async with world(pool, "remote id", FIND) as w:
        await many(pool, 5)
        full = await in_flight(w)
        await pool.execute("truncate syncd.staged")
        await settled(w, full)

        assert {row["doubtful"] for row in (await w.hand.rows()).values()} == {True}
        assert await left(pool) == (0, 0)
        await w.hand.drain()
        assert len(w.acme.records) == 5
        assert {one["state"] for one in (await w.hand.mirror()).values()} == {"here"}


async def test_a_mirror_row_that_somebody_wrote_beside_a_window_is_no_obstacle(
    pool: Pool,
) -> None:
    async with world(pool) as w:
        await many(pool, 5)
        full = await in_flight(w)
        await pool.execute(
            "insert into syncd.mirror (destination_id, contact_id, email, subscribed, state)"
            " values ($1, 'c00003', 'c3@x.test', true, 'adopted')",
            w.hand.id,
        )
        await settled(w, full)
        await w.hand.drain()

        assert len(w.acme.mailed()) == 5
        assert {one["state"] for one in (await w.hand.mirror()).values()} == {"here"}
        assert await left(pool) == (0, 0)


async def test_a_change_planned_beside_a_window_is_sent_after_it(pool: Pool) -> None:
    async with world(pool) as w:
        await many(pool, 5)
        full = await in_flight(w)
        await rename(pool, "c00002", "B")
        await w.hand.plan()
        await settled(w, full)
        assert "c00002" in await w.hand.rows()
        await w.hand.drain()

        assert w.acme.mailed()["c2@x.test"] == "B"
        assert len(w.acme.records) == 5


@pytest.mark.parametrize("can", [Can.REPEAT | FIND, FIND])
async def test_whoever_was_rightly_absent_is_made_by_a_window(pool: Pool, can: Can) -> None:
    """Its mirror row is there already."""
    async with world(pool, "remote id", can) as w:
        await many(pool, 4)
        await pool.execute("update syncd.contact set subscribed = false where id = 'c00002'")
        await w.hand.drain()
        assert (await w.hand.mirror())["c00002"]["state"] == "absent"
        await pool.execute("update syncd.contact set subscribed = true where id = 'c00002'")
        counts = await w.hand.full(direct=True)

        assert counts.sent == 1
        assert (await w.hand.mirror())["c00002"]["state"] == "here"
        assert await pool.fetchval("select here from syncd.feed") == 4


async def test_one_refusal_within_a_window_harms_nobody_else(pool: Pool) -> None:
    async with world(pool) as w:
        await many(pool, 30)
        w.acme.refuses = {"c00017": {"rejected": "not this one"}}
        await w.hand.full(direct=True)

        rows = await w.hand.rows()
        assert [(i, row["state"]) for i, row in rows.items()] == [("c00017", "rejected")]
        assert len(await w.hand.mirror()) == 29
        assert await pool.fetchval("select here from syncd.feed") == 29


async def test_a_first_fill_needs_no_second_sweep(pool: Pool) -> None:
    """Everybody there was made by a window of this very pass; whoever else is there is found."""
    async with world(pool) as w:
        await many(pool, 12)
        other = await add_destination(pool, "other")
        assert other != w.hand.id
        counts = await w.hand.full(direct=True, window=5)
        assert (counts.made, counts.matched) == (12, 0)
        await pool.execute(
            "insert into syncd.mirror (destination_id, contact_id, email, subscribed, state)"
            " values ($1, 'stray', 'stray@x.test', true, 'here')",
            w.hand.id,
        )
        assert (await w.hand.full(direct=True)).removals == 1
