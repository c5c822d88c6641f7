"""`syncd demo` as a newcomer runs it; and its proof must be able to fail."""

from __future__ import annotations

import asyncio
import shutil
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from cmdline import done, environment, start, syncd

from syncd import demo_data as data

KEYS = {
    "planned", "created", "updated", "withdrawn", "absent", "rejected", "held", "pending",
    "requests", "seconds", "in_step",
}  # fmt: skip


def left_behind(folder: Path) -> list[str]:
    """Temporary files, and processes that work in the folder."""
    running = [
        path.parent.name
        for path in Path("/proc").glob("[0-9]*/cmdline")
        if str(folder).encode() in _read(path)
    ]
    return [*running, *(one.name for one in folder.iterdir())]


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


@pytest.fixture
def folder() -> Iterator[Path]:
    """Not pytest's own, which the server's user may not enter, and whose name is long."""
    made = Path(tempfile.mkdtemp(prefix="syncd-d-"))
    made.chmod(0o755)
    yield made
    shutil.rmtree(made)


async def test_it_proves_both_sides_equal_and_leaves_nothing_behind(folder: Path) -> None:
    ended = await syncd("demo", "--json", env=environment(TMPDIR=str(folder)), cwd=folder)

    assert ended.code == 0, ended.err
    assert len(ended.out.splitlines()) == 1
    assert {"destinations", "contacts", "equal"} == set(ended.json)
    assert (ended.json["contacts"], ended.json["equal"]) == (303, True)
    assert set(ended.json["destinations"]) == {"clevertap", "redcappi"}
    for told in ended.json["destinations"].values():
        assert set(told) == KEYS
        assert told["in_step"]
    assert left_behind(folder) == []


async def test_ctrl_c_removes_everything_too(folder: Path) -> None:
    process = await start("demo", "--keep", env=environment(TMPDIR=str(folder)), cwd=folder)
    told = ""
    while "_state" not in told:
        line = await asyncio.wait_for(process.stdout.readline(), 90)
        assert line, told
        told += line.decode()
    process.send_signal(signal.SIGINT)
    ended = await done(process)

    assert ended.code == 0, ended.err
    assert "both sides are equal" in told
    assert "✗" not in told
    assert "SYNCD_DATABASE_URL" in told
    assert left_behind(folder) == []


async def test_interrupted_early_it_leaves_nothing_behind(folder: Path) -> None:
    process = await start("demo", env=environment(TMPDIR=str(folder)), cwd=folder)
    while not list(folder.glob("syncd-demo-*/pg/*")):
        await asyncio.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    ended = await done(process)

    assert ended.code == 143
    assert left_behind(folder) == []


# ── The proof ───────────────────────────────────────────────────────────────────────────────


def side(**changes: object) -> data.Side:
    made = data.Side("ann@x.test", {"City": "Łódź"}, ["news"], True)
    return made._replace(**changes)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("there", "says"),
    [
        ({}, "is not there"),
        ({"a": side(email="bob@x.test")}, "is Side"),
        ({"a": side(properties={})}, "is Side"),
        ({"a": side(lists=[])}, "is Side"),
        ({"a": side(mailable=False)}, "is Side"),
        ({"a": side(), "b": side()}, "b: has left the source, and is still mailed there"),
        ({"a": side(), "x0001": side()}, "is still mailed there"),
    ],
)
def test_every_difference_is_found(there: dict[str, data.Side], says: str) -> None:
    [found] = data.differences({"a": side()}, there, {})

    assert says in found


def test_a_refusal_nobody_meant_is_a_difference_and_the_meant_ones_are_not() -> None:
    refused = {"x0001": "Email is not an address", "a": "no"}

    assert data.differences({}, {}, refused) == ["a: rejected, no"]
    assert data.differences({"a": side()}, {"a": side()}, {}) == []
    silent = side(mailable=False)
    assert data.differences({"a": silent}, {}, {}) == []
    assert data.differences({}, {"b": side(mailable=False, lists=[])}, {}) == []
