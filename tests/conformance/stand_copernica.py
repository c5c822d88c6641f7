"""Copernica in v1 and v4: profiles in a database, a no is what unsubscribing writes."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any

from stands import Held, SandboxStand, Vector

from syncd.model import Request
from syncd.providers.copernica import Copernica, CopernicaCredential
from syncd.providers.copernica_calls import condition
from syncd.providers.copernica_sign import encoded
from syncd.sandbox import Handle
from syncd.sandbox.copernica import TOKEN

ADDRESS = "o'brien+news&co@example.com"
EMAIL = "fields%5B%5D=email%3D%3Do%27brien%2Bnews%26co%40example.com"
SINCE = "fields%5B%5D=modified%3E%3D2026-03-29%2002%3A30%3A00"
NAME = "fields%5B%5D=Achternaam%3D%3DM%C3%BCller-%C5%81%C3%B3d%C5%BA%20100%25"
PAGE = f"/v1/database/7616/profiles?{EMAIL}&{SINCE}&orderby=id&order=asc&limit=100&total=false"


def signed(target: str, token: str = TOKEN) -> str:
    key = CopernicaCredential(access_token=token)
    return Copernica.complete(key, Request("GET", target)).target


class Stand(SandboxStand):
    provider = "copernica"
    ways = {
        "v1": {"version": "v1"},
        "v4": {"version": "v4"},
    }
    credential = {"access_token": TOKEN}
    wrong = {"access_token": "f" * 32}
    text_field = "last_name"
    broken = ("duplicates", "resubscribed", "lost_writes")
    vectors = [
        Vector("an address", lambda: condition("email", "==", ADDRESS), EMAIL),
        Vector("a time", lambda: condition("modified", ">=", "2026-03-29 02:30:00"), SINCE),
        Vector("a name", lambda: condition("Achternaam", "==", "Müller-Łódź 100%"), NAME),
        Vector("a page", lambda: signed(PAGE), f"{PAGE}&access_token={TOKEN}"),  # in any order
        Vector("a secret", lambda: encoded("s3cr3t/+= x"), "s3cr3t%2F%2B%3D%20x"),
        Vector("a key", lambda: encoded("ck-7f3a&1"), "ck-7f3a%261"),
        Vector("a token", lambda: signed("/v1/identity", "a b&c"),
               "/v1/identity?access_token=a%20b%26c"),
    ]  # fmt: skip

    def __init__(self, box: Handle, way: str) -> None:
        super().__init__(box, way)
        self.create = ("PUT", f"/{way}/database/7616/profiles")  # type: ignore[misc]

    @property
    def options(self) -> Mapping[str, Any]:
        return {
            **super().options,
            "database": "7616",
            "subscribed_values": {"newsletter": "yes"},
            "auth_url": f"{self.box.url}/authenticate",
        }

    def held(self) -> Sequence[Held]:
        state = self.box.snapshot()
        ids = {one["name"]: number for number, one in state["interests"].items()}
        columns = {one.name: str(n) for n, one in self.box.state.data.columns.items()}
        return [
            Held(
                one["fields"]["email"], one["fields"],
                frozenset(
                    [ids[name] for name in one["interests"]]
                    + [columns[name] for name in columns
                       if name.startswith("list_") and one["fields"].get(name) == "1"]
                ),
                one["mailable"],
            )
            for one in state["profiles"].values()
            if one["removed"] is None
        ]  # fmt: skip

    def leave_list(self, email: str, list_id: str) -> None:
        data = self.box.state.data
        if column := data.columns.get(int(list_id)):
            self.box.act("set_field", email=email, name=column.name, value="0")
            return
        (one,) = (one for one in data.live() if one.fields["email"] == email)
        one.interests.discard(self.box.snapshot()["interests"][list_id]["name"])

    def refuse(self, email: str) -> None:
        self.box.set_limits(banned=[email])

    def fill_up(self) -> None:
        self.box.set_limits(most_profiles=len(self.held()))

    def tidy(self, text: str) -> str:
        """(4): without controls, NFC; lines stay; a text field holds 255 characters."""
        text = re.sub(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff]", "", text)
        return unicodedata.normalize("NFC", text)[:255]

    def list_name(self, text: str) -> str:
        return unicodedata.normalize("NFC", text)


STAND = Stand
