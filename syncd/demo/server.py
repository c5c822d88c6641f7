"""A PostgreSQL of the demo's own; neither it nor a file of it outlives the block."""

from __future__ import annotations

import atexit
import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from syncd import db


@contextlib.contextmanager
def cluster() -> Iterator[str]:
    """A fresh PostgreSQL in a temporary folder; neither outlives the block.

    Readable by all, because as root the server runs under another user.
    """
    folder = Path(tempfile.mkdtemp(prefix="syncd-demo-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)  # after what the wheel does then
    folder.chmod(0o755)
    run = folder / "run"
    run.mkdir(mode=0o700)
    before = os.environ.get("XDG_RUNTIME_DIR")
    os.environ["XDG_RUNTIME_DIR"] = str(run)  # where the wheel would leave its lock file
    try:
        with db.server(f"{db.EMBEDDED}{folder / 'pg'}") as url:
            yield url
    finally:
        with db.undisturbed():
            if before is None:
                del os.environ["XDG_RUNTIME_DIR"]
            else:
                os.environ["XDG_RUNTIME_DIR"] = before
            shutil.rmtree(folder, ignore_errors=True)
