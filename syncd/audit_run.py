"""Audits of some destinations, one after the other: by the command, or by a worker on request."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from syncd import faults
from syncd.assemble import Assembled
from syncd.audit import Auditor
from syncd.audit_report import Audit
from syncd.control import Destination
from syncd.errors import ConfigError, SyncdError
from syncd.flow import Flow

if TYPE_CHECKING:
    from syncd.app import App
    from syncd.worker import Worker


@dataclass(frozen=True, slots=True)
class Ended:
    """How the audit of one destination ended. error: it did not come to its end."""

    audit: Audit | None
    error: str = ""
    exit_code: int = 0

    def summary(self) -> Mapping[str, Any]:
        if self.audit is None:
            return {"equal": False, "error": self.error}
        return self.audit.summary()


async def run(
    app: App,
    worker: Worker,
    rows: Sequence[Destination],
    *,
    samples: int,
    repair: bool,
    stop: asyncio.Event | None = None,
    announce: Callable[[Audit], None] = lambda _: None,
    serves: Callable[[str], Flow | None] = lambda _: None,
) -> dict[str, Ended]:
    """ConfigError with every fault of all of them; a provider's fault ends its own audit only.

    serves: the flow of this same worker that serves a destination; it makes the scans then.
    """
    if found := await faults.find(app.pool, app.secrets, rows):
        raise ConfigError(*found)
    everyone, done = await app.destinations(), {}
    for row in rows:
        done[row.name] = Ended(None, "interrupted", 1)
        if stop is not None and stop.is_set():
            continue
        async with app.assembled(row, everyone, worker) as made:
            auditor = Auditor(
                made, samples=samples, repair=repair, window=app.settings.window, stop=stop,
                scan=_scan(made, serves),
            )  # fmt: skip
            auditor.announce = announce
            done[row.name] = await _ended(auditor)
    return done


def _scan(made: Assembled, serves: Callable[[str], Flow | None]) -> Callable[[], Awaitable[object]]:
    """Two flows of one worker must not make the same scan."""

    async def scan() -> None:
        assert made.flow is not None
        if (flow := serves(made.destination.name)) is not None:
            flow.bells.scan.set()
        else:
            await made.flow.scan_all()

    return scan


async def _ended(auditor: Auditor) -> Ended:
    try:
        audit = await auditor.run()
    except SyncdError as error:
        return Ended(None, str(error), error.exit_code)
    return Ended(audit, "", 0 if audit.equal else 1)


def exit_code(ended: Mapping[str, Ended]) -> int:
    """The gravest."""
    return max((one.exit_code for one in ended.values()), default=0)
