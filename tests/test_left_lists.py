"""Who leaves a list at a provider whose account is read as a whole: a no to that list, and to
nothing else; said once a scan and a look-up agree (at CleverCampaign, where a look-up tells no
lists, two scans), of many only by a person."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from company import Company, company
from test_consent_roads import ANN, BOB, KNOWS, is_in, leaves_list
from test_lists_gone import delete_list

from syncd import control
from syncd.db import Pool
from syncd.vanished import release_approved

NAME, OTHER = "copernica", "clevercampaign"
WAYS = [(NAME, "v1"), (NAME, "v4"), (OTHER, "")]


@asynccontextmanager
async def both_lists(
    database: str,
    pool: Pool,
    contacts: str = "ann bob",
    version: str = "v1",
    name: str = NAME,
    **columns: Any,
) -> AsyncIterator[tuple[Company, dict[str, str]]]:
    """Everybody is in news and in vip, there as here; with the lists' remote ids."""
    options: dict[str, dict[str, Any]] = {NAME: {"version": version}, **KNOWS}
    people = contacts.split()
    async with company(database, pool, [name], contacts=people, options=options, **columns) as at:
        await pool.execute("insert into syncd.membership select 'vip', id from syncd.contact")
        await at.backfill()
        rows = await pool.fetch("select list_id, remote_id from syncd.list_mirror")
        yield at, {row["list_id"]: row["remote_id"] for row in rows}


async def noes(pool: Pool) -> list[tuple[str, str | None]]:
    rows = await pool.fetch(
        "select contact_id, list_id from syncd.opt_out where lifted_at is null order by 1, 2"
    )
    return [tuple(row) for row in rows]


async def older(pool: Pool) -> None:
    """What was written a moment ago need not be readable yet."""
    for table in ("mirror", "list_mirror"):
        await pool.execute(f"update syncd.{table} set pushed_at = pushed_at - interval '1 min'")


async def read_once(at: Company) -> None:
    """As every night: whatever scans that takes."""
    await older(at.pool)
    async with at.flows() as flows:
        (flow,) = flows.values()
        await flow.scan_all()
        await flow.pump(until_empty=True)


@pytest.mark.parametrize(("name", "version"), WAYS)
async def test_one_night_s_reading_notes_it_and_consent_shows_it(
    database: str, pool: Pool, name: str, version: str
) -> None:
    async with both_lists(database, pool, version=version, name=name) as (at, remote):
        if version != "v4":
            leaves_list(at, name, ANN, remote["vip"])
        else:
            (ann,) = (o for o in at.boxes[NAME].state.data.live() if o.fields["email"] == ANN)
            ann.interests.discard("VIP")
        await read_once(at)
        assert await noes(pool) == [("ann", "vip")]
        assert await at.pool.fetchval(
            "select not mailable from syncd.consent where contact_id = 'ann' and list_id = 'vip'"
        )
        await at.backfill()
        lists = await pool.fetchval("select lists from syncd.mirror where contact_id = 'ann'")
        assert lists == ["news"]
        assert at.mailed(name, ANN)


@pytest.mark.parametrize("name", [NAME, OTHER])
async def test_who_leaves_every_list_has_not_left_the_account(
    database: str, pool: Pool, name: str
) -> None:
    async with both_lists(database, pool, name=name) as (at, remote):
        for one in remote.values():
            leaves_list(at, name, ANN, one)
        await read_once(at)
        assert await noes(pool) == [("ann", "news"), ("ann", "vip")]
        await at.backfill()
        assert at.mailed(name, ANN)
        state = await pool.fetchval("select state from syncd.mirror where contact_id = 'ann'")
        assert state == "here"
        await control.lift(pool, ANN, "vip", "asked for it on the phone", "test")
        await at.backfill()
        assert [is_in(at, name, ANN, remote[one]) for one in ("news", "vip")] == [False, True]


async def test_one_scan_that_does_not_meet_somebody_in_a_list_proves_nothing(
    database: str, pool: Pool
) -> None:
    """A page may have moved under the reader; there is no look-up that tells lists."""
    async with both_lists(database, pool, name=OTHER) as (at, remote):
        leaves_list(at, OTHER, ANN, remote["vip"])
        await older(at.pool)
        async with at.flows() as flows:
            reading = flows[OTHER].reading
            await reading.ask_all()
            await reading.step(first=True)
            assert [tuple(row) for row in await pool.fetch(
                "select contact_id, list_key, scans from syncd.missing"
            )] == [("ann", "vip", 1)]  # fmt: skip
            at.boxes[OTHER].act("join", email=ANN, list=remote["vip"])
            assert await reading.any_asked(), "a second one, at once"
            await reading.step(first=True)
        assert await noes(pool) == []
        assert await pool.fetch("select * from syncd.missing") == []


async def test_a_list_that_reads_as_empty_is_for_a_person_to_decide(
    database: str, pool: Pool
) -> None:
    async with both_lists(database, pool, name=OTHER) as (at, remote):
        for one in (ANN, BOB):
            leaves_list(at, OTHER, one, remote["vip"])
        await read_once(at)
        assert await noes(pool) == []
        plan = await pool.fetchrow("select kind, reason from syncd.plan where state = 'held'")
        assert plan is not None
        assert plan["kind"] == "vanish"
        assert plan["reason"].startswith("list vip was read as empty there")


async def test_a_list_that_could_not_be_joined_was_left_by_nobody(
    database: str, pool: Pool
) -> None:
    async with both_lists(database, pool, name=OTHER) as (at, remote):
        leaves_list(at, OTHER, ANN, remote["vip"])
        await pool.execute(
            "update syncd.mirror set lacking = '{list:vip not joined: refused}'"
            " where contact_id = 'ann'"
        )
        await read_once(at)
        assert await noes(pool) == []


async def test_who_is_back_when_looked_up_has_not_left(
    database: str, pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with both_lists(database, pool) as (at, remote):
        leaves_list(at, NAME, ANN, remote["vip"])
        await older(pool)
        async with at.flows() as flows:
            adapter = flows[NAME].reading.adapter
            find = adapter.find

            async def comes_back_first(changes: Any) -> Any:
                column = at.boxes[NAME].state.data.columns[int(remote["vip"])]
                at.boxes[NAME].act("set_field", email=ANN, name=column.name, value="1")
                return await find(changes)

            monkeypatch.setattr(adapter, "find", comes_back_first)
            await flows[NAME].scan_all()
        assert await noes(pool) == []
        assert await pool.fetch("select * from syncd.missing") == []
        assert is_in(at, NAME, ANN, remote["vip"])


async def test_what_a_refused_try_was_to_leave_is_no_news(database: str, pool: Pool) -> None:
    """It may have left the list before it was refused; ann is to be in it again."""
    async with both_lists(database, pool) as (at, remote):
        leaves_list(at, NAME, ANN, remote["vip"])
        await pool.execute(
            "insert into syncd.journal (destination_id, contact_id, wish, lane, state, last_error,"
            " left_lists) select id, 'ann', 'upsert', 1, 'rejected', 'no', '{vip}'"
            " from syncd.destination"
        )
        await read_once(at)
        assert await noes(pool) == []


@pytest.mark.parametrize("name", [NAME, OTHER])
async def test_a_list_that_is_gone_there_was_left_by_nobody(
    database: str, pool: Pool, name: str
) -> None:
    async with both_lists(database, pool, name=name) as (at, remote):
        delete_list(at.boxes[name], remote["vip"])
        await read_once(at)
        assert await noes(pool) == []
        assert await pool.fetchval("select state from syncd.list_mirror where list_id = 'vip'") == (
            "asks"
        )


@pytest.mark.parametrize("name", [NAME, OTHER])
async def test_many_at_once_are_for_a_person_to_decide(
    database: str, pool: Pool, name: str
) -> None:
    """Somebody has emptied a list, or people did leave: two may, in a day."""
    contacts = "ann bob cyd dan eve fay"
    async with both_lists(
        database, pool, contacts, name=name, guard_floor=2, guard_percent=1.0
    ) as (at, remote):
        for one in contacts.split()[1:]:
            leaves_list(at, name, f"{one}@x.test", remote["vip"])
        await read_once(at)
        assert await noes(pool) == []
        plan = await pool.fetchrow("select id, kind, reason from syncd.plan where state = 'held'")
        assert plan is not None
        assert plan["kind"] == "vanish"
        assert "lists" in plan["reason"]
        await pool.execute("update syncd.contact set first_name = 'B'")
        await at.settle()
        assert not is_in(at, name, BOB, remote["vip"])
        await pool.execute(
            "update syncd.plan set state = 'approved', decided_at = now(), decided_by = 'test'"
            " where id = $1", plan["id"],
        )  # fmt: skip
        assert await release_approved(pool) == 5
        assert await noes(pool) == [(one, "vip") for one in contacts.split()[1:]]
        assert at.mailed(name, BOB)
