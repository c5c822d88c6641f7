"""Sakila's 599 customers at the providers that no other module takes them to, all the way.

CleverTap's hour is in `test_sakila_sync`, RedCappi's in `test_redcappi_sync`. What the stand-in
holds is compared with what the views say, by the stand; the limits are raised on both sides, save
in the test that keeps them.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any

import orjson
import pytest
import sakila
from conftest import fresh_database
from service import wanted
from stands import SandboxStand, stands

from syncd import db
from syncd.app import App, opened
from syncd.backfill import Backfill
from syncd.model import Traits
from syncd.providers import providers
from syncd.settings import Settings

FIELDS: Mapping[str, Mapping[str, str]] = {
    "clevercampaign": {"firstname": "first_name", "lastname": "last_name"},
    "constantcontact": {
        "FirstName": "first_name", "LastName": "last_name", "City": "city",
        "PostalCode": "postal_code",
    },
    "copernica": {
        "first_name": "first_name", "last_name": "last_name", "address": "address",
        "city": "city", "zip": "postal_code", "country": "country",
    },
}  # fmt: skip
ALL = [str(number) for number in range(1, 17)]
CASES = {
    "constantcontact": ("constantcontact", "", ALL),
    "copernica-v4": ("copernica", "v4", ["1", "2"]),
    "clevercampaign-switched-on": ("clevercampaign", "switched-on", ["1", "2", "3"]),
    "copernica-v1": ("copernica", "v1", ["1", "2", "3"]),
    "clevercampaign": ("clevercampaign", "", None),
}
WHOLE = bool(os.environ.get("SYNCD_TEST_PRODUCT"))
"""Also what takes long: every way of an account with faults on."""
EVERYTHING = {
    "latency_ms": [0, 5], "error_rate": 0.04, "error_html": 0.03, "error_after": 0.04,
    "rate_429": 0.04, "cut_before": 0.04, "cut_after": 0.04, "half_answer": 0.03, "html": 0.03,
    "garbage": 0.03, "truncated_json": 0.03,
}  # fmt: skip
QUICK = Settings(pool_size=6, control_poll_seconds=0.05, poll_seconds=0.05, window=250,
                 request_timeout_seconds=5)  # fmt: skip


@dataclass
class Shop:
    """Sakila, one destination, and the stand that it sends to."""

    app: App
    stand: SandboxStand
    provider: str

    async def change(self, statements: str) -> None:
        await self.app.pool.execute(statements)

    async def backfill(self) -> dict[str, Any]:
        """Bring it in step; nobody waits as long as backoff asks for."""
        backfill = Backfill(self.app, await self.app.destinations())
        running = asyncio.create_task(backfill.run())
        while not running.done():
            await self.app.pool.execute(
                "update syncd.journal set due_at = now() where state = 'due' and due_at > now()"
            )
            await self.app.pool.execute("update syncd.list_mirror set due_at = now()")
            await asyncio.wait([running], timeout=0.2)
        await running
        told: dict[str, Any] = backfill.summary()["destinations"]["shop"]
        return told

    async def same(self) -> None:
        found = await self.differences()
        assert found == [], "\n".join([f"{len(found)} differences", *found[:10]])

    async def differences(self) -> list[str]:
        """Every way in which the stand-in is not what the views ask for, in words."""
        async with self.app.pool.acquire() as connection:
            people = await wanted(connection, "shop", FIELDS[self.provider])  # type: ignore[arg-type]
            rows = await connection.fetch("select list_id, remote_id from syncd.list_mirror")
        remote = {row["list_id"]: row["remote_id"] for row in rows}
        there: dict[str, list[Any]] = {}
        for one in self.stand.held():
            there.setdefault(one.email.lower(), []).append(one)
        found = [f"broken: {one}" for one in self.stand.breaches()]
        needs_list = providers()[self.provider].traits.needs_list
        for key, want in people.items():
            held = there.pop(want.email.lower(), [])
            mailed = [one for one in held if one.mailable]
            if not want.mailable or (needs_list and not want.lists):
                found += [f"{key}: mailed"] if mailed else []
                continue
            if len(held) != 1 or not mailed:
                found.append(f"{key}: {len(held)} records, {len(mailed)} mailed")
                continue
            texts = {name: str(held[0].fields.get(name) or "") for name in FIELDS[self.provider]}
            wished = {name: self.stand.tidy(str(want.properties.get(name, ""))) for name in texts}
            found += [f"{key}: {texts} instead of {wished}"] if texts != wished else []
            lists = {remote[one] for one in want.lists} if self.stand.keeps_lists else set()
            if held[0].lists & set(remote.values()) != lists:
                found.append(f"{key}: in {sorted(held[0].lists)} instead of {sorted(lists)}")
        return found + [f"{email}: mailed" for email, some in there.items()
                        if any(one.mailable for one in some)]  # fmt: skip


@asynccontextmanager
async def opening(
    url: str, provider: str, way: str, *, source: str = "sakila", **columns: Any
) -> AsyncIterator[Shop]:
    async with stands()[provider].serving(way) as stand, db.pool(url, 4) as pool:
        row = {
            "name": "shop", "provider": provider, "source": source, "credential": "shop",
            "options": orjson.dumps({**stand.options, **columns.pop("options", {})}).decode(),
            "fields": orjson.dumps(FIELDS.get(provider)).decode(), "guard_percent": 100,
            "guard_floor": 1_000_000, **columns,
        }  # fmt: skip
        row = {name: value for name, value in row.items() if value not in (None, "null")}
        marks = ", ".join(f"${n}" for n in range(1, len(row) + 1))
        await pool.execute(
            f"insert into syncd.destination ({', '.join(row)}) values ({marks})", *row.values()
        )
        secrets = {"SYNCD_SECRET_SHOP": orjson.dumps(dict(stand.credential)).decode()}
        async with opened(QUICK.model_copy(update={"database_url": url}), secrets) as app:
            yield Shop(app, stand, provider)


@pytest.fixture(scope="module")
def shop_template(cluster: str, template: str) -> str:
    """A database with Sakila and the example in it."""
    return asyncio.run(sakila.make_template(cluster, template, "syncd_store"))


@pytest.fixture
async def shop(
    request: pytest.FixtureRequest, cluster: str, shop_template: str, prompt: None
) -> AsyncIterator[Shop]:
    provider, way, lists = CASES[request.param]
    meters = {name: {"per_second": 0, "in_flight": 0, "per_day": 0}
              for name in providers()[provider].traits.meters}  # fmt: skip
    async with (
        fresh_database(cluster, shop_template) as url,
        opening(url, provider, way, lists=lists, options={"meters": meters}) as made,
    ):
        yield made


@pytest.fixture
def prompt(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was written is shown at once by the stand-ins; probes of an outage follow soon."""
    monkeypatch.setattr("syncd.breaker.backoff", lambda tries: 0.05 * min(tries, 4))
    for name in {provider for provider, _, _ in CASES.values()}:
        kind = providers()[name]
        if isinstance(kind.__dict__["traits"], Traits):
            monkeypatch.setattr(kind, "traits", replace(kind.traits, visible_after=0.1))


CHANGES = """
update customer set last_name = 'ÉDITED & <b>' where customer_id between 1 and 20;
update customer set email = 'moved' || customer_id || '@sakila.test'
 where customer_id between 21 and 30;
update customer c set email = o.email from customer o
 where c.customer_id in (31, 32) and o.customer_id in (31, 32) and c.customer_id <> o.customer_id;
update customer set activebool = false where customer_id between 51 and 60;
delete from payment where customer_id between 41 and 46;
delete from rental where customer_id between 41 and 46;
delete from payment where customer_id between 61 and 66;
delete from rental where customer_id between 61 and 66;
delete from customer where customer_id between 61 and 66;
update address set postal_code = '' where address_id between 70 and 75;
insert into customer (store_id, first_name, last_name, email, address_id)
select 1, 'NEW', 'CUSTOMER' || i, 'new' || i || '@sakila.test', 5 + i from generate_series(1, 5) i;
insert into rental (rental_date, inventory_id, customer_id, staff_id)
select now() + c.customer_id * interval '1 s', i.inventory_id, c.customer_id, 1
  from customer c
 cross join (select min(i.inventory_id) as inventory_id from inventory i
               join film_category f using (film_id) where f.category_id in (1, 2)
              group by f.category_id) i
 where c.first_name = 'NEW' or c.customer_id between 71 and 80"""


@sakila.needed
@pytest.mark.parametrize("shop", CASES, indirect=True)
async def test_the_shop_arrives_and_every_change_of_it_with_no_rule_broken(shop: Shop) -> None:
    told = await shop.backfill()
    assert (told["in_step"], told["rejected"]) == (True, 0)
    await shop.same()
    again = await shop.backfill()
    assert (again["created"], again["updated"], again["withdrawn"]) == (0, 0, 0)
    await shop.change(CHANGES)
    assert await shop.differences()
    told = await shop.backfill()
    assert (told["in_step"], told["rejected"]) == (True, 0)
    await shop.same()


@sakila.needed
@pytest.mark.parametrize("shop", list(CASES)[: None if WHOLE else 3], indirect=True)
async def test_with_every_fault_on_it_arrives_all_the_same(shop: Shop) -> None:
    """From the first request on; and while it is changed."""
    box = shop.stand.box
    for number, statements in enumerate(("select 1", CHANGES)):
        await shop.change(statements)
        before = box.state.faults.struck.total()
        box.set_faults(seed=number, **EVERYTHING)
        running = asyncio.create_task(shop.backfill())
        while not running.done() and box.state.faults.struck.total() < before + 15:
            await asyncio.sleep(0.02)
        box.set_faults()
        told = await running
        assert told["rejected"] == 0
        assert (await shop.backfill())["in_step"]
        assert box.state.faults.struck.total() > before
        await shop.same()


POLITE = [("clevertap", 50), ("constantcontact", 50), ("copernica", 50),
          ("clevercampaign", 50)]  # fmt: skip


@pytest.mark.parametrize(("provider", "number"), POLITE)
async def test_some_contacts_under_the_limits_as_they_are(
    cluster: str, template: str, provider: str, number: int, prompt: None
) -> None:
    """Both sides; RedCappi's are in `test_redcappi_sync`."""
    kind = providers()[provider]
    way = next(iter(stands()[provider].ways))
    async with (
        fresh_database(cluster, template) as url,
        opening(url, provider, way, source="default", lists=["news"], fields="null") as shop,
    ):
        await shop.change(
            "insert into syncd.list values ('news', 'Newsletter');"
            " insert into syncd.contact (id, email, first_name) select i, i || '@x.test', 'Ann'"
            f" from generate_series(1, {number}) i;"
            " insert into syncd.membership select 'news', id from syncd.contact"
        )
        options = kind.options_model.model_validate(dict(shop.stand.options))
        first, *_ = kind.meters(options).values()
        if hasattr(shop.stand.box.state.limits, "in_flight"):
            shop.stand.box.set_limits(in_flight=first.in_flight)
        told = await shop.backfill()
        assert (told["created"], told["in_step"]) == (number, True)
        assert shop.stand.breaches() == []
        assert "429" not in shop.stand.box.snapshot()["answers"]
        if first.per_second is not None:
            assert told["seconds"] >= told["requests"] / first.per_second - 2
        assert sum(one.mailable for one in shop.stand.held()) == number
