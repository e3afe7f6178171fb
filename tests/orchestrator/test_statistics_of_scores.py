"""Intervals, differences and p-values from per-document results."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from evaluators.base import TaskScore
from orchestrator.reporting import statistics


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


def test_all_right_or_all_wrong_has_the_exact_interval_of_a_proportion():
    from scipy.stats import binomtest

    right = binomtest(10, 10).proportion_ci(0.95, method="exact")
    assert statistics.interval(task([1] * 10)) == pytest.approx((right.low, right.high))
    wrong = binomtest(0, 40).proportion_ci(0.95, method="exact")
    assert statistics.interval(task([0] * 40)) == pytest.approx((wrong.low, wrong.high))


def test_a_value_that_is_no_mean_takes_its_standard_error_or_has_no_interval():
    low, high = statistics.interval(task([0.0, 1.0], value=7.0, stderr=0.5))
    assert (low, high) == (pytest.approx(7 - 0.98, abs=0.01), pytest.approx(7 + 0.98, abs=0.01))
    assert statistics.interval(task([0.0, 1.0], value=7.0)) is None
    assert statistics.interval(task([])) is None


def test_the_same_scores_give_the_same_interval():
    values = np.random.default_rng(2).random(50)
    assert statistics.interval(task(values)) == statistics.interval(task(values))


def test_a_fitness_is_spread_as_its_tasks_together_and_not_as_if_they_moved_as_one():
    rng = np.random.default_rng(5)
    # The same values in both tasks: were both resampled alike, the spread would be 1.41 times it.
    values = rng.random(300) < 0.5
    low, high = statistics.fitness_interval({"a": task(values), "b": task(values)})
    alone = np.std(values, ddof=1) / np.sqrt(300)
    assert high - low == pytest.approx(2 * 1.96 * alone * np.sqrt(2), rel=0.1)
    assert low < 2 * np.mean(values) < high


def test_a_fitness_takes_the_standard_error_of_tasks_that_are_no_means():
    scores = {"a": task([], value=3.0, stderr=0.4), "b": task([], value=1.0, stderr=0.3, weight=-1)}
    low, high = statistics.fitness_interval(scores)
    assert low == pytest.approx(2 - 1.96 * 0.5, abs=0.06)
    assert high == pytest.approx(2 + 1.96 * 0.5, abs=0.06)
    assert statistics.fitness_interval({**scores, "c": task([], value=1.0)}) is None
    assert statistics.fitness_interval({}) is None


def test_a_standard_error_gives_an_interval_around_a_value():
    assert statistics.around(0.5, 0.1) == pytest.approx((0.304, 0.696), abs=1e-4)
    assert statistics.around(0.5, None) is None


def test_many_documents_take_the_same_interval_by_counts_and_by_places():
    rng = np.random.default_rng(6)
    coarse = np.round(rng.random(5000), 1)
    fine = coarse + rng.normal(0, 1e-9, 5000)  # all distinct, and equal for all that matters
    by_counts, by_places = statistics.interval(task(coarse)), statistics.interval(task(fine))
    assert by_counts == pytest.approx(by_places, abs=1e-3)
    assert by_counts[1] - by_counts[0] == pytest.approx(
        2 * 1.96 * coarse.std() / np.sqrt(5000), rel=0.1
    )


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
    found = statistics.paired_difference(ours, theirs)
    expected = sum(one.weight * (one.value - theirs[name].value) for name, one in ours.items())
    assert found.value == pytest.approx(expected)
    assert found.interval[0] < found.value < found.interval[1]


def test_what_is_hard_for_both_cancels():
    hard = np.random.default_rng(4).random(200)
    found = statistics.paired_difference({"a": task(hard + 0.1)}, {"a": task(hard)})
    assert found.value == pytest.approx(0.1)
    assert found.interval[1] - found.interval[0] < 1e-9


def test_a_model_leads_itself_by_nothing():
    scores = {"a": task([0, 1, 1, 0])}
    found = statistics.paired_difference(scores, scores)
    assert (found.value, found.interval, found.p_value, found.clear) == (0.0, (0.0, 0.0), 1.0, 0)


def test_what_cannot_be_paired_has_no_difference():
    def differ(ours, theirs):
        return statistics.paired_difference({"a": ours}, {"a": theirs})

    assert differ(task([1, 0]), task([1, 0, 1])) is None
    assert differ(task([]), task([])) is None
    assert differ(task([1, 0], value=9.0), task([1, 0])) is None
    assert differ(task([1, 0]), task([1, 0], value=9.0)) is None
    assert statistics.paired_difference({"a": task([1, 0])}, {"b": task([1, 0])}) is None
    assert statistics.paired_difference({}, {}) is None


def test_paired_intervals_cover_the_truth_and_are_narrower_than_unpaired_ones():
    rng = np.random.default_rng(7)
    covered, narrower = 0, 0
    for _ in range(100):
        # A document is easy or hard for both models; ours is right 0.1 more often.
        ease = rng.random(150)
        theirs, ours = task(ease > 0.5), task(ease > 0.4 + 0.2 * (rng.random(150) - 0.5))
        paired = statistics.paired_difference({"a": ours}, {"a": theirs})
        unpaired = statistics.unpaired_difference({"a": ours}, {"a": theirs})
        covered += paired.interval[0] <= 0.1 <= paired.interval[1]
        narrower += np.diff(paired.interval)[0] < np.diff(unpaired.interval)[0]
    assert 88 <= covered <= 100
    assert narrower == 100


def test_unpaired_intervals_cover_the_truth_of_two_samples_of_different_size():
    rng = np.random.default_rng(8)
    covered = 0
    for _ in range(100):
        ours = {"a": task(rng.random(80) < 0.8, weight=2.0), "b": task(rng.random(60))}
        theirs = {"a": task(rng.random(200) < 0.7, weight=2.0), "b": task(rng.random(90))}
        found = statistics.unpaired_difference(ours, theirs)
        assert found.value == pytest.approx(
            2 * (ours["a"].value - theirs["a"].value) + ours["b"].value - theirs["b"].value
        )
        assert found.p_value is None
        covered += found.interval[0] <= 0.2 <= found.interval[1]
    assert 88 <= covered <= 100


def test_an_unpaired_difference_needs_the_spread_of_both_sides():
    known, unknown = {"a": task([1, 0, 1])}, {"a": task([], value=0.5)}
    assert statistics.unpaired_difference(known, unknown) is None
    assert statistics.unpaired_difference(unknown, known) is None


@pytest.mark.parametrize("seed", range(4))
def test_the_p_value_of_few_documents_counts_every_way_of_flipping_signs(seed):
    values = np.round(np.random.default_rng(seed).normal(0.4, 1.0, 8), 1)
    sums = [abs(np.dot(signs, values)) for signs in product((-1, 1), repeat=8)]
    expected = np.mean(np.array(sums) >= abs(values.sum()) - 1e-9)
    assert statistics.sign_flip_p(values) == pytest.approx(expected)


def test_the_p_value_of_right_or_wrong_documents_is_that_of_the_sign_test():
    from scipy.stats import binomtest

    differences = [1.0] * 25 + [-1.0] * 12 + [0.0] * 100
    expected = binomtest(25, 37).pvalue
    assert statistics.sign_flip_p(differences) == pytest.approx(expected, abs=0.01)


def test_p_values_of_equal_models_are_small_no_more_often_than_they_may():
    rng = np.random.default_rng(9)
    found = [
        statistics.sign_flip_p((rng.random(60) < 0.6) * 1.0 - (rng.random(60) < 0.6))
        for _ in range(300)
    ]
    assert np.mean(np.array(found) <= 0.05) <= 0.08
    assert np.mean(np.array(found) <= 0.5) <= 0.56


def test_nothing_that_differs_is_no_evidence():
    assert statistics.sign_flip_p([]) == 1.0
    assert statistics.sign_flip_p([0.0] * 5) == 1.0


def test_a_handful_of_documents_is_never_clear_though_the_bootstrap_has_no_doubt():
    found = statistics.paired_difference({"a": task([1, 1, 1])}, {"a": task([0, 0, 0])})
    assert found.interval == (1.0, 1.0)
    assert (found.p_value, found.clear) == (0.25, 0)
    more = statistics.paired_difference({"a": task([1] * 8)}, {"a": task([0] * 8)})
    assert (more.p_value, more.clear) == (2 / 256, 1)
    assert statistics.paired_difference({"a": task([0] * 8)}, {"a": task([1] * 8)}).clear == -1
