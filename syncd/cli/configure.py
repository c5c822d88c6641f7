"""`init`, `apply`, `export`, `remove`: which destinations there are."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated, Any

import orjson
import typer
from rich.console import Console

from syncd import apply as applying
from syncd import declared, example, toml
from syncd import remove as removing
from syncd.apply import Applied, Change
from syncd.cli import (
    Config,
    Dest,
    Dests,
    Json,
    command,
    opened_app,
    output,
    print_json,
    refuse_faulty,
    remark,
)
from syncd.cli.screen import Line, inert
from syncd.remove import Left
from syncd.words import count, listed

FIRST = Path("config/clevertap.toml").stem
"""The example of the provider that needs the least to begin with."""
MARKS = {"added": "+", "changed": "~", "same": "="}


@command(example="syncd init --provider copernica")
def init(
    folder: Annotated[
        Path, typer.Argument(metavar="FOLDER", help="Where to; it is made if need be.")
    ] = Path(),
    provider: Annotated[
        str, typer.Option("--provider", metavar="NAME", help="Of the example destination.")
    ] = FIRST,
    json: Json = False,
    config: Config = None,
) -> None:
    """Write a commented syncd.toml and an example destination, and say what to do next. Nothing
    that is there is overwritten."""
    refuse_faulty(config)
    written = example.write(provider, folder)
    steps = _steps(written[0], written[1], provider)

    def render(to: Console) -> None:
        for path in written:
            to.print(Line(f"written: {path}"))
        for n, (what, how) in enumerate(steps, 1):
            to.print()
            to.print(Line(f"{n}. {what}"))
            for line in how:
                to.print(Line(f"       {line}"), soft_wrap=True)

    data = {"written": written, "next": [{"do": what, "run": how} for what, how in steps]}
    output(json, data, render)


def _steps(settings: Path, destination: Path, provider: str) -> list[tuple[str, list[str]]]:
    """The next three, to be typed as they are."""
    config, file = shlex.quote(str(settings)), shlex.quote(str(destination))
    more = "" if settings.parent == Path() else f" --config {config}"
    return [
        (
            f"Say in {settings}, or in the environment, which database; make the schema there.",
            [
                "export SYNCD_DATABASE_URL=postgresql://user@host/database   # or embedded:",
                f"syncd migrate{more}",
            ],
        ),
        (
            f"Say in {destination} where contacts go: as it stands, to the sandbox.",
            [
                "syncd sandbox &",
                f"export SYNCD_SECRET_{provider.upper()}='…'   # the sandbox prints it",
                f"syncd apply {file}{more}",
            ],
        ),
        (
            "Look, fill, serve.",
            [
                f"syncd check{more}",
                f"syncd plan{more}",
                f"syncd backfill{more}",
                f"syncd run{more}",
            ],
        ),
    ]


@command(example="syncd apply marketing.toml --dry-run")
async def apply(
    files: Annotated[
        list[Path], typer.Argument(metavar="FILE...", help="TOML files; - is standard input.")
    ],
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show the difference; change nothing.")
    ] = False,
    json: Json = False,
    config: Config = None,
) -> None:
    """Make sources and destinations what the files say, all at once, and show the difference.
    Those that no file speaks of stay."""
    wanted = declared.read(files)
    async with opened_app(config) as app:
        done = await applying.apply(app, wanted, dry_run=dry_run)
    output(json, done, lambda to: _show(to, done))
    for line in () if json else done.needed:
        remark(f"still needed: {line}")


def _show(to: Console, done: Applied) -> None:
    for one in done.changes:
        to.print(Line(f"{MARKS[one.action]} {one.kind} {one.name}", "bold"), soft_wrap=True)
        for column, values in one.columns.items() if one.action != "same" else ():
            to.print(Line(f"    {_line(one, column, values)}"), soft_wrap=True)
    changed = sum(one.action != "same" for one in done.changes)
    if not changed:
        to.print("nothing differs")
    elif done.dry_run:
        to.print(f"{count(changed, 'row')} would be written (--dry-run)")
    else:
        to.print(f"{count(changed, 'row')} written")


def _line(change: Change, column: str, values: dict[str, Any]) -> str:
    new = _shown(values["to"])
    if change.action == "added":
        return f"{column} = {new}"
    return f"{column}: {_shown(values['from'])} → {new}"


def _shown(value: Any) -> str:
    return "(default)" if value is None else orjson.dumps(value, default=str).decode()


@command(example="syncd export > syncd-destinations.toml")
async def export(dest: Dests = None, json: Json = False, config: Config = None) -> None:
    """Write sources and destinations as they are, as TOML that `apply` reads; without secrets."""
    async with opened_app(config) as app:
        text = await applying.export(app, dest or ())
    if json:
        print_json(toml.parse(text.encode(), "export"))
    else:
        sys.stdout.write(text)


@command(example="syncd remove marketing --yes")
async def remove(
    dest: Dest,
    yes: Annotated[bool, typer.Option("--yes", help="Do it, without asking.")] = False,
    json: Json = False,
    config: Config = None,
) -> int:
    """Take a destination away, and say what stays at the provider: everything, as it is. Opt-outs
    that were read there go on counting. Asks, unless --yes is given."""
    if not yes and not sys.stdin.isatty():
        raise typer.BadParameter("--yes is needed where nobody can be asked")
    async with opened_app(config) as app:
        left = await removing.remove(app.pool, dest, really=yes)
        if not yes and _confirmed(left):
            left = await removing.remove(app.pool, dest)
    output(json, left, lambda to: _show_left(to, left))
    return 0 if left.removed else 1


def _confirmed(left: Left) -> bool:
    said = [inert(line) for line in _left(left)]
    return typer.confirm("\n".join([*said, f"Remove {left.destination}?"]), default=False)


def _show_left(to: Console, left: Left) -> None:
    for line in _left(left):
        to.print(Line(line), soft_wrap=True)


def _left(left: Left) -> list[str]:
    lists = count(len(left.lists), "list") + (
        f" ({listed(list(left.lists))})" if left.lists else ""
    )
    silent = count(left.withdrawn, "contact")
    there = f"{count(left.contacts, 'contact')}, {lists}, and {silent} without mail"
    said = [
        f"{left.destination} {'is removed' if left.removed else 'is still there'}.",
        f"At the provider stay, as they are: {there}.",
        f"Not sent: {count(left.unsent, 'change')}.",
        f"Opt-outs that were read there, and go on counting: {left.opt_outs}.",
    ]
    if not left.removed:
        said.append('To empty it first: apply `lists = []` and `when_gone = "delete"`, approve.')
    if left.secret:
        said.append(f"Its secret is still sealed: `syncd secret remove {left.secret}`.")
    return said
