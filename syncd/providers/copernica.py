"""Copernica REST API v1 to v4: profiles in one database, one a call, found by a key field of ours.

Sections quoted as (3e) are the wire reference's. Parts of this adapter: what a change becomes is in
`copernica_translate`, its requests in `copernica_push` and `copernica_calls`, whose profile one is
in `copernica_find`, what the database is like in `copernica_database`, what an answer means in
`copernica_answers`, lists in `copernica_lists`, the credential in `copernica_sign`.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import datetime, timedelta
from functools import partial
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, Field, SecretStr, field_validator, model_validator

from syncd.errors import Indivisible, Misconfigured, ProviderError
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
    Outcome,
    Page,
    Request,
    Seen,
    Traits,
)
from syncd.providers import (
    Credential,
    Exchange,
    Grant,
    Options,
    Ordinary,
    Owner,
    Wire,
    not_proved,
    of_account,
)
from syncd.providers import copernica_answers as answers
from syncd.providers import copernica_sign as signing
from syncd.providers.copernica_alive import Alive
from syncd.providers.copernica_calls import METER, Calls, Unsafe, Version, condition
from syncd.providers.copernica_database import Database, Ours, Place
from syncd.providers.copernica_find import Finder, evidence, no_of
from syncd.providers.copernica_lists import Lists
from syncd.providers.copernica_push import Errand
from syncd.providers.copernica_translate import clock, unlike
from syncd.words import count, listed

OVERLAP = timedelta(hours=3)  # of readings: an hour comes twice when summer ends (4)
HOST = "https://api.copernica.com"
AUTHORIZE = "https://www.copernica.com/en/authorize"

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,59}")
_SAFE = re.compile(r"https://[^/\s?#@]+|http://(localhost|127\.[\d.]+|\[::1\])(:\d+)?(/|$)")
_RESERVED = frozenset({"id", "code", "modified"})


class CopernicaOptions(Options):
    """`options` of a destination; config/ holds an annotated example."""

    version: Version = "v1"
    database: str = Field(min_length=1)
    key_field: str = "sync_id"
    lists_as: Literal["field", "interest"] | None = None
    list_prefix: str = "list_"
    interest_group: str = Field(default="syncd", min_length=1)
    subscribed_values: Mapping[str, str] = Field(default_factory=dict)
    # Where credentials come from is nothing that contacts are sent anew for.
    account: str = Field(default="", exclude=True)
    auth_url: str = Field(default="https://authenticate.copernica.com", exclude=True)
    authorize_url: str = Field(default=AUTHORIZE, exclude=True)

    @field_validator("key_field", "list_prefix")
    @classmethod
    def _is_a_name(cls, name: str) -> str:
        if not _NAME.fullmatch(name) or name.lower() in _RESERVED:
            raise ValueError("is not the name of a field that can be made (letters, digits and _)")
        return name

    @model_validator(mode="after")
    def _fits_together(self) -> CopernicaOptions:
        if self.version == "v1" and self.lists_as == "interest":
            raise ValueError("lists_as: v1 cannot rename or delete interests; use 'field', or v2")
        if self.key_field.lower().startswith(self.list_prefix.lower()):
            raise ValueError("list_prefix: the key field would look like a list")
        for name in ("auth_url", "authorize_url"):
            url = getattr(self, name)
            if not _SAFE.match(url) and not (self.allow_http and url.startswith("http://")):
                raise ValueError(f"{name}: must be https, or on this machine")
        return self

    @property
    def ours(self) -> Ours:
        """What of the database is syncd's."""
        lists_as = self.lists_as or ("field" if self.version == "v1" else "interest")
        prefix = self.list_prefix if lists_as == "field" else None
        return Ours(self.key_field, self.subscribed_values, prefix, self.interest_group)


def _stripped(secret: SecretStr) -> SecretStr:
    text = secret.get_secret_value().strip()
    if not text or not text.isprintable():
        raise ValueError("is empty, or holds what no token does")
    return SecretStr(text)


Token = Annotated[SecretStr, AfterValidator(_stripped)]


class CopernicaApplication(Credential):
    """An application that the account's users let in: `syncd authorize` (2a)."""

    client_id: str = Field(min_length=1)
    client_secret: Token


class CopernicaCredential(Credential):
    """A token, made in the dashboard or by `syncd authorize`; it never expires. The keys of the
    application may lie beside it, for the next time."""

    access_token: Token
    client_id: str | None = None
    client_secret: Token | None = None


class CopernicaPass(CopernicaCredential):
    """The token with the JWT that was given for it (v4)."""

    jwt: SecretStr


class Copernica(Ordinary):
    """Updates go by id, creates by our key; a no is what unsubscribing writes into the fields."""

    name: ClassVar[str] = "copernica"
    options_model: ClassVar[type[Options]] = CopernicaOptions
    credential_model: ClassVar[type[Credential]] = CopernicaCredential
    application_model: ClassVar[type[Credential]] = CopernicaApplication
    traits: ClassVar[Traits] = of_account(
        Traits(
            batch=1,
            meters={METER: Meter(in_flight=4)},  # no limit is documented (4)
            key="ours",
            can=(
                Can.FIND
                | Can.SCAN
                | Can.ERASE
                | Can.LISTS
                | Can.RENAME_LIST
                | Can.DELETE_LIST
                | Can.OPT_OUT
                | Can.RESUBSCRIBE
                | Can.SEES_GONE
                | Can.FIELDS
                | Can.COMPARE
            ),
            visible_after=5.0,
            default_fields={
                "first_name": "first_name",
                "last_name": "last_name",
                "company": "company",
                "phone": "phone",
                "address": "address",
                "city": "city",
                "state": "state",
                "zip": "postal_code",
                "country": "country",
                "birth_date": "birth_date",
            },
            lists_by_name=True,
            scans="account",
            whole_pages=True,
            creating=Cost(2.0),  # a look by the address, and the write
        )
    )

    def __init__(self, wire: Wire, options: CopernicaOptions, findings: Mapping[str, Any]) -> None:
        self._options, self._findings = options, findings
        self._calls = Calls(wire, options.version, options.database)
        self._place = Place(self._calls, options.ours)
        self._alive, self._finder = Alive(self._calls), Finder(self._calls)
        self._lists = Lists(self._calls, self._place)

    def traits_here(self, most: Traits) -> Traits:
        """Interests are one request more, whichever they are."""
        if self._options.ours.prefix is not None:
            return most
        return replace(most, creating=replace(most.creating, a_list=1.0, most_lists=1))

    @classmethod
    def base_url(cls, options: CopernicaOptions) -> str:
        """One region (1)."""
        return options.base_url or HOST

    @classmethod
    def scope(cls, options: CopernicaOptions, credential: CopernicaCredential) -> str:  # noqa: ARG003
        """Calls are counted per account, which only an answer tells: the token stands for it."""
        return credential.access_token.get_secret_value()

    @classmethod
    def judge(cls, request: Request, answer: Answer) -> ProviderError | Literal["ok"] | None:
        """Section 7."""
        return answers.judged(request, answer)

    # ── Check, learn ────────────────────────────────────────────────────────────────────────

    async def check(self) -> Sequence[Finding]:
        """Whose token it is, the database, how it unsubscribes, and what has been mapped so far."""
        try:
            account = " ".join(await self.owner()).strip()
            found = [Finding("credentials", "ok", f"accepted; account {account}")]
            database = await self._place.look(anew=True)
        except ProviderError as err:
            return not_proved(err, _remedy(err))
        says = f"{self._options.database!r} is database {database.id}"
        return [*found, Finding("database", "ok", says), *self._findings_of(database)]

    async def check_fields(self, names: Sequence[str]) -> Sequence[Finding]:
        """Names that are not in the database would be dropped there without a word."""
        self._place.mapped |= set(names)
        found = [one for one in self._findings_of(await self._place.look()) if one.level == "error"]
        return found or [Finding("fields", "ok", f"{len(names)} mapped, all there")]

    async def check_people(self, people: Mapping[str, str]) -> Sequence[Finding]:
        """Who of these, who are to be made, would be found more than once under one address (6)."""
        if not people:
            return []
        double = []
        try:
            database = await self._place.reading()
            for contact_id, email in people.items():
                there = await self._finder.at_address(database, email)
                free = [one for one in there if database.contact(one) in (None, contact_id)]
                double += [contact_id] if len(free) > 1 else []
        except ProviderError as err:
            says = f"nobody could be looked up by address: {err.reason}"
            return [Finding("adoption", "warning", says, _remedy(err))]
        says = f"{count(len(people), 'contact')} to be made were looked up by address"
        if not double:
            return [Finding("adoption", "ok", f"{says}: none is there twice")]
        says += f": {len(double)} there more than once: {listed(double)}"
        remedy = "merge them there first: the lowest id is taken, the others stay as they are"
        return [Finding("adoption", "warning", says, remedy)]

    def _findings_of(self, database: Database) -> Sequence[Finding]:
        faults = database.faults(self._place.mapped)
        code = Misconfigured.exit_code
        if faults:
            return [Finding(what, "error", says, todo, code) for what, says, todo in faults]
        written = ", ".join(f"{name} = {value!r}" for name, value in database.off.items())
        found = [Finding("unsubscribe", "ok", f"who unsubscribes has {written}")]
        if not database.begins_on:
            says = "new profiles are not subscribed by the fields' defaults"
            todo = "make the subscribed values the defaults there, or each create costs a request"
            found.append(Finding("unsubscribe", "warning", says, f"{todo} more"))
        if "modified" in (name.lower() for name in database.fields):
            says = "a field is called modified: opt-outs may be read late, by the nightly scan"
            found.append(Finding("fields", "warning", says, "give that field another name"))
        return found

    async def learn(self) -> Learned | None:
        """Before the first write: whose account it is. Refuses another than `options.account`."""
        return Learned({}, (await self.owner()).id)

    async def owner(self) -> Owner:
        """Whose account the token is of (2b). Refuses another than `options.account`."""
        number, name = answers.identity(await self._calls.must_get("identity"))
        if self._options.account not in ("", number):
            raise Misconfigured(
                f"the token is of account {number}, and options.account says "
                f"{self._options.account}: nothing is sent to another account"
            )
        return Owner(number, name)

    # ── Push, find ──────────────────────────────────────────────────────────────────────────

    async def push(self, changes: Sequence[Change]) -> Sequence[Outcome]:
        """One errand a change."""
        return [
            await Errand(self._calls, self._place, self._alive, change).run() for change in changes
        ]

    async def find(self, changes: Sequence[Change]) -> Sequence[Found]:
        """By id, else by key, else by address."""
        database = await self._place.reading()
        found = [await self._finder.find(database, change) for change in changes]
        for one in found:
            if one.remote is not None:
                self._alive.saw(str(one.remote["id"]))
        return found

    async def erased(self, change: Change, since: datetime) -> Erased:  # noqa: ARG002
        """Neither the profile nor the key may be found again."""
        database = await self._place.reading()
        there = (await self._finder.find(database, change)).remote
        left = [one.id for one in await self._finder.all_by_key(database, change.contact_id)]
        left += [] if there is None or str(there["id"]) in left else [str(there["id"])]
        if not left:
            return Erased(confirmed=True)
        return Erased(by_hand=f"Copernica still shows profile {', '.join(left)}: delete it there.")

    # ── Reading ─────────────────────────────────────────────────────────────────────────────

    async def opt_outs(self, since: datetime | None) -> AsyncIterator[Sequence[Notice]]:
        """Profiles that changed since then and hold what unsubscribing writes; not our own doing.

        Paged by id, and not by time: what changes meanwhile is read by the next reading (4).
        """
        database = await self._place.reading()
        chosen = [] if since is None else [condition("modified", ">=", clock(since - OVERLAP))]
        name, value = next(iter(database.off.items()))
        with suppress(Unsafe):  # else all of them are read
            chosen.append(condition(name, "==", value))
        async for some in self._calls.pages(0, *chosen):
            if notices := [one for p in some if (one := _notice(database, p)) is not None]:
                yield notices

    async def scan(
        self, list_id: str | None, cursor: Mapping[str, Any] | None
    ) -> AsyncIterator[Page]:
        """Every profile, by id. A half scan goes on above the last id it has met."""
        if list_id is not None:
            raise Indivisible("the account is read as a whole")
        await self._place.look(anew=True)  # a list that is not known is one that nobody is in
        database = await self._place.reading()
        async for some in self._calls.pages(int((cursor or {}).get("after", 0))):
            there = [_seen(database, one) for one in some if not one.is_gone]
            yield Page(there, {"after": max(int(one.id) for one in some)})

    async def comparer(self) -> Comparer:
        return partial(unlike, (await self._place.reading()).fields)

    @classmethod
    def remembered(
        cls,
        remote: Mapping[str, Any] | None,
        list_id: str | None,  # noqa: ARG003
        seen: Seen,
    ) -> Mapping[str, Any]:
        """The profile's id."""
        if remote is not None and remote.get("id") == seen.remote_id:
            return remote
        return {**(remote or {}), "id": seen.remote_id}

    # ── Lists ───────────────────────────────────────────────────────────────────────────────

    async def lists(self) -> Mapping[str, str]:
        return await self._lists.all()

    async def create_list(self, name: str) -> str:
        return await self._lists.create(name)

    async def rename_list(self, remote_id: str, name: str) -> None:
        await self._lists.rename(remote_id, name)

    async def delete_list(self, remote_id: str) -> None:
        await self._lists.delete(remote_id)

    # ── Sign ────────────────────────────────────────────────────────────────────────────────

    @classmethod
    def exchange(
        cls, options: CopernicaOptions, credential: CopernicaCredential
    ) -> Exchange | None:
        """v4 takes a JWT only (2c)."""
        if options.version != "v4":
            return None
        token = credential.access_token.get_secret_value()
        asks = signing.exchange(options.auth_url, token)

        def read(answer: Answer) -> tuple[CopernicaPass, float]:
            jwt, seconds = asks.read(answer)
            return CopernicaPass(access_token=SecretStr(token), jwt=SecretStr(jwt)), seconds

        return asks._replace(read=read)

    @classmethod
    def grant(
        cls,
        options: CopernicaOptions,
        application: CopernicaApplication,
        redirect_uri: str,
        state: str,
    ) -> Grant:
        """The code flow (2a). The token's address holds the secret, and is shown nowhere."""
        client_id, secret = application.client_id, application.client_secret.get_secret_value()
        keys = {"client_id": client_id, "client_secret": secret}
        base, path = cls.base_url(options), f"/{options.version}/token"
        return Grant(
            signing.authorize_page(options.authorize_url, client_id, redirect_uri, state),
            lambda code: signing.redeem(base, path, keys, redirect_uri, code),
        )

    @classmethod
    def sign(cls, credential: CopernicaCredential, request: Request) -> Mapping[str, str]:  # noqa: ARG003
        if isinstance(credential, CopernicaPass):
            return {"Authorization": f"Bearer {credential.jwt.get_secret_value()}"}
        return {}

    @classmethod
    def complete(cls, credential: CopernicaCredential, request: Request) -> Request:
        """v1 to v3: the token on every call, as a query parameter, and nowhere else (2b)."""
        if isinstance(credential, CopernicaPass):
            return request
        token = credential.access_token.get_secret_value()
        return replace(request, target=signing.with_token(request.target, token))


def _seen(database: Database, one: answers.Profile) -> Seen:
    return Seen(
        one.id,
        one.get(database.email) or None,
        _subscribed(database, one),
        database.contact(one),
        database.lists_of(one),
        evidence(one),
        one.fields,
    )


def _subscribed(database: Database, one: answers.Profile) -> bool | None:
    """None: it was us who turned mail off, so that it says nothing of the person's will."""
    if not database.is_off(one):
        return True
    return None if database.is_ours(one) else False


def _notice(database: Database, one: answers.Profile) -> Notice | None:
    no = None if one.is_gone or database.is_ours(one) else no_of(database, one)
    if no is None:
        return None
    contact, email = database.contact(one), one.get(database.email) or None
    told = evidence(one)  # what we turn off ourselves bears our mark
    return Notice(
        contact, email, "unsubscribed", no.occurred_at, None, told, by_person=True, of_record=True
    )


def _remedy(err: ProviderError) -> str:
    if not err.needs_a_person:
        return "try again later"
    return (
        "authorize again (`syncd authorize`), or have a token made in the dashboard (an ordinary"
        " token is good for v1 to v3, one for v4 only for nothing else); compare options.database,"
        " .account, .base_url"
    )
