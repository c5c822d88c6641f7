"""A strict stand-in of CleverCampaign's REST API.

Documented are the three headers, the verbs and POST of a contact; the rest is what its reference
assumes. Every assumed name, and every question that it leaves open, is an option (`Limits`). A
known key with a wrong signature or a used salt is a breach; an unknown key only a refusal.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
from typing import Any, ClassVar, Literal
from urllib.parse import parse_qsl, quote, unquote

from pydantic import Field

from syncd.sandbox import clevercampaign_app
from syncd.sandbox import clevercampaign_shapes as shapes
from syncd.sandbox.call import Answer, Call
from syncd.sandbox.clevercampaign_account import Account, Contact, Refused
from syncd.sandbox.clevercampaign_calls import Calls
from syncd.sandbox.meters import Meter
from syncd.sandbox.standin import Options, StandIn

GUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
FORM = "application/x-www-form-urlencoded"
PUBLIC = "85B0C3C5-BE9B-4684-9DF7-FF3ADB7D35F1"
SECRET = "your-secret-key-never-share-it"  # noqa: S105  the reference's own
FIELDS = ["firstname", "lastname"]
MORE = ["company", "phone", "address", "city", "state", "zip", "country", "birthday"]


class Limits(Options):
    """Body of POST /_limits; first the table of names, then what nobody has published."""

    keys: dict[str, str] = Field(default_factory=lambda: {PUBLIC: SECRET})
    in_flight: int | None = None  # neither limit is published, so no rate is a breach
    per_second: float | None = None
    prefix: str = ""  # of every path, as base_url has it
    contact_path: str = "contact"
    list_path: str = "list"
    member_path: str = "list/{list_id}/contact"
    update_verb: Literal["PUT", "POST", "PATCH"] = "PUT"
    find_param: str = "email"
    page_param: str = "page"
    size_param: str = "pagesize"
    first_page: int = 1
    email_field: str = "email"
    id_name: str = "id"
    status_field: str = "status"
    list_name_field: str = "name"
    member_id_field: str = "contactid"
    status_subscribed: str = "subscribed"
    status_unsubscribed: str = "unsubscribed"
    envelope: str = ""
    fields: list[str] = Field(default_factory=lambda: [*FIELDS, *MORE])
    lists: bool = True
    tells_status: bool = True
    form: Literal["json", "xml", "accept"] = "accept"
    single: Literal["bare", "wrapped", "array"] = "bare"
    create_answer: Literal["record", "id", "location", "nothing"] = "record"
    ids: Literal["number", "guid"] = "number"
    put: Literal["partial", "full"] = "full"
    repeated_create: Literal["double", "update", "refuse"] = "double"
    repeated_join: Literal["409", "200"] = "409"
    delete_status: Literal[200, 204] = 204
    deletes: bool = True
    items: bool = True  # a contact can be read by its id
    search: Literal["works", "404", "ignored", "refused"] = "works"
    paging: Literal["works", "ignored", "404", "page"] = "works"
    past_the_end: Literal["empty", "404", "last"] = "empty"
    page_cap: int | None = Field(default=None, ge=1)
    reused_salt: Literal["refused", "taken"] = "refused"  # a breach either way
    compares: Literal["decoded", "text"] = "text"
    most_contacts: int | None = None
    refused: list[str] = Field(default_factory=list)  # addresses that are refused as bad
    first_id: int = 501


class CleverCampaign(StandIn):
    """The stand-in: who may call, what, and with what."""

    provider: ClassVar[str] = "clevercampaign"
    demo: ClassVar[dict[str, str]] = {"api_key": PUBLIC, "secret_key": SECRET}
    options: ClassVar[type[Options]] = Limits

    def clear(self) -> None:
        """Forget all data; not the salts that were used."""
        self.data = Account(self.limits.ids, self.limits.first_id)
        self.salts: set[str] = getattr(self, "salts", set())
        self.calls = Calls(self)

    # ── Before anything is answered ─────────────────────────────────────────────────────────

    def open(self, call: Call) -> Meter:
        """Decode the form; one meter an account."""
        text = call.body.decode("utf-8", "replace")
        pairs = parse_qsl(text, keep_blank_values=True, errors="replace")
        call.parsed = dict(pairs)
        if len(call.parsed) != len(pairs):
            self.ledger.violate(call, "form", "a field came twice")
        call.claims = self._claims(call)
        key = call.headers.get("publickey", "")
        return Meter("api", key, self.limits.in_flight, self.limits.per_second)

    def _claims(self, call: Call) -> frozenset[str]:
        """The address and the record that a write touches, for as long as it lasts."""
        if call.method == "GET":
            return frozenset()
        route = re.fullmatch(
            f"{self._root()}{re.escape(self.limits.contact_path)}/([^/]+)", call.path
        )
        claims = {f"contact:{route[1]}"} if route else set()
        if email := call.parsed.get(self.limits.email_field):
            claims.add(f"address:{email.lower()}")
        return frozenset(claims)

    def _root(self) -> str:
        return f"{re.escape(self.limits.prefix)}/"

    def answer(self, call: Call, apply: bool) -> Answer:
        """Check who calls and how, then carry it out."""
        if not self._authorised(call):
            return self.unauthorised(call)
        if not self._well_formed(call):
            return shapes.error(415, "Unsupported Media Type", self.as_xml(call))
        root = self.limits.prefix + "/"
        path = call.path.removeprefix(root) if call.path.startswith(root) else None
        known = False
        for method, pattern, carry_out in self.calls.routes():
            found = pattern.fullmatch(path) if path is not None else None
            if found and method == call.method:
                try:
                    return carry_out(call, apply, *found.groups())
                except Refused as err:
                    return shapes.error(err.status, err.message, self.as_xml(call))
            known = known or found is not None
        if known:
            return shapes.error(405, "The method is not allowed", self.as_xml(call))
        if not self._may_be_asked(call, path):
            self.ledger.violate(call, "unknown path", f"{call.method} {call.path}")
        return shapes.error(404, "No resource was found", self.as_xml(call))

    def _may_be_asked(self, call: Call, path: str | None) -> bool:
        """Reading is always tried: who asks for a contact by id does no wrong."""
        return call.method == "GET" and bool(
            re.fullmatch(f"{re.escape(self.limits.contact_path)}/[^/]+", path or "")
        )

    def _authorised(self, call: Call) -> bool:
        given = {name: call.headers.getall(name, []) for name in ("publickey", "salt", "signature")}
        wrong = [name for name, values in given.items() if len(values) != 1 or not values[0]]
        if wrong:
            self.ledger.violate(call, "headers", f"missing, empty or twice: {wrong}")
            return False
        salt, sent = given["salt"][0], given["signature"][0]
        if not GUID.fullmatch(salt):
            self.ledger.violate(call, "salt", "not a GUID as C# writes it")
        secret = self.limits.keys.get(given["publickey"][0])
        if secret is None:
            return False
        if salt in self.salts:
            self.ledger.violate(call, "salt", "used before")
            if self.limits.reused_salt == "refused":
                return False
        self.salts.add(salt)
        return self._signed(call, secret, salt, sent)

    def _signed(self, call: Call, secret: str, salt: str, sent: str) -> bool:
        """Written as C# does: lower-case escapes; who decodes takes upper-case ones, too."""
        digest = hmac.new(secret.encode("utf-8"), salt.encode("utf-8"), hashlib.sha256).digest()
        text = base64.standard_b64encode(digest).decode()
        escaped = re.sub(r"%..", lambda one: one[0].lower(), quote(text, safe=""))
        if sent == escaped:
            return True
        if self.limits.compares == "decoded" and "%" in sent and unquote(sent) == text:
            return True
        self.ledger.violate(call, "signature", "not that of this salt")
        return False

    def _well_formed(self, call: Call) -> bool:
        kind = call.headers.get("Content-Type", "").partition(";")[0].strip().lower()
        if call.method in ("GET", "DELETE"):
            if call.body:
                self.ledger.violate(call, "body", f"{call.method} has none")
            return True
        if kind != FORM:
            self.ledger.violate(call, "content type", kind or "missing")
            return False
        try:
            unquote(call.body.decode("ascii").replace("+", " "), errors="strict")
        except UnicodeDecodeError:
            self.ledger.violate(call, "form", "not UTF-8")
        return True

    # ── Answers ─────────────────────────────────────────────────────────────────────────────

    def as_xml(self, call: Call) -> bool:
        """Whether this answer is XML."""
        asked = "json" not in call.headers.get("Accept", "")
        return {"xml": True, "json": False, "accept": asked}[self.limits.form]

    def number(self, contact_id: str) -> int | str:
        """An id as it is shown."""
        return int(contact_id) if self.limits.ids == "number" else contact_id

    def shown(self, contact: Contact) -> dict[str, Any]:
        """A contact as its calls tell it."""
        limits = self.limits
        said = limits.status_subscribed if contact.subscribed else limits.status_unsubscribed
        status = {limits.status_field: said} if limits.tells_status else {}
        known = {limits.id_name: self.number(contact.id), limits.email_field: contact.email}
        return {**known, **contact.fields, **status}

    def failed(self, status: int, text: str) -> Answer:
        """The shape of every failed request."""
        return shapes.error(status, text, self.limits.form == "xml")

    def unauthorised(self, call: Call) -> Answer:
        """Not documented; as ASP.NET would."""
        return shapes.error(401, "Authorization has been denied", self.as_xml(call))

    def act(self, deed: dict[str, Any]) -> dict[str, Any]:
        """Do what a person does in the web interface."""
        return clevercampaign_app.act(self, deed)

    def held(self) -> dict[str, Any]:
        """All that is held; `lists` with their members' addresses."""
        data = self.data
        return {
            "profiles": {
                one.id: {
                    "email": one.email,
                    "fields": one.fields,
                    "mailable": one.subscribed,
                    "writes": one.writes,
                    "lists": [
                        listed.name for listed in data.lists.values() if one.id in listed.members
                    ],
                }
                for one in data.contacts.values()
            },
            "lists": {
                one.id: {
                    "name": one.name,
                    "contacts": {member: data.contacts[member].email for member in one.members},
                }
                for one in data.lists.values()
            },
            "duplicates": data.duplicates(),
            "repeated_creates": data.repeated_creates,
            "resubscribed": data.resubscribed,
        }


STAND_IN = CleverCampaign
