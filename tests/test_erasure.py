"""A person who asks to be forgotten: out of what is desired at once, erased, and proven."""

from __future__ import annotations

import orjson

from syncd import db
from syncd.app import opened
from syncd.sandbox import serve
from syncd.settings import Settings

SECRET = {"SYNCD_SECRET_CT": '{"account_id":"TEST-0A0-000-0A0Z","passcode":"JDG-PAS-CODE"}'}


async def test_an_erased_contact_is_deleted_there_and_never_created_again(
    database: str, pool: db.Pool
) -> None:
    """Also while the source still has it; the proof says when, and until when to wait."""
    await pool.execute(
        "insert into syncd.contact (id, email) values ('1', 'ann@x.test'), ('2', 'bob@x.test')"
    )
    async with serve("clevertap") as box:
        await pool.execute(
            "insert into syncd.destination (name, provider, options)"
            " values ('ct', 'clevertap', $1)",
            orjson.dumps({"base_url": box.url}).decode(),
        )
        async with opened(Settings(database_url=database), SECRET) as app:
            rows = await app.destinations()
            async with app.worker() as worker, app.assembled(rows[0], rows, worker) as made:
                flow = made.flow
                assert flow is not None
                assert await flow.prepare()
                await flow.backfill()
                await pool.execute("insert into syncd.erasure (contact_id) values ('1')")
                await flow.look()
                await flow.pump(until_empty=True)
                await flow.erasures.read_back()
                await flow.backfill()  # a full pass must not bring the person back

        held = box.snapshot()
        proof = orjson.loads(await pool.fetchval("select proof from syncd.erasure"))["ct"]
        assert sorted(held["profiles"]) == ["2"]
        assert "ann@x.test" in held["address_marks"]
        assert held["violations_count"] == 0
        assert {"sent_at", "waiting_until", "contact_id"} <= proof.keys()
        assert not await pool.fetchval(
            "select exists (select from syncd.mirror where email = 'ann@x.test')"
        )
