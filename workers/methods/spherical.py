"""Models as directions: angles between whole tensors, between their rows, and points in between.

A tensor of zeros has no direction. It counts as orthogonal to every other one, as a random tensor
of many entries nearly is, however small: what is merged then has no jump where a task vector of
rounding errors becomes one of zeros.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch

from workers.methods.base import Combination, Inputs, TaskSum, Thinned

#: Products of vectors (vectors, vectors), or their coefficients (vectors,).
Numbers = npt.NDArray[np.float64]

#: Sums of directions shorter than this cancel: what is left of them are rounding errors.
CANCELLED = 1e-7


def gram(inputs: Inputs, *, deltas: bool) -> Numbers:
    """Returns the inner products of all sources, or of their task vectors: (sources, sources)."""
    product = inputs.delta_dot if deltas else inputs.dot
    places = range(inputs.num_sources)
    found = np.empty((inputs.num_sources, inputs.num_sources))
    for a in places:
        for b in places[a:]:
            found[a, b] = found[b, a] = product(a, b)
    return found


def length(coefficients: Numbers, products: Numbers) -> float:
    """Returns the norm of a combination of vectors whose inner products are known."""
    return math.sqrt(max(0.0, float(coefficients @ products @ coefficients)))


def cosine(product: torch.Tensor, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Returns the cosine of the angle between two vectors, 0 where one of them is zero.

    Args:
        product: Inner product of the two.
        a: Inner product of the first with itself.
        b: Inner product of the second with itself.
    """
    norms = (a * b).sqrt()
    return torch.where(norms > 0, product / norms.clamp_min(1e-300), 0.0).clamp(-1.0, 1.0)


def arc(
    cosines: torch.Tensor, t: float, *, straight_above: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns the two shares of points a part `t` of the way along arcs between two vectors.

    Args:
        cosines: Of the angles between the vectors, float64.
        t: 0 is the first vector, 1 the second; beyond that the arc goes on.
        straight_above: Above this cosine, and below its opposite, vectors are mixed linearly: the
            sine that is divided by loses its digits, and opposite ones have no arc between them.
    """
    linear = cosines.abs() > straight_above
    angles = torch.acos(torch.where(linear, 0.0, cosines))
    sines = torch.sin(angles)
    first = torch.where(linear, 1 - t, torch.sin((1 - t) * angles) / sines)
    second = torch.where(linear, t, torch.sin(t * angles) / sines)
    return first, second


def combined(shares: Sequence[float], *, deltas: bool) -> Combination | TaskSum:
    """Returns the sum of the sources by their shares, or of the base and task vectors by theirs.

    A short task vector may have a large share: it is formed before it is multiplied, so that no
    digits are lost.
    """
    if not deltas:
        return Combination(sources=shares)
    return TaskSum(weights=shares, thinned=[Thinned()] * len(shares))
