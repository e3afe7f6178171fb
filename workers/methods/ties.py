"""TIES: trim, elect sign, merge (Yadav et al. 2023, https://arxiv.org/abs/2306.01708).

Deviation: normalisation is off by default, because evolved weights that sum to more than one were
the best found (Akiba et al. 2024, https://arxiv.org/abs/2403.13187).
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import torch

from workers.methods.base import Inputs, TaskVector


class Ties:
    """theta_0 + lambda * sum of the trimmed, weighted task vectors of the elected sign."""

    def merge(self, inputs: Inputs) -> torch.Tensor:
        """Trims each task vector to its density, then elects and sums."""
        deltas = [
            vector.trimmed(density)
            for vector, density in zip(inputs.task_vectors(), inputs.values["density"], strict=True)
        ]
        total = elect_and_sum(
            deltas, inputs.values["weight"], normalize=inputs.options["normalize"]
        )
        return inputs.base.add(total, alpha=inputs.options["lambda"])


def trim(delta: torch.Tensor, density: float) -> torch.Tensor:
    """Keeps the share `density` in (0, 1] of entries of largest magnitude, zeroes the rest."""
    return TaskVector(delta).trimmed(density)


def elect_and_sum(
    deltas: Sequence[torch.Tensor], weights: tuple[float, ...], *, normalize: bool
) -> torch.Tensor:
    """Sums w_k delta_k over the k that agree with the sign of the whole sum (+ where it is 0)."""
    weighted = [delta * weight for delta, weight in zip(deltas, weights, strict=True)]
    elected = functools.reduce(torch.add, weighted) >= 0
    total = torch.zeros_like(weighted[0])
    shares = torch.zeros_like(weighted[0])
    for part, weight in zip(weighted, weights, strict=True):
        agrees = (part > 0) == elected  # a part of 0 adds nothing to the sum either way
        total.addcmul_(part, agrees.to(part.dtype))
        if normalize:
            shares.add_(agrees & (part != 0), alpha=weight)
    if not normalize:
        return total
    return total / torch.where(shares.abs() < 1e-8, 1.0, shares)
