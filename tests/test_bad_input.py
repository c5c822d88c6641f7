"""Whatever is wrong is named, in the right place, and harms nobody else.

A contact that cannot be sent is 'rejected' with a reason, a destination that cannot be served is
halted with a reason, a process that cannot start says why and ends with its documented code.
"""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator
from typing import Any

import orjson
import pytest
import service
from clusters import open_folder
from cryptography.fernet import Fernet
from service import Service, until

from syncd import db
from syncd.secrets import Secrets, sealing_keys, variable

CONFIG, UNREACHABLE, REFUSED = 78, 69, 77


@pytest.fixture
async def syncd(cluster: str, template: str) -> AsyncIterator[Service]:
    async with service.served(cluster, template) as made:
        await service.fill(made.db, 30)
        yield made


async def add(syncd: Service, key: str, email: str | None, **columns: Any) -> None:
    row = {"id": key, "email": email, **columns}
    marks = ", ".join(f"${n}" for n in range(1, len(row) + 1))
    await syncd.db.execute(
        f"insert into syncd.contact ({', '.join(row)}) values ({marks})", *row.values()
    )


async def rejected(syncd: Service, name: str = "shop") -> dict[str, str]:
    rows = await syncd.db.fetch(
        "select j.contact_id, j.last_error from syncd.journal j join syncd.destination d"
        " on d.id = j.destination_id where d.name = $1 and j.state = 'rejected'",
        name,
    )
    return {row["contact_id"]: row["last_error"] for row in rows}


async def halted(syncd: Service, name: str = "shop") -> str:
    async def said() -> Any:
        return (await syncd.row(name))["halted"]

    return str(await until(said, "halted"))


# ── Contacts ────────────────────────────────────────────────────────────────────────────────

BAD: dict[str, tuple[str | None, str]] = {
    "none": (None, "has no e-mail address"),
    "empty": ("", "has no e-mail address"),
    "blank": ("   ", "has no e-mail address"),
    "no-at": ("ann.example.org", "Email is not an address"),
    "no-dot": ("ann@example", "Email is not an address"),
    "inner-blank": ("ann smith@example.org", "Email is not an address"),
    "two-at": ("ann@bob@example.org", "Email is not an address"),
    "long": ("a" * 250 + "@example.org", "Email is longer than 255 characters"),
    "control": ("ann\x07@example.org", "Email holds control characters"),
    "line": ("ann@example.org\nBcc: bob@example.org", "Email"),
    "twin-b": ("twin@example.org", "shares its address with contact twin-a"),
    "twin-c": ("TWIN@example.org", "shares its address with contact twin-a"),
}


async def test_a_contact_that_cannot_be_sent_is_named_and_the_others_arrive(
    syncd: Service,
) -> None:
    for key, (email, _) in BAD.items():
        await add(syncd, key, email)
    await add(syncd, "twin-a", "Twin@Example.org")
    await syncd.destination("shop", await syncd.sandbox())
    backfill = syncd.start("backfill", "--json")
    assert await backfill.ended() == 1, backfill.said
    told = backfill.answer()["destinations"]["shop"]
    assert (told["created"], told["rejected"]) == (31, len(BAD))
    reasons = await rejected(syncd)
    assert reasons.keys() == BAD.keys()
    for key, (_, says) in BAD.items():
        assert says in reasons[key], key
    await syncd.same("shop", excused=BAD)
    # What is repaired arrives without anybody's help; what is not is not sent again.
    await syncd.daemon()
    before = syncd.boxes["shop"].state.ledger.requests
    await syncd.db.execute("update syncd.contact set email = id || '@fixed.example.org'"
                           " where id in ('none', 'no-at', 'twin-b')")  # fmt: skip
    await syncd.in_step()
    await syncd.same("shop", excused=BAD.keys() - {"none", "no-at", "twin-b"})
    assert syncd.boxes["shop"].state.ledger.requests - before <= 6


HOSTILE: dict[str, tuple[str, str]] = {
    "emoji": ("👩‍👩‍👧‍👦 Ann 🇩🇪", "👩‍👩‍👧‍👦 Ann 🇩🇪"),
    "right-to-left": ("\u202e\u05e0\u05e2 \u0639\u0644\u200e",) * 2,
    "combining": ("Z͑ͫ̓a" + "\u0301" * 40, "Z͑ͫ̓a" + "\u0301" * 40),
    "control": ("A\x01n\tn\r\nB\x7f", "An n B"),
    "separators": ("a\u2028b\u2029c\x85", "a\u2028b\u2029c"),
    "quotes": ("""O'Neil "x" \\ $1 %s {0} ; --""", """O'Neil "x" \\ $1 %s {0} ; --"""),
    "html": ("<b>&amp;</b>", "<b>&amp;</b>"),
    "dollar": ("$delete", "$delete"),
    "private": ("\ue000\ufffd\U0010ffff", "\ue000\ufffd\U0010ffff"),
    "long": ("x" * 10_000, "x" * 512),
    "long-umlauts": ("ü" * 10_000, "ü" * 256),
    "long-emoji": ("👍" * 3_000, "👍" * 128),
}


async def test_hostile_text_travels_as_it_is_or_shortened_to_what_fits(syncd: Service) -> None:
    for key, (text, _) in HOSTILE.items():
        await add(
            syncd, key, f"{key}@example.org", first_name=text,
            attributes=orjson.dumps({"note": {"text": text[:50]}, "n": 1.5, "yes": True}).decode(),
        )  # fmt: skip
    box = await syncd.sandbox()
    fields = {"First Name": "first_name", "Note": "attributes.note", "N": "attributes.n",
              "Yes": "attributes.yes", "None": "attributes.none"}  # fmt: skip
    await syncd.destination("shop", box, fields=orjson.dumps(fields).decode())
    backfill = syncd.start("backfill", "--json")
    assert await backfill.ended() == 0, backfill.said
    for key, (_, expected) in HOSTILE.items():
        held = box.state.profiles.by_identity[key].properties
        assert held["First Name"] == expected, key
        assert (held["N"], held["Yes"]) == (1.5, True)
        assert "None" not in held
        assert orjson.loads(held["Note"]).keys() == {"text"}
    assert box.state.ledger.violations == []
    assert await syncd.outstanding("shop") == ""


async def test_odd_ids_are_kept_apart_and_travel_unharmed(syncd: Service) -> None:
    ids = ["a b", "a/b", "a?b=c&d", "a%20b", "ä", "A", "a", "0", "00", "1e3", "-1", "null", "👍",
           "a'b", 'a"b', "a\\b", "{}", "a,b", "x" * 500, "a\tb", "syncd"]  # fmt: skip
    for n, key in enumerate(ids):
        await add(syncd, key, f"odd{n}@example.org")
        await syncd.db.execute("insert into syncd.membership values ('a', $1)", key)
    await syncd.destination("shop", await syncd.sandbox())
    await syncd.daemon()
    await syncd.in_step()
    refused = await rejected(syncd)
    assert refused == {"a\tb": "identity holds control characters"}
    await syncd.same("shop", excused=refused)
    await syncd.db.execute("delete from syncd.contact where id = any($1)", ids[::2])
    await syncd.db.execute("update syncd.contact set city = 'X' where id = any($1)", ids)
    await syncd.in_step()
    await syncd.same("shop", excused=refused)


async def test_what_jsonb_refuses_postgresql_refuses_itself(syncd: Service) -> None:
    for text in (r'{"x": "\u0000"}', r'{"x": "\ud83d"}'):
        with pytest.raises(Exception, match=r"unsupported Unicode|invalid input syntax"):
            await add(syncd, "x", "x@example.org", attributes=text)


async def test_a_record_the_provider_refuses_is_set_aside_alone(syncd: Service) -> None:
    """The provider is stricter than we are: the batch is not lost for it."""
    box = await syncd.sandbox()
    await syncd.db.execute("update syncd.contact set company = 'N' where id <> 'c00007'")
    fields = {"Employed": "company", "First Name": "first_name"}
    await syncd.db.execute("update syncd.contact set company = 'perhaps' where id = 'c00007'")
    await syncd.destination("shop", box, fields=orjson.dumps(fields).decode())
    await syncd.daemon()
    await syncd.in_step()
    assert await rejected(syncd) == {
        "c00007": "code 517: Profile data is incorrect. Employed needs to be Y/N"
    }
    await syncd.same("shop", excused={"c00007"})


# ── Lists ───────────────────────────────────────────────────────────────────────────────────


async def test_a_renamed_list_touches_nobody_where_ids_are_held(syncd: Service) -> None:
    box = await syncd.sandbox()
    await syncd.destination("shop", box)
    await syncd.daemon()
    await syncd.in_step()
    uploads = box.state.ledger.by_path["/1/upload"]
    await syncd.db.execute("update syncd.list set name = 'Another name' where id = 'a'")
    await until(lambda: _planned_since(syncd), "the change is looked at")
    await syncd.in_step()
    assert box.state.ledger.by_path["/1/upload"] == uploads
    await syncd.same("shop")


async def _planned_since(syncd: Service) -> bool:
    return not await syncd.outstanding("shop")


async def test_a_deleted_list_is_taken_from_its_members_and_a_selected_one_holds_all(
    syncd: Service,
) -> None:
    box, other = await syncd.sandbox(), await syncd.sandbox()
    await syncd.destination("all", box, account="ONE")
    await syncd.destination("some", other, account="TWO", lists=["a", "b"])
    daemon = await syncd.daemon()
    await syncd.in_step()
    await syncd.same("all")
    await syncd.same("some")
    mailable = sum(map(other.state.profiles.mailable, other.state.profiles.all))
    await syncd.db.execute("delete from syncd.list where id = 'b'")
    said = await halted(syncd, "some")
    assert said.startswith("configuration: ")
    assert "list 'b' does not exist" in said
    await syncd.in_step("all")
    await syncd.same("all")
    assert not any("b" in one.properties.get("Lists", []) for one in box.state.profiles.all)
    assert sum(map(other.state.profiles.mailable, other.state.profiles.all)) == mailable
    assert len(daemon.told("destination is misconfigured")) == 1
    await daemon.terminated()
    again = await syncd.daemon()
    await until(lambda: again.told("destination is misconfigured"), "found again at the start")
    assert sum(map(other.state.profiles.mailable, other.state.profiles.all)) == mailable
    await syncd.set("some", lists=["a"], guard_percent=100, schedule="on change")
    await syncd.in_step()
    await syncd.same("some")
    assert again.alive


# ── Sources and mappings ────────────────────────────────────────────────────────────────────


async def test_a_view_that_is_suddenly_empty_removes_nobody(syncd: Service) -> None:
    await syncd.db.execute(
        "create schema crm; create table crm.on_off (shown boolean); insert into crm.on_off"
        " values (true); create view crm.contact as select c.* from syncd.contact c"
        " where (select shown from crm.on_off);"
        "insert into syncd.source (name, contact) values ('crm', 'crm.contact')"
    )
    box = await syncd.sandbox()
    await syncd.destination("shop", box, source="crm", guard_floor=5)
    await syncd.daemon()
    await syncd.in_step()
    await syncd.same("shop")
    await syncd.db.execute("update crm.on_off set shown = false")
    await syncd.command("full", "shop")

    async def held() -> Any:
        return await syncd.db.fetchval("select reason from syncd.plan where state = 'held'")

    assert "remove 30 contacts" in await until(held, "held")
    await syncd.in_step()
    assert sum(map(box.state.profiles.mailable, box.state.profiles.all)) == 30
    await syncd.db.execute("update crm.on_off set shown = true")
    await syncd.command("full", "shop")
    await until(lambda: _nothing_held(syncd), "released by itself")
    await syncd.in_step()
    await syncd.same("shop")


async def _nothing_held(syncd: Service) -> bool:
    return not await syncd.db.fetchval(
        "select exists (select 1 from syncd.journal where state = 'held')"
    )


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "column": ({"fields": '{"City": "town", "Zip": "zip"}'}, "has no column 'town'"),
    "key of no JSON": ({"fields": '{"City": "city.name"}'}, "column 'city' is not JSON"),
    "list by name": ({"lists": ["List a"]}, "it is the name of list 'a'"),
    "provider": ({"provider": "mailgorilla"}, "provider 'mailgorilla' is not known"),
    "option": ({"options": '{"regoin": "us1"}'}, "options.regoin"),
    "host": ({"options": '{"base_url": "http://example.org"}'}, "plain http to example.org"),
    "secret": ({"credential": "nobody"}, "SYNCD_SECRET_NOBODY"),
    "schedule": ({"schedule": "now and then"}, "schedule 'now and then'"),
}


async def test_every_wrong_row_is_held_with_its_fault_and_disturbs_no_other(
    syncd: Service,
) -> None:
    box = await syncd.sandbox()
    await syncd.destination("good", box, account="GOOD")
    for n, (_, (columns, _says)) in enumerate(WRONG.items()):
        await syncd.destination(f"wrong{n}", await syncd.sandbox(), account=f"WRONG-{n}")
        await syncd.set(f"wrong{n}", **columns)
    daemon = await syncd.daemon()
    await syncd.in_step("good")
    await syncd.same("good")
    for n, (what, (_, says)) in enumerate(WRONG.items()):
        said = await halted(syncd, f"wrong{n}")
        assert said.startswith("configuration: "), what
        assert says in said, what
        assert syncd.boxes[f"wrong{n}"].state.ledger.requests == 0
    told = daemon.told("destination is misconfigured")
    assert len(told) == len(WRONG), "each is told once"
    await add(syncd, "late", "late@example.org")
    await syncd.in_step("good")
    await syncd.same("good")
    # Each lifts by itself when its row is mended.
    for n in range(len(WRONG)):
        name = f"wrong{n}"
        options = orjson.dumps({"base_url": syncd.boxes[name].url}).decode()
        await syncd.set(
            name, fields=None, lists=None, provider="clevertap", options=options,
            credential=name, schedule="on change",
        )  # fmt: skip
    await syncd.in_step()
    for n in range(len(WRONG)):
        await syncd.same(f"wrong{n}")


@pytest.mark.parametrize("what", ["column", "provider", "secret"])
async def test_a_backfill_of_a_wrong_row_ends_with_78_and_says_why(
    syncd: Service, what: str
) -> None:
    columns, says = WRONG[what]
    await syncd.destination("shop", await syncd.sandbox())
    await syncd.set("shop", **columns)
    backfill = syncd.start("backfill", "--json")
    assert await backfill.ended() == CONFIG
    assert says in backfill.said + backfill.printed


# ── Secrets ─────────────────────────────────────────────────────────────────────────────────


async def test_a_wrong_secret_halts_and_a_changed_one_lifts_without_a_restart(
    syncd: Service,
) -> None:
    syncd.environ["SYNCD_SECRET_KEY"] = Fernet.generate_key().decode()
    box = await syncd.sandbox()
    good = orjson.dumps(box.state.demo).decode()
    await syncd.destination("shop", box, learnt=False)
    del syncd.environ[variable("shop")]
    wrong = orjson.dumps({**box.state.demo, "passcode": "NOT-THE-PASSCODE"}).decode()
    syncd.secrets.add("NOT-THE-PASSCODE")
    await _set_secret(syncd, "shop", wrong)
    backfill = syncd.start("backfill", "--json")
    assert await backfill.ended() == REFUSED, backfill.said
    daemon = await syncd.daemon()
    assert "401" in await halted(syncd)
    assert (await syncd.command("sync", "shop"))[0] == "done"  # the daemon has seen the old one
    assert box.state.profiles.by_identity == {}
    await add(syncd, "late", "late@example.org")
    await _set_secret(syncd, "shop", good)
    await until(lambda: not box.state.limits.revoked and len(box.state.profiles.all) >= 31, "sent")
    await syncd.in_step()
    await syncd.same("shop")
    assert daemon.alive


async def _set_secret(syncd: Service, name: str, value: str) -> None:
    """Sealed in the table, as `syncd secret set` does."""
    async with db.pool(syncd.url, 2) as pool:
        await Secrets(pool, syncd.environ, sealing_keys(syncd.environ)).set(name, value)


# ── Starting ────────────────────────────────────────────────────────────────────────────────


async def test_what_hinders_a_start_is_said_with_its_documented_code(syncd: Service) -> None:
    folder = open_folder()
    (folder / "bad.toml").write_text("pool_size = \n")
    (folder / "odd.toml").write_text('pool_size = "many"\nwindwo = 3\n')
    cases: list[tuple[tuple[str, ...], dict[str, str], int, list[str]]] = [
        (("run",), {"database_url": "postgresql://127.0.0.1:1/x"}, UNREACHABLE,
         ["PostgreSQL cannot be reached"]),
        (("backfill",), {"database_url": "postgresql://127.0.0.1:1/x"}, UNREACHABLE,
         ["PostgreSQL cannot be reached"]),
        (("run", "--config", str(folder / "bad.toml")), {}, CONFIG, ["not readable as TOML"]),
        (("run", "--config", str(folder / "odd.toml")), {"pool_size": "", "window": ""}, CONFIG,
         ["pool_size is 'many'", "windwo is not a setting; did you mean window?"]),
        (("run", "--config", str(folder / "none.toml")), {}, CONFIG, ["no such file"]),
        (("run",), {"lease_seconds": "1"}, CONFIG, ["lease_seconds is 1"]),
        (("backfill", "nobody"), {}, CONFIG, ["destination 'nobody' does not exist"]),
        (("run", "--fast"), {}, 2, ["--fast"]),
    ]  # fmt: skip
    await syncd.destination("shop", await syncd.sandbox())
    started = [(syncd.start(*args, **settings), code, says) for args, settings, code, says in cases]
    try:
        for process, code, says in started:
            assert await process.ended() == code, (process.args, process.said)
            for one in says:
                assert one in process.said, process.args
            assert "Traceback" not in process.said
        syncd.may_fail = True  # lines for people, not JSON: nothing serves yet
    finally:
        shutil.rmtree(folder)
