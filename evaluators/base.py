"""What an evaluator is and what it returns.

Fitness is always maximised; a metric that is better when lower is negated once, here, where the
objective is put together. A candidate that could not be measured has no score at all: `Score`
refuses numbers that are not finite.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, TypeAlias

#: What a score was measured on: `search` rows make the fitness, `fresh` rows are search rows kept
#: back to score the elite again, `selection` rows pick among the finalists, `test` rows make the
#: report, and `control` tasks tell whether anything else got worse.
Rows = Literal["search", "fresh", "selection", "test", "control"]
#: Task -> which of its documents, by their place among the task's documents of that kind of rows.
Documents: TypeAlias = Mapping[str, tuple[int, ...]]
#: What is scored: a causal language model, a network that is trained first, or the values of a
#: genome that is no model.
Subject = Literal["language", "network", "values"]


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
    #: The metric of each document, in the order of the documents; empty where it is not a number.
    per_document: tuple[float, ...] = ()
    #: Log-likelihood of each document's right answer, in nats; empty where the task has none.
    log_likelihoods: tuple[float, ...] = ()

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

    @property
    def num_documents(self) -> int:
        """How many documents were scored, over all tasks."""
        return sum(task.documents for task in self.tasks.values())

    @property
    def mean_log_likelihood(self) -> float | None:
        """Mean over tasks of the mean log-likelihood of the right answers, to tell equals apart."""
        means = [
            math.fsum(task.log_likelihoods) / len(task.log_likelihoods)
            for task in self.tasks.values()
            if task.log_likelihoods
        ]
        return math.fsum(means) / len(means) if means else None


class Evaluator(Protocol):
    """Scores the model that it was opened on, again and again as its weights change."""

    def evaluate(
        self, rows: Rows, *, documents: Documents | None = None, halvings: int = 0
    ) -> Score:
        """Scores the model as it is now on the given rows.

        `documents` names the documents of each task (all of its rows if None): no forward pass
        holds others, so that a score depends on them alone and not on what was scored before.
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


@dataclass(slots=True)
class Values:
    """What stands for a model where there is none: what the genes of the candidate say."""

    #: Gene -> its value, of the candidate at hand.
    by_gene: Mapping[str, Any] = field(default_factory=dict)


class EvaluatorSettings(Protocol):
    """The campaign's settings of an evaluator: plain data that travels to the workers.

    What it scores is a language model, unless an attribute `scores` says `values`.
    """

    def check(self) -> EvaluatorFacts:
        """Looks everything up that can be known without a model, changes nothing.

        Raises:
            ValueError: if a task or metric does not exist or the rows overlap.
        """
        ...

    def open(self, resident: Any) -> Evaluator:
        """Makes an evaluator for a resident model; costly, done once in a worker.

        `resident` is a `Language` whose weights change, `Values`, or a network to be trained.
        """
        ...

    @property
    def kinds(self) -> frozenset[Rows]:
        """Which kinds of rows there are; `search` always, `fresh` never: it is cut from them."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskFacts:
    """What was found out about one task on one kind of rows before any model was scored."""

    #: How many documents will be scored.
    documents: int
    #: Hash of these documents.
    rows: str
    #: Hash of the task's configuration: prompts, filters, metrics.
    prompts: str = ""
    #: A label of each document, such as its right answer: parts of the rows have equal shares.
    strata: tuple[str, ...] = ()
    #: The task whose order of documents it shares, so that blocks of both are the same documents;
    #: its own if empty.
    ordered_as: str = ""
    #: Its factor in the fitness, negative where lower is better.
    weight: float = 1.0
    #: Whether documents are stretches of training: blocks take them in order, and what was scored
    #: after a block is worth what it is, whatever was scored before.
    in_order: bool = False
    #: Whether the value is the mean of a number of each document, so that parts can be pooled.
    is_mean: bool = False


#: What search rows consist of, as people are told.
DOCUMENTS, STRETCHES = "documents", "stretches"


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluatorFacts:
    """What an evaluator found out before any model was scored."""

    #: Kind of rows -> objective -> facts of its task or group.
    tasks: Mapping[Rows, Mapping[str, TaskFacts]]
    #: Kind of rows -> hash of all that a model's score on them depends on, but for the model.
    identity: Mapping[Rows, str] = field(default_factory=dict)
    #: Version of the library behind the evaluator, for records ("lm_eval 0.4.13").
    version: str
    #: What the user should know ("search rows are a public test set"), for the report, too.
    warnings: tuple[str, ...] = ()

    @property
    def counted_in(self) -> str:
        """What the search rows consist of: documents, or stretches of training."""
        in_order = any(one.in_order for one in self.tasks["search"].values())
        return STRETCHES if in_order else DOCUMENTS
