"""What a look-up of one claimed contact makes of it. Pure functions; `LookUp` asks the provider."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import orjson

from syncd.classify import HELD
from syncd.db import array_literal
from syncd.decide import Entry
from syncd.model import Absent, Applied, Found, Outcome, Traits, Verb


def judge(
    entry: Entry, found: Found | None, reads: bool = False, news: bool = False
) -> Entry | Outcome:
    """What a look-up makes of an entry: settled, or to be sent with what was found.

    That mail is off there is news only where the mirror believed that it is on. Where we know that
    it is off (withdrawn, silenced, a no that has been noted), and a newer consent or a return
    turns it on, only a no with a time counts that no reading (`reads`) could have told us of, or
    one that is known to be `news`.
    """
    if found is None:
        return entry
    want, no = entry.change.want, found.opted_out
    if want is not None and want.subscribed and no is not None:
        known = entry.change.resubscribe and not news and (reads or no.occurred_at is None)
        if not known:  # said under the address that the record has, be it about to get another
            return replace(no, email=no.email or found.email)
    if found.remote is None:
        if entry.look_first or entry.change.verb is not Verb.PUT:
            return Applied()
        if entry.mirror_state == "withdrawn" and want is not None:
            if not want.subscribed:
                return Absent("not there, and not to be mailed")
            return entry._replace(change=entry.change._replace(remote=None, may_create=True))
        if entry.change.was is not None or entry.change.may_create:
            return entry
        return Absent("not there, and not to be created")
    was = entry.change.was
    if want is None and was is not None and found.email:  # not where a lost try was to bring it
        was = was._replace(email=found.email)
    remote = found.remote or entry.change.remote
    change = entry.change._replace(remote=remote, may_create=False, was=was)
    return entry._replace(change=change)


def is_taken(entry: Entry, found: Found) -> bool:
    """Whether only another contact's record is where it is to be put: it would be taken over."""
    there = (found.email or "").lower()
    return found.remote is None and there == entry.email and entry.change.want is not None


def remembered(
    entries: Sequence[Entry], found: Sequence[Found], by_address: bool
) -> Iterator[tuple[str, str, bool, str, str, str | None, bool]]:
    """Of whom is in doubt, what the look has found; see `Journal.remember_remote`.

    Whoever is mailed, though a lost try was to turn that on, has been turned on: a no that is met
    from now on is news. by_address: what was found at another address than the mirror knows is a
    second record; the one there stays known until it is left.
    """
    for entry, one in zip(entries, found, strict=True):
        if one.remote is None or entry.left_over or (by_address and _moves(entry)):
            continue
        if entry.change.doubtful and entry.email:
            was = entry.change.was
            lists = array_literal(sorted(was.lists) if was else [])
            on = was.subscribed if was else entry.subscribed  # a lost silence may have arrived
            told = one.email.lower() if one.email else None
            turned_on = entry.change.resubscribe and one.mailed is True
            yield entry.contact_id, entry.email, on, dump(one.remote), lists, told, turned_on


def _moves(entry: Entry) -> bool:
    """Whether the mirror knows a record at another address than the one to be written, be it one
    whose withdrawal was lost: that is still in its lists perhaps."""
    was = entry.change.was
    if was is None or was.email.lower() == entry.email:
        return False
    return entry.mirror_state in HELD or (entry.mirror_state == "withdrawn" and bool(was.lists))


def address_there(entry: Entry, found: Found) -> str:
    """As the mirror has it, once `remember_remote` has written down what was found."""
    was = entry.change.was
    return (found.email or (was.email if was is not None else "") or entry.email).lower()


def dump(remote: Mapping[str, Any]) -> str:
    return orjson.dumps(remote).decode()


def to_scan(entry: Entry, traits: Traits) -> Sequence[str]:
    """Where a record that a lost request left may be."""
    if not traits.scans_lists:
        return ("",)
    was = entry.change.was
    return sorted({*entry.lists, *entry.sent_lists, *(was.lists if was is not None else ())})
