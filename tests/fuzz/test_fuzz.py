"""A few seeds of the concurrent driver; `python -m tests.fuzz.driver` runs as many as you like."""

from __future__ import annotations

import pytest

from .driver import Variant, run_seed

SEEDS = (0, 3, 6, 9)  # the key that is ours, as CleverTap's, by the feed alone and full passes too


def test_the_seeds_of_the_suite_cover_both_variants_of_our_key() -> None:
    variants = [Variant.of(seed) for seed in SEEDS]

    assert {(one.key, one.full) for one in variants} == {("ours", False), ("ours", True)}


@pytest.mark.parametrize("seed", SEEDS)
async def test_whatever_happens_meanwhile_the_provider_ends_as_the_source_says(
    database: str, seed: int
) -> None:
    """Nothing lost, doubled, stale over new, or mailed after a no (races.md, section D)."""
    run = await run_seed(seed, database, seconds=1.5)

    # A deadlock is broken by PostgreSQL and the transaction repeated; the campaign counts them.
    assert [one for one in run.violations if "deadlocks in PostgreSQL" not in one] == []
    assert run.counts["requests"] > 0
