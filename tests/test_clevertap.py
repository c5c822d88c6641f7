"""CleverTap: the reference's vectors byte for byte, every rule of translation, every answer."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import adapters
import orjson
import pytest
from adapters import Permits
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
    Change,
    Notice,
    OptedOut,
    Person,
    Postponed,
    Rejected,
    Request,
    Verb,
)
from syncd.providers import clevertap_canary
from syncd.providers.clevertap import CleverTap, CleverTapCredential, CleverTapOptions
from syncd.providers.clevertap_answers import (
    cursor_of,
    identities,
    judged,
    notices,
    occurred_at,
    profile,
    refusals,
)
from syncd.providers.clevertap_batch import HalfDone
from syncd.providers.clevertap_translate import (
    Rules,
    cut,
    dollar_date,
    drafted,
    email_fault,
    phone,
    shaped,
    tidy,
)
from syncd.wire import HttpWire

CREDENTIAL = CleverTapCredential(account_id="TEST-0A0-000-0A0Z", passcode=" JDG-PAS-CODE\n")
OK = {"status": "success"}


def person(
    email: str = "ann@example.org", *lists: str, subscribed: bool = True, **fields: Any
) -> Person:
    named = {name.replace("_", " "): value for name, value in fields.items()}
    return Person(email, named, {one: one for one in lists}, subscribed)


def put(want: Person, was: Person | None = None, name: str = "c-42", **more: Any) -> Change:
    return adapters.put(want, was, name, **more)


def drop(verb: Verb, was: Person | None = None, name: str = "c-42") -> Change:
    return adapters.drop(verb, was, name=name)


def data(change: Change, rules: Rules | None = None) -> dict[str, Any]:
    draft = drafted(change, rules or Rules())
    assert draft.outcome is None
    found: dict[str, Any] = draft.records[0]["profileData"]
    return found


def lacking(change: Change, rules: Rules | None = None) -> list[str]:
    return drafted(change, rules or Rules()).lacking


# ── A strict server that says what it is told to ────────────────────────────────────────────

Reply = tuple[int, Any]


class Desk:
    """Writes down what is asked; replies by path, in turn, else as an obliging account."""

    def __init__(self) -> None:
        self.base = ""
        self.heads: list[str] = []
        self.bodies: list[bytes] = []
        self.replies: dict[str, list[Reply]] = {}
        self.profiles: dict[str, dict[str, Any]] = {}
        self.busy = self.busiest = 0

    @property
    def asked(self) -> list[str]:
        """Method and target of each request."""
        return [head.split(" HTTP/")[0] for head in self.heads]

    def records(self, number: int = 0) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = orjson.loads(self.bodies[number])["d"]
        return found

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while head := (await reader.readuntil(b"\r\n\r\n") if not reader.at_eof() else b""):
            text = head.decode()
            names = {k.lower(): v for k, _, v in (x.partition(": ") for x in text.split("\r\n"))}
            assert names["x-clevertap-account-id"] == "TEST-0A0-000-0A0Z"
            assert names["x-clevertap-passcode"] == "JDG-PAS-CODE"
            assert names["content-type"] == "application/json"
            body = await reader.readexactly(int(names.get("content-length", "0")))
            self.heads.append(text)
            self.bodies.append(body)
            self.busy += 1
            self.busiest = max(self.busy, self.busiest)
            await asyncio.sleep(0.001)
            status, said = self.reply(text.split(" ")[1], body)
            raw = said if isinstance(said, bytes) else orjson.dumps(said)
            self.busy -= 1
            writer.write(b"HTTP/1.1 %d X\r\nContent-Length: %d\r\n\r\n" % (status, len(raw)) + raw)
            await writer.drain()

    def reply(self, target: str, body: bytes) -> Reply:
        path, _, query = target.partition("?")
        if self.replies.get(path):
            return self.replies[path].pop(0)
        if path == "/1/profile.json":
            record = self.profiles.get(query)
            return (200, {**OK, "record": record}) if record else (404, {"status": "fail"})
        if path in ("/1/upload", "/1/subscribe"):
            count = len(orjson.loads(body)["d"])
            return 200, {**OK, "processed": count, "unprocessed": []}
        return 200, OK


@pytest.fixture
async def desk() -> AsyncIterator[Desk]:
    desk = Desk()

    async def peer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await desk.serve(reader, writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(peer, "127.0.0.1", 0)
    desk.base = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    async with server:
        yield desk


@asynccontextmanager
async def adapter(
    desk: Desk, findings: Mapping[str, Any] | None = None, **options: Any
) -> AsyncIterator[CleverTap]:
    chosen = CleverTapOptions(base_url=desk.base, **options)
    async with HttpWire(
        CleverTap, chosen, lambda: CREDENTIAL, Permits(CleverTap.traits.meters)
    ) as wire:
        yield CleverTap(wire, chosen, findings or {})


# ── Section 2: the vectors ──────────────────────────────────────────────────────────────────


async def test_vector_1_partner_probe(desk: Desk) -> None:
    async with adapter(desk, partner="my partner") as tap:
        assert [one.level for one in await tap.check()] == ["ok"]

    lines = desk.heads[0].split("\r\n")
    assert lines[0] == "GET /v1/connect?partner=my%20partner HTTP/1.1"
    for line in ("X-CleverTap-Account-Id: TEST-0A0-000-0A0Z", "X-CleverTap-Passcode: JDG-PAS-CODE"):
        assert lines.count(line) == 1


async def test_vector_2_a_plus_is_encoded(desk: Desk) -> None:
    async with adapter(desk, adopt="email") as tap:
        await tap.find([put(person("jo+tag@exämple.org"))])

    assert desk.asked[1] == "GET /1/profile.json?email=jo%2Btag%40ex%C3%A4mple.org"


async def test_vector_3_a_cursor_is_not_encoded_twice(desk: Desk) -> None:
    desk.replies["/1/events.json"] = [
        (200, {**OK, "cursor": "ZyZj%2FwYE%3D%3D"}),
        (200, {**OK, "records": [], "next_cursor": "a+b/c="}),
        (200, OK),
    ]
    async with adapter(desk) as tap:
        assert [page async for page in tap.opt_outs(None)] == []

    assert desk.asked == [
        "POST /1/events.json?batch_size=5000",
        "GET /1/events.json?cursor=ZyZj%2FwYE%3D%3D",
        "GET /1/events.json?cursor=a%2Bb%2Fc%3D",
    ]


async def test_vector_4_the_body_of_an_upload(desk: Desk) -> None:
    want = person("zoe@example.org", "News", Name="Zoë Ångström", Phone="+4915112345678")
    async with adapter(desk) as tap:
        assert await tap.push([put(want)]) == [Applied()]

    assert desk.asked == ["POST /1/upload"]
    assert len(desk.bodies[0]) == 162
    assert desk.bodies[0].decode() == (
        '{"d":[{"identity":"c-42","type":"profile","profileData":{"Name":"Zoë Ångström",'
        '"Email":"zoe@example.org","Phone":"+4915112345678","Lists":{"$add":["News"]}}}]}'
    )


# ── Declarations ────────────────────────────────────────────────────────────────────────────


def test_what_it_says_of_itself() -> None:
    assert not CleverTap.traits.can & (Can.SCAN | Can.LISTS | Can.JOBS)


@pytest.mark.parametrize(
    ("options", "base"),
    [
        ({}, "https://api.clevertap.com"),
        ({"region": "in1"}, "https://in1.api.clevertap.com"),
        ({"region": "eu1"}, "https://eu1.api.clevertap.com"),
        ({"base_url": "https://sk1.api.clevertap.com"}, "https://sk1.api.clevertap.com"),
        ({"base_url": "http://127.0.0.1:1", "region": "us1"}, "http://127.0.0.1:1"),
    ],
)
def test_base_url(options: dict[str, Any], base: str) -> None:
    assert CleverTap.base_url(CleverTapOptions(**options)) == base


@pytest.mark.parametrize(
    "options",
    [
        {"region": "sk1"},
        {"lists_property": "My.Lists"},
        {"lists_property": "Email"},
        {"lists_property": "Phone"},
        {"lists_property": "MSG-email"},
        {"default_country_code": "+1"},
        {"adopt": "phone"},
        {"no_such": 1},
    ],
)
def test_wrong_options(options: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        CleverTapOptions(**options)


def test_a_credential_is_stripped_and_hidden() -> None:
    signed = CleverTap.sign(CREDENTIAL, Request("GET", "/"))

    assert signed["X-CleverTap-Passcode"] == "JDG-PAS-CODE"
    assert "JDG" not in f"{CREDENTIAL!r} {CREDENTIAL} {CREDENTIAL.model_dump()}"
    assert CleverTap.scope(CleverTapOptions(), CREDENTIAL) == "TEST-0A0-000-0A0Z"
    for bad in (" ", "a\nb", "ä"):
        with pytest.raises(ValidationError) as caught:
            CleverTapCredential(account_id="x", passcode=bad)
        assert "a\nb" not in str(caught.value)


# ── Consent ─────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("was", "want", "more", "flag", "mark"),
    [
        (None, True, {}, None, None),
        (True, True, {}, None, None),
        (True, False, {}, False, "Unsubscribe"),
        (None, False, {"may_create": False}, False, "Unsubscribe"),
        (False, False, {}, None, None),
        (False, False, {"doubtful": True}, False, "Unsubscribe"),
        (True, True, {"doubtful": True}, None, None),
        (False, True, {"resubscribe": True}, True, "Resubscribe"),
        (None, True, {"resubscribe": True}, True, "Resubscribe"),
        (False, True, {}, None, None),
        (True, False, {"resubscribe": True}, False, "Unsubscribe"),
    ],
)
def test_the_flag_is_sent_when_it_changes_and_true_only_with_leave(
    was: bool | None, want: bool, more: dict[str, Any], flag: bool | None, mark: str | None
) -> None:
    before = None if was is None else person(subscribed=was)
    draft = drafted(put(person(subscribed=want), before, **more), Rules())

    assert draft.records[0]["profileData"].get("MSG-email") is flag
    assert draft.mark == (("ann@example.org", mark) if mark else None)


def test_no_leave_to_resubscribe_is_reported() -> None:
    assert lacking(put(person(), person(subscribed=False))) == [
        "subscription: still off there, no leave to turn it on"
    ]


def test_a_changed_address_of_somebody_silent_is_silenced_too() -> None:
    change = put(
        person("new@example.org", subscribed=False), person("old@example.org", subscribed=False)
    )

    assert drafted(change, Rules()).mark == ("new@example.org", "Unsubscribe")


def test_consent_is_never_a_mapped_field() -> None:
    want = Person(
        "a@b.co", {"MSG-email": True, "msg-EMAIL": True, "Email": "x@y.zz", "Lists": "a"}, {}, True
    )

    assert data(put(want)) == {"Email": "a@b.co"}
    assert len(lacking(put(want))) == 4


async def test_silence_is_in_the_upload_and_then_on_the_address(desk: Desk) -> None:
    changes = [
        put(person("ann@example.org", subscribed=False), person(), name="1"),
        put(person("bob@example.org"), person("bob@example.org"), name="2"),
        put(
            person("Cyd@example.org"),
            person("cyd@example.org", subscribed=False),
            name="3",
            resubscribe=True,
        ),
    ]
    async with adapter(desk) as tap:
        assert await tap.push(changes) == [Applied()] * 3

    assert desk.asked == ["POST /1/upload", "POST /1/subscribe"]
    assert [one["profileData"].get("MSG-email") for one in desk.records()] == [False, None, True]
    assert desk.records(1) == [
        {"type": "email", "value": "ann@example.org", "status": "Unsubscribe"},
        {"type": "email", "value": "Cyd@example.org", "status": "Resubscribe"},
    ]


async def test_contacts_that_share_an_address_mark_it_once_and_the_no_wins(desk: Desk) -> None:
    changes = [
        put(person("A@b.co"), person("a@b.co", subscribed=False), name="1", resubscribe=True),
        put(person("a@b.co", subscribed=False), person("a@b.co"), name="2"),
    ]
    async with adapter(desk) as tap:
        outcomes = await tap.push(changes)

    assert desk.records(1) == [{"type": "email", "value": "a@b.co", "status": "Unsubscribe"}]
    assert outcomes == [
        Applied(lacking=("subscription: another contact of the address said no",)),
        Applied(),
    ]


async def test_a_no_for_an_unknown_contact_is_never_created(desk: Desk) -> None:
    desk.profiles["identity=there"] = {"identity": "there"}
    changes = [
        put(person(subscribed=False), name="there", may_create=False),
        put(person("b@b.co", subscribed=False), name="not", may_create=False),
        put(person("c@b.co", subscribed=False), name="leave", may_create=True),
        put(person("d@b.co"), name="opted", may_create=False),
        drop(Verb.WITHDRAW, None, "never"),
    ]
    async with adapter(desk) as tap:
        outcomes = await tap.push(changes)

    assert [type(one) for one in outcomes] == [Applied, Absent, Absent, Absent, Absent]
    assert sorted(desk.asked[:5]) == sorted(
        f"GET /1/profile.json?identity={one}" for one in ("there", "not", "leave", "opted", "never")
    )
    assert desk.asked[5:] == ["POST /1/upload", "POST /1/subscribe"]
    assert [one["identity"] for one in desk.records(5)] == ["there"]


async def test_a_known_contact_is_not_looked_up(desk: Desk) -> None:
    async with adapter(desk) as tap:
        await tap.push([put(person(), person()), put(person("b@b.co"), name="new")])

    assert desk.asked == ["POST /1/upload"]


async def test_withdraw_says_nothing_in_the_persons_name(desk: Desk) -> None:
    async with adapter(desk) as tap:
        await tap.push([drop(Verb.WITHDRAW, person("a@b.co", "n2", "n1"))])

    assert desk.asked == ["POST /1/upload"]
    assert desk.records()[0]["profileData"] == {
        "MSG-email": False,
        "Lists": {"$remove": ["n1", "n2"]},
    }


async def test_delete_and_erase(desk: Desk) -> None:
    changes = [drop(Verb.DELETE, person(), f"d{n}") for n in range(150)]
    changes.append(drop(Verb.ERASE, person("ann@example.org"), "e"))
    changes.append(drop(Verb.ERASE, None, "f"))
    async with adapter(desk) as tap:
        assert await tap.push(changes) == [Applied()] * 152

    looked = "GET /1/profile.json?email=ann%40example.org"  # whoever has an erased address goes too
    assert desk.asked == [looked, "POST /1/subscribe"] + ["POST /1/delete/profiles.json"] * 2
    assert desk.records(1) == [
        {"type": "email", "value": "ann@example.org", "status": "Unsubscribe"}
    ]
    sizes = [len(orjson.loads(body)["identity"]) for body in desk.bodies[2:]]
    assert sizes == [100, 52]


async def test_whoever_is_moved_away_with_an_erasure_is_not_deleted_by_it(desk: Desk) -> None:
    """The address is still on that profile when it is looked up."""
    desk.profiles["email=ann%40example.org"] = {"identity": "[c old]", "email": "ann@example.org"}
    moves = put(person("new@example.org"), person("ann@example.org"), "c")
    async with adapter(desk) as tap:
        await tap.push([moves, drop(Verb.ERASE, person("ann@example.org"), "e")])

    assert orjson.loads(desk.bodies[-1])["identity"] == ["e"]


async def test_an_erasure_goes_on_where_the_address_cannot_be_marked(desk: Desk) -> None:
    desk.replies["/1/subscribe"] = [(200, partial(0, refused(1, 515)))]
    async with adapter(desk) as tap:
        (outcome,) = await tap.push([drop(Verb.ERASE, person())])

    assert isinstance(outcome, Applied)
    assert outcome.lacking
    assert desk.asked[-1] == "POST /1/delete/profiles.json"


async def test_a_no_does_not_wait_for_a_correct_address(desk: Desk) -> None:
    async with adapter(desk) as tap:
        (outcome,) = await tap.push([put(person("broken", subscribed=False), person("a@b.co"))])

    assert outcome == Applied(lacking=("field:Email is not an address",))
    assert desk.records()[0]["profileData"] == {"MSG-email": False}
    assert desk.records(1)[0]["value"] == "a@b.co"


async def test_a_no_is_conveyed_though_the_record_was_refused(desk: Desk) -> None:
    desk.replies["/1/upload"] = [(200, partial(0, refused(1, 520)))]
    async with adapter(desk) as tap:
        (outcome,) = await tap.push([put(person(subscribed=False), person())])

    assert isinstance(outcome, Rejected)
    assert desk.asked == ["POST /1/upload", "POST /1/subscribe"]


async def test_a_return_is_not_conveyed_where_the_record_was_refused(desk: Desk) -> None:
    desk.replies["/1/upload"] = [(200, partial(0, refused(1, 520)))]
    async with adapter(desk) as tap:
        await tap.push([put(person(), person(subscribed=False), resubscribe=True)])

    assert desk.asked == ["POST /1/upload"]


# ── Lists ───────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("was", "want", "more", "sent"),
    [
        (None, "ab", {}, [{"$add": ["a", "b"]}]),
        ("ab", "ab", {}, [None]),
        ("a", "ab", {}, [{"$add": ["b"]}]),
        ("ab", "a", {}, [{"$remove": ["b"]}]),
        ("ab", "bc", {}, [{"$remove": ["a"]}, {"$add": ["c"]}]),
        ("ab", "a", {"doubtful": True}, [{"$remove": ["b"]}, {"$add": ["a"]}]),
        ("a", "a", {"resubscribe": True}, [{"$add": ["a"]}]),
        ("a", "", {}, [{"$remove": ["a"]}]),
        (None, "", {}, [None]),
    ],
)
def test_lists(was: str | None, want: str, more: dict[str, Any], sent: list[Any]) -> None:
    before = None if was is None else person("a@b.co", *was)
    remote = None if was is None else {"lists": "L"}
    change = put(person("a@b.co", *want), before, remote=remote, **more)
    draft = drafted(change, Rules(lists_property="L"))

    assert [one["profileData"].get("L") for one in draft.records] == sent


async def test_add_and_remove_of_one_contact_go_in_two_uploads(desk: Desk) -> None:
    changes = [
        put(person("a@b.co", "n"), person("a@b.co", "o"), name="1"),
        put(person("b@b.co", "n"), person("b@b.co"), name="2"),
    ]
    async with adapter(desk) as tap:
        assert await tap.push(changes) == [Applied(), Applied()]

    assert [[one["identity"] for one in desk.records(n)] for n in (0, 1)] == [["1", "2"], ["1"]]
    assert desk.records(1)[0]["profileData"] == {"Lists": {"$add": ["n"]}}


async def test_a_contact_refused_in_the_first_upload_is_left_out_of_the_second(desk: Desk) -> None:
    desk.replies["/1/upload"] = [(200, partial(0, refused(1, 555)))]
    async with adapter(desk) as tap:
        (outcome,) = await tap.push([put(person("a@b.co", "n"), person("a@b.co", "o"))])

    assert isinstance(outcome, Postponed)
    assert desk.asked == ["POST /1/upload"]


def test_more_than_a_hundred_lists() -> None:
    names = [f"{n:03}" for n in range(103)]
    change = put(person("a@b.co", *names), person("a@b.co", *names[:1], "zzz"))
    draft = drafted(change, Rules())

    assert draft.records[0]["profileData"]["Lists"] == {"$remove": ["zzz"]}
    assert draft.records[1]["profileData"]["Lists"] == {"$add": names[1:100]}
    assert draft.lacking == ["list:100", "list:101", "list:102"]


def test_a_list_pushed_out_of_the_hundred_is_removed() -> None:
    names = [f"{n:03}" for n in range(100)]
    draft = drafted(put(person("a@b.co", "!", *names), person("a@b.co", *names)), Rules())

    assert draft.records[0]["profileData"]["Lists"] == {"$remove": ["099"]}
    assert draft.records[1]["profileData"]["Lists"] == {"$add": ["!"]}


def test_a_list_id_that_does_not_fit() -> None:
    long = "ä" * 257
    assert data(put(person("a@b.co", long, "ok")))["Lists"] == {"$add": ["ok"]}
    assert lacking(put(person("a@b.co", long, "ok"))) == [f"list:{long}"]


# ── Fields ──────────────────────────────────────────────────────────────────────────────────


def test_name_is_both_joined_and_comes_first() -> None:
    sent = data(put(person(First_Name="Ann", Last_Name="Lee", City="Oslo")))

    assert list(sent) == ["Name", "Email", "First Name", "Last Name", "City"]
    assert sent["Name"] == "Ann Lee"
    assert data(put(person(First_Name="Ann", Last_Name=None)))["Name"] == "Ann"
    assert data(put(person(First_Name="Ann", Name="Dr Ann")))["Name"] == "Dr Ann"
    assert "Name" not in data(put(person(First_Name=None, Last_Name="")))
    assert "Name" not in data(put(person(City="Oslo")))


def test_empty_values_are_never_sent() -> None:
    change = put(person(City="", Zip=None, State="\x00"), person(City="Oslo", Phone="+4711111111"))

    assert data(change) == {"Email": "ann@example.org"}
    assert lacking(change) == ["field:City not cleared"]


def test_a_cleared_field_where_a_canary_proved_delete() -> None:
    rules = Rules(delete_works=True)
    change = put(person(City="", Zip=None, Phone=None), person(City="Oslo", Phone="+4711111111"))

    assert data(change, rules) == {"Email": "ann@example.org", "City": {"$delete": True}}
    assert lacking(change, rules) == ["field:Phone not cleared"]
    doubtful = put(person(City="", Zip=None), person(City="Oslo"), doubtful=True)
    assert data(doubtful, rules)["Zip"] == {"$delete": True}


def test_fields_that_are_not_mapped_are_left_alone() -> None:
    change = put(person(), person(City="Oslo"))

    assert data(change, Rules(delete_works=True)) == {"Email": "ann@example.org"}


@pytest.mark.parametrize(
    ("text", "country", "number"),
    [
        ("+4915112345678", "", "+4915112345678"),
        ("+1 (415) 555-1234", "", "+14155551234"),
        ("0049 151 12345678", "", "+4915112345678"),
        ("+44 (0)20 7946 0958", "", "+442079460958"),
        ("0151/12345678", "49", "+4915112345678"),
        ("415.555.1234", "1", "+14155551234"),
        ("0151 12345678", "", None),
        ("+0151123456", "", None),
        ("+4915112345678 ext 3", "", None),
        ("+1234567890123456", "", None),
        ("+12345", "", None),
        ("call me", "1", None),
        ("+٤٩١٥١١٢٣٤٥٦٧٨", "", None),
    ],
)
def test_phone(text: str, country: str, number: str | None) -> None:
    assert phone(text, country) == number


def test_an_unreadable_phone_is_left_out_and_reported() -> None:
    change = put(person(Phone="call me", City="Oslo"))

    assert "Phone" not in data(change)
    assert lacking(change) == ["field:Phone not E.164, left out"]
    assert data(put(person(Phone=4915112345678)), Rules(country="")).get("Phone") is None


def test_dates() -> None:
    assert data(put(person(DOB="1990-05-17")))["DOB"] == "$D_642945600"
    assert data(put(person(DOB="1970-01-01")))["DOB"] == "$D_43200"
    assert lacking(put(person(DOB="17.5.1990"))) == ["field:DOB not a date, left out"]
    assert lacking(put(person(DOB="1969-12-31"))) == ["field:DOB before 1970, left out"]
    sent = data(put(person(DOB="1969-12-31")), Rules(negative_dates=True))
    assert sent["DOB"] == "$D_-43200"
    assert dollar_date(datetime(1990, 5, 17, tzinfo=UTC).date()) == "$D_642945600"
    assert data(put(person(Since="1990-05-17")))["Since"] == "1990-05-17"


@pytest.mark.parametrize(
    ("value", "sent", "note"),
    [
        ("Oslo", "Oslo", ""),
        ("a\tb\r\nc", "a b c", ""),
        ("a\x00\x1b\x85b", "ab", ""),
        ("half \ud83d pair", "half  pair", ""),
        ("\U0001f511", "\U0001f511", ""),
        (7, 7, ""),
        (2.5, 2.5, ""),
        (True, True, ""),
        (False, False, ""),
        (2**63, str(2**63), ""),
        (float("nan"), None, "not a number, left out"),
        (float("-inf"), None, "not a number, left out"),
        ("x" * 512, "x" * 512, ""),
        ("x" * 513, "x" * 512, "cut to 512 bytes"),
        ("a" + "ä" * 256, "a" + "ä" * 255, "cut to 512 bytes"),
        ("\U0001f511" * 129, "\U0001f511" * 128, "cut to 512 bytes"),
    ],
)
def test_values(value: Any, sent: Any, note: str) -> None:
    got, said = shaped("City", value, Rules())

    assert (got, said) == (sent, note)
    assert type(got) is type(sent)
    orjson.dumps(got)


def test_cut_and_tidy_leave_good_text_alone() -> None:
    for text in ("", "x", "ä" * 256, "Zoë Ångström"):
        assert cut(tidy(text)) == text


@pytest.mark.parametrize(
    ("name", "says"),
    [
        *((f"a{char}b", "is not allowed as a name") for char in "%><!|&.:;$'\"\\#"),
        ("", "is not allowed as a name"),
        (" a", "is not allowed as a name"),
        ("a\nb", "is not allowed as a name"),
        ("ä" * 61, "is too long a name"),
        ("ä" * 60, ""),
        ("First Name", ""),
        ("MSG-sms", "is not a field"),
    ],
)
def test_property_names(name: str, says: str) -> None:
    change = put(Person("a@b.co", {name: "x"}, {}, True))

    assert lacking(change) == ([f"field:{name} {says}"] if says else [])
    assert (name in data(change)) is not bool(says)


def test_at_most_255_names() -> None:
    change = put(Person("a@b.co", {f"f{n}": n for n in range(257)}, {}, True))

    assert len(data(change)) == 256
    assert lacking(change) == ["field:f255 one name too many", "field:f256 one name too many"]


@pytest.mark.parametrize(
    "email",
    [
        "",
        "a",
        "a@b",
        "a@@b.co",
        "a b@c.de",
        "a@b.co ",
        "a@b.co\n",
        "a\x00@b.co",
        "a@b..co",
        "x" * 251 + "@b.co",
        "@b.co",
        "a@",
        "a@.co",
        "a@b.\ud800co",
    ],
)
async def test_a_bad_address_costs_no_request(desk: Desk, email: str) -> None:
    assert email_fault(email)
    async with adapter(desk) as tap:
        outcomes = await tap.push([put(person(email))])

    assert isinstance(outcomes[0], Rejected)
    assert outcomes[0].reason.startswith("Email ")
    assert desk.asked == []


@pytest.mark.parametrize("identity", ["", " ", " a", "a\n", "a\x00b", "a\ud800"])
async def test_a_bad_identity_costs_no_request(desk: Desk, identity: str) -> None:
    async with adapter(desk) as tap:
        for change in (put(person(), name=identity), drop(Verb.DELETE, person(), identity)):
            (outcome,) = await tap.push([change])
            assert isinstance(outcome, Rejected)

    assert desk.asked == []


async def test_a_marker_event_once_a_contact_in_an_upload_of_its_own(desk: Desk) -> None:
    known = put(person(), person(), name="2", remote={"marker": "Contact Synced"})
    async with adapter(desk, marker_event="Contact Synced") as tap:
        outcomes = await tap.push([put(person("a@b.co", "n"), name="1"), known])

    assert outcomes == [Applied({"marker": "Contact Synced"}), Applied()]
    assert desk.records(1) == [
        {"identity": "1", "type": "event", "evtName": "Contact Synced", "evtData": {}}
    ]


async def test_big_batches_are_cut_by_records_and_bytes(desk: Desk) -> None:
    names = [f"f{k}" for k in range(20)]
    async with adapter(desk) as tap:
        changes = [
            put(Person(f"a{n}@b.co", dict.fromkeys(names, "ä" * 256), {}, True), name=str(n))
            for n in range(600)
        ]
        assert await tap.push(changes) == [Applied()] * 600

    assert len(desk.bodies) == 2
    assert max(len(body) for body in desk.bodies) < 5_000_000
    assert [one["identity"] for n in (0, 1) for one in desk.records(n)] == [c[0] for c in changes]


# ── Answers ─────────────────────────────────────────────────────────────────────────────────


def refused(number: int | None, code: int, **record: Any) -> dict[str, Any]:
    tail = "" if number is None else f"Skipped record number : {number}"
    error = f"Profile data is incorrect. Email is not valid.{tail}"
    return {"status": "fail", "code": code, "error": error, "record": record}


def partial(processed: int, *unprocessed: Any) -> dict[str, Any]:
    return {"status": "partial", "processed": processed, "unprocessed": list(unprocessed)}


def answer(said: Any, status: int = 200) -> Answer:
    return Answer(status, {}, said if isinstance(said, bytes) else orjson.dumps(said))


async def test_a_refusal_finds_its_record_by_number_then_by_identity(desk: Desk) -> None:
    desk.replies["/1/upload"] = [
        (200, partial(1, refused(2, 515, identity=99), refused(None, 555, identity="3")))
    ]
    async with adapter(desk) as tap:
        outcomes = await tap.push([put(person(f"a{n}@b.co"), name=str(n)) for n in (1, 2, 3)])

    words = "Profile data is incorrect. Email is not valid"
    assert outcomes[0] == Applied()
    assert outcomes[1] == Rejected(f"code 515: {words}", 515)
    assert outcomes[2] == Postponed(f"code 555: {words}.")


def test_a_refusal_does_not_tell_an_address() -> None:
    item = {"code": 515, "error": "ann@example.org is badSkipped record number : 1"}
    got = refusals(answer(partial(0, item)), ["1"])

    assert got == {0: Rejected("code 515: <address> is bad", 515)}


@pytest.mark.parametrize(
    "said",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        {},
        OK,
        partial(1),
        partial(3),
        partial(1, refused(3, 515)),
        partial(1, refused(None, 515, identity="other")),
        partial(1, "text"),
        partial(2, refused(1, 515)),
        {"status": "success", "processed": 2, "unprocessed": {}},
        {"status": "success", "processed": "2", "unprocessed": []},
    ],
)
def test_an_upload_answer_that_does_not_add_up(said: Any) -> None:
    with pytest.raises(Unintelligible):
        refusals(answer(said), ["1", "2"])


def test_a_batch_refused_without_a_culprit_is_to_be_halved() -> None:
    with pytest.raises(Indivisible):
        refusals(answer({"status": "fail", "processed": 0, "unprocessed": []}), ["1", "2"])


READ = Request("GET", "/1/profile.json?identity=1")
EVENTS = Request("POST", "/1/events.json?batch_size=5000", b"{}", repeatable=True)
WRITE = Request("POST", "/1/upload", b"{}")
CONNECT = Request("GET", "/v1/connect?partner=x")
FAIL = {"status": "fail", "error": "Malformed request", "code": 400}


@pytest.mark.parametrize(
    ("request_", "status", "said", "verdict"),
    [
        (WRITE, 200, OK, None),
        (WRITE, 401, FAIL, Refused),
        (READ, 401, b"<html>", Refused),
        (CONNECT, 400, FAIL, Refused),
        (CONNECT, 403, FAIL, Misconfigured),
        (WRITE, 403, FAIL, Misconfigured),
        (WRITE, 429, FAIL, Transient),
        (READ, 404, FAIL, "ok"),
        (READ, 404, b"<html>", Transient),
        (WRITE, 404, b"<html>", Misconfigured),
        (EVENTS, 405, FAIL, Misconfigured),
        (WRITE, 400, FAIL, Indivisible),
        (WRITE, 413, FAIL, Indivisible),
        (EVENTS, 400, FAIL, None),
        (WRITE, 200, b" <!doctype html>", Ambiguous),
        (READ, 200, b"<html>", Transient),
        (EVENTS, 200, b"<html>", Transient),
        (WRITE, 503, FAIL, None),
    ],
)
def test_judge(request_: Request, status: int, said: Any, verdict: Any) -> None:
    got = judged(request_, answer(said, status))

    assert (type(got) if isinstance(got, ProviderError) else got) == verdict


async def test_429_waits_at_least_two_seconds(desk: Desk) -> None:
    desk.replies["/1/upload"] = [(429, {"status": "fail", "error": "Too many concurrent requests"})]
    async with adapter(desk) as tap:
        with pytest.raises(Transient, match="Too many concurrent requests") as caught:
            await tap.push([put(person())])

    assert caught.value.after == 2


@pytest.mark.parametrize(
    ("reply", "kind"),
    [
        ((429, {}), Ambiguous),
        ((401, {}), Ambiguous),
        ((503, {}), Ambiguous),
        ((200, b"<html>"), Ambiguous),
        ((200, b"{"), Unintelligible),
        ((400, FAIL), Unintelligible),
        ((403, FAIL), HalfDone),
        ((404, FAIL), HalfDone),
    ],
)
async def test_a_fault_after_an_upload_never_says_that_nothing_was_applied(
    desk: Desk, reply: Reply, kind: type[ProviderError]
) -> None:
    desk.replies["/1/subscribe"] = [reply]
    async with adapter(desk) as tap:
        with pytest.raises(ProviderError) as caught:
            await tap.push([put(person(subscribed=False), person())])

    assert type(caught.value) is kind
    assert caught.value.may_be_applied


async def test_a_contact_whose_address_was_not_marked_is_not_applied(desk: Desk) -> None:
    desk.replies["/1/subscribe"] = [(200, partial(1, refused(None, 515, value="a@b.co")))]
    async with adapter(desk) as tap:
        outcomes = await tap.push(
            [
                put(person("a@b.co", subscribed=False), person("a@b.co"), name="1"),
                put(person("b@b.co", subscribed=False), person("b@b.co"), name="2"),
            ]
        )

    assert [type(one) for one in outcomes] == [Rejected, Applied]


# ── Find, erase ─────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("status", "said"),
    [
        (404, {"status": "fail", "error": "not found", "code": 404}),
        (200, {**OK, "record": None}),
        (200, OK),
        (200, {**OK, "record": {}}),
        (200, {"status": "fail", "error": "Profile not found"}),
    ],
)
def test_every_form_of_not_found(status: int, said: Any) -> None:
    assert profile(answer(said, status)) is None


@pytest.mark.parametrize(
    ("status", "said"),
    [(200, b"{"), (400, FAIL), (200, {"status": "fail", "code": 401}), (200, {"code": 503})],
)
def test_no_other_answer_means_not_found(status: int, said: Any) -> None:
    with pytest.raises(Unintelligible):
        profile(answer(said, status))


async def test_find_looks_three_at_once_and_keeps_the_order(desk: Desk) -> None:
    for n in range(0, 20, 2):
        desk.profiles[f"identity=c{n}"] = {"identity": f"c{n}", "email": f"a{n}@b.co"}
    async with adapter(desk) as tap:
        found = await tap.find([put(person(), name=f"c{n}") for n in range(20)])

    assert [one.remote for one in found] == [
        None if n % 2 else {"identity": f"c{n}"} for n in range(20)
    ]
    assert desk.busiest == 3
    assert found[2].email == "a2@b.co"


async def test_a_fault_while_looking_up_comes_out_alone(desk: Desk) -> None:
    desk.replies["/1/profile.json"] = [(401, {})] * 20
    async with adapter(desk) as tap:
        with pytest.raises(Refused):
            await tap.find([put(person(), name=f"c{n}") for n in range(20)])


async def test_find_by_address_adopts_only_the_same_address(desk: Desk) -> None:
    desk.profiles["email=ann%40example.org"] = {"identity": "app-7", "email": "Ann@Example.org"}
    desk.profiles["email=bob%40example.org"] = {"identity": "app-8", "email": "rob@example.org"}
    desk.profiles["email=cyd%40example.org"] = {"email": "cyd@example.org"}
    changes = [put(person(f"{one}@example.org"), name=one) for one in ("ann", "bob", "cyd")]
    async with adapter(desk, adopt="email") as tap:
        found = await tap.find(changes)
        await tap.push([changes[0]._replace(remote=found[0].remote)])

    assert [one.remote for one in found] == [{"identity": "app-7"}, None, None]
    assert desk.records(-1)[0]["identity"] == "app-7"


async def test_a_no_that_is_seen_while_adopting_is_taken_and_nothing_is_sent(desk: Desk) -> None:
    """Newer consent goes past it; where nothing is adopted, nobody looks."""
    data = {"MSG-email": False}
    desk.profiles["email=ann%40example.org"] = {
        "identity": "app-7", "email": "ann@example.org", "profileData": data,
    }  # fmt: skip
    change = put(person("ann@example.org"), name="ann")
    async with adapter(desk, adopt="email") as tap:
        outcomes = await tap.push([change])
        assert not [one for one in desk.asked if "upload" in one]
        await tap.push([change._replace(resubscribe=True)])

    assert outcomes == [OptedOut(evidence={"MSG-email": False})]
    assert desk.records(-2)[0]["identity"] == "app-7"  # the last one marks the address


async def test_find_tells_a_no_where_it_can_be_seen_and_merged_identities(desk: Desk) -> None:
    desk.profiles["identity=b"] = {"identity": "[a b]", "profileData": {"MSG-email": False}}
    async with adapter(desk) as tap:
        (found,) = await tap.find([put(person(), name="b")])

    assert found.remote == {"identity": "b"}
    assert isinstance(found.opted_out, OptedOut)


async def test_erased_waits_a_day_then_reads_back(desk: Desk) -> None:
    change = drop(Verb.ERASE, person(), "x")
    now = datetime.now(UTC)
    async with adapter(desk) as tap:
        waiting = await tap.erased(change, now - timedelta(hours=23))
        assert waiting.wait_until is not None
        assert desk.asked == []
        assert (await tap.erased(change, now - timedelta(hours=25))).confirmed
        desk.profiles["identity=x"] = {"identity": "x"}
        left = await tap.erased(change, now - timedelta(hours=25))

    assert (left.confirmed, "identity x" in left.by_hand) == (False, True)


# ── Opt-outs ────────────────────────────────────────────────────────────────────────────────


def event(identity: Any = "c-42", ts: Any = 20261120143005, **props: Any) -> dict[str, Any]:
    named = {name.replace("_", " "): value for name, value in props.items()}
    return {"profile": {"identity": identity, "email": "a@b.co"}, "ts": ts, "event_props": named}


def noticed(*records: Any) -> list[Notice]:
    return notices(records, set())


def test_kinds_of_opt_out() -> None:
    for said, kind in (
        ("", "unsubscribed"),
        ("bounced", "bounced"),
        ("Dropped", "bounced"),
        ("SPAM", "complained"),
        ("other", "unsubscribed"),
    ):
        assert noticed(event(tYPE=said))[0].kind == kind


def test_a_group_is_narrower_than_all_mail() -> None:
    assert noticed(event(GROUP="Offers"), event(Group=" "))[0].contact_id == "c-42"
    assert len(noticed(event(GROUP="Offers"), event(Group=" "))) == 1


def test_levels() -> None:
    (by_profile,) = noticed(event(Subscription_Type="Profile Level"))
    (by_account,) = noticed(event(subscription_TYPE="account level"))
    (unnamed,) = noticed(event())

    assert (by_profile.contact_id, by_profile.email) == ("c-42", None)
    assert (by_account.contact_id, by_account.email) == ("c-42", "a@b.co")
    assert (unnamed.contact_id, unnamed.email) == ("c-42", "a@b.co")


def test_whose_opt_out() -> None:
    assert [one.contact_id for one in noticed(event("[a b]"))] == ["a", "b"]
    assert [one.contact_id for one in noticed(event(["a", "b"]))] == ["a", "b"]
    assert noticed(event(None, Identity="c-7"))[0].contact_id == "c-7"
    only = {"ts": 1, "event_props": {"identity": "x@y.zz"}}
    assert [(one.contact_id, one.email) for one in noticed(only)] == [(None, "x@y.zz")]
    assert noticed({"ts": 1}) == []
    assert identities("") == []


def test_doubles_are_dropped_on_identity_time_and_type() -> None:
    seen: set[tuple[object, ...]] = set()

    assert len(notices([event(), event(), event(Type="spam")], seen)) == 2
    assert notices([event()], seen) == []


def test_the_time_is_the_latest_that_it_can_mean() -> None:
    assert occurred_at(20261120143005) == datetime(2026, 11, 21, 2, 30, 5, tzinfo=UTC)
    assert occurred_at("20261120143005") == datetime(2026, 11, 21, 2, 30, 5, tzinfo=UTC)
    for bad in (None, 7, "", 20261399000000, 20261120, 99991231235959):
        assert occurred_at(bad) is None


def test_cursors() -> None:
    assert cursor_of("ZyZjfQYJ%2FKz8N") == "ZyZjfQYJ%2FKz8N"
    assert cursor_of("plain-_~.text") == "plain-_~.text"
    for bad in (None, 7, "", "a b", "a\r\nb", "a&b=c", "a#b", "ä"):
        with pytest.raises(Unintelligible):
            cursor_of(bad)


async def test_opt_outs_are_read_from_the_day_before_to_tomorrow(desk: Desk) -> None:
    desk.replies["/1/events.json"] = [
        (200, {**OK, "cursor": "one"}),
        (200, {**OK, "records": [event(), event("c-2")], "next_cursor": "two"}),
        (400, {"status": "fail", "error": "invalid cursor", "code": 400}),
        (200, {**OK, "cursor": "three"}),
        (200, {**OK, "records": [event(), event("c-3")]}),
    ]
    async with adapter(desk) as tap:
        pages = [page async for page in tap.opt_outs(datetime(2026, 11, 20, 0, 30, tzinfo=UTC))]

    assert [[one.contact_id for one in page] for page in pages] == [["c-42", "c-2"], ["c-3"]]
    tomorrow = f"{datetime.now(UTC) + timedelta(days=1):%Y%m%d}"
    assert orjson.loads(desk.bodies[0]) == {
        "event_name": "Channel Unsubscribed",
        "from": 20261119,
        "to": int(tomorrow),
    }


@pytest.mark.parametrize(
    "replies",
    [
        [(200, {"status": "fail", "error": "later"})],
        [(200, OK)],
        [(200, {**OK, "cursor": "a"}), (200, {"status": "fail"})],
        [(200, {**OK, "cursor": "a"}), (400, {}), (200, {**OK, "cursor": "a"}), (400, {})],
    ],
)
async def test_a_reading_that_fails_is_not_an_empty_one(desk: Desk, replies: list[Reply]) -> None:
    desk.replies["/1/events.json"] = replies
    async with adapter(desk) as tap:
        with pytest.raises(Unintelligible):
            [page async for page in tap.opt_outs(None)]


# ── Check ───────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("partner", "replies", "expected"),
    [
        (None, [(200, partial(0, refused(1, 515)))], [("credentials", "ok", 0)]),
        (None, [(401, {})], [("credentials", "error", 77)]),
        (None, [(503, {})], [("credentials", "error", 69)]),
        (None, [(404, {})], [("credentials", "error", 78)]),
        (None, [(400, FAIL)], [("credentials", "error", 69)]),
        ("me", [(400, {"error": "Invalid Credentials", "code": 400})], [("partner", "error", 77)]),
        ("me", [(503, {})], [("partner", "error", 69)]),
        (
            "me",
            [(403, {"error": "Partner not whitelisted: me", "code": 403}), (200, OK)],
            [("partner", "warning", 0), ("credentials", "ok", 0)],
        ),
    ],
)
async def test_check(
    desk: Desk, partner: str | None, replies: list[Reply], expected: Sequence[Any]
) -> None:
    for path in ("/v1/connect", "/1/upload"):
        desk.replies[path] = replies if path == "/v1/connect" or not partner else replies[1:]
    async with adapter(desk, partner=partner, region="in1") as tap:
        found = await tap.check()

    assert [(one.subject, one.level, one.exit_code) for one in found] == expected
    assert all("in1" in one.remedy for one in found if one.exit_code in (77, 78))
    assert all(one.remedy for one in found if one.level != "ok")
    if desk.asked[-1].startswith("POST"):
        assert desk.asked[-1] == "POST /1/upload?dryRun=1"


async def test_check_warns_of_an_account_that_merges(desk: Desk) -> None:
    async with adapter(desk, findings={"merges_by_email": True}) as tap:
        assert [one.level for one in await tap.check()] == ["ok", "warning"]


# ── Learn ───────────────────────────────────────────────────────────────────────────────────


class Account:
    """A made-up account for the canaries."""

    def __init__(self, refuses: Callable[[dict[str, Any]], bool], **habits: bool) -> None:
        self.held: dict[str, dict[str, Any]] = {}
        self.gone: list[str] = []
        self.refuses, self.habits = refuses, habits

    async def upload(self, records: Sequence[Any]) -> bool:
        if any(self.refuses(one["profileData"]) for one in records):
            return False
        for one in records:
            held = self.held.setdefault(one["identity"], {})
            for name, value in one["profileData"].items():
                if value == {"$delete": True}:
                    if self.habits.get("deletes"):
                        held.pop(name, None)
                elif name != "DOB" or self.habits.get("keeps_dates"):
                    held[name] = value
        return True

    async def read(self, identity: str) -> dict[str, Any] | None:
        if identity not in self.held:
            return None
        names = list(self.held) if self.habits.get("merges") else identity
        return {"identity": names, "profileData": self.held[identity]}

    async def delete(self, identities: Sequence[str]) -> None:
        self.gone += identities


@pytest.mark.parametrize("deletes", [True, False])
@pytest.mark.parametrize("merges", [True, False])
@pytest.mark.parametrize("keeps_dates", [True, False])
async def test_canaries_find_out_and_leave(
    monkeypatch: pytest.MonkeyPatch, deletes: bool, merges: bool, keeps_dates: bool
) -> None:
    monkeypatch.setattr(clevertap_canary, "LOOKS", (0.0, 0.0))
    account = Account(lambda data: False, deletes=deletes, merges=merges, keeps_dates=keeps_dates)

    found = await clevertap_canary.findings(account)

    assert found == {
        "delete_works": deletes,
        "merges_by_email": merges,
        "negative_dates": keeps_dates,
    }
    assert sorted(account.gone) == sorted(account.held)
    for held in account.held.values():
        assert held["Email"].endswith("@syncd-canary.invalid")
        assert held["MSG-email"] is False


async def test_canaries_are_deleted_whatever_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clevertap_canary, "LOOKS", (0.0,))

    def refuses(data: dict[str, Any]) -> bool:
        if "DOB" in data:
            raise Transient("down")
        return False

    account = Account(refuses)
    with pytest.raises(Transient):
        await clevertap_canary.findings(account)

    assert len(account.gone) == 2


async def test_an_account_that_may_not_read_teaches_nothing(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clevertap_canary, "LOOKS", (0.0,))
    desk.replies["/1/profile.json"] = [(403, FAIL)] * 9
    async with adapter(desk) as tap:
        learned = await tap.learn()

    assert learned is not None
    assert learned.findings["delete_works"] is False
    assert desk.asked[-1] == "POST /1/delete/profiles.json"
