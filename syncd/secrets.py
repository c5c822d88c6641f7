"""Credentials by name: from systemd, from the environment, or sealed in `syncd.secret`.

A value is the JSON of its provider's credential model. No message of this module quotes one, and
what it gives out the log never shows again (`log.hide`). Two names that differ only in characters
the environment cannot have (`a-b`, `a_b`) share one variable.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import asyncpg
from cryptography.fernet import Fernet, InvalidToken, MultiFernet

from syncd import log, sql
from syncd.credential import C, parse
from syncd.credential import expiry as expiry
from syncd.db import Connection, Pool, transact
from syncd.errors import ConfigError

KEY_VARIABLE = "SYNCD_SECRET_KEY"
KEY_FILE = "secret_key"
RESERVED = frozenset({"key", KEY_FILE, ".", ".."})  # in lower case; else a key would be read as one
PUBLIC_KEY = hashlib.sha256(b"syncd: no SYNCD_SECRET_KEY is set").digest()
"""Stands in for a key of the fleet's own: scopes and fingerprints are then guessable, no more."""

UNIT = "syncd_"
"""How systemd begins the names of files from a whole folder: `LoadCredential=syncd:/folder`."""

_NAME = re.compile(r"[A-Za-z0-9_.-]{1,128}")
_MAKE_ONE = (
    "python -c 'from cryptography.fernet import Fernet; print(Fernet.generate_key().decode())'"
)


class Kept(NamedTuple):
    """Where one secret is. `where` is a file, a variable or the table."""

    name: str
    where: str
    note: str = ""


def variable(name: str) -> str:
    """The environment variable that may hold the secret called *name*."""
    return "SYNCD_SECRET_" + re.sub(r"[^A-Z0-9]", "_", name.upper())


def sealing_keys(environ: Mapping[str, str]) -> Sequence[str]:
    """The Fernet keys that seal the table, the first encrypts; () if there are none.

    From SYNCD_SECRET_KEY, else from the file secret_key in $CREDENTIALS_DIRECTORY.
    """
    where, text = KEY_VARIABLE, environ.get(KEY_VARIABLE, "")
    if not text:
        for path in _places(environ, KEY_FILE):
            where, text = str(path), _read(path) or ""
            if text:
                break
    keys = [key.strip() for key in re.split(r"[,\n]", text) if key.strip()]
    if bad := [n for n, key in enumerate(keys, 1) if not _is_key(key)]:
        no_key = "is no Fernet key (32 bytes in URL-safe base64); make one: " + _MAKE_ONE
        raise ConfigError(*(f"{where}: key {n} of {len(keys)} {no_key}" for n in bad))
    return keys


def _is_key(key: str) -> bool:
    try:
        return len(base64.urlsafe_b64decode(key.encode())) == 32
    except (binascii.Error, ValueError):
        return False


def account_key(environ: Mapping[str, str]) -> bytes:
    """The key of `meter.scope_key` and of fingerprints: all processes of a fleet must agree.

    From the last sealing key: putting a new one in front of the old one changes nothing, a process
    at a time; dropping the old one does, so restart the fleet then. Without keys: `PUBLIC_KEY`.
    """
    keys = sealing_keys(environ)
    secret = base64.urlsafe_b64decode(keys[-1]) if keys else PUBLIC_KEY
    return hmac.digest(secret, b"syncd account key", "sha256")


class Secrets:
    """The three places secrets are kept in; see `get` for their order."""

    def __init__(
        self, pool: Pool | None, environ: Mapping[str, str], keys: Sequence[str] = ()
    ) -> None:
        self._pool = pool
        self._environ = environ
        self._keys = keys

    async def get(self, name: str) -> str:
        """The value: of the credentials directory, else the environment, else the table.

        Raises ConfigError naming the places looked at when there is none, or why it is unusable.
        """
        _check_name(name)
        value = self.outside_table(name) or await self.sealed(name)
        if value is None:
            folder = self._environ.get("CREDENTIALS_DIRECTORY")
            raise ConfigError(
                f"secret {name!r} is in none of its three places:"
                f" {Path(folder) / name if folder else '$CREDENTIALS_DIRECTORY (not set)'},"
                f" the variable {variable(name)}, the table syncd.secret"
                f"{' (no database)' if self._pool is None else f' (`syncd secret set {name}`)'}"
            )
        log.hide(value)
        return value

    @property
    def can_seal(self) -> bool:
        """Whether there is a key to seal a secret with."""
        return bool(self._keys) and self._pool is not None

    async def made_once(self, name: str, value: str) -> str:
        """The secret; where there is none yet, *value* is sealed as it for the whole fleet.

        ConfigError where it is in none of its places and there is no key to seal one with.
        """
        if await self._is_missing(name):
            sealed = self._seal().encrypt(value.encode())
            await self._table().execute(sql.secret.keep_first, name, sealed)
        return await self.get(name)

    async def _is_missing(self, name: str) -> bool:
        return not self.outside_table(name) and (
            self._pool is None or await self._pool.fetchval(sql.secret.sealed, name) is None
        )

    async def credential(self, name: str, model: type[C]) -> C:
        """The secret as a provider's credential; ConfigError names every faulty key, no value."""
        found, faults = parse(await self.get(name), model)
        if found is None:
            raise ConfigError(*(f"secret {name!r}: {fault}" for fault in faults))
        return found

    def fingerprint(self, value: str) -> str:
        """Changes when *value* does, and tells nothing about it to one without the fleet's key."""
        purpose = b"syncd credential fingerprint\0"
        key = account_key(self._environ)
        return hmac.digest(key, purpose + value.encode(), "sha256").hex()[:32]

    async def names(self) -> Sequence[Kept]:
        """Every secret there is, in the order of `get`; of two with one name the first is used.

        Names of variables are in lower case, with `_`: what they were is not to be known.
        """
        prefix = variable("")
        found = [
            Kept(name, str(path))
            for path in self._files()
            if _NAME.fullmatch(name := path.name.removeprefix(UNIT))
            and name.lower() not in RESERVED
        ]
        found += [
            Kept(key.removeprefix(prefix).lower(), key)
            for key in sorted(self._environ)
            if key.startswith(prefix) and key != KEY_VARIABLE and self._environ[key]
        ]
        rows = await self._pool.fetch(sql.secret.names) if self._pool else []
        return found + [
            Kept(r["name"], "syncd.secret", f"set {r['updated_at']:%Y-%m-%d} by {r['updated_by']}")
            for r in rows
        ]

    async def set(self, name: str, value: str) -> None:
        """Seal *value* and keep it in the table, in place of an older one."""
        _check_value(name, value)
        sealed = self._seal().encrypt(value.encode())
        await self._table().execute(sql.secret.keep, name, sealed)

    async def set_above(self, name: str, value: str) -> None:
        """As `set`, with the lines that the table has already under those of *value*.

        ConfigError where none of the keys opens these.
        """
        sealing, fresh = self._seal(), lines(value)

        async def work(connection: Connection) -> None:
            await connection.execute(sql.secret.keep_first, name, sealing.encrypt(value.encode()))
            sealed = await connection.fetchval(sql.secret.lock, name)
            try:
                before = lines(sealing.decrypt(sealed).decode())
            except (InvalidToken, UnicodeDecodeError):
                raise ConfigError(self._closed(name)) from None
            both = "\n".join(dict.fromkeys([*fresh, *before]))
            await connection.execute(sql.secret.keep, name, sealing.encrypt(both.encode()))

        _check_value(name, value)
        await transact(self._table(), work)

    def check_sealable(self, name: str) -> None:
        """ConfigError unless what `set` keeps under this name would be what `get` gives out."""
        _check_name(name)
        self._seal()
        folder = self._environ.get("CREDENTIALS_DIRECTORY", "")
        file = str(Path(folder) / name) if self._file(name) else ""
        if before := file or (variable(name) if self._environ.get(variable(name)) else ""):
            raise ConfigError(
                f"secret {name!r}: {before} holds it, and would hide what is sealed in the table:"
                f" take it away there (`syncd secret set {name}` keeps it in the table)"
            )

    async def remove(self, name: str) -> bool:
        """Take it out of the table; False if it was not there."""
        _check_name(name)
        return await self._table().fetchval(sql.secret.remove, name) is not None

    async def rotate(self) -> int:
        """Seal every row of the table with the first key; return how many. All or none.

        Raises ConfigError naming the secrets that none of the keys opens.
        """
        seal = self._seal()

        async def work(connection: Connection) -> int:
            rows = await connection.fetch(sql.secret.lock_all)
            fresh = {row["name"]: _rotated(seal, row["sealed"]) for row in rows}
            if closed := [name for name, sealed in fresh.items() if sealed is None]:
                raise ConfigError(*(self._closed(name) for name in closed))
            await connection.execute(sql.secret.reseal, list(fresh), list(fresh.values()))
            return len(fresh)

        return await transact(self._table(), work)

    def _files(self) -> Sequence[Path]:
        folder = self._environ.get("CREDENTIALS_DIRECTORY")
        if not folder or not Path(folder).is_dir():
            return []
        return sorted(path for path in Path(folder).iterdir() if path.is_file())

    def outside_table(self, name: str) -> str | None:
        """The value of the credentials directory, else of the environment."""
        return self._file(name) or self._environ.get(variable(name)) or None

    def _file(self, name: str) -> str | None:
        found = (_read(path) for path in _places(self._environ, name))
        return next((text for text in found if text is not None), None)

    async def sealed(self, name: str) -> str | None:
        """The value that the table has; ConfigError where it has one that cannot be read here."""
        try:
            sealed = await self._pool.fetchval(sql.secret.sealed, name) if self._pool else None
        except asyncpg.InsufficientPrivilegeError:  # an operator's role, or a reader's
            raise ConfigError(
                f"secret {name!r}: this role may not read the table syncd.secret, only those who"
                " send may (sql/roles.sql)"
            ) from None
        if sealed is None:
            return None
        try:
            return self._seal().decrypt(sealed).decode()
        except (InvalidToken, UnicodeDecodeError):
            pass
        raise ConfigError(self._closed(name))

    def _seal(self) -> MultiFernet:
        if not self._keys:
            raise ConfigError(
                f"the table syncd.secret is sealed and there is no key: set {KEY_VARIABLE} (or the"
                f" credential {KEY_FILE}) to what the other processes have; make one: {_MAKE_ONE}"
            )
        return MultiFernet([Fernet(key) for key in self._keys])

    def _table(self) -> Pool:
        if self._pool is None:
            raise ConfigError("secrets are kept in the database, and there is none")
        return self._pool

    def _closed(self, name: str) -> str:
        return (
            f"secret {name!r} in syncd.secret is opened by none of the {len(self._keys)} keys in"
            f" {KEY_VARIABLE}: add the one it was sealed with, or `syncd secret set {name}` again"
        )


def _places(environ: Mapping[str, str], name: str) -> Sequence[Path]:
    """The files that may hold the secret called *name*, the first that is there counts."""
    folder = environ.get("CREDENTIALS_DIRECTORY")
    return [Path(folder) / name, Path(folder) / (UNIT + name)] if folder else []


def _check_name(name: str) -> None:
    if not _NAME.fullmatch(name) or name.lower() in RESERVED:
        raise ConfigError(
            f"{name!r} cannot be the name of a secret: 1 to 128 letters, digits and _ . - ; not"
            f" {', '.join(sorted(RESERVED))}"
        )


def _check_value(name: str, value: str) -> None:
    _check_name(name)
    if not value.strip():
        raise ConfigError(f"secret {name!r}: an empty value; `syncd secret remove` takes it out")


def lines(value: str) -> Sequence[str]:
    """The values of a secret that holds several, one a line."""
    return [line.strip() for line in value.splitlines() if line.strip()]


def _read(path: Path) -> str | None:
    """A file's text without the line end an editor leaves; None if there is no such file."""
    try:
        text = path.read_text("utf-8").strip()
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        return None
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror})") from None
    except UnicodeDecodeError:
        text = ""
    if not text:
        raise ConfigError(f"{path}: is empty, or not UTF-8")
    return text


def _rotated(seal: MultiFernet, sealed: bytes) -> bytes | None:
    try:
        return seal.rotate(sealed)
    except InvalidToken:
        return None
