"""The plan: what differs enters the journal, under the guard. Design, section 5.

A keyed pass looks at the contacts that changed; `syncd.fullpass` looks at all of them. Both judge
with `syncd.classify` and write with `Planner.journal`.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import asyncpg

from syncd import addresses, sql
from syncd.classify import Planned, classify
from syncd.compare import Compare
from syncd.control import Destination
from syncd.db import Connection, Pool, Row, Undo, savepoint, transact
from syncd.desired import Desired
from syncd.errors import ConfigError
from syncd.guard import Guard
from syncd.model import Key
from syncd.source import PATTERNS, Source

GROWN = 1000  # contacts: from here on no plan takes the wrong index, or none, for want of rows


class Passed(NamedTuple):
    """What a pass did. `more`: it left something (a full pass is owed)."""

    keys: int = 0
    planned: int = 0
    held: int = 0
    owes_full: bool = False
    lists: bool = False  # a list was made, renamed or removed
    parted: bool = False  # ids went to others: what changed is still to be planned


@dataclass(frozen=True, slots=True)
class Bounds:
    """When a keyed pass gives up and owes a full one: more keys than both of these."""

    keys: int = 50_000
    percent: float = 15.0


class Planner(Guard):
    """Plans one destination."""

    def __init__(
        self,
        pool: Pool,
        destination: Destination,
        desired: Desired,
        key: Key,
        bounds: Bounds | None = None,
    ) -> None:
        self.pool = pool
        self.destination = destination
        self.desired = desired
        self.compare = Compare(desired, crowds=key == "ours")
        self.key = key
        self.bounds = bounds or Bounds()

    # ── A keyed pass ────────────────────────────────────────────────────────────────────────

    async def anything_new(self) -> bool:
        """Whether the feed has something for this destination; costs one look at an index."""
        return bool(
            await self.pool.fetchval(
                sql.plan.anything_new,
                self.destination.id,
                self.destination.source,
                self.desired.generation,
            )
        )

    async def keyed_pass(self) -> Passed:
        """Plan every contact that changed since the last pass, in one transaction."""
        done = await self._once()
        if done.parted:
            rest = await self._once()
            return rest._replace(lists=rest.lists or done.lists)
        return done

    async def _once(self) -> Passed:
        try:
            return await self._transact(partial(self._keyed_pass, direct=True))
        except asyncpg.UniqueViolationError:  # somebody got a journal row at the same moment
            return await self._transact(self._keyed_pass)

    async def _transact(self, work: Callable[[Connection], Awaitable[Passed]]) -> Passed:
        return await transact(
            self.pool,
            work,
            keep_plans=self.compare.is_grown,
            durable=False,  # with the journal's rows the feed's move is lost: it is planned anew
            first=sql.plan.lock_feed.replace("$1::int", f"{self.destination.id:d}"),
        )

    async def _keyed_pass(self, connection: Connection, direct: bool = False) -> Passed:
        """The feed is locked: what follows reads with a snapshot younger than the last pass."""
        me = self.destination.id
        new = await self._read_change(connection, self.bounds.keys)
        if new is None or new["is_fresh"]:
            return Passed(owes_full=new is not None)
        self.compare.is_grown = new["here"] >= GROWN
        if new["generation"] != self.desired.generation:
            await connection.execute(sql.plan.set_generation, me, self.desired.generation)
        if new["too_many"]:
            new = await self._read_change(connection, await self._most_keys(connection))
            assert new is not None
        if not new["n"]:
            return Passed(owes_full=new["owed_full"])
        if new["lists"]:
            await self.check_lists(connection)
        if new["too_many"]:
            await connection.execute(sql.plan.drop_changes, me)
        if new["owes_full"] or new["too_many"]:
            return Passed(keys=new["n"], owes_full=True)
        keys = set(new["contacts"])
        if new["lists"] and self.desired.names_lists:
            found = await connection.fetch(sql.plan.members_of, me, new["lists"])
            keys.update(row["contact_id"] for row in found)
        if parted := await self._part(connection, new["gone"]):
            # Their mirror rows are locked now, and journal rows come first (races 19): the rest in
            # a transaction of its own.
            source = self.destination.source
            await connection.execute(sql.plan.note_changes, source, sorted({*keys, *parted}))
            return Passed(keys=new["n"], lists=bool(new["lists"]), parted=True)
        done = await self.plan_keys(connection, sorted(keys), shares=new["shares"], direct=direct)
        return done._replace(owes_full=new["owed_full"], lists=bool(new["lists"]))

    async def check_lists(self, connection: Connection) -> None:
        """A selected list that is not there (any more) deselects nobody: ConfigError (races 18)."""
        if self.desired.lists is None:
            return
        there = {row["id"] for row in await connection.fetch(self.desired.lists_there)}
        if missing := [one for one in self.desired.lists if one not in there]:
            name, relation = self.destination.name, self.desired.source.list.name
            raise ConfigError(
                *(f"destination {name!r}: list {one!r} does not exist in {relation}"
                  for one in missing)
            )  # fmt: skip

    async def _read_change(self, connection: Connection, most: int) -> Row | None:
        d = self.destination
        return await connection.fetchrow(sql.plan.read_change, d.source, most, d.id)

    async def _most_keys(self, connection: Connection) -> int:
        here = await connection.fetchval(sql.plan.here, self.destination.id)
        return max(self.bounds.keys, int(here * self.bounds.percent / 100))

    async def plan_keys(
        self,
        connection: Connection,
        keys: Sequence[str],
        *,
        full_run: int | None = None,
        force: bool = False,
        doubtful: bool = False,
        shares: bool = True,
        direct: bool = False,
    ) -> Passed:
        """Compare these contacts, and those who share their addresses; journal what differs.

        The feed row must be locked by this transaction.  shares: whether any address is shared;
        direct: see `_direct`.
        """
        if direct and not shares:
            rows = await self._direct(connection, keys)
            if isinstance(rows, int):
                return Passed(len(keys), rows)
        else:
            rows = await self._compare(connection, keys, force)
        moved = self._moved(rows)
        crowded = {row["m_email"] for row in rows if row["crowded"]}
        if moved or crowded or (shares and await self._share(connection, keys)):
            extra = await self._close_over_addresses(connection, moved, set(keys), crowded)
            keys = sorted({*keys, *extra})
            rows = await self._compare(connection, keys, force)
            moved = self._moved(rows)
            if changed := await self._exchange(connection, moved, keys):
                # At the end of a chain stands somebody whom no address of these keys led to.
                keys = sorted({*keys, *changed})
                rows = await self._compare(connection, keys, force)
        planned = self.classified(rows, full=full_run is not None, force=force)
        held = await self.journal(connection, planned, full_run, force=force, doubtful=doubtful)
        if any(row["j_state"] == "held" for row in rows):
            await self.end_emptied(connection)
        return Passed(len(keys), len(planned), held)

    def _moved(self, rows: Sequence[Row]) -> Sequence[Row]:
        """Who is to be at another address than the mirror says; or at that very one, where another
        one's record is there, and the contact is known as absent."""
        return [
            row for row in rows
            if row["email"] != row["m_email"]
            or (self.key != "ours" and row["crowded"] and row["m_state"] == "absent")
        ]  # fmt: skip

    async def _share(self, connection: Connection, keys: Sequence[str]) -> bool:
        return bool(
            await connection.fetch(sql.plan.sharer_addresses, self.destination.id, keys, [])
        )

    def classified(
        self, rows: Sequence[Row], *, full: bool, force: bool = False
    ) -> Sequence[Planned]:
        judged = (classify(row, self.destination.when_gone, full, force) for row in rows)
        return [one for one in judged if one is not None]

    async def _compare(
        self, connection: Connection, keys: Sequence[str], force: bool
    ) -> Sequence[Row]:
        return await connection.fetch(
            self.compare.by_keys, castable(self.desired, keys), keys, force
        )

    async def _direct(self, connection: Connection, keys: Sequence[str]) -> Sequence[Row] | int:
        """How many were journalled, where their data changed and nothing else; else as `_compare`.

        The usual pass by far, and cheaper so: nobody has to come out of the database for it.
        """
        d = self.destination
        rows = await connection.fetch(
            self.compare.direct, castable(self.desired, keys), keys, False,
            d.guard_floor, d.guard_percent,
        )  # fmt: skip
        if rows[0]["contact_id"] is None:
            return int(rows[0]["written"] or 0)
        return rows

    # ── Addresses ───────────────────────────────────────────────────────────────────────────

    async def _close_over_addresses(
        self, connection: Connection, moved: Sequence[Row], keys: set[str], crowded: set[str]
    ) -> Sequence[str]:
        """Everyone else who has, or whose mirror has, an old or new address of these."""
        me = self.destination.id
        emails = {e for row in moved for e in (row["email"], row["m_email"]) if e is not None}
        emails |= crowded
        known = await connection.fetch(sql.plan.sharer_addresses, me, sorted(keys), sorted(emails))
        emails.update(row["email"] for row in known)
        touched = sorted(emails)
        mirrored = await connection.fetch(sql.plan.at_mirror_addresses, me, touched)
        holders = [
            addresses.Holder(*row)
            for row in await connection.fetch(self.desired.at_addresses, touched)
        ]
        await self.write_sharers(connection, holders, mirrored, touched if known else None)
        others = {row["contact_id"] for row in (*known, *mirrored)}
        others.update(one.contact_id for one in holders)
        return sorted(others - keys)

    async def _part(self, connection: Connection, deleted: Sequence[str]) -> Sequence[str]:
        """Part contacts that came back with another address from the records of who had their ids.

        Only where records have ids of their own: elsewhere a changed address is no hand-over.
        """
        if self.key != "remote id" or not deleted:
            return ()
        rows = await self._compare(connection, deleted, True)
        back = [
            row["contact_id"]
            for row in rows
            if row["wanted"] and row["m_email"] and row["m_email"] != row["email"]
        ]
        if not back:
            return ()
        me = self.destination.id
        async with savepoint(connection):
            await connection.fetch(sql.addresses.lock, me, sorted(back))
            parted = await connection.fetch(sql.addresses.part, me, back)
            if not parted:  # then the pass goes on, and must not hold these rows (races 19)
                raise Undo
        # Asked again once it has settled; not of whom nothing is sent until the source mends it.
        refused = {row["contact_id"] for row in rows if row["j_state"] == "rejected"}
        if late := sorted(set(back) - refused - {row["before"] for row in parted}):
            await connection.execute(sql.addresses.note_gone, self.destination.source, late)
        return [row["contact_id"] for row in parted]

    async def write_sharers(
        self,
        connection: Connection,
        holders: Sequence[addresses.Holder],
        mirrored: Sequence[Row],
        replace: Sequence[str] | None,
    ) -> None:
        """Write down who shares an address, in place of what was said of those in *replace*."""
        me = self.destination.id
        if replace is not None:
            await connection.execute(sql.plan.forget_sharers, me, replace)
        here = sorted((r["contact_id"], r["email"]) for r in mirrored if r["state"] == "here")
        wanting = {(one.contact_id, one.email) for one in holders}
        keepers = {email: one for one, email in reversed(here) if (one, email) in wanting}
        if found := addresses.sharers(holders, keepers):
            await connection.execute(
                sql.plan.write_sharers, me, *map(list, zip(*found, strict=True))
            )

    async def _rivals(self, connection: Connection, wanted: Mapping[str, str]) -> dict[str, str]:
        """Whose mirror row has an address that somebody else is to have."""
        me = self.destination.id
        found = await connection.fetch(sql.plan.at_mirror_addresses, me, sorted(wanted))
        return {r["contact_id"]: r["email"] for r in found if wanted[r["email"]] != r["contact_id"]}

    async def _exchange(
        self, connection: Connection, moved: Sequence[Row], keys: Sequence[str]
    ) -> set[str]:
        """Let mirror rows follow their addresses where contacts exchange them; returns whose do."""
        me = self.destination.id
        wanted = {r["email"]: r["contact_id"] for r in moved if r["wanted"] and not r["fault"]}
        rivals = await self._rivals(connection, wanted)
        if not rivals:
            return set()
        await connection.fetch(sql.addresses.lock, me, sorted({*keys, *rivals}))
        rivals = await self._rivals(connection, wanted)
        held = await self._compare(connection, sorted(rivals), True)
        stays = {  # whoever cannot go where it wants to go must not keep others waiting
            r["contact_id"]: r["wanted"] and r["fault"] is None and r["j_state"] != "rejected"
            for r in held
        }
        wants = {r["contact_id"]: r["email"] if stays[r["contact_id"]] else None for r in held}
        claimants = [
            addresses.Claimant(wanted[email], email, holder, wants.get(holder))
            for holder, email in rivals.items()
            if self.key != "ours" or stays.get(holder)  # else what is ours by id stays with the id
        ]
        moves = addresses.exchanges(claimants)
        if not moves:
            return set()
        in_window = {r["contact_id"] for r in (*moved, *held) if r["in_window"]}
        done = not in_window & set(moves) and await connection.fetchval(
            sql.addresses.exchange, me, list(moves), list(moves.values()), self.key != "ours",
            self.key == "address",
        )  # fmt: skip
        if not done:  # one of them is in flight: look again once it has settled
            # Not at whoever only gives its place up: planned again while it is in flight it would
            # be sent again, and so be in flight the next time, too.
            late = [one.contact_id for one in claimants if one.contact_id in moves]
            await connection.execute(sql.plan.note_changes, self.destination.source, late)
            return set()
        return {*moves, *moves.values()}


def castable(desired: Desired | Source, keys: Sequence[str]) -> Sequence[str]:
    """Those ids that can be keys of the source at all; the others count as gone (races 20)."""
    if desired.key == "text":
        return keys
    pattern = re.compile(PATTERNS[desired.key])
    return [key for key in keys if pattern.match(key)]
