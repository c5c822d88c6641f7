"""The daemon as its operator sees it: rows it notices, commands it obeys, a log for machines."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from datetime import datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import orjson
import pytest
import redcappi_service
import service
from clusters import fronted
from service import Service, until

from syncd.sandbox.clevertap import CleverTap
from syncd.secrets import variable

NOTICED = 25.0  # seconds, less than the poll of the daemon that is told by NOTIFY


@pytest.fixture
async def syncd(cluster: str, template: str) -> AsyncIterator[Service]:
    async with service.served(cluster, template) as made:
        await service.fill(made.db, 40)
        yield made


async def rename(syncd: Service, key: str, name: str) -> None:
    await syncd.db.execute("update syncd.contact set first_name = $2 where id = $1", key, name)


def first_name(syncd: Service, destination: str, key: str) -> Any:
    profile = syncd.boxes[destination].state.profiles.by_identity.get(key)
    return profile and profile.properties.get("First Name")


# ── Control rows ────────────────────────────────────────────────────────────────────────────


async def test_a_new_row_begins_a_changed_one_is_followed_a_deleted_one_ends(
    syncd: Service,
) -> None:
    syncd.know("shop")
    syncd.know("other", "OTHER")
    listens = fronted(syncd.url) == syncd.url  # NOTIFY is what tells it; a PgBouncer lets none pass
    daemon = await syncd.daemon(control_poll_seconds="30" if listens else "0.25")
    box = await syncd.sandbox()
    began = time.monotonic()
    await syncd.destination("shop", box)
    await until(lambda: len(box.state.profiles.all) == 40, "a new destination is filled", NOTICED)
    print(f"filled {time.monotonic() - began:.2f} s after its row")
    await syncd.in_step()

    await syncd.set("shop", paused=True)
    await syncd.command("sync", "shop")
    await rename(syncd, "c00001", "Paused")
    await rename(syncd, "c00002", "Paused")
    assert (await syncd.command("sync", "shop"))[0] == "done"
    assert first_name(syncd, "shop", "c00001") == "First1"
    began = time.monotonic()
    await syncd.set("shop", paused=False)
    await until(lambda: first_name(syncd, "shop", "c00001") == "Paused", "resumed", NOTICED)
    print(f"resumed {time.monotonic() - began:.2f} s after its row")
    await syncd.in_step()
    await syncd.same("shop")

    uploads = box.state.ledger.by_path["/1/upload"]
    await syncd.set("shop", fields=orjson.dumps({"Town": "city"}).decode(), guard_percent=100)
    await until(
        lambda: box.state.ledger.by_path["/1/upload"] > uploads, "a new mapping is sent", NOTICED
    )
    await syncd.in_step()
    assert all(one.properties.get("Town") for one in box.state.profiles.all)
    await syncd.set("shop", fields=None)
    await syncd.in_step()

    await syncd.db.execute("delete from syncd.destination where name = 'shop'")
    requests = box.state.ledger.requests
    await rename(syncd, "c00003", "Unheard")
    other = await syncd.sandbox()
    await syncd.destination("other", other, account="OTHER")
    await syncd.in_step()
    await syncd.same("other")
    assert box.state.ledger.requests == requests
    assert daemon.alive


async def test_a_changed_schedule_is_followed(syncd: Service) -> None:
    await syncd.destination("shop", await syncd.sandbox(), schedule="1d")
    await syncd.daemon()
    await until(lambda: len(syncd.boxes["shop"].state.profiles.all) == 40, "filled")
    await syncd.set("shop", schedule="1s")
    await rename(syncd, "c00001", "Rung")
    await until(lambda: first_name(syncd, "shop", "c00001") == "Rung", "rung")


async def test_without_listen_polling_serves(syncd: Service) -> None:
    syncd.know("shop")
    await syncd.daemon(listen="false")
    await syncd.destination("shop", await syncd.sandbox())
    await syncd.in_step()
    listening = await syncd.db.fetchval(
        "select count(*) from pg_stat_activity where datname = current_database()"
        " and query ilike 'listen%'"
    )
    assert listening == 0
    began = time.monotonic()
    await rename(syncd, "c00001", "Polled")
    await until(lambda: first_name(syncd, "shop", "c00001") == "Polled", "polled", NOTICED)
    print(f"polled within {time.monotonic() - began:.2f} s")
    await syncd.same("shop")


async def test_a_missed_full_pass_is_made_up_for_once(syncd: Service) -> None:
    """By cron, two hours ago by the clock of a place where it is another time."""
    there = datetime.now(ZoneInfo("Asia/Kolkata")) - timedelta(hours=2)
    cron = f"CRON_TZ=Asia/Kolkata {there.minute} {there.hour} * * *"
    await syncd.destination("shop", await syncd.sandbox(), full_schedule=cron)
    daemon = await syncd.daemon()
    await syncd.in_step()
    await daemon.terminated()
    runs = "select count(*) from syncd.run where kind = 'full' and finished_at is not null"
    before = await syncd.db.fetchval(runs)
    await syncd.db.execute(
        "update syncd.run set started_at = started_at - interval '5 hours';"
        "alter table syncd.contact disable trigger user;"
        "update syncd.contact set first_name = 'Unwatched' where id = 'c00001';"
        "alter table syncd.contact enable trigger user"
    )
    await syncd.db.execute("delete from syncd.change")
    daemon = await syncd.daemon()
    await until(lambda: first_name(syncd, "shop", "c00001") == "Unwatched", "made up for")
    await syncd.in_step()
    await syncd.same("shop")
    assert await syncd.db.fetchval(runs) == before + 1
    await daemon.terminated()
    daemon = await syncd.daemon()
    assert (await syncd.command("sync", "shop"))[0] == "done"
    await rename(syncd, "c00002", "Later")
    await until(lambda: first_name(syncd, "shop", "c00002") == "Later", "sent")
    assert await syncd.db.fetchval(runs) == before + 1, "once"


# ── Commands ────────────────────────────────────────────────────────────────────────────────


async def test_every_command_is_obeyed_once_though_two_daemons_watch(syncd: Service) -> None:
    await syncd.destination("shop", await syncd.sandbox())
    await syncd.db.execute("update syncd.contact set email = 'nonsense' where id = 'c00009'")
    daemons = [await syncd.daemon(), await syncd.daemon()]
    await syncd.in_step()
    runs = "select count(*) from syncd.run where kind = 'full' and finished_at is not null"
    scans = "select count(*) from syncd.scan where finished_at is not null"
    full, read = await syncd.db.fetchval(runs), await syncd.db.fetchval(scans)

    assert (await syncd.command("sync"))[0] == "done"
    assert (await syncd.command("scan", "shop"))[0] == "done"
    await until(lambda: _more(syncd, scans, read), "a scan")
    assert (await syncd.command("full", "shop"))[0] == "done"
    await until(lambda: _more(syncd, runs, full), "a full pass")
    full = await syncd.db.fetchval(runs)
    assert (await syncd.command("backfill", "shop"))[0] == "done"
    await until(lambda: _more(syncd, runs, full), "a full pass, sent to its end")
    assert await syncd.command("retry", "shop") == ("done", {"due": 1})
    await until(lambda: _more(syncd, "select count(*) from syncd.journal where state ="
                              " 'rejected'", 0), "rejected again")  # fmt: skip
    assert await syncd.command("retry", "shop", contacts=["c00001"]) == ("done", {"due": 0})
    assert await syncd.command("lift", email="user1@example1.org", reason="none") == (
        "done",
        {"lifted": 0, "tombstones": 0},
    )
    await syncd.in_step()
    ids = [record["id"] for one in daemons for record in one.told("command")]
    assert sorted(ids) == sorted(set(ids)), "each command once"
    assert len(ids) == 7


async def _more(syncd: Service, query: str, than: int) -> bool:
    return bool(await syncd.db.fetchval(query) > than)


async def test_a_faulty_command_fails_with_its_fault_and_nothing_else_does(
    syncd: Service,
) -> None:
    await syncd.destination("shop", await syncd.sandbox())
    daemon = await syncd.daemon()
    await syncd.in_step()
    for kind, destination, args, says in (
        ("sync", "nobody", {}, "destination 'nobody' does not exist"),
        ("approve", None, {"plan": 99, "rows": 1}, "plan 99 does not exist"),
        ("approve", None, {}, "args.plan must be a number"),
        ("approve", None, {"plan": True, "rows": 1}, "args.plan must be a number"),
        ("discard", None, {"plan": 99}, "plan 99 does not exist"),
        ("lift", None, {"email": "x@example.org"}, "lift needs args.reason"),
        ("lift", None, {"reason": "x"}, "lift needs args.email"),
        ("retry", "shop", {"contacts": "c00001"}, "contacts"),
        ("approve", None, {"plan": 10**30, "rows": 1}, ""),
    ):
        outcome, result = await syncd.command(kind, destination, **args)
        assert outcome == "failed", (kind, args, result)
        assert says in result["error"], (kind, args)
    await rename(syncd, "c00001", "Well")
    await until(lambda: first_name(syncd, "shop", "c00001") == "Well", "served")
    assert daemon.alive


async def test_a_held_plan_is_discarded_by_command_and_asked_for_again(syncd: Service) -> None:
    await syncd.destination("shop", await syncd.sandbox(), guard_floor=5)
    await syncd.daemon()
    await syncd.in_step()
    box = syncd.boxes["shop"]
    await syncd.db.execute("delete from syncd.contact where id > 'c00020'")

    async def held() -> Any:
        return await syncd.db.fetchrow(
            "select p.id, count(j.*) as n from syncd.plan p join syncd.journal j"
            " on j.plan_id = p.id where p.state = 'held' group by p.id"
        )

    plan = await until(held, "held")
    assert plan["n"] == 20
    outcome, result = await syncd.command("discard", plan=plan["id"])
    assert (outcome, result) == ("done", {"dropped": 20})
    await syncd.in_step()
    assert sum(map(box.state.profiles.mailable, box.state.profiles.all)) == 40
    await syncd.command("full", "shop")
    again = await until(held, "held again")
    assert (again["n"], again["id"] != plan["id"]) == (20, True)
    outcome, result = await syncd.command("approve", plan=again["id"], rows=20)
    assert (outcome, result) == ("done", {"due": 20})
    await syncd.in_step()
    await syncd.same("shop")


async def test_who_asks_to_be_forgotten_is_forgotten_by_the_daemon(syncd: Service) -> None:
    """A row is all it takes: deleted there, read back, forgotten here, the request finished."""
    syncd.environ["SYNCD_SECRET_TOMBSTONE"] = "a long random text that is the same everywhere"
    box = await syncd.sandbox("redcappi")
    await redcappi_service.destination(syncd, "shop", box)
    daemon = await syncd.daemon()
    await syncd.in_step()
    email = await syncd.db.fetchval("select email from syncd.contact where id = 'c00007'")
    assert email in str(box.snapshot()["lists"])

    await syncd.db.execute("insert into syncd.erasure (contact_id) values ('c00007')")

    async def finished() -> Any:
        return await syncd.db.fetchrow("select * from syncd.erasure where finished_at is not null")

    row = await until(finished, "finished by the daemon alone", 120)
    assert (row["contact_id"], row["email"]) == (None, None)
    assert "look for the address under Contacts" in orjson.loads(row["proof"])["shop"]["by_hand"]
    assert email not in str(box.snapshot()["lists"])
    assert not await syncd.db.fetchval(
        "select count(*) from syncd.mirror where contact_id = 'c00007'"
    )
    assert daemon.alive


# ── Stopping, and what is said ──────────────────────────────────────────────────────────────


async def test_sigterm_finishes_what_is_in_flight_and_leaves_no_doubt(syncd: Service) -> None:
    box = await syncd.sandbox()
    await syncd.destination("shop", box)
    await syncd.db.execute("update syncd.destination set guard_floor = 1000")
    daemon = await syncd.daemon()
    await syncd.in_step()
    box.set_faults(latency_ms=[700, 800])
    before = box.state.ledger.requests
    await syncd.db.execute("update syncd.contact set company = 'Drained'")
    await until(lambda: box.state.ledger.requests > before, "in flight")
    assert await daemon.terminated() == 0
    row = await syncd.db.fetchrow(
        "select count(*) filter (where state = 'sent') as sent,"
        " count(*) filter (where doubtful) as doubtful from syncd.journal"
    )
    assert row is not None
    assert (row["sent"], row["doubtful"]) == (0, 0)
    assert await syncd.db.fetchval("select count(*) from syncd.intent") == 0
    assert await syncd.db.fetchval("select count(*) from syncd.worker") == 0
    assert daemon.log[-1]["event"] == "stopped"
    box.set_faults()
    await syncd.daemon()
    await syncd.in_step()
    await syncd.same("shop")


async def test_a_log_of_much_trouble_is_json_without_an_address_or_a_secret(
    syncd: Service,
) -> None:
    """Refusals, outages, opt-outs, held plans, at level debug. (`served` looks at every test.)"""
    box = await syncd.sandbox()
    await syncd.destination("shop", box, guard_floor=3)
    daemon = await syncd.daemon(log_level="debug")
    await syncd.in_step()
    for key, email in (("bad1", "not.an.address@"), ("bad2", "a b@example.org"),
                       ("twin", "user1@example1.org")):  # fmt: skip
        await syncd.db.execute("insert into syncd.contact (id, email) values ($1, $2)", key, email)
    box.act("unsubscribe", email="user2@example2.org")
    await syncd.command("scan", "shop")
    box.set_faults(seed=1, error_rate=0.3, html=0.2, cut_after=0.3)
    await syncd.db.execute("update syncd.contact set company = 'X' where id < 'c00003'")
    await until(lambda: box.state.faults.struck.total() > 3, "mishaps")
    await syncd.db.execute("delete from syncd.contact where id > 'c00010' and id like 'c0%'")
    await until(lambda: daemon.told("plan held"), "held")
    box.set_faults(revoked=True)
    await syncd.db.execute("update syncd.contact set company = 'Y' where id < 'c00003'")
    await until(lambda: _halted(syncd), "halted")
    outcome, result = await syncd.command("lift", email="user2@example2.org", reason="asked")
    assert outcome == "done", result
    assert syncd.faults() == []
    assert len(daemon.log) > 10
    text = daemon.said
    for secret in (*box.state.demo.values(), "user1@", "not.an.address"):
        assert secret not in text
    levels = {one["level"] for one in daemon.log}
    assert levels <= {"debug", "info", "warning", "error"}
    assert all("destination" in one for one in daemon.told("destination halted"))


async def _halted(syncd: Service) -> bool:
    await syncd.hasten()
    return (await syncd.row("shop"))["halted"] is not None


async def test_a_secret_that_was_changed_while_nobody_ran_lifts_the_halt(syncd: Service) -> None:
    box = await syncd.sandbox()
    await syncd.destination("shop", box)
    right = syncd.environ[variable("shop")]
    syncd.environ[variable("shop")] = right.replace(CleverTap.demo["passcode"], "OUT-OF-DATE")
    daemon = await syncd.daemon()
    await until(lambda: _halted(syncd), "halted")
    assert await daemon.terminated() == 0
    asked = box.state.ledger.requests
    daemon = await syncd.daemon()  # with the same secret as before
    assert not await halt_ends(syncd, 2)
    assert box.state.ledger.requests == asked
    assert await daemon.terminated() == 0
    syncd.environ[variable("shop")] = right
    await syncd.daemon()
    assert await halt_ends(syncd, 120)
    await syncd.in_step()
    await syncd.same("shop")


async def halt_ends(syncd: Service, seconds: float) -> bool:
    until_then = time.monotonic() + seconds
    while time.monotonic() < until_then:
        if (await syncd.row("shop"))["halted"] is None:
            return True
        await asyncio.sleep(0.1)
    return False
