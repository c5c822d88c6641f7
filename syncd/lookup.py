"""Before anything is sent for whoever is in doubt, the provider is asked what is there."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any

from syncd.claim import Claim
from syncd.decide import Entry
from syncd.found import address_there, dump, is_taken, judge, remembered, to_scan
from syncd.journal import Journal
from syncd.model import Can, Found, OptedOut, Rejected, Traits, Verb, Waits
from syncd.outcomes import hindered, located, settled, unsent
from syncd.pushed import Pushed


@dataclass(slots=True)
class LookUp:
    """Of one claim, at one adapter."""

    adapter: Any
    journal: Journal
    refresh_opt_outs: Callable[[int], Awaitable[set[str]]]

    @property
    def can(self) -> Can:
        traits: Traits = self.adapter.traits
        return traits.can

    async def ask(self, claim: Claim, pushed: Pushed) -> Sequence[Entry]:
        """Settle what a look-up decides; return what is to be sent, with what was found."""
        entries = await self._mailable(claim, pushed)
        ask = [one for one in entries if self._must_look(one)]
        if self.can & Can.SORTS_DOUBT:  # but of whom nothing is to be sent
            ask = [one for one in entries if one.looks_only]
        if not ask:
            return entries
        if not self.can & Can.FIND or self.can & Can.SORTS_DOUBT:
            return self._cannot_look(entries, ask, pushed)
        found = await self._own(ask, await self.adapter.find([one.change for one in ask]))
        by_address = self.adapter.traits.key == "address"
        await self.journal.remember_remote(list(remembered(ask, found, by_address)))
        by_contact = dict(zip((one.contact_id for one in ask), found, strict=True))
        news = await self._said_since(ask, found)
        kept, at = self._sorted(entries, by_contact, news, pushed)
        await self.journal.try_at(claim.number, at)
        return kept

    async def _mailable(self, claim: Claim, pushed: Pushed) -> Sequence[Entry]:
        """Without those for whom mail was to be turned on, and who have said no by now."""
        wants = {one.contact_id: one.change.want for one in claim.entries if one.change.resubscribe}
        on = {key: want.email for key, want in wants.items() if want is not None}
        if not on:
            return claim.entries
        refused = await self.refresh_opt_outs(claim.number)
        refused |= on.keys() - await self.journal.mailable(on)
        return self._without(claim.entries, refused, pushed)

    def _sorted(
        self, entries: Sequence[Entry], found: Mapping[str, Found], news: Set[str], pushed: Pushed
    ) -> tuple[Sequence[Entry], Sequence[tuple[str, str]]]:
        """What is still to be sent; and of whom is in doubt the address that is tried."""
        reads = bool(self.can & Can.OPT_OUT)
        kept: list[Entry] = []
        at: list[tuple[str, str]] = []
        for one in entries:
            told = found.get(one.contact_id)
            judged = judge(one, told, reads, one.contact_id in news)
            if one.looks_only and not isinstance(judged, OptedOut):
                is_there = told is not None and told.remote is not None
                pushed.results.append(located(one, is_there=is_there))
                at += [(one.contact_id, address_there(one, told))] if told is not None else []
            elif told is not None and is_taken(one, told):
                pushed.results.append(hindered(one))
            elif isinstance(judged, Entry):
                kept.append(judged)
            else:
                pushed.results.append(settled(one, judged))
        at += [(e.contact_id, e.email) for e in kept
               if e.change.doubtful and e.sent_email not in (None, e.email)]  # fmt: skip
        return kept, at

    async def _own(self, ask: Sequence[Entry], found: Sequence[Found]) -> Sequence[Found]:
        """A record found by its address may be somebody else's: then ours is one of its twins, or
        not there, and `email` tells that the other one's is."""
        if self.adapter.traits.key != "remote id":
            return found
        candidates = [
            (entry, [(one, dump(one.remote or {})) for one in (first, *first.twins)])
            for entry, first in zip(ask, found, strict=True)
        ]
        told = [
            (entry.contact_id, remote)
            for entry, there in candidates
            for one, remote in there
            if one.remote and one.remote != entry.change.remote
        ]
        others = await self.journal.others_records(told)
        return [
            next(
                (one for one, key in there if (entry.contact_id, key) not in others),
                Found(None, there[0][0].email),
            )
            for entry, there in candidates
        ]

    async def _said_since(self, ask: Sequence[Entry], found: Sequence[Found]) -> set[str]:
        """Who said no after a lost try had turned mail on: what is there is not what the mirror
        knows, so the try has arrived, and none of ours has turned it off again. Where a no is known
        it may be that one, said after an earlier try."""
        unsure = [
            (entry, one)
            for entry, one in zip(ask, found, strict=True)
            if one.opted_out is not None and one.remote == entry.change.remote
            and entry.change.resubscribe and entry.change.doubtful
            and not entry.silenced and not entry.refused
        ]  # fmt: skip
        if not unsure or not self.can & Can.COMPARE:
            return set()
        unlike = await self.adapter.comparer()
        return {
            entry.contact_id
            for entry, one in unsure
            if one.fields is not None and entry.change.was is not None
            and unlike(entry.change.was, one.fields)
        }  # fmt: skip

    def _must_look(self, entry: Entry) -> bool:
        if entry.change.verb is Verb.ERASE:
            return False  # harmless to repeat, and the adapter looks for more than one record
        if entry.look_first or entry.change.resubscribe:
            return True
        may_be_gone = entry.change.doubtful or entry.mirror_state == "withdrawn"
        return may_be_gone and not self.can & Can.REPEAT

    @staticmethod
    def _without(entries: Sequence[Entry], refused: set[str], pushed: Pushed) -> Sequence[Entry]:
        """Leave out whoever the latest reading of opt-outs names: it is planned anew."""
        if not refused:
            return entries
        kept = []
        for one in entries:
            if one.contact_id in refused or one.email in refused:
                pushed.results.append(unsent(one, "opted out, or moved, meanwhile"))
            else:
                kept.append(one)
        return kept

    def _cannot_look(
        self, entries: Sequence[Entry], ask: Sequence[Entry], pushed: Pushed
    ) -> Sequence[Entry]:
        """Doubt that no look-up can end: wait for a scan, or leave it to a person."""
        doubtful = {e.contact_id for e in ask if e.look_first or e.change.doubtful}
        for one in entries:
            if one.contact_id not in doubtful:
                continue
            if not self.can & Can.SCAN:
                pushed.results.append(settled(one, Rejected("outcome unknown: look there")))
            elif lists := to_scan(one, self.adapter.traits):
                pushed.waits[one.contact_id] = set(lists)
                pushed.results.append(settled(one, Waits(lists[0])))
            elif one.looks_only:
                pushed.results.append(located(one, is_there=False))
            else:  # in no list it cannot be there at all
                doubtful.discard(one.contact_id)
        return [one for one in entries if one.contact_id not in doubtful]
