"""One credential: JSON as a person wrote it, checked against its provider's model.

No message quotes a value, and no exception that holds one is kept or chained.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import date
from typing import Any, TypeVar

import orjson
from pydantic import ValidationError
from pydantic_core import ErrorDetails

from syncd import log
from syncd.errors import ConfigError
from syncd.providers import Credential

C = TypeVar("C", bound=Credential)


def expiry(credential: Credential) -> date | None:
    """The day after which the provider will not take it any more; None if nobody said."""
    if credential.expires_on is None:
        return None
    try:
        return date.fromisoformat(credential.expires_on)
    except ValueError:
        raise ConfigError("expires_on: expected a day like 2027-01-31") from None


def parse(value: str, model: type[C]) -> tuple[C | None, Sequence[str]]:
    """The credential, or its faults. No exception is kept: it would hold the value."""
    keys = ", ".join(model.model_fields)
    try:
        given = orjson.loads(value)
    except orjson.JSONDecodeError as error:
        return None, [f"is not JSON (line {error.lineno}, column {error.colno}); keys: {keys}"]
    if not isinstance(given, dict):
        return None, [f"is not a JSON object; its keys: {keys}"]
    log.hide(*_texts(given))
    try:
        found = model.model_validate(given)
        expiry(found)
    except ValidationError as error:
        return None, [
            _fault(detail, model, set(_texts(given)))
            for detail in error.errors(include_url=False, include_context=False)
        ]
    except ConfigError as error:
        return None, error.faults
    return found, []


def _texts(given: Any, key: str = "") -> list[str]:
    """Every text that must not be shown; a user's name is known by its place (see `log`)."""
    if isinstance(given, dict):
        return [text for k, v in given.items() for text in _texts(v, k)]
    if isinstance(given, list):
        return [text for v in given for text in _texts(v, key)]
    shown = given is None or isinstance(given, bool) or key in ("username", "expires_on")
    return [] if shown else [str(given)]


def _fault(detail: ErrorDetails, model: type[Credential], texts: set[str]) -> str:
    """One fault in words that hold nothing of the value, whatever a validator has put into them."""
    path = ".".join(str(part) for part in detail["loc"])
    if detail["type"] == "extra_forbidden":
        known = f"the keys are {', '.join(model.model_fields)}"
        named = re.fullmatch(r"[a-z_]{1,24}", path) and path not in texts  # else it may be a value
        return f"{path if named else 'a key'} is not known; {known}"
    if detail["type"] == "missing":
        return f"{path}: is missing"
    said = detail["msg"].removeprefix("Value error, ").replace("Input should be", "expected")
    leaks = any(len(text) > 1 and text in said for text in texts)
    return f"{path}: {'is not what is expected' if leaks else said}"
