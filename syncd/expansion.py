"""What a migration may do while daemons of an older version are at work: add, and nothing else."""

from __future__ import annotations

import re
from collections.abc import Iterator

from syncd.migrate import Migration

SINCE = 19  # the first migration that is held to this: nothing was released before it

_BLOCK = re.compile(r"\bdo\s+(\$\w*\$)(.*?)\1", re.IGNORECASE | re.DOTALL)
_NOISE = re.compile(
    r"--[^\n]*|'(?:[^']|'')*'|(\$\w*\$).*?\1", re.DOTALL
)  # texts, functions' bodies
_TAKES_AWAY = re.compile(
    r"\bdrop (table|column|view|materialized view|schema|type|sequence|function|procedure) .*"
    r"|\brename (to|column|constraint|\w+ to) .*|\bset schema .*",
    re.IGNORECASE,
)
_ALTERS = re.compile(r"\balter table (only )?(if exists )?\S+ (?P<actions>.*)", re.IGNORECASE)
_CHANGES = re.compile(
    r"drop (?!constraint |column )|alter (column )?\S+ (set not null|(set data )?type )",
    re.IGNORECASE,
)
_ADDS = re.compile(r"add (?!constraint |check |primary |unique |foreign |exclude )", re.IGNORECASE)


def faults(migration: Migration) -> Iterator[str]:
    """What would break a daemon of an older version, a sentence each.

    Nothing is said of a migration that names the one every program must bring (`-- contracts:`).
    """
    if migration.version < SINCE or migration.needs:
        return
    text = _NOISE.sub(" ", _BLOCK.sub(r";\2;", migration.text))
    for statement in text.split(";"):
        words = " ".join(statement.split())
        for said, why in _broken(words):
            yield (
                f"{migration.version:04d}_{migration.name}.sql: `{said[:80]}` {why}. Leave it to a"
                " later version, which says at its top `-- contracts: NNNN`: the migration that"
                " every program must bring by then"
            )


def _broken(statement: str) -> Iterator[tuple[str, str]]:
    if found := _TAKES_AWAY.search(statement):
        yield found[0], "takes away what a daemon of an older version uses"
    if (altered := _ALTERS.search(statement)) is None:
        return
    for action in _parts(altered["actions"]):
        if _CHANGES.match(action):
            yield action, "changes what a daemon of an older version uses"
        needs = "not null" in (words := action.lower())
        if _ADDS.match(action) and needs and "default" not in words and "generated" not in words:
            yield (
                action,
                "has no default: rows that a daemon of an older version writes are refused",
            )


def _parts(actions: str) -> Iterator[str]:
    """The text between commas that stand in no brackets."""
    depth, part = 0, ""
    for letter in actions:
        depth += (letter == "(") - (letter == ")")
        if letter == "," and depth == 0:
            yield part.strip()
            part = ""
        else:
            part += letter
    yield part.strip()
