"""How an application is let into the account: the authorize page and the token (reference, 2a).

Assumed where nobody says: a refusal comes back as RFC 6749 has it (`error=access_denied`); a code
is good for ten minutes, and once.
"""

from __future__ import annotations

import re
import secrets
from html import escape
from typing import TYPE_CHECKING, NamedTuple

from syncd.sandbox.call import Answer, Call, answered

if TYPE_CHECKING:
    from syncd.sandbox.copernica import Copernica

PAGE = re.compile(r"/(?:en|nl)/authorize(/allow|/deny)?")
STRONG = re.compile(r"[0-9a-f]{32,}")  # md5-like; one that is weaker comes back without a code
WANTED = ("client_id", "redirect_uri", "state", "response_type")
KEYS = ("client_id", "client_secret", "redirect_uri", "code")
REST = re.compile(r"(?:[A-Za-z0-9._~-]|%[0-9A-F]{2})*")  # how a name or value is encoded (2d)


class Code(NamedTuple):
    """What a code was given for."""

    client_id: str
    redirect_uri: str
    until: float


class Door:
    """Who asks to be let in, and what for."""

    def __init__(self, copernica: Copernica) -> None:
        self.copernica = copernica
        self.codes: dict[str, Code] = {}
        self.used: set[str] = set()
        self.granted: dict[str, str] = {}  # token → the application

    # ── What a person sees ──────────────────────────────────────────────────────────────────

    def page(self, call: Call, decided: str | None) -> Answer:
        """The page with its two links; and where they lead."""
        said = self._said(call, WANTED)
        if call.method != "GET" or said is None or said["response_type"] != "code":
            return _html(400, "<p>This request cannot be understood.</p>")
        if said["client_id"] not in self.copernica.limits.applications:
            return _html(400, "<p>There is no such application.</p>")
        if decided is None:
            return self._question(call, said["client_id"])
        return self._back(call, said, decided == "/allow")

    def _question(self, call: Call, client_id: str) -> Answer:
        query = escape(call.raw_query, quote=True)
        links = "".join(
            f'<p><a href="{call.path}/{what}?{query}">{text}</a></p>'
            for what, text in (("allow", "Allow"), ("deny", "Refuse"))
        )
        who = f"account {escape(self.copernica.limits.account)}"
        return _html(200, f"<p>Let {escape(client_id)} use all data of {who}?</p>{links}")

    def _back(self, call: Call, said: dict[str, str], allowed: bool) -> Answer:
        told = {"state": said["state"]}
        if not STRONG.fullmatch(said["state"]):
            self.copernica.ledger.violate(call, "state", "too weak: no code is given")
        elif allowed:
            code = secrets.token_hex(16)
            until = call.at + self.copernica.limits.code_seconds
            self.codes[code] = Code(said["client_id"], said["redirect_uri"], until)
            told["code"] = code
        else:
            told["error"] = "access_denied"
        uri = said["redirect_uri"]
        mark = "&" if "?" in uri else "?"
        query = "&".join(f"{name}={value}" for name, value in told.items())
        return Answer(302, b"", "text/html", {"Location": f"{uri}{mark}{query}"})

    # ── What the application asks ───────────────────────────────────────────────────────────

    def token(self, call: Call, apply: bool) -> Answer:
        """A code for a token, once; nothing is redirected."""
        said = self._said(call, KEYS)
        if call.method != "GET" or said is None or call.headers.get("Authorization"):
            self.copernica.ledger.violate(call, "token asked", f"{call.method}, not by its four")
            return self._failed("Invalid request")
        known = self.codes.get(said["code"])
        if said["code"] in self.used:
            self.copernica.ledger.violate(call, "code used twice", "a code is good once")
        if self.copernica.limits.applications.get(said["client_id"]) != said["client_secret"]:
            return self._failed("Invalid client")
        if known is None or known.client_id != said["client_id"] or known.until < call.at:
            return self._failed("Invalid code")
        if known.redirect_uri != said["redirect_uri"]:
            self.copernica.ledger.violate(call, "redirect_uri", "differs from the page's")
            return self._failed("Invalid redirect_uri")
        token = secrets.token_hex(16)
        if apply:
            del self.codes[said["code"]]
            self.used.add(said["code"])
            self.granted[token] = said["client_id"]
        if self.copernica.limits.answers_as == "documented":
            return Answer(200, f'{{ access_token : "{token}" }}'.encode())
        return answered({"access_token": token})

    def _said(self, call: Call, names: tuple[str, ...]) -> dict[str, str] | None:
        """Each of these once, encoded as it has to be, and nothing else; None: not so."""
        pairs = [pair.partition("=")[::2] for pair in call.raw_query.split("&")]
        if not all(REST.fullmatch(value) for _, value in pairs):
            self.copernica.ledger.violate(call, "encoding", "a value is not percent-encoded")
        if sorted(name for name, _ in pairs) != sorted(names):
            self.copernica.ledger.violate(call, "parameters", f"not exactly {', '.join(names)}")
            return None
        return {name: call.query(name)[0] for name in names}

    def _failed(self, text: str) -> Answer:
        return self.copernica.failed(400, text)


def _html(status: int, body: str) -> Answer:
    text = f"<!doctype html><title>Authorize</title>{body}"
    return Answer(status, text.encode(), "text/html; charset=utf-8")
