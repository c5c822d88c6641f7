"""What syncd should do, as dictionaries: a source, a provider, and what the one wants of the other.

No SQL, no clock. `tests/test_model.py` plays the same changes here and through PostgreSQL.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from syncd.errors import Ambiguous, Transient, Unintelligible
from syncd.model import (
    Absent,
    Applied,
    Can,
    Change,
    Found,
    Meter,
    OptedOut,
    Outcome,
    Postponed,
    Rejected,
    Traits,
    Verb,
)

Fate = Literal[
    "applied", "rejected", "opted out", "postponed", "transient", "lost before", "lost after",
    "garbled",
]  # fmt: skip


@dataclass
class Contact:
    email: str | None
    name: str | None
    subscribed: bool = True


@dataclass
class Record:
    email: str
    name: object
    lists: frozenset[str]
    mailed: bool


@dataclass
class Source:
    """The source's tables. `twins`: ids that its view yields twice."""

    contacts: dict[str, Contact] = field(default_factory=dict)
    members: set[tuple[str, str]] = field(default_factory=set)
    twins: set[str] = field(default_factory=set)

    def lists(self, contact_id: str) -> frozenset[str]:
        return frozenset(name for one, name in self.members if one == contact_id)


@dataclass
class Provider:
    """A provider by our id, as an adapter: what it holds, and what it does with the next batch."""

    records: dict[str, Record] = field(default_factory=dict)
    noes: set[tuple[str, str]] = field(default_factory=set)  # contact and address that said no
    fate: Fate = "applied"
    traits = Traits(8, {"default": Meter()}, "ours", Can.REPEAT | Can.FIND | Can.RESUBSCRIBE)

    async def push(self, changes: Sequence[Change]) -> Sequence[Outcome]:
        match self.fate:
            case "transient":
                raise Transient("busy")
            case "lost before":
                raise Ambiguous("the answer was lost")
            case "lost after":
                [self._apply(one) for one in changes]
                raise Ambiguous("the answer was lost")
            case "garbled":
                [self._apply(one) for one in changes]
                raise Unintelligible("what?")
            case "rejected":
                return [Rejected("no, thank you", 400) for _ in changes]
            case "postponed":
                return [Postponed("later") for _ in changes]
            case "opted out":
                return [self._refuse(one) for one in changes]
        return [self._apply(one) for one in changes]

    async def find(self, changes: Sequence[Change]) -> Sequence[Found]:
        found = (self.records.get(one.contact_id) for one in changes)
        return [Found(None) if one is None else Found({}, one.email) for one in found]

    def _apply(self, one: Change) -> Outcome:
        record = self.records.get(one.contact_id)
        if one.verb is not Verb.PUT or one.want is None:
            if one.verb is not Verb.WITHDRAW:
                self.records.pop(one.contact_id, None)
            elif record is not None:
                record.mailed, record.lists = False, frozenset()
            return Applied()
        if record is None and not one.want.subscribed:
            return Absent("unknown, and not to be mailed")
        dropped = set(one.was.lists) - set(one.want.lists) if one.was else set()
        lists = (record.lists if record else frozenset()) - dropped | set(one.want.lists)
        mailed = one.want.subscribed and (record is None or record.mailed or one.resubscribe)
        self.records[one.contact_id] = Record(
            one.want.email, one.want.fields.get("name"), lists, mailed
        )
        return Applied({"known": True})

    def _refuse(self, one: Change) -> Outcome:
        """The person has said no: told instead of taking the change."""
        if one.want is None or not one.want.subscribed or one.resubscribe:
            return self._apply(one)
        self.noes.add((one.contact_id, one.want.email.lower()))
        if one.contact_id in self.records:
            self.records[one.contact_id].mailed = False
        return OptedOut()


@dataclass(frozen=True)
class Wanted:
    """What must come of a source at a provider, by the contract."""

    source: Source
    selected: frozenset[str] | None
    everyone: bool
    when_gone: str
    noes: frozenset[tuple[str, str]]

    def belongs(self, contact_id: str) -> bool:
        chosen = self.selected is None or self.everyone
        return contact_id in self.source.contacts and (
            chosen or bool(self.source.lists(contact_id) & (self.selected or frozenset()))
        )

    def address(self, contact_id: str) -> str:
        return (self.source.contacts[contact_id].email or "").strip(" ").lower()

    def groups(self) -> dict[str, list[str]]:
        """Who belongs, by address."""
        found: dict[str, list[str]] = {}
        for one in sorted(self.source.contacts):
            if self.belongs(one) and self.address(one):
                found.setdefault(self.address(one), []).append(one)
        return found

    def mailable(self, contact_id: str) -> bool:
        said_no = {one for one, _ in self.noes} | {email for _, email in self.noes}
        group = self.groups()[self.address(contact_id)]
        return (
            all(self.source.contacts[one].subscribed for one in group)
            and contact_id not in said_no
            and self.address(contact_id) not in said_no
        )

    def faults(self, provider: Provider) -> list[str]:
        """Where the provider does not hold what it should; contacts with a fault are not judged."""
        told = []
        for email, group in self.groups().items():
            at = {
                one: r
                for one, r in provider.records.items()
                if r.email.lower() == email and r.mailed
            }
            told += [f"{one} is mailed at {email}, of {group}" for one in at if one not in group]
            if len(at) > 1:
                told.append(f"{email} is mailed {len(at)} times: {sorted(at)}")
            if len(group) == 1 and group[0] not in self.source.twins:
                told += self._differs(group[0], provider.records.get(group[0]))
        for one, record in provider.records.items():
            if record.mailed and not self.belongs(one) and self.when_gone != "keep":
                told.append(f"{one} is gone but mailed: {record}")
        return told

    def _differs(self, contact_id: str, record: Record | None) -> list[str]:
        one = self.source.contacts[contact_id]
        mailed = self.mailable(contact_id)
        if record is None:
            return [f"{contact_id} is not there: {one}"] if mailed else []
        lists = self.source.lists(contact_id)
        if self.selected is not None:
            lists &= self.selected
        wanted = Record((one.email or "").strip(" "), one.name, lists, mailed)
        return [] if record == wanted else [f"{contact_id} is {record}, not {wanted}"]
