"""A seeded campaign against the real program: `python -m tests.chaos --help`.

Several `syncd run` processes on a PostgreSQL of their own, against the sandbox in a process of its
own, while the source changes and everything fails that can. Then the faults stop, and what the
sandboxes wrote down of every request is held against what the source said when.
"""

from __future__ import annotations

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
if str(HERE.parent) not in sys.path:  # started as a module, not by pytest
    sys.path.insert(0, str(HERE.parent))
