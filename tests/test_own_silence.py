"""What we conveyed ourselves is no news when a provider is read back: at every provider.

A silence of ours, read back later, must neither become an opt-out nor move the time of one: consent
given between the two would seem to be too old.
"""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from company import Company, company
from test_consent_roads import ANN, KNOWS, resubscribed, says_no, traits

from syncd.db import Pool
from syncd.model import Can
from syncd.sandbox import PROVIDERS

pytestmark = pytest.mark.parametrize("name", PROVIDERS)


SILENCED_BY = {"clevertap": "POST", "constantcontact": "DELETE", "redcappi": "DELETE"}
SILENCED_BY |= {"copernica": "PUT", "clevercampaign": "PUT"}


async def read(at: Company, name: str) -> None:
    """Opt-outs, and where there is such a thing all contacts, are read again and again."""
    for _ in range(2):
        await at.settle()
        if traits(name).can & Can.SCAN:
            await at.scan(name)


async def noes(pool: Pool) -> list[tuple[Any, ...]]:
    rows = await pool.fetch(
        "select d.name, o.kind, coalesce(o.occurred_at, o.observed_at) from syncd.opt_out o"
        " join syncd.destination d on d.id = o.destination_id order by o.id"
    )
    return [tuple(row) for row in rows]


async def put(at: Company, said: str, *values: Any) -> None:
    await at.pool.execute(f"update syncd.contact set {said} where id = 'ann'", *values)
    await at.settle()


async def consent(at: Company) -> None:
    """Ann says yes, after whatever no is known; providers' clocks have seconds."""
    await until_later(at)
    await put(at, "consented_at = clock_timestamp()")
    await until_later(at)


async def until_later(at: Company) -> None:
    """Until a later second than that of every no."""
    latest = max([told[2] for told in await noes(at.pool)], default=None)
    if latest is not None:
        deadline = latest + timedelta(seconds=1.1)
        while (left := (deadline - datetime.now(UTC)).total_seconds()) > 0:
            await asyncio.sleep(left)


async def test_the_source_s_no_read_back_is_none_of_the_provider_s(
    database: str, pool: Pool, name: str
) -> None:
    async with company(database, pool, [name], options=KNOWS) as at:
        await at.backfill()
        await put(at, "subscribed = false")
        await read(at, name)
        assert not at.mailed(name, ANN)
        assert await noes(pool) == []
        await put(at, "subscribed = true")
        await read(at, name)
        assert at.mailed(name, ANN) == bool(traits(name).can & Can.RESUBSCRIBE)
        assert await noes(pool) == []
        resubscribed(at, name).clear()


async def test_a_silence_whose_answer_was_lost_is_still_ours(
    database: str, pool: Pool, name: str
) -> None:
    async with company(database, pool, [name], options=KNOWS) as at:
        await at.backfill()
        at.boxes[name].next_fault("cut_after", method=SILENCED_BY[name])
        await put(at, "subscribed = false")
        await read(at, name)
        assert await noes(pool) == []


async def test_a_second_silence_moves_no_older_no(database: str, pool: Pool, name: str) -> None:
    """Ann said no there, and yes again; then the source says no for her."""
    async with company(database, pool, [name], options=KNOWS) as at:
        await at.backfill()
        await says_no(at, name)
        before = await noes(pool)
        await consent(at)
        await put(at, "subscribed = false")
        await read(at, name)
        assert await noes(pool) == before
        resubscribed(at, name).clear()


async def test_an_ordinary_change_of_who_is_silent_moves_nothing(
    database: str, pool: Pool, name: str
) -> None:
    async with company(database, pool, [name], options=KNOWS) as at:
        await at.backfill()
        await says_no(at, name)
        before = await noes(pool)
        await until_later(at)
        await put(at, "first_name = 'B'")
        await read(at, name)
        await until_later(at)
        await at.backfill(force=True)
        await read(at, name)
        assert await noes(pool) == before


async def test_a_no_conveyed_from_elsewhere_is_not_said_there(
    database: str, pool: Pool, name: str
) -> None:
    other = "clevertap" if name != "clevertap" else "copernica"
    async with company(database, pool, [name, other], options=KNOWS) as at:
        await at.backfill()
        await says_no(at, other)
        before = await noes(pool)
        assert not at.mailed(name, ANN)
        await read(at, name)
        await read(at, other)
        assert await noes(pool) == before
        await consent(at)
        await read(at, name)
        assert at.mailed(name, ANN) == bool(traits(name).can & Can.RESUBSCRIBE)
        for box in at.boxes:
            resubscribed(at, box).clear()
