"""Random search: uniform samples (Bergstra & Bengio 2012, JMLR 13). The control of every other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import numpy as np
from annotated_types import Ge

from orchestrator.algorithms.base import Evaluated, Memory, Proposal
from orchestrator.spaces.genes import Genes


@dataclass(frozen=True, slots=True, kw_only=True)
class RandomSearch:
    """Draws every genome uniformly from the space."""

    #: Candidates in what counts as a generation.
    population_size: Annotated[int, Ge(1)] = 16

    def ask(self, genes: Genes, memory: Memory, rng: np.random.Generator) -> list[Proposal]:
        """Draws a generation."""
        del memory
        return [
            Proposal(genome=genome, operator="sample")
            for genome in genes.sample(rng, self.population_size)
        ]

    def tell(self, memory: Memory, evaluated: Sequence[Evaluated]) -> Memory:
        """Learns nothing."""
        del evaluated
        return memory

    def size(self, generation: int) -> int:
        """Always the same."""
        del generation
        return self.population_size
