"""The README's table of abilities is what the adapters declare."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from syncd import abilities
from syncd.model import Can
from syncd.providers import providers

README = Path(__file__).parent.parent / "README.md"


def cells(text: str) -> dict[str, list[str]]:
    """Row → its cells."""
    lines = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("|")]
    return {line[0]: line[1:] for line in lines}


def test_the_readme_says_what_the_adapters_declare() -> None:
    text = README.read_text("utf-8")

    assert abilities.put(text) == text, "run: python -m syncd.abilities README.md"


def test_every_flag_has_its_words() -> None:
    assert set(abilities.FLAGS) == {flag for flag in Can if flag}
    assert len(set(abilities.FLAGS.values())) == len(abilities.FLAGS)


def test_a_flag_that_is_taken_away_changes_the_table(monkeypatch: pytest.MonkeyPatch) -> None:
    names = sorted(providers())
    kind = providers()["copernica"]
    place, row = names.index("copernica"), abilities.FLAGS[Can.FIND]
    assert cells(abilities.table())[row][place] == "yes"
    monkeypatch.setattr(kind, "traits", replace(kind.traits, can=kind.traits.can & ~Can.FIND))

    assert cells(abilities.table())[row][place] == "no"
    assert abilities.put(README.read_text("utf-8")) != README.read_text("utf-8")


def test_columns_are_the_installed_providers() -> None:
    told = cells(abilities.table())

    assert [len(row) for row in told.values()] == [len(providers())] * len(told)
    assert told["`syncd authorize`"].count("yes") == 1
    assert told["limits kept"][1] == "upload: 15 at once; read: 3 at once"


def test_the_command_prints_it_and_puts_it_into_a_file(tmp_path: Path) -> None:
    path = tmp_path / "README.md"
    path.write_text(f"before\n{abilities.MARKS[0]}\nold\n{abilities.MARKS[1]}\nafter\n", "utf-8")
    run = [sys.executable, "-m", "syncd.abilities"]
    printed = subprocess.run(run, check=True, capture_output=True, text=True).stdout
    subprocess.run([*run, str(path)], check=True)

    assert printed == abilities.table()
    assert path.read_text("utf-8").splitlines()[2] == printed.splitlines()[0]
    assert path.read_text("utf-8").endswith(f"{abilities.MARKS[1]}\nafter\n")
    with pytest.raises(ValueError, match="not there once"):
        abilities.put("no marks")
