"""MAP-Elites: the best member of each niche (Mouret & Clune 2015, https://arxiv.org/abs/1504.04909).

With `archive: {kind: cvt}` it is CVT-MAP-Elites (Vassiliades, Chatzilygeroudis & Mouret 2018,
https://arxiv.org/abs/1610.05729). Children of real genes are varied by iso+line (Vassiliades &
Mouret 2018, https://arxiv.org/abs/1804.03906).

Deviations: only the first generation is sampled, part of it about the plain merge (see
`warm_start`); the limits of behaviours may be learned from it; genes that are no real numbers are
crossed and mutated as in a genetic algorithm.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
from annotated_types import Ge

from orchestrator.algorithms.archive import Archive, Grid, Limits, keep_best
from orchestrator.algorithms.base import Evaluated, Memory, Proposal, ranked
from orchestrator.algorithms.breeder import Breeder
from orchestrator.algorithms.children import child_of, siblings
from orchestrator.operators.crossover import Crossover, Sbx
from orchestrator.operators.mutation import Mutation, Polynomial
from orchestrator.spaces.genes import Genes, Genome, Slots

#: By what share of the first generation's range its limits are widened at either end.
_MARGIN = 0.15
#: Draws of a child that keeps equalling a known genome before it is let through.
_MAX_DRAWS = 10
#: Names that a message lists.
_MAX_LISTED = 9


@dataclass(frozen=True, slots=True, kw_only=True)
class Axis:
    """A behaviour characteristic: a number by which members are told apart, good or bad."""

    #: Where the number is found: among the objectives, or among the genome's slots.
    of: Literal["objective", "gene"]
    #: Its place there, from 0.
    place: Annotated[int, Ge(0)]
    #: Between which numbers it is cut into cells; what is beyond is in the cells at the ends. Null
    #: learns them from the first generation, 15% of its range wider on either side; with `async`
    #: they are 0 and 1.
    limits: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        if self.limits is not None and not self.limits[0] < self.limits[1]:
            raise ValueError(f"limits: expected low < high, got {list(self.limits)}")

    def knows(self, member: Evaluated) -> bool:
        """Whether the member has such a number."""
        return self.place < len(member.values if self.of == "objective" else member.genome)

    def number(self, member: Evaluated) -> float:
        """Returns the member's."""
        return (member.values if self.of == "objective" else member.genome)[self.place]


@dataclass(frozen=True, slots=True, kw_only=True)
class MapElites(Breeder):
    """Draws parents uniformly from the cells; a child takes a cell that is empty or held by less.

    What counts as better is the rank: measured in full, feasible, fit, in this order.
    """

    #: Children of a generation.
    population_size: Annotated[int, Ge(1)]
    #: How the space of behaviours is cut into cells.
    archive: Archive = Grid()
    #: Behaviour characteristics; none means the first two objectives or, where there is only one,
    #: the first two genes.
    axes: tuple[Axis, ...] = ()
    #: How children come about: `iso_line` moves real genes by noise and along the line to another
    #: member; `operators` crosses and mutates all genes.
    variation: Literal["iso_line", "operators"] = "iso_line"
    #: Standard deviation of iso+line's noise, as a share of each gene's range.
    iso_sigma: Annotated[float, Ge(0)] = 0.01
    #: Standard deviation of the step to another member, as a share of the way there.
    line_sigma: Annotated[float, Ge(0)] = 0.2
    #: How two parents make a child, where `operators` are used or genes are no real numbers.
    crossover: Crossover = Sbx()
    #: How a child is changed, where `operators` are used or genes are no real numbers.
    mutation: Mutation = Polynomial()

    def __post_init__(self) -> None:
        if self.variation == "iso_line" and self.iso_sigma == self.line_sigma == 0:
            raise ValueError("iso_sigma: expected more than 0, or line_sigma more than 0, got 0")

    def check(self, genes: Genes) -> None:
        """Refuses axes along genes that there are not."""
        self._check_places("gene", genes.names)

    def check_objectives(self, names: Sequence[str]) -> None:
        """Refuses axes along objectives that there are not."""
        self._check_places("objective", names)

    def remarks_on_objectives(self, kind: str, names: Sequence[str]) -> list[str]:
        """Says where no objective but the fitness counts, although several are aimed at."""
        looks = not self.axes or any(axis.of == "objective" for axis in self.axes)
        if looks or kind != "pareto":
            return []
        said = (
            "axes: none is along an objective, so that the search looks at the fitness alone: the "
            f"front of {', '.join(names)} is of what it comes across"
        )
        return [said]

    def _check_places(self, of: str, names: Sequence[str]) -> None:
        for at, axis in enumerate(self.axes):
            if axis.of == of and axis.place >= len(names):
                listed = [f"{place} {name}" for place, name in enumerate(names)]
                if len(listed) > _MAX_LISTED:
                    listed[1:-1] = ["..."]
                known = ", ".join(listed)
                raise ValueError(
                    f"axes.{at}.place: expected the place of one of the {of}s ({known}), got "
                    f"{axis.place}"
                )

    def tell(self, memory: Memory, evaluated: Sequence[Evaluated]) -> Memory:
        """Keeps the best of each cell, best first, and the limits of the cells."""
        axes, known = self.behaviour(ranked([*memory.members, *evaluated]))
        if not known:
            return memory
        numbers = np.array([[axis.number(one) for axis in axes] for one in known])
        limits = self._limits(memory, axes, numbers)
        cells = self.archive.cells_of(numbers, limits)
        members = ranked(keep_best(known, cells, lambda one: one.rank))
        return Memory(tuple(members), {"limits": [list(pair) for pair in limits]})

    def behaviour(self, members: Sequence[Evaluated]) -> tuple[tuple[Axis, ...], list[Evaluated]]:
        """Returns the behaviour characteristics, and the members that have them all."""
        axes = self.axes
        if not axes:
            of: Literal["objective", "gene"] = "gene"
            if any(len(one.values) > 1 for one in members):
                of = "objective"
            axes = tuple(Axis(of=of, place=place) for place in (0, 1))
            axes = tuple(axis for axis in axes if any(axis.knows(one) for one in members))
        known = [one for one in members if all(axis.knows(one) for axis in axes)]
        return axes, known

    def _limits(self, memory: Memory, axes: Sequence[Axis], numbers: Slots) -> Limits:
        """Returns those given, else those learned before, else those to be learned now."""
        known = memory.state.get("limits", ())
        if len(known) == len(axes):
            return tuple((low, high) for low, high in known)
        return tuple(
            axis.limits or ((0.0, 1.0) if self.asynchronous else _learned(column))
            for axis, column in zip(axes, numbers.T, strict=True)
        )

    def _children(
        self, genes: Genes, memory: Memory, num: int, rng: np.random.Generator
    ) -> list[Proposal]:
        def born(known: Collection[Genome]) -> Proposal:
            return self._child(genes, memory, known, rng)

        return siblings(memory.members, num, born)

    def _child(
        self, genes: Genes, memory: Memory, known: Collection[Genome], rng: np.random.Generator
    ) -> Proposal:
        members = memory.members
        first = int(rng.integers(len(members)))
        second = (first + int(rng.integers(1, max(2, len(members))))) % len(members)
        parents = [members[first], members[second]]
        if self.variation == "operators" or genes.whole.all() or genes.founders:
            return child_of(parents, self.crossover, self.mutation, known, genes, rng)
        return self._iso_line(parents, known, genes, rng)

    def _iso_line(
        self,
        parents: Sequence[Evaluated],
        known: Collection[Genome],
        genes: Genes,
        rng: np.random.Generator,
    ) -> Proposal:
        """Moves real genes by eq. 2 of Vassiliades & Mouret; other genes come from operators."""
        low, high = genes.edges
        ours, theirs = (genes.to_inner(np.asarray(one.genome)) for one in parents)
        others, operator = ours, "iso_line"
        if genes.whole.any():
            bred = child_of(parents, self.crossover, self.mutation, known, genes, rng)
            others, operator = np.asarray(bred.genome), f"iso_line+{bred.operator}"
        for _ in range(_MAX_DRAWS):
            noise = self.iso_sigma * (high - low) * rng.standard_normal(len(ours))
            step = self.line_sigma * rng.standard_normal() * (theirs - ours)
            moved = genes.to_outer(ours + noise + step)
            child = genes.repair(np.where(genes.whole, others, moved))
            if child not in known:
                break
        names = tuple(dict.fromkeys(one.candidate for one in parents))
        return Proposal(genome=child, parents=names, operator=operator)


def _learned(numbers: Slots) -> tuple[float, float]:
    low, high = float(numbers.min()), float(numbers.max())
    margin = _MARGIN * (high - low) or max(abs(low), 1.0) * _MARGIN
    return low - margin, high + margin
