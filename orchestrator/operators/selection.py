"""Selection: which members of a population become parents."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Protocol

import numpy as np
import numpy.typing as npt
from annotated_types import Ge, Interval

from evaluators.registry import Registry

SELECTIONS = Registry(
    "selection",
    {
        "tournament": "orchestrator.operators.selection:Tournament",
        "truncation": "orchestrator.operators.selection:Truncation",
        "roulette": "orchestrator.operators.selection:Roulette",
        "rank": "orchestrator.operators.selection:Rank",
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Roulette:
    """In proportion to fitness above the worst member's (Holland 1975).

    Shifted and scaled, so that fitness may be negative, huge or the same for all; how much the
    best is preferred depends on how the population's fitness is spread.
    """

    #: What the worst member is drawn with, as a share of what the best is drawn with.
    floor: Annotated[float, Interval(ge=0, le=1)] = 0.05

    def __call__(self, fitness: Sequence[float], num: int, rng: np.random.Generator) -> list[int]:
        """Draws by fitness; all alike where it is the same for all."""
        # In parts of the greatest, since the range itself may be too large for a number.
        scaled = np.asarray(fitness) / max(1.0, float(np.max(np.abs(fitness))))
        spread = scaled.max() - scaled.min()
        above = (scaled - scaled.min()) / spread if spread > 0 else np.ones(len(scaled))
        return _drawn(self.floor + (1.0 - self.floor) * above, num, rng)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rank:
    """In proportion to the place in the population, linearly (Baker 1985)."""

    #: Expected draws of the best per draw of the middle: 1 takes all alike, 2 as hard as a
    #: tournament of two.
    pressure: Annotated[float, Interval(ge=1, le=2)] = 2.0

    def __call__(self, fitness: Sequence[float], num: int, rng: np.random.Generator) -> list[int]:
        """Draws by rank: the values of fitness do not matter."""
        places = np.linspace(0.0, 1.0, len(fitness))
        return _drawn(self.pressure - 2.0 * (self.pressure - 1.0) * places, num, rng)


def _drawn(weights: npt.NDArray[np.float64], num: int, rng: np.random.Generator) -> list[int]:
    """Draws places by weight, each on its own."""
    ends = np.cumsum(weights)
    found = np.searchsorted(ends, rng.random(num) * ends[-1], side="right")
    return [int(index) for index in np.minimum(found, len(weights) - 1)]
