"""TIES: trim, elect sign, merge (Yadav et al. 2023, https://arxiv.org/abs/2306.01708).

Deviation: normalisation is off by default, because evolved weights that sum to more than one were
the best found (Akiba et al. 2024, https://arxiv.org/abs/2403.13187). `rescale: l1` gives trimmed
task vectors the L1 norm that they had, which the paper does not.
"""

from __future__ import annotations

from workers.methods.base import Inputs, TaskSum, Thinned
from workers.methods.task_vectors import elected_sum, keeping_l1, rescaling


class Ties:
    """theta_0 + lambda * sum of the trimmed, weighted task vectors of the elected sign."""

    def plan(self, inputs: Inputs) -> TaskSum:
        """Trims each task vector to its density, then elects and sums."""
        is_rescaled = rescaling(inputs, "none", "l1") == "l1"
        trimmed = [
            _trimmed(inputs, index, density, is_rescaled=is_rescaled)
            for index, density in enumerate(inputs.values["density"])
        ]
        return elected_sum(inputs, trimmed)


def _trimmed(inputs: Inputs, index: int, density: float, *, is_rescaled: bool) -> Thinned:
    """Returns a task vector without its smallest entries."""
    if density >= 1:
        return Thinned()
    num_kept = max(1, int(density * inputs.shape[0] * inputs.shape[1]))
    trimmed = Thinned(kept=inputs.largest(index, num_kept))
    return keeping_l1(inputs, index, trimmed, f"trim {density!r}") if is_rescaled else trimmed
