"""A generational genetic algorithm with elitism (Holland 1975; De Jong 1975; Deb 2001).

In `async` mode it is the steady-state algorithm (Whitley 1989; Scott & De Jong 2015): (mu + 1).

Deviations: half of the first generation lies about the plain merge (see `warm_start`); one child of
each crossing is kept; a child that equals a member of its generation or of the population is
mutated again, since measuring a model twice teaches nothing; members that could not be measured
have no place in the population.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
from annotated_types import Ge, Interval

from orchestrator.algorithms.base import Evaluated, Memory, Proposal, comparable, ranked
from orchestrator.operators.crossover import Crossover, Sbx
from orchestrator.operators.mutation import Mutation, Polynomial
from orchestrator.operators.selection import Selection, Tournament
from orchestrator.spaces.genes import Genes, Genome, genome_of

#: Mutations of a child that keeps equalling a known genome before it is let through.
_MAX_MUTATIONS = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Genetic:
    """Selects, crosses and mutates; the elite survives unchanged and is not measured again."""

    #: Members of the population.
    population_size: Annotated[int, Ge(2)]
    #: How parents are chosen.
    selection: Selection = Tournament()
    #: How two parents make a child.
    crossover: Crossover = Sbx()
    #: How a child is changed.
    mutation: Mutation = Polynomial()
    #: Share of the first generation between the space's plain merge and random samples, the plain
    #: merge among them; the rest is sampled at random.
    warm_start: Annotated[float, Interval(ge=0, le=1)] = 0.5
    #: Best members that live on; each generation measures `population_size - elites` children.
    elites: Annotated[int, Ge(0)] = 1
    #: `async` waits for no generation: each outcome brings a child of the best so far, (mu + 1).
    mode: Literal["generational", "async"] = "generational"

    def __post_init__(self) -> None:
        if self.elites >= self.population_size:
            raise ValueError(
                f"elites: expected fewer than population_size ({self.population_size}), got "
                f"{self.elites}"
            )

    def ask(self, genes: Genes, memory: Memory, rng: np.random.Generator) -> list[Proposal]:
        """Returns a random generation at first, children of the population afterwards."""
        if not memory.members:
            return self._first(genes, rng)
        known = {member.genome for member in memory.members}
        children: list[Proposal] = []
        for _ in range(self.population_size - min(self.elites, len(memory.members))):
            child = self._child(genes, memory, known, rng)
            known.add(child.genome)
            children.append(child)
        return children

    def tell(self, memory: Memory, evaluated: Sequence[Evaluated]) -> Memory:
        """Keeps the elite and the new generation, best first; all that were known if async."""
        kept = memory.members if self.asynchronous else memory.members[: self.elites]
        return Memory(tuple(ranked([*kept, *evaluated])[: self.population_size]))

    @property
    def asynchronous(self) -> bool:
        """Whether each outcome brings the next child."""
        return self.mode == "async"

    def ask_one(self, genes: Genes, memory: Memory, rng: np.random.Generator) -> Proposal:
        """Returns a child of the population, or a sample while nothing has been measured."""
        if not memory.members:
            return Proposal(genome=genes.sample(rng, 1)[0], operator="sample")
        return self._child(genes, memory, [member.genome for member in memory.members], rng)

    def size(self, generation: int) -> int:
        """The elite is not measured again."""
        if self.asynchronous:
            return self.population_size
        return self.population_size if generation == 1 else self.population_size - self.elites

    def _first(self, genes: Genes, rng: np.random.Generator) -> list[Proposal]:
        """Samples the first generation, part of it on the way from the start to anywhere."""
        samples = genes.sample(rng, self.population_size)
        num_warm = round(self.warm_start * len(samples)) if genes.start is not None else 0
        ways = rng.random(num_warm)
        ways[:1] = 0.0
        proposals = []
        for sample, way in zip(samples[:num_warm], ways, strict=True):
            start = np.asarray(genes.start)
            between = genes.repair(start + way * (np.asarray(sample) - start))
            proposals.append(Proposal(genome=between, operator="start"))
        proposals += [Proposal(genome=one, operator="sample") for one in samples[num_warm:]]
        return proposals

    def _child(
        self, genes: Genes, memory: Memory, known: Collection[Genome], rng: np.random.Generator
    ) -> Proposal:
        members = memory.members
        chosen = self.selection(comparable(members), 2, rng)
        first, second = (members[index] for index in chosen)
        values = np.asarray(first.genome)
        crossed = self.crossover(values, np.asarray(second.genome), genes, rng)
        parents = (first.candidate,) if crossed is None else (first.candidate, second.candidate)
        values = values if crossed is None else crossed
        for _ in range(_MAX_MUTATIONS):
            child = genes.repair(self.mutation(values, genes, rng))
            if child not in known:
                break
            values = np.asarray(child)
        names = [] if crossed is None else [type(self.crossover).__name__.lower()]
        operator = "+".join([*names, type(self.mutation).__name__.lower()])
        return Proposal(
            genome=genome_of(np.asarray(child)),
            parents=tuple(dict.fromkeys(parents)),
            operator=operator,
        )
