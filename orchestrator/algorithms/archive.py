"""Archives: the best member of each niche of behaviour.

A grid of equal bins is that of MAP-Elites (Mouret & Clune 2015, https://arxiv.org/abs/1504.04909);
a centroidal Voronoi tessellation keeps the number of cells in hand where there are many behaviour
characteristics (Vassiliades, Chatzilygeroudis & Mouret 2018, https://arxiv.org/abs/1610.05729).

A member's cell is told from the member alone, and which of two is better by a total order: an
archive is the same in whatever order its members came.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Annotated, Any, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt
from annotated_types import Ge

from evaluators.registry import Registry
from orchestrator.algorithms.base import Evaluated
from orchestrator.spaces.genes import Slots

ARCHIVES = Registry(
    "archive",
    {
        "cvt": "orchestrator.algorithms.archive:Cvt",
        "grid": "orchestrator.algorithms.archive:Grid",
    },
)

#: Between which numbers each behaviour characteristic is cut into cells.
Limits: TypeAlias = tuple[tuple[float, float], ...]
#: Number of the cell of each member, from 0.
Cells: TypeAlias = npt.NDArray[np.int64]
#: What tells the better of two members: no two have the same.
Quality: TypeAlias = Callable[[Evaluated], tuple[Any, ...]]
#: Points compared with all centroids at a time, which bounds the memory.
_AT_ONCE = 1000


class Archive(Protocol):
    """Cuts the space of behaviours into cells."""

    def cells_of(self, behaviours: Slots, limits: Limits) -> Cells:
        """Returns the cell of each behaviour; (members,) of (members, axes)."""
        ...

    def count(self, num_axes: int) -> int:
        """Returns how many cells there are."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Grid:
    """Equal bins on each axis.

    A bin holds its upper end but not its lower one. What is beyond the limits is in the bin at
    that end.
    """

    #: Bins on each axis.
    bins: Annotated[int, Ge(1)] = 10

    def cells_of(self, behaviours: Slots, limits: Limits) -> Cells:
        """Counts the inner edges below each characteristic."""
        cells = np.zeros(len(behaviours), dtype=np.int64)
        for values, (low, high) in zip(behaviours.T, limits, strict=True):
            inner = np.linspace(low, high, self.bins + 1)[1:-1]
            cells = cells * self.bins + np.searchsorted(inner, values, side="left")
        return cells

    def count(self, num_axes: int) -> int:
        """Grows as a power of the number of axes."""
        return int(self.bins**num_axes)


@dataclass(frozen=True, slots=True, kw_only=True)
class Cvt:
    """Cells about centroids that are spread evenly between the limits.

    The centroids are what k-means (Lloyd 1982) makes of points drawn uniformly. Deviation: k-means
    starts from the first of the points and ends after `rounds`, converged or not.
    """

    #: Number of cells, however many axes there are.
    cells: Annotated[int, Ge(1)] = 100
    #: Points that k-means is run on; as many as there are cells at least.
    points: Annotated[int, Ge(1)] = 10_000
    #: Rounds of k-means.
    rounds: Annotated[int, Ge(0)] = 25

    def __post_init__(self) -> None:
        if self.points < self.cells:
            raise ValueError(
                f"points: expected as many as there are cells ({self.cells}) at least, got "
                f"{self.points}"
            )

    def cells_of(self, behaviours: Slots, limits: Limits) -> Cells:
        """Finds the nearest centroid, the first of those that are equally near."""
        low, high = np.array(limits, dtype=np.float64).reshape(-1, 2).T
        return _nearest((behaviours - low) / (high - low), self.centroids(behaviours.shape[1]))

    def count(self, num_axes: int) -> int:
        """Always the same."""
        del num_axes
        return self.cells

    def centroids(self, num_axes: int) -> Slots:
        """Returns the centroids in units of the limits; (cells, axes), equal wherever made."""
        return _centroids(self.cells, self.points, self.rounds, num_axes)


def keep_best(members: Sequence[Evaluated], cells: Cells, quality: Quality) -> list[Evaluated]:
    """Returns the member of each cell with the highest quality, by cell."""
    best: dict[int, Evaluated] = {}
    for member, cell in zip(members, cells.tolist(), strict=True):
        if cell not in best or quality(member) > quality(best[cell]):
            best[cell] = member
    return [best[cell] for cell in sorted(best)]


@lru_cache(maxsize=16)
def _centroids(num: int, num_points: int, rounds: int, num_axes: int) -> Slots:
    points = np.random.default_rng([num, num_points, num_axes]).random((num_points, num_axes))
    centroids = points[:num].copy()
    for _ in range(rounds):
        nearest = _nearest(points, centroids)
        counts = np.bincount(nearest, minlength=num)
        for axis in range(num_axes):
            sums = np.bincount(nearest, weights=points[:, axis], minlength=num)
            np.divide(sums, counts, out=centroids[:, axis], where=counts > 0)
    centroids.flags.writeable = False
    return centroids


def _nearest(points: Slots, centroids: Slots) -> Cells:
    """Finds each point's nearest centroid; sums axis by axis, so that all machines agree."""
    found = np.empty(len(points), dtype=np.int64)
    for first in range(0, len(points), _AT_ONCE):
        some = points[first : first + _AT_ONCE]
        squares = np.zeros((len(some), len(centroids)))
        for axis in range(points.shape[1]):
            squares += np.subtract.outer(some[:, axis], centroids[:, axis]) ** 2
        found[first : first + _AT_ONCE] = np.argmin(squares, axis=1)
    return found
