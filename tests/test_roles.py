"""sql/roles.sql: everything works with it, and what it withholds is withheld."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import pytest
import pytest_asyncio
import service
from cmdline import environment, syncd
from service import Service, until

from syncd import db, migrate, sql

pytestmark = pytest.mark.asyncio(loop_scope="module")

ROLES = (sql.folder() / "roles.sql").read_text("utf-8")
KINDS = ("owner", "runtime", "operator", "reader")
WHO = "syncd_in_a_test"


def as_user(url: str, user: str) -> str:
    parts = urlsplit(url)
    return urlunsplit(parts._replace(netloc=f"{user}@{parts.netloc.rpartition('@')[2]}"))


def member(kind: str) -> str:
    return f"{WHO}_{kind}"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def limited(cluster: str, template: str) -> AsyncIterator[Service]:
    """Forty contacts and a destination; syncd connects as a role that has only `syncd_runtime`."""
    async with service.served(cluster, template) as made:
        await service.fill(made.db, 40)
        await made.destination("shop", await made.sandbox())
        for _ in range(2):  # it may be run again
            await made.db.execute(ROLES)
        for kind in KINDS:
            await made.db.execute(f"create role {member(kind)} login in role syncd_{kind}")
        await made.db.execute(
            "grant select on syncd.contact, syncd.list, syncd.membership to syncd_runtime;"
            "create schema shop; create table shop.customer (id int primary key, email text);"
            "insert into syncd.secret (name, sealed) values ('other', 'sealed');"
            "grant usage on schema shop to syncd_owner, syncd_runtime;"
            "grant select, trigger on shop.customer to syncd_owner;"
            "grant select on shop.customer to syncd_runtime"
        )
        owner, made.url = made.url, as_user(made.url, member("runtime"))
        yield made
        made.url = owner
        for kind in KINDS:
            await made.db.execute(f"drop owned by {member(kind)}; drop role {member(kind)}")
            await made.db.execute(f"drop owned by syncd_{kind}")


async def test_daemon_and_backfill_need_no_more_than_their_role(limited: Service) -> None:
    daemon = await limited.daemon()
    await limited.in_step()
    await limited.db.execute("update syncd.contact set city = 'Ur' where id = 'c00003'")
    await limited.db.execute("delete from syncd.contact where id = 'c00004'")
    await limited.in_step()
    assert await daemon.terminated() == 0
    assert [one for one in daemon.log if one["level"] in ("error", "critical")] == []
    await limited.same("shop")
    again = limited.start("backfill", "--json")
    assert await again.ended() == 0, again.said
    for command in (("status",), ("check",), ("plan",), ("rejected",), ("retry",)):
        process = limited.start(*command, "--json")
        assert await process.ended() in (0, 1), process.said
        assert "permission denied" not in process.said


async def test_no_role_can_do_what_it_need_not(limited: Service) -> None:
    for kind, statements in {
        "runtime": (
            "delete from syncd.contact", "update shop.customer set email = ''",
            "insert into shop.customer values (1, 'x')", "truncate shop.customer",
            "alter table shop.customer add column x int", "drop table shop.customer",
            "create trigger x after insert on shop.customer execute function syncd.stamp_update()",
            "update syncd.migration set checksum = ''", "drop table syncd.journal",
            "create table syncd.mine ()", "create schema mine",
            "alter table syncd.destination add column x int",
            "select syncd.watch('shop.customer', 'id')", "select syncd.unwatch('syncd.contact')",
        ),
        "operator": (
            "select sealed from syncd.secret", "delete from syncd.secret",
            "update syncd.mirror set digest = null", "delete from syncd.journal",
            "update syncd.opt_out set lifted_at = now(), lifted_by = 'me'",
            "update syncd.command set outcome = 'done', finished_at = now()",
            "insert into syncd.command (kind, result) values ('full', '{}')",
            "update syncd.plan set state = 'approved'", "delete from syncd.control_log",
            "insert into syncd.control_log (relation, row_name, action) values ('', '', '')",
            "update syncd.erasure set proof = '{}'", "update syncd.contact set email = ''",
            "update shop.customer set email = ''", "select syncd.unwatch('syncd.contact')",
        ),
        "reader": (
            "select * from syncd.secret", "update syncd.destination set paused = true",
            "insert into syncd.command (kind) values ('full')",
            "insert into syncd.erasure (email) values ('a@x.test')",
            "delete from syncd.mirror", "select * from shop.customer",
        ),
        "owner": ("drop table shop.customer", "update shop.customer set email = ''"),
    }.items():  # fmt: skip
        connection = await asyncpg.connect(as_user(limited.url, member(kind)))
        for statement in statements:
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await connection.execute(statement)
        if kind != "owner":
            assert await connection.fetchval("select count(*) from syncd.mirror") > 0
        await connection.close()


async def test_an_operator_controls_by_rows_and_by_the_commands_that_edit_them(
    limited: Service, tmp_path: Path
) -> None:
    env = environment(as_user(limited.url, member("operator")))
    for words in (("pause", "shop"), ("resume", "shop"), ("status",)):
        ended = await syncd(*words, env=env)
        assert ended.code in (0, 1), (words, ended.err)
        assert "permission denied" not in ended.err
    file = tmp_path / "shop.toml"
    file.write_text((await syncd("export", env=env)).out.replace("15m", "20m"), "utf-8")
    ended = await syncd("apply", str(file), env=env)
    assert (ended.code, "read_schedule" in ended.out) == (0, True), ended.err
    refused = await syncd("retry", "shop", env=env)
    assert (refused.code, "sql/roles.sql" in refused.err) == (78, True), refused.err

    daemon = await limited.daemon()
    operator = await asyncpg.connect(as_user(limited.url, member("operator")))
    number = await operator.fetchval(
        "insert into syncd.command (kind, destination) values ('retry', 'shop') returning id"
    )
    await until(
        lambda: operator.fetchval("select finished_at from syncd.command where id = $1", number),
        "obeyed",
    )
    told = await operator.fetchrow(
        "select requested_by, outcome, result from syncd.command where id = $1", number
    )
    assert told is not None
    assert tuple(told) == (member("operator"), "done", '{"due": 0}')
    await operator.execute("delete from syncd.destination where name = 'nobody'")
    who = await operator.fetchval(
        "select who from syncd.control_log where row_name = 'shop' order by id desc limit 1"
    )
    assert who == member("operator")
    await operator.close()
    assert await daemon.terminated() == 0


async def test_the_owner_makes_the_schema_and_watches_tables_without_being_a_superuser(
    limited: Service, cluster: str
) -> None:
    from conftest import fresh_database

    async with fresh_database(cluster, "template1") as url:
        admin = await asyncpg.connect(url)
        await admin.execute(ROLES)
        owner = await db.connect(as_user(url, member("owner")))
        await owner.execute("set role syncd_owner")
        await migrate.migrate(owner)
        await admin.execute(ROLES)
        await admin.execute(
            "create table customer (id int primary key, email text);"
            "grant select, trigger on customer to syncd_owner"
        )
        await owner.execute("select syncd.watch('public.customer', 'id')")
        await admin.execute("insert into customer values (7, 'a@x.test')")
        assert await owner.fetchval("select contact_id from syncd.change") == "7"
        runtime = await db.connect(as_user(url, member("runtime")))
        assert await runtime.fetchval("select syncd.keep_deliveries(3)") == 0
        await migrate.check_schema(runtime)
        for connection in (runtime, owner, admin):
            await connection.close()
        owners = "select distinct pg_get_userbyid(relowner) from pg_class where relnamespace = "
        admin = await asyncpg.connect(url)
        rows = await admin.fetch(f"{owners} 'syncd'::regnamespace and relkind in ('r', 'p', 'v')")
        assert [row[0] for row in rows] == ["syncd_owner"]
        for kind in KINDS:
            await admin.execute(f"drop owned by syncd_{kind} cascade")
        await admin.close()
