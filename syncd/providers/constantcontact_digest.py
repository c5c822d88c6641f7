"""HTTP Digest (RFC 2617, 7616): one nonce an account, used ahead of being asked. Reference, 2."""

from __future__ import annotations

import hashlib
import re
import secrets
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from syncd.model import Answer, Request

_HASHES = {"MD5": "md5", "SHA-256": "sha256"}
_WORD = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_PARAMETER = re.compile(rf'\s*({_WORD})\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s,"]+))\s*(?:,|$)')
_SCHEME = re.compile(rf"[\s,]*({_WORD})(?:\s+(?={_WORD}\s*=)|\s*(?=,|$)|\s+[^\s,=]+=*\s*(?=,|$))")


@dataclass(frozen=True, slots=True)
class Challenge:
    """What the host wants to be answered with."""

    realm: str
    nonce: str
    opaque: str | None = None
    algorithm: str | None = None  # as the host spelled it; None = MD5
    qop: str | None = None
    stale: bool = False

    @property
    def hash(self) -> str:
        return (self.algorithm or "MD5").upper().removesuffix("-SESS")

    @property
    def is_session(self) -> bool:
        return (self.algorithm or "").upper().endswith("-SESS")


def schemes(header: str) -> Iterator[tuple[str, dict[str, str]]]:
    """Every challenge of `WWW-Authenticate`, however many were joined into one header."""
    place = 0
    while found := _SCHEME.match(header, place):
        place, told = found.end(), {}
        while parameter := _PARAMETER.match(header, place):
            name, quoted, bare = parameter.groups()
            told[name.lower()] = bare if quoted is None else re.sub(r"\\(.)", r"\1", quoted)
            place = parameter.end()
        yield found[1].lower(), told


def challenge(answer: Answer) -> Challenge | None:
    """The first Digest challenge of a 401 that can be answered; others are passed over."""
    if answer.status != 401:
        return None
    for scheme, told in schemes(answer.headers.get("www-authenticate", "")):
        offered = [one.strip().lower() for one in told.get("qop", "").split(",") if one.strip()]
        qop = next((one for one in ("auth", "auth-int") if one in offered), None)
        made = Challenge(
            told.get("realm", ""), told.get("nonce", ""), told.get("opaque"),
            told.get("algorithm"), qop, told.get("stale", "").lower() == "true",
        )  # fmt: skip
        readable = made.hash in _HASHES and (qop or not offered) and "nonce" in told
        if scheme == "digest" and readable:
            return made
    return None


def response(
    asked: Challenge, user: str, password: str, request: Request, nc: str, cnonce: str
) -> str:
    """The hash that proves the password: over method and target exactly as they are sent."""

    def h(text: str, body: bytes = b"") -> str:
        return hashlib.new(_HASHES[asked.hash], text.encode() + body).hexdigest()

    ha1 = h(f"{user}:{asked.realm}:{password}")
    if asked.is_session:
        ha1 = h(f"{ha1}:{asked.nonce}:{cnonce}")
    signed = f"{request.method}:{request.target}"
    if asked.qop == "auth-int":
        signed += f":{h('', request.body)}"
    if asked.qop is None:
        return h(f"{ha1}:{asked.nonce}:{h(signed)}")
    return h(f"{ha1}:{asked.nonce}:{nc}:{cnonce}:{asked.qop}:{h(signed)}")


def authorization(
    asked: Challenge, user: str, password: str, request: Request, nc: str, cnonce: str
) -> str:
    """The header's value; `opaque` and `algorithm` only where the challenge had them."""
    told = {
        "username": user,
        "realm": asked.realm,
        "nonce": asked.nonce,
        "uri": request.target,
        "response": response(asked, user, password, request, nc, cnonce),
    }
    if asked.opaque is not None:
        told["opaque"] = asked.opaque
    parts = [f'{name}="{_escaped(value)}"' for name, value in told.items()]
    if asked.algorithm is not None:
        parts.append(f"algorithm={asked.algorithm}")
    if asked.qop is not None:
        parts += [f"qop={asked.qop}", f"nc={nc}", f'cnonce="{cnonce}"']
    elif asked.is_session:
        parts.append(f'cnonce="{cnonce}"')
    return "Digest " + ", ".join(parts)


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"')


class DigestState:
    """The account's nonce and its count. Nothing here waits, so every count is given out once."""

    def __init__(self, opening: Request) -> None:
        self._opening = opening
        self._asked: Challenge | None = None
        self._is_open = False  # the host answered without asking for anything
        self._count = 0

    def opening(self) -> Request | None:
        return None if self._asked or self._is_open else self._opening

    def opened(self, answer: Answer) -> bool:
        self._asked, self._count = challenge(answer), 0
        self._is_open = self._asked is None and answer.status < 300
        return self._is_open or self._asked is not None

    def sign(self, credential: Any, request: Request) -> Mapping[str, str]:
        if self._asked is None:
            return {}
        self._count += 1
        user = f"{credential.api_key.get_secret_value()}%{credential.username}"
        password = credential.password.get_secret_value()
        nc, cnonce = f"{self._count:08x}", secrets.token_hex(8)
        signed = authorization(self._asked, user, password, request, nc, cnonce)
        return {"Authorization": signed}

    def renewed(self, signature: Mapping[str, str], answer: Answer) -> bool:
        """A 401 brings the next nonce, flagged `stale` or not: hosts forget the flag (2.9).

        Whoever is late finds that another one has renewed it, and only signs again.
        """
        used = _nonce_of(signature.get("Authorization", ""))
        current = None if self._asked is None else self._asked.nonce
        if (found := challenge(answer)) is not None:
            if used == current:
                self._asked, self._count, self._is_open = found, 0, False
            return True
        told = next_nonce(answer)
        if told and self._asked is not None and used == current != told:
            asked = self._asked
            self._asked, self._count = (
                Challenge(asked.realm, told, asked.opaque, asked.algorithm, asked.qop), 0,
            )  # fmt: skip
        return False


def next_nonce(answer: Answer) -> str | None:
    """What `Authentication-Info` says the next request should use."""
    _, told = next(schemes(f"info {answer.headers.get('authentication-info', '')}"), ("", {}))
    return told.get("nextnonce")


def _nonce_of(header: str) -> str | None:
    _, told = next(schemes(header), ("", {}))
    return told.get("nonce")
