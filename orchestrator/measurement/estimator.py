"""Estimators: what a candidate would score on all search rows, from a few of its documents."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, TypeAlias, TypeVar

from evaluators.base import Documents, Score, TaskFacts
from evaluators.registry import Registry
from orchestrator.measurement.measured import Measured

ESTIMATORS = Registry("estimator", {"irt": "orchestrator.measurement.item_bank:ItemBank"})


class UnfitValuesError(ValueError):
    """Documents' values are not what the estimator needs; the estimator or the metric must go."""


#: A candidate, the documents that it was measured on, and its score on them.
Answered: TypeAlias = tuple[str, Documents, Score]
#: An estimator's memory: a frozen value.
M = TypeVar("M")


class Estimator(Protocol[M]):
    """Settings of an estimator, and pure functions over its memory."""

    def start(self, tasks: Mapping[str, TaskFacts], weights: Mapping[str, float], seed: int) -> M:
        """Returns the memory before anything was measured.

        Args:
            tasks: the objectives on search rows.
            weights: of each in the fitness.
            seed: of all draws of documents.

        Raises:
            ValueError: if a task's value is no mean over documents.
        """
        ...

    def choose(self, memory: M, number: int) -> Documents:
        """Returns the documents that candidate `number` is to be measured on."""
        ...

    def estimate(
        self, memory: M, score: Score, documents: Documents, parents: Sequence[str]
    ) -> Measured:
        """Returns the fitness on all search rows, as far as a score on some of them tells.

        Its standard error is that of the estimate of the value on these rows: 0 if all were seen.
        Its values are the estimates of the objectives, in the order in which `start` had them.

        Args:
            memory: what is known.
            score: on the documents.
            documents: those of each task, in the order of the score's results.
            parents: references whose abilities span the candidate's; all of them if empty.

        Raises:
            UnfitValuesError: if a document's value is none that the estimator can deal with.
        """
        ...

    def learn(
        self,
        memory: M,
        answers: Sequence[Answered],
        references: Sequence[tuple[str, Score]] = (),
    ) -> M:
        """Returns the memory after candidates and references have been measured.

        Who is learned again takes the place of what was known of it. The order counts.

        Args:
            memory: what is known.
            answers: of candidates to some documents each.
            references: measured on all documents.
        """
        ...

    def to_plain(self, memory: M) -> dict[str, Any]:
        """Returns the memory as JSON can hold it."""
        ...

    def from_plain(self, plain: Mapping[str, Any]) -> M:
        """Returns the memory that `to_plain` made this of."""
        ...
