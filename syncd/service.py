"""What systemd is told over $NOTIFY_SOCKET (sd_notify), and when its watchdog is fed.

The protocol is one datagram of NAME=value lines: too little for a library.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import time
from collections.abc import AsyncIterator, Mapping

import structlog

from syncd.health import Health
from syncd.log import masked

log = structlog.get_logger()

EVERY = 2.0  # seconds between two tellings, at most
MORE = 15.0  # seconds that are asked for, again and again, while what is in flight ends


class Notifier:
    """Sends to the socket that *environ* names; where it names none nothing is sent.

    Like sd_notify itself it never fails: a service manager that is gone stops nobody's work.
    """

    def __init__(self, environ: Mapping[str, str]) -> None:
        address = environ.get("NOTIFY_SOCKET", "")
        self._address = "\0" + address[1:] if address.startswith("@") else address
        if not self._address.startswith(("/", "\0")):
            self._address = ""
        self.watchdog = _watchdog(environ)

    def send(self, **told: object) -> None:
        """Tell NAME=value for each of these."""
        if not self._address:
            return
        lines = "\n".join(f"{name}={value}" for name, value in told.items())
        with (
            contextlib.suppress(OSError),
            socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as out,
        ):
            out.setblocking(False)
            out.sendto(lines.encode(), self._address)

    def tell(self, health: Health) -> None:
        """Say how the process is; once more each time that its phase changes."""
        status = masked(health.says)
        match health.phase:
            case "serving":
                self.send(READY=1, STATUS=status)
            case "reloading":
                self.send(RELOADING=1, MONOTONIC_USEC=time.monotonic_ns() // 1000, STATUS=status)
            case "stopping":
                self.send(STOPPING=1, STATUS=status, EXTEND_TIMEOUT_USEC=int(MORE * 1e6))
            case _:
                self.send(STATUS=status)


def _watchdog(environ: Mapping[str, str]) -> float | None:
    """Seconds within which systemd expects to be told again; None: it does not."""
    text, pid = environ.get("WATCHDOG_USEC", ""), environ.get("WATCHDOG_PID", "")
    if not text.isdigit() or int(text) <= 0 or pid not in ("", str(os.getpid())):
        return None
    return int(text) / 1e6


@contextlib.asynccontextmanager
async def watched(environ: Mapping[str, str]) -> AsyncIterator[Health]:
    """The process's health, told to systemd as it changes and every few seconds."""
    notifier = Notifier(environ)
    health = Health() if notifier.watchdog is None else Health(notifier.watchdog / 2)
    health.heard = lambda: notifier.tell(health)
    every = EVERY if notifier.watchdog is None else min(EVERY, notifier.watchdog / 4)
    async with asyncio.TaskGroup() as group:
        feeding = group.create_task(_feed(notifier, health, every), name="watchdog")
        try:
            yield health
        finally:
            feeding.cancel()


async def _feed(notifier: Notifier, health: Health, every: float) -> None:
    """Feed the watchdog while work moves; a stalled lane stops it, and systemd starts us again."""
    before: list[str] = []
    while True:
        stalled = health.stalled
        if stalled and not before:
            log.error("work has stalled, the watchdog is not fed", destinations=stalled)
        elif before and not stalled:
            log.info("work moves again", destinations=before)
        before = stalled
        told: dict[str, object] = {"STATUS": masked(health.says)}
        if not stalled and notifier.watchdog is not None:
            told["WATCHDOG"] = 1
        if health.phase == "stopping":
            told["EXTEND_TIMEOUT_USEC"] = int(MORE * 1e6)
        notifier.send(**told)
        await asyncio.sleep(every)
