"""Task arithmetic: base plus weighted task vectors (Ilharco et al. 2023, https://arxiv.org/abs/2212.04089)."""

from __future__ import annotations

import torch

from workers.methods.base import Inputs, divisor
from workers.methods.linear import weighted_sum


class TaskArithmetic:
    """theta_0 + lambda * sum_k w_k (theta_k - theta_0)."""

    def merge(self, inputs: Inputs) -> torch.Tensor:
        """Adds the sources' task vectors to the base."""
        weights = inputs.values["weight"]
        total = weighted_sum([vector.delta for vector in inputs.task_vectors()], weights)
        if inputs.options["normalize"]:
            total /= divisor(weights)
        return inputs.base.add(total, alpha=inputs.options["lambda"])
