"""Cellular automata: what a row of cells has become after so many steps.

(Wolfram 1983, https://doi.org/10.1103/RevModPhys.55.601.) A task of our own, on which ticks matter:
the next state of a cell depends on three cells, that after k steps on 2 k + 1 of them. Whoever has
learned a step can take it again at the next tick; a single tick has to take all of them at once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from annotated_types import Ge, Interval

from evaluators.ctm.inputs import Inputs, Numbers, Outputs
from evaluators.ctm.kinds import Judgement
from evaluators.ctm.task import Batch, Endless

if TYPE_CHECKING:
    import torch
    from torch import Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Automata(Endless):
    """Random rows of cells, each 0 or 1, closed to a ring, and what they are some steps later."""

    #: Cells in a row; of few cells there are only 2^length rows, and they are met in training.
    length: Annotated[int, Ge(3)] = 16
    #: Steps until the state that is asked for.
    steps: Annotated[int, Ge(1)] = 4
    #: Bit 4 l + 2 c + r of this number is what a cell c between l and r becomes.
    rule: Annotated[int, Interval(ge=0, le=255)] = 30

    @property
    def inputs(self) -> Inputs:
        """Each cell as -1 or 1, at every tick."""
        return Numbers(size=self.length)

    @property
    def outputs(self) -> Outputs:
        """What each cell is in the end."""
        return Outputs(positions=self.length, classes=2)

    @property
    def judgement(self) -> Judgement:
        """Cell by cell."""
        return "positions"

    def batch(self, generator: torch.Generator, size: int) -> Batch:
        """Draws rows of cells."""
        import torch

        cells = torch.randint(2, (size, self.length), generator=generator)
        return Batch((2 * cells - 1).float(), after(cells, self.rule, self.steps))


def after(cells: Tensor, rule: int, steps: int) -> Tensor:
    """Returns rows of cells (batch, length), each 0 or 1, some steps later."""
    for _ in range(steps):
        around = 4 * cells.roll(1, dims=1) + 2 * cells + cells.roll(-1, dims=1)
        cells = (rule >> around) & 1
    return cells
