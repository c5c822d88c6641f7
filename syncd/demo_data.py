"""The demo's people and lists, and the proof that both sides are equal. Pure, but for two reads."""

from __future__ import annotations

import itertools
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from syncd.db import Pool, Row

LISTS = (
    ("news", "Newsletter"),
    ("offers", "Offers of the week"),
    ("events", "Veranstaltungen"),
    ("club", "Клуб"),
    ("press", "プレス"),
    ("partners", "شركاء"),
)
FIRST = (
    "Ann", "Željko", "Søren", "Мария", "Ελένη", "Łukasz", "Nguyễn", "José", "محمد", "שרה",
    "美咲", "志明", "지우", "आरव", "สมชาย", "Gülşah", "Þórdís", "Chloë", "ნინო", "Անի",
)  # fmt: skip
LAST = (
    "O'Neill", "de la Cruz", "Šimić", "Иванова", "Παπαδόπουλος", "Müller-Lüdenscheidt", "Trần",
    "الحسن", "כהן", "佐藤", "王", "김", "शर्मा", "Öztürk", "Ó Briain",
)  # fmt: skip
TOWNS = (
    ("Berlin", "Germany"), ("Łódź", "Poland"), ("São Paulo", "Brazil"), ("Αθήνα", "Greece"),
    ("東京", "Japan"), ("Tromsø", "Norway"),
)  # fmt: skip
PEOPLE = 300
SILENT = ("c0041", "c0142", "c0243")  # said no before they were ever sent anywhere
FAULTY = ("x0001", "x0002", "x0003")
PROPERTIES = {
    "First Name": "first_name",
    "Last Name": "last_name",
    "Phone": "phone",
    "City": "city",
    "Country": "country",
}


class Contact(NamedTuple):
    id: str
    email: str | None
    first_name: str
    last_name: str
    phone: str | None
    city: str
    country: str
    subscribed: bool = True


def people() -> list[Contact]:
    """Three hundred, and three that cannot be sent: no address, no valid one, somebody else's."""
    names = itertools.islice(itertools.product(FIRST, LAST), PEOPLE)
    made = []
    for n, (first, last) in enumerate(names):
        city, country = TOWNS[n % len(TOWNS)]
        phone = f"+4930{1000000 + n}" if n % 3 else None
        one = Contact(f"c{n:04d}", f"person{n:03d}@demo.example", first, last, phone, city, country)
        made.append(one._replace(subscribed=one.id not in SILENT))
    wrong = Contact("x0001", "no address at all", "Wrong", "Address", None, "Berlin", "Germany")
    none = wrong._replace(id="x0002", email=None, first_name="Without")
    shares = wrong._replace(id="x0003", email=made[7].email, first_name="Shares")
    return [*made, wrong, none, shares]


def memberships(contacts: Sequence[Contact]) -> list[tuple[str, str]]:
    """Everybody is in up to three lists; some in none."""
    ids = [list_id for list_id, _ in LISTS]
    return [
        (ids[(n + step) % len(ids)], one.id)
        for n, one in enumerate(contacts)
        for step in range(n % 4)
    ]


# ── The proof ───────────────────────────────────────────────────────────────────────────────


class Side(NamedTuple):
    """What one side says of one contact."""

    email: str
    properties: Mapping[str, str]
    lists: Sequence[str]
    mailable: bool


_SOURCE = """
select c.id, lower(c.email) as email, c.first_name, c.last_name, c.phone, c.city, c.country,
       c.subscribed and not exists (
           select 1 from syncd.opt_out o
             join syncd.destination d on d.id = o.destination_id
            where o.lifted_at is null and (o.kind <> 'vanished' or d.name = $1)
              and (o.email = lower(c.email) or o.contact_id = c.id))
           as mailable,
       array(select m.list_id from syncd.membership m where m.contact_id = c.id order by 1) as lists
  from syncd.contact c
"""


async def source_side(pool: Pool, destination: str) -> dict[str, Side]:
    """The source, read without anything of the machinery that is to be proven."""
    return {row["id"]: _side(row) for row in await pool.fetch(_SOURCE, destination)}


def listed(source: Mapping[str, Side]) -> dict[str, Side]:
    """The source as a provider is to hold it that knows contacts only as members of lists."""
    return {
        one: side._replace(
            properties={
                PROPERTIES[name]: _composed(told) for name, told in side.properties.items()
            },
            mailable=side.mailable and bool(side.lists),
        )
        for one, side in source.items()
    }


def members_side(state: Mapping[str, Any], source: Mapping[str, Side]) -> dict[str, Side]:
    """The state of a sandbox of lists, by our ids; who is not known here, by address."""
    ids = {side.email: one for one, side in source.items() if one not in FAULTY}
    ours = {name: one for one, name in LISTS}
    names = {number: ours[told["name"]] for number, told in state["lists"].items()}
    columns = PROPERTIES.values()
    return {
        ids.get(one["email"].lower(), one["email"]): Side(
            one["email"].lower(),
            {name: one["fields"][name] for name in columns if one["fields"][name]},
            sorted(names[str(number)] for number in one["lists"]),
            one["mailable"],
        )
        for one in state["profiles"].values()
        if one["mailable"]
    }


def _composed(text: str) -> str:
    return unicodedata.normalize("NFC", text)


def _side(row: Row) -> Side:
    known = {name: row[column] for name, column in PROPERTIES.items() if row[column]}
    return Side(row["email"] or "", known, row["lists"], row["mailable"])


def provider_side(profiles: Mapping[str, Any]) -> dict[str, Side]:
    """The sandbox's state (`GET /_state`), as a `Side` for each identity."""
    return {
        identity: Side(
            (held["Email"] or "").lower(),
            {name: held["properties"][name] for name in PROPERTIES if name in held["properties"]},
            sorted(held["Lists"]),
            held["mailable"],
        )
        for identity, held in profiles.items()
    }


def differences(
    source: Mapping[str, Side], there: Mapping[str, Side], rejected: Mapping[str, str]
) -> list[str]:
    """Every contact of which the two sides say different things; [] proves them equal.

    Not a difference: who is rejected by design (and is not there), who said no before being known
    there, and who has left the source and lies there silent and in no list.
    """
    found = [f"{one}: rejected, {rejected[one]}" for one in sorted(set(rejected) - set(FAULTY))]
    for one in sorted(set(source) | set(there)):
        want, held = source.get(one), there.get(one)
        if want is None:
            if held is not None and (held.mailable or held.lists):
                found.append(f"{one}: has left the source, and is still mailed there")
        elif held is None:
            if one not in rejected and want.mailable:
                found.append(f"{one}: is not there")
        elif one in FAULTY:
            found.append(f"{one}: is there, though it cannot be sent")
        elif want != held:
            found.append(f"{one}: is {want} here, {held} there")
    return found
