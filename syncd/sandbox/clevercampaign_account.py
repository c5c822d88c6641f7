"""What a CleverCampaign account holds: contacts, and lists with members."""

from __future__ import annotations

import itertools
import uuid
from collections import Counter
from dataclasses import dataclass, field
from typing import Any


class Refused(Exception):
    """The call is refused: HTTP status and message."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status, self.message = status, message


@dataclass(slots=True)
class Contact:
    """One record. fields: as they were last written, by the names of the account."""

    id: str
    email: str
    fields: dict[str, str]
    subscribed: bool = True
    writes: int = 0

    @property
    def key(self) -> str:
        return self.email.lower()


@dataclass(slots=True)
class Listing:
    """One list and who is in it."""

    id: str
    name: str
    members: dict[str, None] = field(default_factory=dict)


class Account:
    """The data, and who of them was made twice or against a no."""

    def __init__(self, ids: str, first: int) -> None:
        self.contacts: dict[str, Contact] = {}
        self._by_email: dict[str, dict[str, Contact]] = {}
        self.lists: dict[str, Listing] = {}
        self.said_no: dict[str, str] = {}  # address → what was done about it in the app
        self.repeated_creates: list[dict[str, Any]] = []
        self.resubscribed: list[dict[str, Any]] = []
        self._ids, self._count = ids, itertools.count(first)

    def _next(self) -> str:
        number = next(self._count)
        if self._ids == "guid":
            return str(uuid.uuid5(uuid.NAMESPACE_URL, f"syncd-sandbox/{number}"))
        return str(number)

    # ── Contacts ────────────────────────────────────────────────────────────────────────────

    def needed(self, contact_id: str) -> Contact:
        """The contact, or 404."""
        if (contact := self.contacts.get(contact_id)) is None:
            raise Refused(404, "Contact not found")
        return contact

    def at(self, email: str) -> list[Contact]:
        return list(self._by_email.get(email.lower(), {}).values())

    def move(self, contact: Contact, email: str) -> None:
        """Give it another address."""
        self._by_email[contact.key].pop(contact.id)
        contact.email = email
        self._by_email.setdefault(contact.key, {})[contact.id] = contact

    def create(self, email: str, fields: dict[str, str], repeated: str, request: int) -> Contact:
        """Make one; *repeated* says what becomes of an address that is there."""
        if known := self.at(email):
            self.repeated_creates.append({"email": email.lower(), "request": request})
            if repeated == "refuse":
                raise Refused(409, "A contact with this e-mail exists")
            if repeated == "update":
                known[0].fields |= fields
                known[0].writes += 1
                return known[0]
        contact = Contact(self._next(), email, fields, writes=1)
        self.contacts[contact.id] = contact
        self._by_email.setdefault(contact.key, {})[contact.id] = contact
        if said := self.said_no.pop(contact.key, None):
            self.resubscribed.append({"email": contact.key, "said": said, "request": request})
        return contact

    def set_status(self, contact: Contact, subscribed: bool, request: int) -> None:
        """Write the status; turning it on against a no is remembered."""
        if subscribed and not contact.subscribed and (said := self.said_no.pop(contact.key, None)):
            self.resubscribed.append({"email": contact.key, "said": said, "request": request})
        contact.subscribed = subscribed

    def remove(self, contact: Contact) -> None:
        del self.contacts[contact.id]
        self._by_email[contact.key].pop(contact.id)
        for one in self.lists.values():
            one.members.pop(contact.id, None)

    # ── Lists ───────────────────────────────────────────────────────────────────────────────

    def add_list(self, name: str) -> Listing:
        made = Listing(self._next(), name)
        self.lists[made.id] = made
        return made

    def needed_list(self, list_id: str) -> Listing:
        """The list, or 404."""
        if (found := self.lists.get(list_id)) is None:
            raise Refused(404, "List not found")
        return found

    def duplicates(self) -> list[str]:
        """Addresses that more than one contact has."""
        times = Counter(one.key for one in self.contacts.values())
        return sorted(email for email, count in times.items() if count > 1)
