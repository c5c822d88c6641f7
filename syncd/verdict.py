"""What an answer means where the adapter has no opinion of its own. Pure; design, section 6."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from math import isfinite

from yarl import URL

from syncd.errors import (
    Ambiguous,
    Misconfigured,
    ProviderError,
    Refused,
    Transient,
    Unintelligible,
)
from syncd.model import Answer, Request

LONGEST_WAIT = 86_400.0  # a Retry-After beyond a day is a mistake, not a request
_READS = frozenset({"GET", "HEAD"})


def only_reads(request: Request) -> bool:
    """Whether a lost answer leaves nothing in doubt."""
    return request.method in _READS or request.repeatable


def by_status(request: Request, answer: Answer, said: str) -> ProviderError | None:
    """What a status means where the adapter has no opinion; None: the adapter's to read."""
    match answer.status:
        case status if status < 300 or status >= 600:
            return None if 200 <= status < 300 else Unintelligible(said)
        case status if status < 400:
            return Misconfigured(f"redirected to {_target_host(answer.headers)}; not followed")
        case 401 | 403:
            return Refused(said)
        case 404 | 405:
            return Misconfigured(said)
        case 429:
            return Transient(said)
        case status if status < 500:
            return None
        case _:
            return Transient(said) if only_reads(request) else Ambiguous(said)


def retry_after(headers: Mapping[str, str]) -> float:
    """Seconds that Retry-After asks for, given as a number or as a date; 0 without one."""
    text = headers.get("retry-after", "").strip()
    try:
        seconds = float(text)
    except ValueError:
        try:
            then = parsedate_to_datetime(text)
        except ValueError:
            return 0.0
        then = then if then.tzinfo else then.replace(tzinfo=UTC)
        seconds = (then - datetime.now(UTC)).total_seconds()
    return min(max(seconds, 0.0), LONGEST_WAIT) if isfinite(seconds) else 0.0


def _target_host(headers: Mapping[str, str]) -> str:
    try:
        return URL(headers.get("location", "")).host or "another path of the same host"
    except ValueError:
        return "an unreadable address"
