"""Whatever a provider answers comes to an outcome or a typed error, and PostgreSQL can hold it.

SYNCD_FUZZ_EXAMPLES sets how many spoilt answers each adapter gets; by default few, the same each
time.
"""

from __future__ import annotations

import asyncio
import os
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, fields, is_dataclass
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any, get_args

import orjson
import pytest
from answers import SPOILT, Recorder, Replay, Script, Tape
from core import Core
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from stands import Stand, stands
from test_conformance import CASES, Here

from syncd.errors import SyncdError
from syncd.model import (
    Can,
    Erased,
    Finding,
    Found,
    Learned,
    Notice,
    Outcome,
    Page,
    Seen,
    Started,
    Verb,
)
from syncd.providers import Owner, TellsOwner, providers
from syncd.providers import clevertap_canary as canary

EXAMPLES = int(os.environ.get("SYNCD_FUZZ_EXAMPLES", "100"))
PAGES = 25  # of a scan; a cursor that never ends is the core's to bound

Operation = Callable[[Any], Awaitable[Any]]
SINCE = datetime(2026, 1, 1, tzinfo=UTC)


# ── What is asked ───────────────────────────────────────────────────────────────────────────


def operations(here: Here, core: Core, spare: str) -> Mapping[str, Operation]:
    """Everything that the core may ask of this adapter, with the contacts that are there now."""
    known, can, traits = list(core.mirror), here.can, here.adapter.traits

    def push(changes: Any) -> Operation:
        async def pushed(adapter: Any) -> Any:
            outcomes = list(await adapter.push(changes))
            assert len(outcomes) == len(changes)
            for _ in range(5):
                receipts = [one.receipt for one in outcomes if isinstance(one, Started)]
                if not receipts:
                    break
                outcomes = list(await adapter.resume(receipts[0], changes))
                assert len(outcomes) == len(changes)
            return outcomes

        return pushed

    def read(adapter: Any, seen: Iterable[Seen | None], compare: Any) -> Any:
        """What the core makes of records that it was shown."""
        people = list(core.mirror.values())
        for one in filter(None, seen):
            if hasattr(adapter, "remembered"):
                storable(adapter.remembered(None, here.lists["news"], one))
            if compare is not None and one.fields is not None:
                storable(dict(compare(people[0].person, one.fields)))

    def scan(list_id: str | None) -> Operation:
        async def scanned(adapter: Any) -> Any:
            compare = await adapter.comparer() if Can.COMPARE in can else None
            found = await pages("scan", list_id, None)(adapter)
            for page in found:
                read(adapter, page.records, compare)
            return found

        return scanned

    async def whole(adapter: Any) -> Any:
        compare = await adapter.comparer() if Can.COMPARE in can else None
        found = await adapter.read_whole(some)
        read(adapter, found, compare)
        return found

    def call(name: str, *args: Any) -> Operation:
        return lambda adapter: getattr(adapter, name)(*args)

    def pages(name: str, *args: Any) -> Operation:
        async def paged(adapter: Any) -> Any:
            found = []
            async for one in getattr(adapter, name)(*args):
                found.append(one)
                if len(found) >= PAGES:
                    break
            return found

        return paged

    fresh = [core.change(f"new{n}", here.person(900 + n)) for n in range(30)]
    moved = core.change(known[0], here.person(0, "vip", text="Zoë"))
    silent = core.change(known[1], here.person(1, subscribed=False))
    back = core.change(known[2], here.person(2), resubscribe=True)
    leaving = [core.leaving(verb, known[3]) for verb in (Verb.WITHDRAW, Verb.DELETE, Verb.ERASE)]
    doubtful = fresh[0]._replace(doubtful=True)
    some = [moved, fresh[0]]
    asked: dict[str, Operation] = {
        "check": call("check"), "learn": call("learn"),
        "push a new one": push(fresh[:1]),
        "push many": push([*fresh[: max(1, min(30, here.kind.traits.batch) - 1)], moved]
                          if here.kind.traits.batch > 1 else fresh[:1]),
        "update": push([moved]), "silence": push([silent]), "resubscribe": push([back]),
        "in doubt": push([doubtful]),
        **{one.verb.value: push([one]) for one in leaving},
    }  # fmt: skip
    if can & (Can.FIND | Can.SEES_GONE):
        asked["find"] = call("find", some)
    if can & Can.LISTS:
        number = here.lists["news"]
        asked["lists"], asked["create_list"] = call("lists"), call("create_list", "Another")
        if can & Can.RENAME_LIST:
            asked["rename_list"] = call("rename_list", number, "Renamed")
        if can & Can.DELETE_LIST:
            asked["delete_list"] = call("delete_list", spare)
    if can & Can.SCAN:
        asked["scan"] = scan(here.lists["news"] if traits.scans_lists else None)
    if can & Can.OPT_OUT:
        asked["opt-outs"] = pages("opt_outs", None)
        asked["opt-outs since"] = pages("opt_outs", datetime.now(UTC) - timedelta(days=2))
    if can & Can.ERASE:
        asked["erased"] = call("erased", leaving[2], SINCE)
    if can & Can.WHOLE:
        asked["read_whole"] = whole
    if can & Can.COMPARE:
        asked["comparer"] = call("comparer")
    if can & Can.FIELDS:
        asked["check_fields"] = call("check_fields", [here.stand.text_field, "other"])
    if hasattr(here.kind, "check_people"):
        asked["check_people"] = call("check_people", {"new1": "p901@x.example.org"})
    if issubclass(here.kind, TellsOwner):
        asked["owner"] = call("owner")
    return asked


@dataclass
class Recorded:
    """An adapter's every operation, and what its stand-in answered to each."""

    kind: Any
    options: Any
    credential: Any
    findings: Mapping[str, Any]
    permits: Any
    operations: Mapping[str, Operation]
    tapes: Mapping[str, Tape]

    async def under(self, name: str, script: Script) -> Any:
        """What the operation comes to under spoilt answers."""
        wire = Replay(self.kind, self.options, lambda: self.credential, self.permits, timeout=5)
        wire.tape, wire.script = self.tapes[name], script
        async with wire:
            adapter = self.kind(wire, self.options, self.findings)
            found = await self.operations[name](adapter)
            if Can.LEARNS in adapter.traits.can:
                storable(dict(adapter.found_out()))
            return found


@asynccontextmanager
async def at(name: str, stand: Stand) -> AsyncIterator[Here]:
    async with AsyncExitStack() as stack:
        here = Here(stand, providers()[name], stack)
        here.adapter = await here.another()
        await here.make_lists()
        yield here


async def recorded(name: str, way: str) -> Recorded:
    async with stands()[name].serving(way) as stand, at(name, stand) as here:
        core = Core(here.adapter)
        await core.put(here.people(8))
        stand.say_no("p7@x.example.org")
        options = here.kind.options_model.model_validate(dict(stand.options))
        key = here.kind.credential_model.model_validate(dict(stand.credential))
        spare = await here.adapter.create_list("Spare") if Can.LISTS in here.can else ""
        asked = operations(here, core, spare)
        tapes: dict[str, Any] = {}
        for one, operation in asked.items():
            wire = Recorder(here.kind, options, lambda: key, here.permits, timeout=5)
            wire.tape = tapes[one] = defaultdict(list)
            async with wire:
                try:
                    await operation(here.kind(wire, options, stand.findings))
                except SyncdError as error:
                    raise AssertionError(f"{one}: {error!r}") from error
    return Recorded(here.kind, options, key, stand.findings, here.permits, asked, tapes)


# ── What may come of it ─────────────────────────────────────────────────────────────────────

TYPED = (*get_args(Outcome), Found, Notice, Seen, Page, Erased, Learned, Finding, Owner)


def storable(value: Any) -> None:
    """PostgreSQL takes it: as text, as jsonb, as timestamptz."""
    match value:
        case str():
            assert "\0" not in value
            value.encode()
        case dict() | Mapping():
            orjson.dumps(value)
            for one in (*value, *value.values()):
                storable(one)
        case datetime():
            assert value.tzinfo is not None
            value.astimezone(UTC)
        case Found() | Seen() | Notice():
            for text in (getattr(value, n, None) for n in ("email", "contact_id", "remote_id")):
                assert text is None or isinstance(text, str), value
            for one in fields(value):
                storable(getattr(value, one.name))
        case _ if is_dataclass(value):
            for one in fields(value):
                storable(getattr(value, one.name))
        case list() | tuple() | set() | frozenset():
            for one in value:
                storable(one)
        case _:
            assert value is None or callable(value) or isinstance(value, (int, float)), value


def typed(value: Any) -> None:
    storable(value)
    for one in value if isinstance(value, (list, tuple)) and type(value) is not Owner else [value]:
        if isinstance(one, (list, tuple)) and type(one) is not Owner:
            typed(one)
        else:
            plain = one is None or callable(one) or isinstance(one, (str, dict))
            assert plain or isinstance(one, TYPED), one


@cache
def runner() -> asyncio.Runner:
    return asyncio.Runner()


@pytest.fixture(scope="module", autouse=True)
def _closed() -> Iterator[None]:
    yield
    runner().close()
    runner.cache_clear()


@cache
def tape(name: str, way: str) -> Recorded:
    return runner().run(recorded(name, way))


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(canary, "LOOKS", (0.0, 0.0))


SCRIPTS = st.builds(
    Script, st.lists(st.none() | SPOILT, min_size=1, max_size=5), st.booleans()
)  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=lambda case: "-".join(filter(None, case)))
@settings(
    max_examples=EXAMPLES, deadline=None, derandomize="SYNCD_FUZZ_EXAMPLES" not in os.environ,
    database=None, suppress_health_check=list(HealthCheck),
)  # fmt: skip
@given(data=st.data())
def test_whatever_is_answered_comes_to_an_outcome_or_a_typed_error(
    case: tuple[str, str], data: st.DataObject
) -> None:
    known = tape(*case)
    name = data.draw(st.sampled_from(sorted(known.operations)))
    script = data.draw(SCRIPTS)
    try:
        typed(runner().run(asyncio.wait_for(known.under(name, script), 120)))
    except SyncdError as error:
        storable(str(error))
