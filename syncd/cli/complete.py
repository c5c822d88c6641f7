"""What the shell offers for an argument."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence

import asyncpg
import typer

from syncd import db
from syncd.errors import SyncdError
from syncd.settings import load

PATIENCE = 2.0  # seconds that somebody who pressed the tab key waits for a database


def destination_names(ctx: typer.Context, incomplete: str) -> Sequence[str]:
    """Destinations whose names begin so, but for those typed already.

    Nothing where there is no database that answers: a shell shows no message while somebody types.
    A private server is not started for it.
    """
    typed = {name for value in ctx.params.values() if isinstance(value, list) for name in value}
    with contextlib.suppress(SyncdError, asyncpg.PostgresError, OSError, TimeoutError):
        url = load(ctx.params.get("config")).database_url
        if not url.startswith("embedded:"):
            names = asyncio.run(asyncio.wait_for(_names(url), PATIENCE))
            return [one for one in names if one.startswith(incomplete) and one not in typed]
    return []


async def _names(url: str) -> Sequence[str]:
    connection = await db.connect(url)
    try:
        rows = await connection.fetch("select name from syncd.destination order by name")
        return [row["name"] for row in rows]
    finally:
        connection.terminate()
