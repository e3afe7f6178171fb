"""The teaching example: a genetic algorithm on bits, beside the optimum and random search."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import numpy as np
import pytest

from evaluators.addresses import load_function
from orchestrator import config
from orchestrator.algorithms.base import Evaluated, Memory
from orchestrator.algorithms.random_search import RandomSearch

ROOT = Path(__file__).resolve().parents[2]
NUM_ITEMS = 50
#: Generations of 40, as many as the gate allows.
GENERATIONS = 200


def of_the_example(name):
    return load_function(f"{ROOT}/examples/knapsack/items.py:{name}")


@pytest.fixture(scope="module")
def optimum():
    return of_the_example("worth")(tuple(of_the_example("optimum")(NUM_ITEMS)["take"]))


@pytest.fixture
def example(monkeypatch):
    monkeypatch.chdir(ROOT)
    return config.read(Path("examples/knapsack.yaml"))


def searched(algorithm, genes, seed, enough):
    """The worth of the best that generations of asking and telling find."""
    worth, memory, best, number = of_the_example("worth"), Memory(), 0, 0
    for generation in range(1, GENERATIONS + 1):
        rng = np.random.default_rng([seed, 1, generation])
        told = []
        for proposal in algorithm.ask(genes, memory, rng):
            number += 1
            fitness = worth(tuple(bit > 0.5 for bit in proposal.genome))
            told.append(
                Evaluated(
                    candidate=f"s{number}",
                    number=number,
                    genome=proposal.genome,
                    fitness=float(fitness),
                )
            )
            best = max(best, fitness)
        memory = algorithm.tell(memory, told)
        if best >= enough:
            break
    return best


@pytest.mark.parametrize("num_items", [1, 5, 11])
def test_dynamic_programming_finds_what_trying_everything_finds(num_items):
    values, weights, capacity = of_the_example("problem")(num_items)
    everything = np.array(list(product([0, 1], repeat=num_items)))
    fits = everything @ weights <= capacity
    best = of_the_example("optimum")(num_items)["take"]
    assert np.dot(best, weights) <= capacity
    assert np.dot(best, values) == (everything @ values)[fits].max()


def test_a_choice_that_is_too_heavy_loses_its_worst_items():
    values, weights, capacity = of_the_example("problem")(NUM_ITEMS)
    worth = of_the_example("worth")
    assert worth((False,) * NUM_ITEMS) == 0
    assert 0 < worth((True,) * NUM_ITEMS) < values.sum()
    lightest = int(np.argmin(weights))
    assert worth(tuple(place == lightest for place in range(NUM_ITEMS))) == values[lightest]
    assert weights.sum() > capacity


@pytest.mark.parametrize("seed", range(1, 6))
def test_the_examples_search_comes_near_the_optimum(example, optimum, seed):
    genes = example.space.open(1).genes
    assert searched(example.search, genes, seed, optimum) >= 0.99 * optimum


@pytest.mark.parametrize("seed", [1, 2])
def test_random_search_does_not_come_near_the_optimum(example, optimum, seed):
    genes = example.space.open(1).genes
    best = searched(RandomSearch(population_size=40), genes, seed, optimum)
    assert best <= 0.95 * optimum
