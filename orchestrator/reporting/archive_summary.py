"""What an archive of niches had come to after each generation: cells, coverage, QD score.

The QD score is the sum over all cells of the fitness above a floor (Pugh, Soros & Stanley 2016,
https://doi.org/10.3389/frobt.2016.00040): it grows with every niche found and with every niche
improved.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from orchestrator.algorithms.base import Evaluated, Memory
from orchestrator.algorithms.map_elites import MapElites


@dataclass(frozen=True, slots=True, kw_only=True)
class Filled:
    """An archive after so many candidates."""

    candidates: int
    #: Cells with a member.
    cells: int
    #: Their share of all cells; some may be out of reach.
    coverage: float
    #: Sum over the cells of how far their members' fitness is above the floor.
    qd_score: float
    #: Greatest fitness; None while there is no member.
    best: float | None


def filled(algorithm: MapElites, memory: Memory, floor: float, candidates: int) -> Filled:
    """Sums up what an archive holds; `floor` is a fitness that none should be below."""
    fitness = [one.fitness for one in memory.members if one.fitness is not None]
    axes = len(memory.state.get("limits", ()))
    return Filled(
        candidates=candidates,
        cells=len(fitness),
        coverage=len(fitness) / algorithm.archive.count(axes),
        qd_score=math.fsum(max(0.0, one - floor) for one in fitness),
        best=max(fitness, default=None),
    )


def over_time(
    algorithm: MapElites, generations: Iterable[Sequence[Evaluated]], floor: float
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
