"""What may be shown of a provider's words: no address, no credential, no query value.

Design, sections 2 (promise 9) and 8. Used on every text that leaves the wire in an exception.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from urllib.parse import quote

from pydantic import BaseModel, SecretStr

SHOWN = 200  # characters of an answer that a message may quote
_LOOKED_AT = 4000  # redact before cutting, or half a secret survives at the cut

_PART = r"[^\s\"'<>(),;:\[\]{}=&?/\\]"
_ADDRESS = re.compile(rf"(?<!{_PART}){_PART}+(?:@|%40){_PART}+", re.IGNORECASE)
_NAMED = re.compile(
    r"(?P<name>\b(?:access_token|client_secret|pass(?:code|word)|secret_key|private_key|"
    r"public_?key|api_key|signature|username|authorization)\b[\"']?\s*[=:]\s*|\bRCWS\s+)"
    r"(?:\"[^\"]*\"|'[^']*'|[^\s\"'&,;<>]+)",
    re.IGNORECASE,
)
_INVISIBLE = re.compile(r"[\x00-\x20\x7f-\x9f\u2028\u2029\ud800-\udfff]+")


def secrets_of(credential: object) -> tuple[str, ...]:
    """The texts of a credential that must never be shown, longest first, also percent-encoded."""
    if not isinstance(credential, BaseModel):
        return ()
    values = (getattr(credential, name) for name in type(credential).model_fields)
    texts = (v.get_secret_value() if isinstance(v, SecretStr) else v for v in values)
    found = {text for text in texts if isinstance(text, str) and len(text) >= 4}
    return tuple(sorted(found | {quote(text, safe="") for text in found}, key=len, reverse=True))


def redacted(text: str, secrets: Iterable[str] = ()) -> str:
    """The text on one line, addresses and credentials replaced."""
    for secret in secrets:
        text = text.replace(secret, "<secret>")
    text = _NAMED.sub(r"\g<name><secret>", text)
    return _ADDRESS.sub("<address>", _INVISIBLE.sub(" ", text)).strip()


def excerpt(body: bytes, secrets: Iterable[str] = ()) -> str:
    """The beginning of an answer as it may be shown: redacted, at most 200 characters."""
    text = redacted(body[:_LOOKED_AT].decode("utf-8", "replace"), secrets)
    return text if len(text) <= SHOWN else text[: SHOWN - 1] + "…"


def shown_path(target: str) -> str:
    """A request target without its query, addresses in the path replaced."""
    return _ADDRESS.sub("<address>", target.partition("?")[0])
