"""An erasure in words: where it stands at each destination, and what a person must do."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any

import orjson

from syncd import sql
from syncd.db import Row
from syncd.tombstone import Tombstones
from syncd.words import listed, moment

if TYPE_CHECKING:
    from syncd.app import App


@dataclass(slots=True)
class Erasure:
    """One request, as `syncd status --json` prints it. says: how it stands, a line each."""

    id: int
    requested_at: datetime
    purged_at: datetime | None
    finished_at: datetime | None
    destinations: dict[str, Any]
    result: dict[str, Any]
    done_by_hand: list[str] = field(default_factory=list)
    says: list[str] = field(default_factory=list)

    @property
    def open(self) -> bool:
        """Whether something is left to be done, by syncd or at a provider by hand."""
        by_hand = any(
            "by_hand" in one and name not in self.done_by_hand
            for name, one in self.destinations.items()
        )
        return self.finished_at is None or by_hand


async def requests(app: App) -> list[Erasure]:
    """Those that are not finished, and those of the last month that ask a person for something."""
    rows = await app.pool.fetch(sql.erasure.status)
    fault = await Tombstones(app.pool, app.secrets).fault() if rows else None
    return [_request(row, fault) for row in rows]


def _request(row: Row, fault: str | None) -> Erasure:
    proof, result = orjson.loads(row["proof"]), orjson.loads(row["result"])
    shown = {
        name: {key: one for key, one in said.items() if key != "records"}
        for name, said in proof.items()
    }
    places = {**{name: {} for name in row["destinations"]}, **shown}
    made = Erasure(
        row["id"], row["requested_at"], row["purged_at"], row["finished_at"], places, result,
        row["done_by_hand"],
    )  # fmt: skip
    made.says = list(sentences(made, fault))
    made.says += [_occupied(made.id, one) for one in orjson.loads(row["occupants"])]
    return made


def sentences(one: Erasure, fault: str | None = None) -> Iterator[str]:
    """How a request stands. fault: why nobody can be forgotten at all."""
    for name, said in sorted(one.destinations.items()):
        if "by_hand" in said and name in one.done_by_hand:
            yield f"erasure {one.id}: done by hand at {name}"
        else:
            yield f"erasure {one.id}: {_at(name, said)}"
    if shares := one.result.get("shares_an_address_with"):
        yield (
            f"erasure {one.id}: contact {listed(shares)} has an address of the person too, so that"
            " stays; ask for it by `email` if it is the same person"
        )
    if still := one.result.get("still_in"):
        yield (
            f"erasure {one.id}: the person is still in source {listed(still)}, and sent nowhere:"
            " take it out there"
        )
    if one.finished_at is None and one.purged_at is None and fault is not None:
        yield f"erasure {one.id}: not forgotten here yet: {fault}"
    elif one.purged_at is not None:
        end = "" if one.finished_at is not None else "; the request itself is, with the last proof"
        yield f"erasure {one.id}: forgotten in our own tables, {moment(one.purged_at)}{end}"


def _occupied(erasure: int, one: Mapping[str, Any]) -> str:
    """Whose record is at the person's address, and what ends that."""
    name, contact = one["destination"], one["contact"]
    waits = f"erasure {erasure}: not forgotten here yet: at {name} the record of contact {contact}"
    if one["refused"]:
        return (
            f"{waits} is still at the person's address, and {name} refuses the change that takes it"
            f" away: `syncd rejected {name}` says why; mend it, then `syncd retry {name}`"
        )
    return f"{waits} is at the person's address until that contact's own change has been sent"


def _at(name: str, said: Mapping[str, Any]) -> str:
    if at := said.get("confirmed_at"):
        return f"nothing is left at {name}, read back {_moment(at)}"
    if by_hand := said.get("by_hand"):
        return f"to be done by hand at {name}: {by_hand}"
    if until := said.get("waiting_until"):
        return f"deleted at {name}; what is left can be read from {_moment(until)}"
    if sent := said.get("sent_at"):
        return f"deleted at {name}, {_moment(sent)}; not read back yet"
    return f"{name} has not been told yet"


def _moment(text: str) -> str:
    return moment(datetime.fromisoformat(text))
