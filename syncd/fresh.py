"""Contacts of one window of a full pass that the provider is to be given for the first time.

There may be millions of them, and nearly all are acknowledged without a further word: so what is
kept of each is its row and its `Change`, and an `Entry` is made only where something comes up.
"""

from __future__ import annotations

from collections.abc import Iterator, MutableSet, Sequence
from dataclasses import dataclass, field

from syncd.db import Row
from syncd.decide import Entry, Release, Rules, person
from syncd.model import Change, Person, Verb

FIRST_FIELD = 3
"""In a row of `Compare.staging`: contact_id, raw_email, email, the fields, lists, subscribed,
list_names, and what is asked for by name."""


@dataclass(slots=True)
class Fresh:
    """What one window sends. `left_out`: staged, but not to be sent with this window."""

    number: int  # the claim of its intent
    claims: int = 0  # how many claims had been made before it was read
    rows: list[Row] = field(default_factory=list)
    changes: list[Change] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)

    def take(self, rows: Sequence[Row], rules: Rules, in_flight: MutableSet[str]) -> None:
        """Take up *rows*, and their addresses among those *in_flight*.

        Left out is whoever has the address of another one, or a list that is not there yet.
        """
        remote = None
        for row, want in zip(rows, _persons(rows, rules), strict=True):
            contact_id, email = row[0], row[2]
            if isinstance(want, Release) or email in in_flight:
                self.left_out.append(contact_id)
                continue
            in_flight.add(email)
            if rules.key_name is not None:
                remote = {rules.key_name: row["remote_key"]}
            self.rows.append(row)
            self.changes.append(Change(contact_id, Verb.PUT, want, None, remote, True, False))

    def leave_out(self, held: Sequence[tuple[str, str]]) -> list[str]:
        """Leave out whoever has an address that another contact holds; returns their ids.

        held: addresses, and who holds them.
        """
        numbers = {row[2]: n for n, row in enumerate(self.rows)} if held else {}
        mine = [(numbers[email], holder) for email, holder in held if email in numbers]
        gone = sorted({n for n, holder in mine if self.rows[n][0] != holder}, reverse=True)
        late = [self.rows[n][0] for n in gone]
        for n in gone:
            del self.rows[n], self.changes[n]
        self.left_out += late
        return late

    def entry(self, number: int) -> Entry:
        row = self.rows[number]
        return Entry(
            row["contact_id"], self.changes[number], row["digest"], row["email"], 1, 0,
            row["m_state"], row["lists"], True,
        )  # fmt: skip

    def entries(self) -> list[Entry]:
        return [self.entry(number) for number in range(len(self.rows))]


def _persons(rows: Sequence[Row], rules: Rules) -> Iterator[Person | Release]:
    """As `person`, for many rows of which nothing must be decoded nor looked up."""
    if rules.has_lists or any(one.is_json for one in rules.fields):
        yield from (person(row, rules) for row in rows)
        return
    names = [one.name for one in rules.fields]
    end = FIRST_FIELD + len(names)  # here are the lists, and two further on their names
    fields = slice(FIRST_FIELD, end)
    for row in rows:
        ids = row[end]
        lists = dict(zip(ids, row[end + 2] or ids))  # noqa: B905  one array, or two of one length
        yield Person(row[1], dict(zip(names, row[fields])), lists, True)  # noqa: B905
