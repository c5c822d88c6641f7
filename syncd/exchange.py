"""One HTTP/1.1 exchange: request out, answer in, over connections that are kept alive.

aiohttp's connections and its parser are used without its client session, which makes objects for
redirects, cookies, uploads and middlewares that are never wanted: three times the processor time
of a request. Nothing here, and nothing below it, sends a request twice.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from typing import Any, Self

import aiohttp
from aiohttp.http_exceptions import HttpProcessingError
from yarl import URL

from syncd.errors import ConfigError

FAULTS = (aiohttp.ClientError, HttpProcessingError, TimeoutError, OSError)
"""What `exchange` raises where no (whole) answer came."""
UNSENT = (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError)
"""Of them: nothing had left."""

_CONNECT_SHARE = 0.75  # of the timeout: connecting must fail first, so that "unsent" is certain
# Apache drops an idle connection after 5 s; a write that meets the drop would be Ambiguous.
_KEEP_ALIVE = 4.0
_LINE = 65_536  # bytes of a line of an answer's head
_BREAKS = re.compile(r"[\r\n\0]")
_BODILESS = frozenset({"GET", "HEAD", "OPTIONS", "TRACE"})
_UNPACKED = "gzip, deflate"  # what aiohttp's parser always unpacks


class TooLarge(Exception):
    """The answer is larger than was allowed; its status."""

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


class Peer:
    """An origin that requests go to. Its connections are its own: no request goes elsewhere."""

    def __init__(self, origin: URL, agent: str) -> None:
        try:
            self.where = aiohttp.ClientRequest("GET", origin, loop=asyncio.get_running_loop())
            self.where.connection_key.host  # noqa: B018
        except (TypeError, AttributeError) as error:
            raise unusable() from error
        port = "" if origin.is_default_port() else f":{origin.explicit_port}"
        host = origin.host_subcomponent
        self.head = (
            f"Host: {host}{port}\r\nUser-Agent: {agent}\r\nAccept: */*\r\n"
            f"Accept-Encoding: {_UNPACKED}\r\n"
        )


class Exchanges:
    """Connections to the peers of one destination; open it with `async with`.

    timeout: seconds from the first byte sent, or the wait for a connection, to the whole answer.
    cap: bytes of an answer, unpacked. connections: most at a time; who is beyond them waits.
    """

    def __init__(self, *, timeout: float, cap: int, connections: int) -> None:
        self._timeout, self._cap, self._connections = timeout, cap, connections
        self._connecting = aiohttp.ClientTimeout(connect=timeout * _CONNECT_SHARE)
        self.connector: aiohttp.TCPConnector | None = None

    async def __aenter__(self) -> Self:
        self.connector = aiohttp.TCPConnector(
            limit=self._connections, keepalive_timeout=_KEEP_ALIVE
        )
        self._loop = asyncio.get_running_loop()
        return self

    async def __aexit__(self, *exc: object) -> None:
        if self.connector is not None:
            await self.connector.close()
            self.connector = None

    async def exchange(
        self, peer: Peer, method: str, target: str, headers: Mapping[str, str], body: bytes
    ) -> tuple[int, dict[str, str], bytes]:
        """Send once; return status, headers (names in lower case; of a name that came twice both
        values, joined by ', ') and body. Raises one of FAULTS, or TooLarge."""
        if self.connector is None:
            raise RuntimeError("the wire is not open")
        head = _head(peer, method, target, headers, len(body))
        began = self._loop.time()
        try:
            connection = await self.connector.connect(peer.where, [], self._connecting)
        except TimeoutError:
            raise aiohttp.ConnectionTimeoutError from None
        transport, protocol = connection.transport, connection.protocol
        if transport is None or protocol is None:
            connection.close()
            raise aiohttp.ClientConnectionResetError("the connection was lost before it was used")
        late = _Late(transport)
        timer = self._loop.call_at(began + self._timeout, late.strike)
        reusable = False
        try:
            protocol.set_response_params(
                skip_payload=method == "HEAD",
                read_until_eof=True,
                max_line_size=_LINE,
                max_field_size=_LINE,
            )
            transport.write(head + body if len(body) < _LINE else head)
            if len(body) >= _LINE:
                transport.write(body)
            answer = await self._answer(protocol)
            if late.struck:  # a body of no told length ends with its connection, by our cut too
                raise TimeoutError
            reusable = not transport.get_write_buffer_size()  # it may answer before it has read all
            return answer
        except FAULTS:
            if late.struck:
                raise TimeoutError from None
            raise
        finally:
            timer.cancel()
            if reusable:
                connection.release()
            else:
                connection.close()

    async def _answer(self, protocol: Any) -> tuple[int, dict[str, str], bytes]:
        message, payload = await protocol.read()
        while 100 <= message.code < 200 and message.code != 101:
            message, payload = await protocol.read()
        size = int(message.headers.get("Content-Length") or 0)
        parts: list[bytes] = []
        if size <= self._cap:
            size = 0
            while size <= self._cap and (part := await payload.readany()):
                parts.append(part)
                size += len(part)
        if size > self._cap:
            raise TooLarge(message.code)
        body = parts[0] if len(parts) == 1 else b"".join(parts)
        return message.code, _folded(message.headers), body


class _Late:
    """Cuts a connection whose answer takes too long."""

    __slots__ = ("struck", "transport")

    def __init__(self, transport: asyncio.Transport) -> None:
        self.transport, self.struck = transport, False

    def strike(self) -> None:
        self.struck = True
        self.transport.abort()


def unusable() -> ConfigError:
    """Starting fails loudly where aiohttp has changed what is used of it here."""
    return ConfigError(
        f"aiohttp {aiohttp.__version__} cannot be used; "
        "install the version that syncd was released with"
    )


def _head(peer: Peer, method: str, target: str, headers: Mapping[str, str], size: int) -> bytes:
    lines = "".join([f"{name}: {value}\r\n" for name, value in headers.items()])
    if lines.count("\r\n") != len(headers) or _BREAKS.search(lines.replace("\r\n", "")):
        raise ValueError("a header would break the request")
    if size or method not in _BODILESS:
        lines += f"Content-Length: {size}\r\n"
    return f"{method} {target} HTTP/1.1\r\n{peer.head}{lines}\r\n".encode()


def _folded(headers: Mapping[str, str]) -> dict[str, str]:
    folded: dict[str, str] = {}
    for name, value in headers.items():
        name = name.lower()
        folded[name] = f"{folded[name]}, {value}" if name in folded else value
    return folded
