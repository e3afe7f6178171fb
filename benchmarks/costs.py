"""What asking for a candidate and telling of it takes, for every algorithm and kind of genes.

    python benchmarks/costs.py [--searches cma_es portfolio] [--genes "50 bits"] [--before 0 100000]

Time of this process, without the measuring: median of rounds of 150 candidates, after as many
random ones were told as `before` says. `first ask` is the one after that, as after a start: what an
algorithm computes again from its memory is in it. Optuna's samplers are asked for 8 candidates.
"""

from __future__ import annotations

import argparse
import statistics
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from orchestrator.algorithms.base import (
    Algorithm,
    Evaluated,
    Memory,
    Proposal,
    as_asynchronous,
    check_genes,
)
from orchestrator.algorithms.cma_es import CmaEs
from orchestrator.algorithms.cycle_qd import CycleQd
from orchestrator.algorithms.genetic import Genetic
from orchestrator.algorithms.grid import Grid
from orchestrator.algorithms.islands import Islands
from orchestrator.algorithms.map_elites import MapElites
from orchestrator.algorithms.natural_niches import NaturalNiches
from orchestrator.algorithms.nsga2 import Nsga2
from orchestrator.algorithms.nsga3 import Nsga3
from orchestrator.algorithms.optuna_sampler import OptunaSampler
from orchestrator.algorithms.portfolio import Portfolio
from orchestrator.algorithms.random_search import RandomSearch
from orchestrator.operators.crossover import OnePoint, Sbx, Uniform
from orchestrator.operators.diversity import Immigrants, Sharing
from orchestrator.operators.mutation import Flip, Polynomial, SelfAdaptive
from orchestrator.spaces.genes import (
    Bit,
    Categorical,
    Gene,
    Genes,
    Genome,
    Integer,
    Permutation,
    Real,
    reals,
)

#: Candidates told at once before, those of a round, and how many rounds there are.
_GENERATION, _ROUND, _ROUNDS = 100, 150, 5
#: Candidates that Optuna is asked for.
_FEW = 8
#: Documents that each candidate answers.
_DOCUMENTS = 200

#: A genetic algorithm with all that it can do.
_EVERYTHING = Genetic(
    population_size=100,
    crossover=(Sbx(), OnePoint(), Uniform()),
    mutation=(Polynomial(), Flip(), SelfAdaptive()),
    operators="adaptive",
    sharing=Sharing(radius=0.1),
    islands=Islands(count=4),
    immigrants=Immigrants(below=0.05),
)
#: Restarts would have larger generations than those that it is told of here.
_CMA_ES = CmaEs(population_size=15, restarts="none")
SEARCHES: Mapping[str, Algorithm] = {
    "random": RandomSearch(),
    "grid": Grid(points=2, most=2**1_000),
    "genetic": Genetic(population_size=100),
    "genetic, async": Genetic(population_size=100, mode="async"),
    "genetic, everything": _EVERYTHING,
    "genetic, everything, async": replace(_EVERYTHING, mode="async"),
    "cma_es": _CMA_ES,
    "cma_es, async": replace(_CMA_ES, mode="async"),
    "portfolio": Portfolio(),
    "portfolio, async": Portfolio(mode="async"),
    "nsga2": Nsga2(population_size=100),
    "nsga2, async": Nsga2(population_size=100, mode="async"),
    "nsga3": Nsga3(population_size=100),
    "nsga3, async": Nsga3(population_size=100, mode="async"),
    "natural_niches": NaturalNiches(population_size=100),
    "natural_niches, async": NaturalNiches(population_size=100, mode="async"),
    "map_elites": MapElites(population_size=100),
    "map_elites, async": MapElites(population_size=100, mode="async"),
    "cycle_qd": CycleQd(population_size=100),
    "cycle_qd, async": CycleQd(population_size=100, mode="async"),
    "optuna": OptunaSampler(),
}


def main() -> None:
    """Prints a row for each algorithm, kind of genes and number of candidates told before."""
    parser = argparse.ArgumentParser(description=__doc__, prog=Path(__file__).name)
    parser.add_argument("--searches", nargs="*", default=[*SEARCHES][:-1])
    parser.add_argument("--genes", nargs="*", default=list(KINDS))
    parser.add_argument("--before", type=int, nargs="*", default=[0])
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    print("| search | genes | told before | first ask, s | ms a candidate |")
    print("| --- | --- | ---: | ---: | ---: |")
    for name in given.searches:
        for kind in given.genes:
            for before in given.before:
                cost = costs(SEARCHES[name], KINDS[kind](), before)
                said = f"{cost.first_s:.2f} | {cost.each_ms:.2f}"
                print(f"| {name} | {kind} | {before:,} | {said} |", flush=True)


def real_genes(num: int) -> Genes:
    """Returns real numbers between -5 and 5."""
    return reals([f"x[{place}]" for place in range(num)], [-5.0] * num, [5.0] * num)


def bits(num: int) -> Genes:
    """Returns bits."""
    return Genes(tuple(Bit(name=f"b[{place}]") for place in range(num)))


def mixed(num: int) -> Genes:
    """Returns genes of all kinds, one in ten of them an order of four, one in ten conditional."""
    found: list[Gene] = []
    for tenth in range(num // 10):
        found += [Real(name=f"x[{tenth}.{place}]", low=-1.0, high=2.0) for place in range(3)]
        found += [Real(name=f"rate[{tenth}]", low=1e-4, high=1.0, log=True)]
        found += [Integer(name=f"layers[{tenth}.{place}]", low=1, high=12) for place in range(2)]
        found += [Categorical(name=f"method[{tenth}]", choices=("linear", "ties", "dare"))]
        found += [Bit(name=f"normalize[{tenth}]")]
        found += [Permutation(name=f"order[{tenth}]", size=4)]
        when = {f"method[{tenth}]": ("ties", "dare")}
        found += [Real(name=f"density[{tenth}]", low=0.1, high=1.0, when=when)]
    return Genes(tuple(found))


KINDS: Mapping[str, Callable[[], Genes]] = {
    "50 numbers": lambda: real_genes(50),
    "50 bits": lambda: bits(50),
    "50 mixed": lambda: mixed(50),
    "1,000 numbers": lambda: real_genes(1_000),
    "1,000 bits": lambda: bits(1_000),
}


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What a search takes of this process."""

    first_s: float
    each_ms: float


def costs(algorithm: Algorithm, genes: Genes, before: int) -> Cost:
    """Returns seconds of the first ask, as after resuming, and then milliseconds a candidate."""
    check_genes(algorithm, genes)
    memory = Memory()
    for generation in _random_ones(genes, before):
        memory = algorithm.tell(memory, generation)
    began = time.process_time()
    algorithm.ask(genes, memory, np.random.default_rng(0))
    first_s, number, rounds = time.process_time() - began, before, list[float]()
    is_slow = isinstance(algorithm, OptunaSampler)
    for _ in range(1 if is_slow else _ROUNDS):
        spent_s, until = 0.0, number + (_FEW if is_slow else _ROUND)
        since = number
        while number < until:
            rng = np.random.default_rng([1, number])
            began = time.process_time()
            asked = _asked(algorithm, genes, memory, rng)
            spent_s += time.process_time() - began
            told = _measured(asked, number)
            began = time.process_time()
            memory = algorithm.tell(memory, told)
            spent_s += time.process_time() - began
            number += len(told)
        rounds.append(1e3 * spent_s / (number - since))
    return Cost(first_s=first_s, each_ms=statistics.median(rounds))


def _asked(
    algorithm: Algorithm, genes: Genes, memory: Memory, rng: np.random.Generator
) -> list[Proposal]:
    steady = as_asynchronous(algorithm)
    if steady is None:
        return algorithm.ask(genes, memory, rng)
    return [steady.ask_one(genes, memory, rng)]


def _random_ones(genes: Genes, num: int) -> Iterator[list[Evaluated]]:
    """Yields generations that nobody asked for."""
    rng = np.random.default_rng(0)
    for first in range(0, num, _GENERATION):
        genomes = genes.sample(rng, min(_GENERATION, num - first))
        yield _measured([Proposal(genome=one, operator="sample") for one in genomes], first)


def _measured(asked: Sequence[Proposal], before: int) -> list[Evaluated]:
    return [
        _worth(number, one.genome, one.operator, one.parents)
        for number, one in enumerate(asked, start=before + 1)
    ]


def _worth(number: int, genome: Genome, operator: str, parents: tuple[str, ...]) -> Evaluated:
    """Returns a candidate with two objectives and answers that depend on its genes."""
    numbers = np.asarray(genome)
    values = -float(np.mean(numbers**2)), -float(np.mean((numbers - 1) ** 2))
    places = np.arange(_DOCUMENTS) % len(genome)
    return Evaluated(
        candidate=f"s{number}",
        number=number,
        genome=genome,
        fitness=values[0] + values[1],
        values=values,
        answers=tuple((numbers[places] > np.linspace(-1, 1, _DOCUMENTS)).astype(float).tolist()),
        operator=operator,
        parents=parents,
    )


if __name__ == "__main__":
    main()
