"""Mutation: small random changes. Results may leave the bounds; the space repairs them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Protocol

import numpy as np
from annotated_types import Ge, Gt, Interval

from evaluators.registry import Registry
from orchestrator.operators.crossover import Genes

MUTATIONS = Registry(
    "mutation",
    {
        "polynomial": "orchestrator.operators.mutation:Polynomial",
        "gaussian": "orchestrator.operators.mutation:Gaussian",
    },
)


class Mutation(Protocol):
    """Changes a genome a little."""

    def __call__(self, genes: Genes, ranges: Genes, rng: np.random.Generator) -> Genes:
        """Returns a changed copy; `ranges` are the widths of the genes' bounds."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Polynomial:
    """Polynomial mutation (Deb & Goyal 1996), unbounded form: the space clips."""

    #: Distribution index: higher makes smaller changes.
    eta: Annotated[float, Ge(0)] = 20.0
    #: Probability of changing a gene; null changes one gene a genome on average.
    probability: Annotated[float, Interval(gt=0, le=1)] | None = None

    def __call__(self, genes: Genes, ranges: Genes, rng: np.random.Generator) -> Genes:
        """Changes each gene with the given probability by a share of its range."""
        u = rng.random(genes.shape)
        exponent = 1.0 / (self.eta + 1.0)
        delta = np.where(u < 0.5, (2 * u) ** exponent - 1, 1 - (2 * (1 - u)) ** exponent)
        return np.where(_chosen(genes, self.probability, rng), genes + delta * ranges, genes)


@dataclass(frozen=True, slots=True, kw_only=True)
class Gaussian:
    """Normally distributed changes."""

    #: Standard deviation as a share of each gene's range.
    sigma: Annotated[float, Gt(0)] = 0.1
    #: Probability of changing a gene; null changes one gene a genome on average.
    probability: Annotated[float, Interval(gt=0, le=1)] | None = None

    def __call__(self, genes: Genes, ranges: Genes, rng: np.random.Generator) -> Genes:
        """Adds noise to each gene with the given probability."""
        noise = rng.normal(0.0, self.sigma, genes.shape) * ranges
        return np.where(_chosen(genes, self.probability, rng), genes + noise, genes)


def _chosen(
    genes: Genes, probability: float | None, rng: np.random.Generator
) -> np.ndarray[tuple[int, ...], np.dtype[np.bool_]]:
    """Chooses which genes change: at least one, since a copy would be a wasted trial."""
    chance = probability if probability is not None else 1.0 / genes.size
    chosen = rng.random(genes.shape) < chance
    forced = rng.integers(genes.size)
    if not chosen.any():
        chosen[forced] = True
    return chosen
