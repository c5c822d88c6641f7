"""The command line from outside: exit codes, faults in words, help."""

from __future__ import annotations

import asyncio
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import asyncpg
import pytest
import typer
from cmdline import done, environment, free_ports, secret, start, syncd
from people import destination, fill

from syncd import __version__, cli
from syncd.errors import ConfigError, DatabaseUnreachable, Refused
from syncd.sandbox import serve

NOWHERE = "postgresql://nobody@127.0.0.1:1/none?connect_timeout=2"


def commands(group: Any = None) -> list[Any]:
    """Every command, those of a group (`secret set`) too, under the words that call it."""
    group = group or typer.main.get_command(cli.app)
    found = []
    for name, one in sorted(group.commands.items()):
        if hasattr(one, "commands"):
            found += [_called(f"{name} {inner.name}", inner) for inner in commands(one)]
        else:
            found.append(_called(name, one))
    return found


def _called(words: str, one: Any) -> Any:
    one.words = words
    return one


# ── Help and usage ──────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("command", commands(), ids=lambda one: one.words)
def test_every_command_has_help_an_example_json_and_config(command: Any) -> None:
    options = {name for parameter in command.params for name in parameter.opts}

    assert command.help
    assert command.epilog.startswith(f"Example: syncd {command.words}")
    assert "--config" in options
    assert "--json" in options or command.name == "run"


async def test_the_help_lists_them_all() -> None:
    ended = await syncd("--help", env=environment())

    assert ended.code == 0
    for command in commands():
        assert f"  {command.words.split()[0]} " in ended.out
    one = await syncd("backfill", "--help", env=environment())
    assert "Example: syncd backfill marketing --only newsletter" in one.out


def test_the_readme_names_no_command_that_is_not_there() -> None:
    text = (Path(__file__).parent.parent / "README.md").read_text("utf-8")

    assert set(re.findall(r"`syncd ([a-z]+)", text)) <= {one.words.split()[0] for one in commands()}


async def test_the_version_is_told() -> None:
    assert (await syncd("--version", env=environment())).out == f"syncd {__version__}\n"


@pytest.mark.parametrize(
    "words", [("backfil",), ("backfill", "--fource"), ("plan", "--sample", "many"), ("demo", "x")]
)
async def test_wrong_usage_is_2(words: tuple[str, ...]) -> None:
    ended = await syncd(*words, env=environment(NOWHERE))

    assert (ended.code, ended.out) == (2, "")
    assert "Usage: syncd" in ended.err


# ── Database and settings ───────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("words", ["migrate", "run", "backfill", "plan"])
async def test_an_unreachable_database_is_69(words: str) -> None:
    ended = await syncd(words, env=environment(NOWHERE))

    assert (ended.code, ended.out) == (69, "")
    [line] = ended.err.splitlines()
    assert line.startswith("syncd: PostgreSQL cannot be reached: ")


async def test_a_missing_schema_is_69_and_names_the_remedy(empty_database: str) -> None:
    before = await syncd("backfill", env=environment(empty_database))
    script = await syncd("migrate", "--sql", env=environment(NOWHERE))
    first = await syncd("migrate", "--json", env=environment(empty_database))
    second = await syncd("migrate", env=environment(empty_database))

    assert before.code == 69
    assert before.err == "syncd: the database has no syncd schema yet: run `syncd migrate`\n"
    assert "create table syncd.contact" in script.out
    assert (first.code, first.json["applied"][0]) == (0, "0001_schema")
    assert (second.code, second.out) == (0, "the schema is up to date\n")


async def test_wrong_settings_are_78_with_every_fault_on_a_line(tmp_path: Path) -> None:
    settings = tmp_path / "wrong.toml"
    settings.write_text('pool_size = "many"\nwindow = 0\npol_seconds = 1\n')

    ended = await syncd("backfill", "--config", str(settings), env=environment())

    assert (ended.code, ended.out) == (78, "")
    assert len(ended.err.splitlines()) == 3
    assert all(line.startswith(f"syncd: {settings}: ") for line in ended.err.splitlines())
    settings.write_text("pool_size = [")
    assert (await syncd("plan", "--config", str(settings), env=environment())).code == 78
    assert (await syncd("plan", "--config", "/no/such", env=environment())).code == 78


@pytest.mark.parametrize("words", [("sandbox", "--port", "1"), ("init", "FOLDER")])
async def test_a_settings_file_is_looked_at_by_who_needs_none_too(
    words: tuple[str, ...], tmp_path: Path
) -> None:
    ended = await syncd(*words, "--config", "/no/such", env=environment(), cwd=tmp_path)

    assert (ended.code, ended.out) == (78, "")
    assert ended.err.startswith("syncd: /no/such: ")
    assert not list(tmp_path.iterdir())


# ── Destinations ────────────────────────────────────────────────────────────────────────────


async def test_everything_wrong_with_destinations_is_told_at_once(pool: Any, database: str) -> None:
    await fill(pool, 3)
    async with serve("clevertap") as sandbox:
        await destination(
            pool, sandbox, "first",
            fields='{"City": "town", "Nick": "attributes.nick", "Zip": "postcode"}',
            lists=["news", "Gone"], options={"regoin": "eu1"}, schedule="now and then",
        )  # fmt: skip
        await destination(pool, sandbox, "second")
        await pool.execute("update syncd.destination set provider = 'mailmonk' where id = 2")
        await destination(pool, sandbox, "third")
        half = {"SYNCD_SECRET_THIRD": '{"account_id": "x"}'}

        for words in ("backfill", "plan"):
            ended = await syncd(words, env=environment(database, **half))

            assert (ended.code, ended.out) == (78, "")
            lines = ended.err.splitlines()
            assert all(line.startswith("syncd: destination ") for line in lines)
            told = {" ".join(line.split()[1:3]) for line in lines}
            assert told == {"destination 'first':", "destination 'second':", "destination 'third':"}
            for part in ("regoin", "town", "postcode", "Gone", "schedule", "first' is in none",
                         "mailmonk", "second' is in none", "passcode"):  # fmt: skip
                assert part in ended.err
        assert sandbox.state.ledger.requests == 0


async def test_an_unknown_destination_and_none_at_all_are_78(pool: Any, database: str) -> None:
    none = await syncd("backfill", env=environment(database))
    unknown = await syncd("plan", "nobody", env=environment(database))

    assert (none.code, unknown.code) == (78, 78)
    assert "there is no destination yet" in none.err
    assert "destination 'nobody' does not exist" in unknown.err


async def test_an_unreachable_provider_is_69_and_nothing_is_lost(pool: Any, database: str) -> None:
    await fill(pool, 3)
    async with serve("clevertap") as sandbox:
        await destination(pool, sandbox)
        env = environment(database, **secret(sandbox))
    ended = await syncd("backfill", env=env)

    assert ended.code == 69, ended.err
    assert ended.json["destinations"]["marketing"]["in_step"] is False
    assert "syncd: marketing: " in ended.err
    assert "Traceback" not in ended.err


# ── What runs until told to stop ────────────────────────────────────────────────────────────


async def test_the_daemon_drains_and_ends_with_0_on_sigterm(database: str) -> None:
    process = await start("run", env=environment(database))
    told = await asyncio.wait_for(process.stderr.readline(), 120)
    assert b"serving" in told
    process.send_signal(signal.SIGTERM)
    ended = await done(process)

    assert ended.code == 0
    assert "stopped" in ended.err


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
async def test_the_sandbox_serves_until_a_signal(number: int, code: int) -> None:
    port = free_ports(5)
    process = await start("sandbox", "--port", str(port), "--json", env=environment())
    lines = [await asyncio.wait_for(process.stdout.readline(), 120) for _ in range(5)]
    assert f'"provider":"clevertap","url":"http://127.0.0.1:{port + 1}"'.encode() in lines[1]
    taken = await syncd("sandbox", "--port", str(port), env=environment())
    process.send_signal(number)
    ended = await done(process)

    assert (ended.code, ended.err) == (code, "")
    assert taken.code == 78
    assert "choose another --port" in taken.err


def test_closed_standard_streams_are_no_fault() -> None:
    words = f"{sys.executable} -m syncd migrate --sql <&- >&-"

    assert subprocess.run(words, shell=True, env=environment(), timeout=180).returncode == 0


def test_a_closed_pipe_is_no_traceback() -> None:
    words = f"{sys.executable} -m syncd migrate --sql | head -1"
    ended = subprocess.run(words, shell=True, env=environment(), timeout=180, capture_output=True)

    assert (ended.stdout, ended.stderr) == (b"begin;\n", b"")


# ── What is a fault and what is a bug ───────────────────────────────────────────────────────


def test_groups_are_unwrapped_and_bugs_are_not_hidden() -> None:
    ours = [ConfigError("a", "b"), Refused("c")]
    group = BaseExceptionGroup("", [ours[0], BaseExceptionGroup("", [ours[1]])])

    assert cli.readable(group) == ours
    assert cli.readable(KeyError("x")) == []
    assert cli.readable(BaseExceptionGroup("", [*ours, KeyError("x")])) == []
    [lost] = cli.readable(asyncpg.ConnectionDoesNotExistError("gone"))
    assert isinstance(lost, DatabaseUnreachable)


def test_every_fault_is_told_once_and_the_gravest_counts(capsys: Any) -> None:
    code = cli.tell([Refused("c"), ConfigError("a", "b"), ConfigError("a")])

    assert code == 78
    assert capsys.readouterr().err == "syncd: c\nsyncd: a\nsyncd: b\n"
