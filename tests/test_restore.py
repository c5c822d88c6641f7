"""The database goes back to a backup, while five providers know what has happened since.

Afterwards `audit --repair` brings every one of them in step with the source as it is now; nobody
is resubscribed, nobody is there twice, and who is not mailed is so for a reason that is told.
"""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import asyncpg
import clusters
import pytest
from clusters import Cluster, named
from company import Company, add, company
from structlog.testing import capture_logs

from syncd import audit_run, db
from syncd.audit_run import Ended
from syncd.migrate import migrate
from syncd.providers import provider
from syncd.restored import Watermark

FIVE = ("clevercampaign", "clevertap", "constantcontact", "copernica", "redcappi")
PEOPLE = ("ann", "bob", "cyd", "eve", "fay", "gus", "hal")
OPTIONS: dict[str, dict[str, Any]] = {
    "clevercampaign": {"lists_enabled": True, "write_unsubscribe": True}
}


@pytest.fixture(scope="module")
def server() -> Iterator[Cluster]:
    with clusters.cluster() as made:
        yield made


@pytest.fixture
def _prompt(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is written can be read soon: so it is at the sandboxes."""
    for name in ("clevertap", "copernica", "redcappi"):
        kind = provider(name)
        monkeypatch.setattr(kind, "traits", replace(kind.traits, visible_after=0.05))


@asynccontextmanager
async def crm(server: Cluster, name: str) -> AsyncIterator[Company]:
    """Seven contacts in a database of their own, in step at all five."""
    admin = await asyncpg.connect(server.url)
    await admin.execute(f"create database {name}")
    await admin.close()
    url = named(server.url, name)
    connection = await db.connect(url)
    await migrate(connection)
    await connection.close()
    async with (
        db.pool(url, 4) as pool,
        company(url, pool, FIVE, contacts=PEOPLE, options=OPTIONS) as made,
    ):
        await made.backfill()
        await made.scan()
        yield made


async def live_on(at: Company) -> None:
    """An hour of which the backup knows nothing; all five are told of it."""
    pool = at.pool
    await add(pool, "dan")  # made
    await pool.execute("update syncd.contact set email = 'bob@new.test' where id = 'bob'")  # moved
    await pool.execute("delete from syncd.contact where id = 'fay'")  # gone
    await pool.execute("insert into syncd.membership values ('vip', 'gus')")  # joined a list
    await pool.execute("update syncd.contact set first_name = 'Hal' where id = 'hal'")
    at.boxes["constantcontact"].act("unsubscribe", email="cyd@x.test")  # said no, there
    at.boxes["clevertap"].act("unsubscribe", email="ann@x.test")
    await pool.execute(  # had said no before the backup, and says yes now
        "update syncd.contact set subscribed = true, consented_at = now() where id = 'eve'"
    )
    await at.settle()
    await at.settle()
    for name in FIVE:
        assert at.mailed(name, "dan@x.test"), name
        assert at.mailed(name, "bob@new.test"), name
        assert not at.mailed(name, "ann@x.test"), name
        assert not at.mailed(name, "cyd@x.test"), name


async def audited(at: Company) -> dict[str, Ended]:
    async with at.app.worker() as worker:
        return await audit_run.run(
            at.app, worker, await at.app.destinations(), samples=100, repair=True
        )


async def mended(at: Company) -> None:
    """`audit --repair` until it finds nothing; between, what a daemon does by itself."""
    told: dict[str, Any] = {}
    for _ in range(4):
        ended = await audited(at)
        await at.backfill()
        await at.settle()
        if all(one.exit_code == 0 for one in ended.values()):
            return
        told = {
            name: one.audit.summary() if one.audit else one.error for name, one in ended.items()
        }
    raise AssertionError(told)


@pytest.mark.parametrize("way", ["copy", "dump"])
@pytest.mark.usefixtures("_prompt")
async def test_after_a_restore_all_five_are_brought_in_step_again(
    server: Cluster, way: str
) -> None:
    async with crm(server, f"crm_{way}") as at:
        await at.pool.execute("update syncd.contact set subscribed = false where id = 'eve'")
        await at.settle()
        backup = server.folder / way
        await asyncio.to_thread(back_up, server, way, f"crm_{way}", backup)
        await live_on(at)
        await asyncio.to_thread(restore, server, way, f"crm_{way}", backup)
        await at.pool.expire_connections()
        with capture_logs() as told:
            await mended(at)
        noticed = [one for one in told if one["event"].startswith("the database was restored")]
        assert len(noticed) == len(FIVE)
        await in_step(at)
        await add(at.pool, "dan")  # whoever was entered within the hour is entered again
        await mended(at)
        await in_step(at)
        assert all(at.mailed(name, "dan@x.test") for name in FIVE)


async def in_step(at: Company) -> None:
    """`company` itself sees that nobody was resubscribed, nobody is there twice, no rule broken;
    and an audit that finds nothing has compared fields and lists."""
    for name in FIVE:
        there = at.there(name)
        assert [one for one in ("gus", "hal") if not there[f"{one}@x.test"]] == [], name
        silent = ("ann", "cyd", "eve", "fay")  # fay: we withdrew her, and know no more that we did
        assert [one for one in silent if there.get(f"{one}@x.test")] == [], name
        if name != "constantcontact":
            assert there["bob@x.test"], name
            assert "bob@new.test" not in there, name
    why = {
        row["contact_id"]: row["why"]
        for row in await at.pool.fetch(
            "select contact_id, why from syncd.consent where not mailable and list_id is null"
        )
    }
    assert why.keys() == {"ann", "bob", "cyd", "eve", "fay"}
    assert "unsubscribed at clevertap" in why["ann"]
    assert "unsubscribed at constantcontact" in why["cyd"]
    assert why["eve"] == "not subscribed"
    assert why["bob"] == "vanished at constantcontact"  # the record of his address had left


def back_up(server: Cluster, way: str, name: str, place: Path) -> None:
    if way == "dump":
        server.run("pg_dump", "-Fc", "-f", place, named(server.url, name))
        return
    server.stop()
    shutil.copytree(server.data, place)
    server.start()


def restore(server: Cluster, way: str, name: str, place: Path) -> None:
    if way == "dump":
        server.run("dropdb", "-f", "--maintenance-db", server.url, name)
        server.run("createdb", "--maintenance-db", server.url, name)
        server.run("pg_restore", "--no-owner", "-d", named(server.url, name), place)
        return
    server.stop("immediate")
    shutil.rmtree(server.data)
    shutil.copytree(place, server.data)
    server.give(server.data)
    server.start()


async def test_two_who_ask_at_once_do_not_take_each_other_for_a_server_that_went_back(
    pool: db.Pool,
) -> None:
    """Who asked first is answered last: the log has grown since, and was never shorter."""
    first_asked, second_answered = asyncio.Event(), asyncio.Event()

    class Late:
        async def fetchval(self, statement: str) -> Any:
            value = await pool.fetchval(statement)
            if not first_asked.is_set():
                first_asked.set()
                await second_answered.wait()
            return value

    mark, late = Watermark(), cast("db.Pool", Late())
    async with asyncio.TaskGroup() as group:
        first = group.create_task(mark.went_back(late))
        await first_asked.wait()
        await pool.execute("create table later as select generate_series(1, 1000) as n")
        assert not await mark.went_back(late)
        second_answered.set()
    assert not first.result()
