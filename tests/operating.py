"""A database with contacts, a CleverTap sandbox as destination 'ct', and `syncd` as a process."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import leaks
import orjson

from syncd.app import App, opened
from syncd.db import Pool
from syncd.model import Learned
from syncd.sandbox import Handle, serve
from syncd.settings import Settings

SECRET = '{"account_id":"TEST-0A0-000-0A0Z","passcode":"JDG-PAS-CODE"}'


@dataclass(slots=True)
class Ran:
    """How one command ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return orjson.loads(self.out)


@dataclass(slots=True)
class Desk:
    """What an operator has before them."""

    url: str
    pool: Pool
    box: Handle
    environ: dict[str, str] = field(default_factory=dict)

    async def __call__(self, *args: str, code: int | None = 0, **environ: str) -> Ran:
        """Run `syncd ARGS`; the exit code must be *code* (None: any)."""
        known = {k: v for k, v in os.environ.items() if not k.startswith(("SYNCD_", "PG"))}
        known |= {"SYNCD_DATABASE_URL": self.url, **self.environ, **environ}
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "syncd", *args,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=known,
            cwd="/",
        )  # fmt: skip
        out, err = await asyncio.wait_for(process.communicate(), 180)
        ran = Ran(process.returncode or 0, out.decode(), err.decode())
        leaks.check(ran.out + ran.err, leaks.secrets_in(known), args)
        assert code in (None, ran.code), (args, ran)
        assert "Traceback" not in ran.err, ran.err
        return ran

    async def destination(self, name: str = "ct", **columns: Any) -> int:
        """One more destination at the sandbox."""
        options = {"base_url": self.box.url, **columns.pop("options", {})}
        values = {"provider": "clevertap", "credential": "ct", **columns}
        names = ", ".join(["name", "options", *values])
        places = ", ".join(f"${n + 1}" for n in range(len(values) + 2))
        return int(
            await self.pool.fetchval(
                f"insert into syncd.destination ({names}) values ({places}) returning id",
                name, orjson.dumps(options).decode(), *values.values(),
            )
        )  # fmt: skip

    async def contacts(self, *ids: str) -> None:
        """Contacts with addresses ID@x.test, all of them in list 'news'."""
        await self.pool.execute(
            "insert into syncd.list values ('n', 'news') on conflict do nothing"
        )
        for one in ids:
            await self.pool.execute(
                "insert into syncd.contact (id, email, first_name) values ($1, $2, $3)",
                one, f"{one}@x.test", one.capitalize(),
            )  # fmt: skip
        await self.pool.execute(
            "insert into syncd.membership select 'n', unnest($1::text[])", list(ids)
        )

    @asynccontextmanager
    async def app(self) -> AsyncIterator[App]:
        settings = Settings(database_url=self.url, pool_size=4)
        async with opened(settings, self.environ) as app:
            yield app

    async def settle(self, *, full: bool = False, names: Sequence[str] = ()) -> None:
        """Read, plan and push until nothing is due, as one worker would."""
        async with self.app() as app, app.worker() as worker:
            everyone = await app.destinations()
            for d in await app.destinations(names):
                async with app.assembled(d, everyone, worker) as made:
                    made.adapter.learn = _nothing_to_learn
                    flow = made.flow
                    assert flow is not None
                    assert await flow.prepare(), flow.tally.failure
                    await flow.reader.read()
                    fresh = not await app.pool.fetchval(
                        "select position is not null from syncd.feed where destination_id = $1",
                        d.id,
                    )
                    if full or fresh:
                        await flow.backfill()
                    else:
                        await flow.look()
                        await flow.pump(until_empty=True)

    async def mailable(self, contact_id: str) -> bool:
        """What the provider itself would say."""
        profile = self.box.snapshot()["profiles"][contact_id]
        return bool(profile["mailable"])


async def _nothing_to_learn() -> Learned:
    """The canaries take three seconds; what they find is tested with the adapter."""
    return Learned({"delete_works": True, "merges_by_email": False, "negative_dates": True})


@asynccontextmanager
async def desk(database: str, pool: Pool) -> AsyncIterator[Desk]:
    async with serve("clevertap") as box:
        yield Desk(database, pool, box, {"SYNCD_SECRET_CT": SECRET, "SYNCD_LOG_FORMAT": "json"})
