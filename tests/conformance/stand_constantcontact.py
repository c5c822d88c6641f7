"""Constant Contact: Digest, documents, jobs; the address is the key, and a no is final."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from functools import partial
from typing import Any

from stands import Held, SandboxStand, Vector

from syncd.model import Request
from syncd.providers.constantcontact_digest import Challenge, response
from syncd.sandbox.constantcontact import API_KEY, PASSWORD, USER

LOGIN = "7f3c2a10-1111-4222-8333-444455556666%ctct_customer"
ZOE = "7f3c2a10-1111-4222-8333-444455556666%zoë@shop.example"
NONCE = "MTIzNDU2Nzg5MDphYmNkZWY="
ROOT = "/ws/customers/ctct_customer"
SEARCH = f"{ROOT}/contacts?email=jos%C3%A9%2Bnews%40example.com&email=b%40example.com"
LINES: list[tuple[str, str, str, str, str, str | None, str | None, str]] = [
    (LOGIN, "mypassword", "GET", f"{ROOT}/lists", "00000001", None, "auth",
     "dcc284eccf282fb2df09de659090a2e9"),
    (LOGIN, "mypassword", "GET", SEARCH, "00000002", None, "auth",
     "a6bbc4bfcb1098b712bdbbb3fc716f8f"),
    (LOGIN, "mypassword", "PUT", f"{ROOT}/contacts/17", "0000000a", "MD5-sess", "auth",
     "919d8cbd244511d2e4537849df28d0e4"),
    (ZOE, 'pä"ss\\wörd', "POST", "/ws/customers/zo%C3%AB@shop.example/activities", "00000001",
     None, "auth", "7587d1e65bcc8da63565af515c9f733f"),
    (LOGIN, "mypassword", "GET", f"{ROOT}/", "-", None, None, "6f561219bedf38050bb495e1b31cafb3"),
]  # fmt: skip


def answered(line: Any) -> str:
    user, password, method, target, nc, algorithm, qop, _ = line
    asked = Challenge("api.constantcontact.com", NONCE, None, algorithm, qop)
    return response(asked, user, password, Request(method, target), nc, "0a4f113b")


def of_the_rfc() -> str:
    asked = Challenge("testrealm@host.com", "dcd98b7102dd2f0e8b11d0f600bfb0c093", qop="auth")
    request = Request("GET", "/dir/index.html")
    return response(asked, "Mufasa", "Circle Of Life", request, "00000001", "0a4f113b")


class Stand(SandboxStand):
    provider = "constantcontact"
    ways = {"": {"poll_seconds": 0.01}}
    limits = {"job_seconds": 0.01}
    credential = {"api_key": API_KEY, "username": USER, "password": PASSWORD}
    wrong = {"api_key": API_KEY, "username": USER, "password": "another"}
    create = ("POST", f"/ws/customers/{USER}/contacts")
    text_field = "LastName"
    broken = ("duplicates", "resubscribed", "repeated_adds")
    vectors = [
        *(Vector(str(n), partial(answered, one), one[-1]) for n, one in enumerate(LINES, 1)),
        Vector("RFC 2617", of_the_rfc, "6629fae49393a05397450978507c4ef1"),
    ]

    def held(self) -> Sequence[Held]:
        return [
            Held(one["email"], one["fields"], frozenset(map(str, one["lists"])), one["mailable"])
            for one in self.profiles.values()
        ]

    def leave_list(self, email: str, list_id: str) -> None:
        self.box.act("leave_list", email=email, list=int(list_id))

    def tidy(self, text: str) -> str:
        """(4, 6): one line without what XML cannot carry, trimmed, at most 50 characters."""
        text = re.sub(r"[ \t]*(\r\n|[\n\r\v\f\x85\u2028\u2029])[ \t]*", " ", text)
        text = re.sub(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x84\x86-\x9f\ud800-\udfff]", "", text)
        return unicodedata.normalize("NFC", text).strip()[:50].rstrip()

    def list_name(self, text: str) -> str:
        return self.tidy(text)


STAND = Stand
