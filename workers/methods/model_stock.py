"""Model Stock: as close to the sources' mean as they agree (Jang et al. 2024).

https://arxiv.org/abs/2403.19522, equation for N models: t = N c / (1 + (N - 1) c), where c is the
mean cosine of the angles between task vectors, of whole tensors or, with `filter_wise`, of rows.

Deviations from mergekit: task vectors keep their angles however short they are (there products of
norms below 1e-6 count as 1e-6, which draws small changes to the base). As there, the base is kept
where 1 + (N - 1) c vanishes.
"""

from __future__ import annotations

import itertools

import torch

from workers.methods.base import Combination, Inputs, TaskSum
from workers.methods.spherical import combined, cosine

#: Below this denominator the task vectors cancel.
_SINGULAR = 1e-6


class ModelStock:
    """t mean_k theta_k + (1 - t) theta_0."""

    def plan(self, inputs: Inputs) -> Combination | TaskSum:
        """Weighs the mean of the sources against the base by their angles."""
        by_rows, count = inputs.options["filter_wise"], inputs.num_sources

        def product(a: int, b: int) -> torch.Tensor:
            if by_rows:
                return inputs.delta_row_dots(a, b)
            return torch.tensor(inputs.delta_dot(a, b), dtype=torch.float64)

        cosines = [
            cosine(product(a, b), product(a, a), product(b, b))
            for a, b in itertools.combinations(range(count), 2)
        ]
        mean = torch.stack(cosines).mean(0)
        below = 1 + (count - 1) * mean
        t = torch.where(below > _SINGULAR, count * mean / below.clamp_min(_SINGULAR), 0.0)
        if by_rows:
            return Combination(sources=[t / count] * count, base=1 - t)
        return combined([float(t) / count] * count, deltas=True)
