"""TOML files as people write them: what cannot be read is said with its place."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

from syncd.errors import ConfigError


def read(path: Path) -> dict[str, Any]:
    """The file's tables; ConfigError with its name, and where in it the fault is."""
    try:
        data = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        raise ConfigError(f"{path}: no such file") from None
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror})") from None
    return parse(data, str(path))


def parse(data: bytes, where: str) -> dict[str, Any]:
    """*data* as TOML in UTF-8, with or without a byte order mark; see `read`."""
    try:
        text = data.decode("utf-8-sig")
        return tomllib.loads(text)
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        column = error.start - data.rfind(b"\n", 0, error.start)
        what = f"not UTF-8 (at line {line}, column {column})"
    except tomllib.TOMLDecodeError as error:
        *before, last = text.split("\n")
        end = f"line {len(before) + 1}, column {len(last) + 1}"
        what = str(error).replace("end of document", end)
    except ValueError as error:  # a number of more digits than Python reads
        what = str(error).partition(";")[0]
    except RecursionError:
        what = "nested too deeply"
    raise ConfigError(f"{where}: not readable as TOML: {what}")
