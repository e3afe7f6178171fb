"""Sums of thinned task vectors by torch, block by block: for devices and types without a kernel."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import torch

from workers.methods.base import Block, Cut, Rule, TaskSum, Thinned

#: Makes a source's task vector as it enters a sum: fresh memory, of the block's shape.
Vector: TypeAlias = "Callable[[Block], torch.Tensor]"


def task_sum_rule(plan: TaskSum) -> Rule:
    """Returns the rule that does what the kernel does (see `kernels.sum_tasks`)."""
    vectors = [
        partial(thinned_delta, index=index, thinned=one) for index, one in enumerate(plan.thinned)
    ]
    return vector_sum_rule(plan, vectors)


def vector_sum_rule(plan: TaskSum, vectors: Sequence[Vector]) -> Rule:
    """Returns the rule that sums task vectors as a plan says, thinned out in any other way."""

    def merge(block: Block) -> torch.Tensor:
        pairs = zip(vectors, plan.weights, strict=True)
        parts = [vector(block).mul_(weight) for vector, weight in pairs]
        total = parts[0].clone()
        for part in parts[1:]:
            total.add_(part)
        if plan.elect:
            total = agreeing_sum(parts, total >= 0, plan.weights if plan.normalize else None)
        return block.base().add_(total, alpha=plan.scale)

    return merge


def numbers_of(
    weight: float, thinned: Thinned
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    """Returns a term of a sum as kernels take it (see `kernels.sum_tasks`): (5,) and (2,)."""
    kept = thinned.kept or Cut(threshold=-1.0, last=-1)
    outliers = thinned.outliers or Cut(threshold=float("inf"), last=-1)
    term = [weight, kept.threshold, outliers.threshold, thinned.density, thinned.factor]
    return np.array(term, np.float32), np.array([kept.last, outliers.last], np.int64)


def thinned_delta(block: Block, index: int, thinned: Thinned) -> torch.Tensor:
    """Returns a source's task vector with what is left out at 0."""
    delta = block.delta(index)
    magnitudes = delta.abs() if thinned.kept or thinned.outliers else delta
    if thinned.kept is not None:
        delta.mul_(thinned.kept.keeps(magnitudes, block.start))
    if thinned.outliers is not None:
        delta.mul_(thinned.outliers.keeps(magnitudes, block.start).logical_not_())
    if thinned.density < 1:
        delta.mul_(block.uniform(index) < thinned.density)
    return delta if thinned.factor == 1 else delta.mul_(thinned.factor)


def agreeing_sum(
    parts: Sequence[torch.Tensor], is_positive: torch.Tensor, weights: Sequence[float] | None
) -> torch.Tensor:
    """Sums, entry by entry, the parts of the elected sign.

    Args:
        parts: Weighted task vectors.
        is_positive: Where the elected sign is +.
        weights: What to divide by: the sum of the weights of the parts that agree; an entry to
            which none contributes stays 0. None does not divide.
    """
    total = torch.zeros_like(parts[0])
    shares = None if weights is None else torch.zeros_like(total)
    for index, part in enumerate(parts):
        agrees = (part > 0) == is_positive  # a part of 0 adds nothing to the sum either way
        total.addcmul_(part, agrees.to(part.dtype))
        if weights is not None and shares is not None:
            shares.add_(agrees.logical_and_(part != 0), alpha=weights[index])
    return total if shares is None else total.div_(shares.masked_fill_(shares.abs() < 1e-8, 1.0))
