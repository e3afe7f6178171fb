"""Pointer chasing: each token points to another; where do so many steps from the start lead?

A task of our own. One look with a fixed query can follow one pointer, and the next look has to know
where the first one led. Yet machines that were trained on six tokens hardly follow: most attention
rests elsewhere, and the table is worked out from all that was read. One tick reads as much with one
wide look, and comes to solve it, too (docs/decisions/0023).
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
class Pointers(Endless):
    """Tables of pointers, a permutation each, with a mark on the token to start from."""

    #: Tokens in a table.
    size: Annotated[int, Ge(2)] = 6
    #: Pointers to follow.
    hops: Annotated[int, Ge(1)] = 2

    @property
    def inputs(self) -> Inputs:
        """A token's own number, the number that it points to, and whether it is the start."""
        return Tokens(vocabularies=(self.size, self.size, 2), length=self.size, positions=False)

    @property
    def outputs(self) -> Outputs:
        """The number of the token where the last pointer leads."""
        return Outputs(positions=1, classes=self.size)

    @property
    def judgement(self) -> Judgement:
        """There is one answer."""
        return "positions"

    def batch(self, generator: torch.Generator, size: int) -> Batch:
        """Draws tables."""
        import torch

        table = torch.rand(size, self.size, generator=generator).argsort(dim=1)
        start = torch.randint(self.size, (size, 1), generator=generator)
        own = torch.arange(self.size).expand(size, -1)
        answer = start
        for _ in range(self.hops):
            answer = table.gather(1, answer)
        return Batch(torch.stack([own, table, (own == start).long()], dim=2), answer)
