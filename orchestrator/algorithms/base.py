"""What a search algorithm is: settings with two pure functions over an explicit memory."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any, Protocol, cast

import numpy as np

from evaluators.registry import Registry
from orchestrator.spaces.genes import Genes, Genome

ALGORITHMS = Registry(
    "algorithm",
    {
        "cma_es": "orchestrator.algorithms.cma_es:CmaEs",
        "cycle_qd": "orchestrator.algorithms.cycle_qd:CycleQd",
        "genetic": "orchestrator.algorithms.genetic:Genetic",
        "map_elites": "orchestrator.algorithms.map_elites:MapElites",
        "nsga2": "orchestrator.algorithms.nsga2:Nsga2",
        "nsga3": "orchestrator.algorithms.nsga3:Nsga3",
        "natural_niches": "orchestrator.algorithms.natural_niches:NaturalNiches",
        "grid": "orchestrator.algorithms.grid:Grid",
        "optuna": "orchestrator.algorithms.optuna_sampler:OptunaSampler",
        "portfolio": "orchestrator.algorithms.portfolio:Portfolio",
        "random": "orchestrator.algorithms.random_search:RandomSearch",
    },
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Proposal:
    """A genome that an algorithm wants measured."""

    genome: Genome
    #: Candidates that it was made from.
    parents: tuple[str, ...] = ()
    #: How it was made, for the record ("sbx+polynomial"; see `orchestrator.operators.naming`).
    operator: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluated:
    """A candidate whose measurement has ended."""

    candidate: str
    #: Place in the order of proposals: the elder wins a tie.
    number: int
    genome: Genome
    #: None if it could not be measured.
    fitness: float | None
    #: Whether a race ended it: its fitness is an estimate, and it ranks below all others.
    stopped: bool = False
    #: Tells those of equal fitness apart, the greater the better; None if unknown.
    tie: float | None = None
    #: Value of each objective, all to be maximised; empty if it could not be measured.
    values: tuple[float, ...] = ()
    #: By how much it breaks the constraints, in all; 0 if it keeps them.
    violation: float = 0.0
    #: What each document of each task scored, for algorithms that say they need it.
    answers: tuple[float, ...] = ()
    #: Candidates that it was made from, and how, as its proposal said.
    parents: tuple[str, ...] = ()
    operator: str = ""

    @property
    def rank(self) -> tuple[bool, float, float, float, int]:
        """Sorts the measured, the better the greater; no two are equal.

        Who was measured in full is before who was stopped, then who breaks the constraints less
        (Deb 2000, https://doi.org/10.1016/S0045-7825(99)00389-8), then who is fitter.
        """
        tie = -math.inf if self.tie is None else self.tie
        return (*self.worth, tie, -self.number)

    @property
    def worth(self) -> tuple[bool, float, float]:
        """The rank without what only tells equals apart: equal ones are as good as each other."""
        fitness = -math.inf if self.fitness is None else self.fitness
        return (not self.stopped, -self.violation, fitness)


@dataclass(frozen=True, slots=True)
class Memory:
    """What an algorithm remembers: candidates, and plain data of its own."""

    #: Measured candidates that it still builds on, in an order of its own.
    members: tuple[Evaluated, ...] = ()
    #: What else it needs, as JSON can hold it; never changed in place.
    state: Mapping[str, Any] = field(default_factory=dict)
    #: Memories of its parts (islands, other algorithms).
    parts: tuple[Memory, ...] = ()

    @property
    def everyone(self) -> Iterator[Evaluated]:
        """All members, those of the parts included."""
        yield from self.members
        for part in self.parts:
            yield from part.everyone

    def changed(self, change: Callable[[Evaluated], Evaluated]) -> Memory:
        """Returns the memory with each member changed; sorted again where it was by rank."""
        members = [change(one) for one in self.members]
        if is_ranked(self.members):
            members.sort(key=lambda one: one.rank, reverse=True)
        parts = tuple(part.changed(change) for part in self.parts)
        return replace(self, members=tuple(members), parts=parts)


class Algorithm(Protocol):
    """Proposes genomes a generation at a time. Holds settings only; changes nothing."""

    def ask(self, genes: Genes, memory: Memory, rng: np.random.Generator) -> list[Proposal]:
        """Returns the proposals of the next generation; none where nothing is left to search."""
        ...

    def tell(self, memory: Memory, evaluated: Sequence[Evaluated]) -> Memory:
        """Returns the memory after a whole generation has been measured."""
        ...

    def size(self, generation: int) -> int:
        """Returns how many proposals a generation (from 1) has if none fails, for estimates."""
        ...


class Asynchronous(Algorithm, Protocol):
    """An algorithm that needs no generations: late outcomes are as good as any."""

    @property
    def asynchronous(self) -> bool:
        """Whether it is set to run so; `size(1)` candidates are then open at any time."""
        ...

    def ask_one(self, genes: Genes, memory: Memory, rng: np.random.Generator) -> Proposal:
        """Returns one more proposal."""
        ...


def as_asynchronous(algorithm: Algorithm) -> Asynchronous | None:
    """Returns the algorithm if it is set to run without generations."""
    is_so = getattr(algorithm, "asynchronous", False)
    return cast("Asynchronous", algorithm) if is_so else None


def check_genes(algorithm: Algorithm, genes: Genes) -> None:
    """Lets an algorithm with a `check` of its own refuse genes that it cannot search.

    Raises:
        ValueError: naming the setting and what to do.
    """
    check = getattr(algorithm, "check", None)
    if check is not None:
        check(genes)


def check_objectives(algorithm: Algorithm, names: Sequence[str]) -> None:
    """Lets an algorithm with a `check_objectives` refuse objectives that it cannot use.

    Raises:
        ValueError: naming the setting and what to do.
    """
    check = getattr(algorithm, "check_objectives", None)
    if check is not None:
        check(names)


def remarks_on_objectives(algorithm: Algorithm, kind: str, names: Sequence[str]) -> list[str]:
    """Returns which objectives are silently without effect on a search.

    An algorithm that looks at more than the fitness says so by a `remarks_on_objectives` of its
    own, which takes how they are aimed at (`orchestrator.objectives`) and their names.
    """
    remarks = getattr(algorithm, "remarks_on_objectives", None)
    if remarks is not None:
        return list(remarks(kind, names))
    if kind != "pareto":
        return []
    said = (
        "search: this algorithm looks at the fitness alone, the weighted sum of the tasks: the "
        "front is of what it comes across; use nsga2 or nsga3 to search for one"
    )
    return [said]


def ranked(evaluated: Sequence[Evaluated]) -> list[Evaluated]:
    """Sorts the measured, best first: by fitness, then likelihood, then age; stopped ones last."""
    measured = [one for one in evaluated if one.fitness is not None]
    return sorted(measured, key=lambda one: one.rank, reverse=True)


def is_ranked(members: Sequence[Evaluated]) -> bool:
    """Whether members come in the order of their ranks, best first."""
    return all(better.rank > worse.rank for better, worse in pairwise(members))


def comparable(members: Sequence[Evaluated]) -> list[float]:
    """Returns the fitness of each member, in keeping with the order of their ranks.

    Who breaks the constraints has the lowest fitness of those who keep them, less by how much it
    breaks them (Deb 2000). What a race stopped was seen on few rows, on which it may look better
    than it is: it is given at most what is below all that were measured in full.
    """
    full = [one for one in members if not one.stopped]
    kept = [one.fitness for one in full if one.fitness is not None and not one.violation]
    lowest = min(kept, default=0.0)
    found = [
        lowest - one.violation if one.violation and not one.stopped else one.fitness or 0.0
        for one in members
    ]
    if not full:
        return found
    worth = list(zip(found, members, strict=True))
    below = math.nextafter(min(one for one, who in worth if not who.stopped), -math.inf)
    return [min(one, below) if who.stopped else one for one, who in worth]
