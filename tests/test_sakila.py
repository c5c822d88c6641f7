"""The example source of config/sakila.sql over a database that was not made for syncd."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import asyncpg
import pytest
import sakila
from conftest import fresh_database

pytestmark = sakila.needed


@pytest.fixture(scope="session")
def sakila_template(cluster: str, template: str) -> str:
    """The name of a database with Sakila and the example in it, to clone from."""
    return asyncio.run(sakila.make_template(cluster, template, "syncd_sakila"))


@pytest.fixture
async def shop(cluster: str, sakila_template: str) -> AsyncIterator[asyncpg.Connection]:
    """Sakila, with the example applied."""
    async with fresh_database(cluster, sakila_template) as url:
        connection = await asyncpg.connect(url)
        yield connection
        await connection.close()


async def noted(shop: asyncpg.Connection) -> set[tuple[str | None, bool]]:
    """What was noted since the last call, for this source."""
    rows = await shop.fetch(
        "delete from syncd.change where source = 'sakila' returning contact_id, list_id, gone"
    )
    assert all(row["list_id"] is None for row in rows)
    return {(row["contact_id"], row["gone"]) for row in rows}


async def test_the_views_show_every_customer_list_and_membership_once(
    shop: asyncpg.Connection,
) -> None:
    for view, key, count in (
        ("contact", "id", 599),
        ("list", "id", 16),
        ("membership", "list_id, contact_id", 7741),
    ):
        found = await shop.fetchrow(
            f"select count(*), count(distinct ({key})) from marketing.{view}"
        )
        assert found
        assert tuple(found) == (count, count)
    assert await shop.fetchval("select count(*) from marketing.contact where not subscribed") == 0
    assert not await noted(shop)


async def test_the_example_can_be_applied_again_and_owes_nothing_for_it(
    shop: asyncpg.Connection,
) -> None:
    await shop.execute(sakila.EXAMPLE.read_text("utf-8"))
    assert not await noted(shop)
    watched = await shop.fetch(
        "select relation::text, key, via::text, tells_gone from syncd.watched "
        "where source = 'sakila' order by 1"
    )
    assert [tuple(row) for row in watched] == [
        ("address", "address_id", "marketing.contact_of_address", False),
        ("customer", "customer_id", None, True),
        ("rental", "customer_id", None, False),
    ]


@pytest.mark.parametrize(
    ("statement", "expected"),
    [
        ("update customer set email = 'new@x.test' where customer_id = 7", {"7"}),
        (
            "update customer set activebool = false where store_id = 1 and customer_id < 4",
            {"1", "2", "3"},
        ),
        (
            (
                "insert into rental (rental_date, inventory_id, customer_id, staff_id) "
                "values (now(), 1, 42, 1)"
            ),
            {"42"},
        ),
        ("update rental set customer_id = 8 where rental_id = 1", {"8", "130"}),
        ("delete from payment; delete from rental where customer_id in (5, 6)", {"5", "6"}),
        ("update address set phone = '1' where address_id = 10", {"6"}),
        ("update address set phone = '1' where address_id = 1", set()),
        (
            (
                "update customer set address_id = 10 where customer_id = 9; "
                "update address set phone = '2' where address_id = 10"
            ),
            {"6", "9"},
        ),
    ],
)
async def test_a_change_notes_exactly_the_customers_it_concerns(
    shop: asyncpg.Connection, statement: str, expected: set[str]
) -> None:
    await shop.execute(statement)
    assert await noted(shop) == {(key, False) for key in expected}


async def test_a_deleted_customer_is_gone(shop: asyncpg.Connection) -> None:
    await shop.execute("delete from payment; delete from rental where customer_id = 599")
    await noted(shop)
    await shop.execute("delete from customer where customer_id = 599")
    assert await noted(shop) == {("599", True)}
