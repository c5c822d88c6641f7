"""What every adapter must do, whoever wrote it, at a stand-in as strict as its provider.

Each test runs for each adapter that is installed (entry-point group `syncd.providers`) and for
each way that its stand names; see `stands`. The core is there in small: `core`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, get_args

import orjson
import pytest
from adapters import Permits
from core import Core, Known, of
from pydantic import SecretStr, ValidationError
from stands import GROUP, Mishap, Stand, Vector, stands

from syncd.errors import ProviderError, Refused, Transient
from syncd.model import (
    PROVIDED_BY,
    Absent,
    Applied,
    Can,
    Change,
    OptedOut,
    Person,
    Rejected,
    Seen,
    Verb,
    Waits,
)
from syncd.providers import providers
from syncd.wire import HttpWire

CASES = [(name, way) for name in sorted(providers()) if name in stands()
         for way in stands()[name].ways]  # fmt: skip
TIMEOUT = 3.0


# ── One adapter at its stand-in ─────────────────────────────────────────────────────────────


@dataclass
class Here:
    """An adapter, the stand-in that it speaks to, and the core in small."""

    stand: Stand
    kind: Any
    stack: AsyncExitStack
    adapter: Any = None
    permits: Any = None
    lists: dict[str, str] = field(default_factory=dict)

    @property
    def can(self) -> Can:
        can: Can = self.adapter.traits.can
        return can

    async def another(self, credential: Mapping[str, str] | None = None) -> Any:
        """One more adapter there, as after a restart; *credential*: not the good one."""
        options = self.kind.options_model.model_validate(dict(self.stand.options))
        key = self.kind.credential_model.model_validate(dict(credential or self.stand.credential))
        self.permits = Permits(self.kind.meters(options))
        wire = HttpWire(self.kind, options, lambda: key, self.permits, timeout=TIMEOUT)
        await self.stack.enter_async_context(wire)
        return self.kind(wire, options, self.stand.findings)

    async def make_lists(self) -> None:
        """Two lists of ours, and this adapter knows the account."""
        if not self.stand.findings:
            await self.adapter.learn()
        for ours, name in (("news", "Newsletter"), ("vip", "Very Important")):
            keeps = Can.LISTS in self.can
            self.lists[ours] = await self.adapter.create_list(name) if keeps else ours

    def person(
        self, n: int, *lists: str, text: str = "Ann", subscribed: bool = True, email: str = ""
    ) -> Person:
        there = {one: self.lists[one] for one in lists or ("news",)}
        return Person(
            email or f"p{n}@x.example.org", {self.stand.text_field: text}, there, subscribed
        )

    def people(self, number: int, *lists: str, **more: Any) -> dict[str, Person]:
        return {f"c{n}": self.person(n, *lists, **more) for n in range(number)}

    def text_of(self, email: str) -> str:
        (one,) = self.stand.at(email)
        return str(one.fields.get(self.stand.text_field) or "")

    def mailable(self, email: str) -> bool:
        return any(one.mailable for one in self.stand.at(email))

    def lists_of(self, email: str) -> set[str]:
        """Our names of those lists of ours that an address is in."""
        held = {one for record in self.stand.at(email) for one in record.lists}
        return {ours for ours, theirs in self.lists.items() if theirs in held}


@pytest.fixture(params=CASES, ids=lambda case: "-".join(filter(None, case)))
async def here(request: pytest.FixtureRequest) -> AsyncIterator[Here]:
    """The test fails if the stand-in was ever used against its rules."""
    name, way = request.param
    async with stands()[name].serving(way) as stand, AsyncExitStack() as stack:
        made = Here(stand, providers()[name], stack)
        made.adapter = await made.another()
        await made.make_lists()
        yield made
        assert list(stand.breaches()) == []


@pytest.fixture
def core(here: Here) -> Core:
    return Core(here.adapter)


NAMES = pytest.mark.parametrize("name", sorted(providers()))

# ── Declarations ────────────────────────────────────────────────────────────────────────────


@NAMES
def test_every_adapter_has_a_stand_here(name: str) -> None:
    assert name in stands(), f"register a stand for it: entry-point group {GROUP!r}"
    assert stands()[name].vectors
    assert stands()[name].ways


VECTORS = [pytest.param(vector, id=f"{name}-{vector.name}")
           for name in sorted(stands()) for vector in stands()[name].vectors]  # fmt: skip


@pytest.mark.parametrize("vector", VECTORS)
def test_every_vector_of_the_reference(vector: Vector) -> None:
    assert vector.made() == vector.expected


@NAMES
def test_a_flag_is_set_where_its_method_is(name: str) -> None:
    """REPEAT, RESUBSCRIBE and SEES_GONE are ways of methods that others need too."""
    kind = providers()[name]
    for flag, method in PROVIDED_BY.items():
        if flag in kind.traits.can:
            assert callable(getattr(kind, method, None)), flag
        elif method not in ("push", "find", "scan"):
            assert not hasattr(kind, method), flag
    assert hasattr(kind, "find") == bool(kind.traits.can & (Can.FIND | Can.SEES_GONE))
    assert hasattr(kind, "scan") == bool(kind.traits.can & Can.SCAN)
    assert hasattr(kind, "scan") == hasattr(kind, "remembered")
    assert hasattr(kind, "lists") == bool(kind.traits.can & Can.LISTS)
    assert kind.name == name


@NAMES
def test_what_it_says_of_itself_holds_together(name: str) -> None:
    kind, traits = providers()[name], providers()[name].traits
    assert traits.batch >= 1
    assert traits.key in ("ours", "address", "remote id")
    assert traits.meters
    assert not (traits.can & Can.REPEAT and traits.can & Can.SORTS_DOUBT), "no doubt to be sorted"
    assert traits.default_fields
    for fault in ({"no_such": 1}, {"base_url": 7}):
        with pytest.raises(ValidationError):
            kind.options_model.model_validate(fault)


async def test_limits_are_told_for_the_meters_that_requests_ask_for(here: Here) -> None:
    options = here.kind.options_model.model_validate(dict(here.stand.options))
    assert list(here.kind.meters(options)) == list(here.kind.traits.meters)
    assert here.kind.base_url(options).startswith("http://127.0.0.1:")
    bare = here.kind.options_model.model_validate({**here.stand.options, "base_url": ""})
    assert here.kind.base_url(bare).startswith("https://")


def secrets_of(model: Any) -> list[str]:
    return [v.get_secret_value() for v in dict(model).values() if isinstance(v, SecretStr)]


@NAMES
def test_a_credential_shows_no_secret_and_refuses_what_is_none(name: str) -> None:
    kind, given = providers()[name], stands()[name].credential
    padded = {key: f" {value}\n" if key != "password" else value for key, value in given.items()}
    made = kind.credential_model.model_validate(padded)
    options = kind.options_model.model_construct()
    assert secrets_of(made)
    assert kind.scope(options, made) in given.values()
    for shown in (repr(made), str(made), str(made.model_dump()), made.model_dump_json()):
        assert not [one for one in secrets_of(made) if one in shown]
    for key in given:
        for bad in ("", "a\nb", *([] if key == "password" else [" "])):
            with pytest.raises(ValidationError) as caught:
                kind.credential_model.model_validate({**given, key: bad})
            assert not [one for one in given.values() if one in str(caught.value)]


# ── Order, batches, meters ──────────────────────────────────────────────────────────────────


async def test_nothing_to_do_costs_nothing(here: Here) -> None:
    before = here.stand.requests
    assert list(await here.adapter.push([])) == []
    if Can.FIND in here.can:
        assert list(await here.adapter.find([])) == []
    assert here.stand.requests == before


async def test_outcomes_are_as_many_as_changes_and_in_their_order(here: Here, core: Core) -> None:
    """What is no address stands out, wherever it stands."""
    size = min(here.kind.traits.batch, 9)
    for round_, place in enumerate({0, size // 2, size - 1}):
        people = {f"c{n}": here.person(n) for n in range(round_ * size, (round_ + 1) * size)}
        bad = f"c{round_ * size + place}"
        people[bad] = people[bad]._replace(email="no address")
        outcomes = await here.adapter.push([core.change(k, one) for k, one in people.items()])
        assert [isinstance(one, Rejected) for one in outcomes] == [n == place for n in range(size)]


async def test_whoever_is_told_apart_by_an_outcome_is_that_one(here: Here, core: Core) -> None:
    """Texts and lists arrive at the contact that they were sent for."""
    people = {f"c{n}": here.person(n, ("news", "vip")[n % 2], text=f"t{n}") for n in range(8)}
    assert set(of(await core.put(people), people)) == {Applied}
    for n, one in enumerate(people.values()):
        assert here.text_of(one.email) == f"t{n}"
        assert not here.stand.keeps_lists or here.lists_of(one.email) == set(one.lists)


async def test_a_whole_batch_is_taken_and_every_request_asks_for_leave(
    here: Here, core: Core
) -> None:
    """The stand-in counts what it gets; the meters count what was asked for."""
    traits, before = here.kind.traits, here.stand.requests
    begun = here.permits.taken.total()
    number = max(traits.batch, 40)
    outcomes = await core.put(here.people(number))
    assert set(of(outcomes, outcomes)) == {Applied}
    assert len(here.stand.held()) == number
    asked = here.stand.requests - before
    assert here.permits.taken.total() - begun == asked
    if traits.batch > 1:
        assert asked <= number / 10 + number * here.stand.looks_up
    else:
        assert asked <= 3 * number + 20


# ── Doubt ───────────────────────────────────────────────────────────────────────────────────

LOST = ("cut_before", "cut_after", "half_answer", "error", "error_after", "html", "garbage")


@pytest.mark.parametrize("mishap", LOST)
async def test_a_create_whose_answer_was_lost_is_looked_up_and_never_doubled(
    here: Here, core: Core, mishap: Mishap
) -> None:
    await core.put({"first": here.person(77)})
    here.stand.strike(mishap, "create")
    outcomes = await core.put({"c1": here.person(1, text="Lost")})

    assert isinstance(outcomes["c1"], Applied)
    assert len(here.stand.at("p1@x.example.org")) == 1
    assert here.text_of("p1@x.example.org") == "Lost"
    assert here.mailable("p1@x.example.org")


async def test_what_a_lost_create_made_is_found_though_the_contact_has_moved_on(
    here: Here, core: Core
) -> None:
    """Else it would be made once more, and the record that was left be mailed for ever."""
    if not here.can & Can.FIND or here.kind.traits.key == "address":
        pytest.skip("nobody is looked for, or the address is the key: the core leaves it first")
    first, moved = here.person(1), here.person(1, email="moved@x.example.org")
    await core.put({"c1": first})
    core.mirror.clear()
    tried = Person(first.email, {}, {}, True)
    (found,) = await here.adapter.find([core.change("c1", moved, was=tried, doubtful=True)])

    assert found.remote is not None


@pytest.mark.parametrize("mishap", [one for one in get_args(Mishap) if one != "revoked"])
@pytest.mark.parametrize("what", ["update", "silence", "withdraw"])
async def test_whatever_befalls_a_write_it_arrives_once_it_is_repeated(
    here: Here, core: Core, mishap: Mishap, what: str
) -> None:
    people = {"c1": here.person(1), "c2": here.person(2)}
    await core.put(people)
    here.stand.strike(mishap)
    if what == "withdraw":
        outcomes = await core.drop(Verb.WITHDRAW, "c1")
    else:
        want = here.person(1, text="New", subscribed=what == "update")
        outcomes = await core.put({"c1": want})

    assert isinstance(outcomes["c1"], Applied)
    assert here.mailable("p1@x.example.org") == (what == "update")
    assert here.mailable("p2@x.example.org")
    if what == "update":
        assert here.text_of("p1@x.example.org") == "New"


async def test_a_busy_provider_is_asked_again_later_and_nothing_was_done(
    here: Here, core: Core
) -> None:
    await core.put({"c1": here.person(1)})
    here.stand.strike("rate_429", "create")
    with pytest.raises(Transient) as caught:
        await here.adapter.push([core.change("c2", here.person(2))])
    assert not caught.value.may_be_applied
    assert not caught.value.needs_a_person
    assert here.stand.at("p2@x.example.org") == []


async def test_a_provider_that_is_not_there_is_asked_again_later(here: Here) -> None:
    other = stands()[here.kind.name].serving(next(iter(stands()[here.kind.name].ways)))
    async with other as gone:
        pass
    away = Here(gone, here.kind, here.stack, lists=here.lists)
    adapter = await away.another()
    with pytest.raises(ProviderError) as caught:
        await adapter.push([Core(adapter).change("c1", here.person(1))])
    assert isinstance(caught.value, Transient)
    assert {one.exit_code for one in await adapter.check()} >= {69}


# ── Everything twice ────────────────────────────────────────────────────────────────────────


async def repeated(here: Here, core: Core, change: Change) -> None:
    """Sent, and sent again as it was: as after a lost settlement."""
    known = dict(core.mirror)
    (first,) = (await core.carry([change])).values()
    assert isinstance(first, Applied), first
    core.mirror = known
    again = change._replace(doubtful=True)
    if change.was is None and change.want is not None:
        again = again._replace(was=change.want._replace(fields={}))
    (second,) = (await core.carry([again])).values()
    assert isinstance(second, Applied), second


async def test_every_operation_may_be_repeated(here: Here, core: Core) -> None:
    want = here.person(1)
    await repeated(here, core, core.change("c1", want))
    assert len(here.stand.at(want.email)) == 1
    more = here.person(1, "news", "vip", text="More")
    await repeated(here, core, core.change("c1", more))
    assert here.text_of(want.email) == "More"
    assert not here.stand.keeps_lists or here.lists_of(want.email) == {"news", "vip"}
    await repeated(here, core, core.change("c1", more._replace(subscribed=False)))
    assert not here.mailable(want.email)
    for number, verb in enumerate((Verb.WITHDRAW, Verb.DELETE, Verb.ERASE), 2):
        name, one = f"c{number}", here.person(number)
        await core.put({name: one})
        await repeated(here, core, core.leaving(verb, name))
        assert not here.mailable(one.email)


async def test_the_same_again_is_sent_and_changes_nothing(here: Here, core: Core) -> None:
    """As `--force` does."""
    people = here.people(3, text="Ann")
    await core.put(people)
    before = sorted(map(repr, here.stand.held()))
    assert set(of(await core.put(people), people)) == {Applied}
    assert sorted(map(repr, here.stand.held())) == before


# ── Refusals ────────────────────────────────────────────────────────────────────────────────


async def test_credentials_that_are_wrong_are_refused_and_said_to_be(here: Here) -> None:
    adapter = await here.another(here.stand.wrong)
    before = here.stand.requests
    with pytest.raises(Refused) as caught:
        await adapter.push([Core(adapter).change("c1", here.person(1))])
    assert caught.value.needs_a_person
    findings = await adapter.check()
    assert [one.exit_code for one in findings if one.level == "error"] == [Refused.exit_code]
    assert all(one.remedy for one in findings if one.level == "error")
    assert here.stand.requests - before <= 10
    assert here.stand.held() == []
    said = f"{caught.value!r} {caught.value} {findings}"
    assert not [one for one in here.stand.wrong.values() if len(one) > 8 and one in said]


async def test_credentials_that_are_revoked_are_refused_at_any_call(here: Here, core: Core) -> None:
    await core.put({"c1": here.person(1)})
    here.stand.revoke()
    changes = [core.change("c1", here.person(1, text="New")), core.change("c2", here.person(2)),
               core.leaving(Verb.WITHDRAW, "c1")]  # fmt: skip
    refused = 0
    for change in changes:
        try:
            (outcome,) = await here.adapter.push([change])
        except Refused:
            refused += 1
        else:
            assert isinstance(outcome, Waits)  # for a scan, which would be refused
    assert refused
    assert here.text_of("p1@x.example.org") == "Ann"


async def test_one_bad_record_of_a_batch_is_the_only_one_that_is_rejected(
    here: Here, core: Core
) -> None:
    here.stand.refuse("p4@x.example.org")
    people = here.people(min(max(here.kind.traits.batch, 9), 40))
    outcomes = await core.put(people)
    bad = outcomes.pop("c4")
    assert isinstance(bad, Rejected)
    assert bad.reason
    assert "p4@" not in bad.reason
    assert set(of(outcomes, outcomes)) == {Applied}
    assert len(here.stand.held()) == len(people) - 1


async def test_a_full_account_takes_nobody_and_goes_on_with_whom_it_has(
    here: Here, core: Core
) -> None:
    if not here.stand.can_be_full:
        pytest.skip("no such limit is documented")
    await core.put({"c1": here.person(1)})
    here.stand.fill_up()
    outcomes = await core.put({"c2": here.person(2), "c3": here.person(3)})
    assert set(of(outcomes, outcomes)) == {Rejected}
    assert len({one.reason for one in outcomes.values() if isinstance(one, Rejected)}) == 1
    outcomes = await core.put({"c1": here.person(1, text="New")})
    assert isinstance(outcomes["c1"], Applied)
    assert here.text_of("p1@x.example.org") == "New"


# ── Text ────────────────────────────────────────────────────────────────────────────────────

TEXTS = (
    "Zoë Ångström",
    "A\u030angstro\u0308m",  # not in NFC
    'O\'Brien "q" \\ <b>&amp;</b> ]]> %s {0} $1 #!',
    "a\x00b\x1bc\x7fd\x85e",
    "half \ud83d pair",
    "tab\there, and\r\nthree\nlines",
    "😀 👩‍👩‍👧 \u202elive \ufeff",
    "ß İstanbul ﬁ ŁÓDŹ 中文 \u00a0",
    "=1+1; --",
    "null",
    "0",
    "long " + "ä" * 400,
    'a,b;"c"',
)


async def test_a_text_is_kept_as_it_was_sent_or_as_the_reference_says(
    here: Here, core: Core
) -> None:
    people = {f"c{n}": here.person(n, text=text) for n, text in enumerate(TEXTS)}
    assert set(of(await core.put(people), people)) == {Applied}
    for n, text in enumerate(TEXTS):
        assert here.text_of(f"p{n}@x.example.org") == here.stand.tidy(text), repr(text)


async def test_a_text_that_was_changed_on_its_way_is_not_sent_for_ever(
    here: Here, core: Core
) -> None:
    people = {f"c{n}": here.person(n, text=text) for n, text in enumerate(TEXTS)}
    await core.put(people)
    before = sorted(map(repr, here.stand.held()))
    await core.put(people)
    assert sorted(map(repr, here.stand.held())) == before


@pytest.mark.parametrize("email", ["O'Brien+News@X.Example.org", "a.b-c_d%e=f@x.example.org",
                                   "ümläut@x.example.org", "x&y#z?@x.example.org"])  # fmt: skip
async def test_an_odd_address_is_one_contact_however_often_it_is_sent(
    here: Here, core: Core, email: str
) -> None:
    want = here.person(1, email=email)
    outcomes = await core.put({"c1": want})
    if isinstance(outcomes["c1"], Rejected):
        assert here.stand.held() == []
        return
    await repeated(here, core, core.change("c1", here.person(1, email=email, text="Two")))
    assert [one.email.lower() for one in here.stand.held()] == [email.lower()]
    core.mirror.clear()
    if here.can & (Can.FIND | Can.REPEAT):  # else the core scans first
        again = await core.carry([core.change("c1", want, doubtful=True)])
        assert isinstance(again["c1"], Applied)
        assert len(here.stand.held()) == 1


@pytest.mark.parametrize("email", ["", "ann", "a@b", "a b@c.example", "a@b\x00.example",
                                   "@b.example"])  # fmt: skip
async def test_what_is_no_address_costs_no_request(here: Here, core: Core, email: str) -> None:
    before = here.stand.requests
    want = here.person(1)._replace(email=email)
    (outcome,) = await here.adapter.push([core.change("c1", want)])
    assert isinstance(outcome, Rejected)
    assert here.stand.requests - before <= 2  # whether the account can be used at all
    assert here.stand.held() == []


# ── Consent ─────────────────────────────────────────────────────────────────────────────────


async def test_who_said_no_there_is_reported_and_never_subscribed_again(
    here: Here, core: Core
) -> None:
    await core.put({"c1": here.person(1), "c2": here.person(2)})
    here.stand.say_no("p1@x.example.org")
    outcomes = await core.put({"c1": here.person(1, "news", "vip", text="New")})
    assert not here.mailable("p1@x.example.org")
    tells = isinstance(outcomes["c1"], OptedOut)
    assert tells or here.can & (Can.OPT_OUT | Can.SCAN), "nobody would ever know"
    if Can.OPT_OUT in here.can:
        noes = [one async for page in here.adapter.opt_outs(None) for one in page]
        assert {(one.contact_id or "c1", (one.email or "p1@x.example.org").lower())
                for one in noes} == {("c1", "p1@x.example.org")}  # fmt: skip
        assert {one.kind for one in noes} == {"unsubscribed"}
    core.mirror.clear()  # as after a restored backup
    if Can.FIND in here.can:
        (found,) = await here.adapter.find([core.change("c1", here.person(1))])
        assert found.remote is not None
        if found.opted_out is None:
            assert Can.OPT_OUT in here.can
    assert here.mailable("p2@x.example.org")


async def test_a_no_of_our_own_is_conveyed_and_nothing_undoes_it_without_leave(
    here: Here, core: Core
) -> None:
    silent, want = here.person(1, subscribed=False), here.person(1)
    await core.put({"c1": want, "c2": here.person(2)})
    assert isinstance((await core.put({"c1": silent}))["c1"], Applied)
    assert not here.mailable(want.email)
    (outcome,) = (await core.put({"c1": want}, resubscribe=False)).values()
    assert not here.mailable(want.email), outcome
    await core.put({"c1": silent._replace(fields={here.stand.text_field: "Still"})})
    assert not here.mailable(want.email)
    assert here.mailable("p2@x.example.org")


async def test_newer_consent_turns_mail_on_again_or_is_said_not_to(here: Here, core: Core) -> None:
    await core.put({"c1": here.person(1)})
    await core.put({"c1": here.person(1, subscribed=False)})
    (outcome,) = (await core.put({"c1": here.person(1)}, resubscribe=True)).values()
    if Can.RESUBSCRIBE in here.can:
        assert isinstance(outcome, Applied)
        assert here.mailable("p1@x.example.org")
    else:
        assert not here.mailable("p1@x.example.org")
        assert isinstance(outcome, OptedOut) or (isinstance(outcome, Applied) and outcome.lacking)


async def test_withdrawn_and_back_is_mailable_again_without_new_consent(
    here: Here, core: Core
) -> None:
    want = here.person(1)
    await core.put({"c1": want})
    assert isinstance((await core.drop(Verb.WITHDRAW, "c1"))["c1"], Applied)
    assert not here.mailable(want.email)
    assert not here.lists_of(want.email)
    if Can.OPT_OUT in here.can:
        noes = [one async for page in here.adapter.opt_outs(None) for one in page]
        assert noes == [], "nothing was said in the person's name"
    (outcome,) = (await core.put({"c1": want})).values()
    assert isinstance(outcome, Applied)
    assert here.mailable(want.email)
    assert not here.stand.keeps_lists or here.lists_of(want.email) == {"news"}


async def test_who_must_not_be_created_is_not(here: Here, core: Core) -> None:
    for want in (here.person(1, subscribed=False), here.person(1)):
        (outcome,) = await here.adapter.push([core.change("c1", want, may_create=False)])
        assert isinstance(outcome, Absent), outcome
    assert here.stand.held() == []


async def test_who_is_to_leave_and_was_never_there_is_gone(here: Here, core: Core) -> None:
    for verb in (Verb.WITHDRAW, Verb.DELETE, Verb.ERASE):
        core.mirror["c1"] = Known(here.person(1), None)
        (outcome,) = (await core.drop(verb, "c1")).values()
        assert not here.mailable("p1@x.example.org")
        assert not isinstance(outcome, OptedOut)


# ── Erasure ─────────────────────────────────────────────────────────────────────────────────


async def test_an_erasure_is_proved_or_says_when_or_what_a_person_must_do(
    here: Here, core: Core
) -> None:
    await core.put({"c1": here.person(1, text="Secret"), "c2": here.person(2)})
    change = core.leaving(Verb.ERASE, "c1")
    (outcome,) = (await core.carry([change])).values()
    assert isinstance(outcome, Applied)
    assert not here.mailable("p1@x.example.org")
    assert not [one for one in here.stand.at("p1@x.example.org") if "Secret" in str(one.fields)
                and one.mailable]  # fmt: skip
    now = datetime.now(UTC)
    told = await here.adapter.erased(change, now)
    if told.wait_until is not None:
        assert told.wait_until > now
        told = await here.adapter.erased(change, now - timedelta(days=30))
    assert told.confirmed or told.by_hand
    assert "p1@x.example.org" not in told.by_hand
    assert here.mailable("p2@x.example.org")


# ── Finding, scanning ───────────────────────────────────────────────────────────────────────


async def test_a_look_up_answers_each_in_order(here: Here, core: Core) -> None:
    if Can.FIND not in here.can:
        pytest.skip("contacts cannot be looked up there")
    people = here.people(6)
    await core.put({key: one for n, (key, one) in enumerate(people.items()) if n % 2})
    asked = [core.change(key, one) for key, one in people.items()]
    found = await here.adapter.find(asked)
    assert [one.remote is not None for one in found] == [bool(n % 2) for n in range(6)]
    assert all(one.opted_out is None for one in found)
    for change, one in zip(asked, found, strict=True):
        if one.remote is not None:
            orjson.dumps(one.remote)
            assert change.want is not None
            assert one.email is None or one.email.lower() == change.want.email.lower()


async def test_a_scan_meets_everybody_and_goes_on_where_it_stood(here: Here, core: Core) -> None:
    if Can.SCAN not in here.can:
        pytest.skip("nothing can be paged through there")
    people = here.people(12)
    await core.put(people)
    key = here.lists["news"] if here.adapter.traits.scans_lists else None
    pages = [page async for page in here.adapter.scan(key, None)]
    met = [one for page in pages for one in page.records]
    assert {one.email for one in met} == {one.email for one in people.values()}
    for number, page in enumerate(pages):
        cursor = orjson.loads(orjson.dumps(page.cursor))
        rest = [one async for more in here.adapter.scan(key, cursor) for one in more.records]
        before = [one for each in pages[: number + 1] for one in each.records]
        assert {one.remote_id for one in [*before, *rest]} == {one.remote_id for one in met}
    for one in met:
        once = here.kind.remembered(None, key, one)
        assert here.kind.remembered(once, key, one) == once
        orjson.dumps(once)
    with_id = {one.contact_id for one in met} - {None}
    assert with_id in (set(), set(people))


async def test_what_a_scan_says_makes_an_update_of_whom_it_met(here: Here, core: Core) -> None:
    """As after a lost database: nobody is made twice."""
    if Can.SCAN not in here.can:
        pytest.skip("nothing can be paged through there")
    await core.put(here.people(3))
    core.mirror.clear()
    key = here.lists["news"] if here.adapter.traits.scans_lists else None
    met: dict[str | None, Seen] = {
        one.email: one async for page in here.adapter.scan(key, None) for one in page.records
    }
    new = here.people(3, text="New")
    changes = [
        core.change(name, want, may_create=False,
                    remote=here.kind.remembered(None, key, met[want.email]))
        for name, want in new.items()
    ]  # fmt: skip
    assert set(of(await core.carry(changes), new)) == {Applied}
    assert sorted(one.email for one in here.stand.held()) == sorted(p.email for p in new.values())
    assert {here.text_of(one.email) for one in new.values()} == {"New"}


class Told:
    """What a whole scan says of one address: its remote lists, and whether it is mailed."""

    def __init__(self) -> None:
        self.lists: set[str] = set()
        self.statuses: set[bool | None] = set()


async def scanned(here: Here) -> dict[str, Told]:
    """Every list of ours, or the account."""
    by_list = here.adapter.traits.scans_lists
    told: dict[str, Told] = {}
    for key in here.lists.values() if by_list else [None]:
        async for page in here.adapter.scan(key, None):
            for one in page.records:
                met = told.setdefault((one.email or "").lower(), Told())
                met.statuses.add(one.subscribed)
                met.lists |= {*one.lists, *({key} - {None})} & set(here.lists.values())
    return told


async def test_a_scan_tells_lists_and_status_as_they_are(here: Here, core: Core) -> None:
    """A status that is told is true; where opt-outs cannot be read, who said no is shown so, or is
    not shown at all."""
    if Can.SCAN not in here.can:
        pytest.skip("nothing can be paged through there")
    await core.put({"c1": here.person(1, "news", "vip"), "c2": here.person(2, "vip"),
                    "c3": here.person(3, "news")})  # fmt: skip
    here.stand.say_no("p3@x.example.org")
    told = await scanned(here)
    if Can.LISTS in here.can:
        assert told["p1@x.example.org"].lists == set(here.lists.values())
        assert told["p2@x.example.org"].lists == {here.lists["vip"]}
    assert False not in told["p1@x.example.org"].statuses
    no = told.get("p3@x.example.org", Told()).statuses
    assert True not in no
    assert Can.OPT_OUT in here.can or not no or False in no


async def read_back(here: Here, changes: Sequence[Change]) -> list[Seen | None]:
    """As an audit does: one by one where that can be, else by a scan."""
    if Can.WHOLE in here.can:
        return list(await here.adapter.read_whole(changes))
    met = {(one.email or "").lower(): one
           async for page in here.adapter.scan(None, None) for one in page.records}  # fmt: skip
    people = [one.want for one in changes]
    return [None if one is None else met.get(one.email.lower()) for one in people]


async def test_what_is_read_back_is_what_was_sent_and_a_difference_is_seen(
    here: Here, core: Core
) -> None:
    """What a provider makes of a text is no difference, or it would be mended for ever."""
    if not here.can & Can.COMPARE:
        pytest.skip("fields cannot be read back there")
    people = {f"c{n}": here.person(n, text=text) for n, text in enumerate(TEXTS)}
    await core.put(people)
    asked = [core.change(key, one) for key, one in people.items()]
    asked.insert(1, core.change("nobody", here.person(999)))
    told = await read_back(here, asked)
    assert [one is None for one in told] == [n == 1 for n in range(len(asked))]
    compare = await here.adapter.comparer()
    for change, one in zip(asked, told, strict=True):
        if one is None:
            continue
        assert change.want is not None
        assert one.contact_id in (None, change.contact_id)
        assert one.fields is not None
        assert compare(change.want, one.fields) == {}
        other = change.want._replace(fields={here.stand.text_field: "Another"})
        assert list(compare(other, one.fields)) == [here.stand.text_field]


async def test_a_look_up_tells_the_lists_where_it_says_any(here: Here, core: Core) -> None:
    """The core believes who left a list once a scan of the account and a look-up say the same."""
    if not (here.can & Can.FIND and here.can & Can.LISTS):
        pytest.skip("nobody is looked up in lists there")
    people = {"c1": here.person(1, "news", "vip"), "c2": here.person(2, "vip")}
    await core.put(people)
    here.stand.leave_list("p1@x.example.org", here.lists["vip"])
    found = await here.adapter.find([core.change(key, one) for key, one in people.items()])
    for one, expected in zip(found, ("news", "vip"), strict=True):
        assert one.lists is not None or not here.adapter.traits.tells_lists
        if one.lists is not None:
            assert set(one.lists) & set(here.lists.values()) == {here.lists[expected]}


# ── Lists ───────────────────────────────────────────────────────────────────────────────────


async def test_who_left_one_list_there_is_seen_outside_and_not_put_back(
    here: Here, core: Core
) -> None:
    if Can.LISTS not in here.can:
        pytest.skip("lists are a property of ours there, which people cannot change")
    both = ("news", "vip")
    await core.put({"c1": here.person(1, *both), "c2": here.person(2, *both)})
    here.stand.leave_list("p1@x.example.org", here.lists["vip"])
    if Can.SCAN in here.can:
        told = await scanned(here)
        assert told["p1@x.example.org"].lists == {here.lists["news"]}
        assert told["p2@x.example.org"].lists == set(here.lists.values())
    (outcome,) = (await core.put({"c1": here.person(1, *both, text="New")})).values()
    assert here.lists_of("p1@x.example.org") == {"news"}
    assert here.mailable("p1@x.example.org")
    assert not isinstance(outcome, OptedOut) or outcome.list_id == "vip"
    assert here.lists_of("p2@x.example.org") == set(both)


LIST_NAMES = ("Søde Kunder & 50% + A/B", "<b>\"q\"</b> 'x'", "Ünï ~*!() #1", "list-id 9, created")


async def test_lists_are_made_found_by_name_renamed_and_deleted(here: Here) -> None:
    if Can.LISTS not in here.can:
        pytest.skip("lists are no objects of their own there")
    made = {await here.adapter.create_list(name): name for name in LIST_NAMES}
    assert len(made) == len(LIST_NAMES)
    there = await here.adapter.lists()
    kept = {number: here.stand.list_name(name) for number, name in made.items()}
    assert {number: there[number] for number in kept} == kept
    assert set(there) == {*kept, *here.lists.values()}
    fresh = await here.another()
    assert await fresh.lists() == there
    first, *_ = made
    if Can.RENAME_LIST in here.can:
        await here.adapter.rename_list(first, "Renamed & more")
        assert (await here.adapter.lists())[first] == "Renamed & more"
        await here.adapter.rename_list(first, "Renamed & more")
    if Can.DELETE_LIST in here.can:
        for _ in range(2):  # what is gone is gone
            await here.adapter.delete_list(first)
        assert first not in await here.adapter.lists()


async def test_members_follow_their_lists_and_those_of_others_stay(here: Here, core: Core) -> None:
    if not here.stand.keeps_lists:
        before = await core.put({"c1": here.person(1, "news")})
        assert [one for one in before.values() if isinstance(one, Applied) and one.lacking]
        return
    await core.put({"c1": here.person(1, "news"), "c2": here.person(2, "vip")})
    for lists in (("news", "vip"), ("vip",), ("news",)):
        (outcome,) = (await core.put({"c1": here.person(1, *lists)})).values()
        assert isinstance(outcome, Applied)
        assert here.lists_of("p1@x.example.org") == set(lists)
    assert here.lists_of("p2@x.example.org") == {"vip"}
    assert here.mailable("p1@x.example.org")


async def test_an_address_moves_with_its_contact(here: Here, core: Core) -> None:
    await core.put({"c1": here.person(1), "c2": here.person(2)})
    (outcome,) = (await core.put({"c1": here.person(1, email="moved@x.example.org")})).values()
    assert isinstance(outcome, Applied)
    assert here.mailable("moved@x.example.org")
    old = here.stand.at("p1@x.example.org")
    assert old == [] or (here.kind.traits.key == "address" and not old[0].mailable)
    assert here.mailable("p2@x.example.org")
