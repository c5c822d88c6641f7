"""`syncd authorize`, end to end: the page, the browser, its way back, the token, the account."""

from __future__ import annotations

import asyncio
import re
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import aiohttp
import orjson
import pytest
from cmdline import Done, daemon, done, environment, start, syncd
from cryptography.fernet import Fernet
from yarl import URL

from syncd.app import opened
from syncd.authorize import asked
from syncd.callback import Attempt, answer_in, checked_redirect
from syncd.db import Pool
from syncd.errors import ConfigError, Refused, Unintelligible
from syncd.model import Answer
from syncd.providers.copernica import Copernica, CopernicaApplication, CopernicaOptions
from syncd.providers.copernica_sign import read_token
from syncd.sandbox import Handle, serve
from syncd.secrets import Secrets
from syncd.settings import Settings

KEY = Fernet.generate_key().decode()
SECRET = "s3cr3t/+= x"


# ── The answer, believed once ───────────────────────────────────────────────────────────────


def back(state: str, **told: str) -> str:
    return "/back?tenant=7&" + "&".join(f"{k}={v}" for k, v in {"state": state, **told}.items())


def test_a_state_is_long_new_and_good_for_one_answer() -> None:
    attempt = Attempt()

    assert re.fullmatch(r"[0-9a-f]{64}", attempt.state)
    assert attempt.state != Attempt().state
    assert attempt.code(f"https://sync.example{back(attempt.state, code='c0de')}\n") == "c0de"
    with pytest.raises(Refused, match="had its answer already"):
        attempt.code(back(attempt.state, code="c0de"))


@pytest.mark.parametrize(
    ("told", "words"),
    [
        ({}, "without a code"),
        ({"code": ""}, "without a code"),
        ({"error": "access_denied"}, r"did not let the application in \(access_denied\)"),
        ({"error": "x", "error_description": "ann%40x.test%1b[2J"}, r"\(x: <address>"),
        ({"state": "0" * 64, "code": "c0de"}, "the state that came back is not"),
        ({"state": "\N{LATIN SMALL LETTER E WITH ACUTE}", "code": "c0de"}, "the state"),
        ({"state": "", "code": "c0de"}, "the state"),
    ],
)
def test_every_other_answer_is_explained_and_burns_the_state(
    told: dict[str, str], words: str
) -> None:
    attempt = Attempt()
    with pytest.raises(Refused, match=words) as fault:
        attempt.code(back(**{"state": attempt.state, **told}))

    assert "c0de" not in str(fault.value)
    with pytest.raises(Refused, match="already"):
        attempt.code(back(attempt.state, code="c0de"))


@pytest.mark.parametrize("text", ["", "c0de", "/favicon.ico", "/?a=b", "http://[::1/?code=1"])
def test_what_is_no_answer_at_all_is_told_apart(text: str) -> None:
    assert answer_in(text) == {}


@pytest.mark.parametrize("text", ["", "ftp://x.test/", "http:///x", "https://x/#a", "https://x/ y"])
def test_a_redirect_address_must_be_one(text: str) -> None:
    with pytest.raises(ConfigError, match="--redirect-uri"):
        checked_redirect(text)


# ── Copernica's part (2a, 2d) ───────────────────────────────────────────────────────────────


def test_the_page_and_the_token_are_asked_for_exactly_as_documented() -> None:
    options = CopernicaOptions(database="7616")
    application = CopernicaApplication.model_validate(
        {"client_id": "ck-7f3a&1", "client_secret": SECRET}
    )
    state, code = "9f86d081884c7d659a2feaa0c55ad015", "c0de5c0de5c0de5c0de5c0de5c0de5c0"
    grant = Copernica.grant(
        options, application, "https://sync.example.com/oauth/back?tenant=7", state
    )
    asks = grant.redeem(code)

    assert grant.page == (
        "https://www.copernica.com/en/authorize?client_id=ck-7f3a%261&redirect_uri="
        "https%3A%2F%2Fsync.example.com%2Foauth%2Fback%3Ftenant%3D7"
        "&state=9f86d081884c7d659a2feaa0c55ad015&response_type=code"
    )
    assert asks.request.method == "GET"
    assert asks.base + asks.request.target == (
        "https://api.copernica.com/v1/token?client_id=ck-7f3a%261&client_secret="
        "s3cr3t%2F%2B%3D%20x&redirect_uri=https%3A%2F%2Fsync.example.com%2Foauth%2Fback%3F"
        "tenant%3D7&code=c0de5c0de5c0de5c0de5c0de5c0de5c0"
    )


@pytest.mark.parametrize(
    ("status", "body", "fault"),
    [
        (200, b'{"access_token":"70ken"}', None),
        (200, b'{ access_token : "70ken" }', None),
        (400, b'{"error":{"message":"Invalid code"}}', Refused),
        (200, b'{"error":{"message":"Invalid code"}}', Refused),
        (400, b"<html>", Refused),
        (200, b"<html>", Unintelligible),
        (200, b'{"access_token":""}', Unintelligible),
    ],
)
def test_a_token_is_read_as_json_or_as_the_documents_print_it(
    status: int, body: bytes, fault: type[Exception] | None
) -> None:
    if fault is None:
        assert read_token(Answer(status, {}, body))[0] == {"access_token": "70ken"}
        return
    with pytest.raises(fault):
        read_token(Answer(status, {}, body))


# ── The command ─────────────────────────────────────────────────────────────────────────────


class Desk:
    """One destination, its application's keys sealed, and the account it can be granted by."""

    def __init__(self, url: str, pool: Pool, box: Handle) -> None:
        self.pool, self.box, self.env = pool, box, environment(url, SYNCD_SECRET_KEY=KEY)
        self.secrets = Secrets(pool, {}, [KEY])
        self.told: list[str] = []  # all that any command has printed

    async def keep(self, name: str = "cop", **keys: str) -> None:
        known = {"client_id": "syncd-rehearsal", "client_secret": SECRET, **keys}
        await self.secrets.set(name, orjson.dumps(known).decode())

    async def kept(self) -> Any:
        return orjson.loads(await self.secrets.get("cop"))

    async def account(self) -> Any:
        return await self.pool.fetchval("select account from syncd.feed")

    async def __call__(self, *args: str, code: int, **env: str) -> Done:
        ended = await syncd(*args, env={**self.env, **env})
        return self._looked_at(ended, code)

    def _looked_at(self, ended: Done, code: int) -> Done:
        assert ended.code == code, ended
        assert "Traceback" not in ended.err, ended.err
        self.told += [ended.out, ended.err]
        return ended

    async def fault(self, name: str = "cop", **env: str) -> str:
        """Why `authorize NAME` does not even begin."""
        environ = {**self.env, **env}
        async with opened(Settings(database_url=environ["SYNCD_DATABASE_URL"]), environ) as app:
            with pytest.raises(ConfigError) as fault:
                await asked(app, name, None)
        self.told.append(str(fault.value))
        return str(fault.value)

    @asynccontextmanager
    async def asking(self, *args: str, code: int = 0) -> AsyncIterator[tuple[str, Any]]:
        """`authorize cop` until it ends, with *code*; meanwhile, the page that it shows."""
        process = await start("authorize", "cop", "--json", "--port", "0", *args, env=self.env)
        page, told = "", ""
        while "?client_id" not in page:
            line = await asyncio.wait_for(process.stderr.readline(), 180)
            assert line, told
            told += line.decode()
            page = line.decode().strip()
        with_argv = Path(f"/proc/{process.pid}/cmdline").read_bytes()
        assert SECRET.encode() not in with_argv
        yield page, process
        self.ended = self._looked_at(await done(process), code)
        self.told.append(told)


async def browse(address: str, *, answer: str = "allow") -> str:
    """Open the page and click; where the browser is sent back to."""
    async with aiohttp.ClientSession() as http:
        async with http.get(URL(address, encoded=True)) as page:
            text = await page.text()
            assert page.status == 200, text
        found = re.search(rf'href="([^"]*/{answer}\?[^"]*)"', text)
        assert found
        link = f"http://{urlsplit(address).netloc}{found[1].replace('&amp;', '&')}"
        async with http.get(URL(link, encoded=True), allow_redirects=False) as went:
            assert went.status == 302
            return str(went.headers["Location"])


async def come_back(address: str) -> tuple[int, str]:
    async with aiohttp.ClientSession() as http, http.get(address, allow_redirects=False) as page:
        return page.status, await page.text()


@pytest.fixture
async def desk(database: str, pool: Pool) -> AsyncIterator[Desk]:
    async with serve("copernica") as box:
        options = {
            "base_url": box.url, "database": "7616", "authorize_url": f"{box.url}/en/authorize",
            "auth_url": f"{box.url}/authenticate", "subscribed_values": {"newsletter": "yes"},
        }  # fmt: skip
        await pool.execute(
            "insert into syncd.destination (name, provider, credential, options, fields)"
            " values ('cop', 'copernica', 'cop', $1, '{\"first_name\": \"first_name\"}')",
            orjson.dumps(options).decode(),
        )
        made = Desk(database, pool, box)
        await made.keep()
        yield made
        for secret in (SECRET, *box.state.door.granted, *box.state.door.used):
            assert not any(secret in text for text in made.told), made.told
        tables = await pool.fetch(
            "select c.oid::regclass::text as name from pg_class c"
            " where c.relnamespace = 'syncd'::regnamespace and c.relkind in ('r', 'p')"
        )
        for row in tables:
            text = str(await pool.fetch(f"select t::text from {row['name']} t"))
            assert not [one for one in (SECRET, *box.state.door.granted) if one in text], row


@pytest.mark.parametrize(("version", "answers_as"), [("v1", "json"), ("v4", "documented")])
async def test_a_granted_token_is_sealed_and_works_and_the_account_is_pinned(
    desk: Desk, version: str, answers_as: str
) -> None:
    desk.box.set_limits(answers_as=answers_as)
    await desk.pool.execute(
        "update syncd.destination set options = options || jsonb_build_object('version', $1::text)",
        version,
    )
    async with desk.asking() as (page, _):
        asked = parse_qs(urlsplit(page).query)
        assert re.fullmatch(r"[0-9a-f]{64}", asked["state"][0])
        address = await browse(page)
        root = address.partition("?")[0]
        assert (await come_back(f"{root}favicon.ico"))[0] == 404  # browsers ask for it
        assert (await come_back(root))[0] == 400  # a scanner; the attempt goes on
        status, text = await come_back(address)
        assert (status, "syncd has its answer" in text) == (200, True)

    assert desk.ended.json == {
        "destination": "cop", "secret": "cop", "account": "34", "name": "Contacts team (Example)",
    }  # fmt: skip
    [token] = desk.box.state.door.granted
    kept = await desk.kept()
    assert (kept["access_token"], kept["client_id"]) == (token, "syncd-rehearsal")
    assert await desk.account() == "34"
    assert desk.box.snapshot()["violations"] == []
    found = await desk("check", "cop", code=0)
    assert "accepted; account 34" in found.out
    # Again, with the keys that are still there; the new token is of the same account.
    async with desk.asking() as (page, _):
        await come_back(await browse(page))
    assert (await desk.kept())["access_token"] != token
    assert desk.box.snapshot()["violations"] == []


async def test_a_server_without_a_browser_reads_the_address_that_somebody_pastes(
    desk: Desk,
) -> None:
    args = ("authorize", "cop", "--paste", "--redirect-uri", "https://sync.example/back?tenant=7")
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-W", "error", "-m", "syncd", *args), env=desk.env,
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert process.stderr
    page = ""
    while "?client_id" not in page:
        page = (await asyncio.wait_for(process.stderr.readline(), 180)).decode().strip()
    address = await browse(page)
    assert address.startswith("https://sync.example/back?tenant=7&state=")
    out, err = await asyncio.wait_for(process.communicate(f"  {address} \n".encode()), 180)

    assert process.returncode == 0, err
    assert "account 34 Contacts team (Example): secret 'cop' is sealed" in out.decode()
    assert (await desk.kept())["access_token"] in desk.box.state.door.granted
    assert desk.box.snapshot()["violations"] == []
    desk.told += [out.decode(), err.decode()]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda a: re.sub(r"state=\w+", "state=" + "0" * 64, a), "the state that came back"),
        (lambda a: re.sub(r"&code=\w+", "", a), "without a code"),
        (lambda a: re.sub(r"&code=\w+", "&error=access_denied", a), "access_denied"),
        (lambda a: re.sub(r"code=\w+", "code=" + "0" * 32, a), "no token was given: Invalid code"),
    ],
)
async def test_a_wrong_answer_is_refused_and_keeps_nothing(
    desk: Desk, change: Any, words: str
) -> None:
    async with desk.asking(code=77) as (page, _):
        await come_back(change(await browse(page)))

    assert words in desk.ended.err
    assert "access_token" not in await desk.kept()
    assert await desk.account() is None


async def test_whoever_refuses_is_told_apart_and_a_second_answer_is_not_believed(
    desk: Desk,
) -> None:
    async with desk.asking(code=77) as (page, process):
        address = await browse(page, answer="deny")
        status, text = await come_back(address)
        assert (status, "access_denied" in text) == (400, True)
        try:  # while it is ending, it may still be listening
            assert (await come_back(await browse(page)))[0] == 410
        except aiohttp.ClientConnectorError:
            await asyncio.wait_for(process.wait(), 180)
    assert desk.box.state.door.granted == {}


async def test_nobody_comes_back(desk: Desk) -> None:
    async with desk.asking("--wait", "1", code=77):
        pass
    assert "nobody came back within 1 s" in desk.ended.err


async def test_the_token_endpoint_fails_and_nothing_is_kept(desk: Desk) -> None:
    """An answer ends the attempt; an answer that is lost is asked for once more."""
    desk.box.next_fault("error", path="/v1/token")
    async with desk.asking(code=69) as (page, _):
        await come_back(await browse(page))
    assert desk.box.snapshot()["by_path"]["/v1/token"] == 1
    assert "access_token" not in await desk.kept()

    desk.box.next_fault("cut_before", path="/v1/token")
    async with desk.asking() as (page, _):
        await come_back(await browse(page))
    assert desk.box.snapshot()["by_path"]["/v1/token"] == 3

    desk.box.next_fault("cut_after", path="/v1/token")  # the code is used up there
    async with desk.asking(code=77) as (page, _):
        await come_back(await browse(page))
    assert "no token was given" in desk.ended.err


async def test_wrong_keys_of_the_application(desk: Desk) -> None:
    await desk.keep(client_secret="an old secret")
    async with desk.asking(code=77) as (page, _):
        await come_back(await browse(page))

    assert "no token was given: Invalid client" in desk.ended.err
    assert not any("an old secret" in text for text in desk.told)


async def test_another_account_is_refused_and_the_old_token_stays(desk: Desk) -> None:
    async with desk.asking() as (page, _):
        await come_back(await browse(page))
    before = await desk.kept()
    desk.box.set_limits(account="35")
    async with desk.asking() as (page, _):  # nothing was read there yet: somebody's slip
        await come_back(await browse(page))
    assert await desk.account() == "35"
    await desk.pool.execute("update syncd.feed set read_at = now()")
    desk.box.set_limits(account="34")
    middle = await desk.kept()
    async with desk.asking(code=78) as (page, _):
        await come_back(await browse(page))

    assert "is of account 34, not of 35 that 'cop' was filled from" in desk.ended.err
    assert middle == await desk.kept() != before


async def test_what_is_missing_is_said_before_a_browser_is_opened(desk: Desk) -> None:
    await desk.pool.execute(
        "insert into syncd.destination (name, provider, credential)"
        " values ('ct', 'clevertap', 'ct')"
    )
    ended = await desk("authorize", "ct", code=78)
    assert "clevertap grants no credential in a browser" in ended.err
    assert "'nobody' does not exist" in await desk.fault("nobody")
    old = '{"access_token": "an-old-token"}'
    assert "SYNCD_SECRET_COP holds it, and would hide" in await desk.fault(SYNCD_SECRET_COP=old)
    assert "SYNCD_SECRET_KEY" in await desk.fault(SYNCD_SECRET_KEY="")
    await desk.secrets.set("cop", '{"access_token": "a-token-made-by-hand"}')
    fault = await desk.fault()
    assert "client_id: is missing" in fault
    assert "`syncd secret set cop` with client_id, client_secret" in fault
    await desk.secrets.set("cop", '{"client_id": "x", "client_secret": "y", "clientsecret": "z"}')
    assert "a key that is not known" in await desk.fault()
    await desk.secrets.set("cop", "plain text")
    assert "is not a JSON object" in await desk.fault()
    assert desk.box.snapshot()["requests"] == 0


async def test_a_port_that_is_in_use_is_a_fault_of_the_settings(desk: Desk) -> None:
    ended = await desk("authorize", "cop", "--port", str(desk.box.port), code=78)

    assert f"port {desk.box.port} of 127.0.0.1" in ended.err
    assert "choose another --port" in ended.err


async def test_the_keys_may_lie_in_a_secret_of_their_own(desk: Desk) -> None:
    await desk.keep("our-app")
    await desk.secrets.remove("cop")
    async with desk.asking("--application", "our-app") as (page, _):
        await come_back(await browse(page))

    assert set(await desk.kept()) == {"access_token"}


async def test_a_revoked_token_halts_and_authorizing_again_goes_on(desk: Desk) -> None:
    async with desk.asking() as (page, _):
        await come_back(await browse(page))
    await desk.pool.execute("insert into syncd.contact (id, email) values ('a', 'ann@x.test')")
    await desk("backfill", code=0)
    desk.box.act("revoke")
    async with daemon(desk.env):
        await desk.pool.execute("update syncd.contact set first_name = 'Ann'")
        await comes(desk, "halted like '%authorize again%'")
        async with desk.asking() as (page, _):
            await come_back(await browse(page))
        await comes(desk, "halted is null")
        async with asyncio.timeout(120):
            while "Ann" not in str(desk.box.snapshot()["profiles"]):
                await asyncio.sleep(0.05)
    assert desk.box.snapshot()["violations"] == []


async def comes(desk: Desk, condition: str) -> None:
    async with asyncio.timeout(120):
        while not await desk.pool.fetchval(f"select {condition} from syncd.destination"):
            await asyncio.sleep(0.05)
