"""Atom as this provider writes it, and what it wants to be sent; from the reference, 1 and 3."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any
from xml.sax.saxutils import escape, quoteattr

from lxml import etree

from syncd.sandbox.constantcontact_account import Refused, now, stamp

A = "{http://www.w3.org/2005/Atom}"
C = "{http://ws.constantcontact.com/ns/1.0/}"
HEAD = '<?xml version="1.0" encoding="UTF-8" standalone="yes"?>\n'
NAMESPACE = 'xmlns="http://ws.constantcontact.com/ns/1.0/"'


def tag(name: str, text: str) -> str:
    return f"<{name}>{escape(text)}</{name}>"


def entry(uri: str, title: str, payload: str, *, alone: bool = True) -> str:
    """An entry; white space stands around the payload, as it does there."""
    space = ' xmlns="http://www.w3.org/2005/Atom"' if alone else ""
    return (
        f'<entry{space}><link href={quoteattr(uri.partition("/ws")[2] or "/")} rel="edit"/>'
        f'{tag("id", uri)}<title type="text">{escape(title)}</title>'
        f"<updated>{stamp(now())}</updated><author><name>Constant Contact</name></author>"
        f'<content type="application/vnd.ctct+xml">\n    {payload}\n  </content></entry>'
    )


def feed(uri: str, entries: Sequence[str], following: str | None) -> bytes:
    link = "" if following is None else f'<link href={quoteattr(following)} rel="next"/>'
    text = (
        f'<feed xmlns="http://www.w3.org/2005/Atom">{tag("id", uri)}<title type="text">All</title>'
        f'{link}<link href="." rel="self"/><author><name>WSUser</name></author>'
        f"<updated>{stamp(now())}</updated>{''.join(entries)}</feed>"
    )
    return (HEAD + text).encode()


def read(body: bytes, kind: str, breach: Callable[[str, str], None]) -> tuple[str, Any]:
    """The id and the payload of an entry that was sent; 400 where it is none."""
    if b"<!DOCTYPE" in body or b"<!ENTITY" in body:
        breach("document type", "sent with a document")
    try:
        root: Any = etree.fromstring(body, etree.XMLParser(resolve_entities=False))
    except etree.XMLSyntaxError as err:
        breach("not XML", str(err))
        raise Refused(400, "Error 400: Bad Request: not XML") from None
    if root.tag != f"{A}entry":
        breach("not an entry", str(root.tag))
        raise Refused(400, "Error 400: an Atom entry is wanted")
    for name in ("id", "title", "author", "updated"):
        if root.find(f"{A}{name}") is None:
            breach("Atom element missing", name)
            raise Refused(400, f"Error 400: Bad Request: {name} is missing")
    payload = root.find(f"{A}content/{C}{kind}")
    if payload is None or root.find(f"{A}content").get("type") != "application/vnd.ctct+xml":
        breach("no content", kind)
        raise Refused(400, f"Error 400: no {kind}")
    return root.findtext(f"{A}id") or "", payload
