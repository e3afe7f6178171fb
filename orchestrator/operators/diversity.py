"""How far the members of a population are apart, and what may be done to keep them so."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, TypeAlias

import numpy as np
import numpy.typing as npt
from annotated_types import Gt, Interval

from orchestrator.spaces.genes import Genes, Genome, Mask, Slots

#: A number for each pair of members; (members, members).
Pairs: TypeAlias = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sharing:
    """Fitness sharing (Goldberg & Richardson 1987): who is near to others gets fewer children.

    What is shared is the place in the population, counted from the worst, rather than the fitness
    itself: this may be negative, and one broken model would make all others look alike.
    """

    #: Distance (0 to 1) within which members share.
    radius: Annotated[float, Interval(gt=0, le=1)]
    #: Form of the decline with distance: 1 is linear, higher shares with farther ones, too.
    alpha: Annotated[float, Gt(0)] = 1.0

    def shared(self, apart: Pairs) -> list[float]:
        """Returns what members, the best first, have left of their places."""
        num = len(apart)
        nearness = np.where(apart < self.radius, 1.0 - (apart / self.radius) ** self.alpha, 0.0)
        np.fill_diagonal(nearness, 1.0)
        left = np.arange(num, 0, -1) / nearness.sum(axis=1)
        return [float(one) for one in left]


@dataclass(frozen=True, slots=True, kw_only=True)
class Immigrants:
    """Random genomes among the children where diversity has fallen (Grefenstette 1992)."""

    #: Mean distance between members (0 to 1) below which they come.
    below: Annotated[float, Interval(gt=0, le=1)]
    #: Share of the next children that they take the place of.
    share: Annotated[float, Interval(gt=0, le=1)] = 0.2

    def are_needed(self, apart: Pairs) -> bool:
        """Whether members are too near to each other."""
        return len(apart) > 1 and mean_distance(apart) < self.below


def mean_distance(apart: Pairs) -> float:
    """Returns the mean over all pairs of two members."""
    return float(apart.sum() / (len(apart) * (len(apart) - 1)))


def distances(genomes: Sequence[Genome], genes: Genes) -> Pairs:
    """Returns `Genes.distance` of all pairs; (genomes, genomes)."""
    numbers = genes.to_inner(np.asarray(genomes, dtype=np.float64))
    low, high = (genes.to_inner(np.asarray(edge)) for edge in (genes.lower, genes.upper))
    numbers = (numbers - low) / np.where(genes.numeric, high - low, 1.0)
    active = np.ones(numbers.shape, dtype=np.bool_)
    if any(one.when for one in genes.genes):
        active = np.array([genes.active(genome) for genome in genomes])
    squares = _squares(numbers[:, genes.numeric], active[:, genes.numeric])
    squares += _differing(numbers[:, ~genes.numeric], active[:, ~genes.numeric])
    counts = active.astype(np.float64)
    alone = counts @ (1.0 - counts).T  # slots that count in one of the two
    return np.asarray(np.sqrt(np.maximum(squares + alone + alone.T, 0.0) / len(genes)))


def _squares(numbers: Slots, active: Mask) -> Pairs:
    """Returns the squared distances between rows where both count, by products of matrices."""
    counts, counted = active.astype(np.float64), np.where(active, numbers, 0.0)
    half = (counted * counted) @ counts.T - counted @ counted.T
    return np.asarray(half + half.T)


def _differing(choices: Slots, active: Mask) -> Pairs:
    """Returns in how many slots rows differ where both count."""
    found = np.zeros((len(choices), len(choices)))
    for place, (mine, counts) in enumerate(zip(choices, active, strict=True)):
        found[place] = np.count_nonzero((choices != mine) & active & counts, axis=1)
    return found
