"""Secrets: where they are looked for, how they are sealed, and that no message tells one."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from cryptography.fernet import Fernet
from pydantic import field_validator

from syncd import log
from syncd.db import Pool
from syncd.errors import ConfigError
from syncd.providers import Credential
from syncd.secrets import (
    PUBLIC_KEY,
    Kept,
    Secrets,
    account_key,
    expiry,
    sealing_keys,
    variable,
)

OLD, NEW = Fernet.generate_key().decode(), Fernet.generate_key().decode()
VALUE = "pa55-W0RD"


class Acme(Credential):
    api_key: str
    port: int = 1
    token: str = ""

    @field_validator("token")
    @classmethod
    def _no_space(cls, token: str) -> str:
        if " " in token:
            raise ValueError(f"{token!r} has a space")
        return token


@pytest.fixture(autouse=True)
def _nothing_hidden() -> Iterator[None]:
    before = log._hidden[:]
    yield
    log._hidden[:] = before


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "credentials").mkdir()
    return tmp_path / "credentials"


def told(error: BaseException) -> str:
    """All that a log could make of an exception, its causes and contexts included."""
    error.__suppress_context__ = False
    return "".join(
        traceback.TracebackException.from_exception(error, capture_locals=False).format()
    )


async def fault(work: Any) -> str:
    with pytest.raises(ConfigError) as raised:
        await work
    assert VALUE not in told(raised.value)
    assert raised.value.__cause__ is raised.value.__context__ is None
    return str(raised.value)


async def test_the_folder_comes_before_the_environment_and_that_before_the_table(
    pool: Pool, folder: Path
) -> None:
    environ = {"CREDENTIALS_DIRECTORY": str(folder)}
    secrets = Secrets(pool, environ, [OLD])
    await secrets.set("acme-1", "table")
    assert await secrets.get("acme-1") == "table"
    environ["SYNCD_SECRET_ACME_1"] = "environment"
    assert await secrets.get("acme-1") == "environment"
    (folder / "acme-1").write_text("folder\n")
    assert await secrets.get("acme-1") == "folder"


async def test_a_whole_folder_that_systemd_loads_is_found_without_its_prefix(folder: Path) -> None:
    """LoadCredential=syncd:/etc/syncd/credentials makes syncd_NAME of NAME."""
    environ = {"CREDENTIALS_DIRECTORY": str(folder)}
    (folder / "syncd_acme").write_text(f"{VALUE}\n")
    (folder / "syncd_secret_key").write_text(OLD)
    secrets = Secrets(None, environ)

    assert await secrets.get("acme") == VALUE
    assert [one.name for one in await secrets.names()] == ["acme"]
    assert list(sealing_keys(environ)) == [OLD]
    (folder / "acme").write_text("its own")
    assert await secrets.get("acme") == "its own"


async def test_an_empty_variable_counts_as_not_set(pool: Pool) -> None:
    secrets = Secrets(pool, {"SYNCD_SECRET_ACME": ""}, [OLD])
    await secrets.set("acme", "table")

    assert await secrets.get("acme") == "table"


def test_every_character_a_variable_cannot_have_becomes_an_underscore() -> None:
    assert variable("acme.eu-west_1") == "SYNCD_SECRET_ACME_EU_WEST_1"


async def test_a_missing_secret_names_the_three_places(pool: Pool, folder: Path) -> None:
    environ = {"CREDENTIALS_DIRECTORY": str(folder)}

    assert await fault(Secrets(pool, environ, [OLD]).get("acme-1")) == (
        f"secret 'acme-1' is in none of its three places: {folder / 'acme-1'}, the variable"
        " SYNCD_SECRET_ACME_1, the table syncd.secret (`syncd secret set acme-1`)"
    )
    assert await fault(Secrets(None, {}).get("acme")) == (
        "secret 'acme' is in none of its three places: $CREDENTIALS_DIRECTORY (not set), the"
        " variable SYNCD_SECRET_ACME, the table syncd.secret (no database)"
    )


@pytest.mark.parametrize(
    "name",
    ["", ".", "..", "a/b", "../x", "a b", "a\n", "ä", "a" * 129, "key", "KEY", "secret_key"],
)
async def test_a_name_leads_out_of_no_folder_and_to_no_sealing_key(folder: Path, name: str) -> None:
    (folder.parent / "x").write_text("outside")
    (folder / "secret_key").write_text(OLD)
    environ = {"CREDENTIALS_DIRECTORY": str(folder), "SYNCD_SECRET_KEY": OLD}
    secrets = Secrets(None, environ, [OLD])
    for work in (secrets.get(name), secrets.set(name, "x"), secrets.remove(name)):
        assert "cannot be the name of a secret" in await fault(work)


async def test_an_unusable_file_is_told_and_nothing_else_is_taken_for_it(folder: Path) -> None:
    environ = {"CREDENTIALS_DIRECTORY": str(folder), "SYNCD_SECRET_ACME": "x"}
    for content in (b"", b" \n", VALUE.encode() + b"\xff"):
        (folder / "acme").write_bytes(content)
        with pytest.raises(ConfigError, match="is empty, or not UTF-8"):
            await Secrets(None, environ).get("acme")


async def test_the_table_holds_nothing_in_clear(pool: Pool) -> None:
    await Secrets(pool, {}, [OLD]).set("acme", VALUE)
    [row] = await pool.fetch("select * from syncd.secret")

    assert VALUE not in str(dict(row))
    assert Fernet(OLD).decrypt(row["sealed"]) == VALUE.encode()


async def test_a_secret_is_replaced_and_removed(pool: Pool) -> None:
    secrets = Secrets(pool, {}, [OLD])
    await secrets.set("acme", "one")
    await secrets.set("acme", "two")

    assert await secrets.get("acme") == "two"
    assert await secrets.remove("acme") is True
    assert await secrets.remove("acme") is False
    assert "in none" in await fault(secrets.get("acme"))
    assert "empty" in await fault(secrets.set("acme", " "))
    assert "no database" not in await fault(Secrets(pool, {}).set("acme", VALUE))
    assert "there is none" in await fault(Secrets(None, {}, [OLD]).set("acme", VALUE))


async def test_rotation_seals_every_row_with_the_first_key(pool: Pool) -> None:
    await Secrets(pool, {}, [OLD]).set("a", "one")
    await Secrets(pool, {}, [NEW, OLD]).set("b", "two")
    before = await pool.fetch("select name, updated_at from syncd.secret order by name")

    assert await Secrets(pool, {}, [NEW, OLD]).rotate() == 2
    assert [await Secrets(pool, {}, [NEW]).get(name) for name in "ab"] == ["one", "two"]
    assert "opened by none of the 1 keys" in await fault(Secrets(pool, {}, [OLD]).get("a"))
    assert before == await pool.fetch("select name, updated_at from syncd.secret order by name")


async def test_rotation_with_a_key_missing_names_every_secret_and_changes_none(pool: Pool) -> None:
    await Secrets(pool, {}, [OLD]).set("a", "one")
    await Secrets(pool, {}, [OLD]).set("c", "two")
    await Secrets(pool, {}, [NEW]).set("b", "three")
    with pytest.raises(ConfigError) as raised:
        await Secrets(pool, {}, [NEW]).rotate()

    assert [text.split("'")[1] for text in raised.value.faults] == ["a", "c"]
    assert await Secrets(pool, {}, [OLD]).get("a") == "one"
    assert await Secrets(pool, {}, []).names() != []
    assert await Secrets(pool, {}, [NEW]).get("b") == "three"


async def test_rotating_an_empty_table_does_nothing(pool: Pool) -> None:
    assert await Secrets(pool, {}, [NEW]).rotate() == 0


async def test_a_sealed_secret_without_any_key_says_which_variable_is_missing(pool: Pool) -> None:
    await Secrets(pool, {}, [OLD]).set("acme", VALUE)

    assert "set SYNCD_SECRET_KEY" in await fault(Secrets(pool, {}).get("acme"))


async def test_names_tell_where_each_comes_from_and_no_value(pool: Pool, folder: Path) -> None:
    (folder / "beta").write_text(VALUE)
    (folder / "secret_key").write_text(OLD)
    (folder / "odd name").write_text(VALUE)
    environ = {
        "CREDENTIALS_DIRECTORY": str(folder),
        "SYNCD_SECRET_KEY": OLD,
        "SYNCD_SECRET_ACME_1": VALUE,
        "SYNCD_SECRET_NONE": "",
    }
    secrets = Secrets(pool, environ, [OLD])
    await secrets.set("beta", VALUE)
    names = await secrets.names()

    assert [kept[:2] for kept in names] == [
        ("beta", str(folder / "beta")),
        ("acme_1", "SYNCD_SECRET_ACME_1"),
        ("beta", "syncd.secret"),
    ]
    assert names[2].note.endswith("by postgres")
    assert VALUE not in str(names)
    assert await Secrets(None, {"CREDENTIALS_DIRECTORY": str(folder / "none")}).names() == []
    assert isinstance(names[0], Kept)


def test_keys_come_from_the_environment_or_the_folder_and_the_first_encrypts(folder: Path) -> None:
    environ = {"CREDENTIALS_DIRECTORY": str(folder)}
    assert list(sealing_keys(environ)) == []
    (folder / "secret_key").write_text(f"{OLD}\n")
    assert list(sealing_keys(environ)) == [OLD]
    assert list(sealing_keys(environ | {"SYNCD_SECRET_KEY": f"{NEW}, {OLD}"})) == [NEW, OLD]


def test_a_key_that_is_none_is_named_by_its_place_never_shown() -> None:
    with pytest.raises(ConfigError) as raised:
        sealing_keys({"SYNCD_SECRET_KEY": f"{VALUE},{NEW},{VALUE}=="})

    assert [text[:34] for text in raised.value.faults] == [
        "SYNCD_SECRET_KEY: key 1 of 3 is no",
        "SYNCD_SECRET_KEY: key 3 of 3 is no",
    ]
    assert "generate_key" in str(raised.value)
    assert VALUE not in told(raised.value)


def test_all_processes_of_a_fleet_come_to_the_same_account_key() -> None:
    plain, old = account_key({}), account_key({"SYNCD_SECRET_KEY": OLD})

    assert plain == account_key({"OTHER": "x"})
    assert plain != PUBLIC_KEY
    assert old != plain
    assert old == account_key({"SYNCD_SECRET_KEY": f"{NEW},{OLD}"})
    assert old != account_key({"SYNCD_SECRET_KEY": NEW})


def test_a_fingerprint_is_stable_and_tells_nothing() -> None:
    secrets = Secrets(None, {"SYNCD_SECRET_KEY": OLD}, [OLD])

    assert secrets.fingerprint(VALUE) == secrets.fingerprint(VALUE)
    assert secrets.fingerprint(VALUE) != secrets.fingerprint(VALUE + " ")
    assert secrets.fingerprint(VALUE) != Secrets(None, {}).fingerprint(VALUE)
    assert len(secrets.fingerprint("")) == 32


def given(value: str) -> Secrets:
    return Secrets(None, {"SYNCD_SECRET_ACME": value})


async def test_a_credential_is_the_providers_own_model() -> None:
    found = await given('{"api_key": "k", "port": 7, "expires_on": "2027-01-31"}').credential(
        "acme", Acme
    )

    assert found == Acme(api_key="k", port=7, expires_on="2027-01-31")
    assert expiry(found) == date(2027, 1, 31)
    assert expiry(Acme(api_key="k")) is None


@pytest.mark.parametrize(
    ("value", "faults"),
    [
        (VALUE, ["is not JSON (line 1, column 1); keys: expires_on, api_key, port, token"]),
        (f'{{"api_key": "{VALUE}"', ["is not JSON (line 1, column 24); keys: expires_on, api_key"]),
        (f'"{VALUE}"', ["is not a JSON object; its keys: expires_on, api_key, port, token"]),
        ("{}", ["api_key: is missing"]),
        (
            f'{{"apikey": "{VALUE}", "port": "{VALUE}"}}',
            [
                "api_key: is missing",
                "port: expected a valid integer, unable to parse string as an integer",
                "apikey is not known; the keys are expires_on, api_key, port, token",
            ],
        ),
        (f'{{"{VALUE}": "api_key", "api_key": "k"}}', ["a key is not known; the keys are"]),
        (f'{{"api_key": ["{VALUE}"]}}', ["api_key: expected a valid string"]),
        (f'{{"api_key": "k", "token": "{VALUE} x"}}', ["token: is not what is expected"]),
        (
            f'{{"api_key": "k", "expires_on": "{VALUE}"}}',
            ["expires_on: expected a day like 2027-01-31"],
        ),
    ],
)
async def test_a_faulty_credential_is_told_by_secret_and_key_never_by_value(
    value: str, faults: list[str]
) -> None:
    lines = (await fault(given(value).credential("acme", Acme))).splitlines()

    assert len(lines) == len(faults)
    for line, expected in zip(lines, faults, strict=True):
        assert line.startswith(f"secret 'acme': {expected}")


async def test_what_was_given_out_is_never_logged() -> None:
    value = f'{{"api_key": "{VALUE}", "port": 123456, "token": "t0ken"}}'
    await given(value).credential("acme", Acme)

    assert log.masked(f"sent {VALUE} 123456 t0ken {value}") == (
        "sent <secret> <secret> <secret> <secret>"
    )
