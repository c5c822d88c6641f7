"""The wire: one attempt, typed failures, exact bytes, nothing told that must not be."""

from __future__ import annotations

import asyncio
import datetime as dt
import gzip
import ssl
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from email.utils import format_datetime
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any, Literal, cast

import aiohttp
import pytest
from aiohttp import web
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from yarl import URL

from syncd.errors import (
    Ambiguous,
    ConfigError,
    Fenced,
    Misconfigured,
    ProviderError,
    Refused,
    Transient,
    Unintelligible,
)
from syncd.model import Answer, Request
from syncd.providers import Credential, Options, Provider
from syncd.redact import excerpt, redacted, secrets_of
from syncd.verdict import retry_after
from syncd.wire import HttpWire, checked_base

SECRET = "JDG-PAS+CODE/7"
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
Speaker = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
Verdict = ProviderError | Literal["ok"] | None


class Key(Credential):
    key: str = SECRET


class Echo:
    """The least of a provider that a wire asks for."""

    verdict: Callable[[Request, Answer], Verdict] = staticmethod(lambda request, answer: None)
    signed: list[Request]

    @classmethod
    def base_url(cls, options: Options) -> str:
        return options.base_url

    @classmethod
    def sign(cls, credential: Key, request: Request) -> Mapping[str, str]:
        cls.signed.append(request)
        return {"X-Key": credential.key, "Content-Type": "application/json"}

    @classmethod
    def judge(cls, request: Request, answer: Answer) -> Verdict:
        return cls.verdict(request, answer)


class Permits:
    """Counts permits; *refuse* makes it say that the lease is over."""

    def __init__(self, refuse: bool = False) -> None:
        self.taken: list[str] = []
        self.held = 0
        self.refuse = refuse

    @asynccontextmanager
    async def permit(self, meter: str) -> AsyncIterator[None]:
        if self.refuse:
            raise Fenced("the lease is over")
        self.taken.append(meter)
        self.held += 1
        try:
            yield
        finally:
            self.held -= 1


@pytest.fixture
def echo() -> type[Echo]:
    return type("OwnEcho", (Echo,), {"signed": []})


@asynccontextmanager
async def opened(
    echo: type[Echo], base: str, permits: Permits | None = None, **settings: Any
) -> AsyncIterator[HttpWire]:
    options = Options(base_url=base, allow_http=settings.pop("allow_http", False))
    provider = cast("type[Provider]", echo)
    asked = settings.pop("credential", Key)
    async with HttpWire(provider, options, asked, permits or Permits(), **settings) as wire:
        yield wire


@asynccontextmanager
async def serving(handler: Handler, **settings: Any) -> AsyncIterator[str]:
    app = web.Application(**settings)
    app.router.add_route("*", "/{path:.*}", handler)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


@asynccontextmanager
async def speaking(speak: Speaker) -> AsyncIterator[str]:
    """A server that says exactly the bytes it wants to."""
    server = await asyncio.start_server(speak, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        await server.wait_closed()


async def read_request(reader: asyncio.StreamReader) -> bytes:
    head = await reader.readuntil(b"\r\n\r\n")
    for line in head.lower().split(b"\r\n"):
        if line.startswith(b"content-length:"):
            head += await reader.readexactly(int(line.split(b":")[1]))
    return head


def answering(
    status: int, body: bytes = b"{}", headers: Mapping[str, str] | None = None
) -> Handler:
    async def handler(request: web.Request) -> web.Response:
        await request.read()
        return web.Response(status=status, body=body, headers=headers)

    return handler


GET = Request("GET", "/1/things?email=ann%40example.org")
POST = Request("POST", "/1/things", b"{}")
QUERY = Request("POST", "/1/query", b"{}", repeatable=True)


async def outcome(echo: type[Echo], base: str, request: Request, **settings: Any) -> Any:
    """The answer, or the error instead."""
    async with opened(echo, base, **settings) as wire:
        try:
            return await wire.send(request)
        except ProviderError as err:
            return err


# ── What is sent ────────────────────────────────────────────────────────────────────────────


async def test_the_bytes_on_the_wire_are_those_that_were_asked_for(echo: type[Echo]) -> None:
    """Escapes stay as written, the signature comes last and once, nothing is added."""
    heard: list[bytes] = []

    async def speak(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heard.append(await read_request(reader))
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nX-A: 1\r\nX-A: 2\r\n\r\n{}")
        await writer.drain()
        writer.close()

    target = "/a%2fb/Lists%20%26~+(x)?cursor=ZyZj%2FwYE%3D%3D&q=jo%2Btag%40ex"
    request = Request("POST", target, '{"ä":1}'.encode(), headers={"X-Key": "weak", "X-Own": "1"})
    async with speaking(speak) as base:
        answer = await outcome(echo, f"{base}/api/", request)

    head, _, body = heard[0].partition(b"\r\n\r\n")
    lines = head.decode().split("\r\n")
    assert lines[0] == f"POST /api{target} HTTP/1.1"
    names = [line.split(":")[0].lower() for line in lines[1:]]
    assert sorted(names) == sorted(set(names))
    assert {"X-Key: " + SECRET, "X-Own: 1", "Content-Type: application/json"} <= set(lines)
    assert "cookie" not in names
    assert body == '{"ä":1}'.encode()
    assert answer.headers["x-a"] == "1, 2"
    assert echo.signed == [Request("POST", "/api" + target, request.body, request.headers)]


@pytest.mark.parametrize("size", [0, 1, 2**20, 2**20 + 1, 5_000_000])
async def test_a_body_of_any_size_arrives_whole(echo: type[Echo], size: int) -> None:
    heard: list[tuple[str, bytes]] = []

    async def handler(request: web.Request) -> web.Response:
        heard.append((request.headers["Content-Length"], await request.read()))
        return web.Response()

    body = bytes(n % 251 for n in range(size))
    async with serving(handler, client_max_size=size + 1) as base:
        await outcome(echo, base, Request("POST", "/", body))

    assert heard == [(str(size), body)]


async def test_a_connection_that_answered_before_it_had_read_all_is_not_used_again(
    echo: type[Echo],
) -> None:
    heads: list[bytes] = []

    async def speak(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heads.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(b"HTTP/1.1 400 Too long\r\nContent-Length: 2\r\n\r\n{}")
        await writer.drain()
        await leave.wait()
        writer.close()

    leave = asyncio.Event()
    async with speaking(speak) as base, opened(echo, base) as wire:
        answer = await wire.send(Request("POST", "/", bytes(30_000_000)))
        again = await wire.send(GET)
        leave.set()
        await asyncio.sleep(0.01)

    assert [answer.status, again.status, len(heads)] == [400, 400, 2]


async def test_a_changed_secret_is_taken_up_at_the_next_request(echo: type[Echo]) -> None:
    seen: list[str] = []

    async def handler(request: web.Request) -> web.Response:
        seen.append(request.headers["X-Key"])
        return web.Response()

    current = [Key(key="first")]
    async with serving(handler) as base, opened(echo, base, credential=lambda: current[0]) as wire:
        await wire.send(GET)
        current[0] = Key(key="second")
        await wire.send(GET)

    assert seen == ["first", "second"]


async def test_every_request_costs_one_permit_held_until_the_answer_is_read(
    echo: type[Echo],
) -> None:
    permits = Permits()
    held = []

    async def handler(request: web.Request) -> web.Response:
        held.append(permits.held)
        return web.Response(status=204 if request.method == "GET" else 503)

    async with serving(handler) as base, opened(echo, base, permits) as wire:
        await wire.send(Request("GET", "/", meter="read"))
        with pytest.raises(Ambiguous):
            await wire.send(Request("POST", "/", meter="upload"))

        assert wire.requests == {("read", "2xx"): 1, ("upload", "5xx"): 1}
    assert (permits.taken, held, permits.held) == (["read", "upload"], [1, 1], 0)


async def test_a_fenced_worker_sends_nothing(echo: type[Echo]) -> None:
    heard: list[str] = []

    async def handler(request: web.Request) -> web.Response:
        heard.append(request.path)
        return web.Response()

    async with serving(handler) as base, opened(echo, base, Permits(refuse=True)) as wire:
        with pytest.raises(Fenced):
            await wire.send(GET)

    assert heard == []


@pytest.mark.parametrize(
    "target", ["", "a", "//evil\r\nX: y", "/a b", "/ä", "/a#b", "/\n", "@evil"]
)
async def test_a_target_that_would_break_the_request_line_is_a_bug(
    echo: type[Echo], target: str
) -> None:
    async with opened(echo, "http://127.0.0.1:9") as wire:
        with pytest.raises(ValueError, match="target"):
            await wire.send(Request("GET", target))


# ── Exactly one attempt ─────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("method", ["DELETE", "PUT", "GET"])
async def test_a_request_that_was_applied_before_the_cut_is_not_sent_again(
    echo: type[Echo], method: str
) -> None:
    """aiohttp repeats these three by itself on a reused connection; a DELETE would happen twice."""
    applied: list[bytes] = []
    connections = 0

    async def speak(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        await read_request(reader)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")
        applied.append(await read_request(reader))
        writer.close()

    async with speaking(speak) as base, opened(echo, base) as wire:
        await wire.send(POST)
        with pytest.raises(Transient if method == "GET" else Ambiguous):
            await wire.send(Request(method, "/1/things/7"))
        await asyncio.sleep(0.05)

        assert wire.requests["default", "lost"] == 1
    assert (len(applied), connections) == (1, 1)


async def test_an_aiohttp_that_has_changed_is_refused_at_start(
    echo: type[Echo], monkeypatch: pytest.MonkeyPatch
) -> None:
    def changed(method: str, url: URL) -> None: ...

    monkeypatch.setattr(aiohttp, "ClientRequest", changed)
    with pytest.raises(ConfigError, match="released with"):
        async with opened(echo, "http://127.0.0.1:9"):
            pass


# ── What an answer means ────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("status", "read", "write"),
    [
        (302, Misconfigured, Misconfigured),
        (401, Refused, Refused),
        (403, Refused, Refused),
        (404, Misconfigured, Misconfigured),
        (405, Misconfigured, Misconfigured),
        (429, Transient, Transient),
        (500, Transient, Ambiguous),
        (503, Transient, Ambiguous),
        (200, Answer, Answer),
        (201, Answer, Answer),
        (400, Answer, Answer),
        (409, Answer, Answer),
        (422, Answer, Answer),
    ],
)
async def test_defaults(echo: type[Echo], status: int, read: type, write: type[Any]) -> None:
    async with serving(answering(status)) as base:
        for request, expected in ((GET, read), (QUERY, read), (POST, write)):
            got = await outcome(echo, base, request)
            assert (type(got), got.status) == (expected, status)


async def test_judge_decides_before_the_defaults(echo: type[Echo]) -> None:
    async with serving(answering(404, b'{"error":"gone"}')) as base:
        echo.verdict = staticmethod(fine)
        assert (await outcome(echo, base, GET)).body == b'{"error":"gone"}'

        echo.verdict = staticmethod(
            lambda request, answer: Refused(f"no ann@example.org {SECRET}", after=3)
        )
        err = await outcome(echo, base, GET)

    assert type(err) is Refused
    assert str(err) == err.reason == "GET /1/things answered 404: no <address> <secret>"
    assert (err.status, err.after) == (404, 3)


def fine(request: Request, answer: Answer) -> Verdict:
    return "ok"


def _in(seconds: float) -> str:
    then = dt.datetime.now(dt.UTC) + dt.timedelta(seconds=seconds)
    return format_datetime(then, usegmt=True)


@pytest.mark.parametrize(
    ("value", "low", "high"),
    [
        ("7", 7, 7),
        ("0.5", 0.5, 0.5),
        ("-3", 0, 0),
        ("soon", 0, 0),
        ("", 0, 0),
        ("inf", 0, 0),
        ("nan", 0, 0),
        ("99999999999", 86400, 86400),
    ],
)
def test_retry_after(value: str, low: float, high: float) -> None:
    assert low <= retry_after({"retry-after": value}) <= high


def test_retry_after_as_a_date() -> None:
    assert 40 <= retry_after({"retry-after": _in(60)}) <= 60
    assert retry_after({"retry-after": _in(-60)}) == 0


async def test_retry_after_reaches_the_error_also_a_judged_one(echo: type[Echo]) -> None:
    async with serving(answering(429, headers={"Retry-After": "11"})) as base:
        assert (await outcome(echo, base, POST)).after == 11

        echo.verdict = staticmethod(lambda request, answer: Transient("slow down", after=2))
        assert (await outcome(echo, base, POST)).after == 11


async def test_a_redirect_is_not_followed_and_only_its_host_is_named(echo: type[Echo]) -> None:
    reached: list[str] = []

    async def elsewhere(request: web.Request) -> web.Response:
        reached.append(request.path)
        return web.Response()

    async with serving(elsewhere) as other:
        port = other.rpartition(":")[2]
        location = f"http://localhost:{port}/x?access_token={SECRET}&email=ann@example.org"
        for status in (301, 302, 303, 307, 308):
            async with serving(answering(status, headers={"Location": location})) as base:
                err = await outcome(echo, base, GET)
            assert type(err) is Misconfigured
            assert "redirected to localhost; not followed" in str(err)
            assert SECRET not in str(err)
            assert "ann@" not in str(err)

    assert reached == []


@pytest.mark.parametrize("target", ["//{other}/x", "/x?@{other}", "/@{other}"])
async def test_credentials_go_to_the_configured_origin_only(echo: type[Echo], target: str) -> None:
    """Whatever the target looks like, it is a path at that host."""
    reached: list[str] = []

    async def elsewhere(request: web.Request) -> web.Response:
        reached.append(request.path)
        return web.Response()

    async with serving(answering(200)) as base, serving(elsewhere) as other:
        host = other.removeprefix("http://")
        got = await outcome(echo, base, Request("POST", target.format(other=host)))

    assert (got.status, reached) == (200, [])


@pytest.mark.parametrize("value", ["a\r\nX-Evil: 1", "a\nb", "a\0b"])
async def test_a_header_that_would_break_the_request_is_a_bug(echo: type[Echo], value: str) -> None:
    async with opened(echo, "http://127.0.0.1:9") as wire:
        with pytest.raises(ValueError, match="header"):
            await wire.send(Request("GET", "/", headers={"X-Own": value}))


# ── No answer, half an answer, too much of one ──────────────────────────────────────────────


async def test_cannot_connect_is_transient_for_a_write_too(
    echo: type[Echo], unused_port: int
) -> None:
    async with opened(echo, f"http://127.0.0.1:{unused_port}") as wire:
        with pytest.raises(Transient, match="cannot connect") as caught:
            await wire.send(POST)

        assert wire.requests == {("default", "unsent"): 1}
    assert caught.value.status is None


@pytest.fixture
async def unused_port() -> int:
    server = await asyncio.start_server(lambda r, w: None, "127.0.0.1", 0)
    port: int = server.sockets[0].getsockname()[1]
    server.close()
    await server.wait_closed()
    return port


async def test_an_unknown_host_is_transient(echo: type[Echo]) -> None:
    got = await outcome(echo, "https://no-such-host.invalid", POST)

    assert type(got) is Transient


@pytest.mark.parametrize(
    "said",
    [
        b"",
        b"HTTP/1.1 200",
        b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n{}",
        b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 4\r\n\r\nabcd",
        b"rubbish\r\n\r\n",
    ],
)
async def test_a_half_answer_leaves_a_write_in_doubt(echo: type[Echo], said: bytes) -> None:
    async def speak(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(said)
        await writer.drain()
        writer.close()

    async with speaking(speak) as base:
        for request, expected in ((GET, Transient), (QUERY, Transient), (POST, Ambiguous)):
            assert type(await outcome(echo, base, request)) is expected


@pytest.mark.parametrize(
    "said",
    [
        b"",
        b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\n\r\n{}",  # its end is the connection's
    ],
)
async def test_a_late_answer_leaves_a_write_in_doubt(echo: type[Echo], said: bytes) -> None:
    leave = asyncio.Event()

    async def speak(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(said)
        await leave.wait()
        writer.close()

    async with speaking(speak) as base:
        for request, expected in ((GET, Transient), (POST, Ambiguous)):
            err = await outcome(echo, base, request, timeout=0.2)
            assert type(err) is expected
            assert "nothing within 0.2 s" in str(err)
        leave.set()
        await asyncio.sleep(0.01)


async def test_waiting_for_a_connection_too_long_is_unsent(echo: type[Echo]) -> None:
    leave = asyncio.Event()
    heard = []

    async def speak(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heard.append(await read_request(reader))
        await leave.wait()
        writer.close()

    async with speaking(speak) as base, opened(echo, base, timeout=0.4, connections=1) as wire:
        first = asyncio.ensure_future(wire.send(POST))
        await asyncio.sleep(0.05)
        with pytest.raises(Transient):
            await wire.send(POST)
        with pytest.raises(Ambiguous):
            await first
        leave.set()
        await asyncio.sleep(0.01)

    assert len(heard) == 1


async def test_an_answer_over_the_cap_is_not_read(echo: type[Echo]) -> None:
    async def chunked(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        for _ in range(64):
            await response.write(b"x" * 4096)
        return response

    bomb = answering(200, gzip.compress(b"x" * 500_000), {"Content-Encoding": "gzip"})
    for handler in (chunked, bomb, answering(200, b"x" * 100_001)):
        async with serving(handler) as base:
            assert type(await outcome(echo, base, GET, cap=100_000)) is Unintelligible
    async with serving(answering(200, b"x" * 100_000)) as base:
        assert len((await outcome(echo, base, GET, cap=100_000)).body) == 100_000


async def test_a_compressed_answer_is_unpacked(echo: type[Echo]) -> None:
    packed = answering(200, gzip.compress(b'{"a":1}'), {"Content-Encoding": "gzip"})
    async with serving(packed) as base:
        assert (await outcome(echo, base, GET)).body == b'{"a":1}'


# ── TLS and base addresses ──────────────────────────────────────────────────────────────────


def self_signed(folder: Path) -> ssl.SSLContext:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    now = dt.datetime.now(dt.UTC)
    cert = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(IPv4Address("127.0.0.1"))]),
            critical=False,
        )
        .sign(key, hashes.SHA256())
    )
    pem = folder / "own.pem"
    pem.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        + cert.public_bytes(serialization.Encoding.PEM)
    )
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(pem)
    return context


async def test_a_self_signed_host_gets_no_request(echo: type[Echo], tmp_path: Path) -> None:
    heard: list[bytes] = []

    async def speak(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heard.append(await reader.read(100))
        writer.close()

    server = await asyncio.start_server(speak, "127.0.0.1", 0, ssl=self_signed(tmp_path))
    port = server.sockets[0].getsockname()[1]
    async with server:
        err = await outcome(echo, f"https://127.0.0.1:{port}", POST)

    assert type(err) is Transient
    assert "certificate is not trusted" in str(err)
    assert heard == []


@pytest.mark.parametrize(
    "base",
    [
        "http://api.example.org",
        "http://10.0.0.1",
        "http://127.0.0.1.example.org",
        "ftp://127.0.0.1",
        "api.example.org",
        "",
        "https://",
        "https://user:pw@api.example.org",
        "https://api.example.org/?a=1",
        "https://api.example.org/#x",
        "https://[::1",
    ],
)
async def test_a_base_address_that_would_show_credentials_is_refused(
    echo: type[Echo], base: str
) -> None:
    with pytest.raises(ConfigError, match="base_url"):
        async with opened(echo, base):
            pass


@pytest.mark.parametrize(
    "base", ["http://127.0.0.1:8800", "http://localhost", "http://[::1]:1", "https://example.org/a"]
)
def test_a_base_address_that_is_safe(base: str) -> None:
    assert str(checked_base(base)).rstrip("/") == base


def test_allow_http_allows_it() -> None:
    assert checked_base("http://proxy.lan", allow_http=True).host == "proxy.lan"


# ── What is told ────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("status", [302, 401, 404, 429, 500])
async def test_no_error_tells_an_address_or_a_secret(echo: type[Echo], status: int) -> None:
    """Neither in its text, nor in the traceback with its causes."""
    said = f"ann@example.org ann%40example.org {SECRET} JDG-PAS%2BCODE%2F7 {'x' * 500}"
    request = Request("POST", "/1/ann@example.org/x?email=ann%40example.org", said.encode())
    async with serving(answering(status, said.encode())) as base:
        err = await outcome(echo, base, request)

    text = "".join(traceback.format_exception(err)) + repr(err)
    assert "POST /1/<address>/x" in text
    for word in ("ann@", "ann%40", SECRET, "JDG-PAS", "email="):
        assert word not in text
    assert len(str(err)) < 300
    assert (err.__cause__, err.__context__) == (None, None)


async def test_no_lost_answer_tells_an_address(echo: type[Echo], unused_port: int) -> None:
    err = await outcome(echo, f"http://127.0.0.1:{unused_port}", GET)

    assert "example" not in "".join(traceback.format_exception(err))
    assert (err.__cause__, err.__context__) == (None, None)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("Email ann.lee+x@ex-ample.org is bad", "Email <address> is bad"),
        ('{"email":"zoë@exämple.org"}', '{"email":"<address>"}'),
        ("a?access_token=abc123&x=1", "a?access_token=<secret>&x=1"),
        ("Authorization: RCWS PUB:0f0f", "Authorization: <secret> PUB:0f0f"),
        ("RCWS PUB:0f0f tail", "RCWS <secret> tail"),
        ('Digest username="key%ann", realm="x"', 'Digest username=<secret>, realm="x"'),
        ("publickey: 85B0-C3", "publickey: <secret>"),
        ("X-CleverTap-Passcode: JDG-1", "X-CleverTap-Passcode: <secret>"),
        ("Account passcode incorrect", "Account passcode incorrect"),
        ("two\nlines\x00here", "two lines here"),
    ],
)
def test_redaction(text: str, shown: str) -> None:
    assert redacted(text) == shown


def test_an_excerpt_is_redacted_before_it_is_cut() -> None:
    body = b"x" * 195 + SECRET.encode() + b" ann@example.org" + b"\xff" * 9

    shown = excerpt(body, secrets_of(Key()))

    assert len(shown) == 200
    assert "JDG" not in shown


def test_redaction_of_a_long_run_takes_no_time() -> None:
    assert len(excerpt(b"a" * 10_000_000)) == 200


# ── Addresses that the credential completes, and challenges ─────────────────────────────────


class Token(Echo):
    """Its token is part of every address."""

    @classmethod
    def complete(cls, credential: Key, request: Request) -> Request:
        return replace(request, target=f"/of/user-7{request.target}&token={credential.key}")


async def test_what_the_credential_completes_is_sent_but_neither_judged_nor_shown() -> None:
    seen: list[str] = []
    judged: list[str] = []

    async def handler(request: web.Request) -> web.Response:
        seen.append(request.raw_path)
        return web.Response(status=500)

    def judge(request: Request, answer: Answer) -> Verdict:
        judged.append(request.target)
        return None

    kind = type("OwnToken", (Token,), {"signed": [], "verdict": staticmethod(judge)})
    async with serving(handler) as base, opened(kind, base) as wire:
        with pytest.raises(Transient) as told:
            await wire.send(GET)
        assert seen == [f"/of/user-7{GET.target}&token={SECRET}"]
        assert judged == [GET.target]
        assert "user-7" not in str(told.value)
    async with opened(kind, base) as wire:
        with pytest.raises(Transient, match="cannot connect") as told:
            await wire.send(GET)
        assert "user-7" not in str(told.value)


class Nonces:
    """Signs with the last number that the host gave it."""

    def __init__(self) -> None:
        self.number = ""

    def opening(self) -> Request | None:
        return None if self.number else Request("GET", "/challenge", meter="default")

    def opened(self, answer: Answer) -> bool:
        self.number = answer.headers.get("x-number", "")
        return bool(self.number)

    def sign(self, credential: Key, request: Request) -> Mapping[str, str]:
        return {"X-Number": self.number}

    def renewed(self, signature: Mapping[str, str], answer: Answer) -> bool:
        return answer.status == 401 and self.opened(answer)


async def test_a_challenge_is_answered_once_metered_and_never_asked_for_twice() -> None:
    asked: list[str] = []
    good = ["1"]

    async def handler(request: web.Request) -> web.Response:
        await request.read()
        asked.append(request.path + request.headers.get("X-Number", ""))
        fits = request.headers.get("X-Number") == good[0]
        headers = {} if good[0] == "none" else {"X-Number": good[0]}
        return web.Response(status=200 if fits else 401, headers=headers)

    kind = type("OwnNonces", (Echo,), {"signed": [], "signer": staticmethod(Nonces)})
    permits = Permits()
    async with serving(handler) as base, opened(kind, base, permits) as wire:
        await asyncio.gather(*(wire.send(GET) for _ in range(5)))
        assert asked == ["/challenge", *["/1/things1"] * 5]
        good[0] = "2"
        await wire.send(POST)
        assert asked[6:] == ["/1/things1", "/1/things2"]
        assert len(permits.taken) == len(asked)
        assert permits.held == 0
        good[0] = "none"
        with pytest.raises(Refused):
            await wire.send(GET)
        assert asked[8:] == ["/1/things2"]


async def test_a_host_that_does_not_challenge_as_it_should_gets_nothing() -> None:
    kind = type("OwnNonces", (Echo,), {"signed": [], "signer": staticmethod(Nonces)})
    async with serving(answering(200)) as base, opened(kind, base) as wire:
        with pytest.raises(Unintelligible, match="instead of a challenge"):
            await wire.send(POST)
        assert wire.requests == {("default", "2xx"): 1}
