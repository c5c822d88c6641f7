"""The comparison that every end-to-end test rests on can fail, in each of the ways it looks at."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
import pytest_asyncio
import service
from service import Service

from syncd.sandbox import Handle

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def synced(cluster: str, template: str) -> AsyncIterator[Service]:
    """Forty contacts at a destination, in step; nothing runs any more."""
    async with service.served(cluster, template) as made:
        await service.fill(made.db, 40)
        await made.db.execute("update syncd.contact set subscribed = false where id = 'c00002'")
        await made.destination("shop", await made.sandbox())
        daemon = await made.daemon()
        await made.in_step()
        await made.db.execute("delete from syncd.contact where id = 'c00004'")
        await made.db.execute("update syncd.contact set subscribed = false where id = 'c00005'")
        await made.in_step()
        assert await daemon.terminated() == 0
        yield made


async def test_a_destination_in_step_shows_no_difference(synced: Service) -> None:
    await synced.same("shop")
    assert "c00002" not in synced.boxes["shop"].state.profiles.by_identity  # a no is not created
    assert len(synced.boxes["shop"].state.profiles.all) == 39  # with the one that is gone


def _with(key: str, do: Callable[[Any, Any], object]) -> Callable[[Handle], object]:
    return lambda box: do(box.state, box.state.profiles.by_identity[key])


def _set(box: Handle, key: str, name: str) -> object:
    return box.act("set_property", identity=key, name=name, value="X")


SPOILT: list[tuple[str, Callable[[Handle], object]]] = [
    ("c00006: is not there", _with("c00006", lambda s, p: s.profiles.delete(p))),
    ("c00007: Email", _with("c00007", lambda _, p: p.emails.__setitem__(0, "x@example.org"))),
    ("c00008: Lists", _with("c00008", lambda _, p: p.properties["Lists"].append("z"))),
    ("c00009: properties", lambda b: _set(b, "c00009", "City")),
    ("c00010: properties", lambda b: _set(b, "c00010", "Y")),
    ("c00011: properties", _with("c00011", lambda _, p: p.properties.pop("City"))),
    ("c00012: not mailable", lambda b: b.act("unsubscribe_profile", identity="c00012")),
    ("c00013: not mailable", lambda b: b.act("bounce", identity="c00013")),
    ("c00005: mailable against", lambda b: b.act("resubscribe", identity="c00005")),
    ("c00004: gone, but mailable", lambda b: b.act("resubscribe", identity="c00004")),
    ("c00004: gone, but still in lists",
     _with("c00004", lambda _, p: p.properties.update(Lists=["a"]))),
    ("c00002: properties", lambda b: b.state.profiles.create("identity", "c00002")),
    ("zzz: gone, but mailable", lambda b: b.state.profiles.merge(
        b.state.profiles.create("identity", "zzz"), {"Email": "zzz@example.org"}, print)),
    ("two profiles with one address", lambda b: b.state.profiles.merge(
        b.state.profiles.create("identity", "yyy"), {"Email": "user20@example6.org"}, print)),
    ("violation", lambda b: b.state.ledger.violations.append({"rule": "made up"})),
    ("resubscribed", lambda b: b.state.writes.resubscribed.append({"who": "made up"})),
]  # fmt: skip


@pytest.mark.parametrize(("says", "spoil"), SPOILT, ids=[says for says, _ in SPOILT])
async def test_what_is_spoilt_at_the_provider_is_seen(
    synced: Service, says: str, spoil: Callable[[Handle], object]
) -> None:
    before = [one for one in await synced.differences("shop") if one.startswith(says)]
    spoil(synced.boxes["shop"])
    after = [one for one in await synced.differences("shop") if one.startswith(says)]
    assert (len(before), len(after)) == (0, 1)


@pytest.mark.parametrize(
    ("says", "statement"),
    [
        ("c00021: Email", "update syncd.contact set email = 'n@example.org' where id = 'c00021'"),
        ("c00022: properties", "update syncd.contact set city = null where id = 'c00022'"),
        ("c00023: gone, but mailable", "delete from syncd.contact where id = 'c00023'"),
        ("c00024: Lists", "delete from syncd.membership where contact_id = 'c00024'"),
        (
            "c00025: mailable against",
            (
                "insert into syncd.opt_out (destination_id, contact_id, kind)"
                " select id, 'c00025', 'unsubscribed' from syncd.destination"
            ),
        ),
        (
            "c00026: mailable against",
            (
                "insert into syncd.opt_out (destination_id, email, kind)"
                " select id, 'user26@example5.org', 'bounced' from syncd.destination"
            ),
        ),
        (
            "c00027 is refused: no",
            (
                "insert into syncd.journal"
                " (destination_id, contact_id, wish, lane, state, last_error)"
                " select id, 'c00027', 'upsert', 1, 'rejected', 'no' from syncd.destination"
            ),
        ),
    ],
)
async def test_what_changes_in_the_source_is_seen(
    synced: Service, says: str, statement: str
) -> None:
    before = [one for one in await synced.differences("shop") if one.startswith(says)]
    await synced.db.execute(statement)
    after = [one for one in await synced.differences("shop") if one.startswith(says)]
    assert (len(before), len(after)) == (0, 1)
    assert await synced.outstanding("shop") != ""


async def test_who_is_excused_must_stand_in_the_journal(synced: Service) -> None:
    assert "c00028 is not refused" in await synced.differences("shop", excused={"c00028"})


async def test_what_a_process_must_not_print_is_found(synced: Service) -> None:
    process = synced.start("--no-such-option")
    assert await process.ended() == 2
    process.err.write_text("not JSON\nfor ann@example.org JDG-PAS-CODE\nTraceback (most recent…\n")
    process.args = ("run",)
    found = synced.faults()
    process.err.write_text("")
    assert len(found) == 3
