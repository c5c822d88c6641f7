"""`syncd demo`: a private PostgreSQL, two sandboxes, 300 people, and what syncd does with them.

A main program of its own, so the one module beside the command line that composes an app.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import os
import shutil
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson

from syncd import control, db, migrate
from syncd import demo_data as data
from syncd.app import App, opened
from syncd.backfill import Backfill
from syncd.sandbox import Handle, serve
from syncd.serve import Service
from syncd.settings import Settings

PATIENCE = 20.0  # seconds for a change to arrive before it counts as lost
NAME, LISTED = "clevertap", "redcappi"
TITLES = {NAME: "CleverTap", LISTED: "RedCappi"}
QUICK = {"api": {"per_second": 250, "in_flight": 8}}  # its polite ten a second would be a minute

_DESTINATION = """
insert into syncd.destination (name, provider, options, read_schedule)
values ($1, $1, $2, '2s')
"""


@dataclass(slots=True)
class Result:
    """What was proven."""

    summary: dict[str, Any] = field(default_factory=dict)
    contacts: int = 0
    differences: list[str] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        return {**self.summary, "contacts": self.contacts, "equal": not self.differences}


class Story:
    """Where the demo tells what happens; the command line shows it."""

    def chapter(self, title: str) -> None: ...

    def line(self, text: str, seconds: float | None = None, good: bool = True) -> None: ...


@dataclass(slots=True)
class Stage:
    """Everything that runs."""

    app: App
    sandbox: Handle
    lists: Handle  # the sandbox of the provider that knows members of lists
    tell: Story
    result: Result

    async def arrives(self, what: str, there: Callable[[], Any]) -> None:
        """Wait until the provider (or syncd) shows it, and tell how long that took."""

        async def look() -> bool:
            return bool(there())

        await self._until(what, look)

    async def arrives_here(self, what: str, question: str, *args: object) -> None:
        """As `arrives`, of something that our own tables will say."""

        async def look() -> bool:
            return bool(await self.app.pool.fetchval(question, *args))

        await self._until(what, look)

    async def _until(self, what: str, look: Callable[[], Awaitable[bool]]) -> None:
        began = time.monotonic()
        found = await became_true(look)
        if not found:
            self.result.differences.append(f"did not arrive in {PATIENCE:g} s: {what}")
        self.tell.line(what, time.monotonic() - began, good=found)

    def held(self, contact_id: str) -> dict[str, Any]:
        """The properties of a profile in the sandbox; {} if it is not there."""
        found = self.sandbox.state.profiles.by_identity.get(contact_id)
        return {} if found is None else dict(found.properties)

    def member(self, email: str) -> dict[str, Any]:
        """The fields of a member of lists, and the names of those; {} if it is in none."""
        account = self.lists.state.data
        found = [one for one in account.at(email) if one.lists and one.status == "active"]
        if not found:
            return {}
        names = {account.lists[number] for one in found for number in one.lists}
        return {**found[0].fields, "lists": names}


async def perform(
    settings: Settings, tell: Story, *, port: int = 0, kept: Callable[[Stage], Any] | None = None
) -> Result:
    """The whole demo; `kept` is awaited with everything running, before it is taken down."""
    result = Result()
    with cluster() as url:
        tell.chapter("A private PostgreSQL is running; nothing of it will be left behind")
        connection = await db.connect(url)
        await migrate.migrate(connection)
        await connection.close()
        second = port + 1 if port else 0
        async with serve(NAME, port) as sandbox, serve(LISTED, second) as lists:
            environ = dict(os.environ)
            for box in (sandbox, lists):
                title = TITLES[box.state.provider]
                tell.chapter(f"A strict stand-in of {title} is listening at {box.url}")
                secret = f"SYNCD_SECRET_{box.state.provider.upper()}"
                environ[secret] = orjson.dumps(box.state.demo).decode()
            mine = settings.model_copy(update={"database_url": url})
            async with opened(mine, environ) as app:
                await _play(Stage(app, sandbox, lists, tell, result), kept)
    return result


async def _play(stage: Stage, kept: Callable[[Stage], Any] | None) -> None:
    await _fill(stage)
    async with _serving(stage.app):
        await _changes(stage)
        await _opt_out(stage)
        await _vanished(stage)
        await _mass_change(stage)
        await _prove(stage)
        if kept is not None:
            await kept(stage)


async def _fill(stage: Stage) -> None:
    """The source's rows, the destination's row, and the first backfill."""
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
        for name, options in (
            (NAME, {"base_url": stage.sandbox.url}),
            (LISTED, {"base_url": stage.lists.url, "meters": QUICK}),
        ):
            await connection.execute(_DESTINATION, name, orjson.dumps(options).decode())
    stage.tell.chapter(f"Backfill: {len(contacts)} contacts in {len(data.LISTS)} lists")
    job = Backfill(app, await app.destinations())
    await job.run()
    stage.result.summary = job.summary()
    for part in job.parts:
        said = part.summary()
        stage.tell.line(
            f"{TITLES[part.destination.name]}: {said['created']} created in {said['requests']}"
            f" requests, {said['absent']} rightly not created (they had said no, or are in no list"
            " of those who are held by list)",
            part.seconds,
            good=said["in_step"],
        )
    for contact, why in (await _rejected(app.pool, NAME)).items():
        stage.tell.line(f"rejected, as it should be: {contact} {why}")


async def _rejected(pool: db.Pool, name: str) -> dict[str, str]:
    rows = await pool.fetch(
        "select j.contact_id, j.last_error from syncd.journal j"
        " join syncd.destination d on d.id = j.destination_id"
        " where j.state = 'rejected' and d.name = $1 order by 1",
        name,
    )
    return {row["contact_id"]: row["last_error"] for row in rows}


@contextlib.asynccontextmanager
async def _serving(app: App) -> AsyncIterator[None]:
    """The daemon, in this process."""
    stop = asyncio.Event()
    async with app.worker() as worker, asyncio.TaskGroup() as group:
        group.create_task(Service(app, worker, stop).run(), name="daemon")
        yield
        stop.set()


async def _changes(stage: Stage) -> None:
    """What people do in the source, and when the provider shows it."""
    stage.tell.chapter("The daemon is running: changes in PostgreSQL, and when both have them")
    pool, held, member = stage.app.pool, stage.held, stage.member
    mailable = stage.sandbox.state.mailable
    await _settled(stage)
    await pool.execute("update syncd.contact set last_name = '山田' where id = 'c0010'")
    await stage.arrives(
        "a changed name (where ids are only told by reading lists, those are read first)",
        lambda: (
            held("c0010").get("Last Name") == "山田"
            and member("person010@demo.example").get("last_name") == "山田"
        ),
    )
    async with pool.acquire() as connection, connection.transaction():
        await connection.execute(
            "insert into syncd.contact (id, email, first_name)"
            " values ('c9001', 'new@demo.example', 'Новый')"
        )
        await connection.execute("insert into syncd.membership values ('news', 'c9001')")
    await stage.arrives("a new contact", lambda: mailable("c9001") and member("new@demo.example"))
    await pool.execute("update syncd.contact set subscribed = false where id = 'c0021'")
    await stage.arrives(
        "an unsubscription",
        lambda: not mailable("c0021") and not member("person021@demo.example"),
    )
    async with pool.acquire() as connection, connection.transaction():
        await connection.execute("delete from syncd.membership where contact_id = 'c0030'")
        await connection.execute("insert into syncd.membership values ('club', 'c0030')")
    await stage.arrives(
        "a move to another list",
        lambda: (
            held("c0030").get("Lists") == ["club"]
            and member("person030@demo.example").get("lists") == {"Клуб"}
        ),
    )
    await pool.execute("update syncd.contact set email = 'moved@demo.example' where id = 'c0042'")
    emails = stage.sandbox.state.profiles.by_email
    await stage.arrives(
        "a new address", lambda: "moved@demo.example" in emails and member("moved@demo.example")
    )
    await pool.execute("delete from syncd.contact where id = 'c0050'")
    await stage.arrives(
        "a removed contact (no more mail, no lists)",
        lambda: (
            not mailable("c0050")
            and not held("c0050").get("Lists")
            and not member("person050@demo.example")
        ),
    )


async def _opt_out(stage: Stage) -> None:
    """A no that is said at the provider: it arrives here, and nothing switches mail on again."""
    stage.tell.chapter("Somebody unsubscribes with the link in a mail: the no is made at CleverTap")
    stage.sandbox.act("unsubscribe", email="person060@demo.example")
    question = "select count(*) from syncd.opt_out where email = $1"
    await stage.arrives_here("syncd has read it", question, "person060@demo.example")
    pool, mailable = stage.app.pool, stage.sandbox.state.mailable
    await pool.execute("update syncd.contact set city = 'Oslo' where id = 'c0060'")
    await stage.arrives(
        "a later change of that contact arrives", lambda: stage.held("c0060").get("City") == "Oslo"
    )
    out = not mailable("c0060")
    stage.tell.line("and the no still stands" if out else "BUT IT IS MAILED AGAIN", good=out)
    if not out:
        stage.result.differences.append("c0060: was subscribed again by accident")


async def _vanished(stage: Stage) -> None:
    """A no at a provider that tells of none: who said it is shown in its lists no more."""
    stage.tell.chapter("Somebody unsubscribes at RedCappi, which tells nobody: they just vanish")
    pool, email = stage.app.pool, "person061@demo.example"
    stage.lists.act("unsubscribe", email=email)
    await pool.execute("insert into syncd.command (kind, destination) values ('scan', $1)", LISTED)
    question = "select count(*) from syncd.opt_out where email = $1 and kind = 'vanished'"
    await stage.arrives_here("two whole readings of the list have missed them", question, email)
    await pool.execute("update syncd.contact set city = 'Oslo' where id = 'c0061'")
    await stage.arrives(
        "a later change of that contact arrives at CleverTap",
        lambda: stage.held("c0061").get("City") == "Oslo",
    )
    await _settled(stage)
    out = not stage.lists.state.mailable(email)
    says = "and nobody adds them back at RedCappi" if out else "BUT THEY ARE BACK AT REDCAPPI"
    stage.tell.line(says, good=out)
    if not out:
        stage.result.differences.append("c0061: was added again by accident")


async def _mass_change(stage: Stage) -> None:
    """The guard: a change of nearly everybody waits for a person."""
    stage.tell.chapter("A mistake in the source: everybody moves to the same city")
    pool = stage.app.pool
    await pool.execute("update syncd.contact set city = 'Nowhere' where id like 'c02%'")
    question = "select count(distinct destination_id) = 2 from syncd.plan where state = 'held'"
    await stage.arrives_here("the guard holds the changes, for both", question)
    reached = [
        one.id
        for one in data.people()
        if stage.held(one.id).get("City") == "Nowhere"
        or stage.member(one.email or "").get("city") == "Nowhere"
    ]
    stage.tell.line(f"{len(reached)} of them reached a provider", good=not reached)
    there = {
        NAME: lambda: stage.held("c0299").get("City") == "Nowhere",
        LISTED: lambda: stage.member("person299@demo.example").get("city") == "Nowhere",
    }
    for plan in await control.held_plans(pool):
        stage.tell.line(f"plan {plan.id} of {TITLES[plan.destination]} waits: {plan.reason}")
        await control.approve(pool, plan.id, plan.rows, "demo")
        await stage.arrives(
            f"plan {plan.id} is approved by a person, and sent", there[plan.destination]
        )


async def _settled(stage: Stage) -> None:
    """Wait until the daemon has nothing more to do."""
    question = """
        select not exists (select 1 from syncd.journal where state in ('due', 'sent'))
           and not exists (select 1 from syncd.feed where owes_full or pass_run is not null)"""
    await became_true(lambda: stage.app.pool.fetchval(question))


async def became_true(look: Callable[[], Awaitable[object]]) -> bool:
    """Look again and again, as long as patience lasts."""
    until = time.monotonic() + PATIENCE
    while not await look():
        if time.monotonic() > until:
            return False
        await asyncio.sleep(0.01)
    return True


async def _prove(stage: Stage) -> None:
    stage.tell.chapter("The proof: every contact here against every record there")
    await _settled(stage)
    result, pool = stage.result, stage.app.pool
    source = await data.source_side(pool, NAME)
    listed = data.listed(await data.source_side(pool, LISTED))
    state = stage.lists.snapshot()
    for name, box, here, there in (
        (NAME, stage.sandbox, source, data.provider_side(stage.sandbox.snapshot()["profiles"])),
        (LISTED, stage.lists, listed, data.members_side(state, listed)),
    ):
        rejected = await _rejected(pool, name)
        title, violations = TITLES[name], box.state.ledger.violations
        found = data.differences(here, there, rejected)
        result.differences += [f"{title}: {one}" for one in found]
        result.differences += [f"a breach of {title}'s rules: {one}" for one in violations]
        stage.tell.line(
            f"{len(here)} contacts here, {len(there)} at {title}, {len(rejected)} rejected on"
            " purpose",
            good=not found,
        )
    result.contacts = len(source)
    for one in result.differences:
        stage.tell.line(one, good=False)
    if not result.differences:
        stage.tell.line("both sides are equal")


# ── A server of its own ─────────────────────────────────────────────────────────────────────


@contextlib.contextmanager
def cluster() -> Iterator[str]:
    """A fresh PostgreSQL in a temporary folder; neither outlives the block.

    Readable by all, because as root the server runs under another user.
    """
    folder = Path(tempfile.mkdtemp(prefix="syncd-demo-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)  # after what the wheel does then
    folder.chmod(0o755)
    run = folder / "run"
    run.mkdir(mode=0o700)
    before = os.environ.get("XDG_RUNTIME_DIR")
    os.environ["XDG_RUNTIME_DIR"] = str(run)  # where the wheel would leave its lock file
    try:
        with db.server(f"{db.EMBEDDED}{folder / 'pg'}") as url:
            yield url
    finally:
        with db.undisturbed():
            if before is None:
                del os.environ["XDG_RUNTIME_DIR"]
            else:
                os.environ["XDG_RUNTIME_DIR"] = before
            shutil.rmtree(folder, ignore_errors=True)
