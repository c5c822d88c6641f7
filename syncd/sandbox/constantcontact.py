"""A strict stand-in of Constant Contact's web services v1.

What the reference leaves open is an option (`Limits`). Every request proves the password by HTTP
Digest, checked in `constantcontact_digest`; what a correct client never sends is a violation.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any, ClassVar, Literal
from urllib.parse import unquote

from pydantic import Field

from syncd.sandbox import constantcontact_app, constantcontact_atom
from syncd.sandbox.call import Answer, Call
from syncd.sandbox.constantcontact_account import (
    ACTIVE,
    Account,
    Contact,
    MailingList,
    Refused,
)
from syncd.sandbox.constantcontact_contacts import Contacts
from syncd.sandbox.constantcontact_digest import Gate
from syncd.sandbox.constantcontact_jobs import Jobs
from syncd.sandbox.constantcontact_lists import Lists
from syncd.sandbox.meters import Meter
from syncd.sandbox.standin import Options, StandIn

API_KEY = "7f3c2a10-1111-4222-8333-444455556666"
USER, PASSWORD = "syncd_sandbox", "sandbox-password"
ATOM_TYPE = "application/atom+xml;charset=UTF-8"
SERVICE = (
    '<?xml version="1.0"?><service xmlns="http://www.w3.org/2007/app"><workspace>'
    '<collection href="contacts"/><collection href="lists"/><collection href="activities"/>'
    "</workspace></service>"
)


class Limits(Options):
    """Body of POST /_limits."""

    api_key: str = API_KEY
    accounts: dict[str, str] = Field(default_factory=lambda: {USER: PASSWORD})
    realm: str = "api.constantcontact.com"
    offers: Literal["digest", "both", "basic"] = "digest"
    algorithm: Literal["MD5", "MD5-sess", "SHA-256"] | None = None
    qop: Literal["auth", "auth,auth-int", ""] = "auth"
    nonce_uses: int | None = None
    nonce_seconds: float | None = None
    nc_order: Literal["any", "growing"] = "any"
    tells_stale: bool = True
    in_flight: int | None = None  # no limit is published, so going over one is no breach
    per_second: float | None = None
    per_day: int | None = None
    none_found: Literal["feed", "500"] = "feed"
    contacts: Literal["all", "active"] = "all"  # what GET /contacts shows
    opted_out: Literal["403", "400"] = "403"  # what an owner's update of one is answered with
    omitted: Literal["cleared", "kept"] = "cleared"  # fields that a PUT leaves out
    put_answer: Literal[204, 201] = 204
    next_as: Literal["path", "relative", "absolute"] = "path"
    ids_user: str | None = None  # how ids spell the user's name
    names_fold: bool = True  # whether "News" and "news" are one name
    page_size: int = Field(default=50, ge=1, le=50)
    job_seconds: float = 0.2
    job_rows: int = 20_000
    job_bytes: int = 4_000_000
    jobs_fail: int = 0  # so many jobs, the next ones, end in ERROR
    headings: Literal["asked", "title"] = "title"  # how an export spells its columns
    poison: list[str] = Field(default_factory=list)  # a job with one of these ends in ERROR
    refused: list[str] = Field(default_factory=list)  # addresses that are no addresses there
    most_contacts: int | None = None
    first_list: int = 101
    first_contact: int = 5001


class ConstantContact(StandIn):
    """The stand-in: who may call, what, and with what."""

    provider: ClassVar[str] = "constantcontact"
    demo: ClassVar[dict[str, str]] = {"api_key": API_KEY, "username": USER, "password": PASSWORD}
    options: ClassVar[type[Options]] = Limits

    def clear(self) -> None:
        """Forget all data, and every nonce."""
        self.data = Account(self.limits.first_list, self.limits.first_contact)
        self.gate = Gate(self)
        self.days: Counter[str] = Counter()
        self.jobs = Jobs(self)
        lists, contacts, number = Lists(self), Contacts(self), r"([A-Za-z0-9-]+)"
        table: list[tuple[str, str, Callable[..., Answer]]] = [
            ("GET", r"/", self._service),
            ("GET", r"/lists", lists.page),
            ("POST", r"/lists", lists.add),
            ("GET", rf"/lists/{number}", lists.one),
            ("PUT", rf"/lists/{number}", lists.rename),
            ("DELETE", rf"/lists/{number}", lists.delete),
            ("GET", rf"/lists/{number}/members", lists.members),
            ("GET", r"/contacts", contacts.page),
            ("POST", r"/contacts", contacts.add),
            ("GET", rf"/contacts/{number}", contacts.one),
            ("PUT", rf"/contacts/{number}", contacts.replace),
            ("DELETE", rf"/contacts/{number}", contacts.opt_out),
            ("GET", r"/activities", self.jobs.page),
            ("POST", r"/activities", self.jobs.begin),
            ("GET", rf"/activities/{number}", self.jobs.one),
            ("GET", rf"/activities/({number[1:-1]}\.(?:csv|txt))", self.jobs.file),
        ]
        self.routes = [(method, re.compile(path), do) for method, path, do in table]

    # ── Before anything is answered ─────────────────────────────────────────────────────────

    def open(self, call: Call) -> Meter:
        """One meter a key; a contact is written to by one request at a time."""
        found = re.fullmatch(r"/ws/customers/[^/]+/contacts/(\d+)", call.path)
        if found and call.method != "GET":
            call.claims = frozenset({f"contact:{found[1]}"})
        limits = self.limits
        return Meter("api", limits.api_key, limits.in_flight, limits.per_second)

    def answer(self, call: Call, apply: bool) -> Answer:
        """Check who calls and how, then carry it out."""
        if (over := self._over_a_day()) is not None:
            return over
        if (refusal := self.gate.refusal(call)) is not None:
            return refusal
        found = re.fullmatch(r"/ws/customers/[^/]+(/.*)", call.path)
        for method, pattern, carry_out in self.routes if found else ():
            place = pattern.fullmatch(found[1]) if found else None
            if place and method == call.method:
                try:
                    self._look_at_head(call)
                    return carry_out(call, apply, *place.groups())
                except Refused as err:
                    return self.failed(err.status, err.text)
        self.ledger.violate(call, "unknown path", f"{call.method} {call.path}")
        return self.failed(404, "Error 404: Not Found")

    def _over_a_day(self) -> Answer | None:
        day = f"{datetime.now(UTC):%Y-%m-%d}"
        self.days[day] += 1
        if self.limits.per_day is None or self.days[day] <= self.limits.per_day:
            return None
        return self._over("ERR_403_DEVELOPER_OVER_RATE", b"<h1>Developer Over Rate</h1>", {})

    def _over(self, code: str, body: bytes, more: dict[str, str]) -> Answer:
        return Answer(403, body, "text/xml", {"X-Mashery-Error-Code": code, **more})

    def _look_at_head(self, call: Call) -> None:
        if "Authorization" in call.headers and call.body and "Content-Length" not in call.headers:
            self.ledger.violate(call, "no content length", "chunked")
        kind = call.headers.get("Content-Type", "").partition(";")[0].strip().lower()
        wants = {"PUT", "POST"} if not call.path.endswith("/activities") else set()
        if call.method in wants and kind != "application/atom+xml":
            self.ledger.violate(call, "content type", kind or "missing")
            raise Refused(415, "Error 415: Unsupported Media Type")

    def _service(self, call: Call, apply: bool) -> Answer:  # noqa: ARG002
        return Answer(200, SERVICE.encode(), "application/atomsvc+xml")

    # ── What the calls share ────────────────────────────────────────────────────────────────

    def is_user(self, raw: str, user: str) -> bool:
        """Whether a path is this customer's own."""
        return unquote(raw) == user

    def uri(self, kind: str, number: object) -> str:
        """An id: http, whatever the API is called over."""
        user = self.limits.ids_user or next(iter(self.limits.accounts))
        return f"http://api.constantcontact.com/ws/customers/{user}/{kind}/{number}"

    def sent(self, call: Call, kind: str) -> tuple[str, Any]:
        """The id and payload of a document that was sent."""

        def breach(rule: str, detail: str) -> None:
            self.ledger.violate(call, rule, detail)

        return constantcontact_atom.read(call.body, kind, breach)

    def document(
        self, text: str, status: int = 200, headers: dict[str, str] | None = None
    ) -> Answer:
        return Answer(status, text.encode(), ATOM_TYPE, headers or {})

    def paged(self, call: Call, place: str, entries: Sequence[str]) -> Answer:
        """A page of a collection; where it goes on is an opaque token."""
        try:
            start = int("".join(call.query("next")[:1]) or "0", 36)
        except ValueError:
            raise Refused(400, "Error 400: next") from None
        size = self.limits.page_size
        following = None
        if start + size < len(entries):
            query = "&".join(one for one in call.raw_query.split("&")
                             if one and not one.startswith("next="))  # fmt: skip
            token = _base36(start + size) + (f"&{query}" if query else "")
            name = place if self.limits.next_as != "relative" else place.rpartition("/")[2]
            following = f"{name}?next={token}"
            if self.limits.next_as != "relative":
                following = f"/ws/customers/{next(iter(self.limits.accounts))}/{following}"
            if self.limits.next_as == "absolute":
                following = f"http://api.constantcontact.com{following}"
        uri = self.uri(place, "").rstrip("/")
        body = constantcontact_atom.feed(uri, entries[start : start + size], following)
        return Answer(200, body, ATOM_TYPE)

    def needed_list(self, number: str, status: int = 404) -> MailingList:
        """A list by its number, or a refusal."""
        if not number.isdigit() or int(number) not in self.data.lists:
            raise Refused(status, f"Error {status}: list not found")
        return self.data.lists[int(number)]

    def needed_contact(self, number: str) -> Contact:
        if not number.isdigit() or int(number) not in self.data.contacts:
            raise Refused(404, "Error 404: contact not found")
        return self.data.contacts[int(number)]

    def failed(self, status: int, text: str) -> Answer:
        """Plain text; what goes over a second's limit is the gateway's to refuse."""
        if status == 429:
            more = {"Retry-After": "1"}
            return self._over("ERR_403_DEVELOPER_OVER_QPS", b"<h1>Developer Over Qps</h1>", more)
        return Answer(status, text.encode(), "text/plain;charset=UTF-8")

    def unauthorised(self, call: Call) -> Answer:  # noqa: ARG002
        return self.gate.challenge()

    # ── For tests and rehearsals ────────────────────────────────────────────────────────────

    def act(self, deed: dict[str, Any]) -> dict[str, Any]:
        """Do what a person does in the dashboard, or with a mail."""
        return constantcontact_app.act(self, deed)

    def mailable(self, email: str) -> bool:
        """True if a campaign to all lists would mail this address."""
        one = self.data.by_email.get(email.lower())
        return one is not None and one.status == ACTIVE and bool(one.lists)

    def held(self) -> dict[str, Any]:
        """All that is held. There can be no duplicates; jobs that were sent twice are counted."""
        self.jobs.work()
        data = self.data
        return {
            "profiles": {one.id: self._shown(one) for one in data.contacts.values()},
            "lists": {
                one.id: {
                    "name": one.name,
                    "contacts": {each.id: each.email for each in data.members(one.id)},
                }
                for one in data.lists.values()
            },
            "jobs": [
                {"id": one.id, "type": one.kind, "lists": one.lists, "rows": len(one.rows),
                 "status": one.status, "errors": len(one.errors)}
                for one in data.jobs.values()
            ],
            "duplicates": [],
            "repeated_adds": data.repeated_adds,
            "repeated_jobs": data.repeated_jobs,
            "resubscribed": data.resubscribed,
            "challenges": self.gate.challenges,
            "renewals": self.gate.renewals,
        }  # fmt: skip

    def _shown(self, one: Contact) -> dict[str, Any]:
        return {
            "email": one.email,
            "fields": one.fields,
            "lists": sorted(one.lists),
            "status": one.status,
            "mailable": self.mailable(one.email),
            "writes": one.writes,
        }


def _base36(number: int) -> str:
    text = ""
    while number:
        number, digit = divmod(number, 36)
        text = "0123456789abcdefghijklmnopqrstuvwxyz"[digit] + text
    return text or "0"


STAND_IN = ConstantContact
