"""Rows of `command`: what an operator, or another program, asks of the fleet by an INSERT."""

from __future__ import annotations

import difflib
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

import orjson
import structlog

from syncd import control, sql
from syncd.ask import Lifted
from syncd.control import Note
from syncd.db import UNREADABLE, Connection, Pool, Row, unreadable
from syncd.errors import ConfigError, SyncdError
from syncd.flow import Flow
from syncd.words import listed

log = structlog.get_logger()

Result = Mapping[str, Any]

Lift = Callable[[str, str | None, str, str, Note], Awaitable[Lifted]]
"""Whose no, of which list (None: all mail), why it does not hold, who says so."""

ARGUMENTS: Mapping[str, Sequence[str]] = {
    "sync": (),
    "full": (),
    "backfill": (),
    "scan": (),
    "retry": ("contacts",),
    "approve": ("plan", "rows"),
    "discard": ("plan",),
    "lift": ("email", "reason", "list"),
    "audit": ("sample", "repair"),
}
"""By kind, what `args` may hold. Another key is a fault: without it more may be done than asked."""

PATIENCE = 10.0  # seconds that a command waits for a worker which serves its destination


class NotServedYet(SyncdError):
    """The destination's flow does not run here: it is being put together, or cannot be."""


class Commands:
    """Takes open commands, one at a time, and writes down what came of them."""

    def __init__(
        self,
        pool: Pool,
        worker_id: int,
        flows: Callable[[], Mapping[str, Flow]],
        lift: Lift,
        begin_audit: Callable[[int, Sequence[str], int, bool], None],
    ) -> None:
        """begin_audit: takes a command's id, names, samples and whether to repair; it takes long,
        and is finished by whoever carries it out, with `finish`."""
        self.pool = pool
        self.worker_id = worker_id
        self.flows = flows
        self.lift = lift
        self.begin_audit = begin_audit

    async def execute_all(self) -> None:
        """Execute every open command; a faulty one gets its fault as a result."""
        while row := await self.pool.fetchrow(sql.app.claim_command, self.worker_id):
            try:
                result = await self._execute(row)
                outcome = "done"
            except NotServedYet:
                await self.put_back(row["id"])
                return  # another worker may take it; else this one, when its flows have started
            except SyncdError as error:
                result, outcome = {"error": str(error)}, "failed"
            except UNREADABLE as error:
                result, outcome = {"error": str(unreadable(error))}, "failed"
            if result is not None:
                await self.finish(row["id"], row["kind"], outcome, result)

    async def finish(self, number: int, kind: str, outcome: str, result: Result) -> None:
        """Write down what came of a command."""
        text = orjson.dumps(result, default=str).decode()
        await self.pool.execute(sql.app.finish_command, number, outcome, text)
        log.info("command", id=number, kind=kind, outcome=outcome)

    async def put_back(self, number: int) -> None:
        """Let another worker take it, or this one later."""
        await self.pool.execute(sql.app.put_back_command, number, self.worker_id)

    async def _execute(self, row: Row) -> Result | None:
        """None: it goes on, and is finished later."""
        if row["noted"] is not None:
            return await self._finished_before(row)
        names = [] if row["destination"] is None else [row["destination"]]
        found = [d.name for d in await control.destinations(self.pool, names)]
        try:
            args = orjson.loads(row["args"])
        except orjson.JSONDecodeError as error:
            raise ConfigError(f"args cannot be read: {error.msg}") from None
        _refuse_unknown(row["kind"], args)
        match row["kind"]:
            case "sync" | "full" | "backfill" | "scan":
                return await self._wake(row["kind"], found, row["age"])
            case "retry":
                chosen = _contacts(args)
                return {"due": await control.retry(self.pool, found, chosen, _noting(row))}
            case "approve":
                plan, rows = _number(args, "plan"), _number(args, "rows")
                who, note = row["requested_by"], _noting(row)
                return {"due": await control.approve(self.pool, plan, rows, who, note)}
            case "discard":
                plan, who = _number(args, "plan"), row["requested_by"]
                return {"dropped": await control.discard(self.pool, plan, who, _noting(row))}
            case "lift":
                return await self._lift(args, row)
            case "audit":
                samples, repair = args.get("sample", 3), args.get("repair", False)
                if type(samples) is not int or samples < 0 or not isinstance(repair, bool):
                    raise ConfigError("audit takes args.sample, a number, and args.repair, a truth")
                self.begin_audit(row["id"], found, samples, repair)
                return None
            case kind:
                raise ConfigError(f"{kind!r} is not something this version can do on command")

    async def _wake(self, kind: str, names: Sequence[str], age: float) -> Result:
        """Ring the bells here; the other workers see what is owed in `feed`."""
        rung = []
        for name in names:
            flow = self.flows().get(name)
            if kind in ("full", "backfill"):
                await self.pool.execute(sql.app.owe_full, name)
            if flow is None:
                continue
            rung.append(name)
            bell = {"sync": flow.bells.plan, "scan": flow.bells.read}.get(kind, flow.bells.full)
            bell.set()
            if kind == "scan":
                flow.bells.scan.set()
        asleep = sorted(set(names) - set(rung))
        if asleep and kind in ("scan", "sync") and age < PATIENCE:
            raise NotServedYet
        return {"started": rung, "not served here": asleep}

    async def _finished_before(self, row: Row) -> Result:
        """Whoever took it has decided and died: that is not done again, only what follows."""
        if row["kind"] == "approve":
            await control.release_decided(self.pool)
        noted: Result = orjson.loads(row["noted"])
        return noted

    async def _lift(self, args: Mapping[str, Any], row: Row) -> Result:
        for name in ("email", "reason"):
            if not isinstance(args.get(name), str) or not args[name].strip():
                raise ConfigError(f"lift needs args.{name}: who, and why the no does not hold")
        if not isinstance(args.get("list"), str | None):
            raise ConfigError("args.list must be a list's id, as a text")
        who, note = row["requested_by"], _noting(row)
        done = await self.lift(args["email"], args.get("list"), args["reason"], who, note)
        return {"lifted": len(done.lifted), "tombstones": done.tombstones}


def _noting(row: Row) -> Note:
    """Writes the result of a command in the transaction that carries it out."""

    async def note(connection: Connection, result: Mapping[str, int]) -> None:
        await connection.execute(sql.app.note_command, row["id"], orjson.dumps(result).decode())

    return note


def _refuse_unknown(kind: str, args: Mapping[str, Any]) -> None:
    """ConfigError naming every key of args that the kind does not have; none for other kinds."""
    known = ARGUMENTS.get(kind)
    if known is None:
        return
    faults = []
    for key in sorted(args.keys() - set(known)):
        near = difflib.get_close_matches(key, known, n=1)
        hint = f"; did you mean args.{near[0]}?" if near else ""
        faults.append(f"args.{key} is not known{hint}")
    if faults:
        takes = listed([f"args.{one}" for one in known]) or "no args"
        raise ConfigError(*faults, f"{kind} takes {takes}; nothing was done")


def _contacts(args: Mapping[str, Any]) -> Sequence[str] | None:
    value = args.get("contacts")
    if value is not None and not (
        isinstance(value, list) and all(isinstance(one, str) for one in value)
    ):
        raise ConfigError("args.contacts must be a list of contact ids, as texts")
    return value


def _number(args: Mapping[str, Any], name: str) -> int:
    value = args.get(name)
    if not isinstance(value, int) or isinstance(value, bool) or abs(value) >= 2**63:
        raise ConfigError(f"args.{name} must be a number, as `syncd status` shows it")
    return value
