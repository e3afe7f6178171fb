"""What every selection, crossover, mutation and algorithm owes, whichever the registry lists."""

from __future__ import annotations

import random
from dataclasses import replace
from itertools import pairwise
from statistics import median

import numpy as np
import pytest

from orchestrator.algorithms.base import ALGORITHMS, Evaluated, Memory, as_asynchronous
from orchestrator.algorithms.cma_es import CmaEs
from orchestrator.algorithms.genetic import Genetic
from orchestrator.algorithms.grid import Grid
from orchestrator.algorithms.portfolio import Portfolio
from orchestrator.campaign.fold import handle, start
from orchestrator.campaign.state import Campaign, Limits
from orchestrator.operators.crossover import CROSSOVERS
from orchestrator.operators.mutation import MUTATIONS
from orchestrator.operators.selection import SELECTIONS
from orchestrator.spaces.genes import (
    Genes,
    Permutation,
    Real,
    reals,
)
from tests.conftest import FakeSpace, mixed_genes

FITNESS = [5.0, 4.0, 4.0, 1.0, 0.0, -3.0]


def line(*ranges: float) -> Genes:
    """Real genes between 0 and these numbers."""
    names = [f"x{index}" for index in range(len(ranges))]
    return reals(names, [0.0] * len(ranges), ranges)


#: Genes of every kind, some of which count only at times.
MIXED = mixed_genes()
KINDS = pytest.mark.parametrize("genes", [line(3.0, 1.0, 2.0, 5.0), MIXED], ids=["real", "mixed"])


def frozen(values) -> np.ndarray:
    numbers = np.array(values, dtype=np.float64)
    numbers.flags.writeable = False
    return numbers


def parts(registry):
    return pytest.mark.parametrize("part", [registry.load(name) for name in registry.addresses])


@pytest.fixture
def _global_randomness_untouched():
    numpy_before, python_before = np.random.get_state(), random.getstate()  # noqa: NPY002
    yield
    assert str(np.random.get_state()) == str(numpy_before)  # noqa: NPY002
    assert random.getstate() == python_before


pytestmark = pytest.mark.usefixtures("_global_randomness_untouched")


@parts(SELECTIONS)
def test_a_selection_draws_as_many_members_as_asked_for(part):
    for population in (1, 2, len(FITNESS)):
        for num in (1, 2, 7):
            drawn = part()(FITNESS[:population], num, np.random.default_rng(1))
            assert len(drawn) == num
            assert all(isinstance(index, int) and 0 <= index < population for index in drawn)


@parts(SELECTIONS)
def test_a_selection_prefers_the_better(part):
    num = 6000
    drawn = part()(FITNESS, num, np.random.default_rng(2))
    counts = np.bincount(drawn, minlength=len(FITNESS))
    chance = 4 * np.sqrt(num)
    assert all(better >= worse - chance for better, worse in pairwise(counts))
    assert counts[:3].sum() > counts[3:].sum() + chance


@parts(SELECTIONS)
def test_a_selection_takes_any_fitness(part):
    for fitness in ([0.0] * 5, [-1.0, -1e9, -1e9], [1e308, 0.0, -1e308], [1e-300, -1e-300]):
        drawn = part()(fitness, 300, np.random.default_rng(1))
        assert set(drawn) <= set(range(len(fitness)))
        assert drawn.count(0) >= 300 / len(fitness) - 40


@parts(SELECTIONS)
def test_a_selection_is_decided_by_the_generator_alone(part):
    one, same, other = (part()(FITNESS, 40, np.random.default_rng(seed)) for seed in (3, 3, 4))
    assert one == same
    assert one != other


@parts(CROSSOVERS)
@KINDS
def test_a_child_is_a_genome_once_repaired(part, genes):
    for seed in range(200):
        rng = np.random.default_rng(seed)
        a, b = (frozen(genome) for genome in genes.sample(rng, 2))
        child = part(probability=1.0)(a, b, genes, rng)
        assert child.shape == a.shape
        assert genes.repair(np.asarray(genes.repair(child))) == genes.repair(child)


@parts(CROSSOVERS)
def test_orders_are_mixed_as_orders(part):
    genes = Genes((Permutation(name="order", size=7), Real(name="x", low=0.0, high=1.0)))
    for seed in range(100):
        rng = np.random.default_rng(seed)
        a, b = (frozen(genome) for genome in genes.sample(rng, 2))
        child = part(probability=1.0)(a, b, genes, rng)
        assert sorted(child[:7]) == list(range(7)), "items are neither lost nor doubled"


@parts(CROSSOVERS)
def test_every_kind_of_gene_is_had_from_either_parent_at_times(part):
    rng = np.random.default_rng(0)
    ours, theirs = (np.zeros(len(MIXED.names), dtype=bool) for _ in range(2))
    for _ in range(400):
        a, b = (frozen(genome) for genome in MIXED.sample(rng, 2))
        child = np.asarray(MIXED.repair(part(probability=1.0)(a, b, MIXED, rng)))
        ours |= (child != b) & (a != b)
        theirs |= (child != a) & (a != b)
        is_choice = MIXED.whole & ~MIXED.numeric
        first, end = MIXED.permutations[0]
        is_choice[first:end] = False
        assert np.all((child == a) | (child == b) | ~is_choice), "a choice is one of the parents'"
    assert ours.all()
    assert theirs.all()


@parts(CROSSOVERS)
def test_a_child_mixes_both_parents(part):
    genes = line(1.0, 1.0, 1.0, 1.0)
    a, b = frozen([0.0] * 4), frozen([1.0] * 4)
    children = [
        part(probability=1.0)(a, b, genes, np.random.default_rng(seed)) for seed in range(400)
    ]
    mean = float(np.mean(children))
    assert 0.15 < mean < 0.85
    assert any(float(np.ptp(child)) > 0 for child in children)


@parts(CROSSOVERS)
@KINDS
def test_equal_parents_have_an_equal_child(part, genes):
    for seed in range(50):
        rng = np.random.default_rng(seed)
        (genome,) = genes.sample(rng, 1)
        child = part(probability=1.0)(frozen(genome), frozen(genome), genes, rng)
        np.testing.assert_allclose(genes.repair(child), genome, rtol=1e-9, atol=1e-12)


@parts(CROSSOVERS)
def test_parents_are_crossed_as_often_as_the_probability_says(part):
    genes, a, b = line(1.0, 1.0, 1.0), frozen([0.0] * 3), frozen([1.0] * 3)

    def crossed(probability: float) -> int:
        made = part(probability=probability)
        return sum(made(a, b, genes, np.random.default_rng(s)) is not None for s in range(400))

    assert crossed(0.0) == 0
    assert crossed(1.0) == 400
    assert 140 < crossed(0.5) < 260


@parts(CROSSOVERS)
def test_a_crossover_is_decided_by_the_generator_alone(part):
    genes, a, b = line(*[1.0] * 8), frozen([0.0] * 8), frozen([1.0] * 8)
    one, same, other = (
        part(probability=1.0)(a, b, genes, np.random.default_rng(seed)) for seed in (3, 3, 4)
    )
    np.testing.assert_array_equal(one, same)
    assert not np.array_equal(one, other)


@parts(MUTATIONS)
@KINDS
def test_a_mutation_always_changes_something_and_not_its_input(part, genes):
    for seed in range(300):
        rng = np.random.default_rng(seed)
        (genome,) = genes.sample(rng, 1)
        changed = part()(frozen(genome), genes, rng)
        assert changed.shape == (len(genome),)
        assert np.any(changed != genome)
        assert np.all(np.isfinite(changed))
        repaired = genes.repair(changed)
        assert genes.repair(np.asarray(repaired)) == repaired


@parts(MUTATIONS)
def test_every_kind_of_gene_is_mutated_at_times(part):
    rng, touched = np.random.default_rng(0), np.zeros(len(MIXED.names), dtype=bool)
    for _ in range(400):
        (genome,) = MIXED.sample(rng, 1)
        touched |= np.asarray(MIXED.repair(part()(frozen(genome), MIXED, rng))) != genome
    assert touched.all(), [name for name, yes in zip(MIXED.names, touched, strict=True) if not yes]


@parts(MUTATIONS)
def test_a_mutated_order_has_the_same_items(part):
    (first, end), rng = MIXED.permutations[0], np.random.default_rng(0)
    for probability in (None, 0.5, 1.0):
        for genome in MIXED.sample(rng, 50):
            changed = part(probability=probability)(frozen(genome), MIXED, rng)
            assert sorted(changed[first:end]) == list(range(end - first))


@parts(MUTATIONS)
def test_a_mutation_that_is_certain_changes_every_gene_but_parts_of_orders(part):
    (first, end), rng = MIXED.permutations[0], np.random.default_rng(0)
    for genome in MIXED.sample(rng, 50):
        changed = part(probability=1.0)(frozen(genome), MIXED, rng) != genome
        assert changed[first:end].any()
        assert np.delete(changed, range(first, end)).all()


@parts(MUTATIONS)
def test_a_mutation_changes_one_gene_of_a_genome_on_average(part):
    genes, values = line(*[1.0] * 20), frozen([0.0] * 20)
    changed = [
        np.count_nonzero(part()(values, genes, np.random.default_rng(s))) for s in range(500)
    ]
    assert 0.9 < np.mean(changed) < 1.8
    every = part(probability=1.0)(values, genes, np.random.default_rng(0))
    assert np.count_nonzero(every) == 20


@parts(MUTATIONS)
def test_a_mutation_is_a_share_of_each_genes_range(part):
    genes, values = line(1.0, 100.0), frozen([0.0, 0.0])
    changed = np.array(
        [part(probability=1.0)(values, genes, np.random.default_rng(s)) for s in range(500)]
    )
    spread = np.abs(changed).mean(axis=0)
    assert 50 < spread[1] / spread[0] < 200


@parts(MUTATIONS)
def test_a_mutation_is_decided_by_the_generator_alone(part):
    genes, values = line(3.0, 3.0, 3.0), frozen([0.5, 1.5, 1.0])
    one, same, other = (part()(values, genes, np.random.default_rng(s)) for s in (3, 3, 4))
    np.testing.assert_array_equal(one, same)
    assert not np.array_equal(one, other)


def told(algorithm, genes, generations=2):
    """Memory after some generations of the sphere."""
    memory, number = Memory(), 0
    for generation in range(1, generations + 1):
        proposals = algorithm.ask(genes, memory, np.random.default_rng([5, generation]))
        evaluated = []
        for proposal in proposals:
            number += 1
            fitness = -sum(gene * gene for gene in proposal.genome)
            evaluated.append(
                Evaluated(
                    candidate=f"s{number}", number=number, genome=proposal.genome, fitness=fitness
                )
            )
        memory = algorithm.tell(memory, evaluated)
    return memory


@parts(ALGORITHMS)
def test_an_algorithm_asks_within_bounds_and_as_many_as_it_says(part, fake_space):
    genes, algorithm = fake_space().genes, part(population_size=10)
    for generation in (1, 2, 3):
        memory = told(algorithm, genes, generation - 1)
        proposals = algorithm.ask(genes, memory, np.random.default_rng(generation))
        assert len(proposals) == algorithm.size(generation)
        for proposal in proposals:
            assert all(
                low <= gene <= high
                for gene, low, high in zip(proposal.genome, genes.lower, genes.upper, strict=True)
            )
            assert all(type(gene) is float for gene in proposal.genome)
            assert proposal.operator


@parts(ALGORITHMS)
def test_asking_changes_nothing_and_is_decided_by_the_generator(part, fake_space):
    genes, algorithm = fake_space().genes, part(population_size=10)
    memory = told(algorithm, genes)
    one, same, other = (algorithm.ask(genes, memory, np.random.default_rng(s)) for s in (3, 3, 4))
    assert one == same
    assert one != other or part is Grid, "only a grid leaves nothing to chance"
    assert memory == told(algorithm, genes)


@parts(ALGORITHMS)
def test_telling_does_not_depend_on_the_order_and_drops_the_failed(part, fake_space):
    genes, algorithm = fake_space().genes, part(population_size=10)
    genomes = genes.sample(np.random.default_rng(0), 10)
    evaluated = [
        Evaluated(
            candidate=f"s{number}",
            number=number,
            genome=genome,
            fitness=None if number % 3 == 0 else float(number % 4),
        )
        for number, genome in enumerate(genomes, start=1)
    ]
    memory = algorithm.tell(Memory(), evaluated)
    assert memory == algorithm.tell(Memory(), evaluated[::-1])
    assert all(member.fitness is not None for member in memory.members)
    ranks = [(-member.fitness, member.number) for member in memory.members]
    assert ranks == sorted(ranks)


@parts(ALGORITHMS)
def test_an_algorithm_survives_a_generation_that_failed_as_a_whole(part, fake_space):
    genes, algorithm = fake_space().genes, part(population_size=4)
    genomes = genes.sample(np.random.default_rng(0), 4)
    lost = [
        Evaluated(candidate=f"s{number}", number=number, genome=genome, fitness=None)
        for number, genome in enumerate(genomes, start=1)
    ]
    memory = algorithm.tell(Memory(), lost)
    assert algorithm.ask(genes, memory, np.random.default_rng(1))


#: Algorithms that can also run without generations, set to do so.
STEADY = [
    part(population_size=10, mode="async")
    for part in map(ALGORITHMS.load, ALGORITHMS.addresses)
    if hasattr(part, "ask_one")
]
steady = pytest.mark.parametrize("algorithm", STEADY)
#: Of those, the ones for which the order of outcomes changes nothing.
IN_ANY_ORDER = [one for one in STEADY if not isinstance(one, CmaEs | Portfolio)]


@parts(ALGORITHMS)
def test_an_algorithm_waits_for_its_generations_unless_it_is_told_otherwise(part):
    assert as_asynchronous(part(population_size=10)) is None


@steady
def test_an_asynchronous_algorithm_asks_for_one_more_within_bounds(algorithm, fake_space):
    assert as_asynchronous(algorithm) is algorithm
    assert algorithm.size(1) == algorithm.size(7) == 10
    genes = fake_space().genes
    for memory in (Memory(), told(algorithm, genes)):
        known = {member.candidate for member in memory.everyone}
        one, same, other = (
            algorithm.ask_one(genes, memory, np.random.default_rng(seed)) for seed in (3, 3, 4)
        )
        assert one == same
        assert one != other
        assert set(one.parents) <= known
        assert genes.repair(np.asarray(one.genome)) == one.genome
        assert all(type(gene) is float for gene in one.genome)


class WarmSpace(FakeSpace):
    """A box that knows a sensible genome."""

    @property
    def genes(self) -> Genes:
        return replace(super().genes, start=(0.5, 0.5, 0.5))


@pytest.mark.parametrize("algorithm", [one for one in STEADY if hasattr(one, "warm_start")])
def test_a_warm_start_counts_as_long_as_nobody_has_been_measured(algorithm):
    space, limits = WarmSpace(), Limits(evaluations=40)
    campaign = Campaign(space=space, algorithm=algorithm, seed=1, limits=limits)
    first = start(campaign).candidates
    assert sum(one.operator == "start" for one in first) == 5
    assert space.genes.start in [one.genome for one in first]
    for share, expected in ((0.0, {"sample"}), (0.5, {"sample", "start"}), (1.0, {"start"})):
        warm = replace(algorithm, warm_start=share)
        drawn = [
            warm.ask_one(space.genes, Memory(), np.random.default_rng(seed)) for seed in range(30)
        ]
        assert {one.operator for one in drawn} == expected


@pytest.mark.parametrize("algorithm", IN_ANY_ORDER)
def test_an_asynchronous_algorithm_knows_the_best_in_whatever_order_they_came(
    algorithm, fake_space
):
    genomes = fake_space().genes.sample(np.random.default_rng(0), 25)
    evaluated = [
        Evaluated(
            candidate=f"s{number}", number=number, genome=genome,
            fitness=None if number % 5 == 0 else float(number % 7),
        )
        for number, genome in enumerate(genomes, start=1)
    ]  # fmt: skip
    found = []
    for seed in range(5):
        memory = Memory()
        for one in random.Random(seed).sample(evaluated, len(evaluated)):
            memory = algorithm.tell(memory, [one])
        found.append(memory)
    assert all(memory == found[0] == algorithm.tell(Memory(), evaluated) for memory in found)
    measured = [one for one in evaluated if one.fitness is not None]
    assert found[0].members[0] == max(measured, key=lambda one: one.rank)
    if isinstance(algorithm, Genetic):  # an archive has as many as there are cells with someone
        assert len(found[0].members) == 10


def best_on_a_sphere(algorithm, space, score, seed: int) -> float:
    limits = Limits(evaluations=300)
    campaign = Campaign(space=space, algorithm=algorithm, seed=seed, limits=limits)
    step = start(campaign)
    jobs, state = list(step.jobs), step.state
    while jobs:
        step = handle(campaign, state, score(jobs.pop()))
        state = step.state
        jobs += step.jobs
    assert state.proposed == 300
    return state.best["search"].fitness


def test_genetic_search_clearly_beats_random_search(fake_space, score):
    def typical(kind: str) -> float:
        algorithm = ALGORITHMS.load(kind)(population_size=20)
        space = fake_space(dim=10)
        return median(best_on_a_sphere(algorithm, space, score, seed) for seed in range(5))

    assert typical("genetic") > typical("random") / 3  # fitness is negative: a third of the way


def test_the_elite_is_never_lost(fake_space, score):
    genetic = ALGORITHMS.load("genetic")(population_size=6, elites=1)
    genes = fake_space().genes
    best = [told(genetic, genes, generations).members[0].fitness for generations in range(1, 12)]
    assert best == sorted(best)


def test_the_genetic_algorithm_measures_no_genome_twice(fake_space):
    genetic = ALGORITHMS.load("genetic")(population_size=12, elites=2)
    genes = fake_space().genes
    memory = told(genetic, genes, 4)
    asked = [one.genome for one in genetic.ask(genes, memory, np.random.default_rng(0))]
    assert len(set(asked)) == len(asked)
    assert not set(asked) & {member.genome for member in memory.members}
