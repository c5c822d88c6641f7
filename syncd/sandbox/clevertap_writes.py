"""What CleverTap's API may change: uploads, address marks, deletions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from syncd.sandbox.call import Answer, Call, answered
from syncd.sandbox.clevertap_profile import Profile
from syncd.sandbox.clevertap_query import Event
from syncd.sandbox.clevertap_validate import (
    IDENTIFIERS,
    Note,
    Refusal,
    cleaned,
    echoed,
    is_email,
    refusal,
)

if TYPE_CHECKING:
    from syncd.sandbox.clevertap import CleverTap

MOST_RECORDS, MOST_DELETED = 1000, 100


class Writes:
    """Carries out the writing calls and watches over those who said no in the app."""

    def __init__(self, account: CleverTap) -> None:
        self.account = account
        self.profiles = account.profiles
        self.opted_out: dict[str, str] = {}  # "identity:x" or "address:y" -> the deed
        self.resubscribed: list[dict[str, Any]] = []

    def claims(self, call: Call) -> frozenset[str]:
        """The identities and addresses that the call writes, for as long as it lasts."""
        body = call.parsed
        if not isinstance(body, dict) or call.query("dryRun") == ["1"]:
            return frozenset()
        if call.path == "/1/delete/profiles.json":
            return frozenset(f"identity:{each}" for each in as_list(body.get("identity")))
        rows = [row for row in as_list(body.get("d")) if isinstance(row, dict)]
        if call.path == "/1/upload":
            profiles = (row for row in rows if row.get("type") == "profile")
            return frozenset(f"identity:{identifier(row)[1]}" for row in profiles)
        if call.path == "/1/subscribe":
            return frozenset(f"address:{str(row.get('value')).lower()}" for row in rows)
        return frozenset()

    def upload(self, call: Call, apply: bool) -> Answer:
        """POST /1/upload."""
        rows = self._rows(call)
        if isinstance(rows, Answer):
            return rows
        dry = call.query("dryRun")
        if dry not in ([], ["0"], ["1"]):
            self.account.violate(call, "dryRun", str(dry))
        note = self.account.noting(call)
        self._once(rows, note)
        refused: list[dict[str, Any]] = []
        for number, row in enumerate(rows, 1):
            wrong = self._store(call, row, apply and dry != ["1"], note)
            if wrong is not None:
                kind = (
                    "Event" if isinstance(row, dict) and row.get("type") == "event" else "Profile"
                )
                refused.append(unprocessed(wrong, kind, number, row))
                if apply:
                    name = identifier(row)[1] if isinstance(row, dict) else None
                    self.account.note(call.number, "refused", identity=name, code=wrong[0])
        return settled(len(rows), refused)

    def subscribe(self, call: Call, apply: bool) -> Answer:
        """POST /1/subscribe: marks addresses, for every profile that has them."""
        rows = self._rows(call)
        if isinstance(rows, Answer):
            return rows
        refused: list[dict[str, Any]] = []
        seen: set[str] = set()
        for number, row in enumerate(rows, 1):
            wrong = subscription_refusal(row)
            address = row["value"].lower() if wrong is None else ""
            if wrong is not None:
                self.account.violate(call, "subscribe", wrong[1])
                refused.append(unprocessed(wrong, "Subscription", number, row))
            elif address in seen:
                self.account.violate(call, "twice in one batch", address)
            if wrong is None and apply:
                self._mark(call, address, row)
            seen.add(address)
        return settled(len(rows), refused)

    def delete(self, call: Call, apply: bool) -> Answer:
        """POST /1/delete/profiles.json; unknown ids succeed."""
        body = call.parsed if isinstance(call.parsed, dict) else {}
        named = {key: as_list(body[key]) for key in ("identity", "guid") if key in body}
        if len(named) != 1 or len(body) != 1:
            self.account.violate(call, "delete", "not exactly one of identity, guid")
            return self.account.failed(400, "Exactly one of identity, guid is required")
        ((key, ids),) = named.items()
        if not 1 <= len(ids) <= MOST_DELETED or not all(isinstance(each, str) for each in ids):
            self.account.violate(call, "batch size", f"{len(ids)} {key} to delete")
            return self.account.failed(400, f"At most {MOST_DELETED} profiles")
        for each in ids if apply else ():
            profile = self.profiles.find("objectId" if key == "guid" else key, each)
            if profile is not None:
                self.profiles.delete(profile)
            found = profile is not None
            self.account.note(call.number, "delete", identity=each, found=found)
        return answered({"status": "success"})

    def _rows(self, call: Call) -> list[Any] | Answer:
        rows = call.parsed.get("d") if isinstance(call.parsed, dict) else None
        if not isinstance(rows, list):
            self.account.violate(call, "malformed", "no array d")
            return self.account.failed(400, "Malformed request")
        if not 1 <= len(rows) <= MOST_RECORDS:
            self.account.violate(call, "batch size", f"{len(rows)} records")
            return self.account.failed(400, f"1 to {MOST_RECORDS} records")
        return rows

    def _once(self, rows: list[Any], note: Note) -> None:
        """No two profile records of one identity: their order is not promised."""
        seen: set[str] = set()
        for row in rows:
            if isinstance(row, dict) and row.get("type") == "profile":
                name = identifier(row)[1]
                if name in seen:
                    note("twice in one batch", name)
                seen.add(name)

    def _store(self, call: Call, row: Any, apply: bool, note: Note) -> Refusal | None:
        if (wrong := refusal(row, note)) is not None:
            return wrong
        kind, name = identifier(row)
        event = row["type"] == "event"
        data: dict[str, Any] = {}
        if not event and row["profileData"].get("Email") in self.account.limits.refused:
            return 515, "Email is not valid"
        if not event:
            data = cleaned(row["profileData"], self.profiles.names, note, learn=apply)
        if not apply:
            return None
        profile = self.profiles.find(kind, name)
        created = profile is None
        watched = self._watched(profile, name) if self.opted_out else []
        profile = profile or self.profiles.create(kind, name)
        if event:
            self._happen(profile, row["evtName"], row.get("ts") or call.at, row.get("evtData", {}))
        else:
            profile = self.profiles.merge(profile, data, note)
        if watched and self.profiles.mailable(profile):
            self._came_back(call, watched)
        wrote = {"event": row["evtName"]} if event else row["profileData"]
        self.account.note(call.number, row["type"], identity=name, created=created, wrote=wrote)
        return None

    def _happen(self, profile: Profile, name: str, at: float, props: dict[str, Any]) -> None:
        self.profiles.before_write(profile)
        self.account.queries.happen(Event(name, at, profile, props=props))
        self.profiles.after_write(profile)

    def _mark(self, call: Call, address: str, row: dict[str, Any]) -> None:
        if row["type"] == "email" and row["status"] == "Unsubscribe":
            self.profiles.marks[address] = {"why": "api", "request": call.number}
        elif row["type"] == "email":
            self.profiles.marks.pop(address, None)
            if f"address:{address}" in self.opted_out:
                self._came_back(call, [f"address:{address}"])
        self.account.note(call.number, "subscribe", identity=address, wrote=row)

    def _watched(self, profile: Profile | None, name: str) -> list[str]:
        """Which of the opt-outs made in the app bear on this profile."""
        names = profile.identities if profile else [name]
        emails = profile.emails if profile else []
        keys = [f"identity:{each}" for each in names] + [f"address:{e.lower()}" for e in emails]
        return [key for key in keys if key in self.opted_out]

    def _came_back(self, call: Call, keys: list[str]) -> None:
        """Somebody who said no in the app may be mailed again because of this call."""
        for key in keys:
            deed = self.opted_out.pop(key)
            entry = {"who": key, "said": deed, "request": call.number, "at": call.at}
            self.resubscribed.append(entry)


def as_list(value: Any) -> list[Any]:
    """A list as it is, anything else alone in one, nothing for None."""
    return value if isinstance(value, list) else [] if value is None else [value]


def identifier(row: dict[str, Any]) -> tuple[str, str]:
    """The name and value by which a record names its profile."""
    name = row.get("identity")
    if type(name) is str and name:
        return "identity", name
    kind = next((name for name in IDENTIFIERS if row.get(name) not in (None, "")), "identity")
    return kind, str(row.get(kind, ""))


def subscription_refusal(row: Any) -> Refusal | None:
    """What is wrong with one entry of /1/subscribe."""
    if not isinstance(row, dict) or set(row) != {"type", "value", "status"}:
        return 512, "Structure is not valid"
    if row["type"] not in ("email", "phone", "whatsapp"):
        return 512, "Type is not valid"
    if row["status"] not in ("Unsubscribe", "Resubscribe"):
        return 512, "Status is not valid"
    if row["type"] == "email" and not is_email(row["value"]):
        return 515, "Email is not valid"
    return None if isinstance(row["value"], str) else (516, "Phone is not valid")


def unprocessed(wrong: Refusal, kind: str, number: int, row: Any) -> dict[str, Any]:
    """One refused record as the answer shows it; N counts from 1."""
    code, reason = wrong
    text = f"{kind} data is incorrect. {reason}.Skipped record number : {number}"
    return {"status": "fail", "code": code, "error": text, "record": echoed(row)}


def settled(sent: int, refused: list[dict[str, Any]]) -> Answer:
    """The answer to a batch: always 200, whatever became of the records."""
    status = "success" if not refused else "partial" if len(refused) < sent else "fail"
    processed = sent - len(refused)
    return answered({"status": status, "processed": processed, "unprocessed": refused})
