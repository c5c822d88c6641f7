"""A host that is not the provider, or has gone mad: every call of every adapter is kept from it.

What the wire promises (test_wire) must be what adapters get: none has a road of its own to a host,
nor makes something else of the wire's verdict.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

import pytest
from adapters import Permits
from core import Core
from stands import stands
from test_conformance import CASES
from test_wire import read_request, self_signed

from syncd.errors import Ambiguous, Misconfigured, ProviderError, Transient, Unintelligible
from syncd.model import Can, Person, Verb, Waits
from syncd.providers import providers
from syncd.wire import HttpWire

CAP = 50_000  # bytes of an answer
PATIENCE = {"endless": 1.0}  # seconds for an answer; else as many as a slow machine may take
Speaker = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class Host:
    """A server that speaks by *how*; counts what was said to it, and what it could say."""

    def __init__(self, how: str) -> None:
        self.how, self.base, self.elsewhere = how, "", ""
        self.heard: list[bytes] = []
        self.led_astray: list[bytes] = []
        self.said = 0  # bytes of bodies that somebody took

    async def speak(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            self.heard.append(await read_request(reader))
            await getattr(self, f"_{self.how}")(writer)
        except (OSError, asyncio.IncompleteReadError):
            pass  # hung up on
        finally:
            writer.close()

    async def _endless(self, writer: asyncio.StreamWriter) -> None:
        """A body without an end, so slow that the cap is not met."""
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n\r\n")
        while True:
            writer.write(b" ")
            await writer.drain()
            await asyncio.sleep(0.05)

    async def _flood(self, writer: asyncio.StreamWriter) -> None:
        """A body without an end, as fast as it is taken."""
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        while self.said < 2**30:
            writer.write(b"2000\r\n" + b" " * 0x2000 + b"\r\n")
            await writer.drain()
            self.said += 0x2000

    async def _redirect(self, writer: asyncio.StreamWriter) -> None:
        head = f"HTTP/1.1 307 Over There\r\nLocation: {self.elsewhere}/x\r\n"
        writer.write(head.encode() + b"Content-Length: 0\r\nConnection: close\r\n\r\n")
        await writer.drain()

    async def _certificate(self, writer: asyncio.StreamWriter) -> None:
        raise AssertionError("spoken to by whoever should not trust it")

    async def astray(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.led_astray.append(await reader.read(10))
        writer.close()


@asynccontextmanager
async def hosted(how: str, folder: Path) -> AsyncIterator[Host]:
    host = Host(how)
    tls = self_signed(folder) if how == "certificate" else None
    main = await asyncio.start_server(host.speak, "127.0.0.1", 0, ssl=tls)
    other = await asyncio.start_server(host.astray, "127.0.0.1", 0)
    async with main, other:
        port = main.sockets[0].getsockname()[1]
        host.base = f"{'https' if tls else 'http'}://127.0.0.1:{port}"
        host.elsewhere = f"http://localhost:{other.sockets[0].getsockname()[1]}"
        yield host


def calls(adapter: Any, text_field: str) -> dict[str, Callable[[], Awaitable[Any]]]:
    """What the core asks of it most; each makes at least one request."""
    core, can = Core(adapter), adapter.traits.can
    person = Person("p1@x.example.org", {text_field: "Ann"}, {"news": "1"}, True)
    create = core.change("c1", person)
    update = core.change("c1", person, was=person, remote={"id": "7"}, may_create=False)
    leave = update._replace(verb=Verb.DELETE, want=None)

    async def first(pages: Any) -> Any:
        return [page async for page in pages]

    asked: dict[str, Callable[[], Awaitable[Any]]] = {
        "create": lambda: adapter.push([create]),
        "update": lambda: adapter.push([update]),
        "delete": lambda: adapter.push([leave]),
    }
    if can & Can.FIND:
        asked["find"] = lambda: adapter.find([create])
    if can & Can.LISTS:
        asked["lists"] = adapter.lists
        asked["create_list"] = lambda: adapter.create_list("News")
    if can & Can.SCAN:
        scope = "1" if adapter.traits.scans_lists else None
        asked["scan"] = lambda: first(adapter.scan(scope, None))
    if can & Can.OPT_OUT:
        asked["opt_outs"] = lambda: first(adapter.opt_outs(None))
    return asked


def asks_nobody(outcome: Any) -> bool:
    """RedCappi's edits wait for a scan of the list before anything is sent."""
    return isinstance(outcome, list) and all(isinstance(one, Waits) for one in outcome)


LOST = (Transient, Ambiguous)
EXPECTED: dict[str, tuple[type[ProviderError], ...]] = {
    "endless": LOST,
    "flood": (Unintelligible,),
    "redirect": (Misconfigured,),
    "certificate": (Transient,),
}


@pytest.mark.parametrize("how", EXPECTED)
@pytest.mark.parametrize("case", CASES, ids=lambda case: "-".join(filter(None, case)))
async def test_every_call_of_every_adapter_is_contained_and_typed(
    case: tuple[str, str], how: str, tmp_path: Path
) -> None:
    name, way = case
    kind, stand = providers()[name], stands()[name]
    key = kind.credential_model.model_validate(dict(stand.credential))
    async with stand.serving(way) as real, hosted(how, tmp_path) as host:
        known = {**real.options, "base_url": host.base}
        options = kind.options_model.model_validate(known)

        async def outcome(call: str) -> Any:
            permits = Permits(kind.meters(options))
            wire = HttpWire(
                kind, options, lambda: key, permits, timeout=PATIENCE.get(how, 25.0), cap=CAP
            )
            async with wire:
                adapter = kind(wire, options, real.findings)
                try:
                    return await asyncio.wait_for(calls(adapter, real.text_field)[call](), 120)
                except ProviderError as error:
                    return error

        asked = sorted(calls(kind(cast("Any", None), options, real.findings), real.text_field))
        told = dict(zip(asked, await asyncio.gather(*map(outcome, asked)), strict=True))

    wrong = {call: one for call, one in told.items() if not isinstance(one, EXPECTED[how])}
    assert [call for call, one in wrong.items() if not asks_nobody(one)] == []
    assert "create" not in wrong
    assert host.led_astray == []
    assert host.said <= 2**23 * len(host.heard)  # of each only what fits into a socket's buffers
    assert (host.heard == []) == (how == "certificate")
