"""What a candidate is worth, as far as its rows have been scored."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

from evaluators.base import Rows, Score
from evaluators.pooling import pool

#: Half the width of a two-sided 95 % interval, in standard errors.
Z95 = 1.959963984540054
#: A kind of rows and the number of a block of them.
Part: TypeAlias = tuple[Rows, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """A candidate's fitness and how far it is to be trusted.

    Raises:
        ValueError: if the fitness is not finite.
    """

    #: Higher is better. An estimate where `fidelity` is below 1.
    fitness: float
    #: Its standard error; None where it has none.
    stderr: float | None = None
    #: Share of the search rows that it rests on.
    fidelity: float = 1.0
    #: Whether a race ended it: it then ranks below all that it did not end.
    stopped: bool = False
    #: Mean log-likelihood of the right answers, which tells equals apart; None if unknown.
    tie: float | None = None
    #: Value of each objective, all to be maximised (an estimator gives them as they are measured).
    values: tuple[float, ...] = ()
    #: By how much it breaks the constraints, in all; 0 if it keeps them.
    violation: float = 0.0

    def __post_init__(self) -> None:
        if not math.isfinite(self.fitness):
            raise ValueError(f"a fitness must be finite, got {self.fitness}")

    @property
    def rank(self) -> tuple[bool, float, float, float]:
        """Sorts candidates, the better the greater; among equals the elder is to win."""
        tie = -math.inf if self.tie is None else self.tie
        return (not self.stopped, -self.violation, self.fitness, tie)

    @property
    def lower(self) -> float:
        """Lower end of the 95 % interval of the fitness; the fitness where that is unknown."""
        return self.fitness if self.stderr is None else self.fitness - Z95 * self.stderr


@dataclass(frozen=True, slots=True)
class Standing:
    """A candidate's scores on the parts of the search rows that it has been measured on."""

    #: In the order in which they were measured; `search` and `fresh` rows only.
    parts: Mapping[Part, Score] = field(default_factory=dict)

    def with_part(self, part: Part, score: Score) -> Standing:
        """Returns what is known once another part has been measured."""
        return Standing({**self.parts, part: score})

    @property
    def num_documents(self) -> int:
        """Documents scored so far."""
        return sum(score.num_documents for score in self.parts.values())

    def pooled(self) -> Score:
        """Returns the score on all parts together.

        Raises:
            ValueError: if there are none, or a value is no mean over documents.
        """
        return pool(list(self.parts.values()))
