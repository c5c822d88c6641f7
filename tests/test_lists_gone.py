"""A list that somebody deletes at the provider is a question for a person: it is not made again
unasked, nobody is said to have left it, and everything else goes on, above all a no."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import service
from cmdline import environment
from cmdline import syncd as command
from company import Company, company
from service import Service, until
from test_consent_roads import ANN, KNOWS, is_in, traits

from syncd import control
from syncd.db import Pool
from syncd.flow import Flow
from syncd.model import Can
from syncd.sandbox import PROVIDERS, Handle

WITH_LISTS = [name for name in PROVIDERS if traits(name).can & Can.LISTS]


def delete_list(box: Handle, remote: str) -> None:
    """A person deletes it in the provider's app."""
    match box.state.provider:
        case "copernica":
            box.act("delete_field", name=box.state.data.columns[int(remote)].name)
        case "clevercampaign":
            box.act("delete_list", list=remote)
        case _:
            box.act("delete_list", list=int(remote))


# ── As one worker ───────────────────────────────────────────────────────────────────────────


async def turn(flow: Flow) -> None:
    """Plan, send and scan whatever can be; who waits for a person is left waiting."""
    pool = flow.planner.pool
    await flow.look()
    for _ in range(2):
        await pool.execute(
            "update syncd.journal set due_at = now() where state = 'due' and waits_for is null"
        )
        while (claim := await flow.sender.next_claim()) is not None and claim.taken:
            flow.sender.busy += 1
            await flow.sender.carry(claim)
        while await flow.reading.any_asked() and await flow.reading.step():
            pass


async def journal(pool: Pool) -> dict[str, tuple[str, str]]:
    rows = await pool.fetch("select contact_id, state, last_error from syncd.journal")
    return {row["contact_id"]: (row["state"], row["last_error"]) for row in rows}


@pytest.mark.parametrize("name", WITH_LISTS)
async def test_whoever_is_in_it_waits_is_not_said_to_have_left_and_may_say_no(
    database: str, pool: Pool, name: str
) -> None:
    """Changes come before any scan has noticed that the list is gone."""
    async with company(database, pool, [name], options=KNOWS) as at:
        await pool.execute("insert into syncd.membership values ('vip', 'ann'), ('vip', 'bob')")
        await at.backfill()
        await _delete(at, name, "vip")
        async with at.flows() as flows:
            flow = flows[name]
            await pool.execute("update syncd.contact set first_name = 'B' where id = 'ann'")
            await pool.execute("insert into syncd.membership values ('vip', 'cyd')")
            await turn(flow)
            assert not await pool.fetch("select * from syncd.journal where waits_for is not null")
            await flow.scan_all()
            await pool.execute("update syncd.contact set last_name = 'C' where id = 'ann'")
            await turn(flow)
            state = "select state from syncd.list_mirror where list_id = 'vip'"
            assert await pool.fetchval(state) == "asks"
            waits = ("due", "waits for list vip to be made there")
            assert (await journal(pool))["ann"] == waits
            assert await pool.fetch("select * from syncd.opt_out") == []
            assert "VIP" not in await flow.lists.adapter.lists()

            await pool.execute("update syncd.contact set subscribed = false where id = 'ann'")
            await turn(flow)
            assert not at.mailed(name, ANN)

            bob = "update syncd.contact set first_name = 'B' where id = 'bob'"
            await pool.execute(bob)
            await turn(flow)
            await control.retry(pool, [name], None)
            assert await flow.keep_lists()
            await flow.full_pass()
            await turn(flow)
        assert await journal(pool) == {}
        assert await pool.fetch("select * from syncd.opt_out") == []
        remote = await pool.fetchval("select remote_id from syncd.list_mirror where list_id='vip'")
        assert is_in(at, name, "bob@x.test", remote)
        assert is_in(at, name, "cyd@x.test", remote)
        assert not at.mailed(name, ANN)


async def _delete(at: Company, name: str, list_id: str) -> None:
    """And what was written a moment ago has been readable for long."""
    remote = await at.pool.fetchval(
        "select remote_id from syncd.list_mirror where list_id = $1", list_id
    )
    delete_list(at.boxes[name], remote)
    for table in ("mirror", "list_mirror"):
        await at.pool.execute(f"update syncd.{table} set pushed_at = pushed_at - interval '1 min'")


# ── As a service ────────────────────────────────────────────────────────────────────────────

OPTIONS: Mapping[str, Mapping[str, Any]] = {
    "clevercampaign": KNOWS["clevercampaign"],
    "constantcontact": {"poll_seconds": 0.05},
}
"""Of those whose question no other module puts to a daemon: see `test_redcappi_sync`."""


@pytest.mark.parametrize("name", OPTIONS)
async def test_a_daemon_asks_tells_status_and_makes_it_again_when_told_to(
    cluster: str, template: str, name: str
) -> None:
    async with service.served(cluster, template) as made:
        await _fill(made)
        box = await made.sandbox(name)
        await made.destination("shop", box, options=OPTIONS[name], per_second=1000.0)
        daemon = await made.daemon()
        await made.in_step()
        gone = await made.db.fetchval("select remote_id from syncd.list_mirror where list_id='vip'")
        delete_list(box, gone)
        await made.db.execute(
            "update syncd.list_mirror set pushed_at = pushed_at - interval '1 min'"
        )
        assert (await made.command("scan", "shop"))[0] == "done"
        asks = "select state = 'asks' from syncd.list_mirror where list_id = 'vip'"
        await until(lambda: made.db.fetchval(asks), "the list asks")

        await made.db.execute("update syncd.contact set first_name = 'B' where id = 'bob'")
        await until(lambda: _first_name(box, "bob@x.test") == "B", "bob's change goes on")
        told = await command("status", env=environment(made.url, **made.environ))
        assert told.code == 1
        assert "1 list refused or in question" in told.out
        listed = await command("rejected", env=environment(made.url, **made.environ))
        assert "list vip 'VIP club'  asks: it is not there any more" in listed.out
        assert _lists(box) == {"Newsletter": {"ann@x.test", "bob@x.test"}}
        assert not await made.db.fetchval("select count(*) from syncd.opt_out")
        assert daemon.alive

        assert (await made.command("retry", "shop"))[0] == "done"
        both = {"Newsletter": {"ann@x.test", "bob@x.test"}, "VIP club": {"ann@x.test"}}
        await until(lambda: _lists(box) == both, "made again, with whom it had")
        await made.in_step()
        assert box.snapshot()["violations"] == []


async def _fill(made: Service) -> None:
    await made.db.execute(
        "insert into syncd.list values ('news', 'Newsletter'), ('vip', 'VIP club')"
    )
    await made.db.execute(
        "insert into syncd.contact (id, email, first_name)"
        " select x, x || '@x.test', 'A' from unnest(array['ann', 'bob']) x"
    )
    await made.db.execute(
        "insert into syncd.membership values ('news', 'ann'), ('news', 'bob'), ('vip', 'ann')"
    )


def _lists(box: Handle) -> dict[str, set[str]]:
    return {one["name"]: set(one["contacts"].values()) for one in box.snapshot()["lists"].values()}


def _first_name(box: Handle, email: str) -> str:
    (one,) = (o for o in box.snapshot()["profiles"].values() if o["email"] == email)
    return str(one["fields"].get("FirstName") or one["fields"].get("firstname"))
