"""Plain functions as evaluators: what they are called with, and what becomes of their answers."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from evaluators.base import Values
from evaluators.function import Function
from evaluators.function_answer import NAMELESS, Target, read_answer

MODULE = """
from math import nan

def total(x, y=0.0, scale=1.0):
    return scale * (x + y)

def both(x, y=0.0):
    return {"gain": x, "cost": y, "beside": "not asked for"}

def rows(x, documents=(0, 1, 2, 3)):
    return {"right": [float(place < x) for place in documents]}

def noisy(x, seed):
    return x + seed

def broken(x):
    raise OverflowError("too much")

def undefined(x):
    return nan

number = 7
"""


@pytest.fixture
def module(tmp_path):
    path = tmp_path / "judge.py"
    path.write_text(MODULE)
    return str(path)


def score(settings, rows="search", documents=None, **values):
    return settings.open(Values(by_gene=values)).evaluate(rows, documents=documents)


def test_the_values_of_genes_are_keyword_arguments(module):
    found = score(Function(objective=f"{module}:total"), x=2.0, y=3.0)
    assert found.fitness == 5.0
    assert found.tasks[NAMELESS].documents == 1
    assert found.tasks[NAMELESS].stderr is None


def test_an_evaluator_follows_the_values_of_the_candidate_at_hand(module):
    values = Values(by_gene={"x": 1.0})
    evaluator = Function(objective=f"{module}:total").open(values)
    assert evaluator.evaluate("search").fitness == 1.0
    values.by_gene = {"x": 4.0}
    assert evaluator.evaluate("search").fitness == 4.0


def test_arguments_and_seed_are_passed_beside_the_genes(module):
    assert (
        score(Function(objective=f"{module}:total", arguments={"scale": 10.0}), x=2.0).fitness
        == 20.0
    )
    assert score(Function(objective=f"{module}:noisy", seed=5), x=2.0).fitness == 7.0


def test_fitness_is_the_weighted_sum_and_a_weight_below_zero_minimises(module):
    targets = (Target(name="gain"), Target(name="cost", weight=-2.0))
    found = score(Function(objective=f"{module}:both", tasks=targets), x=10.0, y=3.0)
    assert found.fitness == 4.0
    assert {name: one.value for name, one in found.tasks.items()} == {"gain": 10.0, "cost": 3.0}


def test_functions_of_the_standard_library_can_be_searched_too():
    assert read_answer(score_of("math:sqrt", 9.0), [Target(name="root")]).fitness == 3.0


def score_of(address, *arguments):
    from evaluators.addresses import load_function

    return load_function(address)(*arguments)


@pytest.mark.parametrize(
    "row", [[1.0, 0.0, 1.0, 1.0], (1, 0, 1, 1), np.array([1, 0, 1, 1]), [True, False, True, True]]
)
def test_a_row_of_numbers_is_the_mean_over_documents_with_its_error(row):
    found = read_answer(row, [Target(name="right")]).tasks["right"]
    assert found.value == 0.75
    assert found.per_document == (1.0, 0.0, 1.0, 1.0)
    assert found.stderr == pytest.approx(0.25)
    assert found.documents == 4


@pytest.mark.parametrize("number", [2, 2.0, np.float32(2), np.int64(2), np.array(2.0)])
def test_numbers_of_any_kind_are_numbers(number):
    assert read_answer(number, [Target(name="value")]).fitness == 2.0


def test_a_function_that_scores_documents_is_told_which(module):
    settings = Function(objective=f"{module}:rows", documents=4, tasks=(Target(name="right"),))
    whole = score(settings, x=3.0)
    assert whole.tasks["right"].per_document == (1.0, 1.0, 1.0, 0.0)
    part = score(settings, documents={"right": (0, 3)}, x=3.0)
    assert part.tasks["right"].per_document == (1.0, 0.0)
    facts = settings.check().tasks["search"]["right"]
    assert (facts.documents, facts.is_mean) == (4, True)


def test_other_kinds_of_rows_have_functions_of_their_own(module):
    settings = Function(objective=f"{module}:total", test=f"{module}:noisy", seed=1)
    assert settings.kinds == {"search", "test"}
    assert score(settings, "test", x=2.0).fitness == 3.0


@pytest.mark.parametrize(
    ("answer", "error", "said"),
    [
        (float("nan"), ValueError, "returned nan for 'a', expected a finite number"),
        ([1.0, float("inf")], ValueError, "returned inf for 'a'"),
        ("much", TypeError, "returned 'much' (str) for 'a', expected a number"),
        (None, TypeError, "returned None (NoneType)"),
        (1j, TypeError, "expected a number"),
        ({"b": 1.0}, TypeError, "returned 'b', expected a value of 'a'"),
        ([], ValueError, "returned 0 numbers for 'a', expected at least one"),
        (["x"], TypeError, "returned 'x' (str)"),
    ],
)
def test_an_answer_that_is_no_number_is_a_failure_with_its_reason(answer, error, said):
    with pytest.raises(error) as caught:
        read_answer(answer, [Target(name="a")])
    assert said in str(caught.value)


def test_one_number_cannot_answer_for_several_objectives():
    with pytest.raises(TypeError, match="expected a mapping with a, b"):
        read_answer(1.0, [Target(name="a"), Target(name="b")])


def test_every_document_asked_for_needs_a_number():
    with pytest.raises(ValueError, match="expected one for each of 3 documents"):
        read_answer([1.0, 2.0], [Target(name="a")], 3)
    with pytest.raises(TypeError, match="a number for each of 3 documents"):
        read_answer(1.0, [Target(name="a")], 3)


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("no_such_package.judge:total", "objective: 'no_such_package.judge' cannot be imported"),
        ("nowhere.py:total", "there is no file"),
        ("{module}:nothing", "has no function 'nothing'"),
        ("{module}:number", "expected a function"),
        ("total", "expected the address of a function"),
        ("{module}:", "expected the address of a function"),
    ],
)
def test_an_address_that_leads_nowhere_is_refused(module, address, said):
    with pytest.raises(ValueError) as caught:
        Function(objective=address.format(module=module)).check()
    assert said in str(caught.value)


def test_a_file_that_cannot_be_run_is_refused_with_its_error(tmp_path):
    path = tmp_path / "wrong.py"
    path.write_text("import this_is_not_there\n")
    with pytest.raises(ValueError, match="ModuleNotFoundError: No module named 'this_is_not"):
        Function(objective=f"{path}:f").check()


@pytest.mark.parametrize(
    ("name", "always", "sometimes", "said"),
    [
        ("total", ["x", "z"], [], "cannot be called with x, z"),
        ("total", ["y"], [], "missing a required argument: 'x'"),
        ("total", ["y"], ["x"], "those with a condition need a default value"),
    ],
)
def test_a_function_that_does_not_take_the_genes_is_refused(module, name, always, sometimes, said):
    with pytest.raises(ValueError) as caught:
        Function(objective=f"{module}:{name}").check_genes(always, sometimes)
    assert said in str(caught.value)


def test_a_gene_and_an_argument_cannot_share_a_name(module):
    settings = Function(objective=f"{module}:total", arguments={"x": 1.0})
    with pytest.raises(ValueError, match="'x' is both a gene and an argument"):
        settings.check_genes(["x"], [])


def test_what_is_reused_depends_on_the_source_and_on_all_that_is_passed(module, tmp_path):
    settings = Function(objective=f"{module}:total")
    before = settings.check().identity["search"]
    assert settings.check().identity["search"] == before
    for other in (
        replace(settings, arguments={"scale": 2.0}),
        replace(settings, tasks=(Target(name="value", weight=-1.0),)),
        replace(settings, objective=f"{module}:noisy"),
        replace(settings, seed=3),
    ):
        assert other.check().identity["search"] != before
    copy = tmp_path / "copy.py"
    copy.write_text(MODULE)
    same = replace(settings, objective=f"{copy}:total")
    assert same.check().identity["search"] == before
    changed = tmp_path / "changed.py"
    changed.write_text(MODULE.replace("x + y", "x - y"))
    other = replace(settings, objective=f"{changed}:total")
    assert other.check().identity["search"] != before


def test_objectives_are_named_once_and_have_weights():
    with pytest.raises(ValueError, match="tasks: 'a' is named twice"):
        Function(objective="math:sqrt", tasks=(Target(name="a"), Target(name="a")))
    with pytest.raises(ValueError, match="tasks: 'a' has a weight of inf"):
        Function(objective="math:sqrt", tasks=(Target(name="a", weight=float("inf")),))
