"""Opt-outs and their leaks, the vanished: races 9 and 15, as far as they concern plan and push."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
import support
from support import blocked, gone, holding, move, put, rename, world

from syncd import control
from syncd.db import Pool
from syncd.model import Can, Key, Notice

FIND = Can.FIND
REMOTE: Key = "remote id"
READS = Can.FIND | Can.OPT_OUT


async def opt_out(
    pool: Pool,
    destination: int,
    contact: str | None,
    email: str | None,
    kind: str = "unsubscribed",
    at: str = "now()",
) -> None:
    await pool.execute(
        "insert into syncd.opt_out (destination_id, contact_id, email, kind, occurred_at)"
        f" values ($1, $2, $3, $4, {at})",
        destination, contact, email, kind,
    )  # fmt: skip


async def test_an_opt_out_at_one_destination_reaches_the_others_at_once(pool: Pool) -> None:
    """9a: writing it writes `change`, in the same transaction; a keyed pass silences."""
    async with world(pool) as w:
        await support.add_destination(pool, "other")
        other = await w.another("other")
        await put(pool, "ann")
        await w.hand.drain()
        await other.plan()
        await opt_out(pool, other.id, "ann", "ann@x.test")
        await w.hand.plan()

        assert (await w.hand.row("ann"))["lane"] == 0
        await w.hand.drain()
        assert w.acme.mailed() == {}


@pytest.mark.parametrize("window", [False, True])
async def test_an_opt_out_known_by_address_alone_finds_the_contact_that_is_just_being_made(
    pool: Pool, window: bool
) -> None:
    """9a, c: no mirror knows the address yet; the row in flight does."""
    async with world(pool) as w:
        other = await support.add_destination(pool, "other")
        await put(pool, "ann", "bob")
        w.acme.after.clear()
        if window:
            sending = asyncio.create_task(w.hand.full(direct=True))
        else:
            await w.hand.plan()
            sending = asyncio.create_task(w.hand.carry(await w.hand.claim()))  # type: ignore[arg-type]
        await w.acme.arrival(1)
        await pool.execute("delete from syncd.change")  # no other reason to look at them
        await opt_out(pool, other, None, "ann@x.test")
        await w.hand.plan()
        w.acme.after.set()
        await sending
        await w.hand.drain()

        assert w.acme.mailed() == {"bob@x.test": "A"}


async def test_a_no_stays_with_the_person_when_the_address_changes(pool: Pool) -> None:
    """9b: it is kept by contact and by address."""
    async with world(pool) as w:
        await put(pool, "ann")
        await w.hand.drain()
        await opt_out(pool, w.hand.id, "ann", "ann@x.test")
        await w.hand.drain()
        await move(pool, ann="new@x.test")
        await w.hand.drain()
        await put(pool, "bob=ann@x.test")
        await w.hand.drain()

        assert w.acme.mailed() == {}


@pytest.mark.parametrize("key", ["ours", "remote id", "address"])
@pytest.mark.parametrize("lost", [False, True])
async def test_a_no_does_not_wait_until_what_is_refused_beside_it_is_mended(
    pool: Pool, key: Key, lost: bool
) -> None:
    """Promise 3: the change that says it is refused for a field; mail is turned off without it."""
    async with world(pool, key, FIND | Can.REPEAT) as w:
        await put(pool, "ann", "bob")
        await w.hand.drain()
        w.acme.bad_names.add("Ann!")
        await pool.execute(
            "update syncd.contact set subscribed = false, first_name = 'Ann!' where id = 'ann'"
        )
        if lost:
            w.acme.faults.extend([None, "lost"])
        await w.hand.drain()

        assert w.acme.mailed() == {"bob@x.test": "A"}
        assert (await w.hand.row("ann"))["state"] == "rejected"
        assert (await w.hand.mirror())["ann"]["state"] == "withdrawn"
        await rename(pool, "ann", "Ann")
        await w.hand.drain()
        assert await w.hand.rows() == {}
        assert w.acme.mailed() == {"bob@x.test": "A"}
        await pool.execute("update syncd.contact set subscribed = true where id = 'ann'")
        await w.hand.drain()
        assert w.acme.mailed() == {"ann@x.test": "Ann", "bob@x.test": "A"}


async def test_a_bounce_stays_with_the_address(pool: Pool) -> None:
    """9b: the person's corrected address is mailed."""
    async with world(pool) as w:
        await put(pool, "ann")
        await w.hand.drain()
        await opt_out(pool, w.hand.id, "ann", "ann@x.test", "bounced")
        await w.hand.drain()
        assert w.acme.mailed() == {}
        await move(pool, ann="new@x.test")
        await w.hand.drain()

        assert w.acme.mailed() == {"new@x.test": "A"}


async def test_an_update_carries_no_subscription_over_a_no_that_nobody_has_read(pool: Pool) -> None:
    """9c: the flag travels only when it changes; the provider's answer is kept."""
    async with world(pool, REMOTE, FIND) as w:
        await put(pool, "ann")
        await w.hand.drain()
        await rename(pool, "ann", "B")
        await w.hand.plan()
        w.acme.say_no("ann@x.test")
        await w.hand.drain()

        assert w.acme.mailed() == {}
        assert await pool.fetchval("select kind from syncd.opt_out") == "unsubscribed"


async def test_the_repeat_after_a_lost_answer_asks_for_consent_too(pool: Pool) -> None:
    """9d: the look-up that finds the record reads its no."""
    async with world(pool, REMOTE, FIND) as w:
        await put(pool, "ann")
        await w.hand.plan()
        w.acme.faults.append("lost")
        await w.hand.step()
        w.acme.say_no("ann@x.test")
        await w.hand.drain()

        assert w.acme.mailed() == {}
        assert await pool.fetchval("select contact_id from syncd.opt_out") == "ann"


async def test_the_lists_of_a_lost_create_are_left_though_the_look_up_met_a_no(pool: Pool) -> None:
    """6, 9d: the doubt ends with the no; what the try may have left is still known."""
    async with world(pool, REMOTE, FIND) as w:
        await pool.execute("insert into syncd.list (id, name) values ('a', 'A'), ('b', 'B')")
        await put(pool, "ann")
        await pool.execute("insert into syncd.membership (list_id, contact_id) values ('a', 'ann')")
        await w.hand.plan()
        w.acme.faults.append("lost")
        await w.hand.step()
        await pool.execute("update syncd.membership set list_id = 'b'")
        w.acme.say_no("ann@x.test")
        await w.hand.drain()
        assert w.acme.mailed() == {}
        [record] = w.acme.at("ann@x.test")
        record.no = False
        await pool.execute("update syncd.contact set consented_at = clock_timestamp()")
        await w.hand.drain()

        assert w.acme.mailed() == {"ann@x.test": "A"}
        assert record.lists == {"b"}


async def test_what_we_did_ourselves_is_no_observation(pool: Pool) -> None:
    """9e: withdrawn by us, read back as 'unsubscribed': the honest return is mailed again."""
    async with world(pool, REMOTE, READS) as w:
        await put(pool, "ann")
        await w.hand.drain()
        await gone(pool, "ann")
        await w.hand.drain()
        now = datetime.now(UTC).isoformat()
        w.acme.notices = [{"contact_id": "ann", "email": "ann@x.test", "at": now}]
        assert await w.hand.reader.read() == 0
        w.acme.notices = []
        await put(pool, "ann")
        await w.hand.drain()

        assert w.acme.mailed() == {"ann@x.test": "A"}


@pytest.mark.parametrize(
    ("consented", "occurred", "mailed"),
    [
        ("now() - interval '1 h'", "now() - interval '2 h'", True),
        ("now() - interval '2 h'", "now() - interval '1 h'", False),
        ("now() + interval '1 h'", "now() - interval '1 h'", False),  # a clock ahead
        ("null", "now() - interval '1 h'", False),
        ("now() - interval '1 min'", "null", False),  # only our own look is known: it was later
    ],
)
async def test_consent_counts_if_it_is_newer_than_the_no_and_not_of_the_future(
    pool: Pool, consented: str, occurred: str, mailed: bool
) -> None:
    """9f: by the provider's time where it told."""
    async with world(pool, REMOTE, READS) as w:
        await put(pool, "ann")
        await w.hand.drain()
        await opt_out(pool, w.hand.id, "ann", "ann@x.test", at=occurred)
        await w.hand.drain()
        await pool.execute(f"update syncd.contact set consented_at = {consented}")
        await w.hand.drain()

        assert w.acme.mailed() == ({"ann@x.test": "A"} if mailed else {})


async def test_consent_given_while_a_pass_waits_for_its_turn_is_none_of_the_future(
    pool: Pool,
) -> None:
    """9f: the pass consumes the change, so nothing would look at it again."""
    async with world(pool, REMOTE, READS) as w:
        await put(pool, "ann")
        await w.hand.drain()
        await opt_out(pool, w.hand.id, "ann", "ann@x.test")
        await w.hand.drain()
        assert w.acme.mailed() == {}
        lock = "select 1 from syncd.feed where destination_id = $1 for update"
        async with holding(pool, lock, w.hand.id):
            waiting = asyncio.create_task(w.hand.plan())
            await blocked(pool)
            await pool.execute("update syncd.contact set consented_at = clock_timestamp()")
        await waiting
        await w.hand.drain()

        assert w.acme.mailed() == {"ann@x.test": "A"}


async def test_a_push_that_turns_mail_on_looks_first(pool: Pool) -> None:
    """9f and promise 3: a no given since the last reading is found, and wins."""
    async with world(pool, REMOTE, READS) as w:
        await put(pool, "ann")
        await pool.execute("update syncd.contact set subscribed = true")
        await w.hand.drain()
        await pool.execute("update syncd.contact set subscribed = false")
        await w.hand.drain()
        assert w.acme.mailed() == {}
        w.acme.notices = [
            {"contact_id": "ann", "email": "ann@x.test", "kind": "complained",
             "at": (datetime.now(UTC) + timedelta(seconds=1)).isoformat()}
        ]  # fmt: skip
        await pool.execute("update syncd.contact set subscribed = true")
        await w.hand.drain()

        assert w.acme.mailed() == {}
        assert await pool.fetchval("select kind from syncd.opt_out") == "complained"


async def test_an_event_told_again_of_a_contact_is_no_younger_than_it_was(pool: Pool) -> None:
    """9f: first the address alone was told, then whose it is; where the moment can only be
    guessed, each reading guesses a later one. Consent was given between the two readings."""
    async with world(pool, REMOTE, READS) as w:
        event = Notice(None, "ann@x.test", "unsubscribed", datetime.now(UTC), None, {"ts": "1"})
        assert await w.hand.reader.note([event])
        await put(pool, "ann")
        await pool.execute("update syncd.contact set consented_at = clock_timestamp()")
        await w.hand.drain()
        assert w.acme.mailed() == {"ann@x.test": "A"}
        await w.hand.reader.note([replace(event, contact_id="ann", occurred_at=datetime.now(UTC))])
        await w.hand.drain()

        assert w.acme.mailed() == {"ann@x.test": "A"}
        assert (await w.hand.mirror())["ann"]["subscribed"]


async def test_a_no_met_just_before_a_look_up_that_fails_is_settled_once(pool: Pool) -> None:
    """9f: of two who are to be mailed again one has just said no, and the other is looked up."""
    async with world(pool, REMOTE, READS) as w:
        await put(pool, "ann", "bob")
        await w.hand.drain()
        await pool.execute("update syncd.contact set subscribed = false")
        await w.hand.drain()
        at = (datetime.now(UTC) + timedelta(seconds=1)).isoformat()
        w.acme.notices = [
            {"contact_id": "ann", "email": "ann@x.test", "kind": "complained", "at": at}
        ]
        await pool.execute("update syncd.contact set subscribed = true")
        await w.hand.plan()
        w.acme.faults.append(503)
        await w.hand.step()
        assert not w.acme.faults
        await w.hand.drain()

        assert w.acme.mailed() == {"bob@x.test": "A"}


@pytest.mark.parametrize("newer", [True, False])
async def test_a_no_given_after_an_older_one_was_lifted_is_the_persons_own(
    pool: Pool, newer: bool
) -> None:
    """9: mail is still off there, by our own word; but that was before the older no was lifted."""
    async with world(pool, REMOTE, READS) as w:
        await put(pool, "ann")
        await w.hand.drain()
        said = {"contact_id": "ann", "email": "ann@x.test", "at": datetime.now(UTC).isoformat()}
        w.acme.notices = [said]
        w.acme.at("ann@x.test")[0].subscribed = False
        assert await w.hand.reader.read() == 1
        await w.hand.drain()
        await control.lift(pool, "ann@x.test", None, "a slip of the hand", "test")
        again = datetime.now(UTC) + timedelta(seconds=1)
        w.acme.notices = [said, {**said, "at": again.isoformat()}] if newer else [said]
        assert await w.hand.reader.read() == newer
        w.acme.notices = []  # and no later reading tells it once more
        await w.hand.drain()

        assert w.acme.mailed() == ({} if newer else {"ann@x.test": "A"})


async def test_a_no_given_after_newer_consent_replaces_the_older_one(pool: Pool) -> None:
    """9f: read just before the push that was to turn mail on; mail is off by the older no."""
    async with world(pool, REMOTE, READS) as w:
        await put(pool, "ann")
        await w.hand.drain()
        said = {"contact_id": "ann", "email": "ann@x.test", "at": datetime.now(UTC).isoformat()}
        w.acme.notices = [said]
        assert await w.hand.reader.read() == 1
        w.acme.at("ann@x.test")[0].subscribed = False
        await w.hand.drain()
        await pool.execute("update syncd.contact set consented_at = clock_timestamp()")
        again = datetime.now(UTC)
        w.acme.notices = [said, {**said, "at": again.isoformat()}]
        await w.hand.drain()

        assert w.acme.mailed() == {}
        assert await pool.fetchval("select occurred_at from syncd.opt_out") == again


@pytest.mark.parametrize("key", ["address", "remote id"])
async def test_a_no_goes_with_its_record_to_whoever_takes_it_over(pool: Pool, key: Key) -> None:
    """9: cyd's own row is older than bob's no; the record that she gets was written after it."""
    async with world(pool, key, READS | Can.REPEAT) as w:
        await put(pool, "bob", "cyd")
        await w.hand.drain()
        no = datetime.now(UTC).isoformat()
        await gone(pool, "bob")
        await w.hand.drain()
        await move(pool, cyd="bob@x.test")
        await w.hand.plan()
        w.acme.notices = [{"email": "bob@x.test", "at": no}]
        assert await w.hand.reader.read() == 1
        await w.hand.drain()

        assert w.acme.mailed() == {}


async def test_a_return_without_any_no_is_mailed_again(pool: Pool) -> None:
    """9: false to true in the source without an opt-out is a resubscription."""
    async with world(pool, REMOTE, READS) as w:
        await put(pool, "ann")
        await w.hand.drain()
        await pool.execute("update syncd.contact set subscribed = false")
        await w.hand.drain()
        await pool.execute("update syncd.contact set subscribed = true")
        await w.hand.drain()

        assert w.acme.mailed() == {"ann@x.test": "A"}


async def test_a_vanished_contact_is_not_made_again_and_stays_its_destinations_affair(
    pool: Pool,
) -> None:
    """15: not mailed there any more; every other destination goes on."""
    async with world(pool, REMOTE, FIND) as w:
        await support.add_destination(pool, "other")
        other = await w.another("other")
        await put(pool, "ann")
        await w.hand.drain()
        w.acme.records.clear()
        await rename(pool, "ann", "B")
        await w.hand.drain()
        await w.hand.full(direct=True)
        await w.hand.drain()

        assert w.acme.records == {}
        assert await pool.fetchval("select kind from syncd.opt_out") == "vanished"
        await other.drain()
        assert w.acme.mailed() == {"ann@x.test": "B"}


async def test_a_vanished_contact_is_brought_back_on_purpose(pool: Pool) -> None:
    """15: `lift` closes the row, and the next pass creates."""
    async with world(pool, REMOTE, FIND) as w:
        await put(pool, "ann")
        await w.hand.drain()
        w.acme.records.clear()
        await rename(pool, "ann", "B")
        await w.hand.drain()
        await control.lift(pool, "Ann@x.test ", None, "asked for it", "test")
        await w.hand.drain()

        assert w.acme.mailed() == {"ann@x.test": "B"}


async def test_an_opt_out_wave_is_held_only_by_opt_outs(pool: Pool) -> None:
    """2: the share is of opt-outs alone, whatever else happened today."""
    async with world(pool, guard_floor=5, guard_percent=0) as w:
        await support.many(pool, 20)
        await w.hand.drain()
        await gone(pool, *support.ids(1, 11))
        await w.hand.drain()
        await pool.execute("update syncd.contact set subscribed = false where id >= 'c00016'")
        await w.hand.drain()

        assert await w.hand.held() == {"remove": 10}
        assert len(w.acme.mailed()) == 15


async def test_a_no_that_a_look_up_finds_was_said_under_the_address_of_the_record(
    pool: Pool,
) -> None:
    """9: ann is about to leave it; it stands against whoever gets that address after her."""
    async with world(pool, "remote id", FIND) as w:
        await put(pool, "ann=s@x.test")
        await w.hand.drain()
        (record,) = w.acme.records.values()
        record.no, record.subscribed = True, False
        await rename(pool, "ann", "Anna")
        await w.hand.plan()
        w.acme.faults.append("cut")
        await w.hand.step()
        await move(pool, ann="a@x.test")
        await w.hand.drain()
        noted = await pool.fetch("select contact_id, email from syncd.opt_out")
        assert [tuple(row) for row in noted] == [("ann", "s@x.test")]
        await put(pool, "bob=s@x.test")
        await w.hand.drain()
        assert w.acme.mailed() == {}
