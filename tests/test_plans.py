"""Query plans (races 30): nothing hot reads a big table from end to end, whatever it believes.

SYNCD_TEST_PLANS=1000000  the number of contacts; 200,000 unless told, the bounds are the same
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterator
from typing import Any

import asyncpg
import orjson
import pytest
from conftest import fresh_database

from syncd import source as sources
from syncd import sql
from syncd.audit_rows import AuditRows
from syncd.compare import Compare
from syncd.desired import Desired, Field

ROWS = int(os.environ.get("SYNCD_TEST_PLANS", "200000"))
BIG = {"journal", "mirror", "contact", "audited"}

FILL = f"""
alter table syncd.contact disable trigger user;
alter table syncd.membership disable trigger user;
alter table syncd.journal set (autovacuum_enabled = off);
alter table syncd.mirror set (autovacuum_enabled = off);
alter table syncd.contact set (autovacuum_enabled = off);
alter table syncd.membership set (autovacuum_enabled = off);
analyze syncd.journal, syncd.mirror, syncd.contact, syncd.membership;
insert into syncd.destination (name, provider) values ('acme', 'acme');
insert into syncd.list values ('l1', 'One'), ('l2', 'Two');
insert into syncd.contact (id, email, first_name)
select 'c' || to_char(n, 'FM0000000'), n || '@x.test', 'A' from generate_series(1, {ROWS}) n;
insert into syncd.membership select 'l1', id from syncd.contact;
insert into syncd.mirror (destination_id, contact_id, email, subscribed, state)
select 1, id, email, true, 'here' from syncd.contact;
insert into syncd.journal (destination_id, contact_id, wish, lane, state)
select 1, id, 'upsert', 1 + (substr(id, 2)::int % 3), 'due' from syncd.contact;
"""


@pytest.fixture(scope="module")
def big_template(cluster: str, template: str) -> str:
    """A database of `ROWS` contacts, last analysed when it was empty."""
    import asyncio

    from clusters import named

    async def make() -> None:
        admin = await asyncpg.connect(cluster)
        await admin.execute(f"create database syncd_big template {template}")
        await admin.close()
        filled = await asyncpg.connect(named(cluster, "syncd_big"))
        await filled.execute(FILL)
        await filled.close()

    asyncio.run(make())
    return "syncd_big"


@pytest.fixture(params=["stale", "fresh"])
async def big(
    cluster: str, big_template: str, request: pytest.FixtureRequest
) -> AsyncIterator[asyncpg.Connection]:
    async with fresh_database(cluster, big_template) as url:
        connection = await asyncpg.connect(url)
        if request.param == "fresh":
            await connection.execute("analyze")
        yield connection
        await connection.close()


async def compare_of(connection: asyncpg.Connection, lists: list[str] | None) -> Compare:
    source = await sources.describe(connection, "default")
    fields = (Field("first", "first_name"),)
    return Compare(Desired(1, source, fields, lists, False, False, {}, "withdraw"))


async def scanned(connection: asyncpg.Connection, statement: str, *args: Any) -> set[str]:
    """The big tables that a statement reads from end to end, or in which it touches too much."""
    async with connection.transaction():
        await connection.execute("set local plan_cache_mode = force_custom_plan")
        text = f"explain (analyze, timing off, buffers off, format json) {statement}"
        [plan] = orjson.loads(await connection.fetchval(text, *args))
    return set(_whole(plan["Plan"]))


def _whole(node: dict[str, Any]) -> Iterator[str]:
    name = node.get("Relation Name", "")
    seen = node["Actual Loops"] * (
        node["Actual Rows"] + node.get("Rows Removed by Filter", 0)
        + node.get("Rows Removed by Index Recheck", 0)
    )  # fmt: skip
    if name in BIG and (node["Node Type"] == "Seq Scan" or seen > 60_000):
        yield f"{node['Node Type']} on {name}: {seen:g} rows"
    if "Join" in node["Node Type"] and node.get("Rows Removed by Join Filter", 0) > 60_000:
        yield f"{node['Node Type']}: every pair"
    for child in node.get("Plans", ()):
        yield from _whole(child)


KEYS = [f"c{n:07d}" for n in range(1, ROWS, ROWS // 1000)]


@pytest.mark.parametrize("lists", [None, ["l1"]])
async def test_no_statement_of_a_pass_or_a_claim_reads_a_table_from_end_to_end(
    big: asyncpg.Connection, lists: list[str] | None
) -> None:
    """A thousand keys, a claim's thousand, and a window of five thousand."""
    compare = await compare_of(big, lists)
    desired = compare.desired
    checks: dict[str, tuple[Any, ...]] = {
        "by_keys": (compare.by_keys, KEYS, KEYS, False),
        "for_claim": (compare.for_claim, KEYS, KEYS, [None] * len(KEYS)),
        "by_window": (compare.by_window, "c0100000", "c0104999", False),
        "window": (desired.window, "c0100000", 5000),
        "belonging": (desired.belonging, KEYS),
        "at_addresses": (desired.at_addresses, [f"{n}@x.test" for n in range(1, 1000)]),
        "at_mirror": (sql.plan.at_mirror_addresses, 1, [f"{n}@x.test" for n in range(1, 1000)]),
        "mirror_window": (sql.plan.mirror_window, 1, "c0100000", 5000),
        "next_due": (sql.journal.next_due, 1),
        "members_of keys": (sql.journal.lock, 1, KEYS, 1),
    }
    found = {name: await scanned(big, *args) for name, args in checks.items()}

    assert {name: one for name, one in found.items() if one} == {}


async def test_a_claim_does_not_look_through_all_that_is_in_flight_for_every_contact(
    big: asyncpg.Connection,
) -> None:
    """A thousand are claimed beside two thousand others whose requests are on their way."""
    compare = await compare_of(big, None)
    await big.execute(
        "update syncd.journal set state = 'sent', claim = 1, claimed_by = 1,"
        " holds = case when not contact_id = any($1) then contact_id || '@x.test' end"
        " where contact_id = any($1) or contact_id between 'c0150002' and 'c0152001'",
        KEYS,
    )
    nobody_tried: list[str | None] = [None] * len(KEYS)
    assert await scanned(big, compare.for_claim, KEYS, KEYS, nobody_tried) == set()
    await big.execute("delete from syncd.mirror where contact_id = any($1)", KEYS)
    assert await scanned(big, compare.for_claim, KEYS, KEYS, nobody_tried) == set()


async def test_no_window_of_an_audit_reads_a_table_from_end_to_end(
    big: asyncpg.Connection,
) -> None:
    """Windows of 2,000; a page of 500 records, matched by id or by address."""
    desired = (await compare_of(big, None)).desired
    rows = AuditRows(desired)
    now = await big.fetchval(sql.audit.now)
    await big.execute("""
        insert into syncd.audited (run_id, remote_id, contact_id)
        select 1, contact_id, contact_id from syncd.mirror;
        update syncd.mirror set remote = jsonb_build_object('id', contact_id)
         where contact_id between 'c0100000' and 'c0104999'""")
    some = range(100_000, 100_500)
    page = (
        [f"r{n}" for n in some], [f"{n}@x.test" for n in some], [None] * 500, ["{}"] * 500,
        ["{}"] * 500, [None] * 500,
        [f'{{"id": "c{n:07d}"}}' if n % 2 else '{"id": "nobody"}' for n in some], [None] * 500,
    )  # fmt: skip
    checks: dict[str, tuple[Any, ...]] = {
        "by_window": (rows.by_window, "c0100000", "c0101999", 1),
        "outside": (rows.outside, KEYS, KEYS, 1),
        "meet": (sql.audit.meet, 1, 1, False, "", now, *page),
        "to_read": (sql.audit.to_read, 1, 1, "c0100000", 80),
        "mirror's window": (sql.audit.outside, 1, "c0100000", 2000),
    }
    found = {name: await scanned(big, *args) for name, args in checks.items()}

    assert {name: one for name, one in found.items() if one} == {}
    met = await big.fetch("select contact_id from syncd.audited where remote_id like 'r%'")
    assert len({row["contact_id"] for row in met}) == 500


async def test_a_window_that_is_in_flight_reads_no_table_from_end_to_end(
    big: asyncpg.Connection,
) -> None:
    """Five thousand staged, from the statement that stages them to their settlement."""
    compare = await compare_of(big, None)
    key = "c0100000", "c0104999", False
    await big.execute("delete from syncd.mirror where contact_id between 'c0100000' and 'c0104999'")
    await big.execute(
        "delete from syncd.journal where contact_id between 'c0100000' and 'c0104999'"
    )
    assert await scanned(big, compare.staging, *key, 7, False, None) == set()
    assert await big.fetchval("select count(*) from syncd.staged") == 5000
    for name, args in (
        ("contested", (1, 7)),
        ("fill", (1, 7, [])),
        ("beside", (1, 7)),
        ("settle", (1, 7, [])),
    ):
        assert await scanned(big, getattr(sql.window, name), *args) == set(), name


CLAIM = """
select c.ctid from syncd.journal c
 where c.destination_id = 1 and c.lane = 1::smallint and c.state = 'due'
   and c.due_at <= clock_timestamp() and c.batch_cap is null and c.receipt is null
 order by c.due_at, c.contact_id limit 1000 for update skip locked
"""


async def test_a_claim_costs_its_batch_not_the_backlog(big: asyncpg.Connection) -> None:
    """The whole claim, its inner statement, and the same behind a backlog that is in backoff."""
    assert await scanned(big, CLAIM) == set()
    read = await _read_rows(big, "select * from syncd.claim(1, 1000, 1)")
    assert read["journal"] <= 4000
    await big.execute(
        "update syncd.journal set due_at = now() + interval '1 h' where state = 'due'"
    )
    await big.execute("vacuum syncd.journal")
    read = await _read_rows(big, "select * from syncd.claim(1, 1000, 1)")
    assert read["journal"] <= 4000


async def test_settling_a_thousand_touches_a_thousand(big: asyncpg.Connection) -> None:
    """Deleting, acknowledging, marking unknown, taking back: each by array, over its own rows."""
    emails = [f"{one}@x.test" for one in KEYS]
    usual: list[None] = [None] * len(KEYS)
    written = emails, ["{}"] * len(KEYS), ["{l1}"] * len(KEYS), *[usual] * 5
    for statement, args in (
        (sql.journal.drop, (1, KEYS)),
        (sql.journal.unknown_mirror, (1, KEYS)),
        (sql.journal.write_mirror, (1, KEYS, *written)),
        (sql.journal.withdraw_mirror, (1, KEYS)),
        (sql.journal.delete_mirror, (1, KEYS)),
    ):
        async with big.transaction():
            assert await scanned(big, statement, *args) == set()


async def _read_rows(connection: asyncpg.Connection, statement: str) -> dict[str, int]:
    """How many rows of each table a statement fetched, by scans or through indexes."""
    text = """select relname::text, coalesce(seq_tup_read, 0) + coalesce(idx_tup_fetch, 0)
                from pg_stat_xact_user_tables where schemaname = 'syncd'"""
    async with connection.transaction():
        before = {row[0]: row[1] for row in await connection.fetch(text)}
        await connection.execute(statement)
        after = {row[0]: row[1] for row in await connection.fetch(text)}
    return {name: int(after[name] - before[name]) for name in after}
