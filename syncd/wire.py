"""The way out: the connections of a destination; metered, signed, one attempt, typed failures.

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
from dataclasses import replace
from typing import Any, Protocol, Self

import aiohttp
from yarl import URL

from syncd import __version__
from syncd.errors import (
    Ambiguous,
    ConfigError,
    OverQuota,
    ProviderError,
    Refused,
    Transient,
    Unintelligible,
)
from syncd.exchange import FAULTS, UNSENT, Exchanges, Peer, TooLarge
from syncd.model import Answer, Request
from syncd.observer import NOBODY, Observer
from syncd.providers import Completes, Exchange, Handshakes, Pass, Provider, Signer
from syncd.redact import excerpt, redacted, secrets_of, shown_path
from syncd.settings import is_loopback
from syncd.verdict import by_status, only_reads, retry_after

CAP = 64 * 2**20
_AGENT = f"syncd/{__version__}"
_KINDS = tuple(f"{n}xx" for n in range(10))
_TARGET = re.compile(r"/[!\"$-~]*")  # visible ASCII without '#': anything else breaks the line


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
        observer: Observer = NOBODY,
    ) -> None:
        self._provider, self._options = provider, options
        self._credential, self._permits = credential, permits
        self._timeout, self._cap = timeout, cap
        self._base = URL()
        self.exchanges = Exchanges(timeout=timeout, cap=cap, connections=connections)
        self._peers: dict[URL, Peer] = {}
        self._pass: tuple[Any, Pass] | None = None  # and the credential that it was given for
        self._passing = asyncio.Lock()
        self._signer = provider.signer() if isinstance(provider, Handshakes) else None
        self._completes = provider if isinstance(provider, Completes) else None
        self._exchange_for = getattr(provider, "exchange", None)
        self._opening = asyncio.Lock()  # one challenge serves all who wait for the first
        self.requests: Counter[tuple[str, str]] = Counter()
        self._observer = observer

    async def __aenter__(self) -> Self:
        self._base = checked_base(self._provider.base_url(self._options), self._options.allow_http)
        self._prefix = self._base.raw_path.rstrip("/")
        await self.exchanges.__aenter__()
        self._peer = self._peer_at(self._base)
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.exchanges.__aexit__(*exc)

    def _peer_at(self, url: URL) -> Peer:
        """The origin of *url*; the base's is the only one that credentials are sent to."""
        origin = url.origin()
        if origin not in self._peers:
            self._peers[origin] = Peer(origin, _AGENT)
        return self._peers[origin]

    async def send(self, request: Request) -> Answer:
        """Send once; return what `judge` let through. Raises as `Wire.send` says."""
        checked_target(request, request)
        key, is_old = await self._key(request.meter)
        answer, fault = await self._tried(request, key)
        if isinstance(fault, Refused) and is_old:  # a pass may end early; nothing was done
            self._pass = None
            key, _ = await self._key(request.meter)
            answer, fault = await self._tried(request, key)
        if fault is not None:
            await self._hold_off(request, fault)
            raise fault
        return answer

    async def _tried(self, request: Request, key: Any) -> tuple[Answer, ProviderError | None]:
        sent = self._completed(request, key)
        if self._signer is not None:
            answer = await self._answered_challenge(self._signer, sent, key, request)
        else:
            async with self._permits.permit(request.meter):
                answer = await self._exchanged(sent, key, request)
        return answer, self._fault(request, answer, key)

    async def _key(self, meter: str) -> tuple[Any, bool]:
        """What signs requests; and whether it is a pass that an earlier request had, too."""
        credential = self._credential()
        if self._exchange_for is None:
            return credential, False
        asks: Exchange | None = self._exchange_for(self._options, credential)
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
            peer, target = self._peer_at(url), url.raw_path_qs
            answer = await self._sent(peer, target, request.headers, request, request)
        if fault := by_status(request, answer, "the credential was not exchanged"):
            fault.after, fault.status = retry_after(answer.headers), answer.status
            raise fault
        key: tuple[Any, float] = asks.read(answer)
        return key

    def _completed(self, request: Request, key: Any) -> Request:
        """With all that only the key and the base address know: a secret that travels in the
        address is in this form of it alone, which nobody is shown."""
        sent = request
        if self._completes is not None:
            sent = self._completes.complete(key, request)
            checked_target(sent, request)
        return replace(sent, target=self._prefix + sent.target) if self._prefix else sent

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
            sent = self._completed(opening, key)
            answer = await self._exchanged(sent, key, opening)
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
            return signature, await self._exchanged(signed, key, named)

    async def _hold_off(self, request: Request, fault: ProviderError) -> None:
        """A quota is the account's: whoever shares it waits, where the permits can tell them."""
        hold_off = getattr(self._permits, "hold_off", None)
        if isinstance(fault, OverQuota) and fault.after and hold_off is not None:
            await hold_off(request.meter, fault.after)

    async def _exchanged(self, request: Request, key: Any, named: Request) -> Answer:
        """Signed at the last moment, for the configured origin, and sent there.

        named: what faults call it, without what only the credential knows.
        """
        signed = self._provider.sign(key, request)
        headers = _over(request.headers, signed)
        return await self._sent(self._peer, request.target, headers, request, named)

    async def _sent(
        self, peer: Peer, target: str, headers: Mapping[str, str], request: Request, named: Request
    ) -> Answer:
        """The one round trip. Faults are raised outside `except`: causes name whole addresses."""
        began = time.monotonic()
        try:
            status, told, body = await self.exchanges.exchange(
                peer, request.method, target, headers, request.body
            )
        except FAULTS as err:
            fault = self._lost(named, err, began)
        except TooLarge as err:
            self._count(request, _KINDS[err.status // 100], began)
            reason = f"{_name(named)}: the answer is larger than {self._cap} bytes"
            fault = Unintelligible(reason, status=err.status)
        else:
            self._count(request, _KINDS[status // 100], began)
            return Answer(status, told, body)
        raise fault

    def _count(self, request: Request, outcome: str, began: float) -> None:
        self.requests[request.meter, outcome] += 1
        self._observer.requested(request.meter, outcome, time.monotonic() - began)

    def _lost(self, request: Request, err: Exception, began: float) -> ProviderError:
        """No (whole) answer: Transient where nothing was or could be done, else Ambiguous."""
        unsent = isinstance(err, UNSENT)
        self._count(request, "unsent" if unsent else "lost", began)
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
        if verdict is None and 200 <= answer.status < 300:
            return None
        secrets = secrets_of(key)
        fault = verdict or by_status(request, answer, excerpt(answer.body, secrets))
        if fault is None:
            return None
        said = redacted(fault.reason, secrets)
        fault.reason = f"{_name(request)} answered {answer.status}: {said}".rstrip(": ")
        fault.args = (fault.reason,)
        fault.status = answer.status if fault.status is None else fault.status
        fault.after = max(fault.after, retry_after(answer.headers))
        return fault


def checked_target(sent: Request, named: Request) -> None:
    """Refuse a target that would break the request's first line; the fault shows *named*."""
    if not _TARGET.fullmatch(sent.target):
        raise ValueError(f"not a request target: {shown_path(named.target)!r}")


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
    if url.scheme == "http" and not (allow_http or is_loopback(url.host)):
        raise ConfigError(
            f"{name}: plain http to {url.host} would show the credentials to anybody "
            "on the way; use https, or set allow_http"
        )
    return url


def _name(request: Request) -> str:
    return f"{request.method} {shown_path(request.target)}"


def _over(headers: Mapping[str, str], signed: Mapping[str, str]) -> Mapping[str, str]:
    """The request's headers with the signature's in place of any of the same name."""
    if not headers:
        return signed
    names = {name.lower() for name in signed}
    return {n: value for n, value in headers.items() if n.lower() not in names} | dict(signed)
