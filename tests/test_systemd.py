"""The daemon as systemd's child: a real socket, a real process, what it says and when."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import asyncpg
import pytest
import service
from service import QUICK, Process, Service, until

from syncd import log


class Manager:
    """The socket of a service manager, and what came in so far: one dict a datagram."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._heard: list[dict[str, str]] = []
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.setblocking(False)
        self._socket.bind("\0" + name[1:] if name.startswith("@") else name)

    @property
    def heard(self) -> list[dict[str, str]]:
        with contextlib.suppress(BlockingIOError):
            while True:
                lines = self._socket.recv(65_536).decode().splitlines()
                self._heard.append(dict(line.split("=", 1) for line in lines))
        return self._heard

    def told(self, name: str) -> list[str]:
        return [one[name] for one in self.heard if name in one]

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def manager() -> Iterator[Manager]:
    with tempfile.TemporaryDirectory() as folder:
        made = Manager(f"{folder}/notify")
        yield made
        made.close()


@pytest.fixture
async def syncd(cluster: str, template: str, manager: Manager) -> AsyncIterator[Service]:
    async with service.served(cluster, template) as made:
        await service.fill(made.db, 40)
        made.environ["NOTIFY_SOCKET"] = manager.name
        yield made


# ── Starting, serving, stopping ─────────────────────────────────────────────────────────────


async def test_it_is_ready_once_it_serves_and_says_what_it_does(
    syncd: Service, manager: Manager
) -> None:
    syncd.know("shop")
    daemon = await syncd.daemon()
    await until(lambda: manager.told("READY"), "ready")
    await syncd.destination("shop", await syncd.sandbox())
    await syncd.in_step()
    await until(lambda: "1 destination; 40 contacts settled" in manager.told("STATUS")[-1], "says")
    await syncd.set("shop", paused=True)
    await until(lambda: "shop: paused" in manager.told("STATUS")[-1], "says that it is paused")

    daemon.tell(signal.SIGHUP)
    await until(lambda: len(manager.told("READY")) == 2, "ready again")
    (at,) = manager.told("MONOTONIC_USEC")
    assert int(at) > 0
    order = [name for one in manager.heard for name in ("READY", "RELOADING") if name in one]
    assert order == ["READY", "RELOADING", "READY"]

    assert manager.told("STOPPING") == []
    assert await daemon.terminated() == 0
    assert manager.told("STOPPING") == ["1"]
    assert manager.heard[-1]["STATUS"] == "stopping"
    assert manager.told("WATCHDOG") == []  # systemd did not ask for it


async def test_an_abstract_socket_will_do(syncd: Service) -> None:
    abstract = Manager(f"@syncd-test-{os.getpid()}")
    syncd.environ["NOTIFY_SOCKET"] = abstract.name
    await syncd.daemon()
    await until(lambda: abstract.told("READY"), "ready")
    abstract.close()


async def test_without_the_schema_it_is_never_ready(
    empty_database: str, manager: Manager, tmp_path: Path
) -> None:
    environ = {**os.environ, "SYNCD_DATABASE_URL": empty_database, "NOTIFY_SOCKET": manager.name}
    daemon = Process(["run"], environ | {f"SYNCD_{k}": v for k, v in QUICK.items()}, tmp_path)

    assert await daemon.ended() == 69
    assert manager.told("READY") == []


async def test_while_it_drains_it_asks_for_time(syncd: Service, manager: Manager) -> None:
    """With its watchdog fed meanwhile: a long request is no stall."""
    syncd.environ["WATCHDOG_USEC"] = "4000000"
    box = await syncd.sandbox()
    await syncd.destination("shop", box)
    daemon = await syncd.daemon()
    await syncd.in_step()
    box.set_faults(latency_ms=[3000, 3000])
    before = box.state.ledger.requests
    await syncd.db.execute("update syncd.contact set company = 'Drained'")
    await until(lambda: box.state.ledger.requests > before, "in flight")

    assert await daemon.terminated() == 0
    stopping = [one for one in manager.heard if one.get("STATUS") == "stopping"]
    assert stopping[0]["STOPPING"] == "1"
    asked = [int(one["EXTEND_TIMEOUT_USEC"]) for one in stopping]
    assert len(asked) >= 3
    assert min(asked) >= 10_000_000
    assert any("WATCHDOG" in one for one in stopping)


# ── The watchdog ────────────────────────────────────────────────────────────────────────────


async def test_a_lane_that_is_stalled_stops_the_watchdog(syncd: Service, manager: Manager) -> None:
    """The process lives, its heart beats; but what is due cannot be claimed."""
    syncd.environ["WATCHDOG_USEC"] = "4000000"
    await syncd.destination("shop", await syncd.sandbox())
    daemon = await syncd.daemon()
    await syncd.in_step()
    await until(lambda: len(manager.told("WATCHDOG")) > 2, "fed")

    other = await asyncpg.connect(syncd.url)
    async with other.transaction():
        await other.execute("lock table syncd.journal in access exclusive mode")
        await until(lambda: daemon.told("work has stalled, the watchdog is not fed"), "stalled")
        known = len(manager.heard)
        await until(lambda: len(manager.heard) > known + 4, "says that it is stalled")
        assert not any("WATCHDOG" in one for one in manager.heard[known:])
        assert "shop: stalled" in manager.told("STATUS")[-1]
        assert daemon.alive
    await other.close()

    fed = len(manager.told("WATCHDOG"))
    await until(lambda: len(manager.told("WATCHDOG")) > fed, "fed again")
    assert daemon.told("work moves again")


async def test_a_provider_that_is_away_is_no_stall(syncd: Service, manager: Manager) -> None:
    syncd.environ["WATCHDOG_USEC"] = "2000000"
    box = await syncd.sandbox()
    await syncd.destination("shop", box)
    daemon = await syncd.daemon()
    await syncd.in_step()
    box.set_faults(error_rate=1.0)
    await syncd.db.execute("update syncd.contact set company = 'Away'")
    await until(lambda: "shop: provider is not available" in manager.told("STATUS")[-1], "open")

    fed = len(manager.told("WATCHDOG"))
    await until(lambda: len(manager.told("WATCHDOG")) > fed + 8, "fed for twice its time")
    assert daemon.told("work has stalled, the watchdog is not fed") == []


# ── The journal ─────────────────────────────────────────────────────────────────────────────


def test_lines_for_the_journal_begin_with_their_level(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (tmp_path / "journal").open("w+") as stream:
        status = os.fstat(stream.fileno())
        monkeypatch.setenv("JOURNAL_STREAM", f"{status.st_dev}:{status.st_ino}")
        log.configure("debug", "console", stream)
        for level in ("debug", "info", "warning", "error", "critical"):
            getattr(logging.getLogger("syncd.test"), level)("said\nmore")
        stream.seek(0)
        begins = [line[:3] for line in stream.read().splitlines()]
        log.configure("info", "json", io.StringIO())  # a stream without a number

    assert [begins.count(f"<{n}>") for n in (7, 6, 4, 3, 2)] == [2, 2, 2, 2, 2]


@pytest.mark.parametrize("is_journal", [True, False])
def test_what_ends_a_command_is_an_error_to_the_journal(tmp_path: Path, is_journal: bool) -> None:
    with (tmp_path / "err").open("w") as err:
        status = os.fstat(err.fileno())
        number = status.st_ino if is_journal else status.st_ino + 1
        subprocess.run(
            [sys.executable, "-m", "syncd", "run"], stderr=err, timeout=180, check=False,
            env={**os.environ, "SYNCD_LOG_LEVEL": "loud",
                 "JOURNAL_STREAM": f"{status.st_dev}:{number}"},
        )  # fmt: skip
    (line,) = (tmp_path / "err").read_text().splitlines()

    assert line.startswith("<3>syncd: " if is_journal else "syncd: ")
