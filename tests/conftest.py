"""Real PostgreSQL for every test: one private cluster a worker, a template cloned per test."""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Generator, Iterator
from pathlib import Path

import asyncpg
import clusters
import leaks
import pytest
import structlog
from clusters import SETTINGS, fronted, named

from syncd import db
from syncd.migrate import migrate

_numbers = itertools.count(1)

LONGEST = (
    "test_other_servers.py", "crash/test_crash.py", "test_redcappi_sync.py",
    "test_database_trouble.py", "test_backfill.py", "test_kill.py", "test_reading.py",
    "conformance/test_sakila_converges.py", "test_reading_chaos.py", "fuzz/test_fuzz.py",
)  # fmt: skip
"""Files that take minutes: begun first, or the last worker would go on alone with one of them."""


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Whatever a test printed or logged itself is looked through as what its processes say is."""
    report = yield
    said = "\n".join(text for _, text in report.sections)
    if report.passed and any(one in said for one in leaks.met):
        report.outcome, report.longrepr = "failed", f"{item.nodeid} printed or logged a secret"
    return report


OF_PROCESSES = {"service", "redcappi_service", "crash", "fuzz", "chaos"}
"""Modules by which tests start daemons, kill them and wait for what comes of it."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Where CI=true, whatever fails among processes is tried once more, and told with its
    traceback: a machine that is shared may stand still for longer than a deadline. A fault fails
    twice, or is told; more than three in a run are no accident."""
    for item in items:
        if os.environ.get("CI") == "true" and _origins(item) & OF_PROCESSES:
            item.add_marker(pytest.mark.flaky(reruns=1))
    ranks = {Path(__file__).parent / name: rank for rank, name in enumerate(LONGEST)}
    items.sort(key=lambda item: ranks.get(item.path, len(ranks)))


def _origins(item: pytest.Item) -> set[str]:
    """The modules, and the folders of modules, that what a test's module uses comes from."""
    module = item.getparent(pytest.Module)
    there = [] if module is None else vars(module.obj).values()
    named = (getattr(one, "__module__", None) or getattr(one, "__name__", "") for one in there)
    folders = item.path.relative_to(Path(__file__).parent).parts
    return {part for one in named for part in str(one).split(".")} | {*folders}


@pytest.fixture(autouse=True)
def _unconfigured() -> Iterator[None]:
    """Whoever configures logging, as commands do, does so for one test: a level would stay."""
    yield
    structlog.reset_defaults()


@pytest.fixture(scope="session")
def cluster() -> Iterator[str]:
    """The address of a fresh cluster's `postgres` database (a superuser's)."""
    runtime = tempfile.mkdtemp(prefix="syncd-run-")
    os.environ.setdefault("XDG_RUNTIME_DIR", runtime)
    try:
        with contextlib.ExitStack() as stack:
            made = stack.enter_context(clusters.cluster(*SETTINGS, "autovacuum_naptime=5"))
            if os.environ.get("SYNCD_TEST_PGBOUNCER"):
                stack.enter_context(clusters.bouncer(made.url))
            yield made.url
            made.stop()
            said = made.said()
        assert not [one for one in leaks.met if one in said], "PostgreSQL logged a secret"
    finally:
        shutil.rmtree(runtime, ignore_errors=True)


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


async def nothing_stored(url: str) -> None:
    """No secret that any process of this session was given stands in a table of ours, in clear."""
    connection = await asyncpg.connect(url)
    try:
        assert not (found := await leaks.stored(connection, leaks.met)), f"a secret in {found}"
    finally:
        await connection.close()


@contextlib.asynccontextmanager
async def fresh_database(cluster: str, template: str) -> AsyncIterator[str]:
    name = f"test_{next(_numbers)}"
    admin = await asyncpg.connect(cluster)
    await admin.execute(f'create database "{name}" template "{template}"')
    try:
        yield named(cluster, name)
        await nothing_stored(named(cluster, name))
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
    async with db.pool(fronted(database), 12) as made:
        yield made
