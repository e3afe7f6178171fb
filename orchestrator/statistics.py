"""Intervals from per-document results, by the percentile bootstrap (Efron & Tibshirani 1993)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeAlias

import numpy as np

from evaluators.base import TaskScore

#: Lower and upper end.
Interval: TypeAlias = tuple[float, float]

_DRAWS = 2000
_SEED = 0
_Z = 1.959963984540054  # two-sided 95 % of the normal distribution


def interval(score: TaskScore) -> Interval | None:
    """Returns the 95 % interval of a task's value, or None where it cannot be told.

    Bootstrapped over documents where the value is their mean, else from the standard error.
    """
    values = np.asarray(score.per_document)
    if values.size and np.isclose(values.mean(), score.value):
        means = _resampled_means(values[None, :])[0]
        return _percentiles(means)
    if score.stderr is not None:
        return score.value - _Z * score.stderr, score.value + _Z * score.stderr
    return None


def paired_difference(
    ours: Mapping[str, TaskScore], theirs: Mapping[str, TaskScore]
) -> tuple[float, Interval] | None:
    """Returns the difference in fitness of two models on the same documents, with 95 % interval.

    Documents are resampled together for both models, task by task: what is hard for both cancels.
    None where a task's value is no mean over documents.
    """
    total, draws = 0.0, np.zeros(_DRAWS)
    for task, score in ours.items():
        a, b = np.asarray(score.per_document), np.asarray(theirs[task].per_document)
        if a.size == 0 or a.shape != b.shape:
            return None
        if not np.allclose([a.mean(), b.mean()], [score.value, theirs[task].value]):
            return None
        difference = a - b
        total += score.weight * float(difference.mean())
        draws += score.weight * _resampled_means(difference[None, :])[0]
    return total, _percentiles(draws)


def _resampled_means(
    values: np.ndarray[tuple[int, int], np.dtype[np.float64]],
) -> Sequence[np.ndarray[tuple[int], np.dtype[np.float64]]]:
    """Returns the means of resampled rows; values (rows, documents) -> (rows, draws)."""
    rng = np.random.default_rng(_SEED)
    num = values.shape[1]
    counts = rng.multinomial(num, np.full(num, 1.0 / num), size=_DRAWS)  # (draws, documents)
    return list(values @ counts.T / num)


def _percentiles(draws: np.ndarray[tuple[int], np.dtype[np.float64]]) -> Interval:
    low, high = np.percentile(draws, [2.5, 97.5])
    return float(low), float(high)
