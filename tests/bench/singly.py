"""The ideal script for a provider that takes one contact a call: the same signed requests, alone.

`-m tests.bench.singly PROVIDER N OPTIONS` (JSON) reads windows, pushes through the adapter over a
bare aiohttp session, writes back by `unnest`; prints one JSON line. No journal, no claims, no
meters, no retries: what it lacks is what a sync costs. `serve PROVIDER` is its stand-in,
the strict one that rehearsals use, without limits.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from typing import Any

import aiohttp
import asyncpg
import uvloop
from yarl import URL

from syncd.model import Answer, Can, Change, Person, Request, Verb
from syncd.providers import provider
from syncd.sandbox import serve

from . import bare

CONCURRENCY, FLUSH = 32, 1000
OPTIONS: Mapping[str, Mapping[str, Any]] = {
    "clevercampaign": {},
    "copernica": {"database": "Contacts", "subscribed_values": {"newsletter": "yes"}},
    "constantcontact": {"bulk_from": 1_000_000},
    "redcappi": {},
}
"""What the destination says beside where to send and that there are no limits."""

UPSERT = """
insert into mirror (provider, contact_id, digest, remote_id)
select 1, * from unnest($1::bigint[], $2::uuid[], $3::text[])
    on conflict (provider, contact_id) do update
   set digest = excluded.digest, remote_id = excluded.remote_id, pushed_at = now()"""


class Bare:
    """A wire that signs and sends, and believes every answer."""

    def __init__(self, kind: Any, options: Any, credential: Any, session: Any) -> None:
        self.kind, self.credential, self.session = kind, credential, session
        self.base = kind.base_url(options).rstrip("/")
        self.signer = kind.signer() if hasattr(kind, "signer") else None
        self.opening = asyncio.Lock()
        self.requests = 0

    async def send(self, request: Request) -> Answer:
        if hasattr(self.kind, "complete"):
            request = self.kind.complete(self.credential, request)
        if self.signer is None:
            return await self._exchange(request, self.kind.sign(self.credential, request))
        async with self.opening:
            if (first := self.signer.opening()) is not None:
                self.signer.opened(await self._exchange(first, {}))
        while True:
            signed = self.signer.sign(self.credential, request)
            answer = await self._exchange(request, signed)
            if not self.signer.renewed(signed, answer):
                return answer

    async def _exchange(self, request: Request, signed: Mapping[str, str]) -> Answer:
        self.requests += 1
        url = URL(self.base + request.target, encoded=True)
        headers = {**request.headers, **signed}
        async with self.session.request(
            request.method, url, data=request.body or None, headers=headers, allow_redirects=False
        ) as got:
            body = await got.read()
            if got.status >= 500 or got.status == 429:
                raise RuntimeError(f"{request.method} {got.status}")
            return Answer(got.status, {n.lower(): v for n, v in got.headers.items()}, body)


async def ideal(name: str, n: int, told: Mapping[str, Any]) -> dict[str, Any]:
    kind: Any = provider(name)
    options = kind.options_model.model_validate(told)
    credential = kind.credential_model.model_validate_json(os.environ["SYNCD_SECRET_ONE"])
    connector = aiohttp.TCPConnector(limit=CONCURRENCY)
    reads = await asyncpg.connect(os.environ["SYNCD_DATABASE_URL"])
    writes = await asyncpg.connect(os.environ["SYNCD_DATABASE_URL"])
    await writes.execute("truncate mirror")
    async with aiohttp.ClientSession(
        connector=connector, skip_auto_headers=("Content-Type",)
    ) as session:
        wire = Bare(kind, options, credential, session)
        adapter = kind(wire, options, {})
        learned = await adapter.learn()
        adapter = kind(wire, options, {} if learned is None else dict(learned.findings))
        lists = {"1": "1"}
        if adapter.traits.can & Can.LISTS:
            there = {title: one for one, title in (await adapter.lists()).items()}
            lists = {"1": there.get("List 1") or await adapter.create_list("List 1")}
        fields = {f: c for f, c in kind.traits.default_fields.items() if c in bare.NAMES}
        key = kind.key_column(options)
        statement = await reads.prepare(bare.DIFF)
        queue: asyncio.Queue[Any] = asyncio.Queue(2 * 5000)
        done: list[tuple[int, Any, str]] = []
        turn, flushes = asyncio.Lock(), set()

        async def flush(rows: list[tuple[int, Any, str]]) -> None:
            async with turn:
                await writes.execute(UPSERT, *map(list, zip(*rows, strict=True)))

        async def produce() -> None:
            for low in range(0, n, bare.WINDOW):
                for row in await statement.fetch(low, min(low + bare.WINDOW, n)):
                    await queue.put(row)
            for _ in range(CONCURRENCY):
                await queue.put(None)

        async def work() -> None:
            nonlocal done
            while (row := await queue.get()) is not None:
                want = Person(row["email"], {f: row[c] for f, c in fields.items()}, lists, True)
                remote = None if key is None else {key.name: str(row["id"])}
                change = Change(str(row["id"]), Verb.PUT, want, None, remote, True, False)
                (outcome,) = await adapter.push([change])
                assert type(outcome).__name__ == "Applied", outcome
                done.append((row["id"], row["d"], json.dumps(outcome.remote)))
                if len(done) >= FLUSH:
                    part, done = done, []
                    task = asyncio.create_task(flush(part))
                    flushes.add(task)
                    task.add_done_callback(flushes.discard)

        wire.requests, spent, began = 0, used(), time.perf_counter()
        await asyncio.gather(produce(), *[work() for _ in range(CONCURRENCY)])
        await asyncio.gather(*flushes)
        if done:
            await flush(done)
        wall = time.perf_counter() - began
    return {
        "wall_s": round(wall, 3),
        "client_cpu_s": round(used() - spent, 3),
        "requests": wire.requests,
    }


def used() -> float:
    spent = resource.getrusage(resource.RUSAGE_SELF)
    return spent.ru_utime + spent.ru_stime


@contextlib.contextmanager
def sandbox(name: str) -> Iterator[Mapping[str, Any]]:
    """The stand-in of a provider, without limits: {"url", "credential"}."""
    command = [sys.executable, "-m", "tests.bench.singly", "serve", name]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as running:
        assert running.stdout
        try:
            yield json.loads(running.stdout.readline())
        finally:
            running.terminate()


async def serving(name: str) -> None:
    async with serve(name, keep_history=False) as handle:
        unlimited = {
            f: None for f in ("per_second", "in_flight") if hasattr(handle.state.limits, f)
        }
        handle.set_limits(**unlimited)
        print(json.dumps({"url": handle.url, "credential": handle.state.demo}), flush=True)
        await asyncio.Event().wait()


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        uvloop.run(serving(sys.argv[2]))
    else:
        print(json.dumps(uvloop.run(ideal(sys.argv[1], int(sys.argv[2]), json.loads(sys.argv[3])))))
