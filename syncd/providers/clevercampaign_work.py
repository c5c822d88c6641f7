"""What every errand at CleverCampaign starts from, and how its faults and refusals are told."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from syncd.errors import (
    Ambiguous,
    Misconfigured,
    ProviderError,
    Refused,
    Transient,
    Unintelligible,
)
from syncd.model import Change, OptedOut
from syncd.providers.clevercampaign_answers import Record, Told, record_id, subscribed, text_of
from syncd.providers.clevercampaign_calls import Calls
from syncd.providers.clevercampaign_reading import Account
from syncd.providers.clevercampaign_settings import CleverCampaignOptions

LATER = 120.0  # seconds: how often what waits looks whether the operator has said so by now
NO_ID = "its id there is not known, and it cannot be looked up"
_WRONG_PATH = (404, 405, 410, 501)


class HalfDone(Misconfigured):
    """A person is needed, and an earlier request of the same change was applied."""

    may_be_applied = True


@dataclass(slots=True)
class Work:
    """One change. applied: a request of it was; deleted: we took the record away ourselves."""

    calls: Calls
    account: Account
    change: Change
    lacking: list[str] = field(default_factory=list)
    applied: bool = False

    @property
    def options(self) -> CleverCampaignOptions:
        return self.calls.options

    @property
    def deleted(self) -> bool:
        return bool((self.change.remote or {}).get("gone"))

    @property
    def contact_id(self) -> str | None:
        """The id of the record that should be there."""
        known = (self.change.remote or {}).get("id")
        return None if known is None or self.deleted else str(known)

    @property
    def email(self) -> str:
        person = self.change.want or self.change.was
        return "" if person is None else person.email

    @property
    def emails(self) -> Sequence[str]:
        """Where its record may be: what a lost try made is under the address it was tried with."""
        was = self.change.was
        tried = was.email if self.change.doubtful and was is not None else ""
        return [one for one in dict.fromkeys((tried.lower(), self.email.lower())) if one]

    async def look(self) -> Sequence[Record] | None:
        """Who has the address there; None where that cannot be asked."""
        return await self.account.at(self.email) if self.email else []

    def refusal(self, found: Sequence[Record]) -> OptedOut | None:
        """A no that one of these records carries."""
        for one in found:
            if subscribed(one, self.options) is False:
                name = self.options.status_field
                return OptedOut(
                    evidence={name: text_of(one, name), "id": record_id(one, self.options)}
                )
        return None

    async def unread_no(self) -> OptedOut | None:
        """A no that no reading has told of yet: it would go with the record, or look like ours."""
        was, change = self.change.was, self.change
        if self.contact_id is None or change.doubtful or was is None or not was.subscribed:
            return None
        found = await self.account.by_id(self.contact_id)
        return None if found is None else self.refusal([found])

    def explained(self, method: str, told: Told, setting: str) -> str:
        """The provider's words; with the setting to correct, where they may be about the path."""
        if told.status not in _WRONG_PATH:
            return told.text
        return f"{method} answered {told.status} ({told.text}): correct {setting}"


def halfway(err: ProviderError) -> ProviderError:
    """The same fault for a change whose earlier requests were applied."""
    kind: Callable[..., ProviderError] = type(err)
    if isinstance(err, Transient | Refused):
        kind = Ambiguous  # refused keys show again in the first request of the next try
    elif isinstance(err, Misconfigured):
        kind = HalfDone
    elif not err.may_be_applied:
        kind = Unintelligible
    reason = f"{err.reason} (earlier requests of this change were applied)"
    return kind(reason, status=err.status, after=err.after)
