"""What methods that thin out task vectors and sum them up have in common."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from workers.merging.task_sum import Vector
from workers.methods.base import Block, Inputs, TaskSum, Thinned, divisor


def weighted_sum(inputs: Inputs, thinned: Sequence[Thinned]) -> TaskSum:
    """Returns theta_0 + lambda * sum_k w_k v_k, divided by sum_k w_k with `normalize`.

    Raises:
        ValueError: if weights to divide by sum to zero.
    """
    weights, (scale,) = inputs.values["weight"], inputs.values["lambda"]
    if inputs.options["normalize"]:
        scale /= divisor(weights)
    return TaskSum(weights=weights, thinned=thinned, scale=scale)


def elected_sum(inputs: Inputs, thinned: Sequence[Thinned]) -> TaskSum:
    """Returns theta_0 + lambda * sum of the w_k v_k of the elected sign."""
    return TaskSum(
        weights=inputs.values["weight"],
        thinned=thinned,
        scale=inputs.values["lambda"][0],
        elect=True,
        normalize=bool(inputs.options["normalize"]),
    )


def keeping_l1(inputs: Inputs, index: int, thinned: Thinned, key: str) -> Thinned:
    """Returns a thinning with the factor that gives what is left the L1 norm of the whole.

    Args:
        inputs: The tensors.
        index: The source.
        thinned: A thinning with the factor 1.
        key: What the thinning is called, with all it depends on beside the models.
    """
    left = inputs.l1(index, thinned, key)
    return replace(thinned, factor=inputs.l1(index, Thinned(), "") / left if left > 0 else 1.0)


def l1_ratio(inputs: Inputs, index: int, vector: Vector, key: str) -> float:
    """Returns how many times the L1 norm of what is left of a task vector the whole one's is.

    Where nothing is left it is 1.
    """

    def norms(block: Block) -> torch.Tensor:
        return vector(block).abs_().sum(dtype=torch.float64)

    left = float(inputs.total(f"l1 {index} {key}", norms))
    return inputs.l1(index, Thinned(), "") / left if left > 0 else 1.0


def rescaling(inputs: Inputs, *known: str) -> str:
    """Returns the option `rescale`.

    Raises:
        ValueError: if it is none of the known ones.
    """
    found = inputs.options["rescale"]
    if found not in known:
        raise ValueError(f"rescale must be one of {', '.join(known)}, got {found!r}")
    return str(found)
