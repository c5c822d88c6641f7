"""`python -m tests.bench [WHAT … | all] [--n N] [--pairs P]`; `--help` names what there is.

Starts its own PostgreSQL (fsync on) and a stand-in for the provider; prints one JSON line a
measurement: the ratio, and both raw sides. Pairs are interleaved, figures are medians. The ideal
script is found through SYNCD_IDEAL, else beside the repository in shared/perf.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import asyncpg

from syncd.migrate import migrate
from syncd.providers import provider

from . import bare, bloat, fleet, latency, scale, server, singly

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
SMALL = 100_000
EMPTY = """
truncate syncd.mirror, syncd.journal, syncd.delivery, syncd.change, syncd.sharer, syncd.tally,
         syncd.intent, syncd.run, syncd.staged;
delete from syncd.plan;
update syncd.feed set position = null, owes_full = true, here = 0, generation = null"""


def ideal() -> Path | None:
    """The ideal script, if it is here."""
    if told := os.environ.get("SYNCD_IDEAL"):
        return Path(told)
    beside = ROOT.parent / "shared" / "perf" / "ideal.py"
    return beside if beside.is_file() else None


@dataclass
class Bench:
    """One run of the benches."""

    uri: str
    postmaster: int
    port: int
    n: int
    pairs: int

    def say(self, what: str, ratio: float | None, **facts: object) -> None:
        line = {"bench": what, "ratio": None if ratio is None else round(ratio, 3), **facts}
        print(json.dumps(line), flush=True)

    @property
    def provider(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def environ(self, url: str) -> dict[str, str]:
        secret = json.dumps({"account_id": "bench", "passcode": "bench"})
        pair = json.dumps({"public_key": "bench", "private_key": "bench"})
        ours = {"SYNCD_DATABASE_URL": url, "SYNCD_SECRET_BENCH": secret, "SYNCD_SECRET_PAIR": pair}
        return {**os.environ, **ours, "BENCH_PROVIDER": self.provider}

    async def seen(self) -> Mapping[str, Any]:
        """What reached the provider since this was last asked."""
        async with aiohttp.ClientSession() as s, s.get(f"{self.provider}/_seen") as answer:
            told: Mapping[str, Any] = await answer.json()
            return told

    async def process(self, url: str, *command: str) -> dict[str, Any]:
        """Run a Python process that prints one JSON line; adds what PostgreSQL spent on it."""
        before = server.busy(self.postmaster)
        running = await asyncio.create_subprocess_exec(
            sys.executable,
            *command,
            cwd=ROOT,
            env=self.environ(url),
            stdout=subprocess.PIPE,
        )
        out, _ = await running.communicate()
        if running.returncode:
            raise SystemExit(f"{command} ended with {running.returncode}")
        told: dict[str, Any] = json.loads(out.splitlines()[-1])
        return {**told, "pg_cpu_s": round(server.busy(self.postmaster) - before, 2)}

    async def syncd(self, url: str, *command: str) -> dict[str, Any]:
        return await self.process(url, "-m", "tests.bench.runner", *command)

    async def database(self, n: int) -> str:
        return await server.filled(self.uri, n, self.port)

    async def execute(self, url: str, *statements: str) -> None:
        connection = await asyncpg.connect(url)
        for statement in statements:
            await connection.execute(statement)
        await connection.close()

    # ── Backfill ────────────────────────────────────────────────────────────────────────────

    async def ours_filled(self, url: str) -> dict[str, Any]:
        await self.execute(url, EMPTY, "checkpoint")
        await self.seen()
        told = await self.syncd(url, "backfill")
        connection = await asyncpg.connect(url)
        here = await connection.fetchval("select count(*) from syncd.mirror where state = 'here'")
        await connection.close()
        assert here == (n := await self.size(url)), f"{here} of {n} contacts arrived: {told}"
        return told

    async def size(self, url: str) -> int:
        connection = await asyncpg.connect(url)
        count: int = await connection.fetchval("select count(*) from contacts")
        await connection.close()
        return count

    async def ideal_filled(self, url: str, n: int, script: Path) -> dict[str, Any]:
        return await self._ideal(url, script, "/1/upload", "batch", "--conc", "4", "--n", str(n))

    async def _ideal(self, url: str, script: Path, path: str, *how: str) -> dict[str, Any]:
        await self.execute(url, "checkpoint")
        target = f"{self.provider}{path}"
        return await self.process(url, str(script), "--mode", *how, "--dsn", url, "--url", target)

    async def backfill(self) -> None:
        small = await self.database(SMALL)
        url = await self.database(self.n)
        if (script := ideal()) is None:
            print("the ideal script is not here: set SYNCD_IDEAL; no ratios", file=sys.stderr)
        ours, theirs = [], []
        for _ in range(self.pairs):
            if script is not None:
                theirs.append(await self.ideal_filled(url, self.n, script))
            ours.append(await self.ours_filled(url))
        at_small = await self.ours_filled(small)
        peak = _median(ours, "rss_mb")
        pairs = list(zip(ours, theirs, strict=False))
        ratios = [o["wall_s"] / t["wall_s"] for o, t in pairs]
        spent = [
            (o["cpu_s"] + o["pg_cpu_s"]) / (t["client_cpu_s"] + t["pg_cpu_s"]) for o, t in pairs
        ]
        self.say(
            "backfill",
            statistics.median(ratios) if ratios else None,
            n=self.n,
            ratios=[round(one, 2) for one in ratios],
            cpu_ratio=round(statistics.median(spent), 2) if spent else None,
            syncd={k: _median(ours, k) for k in ("wall_s", "cpu_s", "pg_cpu_s")},
            ideal={k: _median(theirs, k) for k in ("wall_s", "client_cpu_s", "pg_cpu_s")}
            if theirs
            else None,
        )
        small_mb = at_small["rss_mb"]
        self.say("memory", peak / small_mb, n=self.n, peak_mb=peak, peak_mb_at_small=small_mb)

    # ── Nothing changed ─────────────────────────────────────────────────────────────────────

    async def in_step(self, n: int) -> str:
        """The database, with both mirrors full."""
        url = await self.database(n)
        connection = await asyncpg.connect(url)
        ours = await connection.fetchval("select count(*) from syncd.mirror where state = 'here'")
        theirs = await connection.fetchval("select count(*) from mirror")
        await connection.close()
        if ours != n:
            await self.ours_filled(url)
        if theirs != n:
            await self.execute(url, FILL_MIRROR.format(columns=bare.COLUMNS))
        await self.execute(url, "vacuum analyze syncd.mirror", "vacuum analyze mirror")
        return url

    async def nothing(self) -> None:
        url = await self.in_step(self.n)
        plain, ours = [], []
        for _ in range(self.pairs):
            plain.append(await bare.nothing(url, self.n))
            await self.seen()
            ours.append(await self.syncd(url, "pass"))
            assert not (await self.seen())["records"], "a pass over nothing new sent something"
        ratios = [o["wall_s"] / p for o, p in zip(ours, plain, strict=True)]
        self.say(
            "nothing",
            statistics.median(ratios),
            n=self.n,
            ratios=[round(one, 2) for one in ratios],
            syncd={k: _median(ours, k) for k in ("wall_s", "cpu_s", "pg_cpu_s", "rss_mb")},
            bare_s=round(statistics.median(plain), 2),
        )

    # ── Keyed ───────────────────────────────────────────────────────────────────────────────

    async def keyed(self) -> None:
        found = {}
        for n in (SMALL, self.n):
            url = await self.in_step(n)
            await self.execute(url, "select syncd.watch('contacts', 'id', 'bench')")
            found[n] = await self.syncd(url, "keyed", "1000", str(10 * self.pairs))
            await self.execute(url, "select syncd.unwatch('contacts')", REFILL)
            self.say("keyed", found[n].pop("ratio"), n=n, **found[n])
        growth = found[self.n]["keyed_pass_ms"] / found[SMALL]["keyed_pass_ms"]
        self.say("keyed growth", growth, of=SMALL, to=self.n)

    async def latency(self) -> None:
        url = await self.in_step(self.n)
        for what, ratio, facts in await latency.measure(url, self.environ(url), self.pairs):
            self.say(what, ratio, n=self.n, **facts)
        await self.execute(url, REFILL)

    # ── One contact a call ──────────────────────────────────────────────────────────────────

    async def redcappi(self) -> None:
        """Everybody in one list; then a thousand known contacts with one changed field."""
        n = min(self.n, SMALL)
        url = await server.listed(self.uri, n, self.port)
        script = ideal()
        ours, theirs = [], []
        for _ in range(self.pairs):
            if script is not None:
                theirs.append(await self._ideal(url, script, "/single", "single", "--n", str(n)))
            await self.forget(url, f"{self.provider}/_reset")
            ours.append(await self.syncd(url, "backfill"))
            assert ours[-1]["outcomes"].get("created") == n, ours[-1]
        self.compared("redcappi", n, ours, theirs)
        await self.changed("redcappi", url, n)

    async def singly(self) -> None:
        """The same at the strict stand-ins, against the same signed requests sent by themselves."""
        n = min(self.n, 10_000)
        for name, more in singly.OPTIONS.items():
            with singly.sandbox(name) as there:
                os.environ["SYNCD_SECRET_ONE"] = json.dumps(there["credential"])
                unlimited = {"in_flight": 0, "per_second": 0, "per_day": 0}
                meters = dict.fromkeys(provider(name).traits.meters, unlimited)
                options = {"base_url": there["url"], **more, "meters": meters}
                url = await server.singly(self.uri, n, name, options, "one")
                ours, theirs = [], []
                for _ in range(self.pairs):
                    await self.forget(url, f"{there['url']}/_reset")
                    told = json.dumps(options)
                    script = ("-m", "tests.bench.singly", name, str(n), told)
                    theirs.append(await self.process(url, *script))
                    await self.forget(url, f"{there['url']}/_reset")
                    ours.append(await self.syncd(url, "backfill"))
                    assert ours[-1]["outcomes"].get("created") == n, ours[-1]
                self.compared(name, n, ours, theirs)
                await self.changed(name, url, n)

    async def forget(self, url: str, there: str) -> None:
        """Nobody has been sent anything, and the provider knows nobody."""
        await self.execute(url, FORGET_LISTS, EMPTY, "checkpoint")
        async with aiohttp.ClientSession() as session, session.post(there, data=b"{}") as answer:
            answer.raise_for_status()

    def compared(
        self, what: str, n: int, ours: Sequence[dict[str, Any]], theirs: Sequence[dict[str, Any]]
    ) -> None:
        pairs = list(zip(ours, theirs, strict=False))
        ratios = [o["wall_s"] / t["wall_s"] for o, t in pairs]
        spent = [o["cpu_s"] / t["client_cpu_s"] for o, t in pairs]
        self.say(
            what,
            statistics.median(ratios) if pairs else None,
            n=n,
            ratios=[round(one, 2) for one in ratios],
            cpu_ratio=round(statistics.median(spent), 2) if pairs else None,
            requests_per_1000=round(1000 * ours[-1]["requests"] / n),
            syncd={k: _median(ours, k) for k in ("wall_s", "cpu_s", "pg_cpu_s", "rss_mb")},
            ideal={k: _median(theirs, k) for k in ("wall_s", "client_cpu_s", "pg_cpu_s")}
            if theirs
            else None,
        )

    async def changed(self, what: str, url: str, n: int) -> None:
        """Requests for known contacts with one changed field."""
        changed = min(1000, n)
        await self.execute(url, "update contacts set last_name = 'read first' where id = 1")
        await self.syncd(url, "backfill")  # every id is read for it, where none is answered
        await self.execute(
            url, f"update contacts set last_name = 'changed ' || now() where id <= {changed}"
        )
        told = await self.syncd(url, "backfill")
        assert told["outcomes"].get("updated") == changed, told
        requests = told["requests"] * 1000 / changed
        self.say(f"{what} changes", None, n=n, changed=changed, requests_per_1000=requests)

    async def fleet(self) -> None:
        n = min(self.n, 3_000)
        slow = {**os.environ, "BENCH_LATENCY": str(fleet.LATENCY)}
        with _stub(slow) as port:
            url = await server.listed(self.uri, n, port, f"bench_fleet_{n}")
            environ = self.environ(url)
            for _ in range(self.pairs):
                for daemons in fleet.COUNTS:
                    await self.execute(url, FORGET_LISTS, EMPTY, "checkpoint")
                    async with aiohttp.ClientSession() as s:
                        await s.get(f"http://127.0.0.1:{port}/_seen")
                    told = await fleet.measure(url, environ, self.postmaster, n, daemons)
                    self.say("fleet", None, latency_ms=1000 * fleet.LATENCY, **told)

    async def scale(self) -> None:
        """The figures of README's "Scale": a fill, a pass over nothing new, and what waits."""
        url = await self.database(self.n)
        fill = await self.ours_filled(url)
        size = await scale.row_bytes(url, "mirror")
        await self.execute(url, "vacuum analyze syncd.mirror")
        unchanged = await self.syncd(url, "pass")
        await self.execute(url, scale.WATCH)
        keyed = await self.syncd(url, "keyed", "1000", "5")
        size |= await scale.row_bytes(url, "delivery")
        await self.execute(url, "truncate syncd.journal, syncd.change", scale.CHANGE)
        size |= await scale.row_bytes(url, "change")
        waiting = await self.syncd(url, "plan")
        size |= await scale.row_bytes(url, "journal")
        self.say(
            "scale",
            None,
            n=self.n,
            bytes_a_row=size,
            source_bytes_a_contact=await scale.source_bytes(url, self.n),
            fill_per_million=scale.per_million(fill, self.n),
            full_pass_per_million=scale.per_million(unchanged, self.n),
            keyed_pass_of_1000_ms=keyed["keyed_pass_ms"],
            keyed_pass_per_million=scale.per_million(waiting, waiting["planned"]),
            peak_mb=max(one["rss_mb"] for one in (fill, unchanged, waiting)),
        )

    async def capture(self) -> None:
        running = await asyncio.create_subprocess_exec(sys.executable, "-m", "tests.bench.capture")
        await running.wait()

    # ── What is left of what has passed ─────────────────────────────────────────────────────

    async def bloat(self) -> None:
        """Ten settlements a contact of `--n`; the journal's size after every tenth of them."""
        url = await self.empty()
        connection = await asyncpg.connect(url)
        done, number = 0, 10 * self.n
        async for size in bloat.settled(connection, number, self.n):
            done += self.n
            self.say("bloat", None, settled=done, mb=round(size / 2**20, 1))
        await connection.close()

    async def empty(self) -> str:
        """A migrated database with nothing in it."""
        admin = await asyncpg.connect(self.uri)
        await admin.execute("create database bench_empty")
        await admin.close()
        made = await asyncpg.connect(url := server.named(self.uri, "bench_empty"))
        await migrate(made)
        await made.close()
        return url


FILL_MIRROR = """
truncate mirror;
insert into mirror (provider, contact_id, digest)
select 1, c.id, md5(row({columns}, g.l)::text)::uuid
  from contacts c
  left join (select contact_id, array_agg(list_id order by list_id) l
               from memberships group by 1) g on g.contact_id = c.id"""
FORGET_LISTS = """
truncate syncd.seen, syncd.missing, syncd.list_mirror, syncd.scan;
update syncd.feed set scanned_at = null"""
REFILL = "truncate mirror"  # contacts were changed: the ideal's mirror is filled anew when needed


@contextlib.contextmanager
def _stub(environ: Mapping[str, str]) -> Iterator[int]:
    """The port of a provider's stand-in, a process of its own."""
    stub = subprocess.Popen(
        [sys.executable, str(HERE / "provider.py")],
        stdout=subprocess.PIPE,
        text=True,
        env=dict(environ),
    )
    try:
        assert stub.stdout
        yield int(stub.stdout.readline())
    finally:
        stub.terminate()


def _median(runs: Sequence[Mapping[str, Any]], name: str) -> float:
    return round(float(statistics.median(one[name] for one in runs)), 2)


def main() -> None:
    names = (
        "backfill",
        "nothing",
        "keyed",
        "latency",
        "capture",
        "redcappi",
        "singly",
        "fleet",
        "bloat",
        "scale",
    )
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("what", nargs="*", choices=(*names, "all"), default=["all"])
    parser.add_argument("--n", type=int, default=1_000_000)
    parser.add_argument("--pairs", type=int, default=3)
    told = parser.parse_args()
    chosen = names if "all" in told.what else told.what
    with _stub(os.environ) as port, server.started() as (uri, postmaster):
        bench = Bench(uri, postmaster, port, told.n, told.pairs)
        for name in chosen:
            asyncio.run(getattr(bench, name)())


if __name__ == "__main__":
    main()
