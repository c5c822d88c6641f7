"""Whether the adds to a list have been sent: a scan before that would have to be repeated."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from syncd.plan import Planner


@dataclass
class Drain:
    """Of one destination; looks at journal and source."""

    planner: Planner

    async def is_over(self, list_key: str) -> bool:
        """Whether nobody is due to be put into the list (''; to be made at all)."""
        args = (list_key,) if list_key else ()
        return not await self.planner.pool.fetchval(
            self._account if not list_key else self._list, *args
        )

    @cached_property
    def _due(self) -> str:
        return f"""
select 1 from syncd.journal j
 where j.destination_id = {self.planner.destination.id} and j.state in ('due', 'sent')
   and j.wish = 'upsert' and j.waits_for is null and j.due_at <= now()
   and not exists (select 1 from syncd.mirror m
                    where m.destination_id = j.destination_id and m.contact_id = j.contact_id
                      and m.state in ('here', 'adopted')"""

    @cached_property
    def _account(self) -> str:
        return f"select exists ({self._due}))"

    @cached_property
    def _list(self) -> str:
        desired = self.planner.desired
        key = desired.source.list_key
        return f"""select exists ({self._due} and m.lists @> array[$1::text])
   and exists (select 1 from {desired.source.membership.name} s
                where s.list_id = ($1::text)::{key}
                  and s.contact_id = {desired.safe_cast("j.contact_id")}))"""
