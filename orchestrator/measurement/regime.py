"""How much of the search rows candidates are measured on: all, a race, an estimate, fresh ones."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Any

from annotated_types import Ge, Interval

from evaluators.base import Documents, Score
from orchestrator.measurement.estimator import Estimator
from orchestrator.measurement.layout import Layout
from orchestrator.measurement.measured import Measured, Standing
from orchestrator.measurement.race import Race


@dataclass(frozen=True, slots=True, kw_only=True)
class Refresh:
    """Scores the elite again on rows kept back, as a search overfits the rows that it selects on.

    What an elite is worth is then its score on all the rows that it was measured on.
    """

    #: Generations between two rounds.
    every: Annotated[int, Ge(1)] = 5
    #: How many of the best are scored again, of the search and of the control each.
    elites: Annotated[int, Interval(ge=1, le=16)] = 4
    #: Documents of each task in a round.
    documents: Annotated[int, Ge(1)] = 32
    #: Share of the search rows that is kept back for this.
    reserve: Annotated[float, Interval(gt=0, lt=1)] = 0.3


@dataclass(frozen=True, slots=True, kw_only=True)
class Regime:
    """How candidates are measured on the search rows; all rows at once if nothing is set."""

    #: The blocks of the search rows and the rounds of fresh ones; None for all rows at once.
    layout: Layout | None = None
    race: Race | None = None
    refresh: Refresh | None = None
    estimator: Estimator[Any] | None = None
    #: What the estimator knows before anything was measured.
    bank: Any = None

    @property
    def blocks(self) -> tuple[Documents | None, ...]:
        """The documents of each block of the search rows."""
        return self.layout.search if self.layout is not None else (None,)

    @property
    def keeps_standings(self) -> bool:
        """Whether what a candidate scored is needed once it has been measured."""
        return self.race is not None or self.refresh is not None or self.estimator is not None

    def measured(self, standing: Standing, *, stopped: bool = False) -> Measured:
        """Returns what a candidate is worth by its plain score on all that it was measured on."""
        score = standing.pooled()
        whole = self.layout.num_documents if self.layout is not None else score.num_documents
        seen = sum(
            one.num_documents for (rows, _), one in standing.parts.items() if rows == "search"
        )
        return Measured(
            fitness=score.fitness,
            stderr=standard_error(score),
            fidelity=min(1.0, seen / whole) if whole else 1.0,
            stopped=stopped,
            tie=score.mean_log_likelihood,
        )


def standard_error(score: Score) -> float | None:
    """Returns the standard error of a fitness whose tasks are measured on different documents."""
    errors = [(one.weight, one.stderr) for one in score.tasks.values()]
    if any(error is None for _, error in errors):
        return None
    return math.sqrt(math.fsum((weight * (error or 0.0)) ** 2 for weight, error in errors))
