"""The named statements of sql/*.sql: `sql.journal.claim` is the text under `-- name: claim`.

Installed, the files lie in `syncd/_sql`; in an editable install in `sql/` beside the package.
"""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from types import SimpleNamespace

_HEADING = re.compile(r"^-- name: (\w+)\n", re.MULTILINE)


@cache
def folder() -> Path:
    """Where the SQL files are; FileNotFoundError if the package was installed without them."""
    package = Path(__file__).parent
    for place in (package / "_sql", package.parent / "sql"):
        if place.is_dir():
            return place
    raise FileNotFoundError("syncd was installed without its sql/ folder; install it again")


def parse(text: str, origin: str) -> SimpleNamespace:
    """Split *text* at its headings; ValueError for a name used twice or no heading at all."""
    names = _HEADING.findall(text)
    if not names or len(set(names)) != len(names):
        raise ValueError(f"{origin}: statements must have names, each once; found {names}")
    bodies = _HEADING.split(text)[2::2]
    return SimpleNamespace(**{n: b.strip() for n, b in zip(names, bodies, strict=True)})


@cache
def _read(name: str) -> SimpleNamespace | None:
    path = folder() / f"{name}.sql"
    return parse(path.read_text(encoding="utf-8"), path.name) if path.is_file() else None


def __getattr__(name: str) -> SimpleNamespace:
    statements = None if name.startswith("_") else _read(name)
    if statements is None:
        raise AttributeError(name)
    return statements
