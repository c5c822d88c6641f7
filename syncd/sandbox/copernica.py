"""A strict stand-in of Copernica's REST API, v1 to v4, with one database.

What the reference leaves open is an option (`Limits`). Its real mistakes are kept: unknown names
are dropped, conditions it cannot read match everything, an update of a deleted profile is a
success. v4's JWT is given by `POST /authenticate`; `/en/authorize` is the page of the code flow.
"""

from __future__ import annotations

import base64
import json
import re
import time
from collections.abc import Callable
from typing import Any, ClassVar, Literal
from urllib.parse import parse_qs

import orjson
from pydantic import Field

from syncd.sandbox import copernica_app
from syncd.sandbox.call import Answer, Call, answered
from syncd.sandbox.copernica_account import Account, Profile, Refused
from syncd.sandbox.copernica_database import Definitions
from syncd.sandbox.copernica_oauth import PAGE, Door
from syncd.sandbox.copernica_profiles import Profiles
from syncd.sandbox.meters import Meter
from syncd.sandbox.standin import Options, StandIn

TOKEN = "0f1e2d3c4b5a69788796a5b4c3d2e1f0"  # noqa: S105  of nobody's account
CLIENT, SECRET = "syncd-rehearsal", "s3cr3t/+= x"
VERSIONED = re.compile(r"/(v[1-4])(/.*?)/?")
D = r"/database/([^/]+)"
FORM = "application/x-www-form-urlencoded"


class Limits(Options):
    """Body of POST /_limits."""

    tokens: dict[str, Literal["any", "v4"]] = {TOKEN: "any"}  # noqa: RUF012  pydantic copies it
    account: str = "34"
    applications: dict[str, str] = {CLIENT: SECRET}  # noqa: RUF012  likewise
    answers_as: Literal["json", "documented"] = "json"  # the documents print a token without quotes
    code_seconds: float = 600.0
    in_flight: int | None = None  # neither limit is published, so no rate is a breach
    per_second: float | None = None
    v1_page_cap: int = Field(default=100, ge=1)
    page_cap: int = Field(default=1000, ge=1)
    inside: int = Field(default=1000, ge=1)  # rows of a wrapper inside the database's object
    v1_removed: bool = False
    put_answers: Literal[303, 302, 200] = 303  # v1 and v2
    created_in: Literal["X-Created", "x-created", "X-Location"] = "X-Created"
    delete_again: Literal["400", "204"] = "400"
    visible_after: float = 0.0  # seconds until a condition finds what was made
    block_doubles: bool = False
    banned: list[str] = Field(default_factory=list)
    most_profiles: int | None = None
    pass_seconds: int = 86_400
    behaviour: Literal["update", "remove", "nothing"] = "update"
    unsubscribed: dict[str, str] = Field(default_factory=lambda: {"newsletter": "no"})
    first_database: int = 7616
    first_field: int = 20991
    first_profile: int = 18381


class Copernica(StandIn):
    """The stand-in: who may call, in which version, and what."""

    provider: ClassVar[str] = "copernica"
    demo: ClassVar[dict[str, str]] = {
        "access_token": TOKEN,
        "client_id": CLIENT,
        "client_secret": SECRET,
    }
    options: ClassVar[type[Options]] = Limits

    def clear(self) -> None:
        """Forget all data."""
        limits = self.limits
        first = {"database": limits.first_database, "field": limits.first_field}
        first["profile"] = limits.first_profile
        said = limits.unsubscribed if limits.behaviour == "update" else {}
        self.data = Account(first, {"behavior": limits.behaviour, "fields": dict(said)})
        self.passes: set[str] = set()
        self.door = Door(self)
        around, profiles = Definitions(self), Profiles(self)
        table: list[tuple[str, str, Callable[..., Answer]]] = [
            ("GET", "/identity", around.identity),
            ("GET", D, around.database),
            ("GET", f"{D}/fields", around.fields),
            ("POST", f"{D}/fields", around.add_field),
            ("PUT", f"{D}/field/([^/]+)", around.edit_field),
            ("DELETE", f"{D}/field/([^/]+)", around.drop_field),
            ("GET", f"{D}/interests", around.interests),
            ("POST", f"{D}/interests", around.add_interest),
            ("PUT", r"/interest/(\d+)", around.edit_interest),
            ("DELETE", r"/interest/(\d+)", around.drop_interest),
            ("GET", f"{D}/unsubscribe", around.unsubscribe),
            ("GET", f"{D}/profiles", profiles.page),
            ("POST", f"{D}/profiles", profiles.add),
            ("PUT", f"{D}/profiles", profiles.upsert),
            ("GET", f"{D}/profileids", profiles.ids),
            ("GET", r"/profile/(\d+)", profiles.one),
            ("DELETE", r"/profile/(\d+)", profiles.delete),
            ("PUT", r"/profile/(\d+)/fields", profiles.put_fields),
            ("POST", r"/profile/(\d+)/interests", profiles.switch),
            ("PUT", r"/profile/(\d+)/interests", profiles.replace),
        ]
        self.routes = [(method, re.compile(path), do) for method, path, do in table]

    # ── Before anything is answered ─────────────────────────────────────────────────────────

    def open(self, call: Call) -> Meter:
        """One meter an account; a write claims its profile and, while it creates, its key."""
        found = re.fullmatch(r"/v\d/profile/(\d+)(/.*)?", call.path)
        if call.method != "GET" and found:
            call.claims = frozenset({f"profile:{found[1]}"})
        elif call.method == "PUT" and call.path.endswith("/profiles"):
            call.claims = frozenset({f"key:{one.lower()}" for one in call.query("fields[]")})
        return Meter("api", "account", self.limits.in_flight, self.limits.per_second)

    def answer(self, call: Call, apply: bool) -> Answer:
        """Check who calls and how, then carry it out."""
        if call.path == "/authenticate":
            return self._authenticate(call)
        if page := PAGE.fullmatch(call.path):
            return self.door.page(call, page[1])
        found = VERSIONED.fullmatch(call.path)
        if found is not None and found[2] == "/token":
            return self.door.token(call, apply)
        if found is None:
            self.ledger.violate(call, "unknown path", f"{call.method} {call.path}")
            return self.failed(400, "Invalid request, element 1 is missing in '' path")
        if not self._authorised(call, found[1]):
            return self.unauthorised(call)
        self._look_at_head(call)
        for method, pattern, carry_out in self.routes:
            if method == call.method and (matched := pattern.fullmatch(found[2])):
                try:
                    return carry_out(call, apply, *matched.groups())
                except Refused as err:
                    return self.failed(400, str(err))
        self.ledger.violate(call, "unknown path", f"{call.method} {call.path}")
        return self.failed(400, "Invalid method")

    def _authenticate(self, call: Call) -> Answer:
        if call.method != "POST" or call.headers.get("Content-Type", "") != FORM:
            self.ledger.violate(call, "authenticate", "not a form that is posted")
        token = "".join(parse_qs(call.body.decode("utf-8", "replace")).get("access_token", []))
        if token not in self.tokens:
            return self.failed(400, "Invalid access token")
        until = int(time.time()) + self.limits.pass_seconds
        parts = ({"alg": "RS256"}, {"exp": until, "n": len(self.passes) + call.number})
        jwt = ".".join(base64.urlsafe_b64encode(orjson.dumps(p)).decode().strip("=") for p in parts)
        self.passes.add(f"{jwt}.c2lnbmVk")
        return Answer(200, f"{jwt}.c2lnbmVk\n".encode(), "text/plain")

    def _authorised(self, call: Call, version: str) -> bool:
        header, tokens = call.headers.get("Authorization", ""), call.query("access_token")
        if version == "v4":
            if tokens:
                self.ledger.violate(call, "token", "in the address of v4")
            return header.removeprefix("Bearer ") in self.passes
        if header or len(tokens) != 1:
            self.ledger.violate(call, "token", f"{len(tokens)} in the address; header: {header}")
            return False
        return self.tokens.get(tokens[0]) == "any"

    @property
    def tokens(self) -> dict[str, str]:
        """Those that are good now: made by hand, and granted to applications."""
        return {**self.limits.tokens, **dict.fromkeys(self.door.granted, "any")}

    def _look_at_head(self, call: Call) -> None:
        kind = call.headers.get("Content-Type", "").partition(";")[0].strip().lower()
        if call.body and (call.method == "GET" or kind != "application/json"):
            self.ledger.violate(call, "content type", f"{call.method} {kind or 'missing'}")
        if call.method in ("PUT", "POST") and not call.body:
            self.ledger.violate(call, "no body", call.path)

    # ── What calls share ────────────────────────────────────────────────────────────────────

    def version(self, call: Call) -> str:
        return call.path[1:3]

    def at(self, name: str) -> None:
        """The one database, by id (or, less well, by name)."""
        if name != str(self.data.database) and name.lower() != self.data.name.lower():
            raise Refused("No database with supplied ID")

    def json(self, call: Call) -> Any:
        try:
            return json.loads(call.body)
        except ValueError:
            self.ledger.violate(call, "body", "not JSON")
            raise Refused("Invalid data provided") from None

    def body(self, call: Call) -> dict[str, Any]:
        said = self.json(call)
        if not isinstance(said, dict):
            self.ledger.violate(call, "body", "not an object")
            raise Refused("Invalid data provided")
        return said

    def window(self, call: Call, _count: int) -> tuple[int, int]:
        """Where a page begins, and how long it may be; a limit that is too high is cut silently."""
        cap = self.limits.v1_page_cap if self.version(call) == "v1" else self.limits.page_cap
        start = int("".join(call.query("start")[:1]) or 0)
        asked = int("".join(call.query("limit")[:1]) or 100)
        return start, min(asked, cap)

    def wrapped(self, call: Call, rows: list[Any]) -> Answer:
        start, limit = self.window(call, len(rows))
        page = rows[start : start + limit]
        told = {"start": start, "limit": limit, "count": len(page), "data": page}
        if "".join(call.query("total")[:1]) not in ("false", "0"):
            told["total"] = len(rows)
        return answered(told)

    def created(self, call: Call, what: str, number: int) -> Answer:
        """201, and the new id in a header."""
        return Answer(201, b"", headers=self._told(call, what, number))

    def made(self, call: Call, number: int) -> Answer:
        """PUT that created."""
        status = 303 if self.version(call) in ("v1", "v2") else 201
        return Answer(status, b"", headers=self._told(call, "profile", number))

    def put(self, call: Call, what: str, number: int) -> Answer:
        """Success of a PUT of one thing; the location repeats the query, token and all."""
        if self.version(call) in ("v3", "v4"):
            return Answer(204, b"")
        if call.method == "POST":
            return Answer(200, b"")
        return Answer(self.limits.put_answers, b"", headers=self._location(call, what, number))

    def _told(self, call: Call, what: str, number: int) -> dict[str, str]:
        if self.limits.created_in == "X-Location":
            return {"X-Location": f"https://api.copernica.com/{what}/{number}"}
        return {self.limits.created_in: str(number), **self._location(call, what, number)}

    @staticmethod
    def _location(call: Call, what: str, number: int) -> dict[str, str]:
        return {"Location": f"https://api.copernica.com/{what}/{number}?{call.raw_query}"}

    def deleted(self, what: str, version: str = "v1") -> Answer:
        return Answer(200 if version in ("v1", "v2") else 204, b"", headers={"X-deleted": what})

    def failed(self, status: int, text: str) -> Answer:
        """The shape of every failed request."""
        return answered({"error": {"message": text}}, status)

    def unauthorised(self, call: Call) -> Answer:  # noqa: ARG002
        return self.failed(400, "Invalid access token")

    def act(self, deed: dict[str, Any]) -> dict[str, Any]:
        """Do what a person does in the app."""
        return copernica_app.act(self, deed)

    def mailable(self, email: str) -> bool:
        """True if a mailing to all who are subscribed would reach this address."""
        there = [one for one in self.data.live() if one.fields["email"].lower() == email.lower()]
        return any(self.data.mailable(one) for one in there)

    def held(self) -> dict[str, Any]:
        """All that is held; `lost_writes` went to deleted profiles."""
        data = self.data
        return {
            "profiles": {one.id: self._shown(one) for one in data.profiles.values()},
            "fields": [one.name for one in data.columns.values()],
            "columns": {one.id: one.name for one in data.columns.values()},
            "interests": {n: {"name": a, "group": b} for n, (a, b) in data.interests.items()},
            "duplicates": data.duplicates("sync_id") + data.duplicates("email"),
            "resubscribed": data.turned_on,
            "lost_writes": data.lost_writes,
        }

    def _shown(self, one: Profile) -> dict[str, Any]:
        return {
            "fields": one.fields,
            "interests": sorted(one.interests),
            "removed": one.removed,
            "mailable": one.removed is None and self.data.mailable(one),
            "writes": one.writes,
        }


STAND_IN = Copernica
