"""What algorithms have in common whose children come of members that they keep."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
from annotated_types import Ge, Interval

from orchestrator.algorithms.base import Evaluated, Memory, Proposal
from orchestrator.algorithms.children import first_generation, newcomer
from orchestrator.spaces.genes import Genes


@dataclass(frozen=True, slots=True, kw_only=True)
class Breeder(ABC):
    """Begins with samples and goes on with children; members live on without being measured."""

    #: Candidates of a generation; how many are open at any time if `async`.
    population_size: Annotated[int, Ge(2)]
    #: Share of the first generation between the space's plain merge and random samples, the plain
    #: merge among them; the rest is sampled at random.
    warm_start: Annotated[float, Interval(ge=0, le=1)] = 0.5
    #: `async` waits for no generation: each outcome brings a child of what is known by then.
    mode: Literal["generational", "async"] = "generational"

    def ask(self, genes: Genes, memory: Memory, rng: np.random.Generator) -> list[Proposal]:
        """Returns a random generation at first, children of the members afterwards."""
        if not memory.members:
            return first_generation(genes, self.population_size, self.warm_start, rng)
        return self._children(genes, memory, self.population_size, rng)

    @abstractmethod
    def tell(self, memory: Memory, evaluated: Sequence[Evaluated]) -> Memory:
        """Returns whom to keep."""

    @property
    def asynchronous(self) -> bool:
        """Whether each outcome brings the next child."""
        return self.mode == "async"

    def ask_one(self, genes: Genes, memory: Memory, rng: np.random.Generator) -> Proposal:
        """Returns a child of the members, or a newcomer while nothing has been measured."""
        if not memory.members:
            return newcomer(genes, self.warm_start, rng)
        return self._children(genes, memory, 1, rng)[0]

    def size(self, generation: int) -> int:
        """Always the same: members are not measured again."""
        del generation
        return self.population_size

    @abstractmethod
    def _children(
        self, genes: Genes, memory: Memory, num: int, rng: np.random.Generator
    ) -> list[Proposal]:
        """Returns children of the members, of whom there are some."""
