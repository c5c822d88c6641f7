"""CleverTap: lists are a property of the profile; the address mark decides who is mailed."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import partial

from stands import Held, SandboxStand, Vector

from syncd.model import Request
from syncd.providers.clevertap import CleverTap, CleverTapCredential

KEY = CleverTapCredential(account_id="TEST-0A0-000-0A0Z", passcode=" JDG-PAS-CODE\n")


class Stand(SandboxStand):
    provider = "clevertap"
    ways = {"": {}, "adopt-email": {"adopt": "email"}}
    credential = {"account_id": "TEST-0A0-000-0A0Z", "passcode": "JDG-PAS-CODE"}
    wrong = {"account_id": "TEST-0A0-000-0A0Z", "passcode": "another"}
    create = ("POST", "/1/upload")
    text_field = "City"
    findings = {"delete_works": True, "merges_by_email": False, "negative_dates": True}
    can_be_full = False  # no plan's limit is documented
    vectors = [
        Vector(
            f"headers of {method}",
            partial(CleverTap.sign, KEY, Request(method, "/1/upload")),
            {
                "X-CleverTap-Account-Id": "TEST-0A0-000-0A0Z",
                "X-CleverTap-Passcode": "JDG-PAS-CODE",
                "Content-Type": "application/json",
            },
        )
        for method in ("GET", "POST")
    ]

    @property
    def looks_up(self) -> int:
        return 2 if self.way == "adopt-email" else 0  # by identity, then by address

    def held(self) -> Sequence[Held]:
        return [
            Held(one["Email"] or "", one["properties"], frozenset(one["Lists"]), one["mailable"])
            for one in self.profiles.values()
            if one["Email"]
        ]

    def fill_up(self) -> None:
        raise NotImplementedError

    def tidy(self, text: str) -> str:
        """(3.1): breaks are blanks, controls go, at most 512 bytes."""
        text = re.sub(r"[\t\r\n\v\f]+", " ", text)
        text = re.sub(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]", "", text)
        return text.encode()[:512].decode(errors="ignore")


STAND = Stand
