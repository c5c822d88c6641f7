"""Strict local stand-ins of the providers: rehearse and test on one's own machine.

    async with serve("clevertap") as sandbox:
        ...  # point an adapter at sandbox.url
        assert sandbox.state.ledger.violations == []

Written from the providers' references, never from our adapters. A stand-in is one module
here named after its provider, ending with `STAND_IN = <class>`; nothing else lists it.
"""

from __future__ import annotations

import asyncio
import importlib
import importlib.util
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import orjson
from aiohttp import web

from syncd.sandbox.faults import Kind
from syncd.sandbox.server import application
from syncd.sandbox.standin import StandIn

PROVIDERS = ("clevercampaign", "clevertap", "constantcontact", "copernica", "redcappi")

__all__ = ["PROVIDERS", "Handle", "available", "run", "serve"]


class Handle:
    """A running stand-in, reachable over HTTP and, through `state`, directly."""

    def __init__(self, stand_in: StandIn, host: str, port: int) -> None:
        self.state: Any = stand_in
        self.port = port
        self.url = f"http://{host}:{port}"

    def set_faults(self, **faults: Any) -> None:
        """As POST /_faults: replaces all faults."""
        self.state.faults.set(faults)

    def next_fault(self, kind: Kind, times: int = 1, path: str | None = None, **more: Any) -> None:
        """Queue an exact fault for the next *times* requests; more: method, status, retry_after."""
        self.state.faults.push(kind, times, path, **more)

    def set_limits(self, **limits: Any) -> None:
        """As POST /_limits: changes those named."""
        self.state.set_limits(limits)

    def reset(self, *, faults: bool = False, limits: bool = False) -> None:
        """As POST /_reset: forgets data and counts, on request faults and limits."""
        self.state.reset(faults, limits)

    def act(self, do: str, **facts: Any) -> dict[str, Any]:
        """As POST /_act: a person does something in the provider's app."""
        done: dict[str, Any] = self.state.act({"do": do, **facts})
        return done

    def snapshot(self) -> dict[str, Any]:
        """As GET /_state, after the same trip through JSON."""
        state: dict[str, Any] = orjson.loads(
            orjson.dumps(self.state.snapshot(), option=orjson.OPT_NON_STR_KEYS)
        )
        return state


def available() -> tuple[str, ...]:
    """The providers that have a stand-in, in alphabetical order."""
    return tuple(
        name for name in PROVIDERS if importlib.util.find_spec(f"{__name__}.{name}") is not None
    )


@asynccontextmanager
async def serve(
    provider: str, port: int = 0, host: str = "127.0.0.1", **options: Any
) -> AsyncIterator[Handle]:
    """Serve one stand-in until the block ends; port 0 picks a free one.

    *options* are the stand-in's limits, as in POST /_limits.
    """
    if provider not in available():
        raise ValueError(f"no sandbox for {provider!r}; there is one for {', '.join(available())}")
    stand_in: StandIn = importlib.import_module(f"{__name__}.{provider}").STAND_IN(**options)
    runner = web.AppRunner(application(stand_in), access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    try:
        try:
            await web.TCPSite(runner, host, port).start()
        except OSError as err:
            raise OSError(err.errno, f"{provider} sandbox: port {port} of {host}: {err}") from err
        yield Handle(stand_in, host, runner.addresses[0][1])
    finally:
        await runner.cleanup()


async def run(port: int = 8800, host: str = "127.0.0.1", as_json: bool = False) -> None:
    """Serve every stand-in, each on *port* plus its place among all five, until cancelled."""
    async with AsyncExitStack() as stack:
        for name in available():
            handle = await stack.enter_async_context(
                serve(name, port + PROVIDERS.index(name), host)
            )
            demo = orjson.dumps(handle.state.demo).decode()
            line = f"{name:16} {handle.url}  credential {demo}"
            if as_json:
                told = {"provider": name, "url": handle.url, "credential": handle.state.demo}
                line = orjson.dumps(told).decode()
            sys.stdout.write(line + "\n")
            sys.stdout.flush()
        await asyncio.Event().wait()
