"""In the end: does each shop hold exactly what the source says? Pure functions."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Set

from .evidence import At, Evidence, Finding, No, Version, Wish
from .shapes import Record


def differences(at: At, seen: Evidence, noes: Collection[No]) -> Iterator[Finding]:
    """noes: those that can be known, of all shops. Who is refused stays where he was before."""
    there: dict[str, list[Record]] = {}
    for one in at.held.values():
        if one.email:
            there.setdefault(one.email, []).append(one)
    refused = {row.contact for row in seen.journal if row.shop == at.name}
    stuck = at.stuck | {one.email for one in seen.versions if one.contact in refused}
    taken = seen.erasing & seen.may_be_erased  # not sent before that has ended, nor then
    for wish in at.wishes:
        records = there.pop(wish.email, [])
        if wish.contact in taken and not any(one.mailable for one in records):
            continue
        if wish.mailed and wish.contact in at.not_mailed and not any(r.mailable for r in records):
            continue
        if wish.contact not in refused and (wish.mailed or wish.email not in stuck):
            left = {number for key, number in at.left if at.held.get(key) in records}
            for says in _unlike(wish, records, left):
                yield Finding("differs", at.name, f"{wish.contact} {wish.email}: {says}")
    for email, records in there.items():
        if email not in stuck and any(one.mailable for one in records):
            yield Finding("differs", at.name, f"{email}: gone, but mailed: {records}")
    yield from _against_a_no(at, seen, noes)
    for number, (name, wanted) in at.list_names.items():
        if name != wanted:
            yield Finding("differs", at.name, f"list {number} is {name!r} instead of {wanted!r}")


def _unlike(wish: Wish, records: list[Record], left: Set[str]) -> Iterator[str]:
    """left: lists that the person has left there, which a reading need not have seen."""
    mailed = [one for one in records if one.mailable]
    if not wish.mailed:
        if mailed:
            yield f"mailed, and should not be: {mailed}"
        return
    if not mailed and wish.lists and wish.lists <= left:
        return
    if len(mailed) != 1:
        yield f"{len(mailed)} records are mailed: {records}"
        return
    held = {name: str(mailed[0].fields.get(name) or "") for name in wish.fields}
    if held != wish.fields:
        yield f"{held} instead of {dict(wish.fields)}"
    if not wish.lists - left <= mailed[0].lists <= wish.lists:
        yield f"lists {sorted(mailed[0].lists)} instead of {sorted(wish.lists)}"


def _against_a_no(at: At, seen: Evidence, noes: Collection[No]) -> Iterator[Finding]:
    """Mailed at an address whose no, said anywhere, no consent has ended."""
    last: dict[str, Version] = {}
    for one in seen.versions:
        last[one.contact] = one
    holders = {one.email: one for one in last.values() if one.email}
    mailed = {one.email for one in at.held.values() if one.mailable}
    for no in noes:
        if no.email not in mailed:
            continue
        who = holders.get(no.email)
        if who is None or who.consented is None or who.consented <= no.at:
            yield Finding("against a no", at.name, f"{no.email} said no at {no.shop} {no.at:.3f}")
