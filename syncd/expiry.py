"""Credentials that end soon: a line in the log, once a day for each destination."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date

import structlog

from syncd.control import Destination
from syncd.credential import expiry
from syncd.errors import ConfigError
from syncd.providers import provider
from syncd.secrets import Secrets
from syncd.status_words import EXPIRES_SOON, renew

log = structlog.get_logger()


class Expiries:
    """What this process has warned of: by destination the day it ends, and the day it said so."""

    def __init__(self, secrets: Secrets) -> None:
        self._secrets = secrets
        self._told: dict[int, tuple[date, date]] = {}

    async def warn(self, destinations: Sequence[Destination], today: date) -> None:
        """Log what ends within `EXPIRES_SOON` days or has ended, unless that was said today.

        A credential that cannot be read at all is not told here: it halts its destination.
        """
        for one in destinations:
            try:
                kind = provider(one.provider)
                credential = await self._secrets.credential(one.credential, kind.credential_model)
            except ConfigError:
                continue
            day = expiry(credential)
            if day is None or (left := (day - today).days) > EXPIRES_SOON:
                self._told.pop(one.id, None)
            elif self._told.get(one.id) != (day, today):
                self._told[one.id] = (day, today)
                log.warning(
                    "credential expires soon" if left >= 0 else "credential has expired",
                    destination=one.name,
                    secret=one.credential,
                    expires_on=str(day),
                    days_left=left,
                    remedy=renew(one.credential, one.name),
                )
