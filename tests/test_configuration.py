"""Whatever is written into settings, files and control rows comes to a value or to a ConfigError.

SYNCD_FUZZ_EXAMPLES sets how many inputs each parser gets; by default few, the same each time.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support import add_destination, put, world

from syncd import control, declared, schedule, toml
from syncd.assemble import limits_of, options_of
from syncd.commands import Commands
from syncd.control import Destination
from syncd.credential import parse
from syncd.db import Pool
from syncd.desired import mapping
from syncd.errors import ConfigError
from syncd.providers import provider, providers
from syncd.secrets import sealing_keys
from syncd.settings import Settings, load
from syncd.source import Column, Relation

CONFIG = Path(__file__).resolve().parent.parent / "config"
EXAMPLES = int(os.environ.get("SYNCD_FUZZ_EXAMPLES", "50"))
FUZZ: Callable[[Any], Any] = settings(
    max_examples=EXAMPLES, deadline=None, database=None,
    derandomize="SYNCD_FUZZ_EXAMPLES" not in os.environ, suppress_health_check=list(HealthCheck),
)  # fmt: skip

SCALAR = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=12)
    | st.sampled_from(["", "\0", "9" * 5000, "http://[", "//x", "1e400", "٣", "²", "NaN", "-1"])
    | st.sampled_from([10**400, 2**63, -1, math.inf, math.nan, 1e308])
)  # fmt: skip
VALUE = st.recursive(
    SCALAR,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=6,
)
PIECES = st.sampled_from(
    ["= 9" + "9" * 5000, "[" * 3000, "a = " + "[" * 3000, '"', "'''", "\0", "\ud83d".encode(
        "utf-8", "surrogatepass").decode("utf-8", "replace"), "[[x]]", "[source]", "x.y.z = 1",
     "= 2026-02-30", "= 0x" + "f" * 5000, "= inf", "= nan", "= {}", "= []", "= 1979-05-27T07:32:00",
     "[destination.c]", '[destination."é"]', "provider = 7", 'options = ""', "lists = [1]", "\r",
     'schedule = ""', "guard_percent = nan", "per_second = inf", "fields = {a = 1}", "= -0"]
)  # fmt: skip


@st.composite
def spoilt(draw: st.DrawFn, text: str) -> bytes:
    """A file as somebody left it: pieces put in, a part cut out, bytes that are no text."""
    for _ in range(draw(st.integers(0, 3))):
        at = draw(st.integers(0, len(text)))
        text = (
            text[:at] + draw(PIECES | st.text(max_size=8)) + text[at + draw(st.integers(0, 40)) :]
        )
    data = text.encode("utf-8", "replace")
    return data + draw(st.sampled_from([b"", b"", b"\xff", b"\xed\xa0\x80"]))


def faults_of(call: Callable[[], Any]) -> tuple[Any, Sequence[str]]:
    """What it comes to, or the faults that it tells; nothing else may happen."""
    try:
        return call(), ()
    except ConfigError as error:
        return None, error.faults


# ── Settings, files ─────────────────────────────────────────────────────────────────────────


@FUZZ
@given(data=spoilt((CONFIG / "syncd.toml").read_text("utf-8").replace("# ", "")) | st.binary())
def test_a_settings_file(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    file = tmp_path_factory.getbasetemp() / "spoilt.toml"
    file.write_bytes(data)
    found, faults = faults_of(lambda: load(file))
    assert isinstance(found, Settings) != bool(faults)


@FUZZ
@given(st.dictionaries(st.sampled_from(sorted(Settings.model_fields)), VALUE, max_size=4))
def test_values_of_settings(values: dict[str, Any]) -> None:
    from syncd.settings import _validated

    found, wrong = _validated(values)
    assert (found is None) == bool(wrong)


@FUZZ
@given(
    st.sampled_from(sorted(providers())).flatmap(
        lambda name: spoilt((CONFIG / f"{name}.toml").read_text("utf-8"))
    )
)
def test_a_file_to_be_applied(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    file = tmp_path_factory.getbasetemp() / "destination.toml"
    file.write_bytes(data)
    told, faults = faults_of(lambda: declared.read([file]))
    assert (told is None) == bool(faults)
    rows = () if told is None else told.destination.values()
    assert all(name in declared.DestinationForm.model_fields for row in rows for name in row)


def test_numbers_and_depths_that_python_does_not_read_are_faults_of_the_file() -> None:
    for text, says in (
        ("a = " + "9" * 5000, "limit"),
        ("a = " + "[" * 100_000, "nested too deeply"),
    ):
        with pytest.raises(ConfigError, match=says):
            toml.parse(text.encode(), "x.toml")


# ── What control rows hold ──────────────────────────────────────────────────────────────────


def row(name: str, **columns: Any) -> Destination:
    nothing = dict.fromkeys(Destination.__slots__)
    return Destination(**{**nothing, "name": "d", "provider": name, "options": {}, **columns})


def option_values(name: str) -> st.SearchStrategy[dict[str, Any]]:
    known = st.sampled_from([*provider(name).options_model.model_fields, "other"])
    meters = st.dictionaries(
        st.sampled_from([*provider(name).traits.meters, "x"]),
        st.dictionaries(st.sampled_from(["per_second", "in_flight", "per_day"]), SCALAR),
    )
    return st.dictionaries(known, VALUE, max_size=3) | st.builds(dict, meters=meters)


@pytest.mark.parametrize("name", sorted(providers()))
@FUZZ
@given(data=st.data())
def test_options_of_a_destination(name: str, data: st.DataObject) -> None:
    kind, given_ = provider(name), data.draw(option_values(name))
    here = row(name, options=given_)
    options, faults = faults_of(lambda: options_of(here, kind))
    limits = None
    if options is not None:
        limits, faults = faults_of(lambda: limits_of(here, kind, options))
    assert all(fault.startswith("destination 'd': ") for fault in faults)
    assert limits is None or list(limits) == list(kind.traits.meters)
    assert options is None or isinstance(kind.base_url(options), str)
    assert (limits is None) == bool(faults)


@pytest.mark.parametrize("name", sorted(providers()))
@FUZZ
@given(data=st.data())
def test_a_credential(name: str, data: st.DataObject) -> None:
    model = provider(name).credential_model
    keys = st.sampled_from([*model.model_fields, "other"])
    shaped = st.dictionaries(keys, st.text(max_size=12) | SCALAR.filter(_is_json), max_size=4)
    text = data.draw(
        shaped.map(lambda one: orjson.dumps(one).decode()) | st.text()
        | st.sampled_from(["[" * 100_000, "1e400", '"\\ud800"', "null", "{}", '{"":{}}'])
    )  # fmt: skip
    found, faults = parse(text, model)
    assert (found is None) == bool(faults)


def _is_json(value: object) -> bool:
    try:
        orjson.dumps(value)
    except TypeError:
        return False
    return True


COLUMNS = {n: Column(n, kind, None) for n, kind in (("id", "text"), ("attributes", "jsonb"))}
CONTACT = Relation("syncd.contact", "r", COLUMNS, frozenset(), frozenset())


@FUZZ
@given(st.dictionaries(
    st.text(max_size=5), VALUE | st.sampled_from(["id", "attributes.x", "id.x", "attributes."])
))  # fmt: skip
def test_a_mapping(fields: dict[str, Any]) -> None:
    found, faults = faults_of(lambda: mapping(CONTACT, fields, {}))
    assert all(fault.startswith("field ") for fault in faults)
    assert faults or len(found) == len(fields)


@FUZZ
@given(st.text() | st.from_regex(r"(CRON_TZ=\S{0,20} )?([0-9*/,\-a-z]{1,6} ?){0,6}", fullmatch=True)
       | st.sampled_from(["CRON_TZ=../../etc/passwd * * * * *", "CRON_TZ= * * * * *", "9" * 5000,
                          "*/" + "9" * 5000 + " * * * *", "0 0 30 2 *", "999999999d", "²s",
                          "CRON_TZ=\0 * * * * *", "1-" * 500, "," * 500 + " * * * *"]))  # fmt: skip
def test_a_schedule(text: str) -> None:
    now = datetime(2026, 3, 29, 0, 59, tzinfo=UTC)
    read, faults = faults_of(lambda: schedule.parse(text))
    if faults:
        assert "allowed are" in faults[0]
        return
    following = schedule.next_after(read, now)
    assert following is None or following > now
    assert isinstance(schedule.due_since(read, now - timedelta(days=3), now), bool)


@FUZZ
@given(st.text(max_size=40))
def test_sealing_keys(text: str) -> None:
    found, faults = faults_of(lambda: sealing_keys({"SYNCD_SECRET_KEY": text}))
    assert (found is None) == bool(faults)
    assert not [one for one in faults if len(text.strip()) > 3 and text.strip() in one]


NUMBERS = ("1e400", "-1e400", "1e-400", "9" * 400, "[" * 2000 + "]" * 2000, '{"a":1e999}')


async def test_jsonb_that_is_no_json_to_others_holds_one_destination_and_fails_one_command(
    pool: Pool,
) -> None:
    """PostgreSQL takes numbers of any size, and any depth; who wrote that is told."""
    await add_destination(pool, "sound")
    await add_destination(pool, "wrong")
    for text in NUMBERS:
        await pool.execute(
            "update syncd.destination set options = jsonb_build_object('x', $1::text::jsonb)"
            " where name = 'wrong'", text,
        )  # fmt: skip
        sound, wrong = await control.destinations(pool)
        assert sound.options == {}
        with pytest.raises(ConfigError, match="destination 'wrong': options"):
            options_of(wrong, provider("clevertap"))
        await pool.execute(
            "insert into syncd.command (kind, args) values ('retry', jsonb_build_object('contacts',"
            " $1::text::jsonb))", text,
        )  # fmt: skip
    commands = Commands(pool, 1, dict, cast("Any", None), cast("Any", None))
    await commands.execute_all()
    told = await pool.fetch("select outcome, result::text from syncd.command")
    assert {one["outcome"] for one in told} == {"failed"}
    assert all("args" in one["result"] for one in told)


async def test_a_number_beyond_a_double_harms_no_pass(pool: Pool) -> None:
    """A column of type numeric holds what no provider's JSON can."""
    await pool.execute("alter table syncd.contact add column worth numeric")
    async with world(pool, fields='{"first": "first_name", "worth": "worth"}') as w:
        await put(pool, "ann", "bob", "cyd", "dee")
        for one, worth in (("ann", "1e400"), ("bob", "1e-400"), ("cyd", "NaN"), ("dee", "12.5")):
            await pool.execute(
                "update syncd.contact set worth = $2::text::numeric where id = $1", one, worth
            )
        await w.hand.drain()
        told = {one.owner: one.fields["worth"] for one in w.acme.records.values()}
        assert (told["ann"], told["bob"], told["dee"]) == (None, 0, 12.5)
