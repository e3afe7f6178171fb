"""Searches over merges and routes of tiny transformers whose answers are known.

    python benchmarks/merge_search.py weights [--seeds 5] [--evaluations 140]
    python benchmarks/merge_search.py routes [--seeds 5] [--evaluations 400]

`weights`: two specialists (reverse, increment) of one small base, merged by DARE-TIES with 16
genes; every search has the same budget; test rows are seen once, by the winner. `routes`: two
models with noise in different layers, of which one path through both works; whoever finds it is
seen in the exact match. Models are trained here; merges and paths are built by the product's own
builder. Prints Markdown: mean and standard deviation over the seeds.
"""

from __future__ import annotations

import argparse
import copy
import math
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import tiny_transformers as tiny
import torch
from search_problems import Problem, run

from orchestrator.algorithms.genetic import Genetic
from orchestrator.algorithms.random_search import RandomSearch
from orchestrator.operators.crossover import Sbx, Uniform
from orchestrator.operators.mutation import Flip, Gaussian, Polynomial
from orchestrator.operators.selection import Tournament
from orchestrator.spaces.base import Space
from orchestrator.spaces.dataflow import Dataflow
from orchestrator.spaces.genes import Genome
from orchestrator.spaces.merge import Merge
from workers.paths import Hop

_SKILLS = ("reverse", "increment")
#: With more of them the base knows both skills, with fewer neither.
_BASE_STEPS = 160


class Bench:
    """Builds a space's candidates and scores them on rows of both skills."""

    def __init__(self, space: Space, search_rows: int, test_rows: int) -> None:
        self.space = space
        self._builder = space.builder.open("cpu")
        self._rows = {
            kind: [tiny.sequences(task, count, seed) for task in _SKILLS]
            for kind, count, seed in (("search", search_rows, 91), ("test", test_rows, 92))
        }

    def exact(self, recipe: Any, kind: str) -> list[float]:
        """Exact match of each skill."""
        model = self._builder.build(recipe).model
        return [float(tiny.hits(model, rows).all(1).float().mean()) for rows in self._rows[kind]]

    def per_digit(self, recipe: Any, kind: str) -> float:
        """Share of right digits over both skills."""
        model = self._builder.build(recipe).model
        parts = [float(tiny.hits(model, rows).float().mean()) for rows in self._rows[kind]]
        return statistics.fmean(parts)


def search(
    algorithm: Any, bench: Bench, worth: Callable[[Any], float], evaluations: int, seed: int
) -> Genome:
    """Runs an algorithm to its budget; returns the best genome."""
    best: tuple[float, Genome] = (-math.inf, ())

    def of(genome: Genome) -> float:
        nonlocal best
        found = worth(bench.space.decode(genome))
        best = max(best, (found, genome), key=lambda one: one[0])
        return found

    problem = Problem(name="", genes=bench.space.genes, worth=of, optimum=math.inf)
    run(algorithm, problem, seed=seed, evaluations=evaluations)
    return best[1]


def weights_models(folder: Path, seed: int) -> tuple[str, str, str]:
    """A base that knows both skills by half, and a specialist of each."""
    rows = {"copy": 28, "reverse": 70, "increment": 30}
    base = tiny.train(tiny.new_model(3, seed), rows, _BASE_STEPS, 5e-4, seed)
    paths = [tiny.save(base, folder / "base")]
    for task in _SKILLS:
        expert = tiny.train(copy.deepcopy(base), {task: 128}, 30, 3e-4, seed + 1)
        paths.append(tiny.save(expert, folder / task))
    return paths[0], paths[1], paths[2]


def weights(seeds: int, evaluations: int) -> None:
    """Evolves merges of two specialists."""
    with tempfile.TemporaryDirectory() as folder:
        started = time.process_time()
        base, *experts = weights_models(Path(folder), 0)
        settings = Merge(
            base=base, sources=tuple(experts), method="dare_ties", layer_groups=2,
            filters=("self_attn",), bounds={"weight": (0.0, 2.0), "density": (0.05, 1.0)},
            options={"normalize": False}, dtype="float32",
        )  # fmt: skip
        bench = Bench(settings.open(0), 256, 2048)
        print(f"{len(bench.space.genes)} genes; models in {time.process_time() - started:.0f} s\n")

        def worth(recipe: Any) -> float:
            return statistics.fmean(bench.exact(recipe, "search"))

        print("| model | reverse | increment | mean, test |\n| --- | ---: | ---: | ---: |")
        for one in bench.space.references:
            scores = bench.exact(one.recipe, "test")
            print(f"| {Path(one.name).name} | {scores[0]:.3f} | {scores[1]:.3f} | "
                  f"{statistics.fmean(scores):.3f} |")  # fmt: skip
        _compare(bench, worth, weight_searches(), seeds, evaluations)


def weight_searches() -> Mapping[str, Any]:
    """Searches of the parameter space."""
    return {
        "random": RandomSearch(population_size=20),
        "genetic": Genetic(
            population_size=20, elites=4, selection=Tournament(size=3), crossover=Sbx(),
            mutation=Gaussian(sigma=0.15),
        ),
        "genetic, polynomial": Genetic(
            population_size=20, elites=4, crossover=Sbx(), mutation=Polynomial()
        ),
        "genetic, defaults": Genetic(population_size=20),
        "genetic, sbx, polynomial, one elite": Genetic(
            population_size=20, elites=1, crossover=Sbx(), mutation=Polynomial()
        ),
        "genetic, uniform, flip, half": Genetic(
            population_size=20, crossover=Uniform(), mutation=Flip()
        ),
        **_cma(),
    }  # fmt: skip


def _cma() -> Mapping[str, Any]:
    from orchestrator.algorithms.cma_es import CmaEs

    return {"cma_es": CmaEs()}


def routes(seeds: int, evaluations: int) -> None:
    """Evolves paths through two damaged models."""
    with tempfile.TemporaryDirectory() as folder:
        rows = dict.fromkeys(_SKILLS, 64)
        model = tiny.train(tiny.new_model(4, 0), rows, 420, 1e-3, 0)
        paths = []
        for name, layers in (("a", [1]), ("b", [0, 3])):
            damaged = copy.deepcopy(model)
            _add_noise(damaged, layers)
            paths.append(tiny.save(damaged, Path(folder) / name))
        settings = Dataflow(
            sources=tuple(paths), repeats=2, max_layers=10, keep_ends=False, dtype="float32",
            delete_one=True,
        )  # fmt: skip
        bench = Bench(settings.open(0), 96, 1024)
        known = [Hop(source=0, layer=0), Hop(source=1, layer=1)]
        known += [Hop(source=0, layer=2), Hop(source=0, layer=3)]
        print("| path | exact match, test |\n| --- | ---: |")
        for one in bench.space.references:
            print(f"| {one.name.replace(folder + '/', '')} | "
                  f"{statistics.fmean(bench.exact(one.recipe, 'test')):.3f} |")  # fmt: skip
        recipe = bench.space.decode(_path_genome(bench.space, known))
        print(f"| known answer | {statistics.fmean(bench.exact(recipe, 'test')):.3f} |")
        _compare(
            bench, lambda recipe: bench.per_digit(recipe, "search"), route_searches(),
            seeds, evaluations,
        )  # fmt: skip


def _path_genome(space: Space, hops: Sequence[Hop]) -> Genome:
    """Returns the genome of a path: what goes backwards does so in the second repetition."""
    slots = [hop.source * 4 + hop.layer for hop in hops]
    taken, at = set[int](), -1
    for slot in slots:
        at = slot if slot > at else slot + 8
        taken.add(at)
    return tuple(1.0 if slot in taken else 0.0 for slot in range(len(space.genes)))


def route_searches() -> Mapping[str, Any]:
    """Searches of the data-flow space."""
    return {
        "random": RandomSearch(population_size=20),
        "genetic": Genetic(
            population_size=20, selection=Tournament(size=3), crossover=Uniform(),
            mutation=Flip(probability=1.2 / 16), mode="async",
        ),
        **_cma(),
    }  # fmt: skip


def _add_noise(model: torch.nn.Module, layers: Sequence[int]) -> None:
    generator = torch.Generator().manual_seed(5)
    for name, tensor in model.named_parameters():
        if any(f".h.{layer}." in name for layer in layers) and tensor.dim() == 2:
            noise = torch.randn(tensor.shape, generator=generator)
            tensor.data += 4 * tensor.data.std() * noise


def _compare(
    bench: Bench, worth: Callable[[Any], float], searches: Mapping[str, Any], seeds: int,
    evaluations: int,
) -> None:  # fmt: skip
    print(f"\n| search, {evaluations} evaluations | mean, test | each seed | CPU s a run |")
    print("| --- | ---: | --- | ---: |")
    for name, algorithm in searches.items():
        started, found = time.process_time(), []
        for seed in range(seeds):
            best = search(algorithm, bench, worth, evaluations, seed)
            found.append(statistics.fmean(bench.exact(bench.space.decode(best), "test")))
        each = ", ".join(f"{one:.3f}" for one in found)
        spent = (time.process_time() - started) / seeds
        deviation = statistics.stdev(found) if len(found) > 1 else 0.0
        mean = statistics.fmean(found)
        print(f"| {name} | {mean:.3f} ± {deviation:.3f} | {each} | {spent:.1f} |")


def main() -> None:
    """Runs one of the two."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("experiment", choices=["weights", "routes"])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--evaluations", type=int)
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    if chosen.experiment == "weights":
        weights(chosen.seeds, chosen.evaluations or 140)
    else:
        routes(chosen.seeds, chosen.evaluations or 400)


if __name__ == "__main__":
    main()
