"""Whom CleverTap knows already under another identity: an upload would make them twice.

An app that has identities of its own is the usual reason. Found by address; two profiles of one
address are merged, or not, as the account is set up (5).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from syncd.model import Finding
from syncd.providers.clevertap_answers import identities

Read = Callable[[str], Awaitable[Mapping[str, Any] | None]]


def is_of(record: Mapping[str, Any] | None, address: str) -> bool:
    """Whether that is a profile of this very address."""
    return record is not None and str(record.get("email", "")).lower() == address.lower()


def is_stranger(record: Mapping[str, Any] | None, identity: str, address: str) -> bool:
    """Whether the address has a profile there that does not bear our identity."""
    known = identities(record.get("identity")) if record else []
    return bool(known) and identity not in known and is_of(record, address)


def told(looked_up: int, strangers: int) -> Sequence[Finding]:
    """What `check` says of them."""
    if not looked_up:
        return []
    says = f"{looked_up} addresses of contacts that are to be made were looked up"
    if not strangers:
        return [Finding("adoption", "ok", f"{says}: none is known there as somebody else")]
    remedy = (
        "set options.adopt to 'email' (every new contact is then looked up by address, and its"
        " profile taken), or options.identity to the column that holds those identities"
    )
    says = f"{says}: {strangers} are known there under other identities, and would be made twice"
    return [Finding("adoption", "warning", says, remedy)]
