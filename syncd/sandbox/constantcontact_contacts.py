"""The calls about contacts; from the reference, sections 3 to 5."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any

from syncd.sandbox import constantcontact_atom as atom
from syncd.sandbox.call import Answer, Call
from syncd.sandbox.constantcontact_account import (
    ACTIVE,
    FIELDS,
    LONGEST,
    OPTED_OUT,
    Contact,
    Refused,
    normal,
    stamp,
)
from syncd.sandbox.constantcontact_atom import C, tag
from syncd.sandbox.constantcontact_lists import SYSTEM

if TYPE_CHECKING:
    from syncd.sandbox.constantcontact import ConstantContact

NO_RETURN = (
    "Error 400: Update failed: Status transition from O to S is not allowed when action by owner"
)
READ_ONLY = ("Status", "Name", "Confirmed", "InsertTime", "LastUpdateTime")


class Contacts:
    """Shown, searched for, made, replaced, opted out."""

    def __init__(self, account: ConstantContact) -> None:
        self.account = account

    # ── Reading ─────────────────────────────────────────────────────────────────────────────

    def page(self, call: Call, _apply: bool) -> Answer:
        everybody = list(self.account.data.contacts.values())
        if emails := call.query("email"):
            return self._search(call, emails)
        if since := call.query("updatedsince"):
            found = self._since(call, everybody, since[0])
            return self.account.paged(call, "contacts", [self._brief(one) for one in found])
        if self.account.limits.contacts == "active":
            everybody = [one for one in everybody if one.status == ACTIVE]
        return self.account.paged(call, "contacts", [self._brief(one) for one in everybody])

    def _search(self, call: Call, emails: list[str]) -> Answer:
        if len(emails) > 50:
            self.account.ledger.violate(call, "search", f"{len(emails)} addresses")
            raise Refused(400, "Error 400: too many addresses")
        if any(one != one.lower() for one in emails) or "@" in call.raw_query:
            self.account.ledger.violate(call, "search", "not lower case, or not encoded")
        found = [self.account.data.by_email[one] for one in emails
                 if one in self.account.data.by_email]  # fmt: skip
        if not found and self.account.limits.none_found == "500":
            raise Refused(500, "Error 500: Internal Server Error")
        return self.account.paged(call, "contacts", [self._brief(one) for one in found])

    def _since(self, call: Call, everybody: list[Contact], text: str) -> list[Contact]:
        try:
            when = datetime.strptime(text, "%Y-%m-%dT%H:%M:%S.%f%z")
        except ValueError:
            self.account.ledger.violate(call, "updatedsince", text)
            raise Refused(400, "Error 400: updatedsince") from None
        found = [one for one in everybody if one.updated >= when]
        if kinds := call.query("listtype"):
            return [one for one in found if one.status == SYSTEM.get(kinds[0])]
        if lists := call.query("listid"):
            return [one for one in found if int(lists[0]) in one.lists]
        self.account.ledger.violate(call, "updatedsince", "neither listtype nor listid")
        raise Refused(400, "Error 400: listtype or listid")

    def _brief(self, one: Contact) -> str:
        """As in a feed: no fields, no lists."""
        names = [one.fields.get("FirstName", ""), one.fields.get("LastName", "")]
        told = (
            tag("Status", one.status) + tag("EmailAddress", one.email)
            + tag("EmailType", one.email_type) + tag("Name", " ".join(filter(None, names)))
            + tag("OptInTime", one.inserted) + tag("OptInSource", "ACTION_BY_CUSTOMER")
        )  # fmt: skip
        return self._entry(one, told, alone=False)

    def _entry(self, one: Contact, told: str, *, alone: bool = True) -> str:
        uri = self.account.uri("contacts", one.id)
        payload = f'<Contact {atom.NAMESPACE} id="{uri}">{told}</Contact>'
        return atom.entry(uri, f"Contact: {one.email}", payload, alone=alone)

    def _whole(self, one: Contact) -> str:
        told = tag("Status", one.status) + tag("EmailAddress", one.email)
        told += tag("EmailType", one.email_type) + tag("Name", one.fields.get("FirstName", ""))
        told += "".join(tag(name, one.fields.get(name, "")) for name in FIELDS)
        told += "<ContactLists>"
        for number, since in one.lists.items():
            uri = self.account.uri("lists", number)
            told += f'<ContactList id="{uri}"><link xmlns="http://www.w3.org/2005/Atom" '
            told += f'href="/ws" rel="self"/>{tag("OptInSource", "ACTION_BY_CUSTOMER")}'
            told += f"{tag('OptInTime', since)}</ContactList>"
        told += "</ContactLists>" + tag("Confirmed", "false") + tag("InsertTime", one.inserted)
        told += tag("LastUpdateTime", stamp(one.updated))
        if one.status == OPTED_OUT:
            told += tag("OptOutSource", one.opted_out_by) + tag("OptOutTime", one.opted_out)
        return self._entry(one, told)

    def one(self, _call: Call, _apply: bool, number: str) -> Answer:
        return self.account.document(self._whole(self.account.needed_contact(number)))

    # ── Writing ─────────────────────────────────────────────────────────────────────────────

    def add(self, call: Call, apply: bool) -> Answer:
        _, payload = self.account.sent(call, "Contact")
        email, fields, lists, source = self._told(call, payload)
        if source is None:
            self.account.ledger.violate(call, "OptInSource", "missing")
            raise Refused(400, "Error 400: OptInSource is required")
        if email in self.account.data.by_email:
            self.account.data.repeated_adds.append(email)
            raise Refused(409, f"Error 409: Email address {email} is already in use")
        if not lists:
            raise Refused(
                400, "Error 400: The new contact must contain at least on valid ContactList"
            )
        most = self.account.limits.most_contacts
        if most is not None and len(self.account.data.contacts) >= most:
            raise Refused(400, "Error 400: the account is full")
        if not apply:
            return self.account.document("<entry/>", 201)
        made = self.account.data.add(email)
        self._write(call, made, fields, lists, payload)
        location = {"Location": self.account.uri("contacts", made.id)}
        return self.account.document(self._whole(made), 201, location)

    def replace(self, call: Call, apply: bool, number: str) -> Answer:
        one = self.account.needed_contact(number)
        uri, payload = self.account.sent(call, "Contact")
        if uri.rpartition("/")[2] != number:
            self.account.ledger.violate(call, "contact id", uri)
            raise Refused(400, "Error 400: the id is not the contact's")
        email, fields, lists, source = self._told(call, payload)
        if one.status == OPTED_OUT and source != "ACTION_BY_CONTACT":
            if self.account.limits.opted_out == "403":
                raise Refused(403, "Error 403: Forbidden")
            raise Refused(400, NO_RETURN)
        if email != one.email and email in self.account.data.by_email:
            raise Refused(409, f"Error 409: Email address {email} is already in use")
        if apply:
            if self.account.limits.omitted == "kept":
                sent = {str(each.tag).removeprefix(C) for each in payload}
                fields = {**{n: t for n, t in one.fields.items() if n not in sent}, **fields}
            if email != one.email:
                del self.account.data.by_email[one.email]
                one.email, self.account.data.by_email[email] = email, one
            self._write(call, one, fields, lists, payload)
        return Answer(self.account.limits.put_answer, b"", "text/plain")

    def _write(
        self, call: Call, one: Contact, fields: dict[str, str], lists: set[int], payload: Any
    ) -> None:
        one.fields = normal(fields)
        one.email_type = payload.findtext(f"{C}EmailType") or "HTML"
        if one.status == OPTED_OUT:  # by the person's own act, as it was claimed
            one.status = ACTIVE
            self.account.data.resubscribed.append({"email": one.email, "request": call.number})
        one.join(lists)
        one.writes += 1
        self.account.note(call.number, "write", identity=str(one.id), email=one.email)

    def _told(self, call: Call, payload: Any) -> tuple[str, dict[str, str], set[int], str | None]:
        """Address, fields, lists and source of a document; 400 for what does not fit."""
        known = {*LONGEST, *READ_ONLY, "EmailType", "OptInSource", "OptInTime", "ContactLists",
                 "OptOutTime", "OptOutSource", "OptOutReason"}  # fmt: skip
        names = [str(each.tag).removeprefix(C) for each in payload]
        if set(names) - known or len(names) != len(set(names)):
            self.account.ledger.violate(call, "unknown element", str(sorted(set(names) - known)))
            raise Refused(400, "Error 400: element unknown, or there twice")
        told = {name: (payload.findtext(f"{C}{name}") or "").strip() for name in LONGEST}
        for name, text in told.items():
            if len(text) > LONGEST[name]:
                self.account.ledger.violate(call, "too long", f"{name}: {len(text)}")
                raise Refused(400, f"Error 400: {name} is too long")
        email = told.pop("EmailAddress").lower()
        if email in self.account.limits.refused or "@" not in email:
            raise Refused(400, "Error 400: Email address is not valid")
        source = payload.findtext(f"{C}OptInSource")
        if source not in (None, "ACTION_BY_CUSTOMER"):
            self.account.ledger.violate(call, "claims the person's act", str(source))
        lists = {
            self._list(call, str(each.get("id")))
            for each in payload.iterfind(f"{C}ContactLists/{C}ContactList")
        }
        return email, {name: text for name, text in told.items() if text}, lists, source

    def _list(self, call: Call, uri: str) -> int:
        number = uri.rpartition("/")[2]
        if number in SYSTEM or uri != self.account.uri("lists", number):
            self.account.ledger.violate(call, "list id", uri)
            raise Refused(400, "Error 400: no such list")
        return self.account.needed_list(number, status=400).id

    def opt_out(self, call: Call, apply: bool, number: str) -> Answer:
        one = self.account.needed_contact(number)
        if one.status == OPTED_OUT:
            self.account.ledger.violate(call, "opted out twice", number)
        if apply:
            self.account.data.opt_out(one, "ACTION_BY_CUSTOMER")
            one.writes += 1
            self.account.note(call.number, "opt out", identity=number, email=one.email)
        return Answer(204, b"", "text/plain")
