"""Whose account a destination fills: written down once; the credential of another is refused.

What the mirror says is true of one account only. Sent to another one, it would make doubles there
and leave everybody else out; read from it, everybody would have vanished.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

from syncd import sql
from syncd.errors import OtherAccount
from syncd.model import Finding
from syncd.providers import NamesAccount, Owner, Provider, TellsOwner

if TYPE_CHECKING:
    from syncd.assemble import Assembled
    from syncd.control import Destination
    from syncd.db import Pool

HASHED = "sha256:"  # how the name of an account begins that only its credential tells


async def identify(made: Assembled) -> None:
    """Once for each credential: is it of the account that was written down? OtherAccount if not.

    Costs a request where the provider has to be asked. Where nobody tells, nothing is held.
    """
    pool, fingerprint = made.planner.pool, made.credential.fingerprint
    row = await pool.fetchrow(sql.account.pinned, made.destination.id)
    if row is not None and row["account"] is not None and row["account_with"] == fingerprint:
        return
    if (owner := await owner_of(made)) is not None:
        await pin(pool, made.destination, owner, fingerprint)


async def owner_of(made: Assembled) -> Owner | None:
    """Whose account the credential is of now: as it says itself, or as the provider tells."""
    if (named := named_in(made.provider, made.credential.value)) is not None:
        return Owner(named)
    return await made.adapter.owner() if isinstance(made.adapter, TellsOwner) else None


def named_in(kind: type[Provider], credential: Any) -> str | None:
    """The account that the credential itself names, as it is written down; None: it does not."""
    if not isinstance(kind, NamesAccount):
        return None
    text = f"{kind.name}\0{kind.account(credential)}"
    return HASHED + hashlib.sha256(text.encode()).hexdigest()


async def pin(pool: Pool, destination: Destination, owner: Owner, fingerprint: str) -> None:
    """Write the account down. OtherAccount where another one is, and has been read already."""
    if await pool.fetchval(sql.account.pin, destination.id, owner.id, fingerprint) is None:
        was = await pool.fetchval(sql.account.pinned, destination.id)
        raise OtherAccount(_differs(destination, owner, was))


async def look(made: Assembled) -> Finding | None:
    """What `check` says of it; writes nothing. None: it is right, or not known."""
    was = await made.planner.pool.fetchval(sql.account.pinned, made.destination.id)
    owner = None if was is None else await owner_of(made)
    if owner is None or owner.id == was:
        return None
    says, _, remedy = _differs(made.destination, owner, was).partition(": ")
    return Finding("account", "error", says, remedy, OtherAccount.exit_code)


def _differs(destination: Destination, owner: Owner, was: str) -> str:
    """Names that only a credential tells are not shown."""
    known = not owner.id.startswith(HASHED) and not was.startswith(HASHED)
    whose = f"account {owner.id}, not of {was}" if known else "another account than the one"
    return (
        f"secret {destination.credential!r} is of {whose} that {destination.name!r} was filled"
        " from: nothing is read or sent; put the old account's credential back, or make a new"
        " destination for the other account"
    )
