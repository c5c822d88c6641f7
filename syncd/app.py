"""The composition root: settings in, a running daemon or a finished backfill out."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field

import structlog

from syncd import control, db, migrate
from syncd.assemble import Assembled, assemble
from syncd.bells import first_of
from syncd.control import Destination
from syncd.db import Pool
from syncd.errors import ConfigError, DatabaseUnreachable, Fenced
from syncd.health import Health
from syncd.metrics import Metrics
from syncd.observer import NOBODY, Observer
from syncd.outcomes import backoff
from syncd.restored import Watermark, recover
from syncd.secrets import Secrets, sealing_keys
from syncd.serve import Service
from syncd.service import watched
from syncd.settings import Settings
from syncd.web import listening
from syncd.worker import Worker

log = structlog.get_logger()

# A window brings a hundred thousand small objects, none in a cycle: looking through all that live
# after every few thousand new ones took a third of a backfill's processor time.
COLLECT = (300_000, 20, 100)
STEADY = 30.0  # seconds of service after which a failure is the first one again
SOON = 2  # failures after which a restart should have been over
BACK = 2.0  # seconds of service, for each failure before, after which the database is back


@dataclass(slots=True)
class App:
    """What every command works with."""

    settings: Settings
    url: str
    pool: Pool
    secrets: Secrets
    environ: Mapping[str, str]
    observer: Callable[[str], Observer] = lambda _: NOBODY  # by destination
    watermark: Watermark = field(default_factory=Watermark)

    @asynccontextmanager
    async def worker(self) -> AsyncIterator[Worker]:
        """A worker with a heartbeat; a lost lease (Fenced) ends whoever runs inside."""
        s = self.settings
        worker = Worker(self.pool, s.lease_seconds, s.heartbeat_seconds, s.request_timeout_seconds)
        await worker.begin()
        await recover(self.pool, went_back=await self.watermark.went_back(self.pool))
        stop = asyncio.Event()
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(worker.keep_alive(stop), name="heartbeat")
                group.create_task(worker.take_over(stop), name="take over")
                looks = self.watermark.keep(self.pool, stop, s.heartbeat_seconds)
                group.create_task(looks, name="watermark")
                yield worker
                stop.set()
        finally:
            with suppress(*db.LOST, TimeoutError):
                async with asyncio.timeout(s.lease_seconds):  # without it, it is lost by then
                    await worker.end()

    def assembled(
        self,
        destination: Destination,
        everyone: Sequence[Destination],
        worker: Worker | None = None,
        observer: Observer = NOBODY,
    ) -> AbstractAsyncContextManager[Assembled]:
        return assemble(
            self.pool,
            self.settings,
            self.secrets,
            self.environ,
            destination,
            everyone,
            worker,
            observer,
        )

    async def destinations(self, names: Sequence[str] = ()) -> Sequence[Destination]:
        return await control.destinations(self.pool, names)


@asynccontextmanager
async def opened(
    settings: Settings, environ: Mapping[str, str] | None = None, *, check: bool = True
) -> AsyncIterator[App]:
    """Connect; start the private server first where the settings ask for one.

    check: DatabaseUnreachable unless the schema is the one this version was written for.
    """
    environ = os.environ if environ is None else environ
    gc.set_threshold(*COLLECT)
    with db.server(settings.database_url) as url:
        prepared = {"on": True, "off": False}.get(settings.prepared_statements)
        async with db.pool(url, settings.pool_size, prepared=prepared) as pool:
            if check:
                async with pool.acquire() as connection:
                    await migrate.check_schema(connection)
            secrets = Secrets(pool, environ, sealing_keys(environ))
            yield App(settings, url, pool, secrets, environ)


@contextmanager
def on_signals(told: Callable[[int], None], *numbers: int) -> Iterator[None]:
    """Call *told* with the number of each of these signals that arrives."""
    loop = asyncio.get_running_loop()
    for one in numbers:
        loop.add_signal_handler(one, told, one)
    try:
        yield
    finally:
        for one in numbers:
            loop.remove_signal_handler(one)


async def run(
    settings: Settings,
    environ: Mapping[str, str] | None = None,
    reread: Callable[[], Settings] | None = None,
) -> int:
    """The daemon: serve until SIGTERM or SIGINT; returns the exit code.

    SIGHUP lets what is in flight finish, and goes on with the settings that *reread* returns;
    where those are wrong, it says so and goes on with the old ones.
    """
    ended, leave = asyncio.Event(), asyncio.Event()
    metrics = Metrics()
    async with watched(os.environ if environ is None else environ) as health:

        def told(number: int) -> None:
            if number != signal.SIGHUP:
                ended.set()
            health.enter("reloading" if number == signal.SIGHUP else "stopping")
            leave.set()

        with on_signals(told, signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            while not ended.is_set():
                leave.clear()
                async with opened(settings, environ) as app:
                    app.observer = metrics.observer
                    async with listening(app, health, metrics):
                        await _serve_through_outages(app, leave, health)
                if reread is not None and not ended.is_set():
                    settings = _reread(settings, reread)
    log.info("stopped")
    return 0


def _reread(settings: Settings, reread: Callable[[], Settings]) -> Settings:
    try:
        settings = reread()
    except ConfigError as error:
        log.error("settings are wrong, the old ones stay", faults=error.faults)
    else:
        log.info("settings read again")
    return settings


async def _serve_through_outages(app: App, leave: asyncio.Event, health: Health) -> None:
    """A database that goes away is said once, waited for with backoff, and found again."""
    outage = Outage()
    while not leave.is_set():
        began = time.monotonic()
        try:
            await _serve(app, leave, outage, health)
        except* (*db.LOST, Fenced, DatabaseUnreachable) as group:
            health.enter("waiting for the database")
            outage.begin(_first(group), lasted=time.monotonic() - began)
            db.drop(app.pool)  # to a server that was demoted, connections would last
            await first_of(leave, timeout=backoff(min(outage.failures, 3)))


@dataclass(slots=True)
class Outage:
    """What is said of a database that is away: once that it is, once that it is back for good.

    One that answers but cannot be worked with (its disk is full) comes and goes with every try.
    """

    failures: int = 0  # running
    is_said: bool = False
    reasons: set[str] = field(default_factory=set)  # that have been said of this one

    def begin(self, why: str, lasted: float) -> None:
        """After it has served for *lasted* seconds. What ended the connections may not be what
        keeps new ones away: that is said, too, if it lasts."""
        self.failures = 1 if lasted > STEADY else self.failures + 1
        if not self.is_said:
            self.is_said, self.reasons = True, {why}
            log.error("lost the database", error=why)
        elif self.failures > SOON and why not in self.reasons:
            self.reasons.add(why)
            log.warning("still without the database", error=why)

    async def end(self, worker: int) -> None:
        """Say that it is back once it has stayed for some time: longer after every failure."""
        await asyncio.sleep(min(BACK * self.failures, STEADY))
        self.is_said = False
        log.info("the database is back", worker=worker)


def _first(group: BaseExceptionGroup[BaseException]) -> str:
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


async def _serve(app: App, leave: asyncio.Event, outage: Outage, health: Health) -> None:
    if outage.is_said:  # what came back may be half restored, or older than we are
        async with app.pool.acquire() as connection:
            with suppress(ConfigError):  # a newer one: so it was before
                await migrate.check_schema(connection)
    async with app.worker() as worker:
        if not outage.is_said:
            log.info("serving", worker=worker.id)
        service = Service(app, worker, leave)
        health.serve(service.flows)
        back = asyncio.create_task(outage.end(worker.id)) if outage.is_said else None
        try:
            await service.run()
        finally:
            if back is not None:
                back.cancel()
