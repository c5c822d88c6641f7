"""Whose profile is it? By its id, by our key, by the address where the key is empty.

Reference, sections 5 and 6.
"""

from __future__ import annotations

from collections.abc import Sequence

import structlog

from syncd.model import Change, Found, OptedOut, Person
from syncd.providers.copernica_answers import Profile
from syncd.providers.copernica_calls import Calls, condition
from syncd.providers.copernica_database import Database
from syncd.providers.copernica_translate import (
    address,
    email_fault,
    key_fault,
    key_of,
    moment,
)

log = structlog.get_logger()


def number_of(change: Change) -> str | None:
    """The profile that is remembered for a contact."""
    number = (change.remote or {}).get("id")
    return None if number is None else str(number)


def person_of(change: Change) -> Person | None:
    return change.want or change.was


def no_of(database: Database, profile: Profile) -> OptedOut | None:
    """The no that a profile says; of one that we said ourselves no time is told."""
    if not database.is_off(profile):
        return None
    if database.is_ours(profile):
        return OptedOut(evidence={"profile": profile.id, "by": "an earlier request of ours"})
    return OptedOut(occurred_at=moment(profile.modified), evidence=evidence(profile))


def evidence(profile: Profile) -> dict[str, str]:
    """`ts`: the provider's own clock, all digits."""
    digits = "".join(one for one in profile.modified if one.isdigit())
    return {"profile": profile.id, "modified": profile.modified, "ts": digits}


class Finder:
    """Looks profiles up. Every look costs one request."""

    def __init__(self, calls: Calls) -> None:
        self._calls = calls

    async def find(self, database: Database, change: Change) -> Found:
        """By the remembered id alone where there is one: no other record is the contact's."""
        if (number := number_of(change)) is not None:
            found = await self._calls.profile(number)
        else:
            found = await self.by_key(database, change.contact_id)
            found = found or await self.by_address(database, person_of(change), change.contact_id)
        if found is None:
            return Found(None)
        remote = {**(change.remote or {}), "id": found.id}
        email = found.get(database.email) or None
        no = no_of(database, found)
        lists = database.lists_of(found)
        # What bears our mark was turned off by us, whatever else has changed there since.
        fields = None if database.is_ours(found) else found.fields
        return Found(remote, email, no, lists, mailed=no is None, fields=fields)

    async def all_by_key(self, database: Database, contact_id: str) -> Sequence[Profile]:
        """Profiles with our key, to the letter; the lowest id first."""
        if key_fault(contact_id) or database.ours.key not in database.fields:
            return ()
        key = key_of(contact_id)
        found = await self._calls.matching(condition(database.ours.key, "==", key))
        return _told([one for one in found if one.get(database.ours.key) == key], contact_id)

    async def by_key(self, database: Database, contact_id: str) -> Profile | None:
        return next(iter(await self.all_by_key(database, contact_id)), None)

    async def at_address(self, database: Database, email: str) -> Sequence[Profile]:
        """Every profile with this address, whosever it is."""
        if email_fault(email):
            return ()
        wanted = address(email)
        found = await self._calls.matching(condition(database.email, "==", wanted))
        return [one for one in found if address(one.get(database.email)) == wanted]

    async def by_address(
        self, database: Database, person: Person | None, contact_id: str
    ) -> Profile | None:
        """The lowest one of this address that bears our key, or none yet."""
        there = await self.at_address(database, person.email) if person else ()
        free = [one for one in there if database.contact(one) in (None, contact_id)]
        return next(iter(_told(free, contact_id)), None)


def _told(found: Sequence[Profile], contact_id: str) -> Sequence[Profile]:
    """Doubles are reported, and left as they are."""
    if len(found) > 1:
        kept, *others = (one.id for one in found)
        log.warning("contact is there twice", contact=contact_id, kept=kept, others=others)
    return found
