"""`syncd secret`: credentials come from standard input, never from argv, and are never shown."""

from __future__ import annotations

import asyncio
import sys

import leaks
import pytest
import service
from cmdline import Done, environment, syncd
from cryptography.fernet import Fernet

from syncd import sql
from syncd.db import Pool
from syncd.secrets import Secrets, sealing_keys, variable
from syncd.tombstone import Tombstones, key_id, of_contact

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


# ── The key of tombstones ───────────────────────────────────────────────────────────────────


async def buried(database: str, pool: Pool) -> dict[str, str]:
    """Ann was erased, under a key that was made and sealed and that nobody was shown; the
    environment in which it can be opened."""
    env = environment(database, SYNCD_SECRET_KEY=Fernet.generate_key().decode())
    made = tombstones(pool, env)
    key, *_ = await made.keys(make=True)
    await pool.execute("insert into syncd.erasure (contact_id) values ('ann')")
    number = await pool.fetchval("select id from syncd.erasure")
    ann = of_contact(key, "default", "ann")
    await pool.execute(sql.erasure.bury, [ann], [number], key_id(key))
    return env


def tombstones(pool: Pool, env: dict[str, str]) -> Tombstones:
    return Tombstones(pool, Secrets(pool, env, sealing_keys(env)))


async def is_known(pool: Pool, env: dict[str, str]) -> bool:
    """Whether Ann is still told from others."""
    return "ann" in await tombstones(pool, env).of_contacts(pool, "default", [("ann", None)])


async def test_the_key_of_tombstones_is_not_removed_while_there_are_any(
    database: str, pool: Pool
) -> None:
    env = await buried(database, pool)
    other = environment(database, SYNCD_SECRET_KEY=Fernet.generate_key().decode())

    for host in (env, other, environment(database)):  # nor where it cannot be opened
        refused = await syncd("secret", "remove", "tombstone", env=host)
        assert refused.code == 78
        assert "1 tombstone of erased people need it" in " ".join(refused.err.split())
    assert await is_known(pool, env)

    await pool.execute("delete from syncd.tombstone")
    assert (await syncd("secret", "remove", "tombstone", env=env)).code == 0
    assert (await syncd("secret", "remove", "tombstone", env=env)).code == 1


async def test_the_key_of_tombstones_is_removed_where_a_person_has_it_too(
    database: str, pool: Pool
) -> None:
    env = await buried(database, pool)
    value = await Secrets(pool, env, sealing_keys(env)).get("tombstone")
    env["SYNCD_SECRET_TOMBSTONE"] = f"a newer one\n{value}"

    assert (await syncd("secret", "remove", "tombstone", env=env)).code == 0
    assert await is_known(pool, env)


async def test_a_new_key_of_tombstones_goes_above_the_one_that_is_sealed(
    database: str, pool: Pool
) -> None:
    env = await buried(database, pool)
    old, *_ = await tombstones(pool, env).keys()

    for value in ("a newer one", "a newer one"):  # said twice it is there once
        assert (await _set(env, "tombstone", value)).code == 0

    assert await tombstones(pool, env).keys() == [b"a newer one", old]
    assert await is_known(pool, env)
    assert (await syncd("secret", "remove", "tombstone", env=env)).code == 78


async def test_a_key_of_tombstones_that_cannot_be_opened_is_not_written_over(
    database: str, pool: Pool
) -> None:
    """Unless the value is given that it had: then nothing is lost."""
    env = await buried(database, pool)
    old, *_ = await tombstones(pool, env).keys()
    other = environment(database, SYNCD_SECRET_KEY=Fernet.generate_key().decode())

    refused = await _set(other, "tombstone", "a newer one")
    assert refused.code == 78
    assert "add the one that it was sealed with" in " ".join(refused.err.split())
    assert (await _set(environment(database), "tombstone", "a newer one")).code == 78
    assert await is_known(pool, env)

    assert (await _set(other, "tombstone", f"a newer one\n{old.decode()}")).code == 0
    assert await is_known(pool, other)
