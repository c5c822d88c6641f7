"""CleverCampaign's REST API: contacts by POST, PUT and DELETE; a salt signed anew each request.

Experimental: one page of documentation is all there is. What rests on it is written; what does not
is read, or switched on by `options`. Sections quoted as (5) are the wire reference's. The parts of
this adapter: the table of names in `clevercampaign_settings`, what an answer means in
`clevercampaign_answers`, whether the account can be read in `clevercampaign_reading`, a contact to
be there in `clevercampaign_push`, one to leave in `clevercampaign_leave`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from functools import partial
from typing import Any, ClassVar, Literal

from syncd.errors import ProviderError, Transient
from syncd.model import (
    Answer,
    Can,
    Change,
    Comparer,
    Cost,
    Erased,
    Finding,
    Found,
    Learned,
    Meter,
    Outcome,
    Page,
    Postponed,
    Request,
    Seen,
    Traits,
    Verb,
)
from syncd.providers import Credential, Options, Ordinary, Wire, of_account
from syncd.providers import clevercampaign_answers as answers
from syncd.providers import clevercampaign_check as check
from syncd.providers import clevercampaign_lists as lists
from syncd.providers.clevercampaign_calls import METER, Calls
from syncd.providers.clevercampaign_leave import Leave, withdraw_by_status
from syncd.providers.clevercampaign_push import Put
from syncd.providers.clevercampaign_reading import Account
from syncd.providers.clevercampaign_scan import Scan, names, seen
from syncd.providers.clevercampaign_settings import (
    BASE_URL,
    CleverCampaignCredential,
    CleverCampaignOptions,
)
from syncd.providers.clevercampaign_sign import fresh_salt, signature
from syncd.providers.clevercampaign_translate import unlike
from syncd.providers.clevercampaign_work import LATER, Work, halfway

OF_LISTS = Can.LISTS | Can.RENAME_LIST | Can.DELETE_LIST
OF_SEARCH = Can.FIND | Can.SEES_GONE


class CleverCampaign(Ordinary):
    """Updates and deletes may be repeated, creates may not; nobody knows what else it does."""

    name: ClassVar[str] = "clevercampaign"
    options_model: ClassVar[type[Options]] = CleverCampaignOptions
    credential_model: ClassVar[type[Credential]] = CleverCampaignCredential
    traits: ClassVar[Traits] = of_account(
        Traits(
            batch=1,
            meters={METER: Meter(per_second=5.0, in_flight=4)},  # polite: none is documented (4)
            key="remote id",
            can=OF_SEARCH
            | OF_LISTS
            | Can.SCAN
            | Can.ERASE
            | Can.RESUBSCRIBE
            | Can.COMPARE
            | Can.WHOLE,
            visible_after=2.0,
            default_fields={"firstname": "first_name", "lastname": "last_name"},
            scans="account, then lists",
            whole_pages=True,
            creating=Cost(2.0),  # one is never sent unseen
        )
    )

    def __init__(
        self,
        wire: Wire,
        options: CleverCampaignOptions,
        findings: Mapping[str, Any],  # noqa: ARG002  reading is tried anew at every start
    ) -> None:
        self._options = options
        self._calls = Calls(wire, options)
        self._account = Account(self._calls)

    def traits_here(self, most: Traits) -> Traits:
        """What is left of it in this account, as far as that is known by now (3)."""
        can = most.can
        if not self._options.lists_enabled:
            can &= ~OF_LISTS
        if self._account.search is False:
            can &= ~(OF_SEARCH | Can.WHOLE)
        if self._account.pages is False:
            can &= ~Can.SCAN
        creating = Cost(2.0, a_list=1.0) if self._options.lists_enabled else most.creating
        return replace(most, can=can, creating=creating)

    @classmethod
    def base_url(cls, options: CleverCampaignOptions) -> str:
        """One host, no version (1)."""
        return options.base_url or BASE_URL

    @classmethod
    def scope(cls, options: CleverCampaignOptions, credential: CleverCampaignCredential) -> str:  # noqa: ARG003
        """One pair of keys an account (2)."""
        return credential.api_key.get_secret_value()

    @classmethod
    def judge(cls, request: Request, answer: Answer) -> ProviderError | Literal["ok"] | None:
        """Section 7."""
        return answers.judged(request, answer)

    async def check(self) -> Sequence[Finding]:
        """A page and a search: they tell refused keys from wrong names (3)."""
        return await check.findings(self._calls, self._account)

    async def learn(self) -> Learned | None:
        """The start-up probe (3). What it finds is not kept: reading is tried at every start."""
        await self._account.know()
        return None

    async def push(self, changes: Sequence[Change]) -> Sequence[Outcome]:
        """One request for each contact; before a create another one."""
        return [await self._pushed(change) for change in changes]

    async def _pushed(self, change: Change) -> Outcome:
        await self._account.know()
        work = Work(self._calls, self._account, change)
        try:
            return await _errand(work)
        except ProviderError as err:
            if work.contact_id is not None and err.may_be_applied and not work.account.can_be_read:
                # By its id it may be repeated, and no look-up could end a doubt (5).
                return Postponed(f"{err.reason}: sent again later", min(max(err.after, 5), LATER))
            if work.applied:
                raise halfway(err) from err
            raise

    async def find(self, changes: Sequence[Change]) -> Sequence[Found]:
        """By id where one is known, else by address."""
        return [await self._found(change) for change in changes]

    async def _found(self, change: Change) -> Found:
        work = Work(self._calls, self._account, change)
        there = [self._told(work, record) for record in await self._looked_for(work)]
        return replace(there[0], twins=there[1:]) if there else Found(None)

    def _told(self, work: Work, record: answers.Record) -> Found:
        email = answers.email_of(record, self._options) or None
        told = seen(record, self._options)
        no = work.refusal([record])
        return Found(
            {"id": self._id(record)}, email, no, mailed=told.subscribed, fields=told.fields
        )

    async def read_whole(self, changes: Sequence[Change]) -> Sequence[Seen | None]:
        """As `find`, with everything that the record tells; lists are told by pages only."""
        return [await self._whole(change) for change in changes]

    async def _whole(self, change: Change) -> Seen | None:
        there = await self._looked_for(Work(self._calls, self._account, change))
        if not there:
            return None
        return replace(seen(there[0], self._options), contact_id=change.contact_id)

    async def comparer(self) -> Comparer:
        return partial(unlike, self._options)

    async def _looked_for(self, work: Work) -> Sequence[answers.Record]:
        """The record with its id, or all those under its addresses: the likeliest first."""
        record = None if work.contact_id is None else await self._account.by_id(work.contact_id)
        if record is not None:
            return [record]
        found: list[answers.Record] = []
        for email in work.emails:
            there = await self._account.at(email)
            found += await self._paged_for(email) if there is None else there
        return sorted(found, key=lambda one: self._id(one) != work.contact_id)

    async def _paged_for(self, email: str) -> Sequence[answers.Record]:
        """The search has just turned out not to work: this once, everybody is looked at."""
        if not self._account.pages:
            raise Transient("contacts can be neither searched nor paged: see `syncd check`")
        found = []
        async for _, page in self._account.paged(self._options.contact_path):
            found += [one for one in page if answers.email_of(one, self._options) == email]
        return found

    def _id(self, record: answers.Record) -> str | None:
        return answers.record_id(record, self._options)

    async def erased(self, change: Change, since: datetime) -> Erased:  # noqa: ARG002
        """GET must be 404 (6); which proves something only where others can be read."""
        contact_id, person = (change.remote or {}).get("id"), change.was
        if contact_id is None and (person is None or not person.email):
            return Erased(confirmed=True)  # nothing was known to delete, or to look for
        here = "CleverCampaign was told to delete the contact"
        found = None if person is None else await self._account.at(person.email)
        if found is not None and contact_id is None:
            left = ", ".join(str(answers.record_id(one, self._options)) for one in found)
            if not left:
                return Erased(confirmed=True)
            still = f"and still shows {left}: delete it in its web interface."
            return Erased(by_hand=f"{here}, {still}")
        if contact_id is None or not await self._account.reads_items():
            return Erased(
                by_hand=f"{here}, which cannot be read back: look for the address among the "
                "contacts in its web interface, and delete what is found.",
                vague=True,
            )
        if await self._account.by_id(str(contact_id)) is None:
            return Erased(confirmed=True)
        return Erased(
            by_hand=f"{here} with id {contact_id}, and still shows it: delete it in its web "
            "interface."
        )

    async def scan(
        self, list_id: str | None, cursor: Mapping[str, Any] | None
    ) -> AsyncIterator[Page]:
        """Everybody; then, where lists are kept, who is in which."""
        assert list_id is None, "the account is read as a whole"
        async for page in Scan(self._calls, self._account).pages(cursor):
            yield page

    @classmethod
    def remembered(
        cls,
        remote: Mapping[str, Any] | None,  # noqa: ARG003
        list_id: str | None,  # noqa: ARG003
        seen: Seen,
    ) -> Mapping[str, Any]:
        """The id; whoever is seen is not gone."""
        return {"id": seen.remote_id}

    async def lists(self) -> Mapping[str, str]:
        return await names(self._account, self._options)

    async def create_list(self, name: str) -> str:
        return await lists.create(self._calls, self._account, name)

    async def rename_list(self, remote_id: str, name: str) -> None:
        await lists.rename(self._calls, remote_id, name)

    async def delete_list(self, remote_id: str) -> None:
        await lists.delete(self._calls, remote_id)

    @classmethod
    def sign(cls, credential: CleverCampaignCredential, request: Request) -> Mapping[str, str]:  # noqa: ARG003
        """A salt for this one request; neither method, address nor body is signed (2)."""
        salt = fresh_salt()
        return {
            "publickey": credential.api_key.get_secret_value(),
            "salt": salt,
            "signature": signature(credential.secret_key.get_secret_value(), salt),
        }


async def _errand(work: Work) -> Outcome:
    verb, want = work.change.verb, work.change.want
    by_status = work.options.write_unsubscribe
    if verb is Verb.PUT and want is not None and (want.subscribed or by_status):
        return await Put(work, want).run()
    if verb is not Verb.ERASE and want is None and (no := await work.unread_no()):
        return no
    if verb is Verb.WITHDRAW and by_status:
        return await withdraw_by_status(work)
    return await Leave(work).run()
