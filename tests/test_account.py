"""Whose account a destination fills is written down; the credential of another one is held."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import orjson
import pytest
from people import destination, fill

from syncd.app import App, opened
from syncd.backfill import Backfill
from syncd.check import check
from syncd.db import Pool
from syncd.providers import NamesAccount, TellsOwner, providers
from syncd.providers import clevertap_canary as canary
from syncd.sandbox import Handle, serve
from syncd.settings import Settings

TELL = sorted(
    name
    for name, kind in providers().items()
    if isinstance(kind, NamesAccount) or hasattr(kind, "owner")
)
OPTIONS: Mapping[str, Mapping[str, Any]] = {
    "clevertap": {},
    "constantcontact": {"poll_seconds": 0.05},
    "copernica": {"database": "7616", "subscribed_values": {"newsletter": "yes"}},
}
OTHER: Mapping[str, Mapping[str, str]] = {
    "clevertap": {"account_id": "OTHER-9Z9-999-9Z9Z"},
    "constantcontact": {"username": "somebody.else"},
    "copernica": {"access_token": "f" * 32},
}
RENEWED: Mapping[str, Mapping[str, str]] = {
    "clevertap": {"passcode": "NEW-PAS-CODE"},
    "constantcontact": {"password": "a new password"},
    "copernica": {"access_token": "e" * 32},
}


@dataclass(slots=True)
class Desk:
    url: str
    pool: Pool
    box: Handle
    environ: dict[str, str] = field(default_factory=dict)

    def use(self, **keys: str) -> None:
        """Put another credential behind the same name."""
        known = {**self.box.state.demo, **keys}
        self.environ["SYNCD_SECRET_MARKETING"] = orjson.dumps(known).decode()

    def allow(self, provider: str) -> None:
        """What the provider takes besides, and whose account it then is."""
        match provider:
            case "clevertap":
                codes = [self.box.state.demo["passcode"], RENEWED[provider]["passcode"]]
                accounts = {self.box.state.demo["account_id"]: codes}
                self.box.set_limits(accounts={**accounts, OTHER[provider]["account_id"]: codes})
            case "constantcontact":
                other = {OTHER[provider]["username"]: self.box.state.demo["password"]}
                user = self.box.state.demo["username"]
                self.box.set_limits(accounts={user: RENEWED[provider]["password"], **other})
            case "copernica":
                tokens = dict.fromkeys((OTHER[provider]["access_token"], "e" * 32), "any")
                self.box.set_limits(tokens={**self.box.state.limits.tokens, **tokens})

    @asynccontextmanager
    async def app(self) -> AsyncIterator[App]:
        async with opened(Settings(database_url=self.url, pool_size=6), self.environ) as app:
            yield app

    async def backfill(self) -> tuple[int, dict[str, Any]]:
        async with self.app() as app:
            job = Backfill(app, await app.destinations())
            await job.run()
            return job.exit_code, job.summary()["destinations"]["marketing"]

    async def row(self) -> Any:
        return await self.pool.fetchrow(
            "select d.halted, f.account from syncd.destination d"
            " join syncd.feed f on f.destination_id = d.id"
        )


@asynccontextmanager
async def desk(database: str, pool: Pool, provider: str) -> AsyncIterator[Desk]:
    async with serve(provider) as box:
        await fill(pool, 20)
        await destination(pool, box, provider=provider, options=OPTIONS[provider],
                          fields='{"first_name": "first_name"}'
                          if provider == "copernica" else None)  # fmt: skip
        await pool.execute("update syncd.destination set per_second = 1000")
        made = Desk(database, pool, box)
        made.use()
        yield made


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(canary, "LOOKS", (0.05,) * 40)


def test_those_whose_answers_or_credentials_name_the_account_are_all_here() -> None:
    assert sorted(OPTIONS) == TELL
    assert [n for n in TELL if isinstance(providers()[n], TellsOwner)] == ["copernica"]


@pytest.mark.parametrize("provider", TELL)
async def test_another_account_behind_the_same_name_is_held_until_the_old_one_is_back(
    database: str, pool: Pool, provider: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with desk(database, pool, provider) as at:
        assert (await at.backfill())[0] == 0
        before, pinned = at.box.snapshot(), (await at.row())["account"]
        assert pinned
        assert not [one for one in at.box.state.demo.values() if one in pinned]
        first = at.box.state.limits.model_dump()
        at.allow(provider)
        at.use(**OTHER[provider])
        if provider == "copernica":
            at.box.set_limits(account="35")
        await pool.execute("update syncd.contact set first_name = 'Zoë'")

        code, done = await at.backfill()

        assert (code, done["in_step"]) == (78, False)
        assert "filled from: nothing is read or sent" in (await at.row())["halted"]
        after = at.box.snapshot()
        assert after["profiles"] == before["profiles"]
        asked = {path for path, n in after["by_path"].items() if n > before["by_path"].get(path, 0)}
        assert asked <= {"/v1/identity"}  # reads nobody's contacts either
        monkeypatch.setenv("SYNCD_DATABASE_URL", database)
        found = [one async for one in check(None, environ=at.environ)]
        assert any("filled from" in one.says for one in found if one.level == "error")

        at.use()
        at.box.set_limits(**first)
        assert (await at.backfill())[0] == 0
        assert (await at.row())["halted"] is None


@pytest.mark.parametrize("provider", TELL)
async def test_a_new_credential_of_the_same_account_goes_on(
    database: str, pool: Pool, provider: str
) -> None:
    async with desk(database, pool, provider) as at:
        assert (await at.backfill())[0] == 0
        pinned = (await at.row())["account"]
        at.allow(provider)
        at.use(**RENEWED[provider])
        await pool.execute("update syncd.contact set first_name = 'Zoë' where id = 'c00002'")

        assert (await at.backfill())[0] == 0

        assert tuple(await at.row()) == (None, pinned)
        assert "Zoë" in str(at.box.snapshot()["profiles"])
        assert at.box.snapshot()["violations"] == []


async def test_two_destinations_of_one_account_are_told_by_whatever_credential(
    database: str, pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Copernica's limits are counted by token; what is written is the account's."""
    async with desk(database, pool, "copernica") as at:
        at.allow("copernica")
        same = {"options": {**OPTIONS["copernica"], "lists_as": "field"}, "provider": "copernica"}
        await destination(pool, at.box, "second", credential="second", **same)
        renewed = {**at.box.state.demo, **RENEWED["copernica"]}
        at.environ["SYNCD_SECRET_SECOND"] = orjson.dumps(renewed).decode()
        await pool.execute("update syncd.feed set account = '34'")
        await pool.execute('update syncd.destination set fields = \'{"first_name": "first_name"}\'')
        monkeypatch.setenv("SYNCD_DATABASE_URL", database)

        found = [one async for one in check(None, environ=at.environ)]

        says = [one.says for one in found if one.subject == "accounts"]
        assert says == ["destinations marketing, second fill one account by different credentials"]


async def test_destinations_that_share_a_quota_but_no_account(
    database: str, pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with desk(database, pool, "constantcontact") as at:
        await destination(
            pool, at.box, "second", credential="second", provider="constantcontact",
            options=OPTIONS["constantcontact"],
        )  # fmt: skip
        other = {**at.box.state.demo, **OTHER["constantcontact"]}
        at.environ["SYNCD_SECRET_SECOND"] = orjson.dumps(other).decode()
        monkeypatch.setenv("SYNCD_DATABASE_URL", database)

        found = [one async for one in check(None, environ=at.environ)]

        [says] = [one.says for one in found if one.subject == "accounts"]
        assert says.startswith("destinations marketing, second share one quota; the smallest holds")
