"""Races: candidates that cannot win are stopped before all search rows are spent on them.

(Maron & Moore 1994, https://papers.nips.cc/paper/841; Birattari et al. 2002.) The search rows are
cut into blocks, in an order drawn once for the campaign; after each block but the last a race
says whether the candidate goes on.
"""

from __future__ import annotations

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
    },
)


@dataclass(frozen=True, slots=True)
class Field:
    """Whom a candidate races against: what had been measured when its generation was proposed."""

    #: Candidates that were measured on all search rows, the best first; at most `survivors`.
    incumbents: tuple[Standing, ...] = ()
    #: For each block, the fitness after it of recent candidates (stopped ones, too), by age.
    rungs: tuple[tuple[float, ...], ...] = ()


class Race(Protocol):
    """Settings of a race, and its rule. Pure: the same standing and field give the same verdict."""

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
