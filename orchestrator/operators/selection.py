"""Selection: which members of a population become parents."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Protocol

import numpy as np
from annotated_types import Ge, Interval

from evaluators.registry import Registry

SELECTIONS = Registry(
    "selection",
    {
        "tournament": "orchestrator.operators.selection:Tournament",
        "truncation": "orchestrator.operators.selection:Truncation",
    },
)


class Selection(Protocol):
    """Draws parents."""

    def __call__(self, fitness: Sequence[float], num: int, rng: np.random.Generator) -> list[int]:
        """Returns the indices of `num` parents, with repetition.

        `fitness` is sorted, best first, ties by age; higher is better.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Tournament:
    """The best of `size` members drawn at random (Goldberg & Deb 1991)."""

    #: Members in a tournament; more select harder.
    size: Annotated[int, Ge(1)] = 2

    def __call__(self, fitness: Sequence[float], num: int, rng: np.random.Generator) -> list[int]:
        """Draws entrants with repetition; the population is sorted, so the lowest index wins."""
        entrants = rng.integers(len(fitness), size=(num, self.size))
        return [int(index) for index in entrants.min(axis=1)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Truncation:
    """Any of the best share of the population, all alike."""

    #: Share of the population that may become parents.
    share: Annotated[float, Interval(gt=0, le=1)] = 0.5

    def __call__(self, fitness: Sequence[float], num: int, rng: np.random.Generator) -> list[int]:
        """Draws uniformly from the best."""
        best = max(1, round(self.share * len(fitness)))
        return [int(index) for index in rng.integers(best, size=num)]
