"""A strict stand-in of RedCappi's API v1.

What the reference leaves open is an option (`Limits`). Signatures are checked as PHP would, in
`redcappi_php`; a known key with a wrong hash is a breach, an unknown key only a refusal.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any, ClassVar, Literal

from pydantic import Field

from syncd.sandbox import redcappi_app
from syncd.sandbox.call import Answer, Call
from syncd.sandbox.meters import Meter
from syncd.sandbox.redcappi_account import FIELDS, Account, Contact, Refused
from syncd.sandbox.redcappi_contacts import Contacts
from syncd.sandbox.redcappi_lists import Lists
from syncd.sandbox.redcappi_php import expected_hash, json_encoded, message_of
from syncd.sandbox.standin import Options, StandIn

NO_DATA = (b'{"posted_data":"[]"}', b'{"posted_data":"null"}')
MALFORMED = object()
HEADER = re.compile(r"RCWS ([^\s:]+):([0-9a-f]{64})")
PUBLIC = "5a17c0ffee5a17c0ffee5a17c0ffee5a17c0ffee5a17c0ffee5a17c0ffee5a17"
PRIVATE = "0ddba11c0ffee0ddba11c0ffee0ddba11c0ffee0ddba11c0ffee0ddba11c0ffe"


class Limits(Options):
    """Body of POST /_limits."""

    keys: dict[str, str] = Field(default_factory=lambda: {PUBLIC: PRIVATE})
    in_flight: int | None = None  # neither limit is published, so no rate is a breach
    per_second: float | None = None
    offset: Literal["rows", "pages"] = "rows"
    offset_from: Literal[0, 1] = 0
    offset_zero: Literal["first", "refused"] = "first"  # where offsets count from 1
    page_cap: int | None = Field(default=None, ge=1)
    page_by: Literal["asked", "capped"] = "asked"  # by which size pages are counted
    page_slow_above: int | None = None  # a larger page is answered with 504
    order: Literal["oldest", "newest"] = "oldest"
    repeated_add: Literal["update", "refuse", "double"] = "update"
    delete_scope: Literal["list", "account"] = "list"
    errors_in: Literal["status", "body"] = "status"
    name_in_path: Literal["any", "400", "404"] = "any"
    tells_list_id: bool = True
    unique_names: bool = False
    shortest_name: int = 0
    longest_name: int = 100
    lists_as: Literal["map", "rows"] = "map"
    empty: Literal["[]", "{}", "null", '""', "404"] = "[]"
    most_contacts: int | None = None
    refused: list[str] = Field(default_factory=list)  # addresses that are refused as bad
    not_authorized: list[str] = Field(default_factory=list)  # addresses that break the signature
    first_list: int = 101  # ids differ from anybody's own numbers
    first_contact: int = 5001


class RedCappi(StandIn):
    """The stand-in: who may call, what, and with what."""

    provider: ClassVar[str] = "redcappi"
    demo: ClassVar[dict[str, str]] = {"public_key": PUBLIC, "private_key": PRIVATE}
    options: ClassVar[type[Options]] = Limits

    def clear(self) -> None:
        """Forget all data."""
        self.data = Account(self.limits.first_list, self.limits.first_contact)
        lists, contacts = Lists(self), Contacts(self)
        self.routes: list[tuple[str, re.Pattern[str], Callable[..., Any]]] = [
            ("GET", re.compile(r"/v1/lists\.json/"), lists.all_lists),
            ("GET", re.compile(r"/v1/lists\.json"), lists.one_list),
            ("POST", re.compile(r"/v1/lists/([^/]+)"), lists.add_list),
            ("POST", re.compile(r"/v1/lists\.json"), lists.rename_list),
            ("DELETE", re.compile(r"/v1/lists\.json/(\d+)"), lists.delete_list),
            ("GET", re.compile(r"/v1/contacts\.json/(\d+)/contacts/"), contacts.page),
            ("GET", re.compile(r"/v1/contacts\.json/(\d+)/contact/(\d+)"), contacts.one_contact),
            ("POST", re.compile(r"/v1/contacts\.json/(\d+)/contacts/"), contacts.add),
            ("POST", re.compile(r"/v1/contacts\.json/(\d+)/contacts/(\d+)"), contacts.edit),
            ("DELETE", re.compile(r"/v1/contacts\.json/(\d+)/contacts/(\d+)"), contacts.delete),
        ]

    # ── Before anything is answered ─────────────────────────────────────────────────────────

    def open(self, call: Call) -> Meter:
        """Decode the body; one meter an account."""
        try:
            call.parsed = json.loads(call.body)
        except ValueError:
            call.parsed = MALFORMED
        call.claims = self._claims(call)
        found = HEADER.fullmatch(call.headers.get("Authorization", ""))
        limits = self.limits
        return Meter("api", found[1] if found else "", limits.in_flight, limits.per_second)

    def _claims(self, call: Call) -> frozenset[str]:
        """The address and the record that a write touches, for as long as it lasts."""
        route = re.fullmatch(r"/v1/contacts\.json/\d+/contacts/(\d*)", call.path)
        if route is None or call.method == "GET":
            return frozenset()
        claims = {f"contact:{route[1]}"} if route[1] else set()
        if isinstance(call.parsed, dict) and "email_address" in call.parsed:
            claims.add(f"address:{str(call.parsed['email_address']).lower()}")
        return frozenset(claims)

    def answer(self, call: Call, apply: bool) -> Answer:
        """Check who calls and how, then carry it out."""
        if not self._authorised(call):
            return self.unauthorised(call)
        self._look_at_head(call)
        for method, pattern, carry_out in self.routes:
            found = pattern.fullmatch(call.path)
            if found and method == call.method:
                try:
                    told = carry_out(call, apply, *found.groups())
                except Refused as err:
                    return self.failed(err.status, err.message)
                return told if isinstance(told, Answer) else answered(told)
        self.ledger.violate(call, "unknown path", f"{call.method} {call.path}")
        return Answer(404, b'{"status":false,"error":"Unknown method."}')

    def _authorised(self, call: Call) -> bool:
        given = call.headers.getall("Authorization", [])
        found = HEADER.fullmatch(given[0]) if len(given) == 1 else None
        if found is None:
            self.ledger.violate(call, "authorization header", f"{len(given)} times, or malformed")
            return False
        if (private := self.limits.keys.get(found[1])) is None:
            return False
        target = f"{call.path}?{call.raw_query}" if call.raw_query else call.path
        if found[2] != expected_hash(private, call.method, target, call.body):
            signed = message_of(call.method, target, call.body).decode("ascii", "replace")
            self.ledger.violate(call, "signature", f"should sign {signed}"[:2000])
            return False
        body = call.parsed if isinstance(call.parsed, dict) else {}
        return body.get("email_address") not in self.limits.not_authorized

    def _look_at_head(self, call: Call) -> None:
        if "Content-Length" not in call.headers:
            self.ledger.violate(call, "no content length", "chunked, or no body")
        kind = call.headers.get("Content-Type", "").partition(";")[0].strip().lower()
        if kind != "application/json":
            self.ledger.violate(call, "content type", kind or "missing")

    def no_data(self, call: Call) -> None:
        """Calls without data carry a body all the same."""
        if call.body not in NO_DATA:
            self.ledger.violate(call, "posted_data", call.body[:60].decode("utf-8", "replace"))

    def number(self, call: Call, name: str) -> int:
        """A number in the query, or 400."""
        text = "".join(call.query(name)[:1])
        if not (text.isascii() and text.isdigit()):
            self.ledger.violate(call, name, f"not a number: {text!r}")
            raise Refused(400, f"Invalid {name}")
        return int(text)

    def nothing(self) -> Answer:
        """An empty page, or no lists."""
        if self.limits.empty == "404":
            return Answer(404, b"")
        return Answer(200, self.limits.empty.encode())

    def failed(self, status: int, text: str) -> Answer:
        """The shape of every failed request; what no PHP answers keeps its HTTP status."""
        by_body = self.limits.errors_in == "body" and status < 500 and status != 429
        body = json_encoded({"code": status, "message": text}).encode()
        return Answer(200 if by_body else status, body, "application/json")

    def unauthorised(self, call: Call) -> Answer:  # noqa: ARG002
        """The one documented error."""
        return self.failed(401, "Not Authorized")

    def act(self, deed: dict[str, Any]) -> dict[str, Any]:
        """Do what a person does in the dashboard."""
        return redcappi_app.act(self, deed)

    def blank(self, email: str) -> dict[str, str]:
        """The fields of a contact made by hand."""
        return {**dict.fromkeys(FIELDS, ""), "email_address": email}

    def mailable(self, email: str) -> bool:
        """True if a campaign to all lists would mail this address."""
        return any(one.status == "active" and one.lists for one in self.data.at(email))

    def held(self) -> dict[str, Any]:
        """All that is held; `lists` as its pages would tell, `resubscribed` as elsewhere."""
        data = self.data
        return {
            "profiles": {one.id: _shown(one) for one in data.contacts.values()},
            "lists": {
                number: {
                    "name": name,
                    "contacts": {one.id: one.email for one in data.members[number].values()},
                }
                for number, name in data.lists.items()
            },
            "duplicates": data.duplicates(),
            "repeated_adds": data.repeated_adds,
            "resubscribed": data.added_back,
        }


def _shown(contact: Contact) -> dict[str, Any]:
    return {
        "email": contact.email,
        "fields": contact.fields,
        "lists": sorted(contact.lists),
        "status": contact.status,
        "mailable": contact.status == "active" and bool(contact.lists),
        "writes": contact.writes,
    }


def answered(body: Any) -> Answer:
    """A success, as PHP prints JSON."""
    return Answer(200, json_encoded(body).encode(), "application/json")


STAND_IN = RedCappi
