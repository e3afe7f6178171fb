"""Model soup: the weighted mean of the sources (Wortsman et al. 2022, https://arxiv.org/abs/2203.05482)."""

from __future__ import annotations

from workers.methods.base import Combination, Inputs, divisor


class Linear:
    """sum_k w_k theta_k, divided by sum_k w_k unless `normalize` is false."""

    def plan(self, inputs: Inputs) -> Combination:
        """Mixes the sources; the base takes no part."""
        weights = inputs.values["weight"]
        scale = divisor(weights) if inputs.options["normalize"] else 1.0
        return Combination(sources=[weight / scale for weight in weights])
