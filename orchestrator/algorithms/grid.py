"""Grid search: every combination of some values of each gene, in order, each once.

Numbers have values at equal steps of their scale, both bounds among them; choices, bits and orders
all they can have. Combinations that mean the same, as they differ in genes that do not count, are
measured once. The search ends when all have been asked for.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice, permutations
from typing import Annotated, TypeAlias

import numpy as np
from annotated_types import Ge

from orchestrator.algorithms.base import Evaluated, Memory, Proposal
from orchestrator.spaces.genes import Gene, Genes, Genome, Integer, Permutation, Real

#: A gene's part of a genome, with each value that it has on the grid.
Axis: TypeAlias = "list[tuple[float, ...]]"


@dataclass(frozen=True, slots=True, kw_only=True)
class Grid:
    """Measures a grid, `population_size` genomes at a time."""

    #: Candidates in what counts as a generation.
    population_size: Annotated[int, Ge(1)] = 16
    #: Values of each number; a whole number has no more than there are.
    points: Annotated[int, Ge(2)] = 5
    #: Gene -> values of this one, in place of `points`; 1 is the middle of its range.
    points_of: Mapping[str, Annotated[int, Ge(1)]] = field(default_factory=dict)
    #: Combinations above which the grid is refused: such a search would hardly end.
    most: Annotated[int, Ge(1)] = 100_000

    def check(self, genes: Genes) -> None:
        """Refuses grids that are too large.

        Raises:
            ValueError: saying how large it would be, or which gene is not there.
        """
        names = [one.name for one in genes.genes]
        if strange := sorted(set(self.points_of) - set(names)):
            raise ValueError(f"points_of: no gene is called {strange[0]!r}; there are {names}")
        size = math.prod(self._count(one) for one in genes.genes)
        if size > self.most:
            raise ValueError(
                f"points: a grid of {len(names)} genes has {_said(size)} genomes, more than most "
                f"({self.most:,}); give numbers fewer points, raise most, or use another search"
            )

    def ask(self, genes: Genes, memory: Memory, rng: np.random.Generator) -> list[Proposal]:
        """Returns the next genomes of the grid; none when it is at its end."""
        del rng
        self.check(genes)
        following = _from(genes, [self._axis(one) for one in genes.genes], memory.state.get("last"))
        return [
            Proposal(genome=genome, operator="grid")
            for genome in islice(following, self.population_size)
        ]

    def tell(self, memory: Memory, evaluated: Sequence[Evaluated]) -> Memory:
        """Remembers how far it came; what was measured does not matter."""
        if not evaluated:
            return memory
        latest = max(evaluated, key=lambda one: one.number)
        return Memory(state={"last": list(latest.genome)})

    def size(self, generation: int) -> int:
        """Always the same, but at the end."""
        del generation
        return self.population_size

    def _count(self, one: Gene) -> int:
        return math.factorial(one.size) if isinstance(one, Permutation) else len(self._axis(one))

    def _axis(self, one: Gene) -> Axis:
        if isinstance(one, Permutation):
            return [tuple(map(float, order)) for order in permutations(range(one.size))]
        alone = Genes((replace(one, when={}),))
        low, high = alone.lower[0], alone.upper[0]
        if not isinstance(one, Real | Integer):
            return [(float(value),) for value in range(int(high) + 1)]
        num = self.points_of.get(one.name, self.points)
        inner = [alone.to_inner(np.array([end])) for end in (low, high)]
        shares = np.linspace(0.0, 1.0, num) if num > 1 else [0.5]
        values = [inner[0] + share * (inner[1] - inner[0]) for share in shares]
        return list(dict.fromkeys(alone.repair(alone.to_outer(value)) for value in values))


def _from(genes: Genes, axes: Sequence[Axis], last: Sequence[float] | None) -> Iterator[Genome]:
    """Yields the genomes of a grid after one, or all; the last gene's values change fastest."""
    for index in range(0 if last is None else 1 + _index(genes, axes, last), _size(axes)):
        parts, rest = [], index
        for axis in reversed(axes):
            rest, place = divmod(rest, len(axis))
            parts.append(axis[place])
        genome = tuple(number for part in reversed(parts) for number in part)
        if genes.canonical(genome) == genome:
            yield genome


def _index(genes: Genes, axes: Sequence[Axis], genome: Sequence[float]) -> int:
    """Returns the place of a genome; -1 if it is not on this grid, as after a fork."""
    index = 0
    for axis, (first, end) in zip(axes, genes.spans, strict=True):
        if (part := tuple(genome[first:end])) not in axis:
            return -1
        index = index * len(axis) + axis.index(part)
    return index


def _size(axes: Sequence[Axis]) -> int:
    return math.prod(map(len, axes))


def _said(size: int) -> str:
    return f"{size:,}" if size < 10**12 else f"about 10^{int(math.log10(size))}"
