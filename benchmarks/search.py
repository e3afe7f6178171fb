"""Searches on plain problems whose best answer is known, random search always beside.

    python benchmarks/search.py knapsack [--seeds 10]      # 50, 100 and 500 items
    python benchmarks/search.py members [--seeds 5]        # a portfolio beside its algorithms

`knapsack`: the genetic algorithm of `examples/knapsack.yaml` against the optimum by dynamic
programming. `members`: evaluations that a portfolio takes to the optimum (of numbers: to within
0.001), and those of its algorithms alone.
Prints Markdown; medians with the 95% interval of the median (bootstrapped over seeds).
"""

from __future__ import annotations

import argparse
import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from numeric import problem as function
from search_problems import Problem, Trace, knapsack, run

from orchestrator.algorithms.base import Algorithm
from orchestrator.algorithms.cma_es import CmaEs
from orchestrator.algorithms.genetic import Genetic
from orchestrator.algorithms.portfolio import Portfolio
from orchestrator.algorithms.random_search import RandomSearch
from orchestrator.operators.crossover import Uniform
from orchestrator.operators.mutation import Flip
from orchestrator.operators.selection import Tournament


@dataclass(frozen=True, kw_only=True)
class Case:
    """A size of the knapsack, and what it may cost."""

    num_items: int
    evaluations: int
    population_size: int


CASES = (
    Case(num_items=50, evaluations=8_000, population_size=40),
    Case(num_items=100, evaluations=20_000, population_size=100),
    Case(num_items=500, evaluations=20_000, population_size=100),
)
#: Problems, what is near enough (None: the optimum), and evaluations at most.
_EASY: Mapping[str, tuple[Callable[[], Problem], float | None, int]] = {
    "sphere, 10 genes": (partial(function, "sphere", 10, "inside"), -1e-3, 4_000),
    "Rastrigin in a corner, 10": (partial(function, "rastrigin", 10, "corner"), -1e-3, 3_000),
    "ellipsoid, 10": (partial(function, "ellipsoid", 10, "inside"), -1e-3, 8_000),
    "knapsack, 50 bits": (partial(knapsack, 50), None, 2_500),
}
MEMBERS: Mapping[str, Algorithm] = {
    "portfolio": Portfolio(),
    "cma_es": CmaEs(),
    "cma_es, 12, async": CmaEs(population_size=12, mode="async"),
    "genetic, 16, async": Genetic(
        population_size=16, crossover=Uniform(), mutation=Flip(), mode="async"
    ),
}


def main() -> None:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    commands = parser.add_subparsers(required=True)
    knapsacks = commands.add_parser("knapsack")
    knapsacks.add_argument("--seeds", type=int, default=10)
    knapsacks.set_defaults(call=lambda given: compare_knapsacks(given.seeds))
    members = commands.add_parser("members")
    members.add_argument("--seeds", type=int, default=5)
    members.set_defaults(call=lambda given: compare_members(given.seeds))
    given = parser.parse_args()
    given.call(given)


def genetic(population_size: int) -> Genetic:
    """Returns the genetic algorithm of the example."""
    return Genetic(
        population_size=population_size,
        selection=Tournament(size=3),
        crossover=Uniform(probability=0.9),
        mutation=Flip(),
        elites=2,
    )


def compare_knapsacks(seeds: int) -> None:
    """Prints how near each search comes to the optimum."""
    print("| problem | optimum | search | evaluations | share of optimum: median [95%] | worst |")
    print("| --- | ---: | --- | ---: | ---: | ---: |")
    for case in CASES:
        problem = knapsack(case.num_items)
        searches: dict[str, Algorithm] = {
            "genetic": genetic(case.population_size),
            "random": RandomSearch(population_size=case.population_size),
        }
        for name, algorithm in searches.items():
            traces = [_trace(algorithm, problem, case, seed) for seed in range(1, seeds + 1)]
            _print_row(problem, name, case, traces)


def _trace(algorithm: Algorithm, problem: Problem, case: Case, seed: int) -> Trace:
    return run(algorithm, problem, seed=seed, evaluations=case.evaluations, target=problem.optimum)


def _print_row(problem: Problem, name: str, case: Case, traces: Sequence[Trace]) -> None:
    shares = [one.best[-1] / problem.optimum for one in traces]
    took = [number for one in traces if (number := one.reached(problem.optimum)) is not None]
    spent = f"{case.evaluations:,}"
    if took:
        median = statistics.median(took)
        spent += f" (optimum in {len(took)} of {len(traces)}, median after {median:,.0f})"
    low, high = interval(shares, statistics.median)
    print(
        f"| {problem.name} | {problem.optimum:.0f} | {name} | {spent} | "
        f"{statistics.median(shares):.4f} [{low:.4f}, {high:.4f}] | {min(shares):.4f} |"
    )


def compare_members(seeds: int) -> None:
    """Prints the evaluations that a portfolio and each of its members alone take."""
    print("| search | " + " | ".join(_EASY) + " |\n| --- |" + " ---: |" * len(_EASY))
    for name, algorithm in MEMBERS.items():
        cells = []
        for one, near, most in _EASY.values():
            problem = one()
            target = problem.optimum if near is None else near
            traces = [
                run(algorithm, problem, seed=seed, evaluations=most, target=target)
                for seed in range(seeds)
            ]
            cells.append(_taken([trace.reached(target) for trace in traces]))
        print(f"| {name} | " + " | ".join(cells) + " |", flush=True)


def _taken(counts: Sequence[int | None]) -> str:
    """Median, and how many arrived if not all did."""
    middle = statistics.median(math.inf if one is None else one for one in counts)
    num = sum(1 for one in counts if one is not None)
    shown = f"{middle:,.0f}" if math.isfinite(middle) else "-"
    return shown if num == len(counts) else f"{shown} ({num} of {len(counts)})"


def interval(
    values: Sequence[float], statistic: Callable[[Sequence[float]], float]
) -> tuple[float, float]:
    """Returns the 95% percentile bootstrap interval of a statistic."""
    rng = np.random.default_rng(0)
    drawn = rng.choice(np.asarray(values), size=(2_000, len(values)))
    low, high = np.quantile([statistic(one.tolist()) for one in drawn], [0.025, 0.975])
    return float(low), float(high)


if __name__ == "__main__":
    main()
