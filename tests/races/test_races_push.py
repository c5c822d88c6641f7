"""Claims, settlements, doubt, leases: races 3, 5-7, 10, 13, 17, 19, 24, 25, section C (F)."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from support import Hand, World, blocked, gone, holding, many, put, rename, world

from syncd import sql
from syncd.db import Pool
from syncd.errors import Fenced
from syncd.model import Applied, Can, Key
from syncd.orphans import reap
from syncd.outcomes import settled

FIND = Can.FIND
REMOTE: Key = "remote id"


async def taken_over(w: World, other: Hand) -> None:
    """The first worker dies; *other* looks after what it left."""
    await w.hand.die()
    await other.hurry()


STOPPED = """
import asyncio, os, signal, sys, asyncpg

async def main(url, host):
    name = f"syncd {os.getpid()}@{host}"
    connection = await asyncpg.connect(url, server_settings={"application_name": name})
    await connection.execute(
        "begin; set local idle_in_transaction_session_timeout = '1s';"
        " select from syncd.feed for update"
    )
    asyncio.get_running_loop().call_soon(os.kill, os.getpid(), signal.SIGSTOP)
    await connection.execute("select repeat('x', 1000000) from generate_series(1, 10)")

asyncio.run(main(*sys.argv[1:]))
"""
HOST = "elsewhere"


@asynccontextmanager
async def stopped_while_it_reads(pool: Pool, url: str) -> AsyncIterator[int]:
    """The pid of a process that stands still in a transaction, with the feeds locked and more to
    read than fits on the way; its lease has run out."""
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", STOPPED, url, HOST)
    await pool.execute(
        "insert into syncd.worker (host, pid, version, alive_until) values ($1, $2, '1', now())",
        HOST, process.pid,
    )  # fmt: skip
    try:
        while not await pool.fetchval(
            "select true from pg_stat_activity"
            " where datname = current_database() and wait_event = 'ClientWrite'"
        ):
            await asyncio.sleep(0.05)
        await pool.execute("update syncd.worker set alive_until = now() where host = $1", HOST)
        yield process.pid
    finally:
        process.kill()
        await process.wait()


# ── 3: the fence of a settlement ────────────────────────────────────────────────────────────


async def test_a_slow_workers_settlement_does_not_touch_the_row_born_again(pool: Pool) -> None:
    """3: A stalls; taken over, applied, gone; the contact changes: a new row, attempts 1 again."""
    async with world(pool) as w:
        other = await w.another()
        await put(pool, "ann")
        await w.hand.plan()
        slow = await w.hand.claim()
        pushed = await w.hand.send(slow)
        await taken_over(w, other)
        await other.drain()
        await rename(pool, "ann", "C")
        await other.plan()
        newer = await other.claim()

        lost = await w.hand.journal.settle(slow, pushed.results)

        assert list(lost) == ["ann"]
        row = await w.hand.row("ann")
        assert (row["state"], row["claim"], row["again"]) == ("sent", newer.number, True)
        await other.carry(newer)
        await other.drain()
        assert w.acme.mailed() == {"ann@x.test": "C"}
        assert (await w.hand.mirror())["ann"]["fields"] == '{"first": "C"}'


async def test_a_claim_number_is_never_used_twice(pool: Pool) -> None:
    """3: attempts that are given back open no hole."""
    async with world(pool) as w:
        await put(pool, "ann")
        await w.hand.plan()
        w.acme.always = 429
        numbers = [(await w.hand.step()).number for _ in range(5)]
        assert len(set(numbers)) == 5
        assert (await w.hand.row("ann"))["attempts"] == 0


# ── 5: a claim reads what is newer than its lock ────────────────────────────────────────────

STALL = """
create function public.stall() returns trigger language plpgsql as $$
begin
    perform pg_advisory_xact_lock_shared(5);
    return new;
end $$;
create trigger stall before update on syncd.journal for each row
    when (new.state = 'sent') execute function public.stall();
"""


async def test_a_claim_sees_what_was_settled_while_it_waited(pool: Pool) -> None:
    """5: remote id and data of the contact are younger than the claim's first statement."""
    async with world(pool, REMOTE, FIND) as w:
        await put(pool, "ann")
        await w.hand.plan()
        await pool.execute(STALL)
        async with holding(pool, "select pg_advisory_xact_lock(5)") as other:
            claiming = asyncio.create_task(w.hand.claim())
            await blocked(pool)
            await rename(other, "ann", "C")
            await other.execute(
                "insert into syncd.mirror (destination_id, contact_id, email, subscribed, state,"
                " remote) values ($1, 'ann', 'ann@x.test', true, 'here', '{\"id\": \"77\"}')",
                w.hand.id,
            )
        [entry] = (await claiming).entries

        assert entry.change.remote == {"id": "77"}
        assert not entry.change.may_create
        assert entry.change.want is not None
        assert entry.change.want.fields == {"first": "C"}


# ── 6: doubt ────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("can", [Can.REPEAT, FIND, Can.REPEAT | FIND])
async def test_a_change_back_after_a_lost_answer_is_sent(pool: Pool, can: Can) -> None:
    """6: the mirror says A, and so does the source, but the provider may hold B."""
    async with world(pool, can=can) as w:
        await put(pool, "ann")
        await w.hand.drain()
        await rename(pool, "ann", "B")
        await w.hand.plan()
        w.acme.faults.append("lost")
        await w.hand.step()
        await rename(pool, "ann", "A")
        assert (await w.hand.mirror())["ann"]["digest"] is None
        await w.hand.drain()

        assert w.acme.mailed() == {"ann@x.test": "A"}


async def test_whoever_is_gone_after_a_create_without_an_answer_is_looked_up_and_removed(
    pool: Pool,
) -> None:
    """6: neither desired nor mirror knows the contact, and yet it may be mailed."""
    async with world(pool, REMOTE, FIND) as w:
        await put(pool, "ann", "bob")
        await w.hand.plan()
        w.acme.faults.append("lost")
        await w.hand.step()
        await gone(pool, "ann", "bob")
        await w.hand.drain()

        assert w.acme.mailed() == {}
        assert await w.hand.rows() == {}


async def test_doubt_of_what_nothing_can_look_up_is_left_to_a_person(pool: Pool) -> None:
    """6: neither repeatable, nor found, nor scanned: a second record is not risked."""
    async with world(pool, REMOTE, Can.NOTHING) as w:
        await put(pool, "ann")
        await w.hand.plan()
        w.acme.faults.append("lost")
        await w.hand.step()
        await w.hand.step()

        row = await w.hand.row("ann")
        assert (row["state"], row["last_error"]) == ("rejected", "outcome unknown: look there")
        assert len(w.acme.records) == 1


async def test_doubt_waits_for_a_scan_where_only_a_scan_can_tell(pool: Pool) -> None:
    """6: nothing is sent, and the scan is asked for."""
    async with world(pool, REMOTE, Can.SCAN) as w:
        await put(pool, "ann")
        await w.hand.plan()
        w.acme.faults.append("lost")
        await w.hand.step()
        await w.hand.hurry()
        pushed = await w.hand.send(await w.hand.claim())

        assert pushed.scans
        assert [one.state for one in pushed.results] == ["due"]
        assert pushed.results[0].doubtful
        assert len(w.acme.writes) == 1


async def test_a_remote_id_found_in_doubt_outlives_the_refusal_that_follows(pool: Pool) -> None:
    """6, the fuzz's: create unanswered, bad data refused, data mended: not a second contact."""
    async with world(pool, REMOTE, FIND) as w:
        await put(pool, "ann")
        await w.hand.plan()
        w.acme.faults.append("lost")
        await w.hand.step()
        await rename(pool, "ann", "bad")
        w.acme.refuses = {"ann": {"rejected": "bad"}}
        await w.hand.drain()
        assert (await w.hand.mirror())["ann"]["remote"] == '{"id": "r1"}'
        w.acme.refuses = {}
        await rename(pool, "ann", "C")
        await w.hand.drain()

        assert len(w.acme.records) == 1
        assert w.acme.mailed() == {"ann@x.test": "C"}


async def test_fields_that_a_lost_create_has_filled_are_known_to_be_there(pool: Pool) -> None:
    """6: created without an answer, gone, found and withdrawn; who comes back has fewer fields."""
    fields = '{"first": "first_name", "town": "city"}'
    async with world(pool, REMOTE, FIND, fields=fields) as w:
        await put(pool, "ann")
        await pool.execute("update syncd.contact set city = 'Rome'")
        await w.hand.plan()
        w.acme.faults.append("lost")
        await w.hand.step()
        await gone(pool, "ann")
        await w.hand.drain()
        assert (await w.hand.mirror())["ann"]["state"] == "withdrawn"
        await put(pool, "ann")
        await w.hand.plan()
        claim = await w.hand.claim()

        was = claim.entries[0].change.was
        assert was is not None
        assert was.fields == {"first": "", "town": ""}, "an adapter clears what is not wanted"
        await w.hand.carry(claim)


async def test_a_removal_without_an_answer_is_repeated_though_it_is_planned_anew(
    pool: Pool,
) -> None:
    """6: doubt about a record that the mirror calls withdrawn ends too."""
    async with world(pool, REMOTE, FIND) as w:
        await put(pool, "ann")
        await w.hand.drain()
        await gone(pool, "ann")
        await w.hand.plan()
        w.acme.faults.append("cut")
        await w.hand.step()
        await pool.execute(
            "insert into syncd.change (source, contact_id) values ('default', 'ann')"
        )
        await w.hand.drain()

        assert w.acme.mailed() == {}
        assert await w.hand.rows() == {}


# ── 7: the slow worker at the provider ──────────────────────────────────────────────────────


async def test_a_refused_settlement_makes_the_contact_due_and_doubtful_again(pool: Pool) -> None:
    """7: A's request may have come last; its worker finds the row gone."""
    async with world(pool) as w:
        other = await w.another()
        await put(pool, "ann")
        await w.hand.plan()
        slow = await w.hand.claim()
        await taken_over(w, other)
        await rename(pool, "ann", "B")
        await other.drain()
        await w.hand.carry(slow)  # A arrives last, and is acknowledged
        assert w.acme.mailed() == {"ann@x.test": "A"}

        row = await w.hand.row("ann")
        assert (row["state"], row["doubtful"]) == ("due", True)
        assert (await w.hand.mirror())["ann"]["digest"] is None
        await other.drain()
        assert w.acme.mailed() == {"ann@x.test": "B"}


async def test_a_refused_settlement_is_news_to_a_successor_in_flight_too(pool: Pool) -> None:
    """7: B is in flight when A's settlement is refused; B's own does not end the doubt."""
    async with world(pool) as w:
        other = await w.another()
        await put(pool, "ann")
        await w.hand.plan()
        slow = await w.hand.claim()
        await taken_over(w, other)
        await rename(pool, "ann", "B")
        await other.plan()
        newer = await other.claim()
        pushed = await other.send(newer)
        await w.hand.carry(slow)
        await other.journal.settle(newer, pushed.results)
        assert w.acme.mailed() == {"ann@x.test": "A"}
        await other.drain()

        assert w.acme.mailed() == {"ann@x.test": "B"}


async def test_a_refused_settlement_frees_nothing_that_a_plan_holds(pool: Pool) -> None:
    """7 and 1: the contact is gone meanwhile, and its removal waits for a person."""
    async with world(pool, guard_floor=0, guard_percent=0) as w:
        other = await w.another()
        await put(pool, "ann")
        await w.hand.drain()
        await pool.execute("update syncd.mirror set digest = null")
        await rename(pool, "ann", "B")
        await w.hand.plan()
        slow = await w.hand.claim()
        await taken_over(w, other)
        await gone(pool, "ann")
        await other.plan()
        assert await other.held() == {"remove": 1}
        await w.hand.carry(slow)

        assert await other.held() == {"remove": 1}
        assert (await other.row("ann"))["doubtful"]


async def test_a_lost_create_is_not_made_twice(pool: Pool) -> None:
    """7 and 17: the refused settlement of a create keeps its remote id."""
    async with world(pool, REMOTE, FIND) as w:
        other = await w.another()
        await put(pool, "ann")
        await w.hand.plan()
        slow = await w.hand.claim()
        pushed = await w.hand.send(slow)
        await taken_over(w, other)
        await gone(pool, "ann")
        await other.plan()
        await pool.execute("delete from syncd.journal")  # as if it had found nothing there
        await w.hand.journal.settle(slow, pushed.results)
        await other.drain()

        assert w.acme.mailed() == {}
        assert len(w.acme.records) == 1


async def test_a_worker_sends_nothing_that_its_lease_might_not_outlive(pool: Pool) -> None:
    """7: elapsed since the heartbeat plus the request's timeout must be under the lease."""
    seconds = 0.0
    async with world(pool) as w:
        hand = await w.another(worker=await w.worker(lease=60.0, now=lambda: seconds))
        await put(pool, "ann")
        await hand.plan()
        seconds = 54.9
        hand.worker.fence()
        seconds = 55.0
        with pytest.raises(Fenced):
            hand.worker.fence()
        await hand.carry(await hand.claim())

        assert w.acme.writes == []
        row = await hand.row("ann")
        assert (row["state"], row["doubtful"]) == ("due", True)


# ── 10: `again` wins ────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "answer", [{"rejected": "bad"}, {"opted_out": "unsubscribed"}, {"gone": True}, {"ok": "r1"}]
)
async def test_data_mended_while_the_answer_is_under_way_are_sent_whatever_it_says(
    pool: Pool, answer: dict[str, object]
) -> None:
    """10: the feed has been read already; only the row can tell."""
    async with world(pool) as w:
        await put(pool, "ann")
        await w.hand.plan()
        w.acme.refuses = {"ann": answer}
        claim = await w.hand.claim()
        pushed = await w.hand.send(claim)
        await rename(pool, "ann", "B")
        await w.hand.plan()
        await w.hand.journal.settle(claim, pushed.results)

        assert (await w.hand.row("ann"))["state"] == "due"


async def test_data_mended_while_a_window_is_in_flight_are_sent_though_it_was_refused(
    pool: Pool,
) -> None:
    """10 and F: the keyed pass's row is younger than the window."""
    async with world(pool) as w:
        await put(pool, "ann", "bob")
        w.acme.refuses = {"ann": {"rejected": "bad"}}
        w.acme.after.clear()
        full = asyncio.create_task(w.hand.full(direct=True))
        await w.acme.arrival(1)
        w.acme.refuses = {}
        await rename(pool, "ann", "B")
        await w.hand.plan()
        w.acme.after.set()
        await full
        assert (await w.hand.row("ann"))["state"] == "due"
        await w.hand.drain()

        assert w.acme.mailed() == {"ann@x.test": "B", "bob@x.test": "A"}


# ── 13: erasure ─────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("by", ["contact_id", "email"])
async def test_an_erasure_ends_a_contact_for_every_pass_from_that_moment(
    pool: Pool, by: str
) -> None:
    """13: the source row is still there; the verb is ERASE and no pass creates it again."""
    async with world(pool, REMOTE, FIND | Can.ERASE, guard_floor=0, guard_percent=0) as w:
        await put(pool, "ann", "bob")
        await w.hand.drain()
        value = "ann" if by == "contact_id" else " Ann@X.test "
        await pool.execute(f"insert into syncd.erasure ({by}) values ($1)", value)
        await w.hand.drain()
        await rename(pool, "ann", "B")
        await w.hand.drain()
        await w.hand.full(direct=True)
        await w.hand.drain()

        assert [one.verb for one in w.acme.writes if one.contact_id == "ann"] == ["put", "erase"]
        assert w.acme.mailed() == {"bob@x.test": "A"}


@pytest.mark.parametrize("by", ["contact_id", "email"])
@pytest.mark.parametrize("window", [False, True])
async def test_an_erasure_finds_a_contact_that_is_just_being_created(
    pool: Pool, by: str, window: bool
) -> None:
    """13: no mirror knows of it; it waits for the row in flight, and takes what that made."""
    async with world(pool, REMOTE, FIND | Can.ERASE) as w:
        await put(pool, "ann", "bob")
        w.acme.after.clear()
        if window:
            sending = asyncio.create_task(_full(w.hand))
        else:
            await w.hand.plan()
            sending = asyncio.create_task(_carry(w.hand))
        await w.acme.arrival(1)
        await pool.execute("delete from syncd.change")  # no other reason to look at them
        value = "ann" if by == "contact_id" else "ann@x.test"
        await pool.execute(f"insert into syncd.erasure ({by}) values ($1)", value)
        await w.hand.plan()
        w.acme.after.set()
        await sending
        await w.hand.drain()

        assert w.acme.mailed() == {"bob@x.test": "A"}
        assert not w.acme.of("ann")


# ── 17: knowledge is kept ───────────────────────────────────────────────────────────────────


async def test_an_outcome_without_a_remote_id_keeps_the_one_that_is_known(pool: Pool) -> None:
    """17: an adapter need not repeat itself."""
    async with world(pool, REMOTE, FIND) as w:
        await put(pool, "ann")
        await w.hand.drain()
        await rename(pool, "ann", "B")
        await w.hand.plan()
        claim = await w.hand.claim()
        await w.hand.journal.settle(claim, [settled(claim.entries[0], Applied())])

        assert (await w.hand.mirror())["ann"]["remote"] == '{"id": "r1"}'


# ── 19: order ───────────────────────────────────────────────────────────────────────────────


async def test_a_settlement_locks_in_the_order_of_the_key_whatever_came_first(pool: Pool) -> None:
    """19: it waits at the first row and holds none behind it."""
    async with world(pool) as w:
        await put(pool, *"abcdef")
        await w.hand.plan()
        claim = await w.hand.claim()
        pushed = await w.hand.send(claim)
        pushed.results.reverse()
        async with holding(pool, "select 1 from syncd.journal where contact_id = 'b' for update"):
            settling = asyncio.create_task(w.hand.journal.settle(claim, pushed.results))
            await blocked(pool)
            free = await pool.fetch("select contact_id from syncd.journal for update skip locked")
        await settling

        assert sorted(row["contact_id"] for row in free) == ["c", "d", "e", "f"]


async def test_the_losers_rows_of_a_settlement_are_written_in_the_same_order(pool: Pool) -> None:
    """19 and 7: the deadlock that the fuzz was left with."""
    async with world(pool) as w:
        other = await w.another()
        await put(pool, *"abcdef")
        await w.hand.plan()
        slow = await w.hand.claim()
        pushed = await w.hand.send(slow)
        await taken_over(w, other)
        newer = await other.claim()
        mine = (await other.send(newer)).results
        await asyncio.gather(
            *(
                h.journal.settle(c, r)
                for h, c, r in (
                    (w.hand, slow, list(reversed(pushed.results))), (other, newer, mine),
                )
            )
        )  # fmt: skip
        assert (
            await pool.fetchval(
                "select deadlocks from pg_stat_database where datname = current_database()"
            )
            == 0
        )


# ── 24, 25: crashes and leases ──────────────────────────────────────────────────────────────


async def test_only_what_crashed_alone_is_set_aside(pool: Pool) -> None:
    """24: batches shrink after the second crash; the innocent are all sent."""
    async with world(pool) as w:
        await many(pool, 64)
        await w.hand.plan()
        sizes = []
        for _ in range(60):
            hand = await w.another()
            claim = await hand.claim(64)
            if not claim.taken:
                break
            sizes.append(len(claim.entries))
            if "c00033" in claim.contact_ids:
                await hand.die()
            else:
                await hand.carry(claim)
        [row] = (await w.hand.rows()).values()

        assert sizes[:3] == [64, 64, 32]
        assert len(w.acme.mailed()) == 63
        assert (row["contact_id"], row["state"]) == ("c00033", "rejected")
        assert "crashes with it alone" in row["last_error"]


async def test_a_stop_is_no_crash(pool: Pool) -> None:
    """24: however often it is told to stop with a batch in flight, nobody is set aside."""
    async with world(pool) as w:
        await put(pool, "ann")
        await w.hand.plan()
        for _ in range(6):
            hand = await w.another()
            assert (await hand.claim()).entries
            await hand.worker.end()
        row = await w.hand.row("ann")

        assert (row["state"], row["crashes"], row["doubtful"]) == ("due", 0, True)
        await w.hand.drain()
        assert w.acme.mailed() == {"ann@x.test": "A"}


async def test_the_lease_is_the_workers_and_a_heartbeat_writes_one_row(pool: Pool) -> None:
    """25: however many contacts it has in flight."""
    async with world(pool) as w:
        await many(pool, 100)
        await w.hand.plan()
        await w.hand.claim()
        before = await pool.fetch("select ctid, xmin from syncd.journal order by contact_id")
        assert await w.hand.worker.beat()
        assert await reap(pool) == 0

        assert (
            await pool.fetch("select ctid, xmin from syncd.journal order by contact_id") == before
        )


async def test_a_worker_that_finds_its_lease_expired_is_not_revived(pool: Pool) -> None:
    """25: it stops; whatever it has in flight may belong to others."""
    async with world(pool) as w:
        await w.hand.die()
        assert not await w.hand.worker.beat()
        with pytest.raises(Fenced):
            await w.hand.worker.keep_alive(asyncio.Event())


# ── C, F: windows of a full pass ────────────────────────────────────────────────────────────


async def test_a_claim_leaves_out_the_contacts_of_an_open_window(pool: Pool) -> None:
    """F: one request in flight per contact, though the window has no journal rows."""
    async with world(pool) as w:
        await put(pool, "ann", "bob")
        w.acme.after.clear()
        full = asyncio.create_task(w.hand.full(direct=True))
        await w.acme.arrival(1)
        await put(pool, "ann=new@x.test", first="B")  # not even its address is in flight
        await w.hand.plan()
        claim = await w.hand.claim()
        assert claim.taken
        assert not claim.entries
        w.acme.after.set()
        await full
        await w.hand.drain()

        assert w.acme.mailed() == {"new@x.test": "B", "bob@x.test": "A"}


async def test_whoever_is_gone_while_the_window_is_in_flight_is_removed_after_it(
    pool: Pool,
) -> None:
    """F: the keyed pass treats a contact inside an open window as one that has a row."""
    async with world(pool) as w:
        await put(pool, "ann", "bob")
        w.acme.after.clear()
        full = asyncio.create_task(w.hand.full(direct=True))
        await w.acme.arrival(1)
        await gone(pool, "ann")
        await w.hand.plan()
        assert (await w.hand.row("ann"))["state"] == "due"
        w.acme.after.set()
        await full
        await w.hand.drain()

        assert w.acme.mailed() == {"bob@x.test": "A"}


async def test_what_a_window_sends_is_on_disk_before_it_leaves(pool: Pool) -> None:
    """F and promise 4: one row with its contacts and addresses, gone when it is settled."""
    async with world(pool) as w:
        await put(pool, "ann", "bob")
        w.acme.before.clear()
        full = asyncio.create_task(w.hand.full(direct=True))
        await w.acme.arrival(1)
        [intent] = await pool.fetch("select ids, addresses from syncd.intent")
        w.acme.before.set()
        await full

        assert tuple(intent) == (["ann", "bob"], ["ann@x.test", "bob@x.test"])
        assert await pool.fetchval("select count(*) from syncd.intent") == 0


async def test_a_contact_with_a_journal_row_is_left_out_of_a_window(pool: Pool) -> None:
    """F: it is in flight, or about to be, at the hands of a claim."""
    async with world(pool) as w:
        await put(pool, "ann", "bob", "cyd")
        await w.hand.plan()
        claim = await w.hand.claim(1)
        w.acme.before.clear()
        sending = asyncio.create_task(w.hand.carry(claim))
        await w.acme.arrival(1)
        await w.hand.full(direct=True)
        assert len(w.acme.writes) == 1
        w.acme.before.set()
        await sending
        await w.hand.drain()

        assert len(w.acme.writes) == 3


async def _sent_half_way(w: World) -> None:
    """A full pass ends when its window has been sent, and before that is settled."""
    w.acme.after.clear()
    full = asyncio.create_task(w.hand.full(direct=True))
    await w.acme.arrival(1)
    full.cancel()
    w.acme.after.set()
    with pytest.raises(asyncio.CancelledError):
        await full


async def test_a_dead_workers_window_is_doubted_and_nobody_is_made_twice(pool: Pool) -> None:
    """F: what it was about to send becomes journal rows, due and doubtful."""
    async with world(pool, REMOTE, FIND) as w:
        await many(pool, 20)
        await _sent_half_way(w)
        other = await w.another()
        await w.hand.die()
        assert await other.count("doubtful and state = 'due'") == 20
        await other.drain()

        assert len(w.acme.records) == len(w.acme.mailed()) == 20


async def test_a_process_that_stands_still_keeps_no_lock_longer_than_its_lease(
    pool: Pool, database: str
) -> None:
    """F: the server ends no session by a timeout while it has something to write to it."""
    async with world(pool) as w, asyncio.timeout(60):
        await put(pool, "ann")
        async with stopped_while_it_reads(pool, database):
            planning = asyncio.create_task(w.hand.plan())
            await blocked(pool)
            await reap(pool)
            await planning
        await w.hand.drain()

        assert w.acme.mailed() == {"ann@x.test": "A"}


async def test_a_live_process_of_the_same_name_keeps_its_sessions(
    pool: Pool, database: str
) -> None:
    """F: the first process of a container has the pid of the one before it."""
    async with world(pool), asyncio.timeout(60), stopped_while_it_reads(pool, database) as pid:
        await pool.execute(
            "insert into syncd.worker (host, pid, version, alive_until)"
            " values ($1, $2, '1', now() + interval '1 hour')",
            HOST, pid,
        )  # fmt: skip
        assert await pool.fetchval(sql.journal.end_sessions) == 0
        await reap(pool)

        assert await pool.fetchval(
            "select count(*) from pg_stat_activity where application_name = $1",
            f"syncd {pid}@{HOST}",
        )


async def test_a_full_pass_takes_a_dead_workers_window_back_before_it_reads(pool: Pool) -> None:
    """F: nobody has looked after dead workers yet; to the pass everybody in it would be new."""
    async with world(pool, REMOTE, FIND) as w:
        await many(pool, 20)
        await _sent_half_way(w)
        other = await w.another()
        await pool.execute("delete from syncd.worker where id <> $1", other.journal.worker_id)
        await other.full(direct=True)
        assert len(w.acme.records) == 20
        await other.drain()

        assert len(w.acme.records) == len(w.acme.mailed()) == 20


async def test_whoever_left_while_a_dead_workers_window_was_in_flight_is_found_and_removed(
    pool: Pool,
) -> None:
    """F and 6: the address that was sent is remembered; the source does not know it any more."""
    async with world(pool, REMOTE, FIND) as w:
        await put(pool, "ann", "bob")
        await _sent_half_way(w)
        await gone(pool, "ann")
        other = await w.another()
        await w.hand.die()
        await other.drain()

        assert w.acme.mailed() == {"bob@x.test": "A"}


async def test_a_slow_window_that_was_taken_over_settles_as_news(pool: Pool) -> None:
    """F and 7: its intent is gone; its contacts are due and doubtful."""
    async with world(pool) as w:
        await put(pool, "ann", "bob")
        w.acme.after.clear()
        full = asyncio.create_task(w.hand.full(direct=True))
        await w.acme.arrival(1)
        other = await w.another()
        await w.hand.die()
        await pool.execute("delete from syncd.journal")  # as if the other had done all of it
        w.acme.after.set()
        await full
        assert await other.count("doubtful and state = 'due'") == 2
        await other.drain()

        assert await other.rows() == {}


async def test_two_full_passes_do_not_run_beside_each_other(pool: Pool) -> None:
    """F: unless the worker of the first is dead."""
    async with world(pool) as w:
        await put(pool, "ann", "bob")
        other = await w.another()
        w.acme.after.clear()
        first = asyncio.create_task(w.hand.full(direct=True))
        await w.acme.arrival(1)
        with pytest.raises(AssertionError):
            await other.full()
        w.acme.after.set()
        await first
        await other.full()


async def _full(hand: Hand) -> None:
    await hand.full(direct=True)


async def _carry(hand: Hand) -> None:
    await hand.carry(await hand.claim())
