"""RedCappi under whatever nobody knows of it, and every fault: it converges, nobody twice.

A core in small, beside the adapter: what it is told it remembers, what is in doubt it has looked
for by whole scans, as `redcappi_translate` says of `remote`.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Any

import pytest
from test_redcappi import adapter

from syncd.errors import ProviderError
from syncd.model import (
    Absent,
    Applied,
    Change,
    Outcome,
    Person,
    Rejected,
    Vanished,
    Verb,
    Waits,
)
from syncd.providers.redcappi import RedCappi
from syncd.sandbox import Handle, serve

LISTS = {"news": "101", "cust": "102", "third": "103"}
ROUNDS = 60
FAULTS = ("error_rate", "error_html", "error_after", "rate_429", "cut_before", "cut_after",
          "half_answer", "html", "garbage", "truncated_json")  # fmt: skip


def drawn(lot: random.Random) -> dict[str, Any]:
    """One answer to every open question."""
    return {
        "offset": lot.choice(["rows", "pages"]),
        "offset_from": lot.choice([0, 1]),
        "offset_zero": lot.choice(["first", "refused"]),
        "page_cap": lot.choice([None, 2, 3, 7]),
        "page_by": lot.choice(["asked", "capped"]),
        "order": lot.choice(["oldest", "newest"]),
        "repeated_add": lot.choice(["update", "refuse", "double"]),
        "delete_scope": lot.choice(["list", "account"]),
        "errors_in": lot.choice(["status", "body"]),
        "lists_as": lot.choice(["map", "rows"]),
        "empty": lot.choice(["[]", "{}", "null", '""', "404"]),
    }


@dataclass(slots=True)
class Row:
    """One contact: what is wanted, and what the core knows."""

    want: Person | None
    was: Person | None = None
    remote: dict[str, Any] | None = None
    doubtful: bool = False
    sent: dict[str, str] = field(default_factory=dict)
    leaving: set[str] = field(default_factory=set)
    lacking: tuple[str, ...] = ()
    vanished: str = ""
    missed: dict[str, int] = field(default_factory=dict)
    said_no: bool = False  # in the dashboard, and nobody told us

    @property
    def is_due(self) -> bool:
        return self.doubtful or self.want != self.was

    def change(self, name: str) -> Change:
        was, want = self.was, self.want
        if self.doubtful and self.sent:
            known = was or Person(want.email if want else "gone@x.org", {}, {}, True)
            was = known._replace(lists={**self.sent, **known.lists})
        if want is None:
            return Change(name, Verb.WITHDRAW, None, was, self.remote, False, False, self.doubtful)
        back = want.subscribed and was is not None and not was.subscribed
        new = want.subscribed and self.was is None
        return Change(name, Verb.PUT, want, was, self.remote, new, back, self.doubtful)

    def settle(self, outcome: Outcome) -> None:
        match outcome:
            case Applied():
                self.remote = dict(outcome.remote) if outcome.remote is not None else self.remote
                self.lacking = tuple(outcome.lacking)
            case Absent():
                self.remote = None
            case Vanished():
                self.vanished = str(outcome.evidence)
                self.remote = None
            case _:
                return
        self.was = self.want if isinstance(outcome, Applied) else None
        if isinstance(outcome, Absent | Vanished):
            self.want = None
        self.doubtful, self.sent, self.missed, self.leaving = False, {}, {}, set()

    def doubt(self) -> None:
        self.doubtful = True
        stays = set(self.want.lists.values()) if self.want and self.want.subscribed else set()
        self.leaving |= set((self.remote or {}).get("ids", {})) - stays
        self.sent |= self.want.lists if self.want else {}
        if self.remote:  # what a scan did not see may be there by now
            ids = {one: n for one, n in self.remote.get("ids", {}).items() if n is not None}
            self.remote = {**self.remote, "ids": ids}

    def saw(self, list_id: str, there: dict[str, str]) -> None:
        """A whole scan of one list ended."""
        ids = (self.remote or {}).get("ids", {})
        emails = {one.email for one in (self.want, self.was) if one is not None}
        found = next((n for n, email in there.items() if email in emails), None)
        found = ids[list_id] if ids.get(list_id) in there else found
        if found is not None:
            ids = {**ids, list_id: found}
            self.missed.pop(list_id, None)
        elif ids.get(list_id) is None:
            ids = {**ids, list_id: None}
            if list_id in (self.remote or {}).get("lists", {}).values() and not self.doubtful:
                self.missed[list_id] = self.missed.get(list_id, 0) + 1
                if self.missed[list_id] > 1:
                    self.vanished = f"two scans of {list_id}"
        else:
            self.missed[list_id] = self.missed.get(list_id, 0) + 1
            if list_id in self.leaving:  # a delete of ours was lost: its absence is no news
                ids = {**ids, list_id: None}
            elif self.missed[list_id] > 1:
                self.vanished = f"two scans of {list_id}"
        self.remote = {**(self.remote or {}), "ids": ids}


async def patiently(red: RedCappi, list_id: str) -> dict[str, str]:
    """A whole scan, going on from where it broke off."""
    there: dict[str, str] = {}
    cursor = None
    for _ in range(60):
        try:
            async for page in red.scan(list_id, cursor):
                there |= {one.remote_id: one.email or "" for one in page.records}
                cursor = page.cursor
        except ProviderError:
            continue
        return there
    raise AssertionError("the scan never ends")


async def converge(red: RedCappi, rows: dict[str, Row]) -> None:
    for _ in range(ROUNDS):
        due = {name: row for name, row in rows.items() if row.is_due and not row.vanished}
        if not due:
            return
        scans: set[str] = set()
        for name, row in due.items():
            try:
                (outcome,) = await red.push([row.change(name)])
            except ProviderError as error:
                if error.may_be_applied:
                    row.doubt()
                continue
            if isinstance(outcome, Rejected):  # a record of an earlier life has the address
                assert "already exists" in outcome.reason
                row.vanished = "refused"
            row.settle(outcome)
            if isinstance(outcome, Waits):
                scans.add(LISTS[outcome.scan_of])
        for list_id in sorted(scans):
            there = await patiently(red, list_id)
            for row in due.values():
                row.saw(list_id, there)
    raise AssertionError({name: row for name, row in rows.items() if row.is_due})


def wish(lot: random.Random, name: str, version: int) -> Person | None:
    if lot.random() < 0.15:
        return None
    lists = {one: LISTS[one] for one in LISTS if lot.random() < 0.5}
    email = f"{name}.{lot.choice('ab')}@x.org"
    return Person(email, {"city": f"City {version}"}, lists, lot.random() < 0.85)


def noes(lot: random.Random, box: Handle, rows: dict[str, Row]) -> None:
    """Somebody unsubscribes there; the source goes on wanting them, in other lists perhaps."""
    for row in rows.values():
        if row.said_no and not row.vanished and row.want is not None:
            lists = {one: LISTS[one] for one in LISTS if lot.random() < 0.7} or {"news": "101"}
            row.want = Person(row.want.email, {"city": "again"}, lists, True)
        elif row.was != row.want or row.want is None or lot.random() > 0.15:
            continue
        elif box.state.mailable(row.want.email):
            box.act("unsubscribe", email=row.want.email)
            row.said_no = True


def judge(box: Handle, rows: dict[str, Row]) -> None:
    """Everybody is where they should be, as they should be, and nowhere else."""
    state = box.snapshot()
    assert (state["violations"], state["duplicates"], state["repeated_adds"]) == ([], [], [])
    assert state["resubscribed"] == []
    for name, row in rows.items():
        if row.vanished or row.said_no:
            continue
        there = [one for one in state["profiles"].values() if one["email"].startswith(f"{name}.")]
        lists = sorted(n for one in there for n in one["lists"])
        want = row.want
        wanted = sorted(map(int, want.lists.values())) if want and want.subscribed else []
        if any("not left" in one for one in row.lacking):
            assert set(wanted) <= set(lists)
        else:
            assert lists == wanted, (name, row)
        for one in there if want and wanted else ():
            if one["lists"]:
                assert want is not None
                assert (one["email"], one["fields"]["city"]) == (want.email, want.fields["city"])


@pytest.mark.parametrize("seed", range(60))
async def test_it_converges_whatever_is_unknown_and_whatever_fails(seed: int) -> None:
    lot = random.Random(seed)
    async with serve("redcappi", **drawn(lot)) as box:
        for name in LISTS:
            box.act("add_list", name=f"List {name}")
        rows = {f"c{n}": Row(None) for n in range(8)}
        async with adapter(box, page_size=lot.choice([2, 3, 10, 500])) as red:
            for version in range(4):
                rates = {one: lot.choice([0, 0.01, 0.04]) for one in FAULTS}
                box.set_faults(seed=seed * 10 + version, **rates)
                for name, row in rows.items():
                    if not (row.vanished or row.said_no) and lot.random() < 0.8:
                        row.want = wish(lot, name, version)
                if version:
                    noes(lot, box, rows)
                await converge(red, rows)
                judge(box, rows)
            doubles = box.state.limits.repeated_add == "double"  # then no other record is touched
            truth = "list" if doubles else box.state.limits.delete_scope
            assert red.findings.get("delete_scope") in (None, truth)
            told = [row.vanished for row in rows.values() if not row.said_no]
            lost = [one for one in told if one not in ("", "refused")]
            assert not lost or truth == "account", lost
