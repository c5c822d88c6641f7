"""Hosts of the test's own: network namespaces, each with a cable to the database's network and one
to the provider's, which can be pulled.

    async with network() as net:          # skipped where that is not allowed
        one = net.host()
        net.cut(one, "database")
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import secrets
import subprocess
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

import needs

Net = Literal["database", "provider"]
NETS: tuple[Net, Net] = ("database", "provider")


def run(*command: str) -> str:
    ran = subprocess.run(command, capture_output=True, text=True, timeout=30)
    if ran.returncode:
        raise OSError(f"{' '.join(command)}: {ran.stderr.strip()}")
    return ran.stdout


@dataclass
class Host:
    """One namespace. `under` begins a command that is to run there."""

    name: str
    number: int
    under: Sequence[str]


@dataclass
class Network:
    """Two switches on this machine, and the hosts plugged into both."""

    ip: str
    tag: str
    number: int = 0  # of the pair of subnets
    hosts: list[Host] = field(default_factory=list)

    def subnet(self, net: Net) -> str:
        return f"10.213.{2 * self.number + NETS.index(net)}"

    def gateway(self, net: Net) -> str:
        """This machine's own address there."""
        return f"{self.subnet(net)}.1"

    def take_subnets(self) -> None:
        """Whatever another run uses at the same time, or one that was killed left behind, is left
        alone: two switches with one address would lead nowhere."""
        taken = run(self.ip, "-o", "-4", "addr")
        free = [n for n in range(128) if not any(f" 10.213.{2 * n + k}." in taken for k in (0, 1))]
        self.number = random.choice(free)

    def switch(self, net: Net) -> str:
        return f"sy{self.tag}{net[0]}"

    def cable(self, host: Host, net: Net) -> str:
        """This machine's end of it."""
        return f"sy{self.tag}{net[0]}{host.number}"

    def host(self) -> Host:
        number = len(self.hosts) + 2
        name = f"syncd-{self.tag}-{number}"
        made = Host(name, number, [self.ip, "netns", "exec", name])
        run(self.ip, "netns", "add", name)
        self.hosts.append(made)
        run(*made.under, self.ip, "link", "set", "lo", "up")
        for net in NETS:
            ours, theirs = self.cable(made, net), f"{net[:4]}0"
            run(self.ip, "link", "add", ours, "type", "veth", "peer", "name", theirs,
                "netns", name)  # fmt: skip
            run(self.ip, "link", "set", ours, "master", self.switch(net), "up")
            address = f"{self.subnet(net)}.{number}/24"
            run(*made.under, self.ip, "addr", "add", address, "dev", theirs)
            run(*made.under, self.ip, "link", "set", theirs, "up")
        return made

    def cut(self, host: Host, net: Net) -> None:
        run(self.ip, "link", "set", self.cable(host, net), "down")

    def mend(self, host: Host, net: Net) -> None:
        run(self.ip, "link", "set", self.cable(host, net), "up")


@contextlib.contextmanager
def network() -> Iterator[Network]:
    net = Network(needs.program("ip"), secrets.token_hex(3))
    try:
        try:
            net.take_subnets()
            for one in NETS:
                run(net.ip, "link", "add", net.switch(one), "type", "bridge")
                run(net.ip, "addr", "add", f"{net.gateway(one)}/24", "dev", net.switch(one))
                run(net.ip, "link", "set", net.switch(one), "up")
            run(net.ip, "netns", "add", f"syncd-{net.tag}-0")
            run(net.ip, "netns", "del", f"syncd-{net.tag}-0")
        except OSError as error:
            needs.missing(f"network namespaces are not allowed here ({error})")
        yield net
    finally:
        for host in net.hosts:
            with contextlib.suppress(OSError):
                run(net.ip, "netns", "del", host.name)
        for one in NETS:
            with contextlib.suppress(OSError):
                run(net.ip, "link", "del", net.switch(one))


@contextlib.asynccontextmanager
async def relay(host: str, path: str) -> AsyncIterator[int]:
    """A port of *host* that leads to the Unix socket at *path*."""

    async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65_536):
                writer.write(data)
                await writer.drain()
        writer.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.CancelledError):
            onward, back = await asyncio.open_unix_connection(path)
            await asyncio.gather(carry(reader, back), carry(onward, writer))

    server = await asyncio.start_server(serve, host, 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
