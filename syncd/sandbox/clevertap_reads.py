"""CleverTap's reading calls: one profile, pages of profiles and events, counts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from syncd.sandbox.call import Answer, Call, answered
from syncd.sandbox.clevertap_cursors import Cursors, Query
from syncd.sandbox.clevertap_profile import Profile
from syncd.sandbox.clevertap_query import QueryError

if TYPE_CHECKING:
    from syncd.sandbox.clevertap import CleverTap

BATCH_SIZE = 5000


class Reads:
    """Answers the reading calls; an account's cursors live as long as its data."""

    def __init__(self, account: CleverTap) -> None:
        self.account = account
        self.cursors = Cursors()
        self.counts: dict[int, int] = {}

    def profile(self, call: Call) -> Answer:
        """GET /1/profile.json."""
        asked = {by: call.query(by) for by in ("identity", "email", "objectId")}
        given = [(by, value) for by, values in asked.items() for value in values]
        if len(given) != 1 or not given[0][1]:
            self.account.violate(
                call, "profile query", "not exactly one of identity, email, objectId"
            )
            return self.account.failed(400, "Exactly one of identity, email, objectId is required")
        by, value = given[0]
        if by == "email" and " " in value:
            self.account.violate(
                call, "profile query", f"a blank (an unencoded plus?) in {value!r}"
            )
        if (record := self.account.profiles.read(by, value)) is not None:
            return answered({"status": "success", "record": record})
        if self.account.limits.not_found == "missing":
            return answered({"status": "success"})
        missing = self.account.failed(404, "Profile not found")
        return missing if self.account.limits.not_found == "404" else Answer(200, missing.body)

    def open_events(self, call: Call) -> Answer:
        """POST /1/events.json."""
        return self._opened(
            call, self.account.queries.event_rows, self.account.queries.event_record
        )

    def open_profiles(self, call: Call) -> Answer:
        """POST /1/profiles.json."""
        hidden = {"events": "events", "app": "platformInfo", "profile": "profileData"}
        dropped = [key for flag, key in hidden.items() if call.query(flag) == ["false"]]

        def render(profile: Profile) -> dict[str, Any] | None:
            record = (
                self.account.profiles.visible(profile)
                if profile in self.account.profiles.all
                else None
            )
            return record and {key: record[key] for key in record if key not in dropped}

        return self._opened(call, self.account.queries.profile_rows, render)

    def _opened(self, call: Call, find: Any, render: Any) -> Answer:
        size = "".join(call.query("batch_size")) or "10"
        if not (size.isascii() and size.isdigit() and 1 <= int(size) <= BATCH_SIZE):
            self.account.violate(call, "batch size", size)
            return self.account.failed(400, "Invalid batch_size")
        rows = self._rows(call, find)
        if isinstance(rows, Answer):
            return rows
        query = Query(call.path, rows, int(size), render, call.at, self.account.limits.empty_page)
        return answered({"status": "success", "cursor": self.cursors.open(query)})

    def _rows(self, call: Call, find: Any) -> list[Any] | Answer:
        try:
            rows: list[Any] = find(call.parsed)
        except QueryError as err:
            if str(err) != "event_name is required":  # whether it is, nobody can know
                self.account.violate(call, "query", str(err))
            return self.account.failed(400, str(err))
        return rows

    def page(self, call: Call) -> Answer:
        """GET of either, with a cursor."""
        cursor = call.raw("cursor") or ""
        try:
            page = self.cursors.page(cursor, call.path, self.account.limits.cursor_life)
        except KeyError:
            self.account.violate(call, "cursor", f"never handed out for {call.path}: {cursor}")
            page = None
        return self.account.failed(400, "Invalid cursor") if page is None else answered(page)

    def count(self, call: Call) -> Answer:
        """POST /1/counts/profiles.json."""
        rows = self._rows(call, self.account.queries.profile_rows)
        if isinstance(rows, Answer):
            return rows
        if not self.account.limits.counts_partial:
            return answered({"status": "success", "count": len(rows)})
        request = 384649162721759 + call.number
        self.counts[request] = len(rows)
        return answered({"status": "partial", "req_id": request})

    def counted(self, call: Call) -> Answer:
        """GET /1/counts/profiles.json."""
        request = "".join(call.query("req_id"))
        known = self.counts.get(int(request)) if request.isdigit() else None
        if known is None:
            self.account.violate(call, "req_id", request)
            return self.account.failed(400, "Invalid req_id")
        return answered({"status": "success", "count": known})
