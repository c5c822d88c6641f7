"""What README's "Scale" says can be done once a table has grown."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import service
from cmdline import environment
from cmdline import syncd as run
from service import Service

from syncd import db
from syncd.migrate import migrate

PARTITION = Path(__file__).parents[1] / "config" / "partition.sql"
ROWS = "select to_jsonb(m) from syncd.mirror m order by destination_id, contact_id"
CONSENT = "select to_jsonb(c) from syncd.consent c order by contact_id, list_id"


@pytest.fixture
async def syncd(cluster: str, template: str) -> AsyncIterator[Service]:
    async with service.served(cluster, template) as made:
        await service.fill(made.db, 60)
        yield made


async def test_the_mirror_is_partitioned_by_contact_and_nothing_else_notices(
    syncd: Service,
) -> None:
    await syncd.destination("shop", await syncd.sandbox(), guard_floor=1000)
    daemon = await syncd.daemon()
    await syncd.in_step()
    assert await daemon.terminated() == 0
    sent = syncd.boxes["shop"].state.ledger.by_path
    uploads = sent["/1/upload"]
    before = [await syncd.db.fetch(one) for one in (ROWS, CONSENT)]

    await syncd.db.execute(PARTITION.read_text("utf-8"))

    assert [await syncd.db.fetch(one) for one in (ROWS, CONSENT)] == before
    parts = await syncd.db.fetch("select tableoid from syncd.mirror group by 1")
    assert len(parts) > 8
    assert await syncd.db.fetchval("select to_regclass('syncd.mirror_in_one')") is None
    async with db.pool(syncd.url, 2) as pool, pool.acquire() as connection:
        assert await migrate(connection) == []
    daemon = await syncd.daemon()
    assert (await syncd.command("full", "shop"))[0] == "done"
    await syncd.in_step()
    assert sent["/1/upload"] == uploads, "all is in step, as it was before"
    changes = await service.changing(syncd, random.Random(5))
    for _ in range(60):
        await changes.step()
    await syncd.in_step()
    await syncd.same("shop")
    syncd.boxes["shop"].act("unsubscribe", email="user8@example1.org")
    assert (await syncd.command("scan", "shop"))[0] == "done"
    await syncd.db.execute("delete from syncd.contact where id < 'c00007'")
    assert (await syncd.command("full", "shop"))[0] == "done"
    await syncd.in_step()
    await syncd.same("shop")
    for words in (("status",), ("check",), ("plan",), ("explain", "user9@example2.org")):
        ended = await run(*words, "--json", env=environment(syncd.url, **syncd.environ))
        assert ended.code == 0, ended
    assert daemon.alive
