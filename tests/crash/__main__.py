"""`python -m tests.crash [--provider P …] [--at-once N] [--workers W]`: all cases.

--at-once: so many points of each run, instead of one; a case that goes wrong is then tried alone.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

import pytest

from .campaign import ALL
from .kinds import KINDS


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.crash", description=__doc__)
    parser.add_argument("--provider", action="append", choices=KINDS)
    parser.add_argument("--at-once", type=int, default=1)
    parser.add_argument("--workers", type=int, default=1)
    told = parser.parse_args()
    os.environ |= {ALL: "all", f"{ALL}_AT_ONCE": str(told.at_once)}
    wanted = f"any_write and ({' or '.join(told.provider or KINDS)})"
    here = str(Path(__file__).parent)
    spread = ["-n", str(told.workers), "--dist", "load"] if told.workers > 1 else ["-n", "0"]
    return pytest.main([here, "-q", "-rA", "-s", *spread, "-k", wanted])


if __name__ == "__main__":
    sys.exit(main())
