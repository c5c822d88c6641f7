"""What somebody else ships: an adapter, its stand, and adapters that are each wrong in one thing.

Registered by `test_third_party`, which writes the entry points of a package that holds this file.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any, ClassVar, Literal, Self

from acme import Acme, Adapter, serving
from aiohttp import web
from pydantic import SecretStr, field_validator
from stands import Held, Mishap, Stand, Vector

from syncd.errors import ProviderError
from syncd.model import (
    Can,
    Change,
    Finding,
    Found,
    Meter,
    Outcome,
    Person,
    Rejected,
    Request,
    Traits,
)
from syncd.providers import Credential, Options

FAULTS: Mapping[Mishap, Any] = {
    "cut_before": "cut", "outage_close": "cut", "cut_after": "lost", "half_answer": "lost",
    "error_after": "lost", "html": "garbage", "garbage": "garbage", "error": 500, "rate_429": 429,
}  # fmt: skip
ADDRESS = re.compile(r"[^\s@]+@[^\s@]+\.\w+")


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
        can=Can.REPEAT | Can.FIND | Can.OPT_OUT | Can.RESUBSCRIBE | Can.ERASE,
        default_fields={"first": "first_name"},
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
        told = iter(await super().push(good) if good else [])
        return [Rejected("no address") if is_bad(one) else next(told) for one in changes]

    async def find(self, changes: Sequence[Change]) -> Sequence[Found]:
        return await super().find(changes) if changes else []


def is_bad(change: Change) -> bool:
    email = None if change.want is None else change.want.email
    return email is not None and not (email.isprintable() and ADDRESS.fullmatch(email))


def tidied(want: Person | None) -> Person | None:
    """Without halves of surrogate pairs, which JSON cannot carry."""
    if want is None:
        return None
    texts = {k: str(v).encode(errors="ignore").decode() for k, v in want.fields.items()}
    return want._replace(fields=texts)


class Server(Acme):
    """Takes one key."""

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
    traits = replace(Brisk.traits, can=Brisk.traits.can | Can.SCAN)


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
}
"""Which test of the suite must find it out."""
