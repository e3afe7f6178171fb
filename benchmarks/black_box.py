"""Our searches beside pycma and pymoo: evaluations to 0.001 of the optimum, and what asking costs.

    python benchmarks/black_box.py near [--seeds 10] [--evaluations 60000] [--dimensions 10 40]
    python benchmarks/black_box.py costs

pycma runs with its own handling of bounds, the first standard deviation of ours, and restarts with
twice the population, as ours. Needs cma, pymoo and optuna.
"""

from __future__ import annotations

import argparse
import math
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import cma
import numpy as np
from numeric import SEARCHES, SHAPES, problem, pymoo_ga
from search_problems import Problem, run, sphere

from orchestrator.algorithms.base import Algorithm, Evaluated, Memory
from orchestrator.algorithms.cma_es import CmaEs
from orchestrator.algorithms.genetic import Genetic
from orchestrator.algorithms.optuna_sampler import OptunaSampler
from orchestrator.algorithms.random_search import RandomSearch
from orchestrator.spaces.genes import Genome

_NEAR = 1e-3
#: Candidates over which costs are measured, and those of a generation told before.
_TIMED, _GENERATION = 600, 15


def main() -> None:
    """Runs what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, prog=Path(__file__).name)
    parser.add_argument("part", choices=["near", "costs"])
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--evaluations", type=int, default=60_000)
    parser.add_argument("--dimensions", type=int, nargs="*", default=[10, 40])
    parser.add_argument("--functions", nargs="*", default=list(SHAPES))
    parser.add_argument("--searches", nargs="*", default=list(CONTENDERS))
    parser.add_argument("--processes", type=int, default=2)
    given = parser.parse_args()
    if given.part == "costs":
        print_costs()
    else:
        print_near(given)


def print_near(given: argparse.Namespace) -> None:
    """Prints a row for each function, number of genes and place of the optimum."""
    names = given.searches
    print("| function | " + " | ".join(names) + " |\n| --- |" + " ---: |" * len(names))
    with ProcessPoolExecutor(given.processes) as pool:
        for dimensions in given.dimensions:
            for shape in given.functions:
                for place in ("inside", "corner"):
                    told = (shape, dimensions, place, given.evaluations)
                    cells = [
                        _cell(list(pool.map(partial(reached, name, told), range(given.seeds))))
                        for name in names
                    ]
                    row = " | ".join([f"{shape}, {dimensions}, {place}", *cells])
                    print(f"| {row} |", flush=True)


def reached(name: str, told: tuple[str, int, str, int], seed: int) -> int | None:
    """Returns how many evaluations a search took to come near; None if it did not."""
    shape, dimensions, place, evaluations = told
    warnings.simplefilter("ignore")
    return CONTENDERS[name](problem(shape, dimensions, place), seed, evaluations)


def _ours(algorithm: Algorithm, one: Problem, seed: int, evaluations: int) -> int | None:
    trace = run(algorithm, one, seed=seed, evaluations=evaluations, target=-_NEAR)
    return trace.reached(-_NEAR)


def _pycma(one: Problem, seed: int, evaluations: int) -> int | None:
    lower, upper = np.array(one.genes.lower), np.array(one.genes.upper)
    rng, spent, size = np.random.default_rng(seed), 0, 4 + int(3 * math.log(lower.size))
    center = (lower + upper) / 2
    while spent < evaluations:
        options = {
            "bounds": [lower.tolist(), upper.tolist()],
            "popsize": size,
            "seed": int(rng.integers(1, 2**31)),
            "verbose": -9,
            "verb_log": 0,
        }
        strategy = cma.CMAEvolutionStrategy(center, float(upper[0] - lower[0]) / 6, options)
        while not strategy.stop() and spent < evaluations:
            asked, values = strategy.ask(), list[float]()
            for genome in asked:
                spent += 1
                values.append(-one.worth(tuple(genome)))
                if values[-1] <= _NEAR:
                    return spent
            strategy.tell(asked, values)
        size, center = 2 * size, rng.uniform(lower, upper)
    return None


CONTENDERS: Mapping[str, Callable[[Problem, int, int], int | None]] = {
    "cma_es": partial(_ours, CmaEs()),
    "pycma": _pycma,
    "genetic": partial(_ours, SEARCHES["genetic"]),
    "pymoo GA": pymoo_ga,
    "random": partial(_ours, RandomSearch()),
}


def _cell(counts: Sequence[int | None]) -> str:
    """Median and its interval, of order statistics: 98 % for ten seeds; how many came near."""
    known = sorted(math.inf if count is None else count for count in counts)
    num = sum(1 for count in counts if count is not None)
    if num == 0:
        return "none"
    out = len(known) // 8  # seeds left out at either end
    low, middle, high = known[out], float(np.median(known)), known[len(known) - 1 - out]
    all_of = "" if num == len(known) else f" ({num} of {len(known)})"
    return f"{_number(middle)} [{_number(low)}, {_number(high)}]{all_of}"


def _number(value: float) -> str:
    return f"{value:,.0f}" if math.isfinite(value) else "-"


@dataclass(frozen=True, kw_only=True)
class Case:
    """An algorithm, and how many candidates it was told of when it is timed."""

    algorithm: Algorithm
    genes: int
    before: int


#: Restarts would have larger generations than those that it is told of here.
_CMA_ES = CmaEs(restarts="none")
CASES = (
    *(Case(algorithm=_CMA_ES, genes=50, before=num) for num in (0, 10_000, 100_000)),
    *(Case(algorithm=_CMA_ES, genes=1_000, before=num) for num in (0, 10_000)),
    *(Case(algorithm=Genetic(population_size=20), genes=50, before=num) for num in (0, 100_000)),
    Case(algorithm=Genetic(population_size=20), genes=1_000, before=0),
    *(Case(algorithm=OptunaSampler(), genes=50, before=num) for num in (100, 1_000)),
    *(Case(algorithm=OptunaSampler(sampler="random"), genes=50, before=num) for num in (1_000,)),
    Case(algorithm=OptunaSampler(sampler="gp"), genes=50, before=50),
)


def print_costs() -> None:
    """Prints the time of this process that a candidate takes to ask for and to tell."""
    print("| search | genes | told before | first ask, s | ms a candidate |")
    print("| --- | ---: | ---: | ---: | ---: |")
    for case in CASES:
        name = getattr(case.algorithm, "sampler", type(case.algorithm).__name__)
        first_s, each_ms = costs(case)
        print(
            f"| {name} | {case.genes:,} | {case.before:,} | {first_s:.2f} | {each_ms:.2f} |",
            flush=True,
        )


def costs(case: Case) -> tuple[float, float]:
    """Returns seconds of CPU of the first ask, as after resuming, and then ms a candidate."""
    warnings.simplefilter("ignore")
    one, memory = sphere(case.genes), Memory()
    for told in _random_ones(one, case.before):
        memory = case.algorithm.tell(memory, told)
    began = time.process_time()
    case.algorithm.ask(one.genes, memory, np.random.default_rng(0))
    first_s = time.process_time() - began
    timed = 8 if isinstance(case.algorithm, OptunaSampler) else _TIMED
    number, turn, spent_s = 0, 0, 0.0
    while number < timed:
        turn += 1
        began = time.process_time()
        asked = case.algorithm.ask(one.genes, memory, np.random.default_rng([1, turn]))
        spent_s += time.process_time() - began
        told = [
            _measured(one, case.before + number + at, proposal.genome)
            for at, proposal in enumerate(asked, start=1)
        ]
        began = time.process_time()
        memory = case.algorithm.tell(memory, told)
        spent_s += time.process_time() - began
        number += len(told)
    return first_s, 1e3 * spent_s / number


def _random_ones(one: Problem, num: int) -> Iterator[list[Evaluated]]:
    """Yields generations that nobody asked for."""
    rng = np.random.default_rng(0)
    for first in range(1, num + 1, _GENERATION):
        genomes = one.genes.sample(rng, min(_GENERATION, num + 1 - first))
        yield [_measured(one, first + at, genome) for at, genome in enumerate(genomes)]


def _measured(one: Problem, number: int, genome: Genome) -> Evaluated:
    return Evaluated(
        candidate=f"s{number}", number=number, genome=genome, fitness=one.worth(genome)
    )


if __name__ == "__main__":
    main()
