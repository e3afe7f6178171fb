"""Spherical interpolation by weights (NuSLERP of mergekit, https://arxiv.org/abs/2403.13257).

Like `slerp`, with t = w_2 / (w_1 + w_2), and
- with `use_base` of the task vectors, which are added to the base again;
- without `nuslerp_flatten` of each row on its own, or with `nuslerp_row_wise` of each column.

Deviations from mergekit: weights that sum to zero are refused (there t = 0.5), a tensor of one row
is a vector with `nuslerp_row_wise`, too, and columns of tensors with more than two dimensions are
those of the matrix of all their rows.
"""

from __future__ import annotations

import torch

from workers.methods.base import Block, Combination, Inputs, Plan, Rule, divisor
from workers.methods.spherical import arc, combined, cosine, gram

#: In float64 arcs keep their digits this close to a straight line.
PARALLEL = 1 - 1e-12


class NuSlerp:
    """Goes from source 0 to source 1 along the arc, as far as the second's share of the weights."""

    def plan(self, inputs: Inputs) -> Plan:
        """Interpolates whole tensors, rows or columns."""
        weights, options = inputs.values["weight"], inputs.options
        t = weights[1] / divisor(weights)
        deltas, whole = options["use_base"], options["nuslerp_flatten"]
        by_columns = options["nuslerp_row_wise"] and inputs.shape[0] > 1
        if whole:
            products = torch.from_numpy(gram(inputs, deltas=deltas))
            angles = cosine(products[0, 1], products[0, 0], products[1, 1])
            shares = [float(share) for share in arc(angles, t, straight_above=PARALLEL)]
            return combined(shares, deltas=deltas)
        if by_columns:
            return _columns(inputs, t, deltas=deltas)
        product = inputs.delta_row_dots if deltas else inputs.row_dots
        angles = cosine(product(0, 1), product(0, 0), product(1, 1))
        first, second = arc(angles, t, straight_above=PARALLEL)
        return Combination(sources=[first, second], base=1 - first - second if deltas else 0.0)


def _columns(inputs: Inputs, t: float, *, deltas: bool) -> Rule:
    def read(block: Block, index: int) -> torch.Tensor:
        return block.delta(index) if deltas else block.source(index)

    def products(block: Block) -> torch.Tensor:
        a, b = (read(block, index).double() for index in range(2))
        return torch.stack([(a * b).sum(0), (a * a).sum(0), (b * b).sum(0)])

    ab, aa, bb = inputs.total(f"columns {'delta' if deltas else 'dot'}", products)
    shares = arc(cosine(ab, aa, bb), t, straight_above=PARALLEL)
    first, second = (share.float() for share in shares)  # (columns,) each

    def merge(block: Block) -> torch.Tensor:
        merged = read(block, 0).mul_(first).add_(read(block, 1).mul_(second))
        return merged.add_(block.base()) if deltas else merged

    return merge
