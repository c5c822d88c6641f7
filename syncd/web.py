"""The admin listener: /healthz, /readyz, /metrics. Reads only; loopback, or by a token.

/healthz   200 while work moves, 503 where it has stalled: start the process again
/readyz    200 while the database is reached and its schema fits, else 503
/metrics   Prometheus' text format
"""

from __future__ import annotations

import asyncio
import hmac
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import structlog
from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST

from syncd.health import Health
from syncd.settings import admin_address

if TYPE_CHECKING:
    from syncd.app import App
    from syncd.metrics import Metrics

log = structlog.get_logger()

PATIENCE = 10.0  # seconds that a scrape may take (Prometheus' own default)


@asynccontextmanager
async def listening(app: App, health: Health, metrics: Metrics) -> AsyncIterator[None]:
    """Answer while the block runs; nothing where no address is set.

    An address that is taken stops nobody's mail: it is logged, and Prometheus sees `up` 0.
    """
    address = admin_address(app.settings.admin)
    if address is None:
        yield
        return
    if app.settings.admin_token:  # its absence must be told at the start
        await app.secrets.get(app.settings.admin_token)
    runner = web.AppRunner(
        _application(app, health, metrics), access_log=None, shutdown_timeout=1.0
    )
    await runner.setup()
    try:
        try:
            await web.TCPSite(runner, *address).start()
            host, port = runner.addresses[0][:2]
            log.info("listening", host=host, port=port)
        except OSError as error:
            log.error("cannot listen", admin=app.settings.admin, error=error.strerror)
        yield
    finally:
        await runner.cleanup()


def _application(app: App, health: Health, metrics: Metrics) -> web.Application:
    async def healthz(_: web.Request) -> web.Response:
        return web.Response(status=503 if health.stalled else 200, text=_state(health))

    async def readyz(_: web.Request) -> web.Response:
        return web.Response(status=200 if health.ready else 503, text=_state(health))

    async def told(_: web.Request) -> web.Response:
        async with asyncio.timeout(PATIENCE):
            text = await metrics.text(app, health)
        return web.Response(body=text, headers={"Content-Type": CONTENT_TYPE_LATEST})

    made = web.Application()
    made.router.add_get("/healthz", healthz)
    made.router.add_get("/readyz", readyz)
    made.router.add_get("/metrics", _guarded(app, told))
    return made


def _state(health: Health) -> str:
    return ("stalled" if health.stalled else health.phase) + "\n"


Handler = Callable[[web.Request], Awaitable[web.Response]]


def _guarded(app: App, handler: Handler) -> Handler:
    """Only for whoever knows the token, where there is one; a changed one is taken up at once."""
    name = app.settings.admin_token
    if not name:
        return handler

    async def guarded(request: web.Request) -> web.Response:
        kind, _, given = request.headers.get("Authorization", "").partition(" ")
        token = await app.secrets.get(name)
        if kind.lower() != "bearer" or not hmac.compare_digest(given.encode(), token.encode()):
            raise web.HTTPUnauthorized(headers={"WWW-Authenticate": "Bearer"})
        return await handler(request)

    return guarded
