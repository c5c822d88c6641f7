"""What `check` finds out about a CleverCampaign account, and what to do about it; it only reads."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from syncd.errors import ProviderError
from syncd.model import Finding
from syncd.providers.clevercampaign_calls import Calls
from syncd.providers.clevercampaign_reading import Account
from syncd.providers.clevercampaign_scan import names


async def findings(calls: Calls, account: Account) -> Sequence[Finding]:
    """A page and a search: they tell refused keys from wrong names (reference, section 3)."""
    try:
        await account.know()
        await calls.page(calls.options.contact_path, calls.options.first_page, 1)
    except ProviderError as err:
        return [Finding("credentials", "error", err.reason, _remedy(err), err.exit_code)]
    if calls.fault:
        remedy = "compare both keys with the account's settings, and the table in options"
        return [Finding("account", "error", calls.fault, remedy, calls.fault_code)]
    return [*_of_reading(calls, account), await _of_lists(calls, account)]


def _of_reading(calls: Calls, account: Account) -> Iterator[Finding]:
    if account.can_be_read:
        yield Finding("credentials", "ok", "accepted")
    else:
        says = "not refused; but as nothing can be read, that proves little"
        yield Finding("credentials", "warning", says, "see what the first write is answered")
    for road, why in account.why.items():
        remedy = "ask the provider for the name, and set it in options"
        yield Finding(f"reading ({road})", "warning", why, remedy)
    if not (account.can_be_read or calls.options.account_is_empty):
        says = "creates wait: nobody can tell who is in the account already"
        remedy = "correct the names above, or set account_is_empty if nobody is in it"
        yield Finding("account", "warning", says, remedy)


async def _of_lists(calls: Calls, account: Account) -> Finding:
    if not calls.options.lists_enabled:
        says = "contacts only: lists_enabled is off, so memberships are listed as lacking"
        return Finding("lists", "ok", says)
    try:
        there = await names(account, calls.options)
    except ProviderError as err:
        remedy = "correct list_path and list_name_field, or set lists_enabled to false"
        return Finding("lists", "error", err.reason, remedy, err.exit_code)
    twice = sorted(name for name, times in Counter(there.values()).items() if times > 1)
    if twice:
        says = f"{len(twice)} names are borne by two lists or more, among them {twice[0]!r}"
        remedy = "rename them: lists are adopted by name, and of two nobody can choose"
        return Finding("lists", "warning", says, remedy)
    return Finding("lists", "ok", f"{len(there)} there")


def _remedy(err: ProviderError) -> str:
    if not err.needs_a_person:
        return "try again later; the service may also be gone: nobody but its own page knows of it"
    return (
        "compare both keys with those in the account's settings, and base_url with the API's "
        "address; behind a proxy, see whether it passes on the headers publickey, salt, signature"
    )
