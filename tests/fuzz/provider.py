"""A provider with a memory: a strict HTTP server on loopback, and the adapter that speaks to it.

The server applies what it is told and keeps a history by the wall clock: when each request left,
until when its sender's lease allowed it to leave, when its claim was begun, when it was applied and
answered. What must never happen is noted at once in `Store.violations`; what design.md allows
(promises 2 and 3) in `Store.residues`, told apart by these times alone.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, ClassVar, Literal

import orjson
from aiohttp import web

from syncd.errors import Indivisible, ProviderError
from syncd.model import (
    Absent,
    Answer,
    Applied,
    Can,
    Change,
    Finding,
    Found,
    Key,
    Learned,
    Meter,
    Notice,
    OptedOut,
    Outcome,
    Postponed,
    Rejected,
    Request,
    Traits,
    Vanished,
    Verb,
)
from syncd.providers import Credential, Options, Wire

Mail = Literal["on", "withdrawn", "silenced", "no"]
"""Whether a record is mailed; if not: by our withdrawal, in the person's name, by its own no."""

claimed_at: ContextVar[float] = ContextVar("claimed_at", default=0.0)
"""When the claim that the current task sends was begun (wall clock)."""


@dataclass(slots=True)
class Record:
    """One contact as the provider holds it. `owner`: whom it was last written for (a witness)."""

    number: str
    owner: str
    email: str
    fields: dict[str, Any] = field(default_factory=dict)
    lists: set[str] = field(default_factory=set)
    mail: Mail = "on"
    no_at: float = 0.0
    no_of: tuple[str, str] = ("", "")  # the contact that said it, and its address then
    deleted: bool = False
    late: bool = False  # last written by a request that left after its sender's lease allowed it


@dataclass(slots=True)
class Sent:
    """One request, as the server saw it."""

    worker: str
    claimed: float
    left: float
    until: float
    contacts: frozenset[str]
    addresses: frozenset[str]
    changes: Sequence[Mapping[str, Any]]
    applied: float | None = None
    answered: float | None = None  # acknowledged: the whole answer went out

    @property
    def arriving(self) -> frozenset[str]:
        """The addresses that somebody gets."""
        return frozenset(
            one["email"] for one in self.changes if one["email"] and one["email"] != one["old"]
        )

    @property
    def late(self) -> bool:
        """Whether it left when its sender's lease no longer let it (design, promise 2)."""
        return self.left > self.until


@dataclass(frozen=True, slots=True)
class Refusal:
    """A person's no at the provider."""

    at: float
    contact: str | None  # where the provider's key is ours
    owner: str
    email: str


@dataclass(slots=True)
class Faults:
    """How often what goes wrong; all zero: nothing."""

    lost_before: float = 0.0
    lost_after: float = 0.0
    busy: float = 0.0
    broken: float = 0.0
    indivisible: float = 0.0
    latency: float = 0.003


@dataclass(slots=True)
class Store:
    """All the provider knows."""

    key: Key
    timeout: float
    tells_ours: bool  # its opt-outs also name those we withdrew or silenced
    flag_only: bool  # a look-up says "not mailed", not why nor since when
    random: random.Random
    faults: Faults = field(default_factory=Faults)
    records: dict[str, Record] = field(default_factory=dict)
    history: list[Sent] = field(default_factory=list)
    flying: list[Sent] = field(default_factory=list)
    refusals: list[Refusal] = field(default_factory=list)
    feed: list[tuple[float, str | None, str]] = field(default_factory=list)
    newest: dict[str, tuple[int, float]] = field(default_factory=dict)  # contact → version, acked
    read_at: dict[tuple[str, float], float] = field(
        default_factory=dict
    )  # worker, claim: noes read
    consents: dict[str, list[float]] = field(default_factory=dict)  # by the driver's writers
    violations: list[str] = field(default_factory=list)
    residues: Counter[str] = field(default_factory=Counter)
    twins: list[tuple[str, str, Sent]] = field(default_factory=list)
    numbers: int = 0

    # ── What may be asked ───────────────────────────────────────────────────────────────────

    def live(self) -> list[Record]:
        return [one for one in self.records.values() if not one.deleted]

    def refuse(self) -> None:
        """Somebody who is mailed says no."""
        mailed = [one for one in self.live() if one.mail == "on"]
        if not mailed:
            return
        one = self.random.choice(mailed)
        one.mail, one.no_at, one.no_of = "no", time.time(), (one.owner, one.email)
        contact = one.number if self.key == "ours" else None
        self.refusals.append(Refusal(one.no_at, contact, one.owner, one.email))
        self.feed.append((one.no_at, contact, one.email))

    def find(self, asked: Mapping[str, Any]) -> Record | None:
        if self.key == "ours":
            found = self.records.get(asked["contact"])
            return None if found is None or found.deleted else found
        if self.key == "remote id" and asked["remote"]:
            found = self.records.get(asked["remote"])
            return None if found is None or found.deleted else found
        emails = [asked["old"], asked["email"]] if self.key == "remote id" else [asked["email"]]
        for email in emails:
            for one in self.live():
                if email and one.email == email:
                    return one
        return None

    def second_records(self) -> list[tuple[str, str]]:
        """Whose records were made beside one it had, which nobody has taken over since."""
        return [
            (owner, f"second record of {owner} made: {_shown(sent)}")
            for number, owner, sent in self.twins
            if self.records[number].owner == owner and self.records[number].mail == "on"
        ]

    # ── What is applied ─────────────────────────────────────────────────────────────────────

    def begin(self, sent: Sent) -> None:
        """Note a request in flight; a violation if it touches what another one does."""
        now = time.time()
        if self.key == "remote id":
            sent.addresses = self._touched(sent)
        self.flying = [
            one for one in self.flying if one.answered is None and one.left + self.timeout > now
        ]
        for other in self.flying:
            if sent.late or other.late:
                continue
            shared = sent.contacts & other.contacts or sent.addresses & other.addresses
            if self.key == "ours" and not sent.contacts & other.contacts:
                # Records with ids of ours may have one address for a while: leaving it concerns
                # nobody who stays.
                shared = sent.arriving & other.addresses | sent.addresses & other.arriving
            if shared:
                self.violations.append(
                    f"two in flight for {sorted(shared)}: {_shown(other)} and {_shown(sent)}"
                )
        self.flying.append(sent)
        self.history.append(sent)
        for one in sent.changes:
            version = (one["fields"] or {}).get("v")
            newer, acked = self.newest.get(one["contact"], (0, 0.0))
            if version is not None and version < newer and sent.left > acked:
                if sent.late:
                    self.residues["late: stale over new"] += 1
                else:
                    self.violations.append(
                        f"stale over new: {one['contact']} v{version} after v{newer}:"
                        f" {_shown(sent)}"
                    )

    def _touched(self, sent: Sent) -> frozenset[str]:
        """Those that are asked for, and those that the records have: which one a lost try left
        behind is a guess of whoever sends it."""
        wanted = {one["email"] for one in sent.changes if one["email"]}
        named = {one["remote"] for one in sent.changes}
        return frozenset(wanted | {one.email for one in self.live() if one.number in named})

    def answered(self, sent: Sent) -> None:
        sent.answered = time.time()
        for one in sent.changes:
            version = (one["fields"] or {}).get("v")
            if version is not None and version > self.newest.get(one["contact"], (0, 0.0))[0]:
                self.newest[one["contact"]] = version, sent.answered

    def apply(self, sent: Sent) -> list[dict[str, Any]]:
        sent.applied = time.time()
        return [self._apply(one, sent) for one in sent.changes]

    def _apply(self, one: Mapping[str, Any], sent: Sent) -> dict[str, Any]:
        if one["verb"] == Verb.PUT:
            if "bad" in str(one["fields"].get("name", "")):
                return {"rejected": "a bad name"}
            return self._put(one, sent)
        target = self._target(one, one["old"])
        if target is not None:
            self._leave(target, one["verb"], sent)
        return {"remote": None}

    def _target(self, one: Mapping[str, Any], email: str | None) -> Record | None:
        if self.key == "address":
            found = self.records.get(email or "")
        else:
            found = self.records.get(one["contact"] if self.key == "ours" else one["remote"] or "")
        return None if found is None or found.deleted else found

    def _leave(self, record: Record, verb: str, sent: Sent) -> None:
        record.late, record.lists = sent.late, set()
        if verb != Verb.WITHDRAW:
            record.deleted = True
        if record.mail == "on":
            record.mail = "withdrawn"
            self._tell(record)

    def _tell(self, record: Record) -> None:
        if self.tells_ours:
            contact = record.number if self.key == "ours" else None
            self.feed.append((time.time(), contact, record.email))

    def _put(self, one: Mapping[str, Any], sent: Sent) -> dict[str, Any]:
        email, owner = one["email"], one["contact"]
        record = self._target(one, email)
        if record is None:
            if self.key == "remote id" and one["remote"]:
                return {"gone": True}
            record = self._made(one, sent)
        elif self.key == "remote id" and record.email != email:
            for other in self.live():
                if other.email == email and other is not record and other.mail == "on":
                    return {"taken": other.number}
        elif self.key == "address" and record.mail == "withdrawn" and one["subscribed"] is None:
            record.mail = "on"
        record.owner, record.email, record.late = owner, email, sent.late
        record.fields.update(one["fields"])
        record.lists = (record.lists - set(one["drop"])) | set(one["add"])
        if one["subscribed"] is False and record.mail != "silenced":
            if record.mail == "on":
                self._tell(record)
            record.mail = "silenced" if record.mail != "no" else "no"
        elif one["subscribed"] is True and record.mail != "on":
            self._turn_on(record, one, sent)
        if self.key == "address" and one["old"] and one["old"] != email:
            old = self.records.get(one["old"])
            if old is not None and not old.deleted:
                self._leave(old, Verb.WITHDRAW, sent)
        return {"remote": record.number}

    def _made(self, one: Mapping[str, Any], sent: Sent) -> Record:
        self.numbers += 1
        owner, email = one["contact"], one["email"]
        number = {"ours": owner, "address": email}.get(self.key, f"r{self.numbers}")
        if self.key == "remote id":
            self.twins += [
                (r.number, owner, sent)
                for r in self.live()
                if r.owner == owner and r.mail == "on" and not (sent.late or r.late)
            ]
        made = Record(number, owner, email, mail="silenced" if one["subscribed"] is False else "on")
        self.records[number] = made
        return made

    def _turn_on(self, record: Record, one: Mapping[str, Any], sent: Sent) -> None:
        newer = any(at > record.no_at for at in self.consents.get(one["contact"], ()))
        same = record.no_of[0] == one["contact"] or record.no_of[1] == one["email"]
        moved = self.key != "ours" and record.no_of[1] != one["email"]
        if record.mail == "no" and same and moved and not newer:
            # Nothing here says whose no it was but the address it was said under.
            self.residues["no under an address that changed before it was read"] += 1
        elif record.mail == "no" and same and not newer:  # else it is somebody else's record now
            looked = self.read_at.get((sent.worker, sent.claimed), 0.0)
            if 0 < looked < record.no_at:  # the reading for this very push came before the no
                self.residues["no within our own request"] += 1
            else:
                self.violations.append(
                    f"resubscribed {record.number} {record.no_of} over a no of"
                    f" {record.no_at:.3f}, read {looked:.3f}: {_shown(sent)}"
                )
        record.mail = "on"


def _shown(sent: Sent) -> str:
    what = [
        f"{c['contact']} {c['verb']} {c['email'] or c['old']} {(c['fields'] or {}).get('v')}"
        for c in sent.changes
    ]
    return (
        f"[worker {sent.worker} claimed {sent.claimed:.3f} left {sent.left:.3f}"
        f" applied {sent.applied or 0:.3f}: {', '.join(what)}]"
    )


# ── The server ──────────────────────────────────────────────────────────────────────────────


class Server:
    """Speaks HTTP for a `Store`, and fails as often as its faults say."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.base = ""

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[None]:
        app = web.Application()
        app.router.add_post("/push", self._push)
        app.router.add_post("/find", self._find)
        app.router.add_get("/opt_outs", self._opt_outs)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.2)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        self.base = f"http://127.0.0.1:{runner.addresses[0][1]}"
        try:
            yield
        finally:
            await runner.cleanup()

    async def _nap(self) -> None:
        await asyncio.sleep(self.store.random.uniform(0, self.store.faults.latency))

    def _chance(self, share: float) -> bool:
        return self.store.random.random() < share

    def _cut(self, request: web.Request) -> web.Response:
        if request.transport is not None:
            request.transport.abort()
        return web.Response(status=500)

    async def _push(self, request: web.Request) -> web.Response:
        store, faults = self.store, self.store.faults
        changes = orjson.loads(await request.read())
        told = request.headers
        sent = Sent(
            told["X-Worker"],
            float(told["X-Claimed"]),
            float(told["X-Left"]),
            float(told["X-Until"]),
            frozenset(one["contact"] for one in changes),
            frozenset(e for one in changes for e in (one["email"], one["old"]) if e),
            changes,
        )
        if self._chance(faults.busy):
            return web.Response(status=429, headers={"Retry-After": "0.05"})
        if len(changes) > 1 and self._chance(faults.indivisible):
            return web.Response(status=422)
        store.begin(sent)
        try:
            await self._nap()
            if self._chance(faults.lost_before):
                return self._cut(request)
            if time.time() > sent.left + store.timeout:  # a strict one: never after our timeout
                return web.Response(status=500)
            outcomes = store.apply(sent)
            await self._nap()
            if self._chance(faults.lost_after):
                return self._cut(request)
            if self._chance(faults.broken):
                return web.Response(status=500)
            if time.time() < sent.left + store.timeout * 0.8 and request.transport is not None:
                store.answered(sent)
            return web.Response(body=orjson.dumps(outcomes))
        finally:
            if sent.answered is None:
                sent.answered = time.time()

    async def _find(self, request: web.Request) -> web.Response:
        asked = orjson.loads(await request.read())
        await self._nap()
        answer: list[dict[str, Any] | None] = []
        for one in asked:
            record = self.store.find(one)
            if record is None:
                answer.append(None)
                continue
            no = record.mail == "no" or (self.store.flag_only and record.mail != "on")
            since = None if self.store.flag_only else record.no_at
            answer.append(
                {"remote": record.number, "email": record.email, "no": no, "since": since}
            )
        await self._nap()
        return web.Response(body=orjson.dumps(answer))

    async def _opt_outs(self, request: web.Request) -> web.Response:
        await self._nap()
        since = float(request.query["since"])
        page = [one for one in self.store.feed if one[0] >= since]
        told = request.headers
        self.store.read_at[told["X-Worker"], float(told["X-Claimed"])] = time.time()
        body = orjson.dumps(page)
        await self._nap()
        return web.Response(body=body)


# ── The adapter ─────────────────────────────────────────────────────────────────────────────


class Badge(Credential):
    """Who is sending; the driver gives each worker its own."""

    worker: str = "0"
    until: Any = None  # () → wall clock until which the lease lets a request leave


class FuzzOptions(Options):
    """Nothing of its own."""


class Fuzz:
    """What the three adapters have in common."""

    name: ClassVar[str]
    options_model = FuzzOptions
    credential_model = Badge
    traits: ClassVar[Traits]

    def __init__(self, wire: Wire, options: Any, findings: Mapping[str, Any]) -> None:
        self._wire = wire

    @classmethod
    def base_url(cls, options: Any) -> str:
        return str(options.base_url)

    @classmethod
    def scope(cls, options: Any, credential: Any) -> str:
        return "fuzz"

    @classmethod
    def meters(cls, options: Any) -> Mapping[str, Meter]:
        return cls.traits.meters

    @classmethod
    def key_column(cls, options: Any) -> None:
        return None

    @classmethod
    def sign(cls, credential: Any, request: Request) -> Mapping[str, str]:
        until = credential.until() if credential.until else 1e12
        return {
            "X-Worker": credential.worker,
            "X-Left": f"{time.time():.6f}",
            "X-Until": f"{until:.6f}",
            "X-Claimed": f"{claimed_at.get():.6f}",
        }

    @classmethod
    def judge(cls, request: Request, answer: Answer) -> ProviderError | Literal["ok"] | None:
        return Indivisible("a batch was refused") if answer.status == 422 else None

    async def check(self) -> Sequence[Finding]:
        return ()

    async def learn(self) -> Learned | None:
        return None

    async def push(self, changes: Sequence[Change]) -> Sequence[Outcome]:
        """One request; a contact that must not be created is looked up first."""
        unknown = [one for one in changes if _must_look(one)]
        known = dict(
            zip((one.contact_id for one in unknown), await self.find(unknown), strict=True)
        )
        outcomes: dict[str, Outcome] = {}
        wires = []
        for one in changes:
            found = known.get(one.contact_id)
            if found is not None and found.remote is None:
                outcomes[one.contact_id] = Absent("not there")
            else:
                wires.append(self._wire_form(one, found))
        if wires:
            answer = await self._wire.send(Request("POST", "/push", orjson.dumps(wires)))
            for form, said in zip(wires, orjson.loads(answer.body), strict=True):
                outcomes[form["contact"]] = _outcome(said)
        return [outcomes[one.contact_id] for one in changes]

    def _wire_form(self, one: Change, found: Found | None) -> dict[str, Any]:
        want, was = one.want, one.was
        remote = (found.remote if found else None) or one.remote or {}
        subscribed: bool | None = None
        if want is not None and not want.subscribed:
            subscribed = False
        elif one.resubscribe:
            subscribed = True
        return {
            "contact": one.contact_id,
            "verb": one.verb.value,
            "email": want.email.lower() if want else None,
            "old": self._old(one),
            "remote": remote.get("id"),
            "fields": dict(want.fields) if want else None,
            "add": sorted(want.lists) if want else [],
            "drop": sorted(set(was.lists) - set(want.lists if want else ())) if was else [],
            "subscribed": subscribed,
        }

    def _old(self, one: Change) -> str | None:
        """The address that a change leaves; one that was only tried is no concern by id. (Of a
        record that a look-up found no fields are known either; but its id is.)"""
        was = one.was
        tried = was is not None and not was.fields and not one.remote
        if was is None or not was.email or (tried and self.traits.key != "address"):
            return None
        return was.email.lower()

    async def find(self, changes: Sequence[Change]) -> Sequence[Found]:
        if not changes:
            return ()
        asked = [
            {
                "contact": one.contact_id,
                "remote": (one.remote or {}).get("id"),
                "email": one.want.email.lower() if one.want else None,
                "old": one.was.email.lower() if one.was else None,
            }
            for one in changes
        ]
        for one in asked:
            one["email"] = one["email"] or one["old"]
        body = orjson.dumps(asked)
        answer = await self._wire.send(Request("POST", "/find", body, repeatable=True))
        return [_found(one) for one in orjson.loads(answer.body)]

    async def opt_outs(self, since: datetime | None) -> AsyncIterator[Sequence[Notice]]:
        after = since.timestamp() - 0.5 if since else 0.0
        answer = await self._wire.send(Request("GET", f"/opt_outs?since={after:.6f}"))
        for at, contact, email in orjson.loads(answer.body):
            yield [Notice(contact, email, "unsubscribed", datetime.fromtimestamp(at, UTC))]


def _must_look(one: Change) -> bool:
    return one.want is not None and one.was is None and not one.may_create and not one.remote


def _outcome(said: Mapping[str, Any]) -> Outcome:
    if "taken" in said:  # it passes as soon as the other one has moved
        return Postponed(f"its address is taken by {said['taken']}", 0.05)
    if "rejected" in said:
        return Rejected(said["rejected"], 400)
    if "gone" in said:
        return Vanished()
    return Applied(None if said["remote"] is None else {"id": said["remote"]})


def _found(said: Mapping[str, Any] | None) -> Found:
    if said is None:
        return Found(None)
    since = None if said["since"] is None else datetime.fromtimestamp(said["since"], UTC)
    no = OptedOut("unsubscribed", None, since) if said["no"] else None
    return Found({"id": said["remote"]}, said["email"], no)


_ALWAYS = Can.FIND | Can.OPT_OUT | Can.RESUBSCRIBE
_METERS = {"default": Meter()}


class FuzzOurs(Fuzz):
    """Our id is its key, like CleverTap's identity."""

    name = "fuzz_ours"
    traits = Traits(4, _METERS, "ours", _ALWAYS | Can.REPEAT)


class FuzzRemote(Fuzz):
    """Ids of its own: a repeat makes a second record."""

    name = "fuzz_remote"
    traits = Traits(1, _METERS, "remote id", _ALWAYS)


class FuzzAddress(Fuzz):
    """The address is its key."""

    name = "fuzz_address"
    traits = Traits(4, _METERS, "address", _ALWAYS | Can.REPEAT)


KINDS: Mapping[Key, type[Fuzz]] = {
    "ours": FuzzOurs,
    "remote id": FuzzRemote,
    "address": FuzzAddress,
}
