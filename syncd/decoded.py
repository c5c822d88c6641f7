"""JSON as providers answer it, as far as PostgreSQL can hold it."""

from __future__ import annotations

from typing import Any

import orjson


def decoded(body: bytes) -> Any:
    """The value of a JSON text, U+0000 left out: neither text nor jsonb of PostgreSQL takes it.

    orjson.JSONDecodeError where it is none; also where it is nested deeper than 1,024, or holds a
    number beyond a double or half a surrogate pair.
    """
    told = orjson.loads(body)
    return _without(told) if b"\\u0000" in body else told


def _without(told: Any) -> Any:
    match told:
        case str():
            return told.replace("\0", "")
        case list():
            return [_without(one) for one in told]
        case dict():
            return {name.replace("\0", ""): _without(one) for name, one in told.items()}
    return told
