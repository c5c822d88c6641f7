"""What work costs in requests, at every provider: the promise of so many for 1,000 contacts.

Where one request carries one contact a hundred of them show it as well as a thousand: what comes on
top is for the account, not for the contact.
"""

from __future__ import annotations

import pytest
from company import Company, company
from test_consent_roads import traits

from syncd.db import Pool
from syncd.sandbox import PROVIDERS

ON_TOP = 10  # of a thousand, or of a hundred
CHANGED = {"clevertap": 3, "constantcontact": 12}  # of a thousand; else one each
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
