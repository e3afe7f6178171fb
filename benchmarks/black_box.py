"""Our searches beside pycma and pymoo: evaluations to come within 0.001 of the optimum.

    python benchmarks/black_box.py near [--seeds 10] [--evaluations 60000] [--dimensions 10 40]
                                        [--places inside corner edge]

pycma runs with its own handling of bounds, the first standard deviation of ours, and restarts with
twice the population, as ours. Needs cma and pymoo.
"""

from __future__ import annotations

import argparse
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import cma
import numpy as np
from numeric import SEARCHES, SHAPES, problem, pymoo_ga
from search_problems import Problem, run

from orchestrator.algorithms.base import Algorithm
from orchestrator.algorithms.cma_es import CmaEs
from orchestrator.algorithms.random_search import RandomSearch

_NEAR = 1e-3


def main() -> None:
    """Runs what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, prog=Path(__file__).name)
    parser.add_argument("part", choices=["near"])
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--evaluations", type=int, default=60_000)
    parser.add_argument("--dimensions", type=int, nargs="*", default=[10, 40])
    parser.add_argument("--functions", nargs="*", default=list(SHAPES))
    parser.add_argument(
        "--places", nargs="*", default=["inside", "corner"], choices=["inside", "corner", "edge"]
    )
    parser.add_argument("--searches", nargs="*", default=list(CONTENDERS))
    parser.add_argument("--processes", type=int, default=2)
    given = parser.parse_args()
    print_near(given)


def print_near(given: argparse.Namespace) -> None:
    """Prints a row for each function, number of genes and place of the optimum."""
    names = given.searches
    print("| function | " + " | ".join(names) + " |\n| --- |" + " ---: |" * len(names))
    with ProcessPoolExecutor(given.processes) as pool:
        for dimensions in given.dimensions:
            for shape in given.functions:
                for place in given.places:
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


if __name__ == "__main__":
    main()
