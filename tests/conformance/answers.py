"""Answers as no provider should give them: real ones, recorded, with one thing about them wrong.

`Recorder` is the wire of a run against the stand-in; `Replay` the wire of every run after that:
what comes back is what came back then, save where a `Spoilt` says otherwise. Both are the real
wire but for the sockets, so that judge, signatures and redaction have their say.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson
from hypothesis import strategies as st
from lxml import etree

from syncd.model import Answer, Request
from syncd.wire import HttpWire

MOST = 400  # requests of one operation; more, and it never ends

Tape = Mapping[tuple[str, str], Sequence[Answer]]


def shape(request: Request) -> tuple[str, str]:
    """What requests have in common that are answered alike."""
    return request.method, re.sub(r"\d+", "#", request.target.partition("?")[0])


class Recorder(HttpWire):
    """Keeps every answer."""

    tape: dict[tuple[str, str], list[Answer]]

    async def _sent(self, peer: Any, target: str, headers: Any, request: Any, named: Any) -> Answer:
        answer = await super()._sent(peer, target, headers, request, named)
        self.tape[shape(named)].append(answer)
        return answer


# ── What may be wrong with an answer ────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Spoilt:
    """What to do to an answer. where: which of its many parts, counted round and round."""

    how: str
    what: Any = None
    where: int = 0

    def of(self, answer: Answer) -> Answer:
        match self.how:
            case "status":
                return Answer(self.what, answer.headers, answer.body)
            case "headers":
                return Answer(answer.status, {**answer.headers, **self.what}, answer.body)
            case "body":
                return Answer(answer.status, answer.headers, self.what)
            case "cut":
                return Answer(answer.status, answer.headers, answer.body[: self._at(answer.body)])
            case "error":
                return Answer(self.where, answer.headers, self.what)
            case "part":
                return Answer(answer.status, answer.headers, self._changed(answer.body))
        raise AssertionError(self.how)

    def _at(self, body: bytes) -> int:
        return self.where % max(1, len(body))

    def _changed(self, body: bytes) -> bytes:
        """One node of a document is another; of what is none, a piece is."""
        try:
            return self._in_json(orjson.loads(body))
        except orjson.JSONDecodeError:
            pass
        try:
            return self._in_xml(etree.fromstring(body))
        except (etree.XMLSyntaxError, ValueError):
            return body[: self._at(body)] + str(self.what).encode() + body[self._at(body) :]

    def _in_json(self, told: Any) -> bytes:
        places = list(_places(told))
        if not places:
            return str(self.what).encode()
        holder, key = places[self.where % len(places)]
        if self.what is None and isinstance(holder, dict):
            del holder[key]
            return orjson.dumps(told)
        holder[key] = "\ufdd0"  # nothing that a provider says: here the text goes
        return orjson.dumps(told).replace('"\ufdd0"'.encode(), str(self.what).encode())

    def _in_xml(self, root: Any) -> bytes:
        nodes = list(root.iter())
        node = nodes[self.where % len(nodes)]
        says = re.sub(r"[\x00-\x08\x0b-\x1f]", "", str(self.what))
        match self.where % 4:
            case 0 if node.getparent() is not None:
                node.getparent().remove(node)
            case 1 if node.attrib:
                node.attrib[next(iter(node.attrib))] = says
            case 2:
                node.tag = "other"
            case _:
                node.text = says
        return etree.tostring(root)


def _places(value: Any) -> Any:
    """Every (holder, key) of a decoded document."""
    if not isinstance(value, (dict, list)):
        return
    for key, one in list(value.items() if isinstance(value, dict) else enumerate(value)):
        yield value, key
        yield from _places(one)


LAUGHS = (
    b'<?xml version="1.0"?><!DOCTYPE l [<!ENTITY a "ha">'
    + b"".join(b'<!ENTITY %c "%s">' % (98 + n, b"&%c;" % (97 + n) * 10) for n in range(9))
    + b"]><feed xmlns='http://www.w3.org/2005/Atom'><id>&j;</id></feed>"
)
FILE = (
    b'<?xml version="1.0"?><!DOCTYPE f [<!ENTITY x SYSTEM "file:///etc/passwd">]>'
    b"<entry xmlns='http://www.w3.org/2005/Atom'><id>&x;</id></entry>"
)
BODIES = (
    b"", b" ", b"null", b"true", b"0", b'""', b"[]", b"{}", b"[[]]", b"[null]", b'{"":null}',
    b"OK", b"\x00", b"\xff\xfe{", b"\xef\xbb\xbf{}", b"[" * 100_000, b'{"a":' * 100_000,
    b"<a>" * 100_000, b"1" * 100_000, b"1e999", b'"\\ud800"', b"NaN", LAUGHS, FILE,
    b"<html><body>Bad gateway</body></html>", b"<!DOCTYPE html><p>hello", b"<feed/>",
    b"<feed xmlns='http://www.w3.org/2005/Atom'/>", b"<entry xmlns='http://www.w3.org/2005/Atom'/>",
    b"<?xml version='1.0' encoding='utf-32'?><a/>", b"<?xml version='1.0' encoding='none'?><a/>",
    b'Email Address,"Status\n"a@x,"', b"a,b\r\n\x00,\xff\r\n", b'"' * 5000,
    b'{"error":{"message":{"a":[]}}}', b'{"error":[]}', b'{"status":"fail","error":7}',
    b'{"code":1e300,"message":[]}', b'{"data":{},"limit":"many","total":[]}',
)  # fmt: skip
LEAVES = (
    None, "null", "true", "0", "-1", "1.5", "1e300", "9" * 19, "-" + "9" * 30, '""', '" "',
    '"\\u0000"', '"a\\u0000b"', '"' + "9" * 5000 + '"', '"' + "x" * 5000 + '"', "[]", "{}",
    "[[]]", "[null]", "[1]", '["a"]', '{"a":1}', '{"":{}}', '"\\u2028"', '"\\ud83d\\ude00"',
    '"٣"', '"²"', '"1e5"', '"NaN"', '"Infinity"', '"0000-00-00 00:00:00"', '"99991231235959"',
    '"9999-12-31T23:59:59+14:00"', '"0001-01-01T00:00:00-23:59"', '"2026-02-30"', '"//["',
    '"http://[::1"', '"a@x.test"', '"[' + "1 " * 2000 + ']"', '"http://other.test/x"', '"../.."',
)  # fmt: skip
HEADERS = st.fixed_dictionaries(
    {},
    optional={
        "retry-after": st.sampled_from(
            ["-1", "1e999", "nan", "soon", "9" * 5000, "Mon, 01 Jan 99999 00:00:00 GMT",
             "Mon, 01 Jan 2026 00:00:00 +99999999999", "٣", "Thu, 01 Jan 1970 00:00:00", ", ,"]
        ),
        "location": st.sampled_from(
            ["", "http://[", "//other.test", "/x" * 5000, "http://other.test:99999999/", "\x7f"]
        ),
        "content-type": st.sampled_from(["", "text/html", "application/json; charset=x", ";"]),
        "www-authenticate": st.sampled_from(
            ["", "Digest", 'Digest realm="', "Digest " + "a=b," * 2000, "Basic, Digest qop=auth-x"]
        ),
        "x-created": st.sampled_from(["", "٣", "²", "9" * 5000, "-1"]),
        "x-location": st.sampled_from(["http://[", "/" * 5000, "٣"]),
        "x-mashery-error-code": st.sampled_from(["", "x" * 5000]),
    },
)  # fmt: skip
STATUSES = (200, 201, 202, 204, 206, 300, 302, 304, 400, 401, 402, 403, 404, 405, 406, 408, 409,
            410, 415, 422, 429, 500, 501, 503, 599, 600, 999)  # fmt: skip
WHERE = st.integers(0, 10_000)
PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**63) | st.floats(allow_nan=False)
    | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=6,
)  # fmt: skip
SPOILT = st.one_of(
    st.builds(Spoilt, st.just("part"), st.sampled_from(LEAVES), WHERE),
    st.builds(Spoilt, st.just("part"), st.sampled_from(LEAVES), WHERE),
    st.builds(Spoilt, st.just("part"), PLAIN.map(lambda one: orjson.dumps(
        one, option=orjson.OPT_NON_STR_KEYS).decode()), WHERE),
    st.builds(Spoilt, st.just("body"), st.sampled_from(BODIES)),
    st.builds(Spoilt, st.just("body"), st.binary(max_size=60)),
    st.builds(Spoilt, st.just("body"), PLAIN.map(orjson.dumps)),
    st.builds(Spoilt, st.just("cut"), st.none(), WHERE),
    st.builds(Spoilt, st.just("status"), st.sampled_from(STATUSES)),
    st.builds(Spoilt, st.just("headers"), HEADERS),
    st.builds(Spoilt, st.just("error"), st.sampled_from(BODIES) | st.binary(max_size=60),
              st.sampled_from(STATUSES)),
)  # fmt: skip


class Endless(AssertionError):
    """An operation goes on asking."""


@dataclass
class Script:
    """Which answers are spoilt: the first, the second, …; None leaves one as it was. The last
    holds for whatever comes after it, if `lasts`."""

    spoilt: Sequence[Spoilt | None] = ()
    lasts: bool = False
    asked: int = 0
    given: dict[tuple[str, str], int] = field(default_factory=lambda: defaultdict(int))

    def answer(self, request: Request, tape: Tape) -> Answer:
        if self.asked >= MOST:
            raise Endless(f"{MOST} requests, and no end: {shape(request)}")
        kind = shape(request)
        known = tape.get(kind) or [Answer(404, {}, b"")]
        answer = known[min(self.given[kind], len(known) - 1)]
        number = min(self.asked, len(self.spoilt) - 1) if self.lasts else self.asked
        spoilt = self.spoilt[number] if number < len(self.spoilt) else None
        self.asked, self.given[kind] = self.asked + 1, self.given[kind] + 1
        return answer if spoilt is None else spoilt.of(answer)


class Replay(HttpWire):
    """Answers from a tape; nothing leaves."""

    tape: Tape
    script: Script

    async def _sent(self, peer: Any, target: str, headers: Any, request: Any, named: Any) -> Answer:
        return self.script.answer(named, self.tape)
