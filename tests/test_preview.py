"""`syncd plan`: it tells what the next backfill does, and writes nothing."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
from cmdline import environment, secret, syncd
from people import destination, fill

from syncd.preview import differences
from syncd.sandbox import Handle, serve


@pytest.fixture
async def sandbox() -> AsyncIterator[Handle]:
    async with serve("clevertap") as handle:
        yield handle


@pytest.fixture
def env(database: str, sandbox: Handle) -> dict[str, str]:
    return environment(database, SYNCD_WINDOW="40", **secret(sandbox))


async def everything(pool: Any) -> dict[str, Any]:
    """Every row of every table of ours."""
    tables = await pool.fetch(
        "select c.oid::regclass::text as name from pg_class c"
        " where c.relnamespace = 'syncd'::regnamespace and c.relkind = 'r'"
    )
    found = {}
    for table in tables:
        text = f"select string_agg(t::text, E'\\n' order by t::text) from {table['name']} t"
        found[table["name"]] = await pool.fetchval(text)
    return found


async def planned(env: dict[str, str], *args: str) -> dict[str, Any]:
    ended = await syncd("plan", "--json", *args, env=env)
    assert ended.code == 0, ended.err
    found: dict[str, Any] = ended.json["destinations"]["marketing"]
    return found


def counts(plan: dict[str, Any]) -> dict[str, int]:
    kinds = ("create", "update", "opt_out", "remove", "rejected", "absent")
    return {kind: plan[kind] for kind in kinds if plan[kind]}


async def test_a_new_destination_is_planned_and_nothing_is_written_or_sent(
    pool: Any, sandbox: Handle, env: dict[str, str]
) -> None:
    await fill(pool, 100)
    await pool.execute("update syncd.contact set subscribed = false where id = 'c00001'")
    await pool.execute("update syncd.contact set email = null where id = 'c00002'")
    await pool.execute("update syncd.contact set email = 'P4@x.example' where id = 'c00003'")
    await destination(pool, sandbox)
    before = await everything(pool)

    plan = await planned(env)

    assert counts(plan) == {"create": 97, "rejected": 2, "absent": 1}
    assert plan["contacts"] == 100
    assert plan["requests"] == 1
    assert await everything(pool) == before
    assert sandbox.state.ledger.requests == 0
    reasons = {one["contact_id"]: one["reason"] for one in plan["samples"]["rejected"]}
    assert reasons == {
        "c00002": "has no e-mail address",
        "c00004": "shares its address with contact c00003, which holds it here",
    }

    filled = await syncd("backfill", env=env)

    said = filled.json["destinations"]["marketing"]
    assert (said["created"], said["rejected"], said["absent"]) == (97, 2, 1)
    assert counts(await planned(env)) == {"rejected": 2}


async def test_the_numbers_are_those_of_the_backfill_that_follows(
    pool: Any, sandbox: Handle, env: dict[str, str]
) -> None:
    await fill(pool, 100)
    await destination(pool, sandbox)
    await syncd("backfill", env=env)
    await pool.execute("update syncd.contact set city = 'Gdańsk' where id < 'c00008'")
    await pool.execute("update syncd.contact set subscribed = false where id = 'c00010'")
    await pool.execute("delete from syncd.contact where id in ('c00020', 'c00021')")
    await pool.execute("insert into syncd.contact (id, email) values ('d1', 'd1@x.example')")

    plan = await planned(env, "--sample", "1")

    assert counts(plan) == {"create": 1, "update": 7, "opt_out": 1, "remove": 2}
    assert plan["held"] == {}
    [change] = plan["samples"]["update"]
    assert change["changes"] == {"City": ["Łódź", "Gdańsk"]}
    [silenced] = plan["samples"]["opt_out"]
    assert silenced["changes"] == {"subscribed": [True, False]}
    assert len(plan["samples"]["remove"]) == 1

    said = (await syncd("backfill", env=env)).json["destinations"]["marketing"]

    assert (said["created"], said["updated"], said["withdrawn"]) == (1, 8, 2)


async def test_what_the_guard_would_hold_is_told(
    pool: Any, sandbox: Handle, env: dict[str, str]
) -> None:
    await fill(pool, 120)
    await destination(pool, sandbox)
    await syncd("backfill", env=env)
    await pool.execute("delete from syncd.contact where id > 'c00060'")

    plan = await planned(env)
    said = (await syncd("backfill", env=env)).json["destinations"]["marketing"]

    assert plan["held"]["remove"]["rows"] == said["held"] == 60
    assert "the guard lets 50 pass" in plan["held"]["remove"]["reason"]
    assert plan["requests"] == 0


async def test_an_address_that_came_to_be_shared_is_seen_before_it_is_written_down(
    pool: Any, sandbox: Handle, env: dict[str, str]
) -> None:
    await fill(pool, 100)
    await destination(pool, sandbox)
    await syncd("backfill", env=env)
    await pool.execute("update syncd.contact set email = 'p7@x.example' where id = 'c00099'")
    before = await everything(pool)

    plan = await planned(env)

    assert plan["rejected"] == 1
    [loser] = plan["samples"]["rejected"]
    assert loser["contact_id"] == "c00099"
    assert await everything(pool) == before


async def test_a_screen_shows_old_and_new(pool: Any, sandbox: Handle, env: dict[str, str]) -> None:
    await fill(pool, 30)
    await destination(pool, sandbox)
    await syncd("backfill", env=env)
    await pool.execute("update syncd.contact set city = 'Gdańsk' where id = 'c00001'")

    ended = await syncd("plan", env=env)

    assert "p1@x.example" in ended.out
    assert "Łódź → Gdańsk" in ended.out
    assert ended.err == ""


def test_an_empty_value_is_no_value() -> None:
    assert differences({"a": "", "b": 1}, {"a": None, "b": 1, "lists": []}) == {}
    assert differences({"on": False}, {"on": None}) == {"on": (False, None)}
