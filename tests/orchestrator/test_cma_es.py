"""CMA-ES: reaches optima inside and on the bounds, and goes on from its memory alone."""

from __future__ import annotations

import json
import math
import sys
from dataclasses import replace

import numpy as np
import pytest

from orchestrator.algorithms import cma_es, cma_es_run
from orchestrator.algorithms.base import Evaluated, Memory
from orchestrator.algorithms.cma_es import CmaEs
from orchestrator.algorithms.random_search import RandomSearch
from orchestrator.campaign import snapshot
from orchestrator.campaign.fold import handle, start
from orchestrator.campaign.state import Campaign, Limits
from orchestrator.spaces.genes import (
    Genes,
    reals,
)
from tests.conftest import mixed_genes


def sphere(z):
    return float(z @ z)


def ellipsoid(z):
    return float(np.sum(10 ** (6 * np.arange(len(z)) / (len(z) - 1)) * z * z))


def rosenbrock(z):
    x = z + 1
    return float(np.sum(100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2))


def box(dim: int, start=None) -> Genes:
    return reals([f"x{index}" for index in range(dim)], [-5.0] * dim, [5.0] * dim, start)


def search(algorithm, genes, fitness, evaluations: int, seed: int = 0):
    """Returns the memory, and the best fitness after each evaluation."""
    memory, number, curve = Memory(), 0, []
    generation = 0
    while number < evaluations:
        generation += 1
        evaluated = []
        for proposal in algorithm.ask(genes, memory, np.random.default_rng([seed, generation])):
            number += 1
            worth = fitness(proposal.genome)
            known = [one for one in (worth, *curve[-1:]) if one is not None]
            curve.append(max(known, default=-math.inf))
            evaluated.append(
                Evaluated(
                    candidate=f"s{number}", number=number, genome=proposal.genome, fitness=worth
                )
            )
        memory = algorithm.tell(memory, evaluated)
    return memory, curve


def away_from(optimum, function):
    return lambda genome: -function(np.asarray(genome) - optimum)


def restored(memory: Memory) -> Memory:
    """The memory as a snapshot brings it back."""
    state = json.loads(json.dumps(dict(memory.state)))
    return Memory(memory.members, state, tuple(restored(part) for part in memory.parts))


@pytest.fixture
def forgetful(monkeypatch):
    """Forgets what this process has computed."""
    return lambda: monkeypatch.setattr(cma_es, "_CACHE", cma_es._Cache())


INSIDE = np.array([1.5, -2.0, 0.5, 3.0, -3.5, 2.5, -1.0, 0.0, -2.5, 1.0])
EDGES = np.array([5.0, -5.0, 5.0, 5.0, -5.0, -5.0, 5.0, -5.0, 5.0, -5.0])
#: Near bounds that do not hold it back.
BY_EDGES = 0.98 * EDGES


@pytest.mark.parametrize(
    ("function", "optimum", "evaluations"),
    [
        (sphere, INSIDE, 1000),
        (ellipsoid, INSIDE, 4500),
        (rosenbrock, INSIDE, 7500),
        (sphere, EDGES, 500),
        (ellipsoid, EDGES, 2500),
        (rosenbrock, EDGES, 2500),
        (sphere, BY_EDGES, 2500),
        (ellipsoid, BY_EDGES, 6500),
    ],
)
def test_it_comes_within_a_thousandth_of_the_optimum(function, optimum, evaluations):
    _, curve = search(CmaEs(), box(10), away_from(optimum, function), evaluations)
    assert curve[-1] >= -1e-3


def test_a_diagonal_covariance_is_enough_where_genes_are_independent():
    settings = CmaEs(covariance="diagonal")
    optimum = np.resize(INSIDE, 40)
    _, curve = search(settings, box(40), away_from(optimum, ellipsoid), 9000)
    assert curve[-1] >= -1e-3


def test_many_genes_are_searched_without_their_dependences():
    genes = box(400)
    memory, curve = search(CmaEs(), genes, away_from(np.resize(INSIDE, 400), sphere), 2000)
    assert curve[-1] > 0.6 * curve[0]
    assert CmaEs().ask(genes, memory, np.random.default_rng(0))[0] in CmaEs(
        covariance="diagonal"
    ).ask(genes, memory, np.random.default_rng(0))


def test_it_begins_about_the_known_start():
    begun = tuple(INSIDE.tolist())
    for where, centre in (("space", INSIDE), ("center", np.zeros(10))):
        settings = CmaEs(population_size=200, start=where, sigma=0.02)
        asked = settings.ask(box(10, begun), Memory(), np.random.default_rng(1))
        mean = np.mean([one.genome for one in asked], axis=0)
        np.testing.assert_allclose(mean, centre, atol=0.1)


def test_a_random_start_goes_on_about_the_best_of_the_first_generation():
    settings, genes = CmaEs(population_size=30, start="random", sigma=0.02), box(10)
    memory, _ = search(settings, genes, away_from(INSIDE, sphere), 30)
    first = np.array([one.genome for one in memory.members])
    assert np.ptp(first, axis=0).min() > 5, "anywhere"
    asked = settings.ask(genes, memory, np.random.default_rng(0))
    mean = np.mean([one.genome for one in asked], axis=0)
    np.testing.assert_allclose(mean, memory.members[0].genome, atol=0.3)


@pytest.mark.parametrize("settings", [CmaEs(), CmaEs(population_size=8, mode="async")])
def test_a_memory_that_was_stored_goes_on_exactly_as_it_would_have(settings, forgetful):
    genes = mixed_genes(order=4)
    memory, _ = search(settings, genes, merit(genes), 700)
    asked = settings.ask(genes, memory, np.random.default_rng(7))
    again = settings.ask(genes, memory, np.random.default_rng(7))
    forgetful()
    assert restored(memory) == memory
    assert asked == again == settings.ask(genes, restored(memory), np.random.default_rng(7))


def test_an_older_memory_asks_the_same_after_newer_ones_were_asked():
    settings, genes = CmaEs(), box(5)
    old, _ = search(settings, genes, away_from(INSIDE[:5], sphere), 80)
    before = settings.ask(genes, old, np.random.default_rng(3))
    search(settings, genes, away_from(INSIDE[:5], sphere), 300)
    assert settings.ask(genes, old, np.random.default_rng(3)) == before


def test_a_campaign_goes_on_from_a_snapshot(fake_space, score, forgetful):
    campaign = Campaign(
        space=fake_space(dim=4),
        algorithm=CmaEs(population_size=6),
        seed=3,
        limits=Limits(evaluations=200),
    )
    step = start(campaign)
    known = {one.id: one for one in step.candidates}
    state, jobs = step.state, list(step.jobs)
    for _ in range(60):
        step = handle(campaign, state, score(jobs.pop()))
        known |= {one.id: one for one in step.candidates}
        state, jobs = step.state, jobs + list(step.jobs)
    data = json.loads(json.dumps(snapshot.dump(campaign, state)))
    other = snapshot.restore(campaign, data, known, {})
    assert other.memory == state.memory
    proposed = [[], []]
    for at, begun in enumerate((state, other)):
        forgetful()
        current, waiting = begun, list(jobs)
        for _ in range(40):
            step = handle(campaign, current, score(waiting.pop()))
            proposed[at] += [one.genome for one in step.candidates]
            current, waiting = step.state, waiting + list(step.jobs)
    assert proposed[0] == proposed[1]
    assert len(proposed[0]) > 30


def merit(genes):
    """At most 0: every gene has one best value."""

    def fitness(genome):
        found = genes.values(genome)
        return -float(
            abs(found["weight"] - 1.3)
            + abs(math.log10(found["rate"]) + 2)
            + abs(found["layers"] - 7) / 4
            + abs(math.log2(found["width"] / 200))
            + {"linear": 1.5, "ties": 0.0, "dare": 0.8}[found["method"]]
            + (0.0 if found.get("normalize") else 0.7)
            + sum(ours != best for ours, best in zip(found["order"], (2, 0, 3, 1), strict=True)) / 3
            + abs(found.get("density", 1.0) - 0.25)
        )

    return fitness


def test_genes_of_every_kind_are_searched():
    genes = mixed_genes(order=4)
    found, lucky = [], []
    for seed in range(5):
        _, curve = search(CmaEs(population_size=20), genes, merit(genes), 1200, seed)
        _, control = search(RandomSearch(), genes, merit(genes), 1200, seed)
        found.append(curve[-1])
        lucky.append(control[-1])
    assert np.median(found) > 0.5 * np.median(lucky)
    assert np.median(found) > -0.8


def test_failed_candidates_are_avoided_and_do_no_harm():
    def fitness(genome):
        return None if genome[0] > 0 else -sphere(np.asarray(genome) + 2.0)

    settings = CmaEs(population_size=12)
    memory, curve = search(settings, box(5), fitness, 1500)
    assert curve[-1] >= -1e-3
    assert all(one.fitness is not None for one in memory.members)


def test_equal_fitness_is_told_apart_by_likelihood_not_by_arrival():
    settings, genes = CmaEs(population_size=20, sigma=0.1), box(2)
    asked = settings.ask(genes, Memory(), np.random.default_rng(0))
    told = [
        Evaluated(
            candidate=f"s{number}", number=number, genome=one.genome, fitness=0.5,
            tie=one.genome[0],
        )
        for number, one in enumerate(asked, start=1)
    ]  # fmt: skip
    memory = settings.tell(Memory(), told)
    following = settings.ask(genes, memory, np.random.default_rng(1))
    assert np.mean([one.genome[0] for one in following]) > 0.3


def test_a_stagnant_run_begins_again_with_twice_the_population():
    settings, genes = CmaEs(population_size=6), box(3)
    memory, _ = search(settings, genes, lambda genome: 0.0, 400)
    assert len(settings.ask(genes, memory, np.random.default_rng(0))) > 6
    alone = CmaEs(population_size=6, restarts="none")
    memory, _ = search(alone, genes, lambda genome: 0.0, 400)
    assert len(alone.ask(genes, memory, np.random.default_rng(0))) == 6


def test_late_outcomes_are_used_without_generations():
    settings, genes, rng = (
        CmaEs(population_size=10, mode="async"),
        box(10),
        np.random.default_rng(0),
    )
    memory, open_, best = Memory(), [], -math.inf
    for number in range(1, 1801):
        proposal = settings.ask_one(genes, memory, np.random.default_rng([1, number]))
        open_.append((number, proposal.genome))
        if len(open_) == 10:
            done, genome = open_.pop(int(rng.integers(10)))  # in any order
            worth = -sphere(np.asarray(genome) - INSIDE)
            best = max(best, worth)
            one = Evaluated(candidate=f"s{done}", number=done, genome=genome, fitness=worth)
            memory = settings.tell(memory, [one])
    assert best >= -1e-3


def test_a_missing_package_and_genes_without_an_optimum_are_named(monkeypatch):
    crossed = replace(box(2), founders=((0.0, 0.0), (1.0, 1.0)))
    with pytest.raises(ValueError, match="kind: 'cma_es' needs genes that say what a model is"):
        CmaEs().check(crossed)
    cma_es_run.pycma.cache_clear()
    monkeypatch.setitem(sys.modules, "cma", None)
    with pytest.raises(ValueError, match=r"kind: .*install shoal\[search\]"):
        CmaEs().check(box(2))


def test_without_generations_the_number_of_open_candidates_must_be_said():
    with pytest.raises(ValueError, match=r"population_size: expected a number in mode 'async'"):
        CmaEs(mode="async")
