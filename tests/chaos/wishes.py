"""What a shop is to hold in the end, worked out from the tables without any SQL of syncd's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from .cluster import Link
from .evidence import Wish
from .variant import Shop

ERASED = """
select contact_id, lower(email) as email from syncd.erasure
 union all
select e.contact_id, null
  from syncd.erasing e
  join syncd.erasure r on r.id = e.erasure_id
 where exists (select from chaos.truth t where t.now ->> 'id' = e.contact_id
                  and lower(t.now ->> 'email') = lower(r.email))"""
"""Whoever had the address that somebody was erased by, and was gone from the source when he was
looked for, is taken for the same person while that goes on."""


async def wishes(
    link: Link, shop: Shop, remote: Mapping[str, str], needs_list: bool
) -> Sequence[Wish]:
    """Everybody in the source, and whether that shop is to mail them.

    remote: ids of lists there by ours. A no counts as `opt_out` has it: that all of them are known
    there is looked at elsewhere.
    """
    (row,) = await link.fetch("select * from syncd.destination where name = $1", shop.provider)
    fields = orjson.loads(row["fields"])
    chosen = row["lists"]
    members: dict[str, set[str]] = {}
    for one in await link.fetch("select list_id, contact_id from syncd.membership"):
        if chosen is None or one["list_id"] in chosen:
            members.setdefault(one["contact_id"], set()).add(one["list_id"])
    noes = await link.fetch(
        "select o.*, d.name as shop from syncd.opt_out o"
        " join syncd.destination d on d.id = o.destination_id where o.lifted_at is null"
    )
    erased = await link.fetch(ERASED)
    gone = {one[name] for one in erased for name in ("contact_id", "email") if one[name]}
    found = []
    for one in await link.fetch("select * from syncd.contact order by id"):
        if {one["id"], one["email"].lower()} & gone:
            continue
        said = [no for no in noes if _counts(no, one, shop.provider)]
        lists = members.get(one["id"], set()) - {no["list_id"] for no in said}
        mailed = one["subscribed"] and not any(no["list_id"] is None for no in said)
        there = {remote.get(each, each) for each in lists} if shop.keeps_lists else set()
        belongs = chosen is None or one["id"] in members
        found.append(Wish(
            one["id"], one["email"].lower(),
            {name: str(one[column] or "") for name, column in fields.items()},
            frozenset(there),
            bool(mailed and belongs and (lists or not needs_list)),
        ))  # fmt: skip
    return found


def _counts(no: Any, contact: Any, shop: str) -> bool:
    """Whether that no is in scope, about this contact, and newer than any consent. Who is not in a
    list any more is kept out of it under whatever address."""
    if no["shop"] != shop and (no["kind"] == "vanished" or no["list_id"] is not None):
        return False
    stays = no["list_id"] is not None or no["kind"] in ("unsubscribed", "complained")
    mine = no["contact_id"] == contact["id"] and stays
    if not mine and no["email"] != contact["email"].lower():
        return False
    consent = contact["consented_at"]
    return consent is None or consent <= (no["occurred_at"] or no["observed_at"])
