"""Makes the checker's evidence of tables, sandboxes and logs."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

import leaks
import orjson

from syncd.providers import providers

from .boxes import Box
from .cluster import Cluster, Link
from .evidence import At, Became, Evidence, No, Row, Sent, Version
from .fleet import LEASE, TIMEOUT, Fleet
from .shapes import Record, list_ids, list_names, record
from .truth import TRUTH
from .variant import Shop, Variant
from .wishes import wishes

Quota = tuple[int, float]  # requests a day, and when that was lifted
SILENT = ("redcappi",)
"""Providers where a no shows only by the person's being gone, as README's table says."""
SAYS_NOT_AGAIN = ("clevercampaign", "copernica")
"""Providers where a no shows only by a record that is off: said at one that we, or a no before,
have turned off already, or may have by a lost request, it changes nothing that could be read."""
LOST_SILENCES = """
select d.name, t.now ->> 'email' as email, extract(epoch from max(t.at))::float8 as at
  from chaos.trail t
  join syncd.destination d on d.id = (t.now ->> 'destination_id')::int
 where t.relation = 'journal' and (t.now ->> 'doubtful')::boolean
   and (t.now ->> 'silenced')::boolean
 group by 1, 2"""
"""Until when it was not known whether a request of ours had turned somebody off."""


async def gather(variant: Variant, boxes: Mapping[str, Box], cluster: Cluster, fleet: Fleet,
                 unsettled: str, quotas: Mapping[str, Quota],
                 left: Collection[tuple[str, str, str]], erased: Collection[str],
                 ) -> tuple[Evidence, Mapping[str, Any]]:  # fmt: skip
    """The evidence, and what it was made of, for the folder. quotas: by shop.
    left: lists that people have left, by shop, record and list; erased: contacts who asked."""
    link = Link(cluster.url)
    truth = [dict(row) for row in await link.fetch(TRUTH)]
    states = {shop.provider: await boxes[shop.provider].get("/_state") for shop in variant.shops}
    told = {shop.provider: await boxes[shop.provider].get("/_history") for shop in variant.shops}
    doubts = {(r["name"], r["email"]): r["at"] for r in await link.fetch(LOST_SILENCES)}
    said = [no for name, entries in told.items() for no in noes(name, entries, doubts)]
    shops = [
        replace(
            await _at(
                link, one, states[one.provider], told[one.provider], quotas.get(one.provider)
            ),
            left=frozenset((key, number) for shop, key, number in left if shop == one.provider),
        )
        for one in variant.shops
    ]
    rows = await link.fetch(
        "select d.name, j.contact_id, j.state, coalesce(j.last_error, '') as why"
        " from syncd.journal j join syncd.destination d on d.id = j.destination_id"
    )
    asked = await link.fetch("select contact_id from syncd.erasure where contact_id is not null")
    gone = {row["contact_id"] for row in asked}
    erasing = await link.fetch("select contact_id from syncd.erasing where contact_id is not null")
    known_at = await link.fetch(
        "select distinct now ->> 'contact_id', now ->> 'email' from chaos.trail"
        " where now ->> 'email' is not null"
    )
    journal = [Row(r["name"], r["contact_id"], r["state"], r["why"])
               for r in rows if r["contact_id"] not in gone]  # fmt: skip
    seen = Evidence(
        shops, _versions(truth), sorted(said, key=lambda no: no.at), journal, unsettled,
        fleet.stops, fleet.logs(), sorted(leaks.secrets_in(fleet.environ)), cluster.said,
        fleet.deaths, LEASE, TIMEOUT, frozenset(erased), frozenset(map(tuple, known_at)),
        frozenset(row["contact_id"] for row in erasing),
    )  # fmt: skip
    tables = await _tables(link)
    link.close()
    return seen, {"truth": truth, "states": states, "history": told, "tables": tables}


async def _tables(link: Link) -> dict[str, Any]:
    found = {}
    for name in ("journal", "mirror", "list_mirror", "opt_out", "delivery", "feed", "erasure",
                 "destination", "command", "run", "scan", "plan", "missing"):  # fmt: skip
        rows = await link.fetch(f"select to_jsonb(t)::text from syncd.{name} t")
        found[name] = [orjson.loads(row[0]) for row in rows]
    rows = await link.fetch("select to_jsonb(t)::text from chaos.trail t order by n")
    return {**found, "trail": [orjson.loads(row[0]) for row in rows]}


async def _at(link: Link, shop: Shop, state: Mapping[str, Any], told: Sequence[Any],
              quota: Quota | None) -> At:  # fmt: skip
    name = shop.provider
    most, until = quota if quota is not None else (None, float("inf"))
    mirrored = await link.fetch(
        "select m.list_id, m.remote_id, l.name from syncd.list_mirror m"
        " join syncd.destination d on d.id = m.destination_id"
        " left join syncd.list l on l.id = m.list_id where d.name = $1", name,
    )  # fmt: skip
    remote = {row["list_id"]: row["remote_id"] or row["list_id"] for row in mirrored}
    ids, names = list_ids(name, state), list_names(name, state)
    held = {
        key: replace(one, lists=frozenset(ids.get(each, each) for each in one.lists))
        for key, raw in state["profiles"].items()
        if (one := record(name, key, raw)) is not None
    }
    kind = providers()[name].traits
    return At(
        name, kind.key, requests(told), became(name, told), held,
        await wishes(link, shop, remote, kind.needs_list),
        await _not_mailed(link, name),
        state["violations"],
        [*state.get("repeated_creates", ())],
        state["in_flight_max"], shop.in_flight, shop.columns["per_second"], most, until,
        {number: (names[number], row["name"]) for row in mirrored
         if row["name"] and (number := row["remote_id"]) in names},
        stuck=await _stuck(link, name),
    )  # fmt: skip


async def _stuck(link: Link, shop: str) -> frozenset[str]:
    rows = await link.fetch(
        "select m.email from syncd.mirror m join syncd.destination d on d.id = m.destination_id"
        "  join syncd.journal j using (destination_id, contact_id)"
        " where d.name = $1 and j.state = 'rejected'", shop,
    )  # fmt: skip
    return frozenset(row["email"] for row in rows)


async def _not_mailed(link: Link, shop: str) -> frozenset[str]:
    rows = await link.fetch(
        "select contact_id from syncd.mirror m join syncd.destination d on d.id = m.destination_id"
        " where d.name = $1"
        "   and exists (select 1 from unnest(m.lacking) l where l like 'subscription:%')", shop,
    )  # fmt: skip
    return frozenset(row["contact_id"] for row in rows)


def requests(told: Sequence[Mapping[str, Any]]) -> list[Sent]:
    return [
        Sent(one["request"], one["began"], one["at"], one["path"], one["alive"])
        for one in told
        if one["what"] == "request" and one["request"]
    ]


def became(provider: str, told: Sequence[Mapping[str, Any]]) -> list[Became]:
    return [
        Became(one["request"], one["began"], one["at"], one["record"],
               record(provider, one["record"], one["now"]))
        for one in told
        if one["what"] == "record"
    ]  # fmt: skip


def noes(
    shop: str, told: Sequence[Mapping[str, Any]], doubts: Mapping[tuple[str, str], float]
) -> list[No]:
    """doubts: by shop and address, as LOST_SILENCES tells them."""
    there: dict[str, Record | None] = {}
    found = []
    for one in told:
        if one["what"] == "record":
            there[one["record"]] = record(shop, one["record"], one["now"])
        elif one["what"] == "act" and one.get("do") == "unsubscribe":
            email = one["email"].lower()
            version = next((r.version for r in there.values() if r and r.email == email), None)
            off = not any(r.mailable for r in there.values() if r and r.email == email)
            off = off or doubts.get((shop, email), 0.0) > one["at"]
            unseen = shop in SILENT or (off and shop in SAYS_NOT_AGAIN)
            found.append(No(shop, one["at"], email, version, unseen))
    return found


def _versions(truth: Sequence[Mapping[str, Any]]) -> list[Version]:
    found: list[Version] = []
    for row in truth:
        if row["op"] == "truncate":
            continue
        if row["now"] is None:
            found.append(Version(orjson.loads(row["was"])["id"], row["at"], None))
            continue
        now = orjson.loads(row["now"])
        consent = now["consented_at"] and datetime.fromisoformat(now["consented_at"]).timestamp()
        found.append(Version(
            now["id"], row["at"], now["email"].lower(), int(now["last_name"][1:]),
            now["subscribed"], consent,
        ))  # fmt: skip
    return found
