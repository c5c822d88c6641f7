"""The daemon's inside: flows that follow their control rows, bells, commands, housekeeping."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any

import structlog

from syncd import ask, audit_run, control, db, oblivion, sql
from syncd.assemble import Assembled
from syncd.bells import first_of
from syncd.commands import Commands
from syncd.condition import CONFIGURATION
from syncd.control import Destination
from syncd.errors import ConfigError, SyncdError
from syncd.expiry import Expiries
from syncd.flow import Flow
from syncd.schedule import Bells, due_since, parse
from syncd.tombstone import Tombstones
from syncd.upkeep import tidy
from syncd.worker import Worker

if TYPE_CHECKING:
    from syncd.app import App

log = structlog.get_logger()

FOLLOWED = ("paused", "halted", "guard_percent", "guard_floor", "schedule", "read_schedule",
            "full_schedule", "updated_at")  # fmt: skip
"""Columns that a running flow takes up as it is; any other change puts it together anew."""


@dataclass(slots=True)
class Served:
    """One destination's flow, the task that runs it, and what it was made from."""

    destination: Destination
    made_of: object
    task: asyncio.Task[None]
    flow: Flow | None = None
    stop: asyncio.Event = field(default_factory=asyncio.Event)
    until: float = 0.0  # by the loop's clock: how long it is waited for, once it was told to stop


class Service:
    """Serves every destination until told to stop."""

    def __init__(self, app: App, worker: Worker, stop: asyncio.Event) -> None:
        self.app = app
        self.worker = worker
        self.stop = stop
        self.served: dict[int, Served] = {}
        self.changed = asyncio.Event()
        self.bells = Bells(self._bell_failed)
        self._fault: BaseException | None = None
        self.commands = Commands(
            app.pool, worker.id, self.flows, partial(ask.lift, app), self._begin_audit
        )
        self._audits: dict[int, asyncio.Task[None]] = {}  # by command
        self._auditing = asyncio.Lock()
        self._told: dict[int, str] = {}  # the last configuration fault logged, by destination

    def flows(self) -> Mapping[str, Flow]:
        """The flows that run, and go on, by destination."""
        going = [one for one in self.served.values() if not one.stop.is_set()]
        return {one.destination.name: one.flow for one in going if one.flow is not None}

    async def run(self) -> None:
        async with self.bells, asyncio.TaskGroup() as group:
            self._group = group
            group.create_task(self._control_loop(group), name="control")
            group.create_task(self._listen(), name="listen")
            group.create_task(self._housekeeping(), name="housekeeping")

    def _bell_failed(self, error: BaseException) -> None:
        """APScheduler would swallow it: the service ends with it instead."""
        self._fault = error
        self.changed.set()

    # ── Control rows ────────────────────────────────────────────────────────────────────────

    async def _control_loop(self, group: asyncio.TaskGroup) -> None:
        """Notice changed control rows within a second; at the end let the flows drain."""
        while not self.stop.is_set():
            self.changed.clear()
            if self._fault is not None:
                raise self._fault
            await self._reconcile(group)
            await self.commands.execute_all()
            await first_of(self.stop, self.changed, timeout=self.app.settings.control_poll_seconds)
        for served in self.served.values():
            _stop(served)
        tasks = [served.task for served in self.served.values()]
        for task in self._audits.values():
            task.cancel()
        if tasks:
            _, late = await asyncio.wait(tasks, timeout=self.app.settings.drain_seconds)
            for task in late:
                task.cancel()

    async def _reconcile(self, group: asyncio.TaskGroup) -> None:
        rows = await self.app.destinations()
        sources = {r["name"]: tuple(r) for r in await self.app.pool.fetch(sql.app.sources)}
        for gone in self.served.keys() - {row.id for row in rows}:
            _stop(self.served.pop(gone))
        for row in rows:
            made_of = await self._made_of(row, sources)
            served = self.served.get(row.id)
            if served is not None and not served.task.done():
                if served.made_of == made_of and not served.stop.is_set():
                    self._follow(served, row)
                    continue
                if self._is_draining(served):
                    continue
            await self._start(group, row, made_of, rows)

    def _is_draining(self, served: Served) -> bool:
        """Tell it to stop, and let what is in flight end; meanwhile the other rows are followed."""
        now = asyncio.get_running_loop().time()
        if not served.stop.is_set():
            served.until = now + self.app.settings.drain_seconds
            served.task.add_done_callback(lambda _: self.changed.set())
            _stop(served)
        return now < served.until

    async def _made_of(self, row: Destination, sources: Mapping[str, object]) -> object:
        """What the flow depends on; a changed credential lifts a halt."""
        fingerprint = await self._fingerprint(row)
        parts = {
            name: repr(getattr(row, name)) for name in Destination.__slots__ if name not in FOLLOWED
        }
        return (parts, sources.get(row.source), fingerprint, _schedule_faults(row))

    async def _fingerprint(self, row: Destination) -> str:
        """Of its credential, or what is wrong with it."""
        try:
            return self.app.secrets.fingerprint(await self.app.secrets.get(row.credential))
        except ConfigError as error:
            return str(error)

    async def _has_other_credential(self, row: Destination) -> bool:
        """Whether the credential was changed since the halt, while nobody here looked."""
        known = await self.app.pool.fetchval(sql.app.halted_with, row.id)
        return known is not None and known != await self._fingerprint(row)

    def _follow(self, served: Served, row: Destination) -> None:
        if served.destination != row:
            served.destination = row
            if served.flow is not None:
                served.flow.follow(row)
                self._ring(served.flow)

    async def _start(
        self,
        group: asyncio.TaskGroup,
        row: Destination,
        made_of: object,
        rows: Any,
    ) -> None:
        before = self.served.get(row.id)
        changed = before is not None and before.made_of != made_of
        if row.halted is not None and (changed or await self._has_other_credential(row)):
            await self.app.pool.execute(sql.app.clear_halt, row.id, None)
            row = (await self.app.destinations([row.name]))[0]
        stop = asyncio.Event()
        served = Served(row, made_of, None, stop=stop)  # type: ignore[arg-type]
        served.task = group.create_task(self._serve(served, rows), name=f"flow:{row.name}")
        self.served[row.id] = served

    async def _serve(self, served: Served, rows: Any) -> None:
        row = served.destination
        try:
            observer = self.app.observer(row.name)
            async with self.app.assembled(row, rows, self.worker, observer) as made:
                await self._serve_assembled(served, made)
        except* ConfigError as group:
            await self._misconfigured(served, _all_faults(group))
        except* db.UNREADABLE as gone:  # a view that was dropped, say: the others go on
            await self._misconfigured(served, db.unreadable(gone))
        finally:
            for what in ("plan", "read", "full", "scan"):
                self.bells.silence(f"{row.id}:{what}")

    async def _serve_assembled(self, served: Served, made: Assembled) -> None:
        flow = made.flow
        assert flow is not None
        row = served.destination
        self._told.pop(row.id, None)
        if await self.app.pool.fetchval(sql.app.clear_halt, row.id, CONFIGURATION):
            self.changed.set()
        if served.stop.is_set():
            return
        try:
            served.flow = flow
            if served.destination != flow.destination:  # edited while it was put together
                flow.follow(served.destination)
            self._ring(flow)  # refuses a schedule that is none
            await self._make_up(flow)
            self.changed.set()  # for commands that waited for it
            await flow.run()
        finally:
            served.flow = None

    async def _misconfigured(self, served: Served, error: ConfigError) -> None:
        """Hold the destination with every fault; try again when a row or a secret changes."""
        row = served.destination
        reason = CONFIGURATION + "; ".join(error.faults)
        if self._told.get(row.id) != reason:
            self._told[row.id] = reason
            log.error("destination is misconfigured", destination=row.name, faults=error.faults)
            await self.app.pool.execute(sql.app.clear_halt, row.id, CONFIGURATION)  # an older one
            await control.halt(self.app.pool, row.id, reason)
        await first_of(served.stop, self.stop, timeout=10.0)

    # ── Audits ──────────────────────────────────────────────────────────────────────────────

    def _begin_audit(self, number: int, names: Sequence[str], samples: int, repair: bool) -> None:
        """It may take hours, so commands go on beside it; one audit at a time."""
        work = self._audit(number, names, samples, repair)
        self._audits[number] = self._group.create_task(work, name=f"audit:{number}")

    async def _audit(self, number: int, names: Sequence[str], samples: int, repair: bool) -> None:
        try:
            async with self._auditing:
                rows = await self.app.destinations(names)
                ended = await audit_run.run(
                    self.app, self.worker, rows, samples=samples, repair=repair,
                    serves=lambda name: self.flows().get(name),
                )  # fmt: skip
            told = {name: one.summary() for name, one in ended.items()}
            code = audit_run.exit_code(ended)
            result = {"destinations": told, "exit_code": code}
            outcome = "failed" if any(one.audit is None for one in ended.values()) else "done"
            await self.commands.finish(number, "audit", outcome, result)
        except SyncdError as error:
            await self.commands.finish(number, "audit", "failed", {"error": str(error)})
        except db.UNREADABLE as error:
            says = {"error": str(db.unreadable(error))}
            await self.commands.finish(number, "audit", "failed", says)
        except asyncio.CancelledError:
            await self.commands.put_back(number)
            raise
        finally:
            self._audits.pop(number, None)

    # ── Bells ───────────────────────────────────────────────────────────────────────────────

    def _ring(self, flow: Flow) -> None:
        """Bells only ring: each sets an event that a loop waits for."""
        row = flow.destination
        rings = (("plan", row.schedule, flow.bells.plan), ("read", row.read_schedule,
                 flow.bells.read), ("full", row.full_schedule, flow.bells.full),
                 ("scan", row.full_schedule, flow.bells.scan))  # fmt: skip
        for what, text, event in rings:

            async def ring(event: asyncio.Event = event) -> None:
                event.set()

            self.bells.ring(f"{row.id}:{what}", parse(text), ring)

    async def _make_up(self, flow: Flow) -> None:
        """A run that was missed while nobody served is made up for, once."""
        row = flow.destination
        last = await self.app.pool.fetchrow(sql.app.last_runs, row.id)
        now = datetime.now(UTC)
        if last is not None and due_since(parse(row.full_schedule), last["full_at"], now):
            flow.bells.full.set()
            flow.bells.scan.set()
        if last is not None and due_since(parse(row.read_schedule), last["read_at"], now):
            flow.bells.read.set()

    async def _listen(self) -> None:
        """Wake flows by NOTIFY; without it the polls serve."""
        if not self.app.settings.listen:
            return
        while not self.stop.is_set():
            try:
                if not await self._hear():
                    log.info("a pooler is in between, nothing can be listened for: polling serves",
                             poll_seconds=self.app.settings.poll_seconds)  # fmt: skip
                    return
            except (SyncdError, *db.LOST):
                await first_of(self.stop, timeout=5.0)

    async def _hear(self) -> bool:
        """Until the connection is gone, or the end; False where a pooler lets nothing arrive."""
        gone = asyncio.Event()
        direct = self.app.settings.listen_url
        connection = await db.connect(direct or self.app.url)
        connection.add_termination_listener(lambda *_: gone.set())
        try:
            if not direct and await db.is_pooled(connection):
                return False
            await connection.add_listener("syncd_change", self._source_changed)
            await connection.add_listener("syncd_control", lambda *_: self.changed.set())
            self.changed.set()  # for what was said before somebody listened
            await first_of(self.stop, gone)
            return True
        finally:  # at once: it has nothing to lose, and this may be a cancellation
            connection.terminate()

    def _source_changed(self, *told: Any) -> None:
        for flow in self.flows().values():
            if flow.destination.source == told[-1] and flow.destination.schedule == "on change":
                flow.bells.plan.set()

    # ── Housekeeping ────────────────────────────────────────────────────────────────────────

    async def _housekeeping(self) -> None:
        expiries = Expiries(self.app.secrets)
        while not self.stop.is_set():
            await expiries.warn(await self.app.destinations(), datetime.now(UTC).date())
            await tidy(self.app.pool, self.app.settings)
            # Told where it is looked at: `status`, `check`.
            with suppress(ConfigError, *db.UNREADABLE):
                await oblivion.forget(self.app.pool, Tombstones(self.app.pool, self.app.secrets))
            await first_of(self.stop, timeout=30.0)


def _schedule_faults(row: Destination) -> str:
    """What is wrong with the schedules; a row that has such faults is not followed, but held."""
    faults = []
    for text in (row.schedule, row.read_schedule, row.full_schedule):
        try:
            parse(text)
        except ConfigError as error:
            faults.append(str(error))
    return "; ".join(faults)


def _all_faults(group: BaseExceptionGroup[BaseException]) -> ConfigError:
    found: list[str] = []
    for error in group.exceptions:
        one = _all_faults(error) if isinstance(error, BaseExceptionGroup) else error
        found += one.faults if isinstance(one, ConfigError) else ()
    return ConfigError(*dict.fromkeys(found))


def _stop(served: Served) -> None:
    served.stop.set()
    if served.flow is not None:
        served.flow.stop.set()
