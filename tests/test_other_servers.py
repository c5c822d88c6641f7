"""The suite's core once more: on PostgreSQL 15, and through a PgBouncer in transaction mode.

What is planned, claimed, sent, settled and watched, what the meters allow, and whole processes.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import needs
import pytest

HERE = Path(__file__).parent
CORE = (
    "races/test_races_push.py",
    "races/test_races_plan.py",
    "test_settled.py",
    "test_redcappi_sync.py::test_the_annotated_destination_works_as_it_stands",
    "test_redcappi_sync.py::test_after_every_mishap_the_lists_hold_what_the_shop_says",
    "test_redcappi_sync.py::test_a_list_deleted_in_the_dashboard_asks_and_the_rest_goes_on",
    "test_daemon.py::test_a_new_row_begins_a_changed_one_is_followed_a_deleted_one_ends",
)
FIFTEEN = Path("/usr/lib/postgresql/15/bin")  # Debian's


async def passes(modules: Sequence[str], **environ: str) -> None:
    """Run these with another server; what they print is shown where one fails."""
    chosen = [str(HERE / one) for one in (*CORE, *modules)]
    running = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "pytest", "-q", "-n", "0", *chosen,
        cwd=HERE.parent, env={**os.environ, **environ},
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    out, _ = await running.communicate()
    assert running.returncode == 0, out.decode(errors="replace")[-20_000:]


@pytest.mark.timeout(1800)
async def test_the_core_passes_on_postgresql_15() -> None:
    if not (FIFTEEN / "postgres").is_file():
        needs.missing("PostgreSQL 15 is not installed")
    others = ("test_capture.py", "test_window.py")
    await passes(others, SYNCD_TEST_POSTGRES=str(FIFTEEN))


@pytest.mark.timeout(1800)
async def test_the_core_passes_through_a_pgbouncer() -> None:
    needs.program("pgbouncer")
    await passes(("test_meter.py",), SYNCD_TEST_PGBOUNCER="1")
