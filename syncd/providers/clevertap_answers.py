"""From CleverTap's answers to outcomes, profiles and notices: pure. Reference, 3.1, 3.2, 3.4, 7."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Literal
from urllib.parse import quote

import orjson

from syncd.decoded import decoded
from syncd.errors import (
    Ambiguous,
    Indivisible,
    Misconfigured,
    ProviderError,
    Refused,
    Transient,
    Unintelligible,
)
from syncd.model import Answer, Notice, OptOutKind, Outcome, Postponed, Rejected, Request
from syncd.redact import SHOWN, redacted

CONNECT = "/v1/connect"
PROFILE = "/1/profile.json"
BACK_OFF = 2.0  # seconds after a 429; the reference's least
TRY_AGAIN = 555  # the only code of a record that is worth another try

_SKIPPED = re.compile(r"\.?\s*Skipped record number\s*:\s*(\d+)\s*$")
_CURSOR = re.compile(r"[A-Za-z0-9._~+/=%-]+")


def judged(request: Request, answer: Answer) -> ProviderError | Literal["ok"] | None:
    """Section 7. The same status means different things on different paths."""
    path = request.target.partition("?")[0]
    reads = request.method == "GET" or request.repeatable
    match answer.status:
        case 429:
            return Transient(said(answer), after=BACK_OFF)
        case 401:
            return Refused(said(answer))
        case 403 if path == CONNECT:
            return Misconfigured(f"partner name not whitelisted: {said(answer)}")
        case 404 | 405 if path != PROFILE:
            return Misconfigured(f"wrong path or host: {said(answer)}")
        case _ if answer.body.lstrip()[:1] == b"<":
            kind = Transient if reads else Ambiguous
            return kind("a web page instead of JSON")
        case 403:
            return Misconfigured(f"the account may not do this: {said(answer)}")
        case 400 if path == CONNECT:
            return Refused(said(answer))
        case 404:
            return "ok"
        case status if 400 <= status < 500 and not reads:
            return Indivisible(said(answer))
        case _:
            return None


def said(answer: Answer) -> str:
    """The provider's own words, without the record it echoes."""
    try:
        return str(parsed(answer).get("error") or "no reason given")
    except Unintelligible:
        return "no reason given"


def parsed(answer: Answer) -> Mapping[str, Any]:
    """The JSON object of an answer; Unintelligible if it is none."""
    try:
        told = decoded(answer.body)
    except orjson.JSONDecodeError:
        told = None
    if not isinstance(told, dict):
        raise Unintelligible("the answer is not a JSON object", status=answer.status)
    return told


def succeeded(answer: Answer) -> Mapping[str, Any]:
    """The object of an answer that says `success`: HTTP 200 alone does not mean it."""
    told = parsed(answer)
    if answer.status >= 300 or told.get("status") != "success":
        text = redacted(str(told.get("error") or told.get("status")))[:SHOWN]
        raise Unintelligible(f"not a success: {text}", status=answer.status)
    return told


def refusals(answer: Answer, keys: Sequence[str]) -> Mapping[int, Outcome]:
    """What became of the records that were not processed, by position in `d`.

    keys: each record's identity (or address), in order. Matched by the number at the end of the
    text, else by the echoed key; never by the record, for the echo is rewritten (3.1).
    """
    told = parsed(answer)
    items, processed = told.get("unprocessed"), told.get("processed")
    items = [] if items is None else items
    if told.get("status") == "fail" and not items and not processed:
        text = redacted(str(told.get("error") or "no record named"))[:SHOWN]
        raise Indivisible(f"the whole batch was refused: {text}", status=answer.status)
    if not isinstance(items, list) or not isinstance(processed, int):
        raise Unintelligible("the answer does not say what was processed", status=answer.status)
    found: dict[int, Outcome] = {}
    for item in items:
        position = _position(item, keys)
        found[position] = _refusal(item)
    if processed + len(found) != len(keys):
        raise Unintelligible(
            f"{len(keys)} records sent, {processed} processed, {len(found)} refused",
            status=answer.status,
        )
    return found


def _position(item: Any, keys: Sequence[str]) -> int:
    if not isinstance(item, dict):
        raise Unintelligible("a refusal is not an object")
    number = _SKIPPED.search(str(item.get("error", "")))
    if number and 1 <= int(number[1]) <= len(keys):
        return int(number[1]) - 1
    echo = item.get("record")
    if isinstance(echo, dict):
        for name in ("identity", "value"):
            if (key := str(echo.get(name))) in keys:
                return keys.index(key)
    raise Unintelligible("a refusal names no record of this batch")


def _refusal(item: Mapping[str, Any]) -> Outcome:
    code = item.get("code")
    text = redacted(_SKIPPED.sub("", str(item.get("error") or "no reason given")))[:SHOWN]
    reason = f"code {code}: {text}"
    if code == TRY_AGAIN:
        return Postponed(reason)
    return Rejected(reason, code if isinstance(code, int) else None)


def profile(answer: Answer) -> Mapping[str, Any] | None:
    """The record of `/1/profile.json`; None in every form that "not found" is known to take."""
    if answer.status == 404:
        return None
    told = parsed(answer)
    code = told.get("code")
    if answer.status >= 300 or (isinstance(code, int) and (code in (401, 403, 429) or code >= 500)):
        raise Unintelligible(f"neither a profile nor its absence: {said(answer)}"[:SHOWN])
    record = told.get("record")
    if told.get("status") == "fail" or not isinstance(record, dict) or not record:
        return None
    if not isinstance(record.get("profileData") or {}, dict):
        raise Unintelligible("the properties of a profile are not an object")
    return {**record, "email": str(record.get("email") or "")}


def identities(value: Any) -> Sequence[str]:
    """The identities of a profile: one, a list, or '[a b]' where profiles were merged."""
    if isinstance(value, list):
        return [str(one) for one in value if one not in (None, "")]
    text = "" if value is None else str(value)
    if text.startswith("[") and text.endswith("]"):
        return [one for one in re.split(r"[\s,]+", text[1:-1]) if one]
    return [text] if text else []


def cursor_of(text: Any) -> str:
    """A cursor as it goes into the address: as given where it is encoded already (vector 3)."""
    if not isinstance(text, str) or not _CURSOR.fullmatch(text):
        raise Unintelligible("no usable cursor in the answer")
    return text if re.search(r"%[0-9A-Fa-f]{2}", text) else quote(text, safe="")


# ── Channel Unsubscribed: section 3.4 ───────────────────────────────────────────────────────


def notices(records: Any, seen: set[tuple[object, ...]]) -> list[Notice]:
    """One notice an identity; `seen` drops what the overlapping day brings a second time."""
    if not isinstance(records, (list, tuple)):
        raise Unintelligible("the events are not a list")
    fresh = []
    for record in records:
        if not isinstance(record, dict):
            raise Unintelligible("an event is not an object")
        for notice, key in _noticed(record):
            if key not in seen:
                seen.add(key)
                fresh.append(notice)
    return fresh


def _noticed(record: Mapping[str, Any]) -> Iterator[tuple[Notice, tuple[object, ...]]]:
    told, person = record.get("event_props") or {}, record.get("profile") or {}
    if not isinstance(told, dict) or not isinstance(person, dict):
        raise Unintelligible("an event has not the documented shape")
    props = {str(name).strip().lower(): value for name, value in told.items()}
    if str(props.get("group") or "").strip():
        return  # narrower than all mail, and the same event reports a return to the group
    named = str(props.get("identity") or "")
    email = named if "@" in named else person.get("email")
    ids: list[str | None] = [*identities(person.get("identity"))]
    if not ids and named and "@" not in named:
        ids = [named]
    kind = _kind(str(props.get("type") or ""))
    # Only what says "profile level" is narrow; an unnamed level counts as the wider no.
    if ids and "profile" in str(props.get("subscription type") or "").lower():
        email = None
    when = occurred_at(record.get("ts"))
    evidence = {"event": "Channel Unsubscribed", "ts": record.get("ts"), **_told(props)}
    by_person = True if "campaign id" in evidence else None  # no call of ours is part of a campaign
    for one in ids or ([None] if email else []):
        notice = Notice(one, str(email) if email else None, kind, when, None, evidence, by_person)
        yield notice, (one, notice.email, record.get("ts"), kind)


def _told(props: Mapping[str, Any]) -> Mapping[str, Any]:
    names = ("type", "reason", "campaign id", "campaign type", "subscription type")
    return {name: props[name] for name in names if props.get(name) not in (None, "")}


def _kind(text: str) -> OptOutKind:
    text = text.lower()
    if "bounce" in text or "drop" in text:
        return "bounced"
    return "complained" if "spam" in text else "unsubscribed"


def occurred_at(ts: Any) -> datetime | None:
    """The latest instant that a local `yyyyMMddHHmmss` can mean, be it to come.

    The account's zone is not published. Read in UTC-12, the last zone on earth to reach that
    clock time: were an opt-out dated too early, an older consent would seem to be the newer word
    and would beat it. Whoever notes it lets it be no later than that moment, by the database.
    """
    try:
        clock = datetime.strptime(str(ts), "%Y%m%d%H%M%S").replace(tzinfo=UTC)
        return clock + timedelta(hours=12)
    except (ValueError, OverflowError):
        return None
