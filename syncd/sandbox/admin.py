"""The endpoints for tests and rehearsals, the same on every stand-in.

They need no credentials, never fail by faults, and answer 400 naming the key to anything
unknown.
"""

from __future__ import annotations

import time
from typing import Any

import orjson
from aiohttp import web
from pydantic import ValidationError

from syncd.sandbox.standin import StandIn


class Admin:
    """The endpoints for tests and rehearsals."""

    def __init__(self, stand_in: StandIn) -> None:
        self.stand_in = stand_in

    async def state(self, request: web.Request) -> web.Response:
        """GET /_state; `?profiles=0` gives their number only."""
        return shown(self.stand_in.snapshot(request.query.get("profiles") != "0"))

    async def history(self, request: web.Request) -> web.Response:
        """GET /_history; `?identity=` narrows it."""
        entries = self.stand_in.ledger.history
        if wanted := request.query.get("identity"):
            entries = [entry for entry in entries if entry.get("identity") == wanted]
        return shown(entries)

    async def set_faults(self, request: web.Request) -> web.Response:
        """POST /_faults replaces all faults."""
        return await self._set(request, self.stand_in.faults.set)

    async def set_limits(self, request: web.Request) -> web.Response:
        """POST /_limits changes the limits named."""
        return await self._set(request, self.stand_in.set_limits)

    async def reset(self, request: web.Request) -> web.Response:
        """POST /_reset forgets data; {"faults":true,"limits":true} those too."""

        def reset(given: dict[str, Any]) -> None:
            if unknown := sorted(set(given) - {"faults", "limits"}):
                raise ValueError(f"unknown key: {', '.join(unknown)}")
            self.stand_in.reset(bool(given.get("faults")), bool(given.get("limits")))

        return await self._set(request, reset)

    async def act(self, request: web.Request) -> web.Response:
        """POST /_act does something in the app."""
        began = time.time()

        def act(given: dict[str, Any]) -> dict[str, Any]:
            told = self.stand_in.act(given)
            self.stand_in.note_records(0, began)
            return told

        return await self._set(request, act)

    async def _set(self, request: web.Request, change: Any) -> web.Response:
        try:
            given = orjson.loads(await request.read() or b"{}")
            if not isinstance(given, dict):
                raise ValueError("a JSON object is wanted")
            return shown({"ok": True, **(change(given) or {})})
        except ValidationError as err:
            return shown({"ok": False, "error": "; ".join(map(fault_of, err.errors()))}, 400)
        except ValueError as err:
            return shown({"ok": False, "error": str(err)}, 400)


def fault_of(error: Any) -> str:
    """One validation error as `key: what is wrong`."""
    key = ".".join(str(part) for part in error["loc"])
    unknown = error["type"] == "extra_forbidden"
    return f"unknown key: {key}" if unknown else f"{key}: {error['msg']}"


def shown(body: Any, status: int = 200) -> web.Response:
    """An admin answer."""
    encoded = orjson.dumps(body, option=orjson.OPT_NON_STR_KEYS)
    return web.Response(status=status, body=encoded, content_type="application/json")
