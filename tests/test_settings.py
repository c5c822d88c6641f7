"""Settings: where they come from, and that every fault is told at once, without a password."""

from __future__ import annotations

import os
import re
import tomllib
from pathlib import Path

import pytest
from pydantic import ValidationError

from syncd.errors import ConfigError
from syncd.settings import Settings, load, shown_url

SHARES = "expected less than 1: both are parts of one meter, and ordinary changes need the rest"
LEVELS = "expected 'debug', 'info', 'warning' or 'error'"
SCHEMES = "expected postgresql://… or embedded: or empty (PG* variables)"
REFERENCE = Path(__file__).parent.parent / "config" / "syncd.toml"


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in [name for name in os.environ if name.startswith("SYNCD_")]:
        monkeypatch.delenv(name)
    monkeypatch.setattr("syncd.settings.PLACES", (Path("syncd.toml"), tmp_path / "etc.toml"))
    monkeypatch.chdir(tmp_path)


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def faults(path: Path | None = None) -> list[str]:
    with pytest.raises(ConfigError) as raised:
        load(path)
    assert raised.value.exit_code == 78
    return list(raised.value.faults)


def test_the_reference_file_names_every_setting_with_its_default_and_changes_nothing() -> None:
    text = REFERENCE.read_text(encoding="utf-8")
    uncommented = tomllib.loads(re.sub(r"^#(?=\w+ = )", "", text, flags=re.MULTILINE))
    defaults = {key: field.default for key, field in Settings.model_fields.items()}

    assert tomllib.loads(text) == {}
    assert uncommented == defaults
    assert Settings(**uncommented) == Settings()


def test_the_environment_wins_over_the_file_and_the_file_over_the_defaults(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "syncd.toml", "pool_size = 5\nwindow = 70\nlisten = false\n")
    monkeypatch.setenv("SYNCD_POOL_SIZE", "6")
    monkeypatch.setenv("SYNCD_LOG_LEVEL", "DEBUG")
    monkeypatch.setenv("SYNCD_WINDOW", "")
    settings = load()

    assert (settings.pool_size, settings.window, settings.listen) == (6, 70, False)
    assert (settings.log_level, settings.poll_seconds) == ("debug", 0.2)


def test_the_named_file_is_read_and_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "etc.toml", "pool_size = 2")
    assert load().pool_size == 2
    write(tmp_path / "syncd.toml", "pool_size = 3")
    assert load().pool_size == 3
    monkeypatch.setenv("SYNCD_CONFIG", str(write(tmp_path / "four.toml", "pool_size = 4")))
    assert load().pool_size == 4
    assert load(write(tmp_path / "five.toml", "\ufeffpool_size = 5\r\n")).pool_size == 5


def test_without_a_file_everything_is_default() -> None:
    assert load() == Settings()


def test_settings_read_twice_are_equal_so_that_a_reload_can_tell_a_change(tmp_path: Path) -> None:
    file = write(tmp_path / "syncd.toml", "window = 9")

    assert load() == load(file)


def test_all_faults_are_told_at_once_with_place_finding_and_expectation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write(
        tmp_path / "syncd.toml",
        "pol_size = 5\nwindow = 'many'\nmax_keys = true\nread_share = 0.95\nlisten = 'often'\n"
        "[journal]\nx = 1\n",
    )
    monkeypatch.setenv("SYNCD_POLL_SECONDS", "inf")
    monkeypatch.setenv("SYNCD_LOG_LEVEL", "loud")
    monkeypatch.setenv("SYNCD_POOLSIZE", "3")
    monkeypatch.setenv("SYNCD_PORT_8800_TCP", "tcp://10.0.0.1")
    monkeypatch.setenv("SYNCD_SECRET_ACME", "x")

    assert sorted(faults(file)) == sorted(
        [
            "environment: SYNCD_POOLSIZE is not a setting; did you mean SYNCD_POOL_SIZE?",
            "environment: SYNCD_POLL_SECONDS is 'inf', expected a finite number",
            f"environment: SYNCD_LOG_LEVEL is 'loud', {LEVELS}",
            f"{file}: pol_size is not a setting; did you mean pool_size?",
            f"{file}: journal is not a setting; config/syncd.toml names them all",
            f"{file}: window is 'many', expected a valid integer",
            f"{file}: max_keys is True, expected a number",
            f"{file}: listen is 'often', expected a valid boolean",
            f"settings: read_share + lane0_share is 1.05, {SHARES}",
        ]
    )


def test_a_lease_that_the_send_fence_cannot_live_with_is_refused_with_the_reason(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SYNCD_REQUEST_TIMEOUT_SECONDS", "9")
    [fault] = faults()

    assert fault.startswith(
        "settings: lease_seconds is 9, expected more than"
        " request_timeout_seconds + heartbeat_seconds = 10: "
    )
    assert "send fence" in fault
    with pytest.raises(ValidationError, match="send fence"):
        Settings(lease_seconds=5)


def test_a_clash_is_not_told_of_a_value_that_is_itself_wrong(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SYNCD_REQUEST_TIMEOUT_SECONDS", "30")
    monkeypatch.setenv("SYNCD_LEASE_SECONDS", "soon")

    assert faults() == ["environment: SYNCD_LEASE_SECONDS is 'soon', expected a valid number"]


@pytest.mark.parametrize(
    ("data", "place"),
    [
        (b"pool_size = 5\nwindow = = 3\n", "line 2, column 10"),
        (b"pool_size = 5\nx = [1,\n", "line 3, column 1"),
        (b"pool_size = 5\nx = '\xff'\n", "not UTF-8 (at line 2, column 6)"),
    ],
)
def test_an_unreadable_file_is_told_by_line_and_column(
    tmp_path: Path, data: bytes, place: str
) -> None:
    file = tmp_path / "bad.toml"
    file.write_bytes(data)
    [fault] = faults(file)

    assert fault.startswith(f"{file}: not readable as TOML: ")
    assert place in fault


def test_a_named_file_that_is_missing_or_no_file_is_a_fault(tmp_path: Path) -> None:
    assert faults(tmp_path / "none.toml") == [f"{tmp_path / 'none.toml'}: no such file"]
    assert faults(tmp_path) == [f"{tmp_path}: cannot be read (Is a directory)"]


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("", ""),
        ("embedded:/var/lib/x", "embedded:/var/lib/x"),
        ("postgresql://db/crm", "postgresql://db/crm"),
        ("postgresql://db:5432/crm", "postgresql://db:5432/crm"),
        ("postgresql://[::1]:5432/crm", "postgresql://[::1]:5432/crm"),
        ("postgresql://ann:hunter2@db:5432/crm", "postgresql://ann:…@db:5432/crm"),
        ("postgresql://ann:hun/te@r2@db,db2/crm", "postgresql://ann:…@db,db2/crm"),
        ("postgresql://a/nn:hunter2@db/crm", "postgresql://a/nn:…@db/crm"),
        ("postgresql://ann:hunter2", "postgresql://ann:…"),
        ("postgresql://db/crm?user=a&password=hunter2", "postgresql://db/crm?user=a&password=…"),
        ("postgresql://db/?sslpassword=hunter2&x=1", "postgresql://db/?sslpassword=…&x=1"),
        ("host=db password='hunter 2' user=a", "host=db password=… user=a"),
    ],
)
def test_an_address_is_shown_without_its_password(url: str, shown: str) -> None:
    assert shown_url(url) == shown


def test_a_password_is_in_no_message_and_no_repr(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SYNCD_DATABASE_URL", "mysql://ann:hunter2@db/crm")

    assert faults() == [f"environment: SYNCD_DATABASE_URL is 'mysql://ann:…@db/crm', {SCHEMES}"]
    with pytest.raises(ValidationError) as raised:
        Settings(database_url="mysql://ann:hunter2@db/crm")
    assert "hunter2" not in str(raised.value)
    assert "hunter2" not in repr(Settings(database_url="postgresql://ann:hunter2@db/crm"))
