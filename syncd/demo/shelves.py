"""Where each stand-in keeps what: read from its memory, past its API and past our adapter."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from syncd.demo.people import FAULTY, LISTS
from syncd.demo.proof import Side, side
from syncd.sandbox import Handle

QUICK = {"api": {"per_second": 1000, "in_flight": 16}}  # polite limits would take minutes
OURS = {name: one for one, name in LISTS}
"""The source's list ids, by the names that providers know them by."""

Look = Callable[[Any, str, str], Iterator[Side]]
"""Given a stand-in, a contact's id and its address: the records of it there."""


class Shelf(NamedTuple):
    """One provider as the demo uses it. columns: its field → the source's column.

    by_list: contacts are there as members of lists only.  by_id: it keeps our contact ids.
    """

    name: str
    title: str
    columns: Mapping[str, str]
    look: Look
    options: Mapping[str, Any] = {}
    fields: Mapping[str, str] | None = None  # as configured; None: the provider's own mapping
    by_list: bool = False
    by_id: bool = False

    def one(self, box: Handle, contact_id: str, email: str | None) -> Side | None:
        """The one record of a contact; None: there is none (or, by address, it is another's)."""
        if contact_id in FAULTY and not self.by_id:
            return None
        return next(self.look(box.state, contact_id, (email or "").lower()), None)

    def mailed(self, box: Handle) -> set[str]:
        """Every address that is mailed there."""
        people = box.snapshot()["profiles"].values()
        return {_address(one).lower() for one in people if one["mailable"]}

    def held(self, box: Handle, people: Mapping[str, Side]) -> dict[str, Side]:
        """What is there of these contacts."""
        looked = {one: self.one(box, one, known.email) for one, known in people.items()}
        return {one: found for one, found in looked.items() if found is not None}


def _address(record: Mapping[str, Any]) -> str:
    fields: Mapping[str, Any] = record.get("fields") or {}
    return str(record.get("Email") or record.get("email") or fields.get("email") or "")


def _named(fields: Mapping[str, Any], columns: Mapping[str, str]) -> dict[str, Any]:
    return {column: fields.get(name) for name, column in columns.items()}


CAMPAIGN = {"firstname": "first_name", "lastname": "last_name", "phone": "phone", "city": "city",
            "country": "country"}  # fmt: skip
TAP = {"First Name": "first_name", "Last Name": "last_name", "Phone": "phone", "City": "city",
       "Country": "country"}  # fmt: skip
CONSTANT = {
    "FirstName": "first_name",
    "LastName": "last_name",
    "WorkPhone": "phone",
    "City": "city",
}  # fmt: skip  countries are kept as codes there
PLAIN = {name: name for name in ("first_name", "last_name", "phone", "city", "country")}


def _clevercampaign(state: Any, _id: str, email: str) -> Iterator[Side]:
    for one in state.data.contacts.values():
        if one.key == email:
            lists = [each.name for each in state.data.lists.values() if one.id in each.members]
            yield side(one.email, _named(one.fields, CAMPAIGN), map(OURS.__getitem__, lists),
                       one.subscribed)  # fmt: skip


def _clevertap(state: Any, contact_id: str, _email: str) -> Iterator[Side]:
    one = state.profiles.by_identity.get(contact_id)
    if one is not None:
        address = one.emails[-1] if one.emails else ""
        lists = one.properties.get("Lists") or ()
        yield side(address, _named(one.properties, TAP), lists, state.mailable(contact_id))


def _constantcontact(state: Any, _id: str, email: str) -> Iterator[Side]:
    one = state.data.by_email.get(email)
    if one is not None:
        lists = [OURS[state.data.lists[number].name] for number in one.lists]
        yield side(one.email, _named(one.fields, CONSTANT), lists, state.mailable(email))


def _copernica(state: Any, contact_id: str, _email: str) -> Iterator[Side]:
    for one in state.data.live():
        if one.fields.get("sync_id") == contact_id:
            yield side(one.fields["email"], _named(one.fields, PLAIN),
                       map(OURS.__getitem__, one.interests), state.data.mailable(one))  # fmt: skip


def _redcappi(state: Any, _id: str, email: str) -> Iterator[Side]:
    for one in state.data.at(email):
        if one.lists and one.status == "active":
            lists = [OURS[state.data.lists[number]] for number in one.lists]
            yield side(one.email, _named(one.fields, PLAIN), lists, mailable=True)


SHELVES = (
    Shelf("clevercampaign", "CleverCampaign", CAMPAIGN, _clevercampaign,
          {"meters": QUICK, "lists_enabled": True}, CAMPAIGN),
    Shelf("clevertap", "CleverTap", TAP, _clevertap, by_id=True),
    Shelf("constantcontact", "Constant Contact", CONSTANT, _constantcontact,
          {"meters": QUICK, "poll_seconds": 0.2}, by_list=True),
    Shelf("copernica", "Copernica", PLAIN, _copernica,
          {"meters": QUICK, "version": "v3", "database": "7616",
           "subscribed_values": {"newsletter": "yes"}}, PLAIN, by_id=True),
    Shelf("redcappi", "RedCappi", PLAIN, _redcappi, {"meters": QUICK}, by_list=True),
)  # fmt: skip
