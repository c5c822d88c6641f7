"""RedCappi API v1: one membership a request, signed over method, address and body.

Sections quoted as (5) are the wire reference's. An add is not answered with an id, a contact cannot
be searched for: ids come from paging (`redcappi_scan`). The other parts of this adapter: what a
change becomes is in `redcappi_translate`, its requests in `redcappi_push`, what an answer means in
`redcappi_answers`, lists in `redcappi_lists`, the string to sign in `redcappi_sign`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import date, datetime
from typing import Any, ClassVar, Literal

from pydantic import Field, SecretStr, field_validator

from syncd.errors import ProviderError
from syncd.model import (
    Answer,
    Can,
    Change,
    Cost,
    Erased,
    Finding,
    Learned,
    Meter,
    Outcome,
    Page,
    Request,
    Seen,
    Traits,
)
from syncd.providers import Credential, Options, Ordinary, Wire, not_proved
from syncd.providers import redcappi_answers as answers
from syncd.providers import redcappi_lists as lists
from syncd.providers.redcappi_push import METER, Calls, Errand, Scope
from syncd.providers.redcappi_scan import Scan
from syncd.providers.redcappi_sign import authorization, string_to_sign
from syncd.providers.redcappi_translate import Plan, Rules, planned


class RedCappiOptions(Options):
    """`options` of a destination; config/ holds an annotated example."""

    delete_scope: Literal["unknown", "list", "account"] = "unknown"
    name_column: Literal["first last", ""] = "first last"
    offset_unit: Literal["auto", "rows", "pages"] = "auto"
    page_size: int = Field(default=500, ge=2, le=100_000)
    dob_format: str = "%Y-%m-%d"

    @field_validator("dob_format")
    @classmethod
    def _tells_a_day(cls, text: str) -> str:
        try:
            told = {date(y, m, d).strftime(text) for y, m, d in ((2001, 2, 3), (2001, 3, 2))}
        except ValueError:
            told = set()
        if len(told) < 2 or not all(one.isprintable() for one in told):
            raise ValueError("is not a date format such as %Y-%m-%d")
        return text


class RedCappiCredential(Credential):
    """The pair of keys under "Extra" in the dashboard."""

    public_key: SecretStr
    private_key: SecretStr

    @field_validator("public_key", "private_key")
    @classmethod
    def _stripped(cls, secret: SecretStr) -> SecretStr:
        text = secret.get_secret_value().strip()
        if not text or not text.isprintable():
            raise ValueError("is empty, or holds what no key does")
        return SecretStr(text)

    @field_validator("public_key")
    @classmethod
    def _fits_a_header(cls, secret: SecretStr) -> SecretStr:
        text = secret.get_secret_value()
        if not text.isascii() or " " in text or ":" in text:
            raise ValueError("holds what the header cannot carry")
        return secret


class RedCappi(Ordinary):
    """Edits and deletes may be repeated, adds may not; a no shows only by being gone."""

    name: ClassVar[str] = "redcappi"
    options_model: ClassVar[type[Options]] = RedCappiOptions
    credential_model: ClassVar[type[Credential]] = RedCappiCredential
    traits: ClassVar[Traits] = Traits(
        batch=1,
        meters={METER: Meter(per_second=10.0, in_flight=4)},  # polite: none is documented (4)
        key="remote id",
        can=(
            Can.SCAN
            | Can.ERASE
            | Can.LISTS
            | Can.RENAME_LIST
            | Can.DELETE_LIST
            | Can.RESUBSCRIBE  # adding again turns mail on
            | Can.LEARNS
            | Can.SORTS_DOUBT
        ),
        needs_list=True,
        visible_after=1.0,
        page=500,
        creating=Cost(0.0, a_list=1.0),
        changing=Cost(0.0, a_list=1.0),
        default_fields={
            "first_name": "first_name",
            "last_name": "last_name",
            "company": "company",
            "phone": "phone",
            "address": "address",
            "city": "city",
            "state": "state",
            "zip_code": "postal_code",
            "country": "country",
            "dob": "birth_date",
        },
    )

    def __init__(self, wire: Wire, options: RedCappiOptions, findings: Mapping[str, Any]) -> None:
        self._options, self._findings = options, dict(findings)
        self._told = dict(findings)
        self._calls = Calls(wire)
        self._scope = Scope(options.delete_scope, self._findings)
        self._rules = Rules(bool(options.name_column), options.dob_format)

    @property
    def findings(self) -> Mapping[str, Any]:
        """`delete_scope` ('list' or 'account'), `offset_unit`, `offset_from`, `page_size`."""
        return dict(self._findings)

    def found_out(self) -> Mapping[str, Any]:
        """Of `findings`, what the core has not been told yet."""
        if self._findings == self._told:
            return {}
        news = {name: one for name, one in self._findings.items() if self._told.get(name) != one}
        self._told = dict(self._findings)
        return news

    @classmethod
    def base_url(cls, options: RedCappiOptions) -> str:
        """TLS unless the user says otherwise (1)."""
        return options.base_url or "https://api.redcappi.com"

    @classmethod
    def scope(cls, options: RedCappiOptions, credential: RedCappiCredential) -> str:  # noqa: ARG003
        """One pair of keys an account (1)."""
        return credential.public_key.get_secret_value()

    @classmethod
    def judge(cls, request: Request, answer: Answer) -> ProviderError | Literal["ok"] | None:
        """Section 7."""
        return answers.judged(request, answer)

    async def check(self) -> Sequence[Finding]:
        """The lists are read (8); what was found out about deletes is repeated."""
        try:
            there = await self._calls.lists()
        except ProviderError as err:
            return not_proved(err, _remedy(err))
        found = [Finding("credentials", "ok", f"accepted; {len(there)} lists there")]
        twice = sorted(name for name, times in Counter(there.values()).items() if times > 1)
        if twice:
            says = f"{len(twice)} names are borne by two lists or more, among them {twice[0]!r}"
            remedy = "rename them: lists are adopted by name, and of two nobody can choose"
            found.append(Finding("lists", "warning", says, remedy))
        if self._scope.is_known == "account":
            says = "a delete in one list takes the contact out of all: no list is left on its own"
            remedy = "where a contact is in too many lists, mend it in the dashboard"
            found.append(Finding("account", "warning", says, remedy))
        return found

    async def learn(self) -> Learned | None:
        """The start-up probe (8); what can be learned shows while working, see `findings`."""
        await self._calls.lists()
        return None

    async def push(self, changes: Sequence[Change]) -> Sequence[Outcome]:
        """One request for each membership of each change."""
        return [await self._pushed(change) for change in changes]

    async def _pushed(self, change: Change) -> Outcome:
        plan = planned(change, self._rules)
        if not isinstance(plan, Plan):
            return plan
        return await Errand(self._calls, self._scope, plan).run()

    async def erased(self, change: Change, since: datetime) -> Erased:  # noqa: ARG002
        """Each list is asked for the contact; the account's own record cannot be read (6)."""
        ids: Mapping[str, Any] = (change.remote or {}).get("ids") or {}
        if not ids and (change.was is None or not change.was.email):
            return Erased(confirmed=True)  # nothing was known to delete, or to look for
        left = [
            list_id
            for list_id, contact_id in ids.items()
            if contact_id is not None
            and await self._calls.contact(str(list_id), str(contact_id)) is not None
        ]
        still = f" It is still in list {', '.join(left)}: delete it there." if left else ""
        return Erased(
            by_hand="RedCappi was told to delete the contact from every list that held it."
            f"{still} Whether the account keeps a record of it cannot be read: look for the "
            "address under Contacts in the dashboard, and delete what is found.",
            vague=not left,
        )

    async def scan(
        self, list_id: str | None, cursor: Mapping[str, Any] | None
    ) -> AsyncIterator[Page]:
        """Ids and addresses, list by list; nothing else can be read (3)."""
        forced = self._options.offset_unit
        unit = self._findings.get("offset_unit") if forced == "auto" else forced
        scan = Scan(self._calls, unit, self._options.page_size, self._findings)
        async for page in scan.pages(list_id, cursor):
            self._findings.update(page.findings)
            yield page

    @classmethod
    def remembered(
        cls, remote: Mapping[str, Any] | None, list_id: str | None, seen: Seen
    ) -> Mapping[str, Any]:
        """The id is one of a membership: it may be another in each list (5)."""
        known = remote or {}
        there = [list_id] if list_id is not None else seen.lists
        return {**known, "ids": {**known.get("ids", {}), **dict.fromkeys(there, seen.remote_id)}}

    async def lists(self) -> Mapping[str, str]:
        return await self._calls.lists()

    async def create_list(self, name: str) -> str:
        return await lists.create(self._calls, name)

    async def rename_list(self, remote_id: str, name: str) -> None:
        await lists.rename(self._calls, remote_id, name)

    async def delete_list(self, remote_id: str) -> None:
        await lists.delete(self._calls, remote_id)

    @classmethod
    def sign(cls, credential: RedCappiCredential, request: Request) -> Mapping[str, str]:
        """The whole request is signed, its body included; there is no time in it (2)."""
        signed = string_to_sign(request.method, request.target, request.body)
        return {
            "Authorization": authorization(
                credential.public_key.get_secret_value(),
                credential.private_key.get_secret_value(),
                signed,
            ),
            "Content-Type": "application/json; charset=UTF-8",
        }


def _remedy(err: ProviderError) -> str:
    if not err.needs_a_person:
        return "try again later; the service may also be gone: it moved from its old site before"
    return (
        'compare both keys with those under "Extra" in the dashboard (a new pair ends the old one '
        "at once), and base_url with the API's address"
    )
