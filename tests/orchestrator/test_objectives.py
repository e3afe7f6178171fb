"""What a search aims at is said in few words, refused where it means nothing, and ranks."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator import config
from orchestrator.measurement.measured import Measured
from orchestrator.objectives import (
    Constraint,
    Judge,
    Objectives,
    read_constraint,
    weighted_judge,
)
from orchestrator.spaces.base import Reference

WEIGHTS = {"acc": 1.0, "loss": -2.0, "kept": 0.0}


@pytest.fixture
def references(fake_space) -> list[Reference]:
    recipe = fake_space().references[0].recipe
    return [
        Reference(name="base", recipe=recipe, is_base=True),
        Reference(name="a", recipe=recipe, is_source=True),
        Reference(name="b", recipe=recipe, is_source=True),
        Reference(name="mean", recipe=recipe),
    ]


def judge(references=(), measures=("size", "layers"), **settings) -> Judge:
    return Objectives(**{"kind": "weighted", **settings}).judge(WEIGHTS, measures, references)


def values(**changes: float) -> dict[str, float]:
    return {"acc": 0.5, "loss": 1.5, "kept": 0.25, "size": 1e9, "layers": 12.0, **changes}


def judged(one: Judge, anchors=None, errors=None, **changes: float) -> Measured:
    measured = Measured(fitness=7.0, stderr=0.5, tie=-1.0)
    return one.judged(measured, values(**changes), anchors or {}, errors or {})


# Constraints.


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("size <= 8e9", ("size", True, None, 8e9)),
        ("size<=8.5E+9", ("size", True, None, 8.5e9)),
        ("  acc  >=  .6 ", ("acc", False, None, 0.6)),
        ("acc >= -1", ("acc", False, None, -1.0)),
        ("acc >= parent", ("acc", False, "parent", 0.0)),
        ("mmlu-pro:v2 >= parent - 0.01", ("mmlu-pro:v2", False, "parent", -0.01)),
        ("loss <= base+0.5", ("loss", True, "base", 0.5)),
    ],
)
def test_a_constraint_is_read(text, expected):
    name, at_most, model, offset = expected
    assert read_constraint(text) == Constraint(
        name=name, at_most=at_most, model=model, offset=offset
    )


@pytest.mark.parametrize(
    "text",
    [
        "", "size", "size < 3", "size = 3", "size <= 8B", "<= 3", "size <=", "acc >= parents",
        "acc >= parent -", "acc >= parent 0.1", "acc >= 0.1 + parent", "acc >= nan", "acc >= inf",
        "acc >= 1e999", "size <= 3 or 4",
    ],
)  # fmt: skip
def test_anything_else_is_refused_with_one_clear_error(text):
    with pytest.raises(ValueError, match=r"^constraints: expected .*, got ") as error:
        Objectives(kind="weighted", constraints=(text,))
    assert repr(text) in str(error.value)


def test_a_violation_is_relative_to_the_bound_and_summed(references):
    one = judge(constraints=("size <= 8e8", "acc >= 0.4", "loss <= 1"))
    assert judged(one).violation == pytest.approx(0.25 + 0.5)
    assert judged(one, size=1.0, loss=1.0).violation == 0.0
    assert judged(judge(constraints=("acc >= 0",)), acc=-0.25).violation == 0.25


def test_a_parent_is_the_best_of_the_source_models_in_the_direction_of_the_bound(references):
    anchors = {
        "r1": {"kept": 0.9, "loss": 0.1},
        "r2": {"kept": 0.5, "loss": 1.0},
        "r3": {"kept": 0.4, "loss": 2.0},
    }
    at_least = judge(references, constraints=("kept >= parent - 0.1",))
    assert judged(at_least, anchors, kept=0.4).violation == 0.0
    assert judged(at_least, anchors, kept=0.3).violation == pytest.approx(0.25)
    at_most = judge(references, constraints=("loss <= parent + 0.5",))
    assert judged(at_most, anchors, loss=1.5).violation == 0.0
    assert judged(at_most, anchors, loss=3.0).violation == pytest.approx(1.0)
    assert at_least.needed == at_most.needed == {"r2", "r3"}
    base = judge(references, constraints=("kept >= base", "size <= 1e9"))
    assert base.needed == {"r1"}
    assert judged(base, anchors, kept=0.45).violation == pytest.approx(0.5)


def test_a_constraint_whose_models_are_not_known_yet_is_not_judged(references):
    one = judge(references, constraints=("kept >= parent", "acc >= 1"))
    assert judged(one).violation == pytest.approx(0.5)


def test_names_that_there_are_not_and_models_that_there_are_not_are_refused(references):
    with pytest.raises(ValueError, match=r"^of: 'speed' is neither a search task nor a measure"):
        judge(of=("acc", "speed"))
    with pytest.raises(ValueError, match=r"^constraints: 'sise' is neither .*'size'"):
        judge(constraints=("sise <= 3",))
    with pytest.raises(ValueError, match="'-loss' is a task: the sign of its weight"):
        judge(of=("acc", "-loss"))
    with pytest.raises(ValueError, match=r"^constraints: .*neither"):
        judge(constraints=("-size >= 3",))
    with pytest.raises(ValueError, match="bounded by 'parent', but this space"):
        judge(references[:1], constraints=("acc >= parent",))
    with pytest.raises(ValueError, match="bounded by 'base', but this space"):
        judge(references[1:], constraints=("acc >= base",))


# Kinds.


def test_without_objectives_fitness_is_the_weighted_sum_and_values_are_the_weighed_tasks():
    measured = judged(weighted_judge(WEIGHTS))
    assert measured.values == (0.5, -1.5)
    assert (measured.fitness, measured.stderr, measured.tie) == (7.0, 0.5, -1.0)
    assert measured.violation == 0.0


def test_a_weighted_sum_may_name_what_else_algorithms_are_given():
    assert judged(judge(of=("kept", "-size"))).values == (0.25, -1e9)


def test_of_a_pareto_front_all_values_are_to_be_maximised_and_fitness_stays_the_sum():
    measured = judged(judge(kind="pareto", of=("loss", "acc", "-size", "layers")))
    assert measured.values == (-1.5, 0.5, -1e9, 12.0)
    assert (measured.fitness, measured.stderr, measured.tie) == (7.0, 0.5, -1.0)


def test_measures_are_asked_for_only_where_they_count():
    assert not judge(of=("acc",), constraints=("kept >= 0.1",)).takes_measures
    assert judge(of=("acc", "-size")).takes_measures
    assert judge(constraints=("layers <= 12",)).takes_measures


numbers = st.floats(-1e6, 1e6).map(lambda one: float(f"{one:.5g}"))


@given(
    rows=st.lists(st.tuples(numbers, numbers, numbers), min_size=2, max_size=8),
    num=st.integers(2, 3),
)
def test_a_lexicographic_order_is_that_of_the_values_one_after_another(rows, num):
    of = ("acc", "loss", "-size")[:num]
    one = judge(kind="lexicographic", of=of)
    found = [judged(one, acc=a, loss=-b, size=-c) for a, b, c in rows]
    for a, b in pairwise(found):
        assert (a.rank < b.rank) == (a.values < b.values)
        assert (a.rank > b.rank) == (a.values > b.values)
    assert all(math.isfinite(one.tie) for one in found)


def test_within_the_tolerance_the_next_objective_decides():
    one = judge(kind="lexicographic", of=("acc", "-size"), tolerance=(0.1, 0.0))
    small, large, best = (
        judged(one, acc=acc, size=size) for acc, size in ((0.58, 1e9), (0.62, 2e9), (0.71, 9e9))
    )
    assert best.rank > small.rank > large.rank
    assert small.fitness == large.fitness == pytest.approx(0.6)
    alike = judge(kind="lexicographic", of=("acc", "kept"), tolerance=0.5)
    assert judged(alike, acc=0.3, kept=0.8).rank == judged(alike, acc=0.6, kept=1.1).rank


def test_the_error_of_a_lexicographic_fitness_is_that_of_the_first_objective():
    one = judge(kind="lexicographic", of=("acc", "kept"))
    assert judged(one, errors={"acc": 0.125, "kept": 0.5}).stderr == 0.125
    assert judged(judge(kind="lexicographic", of=("-size", "acc"))).stderr is None


def test_who_breaks_constraints_less_is_before_whoever_is_fitter():
    one = judge(kind="lexicographic", of=("acc", "kept"), constraints=("size <= 1e9",))
    fine, worse, worst = (
        judged(one, acc=acc, size=size) for acc, size in ((0.1, 1e9), (0.5, 2e9), (0.9, 3e9))
    )
    assert fine.rank > worse.rank > worst.rank


# Settings.


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kind": "pareto"}, "of: a Pareto front needs two objectives or more"),
        ({"kind": "pareto", "of": ("a",)}, "of: a Pareto front needs two"),
        ({"kind": "lexicographic", "of": ("a",)}, "of: a lexicographic order takes 2 to 3"),
        ({"kind": "lexicographic", "of": tuple("abcd")}, "of: a lexicographic order takes 2 to 3"),
        ({"kind": "pareto", "of": ("a", "-a")}, "of: an objective is named twice"),
        ({"kind": "pareto", "of": ("a", "b"), "tolerance": 0.1}, "tolerance: has no effect"),
        (
            {"kind": "lexicographic", "of": ("a", "b"), "tolerance": (0.1, 0.1, 0.1)},
            "tolerance: expected one number, or one for each",
        ),
    ],
)
def test_settings_that_mean_nothing_are_refused(settings, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        Objectives(**settings)


CAMPAIGN = {
    "name": "one",
    "seed": 1,
    "space": {"kind": "dataflow", "sources": ["a"]},
    "search": {"kind": "random", "population_size": 2},
    "evaluate": {"kind": "lm_harness", "tasks": [{"name": "t", "metric": "acc", "weight": 0.0}]},
    "budget": {"generations": 1},
}


def test_a_campaign_takes_objectives_and_gives_them_back():
    section = {
        "kind": "lexicographic",
        "of": ["t", "-size"],
        "constraints": ["size <= 8e9"],
        "tolerance": [0.01, 0.0],
    }
    settings = config.from_dict({**CAMPAIGN, "objectives": section})
    assert settings.objectives == Objectives(
        kind="lexicographic", of=("t", "-size"), constraints=("size <= 8e9",), tolerance=(0.01, 0.0)
    )
    assert config.from_dict(config.as_dict(settings)) == settings
    assert config.from_dict(CAMPAIGN).objectives is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"objectives": {"kind": "best"}}, "objectives.kind: expected 'weighted', 'pareto'"),
        ({"objectives": {"kind": "weighted", "off": []}}, "objectives.off: unknown key"),
        (
            {"objectives": {"kind": "weighted", "constraints": ["size < 3"]}},
            "objectives.constraints: expected such as 'size <= 8e9'",
        ),
        (
            {"objectives": {"kind": "pareto", "of": ["t", "size"]},
             "racing": {"kind": "paired_t"}},
            "racing: a race stops whoever cannot win by the weighted sum",
        ),
        ({"budget": {"target": 0.5}}, "set at least one of .*; a target may never be reached"),
        ({"budget": {"stagnation": {"by": 0.1}}}, "budget.stagnation: set evaluations or gener"),
        ({"budget": {"generations": 1, "target": "high"}}, "budget.target: expected a number"),
    ],
)  # fmt: skip
def test_a_campaign_file_says_where_its_mistake_is(changes, message):
    with pytest.raises(config.ConfigError, match=message):
        config.from_dict({**CAMPAIGN, **changes})
