"""DARE: drop and rescale task vectors at random (Yu et al. 2024, https://arxiv.org/abs/2311.03099).

`rescale: density` divides what is kept by the density, as in the paper; `rescale: l1` scales it so
that the tensor's L1 norm stays, as mergekit does. Masks come from the recipe's seed, the tensor's
name and the source's place, never from a global generator: a recipe is one model, everywhere.
"""

from __future__ import annotations

import torch

from workers.methods.base import Inputs
from workers.methods.ties import elect_and_sum


class DareTies:
    """Random dropping in place of TIES' trimming, then TIES' election and sum."""

    def merge(self, inputs: Inputs) -> torch.Tensor:
        """Drops each entry with probability 1 - density, rescales, elects and sums."""
        deltas = [
            drop(vector.delta, density, inputs.uniforms(index), inputs.options["rescale"])
            for index, (vector, density) in enumerate(
                zip(inputs.task_vectors(), inputs.values["density"], strict=True)
            )
        ]
        total = elect_and_sum(
            deltas, inputs.values["weight"], normalize=inputs.options["normalize"]
        )
        return inputs.base.add(total, alpha=inputs.options["lambda"])


def drop(delta: torch.Tensor, density: float, uniforms: torch.Tensor, rescale: str) -> torch.Tensor:
    """Keeps entries whose uniform number is below `density` in (0, 1] and rescales them.

    Raises:
        ValueError: if `rescale` is neither "density", "l1" nor "none".
    """
    if rescale not in ("density", "l1", "none"):
        raise ValueError(f"rescale must be density, l1 or none, got {rescale!r}")
    if density >= 1.0:
        return delta
    kept = delta * (uniforms < density)
    if rescale == "density":
        return kept / density
    if rescale == "l1":
        norm = kept.abs().sum()
        return kept * (delta.abs().sum() / norm) if float(norm) > 0 else kept
    return kept
