"""The CleverCampaign stand-in over real HTTP: every rule of the reference that it enforces."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
import uuid
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import quote_plus, urlencode

import aiohttp
import pytest

from syncd.sandbox import PROVIDERS, Handle, available, serve
from syncd.sandbox.clevercampaign import PUBLIC, SECRET

FORM = "application/x-www-form-urlencoded"


def sent(secret: str, salt: str, upper: bool = False) -> str:
    digest = hmac.new(secret.encode(), salt.encode(), hashlib.sha256).digest()
    escaped = quote_plus(base64.b64encode(digest).decode())
    if upper:
        return escaped
    return escaped.replace("%2B", "%2b").replace("%2F", "%2f").replace("%3D", "%3d")


class Client:
    """Calls the sandbox as the document's C# does."""

    def __init__(self, http: aiohttp.ClientSession, sandbox: Handle) -> None:
        self.http, self.sandbox = http, sandbox

    async def raw(
        self, method: str, path: str, body: Any = None, head: dict[str, Any] | None = None
    ) -> tuple[int, str, bytes]:
        salt = str(uuid.uuid4())
        headers = {"publickey": PUBLIC, "salt": salt, "signature": sent(SECRET, salt)}
        if body is not None:
            headers["Content-Type"] = FORM
            body = urlencode(body) if isinstance(body, dict) else body
        headers = {k: v for k, v in {**headers, **(head or {})}.items() if v is not None}
        url = self.sandbox.url + path
        async with self.http.request(method, url, data=body, headers=headers) as answer:
            return answer.status, answer.content_type, await answer.read()

    async def call(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        head = {"Accept": "application/json"}
        status, _, content = await self.raw(method, path, body, head)
        return status, json.loads(content) if content else None

    async def add(self, email: str, **fields: str) -> Any:
        return (await self.call("POST", "/contact", {"email": email, **fields}))[1]


def rules(sandbox: Handle) -> list[str]:
    return [each["rule"] for each in sandbox.snapshot()["violations"]]


@pytest.fixture
async def sandbox() -> AsyncIterator[Handle]:
    async with serve("clevercampaign") as handle:
        yield handle


@pytest.fixture
async def client(sandbox: Handle) -> AsyncIterator[Client]:
    async with aiohttp.ClientSession() as http:
        yield Client(http, sandbox)


# Who may call ------------------------------------------------------------------------------


async def test_its_port_is_its_place_among_all_five() -> None:
    assert "clevercampaign" in available()
    assert PROVIDERS.index("clevercampaign") == 0


@pytest.mark.parametrize(
    ("salt", "signature"),
    [
        ("0f8fad5b-d9cb-469f-a165-70867728950e", "jT9gXhcBaCz4JA7nOpc1n6QXiEnlGK6jv1nixLQsGX8%3d"),
        (
            "d6d8d1ff-b852-51f9-be7b-3ee8920b15ca",
            "LKC%2bp4v6IM6uR7MGcavAs3Kv3%2b%2fmMgL%2fdHzxzCMJq5Q%3d",
        ),
        (
            "428a2e33-e48c-514f-871a-662938529c58",
            "%2bGNg3X%2fXgaO5hB1I%2fog%2bdCgp4ASo26nmMibOnM%2fG9MU%3d",
        ),
    ],
)
async def test_the_vectors_of_the_reference_are_let_in_once(
    client: Client, sandbox: Handle, salt: str, signature: str
) -> None:
    head = {"salt": salt, "signature": signature}
    assert (await client.raw("GET", "/contact", head=head))[0] == 200
    assert rules(sandbox) == []
    assert (await client.raw("GET", "/contact", head=head))[0] == 401
    assert rules(sandbox) == ["salt"]
    sandbox.reset()
    assert (await client.raw("GET", "/contact", head=head))[0] == 401  # forgetting data is not that
    sandbox.set_limits(reused_salt="taken")
    assert (await client.raw("GET", "/contact", head=head))[0] == 200


async def test_a_server_may_decode_the_signature_or_compare_its_text(
    client: Client, sandbox: Handle
) -> None:
    for compares, status in (("text", 401), ("decoded", 200)):
        sandbox.set_limits(compares=compares)
        salt = "d6d8d1ff-b852-51f9-be7b-3ee8920b15ca".replace("d6", f"{len(compares):02x}")
        head = {"salt": salt, "signature": sent(SECRET, salt, upper=True)}
        assert (await client.raw("GET", "/contact", head=head))[0] == status
    bare = base64.b64encode(hmac.digest(SECRET.encode(), b"x", "sha256")).decode()
    assert (await client.raw("GET", "/contact", head={"signature": bare}))[0] == 401
    assert rules(sandbox) == ["signature", "signature"]


@pytest.mark.parametrize(
    ("head", "rule"),
    [
        ({"signature": None}, "headers"),
        ({"salt": None}, "headers"),
        ({"publickey": None}, "headers"),
        ({"signature": sent("another", "x")}, "signature"),
    ],
)
async def test_what_is_not_signed_is_a_breach(
    client: Client, sandbox: Handle, head: dict[str, Any], rule: str
) -> None:
    status, _, body = await client.raw("GET", "/contact", head={"Accept": "text/json", **head})
    assert (status, json.loads(body)) == (401, {"Message": "Authorization has been denied"})
    assert rules(sandbox) == [rule]


async def test_a_salt_is_a_guid_and_an_unknown_key_no_breach(
    client: Client, sandbox: Handle
) -> None:
    head = {"salt": "0F8FAD5B", "signature": sent(SECRET, "0F8FAD5B")}
    assert (await client.raw("GET", "/contact", head=head))[0] == 200
    assert rules(sandbox) == ["salt"]
    sandbox.act("regenerate_keys", name="new", value="pair")
    assert (await client.raw("GET", "/contact"))[0] == 401
    assert rules(sandbox) == ["salt"]


# Contacts ----------------------------------------------------------------------------------


async def test_the_calls_of_contacts(client: Client, sandbox: Handle) -> None:
    ann = {"id": 501, "email": "A@x.org", "firstname": "Å", "status": "subscribed"}
    made = await client.call("POST", "/contact", {"email": "A@x.org", "firstname": "Å"})
    assert made == (201, ann)
    assert await client.call("GET", "/contact/501") == (200, ann)
    assert await client.call("GET", "/contact?email=a%40X.org") == (200, [ann])
    assert await client.call("GET", "/contact?email=b%40x.org") == (200, [])
    put = {"email": "a2@x.org", "lastname": "L", "status": "unsubscribed"}
    edited = {"id": 501, "email": "a2@x.org", "lastname": "L", "status": "unsubscribed"}
    assert await client.call("PUT", "/contact/501", put) == (200, edited)
    assert await client.call("GET", "/contact?email=a%40x.org") == (200, [])
    sandbox.set_limits(put="partial")
    _, merged = await client.call("PUT", "/contact/501", {"firstname": "F"})
    assert merged == {**edited, "firstname": "F"}
    assert await client.call("DELETE", "/contact/501") == (204, None)
    for method in ("GET", "DELETE"):
        assert (await client.call(method, "/contact/501"))[0] == 404
    assert rules(sandbox) == []


async def test_pages_have_every_end_that_the_reference_leaves_open(
    client: Client, sandbox: Handle
) -> None:
    for number in range(5):
        await client.add(f"p{number}@x.org")

    async def page(query: str) -> Any:
        status, found = await client.call("GET", f"/contact?{query}")
        return [one["id"] for one in found] if status == 200 else status

    assert await page("page=1&pagesize=2") == [501, 502]
    assert await page("page=3&pagesize=2") == [505]
    assert await page("page=4&pagesize=2") == []
    sandbox.set_limits(past_the_end="last", page_cap=2)
    assert await page("page=9&pagesize=100") == [505]
    sandbox.set_limits(past_the_end="404")
    assert await page("page=4&pagesize=2") == 404
    sandbox.set_limits(paging="ignored")
    assert await page("page=4&pagesize=2") == [501, 502]
    sandbox.set_limits(paging="404")
    assert await page("page=1&pagesize=2") == 404
    assert await page("email=p1%40x.org") == [502]
    sandbox.set_limits(search="404")
    assert await page("email=nobody%40x.org") == 404
    sandbox.set_limits(search="refused")
    assert await page("email=p1%40x.org") == 400
    sandbox.set_limits(search="ignored", paging="works")
    assert await page("email=p1%40x.org") == [501, 502]
    assert rules(sandbox) == []
    assert await page("page=x") == 400
    assert rules(sandbox) == ["page"]


@pytest.mark.parametrize(
    ("repeated", "status", "contacts"), [("double", 201, 2), ("update", 201, 1), ("refuse", 409, 1)]
)
async def test_a_second_contact_of_an_address_is_counted(
    client: Client, sandbox: Handle, repeated: Any, status: int, contacts: int
) -> None:
    sandbox.set_limits(repeated_create=repeated)
    await client.add("a@x.org")
    assert (await client.call("POST", "/contact", {"email": "A@x.org"}))[0] == status
    state = sandbox.snapshot()
    assert len(state["profiles"]) == contacts
    assert [one["email"] for one in state["repeated_creates"]] == ["a@x.org"]
    assert state["duplicates"] == (["a@x.org"] if contacts == 2 else [])


async def test_a_no_made_there_and_a_write_against_it(client: Client, sandbox: Handle) -> None:
    await client.add("a@x.org")
    sandbox.act("unsubscribe", email="a@x.org")
    assert (await client.call("GET", "/contact/501"))[1]["status"] == "unsubscribed"
    await client.call("PUT", "/contact/501", {"email": "a@x.org", "status": "subscribed"})
    sandbox.act("delete", email="a@x.org")
    await client.add("a@x.org")
    told = sandbox.snapshot()["resubscribed"]
    assert [one["said"] for one in told] == ["unsubscribe", "delete"]
    with pytest.raises(ValueError, match="no contact"):
        sandbox.act("unsubscribe", email="nobody@x.org")
    with pytest.raises(ValueError, match="List not found"):
        sandbox.act("delete_list", list="9")


# How a request must look -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "rule", "status"),
    [
        ({"email": "a@x.org", "plan": "x"}, "fields", 201),
        ({"firstname": "x"}, "email", 400),
        ({"email": "nobody"}, "email", 400),
        ({"email": "a@x.org", "firstname": "\x00"}, "hygiene", 201),
        ("email=a%40x.org&email=b%40x.org", "form", 201),
        ("email=a%40x.org&firstname=%ff", "form", 201),
    ],
)
async def test_a_contact_is_a_clean_form(
    client: Client, sandbox: Handle, body: Any, rule: str, status: int
) -> None:
    assert (await client.raw("POST", "/contact", body))[0] == status
    assert rules(sandbox) == [rule]


async def test_json_is_not_taken_and_a_read_has_no_body(client: Client, sandbox: Handle) -> None:
    head = {"Content-Type": "application/json"}
    assert (await client.raw("POST", "/contact", '{"email":"a@x.org"}', head))[0] == 415
    await client.raw("GET", "/contact", {"email": "a@x.org"})
    assert rules(sandbox) == ["content type", "body"]


async def test_unknown_paths_are_breaches_and_unknown_verbs_are_405(
    client: Client, sandbox: Handle
) -> None:
    assert (await client.call("GET", "/people"))[0] == 404
    assert (await client.call("PATCH", "/contact/1", {"email": "a@x.org"}))[0] == 405
    sandbox.set_limits(deletes=False, items=False)
    assert (await client.call("DELETE", "/contact/1"))[0] == 405
    assert (await client.call("GET", "/contact/1"))[0] == 405
    assert rules(sandbox) == ["unknown path"]


async def test_limits_of_the_account(client: Client, sandbox: Handle) -> None:
    sandbox.set_limits(most_contacts=1, refused=["bad@x.org"])
    assert (await client.add("bad@x.org")) == {"Message": "The e-mail is not valid"}
    await client.add("a@x.org")
    assert (await client.add("b@x.org")) == {"Message": "Your plan does not allow more contacts"}
    sandbox.set_limits(per_second=1)
    statuses = [(await client.call("GET", "/contact"))[0] for _ in range(3)]
    assert 429 in statuses
    assert rules(sandbox) == []  # no limit is published


# Answers -----------------------------------------------------------------------------------


async def test_xml_where_json_is_not_asked_for(client: Client, sandbox: Handle) -> None:
    await client.add("a@x.org", firstname="<&>")
    head = '<?xml version="1.0" encoding="utf-8"?>'
    inner = (
        "<contact><id>501</id><email>a@x.org</email><firstname>&lt;&amp;&gt;</firstname>"
        "<status>subscribed</status></contact>"
    )
    status, kind, body = await client.raw("GET", "/contact", head={"Accept": "*/*"})
    assert (status, kind, body.decode()) == (
        200,
        "application/xml",
        f"{head}<contacts>{inner}</contacts>",
    )
    sandbox.set_limits(form="xml", single="wrapped", envelope="result")
    _, _, body = await client.raw("GET", "/contact/501")
    assert (
        body.decode() == f"{head}<response><result><contacts>{inner}</contacts></result></response>"
    )
    status, _, body = await client.raw("GET", "/contact/9")
    assert (status, body.decode()) == (
        404, f"{head}<Error><Message>Contact not found</Message></Error>",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("limits", "told"),
    [
        ({"single": "wrapped"}, {"contact": {"id": 501}}),
        ({"single": "array"}, [{"id": 501}]),
        ({"envelope": "data"}, {"data": {"id": 501}}),
        ({"create_answer": "id"}, 501),
        ({"create_answer": "nothing"}, None),
        ({"id_name": "ContactID", "ids": "guid"}, {"ContactID": "guid"}),
    ],
)
async def test_every_shape_of_an_answer(
    client: Client, sandbox: Handle, limits: dict[str, Any], told: Any
) -> None:
    sandbox.set_limits(tells_status=False, **limits)
    sandbox.reset()
    made = json.dumps(await client.add("a@x.org"))
    number = next(iter(sandbox.snapshot()["profiles"]))
    made = made.replace(', "email": "a@x.org"', "").replace(f'"{number}"', '"guid"')
    assert json.loads(made) == told


async def test_a_location_and_a_page(client: Client, sandbox: Handle) -> None:
    sandbox.set_limits(create_answer="location", paging="page")
    salt = str(uuid.uuid4())
    headers = {"publickey": PUBLIC, "salt": salt, "signature": sent(SECRET, salt)}
    async with client.http.post(
        f"{sandbox.url}/contact", data={"email": "a@x.org"}, headers=headers
    ) as answer:
        assert (answer.status, answer.headers["Location"]) == (201, "/contact/501")
    status, kind, _ = await client.raw("GET", "/contact")
    assert (status, kind) == (200, "text/html")


# Lists, names, faults ----------------------------------------------------------------------


async def test_the_calls_of_lists(client: Client, sandbox: Handle) -> None:
    assert await client.call("POST", "/list", {"name": "News"}) == (
        201,
        {"id": 501, "name": "News"},
    )
    assert await client.call("PUT", "/list/501", {"name": "Old"}) == (
        200,
        {"id": 501, "name": "Old"},
    )
    assert await client.call("GET", "/list?page=1") == (200, [{"id": 501, "name": "Old"}])
    await client.add("a@x.org")
    member = {"contactid": "502"}
    assert [(await client.call("POST", "/list/501/contact", member))[0] for _ in "12"] == [200, 409]
    assert [one["id"] for one in (await client.call("GET", "/list/501/contact"))[1]] == [502]
    assert sandbox.snapshot()["lists"] == {"501": {"name": "Old", "contacts": {"502": "a@x.org"}}}
    assert [(await client.call("DELETE", "/list/501/contact/502"))[0] for _ in "12"] == [204, 404]
    sandbox.act("join", email="a@x.org", list="501")
    await client.call("DELETE", "/contact/502")
    assert sandbox.snapshot()["lists"]["501"]["contacts"] == {}
    assert (await client.call("POST", "/list/501/contact", {"contactid": "9"}))[0] == 404
    assert [(await client.call("DELETE", "/list/501"))[0] for _ in "12"] == [204, 404]
    assert rules(sandbox) == []
    for name in ("News", "News"):
        await client.call("POST", "/list", {"name": name})
    assert rules(sandbox) == ["list made twice"]


async def test_every_name_may_be_another_one(client: Client, sandbox: Handle) -> None:
    names = {
        "prefix": "/rest", "contact_path": "a/person", "email_field": "Mail", "id_name": "No",
        "update_verb": "POST", "find_param": "q", "list_path": "group",
        "member_path": "g/{list_id}/m", "list_name_field": "Title",
    }  # fmt: skip
    sandbox.set_limits(**names)
    made = await client.call("POST", "/rest/a/person", {"Mail": "a@x.org"})
    assert made == (201, {"No": 501, "Mail": "a@x.org", "status": "subscribed"})
    assert (await client.call("POST", "/rest/a/person/501", {"Mail": "b@x.org"}))[0] == 200
    assert len((await client.call("GET", "/rest/a/person?q=b%40x.org"))[1]) == 1
    assert (await client.call("POST", "/rest/group", {"Title": "T"}))[1] == {
        "No": 502,
        "Title": "T",
    }
    assert (await client.call("GET", "/rest/g/502/m")) == (200, [])
    assert rules(sandbox) == []


@pytest.mark.parametrize(
    ("kind", "applied"), [("cut_after", 1), ("cut_before", 0), ("error_after", 1), ("error", 0)]
)
async def test_a_fault_strikes_before_or_after(
    client: Client, sandbox: Handle, kind: Any, applied: int
) -> None:
    sandbox.next_fault(kind)
    try:
        status, _, _ = await client.raw("POST", "/contact", {"email": "a@x.org"})
        assert status == 500
    except aiohttp.ClientError:
        assert kind.startswith("cut")
    assert len(sandbox.snapshot()["profiles"]) == applied


async def test_revoked_keys_and_two_writes_of_one_contact_at_a_time(
    client: Client, sandbox: Handle
) -> None:
    sandbox.next_fault("revoked")
    assert (await client.raw("GET", "/contact"))[0] == 401
    assert rules(sandbox) == []
    await client.add("a@x.org")
    sandbox.set_faults(latency_ms=(50, 50))
    await asyncio.gather(
        *(client.call("PUT", "/contact/501", {"email": f"{one}@x.org"}) for one in "bc")
    )
    assert rules(sandbox) == ["two in flight"]
