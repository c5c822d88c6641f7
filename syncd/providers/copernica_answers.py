"""From Copernica's answers to meanings: pure. Reference, sections 3 and 7.

Nearly every error is a 400 with a message: the message decides. Success of a write has no body.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import orjson

from syncd.decoded import decoded
from syncd.errors import Ambiguous, Indivisible, Misconfigured, ProviderError, Refused, Transient
from syncd.model import Answer, Request
from syncd.redact import SHOWN, redacted

BACK_OFF = 2.0  # seconds after a page that is no answer; the core waits longer when it lasts

REFUSED = ("invalid access token",)
NO_DATABASE = ("no database with supplied id",)
GONE = ("no entity with supplied id", "this profile has already been removed")
OURS = (
    "url parameter fields is required",
    "invalid method",
    "failed to get the field",
)
_ELEMENT = re.compile(r"invalid request, element \d+ is missing in '.*' path")
_NUMBER = re.compile(r"[0-9]{1,20}")
_LAST_NUMBER = re.compile(r"/([0-9]{1,20})/?$")
_DONE = (200, 201, 202, 204, 302, 303)

Kind = Literal["done", "gone", "refused"]


@dataclass(frozen=True, slots=True)
class Told:
    """One answer to a write, understood. created: the id of what it made."""

    kind: Kind
    status: int
    text: str = ""
    created: str | None = None


def judged(request: Request, answer: Answer) -> ProviderError | Literal["ok"] | None:
    """Section 7; what concerns one record is left to the adapter."""
    reads = request.method == "GET"
    if answer.status in (302, 303):
        return None if reads else "ok"  # success: never followed
    body = _parsed(answer.body)
    message = message_of(body)
    if message is not None and (answer.status < 300 or answer.status == 400):
        return _meant(message)
    if answer.status >= 500 or answer.status == 429:
        return _busy(request, answer)
    if answer.status < 300 and _is_strange(request, answer, body):
        lost = Transient if reads else Ambiguous
        return lost("not an answer of the API", after=BACK_OFF)
    return "ok" if answer.status == 400 else None


def _meant(message: str) -> ProviderError | Literal["ok"]:
    said = message.strip().rstrip(".").lower()
    if said in REFUSED:
        return Refused(_shown(message))
    if said in NO_DATABASE:
        return Misconfigured(f"{_shown(message)}: is options.database right, and still there?")
    if said in OURS or _ELEMENT.fullmatch(said):
        return Misconfigured(f"{_shown(message)}: does options.version fit the account?")
    return "ok"


def _busy(request: Request, answer: Answer) -> ProviderError | None:
    """A page of the load balancer's is no reason to quote; a 429 says itself how long."""
    if answer.status != 429 and answer.body.lstrip()[:1] == b"<":
        lost = Transient if request.method == "GET" else Ambiguous
        return lost("a web page instead of an answer", after=BACK_OFF)
    return None


def _is_strange(request: Request, answer: Answer, body: Any) -> bool:
    if request.method == "GET":
        return body is _UNREADABLE or body is _NOTHING
    return answer.body.strip() != b"" and body is _UNREADABLE


_UNREADABLE, _NOTHING = object(), object()


def _parsed(body: bytes) -> Any:
    if not body.strip():
        return _NOTHING
    try:
        return decoded(body)
    except orjson.JSONDecodeError:
        return _UNREADABLE


def message_of(body: Any) -> str | None:
    """The message of an error, whatever the status; None where there is none."""
    error = body.get("error") if isinstance(body, Mapping) else None
    if isinstance(error, Mapping):
        return str(error.get("message") or "an error without a message")
    return str(error) if error else None


def parsed_message(body: bytes) -> str | None:
    """The message of an error as it may be shown; None: the body is none."""
    message = message_of(_parsed(body))
    return None if message is None else _shown(message)


def _shown(message: str) -> str:
    return redacted(message)[:SHOWN]


def read(answer: Answer) -> Any:
    """The body of a read that `judged` let through; a `Told` where it is an error."""
    told = written(answer)
    return _parsed(answer.body) if told.kind == "done" else told


def written(answer: Answer) -> Told:
    """What became of a write that `judged` let through."""
    message = message_of(_parsed(answer.body))
    if message is not None:
        kind: Kind = "gone" if message.strip().rstrip(".").lower() in GONE else "refused"
        return Told(kind, answer.status, _shown(message))
    if answer.status in _DONE:
        return Told("done", answer.status, created=_created(answer.headers))
    return Told("refused", answer.status, "refused without a message")


def _created(headers: Mapping[str, str]) -> str | None:
    """`X-Created` first, then the last part of a location's path."""
    if is_number(told := headers.get("x-created", "").strip()):
        return told
    found = _LAST_NUMBER.search(headers.get("x-location", "").partition("?")[0].partition("#")[0])
    return found[1] if found else None


# ── Shapes ──────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class Profile:
    """One profile, as a read told it."""

    id: str
    fields: Mapping[str, str]
    interests: frozenset[str]
    modified: str
    is_gone: bool

    def get(self, name: str) -> str:
        return self.fields.get(name, "")


def identity(told: Any) -> tuple[str, str]:
    """The account's id, and what it is called there."""
    known = told if isinstance(told, Mapping) else {}
    number = _text(known.get("id") or known.get("ID"))
    if not number:
        raise Indivisible("the account does not tell its id")
    name, company = _text(known.get("name")), _text(known.get("company"))
    both = f"{name} ({company})" if name and company else name or company
    return number, "".join(one for one in both if one.isprintable())[:SHOWN]


def is_number(text: str) -> bool:
    """Whether it may be an id."""
    return _NUMBER.fullmatch(text) is not None


def shaped(told: Any, *names: str) -> Mapping[str, Any]:
    """An object that has these members. Transient if it is none: a read that may be repeated."""
    if not isinstance(told, Mapping) or not all(name in told for name in names):
        raise Transient("an object has not the documented shape")
    return told


def profile(told: Any) -> Profile:
    """A profile object; a deleted one has every field empty, or says when it was removed."""
    if not isinstance(told, Mapping) or not is_number(str(told.get("ID") or told.get("id") or "")):
        raise Transient("a profile has not the documented shape")
    raw, interests = told.get("fields"), told.get("interests")
    fields = {str(k): _text(v) for k, v in raw.items()} if isinstance(raw, Mapping) else {}
    removed = told.get("removed") not in (None, False, "", "0", 0)
    return Profile(
        str(told.get("ID") or told.get("id")),
        fields,
        frozenset(_names(interests)),
        _text(told.get("modified")),
        removed or not any(fields.values()),
    )


def _names(told: Any) -> Sequence[str]:
    """An empty object may come as `[]`; a map switches names on and off."""
    if isinstance(told, Mapping):
        return [str(name) for name, on in told.items() if on not in (0, "0", False, None, "")]
    return [str(one) for one in told] if isinstance(told, list) else []


def _text(value: Any) -> str:
    return "" if value is None else str(value)


def page(told: Any) -> tuple[Sequence[Any], int, int | None]:
    """Rows of a wrapper, the limit that it believes in, and how many there are (None: untold)."""
    rows = told.get("data") if isinstance(told, Mapping) else None
    if not isinstance(rows, list):
        raise Transient("a page has not the documented shape")
    limit, total = told.get("limit"), told.get("total")
    most = int(limit) if is_number(str(limit)) else 0
    return rows, most or len(rows) or 1, int(total) if is_number(str(total)) else None
