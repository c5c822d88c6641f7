"""Acme Mail: a provider that exists only here, and its adapter, to exercise the core.

The server is strict: it keeps what it holds, every write with its time, and names each breach of a
promise in `breaches`. The adapter speaks to it through the real wire. Its traits are chosen per
test: `adapter(key="remote id", can=Can.FIND)`.
"""

from __future__ import annotations

import asyncio
import itertools
from collections import deque
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, ClassVar, Literal, cast

import orjson
from aiohttp import web

from syncd.errors import Indivisible, ProviderError, Unintelligible
from syncd.model import (
    Absent,
    Answer,
    Applied,
    Can,
    Change,
    Erased,
    Finding,
    Found,
    Key,
    Learned,
    Meter,
    Notice,
    OptedOut,
    Outcome,
    Person,
    Postponed,
    Rejected,
    Request,
    Started,
    Traits,
    Vanished,
    Verb,
    Waits,
)
from syncd.providers import Credential, KeyColumn, Options, Provider, Wire

# ── The server ──────────────────────────────────────────────────────────────────────────────

Fault = Literal["cut", "lost", "garbage"] | int
"""What becomes of the next write: cut before it is applied, applied and the answer lost, applied
and answered with nonsense, or a status (nothing applied)."""


@dataclass(slots=True)
class Record:
    """One contact as Acme holds it. `no`: the person itself opted out there."""

    id: str
    owner: str
    email: str
    fields: dict[str, Any]
    lists: set[str]
    subscribed: bool
    no: bool = False


@dataclass(slots=True)
class Write:
    """One change that arrived, with the time of its request."""

    contact_id: str
    verb: str
    addresses: frozenset[str]
    want: dict[str, Any] | None
    began: float
    ended: float | None = None


@dataclass(slots=True)
class Acme:
    """What Acme Mail holds, and what was done to it."""

    key: Key
    base: str = ""
    records: dict[str, Record] = field(default_factory=dict)
    writes: list[Write] = field(default_factory=list)
    requests: list[tuple[str, int]] = field(default_factory=list)  # path, changes carried
    breaches: list[str] = field(default_factory=list)
    faults: deque[Fault | None] = field(default_factory=deque)
    always: Fault | None = None  # the same fault for every write
    refuses: Mapping[str, Any] = field(default_factory=dict)  # contact id → what is answered
    refuses_all: str = ""  # every create is refused with these words
    bad_names: set[str] = field(default_factory=set)  # refused as a first name
    poison: set[str] = field(default_factory=set)  # a batch with one of them is refused whole
    retry_after: float = 0.0
    jobs: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    running: set[str] = field(default_factory=set)  # jobs that are not done yet
    notices: list[dict[str, Any]] = field(default_factory=list)
    unauthorized: bool = False
    before: asyncio.Event = field(default_factory=asyncio.Event)  # set: writes may be applied
    after: asyncio.Event = field(default_factory=asyncio.Event)  # set: writes may be answered
    arrived: int = 0
    _numbers: Any = field(default_factory=lambda: itertools.count(1))

    def __post_init__(self) -> None:
        self.before.set()
        self.after.set()

    # What tests look at

    def at(self, email: str) -> list[Record]:
        return [one for one in self.records.values() if one.email == email]

    def of(self, contact_id: str) -> list[Record]:
        return [one for one in self.records.values() if one.owner == contact_id]

    def mailed(self) -> dict[str, str]:
        """Address → first name, of whom Acme would mail; a doubled address is a breach."""
        there: dict[str, str] = {}
        for one in self.records.values():
            if one.subscribed:
                if one.email in there:
                    self.breaches.append(f"two records mail {one.email}")
                there[one.email] = one.fields.get("first", "")
        return there

    async def arrival(self, number: int) -> None:
        """Wait until that many write requests have come in."""
        async with asyncio.timeout(60):
            while self.arrived < number:
                await asyncio.sleep(0.002)

    def say_no(self, email: str) -> None:
        """The person opts out at Acme."""
        for one in self.at(email):
            one.subscribed, one.no = False, True

    # What the adapter asks

    async def push(self, request: web.Request) -> web.StreamResponse:
        changes: list[dict[str, Any]] = orjson.loads(await request.read())
        self.requests.append((request.path, len(changes)))
        if self.unauthorized:
            return web.Response(status=401, text="who are you?")
        self.arrived += 1
        begun = self._begin(changes)
        try:
            await self.before.wait()
            fault = self.faults.popleft() if self.faults else self.always
            if isinstance(fault, int):
                after = {"Retry-After": str(self.retry_after)} if self.retry_after else {}
                return web.Response(status=fault, text="not now", headers=after)
            if fault == "cut":
                return _cut(request)
            if any(one["id"] in self.poison for one in changes):
                return web.json_response({"refused": "one of them is wrong"}, status=400)
            if request.path == "/jobs":
                number = f"j{next(self._numbers)}"
                self.jobs[number] = changes
                return web.json_response({"job": number})
            results = [self._apply(one) for one in changes]
            await self.after.wait()
            if fault == "lost":
                return _cut(request)
            if fault == "garbage":
                return web.Response(text="<html>come back later</html>")
            return web.json_response(results)
        finally:
            now = asyncio.get_running_loop().time()
            for one in begun:
                one.ended = now

    def _begin(self, changes: Sequence[dict[str, Any]]) -> list[Write]:
        """Note the writes; at most one request is in flight per contact and per address."""
        begun = []
        for one in changes:
            touched = {p["email"].lower() for p in (one["want"], one["was"]) if p and p["email"]}
            write = Write(
                one["id"], one["verb"], frozenset(touched), one["want"],
                asyncio.get_running_loop().time(),
            )  # fmt: skip
            for other in self.writes:
                if other.ended is None and other.contact_id == write.contact_id:
                    self.breaches.append(f"two requests in flight for {write.contact_id}")
                elif other.ended is None and other.addresses & write.addresses:
                    self.breaches.append(f"two in flight for {other.addresses & write.addresses}")
            begun.append(write)
        self.writes += begun
        return begun

    def _apply(self, change: dict[str, Any]) -> dict[str, Any]:
        if change["id"] in self.refuses:
            told: dict[str, Any] = self.refuses[change["id"]]
            return told
        record = self._record(change)
        if change["verb"] != "put":
            return self._remove(record, change["verb"])
        want, was = change["want"], change["was"]
        if want["fields"].get("first") in self.bad_names:
            return {"rejected": "a bad name"}
        if self.key == "address" and was and was["email"] != want["email"]:
            for old in self.at(was["email"]):
                self._remove(old, "withdraw")
            change = {**change, "may_create": True, "subscribed": want["subscribed"]}
        if record is None:
            return self._create(change, want)
        if record.no and want["subscribed"] and not change["resubscribe"]:
            return {"opted_out": "unsubscribed"}
        if record.no and want["subscribed"] and change["subscribed"]:
            self.breaches.append(f"{record.email} said no and was subscribed again")
        if self.key == "remote id" and any(o is not record for o in self.at(want["email"])):
            return {"rejected": f"{want['email']} is taken"}
        record.owner, record.email = change["id"], want["email"]
        record.fields.update(want["fields"])
        had = set((change["was"] or {}).get("lists", {}).values())
        record.lists = (record.lists - had) | set(want["lists"].values())
        if change["subscribed"] is not None:
            record.subscribed = change["subscribed"]
        return {"ok": record.id}

    def _record(self, change: dict[str, Any]) -> Record | None:
        if self.key == "ours":
            return next(iter(self.of(change["id"])), None)
        if self.key == "address":
            email = (change["want"] or change["was"] or {"email": ""})["email"].lower()
            return next(iter(self.at(email)), None)
        return self.records.get((change["remote"] or {}).get("id", ""))

    def _create(self, change: dict[str, Any], want: dict[str, Any]) -> dict[str, Any]:
        if not change["may_create"]:
            return {"gone": True} if change["was"] else {"absent": "not to be created"}
        if self.refuses_all:
            return {"rejected": self.refuses_all}
        if self.key != "ours" and self.at(want["email"]):
            self.breaches.append(f"a second record of {want['email']}")
        number = f"r{next(self._numbers)}"
        lists = set(want["lists"].values())
        self.records[number] = Record(
            number, change["id"], want["email"], dict(want["fields"]), lists,
            bool(change["subscribed"]),
        )  # fmt: skip
        return {"ok": number}

    def _remove(self, record: Record | None, verb: str) -> dict[str, Any]:
        if record is not None and verb == "withdraw":
            record.subscribed, record.lists = False, set()
        elif record is not None:
            del self.records[record.id]
        return {"ok": record.id if record is not None else ""}

    def route(self, router: web.UrlDispatcher) -> None:
        router.add_post("/push", self.push)
        router.add_post("/jobs", self.push)
        router.add_get("/jobs/{number}", self.job)
        router.add_post("/find", self.find)
        router.add_get("/opt_outs", self.opt_outs)
        router.add_get("/check", self.check)

    async def job(self, request: web.Request) -> web.StreamResponse:
        number = request.match_info["number"]
        self.requests.append((f"/jobs/{number}", 0))
        fault = self.faults.popleft() if self.faults else None
        if isinstance(fault, int):
            return web.Response(status=fault)
        if number in self.running:
            return web.json_response({"running": True})
        done = {one["id"]: self._apply(one) for one in self.jobs.pop(number)}
        return web.json_response(done)

    async def find(self, request: web.Request) -> web.StreamResponse:
        changes: list[dict[str, Any]] = orjson.loads(await request.read())
        self.requests.append((request.path, len(changes)))
        if self.faults and isinstance(self.faults[0], int):
            return web.Response(status=cast("int", self.faults.popleft()))
        found = []
        for one in changes:
            match = self._matches(one)
            told = match and {"id": match.id, "email": match.email, "no": match.no}
            found.append(told)
        return web.json_response(found)

    def _matches(self, change: dict[str, Any]) -> Record | None:
        """By id; else by address, of what a lost try may have left first by the one it had."""
        if (mine := self._record(change)) is not None:
            return mine
        people = [change["was"], change["want"]] if self.key == "remote id" else [change["want"]]
        emails = [one["email"].lower() for one in people if one] if self.key != "ours" else []
        if not emails and change["was"] and self.key != "ours":
            emails = [change["was"]["email"].lower()]
        return next((one for email in emails for one in self.at(email)), None)

    async def opt_outs(self, request: web.Request) -> web.StreamResponse:
        self.requests.append((request.path, 0))
        return web.json_response(self.notices)

    async def check(self, request: web.Request) -> web.StreamResponse:
        self.requests.append((request.path, 0))
        return web.Response(status=401 if self.unauthorized else 204)


def _cut(request: web.Request) -> web.StreamResponse:
    if request.transport is not None:
        request.transport.abort()
    return web.Response()


@asynccontextmanager
async def serving(key: Key, kind: type[Acme] = Acme) -> AsyncIterator[Acme]:
    """Acme on a free port of this machine."""
    acme = kind(key)
    app = web.Application(client_max_size=2**26)
    acme.route(app.router)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    acme.base = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        yield acme
    finally:
        acme.before.set()
        acme.after.set()
        await runner.cleanup()


# ── The adapter ─────────────────────────────────────────────────────────────────────────────


class AcmeKey(Credential):
    key: str = "secret"


class Adapter:
    """Acme Mail v1: JSON, any number of changes a call. `Can.JOBS`: batches run as jobs."""

    name: ClassVar[str] = "acme"
    options_model: ClassVar[type[Options]] = Options
    credential_model: ClassVar[type[Credential]] = AcmeKey
    traits: ClassVar[Traits] = Traits(batch=100, meters={"upload": Meter()}, key="ours")

    def __init__(self, wire: Wire, options: Options, findings: Mapping[str, Any]) -> None:
        self._wire = wire

    @classmethod
    def base_url(cls, options: Options) -> str:
        return options.base_url

    @classmethod
    def scope(cls, options: Options, credential: AcmeKey) -> str:
        return credential.key

    @classmethod
    def meters(cls, options: Options) -> Mapping[str, Meter]:
        return cls.traits.meters

    @classmethod
    def key_column(cls, options: Options) -> KeyColumn | None:
        return None

    @classmethod
    def sign(cls, credential: AcmeKey, request: Request) -> Mapping[str, str]:
        return {"X-Acme-Key": credential.key}

    @classmethod
    def judge(cls, request: Request, answer: Answer) -> ProviderError | Literal["ok"] | None:
        if answer.status == 400:
            return Indivisible(orjson.loads(answer.body)["refused"], status=400)
        return None

    async def check(self) -> Sequence[Finding]:
        await self._wire.send(Request("GET", "/check"))
        return [Finding("credentials", "ok", "accepted")]

    async def learn(self) -> Learned | None:
        return None

    async def push(self, changes: Sequence[Change]) -> Sequence[Outcome]:
        body = orjson.dumps([to_wire(one) for one in changes])
        if Can.JOBS in self.traits.can and len(changes) > 1:
            told = _read(await self._wire.send(Request("POST", "/jobs", body)))
            return [Started({"job": told["job"]}, 0.0)] * len(changes)
        rows = _read(await self._wire.send(Request("POST", "/push", body)))
        return [from_wire(row) for row in rows]

    async def find(self, changes: Sequence[Change]) -> Sequence[Found]:
        body = orjson.dumps([to_wire(one) for one in changes])
        rows = _read(await self._wire.send(Request("POST", "/find", body, repeatable=True)))
        return [
            Found({"id": row["id"]}, row["email"], OptedOut() if row["no"] else None)
            if row is not None
            else Found(None)
            for row in rows
        ]

    async def opt_outs(self, since: datetime | None) -> AsyncIterator[Sequence[Notice]]:
        rows = _read(await self._wire.send(Request("GET", "/opt_outs")))
        yield [
            Notice(
                row.get("contact_id"), row.get("email"), row.get("kind", "unsubscribed"),
                datetime.fromisoformat(row["at"]) if "at" in row else None,
            )
            for row in rows
        ]  # fmt: skip

    async def erased(self, change: Change, since: datetime) -> Erased:
        return Erased(confirmed=True)


class WithJobs(Adapter):
    """Batches run as jobs."""

    async def resume(
        self, receipt: Mapping[str, Any], changes: Sequence[Change]
    ) -> Sequence[Outcome]:
        told = _read(await self._wire.send(Request("GET", f"/jobs/{receipt['job']}")))
        if told.get("running"):
            return [Started(receipt, 0.0)] * len(changes)
        return [from_wire(told[one.contact_id]) for one in changes]


def adapter(key: Key, can: Can, batch: int = 100, **traits: Any) -> type[Provider]:
    """Acme's adapter with these traits."""
    said = Traits(
        batch=batch, meters={"upload": Meter()}, key=key, can=can,
        default_fields={"first": "first_name"}, **traits,
    )  # fmt: skip
    kind = WithJobs if Can.JOBS in can else Adapter
    return cast("type[Provider]", type("Acme", (kind,), {"traits": said}))


def to_wire(change: Change) -> dict[str, Any]:
    """The subscription flag travels only where it changes, or where a record is made."""
    want, was = change.want, change.was
    subscribed: bool | None = None
    if want is not None and not want.subscribed:
        subscribed = False if was is None or was.subscribed else None
    elif want is not None and (change.may_create or change.resubscribe):
        subscribed = True
    return {
        "id": change.contact_id,
        "verb": change.verb.value,
        "want": _person(want),
        "was": _person(was),
        "remote": None if change.remote is None else dict(change.remote),
        "may_create": change.may_create,
        "resubscribe": change.resubscribe,
        "subscribed": subscribed if change.verb is Verb.PUT else None,
    }


def _person(person: Person | None) -> dict[str, Any] | None:
    if person is None:
        return None
    return {
        "email": person.email,
        "fields": dict(person.fields),
        "lists": dict(person.lists),
        "subscribed": person.subscribed,
    }


def from_wire(row: Mapping[str, Any]) -> Outcome:
    match row:
        case {"ok": number}:
            return Applied({"id": number} if number else None, row.get("lacking", ()))
        case {"rejected": reason}:
            return Rejected(reason, 422)
        case {"opted_out": kind}:
            return OptedOut(kind)
        case {"gone": _}:
            return Vanished()
        case {"absent": why}:
            return Absent(why)
        case {"wait": one}:
            return Waits(one)
        case {"later": after}:
            return Postponed("in a while", after)
    raise Unintelligible(f"no such outcome: {row}")


def _read(answer: Answer) -> Any:
    try:
        return orjson.loads(answer.body)
    except ValueError:
        raise Unintelligible("the answer is not JSON", status=answer.status) from None
