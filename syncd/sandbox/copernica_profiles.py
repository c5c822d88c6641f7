"""Copernica's calls about profiles: read, made, updated, switched, deleted."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from syncd.sandbox import copernica_conditions as conditions
from syncd.sandbox.call import Answer, Call, answered
from syncd.sandbox.copernica_account import Profile, Refused

if TYPE_CHECKING:
    from syncd.sandbox.copernica import Copernica

TRUE = ("1", "true", "yes")


class Profiles:
    """Paged by conditions, or reached by id."""

    def __init__(self, copernica: Copernica) -> None:
        self.copernica = copernica

    # ── Reading ─────────────────────────────────────────────────────────────────────────────

    def page(self, call: Call, _apply: bool, name: str) -> Answer:
        self.copernica.at(name)
        if call.query("start") not in ([], ["0"]):
            self.copernica.ledger.violate(call, "paged by offset", "rows are skipped or repeated")
        found = [one for one in self._matching(call) if one.visible <= time.time()]
        order = "".join(call.query("orderby")[:1]) or "id"
        if order not in ("id", "modified"):
            self.copernica.ledger.violate(call, "orderby", order)
        found.sort(key=lambda one: (one.modified if order == "modified" else "", one.id))
        if "".join(call.query("order")[:1]).lower() == "desc":
            found.reverse()
        return self.copernica.wrapped(call, [self._shown(call, one) for one in found])

    def _matching(self, call: Call) -> list[Profile]:
        data = self.copernica.data
        chosen = []
        for text in conditions.given(call):
            read = conditions.read(data, text)
            if read is None or (read.operator == "==" and not read.value):
                self.copernica.ledger.violate(call, "condition", f"matches too much: {text!r}")
            if read is not None:
                chosen.append(read)
        return [one for one in data.live() if all(each.holds(one) for each in chosen)]

    def _shown(self, call: Call, one: Profile) -> dict[str, Any]:
        told: dict[str, Any] = {
            "ID": str(one.id), "fields": one.fields or [], "interests": sorted(one.interests),
            "database": str(self.copernica.data.database), "secret": one.secret,
            "created": one.created, "modified": one.modified,
        }  # fmt: skip
        if self.copernica.version(call) != "v1" or self.copernica.limits.v1_removed:
            told["removed"] = one.removed or False
        return told

    def ids(self, call: Call, _apply: bool, name: str) -> Answer:
        self.copernica.at(name)
        found = [str(one.id) for one in self.copernica.data.live()]
        if self.copernica.version(call) == "v1":
            return answered(found)
        start, limit = self.copernica.window(call, len(found))
        return answered(found[start : start + limit])

    def one(self, call: Call, _apply: bool, number: str) -> Answer:
        return answered(self._shown(call, self._profile(number)))

    def _profile(self, number: str) -> Profile:
        found = self.copernica.data.profiles.get(int(number))
        if found is None:
            raise Refused("No entity with supplied ID")
        return found

    # ── Writing ─────────────────────────────────────────────────────────────────────────────

    def add(self, call: Call, _apply: bool, _name: str) -> Answer:
        """A repeated POST makes a second profile: a client that can upsert does not send one."""
        self.copernica.ledger.violate(call, "POST of a profile", "cannot be repeated")
        raise Refused("Invalid data provided")

    def upsert(self, call: Call, apply: bool, name: str) -> Answer:
        self.copernica.at(name)
        given = conditions.given(call)
        if not given:
            raise Refused("URL parameter fields is required")
        if call.query("async"):
            self.copernica.ledger.violate(call, "async", "nothing is confirmed")
        fields = self._body(call)
        keys = [conditions.read(self.copernica.data, text) for text in given]
        for one in keys:
            if one is None or one.operator != "==":
                self.copernica.ledger.violate(call, "condition", f"of a write: {given}")
            elif str(fields.get(one.name, "")).lower() != one.value.lower():
                self.copernica.ledger.violate(call, "create", "the body has not the key")
        creates = "".join(call.query("create")[:1]).lower() in TRUE
        found = self._matching(call)
        if found or not creates:
            for profile in found if apply else ():
                self._store(call, profile, fields)
            return Answer(204 if self.copernica.version(call) in ("v3", "v4") else 200, b"")
        self._may_be(fields)
        if not apply:
            return self.copernica.made(call, 0)
        made = self.copernica.data.add(fields, self.copernica.limits.visible_after)
        self.copernica.note(call.number, "create", profile=made.id, wrote=fields)
        return self.copernica.made(call, made.id)

    def _may_be(self, fields: dict[str, Any]) -> None:
        limits, email = self.copernica.limits, str(fields.get("email", "")).lower()
        live = self.copernica.data.live()
        full = limits.most_profiles is not None and len(list(live)) >= limits.most_profiles
        double = limits.block_doubles and any(
            one.fields["email"].lower() == email for one in self.copernica.data.live()
        )
        if email in limits.banned or full or double:
            raise Refused("Failed to create profile")

    def _body(self, call: Call) -> dict[str, Any]:
        """Flat in v1, `fields` from v2 on; the wrong shape is not refused, only dropped."""
        said, flat = self.copernica.body(call), self.copernica.version(call) == "v1"
        if flat == isinstance(said.get("fields"), dict):
            self.copernica.ledger.violate(call, "body", "of another version: all is dropped")
        fields = said if flat else said.get("fields")
        return self._checked(call, fields if isinstance(fields, dict) else {})

    def _checked(self, call: Call, fields: dict[str, Any]) -> dict[str, Any]:
        for name, value in fields.items():
            column = self.copernica.data.column(name)
            if column is None or column.name != name:
                self.copernica.ledger.violate(call, "unknown field", name)
            elif column.loses(value):
                self.copernica.ledger.violate(call, "value", f"{name} is {column.type}")
        return fields

    def put_fields(self, call: Call, apply: bool, number: str) -> Answer:
        """An update of a deleted profile is answered as success, and lost."""
        profile = self._profile(number)
        fields = self._checked(call, self.copernica.body(call))
        if apply:
            self._store(call, profile, fields)
        return self.copernica.put(call, "profile", profile.id)

    def _store(self, call: Call, profile: Profile, fields: dict[str, Any]) -> None:
        data = self.copernica.data
        was_off = data.is_off(profile)
        data.store(profile, fields)
        data.watch(profile, was_off, call.number)
        self.copernica.note(call.number, "update", profile=profile.id, wrote=fields)

    def switch(self, call: Call, apply: bool, number: str) -> Answer:
        profile, said = self._profile(number), self.copernica.json(call)
        named = dict.fromkeys(said, 1) if isinstance(said, list) else dict(said)
        known = {name for name, _ in self.copernica.data.interests.values()}
        for name, on in named.items():
            if name not in known:
                self.copernica.ledger.violate(call, "unknown interest", str(name))
            elif apply:
                (profile.interests.add if on else profile.interests.discard)(name)
        self.copernica.note(call.number, "switch", profile=profile.id, wrote=named)
        return self.copernica.put(call, "profile", profile.id)

    def replace(self, call: Call, _apply: bool, _number: str) -> Answer:
        self.copernica.ledger.violate(call, "interests replaced", "others are lost")
        raise Refused("Invalid data provided")

    def delete(self, call: Call, apply: bool, number: str) -> Answer:
        profile = self._profile(number)
        if call.body and self.copernica.version(call) == "v1":
            self.copernica.ledger.violate(call, "body", "DELETE has none in v1")
        completely = bool(call.body) and self.copernica.body(call).get("completely") is True
        if profile.removed is not None:
            if self.copernica.limits.delete_again == "204":
                return Answer(204, b"")
            raise Refused("This profile has already been removed")
        if apply:
            self.copernica.data.remove(profile)
            if completely:
                del self.copernica.data.profiles[profile.id]
            self.copernica.note(call.number, "delete", profile=profile.id, completely=completely)
        return self.copernica.deleted(f"profile {profile.id}", self.copernica.version(call))
