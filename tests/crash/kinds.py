"""The kinds of provider that are attacked, and how each is served."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Kind:
    """A provider, its stand-in's limits and its destination's columns. field: the first name's."""

    provider: str
    name_field: str
    people: int = 14
    limits: Mapping[str, Any] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)
    fields: str | None = None
    findings: Mapping[str, Any] | None = None  # what learning them would take seconds for
    audits: bool = True  # within a second


KINDS: Mapping[str, Kind] = {
    one.provider: one
    for one in (
        Kind(
            "clevertap",  # batches that may be repeated
            "First Name",
            audits=False,
            findings={"delete_works": True, "merges_by_email": False, "negative_dates": True},
        ),
        Kind(
            "constantcontact",  # bulk jobs, from 25 contacts
            "FirstName",
            people=32,
            limits={"job_seconds": 0.01},
            options={"poll_seconds": 0.02},
        ),
        Kind(
            "copernica",  # one a call, with remote ids, and a look-up
            "first_name",
            options={"database": "7616", "subscribed_values": {"newsletter": "yes"}},
            fields='{"first_name": "first_name"}',
        ),
        Kind(
            "redcappi",  # one a call, with remote ids that only a scan finds again
            "first_name",
            options={"meters": {"api": {"per_second": 0, "in_flight": 0}}},
        ),
    )
}
CHOSEN = ("clevertap", "constantcontact", "redcappi")
"""One of each kind: batches that may be repeated, bulk jobs, one a call with remote ids."""
