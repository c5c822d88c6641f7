"""From RedCappi's answers to meanings: pure. Reference, sections 3 and 7.

The code in the body comes before the HTTP status. Only "Not Authorized" is documented of all that
can go wrong; the rest is read as the reference says it may come.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import orjson

from syncd.decoded import decoded
from syncd.errors import Ambiguous, Misconfigured, ProviderError, Refused, Transient, Unintelligible
from syncd.model import Answer, Request
from syncd.redact import SHOWN, redacted

BACK_OFF = 5.0  # seconds after a 429 without Retry-After; no limit is documented
NAMED = "/v1/lists/"  # the one path that holds a name

_GONE = re.compile(r"not found|not exist|n.t exist|no such|unknown (?:contact|list)", re.IGNORECASE)
_THERE = re.compile(r"exist|already|duplicate", re.IGNORECASE)
_LIST_ID = re.compile(r"list-id\s+(\d+)\s*$", re.IGNORECASE)
_NOTHING: tuple[object, ...] = (None, "", [], {})

Kind = Literal["done", "there", "gone", "refused"]


@dataclass(frozen=True, slots=True)
class Told:
    """One answer to a write, understood."""

    kind: Kind
    status: int
    text: str  # of what was not done: the provider's words, fit to be shown
    list_id: str | None = None


def judged(request: Request, answer: Answer) -> ProviderError | Literal["ok"] | None:
    """Section 7. Refusals of single records and "not there" are left to the adapter."""
    body = _parsed(answer.body)
    status = _status(answer, body)
    if _unauthorized(answer.body, body):
        return Refused("Not Authorized")
    if status < 400 and isinstance(body, dict) and "error" not in body:  # nearly all of them
        return "ok" if answer.status >= 400 else None  # the code in the body decides
    if body is _UNREADABLE and answer.body.lstrip()[:1] == b"<":
        return _page(request, answer)
    lost = Transient if request.method == "GET" or request.repeatable else Ambiguous
    named = request.method == "POST" and request.target.startswith(NAMED)
    match status:
        case 401 | 403:
            return Refused(_words(body))
        case 408 | 429:
            return Transient(_words(body), after=BACK_OFF)
        case _ if status >= 500:
            return lost(_words(body))
        case _ if "unknown method" in _words(body).lower() and not named:
            return Misconfigured("the path is not known there: is base_url the API's?")
        case _ if status >= 400:
            return "ok"
    return None


def _page(request: Request, answer: Answer) -> ProviderError | Literal["ok"]:
    """A web page: a proxy's or the site's, not the API's."""
    if answer.status in (400, 404) and request.target.startswith(NAMED):
        return "ok"  # the web server refused the name in the path
    reads = request.method == "GET" or request.repeatable
    return (Transient if reads else Ambiguous)("a web page instead of JSON", after=BACK_OFF)


_UNREADABLE = object()


def _parsed(body: bytes) -> Any:
    """The decoded body; '' where there is none."""
    if not body.strip():
        return ""
    try:
        return decoded(body)
    except orjson.JSONDecodeError:
        return _UNREADABLE


def _status(answer: Answer, body: Any) -> int:
    code = body.get("code") if isinstance(body, dict) else None
    if isinstance(code, str) and len(code) <= 3 and code.isascii() and code.isdigit():
        code = int(code)
    return code if isinstance(code, int) and 100 <= code < 600 else answer.status


def _unauthorized(raw: bytes, body: Any) -> bool:
    """The text in any body that is not itself data: a list or a contact may be called that."""
    if b"not authorized" not in raw.lower():
        return False
    if isinstance(body, dict):
        told = body.get("code")
        done = str(told) in ("200", "201")
        return not done and not all(isinstance(k, str) and k.isdigit() for k in body)
    return not isinstance(body, list)


def _words(body: Any) -> str:
    """The provider's own words."""
    said: Any = body
    if isinstance(body, dict):
        said = next((body[k] for k in ("message", "error", "status") if body.get(k)), "")
    text = said if isinstance(said, str) else ""
    return redacted(text)[:SHOWN] or "no reason given"


def written(answer: Answer) -> Told:
    """What became of a write; Unintelligible where the answer does not say."""
    body = _parsed(answer.body)
    status = _status(answer, body)
    if status < 300 and isinstance(body, dict) and "code" in body:
        message = body.get("message")
        number = _LIST_ID.search(message) if isinstance(message, str) else None
        return Told("done", status, "", number[1] if number else None)
    words = _words(body)
    if status >= 400:
        return Told(_kind(status, words), status, words)
    if isinstance(body, str) and body:  # "Contact removed": a bare string
        if _GONE.search(body):
            return Told("gone", status, words)
        if re.search(r"removed|deleted|updated|added|created|renamed", body, re.IGNORECASE):
            return Told("done", status, words)
    if isinstance(body, dict) and body.get("status") is False:
        return Told(_kind(status, words), status, words)
    raise Unintelligible("the answer does not say what became of the request", status=status)


def _kind(status: int, words: str) -> Kind:
    if status in (404, 410) or _GONE.search(words):
        return "gone"
    return "there" if status == 409 or _THERE.search(words) else "refused"


def is_empty(answer: Answer) -> bool:
    """Whether this is one of the forms of "nothing there" (3)."""
    body = _parsed(answer.body)
    if answer.status not in (404, 410) and _status(answer, body) >= 300:
        return False
    return any(body == one and type(body) is type(one) for one in _NOTHING)


def is_gone(answer: Answer) -> bool:
    """Whether a read says that what was asked for is not there, in whatever form."""
    body = _parsed(answer.body)
    return is_empty(answer) or (
        _status(answer, body) >= 400 and _kind(_status(answer, body), _words(body)) == "gone"
    )


def table(answer: Answer, *values: str) -> Mapping[str, str]:
    """Ids and their values: a map, or a list of objects with `id` and one of *values*."""
    if is_empty(answer):
        return {}
    body = _parsed(answer.body)
    status = _status(answer, body)
    if status >= 300:
        raise Unintelligible(f"no data: {_words(body)}", status=status)
    if isinstance(body, dict) and all(one.isascii() and one.isdigit() for one in body):
        return {one: str(value) for one, value in body.items()}
    if isinstance(body, list):
        return dict(_row(one, values) for one in body)
    raise Unintelligible("neither ids with values nor nothing", status=status)


def _row(row: Any, values: tuple[str, ...]) -> tuple[str, str]:
    name = next((one for one in values if isinstance(row, dict) and one in row), None)
    if name is None or not str(row.get("id", "")).isdigit():
        raise Unintelligible("a row without id or value")
    return str(row["id"]), str(row[name])


def refusal(answer: Answer) -> str | None:
    """The words of a read that was refused; None if it was not."""
    body = _parsed(answer.body)
    return _words(body) if _status(answer, body) >= 400 else None
