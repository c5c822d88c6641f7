"""An adapter of somebody else's is found and held to the same; one that is wrong is found out."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

sys.path.insert(0, str(Path(__file__).parent / "third_party"))

import brisk

HERE = Path(__file__).parent


def installed(folder: Path) -> dict[str, str]:
    """A package with those adapters, as an installer leaves it; the environment that sees it."""
    kinds = [brisk.Brisk, *brisk.BROKEN]
    info = folder / "brisk_mail-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: brisk-mail\nVersion: 1.0\n")
    adapters = "".join(f"{one.name} = brisk:{one.__name__}\n" for one in kinds)
    found = "".join(f"{one.name} = brisk:BriskStand\n" for one in kinds)
    (info / "entry_points.txt").write_text(
        f"[syncd.providers]\n{adapters}\n[syncd.conformance]\n{found}"
    )
    path = os.pathsep.join(map(str, (folder, HERE / "third_party", HERE, HERE.parent)))
    return {**os.environ, "PYTHONPATH": path}


@pytest.fixture(scope="module")
def verdicts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Test → 'passed', 'skipped', or what it failed with; the whole suite for the good one."""
    folder = tmp_path_factory.mktemp("site")
    chosen = [f"({kind.name} and {test})" for kind, test in brisk.BROKEN.items()]
    ended = subprocess.run(
        [sys.executable, "-m", "pytest", "-n", "0", "-q", f"--junitxml={folder / 'report.xml'}",
         "-k", " or ".join(["brisk", *chosen]), str(HERE / "test_conformance.py")],
        env=installed(folder), cwd=HERE.parent.parent, capture_output=True, text=True, timeout=240,
    )  # fmt: skip
    assert (folder / "report.xml").exists(), ended.stdout + ended.stderr
    found = {}
    for case in ET.parse(folder / "report.xml").iter("testcase"):
        worst = next((one for one in case if one.tag in ("failure", "error", "skipped")), None)
        said = "passed" if worst is None else worst.get("message") or worst.tag
        found[str(case.get("name"))] = (
            "skipped" if worst is not None and worst.tag == "skipped" else said
        )
    return found


def test_a_third_partys_adapter_is_found_and_passes(verdicts: dict[str, str]) -> None:
    told = {name: said for name, said in verdicts.items() if "[brisk" in name}
    assert {n: said for n, said in told.items() if said not in ("passed", "skipped")} == {}
    assert sum(said == "passed" for said in told.values()) > 60


@pytest.mark.parametrize("kind", brisk.BROKEN, ids=lambda kind: kind.name)
def test_an_adapter_that_is_wrong_fails(verdicts: dict[str, str], kind: type[brisk.Brisk]) -> None:
    told = {name: said for name, said in verdicts.items()
            if kind.name in name and brisk.BROKEN[kind] in name}  # fmt: skip
    assert told
    assert [name for name, said in told.items() if said not in ("passed", "skipped")]
