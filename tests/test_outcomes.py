"""The table of outcomes (design, section 6), each row through Push and Journal.settle over HTTP."""

from __future__ import annotations

import asyncio
import math
from typing import Any

import pytest
import structlog
from support import Hand, gone, many, put, rename, world

from syncd import control, sql
from syncd.breaker import Breaker
from syncd.db import Pool
from syncd.decide import Entry
from syncd.errors import Transient
from syncd.flow import Flow
from syncd.model import Can, Change, Key, Person, Verb
from syncd.outcomes import postponed

FIND = Can.FIND
REMOTE: Key = "remote id"
JOBS = Can.FIND | Can.JOBS


# ── One contact's outcome ───────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("key", ["ours", "address", "remote id"])
async def test_applied_writes_the_mirror_and_ends_the_row(pool: Pool, key: Key) -> None:
    async with world(pool, key) as w:
        await put(pool, "ann")
        await w.hand.plan()
        w.acme.refuses = {"ann": {"ok": "77", "lacking": ["phone"]}}
        await w.hand.step()

        row = (await w.hand.mirror())["ann"]
        assert (row["state"], row["remote"], row["lacking"]) == ("here", '{"id": "77"}', ["phone"])
        assert await w.hand.rows() == {}


async def test_absent_is_in_step_and_no_rejection(pool: Pool) -> None:
    """Without a list where one is needed, and without a yes where nothing can look."""
    async with world(pool, "ours", Can.REPEAT, traits={"needs_list": True}) as w:
        await put(pool, "ann")
        await w.hand.drain()
        await w.hand.full(direct=True)

        assert (await w.hand.mirror())["ann"]["state"] == "absent"
        assert (await w.hand.rows(), w.acme.writes) == ({}, [])


async def test_whoever_is_not_mailable_and_unknown_there_is_never_created(pool: Pool) -> None:
    async with world(pool, REMOTE, FIND) as w:
        await put(pool, "ann")
        await pool.execute("update syncd.contact set subscribed = false")
        await w.hand.drain()

        assert w.acme.records == {}
        assert (await w.hand.mirror())["ann"]["state"] == "absent"


async def test_rejected_keeps_the_providers_words_and_harms_nobody_else(pool: Pool) -> None:
    async with world(pool) as w:
        await put(pool, "ann", "bob")
        w.acme.refuses = {"ann": {"rejected": "no such domain"}}
        await w.hand.drain()

        row = await w.hand.row("ann")
        assert (row["state"], row["last_error"], row["last_status"]) == (
            "rejected", "no such domain", 422,
        )  # fmt: skip
        assert w.acme.mailed() == {"bob@x.test": "A"}


async def test_a_person_can_have_the_rejected_tried_again(pool: Pool) -> None:
    async with world(pool) as w:
        await put(pool, "ann")
        w.acme.refuses = {"ann": {"rejected": "no such domain"}}
        await w.hand.drain()
        w.acme.refuses = {}
        assert await control.retry(pool, ["acme"], None) == 1
        await w.hand.drain()

        assert w.acme.mailed() == {"ann@x.test": "A"}


async def test_a_rejected_update_leaves_what_is_there_unknown(pool: Pool) -> None:
    """An earlier part of it may have been applied: going back to the old data is sent."""
    async with world(pool) as w:
        await put(pool, "ann")
        await w.hand.drain()
        await rename(pool, "ann", "bad")
        w.acme.refuses = {"ann": {"rejected": "bad"}}
        await w.hand.drain()
        assert (await w.hand.mirror())["ann"]["digest"] is None
        w.acme.refuses = {}
        await rename(pool, "ann", "A")
        await w.hand.drain()

        assert await w.hand.rows() == {}


async def test_opted_out_is_written_down_and_never_answered_with_a_create(pool: Pool) -> None:
    async with world(pool, REMOTE, FIND) as w:
        await put(pool, "ann")
        w.acme.refuses = {"ann": {"opted_out": "complained"}}
        await w.hand.plan()
        await w.hand.step()
        w.acme.refuses = {}
        await w.hand.drain()
        await w.hand.full(direct=True)
        await w.hand.drain()

        row = await pool.fetchrow("select contact_id, email, kind from syncd.opt_out")
        assert row
        assert tuple(row) == ("ann", "ann@x.test", "complained")
        assert w.acme.records == {}


async def test_vanished_is_written_down_and_never_answered_with_a_create(pool: Pool) -> None:
    async with world(pool, REMOTE, FIND) as w:
        await put(pool, "ann")
        await w.hand.drain()
        w.acme.records.clear()
        await rename(pool, "ann", "B")
        await w.hand.drain()
        await rename(pool, "ann", "C")
        await w.hand.drain()

        assert w.acme.records == {}
        assert await pool.fetchval("select kind from syncd.opt_out") == "vanished"


async def test_waits_stays_due_and_asks_for_one_scan_of_the_list(pool: Pool) -> None:
    async with world(pool, REMOTE, FIND) as w:
        await put(pool, "ann", "bob")
        w.acme.refuses = {one: {"wait": "l1"} for one in ("ann", "bob")}
        await w.hand.plan()
        pushed = await w.hand.send(claim := await w.hand.claim())
        await w.hand.journal.settle(claim, pushed.results)

        assert pushed.scans == {"l1"}
        assert await w.hand.count("state = 'due' and attempts = 0 and due_at > now()") == 2


async def test_postponed_comes_back_when_the_provider_said(pool: Pool) -> None:
    async with world(pool) as w:
        await put(pool, "ann")
        w.acme.refuses = {"ann": {"later": 500}}
        await w.hand.plan()
        await w.hand.step()

        assert await w.hand.count("state = 'due' and due_at > now() + interval '490 s'") == 1


async def test_who_could_not_connect_leaves_the_contact_to_others_soon() -> None:
    """A host that is cut off has its breaker; a contact does not wait for that host's sake."""
    change = Change(
        "ann", Verb.PUT, Person("ann@x.test", {}, {}, True), None, None, True, False, False
    )
    entry = Entry("ann", change, None, "ann@x.test", 1, 0, None, (), True)

    waits = [postponed(entry, Transient("cannot connect"), 12).after for _ in range(50)]
    busy = [postponed(entry, Transient("busy", status=503), 12).after for _ in range(50)]

    assert max(waits) <= 5 < max(busy)
    assert postponed(entry, Transient("not before", after=60), 12).after == 60


# ── Bulk jobs ───────────────────────────────────────────────────────────────────────────────


async def test_a_job_is_polled_by_any_worker_until_it_is_done(pool: Pool) -> None:
    async with world(pool, REMOTE, JOBS) as w:
        await put(pool, "ann", "bob")
        await w.hand.plan()
        w.acme.running.add("j1")
        await w.hand.step()
        assert await w.hand.count('receipt = \'{"job": "j1"}\' and attempts = 0') == 2
        other = await w.another()
        for _ in range(3):
            job = await other.journal.claim_job(other.rules)
            assert len(job.entries) == 2
            await other.carry(job)
        w.acme.running.clear()
        await other.drain()

        assert w.acme.mailed() == {"ann@x.test": "A", "bob@x.test": "A"}
        assert await w.hand.rows() == {}
        assert len([path for path, _ in w.acme.requests if path == "/jobs"]) == 1


@pytest.mark.parametrize("polls", [0, 1, 3])
async def test_what_changes_while_a_job_runs_is_sent_after_it(pool: Pool, polls: int) -> None:
    """However often it was looked at meanwhile; and its remote ids are kept."""
    async with world(pool, REMOTE, JOBS) as w:
        await put(pool, "ann", "bob")
        await w.hand.plan()
        w.acme.running.add("j1")
        await w.hand.step()
        await rename(pool, "ann", "B")
        await w.hand.plan()
        for _ in range(polls):
            await w.hand.carry(await w.hand.journal.claim_job(w.hand.rules))
        w.acme.running.clear()
        await w.hand.drain()

        assert w.acme.mailed() == {"ann@x.test": "B", "bob@x.test": "A"}
        assert len(w.acme.records) == 2


async def test_a_change_back_while_a_job_runs_is_not_nothing_to_do(pool: Pool) -> None:
    async with world(pool, REMOTE, JOBS) as w:
        await put(pool, "ann", "bob")
        await w.hand.drain()
        await pool.execute("update syncd.contact set first_name = 'B'")
        await w.hand.plan()
        await w.hand.step()
        await pool.execute("update syncd.contact set first_name = 'A'")
        await w.hand.drain()

        assert w.acme.mailed() == {"ann@x.test": "A", "bob@x.test": "A"}


async def test_whoever_is_deleted_while_a_job_makes_them_is_removed_after_it(pool: Pool) -> None:
    async with world(pool, REMOTE, JOBS) as w:
        await put(pool, "ann", "bob")
        await w.hand.plan()
        await w.hand.step()
        await gone(pool, "ann")
        await w.hand.drain()

        assert w.acme.mailed() == {"bob@x.test": "A"}
        assert await w.hand.rows() == {}


async def test_whoever_returns_while_a_job_removes_them_is_mailed_after_it(pool: Pool) -> None:
    async with world(pool, REMOTE, JOBS) as w:
        await put(pool, "ann", "bob")
        await w.hand.drain()
        await gone(pool, "ann", "bob")
        await w.hand.plan()
        await w.hand.step()
        await put(pool, "ann")
        await w.hand.drain()

        assert w.acme.mailed() == {"ann@x.test": "A"}
        assert await w.hand.rows() == {}


async def test_a_refusal_by_a_job_of_data_that_are_mended_meanwhile_is_tried_again(
    pool: Pool,
) -> None:
    async with world(pool, REMOTE, JOBS) as w:
        await put(pool, "ann", "bob")
        w.acme.refuses = {"ann": {"rejected": "bad"}}
        await w.hand.plan()
        await w.hand.step()
        await rename(pool, "ann", "B")
        await w.hand.plan()
        await w.hand.carry(await w.hand.journal.claim_job(w.hand.rules))
        assert (await w.hand.row("ann"))["state"] == "due"
        w.acme.refuses = {}
        await w.hand.drain()

        assert w.acme.mailed() == {"ann@x.test": "B", "bob@x.test": "A"}


async def test_an_outage_while_a_job_is_looked_at_does_not_forget_the_job(pool: Pool) -> None:
    async with world(pool, REMOTE, JOBS) as w:
        await put(pool, "ann", "bob")
        await w.hand.plan()
        await w.hand.step()
        w.acme.faults += [503, 429, 503]
        for _ in range(3):
            await w.hand.hurry()
            await w.hand.carry(await w.hand.journal.claim_job(w.hand.rules))
        await w.hand.drain()

        assert len(w.acme.records) == 2
        assert len([path for path, _ in w.acme.requests if path == "/jobs"]) == 1


async def test_a_change_that_the_guard_holds_while_a_job_runs_is_sent_once_approved(
    pool: Pool,
) -> None:
    """The held row keeps the digest that the job was given."""
    async with world(pool, REMOTE, JOBS, guard_floor=0, guard_percent=0) as w:
        await put(pool, "ann", "bob")
        await w.hand.drain()
        await pool.execute("update syncd.mirror set digest = null")
        await pool.execute("update syncd.contact set first_name = 'B'")
        await w.hand.plan()
        await w.hand.step()
        await gone(pool, "ann", "bob")
        await w.hand.plan()
        [plan] = await control.held_plans(pool)
        await control.approve(pool, plan.id, 2, "test")
        await w.hand.drain()

        assert w.acme.mailed() == {}


# ── A whole request's failure ───────────────────────────────────────────────────────────────


@pytest.mark.parametrize("status", [429, 503])
async def test_an_outage_uses_up_no_attempt_and_makes_no_doubt_of_a_read(
    pool: Pool, status: int
) -> None:
    async with world(pool, REMOTE, FIND) as w:
        await put(pool, "ann")
        await w.hand.plan()
        w.acme.always = 429
        if status == 503:  # on the look-up that doubt asks for
            w.acme.always = None
            w.acme.faults.append("lost")
            await w.hand.step()
            w.acme.faults += [503] * 5
        attempts = (await w.hand.row("ann"))["attempts"]
        for _ in range(5):
            await w.hand.step()

        row = await w.hand.row("ann")
        assert (row["state"], row["attempts"]) == ("due", attempts)


async def test_transient_waits_as_long_as_the_provider_asks(pool: Pool) -> None:
    async with world(pool) as w:
        await put(pool, "ann")
        await w.hand.plan()
        w.acme.always, w.acme.retry_after = 429, 600
        await w.hand.step()

        assert await w.hand.count("due_at > now() + interval '590 s' and not doubtful") == 1


@pytest.mark.parametrize("fault", ["lost", 429])
async def test_who_failed_together_comes_back_together(pool: Pool, fault: Any) -> None:
    """Else a batch of a thousand would fall apart into requests of a few."""
    async with world(pool, "ours", Can.REPEAT) as w:
        await many(pool, 50)
        await w.hand.plan()
        w.acme.faults.append(fault)
        await w.hand.step()

        assert await w.hand.count("state = 'due'") == 50
        assert await pool.fetchval("select count(distinct due_at) from syncd.journal") == 1


@pytest.mark.parametrize("can", [Can.REPEAT, FIND])
@pytest.mark.parametrize("fault", ["cut", "lost", 500, "garbage"])
async def test_a_lost_or_unreadable_answer_is_doubted_and_ends_with_one_record(
    pool: Pool, fault: Any, can: Can
) -> None:
    async with world(pool, "ours" if can is Can.REPEAT else REMOTE, can) as w:
        await put(pool, "ann", "bob")
        await w.hand.plan()
        w.acme.faults.append(fault)
        await w.hand.step()
        assert await w.hand.count("doubtful and state = 'due'") == 2
        await w.hand.drain()

        assert w.acme.mailed() == {"ann@x.test": "A", "bob@x.test": "A"}
        assert len(w.acme.records) == 2


async def test_a_contact_that_spoils_every_answer_ends_alone_and_stays_alone(pool: Pool) -> None:
    """Unintelligible again and again: halved, and the culprit never spoils a batch again."""
    async with world(pool) as w:
        await many(pool, 64)
        await w.hand.plan()
        w.acme.refuses = {"c00033": {"nonsense": True}}
        for _ in range(120):
            await w.hand.step()
            if await w.hand.count("true") == 1:
                break
        await w.hand.step()  # alone, and so in backoff
        await put(pool, "d1", "d2")
        await w.hand.plan()
        spoilt = len(w.acme.requests)
        await w.hand.hurry()
        for _ in range(2):
            await w.hand.carry(await w.hand.claim())

        assert len(w.acme.records) == 65
        assert [n for _, n in w.acme.requests[spoilt:] if n > 1] == [2]


async def test_a_poisonous_contact_among_a_thousand_is_found_by_halving(pool: Pool) -> None:
    """Wherever it stands: at most 2 log2(batch) requests more."""
    async with world(pool) as w:
        await many(pool, 1000)
        await w.hand.plan()
        for place in (1, 500, 501, 667, 1000):
            poison = f"c{place:05d}"
            w.acme.poison, w.acme.requests = {poison}, []
            await pool.execute("update syncd.contact set first_name = first_name || 'B'")
            await pool.execute(
                "update syncd.journal set state = 'due', wish = 'upsert', last_error = null"
            )
            await w.hand.plan()
            await pool.execute(
                "update syncd.plan set state = 'released', decided_at = now() where state = 'held'"
            )
            await control.release_decided(pool)
            await w.hand.step()

            row = await w.hand.row(poison)
            assert row["state"] == "rejected"
            assert "one of them is wrong" in row["last_error"]
            assert await w.hand.count("true") == 1
            assert len(w.acme.requests) - 1 <= 2 * math.log2(1000)


async def test_a_poisonous_contact_among_ten_thousand_costs_twice_the_logarithm_of_its_batch(
    pool: Pool,
) -> None:
    """Ten batches of a thousand: the nine others go through whole."""
    async with world(pool, batch=1000) as w:
        await many(pool, 10_000)
        await w.hand.plan()
        w.acme.poison = {"c06667"}
        while await w.hand.count("state = 'due'"):  # on a busy machine a turn may be missed
            await w.hand.step()

        assert list(await w.hand.rows()) == ["c06667"]
        assert (await w.hand.row("c06667"))["state"] == "rejected"
        assert len(w.acme.records) == 9999
        assert len(w.acme.requests) - 10 <= 2 * math.log2(1000)


async def test_two_poisonous_contacts_are_both_found_and_only_they(pool: Pool) -> None:
    async with world(pool) as w:
        await many(pool, 100)
        await w.hand.plan()
        w.acme.poison = {"c00007", "c00093"}
        await w.hand.step()

        assert sorted(await w.hand.rows()) == ["c00007", "c00093"]
        assert len(w.acme.records) == 98


# ── A whole destination ─────────────────────────────────────────────────────────────────────


async def test_refused_credentials_halt_the_destination_after_one_fresh_probe(pool: Pool) -> None:
    """The rows stay due; it is logged once."""
    async with world(pool) as w:
        await put(pool, "ann")
        await w.hand.plan()
        flow = w.flow(w.hand)
        w.acme.unauthorized = True
        with structlog.testing.capture_logs() as logs:
            for _ in range(3):
                await one_claim(flow, w.hand)

        [destination] = await control.destinations(pool)
        assert destination.halted is not None
        assert "401" in destination.halted
        assert flow.stands_still == destination.halted
        assert [one["event"] for one in logs if one["log_level"] == "error"] == [
            "destination halted"
        ]
        row = await w.hand.row("ann")
        assert (row["state"], row["attempts"], row["doubtful"]) == ("due", 0, False)


async def test_one_request_refused_does_not_halt_a_destination_whose_probe_succeeds(
    pool: Pool,
) -> None:
    async with world(pool) as w:
        await put(pool, "ann")
        await w.hand.plan()
        flow = w.flow(w.hand)
        w.acme.faults.append(403)
        await one_claim(flow, w.hand)

        assert (await control.destinations(pool))[0].halted is None
        assert [path for path, _ in w.acme.requests] == ["/push", "/check"]
        await one_claim(flow, w.hand)
        assert w.acme.mailed() == {"ann@x.test": "A"}


@pytest.mark.parametrize("together", [True, False])
async def test_the_same_refusal_of_many_contacts_running_halts_creates_and_rejects_nobody(
    pool: Pool, together: bool
) -> None:
    """The plan is full, or a field is gone: not about contacts."""
    async with world(pool, guard_floor=20) as w:
        await many(pool, 60)
        await w.hand.plan()
        flow = w.flow(w.hand)
        w.acme.refuses_all = "your plan allows 1000 contacts"
        for _ in range(1 if together else 12):
            await one_claim(flow, w.hand, 60 if together else 5)

        [destination] = await control.destinations(pool)
        assert destination.halted is not None
        assert destination.halted.startswith("creates: refused for ")
        assert "your plan allows" in destination.halted
        assert await w.hand.count("state = 'due'") == 60
        assert flow.stands_still is None


async def test_refusals_with_a_success_between_them_are_about_contacts(pool: Pool) -> None:
    async with world(pool, guard_floor=20) as w:
        await many(pool, 60)
        await w.hand.plan()
        flow = w.flow(w.hand)
        w.acme.refuses = {f"c{n:05d}": {"rejected": "bad"} for n in range(1, 61) if n % 15}
        await one_claim(flow, w.hand, 15)
        await one_claim(flow, w.hand, 15)

        assert (await control.destinations(pool))[0].halted is None
        assert await w.hand.count("state = 'rejected'") == 28


async def test_while_creates_are_halted_updates_go_on(pool: Pool) -> None:
    async with world(pool) as w:
        await put(pool, "ann")
        await w.hand.drain()
        await control.halt(pool, w.hand.id, "creates: refused: full")
        flow = w.flow(await w.another())
        await put(pool, "bob")
        await rename(pool, "ann", "B")
        await w.hand.plan()
        await one_claim(flow, w.hand)

        assert w.acme.mailed() == {"ann@x.test": "B"}
        assert (await w.hand.row("bob"))["state"] == "due"


async def test_repeated_outages_open_a_breaker_and_a_success_closes_it(pool: Pool) -> None:
    """Then one probe at a time; both are logged once."""
    async with world(pool) as w:
        await many(pool, 30)
        await w.hand.plan()
        flow = w.flow(w.hand)
        w.acme.always = 429
        with structlog.testing.capture_logs() as logs:
            for _ in range(5):
                await one_claim(flow, w.hand, 10)
            assert flow.breaker.is_open
            assert not flow.breaker.may_send
            assert await flow.sender.next_claim() is None
            flow.breaker.open_until = 0.0
            w.acme.always = None
            await w.hand.hurry()
            probe = await flow.sender.next_claim()
            assert probe is not None
            flow.sender.busy = 1
            assert await flow.sender.next_claim() is None  # the probe is alone
            await flow.sender.carry(probe)

        assert not flow.breaker.is_open
        events = [one["event"] for one in logs]
        assert events.count("provider is not available") == 1
        assert events.count("provider is back") == 1


def test_a_breaker_waits_at_least_as_long_as_the_provider_asks() -> None:
    breaker = Breaker()
    assert [breaker.failed(300.0) for _ in range(4)] == [False, False, True, False]
    assert breaker.pause > 290
    assert breaker.succeeded()
    assert breaker.may_send


async def test_a_stop_hands_back_what_was_not_sent_without_doubt_or_attempt(pool: Pool) -> None:
    async with world(pool) as w:
        await put(pool, "ann")
        await w.hand.plan()
        claim = await w.hand.claim()
        w.hand.push.stop.set()
        await w.hand.carry(claim)

        row = await w.hand.row("ann")
        assert (row["state"], row["attempts"], row["doubtful"]) == ("due", 0, False)
        assert w.acme.requests == []


@pytest.mark.parametrize("waits", ["for a held change", "for ever"])
async def test_a_backfill_ends_though_something_never_gets_done(pool: Pool, waits: str) -> None:
    """What is pending is listed then; it does not wait for a person, nor for a promise."""
    async with world(pool, "address", guard_floor=0, guard_percent=0) as w:
        await put(pool, "ann")
        await w.hand.drain()
        if waits == "for ever":
            w.acme.refuses = {"bob": {"later": 0.05}}
            await put(pool, "bob", "cyd")
        else:
            await put(pool, "ann=new@x.test", "bob=ann@x.test", "cyd")
        flow = w.flow(w.hand)
        flow.sender.patience = 0.4

        await asyncio.wait_for(flow.backfill(), 120)

        assert flow.sender.is_stuck
        assert (await w.hand.row("bob"))["state"] == "due"
        assert "cyd@x.test" in w.acme.mailed()
        reasons = [row["why"] for row in await pool.fetch(sql.flow.reasons, w.hand.id)]
        expected = "in a while" if waits == "for ever" else "waits for contact ann"
        assert expected in reasons[0]


async def test_what_is_in_flight_when_a_stop_comes_is_finished(pool: Pool) -> None:
    async with world(pool) as w:
        await put(pool, "ann")
        await w.hand.plan()
        w.acme.before.clear()
        flow = w.flow(w.hand)
        pumping = asyncio.create_task(flow.pump(until_empty=False))
        await w.acme.arrival(1)
        flow.stop.set()
        flow.bells.push.set()
        w.acme.before.set()
        await pumping

        assert w.acme.mailed() == {"ann@x.test": "A"}
        assert await w.hand.rows() == {}


async def one_claim(flow: Flow, hand: Hand, most: int = 1000) -> None:
    """One claim through the flow, which learns from the answers."""
    await hand.hurry()
    claim = await hand.journal.claim(most, flow.sender.current_rules())
    if claim.taken and claim.entries:
        flow.sender.busy += 1
        await flow.sender.carry(claim)
