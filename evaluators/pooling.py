"""Puts together what one model scored on several parts of the same rows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from evaluators.base import Score, TaskScore


def pool(scores: Sequence[Score]) -> Score:
    """Returns the score on all parts together; one part is returned as it is.

    Values are means over all documents, summed exactly, so that the order of the parts changes
    nothing but the order of the documents' results. Where documents are stretches of training and
    have no numbers of their own, the last part says what the model is worth.

    Raises:
        ValueError: if there are no parts, or a task's value is no mean of its documents' values.
    """
    if not scores:
        raise ValueError("nothing to pool: no part has been scored")
    if len(scores) == 1:
        return scores[0]
    if is_latest(scores[-1]):
        return _latest(scores)
    names = dict.fromkeys(name for score in scores for name in score.tasks)
    tasks = {
        name: _pool_task(name, [score.tasks[name] for score in scores if name in score.tasks])
        for name in names
    }
    return Score(fitness=math.fsum(one.weight * one.value for one in tasks.values()), tasks=tasks)


def is_latest(score: Score) -> bool:
    """Whether a part counts alone, because what was scored before it was trained less."""
    return any(task.documents and not task.per_document for task in score.tasks.values())


def _latest(scores: Sequence[Score]) -> Score:
    """Returns the last score, as of all documents so far."""
    tasks = {
        name: replace(task, documents=sum(score.tasks[name].documents for score in scores))
        for name, task in scores[-1].tasks.items()
    }
    return Score(fitness=scores[-1].fitness, tasks=tasks)


def mean_and_error(values: Sequence[float]) -> tuple[float, float | None]:
    """Returns the mean of values and its standard error, which a single value does not have.

    Raises:
        ValueError: if there are no values.
    """
    num = len(values)
    if not num:
        raise ValueError("a mean needs at least one value, and got none")
    mean = math.fsum(values) / num
    if num < 2:
        return mean, None
    variance = math.fsum((value - mean) ** 2 for value in values) / (num - 1)
    return mean, math.sqrt(variance / num)


def _pool_task(name: str, parts: Sequence[TaskScore]) -> TaskScore:
    values = [value for part in parts for value in part.per_document]
    num_documents = sum(part.documents for part in parts)
    if len(values) != num_documents:
        raise ValueError(
            f"task {name!r}: parts of its rows cannot be put together, as its value is no mean of "
            "one number a document"
        )
    mean, error = mean_and_error(values)
    return TaskScore(
        value=mean,
        stderr=error,
        documents=num_documents,
        weight=parts[0].weight,
        per_document=tuple(values),
        log_likelihoods=tuple(value for part in parts for value in part.log_likelihoods),
    )
