"""Task arithmetic: base plus weighted task vectors (Ilharco et al. 2023, https://arxiv.org/abs/2212.04089).

theta_0 + lambda sum_k w_k (theta_k - theta_0) is carried out as a combination of the models
themselves, (1 - lambda sum_k w_k) theta_0 + sum_k lambda w_k theta_k: no task vector is formed.
"""

from __future__ import annotations

from workers.methods.base import Combination, Inputs, divisor


class TaskArithmetic:
    """theta_0 + lambda * sum_k w_k (theta_k - theta_0)."""

    def plan(self, inputs: Inputs) -> Combination:
        """Adds the sources' task vectors to the base."""
        weights = inputs.values["weight"]
        (scale,) = inputs.values["lambda"]
        if inputs.options["normalize"]:
            scale /= divisor(weights)
        shares = [scale * weight for weight in weights]
        return Combination(sources=shares, base=1.0 - sum(shares))
