"""A no is obeyed, whoever hears of it: read back from one provider, kept at all of them.

Two accounts, `news` and `shop`, take the same source; `own` asks for opt-outs of its own only.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import orjson
import pytest
import pytest_asyncio
import service
from service import Service, until

pytestmark = pytest.mark.asyncio(loop_scope="module")

NAMES = ("news", "shop", "own")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def served(cluster: str, template: str) -> AsyncIterator[Service]:
    """Sixty contacts at three accounts, kept in step by one daemon."""
    async with service.served(cluster, template) as made:
        await service.fill(made.db, 60)
        for name in NAMES:
            options = {"opt_out_scope": "destination"} if name == "own" else {}
            await made.destination(
                name, await made.sandbox(), account=f"ACCOUNT-{name}", options=options,
                guard_percent=100, guard_floor=1000,
            )  # fmt: skip
        await made.daemon()
        await made.in_step()
        await same(made)
        yield made


async def same(served: Service) -> None:
    for name in NAMES:
        await served.same(name)


async def read(served: Service, name: str) -> None:
    """Read opt-outs back, as `read_schedule` would, until what was told is everywhere."""
    scans = "select count(*) from syncd.scan where finished_at is not null and destination_id ="
    scans += " (select id from syncd.destination where name = $1)"
    before = await served.db.fetchval(scans, name)
    assert (await served.command("scan", name))[0] == "done"

    async def finished() -> bool:
        return bool(await served.db.fetchval(scans, name) > before)

    await until(finished, "a scan")
    await served.in_step()


def mailable(served: Service, key: str) -> tuple[bool, ...]:
    """At news, shop and own."""
    return tuple(served.boxes[name].state.mailable(key) for name in NAMES)


def email(n: int) -> str:
    return f"user{n}@example{n % 7}.org"


async def put(served: Service, key: str, **columns: Any) -> None:
    said = ", ".join(f"{column} = ${n}" for n, column in enumerate(columns, 2))
    await served.db.execute(
        f"update syncd.contact set {said} where id = $1", key, *columns.values()
    )
    await served.in_step()


async def open_noes(served: Service, key: str) -> list[tuple[str, str]]:
    rows = await served.db.fetch(
        "select d.name, o.kind from syncd.opt_out o join syncd.destination d"
        " on d.id = o.destination_id where o.contact_id = $1 and o.lifted_at is null order by 1",
        key,
    )
    return [tuple(row) for row in rows]


# ── Heard at one, obeyed at all ─────────────────────────────────────────────────────────────


async def test_a_no_made_at_one_provider_reaches_the_others_of_its_source(
    served: Service,
) -> None:
    served.boxes["news"].act("unsubscribe_profile", identity="c00001")
    await read(served, "news")
    assert mailable(served, "c00001") == (False, False, True)
    assert await open_noes(served, "c00001") == [("news", "unsubscribed")]
    await same(served)


async def test_it_wins_over_the_source_and_outlives_a_corrected_address(served: Service) -> None:
    served.boxes["news"].act("unsubscribe", email=email(2))
    await read(served, "news")
    await put(served, "c00002", subscribed=True, email="ann.corrected@example.org")
    assert mailable(served, "c00002") == (False, False, True)
    await put(served, "c00002", first_name="Ann", city="Bonn")
    assert mailable(served, "c00002") == (False, False, True)
    assert served.boxes["shop"].state.profiles.by_identity["c00002"].properties["City"] == "Bonn"
    await same(served)


async def test_a_no_at_a_destination_that_keeps_to_itself_stays_there(served: Service) -> None:
    """`opt_out_scope` says whose noes a destination hears; the others hear of this one too."""
    served.boxes["own"].act("unsubscribe_profile", identity="c00003")
    await read(served, "own")
    assert mailable(served, "c00003")[2] is False
    await same(served)


async def test_a_bounce_is_of_the_address_so_a_new_address_is_mailed(served: Service) -> None:
    served.boxes["news"].act("bounce", email=email(4))
    await read(served, "news")
    assert mailable(served, "c00004") == (False, False, True)
    assert await open_noes(served, "c00004") == [("news", "bounced")]
    await put(served, "c00004", email="works@example.org")
    assert mailable(served, "c00004") == (True, True, True)
    (back,) = served.boxes["news"].state.writes.resubscribed
    assert (back["who"], back["said"]) == (f"address:{email(4)}", "bounce")  # not a person's no
    served.boxes["news"].state.writes.resubscribed.clear()
    await same(served)


async def test_a_complaint_is_the_person_s(served: Service) -> None:
    served.boxes["shop"].act("complain", email=email(5))
    await read(served, "shop")
    await put(served, "c00005", email="another@example.org")
    assert mailable(served, "c00005") == (False, False, True)
    await same(served)


async def test_leaving_one_group_there_is_no_no_to_all_mail(served: Service) -> None:
    served.boxes["news"].act("unsubscribe_profile", identity="c00006", group="Offers")
    served.boxes["news"].act("resubscribe", identity="c00006")
    await read(served, "news")
    assert await open_noes(served, "c00006") == []


# ── Consent ─────────────────────────────────────────────────────────────────────────────────


async def test_only_consent_that_is_newer_and_not_of_the_future_brings_a_person_back(
    served: Service,
) -> None:
    box = served.boxes["news"]
    box.act("unsubscribe_profile", identity="c00007")
    await read(served, "news")
    for consent in (
        datetime.now(UTC) - timedelta(days=2),
        datetime.now(UTC) + timedelta(days=2),
        None,
    ):
        await put(served, "c00007", consented_at=consent)
        assert mailable(served, "c00007") == (False, False, True), consent
        await same(served)
    assert box.state.writes.resubscribed == []
    await put(served, "c00007", consented_at=datetime.now(UTC))
    assert mailable(served, "c00007") == (True, True, True)
    (back,) = box.state.writes.resubscribed
    assert back["who"] == "identity:c00007"
    box.state.writes.resubscribed.clear()  # this one was allowed
    await same(served)
    await read(served, "news")
    assert mailable(served, "c00007") == (True, True, True), "the old event is no new no"
    await same(served)


async def test_a_no_that_is_younger_than_the_consent_counts_again(served: Service) -> None:
    later = datetime.now(UTC).timestamp() + 5  # CleverTap's clock has seconds; the first is past
    served.boxes["news"].act("unsubscribe_profile", identity="c00007", at=later)
    await read(served, "news")
    assert mailable(served, "c00007") == (False, False, True)
    await same(served)


async def test_our_own_silencing_read_back_is_no_observation(served: Service) -> None:
    await put(served, "c00008", subscribed=False)
    assert mailable(served, "c00008") == (False, False, False)
    # CleverTap tells of it as of any other opt-out, by an event.
    for name in NAMES:
        served.boxes[name].act("unsubscribe_profile", identity="c00008", campaign=False)
        served.boxes[name].state.writes.opted_out.clear()
        await read(served, name)
    assert await open_noes(served, "c00008") == []
    await same(served)


async def test_nor_does_it_stand_in_the_way_of_a_return(served: Service) -> None:
    await put(served, "c00008", subscribed=True)
    assert mailable(served, "c00008") == (True, True, True)
    for name in NAMES:
        await read(served, name)  # the last day comes again
    assert await open_noes(served, "c00008") == []
    assert mailable(served, "c00008") == (True, True, True)
    for name in NAMES:
        later = datetime.now(UTC).timestamp() + 5  # CleverTap's clock has seconds
        served.boxes[name].act("unsubscribe_profile", identity="c00008", at=later)
        await read(served, name)
    assert mailable(served, "c00008") == (False, False, False), "a newer one is the person's own"


async def test_a_lifted_no_is_not_read_a_second_time(served: Service) -> None:
    box = served.boxes["news"]
    box.act("bounce", email=email(9))
    await read(served, "news")
    assert mailable(served, "c00009") == (False, False, True)
    outcome, result = await served.command("lift", email=email(9), reason="a full mailbox, no more")
    assert (outcome, result["lifted"]) == ("done", 1)
    await served.in_step()
    assert mailable(served, "c00009") == (True, True, True)
    box.state.writes.resubscribed.clear()  # a person has decided
    await read(served, "news")
    assert mailable(served, "c00009") == (True, True, True)
    await same(served)
    box.act("bounce", email=email(9), at=datetime.now(UTC).timestamp() + 60)
    await read(served, "news")
    assert mailable(served, "c00009") == (False, False, True), "a new bounce is a new no"
    await same(served)


# ── Gone and back ───────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("when_gone", ["withdraw", "delete", "keep"])
async def test_who_is_gone_is_treated_as_the_destination_says_and_may_come_back(
    served: Service, when_gone: str
) -> None:
    key, number = f"c0002{len(when_gone)}", 20 + len(when_gone)
    await served.set("shop", when_gone=when_gone)
    await served.in_step()
    row = await served.db.fetchrow("delete from syncd.contact where id = $1 returning *", key)
    await served.in_step()
    box = served.boxes["shop"]
    assert (key in box.state.profiles.by_identity) == (when_gone != "delete")
    assert box.state.mailable(key) == (when_gone == "keep")
    await same(served)
    assert row is not None
    await served.db.execute(
        "insert into syncd.contact select * from jsonb_populate_record(null::syncd.contact, $1)",
        _json(row),
    )
    await served.in_step()
    assert mailable(served, key) == (True, True, True), "withdrawn is not a no of the person"
    assert box.state.profiles.by_identity[key].emails == [email(number)]
    await same(served)
    await served.set("shop", when_gone="withdraw")
    await served.in_step()


def _json(row: Any) -> str:
    return orjson.dumps(
        {k: v for k, v in dict(row).items() if k != "attributes"} | {"attributes": {}}, default=str
    ).decode()


# ── Who is told ─────────────────────────────────────────────────────────────────────────────


async def test_the_company_s_own_systems_learn_of_it(served: Service) -> None:
    """NOTIFY syncd_opt_out with the row's number, and the view `consent`."""
    heard: list[str] = []
    ear = await asyncpg.connect(served.url, server_settings=service.OURS)
    await ear.add_listener("syncd_opt_out", lambda *told: heard.append(told[-1]))
    served.boxes["news"].act("complain", email=email(30))
    await read(served, "news")
    await until(lambda: bool(heard), "NOTIFY")
    row = await served.db.fetchrow(
        "select contact_id, kind from syncd.opt_out where id = $1", int(heard[0])
    )
    assert row is not None
    assert tuple(row) == ("c00030", "complained")
    await ear.close()
    said = await served.db.fetchrow(
        "select email, mailable, why from syncd.consent where contact_id = 'c00030'"
    )
    assert said is not None
    assert (said["email"], said["mailable"]) == (email(30), False)
    assert "complained at news" in said["why"]
    well = await served.db.fetchrow(
        "select mailable, why from syncd.consent where contact_id = 'c00031'"
    )
    assert well is not None
    assert tuple(well) == (True, None)


async def test_an_opt_out_written_by_hand_is_obeyed_within_a_second(served: Service) -> None:
    """The privacy officer has a letter: one INSERT, and everybody of the source obeys."""
    await served.db.execute(
        "insert into syncd.opt_out (destination_id, email, kind, evidence)"
        " select id, $1, 'unsubscribed', '{\"letter\": 1}' from syncd.destination"
        " where name = 'shop'",
        email(32).upper(),
    )
    await until(lambda: mailable(served, "c00032") == (False, False, True), "silent")
    await served.in_step()
    await same(served)


async def test_the_reader_rings_by_its_schedule(served: Service) -> None:
    await served.set("news", read_schedule="1s")
    served.boxes["news"].act("unsubscribe_profile", identity="c00033")
    await until(lambda: mailable(served, "c00033") == (False, False, True), "silent")
    await served.set("news", read_schedule="15m")
    await served.in_step()
    await same(served)


# ── Before the first backfill ───────────────────────────────────────────────────────────────


@pytest.mark.parametrize("how", ["unsubscribe_profile", "unsubscribe"])
async def test_who_opted_out_in_the_app_before_the_first_backfill_is_still_out_after_it(
    cluster: str, template: str, how: str
) -> None:
    async with service.served(cluster, template) as fresh:
        await service.fill(fresh.db, 5)
        box = await fresh.sandbox()
        profile = box.state.profiles.create("identity", "c00001")
        box.state.profiles.merge(profile, {"Email": email(1)}, print)
        box.act(how, identity="c00001")
        box.state.profiles.creates.clear()
        await fresh.destination("first", box)
        backfill = fresh.start("backfill", "--json")
        code = await backfill.ended()
        assert code in (0, 1), backfill.said
        assert not box.state.mailable("c00001")
        assert sum(map(box.state.profiles.mailable, box.state.profiles.all)) == 4
        assert box.state.writes.resubscribed == []
        await fresh.same("first")
