"""Addresses as a second key: who holds an address, and how records follow it (races 8).

Pure functions; `syncd.plan` feeds them and writes down what they say.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

SHARES = "shares its address with contact "
"""How the fault of a contact begins that another one keeps from its address."""


class Holder(NamedTuple):
    """A contact of the source that belongs to a destination and carries an address."""

    contact_id: str
    email: str
    subscribed: bool  # nor has it said no at the provider, under whatever address


class Sharer(NamedTuple):
    """One of several contacts with an address; `holder` is the one that has it there."""

    contact_id: str
    email: str
    holder: str
    subscribed: bool


class Claimant(NamedTuple):
    """A contact whose wanted address is on somebody else's mirror row."""

    contact_id: str
    wants: str
    holder: str  # whose mirror row has that address
    holder_wants: str | None  # the address the holder is to have; None: it is gone


def sharers(holders: Iterable[Holder], at_mirror: Mapping[str, str]) -> Sequence[Sharer]:
    """Every contact whose address occurs more than once, and who holds it.

    at_mirror: address → contact that the provider already has it under; it keeps the address as
    long as it wants it, otherwise the first id does. All must say yes for anyone to be mailed.
    """
    groups: dict[str, list[Holder]] = {}
    for one in holders:
        groups.setdefault(one.email, []).append(one)
    found: list[Sharer] = []
    for email, group in groups.items():
        if len({one.contact_id for one in group}) < 2:
            continue
        ids = sorted(one.contact_id for one in group)
        holder = at_mirror[email] if at_mirror.get(email) in ids else ids[0]
        agreed = all(one.subscribed for one in group)
        found += [Sharer(one, email, holder, agreed) for one in ids]
    return found


def exchanges(claimants: Sequence[Claimant]) -> Mapping[str, str]:
    """Which mirror row each contact takes over: contact → contact whose row it gets.

    A cycle of moves is rotated; where the holder is gone, it gets the record that the last of the
    chain leaves behind. A chain that ends at a free address is left alone: it is sent in order.
    """
    by_contact = {one.contact_id: one for one in claimants}
    taken: dict[str, str] = {}
    for start in sorted(by_contact):
        if start in taken:
            continue
        path = [start]
        while True:
            step = by_contact[path[-1]]
            if step.holder in taken or step.holder in path[1:]:
                break
            if step.holder == start or step.holder_wants is None:
                members = path if step.holder == start else [*path, step.holder]
                following = [*members[1:], members[0]]
                taken.update(zip(members, following, strict=True))
                break
            if step.holder not in by_contact:
                break
            path.append(step.holder)
    return taken
