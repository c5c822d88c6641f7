"""Constant Contact web services v1: HTTP Digest, Atom documents, bulk jobs; the address is the key.

Sections quoted as (5) are the wire reference's. The other parts of this adapter: the challenge is
in `constantcontact_digest`, documents in `_atom`, what a contact becomes in `_translate`, requests
in `_calls`, one contact in `_single`, bulk jobs in `_jobs` and `_export`, what an answer means in
`_answers`.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, ClassVar, Literal
from urllib.parse import quote

from pydantic import Field, SecretStr, field_validator

from syncd.errors import ProviderError
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
    Notice,
    OptedOut,
    Outcome,
    Page,
    Request,
    Seen,
    Started,
    Traits,
    Verb,
)
from syncd.providers import Credential, Options, Ordinary, Signer, Wire, not_proved
from syncd.providers import constantcontact_answers as answers
from syncd.providers import constantcontact_lists as lists
from syncd.providers.constantcontact_calls import FIRST_PAGE, METER, Calls
from syncd.providers.constantcontact_calls import Person as Record
from syncd.providers.constantcontact_digest import DigestState
from syncd.providers.constantcontact_export import Exports
from syncd.providers.constantcontact_jobs import Jobs, later, suits
from syncd.providers.constantcontact_single import (
    BY_OWNER,
    Known,
    Single,
    evidence,
    number_for,
)
from syncd.providers.constantcontact_translate import LENGTHS, Rules, address_of, unlike

AT_ONCE = 4  # contacts looked after side by side; the meter decides how many requests leave
SINGLES = 24  # contacts one by one in a push: more, and progress would be kept too rarely
MOST_LISTS = 100  # to be kept under (4)
OVERLAP = timedelta(minutes=5)
BEGINNING = datetime(1990, 1, 1, tzinfo=UTC)


class ConstantContactOptions(Options):
    """`options` of a destination; config/ holds an annotated example."""

    phone_as: Literal["WorkPhone", "HomePhone"] = "WorkPhone"
    state_as: Literal["auto", "StateName"] = "auto"
    bulk_from: int = Field(default=25, ge=25)  # below it the provider forbids jobs (4)
    poll_seconds: float = Field(default=5.0, gt=0, le=600)


class ConstantContactCredential(Credential):
    """The key of the application, and a customer's login."""

    api_key: SecretStr
    username: str
    password: SecretStr

    @field_validator("api_key")
    @classmethod
    def _stripped(cls, secret: SecretStr) -> SecretStr:
        text = secret.get_secret_value().strip()
        if not text or not text.isascii() or not text.isprintable() or "%" in text or ":" in text:
            raise ValueError("is empty, or holds what no API key does")
        return SecretStr(text)

    @field_validator("username")
    @classmethod
    def _fits(cls, text: str) -> str:
        text = text.strip()
        if not text or not text.isprintable() or ":" in text or "/" in text:
            raise ValueError("is empty, or holds what no user name does")
        return text

    @field_validator("password")
    @classmethod
    def _is_there(cls, secret: SecretStr) -> SecretStr:
        text = secret.get_secret_value()
        if not text or not text.isprintable():
            raise ValueError("is empty, or holds what no password does")
        return secret


class ConstantContact(Ordinary):
    """Every write may be repeated; a no is final there; jobs carry what adds and changes."""

    name: ClassVar[str] = "constantcontact"
    options_model: ClassVar[type[Options]] = ConstantContactOptions
    credential_model: ClassVar[type[Credential]] = ConstantContactCredential
    traits: ClassVar[Traits] = Traits(
        batch=5000,
        meters={METER: Meter(per_second=4.0, in_flight=4, per_day=10_000)},
        key="address",
        can=(
            Can.REPEAT
            | Can.FIND
            | Can.SCAN
            | Can.ERASE
            | Can.LISTS
            | Can.RENAME_LIST
            | Can.DELETE_LIST
            | Can.OPT_OUT
            | Can.JOBS
            | Can.COMPARE
            | Can.WHOLE
            | Can.EXPORT
        ),
        needs_list=True,
        page=50,
        export_from=25,
        creating=Cost(6.0),
        changing=Cost(6.0),
        default_fields={
            "FirstName": "first_name",
            "LastName": "last_name",
            "CompanyName": "company",
            "Phone": "phone",
            "Address": "address",
            "City": "city",
            "State": "state",
            "PostalCode": "postal_code",
            "Country": "country",
        },
    )

    def __init__(
        self,
        wire: Wire,
        options: ConstantContactOptions,
        findings: Mapping[str, Any],  # noqa: ARG002  nothing is found out about the account
    ) -> None:
        self._options = options
        self._calls = Calls(wire)
        self._rules = Rules(options.phone_as, options.state_as)
        self._jobs = Jobs(self._calls, self._rules, options.poll_seconds)
        self._exports = Exports(self._calls, self._jobs, options.poll_seconds)

    @classmethod
    def base_url(cls, options: ConstantContactOptions) -> str:
        """One region, no version in the path (1)."""
        return options.base_url or "https://api.constantcontact.com"

    @classmethod
    def scope(cls, options: ConstantContactOptions, credential: ConstantContactCredential) -> str:  # noqa: ARG003
        """The quota is the API key's, over all accounts that share it (4)."""
        return credential.api_key.get_secret_value()

    @classmethod
    def account(cls, credential: ConstantContactCredential) -> str:
        """It is in every address (1)."""
        return credential.username.lower()

    @classmethod
    def judge(cls, request: Request, answer: Answer) -> ProviderError | Literal["ok"] | None:
        """Section 7."""
        return answers.judged(request, answer)

    async def check(self) -> Sequence[Finding]:
        """The service document proves the credentials; the lists are counted."""
        try:
            await self._calls.account()
            there = await self.lists()
        except ProviderError as err:
            return not_proved(err, _remedy(err))
        found = [Finding("credentials", "ok", f"accepted; {len(there)} lists there")]
        if len(there) > MOST_LISTS:
            says = f"{len(there)} lists; the provider advises to stay under {MOST_LISTS}"
            remedy = "select fewer lists for this destination, or tidy up there"
            found.append(Finding("lists", "warning", says, remedy))
        alike = Counter(name.casefold() for name in there.values())
        if twice := sorted(name for name, times in alike.items() if times > 1):
            says = f"{len(twice)} names differ in capitals only, among them {twice[0]!r}"
            remedy = "rename them: whether the provider tells them apart is not documented"
            found.append(Finding("lists", "warning", says, remedy))
        return found

    async def learn(self) -> Learned | None:
        """The credentials must work before anything is written; there is nothing to remember."""
        await self._calls.account()
        return None

    # ── Push ────────────────────────────────────────────────────────────────────────────────

    async def push(self, changes: Sequence[Change]) -> Sequence[Outcome]:
        """Jobs where there are enough for them, the rest one by one, a few at a time.

        What has to wait comes back through `resume`, as jobs do.
        """
        bulk = [n for n, one in enumerate(changes) if suits(one, self._rules)]
        if len(bulk) < self._options.bulk_from:
            bulk = []
        rest = sorted(set(range(len(changes))) - set(bulk))
        done: dict[int, Outcome] = {}
        if bulk:
            begun = await self._jobs.start([changes[n] for n in bulk])
            done = dict(zip(bulk, begun, strict=True))
        elif rest:
            some, rest = rest[:SINGLES], rest[SINGLES:]
            outcomes = await self._one_by_one([changes[n] for n in some])
            done = dict(zip(some, outcomes, strict=True))
        for start in range(0, len(rest), SINGLES):
            done |= dict.fromkeys(rest[start : start + SINGLES], later(single=True))
        return [done[n] for n in range(len(changes))]

    async def resume(
        self, receipt: Mapping[str, Any], changes: Sequence[Change]
    ) -> Sequence[Outcome]:
        """Look at a job; or take up what was put off."""
        if "jobs" in receipt:
            return await self._jobs.resume(receipt, changes)
        if "single" in receipt:
            return await self._one_by_one(changes)
        return await self.push(changes)

    async def _one_by_one(self, changes: Sequence[Change]) -> Sequence[Outcome]:
        """Where some are done and others met a fault, only these are put off."""
        single = Single(self._calls, self._rules, await self._searched(changes))
        gate = asyncio.Semaphore(AT_ONCE)

        async def run(change: Change) -> Outcome | ProviderError:
            async with gate:
                try:
                    return await single.run(change)
                except ProviderError as err:
                    return err

        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(run(change)) for change in changes]
        told = [task.result() for task in tasks]
        faults = [one for one in told if isinstance(one, ProviderError)]
        if faults and (len(faults) == len(told) or any(one.may_be_applied for one in faults)):
            raise max(faults, key=lambda one: (one.may_be_applied, one.needs_a_person))
        waits = later(max((one.after for one in faults), default=0.0) or 1.0, single=True)
        return [waits if isinstance(one, ProviderError) else one for one in told]

    async def _searched(self, changes: Sequence[Change]) -> Known:
        """Those whose record's number is not known, fifty a request; None: not there."""
        asked = []
        for change in changes:
            was, want = change.was, change.want
            is_new = was is None and change.may_create and not change.doubtful
            for person in () if is_new else (want, was):
                email = "" if person is None else address_of(person.email)
                if email and number_for(change, email) is None:
                    asked.append(email)
        if not asked:
            return {}
        found: dict[str, Record] = await self._calls.search(sorted(set(asked)))
        return {email: found.get(email) for email in asked}

    # ── Reading back ────────────────────────────────────────────────────────────────────────

    async def find(self, changes: Sequence[Change]) -> Sequence[Found]:
        """By address, in whatever status; who is to leave lists is looked for in these."""
        emails = [address_of(person.email) if (person := one.want or one.was) else ""
                  for one in changes]  # fmt: skip
        known = await self._calls.search(sorted({one for one in emails if one}))
        return [
            await self._found(change, known.get(email))
            for change, email in zip(changes, emails, strict=True)
        ]

    async def _found(self, change: Change, record: Record | None) -> Found:
        if record is None:
            return Found(None)
        if record.is_opted_out:
            no = OptedOut(evidence={"Status": record.status})
            return Found({"id": record.number}, record.email, no)
        if change.verb is Verb.WITHDRAW and change.was is not None and change.was.lists:
            whole = await self._calls.contact(record.number)
            if whole is None or whole.lists.keys().isdisjoint(change.was.lists.values()):
                return Found(None)
        return Found({"id": record.number}, record.email)

    async def opt_outs(self, since: datetime | None) -> AsyncIterator[Sequence[Notice]]:
        """Who is on Do Not Mail and was changed since; readings overlap (8)."""
        begin = BEGINNING if since is None else since.astimezone(UTC) - OVERLAP
        met: set[str] = set()
        async for people in self._calls.updated(begin, "do-not-mail"):
            fresh = [one for one in people if one.number not in met and one.is_opted_out]
            met |= {one.number for one in fresh}
            yield [await self._notice(one, since is not None) for one in fresh]

    async def _notice(self, record: Record, with_time: bool) -> Notice:
        """with_time: pages do not tell it, and a first reading may meet very many."""
        told: Mapping[str, str] = {"Status": record.status}
        if with_time and (whole := await self._calls.contact(record.number)) is not None:
            told = evidence(whole)
        source = told.get("OptOutSource")
        by_person = None if source is None else source != BY_OWNER
        when = _occurred_at(told)
        return Notice(None, record.email, "unsubscribed", when, None, told, by_person)

    async def scan(
        self, list_id: str | None, cursor: Mapping[str, Any] | None
    ) -> AsyncIterator[Page]:
        """Who is in a list, fifty a page; or everybody, with the one status that pages tell."""
        target = "/contacts" if list_id is None else f"/lists/{list_id}/members"
        kind = "Contact" if list_id is None else "ContactListMember"
        begin = str((cursor or {}).get("next") or target)
        async for entries, following in self._calls.pages(begin, kind):
            seen = [
                Seen(
                    one.number,
                    address_of(one.text("EmailAddress")) or None,
                    False if one.text("Status").casefold() == "do not mail" else None,
                    lists=() if list_id is None else (list_id,),
                )
                for one in entries
            ]
            yield Page(seen, {"next": following or begin})

    async def read_whole(self, changes: Sequence[Change]) -> Sequence[Seen | None]:
        """Pages tell neither fields nor all lists: one request a contact (3)."""
        return [await self._whole(change) for change in changes]

    async def _whole(self, change: Change) -> Seen | None:
        number = (change.remote or {}).get("id")
        if number is None and (person := change.want or change.was) is not None:
            email = address_of(person.email)
            record = (await self._calls.search([email])).get(email) if email else None
            number = None if record is None else record.number
        whole = None if number is None else await self._calls.contact(str(number))
        if whole is None:
            return None
        status = whole.text("Status").casefold()
        return Seen(
            whole.number,
            address_of(whole.text("EmailAddress")) or None,
            {"do not mail": False, "active": True}.get(status),
            change.contact_id,
            tuple(whole.lists),
            evidence(whole),
            {name: whole.text(name) for name in LENGTHS},
        )

    async def export(
        self, list_id: str, receipt: Mapping[str, Any] | None
    ) -> Started | Mapping[str, Mapping[str, Any]]:
        """The only way to read fields of many; who is seen to differ is best read alone after."""
        return await self._exports.step(list_id, receipt)

    async def comparer(self) -> Comparer:
        return partial(unlike, self._rules)

    @classmethod
    def remembered(
        cls,
        remote: Mapping[str, Any] | None,
        list_id: str | None,  # noqa: ARG003
        seen: Seen,
    ) -> Mapping[str, Any]:
        """The record's number; the same in every list."""
        return {**(remote or {}), "id": seen.remote_id}

    async def erased(self, change: Change, since: datetime) -> Erased:  # noqa: ARG002
        """The address stays there for ever, whatever is done by this interface (6)."""
        number, person = (change.remote or {}).get("id"), change.was
        if number is None:
            if person is None or not person.email:
                return Erased(confirmed=True)  # nothing was known to empty, or to look for
            found = await self._calls.search([address_of(person.email)])
            if not found:
                return Erased(confirmed=True)  # it never was there
            number = found[address_of(person.email)].number
        whole = await self._calls.contact(str(number))
        if whole is None:
            return Erased(confirmed=True)
        left = [name for name in LENGTHS if name != "EmailType" and whole.text(name)]
        still = f" It still has {', '.join(left)}." if left else ""  # of who said no before
        return Erased(
            by_hand="Constant Contact was told to empty every field and list of the contact, which "
            f"it refuses where the person has said no before.{still} The address cannot be removed "
            f"by the API at all. Have Constant Contact's support erase contact {number}."
        )

    # ── Lists ───────────────────────────────────────────────────────────────────────────────

    async def lists(self) -> Mapping[str, str]:
        return {number: one.text("Name") for number, one in (await self._calls.lists()).items()}

    async def create_list(self, name: str) -> str:
        return await lists.create(self._calls, name)

    async def rename_list(self, remote_id: str, name: str) -> None:
        await lists.rename(self._calls, remote_id, name)

    async def delete_list(self, remote_id: str) -> None:
        await lists.delete(self._calls, remote_id)

    # ── Signing ─────────────────────────────────────────────────────────────────────────────

    @classmethod
    def signer(cls) -> Signer:
        """One nonce an account, primed by the cheapest read (2.8)."""
        return DigestState(FIRST_PAGE)

    @classmethod
    def complete(cls, credential: ConstantContactCredential, request: Request) -> Request:
        """Below the customer's own root; the user's name is part of every path."""
        user = quote(credential.username, safe="@")
        return replace(request, target=f"/ws/customers/{user}{request.target}")

    @classmethod
    def sign(cls, credential: Credential, request: Request) -> Mapping[str, str]:  # noqa: ARG003
        """Nothing: what proves the password answers a challenge, see `signer`."""
        return {}


def _occurred_at(told: Mapping[str, str]) -> datetime | None:
    """When the no was said, if that is told."""
    try:
        moment = datetime.fromisoformat(told.get("OptOutTime", ""))
    except ValueError:
        return None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _remedy(err: ProviderError) -> str:
    if not err.needs_a_person:
        return "try again later"
    if "Digest" in err.reason:
        return "ask Constant Contact which interface the account may use, and set base_url to it"
    return (
        "compare the API key, the user name (as the account has it) and the password "
        "with those of the account, and base_url with the interface's host"
    )
