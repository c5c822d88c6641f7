"""Coming to rest: no more faults, and all that is owed is done, or it is said what is not."""

from __future__ import annotations

import asyncio
import time

import service

from .cluster import Link
from .trouble import Operator

PATIENCE = 100.0  # seconds without any progress until what is left is a finding
LONGEST = 600.0  # seconds in all; a breaker alone may wait for one minute

AGAIN = """
update syncd.journal set state = 'due', attempts = 0, crashes = 0, due_at = now()
 where ctid = any(array(select ctid from syncd.journal where state = 'rejected'
          and (last_error like 'rejected after % crash%' or last_error like '%unknown%')
          for update skip locked))"""
HASTEN = """
update syncd.journal set due_at = now() where ctid = any(array(
       select ctid from syncd.journal where state = 'due' and due_at > now() + interval '1 s'
          and waits_for is null
          and receipt is null and not doubtful for update skip locked))"""
IN_DOUBT = """
update syncd.journal set due_at = now() + interval '10 s' where ctid = any(array(
       select ctid from syncd.journal where state = 'due' and due_at > now() + interval '15 s'
          and waits_for is null and receipt is null and doubtful for update skip locked))"""
"""What a lost request made is visible by then; its eighth repeat may wait for minutes."""
LIFTED = """
with lists as (
    update syncd.list_mirror set due_at = now()
     where state = 'due' and due_at > now() + interval '1 min' and last_error like '%quota%'
)
update syncd.journal set due_at = now() where ctid = any(array(
       select ctid from syncd.journal where state = 'due' and due_at > now() + interval '1 min'
          and last_error like '%quota%' for update skip locked))"""
"""Whoever waits for the day to end, though the quota was lifted: nobody makes that due."""
LISTS = """
select d.name || ': list ' || m.list_id || ' ' || m.state || ' ' || coalesce(m.last_error, '')
  from syncd.list_mirror m join syncd.destination d on d.id = m.destination_id
 where m.state in ('due', 'sent', 'asks')"""
SCANS = """
select d.name || ': a scan of ' || s.list_key || ' runs since ' || s.started_at
  from syncd.scan s join syncd.destination d on d.id = s.destination_id
 where s.finished_at is null and s.feed = 'contacts'"""
COMMANDS = (
    "select kind || ' of ' || destination || ' waits' from syncd.command where finished_at is null"
)

OWED = """
select (select count(*) from syncd.journal where state <> 'rejected')
       + 100 * (select count(*) from syncd.feed where owes_full or pass_run is not null)
       + (select count(*) from syncd.scan where finished_at is null and feed = 'contacts')
       + (select count(*) from syncd.command where finished_at is null)"""


class Rest:
    """Waits until nothing is owed any more, and helps as an operator would."""

    def __init__(self, link: Link, operator: Operator) -> None:
        self.link, self.operator = link, operator

    async def first(self) -> str:
        """'' once the destinations hold what the source says, before anything fails."""
        left = await self._quiet()
        return f"before the faults: {left}" if left else ""

    async def come(self) -> str:
        """'' once all is done; else what is left."""
        if left := await self._quiet():
            return f"after the faults: {left}"
        for kind in ("scan", "full", "scan"):
            for shop in self.operator.variant.shops:
                await self.operator.command(kind, shop.provider, {})
            if left := await self._quiet():
                return f"after a {kind}: {left}"
        return ""

    async def _quiet(self) -> str:
        began = moved = time.monotonic()
        calm, left, fewest = 0, "?", 1_000_000
        while calm < 3:
            now, owed = time.monotonic(), await self.link.fetchval(OWED)
            fewest, moved = (owed, now) if owed < fewest else (fewest, moved)
            if now - moved > PATIENCE or now - began > LONGEST:
                return left
            await self.operator.mend()
            await self.operator.approve()
            await self.link.execute(AGAIN)
            await self.link.execute(HASTEN)
            await self.link.execute(IN_DOUBT)
            await self.link.execute(LIFTED)
            left = await self._left()
            calm = 0 if left else calm + 1
            await asyncio.sleep(0.5)
        return ""

    async def _left(self) -> str:
        rows = await self.link.fetch(service._OUTSTANDING, None)
        said = [row["says"] for row in rows if row["says"]]
        for statement in (LISTS, SCANS, COMMANDS):
            said += [row[0] for row in await self.link.fetch(statement)]
        return "; ".join(said)
