"""What operators do with orders of items: numbers of a permutation gene."""

from __future__ import annotations

import numpy as np

from orchestrator.spaces.genes import Genes, Mask, Slots


def order_crossover(a: Slots, b: Slots, rng: np.random.Generator) -> Slots:
    """Keeps a stretch of one order and fills in the rest as the other has it (OX, Davis 1985).

    Neither may be out of range; none is lost or doubled. The stretch is neither empty nor all.
    """
    size = len(a)
    start, length = rng.integers(size), rng.integers(1, size)
    stretch = (start + np.arange(length)) % size
    after = (start + length + np.arange(size)) % size
    is_kept = np.zeros(size, dtype=np.bool_)
    is_kept[a[stretch].astype(np.intp)] = True
    from_b = b[after]
    child = a.copy()
    child[after[: size - length]] = from_b[~is_kept[from_b.astype(np.intp)]]
    return child


def cross_orders(
    child: Slots, taken: Mask, parents: tuple[Slots, Slots], genes: Genes, rng: np.random.Generator
) -> Slots:
    """Crosses the orders of a child whose first slot is `taken`; the others are the first's."""
    a, b = parents
    for first, end in genes.permutations:
        child[first:end] = a[first:end]
        if taken[first]:
            child[first:end] = order_crossover(a[first:end], b[first:end], rng)
    return child


def swap_one(values: Slots, place: int, rng: np.random.Generator) -> None:
    """Exchanges, in place, an item of an order with any other of its items."""
    other = (place + int(rng.integers(1, len(values)))) % len(values)
    values[[place, other]] = values[[other, place]]
