"""Constant Contact's adapter against the strict stand-in: one challenge, whole documents, jobs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from adapters import Permits, drop, pushed, put
from pydantic import ValidationError

from syncd.errors import (
    Ambiguous,
    Indivisible,
    Misconfigured,
    OverQuota,
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
    OptedOut,
    Outcome,
    Person,
    Postponed,
    Rejected,
    Request,
    Started,
    Vanished,
    Verb,
)
from syncd.providers.constantcontact import (
    ConstantContact,
    ConstantContactCredential,
    ConstantContactOptions,
)
from syncd.providers.constantcontact_answers import judged
from syncd.providers.constantcontact_atom import feed, parsed
from syncd.providers.constantcontact_calls import next_page
from syncd.providers.constantcontact_digest import (
    Challenge,
    DigestState,
    authorization,
    challenge,
    next_nonce,
)
from syncd.providers.constantcontact_export import ASKED, rows
from syncd.providers.constantcontact_jobs import joined, plans, suits
from syncd.providers.constantcontact_single import NO_RETURN
from syncd.providers.constantcontact_translate import Rules, csv, differs, elements, email_fault
from syncd.sandbox import Handle, serve
from syncd.wire import HttpWire

# ── Digest: the reference's vectors ─────────────────────────────────────────────────────────


def test_a_header_quotes_what_must_be_quoted_and_nothing_else() -> None:
    asked = Challenge('r"\\', "n==", "o", "MD5", "auth")
    told = authorization(asked, "key%joe", "p", Request("GET", "/a?b=%40"), "0000000f", "c")

    assert told.startswith(
        'Digest username="key%joe", realm="r\\"\\\\", nonce="n==", uri="/a?b=%40"'
    )
    assert told.endswith('opaque="o", algorithm=MD5, qop=auth, nc=0000000f, cnonce="c"')
    bare = authorization(Challenge("r", "n"), "u", "p", Request("GET", "/"), "1", "c")
    assert not {"nc=", "qop=", "opaque=", "algorithm=", "cnonce="} & set(bare.split('"'))
    assert "nc=" not in bare
    assert "cnonce" not in bare


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ('Digest realm="r", nonce="n", qop="auth,auth-int"', Challenge("r", "n", qop="auth")),
        ('Basic realm="x, y=\\"z", Digest realm="a\\"b", nonce="n==", STALE=TRUE, opaque=""',
         Challenge('a"b', "n==", "", stale=True)),
        ("Negotiate abc==, OAuth realm=q, DIGEST NONCE=n,realm=r,stale=\"True\"",
         Challenge("r", "n", stale=True)),
        ('Digest realm="r", nonce="a", algorithm=SHA-512, Digest realm="r", nonce="b"',
         Challenge("r", "b")),
        ('Digest realm="r", nonce="n", qop="auth-int"', Challenge("r", "n", qop="auth-int")),
        ('Digest realm="r", nonce="n", qop="other"', None),
        ('Digest realm="r"', None),
        ('Basic realm="Digest nonce=1"', None),
        ("", None),
    ],
)  # fmt: skip
def test_the_challenge_is_found_among_others(header: str, expected: Challenge | None) -> None:
    assert challenge(Answer(401, {"www-authenticate": header}, b"")) == expected
    assert challenge(Answer(403, {"www-authenticate": header}, b"")) is None


def test_a_late_401_does_not_throw_away_the_nonce_that_another_one_renewed() -> None:
    state, request = DigestState(Request("GET", "/")), Request("GET", "/x")
    assert state.opening() is not None
    assert state.opened(_asks("one"))
    first, second = state.sign(KEY, request), state.sign(KEY, request)
    assert ("nc=00000001" in first["Authorization"], "nc=00000002" in second["Authorization"]) == (
        True, True,
    )  # fmt: skip

    assert state.renewed(first, _asks("two", "stale=true"))
    assert state.renewed(second, _asks("three", "stale=true"))
    again = state.sign(KEY, request)["Authorization"]
    assert 'nonce="two"' in again
    assert "nc=00000001" in again
    info = Answer(200, {"authentication-info": 'rspauth="x", nextnonce="four"'}, b"")
    assert next_nonce(info) == "four"
    assert not state.renewed({"Authorization": again}, info)
    assert 'nonce="four"' in state.sign(KEY, request)["Authorization"]


def _asks(nonce: str, more: str = "") -> Answer:
    header = f'Digest realm="r", qop="auth", nonce="{nonce}"' + (f", {more}" if more else "")
    return Answer(401, {"www-authenticate": header}, b"")


# ── The stand-in, the wire, the adapter ─────────────────────────────────────────────────────

KEY = ConstantContactCredential(
    api_key="7f3c2a10-1111-4222-8333-444455556666",
    username="syncd_sandbox",
    password="sandbox-password",
)


@asynccontextmanager
async def adapter(
    box: Handle,
    key: ConstantContactCredential = KEY,
    permits: Permits | None = None,
    **options: Any,
) -> AsyncIterator[ConstantContact]:
    chosen = ConstantContactOptions(base_url=box.url, poll_seconds=0.01, **options)
    permits = permits or Permits(ConstantContact.traits.meters)
    async with HttpWire(ConstantContact, chosen, lambda: key, permits, timeout=3) as wire:
        yield ConstantContact(wire, chosen, {})


@pytest.fixture
async def box() -> AsyncIterator[Handle]:
    """A stand-in with three lists; the test fails if it was ever used against its rules."""
    async with serve("constantcontact", job_seconds=0.01) as box:
        for name in ("Newsletter", "Customers", "Third"):
            box.act("add_list", name=name)
        yield box
        assert box.state.ledger.violations == []
        assert box.snapshot()["resubscribed"] == []


@pytest.fixture
def permits() -> Permits:
    return Permits(ConstantContact.traits.meters)


@pytest.fixture
async def cc(box: Handle, permits: Permits) -> AsyncIterator[ConstantContact]:
    async with adapter(box, permits=permits) as made:
        yield made


N, C, T = "101", "102", "103"
LISTS = {"news": N, "cust": C, "third": T}


def person(
    email: str = "ann@example.org", *lists: str, subscribed: bool = True, **fields: Any
) -> Person:
    return Person(email, fields, {one: LISTS[one] for one in lists}, subscribed)


async def settled(cc: ConstantContact, changes: Sequence[Change]) -> list[Outcome]:
    """Push, and look after what was started until nothing is: as the core does, by receipt."""
    outcomes = list(await cc.push(changes))
    for _ in range(200):
        waiting = [n for n, one in enumerate(outcomes) if isinstance(one, Started)]
        if not waiting:
            return outcomes
        await asyncio.sleep(0.005)
        first = outcomes[waiting[0]]
        assert isinstance(first, Started)
        same = [n for n in waiting if getattr(outcomes[n], "receipt", None) == first.receipt]
        told = await cc.resume(first.receipt, [changes[n] for n in same])
        for n, outcome in zip(same, told, strict=True):
            outcomes[n] = outcome
    raise AssertionError(f"still at it: {outcomes}")


def at(box: Handle, email: str) -> dict[str, Any]:
    profiles = box.snapshot()["profiles"].values()
    return next(one for one in profiles if one["email"] == email)


def held(box: Handle, email: str) -> list[int]:
    found: list[int] = at(box, email)["lists"]
    return found


def requests(box: Handle) -> int:
    number: int = box.state.ledger.requests
    return number


async def added(cc: ConstantContact, want: Person) -> Change:
    """Add somebody; the change that says the same again."""
    outcome = await pushed(cc, put(want))
    assert isinstance(outcome, Applied)
    return put(want, want, remote=outcome.remote)


# ── Declarations and options ────────────────────────────────────────────────────────────────


def test_what_it_says_of_itself() -> None:
    assert not ConstantContact.traits.can & (Can.RESUBSCRIBE | Can.SEES_GONE | Can.LEARNS)
    meter = ConstantContact.traits.meters["api"]
    assert (meter.per_second, meter.per_day) == (4.0, 10_000)


@pytest.mark.parametrize(
    "options",
    [{"bulk_from": 24}, {"poll_seconds": 0}, {"phone_as": "Fax"}, {"state_as": "x"}, {"nope": 1}],
)
def test_wrong_options(options: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        ConstantContactOptions(**options)


def test_a_credential_is_checked_and_its_secrets_are_hidden() -> None:
    assert ConstantContact.scope(ConstantContactOptions(), KEY) == KEY.api_key.get_secret_value()
    assert "sandbox-password" not in f"{KEY!r} {KEY.model_dump()}"
    good = {"api_key": "k", "username": "user12", "password": "p"}
    for name, bad in (("api_key", "a%b"), ("username", "a/b"), ("username", ""), ("password", "")):
        with pytest.raises(ValidationError):
            ConstantContactCredential(**{**good, name: bad})
    zoe = ConstantContactCredential(api_key="k", username="zoë@shop.example", password="p")
    made = ConstantContact.complete(zoe, Request("POST", "/activities"))
    assert made.target == "/ws/customers/zo%C3%AB@shop.example/activities"


# ── Signing over the wire ───────────────────────────────────────────────────────────────────


async def test_steady_work_costs_one_round_trip_a_call(
    box: Handle, cc: ConstantContact, permits: Permits
) -> None:
    for _ in range(10):
        await cc.lists()
    assert (requests(box), box.snapshot()["challenges"]) == (11, 1)
    assert permits.taken.total() == 11


async def test_fifty_who_start_cold_share_one_challenge(box: Handle, cc: ConstantContact) -> None:
    await asyncio.gather(*(cc.lists() for _ in range(50)))
    assert (requests(box), box.snapshot()["challenges"]) == (51, 1)


@pytest.mark.parametrize(
    "limits",
    [
        {"offers": "both"},
        {"algorithm": "MD5"},
        {"algorithm": "MD5-sess"},
        {"algorithm": "SHA-256"},
        {"qop": ""},
        {"qop": "auth,auth-int"},
        {"nonce_uses": 2},
        {"nonce_uses": 1, "tells_stale": False},
        {"realm": "a, b = c"},
    ],
)
async def test_every_challenge_is_answered(
    box: Handle, cc: ConstantContact, limits: dict[str, Any]
) -> None:
    box.set_limits(**limits)
    for _ in range(3):
        assert await cc.lists() == {N: "Newsletter", C: "Customers", T: "Third"}
    await added(cc, person("a@x.org", "news"))


async def test_a_server_that_wants_growing_counts_costs_repeats_and_no_failure(
    box: Handle, cc: ConstantContact
) -> None:
    box.set_limits(nc_order="growing")
    box.set_faults(latency_ms=[0, 10])
    done = await asyncio.gather(*(cc.lists() for _ in range(40)), return_exceptions=True)
    faults = [one for one in done if isinstance(one, BaseException)]
    assert [one for one in faults if not isinstance(one, Transient)] == []
    assert len(faults) < 40
    for _ in range(5):  # in order, nothing has to be said twice
        assert await cc.lists()


async def test_a_wrong_password_and_a_scheme_that_is_not_offered_are_told_apart(
    box: Handle,
) -> None:
    wrong = ConstantContactCredential(
        api_key=KEY.api_key.get_secret_value(), username="syncd_sandbox", password="other"
    )
    async with adapter(box, wrong) as cc:
        before = requests(box)
        with pytest.raises(Refused, match="password is wrong"):
            await cc.lists()
        assert requests(box) - before == 3  # the challenge, and never more than two in a row
        (finding,) = await cc.check()
        assert (finding.level, finding.exit_code) == ("error", 77)
        assert "API key" in finding.remedy
    box.set_limits(offers="basic")
    async with adapter(box) as cc:
        with pytest.raises(Refused, match=r"not offered there any more \(offered: basic, oauth\)"):
            await cc.push([put(person("a@x.org", "news"))])
        (finding,) = await cc.check()
        assert "base_url" in finding.remedy
        assert "sandbox-password" not in finding.says


async def test_another_customers_path_is_refused(box: Handle) -> None:
    box.set_limits(accounts={"syncd_sandbox": "sandbox-password", "other_user": "pw"})
    other = ConstantContactCredential(
        api_key=KEY.api_key.get_secret_value(), username="Syncd_Sandbox", password="x"
    )
    async with adapter(box, other) as cc:
        with pytest.raises(Refused):
            await cc.lists()


async def test_a_host_that_is_down_is_no_wrong_password(box: Handle, cc: ConstantContact) -> None:
    box.next_fault("outage_503", 1)
    with pytest.raises(Transient):
        await cc.lists()
    box.next_fault("html", 1)
    assert await cc.lists()  # a page instead of the challenge: it asks for none, so it seems


async def test_revoked_then_back(box: Handle, cc: ConstantContact) -> None:
    await cc.lists()
    box.set_faults(revoked=True)
    with pytest.raises(Refused):
        await cc.lists()
    box.set_faults()
    assert await cc.lists()


# ── What answers mean ───────────────────────────────────────────────────────────────────────

PUT_ONE = Request("PUT", "/contacts/17", b"<x/>")
LOOK = Request("GET", "/contacts?email=a%40x.org")


@pytest.mark.parametrize(
    ("request_", "status", "body", "headers", "kind"),
    [
        (PUT_ONE, 403, b"Forbidden", {}, "ok"),
        (PUT_ONE, 403, b"<h1>Developer Over Qps</h1>", {}, OverQuota),
        (Request("GET", "/lists"), 403, b"no", {}, Misconfigured),
        (Request("GET", "/lists"), 404, b"", {}, None),
        (Request("GET", "/lists/7"), 404, b"", {}, "ok"),
        (PUT_ONE, 400, b"bad", {}, "ok"),
        (PUT_ONE, 409, b"", {}, "ok"),
        (PUT_ONE, 415, b"", {}, Misconfigured),
        (PUT_ONE, 500, b"", {}, None),
        (PUT_ONE, 429, b"", {}, OverQuota),
        (LOOK, 500, b"", {}, "ok"),
        (Request("GET", "/contacts?updatedsince=x&listtype=y"), 500, b"", {}, None),
        (LOOK, 200, b" <!DOCTYPE html><html>", {}, Transient),
        (PUT_ONE, 200, b"<html>", {}, Ambiguous),
        (PUT_ONE, 401, b"", {"www-authenticate": 'Digest realm="r", nonce="n"'}, Refused),
        (PUT_ONE, 401, b"", {"www-authenticate": 'Digest nonce="n", stale=true'}, Transient),
    ],
)
def test_what_a_status_means(
    request_: Request, status: int, body: bytes, headers: dict[str, str], kind: Any
) -> None:
    told = judged(request_, Answer(status, headers, body))
    assert told == kind if not isinstance(kind, type) else type(told) is kind


def test_a_quota_of_a_day_is_over_at_midnight_one_of_a_second_in_a_second() -> None:
    def after(code: str, headers: dict[str, str]) -> float:
        told = judged(LOOK, Answer(403, {"x-mashery-error-code": code, **headers}, b""))
        assert isinstance(told, OverQuota)
        return told.after

    assert after("ERR_403_DEVELOPER_OVER_QPS", {}) == 1.0
    tomorrow = (datetime.now(UTC) + timedelta(days=1)).replace(hour=0, minute=0, second=0)
    left = (tomorrow - datetime.now(UTC)).total_seconds()
    assert abs(after("ERR_403_DEVELOPER_OVER_RATE", {}) - left) < 3
    assert after("ERR_403_DEVELOPER_OVER_RATE", {"retry-after": "77"}) == 1.0  # the wire's to read


async def test_a_quota_holds_off_everybody_who_shares_the_key(
    box: Handle, cc: ConstantContact, permits: Permits
) -> None:
    await cc.lists()
    box.set_limits(per_day=3)
    await cc.lists()
    with pytest.raises(OverQuota, match="of a day"):
        await cc.lists()
    assert len(permits.held) == 1
    box.set_limits(per_day=None)
    box.next_fault("rate_429")
    with pytest.raises(OverQuota, match="a second"):
        await cc.lists()
    assert permits.held[-1] == 1.0


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"not xml",
        b"<feed/>",
        b'<!DOCTYPE feed [<!ENTITY a "b">]><feed xmlns="http://www.w3.org/2005/Atom">&a;</feed>',
        b'<!DOCTYPE f SYSTEM "http://127.0.0.1:1/x.dtd"><feed xmlns="http://www.w3.org/2005/Atom"/>',
        b'<?xml version="1.0"?><feed xmlns="http://www.w3.org/2005/Atom">',
    ],
)
def test_what_is_no_atom_is_not_read_and_entities_are_not_followed(body: bytes) -> None:
    with pytest.raises(Unintelligible):
        parsed(Answer(200, {}, body))
    with pytest.raises(Unintelligible):
        feed(Answer(200, {}, b'<entry xmlns="http://www.w3.org/2005/Atom"/>'), "Contact")


@pytest.mark.parametrize(
    ("path", "link", "target"),
    [
        ("/contacts", "/ws/customers/Joe/contacts?next=a%3D", "/contacts?next=a%3D"),
        ("/lists", "lists?next=6", "/lists?next=6"),
        ("/lists/5/members", "members?next=6", "/lists/5/members?next=6"),
        ("/contacts", "http://api.constantcontact.com/ws/customers/joe/contacts?next=b",
         "/contacts?next=b"),
        ("/contacts", "https://evil.example/contacts?next=b", None),
        ("/contacts", "/ws/customers/joe/lists?next=b", None),
        ("/contacts", "/ws/customers/joe/../x/contacts?next=b", None),
        ("/contacts", "/etc?next=b", None),
        ("/contacts", "contacts?next=b c", None),
        ("/contacts", "contacts", None),
    ],
)  # fmt: skip
def test_a_next_page_is_only_looked_for_in_the_same_collection(
    path: str, link: str, target: str | None
) -> None:
    if target is None:
        with pytest.raises(Unintelligible):
            next_page(path, link)
    else:
        assert next_page(path, link) == target


# ── Values ──────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"State": "ma", "Country": "US"},
         {"StateCode": "MA", "StateName": "", "CountryCode": "us", "CountryName": ""}),
        ({"State": "Ontario", "Country": "Canada"}, {"StateCode": "ON", "CountryCode": "ca"}),
        ({"State": "ON", "Country": "us"}, {"StateCode": "", "StateName": "ON"}),
        ({"State": "Texas"}, {"StateCode": "TX", "StateName": ""}),
        ({"State": "CA", "Country": "Germany"},
         {"StateCode": "", "StateName": "CA", "CountryName": "Germany", "CountryCode": ""}),
        ({"State": None, "Country": None}, {"StateCode": "", "StateName": "", "CountryName": ""}),
        ({"Address": "1 Rd\r\nFlat 2\n\nX\nY"},
         {"Addr1": "1 Rd", "Addr2": "Flat 2", "Addr3": "X, Y"}),
        ({"Address": None}, {"Addr1": "", "Addr2": "", "Addr3": ""}),
        ({"FirstName": " A\x00\x1b\tn\nn\ud800 "}, {"FirstName": "A\tn n"}),
        ({"Phone": 123}, {"WorkPhone": "123"}),
        ({"CustomField3": True}, {"CustomField3": "true"}),
        ({"EmailType": "text"}, {"EmailType": "Text"}),
    ],
)  # fmt: skip
def test_fields_become_elements(fields: dict[str, Any], expected: dict[str, str]) -> None:
    made = elements(person(**fields), Rules())
    assert {name: made[name] for name in expected} == expected


def test_what_is_too_long_is_cut_and_said_and_what_has_no_place_too() -> None:
    lacking: list[str] = []
    made = elements(
        person(LastName="x" * 51, Phone="1" * 26, Nope="x"), Rules("HomePhone"), lacking
    )

    assert (len(made["LastName"]), len(made["HomePhone"])) == (50, 25)
    assert lacking == [
        "field:Nope has no place there",
        "field:LastName is cut at 50 characters",
        "field:HomePhone is cut at 25 characters",
    ]


@pytest.mark.parametrize(
    ("wanted", "there", "same"),
    [
        ({"StateCode": "MA", "StateName": ""},
         {"StateCode": "MA", "StateName": "Massachusetts"}, 1),
        ({"StateCode": "", "StateName": "Texas"}, {"StateCode": "TX", "StateName": "Texas"}, 1),
        ({"StateCode": "", "StateName": "Bavaria"}, {"StateName": "Hesse"}, 0),
        ({"CountryCode": "us", "CountryName": ""}, {"CountryCode": "US", "CountryName": "U"}, 1),
        ({"CountryCode": "", "CountryName": "Germany"},
         {"CountryCode": "de", "CountryName": "Germany"}, 1),
        ({"City": "New  York "}, {"City": "New York"}, 1),
        ({"City": ""}, {"City": "Rome"}, 0),
        ({"City": ""}, {}, 1),
    ],
)  # fmt: skip
def test_what_the_provider_makes_of_a_value_is_no_difference(
    wanted: dict[str, str], there: dict[str, str], same: int
) -> None:
    assert differs(wanted, there) is not bool(same)


@pytest.mark.parametrize("email", ["", "a", "a@b", "a b@x.org", "a\x01@x.org", f"{'a' * 80}@x.org"])
def test_what_is_no_address(email: str) -> None:
    assert email_fault(email)
    assert not email_fault("o'x+1@sub.example.org")


# ── One by one ──────────────────────────────────────────────────────────────────────────────

HOSTILE: dict[str, Any] = {
    "FirstName": "Zoë & <b> \"q\" 'x'",
    "LastName": "Ångström\x07 ]]>",
    "Address": "Åvej 1\nÉtage 3",
    "City": "Łódź",
    "Phone": "+45 33 (0) 12-34",
    "State": "new york",
    "Country": "us",
    "CompanyName": None,
}


async def test_a_contact_is_made_changed_and_cleared(box: Handle, cc: ConstantContact) -> None:
    want = person("Ann@Example.org", "news", "cust", **HOSTILE)
    again = await added(cc, want)
    there = at(box, "ann@example.org")
    assert there["fields"] == {
        "FirstName": 'Zoë & <b> "q" \'x\'', "LastName": "Ångström ]]>", "Addr1": "Åvej 1",
        "Addr2": "Étage 3", "City": "Łódź", "WorkPhone": "+45 33 (0) 12-34", "StateCode": "NY",
        "StateName": "New York", "CountryCode": "us", "CountryName": "United States",
    }  # fmt: skip
    assert (there["lists"], there["status"]) == ([101, 102], "Active")

    before = requests(box)
    assert await pushed(cc, again) == Applied({"id": "5001"})
    assert requests(box) - before == 1  # it is as it should be: nothing is put
    less = person("ann@example.org", "cust", City=None, Address=None, FirstName="Ann")
    assert await pushed(cc, put(less, want, remote=again.remote)) == Applied({"id": "5001"})
    assert requests(box) - before == 3
    fields = at(box, "ann@example.org")["fields"]
    assert (fields["FirstName"], fields["LastName"]) == ("Ann", "Ångström ]]>")
    assert not {"City", "Addr1", "Addr2"} & fields.keys()
    assert held(box, "ann@example.org") == [102]


async def test_lists_and_fields_that_are_not_ours_stay(box: Handle, cc: ConstantContact) -> None:
    change = await added(cc, person("a@x.org", "news", FirstName="A"))
    box.act("join_list", email="a@x.org", list=103)
    box.act("set_field", email="a@x.org", name="CustomField9", value="theirs")
    want = person("a@x.org", "cust", FirstName="B")

    assert isinstance(await pushed(cc, change._replace(want=want)), Applied)
    assert held(box, "a@x.org") == [102, 103]
    assert at(box, "a@x.org")["fields"] == {"FirstName": "B", "CustomField9": "theirs"}
    gone = drop(Verb.WITHDRAW, want, remote=change.remote)
    assert await pushed(cc, gone) == Applied()
    assert (held(box, "a@x.org"), at(box, "a@x.org")["status"]) == ([103], "Active")
    assert await pushed(cc, gone) == Applied()


async def test_a_no_is_final_and_said_once(box: Handle, cc: ConstantContact) -> None:
    change = await added(cc, person("a@x.org", "news"))
    silent = change._replace(want=person("a@x.org", "news", subscribed=False))
    assert await pushed(cc, silent) == Applied({"id": "5001"})
    assert (at(box, "a@x.org")["status"], held(box, "a@x.org")) == ("Do Not Mail", [])
    assert await pushed(cc, silent) == Applied({"id": "5001"})  # a second DELETE is not made
    outcome = await pushed(cc, put(person("b@x.org", subscribed=False), may_create=False))
    assert isinstance(outcome, Absent)


@pytest.mark.parametrize("opted_out", ["403", "400"])
async def test_who_said_no_there_is_never_mailed_again(
    box: Handle, cc: ConstantContact, opted_out: str
) -> None:
    box.set_limits(opted_out=opted_out)
    change = await added(cc, person("a@x.org", "news"))
    box.act("unsubscribe", email="a@x.org")
    new = person("a@x.org", "news", "cust")
    for one in (change._replace(want=new), put(new), put(new, may_create=False),
                change._replace(want=new, doubtful=True)):  # fmt: skip
        outcome = await pushed(cc, one)
        assert isinstance(outcome, OptedOut)
        assert (outcome.kind, outcome.list_id) == ("unsubscribed", None)
    newer = await pushed(cc, change._replace(resubscribe=True))
    assert isinstance(newer, Applied)
    assert newer.lacking == (NO_RETURN,)
    assert await pushed(cc, drop(Verb.WITHDRAW, new)) == Applied()
    assert at(box, "a@x.org")["status"] == "Do Not Mail"


@pytest.mark.parametrize("opted_out", ["403", "400"])
async def test_a_no_between_the_look_and_the_put_is_seen(
    box: Handle, cc: ConstantContact, opted_out: str
) -> None:
    box.set_limits(opted_out=opted_out)
    change = await added(cc, person("a@x.org", "news"))
    box.set_faults(latency_ms=[40, 40])
    task = asyncio.create_task(pushed(cc, change._replace(want=person("a@x.org", "cust"))))
    await asyncio.sleep(0.055)
    box.act("unsubscribe", email="a@x.org")
    assert isinstance(await task, OptedOut)


async def test_who_left_a_list_there_is_not_put_into_it_again(
    box: Handle, cc: ConstantContact
) -> None:
    change = await added(cc, person("a@x.org", "news", "cust", FirstName="A"))
    box.act("leave_list", email="a@x.org", list=101)
    told = await pushed(cc, change._replace(want=person("a@x.org", "news", "cust", FirstName="B")))

    assert isinstance(told, OptedOut)
    assert told.list_id == "news"
    assert held(box, "a@x.org") == [102]


async def test_who_left_a_list_there_while_an_answer_was_lost(
    box: Handle, cc: ConstantContact
) -> None:
    """One by one, and by a job: a list that no lost try was to leave has been left over there."""
    change = await added(cc, person("a@x.org", "news", "cust", FirstName="A"))
    box.act("leave_list", email="a@x.org", list=101)
    both = person("a@x.org", "news", "cust", FirstName="B")
    again = change._replace(want=both, doubtful=True, sure=("news",))
    assert joined(again) == {"102"}
    told = await pushed(cc, again)
    assert isinstance(told, OptedOut)
    assert (told.list_id, held(box, "a@x.org")) == ("news", [102])

    assert isinstance(await pushed(cc, again._replace(sure=("cust",))), Applied)
    assert held(box, "a@x.org") == [101, 102]


async def test_withdrawn_and_back_is_mailable_again(box: Handle, cc: ConstantContact) -> None:
    want = person("a@x.org", "news")
    change = await added(cc, want)
    await pushed(cc, drop(Verb.DELETE, want, remote=change.remote))
    assert at(box, "a@x.org")["status"] == "Removed"
    was = Person("a@x.org", {}, {}, False)
    back = put(want, was, remote=change.remote, resubscribe=True)
    assert await pushed(cc, back) == Applied({"id": "5001"})
    assert at(box, "a@x.org")["mailable"]


async def test_a_changed_address_is_another_record_and_the_old_one_leaves_our_lists(
    box: Handle, cc: ConstantContact
) -> None:
    was = person("old@x.org", "news", FirstName="A")
    change = await added(cc, was)
    box.act("join_list", email="old@x.org", list=103)
    new = person("New@x.org", "cust", FirstName="A")

    assert await pushed(cc, put(new, was, remote=change.remote)) == Applied({"id": "5002"})
    assert (held(box, "new@x.org"), held(box, "old@x.org")) == ([102], [103])
    assert at(box, "old@x.org")["status"] == "Active"


async def test_a_swap_is_two_updates(box: Handle, cc: ConstantContact) -> None:
    """The core exchanges what the mirror says of them; so each is an ordinary update."""
    one = await added(cc, person("a@x.org", "news", FirstName="Ann"))
    two = await added(cc, person("b@x.org", "cust", FirstName="Bob"))
    for change, first, lists in ((one, "Bob", ("cust",)), (two, "Ann", ("news",))):
        assert change.was is not None
        want = person(change.was.email, *lists, FirstName=first)
        assert isinstance(await pushed(cc, change._replace(want=want)), Applied)

    assert (at(box, "a@x.org")["fields"], held(box, "a@x.org")) == ({"FirstName": "Bob"}, [102])
    assert (at(box, "b@x.org")["fields"], held(box, "b@x.org")) == ({"FirstName": "Ann"}, [101])


@pytest.mark.parametrize("none_found", ["feed", "500"])
async def test_who_is_not_there(box: Handle, cc: ConstantContact, none_found: str) -> None:
    box.set_limits(none_found=none_found)
    want = person("a@x.org", "news")
    assert isinstance(await pushed(cc, put(want, may_create=False)), Absent)
    assert isinstance(await pushed(cc, put(want, want, remote={"id": "9"})), Vanished)
    assert isinstance(await pushed(cc, put(person("a@x.org"))), Absent)  # it is in no list
    assert await pushed(cc, drop(Verb.WITHDRAW, want)) == Applied()
    assert [one.remote for one in await cc.find([put(want)])] == [None]
    assert isinstance(await pushed(cc, put(want, doubtful=True)), Applied)


@pytest.mark.parametrize("none_found", ["feed", "500"])
async def test_a_search_that_fails_is_not_taken_for_nobody(
    box: Handle, cc: ConstantContact, none_found: str
) -> None:
    await added(cc, person("a@x.org", "news"))
    box.set_limits(none_found=none_found)
    question = put(person("a@x.org", "news", subscribed=False), may_create=False)
    box.set_faults(error_rate=1.0, statuses=[500])
    with pytest.raises(Transient):
        await pushed(cc, question)
    box.set_faults()
    path = "/ws/customers/syncd_sandbox/contacts"
    for times in (2, 3):  # the search and what is to vouch for it; both searches
        box.next_fault("error", times, path)
        with pytest.raises(Transient):
            await pushed(cc, question)
        box.set_faults()
    leaves = drop(Verb.WITHDRAW, person("a@x.org", "news"))
    box.set_faults(error_rate=1.0, statuses=[500], paths=[path])  # all else works
    with pytest.raises(Transient):
        await pushed(cc, leaves)
    assert held(box, "a@x.org") == [101]
    box.set_faults()
    box.next_fault("error", 1, path)
    assert isinstance(await pushed(cc, question), Applied)  # somebody else vouches
    assert at(box, "a@x.org")["status"] == "Do Not Mail"


@pytest.mark.parametrize("number", [1, 49, 50, 51, 120])
async def test_nobody_found_is_told_by_somebody_who_is_there(
    box: Handle, cc: ConstantContact, number: int
) -> None:
    """Searches hold at most fifty addresses, with whoever vouches for them."""
    box.set_limits(none_found="500")
    asked = [put(person(f"nobody{n}@x.org")) for n in range(number)]
    assert {one.remote for one in await cc.find(asked)} == {None}  # nor is anybody else
    await added(cc, person("a@x.org", "news"))
    assert {one.remote for one in await cc.find(asked)} == {None}
    found = await cc.find([*asked, put(person("a@x.org"))])
    assert [one.remote for one in found] == [None] * number + [{"id": "5001"}]


async def test_a_known_address_is_adopted_not_doubled(box: Handle, cc: ConstantContact) -> None:
    box.act("add", email="a@x.org", list=103)
    box.act("set_field", email="a@x.org", name="City", value="Rome")
    outcome = await pushed(cc, put(person("A@x.org", "news", FirstName="A", City=None)))

    assert outcome == Applied({"id": "5001"})
    assert held(box, "a@x.org") == [101, 103]
    assert at(box, "a@x.org")["fields"] == {"FirstName": "A"}


async def test_a_refusal_is_one_contacts(box: Handle, cc: ConstantContact) -> None:
    box.set_limits(refused=["bad@x.org"], most_contacts=1)
    outcomes = await cc.push(
        [put(person(one, "news")) for one in ("bad@x.org", "a@x.org", "no address")]
    )
    assert outcomes[0] == Rejected("Error 400: Email address is not valid", 400)
    assert isinstance(outcomes[1], Applied)
    assert outcomes[2] == Rejected("EmailAddress is not an address")
    full = await pushed(cc, put(person("b@x.org", "news")))
    assert full == Rejected("Error 400: the account is full", 400)


async def test_a_list_that_is_gone_refuses_one_contact(box: Handle, cc: ConstantContact) -> None:
    change = await added(cc, person("a@x.org", "news"))
    box.act("delete_list", list=102)
    outcome = await pushed(cc, change._replace(want=person("a@x.org", "news", "cust")))
    assert outcome == Rejected("Error 400: list not found", 400)
    box.state.ledger.violations.clear()


async def test_erasure_empties_everything_and_the_rest_is_by_hand(
    box: Handle, cc: ConstantContact
) -> None:
    want = person("a@x.org", "news", **HOSTILE)
    change = await added(cc, want)
    box.act("set_field", email="a@x.org", name="Note", value="met in Rome")
    gone = drop(Verb.ERASE, want, remote=change.remote)
    for _ in range(2):
        assert await pushed(cc, gone) == Applied()
    there = at(box, "a@x.org")
    assert (there["fields"], there["lists"], there["status"]) == ({}, [], "Removed")
    told = await cc.erased(gone, datetime.now(UTC))
    assert "support erase contact 5001" in told.by_hand
    assert "still has" not in told.by_hand
    box.act("set_field", email="a@x.org", name="City", value="Rome")
    box.act("unsubscribe", email="a@x.org")
    assert await pushed(cc, gone) == Applied()
    assert "still has City" in (await cc.erased(gone, datetime.now(UTC))).by_hand
    assert (await cc.erased(gone._replace(remote={"id": "9"}), datetime.now(UTC))).confirmed
    assert (await cc.erased(drop(Verb.ERASE, None), datetime.now(UTC))).confirmed


@pytest.mark.parametrize(
    "limits",
    [
        {"put_answer": 201},
        {"omitted": "kept"},
        {"ids_user": "Syncd_Sandbox"},
        {"contacts": "active"},
    ],
)
async def test_the_open_questions_of_the_reference_do_not_matter(
    box: Handle, cc: ConstantContact, limits: dict[str, Any]
) -> None:
    box.set_limits(**limits)
    change = await added(cc, person("a@x.org", "news", FirstName="A", City="Rome"))
    want = person("a@x.org", "cust", FirstName="B", City=None)
    assert isinstance(await pushed(cc, change._replace(want=want)), Applied)
    assert at(box, "a@x.org")["fields"] == {"FirstName": "B"}
    assert held(box, "a@x.org") == [102]


# ── Faults ──────────────────────────────────────────────────────────────────────────────────

LOST = ("cut_after", "half_answer", "garbage", "error_after", "html")


@pytest.mark.parametrize("kind", LOST)
async def test_a_lost_answer_to_a_create_is_ambiguous_and_the_repeat_makes_no_second_one(
    box: Handle, cc: ConstantContact, kind: Any
) -> None:
    await added(cc, person("z@x.org", "news"))
    box.next_fault(kind, 1, "/ws/customers/syncd_sandbox/contacts")
    change = put(person("a@x.org", "news", FirstName="A"))
    with pytest.raises(ProviderError) as told:
        await pushed(cc, change)
    assert told.value.may_be_applied
    lost = Person("a@x.org", {}, {"news": N}, True)
    assert await pushed(cc, change._replace(doubtful=True, was=lost)) == Applied({"id": "5002"})
    assert len(box.snapshot()["profiles"]) == 2


@pytest.mark.parametrize("kind", ["cut_after", "error_after", "cut_before", "error", "error_html"])
@pytest.mark.parametrize("what", ["update", "silence", "leave"])
async def test_every_write_may_be_repeated(
    box: Handle, cc: ConstantContact, kind: Any, what: str
) -> None:
    was = person("a@x.org", "news", "cust", FirstName="A")
    known = await added(cc, was)
    change = {
        "update": known._replace(want=person("a@x.org", "news", FirstName="B")),
        "silence": known._replace(want=person("a@x.org", "news", subscribed=False)),
        "leave": drop(Verb.WITHDRAW, was, remote=known.remote),
    }[what]
    box.next_fault(kind, method="DELETE" if what == "silence" else "PUT")
    with pytest.raises(Ambiguous):
        await pushed(cc, change)
    assert isinstance(await pushed(cc, change._replace(doubtful=True)), Applied)
    there = at(box, "a@x.org")
    expected = {
        "update": ([101], "Active"),
        "silence": ([], "Do Not Mail"),
        "leave": ([], "Removed"),
    }
    assert (there["lists"], there["status"]) == expected[what]


async def test_of_several_only_those_that_met_a_fault_are_put_off(
    box: Handle, cc: ConstantContact
) -> None:
    await cc.lists()
    box.next_fault("rate_429", 2, "/ws/customers/syncd_sandbox/contacts")
    changes = [put(person(f"p{n}@x.org", "news")) for n in range(6)]
    outcomes = await cc.push(changes)
    off = [one for one in outcomes if isinstance(one, Started)]
    assert len(off) == 2
    assert all(one.look_after >= 1 for one in off)
    assert {type(one) for one in outcomes} == {Started, Applied}
    told = await cc.resume(off[0].receipt, [c for c, o in zip(changes, outcomes, strict=True)
                                            if isinstance(o, Started)])  # fmt: skip
    assert all(isinstance(one, Applied) for one in told)
    assert len(box.snapshot()["profiles"]) == 6


async def test_an_answer_from_nowhere_is_not_believed(box: Handle, cc: ConstantContact) -> None:
    change = await added(cc, person("a@x.org", "news"))
    for kind in ("html", "garbage", "truncated_json", "error", "error_html", "half_answer"):
        box.next_fault(kind, 1)
        with pytest.raises(ProviderError):
            await pushed(cc, change._replace(want=person("a@x.org", "cust")))
    assert held(box, "a@x.org") == [101]


# ── Jobs ────────────────────────────────────────────────────────────────────────────────────


def crowd(number: int, *lists: str, **fields: Any) -> list[Change]:
    return [
        put(person(f"p{n:04}@x.org", *lists, FirstName=f"F{n}", **fields)) for n in range(number)
    ]


def jobs(box: Handle) -> list[tuple[str, list[int], int]]:
    return [(one["type"], one["lists"], one["rows"]) for one in box.snapshot()["jobs"]]


@pytest.mark.parametrize(("number", "expected"), [(24, 0), (25, 1)])
async def test_from_25_on_it_is_a_job(
    box: Handle, cc: ConstantContact, number: int, expected: int
) -> None:
    outcomes = await settled(cc, crowd(number, "news", State="MA", Country="us", Phone="1,2"))
    assert all(isinstance(one, Applied) for one in outcomes)
    assert len(jobs(box)) == expected
    people = box.snapshot()["profiles"].values()
    assert {tuple(one["lists"]) for one in people} == {(101,)}
    assert sorted(one["fields"]["FirstName"] for one in people) == sorted(
        f"F{n}" for n in range(number)
    )
    first = at(box, "p0000@x.org")["fields"]
    assert (first["StateCode"], first["CountryCode"], first["WorkPhone"]) == ("MA", "us", "1,2")


async def test_a_thousand_known_contacts_cost_twelve_requests_or_less(
    box: Handle, cc: ConstantContact
) -> None:
    """One changed field, one list each, three lists; the challenge and the polls included."""
    names = ("news", "cust", "third")
    was = [person(f"p{n}@x.org", names[n % 3], FirstName="A") for n in range(1000)]
    new = [one._replace(fields={"FirstName": "B"}) for one in was]
    await settled(cc, [put(one) for one in was])
    before = requests(box)
    box.state.gate.nonces.clear()  # the night is over
    outcomes = await settled(cc, [put(b, a) for a, b in zip(was, new, strict=True)])

    assert all(isinstance(one, Applied) for one in outcomes)
    assert requests(box) - before <= 12
    assert {one["fields"]["FirstName"] for one in box.snapshot()["profiles"].values()} == {"B"}
    assert box.snapshot()["repeated_jobs"] == []


@pytest.mark.parametrize(
    ("sets", "expected"),
    [
        ([{"a"}, {"a", "b"}, {"b"}], 2),  # by list
        ([{"a", "b", "c"}], 1),  # by set
        ([{"a"}, {"b"}], 2),
        ([{"a", "b"}, {"a", "c"}, {"b", "c"}, {"a", "b", "c"}], 3),
    ],
)
def test_the_fewest_jobs_are_chosen(sets: list[set[str]], expected: int) -> None:
    found, overlap = plans("SV_ADD", {n: frozenset(one) for n, one in enumerate(sets)})
    assert len(found) == expected
    for n, one in enumerate(sets):
        given = [plan.lists for plan in found if n in plan.members]
        assert frozenset().union(*given) == one
        assert overlap or len(given) == 1


async def test_lists_are_changed_by_jobs_and_no_list_has_two_at_a_time(
    box: Handle, cc: ConstantContact
) -> None:
    """The stand-in counts two jobs at one list as a breach."""
    box.set_limits(job_seconds=0.05)
    sets = [
        ("news",),
        ("news", "cust"),
        ("cust",),
        ("third",),
        ("news", "third"),
        ("cust", "third"),
    ]
    was = [person(f"p{n}@x.org", *sets[n % 6], FirstName="A") for n in range(60)]
    new = [person(f"p{n}@x.org", *sets[(n + 1) % 6], FirstName="B") for n in range(60)]
    await settled(cc, [put(one) for one in was])
    await settled(cc, [put(b, a) for a, b in zip(was, new, strict=True)])
    for n in range(60):
        there = at(box, f"p{n}@x.org")
        assert there["lists"] == sorted(int(one) for one in new[n].lists.values())
        assert there["fields"] == {"FirstName": "B"}
    gone = await settled(cc, [drop(Verb.WITHDRAW, one) for one in new])
    assert gone == [Applied()] * 60
    assert {one["status"] for one in box.snapshot()["profiles"].values()} == {"Removed"}
    assert {one["status"] for one in box.snapshot()["jobs"]} == {"COMPLETE"}
    assert box.state.ledger.by_path["/ws/customers/syncd_sandbox/contacts"] == 0


async def test_another_process_has_a_job_running(box: Handle, cc: ConstantContact) -> None:
    box.set_limits(job_seconds=0.1)
    async with adapter(box) as other:
        begun = await other.push(crowd(30, "news"))
        changes = [put(person(f"q{n}@x.org", "news")) for n in range(30)]
        waiting = await cc.push(changes)
        assert {tuple(one.receipt) for one in waiting if isinstance(one, Started)} == {("later",)}
        assert all(isinstance(one, Started) and "jobs" in one.receipt for one in begun)
        assert all(isinstance(one, Applied) for one in await settled(cc, changes))
    assert len(box.snapshot()["profiles"]) == 60


async def test_a_field_to_clear_a_status_and_an_address_go_one_by_one(
    box: Handle, cc: ConstantContact
) -> None:
    was = [person(f"p{n}@x.org", "news", FirstName="A", City="Rome") for n in range(40)]
    await settled(cc, [put(one) for one in was])
    new = list(was)
    new[0] = person("p0@x.org", "news", FirstName="B", City=None)
    new[1] = person("p1@x.org", "news", subscribed=False)
    new[2] = person("moved@x.org", "news", FirstName="A", City="Rome")
    new[3] = person("p3@x.org", "news", FirstName='"B"', City="Rome")
    new[4:] = [one._replace(fields={"FirstName": "C", "City": "Rome"}) for one in new[4:]]
    outcomes = await settled(cc, [put(b, a) for a, b in zip(was, new, strict=True)])

    assert all(isinstance(one, Applied) for one in outcomes)
    assert jobs(box)[1:] == [("SV_ADD", [101], 36)]
    assert at(box, "p0@x.org")["fields"] == {"FirstName": "B"}
    assert at(box, "p1@x.org")["status"] == "Do Not Mail"
    assert (held(box, "moved@x.org"), held(box, "p2@x.org")) == ([101], [])
    assert at(box, "p3@x.org")["fields"]["FirstName"] == '"B"'
    assert at(box, "p39@x.org")["fields"]["FirstName"] == "C"


def test_what_a_job_can_carry() -> None:
    full, some = (
        person("a@x.org", "news", City="R", Note=None),
        person("a@x.org", "news", City=None),
    )
    rules = Rules()
    assert suits(put(some), rules)
    assert not suits(put(some, doubtful=True), rules)  # what a lost try has set is not known
    assert not suits(put(some, may_create=False), rules)
    assert not suits(put(some, full), rules)
    assert suits(put(full, some), rules)
    assert not suits(put(some, some._replace(fields={})), rules)  # adopted: it may have a city
    assert not suits(put(full, full, resubscribe=True), rules)
    assert not suits(put(person("a@x.org", "news", Note="x")), rules)
    assert not suits(put(person("a@x.org")), rules)
    assert not suits(drop(Verb.DELETE, full), rules)
    assert not suits(drop(Verb.WITHDRAW, full, doubtful=True), rules)
    assert csv(["A", "B"], [["1,5", ""]]) == 'A,B\n"1,5",\n'


async def test_row_errors_of_a_job_that_is_complete_are_honoured(
    box: Handle, cc: ConstantContact
) -> None:
    box.set_limits(refused=["p0001@x.org"])
    box.act("add", email="p0002@x.org", list=103)
    box.act("unsubscribe", email="p0002@x.org")
    outcomes = await settled(cc, crowd(30, "news"))

    assert outcomes[0] == Applied()
    assert outcomes[1] == Rejected("Invalid email address")
    assert isinstance(outcomes[2], OptedOut)
    assert all(isinstance(one, Applied) for one in outcomes[3:])
    assert at(box, "p0002@x.org")["status"] == "Do Not Mail"


async def test_a_job_that_fails_as_a_whole_is_halved_until_the_culprit_stands_alone(
    box: Handle, cc: ConstantContact
) -> None:
    box.set_limits(poison=["p0031@x.org"], refused=["p0031@x.org"])
    outcomes = await settled(cc, crowd(100, "news"))

    assert outcomes.pop(31) == Rejected("Error 400: Email address is not valid", 400)
    assert all(isinstance(one, Applied) for one in outcomes)
    assert len(box.snapshot()["profiles"]) == 99


async def test_a_job_that_is_not_kept_any_more_is_done_again(
    box: Handle, cc: ConstantContact
) -> None:
    changes = crowd(30, "news")
    (first, *_) = await cc.push(changes)
    assert isinstance(first, Started)
    box.state.data.jobs.clear()
    told = await cc.resume(first.receipt, changes)
    assert len({str(one.receipt) for one in told if isinstance(one, Started)}) == 2
    assert all(isinstance(one, Applied) for one in await settled(cc, changes))


async def test_a_large_job_is_parted(
    box: Handle, cc: ConstantContact, monkeypatch: pytest.MonkeyPatch
) -> None:
    box.set_limits(job_bytes=3000)
    monkeypatch.setattr("syncd.providers.constantcontact_jobs.LARGEST", 2800)
    outcomes = await settled(cc, crowd(120, "news", City="Łódź"))
    assert all(isinstance(one, Applied) for one in outcomes)
    assert len(box.snapshot()["profiles"]) == 120
    assert len(jobs(box)) > 2


@pytest.mark.parametrize("kind", ["cut_before", "cut_after", "error", "garbage", "rate_429"])
async def test_a_lost_answer_to_a_job(box: Handle, cc: ConstantContact, kind: Any) -> None:
    """Where it was begun nobody believes that it was not; where it was not, it is begun later."""
    await cc.lists()
    changes = crowd(30, "news")
    path = "/ws/customers/syncd_sandbox/activities"
    box.next_fault(kind, path=path, method="POST")
    with pytest.raises(ProviderError) as told:
        await cc.push(changes)
    begun = kind in ("cut_after", "garbage")
    assert told.value.may_be_applied is begun
    await asyncio.sleep(0.02)
    again = [one._replace(doubtful=begun) for one in changes]
    assert all(isinstance(one, Applied) for one in await settled(cc, again))
    assert len(box.snapshot()["profiles"]) == 30


async def test_where_one_job_of_several_is_refused_the_others_are_not_forgotten(
    box: Handle, cc: ConstantContact
) -> None:
    await cc.lists()
    names = ("news", "cust")
    changes = [put(person(f"p{n}@x.org", names[n % 2])) for n in range(60)]
    path = "/ws/customers/syncd_sandbox/activities"
    real, begun = box.state.faults.draw, [0]

    def draw(where: str, method: str) -> Any:
        begun[0] += (where, method) == (path, "POST")
        if begun[0] == 2:
            begun[0] += 1
            box.next_fault("rate_429")
        return real(where, method)

    box.state.faults.draw = draw
    outcomes = await cc.push(changes)
    assert [next(iter(one.receipt)) for one in outcomes[:2] if isinstance(one, Started)] == [
        "jobs", "later",
    ]  # fmt: skip
    outcomes = await settled(cc, changes)
    assert all(isinstance(one, Applied) for one in outcomes)


async def test_many_that_no_job_can_carry_are_put_off_by_twenty_four(
    box: Handle, cc: ConstantContact
) -> None:
    changes = [put(person(f"p{n}@x.org", "news", Note="x")) for n in range(60)]
    outcomes = await cc.push(changes)
    assert sum(isinstance(one, Applied) for one in outcomes) == 24
    receipts = {str(one.receipt) for one in outcomes if isinstance(one, Started)}
    assert len(receipts) == 2
    assert jobs(box) == []


async def test_removed_by_a_job_who_was_not_there(box: Handle, cc: ConstantContact) -> None:
    was = [person(f"p{n}@x.org", "news", FirstName="A") for n in range(30)]
    await settled(cc, [put(one) for one in was[:-1]])
    outcomes = await settled(cc, [drop(Verb.WITHDRAW, one) for one in was])
    assert outcomes == [Applied()] * 30


# ── Reading back, lists, check ──────────────────────────────────────────────────────────────


@pytest.mark.parametrize("next_as", ["path", "relative", "absolute"])
async def test_lists_and_members_are_paged(box: Handle, cc: ConstantContact, next_as: str) -> None:
    box.set_limits(next_as=next_as, page_size=7)
    for n in range(20):
        box.act("add", email=f"p{n}@x.org", list=101)
        box.act("add_list", name=f"L{n}")
    assert len(await cc.lists()) == 23
    pages = [page async for page in cc.scan(N, None)]
    seen = [one for page in pages for one in page.records]
    assert sorted(one.email or "" for one in seen) == sorted(f"p{n}@x.org" for n in range(20))
    assert {one.lists for one in seen} == {(N,)}
    rest = [page async for page in cc.scan(N, pages[0].cursor)]
    assert [one for page in rest for one in page.records] == seen[7:]
    assert ConstantContact.remembered({"id": "1", "x": 2}, N, seen[0])["id"] == seen[0].remote_id
    everybody = [one async for page in cc.scan(None, None) for one in page.records]
    assert len(everybody) == 20
    with pytest.raises(Indivisible):
        [page async for page in cc.scan(N, {"next": "/lists/101/members?next=$"})]


# ── Exports ─────────────────────────────────────────────────────────────────────────────────


async def exported(cc: ConstantContact, list_id: str = N) -> Any:
    told: Any = await cc.export(list_id, None)
    for _ in range(200):
        if not isinstance(told, Started):
            return told
        await asyncio.sleep(0.005)
        told = await cc.export(list_id, told.receipt)
    raise AssertionError("still at it")


@pytest.mark.parametrize("headings", ["asked", "title"])
async def test_a_list_is_written_out_with_everybody_s_fields(
    box: Handle, cc: ConstantContact, headings: str
) -> None:
    box.set_limits(headings=headings)
    fields: dict[str, Any] = {
        "State": "MA",
        "Country": "us",
        "City": 'Åbo, "A"',
        "CustomField3": " a  b ",
    }
    want = person("ann@example.org", "news", **fields)
    await added(cc, want)
    await added(cc, person("bob@example.org", "cust"))
    await added(cc, person("eve@example.org", "news", Country="Utopia"))
    before = requests(box)

    told = await exported(cc)

    assert requests(box) - before <= 6
    assert set(told) == {"ann@example.org", "eve@example.org"}
    assert (await cc.comparer())(want, told["ann@example.org"]) == {}
    assert told["eve@example.org"]["CountryName"] == "Utopia"
    differs = (await cc.comparer())(
        person("ann@example.org", City="Turku"), told["ann@example.org"]
    )
    assert differs == {"City": ("Turku", 'Åbo, "A"')}


async def test_an_export_waits_for_the_jobs_at_its_list(box: Handle, cc: ConstantContact) -> None:
    """And jobs for it: the stand-in counts two at one list as a breach."""
    box.set_limits(job_seconds=0.1)
    async with adapter(box) as other:
        await other.push(crowd(30, "news"))
        told = await cc.export(N, None)
        assert isinstance(told, Started)
        assert set(told.receipt) == {"waits"}
        assert len(await exported(cc)) == 30
        begun = await cc.export(N, None)
        assert isinstance(begun, Started)
        waiting = await other.push(crowd(30, "news"))
        assert {tuple(one.receipt) for one in waiting if isinstance(one, Started)} == {("later",)}


async def test_an_export_that_fails_says_so(box: Handle, cc: ConstantContact) -> None:
    box.set_limits(jobs_fail=1)
    with pytest.raises(Indivisible, match="failed there"):
        await exported(cc)
    with pytest.raises(Transient, match="not kept"):
        await cc.export(N, {"export": "a07gone", "looks": 0})
    with pytest.raises(Indivisible):
        await exported(cc, "999")


async def test_a_lost_answer_to_an_export_is_no_doubt(box: Handle, cc: ConstantContact) -> None:
    await cc.lists()
    box.next_fault("cut_after", path="/ws/customers/syncd_sandbox/activities", method="POST")
    with pytest.raises(Transient):
        await exported(cc)
    assert await exported(cc) == {}


HEADINGS = ",".join(["Email Address", *ASKED])


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "not even headings"),
        (b"<html>sorry</html>", "column 'EMAIL ADDRESS' 0 times"),
        (HEADINGS.replace(",CITY", "").encode(), "'CITY' 0 times"),
        (f"{HEADINGS},city".encode(), "'CITY' 2 times"),
        (f"{HEADINGS}\nann@x.org,A".encode(), "line 2 of the export is of another length"),
        (f"{HEADINGS}\n{',' * len(ASKED)}x".encode(), "another length|no address"),
        (f"{HEADINGS}\nann{',' * len(ASKED)}".encode(), "line 2 of the export holds no address"),
        (f'{HEADINGS}\nann@x.org,"A'.encode(), "no table"),
        (HEADINGS.encode("utf-16"), "no table"),
    ],
)
def test_an_export_that_cannot_be_read_to_the_last_line_is_not_believed(
    data: bytes, says: str
) -> None:
    with pytest.raises(Unintelligible, match=says) as caught:
        rows(data)
    assert "ann" not in str(caught.value)


async def test_a_list_that_is_gone_cannot_be_scanned(cc: ConstantContact) -> None:
    with pytest.raises(Misconfigured) as told:
        [page async for page in cc.scan("999", None)]
    assert told.value.status == 404


async def test_opt_outs_are_read_with_their_time(box: Handle, cc: ConstantContact) -> None:
    box.set_limits(page_size=2)
    for n in range(5):
        box.act("add", email=f"p{n}@x.org", list=101)
    begun = datetime.now(UTC)
    for n in range(3):
        box.act("unsubscribe", email=f"p{n}@x.org")
    first = [one for page in [p async for p in cc.opt_outs(None)] for one in page]
    assert [(one.email, one.kind, one.occurred_at) for one in first] == [
        (f"p{n}@x.org", "unsubscribed", None) for n in range(3)
    ]
    later = [one for page in [p async for p in cc.opt_outs(begun)] for one in page]
    assert len(later) == 3
    assert all(
        one.occurred_at and abs(one.occurred_at - begun).total_seconds() < 5 for one in later
    )
    assert later[0].evidence["OptOutSource"] == "ACTION_BY_CONTACT"
    own = put(person("p3@x.org", subscribed=False), person("p3@x.org", "news"))
    assert isinstance(await pushed(cc, own), Applied)
    pages = [page async for page in cc.opt_outs(begun)]
    ours = next(one for page in pages for one in page if one.email == "p3@x.org")
    assert ours.evidence["OptOutSource"] == "ACTION_BY_CUSTOMER"
    assert (ours.by_person, later[0].by_person, first[0].by_person) == (False, True, None)
    ahead = [one async for page in cc.opt_outs(begun + timedelta(hours=1)) for one in page]
    assert ahead == []


async def test_a_look_up(box: Handle, cc: ConstantContact) -> None:
    box.act("add", email="a@x.org", list=103)
    box.act("add", email="b@x.org", list=101)
    box.act("unsubscribe", email="b@x.org")
    a = person("A@x.org", "news")
    questions = [put(a), put(person("b@x.org")), put(person("c@x.org")), drop(Verb.WITHDRAW, a),
                 drop(Verb.WITHDRAW, person("a@x.org", "third"))]  # fmt: skip
    found = await cc.find(questions)
    assert [one.remote and one.remote["id"] for one in found] == [
        "5001",
        "5002",
        None,
        None,
        "5001",
    ]
    assert found[1].opted_out is not None
    many = await cc.find([put(person(f"p{n}@x.org")) for n in range(120)])
    assert len(many) == 120


async def test_lists_are_made_renamed_and_deleted(box: Handle, cc: ConstantContact) -> None:
    number = await cc.create_list('Ä & "B" <c>')
    assert (await cc.lists())[number] == 'Ä & "B" <c>'
    await cc.rename_list(number, "Renamed")
    assert (await cc.lists())[number] == "Renamed"
    for name in ("newsletter", "Active", "", "x" * 256):
        with pytest.raises(Indivisible):
            await cc.create_list(name)
    with pytest.raises(Indivisible, match="capitals"):
        await cc.rename_list(number, "NEWSLETTER")
    await added(cc, person("a@x.org", "third"))
    with pytest.raises(Indivisible, match="1 members"):
        await cc.delete_list(T)
    await cc.delete_list(number)
    await cc.delete_list(number)
    assert number not in await cc.lists()
    with pytest.raises(Indivisible):
        await cc.rename_list(number, "X")


async def test_check_says_what_to_do(box: Handle, cc: ConstantContact) -> None:
    (fine,) = await cc.check()
    assert (fine.level, fine.says) == ("ok", "accepted; 3 lists there")
    box.set_limits(names_fold=False)
    box.act("add_list", name="newsletter")
    for n in range(100):
        box.act("add_list", name=f"L{n}")
    _, many, alike = await cc.check()
    assert (many.level, alike.level) == ("warning", "warning")
    box.set_faults(outage="503")
    (down,) = await cc.check()
    assert (down.exit_code, down.remedy) == (69, "try again later")
    box.set_faults()
    assert await cc.learn() is None


async def test_postponed_when_it_goes_between_look_and_put(
    box: Handle, cc: ConstantContact
) -> None:
    change = await added(cc, person("a@x.org", "news"))
    box.set_faults(latency_ms=[40, 40])
    task = asyncio.create_task(pushed(cc, change._replace(want=person("a@x.org", "cust"))))
    await asyncio.sleep(0.055)
    box.state.data.contacts.clear()
    assert isinstance(await task, Postponed)


# ── Everything at once ──────────────────────────────────────────────────────────────────────

RATES = {"error_rate": 0.05, "error_html": 0.03, "error_after": 0.05, "rate_429": 0.03,
         "cut_before": 0.03, "cut_after": 0.05, "half_answer": 0.03, "html": 0.03, "garbage": 0.03,
         "truncated_json": 0.03, "malformed": 0.0}  # fmt: skip


async def carried(cc: ConstantContact, changes: Sequence[Change]) -> None:
    """As the core would, whatever goes wrong: lost answers leave doubt, all else is said again."""
    doubt = [False] * len(changes)
    waiting: list[Any] = [None] * len(changes)
    left = set(range(len(changes)))
    for _ in range(400):
        if not left:
            return
        receipt = next((waiting[n] for n in sorted(left) if waiting[n] is not None), None)
        some = sorted(n for n in left if waiting[n] == receipt)
        told = [changes[n]._replace(doubtful=doubt[n] or changes[n].doubtful) for n in some]
        try:
            done = await (cc.push(told) if receipt is None else cc.resume(receipt, told))
        except ProviderError as err:
            for n in some:
                doubt[n] |= err.may_be_applied
            continue
        for n, outcome in zip(some, done, strict=True):
            if isinstance(outcome, Started):
                waiting[n] = outcome.receipt
            elif isinstance(outcome, Postponed):
                waiting[n] = None
            else:
                assert isinstance(outcome, Applied | Absent), outcome
                left.discard(n)
        await asyncio.sleep(0.002)
    raise AssertionError(f"still at it: {sorted(left)}")


@pytest.mark.parametrize("seed", range(4))
async def test_with_every_fault_on_it_converges_all_the_same(
    box: Handle, cc: ConstantContact, seed: int
) -> None:
    box.set_limits(none_found=("feed", "500")[seed % 2], opted_out=("403", "400")[seed // 2])
    box.set_faults(seed=seed, **RATES)
    names = ("news", "cust", "third")
    was = [person(f"p{n}@x.org", *names[: 1 + n % 3], FirstName="A", City="R") for n in range(90)]
    await carried(cc, [put(one) for one in was])
    new = [person(f"p{n}@x.org", names[n % 3], FirstName="B", City=None if n % 7 == 0 else "R")
           for n in range(90)]  # fmt: skip
    new[:5] = [person(f"p{n}@x.org", subscribed=False) for n in range(5)]
    new[5] = person("moved@x.org", "news", FirstName="M", City="R")
    changes = [put(b, a) for a, b in zip(was, new, strict=True)]
    changes[6:36] = [drop(Verb.WITHDRAW, one) for one in was[6:36]]
    await carried(cc, changes)
    box.set_faults()

    for n, want in enumerate(new):
        there = at(box, f"p{n}@x.org")
        if n < 5:
            assert there["status"] == "Do Not Mail"
        elif n < 36:
            assert (there["lists"], there["status"]) == ([], "Removed")
        else:
            assert there["lists"] == sorted(int(one) for one in want.lists.values()), n
            assert there["fields"] == {k: v for k, v in want.fields.items() if v}
    assert held(box, "moved@x.org") == [101]
    assert len(box.snapshot()["profiles"]) == 91
