"""What goes wrong at the source, and in settings: held or refused, and the message says what to do.

Each through the real commands: they are what an operator has.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
from operating import Desk, desk

from syncd.db import Pool

PEOPLE = tuple(f"c{n:02d}" for n in range(20))


@pytest.fixture
async def at(database: str, pool: Pool) -> AsyncIterator[Desk]:
    """Twenty contacts, in step, under a guard that lets five pass."""
    async with desk(database, pool) as made:
        await made.contacts(*PEOPLE)
        yield made


async def in_step(at: Desk, **columns: Any) -> None:
    await at.destination(guard_floor=5, **columns)
    await at.settle()
    assert mailed(at) == 20


def mailed(at: Desk) -> int:
    return sum(one["mailable"] for one in at.box.snapshot()["profiles"].values())


async def held(at: Desk, kind: str, rows: int, says: str = "") -> None:
    """One plan is held; `status` says how many it would hit, and both words that decide it."""
    told = await at("status", code=1)
    [plan] = (await at("status", "--json", code=1)).json["destinations"]["ct"]["held"]
    assert (plan["kind"], plan["rows"]) == (kind, rows)
    assert (says or f"it would {kind} {rows} contacts") in plan["reason"]
    assert "the guard lets 5 pass in a day" in plan["reason"]
    shown = " ".join(told.out.split())
    assert plan["approve"] in shown
    assert plan["discard"] in shown


async def test_a_truncated_source_is_held(at: Desk) -> None:
    await in_step(at)
    await at.pool.execute("truncate syncd.contact cascade")

    ended = await at("backfill", code=1)

    assert "held" in ended.out + ended.err
    assert mailed(at) == 20
    await held(at, "remove", 20)


async def test_a_view_that_is_empty_for_a_while_is_held_and_forgotten_when_it_is_back(
    at: Desk,
) -> None:
    await at.pool.execute(
        "create table shown (yes boolean); insert into shown values (true);"
        " create view people as select * from syncd.contact where (select yes from shown);"
        " update syncd.source set contact = 'people'"
    )
    await in_step(at)
    await at.pool.execute("update shown set yes = false")

    await at("backfill", code=1)

    assert mailed(at) == 20
    await held(at, "remove", 20)
    await at.pool.execute("update shown set yes = true")
    assert (await at("backfill", "--json", code=0)).json["destinations"]["ct"]["in_step"]


async def test_check_names_those_whom_a_join_doubles(at: Desk) -> None:
    """A join with the lists: whoever is in two of them comes twice, with the same id."""
    await in_step(at)
    await at.pool.execute(
        "insert into syncd.list values ('v', 'vip');"
        " insert into syncd.membership select 'v', id from syncd.contact where id < 'c03';"
        " create view people as select c.* from syncd.contact c"
        " join syncd.membership m on m.contact_id = c.id;"
        " update syncd.source set contact = 'people'"
    )
    checked = await at("check", code=None)
    told = " ".join((checked.out + checked.err).split())
    assert "3 ids seen twice in public.people, so skipped: c00, c01, c02" in told
    assert "a join that multiplies rows?" in told


async def test_a_mapping_with_a_typo_is_refused_and_names_what_there_is(at: Desk) -> None:
    await in_step(at)
    await at.pool.execute(
        """update syncd.destination set fields = '{"Name": "first_nmae"}' where name = 'ct'"""
    )
    for command in ("backfill", "plan", "check"):
        ended = await at(command, code=78)
        said = " ".join((ended.out + ended.err).split())
        assert "has no column 'first_nmae'; it has: " in said, said
        assert "first_name" in said
    assert mailed(at) == 20


async def test_a_mapping_that_changes_everybody_is_held(at: Desk) -> None:
    """A column that is there, and not the one that was meant."""
    await in_step(at)
    await at.pool.execute(
        """update syncd.destination set fields = '{"Name": "last_name"}' where name = 'ct'"""
    )

    await at("backfill", code=1)

    await held(at, "change", 20)
    names = {one["properties"].get("Name") for one in at.box.snapshot()["profiles"].values()}
    assert "C00" in names


async def test_a_trickle_of_removals_is_held_as_soon_as_it_adds_up(at: Desk) -> None:
    await in_step(at)
    for start in range(0, 12, 3):
        gone = list(PEOPLE[start : start + 3])
        await at.pool.execute("delete from syncd.contact where id = any($1::text[])", gone)
        await at.settle()

    assert mailed(at) == 17
    await held(at, "remove", 9, "it would remove 3 contacts after 3 within a day, of 17 there")


async def test_a_held_plan_that_was_mended_in_the_source_is_over(at: Desk) -> None:
    """Nothing is left of it: nobody is asked any more, and the next no is sent at once."""
    await in_step(at)
    await subscribe(at, False, *PEOPLE[:10])
    await held(at, "opt_out", 10, "it would silence 10 contacts")
    dead = await at.pool.fetchval("select id from syncd.plan")

    await subscribe(at, True, *PEOPLE[:10])

    told = (await at("status", "--json")).json["destinations"]["ct"]
    assert told["in_step"], told["why"]
    ended = await at("approve", str(dead), "--rows", "10", code=78)
    assert "is not held (any more)" in ended.err
    [plan] = await at.pool.fetch("select state, decided_by from syncd.plan")
    assert tuple(plan) == ("discarded", "syncd: nothing is left of it")
    await subscribe(at, False, "c00")
    assert mailed(at) == 19
    assert not await at.mailable("c00")
    assert (await at("status", "--json")).json["destinations"]["ct"]["in_step"]


async def test_the_guard_judges_anew_whom_a_mended_plan_no_longer_holds(at: Desk) -> None:
    """As many as before are held again, with a reason and a number of their own."""
    await in_step(at)
    await subscribe(at, False, *PEOPLE[:10])
    await subscribe(at, True, *PEOPLE[:10])
    await subscribe(at, False, *PEOPLE[10:16])

    await held(at, "opt_out", 6, "it would silence 6 contacts, of 20 there")
    assert mailed(at) == 20


async def subscribe(at: Desk, yes: bool, *ids: str) -> None:
    """The source says so, and it is planned and sent as far as the guard lets it pass."""
    statement = "update syncd.contact set subscribed = $1 where id = any($2::text[])"
    await at.pool.execute(statement, yes, list(ids))
    await at.settle()


async def test_two_destinations_that_write_the_same_place_are_told_what_to_change(
    at: Desk,
) -> None:
    await in_step(at)
    await at.destination("other")

    ended = await at("check", code=0)

    said = " ".join(ended.out.split())
    assert "ct, other write the same place of one account: each undoes the other's" in said
    finding = next(
        one for one in (await at("check", "--json", code=0)).json["findings"]
        if "same place" in one["says"]
    )  # fmt: skip
    assert finding["remedy"]
