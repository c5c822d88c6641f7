"""Acme Lists: members of lists, one a call; an add tells no id, only paging does.

As strict as Acme Mail: whoever left is not shown any more, and whoever adds them back, makes a
second record, or writes to a list while it is being read is named in `breaches`.
"""

from __future__ import annotations

import asyncio
import itertools
from collections import deque
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, cast

import orjson
from acme import Adapter, Fault, _cut
from aiohttp import web
from support import World, add_destination

from syncd.db import Pool
from syncd.errors import Ambiguous, Transient
from syncd.model import (
    Answer,
    Applied,
    Can,
    Change,
    Found,
    Key,
    Meter,
    Outcome,
    Page,
    Rejected,
    Request,
    Seen,
    Traits,
    Verb,
    Waits,
)
from syncd.providers import Provider

LISTS = Can.SCAN | Can.LISTS | Can.RENAME_LIST | Can.DELETE_LIST


@dataclass(slots=True)
class Member:
    """One contact of the account. left: the person went; it is shown nowhere any more."""

    id: str
    email: str
    fields: dict[str, Any]
    left: bool = False


@dataclass(slots=True)
class Shelves:
    """What Acme Lists holds, and what was done to it."""

    key: Key = "remote id"
    base: str = ""
    lists: dict[str, str] = field(default_factory=dict)
    members: dict[str, Member] = field(default_factory=dict)
    inside: dict[str, list[str]] = field(default_factory=dict)  # list → member ids, in order
    doubles: bool = False  # an add of an address that is there makes a second record
    size: int = 3
    breaches: list[str] = field(default_factory=list)
    calls: list[str] = field(default_factory=list)
    faults: deque[Fault] = field(default_factory=deque)  # of writes
    page_faults: deque[Fault | None] = field(default_factory=deque)  # of pages
    empty: set[str] = field(default_factory=set)  # lists that answer as if nobody were in them
    guards_reading: bool = True  # nobody may write to a list of which not all pages were asked for
    reading: set[str] = field(default_factory=set)
    ghosts: set[str] = field(default_factory=set)  # who is shown, and cannot be edited
    noes: set[str] = field(default_factory=set)  # who is shown, as unsubscribed
    turn: asyncio.Event = field(default_factory=asyncio.Event)  # set: pages are answered
    on_page: Any = None  # called with (list, offset) before a page is answered
    _numbers: Any = field(default_factory=lambda: itertools.count(1))

    def __post_init__(self) -> None:
        self.turn.set()

    # What tests look at, and do there

    def make_list(self, name: str) -> str:
        number = f"L{next(self._numbers)}"
        self.lists[number], self.inside[number] = name, []
        return number

    def enter(self, list_id: str, *emails: str) -> None:
        """Somebody puts these there by hand."""
        for email in emails:
            member = self.at(email) or Member(f"m{next(self._numbers)}", email, {})
            self.members[member.id] = member
            self.inside[list_id].append(member.id)

    def at(self, email: str) -> Member | None:
        found = [one for one in self.members.values() if one.email.lower() == email.lower()]
        return found[0] if found else None

    def leave(self, *emails: str) -> None:
        """These people opt out there: they are shown no more."""
        for email in emails:
            member = self.at(email)
            assert member is not None
            member.left = True

    def held(self) -> dict[str, list[str]]:
        """List name → addresses that are mailed there."""
        return {
            name: sorted(self.members[m].email for m in self.inside[n] if not self.members[m].left)
            for n, name in self.lists.items()
        }

    def count(self, start: str) -> int:
        return sum(1 for one in self.calls if one.startswith(start))

    # What the adapter asks

    async def handle(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        said = orjson.loads(body) if body else {}
        self.calls.append(f"{request.method} {request.path}")
        parts = request.path.strip("/").split("/")
        if request.method == "GET":
            return await self._get(request, parts)
        fault = self.faults.popleft() if self.faults else None
        if isinstance(fault, int) and fault:  # 0: this one goes well
            return web.Response(status=fault)
        if fault == "cut":
            return _cut(request)
        if self.guards_reading and len(parts) > 2 and parts[1] in self.reading:
            self.breaches.append(f"{request.method} {request.path} while the list is being read")
        answer = self._write(request.method, parts, said)
        return _cut(request) if fault == "lost" else answer

    async def _get(self, request: web.Request, parts: Sequence[str]) -> web.StreamResponse:
        if parts == ["check"]:
            return web.Response(status=204)
        if parts == ["lists"]:
            return web.json_response(self.lists)
        if parts == ["account"]:
            return web.json_response([self._row(m) for m in self.members.values() if not m.left])
        await self.turn.wait()
        fault = self.page_faults.popleft() if self.page_faults else None
        if isinstance(fault, int):
            return web.Response(status=fault)
        number, offset = parts[1], int(request.query["offset"])
        if self.on_page is not None:
            self.on_page(number, offset)
        if number not in self.lists:
            return web.json_response({"error": "no such list"}, status=404)
        shown = [m for m in self.inside[number] if not self.members[m].left]
        rows = [] if number in self.empty else shown[offset : offset + self.size]
        (self.reading.add if len(rows) == self.size else self.reading.discard)(number)
        return web.json_response([[one, self.members[one].email] for one in rows])

    def _row(self, member: Member) -> dict[str, Any]:
        lists = [number for number, inside in self.inside.items() if member.id in inside]
        subscribed = member.email not in self.noes
        return {"id": member.id, "email": member.email, "subscribed": subscribed, "lists": lists}

    def _write(
        self, method: str, parts: Sequence[str], said: Mapping[str, Any]
    ) -> web.StreamResponse:
        if parts == ["lists"]:
            if said["name"] in self.lists.values():
                self.breaches.append(f"a second list {said['name']}")
            return web.json_response({"id": self.make_list(said["name"])})
        number = parts[1]
        if number not in self.lists:
            return web.json_response({"error": "no such list"}, status=404)
        if len(parts) == 2 and method == "DELETE":
            del self.lists[number], self.inside[number]
        elif len(parts) == 2:
            self.lists[number] = said["name"]
        elif len(parts) == 3:
            self._add(number, said)
        else:
            return self._change(method, number, parts[3], said)
        return web.json_response({})

    def _add(self, number: str, said: Mapping[str, Any]) -> None:
        member = self.at(said["email"])
        if member is not None and member.left:
            self.breaches.append(f"{member.email} left, and was added back")
        if member is None or (self.doubles and member.id in self.inside[number]):
            if member is not None:
                self.breaches.append(f"a second record of {member.email}")
            member = Member(f"m{next(self._numbers)}", said["email"], {})
            self.members[member.id] = member
        member.fields.update(said["fields"])
        if member.id not in self.inside[number]:
            self.inside[number].append(member.id)

    def _change(
        self, method: str, number: str, one: str, said: Mapping[str, Any]
    ) -> web.StreamResponse:
        member = self.members.get(one)
        if member is None or member.left or {one, member.email} & self.ghosts:
            return web.json_response({"error": "no such member"}, status=404)
        if one not in self.inside[number]:
            return web.json_response({"error": "no such member"}, status=404)
        if method == "DELETE":
            self.inside[number].remove(one)
        elif (other := self.at(said["email"])) is not None and other is not member:
            return web.json_response({"error": "the address already exists"}, status=409)
        else:
            self.members[one].email = said["email"]
            self.members[one].fields.update(said["fields"])
        return web.json_response({})


# ── The adapter ─────────────────────────────────────────────────────────────────────────────


class Reader(Adapter):
    """Edits and removals need an id, which only a scan tells."""

    TRAITS: ClassVar[Traits] = Traits(
        batch=1, meters={"upload": Meter()}, key="remote id", can=LISTS, needs_list=True,
        default_fields={"first": "first_name"},
    )  # fmt: skip

    written: int = 0  # writes that were acknowledged

    @classmethod
    def judge(cls, request: Request, answer: Answer) -> Any:
        if answer.status in (404, 409):
            return "ok" if "/members/" in request.target else None
        return None

    async def _send(self, method: str, target: str, said: Any = None) -> Answer:
        body = b"" if said is None else orjson.dumps(said)
        answer = await self._wire.send(Request(method, target, body, repeatable=method != "POST"))
        self.written += method != "GET"
        return answer

    # Lists

    async def lists(self) -> Mapping[str, str]:
        return cast("dict[str, str]", orjson.loads((await self._send("GET", "/lists")).body))

    async def create_list(self, name: str) -> str:
        told = orjson.loads((await self._send("POST", "/lists", {"name": name})).body)
        return str(told["id"])

    async def rename_list(self, remote_id: str, name: str) -> None:
        await self._send("POST", f"/lists/{remote_id}", {"name": name})

    async def delete_list(self, remote_id: str) -> None:
        await self._send("DELETE", f"/lists/{remote_id}")

    # Contacts

    async def push(self, changes: Sequence[Change]) -> Sequence[Outcome]:
        (change,) = changes
        before = self.written
        try:
            return [await self._one(change)]
        except Transient as error:  # what the change has begun is not undone by what fails later
            if self.written > before:
                raise Ambiguous(error.reason, status=error.status) from None
            raise

    async def _one(self, change: Change) -> Outcome:
        ids = dict((change.remote or {}).get("ids", {}))
        was = change.was.lists if change.was is not None and change.was.subscribed else {}
        want = change.want.lists if change.want is not None and change.want.subscribed else {}
        for ours, there in was.items():
            if there not in ids:
                return Waits(ours)
        for ours, there in was.items():
            if ours not in want:
                await self._send("DELETE", f"/lists/{there}/members/{ids.pop(there)}")
        if change.want is None or change.verb is not Verb.PUT:
            return Applied({"ids": ids})
        said = {"email": change.want.email, "fields": dict(change.want.fields)}
        for ours, there in want.items():
            if ours in was:
                target = f"/lists/{there}/members/{ids[there]}"
                answer = await self._send("POST", target, said)
                if answer.status == 409:
                    return Rejected(orjson.loads(answer.body)["error"], 409)
                if answer.status == 404:
                    return Waits(ours)
        for ours, there in want.items():
            if ours not in was:
                ids.pop(there, None)
                await self._send("POST", f"/lists/{there}/members", said)
        return Applied({"ids": ids})

    # Reading

    async def scan(
        self, list_id: str | None, cursor: Mapping[str, Any] | None
    ) -> AsyncIterator[Page]:
        offset, known = (cursor or {}).get("offset", 0), set[str]()
        while True:
            target = f"/lists/{list_id}/members?offset={offset}"
            rows = orjson.loads((await self._send("GET", target)).body)
            if not any(one not in known for one, _ in rows):
                return
            known = {one for one, _ in rows}
            offset += max(1, len(rows) - 1)  # one row back: rows may have gone meanwhile
            yield Page([Seen(*row) for row in rows], {"offset": offset}, {"unit": "rows"})

    @classmethod
    def remembered(
        cls, remote: Mapping[str, Any] | None, list_id: str | None, seen: Seen
    ) -> Mapping[str, Any]:
        ids = {**(remote or {}).get("ids", {}), list_id: seen.remote_id}
        return {**(remote or {}), "ids": ids}


class Finder(Reader):
    """Can also look one member up, where its id is known."""

    async def find(self, changes: Sequence[Change]) -> Sequence[Found]:
        return [Found({"ids": {}}) for _ in changes]


def reader(can: Can = LISTS, **traits: Any) -> type[Provider]:
    said = replace(Reader.TRAITS, can=can, **traits)
    base = Finder if can & (Can.FIND | Can.SEES_GONE) else Reader
    return cast("type[Provider]", type("AcmeLists", (base,), {"traits": said}))


@asynccontextmanager
async def serving() -> AsyncIterator[Shelves]:
    shelves = Shelves()
    app = web.Application()
    app.router.add_route("*", "/{tail:.*}", shelves.handle)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    shelves.base = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        yield shelves
    finally:
        shelves.turn.set()
        await runner.cleanup()


class Shop(World):
    """A database, Acme Lists, and the workers of one destination there."""

    shelves: Shelves


@asynccontextmanager
async def shop(
    pool: Pool, can: Can = LISTS, *, fresh: bool = True, traits: dict[str, Any] | None = None,
    **columns: Any,
) -> AsyncIterator[Shop]:  # fmt: skip
    """Acme Lists with one new destination, which nobody has read or filled yet."""
    async with serving() as server, AsyncExitStack() as stack:
        made = Shop(pool, cast("Any", server), stack)
        made.shelves = server
        made.kind = reader(can, **(traits or {}))
        await add_destination(pool, "acme", **{"guard_percent": 100, **columns})
        if fresh:
            await pool.execute("update syncd.feed set position = null, owes_full = true")
        await made.another()
        yield made
        assert not server.breaches, server.breaches
