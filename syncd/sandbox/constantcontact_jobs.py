"""Activities: bulk jobs that are polled; from the reference, section 3."""

from __future__ import annotations

import csv
import io
import time
from collections.abc import Callable
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl

from syncd.sandbox import constantcontact_atom as atom
from syncd.sandbox import constantcontact_exports as exports
from syncd.sandbox.call import Answer, Call
from syncd.sandbox.constantcontact_account import LONGEST, OPTED_OUT, Contact, Job, Refused, normal
from syncd.sandbox.constantcontact_atom import tag

if TYPE_CHECKING:
    from syncd.sandbox.constantcontact import ConstantContact

ADDS = ("SV_ADD", "ADD_CONTACTS", "ADD_CONTACT_DETAIL")
REMOVE, CLEAR = "REMOVE_CONTACTS_FROM_LISTS", "CLEAR_CONTACTS_FROM_LISTS"
COLUMNS = {
    "FIRST NAME": "FirstName", "MIDDLE NAME": "MiddleName", "LAST NAME": "LastName",
    "JOB TITLE": "JobTitle", "COMPANY NAME": "CompanyName", "WORK PHONE": "WorkPhone",
    "HOME PHONE": "HomePhone", "ADDRESS LINE 1": "Addr1", "ADDRESS LINE 2": "Addr2",
    "ADDRESS LINE 3": "Addr3", "CITY": "City", "STATE": "StateName",
    "STATE/PROVINCE (US/CANADA)": "StateCode", "COUNTRY": "CountryName",
    "POSTAL CODE": "PostalCode", "SUB POSTAL CODE": "SubPostalCode",
    **{f"CUSTOM FIELD {number}": f"CustomField{number}" for number in range(1, 16)},
}  # fmt: skip
OTHERS = (
    ("StateCode", "StateName"),
    ("StateName", "StateCode"),
    ("CountryCode", "CountryName"),
    ("CountryName", "CountryCode"),
)  # of each pair the one that is set drives the other out


class Jobs:
    """Begun, shown, carried out."""

    def __init__(self, account: ConstantContact) -> None:
        self.account = account

    def page(self, call: Call, _apply: bool) -> Answer:
        self.work()
        recent = list(reversed(self.account.data.jobs.values()))
        shown = [self._shown(one, alone=False) for one in recent]
        return self.account.paged(call, "activities", shown)

    def one(self, _call: Call, _apply: bool, number: str) -> Answer:
        self.work()
        if number not in self.account.data.jobs:
            raise Refused(404, "Error 404: Not Found")
        return self.account.document(self._shown(self.account.data.jobs[number]))

    def file(self, _call: Call, _apply: bool, name: str) -> Answer:
        self.work()
        return exports.file(self.account, name)

    def _shown(self, job: Job, *, alone: bool = True) -> str:
        ending = job.told.get("fileType", "").lower()
        name = self.account.uri("activities", f"{job.id}.{ending}") if job.file else ""
        told = tag("Type", job.kind) + tag("Status", job.status) + tag("FileName", name)
        if alone:
            told += "<Errors>"
            for line, email, text in job.errors:
                told += "<Error>" + tag("LineNumber", str(line)) + tag("EmailAddress", email)
                told += tag("Message", text) + "</Error>"
            told += "</Errors>"
        else:
            told += tag("Errors", str(len(job.errors)))
        told += tag("TransactionCount", str(len(job.rows))) + tag("InsertTime", job.inserted)
        uri = self.account.uri("activities", job.id)
        payload = f'<Activity {atom.NAMESPACE} id="{uri}">{told}</Activity>'
        return atom.entry(uri, job.id, payload, alone=alone)

    # ── Beginning ───────────────────────────────────────────────────────────────────────────

    def begin(self, call: Call, apply: bool) -> Answer:
        kind = call.headers.get("Content-Type", "").partition(";")[0]
        if kind != "application/x-www-form-urlencoded":
            self.account.ledger.violate(call, "content type", kind)
            raise Refused(415, "Error 415: Unsupported Media Type")
        pairs = parse_qsl(call.body.decode("ascii"), keep_blank_values=True)
        if ("activityType", exports.EXPORT) in pairs:
            return self._export(call, apply, pairs)
        form = {name: value for name, value in pairs if name != "lists"}
        wanted = {"activityType"} if form.get("activityType") == CLEAR else {"activityType", "data"}
        if set(form) != wanted or form["activityType"] not in (*ADDS, REMOVE, CLEAR):
            self.account.ledger.violate(call, "activity", str(sorted(form)))
            raise Refused(400, "Error 400: activityType, data and lists are wanted")
        lists = tuple(self._list(call, value) for name, value in pairs if name == "lists")
        if not lists:
            raise Refused(400, "Error 400: lists are wanted")
        rows = self._rows(call, form.get("data", ""), form["activityType"])
        self._fits(call, lists, rows)
        self._once(call, form["activityType"], lists, form.get("data", ""))
        if not apply:
            return self.account.document("<entry/>", 201)
        limits, data = self.account.limits, self.account.data
        job = data.add_job(form["activityType"], lists, rows, form.get("data", ""),
                           limits.job_seconds)  # fmt: skip
        self.account.note(call.number, "job", job=job.id, type=job.kind, rows=len(rows))
        location = {"Location": self.account.uri("activities", job.id)}
        return self.account.document(self._shown(job), 201, location)

    def _export(self, call: Call, apply: bool, pairs: list[tuple[str, str]]) -> Answer:
        """It changes nothing, and yet a list has one job at a time."""
        columns = exports.columns_of(self.account, call, pairs, COLUMNS)
        told = dict(pairs)
        lists = (self._list(call, told["listId"]),)
        self._fits(call, lists, [])
        if not apply:
            return self.account.document("<entry/>", 201)
        wait = self.account.limits.job_seconds
        job = self.account.data.add_job(exports.EXPORT, lists, [], "", wait)
        job.columns, job.told = columns, told
        self.account.note(call.number, "job", job=job.id, type=job.kind, rows=0)
        location = {"Location": self.account.uri("activities", job.id)}
        return self.account.document(self._shown(job), 201, location)

    def _list(self, call: Call, uri: str) -> int:
        number = uri.rpartition("/")[2]
        if not number.isdigit() or uri != self.account.uri("lists", number):
            self.account.ledger.violate(call, "list id", uri)
            raise Refused(400, "Error 400: no such list")
        return self.account.needed_list(number, status=400).id

    def _rows(self, call: Call, text: str, kind: str) -> list[dict[str, str]]:
        lines = list(csv.reader(io.StringIO(text), skipinitialspace=True))
        if not lines:
            return []
        header = [one.strip().upper() for one in lines[0]]
        unknown = set(header) - {*COLUMNS, "EMAIL ADDRESS"}
        alone = kind == REMOVE and header != ["EMAIL ADDRESS"]
        if unknown or alone or "EMAIL ADDRESS" not in header or len(set(header)) < len(header):
            self.account.ledger.violate(call, "columns", str(header))
            raise Refused(400, "Error 400: column names")
        if any(len(line) != len(header) for line in lines[1:]) or '""' in text:
            self.account.ledger.violate(call, "rows", "of another length, or with quotation marks")
            raise Refused(400, "Error 400: rows")
        return [dict(zip(header, line, strict=True)) for line in lines[1:]]

    def _fits(self, call: Call, lists: tuple[int, ...], rows: list[dict[str, str]]) -> None:
        limits, ledger = self.account.limits, self.account.ledger
        if len(rows) > limits.job_rows or len(call.body) > limits.job_bytes:
            ledger.violate(call, "job too large", f"{len(rows)} rows, {len(call.body)} bytes")
            raise Refused(400, "Error 400: too large")
        self.work()
        busy = {one for job in self.account.data.jobs.values() if job.runs for one in job.lists}
        if busy & set(lists):
            ledger.violate(call, "two jobs at a list", str(sorted(busy & set(lists))))
        for row in rows:
            for column, text in row.items():
                longest = LONGEST.get(COLUMNS.get(column, "EmailAddress"), 80)
                if len(text) > longest or ("PHONE" in column and len(text) > 25):
                    ledger.violate(call, "too long", f"{column}: {len(text)}")

    def _once(self, call: Call, kind: str, lists: tuple[int, ...], text: str) -> None:
        same = [one for one in self.account.data.jobs.values()
                if (one.kind, one.lists, one.text) == (kind, lists, text) and text]  # fmt: skip
        if same:
            self.account.data.repeated_jobs.append(f"{same[-1].id}, request {call.number}")

    # ── Carrying out ────────────────────────────────────────────────────────────────────────

    def work(self) -> None:
        """Do what is due by now."""
        for job in self.account.data.jobs.values():
            if job.runs:
                job.status = "RUNNING"
                if time.monotonic() >= job.due:
                    self._carry_out(job)

    def _carry_out(self, job: Job) -> None:
        limits = self.account.limits
        poisoned = any(row["EMAIL ADDRESS"].strip() in limits.poison for row in job.rows)
        if limits.jobs_fail or poisoned:
            limits.jobs_fail = max(limits.jobs_fail - 1, 0)
            job.status = "ERROR"
            return
        if job.kind == exports.EXPORT:
            job.file = exports.written(self.account, job, COLUMNS)
        row_of: Callable[[Job, dict[str, str]], str] = (
            self._remove if job.kind == REMOVE else self._add
        )
        if job.kind == CLEAR:
            for number in job.lists:
                for one in self.account.data.members(number):
                    one.join(set(one.lists) - {number})
        for line, row in enumerate(job.rows, 2):
            if error := row_of(job, row):
                job.errors.append((line, row["EMAIL ADDRESS"], error))
        job.status = "COMPLETE"

    def _add(self, job: Job, row: dict[str, str]) -> str:
        email = row["EMAIL ADDRESS"].strip().lower()
        data, limits = self.account.data, self.account.limits
        if email in limits.refused or "@" not in email:
            return "Invalid email address"
        one: Contact | None = data.by_email.get(email)
        if one is not None and one.status == OPTED_OUT:
            return "Contact has opted out"
        most = limits.most_contacts
        if one is None and most is not None and len(data.contacts) >= most:
            return "The account is full"
        one = one or data.add(email)
        told = {COLUMNS[name]: text.strip() for name, text in row.items() if name in COLUMNS}
        told = {name: text for name, text in told.items() if text}
        if len(told.get("CountryName", "")) == 2:
            told["CountryCode"] = told.pop("CountryName")
        for new, old in OTHERS:
            if new in told:
                one.fields.pop(old, None)
        one.fields = normal({**one.fields, **told})
        one.join(set(one.lists) | set(job.lists))
        one.writes += 1
        return ""

    def _remove(self, job: Job, row: dict[str, str]) -> str:
        one = self.account.data.by_email.get(row["EMAIL ADDRESS"].strip().lower())
        if one is None:
            return "Contact not found"
        if one.status != OPTED_OUT:
            one.join(set(one.lists) - set(job.lists))
            one.writes += 1
        return ""
