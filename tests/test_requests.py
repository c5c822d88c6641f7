"""What work costs in requests, at every provider: the promise of so many for 1,000 contacts.

Where one request carries one contact a hundred of them show it as well as a thousand: what comes on
top is for the account, not for the contact.
"""

from __future__ import annotations

from typing import Any

import pytest
from company import Company, company
from test_consent_roads import traits

from syncd.backfill import Backfill
from syncd.db import Pool
from syncd.preview import Previewer
from syncd.sandbox import PROVIDERS
from syncd.status import status

ON_TOP = 10  # of a thousand, or of a hundred
CHANGED = {"clevertap": 3, "constantcontact": 12}  # of a thousand; else one each
ABOUT = 40  # for the account, whoever is sent
CREATED = {"copernica": 2, "clevercampaign": 2}  # each


async def fill(pool: Pool, n: int) -> None:
    await pool.execute(
        "insert into syncd.contact (id, email, first_name)"
        " select 'c' || g, 'c' || g || '@x.test', 'A' from generate_series(1, $1::int) g",
        n,
    )
    await pool.execute("insert into syncd.list values ('third', 'Third list')")
    await pool.execute(
        "insert into syncd.membership (list_id, contact_id)"
        " select (array['news', 'vip', 'third'])[1 + substr(c.id, 2)::int % 3], c.id"
        " from syncd.contact c"
    )


async def sent(at: Company, name: str) -> int:
    """Requests that a look at what has changed, and all that follows from it, cost."""
    async with at.flows(name) as flows:
        flow, ledger = flows[name], at.boxes[name].state.ledger
        await flow.read()
        before = ledger.requests
        await flow.look()
        await flow.pump(until_empty=True)
        return int(ledger.requests - before)


@pytest.mark.parametrize("name", PROVIDERS)
async def test_so_many_requests_and_no_more(database: str, pool: Pool, name: str) -> None:
    n = 1000 if name in CHANGED else 100
    assert (traits(name).batch > 1) == (name in CHANGED)
    async with company(database, pool, [name], contacts=()) as at:
        await at.backfill()  # the account is known
        await fill(pool, n)
        created = await sent(at, name)
        assert created <= CREATED.get(name, 1) * n + ON_TOP
        await at.backfill()
        await pool.execute("update syncd.contact set first_name = 'B'")
        changed = await sent(at, name)
        assert changed <= CHANGED.get(name, n + ON_TOP)
        assert len(at.there(name)) == n
        done = await pool.fetchval("select count(*) from syncd.journal")
        assert done == 0
        print(f"{name}: {created} requests for {n} creates, {changed} for {n} changes")


async def estimated(at: Company, name: str) -> tuple[int, int]:
    """Requests that a plan and a backfill say before they begin, and that the latter then sends."""
    (row,) = await at.app.destinations([name])
    async with at.app.assembled(row, [row]) as made:
        plan = await Previewer(at.pool, made, 1000, 0).run()
    job, ledger = Backfill(at.app, [row]), at.boxes[name].state.ledger
    before = ledger.requests
    await job.run()
    (part,) = job.parts
    sent = ledger.requests - before
    print(f"{name}: {plan.requests} planned, {part.estimate.requests} said, {sent} sent")
    assert part.estimate.requests in (plan.requests, 0)
    return plan.requests, int(sent)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("copernica", {}),
        ("copernica", {"version": "v4"}),
        ("clevercampaign", {}),
        ("clevercampaign", {"lists_enabled": True}),
        ("redcappi", {}),
    ],
)
async def test_what_is_said_before_is_what_it_costs(
    database: str, pool: Pool, name: str, options: dict[str, Any]
) -> None:
    async with company(database, pool, [name], contacts=(), options={name: options}) as at:
        await at.backfill()  # the account is known
        await fill(pool, 200)
        await pool.execute(
            "insert into syncd.membership select 'vip', id from syncd.contact"
            " where id like 'c_' on conflict do nothing"
        )
        for statement in ("select", "update syncd.contact set first_name = 'B'"):
            await pool.execute(statement)
            said, sent = await estimated(at, name)
            assert said <= sent <= said + ABOUT


@pytest.mark.parametrize("name", ["copernica", "clevercampaign"])
async def test_status_counts_who_is_still_to_be_made(database: str, pool: Pool, name: str) -> None:
    async with company(database, pool, [name], contacts=()) as at:
        await at.backfill()
        await pool.execute(
            "insert into syncd.journal (destination_id, contact_id, wish, state, lane)"
            " select d.id, 'c' || g, 'upsert', 'due', 1"
            "  from syncd.destination d, generate_series(1, 1000) g"
        )
        new = (await status(at.app)).destinations[name].estimate_seconds
        await pool.execute(
            "insert into syncd.mirror (destination_id, contact_id, email, subscribed, state)"
            " select j.destination_id, j.contact_id, j.contact_id || '@x.test',"
            " true, 'here' from syncd.journal j"
        )
        known = (await status(at.app)).destinations[name].estimate_seconds
    assert known is not None
    assert new == 2 * known
