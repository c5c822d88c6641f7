"""The requests of one change at RedCappi: look, edit, add, delete; one a membership.

An edit and a delete may be repeated, an add may not: once one was applied, what follows must not
end in an outcome that forgets it (reference, 5 to 7).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from syncd.errors import (
    Ambiguous,
    Indivisible,
    Misconfigured,
    ProviderError,
    Refused,
    Transient,
    Unintelligible,
)
from syncd.model import (
    Absent,
    Answer,
    Applied,
    Outcome,
    Rejected,
    Request,
    Vanished,
    Verb,
    Waits,
)
from syncd.providers import Wire
from syncd.providers.redcappi_answers import Told, is_gone, table, written
from syncd.providers.redcappi_translate import Plan

METER = "api"
LISTS = "/v1/lists.json/"
ACCOUNT_WIDE = "deletes there are account-wide"
UNSEEN = "whether a delete is account-wide could not be seen"
NO_DATA, NO_DATA_WRITE = b'{"posted_data":"[]"}', b'{"posted_data":"null"}'


class HalfDone(Misconfigured):
    """A person is needed, and an earlier request of the same change was applied."""

    may_be_applied = True


class Calls:
    """The ten calls, one request each; what is said of them is left to the callers."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire

    async def read(self, target: str) -> Answer:
        return await self._wire.send(Request("GET", target, NO_DATA, meter=METER))

    async def lists(self) -> dict[str, str]:
        """Every list's id and name."""
        answer = await self.read(LISTS)
        if answer.status == 404 and answer.body.strip() not in (b"", b"[]", b"{}", b"null", b'""'):
            raise Misconfigured("the lists are not found: is base_url the API's?", status=404)
        return dict(table(answer, "name"))

    async def contact(self, list_id: str, contact_id: str) -> str | None:
        """The address of one contact in one list; None: it is not there."""
        answer = await self.read(f"/v1/contacts.json/{list_id}/contact/{contact_id}")
        if is_gone(answer):
            return None
        return table(answer, "email_address", "email").get(contact_id)

    async def write(self, request: Request) -> Told:
        """Send; where only this one request is not authorized, its data break the signature."""
        try:
            return written(await self._wire.send(request))
        except Refused:
            await self.lists()  # refused as well: the keys are at fault
        try:
            return written(await self._wire.send(request))
        except Refused as err:
            reason = f"{err.reason}: the keys are good, so these data break the signature"
            return Told("refused", 401, reason)


def add(list_id: str, body: bytes) -> Request:
    return Request("POST", f"/v1/contacts.json/{list_id}/contacts/", body, meter=METER)


def edit(list_id: str, contact_id: str, body: bytes) -> Request:
    return Request("POST", f"/v1/contacts.json/{list_id}/contacts/{contact_id}", body, meter=METER)


def delete(list_id: str, contact_id: str) -> Request:
    target = f"/v1/contacts.json/{list_id}/contacts/{contact_id}"
    return Request("DELETE", target, NO_DATA_WRITE, meter=METER)


class Scope:
    """Whether a delete in one list takes the contact out of the others too (6)."""

    def __init__(self, said: str, findings: dict[str, Any]) -> None:
        self._said, self._findings = said, findings
        self.turn = asyncio.Lock()  # while it is not known, one contact at a time is risked

    @property
    def is_known(self) -> str | None:
        """'list' or 'account'; None while nobody knows."""
        known = self._findings.get("delete_scope") if self._said == "unknown" else self._said
        return known if known in ("list", "account") else None

    def learn(self, found: str) -> None:
        self._findings["delete_scope"] = found


class Errand:
    """One change on its way. Once a request was applied, no fault says that nothing was."""

    def __init__(self, calls: Calls, scope: Scope, plan: Plan) -> None:
        self._calls, self._scope, self._plan = calls, scope, plan
        self._applied = self._added = self._deleted = False

    async def run(self) -> Outcome:
        """Carry the plan out."""
        try:
            outcome = await self._steps()
        except ProviderError as err:
            if not self._applied:
                raise
            raise halfway(err) from err
        if isinstance(outcome, Waits) and self._applied:
            return Waits(outcome.scan_of, doubtful=True)
        return outcome or self._done()

    async def _steps(self) -> Outcome | None:
        plan = self._plan
        for step in (self._look, self._edit, self._join, self._leave):
            if (outcome := await step()) is not None:
                return outcome
        plan.held = {there: ours for there, ours in plan.held.items() if not plan.takes_out}
        return None

    def _done(self) -> Outcome:
        plan, want = self._plan, self._plan.change.want
        if plan.change.verb is Verb.PUT and want is not None and plan.takes_out and want.subscribed:
            return Absent("it is in no list")
        return Applied(plan.remembered(), tuple(plan.lacking))

    async def _look(self) -> Outcome | None:
        plan = self._plan
        for there, contact_id in plan.looks.items():
            if await self._calls.contact(there, contact_id) is not None:
                plan.held.setdefault(there, plan.source(there))
            elif plan.returns:  # taken out of it, as was to be expected
                plan.ids.pop(there)
                plan.edits.pop(there, None)
                plan.joins.append(there)
            else:
                return Waits(plan.source(there))
        return None

    async def _edit(self) -> Outcome | None:
        plan = self._plan
        for there, contact_id in plan.edits.items():
            told = await self._calls.write(edit(there, contact_id, plan.body))
            if told.kind == "gone":
                return await self._gone(there)
            if told.kind != "done":
                return self._rejected(told, there)
            plan.held[there] = plan.source(there)
            self._applied = True
        return None

    async def _join(self) -> Outcome | None:
        plan = self._plan
        for there in plan.joins:
            told = await self._calls.write(add(there, plan.body))
            source = plan.source(there)
            if told.kind == "there":
                if there in plan.missed:  # known there, and in no page: not active any more
                    evidence = {"list": source, "add": told.text, "pages": "do not show it"}
                    return Vanished(evidence)
                return Waits(source)
            if told.kind != "done":
                what = "is not there any more" if told.kind == "gone" else told.text
                if not self._added:
                    return self._rejected(told, there)
                plan.lacking.append(f"list:{source} {what}")
                continue
            plan.held[there] = source
            self._applied = self._added = True
        return None

    async def _leave(self) -> Outcome | None:
        plan = self._plan
        for there, contact_id in list(plan.leaves.items()):
            if plan.takes_out or self._scope.is_known == "list":
                outcome = await self._delete(there, contact_id)
            elif self._scope.is_known == "account":
                outcome = await self._stays(there, contact_id, ACCOUNT_WIDE)
            else:
                async with self._scope.turn:
                    outcome = await self._delete_with_care(there, contact_id)
            if outcome is not None:
                return outcome
        return None

    async def _delete(self, there: str, contact_id: str) -> Outcome | None:
        plan = self._plan
        told = await self._calls.write(delete(there, contact_id))
        if told.kind not in ("done", "gone"):
            if not self._added:
                return self._rejected(told, there)
            return await self._stays(there, contact_id, told.text)
        self._applied = True
        self._deleted = told.kind == "done"
        plan.ids.pop(there, None)
        plan.held.pop(there, None)
        return None

    async def _stays(self, there: str, contact_id: str, why: str) -> Outcome | None:
        """A list that is not left holds a record all the same: what changed is sent there too."""
        plan = self._plan
        plan.lacking.append(f"list:{plan.source(there)} not left: {why}")
        plan.stuck.append(there)
        if plan.differs:
            told = await self._calls.write(edit(there, contact_id, plan.body))
            if told.kind == "gone":
                plan.ids.pop(there, None)
                plan.held.pop(there, None)
            self._applied = True
        return None

    async def _delete_with_care(self, there: str, contact_id: str) -> Outcome | None:
        """Delete in one list, then look in another: is the contact gone from there as well?"""
        if known := self._scope.is_known:  # found out while this one waited for its turn
            if known == "account":
                return await self._stays(there, contact_id, ACCOUNT_WIDE)
            return await self._delete(there, contact_id)
        if (witness := await self._witness(there, contact_id)) is None:
            return await self._stays(there, contact_id, UNSEEN)
        outcome = await self._delete(there, contact_id)
        if outcome is not None or not self._deleted:  # what was gone before teaches nothing
            return outcome
        if await self._calls.contact(*witness) is not None:
            self._scope.learn("list")
            return None
        self._scope.learn("account")
        evidence = {
            "why": "deletes of this account are account-wide: ours from one list took the contact "
            "out of the others too; it is not added again unless a person says so",
            "left": self._plan.source(there),
            "gone from": self._plan.source(witness[0]),
        }
        return Vanished(evidence)

    async def _witness(self, there: str, contact_id: str) -> tuple[str, str] | None:
        """A list where the contact is to stay, and its id there, seen just now.

        An id that is not known yet may be the same in every list.
        """
        plan = self._plan
        for one in plan.held:
            if one == there or one in plan.leaves:
                continue
            number = plan.ids.get(one, contact_id)
            if await self._calls.contact(one, number) is not None:
                return one, number
        return None

    async def _gone(self, there: str) -> Outcome:
        """404 on an edit: the contact's or the list's? Two scans decide over a contact."""
        source = self._plan.source(there)
        if there not in await self._calls.lists():
            return Rejected(f"list {source} is not there any more (its id was {there})", 404)
        return Waits(source)

    def _rejected(self, told: Told, there: str) -> Rejected:
        what = "the list is not there any more" if told.kind == "gone" else told.text
        return Rejected(f"list {self._plan.source(there)}: {what}", told.status)


def halfway(err: ProviderError) -> ProviderError:
    """The same fault for a change whose earlier requests were applied."""
    kind: Callable[..., ProviderError] = type(err)
    if isinstance(err, Transient | Refused):
        kind = Ambiguous  # refused keys show again in the first request of the next try
    elif isinstance(err, Indivisible):
        kind = Unintelligible
    elif isinstance(err, Misconfigured):
        kind = HalfDone
    reason = f"{err.reason} (earlier requests of this change were applied)"
    return kind(reason, status=err.status, after=err.after)
