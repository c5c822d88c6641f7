"""Old and new version side by side: every schema there has ever been is brought up to date with
its rows, a newer one is served, an older one is not, and migrations only add."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import service
from operating import desk
from service import Service

from syncd import db
from syncd import migrate as migrations
from syncd.expansion import SINCE, faults
from syncd.migrate import Migration, migrate

LATEST = migrations.migrations()[-1].version
CONVERGES = {1, 4, 9, 14, LATEST - 1}
"""From these a sync is run to its end; from all others the rows are compared, which is quick."""

ROWS = """
insert into syncd.contact (id, email, first_name, subscribed) values
    ('ann', 'ann@x.test', 'Ann', true), ('bob', 'bob@x.test', 'Bob', true),
    ('cyd', 'cyd@x.test', 'Cyd', false), ('new', 'new@x.test', 'New', true);
insert into syncd.list values ('n', 'news');
insert into syncd.membership select 'n', id from syncd.contact;
insert into syncd.destination (name, provider, credential, options)
values ('ct', 'clevertap', 'ct', jsonb_build_object('base_url', '{url}'));
insert into syncd.feed (destination_id) select id from syncd.destination on conflict do nothing;
insert into syncd.mirror (destination_id, contact_id, email, subscribed, state, fields, lists)
select d.id, c.id, c.email, true, 'here', '{"Name": "Old"}', '{n}'
  from syncd.destination d, syncd.contact c where c.id in ('ann', 'bob');
insert into syncd.journal (destination_id, contact_id, wish, lane, state, doubtful)
select id, 'ann', 'upsert', 1, 'due', true from syncd.destination;
insert into syncd.journal (destination_id, contact_id, wish, lane, state, last_error)
select id, 'bob', 'upsert', 1, 'rejected', 'no such field' from syncd.destination;
insert into syncd.opt_out (destination_id, email, email_hash, kind)
select id, 'bob@x.test', encode(sha256('bob@x.test'), 'hex'), 'unsubscribed'
  from syncd.destination;
insert into syncd.command (kind, destination, finished_at, outcome, result)
values ('sync', 'ct', now(), 'done', '{}');
"""
KEPT = ("contact", "list", "membership", "destination", "mirror", "journal", "opt_out", "command")
"""Tables whose rows a person would miss."""


async def apply_first(connection: db.Connection, number: int) -> None:
    """The schema as it was when there were so many migrations."""
    await connection.execute(migrations._BOOK)
    for one in migrations.migrations()[:number]:
        await connection.execute(one.text)
        await connection.execute(migrations._entry(one))


async def rows(connection: db.Connection) -> dict[str, list[dict[str, object]]]:
    found = {}
    for table in KEPT:
        told = await connection.fetch(f"select * from syncd.{table} order by 1, 2")
        found[table] = [dict(row) for row in told]
    return found


@pytest.mark.parametrize("number", range(1, LATEST))
async def test_every_schema_there_was_is_upgraded_with_its_rows(
    empty_database: str, number: int
) -> None:
    async with db.pool(empty_database, 4) as pool, desk(empty_database, pool) as at:
        async with pool.acquire() as connection:
            await apply_first(connection, number)
            await connection.execute(ROWS.replace("{url}", at.box.url))
            before = await rows(connection)
        assert [len(one) for one in before.values()] == [4, 1, 4, 1, 2, 2, 1, 1]

        ended = await at("migrate") if number in CONVERGES else await _quick(pool)
        assert ended

        async with pool.acquire() as connection:
            after = await rows(connection)
            assert await migrate(connection) == []
        for table, known in before.items():
            kept = [
                {name: value for name, value in row.items() if name in known[0]}
                for row in after[table]
            ]
            expected = [
                {name: value for name, value in row.items() if name in kept[0]} for row in known
            ]
            assert kept == expected, table
        if number in CONVERGES:
            await at.settle()
            profiles = at.box.snapshot()["profiles"]
            assert {key: one["mailable"] for key, one in profiles.items()} == {
                "ann": True, "bob": False, "new": True,
            }  # fmt: skip
            assert (await at("status", "ct", "--json", code=None)).json["in_step"]


async def _quick(pool: db.Pool) -> object:
    async with pool.acquire() as connection:
        return await migrate(connection)


# ── Side by side ────────────────────────────────────────────────────────────────────────────


@pytest.fixture
async def syncd(cluster: str, template: str) -> AsyncIterator[Service]:
    async with service.served(cluster, template) as made:
        await service.fill(made.db, 20)
        yield made


async def test_a_daemon_goes_on_and_starts_under_a_schema_that_is_newer_than_itself(
    syncd: Service,
) -> None:
    """Migrated first, restarted one after the other: at no time does nobody serve."""
    await syncd.destination("shop", await syncd.sandbox())
    running = await syncd.daemon()
    await syncd.in_step()
    await syncd.db.execute(
        "insert into syncd.migration (version, name, checksum) values (9999, 'later', 'x');"
        "alter table syncd.destination add column later text not null default 'x';"
        "alter table syncd.journal add column later text;"
        "alter table syncd.mirror add column later int not null default 7"
    )
    await syncd.db.execute("update syncd.contact set first_name = 'Live' where id = 'c00001'")
    await syncd.in_step()
    await syncd.same("shop")
    restarted = await syncd.daemon()
    assert await running.terminated() == 0
    await syncd.db.execute("update syncd.contact set first_name = 'Again' where id = 'c00002'")
    await syncd.in_step()
    await syncd.same("shop")
    assert restarted.alive


async def test_a_daemon_does_not_start_under_a_schema_it_cannot_work_with(
    syncd: Service,
) -> None:
    """An older one: 69, and systemd tries again until it is migrated. One that has taken away what
    it needs: 78, for only another program helps."""
    syncd.may_fail = True
    await syncd.db.execute("delete from syncd.migration where version = $1", LATEST)
    older = syncd.start("run")
    assert await older.ended() == 69
    assert "the syncd schema is older than this program: `syncd migrate`" in older.said
    await syncd.db.execute(
        "insert into syncd.migration (version, name, checksum) values ($1, $2, $3)",
        LATEST, migrations.migrations()[-1].name, migrations.migrations()[-1].checksum,
    )  # fmt: skip
    await syncd.db.execute(
        "insert into syncd.migration (version, name, checksum, needs) values (9999, 'l', 'x', $1)",
        LATEST + 1,
    )
    newer = syncd.start("run")
    assert await newer.ended() == 78
    assert f"to one that brings {LATEST + 1:04d}" in newer.said


# ── Migrations only add ─────────────────────────────────────────────────────────────────────


def test_migrations_only_add_so_that_older_daemons_go_on() -> None:
    assert [fault for one in migrations.migrations() for fault in faults(one)] == []


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("drop table syncd.seen", "takes away"),
        ("alter table syncd.mirror drop column remote", "takes away"),
        ("alter table syncd.mirror\n  drop remote", "changes"),
        ("alter table syncd.mirror rename column remote to there", "takes away"),
        ("alter table syncd.mirror rename remote to there", "takes away"),
        ("alter table syncd.mirror rename to mirrored", "takes away"),
        ("alter table syncd.journal alter lane type int", "changes"),
        ("alter table syncd.journal alter column plan_id set not null", "changes"),
        ("alter table syncd.run add column a int default 1, add b text not null", "no default"),
        ("do $$ begin alter table syncd.run drop column error; end $$", "takes away"),
        ("drop function syncd.watch(regclass)", "takes away"),
    ],
)
def test_a_migration_that_takes_away_is_refused(text: str, says: str) -> None:
    told = list(faults(Migration(SINCE, "later", f"{text};")))

    assert any(says in one and "0019_later.sql" in one for one in told), told
    header = "-- contracts: 0018 (nothing reads it since)\n"
    assert list(faults(Migration(SINCE, "later", header + text))) == []
    assert Migration(SINCE, "later", header + text).needs == 18


@pytest.mark.parametrize(
    "text",
    [
        "create table syncd.later (id int not null, name text not null)",
        "alter table syncd.run add column later int, add more numeric(4, 2) not null default 0",
        "alter table syncd.run add column later int generated always as (1) stored not null",
        "alter table syncd.run drop constraint a, add constraint a check (kind is not null)",
        "drop index syncd.journal_sent; drop trigger t on syncd.run",
        "-- drop table syncd.seen\ncomment on table syncd.seen is 'drop table syncd.seen'",
        "create or replace function f() returns void language sql as $$ drop table x $$",
    ],
)
def test_a_migration_that_adds_is_not(text: str) -> None:
    assert list(faults(Migration(SINCE, "later", text))) == []
