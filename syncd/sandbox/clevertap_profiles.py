"""The profiles that the CleverTap stand-in holds, and who may be mailed."""

from __future__ import annotations

import time
from collections import Counter
from typing import Any

from syncd.sandbox.clevertap_profile import Profile, Shown, operate, shown
from syncd.sandbox.clevertap_validate import FLAGS, Note


class Profiles:
    """All profiles of the account, with the marks on addresses."""

    def __init__(self, limits: Any) -> None:
        self.limits = limits
        self.all: dict[Profile, None] = {}
        self.by_identity: dict[str, Profile] = {}
        self.by_object: dict[str, Profile] = {}
        self.by_email: dict[str, list[Profile]] = {}
        self.names: set[str] = set()
        self.marks: dict[str, dict[str, Any]] = {}
        self.creates: Counter[str] = Counter()
        self.ghosts: list[tuple[float, Profile]] = []  # deleted, but readable until then

    def find(self, kind: str, value: str) -> Profile | None:
        """The profile with this identifier."""
        return (self.by_object if kind == "objectId" else self.by_identity).get(value)

    def create(self, kind: str, value: str) -> Profile:
        """A new profile known by this identifier only."""
        if kind == "objectId":
            profile = self.by_object[value] = Profile([], object_id=value)
        else:
            profile = self.by_identity[value] = Profile([value])
        self.all[profile] = None
        self.creates[value] += 1
        return profile

    def merge(self, profile: Profile, data: dict[str, Any], note: Note) -> Profile:
        """Take cleaned properties in; returns the profile that has them in the end."""
        self.before_write(profile)
        email = data.get("Email")
        if email is not None:
            profile = self._addressed(profile, email)
        for name, value in data.items():
            if name == "Email":
                continue
            if name in FLAGS:
                profile.flags[name] = value
            elif type(value) is dict:
                operate(profile.properties, name, value, self.limits, note)
            else:
                profile.properties[name] = value
        profile.updates += 1
        self.after_write(profile)
        return profile

    def delete(self, profile: Profile) -> None:
        """Forget the profile; reads may still see it for a while."""
        self.all.pop(profile, None)
        for identity in profile.identities:
            self.by_identity.pop(identity, None)
        if profile.object_id:
            self.by_object.pop(profile.object_id, None)
        for email in profile.emails:
            self._unlist(email, profile)
        if self.limits.delete_visible_after:
            self.ghosts.append((time.time() + self.limits.delete_visible_after, profile))

    def living(self, profile: Profile | None) -> Profile | None:
        """The profile itself or the one it was merged into; None once deleted."""
        while profile is not None and profile.merged_into is not None:
            profile = profile.merged_into
        return profile if profile in self.all else None

    def mailable(self, profile: Profile) -> bool:
        """True if a campaign would mail this profile."""
        if profile.flags.get("MSG-email") is False or not profile.emails:
            return False
        return not any(email.lower() in self.marks for email in profile.emails)

    def visible(self, profile: Profile) -> Shown | None:
        """The profile as reads show it now, which may lag behind."""
        if not self.limits.visible_after:
            return shown(profile)
        limit = time.time() - self.limits.visible_after
        if not profile.versions:
            return shown(profile) if profile.changed_at <= limit else None
        seen = [version for at, version in profile.versions if at <= limit]
        return seen[-1] if seen else None

    def read(self, by: str, value: str) -> Shown | None:
        """Look one profile up, as /1/profile.json does; one only, even if several match."""
        now = time.time()
        self.ghosts = [ghost for ghost in self.ghosts if ghost[0] > now]
        for profile in self._candidates(by, value):
            record = self.visible(profile)
            if record is None:
                continue
            lagging = by == "email" and self.limits.visible_after
            if not lagging or str(record.get("email", "")).lower() == value.lower():
                return record
        return None

    def before_write(self, profile: Profile) -> None:
        """Keep the old version for readers, if reads lag."""
        if self.limits.visible_after and not profile.versions and profile.changed_at:
            profile.versions.append((profile.changed_at, shown(profile)))

    def after_write(self, profile: Profile) -> None:
        """Note the time, and the new version if reads lag."""
        profile.changed_at = time.time()
        if self.limits.visible_after:
            profile.versions.append((profile.changed_at, shown(profile)))

    def duplicates(self) -> dict[str, list[str]]:
        """Addresses that several profiles carry."""
        return {
            email: [profile.key for profile in profiles]
            for email, profiles in self.by_email.items()
            if len(profiles) > 1
        }

    def _candidates(self, by: str, value: str) -> list[Profile]:
        if by == "email":
            lagging = self.limits.visible_after
            found = list(self.all) if lagging else list(self.by_email.get(value.lower(), ()))
            wanted = value.lower()
            gone = [ghost for _, ghost in self.ghosts if wanted in map(str.lower, ghost.emails)]
            return found + gone
        one = self.find(by, value)
        gone = [
            ghost
            for _, ghost in self.ghosts
            if value == ghost.object_id or (by == "identity" and value in ghost.identities)
        ]
        return ([one] if one else []) + gone

    def _addressed(self, profile: Profile, email: str) -> Profile:
        """Give the profile this address; where Email identifies, that may merge two."""
        if not self.limits.merge_by_email:
            if profile.emails != [email]:
                for old in profile.emails:
                    self._unlist(old, profile)
                profile.emails = [email]
                self.by_email.setdefault(email.lower(), []).append(profile)
            return profile
        holders = self.by_email.setdefault(email.lower(), [])
        others = [holder for holder in holders if holder is not profile]
        if others:
            profile = self._united(others[0], profile)
        if email.lower() not in map(str.lower, profile.emails):
            profile.emails.append(email)  # the old address is kept
            holders.append(profile)
        return profile

    def _united(self, older: Profile, newer: Profile) -> Profile:
        """Merge two profiles into the older; the newer one's values win."""
        self.before_write(older)
        for email in newer.emails:
            self._unlist(email, newer)
            self.by_email.setdefault(email.lower(), []).append(older)
        self.all.pop(newer, None)
        newer.merged_into = older
        older.identities += newer.identities
        older.emails += newer.emails
        older.object_id = older.object_id or newer.object_id
        older.properties |= newer.properties
        older.flags |= newer.flags
        older.events = newer.events | older.events
        for identity in newer.identities:
            self.by_identity[identity] = older
        if newer.object_id:
            self.by_object[newer.object_id] = older
        return older

    def _unlist(self, email: str, profile: Profile) -> None:
        holders = self.by_email.get(email.lower(), [])
        if profile in holders:
            holders.remove(profile)
        if not holders:
            self.by_email.pop(email.lower(), None)
