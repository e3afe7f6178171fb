"""Evaluations that searches take to come within 0.001 of the optimum of numeric functions.

    python benchmarks/numeric.py [--seeds 10] [--evaluations 60000] [--dimensions 10 40]
                                 [--searches "genetic, defaults" "sbx, polynomial, one elite"]

The genetic algorithm as docs/howto/choose-operators.md recommends it for numbers, generational and
asynchronous, its defaults, some other settings, and pymoo's GA as it comes, in the same box with
the same optimum, inside of it or in a corner. Needs pymoo.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from pymoo.algorithms.soo.nonconvex.ga import GA
from pymoo.core.problem import ElementwiseProblem
from pymoo.optimize import minimize
from search_problems import Problem, run

from orchestrator.algorithms.base import Algorithm
from orchestrator.algorithms.genetic import Genetic
from orchestrator.operators.crossover import Sbx, Uniform
from orchestrator.operators.mutation import Flip, Polynomial
from orchestrator.spaces.genes import Genome, reals

_EDGE, _NEAR = 5.12, 1e-3
#: How far from a corner the optimum "edge" lies, in every gene.
_FROM_CORNER = 0.1


def sphere(z: np.ndarray) -> float:
    """A bowl."""
    return float(np.sum(z**2))


def ellipsoid(z: np.ndarray) -> float:
    """A bowl a thousand times as long as wide."""
    return float(np.sum(10.0 ** (6 * np.arange(z.size) / (z.size - 1)) * z**2))


def rastrigin(z: np.ndarray) -> float:
    """A bowl of bowls."""
    return float(10 * z.size + np.sum(z**2 - 10 * np.cos(2 * math.pi * z)))


def rosenbrock(z: np.ndarray) -> float:
    """A bent valley: no gene can be set on its own."""
    y = z + 1
    return float(np.sum(100 * (y[1:] - y[:-1] ** 2) ** 2 + (1 - y[:-1]) ** 2))


SHAPES: Mapping[str, Callable[[np.ndarray], float]] = {
    one.__name__: one for one in (sphere, rastrigin, ellipsoid, rosenbrock)
}
SEARCHES: Mapping[str, Algorithm] = {
    "genetic": Genetic(population_size=50, crossover=Uniform(), mutation=Flip(), elites=25),
    "genetic, async": Genetic(
        population_size=50, crossover=Uniform(), mutation=Flip(), mode="async"
    ),
    "genetic, defaults": Genetic(population_size=50),
    "defaults, adaptive": Genetic(population_size=50, operators="adaptive"),
    "sbx, polynomial": Genetic(population_size=50, crossover=Sbx(), mutation=Polynomial()),
    "sbx, polynomial, one elite": Genetic(
        population_size=50, crossover=Sbx(), mutation=Polynomial(), elites=1
    ),
}
#: Searches that run if none are named.
_USUAL = ("genetic", "genetic, async", "genetic, defaults", "pymoo GA")


def main() -> None:
    """Runs what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, prog=Path(__file__).name)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--evaluations", type=int, default=60_000)
    parser.add_argument("--dimensions", type=int, nargs="*", default=[10, 40])
    parser.add_argument("--functions", nargs="*", default=list(SHAPES))
    parser.add_argument("--searches", nargs="*", default=list(_USUAL))
    given = parser.parse_args()
    names = given.searches
    print("| function | " + " | ".join(names) + " |\n| --- |" + " ---: |" * len(names))
    for dimensions in given.dimensions:
        for shape in given.functions:
            for place in ("inside", "corner"):
                one, seeds = problem(shape, dimensions, place), range(given.seeds)
                cells = [_reached(name, one, seeds, given.evaluations) for name in names]
                print(f"| {shape}, {dimensions}, {place} | " + " | ".join(cells) + " |", flush=True)


def problem(shape: str, dimensions: int, place: str) -> Problem:
    """Returns a function in a box, negated, with its optimum inside, in a corner or by one."""
    optimum, function = np.full(dimensions, -_EDGE), SHAPES[shape]
    if place == "inside":
        optimum = np.random.default_rng(dimensions).uniform(-2.5, 2.5, dimensions)
    elif place == "edge":
        optimum += _FROM_CORNER

    def worth(genome: Genome) -> float:
        return -function(np.asarray(genome) - optimum)

    names = [f"x[{number}]" for number in range(dimensions)]
    genes = reals(names, [-_EDGE] * dimensions, [_EDGE] * dimensions)
    return Problem(name=shape, genes=genes, worth=worth, optimum=0.0)


def _reached(name: str, one: Problem, seeds: Sequence[int], evaluations: int) -> str:
    """Returns how many evaluations a search takes to come near, with each seed, in short."""
    if name == "pymoo GA":
        return _cell([pymoo_ga(one, seed, evaluations) for seed in seeds])
    search = SEARCHES[name]
    traces = [run(search, one, seed=seed, evaluations=evaluations, target=-_NEAR) for seed in seeds]
    return _cell([trace.reached(-_NEAR) for trace in traces])


def _cell(counts: Sequence[int | None]) -> str:
    """Median and range of those that came near enough, and how many did if not all."""
    known = sorted(math.inf if count is None else count for count in counts)
    num = sum(1 for count in counts if count is not None)
    if num == 0:
        return "none"
    middle = float(np.median(known))
    shown = f"{middle:,.0f} [{known[0]:,} - {known[num - 1]:,}]" if math.isfinite(middle) else "-"
    return shown if num == len(counts) else f"{shown} ({num} of {len(counts)})"


def pymoo_ga(one: Problem, seed: int, evaluations: int) -> int | None:
    """Returns how many evaluations pymoo's GA takes, with its defaults; None if it is too many."""
    values: list[float] = []

    class Negated(ElementwiseProblem):
        def __init__(self) -> None:
            lower, upper = np.array(one.genes.lower), np.array(one.genes.upper)
            super().__init__(n_var=lower.size, n_obj=1, xl=lower, xu=upper)

        def _evaluate(self, x: np.ndarray, out: dict[str, float], *_: object, **__: object) -> None:
            out["F"] = -one.worth(tuple(x.tolist()))
            values.append(out["F"])

    class Until(GA):
        def _advance(self, infills: object = None, **more: object) -> None:
            super()._advance(infills=infills, **more)
            if min(values) <= _NEAR:
                self.termination.force_termination = True

    minimize(Negated(), Until(pop_size=100), ("n_eval", evaluations), seed=seed, verbose=False)
    return next((at for at, value in enumerate(values, start=1) if value <= _NEAR), None)


if __name__ == "__main__":
    main()
