"""Whoever changes the source: at random, several at once, some of them committing late."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from syncd.db import Pool

CONTACTS = [f"c{n:02}" for n in range(12)]
LISTS = ("news", "offers", "staff")
SELECTED = ("news", "offers")


@dataclass
class Writers:
    """One dozen contacts with few addresses. Every change of a contact has a version of its own."""

    pool: Pool
    random: random.Random
    emails: Sequence[str]
    consents: dict[str, list[float]]  # contact → every consent it ever had
    refills: bool  # sometimes everything is truncated and written anew
    writes: int = 0

    async def write(self) -> None:
        rng = self.random
        await asyncio.sleep(rng.uniform(0.0, 0.06))
        self.writes += 1
        async with self.pool.acquire() as connection:
            if self.refills and rng.random() < 0.01:
                await self._refill(connection)
                return
            async with connection.transaction():
                await self._change(connection)
                if rng.random() < 0.3:
                    await asyncio.sleep(rng.uniform(0.0, 0.08))  # commits late

    async def _change(self, connection: Any) -> None:
        rng = self.random
        ids = sorted(rng.sample(CONTACTS, rng.choice((1, 1, 1, 2, 3))))
        await connection.fetch(  # also of those not there yet: writers that deadlock are no news
            "select pg_advisory_xact_lock(4, hashtext(id)) from unnest($1::text[]) id", ids
        )
        match rng.choices(
            ("data", "address", "exchange", "delete", "insert", "member", "silence", "consent",
             "empty"),
            (4, 4, 4, 3, 4, 3, 1, 2, 0.3),
        )[0]:  # fmt: skip
            case "data":
                name = rng.choice(("ann", "bob", "cyd", "bad"))
                await self._set(connection, ids, "first_name = $2", name)
            case "address":
                await self._set(connection, ids[:1], "email = $2", self._email())
            case "empty":
                await self._set(connection, ids[:1], "email = $2", rng.choice((None, " ")))
            case "exchange":
                await self._exchange(connection, ids)
            case "delete":
                await connection.execute("delete from syncd.contact where id = any($1)", ids)
            case "insert":
                for one in ids:
                    await self.insert(connection, one)
            case "member":
                for one in ids:
                    await self._member(connection, one, rng.choice(LISTS))
            case "silence":
                await self._set(connection, ids[:1], "subscribed = $2", False)
            case "consent":
                await self._consent(connection, ids[0])

    async def _set(self, connection: Any, ids: Sequence[str], what: str, value: Any) -> None:
        await connection.execute(
            f"update syncd.contact set {what}, updated_at = now(),"
            " attributes = jsonb_build_object('v', nextval('public.v')) where id = any($1::text[])",
            ids,
            value,
        )

    async def _exchange(self, connection: Any, ids: Sequence[str]) -> None:
        """A swap, or a ring of three: everyone gets the next one's address."""
        rows = await connection.fetch(
            "select id, email from syncd.contact where id = any($1::text[]) order by id", ids
        )
        for n, row in enumerate(rows):
            follower = rows[(n + 1) % len(rows)]
            await self._set(connection, [row["id"]], "email = $2", follower["email"])

    async def insert(self, connection: Any, one: str) -> None:
        await connection.execute(
            "insert into syncd.contact (id, email, first_name, subscribed, attributes)"
            " values ($1, $2, 'eve', $3, jsonb_build_object('v', nextval('public.v')))"
            " on conflict do nothing",
            one, self._email(), self.random.random() < 0.9,
        )  # fmt: skip
        for name in LISTS:
            if self.random.random() < 0.6:
                await self._member(connection, one, name)

    async def _member(self, connection: Any, one: str, name: str) -> None:
        done = await connection.execute(
            "delete from syncd.membership where contact_id = $1 and list_id = $2", one, name
        )
        if done == "DELETE 0":
            await connection.execute(
                "insert into syncd.membership (contact_id, list_id)"
                " select id, $2 from syncd.contact where id = $1 on conflict do nothing",
                one,
                name,
            )

    async def _consent(self, connection: Any, one: str) -> None:
        """Says yes again: with a newer consent, an old one, or none."""
        at = self.random.choice((time.time(), time.time(), time.time() - 3600, None))
        if at is not None:
            self.consents.setdefault(one, []).append(at)
        await self._set(
            connection, [one], "subscribed = true, consented_at = to_timestamp($2::float8)", at
        )

    async def _refill(self, connection: Any) -> None:
        async with connection.transaction():
            await connection.fetch(
                "select pg_advisory_xact_lock(4, hashtext(id)) from unnest($1::text[]) id", CONTACTS
            )
            await connection.execute("lock table syncd.contact, syncd.membership")
            kept = await connection.fetch("select * from syncd.contact")
            await connection.execute("truncate syncd.contact, syncd.membership")
            if self.random.random() < 0.5:
                await asyncio.sleep(0.05)
            for row in kept:
                await self.insert(connection, row["id"])

    def _email(self) -> str:
        email = self.random.choice(self.emails)
        return email.upper() if self.random.random() < 0.1 else email
