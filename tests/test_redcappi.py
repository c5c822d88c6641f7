"""RedCappi's adapter against the strict stand-in: no signature is wrong, nobody is added twice."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

import adapters
import orjson
import pytest
from adapters import Permits, drop, put
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from redcappi_vectors import KEYS, VECTORS
from structlog.testing import capture_logs

from syncd.errors import (
    Ambiguous,
    Indivisible,
    Misconfigured,
    ProviderError,
    Refused,
    Transient,
    Unintelligible,
)
from syncd.model import (
    Absent,
    Answer,
    Applied,
    Can,
    Change,
    Outcome,
    Page,
    Person,
    Rejected,
    Request,
    Vanished,
    Verb,
    Waits,
)
from syncd.providers import redcappi_translate
from syncd.providers.redcappi import RedCappi, RedCappiCredential, RedCappiOptions
from syncd.providers.redcappi_answers import is_empty, is_gone, judged, table, written
from syncd.providers.redcappi_push import HalfDone, Scope, halfway
from syncd.providers.redcappi_sign import authorization, encoded, php_json, string_to_sign
from syncd.providers.redcappi_translate import (
    FIELDS,
    Rules,
    content,
    email_fault,
    planned,
    tidy,
)
from syncd.sandbox import Handle, serve
from syncd.sandbox import redcappi_php as php
from syncd.wire import HttpWire

# ── The string to sign ──────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("number", "method", "target"),
    [
        (10, "get", "/v1/contacts.json/1/contacts/"),  # the document's copy-and-paste slips
        (11, "get", "/v1/contacts.json/1/contacts/42"),
        (12, "get", "/v1/contacts.json/1/contacts/342"),
        (3, "post", "/v1/lists./List+3"),
        (8, "get", "/v1/contacts.json/1/contacts/?pagesize=5&offset=2+"),
        (1, "get", "/v1/lists.json"),
    ],
)
def test_the_documents_slips_give_another_hash(number: int, method: str, target: str) -> None:
    vector = VECTORS[number - 1]
    public, private = KEYS[vector.key]
    slip = string_to_sign(method, target, vector.body.encode())

    assert not authorization(public, private, slip).endswith(vector.hash)


def test_the_value_is_escaped_before_it_is_lowered() -> None:
    assert '"\\u00c9\\u0130"' in string_to_sign("POST", "/v1/x", '{"a":"Éİ"}'.encode())


@pytest.mark.parametrize(
    ("target", "signed"),
    [
        ("/x?b=2&A=1", "/x?A=1&b=2"),
        ("/x?", "/x?"),
        ("/x?a", "/x?a="),
        ("/x?a=1&a=2", "/x?a=2"),
        ("/x?a.b=1&c+d=2", "/x?a_b=1&c_d=2"),
        ("/x?n=%20~*", "/x?n=+%7E%2A"),
        ("/xb=1/b=1?b=1", "/xb=1/b=1?b=1"),
        ("/x&b=%20?&b=%20", "/xb=+?b=+"),  # the text of the query is replaced in the path too
    ],
)
def test_the_quirks_of_a_signed_query(target: str, signed: str) -> None:
    assert string_to_sign("GET", target, b"") == f"get::{signed}::null".lower()
    assert php.message_of("GET", target, b"") == f"get::{signed}::null".lower().encode()


def test_del_is_left_raw_and_a_backslash_before_it_is_not_taken_for_its_escape() -> None:
    assert php_json({"a": "\x7f\\u007f"}) == '{"a":"\x7f\\\\u007f"}'
    assert php.json_encoded({"a": "\x7f\\u007f"}) == '{"a":"\x7f\\\\u007f"}'


names = st.text(st.characters(codec="utf-8", exclude_characters=".[]\x00 "), min_size=1)
texts = st.text(st.characters(codec="utf-8"))


@settings(max_examples=400, deadline=None)
@given(st.dictionaries(texts, texts), st.booleans())
def test_bodies_sign_as_the_stand_in_signs_them(fields: dict[str, str], raw: bool) -> None:
    """Two implementations, one written from the server's side; sent raw or escaped."""
    fields = {f"k{name}": value for name, value in fields.items()}
    body = orjson.dumps(fields) if raw else php_json(fields).encode()

    ours = string_to_sign("POST", "/v1/contacts.json/1/contacts/", body)
    assert ours.encode() == php.message_of("POST", "/v1/contacts.json/1/contacts/", body)
    assert string_to_sign("POST", "/x", php_json(fields).encode()) == (
        string_to_sign("POST", "/x", orjson.dumps(fields))
    )


@settings(max_examples=400, deadline=None)
@given(st.dictionaries(names, texts, min_size=1), texts)
def test_addresses_sign_as_the_stand_in_signs_them(query: dict[str, str], name: str) -> None:
    pairs = "&".join(f"{encoded(key)}={encoded(value)}" for key, value in query.items())
    target = f"/v1/lists/{encoded(name)}?{pairs}"

    ours = string_to_sign("GET", target, b"[]")
    assert ours.encode() == php.message_of("GET", target, b"[]")
    assert encoded(name).encode() == php.url_encoded(name.encode())


# ── The stand-in, the wire, the adapter ─────────────────────────────────────────────────────


@asynccontextmanager
async def adapter(
    box: Handle, findings: Mapping[str, Any] | None = None, key: str = "", **options: Any
) -> AsyncIterator[RedCappi]:
    chosen = RedCappiOptions(base_url=box.url, **options)
    demo = box.state.demo
    secret = RedCappiCredential(
        public_key=demo["public_key"], private_key=key or demo["private_key"]
    )
    async with HttpWire(
        RedCappi, chosen, lambda: secret, Permits(RedCappi.traits.meters), timeout=2
    ) as wire:
        yield RedCappi(wire, chosen, findings or {})


@pytest.fixture
async def box() -> AsyncIterator[Handle]:
    """A stand-in with three lists; the test fails if it was ever used against its rules."""
    async with serve("redcappi") as box:
        for name in ("Newsletter", "Customers", "Third"):
            box.act("add_list", name=name)
        yield box
        assert box.state.ledger.violations == []
        assert box.snapshot()["duplicates"] == []


N, C, T = "101", "102", "103"  # remote ids of the lists
LISTS = {"news": N, "cust": C, "third": T}


def person(
    email: str = "ann@example.org", *lists: str, subscribed: bool = True, **fields: Any
) -> Person:
    return Person(email, fields, {one: LISTS[one] for one in lists}, subscribed)


async def pushed(red: RedCappi, change: Change) -> Outcome:
    ids = (change.remote or {}).get("ids", {})
    if None in ids.values():  # two whole scans did not see it there
        told = {**(change.want.lists if change.want else {})}
        told |= change.was.lists if change.was else {}
        missed = [ours for ours, there in told.items() if ids.get(there, "") is None]
        known = {there: number for there, number in ids.items() if number is not None}
        change = change._replace(remote={**(change.remote or {}), "ids": known}, missed=missed)
    return await adapters.pushed(red, change)


def at(box: Handle, email: str) -> list[dict[str, Any]]:
    """The active records of an address."""
    profiles = box.snapshot()["profiles"].values()
    return [one for one in profiles if one["email"] == email and one["status"] == "active"]


def held(box: Handle, email: str) -> list[int]:
    return sorted(n for one in at(box, email) for n in one["lists"])


async def known(red: RedCappi, remote: Mapping[str, Any], email: str) -> dict[str, Any]:
    """`remote` as the core has it after every list was scanned."""
    ids: dict[str, Any] = {}
    for list_id in (N, C, T):
        seen = {r.email: r.remote_id for p in await pages(red, list_id) for r in p.records}
        if email in seen:
            ids[list_id] = seen[email]
        elif list_id in remote.get("lists", {}).values():
            ids[list_id] = None
    return {**remote, "ids": ids}


async def pages(
    red: RedCappi, list_id: str | None, cursor: Mapping[str, Any] | None = None
) -> list[Page]:
    return [page async for page in red.scan(list_id, cursor)]


async def added(red: RedCappi, want: Person) -> dict[str, Any]:
    """Add somebody, scan; what the core remembers of them."""
    outcome = await pushed(red, put(want))
    assert isinstance(outcome, Applied)
    assert outcome.remote is not None
    return await known(red, outcome.remote, want.email)


EVERYTHING: dict[str, Any] = {
    "first_name": "Zoë ",
    "last_name": "Ang\x00\ud83dström\x7f",
    "address": "Åvej 1/2\r\nÉtage 3\t%",
    "company": "A/B & C\\D <Ltd> \"q\" 'x'",
    "phone": "+45 33 (0) 12-34",
    "zip_code": "04008",
    "dob": "1990-02-28",
    "country": None,
}


# ── Declarations ────────────────────────────────────────────────────────────────────────────


def test_what_it_says_of_itself() -> None:
    can = RedCappi.traits.can
    for flag in (Can.FIND, Can.REPEAT, Can.SEES_GONE, Can.OPT_OUT, Can.JOBS):
        assert flag not in can
    assert (RedCappi.traits.batch, RedCappi.traits.key, RedCappi.traits.needs_list) == (
        1, "remote id", True,
    )  # fmt: skip


@pytest.mark.parametrize(
    "options",
    [
        {"delete_scope": "maybe"},
        {"offset_unit": "bytes"},
        {"page_size": 1},
        {"dob_format": "day"},
        {"dob_format": "%Y"},
        {"name_column": "company"},
        {"no_such": 1},
    ],
)
def test_wrong_options(options: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        RedCappiOptions(**options)


def test_a_credential_is_stripped_and_hidden() -> None:
    key = RedCappiCredential(public_key=" AbC\n", private_key="secret é")

    assert RedCappi.scope(RedCappiOptions(), key) == "AbC"
    assert "secret" not in f"{key!r} {key} {key.model_dump()}"
    wrong = [("public_key", "a b"), ("public_key", "ä"), ("public_key", "a:b"), ("private_key", "")]
    for name, bad in wrong:
        with pytest.raises(ValidationError):
            RedCappiCredential(**{"public_key": "a", "private_key": "b", name: bad})


def test_the_base_url_is_tls_unless_said_otherwise() -> None:
    assert RedCappi.base_url(RedCappiOptions()) == "https://api.redcappi.com"
    assert RedCappi.base_url(RedCappiOptions(base_url="http://x/y")) == "http://x/y"


# ── Values ──────────────────────────────────────────────────────────────────────────────────


def test_all_twelve_fields_are_strings_without_what_breaks_a_signature() -> None:
    lacking: list[str] = []
    made = content(person("Ann@Example.org", plan="gold", **EVERYTHING), Rules(), lacking)

    assert tuple(made) == FIELDS
    assert made["last_name"] == "Angström"
    assert made["address"] == "Åvej 1/2, Étage 3%"
    assert made["dob"] == "1990-02-28"
    assert made["country"] == ""
    assert made["name"] == "Zoë  Angström"
    assert made["email_address"] == "Ann@Example.org"
    assert lacking == ["field:plan has no place there"]


def test_name_is_mapped_joined_or_left_empty() -> None:
    both: dict[str, Any] = {"first_name": "Ann", "last_name": "Lee"}
    assert content(person(**both), Rules(), [])["name"] == "Ann Lee"
    assert content(person(**both), Rules(joins_name=False), [])["name"] == ""
    assert content(person(**both, name="Dr Lee"), Rules(), [])["name"] == "Dr Lee"
    assert content(person(first_name=7, company=True), Rules(), [])["company"] == "true"


def test_a_birthday_has_a_format_and_nonsense_is_left_out() -> None:
    lacking: list[str] = []
    rules = Rules(dob_format="%d/%m/%Y")
    assert content(person(dob="1990-02-28"), rules, lacking)["dob"] == "28/02/1990"
    assert content(person(dob="soon"), rules, lacking)["dob"] == ""
    assert lacking == ["field:dob not a date, left out"]


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("e\u0301", "é"),
        ("a\ud83db", "ab"),
        ("a\tb\x00\x7f", "ab"),
        ("a\nb", "a b"),
        ("\u00a0", "\u00a0"),
    ],
)
def test_hygiene(text: str, clean: str) -> None:
    assert tidy(text) == clean


@pytest.mark.parametrize("email", ["", "ann", "a@b", "a b@c.de", "a@b.de\n", "a\x00@b.de"])
def test_what_is_no_address(email: str) -> None:
    assert email_fault(email)


# ── Answers ─────────────────────────────────────────────────────────────────────────────────

WRITE = Request("POST", "/v1/contacts.json/1/contacts/")
READ = Request("GET", "/v1/lists.json/")


def answer(body: Any, status: int = 200) -> Answer:
    return Answer(status, {}, body if isinstance(body, bytes) else orjson.dumps(body))


@pytest.mark.parametrize(
    ("body", "status", "kind"),
    [
        ({"code": 401, "message": "Not Authorized"}, 401, Refused),
        ({"code": 401, "message": "Not Authorized"}, 200, Refused),
        ("Not Authorized", 200, Refused),
        (b"<html>not authorized</html>", 500, Refused),
        ({"status": False, "error": "Not Authorized"}, 404, Refused),
        ({"code": 403, "message": "No"}, 200, Refused),
        ({}, 403, Refused),
        ({"code": 429, "message": "slow"}, 200, Transient),
        ({"code": 500, "message": "oops"}, 200, Ambiguous),
        (b"oops", 502, Ambiguous),
        (b"<html></html>", 200, Ambiguous),
        (b" <html></html>", 404, Ambiguous),
        ({"status": False, "error": "Unknown method."}, 404, Misconfigured),
    ],
)
def test_what_an_answer_to_a_write_means(body: Any, status: int, kind: type[ProviderError]) -> None:
    assert type(judged(WRITE, answer(body, status))) is kind


@pytest.mark.parametrize(
    ("body", "status"), [({"code": 500}, 200), (b"<p>", 502), (b"<p>", 200), (b"<p>", 404)]
)
def test_a_read_is_only_late(body: Any, status: int) -> None:
    assert type(judged(READ, answer(body, status))) is Transient


@pytest.mark.parametrize(
    "body",
    [
        {"7": "Not Authorized"},
        [{"id": "7", "name": "not authorized"}],
        {"code": 201, "message": "List Not Authorized created with list-id 7"},
    ],
)
def test_a_list_of_that_name_is_no_refusal(body: Any) -> None:
    assert judged(READ, answer(body)) is None


@pytest.mark.parametrize(
    ("body", "status", "kind"),
    [
        ({"code": 201, "message": "Contact added"}, 200, "done"),
        ({"code": "200", "message": "Contact updated"}, 200, "done"),
        ("Contact removed", 200, "done"),
        ("Contact not found", 200, "gone"),
        ({"code": 404, "message": "No"}, 200, "gone"),
        ({}, 404, "gone"),
        ({"code": 400, "message": "Contact does not exist"}, 200, "gone"),
        ({"code": 409, "message": "No"}, 200, "there"),
        ({"code": 400, "message": "Contact already exists"}, 400, "there"),
        ({"status": False, "error": "Already there"}, 200, "there"),
        ({"code": 400, "message": "Bad zip"}, 200, "refused"),
        ({"message": "Bad zip"}, 422, "refused"),
    ],
)
def test_what_became_of_a_write(body: Any, status: int, kind: str) -> None:
    assert judged(WRITE, answer(body, status)) in (None, "ok")
    assert written(answer(body, status)).kind == kind


def test_the_code_in_the_body_comes_before_the_status() -> None:
    odd = answer({"code": 201, "message": "Contact added"}, 404)
    assert judged(WRITE, odd) == "ok"
    assert written(odd).kind == "done"
    assert judged(WRITE, answer({"code": 201}, 302)) is None  # a redirect is never followed


@pytest.mark.parametrize("body", [b"", b"{", [], {}, "", "thanks", {"message": "ok"}, None, 7])
def test_an_answer_that_does_not_say(body: Any) -> None:
    with pytest.raises(Unintelligible):
        written(answer(body))


def test_ids_come_as_a_map_or_as_rows() -> None:
    assert table(answer({"1": "A", "2": "B"}), "name") == {"1": "A", "2": "B"}
    assert table(answer([{"id": "1", "name": "A"}, {"id": 2, "name": "B"}]), "name") == {
        "1": "A",
        "2": "B",
    }
    nothing: list[Any] = [[], {}, None, ""]
    for empty in nothing:
        assert table(answer(empty), "name") == {}
        assert is_empty(answer(empty))
    assert is_empty(answer(b"", 404))
    assert not is_empty(answer({"code": 404, "message": "x"}))
    assert is_gone(answer({"code": 404, "message": "x"}))
    for strange in ({"a": "b"}, ["x"], 7, [{"id": "x", "name": "y"}], {"code": 400}):
        with pytest.raises(Unintelligible):
            table(answer(strange), "name")


def test_no_fault_after_an_applied_request_says_that_nothing_was() -> None:
    faults = [kind("x", after=3.0) for kind in (Transient, Refused, Indivisible, Misconfigured)]
    made = [halfway(one) for one in faults]

    assert [type(one) for one in made] == [Ambiguous, Ambiguous, Unintelligible, HalfDone]
    assert all(one.may_be_applied and one.after == 3.0 for one in made)


# ── One contact's life ──────────────────────────────────────────────────────────────────────


async def test_a_contact_arrives_as_it_is_and_its_id_is_read(box: Handle) -> None:
    async with adapter(box) as red:
        want = person("Zoe.O'Brien+News@Example.COM", "news", **EVERYTHING)
        outcome = await pushed(red, put(want))

        assert outcome == Applied({"ids": {}, "lists": {"news": N}}, ())
        (one,) = at(box, "Zoe.O'Brien+News@Example.COM")
        assert one["fields"] == content(want, Rules(), [])
        assert one["lists"] == [101]
        (page,) = await pages(red, N)
    assert [(s.remote_id, s.email, s.lists) for s in page.records] == [("5001", one["email"], (N,))]
    assert page.records[0].subscribed is None


async def test_an_edit_waits_for_the_id_then_goes_by_it(box: Handle) -> None:
    async with adapter(box) as red:
        first, then = person("a@x.org", "news"), person("b@x.org", "news", city="Oslo")
        outcome = await pushed(red, put(first))
        assert isinstance(outcome, Applied)
        before = box.state.ledger.requests
        assert await pushed(red, put(then, first, remote=outcome.remote)) == Waits("news")
        assert box.state.ledger.requests == before

        remote = await known(red, outcome.remote or {}, "a@x.org")
        assert await pushed(red, put(then, first, remote=remote)) == Applied(remote)
    (one,) = at(box, "b@x.org")
    assert (one["fields"]["city"], one["lists"], box.snapshot()["repeated_adds"]) == (
        "Oslo", [101], [],
    )  # fmt: skip


async def test_one_request_for_each_membership(box: Handle) -> None:
    async with adapter(box, delete_scope="list") as red:
        first = person("a@x.org", "news", "cust")
        remote = await added(red, first)
        then = person("a@x.org", "cust", "third", city="Oslo")
        outcome = await pushed(red, put(then, first, remote=remote))

    assert isinstance(outcome, Applied)
    assert outcome.remote == {"ids": {C: "5001"}, "lists": {"cust": C, "third": T}}
    assert held(box, "a@x.org") == [102, 103]
    wrote = [one["what"] for one in box.state.ledger.history]
    assert wrote[-3:] == ["edit", "add", "delete"]


async def test_a_list_more_costs_one_look_and_one_add(box: Handle) -> None:
    async with adapter(box) as red:
        first = person("a@x.org", "news")
        remote = await added(red, first)
        before = box.state.ledger.requests
        then = person("a@x.org", "news", "cust")
        assert isinstance(await pushed(red, put(then, first, remote=remote)), Applied)

    assert box.state.ledger.requests == before + 2
    assert held(box, "a@x.org") == [101, 102]


async def test_who_said_no_there_is_not_added_to_a_further_list(box: Handle) -> None:
    async with adapter(box) as red:
        first = person("a@x.org", "news")
        remote = await added(red, first)
        box.act("unsubscribe", email="a@x.org")
        for then in (person("a@x.org", "news", "cust"), person("a@x.org", "news", city="Oslo")):
            assert await pushed(red, put(then, first, remote=remote)) == Waits("news")
        moved = person("a@x.org", "cust")
        assert await pushed(red, put(moved, first, remote=remote)) == Waits("news")

    assert not box.state.mailable("a@x.org")
    assert box.snapshot()["resubscribed"] == []


async def test_a_further_list_waits_for_an_id_to_look_with(box: Handle) -> None:
    async with adapter(box) as red:
        first = person("a@x.org", "news")
        outcome = await pushed(red, put(first))
        assert isinstance(outcome, Applied)
        box.act("unsubscribe", email="a@x.org")
        for then in (person("a@x.org", "news", "cust"), person("a@x.org", "cust")):
            further = put(then, first, remote=outcome.remote)
            assert await pushed(red, further) == Waits("news")
            if "news" in then.lists:
                assert await pushed(red, further._replace(missed=["news"])) == Waits("news")

    assert not box.state.mailable("a@x.org")


async def test_missed_by_a_whole_scan_is_left_to_the_core(box: Handle) -> None:
    remote = {"ids": {}, "lists": {"news": N}}
    first, then = person("a@x.org", "news"), person("a@x.org", "news", city="Oslo")
    async with adapter(box) as red:
        missed = put(then, first, remote=remote)._replace(missed=["news"])
        assert await pushed(red, missed) == Waits("news")
        gone = drop(Verb.WITHDRAW, first, remote)._replace(missed=["news"])
        assert await pushed(red, gone) == Applied({"ids": {}, "lists": {}})

    assert box.state.ledger.requests == 0


@pytest.mark.parametrize("verb", [Verb.WITHDRAW, Verb.DELETE, Verb.ERASE])
async def test_taken_out_of_every_list(box: Handle, verb: Verb) -> None:
    async with adapter(box) as red:
        was = person("a@x.org", "news", "cust")
        remote = await added(red, was)
        assert await pushed(red, drop(verb, was, {"lists": remote["lists"]})) == Waits("news")
        for _ in range(2):  # what is gone already is a success
            outcome = await pushed(red, drop(verb, was, remote))
            assert outcome == Applied({"ids": {}, "lists": {}})
        erased = await red.erased(drop(verb, was, remote), datetime.now(UTC))
        assert "dashboard" in erased.by_hand
        assert "still in list" not in erased.by_hand

    assert held(box, "a@x.org") == []


async def test_an_erasure_that_did_not_take_is_told(box: Handle) -> None:
    async with adapter(box) as red:
        remote = await added(red, person("a@x.org", "news"))
        erased = await red.erased(drop(Verb.ERASE, person(), remote), datetime.now(UTC))

    assert f"still in list {N}" in erased.by_hand


async def test_a_no_and_the_way_back(box: Handle) -> None:
    async with adapter(box) as red:
        here = person("a@x.org", "news", "cust")
        silent = here._replace(subscribed=False)
        remote = await added(red, here)
        outcome = await pushed(red, put(silent, here, remote=remote))
        assert outcome == Applied({"ids": {}, "lists": {}})
        assert not box.state.mailable("a@x.org")

        before = box.state.ledger.requests
        without = await pushed(red, put(here, silent, remote=remote))
        assert isinstance(without, Applied)
        assert without.lacking
        assert box.state.ledger.requests == before

        back = await pushed(red, put(here, silent, remote=outcome.remote, resubscribe=True))
        assert isinstance(back, Applied)
    assert held(box, "a@x.org") == [101, 102]


async def test_old_ids_of_somebody_who_comes_back_are_looked_at(box: Handle) -> None:
    """A withdrawal keeps what the mirror remembered; one of the deletes may not have arrived."""
    async with adapter(box) as red:
        here = person("a@x.org", "news", "cust")
        remote = await added(red, here)
        box.act("delete", email="a@x.org", list=101)
        box.state.data.said_no.clear()  # it was ours
        was = Person("a@x.org", {}, {}, False)
        back = await pushed(red, put(here, was, remote=remote, resubscribe=True))

    assert isinstance(back, Applied)
    assert held(box, "a@x.org") == [101, 102]
    assert box.snapshot()["repeated_adds"] == []


async def test_nowhere_is_absent(box: Handle) -> None:
    async with adapter(box) as red:
        assert await pushed(red, put(person("a@x.org"))) == Absent("it is in no list")
        silent = person("a@x.org", "news", subscribed=False)
        assert isinstance(await pushed(red, put(silent)), Absent)
        unknown = put(person("a@x.org", "news"), may_create=False)
        assert isinstance(await pushed(red, unknown), Absent)
        assert box.state.ledger.requests == 0

        was = person("a@x.org", "news")
        remote = await added(red, was)
        left = await pushed(red, put(person("a@x.org"), was, remote=remote))
        assert left == Absent("it is in no list")
    assert held(box, "a@x.org") == []


async def test_sent_again_where_nothing_differs(box: Handle) -> None:
    async with adapter(box) as red:
        here = person("a@x.org", "news", city="Oslo")
        remote = await added(red, here)
        box.act("set_field", email="a@x.org", name="city", value="Rome")
        assert await pushed(red, put(here, here, remote=remote)) == Applied(remote)

    assert at(box, "a@x.org")[0]["fields"]["city"] == "Oslo"


async def test_somebody_found_there_is_edited_not_added(box: Handle) -> None:
    box.act("add", email="a@x.org", list=101)
    async with adapter(box) as red:
        remote = {"ids": {N: "5001"}}
        outcome = await pushed(red, put(person("a@x.org", "news", city="Oslo"), remote=remote))

    assert outcome == Applied({"ids": {N: "5001"}, "lists": {"news": N}})
    assert box.snapshot()["repeated_adds"] == []
    assert at(box, "a@x.org")[0]["fields"]["city"] == "Oslo"


async def test_lists_that_are_not_ours_stay(box: Handle) -> None:
    box.act("add", email="a@x.org", list=101)
    box.act("add", email="a@x.org", list=103)
    async with adapter(box) as red:
        remote = {"ids": {N: "5001", T: "5001"}}
        await pushed(red, put(person("a@x.org", "news"), remote=remote))

    assert held(box, "a@x.org") == [101, 103]


async def test_a_list_made_anew_has_another_id(box: Handle) -> None:
    was = Person("a@x.org", {}, {"news": "99", "cust": C}, True)
    remote = {"ids": {C: "5001", "99": "5"}, "lists": {"news": "99"}}
    async with adapter(box, delete_scope="list") as red:
        box.act("add", email="a@x.org", list=102)
        outcome = await pushed(red, put(person("a@x.org", "cust"), was, remote=remote))
    assert isinstance(outcome, Applied)
    assert outcome.remote == {"ids": {C: "5001"}, "lists": {"cust": C}}


# ── Refusals ────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("errors_in", ["status", "body"])
async def test_a_bad_record_is_rejected_in_the_providers_words(box: Handle, errors_in: str) -> None:
    box.set_limits(refused=["bad@x.org"], errors_in=errors_in, most_contacts=0)
    async with adapter(box) as red:
        assert await pushed(red, put(person("no address", "news"))) == Rejected(
            "email_address is not an address"
        )
        refused = await pushed(red, put(person("bad@x.org", "news")))
        assert refused == Rejected("list news: Invalid email address", 400)
        full = await pushed(red, put(person("a@x.org", "news")))
        assert full == Rejected("list news: Your plan does not allow more contacts", 400)


@pytest.mark.parametrize("errors_in", ["status", "body"])
async def test_data_that_break_the_signature_are_told_from_wrong_keys(
    box: Handle, errors_in: str
) -> None:
    box.set_limits(not_authorized=["odd@x.org"], errors_in=errors_in)
    async with adapter(box) as red:
        outcome = await pushed(red, put(person("odd@x.org", "news")))
        assert isinstance(outcome, Rejected)
        assert "break the signature" in outcome.reason
        assert isinstance(await pushed(red, put(person("a@x.org", "news"))), Applied)
        box.set_limits(keys={})
        with pytest.raises(Refused, match="Not Authorized"):
            await pushed(red, put(person("b@x.org", "news")))
        (found,) = await red.check()
    assert (found.level, found.exit_code) == ("error", 77)


@pytest.mark.parametrize("errors_in", ["status", "body"])
async def test_a_list_deleted_in_the_dashboard(box: Handle, errors_in: str) -> None:
    box.set_limits(errors_in=errors_in)
    async with adapter(box) as red:
        here = person("a@x.org", "news")
        remote = await added(red, here)
        box.act("delete_list", list=101)
        then = person("a@x.org", "news", city="Oslo")
        for change in (put(then, here, remote=remote), put(person("b@x.org", "news"))):
            outcome = await pushed(red, change)
            assert isinstance(outcome, Rejected)
            assert "not there any more" in outcome.reason
        both = await pushed(red, put(person("c@x.org", "cust", "news")))
        assert both == Applied(
            {"ids": {}, "lists": {"cust": C}}, ("list:news is not there any more",)
        )
        with pytest.raises(Indivisible, match="not there any more"):
            await pages(red, N)


async def test_a_refused_repeat_waits_for_the_id(box: Handle) -> None:
    box.set_limits(repeated_add="refuse")
    box.act("add", email="a@x.org", list=101)
    async with adapter(box) as red:
        want = person("a@x.org", "news", city="Oslo")
        assert await pushed(red, put(want)) == Waits("news")
        remote = await known(red, {}, "a@x.org")
        assert isinstance(await pushed(red, put(want, remote=remote)), Applied)
    assert at(box, "a@x.org")[0]["fields"]["city"] == "Oslo"


async def test_known_there_but_on_no_page_has_said_no(box: Handle) -> None:
    box.set_limits(repeated_add="refuse")
    box.act("add", email="a@x.org", list=101)
    box.act("unsubscribe", email="a@x.org")
    async with adapter(box) as red:
        new = put(person("a@x.org", "news"))
        assert await pushed(red, new) == Waits("news")
        outcome = await pushed(red, new._replace(missed=["news"]))

    assert isinstance(outcome, Vanished)
    assert not box.state.mailable("a@x.org")


# ── Lost answers ────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("kind", ["cut_before", "cut_after", "error_after", "half_answer",
                                  "html", "garbage", "truncated_json", "error_html"])  # fmt: skip
@pytest.mark.parametrize("repeated", ["update", "refuse", "double"])
async def test_an_add_in_doubt_is_looked_for_before_it_is_repeated(
    box: Handle, kind: Any, repeated: str
) -> None:
    box.set_limits(repeated_add=repeated)
    want = person("a@x.org", "news", "cust", city="Oslo")
    async with adapter(box) as red:
        box.next_fault(kind)
        with pytest.raises(ProviderError) as caught:
            await pushed(red, put(want))
        assert caught.value.may_be_applied
        lost = Person("a@x.org", {}, want.lists, True)
        again = put(want, lost, may_create=True, doubtful=True)
        assert await pushed(red, again) == Waits("news")
        ids = (await known(red, {"lists": want.lists}, "a@x.org"))["ids"]
        assert isinstance(await pushed(red, again._replace(remote={"ids": ids})), Applied)

    assert held(box, "a@x.org") == [101, 102]
    assert box.snapshot()["repeated_adds"] == []


@pytest.mark.parametrize("step", [0, 1, 2])
@pytest.mark.parametrize("kind", ["cut_before", "cut_after", "error", "rate_429", "revoked"])
async def test_a_fault_between_the_requests_of_a_change(box: Handle, kind: Any, step: int) -> None:
    """Whatever fails after the first applied request leaves doubt, and a scan ends it."""
    async with adapter(box, delete_scope="list") as red:
        first = person("a@x.org", "news")
        remote = await added(red, first)
        then = person("a@x.org", "cust", city="Oslo")
        path = ["/v1/contacts.json/101/contact/5001", "/v1/contacts.json/102/contacts/",
                "/v1/contacts.json/101/contacts/5001"][step]  # fmt: skip
        box.next_fault(kind, path=path, times=2 if kind == "revoked" else 1)
        if kind == "revoked":
            box.next_fault(kind, path="/v1/lists.json/")
        with pytest.raises(ProviderError) as caught:
            await pushed(red, put(then, first, remote=remote))
        box.set_faults()
        applied = kind == "cut_after" and step > 0
        lost = kind == "cut_before" or kind == "error"
        assert caught.value.may_be_applied == (step == 2 or (step == 1 and (applied or lost)))

        doubt = first._replace(lists={"news": N, "cust": C})
        again = put(then, doubt, doubtful=True, may_create=False)
        ids = (await known(red, {"lists": {"news": N, "cust": C}}, "a@x.org"))["ids"]
        outcome = await pushed(red, again._replace(remote={**remote, "ids": ids}))
        assert isinstance(outcome, Applied)
    assert held(box, "a@x.org") == [102]
    assert box.snapshot()["repeated_adds"] == []


async def test_a_delete_in_doubt_is_repeated(box: Handle) -> None:
    async with adapter(box) as red:
        here = person("a@x.org", "news")
        remote = await added(red, here)
        box.next_fault("cut_after")
        with pytest.raises(Ambiguous):
            await pushed(red, drop(Verb.WITHDRAW, here, remote))
        again = drop(Verb.WITHDRAW, here, remote, doubtful=True)
        assert await pushed(red, again) == Applied({"ids": {}, "lists": {}})


async def test_a_no_whose_add_is_in_doubt_waits(box: Handle) -> None:
    lost = person("a@x.org", "news")
    async with adapter(box) as red:
        silent = put(lost._replace(subscribed=False), lost, doubtful=True)
        assert await pushed(red, silent) == Waits("news")
        assert await pushed(red, drop(Verb.WITHDRAW, lost, doubtful=True)) == Waits("news")
        seen = silent._replace(missed=["news"])
        assert await pushed(red, seen) == Applied({"ids": {}, "lists": {}})


async def test_nothing_was_applied_where_nobody_listens() -> None:
    async with serve("redcappi") as box:
        pass
    async with adapter(box) as red:
        with pytest.raises(Transient):
            await pushed(red, put(person("a@x.org", "news")))
        (found,) = await red.check()
    assert (found.level, found.exit_code) == ("error", 69)


# ── Whether deletes are account-wide ────────────────────────────────────────────────────────


async def test_deletes_of_one_list_are_found_out_at_the_first(box: Handle) -> None:
    async with adapter(box) as red:
        first, then = person("a@x.org", "news", "cust"), person("a@x.org", "cust")
        remote = await added(red, first)
        assert isinstance(await pushed(red, put(then, first, remote=remote)), Applied)
        assert red.findings["delete_scope"] == "list"

    assert held(box, "a@x.org") == [102]


async def test_account_wide_deletes_harm_one_contact_and_no_more(box: Handle) -> None:
    box.set_limits(delete_scope="account")
    async with adapter(box) as red:
        first, then = person("a@x.org", "news", "cust"), person("a@x.org", "cust")
        other, others = person("b@x.org", "news", "cust"), person("b@x.org", "cust", city="Oslo")
        remote, remotes = await added(red, first), await added(red, other)
        both = await asyncio.gather(
            pushed(red, put(then, first, remote=remote)),
            pushed(red, put(others, other, remote=remotes)),
        )
        assert sorted(type(one).__name__ for one in both) == ["Applied", "Vanished"]
        assert red.findings["delete_scope"] == "account"
        lacking = [one.lacking for one in both if isinstance(one, Applied)]
        assert lacking == [("list:news not left: deletes there are account-wide",)]
        finding = (await red.check())[-1]
    async with adapter(box, {"delete_scope": "account"}) as red:  # remembered
        assert red.findings["delete_scope"] == "account"
    assert finding.level == "warning"
    assert len(at(box, "a@x.org")) + len(at(box, "b@x.org")) == 1
    assert box.snapshot()["resubscribed"] == []


async def test_a_move_is_seen_in_the_new_list_before_the_old_one_is_left(box: Handle) -> None:
    async with adapter(box) as red:
        first, then = person("a@x.org", "news"), person("a@x.org", "cust")
        remote = await added(red, first)
        outcome = await pushed(red, put(then, first, remote=remote))
        assert outcome == Applied({"ids": {}, "lists": {"cust": C}})
        assert red.findings["delete_scope"] == "list"

    assert held(box, "a@x.org") == [102]


async def test_without_anything_to_see_it_by_no_list_is_left(box: Handle) -> None:
    box.set_limits(repeated_add="double")  # another id in every list
    async with adapter(box) as red:
        first, then = person("a@x.org", "news"), person("a@x.org", "cust")
        remote = await added(red, first)
        outcome = await pushed(red, put(then, first, remote=remote))

    assert isinstance(outcome, Applied)
    assert outcome.lacking == (
        "list:news not left: whether a delete is account-wide could not be seen",
    )
    told = {"ids": {N: "5001"}, "lists": {"news": N, "cust": C}, "stays": [N]}
    assert outcome.remote == told


async def test_a_list_that_cannot_be_left_is_kept_up_to_date(box: Handle) -> None:
    async with adapter(box, delete_scope="account") as red:
        first, then = person("a@x.org", "news"), person("b@x.org", "cust", city="Oslo")
        remote = await added(red, first)
        outcome = await pushed(red, put(then, first, remote=remote))

    assert isinstance(outcome, Applied)
    assert outcome.lacking == ("list:news not left: deletes there are account-wide",)
    (one,) = at(box, "b@x.org")
    assert (one["lists"], one["fields"]["city"]) == ([101, 102], "Oslo")
    assert at(box, "a@x.org") == []


async def test_a_delete_of_what_was_gone_already_teaches_nothing(box: Handle) -> None:
    box.set_limits(delete_scope="account")
    async with adapter(box) as red:
        first, then = person("a@x.org", "news", "cust"), person("a@x.org", "cust")
        remote = await added(red, first)
        box.act("delete", email="a@x.org", list=101)
        assert isinstance(await pushed(red, put(then, first, remote=remote)), Applied)
        assert "delete_scope" not in red.findings


async def test_an_address_changes_by_id_also_where_the_lists_change_with_it(box: Handle) -> None:
    """To add the new address would make a second record, and leave the old one behind."""
    async with adapter(box, delete_scope="list") as red:
        first, then = person("a@x.org", "news"), person("b@x.org", "cust")
        remote = await added(red, first)
        assert isinstance(await pushed(red, put(then, first, remote=remote)), Applied)

    profiles = box.snapshot()["profiles"]
    assert {one: facts["email"] for one, facts in profiles.items()} == {"5001": "b@x.org"}
    assert held(box, "b@x.org") == [102]


def test_what_an_option_says_is_not_found_out() -> None:
    assert Scope("account", {"delete_scope": "list"}).is_known == "account"
    assert Scope("unknown", {}).is_known is None


# ── Lists ───────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("lists_as", ["map", "rows"])
async def test_lists_are_made_renamed_deleted(lists_as: str) -> None:
    async with serve("redcappi", lists_as=lists_as) as box:
        async with adapter(box) as red:
            assert await red.lists() == {}
            assert await red.create_list("List with list-id 9") == "101"
            assert await red.create_list("Søde Kunder & 50% + A/B ~ (Test)?") == "102"
            await red.rename_list("101", "ÜNÏ & Co + 100% ~*!'() #1")
            assert await red.lists() == {
                "101": "ÜNÏ & Co + 100% ~*!'() #1",
                "102": "Søde Kunder & 50% + A/B ~ (Test)?",
            }
            for _ in range(2):  # gone already is gone
                await red.delete_list("102")
            assert list(await red.lists()) == ["101"]
        assert box.state.ledger.violations == []


@pytest.mark.parametrize("refuses", ["400", "404"])
@pytest.mark.parametrize("errors_in", ["status", "body"])
async def test_a_name_that_the_path_refuses_goes_by_a_plain_one(
    refuses: str, errors_in: str
) -> None:
    options: dict[str, Any] = {
        "name_in_path": refuses,
        "errors_in": errors_in,
        "tells_list_id": False,
    }
    async with serve("redcappi", **options) as box:
        async with adapter(box) as red:
            box.next_fault("error", path="/v1/lists.json")  # the rename
            with pytest.raises(Ambiguous):
                await red.create_list("A/B")
            assert await red.create_list("A/B") == "101"
            assert await red.create_list("Plain one") == "102"
            assert await red.lists() == {"101": "A/B", "102": "Plain one"}
        assert box.state.ledger.violations == []


@pytest.mark.parametrize("name", ["x" * 101, "", "\x00"])
async def test_names_that_are_not_sent(box: Handle, name: str) -> None:
    async with adapter(box) as red:
        for refused in (red.create_list(name), red.rename_list("101", name)):
            with pytest.raises(Indivisible):
                await refused

    assert box.state.ledger.requests == 0


async def test_a_short_name_is_sent_and_warned_of(box: Handle) -> None:
    async with adapter(box) as red:
        with capture_logs() as logs:
            await red.create_list("VIPs")
            await red.create_list("Five.")

    assert [one["log_level"] for one in logs] == ["warning"]


async def test_a_refused_name_is_that_lists_own_fault(box: Handle) -> None:
    box.set_limits(shortest_name=5)
    async with adapter(box) as red:
        for refused in (red.create_list("abc"), red.rename_list("999", "Newer name")):
            with pytest.raises(Indivisible):
                await refused


async def test_a_list_that_exists_is_adopted() -> None:
    async with serve("redcappi", unique_names=True) as box:
        box.act("add_list", name="News of ours")
        async with adapter(box) as red:
            assert await red.create_list("News of ours") == "101"


async def test_a_lost_answer_to_an_add_list_is_doubt(box: Handle) -> None:
    async with adapter(box) as red:
        box.next_fault("cut_after")
        with pytest.raises(Ambiguous):
            await red.create_list("Lost one")
        assert "Lost one" in (await red.lists()).values()


async def test_check_names_lists_of_one_name(box: Handle) -> None:
    box.act("add_list", name="Third")
    async with adapter(box) as red:
        assert [one.level for one in await red.check()] == ["ok", "warning"]
        assert await red.learn() is None


async def test_check_names_wrong_keys_and_a_wrong_host(box: Handle) -> None:
    async with serve("clevertap") as other, adapter(box) as red:
        chosen = RedCappiOptions(base_url=other.url)
        key = RedCappiCredential(public_key="a", private_key="b")
        async with HttpWire(RedCappi, chosen, lambda: key, Permits(RedCappi.traits.meters)) as wire:
            (found,) = await RedCappi(wire, chosen, {}).check()
        assert found.level == "error"
        box.set_limits(keys={box.state.demo["public_key"]: "another"})
        (found,) = await red.check()
        assert (found.exit_code, "Extra" in found.remedy) == (77, True)
        box.state.ledger.violations.clear()  # a hash made with a key that was replaced


def test_whoever_is_new_is_planned_as_the_long_way_would(monkeypatch: pytest.MonkeyPatch) -> None:
    """There is a short way for them, for in a first backfill that is everybody."""
    dice, rules, taken = random.Random(5), Rules(), 0
    is_new = redcappi_translate._is_new
    for _ in range(3000):
        want = Person(
            dice.choice(["a@x.org", "", "Ä@x.org", "no"]),
            {
                "first_name": dice.choice(["A", None, "\x00b"]),
                "dob": dice.choice(["1990-02-01", "x"]),
            },
            {one: one * 2 for one in "abc" if dice.random() < 0.5},
            dice.random() < 0.8,
        )
        was = None if dice.random() < 0.7 else Person("a@x.org", {}, {"a": "aa"}, True)
        change = Change(
            "1", dice.choice([Verb.PUT] * 5 + [Verb.WITHDRAW]), want, was,
            dice.choice([None, {}, {"ids": {"aa": "9"}}]), dice.random() < 0.7,
            dice.random() < 0.2, dice.random() < 0.2, ("a",) if dice.random() < 0.1 else (),
        )  # fmt: skip
        monkeypatch.setattr(redcappi_translate, "_is_new", is_new)
        taken += is_new(change)
        told = planned(change, rules)
        monkeypatch.setattr(redcappi_translate, "_is_new", lambda _: False)
        assert told == planned(change, rules)
    assert taken > 300
