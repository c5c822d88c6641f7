"""Constant Contact's lists: made, renamed, deleted. Reference, sections 3, 4 and 8."""

from __future__ import annotations

from syncd.errors import Indivisible
from syncd.model import Answer
from syncd.providers.constantcontact_answers import said
from syncd.providers.constantcontact_atom import Entry, entry, made, number_of
from syncd.providers.constantcontact_calls import Calls
from syncd.providers.constantcontact_translate import list_fault, tidy

LAST = "99"  # SortOrder: below those that people made


async def create(calls: Calls, name: str) -> str:
    document = made("ContactList")
    document.put("OptInDefault", "false")
    document.put("Name", _checked(name))
    document.put("SortOrder", LAST)
    answer = await calls.send("POST", "/lists", document)
    if answer.status >= 300:
        raise _refused(answer)
    if location := answer.headers.get("location"):
        return number_of(location)
    return entry(answer, "ContactList").number


async def rename(calls: Calls, number: str, name: str) -> None:
    """The entry as it was read, but for the name."""
    document = await _read(calls, number)
    document.put("Name", _checked(name))
    answer = await calls.send("PUT", f"/lists/{number}", document)
    if answer.status >= 300:
        raise _refused(answer)


async def delete(calls: Calls, number: str) -> None:
    """Only when it is empty: whoever is in no other list would be lost to all mail (8)."""
    answer = await calls.read(f"/lists/{number}")
    if answer.status == 404:
        return
    if answer.status >= 300:
        raise _refused(answer)
    if (members := entry(answer, "ContactList").text("ContactCount")) not in ("", "0"):
        raise Indivisible(
            f"it still has {members} members, who may be in no other list; when they have left, "
            "`syncd retry` deletes it"
        )
    answer = await calls.send("DELETE", f"/lists/{number}")
    if answer.status >= 300 and answer.status != 404:
        raise _refused(answer)


async def _read(calls: Calls, number: str) -> Entry:
    answer = await calls.read(f"/lists/{number}")
    if answer.status >= 300:
        raise _refused(answer)
    return entry(answer, "ContactList")


def _checked(name: str) -> str:
    sent = tidy(name)
    if fault := list_fault(sent):
        raise Indivisible(f"the list's name {fault}")
    return sent


def _refused(answer: Answer) -> Indivisible:
    if answer.status == 409:
        words = "another list has that name, perhaps in other capitals"
        return Indivisible(f"{words}: {said(answer)}", status=409)
    return Indivisible(said(answer), status=answer.status)
