"""Load the Sakila sample database (a psql dump of PostgreSQL 8.4's time) without psql."""

from __future__ import annotations

import gzip
import io
import os
import re
from collections.abc import Iterator
from pathlib import Path

import asyncpg
import pytest
from clusters import named

EXAMPLE = Path(__file__).resolve().parent.parent / "config" / "sakila.sql"

_COPY = re.compile(r'^COPY (?:(\w+)\.)?(\w+) \(([\w", ]+)\) FROM stdin;$')

# What a server of today refuses, or what names a role that need not exist.
_SKIPPED = re.compile(
    r"^(ALTER .* OWNER TO \w+;"
    r"|CREATE OR REPLACE PROCEDURAL LANGUAGE plpgsql;"  # part of every database since 9.0
    r"|SET default_with_oids = false;"  # gone since 12
    r"|(REVOKE|GRANT) .*;)$"
)


def folder() -> Path | None:
    """Where the two files are: $SYNCD_SAKILA, or beside the repository; None if nowhere."""
    if named := os.environ.get("SYNCD_SAKILA"):
        return Path(named)
    beside = Path(__file__).resolve().parent.parent.parent / "shared" / "data" / "sakila"
    return beside if (beside / "schema.sql").is_file() else None


def _data(lines: Iterator[str]) -> bytes:
    """The rows of a COPY block, up to its end mark."""
    rows = []
    for line in lines:
        if line == "\\.\n":
            break
        rows.append(line)
    return "".join(rows).encode()


async def play(connection: asyncpg.Connection, script: str) -> None:
    """Run a script as psql would: statements together, COPY blocks by the COPY protocol."""
    pending: list[str] = []
    lines = iter(script.splitlines(keepends=True))
    for line in lines:
        if copy := _COPY.match(line.rstrip("\n")):
            await connection.execute("".join(pending))
            pending.clear()
            schema, table, columns = copy.groups()
            await connection.copy_to_table(
                table,
                schema_name=schema or "public",
                columns=[column.strip(' "') for column in columns.split(",")],
                source=io.BytesIO(_data(lines)),
                format="text",
            )
        elif not _SKIPPED.match(line.rstrip("\n")):
            pending.append(line)
    await connection.execute("".join(pending))


async def load(url: str) -> None:
    """Create and fill the Sakila tables in schema public; FileNotFoundError without the files."""
    place = folder()
    if place is None:
        raise FileNotFoundError("schema.sql of Sakila: set SYNCD_SAKILA to its folder")
    connection = await asyncpg.connect(url)
    try:
        await play(connection, (place / "schema.sql").read_text("utf-8"))
        with gzip.open(place / "data.sql.gz", "rt", encoding="utf-8", newline="\n") as data:
            await play(connection, data.read())
        await connection.execute("analyze")
    finally:
        await connection.close()


needed = pytest.mark.skipif(
    folder() is None, reason="Sakila's files are not here: set SYNCD_SAKILA to their folder"
)


async def make_template(cluster: str, template: str, name: str) -> str:
    """A database of that name with Sakila and the example in it, to be cloned; its name."""
    admin = await asyncpg.connect(cluster)
    await admin.execute(f"create database {name} template {template}")
    await admin.close()
    await load(named(cluster, name))
    made = await asyncpg.connect(named(cluster, name))
    await made.execute(EXAMPLE.read_text("utf-8"))
    await made.close()
    return name
