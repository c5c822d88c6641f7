"""`apply`, `export`, `init`: configuration as files, there and back; and what config/ says."""

from __future__ import annotations

import asyncio
import json
import re
import tomllib
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from cmdline import CONFIG, environment, secret, syncd
from conftest import fresh_database
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from people import fill

from syncd import apply as applying
from syncd import db, declared, example, sql
from syncd.app import App
from syncd.declared import DestinationForm, SourceForm
from syncd.errors import ConfigError
from syncd.providers import providers
from syncd.sandbox import serve
from syncd.secrets import Secrets

ROWS = "select to_jsonb(d) - '{{id,created_at,updated_at}}'::text[] as r from syncd.{} d order by 1"


async def rows(pool: Any) -> list[Any]:
    """Every row of `source` and `destination`, but for numbers and moments."""
    found = [await pool.fetch(ROWS.format(one)) for one in ("source", "destination")]
    return [[json.loads(row["r"]) for row in part] for part in found]


def of(pool: Any) -> App:
    return cast("App", SimpleNamespace(pool=pool, secrets=Secrets(pool, {}), destinations=None))


async def applied(pool: Any, folder: Path, text: str, **how: Any) -> applying.Applied:
    file = folder / "applied.toml"
    file.write_text(text, "utf-8")
    return await applying.apply(of(pool), declared.read([file]), **how)


# ── What config/ says ───────────────────────────────────────────────────────────────────────

TAKEN = re.compile(r'^# (?=\[[\w.]+\]$|(?:"[^"]+"|\w+) = )', re.MULTILINE)
"""A line of a file that is an example: without the "# " it is TOML."""


def everything(text: str) -> dict[str, Any]:
    """The file with every example in it taken."""
    [(_, row)] = tomllib.loads(TAKEN.sub("", text))["destination"].items()
    return cast("dict[str, Any]", row)


@pytest.mark.parametrize("provider", sorted(providers()))
def test_every_option_and_column_is_in_the_example_with_its_default(provider: str) -> None:
    text = (CONFIG / f"{provider}.toml").read_text("utf-8")
    row, kind = everything(text), providers()[provider]

    assert row.keys() == DestinationForm.model_fields.keys()
    kept = DestinationForm.model_fields
    for name, value in row.items():
        if kept[name].default is not None and name not in ("options", "provider"):
            assert value == (kept[name].default if name != "paused" else False), name
    options = kind.options_model.model_fields
    assert row["options"].keys() == options.keys()
    kind.options_model.model_validate(row["options"])
    own = options.keys() - {"base_url", "meters", "subscribed_values", "auth_url", "authorize_url"}
    for name in own:
        if options[name].default is not None and not options[name].is_required():
            assert row["options"][name] == options[name].default, name


@pytest.mark.parametrize("provider", sorted(providers()))
async def test_the_example_with_everything_in_it_is_accepted(
    provider: str, pool: Any, tmp_path: Path
) -> None:
    await fill(pool, 1)
    text = TAKEN.sub("", (CONFIG / f"{provider}.toml").read_text("utf-8"))
    if provider == "constantcontact":
        text = text.replace('"attributes.plan"', '"city"')

    done = await applied(pool, tmp_path, text)

    assert [(one.kind, one.name, one.action) for one in done.changes] == [
        ("destination", provider, "added")
    ]
    assert await pool.fetchval("select lists from syncd.destination") == ["news"]


async def test_a_form_has_the_defaults_of_its_table(pool: Any) -> None:
    await pool.execute("insert into syncd.destination (name, provider) values ('x', 'clevertap')")
    [source], [row] = await rows(pool)
    told = DestinationForm(provider="clevertap").model_dump()

    assert {name: source[name] for name in SourceForm.model_fields} == SourceForm().model_dump()
    assert {name: row[name] for name in told} == {**told, "paused": False}
    left = row.keys() - told.keys()
    assert left == {"name", "halted"}, "a new column belongs into the form, or the daemon writes it"


# ── There and back ──────────────────────────────────────────────────────────────────────────

TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20)
WORD = TEXT.filter(bool)
SCALAR = st.one_of(
    TEXT, st.booleans(), st.integers(-(2**70), 2**70),
    st.floats(allow_nan=False, allow_infinity=False),
)  # fmt: skip
VALUE = st.recursive(
    SCALAR, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3)
)
REAL = st.floats(width=32, allow_nan=False, allow_infinity=False)
COUNT = st.none() | st.integers(1, 2**31 - 1)
NAME = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}", fullmatch=True)
SCHEDULE = st.sampled_from(["on change", "30s", "15 m", "CRON_TZ=Europe/Berlin 0 3 * * 1-5"])


@st.composite
def destinations(draw: st.DrawFn) -> dict[str, Any]:
    lists = draw(st.none() | st.lists(WORD, max_size=3))
    return {
        "provider": draw(st.from_regex(r"[a-z][a-z0-9_]{0,20}", fullmatch=True)),
        "options": json.dumps(draw(st.dictionaries(TEXT, VALUE, max_size=4))),
        "fields": draw(
            st.none() | st.dictionaries(WORD, TEXT, max_size=4).map(json.dumps)
        ),
        "credential": draw(st.none() | st.from_regex(r"[A-Za-z0-9_.-]{1,128}", fullmatch=True)),
        "lists": lists,
        "everyone": lists is not None and draw(st.booleans()),
        "when_gone": draw(st.sampled_from(["withdraw", "delete", "keep"])),
        "when_list_gone": draw(st.sampled_from(["keep", "delete"])),
        "schedule": draw(SCHEDULE), "read_schedule": draw(SCHEDULE),
        "full_schedule": draw(SCHEDULE),
        "per_second": draw(st.none() | REAL.map(abs).filter(lambda x: 1e-30 <= x <= 1e30)),
        "in_flight": draw(COUNT), "per_day": draw(COUNT),
        "guard_percent": draw(st.floats(0, 100, width=32)),
        "guard_floor": draw(st.integers(0, 2**31 - 1)), "paused": draw(st.booleans()),
    }  # fmt: skip


async def keep(
    connection: Any, sources: Mapping[str, tuple[str, ...]], them: Mapping[str, dict[str, Any]]
) -> None:
    for name, relations in sources.items():
        await connection.execute(
            "insert into syncd.source (name, contact, list, membership) values ($1, $2, $3, $4)",
            name, *relations,
        )  # fmt: skip
    for name, row in them.items():
        marks = ", ".join(f"${n}" for n in range(2, len(row) + 2))
        source = min(sources, default="default")
        await connection.execute(
            f"insert into syncd.destination (name, source, {', '.join(row)})"
            f" values ($1, '{source.replace(chr(39), chr(39) * 2)}', {marks})",
            name, *row.values(),
        )  # fmt: skip


@pytest.fixture
async def plain(cluster: str, template: str) -> AsyncIterator[str]:
    async with fresh_database(cluster, template) as url:
        yield url


@given(
    sources=st.dictionaries(WORD, st.tuples(WORD, WORD, WORD), max_size=2),
    them=st.dictionaries(NAME, destinations(), min_size=1, max_size=2),
)
@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_what_is_exported_and_applied_is_what_was_there(
    plain: str, tmp_path: Path, sources: Any, them: Any
) -> None:
    """Over every row the table takes: rows that no daemon could serve too (`_written` only)."""
    sources.pop("default", None)
    asyncio.run(_there_and_back(plain, tmp_path / "told.toml", sources, them))


async def _there_and_back(url: str, file: Path, sources: Any, them: Any) -> None:
    async with db.pool(url, 1) as pool:
        await pool.execute("delete from syncd.destination")
        await pool.execute("delete from syncd.source where name <> 'default'")
        await keep(pool, sources, them)
        before, app = await rows(pool), SimpleNamespace(pool=pool, destinations=_names(pool))
        text = await applying.export(cast("App", app))
        file.write_text(text, "utf-8")
        wanted = declared.read([file])
        for whence in ("the same rows", "none"):
            async with pool.acquire() as connection, connection.transaction():
                known = await applying._rows(connection, sql.apply.sources)
                assert await applying._written(connection, wanted, known) == [], whence
            assert await rows(pool) == before, whence
            assert await applying.export(cast("App", app)) == text, whence
            await pool.execute("delete from syncd.destination")
            await pool.execute("delete from syncd.source where name <> 'default'")


def _names(pool: Any) -> Any:
    async def destinations(names: Any) -> Any:
        found = await pool.fetch("select name from syncd.destination")
        return [SimpleNamespace(name=row["name"]) for row in found]

    return destinations


# ── The commands ────────────────────────────────────────────────────────────────────────────

SHOP = """
[source.shop]
contact = "syncd.contact"

[destination.shop]
provider = "clevertap"
source = "shop"
lists = ["VIP", "news", "vip"]
schedule = "30s"
[destination.shop.options]
base_url = "http://127.0.0.1:1"
"""


async def test_apply_shows_the_difference_and_writes_it_once(
    pool: Any, database: str, tmp_path: Path
) -> None:
    await fill(pool, 1)
    env, file = environment(database), tmp_path / "shop.toml"
    file.write_text(SHOP, "utf-8")

    tried = await syncd("apply", str(file), "--dry-run", "--json", env=env)
    assert await pool.fetchval("select count(*) from syncd.destination") == 0
    assert tried.json["dry_run"] is True
    done = await syncd("apply", str(file), env=env)

    assert (tried.code, done.code) == (0, 0), done.err
    assert [one["action"] for one in tried.json["changes"]] == ["added", "added"]
    assert tried.json["changes"][1]["columns"]["lists"] == {"from": None, "to": ["vip", "news"]}
    assert "+ destination shop\n" in done.out
    assert '    lists = ["vip","news"]\n' in done.out, "names are kept as ids, each once"
    assert "2 rows written" in done.out
    assert "still needed: shop: secret 'shop' is in none of its three places" in done.err
    row = await pool.fetchrow("select * from syncd.destination")
    assert (row["lists"], row["source"], row["halted"]) == (["vip", "news"], "shop", None)

    await pool.execute("update syncd.destination set paused = true")
    file.write_text(SHOP.replace("30s", "1m").replace("127.0.0.1:1", "127.0.0.1:2"), "utf-8")
    done = await syncd("apply", str(file), "--json", env=env)
    assert done.json["changes"][1]["columns"] == {
        "schedule": {"from": "30s", "to": "1m"},
        "options.base_url": {"from": "http://127.0.0.1:1", "to": "http://127.0.0.1:2"},
    }
    again = await syncd("apply", str(file), env=env)
    assert again.out.endswith("nothing differs\n")
    row = await pool.fetchrow("select * from syncd.destination")
    assert (row["schedule"], row["paused"]) == ("1m", True), "a pause is not ended by a file"
    log = await pool.fetch("select action from syncd.control_log where row_name = 'shop'")
    assert [one["action"] for one in log] == ["insert", "insert", "update", "update"]

    told = await syncd("export", "shop", env=env)
    assert "paused = true" in told.out
    assert (await syncd("export", "--json", env=env)).json["destination"]["shop"]["lists"] == [
        "vip", "news",
    ]  # fmt: skip
    file.write_text(told.out, "utf-8")
    assert (await syncd("apply", str(file), env=env)).out.endswith("nothing differs\n")


async def test_every_fault_of_every_file_is_named_and_nothing_is_written(
    pool: Any, database: str, tmp_path: Path
) -> None:
    await fill(pool, 1)
    form, sense = tmp_path / "form.toml", tmp_path / "sense.toml"
    form.write_text(
        '[destinaton.x]\nprovider = "y"\n[destination."a b"]\nprovidr = "z"\neveryone = true\n'
        'guard_percent = "10"\n[destination.c]\nprovider = "clevertap"\nper_day = 0\n'
        'when_gone = "vanish"\n[destination.c.options]\nrate = nan\n',
        "utf-8",
    )
    sense.write_text(
        '[source.odd]\ncontact = "a.b.c.d.e"\n'
        '[destination.good]\nprovider = "clevertap"\n'
        '[destination.d]\nprovider = "mailmonk"\n'
        '[destination.e]\nprovider = "clevertap"\nsource = "nix"\n'
        '[destination.f]\nprovider = "clevertap"\nsource = "odd"\nschedule = "sometimes"\n'
        '[destination.g]\nprovider = "clevertap"\nlists = ["Gone"]\n'
        '[destination.g.options]\nregoin = "eu1"\n[destination.g.fields]\nTown = "town"\n'
        '[destination.h]\nprovider = "clevertap"\n'
        '[destination.h.options]\nbase_url = "http://example.org"\nmeters = {x = {per_day = 1}}\n',
        "utf-8",
    )
    env = environment(database)
    first = await syncd("apply", str(form), str(tmp_path / "none.toml"), env=env)
    second = await syncd("apply", str(sense), env=env)
    twice = await syncd("apply", str(sense), str(sense), "--dry-run", env=env)

    assert (first.code, second.code, twice.code) == (78, 78, 78)
    for part in ("destinaton is not known here; did you mean [destination.x]?",
                 "'a b': a name is", "did you mean provider?",
                 "guard_percent: expected", "provider is missing", "everyone: needs `lists`",
                 "per_day: expected", "when_gone: expected 'withdraw'", "options: Out of range",
                 "none.toml: no such file"):  # fmt: skip
        assert part in first.err, (part, first.err)
    for part in ("'mailmonk' is not known", "source 'nix' does not exist; there is: default, odd",
                 "contact 'a.b.c.d.e' is not a relation's name", "schedule 'sometimes'",
                 "list 'Gone' does not exist", "options.regoin", "no column 'town'",
                 "options.meters has no 'x'"):  # fmt: skip
        assert part in second.err, (part, second.err)
    assert "aborted" not in second.err
    assert "'good' is in " in twice.err
    assert [line for line in first.err.splitlines() if not line.startswith("syncd: ")] == []
    assert await pool.fetchval("select count(*) from syncd.destination") == 0
    assert await pool.fetchval("select count(*) from syncd.source") == 1


async def test_a_source_cannot_be_changed_so_that_another_destination_of_it_breaks(
    pool: Any, tmp_path: Path
) -> None:
    await pool.execute(
        "create table other (id text primary key, email text);"
        "insert into syncd.destination (name, provider, fields)"
        " values ('shop', 'clevertap', '{\"City\": \"city\"}')"
    )
    with pytest.raises(ConfigError, match=r"public\.other has no column 'city'"):
        await applied(pool, tmp_path, '[source.default]\ncontact = "other"\n')
    assert await pool.fetchval("select contact from syncd.source") == "syncd.contact"


async def test_standard_input_can_be_applied(pool: Any, database: str) -> None:
    process = await asyncio.create_subprocess_shell(
        f"echo '[destination.shop]\nprovider = \"clevertap\"' | {_python()} -m syncd apply -",
        env=environment(database), stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    out, err = await process.communicate()
    assert process.returncode == 0, err
    assert out.endswith(b"1 row written\n")


def _python() -> str:
    import sys

    return sys.executable


# ── init ────────────────────────────────────────────────────────────────────────────────────


async def test_init_writes_what_its_next_steps_need_and_overwrites_nothing(
    empty_database: str, tmp_path: Path
) -> None:
    """The three steps as they are printed, but for a sandbox that serves already."""
    env = environment(empty_database)
    begun = await syncd("init", env=env, cwd=tmp_path)
    assert begun.code == 0, begun.err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["clevertap.toml", "syncd.toml"]
    steps = [line.strip() for line in begun.out.splitlines() if line.startswith("     ")]
    assert [line.split()[0] for line in steps] == [
        "export", "syncd", "syncd", "export", "syncd", "syncd", "syncd", "syncd", "syncd",
    ]  # fmt: skip
    async with serve("clevertap") as sandbox:
        file = tmp_path / "clevertap.toml"
        text = file.read_text("utf-8")
        file.write_text(text.replace("http://127.0.0.1:8801", sandbox.url), "utf-8")
        env |= secret(sandbox, "clevertap")
        for line in steps:
            words = line.split()
            if words[0] == "syncd" and words[1] not in ("sandbox", "run"):
                ended = await syncd(*words[1:], env=env, cwd=tmp_path)
                assert ended.code == 0, (line, ended.err, ended.out)

    mine = (tmp_path / "clevertap.toml").read_text("utf-8")
    (tmp_path / "syncd.toml").unlink()
    again = await syncd("init", env=env, cwd=tmp_path)
    assert again.code == 78
    assert again.err == "syncd: clevertap.toml is there already, and is left as it is\n"
    assert (tmp_path / "clevertap.toml").read_text("utf-8") == mine
    assert not (tmp_path / "syncd.toml").exists(), "all or nothing"


async def test_init_elsewhere_and_of_another_provider(tmp_path: Path) -> None:
    done = await syncd(
        "init", "a b/c", "--provider", "copernica", "--json", env=environment(), cwd=tmp_path
    )
    assert done.json["written"] == ["a b/c/syncd.toml", "a b/c/copernica.toml"]
    assert done.json["next"][1]["run"][-1] == (
        "syncd apply 'a b/c/copernica.toml' --config 'a b/c/syncd.toml'"
    )
    told = (tmp_path / "a b" / "c" / "copernica.toml").read_text("utf-8")
    assert told == (CONFIG / "copernica.toml").read_text("utf-8")
    none = await syncd("init", "--provider", "mailmonk", env=environment(), cwd=tmp_path)
    assert none.code == 78
    assert "there is: clevercampaign, clevertap" in none.err
    assert example.names() == sorted(providers())


def test_hostile_rows_leave_the_exporter_as_they_are() -> None:
    """TOML has no null: keys without a value go, one within an array is a fault."""
    told = declared.written({}, {"x": {"options": {"a": None, "b": {"c": None, "d": 1}}}})
    assert tomllib.loads(told) == {"destination": {"x": {"options": {"b": {"d": 1}}}}}
    with pytest.raises(ConfigError, match=r"destination 'x': options\.a\[1\]: a null"):
        declared.written({}, {"x": {"options": {"a": [1, None]}}})
