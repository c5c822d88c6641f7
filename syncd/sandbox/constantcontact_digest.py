"""HTTP Digest from the server's side: challenges given out, answers checked (RFC 2617, 3.2)."""

from __future__ import annotations

import hashlib
import re
import secrets
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from syncd.sandbox.call import Answer, Call

if TYPE_CHECKING:
    from syncd.sandbox.constantcontact import ConstantContact

PART = re.compile(r'(\w+)=(?:"((?:[^"\\]|\\.)*)"|([^",\s]+))(?:, |$)')
QUOTED = frozenset({"username", "realm", "nonce", "uri", "response", "opaque", "cnonce"})
HEX = re.compile(r"[0-9a-f]{8}")


@dataclass(slots=True)
class Nonce:
    """One nonce: when it was given out, and which counts have been used with it."""

    born: float = field(default_factory=time.monotonic)
    counts: set[int] = field(default_factory=set)


class Gate:
    """Lets in whoever proves the password, and nobody twice by the same proof."""

    def __init__(self, account: ConstantContact) -> None:
        self.account = account
        self.nonces: dict[str, Nonce] = {}
        self.opaque = secrets.token_hex(8)
        self.challenges = self.renewals = 0

    def refusal(self, call: Call) -> Answer | None:
        """The 401 of a request that is not let in; None where it is."""
        given = call.headers.getall("Authorization", [])
        if not given:
            if call.body:
                self.account.ledger.violate(call, "body before challenge", call.method)
            return self.challenge()
        told = self._parts(given[0]) if len(given) == 1 else None
        if told is None:
            self.account.ledger.violate(call, "authorization header", f"{len(given)} times, or so")
            return self.challenge()
        nonce = self.nonces.get(told["nonce"])
        if nonce is None or self._is_old(nonce):
            self.renewals += 1
            return self.challenge(stale=True)
        return self._proof(call, told, nonce)

    def _parts(self, header: str) -> dict[str, str] | None:
        """The parameters, each quoted or bare as it must be, nothing missing."""
        scheme, _, rest = header.partition(" ")
        found: dict[str, str] = {}
        place = 0
        while part := PART.match(rest, place):
            name, quoted, bare = part.groups()
            if (quoted is None) == (name in QUOTED) or name in found:
                return None
            found[name] = bare if quoted is None else re.sub(r"\\(.)", r"\1", quoted)
            place = part.end()
        limits = self.account.limits
        wanted = {"username", "realm", "nonce", "uri", "response", "opaque"}
        wanted |= {"qop", "nc", "cnonce"} if limits.qop else set()
        wanted |= {"algorithm"} if limits.algorithm else set()
        if limits.algorithm == "MD5-sess":
            wanted.add("cnonce")
        return found if scheme == "Digest" and place == len(rest) and set(found) == wanted else None

    def _is_old(self, nonce: Nonce) -> bool:
        limits = self.account.limits
        if limits.nonce_uses is not None and len(nonce.counts) >= limits.nonce_uses:
            return True
        life = limits.nonce_seconds
        return life is not None and time.monotonic() - nonce.born > life

    def _proof(self, call: Call, told: dict[str, str], nonce: Nonce) -> Answer | None:
        ledger, limits = self.account.ledger, self.account.limits
        target = f"{call.path}?{call.raw_query}" if call.raw_query else call.path
        if told["uri"] != target or told["opaque"] != self.opaque or told["realm"] != limits.realm:
            ledger.violate(call, "digest parameters", "uri, opaque or realm is not as it was")
            return self.challenge()
        if limits.qop:
            if not HEX.fullmatch(told["nc"]) or told["qop"] not in limits.qop.split(","):
                ledger.violate(call, "digest parameters", f"nc {told['nc']}, qop {told['qop']}")
                return self.challenge()
            count = int(told["nc"], 16)
            if count in nonce.counts:
                ledger.violate(call, "nc used twice", told["nc"])
                return self.challenge(stale=True)
            if limits.nc_order == "growing" and nonce.counts and count < max(nonce.counts):
                self.renewals += 1
                return self.challenge(stale=True)
            nonce.counts.add(count)
        key, _, user = told["username"].partition("%")
        password = limits.accounts.get(user) if key == limits.api_key else None
        if password is None or self.expected(call.method, told, password) != told["response"]:
            return self.challenge()
        mine = re.match(r"/ws/customers/([^/]+)(?=/|$)", call.path)
        return None if mine and self.account.is_user(mine[1], user) else self.challenge()

    def expected(self, method: str, told: dict[str, str], password: str) -> str:
        """What `response` must be."""
        algorithm = self.account.limits.algorithm or "MD5"
        kind = "sha256" if algorithm == "SHA-256" else "md5"

        def digest(*parts: str) -> str:
            return hashlib.new(kind, ":".join(parts).encode()).hexdigest()

        secret = digest(told["username"], told["realm"], password)
        if algorithm == "MD5-sess":
            secret = digest(secret, told["nonce"], told["cnonce"])
        asked = digest(method, told["uri"])
        if "qop" not in told:
            return digest(secret, told["nonce"], asked)
        return digest(secret, told["nonce"], told["nc"], told["cnonce"], told["qop"], asked)

    def challenge(self, *, stale: bool = False) -> Answer:
        """A 401 with a new nonce; other schemes stand before Digest, or alone, if so set."""
        limits = self.account.limits
        nonce = secrets.token_urlsafe(18) + "=="
        self.nonces[nonce] = Nonce()
        self.challenges += 1
        digest = f'Digest realm="{limits.realm}"'
        if limits.qop:
            digest += f', qop="{limits.qop}"'
        digest += f', nonce="{nonce}", opaque="{self.opaque}"'
        if limits.algorithm:
            digest += f", algorithm={limits.algorithm}"
        if stale and limits.tells_stale:
            digest += ", STALE=TRUE"
        basic = 'Basic realm="Constant Contact, Inc.", OAuth realm="api"'
        header = {"digest": digest, "both": f"{basic}, {digest}", "basic": basic}[limits.offers]
        told = b"Error 401: Unauthorized"
        return Answer(401, told, "text/plain;charset=UTF-8", {"WWW-Authenticate": header})
