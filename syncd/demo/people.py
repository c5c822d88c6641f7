"""The demo's people and lists. Pure."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import NamedTuple

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
