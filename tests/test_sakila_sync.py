"""A database that was not made for syncd, all the way: Sakila's 599 customers at a provider.

One hour of a shop in a few seconds, and every mishap the sandbox knows, each time until the
provider holds exactly what the views say again.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
import sakila
import service
from service import Process, Service, until

from syncd.sandbox import Handle

pytestmark = [
    pytest.mark.asyncio(loop_scope="module"),
    sakila.needed,
]


@pytest.fixture(scope="module")
def shop_template(cluster: str, template: str) -> str:
    """A database with Sakila and the example in it."""
    return asyncio.run(sakila.make_template(cluster, template, "syncd_shop"))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shop(cluster: str, shop_template: str) -> AsyncIterator[Service]:
    """Sakila with a destination, filled by a backfill, and kept in step by a daemon."""
    async with service.served(cluster, shop_template) as made:
        await made.destination(
            "shop", await made.sandbox(), source="sakila", guard_percent=100, guard_floor=1_000_000
        )
        backfill = made.start("backfill", "--json")
        assert await backfill.ended() == 0, backfill.said
        told = backfill.answer()["destinations"]["shop"]
        assert (told["created"], told["in_step"], told["rejected"]) == (599, True, 0)
        await made.same("shop")
        await made.daemon()
        yield made


@pytest.fixture
def box(shop: Service) -> Handle:
    return shop.boxes["shop"]


def customers(box: Handle) -> int:
    return sum(box.state.profiles.mailable(one) for one in box.state.profiles.all)


# ── An hour in the shop ─────────────────────────────────────────────────────────────────────

HOUR = [
    (
        "new customers",
        (
            "insert into customer (store_id, first_name, last_name, email, address_id)"
            " select 1, 'NEW', 'CUSTOMER' || i, 'new' || i || '@sakila.test', 5 + i"
            " from generate_series(1, 12) i"
        ),
    ),
    ("renamed", "update customer set last_name = 'WED' where customer_id in (3, 4)"),
    (
        "moved house",
        (
            "update address set address = '1 New Street', district = '', postal_code = '12345'"
            " where address_id = (select address_id from customer where customer_id = 5)"
        ),
    ),
    ("moved to another city", "update customer set address_id = 300 where customer_id = 6"),
    ("returned", "update rental set return_date = now() where customer_id = 7"),
    (
        "rented of every category",
        (
            "insert into rental (rental_date, inventory_id, customer_id, staff_id)"
            " select now(), max(i.inventory_id), 8, 1 from inventory i"
            " join film_category f using (film_id) group by f.category_id"
        ),
    ),
    (
        "first rental of a new customer",
        (
            "insert into rental (rental_date, inventory_id, customer_id, staff_id)"
            " select now(), 1, customer_id, 1 from customer where last_name = 'CUSTOMER1'"
        ),
    ),
    (
        "all rentals deleted",
        "delete from payment where customer_id = 9; delete from rental where customer_id = 9",
    ),
    (
        "customers deleted",
        (
            "delete from payment where customer_id in (10, 11, 12);"
            " delete from rental where customer_id in (10, 11, 12);"
            " delete from customer where customer_id in (10, 11, 12)"
        ),
    ),
    ("deactivated", "update customer set activebool = false where customer_id in (13, 14, 15)"),
    ("activated again", "update customer set activebool = true where customer_id = 14"),
    ("other address", "update customer set email = 'linda.new@sakila.test' where customer_id = 16"),
    (
        "addresses swapped",
        (
            "update customer c set email = o.email from customer o"
            " where c.customer_id in (17, 18) and o.customer_id in (17, 18)"
            " and c.customer_id <> o.customer_id"
        ),
    ),
    (
        "addresses in a ring of three",
        (
            "update customer c set email = o.email from customer o"
            " where (c.customer_id, o.customer_id) in ((19, 20), (20, 21), (21, 19))"
        ),
    ),
    (
        "merged: the rentals of 22 go to 23, who takes over the address too",
        (
            "update payment set customer_id = 23 where customer_id = 22;"
            " update rental set customer_id = 23 where customer_id = 22;"
            " update customer set email = (select email from customer where customer_id = 22)"
            "  where customer_id = 23;"
            " delete from customer where customer_id = 22"
        ),
    ),
    ("upper case", "update customer set email = lower(email) where customer_id = 24"),
    ("a rental given to another", "update rental set customer_id = 26 where customer_id = 25"),
    (
        "deleted, and back under the old number",
        (
            "create temporary table back as select * from customer where customer_id = 10;"
            " insert into customer"
            " (customer_id, store_id, first_name, last_name, email, address_id)"
            " values (10, 1, 'BACK', 'AGAIN', 'back@sakila.test', 30)"
        ),
    ),
    ("everybody of a store", "update customer set last_update = now() where store_id = 2"),
    ("a whole city's street", "update address set address2 = 'Flat 2' where address_id < 60"),
]


async def test_an_hour_of_changes_in_the_shop_arrives(shop: Service, box: Handle) -> None:
    """All in a few seconds, the later ones while the earlier ones are on their way."""
    box.set_faults(seed=1, latency_ms=[5, 60])
    for n, (_, statement) in enumerate(HOUR):
        await shop.db.execute(statement)
        if n % 5 == 4:
            await shop.in_step()
            await shop.same("shop")
    box.set_faults()
    await shop.in_step()
    await shop.same("shop")
    assert customers(box) == 599 + 12 - 3 - 2 - 1 + 1


async def test_what_no_trigger_sees_is_found_by_the_full_pass(shop: Service, box: Handle) -> None:
    """A city renamed, a film moved to another category: nothing watches those tables."""
    await shop.db.execute(
        "update city set city = 'Renamed' where city_id = (select city_id from address"
        " where address_id = (select address_id from customer where customer_id = 30));"
        " update film_category set category_id = 16 where film_id between 1 and 5;"
        " insert into category (category_id, name) values (17, 'New');"
        " update film_category set category_id = 17 where film_id = 6"
    )
    assert await shop.differences("shop")
    assert (await shop.command("full", "shop"))[0] == "done"
    await until(
        lambda: box.state.profiles.by_identity["30"].properties["City"] == "Renamed", "city"
    )
    await shop.in_step()
    await shop.same("shop")


# ── Every mishap ────────────────────────────────────────────────────────────────────────────

RATE: dict[str, dict[str, Any]] = {
    "latency": {"latency_ms": [50, 400]},
    "5xx": {"error_rate": 0.5},
    "5xx in HTML": {"error_html": 0.5},
    "5xx after applying": {"error_after": 0.5},
    "429": {"rate_429": 0.5},
    "429 with Retry-After": {"rate_429": 0.5, "retry_after": 0.2},
    "cut before applying": {"cut_before": 0.5},
    "cut after applying": {"cut_after": 0.5},
    "half an answer": {"half_answer": 0.5},
    "HTML with 200": {"html": 0.5},
    "garbage": {"garbage": 0.5},
    "truncated JSON": {"truncated_json": 0.5},
    "malformed": {"malformed": 0.4},
    "everything at once": {
        "latency_ms": [0, 100], "error_rate": 0.1, "error_html": 0.05, "error_after": 0.1,
        "rate_429": 0.1, "cut_before": 0.1, "cut_after": 0.1, "half_answer": 0.05, "html": 0.05,
        "garbage": 0.05, "truncated_json": 0.05, "malformed": 0.05,
    },
    "no connection": {"outage": "close"},
    "503 only": {"outage": "503"},
}  # fmt: skip


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
        delete from payment where customer_id = {first + 18};
        delete from rental where customer_id = {first + 18};
        insert into customer (store_id, first_name, last_name, email, address_id)
        select 1, 'FAULT', '{n}-' || i, 'fault{n}.' || i || '@sakila.test', 5
          from generate_series(1, 3) i;
        update customer c set email = o.email from customer o
         where c.customer_id in ({first + 20}, {first + 21})
           and o.customer_id in ({first + 20}, {first + 21}) and c.customer_id <> o.customer_id;
        """
    )
    if n % 2:
        gone = f"customer_id = {first + 22}"
        await shop.db.execute(
            f"delete from payment where {gone}; delete from rental where {gone};"
            f" delete from customer where {gone}"
        )


@pytest.mark.parametrize("fault", RATE)
async def test_after_every_mishap_the_provider_holds_what_the_shop_says(
    shop: Service, box: Handle, fault: str
) -> None:
    n = list(RATE).index(fault)
    struck = box.state.faults.struck.total()
    before = box.state.ledger.requests
    box.set_faults(seed=n, **RATE[fault])
    await stir(shop, n)
    if fault == "latency":
        await until(lambda: box.state.ledger.requests > before, "a request")
    else:
        await until(lambda: _struck(shop, box, struck + 3), "three mishaps", every=0.1)
    box.set_faults()
    await shop.command("retry", "shop")  # a passing "Malformed request", twice, refuses an innocent
    await shop.hasten()
    await until(lambda: _hastened(shop), "in step")
    if "malformed" in RATE[fault]:  # refused twice, alone: set aside, until somebody retries
        await shop.command("retry", "shop")
        await until(lambda: _hastened(shop), "in step")
    await shop.same("shop")


async def _struck(shop: Service, box: Handle, times: int) -> bool:
    """Whether so many mishaps have happened; somebody is renamed meanwhile, so that more can."""
    await shop.db.execute(
        "update customer set last_name = 'AGAIN' || random() where customer_id = 40"
    )
    await shop.hasten()
    return bool(box.state.faults.struck.total() >= times)


async def _hastened(shop: Service) -> bool:
    """Whether all is in step; what is in backoff need not wait for it."""
    await shop.hasten()
    return not await shop.outstanding("shop")


async def test_revoked_credentials_halt_the_destination_until_it_is_resumed(
    shop: Service, box: Handle
) -> None:
    daemon = shop.processes[-1]
    box.set_faults(revoked=True)
    await stir(shop, len(RATE))

    async def halted() -> Any:
        return (await shop.row("shop"))["halted"]

    reason = await until(halted, "halted")
    assert "401" in reason
    due = "select count(*) filter (where state = 'due') = count(*) and count(*) > 0"
    await until(lambda: shop.db.fetchval(f"{due} from syncd.journal"), "all rows stay due")
    before = box.state.ledger.requests
    box.set_faults()
    await shop.db.execute("update customer set last_name = 'MEANWHILE' where customer_id = 31")
    await until(lambda: _planned(shop, "31"), "planned, though halted")
    assert box.state.ledger.requests == before, "nothing is sent while halted"
    code = await resumed(shop, daemon)
    assert code == 0
    await shop.in_step()
    await shop.same("shop")
    assert len(daemon.told("destination halted")) == 1


async def resumed(shop: Service, daemon: Process) -> int:
    """As an operator does it; the daemon goes on by itself."""
    resume = shop.start("resume", "shop")
    code = await resume.ended()
    assert daemon.alive
    return code


async def _planned(shop: Service, contact_id: str) -> bool:
    return bool(
        await shop.db.fetchval(
            "select exists (select 1 from syncd.journal where contact_id = $1)", contact_id
        )
    )


# ── The guard ───────────────────────────────────────────────────────────────────────────────


async def test_the_guard_holds_a_mass_change_until_exactly_that_is_approved(
    shop: Service, box: Handle
) -> None:
    await shop.set("shop", guard_percent=10.0, guard_floor=0)
    await until(lambda: _followed(shop), "the daemon follows")
    await shop.db.execute("delete from syncd.tally where kind <> 'here'")  # yesterday's
    before = customers(box)
    await shop.db.execute("update customer set activebool = false where customer_id > 300")

    async def held() -> Any:
        return await shop.db.fetchrow(
            "select p.id, p.kind, p.reason, count(j.*) as n from syncd.plan p"
            " join syncd.journal j on j.plan_id = p.id where p.state = 'held' group by p.id"
        )

    plan = await until(held, "held")
    assert plan["kind"] == "opt_out"
    assert f"silence {plan['n']} contacts" in plan["reason"]
    await shop.in_step()
    assert customers(box) == before
    outcome, result = await shop.command("approve", plan=plan["id"], rows=1)
    assert outcome == "failed"
    assert "has grown" in result["error"]
    assert customers(box) == before
    outcome, result = await shop.command("approve", plan=plan["id"], rows=plan["n"])
    assert (outcome, result) == ("done", {"due": plan["n"]})
    await shop.in_step()
    await shop.same("shop")
    assert customers(box) == before - plan["n"]


async def _followed(shop: Service) -> bool:
    """Whether the daemon has looked at its control rows since: a command went through."""
    outcome, _ = await shop.command("sync", "shop")
    return bool(outcome == "done")


async def test_in_the_end_nothing_was_ever_printed_or_done_that_must_not_be(
    shop: Service, box: Handle
) -> None:
    assert shop.faults() == []
    assert box.state.ledger.violations == []
    assert box.state.writes.resubscribed == []
