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
        "genetic": "orchestrator.algorithms.genetic:Genetic",
        "random": "orchestrator.algorithms.random_search:RandomSearch",
    },
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Proposal:
    """A genome that an algorithm wants measured."""

    genome: Genome
    #: Candidates that it was made from.
    parents: tuple[str, ...] = ()
    #: How it was made, for the record ("sbx+polynomial").
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

    @property
    def rank(self) -> tuple[bool, float, float, float, int]:
        """Sorts the measured, the better the greater; no two are equal.

        Who was measured in full is before who was stopped, then who breaks the constraints less
        (Deb 2000, https://doi.org/10.1016/S0045-7825(99)00389-8), then who is fitter.
        """
        fitness = -math.inf if self.fitness is None else self.fitness
        tie = -math.inf if self.tie is None else self.tie
        return (not self.stopped, -self.violation, fitness, tie, -self.number)


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
        """Returns the proposals of the next generation."""
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


def ranked(evaluated: Sequence[Evaluated]) -> list[Evaluated]:
    """Sorts the measured, best first: by fitness, then likelihood, then age; stopped ones last."""
    measured = [one for one in evaluated if one.fitness is not None]
    return sorted(measured, key=lambda one: one.rank, reverse=True)


def is_ranked(members: Sequence[Evaluated]) -> bool:
    """Whether members come in the order of their ranks, best first."""
    return all(better.rank > worse.rank for better, worse in pairwise(members))


def comparable(members: Sequence[Evaluated]) -> list[float]:
    """Returns the fitness of each member, with that of stopped ones below all others.

    What a race stopped was seen on few rows, on which it may look better than it is: it is given
    at most the lowest fitness of those that were measured in full.
    """
    known = [one.fitness for one in members if one.fitness is not None and not one.stopped]
    if not known:
        return [one.fitness or 0.0 for one in members]
    below = math.nextafter(min(known), -math.inf)
    return [
        min(one.fitness or 0.0, below) if one.stopped else one.fitness or 0.0 for one in members
    ]
