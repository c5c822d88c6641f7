"""`syncd explain`: why Ann gets the mail or not, and every row that is held about her."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
from operating import Desk, desk

from syncd.db import Pool
from syncd.explain import Explained, explain


@pytest.fixture
async def at(database: str, pool: Pool) -> AsyncIterator[Desk]:
    async with desk(database, pool) as made:
        yield made


async def asked(at: Desk, email: str = "ann@x.test") -> Explained:
    async with at.app() as app:
        return await explain(app, email)


async def said(at: Desk, email: str = "ann@x.test", where: str = "ct") -> str:
    """The sentences of one contact at one destination."""
    told = await asked(at, email)
    assert len(told.destinations[where]) == 1
    return "\n".join(told.destinations[where][0].says)


async def test_nothing_is_held_about_a_stranger(at: Desk) -> None:
    await at.destination()

    told = await asked(at, "nobody@x.test")

    assert (told.known, told.contacts, told.rows) == (False, [], {})
    assert (await at("explain", "nobody@x.test")).out == "nothing is held about nobody@x.test\n"


async def test_before_after_and_while_a_change_is_on_its_way(at: Desk) -> None:
    await at.destination()
    await at.contacts("ann")

    before = await asked(at)
    assert not before.destinations["ct"][0].mailed
    assert before.destinations["ct"][0].says[:3] == [
        "contact ann does not get mail yet at ct.",
        "The source wants it mailed, in lists news.",
        "ct was never given it.",
    ]

    await at.settle()
    after = await asked(at, " ANN@x.test")
    one = after.destinations["ct"][0]
    assert one.mailed
    assert one.says[0] == "contact ann gets mail at ct."
    assert one.there is not None
    assert one.there["fields"]["First Name"] == "Ann"
    assert one.differs == []

    await at.pool.execute("update syncd.contact set first_name = 'Anna'")
    changed = (await asked(at)).destinations["ct"][0]
    assert changed.differs == [{"what": "First Name", "source": "Anna", "there": "Ann"}]
    assert "no change is planned yet" in changed.says[-1]


async def test_an_opt_out_says_what_when_where_and_how_it_ends(at: Desk) -> None:
    await at.destination()
    await at.destination("second", options={"lists_property": "Other"})
    await at.contacts("ann")
    await at.settle(names=["ct"])
    at.box.act("unsubscribe", email="ann@x.test")
    async with at.app() as app, app.worker() as worker:
        d = (await app.destinations(["ct"]))[0]
        async with app.assembled(d, [d], worker) as made:
            assert made.flow is not None
            await made.flow.reader.read()

    text = await said(at)
    assert text.startswith("contact ann gets no mail at ct.")
    assert "Unsubscribed at ct, 20" in text
    assert "no newer consent, so it holds. If it is wrong: `syncd lift ann@x.test" in text
    assert "gets no mail at second" in await said(at, where="second")  # one no counts for all

    await at.pool.execute("update syncd.contact set consented_at = now()")
    await at.pool.execute("update syncd.opt_out set occurred_at = now() - interval '1 h'")
    text = await said(at)
    assert "newer consent (20" in text
    assert "outdoes it." in text
    assert "does not get mail yet" in await said(at, where="second")

    await at.pool.execute("update syncd.opt_out set lifted_at = now(), lifted_by = 'eve: oops'")
    assert "by eve: oops." in await said(at)


@pytest.mark.parametrize(
    ("statement", "words"),
    [
        ("update syncd.contact set subscribed = false", "source says that it is not subscribed"),
        ("delete from syncd.contact", "The source does not have the contact (any more)."),
        ("delete from syncd.membership", "It is in none of the lists that go there (n)"),
        (
            "insert into syncd.contact (id, email) values ('aaa', 'ann@x.test')",
            "It cannot be sent: shares its address with contact ann, which holds it here.",
        ),
        ("insert into syncd.erasure (contact_id) values ('ann')", "An erasure was asked for"),
        ("update syncd.destination set paused = true", "ct is paused: nothing is sent until"),
        ("update syncd.destination set halted = 'no plan'", "ct is halted: no plan."),
        ("update syncd.mirror set digest = null", "to be confirmed by the next write"),
        ("update syncd.mirror set state = 'withdrawn'", "It was withdrawn there"),
        ("update syncd.mirror set state = 'absent'", "It is rightly not there"),
        (
            "update syncd.mirror set lacking = '{field:Phone odd}'",
            "Not conveyed there: field:Phone",
        ),
    ],
)
async def test_every_reason_has_its_sentence(at: Desk, statement: str, words: str) -> None:
    await at.contacts("ann")
    await at.destination(lists=["n"])
    await at.settle()

    await at.pool.execute(statement)
    if "insert into syncd.contact " in statement:
        await at.pool.execute("insert into syncd.membership values ('n', 'aaa')")
        await at.settle(full=True)

    told = await asked(at)
    assert words in "\n".join(line for one in told.destinations["ct"] for line in one.says)


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ("'rejected', 'code 509: too odd', null", "It was refused: code 509: too odd. Mend"),
        ("'held', null, 1", "A change is held in plan 1 since"),
        ("'due', 'too busy', null", "A change is pending since"),
    ],
)
async def test_what_is_on_its_way_has_its_sentence(at: Desk, columns: str, words: str) -> None:
    await at.contacts("ann")
    await at.destination()
    await at.pool.execute(
        "insert into syncd.journal (destination_id, contact_id, wish, lane, state, last_error,"
        f" plan_id) values (1, 'ann', 'upsert', 1, {columns})"
    )

    assert words in await said(at)


async def test_while_the_no_has_not_arrived_mail_may_still_go_out(at: Desk) -> None:
    await at.destination()
    await at.contacts("ann")
    await at.settle()
    await at.pool.execute("update syncd.contact set subscribed = false")

    one = (await asked(at)).destinations["ct"][0]

    assert one.mailed
    assert "may still get mail until the change below arrives" in one.says[0]


async def test_json_is_every_row_held_in_all_tables(at: Desk) -> None:
    await at.destination()
    await at.contacts("ann", "bob")
    await at.settle()
    await at.pool.execute("update syncd.contact set first_name = 'Anna' where id = 'ann'")
    await at.settle()
    for statement in (
        (
            "insert into syncd.opt_out (destination_id, contact_id, email, kind)"
            " values (1, 'ann', 'ann@x.test', 'bounced')"
        ),
        (
            "insert into syncd.seen (destination_id, remote_id, email, scan_id)"
            " values (1, '7', 'ANN@x.test', 1)"
        ),
        (
            "insert into syncd.command (kind, args, finished_at, outcome)"
            " values ('lift', '{\"email\": \"Ann@x.test\"}', now(), 'done')"
        ),
        "insert into syncd.erasure (contact_id, finished_at) values ('ann', now())",
        (
            "insert into syncd.journal (destination_id, contact_id, wish, lane, state)"
            " values (1, 'ann', 'upsert', 1, 'due')"
        ),
        "insert into syncd.sharer values (1, 'ann', 'ann@x.test', 'ann', true)",
        (
            "insert into syncd.intent (destination_id, claim, hi, claimed_by, addresses)"
            " values (1, 99, 'z', 1, '{ann@x.test}')"
        ),
        "insert into syncd.control_log (relation, row_name, action) values ('opt_out', '1', 'x')",
    ):
        await at.pool.execute(statement)

    told = (await at("explain", "ann@x.test", "--json")).json

    assert set(told) == {"email", "known", "contacts", "destinations", "faults", "rows",
                         "erasures"}  # fmt: skip
    assert set(told["rows"]) == {
        "syncd.contact", "syncd.membership", "syncd.mirror", "syncd.journal", "syncd.sharer",
        "syncd.opt_out", "syncd.delivery", "syncd.seen", "syncd.intent", "syncd.change",
        "syncd.erasing", "syncd.erasure", "syncd.command", "syncd.control_log",
    }  # fmt: skip
    assert "bob" not in str(told)
    assert told["rows"]["syncd.mirror"][0]["destination"] == "ct"
    assert told["rows"]["syncd.delivery"][0]["outcome"] == "updated"
    assert set(told["destinations"]["ct"][0]) == {
        "contact_id", "mailed", "says", "desired", "there", "differs",
    }  # fmt: skip


async def test_tables_are_all_accounted_for(at: Desk) -> None:
    """A table of ours with an address or a contact id that `explain` does not know is a fault."""
    rows: list[Any] = await at.pool.fetch(
        "select distinct c.table_name::text from information_schema.columns c"
        "  join information_schema.tables t using (table_schema, table_name)"
        " where c.table_schema = 'syncd' and t.table_type = 'BASE TABLE'"
        "   and c.column_name in ('contact_id', 'email', 'email_hash', 'addresses')"
        "   and c.table_name !~ '^delivery_'"
    )

    assert {row[0] for row in rows} == {
        "audited", "change", "contact", "delivery", "erasing", "erasure", "intent", "journal",
        "membership", "mirror", "missing", "opt_out", "seen", "sharer", "staged",
    }  # fmt: skip


async def test_an_address_that_only_an_opt_out_remembers(at: Desk) -> None:
    await at.destination()
    await at.pool.execute(
        "insert into syncd.opt_out (destination_id, email, kind)"
        " values (1, 'old@x.test', 'complained')"
    )

    told = await asked(at, "old@x.test")

    assert (told.known, told.contacts, told.destinations) == (True, [], {"ct": []})
    assert "no contact has this address" in (await at("explain", "old@x.test")).out


async def test_a_faulty_destination_does_not_hide_the_others(at: Desk) -> None:
    await at.destination()
    await at.destination("odd", provider="mailghost")
    await at.contacts("ann")

    told = await asked(at)

    assert "ct" in told.destinations
    assert "'mailghost' is not known" in told.faults[0]


async def test_what_cannot_be_explained_is_no_success(at: Desk) -> None:
    await at.destination()
    await at.contacts("ann")
    await at("explain", "ann@x.test", code=0)
    await at.pool.execute("update syncd.source set contact = 'public.nothing'")

    shown = await at("explain", "ann@x.test", code=78)
    told = await at("explain", "ann@x.test", "--json", code=78)

    assert "not explained: source 'default': contact 'public.nothing' does not exist" in shown.out
    assert told.json["faults"]
