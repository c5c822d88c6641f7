"""`migrate` and `run`."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from syncd import app as composition
from syncd import db, migrate
from syncd.cli import Config, Json, command, output, print_lines, settings_of


@command(example="syncd migrate --sql > schema.sql", name="migrate")
async def migrate_(
    sql: Annotated[bool, typer.Option("--sql", help="Print the SQL; change nothing.")] = False,
    json: Json = False,
    config: Config = None,
) -> None:
    """Make or update the schema `syncd` in the database; nothing else there is touched."""
    if sql:
        sys.stdout.write(migrate.script() + "\n")
        return
    settings = settings_of(config)
    with db.server(settings.database_url) as url:
        connection = await db.connect(url)
        try:
            done = await migrate.migrate(connection)
        finally:
            await connection.close(timeout=5)
    names = [f"{one.version:04d}_{one.name}" for one in done]
    says = [f"applied {name}" for name in names] or ["the schema is up to date"]
    output(json, {"applied": names}, lambda to: print_lines(to, says))


@command(example="syncd run --config syncd.toml")
async def run(config: Config = None) -> int:
    """Serve every destination until told to stop: SIGTERM finishes what is in flight."""
    settings = settings_of(config, level=None)
    return await composition.run(settings, reread=lambda: settings_of(config, level=None))
