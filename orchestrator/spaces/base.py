"""What a space is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, cast

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
        "whole_model": "orchestrator.spaces.whole_model:WholeModel",
        "chained": "orchestrator.spaces.chained:Chained",
        "vector": "orchestrator.spaces.vector:Vector",
        "ctm": "orchestrator.spaces.ctm:CtmSpace",
    },
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reference:
    """A model that a campaign measures beside its candidates: a parent, the base, a plain merge."""

    name: str
    recipe: Recipe
    #: Whether it is one of the models that candidates are made of, as it is.
    is_source: bool = False
    #: Whether it is the base, as it is.
    is_base: bool = False


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


class Measuring(Space, Protocol):
    """A space that can say something of a recipe before anything is built from it."""

    def measures(self, recipe: Recipe) -> Mapping[str, float]:
        """Returns name -> what the built model measures: `size` in parameters, `layers`."""
        ...


def as_measuring(space: Space) -> Measuring | None:
    """Returns the space if it can say something of a recipe."""
    return cast("Measuring", space) if hasattr(space, "measures") else None


class Aggregating(Space, Protocol):
    """A space that can make one recipe of several of its own."""

    def aggregate(self, recipes: Sequence[Recipe], weights: Sequence[float]) -> Recipe | None:
        """Returns the weighted mean of some recipes' models; None if no recipe can say it."""
        ...


def as_aggregating(space: Space) -> Aggregating | None:
    """Returns the space if it can make one recipe of several."""
    return cast("Aggregating", space) if hasattr(space, "aggregate") else None


class Contrasting(Space, Protocol):
    """A space that can say what a model is to be compared with that is made of it.

    Whoever wins a search may owe that to another thing than the one that is told of it: a machine
    that thinks in ticks is compared with itself in one tick.
    """

    def counterparts(self, recipe: Recipe) -> Sequence[Reference]:
        """Returns what a winner is compared with at the end of a search; deterministic.

        At most five; empty for what is its own counterpart.
        """
        ...


def as_contrasting(space: Space) -> Contrasting | None:
    """Returns the space if it can say what a model is to be compared with that is made of it."""
    return cast("Contrasting", space) if hasattr(space, "counterparts") else None


class Descending(Space, Protocol):
    """A space whose recipes are made of the recipes of a proposal's first two parents.

    A proposal without parents is decoded as in other spaces.
    """

    #: Always true.
    descends: bool

    def descend(self, genome: Genome, parents: Sequence[Recipe]) -> Recipe:
        """Returns the recipe of the child of one or two parents; deterministic."""
        ...


def as_descending(space: Space) -> Descending | None:
    """Returns the space if its recipes are made of those of parents."""
    return cast("Descending", space) if getattr(space, "descends", False) else None


class SpaceSettings(Protocol):
    """The campaign's settings of a space."""

    def open(self, seed: int) -> Space:
        """Looks the models up and checks that they fit together.

        Raises:
            ValueError: naming the model and what is wrong with it.
        """
        ...


class ModelSpaceSettings(SpaceSettings, Protocol):
    """The settings of a space whose recipes build models."""

    @property
    def dtype(self) -> str:
        """Type of the built models' weights, or `auto` for the first model's own."""
        ...

    @property
    def policy(self) -> ModelPolicy:
        """What its model folders may contain."""
        ...
