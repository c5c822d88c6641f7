"""What the demo shows, a function a chapter."""

from __future__ import annotations

import orjson

from syncd import control
from syncd.backfill import Backfill
from syncd.db import Pool
from syncd.demo import people as data
from syncd.demo.proof import Side, differences, source_side
from syncd.demo.shelves import SHELVES
from syncd.demo.stage import Stage

TITLES = {shelf.name: shelf.title for shelf in SHELVES}
ADDRESS = "person{:03d}@demo.example"

_DESTINATION = """
insert into syncd.destination (name, provider, options, fields, read_schedule)
values ($1, $1, $2, $3, '2s')
"""


async def fill(stage: Stage) -> None:
    """The source's rows, a row a destination, and the first backfill."""
    app, contacts = stage.app, data.people()
    async with app.pool.acquire() as connection, connection.transaction():
        await connection.executemany("insert into syncd.list values ($1, $2)", data.LISTS)
        columns = ", ".join(data.Contact._fields)
        places = ", ".join(f"${n}" for n in range(1, len(data.Contact._fields) + 1))
        await connection.executemany(
            f"insert into syncd.contact ({columns}) values ({places})",  # noqa: S608  our own names
            contacts,
        )
        await connection.executemany(
            "insert into syncd.membership values ($1, $2)", data.memberships(contacts)
        )
        for shelf in SHELVES:
            options = {**shelf.options, "base_url": stage.boxes[shelf.name].url}
            fields = None if shelf.fields is None else orjson.dumps(shelf.fields).decode()
            told = orjson.dumps(options).decode()
            await connection.execute(_DESTINATION, shelf.name, told, fields)
    what = f"{len(contacts)} contacts in {len(data.LISTS)} lists"
    stage.tell.chapter(f"Backfill: {what}, to {len(SHELVES)} providers")
    job = Backfill(app, await app.destinations())
    await job.run()
    stage.result.summary = job.summary()
    for part in job.parts:
        said = part.summary()
        stage.tell.line(
            f"{TITLES[part.destination.name]}: {said['created']} created in {said['requests']}"
            f" requests, {said['absent']} rightly not",
            part.seconds,
            good=said["in_step"],
        )
    stage.tell.line("rightly not: who had said no; and who is in no list, where lists are all")
    for contact, why in (await rejected(app.pool, "clevertap")).items():
        stage.tell.line(f"rejected, as it should be: {contact} {why}")


async def rejected(pool: Pool, name: str) -> dict[str, str]:
    rows = await pool.fetch(
        "select j.contact_id, j.last_error from syncd.journal j"
        " join syncd.destination d on d.id = j.destination_id"
        " where j.state = 'rejected' and d.name = $1 order by 1",
        name,
    )
    return {row["contact_id"]: row["last_error"] for row in rows}


def is_mailed(there: Side | None) -> bool:
    return there is not None and there.mailable


def is_not(there: Side | None) -> bool:
    return not is_mailed(there)


def field(there: Side | None, column: str) -> str | None:
    return None if there is None else there.fields.get(column)


def lists(there: Side | None) -> list[str]:
    return [] if there is None else list(there.lists)


async def changes(stage: Stage) -> None:
    """What people do in the source, and when the providers show it."""
    stage.tell.chapter("The daemon is running: changes in PostgreSQL, and when all five have them")
    pool, everywhere = stage.app.pool, stage.everywhere
    await stage.settled()
    await pool.execute("update syncd.contact set last_name = '山田' where id = 'c0010'")
    await stage.arrives(
        "a changed name (where ids are only told by reading lists, those are read first)",
        lambda: everywhere(
            "c0010", ADDRESS.format(10), lambda it: field(it, "last_name") == "山田"
        ),
    )
    async with pool.acquire() as connection, connection.transaction():
        await connection.execute(
            "insert into syncd.contact (id, email, first_name)"
            " values ('c9001', 'new@demo.example', 'Новый')"
        )
        await connection.execute("insert into syncd.membership values ('news', 'c9001')")
    await stage.arrives("a new contact", lambda: everywhere("c9001", "new@demo.example", is_mailed))
    await pool.execute("update syncd.contact set subscribed = false where id = 'c0021'")
    await stage.arrives(
        "an unsubscription", lambda: everywhere("c0021", ADDRESS.format(21), is_not)
    )
    await moves(stage)


async def moves(stage: Stage) -> None:
    """Another list, another address, gone."""
    pool, everywhere = stage.app.pool, stage.everywhere
    async with pool.acquire() as connection, connection.transaction():
        await connection.execute("delete from syncd.membership where contact_id = 'c0030'")
        await connection.execute("insert into syncd.membership values ('club', 'c0030')")
    await stage.arrives(
        "a move to another list",
        lambda: everywhere("c0030", ADDRESS.format(30), lambda it: lists(it) == ["club"]),
    )
    await pool.execute("update syncd.contact set email = 'moved@demo.example' where id = 'c0042'")
    await stage.arrives(
        "a new address",
        lambda: everywhere(
            "c0042",
            "moved@demo.example",
            lambda it: it is not None and it.mailable and it.email == "moved@demo.example",
        ),
    )
    await pool.execute("delete from syncd.contact where id = 'c0050'")
    await stage.arrives(
        "a removed contact (no more mail, no lists)",
        lambda: everywhere(
            "c0050", ADDRESS.format(50), lambda it: not (is_mailed(it) or lists(it))
        ),
    )


async def opt_out(stage: Stage) -> None:
    """A no that is said at one provider: it arrives here, and holds at all."""
    stage.tell.chapter("Somebody unsubscribes with the link in a mail: the no is made at CleverTap")
    email, pool = ADDRESS.format(63), stage.app.pool
    stage.boxes["clevertap"].act("unsubscribe", email=email)
    question = "select count(*) from syncd.opt_out where email = $1"
    await stage.arrives_here("syncd has read it", question, email)
    await stage.arrives("it holds at all five", lambda: stage.everywhere("c0063", email, is_not))
    await pool.execute("update syncd.contact set city = 'Oslo' where id = 'c0063'")
    await arrives_at_clevertap(stage, "c0063", email)
    await stage.settled()
    out = stage.everywhere("c0063", email, is_not)
    stage.tell.line("and the no still stands" if out else "BUT IT IS MAILED AGAIN", good=out)
    if not out:
        stage.result.differences.append("c0063: was subscribed again by accident")


async def arrives_at_clevertap(stage: Stage, contact_id: str, email: str) -> None:
    [tap] = [shelf for shelf in SHELVES if shelf.name == "clevertap"]

    def is_there() -> bool:
        return field(stage.one(tap, contact_id, email), "city") == "Oslo"

    await stage.arrives("a later change of that contact arrives at CleverTap", is_there)


async def vanished(stage: Stage) -> None:
    """A no at a provider that tells of none: who said it is shown in its lists no more."""
    stage.tell.chapter("Somebody unsubscribes at RedCappi, which tells nobody: they just vanish")
    pool, email, box = stage.app.pool, ADDRESS.format(61), stage.boxes["redcappi"]
    box.act("unsubscribe", email=email)
    await pool.execute("insert into syncd.command (kind, destination) values ('scan', 'redcappi')")
    question = "select count(*) from syncd.opt_out where email = $1 and kind = 'vanished'"
    await stage.arrives_here("two whole readings of the list have missed them", question, email)
    await pool.execute("update syncd.contact set city = 'Oslo' where id = 'c0061'")
    await arrives_at_clevertap(stage, "c0061", email)
    await stage.settled()
    out = not box.state.mailable(email)
    says = "and nobody adds them back at RedCappi" if out else "BUT THEY ARE BACK AT REDCAPPI"
    stage.tell.line(says, good=out)
    if not out:
        stage.result.differences.append("c0061: was added again by accident")


async def mass_change(stage: Stage) -> None:
    """The guard: a change of nearly everybody waits for a person."""
    stage.tell.chapter("A mistake in the source: everybody moves to the same city")
    pool = stage.app.pool
    await pool.execute("update syncd.contact set city = 'Nowhere' where id like 'c02%'")
    question = "select count(distinct destination_id) = $1 from syncd.plan where state = 'held'"
    await stage.arrives_here("the guard holds the changes, for all five", question, len(SHELVES))
    reached = {
        one.id
        for one in data.people()
        for shelf in SHELVES
        if field(stage.one(shelf, one.id, one.email or ""), "city") == "Nowhere"
    }
    stage.tell.line(f"{len(reached)} of them reached a provider", good=not reached)
    shelves = {shelf.name: shelf for shelf in SHELVES}
    for plan in await control.held_plans(pool):
        shelf = shelves[plan.destination]
        stage.tell.line(f"plan {plan.id} of {shelf.title} waits: {plan.reason}")
        await control.approve(pool, plan.id, plan.rows, "demo")

        def is_there(at: str = plan.destination) -> bool:
            held = stage.one(shelves[at], "c0299", ADDRESS.format(299))
            return field(held, "city") == "Nowhere"

        await stage.arrives(f"plan {plan.id} is approved by a person, and sent", is_there)


async def prove(stage: Stage) -> None:
    """Every contact here against every record there, and no rule broken."""
    stage.tell.chapter("The proof: every contact here against every record there")
    await stage.settled()
    result, pool = stage.result, stage.app.pool
    for shelf in SHELVES:
        box = stage.boxes[shelf.name]
        columns = shelf.columns.values()
        source = await source_side(pool, shelf.name, columns, by_list=shelf.by_list)
        there, refused = shelf.held(box, source), await rejected(pool, shelf.name)
        found = differences(source, there, refused, shelf.mailed(box))
        broken = box.state.ledger.violations
        result.contacts = len(source)
        result.differences += [f"{shelf.title}: {one}" for one in found]
        result.differences += [f"a breach of {shelf.title}'s rules: {one}" for one in broken]
        stage.tell.line(
            f"{len(source)} contacts here, {len(there)} at {shelf.title}, {len(refused)} rejected"
            " on purpose",
            good=not found,
        )
    for one in result.differences:
        stage.tell.line(one, good=False)
    if not result.differences:
        stage.tell.line("both sides are equal, at all five")
