"""`secret set/list/remove/rotate`: credentials sealed in the database."""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

from syncd import tombstone
from syncd.app import App
from syncd.cli import Config, Json, app, command, opened_app, output, print_lines
from syncd.errors import ConfigError
from syncd.secrets import Secrets, sealing_keys

secret = typer.Typer(
    help="Keep credentials, sealed, in the table syncd.secret.", no_args_is_help=True
)
app.add_typer(secret, name="secret")

Name = Annotated[str, typer.Argument(metavar="NAME", help="A secret's name.")]


@command(example="syncd secret set marketing < credential.json", name="set", group=secret)
async def set_(name: Name, json: Json = False, config: Config = None) -> None:
    """Seal a credential: asked for on a terminal, else read from standard input. Never argv.

    The key of tombstones is kept: a new value of `tombstone` goes above what is sealed.
    """
    value = _asked(name)
    async with opened_app(config) as made:
        if name == tombstone.NAME:
            await _tombstones(made).seal(value)
        else:
            await _sealed(made).set(name, value)
    output(json, {"set": name}, lambda console: console.print(f"secret {name!r} is sealed"))


@command(example="syncd secret list", name="list", group=secret)
async def list_(json: Json = False, config: Config = None) -> None:
    """Say which secrets there are, and where each comes from; never a value."""
    async with opened_app(config) as made:
        found = [one._asdict() for one in await made.secrets.names()]
    lines = [f"{one['name']}  {one['where']}  {one['note']}".rstrip() for one in found]
    output(json, found, lambda to: print_lines(to, lines or ["there are none"]))


@command(example="syncd secret remove marketing", name="remove", group=secret)
async def remove(name: Name, json: Json = False, config: Config = None) -> int:
    """Take a credential out of the table."""
    async with opened_app(config) as made:
        if name == tombstone.NAME:
            was_there = await _tombstones(made).remove()
        else:
            was_there = await made.secrets.remove(name)
    says = f"secret {name!r} is removed" if was_there else f"there is no secret {name!r} there"
    output(json, {"removed": was_there}, lambda console: console.print(says))
    return 0 if was_there else 1


@command(example="syncd secret rotate", name="rotate", group=secret)
async def rotate(json: Json = False, config: Config = None) -> None:
    """Seal every credential anew with the first of the keys in SYNCD_SECRET_KEY."""
    async with opened_app(config) as made:
        n = await _sealed(made).rotate()
    output(json, {"sealed": n}, lambda console: console.print(f"{n} secrets are sealed anew"))


def _asked(name: str) -> str:
    if sys.stdin is None:
        raise ConfigError(f"secret {name!r}: standard input is closed; give the JSON there")
    if sys.stdin.isatty():
        return str(typer.prompt(f"{name} (JSON)", hide_input=True, err=True))
    return sys.stdin.read().strip()


def _tombstones(made: App) -> tombstone.Tombstones:
    return tombstone.Tombstones(made.pool, _sealed(made))


def _sealed(made: App) -> Secrets:
    return Secrets(made.pool, os.environ, sealing_keys(os.environ))
