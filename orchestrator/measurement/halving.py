"""Asynchronous successive halving, by the rule that stops (Li et al. 2020; Jamieson & Talwalkar).

(https://arxiv.org/abs/1810.05934; 2016, https://arxiv.org/abs/1502.07943.) No probabilities: after
each block the best share of what has been seen at this block goes on.

Deviations: the share is of the candidates of late, those of earlier generations, so that which of
a generation's outcomes comes first changes nothing; equals of the last one to go on do so, too,
and so does a candidate that has not lost one document to the last of the survivors.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from annotated_types import Ge, Gt, Interval

from evaluators.pooling import pool
from orchestrator.measurement.measured import Standing
from orchestrator.measurement.paired_races import last_survivors, leads_of, never_behind
from orchestrator.measurement.race import Field


@dataclass(frozen=True, slots=True, kw_only=True)
class Halving:
    """After each block, the best 1/eta of the candidates of late goes on."""

    #: Documents of each task in the first block.
    first_block: Annotated[int, Ge(1)] = 16
    #: How many times larger each block is than the one before.
    growth: Annotated[float, Interval(ge=1, le=16)] = 1.5
    #: A candidate that loses no document to the last of so many of the best goes on anyway.
    survivors: Annotated[int, Interval(ge=1, le=16)] = 2
    #: One in so many goes on.
    eta: Annotated[float, Gt(1)] = 5.0
    #: Candidates that must have come as far before anybody is stopped there.
    least: Annotated[int, Ge(1)] = 8

    def goes_on(self, standing: Standing, field: Field) -> bool:
        """Whether it is among the best at its block."""
        scores = [score for (rows, _), score in standing.parts.items() if rows == "search"]
        rung = field.rung(len(scores) - 1)
        if len(rung) < self.least:
            return True
        last = sorted(rung, reverse=True)[max(1, int(len(rung) / self.eta)) - 1]
        if pool(scores).fitness >= last:
            return True
        rivals = last_survivors(field, self.survivors)
        return any(never_behind(leads_of(standing, rival)) for rival in rivals)
