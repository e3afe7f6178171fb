"""What a space is, and the box of real genes that most spaces are made of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from evaluators.registry import Registry
from workers.models.library import ModelPolicy
from workers.recipe import MergeRecipe
from workers.run import BuilderSettings

#: What evolves: one number per gene. A value, so that it can be compared, stored and sent.
Genome: TypeAlias = tuple[float, ...]

SPACES = Registry(
    "space",
    {
        "merge": "orchestrator.spaces.merge:Merge",
        "dataflow": "orchestrator.spaces.dataflow:Dataflow",
        "chained": "orchestrator.spaces.chained:Chained",
    },
)


@dataclass(frozen=True, slots=True)
class Box:
    """Real genes between bounds.

    Raises:
        ValueError: if there are no genes, or bounds are not finite or reversed.
    """

    names: tuple[str, ...]
    lower: Genome
    upper: Genome
    #: A genome known to be sensible, from which a search may start; None if there is none.
    start: Genome | None = None

    def __post_init__(self) -> None:
        if not self.names:
            raise ValueError("a space needs at least one gene")
        for name, low, high in zip(self.names, self.lower, self.upper, strict=True):
            if not (np.isfinite(low) and np.isfinite(high) and low < high):
                raise ValueError(f"gene {name!r}: expected low < high, got [{low}, {high}]")

    def sample(self, rng: np.random.Generator, num: int) -> list[Genome]:
        """Draws genomes uniformly."""
        drawn = rng.uniform(self.lower, self.upper, size=(num, len(self.names)))
        return [genome_of(row) for row in drawn]

    def repair(self, values: npt.NDArray[np.float64]) -> Genome:
        """Moves each gene to the nearest value within its bounds."""
        return genome_of(np.clip(values, self.lower, self.upper))

    def distance(self, a: Genome, b: Genome) -> float:
        """Returns the root mean square difference in units of each gene's range, in [0, 1]."""
        ranges = np.subtract(self.upper, self.lower)
        difference = np.subtract(a, b) / ranges
        return float(np.sqrt(np.mean(difference**2)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Reference:
    """A model that a campaign measures beside its candidates: a parent, the base, a plain merge."""

    name: str
    recipe: MergeRecipe


class Space(Protocol):
    """A space that has been opened: its models are known and fit together."""

    @property
    def box(self) -> Box:
        """The genes."""
        ...

    @property
    def references(self) -> Sequence[Reference]:
        """What every candidate is compared with."""
        ...

    @property
    def builder(self) -> BuilderSettings:
        """How workers build this space's recipes."""
        ...

    @property
    def revisions(self) -> Mapping[str, str]:
        """Source model -> hash of its content."""
        ...

    def decode(self, genome: Genome) -> MergeRecipe:
        """Returns the recipe of a genome; deterministic."""
        ...

    def describe(self) -> Mapping[str, Any]:
        """Returns facts about the space's models for `shoal check`.

        `summary` maps labels to what `shoal check` tells people of the space, a line each.
        """
        ...


class SpaceSettings(Protocol):
    """The campaign's settings of a space."""

    @property
    def dtype(self) -> str:
        """Type of the built models' weights, or `auto` for the first model's own."""
        ...

    @property
    def policy(self) -> ModelPolicy:
        """What its model folders may contain."""
        ...

    def open(self, seed: int) -> Space:
        """Looks the models up and checks that they fit together.

        Raises:
            ValueError: naming the model and what is wrong with it.
        """
        ...


def genome_of(values: npt.NDArray[np.float64]) -> Genome:
    """Returns the values as a genome."""
    return tuple(np.asarray(values, dtype=np.float64).tolist())
