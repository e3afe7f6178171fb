"""Karcher mean on the sphere (Wang et al. 2026, https://arxiv.org/abs/2603.04972).

The direction u whose squared arc lengths to the sources' directions u_k sum to the least, found by
steps u <- exp_u(sum_k w_k log_u(u_k)) from their mean; the result is (sum_k w_k |theta_k|) u. All u
lie in the span of the sources, so that the steps are taken with inner products alone.

Deviations from mergekit: sources may have weights (there all are alike); `tol` is for angles alone,
any tensor but zero has a direction; directions that cancel are mixed linearly (there the first
source is taken).
"""

from __future__ import annotations

import numpy as np

from workers.methods.base import Combination, Inputs, divisor
from workers.methods.spherical import CANCELLED, Numbers, gram, length


class Karcher:
    """(sum_k w_k |theta_k|) times the Karcher mean of theta_k / |theta_k|, sum_k w_k = 1."""

    def plan(self, inputs: Inputs) -> Combination:
        """Finds the mean direction and gives it the mean length."""
        (max_iter,), (tol,) = inputs.values["max_iter"], inputs.values["tol"]
        weights = np.array(inputs.values["weight"]) / divisor(inputs.values["weight"])
        products = gram(inputs, deltas=False)
        norms = np.sqrt(products.diagonal())
        lengths = np.where(norms > 0, norms, 1.0)
        cosines = products / np.outer(lengths, lengths)  # 0 where there is no direction
        pulls = np.where(norms > 0, weights, 0.0)
        mean = _mean_direction(cosines, pulls, int(max_iter), tol)
        shares = weights if mean is None else weights @ norms * mean / lengths
        return Combination(sources=[float(share) for share in shares])


def _mean_direction(
    cosines: Numbers, weights: Numbers, max_iter: int, tol: float
) -> Numbers | None:
    """Returns the mean's coefficients of the unit vectors; None if the vectors cancel.

    Args:
        cosines: Of the angles between the unit vectors, (vectors, vectors).
        weights: 0 for vectors that are none.
        max_iter: Most steps.
        tol: Length of a step at which the mean is reached.
    """
    weights = weights / max(float(weights.sum()), CANCELLED)
    size = length(weights, cosines)
    if size < CANCELLED:
        return None
    mean = weights / size
    for _ in range(max_iter):
        dots = np.clip(cosines @ mean, -1.0, 1.0)
        pulls = weights * _stretch(dots)
        tangent = pulls - (pulls @ dots) * mean
        step = length(tangent, cosines)
        if step < tol or step == 0:
            break
        mean = np.cos(step) * mean + np.sin(step) / step * tangent
        mean = mean / length(mean, cosines)
    return mean


def _stretch(dots: Numbers) -> Numbers:
    """Returns angle / sine of cosines: 1 at angle 0, and 0 opposite, where no way is shortest."""
    sines = np.sqrt(1 - dots**2)
    limits = np.where(dots > 0, 1.0, 0.0)
    return np.divide(np.arccos(dots), sines, out=limits, where=sines > CANCELLED)
