"""What an outcome comes to, where no database is needed to see it."""

from __future__ import annotations

import pytest

from syncd.decide import Entry
from syncd.model import Change, OptedOut, Person, Verb
from syncd.outcomes import settled


def _entry(subscribed: bool, state: str | None) -> Entry:
    want = Person("ann@x.test", {}, {}, subscribed)
    change = Change("1", Verb.PUT, want, None, None, False, False)
    return Entry("1", change, None, "ann@x.test", 1, 0, state, (), subscribed)


@pytest.mark.parametrize("state", [None, "here", "absent"])
def test_a_no_where_no_mail_was_wanted_is_in_step_and_not_noted_again(state: str | None) -> None:
    """Noting it would plan the contact anew, for ever."""
    done = settled(_entry(False, state), OptedOut())

    assert (done.state, done.opt_out) == ("done", None)
    assert done.mirror is not None


def test_a_no_where_mail_was_wanted_is_noted() -> None:
    done = settled(_entry(True, "here"), OptedOut())

    assert done.opt_out == OptedOut()


def test_a_no_that_a_look_up_finds_ends_no_doubt() -> None:
    """What an earlier try has done to lists and fields is known no better than before."""
    entry = _entry(True, "here")
    done = settled(entry._replace(change=entry.change._replace(doubtful=True)), OptedOut())

    assert (done.state, done.doubtful, done.opt_out) == ("due", True, OptedOut())
