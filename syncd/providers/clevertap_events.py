"""CleverTap: the events of one name, page by page."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson

from syncd.errors import Unintelligible
from syncd.model import Request
from syncd.providers import Wire
from syncd.providers import clevertap_answers as answers

PAGE = 5000
BEGINNING = "20130101"  # before the provider existed


async def pages(wire: Wire, name: str, since: datetime | None) -> AsyncIterator[Sequence[Any]]:
    """From the day before *since* to tomorrow: zones differ (3.4)."""
    query = {
        "event_name": name,
        "from": int(_day(since - timedelta(days=1)) if since else BEGINNING),
        "to": int(_day(datetime.now(UTC) + timedelta(days=1))),
    }
    cursor: str | None = await _cursor(wire, query)
    restarted = False
    while cursor:
        target = f"/1/events.json?cursor={answers.cursor_of(cursor)}"
        answer = await wire.send(Request("GET", target, meter="read"))
        if answer.status == 400 and not restarted:  # too old: pages may be read again (4)
            cursor, restarted = await _cursor(wire, query), True
            continue
        told = answers.succeeded(answer)
        if records := told.get("records"):
            yield records
        if (following := told.get("next_cursor")) == cursor:
            raise Unintelligible("a page of events is said to be followed by itself")
        cursor = following


async def _cursor(wire: Wire, query: Mapping[str, Any]) -> str:
    target, body = f"/1/events.json?batch_size={PAGE}", orjson.dumps(query)
    asks = Request("POST", target, body, meter="read", repeatable=True)
    return answers.cursor_of(answers.succeeded(await wire.send(asks)).get("cursor"))


def _day(when: datetime) -> str:
    return f"{when.astimezone(UTC):%Y%m%d}"
