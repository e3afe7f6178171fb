"""Mutation: small random changes. Results may leave the bounds; the space repairs them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Protocol

import numpy as np
from annotated_types import Ge, Gt, Interval

from evaluators.registry import Registry
from orchestrator.spaces.genes import Genes, Mask, Slots

MUTATIONS = Registry(
    "mutation",
    {
        "polynomial": "orchestrator.operators.mutation:Polynomial",
        "gaussian": "orchestrator.operators.mutation:Gaussian",
    },
)


class Mutation(Protocol):
    """Changes a genome a little."""

    def __call__(self, values: Slots, genes: Genes, rng: np.random.Generator) -> Slots:
        """Returns a changed copy of a genome's numbers."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Polynomial:
    """Polynomial mutation (Deb & Goyal 1996), unbounded form: the space clips."""

    #: Distribution index: higher makes smaller changes.
    eta: Annotated[float, Ge(0)] = 20.0
    #: Probability of changing a gene; null changes one gene a genome on average.
    probability: Annotated[float, Interval(gt=0, le=1)] | None = None

    def __call__(self, values: Slots, genes: Genes, rng: np.random.Generator) -> Slots:
        """Changes each gene with the given probability by a share of its range."""
        u = rng.random(values.shape)
        exponent = 1.0 / (self.eta + 1.0)
        delta = np.where(u < 0.5, (2 * u) ** exponent - 1, 1 - (2 * (1 - u)) ** exponent)
        return _moved(values, delta, self.probability, genes, rng)


@dataclass(frozen=True, slots=True, kw_only=True)
class Gaussian:
    """Normally distributed changes."""

    #: Standard deviation as a share of each gene's range.
    sigma: Annotated[float, Gt(0)] = 0.1
    #: Probability of changing a gene; null changes one gene a genome on average.
    probability: Annotated[float, Interval(gt=0, le=1)] | None = None

    def __call__(self, values: Slots, genes: Genes, rng: np.random.Generator) -> Slots:
        """Adds noise to each gene with the given probability."""
        noise = rng.normal(0.0, self.sigma, values.shape)
        return _moved(values, noise, self.probability, genes, rng)


def _moved(
    values: Slots, steps: Slots, probability: float | None, genes: Genes, rng: np.random.Generator
) -> Slots:
    """Moves the chosen numbers by shares of their ranges; other kinds of genes are drawn anew.

    A whole number moves by one at least, an order by the exchange of two items.
    """
    low, high = genes.edges
    chosen = _chosen(values, probability, rng)
    inner = genes.to_inner(values) + steps * (high - low)
    moved = np.where(chosen, genes.to_outer(inner), values)
    if genes.is_real:
        return moved
    near = chosen & genes.whole & genes.numeric & (np.rint(moved) == values)
    moved = np.where(near, values + np.where(steps < 0, -1.0, 1.0), moved)
    drawn = _drawn_anew(values, genes, rng)
    moved = np.where(chosen & ~genes.numeric, drawn, moved)
    for first, end in genes.permutations:
        moved[first:end] = values[first:end]
        if chosen[first:end].any():
            one, other = first + rng.choice(end - first, 2, replace=False)
            moved[[one, other]] = moved[[other, one]]
    return moved


def _drawn_anew(values: Slots, genes: Genes, rng: np.random.Generator) -> Slots:
    """Returns for each slot another of its whole numbers, all alike."""
    lower, upper = np.asarray(genes.lower), np.asarray(genes.upper)
    steps = 1 + np.floor(rng.random(values.shape) * (upper - lower))
    return np.asarray(lower + (values - lower + steps) % (upper - lower + 1))


def _chosen(values: Slots, probability: float | None, rng: np.random.Generator) -> Mask:
    """Chooses which slots change: at least one, since a copy would be a wasted trial."""
    chance = probability if probability is not None else 1.0 / values.size
    chosen = rng.random(values.shape) < chance
    forced = rng.integers(values.size)
    if not chosen.any():
        chosen[forced] = True
    return chosen
