"""Recipes of children that are made of their parents' recipes, where a space has such."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from orchestrator.algorithms.base import Proposal
from orchestrator.campaign.state import Candidate, State
from orchestrator.spaces.base import Space, as_descending
from workers.recipe import Recipe


def recipe_of(space: Space, state: State, proposal: Proposal) -> Recipe:
    """Returns the recipe of what an algorithm proposes."""
    descending = as_descending(space)
    if descending is None or not proposal.parents:
        return space.decode(proposal.genome)
    parents = [state.ancestors[id_].recipe for id_ in proposal.parents[:2]]
    return descending.descend(proposal.genome, parents)


def with_ancestors(
    space: Space, state: State, known: Mapping[str, Candidate] | None = None
) -> State:
    """Returns the state with the recipes at hand of those that children may come to have.

    These are the members of the memory; `known` names more candidates than the state does.
    """
    if as_descending(space) is None:
        return state
    found = {**state.ancestors, **state.candidates, **(known or {})}
    members = dict.fromkeys(one.candidate for one in state.memory.everyone)
    return replace(state, ancestors={id_: found[id_] for id_ in members})
