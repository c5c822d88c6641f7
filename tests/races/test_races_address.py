"""Addresses as a second key: race 8, and one request in flight for an address (promise 2)."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest
from support import World, blocked, gone, holding, many, move, put, rename, world

from syncd.addresses import Claimant, Holder, exchanges, sharers
from syncd.db import Pool
from syncd.fullpass import FullPass
from syncd.model import Can, Key
from syncd.orphans import reap

KEYS: list[Key] = ["ours", "address", "remote id"]
every_key = pytest.mark.parametrize("key", KEYS)
FIND = Can.FIND
READS = Can.FIND | Can.OPT_OUT


async def people(w: World) -> dict[str, str]:
    """Who has which address at Acme, of those that are mailed."""
    return {one.owner: one.email for one in w.acme.records.values() if one.subscribed}


async def leave_in_doubt(w: World) -> None:
    """ann was made at s, perhaps, and is to leave it; bob is to come."""
    await put(w.pool, "ann=s@x.test")
    await w.hand.plan()
    w.acme.faults.append("lost")
    await w.hand.step()
    await move(w.pool, ann="a@x.test")
    await put(w.pool, "bob=s@x.test")


# ── Shared addresses ────────────────────────────────────────────────────────────────────────


@every_key
async def test_when_the_holder_of_a_shared_address_is_deleted_the_other_one_gets_it(
    pool: Pool, key: Key
) -> None:
    """8: by a keyed pass, not at night; nobody is unsubscribed in between."""
    async with world(pool, key, FIND) as w:
        await put(pool, "c1=s@x.test", "c2=s@x.test")
        await w.hand.drain()
        assert "shares its address with contact c1" in (await w.hand.row("c2"))["last_error"]
        await gone(pool, "c1")
        await w.hand.drain()

        assert await people(w) == {"c2": "s@x.test"}
        assert await w.hand.rows() == {}


@every_key
async def test_a_shared_address_is_mailed_only_if_all_who_share_it_say_yes(
    pool: Pool, key: Key
) -> None:
    """8: and again as soon as they do, or as whoever said no is gone."""
    async with world(pool, key, FIND) as w:
        await put(pool, "c1=s@x.test", "c2=s@x.test", "c3=s@x.test")
        await pool.execute("update syncd.contact set subscribed = false where id in ('c2', 'c3')")
        await w.hand.drain()
        assert w.acme.mailed() == {}
        await pool.execute("update syncd.contact set subscribed = true where id = 'c2'")
        await w.hand.drain()
        assert w.acme.mailed() == {}
        await gone(pool, "c3")
        await w.hand.drain()
        assert w.acme.mailed() == {"s@x.test": "A"}
        await pool.execute("update syncd.contact set subscribed = false where id = 'c1'")
        await w.hand.drain()
        assert w.acme.mailed() == {}
        await pool.execute("update syncd.contact set subscribed = true where id = 'c1'")
        await w.hand.drain()
        assert w.acme.mailed() == {"s@x.test": "A"}


NO = """
insert into syncd.opt_out (destination_id, contact_id, email, kind, occurred_at)
select id, $1, $2, 'unsubscribed', now() from syncd.destination"""


@every_key
@pytest.mark.parametrize("moves_first", [False, True])
async def test_a_no_at_the_provider_is_a_no_to_the_address_that_is_shared(
    pool: Pool, key: Key, moves_first: bool
) -> None:
    """8, 9b: it was said under another address, and so stands only against who said it; until that
    one consents anew, or moves on."""
    async with world(pool, key, FIND) as w:
        await put(pool, "c1=s@x.test", "c2")
        await w.hand.drain()
        if moves_first:
            await move(pool, c2="s@x.test")
            await w.hand.drain()
            assert w.acme.mailed() == {"s@x.test": "A"}
        await pool.execute(NO, "c2", "c2@x.test")
        await w.hand.drain()
        await move(pool, c2="s@x.test")
        await w.hand.drain()
        assert w.acme.mailed() == {}
        await pool.execute("update syncd.contact set consented_at = now() where id = 'c2'")
        await w.hand.drain()
        assert w.acme.mailed() == {"s@x.test": "A"}
        await pool.execute("update syncd.contact set consented_at = null where id = 'c2'")
        await w.hand.drain()
        assert w.acme.mailed() == {}
        await move(pool, c2="c2@x.test")
        await w.hand.drain()
        assert w.acme.mailed() == {"s@x.test": "A"}


@every_key
async def test_a_full_pass_knows_of_a_no_to_an_address_that_is_shared(pool: Pool, key: Key) -> None:
    """8, 9b: where no trigger noted anything."""
    async with world(pool, key, FIND) as w:
        await put(pool, "c1=s@x.test", "c2=s@x.test")
        await w.hand.drain()
        await pool.execute(NO, "c2", "c2@x.test")
        await pool.execute("delete from syncd.change")
        await w.hand.full(direct=True)
        await w.hand.drain()

        assert w.acme.mailed() == {}


@every_key
async def test_newer_consent_of_one_outdoes_a_no_of_its_own_to_an_address_that_is_shared(
    pool: Pool, key: Key
) -> None:
    """8, 9: a no to the address alone is weighed against the consent of whom it is sent for."""
    async with world(pool, key, FIND) as w:
        await put(pool, "c1=s@x.test", "c2=s@x.test")
        await w.hand.drain()
        await pool.execute(NO, "c1", "s@x.test")
        await w.hand.drain()
        assert w.acme.mailed() == {}
        await pool.execute("update syncd.contact set consented_at = now() where id = 'c1'")
        await w.hand.drain()

        assert w.acme.mailed() == {"s@x.test": "A"}


async def test_a_record_of_one_who_said_no_is_not_mailed_for_a_sharer_of_its_address(
    pool: Pool,
) -> None:
    """8, 9 (seed 70039): c11's record goes to c10, who is the holder of what they share, is turned
    on for it, and comes back to c11, whose silence is refused."""
    async with world(pool, "remote id", FIND) as w:
        await put(pool, "c11=a6@x.test")
        await w.hand.drain()
        await put(pool, "c10=a11@x.test")
        await w.hand.plan()
        w.acme.faults.append("cut")
        await w.hand.step()
        assert (await w.hand.row("c10"))["doubtful"]
        w.acme.say_no("a6@x.test")
        await pool.execute(NO, "c11", "a6@x.test")
        await w.hand.plan()
        await w.hand.step(1)
        await move(pool, c11="a11@x.test")
        await w.hand.drain()
        assert w.acme.mailed() == {}
        w.acme.refuses = {"c11": {"rejected": "bad name"}}
        await gone(pool, "c10")
        await w.hand.drain()

        assert w.acme.mailed() == {}


@every_key
async def test_a_full_pass_finds_shared_addresses_in_whatever_window_they_lie(
    pool: Pool, key: Key
) -> None:
    """8: one aggregate, before the first window is read."""
    async with world(pool, key, FIND) as w:
        await many(pool, 40)
        await move(pool, c00001="s@x.test", c00040="s@x.test")
        await w.hand.full(direct=True, window=5)
        await w.hand.drain()

        assert len(w.acme.at("s@x.test")) == 1
        assert (await w.hand.row("c00040"))["state"] == "rejected"


@every_key
@pytest.mark.parametrize("full", [False, True])
async def test_addresses_that_differ_in_case_and_blanks_only_are_shared(
    pool: Pool, key: Key, full: bool
) -> None:
    """8: blanks are not sent, so they tell nobody apart."""
    async with world(pool, key, FIND) as w:
        await put(pool, "c1=s@x.test")
        await w.hand.drain()
        await put(pool, "c2= S@x.test ")
        if full:
            await pool.execute("delete from syncd.change")
            await w.hand.full(direct=True)
        await w.hand.drain()

        assert await people(w) == {"c1": "s@x.test"}
        assert "shares its address with contact c1" in (await w.hand.row("c2"))["last_error"]


# ── Moves ───────────────────────────────────────────────────────────────────────────────────


@every_key
async def test_a_contact_that_moves_to_the_address_of_one_who_is_deleted_stays_mailed(
    pool: Pool, key: Key
) -> None:
    """8: the removal is not sent by address under the one who took it over."""
    async with world(pool, key, FIND) as w:
        await put(pool, "c1", "c2")
        await w.hand.drain()
        async with pool.acquire() as connection, connection.transaction():
            await gone(connection, "c2")
            await move(connection, c1="c2@x.test")
        await w.hand.drain()

        assert w.acme.mailed() == {"c2@x.test": "A"}
        assert await people(w) == {"c1": "c2@x.test"}
        assert await w.hand.rows() == {}


@every_key
async def test_a_new_contact_takes_the_address_of_one_who_is_deleted(pool: Pool, key: Key) -> None:
    """8: without a second record of that address."""
    async with world(pool, key, FIND) as w:
        await put(pool, "c2")
        await w.hand.drain()
        async with pool.acquire() as connection, connection.transaction():
            await gone(connection, "c2")
            await put(connection, "c1=c2@x.test", first="N")
        await w.hand.drain()

        assert w.acme.mailed() == {"c2@x.test": "N"}
        assert await w.hand.rows() == {}


@every_key
@pytest.mark.parametrize("size", [2, 3, 4])
async def test_contacts_that_exchange_their_addresses_all_arrive(
    pool: Pool, key: Key, size: int
) -> None:
    """8: a swap, and rings; nobody waits for ever, nobody is refused as 'taken'."""
    async with world(pool, key, FIND) as w:
        for n in range(size):
            await put(pool, f"c{n}", first=f"N{n}")
        await w.hand.drain()
        await move(pool, **{f"c{n}": f"c{(n + 1) % size}@x.test" for n in range(size)})
        await w.hand.drain()

        assert w.acme.mailed() == {f"c{(n + 1) % size}@x.test": f"N{n}" for n in range(size)}
        assert await people(w) == {f"c{n}": f"c{(n + 1) % size}@x.test" for n in range(size)}
        assert await w.hand.rows() == {}


@every_key
async def test_contacts_that_exchange_their_addresses_one_after_the_other_arrive_too(
    pool: Pool, key: Key
) -> None:
    """8: in between two share an address, and one of them is refused."""
    async with world(pool, key, FIND) as w:
        for n in range(3):
            await put(pool, f"c{n}", first=f"N{n}")
        await w.hand.drain()
        for n in range(3):
            await move(pool, **{f"c{n}": f"c{(n + 1) % 3}@x.test"})
            await w.hand.plan()
            await w.hand.step()
        await w.hand.drain()

        assert w.acme.mailed() == {f"c{(n + 1) % 3}@x.test": f"N{n}" for n in range(3)}
        assert await w.hand.rows() == {}


@every_key
async def test_lists_follow_the_record_when_addresses_are_exchanged(pool: Pool, key: Key) -> None:
    """8: what the record is in is what the update has to take it out of."""
    await pool.execute("insert into syncd.list values ('l1', 'One'), ('l2', 'Two')")
    async with world(pool, key, FIND) as w:
        await put(pool, "c1", "c2")
        await pool.execute("insert into syncd.membership values ('l1', 'c1'), ('l2', 'c2')")
        await w.hand.drain()
        await move(pool, c1="c2@x.test", c2="c1@x.test")
        await w.hand.drain()

        assert {one.owner: one.lists for one in w.acme.records.values()} == {
            "c1": {"l1"}, "c2": {"l2"},
        }  # fmt: skip


@every_key
async def test_a_chain_of_moves_is_sent_in_order(pool: Pool, key: Key) -> None:
    """8: each waits until the one before it has left its address."""
    async with world(pool, key, FIND) as w:
        for n in range(4):
            await put(pool, f"c{n}", first=f"N{n}")
        await w.hand.drain()
        await move(pool, c0="c1@x.test", c1="c2@x.test", c2="c3@x.test", c3="free@x.test")
        await w.hand.drain()

        assert w.acme.mailed() == {
            "c1@x.test": "N0", "c2@x.test": "N1", "c3@x.test": "N2", "free@x.test": "N3",
        }  # fmt: skip
        assert await w.hand.rows() == {}


@every_key
async def test_a_chain_of_moves_is_found_by_a_full_pass_too(pool: Pool, key: Key) -> None:
    """8: where no trigger noted anything, windows apart."""
    async with world(pool, key, FIND) as w:
        for n in range(4):
            await put(pool, f"c{n}", first=f"N{n}")
        await w.hand.drain()
        await move(pool, c0="c1@x.test", c1="c2@x.test", c2="c0@x.test", c3="free@x.test")
        await pool.execute("delete from syncd.change")
        await w.hand.full(direct=True, window=1)
        await w.hand.drain()

        assert w.acme.mailed() == {
            "c1@x.test": "N0", "c2@x.test": "N1", "c0@x.test": "N2", "free@x.test": "N3",
        }  # fmt: skip


@every_key
async def test_an_address_whose_holder_cannot_be_sent_is_given_up_by_it(
    pool: Pool, key: Key
) -> None:
    """8: c2 moves to an address that c3 holds, and is refused; c1 takes c2's: no wait for ever."""
    async with world(pool, key, FIND) as w:
        await put(pool, "c1", "c2", "c3")
        await w.hand.drain()
        await move(pool, c1="c2@x.test", c2="c3@x.test")
        await w.hand.drain()

        there = await people(w)
        assert (there["c1"], there["c3"]) == ("c2@x.test", "c3@x.test")
        assert {i: row["state"] for i, row in (await w.hand.rows()).items()} == {"c2": "rejected"}


@every_key
async def test_a_contact_becomes_another_ones_address_while_it_is_in_flight(
    pool: Pool, key: Key
) -> None:
    """8: a swap while one of the two is being sent: it is planned once that has settled."""
    async with world(pool, key, FIND) as w:
        await put(pool, "c1", "c2")
        await w.hand.drain()
        await rename(pool, "c1", "B")
        await w.hand.plan()
        w.acme.before.clear()
        sending = asyncio.create_task(w.hand.carry(await w.hand.claim()))
        await w.acme.arrival(2)
        await move(pool, c1="c2@x.test", c2="c1@x.test")
        await w.hand.plan()
        other = await w.another()
        await other.hurry()
        assert not (await other.claim()).entries
        w.acme.before.set()
        await sending
        await w.hand.drain()

        assert w.acme.mailed() == {"c2@x.test": "B", "c1@x.test": "A"}


@pytest.mark.parametrize("key", ["address", "remote id"])
async def test_addresses_are_not_exchanged_with_a_contact_whose_window_is_in_flight(
    pool: Pool, key: Key
) -> None:
    """8 and F: the window's settlement would overwrite the record that it took over."""
    async with world(pool, key, FIND) as w:
        await put(pool, "c2")
        await w.hand.drain()
        await put(pool, "c1")
        w.acme.after.clear()
        full = asyncio.create_task(w.hand.full(direct=True))
        await w.acme.arrival(2)
        async with pool.acquire() as connection, connection.transaction():
            await gone(connection, "c2")
            await move(connection, c1="c2@x.test")
        await w.hand.plan()
        w.acme.after.set()
        await full
        await w.hand.drain()

        assert w.acme.mailed() == {"c2@x.test": "A"}


@pytest.mark.parametrize("key", ["address", "remote id"])
async def test_whoever_gets_a_record_at_the_end_of_a_chain_is_planned_too(
    pool: Pool, key: Key
) -> None:
    """8: c3 is long gone; c2's move to its address was to be planned when c1 takes c2's."""
    async with world(pool, key, FIND) as w:
        await put(pool, "c1", "c2", "c3")
        await w.hand.drain()
        await gone(pool, "c3")
        await w.hand.drain()
        await move(pool, c1="c2@x.test", c2="c3@x.test")
        await pool.execute("delete from syncd.change where contact_id = 'c2'")
        await w.hand.plan()

        assert (await w.hand.mirror())["c3"]["email"] == "c1@x.test"
        assert (await w.hand.row("c3"))["wish"] == "remove"
        await w.hand.drain()
        assert w.acme.mailed() == {"c2@x.test": "A", "c3@x.test": "A"}


async def test_whoever_came_back_is_not_parted_from_a_record_it_may_have_been_put_on(
    pool: Pool,
) -> None:
    """29: c1 came back elsewhere while it was in flight; its next try, on the old record, was lost.
    That record is c1's then, and must not be taken away as somebody else's."""
    async with world(pool, "remote id", FIND) as w:
        await put(pool, "c1")
        await w.hand.drain()
        await rename(pool, "c1", "B")
        await w.hand.plan()
        w.acme.before.clear()
        w.acme.faults += ["lost", "lost"]
        sending = asyncio.create_task(w.hand.carry(await w.hand.claim()))
        await w.acme.arrival(2)
        async with pool.acquire() as connection, connection.transaction():
            await gone(connection, "c1")
            await put(connection, "c1=new@x.test", first="N")
        await w.hand.plan()
        w.acme.before.set()
        await sending
        await w.hand.step()
        assert (await w.hand.row("c1"))["doubtful"]
        await w.hand.drain()

        assert w.acme.mailed() == {"new@x.test": "N"}


async def test_a_pass_that_parts_nobody_holds_no_row_while_it_waits_for_another(pool: Pool) -> None:
    """19: c2 came back elsewhere while it is in flight, so it stays; its new address is c1's, whose
    row a settlement has, which goes on to c2's."""
    async with world(pool, "remote id", FIND) as w:
        await put(pool, "c1", "c2")
        await w.hand.drain()
        await rename(pool, "c1", "B")
        await rename(pool, "c2", "B")
        await w.hand.plan()
        assert len((await w.hand.claim()).entries) == 2
        async with pool.acquire() as connection, connection.transaction():
            await gone(connection, "c2")
            await put(connection, "c2=c1@x.test")
        await move(pool, c1="new@x.test")
        lock = "select from syncd.journal where contact_id = '{}' for no key update nowait"
        async with holding(pool, lock.format("c1")) as settlement:
            planning = asyncio.create_task(w.hand.plan())
            await blocked(pool)
            await settlement.execute(lock.format("c2"))
        await planning


async def test_a_lost_move_of_who_is_gone_does_not_take_the_record_that_another_one_got(
    pool: Pool,
) -> None:
    """8, 6: c1's move may have arrived; its record is c2's by now, at whatever address it is."""
    async with world(pool, "remote id", FIND) as w:
        await put(pool, "c1")
        await w.hand.drain()
        await move(pool, c1="new@x.test")
        await w.hand.plan()
        w.acme.faults.append("lost")
        await w.hand.step()
        async with pool.acquire() as connection, connection.transaction():
            await gone(connection, "c1")
            await put(connection, "c2=c1@x.test", first="N")
        await w.hand.drain()

        assert w.acme.mailed() == {"c1@x.test": "N"}
        assert await people(w) == {"c2": "c1@x.test"}


async def pause(pool: Pool, contact_id: str) -> float:
    """Seconds until it is due."""
    return float(
        await pool.fetchval(
            "select extract(epoch from due_at - now()) from syncd.journal where contact_id = $1",
            contact_id,
        )
    )


async def test_what_a_lost_try_left_is_not_taken_from_whoever_holds_it_by_now(pool: Pool) -> None:
    """8: c1's create at s@ was lost, s@ has become c2's, c1 goes elsewhere: c2 waits until c1's
    record is left. Where that may never be (c1 is refused), c2 has it, and stays mailed."""
    async with world(pool, "address", FIND | Can.REPEAT) as w:
        await put(pool, "c1=s@x.test")
        await w.hand.plan()
        w.acme.faults.append("lost")
        await w.hand.step()
        await pool.execute(
            "update syncd.journal set due_at = now() + interval '1 h' where contact_id = 'c1'"
        )
        await move(pool, c1="c1@x.test")
        await put(pool, "c2=s@x.test", first="B")
        await w.hand.plan()
        assert (await w.hand.claim()).entries == []
        why = await pool.fetchval("select last_error from syncd.journal where contact_id = 'c2'")
        assert why == "a lost try may have left contact c1 at its address"
        assert 0.1 < await pause(pool, "c2") < 0.3
        await pool.execute(
            "update syncd.journal set planned_at = now() - interval '1 min', due_at = now()"
            " where contact_id = 'c2'"
        )
        assert (await w.hand.claim()).entries == []
        assert 14 < await pause(pool, "c2") < 16, "ever more seldom"
        await pool.execute("update syncd.journal set state = 'rejected' where contact_id = 'c1'")
        await pool.execute("update syncd.journal set due_at = now() where contact_id = 'c2'")
        assert await w.hand.carry(await w.hand.claim()) == []
        assert (await w.hand.mirror())["c2"]["email"] == "s@x.test"
        await pool.execute("update syncd.journal set state = 'due' where contact_id = 'c1'")
        await w.hand.drain()

        assert w.acme.mailed() == {"s@x.test": "B", "c1@x.test": "A"}


# ── In flight ───────────────────────────────────────────────────────────────────────────────


@every_key
async def test_an_address_in_flight_is_not_sent_for_another_contact(pool: Pool, key: Key) -> None:
    """Promise 2: c1 is being created; its address becomes c2's before the answer."""
    async with world(pool, key, FIND) as w:
        await put(pool, "c1=s@x.test")
        await w.hand.plan()
        w.acme.after.clear()
        sending = asyncio.create_task(w.hand.carry(await w.hand.claim()))
        await w.acme.arrival(1)
        async with pool.acquire() as connection, connection.transaction():
            await move(connection, c1="other@x.test")
            await put(connection, "c2=s@x.test", first="N")
        await w.hand.plan()
        other = await w.another()
        assert not (await other.claim()).entries
        w.acme.after.set()
        await sending
        await w.hand.drain()

        assert w.acme.mailed() == {"other@x.test": "A", "s@x.test": "N"}


async def test_a_contact_that_waits_for_its_own_address_does_not_stop_a_whole_claim(
    pool: Pool,
) -> None:
    """19: bob is on his way to ann's address when ann, who was to leave it, stays after all."""
    async with world(pool, "ours") as w:
        await put(pool, "ann", "bob")
        await w.hand.drain()
        await move(pool, ann="new@x.test", bob="ann@x.test")
        await w.hand.plan()
        await pool.execute(
            "update syncd.journal set due_at = now() + interval '1 h' where contact_id = 'ann'"
        )
        bob = await w.hand.claim()
        assert bob.contact_ids == ["bob"]
        await move(pool, ann="ann@x.test", bob="bob@x.test")
        await rename(pool, "ann", "B")
        await put(pool, "cyd")
        await w.hand.plan()
        await w.hand.hurry()

        other = await w.another()
        async with holding(  # a pass that tells bob's row to look again: nobody waits for it
            pool, "update syncd.journal set again = true where contact_id = 'bob'"
        ):
            rest = await asyncio.wait_for(other.claim(), 60)

        assert rest.contact_ids == ["cyd"]
        assert "waits for contact bob" in (await w.hand.row("ann"))["last_error"]
        await other.carry(rest)
        await w.hand.carry(bob)
        await w.hand.drain()
        assert w.acme.mailed() == {"ann@x.test": "B", "bob@x.test": "A", "cyd@x.test": "A"}


@every_key
async def test_a_window_leaves_out_an_address_that_a_claim_gave_away_since_it_was_read(
    pool: Pool, key: Key, monkeypatch: pytest.MonkeyPatch
) -> None:
    """5: the claim has come and gone between the window's reading and its intent."""
    async with world(pool, key, FIND | Can.REPEAT) as w:
        await put(pool, "ann")
        await w.hand.drain()
        await put(pool, "bob=s@x.test")
        other, read = await w.another(), FullPass._read
        met = asyncio.Event()  # ann, in her own window

        async def overtaken(self: FullPass, number: int, first: str, last: str) -> Sequence[Any]:
            rows = await read(self, number, first, last)
            if first == "ann":
                met.set()
            if first == "bob":
                await met.wait()
                while await pool.fetchval("select count(*) from syncd.intent") > 1:
                    await asyncio.sleep(0.002)  # ann's window is still open
                await move(pool, bob="b@x.test", ann="s@x.test")
                await other.plan()
                while not (claim := await other.step()).contact_ids:
                    await other.plan()  # the feed waits for every transaction begun before it
                assert claim.contact_ids == ["ann"]
            return rows

        monkeypatch.setattr(FullPass, "_read", overtaken)
        await w.hand.full(direct=True, window=1)
        monkeypatch.undo()
        assert await people(w) == {"ann": "s@x.test"}
        await w.hand.drain()

        assert await people(w) == {"ann": "s@x.test", "bob": "b@x.test"}


@pytest.mark.parametrize("key", ["address", "remote id"])
@pytest.mark.parametrize("applied", [False, True])
async def test_the_doubt_about_a_record_goes_with_it_to_whoever_takes_it_over(
    pool: Pool, key: Key, applied: bool
) -> None:
    """8: the removal of ann's record was lost; then she takes the place of bob, who is gone."""
    async with world(pool, key, FIND) as w:
        await put(pool, "ann", "bob", "eve")
        await w.hand.drain()
        await gone(pool, "ann")
        await w.hand.plan()
        w.acme.faults.append("lost" if applied else "cut")
        assert (await w.hand.step()).contact_ids == ["ann"]
        assert (await w.hand.row("ann"))["doubtful"]
        async with pool.acquire() as connection, connection.transaction():
            await gone(connection, "bob")
            await put(connection, "ann=bob@x.test")
        await w.hand.drain()

        assert sorted(w.acme.mailed()) == ["bob@x.test", "eve@x.test"]
        assert await w.hand.rows() == {}


@every_key
async def test_where_a_lost_try_left_somebody_nobody_else_is_put_by_the_same_claim(
    pool: Pool, key: Key
) -> None:
    """Promise 2: ann was made at s, perhaps; she leaves it, and bob is to come."""
    async with world(pool, key, FIND) as w:
        await leave_in_doubt(w)
        await w.hand.plan()
        await w.hand.hurry()
        assert len((await w.hand.claim()).entries) == 1


async def test_where_a_lost_try_left_somebody_nobody_else_is_put_by_a_later_claim(
    pool: Pool,
) -> None:
    """Promise 2: ann was made at s, perhaps, and waits for her next try; bob is to come to s."""
    async with world(pool, "remote id", FIND) as w:
        await leave_in_doubt(w)
        await w.hand.plan()
        await pool.execute("update syncd.journal set due_at = now() where contact_id = 'bob'")
        assert (await w.hand.claim()).entries == []
        assert "may have left contact ann" in (await w.hand.row("bob"))["last_error"]
        await w.hand.drain()
        assert await people(w) == {"ann": "a@x.test", "bob": "s@x.test"}


async def test_two_that_lost_tries_left_at_each_others_address_do_not_wait_for_ever(
    pool: Pool,
) -> None:
    async with world(pool, "remote id", FIND) as w:
        await put(pool, "ann=a@x.test", "bob=b@x.test")
        await w.hand.plan()
        w.acme.faults += ["lost", "lost"]
        await w.hand.step()
        await w.hand.step()
        await move(pool, ann="b@x.test", bob="a@x.test")
        await w.hand.drain()
        assert await people(w) == {"ann": "b@x.test", "bob": "a@x.test"}


async def test_who_is_there_does_not_wait_for_a_lost_move_to_the_address_it_is_to_have(
    pool: Pool,
) -> None:
    """ann may have got to s; now she is to have bob's address, and bob is to have s."""
    async with world(pool, "remote id", FIND) as w:
        await put(pool, "ann=a@x.test", "bob=b@x.test")
        await w.hand.drain()
        await move(pool, ann="s@x.test")
        await w.hand.plan()
        w.acme.faults.append("lost")
        await w.hand.step()
        await move(pool, ann="b@x.test", bob="s@x.test")
        await w.hand.drain()
        assert await people(w) == {"ann": "b@x.test", "bob": "s@x.test"}


async def test_the_address_that_was_tried_is_remembered_until_it_has_been_looked_at(
    pool: Pool,
) -> None:
    """6: the first try never arrived, the second one was lost at another address; and a worker died
    that was only about to look."""
    async with world(pool, "remote id", FIND) as w:
        await put(pool, "ann=s@x.test")
        await w.hand.plan()
        w.acme.faults += ["cut", "lost"]
        await w.hand.step()
        await move(pool, ann="a@x.test")
        await w.hand.plan()
        await w.hand.step()
        assert (await w.hand.row("ann"))["email"] == "a@x.test"
        await move(pool, ann="c@x.test")
        await w.hand.plan()
        await w.hand.hurry()
        await w.hand.claim()
        assert (await w.hand.row("ann"))["email"] == "a@x.test"
        await pool.execute("update syncd.worker set alive_until = now() - interval '1 s'")
        other = await w.another()
        await reap(pool)
        await other.drain()
        assert [one.email for one in w.acme.records.values()] == ["c@x.test"]


async def test_doubt_is_kept_where_a_look_at_noes_leaves_a_contact_out(pool: Pool) -> None:
    """6: what a lost answer may have left there is not forgotten for a no that came meanwhile."""
    async with world(pool, "remote id", READS) as w:
        await put(pool, "ann=s@x.test")
        await w.hand.drain()
        await pool.execute("update syncd.contact set subscribed = false")
        await w.hand.drain()
        await pool.execute("update syncd.contact set subscribed = true, consented_at = now()")
        await w.hand.plan()
        w.acme.faults.append("lost")
        await w.hand.step()
        w.acme.notices.append({"contact_id": "ann", "email": "s@x.test"})
        await w.hand.plan()
        await w.hand.step()
        assert (await w.hand.row("ann"))["doubtful"]


async def test_a_window_puts_nobody_where_a_lost_try_left_somebody(pool: Pool) -> None:
    async with world(pool, "remote id", FIND) as w:
        await leave_in_doubt(w)
        await pool.execute("delete from syncd.change")
        await w.hand.full(direct=True)
        assert [one for one in w.acme.records.values() if one.owner == "bob"] == []
        await w.hand.drain()
        assert await people(w) == {"ann": "a@x.test", "bob": "s@x.test"}


async def test_two_claims_at_the_same_instant_do_not_both_get_an_address(pool: Pool) -> None:
    """Promise 2: claims take turns; the second one sees what the first has in flight."""
    async with world(pool, "ours") as w:
        await put(pool, "c1=s@x.test", "c2=s@x.test")
        await pool.execute(  # no pass has met the two together, so nobody knows that they share
            "insert into syncd.journal (destination_id, contact_id, wish, lane, state)"
            " select $1, id, 'upsert', 1, 'due' from syncd.contact",
            w.hand.id,
        )
        await pool.execute(INTENT)
        other = await w.another()
        async with holding(pool, "select pg_advisory_xact_lock(6)"):
            claiming = [asyncio.create_task(one.claim(1)) for one in (w.hand, other)]
            await blocked(pool, 2)
        claims = await asyncio.gather(*claiming)

        assert sum(len(one.entries) for one in claims) == 1


INTENT = """
create function public.stall() returns trigger language plpgsql as $$
begin
    perform pg_advisory_xact_lock_shared(6);
    return new;
end $$;
create trigger stall before update on syncd.journal for each row
    when (new.holds is not null) execute function public.stall();
"""
"""A claim waits here, after it has read and before its intent is written."""


async def test_rows_that_remember_the_same_address_do_not_stop_every_claim(pool: Pool) -> None:
    """Promise 2: both were sent under it in an outage; the index is about requests in flight."""
    async with world(pool, "ours") as w:
        await put(pool, "c1=s@x.test")
        await w.hand.plan()
        w.acme.always = 429
        await w.hand.step()
        await move(pool, c1="other@x.test")
        await put(pool, "c2=s@x.test")
        await w.hand.plan()
        await pool.execute(
            "update syncd.journal set due_at = now() + interval '1 h' where contact_id = 'c1'"
        )
        await w.hand.carry(await w.hand.claim())
        assert await w.hand.count("email = 's@x.test' and state = 'due'") == 2
        w.acme.always = None
        await w.hand.drain()

        assert w.acme.mailed() == {"other@x.test": "A", "s@x.test": "A"}


# ── Pure ────────────────────────────────────────────────────────────────────────────────────


def test_a_cycle_is_rotated_and_a_chain_to_a_free_address_is_left_alone() -> None:
    ring = [
        Claimant("a", "B", "b", "C"),
        Claimant("b", "C", "c", "A"),
        Claimant("c", "A", "a", "B"),
    ]
    chain = [Claimant("x", "Y", "y", "Z")]

    assert dict(exchanges([*ring, *chain])) == {"a": "b", "b": "c", "c": "a"}


def test_a_chain_that_ends_at_somebody_gone_takes_its_record_over() -> None:
    chain = [Claimant("a", "B", "b", "C"), Claimant("b", "C", "c", None)]

    assert dict(exchanges(chain)) == {"a": "b", "b": "c", "c": "a"}


def test_a_ring_with_a_tail_rotates_the_ring_only() -> None:
    ring = [
        Claimant("b", "C", "c", "B"),
        Claimant("c", "B", "b", "C"),
        Claimant("a", "C", "c", "B"),
    ]

    assert dict(exchanges(ring)) == {"b": "c", "c": "b"}


def test_whom_the_provider_knows_keeps_the_address_that_is_shared() -> None:
    group = [Holder("c2", "s", True), Holder("c1", "s", False), Holder("c3", "t", True)]

    found = sharers(group, {"s": "c2"})

    assert [(one.contact_id, one.holder, one.subscribed) for one in found] == [
        ("c1", "c2", False), ("c2", "c2", False),
    ]  # fmt: skip


async def test_a_look_up_that_fails_does_not_forget_where_the_lost_try_was(pool: Pool) -> None:
    """6, 8: the create's answer is lost, the address changes, the look-up for it fails; and so does
    the create under the new address, which the next look-up must find."""
    async with world(pool, "remote id", Can.FIND) as w:
        await put(pool, "ann")
        w.acme.faults.append("lost")
        await w.hand.plan()
        await w.hand.step()
        await move(pool, ann="new@x.test")
        await w.hand.plan()
        w.acme.faults.append(503)
        await w.hand.step()
        assert not w.acme.faults
        await w.hand.drain()
        assert {one.email for one in w.acme.records.values()} == {"new@x.test"}

        await put(pool, "bob")
        w.acme.faults += ["cut"]
        await w.hand.plan()
        await w.hand.step()
        await move(pool, bob="bob2@x.test")
        await w.hand.plan()
        w.acme.faults += ["lost"]
        await w.hand.step()
        await w.hand.drain()
        emails = sorted(one.email for one in w.acme.records.values())
        assert emails == ["bob2@x.test", "new@x.test"]
