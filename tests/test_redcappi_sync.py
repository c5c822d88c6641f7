"""RedCappi through whole commands: what `config/` says works as it stands; Sakila, all the way.

The sandbox answers what the reference leaves open, each time in another combination.
"""

from __future__ import annotations

import asyncio
import itertools
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import hurried
import pytest
import redcappi_service
import sakila
import service
from cmdline import apply_example, environment, secret, syncd
from people import fill
from redcappi_service import same
from service import Service
from test_kill import Killer, seeded

from syncd.sandbox import Handle, serve

OPTIONS: dict[str, list[Any]] = {
    "repeated_add": ["update", "refuse", "double"],
    "offset": ["rows", "pages"],
    "page_cap": [None, 100],
    "delete_scope": ["list", "account"],
    "errors_in": ["status", "body"],
}
FAULTS: dict[str, dict[str, Any]] = {
    "latency": {"latency_ms": [5, 60]},
    "5xx": {"error_rate": 0.3},
    "5xx in HTML": {"error_html": 0.3},
    "5xx after applying": {"error_after": 0.3},
    "429": {"rate_429": 0.3, "retry_after": 0.1},
    "cut before applying": {"cut_before": 0.3},
    "cut after applying": {"cut_after": 0.3},
    "half an answer": {"half_answer": 0.3},
    "HTML with 200": {"html": 0.3},
    "garbage": {"garbage": 0.3},
    "truncated JSON": {"truncated_json": 0.3},
    "malformed": {"malformed": 0.2},
    "no connection": {"outage": "close"},
    "503 only": {"outage": "503"},
    "everything at once": {
        "latency_ms": [0, 20], "error_rate": 0.05, "error_html": 0.03, "error_after": 0.05,
        "rate_429": 0.05, "cut_before": 0.05, "cut_after": 0.05, "half_answer": 0.03,
        "html": 0.03, "garbage": 0.03, "truncated_json": 0.03,
    },
}  # fmt: skip


def product() -> list[dict[str, Any]]:
    return [dict(zip(OPTIONS, one, strict=True)) for one in itertools.product(*OPTIONS.values())]


def pairwise() -> list[dict[str, Any]]:
    """Few combinations in which every two answers meet; all of them with SYNCD_TEST_PRODUCT."""
    every = product()
    if os.environ.get("SYNCD_TEST_PRODUCT"):
        return every
    left = {pair for one in every for pair in itertools.combinations(one.items(), 2)}
    chosen: list[dict[str, Any]] = []
    while left:
        best = max(every, key=lambda one: len(left & set(itertools.combinations(one.items(), 2))))
        left -= set(itertools.combinations(best.items(), 2))
        chosen.append(best)
    return chosen


@pytest.fixture
async def sandbox() -> AsyncIterator[Handle]:
    async with serve("redcappi") as handle:
        yield handle
        state = handle.snapshot()
        assert (state["violations"], state["duplicates"], state["repeated_adds"]) == ([], [], [])


async def test_the_annotated_destination_works_as_it_stands(
    pool: Any, database: str, sandbox: Handle, tmp_path: Path
) -> None:
    """But for the port, and for politeness."""
    await fill(pool, 20)
    await apply_example(database, sandbox, tmp_path)
    await pool.execute("update syncd.destination set per_second = 1000")

    ended = await syncd("backfill", env=environment(database, **secret(sandbox, "redcappi")))

    done = ended.json["destinations"]["redcappi"]
    assert (ended.code, done["created"], done["absent"]) == (0, 10, 10), ended.err
    lists = {one["name"]: one["contacts"] for one in sandbox.snapshot()["lists"].values()}
    assert {name: len(there) for name, there in lists.items()} == {"Newsletter": 10, "VIP": 2}


# ── Sakila ──────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def shop_template(cluster: str, template: str) -> str:
    """A database with Sakila and the example in it."""
    return asyncio.run(sakila.make_template(cluster, template, "syncd_rental"))


@pytest.fixture
async def shop(cluster: str, shop_template: str) -> AsyncIterator[Service]:
    async with service.served(cluster, shop_template) as made:
        made.under = hurried.UNDER
        yield made


async def opened(shop: Service, *lists: str, **options: Any) -> Handle:
    """A destination of three of the shop's lists (or those), at an account that is not empty."""
    box = await shop.sandbox("redcappi", **options)
    adopted = box.act("add_list", name="Action")["list"]
    other = box.act("add_list", name="Somebody else's")["list"]
    rows = await shop.db.fetch(
        "select c.email from marketing.contact c join marketing.membership m on m.contact_id = c.id"
        " where m.list_id = 1 and c.subscribed order by c.id limit 12"
    )
    for row in rows:
        box.act("add", email=row["email"].lower(), list=adopted)
        box.act("add", email=row["email"], list=other)
    await redcappi_service.destination(
        shop, "shop", box, source="sakila", lists=list(lists or ("1", "2", "3"))
    )
    return box


CHANGES = """
update customer set last_name = 'EDITED' where customer_id between 1 and 20;
update customer set email = 'moved' || customer_id || '@sakila.test'
 where customer_id between 21 and 30;
update customer c set email = o.email from customer o
 where c.customer_id in (31, 32) and o.customer_id in (31, 32) and c.customer_id <> o.customer_id;
delete from payment where customer_id between 41 and 50;
delete from rental r using inventory i, film_category f
 where r.customer_id between 41 and 50 and i.inventory_id = r.inventory_id
   and f.film_id = i.film_id and f.category_id = 1;
update customer set activebool = false where customer_id between 51 and 60;
delete from payment where customer_id between 61 and 70;
create table gone_rental as select * from rental where customer_id between 61 and 70;
delete from rental where customer_id between 61 and 70;
create table gone_customer as select * from customer where customer_id between 61 and 70;
delete from customer where customer_id between 61 and 70;
insert into rental (rental_date, inventory_id, customer_id, staff_id)
select now() + c.customer_id * interval '1 s', i.inventory_id, c.customer_id, 1
  from customer c
 cross join (select min(i.inventory_id) as inventory_id from inventory i
               join film_category f using (film_id) where f.category_id in (1, 2)
              group by f.category_id) i
 where c.customer_id between 71 and 90;
insert into customer (store_id, first_name, last_name, email, address_id)
select 1, 'NEW', 'CUSTOMER' || i, 'new' || i || '@sakila.test', 5 + i from generate_series(1, 5) i;
insert into rental (rental_date, inventory_id, customer_id, staff_id)
select now(), 1, customer_id, 1 from customer where first_name = 'NEW'"""
RETURN = """
insert into customer select * from gone_customer;
insert into rental select * from gone_rental;
update customer set activebool = true where customer_id between 51 and 55;
update customer set first_name = 'AGAIN' where customer_id between 1 and 90"""


def in_order(given: dict[str, Any]) -> str:
    return "-".join(str(one) for one in given.values())


@sakila.needed
@pytest.mark.parametrize("answers", pairwise(), ids=in_order)
async def test_the_shop_arrives_and_stays_in_step_whatever_nobody_knows(
    shop: Service, answers: dict[str, Any]
) -> None:
    """Adopted, filled, changed in every way; who vanished there stays away."""
    box = await opened(shop, **answers)
    await shop.daemon()
    await shop.in_step()
    await same(shop, "shop")

    await shop.db.execute(CHANGES)
    await shop.in_step()
    await same(shop, "shop")

    lost = await vanish(shop, box)
    await shop.db.execute(RETURN)
    await shop.in_step()
    await same(shop, "shop")
    assert not [email for email in lost if box.state.mailable(email)]


async def vanish(shop: Service, box: Handle) -> list[str]:
    """Some say no there, some are deleted there; two whole scans tell."""
    found = [box.state.data.members[101][one] for one in sorted(box.state.data.members[101])]
    lost = [one.email for one in found[30:36]]
    for n, email in enumerate(lost):
        box.act("unsubscribe" if n % 2 else "delete", email=email)
    before = await shop.db.fetchval("select count(*) from syncd.opt_out where kind = 'vanished'")
    assert (await shop.command("scan", "shop"))[0] == "done"
    question = "select count(distinct email) >= $1 from syncd.opt_out where kind = 'vanished'"
    await service.until(
        lambda: shop.db.fetchval(question, before + len(lost)), "who is gone is noted"
    )
    return lost


@sakila.needed
async def test_all_of_the_shop_arrives_and_nothing_is_sent_twice(shop: Service) -> None:
    """599 customers in sixteen lists: one request for each membership."""
    await shop.db.execute("update customer set activebool = true")
    box = await shop.sandbox("redcappi")
    await redcappi_service.destination(shop, "shop", box, source="sakila")

    ended = shop.start("backfill", "--json")

    assert await ended.ended() == 0, ended.said
    members = await shop.db.fetchval("select count(*) from marketing.membership")
    told = ended.answer()["destinations"]["shop"]
    assert (told["created"], told["in_step"]) == (599, True)
    assert members <= told["requests"] < members + 60
    await same(shop, "shop")
    again = shop.start("backfill", "--json")
    assert await again.ended() == 0, again.said
    assert again.answer()["destinations"]["shop"]["requests"] < 10


# ── Mishaps ─────────────────────────────────────────────────────────────────────────────────


async def stir(shop: Service, n: int) -> None:
    """Changes of every kind, of customers that the number picks."""
    first = 100 + n * 25
    await shop.db.execute(
        f"""
        update customer set last_name = 'FAULT{n}'
         where customer_id between {first} and {first + 9};
        update customer set email = 'f{n}.' || customer_id || '@sakila.test'
         where customer_id between {first + 10} and {first + 12};
        update customer set activebool = not activebool where customer_id = {first + 13};
        insert into rental (rental_date, inventory_id, customer_id, staff_id)
        select now(), 10 * i, {first + 13} + i, 1 from generate_series(1, 4) i;
        delete from payment where customer_id in ({first + 18}, {first + 22});
        delete from rental where customer_id in ({first + 18}, {first + 22});
        delete from customer where customer_id = {first + 22};
        insert into customer (store_id, first_name, last_name, email, address_id)
        select 1, 'FAULT', '{n}-' || i, 'fault{n}.' || i || '@sakila.test', 5
          from generate_series(1, 3) i;
        insert into rental (rental_date, inventory_id, customer_id, staff_id)
        select now(), 1, customer_id, 1 from customer where last_name like '{n}-%';
        update customer c set email = o.email from customer o
         where c.customer_id in ({first + 20}, {first + 21})
           and o.customer_id in ({first + 20}, {first + 21}) and c.customer_id <> o.customer_id;
        """
    )


async def calm(shop: Service) -> None:
    """All in step, soon: what is in backoff need not wait for it; who is refused is retried."""

    async def quiet() -> bool:
        await shop.db.execute(
            "update syncd.journal set due_at = now()"
            " where state = 'due' and due_at > now() and waits_for is null"
        )
        return not await shop.outstanding("shop")

    await shop.command("retry", "shop")
    await service.until(quiet, "in step", every=0.2)


async def strike(shop: Service, box: Handle, fault: str, n: int) -> None:
    """Three mishaps of this kind, at least, while customers of this number's change."""
    before, asked = box.state.faults.struck.total(), box.state.ledger.requests
    box.set_faults(seed=n, **FAULTS[fault])
    await stir(shop, n)

    async def enough() -> bool:
        if fault == "latency":
            return bool(box.state.ledger.requests > asked + 10)
        await shop.db.execute(
            "update customer set last_name = 'AGAIN' || random() where customer_id = 40"
        )
        return bool(box.state.faults.struck.total() >= before + 3)

    await service.until(enough, f"mishaps: {fault}", every=0.1)
    box.set_faults()


async def mended(shop: Service) -> None:
    """Everything is as it should be."""
    await calm(shop)
    await calm(shop)  # a passing refusal, twice, sets an innocent aside until somebody retries
    await same(shop, "shop")


@sakila.needed
async def test_after_every_mishap_the_lists_hold_what_the_shop_says(shop: Service) -> None:
    """Each kind of mishap has customers of its own; what became of them is looked at now and
    then."""
    box = await opened(shop, page_cap=200)
    daemon = await shop.daemon()
    await shop.in_step()
    for n, fault in enumerate(FAULTS):
        await strike(shop, box, fault, n)
        if n % 4 == 3:
            await mended(shop)
    await mended(shop)
    assert box.state.faults.struck.total() > 3 * (len(FAULTS) - 1)

    box.set_faults(revoked=True)
    await stir(shop, len(FAULTS))
    halted = "select halted from syncd.destination"
    assert "Not Authorized" in await service.until(lambda: shop.db.fetchval(halted), "halted")
    box.set_faults()
    assert await shop.start("resume", "shop").ended() == 0
    await mended(shop)
    assert daemon.alive


@sakila.needed
@pytest.mark.parametrize("repeated", ["refuse", "double"])
async def test_mishaps_where_an_add_may_make_a_second_record(shop: Service, repeated: str) -> None:
    box = await opened(shop, repeated_add=repeated, offset="pages", errors_in="body")
    box.set_faults(seed=7, **FAULTS["everything at once"])
    await shop.daemon()
    await service.until(lambda: box.state.faults.struck.total() > 20, "mishaps")
    box.set_faults()
    await mended(shop)
    for n in range(3):
        await strike(shop, box, "everything at once", n)
    await mended(shop)


async def test_kill_9_at_any_instant_loses_doubles_and_adds_back_nobody(
    cluster: str, template: str
) -> None:
    """Also in the midst of a scan, and of an account-wide look."""
    with seeded("kill -9 at RedCappi") as rng:
        async with service.served(cluster, template) as made:
            made.settings = service.MORTAL
            await service.fill(made.db, 150)
            await redcappi_service.destination(made, "shop", await made.sandbox("redcappi"))
            box = made.boxes["shop"]
            box.set_faults(seed=rng.randrange(10**6), latency_ms=[2, 40])
            changes = await service.changing(made, rng)
            stop = asyncio.Event()
            killer = Killer(made, rng, ("run",))
            async with asyncio.TaskGroup() as group:
                group.create_task(changes.keep_on(stop))
                await killer.kill(8)
                stop.set()
            box.set_faults()
            await calm(made)
            await same(made, "shop")


# ── Limits, lists ───────────────────────────────────────────────────────────────────────────


async def test_fifty_contacts_under_the_limits_as_they_are(cluster: str, template: str) -> None:
    """Four requests at a time and ten a second, both sides."""
    async with service.served(cluster, template) as made:
        await made.db.execute("insert into syncd.list values ('news', 'Newsletter')")
        await made.db.execute(
            "insert into syncd.contact (id, email) select i, i || '@x.test'"
            " from generate_series(1, 50) i"
        )
        await made.db.execute("insert into syncd.membership select 'news', id from syncd.contact")
        box = await made.sandbox("redcappi", in_flight=4)
        await made.destination("shop", box)
        ended = made.start("backfill", "--json")

        assert await ended.ended() == 0, ended.said
        told = ended.answer()["destinations"]["shop"]
        assert told["requests"] / 10 - 2 < told["seconds"] < 30
        await same(made, "shop")


async def test_a_list_deleted_in_the_dashboard_asks_and_the_rest_goes_on(
    cluster: str, template: str
) -> None:
    async with service.served(cluster, template) as made:
        await service.fill(made.db, 40)
        box = await made.sandbox("redcappi")
        await redcappi_service.destination(made, "shop", box)
        daemon = await made.daemon()
        await made.in_step()
        row = await made.db.fetchrow(
            "select list_id, remote_id from syncd.list_mirror order by list_id limit 1"
        )
        assert row is not None
        box.act("delete_list", list=int(row["remote_id"]))
        await made.db.execute(  # what has just been made need not show in a look
            "update syncd.list_mirror set pushed_at = pushed_at - interval '1 minute'"
        )

        assert (await made.command("scan", "shop"))[0] == "done"
        await service.until(
            lambda: made.db.fetchval("select state = 'asks' from syncd.list_mirror"
                                     " where list_id = $1", row["list_id"]),
            "the list asks",
        )  # fmt: skip
        await made.db.execute("update syncd.contact set city = 'Oslo' where id = 'c00001'")
        assert not await made.db.fetchval("select count(*) from syncd.opt_out")
        assert daemon.alive

        assert (await made.command("retry", "shop"))[0] == "done"
        made_again = "select every(state = 'in step') from syncd.list_mirror"
        await service.until(lambda: made.db.fetchval(made_again), "made again")
        await calm(made)
        await same(made, "shop")
