"""RedCappi through whole commands: what `config/` says works as it stands."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from cmdline import environment, secret, syncd
from people import fill

from syncd.sandbox import Handle, serve


@pytest.fixture
async def sandbox() -> AsyncIterator[Handle]:
    async with serve("redcappi") as handle:
        yield handle
        state = handle.snapshot()
        assert (state["violations"], state["duplicates"], state["repeated_adds"]) == ([], [], [])


async def test_the_annotated_destination_works_as_it_stands(
    pool: Any, database: str, sandbox: Handle
) -> None:
    """But for the port, which must be free here, and for politeness."""
    await fill(pool, 20)
    path = Path(__file__).parent.parent / "config" / "redcappi.sql"
    text = path.read_text("utf-8").replace("http://127.0.0.1:8804", sandbox.url)
    await pool.execute(text)
    await pool.execute(text)
    await pool.execute("update syncd.destination set per_second = 1000")

    ended = await syncd("backfill", env=environment(database, **secret(sandbox, "redcappi")))

    done = ended.json["destinations"]["redcappi"]
    assert (ended.code, done["created"], done["absent"]) == (0, 10, 10), ended.err
    lists = {one["name"]: one["contacts"] for one in sandbox.snapshot()["lists"].values()}
    assert {name: len(there) for name, there in lists.items()} == {"Newsletter": 10, "VIP": 2}
