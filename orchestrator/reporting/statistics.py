"""What per-document results allow to be said: intervals, differences, and how likely by chance.

Intervals are those of the percentile bootstrap (Efron & Tibshirani 1993): documents are resampled
within each task. They tell what other documents of the same kind could have given, and nothing of
other seeds or searches.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from evaluators.base import TaskScore
from orchestrator.measurement.measured import Z95

#: Lower and upper end.
Interval: TypeAlias = tuple[float, float]
_Array: TypeAlias = np.ndarray[tuple[int, ...], np.dtype[np.float64]]

_DRAWS = 2000
_FLIPS = 9999
_SEED = 0
#: Up to so many differing documents all ways of flipping signs are gone through.
_MAX_EXACT = 12
#: Numbers drawn at a time, which bounds the memory.
_AT_ONCE = 4_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """How much more one measurement gives than another; positive is in favour of the first."""

    value: float
    #: 95 % interval.
    interval: Interval
    #: Probability of a difference as large if neither were better; None where it is not paired.
    p_value: float | None = None

    @property
    def clear(self) -> int:
        """1 or -1 where the interval lies above or below 0 and p is at most 0.05, else 0.

        The interval alone would say too much on a handful of documents, where the bootstrap's
        intervals are too narrow.
        """
        if self.p_value is not None and self.p_value > 0.05:
            return 0
        return (self.interval[0] > 0) - (self.interval[1] < 0)


def interval(score: TaskScore) -> Interval | None:
    """Returns the 95 % interval of a task's value, or None where it cannot be told.

    Bootstrapped over documents where the value is their mean, else from the standard error. Where
    all documents are right, or all wrong, there is nothing to resample: the exact interval of a
    proportion (Clopper & Pearson 1934) is returned instead of one without width.
    """
    values = _documents(score)
    if values is None:
        return around(score.value, score.stderr)
    if values[0] in (0, 1) and (values == values[0]).all():
        room = 1 - 0.025 ** (1 / values.size)
        return (1 - room, 1.0) if values[0] == 1 else (0.0, room)
    return _percentiles(_resampled_means(values, np.random.default_rng(_SEED)))


def fitness_interval(scores: Mapping[str, TaskScore]) -> Interval | None:
    """Returns the 95 % interval of a weighted sum of tasks, or None where it cannot be told."""
    draws = _sum_draws(scores, np.random.default_rng(_SEED))
    return None if draws is None else _percentiles(draws)


def weighted_sum(scores: Mapping[str, TaskScore]) -> float:
    """Returns the fitness that tasks add up to."""
    return math.fsum(score.weight * score.value for score in scores.values())


def around(value: float, stderr: float | None) -> Interval | None:
    """Returns the 95 % interval that a standard error gives; None without one."""
    return None if stderr is None else (value - Z95 * stderr, value + Z95 * stderr)


def paired_difference(
    ours: Mapping[str, TaskScore], theirs: Mapping[str, TaskScore]
) -> Difference | None:
    """Returns the difference in fitness of two models on the same documents.

    Documents are resampled together for both models, task by task: what is hard for both cancels.
    None where a task's value is no mean over documents, or the documents are not as many.
    """
    rng = np.random.default_rng(_SEED)
    total, draws, parts = 0.0, np.zeros(_DRAWS), []
    for task, score in ours.items():
        a, b = _documents(score), _documents(theirs[task]) if task in theirs else None
        if a is None or b is None or a.shape != b.shape:
            return None
        difference = score.weight * (a - b)
        total += float(difference.mean())
        draws += _resampled_means(difference, rng)
        parts.append(difference / difference.size)
    if not parts:
        return None
    p_value = sign_flip_p(np.concatenate(parts))
    return Difference(value=total, interval=_percentiles(draws), p_value=p_value)


def unpaired_difference(
    ours: Mapping[str, TaskScore], theirs: Mapping[str, TaskScore]
) -> Difference | None:
    """Returns the difference of two fitnesses that were measured on different documents.

    Both sides are resampled on their own. None where a task's spread is not known.
    """
    rng = np.random.default_rng(_SEED)
    ours_drawn, theirs_drawn = _sum_draws(ours, rng), _sum_draws(theirs, rng)
    if ours_drawn is None or theirs_drawn is None:
        return None
    return Difference(
        value=weighted_sum(ours) - weighted_sum(theirs),
        interval=_percentiles(ours_drawn - theirs_drawn),
    )


def sign_flip_p(differences: Sequence[float] | _Array) -> float:
    """Returns the two-sided p-value of paired differences by flipping their signs (Fisher 1935).

    If neither model is better, each document's difference could as well have had the other sign.
    All ways are gone through where few documents differ, else 9,999 are drawn from a fixed seed
    and the observed one is counted among them, so that the test is valid with any number of draws
    (Phipson & Smyth 2010, https://doi.org/10.2202/1544-6115.1585).

    Args:
        differences: One number a document, weighted as it enters the sum.
    """
    values = np.asarray(differences, dtype=float)
    observed = abs(values.sum())
    slack = 1e-12 * np.abs(values).sum()
    sizes, counts = np.unique(np.abs(values[values != 0]), return_counts=True)
    num = int(counts.sum())
    if num <= _MAX_EXACT:
        signs = 1 - 2 * (np.arange(2**num)[:, None] >> np.arange(num) & 1)  # (ways, documents)
        sums = signs @ np.repeat(sizes, counts)
        return float((np.abs(sums) >= observed - slack).mean())
    rng = np.random.default_rng(_SEED)
    extreme = 0
    for draws in _portions(_FLIPS, sizes.size):
        flipped = rng.binomial(counts, 0.5, size=(draws, sizes.size))
        extreme += int((np.abs((2 * flipped - counts) @ sizes) >= observed - slack).sum())
    return (extreme + 1) / (_FLIPS + 1)


def _documents(score: TaskScore) -> _Array | None:
    """Returns the documents' numbers if the task's value is their mean."""
    values = np.asarray(score.per_document, dtype=float)
    return values if values.size and np.isclose(values.mean(), score.value) else None


def _draws(score: TaskScore, rng: np.random.Generator) -> _Array | None:
    """Returns values that other documents could have given, or None if that is not known."""
    values = _documents(score)
    if values is not None:
        return _resampled_means(values, rng)
    if score.stderr is None:
        return None
    return rng.normal(score.value, score.stderr, size=_DRAWS)


def _sum_draws(scores: Mapping[str, TaskScore], rng: np.random.Generator) -> _Array | None:
    total = np.zeros(_DRAWS)
    for score in scores.values():
        drawn = _draws(score, rng)
        if drawn is None:
            return None
        total += score.weight * drawn
    return total if scores else None


def _resampled_means(values: _Array, rng: np.random.Generator) -> _Array:
    """Returns means of resampled documents; values (documents,) -> (draws,).

    Where few values are distinct, only how often each is drawn matters: documents that are right
    or wrong cost two numbers a draw however many they are.
    """
    distinct, counts = np.unique(values, return_counts=True)
    num = values.size
    if distinct.size * 10 > num:  # a count costs about ten times as much as a place
        means = [
            values[rng.integers(num, size=(draws, num), dtype=np.int32)].mean(axis=1)
            for draws in _portions(_DRAWS, num)
        ]
    else:
        means = [
            rng.multinomial(num, counts / num, size=draws) @ distinct / num
            for draws in _portions(_DRAWS, distinct.size)
        ]
    return np.concatenate(means)


def _portions(draws: int, width: int) -> list[int]:
    """Cuts draws of so many numbers each into portions that fit into memory."""
    most = max(1, _AT_ONCE // max(1, width))
    return [min(most, draws - start) for start in range(0, draws, most)]


def _percentiles(draws: _Array) -> Interval:
    low, high = np.percentile(draws, [2.5, 97.5])
    return float(low), float(high)
