"""Lists at providers that have them: made, adopted, renamed, removed through `list_mirror`.

What exists is always looked at before anything is made, so a lost answer makes no second list.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import structlog

from syncd import sql
from syncd.db import Pool, Row
from syncd.desired import Desired
from syncd.errors import Indivisible, ProviderError
from syncd.model import Can, Traits
from syncd.outcomes import backoff

log = structlog.get_logger()


class KeepsLists(Protocol):
    """What this module needs of an adapter; renaming and deleting only where it can."""

    @property
    def traits(self) -> Traits: ...

    async def lists(self) -> Mapping[str, str]: ...

    async def create_list(self, name: str) -> str: ...


@dataclass(frozen=True, slots=True)
class Settled:
    """What became of one list."""

    state: str = "in step"
    remote_id: str | None = None
    error: str | None = None
    after: float = 0.0
    doubtful: bool = False


class Lists:
    """The lists of one destination, as one worker keeps them. Nothing where there are none."""

    def __init__(
        self,
        pool: Pool,
        desired: Desired,
        worker_id: int,
        adapter: Any,
        delete_gone: bool,
        ids: dict[str, str],
    ) -> None:
        self.pool = pool
        self.desired = desired
        self.worker_id = worker_id
        self.adapter = adapter
        self.delete_gone = delete_gone
        self.ids = ids  # source id → remote id, kept up to date for whoever sends contacts

    @property
    def _can(self) -> Can:
        traits: Traits = self.adapter.traits
        return traits.can

    async def keep(self) -> list[ProviderError]:
        """Bring the lists in step; returns what went wrong with whole calls."""
        if not self._can & Can.LISTS:
            return []
        await self.plan()
        await self.pool.execute(sql.lists.reap)
        due = await self.pool.fetch(sql.lists.claim, self.desired.destination_id, self.worker_id)
        errors = await self._push(due) if due else []
        await self._remember()
        return errors

    async def plan(self) -> int:
        """Compare the source's lists with `list_mirror`; returns how many rows changed."""
        rows = await self.pool.fetch(self.desired.list_names)
        return int(
            await self.pool.fetchval(
                sql.lists.wanted,
                self.desired.destination_id,
                [row["id"] for row in rows],
                [row["name"] for row in rows],
                self.delete_gone and bool(self._can & Can.DELETE_LIST),
            )
        )

    async def _remember(self) -> None:
        rows = await self.pool.fetch(sql.lists.ids, self.desired.destination_id)
        self.ids.clear()
        self.ids.update((row["list_id"], row["remote_id"]) for row in rows)

    async def _push(self, due: list[Row]) -> list[ProviderError]:
        errors: list[ProviderError] = []
        try:
            there: Mapping[str, str] | None = await self.adapter.lists()
        except ProviderError as error:
            errors.append(error)
            there = None
        for row in due:
            settled = await self._one(row, there, errors)
            await self.pool.fetchval(
                sql.lists.settle, self.desired.destination_id, row["list_id"], row["claim"],
                settled.state, settled.remote_id, settled.error, settled.after, row["name"],
                row["wanted"], settled.doubtful,
            )  # fmt: skip
        return errors

    async def _one(
        self, row: Row, there: Mapping[str, str] | None, errors: list[ProviderError]
    ) -> Settled:
        if there is None:
            return _later(row, errors[0])
        try:
            return await self._kept(row, there)
        except Indivisible as error:
            return Settled("rejected", error=error.reason)
        except ProviderError as error:
            errors.append(error)
            return _later(row, error)

    async def _kept(self, row: Row, there: Mapping[str, str]) -> Settled:
        if row["wanted"] == "absent":
            if row["remote_id"] in there:
                await self.adapter.delete_list(row["remote_id"])
            return Settled()
        if row["remote_id"] is not None:
            return await self._renamed(row, there)
        alike = [remote for remote, name in there.items() if name == row["name"]]
        if len(alike) > 1:
            return Settled("asks", error=f"{len(alike)} lists there are called {row['name']!r}")
        if alike:
            log.info("list adopted", list=row["list_id"])
            return Settled(remote_id=alike[0])
        return Settled(remote_id=await self.adapter.create_list(row["name"]))

    async def _renamed(self, row: Row, there: Mapping[str, str]) -> Settled:
        remote = row["remote_id"]
        if remote not in there:
            return Settled("asks", error=f"list {remote} is not there any more: make it, or retry")
        if there[remote] != row["name"]:
            if not self._can & Can.RENAME_LIST:
                return Settled(error="the provider cannot rename lists")
            await self.adapter.rename_list(remote, row["name"])
        return Settled()


def _later(row: Row, error: ProviderError) -> Settled:
    wait = max(error.after, backoff(row["attempts"]))
    doubtful = row["doubtful"] or error.may_be_applied
    return Settled("due", error=error.reason, after=wait, doubtful=doubtful)
