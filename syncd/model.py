"""The values that the core and the adapters exchange. Imports nothing but the standard library.

A `Change` goes to an adapter, an `Outcome` comes back: design, sections 6 and 8.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import Flag, StrEnum, auto
from typing import Any, Literal, NamedTuple

Value = str | int | float | bool | None
"""One field of a contact as it travels: JSON scalars; dates as YYYY-MM-DD, nested data as text."""


class Verb(StrEnum):
    """What is to be done with one contact at one provider."""

    PUT = "put"  # make the remote record say what `want` says
    WITHDRAW = "withdraw"  # stop mail reversibly; nothing is said in the person's name
    DELETE = "delete"  # remove the remote record
    ERASE = "erase"  # forget the person for good


class Person(NamedTuple):
    """One contact as one destination should hold it, or was last given it.

    `lists` maps source list ids to remote ids (equal where the provider has no ids of its own).
    `subscribed` is what remains after the consent rule: False is the person's own no.
    """

    email: str
    fields: Mapping[str, Value]
    lists: Mapping[str, str]
    subscribed: bool


class Change(NamedTuple):
    """One contact to be written. An adapter sees nothing else of it.

    want: None for WITHDRAW, DELETE, ERASE.  was: the mirror's word, None if unknown there.
    remote: what the adapter asked to be remembered with `Applied`.
    may_create: the core's leave to make a record that is not there.
    resubscribe: the core's leave to send a subscribing value; never send one without it.
    doubtful: an earlier try may have been applied.
    missed: lists (source ids) in which whole scans since then have looked for it in vain.
    sure: of a doubtful one, lists (source ids) of `was` that were acknowledged, and that no try
    since then was to leave.
    """

    contact_id: str
    verb: Verb
    want: Person | None
    was: Person | None
    remote: Mapping[str, Any] | None
    may_create: bool
    resubscribe: bool
    doubtful: bool = False
    missed: Sequence[str] = ()
    sure: Sequence[str] = ()

    @property
    def sure_lists(self) -> Mapping[str, str]:
        """Of the lists in `was`, those that only somebody over there can have taken it out of: who
        is to stay in one is not put into it again."""
        was = {} if self.was is None else self.was.lists
        return {one: was[one] for one in self.sure if one in was} if self.doubtful else was


# ── Outcomes: one per Change, in the same order ─────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class Applied:
    """Acknowledged. `remote` None keeps what was remembered; `lacking`: not expressible there.

    stays_off: the record was deleted, and its address is still silent there by our own doing.
    """

    remote: Mapping[str, Any] | None = None
    lacking: Sequence[str] = ()
    stays_off: bool = False


APPLIED = Applied()
"""The usual outcome. Answered as this very object, it costs the core next to nothing."""


@dataclass(frozen=True, slots=True)
class Absent:
    """Rightly not there: the provider cannot hold the contact, or it must not be created."""

    why: str = ""


@dataclass(frozen=True, slots=True)
class Rejected:
    """The provider refused this one contact, in its own words.

    withdrawn: mail is off there nevertheless (set by push, not by an adapter).
    """

    reason: str
    status: int | None = None
    withdrawn: bool = False


OptOutKind = Literal["unsubscribed", "bounced", "complained", "vanished"]


@dataclass(frozen=True, slots=True)
class OptedOut:
    """The provider says no to mail for this contact (or for one list of it)."""

    kind: OptOutKind = "unsubscribed"
    list_id: str | None = None  # the source's list id
    occurred_at: datetime | None = None  # by the provider, the latest it can mean; if it told
    evidence: Mapping[str, Any] = field(default_factory=dict)
    email: str | None = None  # said under it; None: under the one that was sent, as far as is known


@dataclass(frozen=True, slots=True)
class Vanished:
    """The record syncd once made is not there any more. Never answered with a create."""

    evidence: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Waits:
    """Cannot be done until a scan of `scan_of` (a list's source id) has found a remote id.

    doubtful: a part of it has been applied.
    """

    scan_of: str
    doubtful: bool = False


@dataclass(frozen=True, slots=True)
class Started:
    """A bulk job runs at the provider; call `resume(receipt, changes)` after `look_after` s.

    runs: False: none does, yet; all of this receipt are only to be taken up together. Whoever is to
    be something else by then is not.
    doubtful: what was tried before may have been applied.
    """

    receipt: Mapping[str, Any]
    look_after: float
    runs: bool = True
    doubtful: bool = False


@dataclass(frozen=True, slots=True)
class Postponed:
    """Nothing was done for this one contact; the provider asks to try it again later."""

    reason: str
    after: float = 0.0


Outcome = Applied | Absent | Rejected | OptedOut | Vanished | Waits | Started | Postponed


@dataclass(frozen=True, slots=True)
class Found:
    """What a look-up of one contact says. `remote` None: it is not there; with an `email`, because
    the record at that address is another contact's.

    `opted_out` tells a no that the record carries; None where the provider cannot tell.
    mailed: whether the record says that it is mailed; None where it does not say.
    fields: whatever else it told, as it spells it; None where it tells nothing, or where what it
    says of mail is our own doing.
    lists: remote ids of the lists that it is in; None where it does not say.
    twins: who else was found by address, where records have ids of their own: the first one may be
    another contact's.
    """

    remote: Mapping[str, Any] | None
    email: str | None = None
    opted_out: OptedOut | None = None
    lists: Sequence[str] | None = None
    twins: Sequence[Found] = ()
    mailed: bool | None = None
    fields: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Notice:
    """An opt-out read back from a provider; by contact id where it knows ours, else by address.

    by_person: True: surely the person's own act; False: the account owner's, which may have been
    ours; None where the provider does not tell.
    of_record: `occurred_at` is when the record changed last, be it by an ordinary write of ours.
    """

    contact_id: str | None
    email: str | None
    kind: OptOutKind
    occurred_at: datetime | None
    list_id: str | None = None
    evidence: Mapping[str, Any] = field(default_factory=dict)
    by_person: bool | None = None
    of_record: bool = False


@dataclass(frozen=True, slots=True)
class Seen:
    """One record met while paging through a list, or the account. None: the provider is silent.

    contact_id: ours, where the provider stores it.  lists: remote ids of the lists it is in.
    fields: whatever else it told of the contact, as it spells it; None where it tells nothing.
    """

    remote_id: str
    email: str | None
    subscribed: bool | None = None
    contact_id: str | None = None
    lists: Sequence[str] = ()
    evidence: Mapping[str, Any] = field(default_factory=dict)
    fields: Mapping[str, Any] | None = None


Differences = Mapping[str, tuple[Any, Any]]
"""Mapped field → as it should be there, as it is there; both as the provider keeps it."""

Comparer = Callable[[Person, Mapping[str, Any]], Differences]
"""Compares what was last given with `Seen.fields`; what a provider normalises is no difference."""


@dataclass(frozen=True, slots=True)
class Page:
    """A page of a scan. cursor: where to go on after a crash; the core keeps it.

    findings: what was learned of the account on the way; kept, and given to the next adapter.
    """

    records: Sequence[Seen]
    cursor: Mapping[str, Any]
    findings: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Erased:
    """Where an erasure stands at one destination.

    confirmed: a read-back said that nothing is left.  wait_until: look again then.
    by_hand: what a person must do there, in exact words.  vague: without saying which record it is
    about; of no use where another text about the same person does.
    """

    confirmed: bool = False
    wait_until: datetime | None = None
    by_hand: str = ""
    vague: bool = False


@dataclass(frozen=True, slots=True)
class Learned:
    """Findings about an account that an adapter wants remembered until its credential changes."""

    findings: Mapping[str, Any]
    identity: str = ""  # the remote account, pinned


# ── What a provider is ──────────────────────────────────────────────────────────────────────


class Can(Flag):
    """What a provider offers beyond `check` and `push`. Each flag names a method: `PROVIDED_BY`."""

    NOTHING = 0
    REPEAT = auto()  # sending the same change twice leaves one contact
    FIND = auto()  # look contacts up
    SCAN = auto()  # page through everything it holds
    ERASE = auto()  # forget a contact for good
    LISTS = auto()  # lists are objects of their own there
    RENAME_LIST = auto()
    DELETE_LIST = auto()
    OPT_OUT = auto()  # opt-outs made there can be read
    RESUBSCRIBE = auto()  # a subscribing value can be sent
    JOBS = auto()  # bulk jobs that are polled
    SEES_GONE = auto()  # a vanished contact can be told from one never there
    LEARNS = auto()  # finds out about the account while it works
    SORTS_DOUBT = auto()  # in doubt, repeats what does no harm and answers `Waits` for the rest
    FIELDS = auto()  # which fields the account has can be looked up
    COMPARE = auto()  # fields of a contact can be read back, and compared
    WHOLE = auto()  # single contacts can be read with everything that is told of them
    EXPORT = auto()  # a list can be written out with everybody's fields


PROVIDED_BY: Mapping[Can, str] = {
    Can.REPEAT: "push",
    Can.FIND: "find",
    Can.SCAN: "scan",
    Can.ERASE: "erased",
    Can.LISTS: "create_list",
    Can.RENAME_LIST: "rename_list",
    Can.DELETE_LIST: "delete_list",
    Can.OPT_OUT: "opt_outs",
    Can.RESUBSCRIBE: "push",
    Can.JOBS: "resume",
    Can.SEES_GONE: "find",
    Can.LEARNS: "found_out",
    Can.SORTS_DOUBT: "push",
    Can.FIELDS: "check_fields",
    Can.COMPARE: "comparer",
    Can.WHOLE: "read_whole",
    Can.EXPORT: "export",
}
"""Flag → method; a test holds that a class has the method where it sets the flag."""

Key = Literal["ours", "address", "remote id"]


@dataclass(frozen=True, slots=True)
class Meter:
    """A budget the provider counts by: requests a second, in flight, a day. None = no limit."""

    per_second: float | None = None
    in_flight: int | None = None
    per_day: int | None = None


@dataclass(frozen=True, slots=True)
class Cost:
    """HTTP requests of one `push`. each: whoever is in it.  a_list: on top, for each list of a
    contact, of at most so many (most_lists)."""

    each: float = 1.0
    a_list: float = 0.0
    most_lists: int | None = None

    def lists(self, n: int) -> int:
        """Of n lists of a contact, those that cost something."""
        return n if self.most_lists is None else min(n, self.most_lists)


@dataclass(frozen=True, slots=True)
class Traits:
    """What is always true of a provider.

    batch: most changes one `push` may carry.  creating, changing: what one costs of contacts that
    are to be made, and of any other changes; where both are the same, one may carry both.
    visible_after: seconds until a write can be read back.
    names_lists: list names (not only ids) are part of what is stored, so a rename is a change.
    lists_by_name: lists are written by their names there, which were read before.
    default_fields: provider field → source column, used when a destination maps nothing.
    scans: what one scan pages through, where lists are objects of their own.
    page: records of one page of a scan, about.  whole_pages: pages tell fields, too.
    export_from: fewest contacts of a list for which it is exported (EXPORT).
    """

    batch: int
    meters: Mapping[str, Meter]
    key: Key
    can: Can = Can.NOTHING
    needs_list: bool = False
    names_lists: bool = False
    lists_by_name: bool = False
    visible_after: float = 0.0
    creating: Cost = Cost()
    changing: Cost = Cost()
    default_fields: Mapping[str, str] = field(default_factory=dict)
    scans: Literal["lists", "account", "account, then lists"] = "lists"
    page: int = 100
    whole_pages: bool = False
    export_from: int = 0

    @property
    def scans_lists(self) -> bool:
        """Whether contacts are read back list by list."""
        return bool(self.can & Can.LISTS) and self.scans == "lists"

    @property
    def tells_lists(self) -> bool:
        """Whether every record of a scan of the account says in which lists it is."""
        return bool(self.can & Can.LISTS) and self.scans == "account"

    @property
    def tells_members(self) -> bool:
        """Whether a scan of the account goes on to say of every list who is in it."""
        return bool(self.can & Can.LISTS) and self.scans == "account, then lists"


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of `check`: what was looked at, how it stands, what to do."""

    subject: str
    level: Literal["ok", "warning", "error"]
    says: str
    remedy: str = ""
    exit_code: int = 0  # of the whole command, where the level is 'error'


# ── What the wire and an adapter's judge exchange ───────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class Request:
    """One HTTP request, before it is signed. `target`: path and query exactly as sent."""

    method: str
    target: str
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    meter: str = "default"
    repeatable: bool = False  # a lost answer needs no look-up: sending it again does no harm


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back: at most the wire's cap of bytes; header names in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes
