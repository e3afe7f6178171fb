"""Searches on plain problems whose best answer is known, random search always beside.

    python benchmarks/search.py knapsack [--seeds 10]      # 50, 100 and 500 items
    python benchmarks/search.py cost [--algorithms genetic random]

`knapsack`: the genetic algorithm of `examples/knapsack.yaml` against the optimum by dynamic
programming. `cost`: seconds that asking and telling takes, per candidate, at 50 and 1,000 genes.
Prints Markdown; medians with the 95% interval of the median (bootstrapped over seeds).
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from search_problems import Problem, Trace, knapsack, run, sphere

from orchestrator.algorithms.base import ALGORITHMS, Algorithm
from orchestrator.algorithms.genetic import Genetic
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
#: Candidates over which asking and telling is timed.
_TIMED = 2_000
#: Seconds of asking and telling after which the rest of them are not waited for.
_PATIENCE_S = 20.0


def main() -> None:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    commands = parser.add_subparsers(required=True)
    knapsacks = commands.add_parser("knapsack")
    knapsacks.add_argument("--seeds", type=int, default=10)
    knapsacks.set_defaults(call=lambda given: compare_knapsacks(given.seeds))
    costs = commands.add_parser("cost")
    costs.add_argument("--algorithms", nargs="*", default=list(ALGORITHMS.addresses))
    costs.set_defaults(call=lambda given: compare_costs(given.algorithms))
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


def compare_costs(names: Sequence[str]) -> None:
    """Prints what asking and telling takes."""
    print("| algorithm | genes | ask and tell, ms a candidate |")
    print("| --- | ---: | ---: |")
    for name in names:
        algorithm: Any = ALGORITHMS.load(name)(population_size=40)
        for problem in (knapsack(50), sphere(50), knapsack(1_000), sphere(1_000)):
            print(f"| {name} | {problem.name} | {_cost(algorithm, problem)} |", flush=True)


def _cost(algorithm: Algorithm, problem: Problem) -> str:
    try:
        trace = run(algorithm, problem, seed=1, evaluations=_TIMED, patience_s=_PATIENCE_S)
    except ValueError as error:
        return f"not for this: {error}"
    return f"{1e3 * trace.thinking_s / len(trace.best):.3f}"


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
