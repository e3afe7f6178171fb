"""Model Breadcrumbs: drops the largest and the smallest changes (Davari and Belilovsky 2024).

https://arxiv.org/abs/2312.06795. Of each task vector's tensor the share `gamma` of the largest
entries is dropped, then as many of the smallest as leave the share `density`. Where both shares
together exceed 1, `density` decides and fewer of the largest are dropped; with a density of 1 none.
`breadcrumbs_ties` elects signs as TIES does. `rescale: l1` gives what is left the L1 norm that the
task vector had, which the paper does not.
"""

from __future__ import annotations

from workers.methods.base import Inputs, TaskSum, Thinned
from workers.methods.task_vectors import (
    elected_sum,
    keeping_l1,
    rescaling,
    weighted_sum,
)


class Breadcrumbs:
    """theta_0 + lambda * sum_k w_k middle(delta_k)."""

    def plan(self, inputs: Inputs) -> TaskSum:
        """Drops outliers and small entries, and sums."""
        return weighted_sum(inputs, _middles(inputs))


class BreadcrumbsTies:
    """Dropping both ends in place of TIES' trimming, then TIES' election and sum."""

    def plan(self, inputs: Inputs) -> TaskSum:
        """Drops outliers and small entries, elects and sums."""
        return elected_sum(inputs, _middles(inputs))


def _middles(inputs: Inputs) -> list[Thinned]:
    """Returns task vectors without their largest and smallest entries.

    Raises:
        ValueError: if `rescale` is neither none nor l1.
    """
    is_rescaled = rescaling(inputs, "none", "l1") == "l1"
    pairs = zip(inputs.values["density"], inputs.values["gamma"], strict=True)
    return [
        _middle(inputs, index, *pair, is_rescaled=is_rescaled) for index, pair in enumerate(pairs)
    ]


def _middle(
    inputs: Inputs, index: int, density: float, gamma: float, *, is_rescaled: bool
) -> Thinned:
    if density >= 1:
        return Thinned()
    entries = inputs.shape[0] * inputs.shape[1]
    num_kept = int(density * entries)
    num_large = min(int(gamma * entries), entries - num_kept)
    middle = Thinned(
        kept=inputs.largest(index, num_large + num_kept),
        outliers=inputs.largest(index, num_large) if num_large else None,
    )
    if not is_rescaled:
        return middle
    return keeping_l1(inputs, index, middle, f"middle {density!r} {gamma!r}")
