"""The plan: the guard, the feed, keys, lanes. Races 1, 2, 4, 11, 12, 16-23, 26, 28, 29."""

from __future__ import annotations

import asyncio

import asyncpg
import pytest
import support
from support import World, blocked, gone, holding, many, put, rename, world

from syncd import control, db, sql
from syncd.db import Pool
from syncd.errors import ConfigError
from syncd.model import Can
from syncd.source import PATTERNS
from syncd.sql import parse

SILENCE = "update syncd.contact set subscribed = false"
ALL = "update syncd.contact set first_name = 'B'"


# ── 1, 2: the guard ─────────────────────────────────────────────────────────────────────────


async def test_contacts_that_vanish_after_their_change_was_planned_are_held_as_removals(
    pool: Pool,
) -> None:
    """1: an approved backlog of upserts is no loaded gun."""
    async with world(pool, guard_floor=5) as w:
        await many(pool, 100)
        await w.hand.drain()
        await pool.execute(ALL)
        await w.hand.plan()
        [plan] = await control.held_plans(pool)
        await control.approve(pool, plan.id, 100, "test")
        writes = len(w.acme.writes)

        await pool.execute("truncate syncd.contact cascade")
        claim = await w.hand.claim()

        assert not claim.entries
        await w.hand.plan()  # the TRUNCATE owes a full pass
        await w.hand.full()
        assert await w.hand.held() == {"remove": 100}
        assert len(w.acme.writes) == writes


async def test_contacts_that_vanish_while_they_are_being_created_are_not_removed_unasked(
    pool: Pool,
) -> None:
    """1: the same for `again` on rows in flight, of which the plan knew no mirror."""
    async with world(pool, guard_floor=5) as w:
        await many(pool, 50)
        await w.hand.plan()
        claim = await w.hand.claim()
        pushed = await w.hand.send(claim)
        await pool.execute("delete from syncd.contact")
        await w.hand.plan()
        await w.hand.journal.settle(claim, pushed.results)

        await w.hand.drain()

        assert len(w.acme.mailed()) == 50
        assert await w.hand.held() == {"remove": 50}


async def test_contacts_that_vanish_while_their_window_is_in_flight_are_not_removed_unasked(
    pool: Pool,
) -> None:
    """1 and F: nor where a full pass sends them without journal rows."""
    async with world(pool, guard_floor=5) as w:
        await many(pool, 50)
        w.acme.after.clear()
        full = asyncio.create_task(w.hand.full(direct=True))
        await w.acme.arrival(1)
        await pool.execute("delete from syncd.contact")
        await w.hand.plan()
        w.acme.after.set()
        await full

        await w.hand.drain()

        assert len(w.acme.mailed()) == 50
        assert await w.hand.held() == {"remove": 50}


async def test_a_removal_planned_while_the_contact_was_in_flight_stays_held_when_its_worker_dies(
    pool: Pool,
) -> None:
    """1: a row taken back from a dead worker is not freed from the plan that holds it."""
    async with world(pool, guard_floor=0, guard_percent=0) as w:
        await put(pool, "ann")
        await w.hand.drain()
        await rename(pool, "ann", "B")
        await w.hand.plan()
        [plan] = await control.held_plans(pool)
        await control.approve(pool, plan.id, 1, "test")
        assert (await w.hand.claim()).entries
        await gone(pool, "ann")
        await w.hand.plan()
        assert await w.hand.count("wish = 'remove' and again") == 1

        await w.hand.die()

        assert await w.hand.held() == {"remove": 1}
        assert (await w.hand.row("ann"))["doubtful"]


async def test_many_small_passes_do_not_evade_the_guard(pool: Pool) -> None:
    """2: 25 passes of 40 removals, each under the floor of 50."""
    async with world(pool) as w:
        await many(pool, 1000)
        await w.hand.drain()
        for start in range(1, 1000, 40):
            await gone(pool, *support.ids(start, start + 40))
            await w.hand.plan()
        await w.hand.drain()

        assert 1000 - len(w.acme.mailed()) == 80
        assert await w.hand.held() == {"remove": 920}


async def test_what_passed_the_guard_yesterday_counts_no_more_today(pool: Pool) -> None:
    """2: the day rolls."""
    async with world(pool, guard_floor=40, guard_percent=0) as w:
        await many(pool, 100)
        await w.hand.drain()
        await gone(pool, *support.ids(1, 41))
        await w.hand.drain()
        await pool.execute("update syncd.tally set at = at - interval '24 hours 1 s'")
        await gone(pool, *support.ids(41, 81))
        await w.hand.drain()

        assert len(w.acme.mailed()) == 20
        assert await w.hand.held() == {}


async def test_the_first_windows_of_a_full_pass_send_no_removal_before_the_last_is_counted(
    pool: Pool,
) -> None:
    """2: windows of ten, none of which alone would trip the guard."""
    async with world(pool, guard_floor=20) as w:
        await many(pool, 100)
        await w.hand.drain()
        await _unseen(pool, "delete from syncd.contact where id > 'c00030'")
        await _unseen(pool, ALL)

        counts = await w.hand.full(window=10)

        assert counts.held == 100
        assert await w.hand.held() == {"remove": 70, "change": 30}
        assert await w.hand.count("state = 'due'") == 0


async def test_each_kind_is_counted_apart_and_creates_are_free(pool: Pool) -> None:
    """2: 60 removals over the floor do not hold 10 changes, 5 opt-outs or 100 creates."""
    async with world(pool, guard_floor=50, guard_percent=0) as w:
        await many(pool, 100)
        await w.hand.drain()
        await many(pool, 10, first="B")
        await pool.execute(
            "update syncd.contact set subscribed = false where id between 'c00011' and 'c00015'"
        )
        await gone(pool, *support.ids(41, 101))
        await put(pool, *(f"d{n}" for n in range(100)))

        await w.hand.drain()

        assert await w.hand.held() == {"remove": 60}
        assert len(w.acme.mailed()) == 100 - 5 + 100


async def test_contacts_that_exchange_their_addresses_are_changes_to_the_guard(pool: Pool) -> None:
    """2 and 8: rows that follow their addresses are counted, not taken for repeats."""
    async with world(pool, "remote id", Can.FIND, guard_floor=5, guard_percent=0) as w:
        await many(pool, 20)
        await w.hand.drain()
        await pool.execute(
            "update syncd.contact c set email = 'c' || (substr(c.id, 2)::int % 20 + 1) || '@x.test'"
        )
        await w.hand.plan()

        assert await w.hand.held() == {"change": 20}


# ── 4: the plan and rows in flight ──────────────────────────────────────────────────────────


async def test_a_change_back_while_the_change_is_in_flight_is_not_lost(pool: Pool) -> None:
    """4: the pass meets the row locked by the settlement of what the source said before."""
    async with world(pool) as w:
        await put(pool, "ann")
        await w.hand.drain()
        await rename(pool, "ann", "B")
        await w.hand.plan()
        claim = await w.hand.claim()
        pushed = await w.hand.send(claim)
        await rename(pool, "ann", "A")

        async with holding(pool, "select 1 from syncd.journal for update"):
            planning = asyncio.create_task(w.hand.plan())
            await blocked(pool)
            settling = asyncio.create_task(w.hand.journal.settle(claim, pushed.results))
            await blocked(pool, 2)
        await asyncio.gather(planning, settling)
        await w.hand.drain()

        assert w.acme.mailed() == {"ann@x.test": "A"}


async def test_a_row_claimed_between_the_plans_look_and_its_write_is_told_to_look_again(
    pool: Pool,
) -> None:
    """4, second form: the snapshot says 'due' and equal, the row is claimed meanwhile."""
    async with world(pool) as w:
        await put(pool, "ann")
        await w.hand.drain()
        await rename(pool, "ann", "B")
        await w.hand.plan()
        await pool.execute(WAITING)
        async with holding(pool, "select pg_advisory_xact_lock(7)"):
            await rename(pool, "ann", "A")  # equal to the mirror again
            planning = asyncio.create_task(w.hand.plan())
            await blocked(pool)
            claim = await w.hand.claim()
            # the claim saw A as well and dropped the row, or sends it: either way A is what stays
        await planning
        if claim.entries:
            await w.hand.carry(claim)
        await w.hand.drain()

        assert w.acme.mailed() == {"ann@x.test": "A"}


WAITING = """
create function public.wait() returns trigger language plpgsql as $$
begin
    perform pg_advisory_xact_lock(7);
    return null;
end $$;
create trigger wait before insert on syncd.journal
    for each statement execute function public.wait();
"""
"""A pass waits here, after its look and before its write, while somebody holds lock 7."""


async def test_a_pass_that_waited_for_another_reads_what_the_other_left(pool: Pool) -> None:
    """4: lock first, then look: the look's snapshot is younger than the previous pass."""
    async with world(pool) as w:
        await put(pool, "ann")
        await w.hand.drain()
        other = await w.another()
        async with holding(
            pool, "select 1 from syncd.feed where destination_id = $1 for no key update", w.hand.id
        ) as first:
            second = asyncio.create_task(other.plan())
            await blocked(pool)
            await rename(first, "ann", "B")
        await second

        assert (await second).planned == 1


# ── 11, 16: what is remembered of the refused and the gone ──────────────────────────────────


async def test_a_rejected_contact_is_tried_again_when_its_data_change_and_not_before(
    pool: Pool,
) -> None:
    """11: neither by every full pass nor never."""
    async with world(pool) as w:
        await put(pool, "ann")
        w.acme.refuses = {"ann": {"rejected": "bad name"}}
        await w.hand.drain()
        await w.hand.full()
        await w.hand.full()
        await w.hand.step()
        assert len(w.acme.writes) == 1
        assert (await w.hand.row("ann"))["last_error"] == "bad name"

        w.acme.refuses = {}
        await _unseen(pool, "update syncd.contact set first_name = 'B'")
        await w.hand.full()
        await w.hand.drain()

        assert w.acme.mailed() == {"ann@x.test": "B"}


async def test_a_refused_create_whose_contact_is_deleted_leaves_no_row(pool: Pool) -> None:
    """11: 'rejected' does not outlive the contact that neither side knows."""
    async with world(pool) as w:
        await put(pool, "ann")
        w.acme.refuses = {"ann": {"rejected": "bad name"}}
        await w.hand.drain()
        await gone(pool, "ann")
        await w.hand.drain()

        assert await w.hand.rows() == {}


@pytest.mark.parametrize("when_gone", ["withdraw", "delete", "keep"])
async def test_a_contact_that_is_gone_is_dealt_with_once(pool: Pool, when_gone: str) -> None:
    """16: neither pass finds it again, whatever is left of it in the mirror."""
    async with world(pool, "remote id", when_gone=when_gone) as w:
        await put(pool, "ann", "bob")
        await w.hand.drain()
        await gone(pool, "ann")
        await w.hand.drain()
        writes = len(w.acme.writes)
        await w.hand.full()
        await pool.execute(
            "insert into syncd.change (source, contact_id) values ('default', 'ann')"
        )
        await w.hand.drain()

        assert len(w.acme.writes) == writes
        assert ("ann@x.test" in w.acme.mailed()) == (when_gone == "keep")


async def test_a_withdrawn_contact_that_returns_finds_its_record(pool: Pool) -> None:
    """16: the remote id outlives the removal, so there is no second record."""
    async with world(pool, "remote id") as w:
        await put(pool, "ann")
        await w.hand.drain()
        await gone(pool, "ann")
        await w.hand.drain()
        assert w.acme.mailed() == {}
        await put(pool, "ann")
        await w.hand.drain()

        assert len(w.acme.records) == 1
        assert w.acme.mailed() == {"ann@x.test": "A"}


# ── 12: the feed's position ─────────────────────────────────────────────────────────────────


async def test_a_long_transaction_elsewhere_stalls_no_pass(pool: Pool) -> None:
    """12: an open write transaction holds pg_snapshot_xmin; changes after it are seen at once."""
    async with world(pool) as w, holding(pool, "create temporary table stranger (n int)"):
        await put(pool, "ann")
        await w.hand.plan()
        await put(pool, "bob")
        await w.hand.plan()

        assert sorted(await w.hand.rows()) == ["ann", "bob"]


async def test_a_transaction_that_commits_late_is_not_skipped(pool: Pool) -> None:
    """12: it began before the position and commits after it."""
    async with world(pool) as w:
        async with pool.acquire() as late, late.transaction():
            await put(late, "ann")
            await put(pool, "bob")
            await w.hand.plan()
            assert sorted(await w.hand.rows()) == ["bob"]
        await w.hand.plan()

        assert sorted(await w.hand.rows()) == ["ann", "bob"]
        assert not await w.hand.planner.anything_new()


# ── 17, 18: generations and lists ───────────────────────────────────────────────────────────


async def test_a_mapping_changed_while_a_create_is_in_flight_keeps_the_remote_id(
    pool: Pool,
) -> None:
    """17: the settlement writes what was learned; the new mapping only makes the row due."""
    async with world(pool, "remote id", Can.FIND) as w:
        await put(pool, "ann")
        await w.hand.plan()
        claim = await w.hand.claim()
        await pool.execute('update syncd.destination set fields = \'{"first": "last_name"}\'')
        newer = await w.another()
        await newer.full()
        await w.hand.carry(claim)
        await newer.drain()

        assert len(w.acme.records) == 1
        assert w.acme.mailed() == {"ann@x.test": None}


async def test_pausing_or_slowing_a_destination_changes_no_digest(pool: Pool) -> None:
    """17: the generation rises for what is sent, not for when."""
    async with world(pool) as w:
        before = w.hand.desired.generation
        await pool.execute(
            "update syncd.destination set paused = true, per_second = 1, schedule = '1h'"
        )
        assert (await w.another()).desired.generation == before
        await pool.execute("update syncd.destination set when_gone = 'delete'")
        assert (await w.another()).desired.generation != before


async def test_a_selected_list_that_is_gone_is_a_fault_and_removes_nobody(pool: Pool) -> None:
    """18: it would silently deselect everybody."""
    await pool.execute("insert into syncd.list (id, name) values ('l1', 'News')")
    async with world(pool, lists=["l1"]) as w:
        await pool.execute("update syncd.list set id = 'l2'")

        with pytest.raises(ConfigError, match="list 'l1' does not exist"):
            await w.another()


async def test_a_row_that_is_written_beside_a_pass_takes_up_what_it_found(pool: Pool) -> None:
    """4: two changes were to be journalled at once; somebody has just journalled one of them."""
    async with world(pool) as w:
        await put(pool, "c1", "c2")
        await w.hand.drain()
        await pool.execute(ALL)
        beside = (
            "insert into syncd.journal (destination_id, contact_id, wish, lane, state, last_error)"
            f" values ({w.hand.id}, 'c2', 'upsert', 1, 'rejected', 'as it was')"
        )
        async with holding(pool, beside):
            planning = asyncio.create_task(w.hand.plan())
            await blocked(pool)
        assert (await planning).planned == 2
        assert {key: row["state"] for key, row in (await w.hand.rows()).items()} == {
            "c1": "due", "c2": "due"
        }  # fmt: skip


# ── 19: locks ───────────────────────────────────────────────────────────────────────────────


async def test_a_pass_locks_no_control_row(pool: Pool) -> None:
    """19: an operator's `pause` does not wait behind it, nor a settlement deadlock with it."""
    async with world(pool) as w:
        await put(pool, "ann")
        await w.hand.plan()
        await rename(pool, "ann", "B")
        async with holding(pool, "select 1 from syncd.journal for update"):
            planning = asyncio.create_task(w.hand.plan())
            await blocked(pool)
            async with pool.acquire() as connection, connection.transaction():
                await connection.execute("set local lock_timeout = '1s'")
                await connection.execute("update syncd.destination set paused = true")
        await planning


async def test_hot_tables_have_no_foreign_keys(pool: Pool) -> None:
    """19: the check of one locks the control row."""
    found = await pool.fetch(
        "select conrelid::regclass::text from pg_constraint where contype = 'f'"
        " and conrelid = any(array['syncd.journal', 'syncd.mirror', 'syncd.change', 'syncd.intent',"
        " 'syncd.tally', 'syncd.sharer']::regclass[])"
    )
    assert found == []


async def test_a_pass_writes_in_the_order_of_the_key(pool: Pool) -> None:
    """19: it waits at the first row and holds none behind it."""
    async with world(pool) as w:
        await put(pool, *"zyxwvutsrqponmlkjihgfedcba")
        await w.hand.plan()
        await pool.execute("update syncd.contact set first_name = 'B'")
        async with holding(pool, "select 1 from syncd.journal where contact_id = 'c' for update"):
            planning = asyncio.create_task(w.hand.plan())
            await blocked(pool)
            free = await pool.fetch("select contact_id from syncd.journal for update skip locked")
        await planning

        assert sorted(row["contact_id"] for row in free) == list("defghijklmnopqrstuvwxyz")


async def test_a_deadlock_is_tried_again_once(pool: Pool) -> None:
    """19: and then it is an error."""
    deaths = 0

    async def work(connection: db.Connection) -> str:
        nonlocal deaths
        await connection.execute("select 1")
        if deaths:
            deaths -= 1
            raise asyncpg.DeadlockDetectedError("deadlock detected")
        return "done"

    deaths = 1
    assert await db.transact(pool, work) == "done"
    deaths = 2
    with pytest.raises(asyncpg.DeadlockDetectedError):
        await db.transact(pool, work)


# ── 20, 21: keys ────────────────────────────────────────────────────────────────────────────

NUMBERED = """
create schema shop;
create table shop.contact (id bigint primary key, email text, first_name text);
create table shop.list (id int primary key, name text);
create table shop.membership (list_id int, contact_id bigint, primary key (list_id, contact_id));
insert into syncd.source values ('shop', 'shop.contact', 'shop.list', 'shop.membership');
select syncd.watch('shop.contact', 'id', 'shop');
"""


async def test_integer_keys_are_swept_in_their_own_order_and_the_gone_are_found(pool: Pool) -> None:
    """20: '10' < '9' as text; an id that is no number cannot be there."""
    await pool.execute(NUMBERED)
    async with world(pool, source="shop", guard_floor=1000) as w:
        await pool.execute(
            "insert into shop.contact select n, n || '@x.test', 'A' from generate_series(1, 120) n"
        )
        await w.hand.full(direct=True, window=7)
        assert len(w.acme.mailed()) == 120
        await pool.execute("delete from shop.contact where id in (9, 10, 100)")
        await pool.execute("update syncd.mirror set contact_id = 'x-ray' where contact_id = '50'")
        await pool.execute("delete from syncd.change")
        await w.hand.full(window=7)

        removals = await w.hand.rows()
        assert sorted(i for i, row in removals.items() if row["wish"] == "remove") == [
            "10", "100", "9", "x-ray",
        ]  # fmt: skip


@pytest.mark.parametrize("number", [2**63 - 1, -(2**63), 10**18, 1_234_567_890_123_456_789])
async def test_integer_keys_of_nineteen_digits_are_keys(pool: Pool, number: int) -> None:
    """20: the ids of some systems are as long as a bigint can be."""
    await pool.execute(NUMBERED)
    async with world(pool, source="shop") as w:
        await pool.execute("insert into shop.contact values ($1, 'ann@x.test', 'A')", number)
        await w.hand.drain()
        await w.hand.full()

        assert w.acme.mailed() == {"ann@x.test": "A"}
        assert await w.hand.rows() == {}


@pytest.mark.parametrize("text", ["9223372036854775808", "-9223372036854775809", "01", "", "1 "])
async def test_what_no_bigint_prints_is_no_key(pool: Pool, text: str) -> None:
    """20: it counts as gone, and no cast fails."""
    assert not await pool.fetchval("select $1::text ~ $2::text", text, PATTERNS["bigint"])


async def test_an_id_that_occurs_twice_fails_no_pass(pool: Pool) -> None:
    """21: the contact is skipped and named; the others go on."""
    await pool.execute(
        "create view syncd.twice as select * from syncd.contact"
        " union all select * from syncd.contact where id = 'ann';"
        "update syncd.source set contact = 'syncd.twice'"
    )
    async with world(pool) as w:
        await put(pool, "ann", "bob")
        await w.hand.drain()
        await w.hand.full()

        assert w.acme.mailed() == {"bob@x.test": "A"}
        assert "occurs more than once" in (await w.hand.row("ann"))["last_error"]


# ── 22: lanes ───────────────────────────────────────────────────────────────────────────────


async def test_no_lane_starves_behind_another(pool: Pool) -> None:
    """22: each lane that is not empty gets an eighth of every claim, the most urgent the rest."""
    async with world(pool) as w:
        for lane in range(4):
            await pool.execute(
                "insert into syncd.journal (destination_id, contact_id, wish, lane, state)"
                " select $1, $2::int || '-' || n, 'upsert', $2, 'due'"
                "   from generate_series(1, 200) n",
                w.hand.id, lane,
            )  # fmt: skip
        taken = await pool.fetch(sql.journal.claim, w.hand.id, 80, w.hand.worker.id)

        lanes = [row["lane"] for row in taken]
        assert [lanes.count(lane) for lane in range(4)] == [50, 10, 10, 10]


async def test_a_fresh_change_neither_delays_an_opt_out_nor_ends_a_backoff(pool: Pool) -> None:
    """22: on conflict the lower lane, the older planned_at, and a backoff's due_at stay."""
    async with world(pool) as w:
        await put(pool, "ann")
        await w.hand.drain()
        await pool.execute("update syncd.contact set subscribed = false")
        await w.hand.plan()
        await pool.execute(
            "update syncd.journal set due_at = now() + interval '1 h',"
            " planned_at = now() - interval '1 h'"
        )
        before = await w.hand.row("ann")
        await pool.execute("update syncd.contact set subscribed = true, first_name = 'B'")
        await w.hand.plan()

        after = await w.hand.row("ann")
        assert {n: after[n] for n in ("lane", "due_at", "planned_at")} == {
            "lane": 0, "due_at": before["due_at"], "planned_at": before["planned_at"],
        }  # fmt: skip


# ── 23, 26: full passes ─────────────────────────────────────────────────────────────────────


async def test_a_full_pass_waits_for_no_row_in_flight_and_tells_it_to_look_again(
    pool: Pool,
) -> None:
    """23: the row differs from what was sent; its request hangs."""
    async with world(pool) as w:
        await put(pool, "ann", "bob")
        await w.hand.drain()
        await rename(pool, "ann", "B")
        await w.hand.plan()
        w.acme.before.clear()
        sending = asyncio.create_task(w.hand.carry(await w.hand.claim()))
        await w.acme.arrival(2)
        await _unseen(pool, "update syncd.contact set first_name = 'C' where id = 'ann'")

        counts = await asyncio.wait_for(w.hand.full(), 60)

        assert counts.looked_at == 2
        assert (await w.hand.row("ann"))["again"]
        w.acme.before.set()
        await sending
        await w.hand.drain()
        assert w.acme.mailed()["ann@x.test"] == "C"


async def test_a_pass_that_meets_too_many_keys_drops_them_and_owes_a_full_one(pool: Pool) -> None:
    """26: its position moves all the same."""
    async with world(pool) as w:
        await support.set_bounds(w.hand, 20)
        await many(pool, 21)
        passed = await w.hand.plan()

        assert passed.owes_full
        assert await w.hand.rows() == {}
        await w.hand.full(direct=True)
        assert len(w.acme.mailed()) == 21
        assert not await w.hand.planner.anything_new()


async def test_a_change_during_a_new_destinations_full_pass_is_not_lost(pool: Pool) -> None:
    """26: its position is on disk before the first window is read."""
    async with world(pool) as w:
        await pool.execute("update syncd.feed set position = null, owes_full = true")
        await many(pool, 20)
        w.acme.after.clear()
        full = asyncio.create_task(w.hand.full(direct=True, window=10))
        await w.acme.arrival(2)
        await rename(pool, "c00001", "B")
        w.acme.after.set()
        await full
        await w.hand.drain()

        assert w.acme.mailed()["c1@x.test"] == "B"


# ── 28, 29 ──────────────────────────────────────────────────────────────────────────────────


async def test_after_a_failover_everything_in_flight_is_doubtful_and_a_full_pass_is_owed(
    pool: Pool,
) -> None:
    """28: also where the stored position lies in the future, of another cluster."""
    async with world(pool, "remote id", Can.FIND) as w:
        await put(pool, "ann")
        await w.hand.plan()
        await w.hand.send(await w.hand.claim())  # made there; the acknowledgement is lost
        await pool.execute("update syncd.feed set position = '900000000:900000000:'")
        await pool.execute(
            "insert into syncd.change (source, contact_id, xid)"
            " values ('default', 'ann', '900000000')"
        )
        [feed] = await pool.fetch(sql.app.feeds)
        assert feed["ahead"]
        await pool.execute(sql.plan.doubt_everything, w.hand.id)
        assert (await w.hand.plan()).owes_full
        await w.hand.full()
        await w.hand.drain()

        assert len(w.acme.records) == 1
        assert len(await w.hand.mirror()) == 1
        assert (await w.hand.plan()).keys == 0  # nor is a change of another cluster new for ever


async def test_approving_a_plan_that_has_grown_says_so(pool: Pool) -> None:
    """29: a pass over a held destination adds to the held plan: the same id, a new count."""
    async with world(pool, guard_floor=2, guard_percent=0) as w:
        await many(pool, 20)
        await w.hand.drain()
        await gone(pool, *support.ids(1, 6))
        await w.hand.plan()
        [before] = await control.held_plans(pool)
        await gone(pool, *support.ids(6, 9))
        await w.hand.plan()
        [after] = await control.held_plans(pool)

        assert (before.id, before.rows, after.id, after.rows) == (before.id, 5, before.id, 8)
        with pytest.raises(ConfigError, match="has grown: it now has 8 rows, not 5"):
            await control.approve(pool, before.id, 5, "test")
        assert await control.approve(pool, after.id, 8, "test") == 8
        await w.hand.drain()
        assert len(w.acme.mailed()) == 12


async def test_a_held_row_whose_contact_came_back_is_not_sent_when_the_plan_is_approved(
    pool: Pool,
) -> None:
    """29 and 1: the claim reads what is true then."""
    async with world(pool, guard_floor=2, guard_percent=0) as w:
        await many(pool, 20)
        await w.hand.drain()
        await gone(pool, *support.ids(1, 6))
        await w.hand.plan()
        [plan] = await control.held_plans(pool)
        await _unseen(
            pool,
            "insert into syncd.contact (id, email, first_name)"
            " select 'c0000' || n, 'c' || n || '@x.test', 'A'"
            " from generate_series(1, 5) n",
        )
        await control.approve(pool, plan.id, 5, "test")
        await w.hand.drain()

        assert len(w.acme.mailed()) == 20
        assert await w.hand.rows() == {}


async def test_a_discarded_plan_is_asked_again_by_the_next_full_pass(pool: Pool) -> None:
    """29: nothing of it is sent, nothing of it is forgotten."""
    async with world(pool, guard_floor=2, guard_percent=0) as w:
        await many(pool, 20)
        await w.hand.drain()
        await gone(pool, *support.ids(1, 6))
        await w.hand.plan()
        [plan] = await control.held_plans(pool)
        await control.discard(pool, plan.id, "test")
        assert await w.hand.rows() == {}
        await w.hand.full()

        assert await w.hand.held() == {"remove": 5}


async def test_a_removal_once_approved_is_not_held_again_by_a_later_pass(pool: Pool) -> None:
    """29: it is due and waits for its turn while a full pass looks at it."""
    async with world(pool, guard_floor=2, guard_percent=0) as w:
        await many(pool, 20)
        await w.hand.drain()
        await gone(pool, *support.ids(1, 6))
        await w.hand.plan()
        [plan] = await control.held_plans(pool)
        await control.approve(pool, plan.id, 5, "test")
        await w.hand.full()

        assert await w.hand.held() == {}
        await w.hand.drain()
        assert len(w.acme.mailed()) == 15


async def test_a_contact_deleted_and_back_under_another_address_is_removed_and_made_anew(
    pool: Pool,
) -> None:
    """29: the id is another person's now; their record is not handed over."""
    async with world(pool, "remote id", Can.FIND, when_gone="delete") as w:
        await put(pool, "ann=old@x.test")
        await w.hand.drain()
        [before] = w.acme.records
        async with pool.acquire() as connection, connection.transaction():
            await gone(connection, "ann")
            await put(connection, "ann=new@x.test", first="N")
        await w.hand.drain()

        assert w.acme.mailed() == {"new@x.test": "N"}
        assert before not in w.acme.records


async def test_a_pass_that_empties_a_held_plan_does_not_hold_whom_it_brings_besides(
    pool: Pool,
) -> None:
    """29: those who return and the one who goes are planned together; the guard lets one pass."""
    async with world(pool, guard_floor=2, guard_percent=0) as w:
        await _held_opt_outs(w, 5)
        async with pool.acquire() as connection, connection.transaction():
            await connection.execute("update syncd.contact set subscribed = true")
            await connection.execute(f"{SILENCE} where id = 'c00009'")
        await w.hand.drain()

        assert await w.hand.held() == {}
        assert await w.hand.rows() == {}
        assert not (await w.hand.mirror())["c00009"]["subscribed"]
        assert await pool.fetchval("select count(*) from syncd.plan where state = 'held'") == 0


async def test_a_full_pass_judges_anew_whom_an_emptied_plan_would_have_held(pool: Pool) -> None:
    """29: the triggers saw neither; what the plan holds has returned in an earlier window."""
    async with world(pool, guard_floor=2, guard_percent=0) as w:
        await _held_opt_outs(w, 5)
        await _unseen(pool, "update syncd.contact set subscribed = id <> 'c00009'")
        await w.hand.full()
        await w.hand.drain()

        assert await w.hand.held() == {}
        assert not (await w.hand.mirror())["c00009"]["subscribed"]


async def test_a_held_plan_stays_while_one_row_does(pool: Pool) -> None:
    """29: four of five return, and one more goes: it waits with the fifth, under the same id."""
    async with world(pool, guard_floor=2, guard_percent=0) as w:
        await _held_opt_outs(w, 5)
        [before] = await control.held_plans(pool)
        async with pool.acquire() as connection, connection.transaction():
            await connection.execute("update syncd.contact set subscribed = id = 'c00009'")
            await connection.execute("update syncd.contact set subscribed = id <> 'c00005'")
            await connection.execute(f"{SILENCE} where id = 'c00009'")
        await w.hand.plan()
        [after] = await control.held_plans(pool)

        assert (after.id, after.rows) == (before.id, 2)
        assert set(await w.hand.rows()) >= {"c00005", "c00009"}
        with pytest.raises(ConfigError, match="has shrunk: it now has 2 rows, not 5"):
            await control.approve(pool, before.id, 5, "test")


async def test_a_plan_whose_one_row_is_in_flight_does_not_end(pool: Pool) -> None:
    """29 and 1: it comes back as held; ended meanwhile, nobody could decide about it ever."""
    async with world(pool, guard_floor=0, guard_percent=0) as w:
        await many(pool, 2)
        await w.hand.drain()
        await pool.execute("update syncd.contact set first_name = 'B' where id = 'c00001'")
        await w.hand.plan()
        [plan] = await control.held_plans(pool)
        await control.approve(pool, plan.id, 1, "test")
        assert (await w.hand.claim()).entries
        await gone(pool, "c00001")
        await w.hand.plan()  # the plan to remove it has no row but the one in flight
        assert await w.hand.held() == {}
        await gone(pool, "c00002")
        await w.hand.plan()
        await w.hand.die()

        assert await w.hand.held() == {"remove": 2}


async def test_a_plan_that_is_approved_as_a_pass_empties_it_is_decided_once(pool: Pool) -> None:
    """29: a person and a pass come upon it at the same moment; both take the feed's lock."""
    async with world(pool, guard_floor=2, guard_percent=0) as w:
        await _held_opt_outs(w, 5)
        [plan] = await control.held_plans(pool)
        await pool.execute("update syncd.contact set subscribed = true")
        async with holding(pool, "select * from syncd.feed for update"):
            passing = asyncio.create_task(w.hand.plan())
            await blocked(pool, 1)
            deciding = asyncio.create_task(control.approve(pool, plan.id, 5, "test"))
            await blocked(pool, 2)
        _, decided = await asyncio.gather(passing, deciding, return_exceptions=True)
        await w.hand.drain()

        assert decided == 5 or "is not held (any more)" in str(decided)
        assert await w.hand.rows() == {}
        assert len(w.acme.mailed()) == 10
        [state] = await pool.fetch("select state, decided_by from syncd.plan")
        assert state["state"] in ("discarded", "approved")


# ── Parts ───────────────────────────────────────────────────────────────────────────────────


async def _held_opt_outs(w: World, n: int) -> None:
    """Ten contacts, in step; that *n* of them are to be silenced waits for a person."""
    await many(w.pool, 10)
    await w.hand.drain()
    await w.pool.execute(f"{SILENCE} where id <= $1", f"c{n:05d}")
    await w.hand.plan()
    assert await w.hand.held() == {"opt_out": n}


async def _unseen(pool: Pool, statement: str) -> None:
    """Change the source so that no trigger sees it."""
    async with pool.acquire() as connection, connection.transaction():
        await connection.execute("set local session_replication_role = replica")
        await connection.execute(statement)


def test_a_statement_named_twice_is_refused() -> None:
    with pytest.raises(ValueError, match="each once"):
        parse("-- name: one\nselect 1;\n-- name: one\nselect 2;\n", "x.sql")


@pytest.mark.parametrize("full", [False, True])
async def test_whoever_is_gone_is_removed_though_what_is_there_is_not_known(
    pool: Pool, full: bool
) -> None:
    """6, 16: no digest in the mirror, none in the source: that is no sameness."""
    async with world(pool) as w:
        await put(pool, "ann", "bob")
        await w.hand.drain()
        await pool.execute("update syncd.mirror set digest = null where contact_id = 'ann'")
        await gone(pool, "ann")
        if full:
            await pool.execute("delete from syncd.change")
            await w.hand.full()
            await control.release_decided(pool)
        await w.hand.drain()

        assert w.acme.mailed() == {"bob@x.test": "A"}


async def test_what_a_pass_notes_itself_is_read_though_a_later_transaction_has_committed(
    pool: Pool,
) -> None:
    """12: a snapshot does not name its own transaction; what that wrote is not read by it."""
    async with world(pool) as w:
        async with pool.acquire() as connection, connection.transaction():
            await connection.fetchrow(sql.plan.lock_feed, w.hand.id)
            await put(pool, "ann")  # by another connection, which has the later number
            new = await connection.fetchrow(sql.plan.read_change, "default", 10, w.hand.id)
            assert new is not None
            assert new["contacts"] == ["ann"]
            await connection.execute(sql.plan.note_changes, "default", ["bob"])

        assert await w.hand.planner.anything_new()
        assert (await w.hand.plan()).keys == 1
        assert not await w.hand.planner.anything_new()
