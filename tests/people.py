"""Contacts for tests of whole commands."""

from __future__ import annotations

from typing import Any

import orjson

from syncd.sandbox import Handle


async def fill(pool: Any, n: int) -> None:
    """n contacts c00001…, every second one in list `news`, every tenth in `vip`."""
    await pool.execute("insert into syncd.list values ('news', 'Newsletter'), ('vip', 'VIP')")
    await pool.execute(
        """
        insert into syncd.contact (id, email, first_name, last_name, city)
        select 'c' || lpad(g::text, 5, '0'), 'p' || g || '@x.example', 'Ann ' || g,
               'Ó Súilleabháin', 'Łódź'
          from generate_series(1, $1::int) g""",
        n,
    )
    await pool.execute("""
        insert into syncd.membership
        select l.id, c.id from syncd.contact c
          join (values ('news', 2), ('vip', 10)) l (id, every)
            on substr(c.id, 2)::int % every = 0""")


async def destination(pool: Any, sandbox: Handle, name: str = "marketing", **columns: Any) -> None:
    """A destination that points at the sandbox."""
    options = {"base_url": sandbox.url, **columns.pop("options", {})}
    row = {"name": name, "provider": "clevertap", "options": orjson.dumps(options).decode()}
    row |= columns
    places = ", ".join(f"${i}" for i in range(1, len(row) + 1))
    await pool.execute(
        f"insert into syncd.destination ({', '.join(row)}) values ({places})", *row.values()
    )


def profiles(sandbox: Handle) -> dict[str, Any]:
    found: dict[str, Any] = sandbox.snapshot()["profiles"]
    return found
