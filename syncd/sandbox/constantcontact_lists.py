"""The calls about lists; from the reference, section 3."""

from __future__ import annotations

from typing import TYPE_CHECKING

from syncd.sandbox import constantcontact_atom as atom
from syncd.sandbox.call import Answer, Call
from syncd.sandbox.constantcontact_account import MailingList, Refused
from syncd.sandbox.constantcontact_atom import C, tag

if TYPE_CHECKING:
    from syncd.sandbox.constantcontact import ConstantContact

SYSTEM = {"active": "Active", "do-not-mail": "Do Not Mail", "removed": "Removed"}


class Lists:
    """Shown, made, renamed, deleted; three are statuses and nobody's to write."""

    def __init__(self, account: ConstantContact) -> None:
        self.account = account

    def page(self, call: Call, _apply: bool) -> Answer:
        shown = [self._system(one) for one in SYSTEM]
        shown += [self._shown(one, alone=False) for one in self.account.data.lists.values()]
        return self.account.paged(call, "lists", shown)

    def one(self, _call: Call, _apply: bool, number: str) -> Answer:
        if number in SYSTEM:
            return self.account.document(self._system(number, alone=True))
        return self.account.document(self._shown(self.account.needed_list(number)))

    def members(self, call: Call, _apply: bool, number: str) -> Answer:
        if number in SYSTEM:
            found = [one for one in self.account.data.contacts.values()
                     if one.status == SYSTEM[number]]  # fmt: skip
        else:
            found = self.account.data.members(self.account.needed_list(number).id)
        entries = []
        for one in found:
            told = tag("EmailAddress", one.email) + tag("Name", "")
            payload = f"<ContactListMember {atom.NAMESPACE}>{told}</ContactListMember>"
            uri = self.account.uri("contacts", one.id)
            entries.append(atom.entry(uri, one.email, payload, alone=False))
        return self.account.paged(call, f"lists/{number}/members", entries)

    def _system(self, number: str, *, alone: bool = False) -> str:
        names = tag("Name", SYSTEM[number]) + tag("ShortName", SYSTEM[number])
        uri = self.account.uri("lists", number)
        payload = f'<ContactList {atom.NAMESPACE} id="{uri}">{names}</ContactList>'
        return atom.entry(uri, SYSTEM[number], payload, alone=alone)

    def _shown(self, one: MailingList, *, alone: bool = True) -> str:
        uri = self.account.uri("lists", one.id)
        count = len(self.account.data.members(one.id))
        told = (
            tag("OptInDefault", one.opt_in_default) + tag("Name", one.name)
            + tag("ShortName", one.name) + tag("DisplayOnSignup", "No")
            + tag("SortOrder", one.sort_order) + f'<Members id="{uri}/members"></Members>'
            + tag("ContactCount", str(count))
        )  # fmt: skip
        payload = f'<ContactList {atom.NAMESPACE} id="{uri}">{told}</ContactList>'
        return atom.entry(uri, one.name, payload, alone=alone)

    def add(self, call: Call, apply: bool) -> Answer:
        _, payload = self.account.sent(call, "ContactList")
        name = self._name(call, payload)
        if self.account.data.named(name, self.account.limits.names_fold):
            raise Refused(409, f"Error 409: list {name} exists")
        if not apply:
            return self.account.document("<entry/>", 201)
        made = self.account.data.add_list(
            name, payload.findtext(f"{C}OptInDefault") or "", payload.findtext(f"{C}SortOrder")
        )
        self.account.note(call.number, "add list", list=made.id, name=name)
        location = {"Location": self.account.uri("lists", made.id)}
        return self.account.document(self._shown(made), 201, location)

    def rename(self, call: Call, apply: bool, number: str) -> Answer:
        self._not_a_status(call, number)
        one = self.account.needed_list(number)
        uri, payload = self.account.sent(call, "ContactList")
        if uri != self.account.uri("lists", one.id):
            self.account.ledger.violate(call, "list id", uri)
            raise Refused(400, "Error 400: the id is not the list's")
        name = self._name(call, payload)
        if self.account.data.named(name, self.account.limits.names_fold, one.id):
            raise Refused(409, f"Error 409: list {name} exists")
        kept = (payload.findtext(f"{C}OptInDefault"), payload.findtext(f"{C}SortOrder"))
        if kept != (one.opt_in_default, one.sort_order):
            self.account.ledger.violate(call, "list settings changed", str(kept))
        if apply:
            one.name = name
            self.account.note(call.number, "rename list", list=one.id, name=name)
        return Answer(204, b"", "text/plain")

    def _name(self, call: Call, payload: object) -> str:
        name = str(payload.findtext(f"{C}Name") or "")  # type: ignore[attr-defined]
        if not name or len(name) > 255 or name in SYSTEM.values():
            self.account.ledger.violate(call, "list name", f"{len(name)} characters")
            raise Refused(400, "Error 400: list name")
        return name

    def _not_a_status(self, call: Call, number: str) -> None:
        if number in SYSTEM:
            self.account.ledger.violate(call, "system list written", number)
            raise Refused(400, "Error 400: a system list")

    def delete(self, call: Call, apply: bool, number: str) -> Answer:
        self._not_a_status(call, number)
        one = self.account.needed_list(number)
        if self.account.data.members(one.id):
            self.account.ledger.violate(call, "list deleted with members", number)
        if apply:
            self.account.data.delete_list(one.id)
            self.account.note(call.number, "delete list", list=one.id)
        return Answer(204, b"", "text/plain")
