"""A small company with one destination at each of some providers, moved by whole passes."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import orjson

from syncd.app import App, opened
from syncd.assemble import options_of
from syncd.backfill import Backfill
from syncd.db import Pool
from syncd.flow import Flow
from syncd.meter import scope_key
from syncd.model import Traits
from syncd.providers import provider
from syncd.sandbox import Handle, serve
from syncd.secrets import account_key
from syncd.settings import Settings

LIMITS: Mapping[str, dict[str, Any]] = {"constantcontact": {"job_seconds": 0.02}}
OPTIONS: Mapping[str, dict[str, Any]] = {
    "constantcontact": {"poll_seconds": 0.05},
    "copernica": {"database": "7616", "subscribed_values": {"newsletter": "yes"}},
    "redcappi": {"meters": {"api": {"per_second": 0, "in_flight": 0}}},
}
FINDINGS = {"clevertap": {"delete_works": True, "merges_by_email": False, "negative_dates": True}}
"""What its canaries would find in three seconds."""


@dataclass(slots=True)
class Company:
    """Its database, the stand-ins of its providers, and syncd as one process."""

    app: App
    boxes: dict[str, Handle]
    environ: dict[str, str] = field(default_factory=dict)

    @property
    def pool(self) -> Pool:
        return self.app.pool

    # ── Passes ──────────────────────────────────────────────────────────────────────────────

    async def backfill(
        self, *names: str, force: bool = False, quiet: bool = True
    ) -> dict[str, Any]:
        """Read, pass and push, as the command does; quiet: all must be in step then."""
        job = Backfill(self.app, await self.app.destinations(names), force=force)
        await job.run()
        told: dict[str, Any] = job.summary()["destinations"]
        for name, one in told.items() if quiet else ():
            assert one["in_step"], (name, one, [part.why for part in job.parts])
        return told

    async def settle(self, *names: str) -> None:
        """Read opt-outs, look at what has changed, push it: what a daemon does all the time."""
        async with self.flows(*names) as flows:
            for flow in flows.values():
                await flow.read()
            for _ in range(2):  # a no heard at one is news at the others
                for flow in flows.values():
                    await flow.look()
                    await flow.pump(until_empty=True)

    async def scan(self, *names: str) -> None:
        """Read all there is, twice: one whole scan proves no absence."""
        async with self.flows(*names) as flows:
            for flow in flows.values():
                for _ in range(2):  # what was written a moment ago need not be readable yet
                    await self.pool.execute(
                        "update syncd.mirror set pushed_at = pushed_at - interval '1 min'"
                        " where destination_id = $1",
                        flow.destination.id,
                    )
                    await flow.read()
                    await flow.scan_all()
                await flow.look()
                await flow.pump(until_empty=True)
        await self.settle(*names)

    @asynccontextmanager
    async def flows(self, *names: str) -> AsyncIterator[dict[str, Flow]]:
        async with self.app.worker() as worker, AsyncExitStack() as stack:
            everyone = await self.app.destinations()
            made: dict[str, Flow] = {}
            for row in await self.app.destinations(names):
                one = await stack.enter_async_context(self.app.assembled(row, everyone, worker))
                assert one.flow is not None
                assert await one.flow.prepare(), one.flow.tally.failure
                made[row.name] = one.flow
            yield made

    # ── What is there ───────────────────────────────────────────────────────────────────────

    def there(self, name: str) -> dict[str, bool]:
        """Every address that the provider holds, in lower case, and whether it may be mailed."""
        found: dict[str, bool] = {}
        for one in self.boxes[name].snapshot()["profiles"].values():
            emails = one["emails"] if "emails" in one else [_email(one)]
            for email in emails:
                key = email.lower()
                found[key] = found.get(key, False) or bool(one["mailable"])
        return found

    def mailed(self, name: str, email: str) -> bool:
        return self.there(name).get(email.lower(), False)


def _email(one: Mapping[str, Any]) -> str:
    return str(one["email"] if "email" in one else one["fields"]["email"])


def traits_of(name: str) -> Traits:
    """Of the provider with the options that these tests give it."""
    kind = provider(name)
    return kind.traits


@asynccontextmanager
async def company(
    database: str,
    pool: Pool,
    names: Sequence[str],
    *,
    environ: Mapping[str, str] | None = None,
    contacts: Sequence[str] = ("ann", "bob", "cyd"),
    options: Mapping[str, Mapping[str, Any]] | None = None,
    **columns: Any,
) -> AsyncIterator[Company]:
    """Contacts ID with the addresses ID@x.test in the list `news`; destinations named after their
    providers. Nobody is turned on again at any of them unless a test says so."""
    await pool.execute("insert into syncd.list values ('news', 'Newsletter'), ('vip', 'VIP')")
    for one in contacts:
        await add(pool, one)
    known = {"SYNCD_SECRET_TOMBSTONE": "a long secret"} if environ is None else dict(environ)
    async with AsyncExitStack() as stack:
        boxes: dict[str, Handle] = {}
        for name in names:
            limits = LIMITS.get(name, {})
            boxes[name] = await stack.enter_async_context(serve(name, **limits))
            known |= {f"SYNCD_SECRET_{name.upper()}": _secret(boxes[name])}
        settings = Settings(database_url=database, pool_size=8, control_poll_seconds=0.05)
        app = await stack.enter_async_context(opened(settings, known))
        made = Company(app, boxes, known)
        for name in names:
            await destination(made, name, name, **(options or {}).get(name, {}), columns=columns)
        yield made
        for name, box in boxes.items():
            state = box.snapshot()
            breaches = [*state["violations"], *state["duplicates"]]
            assert breaches == [], (name, breaches)
            assert state["resubscribed"] == [], name


async def destination(
    at: Company, name: str, kind: str, columns: Mapping[str, Any] | None = None, **options: Any
) -> None:
    """One more destination, at the stand-in of *kind*."""
    box = at.boxes[kind]
    said = {"base_url": box.url, **OPTIONS.get(kind, {}), **options}
    if kind == "copernica":
        said["auth_url"] = f"{box.url}/authenticate"
    row = {
        "name": name, "provider": kind, "credential": kind, "per_second": 2000.0,
        "guard_percent": 100.0, "guard_floor": 1000, "options": orjson.dumps(said).decode(),
        **(columns or {}),
    }  # fmt: skip
    if kind == "copernica":
        row.setdefault("fields", '{"first_name": "first_name"}')
    places = ", ".join(f"${n}" for n in range(1, len(row) + 1))
    await at.pool.execute(
        f"insert into syncd.destination ({', '.join(row)}) values ({places})", *row.values()
    )
    if kind in FINDINGS:
        await _learnt(at, name)


async def _learnt(at: Company, name: str) -> None:
    (row,) = await at.app.destinations([name])
    kind = provider(row.provider)
    credential = await at.app.secrets.credential(row.credential, kind.credential_model)
    scope = scope_key(
        kind.name, kind.scope(options_of(row, kind), credential), account_key(at.environ)
    )
    value = await at.app.secrets.get(row.credential)
    await at.pool.execute(
        "insert into syncd.account (scope, findings, credential_hash) values ($1, $2, $3)"
        " on conflict do nothing",
        scope, orjson.dumps(FINDINGS[kind.name]).decode(), at.app.secrets.fingerprint(value),
    )  # fmt: skip


def _secret(box: Handle) -> str:
    return orjson.dumps(box.state.demo).decode()


async def add(pool: Pool, contact_id: str, email: str | None = None, **columns: Any) -> None:
    """A contact in the list `news`."""
    row = {"id": contact_id, "email": email or f"{contact_id}@x.test", "first_name": "A", **columns}
    places = ", ".join(f"${n}" for n in range(1, len(row) + 1))
    await pool.execute(
        f"insert into syncd.contact ({', '.join(row)}) values ({places})", *row.values()
    )
    await pool.execute("insert into syncd.membership values ('news', $1)", contact_id)
