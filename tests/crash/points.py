"""What a crash point is called: the statement's name, and how often the process has come to it."""

from __future__ import annotations

import re
from functools import cache
from typing import Literal, NamedTuple

from syncd import sql

Mode = Literal["exit", "before", "after"]
"""What happens at a point: the process exits just before the statement; its connection is lost
before the statement is sent; its connection is lost when the server has carried it out."""

MODES: tuple[Mode, ...] = ("exit", "before", "after")

WRITES = re.compile(
    r"\b(insert\s+into|update\s+(?:only\s+)?syncd\.|delete\s+from|truncate)\b"
    r"|\bupdate\s+syncd\.|\bsyncd\.(claim|claim_job|draw|take_room|plan_waits|trim_change"
    r"|keep_deliveries|blot_out|end_emptied)\(",
    re.IGNORECASE,
)
_COMMENT = re.compile(r"--.*")
_MARK = re.compile(r"\$\d+::\w+")  # some are made for one destination: its number in place of $1


class Point(NamedTuple):
    """One instant of a run: the *nth* time that it comes to what is called *name*."""

    name: str
    nth: int

    def __str__(self) -> str:
        return f"{self.name} #{self.nth}"


def writes(text: str) -> bool:
    """Whether a statement changes what is stored (a lock alone does not)."""
    return bool(WRITES.search(_COMMENT.sub("", text)))


@cache
def statements() -> dict[str, str]:
    """Every named statement by `file.name`; those of roles.sql are an administrator's."""
    found: dict[str, str] = {}
    for path in sorted(sql.folder().glob("*.sql")):
        if path.stem != "roles":
            for name, text in vars(getattr(sql, path.stem)).items():
                found[f"{path.stem}.{name}"] = text
    return found


def writing() -> set[str]:
    """The names of those that change what is stored."""
    return {name for name, text in statements().items() if writes(text)}


@cache
def _shapes() -> dict[str, str]:
    return {_shape(text): name for name, text in statements().items()}


def _shape(text: str) -> str:
    return re.sub(r"\s+", " ", _COMMENT.sub("", text)).strip(" ;")


@cache
def name_of(text: str) -> str:
    """What a statement is called: its name, else what it writes to (some are compiled)."""
    if name := _shapes().get(_shape(text)):
        return name
    found = re.search(r"(?:insert\s+into|update|delete\s+from)\s+([\w.\"]+)", text, re.IGNORECASE)
    return f"compiled {found[1]}" if found else "compiled"
