"""Scans as an operator meets them: backfill, daemon, command, status. Whole app, real HTTP."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import orjson
import pytest
from acme_lists import LISTS, Reader, Shelves, reader, serving
from test_reading import crowd, emails, people

from syncd import ask, control
from syncd import flow as flows
from syncd.app import App, opened
from syncd.backfill import Backfill
from syncd.db import Pool
from syncd.meter import purpose
from syncd.model import Can, Learned, Page, Request, Seen
from syncd.serve import Service
from syncd.settings import Settings
from syncd.status import status
from syncd.status_words import lines

SECRETS = {"SYNCD_SECRET_ACME": '{"key": "one"}'}


@pytest.fixture(autouse=True)
def _prompt(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flows, "SCAN_POLL", 0.02)


@asynccontextmanager
async def company(
    database: str, pool: Pool, monkeypatch: pytest.MonkeyPatch, kind: Any = None, **columns: Any
) -> AsyncIterator[tuple[App, Shelves]]:
    """One destination `acme` at Acme Lists, never filled."""
    monkeypatch.setattr("syncd.providers.providers", lambda: {"acme": kind or reader()})
    async with serving() as shelves:
        values = {"guard_percent": 100.0, **columns}
        names = "".join(f", {name}" for name in values)
        places = "".join(f", ${n}" for n in range(2, len(values) + 2))
        await pool.execute(
            f"insert into syncd.destination (name, provider, credential, options{names})"
            f" values ('acme', 'acme', 'acme', $1{places})",
            orjson.dumps({"base_url": shelves.base}).decode(), *values.values(),
        )  # fmt: skip
        settings = Settings(database_url=database, pool_size=6, control_poll_seconds=0.05)
        async with opened(settings, SECRETS) as app:
            yield app, shelves
        assert not shelves.breaches, shelves.breaches


@asynccontextmanager
async def daemon(app: App) -> AsyncIterator[None]:
    stop = asyncio.Event()
    async with app.worker() as worker, asyncio.TaskGroup() as group:
        group.create_task(Service(app, worker, stop).run())
        yield
        stop.set()


async def until(question: Callable[[], Any], seconds: float = 120) -> None:
    async with asyncio.timeout(seconds):
        while not (answer := question()) or (asyncio.iscoroutine(answer) and not await answer):
            await asyncio.sleep(0.02)


async def fill(app: App) -> dict[str, Any]:
    backfill = Backfill(app, await app.destinations())
    await backfill.run()
    summary: dict[str, Any] = backfill.summary()["destinations"]["acme"]
    return summary


async def test_a_backfill_matches_what_is_there_and_ends_in_step(
    database: str, pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with company(database, pool, monkeypatch) as (app, shelves):
        shelves.doubles = True
        await people(pool, news=crowd(20), shop=crowd(5))
        shelves.enter(shelves.make_list("NEWS"), *emails(crowd(10)))
        said = await fill(app)
        assert said["in_step"], said
        assert (said["created"], said["updated"]) == (10, 10)
        assert shelves.held() == {"NEWS": emails(crowd(20)), "SHOP": emails(crowd(5))}
        assert len(shelves.members) == 20

        await pool.execute("update syncd.contact set first_name = 'B'")
        said = await fill(app)
        assert (said["in_step"], said["updated"]) == (True, 20)
        assert {m.fields["first"] for m in shelves.members.values()} == {"B"}


async def test_the_daemon_scans_by_its_schedule_and_on_command(
    database: str, pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with company(database, pool, monkeypatch) as (app, shelves):
        await people(pool, news=crowd(6))
        async with daemon(app):
            await until(lambda: shelves.held() == {"NEWS": emails(crowd(6))})
            shelves.leave("p001@x.test")
            read = (await ask.scan(app, ["acme"], 20))["acme"]
            assert (read.done, read.scans) == (True, 2)
            assert await pool.fetchval("select contact_id from syncd.opt_out") == "p001"

            shelves.leave("p002@x.test")
            await pool.execute("update syncd.destination set full_schedule = '1s'")
            await until(lambda: pool.fetchval("select count(*) > 1 from syncd.opt_out"), seconds=20)


async def test_an_operator_sees_drift_and_decides_what_vanished(
    database: str, pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with company(
        database, pool, monkeypatch, guard_percent=10.0, guard_floor=2
    ) as (app, shelves):  # fmt: skip
        await people(pool, news=crowd(10))
        await fill(app)
        shelves.enter(next(iter(shelves.lists)), "stranger@x.test")
        read = (await ask.scan(app, ["acme"], 20))["acme"]
        assert (read.done, read.scans) == (True, 1)
        shelves.leave(*emails(crowd(4)))
        await ask.scan(app, ["acme"], 20)

        found = await status(app)
        one = found.destinations["acme"]
        assert one.drift is not None
        assert (one.drift.seen, one.drift.extra, one.drift.missing) == (7, 1, 4)
        assert not one.in_step
        [held] = one.held
        assert (held.kind, held.rows) == ("vanish", 4)
        assert any("4 contacts gone there" in why and held.approve in why for why in one.why)
        text = dict(lines(one, found.at))["scanned"]
        assert "1 not ours, 4 of ours missing" in text

        assert await control.approve(pool, held.id, held.rows, "eve") == 4
        await fill(app)
        assert (await status(app)).destinations["acme"].in_step


async def test_reading_draws_from_its_share_of_the_meters(
    database: str, pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: set[tuple[str, str]] = set()

    class Told(Reader):
        async def _send(self, method: str, target: str, said: Any = None) -> Any:
            drawn.add((f"{method} {target.split('?')[0].split('/')[-1]}", purpose.get()))
            return await super()._send(method, target, said)

    kind = type("Told", (Told,), {"traits": Reader.TRAITS})
    async with company(database, pool, monkeypatch, kind) as (app, _):
        await people(pool, news="ann")
        await fill(app)
        await ask.scan(app, ["acme"], 20)
    assert {what for call, what in drawn if call == "GET members"} == {"read"}
    assert {what for call, what in drawn if call == "POST members"} == {"write"}


async def test_what_is_found_out_is_kept_until_the_credential_changes(
    database: str, pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a page, by a push, by `learn`; the first before `learn` was ever called."""
    given: list[dict[str, Any]] = []

    class Learner(Reader):
        def __init__(self, wire: Any, options: Any, findings: Any) -> None:
            super().__init__(wire, options, findings)
            given.append(dict(findings))
            self.news: dict[str, Any] = {}

        async def learn(self) -> Learned | None:
            return Learned({"plan": "small"}, "account 7")

        async def push(self, changes: Any) -> Any:
            self.news = {"delete_scope": "list"}
            return await super().push(changes)

        def found_out(self) -> dict[str, Any]:
            found, self.news = self.news, {}
            return found

    kind = type("Learner", (Learner,), {"traits": reader(LISTS | Can.LEARNS).traits})
    async with company(database, pool, monkeypatch, kind) as (app, shelves):
        await people(pool, news="ann")
        shelves.enter(shelves.make_list("NEWS"), "ann@x.test")
        await fill(app)
        await fill(app)
        assert given[-1] == {"unit": "rows", "plan": "small", "delete_scope": "list"}
        row = await pool.fetchrow("select identity, findings from syncd.account")
        assert row is not None
        assert row["identity"] == "account 7"


async def test_an_account_can_be_read_as_a_whole(
    database: str, pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A provider whose records tell our ids, their lists and who said no."""

    class Whole(Reader):
        async def scan(self, list_id: str | None, cursor: Any) -> AsyncIterator[Page]:
            assert list_id is None
            answer = orjson.loads((await self._wire.send(Request("GET", "/account"))).body)
            yield Page([seen(row) for row in answer], {"end": True})

        @classmethod
        def remembered(cls, remote: Any, list_id: str | None, seen: Seen) -> Any:
            ids = {**(remote or {}).get("ids", {}), **dict.fromkeys(seen.lists, seen.remote_id)}
            return {"ids": ids}

    traits = reader(scans="account").traits
    kind = type("Whole", (Whole,), {"traits": traits})
    async with company(database, pool, monkeypatch, kind) as (app, shelves):
        await people(pool, news=crowd(6))
        shelves.enter(shelves.make_list("NEWS"), *emails(crowd(3)))
        assert (await fill(app))["in_step"]
        assert len(shelves.members) == 6
        assert shelves.at("p001@x.test").fields == {"first": "A"}  # type: ignore[union-attr]

        shelves.noes.add("p002@x.test")
        shelves.leave("p003@x.test")
        assert (await ask.scan(app, ["acme"], 20))["acme"].scans == 2
        rows = await pool.fetch("select contact_id, kind from syncd.opt_out order by 1")
        assert [tuple(row) for row in rows] == [("p002", "unsubscribed"), ("p003", "vanished")]


def seen(row: Any) -> Seen:
    return Seen(row["id"], row["email"], row["subscribed"], None, row["lists"])


async def test_after_a_restore_the_account_is_read_again(
    database: str, pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was made after the backup is there, and unknown here: matched, not made twice."""
    async with company(database, pool, monkeypatch) as (app, shelves):
        shelves.doubles = True
        await people(pool, news=crowd(6))
        await fill(app)
        await pool.execute("delete from syncd.mirror where contact_id > 'p003'")
        await pool.execute("update syncd.feed set system_identifier = 1, timeline = 1")
        async with daemon(app):
            await until(
                lambda: pool.fetchval(
                    "select count(*) = 6 from syncd.mirror where state = 'here'"
                    " and digest is not null"
                )
            )
        assert shelves.held() == {"NEWS": emails(crowd(6))}
        assert len(shelves.members) == 6
