"""What a merge method does with one tensor of several models.

A method looks at one tensor at a time and says how it is merged (`plan`): either as a combination
of the sources with fixed coefficients, which one kernel carries out at the speed of memory, or as
a rule that makes any block of rows on its own. What such a plan needs to know of whole tensors
(products, sums, order statistics) depends on the models alone; it is computed once, kept, and
shared by all candidates.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

import torch

#: The base's place, where sources are numbered from 0.
BASE = -1

#: A factor of a whole tensor, or one for each of its rows, (rows, 1).
Coefficient: TypeAlias = "float | torch.Tensor"


@dataclass(frozen=True, slots=True, kw_only=True)
class Combination:
    """sum_k c_k theta_k + c_0 theta_0, summed in float32 in the order of the sources, base last."""

    sources: Sequence[Coefficient]
    base: Coefficient = 0.0


#: Makes the merged entries of a block: float32, of the block's shape.
Rule: TypeAlias = "Callable[[Block], torch.Tensor]"


class Block(Protocol):
    """Some rows of one tensor of all models: float32, (rows, columns) each, fresh at each call."""

    @property
    def start(self) -> int:
        """Place of the block's first entry in the flattened tensor."""
        ...

    def source(self, index: int) -> torch.Tensor:
        """Returns a source's entries."""
        ...

    def base(self) -> torch.Tensor:
        """Returns the base's entries."""
        ...

    def delta(self, index: int) -> torch.Tensor:
        """Returns a source's task vector: its entries minus the base's."""
        ...

    def uniform(self, index: int) -> torch.Tensor:
        """Returns numbers in [0, 1), one an entry: the same on every worker, device and cut.

        They follow from the recipe's seed, the tensor's name and the source, nothing else.
        """
        ...


@dataclass(frozen=True, slots=True)
class Cut:
    """Tells the `keep` largest of a tensor's values; among equal ones the first are kept.

    Equal values are frequent: differences of bfloat16 numbers take few of them.
    """

    #: Values above it are kept, values equal to it up to place `last` of the flattened tensor.
    threshold: float
    last: int

    def keeps(self, values: torch.Tensor, start: int) -> torch.Tensor:
        """Returns which of a block's values are among the largest, as a mask of their shape.

        Args:
            values: Any block of the values that the cut was made for.
            start: Place of the block's first entry in the flattened tensor.
        """
        if self.last < start:
            return values > self.threshold
        if self.last >= start + values.numel() - 1:
            return values >= self.threshold
        places = torch.arange(values.numel(), device=values.device).view(values.shape)
        tied = (values == self.threshold) & (places <= self.last - start)
        return (values > self.threshold) | tied


@dataclass(frozen=True, slots=True, kw_only=True)
class Thinned:
    """Which entries of a task vector take part in a sum, and what they are multiplied by."""

    #: The entries that are kept by magnitude; None keeps all.
    kept: Cut | None = None
    #: Of these, the entries that are left out for being the largest; None leaves none out.
    outliers: Cut | None = None
    #: Of what is left, entries are kept where their uniform number is below this.
    density: float = 1.0
    factor: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskSum:
    """theta_0 + scale * sum_k w_k delta_k over thinned task vectors.

    With `elect`, each entry sums only what agrees with the sign of the whole sum (+ where it is
    0), and with `normalize` that is divided by the weights of what agrees; an entry to which
    nothing contributes stays 0. One kernel carries it out on the CPU.
    """

    weights: Sequence[float]
    thinned: Sequence[Thinned]
    scale: float = 1.0
    elect: bool = False
    normalize: bool = False


#: How one tensor is merged.
Plan: TypeAlias = "Combination | TaskSum | Rule"


class Inputs(Protocol):
    """One tensor's worth of input to a method."""

    @property
    def num_sources(self) -> int:
        """How many models are mixed, the base not counted."""
        ...

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns; tensors of other ranks are seen as rows of their last dimension."""
        ...

    @property
    def values(self) -> Mapping[str, tuple[float, ...]]:
        """Parameter -> one value per source, or one in all; defaults filled in."""
        ...

    @property
    def options(self) -> Mapping[str, Any]:
        """Option -> value; defaults filled in."""
        ...

    def dot(self, a: int, b: int) -> float:
        """Returns the inner product of two models' flattened tensors, summed in float64."""
        ...

    def delta_dot(self, a: int, b: int) -> float:
        """Returns the inner product of two task vectors, summed in float64."""
        ...

    def row_dots(self, a: int, b: int) -> torch.Tensor:
        """Returns the inner product of each row of two models: float64, (rows, 1)."""
        ...

    def delta_row_dots(self, a: int, b: int) -> torch.Tensor:
        """Returns the inner product of each row of two task vectors: float64, (rows, 1)."""
        ...

    def largest(self, index: int, keep: int) -> Cut:
        """Returns the cut that keeps the `keep` largest magnitudes of a task vector."""
        ...

    def cut(self, key: str, values: Callable[[Block], torch.Tensor], keep: int) -> Cut:
        """Returns the cut that keeps the `keep` largest of non-negative values.

        Args:
            key: What the values are called, with all they depend on beside the models.
            values: Block -> values, float32, of the block's shape.
            keep: How many to keep, from 0 to all.
        """
        ...

    def l1(self, index: int, thinned: Thinned, key: str) -> float:
        """Returns the L1 norm of a thinned task vector, summed in float64.

        Args:
            index: The source.
            thinned: What is left of the task vector.
            key: What the thinning is called, with all it depends on beside the models.
        """
        ...

    def nth(self, key: str, values: Callable[[Block], torch.Tensor], place: int) -> float:
        """Returns the `place`-th largest of non-negative values, exactly.

        Args:
            key: What the values are called, with all they depend on beside the models.
            values: Block -> values, float32, of the block's shape.
            place: 1 for the largest, up to the number of entries.
        """
        ...

    def rows(self, key: str, values: Callable[[Block], torch.Tensor]) -> torch.Tensor:
        """Returns what a function makes of the rows of all blocks: float64, (rows, 1), kept.

        Args:
            key: What the values are called, with all they depend on beside the models.
            values: Block -> (rows of the block, 1).
        """
        ...

    def total(self, key: str, values: Callable[[Block], torch.Tensor]) -> torch.Tensor:
        """Returns the sum over all blocks of what a function makes of each, in float64.

        Args:
            key: What the values are called, with all they depend on beside the models.
            values: Block -> a tensor of the same shape for every block, such as a few sums.
        """
        ...


class Method(Protocol):
    """A rule that makes one tensor of several."""

    def plan(self, inputs: Inputs) -> Plan:
        """Returns how this tensor is merged.

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
