"""The bare SQL that syncd's passes are held against: the ideal script's tables and digest."""

from __future__ import annotations

import time
from typing import Any

import asyncpg

WINDOW = 5000
NAMES = (
    "email", "first_name", "last_name", "company", "phone", "street", "city", "zip", "country",
    "attributes",
)  # fmt: skip
COLUMNS = ",".join(f"c.{name}" for name in NAMES)

DIFF = f"""
select s.*, m.digest md, m.contact_id mid
  from (select c.id, {COLUMNS}, g.l, md5(row({COLUMNS}, g.l)::text)::uuid d
          from contacts c
          left join (select contact_id, array_agg(list_id order by list_id) l from memberships
                      where contact_id > $1 and contact_id <= $2 group by 1) g
            on g.contact_id = c.id
         where c.id > $1 and c.id <= $2) s
  full outer join (select * from mirror
                    where provider = 1 and contact_id > $1 and contact_id <= $2) m
    on m.contact_id = s.id
 where s.d is distinct from m.digest"""

KEYED = f"""
select c.id, {COLUMNS}, g.l, md5(row({COLUMNS}, g.l)::text)::uuid d
  from contacts c
  left join (select contact_id, array_agg(list_id order by list_id) l from memberships
              where contact_id = any($1::bigint[]) group by 1) g on g.contact_id = c.id
 where c.id = any($1::bigint[])"""

DRAIN = f"""
with taken as (
    delete from outbox where id in (select id from outbox order by id limit 1000
                                       for update skip locked)
    returning contact_id)
select c.id, {COLUMNS}, array(select m.list_id from memberships m where m.contact_id = c.id)
  from contacts c where c.id in (select contact_id from taken)"""

# The minimal loop's trigger; `off` takes it away.
WATCH = """
create or replace function outbox_note() returns trigger language plpgsql as $$
begin
    insert into outbox (contact_id) values (new.id);
    perform pg_notify('outbox', '');
    return null;
end $$;
create trigger outbox_note after insert or update on contacts
    for each row execute function outbox_note()"""
UNWATCH = "drop trigger if exists outbox_note on contacts"


def record(row: Any) -> dict[str, Any]:
    """A row of `DRAIN` as the provider takes it."""
    data = dict(zip(NAMES, row[1:], strict=False))
    return {"identity": str(row[0]), "type": "profile", "profileData": data, "lists": row[11]}


async def nothing(url: str, n: int) -> float:
    """Seconds that the windowed comparison takes where nothing differs."""
    connection = await asyncpg.connect(url)
    statement = await connection.prepare(DIFF)
    began = time.perf_counter()
    for low in range(0, n, WINDOW):
        rows = await statement.fetch(low, min(low + WINDOW, n))
        assert not rows, "the ideal's mirror is not in step"
    wall = time.perf_counter() - began
    await connection.close()
    return wall
