"""NSGA-II and NSGA-III beside pymoo's and random search: hypervolume at equal budgets.

    pip install pymoo
    python benchmarks/pareto.py --seeds 11 --generations 250

ZDT1-4 and ZDT6 (Zitzler, Deb & Thiele 2000), DTLZ2 with three objectives (Deb, Thiele, Laumanns &
Zitzler 2002), written here once and given to both. Both have populations of 100 (NSGA-III on DTLZ2:
92, with 91 directions), SBX of index 15 with probability 0.9 and polynomial mutation of index 20.
In `async` mode as many candidates are open as there are members, and evaluations take exponentially
distributed times; as many evaluations have ended as in the same number of generations.
The volume is that of the last population, up to 1.1 in each objective; of random search, that of
all that it drew. Intervals are 95 % bootstrap intervals of a median, or of a ratio of two.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from orchestrator.algorithms.base import Algorithm, Evaluated, Memory
from orchestrator.algorithms.nsga2 import Nsga2
from orchestrator.algorithms.nsga3 import Nsga3
from orchestrator.operators.pareto import hypervolume, non_dominated
from orchestrator.spaces.genes import Genes, reals

Rows = npt.NDArray[np.float64]
#: Costs up to which volumes are measured.
WORST = 1.1


@dataclass(frozen=True, slots=True)
class Test:
    """Costs to be minimised over a box."""

    name: str
    lower: Rows
    upper: Rows
    costs: Callable[[Rows], Rows]
    num_objectives: int = 2

    @property
    def genes(self) -> Genes:
        names = [f"x{index}" for index in range(len(self.lower))]
        return reals(names, self.lower.tolist(), self.upper.tolist())


def zdt1(x: Rows) -> Rows:
    """A convex front."""
    g = 1 + 9 * x[:, 1:].mean(axis=1)
    return np.stack([x[:, 0], g * (1 - np.sqrt(x[:, 0] / g))], axis=1)


def zdt2(x: Rows) -> Rows:
    """A concave front."""
    g = 1 + 9 * x[:, 1:].mean(axis=1)
    return np.stack([x[:, 0], g * (1 - (x[:, 0] / g) ** 2)], axis=1)


def zdt3(x: Rows) -> Rows:
    """A front in five pieces."""
    g, f = 1 + 9 * x[:, 1:].mean(axis=1), x[:, 0]
    return np.stack([f, g * (1 - np.sqrt(f / g) - f / g * np.sin(10 * np.pi * f))], axis=1)


def zdt4(x: Rows) -> Rows:
    """The front of ZDT1 behind 21^9 local ones."""
    rest = x[:, 1:]
    g = 1 + 10 * rest.shape[1] + (rest**2 - 10 * np.cos(4 * np.pi * rest)).sum(axis=1)
    return np.stack([x[:, 0], g * (1 - np.sqrt(x[:, 0] / g))], axis=1)


def zdt6(x: Rows) -> Rows:
    """A concave front that few genomes are near to, unevenly."""
    f = 1 - np.exp(-4 * x[:, 0]) * np.sin(6 * np.pi * x[:, 0]) ** 6
    g = 1 + 9 * x[:, 1:].mean(axis=1) ** 0.25
    return np.stack([f, g * (1 - (f / g) ** 2)], axis=1)


def dtlz2(x: Rows) -> Rows:
    """An eighth of a sphere."""
    g = 1 + ((x[:, 2:] - 0.5) ** 2).sum(axis=1)
    a, b = x[:, 0] * np.pi / 2, x[:, 1] * np.pi / 2
    flat = [np.cos(a) * np.cos(b), np.cos(a) * np.sin(b), np.sin(a)]
    return np.stack([g * one for one in flat], axis=1)


def unit(name: str, dim: int, costs: Callable[[Rows], Rows], num: int = 2) -> Test:
    """Returns a test over the unit cube."""
    return Test(name, np.zeros(dim), np.ones(dim), costs, num)


TESTS = [
    unit("ZDT1", 30, zdt1),
    unit("ZDT2", 30, zdt2),
    unit("ZDT3", 30, zdt3),
    Test("ZDT4", np.array([0.0] + [-5.0] * 9), np.array([1.0] + [5.0] * 9), zdt4),
    unit("ZDT6", 10, zdt6),
    unit("DTLZ2", 12, dtlz2, 3),
]


def size_of(algorithm: str, test: Test) -> int:
    """Returns the population's size."""
    return 92 if (algorithm, test.num_objectives) == ("nsga3", 3) else 100


def volume(costs: Rows) -> float:
    """Returns the hypervolume."""
    return hypervolume(-costs, [-WORST] * costs.shape[1])


def ours(name: str, mode: str = "generational") -> Callable[[Test, int], Iterator[Rows]]:
    """Yields the population's costs after each generation, or as many evaluations."""

    def run(test: Test, seed: int) -> Iterator[Rows]:
        kind: Callable[..., Algorithm] = {"nsga2": Nsga2, "nsga3": Nsga3}[name]
        algorithm: Any = kind(population_size=size_of(name, test), mode=mode)
        return (asynchronous if mode == "async" else generational)(algorithm, test, seed)

    return run


def generational(algorithm: Any, test: Test, seed: int) -> Iterator[Rows]:
    """Waits for all of a generation."""
    memory, number = Memory(), 0
    for generation in count(1):
        rng = np.random.default_rng([seed, generation])
        proposals = algorithm.ask(test.genes, memory, rng)
        memory = algorithm.tell(memory, measured(test, proposals, number))
        number += len(proposals)
        yield costs_of(memory)


def asynchronous(algorithm: Any, test: Test, seed: int) -> Iterator[Rows]:
    """Has as many candidates open as members, as a campaign does, and hears of one at a time.

    Evaluations take exponentially distributed times: a child is bred from what was known then.
    """
    clock, memory, genes = np.random.default_rng([seed, 0]), Memory(), test.genes
    proposals = algorithm.ask(genes, memory, np.random.default_rng([seed, 1]))
    waiting = [(clock.exponential(), one) for one in measured(test, proposals, 0)]
    for told in count(1):
        ended = min(waiting, key=lambda due: due[0])
        waiting.remove(ended)
        memory = algorithm.tell(memory, [ended[1]])
        proposal = algorithm.ask_one(genes, memory, np.random.default_rng([seed, 2, told]))
        (one,) = measured(test, [proposal], len(proposals) + told - 1)
        waiting.append((ended[0] + clock.exponential(), one))
        if told % algorithm.population_size == 0:
            yield costs_of(memory)


def costs_of(memory: Memory) -> Rows:
    """Returns the members' costs."""
    return -np.array([one.values for one in memory.members])


def measured(test: Test, proposals: Any, number: int) -> list[Evaluated]:
    """Evaluates proposals, those before which had the numbers up to this."""
    costs = test.costs(np.array([one.genome for one in proposals]))
    return [
        Evaluated(
            candidate=f"s{number + index}",
            number=number + index,
            genome=one.genome,
            fitness=0.0,
            values=tuple((-row).tolist()),
        )
        for index, (one, row) in enumerate(zip(proposals, costs, strict=True), start=1)
    ]


def peer(name: str) -> Callable[[Test, int], Iterator[Rows]]:
    """Yields the costs of pymoo's population after each generation."""

    def run(test: Test, seed: int) -> Iterator[Rows]:
        from pymoo.algorithms.moo.nsga2 import NSGA2
        from pymoo.algorithms.moo.nsga3 import NSGA3
        from pymoo.core.problem import Problem
        from pymoo.operators.crossover.sbx import SBX
        from pymoo.operators.mutation.pm import PM
        from pymoo.util.ref_dirs import get_reference_directions

        class Wrapped(Problem):  # type: ignore[misc]
            def _evaluate(self, x: Rows, out: dict[str, Any], *args: Any, **kwargs: Any) -> None:
                out["F"] = test.costs(x)

        problem = Wrapped(
            n_var=len(test.lower), n_obj=test.num_objectives, xl=test.lower, xu=test.upper
        )
        settings = {
            "pop_size": size_of(name, test),
            "crossover": SBX(eta=15, prob=0.9),
            "mutation": PM(eta=20),
        }
        if name == "nsga3":
            steps = {2: 99, 3: 12}[test.num_objectives]
            towards = get_reference_directions(
                "das-dennis", test.num_objectives, n_partitions=steps
            )
            algorithm = NSGA3(ref_dirs=towards, **settings)
        else:
            algorithm = NSGA2(**settings)
        algorithm.setup(problem, termination=("n_gen", 1_000_000), seed=seed, verbose=False)
        while True:
            algorithm.next()
            yield algorithm.pop.get("F")

    return run


def random_search(test: Test, seed: int) -> Iterator[Rows]:
    """Yields the best of all draws so far."""
    best = np.empty((0, test.num_objectives))
    rng = np.random.default_rng(seed)
    while True:
        drawn = rng.uniform(test.lower, test.upper, (100, len(test.lower)))
        best = np.concatenate([best, test.costs(drawn)])
        best = best[non_dominated(-best)]
        yield best


RUNS: dict[str, Callable[[Test, int], Iterator[Rows]]] = {
    "nsga2": ours("nsga2"),
    "nsga2 async": ours("nsga2", "async"),
    "pymoo nsga2": peer("nsga2"),
    "nsga3": ours("nsga3"),
    "nsga3 async": ours("nsga3", "async"),
    "pymoo nsga3": peer("nsga3"),
    "random": random_search,
}


def search(run: str, test: Test, seed: int, generations: int) -> dict[str, Any]:
    """Returns the volume after two fifths of the budget and all of it, and a candidate's time."""
    found, began = [], time.process_time()
    for generation, costs in enumerate(RUNS[run](test, seed), start=1):
        if generation in (max(1, generations * 2 // 5), generations):
            found.append(costs)
        if generation == generations:
            break
    seconds = time.process_time() - began
    name = run.removeprefix("pymoo ").removesuffix(" async")
    return {
        "run": run,
        "test": test.name,
        "seed": seed,
        "volumes": [volume(one) for one in (found[0], found[-1])],
        "milliseconds": 1e3 * seconds / (generations * size_of(name, test)),
    }


def medians(values: Rows, rng: np.random.Generator) -> Rows:
    """Returns medians of bootstrap samples."""
    return np.asarray(np.median(rng.choice(values, (4000, len(values))), axis=1))


def shown(value: float, draws: Rows, digits: int = 4) -> str:
    """Returns a number with its 95 % interval."""
    low, high = np.quantile(draws, [0.025, 0.975])
    return f"{value:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"


def row(run: str, volumes: dict[str, Rows], rng: np.random.Generator) -> list[str]:
    """Returns the volumes of a search of ours and of the others beside it, at one budget."""
    mine = volumes[run]
    theirs = volumes.get(f"pymoo {run.split(maxsplit=1)[0]}", mine[:0])
    cells = [shown(float(np.median(mine)), medians(mine, rng))]
    if len(theirs):
        cells.append(shown(float(np.median(theirs)), medians(theirs, rng)))
        draws = medians(theirs, rng)
        if np.quantile(draws, 0.025) > 0:  # else there is no interval
            ratios = medians(mine, rng)[draws > 0] / draws[draws > 0]
            cells.append(shown(float(np.median(mine) / np.median(theirs)), ratios, 3))
    return [*cells, *["-"] * (3 - len(cells)), f"{np.median(volumes['random']):.3f}"]


def volumes_of(results: list[dict[str, Any]], test: Test, budget: int) -> dict[str, Rows]:
    """Returns run -> volumes after one of the budgets, a number for each seed."""
    found: dict[str, list[float]] = {}
    for one in results:
        if one["test"] == test.name:
            found.setdefault(one["run"], []).append(one["volumes"][budget])
    return {name: np.array(volumes) for name, volumes in found.items()}


def report(results: list[dict[str, Any]], generations: int) -> None:
    """Prints Markdown."""
    for budget, num in enumerate((generations * 2 // 5, generations)):
        print(f"\nafter {num} generations\n")
        print("| problem | algorithm | ours | pymoo | ours / pymoo | random |")
        print("| --- | --- | ---: | ---: | ---: | ---: |")
        rng = np.random.default_rng(0)
        for test in TESTS:
            volumes = volumes_of(results, test, budget)
            for run in [name for name in volumes if name.startswith("nsga")]:
                print("|", " | ".join([test.name, run, *row(run, volumes, rng)]), "|")
    print("\n| | ms a candidate, all told |\n| --- | ---: |")
    for run in RUNS:
        times = [one["milliseconds"] for one in results if one["run"] == run]
        if times:
            print(f"| {run} | {np.median(times):.3f} |")


def main() -> None:
    """Searches, then prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=11)
    parser.add_argument("--generations", type=int, default=250)
    parser.add_argument("--tests", nargs="*", default=[test.name for test in TESTS])
    parser.add_argument("--runs", nargs="*", default=list(RUNS), help="random is always run")
    parser.add_argument("--out", type=Path, help="a file for what was measured, as JSON")
    args = parser.parse_args()
    results = [
        search(run, test, seed, args.generations)
        for test in TESTS
        if test.name in args.tests
        for run in RUNS
        if run in (*args.runs, "random")
        for seed in range(1, args.seeds + 1)
    ]
    if args.out:
        args.out.write_text(json.dumps(results), encoding="utf-8")
    report(results, args.generations)


if __name__ == "__main__":
    main()
