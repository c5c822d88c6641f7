"""The cases of a stage: some points at a time, until all is in step again and can be judged."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice

from .kinds import Kind
from .points import MODES, Mode, Point
from .script import STAGES, Stage
from .verdict import faults
from .victim import DIED
from .world import Memory, Stuck, World, world

ALL = "SYNCD_TEST_CRASHES"
MOST = 3  # occurrences of one statement in a run; the clock alone makes more of some
AT_ONCE = 5  # points of a chain, in a part of the cases
DATABASE_AWAY = 69  # exit code of a command that says: start me again

Chain = Mapping[Point, Mode]


@dataclass
class Tally:
    """What a stage's cases came to."""

    stage: str = ""
    points: Sequence[Point] = ()  # all that a run without mishap comes to
    cases: int = 0
    struck: int = 0
    died: int = 0
    findings: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        return (
            f"{self.stage}: {len(self.points)} points, {self.cases} cases, {self.struck} struck,"
            f" {self.died} deaths, {len(self.findings)} findings"
        )


def everything() -> bool:
    return os.environ.get(ALL) == "all"


def chains(points: Sequence[Point], before: Collection[Point]) -> Iterator[Chain]:
    """A third of the cases, some at a time: every point in one of its modes, save those that stages
    *before* came to. SYNCD_TEST_CRASHES=all: every case, SYNCD_TEST_CRASHES_AT_ONCE (1) at a time.
    """
    if everything():
        chosen, thirds = [one for one in points if one.nth <= MOST], range(len(MODES))
        at_once = int(os.environ.get(ALL + "_AT_ONCE", "1"))
    else:
        chosen = [one for one in points if one.nth < MOST and one not in before]
        thirds, at_once = range(1), AT_ONCE
    for third in thirds:
        cases = [(point, MODES[(k + third) % len(MODES)]) for k, point in enumerate(chosen)]
        apart = -(-len(cases) // at_once)
        for first in range(apart):
            yield dict(islice(cases, first, None, apart))


async def attack(cluster: str, template: str, kind: Kind) -> AsyncIterator[Tally]:
    """Every stage of the company's at one provider, with all its cases before the next."""
    before: set[Point] = set()
    async with world(cluster, template, kind) as at:
        for stage in STAGES:
            memory, points = await played(at, stage)
            after = await at.remember()
            tally = Tally(stage.name, points)
            for chain in chains(points, before):
                await _struck(at, stage, memory, chain, tally)
            before.update(points)
            yield tally
            await at.go_back(after)


async def _struck(at: World, stage: Stage, memory: Memory, chain: Chain, tally: Tally) -> None:
    tally.cases += len(chain)
    wrong = await _tried(at, stage, memory, chain, tally)
    if wrong and len(chain) > 1:
        wrong += await _alone(at, stage, memory, chain)
    told = ", ".join(f"{mode} {point}" for point, mode in chain.items())
    tally.findings += [f"{at.kind.provider}, {stage.name}, {told}: {one}" for one in wrong]


async def played(at: World, stage: Stage) -> tuple[Memory, list[Point]]:
    """A stage without mishap, which must end well: where it begins, and all that it comes to."""
    async with at.connected() as db:
        await stage.deeds(at, db)
    memory = await at.remember()
    ran = await at.run(stage.args)
    async with at.connected() as db:
        assert not (found := await faults(at, db, stage)), (stage.name, found, ran.said)
    assert ran.code == 0, (stage.name, ran.said)
    return memory, ran.points


async def _tried(at: World, stage: Stage, memory: Memory, chain: Chain, tally: Tally) -> list[str]:
    """Crash at each of the points; what is wrong when all is over."""
    await at.go_back(memory)
    left, said = dict(chain), []
    for _ in range(2 * len(chain) + 2):
        try:
            ran = await at.run(stage.args, left)
        except Stuck as stuck:
            return [str(stuck)]
        tally.struck += len(ran.struck)
        tally.died += ran.code == DIED
        left = {point: mode for point, mode in left.items() if point not in ran.struck}
        if ran.code not in (DIED, DATABASE_AWAY, 0) or "Traceback" in ran.said:
            said = [f"ended with {ran.code}{ran.said}"]
        if ran.code == 0:
            break
        await at.bury()
    else:
        return [f"never in step{ran.said}"]
    async with at.connected() as db:
        return said + await faults(at, db, stage)


async def _alone(at: World, stage: Stage, memory: Memory, chain: Chain) -> list[str]:
    """Which of the points it is, if one alone is enough."""
    return [
        f"alone at {point}, {mode}: {one}"
        for point, mode in chain.items()
        for one in await _tried(at, stage, memory, {point: mode}, Tally())
    ]
