"""Races by paired comparison: on the same documents, with the worst of the incumbents to pass.

(Maron & Moore 1994, https://papers.nips.cc/paper/841; Birattari et al. 2002; Mnih et al. 2008,
https://doi.org/10.1145/1390156.1390241.) A candidate is stopped once it is shown that its fitness
on all search rows will not be that of the last survivor. What is hard for both models cancels in
the differences d of the documents seen; the fitness is a sum over tasks t of w_t times a mean, so
that the lead on all rows is estimated by L = sum_t mean_j(w_t d_tj), and the tasks' errors add up
as those of independent samples.

- Rows are finite, and nothing but the fitness on these very rows is at stake: n of N documents
  leave no more than the error of drawing without replacement.
- A candidate is looked at after every block but the last: each of K - 1 looks may err with
  probability (1 - confidence) / (K - 1) (Bonferroni).
- A candidate that has not lost one document goes on, whatever its odds: ties are no evidence.
- `margin` is what a lead must promise, in standard errors of the last survivor's fitness: gains
  that are small beside what the choice of the rows does to a fitness are not worth all rows.
  Without it, what differs from the survivors in a handful of documents is never stopped.

The probabilities are over the order of the documents. As the order is one for the whole campaign,
they hold for each candidate but not apart from those of others, and a search that goes on from
those that did well in the first blocks is not covered.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar, TypeAlias

import numpy as np
from annotated_types import Ge, Gt, Interval
from numpy.typing import NDArray
from scipy.special import stdtr

from evaluators.base import Score
from evaluators.pooling import pool
from orchestrator.measurement.measured import Standing
from orchestrator.measurement.race import Field

Floats: TypeAlias = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Lead:
    """By how much a candidate leads a rival on one task."""

    #: The task's factor in the fitness.
    weight: float
    #: Candidate minus rival times the weight, for each document that both were measured on.
    values: Floats
    #: How many documents the task has in all.
    num_rows: int
    #: From the lowest to the highest value seen of either, not weighted.
    spread: float

    @property
    def num(self) -> int:
        """Documents compared."""
        return len(self.values)

    @property
    def mean(self) -> float:
        """The lead in fitness that this task brings, as estimated."""
        return float(np.mean(self.values))


@dataclass(frozen=True, slots=True, kw_only=True)
class PairedRace:
    """What the paired races share: settings, and whom a candidate has to pass."""

    compares_documents: ClassVar[bool] = True

    #: Documents of each task in the first block.
    first_block: Annotated[int, Ge(1)] = 16
    #: How many times larger each block is than the one before.
    growth: Annotated[float, Interval(ge=1, le=16)] = 1.5
    #: How many of the best a candidate must be able to get among.
    survivors: Annotated[int, Interval(ge=1, le=16)] = 2
    #: Probability of never stopping a candidate that leads the last of them by the margin.
    confidence: Annotated[float, Interval(gt=0, lt=1)] = 0.7
    #: Lead over the last of them that is worth all rows, in standard errors of its fitness.
    margin: Annotated[float, Ge(0)] = 0.75

    def goes_on(self, standing: Standing, field: Field) -> bool:
        """Whether it may still get among the survivors; always, where these are too few."""
        rivals = last_survivors(field, self.survivors)
        return not rivals or any(self._may_pass(standing, rival) for rival in rivals)

    def _may_pass(self, standing: Standing, rival: Standing) -> bool:
        leads = leads_of(standing, rival)
        if never_behind(leads):
            return True
        goal = self.margin * _standard_error(_on_search(rival))
        num_looks = sum(rows == "search" for rows, _ in rival.parts) - 1
        return not self._falls_short(leads, goal, (1 - self.confidence) / max(1, num_looks))

    def _falls_short(self, leads: Sequence[Lead], goal: float, risk: float) -> bool:
        """Whether the lead on all rows is below the goal, erring with at most this probability."""
        raise NotImplementedError


@dataclass(frozen=True, slots=True, kw_only=True)
class PairedT(PairedRace):
    """Stops by Student's t: the sharpest of the three, and nearly exact at best.

    Deviations: a variance is taken about 0, where the mean is if both models are equally good, and
    with one more document on which they differ by all that values were seen to differ. So it is
    never 0 by chance, and a few losses without a win weigh about as much as in a sign test.
    """

    def _falls_short(self, leads: Sequence[Lead], goal: float, risk: float) -> bool:
        """Welch (1947), as tasks differ in variance; 1 - n/N is the correction for finite rows."""
        variances = [
            (float(np.sum(one.values**2)) + (one.weight * one.spread) ** 2)
            / one.num**2
            * (1 - one.num / one.num_rows)
            for one in leads
        ]
        lead, total = math.fsum(one.mean for one in leads), math.fsum(variances)
        if total == 0:  # all rows are known
            return lead < goal
        squares = math.fsum(var**2 / one.num for var, one in zip(variances, leads, strict=True))
        return bool(stdtr(total**2 / squares, (lead - goal) / math.sqrt(total)) < risk)


@dataclass(frozen=True, slots=True, kw_only=True)
class BoundedRace(PairedRace):
    """A race whose probabilities hold for any values of a known range, and so stops late."""

    #: From the lowest to the highest value that a document can have: 1 for accuracies. Where the
    #: values seen of a task lie further apart, theirs is taken, and the bound is a guess.
    span: Annotated[float, Gt(0)] = 1.0

    def _falls_short(self, leads: Sequence[Lead], goal: float, risk: float) -> bool:
        unsure = [one for one in leads if one.num < one.num_rows]
        error = self._error(unsure, risk) if unsure else 0.0
        return math.fsum(one.mean for one in leads) + error < goal

    def _width(self, lead: Lead) -> float:
        """From the lowest to the highest weighted difference that a document can have."""
        return 2 * abs(lead.weight) * max(self.span, lead.spread)

    def _error(self, leads: Sequence[Lead], risk: float) -> float:
        """By how much the lead is underestimated at most, but for this probability."""
        raise NotImplementedError


@dataclass(frozen=True, slots=True, kw_only=True)
class Hoeffding(BoundedRace):
    """Stops by Hoeffding's inequality (1963) for draws without replacement.

    (Serfling 1974; Bardenet & Maillard 2015, https://doi.org/10.3150/14-BEJ605, Theorem 2.4.)
    """

    def _error(self, leads: Sequence[Lead], risk: float) -> float:
        """The logarithms of the tasks' moment generating functions are added up."""
        squares = math.fsum(
            self._width(one) ** 2 / one.num * _finite(one.num, one.num_rows) for one in leads
        )
        return math.sqrt(squares * math.log(1 / risk) / 2)


@dataclass(frozen=True, slots=True, kw_only=True)
class Bernstein(BoundedRace):
    """Stops by the empirical Bernstein inequality: sharper than Hoeffding's if variances are small.

    (Maurer & Pontil 2009, https://arxiv.org/abs/0907.3740, Theorems 3, 4 and 10.) The bound is for
    draws with replacement; without it sums are no less concentrated (Hoeffding 1963, Theorem 4).
    """

    def _error(self, leads: Sequence[Lead], risk: float) -> float:
        """For one task this is Theorem 4; with more, each standard deviation is bounded."""
        if any(one.num < 2 for one in leads):
            return math.inf
        log = math.log((len(leads) + 1) / risk)
        variance = math.fsum(
            (
                float(np.std(one.values, ddof=1))
                + self._width(one) * math.sqrt(2 * log / (one.num - 1))
            )
            ** 2
            / one.num
            for one in leads
        )
        largest = max(self._width(one) / one.num for one in leads)
        return math.sqrt(2 * log * variance) + largest * log / 3


def last_survivors(field: Field, num: int) -> list[Standing]:
    """Returns the incumbent that is the last of the best `num`, and its equals; none if too few.

    By their fitness on the search rows, so that the order in which they are given does not matter.
    """
    if len(field.incumbents) < num:
        return []
    fitness = [_on_search(one).fitness for one in field.incumbents]
    last = sorted(fitness, reverse=True)[num - 1]
    return [one for one, value in zip(field.incumbents, fitness, strict=True) if value == last]


def leads_of(standing: Standing, rival: Standing) -> list[Lead]:
    """Returns a candidate's lead on each task, on the search blocks that both were measured on."""
    mine, theirs = _by_block(standing), _by_block(rival)
    whole = _on_search(rival).tasks
    common = sorted(mine.keys() & theirs.keys())
    leads = []
    for task, score in whole.items():
        pairs = [
            (mine[block].tasks[task].per_document, theirs[block].tasks[task].per_document)
            for block in common
            if task in mine[block].tasks and task in theirs[block].tasks
        ]
        if pairs and pairs[0][0]:  # stretches of training have no numbers of their own
            ours = np.concatenate([pair[0] for pair in pairs])
            others = np.concatenate([pair[1] for pair in pairs])
            seen = np.concatenate([ours, np.asarray(score.per_document)])
            spread = float(np.ptp(seen))
            leads.append(
                Lead(score.weight, score.weight * (ours - others), score.documents, spread)
            )
    return leads


def never_behind(leads: Sequence[Lead]) -> bool:
    """Whether the candidate has not lost one document to its rival."""
    return bool(leads) and all(bool(np.all(one.values >= 0)) for one in leads)


def _by_block(standing: Standing) -> dict[int, Score]:
    return {block: score for (rows, block), score in standing.parts.items() if rows == "search"}


def _on_search(standing: Standing) -> Score:
    return pool(list(_by_block(standing).values()))


def _standard_error(score: Score) -> float:
    """Returns the standard error of a fitness, from the spread of the documents' values."""
    return math.sqrt(
        math.fsum(
            task.weight**2 * float(np.var(task.per_document)) / task.documents
            for task in score.tasks.values()
        )
    )


def _finite(num: int, num_rows: int) -> float:
    """Returns the factor by which drawing `num` of `num_rows` without replacement helps."""
    if num <= num_rows / 2:
        return 1 - (num - 1) / num_rows
    return (1 - num / num_rows) * (1 + 1 / num)
