"""A portfolio: its algorithms begin alike, and whoever earns more gets more."""

from __future__ import annotations

import json
from collections import Counter

import numpy as np
import pytest

from orchestrator.algorithms.base import Algorithm, Evaluated, Memory
from orchestrator.algorithms.cma_es import CmaEs
from orchestrator.algorithms.genetic import Genetic
from orchestrator.algorithms.grid import Grid
from orchestrator.algorithms.portfolio import Portfolio
from orchestrator.algorithms.random_search import RandomSearch
from orchestrator.config import ConfigError, as_dict, from_dict, schema
from orchestrator.spaces.genes import reals

GENES = reals([f"x{index}" for index in range(6)], [-5.0] * 6, [5.0] * 6)


def search(algorithm, evaluations: int, seed: int = 0, shuffle: int | None = None):
    """Searches the sphere about 1; returns the memory and all that was told."""
    memory, told, generation = Memory(), [], 0
    while len(told) < evaluations:
        generation += 1
        asked = algorithm.ask(GENES, memory, np.random.default_rng([seed, generation]))
        evaluated = [
            Evaluated(
                candidate=f"s{number}",
                number=number,
                genome=proposal.genome,
                fitness=-sum((gene - 1) ** 2 for gene in proposal.genome),
                operator=proposal.operator,
            )
            for number, proposal in enumerate(asked, start=len(told) + 1)
        ]
        told += evaluated
        if shuffle is not None:
            np.random.default_rng([shuffle, generation]).shuffle(evaluated)
        memory = algorithm.tell(memory, evaluated)
    return memory, told


def makers(told) -> Counter[str]:
    return Counter(one.operator.partition("@of")[2] for one in told)


def test_all_begin_alike():
    settings = Portfolio(
        population_size=12,
        algorithms=(CmaEs(), Genetic(population_size=8), RandomSearch()),
    )
    asked = settings.ask(GENES, Memory(), np.random.default_rng(0))
    assert set(makers(asked).values()) == {4}


def test_whoever_earns_more_gets_more_and_nobody_gets_nothing():
    settings = Portfolio(
        population_size=10, algorithms=(RandomSearch(), CmaEs(population_size=10)), even=0.2
    )
    counts = makers(search(settings, 1000)[1][500:])
    assert counts["1"] > 1.5 * counts["0"]
    assert counts["0"] > 25


def test_it_is_far_better_than_the_worst_of_its_algorithms():
    settings = Portfolio(population_size=10, algorithms=(RandomSearch(), CmaEs(population_size=10)))
    found = [search(settings, 800, seed)[0].members[0].fitness for seed in range(3)]
    lucky = [max(one.fitness for one in search(RandomSearch(), 800, s)[1]) for s in range(3)]
    assert np.median(found) > np.median(lucky) / 50


def test_nobody_falls_behind_while_on_trial():
    settings = Portfolio(
        population_size=10, algorithms=(RandomSearch(), CmaEs(population_size=10)), trial=200
    )
    counts = makers(search(settings, 400)[1])
    assert min(counts.values()) > 0.35 * 400


def test_a_few_large_gains_are_worth_more_than_many_tiny_ones():
    settings = Portfolio(population_size=4, algorithms=(RandomSearch(), Grid()), trial=0)

    def told(number, fitness, at):
        return Evaluated(
            candidate=f"s{number}", number=number, genome=(0.0,) * 6, fitness=fitness,
            operator=f"sample@of{at}",
        )  # fmt: skip

    memory = settings.tell(Memory(), [told(1, 0.0, 0)])
    for number in range(2, 32, 2):  # one gains a little often, the other much at times
        best = memory.members[0].fitness
        gains = [told(number, best + 1e-6, 0), told(number + 1, best + (number % 3 == 0), 1)]
        memory = settings.tell(memory, gains)
    shares = settings._shares(memory)
    assert shares[1] > shares[0] > 0.05


def test_it_keeps_up_with_the_best_of_its_algorithms():
    alone = CmaEs(population_size=12)
    both = Portfolio(population_size=12, algorithms=(RandomSearch(), alone))
    needed = []
    for settings in (alone, both):
        _, everyone = search(settings, 1500, seed=1)
        needed.append(next(one.number for one in everyone if one.fitness > -1e-3))
    assert needed[1] < 2.5 * needed[0]


def test_the_order_within_a_generation_changes_nothing():
    one, other = (search(Portfolio(), 160, shuffle=seed)[0] for seed in (1, 2))
    assert one == other


def test_a_memory_that_was_stored_goes_on_exactly_as_it_would_have():
    def restored(memory: Memory) -> Memory:
        state = json.loads(json.dumps(dict(memory.state)))
        return Memory(memory.members, state, tuple(map(restored, memory.parts)))

    settings = Portfolio(algorithms=(CmaEs(), Genetic(population_size=8), RandomSearch()))
    memory, _ = search(settings, 160)
    assert restored(memory) == memory
    asked = settings.ask(GENES, memory, np.random.default_rng(3))
    assert settings.ask(GENES, restored(memory), np.random.default_rng(3)) == asked


def test_an_algorithm_with_nothing_left_leaves_its_share_to_the_others():
    few = Grid(points=2)
    memory, told = search(Portfolio(population_size=16, algorithms=(few, RandomSearch())), 400)
    assert makers(told)["0"] <= 2**6 + 16
    assert len(Portfolio(algorithms=(few, RandomSearch())).ask(
        GENES, memory, np.random.default_rng(0))) == 16  # fmt: skip


def test_outcomes_may_be_told_one_by_one():
    settings = Portfolio(population_size=4, mode="async", algorithms=(CmaEs(), RandomSearch()))
    memory, best = Memory(), float("-inf")
    for number in range(1, 401):
        proposal = settings.ask_one(GENES, memory, np.random.default_rng([1, number]))
        best = max(best, worth := -sum((gene - 1) ** 2 for gene in proposal.genome))
        told = Evaluated(
            candidate=f"s{number}", number=number, genome=proposal.genome, fitness=worth,
            operator=proposal.operator,
        )  # fmt: skip
        memory = settings.tell(memory, [told])
    assert best > -1.0
    assert memory.members[0].fitness == best


def campaign(search_settings):
    return {
        "name": "mixed",
        "seed": 1,
        "space": {"kind": "merge", "base": "b", "sources": ["a", "b"], "method": "linear"},
        "search": search_settings,
        "evaluate": {"kind": "lm_harness", "tasks": [{"name": "arc", "metric": "acc"}]},
        "budget": {"evaluations": 10},
    }


def read(search_settings) -> Algorithm:
    try:
        return from_dict(campaign(search_settings)).search
    except ConfigError as error:
        if "search" in str(error):
            raise
        pytest.fail(str(error))


def test_it_is_written_as_a_list_of_algorithms():
    text = {"kind": "portfolio", "algorithms": [{"kind": "cma_es"}, {"kind": "random"}]}
    settings = read(text)
    assert settings == Portfolio(algorithms=(CmaEs(), RandomSearch()))
    assert read(json.loads(json.dumps(as_dict(settings)))) == settings


@pytest.mark.parametrize(
    ("algorithms", "said"),
    [
        ([{"kind": "cma_es"}], "expected two or more to choose among, got 1"),
        ([{"kind": "cma_es", "sigma": 3}, {"kind": "random"}], r"algorithms.0.sigma: expected"),
        ([{"kind": "cma"}, {"kind": "random"}], r"algorithms.0.kind: .*cma_es"),
        ("cma_es", "algorithms: expected a list, got 'cma_es'"),
    ],
)
def test_a_mistake_in_one_of_them_is_named_with_its_place(algorithms, said):
    with pytest.raises(ConfigError, match=said):
        read({"kind": "portfolio", "algorithms": algorithms})


def test_the_schema_of_algorithms_within_algorithms_has_an_end():
    assert '"portfolio"' in json.dumps(schema())
