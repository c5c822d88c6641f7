"""The proof of an erasure: when it was conveyed to a destination, and what a read-back said."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import orjson

from syncd import sql
from syncd.db import Pool
from syncd.journal import Settled
from syncd.model import Can, Change, Erased, Traits, Verb


class Erasures:
    """The erasures of one destination."""

    def __init__(self, pool: Pool, name: str, adapter: Any) -> None:
        self.pool = pool
        self.name = name
        self.adapter = adapter

    async def note_sent(self, results: Sequence[Settled]) -> None:
        """Write down, for the proof, who was erased there just now."""
        done = [r for r in results if r.entry.change.verb is Verb.ERASE and r.state == "done"]
        if done:
            rows = [(r.entry.contact_id, r.entry.email, _text(r.entry.change.remote)) for r in done]
            columns = map(list, zip(*rows, strict=True))
            await self.pool.execute(sql.erasure.sent, self.name, *columns)

    async def read_back(self) -> None:
        """Ask the provider what is left of whom; provider errors pass through."""
        traits: Traits = self.adapter.traits
        if not traits.can & Can.ERASE:
            return
        for row in await self.pool.fetch(sql.erasure.unconfirmed, self.name):
            remote = None if row["remote"] is None else orjson.loads(row["remote"])
            change = Change(row["contact_id"], Verb.ERASE, None, None, remote, False, False)
            erased = await self.adapter.erased(change, row["sent_at"])
            await self.pool.execute(sql.erasure.note, row["id"], self.name, _proof(erased))


def _proof(erased: Erased) -> str:
    """What is added to the proof: confirmed, waiting, or what a person must do by hand."""
    if erased.confirmed:
        said: dict[str, Any] = {"confirmed_at": datetime.now(UTC)}
    elif erased.wait_until is not None:
        said = {"waiting_until": erased.wait_until}
    else:
        said = {"by_hand": erased.by_hand}
    return orjson.dumps(said).decode()


def _text(remote: object | None) -> str | None:
    return None if remote is None else orjson.dumps(remote).decode()
