"""What each installed provider can do, as its adapter declares it: a table in Markdown.

python -m syncd.abilities             # print it
python -m syncd.abilities README.md   # put it in place of the one between the marks there
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from syncd.model import Can, Traits
from syncd.providers import Authorizes, Provider, providers

MARKS = "<!-- abilities: made by `python -m syncd.abilities README.md` -->", "<!-- /abilities -->"
_BETWEEN = re.compile(
    "(?<=" + re.escape(MARKS[0]) + "\n)(.*?)(?=" + re.escape(MARKS[1]) + ")", re.DOTALL
)
YES, NO = "yes", "no"
KEYS = {"ours": "our contact id", "address": "the address", "remote id": "the provider's id"}

FLAGS = {
    Can.FIND: "looks a contact up",
    Can.SCAN: "reads back who is there",
    Can.OPT_OUT: "reads opt-outs made there",
    Can.RESUBSCRIBE: "subscribes again, with newer consent",
    Can.SEES_GONE: "tells a contact that vanished",
    Can.LISTS: "has lists of its own",
    Can.RENAME_LIST: "renames a list",
    Can.DELETE_LIST: "deletes a list",
    Can.JOBS: "takes bulk jobs",
    Can.REPEAT: "may be sent the same again after a lost answer",
    Can.SORTS_DOUBT: "sorts out by itself what a lost answer left in doubt",
    Can.ERASE: "erases, and says what is left",
    Can.WHOLE: "lets single contacts be read whole",
    Can.EXPORT: "writes lists out with everybody's fields",
    Can.COMPARE: "lets an audit compare fields",
    Can.FIELDS: "says which fields it has",
    Can.LEARNS: "is found out about while it is used",
}
"""What a flag says to a reader; a test holds that every flag is here."""


def table() -> str:
    """The whole table, a column a provider."""
    kinds = [kind for _, kind in sorted(providers().items())]
    rows = [["ability", *(kind.name for kind in kinds)], ["---"] * (len(kinds) + 1)]
    rows += [[title, *(cell(kind) for kind in kinds)] for title, cell in _rows()]
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def _rows() -> Sequence[tuple[str, Callable[[type[Provider]], str]]]:
    def of_flag(flag: Can) -> Callable[[type[Provider]], str]:
        return lambda kind: YES if flag in _traits(kind).can else NO

    return [
        ("known by", lambda kind: KEYS[_traits(kind).key]),
        ("contacts a request, at most", lambda kind: f"{_traits(kind).batch:,}"),
        ("limits kept", _limits),
        ("holds who is in no list", lambda kind: NO if _traits(kind).needs_list else YES),
        *((title, of_flag(flag)) for flag, title in FLAGS.items()),
        ("notices another account behind its secret", _tells_account),
        ("`syncd authorize`", lambda kind: YES if isinstance(kind, Authorizes) else NO),
    ]


def _traits(kind: Any) -> Traits:
    traits: Traits = kind.traits
    return traits


def _tells_account(kind: type[Provider]) -> str:
    """By the provider's answer, or by the credential's own words."""
    return YES if hasattr(kind, "owner") or hasattr(kind, "account") else NO


def _limits(kind: type[Provider]) -> str:
    meters = _traits(kind).meters
    said = []
    for name, one in meters.items():
        counted = (
            (one.per_second, "{:g} a second"),
            (one.in_flight, "{} at once"),
            (one.per_day, "{:,} a day"),
        )
        words = ", ".join(text.format(n) for n, text in counted if n is not None) or "none"
        said.append(words if len(meters) == 1 else f"{name}: {words}")
    return "; ".join(said)


def put(text: str) -> str:
    """*text* with the table between the marks; ValueError where they are not there once."""
    made, times = _BETWEEN.subn(lambda _: table(), text)
    if times != 1:
        raise ValueError(f"the marks {MARKS[0]} … {MARKS[1]} are not there once")
    return made


def main(arguments: Sequence[str]) -> None:
    """Print the table, or put it into each file that is named."""
    if not arguments:
        sys.stdout.write(table())
    for path in map(Path, arguments):
        path.write_text(put(path.read_text("utf-8")), "utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
