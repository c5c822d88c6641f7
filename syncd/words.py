"""Numbers and times as an operator reads them at night."""

from __future__ import annotations

from datetime import datetime

_SPANS = ((86_400, "day", "days"), (3600, "h", "h"), (60, "min", "min"), (1, "s", "s"))


def span(seconds: float) -> str:
    """A length of time in its two largest units: '2 days 3 h', '41 s', 'no time'."""
    left = round(seconds)
    parts: list[str] = []
    for size, one, many in _SPANS:
        n, left = divmod(left, size)
        if n or parts:
            parts += [f"{n} {one if n == 1 else many}"] if n else [""]
        if len(parts) == 2:
            break
    return " ".join(part for part in parts if part) or "no time"


def ago(then: datetime | None, now: datetime) -> str:
    """How long before *now*: '5 min ago', 'just now', 'never'."""
    if then is None:
        return "never"
    seconds = (now - then).total_seconds()
    return "just now" if seconds < 1 else f"{span(seconds)} ago"


def count(n: int, one: str, many: str | None = None) -> str:
    """'1 contact', '1,204 contacts'."""
    return f"{n:,} {one if n == 1 else many or one + 's'}"


def moment(at: datetime | None) -> str:
    """A moment for eyes, in UTC: '2026-11-21 20:45:07 UTC'."""
    return "never" if at is None else f"{at:%Y-%m-%d %H:%M:%S} UTC"


def listed(items: list[str], most: int = 5) -> str:
    """'a, b, c and 4 more'."""
    shown = ", ".join(items[:most])
    return f"{shown} and {len(items) - most} more" if len(items) > most else shown
