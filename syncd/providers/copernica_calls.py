"""The calls of Copernica that a contact sync needs, one request each. Reference, section 3."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any, Literal

import orjson

from syncd.errors import Indivisible, ProviderError, Transient
from syncd.model import Request
from syncd.providers import Wire
from syncd.providers.copernica_answers import Profile, Told, page, profile, read, written
from syncd.providers.copernica_sign import encoded

METER = "api"
OPERATORS = "=!<>~"
JSON = {"Content-Type": "application/json"}

Version = Literal["v1", "v2", "v3", "v4"]


class Unsafe(ValueError):
    """A condition that might match what it must not."""


def condition(name: str, operator: Literal["==", ">", ">="], value: str) -> str:
    """`fields[]=name OP value`, encoded. One that could be read in another way is not made.

    An unknown field or an unreadable condition is ignored there, and then matches everything.
    """
    if not name or not value or value != value.strip() or value[0] in OPERATORS:
        raise Unsafe(f"{name}: this value cannot be looked for")
    return f"fields%5B%5D={encoded(name + operator + value)}"


class Calls:
    """Sends; what the answers mean for a contact is the callers' to say."""

    def __init__(self, wire: Wire, version: Version, database: str) -> None:
        self._wire, self.version = wire, version
        self.database = database  # the id, once it is known

    @property
    def most_rows(self) -> int:
        """Rows of a page, at most (4)."""
        return 100 if self.version == "v1" else 1000

    @property
    def base(self) -> str:
        return f"database/{encoded(self.database)}"

    # ── The two shapes of a call ────────────────────────────────────────────────────────────

    async def get(self, path: str) -> Any:
        """The decoded answer; a `Told` where the provider says that it is not there, or refuses."""
        return read(await self._wire.send(Request("GET", f"/{self.version}/{path}", meter=METER)))

    async def must_get(self, path: str) -> Any:
        told = await self.get(path)
        if isinstance(told, Told):
            raise Indivisible(told.text, status=told.status)
        return told

    async def write(self, method: str, path: str, said: Any = None) -> Told:
        body = b"" if said is None else orjson.dumps(said)
        headers = JSON if body else {}
        request = Request(method, f"/{self.version}/{path}", body, headers, METER)
        return written(await self._wire.send(request))

    async def make(self, path: str, said: Mapping[str, Any]) -> str | None:
        """POST something that belongs to the database; its id, if it was told."""
        told = await self.write("POST", path, said)
        if told.kind != "done":
            raise Indivisible(told.text, status=told.status)
        return told.created

    async def change(self, method: str, path: str, said: Any = None) -> None:
        """PUT or DELETE something of the database; what is gone already is done."""
        told = await self.write(method, path, said)
        if told.kind == "refused":
            raise Indivisible(told.text, status=told.status)

    async def rows(self, path: str) -> Sequence[Mapping[str, Any]]:
        """Every row of a short collection, by offset; the server's limit is believed."""
        found: list[Mapping[str, Any]] = []
        while True:
            target = f"{path}?start={len(found)}&limit={self.most_rows}&total=false"
            some, limit, _ = page(await self.must_get(target))
            if some and some == found[-len(some) :]:
                raise Transient("a page is followed by itself")
            found += some
            if len(some) < limit or not some:
                return found

    # ── Profiles ────────────────────────────────────────────────────────────────────────────

    async def profile(self, number: str) -> Profile | None:
        """One profile; None: it is not there any more."""
        told = await self.get(f"profile/{number}")
        if isinstance(told, Told):
            if told.kind == "gone":
                return None
            raise Indivisible(told.text, status=told.status)
        found = profile(told)
        return None if found.is_gone else found

    async def matching(self, *conditions: str) -> Sequence[Profile]:
        """The first page of the profiles that match, the lowest id first."""
        found = await self._page(self.most_rows, conditions)
        return [one for one in found if not one.is_gone]

    async def pages(self, start: int, *conditions: str) -> AsyncIterator[Sequence[Profile]]:
        """Page by key from above id *start*, until a page is empty (4)."""
        while True:
            above = (*conditions, condition("id", ">", str(start)))
            found = await self._page(self.most_rows, above)
            if not found:
                return
            if (last := max(int(one.id) for one in found)) <= start:
                raise Transient("pages do not go on above the last id")
            start = last
            yield found

    async def _page(self, limit: int, conditions: Sequence[str]) -> Sequence[Profile]:
        query = "&".join((*conditions, "orderby=id", "order=asc", f"limit={limit}", "total=false"))
        rows, _, _ = page(await self.must_get(f"{self.base}/profiles?{query}"))
        return sorted(map(profile, rows), key=lambda one: int(one.id))

    async def upsert(self, key_condition: str, fields: Mapping[str, str]) -> Told:
        """Update whoever matches, or make a profile; the body must hold the condition's value."""
        said = fields if self.version == "v1" else {"fields": fields}
        return await self.write("PUT", f"{self.base}/profiles?{key_condition}&create=1", said)

    async def put_fields(self, number: str, fields: Mapping[str, str]) -> Told:
        """Flat in every version."""
        return await self.write("PUT", f"profile/{number}/fields", fields)

    async def switch(self, number: str, interests: Mapping[str, int]) -> Told:
        """POST switches those named; PUT would replace the customer's own."""
        return await self.write("POST", f"profile/{number}/interests", interests)

    async def delete(self, number: str, *, completely: bool = False) -> Told:
        """A body there is from v2 on."""
        said = {"completely": True} if completely and self.version != "v1" else None
        return await self.write("DELETE", f"profile/{number}", said)

    async def all_ids(self, most_pages: int) -> frozenset[str] | None:
        """Ids of every profile: one call in v1, pages from v2 on; None: too many, or not now."""
        found: set[str] = set()
        try:
            for _ in range(most_pages):
                query = "" if self.version == "v1" else f"?start={len(found)}&limit=1000"
                told = await self.must_get(f"{self.base}/profileids{query}")
                fresh = {str(one) for one in told} - found if isinstance(told, list) else set()
                found |= fresh
                if self.version == "v1" or not fresh:
                    return frozenset(found)
        except ProviderError as fault:
            if fault.needs_a_person:
                raise
        return None
