"""Trains networks and scores what they have learned; training is cut into stretches.

A stretch is what a document is elsewhere: a race may stop a network after any of them, and who goes
on goes on where it was. What a network is worth is what it scores after its last stretch.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from annotated_types import Ge

from evaluators.addresses import source_digest
from evaluators.base import Documents, EvaluatorFacts, Rows, Score, Subject, TaskFacts, TaskScore
from evaluators.ctm.kinds import Task
from evaluators.digest import hash_json
from evaluators.function_answer import Target, check_targets
from evaluators.registry import nearest

#: What can count, and whether it is a mean over samples.
METRICS: Mapping[str, bool] = {
    "solved": True,
    "positions": True,
    "log_likelihood": True,
    "early_solved": True,
    "surest_tick": False,
    "early_tick": False,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Ctm:
    """Trains a network on a task, then scores it."""

    scores: ClassVar[Subject] = "network"

    #: What is learned; the space's task, if left out.
    task: Task | None = None
    #: What counts, and how much: solved (all of a sample right at the most certain tick), positions
    #: (the share that is), log_likelihood, early_solved (when stopping at a certainty of 0.8),
    #: surest_tick and early_tick.
    metrics: tuple[Target, ...] = (Target(name="solved"),)
    #: Equal parts of training that a race can stop after, and that nobody does twice.
    stretches: Annotated[int, Ge(1)] = 9
    #: Folder of networks in training; `checkpoints` in the campaign's output folder if null.
    checkpoints: str | None = None
    #: Samples of one pass when scoring.
    batch_size: Annotated[int, Ge(1)] = 256

    def __post_init__(self) -> None:
        check_targets(self.metrics, "metrics")
        for one in self.metrics:
            if one.name not in METRICS:
                raise ValueError(f"metrics: unknown {one.name!r}; {nearest(one.name, METRICS)}")

    @property
    def kinds(self) -> frozenset[Rows]:
        """Which kinds of rows there are."""
        return frozenset(self.the_task.num_rows)

    @property
    def the_task(self) -> Task:
        """The task.

        Raises:
            ValueError: if there is none.
        """
        if self.task is None:
            raise ValueError("task: is missing; name one here or in the space")
        return self.task

    def check(self) -> EvaluatorFacts:
        """Makes or reads the samples, as a worker would."""
        task = self.the_task
        data = task.open()
        for rows in task.num_rows:
            data.rows(rows)
        identity = self.task_identity()
        facts: dict[Rows, dict[str, TaskFacts]] = {
            rows: {one.name: self._facts(one, rows, num, identity) for one in self.metrics}
            for rows, num in task.num_rows.items()
        }
        return EvaluatorFacts(
            tasks=facts,
            identity={rows: hash_json([identity, rows, self._counted()]) for rows in facts},
            version="networks in training",
        )

    def open(self, resident: Any) -> Any:
        """Makes or reads the samples."""
        from evaluators.ctm.scoring import Trainer

        return Trainer(self, resident)

    def task_identity(self) -> str:
        """Returns a hash of all that the samples depend on."""
        task = self.the_task
        functions = [getattr(task, name, None) for name in ("train", "test")]
        sources = [source_digest(one) for one in functions if isinstance(one, str)]
        return hash_json([repr(task), sources])

    def score(self, tasks: Mapping[str, TaskScore]) -> Score:
        """Returns the weighted sum."""
        return Score(
            fitness=math.fsum(one.weight * one.value for one in tasks.values()), tasks=tasks
        )

    def _facts(self, one: Target, rows: Rows, num: int, identity: str) -> TaskFacts:
        searching = rows == "search"
        return TaskFacts(
            documents=self.stretches if searching else num,
            rows=hash_json([identity, rows]),
            weight=one.weight,
            in_order=searching,
            is_mean=not searching and METRICS[one.name],
        )

    def _counted(self) -> Any:
        return [[[one.name, one.weight] for one in self.metrics], self.stretches]


def places_of(documents: Documents | None, metric: str, stretches: int) -> tuple[int, ...]:
    """Returns the stretches that a job asks for; all of them if it names none."""
    return tuple(range(stretches)) if documents is None else documents[metric]
