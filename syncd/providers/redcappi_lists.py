"""RedCappi's lists: made after a look, renamed, deleted. Reference, sections 3 to 5 and 7."""

from __future__ import annotations

import hashlib

import structlog

from syncd.errors import Indivisible, Misconfigured, Unintelligible
from syncd.model import Request
from syncd.providers.redcappi_answers import NAMED, Told
from syncd.providers.redcappi_push import METER, NO_DATA, NO_DATA_WRITE, Calls
from syncd.providers.redcappi_sign import encoded
from syncd.providers.redcappi_translate import SHORTEST_NAME, is_plain, list_name

log = structlog.get_logger()


async def create(calls: Calls, name: str) -> str:
    """Make a list; its id. Where the path refuses the name: a plain one first, then renamed."""
    sent = _checked(name)
    if len(sent) < SHORTEST_NAME:
        log.warning("list name is shorter than the provider may allow", least=SHORTEST_NAME)
    told = await calls.write(_add(sent))
    if told.kind in ("done", "there"):
        return await _id_of(calls, sent, told)
    if is_plain(sent) or told.status not in (400, 404):
        raise _refused(told)
    plain = f"syncd {hashlib.sha256(sent.encode()).hexdigest()[:16]}"
    there = [one for one, called in (await calls.lists()).items() if called == plain]
    if there:  # of an earlier try that ended before it was renamed
        list_id = there[0]
    else:
        told = await calls.write(_add(plain))
        if told.kind not in ("done", "there"):
            raise _refused(told)
        list_id = await _id_of(calls, plain, told)
    await rename(calls, list_id, sent)
    return list_id


async def rename(calls: Calls, list_id: str, name: str) -> None:
    """The name goes into the query, where any is allowed; harmless to repeat."""
    target = f"/v1/lists.json?id={list_id}&name={encoded(_checked(name))}"
    told = await calls.write(Request("POST", target, NO_DATA_WRITE, meter=METER))
    if told.kind != "done":
        raise _refused(told)


async def delete(calls: Calls, list_id: str) -> None:
    """What is not there any more is deleted."""
    target = f"/v1/lists.json/{list_id}"
    told = await calls.write(Request("DELETE", target, NO_DATA_WRITE, meter=METER))
    if told.kind not in ("done", "gone"):
        raise _refused(told)


def _add(name: str) -> Request:
    return Request("POST", f"{NAMED}{encoded(name)}", NO_DATA, meter=METER)


def _checked(name: str) -> str:
    sent, fault = list_name(name)
    if fault:
        raise Indivisible(f"the list's name {fault}")
    return sent


async def _id_of(calls: Calls, name: str, told: Told) -> str:
    """From the answer's last words, else by reading all lists."""
    if told.kind == "done" and told.list_id is not None:
        return told.list_id
    alike = [one for one, called in (await calls.lists()).items() if called == name]
    if len(alike) == 1:
        return alike[0]
    if told.kind == "there" and not alike:
        raise Indivisible(f"a list of that name exists and is not shown: {told.text}")
    raise Unintelligible(f"{len(alike)} lists are called like the one just made")


def _refused(told: Told) -> Exception:
    """A refusal of this list alone; a path nobody knows concerns the whole destination."""
    if "unknown method" in told.text.lower():
        return Misconfigured(told.text, status=told.status)
    return Indivisible(told.text, status=told.status)
