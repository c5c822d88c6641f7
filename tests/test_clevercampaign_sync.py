"""CleverCampaign through whole commands: in step, a no, a removal; and an account nobody reads."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from cmdline import apply_example, environment, secret, syncd
from people import destination, fill

from syncd.sandbox import Handle, serve
from syncd.sandbox.call import Answer, Call

NAME = "clevercampaign"
SEED = 7
QUICK = {"provider": NAME, "per_second": 1000.0, "credential": NAME}


@pytest.fixture
async def sandbox() -> AsyncIterator[Handle]:
    async with serve(NAME) as handle:
        yield handle
        state = handle.snapshot()
        assert (state["violations"], state["duplicates"], state["repeated_creates"]) == ([], [], [])
        assert state["resubscribed"] == []


def there(sandbox: Handle) -> dict[str, Any]:
    return {one["email"]: one for one in sandbox.snapshot()["profiles"].values()}


async def backfilled(url: str, sandbox: Handle, *args: str) -> tuple[int, dict[str, Any], str]:
    ended = await syncd("backfill", *args, env=environment(url, **secret(sandbox, NAME)))
    return ended.code, ended.json["destinations"][NAME], ended.err


async def test_the_annotated_destination_converges_a_no_and_a_removal_are_conveyed(
    pool: Any, database: str, sandbox: Handle, tmp_path: Path
) -> None:
    """But for the port, and for politeness."""
    await fill(pool, 20)
    sandbox.act("add", email="P3@x.example")  # adopted, not made twice
    await apply_example(database, sandbox, tmp_path)
    await pool.execute("update syncd.destination set per_second = 1000")
    code, told, said = await backfilled(database, sandbox)
    assert (code, told["created"] + told["updated"], told["in_step"]) == (0, 20, True), said
    assert told["requests"] <= 2 * 20 + 10
    wanted = {"firstname": "Ann 7", "lastname": "Ó Súilleabháin"}
    assert there(sandbox)["p7@x.example"]["fields"] == wanted
    assert len(there(sandbox)) == 20

    await pool.execute("update syncd.contact set subscribed = false where id = 'c00001'")
    await pool.execute("delete from syncd.contact where id = 'c00002'")
    await pool.execute("update syncd.contact set email = 'new@x.example' where id = 'c00003'")
    await pool.execute("update syncd.contact set first_name = 'Bo' where id = 'c00004'")
    code, told, said = await backfilled(database, sandbox)
    assert (code, told["in_step"], told["withdrawn"]) == (0, True, 1), said
    now = there(sandbox)
    assert len(now) == 18
    assert not now.keys() & {"p1@x.example", "p2@x.example", "p3@x.example"}
    assert now["p4@x.example"]["fields"]["firstname"] == "Bo"
    lacking = await pool.fetchval(
        "select count(*) from syncd.mirror where 'list:news not kept: lists_enabled is off'"
        " = any(lacking)"
    )
    assert lacking == 9  # of the ten, one is gone

    sandbox.act("unsubscribe", email="p5@x.example")
    await pool.execute("update syncd.contact set first_name = 'Cy' where id = 'c00005'")
    await pool.execute(
        "update syncd.contact set subscribed = true, consented_at = now() where id = 'c00001'"
    )
    code, told, said = await backfilled(database, sandbox)
    kinds = await pool.fetch("select contact_id, kind from syncd.opt_out")
    assert [tuple(row) for row in kinds] == [("c00005", "unsubscribed")], said
    assert "p1@x.example" in there(sandbox)
    assert "p5@x.example" not in there(sandbox)  # a no is a no: deleted, the only way there is
    assert (code, told["in_step"]) == (0, True), said


async def test_a_no_that_cannot_be_conveyed_is_no_success(
    pool: Any, database: str, sandbox: Handle
) -> None:
    await fill(pool, 3)
    await destination(pool, sandbox, NAME, **QUICK)
    assert (await backfilled(database, sandbox))[0] == 0
    sandbox.set_limits(deletes=False)
    await pool.execute("update syncd.contact set subscribed = false where id = 'c00001'")
    code, _, said = await backfilled(database, sandbox)
    assert (code, len(there(sandbox))) == (1, 3)
    assert "opt-outs the provider could not be told: 1" in said


async def test_an_account_that_cannot_be_read(pool: Any, database: str) -> None:
    """Creates wait; said to be empty it is filled; what is lost there is for a person."""
    async with serve(NAME, search="refused", paging="404", items=False) as sandbox:
        await fill(pool, 3)
        await destination(pool, sandbox, NAME, **QUICK)
        env = environment(database, **secret(sandbox, NAME))
        checked = await syncd("check", env=env)
        assert "creates wait" in checked.out
        assert (checked.code, there(sandbox)) == (0, {})

        await pool.execute(
            """update syncd.destination set options = options || '{"account_is_empty": true}'"""
        )
        losing(sandbox, "p1@x.example")
        code, told, said = await backfilled(database, sandbox)
        assert (code, told["created"], told["rejected"]) == (1, 2, 1), said
        why = "select last_error from syncd.journal where state = 'rejected'"
        assert (await pool.fetchval(why)).startswith("outcome unknown")
        assert len(there(sandbox)) == 3
        await pool.execute("update syncd.contact set first_name = 'Bo' where id = 'c00002'")
        await pool.execute("update syncd.contact set subscribed = false where id = 'c00003'")
        code, told, said = await backfilled(database, sandbox)
        assert (code, told["pending"], told["rejected"]) == (1, 0, 1), said
        assert sorted(there(sandbox)) == ["p1@x.example", "p2@x.example"]
        assert there(sandbox)["p2@x.example"]["fields"]["firstname"] == "Bo"
        assert sandbox.snapshot()["violations"] == []


def losing(sandbox: Handle, email: str) -> None:
    """The answer to the create of this contact is lost, once."""
    answer = sandbox.state.answer
    lost: list[Call] = []

    def answered(call: Call, apply: bool) -> Answer:
        told: Answer = answer(call, apply)
        if call.method == "POST" and call.parsed.get("email") == email and not lost:
            lost.append(call)
            return Answer(502, b"")
        return told

    sandbox.state.answer = answered


async def test_whatever_goes_wrong_everybody_is_there_once(
    pool: Any, database: str, sandbox: Handle
) -> None:
    await fill(pool, 25)
    await destination(pool, sandbox, NAME, **QUICK)
    rates = ("error_rate", "error_html", "error_after", "cut_before", "cut_after", "half_answer",
             "html", "garbage", "truncated_json", "rate_429")  # fmt: skip
    sandbox.set_faults(seed=SEED, **dict.fromkeys(rates, 0.02))
    for _ in range(8):
        code, told, said = await backfilled(database, sandbox)
        if code == 0 and told["in_step"]:
            break
    assert (code, told["in_step"]) == (0, True), said
    assert sorted(there(sandbox)) == sorted(f"p{n}@x.example" for n in range(1, 26))
    assert {one["fields"]["lastname"] for one in there(sandbox).values()} == {"Ó Súilleabháin"}
    assert sandbox.snapshot()["faults"]


async def test_lists_where_they_are_switched_on(pool: Any, database: str, sandbox: Handle) -> None:
    await fill(pool, 20)
    options = {"lists_enabled": True, "write_unsubscribe": True}
    await destination(pool, sandbox, NAME, options=options, **QUICK)
    code, told, said = await backfilled(database, sandbox)
    assert (code, told["in_step"]) == (0, True), said
    lists = {one["name"]: len(one["contacts"]) for one in sandbox.snapshot()["lists"].values()}
    assert lists == {"Newsletter": 10, "VIP": 2}
    await pool.execute("update syncd.contact set subscribed = false where id = 'c00002'")
    await pool.execute("delete from syncd.membership where contact_id = 'c00004'")
    await pool.execute("update syncd.list set name = 'News' where id = 'news'")
    code, told, said = await backfilled(database, sandbox)
    assert (code, told["in_step"]) == (0, True), said
    assert there(sandbox)["p2@x.example"]["mailable"] is False
    assert there(sandbox)["p4@x.example"]["lists"] == []
    assert {one["name"] for one in sandbox.snapshot()["lists"].values()} == {"News", "VIP"}

    sandbox.act("delete", email="p6@x.example")
    _, vip = sandbox.snapshot()["lists"]
    sandbox.act("join", email="p8@x.example", list=vip)
    sandbox.act("unsubscribe", email="p12@x.example")
    for _ in range(2):
        read = await syncd("scan", NAME, env=environment(database, **secret(sandbox, NAME)))
        assert read.code == 0, read.err
    code, told, said = await backfilled(database, sandbox)
    assert (code, told["in_step"]) == (0, True), said
    kinds = await pool.fetch("select contact_id, kind from syncd.opt_out order by 1")
    assert [tuple(row) for row in kinds] == [("c00006", "vanished"), ("c00012", "unsubscribed")]
    assert there(sandbox)["p8@x.example"]["lists"] == ["News"]
    assert there(sandbox)["p12@x.example"]["mailable"] is False
    assert "p6@x.example" not in there(sandbox)
