"""Copernica through whole commands and the core: consent both ways, and what `config/` says."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import company as companies
import orjson
import pytest
from cmdline import apply_example, environment, secret, syncd
from people import fill

from syncd import log
from syncd.app import App, opened
from syncd.backfill import Backfill
from syncd.db import Pool
from syncd.providers.copernica import Copernica
from syncd.sandbox import Handle, serve
from syncd.settings import Settings


@pytest.fixture
async def sandbox() -> AsyncIterator[Handle]:
    async with serve("copernica") as handle:
        yield handle
        state = handle.snapshot()
        assert (state["violations"], state["duplicates"]) == ([], [])
        assert (state["resubscribed"], state["lost_writes"]) == ([], [])


@asynccontextmanager
async def company(database: str, pool: Pool, sandbox: Handle, version: str) -> AsyncIterator[App]:
    """Four contacts, two lists, one destination."""
    await pool.execute("insert into syncd.list values ('news', 'News & more'), ('vip', 'VIP')")
    await pool.execute("""
        insert into syncd.contact (id, email, first_name)
        select x, lower(x) || '@x.test', x from unnest(array['Ann', 'Bob', 'Cyd', 'Dee']) x""")
    await pool.execute("""
        insert into syncd.membership select 'news', id from syncd.contact
        union all values ('vip', 'Ann'), ('vip', 'Bob')""")
    options = {
        "base_url": sandbox.url, "database": "7616", "version": version,
        "auth_url": f"{sandbox.url}/authenticate", "subscribed_values": {"newsletter": "yes"},
    }  # fmt: skip
    await pool.execute(
        "insert into syncd.destination (name, provider, credential, options, fields, lists)"
        " values ('cop', 'copernica', 'cop', $1, '{\"first_name\": \"first_name\"}', $2)",
        orjson.dumps(options).decode(), ["news", "vip"],
    )  # fmt: skip
    settings = Settings(database_url=database, pool_size=6, control_poll_seconds=0.05)
    secrets = {"SYNCD_SECRET_COP": orjson.dumps(sandbox.state.demo).decode()}
    async with opened(settings, secrets) as app:
        yield app


async def run(app: App, **changes: str) -> dict[str, Any]:
    """Bring it in step; returns the summary."""
    backfill = Backfill(app, await app.destinations())
    await backfill.run()
    summary: dict[str, Any] = backfill.summary()["destinations"]["cop"]
    assert summary["in_step"], summary
    return summary


def mailed(sandbox: Handle) -> dict[str, int]:
    """Who is mailed there, and in how many lists they are."""
    return {
        one["fields"]["email"].partition("@")[0]: len(one["interests"])
        + sum(value == "1" for name, value in one["fields"].items() if name[:5] == "list_")
        for one in sandbox.snapshot()["profiles"].values()
        if one["mailable"]
    }


EVERYBODY = {"ann": 2, "bob": 2, "cyd": 1, "dee": 1}


@pytest.mark.parametrize("version", ["v1", "v4"])
async def test_a_small_company_converges_and_consent_is_kept_both_ways(
    database: str, pool: Pool, sandbox: Handle, version: str
) -> None:
    number = sandbox.act("add", email="Dee@x.test", fields={"city": "Rome"})["profile"]
    double = sandbox.act("add", email="dee@x.test")["profile"]
    extra = sandbox.act("add", email="extra@x.test")["profile"]
    async with company(database, pool, sandbox, version) as app:
        summary = await run(app)
        assert (summary["created"], summary["updated"]) == (3, 1)
        sandbox.act("delete", profile=double)
        sandbox.act("delete", profile=extra)
        adopted = sandbox.snapshot()["profiles"][str(number)]["fields"]
        assert (adopted["sync_id"][:3], adopted["city"], adopted["first_name"]) == (
            "Dee",
            "Rome",
            "Dee",
        )
        assert mailed(sandbox) == EVERYBODY
        assert (await run(app))["requests"] < 20

        # An ordinary change, a new address, a swap of two.
        await pool.execute("update syncd.contact set first_name = 'B' where id = 'Bob'")
        await pool.execute("update syncd.contact set email = 'new@x.test' where id = 'Dee'")
        await pool.execute("""
            update syncd.contact c set email = o.email from syncd.contact o
             where c.id in ('Ann', 'Cyd') and o.id in ('Ann', 'Cyd') and c.id <> o.id""")
        await run(app)
        assert mailed(sandbox) == {"ann": 1, "bob": 2, "cyd": 2, "new": 1}
        people = sandbox.snapshot()["profiles"].values()
        assert "B" in [one["fields"]["first_name"] for one in people]

        # A no in the source; and yes again.
        await pool.execute("update syncd.contact set subscribed = false where id = 'Bob'")
        await run(app)
        assert mailed(sandbox) == {"ann": 1, "cyd": 2, "new": 1}
        await ask_scan(app)
        await pool.execute("update syncd.contact set subscribed = true where id = 'Bob'")
        await run(app)
        assert mailed(sandbox)["bob"] == 2

        # Withdrawn (in no list any more), then back.
        await pool.execute("delete from syncd.membership where contact_id = 'Bob'")
        await run(app)
        assert "bob" not in mailed(sandbox)
        await ask_scan(app)
        await pool.execute("insert into syncd.membership values ('vip', 'Bob')")
        await run(app)
        assert mailed(sandbox)["bob"] == 1
        assert await pool.fetch("select * from syncd.opt_out") == []


async def test_who_has_an_address_that_does_not_fit_is_refused_and_said_so(
    database: str, pool: Pool, sandbox: Handle
) -> None:
    async with company(database, pool, sandbox, "v1") as app:
        await pool.execute(
            "update syncd.contact set email = repeat('a', 300) || '@example.com' where id = 'Ann'"
        )
        summary = await run(app)
        said = await pool.fetchval(
            "select last_error from syncd.journal where contact_id = 'Ann' and state = 'rejected'"
        )
    assert (summary["created"], summary["rejected"]) == (3, 1)
    assert said == "email is longer than 255 characters"
    assert mailed(sandbox) == {name: n for name, n in EVERYBODY.items() if name != "ann"}


async def ask_scan(app: App) -> None:
    """Read opt-outs and everybody: what we did ourselves is no news."""
    made = await app.destinations()
    backfill = Backfill(app, made)
    await app.pool.execute("update syncd.feed set scanned_at = null")
    await backfill.run()


@pytest.mark.parametrize("version", ["v1", "v4"])
async def test_a_no_made_there_wins_until_there_is_newer_consent(
    database: str, pool: Pool, sandbox: Handle, version: str
) -> None:
    async with company(database, pool, sandbox, version) as app:
        await run(app)
        sandbox.act("unsubscribe", email="ann@x.test")
        sandbox.act("delete", email="cyd@x.test")
        await pool.execute("update syncd.contact set first_name = first_name || '!'")
        await run(app)
        assert mailed(sandbox) == {"bob": 2, "dee": 1}
        rows = await pool.fetch("select contact_id, kind from syncd.opt_out order by 1")
        assert [tuple(row) for row in rows] == [("Ann", "unsubscribed"), ("Cyd", "vanished")]

        await pool.execute("""
            update syncd.contact set consented_at = now() - interval '1 day' where id = 'Ann'""")
        await run(app)
        assert "ann" not in mailed(sandbox)
        await pool.execute("select pg_sleep(1.1)")  # clocks there have whole seconds
        await pool.execute("update syncd.contact set consented_at = now() where id = 'Ann'")
        await run(app)
        assert mailed(sandbox) == {"ann": 2, "bob": 2, "dee": 1}
        sandbox.state.data.turned_on.clear()  # with leave


@pytest.fixture
def _prompt(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Copernica, "traits", replace(Copernica.traits, visible_after=0.1))


@pytest.mark.usefixtures("_prompt")
async def test_no_token_in_any_table_or_log(
    database: str, pool: Pool, sandbox: Handle, capsys: pytest.CaptureFixture[str]
) -> None:
    """Faults on the way; then everything that was kept or printed is looked at."""
    log.configure("debug", "json")
    version = "v1"
    async with company(database, pool, sandbox, version) as app:
        await run(app)
        path = f"/{version}/database/7616/profiles"
        sandbox.next_fault("cut_after", path=f"/{version}/profile/18381/fields")
        sandbox.next_fault("error_html", path=path)
        sandbox.set_limits(banned=["eve@x.test"])
        await pool.execute("update syncd.contact set first_name = first_name || '!'")
        await pool.execute("insert into syncd.contact (id, email) values ('Eve', 'eve@x.test')")
        await pool.execute("insert into syncd.membership values ('news', 'Eve')")
        assert (await run(app))["rejected"] == 1
    assert mailed(sandbox) == EVERYBODY
    secrets = {sandbox.state.demo["access_token"], *sandbox.state.passes}
    tables = await pool.fetch(
        "select c.oid::regclass::text as name from pg_class c"
        " where c.relnamespace = 'syncd'::regnamespace and c.relkind in ('r', 'p')"
    )
    kept = [str(await pool.fetch(f"select t::text from {row['name']} t")) for row in tables]
    assert any("Failed to create profile" in text for text in kept)
    assert sum(sandbox.state.faults.struck.values()) == 2
    for text in (*kept, *capsys.readouterr()):
        assert not [one for one in secrets if one in text]


@pytest.mark.usefixtures("_prompt")
async def test_a_list_that_could_not_be_made_is_made_while_contacts_wait_for_it(
    database: str, pool: Pool, sandbox: Handle
) -> None:
    sandbox.next_fault("cut_after", path="/v1/database/7616/fields")
    sandbox.next_fault("error", path="/v1/database/7616/fields")
    async with company(database, pool, sandbox, "v1") as app:
        await run(app)
    assert mailed(sandbox) == EVERYBODY
    made = [name for name in sandbox.snapshot()["fields"] if name.startswith("list_")]
    assert sorted(made) == ["list_News___26__more", "list_VIP"]


async def test_the_annotated_destination_works_as_it_stands(
    pool: Any, database: str, sandbox: Handle, tmp_path: Path
) -> None:
    await fill(pool, 20)
    await apply_example(database, sandbox, tmp_path)

    ended = await syncd("check", env=environment(database, **secret(sandbox, "copernica")))
    assert ended.code == 0, ended.out
    ended = await syncd("backfill", env=environment(database, **secret(sandbox, "copernica")))

    done = ended.json["destinations"]["copernica"]
    assert (ended.code, done["created"], done["in_step"]) == (0, 20, True), ended.err
    members = [
        sum(one["fields"][name] == "1" for one in sandbox.snapshot()["profiles"].values())
        for name in ("list_Newsletter", "list_VIP")
    ]
    assert members == [10, 2]


@pytest.mark.parametrize("meanwhile", [False, True])
async def test_a_list_that_another_worker_renames_keeps_who_is_put_into_it(
    database: str, pool: Pool, meanwhile: bool
) -> None:
    """A list is a field there, written by its name; what is written by another is dropped."""
    async with companies.company(database, pool, ["copernica"], contacts=()) as at:
        await companies.add(pool, "ann")
        await at.backfill()
        async with at.flows() as one, at.flows() as other:
            flow, renames = one["copernica"], other["copernica"]
            await pool.execute("update syncd.contact set last_name = 'B'")
            await flow.look()
            await flow.pump(until_empty=True)
            await pool.execute("update syncd.list set name = 'Letter' where id = 'news'")
            await companies.add(pool, "bob")
            send = flow.push.adapter.push

            async def push(changes: Any) -> Any:
                flow.push.adapter.push = send
                await renames.keep_lists()
                return await send(changes)

            if meanwhile:
                await flow.planner.keyed_pass()
                flow.push.adapter.push = push
            else:
                await renames.keep_lists()
                await flow.planner.keyed_pass()
            await pool.execute("update syncd.journal set due_at = now()")
            await flow.pump(until_empty=True)
        assert at.boxes["copernica"].snapshot()["fields"].count("list_Letter") == 1
        inside = [
            one["fields"]["email"]
            for one in at.boxes["copernica"].snapshot()["profiles"].values()
            if one["fields"]["list_Letter"] == "1"
        ]
        assert sorted(inside) == ["ann@x.test", "bob@x.test"]
        at.boxes["copernica"].state.ledger.violations.clear()  # of the request that came between
