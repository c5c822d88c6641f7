"""What the README says about consent and erasure, run as it is written."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

import asyncpg
from company import add, company

from syncd.db import Pool

README = (Path(__file__).parent.parent / "README.md").read_text("utf-8")


def recipe(heading: str) -> list[str]:
    """The statements of the SQL block under a heading."""
    (block,) = re.findall(
        rf"^#+ {heading}$.*?^```sql\n(.*?)^```", README, re.DOTALL | re.MULTILINE
    )[:1]
    return [one.strip() for one in block.split(";\n") if one.strip()]


async def test_the_crm_learns_of_every_no(database: str, pool: Pool) -> None:
    """It listens, hears of a no made at a provider, and copies it into the company's own table; a
    no that newer consent outdoes is left alone."""
    listen, update = recipe("Let your CRM know")
    async with company(database, pool, ["clevertap", "copernica"]) as at:
        await at.backfill()
        heard: list[str] = []
        crm = await asyncpg.connect(database)
        channel = listen.removeprefix("listen ")
        await crm.add_listener(channel, lambda *told: heard.append(told[-1]))
        at.boxes["copernica"].act("unsubscribe", email="ann@x.test")
        await at.settle()
        async with asyncio.timeout(60):
            while not heard:
                await asyncio.sleep(0.05)
        no = await crm.fetchrow("select contact_id from syncd.opt_out where id = $1", int(heard[0]))
        assert no is not None
        assert no["contact_id"] == "ann"
        assert await crm.execute(update) == "UPDATE 1"
        rows = await crm.fetch("select id from syncd.contact where not subscribed")
        assert [row["id"] for row in rows] == ["ann"]
        assert await crm.execute(update) == "UPDATE 0"
        await crm.execute(
            "update syncd.contact set subscribed = true,"
            " consented_at = clock_timestamp() + interval '1 h' where id = 'ann'"
        )
        assert await crm.execute(update) == "UPDATE 0"
        await crm.close()


async def test_an_erasure_is_asked_for_by_this_insert(database: str, pool: Pool) -> None:
    (insert,) = recipe("Erasure")
    async with company(database, pool, ["copernica"]) as at:
        await add(pool, "9", "ann@example.com")
        await at.backfill()
        await pool.execute(insert)
        await at.backfill(quiet=False)
        assert "ann@example.com" not in at.there("copernica")
