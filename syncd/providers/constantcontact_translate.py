"""From a contact's fields to Constant Contact's elements and columns: pure. Reference, 4 and 6.

Four names are ours, because one value may need another element each time: `Phone`, `State`,
`Country`, `Address`. Every other name is the provider's own.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from syncd.model import Differences, Person, Value
from syncd.providers.constantcontact_atom import clean
from syncd.providers.constantcontact_places import CODES, COUNTRIES, STATES, state_code

LONGEST_EMAIL, LONGEST_LIST = 80, 255
LENGTHS = {
    **dict.fromkeys(
        ("FirstName", "MiddleName", "LastName", "JobTitle", "CompanyName", "Addr1", "Addr2",
         "Addr3", "City", "StateName"), 50),
    **{f"CustomField{n}": 50 for n in range(1, 16)},
    "HomePhone": 25, "WorkPhone": 25, "CountryName": 25, "PostalCode": 25, "SubPostalCode": 25,
    "StateCode": 2, "CountryCode": 2, "Note": 500, "EmailType": 4,
}  # fmt: skip
COLUMNS = {
    "FirstName": "FIRST NAME", "MiddleName": "MIDDLE NAME", "LastName": "LAST NAME",
    "JobTitle": "JOB TITLE", "CompanyName": "COMPANY NAME", "WorkPhone": "WORK PHONE",
    "HomePhone": "HOME PHONE", "Addr1": "ADDRESS LINE 1", "Addr2": "ADDRESS LINE 2",
    "Addr3": "ADDRESS LINE 3", "City": "CITY", "StateName": "STATE",
    "StateCode": "STATE/PROVINCE (US/CANADA)", "CountryCode": "COUNTRY", "CountryName": "COUNTRY",
    "PostalCode": "POSTAL CODE", "SubPostalCode": "SUB POSTAL CODE",
    **{f"CustomField{n}": f"CUSTOM FIELD {n}" for n in range(1, 16)},
}  # fmt: skip
SYSTEM_LISTS = ("active", "do not mail", "removed")

_ADDRESS = re.compile(r"[^\s@]+@[^\s@.]+(?:\.[^\s@.]+)+")
_BREAKS = re.compile(r"[ \t]*(?:\r\n|[\n\r\v\f\x1c-\x1e\x85\u2028\u2029])[ \t]*")


@dataclass(frozen=True, slots=True)
class Rules:
    """What the options change in the translation."""

    phone_as: str = "WorkPhone"
    state_as: str = "auto"


def address_of(email: str) -> str:
    """The key: lower case; upper case finds nothing there (3)."""
    return email.strip().lower()


def email_fault(email: str) -> str:
    """Why this cannot be sent as an address; '' if it may be one."""
    if len(email) > LONGEST_EMAIL:
        return f"is longer than {LONGEST_EMAIL} characters"
    if not email.isprintable() or clean(email) != email:
        return "holds control characters"
    return "" if _ADDRESS.fullmatch(email) else "is not an address"


def elements(person: Person, rules: Rules, lacking: list[str] | None = None) -> dict[str, str]:
    """Every element that the mapping owns, '' where it is to be empty; what is cut or has no place
    is added to *lacking*."""
    told = [] if lacking is None else lacking
    made: dict[str, str] = {}
    country = _country(person.fields)
    for name, value in person.fields.items():
        text = tidy(value)
        if name == "Phone":
            made[rules.phone_as] = text
        elif name == "Address":
            made |= _address(value)
        elif name == "State":
            made |= _state(text, country, rules.state_as)
        elif name == "Country":
            made |= _country_elements(text)
        elif name in LENGTHS:
            made[name] = _exact(name, text, told)
        else:
            told.append(f"field:{name} has no place there")
    for name, text in made.items():
        if len(text) > LENGTHS[name]:
            told.append(f"field:{name} is cut at {LENGTHS[name]} characters")
            made[name] = text[: LENGTHS[name]].rstrip()
    return made


def tidy(value: Value) -> str:
    """One line of text, blanks at its ends taken off."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    text = clean(_BREAKS.sub(" ", str(value)))
    return unicodedata.normalize("NFC", text).strip()


def _exact(name: str, text: str, lacking: list[str]) -> str:
    """Elements that take only some values."""
    if name == "EmailType":
        wanted = {"html": "HTML", "text": "Text"}.get(text.lower(), "")
        if text and not wanted:
            lacking.append("field:EmailType is neither HTML nor Text, left out")
        return wanted or "HTML"
    if name == "StateCode":
        return text.upper() if text.upper() in STATES else ""
    if name == "CountryCode":
        return text.lower() if re.fullmatch(r"[A-Za-z]{2}", text) else ""
    return text


def _address(value: Value) -> dict[str, str]:
    """Up to three lines; more are joined to the third."""
    text = "" if value is None else str(value).strip()
    lines = [one for one in map(tidy, _BREAKS.split(text)) if one]
    lines = [*lines[:2], ", ".join(lines[2:]), "", ""]
    return {f"Addr{n}": line for n, line in enumerate(lines[:3], 1)}


def _country(fields: Mapping[str, Value]) -> str:
    """The country's code, as far as it tells whether a state has one."""
    text = tidy(fields.get("Country") or fields.get("CountryCode") or fields.get("CountryName"))
    return COUNTRIES.get(text.casefold(), text.lower() if len(text) == 2 else text and "other")


def _country_elements(text: str) -> dict[str, str]:
    code = COUNTRIES.get(text.casefold()) or (text.lower() if _is_code(text) else "")
    return {"CountryCode": code, "CountryName": "" if code else text}


def _is_code(text: str) -> bool:
    return len(text) == 2 and text.isascii() and text.isalpha()


def _state(text: str, country: str, state_as: str) -> dict[str, str]:
    """One of the two, the other cleared."""
    code = state_code(text, country) if state_as != "StateName" else None
    return {"StateCode": code or "", "StateName": "" if code else text}


def normalised(values: Mapping[str, str]) -> dict[str, str]:
    """Elements in a form in which what was sent and what comes back are equal: the provider fills
    in names of states and countries, changes the case of codes, and trims."""
    made = {name: " ".join(text.split()) for name, text in values.items() if text.strip()}
    code = made.pop("StateCode", "").upper()
    name = made.pop("StateName", "")
    if code or name:
        made["State"] = (code or CODES.get(name.casefold()) or name).casefold()
    code, name = made.pop("CountryCode", ""), made.pop("CountryName", "")
    if code or name:
        made["Country"] = (code or COUNTRIES.get(name.casefold()) or name).casefold()
    return made


def differs(wanted: Mapping[str, str], there: Mapping[str, str]) -> bool:
    """Whether the elements that are ours are not as wanted."""
    held = {name: there.get(name, "") for name in wanted}
    for code, name in (("StateCode", "StateName"), ("CountryCode", "CountryName")):
        if wanted.get(name) and not wanted.get(code) and held.get(name):
            held.pop(code, None)  # filled in by the provider
    return normalised(wanted) != normalised(held)


def unlike(rules: Rules, person: Person, told: Mapping[str, str]) -> Differences:
    """Mapped fields whose elements are not as they were sent."""
    sent = elements(person, rules)
    found = {}
    for name in person.fields:
        own = {
            "Phone": (rules.phone_as,),
            "Address": ("Addr1", "Addr2", "Addr3"),
            "State": ("StateCode", "StateName"),
            "Country": ("CountryCode", "CountryName"),
        }.get(name, (name,))
        wanted = {one: sent[one] for one in own if one in sent}
        if wanted and differs(wanted, told):
            found[name] = _line(wanted), _line({one: told.get(one, "") for one in wanted})
    return found


def _line(values: Mapping[str, str]) -> str:
    """A field's elements as one text; of a code and its name the code is enough."""
    filled = [text for text in values.values() if text]
    return filled[0] if filled and "Addr1" not in values else ", ".join(filled)


# ── Bulk data: section 3, "Activities" ──────────────────────────────────────────────────────


def has_columns(values: Mapping[str, str]) -> bool:
    """Whether a job can carry it; how a quotation mark is to be written there nobody says."""
    return all(name in COLUMNS and '"' not in text for name, text in values.items() if text)


def csv(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Lines of values, those with a comma in quotation marks."""
    lines = [",".join(header)]
    lines += [",".join(f'"{one}"' if "," in one else one for one in row) for row in rows]
    return "\n".join(lines) + "\n"


def table(addresses: Sequence[str], values: Sequence[Mapping[str, str]]) -> str:
    """The data of an add: a column for each element that somebody has a value of."""
    named = {name: COLUMNS[name] for one in values for name, text in one.items() if text}
    header = sorted(set(named.values()))
    rows = []
    for email, one in zip(addresses, values, strict=True):
        cells = {COLUMNS[name]: text for name, text in one.items() if text}
        rows.append([email, *(cells.get(column, "") for column in header)])
    return csv(["EMAIL ADDRESS", *header], rows)


def list_fault(name: str) -> str:
    """Why a list cannot be called that; '' if it may be."""
    if not name:
        return "is empty"
    if name.casefold() in SYSTEM_LISTS:
        return "is one that the provider keeps for a status"
    return f"is longer than {LONGEST_LIST} characters" if len(name) > LONGEST_LIST else ""
