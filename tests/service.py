"""Real syncd processes over a database and sandboxes of a test's own, and the one question that
matters in the end: does the sandbox hold exactly what the source says?

    async with served(cluster, template) as service:
        box = await service.sandbox()
        await service.destination("shop", box)
        daemon = service.start("run")
        await service.in_step()
        await service.same("shop")

Whatever the processes print is read when the block ends: JSON lines only, no traceback, no
address, no secret. The comparison is written from the documents, not from syncd's own SQL.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from datetime import time as clock
from pathlib import Path
from typing import Any

import asyncpg
import leaks
import orjson
from clusters import fronted, open_folder
from conftest import fresh_database

from syncd import db
from syncd.db import Pool
from syncd.meter import scope_key
from syncd.sandbox import Handle, serve
from syncd.sandbox.clevertap import CleverTap
from syncd.secrets import Secrets, account_key, variable

QUICK: Mapping[str, str] = {
    "LEASE_SECONDS": "15",
    "HEARTBEAT_SECONDS": "0.5",
    "REQUEST_TIMEOUT_SECONDS": "5",
    "POLL_SECONDS": "0.05",
    "CONTROL_POLL_SECONDS": "0.25",
    "DRAIN_SECONDS": "5",
    "POOL_SIZE": "5",
    "WINDOW": "250",
    "LOG_FORMAT": "json",
}
"""Settings under which everything is noticed soon, also on a machine that is busy."""

MORTAL: Mapping[str, str] = {
    "LEASE_SECONDS": "2",
    "HEARTBEAT_SECONDS": "0.25",
    "REQUEST_TIMEOUT_SECONDS": "1",
}
"""Settings under which a dead process is replaced within two seconds."""

FINDINGS = {"delete_works": True, "merges_by_email": False, "negative_dates": True}
"""What the canaries would find in three seconds about the sandbox's account."""

OURS = {"application_name": "the test"}
"""How the test's own connections are told from those of the processes."""

PATIENCE = 180.0  # seconds; a test that needs them has failed, or the machine is drowning


_serving: list[Service] = []  # whose logs a failure shows


async def until(
    check: Callable[[], Any],
    what: str,
    timeout: float = PATIENCE,
    every: float = 0.03,
) -> Any:
    """Poll until *check* (plain or async) says something true; returns that."""
    deadline = time.monotonic() + timeout
    while True:
        found = check()
        if asyncio.iscoroutine(found):
            found = await found
        if found:
            return found
        if time.monotonic() > deadline:
            logs = "".join(one.logs() for one in _serving)
            raise AssertionError(f"not within {timeout:g} s: {what}{logs}")
        await asyncio.sleep(every)


# ── Processes ───────────────────────────────────────────────────────────────────────────────


class Process:
    """One syncd process; what it says goes to files, so that it never waits for a reader."""

    def __init__(
        self,
        args: Sequence[str],
        environ: Mapping[str, str],
        folder: Path,
        under: Sequence[str] = (),
    ) -> None:
        self.args = args
        self.out, self.err = folder / "out", folder / "err"
        with self.out.open("wb") as out, self.err.open("wb") as err:
            self._popen = subprocess.Popen(
                [*(under or [sys.executable]), "-m", "syncd", *args],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                env=dict(environ),
                cwd=folder,
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        return self._popen.pid

    @property
    def alive(self) -> bool:
        return self._popen.poll() is None

    def kill(self) -> None:
        """As kill -9; returns once it is dead."""
        self._popen.kill()
        self._popen.wait(PATIENCE)

    def tell(self, what: signal.Signals) -> None:
        self._popen.send_signal(what)

    async def ended(self, timeout: float = PATIENCE) -> int:
        """Its exit code, negative where a signal ended it."""
        await until(lambda: not self.alive, f"{self.args} has not ended: {self.said}", timeout)
        assert self._popen.returncode is not None
        return int(self._popen.returncode)

    async def terminated(self, timeout: float = PATIENCE) -> int:
        """Asked by SIGTERM to stop; its exit code."""
        self.tell(signal.SIGTERM)
        return await self.ended(timeout)

    @property
    def said(self) -> str:
        return self.err.read_text("utf-8", "replace")

    @property
    def printed(self) -> str:
        return self.out.read_text("utf-8", "replace")

    @property
    def log(self) -> list[dict[str, Any]]:
        """Its log so far; a line that is being written is left for the next time."""
        lines = self.said.splitlines(keepends=True)
        return [orjson.loads(line) for line in lines if line.endswith("\n")]

    @property
    def served(self) -> int:
        """How often it began to serve: once, and once more after every lost database or lease."""
        return len(self.told("serving")) + len(self.told("the database is back"))

    def told(self, event: str) -> list[dict[str, Any]]:
        """The log records of this event."""
        return [one for one in self.log if one["event"] == event]

    def answer(self) -> Any:
        """The JSON that it printed last."""
        return orjson.loads(self.printed.splitlines()[-1])


@dataclass
class Service:
    """A database, sandboxes, destinations, and the processes that are to keep them in step."""

    url: str
    db: asyncpg.Connection
    folder: Path
    stack: AsyncExitStack
    environ: dict[str, str] = field(default_factory=dict)
    processes: list[Process] = field(default_factory=list)
    boxes: dict[str, Handle] = field(default_factory=dict)
    secrets: set[str] = field(default_factory=set)
    settings: Mapping[str, str] = field(default_factory=dict)  # of every process, beside QUICK
    under: Sequence[str] = ()  # what starts every process, instead of Python itself
    may_fail: bool = False  # a traceback, or a line that is no JSON, is expected

    # ── Building ────────────────────────────────────────────────────────────────────────────

    async def sandbox(self, provider: str = "clevertap", **limits: Any) -> Handle:
        return await self.stack.enter_async_context(serve(provider, **limits))

    async def destination(
        self,
        name: str,
        box: Handle,
        *,
        account: str | None = None,
        learnt: bool = True,
        options: Mapping[str, Any] | None = None,
        **columns: Any,
    ) -> int:
        """Insert a destination that sends to *box*, and let its secret be known.

        account: an account of its own at the sandbox. learnt: what the account is like is known.
        """
        self.boxes[name] = box
        if box.state.provider == "clevertap":
            value = self.know(name, account)
            given = orjson.loads(value)
            box.set_limits(accounts={given["account_id"]: [given["passcode"]]})
            if learnt:
                await self.learnt(given["account_id"], value)
        else:
            self.environ[variable(name)] = orjson.dumps(box.state.demo).decode()
            secret = {"private_key", "secret_key", "password"} & box.state.demo.keys()
            self.secrets |= {box.state.demo[one] for one in secret}
        row = {
            "name": name,
            "provider": box.state.provider,
            "options": orjson.dumps({"base_url": box.url, **(options or {})}).decode(),
            **columns,
        }
        marks = ", ".join(f"${n}" for n in range(1, len(row) + 1))
        made = await self.db.fetchval(
            f"insert into syncd.destination ({', '.join(row)}) values ({marks}) returning id",
            *row.values(),
        )
        return int(made)

    def know(self, name: str, account: str | None = None) -> str:
        """Let processes that start from now on know the secret of a destination."""
        demo = {**CleverTap.demo, **({} if account is None else {"account_id": account})}
        value = orjson.dumps(demo).decode()
        self.environ[variable(name)] = value
        self.secrets.add(demo["passcode"])
        return value

    async def learnt(self, account_id: str, value: str) -> None:
        await self.db.execute(
            "insert into syncd.account (scope, identity, findings, credential_hash, learned_at)"
            " values ($1, '', $2, $3, now()) on conflict (scope) do update"
            " set credential_hash = excluded.credential_hash",
            scope_key("clevertap", account_id, account_key({})),
            orjson.dumps(FINDINGS).decode(),
            Secrets(None, {}).fingerprint(value),
        )

    def start(self, *args: str, **settings: str) -> Process:
        """Start `syncd ARGS` with the quick settings; others by their names in lower case."""
        folder = self.folder / f"{len(self.processes):03d}"
        folder.mkdir()
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("SYNCD_", "PG"))}
        chosen = {
            **QUICK,
            **self.settings,
            **{name.upper(): value for name, value in settings.items()},
        }
        environ = {
            **kept,
            "SYNCD_DATABASE_URL": fronted(self.url),
            **{f"SYNCD_{name}": value for name, value in chosen.items()},
            **self.environ,
        }
        self.secrets |= leaks.secrets_in(environ)
        process = Process(args, environ, folder, self.under)
        self.processes.append(process)
        return process

    async def running(self, process: Process, timeout: float = PATIENCE) -> Process:
        """Wait until a daemon serves (it has a worker of its own)."""

        async def serves() -> bool:
            assert process.alive, process.said
            return bool(
                await self.db.fetchval(
                    "select exists (select 1 from syncd.worker"
                    " where pid = $1 and alive_until > now())",
                    process.pid,
                )
            )

        await until(serves, f"{process.args} does not serve", timeout)
        return process

    async def daemon(self, **settings: str) -> Process:
        return await self.running(self.start("run", **settings))

    async def pool(self) -> Pool:
        """As the library wants it."""
        return await self.stack.enter_async_context(db.pool(fronted(self.url), 2))

    # ── Asking ──────────────────────────────────────────────────────────────────────────────

    async def outstanding(self, *names: str) -> str:
        """What keeps these destinations (none: all) from being in step; '' for nothing."""
        rows = await self.db.fetch(_OUTSTANDING, list(names) or None)
        assert rows, "no destination"
        return "; ".join(row["says"] for row in rows if row["says"])

    async def in_step(self, *names: str, timeout: float = PATIENCE) -> None:
        """Wait until nothing is due, sent or owed."""
        says = "?"

        async def quiet() -> bool:
            nonlocal says
            says = await self.outstanding(*names)
            return not says

        try:
            await until(quiet, "in step", timeout)
        except AssertionError as error:
            rows = await self.db.fetch(_STUCK)
            error.add_note(f"outstanding: {says}" + "".join(f"\n{tuple(row)}" for row in rows))
            raise

    async def hasten(self) -> None:
        """Let the time pass that rows in backoff wait."""
        await self.db.execute(
            "update syncd.journal set due_at = now() where state = 'due' and due_at > now()"
        )

    async def command(self, kind: str, destination: str | None = None, **args: Any) -> Any:
        """Insert a command, wait for it, return (outcome, result)."""
        number = await self.db.fetchval(
            "insert into syncd.command (kind, destination, args) values ($1, $2, $3) returning id",
            kind,
            destination,
            json.dumps(args),
        )

        async def finished() -> Any:
            return await self.db.fetchrow(
                "select outcome, result from syncd.command"
                " where id = $1 and finished_at is not null",
                number,
            )

        row = await until(finished, f"command {kind}")
        return row["outcome"], orjson.loads(row["result"])

    async def differences(self, name: str, excused: Collection[str] = ()) -> list[str]:
        """Where the sandbox is not what the source asks for, in words; see `Expected`."""
        return await differences(self.db, name, self.boxes[name], excused)

    async def same(self, name: str, excused: Collection[str] = ()) -> None:
        """Fail unless the destination holds exactly what the source says."""
        found = await self.differences(name, excused)
        if found:
            story = "".join([await self._story(name, one) for one in found[:3]])
            said = "\n".join(found[:12])
            raise AssertionError(f"{len(found)} differences: {said}{self.logs()}{story}")

    async def _story(self, name: str, difference: str) -> str:
        """What happened to the contact that a difference names, here and at the sandbox."""
        key = difference.partition(" ")[0].rstrip(":")
        sent = [
            f"\n  {one['at']:.3f} {one.get('wrote') or one}"
            for one in self.boxes[name].state.ledger.history
            if one.get("identity") == key
        ]
        rows = await self.db.fetch(
            "select extract(epoch from at)::float8 as at, kind, outcome, error, attempt"
            " from syncd.delivery where contact_id = $1 order by at",
            key,
        )
        told = [f"\n  {row['at']:.3f} {tuple(row)[1:]}" for row in rows]
        return f"\n── {key} there:{''.join(sent)}\n── settled here:{''.join(told)}"

    async def set(self, name: str, **columns: Any) -> None:
        """Change columns of a destination, as an operator does."""
        said = ", ".join(f"{column} = ${n}" for n, column in enumerate(columns, 2))
        await self.db.execute(
            f"update syncd.destination set {said} where name = $1", name, *columns.values()
        )

    async def row(self, name: str) -> Any:
        return await self.db.fetchrow("select * from syncd.destination where name = $1", name)

    def logs(self) -> str:
        """The end of what the latest processes said, for a failure's message."""
        return "".join(
            f"\n── {p.args} pid {p.pid} alive {p.alive}\n"
            + "\n".join(map(_short, p.said.splitlines()[-15:]))
            for p in self.processes[-3:]
        )

    def faults(self) -> list[str]:
        """What no process may ever print."""
        found: list[str] = []
        for process in self.processes:
            text = process.said + process.printed
            found += [f"an address: {one}" for one in set(leaks.ADDRESS.findall(text))]
            found += ["a secret" for one in self.secrets if one in text]
            if self.may_fail:
                continue
            if "Traceback" in text:
                found.append(f"a traceback of {process.args}: {text[-3000:]}")
            elif process.args[0] == "run":
                found += [
                    f"not JSON: {line}" for line in text.splitlines(True) if not _is_json(line)
                ]
        return found


def _short(line: str) -> str:
    """A long line (a traceback) without its middle."""
    return line if len(line) < 600 else f"{line[:250]} … {line[-350:]}"


def _is_json(line: str) -> bool:
    if not line.endswith("\n"):
        return True  # cut off by a kill
    try:
        record = orjson.loads(line)
    except orjson.JSONDecodeError:
        return False
    return isinstance(record, dict) and {"event", "level", "timestamp"} <= record.keys()


_OUTSTANDING = """
select concat_ws(', ', d.name,
         case when d.halted is not null then 'halted: ' || d.halted end,
         case when d.paused then 'paused' end,
         case when f.owes_full or f.position is null then 'owes a full pass' end,
         case when f.pass_run is not null then 'a full pass runs' end,
         case when exists (select 1 from syncd.change c
                            where c.source = d.source and f.position is not null
                              and not pg_visible_in_snapshot(c.xid, f.position))
              then 'changes not looked at' end,
         (select count(*) || ' in the journal, last '
                 || coalesce(max(j.contact_id || ' ' || j.state || ' ' || coalesce(j.last_error, '')
                    || ' due ' || round(extract(epoch from j.due_at - now())::numeric, 1)), '')
            from syncd.journal j
           where j.destination_id = d.id and (j.state in ('due', 'sent') or j.state = 'held'
                 and exists (select 1 from syncd.plan p where p.id = j.plan_id
                              and p.state in ('open', 'approved', 'released')))
          having count(*) > 0),
         (select count(*) || ' windows' from syncd.intent i where i.destination_id = d.id
          having count(*) > 0)) as says, d.name
  from syncd.destination d join syncd.feed f on f.destination_id = d.id
 where $1::text[] is null or d.name = any($1)
"""
_STUCK = """
select j.contact_id, j.wish, j.lane, j.state, j.doubtful, j.again, j.email as sends, j.attempts,
       j.crashes, j.last_error, m.email as mirror, m.state, m.digest is null as unknown, c.email
  from syncd.journal j
  left join syncd.mirror m using (destination_id, contact_id)
  left join syncd.contact c on c.id = j.contact_id
 where j.state in ('due', 'sent') order by j.contact_id limit 25
"""
_OUTSTANDING = f"select nullif(q.says, q.name) as says from ({_OUTSTANDING}) q"


@contextlib.asynccontextmanager
async def served(cluster: str, template: str) -> AsyncIterator[Service]:
    """A database cloned from *template*; at the end every process is killed, and read."""
    async with fresh_database(cluster, template) as url, serving(url) as made:
        yield made


@contextlib.asynccontextmanager
async def serving(url: str) -> AsyncIterator[Service]:
    """As `served`, over a database that is there."""
    folder = open_folder()
    async with AsyncExitStack() as stack:
        connection = await asyncpg.connect(url, server_settings=OURS)
        service = Service(url, connection, folder, stack)
        _serving.append(service)
        try:
            yield service
            assert not (found := service.faults()), "\n".join(found)
            assert not await leaks.stored(service.db, service.secrets)
        finally:
            _serving.remove(service)
            for process in service.processes:
                process.kill()
            await service.db.close()
            shutil.rmtree(folder, ignore_errors=True)


# ── Comparing ───────────────────────────────────────────────────────────────────────────────

FIELDS: Mapping[str, str] = {
    "First Name": "first_name",
    "Last Name": "last_name",
    "Phone": "phone",
    "Company": "company",
    "Address": "address",
    "City": "city",
    "State": "state",
    "Zip": "postal_code",
    "Country": "country",
    "DOB": "birth_date",
}
"""The documented mapping of CleverTap where a destination names none."""

UNCLEARED = {"Name", "Phone", "DOB"}
"""System keys, which CleverTap has no way to empty: the mirror tells of them in `lacking`."""


@dataclass
class Wanted:
    """One contact as the source says that the destination is to hold it."""

    email: str
    properties: dict[str, Any]
    lists: list[str]
    mailable: bool


async def wanted(
    db: asyncpg.Connection, name: str, usual: Mapping[str, str] = FIELDS
) -> dict[str, Wanted]:
    """Everyone who belongs to a destination, by id; *usual*: its provider's own mapping."""
    row = await db.fetchrow(
        "select d.*, s.contact as contacts, s.membership as memberships"
        " from syncd.destination d join syncd.source s on s.name = d.source where d.name = $1",
        name,
    )
    assert row is not None
    fields = usual if row["fields"] is None else orjson.loads(row["fields"])
    lists: dict[str, list[str]] = {}
    for one in await db.fetch(f"select list_id::text, contact_id::text from {row['memberships']}"):
        if row["lists"] is None or one["list_id"] in row["lists"]:
            lists.setdefault(one["contact_id"], []).append(one["list_id"])
    noes = await _noes(db, row)
    found: dict[str, Wanted] = {}
    for one in await db.fetch(f"select to_jsonb(c) as c from {row['contacts']} c"):
        contact = orjson.loads(one["c"])
        key = str(contact["id"])
        if row["lists"] is not None and not row["everyone"] and key not in lists:
            continue
        email = (contact["email"] or "").strip()
        found[key] = Wanted(
            email, _properties(contact, fields), sorted(lists.get(key, [])),
            _mailable(contact, key, email, noes),
        )  # fmt: skip
    return found


async def _noes(db: asyncpg.Connection, destination: Any) -> list[Any]:
    """The open opt-outs of all mail that count at this destination."""
    scope = orjson.loads(destination["options"]).get("opt_out_scope", "source")
    rows = await db.fetch(
        "select o.*, d.source from syncd.opt_out o join syncd.destination d"
        " on d.id = o.destination_id where o.lifted_at is null and o.list_id is null"
    )
    return [
        row
        for row in rows
        if row["destination_id"] == destination["id"]
        or (
            scope == "source" and row["source"] == destination["source"]
            and row["kind"] != "vanished"
        )
    ]  # fmt: skip


def _mailable(contact: Mapping[str, Any], key: str, email: str, noes: Sequence[Any]) -> bool:
    if not contact.get("subscribed", True):
        return False
    said = contact.get("consented_at")
    consent = None if said is None else datetime.fromisoformat(said)
    if consent is not None and consent > datetime.now(UTC):
        consent = None
    for no in noes:
        by_id = no["contact_id"] == key and no["kind"] in ("unsubscribed", "complained")
        if not by_id and no["email"] != email.lower():
            continue
        if consent is None or consent <= (no["occurred_at"] or no["observed_at"]):
            return False
    return True


def _properties(contact: Mapping[str, Any], fields: Mapping[str, str]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, column in fields.items():
        relation, _, key = column.partition(".")
        value = contact.get(column) if column in contact else (contact.get(relation) or {}).get(key)
        if value in (None, ""):
            continue
        if name == "DOB":
            noon = datetime.combine(date.fromisoformat(value), clock(12), UTC)
            value = f"$D_{int(noon.timestamp())}"
        if name == "Phone" and not re.fullmatch(r"\+[1-9][0-9]{6,14}", value):
            continue
        found[name] = value
    names = [found[part] for part in ("First Name", "Last Name") if part in found]
    if names and "Name" not in fields:
        found["Name"] = " ".join(names)
    return found


async def differences(
    db: asyncpg.Connection, name: str, box: Handle, excused: Collection[str] = ()
) -> list[str]:
    """Every way in which the sandbox is not what the source asks for, in words.

    excused: contacts that are refused (each must stand in the journal with a reason), and so
    need not be there as the source has them; nobody of them may be mailed against a no.
    """
    everyone = await wanted(db, name)
    state = box.state
    profiles = state.profiles.by_identity
    row = await db.fetchrow("select id, when_gone from syncd.destination where name = $1", name)
    assert row is not None
    refused = {
        one["contact_id"]: one["last_error"]
        for one in await db.fetch(
            "select contact_id, last_error from syncd.journal"
            " where destination_id = $1 and state = 'rejected'",
            row["id"],
        )
    }
    found = [f"{key} is refused: {said}" for key, said in refused.items() if key not in excused]
    found += [f"{key} is not refused" for key in excused if key in everyone and key not in refused]
    for key, want in everyone.items():
        if key not in excused:
            found += [f"{key}: {says}" for says in _unlike(state, profiles.get(key), want)]
        elif not want.mailable and state.mailable(key):
            found.append(f"{key}: mailable against a no")
    gone = [profile for profile in state.profiles.all if profile.key not in everyone]
    for profile in gone:
        if profile.key.startswith("syncd-canary-") and not profile.emails:
            continue
        found += [f"{profile.key}: {says}" for says in _left(state, profile, row["when_gone"])]
    return found + _rules(state, everyone)


def _unlike(state: Any, profile: Any, want: Wanted) -> list[str]:
    """How one contact differs from what is wanted of it."""
    if profile is None:
        return ["is not there"] if want.mailable else []
    found = []
    if profile.emails != [want.email]:
        found.append(f"Email {profile.emails} instead of {want.email}")
    held = dict(profile.properties)
    lists = sorted(held.pop("Lists", []))
    if lists != want.lists:
        found.append(f"Lists {lists} instead of {want.lists}")
    for name in UNCLEARED - want.properties.keys():
        held.pop(name, None)
    if held != want.properties:
        found.append(f"properties {held} instead of {want.properties}")
    if state.profiles.mailable(profile) != want.mailable:
        marks = state.profiles.marks.get(want.email.lower())
        says = "not mailable" if want.mailable else "mailable against a no"
        found.append(f"{says} (flags {profile.flags}, address mark {marks})")
    return found


def _left(state: Any, profile: Any, when_gone: str) -> list[str]:
    if when_gone == "keep":
        return []
    if when_gone == "delete":
        return ["is still there"]
    found = []
    if state.profiles.mailable(profile):
        found.append("gone, but mailable")
    if profile.properties.get("Lists"):
        found.append(f"gone, but still in lists {profile.properties['Lists']}")
    return found


def _rules(state: Any, everyone: Collection[str]) -> list[str]:
    """What must never have happened, whoever is where. (Who is gone may still show an address.)"""
    shared = [
        [key for key in keys if key in everyone or state.mailable(key)]
        for keys in state.profiles.duplicates().values()
    ]
    found = [f"two profiles with one address: {keys}" for keys in shared if len(keys) > 1]
    found += [f"violation: {one}" for one in state.ledger.violations]
    found += [f"resubscribed: {one}" for one in state.writes.resubscribed]
    return found


# ── A source of one's own ───────────────────────────────────────────────────────────────────

LISTS = tuple("abcdefgh")


async def fill(db: asyncpg.Connection, n: int) -> None:
    """*n* contacts c00001… in the default tables, each in up to four of eight lists."""
    await db.execute(
        """
        insert into syncd.contact (id, email, first_name, last_name, company, phone, city,
                                   birth_date, attributes)
        select 'c' || lpad(i::text, 5, '0'), 'user' || i || '@example' || i % 7 || '.org',
               'First' || i % 97, 'Last' || i, 'Company ' || i % 11,
               '+1415555' || lpad((i % 10000)::text, 4, '0'), 'City ' || i % 13,
               date '1970-01-02' + i % 12000, jsonb_build_object('score', i % 100)
          from generate_series(1, $1::int) i
        """,
        n,
    )
    await db.executemany(
        "insert into syncd.list (id, name) values ($1, 'List ' || $1) on conflict do nothing",
        [(one,) for one in LISTS],
    )
    await db.execute(
        """
        insert into syncd.membership (list_id, contact_id)
        select distinct ($2::text[])[1 + (i * 31 + k * 7) % 8], 'c' || lpad(i::text, 5, '0')
          from generate_series(1, $1::int) i, generate_series(1, i % 5) k
        """,
        n,
        list(LISTS),
    )


class Changes:
    """Somebody who keeps changing the default tables, reproducibly.

    No address is ever given to a second contact, save by a swap of two who have always said yes:
    CleverTap marks the addresses of those who said no, for whoever has them later.
    """

    def __init__(self, db: asyncpg.Connection, rng: random.Random, ids: Sequence[str]) -> None:
        self.db = db
        self.rng = rng
        self.ids = list(ids)
        self.silent: set[str] = set()
        self.spoken: set[str] = set()  # whoever said no at least once
        self.gone: list[str] = []
        self.made = 0
        self.series = rng.randrange(10**9)
        self.done = 0
        self._deeds = (
            (self._add, 4), (self._rename, 6), (self._move, 3), (self._delete, 2), (self._back, 1),
            (self._join, 5), (self._leave, 5), (self._silence, 2), (self._return, 1),
            (self._swap, 2), (self._blank, 2), (self._bulk, 1),
        )  # fmt: skip

    async def keep_on(self, stop: asyncio.Event, pause: float = 0.02) -> None:
        while not stop.is_set():
            await self.step()
            await asyncio.sleep(self.rng.uniform(0, 2 * pause))

    async def step(self) -> None:
        """One change, in a transaction of its own."""
        deeds, weights = zip(*self._deeds, strict=True)
        (deed,) = self.rng.choices(deeds, weights)
        async with self.db.transaction():
            await deed()
        self.done += 1

    def _one(self) -> str:
        return self.rng.choice(self.ids)

    def _fresh(self) -> str:
        self.made += 1
        return f"fresh{self.made}.{self.series}@example.com"

    async def _add(self) -> None:
        key = f"n{self.series}-{self.made}"
        await self.db.execute(
            "insert into syncd.contact (id, email, first_name, last_name) values ($1, $2, $3, $4)",
            key, self._fresh(), f"New{self.made}", self.rng.choice([None, "Comer"]),
        )  # fmt: skip
        self.ids.append(key)
        await self._listed(key)

    async def _listed(self, key: str) -> None:
        for one in self.rng.sample(LISTS, self.rng.randint(0, 3)):
            await self.db.execute(
                "insert into syncd.membership (list_id, contact_id) values ($1, $2)"
                " on conflict do nothing",
                one,
                key,
            )

    async def _rename(self) -> None:
        await self.db.execute(
            "update syncd.contact set first_name = $2 where id = $1",
            self._one(),
            f"Named{self.rng.randrange(10**6)}",
        )

    async def _move(self) -> None:
        await self.db.execute(
            "update syncd.contact set email = $2 where id = $1", self._one(), self._fresh()
        )

    async def _delete(self) -> None:
        key = self.ids.pop(self.rng.randrange(len(self.ids)))
        await self.db.execute("delete from syncd.contact where id = $1", key)
        self.silent.discard(key)
        self.gone.append(key)

    async def _back(self) -> None:
        """Somebody who was deleted comes back under the old id with a new address."""
        if not self.gone:
            return
        key = self.gone.pop(self.rng.randrange(len(self.gone)))
        await self.db.execute(
            "insert into syncd.contact (id, email, first_name) values ($1, $2, 'Back')",
            key,
            self._fresh(),
        )
        self.spoken.add(key)
        self.ids.append(key)
        await self._listed(key)

    async def _join(self) -> None:
        await self._listed(self._one())

    async def _leave(self) -> None:
        await self.db.execute("delete from syncd.membership where contact_id = $1", self._one())

    async def _silence(self) -> None:
        key = self._one()
        self.silent.add(key)
        self.spoken.add(key)
        await self.db.execute("update syncd.contact set subscribed = false where id = $1", key)

    async def _return(self) -> None:
        if self.silent:
            key = self.rng.choice(sorted(self.silent))
            self.silent.discard(key)
            await self.db.execute("update syncd.contact set subscribed = true where id = $1", key)

    async def _swap(self) -> None:
        """Two contacts exchange addresses."""
        able = [one for one in self.ids if one not in self.spoken]
        one, other = self.rng.sample(able, 2)
        await self.db.execute(
            "update syncd.contact c set email = o.email from syncd.contact o"
            " where c.id = any($1) and o.id = any($1) and c.id <> o.id",
            [one, other],
        )

    async def _blank(self) -> None:
        await self.db.execute(
            "update syncd.contact set city = null, last_name = null where id = $1", self._one()
        )

    async def _bulk(self) -> None:
        await self.db.execute(
            "update syncd.contact set company = $2 where id = any($1)",
            self.rng.sample(self.ids, min(40, len(self.ids))),
            f"Merger {self.rng.randrange(10**6)}",
        )


async def changing(service: Service, rng: random.Random) -> Changes:
    """A changer of the service's default tables, over a connection of its own."""
    connection = await asyncpg.connect(service.url, server_settings=OURS)
    service.stack.push_async_callback(connection.close)
    rows = await connection.fetch("select id from syncd.contact order by id")
    return Changes(connection, rng, [row["id"] for row in rows])
