"""Constant Contact through whole commands: jobs and one by one, consent, removal."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from cmdline import Done, apply_example, environment, secret, syncd
from people import fill

from syncd.db import Pool
from syncd.sandbox import Handle, serve


@pytest.fixture
async def sandbox() -> AsyncIterator[Handle]:
    async with serve("constantcontact", job_seconds=0.05) as handle:
        yield handle
        state = handle.snapshot()
        assert (state["violations"], state["resubscribed"]) == ([], [])


async def configured(pool: Pool, database: str, sandbox: Handle, folder: Path) -> None:
    """The annotated destination, but for the port, and for politeness."""
    await apply_example(database, sandbox, folder)
    await pool.execute(
        "update syncd.destination set per_second = 1000, guard_percent = 100, guard_floor = 1000,"
        " options = options || '{\"poll_seconds\": 0.1}'"
    )


async def backfilled(database: str, sandbox: Handle, *more: str) -> Done:
    env = environment(database, **secret(sandbox, "constantcontact"))
    ended = await syncd("backfill", *more, env=env)
    assert "Traceback" not in ended.err
    return ended


def people(sandbox: Handle) -> dict[str, Any]:
    return {one["email"]: one for one in sandbox.snapshot()["profiles"].values()}


async def in_step(pool: Pool, sandbox: Handle) -> list[str]:
    """How the sandbox differs from the source, for those who are mailed."""
    names = {int(n): one["name"] for n, one in sandbox.snapshot()["lists"].items()}
    rows = await pool.fetch(
        "select lower(c.email) as email, c.first_name, c.last_name, c.city, c.subscribed,"
        " coalesce(array_agg(l.name order by l.name) filter (where l.id is not null), '{}')"
        " as lists"
        " from syncd.contact c left join syncd.membership m on m.contact_id = c.id"
        " left join syncd.list l on l.id = m.list_id group by c.id"
    )
    there, found = people(sandbox), []
    wanted = {row["email"]: row for row in rows if row["subscribed"] and row["lists"]}
    for email, row in wanted.items():
        one = there.get(email)
        fields = {"FirstName": row["first_name"], "LastName": row["last_name"], "City": row["city"]}
        fields = {name: text for name, text in fields.items() if text}
        if one is None or one["fields"] != fields or not one["mailable"]:
            found.append(f"{email}: {one} instead of {fields}")
        elif sorted(names[n] for n in one["lists"]) != row["lists"]:
            found.append(f"{email}: in {one['lists']} instead of {row['lists']}")
    found += [f"{one}: mailable" for one in there if one not in wanted and there[one]["mailable"]]
    return found


async def test_jobs_single_changes_consent_and_removal_converge(
    pool: Pool, database: str, sandbox: Handle, tmp_path: Path
) -> None:
    await fill(pool, 120)
    await configured(pool, database, sandbox, tmp_path)
    ended = await backfilled(database, sandbox)
    done = ended.json["destinations"]["constantcontact"]
    assert (ended.code, done["created"], done["absent"]) == (0, 60, 60), ended.err
    assert await in_step(pool, sandbox) == []
    assert sandbox.snapshot()["repeated_jobs"] == []
    assert 0 < len(sandbox.snapshot()["jobs"]) <= 2
    assert done["requests"] < 40

    await pool.execute("update syncd.contact set first_name = 'New ' || id")  # a job
    await pool.execute("update syncd.contact set city = null where id = 'c00002'")  # one by one
    await pool.execute("update syncd.contact set subscribed = false where id = 'c00004'")
    await pool.execute("delete from syncd.contact where id = 'c00006'")
    await pool.execute("update syncd.contact set email = 'Moved@x.example' where id = 'c00008'")
    await pool.execute(
        "delete from syncd.membership where contact_id = 'c00010' and list_id = 'vip'"
    )
    await pool.execute(
        "update syncd.contact c set email = o.email from syncd.contact o"
        " where (c.id, o.id) in (('c00012', 'c00014'), ('c00014', 'c00012'))"
    )
    sandbox.act("unsubscribe", email="p16@x.example")
    ended = await backfilled(database, sandbox)
    await pool.execute("update syncd.contact set subscribed = false where id = 'c00016'")

    assert ended.code == 0, (ended.out, ended.err)
    assert await in_step(pool, sandbox) == []
    there = people(sandbox)
    assert there["p4@x.example"]["status"] == "Do Not Mail"  # conveyed
    assert there["p6@x.example"]["status"] == "Removed"  # left its lists, and no more than that
    assert there["p8@x.example"]["status"] == "Removed"
    assert there["p16@x.example"]["status"] == "Do Not Mail"
    told = await pool.fetch("select email, kind, list_id from syncd.opt_out")
    assert [tuple(one) for one in told] == [("p16@x.example", "unsubscribed", None)]

    await pool.execute(
        "insert into syncd.contact (id, email, first_name)"
        " values ('c00006', 'p6@x.example', 'Back')"
    )
    await pool.execute("insert into syncd.membership values ('news', 'c00006')")
    before = sandbox.state.ledger.requests
    ended = await backfilled(database, sandbox)
    assert (ended.code, await in_step(pool, sandbox)) == (0, []), ended.err
    assert people(sandbox)["p6@x.example"]["mailable"]  # without a new consent
    assert sandbox.state.ledger.requests - before < 40

    ended = await backfilled(database, sandbox, "--force")
    assert (ended.code, await in_step(pool, sandbox)) == (0, []), ended.err
    assert people(sandbox)["p16@x.example"]["status"] == "Do Not Mail"
    told = await pool.fetch("select email from syncd.opt_out")  # what we did is nobody's word
    assert [one["email"] for one in told] == ["p16@x.example"]


async def test_a_job_put_off_after_a_lost_answer_still_joins_every_list(
    pool: Pool, database: str, sandbox: Handle, tmp_path: Path
) -> None:
    """They are there already, and the lost job runs on: what it makes of lists is not known yet.
    Nobody is taken for having left a list that it was never put into."""
    await fill(pool, 120)
    await pool.execute(
        "insert into syncd.membership"
        " select 'vip', 'c' || lpad(g::text, 5, '0') from generate_series(3, 119, 6) g"
    )
    await configured(pool, database, sandbox, tmp_path)
    sandbox.act("add_list", name="Elsewhere")
    for n in range(2, 121, 2):
        sandbox.act("add", email=f"p{n}@x.example", list=101)
        sandbox.act("delete", email=f"p{n}@x.example")
    sandbox.set_limits(job_seconds=4)
    sandbox.next_fault("cut_after", 1, "/ws/customers/syncd_sandbox/activities", method="POST")
    ended = await backfilled(database, sandbox)
    assert (ended.code, await in_step(pool, sandbox)) == (0, []), ended.err


async def test_wrong_credentials_halt_with_a_reason(
    pool: Pool, database: str, sandbox: Handle, tmp_path: Path
) -> None:
    await fill(pool, 10)
    await configured(pool, database, sandbox, tmp_path)
    sandbox.set_limits(offers="basic")
    ended = await backfilled(database, sandbox)
    assert ended.code == 77
    assert "HTTP Digest is not offered" in ended.err
    assert people(sandbox) == {}
    assert sandbox.state.ledger.requests < 10
