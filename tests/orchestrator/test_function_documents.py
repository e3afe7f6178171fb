"""Functions that score documents one by one, cut into blocks or drawn for an item bank."""

from __future__ import annotations

import pytest

from evaluators.base import Values
from evaluators.function import Function
from evaluators.function_answer import Target
from orchestrator.measurement.item_bank import ItemBank
from orchestrator.measurement.layout import layout
from orchestrator.measurement.paired_races import PairedT

JUDGE = """
def answers(x, documents):
    return {
        "a": [float((7 * place) % 11 < 11 * x) for place in documents],
        "b": [float(place % 3 == 0) for place in documents],
    }

def graded(x, documents):
    return {"a": [0.5 for _ in documents], "b": [1.0 for _ in documents]}
"""
TARGETS = (Target(name="a"), Target(name="b", weight=0.5))
NUM = 60


@pytest.fixture
def judge(tmp_path) -> str:
    file = tmp_path / "judge.py"
    file.write_text(JUDGE)
    return str(file)


def function(judge, name="answers") -> Function:
    return Function(objective=f"{judge}:{name}", documents=NUM, tasks=TARGETS)


def expected(name, places, x=0.5):
    if name == "a":
        return tuple(float((7 * place) % 11 < 11 * x) for place in places)
    return tuple(float(place % 3 == 0) for place in places)


def test_objectives_of_one_function_share_the_blocks_of_a_race(judge):
    """So that a block is one call for as many documents as it has."""
    tasks = function(judge).check().tasks["search"]
    plan = layout(tasks, seed=1, race=PairedT(first_block=8), reserve=0.25, round_documents=5)
    for block in (*plan.search, *plan.fresh):
        assert block["a"] == block["b"]
    assert {place for block in (*plan.search, *plan.fresh) for place in block["a"]} == {*range(NUM)}


def test_documents_drawn_for_each_objective_are_those_that_it_is_scored_on(judge):
    settings = function(judge)
    bank = ItemBank(documents=10)
    memory = bank.start(settings.check().tasks["search"], {"a": 1.0, "b": 0.5}, seed=3)
    drawn = bank.choose(memory, 1)
    assert drawn["a"] != drawn["b"]
    score = settings.open(Values(by_gene={"x": 0.5})).evaluate("search", documents=drawn)
    for name, places in drawn.items():
        assert score.tasks[name].per_document == expected(name, places)
    assert bank.estimate(memory, score, drawn, ()).fitness == pytest.approx(score.fitness)


def test_what_is_neither_right_nor_wrong_is_no_matter_for_a_bank(judge):
    settings, bank = function(judge, "graded"), ItemBank(documents=10)
    memory = bank.start(settings.check().tasks["search"], {"a": 1.0, "b": 0.5}, seed=3)
    drawn = bank.choose(memory, 1)
    score = settings.open(Values(by_gene={"x": 0.5})).evaluate("search", documents=drawn)
    with pytest.raises(ValueError, match=r"estimator: task 'a'.*right \(1\) or wrong \(0\)"):
        bank.estimate(memory, score, drawn, ())
