"""Copernica's credential on a request: in the address (v1 to v3), or a JWT in a header (v4).

Pure. Reference, section 2.
"""

from __future__ import annotations

import base64
import binascii
import time
from urllib.parse import quote

import orjson

from syncd.errors import Refused, Transient
from syncd.model import Answer, Request
from syncd.providers import Exchange

RENEW_BEFORE = 3600.0  # seconds: a JWT is good for 24 hours, and renewed after about 23
WITHOUT_EXP = 23 * 3600.0


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
