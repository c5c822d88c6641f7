"""CleverTap REST API v1: profiles upserted by our own identity; lists are one array property.

Sections quoted as (3.1) are the wire reference's. What a change becomes is in
`clevertap_translate`, what an answer means in `clevertap_answers`, the canaries are in
`clevertap_canary`: parts of this adapter, not providers.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, ClassVar, Literal, TypeVar
from urllib.parse import quote

import orjson
from pydantic import Field, SecretStr, field_validator

from syncd.errors import Indivisible, Misconfigured, ProviderError, SyncdError, Unintelligible
from syncd.model import (
    APPLIED,
    Absent,
    Answer,
    Applied,
    Can,
    Change,
    Comparer,
    Erased,
    Finding,
    Found,
    Learned,
    Meter,
    Notice,
    OptedOut,
    Outcome,
    Request,
    Seen,
    Traits,
    Verb,
)
from syncd.providers import Belongs, Credential, KeyColumn, Options, Ordinary, Wire
from syncd.providers import clevertap_answers as answers
from syncd.providers import clevertap_batch as batches
from syncd.providers import clevertap_canary as canary
from syncd.providers import clevertap_compare as compare
from syncd.providers import clevertap_events as events
from syncd.providers import clevertap_people as people
from syncd.providers.clevertap_translate import (
    SYSTEM,
    Draft,
    Rules,
    drafted,
    email_fault,
    identity_of,
    name_fault,
    plain,
    refuse_twins,
)

AT_ONCE = 3  # look-ups started side by side; the meter decides how many leave
FORGET = 100_000  # opt-outs remembered for dropping doubles
GONE_AFTER = timedelta(hours=24)

S = TypeVar("S")
T = TypeVar("T")


class CleverTapOptions(Options):
    """`options` of a destination; config/ holds an annotated example."""

    region: Literal["in1", "sg1", "us1", "aps3", "mec1", "eu1"] | None = None
    partner: str | None = None
    lists_property: str = "Lists"
    identity: str = "id"  # the source column; the core reads it
    marker_event: str | None = Field(default=None, min_length=1, max_length=512)
    adopt: Literal["identity", "email"] = "identity"
    default_country_code: str | None = Field(default=None, pattern=r"^[1-9][0-9]{0,2}$")

    @field_validator("lists_property")
    @classmethod
    def _usable(cls, name: str) -> str:
        fault = "is a system key" if name in SYSTEM else name_fault(name)
        if fault:
            raise ValueError(f"lists_property {fault}")
        return name


class CleverTapCredential(Credential):
    """Project id and passcode (of the account, or of a user: the header is the same)."""

    account_id: SecretStr
    passcode: SecretStr

    @field_validator("account_id", "passcode")
    @classmethod
    def _stripped(cls, secret: SecretStr) -> SecretStr:
        text = secret.get_secret_value().strip()
        if not text or not text.isascii() or not text.isprintable():
            raise ValueError("is empty, or holds what no header can carry")
        return SecretStr(text)


class CleverTap(Ordinary):
    """Every write may be repeated; what vanished there cannot be told; the flag cannot be read."""

    name: ClassVar[str] = "clevertap"
    options_model: ClassVar[type[Options]] = CleverTapOptions
    credential_model: ClassVar[type[Credential]] = CleverTapCredential
    traits: ClassVar[Traits] = Traits(
        batch=1000,
        meters={"upload": Meter(in_flight=15), "read": Meter(in_flight=3)},
        key="ours",
        can=(
            Can.REPEAT
            | Can.FIND
            | Can.ERASE
            | Can.OPT_OUT
            | Can.RESUBSCRIBE
            | Can.COMPARE
            | Can.WHOLE
        ),
        visible_after=5.0,
        default_fields={
            "First Name": "first_name",
            "Last Name": "last_name",
            "Phone": "phone",
            "Company": "company",
            "Address": "address",
            "City": "city",
            "State": "state",
            "Zip": "postal_code",
            "Country": "country",
            "DOB": "birth_date",
        },
    )

    def __init__(self, wire: Wire, options: CleverTapOptions, findings: Mapping[str, Any]) -> None:
        self._wire, self._options, self._findings = wire, options, findings
        self.belongs: Belongs | None = None
        self._rules = Rules(
            lists_property=options.lists_property,
            country=options.default_country_code or "",
            marker=options.marker_event,
            delete_works=bool(findings.get("delete_works")),
            negative_dates=bool(findings.get("negative_dates")),
            adopts=options.adopt == "email",
        )

    @classmethod
    def base_url(cls, options: CleverTapOptions) -> str:
        """One host a region, the bare one where none is named (1)."""
        region = f"{options.region}." if options.region else ""
        return options.base_url or f"https://{region}api.clevertap.com"

    @classmethod
    def scope(cls, options: CleverTapOptions, credential: CleverTapCredential) -> str:  # noqa: ARG003
        """Limits are counted per account (4)."""
        return credential.account_id.get_secret_value()

    @classmethod
    def account(cls, credential: CleverTapCredential) -> str:
        return credential.account_id.get_secret_value().upper()

    @classmethod
    def judge(cls, request: Request, answer: Answer) -> ProviderError | Literal["ok"] | None:
        """Section 7."""
        return answers.judged(request, answer)

    async def check(self) -> Sequence[Finding]:
        """The partner probe where a name is set, else (or not whitelisted) a dry run (2)."""
        found = []
        if self._options.partner:
            found.append(await self._partner_finding(self._options.partner))
        if not found or found[0].level == "warning":
            found.append(await self._finding("credentials", _dry_run()))
        if self._findings.get("merges_by_email"):
            says = "profiles that share an address are merged: contacts with one address are one"
            found.append(Finding("account", "warning", says, "make addresses unique in the source"))
        return found

    async def _partner_finding(self, partner: str) -> Finding:
        request = Request(
            "GET", f"{answers.CONNECT}?partner={quote(partner, safe='')}", meter="read"
        )
        found = await self._finding("partner", request)
        if found.exit_code != Misconfigured.exit_code or "not whitelisted" not in found.says:
            return found
        remedy = "have CleverTap whitelist the name, or remove options.partner; sync works without"
        return Finding("partner", "warning", found.says, remedy)

    async def _finding(self, subject: str, request: Request) -> Finding:
        """Any readable 200 proves the credentials, whatever became of the made-up profile."""
        try:
            answer = await self._wire.send(request)
            if answer.status >= 300:
                raise Unintelligible(answers.said(answer), status=answer.status)
            answers.parsed(answer)
        except ProviderError as err:
            remedy = self._remedy() if err.needs_a_person else "try again later"
            return Finding(subject, "error", err.reason, remedy, err.exit_code)
        return Finding(subject, "ok", "accepted")

    def _remedy(self) -> str:
        return (
            "compare account id and passcode with those of the project in region "
            f"{self._options.region or 'default'}: another region's host answers the same, and so "
            "does an account passcode once user passcodes are switched on"
        )

    async def learn(self) -> Learned | None:
        """Writes two canaries and deletes them; an account that may not read teaches nothing."""
        try:
            return Learned(await canary.findings(_Canaries(self._wire, self._profile)))
        except Misconfigured as err:
            if err.status != 403:
                raise
            return Learned({"delete_works": False, "not_allowed": err.reason})

    async def push(self, changes: Sequence[Change]) -> Sequence[Outcome]:
        """Uploads, then the address marks, then deletions; a later step's fault tells the truth
        about the earlier ones, and repeating everything is safe."""
        records = [plain(change, self._rules) for change in changes]
        if None not in records:
            return await self._push_plain(changes, records)
        drafts = [drafted(change, self._rules) for change in changes]
        await self._look_first([d for d in drafts if d.looks_first and d.outcome is None])
        kept = frozenset(change.contact_id for change in changes if change.want is not None)
        await self._look_for_others(
            [d for d in drafts if d.change.verb is Verb.ERASE and d.mark], kept
        )
        refuse_twins(drafts)
        batch = batches.Batch(self._wire)
        for number in range(max((len(d.records) for d in drafts), default=0)):
            live = [d for d in drafts if d.outcome is None and len(d.records) > number]
            await batches.upload(batch, live, number)
        await batches.mark(batch, drafts)
        await batches.delete(batch, [d for d in drafts if d.deletes and d.outcome is None])
        return [d.outcome or _applied(d) for d in drafts]

    async def _push_plain(
        self, changes: Sequence[Change], records: Sequence[Mapping[str, Any] | None]
    ) -> Sequence[Outcome]:
        """A first fill: one record each, and nothing to mark, to look up or to remember."""
        outcomes: list[Outcome] = [APPLIED] * len(changes)
        batch = batches.Batch(self._wire)
        for part, body in batches.bodies(range(len(changes)), records):
            keys = [changes[number].contact_id for number in part]
            read = partial(answers.refusals, keys=keys)
            for position, outcome in (await batch.send(batches.UPLOAD, body, read)).items():
                outcomes[part[position]] = outcome
        return outcomes

    async def _look_first(self, drafts: Sequence[Draft]) -> None:
        """An upload would make a profile that must not be made: absent stays absent, and who is
        there under another identity is taken as they are, a no of theirs included."""
        looked = await self.find([draft.change for draft in drafts])
        for draft, found in zip(drafts, looked, strict=True):
            change, want = draft.change, draft.change.want
            creates = change.may_create and want is not None and want.subscribed
            if found.remote is None:
                if not creates:
                    draft.outcome, draft.mark = Absent("not there, and not to be created"), None
            elif creates and found.opted_out is not None and not change.resubscribe:
                draft.outcome, draft.mark = found.opted_out, None
            elif found.remote["identity"] != draft.identity:  # adopted under its own identity
                fresh = drafted(change._replace(remote=found.remote), self._rules)
                draft.identity, draft.records = fresh.identity, fresh.records
                draft.remote = {**found.remote, **(fresh.remote or {})}

    async def _look_for_others(self, drafts: Sequence[Draft], kept: frozenset[str]) -> None:
        """An erased address may be in a profile that bears another identity than our contact's;
        not to be deleted is whoever of this batch is *kept*, and about to leave that address."""
        for draft in drafts:
            if draft.mark is not None:
                found = await self._identities_at(draft.mark[0])
                draft.others = () if kept.intersection(found) else found

    async def _identities_at(self, address: str) -> Sequence[str]:
        record = await self._profile("email", address)
        if record is None or str(record.get("email", "")).lower() != address.lower():
            return ()
        return answers.identities(record.get("identity"))

    async def find(self, changes: Sequence[Change]) -> Sequence[Found]:
        """One read a contact: by identity, then by address where such profiles are adopted."""
        return await _side_by_side(self._found, changes)

    async def _found(self, change: Change) -> Found:
        record, own = await self._looked_for(change)
        if record is None:
            return Found(None)
        no = OptedOut(evidence={"MSG-email": False}) if compare.flag(record) is False else None
        return Found({**(change.remote or {}), "identity": own}, record["email"] or None, no)

    async def read_whole(self, changes: Sequence[Change]) -> Sequence[Seen | None]:
        """As `find`, with the properties; MSG-email where the account shows it."""
        return await _side_by_side(self._whole, changes)

    async def _whole(self, change: Change) -> Seen | None:
        record, own = await self._looked_for(change)
        if record is None:
            return None
        return compare.seen(record, own, change.contact_id, self._rules)

    async def comparer(self) -> Comparer:
        return partial(compare.unlike, self._rules)

    async def _looked_for(self, change: Change) -> tuple[Mapping[str, Any] | None, str]:
        """The contact's profile, and the identity by which it is written to."""
        record = await self._profile("identity", identity := identity_of(change))
        if record is None and self._options.adopt == "email":
            person = change.want or change.was
            address = person.email if person and not email_fault(person.email) else ""
            record = await self._profile("email", address) if address else None
            record = record if people.is_of(record, address) else None
        known = answers.identities(record.get("identity")) if record else []
        if record is None or (self._options.adopt == "email" and not known):
            return None, identity
        if identity in known or not known:
            return record, identity
        if await self._is_anothers(change, known):
            return None, identity
        return record, known[0]

    async def _is_anothers(self, change: Change, identities: Sequence[str]) -> bool:
        """Two contacts that exchange addresses are found under each other's: one profile each."""
        if self.belongs is None:
            return False
        ours = identities if self._options.identity == "id" else ()
        remotes = [{"identity": one} for one in identities]
        return await self.belongs(change.contact_id, remotes, ours)

    async def check_people(self, told: Mapping[str, str]) -> Sequence[Finding]:
        """Where profiles are taken by identity alone: who has one under another."""
        if self._options.adopt == "email":
            return []
        some = [pair for pair in told.items() if not email_fault(pair[1])]
        try:
            records = await _side_by_side(lambda pair: self._profile("email", pair[1]), some)
        except ProviderError as err:
            says = f"nobody could be looked up by address: {err.reason}"
            return [Finding("adoption", "warning", says, "let the passcode read profiles")]
        strange = [people.is_stranger(r, *pair) for r, pair in zip(records, some, strict=True)]
        return people.told(len(some), sum(strange))

    async def _profile(self, key: str, value: str) -> Mapping[str, Any] | None:
        target = f"{answers.PROFILE}?{key}={quote(value, safe='')}"
        return answers.profile(await self._wire.send(Request("GET", target, meter="read")))

    async def opt_outs(self, since: datetime | None) -> AsyncIterator[Sequence[Notice]]:
        """Every `Channel Unsubscribed`, once (3.4)."""
        seen: set[tuple[object, ...]] = set()
        async for records in events.pages(self._wire, "Channel Unsubscribed", since):
            if len(seen) > FORGET:
                seen.clear()
            yield answers.notices(records, seen)

    async def erased(self, change: Change, since: datetime) -> Erased:
        """Deletion holds everywhere after a day (3.5); then the profile must not be found."""
        if datetime.now(UTC) < since + GONE_AFTER:
            return Erased(wait_until=since + GONE_AFTER)
        identity = identity_of(change)
        left = [] if await self._profile("identity", identity) is None else [identity]
        person = change.was
        if not left and person is not None and not email_fault(person.email):
            left = list(await self._identities_at(person.email))
        if not left:
            return Erased(confirmed=True)
        return Erased(
            by_hand=f"CleverTap still shows the profile with identity {', '.join(left)} a day after"
            " its deletion: delete it in the dashboard, or have the vendor's support do it."
        )

    @classmethod
    def key_column(cls, options: CleverTapOptions) -> KeyColumn | None:
        return None if options.identity == "id" else KeyColumn("identity", options.identity)

    @classmethod
    def sign(cls, credential: CleverTapCredential, request: Request) -> Mapping[str, str]:  # noqa: ARG003
        """Two static headers, and the content type on every request, GET too (2)."""
        return {
            "X-CleverTap-Account-Id": credential.account_id.get_secret_value(),
            "X-CleverTap-Passcode": credential.passcode.get_secret_value(),
            "Content-Type": "application/json",
        }


class _Canaries:
    """The three calls that the canaries need."""

    def __init__(
        self, wire: Wire, read: Callable[[str, str], Awaitable[Mapping[str, Any] | None]]
    ) -> None:
        self._wire, self._read = wire, read

    async def upload(self, records: Sequence[Mapping[str, Any]]) -> bool:
        asks = Request("POST", batches.UPLOAD, orjson.dumps({"d": records}), meter="upload")
        try:
            answer = await self._wire.send(asks)
            return not answers.refusals(answer, [one["identity"] for one in records])
        except Indivisible:
            return False

    async def read(self, identity: str) -> Mapping[str, Any] | None:
        return await self._read("identity", identity)

    async def delete(self, identities: Sequence[str]) -> None:
        body = orjson.dumps({"identity": identities})
        answers.succeeded(
            await self._wire.send(Request("POST", batches.DELETE, body, meter="read"))
        )


def _dry_run() -> Request:
    """One made-up profile, validated and not stored."""
    data = {"Email": f"check@{canary.DOMAIN}"}
    record = {"identity": "syncd-check", "type": "profile", "profileData": data}
    body, target = orjson.dumps({"d": [record]}), f"{batches.UPLOAD}?dryRun=1"
    return Request("POST", target, body, meter="upload", repeatable=True)


async def _side_by_side(work: Callable[[S], Awaitable[T]], items: Sequence[S]) -> list[T]:
    """*work* on every item, a few at once, results in order; the first fault ends it."""
    results: dict[int, T] = {}
    queue = enumerate(items)

    async def worker(queue: Iterator[tuple[int, S]]) -> None:
        for number, item in queue:
            results[number] = await work(item)

    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(min(AT_ONCE, len(items))):
                group.create_task(worker(queue))
    except* SyncdError as faults:
        fault = next(_leaves(faults))
    else:
        return [results[number] for number in range(len(items))]
    raise fault


def _leaves(group: BaseExceptionGroup[Any]) -> Iterator[BaseException]:
    for one in group.exceptions:
        if isinstance(one, BaseExceptionGroup):
            yield from _leaves(one)
        else:
            yield one


def _applied(draft: Draft) -> Applied:
    was = draft.change.was
    if draft.change.verb is Verb.DELETE and was is not None and not was.subscribed:
        return Applied(stays_off=True)  # the mark is the address's, not the profile's (3.5)
    if draft.remote is None and not draft.lacking:
        return APPLIED
    return Applied(draft.remote, tuple(draft.lacking))
