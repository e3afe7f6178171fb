"""The synapse model: how all neurons and what is seen make each neuron's next pre-activation.

(Darlow et al. 2025, section 3.2 and appendix.) Depth 1 is one gated layer. A greater depth k is a
U-Net of k levels: k - 1 layers down and k - 1 up, which the paper counts together.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor, nn


def make_synapse(inputs: int, widths: Sequence[int], dropout: float) -> nn.Module:
    """Returns a synapse model of the depth that there are widths.

    Args:
        inputs: Width of what comes in: what is seen and all neurons.
        widths: Width of each level, the number of neurons first.
        dropout: Share of inputs of each layer that is left out in training.

    Returns:
        A module from (batch, inputs) to (batch, neurons).
    """
    if len(widths) == 1:
        return nn.Sequential(
            nn.Dropout(dropout),
            nn.Linear(inputs, 2 * widths[0]),
            nn.GLU(),
            nn.LayerNorm(widths[0]),
        )
    return UNet(inputs, widths, dropout)


class UNet(nn.Module):
    """Down to a bottleneck and up again, each level added to what it was on the way down."""

    def __init__(self, inputs: int, widths: Sequence[int], dropout: float) -> None:
        super().__init__()
        self.first = _block(inputs, widths[0])
        pairs = list(itertools.pairwise(widths))
        self.down = nn.ModuleList(_block(wide, narrow, dropout) for wide, narrow in pairs)
        self.up = nn.ModuleList(_block(narrow, wide, dropout) for wide, narrow in pairs)
        self.norms = nn.ModuleList(nn.LayerNorm(wide) for wide, _ in pairs)

    def forward(self, incoming: Tensor) -> Tensor:
        """Returns pre-activations (batch, neurons) of inputs (batch, inputs)."""
        saved = [self.first(incoming)]
        for down in self.down:
            saved.append(down(saved[-1]))
        found = saved.pop()
        levels = zip(self.up, self.norms, saved, strict=True)
        for up, norm, skipped in reversed(list(levels)):
            found = norm(up(found) + skipped)
        result: torch.Tensor = found
        return result


def _block(before: int, after: int, dropout: float | None = None) -> nn.Sequential:
    drop = [] if dropout is None else [nn.Dropout(dropout)]
    return nn.Sequential(*drop, nn.Linear(before, after), nn.LayerNorm(after), nn.SiLU())
