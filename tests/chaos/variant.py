"""What one seed tries: which providers, set up how, by how many workers, under which rules."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

PROVIDERS = ("clevercampaign", "clevertap", "constantcontact", "copernica", "redcappi")
LISTS = ("l1", "l2", "l3", "l4")

FIELDS: Mapping[str, tuple[Mapping[str, str], Mapping[str, str]]] = {
    "clevercampaign": (
        {"firstname": "first_name", "lastname": "last_name"},
        {"firstname": "first_name", "lastname": "last_name", "company": "company"},
    ),
    "clevertap": (
        {"First Name": "first_name", "Last Name": "last_name", "City": "city"},
        {"Last Name": "last_name", "Company": "company", "City": "city"},
    ),
    "constantcontact": (
        {"FirstName": "first_name", "LastName": "last_name", "City": "city"},
        {"LastName": "last_name", "CompanyName": "company"},
    ),
    "copernica": (
        {"first_name": "first_name", "last_name": "last_name", "city": "city"},
        {"last_name": "last_name", "company": "company", "city": "city"},
    ),
    "redcappi": (
        {"first_name": "first_name", "last_name": "last_name", "city": "city"},
        {"last_name": "last_name", "company": "company"},
    ),
}
"""Two mappings each; in both, the version is in the field of the last name."""

WAYS: Mapping[str, tuple[Mapping[str, Any], ...]] = {
    "clevercampaign": ({}, {"lists_enabled": True, "write_unsubscribe": True}),
    "clevertap": ({}, {"adopt": "email"}),
    "constantcontact": ({"poll_seconds": 0.1},),
    "copernica": ({"version": "v1"}, {"version": "v4"}),
    "redcappi": ({}, {"delete_scope": "list"}),
}
OPTIONS: Mapping[str, Mapping[str, Any]] = {
    "copernica": {"database": "7616", "subscribed_values": {"newsletter": "yes"}},
}
LIMITS: Mapping[str, Mapping[str, Any]] = {"constantcontact": {"job_seconds": 0.1}}


@dataclass(frozen=True)
class Shop:
    """One destination; its name is the provider's."""

    provider: str
    options: Mapping[str, Any]
    columns: Mapping[str, Any]
    limits: Mapping[str, Any] = field(default_factory=dict)  # of the sandbox

    quota: bool = False  # so many requests a day that they run out, until somebody lifts that

    @property
    def in_flight(self) -> Mapping[str, int]:
        """How many requests may be on their way, by the stand-in's meters."""
        own: int = self.columns["in_flight"]
        return {"upload": own, "other": 3} if self.provider == "clevertap" else {"api": own}

    @property
    def keeps_lists(self) -> bool:
        return self.provider != "clevercampaign" or bool(self.options.get("lists_enabled"))


@dataclass(frozen=True)
class Variant:
    """What one seed tries."""

    seed: int
    shops: tuple[Shop, ...]
    workers: int
    contacts: int
    pace: float  # seconds between two changes, on average
    guarded: bool  # a tight guard, and somebody who approves
    listen: bool

    def shop(self, provider: str) -> Shop:
        return next(one for one in self.shops if one.provider == provider)

    @staticmethod
    def of(seed: int) -> Variant:
        rng = random.Random(seed)
        first = PROVIDERS[seed % len(PROVIDERS)]  # so that five seeds in a row meet all five
        others = rng.sample([one for one in PROVIDERS if one != first], rng.choice((1, 1, 2)))
        guarded = rng.random() < 0.25
        return Variant(
            seed,
            tuple(_shop(rng, one, guarded, seed) for one in (first, *others)),
            rng.choice((2, 2, 3)),
            rng.choice((12, 20, 35)),
            rng.choice((0.15, 0.3, 0.6)),
            guarded,
            rng.random() < 0.7,
        )


def _shop(rng: random.Random, provider: str, guarded: bool, seed: int) -> Shop:
    columns = {
        "per_second": rng.choice((30, 60)),
        "in_flight": rng.choice((2, 4)),
        "when_gone": rng.choice(("withdraw", "withdraw", "delete")),
        "lists": rng.choice((None, None, list(LISTS[:2]))),
        "guard_percent": 30 if guarded else 100,
        "guard_floor": 10 if guarded else 1_000_000,
        "read_schedule": rng.choice(("1s", "3s")),
        "full_schedule": rng.choice(("8s", "20s", "1h")),
        "schedule": rng.choice(("on change", "on change", "1s")),
    }
    options = {**OPTIONS.get(provider, {}), **rng.choice(WAYS[provider])}
    limits = {**LIMITS.get(provider, {}), "keep_records": True}
    # CleverTap's reads are no part of it.
    runs_out = random.Random(f"{seed} {provider}").random() < 0.25 and provider != "clevertap"
    return Shop(provider, options, columns, limits, runs_out)
