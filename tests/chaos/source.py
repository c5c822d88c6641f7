"""The company's tables, and somebody who changes them; what they were is in `truth`."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from typing import Any

import asyncpg

from .truth import SCHEMA
from .variant import LISTS

Connection = asyncpg.Connection
Deed = Callable[[Connection, random.Random, "Writer"], Awaitable[None]]


class Writer:
    """Changes the tables, one transaction a change. It asks the tables what there is, so that a
    change whose COMMIT was cut off can simply be made again, or not.

    No address is ever given to a second contact, save among those who have always said yes: a
    provider may keep a no at the address, for whoever has it later.
    """

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.spoken: set[str] = set()  # addresses of which anybody ever said no
        self.kept: set[str] = set()  # contacts that somebody else is changing
        self.erased: set[str] = set()  # who asked to be forgotten is never added again

    async def ids(self, c: Connection) -> list[str]:
        rows = await c.fetch("select id from syncd.contact order by id")
        return [row["id"] for row in rows if row["id"] not in self.kept]

    async def one(self, c: Connection) -> str | None:
        found = await self.ids(c)
        return self.rng.choice(found) if found else None

    @staticmethod
    async def fresh(c: Connection) -> str:
        number = await c.fetchval("select nextval('chaos.fresh')")
        return f"p{number}@example{number % 5}.org"

    async def joined(self, c: Connection, key: str, most: int = 3) -> None:
        for one in self.rng.sample(LISTS, self.rng.randint(0, most)):
            await c.execute(
                "insert into syncd.membership (list_id, contact_id) values ($1, $2)"
                " on conflict do nothing", one, key,
            )  # fmt: skip

    async def add(self, c: Connection) -> None:
        email = await self.fresh(c)
        key = "c" + email.partition("@")[0]
        await c.execute(
            "insert into syncd.contact (id, email, first_name, city) values ($1, $2, $3, $4)",
            key, email, f"First{self.rng.randrange(99)}", self.rng.choice([None, "Ulm"]),
        )  # fmt: skip
        await self.joined(c, key)

    async def change(self, c: Connection) -> None:
        column = self.rng.choice(("first_name", "company", "city"))
        value = self.rng.choice((None, f"Some{self.rng.randrange(999)}", "Acme & <Söhne>"))
        if column == "first_name" and value is None:
            value = "Nobody"
        await c.execute(
            f"update syncd.contact set {column} = $2 where id = $1", await self.one(c), value
        )

    async def move(self, c: Connection) -> None:
        await c.execute(
            "update syncd.contact set email = $2 where id = $1", await self.one(c),
            await self.fresh(c),
        )  # fmt: skip

    async def swap(self, c: Connection) -> None:
        await self._turn(c, 2)

    async def ring(self, c: Connection) -> None:
        await self._turn(c, 3)

    async def _turn(self, c: Connection, n: int) -> None:
        rows = await c.fetch("select id, email from syncd.contact where subscribed order by id")
        told = await c.fetch(  # a no goes with a person to the next address
            "select distinct now ->> 'id' as id from chaos.truth where now ->> 'email' = any($1)",
            list(self.spoken),
        )
        barred = {row["id"] for row in told} | self.kept
        able = [r for r in rows if r["email"] not in self.spoken and r["id"] not in barred]
        if len(able) < n:
            return
        some = self.rng.sample(able, n)
        await c.execute(
            "update syncd.contact c set email = n.email"
            " from unnest($1::text[], $2::text[]) n (id, email) where c.id = n.id",
            [row["id"] for row in some],
            [row["email"] for row in (*some[1:], some[0])],
        )

    async def delete(self, c: Connection) -> None:
        await c.execute("delete from syncd.contact where id = $1", await self.one(c))

    async def again(self, c: Connection) -> None:
        """Somebody who was deleted comes back, with the old address or another."""
        rows = await c.fetch(
            """
select distinct on (was ->> 'id') was ->> 'id' as id, was ->> 'email' as email from chaos.truth t
 where relation = 'contact' and op = 'delete'
   and not exists (select 1 from syncd.contact c where c.id = t.was ->> 'id')
   and t.was ->> 'id' <> all($1)
 order by was ->> 'id', n desc""",
            list(self.erased),
        )
        if not rows:
            return
        row = self.rng.choice(rows)
        taken = await c.fetchval(
            "select exists (select 1 from syncd.contact where email = $1)"
            " or exists (select 1 from chaos.truth where now ->> 'id' <> $2"
            " and now ->> 'email' = $1)", row["email"], row["id"],
        )  # fmt: skip
        same = self.rng.random() < 0.5 and not taken and row["email"] not in self.spoken
        await c.execute(
            "insert into syncd.contact (id, email, first_name) values ($1, $2, 'Back')",
            row["id"], row["email"] if same else await self.fresh(c),
        )  # fmt: skip
        await self.joined(c, row["id"])

    async def join(self, c: Connection) -> None:
        if key := await self.one(c):
            await self.joined(c, key)

    async def leave(self, c: Connection) -> None:
        await c.execute(
            "delete from syncd.membership where contact_id = $1 and list_id = $2",
            await self.one(c), self.rng.choice(LISTS),
        )  # fmt: skip

    async def silence(self, c: Connection) -> None:
        key = await self.one(c)
        email = await c.fetchval("select email from syncd.contact where id = $1", key)
        self.spoken.add(email)
        await c.execute("update syncd.contact set subscribed = false where id = $1", key)

    async def consent(self, c: Connection) -> None:
        """Somebody who said no, here or at a provider, says yes."""
        rows = await c.fetch(
            "select id from syncd.contact where not subscribed or email = any($1) order by id",
            list(self.spoken),
        )
        if rows:
            await c.execute(
                "update syncd.contact set subscribed = true, consented_at = clock_timestamp()"
                " where id = $1",
                self.rng.choice(rows)["id"],
            )

    async def rename(self, c: Connection) -> None:
        number = await c.fetchval("select nextval('chaos.fresh')")
        await c.execute(
            "update syncd.list set name = $2 where id = $1",
            self.rng.choice(LISTS),
            f"List {number}",
        )

    async def bulk(self, c: Connection) -> None:
        found = await self.ids(c)
        some = self.rng.sample(found, min(30, len(found)))
        await c.execute(
            "update syncd.contact set company = $2 where id = any($1)", some,
            f"Merger {self.rng.randrange(999)}",
        )  # fmt: skip

    async def refill(self, c: Connection) -> None:
        """Somebody reloads the tables."""
        await c.execute("create temporary table kept on commit drop as select * from syncd.contact")
        await c.execute(
            "create temporary table ins on commit drop as select * from syncd.membership"
        )
        await c.execute("truncate syncd.contact, syncd.membership")
        await c.execute("insert into syncd.contact select * from kept")
        await c.execute("insert into syncd.membership select * from ins")

    async def erase(self, c: Connection) -> None:
        """A person asks to be forgotten; the company deletes the row at once."""
        row = await c.fetchrow(
            "select id, email from syncd.contact where id = $1", await self.one(c)
        )
        if row is None:
            return
        had = await c.fetch(
            "select distinct now ->> 'email' as email from chaos.truth where now ->> 'id' = $1",
            row["id"],
        )
        self.spoken |= {one["email"] for one in had}
        self.erased.add(row["id"])
        await c.execute(
            "insert into syncd.erasure (contact_id, email) values ($1, $2)", row["id"], row["email"]
        )
        await c.execute("delete from syncd.contact where id = $1", row["id"])

    async def step(self, c: Connection) -> str:
        """One change, of a kind that is drawn; its name."""
        names, weights = zip(*WEIGHTS.items(), strict=True)
        name: str = self.rng.choices(names, weights)[0]
        await getattr(self, name)(c)
        return name


WEIGHTS: dict[str, float] = {
    "add": 3, "change": 9, "move": 4, "swap": 2, "ring": 1, "delete": 2, "again": 2, "join": 4,
    "leave": 3, "silence": 1.5, "consent": 1.5, "rename": 0.4, "bulk": 0.4, "refill": 0.15,
    "erase": 0.2,
}  # fmt: skip


async def fill(c: Any, rng: random.Random, n: int) -> None:
    """The tables as they are at first."""
    writer = Writer(rng)
    await c.execute(SCHEMA)
    for one in LISTS:
        await c.execute("insert into syncd.list (id, name) values ($1, 'List ' || $1)", one)
    for _ in range(n):
        await writer.add(c)
