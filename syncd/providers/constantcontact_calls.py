"""Constant Contact's calls, one request each. Reference, sections 3 and 4.

Targets are below the account's root: `ConstantContact.complete` puts the user's name before them.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from urllib.parse import quote, urlencode

from syncd.errors import Indivisible, Misconfigured, Transient, Unintelligible
from syncd.model import Answer, Request
from syncd.providers import Wire
from syncd.providers.constantcontact_answers import said
from syncd.providers.constantcontact_atom import (
    CTCT,
    Entry,
    entry,
    feed,
    number_of,
    root_of,
)

METER = "api"
MOST_ADDRESSES = 50  # of one search
ATOM_TYPE = {"Content-Type": "application/atom+xml"}
FORM = {"Content-Type": "application/x-www-form-urlencoded"}
FIRST_PAGE = Request("GET", "/", meter=METER)

_NEXT = re.compile(r"[!-~]*")
_NUMBER = re.compile(r"\d+")
_FILE = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]*")


@dataclass(frozen=True, slots=True)
class Person:
    """A contact as a search or a page shows it."""

    number: str
    email: str
    status: str

    @property
    def is_opted_out(self) -> bool:
        return self.status.casefold() == "do not mail"


@dataclass(frozen=True, slots=True)
class Job:
    """A bulk job as its own resource shows it. `errors`: address → the provider's words."""

    number: str
    status: str
    errors: Mapping[str, str]
    file: str = ""  # what an export wrote, by the last part of its name

    @property
    def is_done(self) -> bool:
        return self.status in ("COMPLETE", "ERROR")


class Calls:
    """What is said of answers is left to the callers, save of pages and searches."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire
        self._root = ""
        self._known: str | None = None  # an address that is there; to tell a failed search by

    async def read(self, target: str) -> Answer:
        return await self._wire.send(Request("GET", target, meter=METER))

    async def send(self, method: str, target: str, document: Entry | None = None) -> Answer:
        body = b"" if document is None else document.encoded()
        headers = {} if document is None else ATOM_TYPE
        return await self._wire.send(Request(method, target, body, headers, METER))

    async def account(self) -> None:
        """The service document: the cheapest proof that the credentials work."""
        answer = await self._wire.send(FIRST_PAGE)
        if b"<" not in answer.body[:200]:
            raise Unintelligible("the service document is no XML", status=answer.status)

    async def pages(
        self, target: str, kind: str
    ) -> AsyncIterator[tuple[Sequence[Entry], str | None]]:
        """A whole collection, page by page, and where each goes on. The next page is looked for
        only where this one was found (4)."""
        path = target.partition("?")[0]
        met: set[str] = set()
        following: str | None = target
        while following is not None:
            met.add(following)
            answer = await self.read(following)
            if answer.status == 404:
                raise Misconfigured(f"{path} is not there: {said(answer)}", status=404)
            if answer.status >= 300:
                raise Indivisible(said(answer), status=answer.status)
            entries, link = feed(answer, kind)
            following = None if link is None else next_page(path, link)
            yield entries, following
            if following in met:
                raise Unintelligible("the pages go round in circles")

    # ── Lists ───────────────────────────────────────────────────────────────────────────────

    async def lists(self) -> dict[str, Entry]:
        """Number → entry; the system lists are statuses, and left out."""
        found: dict[str, Entry] = {}
        async for entries, _ in self.pages("/lists", "ContactList"):
            for one in entries:
                self._root = root_of(one.uri)
                if _NUMBER.fullmatch(one.number):
                    found[one.number] = one
        return found

    async def list_uri(self, number: str) -> str:
        """A list's id as the provider spells it, which may differ from what is configured (8)."""
        if not self._root:
            entries, _ = feed(await self.read("/lists"), "ContactList")
            if not entries:
                raise Unintelligible("not even the system lists are shown")
            self._root = root_of(entries[0].uri)
        return f"{self._root}/lists/{number}"

    async def has_list(self, number: str) -> bool:
        answer = await self.read(f"/lists/{number}")
        if answer.status >= 300 and answer.status != 404:
            raise Indivisible(said(answer), status=answer.status)
        return answer.status != 404

    # ── Contacts ────────────────────────────────────────────────────────────────────────────

    async def contact(self, number: str) -> Entry | None:
        answer = await self.read(f"/contacts/{number}")
        if answer.status == 404:
            return None
        if answer.status >= 300:
            raise Indivisible(said(answer), status=answer.status)
        return entry(answer, "Contact")

    async def search(self, addresses: Sequence[str]) -> dict[str, Person]:
        """Who has these addresses, in whatever status: address → contact."""
        found: dict[str, Person] = {}
        for start in range(0, len(addresses), MOST_ADDRESSES):
            some = addresses[start : start + MOST_ADDRESSES]
            people = await self._search(some)
            found |= await self._vouched(some) if people is None else people
        return {email: one for email, one in found.items() if email in addresses}

    async def _search(self, addresses: Sequence[str]) -> dict[str, Person] | None:
        """None: a 500, which may mean that nobody was found, or be trouble (3)."""
        query = "&".join(f"email={quote(one, safe='')}" for one in addresses)
        answer = await self.read(f"/contacts?{query}")
        if answer.status == 500:
            return None
        if answer.status >= 300:
            raise Indivisible(said(answer), status=answer.status)
        entries, _ = feed(answer, "Contact")
        people = {one.email: one for one in map(person, entries)}
        self._known = next(iter(people), self._known)
        return people

    async def _vouched(self, addresses: Sequence[str]) -> dict[str, Person]:
        """Search again beside somebody who is there: then it is not "nobody found" in any case, and
        who is missing from the answer is not there."""
        self._known = self._known or await self._anybody()
        if self._known is None:
            return {}  # the account is empty
        found: dict[str, Person] = {}
        for start in range(0, len(addresses), MOST_ADDRESSES - 1):
            some = addresses[start : start + MOST_ADDRESSES - 1]
            people = await self._search([*some, self._known])
            if people is None or self._known not in people:
                raise Transient("the search failed", status=500)
            found |= people
        return found

    async def _anybody(self) -> str | None:
        """The address of somebody who is there: records never go (5)."""
        async for entries, _ in self.pages("/contacts", "Contact"):
            return next((one.email for one in map(person, entries) if one.email), None)
        return None

    async def updated(self, since: datetime, which: str) -> AsyncIterator[Sequence[Person]]:
        """Contacts in a system list that were changed since then; seconds are not skipped (8)."""
        text = f"{since:%Y-%m-%dT%H:%M:%S}.{since.microsecond // 1000:03d}Z"
        target = f"/contacts?updatedsince={quote(text, safe='')}&listtype={which}"
        async for entries, _ in self.pages(target, "Contact"):
            yield [person(one) for one in entries]

    # ── Jobs ────────────────────────────────────────────────────────────────────────────────

    async def start(self, kind: str, data: str, lists: Sequence[str]) -> str:
        """Begin a bulk job; its number."""
        pairs = [("activityType", kind), ("data", data), *(("lists", one) for one in lists)]
        return await self._begun(pairs)

    async def begin_export(self, form: Sequence[tuple[str, str]]) -> str:
        """As `start`. A second one costs quota and nothing else (5)."""
        return await self._begun([("activityType", "EXPORT_CONTACTS"), *form], repeatable=True)

    async def _begun(self, pairs: Sequence[tuple[str, str]], *, repeatable: bool = False) -> str:
        body = urlencode(pairs).encode()
        asked = Request("POST", "/activities", body, FORM, METER, repeatable)
        answer = await self._wire.send(asked)
        if answer.status >= 300:
            raise Indivisible(said(answer), status=answer.status)
        if location := answer.headers.get("location"):
            return number_of(location)
        return entry(answer, "Activity").number

    async def job(self, number: str) -> Job | None:
        """None: it is not kept any more."""
        answer = await self.read(f"/activities/{number}")
        if answer.status == 404:
            return None
        if answer.status >= 300:
            raise Indivisible(said(answer), status=answer.status)
        told = entry(answer, "Activity")
        errors = {
            (one.findtext(f"{{{CTCT}}}EmailAddress") or "").strip().lower(): (
                one.findtext(f"{{{CTCT}}}Message") or "no reason given"
            ).strip()
            for one in told.payload.iterfind(f"{{{CTCT}}}Errors/{{{CTCT}}}Error")
        }
        file = told.text("FileName").rpartition("/")[2]
        return Job(number, told.text("Status").upper(), errors, file)

    async def file(self, name: str) -> bytes:
        """What an export wrote. The name is the provider's: only a plain one is asked for."""
        if not _FILE.fullmatch(name):
            raise Unintelligible("the export's file has no name that can be asked for")
        answer = await self.read(f"/activities/{name}")
        if answer.status >= 300:
            raise Indivisible(said(answer), status=answer.status)
        return answer.body

    async def recent(self) -> dict[str, bool]:
        """Jobs of late, whoever began them, and whether they are still at it."""
        found: dict[str, bool] = {}
        async for entries, _ in self.pages("/activities", "Activity"):
            for one in entries:
                found[one.number] = one.text("Status").upper() not in ("COMPLETE", "ERROR")
        return found


def person(one: Entry) -> Person:
    email = (one.payload.findtext(f"{{{CTCT}}}EmailAddress") or "").strip().lower()
    return Person(one.number, email, one.text("Status"))


def next_page(path: str, link: str) -> str:
    """The target of a `next` link: opaque, and only ever a further page of the same collection."""
    place, mark, query = link.partition("?")
    place = re.sub(r"^https?://[^/]*", "", place)
    if not mark or not _NEXT.fullmatch(query) or "#" in query:
        raise Unintelligible("a next page that cannot be asked for")
    last = path.rpartition("/")[2]
    below = r"(?:/[^/]+)*/ws/customers/[^/]+" + re.escape(path)
    if place != last and not re.fullmatch(below, place):
        raise Unintelligible("a next page outside of what was asked for")
    return f"{path}?{query}"
