"""What Constant Contact's answers mean: pure. Reference, section 7."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Literal

from syncd.errors import (
    Ambiguous,
    Misconfigured,
    OverQuota,
    ProviderError,
    Refused,
    Transient,
)
from syncd.model import Answer, Request
from syncd.providers.constantcontact_digest import challenge, schemes
from syncd.redact import SHOWN, redacted

OVER_A_SECOND = 1.0  # seconds after "Developer Over Qps"

_ONE = re.compile(r"/(contacts|lists|activities)/[^/?]+")
_CONTACT = re.compile(r"/contacts/[^/?]+")
_PAGE = re.compile(rb"\s*<(?:!doctype\s+html|html)", re.IGNORECASE)
_TAG = re.compile(r"<[^>]*>")


def judged(request: Request, answer: Answer) -> ProviderError | Literal["ok"] | None:
    """Refusals of one record, "not there" and "there already" are left to the adapter."""
    reads = request.method == "GET" or request.repeatable
    path, _, query = request.target.partition("?")
    match answer.status:
        case 401:
            return _unauthorised(answer)
        case 403 if is_over_quota(answer):
            return _over_quota(answer)
        case 403 if request.method == "PUT" and _CONTACT.fullmatch(path):
            return "ok"
        case 403:
            return Misconfigured(f"not allowed: {said(answer)}")
        case 404 if _ONE.fullmatch(path):
            return "ok"
        case 415:
            return Misconfigured(f"the form of our request is refused: {said(answer)}")
        case 429:
            return OverQuota(said(answer), after=OVER_A_SECOND)
        case 500 if request.method == "GET" and query.startswith("email="):
            return "ok"  # perhaps the way to say that nobody was found (3)
        case status if status < 300 and _PAGE.match(answer.body):
            return (Transient if reads else Ambiguous)("a web page instead of XML")
        case status if 400 <= status < 500 and status not in (404, 405, 408):
            return "ok"
        case 408:
            return Transient(said(answer))
        case _:
            return None


def _unauthorised(answer: Answer) -> ProviderError:
    """Whoever gets here has answered a challenge already, twice."""
    found = challenge(answer)
    if found is None:
        names = dict(schemes(answer.headers.get("www-authenticate", "")))
        if "digest" in names:
            return Refused("its Digest challenge cannot be answered: algorithm or qop is unknown")
        offered = ", ".join(names) or "nothing"
        return Refused(f"HTTP Digest is not offered there any more (offered: {offered})")
    if found.stale:
        return Transient("the nonce was outrun by another request's")
    return Refused("API key, user name or password is wrong")


def is_over_quota(answer: Answer) -> bool:
    return (
        "x-mashery-error-code" in answer.headers
        or "retry-after" in answer.headers
        or b"developer over" in answer.body.lower()
    )


def _over_quota(answer: Answer) -> ProviderError:
    """The key's limit: a second's is over in a second, a day's at midnight."""
    told = f"{answer.headers.get('x-mashery-error-code', '')} {said(answer)}"
    if "over_qps" in told.lower() or "over qps" in told.lower():
        return OverQuota(f"too many requests a second: {told.strip()}", after=OVER_A_SECOND)
    if "retry-after" in answer.headers:  # the wire reads it
        return OverQuota(f"the API key's quota is used up: {told.strip()}", after=OVER_A_SECOND)
    now = datetime.now(UTC)
    tomorrow = (now + timedelta(days=1)).replace(hour=0, minute=0, second=0, microsecond=0)
    seconds = (tomorrow - now).total_seconds()
    return OverQuota(f"the API key's quota of a day is used up: {told.strip()}", after=seconds)


def said(answer: Answer) -> str:
    """The provider's own words: plain text, or what is left of a page."""
    text = _TAG.sub(" ", answer.body[:4000].decode("utf-8", "replace"))
    return redacted(" ".join(text.split()))[:SHOWN] or "no reason given"


def is_opted_out(answer: Answer) -> bool:
    """Whether an update was refused because the person said no (3: older and newer accounts)."""
    text = answer.body[:4000].decode("utf-8", "replace").lower()
    if answer.status == 403:
        return True
    return answer.status == 400 and ("status transition" in text or "opted out" in text)
