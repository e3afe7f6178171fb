"""Searches that choose the method and the models of a merge, too.

    python benchmarks/merge_choices.py recipes [--seeds 20] [--evaluations 140 400]
    python benchmarks/merge_choices.py models [--seeds 6] [--evaluations 140]

Of a pool of four models each candidate takes one to three, and merges them by one of some methods.
`recipes`: what a candidate is worth follows from its recipe, nothing is built: one method and two
models are right, and the nearer all weights are to 0.7 and all densities to 0.4 the better.
`models`: tiny transformers, trained here: specialists of reversing and of incrementing, one of
copying, which is not asked for, and a damaged base; fitness is the exact match over both skills,
and test rows are seen once, by the winner. Prints Markdown: means over the seeds with their
standard errors.
"""

from __future__ import annotations

import argparse
import copy
import math
import statistics
import tempfile
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import tiny_transformers as tiny
import torch
from merge_search import Bench, weights_models
from search_problems import Problem, run

from orchestrator.algorithms.cma_es import CmaEs
from orchestrator.algorithms.genetic import Genetic
from orchestrator.algorithms.nsga2 import Nsga2
from orchestrator.algorithms.random_search import RandomSearch
from orchestrator.operators.crossover import Sbx
from orchestrator.operators.mutation import Gaussian, Polynomial
from orchestrator.operators.selection import Tournament
from orchestrator.spaces.base import Space
from orchestrator.spaces.merge import Merge
from orchestrator.spaces.pool import Pool
from workers.recipe import MergeRecipe

#: Methods, and how much each lacks where recipes alone are judged.
_LACKS = {"linear": 1.0, "ties": 0.4, "dare_ties": 0.0, "slerp": 0.7}
_BEST = {"weight": 0.7, "density": 0.4}


def space_of(base: str, models: tuple[str, ...], *methods: str) -> Space:
    """Opens the space that is searched."""
    bounds = {"weight": (0.0, 2.0), "density": (0.05, 1.0)}
    return Merge(
        base=base, sources=Pool(pool=models, choose=(1, 3)), method=methods, layer_groups=2,
        bounds=bounds, options={"normalize": False}, dtype="float32",
    ).open(0)  # fmt: skip


def searches() -> Mapping[str, Any]:
    """Searches that are compared."""
    common: dict[str, Any] = {"population_size": 20, "elites": 4, "crossover": Sbx()}
    return {
        "random": RandomSearch(population_size=20),
        "genetic, polynomial": Genetic(**common, mutation=Polynomial()),
        "genetic, gaussian": Genetic(
            **common, selection=Tournament(size=3), mutation=Gaussian(sigma=0.15)
        ),
        "nsga2": Nsga2(population_size=20),
        "cma_es": CmaEs(),
    }


class Search:
    """Runs of an algorithm, and what they found."""

    def __init__(self, space: Space, worth: Callable[[Any], float]) -> None:
        self._space = space
        self._worth = worth

    def best(self, algorithm: Any, evaluations: int, seed: int) -> tuple[float, MergeRecipe, int]:
        """Returns the best fitness, its recipe, and how many recipes were had before."""
        found: dict[str, tuple[float, Any]] = {}
        repeated = 0

        def of(genome: Any) -> float:
            nonlocal repeated
            recipe = self._space.decode(genome)
            digest = recipe.digest()
            repeated += digest in found
            if digest not in found:
                found[digest] = self._worth(recipe), recipe
            return found[digest][0]

        problem = Problem(name="", genes=self._space.genes, worth=of, optimum=math.inf)
        run(algorithm, problem, seed=seed, evaluations=evaluations)
        return *max(found.values(), key=lambda one: one[0]), repeated


def recipes(seeds: int, budgets: list[int]) -> None:
    """Judges recipes alone."""
    with tempfile.TemporaryDirectory() as folder:
        model = tiny.new_model(3, 0)
        base, *others = (tiny.save(model, Path(folder) / name) for name in "xabcd")
        space = space_of(base, tuple(others), *_LACKS)
        search = Search(space, lambda recipe: _worth(recipe, {others[1], others[2]}))
        print(f"{len(space.genes)} genes\n\n| search | evaluations | best | repeated recipes |")
        print("| --- | ---: | ---: | ---: |")
        for name, algorithm in searches().items():
            for budget in budgets:
                runs = [search.best(algorithm, budget, seed) for seed in range(seeds)]
                repeated = statistics.fmean(one[2] for one in runs)
                best = _mean([one[0] for one in runs])
                print(f"| {name} | {budget} | {best} | {repeated:.1f} |", flush=True)


def _worth(recipe: MergeRecipe, right: set[str]) -> float:
    """Returns 0 for the best merge, less for any other."""
    lack = _LACKS[recipe.method] + 0.5 * len(set(recipe.sources) ^ right)
    for part in recipe.slices:
        for name, values in part.settings[0].values.items():
            if name in _BEST:
                lack += sum((one - _BEST[name]) ** 2 for one in values) / len(recipe.slices)
    return -lack


def pool_models(folder: Path) -> tuple[str, tuple[str, ...]]:
    """A base and four variants of it."""
    base, *experts = weights_models(folder, 0)
    model = tiny.new_model(3, 0)
    model.load_state_dict(type(model).from_pretrained(base).state_dict())
    copying = tiny.train(copy.deepcopy(model), {"copy": 128}, 30, 3e-4, 1)
    generator = torch.Generator().manual_seed(5)
    for tensor in model.parameters():
        tensor.data += 0.5 * tensor.data.std() * torch.randn(tensor.shape, generator=generator)
    others = tiny.save(model, folder / "damaged"), tiny.save(copying, folder / "copy")
    return base, (*others, *experts)


def models(seeds: int, budgets: list[int]) -> None:
    """Judges models that are built."""
    with tempfile.TemporaryDirectory() as folder:
        base, pool = pool_models(Path(folder))
        bench = Bench(space_of(base, pool, "linear", "ties", "dare_ties"), 128, 2048)
        print(f"{len(bench.space.genes)} genes\n\n| model | mean, test |\n| --- | ---: |")
        for one in bench.space.references:
            found = statistics.fmean(bench.exact(one.recipe, "test"))
            print(f"| {Path(one.name).name} | {found:.3f} |")
        search = Search(bench.space, lambda one: statistics.fmean(bench.exact(one, "search")))
        print("\n| search | evaluations | mean, test | winners |\n| --- | ---: | ---: | --- |")
        for name, algorithm in searches().items():
            for budget in budgets:
                won = [search.best(algorithm, budget, seed)[1] for seed in range(seeds)]
                test = _mean([statistics.fmean(bench.exact(one, "test")) for one in won])
                methods = Counter(one.method for one in won).most_common()
                said = ", ".join(f"{method} {count}" for method, count in methods)
                print(f"| {name} | {budget} | {test} | {said} |", flush=True)


def _mean(found: list[float]) -> str:
    error = statistics.stdev(found) / len(found) ** 0.5 if len(found) > 1 else 0.0
    return f"{statistics.fmean(found):.3f} ± {error:.3f}"


def main() -> None:
    """Runs one of the two."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["recipes", "models"])
    parser.add_argument("--seeds", type=int)
    parser.add_argument("--evaluations", type=int, nargs="+")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    if chosen.what == "recipes":
        recipes(chosen.seeds or 20, chosen.evaluations or [140, 400])
    else:
        models(chosen.seeds or 6, chosen.evaluations or [140])


if __name__ == "__main__":
    main()
