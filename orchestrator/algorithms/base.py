"""What a search algorithm is: settings with two pure functions over an explicit memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias, cast

import numpy as np

from evaluators.registry import Registry
from orchestrator.spaces.base import Box, Genome

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


#: An algorithm's memory: the measured candidates it still builds on, best first.
Memory: TypeAlias = tuple[Evaluated, ...]


class Algorithm(Protocol):
    """Proposes genomes a generation at a time. Holds settings only; changes nothing."""

    def ask(self, box: Box, memory: Memory, rng: np.random.Generator) -> list[Proposal]:
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

    def ask_one(self, box: Box, memory: Memory, rng: np.random.Generator) -> Proposal:
        """Returns one more proposal."""
        ...


def as_asynchronous(algorithm: Algorithm) -> Asynchronous | None:
    """Returns the algorithm if it is set to run without generations."""
    is_so = getattr(algorithm, "asynchronous", False)
    return cast("Asynchronous", algorithm) if is_so else None


def ranked(evaluated: Sequence[Evaluated]) -> list[Evaluated]:
    """Sorts the measured by fitness, best first, the elder first among equals."""
    measured = [one for one in evaluated if one.fitness is not None]
    return sorted(measured, key=lambda one: (-(one.fitness or 0.0), one.number))
