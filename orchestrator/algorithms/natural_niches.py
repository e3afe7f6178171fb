"""M2N2: competition for documents, and mates that make up for each other's weaknesses.

(Abrantes, Lange & Tang 2025, "Competition and Attraction Improve Model Fusion",
https://arxiv.org/abs/2508.16204.) An archive of models, steady-state: what a document is worth is
shared among those that solve it, so that who solves what few others do lives on.

Deviations: the archive begins with the models there are, without placeholders, as in the paper and
not in its code; where no one has what the first parent lacks, the second is drawn by fitness (as
always without attraction) and may be the first. On spaces whose genomes describe models themselves,
children come of the crossover and mutation set here. Answers that may be negative count from the
worst in the archive, since shares of nothing or less mean nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal, TypeAlias

import numpy as np
import numpy.typing as npt
from annotated_types import Ge

from orchestrator.algorithms.base import Evaluated, Memory, Proposal, ranked
from orchestrator.algorithms.children import children_of, first_generation
from orchestrator.operators.crossover import Crossover, Sbx
from orchestrator.operators.mutation import Mutation, Polynomial
from orchestrator.spaces.genes import Genes

#: What each member scored on each document, none below 0: (members, documents).
Scores: TypeAlias = npt.NDArray[np.float64]
#: A number for each member, or for each document.
Numbers: TypeAlias = npt.NDArray[np.float64]

#: Keeps documents that nobody solves from being divided by nothing.
_EPSILON = 1e-12


@dataclass(frozen=True, slots=True, kw_only=True)
class NaturalNiches:
    """Keeps an archive in which models share what documents are worth, and crosses its members."""

    #: Models of the archive.
    population_size: Annotated[int, Ge(2)]
    #: Children of a generation, or open at a time if `async`; null means as many as the archive
    #: holds. 1 is the published algorithm: each child is told before the next is made.
    batch: Annotated[int, Ge(1)] | None = None
    #: How strongly documents that many solve lose their worth: 0 is a plain genetic algorithm.
    alpha: Annotated[float, Ge(0)] = 1.0
    #: Whether the second parent is drawn by what it solves and the first does not.
    attraction: bool = True
    #: Random merges of the models there are, measured beside them at first.
    first_merges: Annotated[int, Ge(0)] = 0
    #: Subtract the archive's worst score on each document first, for scores that differ by little.
    subtract_worst: bool = False
    #: How two parents make a child, where genomes describe models themselves.
    crossover: Crossover = Sbx()
    #: How a child is changed there.
    mutation: Mutation = Polynomial()
    #: `async` waits for no generation: each outcome brings the next child.
    mode: Literal["generational", "async"] = "generational"

    #: The fold hands over what each document of a candidate scored.
    needs_answers: ClassVar[bool] = True

    def ask(self, genes: Genes, memory: Memory, rng: np.random.Generator) -> list[Proposal]:
        """Returns the models there are, or samples, at first; children of the archive then."""
        if not memory.members:
            return self._first(genes, rng)
        return self._children(genes, memory, self.size(2), rng)

    def tell(self, memory: Memory, evaluated: Sequence[Evaluated]) -> Memory:
        """Takes them in one after another, the eldest first; each drives out who is worth least.

        Those that a race stopped have not answered what the others have, and stay outside.
        """
        members = memory.members
        for one in sorted(evaluated, key=lambda one: one.number):
            if one.fitness is None or one.stopped:
                continue
            members = (*members, one)
            if len(members) > self.population_size:
                members = self._without_the_least(members)
        return Memory(tuple(ranked(members)))

    @property
    def asynchronous(self) -> bool:
        """Whether each outcome brings the next child."""
        return self.mode == "async"

    def ask_one(self, genes: Genes, memory: Memory, rng: np.random.Generator) -> Proposal:
        """Returns a child of the archive, or a sample while nothing has been measured."""
        if not memory.members:
            return Proposal(genome=genes.sample(rng, 1)[0], operator="sample")
        return self._children(genes, memory, 1, rng)[0]

    def size(self, generation: int) -> int:
        """The first generation fills the archive, as far as there are models."""
        batch = self.population_size if self.batch is None else self.batch
        return batch if generation > 1 or self.asynchronous else self.population_size

    def _first(self, genes: Genes, rng: np.random.Generator) -> list[Proposal]:
        num = len(genes.founders) + self.first_merges if genes.founders else self.population_size
        return first_generation(genes, num, 0.0, rng)

    def _children(
        self, genes: Genes, memory: Memory, num: int, rng: np.random.Generator
    ) -> list[Proposal]:
        members = memory.members
        scores = scores_of(members, subtract_worst=self.subtract_worst)
        worth = worths(scores, self.alpha)
        fitness = scores @ worth

        def choose(rng: np.random.Generator) -> tuple[Evaluated, Evaluated]:
            first = _draw(fitness, rng)
            pull = attractions(scores, worth, first) if self.attraction else fitness
            second = _draw(pull if pull.any() else fitness, rng)
            return members[first], members[second]

        return children_of(members, num, choose, self.crossover, self.mutation, genes, rng)

    def _without_the_least(self, members: Sequence[Evaluated]) -> tuple[Evaluated, ...]:
        """Returns all but one, who may be the newcomer.

        It is who breaks constraints the most, or else who has the least shared fitness.
        """
        scores = scores_of(members, subtract_worst=self.subtract_worst)
        fitness = scores @ worths(scores, self.alpha)
        worth = [
            (-one.violation, shared, one.rank) for one, shared in zip(members, fitness, strict=True)
        ]
        least = worth.index(min(worth))
        return tuple(one for place, one in enumerate(members) if place != least)


def scores_of(members: Sequence[Evaluated], *, subtract_worst: bool = False) -> Scores:
    """Returns what members scored, each document from 0 on: (members, documents).

    Fitness is the one document of all where any has no answers or has answered others.
    """
    lengths = {len(one.answers) for one in members}
    if len(lengths) == 1 and lengths != {0}:
        scores = _TABLE.of(members)
    else:
        scores = np.array([[one.fitness or 0.0] for one in members])
    worst = scores.min(axis=0)
    found: Scores = scores - (worst if subtract_worst else np.minimum(worst, 0.0))
    return found


class _Table:
    """The answers of those asked for last, as rows: an archive changes by a member at a time."""

    def __init__(self) -> None:
        self._known: tuple[tuple[Evaluated, ...], Scores] = (), np.empty((0, 0))

    def of(self, members: Sequence[Evaluated]) -> Scores:
        """Returns a row for each; those of who was asked for last are at hand."""
        rows = {id(one): row for one, row in zip(*self._known, strict=True)}
        found = np.array(
            [
                np.array(one.answers, dtype=np.float64) if row is None else row
                for one in members
                for row in (rows.get(id(one)),)
            ]
        )
        self._known = tuple(members), found  # holds on to who is known by where it is
        return found


_TABLE = _Table()


def worths(scores: Scores, alpha: float) -> Numbers:
    """Returns what a point on each document is worth: c_j / (z_j^alpha + epsilon).

    Crowding z_j is the sum of all members' scores, capacity c_j the best of them, which is 1 for
    right and wrong answers: a document that nobody solves fully has less to give.
    """
    capacity, crowding = scores.max(axis=0), scores.sum(axis=0)
    found: Numbers = capacity / (crowding**alpha + _EPSILON)
    return found


def attractions(scores: Scores, worth: Numbers, first: int) -> Numbers:
    """Returns how much each member solves of what the first parent does not: (members,)."""
    found: Numbers = np.maximum(scores - scores[first], 0.0) @ worth
    return found


def _draw(weights: Numbers, rng: np.random.Generator) -> int:
    """Draws a place in proportion to its weight; any place if all weigh nothing."""
    total = float(weights.sum())
    if total <= 0.0:
        return int(rng.integers(len(weights)))
    return int(rng.choice(len(weights), p=weights / total))
