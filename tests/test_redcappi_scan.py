"""Reading RedCappi page by page: whatever `offset` means, everybody is seen, and nobody twice."""

from __future__ import annotations

from typing import Any

import pytest
from test_redcappi import C, N, adapter, pages

from syncd.errors import Indivisible, Refused, Transient
from syncd.model import Page
from syncd.sandbox import Handle, serve


def fill(box: Handle, count: int, list_id: int = 101) -> set[str]:
    there = {f"p{number}@x.org" for number in range(count)}
    for email in sorted(there):
        box.act("add", email=email, list=list_id)
    return there


def seen(found: list[Page]) -> list[str]:
    return [str(one.email) for page in found for one in page.records]


def meanings() -> list[dict[str, Any]]:
    """Everything that the reference leaves open about paging."""
    made: list[dict[str, Any]] = []
    for offset in ("rows", "pages"):
        for zero in ({}, {"offset_from": 1}, {"offset_from": 1, "offset_zero": "refused"}):
            made += [{"offset": offset, **zero, **cap} for cap in (
                {}, {"page_cap": 7}, {"page_cap": 7, "page_by": "capped"}, {"order": "newest"},
            )]  # fmt: skip
    return made


@pytest.mark.parametrize("options", meanings(), ids=str)
@pytest.mark.parametrize("count", [0, 1, 2, 3, 9, 10, 11, 25, 61])
async def test_everybody_is_seen_whatever_an_offset_means(
    options: dict[str, Any], count: int
) -> None:
    async with serve("redcappi", **options) as box:
        box.act("add_list", name="Newsletter")
        there = fill(box, count)
        async with adapter(box, page_size=10) as red:
            for turn in range(2):  # the second time with what was learned
                found = await pages(red, N)
                assert set(seen(found)) == there
                if turn:
                    assert len(found) <= max(1, count)
            if count > 1:
                assert red.findings["offset_unit"] == options["offset"]
        forced = options["offset"]
        async with adapter(box, page_size=10, offset_unit=forced) as red:
            assert set(seen(await pages(red, N))) == there
        assert box.state.ledger.violations == []


@pytest.mark.parametrize("size", [2, 5, 10])
@pytest.mark.parametrize("options", meanings(), ids=str)
async def test_a_scan_goes_on_from_any_page_after_a_crash(
    options: dict[str, Any], size: int
) -> None:
    async with serve("redcappi", **options) as box:
        for name in ("Newsletter", "Customers"):
            box.act("add_list", name=name)
        there = fill(box, 25) | fill(box, 13, 102)
        async with adapter(box, page_size=size) as red:
            for list_id in (N, None):
                whole = await pages(red, list_id)
                for number, page in enumerate(whole):
                    before = set(seen(whole[: number + 1]))
                    async with adapter(box, page_size=size) as other:
                        after = set(seen(await pages(other, list_id, page.cursor)))
                    assert before | after == there


async def test_the_whole_account_is_read_list_by_list() -> None:
    async with serve("redcappi") as box:
        for name in ("Newsletter", "Empty one", "Customers"):
            box.act("add_list", name=name)
        fill(box, 12)
        box.act("add", email="p3@x.org", list=103)
        async with adapter(box, page_size=5) as red:
            found = await pages(red, None)
    places: dict[str, set[str]] = {}
    for record in (one for page in found for one in page.records):
        places.setdefault(str(record.email), set()).update(record.lists)
    assert len(places) == 12
    assert places["p3@x.org"] == {N, "103"}


@pytest.mark.parametrize("empty", ["[]", "{}", "null", '""', "404"])
async def test_an_empty_list_is_asked_twice_and_looked_up(empty: str) -> None:
    async with serve("redcappi", empty=empty) as box:
        box.act("add_list", name="Newsletter")
        async with adapter(box) as red:
            assert await pages(red, N) == []
            assert box.state.ledger.by_path == {
                "/v1/contacts.json/101/contacts/": 2,
                "/v1/lists.json/": 1,
            }
            fill(box, 1)
            assert seen(await pages(red, N)) == ["p0@x.org"]
            assert "offset_unit" not in red.findings  # a single row does not tell


@pytest.mark.parametrize("errors_in", ["status", "body"])
async def test_a_list_that_is_gone_is_no_empty_list(errors_in: str) -> None:
    async with serve("redcappi", errors_in=errors_in) as box:
        box.act("add_list", name="Newsletter")
        async with adapter(box) as red:
            with pytest.raises(Indivisible, match="not there any more"):
                await pages(red, C)


@pytest.mark.parametrize("offset", ["rows", "pages"])
async def test_pages_become_smaller_where_the_server_does_not_manage(offset: str) -> None:
    async with serve("redcappi", offset=offset, page_slow_above=40) as box:
        box.act("add_list", name="Newsletter")
        there = fill(box, 130)
        async with adapter(box, page_size=200) as red:
            assert set(seen(await pages(red, N))) == there
            box.set_limits(page_slow_above=1)
            with pytest.raises(Transient):
                await pages(red, N)
            box.set_limits(page_slow_above=None)
            found = await pages(red, N)  # what was slow once is asked for again in full
            assert set(seen(found)) == there
            assert "page_size" not in red.findings


async def test_a_page_is_halved_in_the_middle_of_a_list() -> None:
    for offset in ("rows", "pages"):
        async with serve("redcappi", offset=offset) as box:
            box.act("add_list", name="Newsletter")
            there = fill(box, 100)
            async with adapter(box, page_size=30, offset_unit=offset) as red:
                scan = red.scan(N, None)
                first = await anext(scan)
                box.next_fault("error")
                assert set(seen([first, *[page async for page in scan]])) == there


async def test_a_refused_key_and_a_refused_connection_are_not_the_pages_size() -> None:
    async with serve("redcappi") as box:
        box.act("add_list", name="Newsletter")
        async with adapter(box) as red:
            for kind, error in (("revoked", Refused), ("rate_429", Transient)):
                before = box.state.ledger.requests
                box.next_fault(kind)  # type: ignore[arg-type]
                with pytest.raises(error):
                    await pages(red, N)
                assert box.state.ledger.requests == before + 1
    async with adapter(box) as red:
        with pytest.raises(Transient, match="cannot connect"):
            await pages(red, N)


async def test_rows_that_move_up_while_a_scan_runs_are_still_seen() -> None:
    async with serve("redcappi") as box:
        box.act("add_list", name="Newsletter")
        there = sorted(fill(box, 100))
        async with adapter(box, page_size=30, offset_unit="rows") as red:
            scan = red.scan(N, None)
            found = [await anext(scan)]
            for email in there[:8]:
                box.act("delete", email=email)
            found += [page async for page in scan]
    assert set(seen(found)) == set(there)
