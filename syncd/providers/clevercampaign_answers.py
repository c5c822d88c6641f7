"""From CleverCampaign's answers to meanings: pure. Reference, sections 3 and 7.

Nothing of an answer is documented, so reading is liberal: JSON or XML, an object bare, wrapped or
in an array, names in any case, ids as numbers or GUIDs. Only a web page is never taken for one.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import orjson
from lxml import etree

from syncd.decoded import decoded as decoded_json
from syncd.errors import Ambiguous, Misconfigured, ProviderError, Transient, Unintelligible
from syncd.model import Answer, Request
from syncd.providers.clevercampaign_settings import CleverCampaignOptions
from syncd.redact import SHOWN, redacted

BACK_OFF = 5.0  # seconds after a 429 without Retry-After; no limit is documented

Record = Mapping[str, Any]
"""An object of an answer; its names in lower case."""
Kind = Literal["done", "gone", "there", "refused"]


class _Unreadable:
    """Neither JSON nor XML."""


UNREADABLE = _Unreadable()
_PAGE = re.compile(rb"\s*(?:<!doctype\s+html|<html|<head|<body|<h1|<p>)", re.IGNORECASE)
_ID = re.compile(r"\d{1,20}|\{?[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}\}?", re.IGNORECASE)
_SAYS = ("message", "messagedetail", "error_description", "error", "detail", "title", "errors")


@dataclass(frozen=True, slots=True)
class Told:
    """One answer to a write, understood. text: of what was not done, fit to be shown."""

    kind: Kind
    answer: Answer
    text: str = ""

    @property
    def status(self) -> int:
        return self.answer.status


def judged(request: Request, answer: Answer) -> ProviderError | Literal["ok"] | None:
    """Section 7. Refusals of single records, and what a read says, are left to the adapter."""
    match answer.status:
        case 401 | 403:
            return None
        case 406 | 415:
            return Misconfigured(f"the form of our requests is not taken: {words(answer)}")
        case 408:
            lost = Transient if request.method == "GET" else Ambiguous
            return lost(words(answer), after=BACK_OFF)
        case 429:
            return Transient(words(answer), after=BACK_OFF)
        case 501:
            return "ok"
        case status if 400 <= status < 500:
            return "ok"
        case status if 200 <= status < 300 and request.method != "GET" and is_page(answer):
            return Unintelligible("a web page instead of the API's answer: is base_url right?")
    return None


def is_page(answer: Answer) -> bool:
    """A web page: a proxy's, or the site's own documentation."""
    return _PAGE.match(answer.body) is not None


def told(answer: Answer) -> Told:
    """What became of a write that the judge let through."""
    status = answer.status
    if status < 300:
        return Told("done", answer)
    kind: Kind = "refused"
    if status in (404, 410) and not is_page(answer):
        kind = "gone"
    elif status == 409:
        kind = "there"
    return Told(kind, answer, words(answer))


# ── Bodies ──────────────────────────────────────────────────────────────────────────────────


def decoded(answer: Answer) -> Any:
    """The body as plain values, by its type or else its first character; None where empty."""
    body = answer.body.strip()
    if body.startswith(b"\xef\xbb\xbf"):
        body = body[3:].lstrip()
    if not body:
        return None
    if is_page(answer):
        return UNREADABLE
    declared = answer.headers.get("content-type", "").lower()
    if body.startswith(b"<") or ("xml" in declared and "json" not in declared):
        return _from_xml(body)
    try:
        return decoded_json(body)
    except orjson.JSONDecodeError:
        return UNREADABLE


def _from_xml(body: bytes) -> Any:
    """Neither entities nor a document type, and nothing fetched."""
    parser = etree.XMLParser(
        resolve_entities=False, no_network=True, load_dtd=False, dtd_validation=False,
        huge_tree=False, remove_comments=True, remove_pis=True,
    )  # fmt: skip
    try:
        root = etree.fromstring(body, parser)
    except (etree.XMLSyntaxError, ValueError):
        return UNREADABLE
    if getattr(root.getroottree().docinfo, "doctype", ""):
        return UNREADABLE
    found = _plain(root)
    name = str(etree.QName(root).localname).lower()
    return found if name in _SAYS or isinstance(found, dict) else {name: found}


def _plain(element: Any) -> Any:
    """Children by name, those of one name together; text where there are none."""
    children = [one for one in element if isinstance(one.tag, str)]
    if not children:
        return element.text or ""
    found: dict[str, Any] = {}
    for one in children:
        name, value = str(etree.QName(one).localname), _plain(one)
        if name not in found:
            found[name] = value
        elif isinstance(found[name], list):
            found[name].append(value)
        else:
            found[name] = [found[name], value]
    return found


# ── Records ─────────────────────────────────────────────────────────────────────────────────


def records(answer: Answer, options: CleverCampaignOptions) -> Sequence[Record] | None:
    """The objects of an answer; None where it holds no such thing, not even none of them."""
    value = decoded(answer)
    if isinstance(value, dict) and options.envelope:
        value = _folded(value).get(options.envelope.lower(), UNREADABLE)
    for _ in range(4):
        if value is None or value == "":
            return []
        if isinstance(value, list):
            found = [_unwrapped(one, options) for one in value]
            whole = [one for one in found if one is not None]
            return whole if len(whole) == len(found) else None
        if not isinstance(value, dict):
            return None
        if (one := _unwrapped(value, options)) is not None:
            return [one]
        value = _inner(value)
    return None


def _unwrapped(value: Any, options: CleverCampaignOptions) -> Record | None:
    """A record, bare or behind one key; None if it is neither."""
    for _ in range(2):
        if not isinstance(value, dict):
            return None
        folded = _folded(value)
        if record_id(folded, options) is not None:
            return folded
        value = next(iter(value.values())) if len(value) == 1 else None
    return None


def _inner(value: Mapping[str, Any]) -> Any:
    """What a wrapping holds: its one object or array; beside counts, if need be."""
    if len(value) == 1:
        only = next(iter(value.values()))
        is_error = next(iter(value)).lower() in _SAYS
        return UNREADABLE if is_error else only
    nested = [one for one in value.values() if isinstance(one, (dict, list))]
    return nested[0] if len(nested) == 1 else UNREADABLE


def _folded(value: Mapping[str, Any]) -> dict[str, Any]:
    return {str(name).lower(): one for name, one in value.items()}


def record_id(record: Record, options: CleverCampaignOptions) -> str | None:
    """A record's id under any of its usual names."""
    for name in (options.id_field.lower(), "id", "contactid", "listid"):
        value = record.get(name)
        if isinstance(value, (str, int)) and not isinstance(value, bool) and str(value).strip():
            return str(value).strip()
    return None


def text_of(record: Record, name: str) -> str | None:
    """One value of a record as text; None where it is not there."""
    value = record.get(name.lower())
    return str(value).strip() if isinstance(value, (str, int)) else None


def email_of(record: Record, options: CleverCampaignOptions) -> str:
    """The address in lower case; '' where none is told."""
    return (text_of(record, options.email_field) or "").lower()


def subscribed(record: Record, options: CleverCampaignOptions) -> bool | None:
    """What the status says; None where it says neither."""
    said = (text_of(record, options.status_field) or "").lower()
    if said == options.status_unsubscribed.lower():
        return False
    return True if said == options.status_subscribed.lower() else None


def made_id(answer: Answer, options: CleverCampaignOptions, path: str) -> str | None:
    """The id of what was just made: in the object, alone, or in Location; None if nowhere."""
    found = records(answer, options) or ()
    if len(found) == 1:
        return record_id(found[0], options)
    value = decoded(answer)
    if isinstance(value, dict) and len(value) == 1:  # <id>7</id>, {"contact": 7}
        value = next(iter(value.values()))
    alone = answer.body.decode("utf-8", "replace") if value is UNREADABLE else value
    if isinstance(alone, (str, int)) and _ID.fullmatch(text := str(alone).strip()):
        return text
    *_, before, last = "", "", *answer.headers.get("location", "").partition("?")[0].split("/")
    return last if last and before == path.rpartition("/")[2] else None


def words(answer: Answer) -> str:
    """The provider's own words, fit to be shown."""
    value: Any = decoded(answer)
    for _ in range(3):
        if isinstance(value, dict):
            folded = _folded(value)
            value = next((folded[one] for one in _SAYS if folded.get(one)), None)
        elif isinstance(value, list):
            value = value[0] if value else None
    if value is UNREADABLE:
        value = "a web page" if is_page(answer) else answer.body[:SHOWN].decode("utf-8", "replace")
    said = redacted(value)[:SHOWN] if isinstance(value, str) else ""
    return said or "no reason given"
