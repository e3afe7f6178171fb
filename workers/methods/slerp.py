"""Spherical interpolation of two models (Shoemake 1985, https://doi.org/10.1145/325334.325242).

The angle is taken over a whole tensor, flattened. Tensors that are nearly parallel or nearly
opposite have no well-defined arc between them and are mixed linearly.
"""

from __future__ import annotations

import torch

from workers.methods.base import Inputs

#: Above this cosine the sine in the denominator loses its digits.
PARALLEL = 0.9995


class Slerp:
    """sin((1-t)w)/sin w a + sin(t w)/sin w b, w the angle between source 0 (t=0) and 1 (t=1)."""

    def merge(self, inputs: Inputs) -> torch.Tensor:
        """Goes a share `t` of the way from the first source to the second on the sphere."""
        a, b = inputs.sources
        (t,) = inputs.values["t"]
        norms = torch.linalg.vector_norm(a) * torch.linalg.vector_norm(b)
        cosine = float(torch.dot(a.flatten(), b.flatten()) / norms) if float(norms) > 0 else 1.0
        if abs(cosine) > PARALLEL:
            return torch.lerp(a, b, t)
        angle = torch.arccos(torch.tensor(cosine, dtype=torch.float64))
        share_a = float(torch.sin((1 - t) * angle) / torch.sin(angle))
        share_b = float(torch.sin(t * angle) / torch.sin(angle))
        return share_a * a + share_b * b
