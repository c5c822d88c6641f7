"""A person who asks to be forgotten: deleted everywhere, proven, forgotten here, and kept away."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import asyncpg
import orjson
import pytest
from cmdline import environment, syncd
from company import Company, add, company

from syncd.ask import lift
from syncd.db import Pool
from syncd.explain import explain
from syncd.sandbox import PROVIDERS
from syncd.status import status
from syncd.status_words import shared

ANN = "Ann.O'Neill+news@x.test"  # what a pattern could take for something else
COLUMNS = """
select c.relname, a.attname
  from pg_attribute a
  join pg_class c on c.oid = a.attrelid
 where c.relnamespace = 'syncd'::regnamespace and c.relkind in ('r', 'p') and not c.relispartition
   and a.attnum > 0 and not a.attisdropped
   and c.relname not in ('contact', 'list', 'membership')
 order by 1, 2
"""


async def places(pool: Pool, *words: str) -> list[str]:
    """Where in schema syncd one of *words* stands, but for the company's own tables."""
    found = []
    for table, column in await pool.fetch(COLUMNS):
        for word in words:
            n = await pool.fetchval(
                f'select count(*) from syncd."{table}"'
                f' where position(lower($1) in lower("{column}"::text)) > 0',
                word,
            )
            if n:
                found.append(f"{table}.{column}: {word}")
    return found


async def proof(pool: Pool, number: int = 1) -> dict[str, Any]:
    text = await pool.fetchval("select proof from syncd.erasure where id = $1", number)
    told: dict[str, Any] = orjson.loads(text)
    return told


async def visible(at: Company) -> None:
    """What was written a moment ago can be read by now."""
    await at.pool.execute("""
        update syncd.erasure e set proof = (
            select jsonb_object_agg(p.key, case when p.value ? 'sent_at' then p.value
                       || jsonb_build_object('sent_at', now() - interval '1 min') else p.value end)
              from jsonb_each(e.proof) p)
         where e.proof <> '{}'""")
    await at.backfill(quiet=False)


async def a_day_later(at: Company) -> None:
    """CleverTap's wait is over."""
    await at.pool.execute("""
        update syncd.erasure set proof = jsonb_set(jsonb_set(
            proof, '{clevertap,waiting_until}', to_jsonb(now() - interval '1 s')),
            '{clevertap,sent_at}', to_jsonb(now() - interval '25 h'))
         where proof -> 'clevertap' ? 'waiting_until'""")
    await at.backfill(quiet=False)


async def litter(pool: Pool, email: str) -> None:
    """Leave the address wherever it may ever have been written."""
    await pool.execute(
        "insert into syncd.command (kind, args, finished_at, outcome, result) values"
        " ('lift', jsonb_build_object('email', $1::text, 'reason', 'asked'), now(), 'done',"
        " jsonb_build_object('says', 'ok ' || upper($1::text)))",
        email,
    )
    await pool.execute(
        "insert into syncd.control_log (relation, row_name, action, new) values"
        " ('opt_out', '1', 'lift', jsonb_build_object('by', 'me: mail from <' || $1 || '>'))",
        email,
    )
    await pool.execute(
        "insert into syncd.run (kind, error) values ('full', 'no: ' || $1 || '.')", email
    )
    await pool.execute(
        "update syncd.journal set last_error = 'not ' || $1 || ', nor x' || $1", email
    )
    await pool.execute(
        "insert into syncd.opt_out (destination_id, contact_id, email, kind, evidence)"
        " select id, '7', $1, 'unsubscribed', jsonb_build_object('who', $1::text)"
        "   from syncd.destination",
        email,
    )
    await pool.execute(
        "insert into syncd.delivery (destination_id, contact_id, kind, outcome, error)"
        " select id, 'bob', 'put', 'rejected', 'same as ' || $1 from syncd.destination",
        email,
    )


@pytest.mark.parametrize("by", ["contact_id", "email"])
async def test_the_person_is_gone_everywhere_and_forgotten_here(
    database: str, pool: Pool, by: str
) -> None:
    """All five at once, by id or by address; no column of any table has the address after it, nor
    when everything has been read again."""
    async with company(database, pool, PROVIDERS) as at:
        await add(pool, "7", ANN)
        await at.backfill()
        assert all(at.mailed(name, ANN) for name in PROVIDERS)
        await litter(pool, ANN.lower())
        said = {"contact_id": "7", "email": ANN}[by]
        await pool.execute(f"insert into syncd.erasure ({by}) values ($1)", said)
        await pool.execute("delete from syncd.contact where id = '7'")
        await at.backfill(quiet=False)
        await visible(at)

        told = await proof(pool)
        assert set(told) == set(PROVIDERS)
        assert "confirmed_at" in told["copernica"]
        assert "confirmed_at" in told["clevercampaign"]
        assert "support erase contact" in told["constantcontact"]["by_hand"]
        assert "look for the address under Contacts" in told["redcappi"]["by_hand"]
        until = datetime.fromisoformat(told["clevertap"]["waiting_until"])
        assert 23 * 3600 < (until - datetime.now(UTC)).total_seconds() <= 24 * 3600
        assert set(await places(pool, ANN)) <= {
            "erasing.email: " + ANN, "erasure.email: " + ANN, "erasure.proof: " + ANN
        }  # fmt: skip

        await a_day_later(at)
        assert "confirmed_at" in (await proof(pool))["clevertap"]
        row = await pool.fetchrow("select * from syncd.erasure")
        assert row is not None
        assert (row["contact_id"], row["email"]) == (None, None)
        assert row["finished_at"] >= row["purged_at"]
        for name in PROVIDERS:
            assert not at.mailed(name, ANN), name
            assert name == "constantcontact" or ANN.lower() not in at.there(name), name
        await at.scan()
        await at.backfill()
        assert await places(pool, ANN) == []
        kinds = await pool.fetch(
            "select distinct kind, contact_id, evidence::text from syncd.opt_out"
        )
        assert [tuple(one) for one in kinds] == [("unsubscribed", None, "{}")]
        assert await pool.fetchval("select count(*) from syncd.opt_out") == len(PROVIDERS)
        assert all(at.mailed(name, "bob@x.test") for name in PROVIDERS)
