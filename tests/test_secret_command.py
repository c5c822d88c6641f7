"""`syncd secret`: credentials come from standard input, never from argv, and are never shown."""

from __future__ import annotations

import asyncio
import sys

import leaks
import pytest
import service
from cmdline import Done, environment, syncd
from cryptography.fernet import Fernet

from syncd.secrets import variable

VALUE = '{"account_id":"TEST-0A0-000-0A0Z","passcode":"JDG-PAS-CODE"}'


async def _set(env: dict[str, str], name: str, value: str) -> Done:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-W", "error", "-m", "syncd", "secret", "set", name,
        env=env, stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    out, err = await asyncio.wait_for(process.communicate(value.encode()), 180)
    leaks.check((out + err).decode(), leaks.secrets_in({**env, "SYNCD_SECRET_CT": value}), name)
    return Done(process.returncode or 0, out.decode(), err.decode())


async def test_a_secret_is_sealed_listed_rotated_and_removed_without_being_shown(
    database: str,
) -> None:
    old, new = Fernet.generate_key().decode(), Fernet.generate_key().decode()
    env = environment(database, SYNCD_SECRET_KEY=old)

    done = [await _set(env, "ct", VALUE)]
    done.append(await syncd("secret", "list", "--json", env=env))
    both = environment(database, SYNCD_SECRET_KEY=f"{new},{old}")
    done.append(await syncd("secret", "rotate", env=both))
    done.append(await syncd("secret", "remove", "ct", env=env))
    gone = await syncd("secret", "remove", "ct", env=env)

    assert [one.code for one in done] == [0, 0, 0, 0]
    assert done[1].json[0]["name"] == "ct"
    assert gone.code == 1
    assert not any("JDG-PAS-CODE" in one.out + one.err for one in done)


async def test_a_secret_that_is_set_while_a_daemon_runs_lifts_the_halt(
    cluster: str, template: str
) -> None:
    """Sealed in the table; no restart."""
    async with service.served(cluster, template) as shop:
        await service.fill(shop.db, 12)
        box = await shop.sandbox()
        await shop.destination("shop", box)
        right = shop.environ.pop(variable("shop"))
        shop.environ["SYNCD_SECRET_KEY"] = Fernet.generate_key().decode()
        env = environment(shop.url, **shop.environ)
        wrong = right.replace(box.state.demo["passcode"], "OUT-OF-DATE")
        assert (await _set(env, "shop", wrong)).code == 0
        daemon = await shop.daemon()

        async def halted() -> bool:
            await shop.hasten()
            return (await shop.row("shop"))["halted"] is not None

        await service.until(halted, "halted")
        assert (await _set(env, "shop", right)).code == 0
        await shop.in_step()
        await shop.same("shop")
        assert daemon.served == 1
        shop.secrets.add("OUT-OF-DATE")


async def test_what_is_said_and_stored_is_looked_through_for_secrets(
    cluster: str, template: str
) -> None:
    """The looking itself can fail, in each of its places."""
    environ = {"SYNCD_SECRET_CT": VALUE, "SYNCD_SECRET_KEY": "sealing-key-0123", "OTHER": "x" * 9}
    secrets = leaks.secrets_in(environ)
    leaks.met.difference_update(secrets)
    assert secrets == {"JDG-PAS-CODE", "sealing-key-0123"}
    for said in ("the passcode JDG-PAS-CODE", '{"timestamp":"…","event":"sent ann@x.test"}'):
        with pytest.raises(AssertionError):
            leaks.check(said, secrets, "nobody")
    leaks.check("ann@x.test is not known", secrets, "a person asked")
    async with service.served(cluster, template) as shop:
        await shop.db.execute("insert into syncd.command (kind, args) values ('sync', $1)", VALUE)
        assert await leaks.stored(shop.db, secrets) == ["syncd.command"]
        await shop.db.execute("delete from syncd.command")


async def test_without_a_key_nothing_is_kept_and_the_remedy_is_named(database: str) -> None:
    done = await _set(environment(database), "ct", VALUE)

    assert done.code == 78
    assert "SYNCD_SECRET_KEY" in done.err
    assert "JDG-PAS-CODE" not in done.err
