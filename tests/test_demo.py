"""`syncd demo` as a newcomer runs it; and its proof must be able to fail."""

from __future__ import annotations

import asyncio
import shutil
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from cmdline import done, environment, start, syncd

from syncd.demo.proof import Side, differences, side
from syncd.demo.shelves import SHELVES, Shelf
from syncd.providers import providers
from syncd.sandbox import Handle, serve

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
    assert set(ended.json["destinations"]) == set(providers())
    for told in ended.json["destinations"].values():
        assert set(told) == KEYS
        assert told["in_step"]
    assert left_behind(folder) == []


async def test_ctrl_c_removes_everything_too(folder: Path) -> None:
    process = await start("demo", "--keep", env=environment(TMPDIR=str(folder)), cwd=folder)
    told = ""
    while "_state" not in told:
        line = await asyncio.wait_for(process.stdout.readline(), 120)
        assert line, told
        told += line.decode()
    process.send_signal(signal.SIGINT)
    ended = await done(process)

    assert ended.code == 0, ended.err
    assert "both sides are equal, at all five" in told
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


def ann(**changes: Any) -> Side:
    made = side("Ann@x.test", {"city": "Łódź", "phone": None}, ["news"], mailable=True)
    return made._replace(**changes)


@pytest.mark.parametrize(
    ("there", "says"),
    [
        ({}, "is not there"),
        ({"a": ann(email="bob@x.test")}, "is Side"),
        ({"a": ann(fields={})}, "is Side"),
        ({"a": ann(lists=[])}, "is Side"),
        ({"a": ann(mailable=False)}, "is Side"),
        ({"a": ann(), "x0001": ann()}, "is there, though it cannot be sent"),
    ],
)
def test_every_difference_is_found(there: dict[str, Side], says: str) -> None:
    source = {"a": ann(), **({"x0001": ann()} if "x0001" in there else {})}
    [found] = differences(source, there, {"x0001": "meant"})

    assert says in found


def test_who_is_mailed_and_belongs_to_nobody_is_found() -> None:
    assert differences({"a": ann()}, {"a": ann()}, {}, ["ann@x.test", "eve@x.test"]) == [
        "eve@x.test: is nobody's address here, and is mailed there"
    ]


def test_who_said_no_must_not_be_mailed_and_may_be_anything_else() -> None:
    no = ann(mailable=False)

    assert differences({"a": no}, {"a": ann()}, {}) != []
    assert differences({"a": no}, {"a": no._replace(lists=[], fields={})}, {}) == []
    assert differences({"a": no}, {}, {}) == []


def test_a_refusal_nobody_meant_is_a_difference_and_the_meant_ones_are_not() -> None:
    refused = {"x0001": "Email is not an address", "a": "no"}

    assert differences({}, {}, refused) == ["a: rejected, no"]
    assert differences({"a": ann()}, {"a": ann()}, {}) == []


@pytest.mark.parametrize("shelf", SHELVES, ids=lambda one: one.name)
async def test_a_record_that_only_the_provider_knows_is_seen(shelf: Shelf) -> None:
    """What somebody adds there, with our id where it is kept, in a list where that is all."""
    async with serve(shelf.name) as box:
        assert (shelf.one(box, "a", "ann@x.test"), shelf.mailed(box)) == (None, set())
        match shelf.name:
            case "clevertap":
                records = [
                    {"identity": "a", "type": "profile", "profileData": {"Email": "ann@x.test"}}
                ]
                async with aiohttp.ClientSession(headers=headers(box)) as http:
                    await http.post(f"{box.url}/1/upload", json={"d": records})
            case "copernica":
                box.act("add_field", name="sync_id")
                box.act("add", email="Ann@x.test", fields={"sync_id": "a", "newsletter": "yes"})
            case "clevercampaign":
                box.act("add", email="Ann@x.test")
            case _:
                number = box.act("add_list", name="Newsletter")["list"]
                box.act("add", email="Ann@x.test", list=number)

        found = shelf.one(box, "a", "ann@x.test")

        assert found is not None
        assert (found.email, found.mailable) == ("ann@x.test", True)
        assert shelf.mailed(box) == {"ann@x.test"}
        assert shelf.one(box, "x0001", "ann@x.test") is None


def headers(box: Handle) -> dict[str, str]:
    demo = box.state.demo
    return {
        "X-CleverTap-Account-Id": demo["account_id"],
        "X-CleverTap-Passcode": demo["passcode"],
        "Content-Type": "application/json",
    }
