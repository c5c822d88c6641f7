"""A strict stand-in of CleverTap's REST API v1.

What the reference leaves open is an option (`Limits`) or answered in the plainest way: 413
for a body over the limit, 400 for a batch over the limit, 403 for the calls that send mail.
All accounts see the same profiles.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar, Literal

import orjson
from pydantic import Field

from syncd.sandbox.call import Answer, Call, answered
from syncd.sandbox.clevertap_app import Person
from syncd.sandbox.clevertap_profile import Profile, shown
from syncd.sandbox.clevertap_profiles import Profiles
from syncd.sandbox.clevertap_query import Queries
from syncd.sandbox.clevertap_reads import Reads
from syncd.sandbox.clevertap_writes import Writes
from syncd.sandbox.meters import Meter
from syncd.sandbox.standin import Options, StandIn

MALFORMED = object()
HOSTS = {name: f"{name}.api.clevertap.com" for name in ("in1", "sg1", "us1", "aps3", "mec1", "eu1")}


class Limits(Options):
    """Body of POST /_limits."""

    upload_in_flight: int | None = 15
    other_in_flight: int | None = 3
    per_second: float | None = None  # over all paths of an account; not published, so no breach
    max_body_bytes: int = 5_000_000
    region: str | None = None  # "" is the bare European host; None accepts any
    accounts: dict[str, list[str]] = Field(
        default_factory=lambda: {"TEST-0A0-000-0A0Z": ["JDG-PAS-CODE"]}
    )
    revoked: list[str] = Field(default_factory=list)  # passcodes: expired, reset or revoked
    partners: list[str] = Field(default_factory=lambda: ["syncd"])
    refused: list[str] = Field(default_factory=list)  # addresses that are refused as bad
    merge_by_email: bool = False
    set_supported: bool = True
    delete_supported: bool = True
    visible_after: float = 0.0
    delete_visible_after: float = 0.0
    eventless: bool = False  # profile queries without an event
    not_found: Literal["404", "missing", "fail"] = "404"
    counts_partial: bool = False
    empty_page: bool = False  # a last page without records
    cursor_life: float | None = None
    zone_hours: float = 0.0


class CleverTap(StandIn):
    """The stand-in: who may call, which way, and where the call goes."""

    provider: ClassVar[str] = "clevertap"
    demo: ClassVar[dict[str, str]] = {
        "account_id": "TEST-0A0-000-0A0Z",
        "passcode": "JDG-PAS-CODE",
    }
    options: ClassVar[type[Options]] = Limits

    def clear(self) -> None:
        """Forget all data."""
        self.profiles = Profiles(self.limits)
        self.queries = Queries(self.profiles, self.limits)
        self.reads = Reads(self)
        self.writes = Writes(self)
        self.person = Person(self)
        writes, reads = self.writes, self.reads
        self.writing: dict[str, Callable[[Call, bool], Answer]] = {
            "POST /1/upload": writes.upload,
            "POST /1/subscribe": writes.subscribe,
            "POST /1/delete/profiles.json": writes.delete,
        }
        self.reading: dict[str, Callable[[Call], Answer]] = {
            "GET /v1/connect": self._connect,
            "GET /1/profile.json": reads.profile,
            "POST /1/profiles.json": reads.open_profiles,
            "GET /1/profiles.json": reads.page,
            "POST /1/events.json": reads.open_events,
            "GET /1/events.json": reads.page,
            "POST /1/counts/profiles.json": reads.count,
            "GET /1/counts/profiles.json": reads.counted,
        }
        self.paths = {route.partition(" ")[2] for route in (*self.writing, *self.reading)}

    def set_limits(self, given: dict[str, Any]) -> None:
        """Change the options named, in force at once."""
        super().set_limits(given)
        self.profiles.limits = self.queries.limits = self.limits

    def mailable(self, identity: str) -> bool:
        """True if a campaign would mail this identity."""
        profile = self.profiles.by_identity.get(identity)
        return profile is not None and self.profiles.mailable(profile)

    def violate(self, call: Call, rule: str, detail: str) -> None:
        """Record a breach."""
        self.ledger.violate(call, rule, detail)

    def open(self, call: Call) -> Meter:
        """Decode the body; uploads have a meter of their own."""
        if call.method == "POST":
            try:
                call.parsed = orjson.loads(call.body)
            except ValueError:
                call.parsed = MALFORMED
            call.claims = self.writes.claims(call)
        account = call.headers.get("X-CleverTap-Account-Id", "")
        limits = self.limits
        if call.path == "/1/upload":
            return Meter("upload", account, limits.upload_in_flight, limits.per_second)
        return Meter("other", account, limits.other_in_flight, limits.per_second)

    def answer(self, call: Call, apply: bool) -> Answer:
        """Check who calls and how, then hand over."""
        if not self._authorised(call):
            return self.unauthorised(call)
        if call.path.startswith(("/1/targets", "/1/send")):
            self.violate(call, "would send mail", call.path)
            return self.failed(403, "Not in the sandbox")
        route = f"{call.method} {call.path}"
        if route not in self.writing and route not in self.reading:
            self.violate(call, "unknown path", route)
            return self.failed(405 if call.path in self.paths else 404, "Not found")
        if call.method == "POST" and (refused := self._unreadable(call)):
            return refused
        if route in self.writing:
            return self.writing[route](call, apply)
        return self.reading[route](call)

    def failed(self, status: int, text: str) -> Answer:
        """The shape of every failed request."""
        return answered({"status": "fail", "error": text, "code": status}, status)

    def unauthorised(self, call: Call) -> Answer:
        """401 everywhere but on the partner check."""
        return self.failed(400 if call.path == "/v1/connect" else 401, "Invalid Credentials")

    def act(self, deed: dict[str, Any]) -> dict[str, Any]:
        """Do what a person does in the app."""
        return self.person.act(deed)

    def held(self) -> dict[str, Any]:
        """All that is held, and who was mailed against their will if we mailed now."""
        profiles = self.profiles
        return {
            "profiles": {profile.key: self._held(profile) for profile in profiles.all},
            "address_marks": profiles.marks,
            "creates": profiles.creates,
            "duplicates": profiles.duplicates(),
            "resubscribed": self.writes.resubscribed,
            "property_names": len(profiles.names),
            "events": len(self.queries.events),
        }

    def _held(self, profile: Profile) -> dict[str, Any]:
        return {
            "identity": profile.identity,
            "identities": profile.identities,
            "objectId": profile.object_id,
            "Email": profile.emails[-1] if profile.emails else None,
            "emails": profile.emails,
            "properties": profile.properties,
            "Lists": profile.properties.get("Lists", []),
            "flags": profile.flags,
            "events": shown(profile).get("events", {}),
            "created": self.profiles.creates[profile.key],
            "updated": profile.updates,
            "mailable": self.profiles.mailable(profile),
        }

    def _authorised(self, call: Call) -> bool:
        given = []
        for name in ("X-CleverTap-Account-Id", "X-CleverTap-Passcode"):
            values = call.headers.getall(name, [])
            if len(values) != 1:
                self.violate(call, "credentials header", f"{name} {len(values)} times")
                return False
            given.append(values[0])
        account, passcode = given
        known = passcode in self.limits.accounts.get(account, ())
        return known and passcode not in self.limits.revoked and self._right_region(call)

    def _right_region(self, call: Call) -> bool:
        host = call.headers.get("Host", "").partition(":")[0].lower()
        if self.limits.region is None or not host.endswith("api.clevertap.com"):
            return True
        return host == HOSTS.get(self.limits.region, "api.clevertap.com")

    def _unreadable(self, call: Call) -> Answer | None:
        kind = call.headers.get("Content-Type", "").partition(";")[0].strip().lower()
        if kind != "application/json":
            self.violate(call, "content type", kind or "missing")
            return self.failed(400, "Malformed request")
        if len(call.body) > self.limits.max_body_bytes:
            self.violate(call, "body too large", f"{len(call.body)} bytes")
            return self.failed(413, "Request entity too large")
        if call.parsed is MALFORMED:
            self.violate(call, "malformed", "not JSON")
            return self.failed(400, "Malformed request")
        return None

    def _connect(self, call: Call) -> Answer:
        partner = "".join(call.query("partner")[:1])
        if partner not in self.limits.partners:
            return self.failed(403, f"Partner not whitelisted: {partner}")
        return answered({"message": "Authorised Successfully.", "status": "success"})

    def noting(self, call: Call) -> Callable[[str, str], None]:
        """A function that records breaches of this call."""
        return partial(self.ledger.violate, call)


STAND_IN = CleverTap
