"""One seed's story: a campaign that is run, hurt and run again until it has ended.

Each seed has only some of the faults, and those more often: what several of them do together shows
better where others keep out of the way (swarm testing; Groce et al. 2012, ISSTA).
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from orchestrator.measurement.item_bank import ItemBank
from orchestrator.storage import engine as engines
from orchestrator.storage import lease
from orchestrator.storage import records as stored
from tests.simulation import disk, fleet, laws, plans
from tests.simulation.commands import Commands
from tests.simulation.fleet import Habits
from tests.simulation.happenings import KINDS, Happenings
from tests.simulation.plans import Plan
from tests.simulation.records import Monitor
from tests.simulation.world import Broken, Node, Process, World

_BLOWS = (*disk.AT_STATEMENT, *disk.AT_COMMIT, *disk.AT_BEGIN)
#: Seconds in which all that happens beside happens: campaigns take about as long.
_SPAN_S = 8.0


@dataclass(slots=True)
class Story:
    """What is told: a campaign called `one`, and what others do with it or beside it."""

    world: World
    monitor: Monitor
    plan: Plan
    commands: Commands

    def tell(self) -> None:
        """Runs the campaign until it has ended, in all the ways that people may do that."""
        chance, small = self.world.chance, self.plan.smaller()
        forked, retried = chance(0.2), chance(0.2)
        if small is not None and chance(0.25):
            self.world.happen("smaller budget")
            self._finish("one", small)
            self.commands.hurried.add("one")
        if chance(0.2):
            self._finish("one", self.plan, hours=self.world.random.uniform(0.5, 4.0) / 3600)
        if (retried or forked) and chance(0.5):
            self.commands.run("one", self.plan, "m1")
            retried = retried and not self._measure_again()
            forked = forked and not self._fork()
        self._finish("one", self.plan)
        if "two" in self.commands.lines:
            self._finish("two", self.plan)
        if retried and self._measure_again():
            self._finish("one", self.plan)
        if forked:
            self._fork()
        laws.the_store_is_sound(str(self.world.path))

    def _finish(self, name: str, plan: Plan, *, hours: float | None = None) -> None:
        """Runs the command again and again until the campaign is done."""
        machine, ending = "m1", ""
        while ending not in ("done", "out of time"):
            ending = self.commands.run(name, plan, machine, hours=hours)
            if ending == "refused":
                self.world.sleep(20.0)
            if self.commands.habits.damages and self.world.chance(0.3):
                self.world.happen("damaged snapshot")
                self.monitor.damage_snapshots(self.world.random.randbytes(20))
            machine = "m2" if self.world.chance(0.2) else "m1"
        if hours is not None:
            return  # what was dropped when time was up is in no record
        row, state = self.monitor.campaign(name), self.commands.state
        assert row is not None
        assert state is not None
        laws.at_the_end(
            self.monitor,
            name,
            plan.forked(json.loads(row["history"])),
            state,
            same=not self.world.mended,
            hurried=name in self.commands.hurried,
            timed=name in self.commands.timed,
        )

    def _measure_again(self) -> bool:
        """Has what failed measured once more; returns whether there is a campaign at all."""
        if self.monitor.campaign("one") is None:
            return False
        self.world.happen("retry")
        while self.commands.retry("one", self.plan, "m1") != "retried":
            self.world.sleep(20.0)
        return True

    def _fork(self) -> bool:
        """Goes on with another campaign from where this one is; this one stays as it is.

        Returns whether there is a campaign at all.
        """
        if self.monitor.campaign("one") is None:
            return False
        plan, other = self.plan.larger(), self.world.chance(0.5)
        if other:
            plan = replace(plan, seed=plan.seed + 100)
        self.world.happen("fork")
        before = self.monitor.history("one")
        for names in (self.commands.hurried, self.commands.timed):
            names |= {"fork"} if "one" in names else set()
        self._finish("fork", plan)
        if self.monitor.history("one") != before:
            raise Broken("no recorded outcome is lost", "a fork has changed its ancestor")
        # With a number of evaluations for its budget, the last generation may have been cut off.
        unchanged = not (other or plan.ordered or self.world.mended)
        if unchanged and plan.generations is not None:
            laws.same_candidates(self.monitor.candidates("fork"), plans.without_faults(plan))
        return True


def _draw(world: World, changes: Mapping[str, Any]) -> Story:
    """Decides what may happen in a world, but for the plan or habits that are given."""
    random, monitor = world.random, Monitor(world)

    def some(kinds: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(kind for kind in kinds if random.random() < 0.5)

    plan = plans.draw(world.seed, random)
    plan = changes.get("plan", plan)
    world.nodes = [Node(f"n{number}") for number in range(1, random.randint(1, 3) + 1)]
    habits = Habits(
        slots=random.randint(1, 4),
        snapshot_every=random.choice((3, 4, 5, 7, 10**6)),
        chunk=random.choice((2, 3, 10_000)),
        troubles=some(fleet.TROUBLES),
        trouble_share=random.choice((0.0, 0.05, 0.1, 0.3)),
        doubles=random.random() < 0.3,
        reorders=random.random() < 0.5,
        damages=random.random() < 0.1,
        blows=some(_BLOWS),
        num_blows=random.choice((0, 1, 2, 4)),
    )
    for name in changes.keys() - {"plan"}:
        setattr(habits, name, changes[name])
    if random.random() < 0.7:
        world.path.write_bytes(disk.empty_store())
    commands = Commands(world, monitor, habits)
    happenings = Happenings(world, monitor, commands, plan)
    commands.on_pause = happenings.take_over
    for kind in some(tuple(KINDS)):
        for _ in range(random.choice((0, 1, 1, 2))):
            world.at(random.uniform(0.0, _SPAN_S), lambda kind=kind: happenings.happen(kind))
    return Story(world, monitor, plan, commands)


@contextmanager
def _in(world: World, chunk: int) -> Iterator[None]:
    """Puts the product into the world: its disk and its machines are the world's."""
    patches: list[tuple[Any, str, Any]] = [
        (engines, "create_engine", disk.engines_of(world)),
        (engines, "_BUSY_TIMEOUT_MS", 0),  # whoever would have to wait would wait for ever
        (stored, "_CHUNK", chunk),
        (stored, "_BATCH", chunk),
        (ItemBank, "_fit", _fit),
        (lease, "_machine", lambda: world.here.machine),
        (lease, "_birth", world.birth),
        (lease, "myself", lambda: _holder(world.here)),
    ]
    before = [getattr(module, name) for module, name, _ in patches]
    for module, name, value in patches:
        setattr(module, name, value)
    try:
        yield
    finally:
        for (module, name, _), value in zip(patches, before, strict=True):
            setattr(module, name, value)


#: A bank is fitted again by each process and each law; that it gives the same is a law elsewhere.
_fit = cache(ItemBank._fit)


def _holder(process: Process) -> lease.Holder:
    return lease.Holder(
        host=process.machine,
        machine=process.machine,
        process=process.pid,
        born=process.born,
        user="simulated",
    )


def simulate(seed: int, *, verbose: bool = False, **changes: Any) -> World:
    """Tells the story of a seed to its end; `changes` are what its plan and habits are instead.

    Raises:
        Broken: naming the law, if one was broken.
    """
    shm = Path("/dev/shm")
    where = str(shm) if os.access(shm, os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix="shoal-simulation-", dir=where) as folder:
        world = World(seed, Path(folder), verbose=verbose)
        story = _draw(world, changes)
        world.note(f"{story.plan}")
        try:
            with _in(world, story.commands.habits.chunk):
                story.tell()
        except Broken as broken:
            broken.add_note(f"seed {seed}: python -m tests.simulation --only {seed} --verbose")
            raise
        finally:
            story.monitor.close()
        return world
