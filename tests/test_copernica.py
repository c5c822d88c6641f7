"""Copernica's adapter against the strict stand-in, in v1 and v4: nobody twice, nothing dropped."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import parse_qsl

import orjson
import pytest
from adapters import Permits, drop, pushed, put
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from structlog.testing import capture_logs

from syncd import log
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
    Found,
    Notice,
    OptedOut,
    Outcome,
    Person,
    Rejected,
    Request,
    Seen,
    Vanished,
    Verb,
)
from syncd.providers.copernica import (
    Copernica,
    CopernicaCredential,
    CopernicaOptions,
    CopernicaPass,
)
from syncd.providers.copernica_answers import judged, message_of, profile, read, written
from syncd.providers.copernica_calls import Unsafe, condition
from syncd.providers.copernica_sign import read_jwt, with_token
from syncd.providers.copernica_translate import (
    Field,
    clock,
    contact_of,
    content,
    email_fault,
    excess,
    field_name,
    field_of,
    key_fault,
    key_of,
    list_name,
    moment,
    tidy,
)
from syncd.sandbox import Handle, serve
from syncd.wire import HttpWire

TOKEN = "0f1e2d3c4b5a69788796a5b4c3d2e1f0"
BOTH = ["v1", "v4"]
ALL = ["v1", "v2", "v3", "v4"]

# ── What is sent, to the letter (2d) ────────────────────────────────────────────────────────


@given(st.text(st.characters(codec="utf-8"), min_size=1), st.text(st.characters(codec="utf-8")))
@settings(max_examples=200, deadline=None)
def test_what_is_encoded_is_read_as_it_was(value: str, token: str) -> None:
    try:
        query = condition("k", "==", value)
    except Unsafe:
        assert value != value.strip() or value[0] in "=!<>~"
        return
    sent = with_token(f"/x?{query}", token)
    assert sent.isascii()
    pairs = parse_qsl(sent.partition("?")[2], keep_blank_values=True)
    assert pairs == [("fields[]", f"k=={value}"), ("access_token", token)]


@pytest.mark.parametrize("value", ["", " a", "a ", "=a", "!a", "<a", ">a", "~a"])
def test_a_condition_that_could_match_everything_is_not_made(value: str) -> None:
    with pytest.raises(Unsafe):
        condition("sync_id", "==", value)


# ── Keys, names, values ─────────────────────────────────────────────────────────────────────


@given(st.text(min_size=1), st.text(min_size=1))
@settings(max_examples=500, deadline=None)
def test_keys_that_look_alike_there_are_told_apart(one: str, other: str) -> None:
    for each in (one, other, one.upper(), key_of(one)):
        with contextlib.suppress(UnicodeEncodeError):
            assert contact_of(key_of(each)) == each
    if one != other:
        with contextlib.suppress(UnicodeEncodeError):
            assert key_of(one).casefold() != key_of(other).casefold()


def test_a_plain_key_is_the_id_itself() -> None:
    assert key_of("c-00042") == "c-00042"
    assert key_of("0b9c-ff") == "0b9c-ff"
    assert key_of("Ann") != key_of("ann") == "ann"
    assert key_of("é") != "é"


@pytest.mark.parametrize("contact_id", ["", "=x", "~x", " x", "a\nb", "x" * 256])
def test_ids_that_cannot_be_looked_for(contact_id: str) -> None:
    assert key_fault(contact_id)


@given(st.text(st.characters(codec="utf-8")))
@settings(max_examples=300, deadline=None)
def test_any_name_of_a_list_is_a_field_and_back(name: str) -> None:
    name = tidy(name)
    made = field_name("list_", name)
    assert made.isascii()
    assert made.replace("_", "").isalnum()
    assert list_name("list_", made) == name


def test_names_of_lists_stay_readable() -> None:
    assert field_name("list_", "Action Movies") == "list_Action__Movies"
    assert field_name("list_", "A & B") == "list_A___26__B"
    assert list_name("list_", "list_of_theirs") == "of_theirs"


@pytest.mark.parametrize(
    "email", ["", "ann", "=ann@x.org", "<ann@x.org>", "a@b", "a b@c.de", "a\x00@b.de"]
)
def test_what_is_no_address(email: str) -> None:
    assert email_fault(email)


def column(kind: str, **more: Any) -> Field:
    row = {"ID": "7", "name": "f", "type": kind, "length": "5", "value": "", **more}
    return field_of(row)


@pytest.mark.parametrize(
    ("kind", "value", "sent"),
    [
        ("text", "abc", "abc"),
        ("text", "abcdefg", "abcde"),
        ("text", True, "1"),
        ("text", False, "0"),
        ("text", "e\u0301\x00\ud83d", "é"),
        ("text", None, ""),
        ("big", "a\r\nb" * 9, "a\r\nb" * 9),
        ("integer", 42, "42"),
        ("integer", "-7", "-7"),
        ("integer", "x", None),
        ("integer", 1.9, None),
        ("float", 1.5, "1.5"),
        ("float", float("nan"), None),
        ("float", "x", None),
        ("empty_date", "1990-02-28", "1990-02-28"),
        ("empty_date", "soon", None),
        ("empty_date", None, ""),
        ("empty_datetime", "2026-07-01T10:00:00+00:00", "2026-07-01 12:00:00"),
        ("empty_datetime", "2026-07-01 10:00:00", "2026-07-01 10:00:00"),
        ("datetime", "soon", None),
        ("select", "gold", "gold"),
        ("select", "Gold", None),
        ("select", None, ""),
    ],
)
def test_values_are_checked_before_php_casts_them(kind: str, value: Any, sent: str | None) -> None:
    lacking: list[str] = []
    found = content(
        Person("a@x.org", {"f": value}, {}, True),
        {"f": column(kind, value="gold*\r\nblue" if kind == "select" else "")},
        lacking,
    )
    assert found == ({} if sent is None else {"f": sent})
    assert len(lacking) == (sent is None or sent == "abcde")


def test_a_select_may_be_a_list() -> None:
    yes = column("select", value="no*\r\nYes")
    assert (yes.default, yes.flag(True), yes.flag(False), yes.is_on("yes")) == (
        "no",
        "Yes",
        "no",
        True,
    )
    number = column("integer", value="0")
    assert (number.flag(True), number.flag(False), number.is_on("0")) == ("1", "0", False)


def test_clocks_are_those_of_amsterdam_and_the_later_hour_counts() -> None:
    summer = datetime(2026, 7, 1, 10, tzinfo=UTC)
    assert clock(summer) == "2026-07-01 12:00:00"
    assert moment("2026-07-01 12:00:00") == summer + timedelta(seconds=1)
    twice = moment("2026-10-25 02:30:00")
    assert twice == datetime(2026, 10, 25, 1, 30, 1, tzinfo=UTC)
    assert moment("0000-00-00 00:00:00") is None


# ── Answers (7) ─────────────────────────────────────────────────────────────────────────────

READ = Request("GET", "/v1/profile/1")
WRITE = Request("PUT", "/v1/profile/1/fields", b"{}")


def answer(body: Any = b"", status: int = 200, **headers: str) -> Answer:
    return Answer(status, headers, body if isinstance(body, bytes) else orjson.dumps(body))


def error(message: str) -> dict[str, Any]:
    return {"error": {"message": message}}


@pytest.mark.parametrize("status", [400, 200])
@pytest.mark.parametrize(
    ("message", "kind"),
    [
        ("Invalid access token", Refused),
        ("invalid ACCESS token.", Refused),
        ("No database with supplied ID", Misconfigured),
        ("URL parameter fields is required", Misconfigured),
        ("Invalid method", Misconfigured),
        ("Invalid request, element 1 is missing in 'directory' path", Misconfigured),
        ("Failed to get the field", Misconfigured),
        ("No entity with supplied ID", "ok"),
        ("This profile has already been removed", "ok"),
        ("Failed to create profile", "ok"),
        ("Invalid data provided", "ok"),
        ("Something nobody has seen", "ok"),
    ],
)
def test_messages_decide_whatever_the_status(message: str, status: int, kind: Any) -> None:
    for request in (READ, WRITE):
        said = judged(request, answer(error(message), status))
        assert said == kind or type(said) is kind


@pytest.mark.parametrize(
    ("message", "kind"),
    [
        ("No entity with supplied ID", "gone"),
        ("This profile has already been removed", "gone"),
        ("Failed to create profile", "refused"),
        ("Something nobody has seen", "refused"),
    ],
)
def test_what_a_refusal_of_one_record_is(message: str, kind: str) -> None:
    told = written(answer(error(message), 400))
    assert (told.kind, told.text) == (kind, message)
    assert read(answer(error(message), 400)) == told


@pytest.mark.parametrize("status", [200, 201, 204, 302, 303])
def test_a_write_is_done_by_any_of_these(status: int) -> None:
    done = answer(status=status, **{"x-created": "18381", "location": f"/profile/9?t={TOKEN}"})
    assert judged(WRITE, done) in (None, "ok")
    assert written(done).kind == "done"
    assert written(done).created == "18381"
    also = answer(status=status, **{"x-location": "https://api.copernica.com/profile/18382?a=1"})
    assert written(also).created == "18382"
    updated = answer(status=status, location="/profile/9?x=1")
    assert written(updated).created is None  # the location of an update is no news


@pytest.mark.parametrize(
    ("body", "status", "of_read", "of_write"),
    [
        (b"<html>Loadbalancer Error</html>", 503, Transient, Ambiguous),
        (b"<html></html>", 200, Transient, Ambiguous),
        (b"\x00\xff{", 200, Transient, Ambiguous),
        (b"", 200, Transient, None),
        (b"{}", 503, None, None),  # the wire's own default
        (b"slow down", 429, None, None),
        (b"<html></html>", 429, None, None),
        (b"", 301, None, None),
        (b"no json", 400, "ok", "ok"),
    ],
)
def test_what_is_not_json(body: bytes, status: int, of_read: Any, of_write: Any) -> None:
    for request, wanted in ((READ, of_read), (WRITE, of_write)):
        said = judged(request, answer(body, status))
        assert said == wanted or type(said) is wanted


def test_a_read_is_never_redirected() -> None:
    assert judged(READ, answer(status=303, location="/x")) is None
    assert judged(WRITE, answer(status=303, location="/x")) == "ok"


def test_an_error_is_an_error_in_any_shape() -> None:
    assert message_of({"error": {"message": "x"}}) == "x"
    assert message_of({"error": "x"}) == "x"
    assert message_of({"error": {"code": 7}}) == "an error without a message"
    assert message_of({"error": None}) is None
    assert message_of([]) is None
    assert written(answer(b"", 400)).kind == "refused"


def test_a_profile_is_gone_when_it_says_so_or_when_it_is_empty() -> None:
    whole = {"ID": "7", "fields": {"a": "x"}, "interests": [], "modified": "m"}
    assert not profile(whole).is_gone
    assert profile({**whole, "removed": "2026-01-01 00:00:00"}).is_gone
    assert not profile({**whole, "removed": False}).is_gone
    assert profile({**whole, "fields": {"a": "", "b": None}}).is_gone
    assert profile({**whole, "fields": []}).is_gone  # PHP's empty object
    assert profile({**whole, "interests": {"a": 1, "b": "0"}}).interests == {"a"}
    malformed: list[Any] = [[], {}, {"ID": "x"}, None, "x"]
    for broken in malformed:
        with pytest.raises(Transient):
            profile(broken)


def test_what_is_not_a_jwt_is_not_taken_for_one() -> None:
    with pytest.raises(Refused):
        read_jwt(answer(error("Invalid access token"), 400))
    for text in (b"<html>", b"", b"a.b", b"a.b.c d"):
        with pytest.raises(Transient) as caught:
            read_jwt(answer(text))
        assert "a.b" not in str(caught.value)
    jwt, seconds = read_jwt(answer(b" x.e30.y\n"))
    assert (jwt, seconds) == ("x.e30.y", 23 * 3600)


# ── The stand-in, the wire, the adapter ─────────────────────────────────────────────────────


@asynccontextmanager
async def adapter(
    box: Handle, version: str = "v1", token: str = TOKEN, **options: Any
) -> AsyncIterator[Copernica]:
    facts = {
        "base_url": box.url,
        "database": "7616",
        "subscribed_values": {"newsletter": "yes"},
        "auth_url": f"{box.url}/authenticate",
        **options,
    }
    chosen = CopernicaOptions(version=version, **facts)
    secret = CopernicaCredential(access_token=token)
    permits = Permits(Copernica.traits.meters)
    async with HttpWire(Copernica, chosen, lambda: secret, permits, timeout=2) as wire:
        yield Copernica(wire, chosen, {})
        lost = sum(n for (_, how), n in wire.requests.items())
        assert permits.taken.total() >= lost


@pytest.fixture(params=BOTH)
def version(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
async def box() -> AsyncIterator[Handle]:
    """The test fails if the stand-in was ever used against its rules."""
    async with serve("copernica") as box:
        yield box
        state = box.snapshot()
        assert (state["violations"], state["duplicates"]) == ([], [])
        assert (state["resubscribed"], state["lost_writes"]) == ([], [])


LISTS = {"news": "Newsletter", "cust": "Our Customers"}


async def with_lists(cop: Copernica) -> dict[str, str]:
    """Both lists made; our ids → theirs."""
    there = {name: one for one, name in (await cop.lists()).items()}
    return {
        ours: there[name] if name in there else await cop.create_list(name)
        for ours, name in LISTS.items()
    }


def person(
    email: str = "ann@example.org",
    lists: Mapping[str, str] | None = None,
    subscribed: bool = True,
    **fields: Any,
) -> Person:
    return Person(email, fields, lists or {}, subscribed)


async def made(cop: Copernica, want: Person, name: str = "c-1") -> Mapping[str, Any]:
    """Create somebody; what is remembered of them."""
    outcome = await pushed(cop, put(want, name=name))
    assert isinstance(outcome, Applied), outcome
    assert outcome.remote is not None
    return outcome.remote


def at(box: Handle, email: str = "ann@example.org") -> dict[str, Any]:
    """The one live profile of an address."""
    found = box.snapshot()["profiles"].values()
    (one,) = [p for p in found if p["fields"].get("email") == email and p["removed"] is None]
    return one  # type: ignore[no-any-return]


def lists_of(box: Handle, email: str = "ann@example.org") -> set[str]:
    """Names of the lists a profile is in, however they are kept."""
    one = at(box, email)
    fields = {
        list_name("list_", n) for n, v in one["fields"].items() if n[:5] == "list_" and v == "1"
    }
    return fields | set(one["interests"])


# ── Declarations ────────────────────────────────────────────────────────────────────────────


def test_what_it_says_of_itself() -> None:
    traits = Copernica.traits
    assert (traits.batch, traits.key, traits.scans, traits.needs_list) == (
        1,
        "ours",
        "account",
        False,
    )
    assert Can.REPEAT not in traits.can  # a profile may not be visible just after its create
    assert Can.JOBS not in traits.can


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"database": ""},
        {"database": "1", "version": "v5"},
        {"database": "1", "key_field": "id"},
        {"database": "1", "key_field": "sync-id"},
        {"database": "1", "list_prefix": ""},
        {"database": "1", "key_field": "list_id"},
        {"database": "1", "lists_as": "interest"},
        {"database": "1", "auth_url": "http://example.com"},
        {"database": "1", "auth_url": "http://127.0.0.1.evil.com"},
        {"database": "1", "no_such": 1},
    ],
)
def test_wrong_options(options: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        CopernicaOptions(**options)


def test_defaults_follow_the_version() -> None:
    assert CopernicaOptions(database="1").ours.prefix == "list_"
    assert CopernicaOptions(database="1", version="v4").ours.prefix is None
    assert CopernicaOptions(database="1", version="v4", lists_as="field").ours.prefix == "list_"
    assert Copernica.base_url(CopernicaOptions(database="1")) == "https://api.copernica.com"
    key = CopernicaCredential(access_token=" abc \n")
    assert Copernica.scope(CopernicaOptions(database="1"), key) == "abc"
    assert "abc" not in f"{key!r} {key} {key.model_dump()}"
    assert Copernica.exchange(CopernicaOptions(database="1", version="v3"), key) is None
    jwt = CopernicaPass(access_token="abc", jwt="x.y.z")
    assert Copernica.sign(jwt, READ) == {"Authorization": "Bearer x.y.z"}
    assert Copernica.complete(jwt, READ) is READ
    assert Copernica.sign(key, READ) == {}
    with pytest.raises(ValidationError):
        CopernicaCredential(access_token=" ")


# ── A contact's life ────────────────────────────────────────────────────────────────────────

EVERYTHING: dict[str, Any] = {
    "first_name": "Zoë \x00\ud83d",
    "last_name": "A\u030angstro\u0308m",
    "company": "A/B & C\\D <Ltd> \"q\" 'x' %",
    "address": "Åvej 1\r\n2. sal",
    "city": "x" * 300,
    "zip": "04008",
    "birth_date": "1990-02-28",
    "country": None,
}


async def test_a_contact_arrives_as_it_is(box: Handle, version: str) -> None:
    async with adapter(box, version) as cop:
        lists = await with_lists(cop)
        outcome = await pushed(cop, put(person(" Ann@Example.org", lists, **EVERYTHING)))

    assert outcome == Applied({"id": "18381"}, ("field:city cut to 255 characters",))
    one = at(box)
    assert one["mailable"]
    assert one["fields"]["sync_id"] == "c-1"
    assert one["fields"]["first_name"] == "Zoë "
    assert one["fields"]["last_name"] == "Ångström"
    assert one["fields"]["company"] == EVERYTHING["company"]
    assert one["fields"]["address"] == "Åvej 1\r\n2. sal"
    assert one["fields"]["birth_date"] == "1990-02-28"
    assert lists_of(box) == {"Newsletter", "Our Customers"}


async def test_an_update_is_one_request_and_changes_only_what_is_ours(
    box: Handle, version: str
) -> None:
    box.act("add_field", name="theirs")
    box.act("add_field", name="list_of_theirs")
    box.act("add_interest", name="soccer", group="sports")
    async with adapter(box, version) as cop:
        lists = await with_lists(cop)
        was = person(lists=lists, city="Rome")
        remote = await made(cop, was)
        box.act("set_field", email=was.email, name="theirs", value="kept")
        box.act("set_field", email=was.email, name="list_of_theirs", value="1")
        number = int(remote["id"])
        box.state.data.profiles[number].interests.add("soccer")
        before = box.state.ledger.requests
        want = person(lists=lists, city="Oslo")
        assert await pushed(cop, put(want, was, remote=remote)) == Applied(remote)
        assert box.state.ledger.requests == before + 1
        fewer = person(lists={"news": lists["news"]}, city="Oslo")
        assert await pushed(cop, put(fewer, want, remote=remote)) == Applied(remote)

    one = at(box)
    assert (one["fields"]["city"], one["fields"]["theirs"]) == ("Oslo", "kept")
    assert one["fields"]["list_of_theirs"] == "1"
    assert "soccer" in one["interests"]
    assert lists_of(box) - {"of_theirs", "soccer"} == {"Newsletter"}


@pytest.mark.parametrize("most", [255, 30])
async def test_an_address_longer_than_its_field_is_refused_and_not_cut(
    box: Handle, version: str, most: int
) -> None:
    box.state.data.column("email").length = most
    fits, longer = (f"{'a' * (most - 12 + more)}@example.com" for more in (0, 1))
    async with adapter(box, version) as cop:
        remote = await made(cop, was := person(f" {fits.upper()} "))
        told = await pushed(cop, put(person(longer), name="c-2"))
        moved = await pushed(cop, put(person(longer), was, remote=remote))
    assert told == moved == Rejected(f"email is longer than {most} characters")
    (one,) = box.snapshot()["profiles"].values()
    assert one["fields"]["email"] == fits


async def test_a_no_does_not_wait_for_an_address_that_fits(box: Handle, version: str) -> None:
    async with adapter(box, version) as cop:
        remote = await made(cop, was := person())
        silent = person(f"{'a' * 300}@example.com", subscribed=False)
        told = await pushed(cop, put(silent, was, remote=remote))
    assert told == Applied(remote, ("field:email is longer than 255 characters",))
    assert not at(box)["mailable"]


def test_a_field_that_declares_no_length_holds_any_address() -> None:
    assert not excess(f"{'a' * 300}@example.com", column("email", length=""))


async def test_addresses_are_swapped_by_two_ordinary_updates(box: Handle, version: str) -> None:
    async with adapter(box, version) as cop:
        ann, bob = person("ann@x.org"), person("bob@x.org")
        one, two = await made(cop, ann, "a"), await made(cop, bob, "b")
        await pushed(cop, put(bob, ann, "a", remote=one))
        await pushed(cop, put(ann, bob, "b", remote=two))
    assert at(box, "bob@x.org")["fields"]["sync_id"] == "a"
    assert at(box, "ann@x.org")["fields"]["sync_id"] == "b"


async def test_ids_that_differ_in_letters_only_are_two_contacts(box: Handle, version: str) -> None:
    async with adapter(box, version) as cop:
        one = await made(cop, person("a@x.org"), "Ann")
        two = await made(cop, person("b@x.org"), "ann")
    assert one != two


async def test_a_no_and_the_way_back(box: Handle, version: str) -> None:
    async with adapter(box, version) as cop:
        lists = await with_lists(cop)
        here = person(lists=lists)
        silent = here._replace(subscribed=False)
        remote = await made(cop, here)
        assert await pushed(cop, put(silent, here, remote=remote)) == Applied(remote)
        assert not box.state.mailable(here.email)
        assert lists_of(box) == set()

        await pushed(cop, put(here, silent, remote=remote))  # without leave: lists, and no more
        assert not box.state.mailable(here.email)
        assert await pushed(cop, put(here, silent, remote=remote, resubscribe=True)) == Applied(
            remote
        )
    assert box.state.mailable(here.email)
    assert lists_of(box) == {"Newsletter", "Our Customers"}


async def test_withdrawn_and_back_is_mailable_and_no_no_was_said(box: Handle, version: str) -> None:
    async with adapter(box, version) as cop:
        lists = await with_lists(cop)
        here = person(lists=lists)
        remote = await made(cop, here)
        assert isinstance(await pushed(cop, drop(Verb.WITHDRAW, here, remote)), Applied)
        assert not box.state.mailable(here.email)
        assert lists_of(box) == set()
        assert [one async for one in cop.opt_outs(None)] == []
        was = here._replace(lists={}, subscribed=False)
        (found,) = await cop.find([put(here, was, remote=remote, resubscribe=True)])
        assert found.opted_out is not None
        assert found.opted_out.occurred_at is None
        back = await pushed(cop, put(here, was, remote=remote, resubscribe=True))
    assert back == Applied(remote)
    assert box.state.mailable(here.email)
    assert lists_of(box) == {"Newsletter", "Our Customers"}


async def test_a_persons_own_no_before_a_withdrawal_stays_theirs(box: Handle, version: str) -> None:
    async with adapter(box, version) as cop:
        here = person()
        remote = await made(cop, here)
        box.act("unsubscribe", email=here.email)
        assert isinstance(await pushed(cop, drop(Verb.WITHDRAW, here, remote)), Applied)
        (page,) = [one async for one in cop.opt_outs(None)]
    assert [(one.contact_id, one.email, one.kind) for one in page] == [
        ("c-1", here.email, "unsubscribed")
    ]


@pytest.mark.parametrize("again", ["400", "204"])
async def test_deleted_and_deleted_again(box: Handle, version: str, again: str) -> None:
    box.set_limits(delete_again=again)
    async with adapter(box, version) as cop:
        here = person()
        remote = await made(cop, here)
        for _ in range(2):
            assert isinstance(await pushed(cop, drop(Verb.DELETE, here, remote)), Applied)
        (gone,) = await cop.find([drop(Verb.DELETE, here, remote)])
        assert gone == Found(None)
    assert [p["removed"] is None for p in box.snapshot()["profiles"].values()] == [False]


async def test_erased_is_blanked_deleted_and_looked_for(box: Handle, version: str) -> None:
    double = box.act("add", email="ann@example.org", fields={"city": "Rome"})["profile"]
    other = box.act("add", email="bob@example.org")["profile"]
    async with adapter(box, version) as cop:
        erase = drop(Verb.ERASE, person(), {"id": str(double)})
        left = await cop.erased(erase, datetime.now(UTC))
        assert str(double) in left.by_hand
        await pushed(cop, put(person(city="Oslo"), remote={"id": str(double)}))
        assert isinstance(await pushed(cop, drop(Verb.ERASE, person(), None)), Applied)
        assert (await cop.erased(erase, datetime.now(UTC))).confirmed
        assert isinstance(
            await pushed(cop, drop(Verb.ERASE, person(), {"id": str(double)})), Applied
        )
    there = box.snapshot()["profiles"]
    assert there[str(other)]["removed"] is None
    blanks = [
        e
        for e in box.state.ledger.history
        if e["what"] == "update" and e["wrote"].get("city") == ""
    ]
    assert blanks
    if version == "v1":
        assert not any(there[str(double)]["fields"].values())
    else:
        assert str(double) not in there


async def test_who_was_never_there_is_not_made(box: Handle, version: str) -> None:
    async with adapter(box, version) as cop:
        silent = person(subscribed=False)
        assert isinstance(await pushed(cop, put(silent, may_create=False)), Absent)
        assert isinstance(await pushed(cop, put(silent)), Absent)
        assert isinstance(await pushed(cop, put(person(), may_create=False)), Absent)
        assert await pushed(cop, drop(Verb.WITHDRAW, person())) == Applied()
    assert box.snapshot()["profiles"] == {}


async def test_a_profile_that_vanished_is_not_written_to(box: Handle, version: str) -> None:
    async with adapter(box, version) as cop:
        here, more = person(), person(city="Oslo")
        remote = await made(cop, here)
        box.act("delete", email=here.email)
        async with adapter(box, version) as later:
            assert isinstance(await pushed(later, put(more, here, remote=remote)), Vanished)
            silent = more._replace(subscribed=False)
            assert isinstance(await pushed(later, put(silent, here, remote=remote)), Absent)
            unknown = {"id": "999"}
            assert isinstance(await pushed(later, put(more, here, remote=unknown)), Vanished)


async def test_many_updates_ask_once_who_is_there(box: Handle, version: str) -> None:
    async with adapter(box, version) as cop:
        lists = await with_lists(cop)
        people = {f"c{n}": person(f"p{n}@x.org", lists) for n in range(100)}
        remotes = {name: await made(cop, one, name) for name, one in people.items()}
    box.act("delete", email="p50@x.org")
    before = box.state.ledger.requests
    async with adapter(box, version) as cop:
        outcomes = {
            name: await pushed(
                cop, put(was._replace(fields={"city": "Oslo"}), was, name, remote=remotes[name])
            )
            for name, was in people.items()
        }
    lost = [name for name, outcome in outcomes.items() if not isinstance(outcome, Applied)]
    assert lost == ["c50"]
    assert isinstance(outcomes["c50"], Vanished)
    assert box.state.ledger.requests - before <= 110


async def test_a_create_is_a_look_and_a_write(box: Handle) -> None:
    async with adapter(box) as cop:
        lists = await with_lists(cop)
        await made(cop, person("a@x.org", lists), "a")
        before = box.state.ledger.requests
        await made(cop, person("b@x.org", lists), "b")
        assert box.state.ledger.requests == before + 2


@pytest.mark.parametrize("created_in", ["X-Created", "x-created", "X-Location"])
async def test_the_new_id_is_read_wherever_it_is(
    box: Handle, version: str, created_in: str
) -> None:
    box.set_limits(created_in=created_in)
    async with adapter(box, version) as cop:
        assert await made(cop, person()) == {"id": "18381"}


# ── Whose profile is it? ────────────────────────────────────────────────────────────────────


async def test_somebody_found_by_address_gets_the_key_and_is_not_made_twice(
    box: Handle, version: str
) -> None:
    number = str(box.act("add", email="Ann@Example.org", fields={"city": "Rome"})["profile"])
    async with adapter(box, version) as cop:
        assert await pushed(cop, put(person(company="Acme"))) == Applied({"id": number})
    one = at(box)
    assert (one["fields"]["sync_id"], one["fields"]["city"], one["fields"]["company"]) == (
        "c-1",
        "Rome",
        "Acme",
    )


async def test_of_doubles_the_lowest_is_taken_and_the_others_are_told(
    box: Handle, version: str
) -> None:
    numbers = [str(box.act("add", email="ann@example.org")["profile"]) for _ in range(3)]
    async with adapter(box, version) as cop:
        with capture_logs() as logs:
            assert await pushed(cop, put(person())) == Applied({"id": numbers[0]})
    (told,) = [one for one in logs if one["event"] == "contact is there twice"]
    assert (told["kept"], told["others"]) == (numbers[0], numbers[1:])
    keys = {n: p["fields"]["sync_id"] for n, p in box.snapshot()["profiles"].items()}
    assert keys == {numbers[0]: "c-1", numbers[1]: "", numbers[2]: ""}
    for number in numbers[1:]:
        box.act("delete", profile=int(number))


async def test_another_contacts_profile_is_not_taken_for_its_address(
    box: Handle, version: str
) -> None:
    async with adapter(box, version) as cop:
        theirs = await made(cop, person(), "old")
        mine = await made(cop, person(), "new")
        assert mine != theirs
    box.act("delete", profile=int(theirs["id"]))


async def test_an_opted_out_profile_that_is_found_is_not_turned_on(
    box: Handle, version: str
) -> None:
    box.act("add", email="ann@example.org")
    box.act("unsubscribe", email="ann@example.org")
    async with adapter(box, version) as cop:
        outcome = await pushed(cop, put(person()))
        assert isinstance(outcome, OptedOut)
        assert outcome.occurred_at is not None
        assert not box.state.mailable("ann@example.org")
        newer = await pushed(cop, put(person(), resubscribe=True))
        assert isinstance(newer, Applied)
    assert box.state.mailable("ann@example.org")
    assert len(box.state.data.turned_on) == 1  # by leave
    box.state.data.turned_on.clear()


async def test_an_upsert_that_met_somebody_does_not_turn_them_on(box: Handle, version: str) -> None:
    """As after a restored backup: ours by key, under another address, and not remembered."""
    async with adapter(box, version) as cop:
        await made(cop, person("old@example.org"))
        box.act("unsubscribe", email="old@example.org")
        outcome = await pushed(cop, put(person("new@example.org")))
    assert isinstance(outcome, OptedOut)
    assert not box.state.mailable("new@example.org")
    assert at(box, "new@example.org")["fields"]["sync_id"] == "c-1"


async def test_find_by_id_by_key_and_by_address(box: Handle, version: str) -> None:
    box.act("add", email="bob@x.org")
    async with adapter(box, version) as cop:
        remote = await made(cop, person(city="Rome"))
        looks = [
            put(person("other@x.org"), remote=remote),
            put(person("other@x.org")),
            put(person("bob@x.org"), name="c-2"),
            put(person("nobody@x.org"), name="c-3"),
            put(person("=bad"), name="=bad"),
        ]
        found = await cop.find(looks)
    assert [one.remote for one in found] == [remote, remote, {"id": "18381"}, None, None]
    assert found[0].email == "ann@example.org"


# ── The database ────────────────────────────────────────────────────────────────────────────


async def test_a_mapped_field_that_is_missing_stops_the_destination(
    box: Handle, version: str
) -> None:
    async with adapter(box, version) as cop:
        for name in ("City", "nickname"):
            with pytest.raises(Misconfigured, match=f"not in the database: .*{name}"):
                await pushed(cop, put(Person("ann@example.org", {name: "x"}, {}, True)))
        told = await cop.check()
        assert [(one.level, one.exit_code) for one in told][-1] == ("error", 78)
        assert "City, nickname" in told[-1].says
    assert box.snapshot()["profiles"] == {}
    async with adapter(box, version) as cop:
        (fine,) = await cop.check_fields(["city", "zip"])
        assert fine.level == "ok"
        (fault,) = await cop.check_fields(["city", "town"])
        assert (fault.level, "town" in fault.says, "city" in fault.remedy) == ("error", True, True)


@pytest.mark.parametrize("name", ["sync_id", "sync_id_off", "newsletter", "email", "list_x"])
async def test_what_syncd_writes_itself_is_not_to_be_mapped(box: Handle, name: str) -> None:
    if name == "list_x":
        box.act("add_field", name="list_x")
    async with adapter(box) as cop:
        await made(cop, person())
        with pytest.raises(Misconfigured, match="not to be mapped"):
            await pushed(cop, put(Person("ann@example.org", {name: "x"}, {}, True)))


async def test_a_field_that_goes_missing_is_seen_before_it_is_written(
    box: Handle, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with adapter(box) as cop:
        was = person(city="Rome")
        remote = await made(cop, was)
        box.act("rename_field", name="city", value="town")
        monkeypatch.setattr("syncd.providers.copernica_database.FRESH", 0.0)
        with pytest.raises(Misconfigured, match="city"):
            await pushed(cop, put(person(city="Oslo"), was, remote=remote))
    assert at(box)["fields"]["town"] == "Rome"


@pytest.mark.parametrize(
    ("behaviour", "fields", "says"),
    [
        ("nothing", {}, "are lost"),
        ("remove", {}, "look like deletions"),
        ("update", {}, "are lost"),
        ("update", {"gone": "no"}, "not there: gone"),
        ("update", {"city": "none"}, "does not undo"),
    ],
)
async def test_who_cannot_unsubscribe_is_not_mailed(
    box: Handle, behaviour: str, fields: dict[str, str], says: str
) -> None:
    box.act("set_unsubscribe", value=behaviour, fields=fields)
    async with adapter(box) as cop:
        with pytest.raises(Misconfigured, match=says):
            await pushed(cop, put(person()))
        with pytest.raises(Misconfigured, match=says):
            _ = [one async for one in cop.opt_outs(None)]
        found = (await cop.check())[-1]
    assert (found.level, found.exit_code) == ("error", 78)
    assert says in found.says
    if "subscribed_values" not in found.says:
        assert "Database management" in found.remedy


async def test_subscribed_values_are_written_where_the_defaults_are_not_so(
    box: Handle, version: str
) -> None:
    box.act("add_field", name="mailing", type="text")
    box.act("set_unsubscribe", value="update", fields={"Mailing": "stop"})
    async with adapter(box, version, subscribed_values={"mailing": "go"}) as cop:
        assert any("defaults" in one.says for one in await cop.check() if one.level == "warning")
        await made(cop, person())
        assert at(box)["fields"]["mailing"] == "go"
        box.act("unsubscribe", email="ann@example.org")
        ((notice,),) = [one async for one in cop.opt_outs(None)]
    assert notice.contact_id == "c-1"


async def test_fields_of_ours_are_made_once_and_by_one_worker(box: Handle) -> None:
    async with adapter(box) as one, adapter(box) as other, asyncio.TaskGroup() as group:
        for n, cop in enumerate([one, other] * 3):
            group.create_task(made(cop, person(f"p{n}@x.org"), f"c{n}"))
    state = box.snapshot()
    assert state["fields"].count("sync_id") == 1
    box.state.ledger.violations[:] = [
        one for one in box.state.ledger.violations if one["rule"] != "field made twice"
    ]  # two workers at the same moment: the second one is refused, and reads
    assert len(state["profiles"]) == 6


async def test_a_collection_that_does_not_fit_is_read_apart(box: Handle, version: str) -> None:
    box.set_limits(inside=3, page_cap=4, v1_page_cap=4)
    async with adapter(box, version) as cop:
        lists = await with_lists(cop)
        await made(cop, person(lists=lists, country="Norway"))
    assert lists_of(box) == {"Newsletter", "Our Customers"}


async def test_the_database_may_be_named(box: Handle, version: str) -> None:
    async with adapter(box, version, database="contacts") as cop:
        await made(cop, person())
        assert any("is database 7616" in one.says for one in await cop.check())
    async with adapter(box, version, database="no such") as cop:
        with pytest.raises(Misconfigured, match=r"options\.database"):
            await pushed(cop, put(person()))


async def test_another_account_is_refused(box: Handle, version: str) -> None:
    async with adapter(box, version, account="34") as cop:
        learned = await cop.learn()
        assert learned is not None
        assert learned.identity == "34"
    async with adapter(box, version, account="35") as cop:
        with pytest.raises(Misconfigured, match="account 34"):
            await cop.learn()
        assert (await cop.check())[0].exit_code == 78


# ── Lists ───────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("lists_as", ["field", "interest"])
async def test_lists_are_made_renamed_and_deleted(box: Handle, lists_as: str) -> None:
    box.act("add_interest", name="soccer", group="sports")
    box.act("add_field", name="listless")
    version = "v4" if lists_as == "interest" else "v1"
    async with adapter(box, version, lists_as=lists_as) as cop:
        assert await cop.lists() == {}
        number = await cop.create_list("News & more")
        assert await cop.lists() == {number: "News & more"}
        was = person(lists={"n": number})
        remote = await made(cop, was)
        await cop.rename_list(number, "Nyheter på norsk")
        assert await cop.lists() == {number: "Nyheter på norsk"}
        assert lists_of(box) == {"Nyheter på norsk"}
        await pushed(cop, put(was._replace(lists={}), was, remote=remote))
        assert lists_of(box) == set()
        await cop.delete_list(number)
        await cop.delete_list(number)
        assert await cop.lists() == {}
        lost = await pushed(cop, put(was, was, remote=remote))
        assert isinstance(lost, Rejected)
        assert "not there any more" in lost.reason
    assert "listless" in box.snapshot()["fields"]


@pytest.mark.parametrize(
    ("lists_as", "name"), [("field", "x" * 99), ("field", " "), ("interest", "")]
)
async def test_names_that_cannot_be_lists(box: Handle, lists_as: str, name: str) -> None:
    async with adapter(box, "v3", lists_as=lists_as) as cop:
        with pytest.raises(Indivisible):
            await cop.create_list(name)


@pytest.mark.parametrize("lists_as", ["field", "interest"])
async def test_a_name_that_is_taken_is_not_made_a_second_time(box: Handle, lists_as: str) -> None:
    box.act("add_interest", name="soccer", group="sports")
    async with adapter(box, "v2", lists_as=lists_as) as cop:
        await cop.create_list("News")
        number = await cop.create_list("Other")
        for name in ("NEWS", "news") + (("Soccer",) if lists_as == "interest" else ()):
            with pytest.raises(Indivisible, match="there already"):
                await cop.create_list(name)
            with pytest.raises(Indivisible, match="there already"):
                await cop.rename_list(number, name)
        await cop.rename_list(number, "OTHER")


# ── Reading ─────────────────────────────────────────────────────────────────────────────────


async def scanned(cop: Copernica, cursor: Mapping[str, Any] | None = None) -> list[Seen]:
    return [one async for page in cop.scan(None, cursor) for one in page.records]


@pytest.mark.parametrize("count", [0, 1, 6, 7, 8, 20])
async def test_everybody_is_seen_page_by_page_from_any_place(box: Handle, count: int) -> None:
    box.set_limits(v1_page_cap=7)
    async with adapter(box) as cop:
        lists = await with_lists(cop)
        for n in range(count):
            await made(cop, person(f"p{n}@x.org", lists if n % 2 else {}), f"C{n}")
        whole = await scanned(cop)
        assert [one.contact_id for one in whole] == [f"C{n}" for n in range(count)]
        assert [len(one.lists) for one in whole] == [2 * (n % 2) for n in range(count)]
        pages = [page async for page in cop.scan(None, None)]
        for number, page in enumerate(pages):
            after = await scanned(cop, orjson.loads(orjson.dumps(page.cursor)))
            before = [one for each in pages[: number + 1] for one in each.records]
            assert before + after == whole


async def test_a_scan_tells_keys_lists_and_noes(box: Handle, version: str) -> None:
    box.act("add", email="extra@x.org")
    async with adapter(box, version) as cop:
        lists = await with_lists(cop)
        for name in ("in", "no", "off", "gone"):
            await made(cop, person(f"{name}@x.org", lists), name)
        box.act("unsubscribe", email="no@x.org")
        box.act("delete", email="gone@x.org")
        was = person("off@x.org", lists)
        (there,) = [one for one in await scanned(cop) if one.contact_id == "off"]
        await pushed(cop, drop(Verb.WITHDRAW, was, {"id": there.remote_id}, "off"))
        found = {
            one.email: (one.contact_id, one.subscribed, len(one.lists))
            for one in await scanned(cop)
        }
    assert found == {
        "extra@x.org": (None, True, 0),
        "in@x.org": ("in", True, 2),
        "no@x.org": ("no", False, 2),
        "off@x.org": ("off", None, 0),
    }


def test_a_scan_is_remembered_by_its_id() -> None:
    seen = Seen("7", "a@x.org")
    assert Copernica.remembered(None, None, seen) == {"id": "7"}
    same = {"id": "7", "more": 1}
    assert Copernica.remembered(same, None, seen) is same
    assert Copernica.remembered({"id": "8", "more": 1}, None, seen) == {"id": "7", "more": 1}


async def test_opt_outs_are_read_since_a_time_with_an_overlap(box: Handle, version: str) -> None:
    async def told(cop: Copernica, since: datetime | None) -> list[Notice]:
        return [one async for page in cop.opt_outs(since) for one in page]

    now = datetime.now(UTC)
    async with adapter(box, version) as cop:
        await made(cop, person())
        assert await told(cop, None) == []
        box.act("unsubscribe", email="ann@example.org")
        box.act("add", email="stranger@x.org")
        box.act("complain", email="stranger@x.org")
        (known, stranger) = await told(cop, now)
        assert (known.contact_id, known.email, known.kind) == (
            "c-1",
            "ann@example.org",
            "unsubscribed",
        )
        assert (stranger.contact_id, stranger.email) == (None, "stranger@x.org")
        assert known.occurred_at is not None
        assert abs(known.occurred_at - now) < timedelta(seconds=5)
        assert known.evidence["ts"].isdigit()
        assert len(await told(cop, now + timedelta(hours=2))) == 2
        assert await told(cop, now + timedelta(hours=4)) == []


async def test_what_unsubscribing_writes_may_be_nothing(box: Handle) -> None:
    """An empty value, or one that no condition can hold: everybody is read, then."""
    box.act("add_field", name="mailing", value="=on")
    box.act("set_unsubscribe", value="update", fields={"mailing": "=off"})
    async with adapter(box, subscribed_values={"mailing": "=on"}) as cop:
        await made(cop, person())
        box.act("unsubscribe", email="ann@example.org")
        ((notice,),) = [one async for one in cop.opt_outs(None)]
    assert notice.contact_id == "c-1"


# ── Refusals and faults ─────────────────────────────────────────────────────────────────────


async def test_a_bad_record_is_rejected_in_the_providers_words(box: Handle, version: str) -> None:
    box.set_limits(banned=["bad@x.org"])
    async with adapter(box, version) as cop:
        assert await pushed(cop, put(person("bad@x.org"))) == Rejected(
            "Failed to create profile", 400
        )
        assert await pushed(cop, put(person("no address"))) == Rejected("email is not an address")
        odd = await pushed(cop, put(person("=odd@x.org")))
        assert isinstance(odd, Rejected)
        nameless = await pushed(cop, put(person(), name="=x"))
        assert isinstance(nameless, Rejected)
        assert isinstance(await pushed(cop, put(person("good@x.org"))), Applied)


async def test_a_double_that_is_blocked_is_ours_if_it_has_our_key(
    box: Handle, version: str
) -> None:
    async with adapter(box, version) as cop:
        remote = await made(cop, person())
        box.set_limits(block_doubles=True, visible_after=0.0)
        other = await pushed(cop, put(person(), name="c-2"))
        assert other == Rejected("Failed to create profile", 400)
        assert remote == {"id": "18381"}


async def test_a_wrong_token_halts(box: Handle, version: str) -> None:
    async with adapter(box, version, token="f" * 32) as cop:
        with pytest.raises(Refused):
            await pushed(cop, put(person()))
        (found,) = await cop.check()
        assert (found.level, found.exit_code) == ("error", 77)
        assert "authorize again" in found.remedy


async def test_a_token_for_v4_only_works_nowhere_else(box: Handle) -> None:
    box.set_limits(tokens={TOKEN: "v4"})
    async with adapter(box, "v4") as cop:
        await made(cop, person())
    async with adapter(box, "v1") as cop:
        with pytest.raises(Refused):
            await pushed(cop, put(person()))


async def test_a_pass_is_got_once_and_again_when_it_is_refused(box: Handle) -> None:
    async with adapter(box, "v4") as cop:
        was = person()
        remote = await made(cop, was)
        assert box.state.ledger.by_path["/authenticate"] == 1
        box.act("expire_passes")
        want = person(city="Oslo")
        assert await pushed(cop, put(want, was, remote=remote)) == Applied(remote)
        assert box.state.ledger.by_path["/authenticate"] == 2
        box.set_limits(tokens={})
        box.act("expire_passes")
        with pytest.raises(Refused):
            await pushed(cop, put(was, want, remote=remote))
    assert at(box)["fields"]["city"] == "Oslo"


async def test_a_pass_that_runs_out_is_renewed_before(box: Handle) -> None:
    box.set_limits(pass_seconds=2)
    async with adapter(box, "v4") as cop:
        await cop.check()
        box.state.passes.clear()
        await asyncio.sleep(1.1)
        refused = box.state.ledger.answers["400"]
        await cop.check()
    assert box.state.ledger.answers["400"] == refused
    assert box.state.ledger.by_path["/authenticate"] == 2


FAULTS = [
    "error",
    "error_html",
    "error_after",
    "rate_429",
    "cut_before",
    "cut_after",
    "html",
    "half_answer",
    "garbage",
    "truncated_json",
    "outage_503",
    "outage_close",
]


@pytest.mark.parametrize("kind", FAULTS)
@pytest.mark.parametrize(
    ("version", "step"),
    [("v1", "look"), ("v1", "write"), ("v4", "look"), ("v4", "write"), ("v4", "interests")],
)
async def test_whatever_befalls_any_request_of_a_create_there_is_one_contact(
    box: Handle, version: str, kind: Any, step: str
) -> None:
    """The core in small: what is in doubt is looked up, then sent again."""
    async with adapter(box, version) as cop:
        lists = await with_lists(cop)
        await made(cop, person("first@x.org", lists), "c-0")
        _strike(box, kind, step)
        outcome = await _persist(cop, put(person(lists=lists, city="Oslo")))
    assert box.state.faults.struck == {kind: 1}
    assert isinstance(outcome, Applied)
    assert (at(box)["fields"]["city"], at(box)["mailable"]) == ("Oslo", True)
    assert lists_of(box) == {"Newsletter", "Our Customers"}


def _strike(box: Handle, kind: Any, step: str) -> None:
    """Once: the look, the write that follows it, or what comes after that one."""
    answer = box.state.answer

    def watch(call: Any, apply: bool) -> Any:
        if call.method == "GET" and call.path.endswith("/profiles"):
            box.state.answer = answer
            box.next_fault(kind, path=call.path)
        return answer(call, apply)

    profiles = next(p for p in box.state.ledger.by_path if p.endswith("/profiles"))
    if step == "look":
        box.next_fault(kind, path=profiles)
    elif step == "write":
        box.state.answer = watch
    else:
        box.next_fault(kind, path=f"{profiles[:3]}/profile/18382/interests")


async def _persist(cop: Copernica, change: Change) -> Outcome:
    for _ in range(6):
        try:
            if change.doubtful:
                (found,) = await cop.find([change])
                remote = found.remote
                change = change._replace(remote=remote, may_create=remote is None)
            return await pushed(cop, change)
        except ProviderError as error:
            if error.needs_a_person:
                raise
            change = change._replace(doubtful=change.doubtful or error.may_be_applied)
    raise AssertionError("it never ends")


@pytest.mark.parametrize("kind", FAULTS)
@pytest.mark.parametrize("verb", [Verb.PUT, Verb.WITHDRAW, Verb.DELETE, Verb.ERASE])
async def test_whatever_befalls_a_write_of_somebody_known_it_may_be_repeated(
    box: Handle, version: str, kind: Any, verb: Verb
) -> None:
    async with adapter(box, version) as cop:
        was = person(city="Rome")
        remote = await made(cop, was)
        written = f"/{version}/profile/18381"
        box.next_fault(kind, path=written if verb is Verb.DELETE else f"{written}/fields")
        change = drop(verb, was, remote)
        if verb is Verb.PUT:
            change = put(person(city="Oslo"), was, remote=remote)
        outcome = await _again(cop, change)
    assert isinstance(outcome, Applied)
    gone = not box.state.mailable(was.email)
    assert gone == (verb is not Verb.PUT)
    if verb is Verb.PUT:
        assert at(box)["fields"]["city"] == "Oslo"
    box.state.data.lost_writes.clear()


async def _again(cop: Copernica, change: Change) -> Outcome:
    for _ in range(4):
        with contextlib.suppress(Ambiguous, Transient, Unintelligible):
            return await pushed(cop, change)
    raise AssertionError("it never ends")


async def test_a_create_that_is_not_visible_yet_is_not_made_twice(box: Handle) -> None:
    async with adapter(box) as cop:
        await made(cop, person("first@x.org"), "c-0")
        box.set_limits(visible_after=0.6)
        _strike(box, "truncated_json", "write")  # applied, and its id is lost
        with pytest.raises(Ambiguous, match="not shown yet"):
            await pushed(cop, put(person()))
        await asyncio.sleep(0.7)  # the core waits `visible_after`
        assert isinstance(await _persist(cop, put(person(), doubtful=True)), Applied)
    assert len(box.snapshot()["profiles"]) == 2


# ── Bodies and statuses of every version ────────────────────────────────────────────────────


@pytest.mark.parametrize("put_answers", [303, 302, 200])
@pytest.mark.parametrize(
    ("each", "lists_as"),
    [("v1", "field"), *((v, how) for v in ALL[1:] for how in ("field", "interest"))],
)
async def test_every_version_takes_what_it_is_given(
    box: Handle, each: str, lists_as: str, put_answers: int
) -> None:
    box.set_limits(put_answers=put_answers, v1_removed=True)
    async with adapter(box, each, lists_as=lists_as) as cop:
        lists = await with_lists(cop)
        was = person(lists=lists, city="Rome")
        remote = await made(cop, was)
        want = person("new@x.org", {"news": lists["news"]}, city="Oslo")
        assert await pushed(cop, put(want, was, remote=remote)) == Applied(remote)
        assert lists_of(box, "new@x.org") == {"Newsletter"}
        assert [one.contact_id for one in await scanned(cop)] == ["c-1"]
        assert isinstance(await pushed(cop, drop(Verb.WITHDRAW, want, remote)), Applied)
        assert not box.state.mailable("new@x.org")
        assert isinstance(await pushed(cop, drop(Verb.DELETE, want, remote)), Applied)
        assert await scanned(cop) == []


@pytest.mark.parametrize(
    ("each", "upsert", "created", "updated", "deleted"),
    [
        ("v1", {"sync_id": "c-1"}, "303", "303", "200"),
        ("v2", {"fields": {"sync_id": "c-1"}}, "303", "303", "200"),
        ("v3", {"fields": {"sync_id": "c-1"}}, "201", "204", "204"),
        ("v4", {"fields": {"sync_id": "c-1"}}, "201", "204", "204"),
    ],
)
async def test_bodies_and_statuses(
    box: Handle, each: str, upsert: Any, created: str, updated: str, deleted: str
) -> None:
    bodies: dict[str, Any] = {}
    answer, answers = box.state.answer, box.state.ledger.answers

    def spy(call: Any, apply: bool) -> Any:
        told = answer(call, apply)
        if call.method in ("PUT", "DELETE"):
            bodies[f"{call.method} {call.path.rpartition('/')[2]}"] = (call.body, str(told.status))
        return told

    box.state.answer = spy
    async with adapter(box, each, lists_as="field") as cop:
        was = person()
        remote = await made(cop, was)
        await pushed(cop, put(person(city="Oslo"), was, remote=remote))
        await pushed(cop, drop(Verb.DELETE, was, remote))
    body, status = bodies["PUT profiles"]
    said = orjson.loads(body)
    fields = said["fields"] if "fields" in upsert else said
    assert (set(said) == {"fields"}, status) == ("fields" in upsert, created)
    assert fields["sync_id"] == "c-1"
    assert (orjson.loads(bodies["PUT fields"][0])["city"], bodies["PUT fields"][1]) == (
        "Oslo",
        updated,
    )
    assert bodies["DELETE 18381"] == (b"", deleted)
    assert answers[created] >= 1


# ── The token is in no message, log or table ────────────────────────────────────────────────


async def test_the_token_is_shown_nowhere(
    box: Handle, version: str, capsys: pytest.CaptureFixture[str]
) -> None:
    shown: list[str] = []
    jwt = ""
    log.configure("debug", "json")
    async with adapter(box, version) as cop:
        was = person()
        remote = await made(cop, was)
        jwt = next(iter(box.state.passes), "nothing")
        for kind in [*FAULTS, "revoked", "malformed"]:
            for change in (
                put(person(city=kind), was, remote=remote),
                put(person("b@x.org"), name="b"),
            ):
                box.next_fault(kind, times=3)  # type: ignore[arg-type]
                try:
                    shown.append(repr(await pushed(cop, change)))
                except ProviderError as error:
                    chain = [error, error.__cause__, error.__context__]
                    shown += [f"{one!r} {one} {getattr(one, 'args', '')}" for one in chain]
                box.state.faults.set({})
        shown.append(repr(await cop.check()))
    out, err = capsys.readouterr()
    for text in (*shown, out, err):
        assert TOKEN not in text
        assert jwt not in text
        assert "access_token=0" not in text
    box.state.data.turned_on.clear()
