"""Three-way comparison: what the source wants, what the provider was last given, what it says now.

Reads the provider whole, which takes its time; what was read is staged in `audited` and compared
window by window. Whoever was written meanwhile is told as unsettled, never as different.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any

import orjson
import structlog

from syncd import meter, sql
from syncd.assemble import Assembled
from syncd.audit_mend import Mender
from syncd.audit_report import ALWAYS, AN_EXPORT, Audit, Reading
from syncd.audit_rows import AuditRows
from syncd.audit_stage import Stage
from syncd.audit_verdict import Scope, Verdict, judge
from syncd.bells import first_of
from syncd.db import Row
from syncd.errors import ProviderError
from syncd.estimate import seconds_for
from syncd.flow import Flow
from syncd.model import Can, Finding, Notice
from syncd.plan import castable

log = structlog.get_logger()


class Unread(ProviderError):
    """The provider's own check says that nothing can be read."""

    def __init__(self, finding: Finding) -> None:
        super().__init__(f"{finding.says}. {finding.remedy}" if finding.remedy else finding.says)
        self.exit_code = finding.exit_code or 1  # type: ignore[misc]
        self.needs_a_person = self.exit_code != ProviderError.exit_code  # type: ignore[misc]


class Auditor:
    """Audits one destination, put together with a worker."""

    def __init__(
        self,
        made: Assembled,
        *,
        samples: int = 3,
        repair: bool = False,
        window: int = 2000,
        stop: asyncio.Event | None = None,
        scan: Callable[[], Awaitable[object]] | None = None,
    ) -> None:
        """scan: has the account scanned by whoever serves it here; None: by this one."""
        assert made.flow is not None
        self.made = made
        self.flow: Flow = made.flow
        self.most = samples
        self.repair = repair
        self.window = window
        self.stop = stop or asyncio.Event()
        self.scan = scan or self.flow.scan_all
        self.audit = Audit(made.destination.name, repaired=repair)
        self.announce: Callable[[Audit], None] = lambda _: None
        self._rows = AuditRows(made.desired)
        self._lists: dict[str, str] = {}
        self._exported: list[str] = []  # remote lists that are written out, not read one by one
        self._run = 0

    @property
    def pool(self) -> Any:
        return self.flow.planner.pool

    @property
    def _me(self) -> int:
        return self.made.destination.id

    @property
    def _adapter(self) -> Any:
        return self.flow.push.adapter

    async def run(self) -> Audit:
        """To its end. Provider errors pass through, after a minute's patience."""
        with structlog.contextvars.bound_contextvars(destination=self.made.destination.name):
            purpose = meter.purpose.set("read")
            await self.pool.execute(sql.audit.clear_old)
            self._run = await self.pool.fetchval(
                sql.plan.begin_run, "audit", self._me, self.flow.journal.worker_id
            )
            error: str | None = "interrupted"
            try:
                await self._all()
                error = None
            except ProviderError as fault:
                error = fault.reason
                raise
            finally:
                meter.purpose.reset(purpose)
                counts: dict[str, int] = {str(k): n for k, n in self.audit.counts.items()}
                counts["extra"] = self.audit.extra
                text = orjson.dumps(counts).decode()
                await self.pool.execute(sql.plan.end_run, self._run, text, error)
                await self.pool.execute(sql.audit.clear, self._run)
                log.info("audit done", **counts)
            return self.audit

    async def _all(self) -> None:
        began = await self.pool.fetchval("select clock_timestamp()")
        await self._reach()
        await self._estimate()
        self.announce(self.audit)
        scope = await self._scope()
        mender: Mender | None = None
        if self.repair:
            mender = Mender(self.flow, scope, self.scan, lambda: self._read_again(scope))
        await self._read_opt_outs()
        await self._read_records(scope)
        self.audit.read = await self.pool.fetchval(sql.audit.read, self._run)
        async for rows in self._windows(scope):
            await self._compare(rows, scope, mender)
        async for rows in self._outside(scope):
            await self._compare(rows, scope, mender)
        await self._count_extra()
        if mender is not None:
            await mender.finish()
            self.audit.mended, self.audit.held = mender.mended, mender.held
            self.audit.noted += mender.noted
        ended = await self.pool.fetchval("select clock_timestamp()")
        self.audit.seconds = (ended - began).total_seconds()
        sent = self.made.wire.requests
        self.audit.requests = sum(n for (_, what), n in sent.items() if what != "unsent")

    # ── What can be read, and how long that takes ───────────────────────────────────────────

    async def _reach(self) -> None:
        """The credentials work; the lists are where they were."""
        stage = self._stage

        async def check() -> None:
            findings: Sequence[Finding] = await self._adapter.check()
            for one in findings:
                if one.level == "error":
                    raise Unread(one)

        await stage.patiently(check)
        can: Can = self._adapter.traits.can
        if can & Can.LISTS:
            there = await stage.patiently(self.flow.lists.look)
            known = self.flow.lists.known.items()
            self._lists = {remote: ours for ours, remote in known if remote in there}
        else:
            names = await self.pool.fetch(self.made.desired.list_names)
            self._lists = {row["id"]: row["id"] for row in names}
        self._say_limits(can)

    def _say_limits(self, can: Can) -> None:
        says = self.audit.cannot
        if not can & (Can.SCAN | Can.WHOLE):
            self.audit.whole = False
            says.append(
                "contacts can be neither paged nor looked up there: only what is still to be sent"
                " is compared"
            )
            return
        if not can & Can.SCAN:
            says.append("the account cannot be paged: records that are not ours are not counted")
        if not can & Can.COMPARE:
            says.append("fields cannot be read there: only who is there, addresses and lists are")
        if can & Can.LISTS and not can & Can.SCAN:
            says.append("who is in which list cannot be read there")

    async def _estimate(self) -> None:
        row = await self.pool.fetchrow(sql.audit.expected, self._me)
        traits = self._adapter.traits
        pages = singly = 0
        if traits.can & Can.SCAN:
            whole = not traits.scans_lists
            by_list = bool(traits.can & Can.LISTS) and traits.scans != "account"
            pages = math.ceil(row["here"] / traits.page) + 1 if whole else 0
            if by_list:  # each ends with a page that brings nothing new
                pages += math.ceil(row["memberships"] / traits.page) + 2 * len(self._lists)
        if self._reads_singly:
            singly = row["here"] - await self._choose_exports()
        exports = AN_EXPORT * len(self._exported)
        seconds = seconds_for(pages + singly + exports + ALWAYS, self.made.limits, reads=True)
        self.audit.estimate = Reading(pages, singly, seconds, exports)

    async def _choose_exports(self) -> int:
        """Lists that are long enough to be written out; how many contacts are in these."""
        traits = self._adapter.traits
        if not traits.can & Can.EXPORT:
            return 0
        ours = sorted(self._lists.values())
        row = await self.pool.fetchrow(sql.audit.long_lists, self._me, ours, traits.export_from)
        self._exported = [there for there, one in self._lists.items() if one in row["lists"]]
        return int(row["contacts"])

    @property
    def _reads_singly(self) -> bool:
        traits = self._adapter.traits
        pages_do = traits.can & Can.SCAN and traits.whole_pages
        return bool(traits.can & Can.WHOLE) and not pages_do

    async def _scope(self) -> Scope:
        """Once whatever was written last can be read."""
        traits, can = self._adapter.traits, self._adapter.traits.can
        row = await self.pool.fetchrow(sql.audit.expected, self._me)
        if row["pushed_at"] is not None:
            wait = traits.visible_after - (row["now"] - row["pushed_at"]).total_seconds()
            if wait > 0:
                await first_of(self.stop, timeout=min(wait, traits.visible_after) + 0.01)
        now = await self.pool.fetchval("select clock_timestamp()")
        compare = await self._stage.patiently(self._adapter.comparer) if can & Can.COMPARE else None
        return Scope(
            traits, self.made.destination.when_gone, self.made.desired.fields, self._lists,
            bool(can & Can.SCAN) or not can & Can.LISTS, bool(traits.scans_lists), compare,
            traits.visible_after, now.timestamp(), self.audit.whole,
        )  # fmt: skip

    # ── Reading ─────────────────────────────────────────────────────────────────────────────

    @property
    def _stage(self) -> Stage:
        return Stage(self.pool, self.made.desired, self._adapter, self._run, self.stop)

    async def _read_opt_outs(self) -> None:
        """Who has said no there since the last reading; written down where that is asked for."""
        reader = self.flow.reader
        if not reader.can_read:
            return
        since = await reader.since()

        async def read() -> None:
            async for notices in self._adapter.opt_outs(since):
                news = await reader.note(notices, keep=False)
                ids = sorted({one["contact_id"] for one in news} - {None})
                marked = await self.pool.fetch(sql.audit.mark, self._run, self._me, ids)
                if self.repair:
                    await reader.note(notices)
                    self.audit.noted += len(marked)

        await self._stage.patiently(read)

    async def _read_records(self, scope: Scope) -> None:
        can, stage = self._adapter.traits.can, self._stage
        if can & Can.SCAN:
            await stage.read_pages(sorted(self._lists) if scope.by_list else [None])
        if self._exported:
            await stage.read_exports(self._exported)
        if self._reads_singly:
            await stage.read_singly(met_only=bool(can & Can.SCAN))

    async def _read_again(self, scope: Scope) -> int:
        await self.pool.execute(sql.audit.clear, self._run)
        await self._read_records(scope)
        return self._run

    # ── Comparing ───────────────────────────────────────────────────────────────────────────

    async def _windows(self, scope: Scope) -> AsyncIterator[Sequence[Row]]:
        """Contacts of the source, in its own order."""
        last: str | None = None
        while True:
            row = await self.pool.fetchrow(self.made.desired.window, last, self.window)
            if row is None or not row["n"]:
                return
            last = row["last"]
            rows = await self._looked_at(scope, self._rows.by_window, row["first"], last)
            self.audit.contacts += sum(one["wanted"] for one in rows)
            yield rows

    async def _outside(self, scope: Scope) -> AsyncIterator[Sequence[Row]]:
        """Contacts that the mirror knows, and that do not belong any more."""
        desired, last = self.made.desired, ""
        while True:
            found = await self.pool.fetch(sql.audit.outside, self._me, last, self.window)
            if not found:
                return
            ids = [row["contact_id"] for row in found]
            last = ids[-1]
            belong = await self.pool.fetch(desired.belonging, castable(desired, ids))
            gone = sorted(set(ids) - {row["contact_id"] for row in belong})
            if gone:
                keys = castable(desired, gone)
                yield await self._looked_at(scope, self._rows.outside, keys, gone)

    async def _looked_at(self, scope: Scope, statement: str, *args: Any) -> Sequence[Row]:
        """Rows to be judged. An export spells values as it likes, and knows not all of them: who
        seems to differ by one is read alone, before anything is said of the contact."""
        rows = await self._fetch(statement, *args)
        if not self._exported:
            return rows
        found = [one for one in (judge(row, scope) for row in rows) if one is not None]
        ids = [one.contact_id for one in found if one.there]
        if not await self._stage.read_chosen(ids):
            return rows
        return await self._fetch(statement, *args)

    async def _fetch(self, statement: str, *args: Any) -> Sequence[Row]:
        async with self.pool.acquire() as connection, connection.transaction(readonly=True):
            await connection.execute("set local plan_cache_mode = force_custom_plan")
            rows: Sequence[Row] = await connection.fetch(statement, *args, self._run)
            return rows

    async def _compare(self, rows: Sequence[Row], scope: Scope, mender: Mender | None) -> None:
        found = [one for one in (judge(row, scope) for row in rows) if one is not None]
        await self._weigh([one for one in found if one.says_no])
        for one in found:
            if one.kind is not None:
                self.audit.counts[one.kind] += 1
                if len(self.audit.samples[one.kind]) < self.most:
                    self.audit.samples[one.kind].append(one)
            if one.doubles:
                self.audit.doubles += one.doubles
                if len(self.audit.double_samples) < self.most:
                    self.audit.double_samples.append(one)
        if mender is not None:
            await mender.mend(found)

    async def _weigh(self, found: Sequence[Verdict]) -> None:
        """Is what a record says a no, or has it been dealt with? Then it only differs."""
        if not found:
            return
        from_record = {"audit": "said by the record"}
        notices = [
            Notice(one.contact_id, None, "unsubscribed", None, evidence=from_record)
            for one in found
        ]
        news = await self.flow.reader.write(notices, keep=self.repair)
        ids = {one["contact_id"] for one in news}
        self.audit.noted += len(news) if self.repair else 0
        for one in found:
            if one.contact_id not in ids:
                one.kind = "there"

    async def _count_extra(self) -> None:
        self.audit.extra = await self.pool.fetchval(sql.audit.extra, self._run)
        rows = await self.pool.fetch(sql.audit.extras, self._run, self.most)
        self.audit.extra_samples = [(row["remote_id"], row["email"]) for row in rows]
