"""One request as a stand-in sees it, and one answer as it gives it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs

import orjson
from multidict import CIMultiDictProxy


@dataclass(slots=True, eq=False)
class Call:
    """One request as it arrived, before anything was believed of it."""

    number: int
    at: float
    method: str
    path: str
    raw_query: str
    headers: CIMultiDictProxy[str]
    body: bytes
    alive: Callable[[], bool]
    parsed: Any = None  # free for the stand-in: the decoded body, decoded once
    claims: frozenset[str] = frozenset()

    def query(self, name: str) -> list[str]:
        """Every decoded value of one query parameter."""
        return parse_qs(self.raw_query, keep_blank_values=True).get(name, [])

    def raw(self, name: str) -> str | None:
        """The first value of a query parameter exactly as sent, still encoded."""
        for pair in self.raw_query.split("&"):
            key, _, value = pair.partition("=")
            if key == name:
                return value
        return None


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer, encoded."""

    status: int
    body: bytes
    content_type: str = "application/json;charset=utf-8"
    headers: Mapping[str, str] = field(default_factory=dict)


def answered(body: Any, status: int = 200) -> Answer:
    """A JSON answer."""
    return Answer(status, orjson.dumps(body, option=orjson.OPT_NON_STR_KEYS))
