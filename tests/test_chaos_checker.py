"""The campaign's checker finds what it is there for: a made-up history for each kind of finding."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from chaos.checker import judge
from chaos.evidence import At, Became, Evidence, Finding, No, Row, Sent, Version, Wish
from chaos.gather import became, noes, requests
from chaos.shapes import Record, record

ANN, BOB = "ann@x.test", "bob@x.test"


def held(email: str = ANN, version: int | None = 1, **more: Any) -> Record:
    facts = {"fields": {"last": f"V{version}"}, "lists": frozenset({"7"}), "mailable": True}
    return Record(email, version, **{**facts, **more})


def wish(contact: str = "ann", email: str = ANN, version: int = 1, **more: Any) -> Wish:
    facts = {"fields": {"last": f"V{version}"}, "lists": frozenset({"7"}), "mailed": True}
    return Wish(contact, email, **{**facts, **more})


def wrote(at: float, version: int, key: str = "r1", email: str = ANN, **more: Any) -> Became:
    request = more.pop("request", int(at))
    began = more.pop("began", at - 0.1)
    return Became(request, began, at, key, held(email, version, **more))


def gone(at: float, key: str = "r1") -> Became:
    return Became(int(at), at - 0.1, at, key, None)


def shop(*history: Became, **more: Any) -> At:
    sent = [Sent(one.request, one.began, one.at) for one in history if one.request]
    facts = {"requests": sent, "became": history, "held": {"r1": held()}, "wishes": [wish()]}
    return At("acme", **{**facts, **more})


SOURCE = [Version("ann", 1.0, ANN, 1), Version("ann", 10.0, ANN, 2), Version("bob", 1.0, BOB, 3)]
GOOD = shop(wrote(2, 1), wrote(12, 2), held={"r1": held(version=2)}, wishes=[wish(version=2)])


def found(*shops: At, **more: Any) -> Sequence[Finding]:
    findings, _ = judge(Evidence(shops, **{"versions": SOURCE, **more}))
    return findings


def kinds(*shops: At, **more: Any) -> set[str]:
    return {one.kind for one in found(*shops, **more)}


def residues(at: At, **more: Any) -> dict[str, int]:
    _, counted = judge(Evidence([at], **{"versions": SOURCE, **more}))
    return dict(counted)


def test_a_good_history_has_no_findings() -> None:
    assert found(GOOD) == []


# ── Older after newer ───────────────────────────────────────────────────────────────────────


def test_older_data_after_newer_are_stale_in_the_same_record_or_another() -> None:
    end = {"held": {"r1": held(version=2)}, "wishes": [wish(version=2)]}
    again = wrote(15, 2)
    assert kinds(shop(wrote(12, 2), wrote(13, 1), again, **end)) == {"stale"}
    assert kinds(shop(wrote(12, 2), wrote(13, 1, "r2"), gone(14, "r2"), **end)) == {"stale"}


def test_a_list_that_somebody_has_left_there_may_be_missing_and_no_other() -> None:
    less: dict[str, Any] = {"lists": frozenset()}
    end = {"held": {"r1": held(version=2, **less)}, "wishes": [wish(version=2)]}
    history = (wrote(2, 1), wrote(12, 2, **less))
    assert kinds(shop(*history, **end)) == {"differs"}
    assert found(shop(*history, **end, left=frozenset({("r1", "7")}))) == []
    assert kinds(shop(*history, **end, left=frozenset({("r1", "8")}))) == {"differs"}


def test_a_record_that_keeps_what_it_had_is_not_stale() -> None:
    """Its lists are emptied after another one was given newer data."""
    old = [wrote(2, 1, "r0", "old@x.test"), wrote(12, 2)]
    left = wrote(13, 1, "r0", "old@x.test", lists=frozenset(), mailable=False)
    ends = {"r0": left.now, "r1": held(version=2)}
    assert found(shop(*old, left, held=ends, wishes=[wish(version=2)])) == []


def test_data_that_were_never_committed_are_found() -> None:
    assert kinds(shop(wrote(2, 1), wrote(12, 99), wrote(13, 2))) >= {"unknown data"}


def test_what_a_process_sends_just_after_it_woke_is_a_residue_and_later_is_not() -> None:
    history = shop(wrote(12, 2), wrote(13, 1), wrote(15, 2), held={"r1": held(version=2)},
                   wishes=[wish(version=2)])  # fmt: skip
    assert found(history, stops=[(8.0, 12.5)]) == []
    assert sum(residues(history, stops=[(8.0, 12.5)]).values()) == 1
    assert kinds(history, stops=[(2.0, 6.0)]) == {"stale"}


def test_what_is_applied_after_the_request_timeout_is_a_residue() -> None:
    late = wrote(16, 1, began=12.9)
    history = shop(wrote(12, 2), late, wrote(18, 2), held={"r1": held(version=2)},
                   wishes=[wish(version=2)])  # fmt: skip
    assert found(history, timeout=3.0) == []
    assert kinds(history, timeout=4.0) == {"stale"}


# ── Noes ────────────────────────────────────────────────────────────────────────────────────

NO = No("acme", 5.0, ANN, 1)


def turned_on(at: float) -> At:
    off = Became(0, 5.0, 5.0, "r1", held(mailable=False))
    return shop(wrote(2, 1), off, wrote(at, 1), wishes=[])


def test_mail_turned_on_after_a_no_is_a_resubscription() -> None:
    assert {"resubscribed", "against a no"} <= kinds(turned_on(20), noes=[NO])


def test_newer_consent_ends_a_no_and_older_does_not() -> None:
    newer = [*SOURCE, Version("ann", 8.0, ANN, 4, consented=7.5)]
    assert not kinds(turned_on(20), noes=[NO], versions=newer) & {"resubscribed", "against a no"}
    older = [*SOURCE, Version("ann", 8.0, ANN, 4, consented=4.0)]
    assert {"resubscribed", "against a no"} <= kinds(turned_on(20), noes=[NO], versions=older)
    too_late = [*SOURCE, Version("ann", 30.0, ANN, 4, consented=29.0)]
    assert "resubscribed" in kinds(turned_on(20), noes=[NO], versions=too_late)


def test_a_no_within_our_own_request_is_a_residue() -> None:
    told = residues(turned_on(5.5), noes=[NO], timeout=2.0)
    assert told == {"resubscribed: the no came within our own request": 1}
    assert not kinds(turned_on(5.5), noes=[NO], timeout=2.0) & {"resubscribed", "against a no"}


def test_a_no_counts_at_the_other_shops_too() -> None:
    other = replace(GOOD, name="other")
    assert kinds(other, noes=[NO]) == {"against a no"}


@pytest.mark.parametrize("no", [replace(NO, silent=True), replace(NO, version=3),
                                replace(NO, version=None)])  # fmt: skip
def test_a_no_that_nobody_can_know_is_counted(no: No) -> None:
    """The provider cannot tell; or the record was another contact's than the address."""
    assert not kinds(turned_on(20), noes=[no]) & {"resubscribed", "against a no"}
    assert sum(residues(turned_on(20), noes=[no]).values()) == 1


# ── In the end ──────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "end",
    [
        {"held": {}},
        {"held": {"r1": held(version=2)}},
        {"held": {"r1": held(lists=frozenset({"7", "8"}))}},
        {"held": {"r1": held(mailable=False)}},
        {"wishes": [wish(mailed=False)]},
        {"wishes": []},
        {"list_names": {"7": ("Old", "New")}},
    ],
)
def test_whatever_differs_in_the_end_is_found(end: dict[str, Any]) -> None:
    assert kinds(shop(wrote(2, 1), **end)) == {"differs"}


def test_who_is_refused_stays_where_he_was_whoever_has_that_address_now() -> None:
    there = {"r1": held(), "r2": held(BOB, 3)}
    wanted = [wish("ann", ANN, mailed=False), wish("bob", BOB, 3)]
    assert kinds(shop(wrote(2, 1), held=there, wishes=wanted)) == {"differs"}
    stuck = shop(wrote(2, 1), held=there, wishes=wanted, stuck=frozenset({ANN}))
    assert found(stuck) == []


def test_two_records_of_one_person_are_found() -> None:
    two = {"r1": held(), "r2": held()}
    assert "double" in kinds(shop(wrote(2, 1), held=two))
    assert kinds(replace(GOOD, doubles=["ann"])) == {"double"}


def test_who_is_listed_as_not_to_be_mailed_may_be_missing_but_not_wrong() -> None:
    listed = {"not_mailed": frozenset({"ann"})}
    assert found(shop(wrote(2, 1), held={"r1": held(mailable=False)}, **listed)) == []
    assert kinds(shop(wrote(2, 1), held={"r1": held(version=2)}, **listed)) == {"differs"}


# ── Limits ──────────────────────────────────────────────────────────────────────────────────


def test_breaches_of_limits_are_found() -> None:
    busy = [Sent(n, 100 + n / 100, 100 + n / 100) for n in range(1, 400)]
    assert kinds(replace(GOOD, requests=busy, per_second=30.0)) == {"rate"}
    even = [Sent(n, 100 + n / 30, 100 + n / 30) for n in range(1, 400)]
    assert found(replace(GOOD, requests=even, per_second=30.0)) == []
    crowded = replace(GOOD, in_flight={"api": 2}, in_flight_max={"api": 3})
    assert kinds(crowded) == {"in flight"}
    assert kinds(crowded, stops=[(1.0, 9.0)]) == set()
    assert kinds(replace(crowded, in_flight_max={"api": 4}), stops=[(1.0, 9.0)]) == {"in flight"}
    assert kinds(replace(GOOD, per_day=1)) == {"quota"}
    assert kinds(replace(GOOD, per_day=1, per_day_until=0.0)) == set()
    midnight = [Sent(n, 86400 + t, 86400 + t) for n, t in enumerate((-2, -1, 1, 2))]
    assert kinds(replace(GOOD, requests=midnight, per_day=2)) == set()
    assert kinds(replace(GOOD, requests=midnight, per_day=1)) == {"quota"}
    assert kinds(replace(GOOD, violations=[{"rule": "r", "detail": "d"}])) == {"violation"}
    race = {"rule": "unknown interest", "detail": "List 7"}
    assert kinds(replace(GOOD, violations=[race])) == set()
    assert sum(residues(replace(GOOD, violations=[race])).values()) == 1


def test_a_no_that_crosses_the_persons_own_is_no_finding() -> None:
    twice = {"rule": "opted out twice", "detail": "r1", "at": 14.0, "request": 3}
    theirs = wrote(13, 2, request=0, mailable=False)
    ours = replace(GOOD, became=[*GOOD.became, wrote(13, 2, mailable=False)])
    assert "violation" in kinds(replace(ours, violations=[twice]))
    crossed = replace(GOOD, became=[*GOOD.became, theirs], violations=[twice])
    assert "violation" not in kinds(crossed)
    assert "violation" in kinds(replace(crossed, violations=[{**twice, "at": 23.0}]))


# ── The program and its database ────────────────────────────────────────────────────────────


def test_who_had_the_address_of_somebody_erased_may_be_taken_for_the_same_person() -> None:
    rows = [Row("acme", "bob", "rejected", "was erased on request 7 and is still in the source")]
    assert kinds(GOOD, journal=rows) == {"journal"}
    assert kinds(GOOD, journal=rows, erased=frozenset({"ann"})) == {"journal"}
    met = [*SOURCE, Version("bob", 20.0, ANN, 4)]
    assert "journal" not in kinds(GOOD, journal=rows, versions=met, erased=frozenset({"ann"}))
    brought = frozenset({("bob", ANN)})  # by an exchange of records
    assert "journal" not in kinds(GOOD, journal=rows, erased=frozenset({"ann"}), known_at=brought)


def test_who_may_be_taken_for_somebody_erased_is_not_missed_while_that_lasts() -> None:
    nobody = replace(GOOD, held={})
    asked = {"erased": frozenset({"bob"}), "known_at": frozenset({("ann", BOB)})}
    assert kinds(nobody, **asked) == {"differs"}
    assert kinds(nobody, **asked, erasing=frozenset({"ann"})) == set()
    assert kinds(nobody, erasing=frozenset({"ann"})) == {"differs"}


def test_what_is_left_must_be_explained() -> None:
    def left(state: str, why: str) -> set[str]:
        return kinds(GOOD, journal=[Row("acme", "ann", state, why)])

    assert left("due", "") == {"journal"}
    assert left("rejected", "bad name") == {"journal"}
    assert left("rejected", "the person opted out there") == set()
    assert kinds(GOOD, unsettled="a row") == {"unsettled"}


def test_an_address_that_is_taken_by_a_record_that_is_off_explains_a_refusal() -> None:
    taken = Row("acme", "bob", "rejected", "list l1: Email address already exists")
    wants = [*GOOD.wishes, wish("bob", "b@x.test", 9)]
    off = {"r2": held("b@x.test", 1, mailable=False), **GOOD.held}
    assert kinds(replace(GOOD, wishes=wants, held=off), journal=[taken]) == set()
    assert kinds(replace(GOOD, wishes=wants), journal=[taken]) == {"journal"}
    before = replace(GOOD, wishes=wants, held={"r3": held("old@x.test", 9), **off})
    moved = [Version("bob", 1.0, "old@x.test", 9), Version("bob", 2.0, "b@x.test", 10)]
    assert kinds(before, journal=[taken], versions=[*SOURCE, *moved]) == set()
    assert kinds(before, journal=[taken]) == {"differs"}


def test_a_no_at_a_record_that_is_off_already_is_told_by_some_providers_only() -> None:
    now: dict[str, Any] = {
        "email": ANN, "Email": ANN, "fields": {"lastname": "V5", "email": ANN}, "lists": [],
        "interests": [], "removed": None, "properties": {}, "Lists": [],
    }  # fmt: skip
    for provider, off in (("copernica", True), ("clevercampaign", True), ("clevertap", False)):
        for mailable in (True, False):
            told = [
                {"what": "record", "at": 1.0, "record": "9", "now": {**now, "mailable": mailable}},
                {"what": "act", "at": 2.0, "do": "unsubscribe", "email": ANN},
            ]
            (no,) = noes(provider, told, {})
            assert no.silent == (off and not mailable)
            (no,) = noes(provider, told, {(provider, ANN): 3.0})  # or in doubt
            assert no.silent == off
            (no,) = noes(provider, told, {(provider, ANN): 1.5, ("other", ANN): 3.0})
            assert no.silent == (off and not mailable)


def test_what_is_said_is_read() -> None:
    line = '{"event":"x"}\n'
    assert found(GOOD, logs={"w": line}, secrets=["hush-hush"]) == []
    assert kinds(GOOD, logs={"w": f'{{"event":"{ANN}"}}\n'}) == {"leak"}
    assert kinds(GOOD, logs={"w": '{"event":"hush-hush"}\n'}, secrets=["hush-hush"]) == {"leak"}
    assert kinds(GOOD, server_log="x hush-hush", secrets=["hush-hush"]) == {"leak"}
    assert kinds(GOOD, logs={"w": '{"exception":"Traceback (most"}\n'}) == {"traceback"}
    assert kinds(GOOD, logs={"w": "hello\n"}) == {"log"}
    assert found(GOOD, logs={"w": line + '{"cut off by a ki'}) == []
    assert kinds(GOOD, server_log="ERROR:  deadlock detected\nDETAIL: …") == {"deadlock"}
    assert kinds(GOOD, deaths=["one ended"]) == {"died"}


# ── Reading histories ───────────────────────────────────────────────────────────────────────


def test_the_five_shapes_of_a_record() -> None:
    told: dict[str, dict[str, Any]] = {
        "clevercampaign": {"email": ANN, "fields": {"lastname": "V5"}, "lists": ["A"]},
        "clevertap": {"Email": "Ann@x.test", "properties": {"Last Name": "V5"}, "Lists": ["A"]},
        "constantcontact": {"email": ANN, "fields": {"LastName": "V5"}, "lists": ["A"]},
        "copernica": {"fields": {"email": ANN, "last_name": "V5", "list_A": "1", "list_B": "0"},
                      "interests": [], "removed": None},
        "redcappi": {"email": ANN, "fields": {"last_name": "V5"}, "lists": ["A"]},
    }  # fmt: skip
    for provider, one in told.items():
        made = record(provider, "1", {**one, "mailable": True})
        assert made is not None
        assert (made.email, made.version, made.mailable) == (ANN, 5, True), provider
        assert {name.removeprefix("list_") for name in made.lists} == {"A"}, provider
    assert record("copernica", "1", {**told["copernica"], "removed": "now"}) is None
    assert record("clevertap", "syncd-canary-1", told["clevertap"]) is None
    assert record("clevertap", "1", None) is None


def test_a_sandbox_history_becomes_requests_and_records() -> None:
    now = {"email": ANN, "fields": {"last_name": "V5"}, "lists": [], "mailable": True}
    told = [
        {"what": "request", "request": 1, "began": 1.0, "at": 1.2, "path": "/x", "alive": False},
        {"what": "record", "request": 1, "began": 1.0, "at": 1.2, "record": "9", "now": now},
        {"what": "request", "request": 0, "began": 2.0, "at": 2.0},
        {"what": "record", "request": 0, "began": 2.0, "at": 2.0, "record": "9", "now": None},
    ]
    assert requests(told) == [Sent(1, 1.0, 1.2, "/x", False)]
    first, second = became("redcappi", told)
    assert (first.key, first.now and first.now.version, second.now) == ("9", 5, None)
