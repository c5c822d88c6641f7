"""The sandbox as a process of its own, reached over HTTP only."""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import aiohttp
import orjson
from cmdline import free_ports
from service import until

from syncd.sandbox import PROVIDERS


class Box:
    """One stand-in of the running sandbox."""

    def __init__(self, session: aiohttp.ClientSession, url: str, credential: Mapping[str, str]):
        self._session, self.url, self.credential = session, url, credential

    async def get(self, path: str) -> Any:
        async with self._session.get(self.url + path) as answer:
            return orjson.loads(await answer.read())

    async def post(self, path: str, **body: Any) -> bool:
        """Whether it was done; an app refuses a deed about somebody who is not there."""
        async with self._session.post(self.url + path, data=orjson.dumps(body)) as answer:
            told = orjson.loads(await answer.read())
            if path != "/_act":
                assert answer.status == 200, told
            return answer.status == 200

    async def there(self) -> bool:
        try:
            return "provider" in await self.get("/_state?profiles=0")
        except aiohttp.ClientError:
            return False


@contextlib.asynccontextmanager
async def sandbox(folder: Path) -> AsyncIterator[dict[str, Box]]:
    """Serve all five until the block ends; the stand-ins by their names."""
    port = free_ports(len(PROVIDERS))
    environ = {k: v for k, v in os.environ.items() if not k.startswith(("SYNCD_", "PG"))}
    with (folder / "sandbox.out").open("wb") as out, (folder / "sandbox.err").open("wb") as err:
        process = subprocess.Popen(
            [sys.executable, "-m", "syncd", "sandbox", "--port", str(port), "--json"],
            stdin=subprocess.DEVNULL, stdout=out, stderr=err, env=environ, cwd=folder,
        )  # fmt: skip
    try:
        async with aiohttp.ClientSession() as session:
            yield await _boxes(session, folder / "sandbox.out", process)
    finally:
        process.terminate()
        await asyncio.to_thread(process.wait)


async def _boxes(
    session: aiohttp.ClientSession, out: Path, process: subprocess.Popen[bytes]
) -> dict[str, Box]:
    def told() -> list[bytes] | None:
        assert process.poll() is None, "the sandbox has ended"
        lines = out.read_bytes().splitlines()
        return lines if len(lines) == len(PROVIDERS) else None

    lines = [orjson.loads(line) for line in await until(told, "the sandbox's addresses", 300)]
    return {one["provider"]: Box(session, one["url"], one["credential"]) for one in lines}
