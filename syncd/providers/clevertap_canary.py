"""What cannot be read about a CleverTap account is tried on made-up profiles (reference, 8)."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Protocol

from syncd.providers.clevertap_answers import identities

DOMAIN = "syncd-canary.invalid"  # no mail can ever be delivered there (RFC 2606)
LOOKS = (1.0, 2.0, 4.0, 8.0)  # seconds before each look: reads lag behind writes (5)
PROBE = "syncd probe"
BEFORE_1970 = "$D_-86400"

Record = Mapping[str, Any]


class Account(Protocol):
    """What the canaries need of the adapter."""

    async def upload(self, records: Sequence[Record]) -> bool:
        """Upload as one batch; whether every record was taken."""
        ...

    async def read(self, identity: str) -> Record | None: ...

    async def delete(self, identities: Sequence[str]) -> None: ...


async def findings(account: Account) -> Mapping[str, Any]:
    """Make a pair of canaries that share an address, look what became of them, delete them.

    delete_works: `{"$delete": true}` removes a property.  merges_by_email: one address makes one
    profile of two (None: could not be told).  negative_dates: a `$D_` before 1970 is kept.
    """
    token = secrets.token_hex(6)
    names = [f"syncd-canary-{token}-{one}" for one in "ab"]
    try:
        return await _tried(account, names, f"{token}@{DOMAIN}")
    finally:
        await account.delete(names)


async def _tried(account: Account, names: Sequence[str], address: str) -> Mapping[str, Any]:
    first, second = names
    found: dict[str, Any] = {
        "delete_works": False,
        "merges_by_email": None,
        "negative_dates": False,
    }
    if not await account.upload([_canary(one, address) for one in names]):
        return found
    if not await _comes(lambda: _both_there(account, names)):
        return found
    if await account.upload([_record(first, {PROBE: {"$delete": True}})]):
        found["delete_works"] = await _comes(lambda: _probe_gone(account, first))
    # Asked last, for merging takes the provider a while.
    one, other = await account.read(first), await account.read(second)
    if one is not None and other is not None:
        found["merges_by_email"] = second in identities(one.get("identity")) or (
            first in identities(other.get("identity"))
        )
    if await account.upload([_record(second, {"DOB": BEFORE_1970})]):
        found["negative_dates"] = await _comes(lambda: _keeps_early_date(account, second))
    return found


def _record(identity: str, data: Mapping[str, Any]) -> Record:
    return {"identity": identity, "type": "profile", "profileData": data}


def _canary(identity: str, address: str) -> Record:
    return _record(identity, {"Email": address, PROBE: "here", "MSG-email": False})


async def _comes(looked: Callable[[], Awaitable[bool]]) -> bool:
    """Whether it becomes true within a few looks."""
    for pause in LOOKS:
        await asyncio.sleep(pause)
        if await looked():
            return True
    return False


async def _both_there(account: Account, names: Sequence[str]) -> bool:
    for one in names:
        if PROBE not in _properties(await account.read(one)):
            return False
    return True


async def _probe_gone(account: Account, name: str) -> bool:
    record = await account.read(name)
    return record is not None and PROBE not in _properties(record)


async def _keeps_early_date(account: Account, name: str) -> bool:
    record = await account.read(name) or {}
    told = {**record, **_properties(record)}
    dates = (str(value) for key, value in told.items() if key.lower() == "dob")
    return any("-86400" in one or "1969" in one for one in dates)


def _properties(record: Record | None) -> Record:
    return ((record or {}).get("profileData")) or {}
