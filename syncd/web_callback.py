"""Where the browser comes back to: one path of this machine, for one answer."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aiohttp import web

from syncd.callback import WHAT_NEXT, Attempt, answer_in
from syncd.errors import ConfigError, Refused

HOST, PORT = "127.0.0.1", 8765
SAFE = {"Cache-Control": "no-store", "Referrer-Policy": "no-referrer"}


class Listener:
    """Takes the browser's way back on this machine: one path, one answer."""

    def __init__(self, path: str, port: int, wait: float) -> None:
        self.path, self.port, self._wait = path, port, wait
        self._attempt: Attempt | None = None
        self._came: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    async def code(self, attempt: Attempt) -> str:
        """Wait for the browser. Refused where nobody comes back in time."""
        self._attempt = attempt
        try:
            async with asyncio.timeout(self._wait):
                return await self._came
        except TimeoutError:
            attempt.is_open = False
        raise Refused(f"nobody came back within {self._wait:g} s; {WHAT_NEXT}")

    async def take(self, request: web.Request) -> web.Response:
        """Answer one request; only one that brings an answer counts."""
        if request.path != self.path or request.method != "GET":
            return _page(404, "There is nothing here.")
        if self._attempt is None or not answer_in(request.raw_path):
            return _page(400, "This is no answer to an authorization.")
        if not self._attempt.is_open:
            return _page(410, "This attempt has had its answer already.")
        try:
            self._came.set_result(self._attempt.code(request.raw_path))
        except Refused as error:
            self._came.set_exception(error)
            return _page(400, f"Not authorized: {error.reason}.")
        return _page(200, "syncd has its answer. What becomes of it is told where it was started.")


def _page(status: int, text: str) -> web.Response:
    return web.Response(status=status, text=text + "\n", headers=SAFE)


@asynccontextmanager
async def listening(path: str, port: int, wait: float) -> AsyncIterator[Listener]:
    """Listen on this machine only; ConfigError where the port is not to be had."""
    application = web.Application()
    runner = web.AppRunner(application, access_log=None, shutdown_timeout=1.0)
    listener = Listener(path, port, wait)
    application.router.add_route("*", "/{path:.*}", listener.take)
    await runner.setup()
    try:
        try:
            await web.TCPSite(runner, HOST, port).start()
        except OSError as error:
            if error.errno not in (errno.EADDRINUSE, errno.EACCES):
                raise
            raise ConfigError(
                f"port {port} of {HOST}: {error.strerror}: choose another --port, or use --paste"
            ) from None
        listener.port = runner.addresses[0][1]
        yield listener
    finally:
        await runner.cleanup()
