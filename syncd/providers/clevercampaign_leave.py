"""A contact that is to leave CleverCampaign: by DELETE, or where the operator says so by status.

A no that could not be conveyed is never taken for conveyed (reference, 6; design, section 8).
"""

from __future__ import annotations

from collections.abc import Sequence

from syncd.model import Absent, Applied, Outcome, Postponed, Rejected, Verb
from syncd.providers.clevercampaign_answers import Record, Told, record_id
from syncd.providers.clevercampaign_push import leave_lists
from syncd.providers.clevercampaign_translate import content
from syncd.providers.clevercampaign_work import LATER, NO_ID, Work

WAITS = (
    "waits: has said no, and whether the account has the contact cannot be read. Correct the "
    "settings that `syncd check` names, or set options.account_is_empty if nobody is in it"
)
_SETTING = "contact_path"


async def withdraw_by_status(work: Work) -> Outcome:
    """Out of our lists, and unsubscribed; the record stays."""
    contact_id, o = work.contact_id, work.options
    if contact_id is None:
        found = await work.look()
        if not found:
            return Applied() if found is not None else Rejected(NO_ID)
        contact_id = record_id(found[0], o) or ""
    was = work.change.was
    fields = {} if was is None else content(was, o, [])
    told = await work.calls.update(contact_id, {**fields, o.status_field: o.status_unsubscribed})
    if told.kind not in ("done", "gone"):
        return Rejected(work.explained(o.update_verb, told, "update_verb"), told.status)
    work.applied = True
    if told.kind == "done" and o.lists_enabled and was is not None:
        await leave_lists(work, contact_id, dict(was.lists))
    return Applied()


class Leave:
    """DELETE of one contact; of whoever else has the address, where the first was not there."""

    def __init__(self, work: Work) -> None:
        self._work = work
        self._is_silence = work.change.verb is Verb.PUT

    async def run(self) -> Outcome:
        work = self._work
        if work.deleted and self._is_silence and not work.change.doubtful:
            return Applied()
        if work.contact_id is None:
            return await self._unknown()
        return await self._delete(work.contact_id) or await self._done(work.contact_id)

    async def _unknown(self) -> Outcome:
        work = self._work
        found = await work.look()
        if found:
            return await self._delete_all(found) or await self._done(None)
        if found is None and work.change.verb is Verb.ERASE:
            return Applied()  # what is left for a person to do is told with the proof
        is_new = work.change.was is None
        if found is None and not (work.options.account_is_empty and is_new):
            if not self._is_silence:
                return Rejected(NO_ID)
            return Postponed(WAITS, LATER) if is_new else self._unconveyed(NO_ID)
        return (
            Absent("not there, and not to be mailed") if self._is_silence and is_new else Applied()
        )

    async def _done(self, contact_id: str | None) -> Outcome:
        """What was erased must not be there under another id either."""
        work = self._work
        if work.change.verb is Verb.ERASE and (found := await work.look()):
            others = [one for one in found if record_id(one, work.options) != contact_id]
            if (failed := await self._delete_all(others)) is not None:
                return failed
        return Applied({"id": contact_id, "gone": True})

    async def _delete_all(self, found: Sequence[Record]) -> Outcome | None:
        for one in found:
            told = await self._work.calls.delete(record_id(one, self._work.options) or "")
            if told.kind not in ("done", "gone"):
                return self._refused(told)
            self._work.applied = True
        return None

    async def _delete(self, contact_id: str) -> Outcome | None:
        """What went wrong; None if it is not there any more."""
        told = await self._work.calls.delete(contact_id)
        if told.kind == "done":
            self._work.applied = True
            return None
        if told.kind != "gone":
            return self._refused(told)
        return None if self._work.change.doubtful else await self._not_there(contact_id, told)

    async def _not_there(self, contact_id: str, told: Told) -> Outcome | None:
        """404 without an earlier try: gone by another hand, or is the path wrong?"""
        work = self._work
        found = await work.look() if work.email else None
        if found is not None:
            if any(record_id(one, work.options) == contact_id for one in found):
                return self._refused(told)
            return await self._delete_all(found if self._is_silence else ())
        if await work.account.reads_items():
            return None if await work.account.by_id(contact_id) is None else self._refused(told)
        return self._refused(told) if self._is_silence else None

    def _refused(self, told: Told) -> Outcome:
        why = self._work.explained("DELETE", told, _SETTING)
        return self._unconveyed(why) if self._is_silence else Rejected(why, told.status)

    def _unconveyed(self, why: str) -> Outcome:
        return Applied(lacking=(f"subscription: the no is not conveyed: {why}",))
