"""CleverTap's cursors: text that is already percent-encoded, taken back only unchanged."""

from __future__ import annotations

import base64
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote


@dataclass(slots=True)
class Query:
    """An opened query: its rows are fixed, its pages can be read again."""

    kind: str
    rows: list[Any]
    size: int
    render: Callable[[Any], dict[str, Any] | None]
    made: float
    empty_page: bool
    cursors: list[str] = field(default_factory=list)

    @property
    def pages(self) -> int:
        """How many cursors the query has; a last page without rows if so configured."""
        return max(1, -(-len(self.rows) // self.size)) + (1 if self.empty_page else 0)


class Cursors:
    """Hands out cursors, already percent-encoded, and finds them only as handed out."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[Query, int]] = {}

    def open(self, query: Query) -> str:
        """Give every page of the query a cursor; returns the first."""
        for page in range(query.pages):
            token = b"\xfb\xef\xff" + secrets.token_bytes(10)  # "++//" first, "==" last
            cursor = quote(base64.b64encode(token).decode(), safe="")
            query.cursors.append(cursor)
            self._known[cursor] = (query, page)
        return query.cursors[0]

    def page(self, cursor: str, kind: str, life: float | None) -> dict[str, Any] | None:
        """The page behind a cursor; KeyError if never handed out, None if too old."""
        query, page = self._known[cursor]
        if query.kind != kind:
            raise KeyError(cursor)
        if life is not None and time.time() > query.made + life:
            return None
        rows = query.rows[page * query.size : (page + 1) * query.size]
        records = [record for row in rows if (record := query.render(row)) is not None]
        answer: dict[str, Any] = {"status": "success"}
        if records or not query.empty_page:
            answer["records"] = records
        if page:
            answer["previous_cursor"] = query.cursors[page - 1]
        if page + 1 < query.pages:
            answer["next_cursor"] = query.cursors[page + 1]
        return answer
