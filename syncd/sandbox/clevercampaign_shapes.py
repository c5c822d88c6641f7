"""How answers look: JSON or XML, in every shape that the reference leaves open."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from xml.sax.saxutils import escape

import orjson

from syncd.sandbox.call import Answer

JSON, XML = "application/json; charset=utf-8", "application/xml; charset=utf-8"

Item = dict[str, Any]


def objects(found: Sequence[Item], name: str, limits: Any, as_xml: bool) -> Answer:
    """An array."""
    if as_xml:
        inside = "".join(_element(name, one) for one in found)
        return _xml(_enveloped_xml(f"<{name}s>{inside}</{name}s>", limits.envelope))
    return _json({limits.envelope: found} if limits.envelope else found)


def single(found: Item, name: str, limits: Any, as_xml: bool, status: int = 200) -> Answer:
    """One object: bare, behind its name, or as an array of one."""
    if as_xml:
        text = _element(name, found)
        plural = limits.single != "bare"
        text = f"<{name}s>{text}</{name}s>" if plural else text
        return _xml(_enveloped_xml(text, limits.envelope), status)
    shaped: Any = {"bare": found, "wrapped": {name: found}, "array": [found]}[limits.single]
    return _json({limits.envelope: shaped} if limits.envelope else shaped, status)


def made(found: Item, name: str, path: str, limits: Any, as_xml: bool) -> Answer:
    """The answer to a create."""
    number = found[limits.id_name]
    match limits.create_answer:
        case "record":
            return single(found, name, limits, as_xml, 201)
        case "id":
            return _xml(f"<id>{number}</id>", 201) if as_xml else _json(number, 201)
        case "location":
            return Answer(201, b"", JSON, {"Location": f"/{path}/{number}"})
    return Answer(200, b"", JSON)


def error(status: int, text: str, as_xml: bool) -> Answer:
    """As ASP.NET says it."""
    if as_xml:
        return _xml(f"<Error><Message>{escape(text)}</Message></Error>", status)
    return _json({"Message": text}, status)


def page(status: int, title: str) -> Answer:
    """A web page instead of an answer."""
    body = f"<!DOCTYPE html>\n<html><head><title>{title}</title></head><body></body></html>"
    return Answer(status, body.encode(), "text/html; charset=utf-8")


def _json(value: Any, status: int = 200) -> Answer:
    return Answer(status, orjson.dumps(value), JSON)


def _xml(text: str, status: int = 200) -> Answer:
    head = '<?xml version="1.0" encoding="utf-8"?>'
    return Answer(status, f"{head}{text}".encode(), XML)


def _enveloped_xml(text: str, envelope: str) -> str:
    return f"<response><{envelope}>{text}</{envelope}></response>" if envelope else text


def _element(name: str, values: Item) -> str:
    inside = "".join(f"<{key}>{escape(str(value))}</{key}>" for key, value in values.items())
    return f"<{name}>{inside}</{name}>"
