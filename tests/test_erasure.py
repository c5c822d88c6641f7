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
from syncd.erasure import _proof
from syncd.explain import explain
from syncd.model import Erased
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


async def test_of_whom_nothing_is_known_nothing_is_left_to_be_done(
    database: str, pool: Pool
) -> None:
    """Neither a record nor an address: nobody could look for it."""
    async with company(database, pool, PROVIDERS) as at:
        await at.backfill()
        await pool.execute("insert into syncd.erasure (contact_id) values ('nobody')")
        await at.backfill(quiet=False)
        await visible(at)
        await a_day_later(at)
        told = await proof(pool)
        assert {name for name, one in told.items() if "confirmed_at" in one} == set(PROVIDERS)
        assert not (await status(at.app)).erasures


def test_of_a_vague_and_an_exact_text_the_exact_one_is_said() -> None:
    vague, exact = Erased(by_hand="Look.", vague=True), Erased(by_hand="Delete 7.")
    said = [[vague, exact, Erased(confirmed=True)], [vague, vague]]
    assert [orjson.loads(_proof(one)) for one in said] == [
        {"by_hand": "Delete 7."}, {"by_hand": "Look."},
    ]  # fmt: skip


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
        left = {one.partition(":")[0] for one in await places(pool, ANN)}
        assert left <= {"erasing.email", "erasure.email", "erasure.proof", "erasure.result"}

        await a_day_later(at)
        assert "confirmed_at" in (await proof(pool))["clevertap"]
        row = await pool.fetchrow("select * from syncd.erasure")
        assert row is not None
        assert (row["contact_id"], row["email"]) == (None, None)
        assert row["finished_at"] >= row["purged_at"]
        for name in PROVIDERS:
            assert not at.mailed(name, ANN), name
            by_hand = "by_hand" in told[name]  # a record that no API deletes
            assert by_hand or ANN.lower() not in at.there(name), name
        await at.scan()
        await at.backfill()
        assert await places(pool, ANN) == []
        kinds = await pool.fetch(
            "select distinct kind, contact_id, evidence::text from syncd.opt_out"
        )
        assert [tuple(one) for one in kinds] == [("unsubscribed", None, "{}")]
        assert await pool.fetchval("select count(*) from syncd.opt_out") == len(PROVIDERS)
        assert all(at.mailed(name, "bob@x.test") for name in PROVIDERS)


# ── Strangers, and people still in the source ───────────────────────────────────────────────


async def test_an_address_that_was_never_ours_is_looked_up_and_deleted(
    database: str, pool: Pool
) -> None:
    """Where the provider can be asked for an address, or a scan has met it."""
    async with company(database, pool, PROVIDERS) as at:
        await at.backfill()
        at.boxes["clevercampaign"].act("add", email=ANN)
        at.boxes["copernica"].act("add", email=ANN)
        number = int(next(iter(at.boxes["redcappi"].snapshot()["lists"])))
        at.boxes["redcappi"].act("add", email=ANN, list=number)
        (listed,) = (
            int(n)
            for n, one in at.boxes["constantcontact"].snapshot()["lists"].items()
            if one["name"] == "Newsletter"
        )
        at.boxes["constantcontact"].act("add", email=ANN, list=listed)
        profiles = at.boxes["clevertap"].state.profiles
        profiles.merge(profiles.create("identity", "app-7"), {"Email": ANN}, print)
        await at.scan("redcappi", "constantcontact", "copernica", "clevercampaign")
        assert all(at.mailed(name, ANN) for name in PROVIDERS)
        await pool.execute("insert into syncd.erasure (email) values ($1)", f" {ANN.upper()} ")
        await at.backfill(quiet=False)
        await visible(at)
        assert not any(at.mailed(name, ANN) for name in PROVIDERS)
        told = await proof(pool)
        assert {name: ("confirmed_at" in one, "by_hand" in one) for name, one in told.items()} == {
            "clevercampaign": (True, False), "clevertap": (False, False),
            "constantcontact": (False, True), "copernica": (True, False), "redcappi": (False, True),
        }  # fmt: skip
        await a_day_later(at)
        await at.scan()
        assert await places(pool, ANN) == []
        assert all(at.mailed(name, "ann@x.test") for name in PROVIDERS)


async def test_who_is_still_in_the_source_is_reported_and_not_made_again(
    database: str, pool: Pool
) -> None:
    """By no keyed pass, full pass, --force, scan or another id with the address; until new consent
    goes through `lift`."""
    names = ("clevertap", "copernica")
    async with company(database, pool, names) as at:
        await add(pool, "7", ANN)
        await at.backfill()
        await pool.execute("insert into syncd.erasure (contact_id) values ('7')")
        await at.backfill(quiet=False)
        await visible(at)
        await a_day_later(at)
        result = orjson.loads(await pool.fetchval("select result from syncd.erasure"))
        assert result["still_in"] == ["default"]

        await pool.execute("update syncd.contact set first_name = 'B' where id = '7'")
        await at.settle()
        await add(pool, "8", ANN.upper())
        await at.backfill(force=True)
        await at.scan("copernica")
        await at.backfill()
        for name in names:
            assert ANN.lower() not in at.there(name), name
        before = await status(at.app)
        assert "2 contacts rejected" in " ".join(before.destinations["clevertap"].why)
        await pool.execute(
            "delete from syncd.contact where id = '8'"
        )  # `sharer` says what is there
        await at.settle()
        why = await pool.fetch(
            "select distinct last_error from syncd.journal where contact_id = '7'"
        )
        assert [one[0].partition(" and ")[0] for one in why] == ["was erased on request 1"]
        assert await places(pool, ANN) == []

        told = await status(at.app)
        said = " ".join([*shared(told), *told.destinations["clevertap"].why])
        assert "erasure 1: the person is still in source default" in said
        assert "1 contact rejected, most often: was erased on request 1" in said
        found = await explain(at.app, ANN)
        says = " ".join(found.destinations["copernica"][0].says)
        assert "It was erased on request 1" in says
        assert "The erasure was conveyed to copernica, 20" in says
        assert "never given" not in says
        assert any("nothing is left at copernica" in one for one in found.erasures)
        assert "sent nowhere" in " ".join(found.erasures)

        done = await lift(at.app, ANN, None, "signed the form again")
        assert done.tombstones == 2
        at.boxes["clevertap"].state.writes.resubscribed.clear()
        await at.settle()
        await at.backfill(quiet=False)
        assert at.mailed("copernica", ANN)
        assert ANN.lower() in at.there("clevertap")
        log = await pool.fetchval(
            "select new ->> 'by' from syncd.control_log where action = 'lift'"
        )
        assert log.endswith("signed the form again")


async def test_a_contact_of_ours_does_not_get_an_erased_address(database: str, pool: Pool) -> None:
    async with company(database, pool, ["copernica"]) as at:
        await add(pool, "7", ANN)
        await at.backfill()
        await pool.execute("insert into syncd.erasure (email) values ($1)", ANN)
        await pool.execute("delete from syncd.contact where id = '7'")
        await at.backfill(quiet=False)
        await visible(at)
        await pool.execute("update syncd.contact set email = $1 where id = 'bob'", ANN)
        await at.backfill()
        assert ANN.lower() not in at.there("copernica")
        assert at.mailed("copernica", "bob@x.test")


async def test_an_address_that_another_contact_keeps_is_left_to_it(
    database: str, pool: Pool
) -> None:
    """Only one of two was named: the other is not erased, and the request says so."""
    async with company(database, pool, ["clevertap", "copernica", "constantcontact"]) as at:
        await add(pool, "zed", "bob@x.test")
        await at.backfill()
        await pool.execute("insert into syncd.erasure (contact_id) values ('bob')")
        await pool.execute("delete from syncd.contact where id = 'bob'")
        await at.backfill(quiet=False)
        await visible(at)
        await at.backfill(quiet=False)
        assert all(at.mailed(name, "bob@x.test") for name in at.boxes if name != "clevertap")
        held = await pool.fetch("select contact_id from syncd.mirror where email = 'bob@x.test'")
        assert {row[0] for row in held} == {"zed"}
        (request,) = (await status(at.app)).erasures
        assert any("contact zed has an address of the person too" in one for one in request.says)


async def test_an_address_that_was_only_found_names_nobody_else(database: str, pool: Pool) -> None:
    """Bob's old address was Cyd's for a while, and is nobody's now: she is not Bob, though the
    provider still knows her there when she is deleted."""
    async with company(database, pool, ["copernica"]) as at:
        await at.backfill()
        await pool.execute("update syncd.destination set paused = true")
        await pool.execute("insert into syncd.erasure (contact_id) values ('bob')")
        await pool.execute("delete from syncd.contact where id = 'bob'")
        await pool.execute("update syncd.mirror set email = 'bob@x.test' where contact_id = 'cyd'")
        await pool.execute("delete from syncd.contact where id = 'cyd'")
        await pool.execute("update syncd.destination set paused = false")
        async with at.flows() as flows:
            for _ in range(2):
                await flows["copernica"].erasures.plan()
        await add(pool, "cyd")
        pieces = await pool.fetch(
            "select contact_id from syncd.erasing where contact_id is not null"
        )
        assert [row[0] for row in pieces] == ["bob"]
        await at.backfill(quiet=False)
        assert at.mailed("copernica", "cyd@x.test")
        assert not at.mailed("copernica", "bob@x.test")


async def test_whoever_has_left_an_erased_address_takes_her_record_along(
    database: str, pool: Pool
) -> None:
    """Forgotten while her change of address still waits, her old record would stay for ever."""
    async with company(database, pool, ["redcappi"]) as at:
        await at.backfill()
        await pool.execute("""
            with held as (
                insert into syncd.plan (destination_id, kind, state, reason)
                select id, 'change', 'held', 'many' from syncd.destination
                returning id, destination_id
            )
            insert into syncd.journal (destination_id, contact_id, wish, lane, state, plan_id)
            select destination_id, 'cyd', 'upsert', 1, 'held', id from held""")
        await pool.execute("update syncd.contact set email = 'new@x.test' where id = 'cyd'")
        await pool.execute("insert into syncd.erasure (email) values ('cyd@x.test')")
        await at.backfill(quiet=False)
        await visible(at)
        assert await pool.fetchval("select purged_at from syncd.erasure") is None
        await pool.execute("update syncd.journal set state = 'due', plan_id = null")
        await pool.execute("delete from syncd.plan")
        await at.backfill()
        await visible(at)
        assert await pool.fetchval("select finished_at from syncd.erasure") is not None
        assert not at.mailed("redcappi", "cyd@x.test")
        assert at.mailed("redcappi", "new@x.test")


# ── The request ─────────────────────────────────────────────────────────────────────────────


async def test_an_id_of_several_sources_must_say_which(database: str, pool: Pool) -> None:
    """An INSERT that could mean two people is refused; the other source's namesake stays."""
    async with company(database, pool, ["copernica"]) as at:
        await pool.execute("create table public.other (id text primary key, email text)")
        await pool.execute("insert into public.other values ('ann', 'other@x.test')")
        await pool.execute("insert into syncd.source (name, contact) values ('b', 'public.other')")
        await at.backfill()
        await pool.execute("update syncd.destination set name = 'first'")
        await pool.execute(
            "insert into syncd.destination (name, provider, source, credential, options, fields)"
            " select 'second', provider, 'b', credential, options || '{\"key_field\": \"b_id\"}',"
            " '{}' from syncd.destination"
        )
        await at.backfill()
        with pytest.raises(asyncpg.CheckViolationError, match="name one in column source"):
            await pool.execute("insert into syncd.erasure (contact_id) values ('ann')")
        await pool.execute("insert into syncd.erasure (contact_id, source) values ('ann', 'b')")
        await at.backfill(quiet=False)
        assert at.mailed("copernica", "ann@x.test")
        assert "other@x.test" not in at.there("copernica")


async def test_without_the_secret_nobody_is_forgotten_and_it_is_said(
    database: str, pool: Pool
) -> None:
    """Deleted at the provider all the same. With a key to seal it one is made, once for all;
    without it afterwards nobody may be created, for nobody can tell who was erased."""
    async with company(database, pool, ["copernica"], environ={}) as at:
        await at.backfill()
        await pool.execute("insert into syncd.erasure (contact_id) values ('ann')")
        await at.backfill(quiet=False)
        await visible(at)
        assert "ann@x.test" not in at.there("copernica")
        assert await pool.fetchval("select purged_at from syncd.erasure") is None
        said = " ".join(shared(await status(at.app)))
        assert "not forgotten here yet" in said
        assert "SYNCD_SECRET_TOMBSTONE" in said
        key = "l1Wf0qfPjZ7m0rGmPj8QvTq9mPXmJqf1bG9l9i6yYwM="
        env = environment(database, **at.environ, SYNCD_SECRET_KEY=key)
        ended = await syncd("backfill", env=env)
        assert ended.code == 0, ended.err  # a full pass from now on lists who is still there
        assert await pool.fetchval("select name from syncd.secret") == "tombstone"
        assert await places(pool, "ann@x.test") == []
        refused = await syncd("backfill", env=environment(database, **at.environ))
        assert (refused.code, "2 tombstones of erased people" in refused.err) == (78, True)
        other = {"SYNCD_SECRET_TOMBSTONE": "something else"}
        refused = await syncd("backfill", env=environment(database, **at.environ, **other))
        assert (refused.code, "Put the old value back" in refused.err) == (78, True)


@pytest.mark.parametrize("email", ["not an address", "ann", "@", " ann@ ", "@x.test", "ann @ x"])
async def test_what_is_no_address_is_refused_at_once(pool: Pool, email: str) -> None:
    for contact_id in (None, "7"):
        with pytest.raises(asyncpg.CheckViolationError, match="email is not an address"):
            await pool.execute(
                "insert into syncd.erasure (contact_id, email) values ($1, $2)", contact_id, email
            )


async def test_a_request_of_before_that_names_no_address_ends_and_takes_no_words_along(
    database: str, pool: Pool
) -> None:
    """Nor does a contact whose address in the source is none."""
    reason = "email is not an address"
    async with company(database, pool, ["copernica"]) as at:
        await add(pool, "7", "not an address")
        await at.backfill(quiet=False)
        await pool.execute("insert into syncd.run (kind, error) values ('full', $1)", reason)
        await pool.execute("alter table syncd.erasure disable trigger normalise")
        await pool.execute("insert into syncd.erasure (email) values ('not an address')")
        await pool.execute("alter table syncd.erasure enable trigger normalise")
        await at.backfill(quiet=False)
        await visible(at)
        assert await pool.fetchval("select finished_at from syncd.erasure") is not None
        assert await pool.fetchval("select error from syncd.run where error is not null") == reason


async def test_the_rest_of_a_text_and_other_addresses_in_it_stay(pool: Pool) -> None:
    text = "ann@x.test, joann@x.test; ann@x.test.example <Ann@X.test>. ann@x.testing"
    await pool.execute("insert into syncd.run (kind, error) values ('full', $1)", text)
    await pool.execute(
        "insert into syncd.command (kind, args)"
        " values ('lift', jsonb_build_object('email', $1::text))",
        '"a\\b"@x.test',
    )
    assert await pool.fetchval("select syncd.blot_out($1)", ["ann@x.test", '"a\\b"@x.test']) == 2
    left = "erased, joann@x.test; ann@x.test.example <erased>. ann@x.testing"
    assert await pool.fetchval("select error from syncd.run") == left
    assert await pool.fetchval("select args ->> 'email' from syncd.command") == "erased"
