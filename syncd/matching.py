"""Whose record is it? What a page of a scan makes of the mirror: pure functions, no database.

A record is a contact's by its remote id, where the mirror holds that id already, else by address:
as the mirror has it, as a lost request was sent, as the source wants it. Design, section 6.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from syncd.classify import HELD
from syncd.model import Notice, Seen

Remote = Mapping[str, Any]
Remembered = Callable[[Remote | None, str | None, Seen], Remote]


class Mirrored(NamedTuple):
    """A contact's mirror row. settled: not written since the scan began."""

    contact_id: str
    email: str
    state: str
    remote: Remote | None
    lists: Sequence[str]
    subscribed: bool
    settled: bool


class Tried(NamedTuple):
    """A contact with a request in flight, or one whose answer was lost; under which address."""

    contact_id: str
    email: str | None
    state: str
    doubtful: bool
    waits: bool


class Written(NamedTuple):
    """A mirror row to write. differs: what is there is not what the mirror believed."""

    contact_id: str
    email: str
    state: str
    remote: Remote
    lists: Sequence[str]
    subscribed: bool
    differs: bool


@dataclass(slots=True)
class Known:
    """What the database says of the contacts and addresses of one page."""

    prior: Mapping[str, str]  # remote id → contact, as of an earlier scan of the list
    met: dict[str, str]  # contact → remote id, of those that this scan has met already
    mirror: Mapping[str, Mirrored]
    tried: Mapping[str, Tried]
    holders: Mapping[str, str]  # address → contact of the source that is to have it


@dataclass(slots=True)
class Matched:
    """What one page came to."""

    owners: dict[str, str] = field(default_factory=dict)  # remote id → contact
    rows: dict[str, Written] = field(default_factory=dict)
    news: set[str] = field(default_factory=set)  # contacts to be planned anew
    notices: list[Notice] = field(default_factory=list)
    doubles: dict[str, str] = field(default_factory=dict)  # second records → the one that is kept
    left: set[tuple[str, str]] = field(default_factory=set)  # contact, list it should be in


@dataclass(frozen=True, slots=True)
class Matcher:
    """Matches the pages of one scan. list_key: our id of the list; '' for the whole account.

    tells_lists: every record says in which lists it is.
    by_address: a contact at another address is another record.
    """

    list_key: str
    remote_list: str | None
    remembered: Remembered
    source_lists: Mapping[str, str]  # remote list id → ours
    tells_lists: bool = False
    by_address: bool = False

    def match(self, records: Sequence[Seen], known: Known) -> Matched:
        done = Matched()
        by_email = {row.email: row for row in _held_last(known.mirror.values())}
        tried = {one.email: one for one in known.tried.values() if one.email is not None}
        for seen in sorted(records, key=lambda one: not self._is_known(one, known, by_email)):
            owner = self._owner(seen, known, by_email, tried)
            if owner is None:
                continue
            if (kept := known.met.get(owner, seen.remote_id)) != seen.remote_id:
                done.doubles[seen.remote_id] = kept
                continue
            known.met[owner] = seen.remote_id
            done.owners[seen.remote_id] = owner
            self._write(seen, owner, known, done)
        return done

    def _owner(
        self,
        seen: Seen,
        known: Known,
        by_email: Mapping[str, Mirrored],
        tried: Mapping[str, Tried],
    ) -> str | None:
        owner = self._by_address(seen, known, by_email, tried)
        for one in (seen.contact_id, known.prior.get(seen.remote_id)):
            row = None if one is None else known.mirror.get(one)
            if row is None or one is None:
                continue
            if one == seen.contact_id or (self._has(row, seen) and not _left(row, seen, owner)):
                return one
        return owner if seen.contact_id in (None, owner) else None  # it says whose it is

    def _by_address(
        self, seen: Seen, known: Known, by_email: Mapping[str, Mirrored], tried: Mapping[str, Tried]
    ) -> str | None:
        email = address(seen)
        if email is None:
            return None
        if email in by_email:
            return by_email[email].contact_id
        if email in tried:
            row = known.mirror.get(tried[email].contact_id)
            if self.by_address and row is not None and row.email != email and _may_be_there(row):
                return None  # a second one: that of before must not be forgotten for it
            return tried[email].contact_id
        wanting = known.holders.get(email)
        held = None if wanting is None else known.mirror.get(wanting)
        return None if held is not None and held.state in HELD else wanting

    def _is_known(self, seen: Seen, known: Known, by_email: Mapping[str, Mirrored]) -> bool:
        """Whether it is somebody's by its number; what else has the address is a second one."""
        rows = (
            known.mirror.get(known.prior.get(seen.remote_id, "")),
            by_email.get(address(seen) or ""),
        )
        return any(row is not None and self._has(row, seen) for row in rows)

    def _has(self, row: Mirrored, seen: Seen) -> bool:
        """Whether the mirror says that this record is the contact's."""
        known = row.remote
        return known is not None and self.remembered(known, self.remote_list, seen) == known

    def _write(self, seen: Seen, owner: str, known: Known, done: Matched) -> None:
        row, tried = known.mirror.get(owner), known.tried.get(owner)
        in_flight = tried is not None and tried.state == "sent"
        if row is None:
            if not in_flight:
                done.rows[owner] = self._found(seen, owner, tried)
                if tried is None:
                    done.news.add(owner)
                    self._notice(seen, owner, done)
            return
        remote = self.remembered(row.remote, self.remote_list, seen)
        if self.tells_lists and tried is None:
            done.left |= self._lists_left(seen, row)
        if in_flight:
            written = Written(*row[:3], remote, row.lists, row.subscribed, False)
        else:
            written = self._judged(seen, row, tried, remote, done)
        if written[:6] != row[:6] or written.differs:
            done.rows[owner] = written

    def _found(self, seen: Seen, owner: str, tried: Tried | None) -> Written:
        """Ours by its address, and unknown to the mirror: made by a lost request, or adopted."""
        state = "adopted" if tried is None else "here"
        email = address(seen) or ""
        remote = self.remembered(None, self.remote_list, seen)
        return Written(owner, email, state, remote, self._lists(seen), True, True)

    def _judged(
        self, seen: Seen, row: Mirrored, tried: Tried | None, remote: Remote, done: Matched
    ) -> Written:
        """A record that the mirror has a row for: is it there as we left it?"""
        lists = sorted({*row.lists, *self._lists(seen)})
        if row.state not in HELD:
            left = row.settled and (bool(self.list_key) or seen.subscribed is True)
            if not left and tried is None:
                return Written(*row[:3], remote, row.lists, row.subscribed, False)
            done.news.add(row.contact_id)  # it should not be there: an older request came late
            email = address(seen) or row.email
            if row.state == "absent":  # its lists are those that were wanted
                lists = list(self._lists(seen))
            return Written(row.contact_id, email, "adopted", remote, lists, True, True)
        if self.list_key and not row.subscribed and row.settled and seen.subscribed is not False:
            done.news.add(row.contact_id)  # silenced, and in the list all the same; in the others
            return Written(*row[:3], remote, self._lists(seen), True, True)  # of the row it is not
        stray = row.subscribed and row.settled and lists != sorted(row.lists)
        if stray and row.state == "here" and tried is None:  # in a list that we did not put it in
            done.news.add(row.contact_id)
            return Written(*row[:2], "adopted", remote, lists, True, True)
        if tried is not None:  # the lost request may have moved it
            email = address(seen) or row.email
            return Written(row.contact_id, email, row.state, remote, lists, row.subscribed, True)
        if row.state == "adopted":
            return Written(*row[:3], remote, lists, row.subscribed, False)
        if row.subscribed and row.settled:
            self._notice(seen, row.contact_id, done)
        return Written(*row[:3], remote, row.lists, row.subscribed, False)

    def _lists_left(self, seen: Seen, row: Mirrored) -> set[tuple[str, str]]:
        """Lists that we have put it into, and that it is not in."""
        if row.state != "here" or not (row.subscribed and row.settled and seen.subscribed):
            return set()
        there = set(self.source_lists.values()) & set(row.lists)
        return {(row.contact_id, one) for one in there - set(self._lists(seen))}

    def _lists(self, seen: Seen) -> Sequence[str]:
        """Our ids of the lists that the record is known to be in."""
        told = {self.source_lists[one] for one in seen.lists if one in self.source_lists}
        return sorted(told | {self.list_key} - {""})

    @staticmethod
    def _notice(seen: Seen, owner: str, done: Matched) -> None:
        if seen.subscribed is False:
            done.notices.append(Notice(owner, None, "unsubscribed", None, evidence=seen.evidence))


def address(seen: Seen) -> str | None:
    """The record's address as the mirror writes addresses."""
    email = (seen.email or "").strip().lower()
    return email or None


def _left(row: Mirrored, seen: Seen, owner: str | None) -> bool:
    """Whether a contact that is not there has moved on from this record, which another one's add at
    its old address has taken up."""
    gone = row.state not in HELD and address(seen) != row.email
    return gone and owner not in (None, row.contact_id)


def _may_be_there(row: Mirrored) -> bool:
    """Whether the provider has the contact, or a removal whose answer was lost may have left it in
    its lists."""
    return row.state in HELD or (row.state == "withdrawn" and bool(row.lists))


def _held_last(rows: Iterable[Mirrored]) -> list[Mirrored]:
    """So that, of several rows with an address, the one that is there wins."""
    return sorted(rows, key=lambda row: (row.state in HELD, row.contact_id))
