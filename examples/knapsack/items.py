"""A knapsack problem: which items to take so that their value is highest and the sack holds them.

Items are drawn by a fixed seed, values and weights from 1 to 100. The sack holds half of what all
items weigh.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

Numbers = npt.NDArray[np.int64]


@cache
def problem(num_items: int, seed: int = 1) -> tuple[Numbers, Numbers, int]:
    """Returns the items' values and weights, and the weight that the sack holds."""
    rng = np.random.default_rng([seed, num_items])
    values, weights = rng.integers(1, 101, (2, num_items))
    return values, weights, int(weights.sum() // 2)


def worth(take: tuple[bool, ...]) -> int:
    """Returns the value of what fits: while too much is taken, the worst value for its weight goes.

    This mends a choice instead of refusing it, so that every string of bits is an answer.
    """
    values, weights, capacity = problem(len(take))
    taken = np.flatnonzero(take)
    best_first = taken[np.argsort(-values[taken] / weights[taken], kind="stable")]
    fits = np.cumsum(weights[best_first]) <= capacity
    return int(values[best_first][fits].sum())


def optimum(num_items: int = 50) -> dict[str, Any]:
    """Returns the best choice there is, found by dynamic programming (Bellman 1957).

    `best[held]` is the highest value of the items so far that weigh at most `held` together.
    """
    values, weights, capacity = problem(num_items)
    best = np.zeros(capacity + 1, dtype=np.int64)
    helped = np.zeros((num_items, capacity + 1), dtype=np.bool_)  # does the item add to the value?
    for item, (value, weight) in enumerate(zip(values, weights, strict=True)):
        with_it = best[: max(0, capacity + 1 - weight)] + value
        helped[item, weight:] = with_it > best[weight:]
        best[weight:] = np.maximum(best[weight:], with_it)
    held, take = capacity, [False] * num_items
    for item in reversed(range(num_items)):
        if helped[item, held]:
            take[item] = True
            held -= int(weights[item])
    return {"take": take}
