"""One contact on its own: look, edit, put back. Reference, sections 3, 5 and 6.

A PUT replaces the whole document, so it is always the one just read, changed: other fields, and
lists that are not ours, stay as they are. Everything here may be repeated.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from syncd.errors import Ambiguous, Indivisible, Misconfigured, ProviderError, Unintelligible
from syncd.model import (
    Absent,
    Answer,
    Applied,
    Change,
    OptedOut,
    Outcome,
    Person,
    Postponed,
    Rejected,
    Vanished,
    Verb,
)
from syncd.providers.constantcontact_answers import is_opted_out, said
from syncd.providers.constantcontact_atom import Entry, entry, made, number_of
from syncd.providers.constantcontact_calls import Calls
from syncd.providers.constantcontact_calls import Person as Record
from syncd.providers.constantcontact_translate import (
    LENGTHS,
    Rules,
    address_of,
    differs,
    elements,
    email_fault,
)

Known = Mapping[str, Record | None]

BY_OWNER = "ACTION_BY_CUSTOMER"  # the other one, the person's own act, is never a sync's to claim
NO_RETURN = "subscription: the person said no there; only the person can take that back"
NOT_DELETED = "deletion: contacts cannot be deleted there; it has left our lists"
_STATUS = "Status"


class Stopped(Exception):
    """The provider refused this one document."""

    def __init__(self, outcome: Outcome) -> None:
        super().__init__()
        self.outcome = outcome


class Single:
    """One change at a time."""

    def __init__(self, calls: Calls, rules: Rules, known: Known) -> None:
        """known: what a search has just told of addresses."""
        self._calls, self._rules, self._known = calls, rules, known

    async def run(self, change: Change) -> Outcome:
        try:
            return await self._run(change)
        except Stopped as err:
            return err.outcome
        except Indivisible as err:
            return Rejected(err.reason, err.status)

    async def _run(self, change: Change) -> Outcome:
        want = change.want
        if change.verb is Verb.ERASE:
            return await self._erase(change)
        if change.verb is not Verb.PUT or want is None:
            return await self._leave(change)
        if not want.subscribed:
            return await self._silence(change, want)
        return await self._keep(change, want)

    # ── Looking ─────────────────────────────────────────────────────────────────────────────

    async def locate(self, change: Change, email: str, *, anew: bool = False) -> Entry | None:
        """The whole record: by its number where that is known to be this address's, else by
        address; a number that is gone is looked for once more (7)."""
        if (number := number_for(change, email)) is not None:
            found = await self._calls.contact(number)
            if found is not None and address_of(found.text("EmailAddress")) == email:
                return found
        known = self._known
        if anew or email not in known:
            known = await self._calls.search([email])
        record = known.get(email)
        return None if record is None else await self._calls.contact(record.number)

    # ── Not mailed ──────────────────────────────────────────────────────────────────────────

    async def _silence(self, change: Change, want: Person) -> Outcome:
        """The person's own no: final there. What an older address still has leaves our lists."""
        email, was = address_of(want.email), change.was
        found = await self.locate(change, email)
        if found is not None and not opted_out(found):
            answer = await self._calls.send("DELETE", f"/contacts/{found.number}")
            if answer.status not in (204, 200, 404):
                return Rejected(said(answer), answer.status)
        if was is not None and address_of(was.email) not in ("", email):
            await self._then_part(change, was)
        if found is not None:
            return Applied({"id": found.number})
        return Absent("not there, and not to be created")

    async def _leave(self, change: Change) -> Outcome:
        if change.was is not None and change.was.email:
            await self._part(change, address_of(change.was.email), change.was)
        lacking = (NOT_DELETED,) if change.verb is Verb.DELETE else ()
        return Applied(lacking=lacking)

    async def _part(self, change: Change, email: str, was: Person) -> None:
        """Out of our lists; in those of others it stays."""
        found = await self.locate(change, email)
        if found is None or opted_out(found):
            return
        held = found.lists
        stays = [uri for number, uri in held.items() if number not in was.lists.values()]
        if len(stays) < len(held):
            found.put_lists(stays)
            await self._put(found)

    async def _then_part(self, change: Change, was: Person) -> None:
        """Where it was before; whatever fails now, the first step has been applied."""
        try:
            await self._part(change, address_of(was.email), was)
        except ProviderError as err:
            if err.may_be_applied:
                raise
            raise Ambiguous(err.reason, status=err.status, after=err.after) from err

    async def _erase(self, change: Change) -> Outcome:
        """Every field emptied, every list left; whoever said no cannot be written to any more."""
        person = change.want or change.was
        found = None
        if person is not None and person.email:
            found = await self.locate(change, address_of(person.email))
        elif (number := (change.remote or {}).get("id")) is not None:
            found = await self._calls.contact(str(number))
        if found is None or opted_out(found):
            return Applied()
        for name in LENGTHS:
            if name != "EmailType" and found.text(name):
                found.put(name, "")
        found.put_lists(())
        await self._put(found)
        return Applied()

    # ── Mailed ──────────────────────────────────────────────────────────────────────────────

    async def _keep(self, change: Change, want: Person) -> Outcome:
        email, was = address_of(want.email), change.was
        if fault := email_fault(email):
            return Rejected(f"EmailAddress {fault}")
        moved = was is not None and address_of(was.email) not in ("", email)
        lacking: list[str] = []
        values = elements(want, self._rules, lacking)
        is_new = was is None and not change.remote and not change.doubtful
        found = None if is_new and change.may_create else await self.locate(change, email)
        if found is None:
            outcome = await self._create(change, want, values, lacking, moved=moved)
        else:
            outcome = await self._edit(change, want, found, values, lacking)
        if moved and was is not None and isinstance(outcome, Applied | Absent):
            await self._then_part(change, was)
        return outcome

    async def _create(
        self, change: Change, want: Person, values: Mapping[str, str], lacking: list[str],
        *, moved: bool,
    ) -> Outcome:  # fmt: skip
        if not want.lists:
            return Absent("it is in no list")
        may = change.may_create or change.resubscribe or moved or change.doubtful
        if not may:
            if change.was is not None:
                return Vanished({"search": "nobody of that address, in any status"})
            return Absent("not there, and not to be created")
        document = made("Contact", "Contact")
        document.put("EmailAddress", address_of(want.email))
        for name, text in values.items():
            if text:
                document.put(name, text)
        document.put("OptInSource", BY_OWNER)
        document.put_lists([await self._calls.list_uri(one) for one in want.lists.values()])
        answer = await self._calls.send("POST", "/contacts", document)
        if answer.status == 409:  # known in some status, whatever the search said
            found = await self.locate(change, address_of(want.email), anew=True)
            if found is None:
                return Rejected(f"known there, and not shown: {said(answer)}", 409)
            return await self._edit(change, want, found, values, lacking)
        if answer.status >= 300:
            return Rejected(said(answer), answer.status)
        return Applied({"id": _number(answer)}, tuple(lacking))

    async def _edit(
        self, change: Change, want: Person, found: Entry, values: Mapping[str, str],
        lacking: Sequence[str],
    ) -> Outcome:  # fmt: skip
        """The record as it is, with what is ours changed."""
        remote = {"id": found.number}
        if opted_out(found):
            return self._said_no(change, remote, lacking, found)
        held, was = found.lists, change.was
        if (left := _left_there(change, held)) is not None:
            if not await self._calls.has_list(want.lists[left]):
                return Rejected(f"list {left}: it is not there any more", 404)
            return OptedOut(list_id=left, evidence={"left": "a list, at the provider"})
        ours = {*want.lists.values(), *(was.lists.values() if was is not None else ())}
        lists = {number: uri for number, uri in held.items() if number not in ours}
        for number in want.lists.values():
            lists[number] = held.get(number) or await self._calls.list_uri(number)
        there = {name: found.text(name) for name in LENGTHS}
        if lists.keys() == held.keys() and not differs(values, there):
            return Applied(remote, tuple(lacking))
        for name, text in values.items():
            found.put(name, text)
        found.put_lists(lists.values())
        if await self._put(found):
            return Applied(remote, tuple(lacking))
        return self._said_no(change, remote, lacking, found)

    async def _put(self, document: Entry) -> bool:
        """Put it back; False where the person has said no meanwhile."""
        document.put("OptInSource", BY_OWNER)
        answer = await self._calls.send("PUT", f"/contacts/{document.number}", document)
        if answer.status < 300:
            return True
        if answer.status == 404:
            raise Stopped(Postponed("it was there a moment ago, and is not any more"))
        if answer.status == 403 or is_opted_out(answer):  # or is it a matter of permission?
            now = await self._calls.contact(document.number)
            if now is not None and opted_out(now):
                return False
        if answer.status == 403:
            raise Misconfigured(f"contacts may not be updated: {said(answer)}", status=403)
        raise Stopped(Rejected(said(answer), answer.status))

    @staticmethod
    def _said_no(
        change: Change, remote: Mapping[str, str], lacking: Iterable[str], found: Entry
    ) -> Outcome:
        """News, unless we came with newer consent: there only the person can give it."""
        if change.resubscribe:
            return Applied(remote, (*lacking, NO_RETURN))
        return OptedOut(occurred_at=None, evidence=evidence(found))


def number_for(change: Change, email: str) -> str | None:
    """The record's number, if what is remembered is of this address."""
    was = change.was
    same = was is not None and address_of(was.email) == email
    number = (change.remote or {}).get("id")
    return str(number) if number is not None and (same or was is None) else None


def _left_there(change: Change, held: Mapping[str, str]) -> str | None:
    """A list that the contact should be in and was, but has been taken out of over there."""
    want, was = change.want, change.was
    if want is None or was is None or not was.subscribed:
        return None
    if address_of(was.email) != address_of(want.email):
        return None
    sure = change.sure_lists
    stays = (one for one, number in want.lists.items() if sure.get(one) == number)
    return next((one for one in stays if want.lists[one] not in held), None)


def opted_out(found: Entry) -> bool:
    return found.text(_STATUS).casefold() == "do not mail"


def evidence(found: Entry) -> dict[str, str]:
    """What the provider says of a no, without the person's data."""
    told = {name: found.text(name) for name in (_STATUS, "OptOutTime", "OptOutSource")}
    return {name: text for name, text in told.items() if text}


def _number(answer: Answer) -> str:
    if location := answer.headers.get("location"):
        return number_of(location)
    try:
        return entry(answer, "Contact").number
    except Unintelligible as err:
        raise Unintelligible(f"made, but not named: {err.reason}", status=answer.status) from None
