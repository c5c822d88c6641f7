"""The five stand-ins' records in one shape: what is said of whom, and whether it is mailed."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

VERSION = re.compile(r"V(\d+)\Z")
TEXT = {
    "clevercampaign": "lastname", "clevertap": "Last Name", "constantcontact": "LastName",
    "copernica": "last_name", "redcappi": "last_name",
}  # fmt: skip
"""The field that the source's last name goes to."""


@dataclass(frozen=True)
class Record:
    """A contact as a provider holds it. version: of the data in it; None where there are none."""

    email: str  # lower case
    version: int | None
    fields: Mapping[str, Any]
    lists: frozenset[str]  # as the provider calls them: names, or ids
    mailable: bool


def record(provider: str, key: str, told: Mapping[str, Any] | None) -> Record | None:
    """*told* of `profiles` in `GET /_state`, by *key*; None for who is gone, or none of ours."""
    if told is None or told.get("removed") or key.startswith("syncd-canary-"):
        return None
    email, fields, lists = _parts(provider, told)
    found = VERSION.match(str(fields.get(TEXT[provider]) or ""))
    return Record(
        (email or "").lower(),
        int(found[1]) if found else None,
        fields,
        frozenset(map(str, lists)),
        bool(told["mailable"]),
    )


def _parts(provider: str, told: Mapping[str, Any]) -> tuple[str | None, dict[str, Any], list[Any]]:
    match provider:
        case "clevertap":
            return told["Email"], told["properties"], told["Lists"]
        case "copernica":
            fields = told["fields"]
            columns = [n for n, v in fields.items() if n.startswith("list_") and v == "1"]
            return fields["email"], fields, [*told["interests"], *columns]
        case _:
            return told["email"], told["fields"], told["lists"]


def list_ids(provider: str, state: Mapping[str, Any]) -> dict[str, str]:
    """The remote ids of lists by how records call them, where that is not by these ids."""
    match provider:
        case "clevercampaign":
            return {one["name"]: number for number, one in state["lists"].items()}
        case "copernica":
            ids = {one["name"]: number for number, one in state["interests"].items()}
            return ids | {name: number for number, name in state["columns"].items()}
        case _:
            return {}


def list_names(provider: str, state: Mapping[str, Any]) -> dict[str, str]:
    """What lists are called there, by remote id; none where lists have no names there."""
    match provider:
        case "clevertap":
            return {}
        case "copernica":
            return {number: one["name"] for number, one in state["interests"].items()}
        case _:
            return {number: one["name"] for number, one in state["lists"].items()}
