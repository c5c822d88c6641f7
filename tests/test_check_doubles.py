"""`check` names contacts that a provider holds twice: by its last reading, or asked for a few."""

from __future__ import annotations

import pytest
from company import Company, company
from test_consent_roads import ANN, KNOWS

from syncd.check_destination import check_account, check_row
from syncd.db import Pool
from syncd.model import Finding


async def findings(at: Company, name: str) -> list[Finding]:
    (row,) = await at.app.destinations([name])
    _, known = await check_row(at.app, row, frozenset())
    assert known is not None
    return await check_account(at.app, known, [row], probe=False)


def about(found: list[Finding], subject: str) -> list[Finding]:
    return [one for one in found if one.subject.endswith(f": {subject}")]


def forget(at: Company, name: str) -> None:
    """The double was made by hand, and is no breach of ours."""
    assert at.boxes[name].snapshot()["violations"] == []
    at.boxes[name].reset()


@pytest.mark.parametrize("name", ["clevercampaign", "copernica", "redcappi"])
async def test_whom_the_last_reading_has_met_twice(database: str, pool: Pool, name: str) -> None:
    """At the other two an address is there once."""
    async with company(database, pool, [name], options=KNOWS) as at:
        await at.backfill()
        assert about(await findings(at, name), "doubles") == []
        place = {}
        if name == "redcappi":
            at.boxes[name].set_limits(repeated_add="double")
            news = "select remote_id from syncd.list_mirror where list_id = 'news'"
            place = {"list": int(await pool.fetchval(news))}
        at.boxes[name].act("add", email=ANN.upper(), **place)
        await at.scan(name)
        (found,) = about(await findings(at, name), "doubles")
        assert found.level == "warning"
        assert "1 contact of yours" in found.says
        assert "address: ann;" in found.says
        assert ANN not in found.says
        forget(at, name)


async def test_whom_a_first_backfill_would_find_twice_at_copernica(
    database: str, pool: Pool
) -> None:
    """Fifty who are to be made are looked up; whose key is another's, is another's."""
    name = "copernica"
    async with company(database, pool, [name]) as at:
        (none,) = about(await findings(at, name), "adoption")
        assert (none.level, "3 contacts" in none.says) == ("ok", True)
        for _ in range(2):
            at.boxes[name].act("add", email=ANN)
        (found,) = about(await findings(at, name), "adoption")
        assert (found.level, found.says.endswith("1 there more than once: ann")) == (
            "warning",
            True,
        )
        at.boxes[name].next_fault("error", path="/v1/database/7616/profiles", status=503)
        (fault,) = about(await findings(at, name), "adoption")
        assert (fault.level, "could be looked up" in fault.says) == ("warning", True)
        await at.backfill()
        assert about(await findings(at, name), "adoption") == []
        forget(at, name)
