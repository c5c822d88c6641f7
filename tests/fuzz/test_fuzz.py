"""A few seeds of the concurrent driver; `python -m tests.fuzz.driver` runs as many as you like."""

from __future__ import annotations

import pytest

from .driver import Variant, run_seed
from .provider import KINDS

SEEDS = range(6)


def test_the_seeds_of_the_suite_cover_every_variant() -> None:
    variants = [Variant.of(seed) for seed in SEEDS]

    assert {(one.key, one.full) for one in variants} == {
        (key, full) for key in KINDS for full in (False, True)
    }


@pytest.mark.parametrize("seed", SEEDS)
async def test_whatever_happens_meanwhile_the_provider_ends_as_the_source_says(
    database: str, seed: int
) -> None:
    """Nothing lost, doubled, stale over new, deadlocked, or mailed after a no (races.md, D)."""
    run = await run_seed(seed, database, seconds=1.5)

    assert run.violations == []
    assert run.counts["requests"] > 0
