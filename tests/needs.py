"""What a test needs of the machine: skipped where it is missing, a failure where CI=true."""

from __future__ import annotations

import os
import shutil
from typing import NoReturn

import pytest


def missing(what: str) -> NoReturn:
    """End the test: it cannot be carried out here."""
    if os.environ.get("CI") == "true":
        pytest.fail(f"{what}; .ci/run should have seen to it")
    pytest.skip(what)


def program(name: str) -> str:
    """The path of a program."""
    for folder in (None, "/usr/sbin:/sbin"):
        if found := shutil.which(name, path=folder):
            return found
    missing(f"{name} is not installed")
