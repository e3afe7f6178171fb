"""Crossover: one child of two parents. Children may leave the bounds; the space repairs them.

Each works on genes of all kinds: numbers are mixed on the scale that they are drawn on, choices and
bits come from either parent, and orders are crossed as orders, never cut.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Protocol

import numpy as np
from annotated_types import Ge, Interval

from evaluators.registry import Registry
from orchestrator.operators.orders import cross_orders
from orchestrator.spaces.genes import Genes, Mask, Slots

CROSSOVERS = Registry(
    "crossover",
    {
        "sbx": "orchestrator.operators.crossover:Sbx",
        "uniform": "orchestrator.operators.crossover:Uniform",
        "one_point": "orchestrator.operators.crossover:OnePoint",
        "two_point": "orchestrator.operators.crossover:TwoPoint",
        "split_point": "orchestrator.operators.crossover:SplitPoint",
        "blx_alpha": "orchestrator.operators.crossover:BlxAlpha",
        "order": "orchestrator.operators.crossover:Order",
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
        taken = rng.random(a.shape) < 0.5
        child = np.where(taken, np.where(genes.numeric, crossed, b), a)
        return cross_orders(child, taken, (a, b), genes, rng)


@dataclass(frozen=True, slots=True, kw_only=True)
class Uniform:
    """Each gene from either parent (Syswerda 1989)."""

    #: Probability that two parents are crossed at all.
    probability: Annotated[float, Interval(ge=0, le=1)] = 0.9

    def __call__(self, a: Slots, b: Slots, genes: Genes, rng: np.random.Generator) -> Slots | None:
        """Takes half of the genes from each parent, on average."""
        if rng.random() >= self.probability:
            return None
        taken = rng.random(a.shape) >= 0.5
        return cross_orders(np.where(taken, b, a), taken, (a, b), genes, rng)


@dataclass(frozen=True, slots=True, kw_only=True)
class OnePoint:
    """The genes before a cut from one parent, those after it from the other (Holland 1975)."""

    #: Probability that two parents are crossed at all.
    probability: Annotated[float, Interval(ge=0, le=1)] = 0.9

    def __call__(self, a: Slots, b: Slots, genes: Genes, rng: np.random.Generator) -> Slots | None:
        """Cuts between any two genes, all such places alike."""
        if rng.random() >= self.probability:
            return None
        taken = np.arange(a.size) >= _cut(genes, rng)
        taken = taken if rng.random() < 0.5 else ~taken
        return cross_orders(np.where(taken, b, a), taken, (a, b), genes, rng)


@dataclass(frozen=True, slots=True, kw_only=True)
class TwoPoint:
    """The genes between two cuts from the other parent (De Jong 1975).

    The genome is seen as a ring, so that its first and last gene are neighbours, too.
    """

    #: Probability that two parents are crossed at all.
    probability: Annotated[float, Interval(ge=0, le=1)] = 0.9

    def __call__(self, a: Slots, b: Slots, genes: Genes, rng: np.random.Generator) -> Slots | None:
        """Takes what lies between the cuts from one parent, what lies outside from the other."""
        if rng.random() >= self.probability:
            return None
        spans = genes.spans
        if len(spans) == 1:
            return cross_orders(b.copy(), np.ones(a.size, dtype=np.bool_), (a, b), genes, rng)
        one, other = sorted(rng.choice(len(spans), 2, replace=False))
        places = np.arange(a.size)
        taken = (places >= spans[one][0]) & (places < spans[other][0])
        taken = taken if rng.random() < 0.5 else ~taken
        return cross_orders(np.where(taken, b, a), taken, (a, b), genes, rng)


@dataclass(frozen=True, slots=True, kw_only=True)
class SplitPoint:
    """Mixes genes before a cut by a weight and those after it by one minus the weight.

    As M2N2 does with the weights of whole models (Abrantes et al. 2025,
    https://arxiv.org/abs/2508.16204), here between the numbers of genomes, along a line. What
    cannot be mixed comes from either parent with the probability of its weight.
    """

    #: Probability that two parents are crossed at all.
    probability: Annotated[float, Interval(ge=0, le=1)] = 0.9

    def __call__(self, a: Slots, b: Slots, genes: Genes, rng: np.random.Generator) -> Slots | None:
        """Draws the weight and the cut uniformly."""
        if rng.random() >= self.probability:
            return None
        weight = rng.random()
        theirs = np.where(np.arange(a.size) < _cut(genes, rng), 1.0 - weight, weight)
        return _blended(a, b, theirs, genes, rng)


@dataclass(frozen=True, slots=True, kw_only=True)
class BlxAlpha:
    """Blend crossover (Eshelman & Schaffer 1993): anywhere between the parents and about them.

    What falls outside the bounds is repaired, never drawn again: with many genes hardly any child
    lies inside in all of them.
    """

    #: How far beyond the parents, as a share of their difference.
    alpha: Annotated[float, Ge(0)] = 0.5
    #: Probability that two parents are crossed at all.
    probability: Annotated[float, Interval(ge=0, le=1)] = 0.9

    def __call__(self, a: Slots, b: Slots, genes: Genes, rng: np.random.Generator) -> Slots | None:
        """Draws each number uniformly from the parents' interval, widened on both sides."""
        if rng.random() >= self.probability:
            return None
        return _blended(a, b, rng.uniform(-self.alpha, 1.0 + self.alpha, a.shape), genes, rng)


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """Order crossover of every order (OX, Davis 1985); other genes come from either parent."""

    #: Probability that two parents are crossed at all.
    probability: Annotated[float, Interval(ge=0, le=1)] = 0.9

    def __call__(self, a: Slots, b: Slots, genes: Genes, rng: np.random.Generator) -> Slots | None:
        """Keeps a stretch of one parent's order and the other's order of what remains."""
        if rng.random() >= self.probability:
            return None
        child = np.where(rng.random(a.shape) < 0.5, a, b)
        return cross_orders(child, np.ones(a.size, dtype=np.bool_), (a, b), genes, rng)


def _cut(genes: Genes, rng: np.random.Generator) -> int:
    """Returns a slot that a gene begins at, not the first; of one gene, its own."""
    spans = genes.spans
    return spans[rng.integers(1, len(spans))][0] if len(spans) > 1 else 0


def _blended(a: Slots, b: Slots, theirs: Slots, genes: Genes, rng: np.random.Generator) -> Slots:
    """Mixes numbers by the share of the second parent; the rest comes from it as likely."""
    ours = genes.to_inner(a)
    child = genes.to_outer(ours + theirs * (genes.to_inner(b) - ours))
    if genes.is_real:
        return child
    taken: Mask = rng.random(a.shape) < theirs
    child = np.where(genes.numeric, child, np.where(taken, b, a))
    return cross_orders(child, taken, (a, b), genes, rng)
