"""RedCappi: one record in many lists; a no shows only by being gone from them."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from functools import partial
from typing import Any

from redcappi_vectors import KEYS, VECTORS
from redcappi_vectors import Vector as Line
from stands import Held, SandboxStand, Vector

from syncd.model import Request
from syncd.providers.redcappi import RedCappi, RedCappiCredential
from syncd.providers.redcappi_sign import string_to_sign
from syncd.sandbox.redcappi import PRIVATE, PUBLIC


def signed(line: Line) -> tuple[str, Any]:
    public, private = KEYS[line.key]
    key = RedCappiCredential(public_key=public, private_key=private)
    body = line.body.encode()
    made = RedCappi.sign(key, Request(line.method, line.target, body))
    return string_to_sign(line.method, line.target, body), made["Authorization"]


class Stand(SandboxStand):
    provider = "redcappi"
    ways = {"": {}, "deletes-known": {"delete_scope": "list"}}
    credential = {"public_key": PUBLIC, "private_key": PRIVATE}
    wrong = {"public_key": "f00d", "private_key": PRIVATE}
    create = ("POST", "/v1/contacts.json/101/contacts/")
    text_field = "last_name"
    broken = ("duplicates", "resubscribed", "repeated_adds")
    vectors = [
        Vector(
            str(one.number),
            partial(signed, one),
            (one.signed, f"RCWS {KEYS[one.key][0]}:{one.hash}"),
        )
        for one in VECTORS
    ]

    def held(self) -> Sequence[Held]:
        return [
            Held(one["email"], one["fields"], frozenset(map(str, one["lists"])), one["mailable"])
            for one in self.profiles.values()
        ]

    def leave_list(self, email: str, list_id: str) -> None:
        self.box.act("delete", email=email, list=int(list_id))

    def tidy(self, text: str) -> str:
        """(6): strings without controls and halves of pairs, NFC; lines are joined."""
        text = re.sub(r"[ \t]*(\r\n|[\n\r\v\f\x85\u2028\u2029])[ \t]*", " ", text)
        text = re.sub(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]", "", text)
        return unicodedata.normalize("NFC", text)

    def list_name(self, text: str) -> str:
        return self.tidy(text)


STAND = Stand
