"""The merge of the archives' best that a search ends in: by hand, and in whole campaigns."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import pytest

from evaluators.base import Score, TaskScore
from orchestrator.algorithms.archive import Grid
from orchestrator.algorithms.base import Evaluated, Memory
from orchestrator.algorithms.cycle_qd import CycleQd
from orchestrator.algorithms.genetic import Genetic
from orchestrator.campaign.fold import handle, replay, start
from orchestrator.campaign.state import Campaign, Limits, Recorded
from orchestrator.objectives import weighted_judge
from tests.conftest import FakeSpace, failed, recipe_of
from workers.job import Scored

ALGORITHM = CycleQd(population_size=4, archive=Grid(bins=4), limits=((0.0, 1.0),))


@dataclass(frozen=True)
class Blending(FakeSpace):
    """Recipes hold numbers, of which a weighted mean can be taken."""

    def aggregate(self, recipes, weights):
        rows = [one.slices[0].settings[0].values["weight"] for one in recipes]
        return recipe_of(
            [math.fsum(w * x for w, x in zip(weights, column, strict=True))
             for column in zip(*rows, strict=True)]
        )  # fmt: skip


def told(*rows: tuple[float, ...], **facts) -> list[Evaluated]:
    return [
        Evaluated(
            candidate=f"s{number}", number=number, genome=(float(number),), values=row,
            fitness=sum(row), **facts,
        )
        for number, row in enumerate(rows, start=1)
    ]  # fmt: skip


def test_the_best_of_each_archive_weigh_as_the_softmax_of_their_metrics():
    memory = ALGORITHM.tell(Memory(), told((0.9, 0.1), (0.6, 0.6), (0.2, 0.7), (0.1, 0.2)))
    weights = ALGORITHM.aggregated(memory)
    assert list(weights) == ["s1", "s3"]
    total = math.exp(0.9) + math.exp(0.7)
    assert weights["s1"] == pytest.approx(math.exp(0.9) / total, abs=1e-6)
    assert sum(weights.values()) == pytest.approx(1.0, abs=1e-6)


def test_there_is_nothing_to_merge_where_one_is_the_best_of_all_or_it_is_not_wanted():
    memory = ALGORITHM.tell(Memory(), told((0.9, 0.9), (0.6, 0.6)))
    assert ALGORITHM.aggregated(memory) == {}
    assert ALGORITHM.aggregated(Memory()) == {}
    several = ALGORITHM.tell(Memory(), told((0.9, 0.1), (0.1, 0.9)))
    assert ALGORITHM.aggregated(several)
    assert replace(ALGORITHM, aggregate=False).aggregated(several) == {}


def test_who_breaks_constraints_is_merged_only_where_no_one_else_is():
    bad = [replace(one, violation=0.5) for one in told((1.0, 0.1), (0.1, 1.0))]
    good = told((0.5, 0.1), (0.1, 0.5))
    good = [replace(one, candidate=f"s{one.number + 2}", number=one.number + 2) for one in good]
    assert list(ALGORITHM.aggregated(ALGORITHM.tell(Memory(), [*bad, *good]))) == ["s3", "s4"]


def two_tasks(job) -> Scored:
    """Near to a corner in each of two numbers."""
    x, y, *_ = job.recipe.slices[0].settings[0].values["weight"]
    values = {"a": -abs(x), "b": -abs(y - 1.0)}
    tasks = {
        name: TaskScore(value=value, stderr=0.1, documents=2, per_document=(value, value))
        for name, value in values.items()
    }
    return Scored(
        candidate=job.candidate, attempt=job.attempt, rows=job.rows, block=job.block,
        score=Score(fitness=sum(values.values()), tasks=tasks), seconds=0.0, worker="test",
    )  # fmt: skip


def campaign(evaluations=12, *, space=None, algorithm=ALGORITHM, **facts) -> Campaign:
    return Campaign(
        space=space or Blending(dim=2),
        algorithm=replace(algorithm, **({"limits": None} if algorithm is ALGORITHM else {})),
        seed=3,
        limits=Limits(evaluations=evaluations),
        kinds=frozenset({"search", "test"}),
        judge=weighted_judge({"a": 1.0, "b": 1.0}),
        **facts,
    )


def run(made: Campaign, outcome_of=two_tasks):
    """Runs a campaign to its end, the newest job first; returns its state and what was recorded."""
    step = start(made)
    state, jobs, born, entries = step.state, list(step.jobs), list(step.candidates), []
    while jobs:
        outcome = outcome_of(jobs.pop())
        step = handle(made, state, outcome)
        entries.append(Recorded(outcome, step.final))
        state, jobs = step.state, jobs + list(step.jobs)
        born += step.candidates
    assert state.phase == "done"
    return state, born, entries


def test_a_search_ends_in_one_more_model_that_is_measured_as_the_references_are():
    state, born, entries = run(campaign())
    (last,) = [one for one in born if one.operator == "aggregate"]
    assert (last.id, last.role, last.genome) == ("r14", "reference", None), "2 references, 12 more"
    assert last.generation == state.generation
    recipes = {one.id: one.recipe for one in born}
    rows = [recipes[id_].slices[0].settings[0].values["weight"] for id_ in last.parents]
    x, y = last.recipe.slices[0].settings[0].values["weight"]
    for found, column in zip((x, y), zip(*rows, strict=True), strict=True):
        assert min(column) <= found <= max(column)
    measured = [(one.outcome.candidate, one.outcome.rows) for one in entries]
    assert measured.count((last.id, "search")) == 1
    assert measured.count((last.id, "test")) == 1
    assert last.id in {one.candidate.id for one in state.tops["reference"]}


def test_the_merge_wins_if_it_is_the_best():
    def best_if_merged(job):
        found = two_tasks(job)
        tasks = {name: replace(one, value=5.0) for name, one in found.score.tasks.items()}
        if job.candidate == "r14":
            return replace(found, score=Score(fitness=10.0, tasks=tasks))
        return found

    state, _, _ = run(campaign(), best_if_merged)
    assert state.winner.candidate.operator == "aggregate"


def test_a_merge_that_fails_costs_nothing_but_itself():
    def broken(job):
        return failed(job, retryable=False) if job.candidate == "r14" else two_tasks(job)

    state, _, _ = run(campaign(), broken)
    whole, _, _ = run(campaign(algorithm=replace(ALGORITHM, limits=None, aggregate=False)))
    assert state.winner.candidate.id == whole.winner.candidate.id
    assert state.num_failed == 1


def test_spaces_and_algorithms_that_know_nothing_of_it_end_as_ever():
    for made in (campaign(space=FakeSpace(dim=2)), campaign(algorithm=Genetic(population_size=4))):
        _, born, _ = run(made)
        assert not [one for one in born if one.operator == "aggregate"]


def test_a_larger_budget_goes_on_from_before_the_merge_and_ends_in_another_one():
    _, first, entries = run(campaign(12))
    larger = campaign(20)
    step = start(larger)
    state, born, jobs = step.state, list(step.candidates), list(step.jobs)
    for entry in entries:
        step = replay(larger, state, entry)
        state, born, jobs = step.state, born + list(step.candidates), jobs + list(step.jobs)
    while state.open:
        step = handle(larger, state, two_tasks(next(iter(state.open.values()))))
        state, born = step.state, born + list(step.candidates)
    straight, _, _ = run(larger)
    assert [one.id for one in born if one.operator == "aggregate"] == ["r22"]
    searched = {one.id: one.recipe for one in first if one.role == "search"}
    assert searched.items() <= {one.id: one.recipe for one in born}.items()
    assert state.winner.candidate == straight.winner.candidate


def test_a_search_that_was_broken_off_anywhere_ends_in_the_same_merge():
    made = campaign()
    whole, born, entries = run(made)
    known = {one.id: one for one in born}
    for cut in range(len(entries)):
        step = start(made)
        state, found = step.state, {one.id: one for one in step.candidates}
        for entry in entries[:cut]:
            step = replay(made, state, entry)
            state, found = step.state, found | {one.id: one for one in step.candidates}
        while state.open:
            step = handle(made, state, two_tasks(next(iter(state.open.values()))))
            state, found = step.state, found | {one.id: one for one in step.candidates}
        assert found == known
        assert state.winner.candidate == whole.winner.candidate
