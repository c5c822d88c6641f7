"""`python -m tests.chaos --seed N --minutes M`: attack the real program, then judge.

Prints a JSON line for each seed. Findings stand above it, with the folder that has history and
logs, and the command that repeats the seed (what is tried, not how it interleaves).
"""

from __future__ import annotations

import argparse
import asyncio
import os
import shutil
import signal
import tempfile
from pathlib import Path

import orjson

from .campaign import Outcome, run


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--seed", type=int, default=1, help="the first one")
    parser.add_argument("--seeds", type=int, default=1, help="so many, one after another")
    parser.add_argument("--minutes", type=float, default=1.0, help="of trouble, a seed")
    parser.add_argument("--keep", action="store_true", help="also the folders of clean seeds")
    said = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # nothing is left running
    unclean = 0
    for seed in range(said.seed, said.seed + said.seeds):
        outcome = asyncio.run(run(seed, said.minutes * 60, new_folder(seed)))
        unclean += bool(outcome.findings)
        show(outcome, said.minutes, said.keep)
    return 1 if unclean else 0


def new_folder(seed: int) -> Path:
    """A folder that the server's own user may enter."""
    folder = Path(tempfile.mkdtemp(prefix=f"syncd-chaos-{seed}-"))
    folder.chmod(0o755)
    (folder / "run").mkdir(0o700)
    os.environ["XDG_RUNTIME_DIR"] = str(folder / "run")
    return folder


def show(outcome: Outcome, minutes: float, keep: bool) -> None:
    for one in outcome.findings:
        print(str(one)[:3000])
    if outcome.findings:
        print(f"history and logs: {outcome.folder}")
        print(f"again: python -m tests.chaos --seed {outcome.seed} --minutes {minutes:g}")
    elif not keep:
        shutil.rmtree(outcome.folder, ignore_errors=True)
    print(orjson.dumps(outcome.summary()).decode(), flush=True)


if __name__ == "__main__":
    raise SystemExit(main())
