"""The protocol every provider honours, and how adapters are found (entry-point group).

An adapter is one file; the order inside is always: options, credential, traits, judge, push,
find, scan, lists, translate, sign. It imports `syncd.model`, `syncd.errors`, this module and the
type of the wire, nothing else of syncd: it cannot reach the database or another provider.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from datetime import datetime
from functools import cache
from importlib.metadata import entry_points
from typing import Annotated, Any, ClassVar, Literal, NamedTuple, Protocol, runtime_checkable

from pydantic import BaseModel, ConfigDict, Field

from syncd.errors import ConfigError, ProviderError
from syncd.model import (
    Answer,
    Change,
    Comparer,
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
    Started,
    Traits,
)

GROUP = "syncd.providers"


Limit = Annotated[float, Field(ge=-(2**31), le=2**31 - 1, allow_inf_nan=False)]


class Options(BaseModel):
    """What every destination may set in `options`; an adapter's model extends it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    base_url: str = ""
    allow_http: bool = False  # plain http to a host that is not loopback
    opt_out_scope: Literal["source", "destination"] = "source"
    meters: Mapping[str, Mapping[Literal["per_second", "in_flight", "per_day"], Limit]] = Field(
        default_factory=dict
    )


class Credential(BaseModel):
    """What every credential may carry; an adapter's model extends it."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    expires_on: str | None = None  # YYYY-MM-DD; `check` and `status` warn from 30 days before


class Wire(Protocol):
    """The way out, as an adapter sees it: metered, signed, one attempt, typed failures."""

    async def send(self, request: Request) -> Answer:
        """Send once; return what `judge` let through.

        Raises a `ProviderError` of the kind that `judge`, or else the wire's defaults, decide.
        """
        ...


class Signer(Protocol):
    """Signs where the host challenges first; one for each wire, whose state it keeps."""

    def opening(self) -> Request | None:
        """A read to be sent unsigned, for its challenge; None where one is known."""
        ...

    def opened(self, answer: Answer) -> bool:
        """Take the challenge from that answer; whether requests can be sent now."""
        ...

    def sign(self, credential: Any, request: Request) -> Mapping[str, str]:
        """Headers for one sending of this request, exactly as it leaves."""
        ...

    def renewed(self, signature: Mapping[str, str], answer: Answer) -> bool:
        """Take what the answer to a signed request brings; whether nothing was applied and the
        request is to be signed and sent once more."""
        ...


@runtime_checkable
class Handshakes(Protocol):
    """An adapter whose requests are signed by a challenge, not by the credential alone."""

    @classmethod
    def signer(cls) -> Signer: ...


@runtime_checkable
class Completes(Protocol):
    """An adapter whose addresses hold what only the credential knows: a customer, a token."""

    @classmethod
    def complete(cls, credential: Any, request: Request) -> Request:
        """The request as it is to leave, below the base address; `sign` is given this form.

        Pure. Nothing but the wire ever sees the answer: it is neither judged nor shown.
        """
        ...


class KeyColumn(NamedTuple):
    """A source column that identifies contacts at the provider; `name`: what `remote` calls it."""

    name: str
    column: str


class Exchange(NamedTuple):
    """How a credential is exchanged for a pass: sent to `base`, unsigned, at most now and then.

    read: what the answer says: the key that `sign` and `complete` are given in place of the
    credential (a model, whose texts are as secret), and for how many seconds it is good.
    """

    base: str
    request: Request
    read: Callable[[Answer], tuple[Any, float]]


class Owner(NamedTuple):
    """The account that a credential is of. name: for people; '' where nobody tells."""

    id: str
    name: str = ""


class Grant(NamedTuple):
    """How a person grants a credential in a browser: OAuth 2.0's code flow.

    page: the address to open; it sends the browser back with our state.
    redeem: what to ask for the code that came back; `read` tells the keys of the credential.
    """

    page: str
    redeem: Callable[[str], Exchange]


class Pass(NamedTuple):
    """A key got for a credential, and until when (by the monotonic clock) it is used."""

    key: Any
    until: float


def of_account(most: Traits) -> Any:
    """`traits` of an adapter whose accounts differ: of the class, the most that there is; of an
    adapter, what its `traits_here(most)` leaves in this account, as far as that is known by now."""
    return _OfAccount(most)


class _OfAccount:
    """Any to the type checker, for which a class variable is the same wherever it is read."""

    def __init__(self, most: Traits) -> None:
        self._most = most

    def __get__(self, adapter: Any, kind: type[Any]) -> Traits:
        here: Traits = self._most if adapter is None else adapter.traits_here(self._most)
        return here


Belongs = Callable[[str, Sequence[Mapping[str, Any]], Sequence[str]], Awaitable[bool]]


class Ordinary:
    """What most adapters say: the meters of their traits hold, and our id tells contacts apart."""

    traits: ClassVar[Traits]

    @classmethod
    def meters(cls, options: Any) -> Mapping[str, Meter]:  # noqa: ARG003
        return cls.traits.meters

    @classmethod
    def key_column(cls, options: Any) -> KeyColumn | None:  # noqa: ARG003
        return None


class Provider(Protocol):
    """What every adapter has; the rest is declared in `traits.can`.

    `traits` of the class says what the provider can at most, of an adapter what this account can.
    """

    name: ClassVar[str]
    options_model: ClassVar[type[Options]]
    credential_model: ClassVar[type[Credential]]
    traits: ClassVar[Traits]

    def __init__(self, wire: Wire, options: Any, findings: Mapping[str, Any]) -> None:
        """Store; do no work. `findings` is what an earlier `Learned` said of this account."""
        ...

    @classmethod
    def base_url(cls, options: Any) -> str:
        """The origin and path that requests go to; the only place credentials are sent."""
        ...

    @classmethod
    def scope(cls, options: Any, credential: Any) -> str:
        """What the provider counts its limits by (an account id, an API key), in clear."""
        ...

    @classmethod
    def meters(cls, options: Any) -> Mapping[str, Meter]:
        """The meters with the provider's own limits; the write meter is the first."""
        ...

    @classmethod
    def key_column(cls, options: Any) -> KeyColumn | None:
        """The column that identifies contacts in place of our id; None: our id does."""
        ...

    @classmethod
    def sign(cls, credential: Any, request: Request) -> Mapping[str, str]:
        """Headers that authenticate this request. Pure; called at the moment of sending."""
        ...

    @classmethod
    def judge(cls, request: Request, answer: Answer) -> ProviderError | Literal["ok"] | None:
        """Say what an answer means: an error, 'ok', or None for the wire's own defaults."""
        ...

    async def check(self) -> Sequence[Finding]:
        """Prove the credentials work, without writing; one finding per thing looked at."""
        ...

    async def learn(self) -> Learned | None:
        """Find out what this account is like, before the first write; None: nothing to learn."""
        ...

    async def push(self, changes: Sequence[Change]) -> Sequence[Outcome]:
        """Apply at most `traits.batch` changes; one Outcome each, in the same order."""
        ...


class ExchangesCredentials(Protocol):
    """An adapter whose requests may be signed by a pass that is got for the credential.

    The wire keeps the pass, and gets another when it has run out, or is refused: once a request.
    """

    @classmethod
    def exchange(cls, options: Any, credential: Any) -> Exchange | None:
        """What to ask, and of whom; None: the credential itself signs."""
        ...


@runtime_checkable
class Authorizes(Protocol):
    """An adapter whose credential can be granted in a browser, to an application of ours.

    application_model: the keys that name the application; they may lie in the same secret.
    """

    application_model: ClassVar[type[Credential]]

    @classmethod
    def grant(cls, options: Any, application: Any, redirect_uri: str, state: str) -> Grant:
        """The page for one attempt. Pure."""
        ...


@runtime_checkable
class TellsOwner(Protocol):
    """An adapter whose provider says whose account the credential is of."""

    async def owner(self) -> Owner: ...


@runtime_checkable
class NamesAccount(Protocol):
    """An adapter whose credential itself names the account."""

    @classmethod
    def account(cls, credential: Any) -> str:
        """The name, which is kept as a hash."""
        ...


@runtime_checkable
class LooksUpPeople(Protocol):
    """An adapter whose key is ours, at a provider that may know people by other ones."""

    async def check_people(self, people: Mapping[str, str]) -> Sequence[Finding]:
        """Whether these (identity → address), who are to be made, are known there as others, or
        more than once; part of `check`."""
        ...


@runtime_checkable
class TakesOver(Protocol):
    """An adapter that may find a contact's record under the key of somebody else, and take it over.

    belongs: asked before that is done, the contact and what `Change.remote` would be for each of
    the record's keys, with the keys that may be ids of ours: whether it is another contact's. Put
    in by the core; without it, nobody is asked.
    """

    belongs: Belongs | None


class LooksUpFields(Protocol):
    async def check_fields(self, names: Sequence[str]) -> Sequence[Finding]:
        """Whether the account has these fields; part of `check`."""
        ...


class Finds(Protocol):
    async def find(self, changes: Sequence[Change]) -> Sequence[Found]:
        """Look the contacts up; one `Found` each, in the same order.

        Where records have ids of the provider's own, one in doubt is also looked for under the
        address of `was`: a lost try may have made it there, before the contact moved on.
        """
        ...


class Compares(Protocol):
    async def comparer(self) -> Comparer:
        """How what a contact was given is compared with `Seen.fields` of it."""
        ...


class ReadsWhole(Protocol):
    async def read_whole(self, changes: Sequence[Change]) -> Sequence[Seen | None]:
        """Read these contacts one by one, with everything that is told; None: not there."""
        ...


class ExportsLists(Protocol):
    async def export(
        self, list_id: str, receipt: Mapping[str, Any] | None
    ) -> Started | Mapping[str, Mapping[str, Any]]:
        """Have a remote list written out: `Started` while that lasts, to be asked again with its
        receipt; then address → what `Seen.fields` would tell, as far as an export does.

        Indivisible, Unintelligible: it cannot be had, or not be read.
        """
        ...


class Learns(Protocol):
    """An adapter that finds out about the account while it works, not only in `learn`."""

    def found_out(self) -> Mapping[str, Any]:
        """What was found out since this was asked last; kept until the credential changes."""
        ...


class Erases(Protocol):
    async def erased(self, change: Change, since: datetime) -> Erased:
        """Read back an erasure that was pushed at `since`."""
        ...


class ReadsOptOuts(Protocol):
    def opt_outs(self, since: datetime | None) -> AsyncIterator[Sequence[Notice]]:
        """Page through opt-outs made there since then (None: from the beginning)."""
        ...


class Scans(Protocol):
    def scan(self, list_id: str | None, cursor: Mapping[str, Any] | None) -> AsyncIterator[Page]:
        """Page through one remote list (None: the whole account), from *cursor* on.

        The last page ends the iteration; an empty iteration is an empty list. A page may hold
        records of an earlier one. An iteration that ends must have been whole: where in doubt,
        raise.
        """
        ...

    @classmethod
    def remembered(
        cls, remote: Mapping[str, Any] | None, list_id: str | None, seen: Seen
    ) -> Mapping[str, Any]:
        """What `Change.remote` is to say of a contact that was seen there. Pure.

        The same as *remote* where that says so already: so a contact is known by its record.
        """
        ...


class KeepsLists(Protocol):
    async def lists(self) -> Mapping[str, str]:
        """Remote list ids and their names."""
        ...

    async def create_list(self, name: str) -> str:
        """Make a list; return its remote id. The core has looked for the name before."""
        ...


class RenamesLists(Protocol):
    async def rename_list(self, remote_id: str, name: str) -> None: ...


class DeletesLists(Protocol):
    async def delete_list(self, remote_id: str) -> None: ...


class RunsJobs(Protocol):
    async def resume(
        self, receipt: Mapping[str, Any], changes: Sequence[Change]
    ) -> Sequence[Outcome]:
        """Look at a bulk job; `Started` again while it runs, else one Outcome a change."""
        ...


def not_proved(err: ProviderError, remedy: str) -> Sequence[Finding]:
    """The one line of `check` where the credentials could not be tried, or are refused."""
    return [Finding("credentials", "error", err.reason, remedy, err.exit_code)]


@cache
def providers() -> Mapping[str, type[Provider]]:
    """Every installed adapter by name."""
    return {entry.name: entry.load() for entry in entry_points(group=GROUP)}


def provider(name: str) -> type[Provider]:
    """The adapter called *name*; ConfigError naming those there are."""
    known = providers()
    if name not in known:
        raise ConfigError(
            f"provider {name!r} is not known; installed: {', '.join(sorted(known)) or 'none'}"
        )
    return known[name]
