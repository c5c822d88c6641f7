"""What RedCappi's PHP makes of a request before it compares signatures; written from the reference.

A server's view: bytes in, one string out. Nothing here is shared with the adapter.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import re
from typing import Any

KEPT = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_.")
SHORT = {'"': '\\"', "\\": "\\\\", "/": "\\/", "\b": "\\b", "\f": "\\f", "\n": "\\n", "\r": "\\r",
         "\t": "\\t"}  # fmt: skip
UPPER = bytes(range(ord("A"), ord("Z") + 1))
LOWERED = bytes.maketrans(UPPER, UPPER.lower())


def expected_hash(private_key: str, method: str, target: str, body: bytes) -> str:
    """The 64 digits that the header must end with."""
    message = message_of(method, target, body)
    return hmac.new(private_key.encode(), message, hashlib.sha256).hexdigest()


def message_of(method: str, target: str, body: bytes) -> bytes:
    """METHOD::PATH?QUERY::JSON in ASCII lower case."""
    whole = b"::".join((method.encode(), normal_target(target.encode()), normal_body(body)))
    return whole.translate(LOWERED)


def normal_target(raw: bytes) -> bytes:
    """The query sorted and encoded again, wherever its text stands."""
    _, mark, query = raw.partition(b"?")
    return raw.replace(query, sorted_query(query)) if mark and query else raw


def sorted_query(raw: bytes) -> bytes:
    """parse_str, uksort by strcasecmp, http_build_query."""
    values: dict[bytes, bytes] = {}
    for part in raw.split(b"&"):
        if not part:
            continue
        key, _, value = part.partition(b"=")
        if name := re.sub(rb"[. ]", b"_", url_decoded(key)):
            values[name] = url_decoded(value)
    order = sorted(values.items(), key=lambda item: item[0].translate(LOWERED))
    return b"&".join(url_encoded(key) + b"=" + url_encoded(value) for key, value in order)


def url_decoded(raw: bytes) -> bytes:
    """urldecode."""
    spaced = raw.replace(b"+", b" ")
    return re.sub(rb"%([0-9A-Fa-f]{2})", lambda found: bytes([int(found[1], 16)]), spaced)


def url_encoded(raw: bytes) -> bytes:
    """urlencode."""
    made = bytearray()
    for each in raw:
        made += bytes([each]) if each in KEPT else b"+" if each == 32 else b"%%%02X" % each
    return bytes(made)


def normal_body(raw: bytes) -> bytes:
    """json_decode, top-level keys sorted by strcasecmp, json_encode; `null` if it is no JSON."""
    try:
        told = json.loads(raw)
    except ValueError:
        return b"null"
    if isinstance(told, dict):
        folded = {key: key.encode("utf-8", "surrogatepass").translate(LOWERED) for key in told}
        told = {key: told[key] for key in sorted(told, key=lambda key: folded[key])}
    return json_encoded(told).encode()


def json_encoded(value: Any) -> str:
    """json_encode without flags, for what JSON can hold."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, str):
        return '"' + "".join(map(escaped, value)) + '"'
    if isinstance(value, dict):
        if not value:
            return "[]"  # decoded into an array, which has forgotten what it was
        if list(value) == [str(n) for n in range(len(value))]:
            return json_encoded(list(value.values()))
        inside = (f"{json_encoded(str(key))}:{json_encoded(each)}" for key, each in value.items())
        return "{" + ",".join(inside) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(json_encoded, value)) + "]"
    return repr(value)


def escaped(char: str) -> str:
    """One character inside a JSON string; DEL stays as it is."""
    if char in SHORT:
        return SHORT[char]
    number = ord(char)
    if 32 <= number < 128:
        return char
    if number < 0x10000:
        return f"\\u{number:04x}"
    number -= 0x10000
    return f"\\u{0xD800 + (number >> 10):04x}\\u{0xDC00 + (number & 0x3FF):04x}"
