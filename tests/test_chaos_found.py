"""What the campaign has found (`tests.chaos`), each finding made small, so that it stays mended."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta, tzinfo
from typing import Any

import pytest
from acme_lists import shop
from company import add, company

from syncd import sql
from syncd.db import Pool
from syncd.erasure_words import requests
from syncd.flow import Flow
from syncd.fullpass import Counts
from syncd.matching import Matcher
from syncd.model import Seen
from syncd.orphans import reap
from syncd.pages import Pages, Scan
from syncd.sandbox import Handle
from syncd.sandbox.faults import Kind

ANN, BOB = "ann@x.test", "bob@x.test"
SWAP = """
update syncd.contact c set email = o.email from syncd.contact o
 where (c.id, o.id) in (('ann', 'bob'), ('bob', 'ann'))"""
IN_A_WINDOW = "select exists (select 1 from syncd.intent where $1::text = any(addresses))"
LONG_AGO = """
update syncd.opt_out set observed_at = observed_at - interval '1 h',
                         occurred_at = occurred_at - interval '1 h'"""


async def sent_once(flow: Flow, *, job: bool = False) -> None:
    """What is due is claimed, sent and settled, and that is all."""
    journal, rules = flow.journal, flow.rules
    claim = await (journal.claim_job(rules) if job else journal.claim(10, rules))
    await journal.settle(claim, (await flow.push.attempt(claim)).results)


async def moved(pool: Pool, flow: Flow, email: str) -> None:
    """Ann has another address, and nobody waits any longer."""
    await pool.execute("update syncd.contact set email = $1 where id = 'ann'", email)
    await flow.look()
    await pool.execute("update syncd.journal set due_at = now()")


def path_of(box: Handle, email: str) -> str:
    """Of the record with this address at Constant Contact."""
    people = box.snapshot()["profiles"]
    number = next(key for key, one in people.items() if one["email"] == email)
    return f"/ws/customers/syncd_sandbox/contacts/{number}"


async def test_a_no_before_an_exchanged_address_is_sent_is_a_no_at_the_new_one_too(
    database: str, pool: Pool
) -> None:
    """The record is off by the mark of the old address alone."""
    async with company(database, pool, ["clevertap"]) as at:
        await at.backfill()
        async with at.flows("clevertap") as flows:
            flow = flows["clevertap"]
            await pool.execute(SWAP)
            await flow.look()
            at.boxes["clevertap"].act("unsubscribe", email=ANN)
            await flow.read()
            await flow.look()
            await flow.pump(until_empty=True)
        people = at.boxes["clevertap"].snapshot()["profiles"]
        assert people["ann"]["Email"] == BOB
        assert not at.mailed("clevertap", ANN)
        assert not at.mailed("clevertap", BOB)


async def test_a_no_of_somebody_who_was_never_sent_is_not_our_own_doing(
    database: str, pool: Pool
) -> None:
    """The source said no first, so dan was not made; his own no outlives the source's."""
    async with company(database, pool, ["clevertap"]) as at:
        await add(pool, "dan")
        await pool.execute("update syncd.contact set subscribed = false where id = 'dan'")
        await at.backfill()
        at.boxes["clevertap"].act("unsubscribe", email="dan@x.test")
        await at.settle()
        assert await pool.fetchval("select contact_id from syncd.opt_out") == "dan"
        await pool.execute("update syncd.contact set subscribed = true where id = 'dan'")
        await at.backfill()
        assert not at.mailed("clevertap", "dan@x.test")


@pytest.mark.parametrize("mapped", [{}, {"fields": '{"First Name": "first_name"}'}])
async def test_newer_consent_ends_the_no_of_somebody_who_is_not_there(
    database: str, pool: Pool, mapped: dict[str, Any]
) -> None:
    """An address keeps its mark, whether there is a record of it or not; and though every value is
    sent as it is, which is how most of a first fill goes."""
    async with company(database, pool, ["clevertap"], **mapped) as at:
        await at.backfill()
        for who, make in (("dan", at.settle), ("eve", at.backfill)):  # by a claim; by a window
            email = f"{who}@x.test"
            at.boxes["clevertap"].act("unsubscribe", email=email)
            await at.settle()
            await pool.execute(LONG_AGO)
            await add(pool, who, consented_at=datetime.now(UTC))
            await make()
            assert at.mailed("clevertap", email)
        at.boxes["clevertap"].state.writes.resubscribed.clear()  # these were allowed


async def test_a_no_after_consent_that_was_not_conveyed_yet_is_the_persons_own(
    database: str, pool: Pool
) -> None:
    """Ann is silent there by the source's word; she consents, and before that is conveyed says no
    by a link in a mail. It was taken for an echo of our own silence."""
    async with company(database, pool, ["clevertap"]) as at:
        await at.backfill()
        await pool.execute("update syncd.contact set subscribed = false where id = 'ann'")
        await at.settle()
        await pool.execute(
            "update syncd.contact set subscribed = true, consented_at = now() where id = 'ann'"
        )
        at.boxes["clevertap"].act("unsubscribe", email=ANN)
        await at.settle()
        assert not at.mailed("clevertap", ANN)
        assert await pool.fetchval("select kind from syncd.opt_out where contact_id = 'ann'")


async def test_contacts_that_exchange_addresses_get_a_profile_each_where_profiles_are_adopted(
    database: str, pool: Pool
) -> None:
    """Bob is new there when ann's profile still has the address that is his by now. Eve left; dan
    got her address, and one day she is back."""
    options = {"clevertap": {"adopt": "email"}}
    async with company(
        database, pool, ["clevertap"], contacts=["ann", "eve"], options=options
    ) as at:
        await at.backfill()
        await add(pool, "bob")
        await pool.execute(SWAP)
        await pool.execute("delete from syncd.contact where id = 'eve'")
        await at.settle()
        await add(pool, "dan", "eve@x.test")
        await at.backfill()
        await add(pool, "eve")
        await pool.execute("update syncd.contact set email = 'dan@x.test' where id = 'dan'")
        await at.settle()
        await at.backfill()
        people = at.boxes["clevertap"].snapshot()["profiles"]
        held = {name: one["Email"] for name, one in people.items() if one["mailable"]}
        assert held == {"ann": BOB, "bob": ANN, "dan": "dan@x.test", "eve": "eve@x.test"}


async def test_who_said_no_in_the_midst_of_a_doubt_is_in_every_list_when_back(
    database: str, pool: Pool
) -> None:
    """The request that was to put ann into a second list never arrived; the look-up that was to
    end the doubt met her no."""
    options = {"clevercampaign": {"lists_enabled": True, "write_unsubscribe": True}}
    async with company(database, pool, ["clevercampaign"], options=options) as at:
        await at.backfill()
        box = at.boxes["clevercampaign"]
        async with at.flows("clevercampaign") as flows:
            flow = flows["clevercampaign"]
            await pool.execute("insert into syncd.membership values ('vip', 'ann')")
            await flow.look()
            box.act("unsubscribe", email=ANN)
            box.next_fault("cut_before", method="PUT")
            await flow.pump(until_empty=True)
        await pool.execute(LONG_AGO)
        await pool.execute("update syncd.contact set consented_at = now() where id = 'ann'")
        await at.backfill()
        assert at.mailed("clevercampaign", ANN)
        (ann,) = (one for one in box.snapshot()["profiles"].values() if one["email"] == ANN)
        assert sorted(ann["lists"]) == ["Newsletter", "VIP"]
        box.state.data.resubscribed.clear()  # these were allowed


async def test_whoever_is_looked_for_because_others_wait_is_in_every_list_in_the_end(
    database: str, pool: Pool
) -> None:
    """Ann's request, that was to put her into a second list and at another address, never arrived.
    Now she is to have bob's address, and bob the one where she may have got to."""
    options = {"clevercampaign": {"lists_enabled": True, "write_unsubscribe": True}}
    async with company(database, pool, ["clevercampaign"], options=options) as at:
        await at.backfill()
        box = at.boxes["clevercampaign"]
        async with at.flows("clevercampaign") as flows:
            flow = flows["clevercampaign"]
            await pool.execute("insert into syncd.membership values ('vip', 'ann')")
            await pool.execute("update syncd.contact set email = 's@x.test' where id = 'ann'")
            await flow.look()
            box.next_fault("cut_before", method="PUT")
            await sent_once(flow)
            assert await pool.fetchval(
                "select doubtful from syncd.journal where contact_id = 'ann'"
            )
            await pool.execute("update syncd.contact set email = $1 where id = 'ann'", BOB)
            await pool.execute("update syncd.contact set email = 's@x.test' where id = 'bob'")
            await flow.look()
            await pool.execute("update syncd.journal set due_at = now()")
            await flow.pump(until_empty=True)
        await at.backfill()
        people = {one["email"]: one["lists"] for one in box.snapshot()["profiles"].values()}
        assert people.pop("cyd@x.test") == ["Newsletter"]
        assert {email: sorted(lists) for email, lists in people.items()} == {
            BOB: ["Newsletter", "VIP"], "s@x.test": ["Newsletter"],
        }  # fmt: skip


async def test_who_comes_back_by_a_lost_request_and_moves_on_is_there_once(
    database: str, pool: Pool
) -> None:
    """The record of before is gone; the one that the request made is under the address of then."""
    async with company(database, pool, ["clevercampaign"]) as at:
        await at.backfill()
        await pool.execute("delete from syncd.contact where id = 'ann'")
        await at.settle()
        box = at.boxes["clevercampaign"]
        async with at.flows("clevercampaign") as flows:
            flow = flows["clevercampaign"]
            await add(pool, "ann", "back@x.test")
            await flow.look()
            box.next_fault("cut_after", method="POST")
            await sent_once(flow)
            assert at.mailed("clevercampaign", "back@x.test")
            await pool.execute("update syncd.contact set email = $1 where id = 'ann'", ANN)
            await flow.look()
            await pool.execute("update syncd.journal set due_at = now()")
            await flow.pump(until_empty=True)
        assert sorted(at.there("clevercampaign")) == [ANN, BOB, "cyd@x.test"]


async def test_a_no_at_the_address_of_before_is_said_at_the_one_after(
    database: str, pool: Pool
) -> None:
    """Said before ann's change was sent, and read after it was: the mirror had her as off already,
    and the new address was mailed."""
    async with company(database, pool, ["clevertap"]) as at:
        await at.backfill()
        async with at.flows("clevertap") as flows:
            flow = flows["clevertap"]
            await moved(pool, flow, "t@x.test")
            at.boxes["clevertap"].act("unsubscribe", email=ANN)
            await sent_once(flow)
            assert at.mailed("clevertap", "t@x.test")
            await flow.read()
            await flow.look()
            await flow.pump(until_empty=True)
        assert not at.mailed("clevertap", "t@x.test")
        at.boxes["clevertap"].state.writes.resubscribed.clear()  # before anybody could know


async def test_who_leaves_an_address_while_it_is_erased_is_not_erased_with_it(
    database: str, pool: Pool
) -> None:
    """Both were in one claim: who has the address was looked up, moved, and was deleted."""
    async with company(database, pool, ["clevertap"]) as at:
        await at.backfill()
        async with at.flows("clevertap") as flows:
            flow = flows["clevertap"]
            await pool.execute("insert into syncd.erasure (email) values ($1)", ANN)
            await moved(pool, flow, "t@x.test")
            await flow.erase()
            await pool.execute("update syncd.journal set due_at = now()")
            await sent_once(flow)
        await at.backfill()
        assert at.mailed("clevertap", "t@x.test")


async def test_nobody_is_put_where_somebody_in_doubt_is_being_looked_for(
    database: str, pool: Pool
) -> None:
    """Ann is in doubt, too, and goes first of the two; bob was looked for already, and her new
    record was taken for his."""
    async with company(database, pool, ["clevercampaign"]) as at:
        await at.backfill()
        async with at.flows("clevercampaign") as flows:
            flow = flows["clevercampaign"]
            await pool.execute("""
                update syncd.contact c set email = n.email
                  from (values ('ann', 'x@x.test'), ('bob', 'y@x.test')) n (id, email)
                 where n.id = c.id""")
            await flow.look()
            await pool.execute("""
                update syncd.journal j
                   set doubtful = true, email = n.email, due_at = now() - n.age * interval '1 min'
                  from (values ('ann', 'z@x.test', 1), ('bob', 'x@x.test', 2)) n (id, email, age)
                 where n.id = j.contact_id""")
            first = await flow.journal.claim(1, flow.rules)
            assert first.contact_ids == ["bob"]
            assert not (await flow.journal.claim(10, flow.rules)).entries
            await flow.journal.settle(first, (await flow.push.attempt(first)).results)
        await at.backfill()
        assert sorted(at.there("clevercampaign")) == ["cyd@x.test", "x@x.test", "y@x.test"]


async def test_who_was_put_off_and_moves_on_is_not_sent_without_an_intent(
    database: str, pool: Pool
) -> None:
    """Taken up again under the receipt of those put off together, ann was sent to an address that
    nothing had been written down of; she moved on before that was settled, and stayed there."""
    async with company(database, pool, ["constantcontact"]) as at:
        await at.backfill()
        box = at.boxes["constantcontact"]
        async with at.flows("constantcontact") as flows:
            flow = flows["constantcontact"]
            await pool.execute("update syncd.contact set first_name = 'B'")
            await flow.look()
            box.next_fault("error", method="GET", path=path_of(box, ANN))
            await sent_once(flow)
            off = "select contact_id from syncd.journal where receipt ? 'put off'"
            assert await pool.fetchval(off) is not None
            await moved(pool, flow, "t@x.test")
            await sent_once(flow, job=True)
            await moved(pool, flow, "u@x.test")
            await flow.pump(until_empty=True)
        assert sorted(one for one, mailed in at.there("constantcontact").items() if mailed) == [
            BOB, "cyd@x.test", "u@x.test",
        ]  # fmt: skip


async def test_what_a_lost_try_left_is_taken_away_though_that_was_put_off(
    database: str, pool: Pool
) -> None:
    """Ann's move was lost, and she was deleted; taking away what it had left was put off together
    with others. Taken up again, it was her old record that was left, and the new one was mailed."""
    async with company(database, pool, ["constantcontact"]) as at:
        await at.backfill()
        box = at.boxes["constantcontact"]
        async with at.flows("constantcontact") as flows:
            flow = flows["constantcontact"]
            await moved(pool, flow, "t@x.test")
            box.next_fault("cut_after", method="POST", path="/ws/customers/syncd_sandbox/contacts")
            await sent_once(flow)
            await pool.execute("delete from syncd.contact where id = 'ann'")
            await flow.look()
            await pool.execute(
                "update syncd.journal set due_at = now(), digest = null,"
                """ receipt = '{"single": "1", "put off": "unsent"}'"""
            )
            await flow.pump(until_empty=True)
        assert [one for one, mailed in at.there("constantcontact").items() if mailed] == [
            "cyd@x.test", BOB,
        ]  # fmt: skip


@pytest.mark.parametrize(("holds", "state"), [("t@x.test", "here"), (ANN, "withdrawn")])
async def test_a_worker_that_died_taking_away_a_lost_try_says_nothing_of_the_record_before(
    database: str, pool: Pool, holds: str, state: str
) -> None:
    """It counted as withdrawn, so that the next no at it would have been taken for our own."""
    async with company(database, pool, ["constantcontact"]) as at:
        await at.backfill()
        async with at.flows("constantcontact"):
            await pool.execute("insert into syncd.worker (host, pid, version, alive_until)"
                               " values ('gone', 1, '0', now() - interval '1 min')")  # fmt: skip
            await pool.execute(
                "insert into syncd.journal (destination_id, contact_id, wish, lane, state, claim,"
                " claimed_by, email, holds, doubtful)"
                " select d.id, 'ann', 'remove', 1, 'sent', 1, w.id, 't@x.test', $1, true"
                "   from syncd.destination d, syncd.worker w where w.host = 'gone'", holds,
            )  # fmt: skip
            await reap(pool)
        known = await pool.fetchrow("select state, digest from syncd.mirror where contact_id='ann'")
        assert known is not None
        assert (known["state"], known["digest"]) == (state, None)


async def test_who_was_never_there_keeps_nobody_waiting_for_the_address(
    database: str, pool: Pool
) -> None:
    """Ann was in no list, and then in doubt; bob is to have her address, and she is to have his."""
    async with company(database, pool, ["redcappi"]) as at:
        await pool.execute("delete from syncd.membership where contact_id = 'ann'")
        await at.backfill()
        assert await pool.fetchval("select state from syncd.mirror where contact_id = 'ann'")
        await pool.execute("""
            insert into syncd.journal (destination_id, contact_id, wish, lane, state, doubtful,
                                       email, sent_lists)
            select m.destination_id, m.contact_id, 'upsert', 1, 'due', true, m.email, '{news}'
              from syncd.mirror m where m.contact_id in ('ann', 'bob')""")
        await pool.execute("insert into syncd.membership values ('news', 'ann')")
        await pool.execute("update syncd.contact set first_name = id")
        await pool.execute(SWAP)
        await at.backfill()
        fields = {one["email"]: one["fields"]["first_name"]
                  for one in at.boxes["redcappi"].snapshot()["profiles"].values()}  # fmt: skip
        assert fields[ANN] == "bob"
        assert fields[BOB] == "ann"


async def test_a_lost_create_of_somebody_known_as_absent_is_taken_back_before_another(
    database: str, pool: Pool
) -> None:
    """Ann was in no list; her first record, made by a request whose answer was lost, was forgotten
    when the next try, at another address, failed before it began."""
    async with company(database, pool, ["constantcontact"]) as at:
        await pool.execute("delete from syncd.membership where contact_id = 'ann'")
        await at.backfill()
        box = at.boxes["constantcontact"]
        async with at.flows("constantcontact") as flows:
            flow = flows["constantcontact"]

            async def fails(method: str, kind: Kind) -> None:
                box.next_fault(kind, method=method)
                await pool.execute("update syncd.journal set due_at = now()")
                await sent_once(flow)

            await pool.execute("insert into syncd.membership values ('news', 'ann')")
            await flow.look()
            await fails("POST", "cut_after")
            assert at.mailed("constantcontact", ANN)
            await pool.execute("update syncd.contact set email = 't@x.test' where id = 'ann'")
            await flow.look()
            await fails("GET", "error")
            await pool.execute("update syncd.journal set due_at = now()")
            await flow.pump(until_empty=True)
        assert not at.mailed("constantcontact", ANN)
        assert at.mailed("constantcontact", "t@x.test")


async def test_who_is_half_done_and_waits_for_a_scan_is_scanned_for(
    database: str, pool: Pool
) -> None:
    """Ann was found in one list, and has an id of before in another: her change was applied in the
    one, again and again, while nobody asked for a scan of the other."""
    async with company(database, pool, ["redcappi"]) as at:
        await pool.execute("insert into syncd.membership values ('vip', 'ann')")
        await at.backfill()
        await at.scan()
        box = at.boxes["redcappi"]
        number = int(await pool.fetchval(
            "select remote_id from syncd.list_mirror where list_id = 'vip'"
        ))  # fmt: skip
        box.act("delete", email=ANN, list=number)
        box.act("add", email=ANN, list=number)
        await pool.execute(
            "update syncd.mirror set state = 'adopted', digest = null, lists = '{news}',"
            " remote = jsonb_set(remote, array['ids', $1], '\"999\"') where contact_id = 'ann'",
            str(number),
        )
        await pool.execute(
            "insert into syncd.journal (destination_id, contact_id, wish, lane, state, doubtful,"
            " email, sent_lists) select destination_id, 'ann', 'upsert', 1, 'due', true, email,"
            " '{news,vip}' from syncd.mirror where contact_id = 'ann'"
        )
        await pool.execute("update syncd.contact set first_name = 'B' where id = 'ann'")
        await at.backfill()
        people = box.snapshot()["profiles"].values()
        assert {one["fields"]["first_name"] for one in people if one["email"] == ANN} == {"B"}


@pytest.mark.parametrize("scans", [False, True])
async def test_the_record_of_before_is_left_though_the_one_after_was_looked_up(
    database: str, pool: Pool, scans: bool
) -> None:
    """Ann's move was lost half-way, found by a look or a scan, and failed again; then she moved on.
    What was found had taken the place of the record that she was still to leave."""
    async with company(database, pool, ["constantcontact"]) as at:
        await at.backfill()
        box = at.boxes["constantcontact"]
        async with at.flows("constantcontact") as flows:
            flow = flows["constantcontact"]
            await pool.execute(
                "update syncd.membership set list_id = 'vip' where contact_id = 'ann'"
            )
            await moved(pool, flow, "t@x.test")
            box.next_fault("cut_after", method="POST", path="/ws/customers/syncd_sandbox/contacts")
            await sent_once(flow)
            await pool.execute("update syncd.journal set due_at = now()")
            if scans:
                await flow.scan_all()
                known = "select email from syncd.mirror where contact_id = 'ann'"
                assert await pool.fetchval(known) == ANN
            else:
                box.next_fault("error", method="GET", path=path_of(box, "t@x.test"))
                await sent_once(flow)
            await moved(pool, flow, "u@x.test")
            await flow.pump(until_empty=True)
        assert sorted(one for one, mailed in at.there("constantcontact").items() if mailed) == [
            BOB, "cyd@x.test", "u@x.test",
        ]  # fmt: skip


async def test_a_record_that_a_lost_removal_may_have_left_is_left_though_the_next_one_was_scanned(
    database: str, pool: Pool
) -> None:
    """Ann's removal was lost, and she came back under another address: what a scan found there took
    the place of the record that she may still have been in a list with."""
    async with company(database, pool, ["constantcontact"]) as at:
        await at.backfill()
        box = at.boxes["constantcontact"]
        async with at.flows("constantcontact") as flows:
            flow = flows["constantcontact"]
            await pool.execute("delete from syncd.contact where id = 'ann'")
            await flow.look()
            box.next_fault("cut_before", method="PUT")
            await sent_once(flow)
            await add(pool, "ann", "t@x.test")
            await pool.execute(
                "update syncd.membership set list_id = 'vip' where contact_id = 'ann'"
            )
            await flow.look()
            await pool.execute("update syncd.journal set due_at = now()")
            box.next_fault("cut_after", method="POST", path="/ws/customers/syncd_sandbox/contacts")
            await sent_once(flow)
            await flow.reading.ask(["vip"])
            assert await flow.reading.step(first=True)
            await pool.execute("update syncd.journal set due_at = now()")
            await flow.pump(until_empty=True)
        mailed = {one for one, lists in at.there("constantcontact").items() if lists}
        assert mailed == {BOB, "cyd@x.test", "t@x.test"}


async def test_who_is_silent_and_moves_does_not_keep_the_record_of_the_next_holder(
    database: str, pool: Pool
) -> None:
    """Ann said no and moved: there is no record of the new address, and the one of before is dan's.
    Every scan took that for hers, and every one after it was planned for."""
    async with company(database, pool, ["constantcontact"]) as at:
        await at.backfill()
        async with at.flows("constantcontact") as flows:
            await flows["constantcontact"].scan_all()
        await pool.execute(
            "update syncd.contact set email = 't@x.test', subscribed = false where id = 'ann'"
        )
        await add(pool, "dan", ANN)
        await at.backfill()
        async with at.flows("constantcontact") as flows:
            await flows["constantcontact"].scan_all()
            assert not (await flows["constantcontact"].look()).planned
        assert at.mailed("constantcontact", ANN)


@pytest.mark.parametrize("now", ["now@x.test", ANN])
async def test_a_list_of_a_lost_try_is_left_after_two_moves_that_were_never_sent(
    database: str, pool: Pool, now: str
) -> None:
    """Of two lost tries the second one's address was looked at first; with that, the first one's
    list was forgotten, and the record of before stayed in it."""
    async with company(database, pool, ["constantcontact"]) as at:
        await at.backfill()
        box = at.boxes["constantcontact"]
        async with at.flows("constantcontact") as flows:
            flow = flows["constantcontact"]
            await pool.execute("insert into syncd.membership values ('vip', 'ann')")
            await flow.look()
            box.next_fault("cut_after", method="PUT")
            await sent_once(flow)
            await moved(pool, flow, "once@x.test")
            box.next_fault("error", method="GET")
            await sent_once(flow)
            await moved(pool, flow, now)
            await flow.pump(until_empty=True)
        mailed = {one for one, lists in at.there("constantcontact").items() if lists}
        assert mailed == {BOB, "cyd@x.test", now}


@pytest.mark.parametrize(("name", "swaps"), [  # where the address is the key, a no stays with it
    ("clevertap", False), ("clevertap", True), ("constantcontact", False),
    ("copernica", False), ("copernica", True),
])  # fmt: skip
async def test_a_no_that_is_heard_while_an_address_changes_is_said_at_the_new_one(
    database: str, pool: Pool, name: str, swaps: bool
) -> None:
    """Ann said no at her address of before; it was noted while the new one was on its way, and
    taken for said there, where she was mailed."""
    async with company(database, pool, [name]) as at:
        await at.backfill()
        async with at.flows(name) as flows:
            flow = flows[name]
            moves = "update syncd.contact set email = 't@x.test' where id = 'ann'"
            await pool.execute(SWAP if swaps else moves)
            await flow.look()
            claim = await flow.journal.claim(10, flow.rules)
            at.boxes[name].act("unsubscribe", email=ANN)
            pushed = await flow.push.attempt(claim)
            await flow.read()
            await flow.journal.settle(claim, pushed.results)
            await flow.look()
            await flow.pump(until_empty=True)
        await at.settle()
        assert not at.mailed(name, BOB if swaps else "t@x.test")
        if name == "clevertap":  # the stand-in notes what could not be known yet
            at.boxes[name].state.writes.resubscribed.clear()


async def test_who_was_refused_and_gets_a_record_in_doubt_is_no_longer_refused(
    database: str, pool: Pool
) -> None:
    """Ann's move to another address was lost; her record became bob's by an exchange. While he
    stayed refused, others were sent to the address where that record may have got to."""
    async with company(database, pool, ["redcappi"]) as at:
        await at.backfill()
        await pool.execute("""
            insert into syncd.journal (destination_id, contact_id, wish, lane, state, doubtful,
                                       email, sent_lists, digest, last_error)
            select m.destination_id, m.contact_id, 'upsert', 1, s.state, s.state = 'due', s.email,
                   '{news}', m.digest, 'no'
              from syncd.mirror m
              join (values ('ann', 'due', 's@x.test'), ('bob', 'rejected', null))
                   s (contact_id, state, email) using (contact_id)""")
        await pool.execute(SWAP)
        (row,) = await at.app.destinations(["redcappi"])
        both = (["ann", "bob"], ["bob", "ann"])  # as a pass does that finds bob's no unchanged
        assert await pool.fetchval(sql.addresses.exchange, row.id, *both, True, False) == 2
        bob = await pool.fetchrow(
            "select doubtful, email, state from syncd.journal where contact_id = 'bob'"
        )
        assert bob is not None
        assert tuple(bob) == (True, "s@x.test", "due")
        await at.backfill()


async def test_who_was_never_acknowledged_gets_nobody_elses_record_before_it_is_looked_for(
    database: str, pool: Pool
) -> None:
    """Dan's create was lost, and he gets the address of ann, who is to be there no more: her record
    became his, and his own stayed for ever."""
    async with company(database, pool, ["redcappi"]) as at:
        await at.backfill()
        async with at.flows("redcappi") as flows:
            flow = flows["redcappi"]
            await add(pool, "dan")
            await flow.look()
            at.boxes["redcappi"].next_fault("cut_after", method="POST")
            await sent_once(flow)
            assert at.mailed("redcappi", "dan@x.test")
            (row,) = await at.app.destinations(["redcappi"])
            given = await pool.fetchval(
                sql.addresses.exchange, row.id, ["dan"], ["ann"], True, False
            )
            assert given == 0
        await at.backfill()
        assert sorted(at.there("redcappi")) == [ANN, BOB, "cyd@x.test", "dan@x.test"]


async def test_who_may_have_a_record_gets_nobody_elses_before_it_is_looked_for(
    database: str, pool: Pool
) -> None:
    """Ann's create was lost; then she and bob exchange addresses. His record became hers, and was
    taken for one with her own when that was found."""
    async with company(database, pool, ["redcappi"]) as at:
        await pool.execute("delete from syncd.membership where contact_id = 'ann'")
        await pool.execute("update syncd.membership set list_id = 'vip' where contact_id = 'bob'")
        await at.backfill()
        await pool.execute("update syncd.contact set first_name = id")
        await at.backfill()
        async with at.flows("redcappi") as flows:
            flow = flows["redcappi"]
            await pool.execute(
                "insert into syncd.membership values ('news', 'ann'), ('vip', 'ann')"
            )
            await flow.look()
            at.boxes["redcappi"].next_fault("cut_after", method="POST")
            await sent_once(flow)
            assert at.mailed("redcappi", ANN)
            await pool.execute(SWAP)
            await flow.look()
            hers = "select state from syncd.mirror where contact_id = 'ann'"
            assert await pool.fetchval(hers) == "absent"
        await at.backfill()
        fields = {one["email"]: one["fields"]["first_name"]
                  for one in at.boxes["redcappi"].snapshot()["profiles"].values()}  # fmt: skip
        assert fields == {ANN: "bob", BOB: "ann", "cyd@x.test": "cyd"}


async def test_nobody_is_claimed_between_a_look_at_a_page_and_what_is_written_of_it(
    pool: Pool,
) -> None:
    """Settled meanwhile, it would be written beside the page, in another order (races 19)."""
    async with shop(pool) as w:
        await pool.execute("insert into syncd.list values ('news', 'NEWS')")
        for one in ("ann", "bob"):
            await add(pool, one)
        desired = w.hand.planner.desired
        await pool.execute(
            "insert into syncd.journal (destination_id, contact_id, wish, lane, state)"
            " select $1, id, 'upsert', 1, 'due' from syncd.contact", desired.destination_id,
        )  # fmt: skip
        scan = Scan(1, datetime.now(UTC), None, Matcher("", None, lambda *_: {}, {}))
        async with pool.acquire() as page, page.transaction():
            known = await Pages(pool, desired, 1)._known(page, scan, [Seen("1", ANN)])
            assert known.tried == {}
            claim = await pool.fetch("select contact_id from syncd.claim($1, 10, 1)",
                                     desired.destination_id)  # fmt: skip
        assert [row["contact_id"] for row in claim] == ["bob"]


async def test_an_address_is_not_erased_while_a_request_about_it_is_on_its_way(
    database: str, pool: Pool
) -> None:
    """Left to the unique index, it stopped every other contact of its claim."""
    async with company(database, pool, ["clevercampaign"]) as at:
        await at.backfill()
        async with at.flows("clevercampaign") as flows:
            flow = flows["clevercampaign"]
            await pool.execute("update syncd.contact set first_name = 'B' where id = 'ann'")
            await flow.look()
            sent = await flow.journal.claim(10, flow.rules)
            assert sent.contact_ids == ["ann"]
            await pool.execute("insert into syncd.erasure (email) values ($1)", ANN)
            await pool.execute("update syncd.contact set first_name = 'B' where id = 'bob'")
            await flow.look()
            await flow.erase()
            claim = await flow.journal.claim(10, flow.rules)
            assert claim.contact_ids == ["bob"]
            waits = await pool.fetchrow(
                "select state, last_error from syncd.journal where contact_id like 'erasure %'"
            )
            assert waits is not None
            assert tuple(waits) == ("due", "its address is in flight for another contact")


async def test_an_address_that_a_lost_try_left_somebody_at_is_not_erased_before_that_is_looked_up(
    database: str, pool: Pool
) -> None:
    """Ann's record had the address of a lost try; it was forgotten while nothing could be looked
    up, and the record taken for a stranger's when that address was to be erased."""
    async with company(database, pool, ["copernica"]) as at:
        await at.backfill()
        box = at.boxes["copernica"]
        async with at.flows("copernica") as flows:
            flow = flows["copernica"]
            box.next_fault("cut_after", method="PUT")
            await moved(pool, flow, "once@x.test")
            await sent_once(flow)
            assert "once@x.test" in at.there("copernica")
            box.next_fault("cut_before", method="GET")
            await moved(pool, flow, "now@x.test")
            await sent_once(flow)
            await pool.execute("insert into syncd.erasure (email) values ('once@x.test')")
            await flow.look()
            await flow.erase()
            claim = await flow.journal.claim(10, flow.rules)
            assert claim.contact_ids == []
            await pool.execute("update syncd.journal set due_at = now()")
            await flow.pump(until_empty=True)
        assert sorted(at.there("copernica")) == [BOB, "cyd@x.test", "now@x.test"]
        assert at.mailed("copernica", "now@x.test")


async def test_who_is_not_there_does_not_get_the_record_of_who_has_moved_to_the_address(
    database: str, pool: Pool
) -> None:
    """Dan was not made, because he had said no; then his address was ann's, too, and the pass that
    finds that came after the claim: her record was taken for his."""
    async with company(database, pool, ["clevercampaign"]) as at:
        await add(pool, "dan")
        await pool.execute("update syncd.contact set subscribed = false where id = 'dan'")
        await at.backfill()
        async with at.flows("clevercampaign") as flows:
            flow = flows["clevercampaign"]
            state = "select state from syncd.mirror where contact_id = 'dan'"
            assert await pool.fetchval(state) == "absent"
            await pool.execute("update syncd.contact set first_name = 'Dan' where id = 'dan'")
            await flow.look()
            await pool.execute("update syncd.contact set email = 'dan@x.test' where id = 'ann'")
            await pool.execute(
                "update syncd.mirror set email = 'dan@x.test' where contact_id = 'ann'"
            )
            claim = await flow.journal.claim(10, flow.rules)
            assert claim.contact_ids == []
            assert (
                await pool.fetchval("select last_error from syncd.journal")
                == "waits for contact ann to leave its address"
            )


async def test_a_full_pass_makes_nobody_at_an_address_that_another_one_has_yet_to_leave(
    database: str, pool: Pool
) -> None:
    """Dan, known as not there under the same address, was made at once: with ann's record."""
    async with company(database, pool, ["clevercampaign"]) as at:
        await add(pool, "dan")
        await pool.execute("update syncd.contact set subscribed = false where id = 'dan'")
        await at.backfill()
        async with at.flows("clevercampaign") as flows:
            await pool.execute(
                "update syncd.mirror set email = 'dan@x.test' where contact_id = 'ann'"
            )
            await pool.execute("update syncd.contact set subscribed = true where id = 'dan'")
            await flows["clevercampaign"].full_pass()
            rows = await pool.fetch("select contact_id from syncd.journal order by 1")
            assert [row["contact_id"] for row in rows] == ["ann", "dan"]


async def test_nobody_is_turned_on_at_an_address_that_has_said_no_because_it_has_another_by_now(
    database: str, pool: Pool
) -> None:
    """Ann moved between the claim and the last question whether she may be mailed; at her new
    address she may, and what was sent was the old one."""
    async with company(database, pool, ["clevertap"]) as at:
        await at.backfill()
        await pool.execute("update syncd.contact set subscribed = false where id = 'ann'")
        await at.settle()
        async with at.flows("clevertap") as flows:
            flow = flows["clevertap"]
            await pool.execute("update syncd.contact set subscribed = true where id = 'ann'")
            await flow.look()
            claim = await flow.journal.claim(10, flow.rules)
            await pool.execute(
                "insert into syncd.opt_out (destination_id, email, kind)"
                " values ($1, $2, 'unsubscribed')",
                flow.destination.id,
                ANN,
            )
            await pool.execute("update syncd.contact set email = 'now@x.test' where id = 'ann'")
            pushed = await flow.push.attempt(claim)
            assert [one.outcome for one in pushed.results] == ["opted out, or moved, meanwhile"]
        assert not at.mailed("clevertap", ANN)


async def test_who_is_to_be_turned_on_and_only_looked_for_is_looked_for_where_it_was_tried(
    database: str, pool: Pool
) -> None:
    """Ann's move was lost, and she waits for bob, who is to have the address of that try."""
    async with company(
        database, pool, ["clevercampaign"], options={"clevercampaign": {"write_unsubscribe": True}}
    ) as at:
        await at.backfill()
        await pool.execute("update syncd.contact set subscribed = false where id = 'ann'")
        await at.settle()
        async with at.flows("clevercampaign") as flows:
            flow = flows["clevercampaign"]
            await pool.execute("update syncd.contact set subscribed = true where id = 'ann'")
            at.boxes["clevercampaign"].next_fault("cut_before", method="PUT")
            await moved(pool, flow, "s@x.test")
            await sent_once(flow)
            claim = await flow.journal.claim(10, flow.rules)
            assert claim.contact_ids == []
            await pool.execute("update syncd.contact set email = 's@x.test' where id = 'bob'")
            await moved(pool, flow, BOB)
            claim = await flow.journal.claim(10, flow.rules)
            (ann,) = (one for one in claim.entries if one.contact_id == "ann")
            assert ann.change.resubscribe
            said = (await flow.push.attempt(claim)).results
            assert "opted out, or moved, meanwhile" not in [one.outcome for one in said]


async def test_newer_consent_ends_a_no_that_was_read_when_two_were_at_the_address(
    database: str, pool: Pool
) -> None:
    """Dan had ann's address before she was moved away from it; the no was hers, and only of her it
    was known that mail is off there."""
    async with company(database, pool, ["clevertap"]) as at:
        await at.backfill()
        at.boxes["clevertap"].act("unsubscribe", email=ANN)
        async with at.flows("clevertap") as flows:
            flow = flows["clevertap"]
            await pool.execute("update syncd.contact set email = 'left@x.test' where id = 'ann'")
            await add(pool, "dan", ANN)
            await flow.look()
            await pool.execute(
                "update syncd.journal set due_at = now() + interval '1 h' where contact_id = 'ann'"
            )
            await sent_once(flow)
            await flow.read()
            await pool.execute("update syncd.contact set consented_at = now() where id = 'dan'")
            await flow.look()
            await pool.execute("update syncd.journal set due_at = now()")
            await flow.pump(until_empty=True)
        assert at.mailed("clevertap", ANN)
        at.boxes["clevertap"].state.writes.resubscribed.clear()  # this was allowed


async def test_who_gets_an_address_is_not_put_into_the_lists_of_a_lost_try_at_it(
    database: str, pool: Pool
) -> None:
    """Dan's create was lost, and bob got the address before dan had left it: as the record of that
    address was bob's by then, nobody took it out of dan's list."""
    async with company(database, pool, ["constantcontact"]) as at:
        await at.backfill()
        box = at.boxes["constantcontact"]
        async with at.flows("constantcontact") as flows:
            flow = flows["constantcontact"]
            await add(pool, "dan", "s@x.test")
            await pool.execute("insert into syncd.membership values ('vip', 'dan')")
            await flow.look()
            box.next_fault("cut_after", method="POST", path="/ws/customers/syncd_sandbox/contacts")
            await sent_once(flow)
            await pool.execute("update syncd.contact set email = id || '@y.test' where id = 'dan'")
            await pool.execute("update syncd.contact set email = 's@x.test' where id = 'bob'")
            await flow.look()
            await pool.execute(
                "update syncd.journal set due_at = now() + interval '1 s' where contact_id = 'dan'"
            )
            await flow.pump(until_empty=True)
        profiles = box.snapshot()["profiles"].values()
        lists = {one["email"]: one["lists"] for one in profiles}
        assert len(lists["s@x.test"]) == 1
        assert len(lists["dan@y.test"]) == 2


async def test_of_two_at_an_address_the_one_that_is_nobody_elses_is_found(
    database: str, pool: Pool
) -> None:
    """Dan's create was lost, and ann, in doubt herself, got his address first: his look found her
    record, which is none of his, and his own stayed for ever."""
    async with company(database, pool, ["clevercampaign"]) as at:
        await at.backfill()
        box = at.boxes["clevercampaign"]
        async with at.flows("clevercampaign") as flows:
            flow = flows["clevercampaign"]
            await add(pool, "dan", "s@x.test")
            await flow.look()
            box.next_fault("cut_after", method="POST")
            await sent_once(flow)
            await moved(pool, flow, "t@x.test")
            await pool.execute(
                "update syncd.journal set due_at = now() + interval '1 h' where contact_id = 'dan'"
            )
            box.next_fault("cut_after", method="PUT")
            await sent_once(flow)
            await pool.execute("update syncd.contact set email = 'u@x.test' where id = 'dan'")
            await moved(pool, flow, "s@x.test")
            await pool.execute(
                "update syncd.journal set due_at = now() + interval '1 s' where contact_id = 'dan'"
            )
            await flow.pump(until_empty=True)
        emails = [one["email"] for one in box.snapshot()["profiles"].values()]
        assert sorted(emails) == [BOB, "cyd@x.test", "s@x.test", "u@x.test"]


async def test_who_was_silent_by_the_source_is_deleted_and_comes_back_is_mailed(
    database: str, pool: Pool
) -> None:
    """The mark that we put on her address outlived the profile, and nobody knew of it any more."""
    async with company(database, pool, ["clevertap"], when_gone="delete") as at:
        await at.backfill()
        await pool.execute("update syncd.contact set subscribed = false where id = 'ann'")
        await at.settle()
        await pool.execute("delete from syncd.contact where id = 'ann'")
        await at.settle()
        assert sorted(at.there("clevertap")) == [BOB, "cyd@x.test"]
        await add(pool, "ann")
        await at.settle()
        assert at.mailed("clevertap", ANN)


async def test_who_cannot_be_sent_and_is_in_doubt_is_not_planned_for_ever(
    database: str, pool: Pool
) -> None:
    """Ann went, came back, and her change was lost; she went again, and came back without an
    address. Every pass asked the next one to part the two, for as long as that was so."""
    async with company(database, pool, ["clevercampaign"]) as at:
        await at.backfill()
        await pool.execute("delete from syncd.contact where id = 'ann'")
        await at.settle()
        async with at.flows("clevercampaign") as flows:
            flow = flows["clevercampaign"]
            await add(pool, "ann", "back@x.test")
            await flow.look()
            at.boxes["clevercampaign"].next_fault("cut_after", method="POST")
            await sent_once(flow)
            await pool.execute("delete from syncd.contact where id = 'ann'")
            await add(pool, "ann", " ")
            await flow.look()
            await pool.execute("update syncd.journal set due_at = now()")
            await sent_once(flow)
            await flow.look()
            row = await pool.fetchrow("select state, doubtful, last_error from syncd.journal")
            assert row is not None
            assert tuple(row) == ("rejected", True, "has no e-mail address")
            assert not await flow.planner.anything_new()


async def test_two_who_were_put_off_together_do_not_wait_for_one_who_is_not_there(
    database: str, pool: Pool
) -> None:
    """Dan is known as absent, under the address that eve gets; both were put off, dan at his new
    one: neither has anything to leave."""
    async with company(database, pool, ["constantcontact"]) as at:
        await at.backfill()
        await pool.execute("insert into syncd.contact (id, email) values ('dan', 'dan@x.test')")
        await at.settle()
        assert await pool.fetchval("select state from syncd.mirror where contact_id = 'dan'") == (
            "absent"
        )
        async with at.flows("constantcontact") as flows:
            flow = flows["constantcontact"]
            await pool.execute("insert into syncd.membership values ('news', 'dan')")
            await pool.execute("update syncd.contact set email = 'd@x.test' where id = 'dan'")
            await add(pool, "eve", "dan@x.test")
            await flow.look()
            put_off = """{"single": "1", "put off": "unsent"}"""
            await pool.execute(
                "update syncd.journal j set receipt = $1, email = c.email"
                "  from syncd.contact c where c.id = j.contact_id", put_off,
            )  # fmt: skip
            async with asyncio.timeout(30):
                await flow.pump(until_empty=True)
        assert await pool.fetchval("select count(*) from syncd.journal") == 0
        assert {"d@x.test", "dan@x.test"} < set(at.there("constantcontact"))


async def test_who_is_to_leave_a_list_that_another_process_has_made_leaves_it(
    database: str, pool: Pool
) -> None:
    """Ann said no and moved; the process that saw to it had not heard of her second list yet."""
    async with company(database, pool, ["constantcontact"]) as at:
        await at.backfill()
        box = at.boxes["constantcontact"]

        def lists() -> list[str]:
            known = box.snapshot()["lists"].values()
            return sorted(one["name"] for one in known if ANN in one["contacts"].values())

        async with at.flows("constantcontact") as one, at.flows("constantcontact") as other:
            await other["constantcontact"].keep_lists()
            await pool.execute("insert into syncd.list values ('extra', 'Extra')")
            await pool.execute("insert into syncd.membership values ('extra', 'ann')")
            await one["constantcontact"].look()
            await one["constantcontact"].pump(until_empty=True)
            assert lists() == ["Extra", "Newsletter"]
            await pool.execute(
                "update syncd.contact set email = 'new@x.test', subscribed = false where id = 'ann'"
            )
            await other["constantcontact"].look()
            await other["constantcontact"].pump(until_empty=True)
        assert lists() == []


async def test_a_record_that_is_about_to_leave_an_erased_address_is_not_erased_with_it(
    database: str, pool: Pool
) -> None:
    """Bob had got ann's address, and asked to be forgotten; ann's own record still was there. It
    was deleted, and made again without what had not changed."""
    async with company(database, pool, ["clevertap"]) as at:
        await at.backfill()
        box = at.boxes["clevertap"]
        async with at.flows("clevertap") as flows:
            flow = flows["clevertap"]
            await pool.execute("update syncd.contact set email = 'new@x.test' where id = 'ann'")
            await pool.execute("update syncd.contact set email = $1 where id = 'bob'", ANN)
            await flow.look()
            await pool.execute("update syncd.journal set due_at = now() + interval '1 h'")
            await pool.execute("delete from syncd.contact where id = 'bob'")
            await pool.execute(
                "insert into syncd.erasure (contact_id, email) values ('bob', $1)", ANN
            )
            await flow.look()
            await flow.erase()
            await sent_once(flow)
            assert box.snapshot()["profiles"]["ann"]["Email"] == ANN
            assert (
                await pool.fetchval(
                    "select last_error from syncd.journal where contact_id like 'erasure %'"
                    " and last_error is not null"
                )
                == "waits for contact ann to leave its address"
            )
            await pool.execute("update syncd.journal set due_at = now()")
            await flow.pump(until_empty=True)
        ann = box.snapshot()["profiles"]["ann"]
        assert (ann["Email"], ann["Lists"], ann["mailable"]) == ("new@x.test", ["news"], True)
        assert at.there("clevertap").keys() == {"new@x.test", "cyd@x.test"}


@pytest.mark.parametrize("beside", [False, True])
async def test_where_a_window_has_lost_a_create_is_remembered(
    database: str, pool: Pool, beside: bool
) -> None:
    """Dan's first request, of a full pass, was lost, and he has moved on: the record that it made
    stayed, beside a new one. beside: he was changed while it was on its way."""
    async with company(database, pool, ["clevercampaign"]) as at:
        await at.backfill()
        box = at.boxes["clevercampaign"]
        async with at.flows("clevercampaign") as flows:
            flow = flows["clevercampaign"]
            await add(pool, "dan")
            box.set_faults(latency_ms=[400, 400] if beside else [0, 0])
            box.next_fault("cut_after", method="POST", path="/contact")
            async with asyncio.TaskGroup() as group:
                group.create_task(flow.full_pass())
                if beside:
                    while not await pool.fetchval(IN_A_WINDOW, "dan@x.test"):
                        await asyncio.sleep(0.01)
                    await pool.execute("update syncd.contact set first_name='B' where id = 'dan'")
                    await flow.look()
            box.set_faults()
            tried = await pool.fetchval("select email from syncd.journal where contact_id = 'dan'")
            assert tried == "dan@x.test"
            await pool.execute("update syncd.contact set email = 'd@x.test' where id = 'dan'")
            await flow.look()
            await pool.execute("update syncd.journal set due_at = now()")
            await flow.pump(until_empty=True)
        assert sorted(at.there("clevercampaign")) == [ANN, BOB, "cyd@x.test", "d@x.test"]


class Behind(datetime):
    """A worker's clock, an hour behind the database's."""

    @classmethod
    def now(cls, tz: tzinfo | None = None) -> Any:
        return datetime.now(tz) - timedelta(hours=1)


@pytest.mark.parametrize("name", ["clevertap", "copernica"])
async def test_a_no_is_no_older_for_a_clock_that_is_behind(
    database: str, pool: Pool, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """It was dated by the worker's own clock: consent of half an hour before seemed to be newer."""
    for module in ("clevertap", "copernica_find"):
        monkeypatch.setattr(f"syncd.providers.{module}.datetime", Behind, raising=False)
    async with company(database, pool, [name]) as at:
        await pool.execute(
            "update syncd.contact set consented_at = now() - interval '30 min' where id = 'ann'"
        )
        await at.backfill()
        await at.settle()
        at.boxes[name].act("unsubscribe", email=ANN)
        await at.settle()
        no = await pool.fetchrow("select occurred_at, observed_at from syncd.opt_out")
        assert no is not None
        assert timedelta(0) <= no["observed_at"] - no["occurred_at"] < timedelta(minutes=1)
        await pool.execute("update syncd.contact set first_name = 'B' where id = 'ann'")
        await at.settle()
        assert not at.mailed(name, ANN)


async def test_of_two_in_doubt_who_exchange_addresses_neither_gets_the_others_record(
    database: str, pool: Pool
) -> None:
    """Bob's record had got to t@ by a lost request. Ada, whose create never arrived, was to have t@
    and was looked for first: she was put into bob's record, which then followed him."""
    async with company(database, pool, ["clevercampaign"]) as at:
        await at.backfill()
        box = at.boxes["clevercampaign"]
        async with at.flows("clevercampaign") as flows:
            flow = flows["clevercampaign"]
            await add(pool, "ada", "s@x.test")
            await flow.look()
            box.next_fault("cut_before", method="POST")
            await sent_once(flow)
            await pool.execute("update syncd.contact set email = 't@x.test' where id = 'bob'")
            await flow.look()
            await pool.execute(
                "update syncd.journal set due_at = now() + interval '1 h' where contact_id = 'ada'"
            )
            box.next_fault("cut_after", method="PUT")
            await sent_once(flow)
            await pool.execute(
                "update syncd.contact set email = case id when 'bob' then 's@x.test'"
                " else 't@x.test' end where id in ('ada', 'bob')"
            )
            await flow.look()
            await pool.execute("update syncd.journal set due_at = now()")
            async with asyncio.timeout(60):
                await flow.pump(until_empty=True)
        people = {one["email"]: key for key, one in box.snapshot()["profiles"].items()}
        assert sorted(people) == [ANN, "cyd@x.test", "s@x.test", "t@x.test"]
        remote = "select remote ->> 'id' from syncd.mirror where contact_id = $1"
        assert people["t@x.test"] == await pool.fetchval(remote, "ada")
        assert people["s@x.test"] == await pool.fetchval(remote, "bob")


async def test_a_record_whose_withdrawal_was_lost_is_left_though_the_one_after_was_found(
    database: str, pool: Pool
) -> None:
    """Ann was deleted, which was lost, and is back at another address, which was lost, too. A look
    met her there, and the record of before was forgotten, in its list."""
    async with company(database, pool, ["constantcontact"]) as at:
        await at.backfill()
        box = at.boxes["constantcontact"]
        old = path_of(box, ANN)
        async with at.flows("constantcontact") as flows:
            flow = flows["constantcontact"]
            await pool.execute("delete from syncd.contact where id = 'ann'")
            await flow.look()
            box.next_fault("cut_before", method="PUT", path=old)
            await sent_once(flow)
            await add(pool, "ann", "new@x.test")
            await flow.look()
            for fault in ("cut_after", "cut_before"):
                await pool.execute("update syncd.journal set due_at = now()")
                box.next_fault("cut_after", method="POST") if fault == "cut_after" else (
                    box.next_fault("cut_before", method="GET", path=old)
                )
                await sent_once(flow)
            await pool.execute("update syncd.journal set due_at = now()")
            await flow.pump(until_empty=True)
        assert at.there("constantcontact") == {
            ANN: False, BOB: True, "cyd@x.test": True, "new@x.test": True,
        }  # fmt: skip


async def test_consent_newer_than_a_no_within_a_doubt_turns_mail_on(
    database: str, pool: Pool
) -> None:
    """Ann's change was applied, and its answer lost; then she said no, and yes again. That her
    record holds the change says nothing of which came last: her no was noted again for ever."""
    async with company(database, pool, ["copernica"]) as at:
        await at.backfill()
        box = at.boxes["copernica"]
        async with at.flows("copernica") as flows:
            flow = flows["copernica"]
            await pool.execute("update syncd.contact set first_name = 'B' where id = 'ann'")
            await flow.look()
            box.next_fault("cut_after", method="PUT")
            await sent_once(flow)
            box.act("unsubscribe", email=ANN)
            await flow.read()
            await pool.execute(LONG_AGO)
            await pool.execute("update syncd.contact set consented_at = now() where id = 'ann'")
            await flow.look()
            await pool.execute("update syncd.journal set due_at = now()")
            async with asyncio.timeout(30):
                await flow.pump(until_empty=True)
        assert at.mailed("copernica", ANN)
        box.state.data.turned_on.clear()  # this was allowed


@pytest.mark.parametrize("state", ["due", "sent", "rejected"])
async def test_a_record_at_an_erased_address_is_not_forgotten_before_it_has_left(
    database: str, pool: Pool, state: str
) -> None:
    """An exchange of records had brought ann's there; her own change was on its way, or refused,
    when the erasure ended, and nobody knew of the record any more."""
    async with company(database, pool, ["constantcontact"]) as at:
        await at.backfill()
        async with at.flows("constantcontact") as flows:
            flow = flows["constantcontact"]
            await pool.execute("insert into syncd.erasure (email) values ('z@x.test')")
            await flow.erase()
            await flow.pump(until_empty=True)
            await pool.execute(
                "update syncd.mirror set email = 'z@x.test' where contact_id = 'ann'"
            )
            await pool.execute(
                "insert into syncd.journal"
                " (destination_id, contact_id, wish, lane, state, claim, claimed_by, last_error)"
                " select d.id, 'ann', 'upsert', 1, $1, 1, case $1 when 'sent' then w.id end, 'no'"
                "   from syncd.destination d, syncd.worker w limit 1", state,
            )  # fmt: skip
            await flow.erase()
            assert await pool.fetchval("select 1 from syncd.mirror where contact_id = 'ann'")
            [request] = await requests(at.app)
            waits = "not forgotten here yet: at constantcontact the record of contact ann"
            assert waits in request.says[-1]
            assert ("syncd rejected" in request.says[-1]) == (state == "rejected")
            await pool.execute("update syncd.mirror set email = $1 where contact_id = 'ann'", ANN)
            await pool.execute("delete from syncd.journal")
            await flow.erase()
        assert await pool.fetchval("select purged_at is not null from syncd.erasure")
        assert await pool.fetchval("select 1 from syncd.mirror where contact_id = 'ann'")


async def test_what_bears_our_own_mark_is_off_by_us_though_it_was_edited_there(
    database: str, pool: Pool
) -> None:
    """Ann was silent by the source, and is not any more; that never arrived, and somebody over
    there has changed her name. It is no no of hers."""
    async with company(database, pool, ["copernica"]) as at:
        await at.backfill()
        box = at.boxes["copernica"]
        await pool.execute("update syncd.contact set subscribed = false where id = 'ann'")
        await at.settle()
        async with at.flows("copernica") as flows:
            flow = flows["copernica"]
            await pool.execute("update syncd.contact set subscribed = true where id = 'ann'")
            await flow.look()
            box.next_fault("cut_before", method="PUT")
            await sent_once(flow)
            box.act("set_field", email=ANN, name="first_name", value="Anna")
            await pool.execute("update syncd.journal set due_at = now()")
            await flow.pump(until_empty=True)
        assert at.mailed("copernica", ANN)
        assert await pool.fetchval("select count(*) from syncd.opt_out") == 0


async def test_two_erasures_at_one_address_do_not_wait_for_each_other(
    database: str, pool: Pool
) -> None:
    """Ann's own, and that of her address: the process that was at both was killed."""
    async with company(database, pool, ["constantcontact"]) as at:
        await at.backfill()
        async with at.flows("constantcontact") as flows:
            flow = flows["constantcontact"]
            await pool.execute("delete from syncd.contact where id = 'ann'")
            await pool.execute("insert into syncd.erasure (contact_id) values ('ann')")
            await flow.look()
            await flow.erase()
            killed = await pool.fetch(
                "update syncd.journal set doubtful = true, email = $1, due_at = now()"
                " returning contact_id", ANN,
            )  # fmt: skip
            assert {one["contact_id"].rstrip(" 0123456789") for one in killed} == {"ann", "erasure"}
            await flow.pump(until_empty=True)
        assert await pool.fetchval("select count(*) from syncd.journal") == 0


@pytest.mark.parametrize("met", [True, False], ids=["met", "by its data"])
@pytest.mark.parametrize("provider", ["clevercampaign", "copernica"])
async def test_a_no_after_a_lost_yes_that_was_seen_to_have_arrived_is_a_new_one(
    database: str, pool: Pool, provider: str, met: bool
) -> None:
    """Ann said no, and yes again. That was applied, but the answer lost; her next no looks just
    like the first. met: a look met her mailed, but what was to be sent then was refused. Else the
    first no was the source's, and what her record holds besides tells that the try has arrived."""
    options = {provider: {"lists_enabled": True, "write_unsubscribe": True}}
    async with company(
        database, pool, [provider], options=options if provider == "clevercampaign" else {}
    ) as at:
        await at.backfill()
        box = at.boxes[provider]
        if met:
            box.act("unsubscribe", email=ANN)
            await at.scan()
        else:
            await pool.execute("update syncd.contact set subscribed = false where id = 'ann'")
        await at.settle()
        await pool.execute(LONG_AGO)
        async with at.flows(provider) as flows:
            flow = flows[provider]
            await pool.execute("update syncd.contact set consented_at = now() where id = 'ann'")
            if not met:
                await pool.execute(
                    "update syncd.contact set first_name = 'B', subscribed = true where id = 'ann'"
                )
            await flow.look()
            box.next_fault("cut_after", method="PUT")
            await sent_once(flow)
            assert at.mailed(provider, ANN)
            await pool.execute("update syncd.journal set due_at = now()")
            if met:
                box.next_fault("error", method="PUT", status=503)
                await sent_once(flow)
            box.act("unsubscribe", email=ANN)
            await pool.execute("update syncd.journal set due_at = now()")
            await flow.pump(until_empty=True)
        assert not at.mailed(provider, ANN)
        await at.settle()
        assert not at.mailed(provider, ANN)
        data = box.state.data  # that she was turned on after her first no was allowed
        (data.resubscribed if provider == "clevercampaign" else data.turned_on).clear()


async def test_who_is_taken_away_after_a_lost_move_stays_at_the_address_there(
    database: str, pool: Pool
) -> None:
    """Taking ann away wrote the address that the lost try was to bring: bob, who got that address,
    was found in her record by the next scan, and his own was mailed whatever he said."""
    options = {"clevercampaign": {"write_unsubscribe": True}}
    async with company(database, pool, ["clevercampaign"], options=options) as at:
        await at.backfill()
        box = at.boxes["clevercampaign"]
        async with at.flows("clevercampaign") as flows:
            flow = flows["clevercampaign"]
            box.next_fault("cut_before", method="PUT")
            await moved(pool, flow, "t@x.test")
            await sent_once(flow)
            await pool.execute("delete from syncd.contact where id = 'ann'")
            await flow.look()
            await pool.execute("update syncd.journal set due_at = now()")
            box.next_fault("cut_before", method="GET")
            await sent_once(flow)
            await pool.execute("update syncd.journal set due_at = now()")
            await flow.pump(until_empty=True)
        assert at.there("clevercampaign").get("t@x.test") is None
        assert not at.mailed("clevercampaign", ANN)


async def test_a_removal_that_was_never_sent_does_not_make_the_next_no_our_own(
    database: str, pool: Pool
) -> None:
    """The answer to a change of ann's was lost, she was deleted, and looking for her failed: she
    counted as withdrawn. What she said herself then was taken for that, and ended by her return."""
    options = {"clevercampaign": {"write_unsubscribe": True}}
    async with company(database, pool, ["clevercampaign"], options=options) as at:
        await at.backfill()
        box = at.boxes["clevercampaign"]
        async with at.flows("clevercampaign") as flows:
            flow = flows["clevercampaign"]
            await pool.execute("update syncd.contact set first_name = 'B' where id = 'ann'")
            await flow.look()
            box.next_fault("cut_before", method="PUT")
            await sent_once(flow)
            await pool.execute("delete from syncd.contact where id = 'ann'")
            await flow.look()
            await pool.execute("update syncd.journal set due_at = now()")
            box.next_fault("cut_before", method="GET")
            await sent_once(flow)
            box.act("unsubscribe", email=ANN)
            await add(pool, "ann", ANN)
            await flow.look()
            await pool.execute("update syncd.journal set due_at = now()")
            await flow.pump(until_empty=True)
        assert not at.mailed("clevercampaign", ANN)
        assert await pool.fetchval("select 1 from syncd.opt_out where email = $1", ANN)


@pytest.mark.parametrize(
    ("name", "when_gone", "options"),
    [
        ("clevercampaign", "withdraw", {"write_unsubscribe": True}),
        ("clevercampaign", "delete", {}),
        ("copernica", "withdraw", {}),
        ("copernica", "delete", {}),
    ],
)
async def test_a_no_that_nobody_has_read_yet_does_not_go_with_its_record(
    database: str, pool: Pool, name: str, when_gone: str, options: dict[str, Any]
) -> None:
    """Ann said no, and was taken away there before that was read: elsewhere she was mailed on."""
    names = [name, "constantcontact"]
    more = {name: options} if name == "clevercampaign" else None
    async with company(database, pool, names, options=more) as at:
        await pool.execute(
            "update syncd.destination set lists = array['news'], everyone = false, when_gone = $2"
            " where name = $1", name, when_gone,
        )  # fmt: skip
        await at.backfill()
        await pool.execute("update syncd.membership set list_id = 'vip' where contact_id = 'ann'")
        at.boxes[name].act("unsubscribe", email=ANN)
        async with at.flows(*names) as flows:
            for _ in range(2):
                for flow in flows.values():
                    await flow.look()
                    await flow.pump(until_empty=True)
                    await flow.read()
        assert not at.mailed(name, ANN)
        assert not at.mailed("constantcontact", ANN)
        assert await pool.fetchval("select count(*) from syncd.journal") == 0
        assert await pool.fetchval(
            "select m.state from syncd.mirror m join syncd.destination d on d.id = m.destination_id"
            " where contact_id = 'ann' and d.name = $1",
            name,
        ) in ("withdrawn", None)


async def test_who_is_not_there_and_in_doubt_waits_for_a_request_about_the_address_of_the_try(
    database: str, pool: Pool
) -> None:
    """Known as absent at the very address that a lost try was sent to, ann was claimed though bob
    was on his way to it: the claim as a whole was undone, or deadlocked with a pass."""
    async with company(database, pool, ["copernica"]) as at:
        await at.backfill()
        async with at.flows("copernica") as flows:
            journal, rules = flows["copernica"].journal, flows["copernica"].rules
            await pool.execute("delete from syncd.contact where id = 'ann'")
            await pool.execute("update syncd.mirror set state = 'absent' where contact_id = 'ann'")
            await pool.execute(
                "insert into syncd.journal (destination_id, contact_id, wish, lane, state, claim,"
                " claimed_by, email, holds, doubtful)"
                " select m.destination_id, m.contact_id, w.wish, 1, w.state, 1, w.worker, $1,"
                "        case when w.state = 'sent' then $1 end, true"
                "   from syncd.mirror m"
                "   join (select 'ann' as id, 'remove' as wish, 'due' as state, null::int as worker"
                "         union all select 'bob', 'upsert', 'sent', max(id) from syncd.worker) w"
                "     on w.id = m.contact_id", ANN,
            )  # fmt: skip
            claim = await journal.claim(10, rules)
        assert (claim.taken, claim.entries) == (1, [])
        why = "select last_error from syncd.journal where contact_id = 'ann'"
        assert await pool.fetchval(why) == "its address is in flight for another contact"


async def test_who_is_known_as_absent_gets_the_record_that_somebody_gone_has_left_at_the_address(
    database: str, pool: Pool
) -> None:
    """The mirror knew ann as absent at her address, and bob, who is gone, as withdrawn there: her
    address was the same as before, so that nobody gave her his record, and she waited for ever."""
    async with company(database, pool, ["clevercampaign"], contacts=("bob", "cyd")) as at:
        await at.backfill()
        async with at.flows("clevercampaign") as flows:
            flow = flows["clevercampaign"]
            await pool.execute("delete from syncd.contact where id = 'bob'")
            await pool.execute("update syncd.mirror set state = 'withdrawn', digest = null,"
                               " subscribed = false where contact_id = 'bob'")  # fmt: skip
            await pool.execute(
                "insert into syncd.mirror (destination_id, contact_id, email, state, subscribed)"
                " select id, 'ann', $1, 'absent', false from syncd.destination", BOB,
            )  # fmt: skip
            await add(pool, "ann", BOB)
            async with asyncio.timeout(10):
                await flow.look()
                await flow.pump(until_empty=True)
        assert at.there("clevercampaign") == {BOB: True, "cyd@x.test": True}


async def test_a_row_that_waits_in_a_plan_decided_before_it_was_settled_is_sent_by_the_backfill(
    database: str, pool: Pool
) -> None:
    """A settlement saw the plan open, and wrote its row as held by it when the pass had released
    it already: the backfill ended with 1, and said that something is held."""
    async with company(database, pool, ["constantcontact"]) as at:
        await at.backfill()
        async with at.flows("constantcontact") as flows:
            flow = flows["constantcontact"]
            swept = flow.full_pass

            async def slow(force: bool = False) -> Counts | None:
                counts = await swept(force)
                await pool.execute(
                    "with decided as (insert into syncd.plan (destination_id, kind, state,"
                    "   decided_at, decided_by) select id, 'change', 'released', now(), 'syncd'"
                    "   from syncd.destination returning id, destination_id)"
                    " insert into syncd.journal (destination_id, contact_id, wish, lane, state,"
                    "   plan_id) select destination_id, 'ann', 'upsert', 1, 'held', id from decided"
                )
                return counts

            flow.full_pass = slow  # type: ignore[method-assign]
            async with asyncio.timeout(30):
                await flow.backfill()
        assert await pool.fetchval("select count(*) from syncd.journal") == 0
