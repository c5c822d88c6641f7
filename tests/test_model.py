"""Plan, journal and settlement against a model of dictionaries, over real PostgreSQL.

Random interleavings of source changes, passes, claims, every outcome and takeovers: when all is
drained the provider holds what the model says, and a second plan is empty. `SYNCD_PROFILE=large`
runs many more examples.
"""

from __future__ import annotations

import asyncio
import os
import types
from collections.abc import Awaitable, Mapping, Sequence
from datetime import UTC
from typing import Any, ClassVar, TypeVar

import asyncpg
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    precondition,
    rule,
    run_state_machine_as_test,
)
from model import Contact, Fate, Provider, Source, Wanted

from syncd import control, outcomes
from syncd import source as sources
from syncd.addresses import Claimant, Holder, exchanges, sharers
from syncd.claim import Claim
from syncd.classify import FRESH_LANE, HELD, Planned, classify
from syncd.compare import Compare
from syncd.db import Pool, array_literal
from syncd.decide import Drop, Entry, Refuse, Release, Rules, decide
from syncd.desired import Desired, mapping
from syncd.fresh import Fresh
from syncd.fullpass import FullPass
from syncd.journal import Journal
from syncd.model import Verb
from syncd.orphans import reap
from syncd.plan import Planner
from syncd.push import Push
from syncd.pushed import Pushed
from syncd.settlement import Settled

T = TypeVar("T")

LARGE = os.environ.get("SYNCD_PROFILE") == "large"
PURE = settings(derandomize=not LARGE, max_examples=2000 if LARGE else 200, deadline=None)
PLAYED = settings(
    derandomize=not LARGE,
    max_examples=400 if LARGE else 14,
    stateful_step_count=80 if LARGE else 40,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    print_blob=True,
    phases=list(Phase) if LARGE else [Phase.explicit, Phase.generate],  # shrinking takes minutes
)

# ── Addresses ─────────────────────────────────────────────────────────────────────────────


@st.composite
def moves(draw: st.DrawFn) -> tuple[dict[str, str], dict[str, str | None]]:
    """Who holds which address (one each), and who wants which; None: gone. Wants are distinct."""
    n = draw(st.integers(2, 8))
    ids = [f"c{i}" for i in range(n)]
    emails = [f"a{i}" for i in range(n + 3)]
    held = dict(zip(ids, draw(st.permutations(emails)), strict=False))
    for one in draw(st.sets(st.sampled_from(ids), max_size=2)):
        del held[one]  # new: holds nothing yet
    wanted: dict[str, str | None] = dict(zip(ids, draw(st.permutations(emails)), strict=False))
    for one in draw(st.sets(st.sampled_from(ids), max_size=3)):
        wanted[one] = None if one in held else wanted[one]
    return held, wanted


@given(moves())
@PURE
def test_records_follow_their_addresses_in_cycles_and_from_the_gone(
    case: tuple[dict[str, str], dict[str, str | None]],
) -> None:
    """Nobody loses a record or gets two, and whoever takes one wants its address."""
    held, wanted = case
    at = {email: one for one, email in held.items()}
    claimants = [
        Claimant(one, email, at[email], wanted[at[email]])
        for one, email in wanted.items()
        if email is not None and email in at and at[email] != one
    ]

    taken = exchanges(claimants)

    assert sorted(taken) == sorted(set(taken)), "each takes one"
    assert set(taken) == set(taken.values()), "a permutation: nobody is left out, nothing lost"
    for one, of in taken.items():
        if wanted[one] is not None:
            assert held[of] == wanted[one]
        else:
            assert one in held, "only a record that is there is left to the gone"
    by_contact = {one.contact_id: one for one in claimants}
    for mover in claimants:  # who stays behind is in a chain that ends at a free address, or a ring
        if mover.contact_id in taken:
            continue
        seen, step = {mover.contact_id}, mover
        while step.holder in by_contact and step.holder not in seen | set(taken):
            seen.add(step.holder)
            step = by_contact[step.holder]
        assert step.holder_wants is not None or step.holder in taken


@pytest.mark.parametrize("length", [2, 3, 7, 50])
def test_a_ring_of_any_length_turns_by_one(length: int) -> None:
    ring = [Claimant(f"c{n}", f"a{n + 1}", f"c{(n + 1) % length}", "x") for n in range(length)]

    assert exchanges(ring) == {f"c{n}": f"c{(n + 1) % length}" for n in range(length)}


def test_a_chain_to_a_free_address_is_left_to_be_sent_in_order() -> None:
    chain = [Claimant("a", "2", "b", "3"), Claimant("b", "3", "c", "4")]

    assert exchanges(chain) == {}


@given(
    st.lists(
        st.builds(
            Holder,
            st.sampled_from("abcdef"),
            st.sampled_from(["1@x", "2@x", "3@x"]),
            st.booleans(),
        ),
        unique_by=lambda one: one.contact_id,
    ),
    st.dictionaries(st.sampled_from(["1@x", "2@x"]), st.sampled_from("abcdefz")),
)
@PURE
def test_one_of_those_who_share_an_address_holds_it(
    holders: list[Holder], at_mirror: dict[str, str]
) -> None:
    found = sharers(holders, at_mirror)

    for email in {one.email for one in holders}:
        group = [one for one in holders if one.email == email]
        told = [one for one in found if one.email == email]
        assert len(told) == (len(group) if len(group) > 1 else 0)
        if told:
            assert {one.contact_id for one in told} == {one.contact_id for one in group}
            assert len({one.holder for one in told}) == 1
            assert told[0].holder in {one.contact_id for one in group}
            assert told[0].subscribed == all(one.subscribed for one in group)
            if at_mirror.get(email) in {one.contact_id for one in group}:
                assert told[0].holder == at_mirror[email]


# ── Judgements ────────────────────────────────────────────────────────────────────────────

STATES = st.sampled_from([None, "here", "withdrawn", "absent", "adopted"])
DIGESTS = st.sampled_from([None, "old", "new"])


@st.composite
def rows(draw: st.DrawFn) -> dict[str, Any]:
    """A row as `Compare` yields it, of any shape."""
    m_state, wanted = draw(STATES), draw(st.booleans())
    email = "a@x" if wanted else None
    return {
        "contact_id": "c",
        "wanted": wanted,
        "digest": "new" if wanted else None,
        "fault": draw(st.sampled_from([None, None, "odd"])) if wanted else None,
        "email": email,
        "raw_email": email,
        "subscribed": draw(st.booleans()),
        "lists": draw(st.sampled_from([[], ["l"]])),
        "list_names": None,
        "remote_key": None,
        "m_state": m_state,
        "m_digest": draw(DIGESTS) if m_state else None,
        "m_email": draw(st.sampled_from(["a@x", "b@x"])) if m_state else None,
        "m_subscribed": draw(st.booleans()) if m_state else None,
        "m_fields": "{}",
        "m_lists": [],
        "m_remote": None,
        "j_state": draw(st.sampled_from([None, "due", "sent", "held", "rejected"])),
        "j_digest": draw(DIGESTS),
        "j_wish": draw(st.sampled_from(["upsert", "remove"])),
        "in_window": draw(st.booleans()),
        "was_refused": draw(st.booleans()),
        "in_flight": draw(st.sampled_from([None, None, "d"])),
        "holder": draw(st.sampled_from([None, None, "d"])),
        "in_flight_window": draw(st.booleans()),
        "holder_of_tried": draw(st.sampled_from([None, None, "d"])),
        "missed": [],
        "tried_in_flight": draw(st.sampled_from([None, None, "d"])),
        "in_doubt_there": draw(st.sampled_from([None, None, "d"])),
        "leaving": draw(st.sampled_from([None, None, "d"])),
        "in_doubt": draw(st.sampled_from([None, None, "d"])),
        "successor": draw(st.sampled_from([None, None, "d"])),
        "erase": False,
    }


ENTRIES = st.fixed_dictionaries(
    {
        "wish": st.sampled_from(["upsert", "remove"]),
        "doubtful": st.booleans(),
        "force": st.booleans(),
        "sent_lists": st.sampled_from([None, ["m"]]),
        "left_lists": st.sampled_from([None, ["m"]]),
        "email": st.sampled_from([None, "a@x"]),
        "attempts": st.just(1),
        "crashes": st.just(0),
        "receipt": st.none(),
        "digest": DIGESTS,
        "planned_at": st.datetimes(timezones=st.just(UTC)),
    }
)
GONE = st.sampled_from(["withdraw", "delete", "keep"])


@given(rows(), ENTRIES, GONE, st.booleans())
@PURE
def test_a_claim_never_hardens_a_wish(
    row: dict[str, Any], entry: dict[str, Any], when_gone: str, can_find: bool
) -> None:
    """Races 1: what is here goes only where the plan wished it; doubt is never "nothing to do"."""
    rules = Rules(when_gone, Provider.traits, (), lambda one: one, can_find, False)

    made = decide(row, entry, rules)

    if isinstance(made, Entry) and made.change.verb is not Verb.PUT:
        assert not row["wanted"] or row["fault"] is not None
        here = row["m_state"] in HELD
        assert entry["wish"] == "remove" or not here
        assert here or entry["doubtful"]
        assert not (here and when_gone == "keep")
    if isinstance(made, Entry) and made.change.want is not None:
        assert row["wanted"]
        assert row["fault"] is None
        assert made.change.want.subscribed == row["subscribed"]
        known = row["m_state"] in (*HELD, "withdrawn")
        assert made.change.may_create == (row["subscribed"] and not known)
        assert not made.change.resubscribe or row["subscribed"]
    if isinstance(made, Drop) and entry["doubtful"]:
        assert when_gone == "keep" or row["successor"] is not None
    if isinstance(made, Refuse):
        assert row["fault"] is not None
    if row["in_window"]:
        assert isinstance(made, Release)


@given(rows(), GONE, st.booleans(), st.booleans())
@PURE
def test_the_plan_leaves_nothing_that_differs_and_counts_what_may_harm(
    row: dict[str, Any], when_gone: str, full: bool, force: bool
) -> None:
    made = classify(row, when_gone, full, force)

    here = row["m_state"] in HELD
    if made is None:
        in_step = row["m_digest"] == row["digest"] and row["m_state"] in ("here", "absent")
        refused = row["j_state"] == "rejected" and row["j_digest"] == row["digest"]
        assert in_step or refused if row["wanted"] else not here or when_gone == "keep"
        return
    if made.wish == "remove" and here:
        assert made.counted == "remove" or row["j_wish"] == "remove"
        assert when_gone != "keep"
    if row["wanted"] and made.wish == "remove":
        assert row["fault"] is not None
    if not row["wanted"]:
        assert made.lane != FRESH_LANE


@given(st.integers(0, 10_000))
@PURE
def test_backoff_keeps_its_bounds(tries: int) -> None:
    most = min(outcomes.LONGEST_WAIT, outcomes.FIRST_WAIT * 2 ** min(tries, 20))

    assert most / 10 <= outcomes.backoff(tries) <= most <= outcomes.LONGEST_WAIT


# ── Text through PostgreSQL ───────────────────────────────────────────────────────────────

WEIRD = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=12)
NAMES = st.one_of(
    st.none(),
    WEIRD,
    st.sampled_from(
        ["NULL", '"', "\\", "a,b", "{}", "O'x", "\u202elive", "\u200d", "e\u0301", "%s"]
    ),
)


def test_an_array_literal_is_read_back_as_it_was(cluster: str) -> None:
    with asyncio.Runner() as runner:
        connection = runner.run(asyncpg.connect(cluster))

        @given(
            st.lists(st.one_of(WEIRD, st.sampled_from(["NULL", "", '"', "\\", ",", "{", "}", " "])))
        )
        @PURE
        def check(items: list[str]) -> None:
            literal = array_literal(items)
            assert runner.run(connection.fetchval("select $1::text::text[]", literal)) == items

        check()
        runner.run(connection.close())


# ── The machine ───────────────────────────────────────────────────────────────────────────

KEYS: Mapping[str, Sequence[str]] = {
    "integer": [str(n) for n in (1, 2, 9, 10, 11, 100, -3)],
    "uuid": [f"{n:08x}-0000-4000-8000-00000000000{n}" for n in range(1, 8)],
    "text": ["a", "B", "ä", "1", "10", "O'x", 'q"\\'],
}
LISTS = ("1", "2", "3")
EMAILS = ["one@x", "Two@x", "two@x", " three@x ", "fo'ur@x", 'fi"ve\\@x', "sechs@ü", None, ""]
TABLES = ("change", "journal", "intent", "mirror", "sharer", "list_mirror", "opt_out", "tally",
          "plan", "run", "delivery", "worker", "scan")  # fmt: skip

SCHEMA = """
create schema {0};
create table {0}.person (id {0} primary key, email text, first_name text, subscribed boolean);
create table {0}.twin (id {0} primary key);
create table {0}.list (id integer primary key, name text);
create table {0}.member (list_id integer, contact_id {0}, primary key (contact_id, list_id));
create view {0}.contact as
 select id, email, first_name, subscribed from {0}.person
 union all
 select p.id, p.email, p.first_name, p.subscribed from {0}.person p join {0}.twin using (id);
insert into {0}.list values (1, 'one'), (2, 'two'), (3, 'three');
insert into syncd.source (name, contact, list, membership)
values ('{0}', '{0}.contact', '{0}.list', '{0}.member');
select syncd.watch('{0}.person', 'id', '{0}');
select syncd.watch('{0}.twin', 'id', '{0}');
select syncd.watch('{0}.member', 'contact_id', '{0}');
"""

FATES: Sequence[Fate] = ("applied", "applied", "applied", "rejected", "opted out", "postponed",
                         "transient", "lost before", "lost after", "garbled")  # fmt: skip
PEOPLE = st.integers(0, 6)


class Interleavings(RuleBasedStateMachine):
    """One destination by our own ids; claims are sent and settled whenever the machine likes."""

    runner: ClassVar[asyncio.Runner]
    pool: ClassVar[Pool]

    def run(self, doing: Awaitable[T]) -> T:
        async def wait() -> T:
            return await doing

        return self.runner.run(wait())

    @initialize(
        kind=st.sampled_from(sorted(KEYS)),
        lists=st.sampled_from([None, ("1",), ("1", "2")]),
        everyone=st.booleans(),
        when_gone=GONE,
        window=st.sampled_from([2, 100]),
    )
    def begin(
        self,
        kind: str,
        lists: tuple[str, ...] | None,
        everyone: bool,
        when_gone: str,
        window: int,
    ) -> None:
        self.kind, self.ids, self.window = kind, KEYS[kind], window
        self.source, self.provider = Source(), Provider()
        self.lists, self.everyone, self.when_gone = lists, everyone and lists is not None, when_gone
        self.open: list[tuple[Claim, list[Settled] | None]] = []
        self.run(self._begin())

    async def _begin(self) -> None:
        pool, kind = self.pool, self.kind
        names = ", ".join(f"syncd.{one}" for one in TABLES)
        await pool.execute(f"truncate {names}; delete from syncd.destination;"
                           f" truncate {kind}.person, {kind}.twin, {kind}.member")  # fmt: skip
        await pool.execute("truncate syncd.change")  # what the truncation has just noted
        await pool.execute(
            "insert into syncd.destination (name, provider, source, lists, everyone, when_gone,"
            " guard_percent, guard_floor) values ('d', 'model', $1, $2, $3, $4, 100, 1000000)",
            kind, self.lists, self.everyone, self.when_gone,
        )  # fmt: skip
        (self.destination,) = await control.destinations(pool)
        async with pool.acquire() as connection:
            source = await sources.describe(connection, kind)
        fields = mapping(source.contact, {"name": "first_name"}, {})
        self.desired = Desired(
            self.destination.id, source, fields, self.lists, self.everyone, False, {},
            self.when_gone,
        )  # fmt: skip
        self.planner = Planner(pool, self.destination, self.desired, "ours")
        self.judging = Rules(
            self.when_gone, Provider.traits, fields, lambda one: one, can_find=True, has_lists=False
        )
        await self._new_worker()

    async def _new_worker(self) -> None:
        worker = await self.pool.fetchval(
            "insert into syncd.worker (host, pid, version, alive_until)"
            " values ('here', 1, '0', now() + interval '1 hour') returning id"
        )
        me = self.destination
        self.journal = Journal(self.pool, me.id, me.source, worker, Compare(self.desired))
        self.push = Push(self.provider, self.journal, 4, self._nothing_new)

    @staticmethod
    async def _nothing_new(_: int) -> set[str]:
        return set()

    # ── The source changes ──────────────────────────────────────────────────────────────────

    @rule(n=PEOPLE, email=st.sampled_from(EMAILS), name=NAMES, yes=st.booleans())
    def put(self, n: int, email: str | None, name: str | None, yes: bool) -> None:
        one = self.ids[n]
        self.source.contacts[one] = Contact(email, name, yes)
        self.run(self.pool.execute(
            f"insert into {self.kind}.person values ($1::text::{self.kind}, $2, $3, $4)"
            " on conflict (id) do update set email = $2, first_name = $3, subscribed = $4",
            one, email, name, yes,
        ))  # fmt: skip

    @rule(n=PEOPLE, m=PEOPLE)
    def swap(self, n: int, m: int) -> None:
        """Two contacts exchange their addresses, in one statement."""
        a, b = self.ids[n], self.ids[m]
        if a == b or not {a, b} <= self.source.contacts.keys():
            return
        one, two = self.source.contacts[a], self.source.contacts[b]
        one.email, two.email = two.email, one.email
        self.run(self.pool.execute(
            f"update {self.kind}.person p set email = q.email from {self.kind}.person q"
            f" where (p.id, q.id) in (($1::text::{self.kind}, $2::text::{self.kind}),"
            f" ($2::text::{self.kind}, $1::text::{self.kind}))", a, b,
        ))  # fmt: skip

    @rule(n=PEOPLE)
    def drop(self, n: int) -> None:
        one = self.ids[n]
        self.source.contacts.pop(one, None)
        self.source.twins.discard(one)
        self.source.members = {pair for pair in self.source.members if pair[0] != one}
        for table, column in (("person", "id"), ("twin", "id"), ("member", "contact_id")):
            self.run(self.pool.execute(
                f"delete from {self.kind}.{table} where {column} = $1::text::{self.kind}", one
            ))  # fmt: skip

    @rule(n=PEOPLE, name=st.sampled_from(LISTS))
    def member(self, n: int, name: str) -> None:
        """Joins a list, or leaves it."""
        one = self.ids[n]
        if one not in self.source.contacts:
            return
        self.source.members ^= {(one, name)}
        if (one, name) in self.source.members:
            text = "insert into {0}.member values ($2::text::integer, $1::text::{0})"
        else:
            text = "delete from {0}.member where list_id::text = $2 and contact_id = $1::text::{0}"
        self.run(self.pool.execute(text.format(self.kind), one, name))

    @rule(n=PEOPLE)
    def twin(self, n: int) -> None:
        """The view yields an id twice, or does so no longer."""
        one = self.ids[n]
        if one not in self.source.contacts:
            return
        self.source.twins ^= {one}
        text = f"insert into {self.kind}.twin values ($1::text::{self.kind})"
        if one not in self.source.twins:
            text = f"delete from {self.kind}.twin where id = $1::text::{self.kind}"
        self.run(self.pool.execute(text, one))

    # ── syncd works ─────────────────────────────────────────────────────────────────────────

    @rule()
    def keyed_pass(self) -> None:
        if self.run(self.planner.keyed_pass()).owes_full:
            self.full_pass(direct=False)

    @rule(direct=st.booleans())
    def full_pass(self, direct: bool) -> None:
        self.run(self._full_pass(direct))

    async def _full_pass(self, direct: bool) -> int:
        async def send(fresh: Fresh) -> Pushed:
            self.provider.fate = "applied"
            return await self.push.attempt_fresh(fresh)

        made = FullPass(
            self.planner, self.journal, self.judging, send if direct else None, window=self.window
        )
        counts = await made.run()
        assert counts is not None
        return counts.planned + counts.sent

    @rule(most=st.integers(1, 8))
    def claim(self, most: int) -> None:
        self.run(self._time_passes())
        claim = self.run(self.journal.claim(most, self.judging))
        if claim.entries or claim.settled:
            self.open.append((claim, None))

    async def _time_passes(self) -> None:
        await self.pool.execute("update syncd.journal set due_at = now() where state = 'due'")

    @precondition(lambda self: any(results is None for _, results in self.open))
    @rule(fate=st.sampled_from(FATES))
    def send(self, fate: Fate) -> None:
        """The oldest claim that waits is sent."""
        at = next(n for n, (_, results) in enumerate(self.open) if results is None)
        self.provider.fate = fate
        claim = self.open[at][0]
        self.open[at] = claim, self.run(self.push.attempt(claim)).results

    @precondition(lambda self: any(results is not None for _, results in self.open))
    @rule(last=st.booleans())
    def settle(self, last: bool) -> None:
        """What was answered is written down, not always in the order it was sent."""
        answered = [n for n, (_, results) in enumerate(self.open) if results is not None]
        claim, results = self.open.pop(answered[-1 if last else 0])
        self.run(self.journal.settle(claim, results or ()))

    @rule(comes_back=st.booleans())
    def take_over(self, comes_back: bool) -> None:
        """The worker dies, or is only slow: what it has sent it may still try to settle."""
        self.run(self._take_over())
        self.open = [(claim, r) for claim, r in self.open if comes_back and r is not None]

    async def _take_over(self) -> None:
        await self.pool.execute("update syncd.worker set alive_until = now()")
        await reap(self.pool, crash_limit=1000)
        await self._new_worker()

    # ── The end ─────────────────────────────────────────────────────────────────────────────

    def teardown(self) -> None:
        if not hasattr(self, "planner"):
            return
        for claim, results in self.open:
            if results is not None:
                self.run(self.journal.settle(claim, results))
        self.run(self._take_over())
        self.run(self._drain())
        wanted = Wanted(
            self.source,
            None if self.lists is None else frozenset(self.lists),
            self.everyone,
            self.when_gone,
            frozenset(self.provider.noes),
        )
        assert wanted.faults(self.provider) == []
        if again := self.run(self._second_plan()):
            raise AssertionError("a second plan is not empty:\n" + "\n".join(map(str, again)))

    async def _second_plan(self) -> Sequence[object]:
        """What a full pass would still plan, each with what is known of the contact."""
        found: list[object] = []
        write = self.planner.journal

        async def noted(connection: Any, planned: Sequence[Planned], *args: Any, **how: Any) -> int:
            for one in planned:
                told = await connection.fetch(
                    "select m.state, m.digest, j.state, j.last_error"
                    " from (select $1::text as id) k"
                    " left join syncd.mirror m on m.contact_id = k.id"
                    " left join syncd.journal j on j.contact_id = k.id",
                    one.contact_id,
                )
                state, digest = told[0][:2]
                if digest != one.digest or state not in ("here", "absent"):  # else a claim drops it
                    found.append((one, [tuple(row) for row in told]))
            return await write(connection, planned, *args, **how)

        before = await self.pool.fetch("select * from syncd.sharer order by contact_id")
        self.planner.journal = noted  # type: ignore[method-assign]
        await self._full_pass(direct=False)
        if found:
            after = await self.pool.fetch("select * from syncd.sharer order by contact_id")
            found += [self.source, *(tuple(r) for r in before), "now", *(tuple(r) for r in after)]
        return found

    async def _drain(self) -> None:
        """Until nothing is left; the source rests, and every answer is a yes."""
        self.provider.fate = "applied"
        await control.retry(self.pool, [], None)
        await self._full_pass(direct=True)
        for _ in range(60):
            await self._time_passes()
            passed = await self.planner.keyed_pass()
            if passed.owes_full:
                await self._full_pass(direct=True)
            claim = await self.journal.claim(8, self.judging)
            if claim.entries or claim.settled:
                await self.journal.settle(claim, (await self.push.attempt(claim)).results)
            elif not claim.taken and not passed.keys and not await self.planner.anything_new():
                return
        left = await self.pool.fetch("select * from syncd.journal where state <> 'rejected'")
        raise AssertionError(f"it does not come to rest: {[dict(row) for row in left]}")


def test_no_interleaving_loses_or_repeats_a_change(database: str) -> None:
    with asyncio.Runner() as runner:

        async def prepare() -> Pool:
            pool = await asyncpg.create_pool(database, min_size=1, max_size=4)
            for kind in KEYS:
                await pool.execute(SCHEMA.format(kind))
            return pool

        pool = runner.run(prepare())
        machine = types.new_class("Played", (Interleavings,))
        machine.runner, machine.pool = runner, pool  # type: ignore[attr-defined]
        try:
            run_state_machine_as_test(machine, settings=PLAYED)
        finally:
            runner.run(pool.close())
