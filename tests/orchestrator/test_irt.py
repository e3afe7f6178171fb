"""Item response models, and the item bank that a campaign estimates with."""

from __future__ import annotations

import json

import numpy as np
import pytest

from evaluators.base import Score, TaskFacts, TaskScore
from orchestrator.measurement import irt
from orchestrator.measurement.estimator import ESTIMATORS
from orchestrator.measurement.item_bank import ItemBank
from orchestrator.measurement.item_memory import MAX_ROWS, ItemMemory


def simulated(models=200, items=300, dimensions=2, unseen=0.0, seed=0):
    """A true bank and answers drawn from it."""
    rng = np.random.default_rng(seed)
    theta = rng.normal(size=(models, dimensions))
    a = rng.normal(1.0, 0.5, size=(items, dimensions))
    b = rng.normal(size=items)
    truth = irt.Bank(a, b, theta)
    answers = (rng.random((models, items)) < truth.probabilities(theta)).astype(float)
    answers[rng.random(answers.shape) < unseen] = np.nan
    return truth, answers


def explained(estimated, true):
    """Share of the variance of the columns of `true` that a linear map of `estimated` explains."""
    ones = np.ones((len(true), 1))
    design = np.concatenate([estimated, ones], axis=1)
    rest = true - design @ np.linalg.lstsq(design, true, rcond=None)[0]
    return 1.0 - rest.var(axis=0) / true.var(axis=0)


@pytest.mark.parametrize("dimensions", [1, 2])
def test_a_fit_recovers_what_the_answers_were_drawn_from(dimensions):
    truth, answers = simulated(dimensions=dimensions)
    bank = irt.fit(answers, dimensions=dimensions, ridge=0.5)
    assert (explained(bank.theta, truth.theta) > 0.9).all()
    assert (explained(bank.a, truth.a) > 0.6).all()
    assert explained(bank.b[:, None], truth.b[:, None]) > 0.9
    apart = bank.probabilities(bank.theta) - truth.probabilities(truth.theta)
    assert np.abs(apart).mean() < 0.05


def test_a_fit_recovers_from_a_tenth_of_the_answers():
    truth, answers = simulated(dimensions=1, unseen=0.9)
    bank = irt.fit(answers, dimensions=1, ridge=1.0)
    assert explained(bank.theta, truth.theta)[0] > 0.6
    apart = bank.probabilities(bank.theta) - truth.probabilities(truth.theta)
    chance = np.nanmean(answers) - truth.probabilities(truth.theta)
    assert np.abs(apart).mean() < 0.6 * np.abs(chance).mean()


def test_a_fit_ends_where_no_parameter_can_be_improved():
    _, answers = simulated(models=40, items=30, unseen=0.3)
    bank = irt.fit(answers, dimensions=2, ridge=1.0)
    seen, y = ~np.isnan(answers), np.nan_to_num(answers)
    items = np.column_stack([bank.a, bank.b])
    best = irt.posterior(bank.theta, items, seen, y, 1.0)
    rng = np.random.default_rng(1)
    for _ in range(200):
        theta = bank.theta + rng.normal(scale=0.1, size=bank.theta.shape)
        moved = items + rng.normal(scale=0.1, size=items.shape)
        assert irt.posterior(theta, items, seen, y, 1.0) < best
        assert irt.posterior(bank.theta, moved, seen, y, 1.0) < best


def test_gradients_are_those_of_finite_differences():
    rng = np.random.default_rng(0)
    problem = irt.Problem(
        features=rng.normal(size=(7, 3)),
        offset=rng.normal(size=7),
        seen=(rng.random((4, 7)) < 0.7).astype(float),
        y=(rng.random((4, 7)) < 0.5).astype(float),
        centre=rng.normal(size=3),
        precision=0.3,
    )
    rows = rng.normal(size=(4, 3))
    gradient = problem.gradient(rows)
    step = 1e-6
    for column in range(3):
        moved = np.zeros(3)
        moved[column] = step
        slope = (problem.value(rows + moved) - problem.value(rows - moved)) / (2 * step)
        assert gradient[:, column] == pytest.approx(slope, abs=1e-7)


def test_an_item_that_nobody_answered_is_taken_for_an_average_one():
    _, answers = simulated(models=30, items=20)
    answers[:, 4] = np.nan
    bank = irt.fit(answers, dimensions=2, ridge=1.0)
    others = np.arange(20) != 4
    assert bank.a[4] == pytest.approx([1.0, 0.0])
    assert bank.b[4] == pytest.approx(bank.b[others].mean(), abs=1e-2)


def test_a_model_that_answered_nothing_stays_at_the_prior():
    _, answers = simulated(models=30, items=20)
    answers[3] = np.nan
    assert irt.fit(answers, dimensions=2, ridge=1.0).theta[3] == pytest.approx([0.0, 0.0])


def test_strange_answers_are_refused():
    with pytest.raises(ValueError, match=r"expected 0 \(wrong\) or 1 \(right\), got 0.5"):
        irt.fit(np.array([[0.0, 0.5]]), dimensions=1, ridge=1.0)
    with pytest.raises(ValueError, match="at least one answer"):
        irt.fit(np.full((2, 2), np.nan), dimensions=1, ridge=1.0)


def test_information_is_the_curvature_of_the_likelihood():
    truth, _ = simulated(models=1, items=5)
    theta, step = truth.theta[0], 1e-4

    def logits(at):
        return truth.a @ at - truth.b

    expected = np.zeros(5)
    for moved in np.eye(2) * step:
        # the second derivative of -log(1 + exp(x)), whatever the answer
        around = [np.logaddexp(0.0, logits(theta + sign * moved)) for sign in (-1, 0, 1)]
        expected += (around[0] - 2 * around[1] + around[2]) / step**2
    assert truth.information(theta) == pytest.approx(expected, abs=1e-5)


def test_estimates_of_simulated_merges_beat_the_plain_mean_and_know_their_error():
    truth, _ = simulated(models=4, items=400, seed=3)
    truth = irt.Bank(2.0 * truth.a, 2.0 * truth.b, truth.theta)
    rng = np.random.default_rng(4)
    bank, parents = truth, truth.theta[:2]
    errors, covered = {"mean": [], "gmp": []}, []
    for _ in range(200):
        shares = rng.dirichlet([1.0, 1.0])
        answers = (rng.random(400) < truth.probabilities(shares @ parents)).astype(float)
        places = rng.choice(400, 20, replace=False)
        seen = answers[places]
        found = irt.mixture_ability(bank, parents, places, seen)
        estimate = irt.estimate(bank, found, places, seen, share=irt.SHARE)
        errors["mean"].append(abs(seen.mean() - answers.mean()))
        errors["gmp"].append(abs(estimate.value - answers.mean()))
        covered.append(errors["gmp"][-1] <= 1.96 * estimate.stderr)
    assert np.mean(errors["gmp"]) < 0.8 * np.mean(errors["mean"])
    assert 0.9 <= np.mean(covered) <= 1.0


def test_the_ability_of_a_mixture_is_found_between_its_parents():
    truth, _ = simulated(models=2, items=400, dimensions=2)
    answers = (truth.probabilities(truth.theta.mean(axis=0)) > 0.5).astype(float)
    found = irt.mixture_ability(truth, truth.theta, np.arange(400), answers, beside=0.0)
    assert found.theta == pytest.approx(truth.theta.mean(axis=0), abs=0.35)


# The item bank of a campaign.


def score(values, name="task") -> Score:
    values = tuple(float(one) for one in values)
    mean = sum(values) / len(values)
    task = TaskScore(value=mean, stderr=None, documents=len(values), per_document=values)
    return Score(fitness=mean, tasks={name: task})


class World:
    """References and candidates of which all answers are known."""

    def __init__(self, items=200, candidates=120, seed=0):
        rng = np.random.default_rng(seed)
        a = rng.normal(2.0, 1.5, size=(items, 2))
        parents = np.array([[1.5, -1.0], [-1.0, 1.5], [0.3, 0.3]])
        shares = rng.dirichlet([1.0, 1.0, 1.0], size=candidates)
        bank = irt.Bank(a, rng.normal(scale=2.0, size=items), parents)
        theta = np.concatenate([parents, shares @ parents])
        answers = (rng.random((len(theta), items)) < bank.probabilities(theta)).astype(float)
        self.references = [(f"r{index + 1}", score(row)) for index, row in enumerate(answers[:3])]
        self.candidates = answers[3:]
        self.items = items

    def start(self, settings: ItemBank) -> ItemMemory:
        facts = TaskFacts(documents=self.items, rows="hash", is_mean=True)
        return settings.start({"task": facts}, {"task": 1.0}, 7)

    def measure(self, settings, memory, number):
        documents = settings.choose(memory, number)
        return documents, score(self.candidates[number][list(documents["task"])])


SETTINGS = ItemBank(documents=15, dimensions=2, refit=40)


def test_the_registry_knows_the_item_bank():
    assert ESTIMATORS.load("irt") is ItemBank


def test_documents_before_a_fit_have_equal_shares_of_the_labels():
    strata = tuple("abcd"[index % 4] for index in range(80))
    facts = TaskFacts(documents=80, rows="hash", strata=strata, is_mean=True)
    memory = SETTINGS.start({"task": facts}, {"task": 1.0}, 1)
    settings = ItemBank(documents=20)
    chosen = settings.choose(memory, 3)["task"]
    assert len(set(chosen)) == 20
    assert [sum(strata[place] == label for place in chosen) for label in "abcd"] == [5] * 4
    assert settings.choose(memory, 3)["task"] == chosen != settings.choose(memory, 4)["task"]


def test_without_a_fit_the_estimate_is_the_plain_mean():
    world = World()
    memory = world.start(SETTINGS)
    documents, measured = world.measure(SETTINGS, memory, 0)
    found = SETTINGS.estimate(memory, measured, documents, [])
    assert found.fitness == pytest.approx(measured.fitness)
    assert found.fidelity == pytest.approx(15 / 200)
    assert found.stderr > 0


def test_all_documents_give_the_score_itself():
    world = World()
    memory = SETTINGS.learn(world.start(SETTINGS), [], world.references)
    whole = score(world.candidates[0])
    documents = {"task": tuple(range(200))}
    found = SETTINGS.estimate(memory, whole, documents, [])
    assert (found.fitness, found.stderr, found.fidelity) == (whole.fitness, 0.0, 1.0)


def test_chosen_documents_treat_the_references_as_all_documents_do():
    world = World()
    memory = SETTINGS.learn(world.start(SETTINGS), [], world.references)
    rng = np.random.default_rng(0)

    def off(places):
        return [
            abs(np.mean(np.array(one.tasks["task"].per_document)[places]) - one.fitness)
            for _, one in world.references
        ]

    chosen = [off(list(SETTINGS.choose(memory, number)["task"])) for number in range(30)]
    at_random = [off(rng.choice(200, 15, replace=False)) for _ in range(30)]
    assert np.mean(chosen) < 0.4 * np.mean(at_random)


def test_estimates_from_the_campaigns_own_answers_beat_the_plain_mean_of_random_documents():
    world = World()
    memory = SETTINGS.learn(world.start(SETTINGS), [], world.references)
    rng = np.random.default_rng(1)
    errors, plain, covered = [], [], []
    for number, answers in enumerate(world.candidates):
        documents, measured = world.measure(SETTINGS, memory, number)
        found = SETTINGS.estimate(memory, measured, documents, ["r1", "r2"])
        errors.append(abs(found.fitness - answers.mean()))
        covered.append(errors[-1] <= 1.96 * found.stderr)
        at_random = [rng.choice(answers, 15, replace=False).mean() for _ in range(10)]
        plain.append(np.abs(at_random - answers.mean()).mean())
        memory = SETTINGS.learn(memory, [(f"s{number}", documents, measured)])
    assert np.mean(errors) < 0.9 * np.mean(plain)
    assert np.mean(covered) > 0.88


def test_the_bank_is_fitted_when_it_is_due_and_not_before():
    world = World()
    settings = ItemBank(documents=15, dimensions=1, refit=3)
    memory = settings.learn(world.start(settings), [], world.references)
    first = memory.tasks[0].fitted
    for number in range(2):
        memory = settings.learn(memory, [(f"s{number}", *world.measure(settings, memory, number))])
        assert memory.tasks[0].fitted is first
    memory = settings.learn(memory, [("s2", *world.measure(settings, memory, 2))])
    assert memory.tasks[0].fitted != first
    assert memory.num_new == 0


def test_without_references_the_bank_is_fitted_to_the_candidates_alone():
    world = World()
    settings = ItemBank(documents=30, dimensions=1, refit=20)
    memory = world.start(settings)
    rows = [(f"s{number}", *world.measure(settings, memory, number)) for number in range(20)]
    memory = settings.learn(memory, rows)
    documents, measured = world.measure(settings, memory, 21)
    found = settings.estimate(memory, measured, documents, [])
    assert 0.0 <= found.fitness <= 1.0
    assert found.fitness != measured.fitness


def test_memory_is_bounded_and_survives_json():
    world = World(items=30)
    settings = ItemBank(documents=3, dimensions=1, refit=10_000)
    memory = settings.learn(world.start(settings), [], world.references)
    rows = []
    for number in range(MAX_ROWS + 20):
        documents = settings.choose(memory, number)
        answers = world.candidates[number % 120][list(documents["task"])]
        rows.append((f"s{number}", documents, score(answers)))
    memory = settings.learn(memory, rows)
    (task,) = memory.tasks
    assert len(task.rows) == MAX_ROWS
    assert task.rows[-1].candidate == f"s{MAX_ROWS + 19}"
    plain = json.loads(json.dumps(settings.to_plain(memory)))
    assert settings.from_plain(plain) == memory


def test_a_candidate_learned_again_takes_its_own_place():
    world = World()
    memory = SETTINGS.learn(world.start(SETTINGS), [], world.references)
    documents, measured = world.measure(SETTINGS, memory, 0)
    whole = {"task": tuple(range(200))}
    memory = SETTINGS.learn(memory, [("s1", documents, measured)])
    memory = SETTINGS.learn(memory, [("s1", whole, score(world.candidates[0]))])
    assert [row.candidate for row in memory.tasks[0].rows] == ["s1"]
    again = SETTINGS.learn(memory, [], world.references)
    assert len(again.tasks[0].references) == 3


def test_the_fitness_is_the_weighted_sum_of_the_tasks():
    facts = TaskFacts(documents=40, rows="hash", is_mean=True)
    settings = ItemBank(documents=10)
    memory = settings.start({"a": facts, "b": facts}, {"a": 2.0, "b": -0.5}, 0)
    documents = settings.choose(memory, 1)
    assert documents["a"] != documents["b"]
    a, b = score([1] * 8 + [0] * 2, "a"), score([1] * 4 + [0] * 6, "b")
    both = Score(fitness=1.4, tasks={**a.tasks, **b.tasks})
    assert settings.estimate(memory, both, documents, []).fitness == pytest.approx(1.4)


def test_values_that_are_neither_right_nor_wrong_are_refused():
    world = World()
    memory = world.start(SETTINGS)
    documents = {"task": (4, 9)}
    with pytest.raises(ValueError, match=r"task 'task'.*document 9 has 0.5"):
        SETTINGS.estimate(memory, score([1, 0.5]), documents, [])
    with pytest.raises(ValueError, match=r"task 'task' has 1 results for 2 documents"):
        SETTINGS.learn(memory, [("s1", documents, score([1]))])
    facts = TaskFacts(documents=40, rows="hash", is_mean=False)
    with pytest.raises(ValueError, match=r"task 'perplexity' must have a value"):
        SETTINGS.start({"perplexity": facts}, {"perplexity": 1.0}, 0)
