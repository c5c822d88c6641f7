"""Paging through a CleverCampaign account: its contacts, then who is in which list."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from typing import Any

from syncd.errors import Misconfigured, Unintelligible
from syncd.model import Page, Seen
from syncd.providers.clevercampaign_answers import (
    Record,
    email_of,
    record_id,
    subscribed,
    text_of,
)
from syncd.providers.clevercampaign_calls import Calls
from syncd.providers.clevercampaign_reading import Account
from syncd.providers.clevercampaign_settings import CleverCampaignOptions
from syncd.providers.clevercampaign_translate import shaped


class Scan:
    """One reading of the whole account."""

    def __init__(self, calls: Calls, account: Account) -> None:
        self._calls, self._account, self._options = calls, account, calls.options

    async def pages(self, cursor: Mapping[str, Any] | None) -> AsyncIterator[Page]:
        """As `Scans.scan` says. A page is read twice after a crash, never left out."""
        cursor = cursor or {}
        try:
            if "list" not in cursor:
                async for page in self._contacts(cursor.get("page")):
                    yield page
        except Misconfigured as err:
            if not self._account.pages:
                self._account.close("pages", err.reason)
            raise
        self._account.pages = True
        if self._options.lists_enabled:
            async for page in self._members(cursor):
                yield page

    async def _contacts(self, start: int | None) -> AsyncIterator[Page]:
        path, before = self._options.contact_path, start
        async for number, found in self._account.paged(path, start):
            yield Page(
                [seen(one, self._options) for one in found], {"page": before} if before else {}
            )
            before = number

    async def _members(self, cursor: Mapping[str, Any]) -> AsyncIterator[Page]:
        there = sorted(await names(self._account, self._options))
        start = str(cursor.get("list", ""))
        for one in there[there.index(start) :] if start in there else there:
            begin = cursor.get("page") if one == start else None
            before = begin
            async for number, found in self._account.paged(self._calls.members(one), begin):
                place = {"list": one, **({"page": before} if before else {})}
                yield Page([seen(member, self._options, one) for member in found], place)
                before = number


def seen(record: Record, o: CleverCampaignOptions, *lists: str) -> Seen:
    """A record as the core takes it."""
    told = text_of(record, o.status_field)
    evidence = {} if told is None else {o.status_field: told}
    return Seen(
        record_id(record, o) or "",
        email_of(record, o) or None,
        subscribed(record, o),
        lists=lists,
        evidence=evidence,
        fields={
            name: shaped(one) for name, one in record.items() if not isinstance(one, list | dict)
        },
    )


async def names(account: Account, options: CleverCampaignOptions) -> dict[str, str]:
    """Every list's id and name."""
    found: dict[str, str] = {}
    async for _, page in account.paged(options.list_path):
        for one in page:
            list_id, name = record_id(one, options), text_of(one, options.list_name_field)
            if list_id is None or name is None:
                raise Unintelligible(
                    f"a list without {options.list_name_field!r}: correct list_name_field"
                )
            found[list_id] = name
    return found
