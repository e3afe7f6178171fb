"""The end of a search that keeps archives: their best are merged into one more model.

(CycleQD: Kuroki, Nakamura, Akiba & Tang 2025, https://arxiv.org/abs/2410.14735, the final model.)
What comes of it is a reference that only the end of a search can name: it is measured in full as
the others are, and wins if it is the best. A campaign whose budget is raised makes another one at
its next end.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol, cast

from orchestrator.algorithms.base import Algorithm, Memory
from orchestrator.campaign.breeding import propose
from orchestrator.campaign.state import Campaign, Candidate, State, Step
from orchestrator.spaces.base import as_aggregating
from workers.recipe import Recipe

#: How such a candidate is made, for its record.
AGGREGATE = "aggregate"


class Aggregating(Algorithm, Protocol):
    """An algorithm whose members are worth more together than alone."""

    def aggregated(self, memory: Memory) -> Mapping[str, float]:
        """Returns member -> its weight in the merge; empty if there is nothing to be merged."""
        ...


def begin(campaign: Campaign, state: State) -> Step:
    """Returns the merge of the archives' best as a new reference, if the search ends in one."""
    candidate = _aggregate(campaign, state)
    if candidate is None or candidate.id in state.candidates:
        return Step(state)
    return propose(campaign, state, [candidate])


def _aggregate(campaign: Campaign, state: State) -> Candidate | None:
    algorithm, space = (
        campaign.branch(state.proposed).rules.algorithm,
        as_aggregating(campaign.space),
    )
    if space is None or not hasattr(algorithm, "aggregated"):
        return None
    weights = cast("Aggregating", algorithm).aggregated(state.memory)
    recipes = _recipes(campaign, state)
    if not weights:
        return None
    recipe = space.aggregate([recipes[id_] for id_ in weights], list(weights.values()))
    if recipe is None:
        return None
    number = len(campaign.space.references) + state.proposed
    return Candidate(
        id=f"r{number}",
        role="reference",
        number=number,
        generation=state.generation,
        name=f"merge of the archives' best ({', '.join(weights)})",
        genome=None,
        recipe=recipe,
        parents=tuple(weights),
        operator=AGGREGATE,
    )


def _recipes(campaign: Campaign, state: State) -> Mapping[str, Recipe]:
    """Returns the recipes of the memory's members."""
    return {
        one.candidate: state.ancestors[one.candidate].recipe
        if one.candidate in state.ancestors
        else campaign.space.decode(one.genome)
        for one in state.memory.everyone
    }
