"""Optuna's samplers as algorithms: rebuilt from memory, seeded from the campaign's generator."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from orchestrator import optuna_library
from orchestrator.algorithms.base import Evaluated, Memory
from orchestrator.algorithms.optuna_sampler import OptunaSampler
from orchestrator.spaces.genes import Bit, Genes, Real, Subset, reals
from tests.conftest import mixed_genes

MIXED = mixed_genes(order=3, least_density=0.2)


def worth_of(genome) -> float:
    found = MIXED.values(genome)
    return -abs(found["weight"] - 1.3) - abs(found["layers"] - 7) - (found["method"] != "ties")


def search(algorithm, genes, fitness, evaluations: int, seed: int = 0):
    memory, told, generation = Memory(), [], 0
    while len(told) < evaluations:
        generation += 1
        evaluated = []
        for proposal in algorithm.ask(genes, memory, np.random.default_rng([seed, generation])):
            number = len(told) + len(evaluated) + 1
            worth = fitness(proposal.genome)
            values = worth if isinstance(worth, tuple) else ()
            evaluated.append(
                Evaluated(
                    candidate=f"s{number}",
                    number=number,
                    genome=proposal.genome,
                    fitness=sum(worth) if values else worth,
                    values=values,
                )
            )
        told += evaluated
        memory = algorithm.tell(memory, evaluated)
    return memory, told


@pytest.mark.parametrize("sampler", ["tpe", "random", "QMCSampler", "nsgaii", "nsga-iii"])
def test_every_kind_of_gene_goes_there_and_back(sampler):
    settings = OptunaSampler(sampler=sampler)
    settings.check(MIXED)
    memory, told = search(settings, MIXED, worth_of, 40)
    assert all(MIXED.repair(np.asarray(one.genome)) == one.genome for one in told)
    assert len({one.genome for one in told}) == len(told)
    asked = settings.ask(MIXED, memory, np.random.default_rng(1))
    assert asked == settings.ask(MIXED, memory, np.random.default_rng(1))


def test_genes_that_do_not_count_are_not_suggested():
    _, told = search(OptunaSampler(sampler="random"), MIXED, worth_of, 40)
    dormant = [one.genome for one in told if MIXED.values(one.genome)["method"] == "linear"]
    assert dormant
    assert all(MIXED.canonical(genome) == genome for genome in dormant)


def test_what_repair_switches_on_is_as_at_the_start():
    bits = tuple(Bit(name=f"use[{at}]") for at in range(2))
    weights = tuple(
        Real(name=f"weight[{at}]", low=0.0, high=1.0, when={f"use[{at}]": (True,)})
        for at in range(2)
    )
    least_one = Subset(bits=("use[0]", "use[1]"), least=1, most=2)
    genes = Genes((*bits, *weights), (1.0, 1.0, 0.7, 0.7), subsets=(least_one,))
    _, told = search(OptunaSampler(sampler="random"), genes, sum, 40)
    found = [genes.values(one.genome) for one in told]
    used = [value for one in found for name, value in one.items() if name.startswith("weight")]
    assert 0.7 in used
    assert 0.0 not in used


def test_tpe_learns_from_what_it_was_told():
    def typical(sampler: str) -> float:
        runs = (search(OptunaSampler(sampler=sampler), MIXED, worth_of, 80, s) for s in range(3))
        return float(np.median([max(one.fitness for one in told) for _, told in runs]))

    assert typical("tpe") > typical("random") / 1.5


def test_the_genetic_sampler_breeds_from_what_it_was_told():
    genes = reals(["x", "y"], [-5.0, -5.0], [5.0, 5.0])
    settings = OptunaSampler(sampler="nsgaii", options={"population_size": 16}, population_size=16)
    _, told = search(settings, genes, lambda genome: -sum(x * x for x in genome), 160)
    early, late = ([one.fitness for one in told[part]] for part in (slice(16), slice(-16, None)))
    assert np.median(late) > np.median(early) / 4


def test_several_objectives_are_searched_at_once():
    genes = reals(["x", "y"], [-5.0, -5.0], [5.0, 5.0])

    def both(genome):
        x, y = genome
        return (-(x**2) - y**2, -((x - 2) ** 2) - y**2)

    settings = OptunaSampler(sampler="nsgaii", options={"population_size": 16}, population_size=16)
    _, told = search(settings, genes, both, 240)
    late = np.array([one.genome for one in told[-32:]])
    assert np.median(np.abs(late[:, 1])) < 1.0, "no objective wants y"
    assert np.ptp(late[:, 0]) > 0.7, "they want different x"


def test_a_window_keeps_the_best_and_the_newest():
    settings = OptunaSampler(sampler="random", window=10)
    memory, told = search(settings, MIXED, worth_of, 64)
    kept = {one.number for one in memory.members}
    best = sorted(told, key=lambda one: one.rank, reverse=True)[:5]
    assert {one.number for one in best} | set(range(60, 65)) == kept


def test_unknown_samplers_and_options_are_refused_in_so_many_words():
    with pytest.raises(ValueError, match=r"sampler: expected the name of one .*tpe.*got 'tpi'"):
        OptunaSampler(sampler="tpi").check(MIXED)
    with pytest.raises(ValueError, match=r"options: Optuna's TPESampler says: .*gama"):
        OptunaSampler(options={"gama": 3}).check(MIXED)
    with pytest.raises(ValueError, match="use kind: cma_es"):
        OptunaSampler(sampler="CmaEsSampler")
    with pytest.raises(ValueError, match="options: the seed is the campaign's"):
        OptunaSampler(options={"seed": 3})


def test_a_missing_package_is_named_with_its_extra(monkeypatch):
    optuna_library.load.cache_clear()
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(ValueError, match=r"install shoal\[optuna\]"):
        OptunaSampler().check(MIXED)
