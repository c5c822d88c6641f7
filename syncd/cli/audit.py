"""`audit`: whether source, mirror and provider are the same, and how it is shown."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Annotated, Any

import typer
from rich.console import Console, RenderableType
from rich.table import Table

from syncd import audit_run
from syncd.audit_report import Audit
from syncd.audit_run import Ended
from syncd.audit_verdict import KINDS, Kind, Verdict
from syncd.cli import Config, Dests, Json, command, opened_app, output, remark
from syncd.cli.screen import Line, inert
from syncd.cli.transfer import chosen
from syncd.estimate import spoken
from syncd.words import count

STYLES: Mapping[Kind, str] = {
    "opted_out": "magenta", "missing": "red", "there": "yellow", "both": "yellow", "here": "green",
    "rejected": "bold red", "unsettled": "dim",
}  # fmt: skip
MEANS: Mapping[Kind, str] = {
    "opted_out": "said no there since the last reading",
    "missing": "should be there, and are not",
    "there": "were changed there",
    "both": "were changed there and here",
    "here": "were changed here, and are still to be sent",
    "rejected": "cannot be sent as they are, or were refused",
    "unsettled": "were written while this was read: ask again",
}
MOST = 12  # differences of one example


@command(example="syncd audit marketing --sample 10")
async def audit(
    dest: Dests = None,
    repair: Annotated[
        bool,
        typer.Option("--repair", help="Note opt-outs, and have what differs there sent again."),
    ] = False,
    sample: Annotated[
        int, typer.Option("--sample", metavar="N", min=0, help="Contacts shown of each kind.")
    ] = 3,
    json: Json = False,
    config: Config = None,
) -> int:
    """Compare what the source says, what was last sent, and what the provider says now. Exit code
    0 only where all three are equal; 1 where not; 69, 77 where the provider cannot be read."""
    async with opened_app(config) as app:
        rows = await chosen(app, dest)
        async with app.worker() as worker:
            ended = await audit_run.run(
                app, worker, rows, samples=sample, repair=repair, announce=_announce
            )
    data = {"destinations": {name: one.summary() for name, one in ended.items()}}
    output(json, data, lambda to: _show(to, ended))
    for name, one in ended.items():
        if one.audit is None:
            remark(f"{name}: {one.error}")
    return audit_run.exit_code(ended)


def _announce(one: Audit) -> None:
    """Said before anything is read: it may take days."""
    e = one.estimate
    says = f"about {count(e.requests, 'request')}, {spoken(e.seconds)} under the limits"
    if e.singly:
        says += f"; {e.singly:,} of them because contacts are read one by one"
    for text in (says, *one.cannot):
        sys.stderr.write(inert(f"{one.name}: {text}") + "\n")
    sys.stderr.flush()


def _show(to: Console, ended: Mapping[str, Ended]) -> None:
    for name, one in ended.items():
        if one.audit is None:
            to.print(Line.assemble((name, "bold"), ("  not audited: ", "bold red"), one.error))
            continue
        _summary(to, one.audit)
        for kind in KINDS:
            if one.audit.samples[kind]:
                _examples(to, kind, one.audit.samples[kind])
        if one.audit.double_samples:
            _doubles(to, one.audit.double_samples)
        to.print()


def _summary(to: Console, one: Audit) -> None:
    says, style = ("equal", "green") if one.equal else ("not equal", "red")
    to.print(
        Line.assemble(
            (one.name, "bold"),
            f"  {count(one.contacts, 'contact')} here, {count(one.read, 'record')} read there: ",
            (says, style),
        )
    )
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2))
    table.add_column(justify="right")
    for kind in KINDS:
        if n := one.counts[kind]:
            name = Line(kind.replace("_", " "), STYLES[kind])
            table.add_row(f"{n:,}", name, Line(MEANS[kind], "dim"))
    if one.doubles:
        told = Line("second records of our contacts: merge them there", "dim")
        table.add_row(f"{one.doubles:,}", Line("doubles", "bold red"), told)
    if one.extra:
        told = Line("are nobody's of ours, and are left alone", "dim")
        table.add_row(f"{one.extra:,}", Line("extra", "dim"), told)
    to.print(table)
    if one.repaired:
        to.print(
            Line(
                f"  {count(one.mended, 'contact')} to be sent again,"
                f" {count(one.noted, 'opt-out')} noted"
            )
        )
    for text in one.held:
        to.print(Line(f"  not repaired: {text}", "bold red"))


def _examples(to: Console, kind: Kind, found: list[Verdict]) -> None:
    table = Table(box=None, pad_edge=False, padding=(0, 2), header_style="dim")
    table.add_column(kind.replace("_", " "), style=STYLES[kind], no_wrap=True)
    table.add_column("address", overflow="fold")
    table.add_column("what", overflow="fold")
    for one in found:
        table.add_row(Line(one.contact_id), Line(one.email or "none"), _what(one))
    to.print(table)


def _what(one: Verdict) -> RenderableType:
    """Last sent → read there; and, of what was changed here, last sent ⇒ wanted now."""
    parts = [
        Line.assemble((f"{name} ", "dim"), _said(old), f" {arrow} ", _said(new))
        for arrow, pairs in (("→", one.there), ("⇒", one.here))
        for name, (old, new) in list(pairs.items())[:MOST]
    ]
    if one.reason:
        parts.append(Line(one.reason))
    return Line(", ").join(parts)


def _said(value: Any) -> str:
    if value in (None, ""):
        return "nothing"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return "[" + " ".join(str(one) for one in value) + "]"
    return str(value)


def _doubles(to: Console, found: list[Verdict]) -> None:
    for one in found:
        n = count(one.doubles + 1, "record")
        to.print(Line(f"{one.contact_id}  {one.email or ''}  is there in {n}"))
