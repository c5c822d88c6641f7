"""Text for eyes: whatever data hold, they stay in their line and do nothing to the terminal.

A line is printed by a call of its own, or is a cell of a table; a newline in it can only come
from data. It is shown as \\n, and what would move the cursor, colour or reorder the line as \\x1b,
\\u202e and so on.
"""

from __future__ import annotations

import re
from typing import Any

from rich.console import Console
from rich.text import Text

_ACTS = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")
"""Control characters, breaks of lines, and what overrides the direction of writing."""


def inert(text: str) -> str:
    """*text* as one line in which every character only shows itself."""
    return _ACTS.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


class Line(Text):
    """A line, or a cell, of what may hold data."""

    def __init__(self, text: str = "", style: Any = "", **how: Any) -> None:
        super().__init__(inert(text), style, **how)

    def append(self, text: Text | str, style: Any = None) -> Text:
        return super().append(inert(text) if isinstance(text, str) else text, style)


class Screen(Console):
    """A console on which a plain text is a `Line` too, and means nothing to rich."""

    def __init__(self, **how: Any) -> None:
        super().__init__(highlight=False, markup=False, emoji=False, **how)

    def render_str(self, text: str, **how: Any) -> Text:
        return super().render_str(inert(text), **how)
