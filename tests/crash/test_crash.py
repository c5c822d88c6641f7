"""Die, or lose the database, at any write: everybody is at the provider once, as the source says.

A third of the cases; SYNCD_TEST_CRASHES=all takes every one (`python -m tests.crash`).
"""

from __future__ import annotations

import pytest

from .campaign import attack, everything, played
from .kinds import CHOSEN, KINDS
from .points import writing
from .script import STAGES
from .world import world

BY_A_PERSON = {
    "apply.keep_destination", "apply.keep_source", "ask.command", "ask.withdraw_command",
    "control.pause", "remove.remove", "secret.keep", "secret.keep_first", "secret.remove",
    "secret.reseal",
}  # fmt: skip
"""Of commands that a person gives and sees fail: each is one transaction, and given again."""

BY_AN_ACCIDENT = {
    "absence.hold": "many vanish at once",
    "absence.leave": "somebody has left a list, where the account is read as a whole",
    "absence.leave_lists": "somebody vanishes from one list of several",
    "app.put_back_command": "a command comes before the flow that it is for",
    "audit.adopt": "an audit finds a stranger's record",
    "audit.miss": "an audit misses somebody",
    "control.halt": "the provider refuses the credential",
    "journal.claim_again": "a batch is unfit to be sent whole",
    "journal.forget_mirror": "a row that lost its contact and its record is dropped",
    "journal.opt_out": "a push is answered with a no",
    "journal.refuse": "an address is none",
    "journal.soften": "a plan is discarded while its row is in flight",
    "journal.unknown_mirror": "an answer is lost",
    "journal.unsure": "an answer is lost",
    "lists.begun_anew": "a list is gone at the provider",
    "lists.forget": "a list is gone at the source, and there",
    "meter.hold_off": "the provider says to wait",
    "plan.doubt_everything": "the database was restored",
    "plan.drop_changes": "too many changes for the feed",
    "plan.owe_full": "a TRUNCATE",
    "plan.set_generation": "the mapping is changed",
    "reading.fail": "a list goes while it is read",
    "reading.judged": "a worker died at the end of a scan",
    "reading.give_up": "a list is written to that was read in part",
    "window.leave_out": "an address is taken while a window is read",
}
"""What takes a mishap of another kind: `tests/fuzz` has those, and dies at any instant."""

OTHERS = {
    "addresses.note_gone": "tests/races/test_races_address.py",
    "addresses.part": "tests/races/test_races_address.py",
    "erasure.remember_stranger": "tests/test_erasure.py",
    "erasure.shared": "tests/test_erasure.py",
    "journal.doubt_before": "tests/test_chaos_found.py",
    "journal.part": "tests/test_chaos_found.py",
    "journal.try_at": "tests/races/test_races_address.py",
    "journal.unsaid": "tests/test_chaos_found.py",
    "lists.refused_for": "tests/test_lists_gone.py",
    "plan.write_sharers": "tests/races/test_races_address.py",
    "reading.forget_members": "tests/test_left_lists.py",
}
"""What the company is too simple for, and the tests that come to it."""


PLAYS = 3  # in which each statement is to be come to
_met: dict[str, set[str]] = {}  # the names of all points that runs came to, by provider


@pytest.mark.timeout(36_000 if everything() else 3600)
@pytest.mark.parametrize("provider", KINDS if everything() else CHOSEN)
async def test_a_crash_at_any_write_loses_doubles_and_mails_nobody(
    cluster: str, template: str, provider: str
) -> None:
    findings, struck, cases = [], 0, 0
    async for tally in attack(cluster, template, KINDS[provider]):
        print(f"{provider}, {tally}", flush=True)
        _met.setdefault(provider, set()).update(point.name for point in tally.points)
        findings += tally.findings
        struck, cases = struck + tally.struck, cases + tally.cases
    assert not findings, "\n".join(findings)
    assert struck > cases / 2, "the runs have too little in common"


@pytest.mark.timeout(3600)
async def test_every_writing_statement_is_a_crash_point_or_has_its_reason(
    cluster: str, template: str
) -> None:
    excused = {*BY_A_PERSON, *BY_AN_ACCIDENT, *OTHERS}
    assert sorted(excused - writing()) == [], "no such statement"
    for again in range(PLAYS):  # how often a list is read in a run is a matter of moments
        for name, kind in KINDS.items():
            if again or name not in _met:
                async with world(cluster, template, kind) as at:
                    points = [(await played(at, stage))[1] for stage in STAGES]
                _met.setdefault(name, set()).update(point.name for some in points for point in some)
        names = {name.removeprefix("COMMIT ") for some in _met.values() for name in some}
        missing = writing() - {one for name in names for one in name.split()} - excused
        if not missing:
            return
    assert sorted(missing) == []
