"""Steps the wall clock of the process that has this folder in PYTHONPATH, and nothing else.

CHAOS_CLOCK names a file with the seconds to add; it may change at any time. `time.monotonic` and
the loop go on as they do.
"""

from __future__ import annotations

import builtins
import datetime as dt
import os
import time
import types
from typing import Any

_FILE = os.environ["CHAOS_CLOCK"]
_real, _ns = time.time, time.time_ns
_class: Any = dt.datetime


def _step() -> float:
    try:
        with open(_FILE, encoding="ascii") as file:  # noqa: PTH123  early, and often
            return float(file.read() or 0)
    except (OSError, ValueError):
        return 0.0


class _Kind(type):
    def __instancecheck__(cls, one: object) -> bool:
        return isinstance(one, _class)

    def __subclasscheck__(cls, kind: type) -> bool:
        return issubclass(kind, _class)


class _Stepped(dt.datetime, metaclass=_Kind):
    """As the program's own modules know it; its values are datetime's, as C code wants them."""

    __slots__ = ()

    def __new__(cls, *args: Any, **named: Any) -> Any:
        return _class(*args, **named)

    @classmethod
    def now(cls, tz: Any = None) -> Any:
        return _class.fromtimestamp(time.time(), tz)


def _import(name: str, globals: Any = None, *rest: Any, **named: Any) -> Any:  # noqa: A002
    found = _imported(name, globals, *rest, **named)
    ours = name == "datetime" and str((globals or {}).get("__name__", "")).startswith("syncd.")
    return _module if ours else found


_module = types.ModuleType("datetime")
_module.__dict__.update({**dt.__dict__, "datetime": _Stepped})
_imported, builtins.__import__ = builtins.__import__, _import
time.time = lambda: _real() + _step()
time.time_ns = lambda: _ns() + int(_step() * 1e9)
