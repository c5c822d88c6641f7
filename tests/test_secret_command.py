"""`syncd secret`: credentials come from standard input, never from argv, and are never shown."""

from __future__ import annotations

import asyncio
import sys

from cmdline import Done, environment, syncd
from cryptography.fernet import Fernet

VALUE = '{"account_id":"TEST-0A0-000-0A0Z","passcode":"JDG-PAS-CODE"}'


async def _set(env: dict[str, str], name: str, value: str) -> Done:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-W", "error", "-m", "syncd", "secret", "set", name,
        env=env, stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    out, err = await asyncio.wait_for(process.communicate(value.encode()), 60)
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


async def test_without_a_key_nothing_is_kept_and_the_remedy_is_named(database: str) -> None:
    done = await _set(environment(database), "ct", VALUE)

    assert done.code == 78
    assert "SYNCD_SECRET_KEY" in done.err
    assert "JDG-PAS-CODE" not in done.err
