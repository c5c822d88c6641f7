"""Several daemons over one database: on hosts of their own, killed, restarted, cut off."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import asyncpg
import hosts
import pytest
import service
from service import Process, Service, until

from syncd.sandbox import serve
from syncd.settings import Settings

DEFAULTS = Settings()
PACE = 0.05  # seconds between two changes


@pytest.fixture
async def syncd(cluster: str, template: str) -> AsyncIterator[Service]:
    async with service.served(cluster, template) as made:
        await service.fill(made.db, 60)
        yield made


async def _change(syncd: Service, company: str) -> None:
    await syncd.db.execute("update syncd.contact set company = $1", company)


def _arrived(syncd: Service, company: str) -> int:
    profiles = syncd.boxes["shop"].state.profiles.all
    return sum(one.properties.get("Company") == company for one in profiles)


# ── Killed ──────────────────────────────────────────────────────────────────────────────────


async def test_what_a_killed_daemon_had_in_flight_is_taken_over_within_the_lease(
    syncd: Service,
) -> None:
    """With the settings as they come: what it held stays held for the lease and a look, no more."""
    box = await syncd.sandbox()
    await syncd.destination("shop", box, guard_floor=100_000)
    syncd.settings = {
        "LEASE_SECONDS": str(DEFAULTS.lease_seconds),
        "HEARTBEAT_SECONDS": str(DEFAULTS.heartbeat_seconds),
        "REQUEST_TIMEOUT_SECONDS": str(DEFAULTS.request_timeout_seconds),
    }
    daemons = [await syncd.daemon(), await syncd.daemon()]
    await syncd.in_step()
    box.set_faults(latency_ms=[4000, 4000])
    await _change(syncd, "Killed")

    async def holder() -> Any:
        return await syncd.db.fetchval(
            "select w.pid from syncd.journal j join syncd.worker w on w.id = j.claimed_by"
            " where j.state = 'sent' limit 1"
        )

    pid = await until(holder, "claimed")
    next(one for one in daemons if one.pid == pid).kill()
    killed = time.monotonic()
    box.set_faults()
    dead = "select count(*) from syncd.worker where pid = $1 and alive_until > now()"
    lease = await syncd.db.fetchval(
        "select extract(epoch from alive_until - now())::float8 from syncd.worker where pid = $1",
        pid,
    )
    assert lease <= DEFAULTS.lease_seconds
    await syncd.in_step()
    print(f"taken over and delivered {time.monotonic() - killed:.1f} s after the kill")
    assert await syncd.db.fetchval(dead, pid) == 0
    assert _arrived(syncd, "Killed") == 60
    assert DEFAULTS.lease_seconds + DEFAULTS.heartbeat_seconds <= 10
    await syncd.same("shop")


# ── Restarted ───────────────────────────────────────────────────────────────────────────────


async def test_a_rolling_restart_makes_no_pause(syncd: Service) -> None:
    """One after the other is asked to stop and replaced, while changes keep coming."""
    box = await syncd.sandbox()
    await syncd.destination("shop", box, guard_floor=100_000)
    daemons = [await syncd.daemon(), await syncd.daemon()]
    await syncd.in_step()
    over = asyncio.Event()
    waits: list[tuple[float, float]] = []
    writing = asyncio.create_task(_follow(syncd, over, waits))
    await until(lambda: len(waits) > 40, "a calm phase")
    calm, restarted = max(wait for _, wait in waits), time.monotonic()
    for old in daemons:
        assert await old.terminated() == 0
        await syncd.daemon()
    seen = len(waits)
    await until(lambda: len(waits) > seen + 10 or writing.done(), "still flowing")
    over.set()
    await writing

    longest = max(wait for at, wait in waits if at >= restarted)
    print(f"from commit to arrival at most {calm:.2f} s before, {longest:.2f} s while restarting")
    assert longest < max(float(service.QUICK["LEASE_SECONDS"]), 4 * calm), "waited for a lease"
    await syncd.in_step()
    await syncd.same("shop")


async def _follow(syncd: Service, over: asyncio.Event, waits: list[tuple[float, float]]) -> None:
    """Change one contact after the other; note when, and how long it took to arrive."""
    number, writer = 0, await asyncpg.connect(syncd.url)
    profiles = syncd.boxes["shop"].state.profiles
    while not over.is_set():
        number += 1
        key, company = f"c{number % 60 + 1:05d}", f"Rolled {number}"
        await writer.execute("update syncd.contact set company = $2 where id = $1", key, company)
        at = time.monotonic()

        def there(key: str = key, company: str = company) -> bool:
            found = profiles.by_identity.get(key)
            return found is not None and found.properties.get("Company") == company

        await until(there, f"{company} arrives", every=0.01)
        waits.append((at, time.monotonic() - at))
        await asyncio.sleep(PACE)
    await writer.close()


# ── Cut off ─────────────────────────────────────────────────────────────────────────────────


async def test_hosts_that_are_cut_off_are_done_without_and_come_back(
    syncd: Service,
) -> None:
    """Two hosts with addresses of their own: one loses the database, the other the provider."""
    (folder,) = parse_qs(urlsplit(syncd.url).query)["host"]
    (path,) = (str(one) for one in Path(folder).glob(".s.PGSQL.*[0-9]"))
    with hosts.network() as net:
        port = await syncd.stack.enter_async_context(hosts.relay(net.gateway("database"), path))
        box = await syncd.stack.enter_async_context(serve("clevertap", 0, net.gateway("provider")))
        await syncd.destination("shop", box, options={"allow_http": True}, guard_floor=100_000)
        one, other = net.host(), net.host()
        name = await syncd.db.fetchval("select current_database()")
        syncd.settings = {
            **service.MORTAL,
            "DATABASE_URL": f"postgresql://postgres@{net.gateway('database')}:{port}/{name}",
        }
        first, second = await _on(syncd, one), await _on(syncd, other)
        await syncd.in_step()

        net.cut(one, "database")
        await until(lambda: first.told("lost the database"), "the first has noticed")
        await _delivered(syncd, "Without the database")
        assert first.alive
        net.mend(one, "database")
        await until(lambda: first.told("the database is back"), "the first is back")

        net.cut(other, "provider")
        await _delivered(syncd, "Without the provider")
        await _change(syncd, "Again")
        await until(lambda: _arrived(syncd, "Again") == 60, "the first sends all")
        assert (await syncd.row("shop"))["halted"] is None
        net.mend(other, "provider")
        await syncd.in_step()
        await syncd.same("shop")
        assert await first.terminated() == 0
        await _delivered(syncd, "By the second alone")
        await syncd.in_step()
        await syncd.same("shop")
        assert await second.terminated() == 0


async def _on(syncd: Service, host: hosts.Host) -> Process:
    syncd.under = [*host.under, sys.executable]
    return await syncd.daemon()


async def _delivered(syncd: Service, company: str) -> None:
    await _change(syncd, company)
    began = time.monotonic()
    await until(lambda: _arrived(syncd, company) == 60, f"{company}: delivered")
    print(f"{company}: delivered within {time.monotonic() - began:.1f} s")
