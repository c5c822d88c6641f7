"""`check`, the rows of a source: contacts that cannot be sent, or not as they are."""

from __future__ import annotations

import asyncpg

from syncd.db import Connection
from syncd.model import Finding
from syncd.source import Source
from syncd.words import count, listed

PATIENCE_MS = 60_000  # a table that takes longer to count is left uncounted
ADDRESS = r"^[^@[:space:]]+@[^@[:space:]]+\.[^@[:space:]]+$"


async def check_rows(connection: Connection, source: Source) -> list[Finding]:
    """Count what the provider will not be given; gives up where that takes too long."""
    subject = f"source {source.name}"
    try:
        async with connection.transaction(readonly=True):
            await connection.execute(f"set local statement_timeout = {PATIENCE_MS}")
            found = await _addresses(connection, source, subject)
            return (
                found
                + await _shared(connection, source, subject)
                + await _twice(connection, source, subject)
            )
    except asyncpg.QueryCanceledError:
        says = f"the addresses of {source.contact.name} were not counted: it took too long"
        return [Finding(subject, "warning", says, "nothing to do; full passes find faulty rows")]


async def _addresses(connection: Connection, source: Source, subject: str) -> list[Finding]:
    row = await connection.fetchrow(
        f"""
select count(*) as contacts, count(*) filter (where c.id is null) as nameless,
       count(*) filter (where coalesce(btrim(c.email::text), '') = '') as without,
       count(*) filter (where btrim(c.email::text) <> ''
                          and btrim(c.email::text) !~ $1) as malformed
  from {source.contact.name} c""",
        ADDRESS,
    )
    assert row is not None
    lists = await connection.fetchval(f"select count(*) from {source.list.name}")
    says = f"{count(row['contacts'], 'contact')}, {count(lists, 'list')}"
    found = [Finding(subject, "ok", says)]
    for n, what, remedy in (
        (row["nameless"], "no id: skipped", "leave them out of the view, or give them ids"),
        (row["without"], "no address: rejected", "leave them out of the view, or mend them"),
        (row["malformed"], "a malformed address", "mend them; the provider may refuse them"),
    ):
        if n:
            verb = "has" if n == 1 else "have"
            found.append(
                Finding(subject, "warning", f"{count(n, 'contact')} {verb} {what}", remedy)
            )
    return found


async def _shared(connection: Connection, source: Source, subject: str) -> list[Finding]:
    row = await connection.fetchrow(
        f"""
select count(*) as addresses, coalesce(sum(n), 0)::bigint as contacts
  from (select count(distinct c.id) as n from {source.contact.name} c
         where btrim(c.email::text) <> ''
         group by lower(btrim(c.email::text)) having count(distinct c.id) > 1) often"""
    )
    assert row is not None
    if not row["addresses"]:
        return []
    addresses = count(row["addresses"], "address", "addresses")
    says = (
        f"{count(row['contacts'], 'contact')} share {addresses}: one of each holds it at the"
        " provider, the others are rejected; and all must say yes"
    )
    return [Finding(subject, "warning", says, "make addresses unique; `syncd rejected` names them")]


async def _twice(connection: Connection, source: Source, subject: str) -> list[Finding]:
    if source.contact.is_unique("id"):
        return []
    rows = await connection.fetch(
        f"select c.id::text as id from {source.contact.name} c"
        " group by c.id having count(*) > 1 order by 1 limit 1000"
    )
    if not rows:
        return []
    n = f"{len(rows)} or more ids" if len(rows) == 1000 else count(len(rows), "id")
    says = f"{n} seen twice in {source.contact.name}, so skipped: {listed([r['id'] for r in rows])}"
    return [Finding(subject, "warning", says, "make `id` unique: a join that multiplies rows?")]
