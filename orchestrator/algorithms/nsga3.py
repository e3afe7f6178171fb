"""NSGA-III: a population with a member near each of many directions, for three or more objectives.

Source: Deb & Jain 2014, https://doi.org/10.1109/TEVC.2013.2281535; constraints: Jain & Deb 2014,
https://doi.org/10.1109/TEVC.2013.2281534.

Deviations: choices that the papers leave to chance are made by distance: of the directions with the
fewest members, the one that a candidate is nearest to comes first, with that candidate. Extremes
are looked for in units of the front's range, so that objectives may be of any size; the plane
through them ends at the worst value there is. Those that a race stopped come after all others;
among those that break the constraints equally the objectives decide. First generation and children
are those of `genetic`. An `async` mode as in NSGA-II.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
from annotated_types import Ge

from orchestrator.algorithms.base import Evaluated, Memory, Proposal
from orchestrator.algorithms.breeder import Breeder
from orchestrator.algorithms.children import children_of
from orchestrator.algorithms.nsga2 import fronts_of, remarks_on_front, values_of
from orchestrator.operators.crossover import Crossover, Sbx
from orchestrator.operators.mutation import Mutation, Polynomial
from orchestrator.operators.pareto import Rows, directions, num_directions
from orchestrator.spaces.genes import Genes

#: Weight of the other objectives when an extreme of one is looked for.
_OTHERS = 1e-6


@dataclass(frozen=True, slots=True, kw_only=True)
class Nsga3(Breeder):
    """Keeps the best fronts, of the last the members whose directions have the fewest."""

    #: Members of the population, and children of a generation; not fewer than the directions.
    population_size: Annotated[int, Ge(2)]
    #: How two parents make a child.
    crossover: Crossover = Sbx()
    #: How a child is changed.
    mutation: Mutation = Polynomial()
    #: Steps between two objectives' ends in which the directions lie; null takes the most whose
    #: directions do not outnumber the population.
    divisions: Annotated[int, Ge(1)] | None = None
    #: The same of a second layer of directions within the first; null adds one where many
    #: objectives leave the first without any direction within, 0 none.
    inner_divisions: Annotated[int, Ge(0)] | None = None

    def tell(self, memory: Memory, evaluated: Sequence[Evaluated]) -> Memory:
        """Keeps the best of all, sorted by front, then likelihood and age."""
        found = fronts_of([*memory.members, *evaluated])
        if not found:
            return memory
        kept, last = _filled(found, self.population_size)
        rows = values_of([*kept, *last])
        state = _scaled(memory, found[0][0], rows[: len(found[0])])
        num = self.population_size - len(kept)
        if last and not last[0].stopped:
            costs = _costs(rows, len(found[0]), state)
            towards = reference_directions(
                rows.shape[1], self.population_size, self.divisions, self.inner_divisions
            )
            last = [last[index] for index in _spread(costs, len(kept), num, towards)]
        return Memory(members=(*kept, *last[:num]), state=state)

    def remarks_on_objectives(self, kind: str, names: Sequence[str]) -> list[str]:
        """As NSGA-II does."""
        return remarks_on_front(kind, names)

    def _children(
        self, genes: Genes, memory: Memory, num: int, rng: np.random.Generator
    ) -> list[Proposal]:
        members = memory.members

        def choose(rng: np.random.Generator) -> list[Evaluated]:
            pairs = rng.integers(len(members), size=(2, 2))
            return [_winner(members, pair) for pair in pairs.tolist()]

        return children_of(members, num, choose, self.crossover, self.mutation, genes, rng)


@lru_cache(maxsize=16)
def reference_directions(
    num_objectives: int, population: int, divisions: int | None, inner_divisions: int | None
) -> Rows:
    """Returns the directions of a search; what is None fits the population. (directions, k)."""
    outer, inner = divisions, inner_divisions
    if outer is None:
        outer = _most_steps(num_objectives, population)
    if inner is None:
        left = population - num_directions(num_objectives, outer)
        has_within = outer >= num_objectives
        inner = 0 if has_within else min(outer, _most_steps(num_objectives, left, least=0))
    found = directions(num_objectives, outer, inner)
    found.flags.writeable = False
    return found


def _most_steps(num_objectives: int, most: int, least: int = 1) -> int:
    """Returns how many steps make at most so many directions."""
    if num_objectives == 1:
        return least
    steps = least
    while num_directions(num_objectives, steps + 1) <= most:
        steps += 1
    return steps


def _winner(members: Sequence[Evaluated], pair: Sequence[int]) -> Evaluated:
    """Returns the first of two unless the second was measured better or breaks less."""
    one, other = (members[index] for index in pair)
    is_worse = (one.stopped, one.violation) > (other.stopped, other.violation)
    return other if is_worse else one


def _filled(found: Sequence[list[Evaluated]], size: int) -> tuple[list[Evaluated], list[Evaluated]]:
    """Returns the fronts that fit into a population together, and the first that does not."""
    kept: list[Evaluated] = []
    for front in found:
        if len(kept) + len(front) > size:
            return kept, front
        kept += front
    return kept, []


def _scaled(memory: Memory, one: Evaluated, best: Rows) -> dict[str, Any]:
    """Returns the ideal and extreme points with the first front's, of which `one` is.

    What is known of those that broke the constraints says nothing of those that do not: points are
    forgotten when the first front is better in that.
    """
    standing = [one.stopped, one.violation, best.shape[1]]
    ideal, extremes = best.max(axis=0), best
    if memory.state.get("standing") == standing:
        ideal = np.maximum(ideal, memory.state["ideal"])
        extremes = np.concatenate([memory.state["extremes"], best])
    ranges = ideal - best.min(axis=0)
    costs = (ideal - extremes) / np.where(ranges > 0, ranges, 1.0)
    weights = np.where(np.eye(best.shape[1], dtype=np.bool_), 1.0, _OTHERS)  # (axes, objectives)
    # Eq. 4: the extreme of an axis is bad in that objective alone.
    away = (costs[:, None, :] / weights).max(axis=2)  # (points, axes)
    return {
        "standing": standing,
        "ideal": ideal.tolist(),
        "extremes": extremes[away.argmin(axis=0)].tolist(),
    }


def _costs(rows: Rows, num_best: int, state: Mapping[str, Any]) -> Rows:
    """Returns how far values are from the ideal; 1 is where the plane of the extremes ends.

    Where there is no such plane, or it ends beyond all values, 1 is the first front's worst.
    """
    ideal, costs = np.asarray(state["ideal"]), state["ideal"] - rows
    worst, limit = costs[:num_best].max(axis=0), costs.max(axis=0)
    try:
        ends = 1.0 / np.linalg.solve(ideal - np.asarray(state["extremes"]), np.ones(len(ideal)))
    except np.linalg.LinAlgError:
        ends = worst
    if not (np.isfinite(ends) & (ends > 0)).all():
        ends = worst
    ends = np.minimum(ends, limit)
    return np.asarray(costs / np.where(ends > 0, ends, 1.0))


def _spread(costs: Rows, num_kept: int, num: int, towards: Rows) -> npt.NDArray[np.intp]:
    """Returns which of those after the kept ones fill their directions most evenly, ascending."""
    lines = towards / np.linalg.norm(towards, axis=1, keepdims=True)
    along = costs @ lines.T  # (candidates, directions)
    near = along.argmax(axis=1)
    beside = (costs**2).sum(axis=1) - along.max(axis=1) ** 2
    counts = np.bincount(near[:num_kept], minlength=len(lines))
    near, beside = near[num_kept:], beside[num_kept:]
    # Taking one by one from the direction with the fewest takes each when so many are there.
    order = np.lexsort((beside, near))
    starts = np.searchsorted(near[order], near[order])
    others = np.empty(len(near), dtype=np.intp)
    others[order] = counts[near[order]] + np.arange(len(near)) - starts
    return np.sort(np.lexsort((beside, others))[:num])
