"""The RedCappi stand-in over real HTTP: every rule of the reference that it enforces."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import quote_plus

import aiohttp
import pytest
from redcappi_vectors import KEYS, VECTORS, Vector
from yarl import URL

from syncd.sandbox import PROVIDERS, Handle, available, serve
from syncd.sandbox.redcappi_account import FIELDS
from syncd.sandbox.redcappi_php import expected_hash, json_encoded, message_of

JSON = "application/json; charset=UTF-8"
NONE, NULL = b'{"posted_data":"[]"}', b'{"posted_data":"null"}'


@pytest.mark.parametrize("vector", VECTORS, ids=lambda one: str(one.number))
def test_every_vector_of_the_reference(vector: Vector) -> None:
    said = message_of(vector.method, vector.target, vector.body.encode())
    _, private = KEYS[vector.key]

    assert said.decode() == vector.signed
    assert expected_hash(private, vector.method, vector.target, vector.body.encode()) == vector.hash


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ({}, "[]"),
        ({"0": "a", "1": "b"}, '["a","b"]'),
        ({"1": "a"}, '{"1":"a"}'),
        ([None, True, False, 7], "[null,true,false,7]"),
        (
            '\x00\b\f\n\r\t"\\/\x7fé😀',
            '"\\u0000\\b\\f\\n\\r\\t\\"\\\\\\/\x7f\\u00e9\\ud83d\\ude00"',
        ),
    ],
)
def test_json_as_php_writes_it(value: Any, text: str) -> None:
    assert json_encoded(value) == text


class Client:
    """Calls the sandbox as the official client does."""

    def __init__(self, http: aiohttp.ClientSession, sandbox: Handle) -> None:
        self.http, self.sandbox = http, sandbox

    async def raw(
        self, method: str, target: str, body: bytes = NONE, head: dict[str, str] | None = None
    ) -> tuple[int, bytes]:
        public, private = self.sandbox.state.demo.values()
        sign = f"RCWS {public}:{expected_hash(private, method, target, body)}"
        headers = {"Authorization": sign, "Content-Type": JSON, **(head or {})}
        url = URL(self.sandbox.url + target, encoded=True)
        async with self.http.request(method, url, data=body, headers=headers) as answer:
            return answer.status, await answer.read()

    async def call(self, method: str, target: str, body: bytes = NONE) -> tuple[int, Any]:
        status, content = await self.raw(method, target, body)
        return status, json.loads(content) if content else None

    async def put(self, email: str, list_id: int = 101, contact: str = "", **fields: str) -> Any:
        body = {**dict.fromkeys(FIELDS, ""), "email_address": email, **fields}
        target = f"/v1/contacts.json/{list_id}/contacts/{contact}"
        return await self.call("POST", target, json.dumps(body).encode())

    async def page(self, size: int = 5, offset: int = 0, list_id: int = 101) -> Any:
        target = f"/v1/contacts.json/{list_id}/contacts/?pagesize={size}&offset={offset}"
        _, found = await self.call("GET", target)
        return list(found.values()) if isinstance(found, dict) and "code" not in found else found

    async def drop(self, contact: int, list_id: int = 101) -> Any:
        return await self.call("DELETE", f"/v1/contacts.json/{list_id}/contacts/{contact}", NULL)


def rules(sandbox: Handle) -> list[str]:
    return [each["rule"] for each in sandbox.snapshot()["violations"]]


@pytest.fixture
async def sandbox() -> AsyncIterator[Handle]:
    async with serve("redcappi") as handle:
        handle.act("add_list", name="Newsletter")
        handle.act("add_list", name="Customers")
        yield handle


@pytest.fixture
async def client(sandbox: Handle) -> AsyncIterator[Client]:
    async with aiohttp.ClientSession() as http:
        yield Client(http, sandbox)


# Who may call ------------------------------------------------------------------------------


async def test_its_port_is_its_place_among_all_five() -> None:
    assert "redcappi" in available()
    assert PROVIDERS.index("redcappi") == 4


async def test_the_ten_calls(client: Client, sandbox: Handle) -> None:
    assert await client.call("GET", "/v1/lists.json/") == (
        200, {"101": "Newsletter", "102": "Customers"},
    )  # fmt: skip
    assert await client.call("GET", "/v1/lists.json?id=102") == (200, {"102": "Customers"})
    assert await client.call("POST", "/v1/lists/List+3") == (
        200, {"code": 201, "message": "List List 3 created with list-id 103"},
    )  # fmt: skip
    assert await client.call("POST", "/v1/lists.json?id=103&name=Renamed+1", NULL) == (
        200, {"code": 201, "message": "List renamed to Renamed 1"},
    )  # fmt: skip
    assert await client.call("DELETE", "/v1/lists.json/103", NULL) == (
        200, {"code": 200, "message": "List removed"},
    )  # fmt: skip
    assert await client.put("A@x.org") == (200, {"code": 201, "message": "Contact added"})
    assert await client.put("b@x.org", contact="5001") == (
        200, {"code": 200, "message": "Contact updated"},
    )  # fmt: skip
    one = "/v1/contacts.json/101/contact/5001"
    assert await client.call("GET", one) == (200, {"5001": "b@x.org"})
    assert await client.page() == ["b@x.org"]
    assert await client.drop(5001) == (200, "Contact removed")
    assert (await client.call("GET", one))[0] == 404
    assert rules(sandbox) == []


async def test_answers_are_encoded_as_php_does(client: Client) -> None:
    _, body = await client.raw("POST", f"/v1/lists/{quote_plus('Ä/B')}")
    assert body == b'{"code":201,"message":"List \\u00c4\\/B created with list-id 103"}'


@pytest.mark.parametrize("errors_in", ["status", "body"])
async def test_a_wrong_hash_is_a_breach_an_unknown_key_is_not(
    client: Client, sandbox: Handle, errors_in: str
) -> None:
    sandbox.set_limits(errors_in=errors_in)
    public = sandbox.state.demo["public_key"]
    told = {"code": 401, "message": "Not Authorized"}
    for header in (f"RCWS {public}:{'0' * 64}", f"RCWS {'1' * 64}:{'0' * 64}", "RCWS x", "Basic x"):
        status, body = await client.raw("GET", "/v1/lists.json/", head={"Authorization": header})
        assert (status, json.loads(body)) == (401 if errors_in == "status" else 200, told)
    assert rules(sandbox) == ["signature", "authorization header", "authorization header"]


@pytest.mark.parametrize(
    ("method", "signed", "target", "body"),
    [
        ("POST", "get", "/v1/contacts.json/101/contacts/", b"{}"),
        ("DELETE", "get", "/v1/contacts.json/101/contacts/1", NULL),
        ("POST", "post", "/v1/lists/List+3", NONE),
    ],
)
async def test_the_documents_slips_are_not_authorized(
    client: Client, sandbox: Handle, method: str, signed: str, target: str, body: bytes
) -> None:
    public, private = sandbox.state.demo.values()
    slip = "/v1/lists./List+3" if method == "POST" and signed == "post" else target
    wrong = f"RCWS {public}:{expected_hash(private, signed, slip, body)}"
    assert (await client.raw(method, target, body, {"Authorization": wrong}))[0] == 401
    assert rules(sandbox) == ["signature"]


async def test_keys_that_were_regenerated(client: Client, sandbox: Handle) -> None:
    sandbox.act("regenerate_keys", name="a" * 64, value="b" * 64)
    assert (await client.raw("GET", "/v1/lists.json/"))[0] == 401
    assert rules(sandbox) == []


# How a request must look -------------------------------------------------------------------


async def test_unknown_paths_missing_bodies_and_types_are_breaches(
    client: Client, sandbox: Handle
) -> None:
    status, told = await client.call("GET", "/v1/lists./")
    assert (status, told) == (404, {"status": False, "error": "Unknown method."})
    await client.call("GET", "/v1/lists.json/", b"{}")
    await client.raw("GET", "/v1/lists.json/", head={"Content-Type": "text/plain"})
    assert rules(sandbox) == ["unknown path", "posted_data", "content type"]


@pytest.mark.parametrize(
    ("body", "rule"),
    [
        ([], "fields"),
        ({"email_address": "a@x.org"}, "fields"),
        ({**dict.fromkeys(FIELDS, ""), "email_address": "a@x.org", "plan": "x"}, "fields"),
        ({**dict.fromkeys(FIELDS, ""), "email_address": "a@x.org", "phone": 7}, "fields"),
        ({**dict.fromkeys(FIELDS, ""), "email_address": "a@x.org", "phone": "\x7f"}, "hygiene"),
    ],
)
async def test_a_contact_is_twelve_clean_strings(
    client: Client, sandbox: Handle, body: Any, rule: str
) -> None:
    await client.call("POST", "/v1/contacts.json/101/contacts/", json.dumps(body).encode())
    assert rules(sandbox) == [rule]


async def test_offsets_and_names_are_looked_at(client: Client, sandbox: Handle) -> None:
    await client.call("GET", "/v1/contacts.json/101/contacts/?pagesize=x&offset=0")
    await client.call("POST", f"/v1/lists/{'x' * 101}")
    await client.call("POST", "/v1/lists/Newsletter")
    assert rules(sandbox) == ["pagesize", "list name", "list made twice"]


# What is open ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "offset", "page"),
    [
        ({}, 0, "abcde"),
        ({}, 2, "cdefg"),
        ({"offset": "pages"}, 1, "fgh"),
        ({"offset": "pages"}, 2, ""),
        ({"offset_from": 1}, 0, "abcde"),
        ({"offset_from": 1}, 2, "bcdef"),
        ({"offset": "pages", "offset_from": 1}, 2, "fgh"),
        ({"page_cap": 3}, 0, "abc"),
        ({"page_cap": 3, "offset": "pages"}, 1, "fgh"),
        ({"page_cap": 3, "offset": "pages", "page_by": "capped"}, 1, "def"),
        ({"order": "newest"}, 0, "hgfed"),
    ],
)
async def test_what_an_offset_means(
    client: Client, sandbox: Handle, options: dict[str, Any], offset: int, page: str
) -> None:
    for one in "abcdefgh":
        sandbox.act("add", email=f"{one}@x.org", list=101)
    sandbox.set_limits(**options)
    found = await client.page(5, offset)
    assert "".join(email[0] for email in found) == page


async def test_offset_zero_may_be_refused(client: Client, sandbox: Handle) -> None:
    sandbox.set_limits(offset_from=1, offset_zero="refused")
    assert (await client.page(5, 0))["code"] == 400


@pytest.mark.parametrize(
    ("repeated", "code", "records", "again"),
    [("update", 201, 1, 1), ("refuse", 409, 1, 0), ("double", 201, 2, 1)],
)
async def test_a_repeated_add(
    client: Client, sandbox: Handle, repeated: str, code: int, records: int, again: int
) -> None:
    sandbox.set_limits(repeated_add=repeated)
    await client.put("a@x.org")
    _, told = await client.put("A@x.org", city="Oslo")
    assert told["code"] == code
    state = sandbox.snapshot()
    assert len(state["profiles"]) == records
    assert len(state["repeated_adds"]) == again
    assert len(state["duplicates"]) == records - 1


@pytest.mark.parametrize(("scope", "left"), [("list", ["a@x.org"]), ("account", [])])
async def test_a_delete_in_one_list(
    client: Client, sandbox: Handle, scope: str, left: list[str]
) -> None:
    sandbox.set_limits(delete_scope=scope)
    await client.put("a@x.org", 101)
    await client.put("a@x.org", 102)
    await client.drop(5001)
    assert await client.page() == []
    assert await client.page(list_id=102) == left


@pytest.mark.parametrize(
    ("empty", "answer"),
    [("[]", (200, b"[]")), ('""', (200, b'""')), ("null", (200, b"null")), ("404", (404, b""))],
)
async def test_how_nothing_looks(
    client: Client, sandbox: Handle, empty: str, answer: tuple[int, bytes]
) -> None:
    sandbox.set_limits(empty=empty)
    target = "/v1/contacts.json/101/contacts/?pagesize=5&offset=0"
    assert await client.raw("GET", target) == answer


@pytest.mark.parametrize(("refuses", "status"), [("400", 400), ("404", 404)])
async def test_names_that_the_path_refuses(
    client: Client, sandbox: Handle, refuses: str, status: int
) -> None:
    sandbox.set_limits(name_in_path=refuses)
    assert (await client.raw("POST", "/v1/lists/A%2FB"))[0] == status
    assert (await client.raw("POST", "/v1/lists.json?id=101&name=A%2FB", NULL))[0] == 200
    assert sandbox.snapshot()["lists"]["101"]["name"] == "A/B"


async def test_lists_may_be_rows_and_names_unique(client: Client, sandbox: Handle) -> None:
    sandbox.set_limits(lists_as="rows", unique_names=True, tells_list_id=False, shortest_name=5)
    _, found = await client.call("GET", "/v1/lists.json/")
    assert found[0] == {"id": "101", "name": "Newsletter"}
    assert (await client.call("POST", "/v1/lists/abc"))[0] == 400
    assert (await client.call("POST", "/v1/lists.json?id=101&name=Customers", NULL))[0] == 409
    _, told = await client.call("POST", "/v1/lists/Another")
    assert told["message"] == "List Another created"


async def test_plans_addresses_and_data_may_be_refused(client: Client, sandbox: Handle) -> None:
    sandbox.set_limits(most_contacts=1, refused=["bad@x.org"], not_authorized=["odd@x.org"])
    assert (await client.put("bad@x.org"))[0] == 400
    assert (await client.put("odd@x.org"))[0] == 401
    assert (await client.put("a@x.org"))[0] == 200
    assert (await client.put("b@x.org"))[0] == 400
    assert rules(sandbox) == []


async def test_an_address_belongs_to_one_record(client: Client, sandbox: Handle) -> None:
    await client.put("a@x.org")
    await client.put("b@x.org")
    assert (await client.put("A@x.org", contact="5002"))[0] == 409
    sandbox.set_limits(repeated_add="double")
    assert (await client.put("a@x.org", contact="5002"))[0] == 200
    assert sandbox.snapshot()["duplicates"] == [{"list": 101, "email": "a@x.org"}]


# What people do there ----------------------------------------------------------------------


@pytest.mark.parametrize("deed", ["unsubscribe", "complain", "bounce", "do_not_mail", "delete"])
async def test_who_says_no_vanishes_and_comes_back_by_an_add(
    client: Client, sandbox: Handle, deed: str
) -> None:
    await client.put("a@x.org")
    sandbox.act(deed, email="a@x.org")
    assert await client.page() == []
    assert (await client.drop(5001))[0] == 404
    assert not sandbox.state.mailable("a@x.org")

    await client.put("a@x.org")
    assert sandbox.state.mailable("a@x.org")
    (back,) = sandbox.snapshot()["resubscribed"]
    assert (back["email"], back["said"]) == ("a@x.org", deed)


async def test_what_a_person_does_alone_is_no_breach(client: Client, sandbox: Handle) -> None:
    sandbox.act("add", email="a@x.org", list=101)
    sandbox.act("set_field", email="a@x.org", name="city", value="Oslo")
    sandbox.act("unsubscribe", email="a@x.org")
    sandbox.act("resubscribe", email="a@x.org")
    sandbox.act("rename_list", list=101, name="Renamed")
    await client.put("a@x.org")
    sandbox.act("delete_list", list=101)
    assert (await client.put("a@x.org"))[0] == 404
    state = sandbox.snapshot()
    assert (state["resubscribed"], state["violations"]) == ([], [])
    for wrong in ({"do": "add_list", "x": 1}, {"do": "bounce", "email": "no@x.org"},
                  {"do": "rename_list"}, {"do": "delete_list", "list": 7},
                  {"do": "set_field", "email": "a@x.org", "name": "no"}):  # fmt: skip
        with pytest.raises(ValueError, match=r"\w"):
            sandbox.act(**wrong)


# Faults and limits -------------------------------------------------------------------------


async def test_faults_strike_before_or_after(client: Client, sandbox: Handle) -> None:
    sandbox.next_fault("error")
    assert (await client.put("a@x.org"))[0] == 500
    sandbox.next_fault("error_after")
    assert (await client.put("b@x.org"))[0] == 500
    sandbox.next_fault("cut_after")
    with pytest.raises(aiohttp.ClientError):
        await client.put("c@x.org")
    sandbox.next_fault("revoked")
    assert (await client.put("d@x.org"))[1] == {"code": 401, "message": "Not Authorized"}
    assert await client.page() == ["b@x.org", "c@x.org"]
    assert rules(sandbox) == []


async def test_a_large_page_may_be_too_much(client: Client, sandbox: Handle) -> None:
    sandbox.set_limits(page_slow_above=4)
    target = "/v1/contacts.json/101/contacts/?pagesize=5&offset=0"
    assert (await client.raw("GET", target))[0] == 504


async def test_the_rate_is_kept_and_no_breach(client: Client, sandbox: Handle) -> None:
    sandbox.set_limits(per_second=1)
    assert (await client.raw("GET", "/v1/lists.json/"))[0] == 200
    assert (await client.raw("GET", "/v1/lists.json/"))[0] == 429
    assert rules(sandbox) == []


async def test_state_and_limits_are_reachable_over_http(client: Client, sandbox: Handle) -> None:
    await client.put("a@x.org")
    async with client.http.get(f"{sandbox.url}/_state") as answer:
        state = await answer.json()
    assert state["lists"]["101"] == {"name": "Newsletter", "contacts": {"5001": "a@x.org"}}
    assert state["profiles"]["5001"]["mailable"] is True
    async with client.http.get(f"{sandbox.url}/_state?profiles=0") as answer:
        assert (await answer.json())["profiles"] == 1
    async with client.http.post(f"{sandbox.url}/_limits", json={"offset": "bytes"}) as answer:
        assert answer.status == 400
    async with client.http.post(f"{sandbox.url}/_reset", json={}) as answer:
        assert answer.status == 200
    assert sandbox.snapshot()["lists"] == {}
