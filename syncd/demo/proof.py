"""The proof that here and there are equal: read past everything that is to be proven."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from syncd.db import Pool, Row
from syncd.demo.people import FAULTY

COLUMNS = ("first_name", "last_name", "phone", "city", "country")


class Side(NamedTuple):
    """What one side says of one contact. fields: by the source's columns, without empty ones."""

    email: str
    fields: Mapping[str, str]
    lists: Sequence[str]
    mailable: bool


def side(
    email: str | None, fields: Mapping[str, Any], lists: Iterable[str], mailable: bool
) -> Side:
    """Texts in one form, so that only differences differ."""
    known = {name: _composed(str(text)) for name, text in fields.items() if text}
    return Side((email or "").lower(), known, sorted(lists), mailable)


def _composed(text: str) -> str:
    return unicodedata.normalize("NFC", text)


_SOURCE = """
select c.id, c.email, c.first_name, c.last_name, c.phone, c.city, c.country,
       c.subscribed and not exists (
           select 1 from syncd.opt_out o
             join syncd.destination d on d.id = o.destination_id
            where o.lifted_at is null and (o.kind <> 'vanished' or d.name = $1)
              and (o.email = lower(c.email) or o.contact_id = c.id))
           as mailable,
       array(select m.list_id from syncd.membership m where m.contact_id = c.id order by 1) as lists
  from syncd.contact c
"""


async def source_side(
    pool: Pool, destination: str, columns: Iterable[str] = COLUMNS, *, by_list: bool = False
) -> dict[str, Side]:
    """The source as one destination should hold it. by_list: who is in no list is not there."""
    return {
        row["id"]: _side(row, columns, by_list) for row in await pool.fetch(_SOURCE, destination)
    }


def _side(row: Row, columns: Iterable[str], by_list: bool) -> Side:
    mailable = row["mailable"] and (bool(row["lists"]) or not by_list)
    return side(row["email"], {name: row[name] for name in columns}, row["lists"], mailable)


def differences(
    source: Mapping[str, Side],
    there: Mapping[str, Side],
    rejected: Mapping[str, str],
    mailed: Iterable[str] = (),
) -> list[str]:
    """Every contact of which the two sides say different things; [] proves them equal.

    mailed: every address that is mailed there, known here or not. Not a difference: who is
    rejected by design (and is not there), and who is not to be mailed, and is not.
    """
    found = [f"{one}: rejected, {rejected[one]}" for one in sorted(set(rejected) - set(FAULTY))]
    for one, want in sorted(source.items()):
        held = there.get(one)
        if held is None:
            if one not in rejected and want.mailable:
                found.append(f"{one}: is not there")
        elif one in FAULTY:
            found.append(f"{one}: is there, though it cannot be sent")
        elif want != held and (want.mailable or held.mailable):
            found.append(f"{one}: is {want} here, {held} there")
    wanted = {want.email for one, want in source.items() if one not in FAULTY and want.mailable}
    known = {want.email for want in source.values()}
    found += [
        f"{one}: is nobody's address here, and is mailed there"
        for one in sorted(set(mailed) - wanted - known)
    ]
    return found
