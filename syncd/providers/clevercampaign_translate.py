"""From a `Person` to CleverCampaign's form: pure. Reference, sections 3 and 6."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping
from urllib.parse import quote, urlencode

from syncd.model import Change, Differences, Person, Value
from syncd.providers.clevercampaign_settings import CleverCampaignOptions

FORM = "application/x-www-form-urlencoded"

_NEWLINE = re.compile(r"\r\n?|[\x0b\x0c\x85\u2028\u2029]")
_UNSEEN = re.compile(r"[\x00-\x08\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")
_ADDRESS = re.compile(r"[^\s@]+@[^\s@.]+(?:\.[^\s@.]+)+")


def form(fields: Mapping[str, str]) -> bytes:
    """A body as a browser sends it: UTF-8, a space as `+`."""
    return urlencode(fields).encode("ascii")


def quoted(text: str) -> str:
    """Text in a path or a query."""
    return quote(text, safe="", errors="replace")


def content(person: Person, options: CleverCampaignOptions, lacking: list[str]) -> dict[str, str]:
    """Every field we manage, `""` for none: whether PUT replaces or merges is not known (6).

    What has no place is added to *lacking*.
    """
    ours = {options.email_field.lower(), options.id_field.lower(), options.status_field.lower()}
    made = {options.email_field: tidy(person.email)}
    for name, value in person.fields.items():
        if name.lower() in ours:
            lacking.append(f"field:{name} is not for contacts' data there")
        else:
            made[name] = shaped(value)
    return made


def unlike(options: CleverCampaignOptions, person: Person, told: Mapping[str, str]) -> Differences:
    """Fields that are not as they were sent. Names come back in lower case, texts trimmed."""
    pairs = {
        name: (text.strip(), told.get(name.lower(), "").strip())
        for name, text in content(person, options, []).items()
        if name != options.email_field
    }
    return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}


def shaped(value: Value) -> str:
    """One value as text."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    return tidy(str(value))


def tidy(text: str) -> str:
    """In NFC, lines ended by LF, without what XML cannot hold or UTF-8 cannot write."""
    if text.isascii() and text.isprintable():
        return text
    return unicodedata.normalize("NFC", _UNSEEN.sub("", _NEWLINE.sub("\n", text)))


def email_fault(email: str) -> str:
    """Why this is no address, loosely (a refusal is the provider's); '' if it may be one."""
    if not email:
        return "is empty"
    return "" if _ADDRESS.fullmatch(email) and email.isprintable() else "is not an address"


def is_only_lacking(change: Change, options: CleverCampaignOptions) -> bool:
    """Whether all that changed is what has no place there: then there is nothing to send.

    Where nothing at all changed, somebody has forced it: that is sent.
    """
    want, was = change.want, change.was
    if want is None or was is None or change.doubtful or change.resubscribe:
        return False
    if options.lists_enabled or want.lists.keys() == was.lists.keys():
        return False
    same = content(want, options, []) == content(was, options, [])
    return same and want.subscribed == was.subscribed


def list_name(name: str) -> str:
    """A list's name as it is sent: on one line."""
    return " ".join(tidy(name).split())
