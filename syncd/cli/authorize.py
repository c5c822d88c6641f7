"""`authorize`: a credential that is granted in a browser."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated
from urllib.parse import urlsplit

import typer

from syncd import authorize as authorizing
from syncd.authorize import Come
from syncd.callback import Attempt, checked_redirect, pasted
from syncd.cli import Config, Dest, Json, command, console, opened_app, output
from syncd.cli.screen import Line
from syncd.web_callback import HOST, PORT, listening


@command(example="syncd authorize marketing --paste", name="authorize")
async def authorize_(
    dest: Dest,
    paste: Annotated[
        bool, typer.Option("--paste", help="Read the address that the browser ends at; no server.")
    ] = False,
    port: Annotated[
        int,
        typer.Option("--port", metavar="PORT", min=0, max=65_535, help="Of this machine."),
    ] = PORT,
    redirect_uri: Annotated[
        str | None,
        typer.Option(
            "--redirect-uri", metavar="URL", help="As it is registered with the application."
        ),
    ] = None,
    application: Annotated[
        str | None,
        typer.Option(
            "--application", metavar="NAME", help="The secret with the application's keys."
        ),
    ] = None,
    wait: Annotated[
        float, typer.Option("--wait", metavar="SECONDS", min=1, help="For the browser.")
    ] = 600.0,
    json: Json = False,
    config: Config = None,
) -> None:
    """Have a credential granted in a browser, and seal it. Shows an address to open; whoever logs
    in there lets syncd in. The browser comes back to this machine or, with --paste, ends at a page
    that need not load, whose address is then pasted here. The account is written down: later
    credentials must be of the same one."""
    wanted = None if redirect_uri is None else checked_redirect(redirect_uri)
    async with opened_app(config) as app:
        wish = await authorizing.asked(app, dest, application)
        async with _way(paste, port, wanted, wait) as (back, come):
            done = await authorizing.authorize(app, wish, back, come)
    known = f"account {done.account} {done.name}".rstrip() if done.account else "the account"
    says = f"{known}: secret {done.secret!r} is sealed, for {done.destination!r}"
    output(json, done._asdict(), lambda console: console.print(Line(says)))


@asynccontextmanager
async def _way(
    paste: bool, port: int, redirect_uri: str | None, wait: float
) -> AsyncIterator[tuple[str, Come]]:
    """Where the browser is sent back to, and how that is learned. All of it on standard error."""
    out = console(stderr=True)

    def show(page: str, then: str) -> None:
        out.print(Line("Open this address in a browser:", "bold"))
        out.print()
        out.print(Line(f"    {page}"), soft_wrap=True)
        out.print()
        out.print(Line(then), soft_wrap=True)

    if paste:

        async def from_paste(attempt: Attempt, page: str) -> str:
            show(page, "then paste the address that the browser ends at, and press Enter:")
            return attempt.code(await pasted())

        yield redirect_uri or f"http://{HOST}:{port or PORT}/", from_paste
        return
    path = urlsplit(redirect_uri).path if redirect_uri else ""
    async with listening(path or "/", port, wait) as listener:
        back = redirect_uri or f"http://{HOST}:{listener.port}/"

        async def from_browser(attempt: Attempt, page: str) -> str:
            show(page, f"waiting for the browser at {back} (Ctrl-C ends it; no browser? --paste)")
            return await listener.code(attempt)

        yield back, from_browser
