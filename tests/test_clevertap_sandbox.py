"""CleverTap's adapter and the wire against the strict stand-in: no rule of the API is broken."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from syncd.errors import Ambiguous, Indivisible, ProviderError, Refused, Transient, Unintelligible
from syncd.model import Absent, Applied, Change, Person, Rejected, Verb
from syncd.providers import clevertap_canary
from syncd.providers.clevertap import CleverTap, CleverTapCredential, CleverTapOptions
from syncd.sandbox import Handle, serve
from syncd.wire import HttpWire


class Permits:
    """The meters' limits, within this process."""

    def __init__(self) -> None:
        meters = CleverTap.traits.meters
        self.free = {name: asyncio.Semaphore(one.in_flight or 1) for name, one in meters.items()}

    @asynccontextmanager
    async def permit(self, meter: str) -> AsyncIterator[None]:
        async with self.free[meter]:
            yield


@asynccontextmanager
async def adapter(
    box: Handle, findings: Mapping[str, Any] | None = None, passcode: str = "", **options: Any
) -> AsyncIterator[CleverTap]:
    chosen = CleverTapOptions(base_url=box.url, **options)
    demo = box.state.demo
    key = CleverTapCredential(account_id=demo["account_id"], passcode=passcode or demo["passcode"])
    async with HttpWire(CleverTap, chosen, lambda: key, Permits(), timeout=5) as wire:
        yield CleverTap(wire, chosen, findings or {})


@pytest.fixture
async def box() -> AsyncIterator[Handle]:
    """A stand-in; the test fails if it was ever used against its rules."""
    async with serve("clevertap") as box:
        yield box
        assert box.state.ledger.violations == []


def person(email: str, *lists: str, subscribed: bool = True, **fields: Any) -> Person:
    named = {name.replace("_", " "): value for name, value in fields.items()}
    return Person(email, named, {one: one for one in lists}, subscribed)


def put(name: str, want: Person, was: Person | None = None, **more: Any) -> Change:
    facts = {"may_create": was is None, "resubscribe": False, "remote": None, **more}
    return Change(contact_id=name, verb=Verb.PUT, want=want, was=was, **facts)


def drop(name: str, verb: Verb, was: Person) -> Change:
    return Change(name, verb, None, was, None, False, False)


def held(box: Handle) -> dict[str, Any]:
    found: dict[str, Any] = box.snapshot()["profiles"]
    return found


EVERYTHING: dict[str, Any] = {
    "First_Name": "Zoë",
    "Last_Name": "Ångström\x00\ud83d",
    "Phone": "+49 (0)151 1234-5678",
    "Company": "x" * 600,
    "DOB": "1990-05-17",
    "City": "",
    "Score": 2**70,
    "Ratio": float("nan"),
    "Member": True,
    "Gender": "F",
    "a.b": "no",
}


async def test_a_contact_arrives_as_it_is(box: Handle) -> None:
    async with adapter(box) as tap:
        (outcome,) = await tap.push(
            [put("c-42", person("zoe@example.org", "n", "o", **EVERYTHING))]
        )

    assert isinstance(outcome, Applied)
    assert sorted(outcome.lacking) == [
        "field:Company cut to 512 bytes",
        "field:Ratio not a number, left out",
        "field:a.b is not allowed as a name",
    ]
    profile = held(box)["c-42"]
    assert (profile["Email"], profile["Lists"], profile["flags"]) == (
        "zoe@example.org",
        ["n", "o"],
        {},
    )
    properties = profile["properties"]
    assert properties["Name"] == "Zoë Ångström"
    assert properties["Phone"] == "+4915112345678"
    assert properties["DOB"] == "$D_642945600"
    assert "City" not in properties
    assert profile["mailable"]


async def test_a_thousand_contacts_are_one_request_and_repeat_without_change(box: Handle) -> None:
    changes = [put(f"c{n}", person(f"a{n}@example.org", "all")) for n in range(1000)]
    async with adapter(box) as tap:
        for _ in range(2):
            assert await tap.push(changes) == [Applied()] * 1000

    assert box.state.ledger.requests == 2
    assert len(held(box)) == 1000
    assert box.snapshot()["duplicates"] in ([], {}, 0)


async def test_updates_move_lists_and_clear_fields(box: Handle) -> None:
    first = person("a@example.org", "old", "both", City="Oslo", Zip="1")
    then = person("b@example.org", "both", "new", City=None, Zip="2")
    async with adapter(box, {"delete_works": True}) as tap:
        await tap.push([put("c", first)])
        assert await tap.push([put("c", then, first)]) == [Applied()]

    profile = held(box)["c"]
    assert profile["Lists"] == ["both", "new"]
    assert {k: v for k, v in profile["properties"].items() if k != "Lists"} == {"Zip": "2"}
    assert profile["Email"] == "b@example.org"


async def test_silence_withdrawal_and_the_way_back(box: Handle) -> None:
    here, silent = person("a@example.org", "n"), person("a@example.org", "n", subscribed=False)
    async with adapter(box) as tap:
        await tap.push([put("c", here)])
        await tap.push([put("c", silent, here)])
        assert (held(box)["c"]["flags"], held(box)["c"]["mailable"]) == (
            {"MSG-email": False},
            False,
        )
        assert list(box.snapshot()["address_marks"]) == ["a@example.org"]

        await tap.push([put("c", here, silent, resubscribe=True)])
        assert held(box)["c"]["mailable"]
        assert box.snapshot()["address_marks"] == {}

        await tap.push([drop("c", Verb.WITHDRAW, here)])
        assert (held(box)["c"]["Lists"], held(box)["c"]["mailable"]) == ([], False)
        assert box.snapshot()["address_marks"] == {}

        await tap.push([put("c", here, silent, resubscribe=True)])
        assert (held(box)["c"]["Lists"], held(box)["c"]["mailable"]) == (["n"], True)

    assert box.snapshot()["resubscribed"] == []


@pytest.mark.parametrize("deed", ["unsubscribe", "unsubscribe_profile", "bounce", "complain"])
async def test_who_opted_out_in_the_app_stays_out_at_our_first_upload(
    box: Handle, deed: str
) -> None:
    """A new destination on an old account: the profile is there, and says no."""
    async with adapter(box) as tap:
        await tap.push([put("c", person("ann@example.org"))])
        box.act(deed, identity="c")

        assert await tap.push([put("c", person("ann@example.org", "n"))]) == [Applied()]
        assert await tap.push([put("c", person("ann@example.org"), doubtful=True)]) == [Applied()]

    assert not held(box)["c"]["mailable"]
    assert box.snapshot()["resubscribed"] == []


async def test_a_no_is_silenced_where_found_and_never_created(box: Handle) -> None:
    async with adapter(box) as tap:
        await tap.push([put("there", person("a@example.org"))])
        changes = [
            put("there", person("a@example.org", subscribed=False), may_create=False),
            put("not", person("b@example.org", subscribed=False), may_create=False),
        ]
        outcomes = await tap.push(changes)

    assert [type(one) for one in outcomes] == [Applied, Absent]
    assert list(held(box)) == ["there"]
    assert not held(box)["there"]["mailable"]


@pytest.mark.parametrize("shape", ["404", "missing", "fail"])
async def test_find_in_every_shape_of_not_found(shape: str) -> None:
    async with serve("clevertap", not_found=shape) as box, adapter(box, adopt="email") as tap:
        await tap.push([put("c", person("jo+tag@example.org"))])
        changes = [put(name, person("jo+tag@example.org")) for name in ("c", "other")]
        changes.append(put("none", person("nobody@example.org")))
        found = await tap.find(changes)

    assert [one.remote for one in found] == [{"identity": "c"}, {"identity": "c"}, None]
    assert box.state.ledger.violations == []


async def test_adoption_by_address_makes_no_second_profile_and_shares_none(box: Handle) -> None:
    """The app made a profile under its own identity; two of our contacts have its address."""
    async with adapter(box) as tap:
        await tap.push([put("app-7", person("ann@example.org"))])
    async with adapter(box, adopt="email") as tap:
        silent = put("c1", person("Ann@example.org", subscribed=False), may_create=False)
        assert await tap.push([silent]) == [Applied({"identity": "app-7"})]
        found = await tap.find([put(one, person("ann@example.org")) for one in ("c1", "c2")])
        changes = [
            put(one, person("ann@example.org"), remote=seen.remote)
            for one, seen in zip(("c1", "c2"), found, strict=True)
        ]
        outcomes = await tap.push(changes)

    assert [type(one) for one in outcomes] == [Applied, Rejected]
    assert list(held(box)) == ["app-7"]
    assert not held(box)["app-7"]["mailable"]


async def test_whoever_is_there_is_looked_up_before_one_is_made_where_addresses_are_adopted(
    box: Handle,
) -> None:
    """Also contacts whose record needs no thought. A no that cannot be seen there still stands."""
    async with adapter(box) as tap:
        await tap.push([put("app-7", person("ann@example.org")), put("app-8", person("b@x.org"))])
    box.act("unsubscribe_profile", identity="app-8")
    changes = [
        put("c1", person("Ann@example.org", First_Name="Ann")),
        put("c2", person("b@x.org")),
        put("c3", person("cyd@example.org", First_Name="Cyd")),
    ]
    async with adapter(box, adopt="email") as tap:
        outcomes = await tap.push(changes)
        again = changes[0]._replace(
            want=person("ann@example.org", First_Name="Anna"),
            was=changes[0].want,
            remote={"identity": "app-7"},
            may_create=False,
        )
        before = box.state.ledger.requests
        await tap.push([again])
        assert box.state.ledger.requests == before + 1  # known by now: no look-up

    assert outcomes[0] == Applied({"identity": "app-7"})
    assert outcomes[1] == Applied({"identity": "app-8"})
    assert isinstance(outcomes[2], Applied)
    assert sorted(held(box)) == ["app-7", "app-8", "c3"]
    assert held(box)["app-7"]["properties"]["First Name"] == "Anna"
    assert not held(box)["app-8"]["mailable"]
    assert box.snapshot()["duplicates"] == {}


async def test_check_says_who_is_known_there_under_another_identity(box: Handle) -> None:
    people = {"c1": "Ann@example.org", "c2": "bob@example.org", "c3": "no address", "c4": "d@x.org"}
    async with adapter(box) as tap:
        [none] = await tap.check_people(people)
        await tap.push(
            [put("app-7", person("ann@example.org")), put("c2", person("bob@example.org"))]
        )
        [some] = await tap.check_people(people)
        assert await tap.check_people({}) == []
    async with adapter(box, adopt="email") as tap:
        assert await tap.check_people(people) == []

    assert (none.level, some.level) == ("ok", "warning")
    assert "3 addresses" in none.says
    assert "1 are known there under other identities" in some.says
    assert "adopt" in some.remedy


async def test_opt_outs_are_read_back(box: Handle) -> None:
    async with adapter(box) as tap:
        await tap.push([put(n, person(f"{n}@example.org")) for n in ("a", "b", "c", "d", "e")])
        box.act("unsubscribe", email="a@example.org")
        box.act("bounce", identity="b")
        box.act("complain", identity="c")
        box.act("unsubscribe_profile", identity="d")
        box.act("unsubscribe", identity="e", group="Offers")
        since = datetime.now(UTC) - timedelta(minutes=15)
        pages = [page async for page in tap.opt_outs(since)]
        again = [page async for page in tap.opt_outs(None)]

    found = {(n.contact_id, n.email, n.kind) for page in pages for n in page}
    assert found == {
        ("a", "a@example.org", "unsubscribed"),
        ("b", "b@example.org", "bounced"),
        ("c", "c@example.org", "complained"),
        ("d", None, "unsubscribed"),
    }
    times = [n.occurred_at for page in pages for n in page]
    latest = datetime.now(UTC) + timedelta(hours=12)  # the zone is not told
    assert all(one is not None and since < one <= latest for one in times)
    assert len(again) == len(pages)


async def test_erasure_and_deletion(box: Handle) -> None:
    ann = person("ann@example.org")
    async with adapter(box) as tap:
        await tap.push([put(f"c{n}", ann if n == 0 else person(f"{n}@b.co")) for n in range(130)])
        changes = [drop("c0", Verb.ERASE, ann)]
        changes += [drop(f"c{n}", Verb.DELETE, person(f"{n}@b.co")) for n in range(1, 130)]
        assert await tap.push(changes) == [Applied()] * 130
        done = await tap.erased(changes[0], datetime.now(UTC) - timedelta(days=2))

    assert done.confirmed
    assert held(box) == {}
    assert list(box.snapshot()["address_marks"]) == ["ann@example.org"]


async def test_one_refused_record_harms_no_other(box: Handle) -> None:
    changes = [
        put("1", person("a@example.org")),
        put("2", person("b@example.org", Gender="unknown")),
        put("3", person("c@example.org")),
    ]
    async with adapter(box) as tap:
        outcomes = await tap.push(changes)

    assert [type(one) for one in outcomes] == [Applied, Rejected, Applied]
    assert isinstance(outcomes[1], Rejected)
    assert outcomes[1].reason.startswith("code 514: ")
    assert sorted(held(box)) == ["1", "3"]


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        ("error", Ambiguous),
        ("error_html", Ambiguous),
        ("error_after", Ambiguous),
        ("rate_429", Transient),
        ("cut_before", Ambiguous),
        ("cut_after", Ambiguous),
        ("half_answer", Ambiguous),
        ("outage_close", Ambiguous),
        ("outage_503", Ambiguous),
        ("html", Ambiguous),
        ("garbage", Unintelligible),
        ("truncated_json", Unintelligible),
        ("malformed", Indivisible),
        ("revoked", Refused),
    ],
)
async def test_every_mishap_is_typed_and_the_repeat_mends_it(
    box: Handle, fault: Any, kind: type[ProviderError]
) -> None:
    changes = [put(f"c{n}", person(f"a{n}@example.org", "n")) for n in range(3)]
    async with adapter(box) as tap:
        await tap.push(changes[:1])  # so that the connection is a reused one
        box.next_fault(fault)
        before = box.state.ledger.requests
        with pytest.raises(ProviderError) as caught:
            await tap.push(changes)
        assert type(caught.value) is kind
        assert box.state.ledger.requests == before + 1
        assert await tap.push(changes) == [Applied()] * 3

    assert {one["Email"] for one in held(box).values()} == {f"a{n}@example.org" for n in range(3)}


async def test_check_tells_good_credentials_from_bad(box: Handle) -> None:
    async with adapter(box, partner="syncd") as tap:
        assert [(one.subject, one.level) for one in await tap.check()] == [("partner", "ok")]
    async with adapter(box, partner="nobody") as tap:
        assert [one.level for one in await tap.check()] == ["warning", "ok"]
    async with adapter(box) as tap:
        assert [(one.subject, one.level) for one in await tap.check()] == [("credentials", "ok")]
    for partner in (None, "syncd"):
        async with adapter(box, passcode="wrong", partner=partner) as tap:
            assert [one.exit_code for one in await tap.check()] == [77]

    assert held(box) == {}


@pytest.mark.parametrize("merges", [True, False])
@pytest.mark.parametrize("deletes", [True, False])
async def test_learning_leaves_nothing_behind(
    monkeypatch: pytest.MonkeyPatch, merges: bool, deletes: bool
) -> None:
    monkeypatch.setattr(clevertap_canary, "LOOKS", (0.01, 0.01))
    async with (
        serve("clevertap", merge_by_email=merges, delete_supported=deletes) as box,
        adapter(box) as tap,
    ):
        learned = await tap.learn()

    assert learned is not None
    assert learned.findings["merges_by_email"] is merges
    assert learned.findings["delete_works"] is deletes
    assert held(box) == {}
    assert box.state.ledger.violations == []
