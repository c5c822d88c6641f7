"""A short campaign with fixed seeds; `python -m tests.chaos --help` runs as many as you like."""

from __future__ import annotations

import os
import shutil

import pytest
from chaos.__main__ import new_folder
from chaos.campaign import run

SECONDS = 25.0  # of trouble, a seed


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("seed", [36])
async def test_whatever_fails_meanwhile_every_destination_ends_as_the_source_says(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two processes and more, restarts of PostgreSQL, erratic providers; then nothing is lost,
    stale, doubled, deadlocked, or mailed after a no."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", os.environ.get("XDG_RUNTIME_DIR", ""))
    folder = new_folder(seed)
    outcome = await run(seed, SECONDS, folder)

    print(outcome.summary())
    assert list(map(str, outcome.findings)) == [], f"history and logs: {folder}"
    assert outcome.counts["requests"] > 0
    assert outcome.counts["changes"] > 0
    shutil.rmtree(folder, ignore_errors=True)
