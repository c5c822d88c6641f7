"""The example in every command's help does what it says; the shell completes commands."""

from __future__ import annotations

import asyncio
import os
import shlex
import shutil
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from cmdline import CONFIG, Done, done, environment, free_ports, secret, syncd
from cryptography.fernet import Fernet
from people import destination
from test_cli import commands

from syncd.sandbox import serve

ELSEWHERE = {"demo": "tests/test_demo.py", "authorize": "needs a person at a browser"}
SERVING = {"run", "sandbox"}
LAST = ("discard", "approve", "remove")

HELD = """
insert into syncd.plan (id, destination_id, kind, state, reason) overriding system value
values (7, 1, 'remove', 'held', 'a slip')
    on conflict (id) do update set state = 'held', decided_at = null, decided_by = null;
insert into syncd.journal (destination_id, contact_id, wish, lane, state, plan_id)
select 1, 'held' || n, 'remove', 2, 'held', 7 from generate_series(1, 1204) n
    on conflict do nothing;
"""


def with_syncd(env: Mapping[str, str]) -> dict[str, str]:
    """With `syncd` on the PATH, as installed."""
    return {**env, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}


async def shell(line: str, env: Mapping[str, str], folder: Path) -> Any:
    return await asyncio.create_subprocess_exec(
        "bash", "-c", line, env=with_syncd(env), cwd=folder, stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE, start_new_session=True,
    )  # fmt: skip


async def ran(line: str, env: Mapping[str, str], folder: Path) -> Done:
    return await done(await shell(line, env, folder))


async def test_the_example_of_every_command_runs(pool: Any, database: str, tmp_path: Path) -> None:
    examples = {one.words: one.epilog.removeprefix("Example: ") for one in commands()}
    await pool.execute(
        "insert into syncd.contact (id, email) values ('42', 'ann@example.com');"
        "insert into syncd.list values ('newsletter', 'Newsletter');"
        "insert into syncd.membership values ('newsletter', '42')"
    )
    async with serve("clevertap") as sandbox:
        await destination(pool, sandbox)
        text = (CONFIG / "clevertap.toml").read_text("utf-8")
        (tmp_path / "marketing.toml").write_text(text, "utf-8")
        (tmp_path / "credential.json").write_text(secret(sandbox)["SYNCD_SECRET_MARKETING"])
        env = environment(
            database, SYNCD_SECRET_KEY=Fernet.generate_key().decode(), **secret(sandbox)
        )
        await pool.execute(
            "insert into syncd.opt_out (destination_id, email, kind)"
            " values (1, 'ann@example.com', 'bounced')"
        )
        few = asyncio.Semaphore(3)

        async def one(words: str) -> None:
            async with few:
                ended = await ran(examples[words], env, tmp_path)
            assert ended.code in (0, 1), (examples[words], ended)
            assert "Traceback" not in ended.err, ended.err

        first = examples.keys() - ELSEWHERE.keys() - SERVING - set(LAST)
        async with asyncio.TaskGroup() as group:
            for words in sorted(first):
                group.create_task(one(words))
        for words in LAST:
            await pool.execute(HELD)
            await one(words)
        assert await pool.fetchval("select count(*) from syncd.destination") == 0
    assert {"schema.sql", "syncd-destinations.toml"} <= {p.name for p in tmp_path.iterdir()}
    assert await pool.fetchval("select count(*) from syncd.opt_out where lifted_at is null") == 0

    await ends_by_a_signal(examples["run"], b"serving", 0, env, tmp_path)
    line = examples["sandbox"].replace("8800", str(free_ports(5)))
    await ends_by_a_signal(line, b"clevertap", 143, env, tmp_path)


async def ends_by_a_signal(
    line: str, says: bytes, code: int, env: Mapping[str, str], folder: Path
) -> None:
    process = await shell(f"exec {line}", env, folder)
    said = b""

    async def listen(stream: asyncio.StreamReader) -> None:
        nonlocal said
        while says not in said:
            part = await stream.read(1000)
            assert part, said
            said += part

    tasks = [asyncio.create_task(listen(one)) for one in (process.stdout, process.stderr)]
    await asyncio.wait(tasks, timeout=180, return_when=asyncio.FIRST_COMPLETED)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert says in said, said
    process.send_signal(signal.SIGTERM)
    assert (await done(process)).code == code


# ── Completion ──────────────────────────────────────────────────────────────────────────────


async def completed(typed: str, folder: Path) -> set[str]:
    words = shlex.split(typed) + ([""] if typed.endswith(" ") else [])
    env = environment(
        _SYNCD_COMPLETE="complete_bash", COMP_WORDS=typed, COMP_CWORD=str(len(words) - 1)
    )
    return set((await ran("syncd", env, folder)).out.split())


async def test_the_shell_completes_commands_and_options(tmp_path: Path) -> None:
    assert await completed("syncd re", tmp_path) == {"rejected", "remove", "resume", "retry"}
    assert await completed("syncd secret r", tmp_path) == {"remove", "rotate"}
    assert "--dry-run" in await completed("syncd apply --d", tmp_path)
    script = 'eval "$(syncd --show-completion)" && complete -p syncd; true'
    ended = await ran(script, environment(), tmp_path)
    assert "_syncd_completion" in ended.out, ended


LOADED = {
    "bash": "complete -p syncd",
    "zsh": 'autoload -U compinit && compinit -u -d "$HOME/dump" && print -r -- $_comps[syncd]',
    "fish": "complete --command syncd",
}
"""By shell: what shows that the script it was given is what completes."""


@pytest.mark.parametrize("shell", LOADED)
async def test_a_shell_that_is_here_loads_its_script(shell: str, tmp_path: Path) -> None:
    """The generated script is for that shell; where the shell is, it takes it."""
    env = environment(_SYNCD_COMPLETE=f"source_{shell}", HOME=str(tmp_path))
    script = await ran("syncd", env, tmp_path)
    assert f"complete_{shell}" in script.out, script
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    file = tmp_path / "completion"
    file.write_text(script.out, "utf-8")
    words = {
        "bash": f". {file} && {LOADED[shell]}",
        "zsh": f"{LOADED['zsh'].rpartition(' && ')[0]} && . {file} && print -r -- $_comps[syncd]",
        "fish": f"source {file}; and {LOADED[shell]}",
    }[shell]
    process = await asyncio.create_subprocess_exec(
        shell, "-c", words, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
        env={**environment(), "HOME": str(tmp_path)},
    )  # fmt: skip
    out, _ = await asyncio.wait_for(process.communicate(), 180)
    assert process.returncode == 0, out
    assert "_syncd_completion" in out.decode() or "complete_fish" in out.decode(), out


async def test_the_shell_completes_names_of_destinations(pool: Any, database: str) -> None:
    """From the rows; silently nothing where no database answers."""
    await pool.execute(
        "insert into syncd.destination (name, provider)"
        " values ('shop', 'clevertap'), ('shelf', 'redcappi'), ('news', 'copernica')"
    )

    async def names(typed: str, url: str) -> tuple[set[str], str]:
        words = shlex.split(typed) + ([""] if typed.endswith(" ") else [])
        env = environment(
            url, _SYNCD_COMPLETE="complete_bash", COMP_WORDS=typed, COMP_CWORD=str(len(words) - 1)
        )
        ended = await syncd(env=env)
        return set(ended.out.split()), ended.err

    assert await names("syncd status sh", database) == ({"shop", "shelf"}, "")
    assert await names("syncd status shop sh", database) == ({"shelf"}, "")
    assert await names("syncd remove n", database) == ({"news"}, "")
    assert await names("syncd status sh", "postgresql://nobody@127.0.0.1:1/none") == (set(), "")
    assert await names("syncd status sh", "embedded:") == (set(), "")
