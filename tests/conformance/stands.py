"""Stands: how the suite reaches a provider's stand-in, one class a provider.

Those of our own are the modules `stand_*` beside this one. Whoever ships an adapter registers a
stand of theirs under the entry-point group `syncd.conformance`, by the adapter's name, and runs
`pytest tests/conformance`.
"""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple, Self

from syncd.sandbox import Handle, serve

GROUP = "syncd.conformance"

Mishap = Literal["cut_before", "cut_after", "half_answer", "error", "error_after", "html",
                 "garbage", "rate_429", "outage_close", "revoked"]  # fmt: skip
"""What befalls a request, as the sandbox's faults are called."""


@dataclass(frozen=True)
class Held:
    """A contact as the stand-in holds it; `lists`: the remote ids of those it is in."""

    email: str
    fields: Mapping[str, Any]
    lists: frozenset[str]
    mailable: bool


class Vector(NamedTuple):
    """A line of the reference: what the adapter makes of it, and what it must be."""

    name: str
    made: Callable[[], Any]
    expected: Any


class Stand(ABC):
    """One running stand-in. The class says how to start it, and what is to be expected of it."""

    ways: ClassVar[Mapping[str, Mapping[str, Any]]] = {"": {}}
    """Options of the destination beside `base_url`; the whole suite runs once for each of them."""
    credential: ClassVar[Mapping[str, str]]
    wrong: ClassVar[Mapping[str, str]]  # of the same form, and not taken there
    text_field: ClassVar[str]  # the name of a field that holds free text
    vectors: ClassVar[Sequence[Vector]]
    findings: ClassVar[Mapping[str, Any]] = {}  # what `learn` would find, where that takes long
    can_be_full: ClassVar[bool] = True
    keeps_lists: bool = True

    @classmethod
    @abstractmethod
    def serving(cls, way: str) -> Any:
        """An async context manager that yields a running stand of that way."""

    @property
    @abstractmethod
    def options(self) -> Mapping[str, Any]:
        """Of a destination that sends here, `base_url` included."""

    @property
    @abstractmethod
    def requests(self) -> int:
        """How many were made so far."""

    @abstractmethod
    def held(self) -> Sequence[Held]:
        """Every contact that is there, mailed or not."""

    @abstractmethod
    def breaches(self) -> Sequence[Any]:
        """What no correct client does: doubles, records made twice, mail to who said no, …"""

    @abstractmethod
    def strike(self, mishap: Mishap, at: Literal["any", "create"] = "any") -> None:
        """Let it befall the next request; or the next one that makes a contact."""

    @abstractmethod
    def revoke(self) -> None:
        """From now on the credential is not taken any more."""

    @abstractmethod
    def say_no(self, email: str) -> None:
        """The person opts out there."""

    def leave_list(self, email: str, list_id: str) -> None:
        """The person leaves this one list there. Where lists are objects of their own."""
        raise NotImplementedError

    @property
    def looks_up(self) -> int:
        """Requests about each new contact before it is made."""
        return 0

    @abstractmethod
    def refuse(self, email: str) -> None:
        """Have records of that address refused, and no others."""

    @abstractmethod
    def fill_up(self) -> None:
        """Not one contact more."""

    @abstractmethod
    def tidy(self, text: str) -> str:
        """What is kept of a text, by the reference; the text itself, as a rule."""

    def list_name(self, text: str) -> str:
        """What is kept of a list's name."""
        return text

    def at(self, email: str) -> list[Held]:
        return [one for one in self.held() if one.email.lower() == email.lower()]


class SandboxStand(Stand):
    """A stand whose stand-in is one of `syncd.sandbox`."""

    provider: ClassVar[str]
    limits: ClassVar[Mapping[str, Any]] = {}
    create: ClassVar[tuple[str, str]]  # method and path of the request that makes a contact
    broken: ClassVar[Sequence[str]] = ("duplicates", "resubscribed")  # of `GET /_state`

    def __init__(self, box: Handle, way: str) -> None:
        self.box, self.way = box, way

    @classmethod
    @asynccontextmanager
    async def serving(cls, way: str) -> AsyncIterator[Self]:
        async with serve(cls.provider, **cls.limits) as box:
            yield cls(box, way)

    @property
    def options(self) -> Mapping[str, Any]:
        return {"base_url": self.box.url, **self.ways[self.way]}

    @property
    def requests(self) -> int:
        return int(self.box.state.ledger.requests)

    def breaches(self) -> Sequence[Any]:
        state = self.box.snapshot()
        return [*state["violations"], *(x for name in self.broken for x in state[name])]

    def strike(self, mishap: Mishap, at: Literal["any", "create"] = "any") -> None:
        method, path = self.create if at == "create" else (None, None)
        self.box.next_fault(mishap, path=path, method=method)

    def revoke(self) -> None:
        self.box.set_faults(revoked=True)

    def say_no(self, email: str) -> None:
        self.box.act("unsubscribe", email=email)

    def refuse(self, email: str) -> None:
        self.box.set_limits(refused=[email])

    def fill_up(self) -> None:
        self.box.set_limits(most_contacts=len(self.held()))

    @property
    def profiles(self) -> Mapping[str, Any]:
        found: Mapping[str, Any] = self.box.snapshot()["profiles"]
        return found


@cache
def stands() -> Mapping[str, type[Stand]]:
    """Every stand by the name of its adapter."""
    ours = {
        path.stem.removeprefix("stand_"): importlib.import_module(path.stem).STAND
        for path in sorted(Path(__file__).parent.glob("stand_*.py"))
    }
    return {**ours, **{one.name: one.load() for one in entry_points(group=GROUP)}}
