"""What the wire costs over bare aiohttp: `PYTHONPATH=. python tests/perf_wire.py [requests bytes]`.

The server is a process of its own; processor time of this one is measured, best of five rounds.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from subprocess import PIPE, Popen
from typing import cast

import aiohttp
from test_wire import Echo, Key

from syncd.model import Request
from syncd.providers import Options, Provider
from syncd.wire import HttpWire

SERVER = """
import asyncio
answer = b'{"status":"success","processed":1,"unprocessed":[]}'
head = b"HTTP/1.1 200 OK\\r\\nContent-Type: application/json\\r\\nContent-Length: %d\\r\\n\\r\\n"
class Peer(asyncio.Protocol):
    def connection_made(self, transport):
        self.transport, self.due = transport, 0
    def data_received(self, data):
        if not self.due:
            i = data.index(b"\\r\\n\\r\\n")
            length = data.lower().index(b"content-length:") + 15
            self.due = int(data[length:data.index(b"\\r", length)]) + i + 4
        self.due -= len(data)
        if not self.due:
            self.transport.write(head % len(answer) + answer)
async def main():
    server = await asyncio.get_running_loop().create_server(Peer, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()
asyncio.run(main())
"""


class Free:
    """Permits that cost nothing: what they do is measured elsewhere."""

    @asynccontextmanager
    async def permit(self, meter: str) -> AsyncIterator[None]:
        yield


async def cost(count: int, once: Callable[[], Awaitable[object]]) -> float:
    """Microseconds of processor time a request."""
    started = time.process_time()
    for _ in range(count):
        await once()
    return (time.process_time() - started) / count * 1e6


async def main(count: int, size: int) -> None:
    body = b"x" * size
    Echo.signed = cast("list[Request]", type("Sink", (), {"append": lambda self, one: None})())
    with Popen([sys.executable, "-c", SERVER], stdout=PIPE) as server:
        assert server.stdout is not None
        base = f"http://127.0.0.1:{int(server.stdout.readline())}"
        options, provider = Options(base_url=base), cast("type[Provider]", Echo)
        key, headers = Key(), {"X-Key": Key().key, "Content-Type": "application/json"}
        async with (
            aiohttp.ClientSession() as session,
            HttpWire(provider, options, lambda: key, Free()) as wire,
        ):

            async def bare() -> bytes:
                async with session.post(f"{base}/1/upload", data=body, headers=headers) as got:
                    return await got.read()

            rounds = [
                (
                    await cost(count, bare),
                    await cost(count, lambda: wire.send(Request("POST", "/1/upload", body))),
                )
                for _ in range(5)
            ]
        server.terminate()
    plain, wired = (min(column) for column in zip(*rounds, strict=True))
    print(f"bare {plain:.0f} µs, wire {wired:.0f} µs a request: {wired / plain:.2f} x")


if __name__ == "__main__":
    asyncio.run(main(*(int(one) for one in (sys.argv[1:] or ["3000", "1000"]))))
