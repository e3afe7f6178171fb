"""A generational genetic algorithm with elitism (Holland 1975; De Jong 1975; Deb 2001).

In `async` mode it is the steady-state algorithm (Whitley 1989; Scott & De Jong 2015): (mu + 1).

By default half of the members live on, and operators of two kinds breed: those that make steps of
one size, and those that exchange genes and make steps of any size.

Deviations: half of the first generation lies about the plain merge (see `warm_start`); one child of
each crossing is kept; a child that equals a member of its generation or of the population is
mutated again, since measuring a model twice teaches nothing; members that could not be measured
have no place in the population.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal

import numpy as np
from annotated_types import Ge, Interval

from orchestrator.algorithms.base import Evaluated, Memory, Proposal, comparable, ranked
from orchestrator.algorithms.children import child_of, first_generation, newcomer, siblings
from orchestrator.algorithms.islands import Islands, born_on
from orchestrator.algorithms.steady_state import replaced
from orchestrator.algorithms.toolbox import Toolbox
from orchestrator.operators.crossover import Crossover, Sbx, Uniform
from orchestrator.operators.diversity import Immigrants, Sharing, distances
from orchestrator.operators.mutation import Flip, Mutation, Polynomial
from orchestrator.operators.selection import Selection, Tournament
from orchestrator.spaces.genes import Genes, Genome

#: Members of whom one child's parents are chosen, where distances between them count.
_SAMPLE = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Genetic:
    """Selects, crosses and mutates; the elite survives unchanged and is not measured again."""

    #: Members of the population.
    population_size: Annotated[int, Ge(2)]
    #: How parents are chosen.
    selection: Selection = Tournament()
    #: How two parents make a child; of several in a list, each child is made by one.
    crossover: Crossover | tuple[Crossover, ...] = (Sbx(), Uniform())
    #: How a child is changed; of several in a list, each child is changed by one.
    mutation: Mutation | tuple[Mutation, ...] = (Polynomial(), Flip())
    #: How one of several operators is chosen: all alike, or rather those whose children are often
    #: better than their better parents (adaptive pursuit).
    operators: Literal["uniform", "adaptive"] = "uniform"
    #: Share of the first generation between the space's plain merge and random samples, the plain
    #: merge among them; the rest is sampled at random.
    warm_start: Annotated[float, Interval(ge=0, le=1)] = 0.5
    #: Best members that live on; each generation measures `population_size - elites` children.
    #: Null is half of the population; one with `sharing`, as the best lie on one peak. On islands,
    #: so many on each.
    elites: Annotated[int, Ge(0)] | None = None
    #: Gives those that are near to others fewer children; null shares nothing.
    sharing: Sharing | None = None
    #: Populations that breed apart and exchange their best; null is one population.
    islands: Islands | None = None
    #: Random genomes that come when diversity falls; null lets none in.
    immigrants: Immigrants | None = None
    #: `async` waits for no generation: each outcome brings a child of the best so far, (mu + 1).
    mode: Literal["generational", "async"] = "generational"

    def __post_init__(self) -> None:
        smallest = self.population_size
        if self.islands is not None:
            self.islands.check(self.population_size)
            smallest = self.islands.sizes(self.population_size)[-1]
        if self.elites is not None and self.elites >= smallest:
            of = "members of the smallest island" if self.islands else "population_size"
            raise ValueError(f"elites: expected fewer than {of} ({smallest}), got {self.elites}")
        for name, some in (("crossover", self.crossover), ("mutation", self.mutation)):
            if some == ():
                raise ValueError(f"{name}: expected one, or a list of some, got an empty list")
        several = len(self._tools.crossovers) > 1 or len(self._tools.mutations) > 1
        if self.operators == "adaptive" and not several:
            raise ValueError("operators: adaptive needs a list as crossover or mutation")

    def ask(self, genes: Genes, memory: Memory, rng: np.random.Generator) -> list[Proposal]:
        """Returns a random generation at first, children of the population afterwards."""
        if self.islands is None:
            return self._generation(genes, memory, rng)
        islands, parts = self.islands, self._parts(memory)
        if not any(part.members for part in parts):
            first = first_generation(genes, self.population_size, self.warm_start, rng)
            dealt = [(at, first[at :: islands.count]) for at in range(islands.count)]
            return [one for at, ours in dealt for one in born_on(at, ours)]
        return [
            proposal
            for at, (island, part) in enumerate(zip(self._lone, parts, strict=True))
            for proposal in born_on(at, island.ask(genes, part, rng))
        ]

    def tell(self, memory: Memory, evaluated: Sequence[Evaluated]) -> Memory:
        """Keeps the elite and the new generation, best first; all that were known if async."""
        if self.islands is None:
            return self._told(memory, evaluated)
        islands, parts = self.islands, list(self._parts(memory))
        for at, island in enumerate(self._lone):
            ours = [one for one in evaluated if islands.home(one) == at]
            parts[at] = island.tell(parts[at], ours) if ours else parts[at]
        # How much of the time until the next exchange has passed.
        passed = memory.state.get("passed", 0) + (len(evaluated) if self.asynchronous else 1)
        period = islands.every * (self.population_size if self.asynchronous else 1)
        if passed >= period:
            parts = list(islands.migrated(parts, [one.population_size for one in self._lone]))
        return Memory(state={"passed": passed % period}, parts=tuple(parts))

    @property
    def asynchronous(self) -> bool:
        """Whether each outcome brings the next child."""
        return self.mode == "async"

    def ask_one(self, genes: Genes, memory: Memory, rng: np.random.Generator) -> Proposal:
        """Returns a child of the population, or a newcomer while nothing has been measured."""
        if self.islands is not None:
            at = int(rng.integers(self.islands.count))
            part = self._parts(memory)[at]
            return born_on(at, [self._lone[at].ask_one(genes, part, rng)])[0]
        members = self._members(memory)
        if not members:
            return newcomer(genes, self.warm_start, rng)
        pool = self._pool(genes, members, rng)
        if pool.is_narrow and self.immigrants and rng.random() < self.immigrants.share:
            return _immigrants(genes, 1, rng)[0]
        return self._child(genes, pool, memory, [one.genome for one in members], rng)

    def size(self, generation: int) -> int:
        """The elite is not measured again."""
        if self.asynchronous or generation == 1:
            return self.population_size
        lone = self._lone if self.islands else [self]
        return sum(one.population_size - one.num_elites for one in lone)

    @property
    def num_elites(self) -> int:
        """Members of a population that live on."""
        if self.elites is not None:
            return self.elites
        return 1 if self.sharing is not None else self.population_size // 2

    def _generation(self, genes: Genes, memory: Memory, rng: np.random.Generator) -> list[Proposal]:
        members = self._members(memory)
        if not members:
            return first_generation(genes, self.population_size, self.warm_start, rng)
        num = self.population_size - min(self.num_elites, len(members))
        pool = self._pool(genes, members)
        num_new = math.ceil(self.immigrants.share * num) if self.immigrants else 0
        num_new = num_new if pool.is_narrow else 0

        def born(known: Collection[Genome]) -> Proposal:
            return self._child(genes, pool, memory, known, rng)

        return siblings(members, num - num_new, born) + _immigrants(genes, num_new, rng)

    def _pool(
        self, genes: Genes, members: Sequence[Evaluated], rng: np.random.Generator | None = None
    ) -> _Pool:
        """Returns the population as parents are chosen from it.

        Where distances count, `rng` draws some of a large one: those between all cost too much for
        a single child.
        """
        if self.sharing is None and self.immigrants is None:
            return _Pool(members, comparable(members))
        if rng is not None and len(members) > _SAMPLE:
            places = sorted(rng.choice(len(members), _SAMPLE, replace=False))
            members = [members[place] for place in places]
        apart = distances([member.genome for member in members], genes)
        is_narrow = self.immigrants is not None and self.immigrants.are_needed(apart)
        if self.sharing is None:
            return _Pool(members, comparable(members), is_narrow)
        shared = self.sharing.shared(apart)
        order = sorted(range(len(members)), key=lambda place: -shared[place])
        return _Pool([members[at] for at in order], [shared[at] for at in order], is_narrow)

    def _child(
        self,
        genes: Genes,
        pool: _Pool,
        memory: Memory,
        known: Collection[Genome],
        rng: np.random.Generator,
    ) -> Proposal:
        chosen = self.selection(pool.fitness, 2, rng)
        parents = [pool.members[index] for index in chosen]
        tools = self._tools.draw(memory.state.get("operators", {}), rng)
        return child_of(parents, *tools[:2], known, genes, rng, names=tools[2])

    def _told(self, memory: Memory, evaluated: Sequence[Evaluated]) -> Memory:
        """Returns the memory of one population."""
        members, left = self._members(memory), memory.state.get("left", {})
        state: dict[str, Any] = {}
        if self.operators == "adaptive":
            worths = {id_: tuple(worth) for id_, (*worth, _) in left.items()}
            worths |= {one.candidate: one.worth for one in members}
            records = memory.state.get("operators", {})
            state["operators"] = self._tools.learned(records, evaluated, worths)
        if not self.asynchronous:
            kept = ranked([*members[: self.num_elites], *evaluated])[: self.population_size]
        elif state or self.sharing or self.immigrants:
            kept, state["left"] = replaced(
                members, left, evaluated, self.population_size, niches=self.sharing is not None
            )
        else:
            kept = ranked([*members, *evaluated])[: self.population_size]
        return Memory(tuple(kept), state)

    def _members(self, memory: Memory) -> Sequence[Evaluated]:
        """Returns the population; of an algorithm with several, which a fork has left, the best."""
        if memory.members or not memory.parts:
            return memory.members
        return ranked(list({one.candidate: one for one in memory.everyone}.values()))[
            : self.population_size
        ]

    def _parts(self, memory: Memory) -> Sequence[Memory]:
        """Returns the islands' memories."""
        assert self.islands is not None
        if len(memory.parts) == self.islands.count:
            return memory.parts
        return self.islands.deal(self._members(memory))

    @property
    def _lone(self) -> list[Genetic]:
        """The algorithm of each island."""
        assert self.islands is not None
        sizes = self.islands.sizes(self.population_size)
        return [replace(self, islands=None, population_size=size) for size in sizes]

    @property
    def _tools(self) -> Toolbox:
        crossings, changes = self.crossover, self.mutation
        return Toolbox(
            crossings if isinstance(crossings, tuple) else (crossings,),
            changes if isinstance(changes, tuple) else (changes,),
        )


@dataclass(frozen=True, slots=True)
class _Pool:
    """Members, and what they are chosen by as parents, the best first."""

    members: Sequence[Evaluated]
    fitness: Sequence[float]
    #: Whether they are too near to each other.
    is_narrow: bool = False


def _immigrants(genes: Genes, num: int, rng: np.random.Generator) -> list[Proposal]:
    return [Proposal(genome=one, operator="immigrant") for one in genes.sample(rng, num)]
