"""What the suite's processes print, log and store is looked through for the secrets they used.

Every runner of processes (service, operating, cmdline) hands in what it read and the environment
it gave; conftest looks through the server's own log at the end. Addresses are looked for where
none may be: in log records, and in whatever a daemon says.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator, Mapping

import asyncpg

ADDRESS = re.compile(r"[\w.+'-]+(?:@|%40)[\w-]+\.[\w.-]+")
SHORTEST = 8  # characters: shorter values are words that may stand anywhere
PUBLIC = frozenset({"username", "account_id", "expires_on", "client_id", "public_key"})

met: set[str] = set()
"""Every secret that any process of this session was given."""


def secrets_in(environ: Mapping[str, str]) -> set[str]:
    """The values that SYNCD_SECRET_* give a process; of JSON, those that are secret."""
    found: set[str] = set()
    for name, value in environ.items():
        if name.startswith("SYNCD_SECRET_"):
            found |= set(_values(value))
    met.update(found)
    return found


def _values(text: str) -> Iterator[str]:
    try:
        given = json.loads(text)
    except ValueError:
        given = {"": text}
    for key, value in given.items() if isinstance(given, dict) else ():
        if key not in PUBLIC and isinstance(value, str) and len(value) >= SHORTEST:
            yield value


def check(said: str, secrets: Collection[str], who: object) -> None:
    """Fail where *said* holds one of the secrets, or a log record an address."""
    assert not any(one in said for one in secrets), f"{who} said a secret"
    for line in said.splitlines():
        if line.startswith('{"timestamp"'):
            assert not ADDRESS.search(line), f"{who} logged an address"


async def stored(db: asyncpg.Connection, secrets: Collection[str]) -> list[str]:
    """The tables of schema syncd in which a secret stands in clear."""
    if not secrets:
        return []
    tables = await db.fetch(
        "select c.oid::regclass::text as name from pg_class c"
        " where c.relnamespace = to_regnamespace('syncd') and c.relkind = 'r'"
        " and pg_relation_size(c.oid) > 0"
    )
    found = []
    for row in tables:
        query = f"select exists (select 1 from {row['name']} t, unnest($1::text[]) s"
        if await db.fetchval(query + " where strpos(t::text, s) > 0)", list(secrets)):
            found.append(row["name"])
    return found
