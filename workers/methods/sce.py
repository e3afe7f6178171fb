"""SCE: select, calculate, erase (Wan et al. 2024, FuseChat, https://arxiv.org/abs/2408.07990).

Select the share `select_topk` of the entries whose variance among the sources is largest, of those
that vary at all; calculate each source's weight, its share of the sum of squares of what is left of
the task vectors; erase entries whose sign is not that of their sum. What remains is the mean by
these weights.

Deviations from mergekit: weights are the shares however small task vectors are (there all weights
are alike if the mean squares sum to less than 1e-6, which is the case for most fine-tuning), and
sums of weights are divided by as they are (there by 1e-6 at least).
"""

from __future__ import annotations

import torch

from workers.merging.task_sum import agreeing_sum
from workers.methods.base import Block, Cut, Inputs, Rule


class Sce:
    """theta_0 + sum_k w_k delta_k / sum_k w_k over the sources of the elected sign."""

    def plan(self, inputs: Inputs) -> Rule:
        """Selects, calculates, erases."""
        (share,) = inputs.values["select_topk"]
        cut = _selection(inputs, share) if share < 1 else None

        def selected(block: Block) -> list[torch.Tensor]:
            deltas = [block.delta(index) for index in range(inputs.num_sources)]
            if cut is not None:
                kept = cut.keeps(_variances(block, inputs.num_sources), block.start)
                for delta in deltas:
                    delta.mul_(kept)
            return deltas

        def squares(block: Block) -> torch.Tensor:
            return torch.stack([delta.double().square_().sum() for delta in selected(block)])

        sums = inputs.total(f"squares of {share!r}", squares)
        total = float(sums.sum())
        weights = [float(one) / total if total > 0 else 1 / len(sums) for one in sums]

        def merge(block: Block) -> torch.Tensor:
            deltas = selected(block)
            total = deltas[0].clone()
            for delta in deltas[1:]:
                total.add_(delta)
            is_positive = total >= 0
            parts = [delta.mul_(weight) for delta, weight in zip(deltas, weights, strict=True)]
            return agreeing_sum(parts, is_positive, weights).add_(block.base())

        return merge


def _selection(inputs: Inputs, share: float) -> Cut:
    """Returns the cut that keeps a share of the entries that vary, those that vary most."""

    def variances(block: Block) -> torch.Tensor:
        return _variances(block, inputs.num_sources)

    varied = inputs.total("varied", lambda block: torch.count_nonzero(variances(block)))
    return inputs.cut("variance", variances, int(share * float(varied)))


def _variances(block: Block, num_sources: int) -> torch.Tensor:
    """Returns each entry's variance among the sources, times their number squared.

    Equal sources give exactly 0. In float64, where the sums of numbers as short as bfloat16's are
    exact, the order of sources makes no difference.
    """
    first = block.source(0).double()
    sums, squares = torch.zeros_like(first), torch.zeros_like(first)
    for index in range(1, num_sources):
        difference = block.source(index).double().sub_(first)
        sums.add_(difference)
        squares.add_(difference.square_())
    return squares.mul_(num_sources).sub_(sums.square_()).clamp_min_(0).float()
