"""The systemd units: as systemd itself reads them, and as the daemon needs them to be."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import needs
import pytest

from syncd.errors import ConfigError, Refused
from syncd.health import STALL
from syncd.settings import Settings, admin_address

UNITS = Path(__file__).parents[1] / "systemd"
NAMES = ("syncd.service", "syncd@.service", "syncd-backfill@.service")
EXPOSED = 1.2
HERE = sys.executable.replace("python", "syncd")


def values(name: str, key: str) -> list[str]:
    lines = (UNITS / name).read_text("utf-8").splitlines()
    return [line.partition("=")[2] for line in lines if line.startswith(key + "=")]


def test_the_units_are_these() -> None:
    assert sorted(path.name for path in UNITS.iterdir()) == sorted(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_systemd_finds_nothing_wrong(name: str, tmp_path: Path) -> None:
    analyze = needs.program("systemd-analyze")
    shutil.copytree(UNITS, tmp_path / "units")
    program = tmp_path / "syncd"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    for path in (tmp_path / "units").iterdir():
        path.write_text(path.read_text().replace("/usr/local/bin/syncd", str(program)))
    shown = name.replace("@.", "@1.")
    ran = subprocess.run(
        [analyze, "verify", "--man=no", str(tmp_path / "units" / shown)],
        capture_output=True, text=True, timeout=180,
    )  # fmt: skip
    ours = [line for line in ran.stderr.splitlines() if "syncd" in line]

    assert (ran.returncode, ours) == (0, []), ran.stderr


@pytest.mark.parametrize("name", NAMES)
def test_hardly_anything_is_exposed(name: str) -> None:
    """What is left over: the network, which is what it is for, and no root directory of its own."""
    analyze = needs.program("systemd-analyze")
    ran = subprocess.run(
        [analyze, "security", "--offline=true", "--no-pager", str(UNITS / name)],
        capture_output=True, text=True, timeout=180,
    )  # fmt: skip
    found = re.search(r"Overall exposure level for \S+: ([\d.]+)", ran.stdout)

    assert found, ran.stderr
    print(found[0])
    assert float(found[1]) <= EXPOSED, ran.stdout


def test_the_units_are_hardened_alike() -> None:
    rest = [(UNITS / name).read_text("utf-8").partition("# ── Hardening")[2] for name in NAMES]

    assert len({one.partition("[Install]")[0].strip() for one in rest}) == 1
    assert "MemoryDenyWriteExecute=yes" in rest[0]


@pytest.mark.parametrize("name", NAMES[:2])
def test_the_daemons_unit_agrees_with_the_daemon(name: str) -> None:
    (kind,), (again,) = values(name, "Type"), values(name, "Restart")
    (never,) = values(name, "RestartPreventExitStatus")
    (watchdog,), (stop,) = values(name, "WatchdogSec"), values(name, "TimeoutStopSec")

    assert (kind, again) == ("notify", "on-failure")
    assert {int(one) for one in never.split()} == {77, ConfigError.exit_code}
    assert Refused.exit_code in (69, 77)
    assert int(watchdog) / 2 >= STALL
    assert int(stop) > Settings().drain_seconds
    (admin,) = values(name, "Environment")
    address = admin_address(admin.partition("=")[2].replace("%i", "1"))
    assert address is not None
    assert address[0] == "127.0.0.1"


def test_a_backfill_that_rejected_somebody_has_not_failed() -> None:
    (fine,) = values("syncd-backfill@.service", "SuccessExitStatus")

    assert fine.split()[0] == "1"
    assert values("syncd-backfill@.service", "Type") == ["oneshot"]
