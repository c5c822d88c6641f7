"""Credentials in the address, and credentials that are exchanged for a pass: shown to nobody."""

from __future__ import annotations

import asyncio
import traceback
from collections.abc import Mapping
from dataclasses import replace
from typing import Any
from urllib.parse import quote

import pytest
from aiohttp import web
from pydantic import SecretStr
from test_wire import Echo, Key, Permits, opened, serving

from syncd.errors import Ambiguous, Misconfigured, ProviderError, Refused, Transient
from syncd.model import Answer, Request
from syncd.providers import Exchange

TOKEN = "tok/en+with=odd&signs"
ENCODED = "tok%2Fen%2Bwith%3Dodd%26signs"


class InAddress(Echo):
    """The credential is a query parameter."""

    @classmethod
    def sign(cls, credential: Any, request: Request) -> Mapping[str, str]:
        return {}

    @classmethod
    def complete(cls, credential: Any, request: Request) -> Request:
        mark = "&" if "?" in request.target else "?"
        token = f"access_token={quote(credential.key, safe='')}"
        return replace(request, target=f"{request.target}{mark}{token}")


class PassKey(Key):
    """What was given for it."""

    jwt: SecretStr


class WithPass(Echo):
    """The credential is exchanged; a refusal is a 400 that says so."""

    auth = ""
    seconds = 60.0

    @classmethod
    def exchange(cls, options: Any, credential: Key) -> Exchange | None:
        def read(answer: Answer) -> tuple[Any, float]:
            if answer.status != 200:
                raise Refused("not exchanged")
            return PassKey(key=credential.key, jwt=SecretStr(answer.body.decode())), cls.seconds

        return Exchange(cls.auth, Request("POST", "/", f"k={credential.key}".encode()), read)

    @classmethod
    def sign(cls, credential: Any, request: Request) -> Mapping[str, str]:
        return {"Authorization": f"Bearer {credential.jwt.get_secret_value()}"}

    @classmethod
    def judge(cls, request: Request, answer: Answer) -> Any:
        return Refused(answer.body.decode()) if answer.status == 400 else None


class Office:
    """Gives passes, and takes those that are still good."""

    def __init__(self) -> None:
        self.given, self.good, self.asked = 0, set[str](), list[str]()
        self.status = 200

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self.asked.append(f"{request.method} {request.raw_path}")
        if request.path == "/auth":
            assert "Authorization" not in request.headers
            self.given += 1
            self.good.add(f"pass{self.given}")
            return web.Response(status=self.status, text=f"pass{self.given}")
        said = request.headers.get("Authorization", "").removeprefix("Bearer ")
        ok = said in self.good
        return web.Response(status=200 if ok else 400, text="fine" if ok else f"bad {said}")


async def test_the_token_is_in_the_address_that_is_sent_and_in_nothing_that_is_told(
    capsys: pytest.CaptureFixture[str],
) -> None:
    asked: list[str] = []

    async def handle(request: web.Request) -> web.StreamResponse:
        asked.append(request.raw_path)
        if request.path == "/cut":
            assert request.transport is not None
            request.transport.abort()
        there = f"https://elsewhere.test{request.raw_path}"
        status = int(request.path[1:]) if request.path[1:].isdigit() else 200
        return web.Response(status=status, headers={"Location": there}, text=request.raw_path)

    kind = type("OwnInAddress", (InAddress,), {"signed": []})
    said: list[str] = []
    key = Key(key=TOKEN)
    async with serving(handle) as base, opened(kind, base, credential=lambda: key) as wire:
        await wire.send(Request("GET", "/ok?a=1"))
        for path in ("/cut", "/301", "/303", "/401", "/404", "/429", "/500"):
            for method in ("GET", "PUT"):
                with pytest.raises(ProviderError) as caught:
                    await wire.send(Request(method, path, b"{}" if method == "PUT" else b""))
                said.append("".join(traceback.format_exception(caught.value)))
                said.append(repr(vars(caught.value)))
    assert asked[:2] == [f"/ok?a=1&access_token={ENCODED}", f"/cut?access_token={ENCODED}"]
    assert len(asked) == 15
    for text in (*said, *capsys.readouterr()):
        assert TOKEN not in text
        assert ENCODED not in text


async def test_a_target_that_a_signature_breaks_is_not_sent() -> None:
    def complete(cls: Any, credential: Any, request: Request) -> Request:
        return replace(request, target="/x\r\nY: 1")

    kind = type("Broken", (InAddress,), {"signed": [], "complete": classmethod(complete)})
    async with serving(Office().handle) as base, opened(kind, base) as wire:
        with pytest.raises(ValueError, match="not a request target"):
            await wire.send(Request("GET", "/x"))


async def test_one_pass_serves_many_requests() -> None:
    office, permits = Office(), Permits()
    async with serving(office.handle) as base:
        kind = type("OwnPass", (WithPass,), {"auth": f"{base}/auth"})
        async with opened(kind, base, permits) as wire:
            await asyncio.gather(*(wire.send(Request("GET", f"/{n}")) for n in range(5)))
    assert office.given == 1
    assert len(permits.taken) == 6  # the exchange asks for leave, too


async def test_a_pass_that_is_refused_is_got_again_once() -> None:
    office = Office()
    async with serving(office.handle) as base:
        kind = type("OwnPass", (WithPass,), {"auth": f"{base}/auth"})
        async with opened(kind, base) as wire:
            await wire.send(Request("GET", "/1"))
            office.good.clear()
            assert (await wire.send(Request("PUT", "/2", b"x"))).body == b"fine"
            assert office.given == 2
            office.good = set()
            office.status = 204  # a pass without words is none that would be taken
            with pytest.raises(Refused) as caught:
                await wire.send(Request("GET", "/3"))
            assert "pass" not in str(caught.value)
    assert office.asked.count("GET /3") == 1


async def test_a_fresh_pass_that_is_refused_is_the_credential_s_fault() -> None:
    office = Office()
    async with serving(office.handle) as base:
        kind = type("OwnPass", (WithPass,), {"auth": f"{base}/auth"})
        async with opened(kind, base) as wire:
            office.good = Nothing()
            with pytest.raises(Refused) as caught:
                await wire.send(Request("GET", "/1"))
    assert office.asked == ["POST /auth", "GET /1"]
    assert "pass1" not in repr(vars(caught.value))  # though the answer quoted it


class Nothing(set[str]):
    def add(self, one: str) -> None:
        """No pass is good."""


async def test_a_pass_runs_out_and_a_changed_credential_gets_its_own() -> None:
    office, keys = Office(), [Key(key="one-key")]
    async with serving(office.handle) as base:
        kind = type("OwnPass", (WithPass,), {"auth": f"{base}/auth", "seconds": 0.05})
        async with opened(kind, base, credential=lambda: keys[-1]) as wire:
            await wire.send(Request("GET", "/1"))
            await asyncio.sleep(0.1)
            await wire.send(Request("GET", "/2"))
            assert office.given == 2
            kind.seconds = 60.0  # type: ignore[attr-defined]
            await asyncio.sleep(0.1)
            await wire.send(Request("GET", "/3"))
            keys.append(Key(key="two-key"))
            await wire.send(Request("GET", "/4"))
            await wire.send(Request("GET", "/5"))
    assert office.given == 4


@pytest.mark.parametrize(
    ("status", "kind"), [(500, Transient), (429, Transient), (403, Refused), (302, Misconfigured)]
)
async def test_an_exchange_that_fails_leaves_the_request_unsent(
    status: int, kind: type[ProviderError]
) -> None:
    office = Office()
    office.status = status
    async with serving(office.handle) as base:
        made = type("OwnPass", (WithPass,), {"auth": f"{base}/auth"})
        async with opened(made, base) as wire:
            with pytest.raises(kind) as caught:
                await wire.send(Request("PUT", "/1", b"x"))
    assert office.asked == ["POST /auth"]
    assert not isinstance(caught.value, Ambiguous)
    assert "pass1" not in repr(vars(caught.value))
