"""The answer of an authorization: what the browser brings back, believed once.

An `Attempt` is one state, of 256 bits, for one answer: the first that comes burns it, right or
wrong (RFC 6749, sections 4.1.2 and 10.12).
"""

from __future__ import annotations

import asyncio
import hmac
import os
import secrets
import threading
from urllib.parse import parse_qs, urlsplit

from syncd.errors import ConfigError, Refused
from syncd.redact import excerpt

STATE_BYTES = 32  # 64 hex characters
LONGEST = 16_384  # characters of an address that somebody pastes
WHAT_NEXT = "nothing was kept; run `syncd authorize` again"
_WORDS = ("state", "code", "error")


class Attempt:
    """One state, and what came back with it."""

    def __init__(self) -> None:
        self.state = secrets.token_hex(STATE_BYTES)
        self.is_open = True

    def code(self, address: str) -> str:
        """The code in the address that the browser was sent back to; Refused says why none is."""
        told = answer_in(address)
        if not self.is_open:
            raise Refused(f"this attempt has had its answer already: {WHAT_NEXT}")
        self.is_open = False
        if not hmac.compare_digest(told.get("state", "").encode(), self.state.encode()):
            raise Refused(
                "the state that came back is not the one that was sent: this is the answer to"
                f" another attempt, or somebody made it up; {WHAT_NEXT}"
            )
        if "error" in told:
            said = ": ".join(told[one] for one in ("error", "error_description") if one in told)
            shown = excerpt(said.encode("utf-8", "replace"))
            raise Refused(f"the provider did not let the application in ({shown}); {WHAT_NEXT}")
        if not told.get("code"):
            raise Refused(
                "the browser came back without a code: the application is not known there by this"
                " client_id, or the redirect address is not the one it was registered with"
                f" (compare both, byte for byte); {WHAT_NEXT}"
            )
        return told["code"]


def answer_in(address: str) -> dict[str, str]:
    """The query of an address, the last of each name; {} where it holds no answer at all."""
    try:
        query = urlsplit(address.strip()).query
        told = {name: said[-1] for name, said in parse_qs(query, keep_blank_values=True).items()}
    except ValueError:
        return {}
    return told if any(word in told for word in _WORDS) else {}


def checked_redirect(text: str) -> str:
    """An address that a browser can be sent back to, as it is registered; ConfigError if not."""
    try:
        parts = urlsplit(text)
        good = parts.scheme in ("http", "https") and parts.hostname and not parts.fragment
    except ValueError:
        good = False
    if not good or not text.isascii() or not text.isprintable() or " " in text:
        raise ConfigError("--redirect-uri: not an http(s) address that a browser can come back to")
    return text


async def pasted() -> str:
    """One line of standard input, without holding up Ctrl-C. Refused where nothing comes."""
    loop = asyncio.get_running_loop()
    came: asyncio.Future[bytes] = loop.create_future()

    def put(line: bytes) -> None:
        if not came.done():
            came.set_result(line)

    def read() -> None:  # os.read: a lock that `sys.stdin` holds would hold up the exit, too
        line = b""
        while b"\n" not in line and len(line) < LONGEST and (part := os.read(0, 4096)):
            line += part
        loop.call_soon_threadsafe(put, line)

    threading.Thread(target=read, daemon=True, name="paste").start()
    address = (await came).decode("utf-8", "replace").strip()
    if not answer_in(address):
        raise Refused(
            "that is no address that the browser was sent back to: paste the whole of it, with"
            f" state and code; {WHAT_NEXT}"
        )
    return address
