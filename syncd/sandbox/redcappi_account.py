"""What a RedCappi account holds: lists, and contacts that are in them."""

from __future__ import annotations

import itertools
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any, Literal

FIELDS = ("address", "city", "company", "country", "dob", "email_address", "first_name",
          "last_name", "name", "phone", "state", "zip_code")  # fmt: skip

Status = Literal["active", "unsubscribed", "complained", "bounced", "do not mail"]


class Refused(Exception):
    """The call is refused: HTTP status and message."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status, self.message = status, message


@dataclass(slots=True)
class Contact:
    """One record; the same one in every list, unless the account doubles."""

    id: int
    fields: dict[str, str]
    lists: set[int] = field(default_factory=set)
    status: Status = "active"
    created: float = field(default_factory=time.time)
    writes: int = 0

    @property
    def email(self) -> str:
        return self.fields["email_address"]

    @property
    def key(self) -> str:
        return self.email.lower()


class Account:
    """The data, and who of them was added against a no."""

    def __init__(self, first_list: int, first_contact: int) -> None:
        self.lists: dict[int, str] = {}
        self.members: dict[int, dict[int, Contact]] = {}  # who is shown in a list: the active ones
        self.contacts: dict[int, Contact] = {}
        self.by_email: dict[str, list[Contact]] = {}
        self.said_no: dict[str, str] = {}  # address → what was done about it in the app
        self.added_back: list[dict[str, Any]] = []
        self.repeated_adds: list[dict[str, Any]] = []
        self._list_ids, self._ids = itertools.count(first_list), itertools.count(first_contact)

    # ── Lists ───────────────────────────────────────────────────────────────────────────────

    def add_list(self, name: str) -> int:
        number = next(self._list_ids)
        self.lists[number], self.members[number] = name, {}
        return number

    def needed(self, number: int) -> int:
        """The list's number, or 404."""
        if number not in self.lists:
            raise Refused(404, "List not found")
        return number

    def delete_list(self, number: int) -> None:
        del self.lists[self.needed(number)]
        del self.members[number]
        for contact in self.contacts.values():
            contact.lists.discard(number)

    # ── Contacts ────────────────────────────────────────────────────────────────────────────

    def set_status(self, contact: Contact, status: Status) -> None:
        """Only who is active is shown in the lists."""
        contact.status = status
        for number in contact.lists:
            self.members[number].pop(contact.id, None)
            if status == "active":
                self.members[number][contact.id] = contact

    def member(self, number: int, contact_id: int) -> Contact:
        """An active contact of a list, or 404."""
        contact = self.members[self.needed(number)].get(contact_id)
        if contact is None:
            raise Refused(404, "Contact not found")
        return contact

    def at(self, email: str) -> list[Contact]:
        return self.by_email.get(email.lower(), [])

    def add(self, number: int, fields: dict[str, str], repeated: str) -> Contact:
        """Add to a list; *repeated* says what becomes of an address that is known."""
        self.needed(number)
        known = self.at(fields["email_address"])
        if repeated == "double" or not known:
            contact = Contact(next(self._ids), dict(fields))
            self.contacts[contact.id] = contact
            self.by_email.setdefault(contact.key, []).append(contact)
        else:
            contact = known[0]
            if repeated == "refuse" and number in contact.lists:
                raise Refused(409, "Contact already exists")
            contact.fields = dict(fields)
        contact.lists.add(number)
        self.set_status(contact, "active")
        contact.writes += 1
        return contact

    def edit(self, contact: Contact, fields: dict[str, str], unique: bool) -> None:
        others = [one for one in self.at(fields["email_address"]) if one is not contact]
        if unique and others:
            raise Refused(409, "Email address already exists")
        self.by_email[contact.key].remove(contact)
        contact.fields = dict(fields)
        contact.writes += 1
        self.by_email.setdefault(contact.key, []).append(contact)

    def remove(self, contact: Contact, number: int, account_wide: bool) -> None:
        for one in list(contact.lists) if account_wide else [number]:
            contact.lists.discard(one)
            self.members[one].pop(contact.id, None)
        if not account_wide:
            return
        del self.contacts[contact.id]
        self.by_email[contact.key].remove(contact)

    # ── What checkers ask ───────────────────────────────────────────────────────────────────

    def duplicates(self) -> list[dict[str, Any]]:
        """Addresses that are in one list more than once."""
        times = Counter(
            (number, one.key) for number, there in self.members.items() for one in there.values()
        )
        return [{"list": n, "email": email} for (n, email), count in times.items() if count > 1]

    def is_in(self, number: int, email: str) -> bool:
        """Whether an address is an active member of a list."""
        return any(one.status == "active" and number in one.lists for one in self.at(email))

    def watch(self, made: Contact, number: int, request: int, repeated: bool) -> None:
        """An add was applied: was it one too many, or against a no?"""
        entry = {"email": made.key, "list": number, "request": request}
        if repeated:
            self.repeated_adds.append(entry)
        if said := self.said_no.pop(made.key, None):
            self.added_back.append({**entry, "said": said})
