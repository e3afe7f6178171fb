"""Runs of pycma over the coordinates of genes: what `cma_es` replays. Nothing here is remembered.

Samples are clipped to the bounds, so that an optimum on them is met exactly. A genome does not say
which point it came from where it lies on a bound, nor where it holds a whole number, a choice or an
order: there, pycma is told a point drawn from the marginal normal distribution within that cell, by
the candidate's number, so that its spread is neither lost nor made up. Two guards keep the search
from being caught in a cell: the mean stays within `_REACH` standard deviations of the bounds, and
those of coordinates that are no real numbers have a floor (compare Hamano et al. 2022, CMA-ES with
margin, https://arxiv.org/abs/2205.13482). A step of the mean beyond that is taken from the points
told before, not from the mean afterwards: it would be seen as progress, and steps would grow.
"""

from __future__ import annotations

import functools
import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt

from orchestrator.spaces.genes import Categorical, Genes, Genome, Permutation, Slots

if TYPE_CHECKING:
    from types import ModuleType

#: Coordinates above which a full covariance matrix costs more than it learns in a usual budget.
MAX_FULL = 200
#: Standard deviation that a choice's or whole number's coordinate keeps, in widths of a cell.
_FLOOR = 0.25
#: How far beyond a bound the mean may lie, in standard deviations.
_REACH = 2.0
#: What lies as near to a bound, in ranges of a gene, lies on it.
_EDGE = 1e-12
#: Condition of the covariance above which a run ends, as numbers do not carry further.
_MAX_CONDITION = 1e14
#: Greatest standard deviation, as a share of the first, below which a run ends.
_MIN_SIGMA = 1e-11
#: How often restarts double the population at most.
_MAX_DOUBLINGS = 9


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSettings:
    """What all runs of a search have in common."""

    population_size: int | None
    sigma: float
    start: Literal["space", "center", "random"]
    covariance: Literal["auto", "full", "diagonal"]
    restarts: Literal["none", "ipop", "bipop"]
    #: Whether restarts change the population's size.
    grows: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """Candidates that the distribution was updated by, at once."""

    #: The best first.
    numbers: tuple[int, ...]
    genomes: tuple[Genome, ...]
    #: Fitness of the best and of the middle one (the violation, negated, where the best is not
    #: feasible); None where all failed.
    best: float | None
    median: float | None
    feasible: bool
    #: Of all told up to here; what restarts draw comes from it.
    digest: str


def default_size(num_coordinates: int) -> int:
    """Candidates of a generation (Hansen 2016, https://arxiv.org/abs/1604.00772, eq. 48)."""
    return 4 + int(3 * math.log(num_coordinates))


@functools.cache
def pycma() -> ModuleType:
    """Imports pycma, which takes a second.

    Raises:
        ValueError: if it is not installed.
    """
    try:
        import cma
    except ImportError as error:
        raise ValueError("kind: 'cma_es' needs the package cma; install shoal[search]") from error
    module: ModuleType = cma
    return module


@dataclass(slots=True)
class _Coordinates:
    """Which points the vectors of genomes stand for (`Genes.encode`, the vectors pycma sees)."""

    genes: Genes
    #: Slots of numbers and bits, and their coordinates.
    slots: npt.NDArray[np.int64] = field(init=False)
    places: npt.NDArray[np.int64] = field(init=False)
    #: Half the width of a number's cell, by slot: 0 for real ones.
    halves: Slots = field(init=False)
    #: First coordinate and the one after the last of choices and of orders.
    choices: list[tuple[int, int]] = field(default_factory=list)
    orders: list[tuple[int, int]] = field(default_factory=list)
    #: Least standard deviation of each coordinate.
    floor: Slots = field(init=False)

    def __post_init__(self) -> None:
        genes, at = self.genes, 0
        slots, places = list[int](), list[int]()
        self.floor = np.zeros(genes.num_coordinates)
        for one, (first, end) in zip(genes.genes, genes.spans, strict=True):
            width = len(one.choices) if isinstance(one, Categorical) else end - first
            if isinstance(one, Categorical):
                self.choices.append((at, at + width))
                self.floor[at : at + width] = _FLOOR
            elif isinstance(one, Permutation):
                self.orders.append((at, at + width))
                self.floor[at : at + width] = _FLOOR / width
            else:
                slots.append(first)
                places.append(at)
                if genes.whole[first]:
                    self.floor[at] = _FLOOR / (genes.upper[first] - genes.lower[first] + 1)
            at += width
        self.slots, self.places = np.array(slots, dtype=int), np.array(places, dtype=int)
        self.halves = np.where(genes.whole, 0.5, 0.0)

    def likely(self, genome: Genome, number: int, mean: Slots, stds: Slots) -> Slots:
        """Returns the vector that a genome may have come from; always the same for a number."""
        vector = self.genes.encode(genome)
        low, high = self._cells(genome)
        at, open_ = self.places, low < high
        if not (open_.any() or self.choices or self.orders):
            return vector
        rng = np.random.default_rng([number, 1])
        means, scales = mean[at], stds[at]
        drawn = _within((low - means) / scales, (high - means) / scales, rng.random(len(at)))
        vector[at] = np.where(open_, means + scales * drawn, vector[at])
        for first, end in [*self.choices, *self.orders]:
            keys = rng.normal(mean[first:end], stds[first:end])
            vector[first:end] = _arranged(keys, vector[first:end], (first, end) in self.orders)
        return vector

    def _cells(self, genome: Genome) -> tuple[Slots, Slots]:
        """Returns between which coordinates the numbers are what they are; (numbers,) each."""
        genes, values, at = self.genes, np.asarray(genome), self.slots
        low, high = (edge[at] for edge in genes.edges)
        below = (genes.to_inner(values - self.halves)[at] - low) / (high - low)
        above = (genes.to_inner(values + self.halves)[at] - low) / (high - low)
        return (
            np.where(below <= _EDGE, -np.inf, below),
            np.where(above >= 1 - _EDGE, np.inf, above),
        )


def _within(low: Slots, high: Slots, shares: Slots) -> Slots:
    """Returns these quantiles of standard normal distributions cut to intervals."""
    from scipy.special import ndtr, ndtri

    mirrored = low > 0  # the lower tail has the digits
    low, high = np.where(mirrored, -high, low), np.where(mirrored, -low, high)
    below, above = ndtr(low), ndtr(high)
    drawn = np.clip(ndtri(below + shares * (above - below)), low, high)
    nearest = np.where(np.isfinite(high), high, low)
    drawn = np.where(np.isfinite(drawn), drawn, np.where(np.isfinite(nearest), nearest, 0.0))
    return np.where(mirrored, -drawn, drawn)


def _arranged(drawn: Slots, pattern: Slots, is_order: bool) -> Slots:
    """Returns drawn numbers, exchanged so that they mean what the pattern means."""
    if is_order:
        arranged = np.empty(len(drawn))
        arranged[np.argsort(pattern, kind="stable")] = np.sort(drawn)
        return arranged
    chosen, largest = int(np.argmax(pattern)), int(np.argmax(drawn))
    drawn[[chosen, largest]] = drawn[[largest, chosen]]
    return drawn


class Runs:
    """One run after another, as far as they have been told; belongs to this process alone."""

    def __init__(self, genes: Genes, settings: RunSettings) -> None:
        pycma()
        self.genes = genes
        self._settings = settings
        self._coordinates = _Coordinates(genes)
        size = settings.population_size or default_size(genes.num_coordinates)
        self._first_size = size
        self._growth = 0
        #: Candidates told to runs of the growing kind and of the small kind (BIPOP).
        self._spent = [0, 0]
        self._is_small = False
        self._feasible = True
        #: Fitness of the best and of the middle one, for each update of the present run.
        self._history: list[tuple[float, float]] = []
        self._waits_for_first = settings.start == "random"
        center = np.full(genes.num_coordinates, 0.5)
        if settings.start == "space" and genes.start is not None:
            center = genes.encode(genes.start)
        self._begin(center, size, settings.sigma)

    @property
    def size(self) -> int:
        """Candidates of a generation of the present run."""
        return int(self._es.popsize)

    def ask(self, rng: np.random.Generator, num: int) -> list[Genome]:
        """Samples genomes; changes nothing."""
        if self._waits_for_first:
            return self.genes.sample(rng, num)
        es, length = self._es, self.genes.num_coordinates
        steps = [es.sm.transform(z) for z in rng.standard_normal((num, length))]
        scale = es.sigma * es.sigma_vec.scaling
        return [self.genes.decode(es.mean + scale * step) for step in steps]

    def tell(self, told: Told) -> None:
        """Updates the distribution, or begins a new run where this one has come to its end."""
        self._spent[self._is_small] += len(told.numbers)
        if told.best is None or len(told.numbers) < max(3, self._es.sp.weights.mu):
            return  # too few to tell directions from
        if self._waits_for_first:
            self._waits_for_first = False
            self._begin(self.genes.encode(told.genomes[0]), self.size, self._settings.sigma)
            return
        es = self._es
        stds = self._stds()
        vectors = [
            self._coordinates.likely(genome, number, es.mean, stds)
            for genome, number in zip(told.genomes, told.numbers, strict=True)
        ]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that sizes differ: some may have been late
            es.tell(self._within_reach(vectors, stds), list(range(len(vectors))))
            reach = _REACH * self._stds()
            es.mean = np.clip(es.mean, -reach, 1 + reach)
            es.ask()  # draws nothing: brings what it samples from up to date
        if told.feasible != self._feasible:
            self._history, self._feasible = [], told.feasible
        assert told.median is not None, "there is one if there is a best"
        self._history.append((told.best, told.median))
        if self._settings.restarts != "none" and self._has_ended():
            self._restart(np.random.default_rng(int(told.digest, 16)))

    def _within_reach(self, vectors: list[Slots], stds: Slots) -> list[Slots]:
        """Moves the best, all alike, so that the mean ends within its reach of the bounds."""
        weights = np.asarray(self._es.sp.weights.positive_weights)
        best, reach = vectors[: len(weights)], _REACH * stds
        mean = weights @ np.asarray(best) / weights.sum()
        move = np.clip(mean, -reach, 1 + reach) - mean
        return [*(one + move for one in best), *vectors[len(weights) :]]

    def _stds(self) -> Slots:
        """Returns the standard deviation of each coordinate."""
        es = self._es
        return np.asarray(es.sigma * es.sigma_vec.scaling * es.sm.variances**0.5)

    def _begin(self, center: Slots, size: int, sigma: float) -> None:
        cma = pycma()
        length = len(center)
        diagonal = self._settings.covariance == "diagonal" or (
            self._settings.covariance == "auto" and length > MAX_FULL
        )
        options = {
            "popsize": size,
            "CMA_diagonal": diagonal,
            "AdaptSigma": cma.sigma_adaptation.CMAAdaptSigmaCSA,
            "minstd": list(self._coordinates.floor),
            "maxstd": 1.0,
            "conditioncov_alleviate": [1e8, 0],
            "seed": math.nan,
            "randn": _no_randomness,
            "verbose": -9,
            "verb_log": 0,
        }
        self._es = cma.CMAEvolutionStrategy(center, sigma, options)
        self._es.ask()
        self._history = []

    def _has_ended(self) -> bool:
        """Whether the run has nothing more to find (Hansen 2009, the BIPOP paper, section 2.1)."""
        es, history = self._es, self._history
        if (
            float(np.max(self._stds())) < _MIN_SIGMA * es.sigma0
            or es.condition_number > _MAX_CONDITION
        ):
            return True
        window = 10 + math.ceil(30 * es.N / es.popsize)
        recent = [best for best, _ in history[-window:]]
        if len(recent) == window and max(recent) - min(recent) <= 1e-12 * abs(max(recent)):
            return True
        long = max(120 + 30 * es.N // es.popsize, len(history) // 5)
        return len(history) > long and _is_level(history[-long:])

    def _restart(self, rng: np.random.Generator) -> None:
        """Begins anew anywhere, with twice the population or, in BIPOP, also with a small one."""
        settings, size, sigma = self._settings, self._first_size, self._settings.sigma
        lags = self._growth > 0 and self._spent[True] < self._spent[False]
        self._is_small = settings.grows and settings.restarts == "bipop" and lags
        if self._is_small:
            size = int(size * (0.5 * 2**self._growth) ** (rng.random() ** 2))
            sigma *= 10 ** (-2 * rng.random())
        elif settings.grows:
            self._growth = min(self._growth + 1, _MAX_DOUBLINGS)
            size *= 2**self._growth
        (genome,) = self.genes.sample(rng, 1)
        self._begin(self.genes.encode(genome), size, sigma)


def _no_randomness(*shape: int) -> Slots:
    """Stands for pycma's generator: what is sampled comes from the campaign's."""
    return np.zeros(shape)


def _is_level(history: Sequence[tuple[float, float]]) -> bool:
    """Whether neither the best nor the middle ones are better than they were a while ago."""
    share = max(1, int(0.3 * len(history)))
    early, late = np.asarray(history[:share]), np.asarray(history[-share:])
    return bool(np.all(np.median(late, axis=0) <= np.median(early, axis=0)))
