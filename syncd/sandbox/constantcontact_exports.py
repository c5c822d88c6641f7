"""Exports: one list written out as lines, begun and polled as any job; from the reference, 3."""

from __future__ import annotations

import csv
import io
from typing import TYPE_CHECKING

from syncd.sandbox.call import Answer, Call
from syncd.sandbox.constantcontact_account import Contact, Job, Refused

if TYPE_CHECKING:
    from syncd.sandbox.constantcontact import ConstantContact

EXPORT = "EXPORT_CONTACTS"
FLAGS = ("exportOptDate", "exportOptSource", "exportListName")
WANTED = {
    "fileType": ("CSV", "TXT"),
    "sortBy": ("EMAIL_ADDRESS", "DATE_DESC"),
    **dict.fromkeys(FLAGS, ("true", "false")),
}
KINDS = {"CSV": "text/csv", "TXT": "text/plain"}

Pairs = list[tuple[str, str]]


def columns_of(
    account: ConstantContact, call: Call, pairs: Pairs, known: dict[str, str]
) -> list[str]:
    """The columns that an export is to have beside the address; a refusal of any other form."""
    form = dict(pairs)
    single = [name for name, _ in pairs if name not in ("columns", "activityType")]
    right = sorted(single) == sorted([*WANTED, "listId"])
    right = right and all(form[name] in values for name, values in WANTED.items())
    asked = [value.upper() for name, value in pairs if name == "columns"]
    if not right or set(asked) - set(known) or len(set(asked)) < len(asked):
        account.ledger.violate(call, "export", str(sorted({*single, *asked})))
        raise Refused(400, "Error 400: the form of the export")
    return asked


def written(account: ConstantContact, job: Job, known: dict[str, str]) -> bytes:
    """The file. Headings are not documented: they may be spelled as asked, or as people write."""
    asked = job.columns
    header = ["EMAIL ADDRESS", *asked]
    if account.limits.headings == "title":
        header = [one.title() for one in header]
    more = [name for name in FLAGS if job.told.get(name) == "true"]
    text = io.StringIO()
    tabs = job.told.get("fileType") == "TXT"
    lines = csv.writer(text, delimiter="\t" if tabs else ",", lineterminator="\r\n")
    lines.writerow([*header, *more])
    (number,) = job.lists
    people = account.data.members(number)
    if job.told.get("sortBy") == "EMAIL_ADDRESS":
        people = sorted(people, key=lambda one: one.email)
    for one in people:
        cells = [_cell(one, known[column]) for column in asked]
        extra = {"exportOptDate": one.lists[number], "exportOptSource": "ACTION_BY_CUSTOMER",
                 "exportListName": account.data.lists[number].name}  # fmt: skip
        lines.writerow([one.email, *cells, *(extra[name] for name in more)])
    return text.getvalue().encode()


def _cell(one: Contact, name: str) -> str:
    """A state has one of two columns, a country one."""
    if name == "StateName" and "StateCode" in one.fields:
        return ""
    return one.fields.get(name, "")


def file(account: ConstantContact, name: str) -> Answer:
    """What a finished export has written."""
    number, _, ending = name.rpartition(".")
    job = account.data.jobs.get(number)
    if job is None or not job.file or job.told["fileType"].lower() != ending:
        raise Refused(404, "Error 404: Not Found")
    return Answer(200, job.file, KINDS[ending.upper()])
