"""Everything that is wrong with destinations' rows, secrets and mappings: all of it at once.

`assemble` stops at the first fault it meets; a person wants to mend them in one go.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from syncd.assemble import desired_on, limits_of, options_of
from syncd.control import Destination
from syncd.db import Connection, Pool
from syncd.errors import ConfigError
from syncd.providers import Provider, provider, providers
from syncd.schedule import parse
from syncd.secrets import Secrets
from syncd.tombstone import Tombstones
from syncd.wire import checked_base

SCHEDULES = ("schedule", "read_schedule", "full_schedule")


async def find(pool: Pool, secrets: Secrets, destinations: Sequence[Destination]) -> list[str]:
    """One line a fault; empty when each of them can be put together."""
    found: list[str] = []
    try:
        await Tombstones(pool, secrets).check()
    except ConfigError as error:
        found += error.faults
    for one in destinations:
        found += await faults_of(pool, secrets, one)
    return list(dict.fromkeys(found))


async def faults_of(pool: Pool, secrets: Secrets, destination: Destination) -> list[str]:
    """What is wrong with one destination."""
    async with pool.acquire() as connection:
        found = await row_faults(connection, destination)
    with _noting(destination, found)():
        known = providers().get(destination.provider)
        if known is None:
            await secrets.get(destination.credential)
        else:
            await secrets.credential(destination.credential, known.credential_model)
    return found


async def row_faults(connection: Connection, destination: Destination) -> list[str]:
    """What is wrong with its row and its mapping, as this connection sees them."""
    found: list[str] = []
    note = _noting(destination, found)
    for column in SCHEDULES:
        with note(f"{column}: "):
            parse(getattr(destination, column))
    kind: type[Provider] | None = None
    with note():
        kind = provider(destination.provider)
    if kind is None:
        return found
    options: Any = kind.options_model.model_construct()
    with note():
        options = options_of(destination, kind)
        limits_of(destination, kind, options)
        checked_base(kind.base_url(options), options.allow_http)
    with note():
        await desired_on(connection, destination, kind, options)
    return found


def _noting(destination: Destination, found: list[str]) -> Callable[..., Any]:
    @contextmanager
    def note(where: str = "") -> Iterator[None]:
        try:
            yield
        except ConfigError as error:
            for fault in error.faults:
                ours = fault.startswith(("destination ", "source "))
                found.append(fault if ours else f"destination {destination.name!r}: {where}{fault}")

    return note
