"""What happens in a scripted company: four stages, each with a process that carries it out."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

import asyncpg
import orjson

from .points import Point
from .world import World

Deeds = Callable[[World, asyncpg.Connection], Awaitable[None]]

SAID_NO = "c06@x.test"  # at the provider
ERASED = "c09@x.test"


@dataclass(frozen=True)
class Stage:
    """What is done to the source and at the provider, and then the process that makes it so."""

    name: str
    deeds: Deeds
    args: tuple[str, ...]
    noes: Sequence[str] = ()  # addresses that are mailed no more, whatever the source says


async def fill(at: World, db: asyncpg.Connection) -> None:
    """Contacts with lists, one of whom never said yes."""
    await db.execute("insert into syncd.list values ('news', 'Newsletter'), ('vip', 'VIP')")
    await db.execute(
        "insert into syncd.contact (id, email, first_name, subscribed)"
        " select 'c' || k, 'c' || k || '@x.test', 'A', k <> '02'"
        "   from (select lpad(i::text, 2, '0') as k from generate_series(1, $1::int) i) n",
        at.kind.people,
    )
    await db.execute("insert into syncd.membership select 'news', id from syncd.contact")
    await db.execute(
        "insert into syncd.membership select 'vip', id from syncd.contact where id in"
        " ('c01', 'c03', 'c08', 'c10')"
    )


async def change(at: World, db: asyncpg.Connection) -> None:
    """One of everything; where the provider takes jobs, enough for one."""
    many = at.kind.people if at.kind.people > 25 else 1
    await db.execute(
        "update syncd.contact set first_name = 'B' where id <= 'c' || lpad($1::int::text, 2, '0')",
        many,
    )
    await db.execute("update syncd.contact set email = 'moved@x.test' where id = 'c03'")
    await db.execute("delete from syncd.contact where id = 'c04'")
    await db.execute("update syncd.contact set subscribed = false where id = 'c05'")
    at.box.act("unsubscribe", email=SAID_NO)
    await db.execute("insert into syncd.membership values ('vip', 'c07')")
    await db.execute("delete from syncd.membership where list_id = 'vip' and contact_id = 'c08'")
    await db.execute("update syncd.list set name = 'Very important' where id = 'vip'")
    await db.execute("insert into syncd.erasure (contact_id) values ('c09')")
    await db.execute("delete from syncd.contact where id = 'c09'")
    await db.execute(
        "update syncd.contact c set email = o.email from syncd.contact o"
        " where (c.id, o.id) in (('c11', 'c12'), ('c12', 'c11'))"
    )
    await db.execute("insert into syncd.list values ('late', 'Latecomers')")
    await db.execute("insert into syncd.contact (id, email, first_name) values"
                     " ('new', 'new@x.test', 'New')")  # fmt: skip
    await db.execute("insert into syncd.membership values ('late', 'new'), ('news', 'new')")


async def order(at: World, db: asyncpg.Connection) -> None:
    """Two plans are held and one contact is refused; commands see to all of it, and to more."""
    await db.execute("update syncd.destination set guard_floor = 2, guard_percent = 10")
    await db.execute("delete from syncd.contact where id in ('c10', 'c13', 'c14')")
    await db.execute(  # what they were called before is remembered: the plan is to be discarded
        "update syncd.contact set attributes = jsonb_build_object('before', first_name),"
        " first_name = 'C' where id in ('c01', 'c05', 'c07', 'c08', 'new')"
    )
    await db.execute(
        "insert into syncd.opt_out (destination_id, email, email_hash, kind, evidence)"
        " select id, 'ghost@x.test', md5('ghost'), 'bounced', '{}' from syncd.destination"
    )
    ended = await at.run(BACKFILL)
    plans = {row["kind"]: row for row in await db.fetch(
        "select p.id, p.kind, count(*) as n from syncd.plan p join syncd.journal j on"
        " j.plan_id = p.id where p.state = 'held' group by p.id")}  # fmt: skip
    assert plans.keys() == {"remove", "change"}, (plans, ended.said)
    removal = {"plan": plans["remove"]["id"], "rows": plans["remove"]["n"]}
    for kind, args in (
        ("approve", removal), ("discard", {"plan": plans["change"]["id"]}), ("retry", {}),
        ("lift", {"email": "ghost@x.test", "reason": "a full box"}),
        ("lift", {"email": ERASED, "reason": "asked for it"}),
        ("scan", {}), ("full", {}), ("sync", {}),
        *([("audit", {"sample": 2, "repair": True})] if at.kind.audits else []),
    ):  # fmt: skip
        await db.execute(
            "insert into syncd.command (kind, args) values ($1, $2)",
            kind, orjson.dumps(args).decode(),
        )  # fmt: skip


async def die(at: World, db: asyncpg.Connection) -> None:
    """Whoever carried this out died twice, with everything sent and nothing settled. Nobody is
    blamed for it: whom a third death finds alone would rightly be refused as its cause."""
    await db.execute("update syncd.contact set email = 'away@x.test' where id = 'c08'")
    await db.execute("delete from syncd.contact where id = 'c12'")
    await _killed(at, "journal.deliver")
    await db.execute("insert into syncd.contact (id, email, first_name) values"
                     " ('n1', 'n1@x.test', 'D'), ('n2', 'n2@x.test', 'D')")  # fmt: skip
    await db.execute("insert into syncd.membership select 'news', unnest(array['n1', 'n2'])")
    await _killed(at, "window.settle", "journal.deliver")
    await db.execute("update syncd.journal set crashes = 0")


async def _killed(at: World, *places: str) -> None:
    ended = await at.run(BACKFILL, {Point(one, 1): "exit" for one in places})
    assert ended.struck, ended.said
    await at.bury()


BACKFILL = ("backfill", "--json")
NOES = (SAID_NO, ERASED)

STAGES = (
    Stage("filled", fill, BACKFILL),
    Stage("changed", change, BACKFILL, NOES),
    Stage("taken over", die, BACKFILL, NOES),
    Stage("told", order, ("run",), NOES),
)
