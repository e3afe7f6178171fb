"""Intervals from per-document results."""

from __future__ import annotations

import numpy as np
import pytest

from evaluators.base import TaskScore
from orchestrator import statistics


def task(values, value=None, **more) -> TaskScore:
    values = tuple(float(one) for one in values)
    mean = float(np.mean(values)) if values else 0.0
    return TaskScore(
        value=mean if value is None else value,
        stderr=more.pop("stderr", None),
        documents=len(values),
        per_document=values,
        **more,
    )


def test_the_interval_covers_the_truth_about_as_often_as_it_says():
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(100):
        low, high = statistics.interval(task(rng.random(120) < 0.7))
        covered += low <= 0.7 <= high
    assert 88 <= covered <= 100


def test_the_interval_is_as_wide_as_the_standard_error_says():
    values = np.random.default_rng(1).random(400) < 0.4
    low, high = statistics.interval(task(values))
    stderr = np.std(values, ddof=1) / 20
    assert low < np.mean(values) < high
    assert high - low == pytest.approx(2 * 1.96 * stderr, rel=0.1)


def test_all_right_has_an_interval_of_no_width():
    assert statistics.interval(task([1] * 10)) == (1.0, 1.0)


def test_a_value_that_is_no_mean_takes_its_standard_error_or_has_no_interval():
    low, high = statistics.interval(task([0.0, 1.0], value=7.0, stderr=0.5))
    assert (low, high) == (pytest.approx(7 - 0.98, abs=0.01), pytest.approx(7 + 0.98, abs=0.01))
    assert statistics.interval(task([0.0, 1.0], value=7.0)) is None
    assert statistics.interval(task([])) is None


def test_the_same_scores_give_the_same_interval():
    values = np.random.default_rng(2).random(50)
    assert statistics.interval(task(values)) == statistics.interval(task(values))


def test_a_paired_difference_is_the_difference_of_the_fitnesses():
    rng = np.random.default_rng(3)
    ours = {
        "a": task(rng.random(60) < 0.8, weight=2.0),
        "b": task(rng.random(30), weight=-0.5),
    }
    theirs = {
        "a": task(rng.random(60) < 0.5, weight=2.0),
        "b": task(rng.random(30), weight=-0.5),
    }
    difference, (low, high) = statistics.paired_difference(ours, theirs)
    expected = sum(one.weight * (one.value - theirs[name].value) for name, one in ours.items())
    assert difference == pytest.approx(expected)
    assert low < difference < high


def test_what_is_hard_for_both_cancels():
    hard = np.random.default_rng(4).random(200)
    ours, theirs = {"a": task(hard + 0.1)}, {"a": task(hard)}
    difference, (low, high) = statistics.paired_difference(ours, theirs)
    assert difference == pytest.approx(0.1)
    assert high - low < 1e-9


def test_a_model_leads_itself_by_nothing():
    scores = {"a": task([0, 1, 1, 0])}
    assert statistics.paired_difference(scores, scores) == (0.0, (0.0, 0.0))


def test_what_cannot_be_paired_has_no_difference():
    assert statistics.paired_difference({"a": task([1, 0])}, {"a": task([1, 0, 1])}) is None
    assert statistics.paired_difference({"a": task([])}, {"a": task([])}) is None
    no_mean = {"a": task([1, 0], value=9.0)}
    assert statistics.paired_difference(no_mean, {"a": task([1, 0])}) is None
    assert statistics.paired_difference({"a": task([1, 0])}, no_mean) is None
