"""Cumulative parity: whether the ones up to each place of a row of bits are odd in number.

(Darlow et al. 2025, section 6.) Rows of n bits are only 2^n: short ones are met in training.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from annotated_types import Ge

from evaluators.ctm.inputs import Inputs, Outputs, Tokens
from evaluators.ctm.kinds import Judgement
from evaluators.ctm.task import Batch, Endless

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, slots=True, kw_only=True)
class Parity(Endless):
    """Rows of bits and the parity up to each place, all of it asked for at once."""

    #: Bits in a row.
    length: Annotated[int, Ge(1)] = 8

    @property
    def inputs(self) -> Inputs:
        """A token for each bit, with its place."""
        return Tokens(vocabularies=(2,), length=self.length)

    @property
    def outputs(self) -> Outputs:
        """Even or odd, at each place."""
        return Outputs(positions=self.length, classes=2)

    @property
    def judgement(self) -> Judgement:
        """Place by place."""
        return "positions"

    def batch(self, generator: torch.Generator, size: int) -> Batch:
        """Draws rows of bits."""
        import torch

        bits = torch.randint(2, (size, self.length), generator=generator)
        return Batch(bits[:, :, None], bits.cumsum(dim=1) % 2)
