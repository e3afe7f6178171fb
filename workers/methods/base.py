"""What a merge method does: one tensor of several, in float32."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch


class TaskVector:
    """A source's difference from the base, with what depends on nothing else."""

    def __init__(self, delta: torch.Tensor) -> None:
        self.delta = delta
        self._ranks: torch.Tensor | None = None

    def trimmed(self, density: float) -> torch.Tensor:
        """Keeps the share `density` in (0, 1] of entries of largest magnitude, zeroes the rest.

        Among equal magnitudes, frequent in models stored in bfloat16, the first ones are kept.
        """
        keep = max(1, int(density * self.delta.numel()))
        if keep >= self.delta.numel():
            return self.delta
        return self.delta * (self._rank() < keep)

    def _rank(self) -> torch.Tensor:
        """Returns each entry's place by magnitude, largest first; one sort serves all densities."""
        if self._ranks is None:
            magnitudes = self.delta.abs().flatten()
            order = torch.argsort(magnitudes, descending=True, stable=True)
            ranks = torch.empty_like(order, dtype=torch.int32)
            ranks[order] = torch.arange(len(order), dtype=torch.int32, device=order.device)
            self._ranks = ranks.reshape(self.delta.shape)
        return self._ranks


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
    #: Source index -> its task vector, where these are kept from candidate to candidate.
    kept: Callable[[int], TaskVector] | None = None

    def task_vector(self, index: int) -> TaskVector:
        """Returns a source's difference from the base."""
        if self.kept is not None:
            return self.kept(index)
        return TaskVector(self.sources[index] - self.base)

    def task_vectors(self) -> list[TaskVector]:
        """Returns every source's difference from the base."""
        return [self.task_vector(index) for index in range(len(self.sources))]


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
