"""The Constant Contact stand-in over real HTTP: every rule of the reference that it enforces."""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import urlencode

import aiohttp
import pytest
from yarl import URL

from syncd.sandbox import PROVIDERS, Handle, available, serve
from syncd.sandbox.constantcontact_account import normal

ROOT = "/ws/customers/syncd_sandbox"
KEY = "7f3c2a10-1111-4222-8333-444455556666"
ATOM = "application/atom+xml"
FORM = "application/x-www-form-urlencoded"
IDS = f"http://api.constantcontact.com{ROOT}"


def md5(*parts: str) -> str:
    return hashlib.md5(":".join(parts).encode(), usedforsecurity=False).hexdigest()


class Client:
    """Calls the sandbox by the RFC, with nothing of the adapter's."""

    def __init__(self, http: aiohttp.ClientSession, sandbox: Handle) -> None:
        self.http, self.sandbox = http, sandbox
        self.asked: dict[str, str] = {}
        self.count = 0

    async def raw(
        self, method: str, target: str, body: bytes = b"", headers: dict[str, str] | None = None
    ) -> tuple[int, str, Any]:
        url = URL(self.sandbox.url + target, encoded=True)
        async with self.http.request(method, url, data=body or None, headers=headers) as answer:
            return answer.status, (await answer.read()).decode(), answer.headers

    async def challenged(self) -> None:
        status, _, headers = await self.raw("GET", f"{ROOT}/")
        assert status == 401
        found = re.findall(r'(\w+)="?([^",]+)"?', headers["WWW-Authenticate"])
        self.asked, self.count = dict(found), 0

    def proof(self, method: str, target: str, **changed: str) -> str:
        self.count += 1
        told = {
            "username": f"{KEY}%syncd_sandbox", "realm": self.asked["realm"],
            "nonce": self.asked["nonce"], "uri": target, "opaque": self.asked["opaque"],
            "cnonce": "c", "qop": "auth", "nc": f"{self.count:08x}", **changed,
        }  # fmt: skip
        password = told.pop("password", "sandbox-password")
        ha1, ha2 = md5(told["username"], told["realm"], password), md5(method, told["uri"])
        told.setdefault(
            "response",
            md5(ha1, told["nonce"], told["nc"], told["cnonce"], told["qop"], ha2),
        )
        bare = ("qop", "nc")
        pairs = [f"{k}={v}" if k in bare else f'{k}="{v}"' for k, v in told.items()]
        return "Digest " + ", ".join(pairs)

    async def call(
        self, method: str, path: str, body: str = "", kind: str = ATOM, **changed: str
    ) -> tuple[int, str]:
        if not self.asked:
            await self.challenged()
        target = ROOT + path
        headers = {"Authorization": self.proof(method, target, **changed)}
        if body:
            headers["Content-Type"] = kind
        status, text, _ = await self.raw(method, target, body.encode(), headers)
        return status, text

    async def add(self, email: str, *lists: int, more: str = "") -> tuple[int, str]:
        return await self.call("POST", "/contacts", contact(email, *lists, more=more))

    async def job(self, kind: str, data: str, *lists: int) -> tuple[int, str]:
        pairs = [("activityType", kind), ("data", data)]
        pairs += [("lists", f"{IDS}/lists/{one}") for one in lists]
        return await self.call("POST", "/activities", urlencode(pairs), FORM)


def entry(payload: str, uri: str = "data:,none") -> str:
    return (
        f'<entry xmlns="http://www.w3.org/2005/Atom"><id>{uri}</id><title/><author/>'
        f'<updated>2008-04-16</updated><content type="application/vnd.ctct+xml">{payload}</content>'
        "</entry>"
    )


def contact(email: str, *lists: int, more: str = "", uri: str = "data:,none") -> str:
    refs = "".join(f'<ContactList id="{IDS}/lists/{one}"/>' for one in lists)
    return entry(
        '<Contact xmlns="http://ws.constantcontact.com/ns/1.0/">'
        f"<EmailAddress>{email}</EmailAddress><OptInSource>ACTION_BY_CUSTOMER</OptInSource>{more}"
        f"<ContactLists>{refs}</ContactLists></Contact>",
        uri,
    )


def mailing_list(name: str, uri: str = "data:,", order: str = "99") -> str:
    return entry(
        '<ContactList xmlns="http://ws.constantcontact.com/ns/1.0/"><OptInDefault>false'
        f"</OptInDefault><Name>{name}</Name><SortOrder>{order}</SortOrder></ContactList>",
        uri,
    )


def rules(sandbox: Handle) -> list[str]:
    return [each["rule"] for each in sandbox.snapshot()["violations"]]


def there(sandbox: Handle, number: int = 5001) -> Any:
    return sandbox.snapshot()["profiles"][str(number)]


@pytest.fixture
async def sandbox() -> AsyncIterator[Handle]:
    async with serve("constantcontact", job_seconds=0.0) as handle:
        handle.act("add_list", name="Newsletter")
        handle.act("add_list", name="Customers")
        yield handle


@pytest.fixture
async def client(sandbox: Handle) -> AsyncIterator[Client]:
    async with aiohttp.ClientSession() as http:
        yield Client(http, sandbox)


# Who may call ------------------------------------------------------------------------------


async def test_its_port_is_its_place_among_all_five() -> None:
    assert "constantcontact" in available()
    assert PROVIDERS.index("constantcontact") == 2


async def test_a_proof_lets_in_and_is_good_once(client: Client, sandbox: Handle) -> None:
    assert (await client.call("GET", "/"))[0] == 200
    assert (await client.call("GET", "/lists"))[0] == 200
    assert rules(sandbox) == []
    assert (await client.call("GET", "/lists", nc="00000001"))[0] == 401
    assert rules(sandbox) == ["nc used twice"]


@pytest.mark.parametrize(
    ("changed", "rule"),
    [
        ({"password": "x"}, None),
        ({"username": "other%syncd_sandbox"}, None),
        ({"nonce": "old"}, None),
        ({"uri": "/ws"}, "digest parameters"),
        ({"opaque": "x"}, "digest parameters"),
        ({"nc": "0000000A"}, "digest parameters"),
        ({"qop": "auth-int"}, "digest parameters"),
        ({"algorithm": "MD5"}, "authorization header"),
    ],
)
async def test_what_is_not_let_in(
    client: Client, sandbox: Handle, changed: dict[str, str], rule: str | None
) -> None:
    assert (await client.call("GET", "/lists", **changed))[0] == 401
    assert rules(sandbox) == ([rule] if rule else [])


async def test_an_old_nonce_is_stale_if_the_server_says_so(client: Client, sandbox: Handle) -> None:
    for flag in (True, False):
        sandbox.set_limits(nonce_uses=1, tells_stale=flag)
        await client.challenged()
        assert (await client.call("GET", "/lists"))[0] == 200
        target = f"{ROOT}/lists"
        status, _, headers = await client.raw(
            "GET", target, headers={"Authorization": client.proof("GET", target)}
        )
        assert (status, "STALE=TRUE" in headers["WWW-Authenticate"]) == (401, flag)
    assert sandbox.snapshot()["renewals"] == 2


async def test_a_body_sent_before_the_challenge_is_a_breach(
    client: Client, sandbox: Handle
) -> None:
    assert (await client.raw("POST", f"{ROOT}/contacts", b"x"))[0] == 401
    assert rules(sandbox) == ["body before challenge"]


async def test_other_schemes_stand_before_digest_or_alone(client: Client, sandbox: Handle) -> None:
    for offers, digest in (("both", True), ("basic", False)):
        sandbox.set_limits(offers=offers)
        _, _, headers = await client.raw("GET", f"{ROOT}/")
        assert headers["WWW-Authenticate"].startswith("Basic ")
        assert ("Digest " in headers["WWW-Authenticate"]) is digest


async def test_another_customers_path_is_refused(client: Client, sandbox: Handle) -> None:
    await client.challenged()
    target = "/ws/customers/somebody/lists"
    headers = {"Authorization": client.proof("GET", target)}
    assert (await client.raw("GET", target, headers=headers))[0] == 401


async def test_quotas_answer_403_in_the_gateways_words(client: Client, sandbox: Handle) -> None:
    sandbox.set_limits(per_second=1)
    await client.challenged()
    target = f"{ROOT}/lists"
    status, text, headers = await client.raw("GET", target)
    assert (status, headers["X-Mashery-Error-Code"], headers["Retry-After"]) == (
        403, "ERR_403_DEVELOPER_OVER_QPS", "1",
    )  # fmt: skip
    assert "Developer Over Qps" in text
    sandbox.set_limits(per_second=None, per_day=1)
    status, _, headers = await client.raw("GET", target)
    assert (status, headers["X-Mashery-Error-Code"]) == (403, "ERR_403_DEVELOPER_OVER_RATE")
    assert rules(sandbox) == []  # none is documented


# Lists ---------------------------------------------------------------------------------------


async def test_lists(client: Client, sandbox: Handle) -> None:
    _, text = await client.call("GET", "/lists")
    assert re.findall(r"<id>[^<]*/lists/([\w-]+)</id>", text) == [
        "active", "do-not-mail", "removed", "101", "102",
    ]  # fmt: skip
    assert text.count("ContactCount") == 4  # of the numeric ones only, two tags each
    assert (await client.call("POST", "/lists", mailing_list("Third")))[0] == 201
    assert (await client.call("POST", "/lists", mailing_list("THIRD")))[0] == 409
    uri = f"{IDS}/lists/103"
    assert (await client.call("PUT", "/lists/103", mailing_list("Fourth", uri)))[0] == 204
    assert (await client.call("DELETE", "/lists/103"))[0] == 204
    assert (await client.call("GET", "/lists/103"))[0] == 404
    assert (await client.call("GET", "/lists/active"))[0] == 200
    assert rules(sandbox) == []


async def test_what_must_not_be_done_to_lists(client: Client, sandbox: Handle) -> None:
    uri = f"{IDS}/lists/101"
    sandbox.act("add", email="a@x.org", list=101)
    for method, path, body in (
        ("PUT", "/lists/101", mailing_list("X")),
        ("PUT", "/lists/101", mailing_list("Y", uri, order="1")),
        ("POST", "/lists", mailing_list("Active")),
        ("POST", "/lists", mailing_list("x" * 256)),
        ("DELETE", "/lists/active", ""),
        ("DELETE", "/lists/101", ""),
    ):
        await client.call(method, path, body)
    assert rules(sandbox) == [
        "list id", "list settings changed", "list name", "list name", "system list written",
        "list deleted with members",
    ]  # fmt: skip


# Contacts --------------------------------------------------------------------------------------


async def test_a_contacts_life(client: Client, sandbox: Handle) -> None:
    more = "<FirstName>Ann</FirstName><StateCode>ma</StateCode><CountryCode>US</CountryCode>"
    status, text = await client.add("A@x.org", 101, more=more)
    assert status == 201
    assert f"<id>{IDS}/contacts/5001</id>" in text
    assert there(sandbox)["fields"] == {
        "FirstName": "Ann", "StateCode": "MA", "StateName": "Massachusetts", "CountryCode": "us",
        "CountryName": "United States",
    }  # fmt: skip
    assert (await client.add("a@x.org", 101))[0] == 409
    assert (await client.add("b@x.org"))[0] == 400
    uri = f"{IDS}/contacts/5001"
    status, _ = await client.call("PUT", "/contacts/5001", contact("a@x.org", 102, uri=uri))
    assert status == 204
    assert (there(sandbox)["fields"], there(sandbox)["lists"]) == ({}, [102])
    await client.call("PUT", "/contacts/5001", contact("a@x.org", uri=uri))
    assert there(sandbox)["status"] == "Removed"
    assert (await client.call("DELETE", "/contacts/5001"))[0] == 204
    assert (await client.call("PUT", "/contacts/5001", contact("a@x.org", 101, uri=uri)))[0] == 403
    sandbox.set_limits(opted_out="400")
    status, text = await client.call("PUT", "/contacts/5001", contact("a@x.org", 101, uri=uri))
    assert (status, "Status transition from O to S" in text) == (400, True)
    assert (await client.add("a@x.org", 101))[0] == 409
    _, text = await client.call("GET", "/contacts/5001")
    assert "<OptOutSource>ACTION_BY_CUSTOMER</OptOutSource>" in text
    assert (await client.call("GET", "/contacts/1"))[0] == 404
    assert sandbox.snapshot()["repeated_adds"] == ["a@x.org", "a@x.org"]
    assert rules(sandbox) == []


@pytest.mark.parametrize("omitted", ["kept", "cleared"])
async def test_fields_that_a_put_leaves_out(client: Client, sandbox: Handle, omitted: str) -> None:
    sandbox.set_limits(omitted=omitted)
    await client.add("a@x.org", 101, more="<City>Rome</City><Note>x</Note>")
    document = contact("a@x.org", 101, more="<Note/>", uri=f"{IDS}/contacts/5001")
    await client.call("PUT", "/contacts/5001", document)
    assert there(sandbox)["fields"] == ({"City": "Rome"} if omitted == "kept" else {})


@pytest.mark.parametrize(
    ("document", "rule"),
    [
        ("<x", "not XML"),
        ("<entry/>", "not an entry"),
        ('<entry xmlns="http://www.w3.org/2005/Atom"><id/><title/><updated/></entry>',
         "Atom element missing"),
        (entry("<x/>"), "no content"),
        ('<!DOCTYPE entry><entry xmlns="http://www.w3.org/2005/Atom"/>', "document type"),
        (contact("a@x.org", 101, more=f"<City>{'x' * 51}</City>"), "too long"),
        (contact("a@x.org", 101, more="<Nope/>"), "unknown element"),
        (contact("a@x.org", 101, more="<City/><City/>"), "unknown element"),
        (contact("a@x.org", 101).replace("BY_CUSTOMER", "BY_CONTACT"), "claims the person's act"),
        (contact("a@x.org", 101).replace("http://api", "https://api"), "list id"),
        (contact("a@x.org", 101).replace("lists/101", "lists/active"), "list id"),
        (contact("a@x.org", 101).replace("OptInSource>", "OptInTime>"), "OptInSource"),
    ],
)  # fmt: skip
async def test_what_a_document_must_not_be(
    client: Client, sandbox: Handle, document: str, rule: str
) -> None:
    status, _ = await client.call("POST", "/contacts", document)
    assert status == (201 if rule.startswith("claims") else 400)
    assert rule in rules(sandbox)


async def test_other_breaches(client: Client, sandbox: Handle) -> None:
    await client.add("a@x.org", 101)
    assert (await client.call("POST", "/contacts", contact("b@x.org", 101), "text/xml"))[0] == 415
    assert (await client.call("POST", "/activities", "x", ATOM))[0] == 415
    assert (await client.call("PUT", "/contacts/5001", contact("a@x.org", 101)))[0] == 400
    await client.call("DELETE", "/contacts/5001")
    await client.call("DELETE", "/contacts/5001")
    assert (await client.call("PATCH", "/contacts/5001"))[0] == 404
    assert rules(sandbox) == [
        "content type", "content type", "contact id", "opted out twice", "unknown path",
    ]  # fmt: skip


async def test_two_writes_to_one_contact_at_a_time_are_a_breach(
    client: Client, sandbox: Handle
) -> None:
    await client.add("a@x.org", 101)
    sandbox.set_faults(latency_ms=[30, 30])
    document = contact("a@x.org", 101, uri=f"{IDS}/contacts/5001")
    await asyncio.gather(*(client.call("PUT", "/contacts/5001", document) for _ in range(2)))
    assert rules(sandbox) == ["two in flight"]


async def test_searches(client: Client, sandbox: Handle) -> None:
    await client.add("a+b@x.org", 101)
    status, text = await client.call("GET", "/contacts?email=a%2Bb%40x.org&email=c%40x.org")
    assert (status, text.count("<entry>")) == (200, 1)
    assert "ContactLists" not in text
    assert (await client.call("GET", "/contacts?email=c%40x.org"))[0] == 200
    sandbox.set_limits(none_found="500")
    assert (await client.call("GET", "/contacts?email=c%40x.org"))[0] == 500
    assert rules(sandbox) == []
    await client.call("GET", "/contacts?email=A%2Bb%40x.org")
    await client.call("GET", "/contacts?email=a@x.org")
    many = "&".join(["email=a%40x.org"] * 51)
    assert (await client.call("GET", f"/contacts?{many}"))[0] == 400
    assert rules(sandbox) == ["search"] * 3


async def test_who_was_changed_since(client: Client, sandbox: Handle) -> None:
    await client.add("a@x.org", 101)
    await client.add("b@x.org", 101)
    sandbox.act("unsubscribe", email="b@x.org")
    base = "/contacts?updatedsince=1990-01-01T00%3A00%3A00.000Z"
    for query, expected in (
        ("&listtype=do-not-mail", "b@x.org"), ("&listtype=active", "a@x.org"),
        ("&listid=101", "a@x.org"),
    ):  # fmt: skip
        _, text = await client.call("GET", base + query)
        assert re.findall(r"<EmailAddress>([^<]*)", text) == [expected]
    _, text = await client.call("GET", f"{base.replace('1990', '2990')}&listtype=active")
    assert "<entry>" not in text
    await client.call("GET", base)
    await client.call("GET", "/contacts?updatedsince=yesterday&listtype=active")
    assert rules(sandbox) == ["updatedsince"] * 2


@pytest.mark.parametrize("next_as", ["path", "relative", "absolute"])
async def test_pages(client: Client, sandbox: Handle, next_as: str) -> None:
    sandbox.set_limits(page_size=2, next_as=next_as)
    for n in range(5):
        sandbox.act("add", email=f"p{n}@x.org", list=101)
    found, path = [], "/lists/101/members"
    while path:
        _, text = await client.call("GET", path)
        found += re.findall(r"<EmailAddress>([^<]*)", text)
        link = re.search(r'<link href="([^"]*)" rel="next"/>', text)
        path = f"/lists/101/members?{link[1].partition('?')[2]}" if link else ""
        start = {"path": "/ws/", "relative": "members?", "absolute": "http://api."}[next_as]
        assert link is None or link[1].startswith(start)
    assert found == [f"p{n}@x.org" for n in range(5)]
    sandbox.act("unsubscribe", email="p0@x.org")
    _, text = await client.call("GET", "/lists/do-not-mail/members")
    assert "p0@x.org" in text


# Jobs ------------------------------------------------------------------------------------------


async def test_jobs_add_set_and_remove(client: Client, sandbox: Handle) -> None:
    sandbox.act("add", email="no@x.org", list=101)
    sandbox.act("unsubscribe", email="no@x.org")
    sandbox.act("add", email="a@x.org", list=102)
    sandbox.act("set_field", email="a@x.org", name="City", value="Rome")
    data = 'Email Address,First Name,CITY\na@x.org, Ann,\nNEW@x.org,"B, C",Oslo\nno@x.org,N,\n'
    status, text = await client.job("SV_ADD", data, 101)
    assert status == 201
    assert "<Status>PENDING</Status>" in text
    number = re.findall(r"/activities/(\w+)</id>", text)[0]
    _, text = await client.call("GET", f"/activities/{number}")
    assert "<Status>COMPLETE</Status>" in text
    assert re.findall(r"<LineNumber>(\d+)</LineNumber><EmailAddress>([^<]*)", text) == [
        ("4", "no@x.org")
    ]
    people = {one["email"]: one for one in sandbox.snapshot()["profiles"].values()}
    assert people["a@x.org"]["fields"] == {"FirstName": "Ann", "City": "Rome"}  # nothing cleared
    assert people["a@x.org"]["lists"] == [101, 102]
    assert people["new@x.org"]["fields"] == {"FirstName": "B, C", "City": "Oslo"}
    await client.job("REMOVE_CONTACTS_FROM_LISTS", "EMAIL ADDRESS\nnew@x.org\n", 101)
    _, text = await client.call("GET", "/activities")
    assert text.count("<Errors>") == 2  # a count, in the list of jobs
    people = {one["email"]: one for one in sandbox.snapshot()["profiles"].values()}
    assert people["new@x.org"]["status"] == "Removed"
    assert (await client.call("GET", "/activities/a07nope"))[0] == 404
    assert rules(sandbox) == []


async def test_what_a_job_must_not_be(client: Client, sandbox: Handle) -> None:
    sandbox.set_limits(job_seconds=60, job_rows=2)
    await client.job("SV_ADD", "EMAIL ADDRESS\na@x.org\n", 101)
    await client.job("SV_ADD", "EMAIL ADDRESS\na@x.org\n", 101)
    assert len(sandbox.snapshot()["repeated_jobs"]) == 1
    await client.job("SV_ADD", "EMAIL ADDRESS,NOTE\na@x.org,x\n", 102)
    await client.job("SV_ADD", "EMAIL ADDRESS,CITY\na@x.org\n", 102)
    await client.job("SV_ADD", 'EMAIL ADDRESS,CITY\na@x.org,"a""b"\n', 102)
    await client.job("REMOVE_CONTACTS_FROM_LISTS", "EMAIL ADDRESS,CITY\na@x.org,x\n", 102)
    await client.job("SV_ADD", "EMAIL ADDRESS\na@x.org\nb@x.org\nc@x.org\n", 102)
    await client.job("DELETE_ALL", "EMAIL ADDRESS\n", 102)
    await client.job("SV_ADD", f"EMAIL ADDRESS,WORK PHONE\na@x.org,{'1' * 26}\n", 102)
    assert (await client.job("SV_ADD", "EMAIL ADDRESS\na@x.org\n"))[0] == 400
    assert (await client.job("SV_ADD", "EMAIL ADDRESS\na@x.org\n", 999))[0] == 400
    assert rules(sandbox) == [
        "two jobs at a list", "columns", "rows", "rows", "columns", "job too large", "activity",
        "too long",
    ]  # fmt: skip


def export(*columns: str, **changed: str) -> str:
    told = {
        "activityType": "EXPORT_CONTACTS", "fileType": "CSV", "exportOptDate": "false",
        "exportOptSource": "false", "exportListName": "true", "sortBy": "EMAIL_ADDRESS",
        "listId": f"{IDS}/lists/101", **changed,
    }  # fmt: skip
    return urlencode([*told.items(), *(("columns", one) for one in columns)])


async def test_a_list_is_written_out(client: Client, sandbox: Handle) -> None:
    for email in ("b@x.org", "a@x.org"):
        sandbox.act("add", email=email, list=101)
    sandbox.act("add", email="c@x.org", list=102)
    sandbox.act("set_field", email="a@x.org", name="City", value='Rome, "RM"')
    status, text = await client.call("POST", "/activities", export("CITY", "First Name"), FORM)
    assert (status, "<FileName></FileName>" in text) == (201, True)
    number = re.findall(r"/activities/(\w+)</id>", text)[0]
    _, text = await client.call("GET", f"/activities/{number}")
    assert "<Status>COMPLETE</Status>" in text
    (name,) = re.findall(r"<FileName>[^<]*/activities/([^</]+)</FileName>", text)
    status, text = await client.call("GET", f"/activities/{name}")
    assert (status, text.splitlines()) == (
        200,
        [
            "Email Address,City,First Name,exportListName",
            'a@x.org,"Rome, ""RM""",,Newsletter',
            "b@x.org,,,Newsletter",
        ],
    )
    assert (await client.call("GET", "/activities/a07nope.csv"))[0] == 404
    assert rules(sandbox) == []


@pytest.mark.parametrize(
    "form",
    [
        export("NOTE"),
        export("CITY", "CITY"),
        export(fileType="XML"),
        export(data="EMAIL ADDRESS"),
        export(listId=f"{IDS}/lists/active"),
    ],
)
async def test_what_an_export_must_not_be(client: Client, sandbox: Handle, form: str) -> None:
    assert (await client.call("POST", "/activities", form, FORM))[0] == 400
    assert rules(sandbox) in (["export"], ["list id"])


async def test_an_export_has_its_list_alone(client: Client, sandbox: Handle) -> None:
    sandbox.set_limits(job_seconds=60)
    await client.call("POST", "/activities", export(), FORM)
    await client.job("SV_ADD", "EMAIL ADDRESS\na@x.org\n", 101)
    assert rules(sandbox) == ["two jobs at a list"]


async def test_a_job_may_fail_as_a_whole(client: Client, sandbox: Handle) -> None:
    sandbox.set_limits(jobs_fail=1)
    for expected in ("ERROR", "COMPLETE"):
        _, text = await client.job("SV_ADD", f"EMAIL ADDRESS\n{expected}@x.org\n", 101)
        number = re.findall(r"/activities/(\w+)</id>", text)[0]
        _, text = await client.call("GET", f"/activities/{number}")
        assert f"<Status>{expected}</Status>" in text
    assert len(sandbox.snapshot()["profiles"]) == 1


async def test_clearing_a_list(client: Client, sandbox: Handle) -> None:
    sandbox.act("add", email="a@x.org", list=101)
    pairs = [("activityType", "CLEAR_CONTACTS_FROM_LISTS"), ("lists", f"{IDS}/lists/101")]
    assert (await client.call("POST", "/activities", urlencode(pairs), FORM))[0] == 201
    assert there(sandbox)["lists"] == []


# Faults, deeds, state --------------------------------------------------------------------------


async def test_faults_strike_before_or_after(client: Client, sandbox: Handle) -> None:
    await client.challenged()
    for kind, made in (("error", 0), ("malformed", 0), ("revoked", 0), ("error_after", 1)):
        sandbox.next_fault(kind)  # type: ignore[arg-type]
        status, _ = await client.add("a@x.org", 101)
        assert status == {"error": 500, "malformed": 400, "revoked": 401, "error_after": 500}[kind]
        assert len(sandbox.snapshot()["profiles"]) == made
    sandbox.next_fault("cut_after")
    with pytest.raises(aiohttp.ClientError):
        await client.add("b@x.org", 101)
    assert len(sandbox.snapshot()["profiles"]) == 2
    assert rules(sandbox) == []


async def test_deeds(client: Client, sandbox: Handle) -> None:
    sandbox.act("add", email="a@x.org", list=101)
    sandbox.act("join_list", email="a@x.org", list=102)
    sandbox.act("leave_list", email="a@x.org", list=101)
    sandbox.act("set_field", email="a@x.org", name="City", value="Rome")
    assert (there(sandbox)["lists"], there(sandbox)["fields"]) == ([102], {"City": "Rome"})
    sandbox.act("unsubscribe", email="a@x.org")
    assert (there(sandbox)["status"], there(sandbox)["mailable"]) == ("Do Not Mail", False)
    sandbox.act("resubscribe", email="a@x.org", list=101)
    assert there(sandbox)["mailable"]
    sandbox.act("delete", email="a@x.org")
    assert there(sandbox)["status"] == "Removed"
    sandbox.act("rename_list", list=101, name="News")
    sandbox.act("delete_list", list=102)
    assert sandbox.snapshot()["lists"] == {"101": {"name": "News", "contacts": {}}}
    for deed in (
        {"do": "add", "email": "a@x.org", "list": 101}, {"do": "unsubscribe", "email": "b@x.org"},
        {"do": "rename_list", "list": 9}, {"do": "join_list", "list": 101},
        {"do": "set_field", "email": "a@x.org", "name": "Nope"}, {"do": "nothing"},
    ):  # fmt: skip
        with pytest.raises(ValueError):  # noqa: PT011  each says something else
            sandbox.state.act(deed)


def test_what_is_stored_is_normalised() -> None:
    assert normal({"City": " Rome ", "Note": " ", "StateCode": "xx", "CountryCode": "FR"}) == {
        "City": "Rome", "StateCode": "XX", "StateName": "XX", "CountryCode": "fr",
        "CountryName": "FR",
    }  # fmt: skip
