"""Why a person gets mail, or does not, at each destination: in plain sentences.

The rows are gathered by `syncd.explain_rows`; here they are compared and put into words.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from syncd import assemble
from syncd.control import Destination
from syncd.decide import values
from syncd.desired import Desired
from syncd.erasure_words import Erasure
from syncd.erasure_words import sentences as said_of
from syncd.errors import ConfigError
from syncd.explain_rows import Held, Rows, every_row, rows_of
from syncd.explain_words import Case, sentences
from syncd.plan import castable
from syncd.providers import provider
from syncd.words import moment

if TYPE_CHECKING:
    from syncd.app import App


@dataclass(slots=True)
class Verdict:
    """One contact at one destination."""

    contact_id: str
    mailed: bool
    says: list[str]
    desired: Mapping[str, Any] | None = None
    there: Mapping[str, Any] | None = None
    differs: list[dict[str, Any]] = field(default_factory=list)


@dataclass(slots=True)
class Explained:
    """All that is known of an address."""

    email: str
    known: bool
    contacts: list[str]
    destinations: dict[str, list[Verdict]]
    faults: list[str]
    rows: dict[str, Rows]
    erasures: list[str] = field(default_factory=list)


async def explain(app: App, email: str) -> Explained:
    """Gather and judge; nothing is written."""
    address = email.strip().lower()
    everyone = await app.destinations()
    found = await rows_of(app, address, everyone)
    rows = every_row(found, {d.id: d.name for d in everyone})
    faults = [fault for held in found for fault in held.faults]
    ids = sorted({one for held in found for one in held.ids})
    faults = list(dict.fromkeys(faults))
    told = Explained(address, bool(rows), ids, {}, faults, rows)
    told.erasures = _erasures(rows.get("syncd.erasure", []))
    if not rows:
        return told
    for d in everyone:
        held = next(one for one in found if one.name == d.source)
        try:
            told.destinations[d.name] = await _at(app, d, held, everyone)
        except ConfigError as error:
            told.faults += [f for f in error.faults if f not in told.faults]
    return told


async def _at(
    app: App, d: Destination, held: Held, everyone: Sequence[Destination]
) -> list[Verdict]:
    kind = provider(d.provider)
    desired = await assemble.desired_of(app.pool, d, kind, assemble.options_of(d, kind))
    rows = await app.pool.fetch(desired.by_keys, castable(desired, held.ids))
    wanted = {row["contact_id"]: row for row in rows}
    peers = {p.id: p.name for p in everyone if p.source == d.source}
    return [_judged(_case(one, d, desired, held, wanted, peers)) for one in held.ids]


def _case(
    contact_id: str,
    d: Destination,
    desired: Desired,
    held: Held,
    wanted: dict[str, Any],
    peers: dict[int, str],
) -> Case:
    row = wanted.get(contact_id)
    return Case(
        d,
        contact_id,
        next((c for c in held.contacts if str(c["id"]) == contact_id), None),
        None if row is None else _desired(row, desired),
        next(iter(held.of("mirror", d.id, contact_id)), None),
        next(iter(held.of("journal", d.id, contact_id)), None),
        [o for o in held.rows["opt_out"] if _concerns(o, d, desired, contact_id, held, peers)],
        any(e["finished_at"] is None for e in held.rows["erasure"]),
        held.rows["erasure"],
        next((one.reason for one in held.buried), None),
        next(iter(held.of("sharer", d.id, contact_id)), None),
        {m["list_id"]: m["name"] or m["list_id"] for m in held.lists},
        peers,
    )


def _erasures(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """How each request about the person stands."""
    told = []
    for row in rows:
        asked = datetime.fromisoformat(row["requested_at"])
        purged, finished = (
            None if row[name] is None else datetime.fromisoformat(row[name])
            for name in ("purged_at", "finished_at")
        )
        one = Erasure(row["id"], asked, purged, finished, row["proof"], row["result"])
        told += [f"erasure {one.id}: asked for {moment(asked)}", *said_of(one)]
    return told


def _desired(row: Any, desired: Desired) -> dict[str, Any]:
    return {
        "email": row["email"],
        "fields": values(row, desired.fields),
        "lists": list(row["lists"]),
        "subscribed": row["subscribed"],
        "fault": row["fault"],
        "digest": str(row["digest"]),
    }


def _concerns(
    opt_out: dict[str, Any],
    d: Destination,
    desired: Desired,
    contact_id: str,
    held: Held,
    peers: dict[int, str],
) -> bool:
    """Whether an opt-out counts for this contact here: as in `Desired`, lifted ones too."""
    own = opt_out["destination_id"] == d.id
    narrow = desired.only_own_opt_outs or opt_out["kind"] == "vanished" or opt_out["list_id"]
    shared = opt_out["destination_id"] in peers or opt_out["of_source"] == d.source
    if not own and (narrow or not shared):
        return False
    if opt_out["contact_id"] == contact_id and (
        opt_out["kind"] in ("unsubscribed", "complained") or opt_out["list_id"]
    ):
        return True
    known = [c for c in held.contacts if str(c["id"]) == contact_id]
    known = known or held.of("mirror", d.id, contact_id)
    addresses = {str(row["email"] or "").strip().lower() for row in known}
    return opt_out["email"] in addresses


def _judged(case: Case) -> Verdict:
    mailed, says = sentences(case, datetime.now(UTC))
    there = None
    if case.mirror is not None:
        keys = ("state", "email", "fields", "lists", "subscribed", "lacking", "pushed_at")
        there = {key: case.mirror[key] for key in keys}
    return Verdict(case.contact_id, mailed, says, case.desired, there, list(differences(case)))


def differences(case: Case) -> Iterator[dict[str, Any]]:
    """What the source says, and the destination was last given something else."""
    if case.desired is None or case.mirror is None or case.desired["fault"]:
        return
    if case.mirror["state"] not in ("here", "adopted"):
        return
    pairs: list[tuple[str, Any, Any]] = [
        ("email", case.desired["email"].lower(), case.mirror["email"]),
        ("subscribed", case.desired["subscribed"], case.mirror["subscribed"]),
        ("lists", case.desired["lists"], sorted(case.mirror["lists"])),
    ]
    mine, theirs = case.desired["fields"], case.mirror["fields"]
    pairs += [(name, mine.get(name), theirs.get(name)) for name in sorted({*mine, *theirs})]
    for what, source, there in pairs:
        if source != there:
            yield {"what": what, "source": source, "there": there}
