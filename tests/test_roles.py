"""sql/roles.sql: everything but `migrate` works with it, and what it withholds is withheld."""

from __future__ import annotations

from collections.abc import AsyncIterator
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import pytest
import pytest_asyncio
import service
from service import Service

from syncd import sql

pytestmark = pytest.mark.asyncio(loop_scope="module")

WHO = "syncd_in_a_test"


def as_user(url: str, user: str) -> str:
    parts = urlsplit(url)
    return urlunsplit(parts._replace(netloc=f"{user}@{parts.netloc.rpartition('@')[2]}"))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def limited(cluster: str, template: str) -> AsyncIterator[Service]:
    """Forty contacts and a destination; syncd connects as a role that has only `syncd_daemon`."""
    roles = (sql.folder() / "roles.sql").read_text("utf-8")
    async with service.served(cluster, template) as made:
        await service.fill(made.db, 40)
        await made.destination("shop", await made.sandbox())
        for _ in range(2):  # it may be run again
            await made.db.execute(roles)
        await made.db.execute(
            f"create role {WHO} login in role syncd_daemon; create role {WHO}_reader login"
            " in role syncd_reader; grant select on syncd.contact, syncd.list, syncd.membership"
            " to syncd_daemon"
        )
        owner, made.url = made.url, as_user(made.url, WHO)
        yield made
        made.url = owner
        for one in (WHO, f"{WHO}_reader"):
            await made.db.execute(f"drop owned by {one}; drop role {one}")
        for one in ("syncd_daemon", "syncd_reader"):
            await made.db.execute(f"drop owned by {one}")


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


async def test_neither_role_can_do_what_it_need_not(limited: Service) -> None:
    for user, statements in {
        WHO: (
            "delete from syncd.contact", "update syncd.migration set checksum = ''",
            "drop table syncd.journal", "create table syncd.mine ()",
            "select syncd.unwatch('syncd.contact')",
        ),
        f"{WHO}_reader": (
            "select * from syncd.secret", "update syncd.destination set paused = true",
            "insert into syncd.command (kind) values ('full')",
        ),
    }.items():  # fmt: skip
        connection = await asyncpg.connect(as_user(limited.url, user))
        for statement in statements:
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await connection.execute(statement)
        assert await connection.fetchval("select count(*) from syncd.mirror") > 0
        await connection.close()
