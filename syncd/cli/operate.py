"""What an operator needs at night: status, check, explain, rejected; and the decisions."""

from __future__ import annotations

import importlib
from typing import Annotated

import typer
from rich.console import Console

from syncd import check as checks
from syncd import sql
from syncd.cli import Config, Dests, Json, command, console, opened_app, output, print_json
from syncd.cli.screen import Line
from syncd.errors import ConfigError
from syncd.explain import Explained, Verdict
from syncd.explain import explain as explained
from syncd.model import Finding
from syncd.standing import Status
from syncd.status import status as status_of
from syncd.status_words import headline, lines, shared
from syncd.words import count, moment

Email = Annotated[str, typer.Argument(metavar="EMAIL", help="An address, in any spelling of case.")]

STYLES = {"in step": "green", "in step, with exceptions": "yellow"}
LEVELS = {"ok": "green", "warning": "yellow", "error": "bold red"}


def block(to: Console, rows: list[tuple[str, str]], indent: int = 2, label: int = 10) -> None:
    """Labels on the left, texts wrapped beside them."""
    width = max(40, to.width - indent - label - 1)
    for name, text in rows:
        for n, line in enumerate(Line(text).wrap(to, width)):
            to.print(Line(" " * indent + f"{name if n == 0 else '':{label}} ") + line)


# ── Looking ─────────────────────────────────────────────────────────────────────────────────


@command(example="syncd status marketing")
async def status(dest: Dests = None, json: Json = False, config: Config = None) -> int:
    """Say of every destination whether it is in step, or why not and what to do. Exit code 1
    where it is not, where something was refused, or where an erasure is not done yet."""
    async with opened_app(config) as app:
        found = await status_of(app, dest or ())
    output(json, found, lambda to: _show_status(to, found))
    return 0 if found.ok else 1


def _show_status(to: Console, found: Status) -> None:
    for name, one in found.destinations.items():
        said = headline(one)
        to.print(
            Line(name, "bold") + Line(f"  {one.provider}  ") + Line(said, STYLES.get(said, "red"))
        )
        block(to, list(lines(one, found.at)))
        to.print()
    if not found.destinations:
        to.print("there is no destination yet: `syncd init` writes an example")
    for line in shared(found):
        to.print(Line(line))


@command(example="syncd check --probe")
async def check(
    dest: Dests = None,
    probe: Annotated[
        bool, typer.Option("--probe", help="Also write, and delete, a canary at the provider.")
    ] = False,
    json: Json = False,
    config: Config = None,
) -> int:
    """Look at everything that can be wrong, each finding with its remedy. Exit code 78
    (configuration), 77 (credentials refused), 69 (unreachable) or 0; warnings never fail."""
    found: list[Finding] = []
    to = console()
    async for finding in checks.check(config, dest or (), probe=probe):
        found.append(finding)
        if not json:
            _show_finding(to, finding)
    code = checks.exit_code(found)
    if json:
        print_json({"findings": found, "exit_code": code})
    else:
        bad = sum(one.level == "error" for one in found)
        odd = sum(one.level == "warning" for one in found)
        to.print()
        to.print(f"{count(bad, 'error')}, {count(odd, 'warning')}")
    return code


def _show_finding(to: Console, finding: Finding) -> None:
    head = Line(f"{finding.level:8}", LEVELS[finding.level]) + Line(f"{finding.subject}: ", "bold")
    indent = " " * 8
    for n, line in enumerate((head + Line(finding.says)).wrap(to, to.width - 8)):
        to.print(line if n == 0 else Line(indent) + line)
    if finding.remedy:
        for n, line in enumerate(Line(finding.remedy, "dim").wrap(to, to.width - 11)):
            to.print(Line(indent + ("→ " if n == 0 else "  ")) + line)


@command(example="syncd explain ann@example.com")
async def explain(email: Email, json: Json = False, config: Config = None) -> int:
    """Say everything that is held about a person, and why mail is sent or not at each
    destination. With --json: every row, as for a request for one's data. Exit code 78 where a
    faulty source or destination kept something from being explained."""
    async with opened_app(config) as app:
        told = await explained(app, email)
    output(json, told, lambda to: _show_explained(to, told))
    return ConfigError.exit_code if told.faults else 0


def _show_explained(to: Console, told: Explained) -> None:
    if not told.known:
        to.print(Line(f"nothing is held about {told.email}"))
    for name, verdicts in told.destinations.items():
        for one in verdicts:
            to.print(Line(name, "bold") + Line(f"  {'mailed' if one.mailed else 'not mailed'}"))
            block(to, [("", line) for line in _told(one)], indent=0, label=1)
    if told.known and not told.contacts:
        to.print("no contact has this address; what is held about the address itself:")
    for fault in told.faults:
        to.print(Line(f"not explained: {fault}"))
    for said in told.erasures:
        to.print(Line(said))
    held = [(table, count(len(rows), "row")) for table, rows in told.rows.items()]
    if held:
        to.print()
        to.print("held (all of it: --json)")
        block(to, held, label=26)


def _told(one: Verdict) -> list[str]:
    said = [
        f"{d['what']}: the source says {d['source']!r}, there it is {d['there']!r}."
        for d in one.differs
    ]
    return [*one.says, *said]


@command(example="syncd rejected marketing")
async def rejected(dest: Dests = None, json: Json = False, config: Config = None) -> None:
    """List what a provider refused, in its own words, and what no source row can be sent as."""
    async with opened_app(config) as app:
        ids = [d.id for d in await app.destinations(dest or ())]
        contacts = [dict(r) for r in await app.pool.fetch(sql.status.rejected, ids)]
        lists = [dict(r) for r in await app.pool.fetch(sql.status.rejected_lists, ids)]

    def render(to: Console) -> None:
        for row in contacts:
            status = "" if row["status"] is None else f" [{row['status']}]"
            to.print(
                Line(f"{row['destination']}  {row['contact_id']}  {row['email'] or '-'}  ", "bold")
                + Line(f"{row['reason']}{status}  since {moment(row['since'])}")
            )
        for row in lists:
            to.print(
                Line(f"{row['destination']}  list {row['list_id']} {row['name']!r}  ", "bold")
                + Line(f"{row['state']}: {row['reason']}")
            )
        if not contacts and not lists:
            to.print("nothing is rejected")
        else:
            to.print("mend the data, and they are tried again by themselves; or `syncd retry`")

    output(json, {"contacts": contacts, "lists": lists}, render)


# The commands that decide something come after those that only look, in the help too.
importlib.import_module("syncd.cli.decide")
