"""What a space is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from evaluators.registry import Registry
from orchestrator.spaces.genes import Genes, Genome
from workers.models.library import ModelPolicy
from workers.recipe import Recipe
from workers.run import BuilderSettings

SPACES = Registry(
    "space",
    {
        "merge": "orchestrator.spaces.merge:Merge",
        "dataflow": "orchestrator.spaces.dataflow:Dataflow",
        "chained": "orchestrator.spaces.chained:Chained",
    },
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reference:
    """A model that a campaign measures beside its candidates: a parent, the base, a plain merge."""

    name: str
    recipe: Recipe


class Space(Protocol):
    """A space that has been opened: its models are known and fit together."""

    @property
    def genes(self) -> Genes:
        """What its genomes are made of."""
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

    def decode(self, genome: Genome) -> Recipe:
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
