"""CleverCampaign's adapter against the strict stand-in: every salt is new, nobody is made twice."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any
from urllib.parse import parse_qs

import orjson
import pytest
from adapters import Permits, drop, pushed, put
from pydantic import ValidationError

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
    OptedOut,
    Page,
    Person,
    Postponed,
    Rejected,
    Request,
    Seen,
    Vanished,
    Verb,
)
from syncd.providers.clevercampaign import CleverCampaign
from syncd.providers.clevercampaign_answers import decoded, judged, made_id, records, words
from syncd.providers.clevercampaign_settings import CleverCampaignCredential, CleverCampaignOptions
from syncd.providers.clevercampaign_sign import fresh_salt, signature
from syncd.providers.clevercampaign_translate import content, email_fault, form, tidy
from syncd.providers.clevercampaign_work import HalfDone, halfway
from syncd.sandbox import Handle, serve
from syncd.sandbox.clevercampaign import PUBLIC, SECRET
from syncd.wire import HttpWire

# ── Signature: section 2 ────────────────────────────────────────────────────────────────────


def test_every_request_has_a_salt_of_its_own_and_the_signature_of_it() -> None:
    key = CleverCampaignCredential(api_key=PUBLIC, secret_key=SECRET)
    request = Request("POST", "/contact", b"email=a%40x.org")
    signed = [CleverCampaign.sign(key, request) for _ in range(50)]

    assert len({one["salt"] for one in signed}) == 50
    for one in signed:
        assert one["publickey"] == PUBLIC
        assert re.fullmatch(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", one["salt"])
        assert one["signature"] == signature(SECRET, one["salt"])
        assert one["signature"].endswith("%3d")
    assert fresh_salt() != fresh_salt()


def test_a_form_is_what_c_sharp_posts() -> None:
    """Which characters are escaped, and the case of escapes, is all the same to a decoder."""
    theirs = (
        "email=S%c3%b8ren%2bnyt%40example.dk&firstname=S%c3%b8ren+%26+%22%c3%85se%22"
        "&lastname=%7eO'Brien*+(50%25)+%f0%9f%98%80%0a%3d%2f%3f-_.!"
    )
    fields = {
        "email": "Søren+nyt@example.dk",
        "firstname": 'Søren & "Åse"',
        "lastname": "~O'Brien* (50%) 😀\n=/?-_.!",
    }

    assert parse_qs(form(fields).decode()) == parse_qs(theirs)
    assert b" " not in form(fields)
    assert b"nyt%40" in form(fields)
    assert b"S%C3%B8ren%2Bnyt" in form(fields)


# ── The stand-in, the wire, the adapter ─────────────────────────────────────────────────────


@asynccontextmanager
async def adapter(box: Handle, secret: str = SECRET, **options: Any) -> AsyncIterator[Any]:
    chosen = CleverCampaignOptions(base_url=box.url + box.state.limits.prefix, **options)
    key = CleverCampaignCredential(api_key=PUBLIC, secret_key=secret)
    permits = Permits(CleverCampaign.meters(chosen))
    async with HttpWire(CleverCampaign, chosen, lambda: key, permits, timeout=2) as wire:
        yield CleverCampaign(wire, chosen, {})


@pytest.fixture
async def box() -> AsyncIterator[Handle]:
    """A stand-in; the test fails if it was ever used against its rules."""
    async with serve("clevercampaign") as box:
        yield box
        clean(box)


def clean(box: Handle) -> None:
    state = box.snapshot()
    assert state["violations"] == []
    assert (state["duplicates"], state["repeated_creates"]) == ([], [])


def person(
    email: str = "ann@x.org", lists: Any = (), subscribed: bool = True, **fields: Any
) -> Person:
    there = lists if isinstance(lists, dict) else {one: one for one in lists}
    return Person(email, fields, there, subscribed)


async def created(clever: Any, want: Person) -> Any:
    outcome = await pushed(clever, put(want))
    assert isinstance(outcome, Applied), outcome
    return outcome.remote


def there(box: Handle) -> dict[str, Any]:
    """Contacts by address."""
    return {one["email"]: one for one in box.snapshot()["profiles"].values()}


def writes(box: Handle) -> list[str]:
    told = [one["what"] for one in box.state.ledger.history]
    return [one for one in told if one not in ("act", "rejected")]


async def scanned(clever: Any, cursor: Any = None) -> list[Page]:
    return [page async for page in clever.scan(None, cursor)]


def met(pages: list[Page]) -> list[str | None]:
    return [one.email for page in pages for one in page.records]


async def reasons(clever: Any) -> str:
    return " | ".join(f"{one.level} {one.subject}: {one.says}" for one in await clever.check())


# ── Declarations ────────────────────────────────────────────────────────────────────────────


def test_what_it_says_of_itself() -> None:
    traits = CleverCampaign.traits
    assert not traits.can & (Can.REPEAT | Can.OPT_OUT | Can.JOBS | Can.LEARNS)
    assert (traits.batch, traits.key) == (1, "remote id")


async def test_an_adapter_says_what_this_account_can(box: Handle) -> None:
    async with adapter(box) as clever:
        await clever.learn()
        assert not clever.traits.can & Can.LISTS
        assert clever.traits.can & Can.SCAN
        assert clever.traits.can & Can.FIND
    async with adapter(box, lists_enabled=True, find_param="") as clever:
        assert clever.traits.can & Can.LISTS
        assert clever.traits.can & Can.RENAME_LIST
        assert not clever.traits.can & (Can.FIND | Can.SEES_GONE)
    box.set_limits(paging="404")
    async with adapter(box) as clever:
        await clever.learn()
        assert clever.traits.can & (Can.FIND | Can.SCAN) == Can.FIND


@pytest.mark.parametrize(
    "options",
    [
        {"contact_path": "/contact"},
        {"contact_path": "contact?x=1"},
        {"member_path": "members"},
        {"update_verb": "DELETE"},
        {"find_param": "e mail"},
        {"first_page": 2},
        {"page_size": 1},
        {"email_field": " "},
        {"status_subscribed": "Off", "status_unsubscribed": "off"},
        {"no_such": 1},
    ],
)
def test_wrong_options(options: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        CleverCampaignOptions(**options)


def test_a_credential_is_stripped_and_hidden() -> None:
    key = CleverCampaignCredential(api_key=" AbC\n", secret_key="secret é")

    assert CleverCampaign.scope(CleverCampaignOptions(), key) == "AbC"
    assert "secret é" not in f"{key!r} {key} {key.model_dump()}"
    for name, bad in [("api_key", "ä"), ("api_key", " "), ("secret_key", ""), ("api_key", "a\nb")]:
        with pytest.raises(ValidationError):
            CleverCampaignCredential(**{"api_key": "a", "secret_key": "b", name: bad})


def test_the_base_url() -> None:
    assert CleverCampaign.base_url(CleverCampaignOptions()) == "https://clevercampaign.com/api"
    assert CleverCampaign.base_url(CleverCampaignOptions(base_url="http://x/y")) == "http://x/y"


# ── Values: sections 3 and 6 ────────────────────────────────────────────────────────────────


def test_every_managed_field_is_sent_and_what_has_no_place_is_told() -> None:
    lacking: list[str] = []
    want = person("Ann@X.org", firstname=None, lastname="É", n=7, b=True, Status="x", ID="1")

    assert content(want, CleverCampaignOptions(), lacking) == {
        "email": "Ann@X.org", "firstname": "", "lastname": "É", "n": "7", "b": "true",
    }  # fmt: skip
    assert [one.partition(" ")[0] for one in lacking] == ["field:Status", "field:ID"]


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("e\u0301", "é"),
        ("a\ud83db", "ab"),
        ("a\tb\x00\x7f", "a\tb"),
        ("a\r\nb\rc\u2028d", "a\nb\nc\nd"),
        ("\u00a0 ", "\u00a0 "),
    ],
)
def test_hygiene(text: str, clean: str) -> None:
    assert tidy(text) == clean


@pytest.mark.parametrize("email", ["", "ann", "a@b", "a b@c.de", "a@b.de\n", "a\x00@b.de"])
def test_what_is_no_address(email: str) -> None:
    assert email_fault(email)


# ── Answers: sections 3 and 7 ───────────────────────────────────────────────────────────────

GET, POST = Request("GET", "/contact"), Request("POST", "/contact")
O = CleverCampaignOptions()  # noqa: E741  the table as it is


def answer(body: Any, status: int = 200, **headers: str) -> Answer:
    raw = body if isinstance(body, bytes) else orjson.dumps(body)
    return Answer(status, {k.replace("_", "-"): v for k, v in headers.items()}, raw)


@pytest.mark.parametrize(
    ("body", "ids"),
    [
        ([], []),
        (None, []),
        (b"", []),
        (b"<contacts/>", []),
        ({"contacts": []}, []),
        ({"data": [], "total": 0}, []),
        ([{"id": 1}, {"ID": "b"}], ["1", "b"]),
        ({"Id": 7, "Email": "a@x.org"}, ["7"]),
        ({"contact": {"contactid": 7}}, ["7"]),
        ({"data": [{"id": 1}], "page": 1}, ["1"]),
        ({"data": {"contact": {"id": 1}}}, ["1"]),
        ([{"contact": {"id": 1}}, {"contact": {"id": 2}}], ["1", "2"]),
        (b"<contact><id>1</id><email>a@x.org</email></contact>", ["1"]),
        (b"<contacts><contact><Id>1</Id></contact></contacts>", ["1"]),
        (b"<contacts><contact><id>1</id></contact><contact><id>2</id></contact></contacts>",
         ["1", "2"]),
        (b'\xef\xbb\xbf <?xml version="1.0"?><a:contact xmlns:a="x"><a:id>1</a:id></a:contact>',
         ["1"]),
    ],
)  # fmt: skip
def test_contacts_are_read_in_any_shape(body: Any, ids: list[str]) -> None:
    found = records(answer(body), O)
    assert found is not None
    assert [str(next(iter(one.values()))) for one in found] == ids


@pytest.mark.parametrize(
    "body",
    [
        {"Message": "No"},
        {"Message": "No", "MessageDetail": "not"},
        {"error": {"message": "No"}},
        [{"email": "a@x.org"}],
        ["a"],
        "text",
        7,
        b"<html><body>CleverCampaign</body></html>",
        b"<!DOCTYPE html>\n<p>",
        b"<Error><Message>No</Message></Error>",
        b"<contacts><contact>",
        b"OK",
        b"{]",
    ],
)
def test_what_is_not_contacts_is_not_taken_for_none(body: Any) -> None:
    assert records(answer(body), O) is None


def test_an_envelope_that_was_named_is_looked_for() -> None:
    named = CleverCampaignOptions(envelope="Result")
    body = {"other": [{"id": 9}], "result": [{"id": 1}]}
    assert [one["id"] for one in records(answer(body), named) or ()] == [1]
    assert records(answer([{"id": 1}]), named) == [{"id": 1}]
    assert records(answer({"data": [{"id": 1}]}), named) is None


def test_xml_is_read_without_entities_and_without_a_document_type(tmp_path: Any) -> None:
    secret = tmp_path / "secret"
    secret.write_text("s3cret")
    for dtd in (f'<!DOCTYPE c [<!ENTITY x SYSTEM "file://{secret}">]>',
                '<!DOCTYPE c [<!ENTITY x "s3cret">]>'):  # fmt: skip
        body = f"<?xml version='1.0'?>{dtd}<contact><id>1</id><email>&x;</email></contact>".encode()
        assert records(answer(body), O) is None
        assert "s3cret" not in str(decoded(answer(body)))


@pytest.mark.parametrize(
    ("made", "found"),
    [
        (answer({"id": 7}, 201), "7"),
        (answer(7, 201), "7"),
        (answer("17", 201), "17"),
        (answer(b"17"), "17"),
        (answer({"contact": 7}), "7"),
        (answer(b"<id>7</id>"), "7"),
        (answer("85B0C3C5-BE9B-4684-9DF7-FF3ADB7D35F1"), "85B0C3C5-BE9B-4684-9DF7-FF3ADB7D35F1"),
        (answer(b"", 201, location="https://clevercampaign.com/api/contact/7?x=1"), "7"),
        (answer(b"", 201, location="/login"), None),
        (answer(b"", 201), None),
        (answer("created"), None),
        (answer({"Message": "created"}), None),
    ],
)
def test_the_id_of_what_was_made(made: Answer, found: str | None) -> None:
    assert made_id(made, O, "contact") == found


@pytest.mark.parametrize(
    ("request_", "told", "kind"),
    [
        (POST, answer({}, 415), Misconfigured),
        (GET, answer({}, 406), Misconfigured),
        (POST, answer({}, 429), Transient),
        (POST, answer({}, 408), Ambiguous),
        (GET, answer({}, 408), Transient),
        (POST, answer(b"<html>"), Unintelligible),
    ],
)
def test_what_an_answer_means_to_all(
    request_: Request, told: Answer, kind: type[ProviderError]
) -> None:
    assert type(judged(request_, told)) is kind


@pytest.mark.parametrize("status", [400, 404, 405, 409, 410, 422, 501])
def test_what_an_answer_means_to_one_contact_is_left_to_the_adapter(status: int) -> None:
    assert judged(POST, answer({}, status)) == "ok"
    assert judged(GET, answer(b"<html>")) is None
    assert judged(POST, answer({}, 401)) is None
    assert judged(POST, answer({}, 503)) is None


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"Message": "Bad zip"}, "Bad zip"),
        (b"<Error><Message>Bad zip</Message></Error>", "Bad zip"),
        ({"error": {"message": "Bad zip"}}, "Bad zip"),
        ({"errors": ["Bad zip", "and more"]}, "Bad zip"),
        (b"Bad zip", "Bad zip"),
        ("Bad ann@x.org", "Bad <address>"),
        (b"", "no reason given"),
        (b"<html>", "a web page"),
    ],
)
def test_the_providers_words(body: Any, said: str) -> None:
    assert words(answer(body, 400)) == said


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        (Transient("x", after=7), Ambiguous),
        (Refused("x"), Ambiguous),
        (Misconfigured("x"), HalfDone),
        (Indivisible("x"), Unintelligible),
        (Ambiguous("x"), Ambiguous),
    ],
)
def test_a_fault_half_way_says_that_something_was_applied(
    fault: ProviderError, kind: type[ProviderError]
) -> None:
    told = halfway(fault)
    assert (type(told), told.may_be_applied, told.after) == (kind, True, fault.after)


# ── Create, update ──────────────────────────────────────────────────────────────────────────

SHAPES: list[dict[str, Any]] = [
    {},
    {"form": "xml"},
    {"form": "xml", "single": "wrapped", "ids": "guid"},
    {"single": "array", "ids": "guid", "id_name": "contactid"},
    {"single": "wrapped", "id_name": "Id"},
    {"create_answer": "id"},
    {"create_answer": "id", "form": "xml", "ids": "guid"},
    {"create_answer": "location"},
    {"create_answer": "nothing"},
    {"search": "404", "past_the_end": "404", "put": "partial"},
    {"past_the_end": "last", "compares": "decoded", "delete_status": 200},
]
NAMES: dict[str, Any] = {
    "contact_path": "v2/person", "find_param": "mail", "page_param": "p", "size_param": "n",
    "first_page": 0, "email_field": "Mail", "status_field": "State", "status_subscribed": "on",
    "status_unsubscribed": "off", "envelope": "Result", "update_verb": "PATCH",
}  # fmt: skip


@pytest.mark.parametrize("limits", SHAPES, ids=str)
async def test_a_contact_is_made_changed_found_and_deleted_in_every_shape(
    limits: dict[str, Any],
) -> None:
    async with serve("clevercampaign", **limits) as box, adapter(box) as clever:
        assert "error" not in await reasons(clever)
        ann = person(firstname="Zoë <&>", lastname="O'\"Hara\n2")
        remote = await created(clever, ann)
        assert remote == {"id": next(iter(box.snapshot()["profiles"]))}
        assert there(box)["ann@x.org"]["fields"] == ann.fields

        moved = person("Ann@Y.org", firstname="Zoë", lastname=None)
        outcome = await pushed(clever, put(moved, ann, remote=remote))
        assert outcome == Applied(remote)
        assert there(box)["Ann@Y.org"]["fields"] == {"firstname": "Zoë", "lastname": ""}

        (found,) = await clever.find([put(moved, moved)])
        assert (found.remote, found.email, found.opted_out) == (remote, "ann@y.org", None)
        assert met(await scanned(clever)) == ["ann@y.org"]
        assert await pushed(clever, drop(Verb.ERASE, moved, remote)) == Applied(
            {**remote, "gone": True}
        )
        assert (there(box), await scanned(clever)) == ({}, [])
        assert (await clever.find([put(moved, moved, remote=remote)]))[0].remote is None
        clean(box)


@pytest.mark.parametrize("form", ["json", "xml"])
async def test_every_name_may_be_another_one(form: str) -> None:
    limits: dict[str, Any] = {**NAMES, "form": form, "id_name": "Number", "prefix": "/rest"}
    async with (
        serve("clevercampaign", **limits) as box,
        adapter(box, **NAMES, id_field="Number", write_unsubscribe=True) as clever,
    ):
        for number in range(5):
            await created(clever, person(f"p{number}@x.org", firstname="A"))
        assert met(await scanned(clever)) == [f"p{number}@x.org" for number in range(5)]
        (found,) = await clever.find([put(person("P3@x.org"))])
        silent = person("p3@x.org", subscribed=False)
        assert isinstance(
            await pushed(clever, put(silent, person("p3@x.org"), remote=found.remote)), Applied
        )
        assert there(box)["p3@x.org"]["mailable"] is False
        (found,) = await clever.find([put(person("p3@x.org"))])
        assert found.opted_out == OptedOut(evidence={"State": "off", "id": found.remote["id"]})
        clean(box)


async def test_a_create_looks_first_and_an_update_does_not(box: Handle) -> None:
    async with adapter(box) as clever:
        await clever.learn()
        before = box.state.ledger.requests
        remote = await created(clever, person())
        assert box.state.ledger.requests == before + 2
        await pushed(clever, put(person(firstname="A"), person(), remote=remote))
        assert box.state.ledger.requests == before + 3


async def test_whoever_is_there_is_adopted(box: Handle) -> None:
    box.act("add", email="Ann@X.org")
    async with adapter(box) as clever:
        assert await created(clever, person(firstname="Ann")) == {"id": "501"}
    assert there(box) == {
        "ann@x.org": {
            "email": "ann@x.org", "fields": {"firstname": "Ann"}, "mailable": True, "writes": 2,
            "lists": [],
        }
    }  # fmt: skip


async def test_whoever_said_no_there_is_neither_made_nor_written(box: Handle) -> None:
    box.act("add", email="ann@x.org")
    box.act("unsubscribe", email="ann@x.org")
    no = OptedOut(evidence={"status": "unsubscribed", "id": "501"})
    async with adapter(box) as clever:
        assert await pushed(clever, put(person())) == no
        assert (
            await pushed(clever, put(person(firstname="A"), person(), remote={"id": "501"})) == no
        )
        (page,) = await scanned(clever)
        assert page.records == [
            Seen(
                "501",
                "ann@x.org",
                False,
                evidence={"status": "unsubscribed"},
                fields={
                    "id": "501",
                    "email": "ann@x.org",
                    "firstname": "A",
                    "status": "unsubscribed",
                },
            )
        ]
    assert box.snapshot()["resubscribed"] == []


async def test_doubles_there_are_told_and_the_lowest_of_them_is_kept() -> None:
    """In whatever order they are shown; one that is ours by now stays so."""
    async with serve("clevercampaign", first_id=99) as box, adapter(box) as clever:
        for _ in range(2):
            box.act("add", email="ann@x.org")
        shown = box.state.data
        shown.contacts = dict(reversed(shown.contacts.items()))
        outcome = await pushed(clever, put(person()))
        assert outcome == Applied({"id": "99"}, ("double: 2 contacts there have this address",))
        (found,) = await clever.find([put(person(), person(), remote={"id": "100"})])
        assert found.remote == {"id": "100"}


async def test_the_one_who_must_not_be_created_is_not(box: Handle) -> None:
    async with adapter(box) as clever:
        assert isinstance(await pushed(clever, put(person(), may_create=False)), Absent)
        silent = put(person(subscribed=False), may_create=False)
        assert isinstance(await pushed(clever, silent), Absent)
    assert writes(box) == []


async def test_one_bad_record_is_refused_in_the_providers_words(box: Handle) -> None:
    box.set_limits(refused=["bad@x.org"], most_contacts=1)
    async with adapter(box) as clever:
        bad = put(person("bad@x.org"))
        assert await pushed(clever, bad) == Rejected("The e-mail is not valid", 400)
        assert isinstance(await pushed(clever, put(person("nobody"))), Rejected)
        await created(clever, person())
        full = await pushed(clever, put(person("bob@x.org")))
        assert full == Rejected("Your plan does not allow more contacts", 400)


async def test_lists_are_lacking_and_alone_cost_no_request(box: Handle) -> None:
    async with adapter(box) as clever:
        outcome = await pushed(clever, put(person(lists=["news"])))
        assert isinstance(outcome, Applied)
        assert outcome.lacking == ("list:news not kept: lists_enabled is off",)
        before = box.state.ledger.requests
        more = put(person(lists=["news", "vip"]), person(lists=["news"]), remote=outcome.remote)
        told = await pushed(clever, more)
        assert isinstance(told, Applied)
        assert len(told.lacking) == 2
        assert box.state.ledger.requests == before
        forced = put(person(lists=["news"]), person(lists=["news"]), remote=outcome.remote)
        await pushed(clever, forced)
        assert box.state.ledger.requests == before + 1


# ── Gone ────────────────────────────────────────────────────────────────────────────────────


async def test_who_is_gone_there_is_never_made_again_unasked(box: Handle) -> None:
    async with adapter(box) as clever:
        remote = await created(clever, person())
        box.act("delete", email="ann@x.org")
        update = put(person(firstname="A"), person(), remote=remote)
        assert await pushed(clever, update) == Vanished({"id": "501", "status": 404})
        assert there(box) == {}
        back = update._replace(resubscribe=True)
        outcome = await pushed(clever, back)
        assert outcome == Applied({"id": "502"})


async def test_who_was_made_anew_there_is_adopted(box: Handle) -> None:
    async with adapter(box) as clever:
        remote = await created(clever, person())
        box.act("delete", email="ann@x.org")
        box.act("add", email="ann@x.org")
        update = put(person(firstname="A"), person(), remote=remote)
        assert await pushed(clever, update) == Applied({"id": "502"})


async def test_without_a_search_an_id_that_is_gone_is_told_by_reading_others(box: Handle) -> None:
    async with adapter(box, find_param="") as clever:
        ann = await created(clever, person())
        await created(clever, person("bob@x.org"))
        box.act("delete", email="ann@x.org")
        update = put(person(firstname="A"), person(), remote=ann)
        assert isinstance(await pushed(clever, update), Vanished)
        box.set_limits(items=False)
    async with adapter(box, find_param="") as clever:
        outcome = await pushed(clever, update)
        assert isinstance(outcome, Rejected)
        assert "update_verb or contact_path" in outcome.reason


async def test_a_wrong_verb_is_not_somebody_gone(box: Handle) -> None:
    async with adapter(box) as clever:
        remote = await created(clever, person())
    box.set_limits(update_verb="PATCH")
    async with adapter(box) as clever:
        outcome = await pushed(clever, put(person(firstname="A"), person(), remote=remote))
        assert isinstance(outcome, Rejected)
        assert outcome.reason.startswith("PUT answered 405")
        assert outcome.reason.endswith("correct update_verb or contact_path")


# ── A no, leaving, erasure ──────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("verb", [Verb.WITHDRAW, Verb.DELETE, Verb.ERASE])
async def test_whoever_leaves_is_deleted_and_twice_is_once(box: Handle, verb: Verb) -> None:
    async with adapter(box) as clever:
        remote = await created(clever, person())
        for _ in range(2):
            outcome = await pushed(clever, drop(verb, person(), remote))
            assert outcome == Applied({**remote, "gone": True})
        assert there(box) == {}
        unknown = drop(verb, person("bob@x.org"))
        assert isinstance(await pushed(clever, unknown), Applied)


async def test_a_no_is_conveyed_by_delete_and_not_said_again(box: Handle) -> None:
    async with adapter(box) as clever:
        remote = await created(clever, person())
        silent = person(subscribed=False)
        outcome = await pushed(clever, put(silent, person(), remote=remote))
        assert outcome == Applied({"id": "501", "gone": True})
        assert there(box) == {}
        before = box.state.ledger.requests
        again = put(person(subscribed=False, firstname="B"), silent, remote=outcome.remote)
        assert await pushed(clever, again) == Applied()
        assert box.state.ledger.requests == before
        back = put(person(firstname="B"), silent, remote=outcome.remote, resubscribe=True)
        assert await pushed(clever, back) == Applied({"id": "502"})
        assert there(box)["ann@x.org"]["mailable"] is True


async def test_a_no_of_somebody_we_never_met_is_conveyed_too(box: Handle) -> None:
    box.act("add", email="ann@x.org")
    async with adapter(box) as clever:
        silent = put(person(subscribed=False), may_create=False)
        outcome = await pushed(clever, silent)
        assert isinstance(outcome, Applied)
        assert there(box) == {}


async def test_a_no_that_delete_does_not_take_is_told(box: Handle) -> None:
    async with adapter(box) as clever:
        remote = await created(clever, person())
        box.set_limits(deletes=False)
        outcome = await pushed(clever, put(person(subscribed=False), person(), remote=remote))
        assert isinstance(outcome, Applied)
        (lacking,) = outcome.lacking
        assert lacking.startswith("subscription: the no is not conveyed: DELETE answered 405")
        assert "correct contact_path" in lacking
        left = await pushed(clever, drop(Verb.WITHDRAW, person(), remote))
        assert isinstance(left, Rejected)


async def test_a_404_is_no_delete_where_a_search_shows_the_contact(box: Handle) -> None:
    """Another path than the one that contacts are deleted by."""
    async with adapter(box) as clever:
        await created(clever, person())
        wrong = {"id": "999"}
        outcome = await pushed(clever, put(person(subscribed=False), person(), remote=wrong))
        assert isinstance(outcome, Applied)
        assert there(box) == {}  # whoever has the address is the one to be silenced


async def test_whoever_leaves_takes_nobody_else_along(box: Handle) -> None:
    """Gone by another hand, and somebody was made there under the address: that is not ours."""
    async with adapter(box) as clever:
        remote = await created(clever, person())
        for deed in ("delete", "add"):
            box.act(deed, email="ann@x.org")
        for verb in (Verb.WITHDRAW, Verb.DELETE):
            assert isinstance(await pushed(clever, drop(verb, person(), remote)), Applied)
        assert list(there(box)) == ["ann@x.org"]


async def test_by_status_where_the_operator_says_so(box: Handle) -> None:
    async with adapter(box, write_unsubscribe=True) as clever:
        remote = await created(clever, person(firstname="A"))
        was = person(firstname="A")
        silent = person(firstname="A", subscribed=False)
        assert await pushed(clever, put(silent, was, remote=remote)) == Applied(remote)
        one = there(box)["ann@x.org"]
        assert (one["mailable"], one["fields"]) == (False, {"firstname": "A"})
        on = put(was, silent, remote=remote, resubscribe=True)
        assert await pushed(clever, on) == Applied(remote)
        assert there(box)["ann@x.org"]["mailable"] is True
        assert await pushed(clever, drop(Verb.WITHDRAW, was, remote)) == Applied()
        one = there(box)["ann@x.org"]
        assert (one["mailable"], one["fields"]) == (False, {"firstname": "A"})
        await pushed(clever, drop(Verb.DELETE, silent, remote))
        assert there(box) == {}


async def test_a_newer_consent_that_no_status_may_tell_is_reported(box: Handle) -> None:
    async with adapter(box) as clever:
        remote = await created(clever, person())
        box.act("unsubscribe", email="ann@x.org")
        on = put(person(), person(subscribed=False), remote=remote, resubscribe=True)
        outcome = await pushed(clever, on)
        assert outcome == Applied(remote, ("resubscription: still unsubscribed there",))


async def test_an_erasure_takes_doubles_and_is_read_back() -> None:
    async with serve("clevercampaign") as box, adapter(box) as clever:
        for email in ("ann@x.org", "ann@x.org", "bob@x.org"):
            box.act("add", email=email)
        erase = drop(Verb.ERASE, person(), {"id": "501"})
        since = datetime.now(UTC)
        assert "with id 501" in (await clever.erased(erase, since)).by_hand
        await pushed(clever, erase)
        assert list(there(box)) == ["bob@x.org"]
        assert (await clever.erased(erase, since)).confirmed
        assert (await clever.erased(drop(Verb.ERASE, None), since)).confirmed
        box.set_limits(items=False)
    async with serve("clevercampaign", items=False) as box, adapter(box) as clever:
        assert not (await clever.erased(erase, since)).confirmed  # nobody's id can be read


# ── Accounts that cannot be read: section 3 ─────────────────────────────────────────────────

BLIND: dict[str, Any] = {"search": "refused", "paging": "404", "items": False}


async def test_creates_wait_until_the_operator_says_that_nobody_is_there() -> None:
    async with serve("clevercampaign", **BLIND) as box:
        async with adapter(box) as clever:
            outcome = await pushed(clever, put(person()))
            assert isinstance(outcome, Postponed)
            assert "account_is_empty" in outcome.reason
            assert (outcome.after, writes(box)) == (120.0, [])
            assert clever.traits.can & (Can.FIND | Can.SCAN | Can.SEES_GONE) == Can.NOTHING
            silent = put(person(subscribed=False), may_create=False)
            assert isinstance(await pushed(clever, silent), Postponed)
            said = await reasons(clever)
            assert "warning account: creates wait" in said
            assert "find_param 'email' is not taken" in said
            assert "error" not in said
        async with adapter(box, account_is_empty=True) as clever:
            remote = await created(clever, person())
            update = put(person(firstname="A"), person(), remote=remote)
            assert await pushed(clever, update) == Applied(remote)
            assert isinstance(await pushed(clever, silent), Absent)
            await pushed(clever, put(person(subscribed=False), person(), remote=remote))
        assert there(box) == {}
        assert box.snapshot()["violations"] == []


async def test_a_lost_create_there_is_a_doubt_and_lost_updates_are_sent_again() -> None:
    async with (
        serve("clevercampaign", **BLIND) as box,
        adapter(box, account_is_empty=True) as clever,
    ):
        await clever.learn()
        box.next_fault("cut_after")
        with pytest.raises(Ambiguous):
            await pushed(clever, put(person()))
        remote = await created(clever, person("bob@x.org"))
        update = put(person("bob@x.org", firstname="B"), person("bob@x.org"), remote=remote)
        silent = put(person("bob@x.org", subscribed=False), person("bob@x.org"), remote=remote)
        for change in (update, silent):
            box.next_fault("cut_after")
            assert isinstance(await pushed(clever, change), Postponed)
        told = await pushed(clever, silent)  # 404 now; whether it is gone cannot be read
        assert isinstance(told, Applied)
        assert told.lacking[0].startswith(
            "subscription: the no is not conveyed: DELETE answered 404"
        )
        assert list(there(box)) == ["ann@x.org"]


async def test_without_an_id_nothing_can_be_done_there() -> None:
    async with (
        serve("clevercampaign", **BLIND, create_answer="nothing") as box,
        adapter(box, account_is_empty=True) as clever,
    ):
        remote = await created(clever, person())
        assert remote == {}
        update = put(person(firstname="A"), person(), remote=remote)
        assert isinstance(await pushed(clever, update), Rejected)
        silent = await pushed(clever, put(person(subscribed=False), person(), remote=remote))
        assert isinstance(silent, Applied)
        assert silent.lacking[0].startswith("subscription:")
        assert isinstance(await pushed(clever, drop(Verb.WITHDRAW, person(), remote)), Rejected)
        with pytest.raises(Transient):
            await clever.find([update])


async def test_a_search_that_is_ignored_is_told_from_one_that_works() -> None:
    async with serve("clevercampaign", search="ignored") as box, adapter(box) as clever:
        assert clever.traits.can & Can.FIND
        await created(clever, person())  # as long as nobody is there, nothing tells
        bob = put(person("bob@x.org"))
        assert isinstance(await pushed(clever, bob), Applied)
        assert not clever.traits.can & Can.FIND
        assert clever.traits.can & Can.SCAN
        assert "find_param 'email' is ignored there" in await reasons(clever)
        (found,) = await clever.find([bob])  # by paging, once
        assert found.remote == {"id": "502"}
        assert sorted(there(box)) == ["ann@x.org", "bob@x.org"]


async def test_what_has_worked_once_is_not_given_up_for_a_passing_fault(box: Handle) -> None:
    async with adapter(box) as clever:
        remote = await created(clever, person())
        for fault in ("html", "malformed", "truncated_json", "garbage"):
            for _ in range(4):
                box.next_fault(fault)
                with pytest.raises(Transient):
                    await clever.find([put(person())])
                box.next_fault(fault)
                with pytest.raises(Transient):
                    await scanned(clever)
        assert clever.traits.can & Can.FIND
        assert clever.traits.can & Can.SCAN
        assert (await clever.find([put(person())]))[0].remote == remote
        assert await pushed(clever, put(person("b@x.org"))) == Applied({"id": "502"})


async def test_a_web_page_for_every_id_is_no_contact_and_no_end_of_looking(box: Handle) -> None:
    """Some servers answer any path they do not know with their documentation."""
    async with adapter(box) as clever:
        box.act("add", email="ann@x.org")
        await clever.learn()
        box.set_faults(html=1.0, paths=["/contact/501"])
        for _ in range(2):
            (found,) = await clever.find([put(person(), person(), remote={"id": "501"})])
            assert found.remote == {"id": "501"}  # by the search
        assert box.state.ledger.by_path["/contact/501"] == 3
        assert (
            "cannot be read back"
            in (
                await clever.erased(drop(Verb.ERASE, None, {"id": "501"}), datetime.now(UTC))
            ).by_hand
        )


# ── Pages: section 4 ────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("past_the_end", ["empty", "404", "last"])
@pytest.mark.parametrize("cap", [None, 3, 10])
@pytest.mark.parametrize("count", [0, 1, 2, 3, 10, 11, 25])
async def test_everybody_is_seen_whatever_the_end_looks_like(
    past_the_end: str, cap: int | None, count: int
) -> None:
    emails = [f"p{number}@x.org" for number in range(count)]
    async with serve("clevercampaign", past_the_end=past_the_end, page_cap=cap) as box:
        for email in emails:
            box.act("add", email=email)
        async with adapter(box, page_size=10) as clever:
            pages = await scanned(clever)
            assert met(pages) == emails
            for page in pages:  # from any page on after a crash
                after = met(await scanned(clever, page.cursor))
                assert after == emails[len(emails) - len(after) :]
                assert set(met([page])) <= set(after)
        assert box.snapshot()["violations"] == []


async def test_a_server_that_takes_no_page_numbers_is_not_believed_to_show_all() -> None:
    async with serve("clevercampaign", paging="ignored", page_cap=5) as box:
        for number in range(9):
            box.act("add", email=f"p{number}@x.org")
        async with adapter(box) as clever:
            with pytest.raises(Misconfigured, match="page_param"):
                await scanned(clever)
            assert not clever.traits.can & Can.SCAN
            assert clever.traits.can & Can.FIND
            assert "'page' is ignored" in await reasons(clever)
        box.set_limits(page_cap=None)
        async with adapter(box, page_param="") as clever:  # as the operator says: all at once
            assert len(met(await scanned(clever))) == 9


@pytest.mark.parametrize("paging", ["404", "page"])
async def test_pages_that_do_not_work_are_no_empty_account(paging: str) -> None:
    async with serve("clevercampaign", paging=paging) as box, adapter(box) as clever:
        with pytest.raises(Misconfigured, match="GET /contact"):
            await scanned(clever)
        assert not clever.traits.can & Can.SCAN


# ── Lists, where they are switched on ───────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "limits",
    [
        {},
        {"form": "xml", "create_answer": "nothing", "repeated_join": "200"},
        {"list_path": "group", "member_path": "groups/{list_id}/people", "list_name_field": "Title",
         "member_id_field": "person"},
    ],
    ids=str,
)  # fmt: skip
async def test_lists_and_members(limits: dict[str, Any]) -> None:
    names = {k: v for k, v in limits.items() if k.startswith(("list_", "member_"))}
    async with (
        serve("clevercampaign", **limits) as box,
        adapter(box, lists_enabled=True, **names) as clever,
    ):
        news, vip = [await clever.create_list(name) for name in ("News", "V.I.P. <&>")]
        assert await clever.lists() == {news: "News", vip: "V.I.P. <&>"}
        await clever.rename_list(vip, "VIP")
        with pytest.raises(Indivisible):
            await clever.create_list(" \x00")

        ann = person(lists={"n": news})
        outcome = await pushed(clever, put(ann))
        assert isinstance(outcome, Applied)
        assert outcome.lacking == ()
        assert there(box)["ann@x.org"]["lists"] == ["News"]
        both = person(lists={"v": vip}, firstname="A")
        await pushed(clever, put(both, ann, remote=outcome.remote))
        assert there(box)["ann@x.org"]["lists"] == ["VIP"]
        box.act("leave", email="ann@x.org", list=vip)
        before = box.state.ledger.requests
        changed = person(lists={"v": vip}, firstname="B")
        await pushed(clever, put(changed, both, remote=outcome.remote))
        assert box.state.ledger.requests == before + 1
        await pushed(clever, put(changed, changed, remote=outcome.remote))  # forced
        await pushed(clever, put(changed, changed, remote=outcome.remote, doubtful=True))
        assert there(box)["ann@x.org"]["lists"] == ["VIP"]
        pages = await scanned(clever)
        assert [one.lists for page in pages for one in page.records] == [(), (vip,)]

        lost = person(lists={"v": "999"}, firstname="B")
        outcome = await pushed(clever, put(lost, changed, remote=outcome.remote))
        assert isinstance(outcome, Applied)
        assert outcome.lacking == ("list:v not joined: List not found",)
        for _ in range(2):
            await clever.delete_list(news)
        assert await clever.lists() == {vip: "VIP"}
        clean(box)


async def test_a_fault_among_the_lists_leaves_the_contact_in_doubt(box: Handle) -> None:
    async with adapter(box, lists_enabled=True) as clever:
        news = await clever.create_list("News")
        remote = await created(clever, person())
        box.next_fault("error", path=f"/list/{news}/contact")
        joins = put(person(lists={"n": news}), person(), remote=remote)
        with pytest.raises(Ambiguous):
            await pushed(clever, joins)
        box.next_fault("rate_429", path=f"/list/{news}/contact")
        with pytest.raises(Ambiguous, match="earlier requests"):
            await pushed(clever, joins)
        assert isinstance(await pushed(clever, joins), Applied)


async def test_lists_that_are_not_there_are_a_wrong_setting() -> None:
    async with (
        serve("clevercampaign", lists=False) as box,
        adapter(box, lists_enabled=True) as clever,
    ):
        with pytest.raises(Misconfigured):
            await clever.lists()
        with pytest.raises(Misconfigured, match="list_path"):
            await clever.create_list("News")
        (finding,) = [one for one in await clever.check() if one.level == "error"]
        assert (finding.subject, finding.exit_code) == ("lists", 78)
        assert "list_path" in finding.remedy


# ── Faults: sections 5 and 7 ────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("kind", "error"),
    [
        ("cut_before", Ambiguous),
        ("cut_after", Ambiguous),
        ("half_answer", Ambiguous),
        ("error", Ambiguous),
        ("error_after", Ambiguous),
        ("html", Unintelligible),
        ("rate_429", Transient),
    ],
)
@pytest.mark.parametrize("verb", ["create", "update", "silence"])
async def test_after_any_fault_and_a_look_everything_is_there_once(
    box: Handle, kind: Any, error: type[ProviderError], verb: str
) -> None:
    """As the core does: what may have been applied is looked for before it is sent again."""
    async with adapter(box) as clever, adapter(box, find_param="") as blunt:
        remote = None if verb == "create" else await created(clever, person())
        change = {
            "create": put(person(firstname="A")),
            "update": put(person(firstname="A"), person(), remote=remote),
            "silence": put(person(subscribed=False), person(), remote=remote),
        }[verb]
        for one in (clever, blunt):
            await one.learn()
        if (kind, verb) == ("half_answer", "silence"):
            kind = "cut_after"  # there is no half of an answer without a body
        box.next_fault(kind, retry_after=7 if kind == "rate_429" else None)
        with pytest.raises(error) as caught:
            await pushed(blunt, change)  # which sends the write alone
        if error is Transient:
            assert caught.value.after == 7
        else:
            (found,) = await clever.find([change])
            may = change.may_create and found.remote is None
            change = change._replace(
                doubtful=True, remote=found.remote or change.remote, may_create=may
            )
        outcome = await pushed(clever, change)
        assert isinstance(outcome, Applied), outcome
        assert outcome.lacking == ()
        wanted = {} if verb == "silence" else {"firstname": "A"}
        assert there(box).get("ann@x.org", {}).get("fields", {}) == wanted
        assert len(there(box)) == (verb != "silence")


@pytest.mark.parametrize("kind", ["garbage", "truncated_json"])
async def test_a_create_whose_answer_cannot_be_read_is_looked_up(box: Handle, kind: Any) -> None:
    async with adapter(box, find_param="") as blunt:
        await blunt.learn()
        box.next_fault(kind)
        assert await pushed(blunt, put(person())) == Applied({})
        await created(blunt, person("bob@x.org"))
    async with adapter(box) as clever:
        outcome = await pushed(clever, put(person(firstname="A"), person(), remote={}))
        assert outcome == Applied({"id": "501"})


async def test_a_conflict_is_looked_up_and_adopted(
    box: Handle, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Made there by somebody else between our look and our create."""
    box.set_limits(repeated_create="refuse")
    async with adapter(box) as clever:
        await clever.learn()
        search, asked = clever._account.at, []

        async def at(email: str) -> Any:
            asked.append(email)
            if len(asked) > 1:
                return await search(email)
            found = await search(email)
            box.act("add", email=email)
            return found

        monkeypatch.setattr(clever._account, "at", at)
        assert await pushed(clever, put(person(firstname="A"))) == Applied({"id": "501"})
        assert there(box)["ann@x.org"]["fields"] == {"firstname": "A"}
        remote = await created(clever, person("bob@x.org"))
        taken = await pushed(clever, put(person(), person("bob@x.org"), remote=remote))
        assert taken == Rejected("A contact with this e-mail exists", 409)
    box.state.data.repeated_creates.clear()  # the one that was refused


async def test_refused_keys_halt_and_a_refused_record_does_not(box: Handle) -> None:
    async with adapter(box) as clever:
        await clever.learn()
        remote = await created(clever, person())
        update = put(person(firstname="A"), person(), remote=remote)
        path = f"/contact/{remote['id']}"
        box.next_fault("revoked", path=path)
        assert await pushed(clever, update) == Applied(remote)  # the second salt was good
        box.next_fault("revoked", times=2, path=path)
        outcome = await pushed(clever, update)
        assert isinstance(outcome, Rejected)
        assert outcome.reason.endswith("the keys are good, this is not")
        box.set_faults(revoked=True)
        with pytest.raises(Refused):
            await pushed(clever, update)
        (finding,) = await clever.check()
        assert (finding.level, finding.exit_code) == ("error", 77)
        assert "publickey, salt, signature" in finding.remedy


async def test_where_nothing_vouches_for_the_keys_a_refusal_is_theirs() -> None:
    async with (
        serve("clevercampaign", **BLIND) as box,
        adapter(box, account_is_empty=True) as clever,
    ):
        await clever.learn()
        box.set_faults(next=[{"kind": "revoked", "path": "/contact/501", "times": 2}])
        remote = await created(clever, person())
        update = put(person(firstname="A"), person(), remote=remote)
        with pytest.raises(Refused):
            await pushed(clever, update)
        (finding,) = await clever.check()
        assert (finding.level, finding.subject, finding.exit_code) == ("error", "account", 77)
        assert await pushed(clever, update) == Applied(remote)
        assert "error" not in await reasons(clever)


async def test_a_wrong_secret_a_dead_host_and_a_web_page_are_told_apart(box: Handle) -> None:
    async with adapter(box, secret="wrong") as clever:
        (finding,) = await clever.check()
        assert (finding.level, finding.exit_code) == ("error", 77)
        with pytest.raises(Refused):
            await clever.learn()
    assert {one["rule"] for one in box.snapshot()["violations"]} == {"signature"}
    box.reset()
    async with serve("clevercampaign") as other:
        pass
    async with adapter(other) as clever:
        (finding,) = await clever.check()
        assert (finding.level, finding.exit_code) == ("error", 69)
        assert "may also be gone" in finding.remedy
    async with adapter(box, contact_path="people") as clever:
        said = await reasons(clever)
        assert "warning reading (pages): GET /people: 404" in said
        outcome = await pushed(clever, put(person()))
        assert isinstance(outcome, Postponed)
    async with adapter(box, contact_path="people", account_is_empty=True) as clever:
        outcome = await pushed(clever, put(person()))
        assert isinstance(outcome, Rejected)
        assert outcome.reason.endswith("correct contact_path")
    box.reset()


async def test_a_form_that_is_not_taken_stops_the_account(
    box: Handle, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with adapter(box) as clever:
        await clever.learn()
        with monkeypatch.context() as patch:
            patch.setattr("syncd.providers.clevercampaign_calls.FORM", "text/plain")
            with pytest.raises(Misconfigured, match="415"):
                await pushed(clever, put(person()))
            (finding,) = await clever.check()
            assert (finding.level, finding.exit_code) == ("error", 78)
        await created(clever, person())
        assert "error" not in await reasons(clever)
    box.reset()
