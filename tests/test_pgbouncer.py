"""syncd behind a PgBouncer in transaction mode: two statements in a row may meet two sessions.

(The suite's core passes through one in .ci/run: SYNCD_TEST_PGBOUNCER in clusters.py.)
"""

from __future__ import annotations

from collections.abc import AsyncIterator

import clusters
import pytest
import service
from clusters import fronted
from cmdline import environment, syncd
from service import Service, until

from syncd import db

FEW = 2  # sessions for all that two daemons do


@pytest.fixture
async def shop(cluster: str, template: str) -> AsyncIterator[Service]:
    """Behind a PgBouncer with fewer sessions than any one process would like to have."""
    with clusters.bouncer(cluster, FEW):
        async with service.served(cluster, template) as made:
            await service.fill(made.db, 120)
            await made.destination("shop", await made.sandbox(), guard_percent=100)
            yield made


async def test_a_pooler_is_noticed(cluster: str) -> None:
    with clusters.bouncer(cluster):
        for url, pooled in ((cluster, False), (fronted(cluster), True)):
            connection = await db.connect(url)
            assert await db.is_pooled(connection) is pooled
            await connection.close()
            async with db.pool(url, 2) as pool, pool.acquire() as one:
                await one.fetchval("select $1::int", 1)
                await one.fetchval("select $1::int", 2)
                kept = await one.fetchval("select count(*) from pg_prepared_statements")
                assert bool(kept) is not pooled
    async with db.pool(cluster, 2, prepared=False) as pool:
        assert await pool.fetchval("select count(*) from pg_prepared_statements") == 0


async def test_two_daemons_and_a_backfill_share_two_sessions(shop: Service) -> None:
    """Every one of them polls: nothing could be listened for."""
    daemons = [shop.start("run"), shop.start("run", prepared_statements="off")]
    for one in daemons:
        await shop.running(one)
    backfill = shop.start("backfill", "--json")
    assert await backfill.ended() == 0, backfill.said
    await shop.db.execute("update syncd.contact set company = 'Changed' where id < 'c00100'")
    await shop.in_step()
    await shop.same("shop")
    for one in daemons:
        assert len(one.told("a pooler is in between, nothing can be listened for: polling serves"))
        assert [r for r in one.log if r["level"] in ("warning", "error")] == [], one.said
        assert await one.terminated() == 0
    others = "select count(*) from pg_stat_activity where datname = current_database()"
    assert await shop.db.fetchval(f"{others} and pid <> pg_backend_pid()") <= FEW


async def test_changes_are_heard_where_listen_url_says_so(shop: Service) -> None:
    slow = {"poll_seconds": "600", "control_poll_seconds": "600"}
    daemon = await shop.daemon(listen_url=shop.url, **slow)
    await shop.in_step()
    heard = await shop.db.fetchval(
        "select count(*) from pg_stat_activity"
        " where datname = current_database() and query ilike 'listen%'"
    )
    assert heard == 1
    await shop.db.execute("update syncd.contact set company = 'Heard'")
    await shop.in_step()
    await shop.same("shop")
    assert daemon.told("lost the database") == []


async def test_the_commands_work_and_check_says_what_is_between(shop: Service) -> None:
    env = environment(shop.url, **shop.environ)
    assert (await syncd("migrate", env=env)).code == 0
    said = await syncd("check", env=env)
    assert "a pooler stands before it, so NOTIFY does not arrive" in said.out
    said = await syncd("check", env={**env, "SYNCD_LISTEN_URL": shop.url})
    assert "NOTIFY arrives" in said.out
    assert (await syncd("status", env=env)).code in (0, 1)


async def test_a_pgbouncer_that_is_started_anew_is_waited_for(cluster: str, template: str) -> None:
    async with service.served(cluster, template) as shop:
        await service.fill(shop.db, 60)
        await shop.destination("shop", await shop.sandbox(), guard_percent=100)
        with clusters.bouncer(cluster) as folder:
            daemon = await shop.daemon()
            await shop.in_step()
        await until(lambda: daemon.told("lost the database"), "noticed")
        await shop.db.execute("update syncd.contact set company = 'Meanwhile'")
        with clusters.bouncer(cluster, folder=folder):
            await until(lambda: daemon.told("the database is back"), "back")
            await shop.in_step()
            await shop.same("shop")
            assert len(daemon.told("lost the database")) == 1
            assert await daemon.terminated() == 0
