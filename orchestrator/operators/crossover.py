"""Crossover: one child of two parents. Children may leave the bounds; the space repairs them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Protocol

import numpy as np
from annotated_types import Ge, Interval

from evaluators.registry import Registry
from orchestrator.spaces.genes import Genes, Mask, Slots

CROSSOVERS = Registry(
    "crossover",
    {
        "sbx": "orchestrator.operators.crossover:Sbx",
        "uniform": "orchestrator.operators.crossover:Uniform",
    },
)


class Crossover(Protocol):
    """Mixes two parents."""

    def __call__(self, a: Slots, b: Slots, genes: Genes, rng: np.random.Generator) -> Slots | None:
        """Returns a child, or None where the parents are not to be crossed this time."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Sbx:
    """Simulated binary crossover (Deb & Agrawal 1995, Complex Systems 9), one of its two children.

    Each gene is crossed with probability one half; the spread around the parents is that of
    one-point crossover on bit strings. Unbounded form: the space clips. Genes that are no numbers
    are taken from the other parent instead.
    """

    #: Distribution index: higher keeps children nearer to their parents.
    eta: Annotated[float, Ge(0)] = 15.0
    #: Probability that two parents are crossed at all.
    probability: Annotated[float, Interval(ge=0, le=1)] = 0.9

    def __call__(self, a: Slots, b: Slots, genes: Genes, rng: np.random.Generator) -> Slots | None:
        """Spreads each crossed gene about the parents' mean."""
        if rng.random() >= self.probability:
            return None
        u = rng.random(a.shape)
        exponent = 1.0 / (self.eta + 1.0)
        beta = np.where(u <= 0.5, (2 * u) ** exponent, (1 / (2 * (1 - u))) ** exponent)
        side = np.where(rng.random(a.shape) < 0.5, 1.0, -1.0)
        ours, theirs = genes.to_inner(a), genes.to_inner(b)
        crossed = genes.to_outer(0.5 * ((ours + theirs) + side * beta * (ours - theirs)))
        taken = _whole_orders(rng.random(a.shape) < 0.5, genes)
        return np.where(taken, np.where(genes.numeric, crossed, b), a)


@dataclass(frozen=True, slots=True, kw_only=True)
class Uniform:
    """Each gene from either parent (Syswerda 1989)."""

    #: Probability that two parents are crossed at all.
    probability: Annotated[float, Interval(ge=0, le=1)] = 0.9

    def __call__(self, a: Slots, b: Slots, genes: Genes, rng: np.random.Generator) -> Slots | None:
        """Takes half of the genes from each parent, on average."""
        if rng.random() >= self.probability:
            return None
        return np.where(_whole_orders(rng.random(a.shape) < 0.5, genes), a, b)


def _whole_orders(taken: Mask, genes: Genes) -> Mask:
    """Makes all slots of an order go the way of its first: parts of two are no order."""
    for first, end in genes.permutations:
        taken[first:end] = taken[first]
    return taken
