"""DARE: drop and rescale task vectors at random (Yu et al. 2024, https://arxiv.org/abs/2311.03099).

`rescale: density` divides what is kept by the density, as in the paper; `rescale: l1` scales it so
that the tensor's L1 norm stays, as mergekit does. Masks come from the recipe's seed, the tensor's
name and the source, never from a global generator: a recipe is one model, everywhere.
"""

from __future__ import annotations

from dataclasses import replace

from workers.methods.base import Inputs, TaskSum, Thinned
from workers.methods.task_vectors import (
    elected_sum,
    keeping_l1,
    rescaling,
    weighted_sum,
)

RESCALES = ("density", "l1", "none")


class DareLinear:
    """theta_0 + lambda * sum_k w_k drop(delta_k)."""

    def plan(self, inputs: Inputs) -> TaskSum:
        """Drops each entry with probability 1 - density, rescales and sums."""
        return weighted_sum(inputs, _dropped(inputs))


class DareTies:
    """Random dropping in place of TIES' trimming, then TIES' election and sum."""

    def plan(self, inputs: Inputs) -> TaskSum:
        """Drops each entry with probability 1 - density, rescales, elects and sums."""
        return elected_sum(inputs, _dropped(inputs))


def _dropped(inputs: Inputs) -> list[Thinned]:
    """Returns task vectors whose entries are kept where their uniform number is below density.

    Raises:
        ValueError: if `rescale` is none of density, l1 and none.
    """
    rescale = rescaling(inputs, *RESCALES)
    return [
        _rescaled(inputs, index, Thinned(density=density), rescale)
        for index, density in enumerate(inputs.values["density"])
    ]


def _rescaled(inputs: Inputs, index: int, dropped: Thinned, rescale: str) -> Thinned:
    if dropped.density >= 1 or rescale == "none":
        return dropped
    if rescale == "l1":
        return keeping_l1(inputs, index, dropped, f"drop {dropped.density!r}")
    return replace(dropped, factor=1 / dropped.density)
