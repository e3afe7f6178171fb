"""What the settings of the harness evaluator refuse before anything is loaded."""

from __future__ import annotations

import itertools
import subprocess
import sys

import pytest

from evaluators.lm_harness import LmHarness, Objective, Split

A = Objective(name="a", metric="acc")
B = Objective(name="b", metric="acc")
NORM = Objective(name="n", metric="acc_norm")


KEYS = ("selection", "test", "control")


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("other", ["a", Objective(name="a", metric="acc_norm")])
def test_a_search_task_cannot_be_used_for_anything_else(key, other):
    with pytest.raises(ValueError, match=f"task 'a' is in both 'tasks' and '{key}'"):
        LmHarness(tasks=(A,), **{key: (other,)})


@pytest.mark.parametrize(("one", "other"), [*itertools.combinations(KEYS, 2)])
def test_a_task_has_one_use(one, other):
    with pytest.raises(ValueError, match=f"task 't' is in both '{one}' and '{other}'"):
        LmHarness(tasks=(A,), **{one: ("t",), other: ("t",)})


@pytest.mark.parametrize("key", KEYS)
def test_a_task_named_twice_is_refused(key):
    with pytest.raises(ValueError, match="task 'a' is named twice in 'tasks'"):
        LmHarness(tasks=(A, Objective(name="a", metric="acc_norm")))
    with pytest.raises(ValueError, match=f"task 't' is named twice in '{key}'"):
        LmHarness(tasks=(A,), **{key: ("t", "t")})


@pytest.mark.parametrize("key", KEYS)
def test_a_bare_task_takes_the_metric_that_all_tasks_share(key):
    settings = LmHarness(tasks=(A, B), **{key: ("t",)})
    assert settings.objectives(key) == (Objective(name="t", metric="acc"),)


@pytest.mark.parametrize("key", KEYS)
def test_a_bare_task_is_refused_where_the_tasks_use_several_metrics(key):
    with pytest.raises(ValueError, match=rf"{key} task 't' needs a metric.*\(acc, acc_norm\)"):
        LmHarness(tasks=(A, NORM), **{key: ("t",)})


def test_a_task_with_its_own_metric_is_taken_as_it_is():
    own = Objective(name="t", metric="exact_match,strict", weight=2.0, direction="minimize")
    assert LmHarness(tasks=(A, NORM), test=(own,)).objectives("test") == (own,)


def test_a_bare_task_does_not_take_over_weight_or_direction():
    searched = Objective(name="a", metric="acc", weight=3.0)
    (test,) = LmHarness(tasks=(searched,), test=("t",)).objectives("test")
    assert test.weight == 1.0


def test_which_kinds_of_rows_there_are_is_known():
    assert LmHarness(tasks=(A,)).kinds == {"search"}
    assert LmHarness(tasks=(A,), test=("t",), control=("c",)).kinds == {"search", "test", "control"}
    split = Split(seed=1, search=0.5, selection=0.25)
    assert LmHarness(tasks=(A,), test=("t",), split=split).kinds == {"search", "selection", "test"}


def test_a_split_gives_its_kinds_the_search_tasks_and_leaves_named_ones_alone():
    split = Split(seed=1, search=0.5, selection=0.25)
    settings = LmHarness(tasks=(A, B), test=("t",), split=split)
    assert settings.objectives("selection") == settings.objectives("search") == (A, B)
    assert [one.name for one in settings.objectives("test")] == ["t"]
    assert settings.objectives("control") == ()


def test_fresh_rows_are_those_of_the_search_tasks():
    settings = LmHarness(tasks=(A, B), test=("t",))
    assert settings.objectives("fresh") == (A, B)
    assert settings.conditions("fresh") == settings.conditions("search")
    assert "fresh" not in settings.kinds


@pytest.mark.parametrize("key", ["selection", "test"])
def test_rows_cannot_be_both_cut_and_named(key):
    split = Split(seed=1, search=0.5, **{key: 0.25})
    with pytest.raises(ValueError, match=f"split: its share '{key}' .* keep one of the two"):
        LmHarness(tasks=(A,), split=split, **{key: ("t",)})


def test_shares_add_up_to_one_at_most():
    Split(seed=1, search=0.7, selection=0.2, test=0.1)
    with pytest.raises(ValueError, match=r"add up to 1\.1, expected 1 at most"):
        Split(seed=1, search=0.7, selection=0.2, test=0.2)


def test_a_budget_of_tokens_beside_a_batch_size_is_refused_as_it_would_do_nothing():
    with pytest.raises(ValueError, match="batch_tokens: has no effect beside batch_size"):
        LmHarness(tasks=(A,), batch_size=8, batch_tokens=1024)


def test_settings_that_change_no_score_are_no_condition_of_one():
    """What was measured before a setting came is not measured again on its account."""
    plain = LmHarness(tasks=(A,), batch_size=8)
    assert plain.conditions("search").keys() == {
        "objectives",
        "limit",
        "num_fewshot",
        "batch_size",
        "max_length",
        "apply_chat_template",
    }
    more = LmHarness(
        tasks=(A,),
        batch_size=8,
        allow_code_execution=True,
        selection=("s",),
        test=("t",),
        control=("c",),
    )
    assert more.conditions("search") == plain.conditions("search")


@pytest.mark.parametrize(
    "change",
    [
        {"batch_size": 8},
        {"batch_tokens": 512},
        {"backend": "vllm"},
        {"split": Split(seed=1, search=0.5)},
    ],
    ids=lambda change: next(iter(change)),
)
def test_settings_that_may_change_a_score_are_conditions_of_it(change):
    plain, changed = LmHarness(tasks=(A,)), LmHarness(tasks=(A,), **change)
    assert changed.conditions("search") != plain.conditions("search")


def test_a_split_is_no_condition_of_rows_that_it_does_not_make():
    split = Split(seed=1, search=0.5, selection=0.25)
    plain, cut = LmHarness(tasks=(A,), test=("t",)), LmHarness(tasks=(A,), test=("t",), split=split)
    assert plain.conditions("test") == cut.conditions("test")


def test_search_objectives_are_the_tasks_in_their_order():
    assert LmHarness(tasks=(B, A)).objectives("search") == (B, A)


def test_settings_are_read_without_torch_or_the_harness():
    code = "import sys, evaluators.lm_harness as m; print({'torch', 'lm_eval'} & set(sys.modules))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "set()"
