"""CleverCampaign's lists, where the operator has switched them on: made, renamed, deleted.

All of it is assumed (reference, section 3): a path that is not known there concerns the whole
destination, anything else this one list.
"""

from __future__ import annotations

from syncd.errors import Indivisible, Misconfigured, ProviderError, Unintelligible
from syncd.providers.clevercampaign_answers import Told, made_id
from syncd.providers.clevercampaign_calls import Calls
from syncd.providers.clevercampaign_reading import Account
from syncd.providers.clevercampaign_scan import names
from syncd.providers.clevercampaign_translate import list_name


async def create(calls: Calls, account: Account, name: str) -> str:
    """Make a list; its id, from the answer or else by its name."""
    sent = _checked(name)
    told = await calls.create_list(sent)
    if told.kind == "gone":
        raise Misconfigured(f"POST answered 404 ({told.text}): correct list_path", status=404)
    if told.kind not in ("done", "there"):
        raise _refused(told)
    if told.kind == "done" and (
        made := made_id(told.answer, calls.options, calls.options.list_path)
    ):
        return made
    alike = [one for one, called in (await names(account, calls.options)).items() if called == sent]
    if len(alike) == 1:
        return alike[0]
    if told.kind == "there":
        raise Indivisible(f"a list of that name exists and is not shown: {told.text}")
    raise Unintelligible(f"{len(alike)} lists are called like the one just made")


async def rename(calls: Calls, list_id: str, name: str) -> None:
    told = await calls.rename_list(list_id, _checked(name))
    if told.kind != "done":
        raise _refused(told)


async def delete(calls: Calls, list_id: str) -> None:
    """What is not there any more is deleted."""
    told = await calls.delete_list(list_id)
    if told.kind not in ("done", "gone"):
        raise _refused(told)


def _checked(name: str) -> str:
    if sent := list_name(name):
        return sent
    raise Indivisible("the list's name is empty")


def _refused(told: Told) -> ProviderError:
    return Indivisible(told.text, status=told.status)
