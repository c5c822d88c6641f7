"""What a campaign leaves behind for the checker: plain values, made of histories or made up."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from .shapes import Record


@dataclass(frozen=True)
class Sent:
    """A request as the provider took it. at: when it was applied; began: when it arrived."""

    number: int
    began: float
    at: float
    path: str = ""
    alive: bool = True  # its sender still waited for the answer


@dataclass(frozen=True)
class Became:
    """What a record became. request 0: by a deed of a person at the provider."""

    request: int
    began: float
    at: float
    key: str
    now: Record | None


@dataclass(frozen=True)
class No:
    """Somebody said no at a provider, to all its mail.

    version: of the data that the record had then.  silent: the provider has no way to tell of it,
    but by not showing the person any more.
    """

    shop: str
    at: float
    email: str
    version: int | None = None
    silent: bool = False


@dataclass(frozen=True)
class Version:
    """A contact as the source had it from a commit on; email None: deleted."""

    contact: str
    at: float
    email: str | None
    number: int = 0
    subscribed: bool = True
    consented: float | None = None


@dataclass(frozen=True)
class Row:
    """What the journal still has."""

    shop: str
    contact: str
    state: str
    why: str


@dataclass(frozen=True)
class Wish:
    """A contact as a shop is to hold it in the end. mailed: it is to be there, and mailed."""

    contact: str
    email: str
    fields: Mapping[str, str]
    lists: frozenset[str]  # remote ids
    mailed: bool


@dataclass
class At:
    """One shop's part."""

    name: str
    key: str = "ours"  # of the provider's records: 'ours', 'address', 'remote id'
    requests: Sequence[Sent] = ()
    became: Sequence[Became] = ()
    held: Mapping[str, Record] = field(default_factory=dict)  # in the end, lists by remote id
    wishes: Sequence[Wish] = ()
    not_mailed: frozenset[str] = frozenset()  # contacts listed as such: the provider cannot
    violations: Sequence[Mapping[str, Any]] = ()
    doubles: Sequence[Any] = ()  # as the stand-in counts them
    in_flight_max: Mapping[str, int] = field(default_factory=dict)  # by the stand-in's meters
    in_flight: Mapping[str, int] = field(default_factory=dict)  # so many are allowed
    per_second: float | None = None
    per_day: int | None = None
    per_day_until: float = float("inf")  # then somebody lifted it
    list_names: Mapping[str, tuple[str, str]] = field(default_factory=dict)  # id: there, wanted
    left: frozenset[tuple[str, str]] = frozenset()  # record and list: somebody left it there
    stuck: frozenset[str] = frozenset()  # addresses that contacts were refused to leave


@dataclass
class Evidence:
    """All that is judged. stops: (when, until) of every process that stood still past its lease."""

    shops: Sequence[At] = ()
    versions: Sequence[Version] = ()
    noes: Sequence[No] = ()
    journal: Sequence[Row] = ()
    unsettled: str = ""  # why it did not come to rest; "" = it did
    stops: Sequence[tuple[float, float]] = ()
    logs: Mapping[str, str] = field(default_factory=dict)
    secrets: Sequence[str] = ()
    server_log: str = ""
    deaths: Sequence[str] = ()  # processes that ended and were not asked to
    lease: float = 3.5
    timeout: float = 2.0
    erased: frozenset[str] = frozenset()  # contacts who asked to be
    known_at: frozenset[tuple[str, str]] = frozenset()  # contact and address, by our own tables
    erasing: frozenset[str] = frozenset()  # contacts whom an erasure that has not ended is about

    @property
    def may_be_erased(self) -> frozenset[str]:
        """Contacts who may be taken for somebody who asked to be: they had an address in common, or
        an exchange of records brought them to one. Too much is erased rather than too little."""
        met = {(one.contact, one.email) for one in self.versions if one.email} | self.known_at
        theirs = {email for contact, email in met if contact in self.erased}
        return frozenset(contact for contact, email in met if email in theirs)


@dataclass(frozen=True, order=True)
class Finding:
    """Something that must never be."""

    kind: str
    shop: str
    says: str

    def __str__(self) -> str:
        return f"{self.kind} [{self.shop or '-'}] {self.says}"
