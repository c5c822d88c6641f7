"""Crash at every write: die, or lose the database, at each statement that changes state; go on.

`test_crash.py` takes a fixed third of the cases, `python -m tests.crash` all of them.
"""

import sys
from pathlib import Path

for _place in (Path(__file__).parents[1], Path(__file__).parents[1] / "conformance"):
    if str(_place) not in sys.path:
        sys.path.append(str(_place))
