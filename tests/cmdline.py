"""Run `syncd` as a user does: a process of its own, its output and exit code."""

from __future__ import annotations

import asyncio
import os
import random
import re
import signal
import socket
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

import leaks
import orjson
from clusters import fronted

from syncd.sandbox import Handle

PLAIN = {"SYNCD_POLL_SECONDS": "0.05", "SYNCD_CONTROL_POLL_SECONDS": "0.2", "COLUMNS": "200"}


class Done(NamedTuple):
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """The last line of standard output."""
        return orjson.loads(self.out.splitlines()[-1])


def free_ports(number: int) -> int:
    """The first of so many ports in a row that nobody listens at."""
    for _ in range(100):
        first = random.randrange(20000, 32000)
        with ExitStack() as held:
            try:
                for port in range(first, first + number):
                    held.enter_context(socket.socket()).bind(("127.0.0.1", port))
            except OSError:
                continue
            return first
    raise OSError(f"no {number} free ports in a row")


def environment(url: str = "", **more: str) -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("SYNCD_", "PG"))}
    return {**kept, **PLAIN, "SYNCD_DATABASE_URL": fronted(url), **more}


def secret(sandbox: Handle, name: str = "marketing") -> Mapping[str, str]:
    return {f"SYNCD_SECRET_{name.upper()}": orjson.dumps(sandbox.state.demo).decode()}


USUAL = (sys.executable, "-W", "error")


async def start(
    *args: str, env: Mapping[str, str], cwd: Path | None = None, under: Sequence[str] = USUAL
) -> Any:
    leaks.secrets_in(env)
    return await asyncio.create_subprocess_exec(
        *under, "-m", "syncd", *args,
        env=env, cwd=cwd, stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        preexec_fn=_interruptible,
    )  # fmt: skip


def _interruptible() -> None:
    """A suite that runs in the background of a shell ignores SIGINT, and hands that on."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


async def done(process: Any) -> Done:
    out, err = await asyncio.wait_for(process.communicate(), 120)
    leaks.check((out + err).decode(), leaks.met, "a process")
    return Done(process.returncode, out.decode(), err.decode())


async def syncd(*args: str, env: Mapping[str, str], cwd: Path | None = None) -> Done:
    return await done(await start(*args, env=env, cwd=cwd))


@asynccontextmanager
async def daemon(env: Mapping[str, str]) -> AsyncIterator[Any]:
    """`syncd run` until the block ends; SIGTERM must then end it with 0."""
    process = await start("run", env=env)
    try:
        yield process
    finally:
        if process.returncode is None:
            process.send_signal(signal.SIGTERM)
        ended = await done(process)
        assert ended.code == 0, ended.err


CONFIG = Path(__file__).resolve().parent.parent / "config"


async def apply_example(url: str, sandbox: Handle, folder: Path) -> Done:
    """Apply the annotated destination as it stands, but for the port, which must be free here."""
    provider = sandbox.state.provider
    file = folder / f"{provider}.toml"
    text, n = re.subn(
        r"http://127\.0\.0\.1:880\d", sandbox.url, (CONFIG / file.name).read_text("utf-8")
    )
    assert n, "it points at the sandbox"
    file.write_text(text, "utf-8")
    ended = await syncd("apply", str(file), "--json", env=environment(url))
    assert ended.code == 0, ended.err
    return ended
