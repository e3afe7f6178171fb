"""Sorting: the order of random numbers, said one place after another over the ticks.

(Darlow et al. 2025, appendix; connectionist temporal classification: Graves et al. 2006,
https://www.cs.toronto.edu/~graves/icml_2006.pdf.)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from annotated_types import Ge

from evaluators.ctm.inputs import Inputs, Numbers, Outputs
from evaluators.ctm.kinds import Judgement
from evaluators.ctm.task import Batch, Endless

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, slots=True, kw_only=True)
class Sorting(Endless):
    """Rows of standard normal numbers and their places in ascending order."""

    #: Numbers to sort.
    length: Annotated[int, Ge(2)] = 5

    @property
    def inputs(self) -> Inputs:
        """The numbers as they are, at every tick."""
        return Numbers(size=self.length)

    @property
    def outputs(self) -> Outputs:
        """A place, or nothing (the last class), at each tick."""
        return Outputs(positions=1, classes=self.length + 1)

    @property
    def judgement(self) -> Judgement:
        """Read over the ticks."""
        return "order"

    def batch(self, generator: torch.Generator, size: int) -> Batch:
        """Draws rows of numbers."""
        import torch

        numbers = torch.randn(size, self.length, generator=generator)
        return Batch(numbers, numbers.argsort(dim=1))
