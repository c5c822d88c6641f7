"""The way out: one aiohttp session a destination; metered, signed, one attempt, typed failures.

Design, sections 6 ("The wire sends once") and 8 (TLS, origins, redirects, redaction). Only the
journal repeats: nothing here, and nothing below it, sends a request twice.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager
from contextvars import ContextVar
from dataclasses import replace
from io import BytesIO
from ipaddress import ip_address
from typing import Any, Protocol, Self

import aiohttp
from yarl import URL

from syncd import __version__
from syncd.errors import (
    Ambiguous,
    ConfigError,
    Misconfigured,
    OverQuota,
    ProviderError,
    Refused,
    Transient,
    Unintelligible,
)
from syncd.model import Answer, Request
from syncd.providers import Completes, Exchange, Handshakes, Pass, Provider, Signer
from syncd.redact import excerpt, redacted, secrets_of, shown_path
from syncd.verdict import by_status, only_reads, retry_after

CAP = 64 * 2**20
_CONNECT_SHARE = 0.75  # of the timeout: connecting must fail first, so that "unsent" is certain
# Apache drops an idle connection after 5 s; a write that meets the drop would be Ambiguous.
_KEEP_ALIVE = 4.0
_LONG = 2**20  # from here on aiohttp warns of raw bytes
_TARGET = re.compile(r"/[!\"$-~]*")  # visible ASCII without '#': anything else breaks the line

_sending: ContextVar[tuple[Request, Any]] = ContextVar("syncd_request_being_sent, and its key")


class Permits(Protocol):
    """Where the wire asks for leave; design, section 6, "Meters"."""

    def permit(self, meter: str) -> AbstractAsyncContextManager[None]:
        """Leave for one HTTP request; waits for it. Fenced if this worker must not send."""
        ...


class HttpWire:
    """A `Wire` over aiohttp for one destination; open it with `async with`.

    `credential` is asked at every request, so that a changed secret is taken up at once.
    `requests` counts by meter and '2xx' … '5xx', 'unsent' (never left) or 'lost' (no answer).
    """

    def __init__(
        self,
        provider: type[Provider],
        options: Any,
        credential: Callable[[], Any],
        permits: Permits,
        *,
        timeout: float = 60.0,
        cap: int = CAP,
        connections: int = 100,
    ) -> None:
        self._provider, self._options = provider, options
        self._credential, self._permits = credential, permits
        self._timeout, self._cap, self._connections = timeout, cap, connections
        self._base = URL()
        self._session: aiohttp.ClientSession | None = None
        self._pass: tuple[Any, Pass] | None = None  # and the credential that it was given for
        self._passing = asyncio.Lock()
        self._signer: Signer | None = None
        if isinstance(provider, Handshakes):
            self._signer = provider.signer()
        self._opening = asyncio.Lock()  # one challenge serves all who wait for the first
        self.requests: Counter[tuple[str, str]] = Counter()

    async def __aenter__(self) -> Self:
        self._base = checked_base(self._provider.base_url(self._options), self._options.allow_http)
        self._prefix = self._base.raw_path.rstrip("/")
        self._origin = self._base.origin()
        self._host = str(self._origin)
        self._session = self._opened()
        return self

    async def __aexit__(self, *exc: object) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None

    def _opened(self) -> aiohttp.ClientSession:
        session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=self._connections, keepalive_timeout=_KEEP_ALIVE),
            timeout=aiohttp.ClientTimeout(
                total=self._timeout, connect=self._timeout * _CONNECT_SHARE
            ),
            cookie_jar=aiohttp.DummyCookieJar(),
            headers={"User-Agent": f"syncd/{__version__}"},
            skip_auto_headers=("Content-Type",),
            middlewares=(self._signed,),
            trust_env=False,
        )
        one_attempt(session)
        return session

    async def send(self, request: Request) -> Answer:
        """Send once; return what `judge` let through. Raises as `Wire.send` says."""
        sent = self._completed(request)
        key, is_old = await self._key(request.meter)
        answer, fault = await self._tried(request, sent, key)
        if isinstance(fault, Refused) and is_old:  # a pass may end early; nothing was done
            self._pass = None
            key, _ = await self._key(request.meter)
            answer, fault = await self._tried(request, sent, key)
        if fault is not None:
            await self._hold_off(request, fault)
            raise fault
        return answer

    async def _tried(
        self, request: Request, sent: Request, key: Any
    ) -> tuple[Answer, ProviderError | None]:
        if self._signer is not None:
            answer = await self._answered_challenge(self._signer, sent, key, request)
        else:
            url = self._address(sent, key)
            async with self._permits.permit(request.meter):
                answer = await self._exchanged(sent, url, key, request)
        return answer, self._fault(request, answer, key)

    def _address(self, request: Request, key: Any) -> URL:
        """Where to, exactly as sent: a secret that travels in the address is in no other place."""
        target = request.target
        if (sign_target := getattr(self._provider, "sign_target", None)) is not None:
            target = sign_target(key, request)
            if not _TARGET.fullmatch(target):
                raise ValueError(f"not a request target: {shown_path(request.target)!r}")
        return URL(self._host + target, encoded=True)

    async def _key(self, meter: str) -> tuple[Any, bool]:
        """What signs requests; and whether it is a pass that an earlier request had, too."""
        credential = self._credential()
        exchange = getattr(self._provider, "exchange", None)
        asks = None if exchange is None else exchange(self._options, credential)
        if asks is None:
            return credential, False
        async with self._passing:
            held = self._pass
            if held is not None and held[0] == credential and time.monotonic() < held[1].until:
                return held[1].key, True
            made = await self._exchange(asks, meter)
            self._pass = credential, made
            return made.key, False

    async def _exchange(self, asks: Exchange, meter: str) -> Pass:
        """The credential for a pass, from the one other host that may see it."""
        key, seconds = await self.exchanged(asks, meter, "options.auth_url")
        return Pass(key, time.monotonic() + seconds)

    async def exchanged(self, asks: Exchange, meter: str, option: str) -> tuple[Any, float]:
        """Ask once, unsigned, what brings its own credential; returns what `asks.read` does.

        option: what a fault calls the address. A target of '/' is the address itself.
        """
        request = replace(asks.request, meter=meter, repeatable=True)
        url = checked_base(asks.base, self._options.allow_http, option)
        if request.target != "/":
            url = URL(str(url).rstrip("/") + request.target, encoded=True)
        async with self._permits.permit(meter):
            answer = await self._exchanged(request, url, None, request)
        if fault := by_status(request, answer, "the credential was not exchanged"):
            fault.after, fault.status = retry_after(answer.headers), answer.status
            raise fault
        key: tuple[Any, float] = asks.read(answer)
        return key

    def _completed(self, request: Request) -> Request:
        """With all that only the credential and the base address know."""
        if not _TARGET.fullmatch(request.target):
            raise ValueError(f"not a request target: {shown_path(request.target)!r}")
        if isinstance(self._provider, Completes):
            request = self._provider.complete(self._credential(), request)
        return replace(request, target=self._prefix + request.target)

    async def _answered_challenge(
        self, signer: Signer, sent: Request, key: Any, named: Request
    ) -> Answer:
        """Sign what the host challenges with. A challenged request was not applied: the second
        sending is the handshake's, not a repeat."""
        async with self._opening:
            if (opening := signer.opening()) is not None:
                await self._open(signer, opening, key)
        signature, answer = await self._signed_by(signer, sent, key, named)
        if signer.renewed(signature, answer):
            signature, answer = await self._signed_by(signer, sent, key, named)
            signer.renewed(signature, answer)
        return answer

    async def _open(self, signer: Signer, opening: Request, key: Any) -> None:
        async with self._permits.permit(opening.meter):
            sent = self._completed(opening)
            answer = await self._exchanged(sent, self._address(sent, key), key, opening)
        if not signer.opened(answer):
            fault = self._fault(opening, answer, key)
            said = f"{_name(opening)} answered {answer.status} instead of a challenge"
            raise fault or Unintelligible(said, status=answer.status)

    async def _signed_by(
        self, signer: Signer, sent: Request, key: Any, named: Request
    ) -> tuple[Mapping[str, str], Answer]:
        async with self._permits.permit(sent.meter):
            signature = signer.sign(key, sent)
            signed = replace(sent, headers={**sent.headers, **signature})
            url = self._address(signed, key)
            return signature, await self._exchanged(signed, url, key, named)

    async def _hold_off(self, request: Request, fault: ProviderError) -> None:
        """A quota is the account's: whoever shares it waits, where the permits can tell them."""
        hold_off = getattr(self._permits, "hold_off", None)
        if isinstance(fault, OverQuota) and fault.after and hold_off is not None:
            await hold_off(request.meter, fault.after)

    async def _exchanged(self, request: Request, url: URL, key: Any, named: Request) -> Answer:
        """The one round trip. Faults are raised outside `except`: causes name whole addresses.

        named: what faults call it, without what only the credential knows.
        """
        if self._session is None:
            raise RuntimeError("the wire is not open")
        token = _sending.set((request, key))
        try:
            async with self._session.request(
                request.method,
                url,
                data=_payload(request.body),
                headers=request.headers,
                allow_redirects=False,
            ) as response:
                answer = await self._read(named, response)
        except (aiohttp.ClientError, TimeoutError, OSError) as err:
            fault = self._lost(named, err)
        else:
            self.requests[request.meter, f"{answer.status // 100}xx"] += 1
            return answer
        finally:
            _sending.reset(token)
        raise fault

    async def _signed(
        self, outgoing: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType
    ) -> aiohttp.ClientResponse:
        """Client middleware: credentials go on last, and to the configured origin only."""
        request, key = _sending.get()
        if key is None:  # an exchange, which carries its own
            return await handler(outgoing)
        if outgoing.url.origin() != self._origin:
            raise Misconfigured("credentials are for the configured host only; nothing was sent")
        outgoing.headers.update(self._provider.sign(key, request))
        return await handler(outgoing)

    async def _read(self, request: Request, response: aiohttp.ClientResponse) -> Answer:
        parts, size = [], response.content_length or 0
        if size <= self._cap:
            size = 0
            while size <= self._cap and (part := await response.content.readany()):
                parts.append(part)
                size += len(part)
        if size > self._cap:
            response.close()
            self.requests[request.meter, f"{response.status // 100}xx"] += 1
            raise Unintelligible(
                f"{_name(request)}: the answer is larger than {self._cap} bytes",
                status=response.status,
            )
        return Answer(response.status, _folded(response.headers), b"".join(parts))

    def _lost(self, request: Request, err: Exception) -> ProviderError:
        """No (whole) answer: Transient where nothing was or could be done, else Ambiguous."""
        unsent = isinstance(err, (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError))
        self.requests[request.meter, "unsent" if unsent else "lost"] += 1
        what = "cannot connect" if unsent else "the answer was lost"
        if isinstance(err, aiohttp.ClientConnectorCertificateError):
            what = "cannot connect: the host's certificate is not trusted"
        elif isinstance(err, TimeoutError):
            what = f"{what}: nothing within {self._timeout:g} s"
        reason = f"{_name(request)}: {what} ({type(err).__name__})"
        return Transient(reason) if unsent or only_reads(request) else Ambiguous(reason)

    def _fault(self, request: Request, answer: Answer, key: Any) -> ProviderError | None:
        """What an answer means: the provider's `judge` first, then the defaults."""
        verdict = self._provider.judge(request, answer)
        if verdict == "ok":
            return None
        secrets = secrets_of(key) if verdict or answer.status >= 300 else ()
        fault = verdict or by_status(request, answer, excerpt(answer.body, secrets))
        if fault is None:
            return None
        said = redacted(fault.reason, secrets)
        fault.reason = f"{_name(request)} answered {answer.status}: {said}".rstrip(": ")
        fault.args = (fault.reason,)
        fault.status = answer.status if fault.status is None else fault.status
        fault.after = max(fault.after, retry_after(answer.headers))
        return fault


def checked_base(text: str, allow_http: bool = False, name: str = "options.base_url") -> URL:
    """The base address, or ConfigError: https anywhere, http only to this very machine."""
    try:
        url = URL(text)
    except ValueError:
        url = URL()
    if url.scheme not in {"http", "https"} or not url.host:
        raise ConfigError(f"{name}: not an http(s) address")
    if url.user is not None or url.password is not None or url.query_string or url.fragment:
        raise ConfigError(f"{name}: must not hold a user, a query or a fragment")
    if url.scheme == "http" and not (allow_http or _is_loopback(url.host)):
        raise ConfigError(
            f"{name}: plain http to {url.host} would show the credentials to anybody "
            "on the way; use https, or set allow_http"
        )
    return url


def one_attempt(session: aiohttp.ClientSession) -> None:
    """Switch off aiohttp's own repeat of GET, PUT and DELETE over a dropped connection.

    A DELETE that was applied before the cut would be executed twice. The attribute is private
    (3.14.5): should it go, starting fails loudly instead of repeating silently.
    """
    if not isinstance(getattr(session, "_retry_connection", None), bool):
        raise ConfigError(
            f"aiohttp {aiohttp.__version__} no longer lets its silent repeat be switched off; "
            "install the version that syncd was released with"
        )
    session._retry_connection = False  # noqa: SLF001


def _name(request: Request) -> str:
    return f"{request.method} {shown_path(request.target)}"


def _payload(body: bytes) -> bytes | BytesIO | None:
    """The body as aiohttp wants it: a long one in pieces, so that others get their turn."""
    return BytesIO(body) if len(body) > _LONG else body or None


def _folded(headers: Mapping[str, str]) -> dict[str, str]:
    """Header names in lower case; a name that came twice holds both values, joined by ', '."""
    folded: dict[str, str] = {}
    for name, value in headers.items():
        name = name.lower()
        folded[name] = f"{folded[name]}, {value}" if name in folded else value
    return folded


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
