"""The control plane: every column followed while a daemon runs, rows that PostgreSQL refuses,
commands that outlive whoever took them, what is kept of all that; names that are no SQL."""

from __future__ import annotations

import functools
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

import asyncpg
import orjson
import pytest
import redcappi_service
import service
from clusters import fronted
from service import Process, Service, until

from syncd.db import Pool


@pytest.fixture
async def syncd(cluster: str, template: str) -> AsyncIterator[Service]:
    async with service.served(cluster, template) as made:
        await service.fill(made.db, 40)
        yield made


NOTICING: Mapping[str, Mapping[str, str]] = {
    "LISTEN alone": {"CONTROL_POLL_SECONDS": "600"},
    "polling alone": {"LISTEN": "false", "CONTROL_POLL_SECONDS": "0.5"},
}
"""The daemon's two ways to hear of a row, each without the other."""


@pytest.fixture(params=NOTICING)
def live(request: pytest.FixtureRequest, syncd: Service) -> Service:
    """As `syncd`, where rows are noticed in one way only."""
    if request.param == "LISTEN alone" and fronted(syncd.url) != syncd.url:
        pytest.skip("a PgBouncer lets no NOTIFY pass")
    syncd.settings = NOTICING[request.param]
    return syncd


# ── Columns, live ───────────────────────────────────────────────────────────────────────────


async def followed(syncd: Service, **columns: Any) -> None:
    """Change the row; the sandbox is what the changed row says, soon."""
    if columns:
        await syncd.set("shop", **columns)
    began = time.monotonic()
    try:
        await until(lambda: _is_so(syncd), f"{columns} is followed")
    except AssertionError:
        await syncd.same("shop")
        raise
    took = time.monotonic() - began
    print(f"{', '.join(columns)}: followed, and sent, {took:.2f} s after COMMIT")


async def _is_so(syncd: Service) -> bool:
    return not await syncd.outstanding("shop") and not await syncd.differences("shop")


async def test_who_belongs_and_what_becomes_of_who_does_not_are_followed(live: Service) -> None:
    """source, lists, everyone, when_gone, guard_percent, guard_floor."""
    syncd = live
    await syncd.db.execute(
        "create view public.some as select * from syncd.contact where id < 'c00010';"
        "insert into syncd.source (name, contact) values ('some', 'public.some')"
    )
    await syncd.destination("shop", await syncd.sandbox(), guard_floor=3)
    await syncd.daemon()
    await syncd.in_step()
    profiles = syncd.boxes["shop"].state.profiles

    await syncd.set("shop", lists=["a", "b"])

    async def held() -> Any:
        return await syncd.db.fetch(
            "select p.id, p.kind, count(j.*) as n from syncd.plan p join syncd.journal j"
            " on j.plan_id = p.id and j.state = 'held' where p.state = 'held' group by p.id"
        )

    await until(held, "held by guard_floor")
    await syncd.in_step()
    assert sum(map(profiles.mailable, profiles.all)) == 40
    for plan in await held():
        assert (await syncd.command("approve", None, plan=plan["id"], rows=plan["n"]))[0] == "done"
    await syncd.set("shop", guard_percent=100, guard_floor=1000)
    await followed(syncd)
    few = sum(map(profiles.mailable, profiles.all))
    assert 0 < few < 40
    await followed(syncd, everyone=True)
    assert sum(map(profiles.mailable, profiles.all)) == 40
    await followed(syncd, lists=None, everyone=False, source="some")
    assert sum(map(profiles.mailable, profiles.all)) == 9
    await followed(syncd, source="default", when_gone="delete")
    await syncd.db.execute("delete from syncd.contact where id = 'c00040'")
    await until(lambda: "c00040" not in profiles.by_identity, "deleted there")
    await syncd.set("shop", when_gone="keep")
    assert (await syncd.command("sync", "shop"))[0] == "done"  # the row has been taken up
    await syncd.in_step()
    await syncd.db.execute("delete from syncd.contact where id = 'c00039'")
    await syncd.in_step()
    assert profiles.mailable(profiles.by_identity["c00039"])


async def test_a_raised_guard_releases_nothing_that_is_held(syncd: Service) -> None:
    """Whoever raises it has not looked at that plan: it goes by its number and its rows alone, and
    what is planned of its kind meanwhile waits with it. The next one is under the new guard."""
    await syncd.destination("shop", await syncd.sandbox(), guard_floor=3, guard_percent=1)
    await syncd.daemon()
    await syncd.in_step()
    profiles = syncd.boxes["shop"].state.profiles

    def mailed() -> int:
        return sum(map(profiles.mailable, profiles.all))

    async def waits(n: int) -> Any:
        plans = await syncd.db.fetch(
            "select p.id, count(j.*) as n from syncd.plan p join syncd.journal j"
            " on j.plan_id = p.id and j.state = 'held' where p.state = 'held' group by p.id"
        )
        assert len(plans) < 2, plans
        return plans and plans[0]["n"] == n and plans[0]

    before = mailed()
    await syncd.db.execute("delete from syncd.contact where id between 'c00031' and 'c00036'")
    await until(lambda: waits(6), "held")
    await syncd.set("shop", guard_floor=1000, guard_percent=100)
    assert (await syncd.command("sync", "shop"))[0] == "done"
    assert (await syncd.command("full", "shop"))[0] == "done"
    plan = await waits(6)
    assert plan
    assert mailed() == before
    await syncd.db.execute("delete from syncd.contact where id = 'c00037'")
    plan = await until(lambda: waits(7), "held with it")
    assert (await syncd.command("approve", None, plan=plan["id"], rows=7))[0] == "done"
    await syncd.in_step()
    assert mailed() == before - 7
    await syncd.db.execute("delete from syncd.contact where id between 'c00021' and 'c00030'")
    await until(lambda: mailed() == before - 17, "sent under the raised guard")
    await syncd.same("shop")


async def test_what_becomes_of_a_list_that_is_gone_is_followed(syncd: Service) -> None:
    """when_list_gone: kept, then deleted, then kept; each holds for lists that leave from then
    on."""
    box = await syncd.sandbox("redcappi")
    await redcappi_service.destination(syncd, "shop", box)
    daemon = await syncd.daemon()
    await syncd.in_step()

    def there() -> set[str]:
        return {one["name"] for one in box.snapshot()["lists"].values()}

    async def gone(key: str) -> None:
        await syncd.db.execute("delete from syncd.list where id = $1", key)
        await until(lambda: _left(syncd, key), f"list {key} is taken for gone")
        await syncd.in_step()

    assert {"List a", "List b", "List c"} <= there()
    await gone("a")
    await syncd.set("shop", when_list_gone="delete")
    assert (await syncd.command("sync", "shop"))[0] == "done"
    await gone("b")
    await until(lambda: "List b" not in there(), "deleted there")
    assert "List a" in there()
    await syncd.set("shop", when_list_gone="keep")
    assert (await syncd.command("sync", "shop"))[0] == "done"
    await gone("c")
    assert {"List a", "List c"} <= there()
    assert daemon.alive


async def _left(syncd: Service, key: str) -> bool:
    return bool(await syncd.db.fetchval(
        "select wanted = 'absent' from syncd.list_mirror where list_id = $1", key
    ))  # fmt: skip


async def test_options_limits_bells_credential_and_halt_are_followed(live: Service) -> None:
    """options, credential, in_flight, per_second, per_day, read_schedule, full_schedule, halted,
    name; what is changed is in control_log, with who, from what and to what."""
    syncd = live
    box = await syncd.sandbox()
    await syncd.db.execute("update syncd.contact set phone = '15112345678' where id = 'c00001'")
    await syncd.destination("shop", box, guard_floor=1000)
    syncd.know("second")
    daemon = await syncd.daemon()
    await syncd.in_step()

    one = box.state.profiles.by_identity["c00001"].properties
    assert "Phone" not in one, "without a country's code it is no number"
    options = {"base_url": box.url, "default_country_code": "49"}
    await syncd.set("shop", options=orjson.dumps(options).decode())
    await until(lambda: one.get("Phone") == "+4915112345678", "options")
    await syncd.in_step()
    await syncd.set("shop", in_flight=2, per_second=7.5, per_day=1000)
    assert (await syncd.command("sync", "shop"))[0] == "done"  # the row has been taken up
    await syncd.db.execute("update syncd.contact set city = 'Ur' where id = 'c00001'")
    await until(lambda: _limits(syncd, (7.5, 2, 1000)), "limits")

    runs = "select count(*) from syncd.run where kind = 'full' and finished_at is not null"
    before = await syncd.db.fetchval(runs)
    await syncd.set("shop", full_schedule="1s")
    await until(lambda: _more(syncd, runs, before), "a full pass by the clock")
    await syncd.set("shop", full_schedule="1d", read_schedule="1s")
    read = await syncd.db.fetchval("select max(read_at) from syncd.feed")
    await until(lambda: _read_since(syncd, read), "a reading by the clock")

    # Its secret is called as it is named, where `credential` is left out.
    await syncd.set("shop", read_schedule="1d", credential="nobody")
    await until(lambda: _halted(syncd, "secret 'nobody' is in none"), "halted")
    await syncd.set("shop", credential="second")
    await until(lambda: _halted(syncd, ""), "lifted")

    await syncd.set("shop", halted="closed for stocktaking")
    await syncd.db.execute("update syncd.contact set city = 'Uruk' where id = 'c00002'")
    assert (await syncd.command("sync", "shop"))[0] == "done"
    assert (await syncd.row("shop"))["halted"] == "closed for stocktaking"
    await syncd.set("shop", halted=None)
    await until(
        lambda: box.state.profiles.by_identity["c00002"].properties["City"] == "Uruk", "resumed"
    )
    await syncd.db.execute("update syncd.destination set name = 'store'")
    await syncd.db.execute("update syncd.contact set city = 'Eridu' where id = 'c00003'")
    await until(
        lambda: box.state.profiles.by_identity["c00003"].properties["City"] == "Eridu", "renamed"
    )
    assert daemon.alive
    row = await syncd.row("store")
    assert row["created_at"] < row["updated_at"]
    log = await syncd.db.fetch("select * from syncd.control_log order by id")
    told = [(one["row_name"], one["action"], one["old"], one["new"]) for one in log]
    assert ("shop", "update", '{"per_day": null, "in_flight": null, "per_second": null}',
            '{"per_day": 1000, "in_flight": 2, "per_second": 7.5}') in told  # fmt: skip
    assert told[-1] == ("store", "update", '{"name": "shop"}', '{"name": "store"}')
    assert {one["who"] for one in log} == {await syncd.db.fetchval("select session_user::text")}


async def test_a_quota_that_is_raised_is_used_at_once(syncd: Service) -> None:
    """Whoever was put off until the day ends does not wait for that."""
    await syncd.destination("shop", await syncd.sandbox(), guard_floor=1000)
    await syncd.daemon()
    await syncd.in_step()
    await syncd.set("shop", per_day=1)
    await syncd.db.execute("update syncd.contact set city = 'Ur' where id = 'c00001'")
    late = "select due_at > now() from syncd.journal where last_error like '%quota%'"
    await until(lambda: syncd.db.fetchval(late), "put off")

    await syncd.set("shop", per_day=1000)
    await syncd.in_step()


async def test_rows_are_followed_while_an_answer_is_waited_for_at_another_destination(
    syncd: Service,
) -> None:
    """A changed row is put together anew once what is in flight has ended: that holds up nobody."""
    slow = await syncd.sandbox()
    await syncd.destination("slow", slow, account="SLOW")
    await syncd.destination("shop", await syncd.sandbox())
    patient = {"REQUEST_TIMEOUT_SECONDS": "280", "LEASE_SECONDS": "300", "DRAIN_SECONDS": "280"}
    await syncd.daemon(**patient)
    await syncd.in_step()
    slow.set_faults(latency_ms=[270_000, 270_000])
    seen = slow.state.ledger.requests
    await syncd.db.execute("update syncd.contact set city = 'Ur' where id = 'c00001'")
    await until(lambda: slow.state.ledger.requests > seen, "in flight")

    await syncd.set("slow", guard_floor=60, when_gone="keep")
    await syncd.set("shop", fields='{"Town": "city"}', guard_percent=100)
    there = syncd.boxes["shop"].state.profiles.all
    await until(lambda: all(one.properties.get("Town") for one in there), "a new mapping is sent")
    sent = "select claimed_by from syncd.journal j where j.state = 'sent'"
    assert await syncd.db.fetchval(sent) is not None, "that answer is still waited for"


async def _limits(syncd: Service, said: tuple[object, ...]) -> bool:
    row = await syncd.db.fetchrow(
        "select per_second, in_flight, per_day from syncd.meter where meter = 'upload'"
    )
    return row is not None and tuple(row) == said


async def _more(syncd: Service, query: str, than: int) -> bool:
    return bool(await syncd.db.fetchval(query) > than)


async def _read_since(syncd: Service, then: Any) -> bool:
    return bool(await syncd.db.fetchval("select max(read_at) > $1 from syncd.feed", then))


async def _halted(syncd: Service, says: str) -> bool:
    halted = (await syncd.row("shop"))["halted"]
    return halted is None if not says else says in (halted or "")


# ── Rows that cannot be ─────────────────────────────────────────────────────────────────────

REFUSED = (
    "name = ''", "name = 'a b'", "name = '-x'", "provider = 'A B'", "source = 'nowhere'",
    "options = '[]'", "options = null", "credential = ''", "credential = 'a/b'", "fields = '[1]'",
    "fields = '{\"City\": 1}'", "fields = '{\"City\": null}'", "lists = array['a', null]",
    "everyone = true", "when_gone = 'vanish'", "when_list_gone = 'withdraw'", "schedule = ''",
    "read_schedule = ''", "full_schedule = null", "per_second = 0", "per_second = 'NaN'",
    "per_second = 'Infinity'", "in_flight = 0", "per_day = -1", "guard_percent = 101",
    "guard_percent = 'NaN'", "guard_floor = -1", "paused = null",
)  # fmt: skip


async def test_a_row_that_can_mean_nothing_is_refused_by_itself(pool: Pool) -> None:
    await pool.execute("insert into syncd.destination (name, provider) values ('x', 'p')")
    before = await pool.fetchrow("select * from syncd.destination")
    for said in REFUSED:
        with pytest.raises(asyncpg.IntegrityConstraintViolationError):
            await pool.execute(f"update syncd.destination set {said}")
    for said in ("'explode', '{}'", "'sync', '[]'", "'sync', null", "null, '{}'"):
        with pytest.raises(asyncpg.IntegrityConstraintViolationError):
            await pool.execute(f"insert into syncd.command (kind, args) values ({said})")
    for said in ("(name) values ('')", "(name, contact) values ('x', null)"):
        with pytest.raises(asyncpg.IntegrityConstraintViolationError):
            await pool.execute(f"insert into syncd.source {said}")
    assert await pool.fetchrow("select * from syncd.destination") == before


async def test_a_source_that_goes_away_holds_its_destinations_until_it_is_back(
    syncd: Service,
) -> None:
    """A row of `source` that names nothing; then a view that is dropped, and one that has lost a
    column, under a running daemon. Others are served meanwhile, and it lifts by itself."""
    view = "create view public.some as select id, email, city, subscribed from syncd.contact"
    await syncd.db.execute(
        f"{view}; insert into syncd.source (name, contact) values ('some', 'public.some')"
    )
    fields = orjson.dumps({"Town": "city"}).decode()
    await syncd.destination("shop", await syncd.sandbox(), source="some", fields=fields)
    await syncd.destination("other", await syncd.sandbox(), account="OTHER")
    daemon = await syncd.daemon()
    await syncd.in_step()
    there = syncd.boxes["shop"].state.profiles.by_identity
    for n, (away, back, says) in enumerate((
        ("update syncd.source set contact = 'public.nowhere' where name = 'some'",
         "update syncd.source set contact = 'public.some' where name = 'some'", "public.nowhere"),
        ("drop view public.some", view, "public.some"),
        (f"drop view public.some; {view.replace('email', '(1 / 0)::text as email')}",
         f"drop view public.some; {view}", "division by zero"),
        ("drop view public.some; create view public.some as select id, email from syncd.contact",
         f"drop view public.some; {view}", "does not exist"),
    )):  # fmt: skip
        await syncd.db.execute(away)
        await syncd.db.execute("update syncd.contact set city = $1 where id = 'c00001'", f"Ur {n}")
        await syncd.command("full", "shop")
        await until(functools.partial(_halted, syncd, says), f"{away}: held with its fault")
        args = {"email": "user8@example1.org", "reason": "r"}
        outcome, told = await syncd.command("lift", None, **args)
        assert outcome == "failed" or told["lifted"] == 0, told
        await syncd.in_step("other")
        await syncd.same("other")
        await syncd.db.execute(back)
        if n > 1:  # a row that is changed is tried at once, else the source is after ten seconds
            await syncd.set("shop", in_flight=n)
        await until(lambda: _halted(syncd, ""), f"{back}: lifted")
        await syncd.in_step()
        assert there["c00001"].properties["Town"] == f"Ur {n}"
    assert daemon.alive
    assert daemon.served == 1


# ── Commands ────────────────────────────────────────────────────────────────────────────────


async def test_a_command_outlives_whoever_took_it_and_tells_who_did_it_when(
    syncd: Service,
) -> None:
    await syncd.destination("shop", await syncd.sandbox())
    dead, mute = [
        await syncd.db.fetchval(
            "insert into syncd.worker (host, pid, version, alive_until)"
            f" values ('gone', 1, '', now() + interval '{left}') returning id"
        )
        for left in ("-1 s", "1 h")
    ]
    insert = "insert into syncd.command (kind, claimed_by) values ('retry', $1) returning id"
    taken, busy = [await syncd.db.fetchval(insert, one) for one in (dead, mute)]
    daemon = await syncd.daemon(listen="false")
    await syncd.in_step()

    async def row(number: int) -> Any:
        return await syncd.db.fetchrow("select * from syncd.command where id = $1", number)

    async def finished() -> Any:
        found = await row(taken)
        return found if found["finished_at"] else None

    done = await until(finished, "taken over")
    workers = await syncd.db.fetch("select id, host, pid from syncd.worker where host <> 'gone'")
    assert [(one["id"], one["pid"]) for one in workers] == [(done["claimed_by"], daemon.pid)]
    assert (done["outcome"], done["result"]) == ("done", '{"due": 0}')
    assert done["finished_at"] >= done["requested_at"]
    assert (await row(busy))["finished_at"] is None, "its worker lives, and is at it"
    await syncd.db.execute("update syncd.worker set alive_until = now() where id = $1", mute)
    await until(lambda: _has_ended(syncd, busy), "taken over from one that died later")
    assert len(daemon.told("command")) == 2


async def _has_ended(syncd: Service, number: int) -> bool:
    return bool(
        await syncd.db.fetchval(
            "select finished_at is not null from syncd.command where id = $1", number
        )
    )


async def test_what_is_decided_by_a_worker_that_dies_before_it_says_so_is_decided_once(
    syncd: Service,
) -> None:
    """approve, discard, retry, lift: killed between the decision and the row's outcome. Whoever
    takes them over finds what was decided, and what was said later is not touched by it."""
    box = await syncd.sandbox()
    await syncd.destination("shop", box, guard_floor=3)
    await syncd.destination("other", await syncd.sandbox(), account="OTHER", guard_floor=3)
    await syncd.db.execute("update syncd.contact set email = 'nonsense' where id = 'c00009'")
    first = await syncd.daemon(**service.MORTAL)
    await syncd.in_step()
    box.act("unsubscribe", email="user8@example1.org")
    await syncd.command("scan", "shop")
    noes = "select count(*) from syncd.opt_out where lifted_at is null"
    await until(lambda: syncd.db.fetchval(noes), "the no is read")
    await syncd.db.execute("delete from syncd.contact where id > 'c00030'")
    plans = "select p.id from syncd.plan p where p.state = 'held' order by p.destination_id"
    await until(lambda: _of_length(syncd, plans, 2), "both plans are held")
    await syncd.in_step()
    await first.terminated()
    approved, dropped = [row["id"] for row in await syncd.db.fetch(plans)]

    asked: Sequence[tuple[str, str | None, dict[str, Any], dict[str, int]]] = (
        ("approve", None, {"plan": approved, "rows": 10}, {"due": 10}),
        ("discard", None, {"plan": dropped}, {"dropped": 10}),
        ("retry", "shop", {}, {"due": 1}),
        ("lift", None, {"email": "user8@example1.org", "reason": "r"},
         {"lifted": await syncd.db.fetchval(noes), "tombstones": 0}),
    )  # fmt: skip
    admin = await _kept_from_saying_so(syncd)
    daemons = [await syncd.daemon(**service.MORTAL) for _ in asked]
    numbers = [
        await syncd.db.fetchval(
            "insert into syncd.command (kind, destination, args) values ($1, $2, $3) returning id",
            kind, destination, orjson.dumps(args).decode(),
        )
        for kind, destination, args, _ in asked
    ]  # fmt: skip
    waiting = "select pid from pg_locks where locktype = 'advisory' and not granted"
    await until(lambda: _of_length(syncd, waiting, len(asked)), "all decided, none has said so")
    await _die(syncd, admin, daemons, waiting)
    await syncd.db.execute(
        "insert into syncd.opt_out (destination_id, email, kind)"
        " select id, 'user8@example1.org', 'unsubscribed' from syncd.destination"
        " where name = 'shop'"
    )
    await syncd.daemon(**service.MORTAL)
    for number, (kind, _, _, result) in zip(numbers, asked, strict=True):
        await until(functools.partial(_has_ended, syncd, number), f"{kind} is taken over")
        row = await syncd.db.fetchrow("select * from syncd.command where id = $1", number)
        assert row is not None
        assert (row["outcome"], orjson.loads(row["result"])) == ("done", result), kind
    await syncd.in_step()
    profiles = box.state.profiles
    assert sum(map(profiles.mailable, profiles.all)) == 40 - 10 - 1 - 1, "approved, refused, no"
    others = syncd.boxes["other"].state.profiles
    assert sum(map(others.mailable, others.all)) == 40 - 1 - 1, "discarded: nobody is taken out"
    assert await syncd.db.fetchval(noes) == 1, "a no that was said since still stands"


async def _of_length(syncd: Service, query: str, n: int) -> bool:
    return len(await syncd.db.fetch(query)) == n


async def _kept_from_saying_so(syncd: Service) -> asyncpg.Connection:
    """Whoever writes a command's outcome waits for this connection."""
    admin = await asyncpg.connect(syncd.url, server_settings=service.OURS)
    syncd.stack.push_async_callback(admin.close)
    await admin.execute(
        "select pg_advisory_lock(4711);"
        "create function public.wait() returns trigger language plpgsql as $$ begin"
        " perform pg_advisory_xact_lock(4711); return new; end $$;"
        "create trigger a_test before update on syncd.command for each row"
        " when (new.outcome is not null) execute function public.wait()"
    )
    return admin


async def _die(
    syncd: Service, admin: asyncpg.Connection, daemons: Sequence[Process], waiting: str
) -> None:
    """As hosts do that lose their power: nothing of what they had asked for goes on."""
    for one in daemons:
        one.kill()
    await syncd.db.execute(f"select pg_terminate_backend(w.pid) from ({waiting}) w")
    await until(lambda: _of_length(syncd, waiting, 0), "nobody waits any more")
    await admin.execute("drop trigger a_test on syncd.command; select pg_advisory_unlock(4711)")


async def test_arguments_of_a_wrong_type_are_a_result_and_no_end_of_the_daemon(
    syncd: Service,
) -> None:
    await syncd.destination("shop", await syncd.sandbox())
    daemon = await syncd.daemon()
    for kind, args, says in (
        ("lift", {"email": "a@x.test", "reason": "r", "list": 5}, "args.list must be"),
        ("lift", {"email": 5, "reason": "r"}, "lift needs args.email"),
        ("retry", {"contacts": [1]}, "args.contacts must be"),
        ("retry", {"contacts": {"a": 1}}, "args.contacts must be"),
        ("approve", {"plan": 1.5, "rows": 1}, "args.plan must be a number"),
        ("approve", {"plan": 2**63, "rows": 1}, "args.plan must be a number"),
        ("approve", {"plan": 1, "rows": "many"}, "args.rows must be a number"),
        ("discard", {"plan": [7]}, "args.plan must be a number"),
    ):
        outcome, result = await syncd.command(kind, None, **args)
        assert (outcome, says in result["error"]) == ("failed", True), (kind, args, result)
    assert (await syncd.command("retry"))[0] == "done"
    assert daemon.alive


async def test_an_argument_that_is_not_known_ends_a_command_before_anything_is_done(
    syncd: Service,
) -> None:
    """A slip of the pen must not lift every no, or try everybody again."""
    await syncd.db.execute("update syncd.contact set email = 'nonsense' where id = 'c00009'")
    await syncd.destination("shop", await syncd.sandbox())
    await syncd.daemon()
    await syncd.in_step()
    await syncd.db.execute(
        "insert into syncd.opt_out (destination_id, email, kind)"
        " select id, 'user8@example1.org', 'unsubscribed' from syncd.destination"
    )
    lift = {"email": "user8@example1.org", "reason": "r"}
    for kind, args, *says in (
        ("lift", {**lift, "lists": "n"}, "args.lists is not known; did you mean args.list?",
         "lift takes args.email, args.reason, args.list"),
        ("lift", {**lift, "to": "n", "of": 1}, "args.of is not known\nargs.to is not known\n"),
        ("retry", {"contact": ["c00007"]}, "args.contact is not known; did you mean args.contacts",
         "retry takes args.contacts; nothing was done"),
        ("audit", {"repiar": True}, "args.repiar is not known; did you mean args.repair",
         "audit takes args.sample, args.repair"),
        ("approve", {"plan": 1, "row": 1}, "did you mean args.rows?"),
        ("discard", {"plan": 1, "rows": 1}, "args.rows is not known", "discard takes args.plan;"),
        ("full", {"shop": True}, "args.shop is not known", "full takes no args; nothing was done"),
    ):  # fmt: skip
        outcome, result = await syncd.command(kind, None, **args)
        assert outcome == "failed", (kind, args, result)
        assert all(said in result["error"] for said in says), (kind, args, result)
    open_ = "select count(*) from syncd.opt_out where lifted_at is null"
    refused = "select attempts from syncd.journal where state = 'rejected'"
    assert await syncd.db.fetchval(open_) == 1
    assert len(await syncd.db.fetch(refused)) == 1


# ── What is kept ────────────────────────────────────────────────────────────────────────────


async def test_runs_and_deliveries_are_kept_by_the_day_and_dropped_by_the_day(
    syncd: Service,
) -> None:
    await syncd.destination("shop", await syncd.sandbox())
    await syncd.db.execute(
        "create table syncd.delivery_20200101 partition of syncd.delivery"
        " for values from ('2020-01-01 00:00+00') to ('2020-01-02 00:00+00');"
        "insert into syncd.delivery (destination_id, contact_id, kind, outcome, at)"
        " values (1, 'old', 'upsert', 'updated', '2020-01-01 12:00+00'),"
        "        (1, 'stray', 'upsert', 'updated', '2020-02-01 12:00+00')"
    )
    await syncd.daemon(keep_deliveries_days="3")
    await syncd.in_step()
    await syncd.db.execute("update syncd.contact set city = 'Ur' where id < 'c00003'")
    await syncd.in_step()
    gone = "select to_regclass('syncd.delivery_20200101') is null"
    await until(lambda: syncd.db.fetchval(gone), "dropped as a whole")
    rows = await syncd.db.fetch(
        "select tableoid::regclass::text as part, count(*) as n from syncd.delivery group by 1"
    )
    today = await syncd.db.fetchval("select to_char(now() at time zone 'UTC', 'YYYYMMDD')")
    assert [tuple(row) for row in rows] == [(f"syncd.delivery_{today}", 2)]
    run = await syncd.db.fetchrow("select * from syncd.run where kind = 'full' order by id desc")
    assert run is not None
    assert (run["destination_id"], run["error"]) == (1, None)
    assert run["started_at"] <= run["finished_at"]
    assert orjson.loads(run["counts"]) != {}


# ── Names ───────────────────────────────────────────────────────────────────────────────────

EVIL = """x'); drop table syncd.journal; --"$$%s {0} \\ """


async def test_names_in_control_rows_are_names_whatever_they_look_like(syncd: Service) -> None:
    """Relations, columns, keys of JSON, lists and sources are called like an attack, and serve."""
    q = '"' + EVIL.replace('"', '""') + '"'
    await syncd.db.execute(
        f"""
        create schema {q};
        create table {q}.{q} (id text primary key, email text, {q} text, attributes jsonb);
        create table {q}.list (id text primary key, name text);
        create table {q}.member (list_id text, contact_id text, primary key (list_id, contact_id))
        """
    )
    key = orjson.dumps({EVIL: "by key"}).decode()
    await syncd.db.execute(f"insert into {q}.{q} values ('1', 'a@x.test', 'in it', $1)", key)
    await syncd.db.execute(f"insert into {q}.list values ($1, $1)", EVIL)
    await syncd.db.execute(f"insert into {q}.member values ($1, '1')", EVIL)
    await syncd.db.execute(
        "insert into syncd.source values ($1, $2, $3, $4)",
        EVIL, f"{q}.{q}", f"{q}.list", f"{q}.member",
    )  # fmt: skip
    await syncd.db.execute(f"select syncd.watch('{q.replace(chr(39), chr(39) * 2)}."
                           f"{q.replace(chr(39), chr(39) * 2)}', 'id', $1)", EVIL)  # fmt: skip
    before = await _tables(syncd)
    box = await syncd.sandbox()
    fields = {"Plain": EVIL, "Keyed": f"attributes.{EVIL}"}
    await syncd.destination(
        "shop", box, source=EVIL, lists=[EVIL], fields=orjson.dumps(fields).decode()
    )
    # And names that are nowhere: told as what they are.
    nowhere = orjson.dumps({EVIL: EVIL}).decode()
    await syncd.destination("odd0", box, fields=nowhere)
    await syncd.destination("odd1", box, lists=[EVIL])
    await syncd.daemon()
    await syncd.in_step("shop")
    await syncd.db.execute(f"update {q}.{q} set {q} = 'changed'")
    await until(
        lambda: "changed" in box.state.profiles.by_identity["1"].properties.values(), "changed"
    )
    profile = box.state.profiles.by_identity["1"]
    assert profile.properties == {
        "Plain": "changed", "Keyed": "by key", "Lists": profile.properties["Lists"],
    }  # fmt: skip
    assert len(profile.properties["Lists"]) == 1
    for name in ("odd0", "odd1"):
        halted = await until(functools.partial(_fault, syncd, name), "held with its fault")
        assert repr(EVIL)[1:-1] in halted or EVIL in halted
    assert (await syncd.command("retry", EVIL)) == (
        "failed",
        {"error": f"destination {EVIL!r} does not exist; there is: odd0, odd1, shop"},
    )
    assert await _tables(syncd) == before


async def _fault(syncd: Service, name: str) -> Any:
    return (await syncd.row(name))["halted"]


async def _tables(syncd: Service) -> list[Any]:
    return await syncd.db.fetch("select oid from pg_class where relkind in ('r', 'p') order by 1")


# ── Removing a destination ──────────────────────────────────────────────────────────────────


async def test_a_no_outlives_the_destination_it_was_told_at(pool: Pool) -> None:
    """Also where there is no other one at that moment; a lifted one is at an end everywhere."""
    await pool.execute(
        "insert into syncd.contact (id, email) values ('1', 'ann@x.test'), ('2', 'bob@x.test');"
        "insert into syncd.destination (name, provider) values ('old', 'p');"
        "insert into syncd.opt_out (destination_id, email, kind, contact_id) values"
        " (1, 'ann@x.test', 'unsubscribed', '1'), (1, 'bob@x.test', 'vanished', '2')"
    )
    await pool.execute("delete from syncd.destination where name = 'old'")
    await pool.execute(
        "insert into syncd.destination (name, provider) values ('new', 'p');"
        "insert into syncd.mirror (destination_id, contact_id, email, subscribed, state)"
        " values (2, '1', 'ann@x.test', true, 'here'), (2, '2', 'bob@x.test', true, 'here')"
    )
    told = await pool.fetch("select contact_id, mailable, why from syncd.consent order by 1")
    assert [tuple(one) for one in told] == [
        ("1", False, "unsubscribed at a removed destination"), ("2", True, None),
    ]  # fmt: skip
    await pool.execute("delete from syncd.change")
    await pool.execute("update syncd.opt_out set lifted_at = now(), lifted_by = 'me'")
    assert await pool.fetchval("select bool_and(mailable) from syncd.consent")
    changed = await pool.fetch("select distinct contact_id from syncd.change order by 1")
    assert [one["contact_id"] for one in changed] == ["1", "2"]
