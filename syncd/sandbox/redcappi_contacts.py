"""The five calls of RedCappi that are about the contacts of a list."""

from __future__ import annotations

import re
from itertools import islice
from typing import TYPE_CHECKING, Any

from syncd.sandbox.call import Call
from syncd.sandbox.redcappi_account import FIELDS, Refused

if TYPE_CHECKING:
    from syncd.sandbox.redcappi import RedCappi

UNSEEN = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]")
EMAIL = re.compile(r"[^\s@]+@[^\s@]+\.[^\s@]+")


class Contacts:
    """Read page by page or alone, added, edited, deleted."""

    def __init__(self, account: RedCappi) -> None:
        self.account = account

    def page(self, call: Call, _apply: bool, number: str) -> Any:
        self.account.no_data(call)
        size, offset = self.account.number(call, "pagesize"), self.account.number(call, "offset")
        limits = self.account.limits
        if limits.page_slow_above is not None and size > limits.page_slow_above:
            raise Refused(504, "Gateway timeout")
        if offset < limits.offset_from:
            if limits.offset_zero == "refused":
                raise Refused(400, "Invalid offset")
            offset = limits.offset_from
        shown = self.account.data.members[self.account.data.needed(int(number))].values()
        count = min(size, limits.page_cap or size)
        step = 1 if limits.offset == "rows" else size if limits.page_by == "asked" else count
        start = (offset - limits.offset_from) * step
        ordered = reversed(shown) if limits.order == "newest" else iter(shown)
        page = list(islice(ordered, start, start + count))
        return {str(one.id): one.email for one in page} if page else self.account.nothing()

    def one_contact(self, call: Call, _apply: bool, number: str, contact: str) -> Any:
        self.account.no_data(call)
        found = self.account.data.member(int(number), int(contact))
        return {str(found.id): found.email}

    def add(self, call: Call, apply: bool, number: str) -> Any:
        fields, limits = self._fields(call), self.account.limits
        listed = self.account.data.needed(int(number))
        full = (
            limits.most_contacts is not None
            and len(self.account.data.contacts) >= limits.most_contacts
        )
        if full and not self.account.data.at(fields["email_address"]):
            raise Refused(400, "Your plan does not allow more contacts")
        if not apply:
            return {}
        repeated = self.account.data.is_in(listed, fields["email_address"])
        made = self.account.data.add(listed, fields, limits.repeated_add)
        self.account.data.watch(made, listed, call.number, repeated)
        self.account.note(call.number, "add", list=listed, contact=made.id, wrote=fields)
        return {"code": 201, "message": "Contact added"}

    def edit(self, call: Call, apply: bool, number: str, contact: str) -> Any:
        fields = self._fields(call)
        found = self.account.data.member(int(number), int(contact))
        if apply:
            self.account.data.edit(found, fields, self.account.limits.repeated_add != "double")
            self.account.note(call.number, "edit", list=int(number), contact=found.id, wrote=fields)
        return {"code": 200, "message": "Contact updated"}

    def delete(self, call: Call, apply: bool, number: str, contact: str) -> Any:
        self.account.no_data(call)
        found = self.account.data.member(int(number), int(contact))
        if apply:
            self.account.data.remove(
                found, int(number), self.account.limits.delete_scope == "account"
            )
            self.account.note(call.number, "delete", list=int(number), contact=found.id)
        return "Contact removed"

    def _fields(self, call: Call) -> dict[str, str]:
        """The twelve strings of an add or an edit, or 400."""
        body = call.parsed
        if not isinstance(body, dict):
            self.account.ledger.violate(call, "fields", "not a JSON object")
            raise Refused(400, "Invalid data")
        if set(body) != set(FIELDS):
            self.account.ledger.violate(call, "fields", f"not the twelve: {sorted(body)}")
        strange = [name for name, value in body.items() if not isinstance(value, str)]
        if strange:
            self.account.ledger.violate(call, "fields", f"not strings: {sorted(strange)}")
        fields = {name: str(body.get(name) or "") for name in FIELDS}
        if unclean := [name for name, value in fields.items() if UNSEEN.search(value)]:
            self.account.ledger.violate(call, "hygiene", f"control characters in {unclean}")
        email = fields["email_address"]
        if not EMAIL.fullmatch(email) or email in self.account.limits.refused:
            raise Refused(400, "Invalid email address")
        return fields
