"""The requests of one CleverTap push: uploads, address marks, deletions (3.1, 3.5, 5)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import orjson

from syncd.errors import (
    Ambiguous,
    Indivisible,
    Misconfigured,
    ProviderError,
    Refused,
    Transient,
    Unintelligible,
)
from syncd.model import Answer, Outcome, Postponed, Rejected, Request, Verb
from syncd.providers import Wire
from syncd.providers.clevertap_answers import refusals, succeeded
from syncd.providers.clevertap_translate import Draft

UPLOAD, SUBSCRIBE, DELETE = "/1/upload", "/1/subscribe", "/1/delete/profiles.json"
MOST_RECORDS, MOST_DELETES = 1000, 100
MOST_BYTES = 4_500_000  # of a body; the limit is unpublished, "about 5 MB" (4)

T = TypeVar("T")


class HalfDone(Misconfigured):
    """A person is needed, and an earlier request of the same batch was applied."""

    may_be_applied = True


class Batch:
    """The way out for one push. Once a request was applied, no fault says "nothing was"."""

    def __init__(self, wire: Wire) -> None:
        self._wire, self._applied = wire, False

    async def send(self, path: str, body: bytes, read: Callable[[Answer], T]) -> T:
        """Post, and read the answer with *read*."""
        meter = "upload" if path == UPLOAD else "read"
        try:
            told = read(await self._wire.send(Request("POST", path, body, meter=meter)))
        except ProviderError as err:
            if not self._applied:
                raise
            raise halfway(err) from err
        self._applied = True
        return told


def halfway(err: ProviderError) -> ProviderError:
    """The same fault for a batch whose earlier requests were applied."""
    kind = type(err)
    if isinstance(err, Transient | Refused):
        kind = Ambiguous  # refused credentials show again in the first request of the next try
    elif isinstance(err, Indivisible):
        kind = Unintelligible  # is halved as well, but in doubt
    elif isinstance(err, Misconfigured):
        kind = HalfDone
    reason = f"{err.reason} (earlier requests of this batch were applied)"
    return kind(reason, status=err.status, after=err.after)


async def upload(batch: Batch, drafts: Sequence[Draft], number: int) -> None:
    """Send each draft's record of this round; note the refused ones."""
    for part, body in bodies(drafts, [draft.records[number] for draft in drafts]):
        keys = [draft.identity for draft in part]
        refused = await batch.send(UPLOAD, body, lambda answer, keys=keys: refusals(answer, keys))  # type: ignore[misc]
        for position, outcome in refused.items():
            part[position].outcome = outcome


def bodies(
    whose: Sequence[T], made: Sequence[Mapping[str, Any] | None]
) -> Iterator[tuple[Sequence[T], bytes]]:
    """One body, cut where a request would hold too many records or bytes."""
    if 0 < len(made) <= MOST_RECORDS and len(body := orjson.dumps({"d": made})) <= MOST_BYTES:
        yield whose, body
        return
    records = [orjson.dumps(one) for one in made]
    start, size = 0, 0
    for end, record in enumerate(records):
        if end - start == MOST_RECORDS or (size and size + len(record) > MOST_BYTES):
            yield whose[start:end], _body(records[start:end])
            start, size = end, 0
        size += len(record) + 1
    if whose:
        yield whose[start:], _body(records[start:])


def _body(records: Sequence[bytes]) -> bytes:
    return b'{"d":[' + b",".join(records) + b"]}"


async def mark(batch: Batch, drafts: Sequence[Draft]) -> None:
    """Silence or unsilence addresses, each once: where contacts share one, the no wins."""
    shared: dict[str, list[Draft]] = {}
    for draft in drafts:
        if draft.mark and _may_be_marked(draft):
            shared.setdefault(draft.mark[0].lower(), []).append(draft)
    if not shared:
        return
    body = orjson.dumps({"d": [_entry(sharing) for sharing in shared.values()]})
    keys = list(shared)
    refused = await batch.send(SUBSCRIBE, body, lambda answer: refusals(answer, keys))
    for position, outcome in refused.items():
        for draft in shared[keys[position]]:
            _unmarked(draft, outcome)


def _may_be_marked(draft: Draft) -> bool:
    """A no is conveyed though the rest of the record was refused; a return is not."""
    refused = isinstance(draft.outcome, Rejected | Postponed)
    silent = draft.mark is not None and draft.mark[1] == "Unsubscribe"
    return draft.outcome is None or (refused and silent)


def _entry(sharing: Sequence[Draft]) -> dict[str, str]:
    marks = [draft.mark for draft in sharing if draft.mark]
    address, status = next((one for one in marks if one[1] == "Unsubscribe"), marks[0])
    for draft in sharing:
        if draft.mark and draft.mark[1] != status:
            draft.lacking.append("subscription: another contact of the address said no")
    return {"type": "email", "value": address, "status": status}


def _unmarked(draft: Draft, outcome: Outcome) -> None:
    """A refused mark is a refusal of the contact; an erasure goes on without it."""
    if draft.change.verb is Verb.ERASE and isinstance(outcome, Rejected):
        draft.lacking.append(f"address not silenced: {outcome.reason}")
    elif draft.outcome is None:
        draft.outcome = outcome


async def delete(batch: Batch, drafts: Sequence[Draft]) -> None:
    """Delete profiles for good; unknown identities succeed."""
    names = list(dict.fromkeys(one for draft in drafts for one in (draft.identity, *draft.others)))
    for start in range(0, len(names), MOST_DELETES):
        some = names[start : start + MOST_DELETES]
        await batch.send(DELETE, orjson.dumps({"identity": some}), succeeded)
