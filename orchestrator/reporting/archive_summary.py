"""What an archive of niches had come to after each generation: cells, coverage, QD score.

The QD score is the sum over all cells of the quality above a floor (Pugh, Soros & Stanley 2016,
https://doi.org/10.3389/frobt.2016.00040): it grows with every niche found and with every niche
improved.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from orchestrator.algorithms.archive import Archive, Cells, Limits
from orchestrator.algorithms.base import Evaluated, Memory
from orchestrator.algorithms.cycle_qd import CycleQd
from orchestrator.algorithms.map_elites import MapElites
from orchestrator.spaces.genes import Slots

#: What is summed up here.
Illuminating = MapElites | CycleQd


@dataclass(frozen=True, slots=True, kw_only=True)
class Filled:
    """An archive after so many candidates; of several archives, all of them together."""

    candidates: int
    #: Cells with a member.
    cells: int
    #: Their share of all cells; some may be out of reach.
    coverage: float
    #: Sum over the cells of how far their members' quality is above the floor.
    qd_score: float
    #: Greatest quality; None while there is no member.
    best: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Niches:
    """Who holds which cell of an archive."""

    #: Place of the objective that is the quality; None where it is the fitness.
    quality: int | None
    #: What tells cells apart: places among the objectives ("objective", 0) or genes; their mean
    #: where there is one axis of several.
    axes: tuple[tuple[str, int], ...]
    limits: Limits
    archive: Archive
    #: By cell.
    members: Sequence[Evaluated]
    #: Cell of each member.
    cells: Cells
    #: Where each member lies; (members, number of limits).
    behaviours: Slots

    @property
    def worth(self) -> list[float]:
        """The quality of each member."""
        return [_worth(one, self.quality) for one in self.members]

    @property
    def num_cells(self) -> int:
        """How many cells there are."""
        return self.archive.count(len(self.limits))


def niches(algorithm: Illuminating, memory: Memory) -> list[Niches]:
    """Returns the archives of a memory: one, or one for each task."""
    limits = tuple((low, high) for low, high in memory.state.get("limits", ()))
    if not memory.members:
        return []
    if isinstance(algorithm, MapElites):
        axes, known = algorithm.behaviour(memory.members)
        numbers = np.array([[axis.number(one) for axis in axes] for one in known])
        cells = algorithm.archive.cells_of(numbers, limits)
        order = np.argsort(cells)
        return [
            Niches(
                quality=None,
                axes=tuple((axis.of, axis.place) for axis in axes),
                limits=limits,
                archive=algorithm.archive,
                members=[known[place] for place in order],
                cells=cells[order],
                behaviours=numbers[order],
            )
        ]
    archives = algorithm.archives(memory.members, limits)
    return [_of_task(algorithm, archive, limits, task) for task, archive in enumerate(archives)]


def filled(algorithm: Illuminating, memory: Memory, floor: float, candidates: int) -> Filled:
    """Sums up what archives hold; `floor` is a quality that none should be below."""
    found = niches(algorithm, memory)
    worth = [value for one in found for value in one.worth]
    return Filled(
        candidates=candidates,
        cells=len(worth),
        coverage=len(worth) / max(1, sum(one.num_cells for one in found)),
        qd_score=math.fsum(max(0.0, one - floor) for one in worth),
        best=max(worth, default=None),
    )


def over_time(
    algorithm: Illuminating, generations: Iterable[Sequence[Evaluated]], floor: float
) -> list[Filled]:
    """Returns the archive after each generation; none of these numbers ever falls.

    The candidates need not be the algorithm's own: so archives of other searches are compared.
    """
    memory, candidates, found = Memory(), 0, list[Filled]()
    for generation in generations:
        memory = algorithm.tell(memory, generation)
        candidates += len(generation)
        found.append(filled(algorithm, memory, floor, candidates))
    return found


def _of_task(algorithm: CycleQd, members: Sequence[Evaluated], limits: Limits, task: int) -> Niches:
    metrics = np.array([one.values or (one.fitness,) for one in members], dtype=np.float64)
    behaviours, between = algorithm.behaviours(metrics, limits, task)
    others = (place for place in range(metrics.shape[1]) if place != task)
    return Niches(
        quality=task if metrics.shape[1] > 1 else None,
        axes=tuple(("objective", place) for place in others),
        limits=between,
        archive=algorithm.archive,
        members=members,
        cells=algorithm.archive.cells_of(behaviours, between),
        behaviours=behaviours,
    )


def _worth(one: Evaluated, quality: int | None) -> float:
    value = one.fitness if quality is None else one.values[quality]
    assert value is not None, "archives hold what was measured"
    return value
