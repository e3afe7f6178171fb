"""Spherical interpolation of two models (Shoemake 1985, https://doi.org/10.1145/325334.325242).

The angle is taken over a whole tensor, flattened. Tensors that are nearly parallel or nearly
opposite have no well-defined arc between them and are mixed linearly.
"""

from __future__ import annotations

import torch

from workers.methods.base import Combination, Inputs
from workers.methods.spherical import arc, cosine, gram

#: The usual limit, so that recipes mean the same model elsewhere; the results differ by 1e-4 there.
PARALLEL = 0.9995


class Slerp:
    """sin((1-t)w)/sin w a + sin(t w)/sin w b, w the angle between source 0 (t=0) and 1 (t=1)."""

    def plan(self, inputs: Inputs) -> Combination:
        """Goes a share `t` of the way from the first source to the second on the sphere."""
        (t,) = inputs.values["t"]
        products = torch.from_numpy(gram(inputs, deltas=False))
        angle = cosine(products[0, 1], products[0, 0], products[1, 1])
        first, second = arc(angle, t, straight_above=PARALLEL)
        return Combination(sources=[float(first), float(second)])
