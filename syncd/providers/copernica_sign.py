"""Copernica's credential on a request: in the address (v1 to v3), or a JWT in a header (v4); and
how it is granted: the code flow.

Pure. Reference, section 2.
"""

from __future__ import annotations

import base64
import binascii
import re
import time
from collections.abc import Mapping
from urllib.parse import quote

import orjson

from syncd.errors import Refused, Transient, Unintelligible
from syncd.model import Answer, Request
from syncd.providers import Exchange
from syncd.providers.copernica_answers import parsed_message

RENEW_BEFORE = 3600.0  # seconds: a JWT is good for 24 hours, and renewed after about 23
WITHOUT_EXP = 23 * 3600.0

_TOLD = re.compile(r"[\"']?access_token[\"']?\s*:\s*[\"']([^\"'\s]+)[\"']")  # as the docs print it


def with_token(target: str, token: str) -> str:
    """The address as it is sent; nobody but the wire may see it."""
    mark = "&" if "?" in target else "?"
    return f"{target}{mark}access_token={encoded(token)}"


def encoded(text: str) -> str:
    """Text in a query: UTF-8 bytes, only the unreserved characters left as they are (2d)."""
    return quote(text, safe="")


def exchange(auth_url: str, token: str) -> Exchange:
    """How the token is exchanged for a JWT (2c)."""
    body = f"access_token={encoded(token)}".encode()
    headers = {"Content-Type": "application/x-www-form-urlencoded"}
    return Exchange(auth_url, Request("POST", "/", body, headers), read_jwt)


def read_jwt(answer: Answer) -> tuple[str, float]:
    """The bare text of the answer, and for how long it is used. No fault quotes it."""
    text = answer.body.decode("utf-8", "replace").strip()
    if answer.status >= 400 or text.startswith("{"):
        raise Refused("the access token is not exchanged for a JWT", status=answer.status)
    if text.count(".") != 2 or not text.isascii() or not text.isprintable() or " " in text:
        raise Transient("what was given for the access token is not a JWT", status=answer.status)
    return text, _good_for(text)


def _good_for(jwt: str) -> float:
    part = jwt.split(".")[1]
    try:
        claims = orjson.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))
        left = float(claims["exp"]) - time.time()
    except (binascii.Error, ValueError, KeyError, TypeError):
        return WITHOUT_EXP
    return left - RENEW_BEFORE if left > 2 * RENEW_BEFORE else left / 2


# ── Granted in a browser (2a) ───────────────────────────────────────────────────────────────


def authorize_page(url: str, client_id: str, redirect_uri: str, state: str) -> str:
    """Where somebody of the account lets the application in. `scope` does not exist there."""
    known = {"client_id": client_id, "redirect_uri": redirect_uri, "state": state}
    return f"{url}?{_query({**known, 'response_type': 'code'})}"


def redeem(
    base: str, path: str, application: Mapping[str, str], redirect_uri: str, code: str
) -> Exchange:
    """What is asked for the code; `redirect_uri` is that of the page, byte for byte."""
    known = {**application, "redirect_uri": redirect_uri, "code": code}
    return Exchange(base, Request("GET", f"{path}?{_query(known)}"), read_token)


def read_token(answer: Answer) -> tuple[Mapping[str, str], float]:
    """The token; it never expires. No fault quotes anything but the provider's message."""
    text = answer.body.decode("utf-8", "replace")
    if (message := parsed_message(answer.body)) is not None or answer.status >= 400:
        said = message or "without a reason"
        raise Refused(f"no token was given: {said}", status=answer.status)
    if (found := _TOLD.search(text)) is None:
        raise Unintelligible("the answer holds no access_token", status=answer.status)
    return {"access_token": found[1]}, float("inf")


def _query(known: Mapping[str, str]) -> str:
    return "&".join(f"{name}={encoded(value)}" for name, value in known.items())
