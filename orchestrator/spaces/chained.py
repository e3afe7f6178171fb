"""Both spaces at once: a merge of weights is the first model of a path.

Evolutionary Model Merge (Akiba et al. 2024, https://arxiv.org/abs/2403.13187), section 3.3. The
paper searches weights first and paths afterwards, with the best merge as the first model. Here the
genes of both evolve together; a campaign that continues another one's best merge names its exported
folder as the first source of a data-flow space instead.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from orchestrator.spaces.base import Reference
from orchestrator.spaces.dataflow import (
    check_distinct,
    check_layers,
    inspect_all,
    open_branches,
    route_facts,
    unchanged,
)
from orchestrator.spaces.genes import Genome, joined
from orchestrator.spaces.merge import Merge, MergeSpace
from orchestrator.spaces.routes import Routes, RouteSettings
from orchestrator.spaces.sizes import Sizes
from workers.models import library
from workers.models.library import ModelFacts, ModelPolicy
from workers.paths import Hop, path_recipe
from workers.recipe import MergeRecipe, Recipe


@dataclass(frozen=True, slots=True, kw_only=True)
class Chained(RouteSettings):
    """Searches a merge of weights and a path through its layers and other models' together."""

    #: The space of the merge that is the first model of every path (keys of `kind: merge`).
    merge: Merge
    #: Models whose layers follow the merge's in the row: local folders or hub ids[@revision].
    sources: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        self.check()
        check_distinct(self.sources)
        if self.merge.tokenizer == "union":
            raise ValueError(
                "merge.tokenizer: paths have their base's tokens, got 'union'; use 'base', or "
                "merge into a folder first"
            )

    @property
    def dtype(self) -> str:
        """Type of the weights."""
        return self.merge.dtype

    @property
    def policy(self) -> ModelPolicy:
        """What its model folders may contain."""
        return self.merge.policy

    def open(self, seed: int) -> ChainedSpace:
        """Inspects the models and checks that they fit together.

        Raises:
            ValueError: naming the model or the key and what is wrong with it.
        """
        try:
            merge = self.merge.open(seed)
            base = library.inspect(self.merge.base, self.policy)
        except ValueError as error:
            raise ValueError(f"merge: {error}") from error
        return ChainedSpace(self, merge, [base, *inspect_all(self.sources, self.policy)])


class ChainedSpace:
    """A chained space whose models are known (a `Space`).

    Args:
        settings: The campaign's settings.
        merge: The space of the first model.
        models: The merge's base, then the other models.
    """

    def __init__(self, settings: Chained, merge: MergeSpace, models: Sequence[ModelFacts]) -> None:
        check_layers(models[0], models[1:])
        self._settings = settings
        self._merge = merge
        self._models = models
        self._sizes = Sizes(models[0])
        self._branches = open_branches(settings, models[0])
        names = ["merge", *settings.sources]
        self._routes = Routes(settings, names, [one.num_layers for one in models])
        self.genes = joined(merge.genes, self._routes.genes, "path")
        self.builder = merge.builder
        others = {one.reference: library.digest(one, settings.policy) for one in models[1:]}
        self.revisions: Mapping[str, str] = {**merge.revisions, **others}
        self.references = tuple(self._make_references())

    def decode(self, genome: Genome) -> MergeRecipe:
        """Returns the recipe of the path through a genome's merge and the other models."""
        cut = len(self._merge.genes.names)
        return self._recipe(self._merge.decode(genome[:cut]), self._routes.hops(genome[cut:]))

    def measures(self, recipe: Recipe) -> Mapping[str, float]:
        """Returns size and layers of a path's model: layers of all models are of one kind."""
        assert isinstance(recipe, MergeRecipe), "a path is a merge recipe"
        return self._sizes.measures(recipe.num_layers)

    def describe(self) -> Mapping[str, Any]:
        """Returns what the models are and what is searched."""
        merge = self._merge.describe()
        path = route_facts(self._settings, self._routes, self._models, merge["dtype"])
        stored = sum(library.stored_bytes(one) for one in self._models[1:])
        return {
            **merge,
            **path,
            "sources": merge["sources"] + len(self._models) - 1,
            "source_bytes": merge["source_bytes"] + stored,
            "genes": len(self.genes.names),
            "genes_by_kind": {**merge["genes_by_kind"], **path["genes_by_kind"]},
            "summary": {**merge["summary"], **path["summary"]},
        }

    def _recipe(self, merged: MergeRecipe, hops: Sequence[Hop]) -> MergeRecipe:
        recipe = path_recipe(
            hops,
            sources=[merged, *self._settings.sources],
            base=merged.base,
            dtype=merged.dtype,
            branches=self._branches,
        )
        return replace(recipe, chat_template=merged.chat_template)

    def _make_references(self) -> Iterator[Reference]:
        """The merge's, the other models, and the merge that the search starts at, cut short."""
        yield from self._merge.references
        known = {one.name for one in self._merge.references}
        for other in unchanged(self._models, self.builder.dtype):
            if other.name not in known:
                yield other
        identity, start = self._routes.identity, self._merge.genes.start
        if self._settings.delete_one and start is not None and len(identity) > 1:
            merged = self._merge.decode(start)
            for hop in identity:
                rest = [one for one in identity if one != hop]
                name = f"starting merge without layer {hop.layer}"
                yield Reference(name=name, recipe=self._recipe(merged, rest))
