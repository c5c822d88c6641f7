"""Who has not vanished: every way in which two scans could miss somebody whom we ourselves had just
written, moved or removed. Each is an interleaving, made by hand."""

from __future__ import annotations

import asyncio
from typing import Any

import asyncpg
import pytest
from acme_lists import Shop, shop
from support import gone, move, rename
from test_reading import crowd, emails, filled, once, opt_outs, people, scan, settle, until

from syncd import control, sql
from syncd import flow as flows
from syncd.db import Pool
from syncd.ending import Ending
from syncd.errors import Fenced, ProviderError
from syncd.flow import Flow
from syncd.pages import Scan


@pytest.fixture(autouse=True)
def _prompt(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flows, "SCAN_POLL", 0.02)


async def missing(pool: Pool) -> dict[tuple[str, str], int]:
    rows = await pool.fetch("select contact_id, list_key, scans from syncd.missing")
    return {(row[0], row[1]): row[2] for row in rows}


async def read_list(flow: Flow, list_key: str) -> None:
    await flow.reading.ask([list_key])
    assert await flow.reading.step()


def number_of(w: Shop, name: str) -> str:
    return next(number for number, known in w.shelves.lists.items() if known == name)


# ── What the mirror says was never acknowledged ─────────────────────────────────────────────


async def test_a_return_that_was_cut_half_way_has_not_left_the_other_list(pool: Pool) -> None:
    """She was silenced in both lists, and is mailed again: only the first add arrived."""
    async with shop(pool) as w:
        await people(pool, news="ann bob", shop="ann cyd")
        flow = await filled(w)
        await scan(w, flow)
        for subscribed in (False, True):
            await pool.execute(
                "update syncd.contact set subscribed = $1 where id = 'ann'", subscribed
            )
            w.shelves.faults.extend([0, "cut"] if subscribed else [])
            await settle(w, flow)
        assert await opt_outs(pool) == []
        assert w.shelves.held() == {"NEWS": emails("ann bob"), "SHOP": emails("ann cyd")}


async def test_somebody_silenced_who_is_put_back_there_is_taken_out_again(pool: Pool) -> None:
    """Where she was put, and nowhere else: the other list never had her since."""
    async with shop(pool) as w:
        await people(pool, news="ann bob", shop="ann cyd")
        flow = await filled(w)
        await scan(w, flow)
        await pool.execute("update syncd.contact set subscribed = false where id = 'ann'")
        await settle(w, flow)
        w.shelves.enter(number_of(w, "NEWS"), "ann@x.test")
        await read_list(flow, "news")
        row = (await w.hand.mirror())["ann"]
        assert (row["subscribed"], row["lists"]) == (True, ["news"])
        await settle(w, flow)
        assert w.shelves.held() == {"NEWS": emails("bob"), "SHOP": emails("cyd")}
        await scan(w, flow, 2)
        assert await opt_outs(pool) == []


async def test_a_late_settlement_puts_nobody_into_a_list_that_was_left_since(pool: Pool) -> None:
    """One worker adds her and loses its lease; its successor takes her out; she is wanted there
    again; then the first tells that she was added, long ago."""
    async with shop(pool) as w:
        await people(pool, news="ann bob", shop="cyd dan")
        flow = await filled(w)
        await scan(w, flow)
        other = await w.another()
        await people(pool, shop="ann")
        await w.hand.plan()
        late = await w.hand.claim()
        pushed = await w.hand.send(late)
        await w.hand.die()

        successor = w.flow(other)
        await successor.keep_lists()
        await successor.lists.remember()
        await pool.execute("delete from syncd.membership where contact_id = 'ann'"
                           " and list_id = 'shop'")  # fmt: skip
        await settle(w, successor)
        assert w.shelves.held()["SHOP"] == emails("cyd dan")
        await people(pool, shop="ann")
        assert await w.hand.journal.settle(late, pushed.results) == ["ann"]
        await settle(w, successor)

        assert await opt_outs(pool) == []
        assert w.shelves.held() == {"NEWS": emails("ann bob"), "SHOP": emails("ann cyd dan")}


async def test_what_an_acknowledged_try_left_is_forgotten(pool: Pool) -> None:
    """Though the row stays, for the contact has changed again: later she may truly vanish."""
    async with shop(pool) as w:
        await people(pool, news="ann bob", shop="ann cyd")
        flow = await filled(w)
        await scan(w, flow)
        await pool.execute("delete from syncd.membership where contact_id = 'ann'"
                           " and list_id = 'shop'")  # fmt: skip
        await w.hand.plan()
        claim = await w.hand.claim()
        assert (await w.hand.row("ann"))["left_lists"] == ["shop"]
        await people(pool, shop="ann")
        await w.hand.plan()
        await w.hand.carry(claim)
        row = await w.hand.row("ann")
        assert (row["state"], row["left_lists"]) == ("due", None)
        await settle(w, flow)
        assert w.shelves.held() == {"NEWS": emails("ann bob"), "SHOP": emails("ann cyd")}


async def test_a_lost_add_is_looked_for_under_the_address_it_was_sent_to(pool: Pool) -> None:
    """She has another one by now; while her old one is looked for, nothing is sent to the new."""
    async with shop(pool) as w:
        await people(pool, news=crowd(3))
        flow = await filled(w)
        await people(pool, news="ann")
        w.shelves.faults.append("lost")
        await w.hand.plan()
        await once(flow)
        await move(pool, ann="ann2@x.test")
        await settle(w, flow)
        assert w.shelves.held() == {"NEWS": sorted(["ann2@x.test", *emails(crowd(3))])}


async def test_a_lost_add_of_somebody_who_is_gone_is_not_looked_for_elsewhere(pool: Pool) -> None:
    """The mirror has an older address of hers, under which she was rightly not there."""
    async with shop(pool) as w:
        await people(pool, news=crowd(3))
        await people(pool, news="ann")
        await pool.execute("update syncd.contact set subscribed = false where id = 'ann'")
        flow = await filled(w)
        assert (await w.hand.mirror())["ann"]["state"] == "absent"
        await pool.execute(
            "update syncd.contact set subscribed = true, email = 'ann2@x.test' where id = 'ann'"
        )
        w.shelves.faults.append("lost")
        await w.hand.plan()
        await once(flow)
        await gone(pool, "ann")
        await settle(w, flow)
        assert w.shelves.held() == {"NEWS": emails(crowd(3))}


# ── Evidence that is older than what was written since ──────────────────────────────────────


async def test_who_was_missed_before_she_was_added_has_not_vanished(pool: Pool) -> None:
    """Two scans looked for a lost add; then it was repeated; then a scan of another list ended."""
    async with shop(pool) as w:
        await people(pool, news="bob", shop="cyd")
        flow = await filled(w)
        await people(pool, news="ann")
        w.shelves.faults.append("cut")
        await settle(w, flow)
        assert w.shelves.held()["NEWS"] == emails("ann bob")

        await read_list(flow, "shop")
        assert await opt_outs(pool) == []


async def test_both_scans_must_have_begun_after_the_last_write(pool: Pool) -> None:
    async with shop(pool) as w:
        await people(pool, news="ann bob")
        flow = await filled(w)
        await scan(w, flow)
        w.shelves.leave("ann@x.test")
        await read_list(flow, "news")
        assert await missing(pool) == {("ann", "news"): 1}
        await pool.execute("update syncd.mirror set pushed_at = clock_timestamp()")
        await read_list(flow, "news")
        assert (await missing(pool), await opt_outs(pool)) == ({("ann", "news"): 1}, [])
        await read_list(flow, "news")
        assert await opt_outs(pool) == [("ann", None, "vanished")]


async def test_what_was_approved_is_not_done_to_who_was_written_since(pool: Pool) -> None:
    async with shop(pool, guard_percent=10.0, guard_floor=1) as w:
        await people(pool, news=crowd(5))
        flow = await filled(w)
        await scan(w, flow)
        w.shelves.leave(*emails(crowd(3)))
        await scan(w, flow, 2)
        [plan] = await control.held_plans(pool)
        await pool.execute("update syncd.mirror set pushed_at = now() where contact_id = 'p001'")
        await control.approve(pool, plan.id, plan.rows, "eve")
        assert [row[0] for row in await opt_outs(pool)] == ["p002", "p003"]


async def test_a_write_that_cannot_be_read_yet_is_not_missed(pool: Pool) -> None:
    async with shop(pool, traits={"visible_after": 3600.0}) as w:
        await people(pool, news="ann bob")
        flow = await filled(w)
        w.shelves.leave("ann@x.test")
        await scan(w, flow, 3)
        assert await opt_outs(pool) == []
        await pool.execute("update syncd.mirror set pushed_at = now() - interval '2 h'")
        await scan(w, flow, 2)
        assert await opt_outs(pool) == [("ann", None, "vanished")]


async def test_who_was_met_by_a_scan_that_never_ended_has_not_vanished(pool: Pool) -> None:
    async with shop(pool) as w:
        await people(pool, news=crowd(6))
        flow = await filled(w)
        await scan(w, flow)
        first = w.shelves.at("p001@x.test")
        assert first is not None
        first.left = True
        await read_list(flow, "news")
        first.left = False
        w.shelves.page_faults.extend([None, 500])
        with pytest.raises(ProviderError):
            await flow.reading.step()
        await pool.execute("update syncd.scan set moved_at = now() - interval '3 h'"
                           " where finished_at is null")  # fmt: skip
        first.left = True
        await read_list(flow, "news")
        assert await opt_outs(pool) == []
        first.left = False


# ── Records that change hands ───────────────────────────────────────────────────────────────


async def test_a_record_that_changed_hands_is_missed_anew(pool: Pool) -> None:
    """Each of their records was missed once; nobody's twice."""
    async with shop(pool) as w:
        await people(pool, news="ann bob cyd dan")
        flow = await filled(w)
        await scan(w, flow)
        w.shelves.leave("ann@x.test")
        await read_list(flow, "news")
        await move(pool, ann="bob@x.test", bob="ann@x.test")
        await w.hand.plan()
        assert (await w.hand.mirror())["ann"]["email"] == "bob@x.test"
        w.shelves.leave("bob@x.test")
        await read_list(flow, "news")
        assert await opt_outs(pool) == []
        assert await missing(pool) == {("ann", "news"): 1, ("bob", "news"): 1}


async def test_records_that_change_hands_while_they_are_read_are_both_met(pool: Pool) -> None:
    async with shop(pool) as w:
        await people(pool, news="ann bob cyd dan eve")
        flow = await filled(w)
        await scan(w, flow)
        pages: list[int] = []

        def stall(_: str, offset: int) -> None:
            pages.append(offset)
            if len(pages) == 1:
                w.shelves.turn.clear()

        w.shelves.on_page = stall
        await flow.reading.ask(["news"])
        task = asyncio.create_task(flow.reading.step())
        await until(lambda: pool.fetchval("select cursor is not null from syncd.scan"
                                          " where finished_at is null"))  # fmt: skip
        await move(pool, ann="eve@x.test", eve="ann@x.test")
        await w.hand.plan()
        w.shelves.turn.set()
        assert await task
        assert await missing(pool) == {}


# ── A scan that was not whole ───────────────────────────────────────────────────────────────


AWAY = ((3, crowd(4)), (1, crowd(3, 5)))
"""After how many pages a scan was interrupted, and who left then: p008 moves up twice."""


async def interrupted(w: Shop, flow: Flow, list_key: str, pages: int = 2) -> None:
    """A scan of which so many pages could be read."""
    w.shelves.page_faults.extend([*[None] * pages, 500])
    await flow.reading.ask([list_key])
    with pytest.raises(ProviderError):
        await flow.reading.step()


async def test_while_a_scan_is_interrupted_nobody_leaves_the_pages_it_has_read(pool: Pool) -> None:
    """Who comes after them would move up, onto pages that are not read again."""
    async with shop(pool) as w:
        w.shelves.guards_reading = False
        await people(pool, news=crowd(14))
        flow = await filled(w)
        await scan(w, flow)
        for pages, away in AWAY:
            await interrupted(w, flow, "news", pages)
            await gone(pool, *away.split())
            await w.hand.plan()
            await once(flow)
            assert await flow.reading.step()
            await w.hand.hurry()
            await once(flow)
        await scan(w, flow)
        assert await opt_outs(pool) == []
        assert w.shelves.held() == {"NEWS": emails(crowd(7, 8))}


async def test_a_scan_during_which_its_list_was_written_to_is_begun_anew(pool: Pool) -> None:
    """Writes wait a while for it to be gone on with, but not for ever."""
    async with shop(pool) as w:
        w.shelves.guards_reading = False
        await people(pool, news=crowd(14), shop="z1 z2")
        flow = await filled(w)
        await scan(w, flow)
        for pages, away in AWAY:
            await interrupted(w, flow, "news", pages)
            await pool.execute("update syncd.scan set moved_at = now() - interval '5 min'")
            await gone(pool, *away.split())
            await w.hand.plan()
            await once(flow)
            assert await flow.reading.step()
            assert await missing(pool) == {}
        assert await opt_outs(pool) == []
        assert w.shelves.held()["NEWS"] == emails(crowd(7, 8))
        await interrupted(w, flow, "news")
        await pool.execute("update syncd.scan set moved_at = now() - interval '5 min'")
        await rename(pool, "z1", "B")
        await w.hand.plan()
        await once(flow)
        assert await pool.fetchval("select cursor is not null from syncd.scan"
                                   " where finished_at is null"), "another list"  # fmt: skip


async def test_who_lost_a_scan_to_another_worker_ends_it_no_more(pool: Pool) -> None:
    """It had read every page and stood still; meanwhile that scan was ended, and the next one."""
    async with shop(pool) as w:
        await people(pool, news=crowd(5))
        flow = await filled(w)
        await scan(w, flow)
        other = w.flow(await w.another())
        await other.keep_lists()
        mine = await begun(flow, "news")
        await flow.reading._read(mine)
        await w.hand.die()
        while await other.reading.any_asked():
            assert await other.reading.step()
        await read_list(other, "news")

        with pytest.raises(Fenced):
            await flow.reading._ending.finish(mine)
        assert await missing(pool) == {}


async def test_whoever_waits_is_told_though_the_worker_died_at_the_end_of_its_scan(
    pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The scan is over, so nobody would run it again; they waited a quarter of an hour."""
    async with shop(pool) as w:
        await people(pool, news="ann bob")
        flow = await filled(w)
        await rename(pool, "ann", "B")
        await w.hand.plan()
        await once(flow)

        async def lost(_: Ending) -> int:
            raise asyncpg.ConnectionDoesNotExistError("connection was closed")

        with monkeypatch.context() as patch:
            patch.setattr(Ending, "answer", lost)
            with pytest.raises(asyncpg.ConnectionDoesNotExistError):
                await flow.reading.step()
        await w.hand.die()

        other = w.flow(await w.another())
        assert await other.reading.any_asked()
        await other.reading.step()
        assert await waiting(pool) == 0
        assert not await other.reading.any_asked()


async def test_nobody_waits_for_a_scan_that_was_never_asked_for(
    pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker that died between the two left them waiting for a quarter of an hour."""
    async with shop(pool) as w:
        await people(pool, news="ann bob")
        flow = await filled(w)
        await rename(pool, "ann", "B")
        await w.hand.plan()
        with monkeypatch.context() as patch:
            patch.setattr(sql.reading, "ask", "select 1 / 0 from (select $1::int, $2::text[]) q")
            with pytest.raises(asyncpg.DivisionByZeroError):
                await once(flow)
        assert await waiting(pool) == 0


async def waiting(pool: Pool) -> int:
    return int(await pool.fetchval("select count(waits_for) from syncd.journal"))


async def begun(flow: Flow, list_key: str) -> Scan:
    reading = flow.reading
    await reading.ask([list_key])
    [row] = await reading.pool.fetch(
        "select id, list_key from syncd.scan where finished_at is null"
    )
    made = await reading._begin(row, await reading._keys())
    assert made is not None
    return made


# ── Lists ───────────────────────────────────────────────────────────────────────────────────


async def test_nobody_vanishes_from_a_list_that_a_person_is_asked_about(pool: Pool) -> None:
    async with shop(pool) as w:
        await people(pool, news="ann bob")
        flow = await filled(w)
        await scan(w, flow)
        w.shelves.leave("ann@x.test")
        await read_list(flow, "news")
        await pool.execute("update syncd.missing set scans = 2")
        await pool.execute("update syncd.list_mirror set state = 'asks', last_error = 'which?'")
        await flow.reading._ending.answer()
        assert await opt_outs(pool) == []
        await pool.execute("update syncd.list_mirror set state = 'in step'")
        await flow.reading._ending.answer()
        assert await opt_outs(pool) == [("ann", None, "vanished")]


async def test_of_a_list_that_was_removed_there_nothing_is_remembered(pool: Pool) -> None:
    async with shop(pool) as w:
        await people(pool, news="ann bob", shop="ann bob")
        flow = await filled(w)
        flow.lists.delete_gone = True
        await scan(w, flow)
        w.shelves.inside[number_of(w, "SHOP")].pop()
        await read_list(flow, "shop")
        await pool.execute("delete from syncd.list where id = 'shop'")
        await settle(w, flow)
        await flow.keep_lists()
        assert list(w.shelves.lists.values()) == ["NEWS"]
        rows = await pool.fetch("select distinct list_key from syncd.seen")
        assert [row[0] for row in rows] == ["news"]
        assert await missing(pool) == {}


@pytest.mark.parametrize("late", ["lists", "create"])
async def test_a_late_heartbeat_only_puts_lists_off(pool: Pool, late: str) -> None:
    async with shop(pool) as w:
        await people(pool, news="ann")
        flow = w.flow(w.hand)
        worker, alive = w.hand.worker, w.hand.worker.alive_since
        if late == "lists":
            worker.alive_since = -1e9
        else:
            make = w.hand.push.adapter.create_list

            async def create_list(name: str) -> Any:
                worker.alive_since = -1e9
                return await make(name)

            w.hand.push.adapter.create_list = create_list
        assert not await flow.keep_lists()
        state = await pool.fetchval("select state from syncd.list_mirror")
        assert (state, w.shelves.lists) == ("due", {})
        worker.alive_since = alive
        if late == "create":
            w.hand.push.adapter.create_list = make
        await pool.execute("update syncd.list_mirror set due_at = now()")
        assert await flow.keep_lists()
        assert list(w.shelves.lists.values()) == ["NEWS"]


async def test_a_late_heartbeat_ends_no_scan_loop(pool: Pool) -> None:
    async with shop(pool) as w:
        await people(pool, news="ann bob")
        flow = await filled(w)
        w.hand.worker.alive_since = -1e9
        flow.bells.scan.set()
        await flow._scan()
        assert flow.tally.failure is not None
        assert not await flow.read() or flow.reader.can_read is False
