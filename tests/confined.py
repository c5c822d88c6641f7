"""Run a program confined as a unit file says: `python confined.py UNIT PROGRAM [ARG …]`.

What systemd 252 does with SystemCallFilter=, SystemCallErrorNumber=, MemoryDenyWriteExecute=,
RestrictAddressFamilies=, RestrictNamespaces= and NoNewPrivileges=, done here through libseccomp,
for there may be no systemd running; and PR_SET_MDWE, as newer ones set it, where the kernel has it.
"""

from __future__ import annotations

import ctypes
import errno
import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path

ALLOW = 0x7FFF0000
NE, EQ, MASKED_EQ = 1, 4, 7
WRITE, EXEC, SHM_EXEC = 2, 4, 0o100000
NAMESPACES = (0x02000000, 0x04000000, 0x08000000, 0x10000000, 0x20000000, 0x40000000, 0x00020000)
PR_SET_NO_NEW_PRIVS, PR_SET_MDWE = 38, 65
MOST_FAMILIES = 46


class Compare(ctypes.Structure):
    """scmp_arg_cmp: argument *arg* against *a*; for MASKED_EQ, masked with *a*, against *b*."""

    _fields_ = (("arg", ctypes.c_uint), ("op", ctypes.c_int), ("a", ctypes.c_uint64),
                ("b", ctypes.c_uint64))  # fmt: skip


def refuse(number: int) -> int:
    return 0x00050000 | number


def settings(unit: Path) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for line in unit.read_text("utf-8").splitlines():
        if re.match(r"[A-Z]\w+=", line):
            key, _, value = line.partition("=")
            found.setdefault(key, []).append(value)
    return found


@cache
def members(name: str) -> frozenset[str]:
    """The system calls of a set, as systemd itself knows it."""
    told = subprocess.run(["systemd-analyze", "syscall-filter", "--no-pager", name], check=True,
                          capture_output=True, text=True)  # fmt: skip
    found: set[str] = set()
    for line in told.stdout.splitlines()[1:]:
        one = line.strip()
        if one.startswith("@"):
            found |= members(one)
        elif one and not one.startswith("#"):
            found.add(one)
    return frozenset(found)


def allowed(lines: Sequence[str]) -> frozenset[str]:
    """What is left of an allow-list after lines that begin with `~`; @default is implied."""
    calls: set[str] = set(members("@default"))
    for line in lines:
        named = {c for n in line.removeprefix("~").split()
                 for c in (members(n) if n.startswith("@") else {n})}  # fmt: skip
        calls = calls - named if line.startswith("~") else calls | named
    return frozenset(calls | members("@default"))


class Filter:
    """One seccomp filter; calls that this machine does not have are left out."""

    def __init__(self, otherwise: int) -> None:
        self._lib = ctypes.CDLL("libseccomp.so.2", use_errno=True)
        self._lib.seccomp_init.restype = ctypes.c_void_p
        self._context = ctypes.c_void_p(self._lib.seccomp_init(ctypes.c_uint32(otherwise)))

    def rule(self, action: int, call: str, *compares: tuple[int, int, int, int]) -> None:
        number = self._lib.seccomp_syscall_resolve_name(call.encode())
        if number < 0:
            return
        array = (Compare * len(compares))(*(Compare(*one) for one in compares))
        failed = self._lib.seccomp_rule_add_array(
            self._context, ctypes.c_uint32(action), number, len(compares), array
        )
        if failed:
            raise OSError(-failed, f"{call}: {os.strerror(-failed)}")

    def load(self) -> None:
        if failed := self._lib.seccomp_load(self._context):
            raise OSError(-failed, os.strerror(-failed))


def filters(unit: dict[str, list[str]]) -> Iterator[Filter]:
    (name,) = unit["SystemCallErrorNumber"]
    denied = refuse(getattr(errno, name))
    calls = Filter(denied)
    for call in sorted(allowed(unit["SystemCallFilter"])):
        calls.rule(ALLOW, call)
    memory = Filter(ALLOW)
    if unit["MemoryDenyWriteExecute"] == ["yes"]:
        both = WRITE | EXEC
        memory.rule(refuse(errno.EPERM), "mmap", (2, MASKED_EQ, both, both))
        for call in ("mprotect", "pkey_mprotect"):
            memory.rule(refuse(errno.EPERM), call, (2, MASKED_EQ, EXEC, EXEC))
        memory.rule(refuse(errno.EPERM), "shmat", (2, MASKED_EQ, SHM_EXEC, SHM_EXEC))
    families = Filter(ALLOW)
    known = {int(getattr(socket, one)) for one in unit["RestrictAddressFamilies"][0].split()}
    for family in set(range(MOST_FAMILIES)) - known:
        families.rule(refuse(errno.EAFNOSUPPORT), "socket", (0, EQ, family, 0))
    spaces = Filter(ALLOW)
    if unit["RestrictNamespaces"] == ["yes"]:
        spaces.rule(refuse(errno.ENOSYS), "clone3")  # its flags cannot be looked at
        for flag in NAMESPACES:
            for call in ("clone", "unshare"):
                spaces.rule(refuse(errno.EPERM), call, (0, MASKED_EQ, flag, flag))
        spaces.rule(refuse(errno.EPERM), "setns")
    yield from (spaces, families, memory, calls)  # the last forbids the loading of more


def main() -> None:
    unit = settings(Path(sys.argv[1]))
    made = list(filters(unit))
    libc = ctypes.CDLL(None, use_errno=True)
    if unit["NoNewPrivileges"] == ["yes"]:
        libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    if unit["MemoryDenyWriteExecute"] == ["yes"]:
        libc.prctl(PR_SET_MDWE, 1, 0, 0, 0)  # an older kernel says EINVAL; the filter remains
    for one in made:
        one.load()
    os.execv(sys.argv[2], sys.argv[2:])


if __name__ == "__main__":
    main()
