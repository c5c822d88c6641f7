"""The Copernica stand-in over real HTTP: every rule of the reference that it enforces."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import quote

import aiohttp
import pytest
from yarl import URL

from syncd.sandbox import PROVIDERS, Handle, available, serve

TOKEN = "0f1e2d3c4b5a69788796a5b4c3d2e1f0"
DB = "database/7616"


class Client:
    """Calls the sandbox as its documents say."""

    def __init__(self, http: aiohttp.ClientSession, sandbox: Handle, version: str = "v1") -> None:
        self.http, self.sandbox, self.version = http, sandbox, version

    async def raw(
        self, method: str, path: str, said: Any = None, head: dict[str, str] | None = None,
        token: str | None = TOKEN,
    ) -> tuple[int, Any, Any]:  # fmt: skip
        mark = "&" if "?" in path else "?"
        own = "" if token is None else f"{mark}access_token={token}"
        url = URL(f"{self.sandbox.url}/{self.version}/{path}{own}", encoded=True)
        body = None if said is None else json.dumps(said).encode()
        headers = {"Content-Type": "application/json"} if body else {}
        async with self.http.request(
            method, url, data=body, headers=headers | (head or {}), allow_redirects=False,
            skip_auto_headers=["Content-Type"],
        ) as answer:  # fmt: skip
            text = await answer.text()
            return answer.status, json.loads(text) if text else None, answer.headers

    async def get(self, path: str) -> Any:
        return (await self.raw("GET", path))[1]

    async def found(self, *conditions: str) -> list[str]:
        query = "&".join(f"fields%5B%5D={quote(one, safe='')}" for one in conditions)
        told = await self.get(f"{DB}/profiles?{query}&total=false")
        return [one["fields"]["email"] for one in told["data"]]

    async def upsert(self, key: str, said: Any, create: str = "&create=1") -> tuple[int, Any, Any]:
        path = f"{DB}/profiles?fields%5B%5D={quote(key, safe='')}{create}"
        return await self.raw("PUT", path, said)


def rules(sandbox: Handle) -> list[str]:
    return [each["rule"] for each in sandbox.snapshot()["violations"]]


@pytest.fixture
async def sandbox() -> AsyncIterator[Handle]:
    async with serve("copernica") as handle:
        yield handle


@pytest.fixture
async def client(sandbox: Handle) -> AsyncIterator[Client]:
    async with aiohttp.ClientSession() as http:
        yield Client(http, sandbox)


def as_version(client: Client, version: str) -> Client:
    return Client(client.http, client.sandbox, version)


async def test_its_port_is_its_place_among_all_five() -> None:
    assert "copernica" in available()
    assert PROVIDERS.index("copernica") == 3


# Who may call ------------------------------------------------------------------------------


async def test_the_token_is_in_the_address_and_nowhere_else(
    client: Client, sandbox: Handle
) -> None:
    wrong = {"error": {"message": "Invalid access token"}}
    assert (await client.get("identity"))["id"] == "34"
    assert (await client.raw("GET", "identity", token="x" * 32))[:2] == (400, wrong)
    assert rules(sandbox) == []
    head = {"Authorization": f"Bearer {TOKEN}"}
    assert (await client.raw("GET", "identity", head=head))[0] == 400
    assert (await client.raw("GET", "identity", token=None))[0] == 400
    assert rules(sandbox) == ["token", "token"]


async def test_v4_takes_a_pass_that_is_given_for_the_token(client: Client, sandbox: Handle) -> None:
    v4, auth = as_version(client, "v4"), f"{sandbox.url}/authenticate"
    async with client.http.post(auth, data={"access_token": TOKEN}) as answer:
        jwt = (await answer.text()).strip()
    head = {"Authorization": f"Bearer {jwt}"}
    assert (await v4.raw("GET", "identity", head=head, token=None))[0] == 200
    assert rules(sandbox) == []
    sandbox.act("expire_passes")
    assert (await v4.raw("GET", "identity", head=head, token=None))[0] == 400
    assert (await v4.raw("GET", "identity"))[0] == 400
    async with client.http.post(auth, data={"access_token": "no"}) as answer:
        assert answer.status == 400
    await client.http.post(auth, json={"access_token": TOKEN})
    assert rules(sandbox) == ["token", "authenticate"]


async def test_a_token_for_v4_only(client: Client, sandbox: Handle) -> None:
    sandbox.set_limits(tokens={TOKEN: "v4"})
    assert (await client.raw("GET", "identity"))[0] == 400


# What is there -----------------------------------------------------------------------------


async def test_the_database_its_fields_and_how_it_unsubscribes(
    client: Client, sandbox: Handle
) -> None:
    told = await client.get(DB)
    assert (told["ID"], told["name"], told["interests"]["data"]) == ("7616", "Contacts", [])
    fields = told["fields"]
    assert fields["count"] == fields["total"] == len(fields["data"])
    assert fields["data"][0]["type"] == "email"
    assert await client.get("database/contacts") == told
    unknown = {"error": {"message": "No database with supplied ID"}}
    assert (await client.raw("GET", "database/1"))[:2] == (400, unknown)
    assert await client.get(f"{DB}/unsubscribe") == {
        "behavior": "update", "fields": {"newsletter": "no"},
    }  # fmt: skip
    sandbox.act("set_unsubscribe", value="nothing")
    assert (await client.get(f"{DB}/unsubscribe"))["fields"] == []


async def test_fields_are_made_renamed_and_deleted(client: Client, sandbox: Handle) -> None:
    status, _, head = await client.raw("POST", f"{DB}/fields", {"name": "x", "type": "integer"})
    number = head["X-Created"]
    assert status == 201
    assert (await client.raw("PUT", f"{DB}/field/{number}", {"name": "y"}))[0] == 303
    assert "y" in sandbox.snapshot()["fields"]
    for name in ("id", "a-b", "Y"):
        assert (await client.raw("POST", f"{DB}/fields", {"name": name}))[0] == 400
    assert (await client.raw("POST", f"{DB}/fields", {"name": "z", "type": "email"}))[0] == 400
    assert (await client.raw("DELETE", f"{DB}/field/{number}"))[0] == 200
    gone = await client.raw("DELETE", f"{DB}/field/{number}")
    assert gone[1] == {"error": {"message": "Failed to get the field"}}
    assert rules(sandbox) == ["field made twice"]


@pytest.mark.parametrize(("version", "status"), [("v1", 400), ("v2", 303), ("v3", 204)])
async def test_interests_are_renamed_from_v2_on(
    client: Client, sandbox: Handle, version: str, status: int
) -> None:
    each = as_version(client, version)
    _, _, head = await each.raw("POST", f"{DB}/interests", {"name": "soccer", "group": "sports"})
    said = {"name": "football", "group": "sports"}
    assert (await each.raw("PUT", f"interest/{head['X-Created']}", said))[0] == status
    assert rules(sandbox) == (["version"] if version == "v1" else [])


# Conditions --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("conditions", "who"),
    [
        (["email==A@X.org"], ["a@x.org"]),
        (["EMAIL==a@x.org"], ["a@x.org"]),
        (["  email==a@x.org  "], ["a@x.org"]),
        (["email== a@x.org"], []),
        (["email!=a@x.org"], ["b@x.org"]),
        (["email<>a@x.org"], ["b@x.org"]),
        (["email=~%@x.org"], ["a@x.org", "b@x.org"]),
        (["email=~_@x.org", "city==Oslo"], ["b@x.org"]),
        (["email!~a%"], ["b@x.org"]),
        (["id>18381"], ["b@x.org"]),
        (["id>=18381"], ["a@x.org", "b@x.org"]),
        (["id<18382"], ["a@x.org"]),
        (["modified>=2013-01-01 00:00:00"], ["a@x.org", "b@x.org"]),
        (["modified>=2999-01-01 00:00:00"], []),
    ],
)
async def test_conditions(
    client: Client, sandbox: Handle, conditions: list[str], who: list[str]
) -> None:
    sandbox.act("add", email="a@x.org")
    sandbox.act("add", email="b@x.org", fields={"city": "Oslo"})
    sandbox.act("add", email="c@x.org")
    sandbox.act("delete", email="c@x.org")
    assert await client.found(*conditions) == who
    assert rules(sandbox) == []


@pytest.mark.parametrize("text", ["town==Oslo", "email ==a@x.org", "email", "city=="])
async def test_what_cannot_be_read_matches_everything_and_is_a_breach(
    client: Client, sandbox: Handle, text: str
) -> None:
    sandbox.act("add", email="a@x.org")
    assert await client.found(text) == ["a@x.org"]
    assert rules(sandbox) == ["condition"]


async def test_pages(client: Client, sandbox: Handle) -> None:
    for number in range(5):
        sandbox.act("add", email=f"p{number}@x.org")
    sandbox.set_limits(v1_page_cap=2)
    told = await client.get(f"{DB}/profiles?orderby=id&order=desc&limit=100")
    assert (told["limit"], told["count"], told["total"]) == (2, 2, 5)
    assert [one["ID"] for one in told["data"]] == ["18385", "18384"]
    assert await client.get(f"{DB}/profileids") == [str(18381 + n) for n in range(5)]
    assert len(await as_version(client, "v2").get(f"{DB}/profileids?start=3&limit=9")) == 2
    assert rules(sandbox) == []
    await client.get(f"{DB}/profiles?start=2")
    assert rules(sandbox) == ["paged by offset"]


# Writing -----------------------------------------------------------------------------------


async def test_an_upsert_makes_then_updates(client: Client, sandbox: Handle) -> None:
    said = {"email": "a@x.org", "city": "Oslo"}
    status, body, head = await client.upsert("email==a@x.org", said)
    assert (status, body, head["X-Created"]) == (303, None, "18381")
    assert TOKEN in head["Location"]
    status, _, head = await client.upsert("email==a@x.org", said)
    assert (status, "X-Created" in head) == (200, False)
    assert (await client.upsert("email==b@x.org", {"email": "b@x.org"}, ""))[0] == 200
    assert len(sandbox.snapshot()["profiles"]) == 1
    assert (await client.raw("PUT", f"{DB}/profiles?create=1", said))[0] == 400
    assert rules(sandbox) == []


@pytest.mark.parametrize(("version", "made", "put"), [("v2", 303, 303), ("v3", 201, 204)])
async def test_later_versions_answer_otherwise(
    client: Client, version: str, made: int, put: int
) -> None:
    each = as_version(client, version)
    said = {"fields": {"email": "a@x.org"}}
    assert (await each.upsert("email==a@x.org", said))[0] == made
    assert (await each.raw("PUT", "profile/18381/fields", {"city": "Oslo"}))[0] == put
    assert (await each.get("profile/18381"))["fields"]["city"] == "Oslo"


@pytest.mark.parametrize(
    ("version", "said", "rule"),
    [
        ("v1", {"fields": {"email": "a@x.org"}}, "body"),
        ("v2", {"email": "a@x.org"}, "body"),
        ("v1", {"email": "a@x.org", "town": "Oslo"}, "unknown field"),
        ("v1", {"email": "a@x.org", "City": "Oslo"}, "unknown field"),
        ("v1", {"email": "a@x.org", "newsletter": "maybe"}, "value"),
        ("v1", {"email": "a@x.org", "birth_date": "soon"}, "value"),
        ("v1", {"email": "a@x.org", "city": "x" * 256}, "value"),
        ("v1", {"city": "Oslo"}, "create"),
    ],
)
async def test_what_is_dropped_without_a_word_is_a_breach(
    client: Client, sandbox: Handle, version: str, said: Any, rule: str
) -> None:
    await as_version(client, version).upsert("email==a@x.org", said)
    assert rule in rules(sandbox)
    assert len(sandbox.snapshot()["profiles"]) == 1


@pytest.mark.parametrize(
    ("method", "path", "said", "rule"),
    [
        ("POST", f"{DB}/profiles", {"email": "a@x.org"}, "POST of a profile"),
        ("PUT", "profile/18381/interests", ["a"], "interests replaced"),
        ("POST", "profile/18381/interests", {"no such": 1}, "unknown interest"),
        ("PUT", "profile/18381/fields", [], "body"),
        ("DELETE", "profile/18381", {"completely": True}, "body"),
        ("GET", "databases/7616", None, "unknown path"),
        ("GET", "identity", {}, "content type"),
        ("PUT", f"{DB}/profiles?fields[]=city=~%25", {"email": "x"}, "condition"),
        ("PUT", f"{DB}/profiles?fields[]=id==1&async=1", {"id": "1"}, "async"),
    ],
)
async def test_what_a_careful_client_never_sends(
    client: Client, sandbox: Handle, method: str, path: str, said: Any, rule: str
) -> None:
    sandbox.act("add", email="a@x.org")
    await client.raw(method, path, said)
    assert rule in rules(sandbox)


async def test_interests_are_switched_one_by_one(client: Client, sandbox: Handle) -> None:
    for name in ("soccer", "news"):
        sandbox.act("add_interest", name=name)
    sandbox.act("add", email="a@x.org", interests=["soccer"])
    assert (await client.raw("POST", "profile/18381/interests", {"news": 1}))[0] == 200
    assert (await client.get("profile/18381"))["interests"] == ["news", "soccer"]
    await client.raw("POST", "profile/18381/interests", {"news": 0})
    assert (await client.get("profile/18381"))["interests"] == ["soccer"]


@pytest.mark.parametrize(("again", "status"), [("400", 400), ("204", 204)])
async def test_a_deleted_profile_is_blank_and_swallows_writes(
    client: Client, sandbox: Handle, again: str, status: int
) -> None:
    sandbox.set_limits(delete_again=again)
    sandbox.act("add", email="a@x.org")
    answered, _, head = await client.raw("DELETE", "profile/18381")
    assert (answered, head["X-deleted"]) == (200, "profile 18381")
    assert not any((await client.get("profile/18381"))["fields"].values())
    assert (await client.raw("PUT", "profile/18381/fields", {"city": "Oslo"}))[0] == 303
    assert not any((await client.get("profile/18381"))["fields"].values())
    assert sandbox.snapshot()["lost_writes"] == [18381]
    assert (await client.raw("DELETE", "profile/18381"))[0] == status
    unknown = (await client.raw("DELETE", "profile/1"))[1]
    assert unknown == {"error": {"message": "No entity with supplied ID"}}


async def test_restrictions_refuse_a_create(client: Client, sandbox: Handle) -> None:
    sandbox.act("add", email="a@x.org")
    sandbox.set_limits(block_doubles=True, banned=["bad@x.org"], most_profiles=2)
    refused = {"error": {"message": "Failed to create profile"}}
    for email in ("a@x.org", "bad@x.org"):
        said = {"email": email, "city": "x"}
        assert (await client.upsert("city==x", said))[:2] == (400, refused)
    assert (await client.upsert("email==c@x.org", {"email": "c@x.org"}))[0] == 303
    assert (await client.upsert("email==d@x.org", {"email": "d@x.org"}))[0] == 400


async def test_what_was_made_may_be_invisible_for_a_while(client: Client, sandbox: Handle) -> None:
    sandbox.set_limits(visible_after=60.0)
    await client.upsert("email==a@x.org", {"email": "a@x.org"})
    assert await client.found("email==a@x.org") == []
    assert (await client.get("profile/18381"))["fields"]["email"] == "a@x.org"


# What people do ----------------------------------------------------------------------------


async def test_who_says_no_and_who_turns_them_on_again(client: Client, sandbox: Handle) -> None:
    sandbox.act("add", email="a@x.org")
    sandbox.act("unsubscribe", email="a@x.org")
    assert not sandbox.state.mailable("a@x.org")
    await client.raw("PUT", "profile/18381/fields", {"newsletter": "yes"})
    assert sandbox.snapshot()["resubscribed"] == [
        {"profile": 18381, "said": "unsubscribe", "request": 1}
    ]
    sandbox.act("complain", email="a@x.org")
    sandbox.act("resubscribe", email="a@x.org")
    assert sandbox.state.mailable("a@x.org")
    sandbox.act("set_unsubscribe", value="remove")
    sandbox.act("unsubscribe", profile=18381)
    assert sandbox.snapshot()["profiles"]["18381"]["removed"]
    for wrong in ({"do": "delete", "email": "no"}, {"do": "add_field", "name": "id"},
                  {"do": "rename_field", "name": "no"}, {"do": "add", "x": 1}):  # fmt: skip
        with pytest.raises(ValueError, match=r"nobody|Failed|name|x"):
            sandbox.state.act(wrong)


async def test_doubles_are_counted(client: Client, sandbox: Handle) -> None:
    sandbox.act("add", email="a@x.org")
    sandbox.act("add", email="A@x.org")
    assert sandbox.snapshot()["duplicates"] == [{"field": "email", "value": "a@x.org"}]


async def test_a_fault_leaves_the_data_as_they_were_or_not(client: Client, sandbox: Handle) -> None:
    sandbox.next_fault("error")
    said = {"email": "a@x.org"}
    assert (await client.upsert("email==a@x.org", said))[0] == 500
    assert sandbox.snapshot()["profiles"] == {}
    sandbox.next_fault("error_after")
    assert (await client.upsert("email==a@x.org", said))[0] == 500
    assert len(sandbox.snapshot()["profiles"]) == 1
    sandbox.next_fault("cut_after")
    with pytest.raises(aiohttp.ClientError):
        await client.raw("POST", f"{DB}/fields", {"name": "x"})
    assert "x" in sandbox.snapshot()["fields"]
    sandbox.next_fault("revoked")
    assert (await client.raw("GET", "identity"))[1]["error"]["message"] == "Invalid access token"


async def test_limits_and_claims(client: Client, sandbox: Handle) -> None:
    sandbox.set_limits(per_second=1.0)
    assert (await client.raw("GET", "identity"))[0] == 200
    assert (await client.raw("GET", "identity"))[0] == 429
    assert rules(sandbox) == []
