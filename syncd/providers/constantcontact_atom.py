"""Atom documents as Constant Contact writes and takes them: pure. Reference, sections 1 and 3."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from lxml import etree

from syncd.errors import Unintelligible
from syncd.model import Answer

ATOM = "http://www.w3.org/2005/Atom"
CTCT = "http://ws.constantcontact.com/ns/1.0/"
CONTENT = "application/vnd.ctct+xml"

Element = etree._Element  # noqa: SLF001  the only name that lxml gives the type

_ID = re.compile(r"(https?://[^?#\s]*)/(contacts|lists|activities)/([^/?#\s]+)/?")
_CONTROLS = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x84\x86-\x9f\ud800-\udfff\ufffe\uffff]"
)  # not expressible in XML, or not meant to be seen


def clean(text: str) -> str:
    """Without what XML cannot carry."""
    return _CONTROLS.sub("", text)


def parsed(answer: Answer) -> Element:
    """The document of an answer, without entities, document types or network."""
    parser = etree.XMLParser(
        resolve_entities=False, no_network=True, load_dtd=False, huge_tree=False,
        remove_comments=True, remove_pis=True,
    )  # fmt: skip
    try:
        root = etree.fromstring(answer.body, parser)
    except (etree.XMLSyntaxError, ValueError):
        raise Unintelligible("the answer is not XML", status=answer.status) from None
    tree: Any = root.getroottree()
    if tree.docinfo.doctype or not _name(root).startswith(f"{{{ATOM}}}"):
        raise Unintelligible("the answer is XML of another kind", status=answer.status)
    return root


def _name(element: Element) -> str:
    return str(element.tag)


@dataclass(frozen=True, slots=True)
class Entry:
    """One Atom entry and the element that its content holds."""

    element: Element
    payload: Element

    def text(self, name: str) -> str:
        """The text of one of the payload's elements; '' where it is not there."""
        return (self.payload.findtext(f"{{{CTCT}}}{name}") or "").strip()

    def put(self, name: str, text: str) -> None:
        """Set an element, made where it is missing."""
        found = self.payload.find(f"{{{CTCT}}}{name}")
        if found is None:
            found = etree.SubElement(self.payload, f"{{{CTCT}}}{name}")
        found.text = text

    @property
    def uri(self) -> str:
        return (self.element.findtext(f"{{{ATOM}}}id") or "").strip()

    @property
    def number(self) -> str:
        """What paths take: the last part of the id. The id itself is never an address (1)."""
        return number_of(self.uri)

    @property
    def lists(self) -> dict[str, str]:
        """The lists a contact is in: number → the id as the provider spells it."""
        found = self.payload.iterfind(f"{{{CTCT}}}ContactLists/{{{CTCT}}}ContactList")
        uris = (str(one.get("id", "")) for one in found)
        return {number_of(uri): uri for uri in uris}

    def put_lists(self, uris: Iterable[str]) -> None:
        """Exactly these; who stays keeps what the provider says of the membership."""
        wanted = {number_of(uri): uri for uri in uris}
        holder = self.payload.find(f"{{{CTCT}}}ContactLists")
        if holder is None:
            holder = etree.SubElement(self.payload, f"{{{CTCT}}}ContactLists")
        for one in list(holder):
            if wanted.pop(number_of(str(one.get("id", ""))), None) is None:
                holder.remove(one)
        for uri in wanted.values():
            etree.SubElement(holder, f"{{{CTCT}}}ContactList", id=uri)

    def encoded(self) -> bytes:
        return etree.tostring(self.element, encoding="UTF-8", xml_declaration=True)


def entry(answer: Answer, kind: str) -> Entry:
    """The one entry of an answer, whose payload is called *kind*."""
    return _entry(parsed(answer), kind, answer.status)


def _entry(element: Element, kind: str, status: int | None) -> Entry:
    payload = element.find(f"{{{ATOM}}}content/{{{CTCT}}}{kind}")
    if payload is None or _name(element) != f"{{{ATOM}}}entry":
        raise Unintelligible(f"an entry without {kind}", status=status)
    return Entry(element, payload)


def feed(answer: Answer, kind: str) -> tuple[Sequence[Entry], str | None]:
    """The entries of a page, and where the next one is."""
    root = parsed(answer)
    if _name(root) != f"{{{ATOM}}}feed":
        raise Unintelligible("not a feed", status=answer.status)
    links = root.findall(f"{{{ATOM}}}link[@rel='next']")
    entries = [_entry(one, kind, answer.status) for one in root.iterfind(f"{{{ATOM}}}entry")]
    return entries, str(links[0].get("href", "")) if links else None


def number_of(uri: str) -> str:
    found = _ID.fullmatch(uri)
    if found is None:
        raise Unintelligible("an id that is no contact's, list's or activity's")
    return found[3]


def root_of(uri: str) -> str:
    """What the ids of an account begin with."""
    found = _ID.fullmatch(uri)
    if found is None:
        raise Unintelligible("an id that is no contact's, list's or activity's")
    return found[1]


def _plain(namespace: str) -> Any:
    """Without a prefix; the stubs know no such namespace."""
    return {None: namespace}


def made(kind: str, summary: str = "") -> Entry:
    """A new entry. Title, author and date must be there, and are the provider's to fill."""
    element = etree.Element(f"{{{ATOM}}}entry", nsmap=_plain(ATOM))
    for name, text in (("id", "data:,none"), ("title", ""), ("author", ""),
                       ("updated", "2008-04-16T00:00:00Z")):  # fmt: skip
        etree.SubElement(element, f"{{{ATOM}}}{name}").text = text
    if summary:
        told = etree.SubElement(element, f"{{{ATOM}}}summary", type="text")
        told.text = summary
    content = etree.SubElement(element, f"{{{ATOM}}}content", type=CONTENT)
    payload = etree.SubElement(content, f"{{{CTCT}}}{kind}", nsmap=_plain(CTCT))
    return Entry(element, payload)
