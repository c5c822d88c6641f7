"""What a Constant Contact account holds: contacts by address, lists, jobs."""

from __future__ import annotations

import itertools
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

LONGEST = {
    **dict.fromkeys(
        ("FirstName", "MiddleName", "LastName", "JobTitle", "CompanyName", "HomePhone", "WorkPhone",
         "Addr1", "Addr2", "Addr3", "City", "StateName", "CountryName"), 50),
    **{f"CustomField{number}": 50 for number in range(1, 16)},
    "StateCode": 2, "CountryCode": 2, "PostalCode": 25, "SubPostalCode": 25, "Note": 500,
    "EmailAddress": 80,
}  # fmt: skip
FIELDS = tuple(name for name in LONGEST if name != "EmailAddress")
STATES = {"MA": "Massachusetts", "NY": "New York", "CA": "California", "ON": "Ontario",
          "TX": "Texas", "QC": "Quebec"}  # fmt: skip
COUNTRIES = {"us": "United States", "ca": "Canada", "de": "Germany", "gb": "United Kingdom"}
ACTIVE, REMOVED, OPTED_OUT, UNCONFIRMED = "Active", "Removed", "Do Not Mail", "Unconfirmed"


class Refused(Exception):
    """The call is refused: HTTP status and text."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status, self.text = status, text


def now() -> datetime:
    return datetime.now(UTC)


def stamp(when: datetime) -> str:
    return f"{when:%Y-%m-%dT%H:%M:%S}.{when.microsecond // 1000:03d}Z"


@dataclass(slots=True)
class Contact:
    """One record: its address is its own for ever."""

    id: int
    email: str
    fields: dict[str, str] = field(default_factory=dict)
    email_type: str = "HTML"
    lists: dict[int, str] = field(default_factory=dict)  # list → since when
    status: str = ACTIVE
    inserted: str = field(default_factory=lambda: stamp(now()))
    updated: datetime = field(default_factory=now)
    opted_out: str = ""
    opted_out_by: str = ""
    writes: int = 0

    def touch(self) -> None:
        self.updated = now()

    def join(self, numbers: set[int]) -> None:
        """Exactly these lists; in none, it is `Removed`."""
        self.lists = {one: self.lists.get(one, stamp(now())) for one in sorted(numbers)}
        if self.status != OPTED_OUT:
            self.status = ACTIVE if numbers else REMOVED
        self.touch()


@dataclass(slots=True)
class MailingList:
    """One numeric list."""

    id: int
    name: str
    opt_in_default: str = "false"
    sort_order: str = "99"


@dataclass(slots=True)
class Job:
    """One activity; it is carried out when somebody looks after its time has come."""

    id: str
    kind: str
    lists: tuple[int, ...]
    rows: list[dict[str, str]]
    due: float
    text: str = ""
    status: str = "PENDING"
    inserted: str = field(default_factory=lambda: stamp(now()))
    errors: list[tuple[int, str, str]] = field(default_factory=list)
    columns: list[str] = field(default_factory=list)  # of an export, and what else it was told
    told: dict[str, str] = field(default_factory=dict)
    file: bytes = b""

    @property
    def runs(self) -> bool:
        return self.status in ("PENDING", "RUNNING")


class Account:
    """The data of one customer."""

    def __init__(self, first_list: int, first_contact: int) -> None:
        self.lists: dict[int, MailingList] = {}
        self.contacts: dict[int, Contact] = {}
        self.by_email: dict[str, Contact] = {}
        self.jobs: dict[str, Job] = {}
        self.resubscribed: list[dict[str, Any]] = []
        self.repeated_adds: list[str] = []
        self.repeated_jobs: list[str] = []
        self._lists, self._contacts = itertools.count(first_list), itertools.count(first_contact)
        self._jobs = itertools.count(1)

    def add_list(self, name: str, opt_in: str = "false", order: str = "99") -> MailingList:
        made = MailingList(next(self._lists), name, opt_in, order)
        self.lists[made.id] = made
        return made

    def named(self, name: str, fold: bool, but: int = -1) -> bool:
        """Whether another list has that name."""
        names = (one.name for one in self.lists.values() if one.id != but)
        return any(one.casefold() == name.casefold() if fold else one == name for one in names)

    def delete_list(self, number: int) -> None:
        del self.lists[number]
        for contact in self.contacts.values():
            if number in contact.lists:
                contact.join(set(contact.lists) - {number})

    def members(self, number: int) -> list[Contact]:
        return [one for one in self.contacts.values() if number in one.lists]

    def add(self, email: str) -> Contact:
        made = Contact(next(self._contacts), email)
        self.contacts[made.id] = self.by_email[email] = made
        return made

    def opt_out(self, contact: Contact, who: str) -> None:
        contact.join(set())
        contact.status, contact.opted_out, contact.opted_out_by = OPTED_OUT, stamp(now()), who

    def add_job(self, kind: str, lists: tuple[int, ...], rows: Any, text: str, wait: float) -> Job:
        number = f"a07e1{next(self._jobs):04x}mjv6qd"
        made = Job(number, kind, lists, rows, time.monotonic() + wait, text)
        self.jobs[number] = made
        return made


def normal(fields: dict[str, str]) -> dict[str, str]:
    """What is stored of what was sent: trimmed, codes re-cased, names filled in."""
    made = {name: text.strip() for name, text in fields.items() if text.strip()}
    if "StateCode" in made:
        made["StateCode"] = made["StateCode"].upper()
        made["StateName"] = STATES.get(made["StateCode"], made["StateCode"])
    if "CountryCode" in made:
        made["CountryCode"] = made["CountryCode"].lower()
        made["CountryName"] = COUNTRIES.get(made["CountryCode"], made["CountryCode"].upper())
    return made
