"""Mutation: small random changes. Results may leave the bounds; the space repairs them."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Annotated, Protocol, runtime_checkable

import numpy as np
from annotated_types import Ge, Gt, Interval

from evaluators.registry import Registry
from orchestrator.operators.orders import swap_one
from orchestrator.spaces.genes import Genes, Mask, Slots

MUTATIONS = Registry(
    "mutation",
    {
        "polynomial": "orchestrator.operators.mutation:Polynomial",
        "gaussian": "orchestrator.operators.mutation:Gaussian",
        "self_adaptive": "orchestrator.operators.mutation:SelfAdaptive",
        "reset": "orchestrator.operators.mutation:Reset",
        "swap": "orchestrator.operators.mutation:Swap",
        "flip": "orchestrator.operators.mutation:Flip",
    },
)


class Mutation(Protocol):
    """Changes a genome a little."""

    def __call__(self, values: Slots, genes: Genes, rng: np.random.Generator) -> Slots:
        """Returns a changed copy of a genome's numbers."""
        ...


@runtime_checkable
class Heritable(Mutation, Protocol):
    """A mutation with a number that children inherit and change."""

    @property
    def heritage(self) -> float:
        """The number, for the record of the child."""
        ...

    def heir(
        self, heritages: tuple[float | None, ...], genes: Genes, rng: np.random.Generator
    ) -> Heritable:
        """Returns the mutation of a child whose parents' numbers these are, None of samples."""
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


@dataclass(frozen=True, slots=True, kw_only=True)
class SelfAdaptive:
    """Normally distributed changes of a size that evolves (Schwefel 1981; Beyer & Schwefel 2002).

    A child's step is the geometric mean of its parents', times a log-normal factor; those whose
    steps suit the landscape have the better children. The step is part of the child's record, not
    of its genome: the space need not know of it.
    """

    #: Standard deviation that the search begins with, as a share of each gene's range.
    sigma: Annotated[float, Gt(0)] = 0.1
    #: How much the logarithm of the step varies; null means one over the root of the genes' number.
    rate: Annotated[float, Gt(0)] | None = None
    #: What the step never falls below.
    least: Annotated[float, Gt(0)] = 1e-8
    #: Probability of changing a gene; null changes one gene a genome on average.
    probability: Annotated[float, Interval(gt=0, le=1)] | None = None

    def __call__(self, values: Slots, genes: Genes, rng: np.random.Generator) -> Slots:
        """Adds noise to each gene with the given probability."""
        noise = rng.normal(0.0, self.sigma, values.shape)
        return _moved(values, noise, self.probability, genes, rng)

    @property
    def heritage(self) -> float:
        """The step."""
        return self.sigma

    def heir(
        self, heritages: tuple[float | None, ...], genes: Genes, rng: np.random.Generator
    ) -> Heritable:
        """Mixes and varies the parents' steps."""
        rate = self.rate if self.rate is not None else 1.0 / math.sqrt(len(genes))
        logs = [math.log(self.sigma if one is None else one) for one in heritages]
        found = math.exp(math.fsum(logs) / len(logs) + rate * rng.normal())
        # As it is recorded: what comes after must not depend on digits that nobody sees.
        return replace(self, sigma=float(f"{min(max(found, self.least), 1.0):.4g}"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Reset:
    """Draws genes anew (uniform mutation, Michalewicz 1992): as far as can be, at any time."""

    #: Probability of changing a gene; null changes one gene a genome on average.
    probability: Annotated[float, Interval(gt=0, le=1)] | None = None

    def __call__(self, values: Slots, genes: Genes, rng: np.random.Generator) -> Slots:
        """Draws each gene with the given probability as a random genome has it."""
        low, high = genes.edges
        chosen = _chosen(values, self.probability, rng)
        drawn = genes.to_outer(rng.uniform(low, high))
        changed = np.where(chosen, drawn, values)
        if genes.is_real:
            return changed
        for first, end in genes.permutations:
            changed[first:end] = values[first:end]
            if chosen[first:end].any():
                changed[first:end] = _another_order(values[first:end], rng)
        return _with_choices(changed, values, chosen, np.zeros(values.shape), genes, rng)


@dataclass(frozen=True, slots=True, kw_only=True)
class Swap:
    """Exchanges items of orders (Banzhaf 1990); other genes change as by polynomial mutation."""

    #: Probability of changing a slot: of an order, each that is chosen is exchanged with another;
    #: null changes one a genome on average.
    probability: Annotated[float, Interval(gt=0, le=1)] | None = None
    #: Distribution index of the changes of numbers: higher makes smaller ones.
    eta: Annotated[float, Ge(0)] = 20.0

    def __call__(self, values: Slots, genes: Genes, rng: np.random.Generator) -> Slots:
        """Exchanges each chosen item with any other one of its order."""
        chosen = _chosen(values, self.probability, rng)
        u = rng.random(values.shape)
        exponent = 1.0 / (self.eta + 1.0)
        steps = np.where(u < 0.5, (2 * u) ** exponent - 1, 1 - (2 * (1 - u)) ** exponent)
        changed = _stepped(values, steps, chosen, genes)
        for first, end in genes.permutations:
            changed[first:end] = values[first:end]
            for place in np.flatnonzero(chosen[first:end]):
                swap_one(changed[first:end], int(place), rng)
            if chosen[first:end].any() and np.array_equal(changed[first:end], values[first:end]):
                swap_one(changed[first:end], 0, rng)  # two exchanges undid each other
        return _with_choices(changed, values, chosen, steps, genes, rng)


@dataclass(frozen=True, slots=True, kw_only=True)
class Flip:
    """Flips bits (Holland 1975); in numbers, what one bit of them in Gray code can change.

    That is a step of any size up to the range, all orders of magnitude alike (Rowe & Hidovic 2004,
    GECCO), so that it needs no scale. Choices change to another, and orders by an exchange.
    """

    #: Probability of changing a gene; null changes one gene a genome on average.
    probability: Annotated[float, Interval(gt=0, le=1)] | None = None
    #: Bits that a number is thought to have: the least step is 2 to the minus this of its range.
    precision: Annotated[int, Ge(1)] = 20

    def __call__(self, values: Slots, genes: Genes, rng: np.random.Generator) -> Slots:
        """Flips each gene with the given probability."""
        size = 2.0 ** (-self.precision * rng.random(values.shape))
        steps = np.where(rng.random(values.shape) < 0.5, size, -size)
        return _moved(values, steps, self.probability, genes, rng)


def _moved(
    values: Slots, steps: Slots, probability: float | None, genes: Genes, rng: np.random.Generator
) -> Slots:
    """Moves the chosen numbers by shares of their ranges; other kinds of genes are drawn anew.

    A whole number moves by one at least, an order by the exchange of two items.
    """
    chosen = _chosen(values, probability, rng)
    moved = _stepped(values, steps, chosen, genes)
    if genes.is_real:
        return moved
    for first, end in genes.permutations:
        moved[first:end] = values[first:end]
        if chosen[first:end].any():
            swap_one(moved[first:end], int(rng.integers(end - first)), rng)
    return _with_choices(moved, values, chosen, steps, genes, rng)


def _stepped(values: Slots, steps: Slots, chosen: Mask, genes: Genes) -> Slots:
    """Moves the chosen slots by shares of their ranges, on their own scales."""
    low, high = genes.edges
    inner = genes.to_inner(values) + steps * (high - low)
    return np.where(chosen, genes.to_outer(inner), values)


def _with_choices(
    moved: Slots, values: Slots, chosen: Mask, steps: Slots, genes: Genes, rng: np.random.Generator
) -> Slots:
    """Lets chosen whole numbers change in any case: by one at least, choices to another one."""
    changed = chosen & genes.whole
    for first, end in genes.permutations:
        changed[first:end] = False
    places = np.flatnonzero(changed)
    if not places.size:
        return moved
    lower, upper = np.asarray(genes.lower)[places], np.asarray(genes.upper)[places]
    before, after = values[places], np.rint(np.clip(moved[places], lower, upper))
    inwards = np.where((steps[places] < 0) & (before > lower) | (before >= upper), -1.0, 1.0)
    by_one = np.where(after == before, before + inwards, moved[places])
    steps_on = 1 + np.floor(rng.random(places.size) * (upper - lower))
    another = lower + (before - lower + steps_on) % (upper - lower + 1)
    moved[places] = np.where(genes.numeric[places], by_one, another)
    return moved


def _another_order(order: Slots, rng: np.random.Generator) -> Slots:
    drawn: Slots = rng.permutation(order)
    if np.array_equal(drawn, order):
        swap_one(drawn, int(rng.integers(len(drawn))), rng)
    return drawn


def _chosen(values: Slots, probability: float | None, rng: np.random.Generator) -> Mask:
    """Chooses which slots change: at least one, since a copy would be a wasted trial."""
    chance = probability if probability is not None else 1.0 / values.size
    chosen = rng.random(values.shape) < chance
    forced = rng.integers(values.size)
    if not chosen.any():
        chosen[forced] = True
    return chosen
