"""`audit`: after a convergence all is equal; what is changed there is found, and mended."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import orjson
import pytest
from cmdline import daemon, environment, secret, syncd
from service import FINDINGS, until

from syncd import ask, audit_run
from syncd.app import App, opened
from syncd.audit_report import Audit
from syncd.backfill import Backfill
from syncd.db import Pool
from syncd.meter import scope_key
from syncd.providers import provider
from syncd.sandbox import Handle, serve
from syncd.secrets import Secrets, account_key
from syncd.settings import Settings

PROVIDERS = ("clevercampaign", "clevertap", "constantcontact", "copernica", "redcappi")
LISTS = {"news": "Newsletter", "vip": "VIP club", "shop": "Shop & more"}
OPTIONS: Mapping[str, dict[str, Any]] = {
    "clevercampaign": {"lists_enabled": True, "write_unsubscribe": True},
    "constantcontact": {"poll_seconds": 0.05},
    "copernica": {"database": "7616", "subscribed_values": {"newsletter": "yes"}},
}
NAMES: Mapping[str, tuple[str, str]] = {  # of the source's city: there, and how it is mapped
    "clevercampaign": ("city", "city"),
    "clevertap": ("City", "city"),
    "constantcontact": ("City", "city"),
    "copernica": ("city", "city"),
}
VARIANTS: Mapping[str, dict[str, Any]] = {
    "plain": {"lists_enabled": False, "write_unsubscribe": False},
    "v4": {"version": "v4"},
    "blind": {"lists_enabled": False, "account_is_empty": True},
}
SEED = 8


@dataclass(slots=True)
class Company:
    """Contacts in two lists of three each, at one sandbox."""

    app: App
    pool: Pool
    box: Handle
    lists: dict[str, str] = field(default_factory=dict)  # ours → there

    @property
    def provider(self) -> str:
        return str(self.box.state.provider)

    async def converge(self) -> None:
        backfill = Backfill(self.app, await self.app.destinations())
        await backfill.run()
        summary = backfill.summary()["destinations"]["shop"]
        assert summary["in_step"], (summary, [part.why for part in backfill.parts])
        rows = await self.pool.fetch("select list_id, remote_id from syncd.list_mirror")
        known = {row["list_id"]: row["remote_id"] for row in rows if row["remote_id"]}
        self.lists = known or {one: one for one in LISTS}

    async def audited(self, *, repair: bool = False, samples: int = 1000) -> Audit:
        async with self.app.worker() as worker:
            ended = await audit_run.run(
                self.app, worker, await self.app.destinations(), samples=samples, repair=repair
            )
        found = ended["shop"]
        assert found.audit is not None, found.error
        assert found.exit_code == (0 if found.audit.equal else 1)
        kept = await self.pool.fetchval("select count(*) from syncd.audited")
        assert kept == 0, "what was read is not left behind"
        return found.audit


async def fill(pool: Pool, n: int) -> None:
    """Each of n contacts in two lists of three; some values that providers normalise."""
    await pool.executemany("insert into syncd.list values ($1, $2)", list(LISTS.items()))
    await pool.execute(
        """
        insert into syncd.contact (id, email, first_name, last_name, company, phone, address, city,
                                   state, postal_code, country, birth_date)
        select 'c' || lpad(g::text, 4, '0'), 'P' || g || '@x.example', 'Zoë ' || g,
               case when g % 7 > 0 then '  O''Brien & sons ' end, 'A/B "C" <' || g || '>',
               case g % 3 when 0 then '+45 33 12 34 ' || lpad(g::text, 2, '0')
                          when 1 then '+1415555' || lpad(g::text, 4, '0') end,
               E'Åvej ' || g || E'\n2. sal', 'Łódź ' || g % 5,
               case when g % 2 = 0 then 'Massachusetts' else 'ny' end, '0' || 1000 + g,
               case when g % 2 = 0 then 'US' else 'United States' end, date '1980-02-28' + g
          from generate_series(1, $1::int) g""",
        n,
    )
    await pool.execute("""
        insert into syncd.membership (list_id, contact_id)
        select l.id, c.id from syncd.contact c
          join (values ('news', 0), ('vip', 1), ('shop', 2)) l (id, n)
            on substr(c.id, 2)::int % 3 <> l.n""")


@asynccontextmanager
async def company(
    database: str, pool: Pool, box: Handle, n: int, options: Mapping[str, Any]
) -> AsyncIterator[App]:
    name = box.state.provider
    secret = orjson.dumps(box.state.demo).decode()
    await fill(pool, n)
    auth = {"auth_url": f"{box.url}/authenticate"} if name == "copernica" else {}
    meters = {one: {"per_second": 0, "in_flight": 0, "per_day": 0}
              for one in provider(name).traits.meters}  # fmt: skip
    if name != "constantcontact":
        meters = {one: {"per_second": 0, "in_flight": 0} for one in meters}
    fields = {"firstname": "first_name", "lastname": "last_name", "city": "city"}
    values: dict[str, Any] = {
        "options": orjson.dumps(
            {"base_url": box.url, "meters": meters, **OPTIONS.get(name, {}), **auth, **options}
        ).decode(),
        "fields": orjson.dumps(fields).decode() if name == "clevercampaign" else None,
        "guard_percent": 100, "guard_floor": 100_000,
    }  # fmt: skip
    names = ", ".join(["name", "provider", *values])
    places = ", ".join(f"${n + 1}" for n in range(len(values) + 2))
    await pool.execute(
        f"insert into syncd.destination ({names}) values ({places})", "shop", name, *values.values()
    )
    if name == "clevertap":  # what its canaries find in three seconds
        account = box.state.demo["account_id"]
        await pool.execute(
            "insert into syncd.account (scope, identity, findings, credential_hash, learned_at)"
            " values ($1, '', $2, $3, now())",
            scope_key("clevertap", account, account_key({})), orjson.dumps(FINDINGS).decode(),
            Secrets(None, {}).fingerprint(secret),
        )  # fmt: skip
    settings = Settings(database_url=database, pool_size=6, control_poll_seconds=0.05, window=60)
    async with opened(settings, {"SYNCD_SECRET_SHOP": secret}) as app:
        yield app


@pytest.fixture
def _prompt(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is written can be read soon: so it is at the sandboxes."""
    for name in ("clevertap", "copernica", "redcappi"):
        kind = provider(name)
        monkeypatch.setattr(kind, "traits", replace(kind.traits, visible_after=0.05))


@pytest.fixture
async def there(
    request: pytest.FixtureRequest, database: str, pool: Pool, _prompt: None
) -> AsyncIterator[Company]:
    name, _, rest = str(request.param).partition(" ")
    n, _, variant = rest.partition(" ")
    limits: dict[str, Any] = {"job_seconds": 0.05} if name == "constantcontact" else {}
    async with (
        serve(name, **limits) as box,
        company(database, pool, box, int(n or 110), VARIANTS.get(variant, {})) as app,
    ):
        made = Company(app, pool, box)
        await made.converge()
        if name == "redcappi":  # ids are told by reading only
            await ask.scan(app, ["shop"], 20)
        yield made


# ── Behind our back ─────────────────────────────────────────────────────────────────────────

Deed = Callable[[Company, str, str], None]


def number(company: Company, list_id: str) -> Any:
    remote = company.lists[list_id]
    return remote if company.provider == "clevercampaign" else int(remote)


def _set_field(company: Company, email: str, _list: str) -> None:
    box = company.box
    if company.provider == "redcappi":  # all that can be read there is the address
        (one,) = box.state.data.at(email)
        box.state.data.edit(one, {**one.fields, "email_address": f"x{email}"}, True)
        return
    name = NAMES[company.provider][0]
    do = "set_property" if company.provider == "clevertap" else "set_field"
    box.act(do, email=email, name=name, value="Elsewhere")


def _leave(company: Company, email: str, list_id: str) -> None:
    box = company.box
    match company.provider:
        case "clevertap":
            box.act("set_property", email=email, name="Lists", value={"$remove": [list_id]})
        case "copernica":
            box.act("set_field", email=email, name=_column(company, list_id), value="0")
        case "redcappi":
            box.act("delete", email=email, list=number(company, list_id))
        case "constantcontact":
            box.act("leave_list", email=email, list=number(company, list_id))
        case _:
            box.act("leave", email=email, list=number(company, list_id))


def _join(company: Company, email: str, list_id: str) -> None:
    box = company.box
    match company.provider:
        case "clevertap":
            box.act("set_property", email=email, name="Lists", value={"$add": [list_id]})
        case "copernica":
            box.act("set_field", email=email, name=_column(company, list_id), value="1")
        case "redcappi":
            (one,) = box.state.data.at(email)
            one.lists.add(number(company, list_id))
            box.state.data.set_status(one, "active")
        case "constantcontact":
            box.act("join_list", email=email, list=number(company, list_id))
        case _:
            box.act("join", email=email, list=number(company, list_id))


def _column(company: Company, list_id: str) -> str:
    fields = company.box.state.data.columns.values()
    return next(str(one.name) for one in fields if str(one.id) == company.lists[list_id])


def _delete(company: Company, email: str, _list: str) -> None:
    company.box.act("delete", email=email)


def _opt_out(company: Company, email: str, _list: str) -> None:
    company.box.act("unsubscribe", email=email)


def _add(company: Company, email: str, list_id: str) -> None:
    """Somebody else, whom nobody here knows."""
    more: dict[str, Any] = {}
    if company.provider in ("redcappi", "constantcontact"):
        more["list"] = number(company, list_id)
    company.box.act("add", email=f"other-{email}", **more)


DEEDS: Mapping[str, Deed] = {
    "field": _set_field, "left": _leave, "joined": _join, "deleted": _delete,
    "opted out": _opt_out, "added": _add,
}  # fmt: skip


def kind_of(deed: str, name: str) -> str | None:
    """As what the audit is to find it; None: as a record that is nobody's."""
    if deed == "opted out":  # where it cannot be told, it looks like being gone
        return "missing" if name == "redcappi" else "opted_out"
    return {"deleted": "missing", "added": None}.get(deed, "there")


async def changed(company: Company, n: int) -> dict[str, str]:
    """n random changes there, each of another contact; contact → what was done."""
    rng = random.Random(SEED)
    rows = await company.pool.fetch("select id, lower(email) as email from syncd.contact")
    chosen = rng.sample(sorted(rows, key=lambda row: row["id"]), n)
    deeds = [one for one in DEEDS if company.provider != "clevertap" or one != "added"]
    done = {}
    for row in chosen:
        member = await company.pool.fetch(
            "select list_id from syncd.membership where contact_id = $1", row["id"]
        )
        mine = {one["list_id"] for one in member}
        deed = rng.choice(deeds)
        others = sorted(set(LISTS) - mine) if deed == "joined" else sorted(mine)
        DEEDS[deed](company, row["email"], rng.choice(others))
        done[row["id"]] = deed
    return done


@pytest.mark.parametrize("there", PROVIDERS, indirect=True)
async def test_a_hundred_changes_there_are_found_and_mended(there: Company) -> None:
    name = there.provider
    before = await there.audited()
    assert (before.equal, before.contacts, before.extra) == (True, 110, 0), before.summary()
    assert before.requests <= before.estimate.requests + 6

    done = await changed(there, 100)
    found = await there.audited()
    kinds = {one.contact_id: kind for kind, some in found.samples.items() for one in some}
    wanted = {one: kind for one, deed in done.items() if (kind := kind_of(deed, name)) is not None}
    assert kinds == wanted, {k: (kinds.get(k), done.get(k)) for k in kinds.keys() ^ wanted.keys()}
    assert found.extra == sum(deed == "added" for deed in done.values())
    assert len(kinds) + found.extra == 100
    if name in NAMES:
        field = NAMES[name][0]
        told = {one.contact_id: one.there[NAMES[name][1] if name != "clevertap" else field][1]
                if name not in ("clevertap", "constantcontact") else one.there[field][1]
                for one in found.samples["there"] if done[one.contact_id] == "field"}  # fmt: skip
        assert set(told.values()) == {"Elsewhere"}
    assert await there.pool.fetchval("select count(*) from syncd.opt_out") == 0, "only looked"
    assert await there.pool.fetchval("select count(*) from syncd.journal") == 0

    repaired = await there.audited(repair=True)
    assert not repaired.held, repaired.held
    await there.converge()
    after = await there.audited()
    assert after.equal, after.summary()
    assert after.extra == found.extra, "what is not ours is left alone"
    await obeyed(there, done)


async def obeyed(there: Company, done: Mapping[str, str]) -> None:
    """Nobody who said no, left or vanished is mailed again; the others are as the source says."""
    state = there.box.snapshot()
    assert state["violations"] == []
    assert not state.get("resubscribed"), state["resubscribed"]
    rows = await there.pool.fetch(
        "select contact_id, list_id, kind from syncd.opt_out where lifted_at is null"
    )
    noes = {(row["contact_id"], row["list_id"] is not None) for row in rows}
    silent = {one for one, deed in done.items() if deed in ("deleted", "opted out")}
    left = {one for one, deed in done.items() if deed == "left"}
    if there.provider == "clevertap":  # a property of ours, which people cannot change
        left = set()
    assert noes == {(one, False) for one in silent} | {(one, True) for one in left}


def read_alone(there: Company) -> int:
    """Contacts that were asked for one by one, so far."""
    paths = there.box.state.ledger.by_path.items()
    return sum(n for path, n in paths if "/contacts/" in path)


@pytest.mark.parametrize("there", ["constantcontact"], indirect=True)
async def test_lists_are_written_out_where_contacts_would_be_asked_for_one_by_one(
    there: Company,
) -> None:
    """110 contacts: an export a list, and alone only those that seem to differ."""
    before = read_alone(there)
    first = await there.audited()
    assert (first.equal, read_alone(there) - before) == (True, 0), first.summary()
    assert first.requests <= 35

    for n in (3, 5):
        there.box.act("set_field", email=f"p{n}@x.example", name="City", value="Elsewhere")
    before = read_alone(there)
    second = await there.audited()
    assert (second.counts["there"], read_alone(there) - before) == (2, 2)

    there.box.set_limits(jobs_fail=3)  # what cannot be written out is asked for one by one
    before = read_alone(there)
    third = await there.audited()
    assert (third.counts["there"], read_alone(there) - before) == (2, 110)
    assert there.box.snapshot()["violations"] == []


@pytest.mark.parametrize(
    "there",
    [f"{one} 24" for one in PROVIDERS] + ["clevercampaign 24 plain", "copernica 24 v4"],
    indirect=True,
)
async def test_who_is_rightly_not_mailed_is_no_difference(there: Company) -> None:
    """Said no, deleted, in no list, back again; and what the provider cannot hold."""
    run = there.pool.execute
    await run("update syncd.contact set subscribed = false where id in ('c0001', 'c0002')")
    await run("delete from syncd.contact where id = 'c0003'")
    await run("delete from syncd.membership where contact_id in ('c0004', 'c0005')")
    await run("insert into syncd.contact (id, email, subscribed) values ('no', 'no@x.test', false)")
    await run("update syncd.contact set phone = null, city = null where id = 'c0006'")
    await run("update syncd.contact set email = 'new@x.test', phone = 'none' where id = 'c0007'")
    await there.converge()
    await run("update syncd.contact set city = repeat('x', 600) where id = 'c0008'")
    await run("insert into syncd.membership values ('vip', 'c0005')")
    await there.converge()

    found = await there.audited()

    assert found.equal, found.summary()
    assert (found.extra, found.contacts) == (0, 24)


@pytest.mark.parametrize("there", ["copernica 20", "redcappi 20"], indirect=True)
async def test_trouble_on_the_way_is_waited_out(there: Company) -> None:
    """Of the first question, and of a page."""
    there.box.next_fault("cut_before")
    number = there.lists["vip"]
    page = f"/v1/contacts.json/{number}/contacts/"
    path = page if there.provider == "redcappi" else "/v1/database/7616/profiles"
    there.box.next_fault("error", path=path)

    found = await there.audited()

    assert found.equal, found.summary()
    assert sum(there.box.state.faults.struck.values()) == 2


@pytest.mark.parametrize("there", ["clevercampaign 5 blind"], indirect=True)
async def test_an_account_that_cannot_be_read_is_never_called_equal(there: Company) -> None:
    there.box.set_limits(search="refused", paging="404", items=False)
    await there.pool.execute("update syncd.contact set city = 'Rome' where id = 'c0001'")

    found = await there.audited(repair=True)

    assert (found.equal, found.read, found.counts["here"]) == (False, 0, 1)
    assert "neither paged nor looked up" in found.cannot[0]
    assert found.counts["missing"] == 0
    assert await there.pool.fetchval("select count(*) from syncd.opt_out") == 0


# ── What an audit does not do ───────────────────────────────────────────────────────────────


@pytest.mark.parametrize("there", ["copernica 50"], indirect=True)
async def test_what_was_changed_here_there_and_both(there: Company) -> None:
    await there.pool.execute("update syncd.contact set city = 'Rome' where id in ('c0001','c0002')")
    await there.pool.execute("delete from syncd.contact where id = 'c0003'")
    await there.pool.execute("insert into syncd.contact (id, email) values ('new', 'n@x.example')")
    there.box.act("set_field", email="p2@x.example", name="city", value="Oslo")
    there.box.act("set_field", email="p4@x.example", name="email", value="p5@x.example")
    double = there.box.act("add", email="p6@x.example")

    found = await there.audited()

    told = {kind: [one.contact_id for one in some] for kind, some in found.samples.items() if some}
    assert told == {"both": ["c0002"], "here": ["c0001", "new", "c0003"], "there": ["c0004"]}
    (both,) = found.samples["both"]
    assert both.here["city"] == ("Łódź 2", "Rome")
    assert both.there == {"city": ("Łódź 2", "Oslo")}
    assert found.samples["there"][0].there == {"e-mail": ("p4@x.example", "p5@x.example")}
    assert [one.contact_id for one in found.double_samples] == ["c0006"]
    assert found.doubles == 1
    assert double is not None


@pytest.mark.parametrize("there", ["copernica 10"], indirect=True)
async def test_who_was_written_meanwhile_is_not_called_different(there: Company) -> None:
    there.box.act("set_field", email="p1@x.example", name="city", value="Oslo")
    there.box.act("delete", email="p2@x.example")
    await there.pool.execute(
        "update syncd.mirror set pushed_at = now() + interval '1 minute'"
        " where contact_id in ('c0001', 'c0002', 'c0003')"
    )

    found = await there.audited()

    assert [one.contact_id for one in found.samples["unsettled"]] == ["c0001", "c0002"]
    assert (found.equal, found.counts["there"], found.counts["missing"]) == (False, 0, 0)


@pytest.mark.parametrize("there", ["copernica 10"], indirect=True)
async def test_who_said_no_here_and_is_mailed_there_again_is_silenced_again(
    there: Company,
) -> None:
    await there.pool.execute("update syncd.contact set subscribed = false where id = 'c0001'")
    await there.converge()
    there.box.act("resubscribe", email="p1@x.example", fields={"newsletter": "yes"})

    found = await there.audited(repair=True)
    assert found.samples["there"][0].there == {"subscribed": (False, True)}
    await there.converge()

    assert (await there.audited()).equal
    (one,) = [p for p in there.box.snapshot()["profiles"].values()
              if p["fields"]["email"] == "p1@x.example"]  # fmt: skip
    assert not one["mailable"]


@pytest.mark.parametrize("there", ["constantcontact 50"], indirect=True)
async def test_repairs_pass_the_guard(there: Company) -> None:
    """Somebody overwrote a field of everybody: it is put to a person before it is undone."""
    await there.pool.execute("update syncd.destination set guard_percent = 10, guard_floor = 5")
    for n in range(1, 41):
        there.box.act("set_field", email=f"p{n}@x.example", name="City", value="Nowhere")

    repaired = await there.audited(repair=True)

    assert (repaired.counts["there"], repaired.mended) == (40, 40)
    plan = await there.pool.fetchrow("select kind, state from syncd.plan")
    assert tuple(plan or ()) == ("change", "held")
    held = "select count(*) from syncd.journal where state = 'held'"
    assert await there.pool.fetchval(held) == 40


@pytest.mark.parametrize("there", ["clevertap 50"], indirect=True)
async def test_many_who_are_missing_are_put_to_a_person(there: Company) -> None:
    """Where nothing can be paged, too: look-ups alone make nobody an opt-out by the dozen."""
    await there.pool.execute("update syncd.destination set guard_percent = 10, guard_floor = 5")
    for n in range(1, 41):
        there.box.act("delete", email=f"p{n}@x.example")

    repaired = await there.audited(repair=True)

    assert (repaired.counts["missing"], repaired.noted) == (40, 0)
    plan = await there.pool.fetchrow("select kind, state from syncd.plan")
    assert tuple(plan or ()) == ("vanish", "held")
    assert await there.pool.fetchval("select count(*) from syncd.opt_out") == 0


# ── As a command ────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("there", ["redcappi 12"], indirect=True)
async def test_the_command_by_hand_and_by_a_daemon(there: Company, database: str) -> None:
    env = environment(database, **secret(there.box, "shop"))
    ended = await syncd("audit", "shop", "--json", env=env)
    told = ended.json["destinations"]["shop"]
    assert (ended.code, told["equal"], told["contacts"]) == (0, True, 12), ended.err
    assert "requests" in ended.err
    assert "fields cannot be read there" in ended.err

    there.box.act("unsubscribe", email="p1@x.example")
    ended = await syncd("audit", "shop", "--sample", "1", env=env)
    assert (ended.code, "not equal" in ended.out, "p1@x.example" in ended.out) == (1, True, True)

    async with daemon(env):
        number = await there.pool.fetchval(
            "insert into syncd.command (kind, destination, args)"
            """ values ('audit', 'shop', '{"repair": true, "sample": 2}') returning id"""
        )

        async def finished() -> Any:
            return await there.pool.fetchrow(
                "select outcome, result from syncd.command where id = $1 and outcome is not null",
                number,
            )

        row = await until(finished, "the audit")
        result = orjson.loads(row["result"])
        shop = result["destinations"]["shop"]
        assert (row["outcome"], result["exit_code"], shop["missing"]) == ("done", 1, 1)
        assert [one["contact_id"] for one in shop["samples"]["missing"]] == ["c0001"]

        async def gone() -> Any:
            return await there.pool.fetchval(
                "select count(*) from syncd.opt_out where kind = 'vanished'"
            )

        assert await until(gone, "the missing one is opted out") == 1

    there.box.set_limits(keys={})
    refused = await syncd("audit", "shop", env=env)
    assert refused.code == 77, refused.err
