"""What an evaluator is and what it returns.

Fitness is always maximised; a metric that is better when lower is negated once, here, where the
objective is put together. A candidate that could not be measured has no score at all: `Score`
refuses numbers that are not finite.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

#: Which rows a score was measured on: `search` rows make the fitness, `test` rows the report.
Rows = Literal["search", "test"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskScore:
    """One task's metric on one model.

    Raises:
        ValueError: if the value is not finite.
    """

    #: The metric's value exactly as the task's own aggregation gives it (not negated).
    value: float
    #: Standard error of `value`, or None where the metric has none.
    stderr: float | None
    #: How many documents were scored.
    documents: int
    #: Its factor in the fitness, negative where lower is better.
    weight: float = 1.0
    #: The metric of each document, in the task's order; empty where it is not a number.
    per_document: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if not math.isfinite(self.value):
            raise ValueError(f"a task's value must be finite, got {self.value}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """Everything one evaluation measured.

    Raises:
        ValueError: if the fitness is not finite.
    """

    #: The weighted sum of the objectives, higher is better.
    fitness: float
    #: Task name -> its metric.
    tasks: Mapping[str, TaskScore]

    def __post_init__(self) -> None:
        if not math.isfinite(self.fitness):
            raise ValueError(f"a fitness must be finite, got {self.fitness}")


class Evaluator(Protocol):
    """Scores the model that it was opened on, again and again as its weights change."""

    def evaluate(self, rows: Rows, *, halvings: int = 0) -> Score:
        """Scores the model as it is now on the given rows.

        `halvings` says how often to halve the batch, because larger ones ran out of memory.

        Raises:
            ValueError: if the model gives numbers that are not finite.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Language:
    """A causal language model in memory with its tokenizer, as evaluators take it."""

    #: A `transformers.PreTrainedModel` on its device, in evaluation mode.
    model: Any
    #: Its `transformers.PreTrainedTokenizerBase`.
    tokenizer: Any


class EvaluatorSettings(Protocol):
    """The campaign's settings of an evaluator: plain data that travels to the workers."""

    def check(self) -> EvaluatorFacts:
        """Looks everything up that can be known without a model, changes nothing.

        Raises:
            ValueError: if a task or metric does not exist or the rows overlap.
        """
        ...

    def open(self, language: Language) -> Evaluator:
        """Makes an evaluator for a resident model; costly, done once in a worker."""
        ...

    @property
    def tests(self) -> bool:
        """Whether there are test rows to report on."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluatorFacts:
    """What an evaluator found out before any model was scored."""

    #: Task name -> number of documents it will score.
    documents: Mapping[str, int]
    #: Task name -> hash of these documents.
    rows: Mapping[str, str]
    #: Task name -> hash of its configuration: prompts, filters, metrics.
    prompts: Mapping[str, str] = field(default_factory=dict)
    #: Kind of rows -> hash of all that a model's score on them depends on, but for the model.
    identity: Mapping[Rows, str] = field(default_factory=dict)
    #: Version of the library behind the evaluator, for records ("lm_eval 0.4.13").
    version: str
