"""Races: candidates that cannot win are stopped before all search rows are spent on them.

(Maron & Moore 1994, https://papers.nips.cc/paper/841; Birattari et al. 2002.) The search rows are
cut into blocks, in an order drawn once for the campaign; after each block but the last a race
says whether the candidate goes on.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from evaluators.registry import Registry
from orchestrator.measurement.measured import Standing

RACES = Registry(
    "race",
    {
        "paired_t": "orchestrator.measurement.paired_races:PairedT",
        "hoeffding": "orchestrator.measurement.paired_races:Hoeffding",
        "bernstein": "orchestrator.measurement.paired_races:Bernstein",
        "halving": "orchestrator.measurement.halving:Halving",
        "optuna": "orchestrator.measurement.optuna_pruner:OptunaPruner",
    },
)
#: Of those that came as far, how many of late are remembered.
NUM_RECENT = 64


@dataclass(frozen=True, slots=True)
class Run:
    """How far a candidate of late came."""

    #: The candidate's number.
    number: int
    #: Its fitness after each block that it was measured on.
    fitness: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Field:
    """Whom a candidate races against: what had been measured when its generation was proposed."""

    #: Candidates that were measured on all search rows, the best first; at most `survivors`.
    incumbents: tuple[Standing, ...] = ()
    #: Candidates of late, stopped ones, too, by age.
    runs: tuple[Run, ...] = ()
    #: Number of the candidate that races, for races that do not treat all alike.
    number: int = 0

    def rung(self, block: int) -> list[float]:
        """Returns the fitness that candidates of late had after a block, by age."""
        came_as_far = [run.fitness[block] for run in self.runs if len(run.fitness) > block]
        return came_as_far[-NUM_RECENT:]


class Race(Protocol):
    """Settings of a race, and its rule. Pure: the same standing and field give the same verdict.

    One that compares document by document says so by an attribute `compares_documents`: it cannot
    race networks in training, whose documents are stretches of it.
    """

    @property
    def first_block(self) -> int:
        """Documents of each task in the first block."""
        ...

    @property
    def growth(self) -> float:
        """How many times larger each block is than the one before."""
        ...

    @property
    def survivors(self) -> int:
        """How many of the best a candidate must be able to get among."""
        ...

    def goes_on(self, standing: Standing, field: Field) -> bool:
        """Says after a block whether a candidate is measured on the next one."""
        ...


def of_late(runs: Sequence[Run]) -> tuple[Run, ...]:
    """Returns the runs, by age, without those that enough younger ones came as far as."""
    younger: Counter[int] = Counter()  # than the one at hand: how many had a block
    kept = []
    for run in reversed(runs):
        if younger[len(run.fitness)] < NUM_RECENT:
            kept.append(run)
        younger.update(range(1, len(run.fitness) + 1))
    return tuple(reversed(kept))
