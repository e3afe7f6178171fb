"""Natural niches: shared fitness and attraction by hand, and whole models in the fold."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pytest

from evaluators.base import Score, TaskScore
from orchestrator.algorithms.base import Evaluated, Memory
from orchestrator.algorithms.natural_niches import (
    NaturalNiches,
    attractions,
    scores_of,
    worths,
)
from orchestrator.campaign import snapshot
from orchestrator.campaign.answers import answers_of
from orchestrator.campaign.fold import handle, start
from orchestrator.campaign.state import Campaign, Limits
from orchestrator.measurement.measured import Standing
from orchestrator.spaces.base import Reference
from orchestrator.spaces.genes import Genes, Genome, Real, reals
from workers.job import Scored
from workers.lineage import Cross, Cut, LineageRecipe, child_of

BOX = reals(["x", "y"], [0.0, 0.0], [1.0, 1.0])
CROSSING = Genes(
    (Real(name="weight", low=0.0, high=1.0), Real(name="split", low=0.0, high=1.0)),
    founders=((1.0, 0.0), (0.0, 0.0)),
)


def one(number: int, answers: Sequence[float], fitness: float | None = None) -> Evaluated:
    worth = float(np.mean(answers)) if fitness is None else fitness
    return Evaluated(
        candidate=f"s{number}",
        number=number,
        genome=(0.1 * number, 0.5),
        fitness=worth,
        answers=tuple(map(float, answers)),
    )


def parents(algorithm, members, genes=CROSSING, num=4000) -> Counter:
    rng, memory = np.random.default_rng(0), Memory(tuple(members))
    return Counter(algorithm.ask_one(genes, memory, rng).parents for _ in range(num))


def test_a_document_is_shared_among_those_that_solve_it():
    scores = scores_of([one(1, [1, 1, 0]), one(2, [1, 0, 0]), one(3, [1, 0, 1])])
    worth = worths(scores, alpha=1.0)
    np.testing.assert_allclose(worth, [1 / 3, 1.0, 1.0])  # crowding is 3, 1 and 1
    np.testing.assert_allclose(scores @ worth, [4 / 3, 1 / 3, 4 / 3])


def test_what_nobody_solves_fully_has_less_to_give():
    scores = scores_of([one(1, [0.2, 0.5]), one(2, [0.6, 0.0])])
    np.testing.assert_allclose(worths(scores, alpha=1.0), [0.6 / 0.8, 0.5 / 0.5])


def test_what_nobody_solves_is_worth_nothing_and_breaks_nothing():
    scores = scores_of([one(1, [0, 1]), one(2, [0, 1])])
    np.testing.assert_allclose(worths(scores, alpha=2.0), [0.0, 1 / 4])


def test_without_alpha_fitness_is_the_plain_sum():
    scores = scores_of([one(1, [1, 1, 0]), one(2, [1, 0, 0])])
    np.testing.assert_allclose(scores @ worths(scores, alpha=0.0), [2.0, 1.0])


def test_attraction_is_what_the_other_solves_and_the_first_does_not():
    scores = scores_of([one(1, [1, 0, 0]), one(2, [1, 1, 0]), one(3, [0, 1, 1])])
    worth = worths(scores, alpha=1.0)  # 1/2, 1/2, 1
    np.testing.assert_allclose(attractions(scores, worth, 0), [0.0, 0.5, 1.5])


def test_answers_below_nothing_count_from_the_worst():
    scores = scores_of([one(1, [-3.0, 0.5]), one(2, [-1.0, 0.25])])
    np.testing.assert_allclose(scores, [[0.0, 0.5], [2.0, 0.25]])
    lowered = scores_of([one(1, [3.0, 0.5]), one(2, [1.0, 0.25])], subtract_worst=True)
    np.testing.assert_allclose(lowered, [[2.0, 0.25], [0.0, 0.0]])


def test_where_answers_do_not_correspond_fitness_is_the_only_one():
    np.testing.assert_allclose(scores_of([one(1, [1, 0], 4.0), one(2, [1], 2.0)]), [[4], [2]])
    np.testing.assert_allclose(scores_of([one(1, [], 4.0), one(2, [], 2.0)]), [[4], [2]])


def test_a_specialist_outlives_a_better_copy_of_the_crowd():
    crowd = [one(number, [1, 1, 0]) for number in (1, 2, 3)]  # each document gives 1/3
    specialist = one(4, [0, 0, 1])
    memory = NaturalNiches(population_size=3).tell(Memory(), [*crowd, specialist])
    assert {member.candidate for member in memory.members} == {"s1", "s2", "s4"}
    plain = NaturalNiches(population_size=3, alpha=0.0).tell(Memory(), [*crowd, specialist])
    assert {member.candidate for member in plain.members} == {"s1", "s2", "s3"}


def test_the_child_counts_in_the_crowd_and_may_be_the_one_that_leaves():
    memory = Memory((one(1, [1, 1]), one(2, [1, 0])))
    algorithm = NaturalNiches(population_size=2)
    # With the child documents are worth 1/3 and 1/1: s2 and s3 get 1/3 each, the younger goes.
    assert algorithm.tell(memory, [one(3, [1, 0])]).members == memory.members
    # With this one 1/2 and 1/2: s2 gets 1/2, the child 1/2 as well, but it is the less fit.
    assert algorithm.tell(memory, [one(3, [0, 1], fitness=0.4)]).members == memory.members
    # And where the child solves what the elder does, too, it stays.
    kept = algorithm.tell(Memory((one(1, [1, 0]), one(2, [1, 0]))), [one(3, [0, 1])])
    assert [member.candidate for member in kept.members] == ["s1", "s3"]


def test_who_was_stopped_or_failed_does_not_enter():
    raced = Evaluated(candidate="s1", number=1, genome=(0.0, 0.0), fitness=9.0, stopped=True)
    lost = Evaluated(candidate="s2", number=2, genome=(0.0, 0.0), fitness=None)
    assert NaturalNiches(population_size=3).tell(Memory(), [raced, lost]) == Memory()


def test_who_breaks_constraints_the_most_leaves_first():
    strays = [replace(one(1, [1, 1]), violation=2.0), replace(one(2, [1, 1]), violation=1.0)]
    memory = NaturalNiches(population_size=2).tell(Memory(), [*strays, one(3, [0, 0])])
    assert [member.candidate for member in memory.members] == ["s3", "s2"]


def test_first_parents_are_drawn_by_shared_fitness_and_second_ones_by_what_is_missing():
    members = [one(1, [1, 1, 0]), one(2, [1, 0, 0]), one(3, [1, 0, 1])]
    found, num = parents(NaturalNiches(population_size=3), members), 4000
    firsts = Counter()
    for pair, count in found.items():
        firsts[pair[0]] += count
    # Shared fitness is 4/3, 1/3 and 4/3.
    assert firsts["s1"] / num == pytest.approx(4 / 9, abs=0.03)
    assert firsts["s2"] / num == pytest.approx(1 / 9, abs=0.03)
    # s1 lacks the last document, which s3 alone has; s3 lacks the second, which s1 alone has.
    assert ("s1", "s2") not in found
    assert ("s3", "s2") not in found
    assert {pair for pair in found if pair[0] == "s2"} == {("s2", "s1"), ("s2", "s3")}


def test_who_lacks_nothing_has_a_mate_by_fitness():
    members = [one(1, [1, 1]), one(2, [1, 0])]
    found = parents(NaturalNiches(population_size=2), members)
    assert {("s1",), ("s1", "s2"), ("s2", "s1")} == set(found)
    assert found["s1", "s2"] < found[("s1",)], "s1 is the fitter mate, even of itself"


def test_without_alpha_and_attraction_both_parents_are_drawn_by_plain_fitness():
    members = [one(1, [1, 1, 1, 0]), one(2, [0, 0, 0, 1])]
    found = parents(NaturalNiches(population_size=2, alpha=0.0, attraction=False), members)
    assert found[("s1",)] / 4000 == pytest.approx(9 / 16, abs=0.03)
    assert found[("s2",)] / 4000 == pytest.approx(1 / 16, abs=0.03)


def test_it_begins_with_the_models_there_are_and_some_merges_of_them():
    algorithm = NaturalNiches(population_size=8, batch=3, first_merges=2)
    first = algorithm.ask(CROSSING, Memory(), np.random.default_rng(0))
    assert [proposal.operator for proposal in first] == ["founder"] * 2 + ["sample"] * 2
    assert tuple(proposal.genome for proposal in first[:2]) == CROSSING.founders
    members = (one(1, [1, 0]), one(2, [0, 1]))
    children = algorithm.ask(CROSSING, Memory(members), np.random.default_rng(0))
    assert [set(child.parents) for child in children] == [{"s1", "s2"}] * 3


def test_genomes_that_are_models_themselves_are_crossed_and_mutated():
    members = (one(1, [1, 0]), one(2, [0, 1]))
    (child,) = NaturalNiches(population_size=4, batch=1).ask(
        BOX, Memory(members), np.random.default_rng(0)
    )
    assert set(child.parents) == {"s1", "s2"}
    assert child.genome not in {member.genome for member in members}


def standing(**tasks: TaskScore) -> Standing:
    parts = {("search", 0): Score(fitness=0.0, tasks=tasks)}
    return Standing(parts)


def task(values: Sequence[float], weight: float = 1.0, documents: int | None = None) -> TaskScore:
    return TaskScore(
        value=0.5,
        stderr=None,
        documents=len(values) if documents is None else documents,
        weight=weight,
        per_document=tuple(values),
    )


def test_answers_come_task_by_task_the_better_the_higher():
    found = standing(b=task([1.0, 0.0]), a=task([3.0, 2.0], weight=-0.5), c=task([1.0], weight=0))
    assert answers_of(found) == (-3.0, -2.0, 1.0, 0.0)


def test_there_are_no_answers_where_a_value_is_not_made_of_documents():
    assert answers_of(standing(a=task([1.0]), b=task([], documents=4))) == ()
    fresh = Standing({("fresh", 0): Score(fitness=0.0, tasks={"a": task([1.0])})})
    assert answers_of(fresh) == ()


@dataclass(frozen=True)
class Descent:
    """A space of lineages of two models that nobody has to build."""

    descends: bool = True
    builder: object = None
    revisions: dict = field(default_factory=dict)
    genes: Genes = CROSSING

    @property
    def references(self) -> list[Reference]:
        return [Reference(name=name, recipe=self.founder(name)) for name in "ab"]

    @staticmethod
    def founder(name: str) -> LineageRecipe:
        return LineageRecipe(sources=(name,), base="a", dtype="float32")

    def decode(self, genome: Genome) -> LineageRecipe:
        if genome in CROSSING.founders:
            return self.founder("ab"[CROSSING.founders.index(genome)])
        return self.descend(genome, [self.founder("a"), self.founder("b")])

    def descend(self, genome: Genome, parents: Sequence[LineageRecipe]) -> LineageRecipe:
        if len(parents) < 2:
            return parents[0]
        cuts = (Cut(weight=genome[0], split=genome[1]),)
        return child_of(parents, lambda places: Cross(parents=places, cuts=cuts))

    def describe(self) -> dict:
        return {}


def answered(job) -> Scored:
    """Right and wrong answers that follow from the lineage alone."""
    seed = int(job.recipe.digest()[:8], 16)
    right = np.random.default_rng(seed).random(12) < 0.5
    values = tuple(right.astype(float).tolist())
    scored = TaskScore(value=float(right.mean()), stderr=0.1, documents=12, per_document=values)
    return Scored(
        candidate=job.candidate,
        attempt=job.attempt,
        rows=job.rows,
        score=Score(fitness=scored.value, tasks={"t": scored}),
        seconds=0.1,
        worker="fake",
    )


def campaign(**changes) -> Campaign:
    algorithm = NaturalNiches(**{"population_size": 4, "batch": 3, **changes})
    return Campaign(
        space=Descent(), algorithm=algorithm, seed=1, limits=Limits(evaluations=30), control=True
    )


def run(campaign: Campaign, newest_first: bool = False, visit=lambda step, known, scores: None):
    step = start(campaign)
    known = {candidate.id: candidate for candidate in step.candidates}
    jobs, state, scores = list(step.jobs), step.state, {}
    while jobs:
        outcome = answered(jobs.pop(-1 if newest_first else 0))
        scores[outcome.candidate] = outcome.score
        step = handle(campaign, state, outcome)
        state = step.state
        known |= {candidate.id: candidate for candidate in step.candidates}
        jobs += step.jobs
        visit(step, known, scores)
    return state, known


@pytest.mark.parametrize("mode", ["generational", "async"])
def test_a_childs_recipe_is_made_of_its_parents_recipes(mode):
    _, known = run(campaign(mode=mode))
    searched = [one for one in known.values() if one.role == "search"]
    assert len(searched) == 30
    assert [len(one.recipe.steps) for one in searched[:2]] == [0, 0]
    children = [one for one in searched if len(one.parents) == 2]
    assert len(children) > 15
    for child in children:
        a, b = (known[parent].recipe for parent in child.parents)
        assert child.recipe == Descent().descend(child.genome, [a, b])
    assert max(len(one.recipe.steps) for one in children) > 3
    assert all(len(one.recipe.steps) == 1 for one in known.values() if one.role == "control")


def test_the_order_of_outcomes_within_a_generation_changes_nothing():
    assert run(campaign())[1] == run(campaign(), newest_first=True)[1]


@pytest.mark.parametrize("mode", ["generational", "async"])
def test_a_state_comes_back_from_its_dump_with_answers_and_ancestors(mode):
    asked, compared = campaign(mode=mode), []

    def visit(step, known, scores):
        data = json.loads(json.dumps(snapshot.dump(asked, step.state)))
        standings = {
            id_: Standing({("search", 0): scores[id_]}) for id_ in snapshot.with_standings(data)
        }
        named = {id_: known[id_] for id_ in snapshot.named(data)}
        assert snapshot.restore(asked, data, named, standings) == step.state
        compared.append(len(step.state.memory.members))
        assert all(len(member.answers) == 12 for member in step.state.memory.members)

    run(asked, visit=visit)
    assert max(compared) == 4
    assert len(compared) > 50
