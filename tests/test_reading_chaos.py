"""Two daemons at Acme Lists, answers lost and pages failing at random; then all must be in step.

Two seeds here; `SYNCD_CHAOS_SEEDS=20 pytest tests/test_reading_chaos.py` runs more.
"""

from __future__ import annotations

import asyncio
import os
import random
from contextlib import AsyncExitStack
from typing import Any

import pytest
from acme_lists import Shelves
from test_reading import crowd, people
from test_reading_service import company, daemon, until

from syncd import ask, breaker, outcomes
from syncd import flow as flows
from syncd.app import App
from syncd.db import Pool

LISTS = ("news", "shop", "late")
KINDS = (0, 1, 2, 3, 4, 5, 6, 6)
SEEDS = int(os.environ.get("SYNCD_CHAOS_SEEDS", "2"))


@pytest.fixture(autouse=True)
def _prompt(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flows, "SCAN_POLL", 0.02)
    monkeypatch.setattr(outcomes, "FIRST_WAIT", 0.02)
    monkeypatch.setattr(outcomes, "LONGEST_WAIT", 0.2)
    monkeypatch.setattr(breaker, "backoff", lambda _: 0.05)


async def write(pool: Pool, chance: random.Random) -> None:
    """One change of the source."""
    one, list_id = f"p{chance.randint(1, 24):03d}", chance.choice(LISTS)
    match chance.choice(KINDS):
        case 0:
            await pool.execute("delete from syncd.contact where id = $1", one)
        case 1 | 2:
            await people(pool, **{list_id: one})
        case 3:
            await pool.execute(
                "delete from syncd.membership where contact_id = $1 and list_id = $2", one, list_id
            )
        case 4:
            await pool.execute(
                "update syncd.contact set subscribed = not subscribed where id = $1", one
            )
        case 5:
            await pool.execute(
                "update syncd.contact set email = $2 where id = $1", one,
                f"{one}.{chance.randint(1, 3)}@x.test",
            )  # fmt: skip
        case _:
            await pool.execute(
                "update syncd.contact set first_name = $2 where id = $1", one,
                chance.choice("ABC"),
            )  # fmt: skip


def fail(shelves: Shelves, chance: random.Random) -> None:
    """Some of the next requests go wrong."""
    for _ in range(chance.randint(0, 3)):
        shelves.faults.append(chance.choice(["lost", "cut", 500, 503]))
        shelves.faults.append(0)
    for _ in range(chance.randint(0, 2)):
        shelves.page_faults.append(chance.choice([None, 500, 503]))


async def wanted(pool: Pool) -> dict[str, dict[str, str]]:
    """List name → address → first name, as source and opt-outs have it: who has vanished altogether
    may be there at another address, who has left a list may not."""
    rows = await pool.fetch(
        "select l.name, lower(c.email) as email, c.first_name from syncd.list l"
        "  join syncd.membership m on m.list_id = l.id"
        "  join syncd.contact c on c.id = m.contact_id and c.subscribed"
        " where not exists (select 1 from syncd.opt_out o where o.lifted_at is null"
        "                    and (o.email = lower(c.email) and o.list_id is null"
        "                         or o.list_id = l.id"
        "                            and (o.email = lower(c.email) or o.contact_id = c.id)))"
    )
    found: dict[str, dict[str, str]] = {}
    for row in rows:
        found.setdefault(row["name"], {})[row["email"]] = row["first_name"]
    return found


def there(shelves: Shelves) -> dict[str, dict[str, str]]:
    found = {
        name: {
            shelves.members[m].email.lower(): shelves.members[m].fields.get("first", "")
            for m in shelves.inside[number]
            if not shelves.members[m].left
        }
        for number, name in shelves.lists.items()
    }
    return {name: inside for name, inside in found.items() if inside}


async def converged(app: App, pool: Pool, shelves: Shelves) -> None:
    shelves.faults.clear()
    shelves.page_faults.clear()
    async with asyncio.timeout(180):
        while True:
            due = await pool.fetchval("select count(*) from syncd.journal")
            if not due and there(shelves) == await wanted(pool):
                return
            await asyncio.sleep(0.2)


@pytest.mark.parametrize("seed", range(SEEDS))
async def test_after_any_faults_each_list_holds_whom_the_source_wants_once(
    database: str, pool: Pool, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    chance = random.Random(seed)
    async with company(
        database, pool, monkeypatch, guard_floor=10_000
    ) as (app, shelves), AsyncExitStack() as stack:  # fmt: skip
        shelves.doubles, shelves.guards_reading = True, False  # a page that failed ends a reading
        await people(pool, news=crowd(20), shop=crowd(10))
        shelves.enter(shelves.make_list("NEWS"), *(f"{one}@x.test" for one in crowd(5).split()))
        for _ in range(2):
            await stack.enter_async_context(daemon(app))
        await until(lambda: pool.fetchval("select scanned_at is not null from syncd.feed"))
        await chaos(pool, shelves, chance)  # whom we adopted by now is ours, wherever they move
        await told(app, pool, shelves)
        false = await pool.fetch(
            "select d.*, o.list_id, o.evidence, o.observed_at from syncd.opt_out o"
            "  join syncd.delivery d using (contact_id) order by d.at"
        )
        assert [dict(row) for row in false] == []

        gone = [m.email for m in shelves.members.values() if not m.left and there_is(shelves, m)]
        shelves.leave(*chance.sample(gone, min(3, len(gone))))
        assert (await ask.scan(app, ["acme"], 30))["acme"].done
        assert (await ask.scan(app, ["acme"], 30))["acme"].done
        await chaos(pool, shelves, chance)
        await told(app, pool, shelves)


def there_is(shelves: Shelves, member: Any) -> bool:
    return any(member.id in inside for inside in shelves.inside.values())


async def chaos(pool: Pool, shelves: Shelves, chance: random.Random) -> None:
    for _ in range(60):
        fail(shelves, chance)
        await write(pool, chance)
        await asyncio.sleep(chance.choice([0, 0.01, 0.1]))


async def told(app: App, pool: Pool, shelves: Shelves) -> None:
    """In step, or what differs."""
    try:
        await converged(app, pool, shelves)
    except TimeoutError:
        is_there, want = there(shelves), await wanted(pool)
        for name in want.keys() | is_there.keys():
            differ = is_there.get(name, {}).items() ^ want.get(name, {}).items()
            print("there or wanted", name, sorted(differ))
        for name in ("journal", "opt_out", "missing", "mirror", "seen", "delivery"):
            for row in await pool.fetch(f"select * from syncd.{name}"):
                print(name, *row)
        for row in await pool.fetch("select * from syncd.scan where finished_at is null"):
            print("scan", *row)
        print(*shelves.members.values(), sep="\n")
        raise AssertionError({"there": is_there, "wanted": want}) from None
