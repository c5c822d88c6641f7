"""Tombstones: who was erased must not be made again, and nobody may read here who that was.

A tombstone is the HMAC of an address, or of a contact id, under the secret `tombstone`. It may hold
several values, one a line: the first makes tombstones, all of them are looked for.
"""

from __future__ import annotations

import hmac
import secrets as random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from syncd import sql
from syncd.db import Connection, Pool
from syncd.errors import ConfigError
from syncd.model import Notice, Seen
from syncd.secrets import KEY_VARIABLE, Secrets, lines, variable
from syncd.words import count

NAME = "tombstone"


class Buried(NamedTuple):
    """By which request somebody was erased."""

    erasure_id: int
    hash: str

    @property
    def reason(self) -> str:
        """For a person who finds the contact refused."""
        return (
            f"was erased on request {self.erasure_id} and is still, or again, in the source: take"
            " it out there, or after new consent `syncd lift ADDRESS --reason …`"
        )


@dataclass(slots=True)
class Tombstones:
    """What keeps the erased away, for one process. The keys are read when they are first needed."""

    pool: Pool
    secrets: Secrets
    _keys: list[bytes] = field(default_factory=list)

    async def keys(self, *, make: bool = False) -> Sequence[bytes]:
        """The values of the secret, the first one to make tombstones with.

        make: seal one where there is none. ConfigError where there is none, or another one than the
        tombstones were made with: then nobody can tell who was erased, so nobody must be created.
        """
        if not self._keys:
            self._keys = await self._read(make)
        return self._keys

    async def _read(self, make: bool) -> list[bytes]:
        there = await self.pool.fetchrow(sql.erasure.tombs)
        assert there is not None
        try:
            if make and not there["n"]:
                text = await self.secrets.made_once(NAME, random.token_hex(32))
            else:
                text = await self.secrets.get(NAME)
        except ConfigError as error:
            raise ConfigError(_advice(there["n"], error)) from None
        keys = [line.encode() for line in lines(text)]
        if lost := set(there["keys"]) - {key_id(key) for key in keys}:
            raise ConfigError(
                f"secret {NAME!r} is another one than {len(lost)} of those that the tombstones of"
                " erased people were made with: nobody can tell who was erased. Put the old value"
                " back, on a line of its own under the new one"
            )
        return keys

    async def check(self) -> None:
        """ConfigError where people were erased and this process could not tell whom."""
        there = await self.pool.fetchrow(sql.erasure.tombs)
        if there is not None and there["n"]:
            await self.keys()

    async def fault(self) -> str | None:
        """Why nobody can be forgotten, in words; None where nothing stands in the way."""
        try:
            await self.keys()
        except ConfigError as error:
            there = await self.pool.fetchrow(sql.erasure.tombs)
            may_be_made = there is not None and not there["n"] and self.secrets.can_seal
            return None if may_be_made else str(error)
        return None

    # ── The sealed secret ───────────────────────────────────────────────────────────────────

    async def seal(self, value: str) -> None:
        """Seal *value* as the secret, above what is sealed already: tombstones were made with that.

        ConfigError where tombstones need what is sealed, and it cannot be read here.
        """
        try:
            await self.secrets.sealed(NAME)
        except ConfigError:
            if n := await self._needing_the_sealed(value):
                raise ConfigError(
                    f"{count(n, 'tombstone')} of erased people may need the secret {NAME!r} that"
                    f" is sealed, and no key in {KEY_VARIABLE} opens it: add the one that it was"
                    " sealed with, or give the value that it had, on a line under the new one"
                ) from None
            await self.secrets.set(NAME, value)
        else:
            await self.secrets.set_above(NAME, value)

    async def remove(self) -> bool:
        """Take the sealed secret out; False if there is none. ConfigError where tombstones need it:
        whoever was erased would be a stranger."""
        if n := await self._needing_the_sealed():
            raise ConfigError(
                f"secret {NAME!r} is not removed: {count(n, 'tombstone')} of erased people need"
                " it, and without it nothing is sent, for nobody could tell who was erased."
                f" `syncd secret set {NAME}` puts a new value above it"
            )
        return await self.secrets.remove(NAME)

    async def _needing_the_sealed(self, value: str = "") -> int:
        """How many tombstones nobody can look for without what is sealed, *value* aside."""
        known = [*lines(value), *lines(self.secrets.outside_table(NAME) or "")]
        needed: set[str] | None
        try:
            sealed = await self.secrets.sealed(NAME)
            needed = {key_id(line.encode()) for line in lines(sealed or "")}
        except ConfigError:
            needed = None  # it cannot be read here: it may be the one for all the others
        rows = await self.pool.fetch(sql.erasure.tombs_by_key)
        others = {key_id(line.encode()) for line in known}
        return sum(
            row["n"]
            for row in rows
            if row["key_id"] not in others and (needed is None or row["key_id"] in needed)
        )

    # ── Looking ─────────────────────────────────────────────────────────────────────────────

    async def of_contacts(
        self, connection: Connection | Pool, source: str, pairs: Iterable[tuple[str, str | None]]
    ) -> Mapping[str, Buried]:
        """Which of these contacts (id, address) were erased, under the one or the other."""
        keys = await self.keys()
        whose = {
            one: contact_id
            for contact_id, email in pairs
            for key in keys
            for one in (of_contact(key, source, contact_id), of_address(key, email))
            if one is not None
        }
        found = await connection.fetch(sql.erasure.buried, list(whose))
        return {whose[r["hash"]]: Buried(r["erasure_id"], r["hash"]) for r in found}

    async def of_addresses(
        self, connection: Connection | Pool, emails: Iterable[str | None]
    ) -> set[str]:
        """Which of these addresses were erased, in lower case."""
        keys = await self.keys()
        whose = {
            of_address(key, email): email.strip().lower()
            for email in emails
            if email is not None
            for key in keys
        }
        rows = await connection.fetch(sql.erasure.buried, [one for one in whose if one])
        return {whose[row["hash"]] for row in rows}

    async def of_person(self, source: str, ids: Sequence[str], email: str) -> Sequence[Buried]:
        """The tombstones of an address, and of contacts of a source."""
        if not await self.any(self.pool):
            return ()
        keys = await self.keys()
        hashes = [of_address(key, email) for key in keys]
        hashes += [of_contact(key, source, one) for one in ids for key in keys]
        rows = await self.pool.fetch(sql.erasure.buried, [one for one in hashes if one])
        return [Buried(row["erasure_id"], row["hash"]) for row in rows]

    async def any(self, connection: Connection | Pool) -> bool:
        """Whether anybody was ever erased: if not, nothing is looked for."""
        return bool(await connection.fetchval("select exists (select 1 from syncd.tombstone)"))

    # ── What a provider still tells ─────────────────────────────────────────────────────────

    async def masked(
        self, connection: Connection, source: str, records: Sequence[Seen]
    ) -> Sequence[Seen]:
        """The same records; of who was erased nothing that says who it is."""
        if not records or not await self.any(connection):
            return records
        gone = await self.of_addresses(connection, (one.email for one in records))
        named = ((one.contact_id, None) for one in records if one.contact_id is not None)
        ids = await self.of_contacts(connection, source, named)
        return [
            replace(one, email=None, contact_id=None)
            if (one.email or "").strip().lower() in gone or one.contact_id in ids
            else one
            for one in records
        ]

    async def without(
        self, connection: Connection, source: str, notices: Sequence[Notice]
    ) -> Sequence[Notice]:
        """The notices about people who were not erased."""
        if not notices or not await self.any(connection):
            return notices
        gone = await self.of_addresses(connection, (one.email for one in notices))
        named = ((one.contact_id, None) for one in notices if one.contact_id is not None)
        ids = await self.of_contacts(connection, source, named)
        return [
            one
            for one in notices
            if (one.email or "").strip().lower() not in gone and one.contact_id not in ids
        ]


def key_id(key: bytes) -> str:
    """Tells one value of the secret from another, and nothing else about it."""
    return hmac.digest(key, b"syncd tombstone key", "sha256").hex()[:16]


def of_address(key: bytes, email: str | None) -> str | None:
    """The tombstone of an address; None for none."""
    said = (email or "").strip().lower()
    return _hash(key, "address", said) if said else None


def of_contact(key: bytes, source: str, contact_id: str) -> str:
    """The tombstone of a contact of a source."""
    return _hash(key, "contact", source, contact_id)


def _hash(key: bytes, *parts: str) -> str:
    return hmac.digest(key, "\0".join(parts).encode(), "sha256").hex()


def _advice(n: int, error: ConfigError) -> str:
    what = (
        f"{n} tombstones of erased people are there, and nobody can tell whose"
        if n
        else "an erasure cannot be finished"
    )
    return (
        f"{what} without the secret {NAME!r} ({error.faults[0]}). Give every process the same long"
        f" random text as {variable(NAME)}, or a key to seal one with"
    )
