"""The sixteen vectors of RedCappi's reference: made by its PHP client, with made-up keys."""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

KEYS = {
    "P1": (
        "3f0a9d1c5b7e2468ace013579bdf02468ace13579bdf02468ace13579bdf0246",
        "9b1deb4d3b7d4bad9bdd2b0d7b3dcb6d00112233445566778899aabbccddeeff",
    ),
    "P2": ("PublicKeyMixedCase01", "Private/Key+With=Odd Chars é"),
}


class Vector(NamedTuple):
    number: int
    key: str
    method: str
    target: str
    body: str
    signed: str
    hash: str


LINES = (Path(__file__).parent / "data" / "redcappi_vectors.jsonl").read_text("utf-8").splitlines()
VECTORS = [Vector(*json.loads(line).values()) for line in LINES]
