"""Takes one model's tensor, scaled: layers of several models in a row (Akiba et al. 2024).

Evolutionary Model Merge, data-flow space, https://arxiv.org/abs/2403.13187, section 3.2: which
layer of which model follows which. Recipes say so by slices that take one source each.
"""

from __future__ import annotations

from workers.methods.base import Combination, Inputs


class Passthrough:
    """scale * theta."""

    def plan(self, inputs: Inputs) -> Combination:
        """Takes the only source."""
        (scale,) = inputs.values["scale"]
        return Combination(sources=[scale])
