"""NearSwap: takes what is near (alchemonaut 2024).

https://huggingface.co/alchemonaut/QuartetAnemoi-70B-t0.0001: entries that differ from the base by
t at most are the source's, others move a share t / |delta| of the way, which is a distance of t.
So theta_0 + clamp(delta, -t, t) is the same. Only with t below 1e-6 mergekit, which divides by 1e-6
at least, moves entries by less.
"""

from __future__ import annotations

import torch

from workers.methods.base import Block, Inputs, Rule


class NearSwap:
    """theta_0 + clamp(theta - theta_0, -t, t)."""

    def plan(self, inputs: Inputs) -> Rule:
        """Moves each entry from the base towards the source by `t` at most."""
        (t,) = inputs.values["t"]
        return lambda block: _near(block, t)


def _near(block: Block, t: float) -> torch.Tensor:
    return block.delta(0).clamp_(-t, t).add_(block.base())
