"""States of the US and provinces of Canada: the only ones that `StateCode` takes. Reference, 4."""

from __future__ import annotations

_TOLD = """
AL Alabama|AK Alaska|AZ Arizona|AR Arkansas|CA California|CO Colorado|CT Connecticut|DE Delaware
DC District of Columbia|FL Florida|GA Georgia|HI Hawaii|ID Idaho|IL Illinois|IN Indiana|IA Iowa
KS Kansas|KY Kentucky|LA Louisiana|ME Maine|MD Maryland|MA Massachusetts|MI Michigan|MN Minnesota
MS Mississippi|MO Missouri|MT Montana|NE Nebraska|NV Nevada|NH New Hampshire|NJ New Jersey
NM New Mexico|NY New York|NC North Carolina|ND North Dakota|OH Ohio|OK Oklahoma|OR Oregon
PA Pennsylvania|RI Rhode Island|SC South Carolina|SD South Dakota|TN Tennessee|TX Texas|UT Utah
VT Vermont|VA Virginia|WA Washington|WV West Virginia|WI Wisconsin|WY Wyoming|PR Puerto Rico
AB Alberta|BC British Columbia|MB Manitoba|NB New Brunswick|NL Newfoundland and Labrador
NT Northwest Territories|NS Nova Scotia|NU Nunavut|ON Ontario|PE Prince Edward Island|QC Quebec
SK Saskatchewan|YT Yukon
"""

STATES = dict(one.split(" ", 1) for line in _TOLD.split("\n") for one in line.split("|") if one)
CODES = {name.casefold(): code for code, name in STATES.items()}
CANADA = frozenset(("AB", "BC", "MB", "NB", "NL", "NT", "NS", "NU", "ON", "PE", "QC", "SK", "YT"))
COUNTRIES = {
    "united states": "us", "united states of america": "us", "usa": "us", "u.s.a.": "us",
    "canada": "ca",
}  # fmt: skip


def state_code(text: str, country: str) -> str | None:
    """The code of a state or province, given as code or name; None where there is none.

    *country*: 'us', 'ca', '' where it is not told; of another country nothing is a US state.
    """
    code = CODES.get(text.casefold()) or (text.upper() if text.upper() in STATES else None)
    if code is None or country not in ("", "us", "ca"):
        return None
    fits = not country or (code in CANADA) == (country == "ca")
    return code if fits else None
