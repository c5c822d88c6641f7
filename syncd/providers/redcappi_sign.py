"""RedCappi's string to sign, byte for byte as PHP makes it: pure. Reference, section 2."""

from __future__ import annotations

import hmac
import json
import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any
from urllib.parse import quote_plus, unquote_to_bytes

import orjson

_DELETE_CHARACTER = re.compile(r"\\(\\|u007f)")  # PHP leaves it raw; a pair of backslashes is text


def string_to_sign(method: str, target: str, body: bytes) -> str:
    """`METHOD::PATH?QUERY::JSON`, lower case: escapes too, and after the escaping."""
    return f"{method}::{signed_target(target)}::{signed_body(body)}".lower()


def authorization(public_key: str, private_key: str, signed: str) -> str:
    """The header's value. The private key is text: it only looks like hexadecimal."""
    digest = _keyed(private_key).copy()
    digest.update(signed.encode())
    return f"RCWS {public_key}:{digest.hexdigest()}"


@lru_cache(maxsize=16)
def _keyed(private_key: str) -> hmac.HMAC:
    """Setting the key up takes longer than signing with it."""
    return hmac.new(private_key.encode(), digestmod="sha256")


def signed_target(target: str) -> str:
    """The path as sent; the query's names in order, whatever order they are sent in.

    The server replaces the text of the query wherever it stands in the address.
    """
    query = target.partition("?")[2]
    return target.replace(query, _ordered(query)) if query else target


def _ordered(query: str) -> str:
    found: dict[str, str] = {}
    for pair in query.split("&"):
        name, _, value = pair.partition("=")
        if name:
            found[_decoded(name).replace(".", "_").replace(" ", "_")] = _decoded(value)
    names = sorted(found, key=_folded)
    return "&".join(f"{encoded(name)}={encoded(found[name])}" for name in names)


def _decoded(text: str) -> str:
    return unquote_to_bytes(text.replace("+", " ")).decode("utf-8", "surrogateescape")


def encoded(text: str) -> str:
    """Text in a path or a query as PHP's `urlencode` writes it."""
    quoted = quote_plus(text, safe="", errors="surrogateescape")
    return quoted.replace("~", "%7E") if "~" in quoted else quoted


class Body(bytes):
    """A body that is written as it is signed."""

    signed: str

    @classmethod
    def of(cls, told: Any) -> Body:
        """*told* as PHP writes it."""
        text = php_json(told)
        made = cls(text.encode())
        made.signed = text
        return made


def signed_body(body: bytes) -> str:
    """The body decoded, its top-level keys in order, and encoded again; `null` without one."""
    if type(body) is Body:
        return body.signed
    if not body:
        return php_json(None)
    try:
        told = orjson.loads(body)
    except orjson.JSONDecodeError:  # halves of surrogate pairs: PHP's decoder is as lenient
        told = json.loads(body)
    return php_json(told)


def php_json(told: Any) -> str:
    """JSON as PHP's `json_encode` writes it, of text in objects and arrays.

    The top level's keys are ordered without regard to case; PHP has no empty object.
    """
    if type(told) is dict:
        names = tuple(told)
        if (order := _order(names)) != names:
            told = {name: told[name] for name in order}
        told = told or []
        if (plain := _plain(told)) is not None:
            return plain
    text = json.dumps(told, separators=(",", ":")).replace("/", "\\/")
    if "\\u007f" in text:
        text = _DELETE_CHARACTER.sub(lambda m: m[0] if m[1] == "\\" else "\x7f", text)
    return text


@lru_cache(maxsize=64)
def _order(names: tuple[str, ...]) -> tuple[str, ...]:
    """The same few names come again and again."""
    return tuple(sorted(names, key=str.lower if "".join(names).isascii() else _folded))


def _plain(told: Mapping[str, Any] | list[Any]) -> str | None:
    """As `php_json`, where nothing but slashes is to be escaped: nearly always; None elsewhere."""
    try:
        every = "".join([*told, *told.values()])  # type: ignore[union-attr]
    except (TypeError, AttributeError):  # not of text alone, or empty
        return None
    if not (every.isascii() and every.isprintable()) or '"' in every or "\\" in every:
        return None
    pairs = ",".join([f'"{name}":"{value}"' for name, value in told.items()])  # type: ignore[union-attr]
    return "{" + pairs.replace("/", "\\/") + "}"


def _folded(name: str) -> bytes:
    """Bytes, ASCII letters in lower case: `_` comes before letters."""
    return name.encode("utf-8", "surrogateescape").lower()
