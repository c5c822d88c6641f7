"""The HTTP server around a stand-in: counting, meters, faults, delivery.

`/_state`, `/_history`, `/_faults`, `/_limits`, `/_reset` and `/_act` are in `admin.py`.
"""

from __future__ import annotations

import asyncio
import time

from aiohttp import web

from syncd.sandbox.admin import Admin
from syncd.sandbox.call import Answer, Call
from syncd.sandbox.faults import CUTS, Fault
from syncd.sandbox.meters import Meter
from syncd.sandbox.standin import StandIn

LARGEST_BODY = 256 * 1024 * 1024  # what we read at all; the stand-in has its own limit
HTML = b"<html><head><title>Error</title></head><body><h1>It is not you</h1></body></html>"


class Desk:
    """Takes requests in, one at a time, and hands out answers or mishaps."""

    def __init__(self, stand_in: StandIn) -> None:
        self.stand_in = stand_in

    async def take(self, request: web.Request) -> web.StreamResponse:
        """Answer one provider request."""
        try:
            call = await self._read(request)
        except (web.RequestPayloadError, ConnectionError):
            return web.Response(status=400)  # the client left in the middle of its body
        stand_in = self.stand_in
        fault = stand_in.faults.draw(call.path, call.method)
        meter = stand_in.open(call)
        broken = stand_in.meters.enter(call, meter) if meter else None
        try:
            # Permits and claims end before the answer leaves: who has it may go on.
            if meter and broken:
                answer = self._over(call, meter, broken)
            else:
                answer = await self._applied(call, fault)
        finally:
            stand_in.meters.leave(call)
        if answer.status >= 400 or fault.before:
            stand_in.note(
                call.number, "rejected", path=call.path, status=answer.status, fault=fault.kind
            )
        stand_in.ledger.answers[fault.kind if fault.kind in CUTS else str(answer.status)] += 1
        return await deliver(request, answer, fault)

    async def _read(self, request: web.Request) -> Call:
        path, _, query = request.raw_path.partition("?")
        body = await request.read()
        ledger = self.stand_in.ledger
        ledger.requests += 1
        ledger.by_path[path] += 1

        def alive() -> bool:
            transport = request.transport
            return transport is not None and not transport.is_closing()

        headers = request.headers
        return Call(ledger.requests, time.time(), request.method, path, query, headers, body, alive)

    def _over(self, call: Call, meter: Meter, broken: str) -> Answer:
        if broken == "in flight" or meter.published:
            limit = meter.in_flight if broken == "in flight" else meter.per_second
            detail = f"{meter.name}: more than {limit}"
            if broken == "in flight":
                detail += f", beside {self.stand_in.meters.beside(call, meter)}"
            self.stand_in.ledger.violate(call, f"too many ({broken})", detail)
        return self.stand_in.failed(429, "Too many concurrent requests")

    async def _applied(self, call: Call, fault: Fault) -> Answer:
        stand_in = self.stand_in
        for claim in sorted(stand_in.meters.clash(call)):
            stand_in.ledger.violate(call, "two in flight", claim)
        if fault.wait_before:
            await asyncio.sleep(fault.wait_before)
        try:
            answer = stand_in.answer(call, apply=not fault.before)
        except Exception as err:  # a hole in the stand-in must be seen, not retried for ever
            stand_in.ledger.violate(call, "sandbox broke", repr(err))
            raise
        stand_in.note_records(
            call.number, call.at, method=call.method, path=call.path, status=answer.status,
            fault=fault.kind, alive=call.alive(),
        )  # fmt: skip
        if fault.wait_after:
            await asyncio.sleep(fault.wait_after)
        return spoilt(stand_in, call, answer, fault)


def spoilt(stand_in: StandIn, call: Call, answer: Answer, fault: Fault) -> Answer:
    """The answer as the fault leaves it; cuts are made on delivery."""
    wait = {} if fault.retry_after is None else {"Retry-After": f"{fault.retry_after:g}"}
    match fault.kind:
        case "error" | "error_after":
            return with_headers(stand_in.failed(fault.status, "Internal server error"), wait)
        case "error_html":
            return Answer(fault.status, HTML, "text/html", wait)
        case "outage_503":
            return with_headers(stand_in.failed(503, "Service unavailable"), wait)
        case "rate_429":
            return with_headers(stand_in.failed(429, "Too many concurrent requests"), wait)
        case "malformed":
            return stand_in.failed(400, "Malformed request")
        case "revoked":
            return stand_in.unauthorised(call)
        case "html":
            return Answer(200, HTML, "text/html")
        case "garbage":
            return Answer(200, b"\x00\xff\xfe{]" + answer.body[::-1][:40], answer.content_type)
        case "truncated_json":
            return Answer(200, answer.body[: len(answer.body) // 2], answer.content_type)
        case _:
            return answer


def with_headers(answer: Answer, headers: dict[str, str]) -> Answer:
    """The same answer with more headers."""
    return Answer(answer.status, answer.body, answer.content_type, headers)


async def deliver(request: web.Request, answer: Answer, fault: Fault) -> web.StreamResponse:
    """Send the answer, half of it, or hang up."""
    headers = {"Content-Type": answer.content_type, **answer.headers}
    if fault.kind in CUTS:
        if request.transport is not None:
            request.transport.abort()
        return web.Response(status=500)
    if fault.kind == "half_answer":
        half = web.StreamResponse(status=answer.status, headers=headers)
        half.content_length = len(answer.body)
        await half.prepare(request)
        await half.write(answer.body[: len(answer.body) // 2])
        if request.transport is not None:
            request.transport.close()
        return half
    return web.Response(status=answer.status, body=answer.body, headers=headers)


def application(stand_in: StandIn) -> web.Application:
    """The aiohttp application that serves one stand-in."""
    app = web.Application(client_max_size=LARGEST_BODY)
    admin, desk = Admin(stand_in), Desk(stand_in)
    app.router.add_get("/_state", admin.state)
    app.router.add_get("/_history", admin.history)
    app.router.add_post("/_faults", admin.set_faults)
    app.router.add_post("/_limits", admin.set_limits)
    app.router.add_post("/_reset", admin.reset)
    app.router.add_post("/_act", admin.act)
    app.router.add_route("*", "/{path:.*}", desk.take)
    return app
