"""CleverCampaign as it stands, and with what an operator may switch on."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from functools import partial

from stands import Held, SandboxStand, Vector

from syncd.providers.clevercampaign_sign import signature
from syncd.sandbox import Handle
from syncd.sandbox.clevercampaign import PUBLIC, SECRET

SHARED = "your-secret-key-never-share-it"
LINES = [
    (SHARED, "0f8fad5b-d9cb-469f-a165-70867728950e",
     "jT9gXhcBaCz4JA7nOpc1n6QXiEnlGK6jv1nixLQsGX8%3d"),
    (SHARED, "d6d8d1ff-b852-51f9-be7b-3ee8920b15ca",
     "LKC%2bp4v6IM6uR7MGcavAs3Kv3%2b%2fmMgL%2fdHzxzCMJq5Q%3d"),
    (SHARED, "428a2e33-e48c-514f-871a-662938529c58",
     "%2bGNg3X%2fXgaO5hB1I%2fog%2bdCgp4ASo26nmMibOnM%2fG9MU%3d"),
    ("nøgle+/=€ 🔑", "00000000-0000-4000-8000-000000000001",
     "sKvqiEMWZwKTDzWdxOo5nYRALSd3M%2fkGEhSHiwmGLX4%3d"),
    ("s3cr3t", "salt with spaces + å", "Kl4dM8AD9W1fwzxnCUmdrUKH4gTlp5q6wK0BdXA5kfE%3d"),
]  # fmt: skip


class Stand(SandboxStand):
    provider = "clevercampaign"
    ways = {"": {}, "switched-on": {"lists_enabled": True, "write_unsubscribe": True}}
    credential = {"api_key": PUBLIC, "secret_key": SECRET}
    wrong = {"api_key": "5A17C0FF-EE00-4000-8000-000000000000", "secret_key": SECRET}
    create = ("POST", "/contact")
    text_field = "lastname"
    broken = ("duplicates", "resubscribed", "repeated_creates")
    vectors = [Vector(salt, partial(signature, secret, salt), sent) for secret, salt, sent in LINES]

    def __init__(self, box: Handle, way: str) -> None:
        super().__init__(box, way)
        self.keeps_lists = way == "switched-on"

    def held(self) -> Sequence[Held]:
        ids = {one["name"]: number for number, one in self.box.snapshot()["lists"].items()}
        return [
            Held(
                one["email"], one["fields"],
                frozenset(ids[name] for name in one["lists"]), one["mailable"],
            )
            for one in self.profiles.values()
        ]  # fmt: skip

    def leave_list(self, email: str, list_id: str) -> None:
        self.box.act("leave", email=email, list=list_id)

    def tidy(self, text: str) -> str:
        """Nothing is documented; NFC, LF, and without what XML cannot hold."""
        text = re.sub(r"\r\n?|[\v\f\x85\u2028\u2029]", "\n", text)
        text = re.sub(r"[\x00-\x08\x0e-\x1f\x7f-\x9f\ud800-\udfff]", "", text)
        return unicodedata.normalize("NFC", text)

    def list_name(self, text: str) -> str:
        return self.tidy(text)


STAND = Stand
