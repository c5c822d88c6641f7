"""Sources and destinations as TOML files declare them: `[source.NAME]` and `[destination.NAME]`.

Only the form is judged here: names, types, ranges, as the tables' own CHECKs have them. What a
provider, or the source's relations, make of it is found where they are asked (`syncd.apply`).
"""

from __future__ import annotations

import difflib
import json
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import tomli_w
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, JsonValue, ValidationError
from pydantic_core import ErrorDetails

from syncd import toml
from syncd.errors import ConfigError

Columns = Mapping[str, Any]
"""A row's columns as JSON values."""

KINDS = ("source", "destination")
STANDARD_INPUT = Path("-")

_FORM = ConfigDict(extra="forbid", strict=True, hide_input_in_errors=True)
_NAMES = {
    "source": (r"^[^\x00]+$", "a text that is not empty"),
    "destination": (
        r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,62}$",
        "at most 63 letters, digits and _ . - , a letter or digit first",
    ),
}


def _as_json(value: object) -> object:
    """As the database will hold it: dates as texts; what JSON cannot say is a fault."""
    return json.loads(json.dumps(value, default=str, allow_nan=False))


Text = Annotated[str, Field(pattern=r"^[^\x00]*$")]
Name = Annotated[str, Field(pattern=r"^[^\x00]+$")]
Object = Annotated[dict[Text, JsonValue], BeforeValidator(_as_json)]
Positive = Annotated[int, Field(gt=0, le=2**31 - 1)]


class SourceForm(BaseModel):
    """A row of `source`, but for its name; the defaults are the table's."""

    model_config = _FORM

    contact: Name = "syncd.contact"
    list: Name = "syncd.list"
    membership: Name = "syncd.membership"


class DestinationForm(BaseModel):
    """A row of `destination`, but for its name and what the daemon writes; the table's defaults.

    paused: None leaves it as it is.
    """

    model_config = _FORM

    provider: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")]
    source: Name = "default"
    credential: Annotated[str | None, Field(pattern=r"^[A-Za-z0-9_.-]{1,128}$")] = None
    lists: list[Text] | None = None
    everyone: bool = False
    when_gone: Literal["withdraw", "delete", "keep"] = "withdraw"
    when_list_gone: Literal["keep", "delete"] = "keep"
    schedule: Name = "on change"
    read_schedule: Name = "15m"
    full_schedule: Name = "17 3 * * *"
    per_second: Annotated[float | None, Field(ge=1e-30, le=1e30)] = None
    in_flight: Positive | None = None
    per_day: Positive | None = None
    guard_percent: Annotated[float, Field(ge=0, le=100)] = 10
    guard_floor: Annotated[int, Field(ge=0, le=2**31 - 1)] = 50
    paused: bool | None = None
    options: Object = {}
    fields: Object | None = None


FORMS: Mapping[str, type[BaseModel]] = {"source": SourceForm, "destination": DestinationForm}


@dataclass(slots=True)
class Declared:
    """What files say, by name; `places` tells which file says it."""

    source: dict[str, dict[str, Any]] = field(default_factory=dict)
    destination: dict[str, dict[str, Any]] = field(default_factory=dict)
    places: dict[tuple[str, str], str] = field(default_factory=dict)

    def rows(self, kind: str) -> dict[str, dict[str, Any]]:
        return self.source if kind == "source" else self.destination


# ── Reading ─────────────────────────────────────────────────────────────────────────────────


def read(paths: Sequence[Path]) -> Declared:
    """The files together (`-`: standard input); ConfigError with every fault of all of them."""
    declared, faults = Declared(), list[str]()
    for path in paths:
        try:
            if path == STANDARD_INPUT:
                place, tables = "standard input", toml.parse(_standard_input(), "standard input")
            else:
                place, tables = str(path), toml.read(path)
        except ConfigError as error:
            faults += error.faults
        else:
            faults += _take(declared, place, tables)
    if faults:
        raise ConfigError(*faults)
    return declared


def _standard_input() -> bytes:
    return b"" if sys.stdin is None else sys.stdin.buffer.read()


def _take(declared: Declared, place: str, tables: Mapping[str, Any]) -> Iterator[str]:
    """Put a file's tables to the others; what is wrong with them."""
    if not tables:
        yield f"{place}: says nothing: [destination.NAME] is expected, or [source.NAME]"
    for kind, rows in tables.items():
        if kind not in KINDS:
            yield f"{place}: {kind} is not known here; did you mean {_meant(kind, rows)}?"
        elif not isinstance(rows, dict) or not all(isinstance(row, dict) for row in rows.values()):
            yield f"{place}: {kind}: a table for each is expected: [{kind}.NAME]"
        else:
            for name, row in rows.items():
                if first := declared.places.get((kind, name)):
                    yield f"{place}: {kind} {name!r} is in {first} already"
                declared.places[kind, name] = place
                yield from _take_row(declared, kind, name, row)


def _meant(word: str, rows: object) -> str:
    """The heading that was meant by [word], or by [word.NAME]."""
    near = difflib.get_close_matches(word, KINDS, n=1)
    if not near:
        return f"[destination.{word}]"
    return f"[{near[0]}.{next(iter(rows), 'NAME') if isinstance(rows, dict) else 'NAME'}]"


def _take_row(declared: Declared, kind: str, name: str, row: Mapping[str, Any]) -> Iterator[str]:
    place, form = declared.places[kind, name], FORMS[kind]
    pattern, expected = _NAMES[kind]
    if not re.fullmatch(pattern, name):
        yield f"{place}: {kind} {name!r}: a name is {expected}"
    if row.get("everyone") is True and row.get("lists") is None:
        yield f"{place}: {kind} {name!r}: everyone: needs `lists`; without them all belong anyway"
    try:
        told = form.model_validate(row)
    except ValidationError as error:
        details = error.errors(include_url=False, include_input=False)
        yield from (f"{place}: {kind} {name!r}: {_fault(form, one)}" for one in details)
        return
    declared.rows(kind)[name] = told.model_dump(mode="json")


def _fault(form: type[BaseModel], detail: ErrorDetails) -> str:
    where = ".".join(str(part) for part in detail["loc"])
    if detail["type"] == "extra_forbidden":
        near = difflib.get_close_matches(where, form.model_fields, n=1)
        others = "a provider's own settings belong into its table `options`"
        return f"{where} is not known; " + (f"did you mean {near[0]}?" if near else others)
    if detail["type"] == "missing":
        return f"{where} is missing"
    said = detail["msg"].removeprefix("Value error, ")
    return f"{where}: {said.replace('Input should be', 'expected', 1)}"


# ── Writing ─────────────────────────────────────────────────────────────────────────────────


def written(sources: Mapping[str, Columns], destinations: Mapping[str, Columns]) -> str:
    """The rows as the TOML that `read` reads; ConfigError naming what TOML cannot say."""
    tables: dict[str, dict[str, Columns]] = {"source": {}, "destination": {}}
    faults: list[str] = []
    for kind, rows in (("source", sources), ("destination", destinations)):
        for name, row in rows.items():
            tables[kind][name] = {k: _without_nulls(v) for k, v in row.items() if v is not None}
            faults += [f"{kind} {name!r}: {where}" for where in _unsayable(tables[kind][name])]
    if faults:
        raise ConfigError(*faults)
    return tomli_w.dumps({kind: rows for kind, rows in tables.items() if rows})


def _without_nulls(value: Any) -> Any:
    """TOML has no null: a key of `options` without a value is the same as no key."""
    if not isinstance(value, dict):
        return value
    return {key: _without_nulls(one) for key, one in value.items() if one is not None}


def _unsayable(value: Any, where: str = "") -> Iterator[str]:
    if value is None:
        yield f"{where}: a null within an array, which TOML cannot say"
    elif isinstance(value, dict):
        for key, one in value.items():
            yield from _unsayable(one, f"{where}.{key}" if where else key)
    elif isinstance(value, list):
        for n, one in enumerate(value):
            yield from _unsayable(one, f"{where}[{n}]")
