"""Exports: a list written out with everybody's fields, for a handful of requests. Reference, 3.

An export is a bulk job like the others: begun, looked after, alone at its list. What it wrote is
taken only where every line of it can be read; its headings are matched loosely (8).
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Mapping, Sequence
from typing import Any

from syncd.errors import Indivisible, Transient, Unintelligible
from syncd.model import Started
from syncd.providers.constantcontact_calls import Calls
from syncd.providers.constantcontact_jobs import LONGEST_POLL, Jobs
from syncd.providers.constantcontact_translate import COLUMNS, address_of

FORM = (
    ("fileType", "CSV"), ("exportOptDate", "false"), ("exportOptSource", "false"),
    ("exportListName", "false"), ("sortBy", "EMAIL_ADDRESS"),
)  # fmt: skip
ASKED: Sequence[str] = sorted(set(COLUMNS.values()))
ADDRESS = "EMAIL ADDRESS"

Rows = Mapping[str, Mapping[str, str]]


class Exports:
    """The exports of one account."""

    def __init__(self, calls: Calls, jobs: Jobs, poll: float) -> None:
        self._calls, self._jobs, self._poll = calls, jobs, poll

    async def step(self, list_id: str, receipt: Mapping[str, Any] | None) -> Started | Rows:
        """Begin it, or look after it; when it is over, address → elements."""
        if receipt is None or "export" not in receipt:
            return await self._begin(list_id)
        number = str(receipt["export"])
        job = await self._calls.job(number)
        if job is None:
            raise Transient("the export is not kept any more; it is begun anew")
        if not job.is_done:
            looks = int(receipt["looks"]) + 1
            wait = min(LONGEST_POLL, self._poll * 2 ** min(looks, 10))
            return Started({"export": number, "looks": looks}, wait)
        self._jobs.forget(number)
        if job.status == "ERROR":
            raise Indivisible("the export failed there")
        return rows(await self._calls.file(job.file))

    async def _begin(self, list_id: str) -> Started:
        """Not while a job of anybody's may have the list."""
        if not await self._jobs.is_free(frozenset({list_id})):
            return Started({"waits": list_id}, min(LONGEST_POLL, self._poll * 4))
        uri = await self._calls.list_uri(list_id)
        columns = (("columns", one) for one in ASKED)
        number = await self._calls.begin_export([*FORM, *columns, ("listId", uri)])
        self._jobs.keep(number, frozenset({list_id}))
        return Started({"export": number, "looks": 0}, self._poll)


def rows(data: bytes) -> Rows:
    """What an export wrote: address → elements. Unintelligible where a line cannot be read."""
    try:
        lines = list(csv.reader(io.StringIO(data.decode("utf-8-sig"), newline=""), strict=True))
    except (UnicodeDecodeError, csv.Error) as fault:
        raise Unintelligible(f"the export is no table: {fault}") from None
    lines = [line for line in lines if any(map(str.strip, line))]
    if not lines:
        raise Unintelligible("the export is empty: not even headings")
    places = _places(lines[0])
    found: dict[str, dict[str, str]] = {}
    for number, line in enumerate(lines[1:], 2):
        if len(line) != len(lines[0]):
            raise Unintelligible(f"line {number} of the export is of another length")
        email = address_of(line[places[ADDRESS]])
        if "@" not in email:
            raise Unintelligible(f"line {number} of the export holds no address")
        found[email] = _elements({name: line[place] for name, place in places.items()})
    return found


def _places(header: Sequence[str]) -> dict[str, int]:
    """Where each column is; each must be there once."""
    spelt = [_plain(one) for one in header]
    found = {}
    for name in (ADDRESS, *ASKED):
        if (times := spelt.count(_plain(name))) != 1:
            raise Unintelligible(f"the export has column {name!r} {times} times")
        found[name] = spelt.index(_plain(name))
    return found


def _plain(heading: str) -> str:
    return re.sub(r"[^a-z0-9]", "", heading.lower())


def _elements(cells: Mapping[str, str]) -> dict[str, str]:
    """As a contact's own document would have them. Of a country one column tells."""
    made = {name: cells[column].strip() for name, column in COLUMNS.items()}
    is_code = len(made["CountryName"]) == 2
    made["CountryName" if is_code else "CountryCode"] = ""
    return made
