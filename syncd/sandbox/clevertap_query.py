"""CleverTap's queries: which events and profiles a query body names."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from syncd.sandbox.clevertap_profile import Profile, Shown
from syncd.sandbox.clevertap_profiles import Profiles

OPERATORS: dict[str, Callable[[Any, Any], bool]] = {
    "equals": lambda held, value: held == value or _has(held, value),
    "not_equals": lambda held, value: held != value and not _has(held, value),
    "contains": lambda held, value: _has(held, value),
    "not_contains": lambda held, value: not _has(held, value),
    "exists": lambda held, _: held is not None,
    "does_not_exist": lambda held, _: held is None,
    "greater_than": lambda held, value: held is not None and held > value,
    "less_than": lambda held, value: held is not None and held < value,
    "between": lambda held, value: held is not None and value[0] <= held <= value[1],
}


def _has(held: Any, value: Any) -> bool:
    values = value if isinstance(value, list) else [value]
    if isinstance(held, list):
        return any(item in held for item in values)
    return isinstance(held, str) and any(str(item) in held for item in values)


class QueryError(ValueError):
    """The query is not one; the text says why."""


@dataclass(frozen=True, slots=True)
class Event:
    """One event that happened to a profile (or to an address without one)."""

    name: str
    at: float
    profile: Profile | None
    email: str | None = None
    props: dict[str, Any] = field(default_factory=dict)
    recorded: float = 0.0


class Queries:
    """Evaluates query bodies over the profiles and events held."""

    def __init__(self, profiles: Profiles, limits: Any) -> None:
        self.profiles = profiles
        self.limits = limits
        self.events: list[Event] = []

    def happen(self, event: Event) -> None:
        """Record an event, on its profile too."""
        self.events.append(replace(event, recorded=time.time()))
        if event.profile is not None:
            at = int(event.at)
            count, first, last = event.profile.events.get(event.name, (0, at, at))
            event.profile.events[event.name] = (count + 1, min(first, at), max(last, at))

    def event_rows(self, body: Any) -> list[Event]:
        """The events that a query of /1/events.json names."""
        name = self._event_name(body)
        if name is None:
            raise QueryError("event_name is required")
        first, last = span(body)
        return [event for event in self._happened(name, first, last) if self._ripe(event)]

    def profile_rows(self, body: Any) -> list[Profile]:
        """The profiles that a query of /1/profiles.json names."""
        wanted = filters(body)
        if (name := self._event_name(body)) is not None:
            first, last = span(body)
            happened = self._happened(name, first, last)
            owners = (self.profiles.living(e.profile) for e in happened if self._ripe(e))
            rows = list(dict.fromkeys(owner for owner in owners if owner))
        elif self.limits.eventless and wanted:
            rows = list(self.profiles.all)
        else:
            raise QueryError("event_name is required")
        return [row for row in rows if self._matches(row, wanted)]

    def stamp(self, at: float) -> int:
        """Epoch seconds as yyyyMMddHHmmss in the account's zone."""
        zone = timedelta(hours=self.limits.zone_hours)
        return int((datetime.fromtimestamp(at, UTC) + zone).strftime("%Y%m%d%H%M%S"))

    def event_record(self, event: Event) -> Shown | None:
        """An event as /1/events.json shows it; those of a deleted profile are gone."""
        profile: Shown = {"platform": "Web"}
        if event.profile is not None:
            owner = self.profiles.living(event.profile)
            if owner is None:
                return None
            seen = self.profiles.visible(owner) or {}
            profile |= {k: seen[k] for k in ("identity", "email", "profileData") if k in seen}
            if owner.object_id:
                profile["objectId"] = owner.object_id
        elif event.email:
            profile["email"] = event.email
        record = {"profile": profile, "ts": self.stamp(event.at)}
        return {**record, "event_props": event.props, "session_props": {}}

    def _event_name(self, body: Any) -> str | None:
        if not isinstance(body, dict):
            raise QueryError("the query is not an object")
        name = body.get("event_name")
        if name is not None and (not isinstance(name, str) or not name):
            raise QueryError("event_name is not a name")
        return name

    def _happened(self, name: str, first: int, last: int) -> Iterator[Event]:
        for event in self.events:
            if event.name == name and first <= self.stamp(event.at) // 1_000_000 <= last:
                yield event

    def _ripe(self, event: Event) -> bool:
        return event.recorded <= time.time() - float(self.limits.visible_after)

    def _matches(self, profile: Profile, wanted: list[dict[str, Any]]) -> bool:
        record = self.profiles.visible(profile)
        if record is None:
            return False
        data = record["profileData"]
        top = {"Email": record.get("email"), "Name": record.get("name")}
        values = {**data, **top, "Phone": record.get("phone"), "Identity": record.get("identity")}
        try:
            return all(
                OPERATORS[each["operator"]](values.get(each["name"]), each.get("value"))
                for each in wanted
            )
        except (TypeError, IndexError):  # a text compared with a number, a range without an end
            return False


def span(body: dict[str, Any]) -> tuple[int, int]:
    """The days of a query, YYYYMMDD, both inclusive."""
    days = []
    for key in ("from", "to"):
        day = body.get(key)
        try:
            if type(day) is not int:
                raise ValueError
            datetime.strptime(f"{day} +0000", "%Y%m%d %z")
        except ValueError:
            raise QueryError(f"{key} is not an integer YYYYMMDD") from None
        days.append(day)
    if days[0] > days[1]:
        raise QueryError("from is after to")
    return days[0], days[1]


def filters(body: Any) -> list[dict[str, Any]]:
    """The conditions on profile properties."""
    if not isinstance(body, dict):
        raise QueryError("the query is not an object")
    common = body.get("common_profile_properties") or {}
    fields = common.get("profile_fields") or [] if isinstance(common, dict) else None
    if not isinstance(fields, list):
        raise QueryError("common_profile_properties is not {profile_fields: [...]}")
    for each in fields:
        if not isinstance(each, dict) or "name" not in each:
            raise QueryError("a profile field without a name")
        if each.get("operator") not in OPERATORS:
            raise QueryError(f"unknown operator {each.get('operator')!r}")
    return fields
