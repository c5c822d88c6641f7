"""Whose record is it, where records tell our ids: never by an address against what they say."""

from __future__ import annotations

from typing import Any

import pytest

from syncd.matching import Known, Matcher, Mirrored, Tried
from syncd.model import Seen


def matcher() -> Matcher:
    def remembered(remote: Any, list_id: str | None, seen: Seen) -> Any:
        return {**(remote or {}), "id": seen.remote_id}

    return Matcher("", None, remembered, {})


def known(*rows: Mirrored, holders: dict[str, str] | None = None, **tried: Tried) -> Known:
    return Known({}, {}, {row.contact_id: row for row in rows}, tried, holders or {})


def here(contact_id: str, email: str, number: str) -> Mirrored:
    return Mirrored(contact_id, email, "here", {"id": number}, (), True, True)


def test_a_record_that_bears_another_id_is_not_taken_for_its_address() -> None:
    facts = known(here("new", "a@x.org", "9"), holders={"a@x.org": "new"})
    stale = Seen("5", "a@x.org", False, "old")

    done = matcher().match([stale, Seen("9", "a@x.org", True, "new")], facts)

    assert done.owners == {"9": "new"}
    assert (done.notices, done.doubles) == ([], {})


def test_nor_for_the_address_that_a_lost_request_was_sent_to() -> None:
    lost = Tried("new", "a@x.org", "due", True, False)
    done = matcher().match([Seen("5", "a@x.org", True, "old")], known(new=lost))
    assert done.owners == {}
    done = matcher().match([Seen("5", "a@x.org", True, "new")], known(new=lost))
    assert done.owners == {"5": "new"}


def test_a_record_without_an_id_is_matched_by_its_address() -> None:
    done = matcher().match([Seen("5", "A@x.org")], known(holders={"a@x.org": "new"}))
    assert done.owners == {"5": "new"}
    assert done.rows["new"].remote == {"id": "5"}


def test_of_doubles_the_first_is_kept_and_the_others_are_named() -> None:
    records = [Seen(one, "a@x.org", True) for one in ("5", "6", "7")]
    done = matcher().match(records, known(holders={"a@x.org": "new"}))
    assert done.owners == {"5": "new"}
    assert done.doubles == {"6": "5", "7": "5"}


@pytest.mark.parametrize("prior", [{}, {"6": "new"}])
def test_of_doubles_the_one_that_is_known_is_kept_wherever_it_stands(prior: dict[str, str]) -> None:
    records = [Seen(one, "a@x.org", one != "5") for one in ("5", "6")]
    facts = known(here("new", "a@x.org", "6"))
    facts.prior = prior
    done = matcher().match(records, facts)
    assert (done.owners, done.doubles) == ({"6": "new"}, {"5": "6"})
    assert done.notices == []


def test_a_record_that_another_add_took_up_is_not_whoever_left_it() -> None:
    """ann has another address, and no list any more; bob was put where she had been, and the
    provider put him on her record. Else he would be taken out of his lists as if he were her."""
    ann = Mirrored("ann", "new@x.org", "absent", {"id": "5"}, (), True, True)
    facts = known(ann, here("bob", "a@x.org", "5"))
    facts = Known({"5": "ann"}, {}, facts.mirror, {}, {"a@x.org": "bob"})
    assert matcher().match([Seen("5", "a@x.org", True)], facts).owners == {"5": "bob"}
    alone = Known({"5": "ann"}, {}, {"ann": ann}, {}, {})
    assert matcher().match([Seen("5", "a@x.org", True)], alone).owners == {"5": "ann"}


def test_a_lost_removal_has_left_it_in_the_other_lists_too() -> None:
    """A scan of one list tells nothing of the others, of which the mirror knows."""
    lists = Matcher("a", "101", lambda remote, _list, _seen: remote or {}, {"101": "a", "102": "b"})
    ann = Mirrored("ann", "ann@x.org", "withdrawn", {"id": "5"}, ("a", "b"), False, True)
    tried = Tried("ann", "ann@x.org", "due", True, False)

    done = lists.match([Seen("5", "ann@x.org", lists=["101"])], known(ann, ann=tried))

    assert (done.rows["ann"].state, done.rows["ann"].lists) == ("adopted", ["a", "b"])
