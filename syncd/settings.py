"""Settings of one process: `SYNCD_*` variables over a TOML file over defaults.

Which file: the one named (`--config`, else SYNCD_CONFIG), else ./syncd.toml, else
/etc/syncd/syncd.toml, else none. An empty variable counts as not set. Everything about a
destination is a row of `syncd.destination`, not a setting.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, Self

from pydantic import BeforeValidator, Field, ValidationError, field_validator, model_validator
from pydantic_core import ErrorDetails, PydanticCustomError
from pydantic_settings import BaseSettings, SettingsConfigDict

from syncd import toml
from syncd.errors import ConfigError

PREFIX = "SYNCD_"
PLACES = (Path("syncd.toml"), Path("/etc/syncd/syncd.toml"))


def _no_flag(value: object) -> object:
    """TOML's `true` is no number, though Python would take it for 1."""
    if isinstance(value, bool):
        raise PydanticCustomError("number", "Input should be a number")
    return value


_Number = BeforeValidator(_no_flag)
Seconds = Annotated[float, Field(gt=0, le=86_400, allow_inf_nan=False), _Number]
Share = Annotated[float, Field(ge=0, lt=1, allow_inf_nan=False), _Number]
Percent = Annotated[float, Field(ge=0, le=100, allow_inf_nan=False), _Number]
Count = Annotated[int, Field(ge=1), _Number]
Days = Annotated[int, Field(ge=1, le=36_500), _Number]


class Settings(BaseSettings):
    """Every setting; units are in the names. config/syncd.toml says why each is what it is."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        env_ignore_empty=True,
        extra="forbid",
        frozen=True,
        hide_input_in_errors=True,
    )

    database_url: str = Field(default="", repr=False)
    """postgresql://…; "" = libpq's PG* variables; embedded: or embedded:/path = a private one."""
    pool_size: Annotated[int, Field(ge=2, le=1000), _Number] = 10
    """Connections to PostgreSQL, at most; one more for LISTEN."""
    prepared_statements: Literal["auto", "on", "off"] = "auto"
    """auto = on, unless a pooler (PgBouncer) stands between syncd and PostgreSQL."""
    lease_seconds: Seconds = 9
    """How long after its last heartbeat a process still owns what it has claimed."""
    heartbeat_seconds: Seconds = 1
    request_timeout_seconds: Seconds = 6
    """For one HTTP request, from first byte sent to last byte read."""
    poll_seconds: Seconds = 0.2
    """How often work is looked for where no NOTIFY arrives."""
    control_poll_seconds: Seconds = 0.5
    """How often control rows (destination, command, secret) are looked at."""
    drain_seconds: Seconds = 30
    """How long SIGTERM waits for what is in flight."""
    window: Annotated[int, Field(ge=1, le=1_000_000), _Number] = 5000
    """Source ids that a full pass takes at a time."""
    read_share: Share = 0.2
    """Part of every meter that is kept for reading back."""
    lane0_share: Share = 0.1
    """Part of every meter that is kept for opt-outs and erasures."""
    keep_gone_days: Days = 400
    """How long a withdrawn contact's remote id is remembered."""
    keep_deliveries_days: Annotated[int, Field(ge=0, le=36_500), _Number] = 30
    """How long `delivery` says what was sent; 0 = nothing is noted there."""
    max_keys: Count = 50_000
    """A keyed pass that meets more changed contacts than this owes a full pass ..."""
    max_keys_percent: Percent = 15
    """... if they are also more than this share of the destination."""
    listen: bool = True
    """LISTEN on a connection of its own; false = polling only."""
    listen_url: str = Field(default="", repr=False)
    """Where to LISTEN when database_url is a pooler's: PostgreSQL itself; "" = database_url."""
    connections_per_destination: Count = 32
    """HTTP connections, at most."""
    answer_cap_mb: Count = 64
    """A provider's longer answer is cut off and counts as unintelligible."""
    admin: str = ""
    """host:port of /healthz, /readyz and /metrics; "" = none."""
    admin_token: str = ""
    """The name of the secret that /metrics asks for; a must where `admin` is not loopback."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    log_format: Literal["auto", "json", "console"] = "auto"
    """auto = console on a terminal, JSON lines elsewhere."""

    @field_validator("database_url")
    @classmethod
    def _known_scheme(cls, url: str) -> str:
        if url and not url.startswith(("postgresql://", "postgres://", "embedded:")):
            raise PydanticCustomError(
                "url", "Input should be postgresql://… or embedded: or empty (PG* variables)"
            )
        return url

    @field_validator("listen_url")
    @classmethod
    def _a_server(cls, url: str) -> str:
        if url and not url.startswith(("postgresql://", "postgres://")):
            raise PydanticCustomError("url", "Input should be postgresql://… or empty")
        return url

    @field_validator("admin")
    @classmethod
    def _an_address(cls, text: str) -> str:
        if text and admin_address(text) is None:
            raise PydanticCustomError(
                "admin", "Input should be host:port ('127.0.0.1:9464', '[::1]:9464') or empty"
            )
        return text

    @field_validator("log_level", "log_format", mode="before")
    @classmethod
    def _lower_case(cls, value: object) -> object:
        return value.lower() if isinstance(value, str) else value

    @field_validator("prepared_statements", mode="before")
    @classmethod
    def _on_or_off(cls, value: object) -> object:
        if isinstance(value, bool):
            return "on" if value else "off"
        return value.lower() if isinstance(value, str) else value

    @model_validator(mode="after")
    def _agree(self) -> Self:
        if clashes := "\n".join(_clashes(self)):
            raise PydanticCustomError("clash", "{clashes}", {"clashes": clashes})
        return self


def admin_address(text: str) -> tuple[str, int] | None:
    """Host and port of 'host:port' or '[::1]:port'; None where it is neither."""
    found = re.fullmatch(r"(?:\[([0-9A-Fa-f:.]+)\]|([^\s\[\]:/]+)):(\d{1,5})", text)
    if found is None or int(found[3]) > 65535:
        return None
    return found[1] or found[2], int(found[3])


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches *host*."""
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def _clashes(settings: Settings) -> Iterator[str]:
    address = admin_address(settings.admin)
    if address and not settings.admin_token and not is_loopback(address[0]):
        yield (
            f"admin is {settings.admin!r}, which other machines may reach, expected admin_token"
            " beside it: the name of the secret that /metrics asks for (or use 127.0.0.1)"
        )
    needed = settings.request_timeout_seconds + settings.heartbeat_seconds
    if settings.lease_seconds <= needed:
        yield (
            f"lease_seconds is {settings.lease_seconds:g}, expected more than"
            f" request_timeout_seconds + heartbeat_seconds = {needed:g}: a process may send only"
            " while a request that takes all its time still ends within the lease (the send"
            " fence); otherwise it could write stale data over its successor's"
        )
    if settings.read_share + settings.lane0_share >= 1:
        yield (
            f"read_share + lane0_share is {settings.read_share + settings.lane0_share:g}, expected"
            " less than 1: both are parts of one meter, and ordinary changes need the rest"
        )


def shown_url(url: str) -> str:
    """*url* as it may be shown: no password, wherever it stands; too little rather than too much.

    >>> shown_url("postgresql://ann:pa@ss@db:5432/crm?sslpassword=x")
    'postgresql://ann:…@db:5432/crm?sslpassword=…'
    """
    url = re.sub(r"^([\w+]+://[^:@]*):.*@", r"\1:…@", url, flags=re.DOTALL)
    url = re.sub(r"^([\w+]+://[^:@/?[]*):(?!\d*(?:[/?,]|$))[^@]*$", r"\1:…", url, flags=re.DOTALL)
    return re.sub(r"(?i)(pass(?:word|wd)?\s*=\s*)('(?:[^'\\]|\\.)*'?|[^&\s]+)", r"\1…", url)


class _File(NamedTuple):
    path: Path | None
    values: dict[str, Any]
    faults: list[str]


def load(path: Path | None = None) -> Settings:
    """The settings of this process; ConfigError with every fault, each with its place."""
    named = path or (Path(name) if (name := os.environ.get("SYNCD_CONFIG")) else None)
    file = _read(named)
    variables = {name.upper() for name, value in os.environ.items() if value}
    given = {k: v for k, v in file.values.items() if PREFIX + k.upper() not in variables}
    settings, wrong = _validated(given)
    faults = [*file.faults, *_misspelt(variables)]
    faults += [line for d in wrong for line in _faults(d, file.path if _key(d) in given else None)]
    if faults or settings is None:
        raise ConfigError(*faults)
    return settings


def _read(named: Path | None) -> _File:
    for path in (named,) if named else PLACES:
        try:
            if named or not _is_missing(path):
                return _File(path, toml.read(path), [])
        except ConfigError as error:
            return _File(path, {}, list(error.faults))
    return _File(None, {}, [])


def _is_missing(path: Path) -> bool:
    """Whether it is not there at all; one that may not be looked at is there, and a fault."""
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return True
    except OSError:
        pass
    return False


def _validated(given: dict[str, Any]) -> tuple[Settings | None, list[ErrorDetails]]:
    """The settings, or all that is wrong: also the clashes pydantic does not come to."""
    try:
        return Settings(**given), []
    except ValidationError as error:
        wrong = error.errors(include_url=False)
    fields = Settings.model_fields
    faulty = {key for detail in wrong if (key := _key(detail))}
    sound = {k: v for k, v in given.items() if k in fields}
    try:
        Settings(**sound | {key: fields[key].default for key in faulty if key in fields})
    except ValidationError as error:
        known = [detail["msg"] for detail in wrong]
        wrong += [
            detail
            for detail in error.errors(include_url=False)
            if detail["msg"] not in known and not any(key in detail["msg"] for key in faulty)
        ]
    return None, wrong


def _key(detail: ErrorDetails) -> str:
    return str(detail["loc"][0]) if detail["loc"] else ""


def _misspelt(variables: set[str]) -> Iterator[str]:
    """Only near misses: others set SYNCD_* too (Kubernetes, for a service of that name)."""
    known = {PREFIX + key.upper() for key in Settings.model_fields} | {"SYNCD_CONFIG"}
    for name in sorted(variables - known):
        ours = name.startswith(PREFIX) and not name.startswith("SYNCD_SECRET_")
        if ours and (near := difflib.get_close_matches(name, known, n=1, cutoff=0.85)):
            yield f"environment: {name} is not a setting; did you mean {near[0]}?"


def _faults(detail: ErrorDetails, path: Path | None) -> list[str]:
    key = _key(detail)
    if not key:
        return [f"settings: {line}" for line in detail["msg"].splitlines()]
    where = f"{path}: {key}" if path else f"environment: {PREFIX}{key.upper()}"
    if detail["type"] == "extra_forbidden":
        near = difflib.get_close_matches(key, Settings.model_fields, n=1)
        hint = f"did you mean {near[0]}?" if near else "config/syncd.toml names them all"
        return [f"{where} is not a setting; {hint}"]
    found = detail["input"]
    if key in ("database_url", "listen_url"):
        found = shown_url(found) if isinstance(found, str) else type(found).__name__
    expected = detail["msg"].removeprefix("Input should be ").partition(", unable")[0]
    return [f"{where} is {found!r}, expected {expected}"]
