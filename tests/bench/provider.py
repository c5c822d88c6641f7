"""A stand-in for CleverTap that is never the bottleneck: a process of its own that checks nothing.

`python provider.py` prints its port. It counts requests and records, answers in the shape of
3.1, refuses reads of profiles (so that no canary is waited for), and notes when each body with a
mark (`mark-17-`) came in: GET /_seen returns and forgets {"requests", "records", "marks"}.
"""

from __future__ import annotations

import asyncio
import os
import re
import time

import orjson
import uvloop

MARK = re.compile(rb"mark-\d+-")
_SIZE, _OFFSET = re.compile(rb"pagesize=(\d+)"), re.compile(rb"offset=(\d+)")
LATENCY = float(os.environ.get("BENCH_LATENCY", "0"))  # seconds before every answer
SMALL = 65_536  # only bodies under this are searched for marks


class Stub(asyncio.Protocol):
    """One connection. A body is counted as it comes and kept only while it is small."""

    requests = 0
    records = 0
    marks: dict[str, float] = {}  # noqa: RUF012  one process, one server
    has_list = False
    emails: list[str] = []  # noqa: RUF012

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self.transport = transport
        self.head, self.due, self.size, self.count = b"", 0, 0, 0
        self.parts: list[bytes] = []

    def data_received(self, data: bytes) -> None:
        if not self.due and not self.size:
            self.head += data
            if (end := self.head.find(b"\r\n\r\n")) < 0:
                return
            self.head, data = self.head[:end].lower(), self.head[end + 4 :]
            found = re.search(rb"content-length: *(\d+)", self.head)
            self.due = self.size = int(found[1]) if found else 0
        self.due -= len(data)
        self.parts.append(data)
        if self.due <= 0:
            self._answer(b"".join(self.parts))
            self.head, self.due, self.size, self.parts = b"", 0, 0, []

    def _answer(self, body: bytes) -> None:
        cls, now = type(self), time.monotonic()
        path = self.head.split(b" ", 2)[1]
        if path == b"/_seen":
            told = {"requests": cls.requests, "records": cls.records, "marks": cls.marks}
            cls.requests, cls.records, cls.marks = 0, 0, {}
            self._send(b"200 OK", orjson.dumps(told))
            return
        if path == b"/_reset":
            cls.has_list, cls.emails = False, []
            self._send(b"200 OK", b"{}")
            return
        cls.requests += 1
        if path.startswith((b"/v1/", b"/single")):
            self._list_call(path, body)
        elif path.startswith(b"/1/events.json"):
            more = b'"cursor":"c"' if self.head.startswith(b"post") else b'"records":[]'
            self._send(b"200 OK", b'{"status":"success",' + more + b"}")
        elif path.startswith(b"/1/profile.json"):
            self._send(b"403 Forbidden", b'{"status":"fail","error":"no reads here"}')
        else:
            n = body.count(b'"type":"profile"')
            cls.records += n
            if len(body) < SMALL:
                for mark in MARK.findall(body):
                    cls.marks.setdefault(mark.decode(), now)
            self._send(b"200 OK", b'{"status":"success","processed":%d,"unprocessed":[]}' % n)

    def _list_call(self, path: bytes, body: bytes) -> None:
        """An account with one list, whose contacts are numbered as they come in."""
        cls = type(self)
        if path == b"/single":
            self._send(b"200 OK", b'{"id":"1234567890","status":"ok"}')
        elif path.startswith(b"/v1/lists.json"):
            self._send(b"200 OK", b'{"1":"List 1"}' if cls.has_list else b"[]")
        elif path.startswith(b"/v1/lists/"):
            cls.has_list, cls.emails = True, []
            self._send(b"200 OK", b'{"code":201,"message":"List created with list-id 1"}')
        elif self.head.startswith(b"get"):
            size, offset = (int(re.search(one, path)[1]) for one in (_SIZE, _OFFSET))  # type: ignore[index]
            page = cls.emails[offset : offset + size]
            told = {str(offset + n + 1): email for n, email in enumerate(page)}
            self._send(b"200 OK", orjson.dumps(told or []))
        else:
            if path.endswith(b"/contacts/"):
                cls.emails.append(orjson.loads(body)["email_address"])
                cls.records += 1
            self._send(b"200 OK", b'{"code":201,"message":"Contact added"}')

    def _send(self, status: bytes, body: bytes) -> None:
        self._write(
            b"HTTP/1.1 %s\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s"
            % (status, len(body), body)
        )

    def _write(self, data: bytes) -> None:
        if LATENCY:
            asyncio.get_running_loop().call_later(LATENCY, self.transport.write, data)
        else:
            self.transport.write(data)


async def main() -> None:
    server = await asyncio.get_running_loop().create_server(Stub, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(main())
