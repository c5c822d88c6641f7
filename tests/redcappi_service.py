"""Does a RedCappi sandbox hold exactly what the source says? Written from the documents."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping
from typing import Any

import orjson
from service import Service, Wanted, wanted

from syncd.sandbox import Handle

FIELDS: Mapping[str, str] = {
    "first_name": "first_name",
    "last_name": "last_name",
    "company": "company",
    "phone": "phone",
    "address": "address",
    "city": "city",
    "state": "state",
    "zip_code": "postal_code",
    "country": "country",
    "dob": "birth_date",
}
"""The documented mapping where a destination names none."""

UNLIMITED = {"meters": {"api": {"per_second": 0, "in_flight": 0}}}
BREACHES = ("violations", "duplicates", "repeated_adds", "resubscribed")


async def destination(syncd: Service, name: str, box: Handle, **columns: Any) -> None:
    """Without limits, and without a guard."""
    options = {**UNLIMITED, **columns.pop("options", {})}
    guard = {"guard_percent": 100, "guard_floor": 1_000_000}
    await syncd.destination(name, box, options=options, **{**guard, **columns})


async def same(syncd: Service, name: str, excused: Collection[str] = ()) -> None:
    """Fail unless the sandbox holds what the source says, and no rule was broken.

    excused: contacts that may be anywhere but mailed against a no.
    """
    found = await differences(syncd, name, excused)
    if found:
        story = await _story(syncd, name, found[0].split()[0].rstrip(":"))
        raise AssertionError("\n".join([f"{len(found)} differences", *found[:12], *story]))


async def _story(syncd: Service, name: str, key: str) -> list[str]:
    """What happened to a contact: settled here, done there, and the scans meanwhile; and who else
    was settled at the very moments when something was done there."""
    emails = await syncd.db.fetch("select email from syncd.journal where contact_id = $1"
                                  " union select email from syncd.mirror where contact_id = $1"
                                  " union select email from syncd.opt_out where contact_id = $1",
                                  key)  # fmt: skip
    known = {row["email"] for row in emails}
    there = {
        one.get("contact")
        for one in syncd.boxes[name].state.ledger.history
        if str(one.get("wrote", {}).get("email_address", "")).lower() in known
    }
    told = [
        (one["at"], f"there: {one.get('what')} list {one.get('list')} contact {one.get('contact')}")
        for one in syncd.boxes[name].state.ledger.history
        if one.get("contact") in there - {None}
    ]
    rows = await syncd.db.fetch(
        "select extract(epoch from at)::float8,"
        " concat_ws(' ', 'here:', nullif(contact_id, $1), kind, outcome, error)"
        " from syncd.delivery where contact_id = $1 or exists (select 1 from unnest($2::float8[]) t"
        " where t between extract(epoch from at) - 0.1 and extract(epoch from at) + 0.02)"
        " union all select extract(epoch from observed_at)::float8,"
        " concat_ws(' ', 'no:', kind, list_id, evidence) from syncd.opt_out where contact_id = $1"
        " union all select extract(epoch from begun_at)::float8,"
        " concat_ws(' ', 'scan', id, list_key, finished_at - begun_at, counts, error)"
        " from syncd.scan where begun_at is not null"
        " union all select extract(epoch from pushed_at)::float8, 'mirror: ' || m::text"
        " from syncd.mirror m where contact_id = $1",
        key,
        [at for at, _ in told],
    )
    return [f"  {at:.3f} {says}" for at, says in sorted([*told, *map(tuple, rows)])][-80:]


async def differences(syncd: Service, name: str, excused: Collection[str]) -> list[str]:
    box, db = syncd.boxes[name], syncd.db
    state = box.snapshot()
    found = [f"{one}: {state[one][:3]}" for one in BREACHES if state[one]]
    me = await db.fetchval("select id from syncd.destination where name = $1", name)
    want_all = await wanted(db, name, FIELDS)
    stay = await _kept_from_their_address(syncd, me, state, want_all)
    excused = {*excused, *stay}
    refused = await db.fetch(
        "select contact_id, last_error from syncd.journal"
        " where destination_id = $1 and state = 'rejected' and not contact_id = any($2)",
        me,
        list(excused),
    )
    found += [f"{contact} is refused: {why}" for contact, why in refused]
    rows = await db.fetch(
        "select list_id, remote_id from syncd.list_mirror"
        " where destination_id = $1 and remote_id is not null",
        me,
    )
    lists = {row["list_id"]: row["remote_id"] for row in rows}
    stuck = await _not_left(syncd, me)
    there = _by_address(state, set(lists.values()))
    for key, want in want_all.items():
        held = there.pop(want.email.lower(), [])
        if key not in excused:
            found += [f"{key}: {says}" for says in _unlike(want, held, lists, stuck[key])]
    found += [
        f"{email} should not be there: {rows}"
        for email, rows in there.items()
        if email not in stay.values()
    ]
    return found


async def _kept_from_their_address(
    syncd: Service, destination_id: int, state: Mapping[str, Any], want: Mapping[str, Wanted]
) -> Mapping[str, str]:
    """Who was refused because the account keeps a record of the address that they are to have,
    though it is in no list any more, and where they stay. Reference, section 6: what happens to
    such an edit is unknown; it is listed as rejected, for a person."""
    kept = {one["email"].lower() for one in state["profiles"].values() if not one["lists"]}
    rows = await syncd.db.fetch(
        "select j.contact_id, m.email from syncd.journal j"
        "  join syncd.mirror m using (destination_id, contact_id)"
        " where j.destination_id = $1 and j.state = 'rejected'"
        "   and j.last_error like '%Email address already exists'",
        destination_id,
    )
    return {
        row["contact_id"]: row["email"]
        for row in rows
        if row["contact_id"] in want and want[row["contact_id"]].email.lower() in kept
    }


async def _not_left(syncd: Service, destination_id: int) -> Mapping[str, set[str]]:
    """Lists that contacts could not be taken out of, and of which that was told."""
    rows = await syncd.db.fetch(
        "select contact_id, lacking from syncd.mirror"
        " where destination_id = $1 and lacking <> '{}'",
        destination_id,
    )
    found: dict[str, set[str]] = defaultdict(set)
    for row in rows:
        said = [one.removeprefix("list:") for one in row["lacking"] if " not left: " in one]
        found[row["contact_id"]] = {one.split(" ")[0] for one in said}
    return found


def _by_address(state: Mapping[str, Any], ours: set[str]) -> dict[str, list[dict[str, Any]]]:
    """Records that are mailed through lists of ours."""
    found: dict[str, list[dict[str, Any]]] = {}
    for record in state["profiles"].values():
        lists = {str(one) for one in record["lists"]} & ours
        if lists and record["status"] == "active":
            held = {"lists": lists, "fields": record["fields"]}
            found.setdefault(record["email"].lower(), []).append(held)
    return found


def _unlike(
    want: Wanted, held: list[dict[str, Any]], lists: Mapping[str, str], stuck: set[str]
) -> list[str]:
    wished = {lists[one] for one in want.lists if one in lists} if want.mailable else set()
    more = {lists[one] for one in stuck if one in lists}
    there = sorted(one for record in held for one in record["lists"])
    found = []
    if set(there) - more != wished - more or len(set(there)) != len(there):
        found.append(f"in lists {there} instead of {sorted(wished)}")
    if not want.mailable:
        return found
    names = (want.properties.get(part, "") for part in ("first_name", "last_name"))
    fields = {**dict.fromkeys(FIELDS, ""), **want.properties}
    fields |= {"email_address": want.email, "name": " ".join(names).strip()}
    for record in held:
        if record["fields"] != fields:
            unlike = {k: v for k, v in record["fields"].items() if v != fields[k]}
            found.append(f"holds {orjson.dumps(unlike).decode()}")
    return found
