"""NSGA-II: a population that spreads along the Pareto front.

Source: Deb, Pratap, Agarwal & Meyarivan 2002, https://doi.org/10.1109/4235.996017. In `async` mode
it is the (mu + 1) steady-state form of Durillo, Nebro, Luna & Alba 2009.

Deviations: those that a race stopped come after all others; among those that break the constraints
equally the objectives decide; equal rank and crowding are told apart by likelihood, then age, not
by chance; of equal values one has the crowding distance; first generation and children are those of
`genetic`: part of the first lies about the plain merge, a crossing has one child, and no child is
a genome that is known.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Annotated

import numpy as np
from annotated_types import Ge

from orchestrator.algorithms.base import Evaluated, Memory, Proposal
from orchestrator.algorithms.breeder import Breeder
from orchestrator.algorithms.children import children_of
from orchestrator.operators.crossover import Crossover, Sbx
from orchestrator.operators.mutation import Mutation, Polynomial
from orchestrator.operators.pareto import Rows, crowding, fronts
from orchestrator.operators.selection import Selection, Tournament
from orchestrator.spaces.genes import Genes


@dataclass(frozen=True, slots=True, kw_only=True)
class Nsga2(Breeder):
    """Keeps the best fronts of parents and children, of the last the members that are lonely."""

    #: Members of the population, and children of a generation.
    population_size: Annotated[int, Ge(2)]
    #: How parents are chosen from the population, which is sorted by front, then crowding.
    selection: Selection = Tournament()
    #: How two parents make a child.
    crossover: Crossover = Sbx()
    #: How a child is changed.
    mutation: Mutation = Polynomial()

    def tell(self, memory: Memory, evaluated: Sequence[Evaluated]) -> Memory:
        """Keeps the best of all, sorted by front, then crowding."""
        found = fronts_of([*memory.members, *evaluated])
        totals = list(accumulate(map(len, found)))
        num = sum(1 for total in totals if total < self.population_size) + 1
        candidates = [one for front in found[:num] for one in front]
        level = np.repeat(np.arange(len(found[:num])), [len(front) for front in found[:num]])
        lonely = crowding(values_of(candidates), level)
        order = np.lexsort((-lonely, level))[: self.population_size]
        return Memory(tuple(candidates[index] for index in order))

    def remarks_on_objectives(self, kind: str, names: Sequence[str]) -> list[str]:
        """Says where there is no front to be found, or another one than is aimed at."""
        return remarks_on_front(kind, names)

    def _children(
        self, genes: Genes, memory: Memory, num: int, rng: np.random.Generator
    ) -> list[Proposal]:
        members = memory.members
        # Selections know a fitness, the best first: here the place in the order of the population.
        places = [float(-place) for place in range(len(members))]

        def choose(rng: np.random.Generator) -> list[Evaluated]:
            return [members[index] for index in self.selection(places, 2, rng)]

        return children_of(members, num, choose, self.crossover, self.mutation, genes, rng)


def remarks_on_front(kind: str, names: Sequence[str]) -> list[str]:
    """Returns what a search for a front makes of objectives that do not ask for one."""
    if len(names) == 1:
        said = (
            f"search: there is one objective, {names[0]!r}, so that there is no front to search "
            "for; name several in 'objectives', or use an algorithm for one, such as genetic"
        )
        return [said]
    if kind != "pareto":
        aim = "their weighted sum" if kind == "weighted" else "the first of them before the next"
        said = (
            f"search: searches for the front of {', '.join(names)}, but the aim is {aim}, which "
            "only picks the best of what it finds; set 'objectives' to pareto, or use an "
            "algorithm for one number, such as genetic"
        )
        return [said]
    return []


def fronts_of(evaluated: Sequence[Evaluated]) -> list[list[Evaluated]]:
    """Sorts the measured into fronts, those of the stopped last; in a front the likelier first.

    Among equally likely ones the elder is first, so that no order depends on who came when.
    """
    measured = [one for one in evaluated if one.fitness is not None]
    measured.sort(key=lambda one: (math.inf if one.tie is None else -one.tie, one.number))
    found = []
    for stopped in (False, True):
        among = [one for one in measured if one.stopped == stopped]
        sorted_ = fronts(values_of(among), [one.violation for one in among])
        found += [[among[index] for index in front] for front in sorted_]
    return found


def values_of(members: Sequence[Evaluated]) -> Rows:
    """Returns the objectives of measured members, a row each; their fitness if some have none."""
    if all(one.values for one in members):
        return np.array([one.values for one in members], dtype=np.float64)
    return np.array([[one.fitness] for one in members], dtype=np.float64)
