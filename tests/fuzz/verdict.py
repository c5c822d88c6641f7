"""Compares what the provider holds, and its whole history, with what the source says."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from .provider import Record, Sent
from .writers import LISTS, SELECTED

if TYPE_CHECKING:
    from .driver import Run


class Verdict:
    """Compares what the provider holds with what the source says."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.store = run.store

    def history(self, *emails: str) -> str:
        """The last that was sent about these addresses, contacts or records."""
        found = [
            (one, change)
            for one in self.store.history
            for change in one.changes
            if {change["email"], change["old"], change["contact"], change["remote"]} & set(emails)
        ]
        return "".join(_line(one, change) for one, change in found[-9:])

    async def read(self) -> None:
        pool = self.run.pool
        rows = await pool.fetch("""
select c.id, lower(btrim(c.email)) as email, c.first_name, (c.attributes ->> 'v')::int as v,
       c.subscribed, extract(epoch from c.consented_at)::float8 as consent,
       array(select list_id from syncd.membership m where m.contact_id = c.id) as lists
  from syncd.contact c""")
        chosen = set(SELECTED) if self.run.variant.selected else set(LISTS)
        self.source = {
            row["id"]: {**row, "lists": set(row["lists"]) & chosen}
            for row in rows
            if not self.run.variant.selected or set(row["lists"]) & chosen
        }
        self.journal = {r["contact_id"]: r for r in await pool.fetch("select * from syncd.journal")}
        self.mirror = {r["contact_id"]: r for r in await pool.fetch("select * from syncd.mirror")}
        self.noted = await pool.fetch(
            "select contact_id, email, kind, occurred_at, observed_at from syncd.opt_out"
            " where lifted_at is null"
        )

    def says_no(self, contact_id: str) -> bool:
        """Whether the person said no, at the source or at the provider, without newer consent."""
        one = self.source[contact_id]
        if not one["subscribed"]:
            return True
        ours = self.run.variant.key == "ours"
        at = [
            r.at
            for r in self.store.refusals
            if r.email == one["email"] or (ours and r.contact == contact_id)
        ]
        if not ours:  # whose address it was is for syncd to know
            at += [
                (r["occurred_at"] or r["observed_at"]).timestamp()
                for r in self.noted
                if r["kind"] == "unsubscribed" and contact_id == r["contact_id"]
            ]
            moved = [  # a look-up at a contact that moves cannot tell under which address it was
                (r["occurred_at"] or r["observed_at"]).timestamp()
                for r in self.noted
                if r["email"] == one["email"]
            ]
            if len(moved) > len(at):
                self.run.doubts["a no noted under the next address"] += 1
            at += moved
        return any(one["consent"] is None or one["consent"] <= when + 1e-6 for when in at)

    def _said_no(self, contact_id: str) -> bool:
        """Whether the person itself is known to have said no, under whatever address."""
        consent = self.source[contact_id]["consent"]
        return any(
            consent is None or consent <= (r["occurred_at"] or r["observed_at"]).timestamp() + 1e-6
            for r in self.noted
            if r["kind"] == "unsubscribed" and r["contact_id"] == contact_id
        )

    def judge(self) -> None:
        records = [r for r in self.store.live() if self._counts(r)]
        self.late = {r.email for r in self.store.live() if r.late}
        groups: dict[str, list[str]] = {}
        for one in self.source.values():
            if one["email"]:
                groups.setdefault(one["email"], []).append(one["id"])
        for row in self.noted:
            if row["kind"] == "vanished":
                sent = [c for one in self.store.history for c in one.changes]
                mine = [c["remote"] for c in sent if c["contact"] == row["contact_id"]]
                if any(one in self.store.records and self.store.records[one].late for one in mine):
                    self.run.residues["late: gone, and missed"] += 1
                    continue
                told = self.history(row["contact_id"], *[one for one in mine[-3:] if one])
                self.bad(f"{row['contact_id']} was taken for vanished{told}")
        for contact_id, row in self.journal.items():
            self._judge_row(contact_id, row, groups)
        for email, group in groups.items():
            self._judge_address(email, sorted(group), [r for r in records if r.email == email])
        for record in records:
            if record.mail == "on" and record.email not in groups:
                self._judge_stray(record)
            elif record.mail == "withdrawn" and record.lists:
                self.bad(f"withdrawn but in lists: {record}")

    def _counts(self, record: Record) -> bool:
        if record.late:
            self.run.residues["late: a record of unknown state"] += 1
        return not record.late

    def bad(self, text: str) -> None:
        self.run.violations.append(text)

    def _judge_row(self, contact_id: str, row: Any, groups: dict[str, list[str]]) -> None:
        one = self.source.get(contact_id)
        why = row["last_error"] or ""
        if row["state"] == "rejected" and one is not None:
            shares = one["email"] and len(groups[one["email"]]) > 1
            if "bad name" in why and "bad" in (one["first_name"] or ""):
                return
            if ("shares its address" in why and shares) or (
                "no e-mail" in why and not one["email"]
            ):
                return
        told = {name: row[name] for name in ("wish", "state", "email", "doubtful", "attempts")}
        emails = [e for e in (one and one["email"], row["email"]) if e]
        self.bad(
            f"left in the journal: {contact_id} {told} {why!r}, source {one},"
            f" mirror {self._known(contact_id)}{self.history(contact_id, *emails)}"
        )

    def _judge_address(self, email: str, group: list[str], records: list[Record]) -> None:
        mailed = [r for r in records if r.mail == "on"]
        if len(mailed) > 1:
            self.bad(
                f"{email} of {group} is mailed {len(mailed)} times: {mailed}"
                f"{self.history(email, *group)}"
            )
            return
        holder = next(
            (
                i
                for state in ("here", "absent")
                for i in group
                if i in self.mirror
                and self.mirror[i]["email"] == email
                and self.mirror[i]["state"] == state
            ),
            group[0],
        )
        agreed = all(self.source[i]["subscribed"] and not self._said_no(i) for i in group)
        no = self.says_no(holder) or not agreed
        if mailed:
            self._judge_mailed(mailed[0], holder, group, no)
        elif self._address_was_off(holder, records):
            self.run.doubts["the address was silenced for an earlier holder"] += 1
        elif any(r.mail == "no" and r.no_of != (r.owner, r.email) for r in records):
            # Said while the record was somebody else's, and read after it had changed hands.
            self.run.residues["a no that went with its record"] += 1
        elif not no and not self._refused(holder) and email not in self.late:
            self.bad(
                f"{holder} ({email}, group {group}) should be mailed, is not: {records};"
                f" source {self.source[holder]}; mirror {self._known(holder)}{self.history(email)}"
            )

    def _judge_mailed(self, record: Record, holder: str, group: list[str], no: bool) -> None:
        one = self.source[holder]
        if no:
            if self._refused(record.owner):
                self.run.doubts["mailed after a no: its change is refused"] += 1
                return
            told = self.history(record.email, holder)
            self.bad(f"mailed though {holder} of {group} said no: {record}; source {one}{told}")
        elif record.owner != holder and not self._refused(holder):
            self.bad(f"{record} is written for {record.owner}, not {holder}: {one}")
        elif not self._refused(holder):
            wanted = ({"name": one["first_name"], "v": one["v"]}, one["lists"])
            if (record.fields, record.lists) != wanted:
                told = self.history(record.email, holder)
                self.bad(f"differs: {record}; wanted {wanted}; mirror {self._known(holder)}{told}")

    def _judge_stray(self, record: Record) -> None:
        """Somebody is mailed at an address that nobody has."""
        row = self.journal.get(record.owner)
        if row is not None and row["state"] == "rejected" and record.owner in self.source:
            said = "a no" if self.says_no(record.owner) else "a change"
            self.run.doubts[f"mailed at an old address: {said} is listed as rejected"] += 1
            return
        self.bad(
            f"gone but mailed: {record}; source {self.source.get(record.owner)};"
            f" mirror {self._known(record.owner)}; others there {self._at(record.email)}"
            f"{self.history(record.email, record.owner)}"
        )

    def _at(self, email: str) -> list[tuple[str, str]]:
        return [(i, row["state"]) for i, row in self.mirror.items() if row["email"] == email]

    def _address_was_off(self, holder: str, records: list[Record]) -> bool:
        """Where the address is the key: whether *holder* was put on a record that was off, whose
        silence was said for somebody who has moved on since; be it itself, before another one had
        the record and left it."""
        if self.run.variant.key != "address" or not records or records[0].mail != "silenced":
            return False
        email = records[0].email
        about = [
            change
            for one in self.store.history
            for change in one.changes
            if email in (change["email"], change["old"])
        ]
        silent = [n for n, change in enumerate(about) if change["subscribed"] is False]
        return any(
            about[n]["contact"] != holder
            or any(later["contact"] != holder for later in about[n + 1 :])
            for n in silent
        )

    def _refused(self, contact_id: str) -> bool:
        row = self.journal.get(contact_id)
        return row is not None and row["state"] == "rejected"

    def _known(self, contact_id: str) -> object:
        row = self.mirror.get(contact_id)
        if row is None:
            return None
        names = ("email", "state", "subscribed", "digest", "lists", "remote")
        return {name: row[name] for name in names} | {"pushed_at": row["pushed_at"].timestamp()}


def _line(one: Sent, change: Mapping[str, Any]) -> str:
    version = (change["fields"] or {}).get("v")
    applied = f"{one.applied:.3f}" if one.applied else "-"
    lists = f"+{change['add']} -{change['drop']}"
    return (
        f"\n      {one.claimed:.3f} {one.left:.3f} {applied} w{one.worker} {change['contact']}"
        f" {change['verb']} {change['old']}>{change['email']} {change['remote']} v{version}"
        f" {change['subscribed']} {lists}"
    )
