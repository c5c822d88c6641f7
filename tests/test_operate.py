"""What an operator types: every command as a real process, over a real database and a sandbox."""

from __future__ import annotations

import asyncio
import re
import sys
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, date, datetime
from typing import Any

import pytest
from operating import SECRET, Desk, desk
from structlog.testing import capture_logs

from syncd.db import Pool
from syncd.estimate import DAY
from syncd.expiry import Expiries
from syncd.model import Meter, Traits
from syncd.standing import Budget
from syncd.status import estimate
from syncd.words import ago, count, listed, span


@pytest.fixture
async def at(database: str, pool: Pool) -> AsyncIterator[Desk]:
    async with desk(database, pool) as made:
        yield made


async def held(at: Desk, n: int = 6) -> int:
    """A destination of ten whose plan to remove *n* waits for a person; the plan's id."""
    await at.destination(guard_floor=2)
    await at.contacts(*(f"c{i}" for i in range(10)))
    await at.settle()
    ids = [f"c{i}" for i in range(n)]
    await at.pool.execute("delete from syncd.contact where id = any($1::text[])", ids)
    await at.settle()
    return int(await at.pool.fetchval("select id from syncd.plan where state = 'held'"))


# ── status ──────────────────────────────────────────────────────────────────────────────────


async def test_status_of_a_destination_in_step(at: Desk) -> None:
    await at.destination()
    await at.contacts("ann", "bob")
    await at.settle()

    told = (await at("status", "--json")).json

    assert set(told) == {
        "at", "in_step", "ok", "destinations", "workers", "open_transactions",
        "erasures",
    }  # fmt: skip
    assert told["in_step"]
    assert told["ok"]
    one = told["destinations"]["ct"]
    assert set(one) == {
        "provider", "source", "credential", "in_step", "why", "notes", "here", "pending",
        "pending_since", "lanes", "estimate_seconds", "waiting_because", "doubtful", "held",
        "rejected", "rejected_because", "lacking", "lacking_opt_outs", "lacking_what", "lists",
        "paused", "halted", "news", "owes_full", "filled", "planned_at", "read_at", "full_pass",
        "running", "meters", "drift", "scans_open", "created_at",
    }  # fmt: skip
    assert (one["here"], one["pending"], one["why"]) == (2, 0, [])
    assert one["full_pass"]["error"] is None
    assert one["meters"][0]["meter"] == "upload"
    shown = (await at("status", "ct")).out
    assert "ct  clevertap  in step" in shown
    assert "2 contacts" in shown
    assert "no worker is alive" in shown


async def test_status_before_and_after_a_change_is_sent(at: Desk) -> None:
    await at.destination()

    assert "never filled yet" in (await at("status", code=1)).out

    await at.contacts("ann")
    await at.settle()
    await at.pool.execute("update syncd.contact set first_name = 'Anna'")

    assert "have not been looked at yet" in (await at("status", code=1)).out

    await at.pool.execute(
        "insert into syncd.journal (destination_id, contact_id, wish, lane, state, planned_at,"
        " last_error, doubtful) values (1, 'ann', 'upsert', 0, 'due', now() - interval '5 min',"
        " 'the rate is used up', true)"
    )
    one = (await at("status", "--json", code=1)).json["destinations"]["ct"]
    assert one["pending"] == one["doubtful"] == 1
    assert one["lanes"][0]["name"] == "opt-outs"
    assert one["waiting_because"] == [
        {"reason": "the rate is used up", "contacts": 1, "ids": [], "opt_out": False}
    ]
    assert one["why"][0].startswith("1 change pending for 5 min")
    assert "about 1 s to go (1 say: the rate is used up); no worker" in one["why"][0]


async def test_status_says_first_which_opt_out_could_not_be_conveyed(at: Desk) -> None:
    await at.destination(paused=True, halted="the passcode was refused")
    await at.pool.execute(
        "insert into syncd.mirror (destination_id, contact_id, email, subscribed, state, lacking)"
        " values (1, 'a', 'a@x.test', false, 'here', '{\"address not silenced: code 520\"}'),"
        " (1, 'b', 'b@x.test', true, 'here', '{\"field:Phone not a number\"}'),"
        " (1, 'c', 'c@x.test', false, 'here', '{\"field:Phone not a number\"}')"
    )

    one = (await at("status", "--json", code=1)).json["destinations"]["ct"]

    assert (one["lacking"], one["lacking_opt_outs"]) == (3, 1)
    assert one["why"][0].startswith("1 opt-out could not be conveyed (address not silenced")
    assert one["why"][0].endswith("contact a")
    assert "halted: the passcode was refused" in one["why"][1]
    assert "`syncd resume ct`" in one["why"][2]
    assert one["notes"] == ["2 contacts lacking there: field:Phone not a number"]


async def test_status_warns_of_a_credential_that_ends_soon_and_of_secrets_it_has_not(
    at: Desk,
) -> None:
    await at.destination()
    today = datetime.now(UTC).date()
    soon = SECRET.replace("}", f',"expires_on":"{today}"}}')

    note = (await at("status", "--json", code=1, SYNCD_SECRET_CT=soon)).json
    assert "expires in 0 days" in note["destinations"]["ct"]["notes"][0]

    note = (await at("status", "--json", code=1, SYNCD_SECRET_CT="")).json
    assert "unknown on this host" in note["destinations"]["ct"]["notes"][0]
    assert "'ct' is in none of its three places" in note["destinations"]["ct"]["notes"][0]


async def test_a_credential_that_ends_is_told_once_a_day_for_each_destination(at: Desk) -> None:
    """Soon, or already; again the next day, or when another one ends as soon; a good one not."""
    for name in ("ct", "two"):
        await at.destination(name)
    at.environ["SYNCD_SECRET_CT"] = SECRET.replace("}", ',"expires_on":"2031-03-01"}')

    async def said(expiries: Expiries, destinations: Any, day: str) -> list[str]:
        with capture_logs() as logs:
            await expiries.warn(destinations, date.fromisoformat(day))
        assert {one["log_level"] for one in logs} <= {"warning"}
        return [f"{one['destination']}: {one['event']}, {one['days_left']}" for one in logs]

    async with at.app() as app:
        everyone, expiries = await app.destinations(), Expiries(app.secrets)
        assert await said(expiries, everyone, "2031-01-29") == []
        soon = ["ct: credential expires soon, 30", "two: credential expires soon, 30"]
        assert await said(expiries, everyone, "2031-01-30") == soon
        assert await said(expiries, everyone, "2031-01-30") == []
        assert await said(expiries, everyone[:1], "2031-01-31") == [
            "ct: credential expires soon, 29"
        ]
        at.environ["SYNCD_SECRET_CT"] = SECRET.replace("}", ',"expires_on":"2031-01-30"}')
        assert await said(expiries, everyone[:1], "2031-01-31") == [
            "ct: credential has expired, -1"
        ]
        at.environ["SYNCD_SECRET_CT"] = SECRET
        assert await said(expiries, everyone, "2031-01-31") == []
        at.environ["SYNCD_SECRET_CT"] = ""
        assert await said(expiries, everyone, "2031-01-31") == []


async def test_status_is_1_as_long_as_an_erasure_asks_for_something(at: Desk) -> None:
    """Of syncd, then of a person; 0 once that one has said that it is done."""
    await at.destination()
    await at.settle()
    asked = "insert into syncd.erasure (email) values ('ann@x.test') returning id"
    number = await at.pool.fetchval(asked)
    told = await at("status", code=1)
    assert f"erasure {number}: ct has not been told yet" in told.out
    await at.settle()

    await at.pool.execute(
        "update syncd.erasure set finished_at = now(), email = null, purged_at = now(),"
        " proof = jsonb_build_object('ct', jsonb_build_object('by_hand', 'write to them'))"
    )
    told = await at("status", code=1)
    assert f"erasure {number}: to be done by hand at ct: write to them" in told.out
    await at.pool.execute("update syncd.erasure set done_by_hand = '{ct}'")
    assert "by hand" not in (await at("status", code=0)).out


async def test_status_names_who_keeps_the_feed_open(at: Desk) -> None:
    from syncd import sql

    quick = sql.status.open_long.replace("interval '1 minute'", "interval '0'")
    async with at.pool.acquire() as connection, connection.transaction():
        await connection.execute("create temporary table t (x int)")
        await asyncio.sleep(0.01)
        async with at.pool.acquire() as other:
            rows = await other.fetch(quick)

    assert [r["kind"] for r in rows] == ["session"]
    assert rows[0]["state"] == "idle in transaction"


async def test_status_of_an_unknown_destination_names_those_there_are(at: Desk) -> None:
    await at.destination()

    ran = await at("status", "nobody", code=78)

    assert "destination 'nobody' does not exist; there is: ct" in ran.err


@pytest.mark.parametrize(
    ("budget", "pending", "expected"),
    [
        (Budget("m", 10.0, None, None, None, None), 100, 10.0),
        (Budget("m", None, 10, None, None, None), 100, 3.0),
        (Budget("m", 10.0, None, 50, 50, None), 50, 5.0),
        (Budget("m", 10.0, None, 50, 10, None), 100, 6 * 3600 + DAY),
        (Budget("m", None, None, None, None, None), 0, None),
    ],
)
def test_how_long_what_is_pending_will_take(
    budget: Budget, pending: int, expected: float | None
) -> None:
    evening = datetime(2026, 3, 1, 18, tzinfo=UTC)
    traits = Traits(1, {"m": Meter()}, "ours")

    assert expected == estimate(pending, traits, budget, evening)


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0, "no time"), (1, "1 s"), (61, "1 min 1 s"), (3600, "1 h"), (90_000, "1 day 1 h"),
     (172_805, "2 days")],
)  # fmt: skip
def test_lengths_of_time_in_words(seconds: float, words: str) -> None:
    assert words == span(seconds)


def test_other_words() -> None:
    now = datetime.now(UTC)
    assert (ago(None, now), ago(now, now)) == ("never", "just now")
    assert (count(1, "list"), count(1204, "list")) == ("1 list", "1,204 lists")
    assert listed(list("abcdefg"), 5) == "a, b, c, d, e and 2 more"


# ── Held plans ──────────────────────────────────────────────────────────────────────────────


async def test_a_held_plan_is_shown_with_what_to_type_and_approved_only_as_it_was_seen(
    at: Desk,
) -> None:
    plan = await held(at)

    one = (await at("status", "--json", code=1)).json["destinations"]["ct"]
    assert one["held"][0] | {"since": None} == {
        "id": plan, "kind": "remove", "rows": 6, "since": None,
        "reason": one["held"][0]["reason"],
        "approve": f"syncd approve {plan} --rows 6", "discard": f"syncd discard {plan}",
    }  # fmt: skip
    assert f"`syncd approve {plan} --rows 6`" in one["why"][0]

    assert "has grown" in (await at("approve", str(plan), "--rows", "5", code=78)).err
    assert "has shrunk" in (await at("approve", str(plan), "--rows", "7", code=78)).err
    assert "--rows N is needed" in (await at("approve", str(plan), code=2)).err
    assert "does not exist" in (await at("approve", "99", "--rows", "1", code=78)).err

    done = (await at("approve", str(plan), "--rows", "6", "--json")).json
    assert done == {"plan": plan, "rows": 6, "due": 6}
    await at.settle()
    states = await at.pool.fetch("select state from syncd.mirror where contact_id < 'c6'")
    assert [r["state"] for r in states] == ["withdrawn"] * 6
    assert "is not held (any more)" in (await at("discard", str(plan), code=78)).err
    decided = await at.pool.fetchval("select decided_by from syncd.plan where id = $1", plan)
    assert "@" in decided


async def test_a_discarded_plan_sends_nothing(at: Desk) -> None:
    plan = await held(at)

    done = (await at("discard", str(plan), "--json")).json

    assert done == {"plan": plan, "dropped": 6}
    await at.settle()
    here = await at.pool.fetchval("select count(*) from syncd.mirror where state = 'here'")
    assert here == 10


async def test_approving_on_a_terminal_asks_first(at: Desk) -> None:
    plan = await held(at)

    refused, said = await on_a_terminal(at, ["approve", str(plan)], "n\n")
    assert refused == 1
    assert f"ct, plan {plan}: it would remove 6 contacts" in said
    assert "Send these 6 removals?" in said

    agreed, said = await on_a_terminal(at, ["approve", str(plan)], "y\n")
    assert agreed == 0, said
    assert f"plan {plan} is approved: 6 rows due" in said


async def on_a_terminal(
    at: Desk, args: Sequence[str], types: str, **environ: str
) -> tuple[int, str]:
    """Run a command with a person at the keyboard."""
    import os
    import pty

    ours, theirs = pty.openpty()
    known = {k: v for k, v in os.environ.items() if not k.startswith("SYNCD_")}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "syncd", *args,
        stdin=theirs, stdout=theirs, stderr=theirs, cwd="/",
        env={**known, "SYNCD_DATABASE_URL": at.url, **at.environ, "TERM": "dumb", **environ},
    )  # fmt: skip
    os.close(theirs)
    os.write(ours, types.encode())
    code = await asyncio.wait_for(process.wait(), 180)
    said = b""
    try:
        while part := os.read(ours, 4096):
            said += part
    except OSError:  # the other end is closed
        pass
    os.close(ours)
    return code, said.decode()


# ── Rejected, retry ─────────────────────────────────────────────────────────────────────────


async def test_the_rejected_are_listed_in_the_providers_words_and_tried_again(at: Desk) -> None:
    await at.destination()
    await at.pool.execute("insert into syncd.contact (id, email) values ('nil', null)")
    await at.pool.execute("insert into syncd.contact (id, email) values ('odd', 'odd@x.test')")
    await at.settle()
    await at.pool.execute(
        "insert into syncd.journal (destination_id, contact_id, wish, lane, state, email,"
        " last_error, last_status) values (1, 'odd', 'upsert', 1, 'rejected', 'odd@x.test',"
        " 'code 509: event name is wrong', 509)"
    )
    await at.pool.execute(
        "insert into syncd.list_mirror (destination_id, list_id, name, state, last_error)"
        " values (1, 'n', 'news', 'asks', 'two lists are called so')"
    )

    told = (await at("rejected", "--json")).json
    assert {(r["contact_id"], r["reason"]) for r in told["contacts"]} == {
        ("nil", "has no e-mail address"), ("odd", "code 509: event name is wrong"),
    }  # fmt: skip
    assert set(told["contacts"][0]) == {
        "destination", "contact_id", "email", "reason", "status", "attempts", "since",
    }  # fmt: skip
    assert told["lists"][0]["reason"] == "two lists are called so"
    shown = (await at("rejected", "ct")).out
    assert "ct  odd  odd@x.test  code 509: event name is wrong [509]" in shown
    assert "list n 'news'  asks: two lists are called so" in shown

    one = (await at("status", "--json", code=1)).json["destinations"]["ct"]
    assert one["rejected"] == 2
    assert "2 contacts rejected, most often:" in one["why"][0]

    assert (await at("retry", "ct", "--contact", "odd", "--json")).json == {"due": 2}
    rows = await at.pool.fetch("select contact_id, state from syncd.journal order by 1")
    assert [tuple(r) for r in rows] == [("nil", "rejected"), ("odd", "due")]
    assert (await at("retry", "--json")).json == {"due": 1}


async def test_a_contact_that_does_not_wait_is_named_where_it_is_to_be_tried_again(
    at: Desk,
) -> None:
    await at.destination()
    await at.pool.execute("insert into syncd.contact (id, email) values ('nil', null)")
    await at.settle()

    none = await at("retry", "ct", "--contact", "nosuch", code=1)
    some = await at("retry", "--contact", "nosuch", "--contact", "nil", "--json")

    assert none.out == "0 rows due again\n"
    assert none.err == "syncd: contact nosuch: nothing of it is rejected, or waits, at ct\n"
    assert some.json == {"due": 1}
    assert "contact nosuch: nothing of it" in some.err


async def test_nothing_rejected(at: Desk) -> None:
    await at.destination()

    assert (await at("rejected")).out == "nothing is rejected\n"


# ── What data hold is shown, and does nothing ───────────────────────────────────────────────

NASTY = "\x1b]0;PWNED\x07\x1b[2J\x9b1m[red]\u202eha\tcked"
WIDE = {"TERM": "xterm", "COLUMNS": "250", "NO_COLOR": "1"}
SHOWN = r"\x1b]0;PWNED\x07\x1b[2J\x9b1m[red]\u202eha\tcked"


async def test_what_data_hold_reaches_a_terminal_only_as_something_to_read(at: Desk) -> None:
    """Neither a sequence for the terminal, nor a second line, which could say anything."""
    await at.destination()
    await at.contacts("ann", "bob\nct  eve  eve@x.test  never refused")
    await at.pool.execute("update syncd.contact set first_name = $1 where id = 'ann'", NASTY)
    await at.pool.execute(
        "update syncd.contact set email = E'bob@x.test\\nct  mallory' where id <> 'ann'"
    )

    code, seen = await on_a_terminal(at, ["plan", "ct"], "", **WIDE)
    assert (code, SHOWN in seen) == (0, True), seen
    assert r"bob\nct  eve" in seen
    told = (await at("plan", "ct", "--json")).json["destinations"]["ct"]["samples"]["create"]
    names = [one["changes"]["First Name"][1] for one in told]
    assert any(one.startswith("\x1b]0;PWNED") for one in names), "as it is, for programs"

    await at.settle()
    await at.pool.execute("update syncd.journal set last_error = last_error || $1", "\x1b[1A\x85")
    for args in (["rejected"], ["explain", "bob@x.test\nct  mallory"], ["status"]):
        _, more = await on_a_terminal(at, args, "", **WIDE)
        assert not re.search(r"(?m)^\s*ct  (eve|mallory)", more), more
        seen += more
    seen = re.sub(r"\x1b\[[\d;]*m", "", seen.replace("\r\n", "\n"))  # bold type is our own
    assert r"bob\nct  eve  eve@x.test  never refused  -  identity" in seen, seen
    assert r"\x1b[1A\x85" in seen, seen
    assert set(re.findall(r"[\x00-\x1f\x7f-\x9f\u202a-\u202e]", seen)) == {"\n"}

    failed = await at("plan", "no\nsyncd: all is well\x1b[2J", code=78)
    assert len(failed.err.splitlines()) == 1


# ── Pause, resume ───────────────────────────────────────────────────────────────────────────


async def test_pause_and_resume(at: Desk) -> None:
    await at.destination()

    assert (await at("pause", "ct", "--json")).json == {"changed": ["ct"], "paused": True}
    assert "ct: was paused already" in (await at("pause", "ct")).out
    assert "ct  clevertap  paused" in (await at("status", code=1)).out

    await at.pool.execute("update syncd.destination set halted = 'refused'")
    assert (await at("resume", "ct")).out == "ct: resumed\n"
    row = await at.pool.fetchrow("select paused, halted from syncd.destination")
    assert tuple(row or ()) == (False, None)

    await at("pause", code=2)  # never all of them by a slip
    assert "'no' does not exist" in (await at("pause", "no", code=78)).err


# ── Lift ────────────────────────────────────────────────────────────────────────────────────


async def test_a_lifted_no_is_a_yes_again_only_where_the_source_says_yes(at: Desk) -> None:
    await at.destination()
    await at.contacts("ann", "bob")
    await at.settle()
    for one in ("ann", "bob"):
        at.box.act("unsubscribe", email=f"{one}@x.test")
    await at.pool.execute("update syncd.contact set subscribed = false where id = 'bob'")
    await at.settle()
    assert not await at.mailable("ann")
    assert await at.pool.fetchval("select count(*) from syncd.opt_out where lifted_at is null") == 2

    await at("lift", "ann@x.test", code=2)  # without a reason
    assert "--reason" in (await at("lift", "ann@x.test", "--reason", " ", code=2)).err
    done = await at("lift", "Ann@X.test", "--reason", "ticket 815", "--json")
    assert len(done.json["lifted"]) == 1
    assert done.json["open"] == []
    assert (
        "0 opt-outs of all mail lifted"
        in (await at("lift", "ann@x.test", "--reason", "again", code=1)).out
    )
    await at("lift", "bob@x.test", "--reason", "ticket 816")
    await at.settle()

    assert await at.mailable("ann")
    assert not await at.mailable("bob")
    log = await at.pool.fetch("select new from syncd.control_log where relation = 'opt_out'")
    assert len(log) == 2
    assert "ticket 815" in log[0]["new"]
    lifted_by = await at.pool.fetchval("select lifted_by from syncd.opt_out where email ^@ 'ann'")
    assert lifted_by.endswith("ticket 815")


async def test_a_list_that_is_none_is_named_where_its_no_is_to_be_lifted(at: Desk) -> None:
    await at.destination()
    await at.contacts("ann")
    words = ("lift", "ann@x.test", "--reason", "r", "--list")

    assert (await at(*words, "n", code=1)).err == ""
    strange = await at(*words, "news", code=1)

    assert strange.out.startswith("0 opt-outs of list news lifted\n")
    assert strange.err == "syncd: there is no list news: --list takes a list's id\n"


async def test_a_no_told_by_contact_alone_is_lifted_by_the_contacts_address(at: Desk) -> None:
    await at.destination()
    await at.contacts("ann")
    await at.pool.execute(
        "insert into syncd.opt_out (destination_id, contact_id, kind) values (1, 'ann',"
        " 'unsubscribed')"
    )
    await at.pool.execute(
        "insert into syncd.opt_out (destination_id, contact_id, email, list_id, kind)"
        " values (1, 'ann', 'ann@x.test', 'n', 'unsubscribed')"
    )

    done = await at("lift", "ann@x.test", "--reason", "x")
    assert "1 opt-out of all mail lifted" in done.out
    assert "still open: unsubscribed at ct, list n" in done.out
    done = await at("lift", "ann@x.test", "--list", "n", "--reason", "x", "--json")
    assert (len(done.json["lifted"]), done.json["open"]) == (1, [])


# ── Scan ────────────────────────────────────────────────────────────────────────────────────


async def test_scan_reads_by_itself_where_no_worker_is_alive(at: Desk) -> None:
    await at.destination()
    await at.contacts("ann")
    await at.settle()
    at.box.act("unsubscribe", email="ann@x.test")

    told = (await at("scan", "ct", "--json")).json

    assert told["destinations"]["ct"] == {
        "done": True, "noted": 1, "scans": 0, "why": "", "exit_code": 0,
    }  # fmt: skip
    assert "ct: read, 0 new opt-outs" in (await at("scan")).out

    at.box.set_faults(revoked=True)
    ran = await at("scan", code=77)
    assert "ct: " in ran.out
    assert "401" in ran.out


async def test_scan_is_done_by_the_daemon_where_there_is_one(at: Desk) -> None:
    await at.destination()
    await at.destination("idle", paused=True, options={"lists_property": "Other"})
    await at.contacts("ann")
    await at.settle(names=["ct"])
    daemon = asyncio.create_task(at("run", code=None, SYNCD_LOG_LEVEL="warning"))
    try:
        async with asyncio.timeout(120):
            while not await at.pool.fetchval("select count(*) from syncd.worker"):
                await asyncio.sleep(0.05)
        at.box.act("unsubscribe", email="ann@x.test")
        told = (await at("scan", "ct", "--wait", "30", "--json")).json
        assert told["destinations"]["ct"] == {
        "done": True, "noted": 1, "scans": 0, "why": "", "exit_code": 0,
    }  # fmt: skip
        by = await at.pool.fetchval("select requested_by from syncd.command")
        assert "@" in by

        late = await at("scan", "idle", "--wait", "1", code=1)
        assert "idle: it is paused: `syncd resume idle` first" in late.out
        assert (await at("status", "--json", code=None)).json["workers"][0]["pid"] > 1
    finally:
        pid = await at.pool.fetchval("select pid from syncd.worker order by id desc limit 1")
        if pid:
            import os
            import signal

            os.kill(pid, signal.SIGTERM)
        await daemon


async def test_a_lifted_no_is_not_noted_again_by_the_next_reading(at: Desk) -> None:
    """The provider tells the same event at every reading of that day, each time a bit later."""
    await at.destination()
    await at.contacts("ann")
    await at.settle()
    at.box.act("unsubscribe", email="ann@x.test")
    await at("scan")
    first = await at.pool.fetchval("select occurred_at from syncd.opt_out")

    assert "0 new opt-outs" in (await at("scan")).out
    assert await at.pool.fetchval("select occurred_at from syncd.opt_out") == first
    await at("lift", "ann@x.test", "--reason", "x")
    assert "0 new opt-outs" in (await at("scan")).out

    await at.settle()
    assert await at.mailable("ann")
    await asyncio.sleep(1.1)  # the provider counts whole seconds
    at.box.act("unsubscribe", email="ann@x.test")
    assert "1 new opt-out" in (await at("scan")).out
    assert "0 new opt-outs" in (await at("scan")).out  # nor does the older one come back
    await at("lift", "ann@x.test", "--reason", "x")
    assert "0 new opt-outs" in (await at("scan")).out
