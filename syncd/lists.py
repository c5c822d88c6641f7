"""Lists at providers that have them: made, adopted, renamed, removed through `list_mirror`.

What exists is always looked at before anything is made, so a lost answer makes no second list.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import structlog

from syncd import sql
from syncd.db import Connection, Pool, Row
from syncd.desired import Desired
from syncd.errors import Ambiguous, Fenced, Indivisible, ProviderError, Transient
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
    made: bool = False  # by us, just now: nobody is in it


GONE = "it is not there any more: make it again with `syncd retry`; it was list "
"""How the question begins that a list which is gone puts to a person."""


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
        self.known: dict[str, str] = {}  # as `ids`, of all that are there: members may leave them
        self._names: str | None = None  # as `sql.lists.names` was before the adapter read them last

    @property
    def _me(self) -> int:
        return self.desired.destination_id

    @property
    def _can(self) -> Can:
        traits: Traits = self.adapter.traits
        return traits.can

    async def keep(self, *, look_only: bool = False) -> list[ProviderError]:
        """Bring the lists in step; returns what went wrong with whole calls.

        look_only: what is there already is adopted by its name, nothing is written.
        """
        if not self._can & Can.LISTS:
            return []
        await self.plan()
        await self.pool.execute(sql.lists.reap)
        due = await self.pool.fetch(sql.lists.claim, self._me, self.worker_id, look_only)
        errors = await self._push(due, look_only) if due else []
        await self.remember()
        return errors

    async def any_due(self) -> bool:
        """Whether one is to be made, renamed or removed: after a failure, or for a person."""
        return bool(self._can & Can.LISTS) and bool(
            await self.pool.fetchval(sql.lists.any_due, self._me)
        )

    async def look(self) -> Mapping[str, str]:
        """See whether the lists are still there, by their names; returns what is, by remote id.

        Provider errors pass through.
        """
        if not self._can & Can.LISTS:
            return {}
        began = await self.pool.fetchval(sql.lists.now)
        there: Mapping[str, str] = await self.adapter.lists()
        rows = await self.pool.fetch(
            sql.lists.looked_at, self._me, list(there), list(there.values()), GONE, began,
            self.adapter.traits.visible_after,
        )  # fmt: skip
        for row in rows:
            log.warning("list changed there", list=row["list_id"], state=row["state"])
        if gone := [row["list_id"] for row in rows if row["state"] == "asks"]:
            await self.pool.execute(sql.lists.refused_for, self._me, gone)
        await self.remember()
        return there

    async def names(self) -> str | None:
        """A mark that stays the same as long as lists are called what the adapter takes them for;
        None while one is being renamed. Reads them anew where somebody else has renamed one.

        Provider errors pass through.
        """
        mark: str | None = await self.pool.fetchval(sql.lists.names, self._me)
        if mark is not None and mark != self._names:
            await self.adapter.lists()
            self._names = mark
        return mark

    async def are_called(self, mark: str | None) -> bool:
        """Whether no list was renamed since `names` gave that mark."""
        now = await self.pool.fetchval(sql.lists.names, self._me)
        return mark is not None and now == mark

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

    async def remember(self, connection: Connection | None = None) -> None:
        """Take up which lists contacts may be put into, and which they may leave."""
        asked = connection or self.pool
        reads = bool(self._can & Can.SCAN) and self.adapter.traits.scans_lists
        rows = await asked.fetch(sql.lists.ids, self._me, reads)
        there = await asked.fetch(sql.lists.there, self._me)
        self.ids.clear()
        self.ids.update((row["list_id"], row["remote_id"]) for row in rows)
        self.known.clear()
        self.known.update((row["list_id"], row["remote_id"]) for row in there)

    async def _push(self, due: list[Row], look_only: bool) -> list[ProviderError]:
        errors: list[ProviderError] = []
        try:
            there: Mapping[str, str] | None = await self.adapter.lists()
        except Fenced as error:
            errors.append(Transient(str(error)))
            there = None
        except ProviderError as error:
            errors.append(error)
            there = None
        for row in due:
            settled = await self._one(row, there, errors, look_only)
            await self._settle(row, settled)
        return errors

    async def _settle(self, row: Row, settled: Settled) -> None:
        found = await self.pool.fetchval(
            sql.lists.settle, self._me, row["list_id"], row["claim"],
            settled.state, settled.remote_id, settled.error, settled.after, row["name"],
            row["wanted"], settled.doubtful, settled.made,
        )  # fmt: skip
        before = row["remote_id"]
        if found and row["wanted"] == "absent" and settled.state == "in step":
            await self.pool.execute(sql.lists.forget, self._me, row["list_id"])
        if found and before is not None and settled.remote_id not in (None, before):
            await self.pool.execute(sql.lists.begun_anew, self._me, row["list_id"])

    async def _one(
        self,
        row: Row,
        there: Mapping[str, str] | None,
        errors: list[ProviderError],
        look_only: bool,
    ) -> Settled:
        if there is None:
            return self._later(row, errors[0])
        try:
            return await self._kept(row, there, look_only)
        except Indivisible as error:
            return await self._refused(row, error)
        except Fenced as error:  # an earlier request of this call may have left
            errors.append(Ambiguous(str(error)))
            return self._later(row, errors[-1])
        except ProviderError as error:
            errors.append(error)
            return self._later(row, error)

    async def _refused(self, row: Row, refusal: Indivisible) -> Settled:
        """Perhaps because it is there by now: a list of that name is what was wanted."""
        if row["wanted"] == "present" and row["remote_id"] is None:
            try:
                found = await self._alike(row, await self.adapter.lists())
            except Fenced as error:
                return self._later(row, Transient(str(error)))
            except ProviderError as error:
                return self._later(row, error)
            if found is not None:
                return found
        return Settled("rejected", error=refusal.reason)

    async def _kept(self, row: Row, there: Mapping[str, str], look_only: bool) -> Settled:
        if row["wanted"] == "absent":
            if row["remote_id"] in there:
                await self.adapter.delete_list(row["remote_id"])
            return Settled()
        if row["remote_id"] is not None:
            return await self._renamed(row, there)
        if (found := await self._alike(row, there)) is not None:
            return found
        if look_only:
            return Settled("due", doubtful=row["doubtful"])
        return await self._made(row)

    async def _made(self, row: Row) -> Settled:
        remote = await self.adapter.create_list(row["name"])
        return Settled(remote_id=remote, made=not row["doubtful"])

    async def _alike(self, row: Row, there: Mapping[str, str]) -> Settled | None:
        """A list of that name that is there already: adopted, unless there is a doubt which."""
        alike = [remote for remote, name in there.items() if name == row["name"]]
        if len(alike) > 1:
            return Settled("asks", error=f"{len(alike)} lists there are called {row['name']!r}")
        if not alike:
            return None
        for other in await self.pool.fetch(sql.lists.taken, self._me):
            if other["remote_id"] == alike[0] and other["list_id"] != row["list_id"]:
                return Settled(
                    "asks", error=f"list {other['list_id']} is kept in list {alike[0]} there, too"
                )
        log.info("list adopted", list=row["list_id"])
        return Settled(remote_id=alike[0])

    async def _renamed(self, row: Row, there: Mapping[str, str]) -> Settled:
        remote = row["remote_id"]
        if remote not in there:
            return await self._gone(row, there)
        if there[remote] != row["name"]:
            if not self._can & Can.RENAME_LIST:
                return Settled(error="the provider cannot rename lists")
            await self.adapter.rename_list(remote, row["name"])
        return Settled()

    async def _gone(self, row: Row, there: Mapping[str, str]) -> Settled:
        """Not made again unasked; a retry of the question is a person's leave to do so."""
        if not (row["last_error"] or "").startswith(GONE):
            return Settled("asks", error=f"{GONE}{row['remote_id']}")
        return await self._alike(row, there) or await self._made(row)

    def _later(self, row: Row, error: ProviderError) -> Settled:
        """A list whose making was not answered is looked for, as soon as it must be visible."""
        doubtful = row["doubtful"] or error.may_be_applied
        visible = self.adapter.traits.visible_after if doubtful else 0.0
        wait = max(error.after, backoff(row["attempts"]), visible)
        kept = row["last_error"] if (row["last_error"] or "").startswith(GONE) else None
        return Settled("due", error=kept or error.reason, after=wait, doubtful=doubtful)
