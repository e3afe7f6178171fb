"""DELLA: drops small entries more often than large ones (Deep, Bhardwaj and Poria 2024).

https://arxiv.org/abs/2406.11617, MagPrune: within each row, entries are ranked by magnitude and
kept with a probability that rises linearly with the rank from density - epsilon to
density + epsilon (the paper's epsilon is the whole width, here as in mergekit it is half of it).
`rescale: density` divides each kept entry by its own probability, as in the paper; `rescale: l1`
scales the tensor so that its L1 norm stays, as mergekit does. `della` elects signs as TIES does,
`della_linear` does not.

Deviations: normalisation is off by default, as for TIES. Rows are those of the last dimension
(mergekit ranks along the second one); the only entry of a row of one is kept with the probability
`density` (there it fails).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from workers.merging.task_sum import Vector, vector_sum_rule
from workers.methods.base import Block, Inputs, Rule
from workers.methods.dare import RESCALES
from workers.methods.task_vectors import elected_sum, l1_ratio, rescaling, weighted_sum


class DellaLinear:
    """theta_0 + lambda * sum_k w_k magprune(delta_k)."""

    def plan(self, inputs: Inputs) -> Rule:
        """Drops entries by rank, rescales and sums."""
        return vector_sum_rule(weighted_sum(inputs, ()), _pruned(inputs))


class Della:
    """Dropping by rank in place of TIES' trimming, then TIES' election and sum."""

    def plan(self, inputs: Inputs) -> Rule:
        """Drops entries by rank, rescales, elects and sums."""
        return vector_sum_rule(elected_sum(inputs, ()), _pruned(inputs))


@dataclass(frozen=True, slots=True, kw_only=True)
class MagPruned:
    """A source's task vector with entries kept by rank (a `Vector`)."""

    source: int
    #: Keep probability of each rank in a row, from the smallest magnitude on: (columns,).
    by_rank: torch.Tensor
    #: Whether what is kept is divided by its probability, and by what else it is multiplied.
    divides: bool = False
    factor: float = 1.0

    def __call__(self, block: Block) -> torch.Tensor:
        """Returns a block of it."""
        delta = block.delta(self.source)
        order = delta.abs().sort(dim=1, stable=True).indices
        steps = self.by_rank.to(delta.device).expand_as(delta)
        probabilities = torch.empty_like(delta).scatter_(1, order, steps)
        delta.mul_(block.uniform(self.source) < probabilities)
        if self.divides:
            delta.div_(probabilities)
        return delta if self.factor == 1 else delta.mul_(self.factor)


def _pruned(inputs: Inputs) -> list[Vector]:
    """Returns task vectors of which entries are dropped at random, small ones rather than large.

    Raises:
        ValueError: if a density with its epsilon gives probabilities outside (0, 1), or `rescale`
            is none of density, l1 and none.
    """
    rescale = rescaling(inputs, *RESCALES)
    pairs = zip(inputs.values["density"], inputs.values["epsilon"], strict=True)
    return [_magpruned(inputs, index, *pair, rescale) for index, pair in enumerate(pairs)]


def _magpruned(inputs: Inputs, index: int, density: float, epsilon: float, rescale: str) -> Vector:
    if density >= 1:
        return lambda block: block.delta(index)
    if not (density - epsilon > 0 and density + epsilon < 1):
        raise ValueError(
            f"density {density:g} with epsilon {epsilon:g} keeps entries with probabilities from "
            f"{density - epsilon:g} to {density + epsilon:g}, expected inside (0, 1): "
            f"take a smaller epsilon"
        )
    by_rank = _by_rank(density, epsilon, inputs.shape[1])
    pruned = MagPruned(source=index, by_rank=by_rank, divides=rescale == "density")
    if rescale != "l1":
        return pruned
    key = f"magprune {density!r} {epsilon!r}"
    return replace(pruned, factor=l1_ratio(inputs, index, pruned, key))


def _by_rank(density: float, epsilon: float, columns: int) -> torch.Tensor:
    if columns == 1:
        return torch.tensor([density])
    low, high = density - epsilon, density + epsilon
    return torch.linspace(low, high, columns, dtype=torch.float64).float()
