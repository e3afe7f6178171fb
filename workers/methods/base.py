"""What a merge method does: one tensor of several, in float32."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch


@dataclass(frozen=True, slots=True, kw_only=True)
class Inputs:
    """One tensor's worth of input to a method."""

    #: The sources' tensors, float32, all of one shape.
    sources: Sequence[torch.Tensor]
    #: The base's tensor, float32.
    base: torch.Tensor
    #: Parameter -> values, as in the recipe.
    values: Mapping[str, tuple[float, ...]]
    #: Option -> value, defaults filled in.
    options: Mapping[str, Any]
    #: Source index -> uniform numbers in [0, 1) of the tensor's shape, the same on every worker.
    uniforms: Callable[[int], torch.Tensor]


class Method(Protocol):
    """A rule that makes one tensor of several."""

    def merge(self, inputs: Inputs) -> torch.Tensor:
        """Returns the merged tensor, float32, of the inputs' shape.

        Raises:
            ValueError: if the values leave the result undefined.
        """
        ...


def divisor(weights: Sequence[float]) -> float:
    """Returns the sum of the weights, to divide by.

    Raises:
        ValueError: if it is (nearly) zero, which leaves a normalised merge undefined.
    """
    total = float(sum(weights))
    if abs(total) < 1e-6:
        raise ValueError(f"weights {tuple(weights)} sum to {total:g}: cannot normalise by that")
    return total
