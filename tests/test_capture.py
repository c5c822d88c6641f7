"""Every change of a watched table is noted, and noting harms nobody (races 12, 14, 26, 28)."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import asyncpg
import pytest

from syncd import db
from syncd.migrate import migrate


class Row(NamedTuple):
    """A row of syncd.change; neither contact nor list: a full pass is owed."""

    contact: str | None = None
    list: str | None = None
    gone: bool = False


OWES = Row()


def gone(contact: str) -> Row:
    return Row(contact, gone=True)


def rows(*contacts: str) -> set[Row]:
    return {Row(contact) for contact in contacts}


async def drained(connection: Any, source: str = "default") -> list[Row]:
    """What was noted since the last call."""
    found = await connection.fetch(
        "delete from syncd.change where source = $1 returning contact_id, list_id, gone", source
    )
    return sorted((Row(*row) for row in found), key=repr)


async def noted(connection: Any, source: str = "default") -> set[Row]:
    return set(await drained(connection, source))


async def run(connection: Any, *statements: str) -> None:
    for statement in statements:
        await connection.execute(statement)


@contextlib.contextmanager
def warnings_of(connection: Any) -> Iterator[list[str]]:
    """What the server said to a client beside its answers."""
    heard: list[str] = []

    def listen(_: object, message: Any) -> None:
        heard.append(message.message)

    connection.add_log_listener(listen)
    try:
        yield heard
    finally:
        connection.remove_log_listener(listen)


@pytest.fixture
async def one(database: str) -> AsyncIterator[asyncpg.Connection]:
    """A connection to a database with one table of ours, app.person, not watched yet."""
    connection = await asyncpg.connect(database)
    await run(
        connection,
        "create schema app",
        "create table app.person (id int primary key, email text)",
    )
    yield connection
    await connection.close()


@pytest.fixture
async def watched(one: asyncpg.Connection) -> asyncpg.Connection:
    """The same, watched by id."""
    await one.execute("select syncd.watch('app.person', 'id')")
    return one


# ── Which statements are seen ─────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("statement", "expected"),
    [
        ("insert into app.person values (3), (4)", rows("3", "4")),
        ("update app.person set email = 'x' where id = 1", rows("1")),
        ("update app.person set id = 9 where id = 1", rows("1", "9")),
        ("update app.person set id = 3 - id", rows("1", "2")),
        ("delete from app.person", rows("1", "2")),
        (
            "insert into app.person values (1, 'x') on conflict (id) do update set email = 'y'",
            rows("1"),
        ),
        ("insert into app.person values (1), (5) on conflict do nothing", rows("5")),
        ("update app.person set email = 'x' where id = 77", set()),
        ("truncate app.person", {OWES}),
        (
            (
                "with d as (delete from app.person where id = 1 returning id) "
                "insert into app.person select id + 10 from d"
            ),
            rows("1", "11"),
        ),
    ],
)
async def test_a_statement_notes_the_keys_it_touched_and_no_others(
    one: asyncpg.Connection, statement: str, expected: set[Row]
) -> None:
    # The keys are deferrable, so that an exchange of them can be written in one statement.
    await run(
        one,
        "create table app.p (like app.person including all)",
        "drop table app.person; alter table app.p rename to person",
        "alter table app.person drop constraint p_pkey",
        "alter table app.person add unique (id)"
        if "on conflict" in statement
        else "alter table app.person add unique (id) deferrable",
        "insert into app.person values (1, 'a'), (2, 'b')",
        "select syncd.watch('app.person', 'id')",
        statement,
    )
    assert await noted(one) == expected


async def test_copy_notes_every_key(watched: asyncpg.Connection) -> None:
    await watched.copy_records_to_table(
        "person", schema_name="app", records=[(number, "x") for number in range(1500)]
    )
    assert await noted(watched) == rows(*map(str, range(1500)))


async def test_merge_notes_what_it_inserted_updated_and_deleted(
    watched: asyncpg.Connection,
) -> None:
    if watched.get_server_version().major < 15:
        pytest.skip("MERGE came with PostgreSQL 15")
    await watched.execute("insert into app.person values (1), (2), (3)")
    await noted(watched)
    await watched.execute("""
        merge into app.person p using (values (1), (2), (4)) s (id) on p.id = s.id
         when matched and p.id = 1 then delete
         when matched then update set email = 'm'
         when not matched then insert values (s.id)""")
    assert await noted(watched) == rows("1", "2", "4")


async def test_a_cascade_of_foreign_keys_notes_the_children(one: asyncpg.Connection) -> None:
    await run(
        one,
        "create table app.address (person_id int references app.person on delete cascade)",
        "insert into app.person values (1), (2); insert into app.address values (1), (1), (2)",
        "select syncd.watch('app.address', 'person_id')",
        "delete from app.person where id = 1",
    )
    assert await drained(one) == [Row("1")]


async def test_a_truncate_that_cascades_owes_a_full_pass(one: asyncpg.Connection) -> None:
    await run(
        one,
        "create table app.address (person_id int references app.person)",
        "select syncd.watch('app.address', 'person_id')",
        "truncate app.person cascade",
    )
    assert await noted(one) == {OWES}


async def test_many_keys_moved_in_one_statement_are_noted_old_and_new(
    watched: asyncpg.Connection,
) -> None:
    """More than the trigger reads at once, so that it takes the way of the bulk."""
    await watched.execute("insert into app.person select generate_series(1, 5000)")
    assert len(await drained(watched)) == 5000
    await watched.execute("update app.person set id = id + 10000 where id > 4000")
    assert await drained(watched) == sorted(
        rows(*map(str, range(4001, 5001)), *map(str, range(14001, 15001))), key=repr
    )


async def test_a_bulk_update_after_single_rows_in_one_session_is_not_planned_for_one_row(
    watched: asyncpg.Connection,
) -> None:
    """A kept plan would join two transition tables by nested loop: minutes instead of a second."""
    await watched.execute("insert into app.person select generate_series(1, 40000)")
    for number in range(1, 20):
        await watched.execute("update app.person set email = 'x' where id = $1", number)
    async with asyncio.timeout(60):
        await watched.execute("update app.person set email = 'y'")
    assert len(await noted(watched)) == 40000


async def test_a_null_key_is_not_taken_for_a_full_pass(one: asyncpg.Connection) -> None:
    await run(
        one,
        "create table app.visit (person_id int)",
        "select syncd.watch('app.visit', 'person_id')",
        "insert into app.visit values (null), (1), (1)",
        "insert into app.visit select null from generate_series(1, 2000)",
    )
    assert await drained(one) == [Row("1")]


@pytest.mark.parametrize(
    ("kind", "value", "text"),
    [
        ("smallint", "7", "7"),
        ("bigint", "9007199254740993", "9007199254740993"),
        ("uuid", "'A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11'", "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"),
        ("text", "'Ann ''O'' Neil'", "Ann 'O' Neil"),
        ("varchar(9)", "'x'", "x"),
        ("app.key", "5", "5"),
    ],
)
async def test_keys_of_every_allowed_type_are_noted_as_text(
    one: asyncpg.Connection, kind: str, value: str, text: str
) -> None:
    await run(
        one,
        "create domain app.key as int",
        f"create table app.thing (id {kind})",
        "select syncd.watch('app.thing', 'id')",
        f"insert into app.thing values ({value})",
    )
    assert await noted(one) == rows(text)


@pytest.mark.parametrize("column", ["Key Col", "news", "seen", "select", 'a"b', "it's", "k" * 63])
async def test_names_that_need_quotes_are_quoted(one: asyncpg.Connection, column: str) -> None:
    quoted = '"' + column.replace('"', '""') + '"'
    await run(one, f'create schema "We ird"; create table "We ird"."Tab""le" ({quoted} int)')
    await one.execute("select syncd.watch($1::text::regclass, $2)", '"We ird"."Tab""le"', column)
    await run(
        one,
        'insert into "We ird"."Tab""le" values (1)',
        f'update "We ird"."Tab""le" set {quoted} = 2',
    )
    assert await noted(one) == rows("1", "2")


# ── What the rows say ─────────────────────────────────────────────────────────────────────


async def test_the_default_tables_are_watched_and_a_deleted_contact_is_gone(
    one: asyncpg.Connection,
) -> None:
    await run(
        one,
        "insert into syncd.contact (id, email) values ('1', 'a'), ('2', 'b')",
        "insert into syncd.list values ('news', 'News')",
        "insert into syncd.membership values ('news', '1'), ('news', '2')",
    )
    assert await noted(one) == rows("1", "2") | {Row(list="news")}
    await one.execute("delete from syncd.membership where contact_id = '1'")
    assert await noted(one) == rows("1")
    await one.execute("delete from syncd.contact where id = '2'")
    assert await noted(one) == {gone("2"), Row("2")}  # the second by its membership
    await one.execute("update syncd.contact set id = '3' where id = '1'")
    assert await noted(one) == {gone("1"), Row("3")}
    await run(one, "update syncd.list set name = 'Nws'", "update syncd.list set id = 'n'")
    assert await noted(one) == {Row(list="news"), Row(list="n")}
    await one.execute("delete from syncd.list")
    assert await noted(one) == {Row(list="n")}


async def test_truncating_a_default_table_owes_a_full_pass(one: asyncpg.Connection) -> None:
    for table in ("syncd.contact cascade", "syncd.list cascade", "syncd.membership"):
        await one.execute(f"truncate {table}")
        assert await noted(one) == {OWES}


async def test_a_key_deleted_beneath_a_view_of_contacts_is_gone_but_not_among_details(
    one: asyncpg.Connection,
) -> None:
    await run(
        one,
        "create table app.detail (person_id int primary key references app.person, n int)",
        "create view app.contact as select p.*, n from app.person p left join app.detail d "
        "on d.person_id = p.id",
        "insert into syncd.source (name, contact) values ('crm', 'app.contact')",
        "select syncd.watch('app.person', 'id', 'crm')",
        "select syncd.watch('app.detail', 'person_id', 'crm')",
        "insert into app.person values (1), (2); insert into app.detail values (1)",
    )
    await noted(one, "crm")
    await one.execute("delete from app.detail")
    assert await noted(one, "crm") == rows("1")
    await one.execute("delete from app.person where id = 1")
    assert await noted(one, "crm") == {gone("1")}


async def test_repointing_a_source_changes_what_its_tables_mean(
    watched: asyncpg.Connection,
) -> None:
    await watched.execute("insert into app.person values (1), (2)")
    await watched.execute("delete from app.person where id = 1")
    assert await noted(watched) == rows("1", "2")
    await watched.execute("update syncd.source set contact = 'app.person'")
    await watched.execute("delete from app.person")
    assert await noted(watched) == {gone("2")}
    await watched.execute("update syncd.source set list = 'app.person', contact = 'syncd.contact'")
    await watched.execute("insert into app.person values (3)")
    assert await noted(watched) == {Row(list="3")}


async def test_two_sources_over_one_table_both_hear_of_a_change(
    watched: asyncpg.Connection,
) -> None:
    await run(
        watched,
        "insert into syncd.source (name, contact) values ('crm', 'app.person')",
        "select syncd.watch('app.person', 'id', 'crm')",
        "insert into app.person values (1)",
    )
    assert await noted(watched) == rows("1")
    assert await noted(watched, "crm") == rows("1")


# ── Tables that do not carry the contact's id ─────────────────────────────────────────────


@pytest.fixture
async def shared(one: asyncpg.Connection) -> asyncpg.Connection:
    """Addresses, of which people share some, watched through a view."""
    await run(
        one,
        "create table app.address (id int primary key, city text)",
        "create table app.dwells (person_id int, address_id int)",
        "create view app.of_address as select address_id as key, person_id as contact_id "
        "from app.dwells",
        "insert into app.address values (10), (11), (12)",
        "insert into app.dwells values (1, 10), (2, 10), (3, 11)",
        "select syncd.watch('app.address', 'id', via => 'app.of_address')",
    )
    return one


@pytest.mark.parametrize(
    ("statement", "expected"),
    [
        ("update app.address set city = 'x' where id = 10", rows("1", "2")),
        ("update app.address set city = 'x' where id = 12", set()),
        ("update app.address set city = 'x'", rows("1", "2", "3")),
        ("insert into app.address values (13)", set()),
        ("delete from app.address where id = 11", rows("3")),
        ("delete from app.address where id = 12", {OWES}),
        ("delete from app.address", {OWES} | rows("1", "2", "3")),
        ("update app.address set id = 20 where id = 11", rows("3")),
        ("update app.address set id = 20 where id = 12", {OWES}),
        ("truncate app.address", {OWES}),
    ],
)
async def test_a_change_is_traced_through_via_or_owes_a_full_pass(
    shared: asyncpg.Connection, statement: str, expected: set[Row]
) -> None:
    await shared.execute(statement)
    assert await noted(shared) == expected


async def test_a_broken_via_costs_a_full_pass_and_a_warning_but_not_the_writer(
    shared: asyncpg.Connection,
) -> None:
    await shared.execute(
        "create or replace view app.of_address as select address_id as key, "
        "person_id / (person_id - person_id) as contact_id from app.dwells"
    )
    with warnings_of(shared) as heard:
        await shared.execute("update app.address set city = 'kept' where id = 10")
    assert await noted(shared) == {OWES}
    assert "full pass" in heard[0]
    assert "22012" in heard[0]
    await shared.execute("drop view app.of_address")
    await shared.execute("update app.address set city = 'kept' where id = 11")
    assert await noted(shared) == {OWES}
    assert await shared.fetchval("select count(*) from app.address where city = 'kept'") == 2


async def test_a_warning_does_not_quote_the_customers_rows(shared: asyncpg.Connection) -> None:
    await run(
        shared,
        "alter table app.dwells add email text default 'ann@x.test'",
        "create or replace view app.of_address as select address_id as key, "
        "case when person_id > 0 then email::int end as contact_id from app.dwells",
    )
    with warnings_of(shared) as heard:
        await shared.execute("update app.address set city = 'x' where id = 10")
    assert await noted(shared) == {OWES}
    assert "ann@x.test" not in "".join(heard)


# ── Nothing of ours stops the writer ──────────────────────────────────────────────────────


async def test_a_renamed_key_owes_full_passes_until_watched_anew(
    watched: asyncpg.Connection,
) -> None:
    with warnings_of(watched) as heard:
        await watched.execute("alter table app.person rename id to person_id")
    assert "app.person.id" in heard[0]
    await watched.execute("insert into app.person values (1)")
    assert await noted(watched) == {OWES}
    await watched.execute("select syncd.watch('app.person', 'person_id')")
    await watched.execute("insert into app.person values (2)")
    assert await noted(watched) == rows("2")


@pytest.mark.parametrize("statement", ["insert into app.person values (1)", "truncate app.person"])
async def test_a_table_of_changes_that_refuses_rows_stops_nobody(
    watched: asyncpg.Connection, statement: str
) -> None:
    await watched.execute("alter table syncd.change add check (false)")
    with warnings_of(watched) as heard:
        await watched.execute(statement)
    assert "full pass" in heard[-1]
    await watched.execute("select from app.person")


async def test_a_writer_needs_no_rights_on_syncd(shared: asyncpg.Connection) -> None:
    await shared.execute("select syncd.watch('app.person', 'id')")
    role = await shared.fetchval("select 'writer_' || current_database()")
    await run(
        shared,
        f"create role {role}",
        f"grant usage on schema app to {role}",
        f"grant insert, select, update, delete, truncate on all tables in schema app to {role}",
        f"set role {role}",
        "insert into app.person values (1)",
        "update app.address set city = 'x' where id = 11",
    )
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await shared.execute("insert into syncd.change (source) values ('default')")
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await shared.execute("select syncd.watch('app.person', 'id')")
    await run(shared, "truncate app.person", "reset role")
    assert await noted(shared) == {OWES, *rows("1", "3")}
    await run(shared, f"drop owned by {role}", f"drop role {role}")


async def test_names_in_the_writers_search_path_are_not_taken_for_ours(
    watched: asyncpg.Connection,
) -> None:
    await run(
        watched,
        "create schema trap; create table trap.watched (relation oid); ",
        "create function trap.unnest(text[]) returns setof text language sql as "
        "$$ select 'trapped' $$",
        "create temp table pg_class (x int); create temp table new_rows (id int)",
        "insert into new_rows values (666)",
        "set search_path = trap, pg_temp, pg_catalog",
        "insert into app.person values (1), (2)",
    )
    assert await noted(watched) == rows("1", "2")


async def test_a_long_transaction_takes_one_subtransaction_of_ours_not_one_a_statement(
    watched: asyncpg.Connection,
) -> None:
    """64 of them overflow what a backend can show; every snapshot of the cluster then pays."""
    next_xid = "select pg_snapshot_xmax(pg_current_snapshot())::text::bigint"
    before = await watched.fetchval(next_xid)
    async with watched.transaction():
        for number in range(200):
            await watched.execute("insert into app.person values ($1)", number)
    assert await watched.fetchval(next_xid) - before < 50  # autovacuum may take a few as well
    assert len(await noted(watched)) == 200


async def test_a_rolled_back_change_is_not_noted_and_the_next_one_is(
    watched: asyncpg.Connection,
) -> None:
    await run(
        watched,
        "begin; savepoint s; insert into app.person values (1); rollback to s",
        "insert into app.person values (2)",
        "commit",
    )
    assert await noted(watched) == rows("2")


async def test_the_replica_role_silences_the_ordinary_triggers(watched: asyncpg.Connection) -> None:
    """Documented: a bulk load that sets it is found by the nightly full pass."""
    await run(
        watched, "set session_replication_role = replica", "insert into app.person values (1)"
    )
    assert await noted(watched) == set()


async def test_triggers_disabled_for_a_load_owe_a_full_pass_when_enabled(
    watched: asyncpg.Connection,
) -> None:
    await run(
        watched,
        "alter table app.person disable trigger all",
        "insert into app.person values (1)",
    )
    assert await noted(watched) == set()
    await watched.execute("alter table app.person enable trigger all")
    await watched.execute("insert into app.person values (2)")
    assert await noted(watched) == {OWES, Row("2")}


# ── Partitions ────────────────────────────────────────────────────────────────────────────


@pytest.fixture
async def parted(one: asyncpg.Connection) -> asyncpg.Connection:
    """app.client in two levels of partitions: a, and b with b1; watched by id."""
    await run(
        one,
        "create table app.client (id int, area text) partition by list (area)",
        "create table app.client_a partition of app.client for values in ('a')",
        "create table app.client_b partition of app.client for values in ('b') "
        "partition by range (id)",
        "create table app.client_b1 partition of app.client_b for values from (0) to (100)",
        "select syncd.watch('app.client', 'id')",
    )
    assert await noted(one) == set()
    return one


@pytest.mark.parametrize(
    ("statement", "expected"),
    [
        ("insert into app.client values (1, 'a'), (2, 'b')", ["1", "2"]),
        ("insert into app.client_a values (3, 'a')", ["3"]),
        ("insert into app.client_b values (4, 'b')", ["4"]),
        ("insert into app.client_b1 values (5, 'b')", ["5"]),
        ("update app.client set area = 'b' where id = 50", ["50"]),
        ("update app.client set id = 52, area = 'b' where id = 50", ["50", "52"]),
        ("update app.client set id = id + 10", ["50", "51", "60", "61"]),
        ("delete from app.client_b", ["51"]),
        ("delete from app.client", ["50", "51"]),
    ],
)
async def test_a_write_to_parent_or_partition_is_noted_once(
    parted: asyncpg.Connection, statement: str, expected: list[str]
) -> None:
    await parted.execute("insert into app.client values (50, 'a'), (51, 'b')")
    await noted(parted)
    await parted.execute(statement)
    assert await drained(parted) == [Row(key) for key in expected]


@pytest.mark.parametrize("table", ["client", "client_a", "client_b", "client_b1"])
async def test_truncating_parent_or_partition_owes_a_full_pass(
    parted: asyncpg.Connection, table: str
) -> None:
    await parted.execute(f"truncate app.{table}")
    assert await noted(parted) == {OWES}


async def test_a_partition_created_later_is_watched(parted: asyncpg.Connection) -> None:
    await parted.execute("create table app.client_c partition of app.client for values in ('c')")
    assert await noted(parted) == {OWES}
    await parted.execute("insert into app.client_c values (7, 'c')")
    assert await noted(parted) == rows("7")


async def test_an_attached_partition_is_watched_and_owes_a_full_pass(
    parted: asyncpg.Connection,
) -> None:
    await run(
        parted,
        "create table app.client_d (area text, id int); insert into app.client_d values ('d', 8)",
        "alter table app.client attach partition app.client_d for values in ('d')",
    )
    assert await noted(parted) == {OWES}
    await parted.execute("update app.client_d set id = 9")
    assert await noted(parted) == rows("8", "9")


@pytest.mark.parametrize("how", ["", "concurrently"])
async def test_a_detached_partition_owes_a_full_pass_and_is_watched_no_longer(
    parted: asyncpg.Connection, how: str
) -> None:
    await parted.execute(f"alter table app.client detach partition app.client_b {how}")
    assert await noted(parted) == {OWES}
    await parted.execute("insert into app.client_b1 values (5, 'b')")
    assert await noted(parted) == set()
    assert not await parted.fetch("select from pg_trigger where tgrelid = 'app.client_b'::regclass")


async def test_a_dropped_partition_owes_a_full_pass(parted: asyncpg.Connection) -> None:
    await parted.execute("drop table app.client_a")
    assert await noted(parted) == {OWES}
    assert await parted.fetchval("select count(*) from syncd.watched where parent is not null") == 2


async def test_children_by_inheritance_are_watched_like_partitions(
    watched: asyncpg.Connection,
) -> None:
    await watched.execute("create table app.patient (ward text) inherits (app.person)")
    assert await noted(watched) == {OWES}
    await watched.execute("insert into app.patient values (1), (2)")
    assert await drained(watched) == [Row("1"), Row("2")]
    await watched.execute("update app.person set email = 'x'")
    assert await drained(watched) == [Row("1"), Row("2")]


async def test_ordinary_ddl_owes_nothing(parted: asyncpg.Connection) -> None:
    await run(
        parted,
        "create temp table scratch (x int); drop table scratch; create table app.other (x int)",
        "alter table app.client add column note text",
        "alter table app.other add column note text; drop table app.other",
    )
    assert await noted(parted) == set()


async def test_unwatching_takes_every_trigger_away(parted: asyncpg.Connection) -> None:
    with pytest.raises(asyncpg.ObjectNotInPrerequisiteStateError, match=r"part of app\.client"):
        await parted.execute("select syncd.unwatch('app.client_b1')")
    await parted.execute("select syncd.unwatch('app.client')")
    assert not await parted.fetch("select from syncd.watched where relation::text like 'app.%'")
    assert not await parted.fetch("select from pg_trigger where tgrelid::regclass::text ~ '^app'")
    await run(
        parted, "insert into app.client values (1, 'a')", "select syncd.unwatch('app.person')"
    )
    assert await noted(parted) == set()


async def test_watching_twice_replaces_the_first(parted: asyncpg.Connection) -> None:
    triggers = (
        "select tgrelid, tgname from pg_trigger where tgrelid::regclass::text ~ '^app' "
        "order by 1, 2"
    )
    await parted.execute("alter table app.client add other text")
    before = await parted.fetch(triggers)
    await parted.execute("select syncd.watch('app.client', 'id')")
    await parted.execute("select syncd.watch('app.client', 'other')")
    assert await parted.fetch(triggers) == before
    await parted.execute("insert into app.client_a values (1, 'a', 'key')")
    assert await drained(parted) == [Row("key")]


# ── What cannot be watched ────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("call", "message", "hint"),
    [
        ("'app.v', 'id'", "is a view", "full_schedule"),
        ("'app.m', 'id'", "is a materialized view", "full_schedule"),
        ("'app.f', 'id'", "is a foreign table", "full_schedule"),
        ("'app.person', 'nr'", 'no column "nr"', "id, email"),
        ("'app.person', 'id', 'nope'", 'no source "nope"', "default"),
        ("'app.odd', 'at'", "timestamp", "integer, uuid or text"),
        ("'app.person', 'id', via => 'app.odd'", "trace keys", "contact_id"),
        ("'app.odd', 'at', via => 'app.map'", "trace keys", "timestamp"),
        ("'syncd.change', 'source'", "not a table of contacts", None),
    ],
)
async def test_what_cannot_be_watched_is_refused_with_a_remedy(
    one: asyncpg.Connection, call: str, message: str, hint: str | None
) -> None:
    await run(
        one,
        "create view app.v as select * from app.person",
        "create materialized view app.m as select * from app.person",
        "create foreign data wrapper w; create server s foreign data wrapper w",
        "create foreign table app.f (id int) server s",
        "create table app.odd (at timestamptz); create table app.map (key int, contact_id int)",
    )
    with pytest.raises(asyncpg.PostgresError, match=message) as caught:
        await one.execute(f"select syncd.watch({call})")
    assert (hint or "") in (caught.value.hint or "")
    assert not await one.fetch("select from syncd.watched where relation::text like 'app.%'")


async def test_one_table_has_one_key_for_all_sources(watched: asyncpg.Connection) -> None:
    await watched.execute("insert into syncd.source (name) values ('crm')")
    with pytest.raises(asyncpg.PostgresError, match="by id") as caught:
        await watched.execute("select syncd.watch('app.person', 'email', 'crm')")
    assert "via" in str(caught.value.hint)


async def test_watching_a_busy_table_gives_up_instead_of_queueing_its_writers(
    one: asyncpg.Connection, database: str
) -> None:
    busy = await asyncpg.connect(database)
    await busy.execute("begin; insert into app.person values (1)")
    with pytest.raises(asyncpg.LockNotAvailableError):
        await one.execute("select syncd.watch('app.person', 'id')")
    await busy.close()


# ── Bells ─────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(("notify", "expected"), [("true", ["default"]), ("false", [])])
async def test_a_change_rings_once_a_transaction_or_not_at_all(
    one: asyncpg.Connection, database: str, notify: str, expected: list[str]
) -> None:
    await one.execute(f"select syncd.watch('app.person', 'id', notify => {notify})")
    heard: list[object] = []
    listener = await asyncpg.connect(database)
    await listener.add_listener("syncd_change", lambda *args: heard.append(args[3]))
    async with one.transaction():
        await one.execute("insert into app.person values (1)")
        await one.execute("insert into app.person values (2)")
    await one.execute("update app.person set email = 'x' where id = 99")
    await one.execute("notify syncd_change, 'end'")
    async with asyncio.timeout(60):
        while "end" not in heard:
            await asyncio.sleep(0.01)
    await listener.close()
    assert heard == [*expected, "end"]


# ── The feed: late commits, strangers, trimming ───────────────────────────────────────────

READ = """
    select pg_current_snapshot()::text as taken, array(
        select contact_id from syncd.change
         where source = 'default' and xid >= pg_snapshot_xmin($1::text::pg_snapshot)
           and not pg_visible_in_snapshot(xid, $1::text::pg_snapshot) order by 1) as keys"""
"""One statement, hence one snapshot: the rows and the position are read in the same."""


class Reader:
    """A pass as design 4 states it, and the feed row that it advances."""

    def __init__(self, pool: db.Pool, position: str) -> None:
        self.pool, self.position = pool, position

    @classmethod
    async def start(cls, pool: db.Pool) -> Reader:
        return cls(pool, await pool.fetchval("select pg_current_snapshot()::text"))

    async def read(self) -> list[str]:
        found = await self.pool.fetchrow(READ, self.position)
        assert found
        self.position = found["taken"]
        return list(found["keys"])


PUT = "insert into syncd.contact (id) values ($1)"


async def test_a_late_commit_is_read_exactly_once(pool: db.Pool) -> None:
    reader = await Reader.start(pool)
    async with pool.acquire() as late:
        transaction = late.transaction()
        await transaction.start()
        await late.execute(PUT, "late")
        await pool.execute(PUT, "early")
        assert await reader.read() == ["early"]
        assert await reader.read() == []
        await transaction.commit()
    assert await reader.read() == ["late"]
    assert await reader.read() == []


async def test_a_strangers_long_transaction_stalls_nobody(pool: db.Pool, cluster: str) -> None:
    stranger = await asyncpg.connect(cluster)  # another database of the cluster
    transaction = stranger.transaction()
    await transaction.start()
    await stranger.fetchval("select pg_current_xact_id()")
    reader = await Reader.start(pool)
    for name in ("a", "b"):
        await pool.execute(PUT, name)
        assert await reader.read() == [name]
    await transaction.rollback()
    await stranger.close()
    assert await reader.read() == []


async def destination(pool: db.Pool, name: str, position: str | None) -> None:
    made = await pool.fetchval(
        "insert into syncd.destination (name, provider) values ($1, 'acme') returning id", name
    )
    await pool.execute(
        "insert into syncd.feed (destination_id, position) values ($1, $2::text::pg_snapshot) "
        "on conflict (destination_id) do update set position = excluded.position",
        made,
        position,
    )


async def left(pool: db.Pool) -> list[str]:
    """Trim; what stays in the table."""
    await pool.execute("select syncd.trim_change()")
    found = await pool.fetch("select contact_id from syncd.change order by contact_id")
    return [row["contact_id"] for row in found]


async def test_trimming_keeps_what_one_feed_has_not_passed(pool: db.Pool) -> None:
    behind = await Reader.start(pool)
    async with pool.acquire() as late:
        transaction = late.transaction()
        await transaction.start()
        await late.execute(PUT, "late")
        await pool.execute(PUT, "early")
        ahead = await Reader.start(pool)
        await transaction.commit()
    await destination(pool, "behind", behind.position)
    await destination(pool, "ahead", ahead.position)
    assert await left(pool) == ["early", "late"]
    await pool.execute("delete from syncd.destination where name = 'behind'")
    assert await left(pool) == ["late"]
    await ahead.read()
    await pool.execute("update syncd.feed set position = $1::text::pg_snapshot", ahead.position)
    assert await left(pool) == []


async def test_a_destination_that_owes_a_full_pass_holds_no_rows(pool: db.Pool) -> None:
    await pool.execute(PUT, "a")
    await destination(pool, "new", None)
    assert await left(pool) == []


async def test_a_position_from_another_cluster_lets_nothing_be_trimmed(pool: db.Pool) -> None:
    """After a restore new rows look as if they had been passed long ago (races 28)."""
    await pool.execute(PUT, "a")
    await destination(pool, "restored", "900000000000:900000000000:")
    assert await left(pool) == ["a"]


async def test_rows_of_a_source_nobody_reads_are_trimmed_after_a_minute(pool: db.Pool) -> None:
    await pool.execute(PUT, "a")
    assert await left(pool) == ["a"]
    await pool.execute("update syncd.change set at = at - interval '61 s'")
    assert await left(pool) == []


async def test_trimming_goes_in_blocks_and_leaves_locked_rows_alone(pool: db.Pool) -> None:
    await pool.execute(
        "insert into syncd.change (source, contact_id, at) "
        "select 'default', g, now() - interval '1 h' from generate_series(1, 25000) g"
    )
    async with pool.acquire() as holder, holder.transaction():
        await holder.execute("select from syncd.change where contact_id = '7' for update")
        assert await pool.fetchval("select syncd.trim_change(1)") == 10000
        assert await pool.fetchval("select syncd.trim_change()") == 14999
    assert await left(pool) == []


# ── Logical replication, and life without a superuser ─────────────────────────────────────


@pytest.fixture
def logical() -> Iterator[str]:
    """The address of a small cluster of its own that can publish and subscribe."""
    folder = Path(tempfile.mkdtemp(prefix="syncd-logical-"))
    folder.chmod(0o755)
    address = f"embedded:{folder / 'pg'}"
    try:
        with db.server(address):
            pass
        with (folder / "pg" / "postgresql.auto.conf").open("a") as conf:
            conf.write("wal_level = logical\nfsync = off\n")
        with db.server(address) as url:
            yield url
    finally:
        shutil.rmtree(folder, ignore_errors=True)


async def eventually(connection: Any, expected: set[Row]) -> None:
    """Wait until exactly these rows have been noted."""
    found: set[Row] = set()
    async with asyncio.timeout(60):
        while not expected <= found:
            await asyncio.sleep(0.05)
            found |= await noted(connection)
    assert found == expected


@contextlib.asynccontextmanager
async def upstream_of(url: str) -> AsyncIterator[tuple[asyncpg.Connection, str]]:
    """A database beside the one at *url*, which publishes app.person."""
    head, _, query = url.partition("?")
    uri = f"{head.rsplit('/', 1)[0]}/upstream?{query}"
    admin = await asyncpg.connect(url)
    await admin.execute("create database upstream")
    await admin.close()
    connection = await asyncpg.connect(uri)
    await run(
        connection,
        "create schema app; create table app.person (id int primary key, email text)",
        "insert into app.person values (1)",
        "create publication p for table app.person",
    )
    # Within one cluster the slot is made first: CREATE SUBSCRIPTION would wait for itself.
    await connection.execute("select pg_create_logical_replication_slot('s', 'pgoutput')")
    yield connection, uri
    await connection.close()


async def test_rows_that_arrive_by_logical_replication_are_noted(logical: str) -> None:
    ours = await asyncpg.connect(logical)
    how = "select how from syncd.watched where relation = 'app.person'::regclass"
    await migrate(ours)
    await run(
        ours,
        "create schema app; create table app.person (id int primary key, email text)",
        "select syncd.watch('app.person', 'id')",
    )
    async with upstream_of(logical) as (upstream, uri):
        await ours.execute(
            f"create subscription s connection '{uri}' publication p with (create_slot = false)"
        )
        await eventually(ours, rows("1"))  # the first copy of the table
        for statement, expected in (
            ("insert into app.person values (2), (3)", rows("2", "3")),
            ("update app.person set id = 9 where id = 2", rows("2", "9")),
            ("delete from app.person where id = 3", rows("3")),
            ("truncate app.person", {OWES}),
        ):
            await upstream.execute(statement)
            await eventually(ours, expected)
        await ours.execute("insert into app.person values (5)")
        assert await noted(ours) == rows("5")
        assert await ours.fetchval(how) == "row"
        for step in ("disable", "set (slot_name = none)"):
            await ours.execute(f"alter subscription s {step}")
        await ours.execute("drop subscription s")
        assert await ours.fetchval(how) == "statement"
    await ours.close()


async def test_without_a_superuser_partitions_are_found_by_asking(empty_database: str) -> None:
    admin = await asyncpg.connect(empty_database)
    name = await admin.fetchval("select current_database()")
    role = f"owner_{name}"
    await run(admin, f"create role {role}", f"grant create on database {name} to {role}")
    await admin.execute(f"set role {role}")
    await migrate(admin)
    await run(
        admin,
        "create schema app; create table app.t (id int) partition by list (id)",
        "select syncd.watch('app.t', 'id')",
        "create table app.t1 partition of app.t for values in (1)",
    )
    assert await noted(admin) == set()
    assert await admin.fetchval("select syncd.rewatch()") == 1
    assert await admin.fetchval("select syncd.rewatch()") == 0
    await admin.execute("insert into app.t1 values (1)")
    assert await noted(admin) == {OWES, Row("1")}
    await run(admin, "reset role", f"drop owned by {role} cascade", f"drop role {role}")
    await admin.close()
