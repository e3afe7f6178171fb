"""What the settings of the harness evaluator refuse before anything is loaded."""

from __future__ import annotations

import subprocess
import sys

import pytest

from evaluators.lm_harness import LmHarness, Objective

A = Objective(name="a", metric="acc")
B = Objective(name="b", metric="acc")
NORM = Objective(name="n", metric="acc_norm")


@pytest.mark.parametrize("test", ["a", Objective(name="a", metric="acc_norm")])
def test_a_task_cannot_be_both_searched_and_tested_on(test):
    with pytest.raises(ValueError, match="task 'a' is in both 'tasks' and 'test'"):
        LmHarness(tasks=(A,), test=(test,))


def test_a_task_named_twice_is_refused():
    with pytest.raises(ValueError, match="task 'a' is named twice"):
        LmHarness(tasks=(A, Objective(name="a", metric="acc_norm")))
    with pytest.raises(ValueError, match="task 't' is named twice"):
        LmHarness(tasks=(A,), test=("t", "t"))


def test_a_bare_test_task_takes_the_metric_that_all_tasks_share():
    settings = LmHarness(tasks=(A, B), test=("t",))
    assert settings.objectives("test") == (Objective(name="t", metric="acc"),)


def test_a_bare_test_task_is_refused_where_the_tasks_use_several_metrics():
    with pytest.raises(ValueError, match=r"test task 't' needs a metric.*\(acc, acc_norm\)"):
        LmHarness(tasks=(A, NORM), test=("t",))


def test_a_test_task_with_its_own_metric_is_taken_as_it_is():
    own = Objective(name="t", metric="exact_match,strict", weight=2.0, direction="minimize")
    assert LmHarness(tasks=(A, NORM), test=(own,)).objectives("test") == (own,)


def test_a_bare_test_task_does_not_take_over_weight_or_direction():
    searched = Objective(name="a", metric="acc", weight=3.0)
    (test,) = LmHarness(tasks=(searched,), test=("t",)).objectives("test")
    assert test.weight == 1.0


def test_whether_there_are_test_rows_is_known():
    assert LmHarness(tasks=(A,), test=("t",)).tests
    assert not LmHarness(tasks=(A,)).tests


def test_search_objectives_are_the_tasks_in_their_order():
    assert LmHarness(tasks=(B, A)).objectives("search") == (B, A)


def test_settings_are_read_without_torch_or_the_harness():
    code = "import sys, evaluators.lm_harness as m; print({'torch', 'lm_eval'} & set(sys.modules))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "set()"
