"""`remove`: a destination goes; what was put there stays there, and every no stays a no."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from syncd import sql
from syncd.db import Connection, Pool, transact
from syncd.errors import ConfigError


@dataclass(slots=True)
class Left:
    """What is left of a removed destination: at the provider (contacts, those that were withdrawn,
    lists by name), and here. secret: the name of a sealed one that nobody else uses."""

    destination: str
    removed: bool
    contacts: int
    withdrawn: int
    lists: Sequence[str]
    unsent: int
    opt_outs: int
    secret: str | None


async def remove(pool: Pool, name: str, *, really: bool = True) -> Left:
    """Delete the row and what is known of its contacts; with *really* false only say what is left.

    Nothing is sent. ConfigError where there is no such destination.
    """

    async def work(connection: Connection) -> Left:
        row = await connection.fetchrow(sql.remove.lock, name)
        if row is None:
            raise ConfigError(f"destination {name!r} does not exist: `syncd status` lists them")
        credential = row["credential"] or name
        left = await connection.fetchrow(sql.remove.stays, row["id"], credential)
        assert left is not None
        if really:
            await connection.execute(sql.remove.remove, row["id"])
        told = {**left, "secret": credential if left["secret"] else None}
        return Left(name, really, **told)

    return await transact(pool, work)
