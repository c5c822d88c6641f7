"""`syncd` whose waits after failures are a tenth of what they are.

`python tests/hurried.py -m syncd ARGS` where one would say `python -m syncd ARGS`: `UNDER` is what
such a process is started under (`service.Service.under`, `cmdline.start`).
"""

from __future__ import annotations

import sys
from pathlib import Path

UNDER = (sys.executable, "-W", "error", str(Path(__file__).resolve()))


def main() -> None:
    from syncd import outcomes
    from syncd.cli import main

    outcomes.FIRST_WAIT, outcomes.UNSENT_WAIT = 0.1, 0.5
    sys.argv = ["syncd", *sys.argv[3:]]
    main()


if __name__ == "__main__":
    main()
