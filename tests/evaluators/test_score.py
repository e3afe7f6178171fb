"""What was measured is a finite number, or there is no score."""

from __future__ import annotations

import pytest

from evaluators.base import Score, TaskScore

not_finite = pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])


@not_finite
def test_a_fitness_that_is_not_finite_is_no_score(value):
    with pytest.raises(ValueError, match="a fitness must be finite"):
        Score(fitness=value, tasks={})


@not_finite
def test_a_task_value_that_is_not_finite_is_no_score(value):
    with pytest.raises(ValueError, match="a task's value must be finite"):
        TaskScore(value=value, stderr=None, documents=1)


def test_zero_and_negative_numbers_are_scores():
    task = TaskScore(value=-3.0, stderr=None, documents=1)
    assert Score(fitness=0.0, tasks={"t": task}).tasks["t"].value == -3.0
