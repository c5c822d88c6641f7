"""What people do in CleverTap's app or with a mail of its, for POST /_act."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict

from syncd.sandbox.clevertap_profile import Profile
from syncd.sandbox.clevertap_query import Event

if TYPE_CHECKING:
    from syncd.sandbox.clevertap import CleverTap

TYPES = {"bounce": "bounced", "drop": "dropped", "complain": "spam"}


class Deed(BaseModel):
    """Body of POST /_act; *at* is epoch seconds, now if absent."""

    model_config = ConfigDict(extra="forbid")

    do: Literal[
        "unsubscribe",
        "resubscribe",
        "bounce",
        "drop",
        "complain",
        "delete",
        "unsubscribe_profile",
        "set_property",
    ]
    email: str | None = None
    identity: str | None = None
    group: str | None = None
    reason: str | None = None
    name: str | None = None
    value: Any = None
    at: float | None = None
    campaign: bool = True  # False: not by a link in a mail, as what the API was told to do


class Person:
    """Somebody with a browser: marks addresses, sets flags, and leaves events behind."""

    def __init__(self, account: CleverTap) -> None:
        self.account = account
        self.profiles = account.profiles

    def act(self, given: dict[str, Any]) -> dict[str, Any]:
        """Do one deed; ValueError says why it cannot be done."""
        deed = Deed.model_validate(given)
        profile = self._profile(deed)
        address = (deed.email or (profile.emails[-1] if profile and profile.emails else "")).lower()
        if deed.do == "delete":
            self.profiles.delete(needed(profile))
        elif deed.do == "set_property":
            self._set_property(needed(profile), deed)
        elif deed.do == "unsubscribe_profile":
            self._flag(needed(profile), False)
            self._say(deed, profile, address, "Profile")
        elif not address:
            raise ValueError("email: an address is needed, or an identity that has one")
        else:
            self._change_mark(deed, profile, address)
        who = profile.key if profile else None
        self.account.note(0, "act", identity=who, do=deed.do, email=address, group=deed.group)
        return {"identity": who, "email": address or None}

    def _profile(self, deed: Deed) -> Profile | None:
        if deed.identity is not None:
            found = self.profiles.by_identity.get(deed.identity)
            if found is None:
                raise ValueError(f"identity: no profile {deed.identity!r}")
            return found
        holders = self.profiles.by_email.get((deed.email or "").lower(), [])
        return holders[0] if holders else None

    def _change_mark(self, deed: Deed, profile: Profile | None, address: str) -> None:
        """A group narrows the deed to that group: the address itself stays as it is."""
        opted_out = self.account.writes.opted_out
        if deed.do == "resubscribe" and deed.group is None:
            self.profiles.marks.pop(address, None)
            opted_out.pop(f"address:{address}", None)
            for holder in self.profiles.by_email.get(address, []):
                self._flag(holder, True)
            return  # no event is documented for it
        if deed.group is None:
            self.profiles.marks[address] = {"why": deed.do, "request": 0}
            opted_out[f"address:{address}"] = deed.do
        self._say(deed, profile, address, "Account")

    def _flag(self, profile: Profile, mail: bool) -> None:
        profile.flags["MSG-email"] = mail
        for identity in profile.identities:
            if mail:
                self.account.writes.opted_out.pop(f"identity:{identity}", None)
            else:
                self.account.writes.opted_out[f"identity:{identity}"] = "unsubscribe_profile"

    def _set_property(self, profile: Profile, deed: Deed) -> None:
        if not deed.name:
            raise ValueError("name: the property to set")
        self.profiles.before_write(profile)
        self.profiles.merge(profile, {deed.name: deed.value}, ignore)

    def _say(self, deed: Deed, profile: Profile | None, address: str, level: str) -> None:
        """Record Channel Unsubscribed, the one way by which a client learns of it."""
        props: dict[str, Any] = {
            "Campaign ID": 1700000000 if deed.campaign else None,
            "Campaign Type": "Email" if deed.campaign else None,
            "Group": deed.group,
            "Identity": address or (profile.key if profile else None),
            "Type": TYPES.get(deed.do),
            "Subscription Type": level,
            "Reason": deed.reason or ("Resubscribed" if deed.do == "resubscribe" else None),
        }
        known = {key: value for key, value in props.items() if value is not None}
        at = deed.at or time.time()
        self.account.queries.happen(Event("Channel Unsubscribed", at, profile, address, known))


def ignore(_rule: str, _detail: str) -> None:
    """A person breaks no rule of the API."""


def needed(profile: Profile | None) -> Profile:
    """The profile, or a plain no."""
    if profile is None:
        raise ValueError("identity: no such profile")
    return profile
