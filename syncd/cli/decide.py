"""Decisions of an operator: retry, pause, resume, approve, discard, lift, scan."""

from __future__ import annotations

import sys
from typing import Annotated

import typer
from rich.console import Console

from syncd import ask, control
from syncd.app import App
from syncd.cli import Config, Dests, Json, command, opened_app, output, remark
from syncd.cli.operate import Email
from syncd.cli.screen import Line, inert
from syncd.control import HeldPlan
from syncd.words import count, listed

Some = Annotated[list[str], typer.Argument(metavar="DEST...", help="Names of destinations.")]
Plan = Annotated[int, typer.Argument(metavar="PLAN", help="The number that `status` shows.")]


@command(example="syncd retry marketing --contact 42")
async def retry(
    dest: Dests = None,
    contact: Annotated[
        list[str] | None,
        typer.Option("--contact", metavar="ID", help="Only this contact; may be repeated."),
    ] = None,
    json: Json = False,
    config: Config = None,
) -> int:
    """Try again what was rejected; data that were mended are tried again without it. Exit code 1
    where none of the contacts named is rejected, or waits."""
    named = sorted(set(contact or ()))
    async with opened_app(config) as app:
        strange = await control.not_waiting(app.pool, dest or (), named)
        due = await control.retry(app.pool, dest or (), contact)
    output(json, {"due": due}, lambda to: to.print(f"{count(due, 'row')} due again"))
    for one in strange:
        where = f"at {listed(dest)}" if dest else "at any destination"
        remark(f"contact {one}: nothing of it is rejected, or waits, {where}")
    return 1 if named and len(strange) == len(named) else 0


@command(example="syncd pause marketing")
async def pause(dest: Some, json: Json = False, config: Config = None) -> None:
    """Send nothing to these destinations until `resume`; what changes meanwhile is kept."""
    await _pause(dest, True, json, config)


@command(example="syncd resume marketing")
async def resume(dest: Some, json: Json = False, config: Config = None) -> None:
    """End a pause, and clear what a destination was halted for: it is tried again."""
    await _pause(dest, False, json, config)


async def _pause(names: list[str], paused: bool, json: bool, config: Config) -> None:
    async with opened_app(config) as app:
        changed = sorted(await control.pause(app.pool, names, paused))
    word = "paused" if paused else "resumed"

    def render(to: Console) -> None:
        for name in names:
            to.print(Line(f"{name}: {word if name in changed else f'was {word} already'}"))

    output(json, {"changed": changed, "paused": paused}, render)


@command(example="syncd approve 7 --rows 1204")
async def approve(
    plan: Plan,
    rows: Annotated[
        int | None,
        typer.Option("--rows", metavar="N", min=0, help="How many rows you saw it to have."),
    ] = None,
    json: Json = False,
    config: Config = None,
) -> int:
    """Send what a held plan holds, if it still has that many rows. Asks where --rows is not
    given, and there is a terminal to ask on."""
    async with opened_app(config) as app:
        if rows is None:
            rows = await _confirmed(app, plan)
            if rows is None:
                return 1
        due = await control.approve(app.pool, plan, rows, ask.who())
    data = {"plan": plan, "rows": rows, "due": due}
    output(json, data, lambda to: to.print(f"plan {plan} is approved: {count(due, 'row')} due"))
    return 0


async def _confirmed(app: App, number: int) -> int | None:
    """The number of rows that a person has just agreed to; None: did not agree."""
    if not sys.stdin.isatty():
        raise typer.BadParameter("--rows N is needed where nobody can be asked; see `syncd status`")
    plan = next((p for p in await control.held_plans(app.pool) if p.id == number), None)
    if plan is None:
        return 0  # `approve` says what is wrong
    return plan.rows if typer.confirm(_question(plan), default=False) else None


def _question(plan: HeldPlan) -> str:
    what = {"remove": "removals", "change": "changes", "opt_out": "opt-outs"}[plan.kind]
    held = inert(f"{plan.destination}, plan {plan.id}: {plan.reason}.")
    return f"{held}\nSend these {plan.rows:,} {what}?"


@command(example="syncd discard 7")
async def discard(plan: Plan, json: Json = False, config: Config = None) -> None:
    """Drop a held plan; as long as source and destination differ, the next full pass asks anew."""
    async with opened_app(config) as app:
        dropped = await control.discard(app.pool, plan, ask.who())
    data = {"plan": plan, "dropped": dropped}
    says = f"plan {plan} is discarded, {count(dropped, 'row')} dropped"
    output(json, data, lambda to: to.print(says))


@command(example='syncd lift ann@example.com --reason "bounce was ours, ticket 815"')
async def lift(
    email: Email,
    reason: Annotated[str, typer.Option("--reason", help="Why the no does not hold; is kept.")],
    of_list: Annotated[
        str | None, typer.Option("--list", metavar="ID", help="Of this list; without: all mail.")
    ] = None,
    json: Json = False,
    config: Config = None,
) -> int:
    """Close the opt-outs of an address. The source must say yes too, or nobody is mailed."""
    if not reason.strip():
        raise typer.BadParameter("--reason must say why the no does not hold")
    async with opened_app(config) as app:
        done = await ask.lift(app, email, of_list, reason.strip())
        is_known = of_list is None or done.lifted or await ask.knows_list(app, of_list)

    def render(to: Console) -> None:
        what = "all mail" if of_list is None else f"list {of_list}"
        to.print(f"{count(len(done.lifted), 'opt-out')} of {what} lifted")
        if done.tombstones:
            to.print("the erasure no longer keeps the person away")
        for row in done.open:
            which = "all mail" if row["list_id"] is None else f"list {row['list_id']}"
            to.print(Line(f"still open: {row['kind']} at {row['destination']}, {which}"))
        for said in (one for verdicts in done.says.values() for one in verdicts):
            to.print(Line(said))

    output(json, done, render)
    if not is_known:
        remark(f"there is no list {of_list}: --list takes a list's id")
    return 0 if done.lifted or done.tombstones else 1


@command(example="syncd scan marketing --wait 120")
async def scan(
    dest: Dests = None,
    wait: Annotated[
        float, typer.Option("--wait", metavar="SECONDS", min=0, help="How long to wait for it.")
    ] = 60.0,
    json: Json = False,
    config: Config = None,
) -> int:
    """Read opt-outs, and contacts where that can be, back now: a worker does it, else this."""
    async with opened_app(config) as app:
        found = await ask.scan(app, dest or (), wait)

    def render(to: Console) -> None:
        for name, one in found.items():
            said = f"read, {count(one.noted, 'new opt-out')}" if one.done else one.why
            if one.scans:
                said += f", {count(one.scans, 'scan')} of contacts"
            to.print(Line(f"{name}: {said}"))

    output(json, {"destinations": found}, render)
    return max((one.exit_code for one in found.values()), default=0)
