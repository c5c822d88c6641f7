"""How `plan` looks on a screen."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.console import Console, RenderableType
from rich.table import Table

from syncd.cli.screen import Line
from syncd.estimate import spoken
from syncd.preview import SHOWN, Kind, Preview, Sample

STYLES: dict[Kind, str] = {
    "create": "green", "update": "yellow", "opt_out": "magenta", "remove": "red",
    "rejected": "bold red", "absent": "dim",
}  # fmt: skip
MEANS: dict[Kind, str] = {
    "create": "to be created",
    "update": "to be changed",
    "opt_out": "said no since: mail is switched off there",
    "remove": "gone from the source or its lists",
    "rejected": "cannot be sent as they are, or were refused",
    "absent": "rightly not there: no consent, or no list",
}
MOST = 12  # fields of one example


def show(previews: Sequence[Preview], console: Console) -> None:
    for one in previews:
        _summary(one, console)
        for kind in SHOWN:
            if one.samples[kind]:
                _examples(kind, one, console)
        console.print()


def _summary(one: Preview, console: Console) -> None:
    requests = "1 request" if one.requests == 1 else f"{one.requests:,} requests"
    time = f", {spoken(one.seconds)} under the limits" if one.requests else ""
    stands = "paused" if one.destination.paused else one.destination.halted
    console.print(
        Line.assemble(
            (one.destination.name, "bold"),
            f"  {one.contacts:,} contacts; a full pass would take {requests}{time}",
            (f"  ({stands})" if stands else "", "red"),
        )
    )
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2))
    table.add_column(justify="right")
    for kind in SHOWN:
        if n := one.counts[kind]:
            name = Line(kind.replace("_", "-"), STYLES[kind])
            table.add_row(f"{n:,}", name, Line(MEANS[kind], "dim"))
    if not table.row_count:
        table.add_row("", Line("in step", "green"), "nothing to do")
    console.print(table)
    for count, why in one.held.values():
        console.print(Line(f"  the guard would hold {count:,} of them: {why}", "bold red"))


def _examples(kind: Kind, one: Preview, console: Console) -> None:
    table = Table(box=None, pad_edge=False, padding=(0, 2), header_style="dim")
    table.add_column(kind.replace("_", "-"), style=STYLES[kind], no_wrap=True)
    table.add_column("address", overflow="fold")
    table.add_column("what", overflow="fold")
    for sample in one.samples[kind]:
        table.add_row(Line(sample.contact_id), Line(sample.email or "none"), _what(kind, sample))
    console.print(table)


def _what(kind: Kind, sample: Sample) -> RenderableType:
    if sample.reason or kind == "rejected":
        return Line(sample.reason or "")
    parts = []
    for name, (old, new) in list(sample.changes.items())[:MOST]:
        if kind in ("create", "absent"):
            if name != "e-mail" and not (name == "subscribed" and new):
                parts.append(Line.assemble((f"{name} ", "dim"), _said(new)))
        else:
            parts.append(Line.assemble((f"{name} ", "dim"), _said(old), " → ", _said(new)))
    return Line(", ").join(parts)


def _said(value: Any) -> str:
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return "[" + " ".join(str(one) for one in value) + "]"
    return str(value)
