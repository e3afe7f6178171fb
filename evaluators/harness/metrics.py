"""From each document's metrics to an objective's value, by lm-eval's own rules."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from lm_eval.api.metrics import mean
from lm_eval.api.task import Task

from evaluators.base import TaskScore
from evaluators.documents import quantise
from evaluators.harness.tasks import Loaded, TaskError
from evaluators.language.scoring_plan import NonFiniteError
from evaluators.lm_harness import Objective
from evaluators.registry import nearest


def check_metric(objective: Objective, loaded: Loaded) -> None:
    """Refuses a metric, or a filter before it, that a task does not have.

    Raises:
        ValueError: naming the task and what it has.
    """
    metric, _, chosen = objective.metric.partition(",")
    for task in loaded.leaves(objective.name):
        known = list(task.aggregation())
        if metric not in known and not _is_expanded(metric, known):
            raise ValueError(
                f"task {task.config.task!r} has no metric {metric!r}; {nearest(metric, known)}"
            )
    if objective.name in loaded.tasks:
        filters = _filters(loaded.tasks[objective.name])
        if chosen and chosen not in filters:
            raise ValueError(
                f"task {objective.name!r} has no filter {chosen!r} before its metric {metric!r}; "
                f"{nearest(chosen, filters)}"
            )
        metric_key(objective, loaded.tasks[objective.name])


def metric_key(objective: Objective, task: Task) -> str:
    """Returns the "metric,filter" of a task that an objective means."""
    if "," in objective.metric:
        return objective.metric
    filters = _filters(task)
    if "none" in filters:
        return f"{objective.metric},none"
    if len(filters) == 1:
        return f"{objective.metric},{filters[0]}"
    raise ValueError(
        f"task {objective.name!r}: metric {objective.metric!r} is ambiguous; choose one of "
        f"{', '.join(f'{objective.metric},{one}' for one in filters)}"
    )


def group_key(objective: Objective, metrics: Mapping[str, Any]) -> str:
    """Returns the "metric,filter" of a group that an objective means."""
    keys = [key for key in metrics if "," in key and "_stderr," not in key]
    found = [key for key in keys if objective.metric in {key, key.partition(",")[0]}]
    if f"{objective.metric},none" in found:
        return f"{objective.metric},none"
    if len(found) == 1:
        return found[0]
    raise ValueError(
        f"group {objective.name!r}: metric {objective.metric!r} is ambiguous or absent; choose "
        f"one of {', '.join(found or keys)}"
    )


def is_mean(task: Task, metric: str) -> bool:
    """Whether the value of a "metric,filter" is the plain mean of its documents' values."""
    return aggregation(task, metric.partition(",")[0]) is mean


def aggregation(task: Task, metric: str) -> Callable[[Sequence[Any]], Any]:
    """Returns how a task makes one figure of all; as in lm-eval, the mean if it does not say."""
    known: Mapping[str, Callable[[Sequence[Any]], Any]] = task.aggregation()
    if metric not in known and _is_expanded(metric, list(known)):
        metric = "pass_at_k"
    return known.get(metric, mean)


def aggregate(task: Task, key: str, items: Sequence[Any]) -> float:
    """Makes one figure of a metric of all documents.

    Raises:
        NonFiniteError: if it is beyond the numbers of the machine.
        TaskError: if the task's own rule fails.
    """
    try:
        return float(aggregation(task, key.partition(",")[0])(items))
    except OverflowError as error:
        raise NonFiniteError(f"task {task.task_name!r}: {key} is not finite ({error})") from error
    except Exception as error:
        raise TaskError(
            f"task {task.task_name!r}: its {key} cannot be aggregated over {len(items)} documents: "
            f"{type(error).__name__}: {error}"
        ) from error


def signed_weight(objective: Objective, loaded: Loaded) -> float:
    """Returns an objective's factor in the fitness: negative where lower is better."""
    if objective.direction is not None:
        return objective.weight if objective.direction == "maximize" else -objective.weight
    task = loaded.leaves(objective.name)[0]
    metric = objective.metric.partition(",")[0]
    return objective.weight if task.higher_is_better().get(metric, True) else -objective.weight


def task_score(
    name: str,
    value: float,
    *,
    weight: float,
    documents: int,
    items: Sequence[Any] = (),
    log_likelihoods: Sequence[float] = (),
) -> TaskScore:
    """Puts a task's score together from its documents' items of the metric.

    Raises:
        NonFiniteError: if the value or a log-likelihood is not finite.
    """
    if not math.isfinite(value) or not all(map(math.isfinite, log_likelihoods)):
        raise NonFiniteError(f"task {name!r}: the model's scores are not finite")
    return TaskScore(
        value=value,
        stderr=_standard_error(value, per_document := _numbers(items, documents)),
        documents=documents,
        weight=weight,
        per_document=per_document,
        log_likelihoods=quantise(log_likelihoods),
    )


def _numbers(items: Sequence[Any], documents: int) -> tuple[float, ...]:
    """Returns one finite number a document, or nothing where the metric gives something else.

    Some metrics are counts that only their aggregation makes sense of, or skip documents.
    """
    if len(items) != documents or not all(
        isinstance(one, int | float | np.number) for one in items
    ):
        return ()
    found = tuple(map(float, items))
    return found if all(map(math.isfinite, found)) else ()


def _standard_error(value: float, per_document: Sequence[float]) -> float | None:
    """Only a mean has the plain standard error; other aggregations get none rather than a guess."""
    num = len(per_document)
    if num < 2 or not math.isclose(
        float(np.mean(per_document)), value, rel_tol=1e-9, abs_tol=1e-12
    ):
        return None
    return float(np.std(per_document, ddof=1) / math.sqrt(num))


def _filters(task: Task) -> list[str]:
    return [one.name for one in task._filters]


def _is_expanded(metric: str, known: Sequence[str]) -> bool:
    """Whether a metric is one of those that lm-eval's `pass_at_k` gives for each k."""
    return metric.startswith("pass@") and "pass_at_k" in known
