"""Whoever said no is not mailed, whatever road leads to them: every road at every provider.

Whole passes against each stand-in. Ann said no at the provider, or in the source; bob is as ever.
After each road: ann is not mailable there, and nothing we sent resubscribed anybody (`company`).
What a provider does not have is skipped by what it declares of itself, with the reason.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
from company import Company, add, company

from syncd import control
from syncd.db import Pool
from syncd.model import Can, Traits
from syncd.providers import provider
from syncd.sandbox import PROVIDERS

pytestmark = pytest.mark.parametrize("name", PROVIDERS)

ANN, BOB = "ann@x.test", "bob@x.test"
KNOWS = {"clevercampaign": {"lists_enabled": True, "write_unsubscribe": True}}
"""Names that nobody has published, as an operator has found them out."""


def traits(name: str) -> Traits:
    return provider(name).traits


@asynccontextmanager
async def opted_out(database: str, pool: Pool, name: str) -> AsyncIterator[Company]:
    """Ann has said no there, and that has been read; everybody else is in step."""
    async with company(database, pool, [name], options=KNOWS) as at:
        await at.backfill()
        await says_no(at, name)
        yield at
        assert not at.mailed(name, ANN)


async def says_no(at: Company, name: str, email: str = ANN) -> None:
    """A person opts out in the provider's app, or by a mail of it; and that is read."""
    assert at.mailed(name, email)
    at.boxes[name].act("unsubscribe", email=email)
    await at.settle()
    if not traits(name).can & Can.OPT_OUT:
        await at.scan(name)
    assert not at.mailed(name, email)
    assert await at.pool.fetchval(
        "select count(*) from syncd.opt_out where lifted_at is null and email = $1", email
    )


# ── Roads that must not lead back ───────────────────────────────────────────────────────────


async def change(at: Company, name: str) -> None:
    """An ordinary change of the contact, by a keyed pass."""
    await at.pool.execute("update syncd.contact set first_name = 'B' where id in ('ann', 'bob')")
    await at.settle()


async def force(at: Company, name: str) -> None:
    """`backfill --force` sends also what is in step; consent it does not pass."""
    await at.backfill(force=True)


async def new_address(at: Company, name: str) -> None:
    """The no stays with the person, under whatever address."""
    if not await at.pool.fetchval("select contact_id from syncd.opt_out"):
        pytest.fail("the no must be known to be the contact's")
    await at.pool.execute("update syncd.contact set email = 'new@x.test' where id = 'ann'")
    await at.settle()
    await at.backfill()
    if await at.pool.fetchval("select kind from syncd.opt_out") != "vanished":
        assert not at.mailed(name, "new@x.test")


async def swap(at: Company, name: str) -> None:
    """Ann and bob exchange their addresses: her no is hers, and of the address she had."""
    await at.pool.execute("""
        update syncd.contact c set email = o.email from syncd.contact o
         where (c.id, o.id) in (('ann', 'bob'), ('bob', 'ann'))""")
    await at.settle()
    await at.backfill()
    assert not at.mailed(name, ANN)
    if await at.pool.fetchval("select kind from syncd.opt_out") != "vanished":
        assert not at.mailed(name, BOB)


async def mapping(at: Company, name: str) -> None:
    """Another mapping changes what every contact is to be."""
    fields = await at.pool.fetchval("select fields from syncd.destination")
    other = next(iter(traits(name).default_fields), "first_name")
    said = "{}" if fields is not None else '{"%s": "last_name"}' % other  # noqa: UP031
    await at.pool.execute("update syncd.contact set last_name = 'Z'")
    await at.pool.execute("update syncd.destination set fields = $1", said)
    await at.backfill()


async def replay(at: Company, name: str) -> None:
    """A journal row of before the no, with the wish of then, comes once more."""
    await at.pool.execute(
        "insert into syncd.journal (destination_id, contact_id, wish, lane, state, doubtful, email,"
        " sent_lists, force) select id, 'ann', 'upsert', 1, 'due', true, $1, '{news}', true"
        " from syncd.destination on conflict (destination_id, contact_id) do update"
        " set state = 'due', doubtful = true, force = true",
        ANN,
    )
    await at.settle()
    await at.scan(name) if traits(name).can & Can.SCAN else None
    await at.backfill()


async def removed_and_back(at: Company, name: str) -> None:
    """Taken out of the source, and put into it again: no consent."""
    await at.pool.execute("delete from syncd.contact where id = 'ann'")
    await at.settle()
    assert not at.mailed(name, ANN)
    await add(at.pool, "ann")
    await at.settle()
    await at.backfill()


async def other_id(at: Company, name: str) -> None:
    """The same person under another id."""
    await at.pool.execute("delete from syncd.contact where id = 'ann'")
    await at.settle()
    await add(at.pool, "ann2", ANN)
    await at.backfill()


async def restored(at: Company, name: str) -> None:
    """Our tables are those of before the no; what the provider says is read before any write."""
    await at.pool.execute("delete from syncd.opt_out")
    await at.pool.execute(
        "update syncd.mirror set subscribed = true, digest = null, state = 'here'"
    )
    await at.pool.execute("delete from syncd.scan")
    await at.pool.execute("delete from syncd.seen")
    await at.pool.execute(
        "update syncd.feed set position = null, owes_full = true, read_at = null, scanned_at = null"
    )
    await at.backfill(quiet=False)
    if traits(name).can & Can.SCAN:
        await at.scan(name)
    await at.backfill()


ROADS: list[Callable[[Company, str], Awaitable[None]]] = [
    change, force, new_address, swap, mapping, replay, removed_and_back, other_id, restored,
]  # fmt: skip


@pytest.mark.parametrize("road", ROADS, ids=lambda road: road.__name__)
async def test_a_no_said_there_outlives(
    database: str, pool: Pool, name: str, road: Callable[[Company, str], Awaitable[None]]
) -> None:
    async with opted_out(database, pool, name) as at:
        await road(at, name)


# ── Roads that not every provider has ───────────────────────────────────────────────────────


async def rename(at: Company, _name: str) -> None:
    await at.pool.execute("update syncd.list set name = 'VIP club' where id = 'vip'")
    await at.settle()
    await at.backfill()


@pytest.mark.parametrize(
    "roads", [[change, force], [rename, mapping], [replay]], ids=["data", "names", "doubt"]
)
async def test_who_left_one_list_there_is_not_put_into_it_again(
    database: str, pool: Pool, name: str, roads: list[Callable[[Company, str], Awaitable[None]]]
) -> None:
    """And stays in the other one, mailable. It is written down as a no to the list."""
    if not traits(name).can & Can.LISTS:
        pytest.skip("lists are a property of ours there, which people cannot change")
    async with company(database, pool, [name], options=KNOWS) as at:
        await pool.execute("insert into syncd.membership values ('vip', 'ann')")
        await at.backfill()
        rows = await pool.fetch("select list_id, remote_id from syncd.list_mirror")
        remote = {row["list_id"]: row["remote_id"] for row in rows}
        leaves_list(at, name, ANN, remote["vip"])
        assert not is_in(at, name, ANN, remote["vip"])
        if change in roads:  # before any reading has told of it
            await change(at, name)
            assert not is_in(at, name, ANN, remote["vip"])
            await pool.execute("update syncd.contact set first_name = 'A'")
        await at.scan(name)
        for road in roads:
            await road(at, name)
            assert at.mailed(name, ANN)
            assert not is_in(at, name, ANN, remote["vip"]), road.__name__
            assert is_in(at, name, ANN, remote["news"])
        assert await pool.fetch(
            "select 1 from syncd.opt_out where list_id = 'vip' and contact_id = 'ann'"
        )
        await pool.execute("delete from syncd.membership where list_id = 'vip'")
        await at.backfill()
        assert is_in(at, name, ANN, remote["news"])


def leaves_list(at: Company, name: str, email: str, remote: str) -> None:
    """A person leaves one list by the provider's own page."""
    box = at.boxes[name]
    match name:
        case "constantcontact":
            box.act("leave_list", email=email, list=int(remote))
        case "redcappi":
            box.act("delete", email=email, list=int(remote))
        case "copernica":
            column = box.state.data.columns[int(remote)]
            box.act("set_field", email=email, name=column.name, value="0")
        case _:
            box.act("leave", email=email, list=remote)


def is_in(at: Company, name: str, email: str, remote: str) -> bool:
    box = at.boxes[name]
    if name == "copernica":
        column = box.state.data.columns[int(remote)].name
        people = box.snapshot()["profiles"].values()
        (one,) = (one for one in people if one["fields"]["email"] == email)
        return bool(one["fields"][column] == "1")
    contacts: dict[str, str] = box.snapshot()["lists"][remote]["contacts"]
    return email in {one.lower() for one in contacts.values()}


async def test_a_bulk_job_leaves_out_who_said_no(database: str, pool: Pool, name: str) -> None:
    """Thirty changed contacts go by a job; one of them said no in the meantime."""
    if not traits(name).can & Can.JOBS:
        pytest.skip("nothing is sent by bulk jobs there")
    people = ["ann", *(f"p{n:02d}" for n in range(30))]
    async with company(database, pool, [name], contacts=people, options=KNOWS) as at:
        await at.backfill()
        await says_no(at, name)
        jobs = len(at.boxes[name].snapshot()["jobs"])
        await pool.execute("update syncd.contact set first_name = 'B'")
        await at.backfill()
        await at.backfill(force=True)
        assert len(at.boxes[name].snapshot()["jobs"]) > jobs
        assert not at.mailed(name, ANN)
        assert at.mailed(name, "p07@x.test")


# ── Roads that must lead back ───────────────────────────────────────────────────────────────


async def test_newer_consent_resubscribes_where_it_can_and_is_reported_where_not(
    database: str, pool: Pool, name: str
) -> None:
    async with company(database, pool, [name], options=KNOWS) as at:
        await at.backfill()
        await says_no(at, name)
        await pool.execute(
            "update syncd.opt_out set occurred_at = occurred_at - interval '1 h',"
            " observed_at = observed_at - interval '1 h' where kind <> 'vanished'"
        )
        await pool.execute("update syncd.contact set consented_at = now() where id = 'ann'")
        await at.backfill(quiet=False)
        await at.scan(name) if traits(name).can & Can.SCAN else None
        await at.backfill(quiet=False)
        back = traits(name).can & Can.RESUBSCRIBE
        assert at.mailed(name, ANN) == bool(back)
        if not back:
            said = await pool.fetchval("select lacking from syncd.mirror where contact_id = 'ann'")
            assert any("no" in one for one in said or ()), said
        resubscribed(at, name).clear()  # these were allowed


def resubscribed(at: Company, name: str) -> list[object]:
    """What the stand-in counts as turned on by us after a person's own no."""
    state = at.boxes[name].state
    for holder in (state, getattr(state, "data", None), getattr(state, "writes", None)):
        for word in ("resubscribed", "turned_on", "added_back"):
            found = getattr(holder, word, None)
            if isinstance(found, list):
                return found
    raise AssertionError(f"{name} counts none")


async def test_withdrawn_and_added_again_is_mailable_again(
    database: str, pool: Pool, name: str
) -> None:
    """Nobody said no: leaving the source is no no, and needs no new consent to come back."""
    async with company(database, pool, [name], options=KNOWS) as at:
        await at.backfill()
        await pool.execute("delete from syncd.contact where id = 'ann'")
        await at.settle()
        assert not at.mailed(name, ANN)
        await at.scan(name) if traits(name).can & Can.SCAN else await at.settle()
        await add(pool, "ann")
        await at.backfill()
        await at.scan(name) if traits(name).can & Can.SCAN else None
        assert at.mailed(name, ANN)
        assert await pool.fetch("select * from syncd.opt_out") == []


async def test_whoever_said_no_before_we_came_is_adopted_as_they_are(
    database: str, pool: Pool, name: str
) -> None:
    """Ann is there already, and opted out; our first backfill must not turn her on. Where nothing
    that can be read tells of her, the operator does, by hand (README)."""
    tells = traits(name).can & Can.OPT_OUT or not traits(name).scans_lists
    async with company(database, pool, [name], options=KNOWS) as at:
        await at.backfill()
        at.boxes[name].act("unsubscribe", email=ANN)
        for table in ("mirror", "journal", "opt_out", "seen", "scan", "list_mirror"):
            await pool.execute(f"delete from syncd.{table}")
        await pool.execute("update syncd.feed set position = null, owes_full = true,"
                           " read_at = null, scanned_at = null, here = 0")  # fmt: skip
        await pool.execute("delete from syncd.tally")
        at.boxes[name].state.ledger.violations.clear()
        if not tells:
            await pool.execute(
                "insert into syncd.opt_out (destination_id, email, kind)"
                " select id, $1, 'unsubscribed' from syncd.destination", ANN,
            )  # fmt: skip
        await at.backfill(quiet=False)
        if traits(name).key != "ours":
            await at.scan(name)
        assert not at.mailed(name, ANN)
        assert at.mailed(name, BOB)


async def test_a_no_at_one_destination_is_obeyed_at_the_second_of_the_source(
    database: str, pool: Pool, name: str
) -> None:
    async with company(database, pool, [name, "clevertap" if name != "clevertap" else "copernica"],
                       options=KNOWS) as at:  # fmt: skip
        (other,) = set(at.boxes) - {name}
        await at.backfill()
        await says_no(at, name)
        kinds = await pool.fetch("select distinct kind from syncd.opt_out")
        await at.settle()
        await at.backfill()
        vanished = [row[0] for row in kinds] == ["vanished"]  # nobody can tell why: see the README
        assert at.mailed(other, ANN) == vanished
        assert at.mailed(other, BOB)


async def test_a_no_that_a_person_lifts_is_over_also_for_who_is_new_there(
    database: str, pool: Pool, name: str
) -> None:
    """Ann said no there, left the source, and is back under another id: a provider may have kept
    the no with the address. Where that is final, newer consent would not help either."""
    async with company(database, pool, [name], options=KNOWS, when_gone="delete") as at:
        await at.backfill()
        await says_no(at, name)
        await pool.execute("delete from syncd.contact where id = 'ann'")
        await at.settle()
        assert await control.lift(pool, ANN, None, "signed the form again", "test")
        await add(pool, "ann2", ANN)
        await at.backfill(quiet=False)
        assert at.mailed(name, ANN) == bool(traits(name).can & Can.RESUBSCRIBE)
        resubscribed(at, name).clear()  # a person said so
