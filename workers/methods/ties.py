"""TIES: trim, elect sign, merge (Yadav et al. 2023, https://arxiv.org/abs/2306.01708).

Deviations: all entries as large as the smallest kept one are kept, so that the result does not
depend on a sorting order; normalisation is off by default, because evolved weights that sum to
more than one were the best found (Akiba et al. 2024, https://arxiv.org/abs/2403.13187).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from workers.methods.base import Inputs


class Ties:
    """theta_0 + lambda * sum of the trimmed, weighted task vectors of the elected sign."""

    def merge(self, inputs: Inputs) -> torch.Tensor:
        """Trims each task vector to its density, then elects and sums."""
        deltas = [
            trim(source - inputs.base, density)
            for source, density in zip(inputs.sources, inputs.values["density"], strict=True)
        ]
        total = elect_and_sum(
            deltas, inputs.values["weight"], normalize=inputs.options["normalize"]
        )
        return inputs.base.add(total, alpha=inputs.options["lambda"])


def trim(delta: torch.Tensor, density: float) -> torch.Tensor:
    """Keeps the share `density` in (0, 1] of entries of largest magnitude, zeroes the rest."""
    keep = max(1, int(density * delta.numel()))
    if keep >= delta.numel():
        return delta
    magnitude = delta.abs()
    threshold = magnitude.flatten().kthvalue(delta.numel() - keep + 1).values
    return delta * (magnitude >= threshold)


def elect_and_sum(
    deltas: Sequence[torch.Tensor], weights: tuple[float, ...], *, normalize: bool
) -> torch.Tensor:
    """Sums w_k delta_k over the k that agree with the sign of the whole sum (+ where it is 0)."""
    weighted = [delta * weight for delta, weight in zip(deltas, weights, strict=True)]
    elected = torch.stack(weighted).sum(0) >= 0
    total = torch.zeros_like(weighted[0])
    shares = torch.zeros_like(weighted[0]) if normalize else None
    for part, weight in zip(weighted, weights, strict=True):
        agrees = ((part > 0) == elected) & (part != 0)
        total += part * agrees
        if shares is not None:
            shares += weight * agrees
    if shares is None:
        return total
    return total / torch.where(shares.abs() < 1e-8, 1.0, shares)
