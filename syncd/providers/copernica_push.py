"""One change on its way to Copernica: look, write the fields, switch the interests.

Updates go to the profile's id, never with `create`; a new contact goes by our key. Once a request
was applied, no fault says that nothing was. Reference, sections 3e, 5 and 6.
"""

from __future__ import annotations

from syncd.errors import Ambiguous, Indivisible, ProviderError, Unintelligible
from syncd.model import (
    Absent,
    Applied,
    Change,
    OptedOut,
    Outcome,
    Person,
    Rejected,
    Vanished,
    Verb,
)
from syncd.providers.copernica_alive import Alive
from syncd.providers.copernica_answers import Profile, Told
from syncd.providers.copernica_calls import Calls, condition
from syncd.providers.copernica_database import Database, Place
from syncd.providers.copernica_find import Finder, no_of, number_of
from syncd.providers.copernica_translate import (
    address,
    content,
    email_fault,
    excess,
    key_fault,
    key_of,
)


class Errand:
    """One change."""

    def __init__(self, calls: Calls, place: Place, alive: Alive, change: Change) -> None:
        self._calls, self._place, self._alive, self._change = calls, place, alive, change
        self._finder = Finder(calls)
        self._applied = False
        self._lacking: list[str] = []

    async def run(self) -> Outcome:
        """Carry it out."""
        change = self._change
        try:
            if change.verb is Verb.PUT and change.want is not None:
                return await self._put(change.want)
            return await self._take_away()
        except ProviderError as err:
            if not self._applied or err.may_be_applied:
                raise
            raise _halfway(err) from err

    # ── Put ─────────────────────────────────────────────────────────────────────────────────

    async def _put(self, want: Person) -> Outcome:
        change = self._change
        if fault := email_fault(want.email):
            return Rejected(f"email {fault}")
        if fault := key_fault(change.contact_id):
            return Rejected(f"the contact's id {fault}")
        database = await self._place.writing(want.fields)
        if want.subscribed and (fault := excess(want.email, database.fields[database.email])):
            return Rejected(f"email {fault}")
        database, lost = await self._with_lists(database, want)
        if lost is not None:
            return Rejected(f"list {lost}: its {self._kind} is not there any more", 404)
        number, seen = number_of(change), None
        if number is None:
            seen = await self._looked_for(database, want)
            if seen is None:
                return await self._not_there(database, want)
            number = seen.id
            if want.subscribed and not change.resubscribe and (no := no_of(database, seen)):
                return no
        elif want.subscribed:
            if not await self._alive.is_there(number):
                return Vanished({"profile": number, "says": "it is not there any more"})
        else:
            seen = await self._calls.profile(number)
            if seen is None:
                return Absent("not there, and not to be mailed")
        fields = self._fields(database, want)
        if not want.subscribed:
            fields |= self._off(database, seen)
        elif change.resubscribe:
            fields |= database.on()
        return await self._update(database, number, fields)

    @property
    def _kind(self) -> str:
        return "interest" if self._place.ours.prefix is None else "field"

    async def _with_lists(self, database: Database, want: Person) -> tuple[Database, str | None]:
        """The database, read again where a list is not in it; and a list that is gone for good."""
        if all(there in database.lists for there in want.lists.values()):
            return database, None
        database = await self._place.look(anew=True)
        gone = [ours for ours, there in want.lists.items() if there not in database.lists]
        return database, gone[0] if gone and want.subscribed else None

    async def _looked_for(self, database: Database, want: Person) -> Profile | None:
        """Somebody new is looked for by the address alone: the key goes with the write."""
        change = self._change
        found = None
        if change.was is not None or change.doubtful or not change.may_create:
            found = await self._finder.by_key(database, change.contact_id)
        return found or await self._finder.by_address(database, want, change.contact_id)

    async def _not_there(self, database: Database, want: Person) -> Outcome:
        if not want.subscribed or not self._change.may_create:
            return Absent("not there, and not to be created")
        return await self._create(database, want)

    def _fields(self, database: Database, want: Person) -> dict[str, str]:
        """What the profile is to hold. Nothing of it turns mail on."""
        fields = content(want, database.fields, self._lacking)
        fields[database.ours.key] = key_of(self._change.contact_id)
        if fault := excess(want.email, database.fields[database.email]):
            # A no must not wait until somebody repairs the address: the old one still gets mail.
            self._lacking.append(f"field:{database.email} {fault}")
        else:
            fields[database.email] = address(want.email)
        if database.ours.prefix is not None:
            fields |= {
                database.lists[one]: database.fields[database.lists[one]].flag(bool(on))
                for one, on in self._members(database).items()
            }
        return fields

    def _members(self, database: Database) -> dict[str, int]:
        """Remote list id → in it (1) or not (0), of those that the change is about.

        A list that the contact was in and stays in is not written: it may have left it there.
        """
        change = self._change
        want, was = change.want, change.was
        on = set(want.lists.values()) if want is not None and want.subscribed else set()
        before = set(was.lists.values()) if was is not None else set()
        known = {*on, *(want.lists.values() if want else ()), *before}
        if want is not None and was is not None and was.subscribed:
            known -= on & set(change.sure_lists.values())
        return {one: int(one in on) for one in sorted(known) if one in database.lists}

    @staticmethod
    def _off(database: Database, seen: Profile | None) -> dict[str, str]:
        """Mail is turned off, and marked as ours, unless the person has done so before."""
        said_no = seen is not None and database.is_off(seen) and not database.is_ours(seen)
        return dict(database.off) if said_no else {**database.off, database.ours.mark: "1"}

    async def _update(self, database: Database, number: str, fields: dict[str, str]) -> Outcome:
        told = await self._calls.put_fields(number, fields)
        if (outcome := self._judged(told, number)) is not None:
            return outcome
        self._applied = True
        return await self._finish(database, number)

    async def _finish(self, database: Database, number: str) -> Outcome:
        """Interests, where lists are kept so; then all is done."""
        if (outcome := await self._switch(database, number)) is not None:
            return outcome
        return Applied({"id": number}, tuple(self._lacking))

    async def _switch(self, database: Database, number: str) -> Outcome | None:
        members = self._members(database)
        if database.ours.prefix is not None or not members:
            return None
        named = {database.lists[one]: on for one, on in members.items()}
        told = await self._calls.switch(number, named)
        outcome = self._judged(told, number)
        self._applied = self._applied or outcome is None
        return outcome

    def _judged(self, told: Told, number: str) -> Outcome | None:
        """None: it was done."""
        if told.kind == "done":
            return None
        if told.kind == "gone":
            return Vanished({"profile": number, "says": told.text})
        return Rejected(told.text, told.status)

    # ── Create ──────────────────────────────────────────────────────────────────────────────

    async def _create(self, database: Database, want: Person) -> Outcome:
        """By the key, with the key in the body: a repeat makes no second one."""
        fields = self._fields(database, want)
        key = condition(database.ours.key, "==", fields[database.ours.key])
        told = await self._calls.upsert(key, fields)
        if told.kind != "done":
            return await self._refused(database, told)
        self._applied = True
        if told.created is None:
            return await self._met(database)
        self._alive.saw(told.created)
        if not database.begins_on:
            again = await self._calls.put_fields(told.created, database.on())
            if (outcome := self._judged(again, told.created)) is not None:
                return outcome
        return await self._finish(database, told.created)

    async def _met(self, database: Database) -> Outcome:
        """No id was told: it was there. Whose is it by now, and is it mailed?"""
        found = await self._finder.by_key(database, self._change.contact_id)
        if found is None:
            raise Ambiguous("a profile was written, and is not shown yet")
        if not self._change.resubscribe and (no := no_of(database, found)):
            return no
        self._alive.saw(found.id)
        return await self._finish(database, found.id)

    async def _refused(self, database: Database, told: Told) -> Outcome:
        """Perhaps it is there already, and would be a double."""
        found = await self._finder.by_key(database, self._change.contact_id)
        if found is None:
            return Rejected(told.text, told.status)
        if no := no_of(database, found):
            return no
        self._alive.saw(found.id)
        assert self._change.want is not None
        return await self._update(database, found.id, self._fields(database, self._change.want))

    # ── Withdraw, delete, erase ─────────────────────────────────────────────────────────────

    async def _take_away(self) -> Outcome:
        change = self._change
        database = await self._place.writing()
        if change.verb is Verb.ERASE:
            return await self._erase(database)
        number = number_of(change)
        if number is None:
            found = await self._finder.find(database, change)
            if found.remote is None:
                return Applied()
            number = str(found.remote["id"])
        if change.verb is Verb.DELETE:
            return await self._unread_no(database, number) or await self._delete(number)
        return await self._withdraw(database, number)

    async def _withdraw(self, database: Database, number: str) -> Outcome:
        seen = await self._calls.profile(number)
        if seen is None:
            return Applied()
        fields = self._off(database, seen)
        if database.ours.prefix is not None:
            left = self._members(database)
            fields |= {
                database.lists[one]: database.fields[database.lists[one]].flag(False)
                for one in left
            }
        outcome = await self._update(database, number, fields)
        return Applied() if isinstance(outcome, Vanished) else outcome

    async def _unread_no(self, database: Database, number: str) -> OptedOut | None:
        """A no that no reading has told of yet: it would go with the profile."""
        was = self._change.was
        if was is None or not was.subscribed or self._change.doubtful:
            return None
        seen = await self._calls.profile(number)
        return None if seen is None or database.is_ours(seen) else no_of(database, seen)

    async def _delete(self, number: str, *, completely: bool = False) -> Outcome:
        told = await self._calls.delete(number, completely=completely)
        if told.kind == "refused":
            return Rejected(told.text, told.status)
        self._applied = True
        return Applied()

    async def _erase(self, database: Database) -> Outcome:
        """Every profile of the person: by id, by key, by address. Blanked, then deleted."""
        change = self._change
        found = {one.id for one in await self._finder.all_by_key(database, change.contact_id)}
        person = change.was or change.want
        if person is not None:
            found |= {one.id for one in await self._finder.at_address(database, person.email)}
        number = number_of(change)
        if number is not None and number not in found and await self._calls.profile(number):
            found.add(number)  # what is gone already keeps nothing that is put
        for one in sorted(found, key=int):
            outcome = await self._blank_and_delete(database, one)
            if isinstance(outcome, Rejected):
                return outcome
        if number is None or number in found:
            return Applied()
        return await self._delete(number, completely=True)

    async def _blank_and_delete(self, database: Database, number: str) -> Outcome:
        blank = {name: "" for name in database.fields if name != database.ours.key}
        told = await self._calls.put_fields(number, blank)
        if told.kind == "refused":
            return Rejected(told.text, told.status)
        self._applied = True
        return await self._delete(number, completely=True)


def _halfway(err: ProviderError) -> ProviderError:
    """The same fault for a change whose earlier requests were applied.

    What needs a person shows again in the first request of the next try.
    """
    kind = Unintelligible if isinstance(err, Indivisible) else Ambiguous
    reason = f"{err.reason} (earlier requests of this change were applied)"
    return kind(reason, status=err.status, after=err.after)
