"""When a search has found enough, or finds nothing more.

Looked at whenever the algorithm is told: at the end of a generation, so that the order of its
outcomes changes nothing, or after each outcome of an asynchronous search.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated

from annotated_types import Ge

from orchestrator.measurement.measured import Measured


@dataclass(frozen=True, slots=True, kw_only=True)
class Stagnation:
    """Ends a search whose best candidate has not become better for long."""

    #: Candidates of the search that were measured since; whichever limit comes first counts.
    evaluations: Annotated[int, Ge(1)] | None = None
    #: Generations since.
    generations: Annotated[int, Ge(1)] | None = None
    #: By how much the best fitness must rise to count as better.
    by: Annotated[float, Ge(0)] = 0.0

    def __post_init__(self) -> None:
        if self.evaluations is None and self.generations is None:
            raise ValueError("set evaluations or generations: for how long nothing may get better")


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """The last time that the search's best candidate became better."""

    #: What the best was worth then, or is by now if further rows say that it is worth less.
    fitness: float
    violation: float
    #: Candidates of the search that had been measured by then, and the generation.
    evaluations: int
    generation: int


def advanced(
    before: Progress | None, best: Measured | None, *, by: float, evaluations: int, generation: int
) -> Progress | None:
    """Returns when the best became better, given what is the best now.

    A candidate that breaks the constraints less is better whatever its fitness.
    """
    if best is None:
        return before
    now = Progress(
        fitness=best.fitness,
        violation=best.violation,
        evaluations=evaluations,
        generation=generation,
    )
    if before is None:
        return now
    if (-now.violation, now.fitness) < (-before.violation, before.fitness):
        return replace(before, fitness=now.fitness, violation=now.violation)
    is_better = now.violation < before.violation or now.fitness > before.fitness + by
    return now if is_better else before


def has_reached(best: Measured | None, target: float | None) -> bool:
    """Whether the best candidate is worth the target and keeps the constraints.

    An estimate counts by the lower end of its interval.
    """
    if best is None or target is None or best.stopped or best.violation > 0:
        return False
    return (best.fitness if best.fidelity >= 1 else best.lower) >= target


def has_stagnated(
    last: Progress | None, limit: Stagnation | None, *, evaluations: int, generation: int
) -> bool:
    """Whether nothing has become better for as long as the limit says."""
    if limit is None:
        return False
    since = (last.evaluations, last.generation) if last is not None else (0, 0)
    return (limit.evaluations is not None and evaluations - since[0] >= limit.evaluations) or (
        limit.generations is not None and generation - since[1] >= limit.generations
    )
