"""A contact that is to be at CleverCampaign: looked for, created or updated, then its lists.

Only a create may not be repeated, so it is never sent unseen (reference, 5 and 6).
"""

from __future__ import annotations

from collections.abc import Sequence

from syncd.errors import Unintelligible
from syncd.model import Absent, Applied, Outcome, Person, Postponed, Rejected, Vanished
from syncd.providers.clevercampaign_answers import Record, Told, made_id, record_id, records
from syncd.providers.clevercampaign_translate import content, email_fault, is_only_lacking
from syncd.providers.clevercampaign_work import LATER, NO_ID, Work

WAITS = (
    "waits: who is in the account cannot be read, so this might make a second contact. Correct the "
    "settings that `syncd check` names, or set options.account_is_empty if nobody is in it"
)


class Put:
    """PUT of one change: the record is to say what is wanted, be it a status of no."""

    def __init__(self, work: Work, want: Person) -> None:
        self._work, self._want = work, want
        self._looked = False

    async def run(self) -> Outcome:
        work, want = self._work, self._want
        if fault := email_fault(want.email):
            return Rejected(f"{work.options.email_field} {fault}")
        if not work.options.lists_enabled:
            work.lacking += [f"list:{one} not kept: lists_enabled is off" for one in want.lists]
        if work.contact_id is None:
            return await self._unknown()
        if work.account.can_be_read and is_only_lacking(work.change, work.options):
            return Applied(lacking=tuple(work.lacking))
        return await self._update(work.contact_id)

    @property
    def _may_create(self) -> bool:
        change = self._work.change
        return self._want.subscribed and (change.may_create or change.resubscribe)

    async def _unknown(self) -> Outcome:
        """No id is known: look; what is found is adopted, what is not may be made."""
        work = self._work
        if self._want.subscribed and not self._may_create and work.change.was is None:
            return Absent("not there, and not to be created")
        found = await work.look()
        if found:
            return await self._adopt(found)
        if self._may_create:
            sure = found is not None or work.account.pages or work.options.account_is_empty
            return await self._create() if sure or work.deleted else Postponed(WAITS, LATER)
        if found is None:
            return Rejected(NO_ID)
        if not self._want.subscribed:
            return Absent("not there, and not to be mailed")
        return Vanished({"why": "its id was never told, and no contact has its address"})

    async def _adopt(self, found: Sequence[Record]) -> Outcome:
        work, self._looked = self._work, True
        heeds = self._want.subscribed and not work.change.resubscribe
        if heeds and (no := work.refusal(found)) is not None:
            return no
        if len(found) > 1:
            work.lacking.append(f"double: {len(found)} contacts there have this address")
        contact_id = record_id(found[0], work.options)
        assert contact_id is not None
        return await self._update(contact_id)

    # ── Write ───────────────────────────────────────────────────────────────────────────────

    def _fields(self) -> dict[str, str]:
        """The subscription is left out unless it is turned off, or on with leave to do so."""
        o, work = self._work.options, self._work
        fields = content(self._want, o, work.lacking)
        if o.write_unsubscribe and not self._want.subscribed:
            fields[o.status_field] = o.status_unsubscribed
        elif o.write_unsubscribe and work.change.resubscribe:
            fields[o.status_field] = o.status_subscribed
        return fields

    async def _update(self, contact_id: str) -> Outcome:
        work = self._work
        told = await work.calls.update(contact_id, self._fields())
        if told.kind == "gone":
            return await self._gone(contact_id, told)
        if told.kind != "done":
            setting = "update_verb or contact_path"
            return Rejected(work.explained(work.options.update_verb, told, setting), told.status)
        work.applied = True
        found = records(told.answer, work.options) or ()
        if self._want.subscribed and (no := work.refusal(found)) is not None:
            if not work.change.resubscribe:
                return no
            work.lacking.append("resubscription: still unsubscribed there")
        return await self._done(contact_id, fresh=work.change.was is None)

    async def _gone(self, contact_id: str, told: Told) -> Outcome:
        """404 by id: is it gone, has it been made anew, or is it the path that is wrong?"""
        work, change = self._work, self._work.change
        found = await work.look()
        others = [one for one in found or () if record_id(one, work.options) != contact_id]
        if found and (self._looked or not others):
            what = work.explained(work.options.update_verb, told, "update_verb or contact_path")
            return Rejected(f"{what}; a search shows the contact", told.status)
        if others:
            return await self._adopt(others)
        known = found is not None or (
            await work.account.reads_items() and await work.account.by_id(contact_id) is None
        )
        if self._may_create and (known or not work.options.write_unsubscribe):
            return await self._create()
        if not known:
            what = work.explained(work.options.update_verb, told, "update_verb or contact_path")
            return Rejected(f"{what}; or it is gone, which cannot be read there", told.status)
        if not self._want.subscribed or not change.was:
            return Absent("not there any more")
        return Vanished({"id": contact_id, "status": told.status})

    async def _create(self) -> Outcome:
        work = self._work
        told = await work.calls.create(self._fields())
        if told.kind == "there" and (found := await work.look()):
            return await self._adopt(found)
        if told.kind != "done":
            return Rejected(work.explained("POST", told, "contact_path"), told.status)
        work.applied = True
        contact_id = made_id(told.answer, work.options, work.options.contact_path)
        if contact_id is None:
            found = await work.look()
            if found is not None and not found:
                raise Unintelligible("created, by its answer, and not found", status=told.status)
            contact_id = record_id(found[0], work.options) if found else None
        return await self._done(contact_id, fresh=True)

    # ── Lists ───────────────────────────────────────────────────────────────────────────────

    async def _done(self, contact_id: str | None, fresh: bool) -> Outcome:
        work = self._work
        if work.options.lists_enabled and contact_id is not None:
            await self._place(contact_id, fresh)
        remote = {} if contact_id is None else {"id": contact_id}
        return Applied(remote, tuple(work.lacking))

    async def _place(self, contact_id: str, fresh: bool) -> None:
        """Both repeat without harm; who is known is put only into lists that are new to it, or it
        would be put back into one that it has left there."""
        work, was = self._work, self._work.change.was
        held = {} if was is None else was.lists
        for ours, there in self._want.lists.items():
            if fresh or work.change.sure_lists.get(ours) != there:
                told = await work.calls.join(there, contact_id)
                if told.kind not in ("done", "there"):
                    work.lacking.append(f"list:{ours} not joined: {told.text}")
        stays = set(self._want.lists.values())
        await leave_lists(work, contact_id, {o: r for o, r in held.items() if r not in stays})


async def leave_lists(work: Work, contact_id: str, lists: dict[str, str]) -> None:
    """Take a contact out of these lists; who is not in one has left it."""
    for ours, there in lists.items():
        told = await work.calls.leave(there, contact_id)
        if told.kind not in ("done", "gone"):
            work.lacking.append(f"list:{ours} not left: {told.text}")
