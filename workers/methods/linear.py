"""Model soup: the weighted mean of the sources (Wortsman et al. 2022, https://arxiv.org/abs/2203.05482)."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from workers.methods.base import Inputs, divisor


class Linear:
    """sum_k w_k theta_k, divided by sum_k w_k unless `normalize` is false."""

    def merge(self, inputs: Inputs) -> torch.Tensor:
        """Mixes the sources; the base takes no part."""
        weights = inputs.values["weight"]
        merged = weighted_sum(inputs.sources, weights)
        return merged / divisor(weights) if inputs.options["normalize"] else merged


def weighted_sum(tensors: Sequence[torch.Tensor], weights: Sequence[float]) -> torch.Tensor:
    """Returns sum_k w_k x_k."""
    total = tensors[0] * weights[0]
    for tensor, weight in zip(tensors[1:], weights[1:], strict=True):
        total.add_(tensor, alpha=weight)
    return total
