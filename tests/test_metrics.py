"""The admin listener of a real daemon: each metric moves when what it tells of does."""

from __future__ import annotations

import asyncio
import contextlib
import re
import signal
import socket
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import aiohttp
import asyncpg
import orjson
import pytest
import service
from cmdline import environment
from cmdline import syncd as command
from prometheus_client.parser import text_string_to_metric_families
from service import Process, Service, until

from syncd.metrics import GAUGES, Metrics
from syncd.sandbox import Handle
from syncd.secrets import variable

CONFIG = Path(__file__).parents[1] / "config"


@pytest.fixture
async def syncd(cluster: str, template: str) -> AsyncIterator[Service]:
    async with service.served(cluster, template) as made:
        await service.fill(made.db, 40)
        made.settings = {"ADMIN": "127.0.0.1:0"}
        yield made


class Page:
    """What a daemon's listener says."""

    def __init__(self, daemon: Process) -> None:
        self.daemon = daemon

    async def get(self, path: str, token: str = "") -> tuple[int, str]:
        told = await until(lambda: self.daemon.told("listening"), "listening")
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        url = f"http://127.0.0.1:{told[-1]['port']}{path}"
        async with aiohttp.ClientSession() as session, session.get(url, headers=headers) as answer:
            return answer.status, await answer.text()

    async def families(self) -> list[Any]:
        status, text = await self.get("/metrics")
        assert status == 200, text
        return list(text_string_to_metric_families(text))

    async def value(self, name: str, **labels: str) -> float | None:
        """Of the one sample with these labels, among others; None where there is none."""
        for family in await self.families():
            for sample in family.samples:
                if sample.name == name and labels.items() <= sample.labels.items():
                    return float(sample.value)
        return None

    async def shows(self, expected: float, name: str, **labels: str) -> None:
        """Wait until the sample is *expected* (at least that, where it grows by itself)."""
        grows = name.endswith(("_seconds", "_total", "_count", "_bucket"))

        async def is_so() -> bool:
            value = await self.value(name, **labels)
            return value is not None and (value >= expected if grows else value == expected)

        try:
            await until(is_so, f"{name}{labels} is {expected}", every=0.2)
        except AssertionError as error:
            error.add_note(f"it is {await self.value(name, **labels)}")
            raise


# ── Figures ─────────────────────────────────────────────────────────────────────────────────


async def test_what_a_daemon_counted_and_how_a_destination_in_step_stands(syncd: Service) -> None:
    await syncd.destination("shop", await syncd.sandbox(), per_day=1000)
    await syncd.db.execute("update syncd.contact set email = 'nonsense' where id = 'c00009'")
    right = orjson.loads(syncd.environ[variable("shop")])
    syncd.environ[variable("shop")] = orjson.dumps({**right, "expires_on": "2031-02-03"}).decode()
    await syncd.destination("lost", await syncd.sandbox(), account="LOST")
    del syncd.environ[variable("lost")]
    page = Page(await syncd.daemon())
    await syncd.in_step("shop")
    shop = {"destination": "shop"}

    await page.shows(1, "syncd_in_step", **shop)
    await page.shows(39, "syncd_contacts", **shop)
    await page.shows(1, "syncd_rejected_contacts", **shop)
    await page.shows(39, "syncd_contacts_settled_total", outcome="created", **shop)
    await page.shows(1, "syncd_contacts_settled_total", outcome="rejected", **shop)
    await page.shows(1, "syncd_requests_total", outcome="2xx", meter="upload", **shop)
    await page.shows(1, "syncd_request_duration_seconds_count", meter="upload", **shop)
    await page.shows(1, "syncd_request_duration_seconds_bucket", le="+Inf", **shop)
    await page.shows(1, "syncd_pass_duration_seconds_count", kind="full", **shop)
    await page.shows(1, "syncd_pass_duration_seconds_count", kind="opt_outs", **shop)
    left = await page.value("syncd_budget_left_requests", meter="upload", **shop)
    assert left is not None
    assert 900 < left < 1000
    await page.shows(1, "syncd_workers")
    await page.shows(1, "syncd_ready")
    await page.shows(1, "syncd_database_up")
    await page.shows(1, "syncd_build_info")
    await page.shows(1, "syncd_credential_usable", **shop)
    await page.shows(0, "syncd_credential_usable", destination="lost")
    await page.shows(1, "syncd_halted", destination="lost")
    expiry = await page.value("syncd_credential_expiry_timestamp_seconds", **shop)
    assert expiry == 1927843200.0  # 2031-02-03, midnight
    assert await page.value("syncd_credential_expiry_timestamp_seconds", destination="lost") is None
    await syncd.db.execute("update syncd.contact set company = 'X' where id = 'c00001'")
    await page.shows(1, "syncd_pass_duration_seconds_count", kind="keyed", **shop)
    await page.shows(1, "syncd_contacts_settled_total", outcome="updated", **shop)


async def test_what_is_wrong_is_shown(syncd: Service) -> None:
    box = await syncd.sandbox()
    await syncd.destination("shop", box, guard_floor=5)
    page = Page(await syncd.daemon())
    await syncd.in_step()
    shop = {"destination": "shop"}
    await page.shows(0, "syncd_breaker_open", **shop)
    await page.shows(0, "syncd_backlog_contacts", lane="fresh", **shop)

    box.set_faults(error_rate=1.0)
    await syncd.db.execute("update syncd.contact set company = 'Y' where id ~ 'c0000[12]'")
    await syncd.db.execute("update syncd.contact set subscribed = false where id = 'c00003'")
    await page.shows(1, "syncd_breaker_open", **shop)
    await page.shows(2, "syncd_backlog_contacts", lane="fresh", **shop)
    await page.shows(1, "syncd_backlog_contacts", lane="opt-outs", **shop)
    await page.shows(1, "syncd_backlog_oldest_age_seconds", lane="opt-outs", **shop)
    await page.shows(1, "syncd_requests_total", outcome="5xx", **shop)
    await page.shows(0, "syncd_in_step", **shop)
    await page.shows(3, "syncd_doubtful_contacts", **shop)  # a 502 may have been applied
    box.set_faults()
    await syncd.hasten()
    await syncd.in_step()
    await page.shows(0, "syncd_doubtful_contacts", **shop)

    await syncd.db.execute("delete from syncd.contact where id > 'c00030'")
    await page.shows(10, "syncd_held_contacts", **shop)
    await syncd.db.execute(
        "update syncd.mirror set lacking = '{subscription: final}', subscribed = false"
        " where contact_id = 'c00004'"
    )
    await page.shows(1, "syncd_opt_outs_not_conveyed_contacts", **shop)
    await page.shows(1, "syncd_lacking_contacts", **shop)
    await syncd.db.execute(
        "update syncd.feed set read_at = now() - interval '2 hours',"
        " planned_at = now() - interval '1 hour'"
    )
    await page.shows(7200, "syncd_opt_out_read_age_seconds", **shop)
    await page.shows(3600, "syncd_plan_age_seconds", **shop)
    await syncd.set("shop", paused=True)
    await page.shows(1, "syncd_paused", **shop)
    await syncd.set("shop", paused=False, halted="by hand")
    await page.shows(0, "syncd_paused", **shop)
    await page.shows(1, "syncd_halted", **shop)


@pytest.mark.parametrize(
    ("options", "wrong", "right", "why"),
    [
        ({}, {"deletes": False}, {"deletes": True}, "the no is not conveyed: DELETE answered 405"),
        ({"write_unsubscribe": True}, {"refused": ["user7@example0.org"]}, {"refused": []},
         "refused: The e-mail is not valid"),
    ],
    ids=["lacking", "refused"],
)  # fmt: skip
async def test_a_no_that_the_provider_cannot_be_told_is_shown_until_it_was(
    syncd: Service, options: dict[str, Any], wrong: Any, right: Any, why: str
) -> None:
    """CleverCampaign, where all but three calls are guessed."""
    box = await syncd.sandbox("clevercampaign")
    await syncd.destination("shop", box, options=options, per_second=1000.0)
    page = Page(await syncd.daemon())
    await syncd.in_step()
    shop, silent = {"destination": "shop"}, "syncd_opt_outs_not_conveyed_contacts"
    await page.shows(0, silent, **shop)

    box.set_limits(**wrong)
    await syncd.db.execute("update syncd.contact set subscribed = false where id = 'c00007'")
    await page.shows(1, silent, **shop)
    told = await command("status", env=environment(syncd.url, **syncd.environ))
    assert told.code == 1
    lines = told.out[told.out.index("shop") :].splitlines()
    assert "1 opt-out could not be conveyed" in lines[1]
    said = " ".join(told.out.split())
    assert why in said
    assert "by hand: contact c00007" in said
    assert _mailed(box, "user7@example0.org")

    box.set_limits(**right)
    await syncd.db.execute(  # as with every change of what is sent, everybody is sent once more
        """update syncd.destination set options = options || '{"page_size": 50}'"""
    )
    assert (await syncd.command("retry", "shop"))[0] == "done"
    await until(lambda: not _mailed(box, "user7@example0.org"), "told")
    await syncd.in_step()
    await page.shows(0, silent, **shop)


def _mailed(box: Handle, email: str) -> bool:
    people = box.snapshot()["profiles"].values()
    return any(one["email"] == email and one["mailable"] for one in people)


async def test_work_that_stalls_is_no_longer_healthy(syncd: Service) -> None:
    """The database holds the journal fast: the page says so, within its patience."""
    syncd.environ["WATCHDOG_USEC"] = "4000000"  # stalled after half of it
    await syncd.destination("shop", await syncd.sandbox())
    page = Page(await syncd.daemon())
    await syncd.in_step()
    assert await page.get("/healthz") == (200, "serving\n")
    assert await page.get("/readyz") == (200, "serving\n")

    other = await asyncpg.connect(syncd.url)
    async with other.transaction():
        await other.execute("lock table syncd.journal in access exclusive mode")
        await until(lambda: _answers(page, "/healthz", (503, "stalled\n")), "stalled")
        assert await page.get("/readyz") == (503, "stalled\n")
        await page.shows(2, "syncd_still_seconds", destination="shop")
        await page.shows(0, "syncd_database_up")
        await page.shows(0, "syncd_ready")
    await other.close()
    await until(lambda: _answers(page, "/readyz", (200, "serving\n")), "ready again")


async def _answers(page: Page, path: str, expected: tuple[int, str]) -> bool:
    return await page.get(path) == expected


async def test_without_the_database_it_is_alive_but_not_ready(syncd: Service) -> None:
    await syncd.destination("shop", await syncd.sandbox())
    page = Page(await syncd.daemon(lease_seconds="7", request_timeout_seconds="5"))
    await syncd.in_step()

    with _unreachable(syncd.url):
        await syncd.db.execute(
            "select pg_terminate_backend(pid) from pg_stat_activity"
            " where datname = current_database() and pid <> pg_backend_pid()"
        )
        away = (503, "waiting for the database\n")
        await until(lambda: _answers(page, "/readyz", away), "not ready")
        assert (await page.get("/healthz"))[0] == 200
        await page.shows(0, "syncd_database_up")
        assert await page.value("syncd_workers") is None

    await until(lambda: _answers(page, "/readyz", (200, "serving\n")), "ready again")
    await page.shows(1, "syncd_database_up")


@contextlib.contextmanager
def _unreachable(url: str) -> Iterator[None]:
    """No new connection to the server's socket; who is connected stays so."""
    (folder,) = parse_qs(urlsplit(url).query)["host"]
    (socket_,) = Path(folder).glob(".s.PGSQL.*[0-9]")
    away = socket_.rename(socket_.with_name("away"))
    try:
        yield
    finally:
        away.rename(socket_)


# ── Who may read it ─────────────────────────────────────────────────────────────────────────


async def test_beyond_loopback_only_whoever_has_the_token(syncd: Service) -> None:
    refused = syncd.start("run", admin="0.0.0.0:0")
    assert await refused.ended() == 78
    assert "expected admin_token beside it" in refused.said
    without = syncd.start("run", admin="0.0.0.0:0", admin_token="page")
    assert await without.ended() == 78
    assert "secret 'page' is in none of its three places" in without.said
    syncd.may_fail = True  # what these two said is for a person, not JSON

    syncd.environ[variable("page")] = "let-me-in-4711"
    syncd.secrets.add("let-me-in-4711")
    page = Page(await syncd.daemon(admin="0.0.0.0:0", admin_token="page"))
    assert (await page.get("/metrics"))[0] == 401
    assert (await page.get("/metrics", "let-me-in"))[0] == 401
    status, text = await page.get("/metrics", "let-me-in-4711")
    assert (status, "syncd_workers 1.0" in text) == (200, True)
    assert (await page.get("/healthz"))[0] == 200


async def test_an_address_that_is_taken_stops_nobodys_mail(syncd: Service) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        await syncd.destination("shop", await syncd.sandbox())
        daemon = await syncd.daemon(admin=f"127.0.0.1:{taken.getsockname()[1]}")
        await syncd.in_step()
        assert daemon.told("cannot listen")


async def test_a_reload_moves_the_page(syncd: Service, tmp_path: Path) -> None:
    """And what was counted before it stays counted."""
    await syncd.destination("shop", await syncd.sandbox())
    syncd.settings = {}
    (tmp_path / "syncd.toml").write_text('admin = "127.0.0.1:0"\n')
    syncd.environ["SYNCD_CONFIG"] = str(tmp_path / "syncd.toml")
    daemon = await syncd.daemon()
    page = Page(daemon)
    await syncd.in_step()
    await page.shows(40, "syncd_contacts_settled_total", outcome="created", destination="shop")
    daemon.tell(signal.SIGHUP)
    await until(lambda: len(daemon.told("listening")) == 2, "listening again")
    await page.shows(40, "syncd_contacts_settled_total", outcome="created", destination="shop")


# ── Names ───────────────────────────────────────────────────────────────────────────────────

LOOKED = {"syncd_build_info", "syncd_ready", "syncd_database_up", "syncd_breaker_open",
          "syncd_still_seconds", "syncd_workers", "syncd_backlog_contacts",
          "syncd_backlog_oldest_age_seconds", "syncd_budget_left_requests"}  # fmt: skip
NAMES = LOOKED | {gauge.name for gauge in GAUGES}


def counted() -> Iterator[Any]:
    return (one for one in Metrics().registry.collect() if one.name.startswith("syncd_"))


async def test_names_are_as_prometheus_wants_them(syncd: Service) -> None:
    await syncd.destination("shop", await syncd.sandbox(), per_day=1000)
    page = Page(await syncd.daemon())
    await syncd.in_step()
    found = await page.families()
    ours = {one.name: one for one in found if one.name.startswith("syncd_")}

    known = NAMES | {one.name for one in counted()}
    assert set(ours) == known, set(ours) ^ known
    assert {"process_resident_memory_bytes", "python_gc_collections"} <= {f.name for f in found}
    for name, family in ours.items():
        assert re.fullmatch(r"syncd(_[a-z]+)+", name), name
        assert not re.search(r"(minutes|hours|days|ms|milliseconds|percent)(_|$)", name), name
        assert not name.endswith(("_count", "_sum", "_bucket", "_total", "_gauge")), name
        assert family.documentation.endswith("."), name
        assert family.type in ("gauge", "counter", "histogram"), name
        if "duration" in name or "age" in name.split("_") or "still" in name:
            assert name.endswith("_seconds"), name
        for sample in family.samples:
            assert set(sample.labels) <= {"destination", "meter", "outcome", "kind", "lane", "le",
                                          "version"}, name  # fmt: skip


def test_every_metric_has_a_test_that_moves_it() -> None:
    text = Path(__file__).read_text("utf-8").partition("# ── Who may read it")[0]
    missing = {n for n in NAMES | {one.name for one in counted()} if f'"{n}' not in text}

    assert missing == set()


def test_every_metric_of_the_example_alerts_exists() -> None:
    text = (CONFIG / "alerts.yml").read_text("utf-8")
    kinds = {one.name: one.type for one in counted()}
    known = NAMES | {
        name + end
        for name, kind in kinds.items()
        for end in (["_total"] if kind == "counter" else ["_bucket", "_sum", "_count"])
    }
    used = set(re.findall(r"\bsyncd_\w+", text))

    assert used - known == set()
    assert len(used) > 12
    alerts = re.findall(r"- alert: (\w+)\n\s+expr: ", text)
    assert len(alerts) == len(set(alerts)) == text.count("- alert:") == text.count("summary:")


async def test_two_scrapes_at_once_ask_the_database_once(syncd: Service) -> None:
    page = Page(await syncd.daemon())
    began = time.monotonic()
    pages = await asyncio.gather(*(page.get("/metrics") for _ in range(20)))
    assert {status for status, _ in pages} == {200}
    print(f"20 scrapes in {time.monotonic() - began:.2f} s")
