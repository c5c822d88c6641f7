"""What may import what (design, section 9), and that every statement fits the schema."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import asyncpg
import pytest
from acme import adapter

from syncd import migrate, sql
from syncd import source as sources
from syncd.compare import Compare
from syncd.desired import Desired, Field
from syncd.errors import ConfigError, DatabaseUnreachable
from syncd.migrate import Migration
from syncd.model import PROVIDED_BY, Can
from syncd.providers import providers
from syncd.sql import parse

PACKAGE = Path(sql.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))


def name_of(path: Path) -> str:
    """The dotted name of a module of the package, without `syncd.`."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(path: Path, *, at_run_time: bool = True) -> set[str]:
    """Dotted names that a module imports; those under TYPE_CHECKING only if not *at_run_time*."""
    found: set[str] = set()
    for node in _nodes(ast.parse(path.read_text("utf-8")), at_run_time):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def _nodes(node: ast.AST, at_run_time: bool) -> Iterator[ast.AST]:
    for child in ast.iter_child_nodes(node):
        if at_run_time and isinstance(child, ast.If) and "TYPE_CHECKING" in ast.dump(child.test):
            continue
        yield child
        yield from _nodes(child, at_run_time)


def reaches(names: set[str], *forbidden: str) -> set[str]:
    return {n for n in names for f in forbidden if n == f or n.startswith(f + ".")}


# ── Who may know whom ───────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("module", ["model", "errors"])
def test_the_vocabulary_imports_the_standard_library_only(module: str) -> None:
    tops = {name.partition(".")[0] for name in imports(PACKAGE / f"{module}.py", at_run_time=False)}

    assert tops <= set(sys.stdlib_module_names)


ADAPTERS = sorted((PACKAGE / "providers").glob("*.py"))


@pytest.mark.parametrize("path", ADAPTERS, ids=name_of)
def test_an_adapter_reaches_neither_database_nor_journal_nor_another_provider(path: Path) -> None:
    """Files called after a provider are parts of it."""
    names = imports(path)
    provider = path.stem.partition("_")[0]
    others = {
        f"syncd.providers.{other.stem}"
        for other in ADAPTERS
        if other.stem != "__init__" and other.stem.partition("_")[0] != provider
    }

    assert not reaches(names, "asyncpg", "syncd.journal", "syncd.settings", "syncd.db", *others)
    assert {n for n in names if n.startswith("syncd.")} == reaches(
        names,
        "syncd.model",
        "syncd.errors",
        "syncd.providers",
        "syncd.words",
        "syncd.redact",
        "syncd.decoded",
    )


CORE = ["journal", "claim", "settlement", "orphans", "window", "plan", "control", "addresses",
        "classify", "compare", "decide", "desired", "fullpass", "outcomes", "source"]  # fmt: skip


@pytest.mark.parametrize("module", CORE)
def test_the_core_knows_neither_http_nor_providers(module: str) -> None:
    names = imports(PACKAGE / f"{module}.py", at_run_time=False)

    assert not reaches(names, "aiohttp", "syncd.providers", "syncd.wire")


def test_push_knows_no_http_and_no_concrete_provider() -> None:
    assert not reaches(imports(PACKAGE / "push.py", at_run_time=False), "aiohttp", "syncd.wire",
                       *(f"syncd.providers.{name}" for name in providers()))  # fmt: skip


ROOTS = re.compile(r"^(app|cli(\..*)?|__main__|check|demo(\..*)?)$")
"""Commands that open the app themselves; whoever is only handed it names its type alone."""


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_nobody_imports_the_composition_root(path: Path) -> None:
    """Except the command line; whoever needs its type says so under TYPE_CHECKING."""
    names = imports(path)
    if not ROOTS.match(name_of(path)):
        assert not reaches(names, "syncd.app", "syncd.cli")


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_nothing_is_shown_past_the_screen(path: Path) -> None:
    """Which lets no character of what data hold do anything to a terminal."""
    if name_of(path) != "cli.screen":
        assert not reaches(imports(path), "rich.text")
        assert not re.search(r"\bConsole\(", path.read_text("utf-8"))


# ── Two greps (style, section 4) ────────────────────────────────────────────────────────────

WEB = re.compile(r"^(wire|exchange|web|web_.*|page|page_.*|metrics|authorize|sandbox(\..*)?)$")


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_http_is_spoken_only_by_the_wire_the_page_and_the_sandbox(path: Path) -> None:
    if not WEB.match(name_of(path)):
        assert not reaches(imports(path, at_run_time=False), "aiohttp")


NAMES = re.compile(
    r"clever_?tap|clever_?campaign|constant_?contact|copernica|red_?cappi", re.IGNORECASE
)
OF_A_PROVIDER = re.compile(r"^(providers|sandbox|demo)(\.|$)")
"""The demo rehearses providers at their stand-ins."""
EXAMPLE = re.compile(r"^syncd .*|config/\w+\.(sql|toml)")


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_a_provider_is_named_only_in_its_own_modules(path: Path) -> None:
    """In code; an example in a docstring or a comment names nobody's behaviour."""
    if OF_A_PROVIDER.match(name_of(path)):
        return
    tree = ast.parse(path.read_text("utf-8"))
    prose = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef))
        and node.body
        and isinstance(node.body[0], ast.Expr)
    }
    said = [
        text
        for node in ast.walk(tree)
        if id(node) not in prose
        for text in (getattr(node, "id", ""), getattr(node, "attr", ""), getattr(node, "value", ""))
        if isinstance(text, str) and NAMES.search(EXAMPLE.sub("", text))
    ]

    assert said == []


def test_no_statement_names_a_provider() -> None:
    for path in sorted(sql.folder().rglob("*.sql")):
        assert not NAMES.search(path.read_text("utf-8")), path.name


# ── Flags ───────────────────────────────────────────────────────────────────────────────────


def test_every_flag_names_a_method() -> None:
    assert set(PROVIDED_BY) == {flag for flag in Can if flag}


def test_the_tests_provider_keeps_to_the_protocol() -> None:
    kind = adapter("ours", Can.NOTHING)
    for name in ("base_url", "scope", "meters", "key_column", "sign", "judge", "check", "learn",
                 "push"):  # fmt: skip
        assert callable(getattr(kind, name))


# ── SQL ─────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "text",
    [
        "-- name: one\nselect 1;\n-- name: one\nselect 2;\n",
        "select 1;\n",
        "",
    ],
)
def test_the_loader_refuses_statements_without_a_name_or_with_a_double_one(text: str) -> None:
    with pytest.raises(ValueError, match="must have names, each once"):
        parse(text, "x.sql")


def test_the_loader_knows_the_statements_by_name() -> None:
    found = parse("-- name: one\n-- why\nselect 1;\n\n-- name: two\nselect 2;\n", "x.sql")

    assert vars(found) == {"one": "-- why\nselect 1;", "two": "select 2;"}
    with pytest.raises(AttributeError):
        _ = sql.nothing_of_that_name


def named_statements() -> Sequence[str]:
    return [
        f"{path.stem}.{name}"
        for path in sorted(sql.folder().glob("*.sql"))
        if path.stem != "roles"
        for name in vars(parse(path.read_text("utf-8"), path.name))
    ]


async def test_every_named_statement_fits_the_schema(database: str) -> None:
    connection = await asyncpg.connect(database)
    faults = []
    for one in named_statements():
        file, name = one.split(".")
        try:
            await connection.prepare(getattr(getattr(sql, file), name))
        except asyncpg.PostgresError as error:
            faults.append(f"{one}: {error}")
    await connection.close()

    assert faults == []
    assert len(named_statements()) > 100


RUNS = {"execute", "executemany", "fetch", "fetchrow", "fetchval", "prepare", "cursor"}
NO_QUERY = ("savepoint", "release", "rollback", "commit", "set local")


def literal_statements() -> Iterator[tuple[str, str]]:
    """(where, text) of each statement that stands in the code itself."""
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            match node:
                case ast.Call(ast.Attribute(attr=attr), [ast.Constant(str(text)), *_]):
                    if attr in RUNS and not text.startswith(NO_QUERY):
                        yield f"{name_of(path)}:{node.lineno}", text


async def test_every_statement_in_the_code_fits_the_schema(database: str) -> None:
    connection = await asyncpg.connect(database)
    faults = []
    for where, text in literal_statements():
        try:
            await connection.prepare(text)
        except asyncpg.PostgresError as error:
            faults.append(f"{where}: {error}")
    await connection.close()

    assert faults == []
    assert len(list(literal_statements())) > 20


SHOP = """
create schema shop;
create table shop.contact ({id} primary key, email text, name text, born date, score numeric,
                           extra jsonb {consent});
create table shop.list ({id} primary key, name text);
create table shop.membership ({list}, {contact});
insert into syncd.source values ('shop', 'shop.contact', 'shop.list', 'shop.membership');
insert into syncd.destination (name, provider, source) values ('d', 'acme', 'shop');
"""
COMPILED = ("by_keys", "by_window", "everything", "window", "list_names", "count", "members",
            "belonging", "at_addresses", "shared_addresses")  # fmt: skip


@pytest.mark.parametrize("consent", ["", ", subscribed boolean, consented_at timestamptz"])
@pytest.mark.parametrize("kind", ["bigint", "uuid", "text", "varchar", "int"])
async def test_every_compiled_statement_fits_any_source(
    database: str, kind: str, consent: str
) -> None:
    """Selected lists, everyone, all; by our id or a column; own opt-outs only, names of lists."""
    connection = await asyncpg.connect(database)
    columns = {"id": f"id {kind}", "list": f"list_id {kind}", "contact": f"contact_id {kind}"}
    await connection.execute(SHOP.format(**columns, consent=consent))
    source = await sources.describe(connection, "shop")
    lists = {"uuid": "00000000-0000-0000-0000-00000000000a"}.get(kind, "1")
    fields = (Field("n", "name"), Field("b", "born"), Field("s", "score"),
              Field("e", "extra", "key", is_json=True))  # fmt: skip
    for chosen, everyone, own, key, named in (
        (None, False, False, None, False),
        ([lists], False, True, "name", True),
        ([lists], True, False, None, True),
        ([], False, False, None, False),
    ):
        desired = Desired(
            1, source, fields, chosen, everyone, own, {"a": "it's"}, "withdraw", key, named
        )
        compare = Compare(desired)
        statements = {name: getattr(desired, name) for name in COMPILED if hasattr(desired, name)}
        statements |= {n: getattr(compare, n) for n in ("by_keys", "by_window", "for_claim")}
        for name, statement in statements.items():
            try:
                await connection.prepare(statement)
            except asyncpg.PostgresError as error:
                raise AssertionError(f"{name}, lists={chosen}: {error}") from error
    await connection.close()


# ── Migrations ──────────────────────────────────────────────────────────────────────────────

SCHEMA = """
select 'column ' || c.relname || '.' || a.attname || ' ' || format_type(a.atttypid, a.atttypmod)
       || ' ' || a.attnotnull || coalesce(' ' || pg_get_expr(d.adbin, d.adrelid), '')
  from pg_attribute a join pg_class c on c.oid = a.attrelid
  left join pg_attrdef d on d.adrelid = c.oid and d.adnum = a.attnum
 where c.relnamespace = 'syncd'::regnamespace and a.attnum > 0 and not a.attisdropped
union all
select 'index ' || indexdef from pg_indexes where schemaname = 'syncd'
union all
select 'constraint ' || conrelid::regclass || ' ' || pg_get_constraintdef(oid) from pg_constraint
 where connamespace = 'syncd'::regnamespace
union all
select 'function ' || p.oid::regprocedure || ' ' || md5(coalesce(p.prosrc, '')) from pg_proc p
 where pronamespace = 'syncd'::regnamespace
union all
select 'trigger ' || pg_get_triggerdef(t.oid) from pg_trigger t join pg_class c on c.oid = t.tgrelid
 where c.relnamespace = 'syncd'::regnamespace and not t.tgisinternal
union all
select 'view ' || viewname || ' ' || definition from pg_views where schemaname = 'syncd'
 order by 1
"""


async def test_the_script_and_the_migrations_leave_the_same_schema(
    database: str, empty_database: str
) -> None:
    """`syncd migrate --sql` is what `syncd migrate` does; run as a whole, it is known as done."""
    migrated, scripted = await asyncpg.connect(database), await asyncpg.connect(empty_database)
    await scripted.execute(migrate.script())

    ours = [row[0] for row in await migrated.fetch(SCHEMA)]
    assert [row[0] for row in await scripted.fetch(SCHEMA)] == ours
    assert len(ours) > 200
    await migrate.check_schema(scripted)
    assert await migrate.migrate(scripted) == []
    await migrated.close()
    await scripted.close()


async def test_migrations_apply_to_an_empty_database_and_a_second_time_do_nothing(
    empty_database: str,
) -> None:
    connection = await asyncpg.connect(empty_database)
    with pytest.raises(DatabaseUnreachable, match="syncd migrate"):
        await migrate.check_schema(connection)
    assert [m.version for m in await migrate.migrate(connection)] == [
        m.version for m in migrate.migrations()
    ]
    assert await migrate.migrate(connection) == []
    await migrate.check_schema(connection)
    await connection.close()


async def test_a_migration_that_was_changed_since_is_refused(
    database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    connection = await asyncpg.connect(database)
    first, *rest = migrate.migrations()
    changed = [Migration(first.version, first.name, first.text + "-- a thought"), *rest]
    monkeypatch.setattr(migrate, "migrations", lambda: changed)

    with pytest.raises(ConfigError, match="differs from what was applied"):
        await migrate.migrate(connection)
    with pytest.raises(ConfigError, match="differs from what was applied"):
        await migrate.check_schema(connection)
    await connection.close()


async def test_a_program_serves_a_newer_schema_but_does_not_migrate_it(
    database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    connection = await asyncpg.connect(database)
    known = list(migrate.migrations())[:-1]
    monkeypatch.setattr(migrate, "migrations", lambda: known)

    await migrate.check_schema(connection)
    with pytest.raises(ConfigError, match="unknown to this version"):
        await migrate.migrate(connection)
    await connection.close()


async def test_a_schema_older_than_the_program_is_not_served(
    database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    connection = await asyncpg.connect(database)
    known = [*migrate.migrations(), Migration(9999, "later", "select 1")]
    monkeypatch.setattr(migrate, "migrations", lambda: known)

    with pytest.raises(DatabaseUnreachable, match="older than this program"):
        await migrate.check_schema(connection)
    await connection.close()


def test_migrations_are_numbered_without_a_gap() -> None:
    assert [m.version for m in migrate.migrations()] == list(
        range(1, len(migrate.migrations()) + 1)
    )
