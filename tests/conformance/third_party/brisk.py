"""What somebody else ships: an adapter, its stand, and adapters that are each wrong in one thing.

Registered by `test_third_party`, which writes the entry points of a package that holds this file.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any, ClassVar, Literal, Self

import orjson
from acme import Acme, Adapter, _read, serving
from aiohttp import web
from pydantic import SecretStr, field_validator
from stands import Held, Mishap, Stand, Vector

from syncd.errors import ProviderError
from syncd.model import (
    Can,
    Change,
    Comparer,
    Differences,
    Finding,
    Found,
    Meter,
    Outcome,
    Page,
    Person,
    Rejected,
    Request,
    Seen,
    Traits,
)
from syncd.providers import Credential, Options

FAULTS: Mapping[Mishap, Any] = {
    "cut_before": "cut", "outage_close": "cut", "cut_after": "lost", "half_answer": "lost",
    "error_after": "lost", "html": "garbage", "garbage": "garbage", "error": 500, "rate_429": 429,
}  # fmt: skip
ADDRESS = re.compile(r"[^\s@]+@[^\s@]+\.\w+")


READS = Can.SCAN | Can.LISTS | Can.COMPARE


class BriskKey(Credential):
    key: SecretStr

    @field_validator("key")
    @classmethod
    def _stripped(cls, secret: SecretStr) -> SecretStr:
        text = secret.get_secret_value().strip()
        if not text or not text.isprintable():
            raise ValueError("is no key")
        return SecretStr(text)


class Brisk(Adapter):
    """Brisk Mail: Acme's interface, our ids, a key in a header."""

    name = "brisk"
    credential_model: ClassVar[type[Credential]] = BriskKey
    traits = Traits(
        batch=100,
        meters={"default": Meter(in_flight=4)},
        key="ours",
        can=Can.REPEAT | Can.FIND | Can.OPT_OUT | Can.RESUBSCRIBE | Can.ERASE | READS,
        default_fields={"first": "first_name"},
        scans="account",
        whole_pages=True,
    )

    @classmethod
    def base_url(cls, options: Options) -> str:
        return options.base_url or "https://brisk.example"

    @classmethod
    def scope(cls, options: Options, credential: Any) -> str:
        return str(credential.key.get_secret_value())

    @classmethod
    def meters(cls, options: Options) -> Mapping[str, Meter]:
        return cls.traits.meters

    @classmethod
    def sign(cls, credential: Any, request: Request) -> Mapping[str, str]:
        return {"X-Brisk-Key": credential.key.get_secret_value()}

    async def check(self) -> Sequence[Finding]:
        try:
            return await super().check()
        except ProviderError as err:
            return [
                Finding("credentials", "error", err.reason, "have a new key made", err.exit_code)
            ]

    async def push(self, changes: Sequence[Change]) -> Sequence[Outcome]:
        good = [one._replace(want=tidied(one.want), was=tidied(one.was))
                for one in changes if not is_bad(one)]  # fmt: skip
        told = iter(await super().push([self.moved(one) for one in good]) if good else [])
        return [Rejected("no address") if is_bad(one) else next(told) for one in changes]

    @classmethod
    def moved(cls, change: Change) -> Change:
        """Only with the lists that change: a person may have left one of the others."""
        want, was = change.want, change.was
        if want is None or was is None:
            return change
        stays = {k for k, one in want.lists.items() if change.sure_lists.get(k) == one}
        return change._replace(
            want=want._replace(lists={k: v for k, v in want.lists.items() if k not in stays}),
            was=was._replace(lists={k: v for k, v in was.lists.items() if k not in stays}),
        )

    async def find(self, changes: Sequence[Change]) -> Sequence[Found]:
        if not changes:
            return []
        found = await super().find(changes)
        there = {one.remote_id: one.lists for one in await self._records()}
        return [
            one if one.remote is None else replace(one, lists=there.get(one.remote["id"]))
            for one in found
        ]

    async def _records(self) -> Sequence[Seen]:
        rows = _read(await self._wire.send(Request("GET", "/records")))
        return [Seen(**row) for row in rows]

    async def comparer(self) -> Comparer:
        return unlike

    async def scan(
        self,
        list_id: str | None,
        cursor: Mapping[str, Any] | None,
    ) -> AsyncIterator[Page]:
        if cursor is None and (records := await self._records()):
            yield Page(records, {"read": True})

    @classmethod
    def remembered(
        cls,
        remote: Mapping[str, Any] | None,
        list_id: str | None,
        seen: Seen,
    ) -> Mapping[str, Any]:
        return {"id": seen.remote_id}

    async def lists(self) -> Mapping[str, str]:
        told: Mapping[str, str] = _read(await self._wire.send(Request("GET", "/lists")))
        return told

    async def create_list(self, name: str) -> str:
        body = orjson.dumps({"name": name})
        told = _read(await self._wire.send(Request("POST", "/lists", body, repeatable=True)))
        return str(told["id"])


def is_bad(change: Change) -> bool:
    email = None if change.want is None else change.want.email
    return email is not None and not (email.isprintable() and ADDRESS.fullmatch(email))


def tidied(want: Person | None) -> Person | None:
    """Without halves of surrogate pairs, which JSON cannot carry."""
    if want is None:
        return None
    texts = {k: str(v).encode(errors="ignore").decode() for k, v in want.fields.items()}
    return want._replace(fields=texts)


def unlike(person: Person, told: Mapping[str, Any]) -> Differences:
    wanted = tidied(person)
    assert wanted is not None
    pairs = {name: (value, told.get(name)) for name, value in wanted.fields.items()}
    return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}


class Server(Acme):
    """Takes one key; tells of lists, and of everybody."""

    def route(self, router: web.UrlDispatcher) -> None:
        super().route(router)
        self.names: dict[str, str] = {}
        router.add_get("/records", self.everybody)
        router.add_get("/lists", self.all_lists)
        router.add_post("/lists", self.add_list)

    async def everybody(self, request: web.Request) -> web.StreamResponse:
        self.requests.append((request.path, 0))
        return web.json_response([
            {"remote_id": one.id, "email": one.email, "contact_id": one.owner,
             "subscribed": one.subscribed, "lists": sorted(one.lists), "fields": one.fields}
            for one in self.records.values()
        ])  # fmt: skip

    async def all_lists(self, request: web.Request) -> web.StreamResponse:
        self.requests.append((request.path, 0))
        return web.json_response(self.names)

    async def add_list(self, request: web.Request) -> web.StreamResponse:
        self.requests.append((request.path, 0))
        number = f"L{len(self.names) + 1}"
        self.names[number] = orjson.loads(await request.read())["name"]
        return web.json_response({"id": number})

    async def push(self, request: web.Request) -> web.StreamResponse:
        self.unauthorized |= request.headers.get("X-Brisk-Key") != "brisk-secret-key"
        return await super().push(request)


class BriskStand(Stand):
    credential = {"key": "brisk-secret-key"}
    wrong = {"key": "another-secret-key"}
    text_field = "first"
    vectors = [
        Vector("key", lambda: Brisk.sign(BriskKey(key=SecretStr("k")), Request("GET", "/")),
               {"X-Brisk-Key": "k"}),
    ]  # fmt: skip

    def __init__(self, server: Acme) -> None:
        self.server = server

    @classmethod
    @asynccontextmanager
    async def serving(cls, way: str) -> AsyncIterator[Self]:
        async with serving("ours", Server) as server:
            yield cls(server)

    @property
    def options(self) -> Mapping[str, Any]:
        return {"base_url": self.server.base}

    @property
    def requests(self) -> int:
        return len(self.server.requests)

    def held(self) -> Sequence[Held]:
        return [
            Held(one.email, one.fields, frozenset(one.lists), one.subscribed)
            for one in self.server.records.values()
        ]

    def breaches(self) -> Sequence[Any]:
        return self.server.breaches

    def strike(self, mishap: Mishap, at: Literal["any", "create"] = "any") -> None:
        self.server.faults.append(FAULTS[mishap])

    def revoke(self) -> None:
        self.server.unauthorized = True

    def say_no(self, email: str) -> None:
        self.server.say_no(email)
        self.server.notices.append({"email": email})

    def leave_list(self, email: str, list_id: str) -> None:
        for one in self.server.at(email):
            one.lists.discard(list_id)

    def refuse(self, email: str) -> None:
        number = re.sub(r"\D", "", email.partition("@")[0])
        self.server.refuses = {f"c{number}": {"rejected": "not liked"}}

    def fill_up(self) -> None:
        self.server.refuses_all = "the account is full"

    def tidy(self, text: str) -> str:
        return text.encode(errors="ignore").decode()


# ── Each wrong in one thing ─────────────────────────────────────────────────────────────────


class Unordered(Brisk):
    """Answers in an order of its own."""

    name = "unordered"

    async def push(self, changes: Sequence[Change]) -> Sequence[Outcome]:
        return list(await super().push(changes))[::-1]


class Short(Brisk):
    """Says nothing of those that it did not send."""

    name = "short"

    async def push(self, changes: Sequence[Change]) -> Sequence[Outcome]:
        return [one for one in await super().push(changes) if not isinstance(one, Rejected)]


class Doubling(Brisk):
    """Makes another one where an answer was lost."""

    name = "doubling"

    async def push(self, changes: Sequence[Change]) -> Sequence[Outcome]:
        again = [
            one._replace(contact_id=f"{one.contact_id}-2", may_create=True) if one.doubtful else one
            for one in changes
        ]
        return await super().push(again)


class Boasting(Brisk):
    """Declares what it cannot."""

    name = "boasting"
    traits = replace(Brisk.traits, can=Brisk.traits.can | Can.EXPORT)


class Forgiving(Brisk):
    """Takes a refused key for a bad contact."""

    name = "forgiving"

    async def push(self, changes: Sequence[Change]) -> Sequence[Outcome]:
        try:
            return await super().push(changes)
        except ProviderError as err:
            if not err.needs_a_person:
                raise
            return [Rejected(err.reason, err.status)] * len(changes)


class Pushy(Brisk):
    """Subscribes whoever it writes."""

    name = "pushy"

    async def push(self, changes: Sequence[Change]) -> Sequence[Outcome]:
        return await super().push([one._replace(resubscribe=True) for one in changes])


class Harsh(Brisk):
    """One bad contact spoils the batch."""

    name = "harsh"

    async def push(self, changes: Sequence[Change]) -> Sequence[Outcome]:
        outcomes = await super().push(changes)
        bad = next((one for one in outcomes if isinstance(one, Rejected)), None)
        return outcomes if bad is None else [bad] * len(changes)


class Mangling(Brisk):
    """Loses what is not ASCII."""

    name = "mangling"

    async def push(self, changes: Sequence[Change]) -> Sequence[Outcome]:
        plain = []
        for one in changes:
            want = one.want
            if want is not None:
                texts = {
                    k: str(v).encode("ascii", "ignore").decode() for k, v in want.fields.items()
                }
                want = want._replace(fields=texts)
            plain.append(one._replace(want=want))
        return await super().push(plain)


class OpenKey(Credential):
    key: str


class Talkative(Brisk):
    """Shows its key to whoever prints it."""

    name = "talkative"
    credential_model = OpenKey

    @classmethod
    def scope(cls, options: Options, credential: Any) -> str:
        return str(credential.key)

    @classmethod
    def sign(cls, credential: Any, request: Request) -> Mapping[str, str]:
        return {"X-Brisk-Key": credential.key}


class Unmetered(Brisk):
    """Asks for a meter that it has not told of."""

    name = "unmetered"

    @classmethod
    def meters(cls, options: Options) -> Mapping[str, Meter]:
        return {"other": Meter()}


class Vague(Brisk):
    """A look-up says that nobody is in any list."""

    name = "vague"

    async def find(self, changes: Sequence[Change]) -> Sequence[Found]:
        return [replace(one, lists=()) for one in await super().find(changes)]


class Mute(Brisk):
    """A look-up says nothing of lists, though the core is told that it does."""

    name = "mute"

    async def find(self, changes: Sequence[Change]) -> Sequence[Found]:
        return [replace(one, lists=None) for one in await super().find(changes)]


class Listless(Brisk):
    """A scan forgets the lists."""

    name = "listless"

    async def _records(self) -> Sequence[Seen]:
        return [replace(one, lists=()) for one in await super()._records()]


class Cheerful(Brisk):
    """A scan takes everybody for subscribed."""

    name = "cheerful"

    async def _records(self) -> Sequence[Seen]:
        return [replace(one, subscribed=True) for one in await super()._records()]


class ToTheLetter(Brisk):
    """Takes what is tidied away for a difference."""

    name = "totheletter"

    async def comparer(self) -> Comparer:
        return lambda person, told: {
            name: (value, told.get(name))
            for name, value in person.fields.items()
            if value != told.get(name)
        }


class Trusting(Brisk):
    """Sees no difference."""

    name = "trusting"

    async def comparer(self) -> Comparer:
        return lambda _person, _told: {}


class Clinging(Brisk):
    """Puts everybody into all their lists with every change."""

    name = "clinging"

    @classmethod
    def moved(cls, change: Change) -> Change:
        return change


BROKEN = {
    Unordered: "outcomes_are_as_many",
    Short: "outcomes_are_as_many",
    Doubling: "answer_was_lost_is_looked_up",
    Boasting: "flag_is_set",
    Forgiving: "credentials_that_are_wrong",
    Pushy: "nothing_undoes_it_without_leave",
    Harsh: "one_bad_record",
    Mangling: "a_text_is_kept",
    Talkative: "shows_no_secret",
    Unmetered: "every_request_asks_for_leave",
    Vague: "a_look_up_tells_the_lists",
    Mute: "a_look_up_tells_the_lists",
    Listless: "a_scan_tells_lists_and_status",
    Cheerful: "a_scan_tells_lists_and_status",
    ToTheLetter: "what_is_read_back",
    Trusting: "what_is_read_back",
    Clinging: "who_left_one_list_there",
}
"""Which test of the suite must find it out."""
