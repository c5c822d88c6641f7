"""The calls of CleverCampaign's API, under the names that the account's options give them."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from syncd.sandbox import clevercampaign_shapes as shapes
from syncd.sandbox.call import Answer, Call
from syncd.sandbox.clevercampaign_account import Contact, Listing, Refused

if TYPE_CHECKING:
    from syncd.sandbox.clevercampaign import CleverCampaign

EMAIL = re.compile(r"[^\s@]+@[^\s@]+\.[^\s@]+")
HYGIENE = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")

Route = tuple[str, re.Pattern[str], Callable[..., Answer]]


class Calls:
    """Contacts, lists and members."""

    def __init__(self, account: CleverCampaign) -> None:
        self.account = account

    def routes(self) -> list[Route]:
        """Every call as it is named now; a list's own paths before those of contacts."""
        limits = self.account.limits
        contact, named = re.escape(limits.contact_path), re.escape(limits.list_path)
        member = re.escape(limits.member_path).replace(r"\{list_id\}", "([^/]+)")
        update = limits.update_verb
        found: list[Route] = []
        if limits.lists:
            found = [
                ("GET", re.compile(member), self.members),
                ("POST", re.compile(member), self.join),
                ("DELETE", re.compile(f"{member}/([^/]+)"), self.leave),
                ("GET", re.compile(named), self.all_lists),
                ("POST", re.compile(named), self.add_list),
                (update, re.compile(f"{named}/([^/]+)"), self.rename_list),
                ("DELETE", re.compile(f"{named}/([^/]+)"), self.delete_list),
            ]
        found += [("POST", re.compile(contact), self.create)]
        found += [(update, re.compile(f"{contact}/([^/]+)"), self.update)]
        if limits.deletes:
            found += [("DELETE", re.compile(f"{contact}/([^/]+)"), self.delete)]
        if limits.items:
            found += [("GET", re.compile(f"{contact}/([^/]+)"), self.one)]
        found += [("GET", re.compile(contact), self.several)]
        return found

    # ── Contacts ────────────────────────────────────────────────────────────────────────────

    def several(self, call: Call, _apply: bool) -> Answer:
        """A search, or a page."""
        limits, data = self.account.limits, self.account.data
        asked = call.query(limits.find_param) if limits.find_param else []
        if asked and limits.search != "ignored":
            if limits.search == "refused":
                raise Refused(400, "Unknown parameter")
            found = data.at(asked[0])
            if not found and limits.search == "404":
                raise Refused(404, "No contact found")
            return self._contacts(call, found)
        if limits.paging == "404":
            raise Refused(404, "The resource cannot be found")
        if limits.paging == "page":
            return shapes.page(200, "CleverCampaign API")
        return self._contacts(call, self._paged(call, list(data.contacts.values())))

    def _paged(self, call: Call, whole: list[Any]) -> list[Any]:
        limits = self.account.limits
        if limits.paging == "ignored":
            return whole[: limits.page_cap or len(whole)]
        number = self._number(call, limits.page_param, limits.first_page)
        size = self._number(call, limits.size_param, 100)
        size = min(size, limits.page_cap or size)
        last = max(0, (len(whole) - 1) // size)
        place = number - limits.first_page
        if limits.past_the_end == "last":
            place = min(place, last)
        elif limits.past_the_end == "404" and place > last:
            raise Refused(404, "No such page")
        return whole[place * size : (place + 1) * size]

    def _number(self, call: Call, name: str, otherwise: int) -> int:
        text = "".join(call.query(name)[:1])
        if text and not (text.isascii() and text.isdigit()):
            self.account.ledger.violate(call, name, f"not a number: {text!r}")
            raise Refused(400, f"Invalid {name}")
        return max(int(text), 0) if text else otherwise

    def one(self, call: Call, _apply: bool, contact_id: str) -> Answer:
        contact = self.account.data.needed(unquote(contact_id))
        return self._single(call, contact)

    def create(self, call: Call, apply: bool) -> Answer:
        limits, fields = self.account.limits, self._fields(call)
        email = fields.pop(limits.email_field, "")
        status = fields.pop(limits.status_field, "")
        self._is_address(call, email)
        full = limits.most_contacts is not None
        if full and len(self.account.data.contacts) >= limits.most_contacts:
            raise Refused(400, "Your plan does not allow more contacts")
        if not apply:
            return Answer(200, b"")
        contact = self.account.data.create(email, fields, limits.repeated_create, call.number)
        self._status(call, contact, status)
        self.account.note(call.number, "create", contact=contact.id, identity=email, wrote=fields)
        shown = self.account.shown(contact)
        return shapes.made(shown, "contact", limits.contact_path, limits, self.account.as_xml(call))

    def update(self, call: Call, apply: bool, contact_id: str) -> Answer:
        limits, fields = self.account.limits, self._fields(call)
        contact = self.account.data.needed(unquote(contact_id))
        email = fields.pop(limits.email_field, contact.email)
        status = fields.pop(limits.status_field, "")
        self._is_address(call, email)
        others = [one for one in self.account.data.at(email) if one is not contact]
        if others and limits.repeated_create == "refuse":
            raise Refused(409, "A contact with this e-mail exists")
        if apply:
            self.account.data.move(contact, email)
            contact.fields = fields if limits.put == "full" else {**contact.fields, **fields}
            contact.writes += 1
            self._status(call, contact, status)
            self.account.note(call.number, "update", contact=contact.id, identity=email)
        return self._single(call, contact)

    def delete(self, call: Call, apply: bool, contact_id: str) -> Answer:
        contact = self.account.data.needed(unquote(contact_id))
        if apply:
            self.account.data.remove(contact)
            self.account.note(call.number, "delete", contact=contact.id, identity=contact.email)
        return self._empty(call)

    def _status(self, call: Call, contact: Contact, said: str) -> None:
        limits = self.account.limits
        known = {limits.status_subscribed: True, limits.status_unsubscribed: False}
        if said and said not in known:
            raise Refused(400, f"Invalid {limits.status_field}")
        if said:
            self.account.data.set_status(contact, known[said], call.number)

    def _fields(self, call: Call) -> dict[str, str]:
        fields: dict[str, str] = call.parsed
        limits = self.account.limits
        known = {limits.email_field, limits.status_field, *limits.fields}
        if unknown := sorted(set(fields) - known):
            self.account.ledger.violate(call, "fields", f"not known: {unknown}")
        if unclean := [name for name, value in fields.items() if HYGIENE.search(value)]:
            self.account.ledger.violate(call, "hygiene", f"control characters in {unclean}")
        return {name: value for name, value in fields.items() if name in known}

    def _is_address(self, call: Call, email: str) -> None:
        if not EMAIL.fullmatch(email):
            self.account.ledger.violate(call, "email", "missing, or no address")
        if not EMAIL.fullmatch(email) or email in self.account.limits.refused:
            raise Refused(400, "The e-mail is not valid")

    # ── Lists ───────────────────────────────────────────────────────────────────────────────

    def all_lists(self, call: Call, _apply: bool) -> Answer:
        found = self._paged(call, list(self.account.data.lists.values()))
        items = [self._listed(one) for one in found]
        return shapes.objects(items, "list", self.account.limits, self.account.as_xml(call))

    def add_list(self, call: Call, apply: bool) -> Answer:
        limits, name = self.account.limits, self._list_name(call)
        if not apply:
            return Answer(200, b"")
        if name in [one.name for one in self.account.data.lists.values()]:
            self.account.ledger.violate(call, "list made twice", name)
        made = self._listed(self.account.data.add_list(name))
        return shapes.made(made, "list", limits.list_path, limits, self.account.as_xml(call))

    def rename_list(self, call: Call, apply: bool, list_id: str) -> Answer:
        found, name = self.account.data.needed_list(unquote(list_id)), self._list_name(call)
        if apply:
            found.name = name
        item = self._listed(found)
        return shapes.single(item, "list", self.account.limits, self.account.as_xml(call))

    def delete_list(self, call: Call, apply: bool, list_id: str) -> Answer:
        found = self.account.data.needed_list(unquote(list_id))
        if apply:
            del self.account.data.lists[found.id]
        return self._empty(call)

    def members(self, call: Call, _apply: bool, list_id: str) -> Answer:
        data = self.account.data
        there = [data.contacts[one] for one in data.needed_list(unquote(list_id)).members]
        return self._contacts(call, self._paged(call, there))

    def join(self, call: Call, apply: bool, list_id: str) -> Answer:
        data, name = self.account.data, self.account.limits.member_id_field
        if set(call.parsed) != {name}:
            self.account.ledger.violate(call, "fields", f"not {name} alone")
        found = data.needed_list(unquote(list_id))
        contact = data.needed(call.parsed.get(name, ""))
        if contact.id in found.members and self.account.limits.repeated_join == "409":
            raise Refused(409, "The contact is in the list")
        if apply:
            found.members[contact.id] = None
        return self._single(call, contact)

    def leave(self, call: Call, apply: bool, list_id: str, contact_id: str) -> Answer:
        found = self.account.data.needed_list(unquote(list_id))
        if unquote(contact_id) not in found.members:
            raise Refused(404, "The contact is not in the list")
        if apply:
            del found.members[unquote(contact_id)]
        return self._empty(call)

    def _list_name(self, call: Call) -> str:
        fields, name = call.parsed, self.account.limits.list_name_field
        if set(fields) != {name} or not fields.get(name, "").strip():
            self.account.ledger.violate(call, "fields", f"not {name} alone")
            raise Refused(400, f"{name} is needed")
        return str(fields[name])

    def _listed(self, one: Listing) -> shapes.Item:
        limits = self.account.limits
        return {limits.id_name: self.account.number(one.id), limits.list_name_field: one.name}

    # ── Answers ─────────────────────────────────────────────────────────────────────────────

    def _contacts(self, call: Call, found: list[Contact]) -> Answer:
        items = [self.account.shown(one) for one in found]
        return shapes.objects(items, "contact", self.account.limits, self.account.as_xml(call))

    def _single(self, call: Call, contact: Contact) -> Answer:
        shown = self.account.shown(contact)
        return shapes.single(shown, "contact", self.account.limits, self.account.as_xml(call))

    def _empty(self, _call: Call) -> Answer:
        return Answer(self.account.limits.delete_status, b"")
