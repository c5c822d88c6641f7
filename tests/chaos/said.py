"""What is left in the journal, and what processes and server said. Pure functions."""

from __future__ import annotations

import re
from collections.abc import Iterator

import leaks
import orjson

from .evidence import Evidence, Finding

EXPLAINED = (re.compile(r"cannot be (re)?subscribed|opted out|unsubscribed", re.IGNORECASE),)
"""What a contact may be rejected for, where all its data are in order."""
TAKEN = re.compile(r"already exists")
"""And where a record that is in no list, or said no, has its address: nobody can tell these apart,
and an add would turn mail on at either."""


def unsettled(seen: Evidence) -> Iterator[Finding]:
    if seen.unsettled:
        yield Finding("unsettled", "", seen.unsettled)


def unexplained(seen: Evidence) -> Iterator[Finding]:
    """A row that is left, and is not 'rejected' for a reason that such a source can give."""
    silent = {(at.name, one.email) for at in seen.shops for one in at.held.values()
              if not one.mailable}  # fmt: skip
    emails = {(at.name, wish.contact): wish.email for at in seen.shops for wish in at.wishes}
    for row in seen.journal:
        if row.contact in seen.may_be_erased and row.why.startswith("was erased on request"):
            continue
        if row.state == "rejected" and any(one.search(row.why) for one in EXPLAINED):
            continue
        known = (row.shop, emails.get((row.shop, row.contact))) in silent
        if row.state == "rejected" and known and TAKEN.search(row.why):
            continue
        yield Finding("journal", row.shop, f"{row.contact} is {row.state}: {row.why}")


def leaked(seen: Evidence) -> Iterator[Finding]:
    for name, text in seen.logs.items():
        for one in sorted(set(leaks.ADDRESS.findall(text))):
            yield Finding("leak", "", f"{name} logged an address: {one}")
        for secret in seen.secrets:
            if secret in text:
                yield Finding("leak", "", f"{name} logged a secret")
        if "Traceback" in text:
            yield Finding("traceback", "", f"{name}: {_around(text, 'Traceback')}")
        for line in text.splitlines(keepends=True):
            if line.endswith("\n") and not _is_record(line):
                yield Finding("log", "", f"{name}: no JSON: {line[:300]}")


def _around(text: str, word: str) -> str:
    at = text.index(word)
    return text[max(0, at - 300) : at + 2500]


AWAY = ("syncd: PostgreSQL cannot be reached", "syncd: the connection to PostgreSQL was lost")
"""How a process begins its one plain line that finds no database when it starts, or loses it."""


def _is_record(line: str) -> bool:
    if line.startswith(AWAY):
        return True
    try:
        return isinstance(orjson.loads(line), dict)
    except orjson.JSONDecodeError:
        return False


def deadlocks(seen: Evidence) -> Iterator[Finding]:
    lines = seen.server_log.splitlines()
    for n, line in enumerate(lines):
        if "deadlock detected" in line:
            yield Finding("deadlock", "", " | ".join(lines[n : n + 12])[:1500])
        if "PANIC" in line or "TRAP:" in line:
            yield Finding("server", "", line)
    for secret in seen.secrets:
        if secret in seen.server_log:
            yield Finding("leak", "", "PostgreSQL logged a secret")
