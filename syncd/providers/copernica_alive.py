"""Which profiles are still there: an update of one that is gone is answered as success.

A few are looked at one by one; where many are to be written, all ids are read in one call, and
believed for some minutes. Reference, sections 3d and 5.
"""

from __future__ import annotations

import asyncio
import time

from syncd.providers.copernica_answers import Profile
from syncd.providers.copernica_calls import Calls

FEW = 3  # looked at one by one before all ids are read
FRESH = 300.0  # seconds
MOST_PAGES = 5  # of ids; where there are more, each is looked at


class Alive:
    """What is known of profiles' being there."""

    def __init__(self, calls: Calls) -> None:
        self._calls = calls
        self._turn = asyncio.Lock()
        self._ids: set[str] = set()
        self._since = 0.0
        self._until = 0.0  # when what is known ends
        self._whole = False
        self._looked = 0

    def saw(self, number: str) -> None:
        """It was read, or made, just now."""
        self._begin()
        self._ids.add(number)

    async def is_there(self, number: str) -> bool:
        """Whether it may be written to. Gone is only what a look at the very profile says."""
        async with self._turn:
            self._begin()
            if number in self._ids:
                return True
            if not self._whole and self._looked >= FEW:
                self._whole = True  # tried once: if it fails, each one is looked at
                self._ids |= await self._calls.all_ids(MOST_PAGES) or set()
                if number in self._ids:
                    return True
            self._looked += 1
        found: Profile | None = await self._calls.profile(number)
        if found is not None:
            self._ids.add(number)
        return found is not None

    def _begin(self) -> None:
        if time.monotonic() >= self._until:
            self._ids, self._whole, self._looked = set(), False, 0
            self._until = time.monotonic() + FRESH
