"""Arcee Fusion: takes the changes that stand out (Arcee AI 2025, https://www.arcee.ai).

An entry's importance is its change times the Kullback-Leibler divergence of its row, rows taken as
softmax distributions: |theta - theta_0| KL(softmax(theta) || softmax(theta_0)). Entries whose
importance is above Tukey's fence, median + 1.5 (upper - lower quartile), are the source's. The 1.5
is the parameter `fence` here.

Deviations from mergekit: divergences are taken in float64, where those of small changes are more
than rounding errors, and without an offset of probabilities; quartiles are exact (there those of a
random million entries of larger tensors).
"""

from __future__ import annotations

import torch

from workers.methods.base import Block, Inputs, Rule


class ArceeFusion:
    """theta_0 + delta where its importance reaches the fence."""

    def plan(self, inputs: Inputs) -> Rule:
        """Computes importances, their quartiles and the fence."""
        (fence,) = inputs.values["fence"]
        divergences = inputs.rows("divergence", _divergences).clamp_min(0)
        scale = divergences.float()  # (rows, 1)
        columns = inputs.shape[1]

        def importances(block: Block, changes: torch.Tensor) -> torch.Tensor:
            first = block.start // columns
            return changes.mul_(scale[first : first + changes.shape[0]])

        def quantile(share: float) -> float:
            last = inputs.shape[0] * columns - 1
            return inputs.nth(
                "importance",
                lambda block: importances(block, block.delta(0).abs_()),
                last + 1 - int(share * last),
            )

        lower, median, upper = (quantile(share) for share in (0.25, 0.5, 0.75))
        threshold = median + fence * (upper - lower)

        def merge(block: Block) -> torch.Tensor:
            delta = block.delta(0)
            delta.mul_(importances(block, delta.abs()) >= threshold)
            return delta.add_(block.base())

        return merge


def _divergences(block: Block) -> torch.Tensor:
    """Returns KL(softmax(theta) || softmax(theta_0)) of each row."""
    changed, base = block.source(0).double(), block.base().double()
    gains = changed.log_softmax(1)
    return (gains.exp() * (gains - base.log_softmax(1))).sum(1, keepdim=True)
