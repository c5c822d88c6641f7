"""The CleverTap stand-in over real HTTP: every rule of the reference that it enforces."""

from __future__ import annotations

import asyncio
import io
import re
import time
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import orjson
import pytest
from cmdline import free_ports
from yarl import URL

from syncd.sandbox import PROVIDERS, Handle, available, run, serve
from syncd.sandbox.faults import Kind

GOOD = {"X-CleverTap-Account-Id": "TEST-0A0-000-0A0Z", "X-CleverTap-Passcode": "JDG-PAS-CODE"}
JSON = {"Content-Type": "application/json"}


class Client:
    """Calls the sandbox as a careful program would."""

    def __init__(self, http: aiohttp.ClientSession, sandbox: Handle) -> None:
        self.http, self.sandbox = http, sandbox

    async def raw(self, method: str, path: str, **more: Any) -> tuple[int, bytes, Any]:
        headers = more.pop("headers", {**GOOD, **JSON})
        url = URL(self.sandbox.url + path, encoded=True)
        async with self.http.request(method, url, headers=headers, **more) as answer:
            return answer.status, await answer.read(), answer.headers

    async def call(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        data = None if body is None else orjson.dumps(body)
        status, content, _ = await self.raw(method, path, data=data)
        return status, orjson.loads(content)

    async def upload(self, *records: dict[str, Any], query: str = "") -> Any:
        status, answer = await self.call("POST", f"/1/upload{query}", {"d": list(records)})
        assert status == 200
        return answer

    async def put(self, identity: str, **data: Any) -> Any:
        return await self.upload(person(identity, **data))

    async def record(self, identity: str) -> Any:
        _, answer = await self.call("GET", f"/1/profile.json?identity={identity}")
        return answer.get("record")


def person(identity: str, **data: Any) -> dict[str, Any]:
    return {"type": "profile", "identity": identity, "profileData": data}


def rules(sandbox: Handle) -> list[str]:
    return [each["rule"] for each in sandbox.snapshot()["violations"]]


def held(sandbox: Handle, identity: str) -> dict[str, Any]:
    found: dict[str, Any] = sandbox.snapshot()["profiles"][identity]
    return found


@pytest.fixture
async def sandbox() -> AsyncIterator[Handle]:
    async with serve("clevertap") as handle:
        yield handle


@pytest.fixture
async def client(sandbox: Handle) -> AsyncIterator[Client]:
    async with aiohttp.ClientSession() as http:
        yield Client(http, sandbox)


# Who may call ------------------------------------------------------------------------------


async def test_the_partner_check_knows_good_bad_and_unlisted(
    client: Client, sandbox: Handle
) -> None:
    assert await client.call("GET", "/v1/connect?partner=syncd") == (
        200,
        {"message": "Authorised Successfully.", "status": "success"},
    )
    status, answer = await client.call("GET", "/v1/connect?partner=my%20partner")
    assert (status, answer["error"]) == (403, "Partner not whitelisted: my partner")
    wrong = {**GOOD, "X-CleverTap-Passcode": "no"}
    status, content, _ = await client.raw("GET", "/v1/connect?partner=syncd", headers=wrong)
    assert (status, orjson.loads(content)) == (
        400,
        {"status": "fail", "error": "Invalid Credentials", "code": 400},
    )
    assert rules(sandbox) == []


@pytest.mark.parametrize("name", GOOD)
async def test_each_header_is_wanted_exactly_once(
    client: Client, sandbox: Handle, name: str
) -> None:
    missing = {key: value for key, value in GOOD.items() if key != name}
    twice = [*GOOD.items(), (name, GOOD[name])]
    for headers in (missing, twice):
        status, _, _ = await client.raw("GET", "/1/profile.json?identity=a", headers=headers)
        assert status == 401
    assert rules(sandbox) == ["credentials header"] * 2


async def test_wrong_or_revoked_passcodes_are_401_but_no_breach(
    client: Client, sandbox: Handle
) -> None:
    sandbox.set_limits(accounts={"TEST-0A0-000-0A0Z": ["JDG-PAS-CODE", "USER"]}, revoked=["USER"])
    for passcode in ("USER", "other"):
        headers = {**GOOD, **JSON, "X-CleverTap-Passcode": passcode}
        status, content, _ = await client.raw("POST", "/1/upload", data=b"{}", headers=headers)
        assert status == 401
        assert orjson.loads(content)["code"] == 401
    sandbox.set_limits(revoked=[])
    lower = {key.lower(): value for key, value in {**GOOD, "X-CleverTap-Passcode": "USER"}.items()}
    assert (await client.raw("GET", "/v1/connect?partner=syncd", headers=lower))[0] == 200
    assert rules(sandbox) == []


async def test_another_regions_host_is_401(client: Client, sandbox: Handle) -> None:
    sandbox.set_limits(region="in1")
    for host, expected in (("in1", 200), ("us1", 401)):
        headers = {**GOOD, "Host": f"{host}.api.clevertap.com"}
        status, _, _ = await client.raw(
            "POST",
            "/1/upload?dryRun=1",
            headers={**headers, **JSON},
            data=orjson.dumps({"d": [person("a", X="1")]}),
        )
        assert status == expected


async def test_mail_paths_and_unknown_paths_are_breaches(client: Client, sandbox: Handle) -> None:
    assert (await client.call("POST", "/1/targets/create.json", {}))[0] == 403
    assert (await client.call("POST", "/1/send/email.json", {}))[0] == 403
    assert (await client.call("GET", "/1/segments.json"))[0] == 404
    assert (await client.call("GET", "/1/upload"))[0] == 405
    assert rules(sandbox) == ["would send mail"] * 2 + ["unknown path"] * 2


# How a request must look -------------------------------------------------------------------


async def test_posts_must_say_that_they_are_json(client: Client, sandbox: Handle) -> None:
    body = orjson.dumps({"d": [person("a", X="1")]})
    charset = {**GOOD, "Content-Type": "application/json; charset=utf-8"}
    assert (await client.raw("POST", "/1/upload", data=body, headers=charset))[0] == 200
    text = {**GOOD, "Content-Type": "text/plain"}
    assert (await client.raw("POST", "/1/upload", data=body, headers=text))[0] == 400
    assert rules(sandbox) == ["content type"]


@pytest.mark.parametrize(
    "body", [b"{", b"", b"[]", b'{"d":{}}', b'{"d":[{"identity":"\\ud800"}]}', b"\xff\xfe"]
)
async def test_unreadable_bodies_are_malformed_requests(
    client: Client, sandbox: Handle, body: bytes
) -> None:
    status, content, headers = await client.raw("POST", "/1/upload", data=body)
    assert status == 400
    assert orjson.loads(content) == {"status": "fail", "error": "Malformed request", "code": 400}
    assert headers["Content-Type"] == "application/json;charset=utf-8"
    assert rules(sandbox) == ["malformed"]


async def test_batches_hold_1_to_1000_records_and_bodies_5_mb(
    client: Client, sandbox: Handle
) -> None:
    many = [person(str(n), X="1") for n in range(1001)]
    assert (await client.upload(*many[:1000]))["processed"] == 1000
    assert (await client.call("POST", "/1/upload", {"d": many}))[0] == 400
    assert (await client.call("POST", "/1/upload", {"d": []}))[0] == 400
    data = io.BytesIO(b"x" * 5_000_001)
    assert (await client.raw("POST", "/1/upload", data=data))[0] == 413
    assert rules(sandbox) == ["batch size", "batch size", "body too large"]


# Uploads -----------------------------------------------------------------------------------


async def test_the_references_body_is_stored_and_read_back(client: Client, sandbox: Handle) -> None:
    body = (
        '{"d":[{"identity":"c-42","type":"profile","profileData":{"Name":"Zoë Ångström",'
        '"Email":"zoe@example.org","Phone":"+4915112345678","Lists":{"$add":["News"]}}}]}'
    ).encode()
    assert len(body) == 162
    status, content, _ = await client.raw("POST", "/1/upload", data=body)
    assert (status, orjson.loads(content)) == (
        200,
        {"status": "success", "processed": 1, "unprocessed": []},
    )
    assert await client.record("c-42") == {
        "identity": "c-42",
        "email": "zoe@example.org",
        "name": "Zoë Ångström",
        "phone": 4915112345678,
        "profileData": {"Lists": ["News"]},
    }
    assert rules(sandbox) == []


async def test_an_upload_merges_and_counts_creates(client: Client, sandbox: Handle) -> None:
    await client.put("a", Email="a@x.test", City="Bonn", **{"MSG-email": False})
    await client.put("a", City="Köln", Age="33", Gender="F", DOB="$D_642945600")
    one = held(sandbox, "a")
    assert (one["created"], one["updated"], one["Email"]) == (1, 2, "a@x.test")
    assert one["properties"]["City"] == "Köln"
    assert one["flags"] == {"MSG-email": False}
    assert "MSG-email" not in orjson.dumps(await client.record("a")).decode()
    assert rules(sandbox) == []


async def test_operations_on_arrays_and_numbers(client: Client, sandbox: Handle) -> None:
    await client.put("a", Lists="one", Score=1, Gone="x")
    await client.put("a", Lists={"$add": ["two", "one"]}, Score={"$incr": 5})
    assert held(sandbox, "a")["Lists"] == ["one", "two"]
    await client.put("a", Lists={"$remove": ["one"]}, Score={"$decr": 2}, Gone={"$delete": True})
    assert held(sandbox, "a")["properties"] == {"Lists": ["two"], "Score": 4}
    await client.put("a", Lists={"$set": ["three"]})
    assert held(sandbox, "a")["Lists"] == ["three"]
    await client.put("a", Lists={"$remove": ["three"]})
    assert "Lists" not in held(sandbox, "a")["properties"]
    sandbox.set_limits(set_supported=False, delete_supported=False)
    await client.put("a", Lists={"$set": ["four"]}, Score={"$delete": True})
    assert held(sandbox, "a")["properties"] == {"Score": 4}
    assert rules(sandbox) == []


async def test_silent_losses_happen_and_are_recorded(client: Client, sandbox: Handle) -> None:
    await client.put("a", Lists={"$add": [f"l{n}" for n in range(101)]})
    assert held(sandbox, "a")["Lists"] == [f"l{n}" for n in range(1, 101)]
    await client.put(
        "b", **{"a.b": "x", "n" * 121: "x", "Long": "ä" * 300, "Empty": "", "No": None}
    )
    assert held(sandbox, "b")["properties"] == {"Long": "ä" * 256}
    assert sorted(rules(sandbox)) == [
        "array overflow",
        "empty value",
        "empty value",
        "property name",
        "property name",
        "value too long",
    ]


async def test_the_257th_property_name_is_dropped(client: Client, sandbox: Handle) -> None:
    await client.put("a", **{f"p{n}": "x" for n in range(256)})
    assert rules(sandbox) == []
    await client.put("a", p256="x", p0="y", Name="system keys are free")
    assert len(held(sandbox, "a")["properties"]) == 257
    assert rules(sandbox) == ["too many property names"]


@pytest.mark.parametrize(
    ("data", "code", "reason"),
    [
        ({"Email": "nope"}, 515, "Email is not valid"),
        ({"Phone": "0171"}, 516, "Phone is not valid"),
        ({"Employed": "yes"}, 517, "Employed needs to be Y/N"),
        ({"Education": "PhD"}, 518, "Education needs to be School/College/Graduate"),
        ({"Married": "x"}, 519, "Married needs to be Y/N"),
        ({"Age": "old"}, 520, "Age is invalid"),
        ({"Gender": "X"}, 514, "Gender is not valid"),
        ({"Age": "old", "Phone": "1", "Email": "e"}, 515, "Email is not valid"),
    ],
)
async def test_refusals_name_the_first_reason_and_the_record(
    client: Client, sandbox: Handle, data: dict[str, Any], code: int, reason: str
) -> None:
    answer = await client.upload(person("ok", X="1"), person("bad", **data))
    assert (answer["status"], answer["processed"]) == ("partial", 1)
    (refused,) = answer["unprocessed"]
    assert (refused["status"], refused["code"]) == ("fail", code)
    assert refused["error"] == f"Profile data is incorrect. {reason}.Skipped record number : 2"
    assert list(sandbox.snapshot()["profiles"]) == ["ok"]
    assert rules(sandbox) == []


async def test_the_echo_is_rewritten_and_all_refused_is_a_fail(
    client: Client, sandbox: Handle
) -> None:
    bad = person("a", Email="nope", Phone="+35922333232")
    bad["profileData"]["identity"] = 7
    answer = await client.upload({**bad, "ts": 1700000000})
    assert (answer["status"], answer["processed"]) == ("fail", 0)
    echo = answer["unprocessed"][0]["record"]
    assert echo["profileData"]["Phone"] == 35922333232
    assert echo["profileData"]["identity"] == "7"
    refused = await client.upload({**bad, "ts": 1700000000000})
    assert refused["unprocessed"][0]["code"] == 525


async def test_a_record_names_one_profile_and_is_one_of_two_kinds(
    client: Client, sandbox: Handle
) -> None:
    data = {"X": "1"}
    answer = await client.upload(
        {"type": "profile", "profileData": data},
        {"type": "profile", "identity": "a", "objectId": "b", "profileData": data},
        {"type": "person", "identity": "c", "profileData": data},
        {"type": "profile", "objectId": "guid-1", "profileData": data},
    )
    assert [each["code"] for each in answer["unprocessed"]] == [523, 523, 524]
    assert rules(sandbox) == ["identifier", "identifier", "record shape"]
    assert held(sandbox, "guid-1")["objectId"] == "guid-1"


async def test_what_a_careful_client_never_sends(client: Client, sandbox: Handle) -> None:
    await client.upload(
        person(" a ", X="1"),
        person("b", DOB="1990-05-17", When="$D_soon", **{"MSG-email": "false"}),
        person("b", X="1"),
        person("c", Nested={"a": 1}, Plain=["x"], Wrong={"$incr": "5"}, Delete={"$delete": 1}),
        {**person("d"), "identity": 5},
        {**person("e"), "extra": 1},
    )
    assert Counter(rules(sandbox)) == {
        "identifier": 2,
        "date": 2,
        "flag not boolean": 1,
        "twice in one batch": 1,
        "property value": 2,
        "operation": 2,
        "record shape": 1,
    }
    assert held(sandbox, "b")["flags"] == {}


async def test_dry_runs_check_and_store_nothing(client: Client, sandbox: Handle) -> None:
    answer = await client.upload(person("a", X="1"), person("b", Email="x"), query="?dryRun=1")
    assert answer["status"] == "partial"
    assert sandbox.snapshot()["profiles"] == {}
    assert (await client.upload(person("a", X="1"), query="?dryRun=0"))["processed"] == 1
    assert list(sandbox.snapshot()["profiles"]) == ["a"]


async def test_events_create_profiles_and_reserved_names_are_refused(
    client: Client, sandbox: Handle
) -> None:
    event = {"type": "event", "identity": "a", "evtName": "Contact Synced", "evtData": {}}
    reserved = {**event, "evtName": "Channel Unsubscribed"}
    answer = await client.upload(event, reserved, {**event, "evtName": ""}, {**event, "evtData": 1})
    assert [each["code"] for each in answer["unprocessed"]] == [513, 509, 512]
    assert held(sandbox, "a")["events"]["Contact Synced"]["count"] == 1
    assert held(sandbox, "a")["created"] == 1


# Reading -----------------------------------------------------------------------------------


async def test_a_profile_is_read_by_exactly_one_identifier(client: Client, sandbox: Handle) -> None:
    await client.put("c/1", Email="jo+tag@exämple.org")
    _, answer = await client.call("GET", "/1/profile.json?email=jo%2Btag%40ex%C3%A4mple.org")
    assert answer["record"]["identity"] == "c/1"
    assert (await client.record("c%2F1"))["email"] == "jo+tag@exämple.org"
    assert rules(sandbox) == []
    assert (await client.call("GET", "/1/profile.json?email=jo+tag%40ex%C3%A4mple.org"))[0] == 404
    assert (await client.call("GET", "/1/profile.json?email=a%40x&identity=a"))[0] == 400
    assert (await client.call("GET", "/1/profile.json"))[0] == 400
    assert rules(sandbox) == ["profile query"] * 3


async def test_absent_has_three_forms(client: Client, sandbox: Handle) -> None:
    ask = "/1/profile.json?identity=nobody"
    assert (await client.call("GET", ask))[0] == 404
    sandbox.set_limits(not_found="missing")
    assert await client.call("GET", ask) == (200, {"status": "success"})
    sandbox.set_limits(not_found="fail")
    status, answer = await client.call("GET", ask)
    assert (status, answer["status"]) == (200, "fail")


QUERY = {"event_name": "Contact Synced", "from": 20260101, "to": 20991231}


async def synced(client: Client, count: int) -> None:
    for n in range(count):
        event = {"type": "event", "identity": f"c{n}", "evtName": "Contact Synced", "evtData": {}}
        await client.upload(event)
        await client.put(f"c{n}", Lists={"$add": ["news" if n % 2 else "jobs"]})


async def pages(client: Client, path: str, body: Any, size: int) -> list[Any]:
    _, answer = await client.call("POST", f"{path}?batch_size={size}&events=false", body)
    records, cursor = [], answer["cursor"]
    while cursor:
        assert "%2B" in cursor
        _, page = await client.call("GET", f"{path}?cursor={cursor}")
        records += page.get("records", [])
        cursor = page.get("next_cursor")
    return records


@pytest.mark.parametrize("empty_page", [False, True])
async def test_profiles_are_paged_by_cursor(
    client: Client, sandbox: Handle, empty_page: bool
) -> None:
    await synced(client, 5)
    sandbox.set_limits(empty_page=empty_page)
    records = await pages(client, "/1/profiles.json", QUERY, 2)
    assert [each["identity"] for each in records] == ["c0", "c1", "c2", "c3", "c4"]
    assert "events" not in records[0]
    field = {"name": "Lists", "operator": "contains", "value": "news"}
    narrowed = {**QUERY, "common_profile_properties": {"profile_fields": [field]}}
    records = await pages(client, "/1/profiles.json", narrowed, 5000)
    assert [each["identity"] for each in records] == ["c1", "c3"]
    assert rules(sandbox) == []


async def test_cursors_are_taken_back_only_as_handed_out(client: Client, sandbox: Handle) -> None:
    await synced(client, 1)
    _, answer = await client.call("POST", "/1/profiles.json?batch_size=1", QUERY)
    cursor = answer["cursor"]
    for altered in (cursor.replace("%", "%25"), cursor + "x", ""):
        status, answer = await client.call("GET", f"/1/profiles.json?cursor={altered}")
        assert (status, answer["error"]) == (400, "Invalid cursor")
    assert (await client.call("GET", f"/1/events.json?cursor={cursor}"))[0] == 400
    assert rules(sandbox) == ["cursor"] * 4
    sandbox.set_limits(cursor_life=0.0)
    assert (await client.call("GET", f"/1/profiles.json?cursor={cursor}"))[0] == 400
    assert len(rules(sandbox)) == 4  # growing old is no breach


async def test_queries_need_an_event_unless_allowed_otherwise(
    client: Client, sandbox: Handle
) -> None:
    await client.put("a", Lists={"$add": ["news"]})
    field = {"name": "Lists", "operator": "exists"}
    eventless = {"common_profile_properties": {"profile_fields": [field]}}
    assert (await client.call("POST", "/1/profiles.json", eventless))[0] == 400
    assert rules(sandbox) == []
    sandbox.set_limits(eventless=True)
    assert len(await pages(client, "/1/profiles.json", eventless, 10)) == 1
    for wrong in ({**QUERY, "from": "20260101"}, {**QUERY, "to": 20250101}, {**QUERY, "to": 1}):
        assert (await client.call("POST", "/1/profiles.json", wrong))[0] == 400
    field["operator"] = "like"
    assert (await client.call("POST", "/1/profiles.json", eventless))[0] == 400
    assert (await client.call("POST", "/1/profiles.json?batch_size=5001", QUERY))[0] == 400
    assert rules(sandbox) == ["query"] * 4 + ["batch size"]


async def test_counts_come_at_once_or_later(client: Client, sandbox: Handle) -> None:
    await synced(client, 3)
    ask = "/1/counts/profiles.json"
    assert await client.call("POST", ask, QUERY) == (200, {"status": "success", "count": 3})
    sandbox.set_limits(counts_partial=True)
    _, answer = await client.call("POST", ask, QUERY)
    assert answer["status"] == "partial"
    _, answer = await client.call("GET", f"{ask}?req_id={answer['req_id']}")
    assert answer == {"status": "success", "count": 3}


async def test_reads_may_lag_writes(client: Client, sandbox: Handle) -> None:
    sandbox.set_limits(visible_after=0.3)
    await client.put("a", City="Bonn")
    assert await client.record("a") is None
    await asyncio.sleep(0.35)
    await client.put("a", City="Köln")
    assert (await client.record("a"))["profileData"] == {"City": "Bonn"}
    await asyncio.sleep(0.35)
    assert (await client.record("a"))["profileData"] == {"City": "Köln"}


# Marks, deletions, people ------------------------------------------------------------------


def mark(address: str, status: str) -> dict[str, Any]:
    return {"d": [{"type": "email", "value": address, "status": status}]}


async def test_subscribe_marks_the_address_for_every_profile(
    client: Client, sandbox: Handle
) -> None:
    await client.put("a", Email="Ann@x.test")
    _, answer = await client.call("POST", "/1/subscribe", mark("ann@X.test", "Unsubscribe"))
    assert answer == {"status": "success", "processed": 1, "unprocessed": []}
    await client.put("b", Email="ann@x.test")
    state = sandbox.snapshot()
    assert [each["mailable"] for each in state["profiles"].values()] == [False, False]
    assert state["duplicates"] == {"ann@x.test": ["a", "b"]}
    await client.call("POST", "/1/subscribe", mark("ann@x.test", "Resubscribe"))
    assert sandbox.state.mailable("a")
    assert sandbox.snapshot()["resubscribed"] == []  # nobody said no in the app
    assert rules(sandbox) == []


async def test_subscribe_is_exact(client: Client, sandbox: Handle) -> None:
    body = mark("a@x.test", "unsubscribe")
    assert (await client.call("POST", "/1/subscribe", body))[1]["status"] == "fail"
    body = mark("a@x.test", "Unsubscribe")
    body["d"] *= 2
    assert (await client.call("POST", "/1/subscribe", body))[1]["processed"] == 2
    body["d"] *= 501
    assert (await client.call("POST", "/1/subscribe", body))[0] == 400
    assert rules(sandbox) == ["subscribe", "twice in one batch", "batch size"]


async def test_deleting_is_by_identity_or_guid_and_repeatable(
    client: Client, sandbox: Handle
) -> None:
    await client.put("a", Email="a@x.test")
    path = "/1/delete/profiles.json"
    assert await client.call("POST", path, {"identity": ["a", "x"]}) == (200, {"status": "success"})
    assert await client.record("a") is None
    assert (await client.call("POST", path, {"identity": "a"}))[0] == 200
    assert rules(sandbox) == []
    assert (await client.call("POST", path, {"identity": ["a"], "guid": ["b"]}))[0] == 400
    too_many = {"identity": [str(n) for n in range(101)]}
    assert (await client.call("POST", path, too_many))[0] == 400
    assert rules(sandbox) == ["delete", "batch size"]
    sandbox.set_limits(delete_visible_after=0.3)
    await client.put("b", X="1")
    await client.call("POST", path, {"identity": "b"})
    assert (await client.record("b"))["identity"] == "b"
    await asyncio.sleep(0.35)
    assert await client.record("b") is None


async def test_merging_accounts_make_one_profile_of_two(client: Client, sandbox: Handle) -> None:
    sandbox.set_limits(merge_by_email=True)
    await client.put("a", Email="ann@x.test", City="Bonn")
    await client.put("b", Email="Ann@x.test", City="Köln")
    (one,) = sandbox.snapshot()["profiles"].values()
    assert one["identities"] == ["a", "b"]
    assert (await client.record("b"))["identity"] == "[a b]"
    await client.put("b", Email="new@x.test")
    assert held(sandbox, "a")["emails"] == ["ann@x.test", "new@x.test"]
    await client.call("POST", "/1/delete/profiles.json", {"identity": "b"})
    assert sandbox.snapshot()["profiles"] == {}


DAY = 1789997600  # 2026-09-21 13:33:20 UTC


async def test_what_people_do_is_learnt_from_events(client: Client, sandbox: Handle) -> None:
    await client.put("a", Email="a@x.test", City="Bonn")
    await client.put("b", Email="b@x.test")
    sandbox.act("unsubscribe", email="a@x.test", group="News", at=DAY)
    assert sandbox.state.mailable("a")
    sandbox.act("unsubscribe", email="a@x.test", reason="too many", at=DAY + 1)
    sandbox.act("bounce", identity="b", at=DAY + 86400)
    sandbox.act("unsubscribe_profile", identity="b", at=DAY + 2 * 86400)
    query = {"event_name": "Channel Unsubscribed", "from": 20260921, "to": 20260922}
    records = await pages(client, "/1/events.json", query, 2)
    assert [each["ts"] for each in records] == [20260921133320, 20260921133321, 20260922133320]
    assert records[0]["event_props"]["Group"] == "News"
    assert records[1]["event_props"]["Reason"] == "too many"
    assert "Type" not in records[1]["event_props"]
    assert records[2]["event_props"]["Type"] == "bounced"
    assert records[0]["profile"]["identity"] == "a"
    assert records[0]["profile"]["profileData"] == {"City": "Bonn"}
    assert not sandbox.state.mailable("a")
    assert held(sandbox, "b")["flags"] == {"MSG-email": False}
    sandbox.set_limits(zone_hours=-14)
    assert len(await pages(client, "/1/events.json", query, 10)) == 2


async def test_resubscribing_against_someones_will_is_seen(client: Client, sandbox: Handle) -> None:
    for name in "abcd":
        await client.put(name, Email=f"{name}@x.test")
    sandbox.act("unsubscribe", email="a@x.test")
    sandbox.act("unsubscribe_profile", identity="b")
    sandbox.act("unsubscribe_profile", identity="c")
    sandbox.act("unsubscribe", email="d@x.test")
    await client.put("a", City="Bonn", **{"MSG-email": True})
    assert sandbox.snapshot()["resubscribed"] == []  # the mark still holds
    await client.call("POST", "/1/subscribe", mark("a@x.test", "Resubscribe"))
    await client.put("b", **{"MSG-email": True})
    await client.call("POST", "/1/delete/profiles.json", {"identity": "c"})
    await client.put("c", Email="c@x.test")
    sandbox.act("resubscribe", email="d@x.test")
    await client.put("d", **{"MSG-email": True})
    said = [each["who"] for each in sandbox.snapshot()["resubscribed"]]
    assert said == ["address:a@x.test", "identity:b", "identity:c"]
    assert sandbox.snapshot()["creates"]["c"] == 2


async def test_people_may_edit_and_delete(client: Client, sandbox: Handle) -> None:
    await client.put("a", Email="a@x.test")
    sandbox.act("set_property", identity="a", name="City", value="Rom")
    assert held(sandbox, "a")["properties"] == {"City": "Rom"}
    sandbox.act("delete", email="a@x.test")
    assert sandbox.snapshot()["profiles"] == {}
    with pytest.raises(ValueError, match="no such profile"):
        sandbox.act("delete", email="a@x.test")


# Limits ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("path", "limit"), [("/1/upload", 15), ("/1/subscribe", 3)])
async def test_one_call_too_many_in_flight_is_429(
    client: Client, sandbox: Handle, path: str, limit: int
) -> None:
    sandbox.set_faults(latency_ms=[200, 200])

    async def one(number: int) -> int:
        row = person(str(number), X="1")
        body = {"d": [row]} if "upload" in path else mark(f"{number}@x.test", "Unsubscribe")
        return int((await client.call("POST", path, body))[0])

    assert await asyncio.gather(*map(one, range(limit))) == [200] * limit
    assert rules(sandbox) == []
    answers = await asyncio.gather(*map(one, range(limit + 1)))
    assert sorted(answers) == [200] * limit + [429]
    assert rules(sandbox) == ["too many (in flight)"]
    (said,) = sandbox.snapshot()["violations"]
    _, _, beside = said["detail"].partition(f"more than {limit}, beside ")
    assert [len(re.findall(r"^\d+ for 0\.\d+ s$", call)) for call in beside.split(", ")] == [
        1
    ] * limit
    name = "upload" if "upload" in path else "other"
    assert sandbox.snapshot()["in_flight_max"][name] == limit + 1


async def test_reads_and_cursors_share_one_meter(client: Client, sandbox: Handle) -> None:
    sandbox.set_limits(other_in_flight=1)
    sandbox.set_faults(latency_ms=[200, 200])
    answers = await asyncio.gather(
        client.call("GET", "/1/profile.json?identity=a"),
        client.call("POST", "/1/profiles.json", QUERY),
        client.put("a", X="1"),
    )
    assert sorted([answers[0][0], answers[1][0]]) in ([200, 429], [404, 429])


async def test_two_requests_in_flight_for_one_identity_are_a_breach(
    client: Client, sandbox: Handle
) -> None:
    sandbox.set_faults(latency_ms=[150, 150])
    await asyncio.gather(client.put("a", X="1"), client.put("b", X="1"))
    await client.put("a", X="2")
    assert rules(sandbox) == []
    await asyncio.gather(client.put("a", X="3"), client.put("a", X="4"))
    assert rules(sandbox) == ["two in flight"]


async def test_who_hung_up_may_send_again(client: Client, sandbox: Handle) -> None:
    sandbox.set_faults(latency_ms=[300, 300])
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.1):
            await client.put("a", X="1")
    sandbox.set_faults()
    await client.put("a", X="1")
    assert rules(sandbox) == []


async def test_a_rate_can_be_set(client: Client, sandbox: Handle) -> None:
    sandbox.set_limits(per_second=2)
    found = [(await client.raw("GET", "/1/profile.json?identity=a"))[0] for _ in range(3)]
    assert found == [404, 404, 429]
    assert rules(sandbox) == []  # it is not published


# Faults ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "applied"),
    [("cut_before", False), ("outage_close", False), ("cut_after", True), ("half_answer", True)],
)
async def test_lost_answers(client: Client, sandbox: Handle, kind: Kind, applied: bool) -> None:
    sandbox.next_fault(kind, path="/1/upload")
    assert await client.record("a") is None  # another path is spared
    with pytest.raises(aiohttp.ClientError):
        await client.put("a", X="1")
    assert ("a" in sandbox.snapshot()["profiles"]) is applied
    assert (await client.put("a", X="1"))["status"] == "success"
    assert sandbox.snapshot()["faults"] == {kind: 1}
    assert rules(sandbox) == []


@pytest.mark.parametrize(
    ("kind", "status", "readable", "applied"),
    [
        ("error", 502, True, False),
        ("error_html", 502, False, False),
        ("error_after", 502, True, True),
        ("rate_429", 429, True, False),
        ("malformed", 400, True, False),
        ("outage_503", 503, True, False),
        ("revoked", 401, True, False),
        ("html", 200, False, True),
        ("garbage", 200, False, True),
        ("truncated_json", 200, False, True),
    ],
)
async def test_wrong_answers(
    client: Client, sandbox: Handle, kind: Kind, status: int, readable: bool, applied: bool
) -> None:
    sandbox.next_fault(kind, status=502, retry_after=2)
    body = orjson.dumps({"d": [person("a", X="1")]})
    found, content, headers = await client.raw("POST", "/1/upload", data=body)
    assert found == status
    assert ("Retry-After" in headers) == (kind.startswith(("error", "rate", "outage")))
    if readable:
        assert orjson.loads(content)["code"] == status
    else:
        with pytest.raises(orjson.JSONDecodeError):
            orjson.loads(content)
    assert ("a" in sandbox.snapshot()["profiles"]) is applied
    assert rules(sandbox) == []


async def test_lasting_faults_and_a_429_without_advice(client: Client, sandbox: Handle) -> None:
    sandbox.set_faults(outage="503")
    assert (await client.raw("GET", "/v1/connect?partner=syncd"))[0] == 503
    sandbox.set_faults(revoked=True, paths=["/v1/connect"])
    assert (await client.raw("GET", "/v1/connect?partner=syncd"))[0] == 400
    assert (await client.raw("GET", "/1/profile.json?identity=a"))[0] == 404
    sandbox.set_faults(rate_429=1.0)
    status, _, headers = await client.raw("GET", "/1/profile.json?identity=a")
    assert status == 429
    assert "Retry-After" not in headers
    sandbox.set_faults(outage=True)
    with pytest.raises(aiohttp.ClientError):
        await client.raw("GET", "/v1/connect?partner=syncd")


async def test_one_seed_gives_one_sequence_of_faults(client: Client, sandbox: Handle) -> None:
    seen = []
    for number in range(60):
        if number % 30 == 0:
            sandbox.set_faults(seed=7, error_rate=0.3, rate_429=0.3, html=0.2)
        seen.append((await client.raw("GET", "/1/profile.json?identity=a"))[0])
    assert seen[:30] == seen[30:]
    assert len(set(seen)) > 3


async def test_a_failing_request_is_still_checked(client: Client, sandbox: Handle) -> None:
    sandbox.next_fault("error")
    body = {"d": [person("a", DOB="1990-05-17")]}
    assert (await client.call("POST", "/1/upload", body))[0] == 500
    assert rules(sandbox) == ["date"]


# Administration ----------------------------------------------------------------------------


async def post(client: Client, path: str, body: Any) -> tuple[int, Any]:
    data = orjson.dumps(body)
    status, content, _ = await client.raw("POST", path, data=data, headers={})
    return status, orjson.loads(content)


async def test_admin_endpoints_need_nothing_and_never_fail(client: Client, sandbox: Handle) -> None:
    assert (await post(client, "/_faults", {"outage": True, "seed": 3}))[0] == 200
    assert (await post(client, "/_limits", {"upload_in_flight": 2}))[0] == 200
    status, content, _ = await client.raw("GET", "/_state", headers={})
    state = orjson.loads(content)
    assert (status, state["provider"], state["requests"]) == (200, "clevertap", 0)
    assert sandbox.state.limits.upload_in_flight == 2
    assert (await post(client, "/_reset", {"faults": True, "limits": True}))[0] == 200
    assert sandbox.state.limits.upload_in_flight == 15
    await client.put("a", Email="a@x.test")
    assert (await post(client, "/_act", {"do": "complain", "email": "a@x.test"}))[0] == 200
    assert held(sandbox, "a")["mailable"] is False
    assert sandbox.snapshot()["address_marks"]["a@x.test"]["why"] == "complain"
    _, content, _ = await client.raw("GET", "/_state?profiles=0", headers={})
    assert orjson.loads(content)["profiles"] == 1


@pytest.mark.parametrize("path", ["/_faults", "/_limits", "/_reset", "/_act"])
async def test_unknown_keys_are_named(client: Client, sandbox: Handle, path: str) -> None:
    body = {"wibble": 1, **({"do": "delete"} if path == "/_act" else {})}
    status, answer = await post(client, path, body)
    assert (status, answer["error"]) == (400, "unknown key: wibble")
    assert (await post(client, path, []))[0] == 400


async def test_wrong_types_are_named_too(client: Client, sandbox: Handle) -> None:
    status, answer = await post(client, "/_limits", {"upload_in_flight": "many"})
    assert status == 400
    assert answer["error"].startswith("upload_in_flight: ")
    status, answer = await post(client, "/_faults", {"error_rate": 2})
    assert status == 400
    assert answer["error"].startswith("error_rate: ")


async def test_the_history_has_every_write_and_refusal_in_order(
    client: Client, sandbox: Handle
) -> None:
    await client.put("a", City="Bonn")
    await client.put("b", Email="nope")
    sandbox.next_fault("error")
    await client.call("POST", "/1/upload", {"d": [person("a", City="Köln")]})
    await client.put("a", City="Rom")
    await client.call("POST", "/1/delete/profiles.json", {"identity": "a"})
    _, content, _ = await client.raw("GET", "/_history", headers={})
    history = orjson.loads(content)
    assert [each["what"] for each in history] == [
        "profile",
        "refused",
        "rejected",
        "profile",
        "delete",
    ]
    assert [each["request"] for each in history] == [1, 2, 3, 4, 5]
    assert (history[0]["created"], history[3]["created"]) == (True, False)
    assert history[3]["wrote"] == {"City": "Rom"}
    assert sandbox.snapshot()["history"] == 5
    _, content, _ = await client.raw("GET", "/_history?identity=b", headers={})
    assert len(orjson.loads(content)) == 1


async def test_reset_forgets_data_only(client: Client, sandbox: Handle) -> None:
    await client.put("a", **{"a.b": "1"})
    sandbox.set_limits(not_found="missing")
    sandbox.reset()
    state = sandbox.snapshot()
    assert (state["profiles"], state["requests"], state["violations_count"]) == ({}, 0, 0)
    assert sandbox.state.limits.not_found == "missing"


async def test_run_serves_each_at_its_place_and_names_a_port_in_use(
    sandbox: Handle, capsys: pytest.CaptureFixture[str]
) -> None:
    assert tuple(sorted(PROVIDERS)) == PROVIDERS
    assert "clevertap" in available()
    with pytest.raises(OSError, match=f"port {sandbox.port} "):
        async with serve("clevertap", sandbox.port):
            pass
    base = free_ports(len(PROVIDERS))
    running = asyncio.create_task(run(base))
    printed = ""
    async with asyncio.timeout(60), aiohttp.ClientSession() as http:
        while printed.count("\n") < len(PROVIDERS):
            assert not running.done(), running.exception()
            await asyncio.sleep(0.01)
            printed += capsys.readouterr().out
        for place, name in enumerate(PROVIDERS):
            async with http.get(f"http://127.0.0.1:{base + place}/_state") as answer:
                assert (await answer.json())["provider"] == name
    assert f"127.0.0.1:{base + 1}" in printed
    assert "JDG-PAS-CODE" in printed
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    with pytest.raises(ValueError, match="no sandbox for 'nobody'"):
        async with serve("nobody"):
            pass


async def test_a_thousand_records_cost_little(client: Client, sandbox: Handle) -> None:
    """A sandbox that is slow would hide how fast the client is (25 ms on the build machine)."""
    rows = [
        person(
            f"c{n}",
            Name="Ann Lee",
            Email=f"a{n}@x.test",
            Phone="+4915112345678",
            City="Bonn",
            Lists={"$add": ["1", "2"]},
            **{"First Name": "Ann", "MSG-email": True},
        )
        for n in range(1000)
    ]
    body = orjson.dumps({"d": rows})
    started = time.process_time()
    await client.raw("POST", "/1/upload", data=body)
    assert time.process_time() - started < 0.25
    assert rules(sandbox) == []
