"""Mean direction of several models at their mean length (Multi-SLERP, Goddard).

https://goddard.blog/posts/multislerp-wow-what-a-cool-idea. With u_k = theta_k / (|theta_k| + eps)
the result is (sum_k w_k |theta_k|) m, where m is the direction of sum_k w_k u_k.

The published rule then adds up the parts of all u_k that are orthogonal to m, and goes along their
sum on the sphere. That sum is zero by the choice of m, and what mergekit adds there are rounding
errors (and a factor cos(eps)): the step is left out. With `use_base` all is done with task vectors,
which are added to the base again.

Deviations from mergekit: weights that sum to zero are refused; directions that cancel are mixed
linearly for any number of sources (there only for two, an error for more), so that tensors of
zeros can be merged.
"""

from __future__ import annotations

import numpy as np

from workers.methods.base import Combination, Inputs, TaskSum, divisor
from workers.methods.spherical import CANCELLED, combined, gram, length


class MultiSlerp:
    """(sum_k w_k |theta_k|) m."""

    def plan(self, inputs: Inputs) -> Combination | TaskSum:
        """Takes the mean direction and the mean length."""
        deltas = inputs.options["use_base"]
        weights, (eps,) = np.array(inputs.values["weight"]), inputs.values["eps"]
        if inputs.options["normalize_weights"]:
            weights = weights / divisor(inputs.values["weight"])
        products = gram(inputs, deltas=deltas)
        norms = np.sqrt(products.diagonal())
        scales = np.where(norms > 0, weights, 0.0)  # zeros have no direction
        mean = scales / np.where(norms > 0, norms + eps, 1.0)  # of the sources, not of the u_k
        size = length(mean, products)
        shares = weights if size < CANCELLED else mean / size * (weights @ norms)
        return combined([float(share) for share in shares], deltas=deltas)
