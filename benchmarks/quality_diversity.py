"""Searches that keep many good models: CycleQD on small digit classifiers, MAP-Elites on functions.

    python benchmarks/quality_diversity.py models [--seeds 6] [--base-steps 3]
    python benchmarks/quality_diversity.py functions [--seeds 6]

`models`: three experts of three or four digits each are trained from a common base of 64-256-10
and merged; the tasks are the accuracies on each group of digits. The algorithm chooses parents and
shares (its genome says of which share of which expert a model is made); every model keeps a task
vector of its own, which it inherits from its parents, so that its singular values can be mutated.
All methods end with the candidate of the best mean on the training digits, the first 80%, and are
compared on the last 20%.

`functions`: cells filled and QD score of MAP-Elites beside random search, and beside pyribs (`pip
install ribs`) if it is there, with the same first generation and variation, counted alike.

Prints Markdown.
"""

from __future__ import annotations

import argparse
import importlib.util
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import irt_models as models
import numpy as np
import torch

from orchestrator.algorithms.archive import Cvt, Grid
from orchestrator.algorithms.base import Algorithm, Evaluated, Memory, Proposal
from orchestrator.algorithms.cycle_qd import CycleQd
from orchestrator.algorithms.genetic import Genetic
from orchestrator.algorithms.map_elites import Axis, MapElites
from orchestrator.algorithms.random_search import RandomSearch
from orchestrator.operators.crossover import Sbx
from orchestrator.operators.mutation import Polynomial
from orchestrator.reporting.archive_summary import Filled, over_time
from orchestrator.spaces.genes import Genes, reals
from workers.spectra import svd_scale

Array: TypeAlias = np.ndarray[Any, Any]
#: A model or a task vector: its four tensors, each with a first axis of 1.
Tensors: TypeAlias = list[torch.Tensor]
#: Changes a child's task vector.
Change: TypeAlias = Callable[[Tensors, np.random.Generator], Tensors]

GROUPS = ((0, 1, 2), (3, 4, 5), (6, 7, 8, 9))
CUT = int(0.8 * models.NUM_DIGITS)
BUDGET = 400
BASE_STEPS, EXPERT_STEPS, RATE = 3, 12, 0.002
WIDE = reals(["a", "b", "c"], [-1e6] * 3, [1e6] * 3)
COEFFICIENTS = reals(["a", "b", "c"], [0.0] * 3, [1.0] * 3, start=(1 / 3,) * 3)
CYCLE = CycleQd(population_size=1, archive=Grid(bins=8), mutation=None)


@dataclass(frozen=True)
class World:
    """A base, the task vectors of its experts, and digits to measure models on."""

    base: Tensors
    vectors: list[Tensors]

    @classmethod
    def of(cls, seed: int, base_steps: int) -> World:
        generator = torch.Generator().manual_seed(seed)
        rows, num = torch.arange(CUT), len(GROUPS)
        start = models.fresh(1, generator)
        base = models.train(start, rows, torch.ones(1, CUT), (base_steps,), RATE)
        copies = [part.repeat(num, 1, 1) for part in base]
        masks = models.of_classes(rows, GROUPS)
        experts = models.train(copies, rows, masks, (EXPERT_STEPS,) * num, RATE)
        vectors = [
            [expert[one : one + 1] - part for expert, part in zip(experts, base, strict=True)]
            for one in range(num)
        ]
        return cls(base, vectors)

    def scores(self, vector: Tensors, rows: torch.Tensor) -> Array:
        """Accuracy on each group of digits; (groups,)."""
        model = [part + change for part, change in zip(self.base, vector, strict=True)]
        masks = models.of_classes(rows, GROUPS).double().numpy()
        return np.asarray(masks @ models.right(model, rows)[0] / masks.sum(axis=1))

    def train(self, vector: Tensors) -> tuple[float, ...]:
        return tuple(float(one) for one in self.scores(vector, torch.arange(CUT)))

    def test(self, vector: Tensors) -> float:
        return float(self.scores(vector, torch.arange(CUT, models.NUM_DIGITS)).mean())


@dataclass(frozen=True)
class Found:
    """What a method ended at."""

    train: float
    test: float
    #: Mean number of cells that the archives of the tasks have filled.
    cells: float = 0.0


def blend(vectors: Sequence[Tensors], shares: Sequence[float]) -> Tensors:
    """Adds vectors up, so much of each."""
    return [
        sum((share * part for share, part in zip(shares, parts, strict=True)), torch.zeros(()))
        for parts in zip(*vectors, strict=True)
    ]


def spectral(vector: Tensors, rng: np.random.Generator) -> Tensors:
    """Scales all singular values of matrices; biases have a row of their own and pass through."""
    changed = []
    for part in vector:
        factors = torch.as_tensor(rng.uniform(0.7, 1.3, min(part.shape[1:])), dtype=part.dtype)
        changed.append(part if part.shape[1] == 1 else svd_scale(part[0], factors)[None])
    return changed


def noisy(vector: Tensors, rng: np.random.Generator) -> Tensors:
    """Adds noise of 0.0003 to every weight."""
    noise = [torch.as_tensor(rng.normal(0.0, 3e-4, part.shape)) for part in vector]
    return [(part + one).to(part.dtype) for part, one in zip(vector, noise, strict=True)]


def unchanged(vector: Tensors, _: np.random.Generator) -> Tensors:
    """Leaves a vector as it is."""
    return vector


def share_of_first(child: Sequence[float], first: Evaluated, second: Evaluated) -> float:
    """Tells from the genomes with which share the algorithm mixed the parents."""
    to, start = np.asarray(first.genome), np.asarray(second.genome)
    way = to - start
    length = float(way @ way)
    return float((np.asarray(child) - start) @ way / length) if length > 0 else 0.5


@dataclass
class Lineage:
    """Models with task vectors of their own, in the order they were made."""

    world: World
    algorithm: CycleQd
    change: Change
    rng: np.random.Generator

    def __post_init__(self) -> None:
        self.vectors: dict[str, Tensors] = {}
        self.known: dict[str, Evaluated] = {}
        self.memory = Memory()
        num = len(self.world.vectors)
        units = [tuple(float(row == one) for row in range(num)) for one in range(num)]
        born = [self.measure(unit, self.world.vectors[one]) for one, unit in enumerate(units)]
        self.memory = self.algorithm.tell(self.memory, born)
        self.experts = born

    def measure(self, genome: Sequence[float], vector: Tensors) -> Evaluated:
        number = len(self.known) + 1
        values = self.world.train(vector)
        one = Evaluated(
            candidate=f"s{number}",
            number=number,
            genome=tuple(genome),
            fitness=statistics.fmean(values),
            values=values,
        )
        self.vectors[one.candidate], self.known[one.candidate] = vector, one
        return one

    def step(self, proposal: Proposal) -> None:
        names = proposal.parents if len(proposal.parents) == 2 else proposal.parents * 2
        first, second = (self.known[name] for name in names)
        share = share_of_first(proposal.genome, first, second)
        pair = [self.vectors[name] for name in names]
        child = self.change(blend(pair, (share, 1.0 - share)), self.rng)
        self.memory = self.algorithm.tell(self.memory, [self.measure(proposal.genome, child)])

    def cells(self) -> float:
        limits = tuple((low, high) for low, high in self.memory.state["limits"])
        archives = self.algorithm.archives(self.memory.members, limits)
        return statistics.fmean(map(len, archives))

    def found(self) -> Found:
        best = max(self.known.values(), key=lambda one: one.rank)
        assert best.fitness is not None
        return Found(best.fitness, self.world.test(self.vectors[best.candidate]), self.cells())


def cycled(
    world: World, seed: int, algorithm: CycleQd, change: Change, *, fixed: bool = False
) -> Found:
    """Lets the algorithm choose parents and shares."""
    lineage = Lineage(world, algorithm, change, np.random.default_rng([seed, 2]))
    for turn in range(BUDGET - len(GROUPS)):
        memory = lineage.memory
        if fixed:
            memory = replace(memory, state={**memory.state, "told": 0})
        (proposal,) = algorithm.ask(WIDE, memory, np.random.default_rng([seed, 1, turn]))
        lineage.step(proposal)
    return lineage.found()


def at_random(world: World, seed: int) -> Found:
    """Mixes two experts drawn at random, each time anew, with the same weights and mutation."""
    rng = np.random.default_rng([seed, 2])
    lineage = Lineage(world, CYCLE, spectral, rng)
    for _ in range(BUDGET - len(GROUPS)):
        pair = [lineage.experts[one] for one in rng.choice(len(GROUPS), 2, replace=False)]
        one, other = rng.normal(1.0, CYCLE.omega_sigma, 2)
        first, second = (np.asarray(each.genome) for each in pair)
        genome = (one * first + other * second) / (one + other)
        parents = tuple(each.candidate for each in pair)
        lineage.step(Proposal(genome=tuple(genome), parents=parents, operator="random"))
    return lineage.found()


def on_coefficients(world: World, seed: int, algorithm: Algorithm) -> Found:
    """Searches shares of the experts alone, as a campaign does."""
    archives = replace(CYCLE, limits=((0.0, 1.15),))
    memory, told, number = Memory(), Memory(), 0
    everyone: list[Evaluated] = []
    while number < BUDGET:
        rng = np.random.default_rng([seed, 1, number])
        born = []
        for proposal in algorithm.ask(COEFFICIENTS, memory, rng)[: BUDGET - number]:
            number += 1
            values = world.train(blend(world.vectors, proposal.genome))
            born.append(
                Evaluated(
                    candidate=f"s{number}",
                    number=number,
                    genome=proposal.genome,
                    fitness=statistics.fmean(values),
                    values=values,
                )
            )
        memory, told = algorithm.tell(memory, born), archives.tell(told, born)
        everyone += born
    best = max(everyone, key=lambda one: one.rank)
    assert best.fitness is not None
    found = archives.archives(told.members, ((0.0, 1.15),) * len(GROUPS))
    cells = statistics.fmean(map(len, found))
    return Found(best.fitness, world.test(blend(world.vectors, best.genome)), cells)


def plain(world: World, shares: Sequence[float]) -> Found:
    """Measures one model."""
    vector = blend(world.vectors, shares)
    return Found(statistics.fmean(world.train(vector)), world.test(vector))


def best_expert(world: World) -> Found:
    """Measures the experts and returns the best of them on the training digits."""
    units = np.eye(len(GROUPS)).tolist()
    return max((plain(world, unit) for unit in units), key=lambda one: one.train)


UNIFORM = replace(CYCLE, alpha_low=0.8)
BATCH = 20
METHODS: dict[str, Callable[[World, int], Found]] = {
    "best expert": lambda world, _: best_expert(world),
    "uniform average of the experts": lambda world, _: plain(world, (1 / 3,) * 3),
    "the base itself": lambda world, _: plain(world, (0.0,) * 3),
    "random (two experts)": at_random,
    "fixed quality axis": lambda world, seed: cycled(world, seed, CYCLE, spectral, fixed=True),
    "no mutation": lambda world, seed: cycled(world, seed, CYCLE, unchanged),
    "Gaussian mutation": lambda world, seed: cycled(world, seed, CYCLE, noisy),
    "**CycleQD**": lambda world, seed: cycled(world, seed, CYCLE, spectral),
    "CycleQD, uniform sampling": lambda world, seed: cycled(world, seed, UNIFORM, spectral),
    "CycleQD, omega 1 ± 0.01": lambda world, seed: cycled(
        world, seed, replace(CYCLE, omega_sigma=0.01), spectral
    ),
    "shares alone: random": lambda world, seed: on_coefficients(
        world, seed, RandomSearch(population_size=BATCH)
    ),
    "shares alone: genetic": lambda world, seed: on_coefficients(
        world,
        seed,
        Genetic(population_size=BATCH, crossover=Sbx(), mutation=Polynomial(), elites=1),
    ),
    "shares alone: CycleQD": lambda world, seed: on_coefficients(
        world, seed, CycleQd(population_size=BATCH)
    ),
}


def compare_models(num_seeds: int, base_steps: int) -> None:
    """Prints what every method ended at, mean over the seeds."""
    found: dict[str, list[Found]] = defaultdict(list)
    seconds: dict[str, float] = defaultdict(float)
    for seed in range(num_seeds):
        world = World.of(seed, base_steps)
        for name, method in METHODS.items():
            begun = time.process_time()
            found[name].append(method(world, seed))
            seconds[name] += time.process_time() - begun
    print("| method | train mean | test mean | cells an archive | CPU-s a run |")
    print("| --- | ---: | ---: | ---: | ---: |")
    for name, ends in found.items():
        tests = [one.test for one in ends]
        cells = f"{statistics.fmean(one.cells for one in ends):.0f}" if ends[0].cells else ""
        print(
            f"| {name} | {statistics.fmean(one.train for one in ends):.3f} "
            f"| {statistics.fmean(tests):.3f} ± {statistics.stdev(tests):.3f} | {cells} "
            f"| {seconds[name] / num_seeds:.1f} |"
        )
    cycle, fixed = found["**CycleQD**"], found["fixed quality axis"]
    better = sum(one.train >= other.train for one, other in zip(cycle, fixed, strict=True))
    print(f"\nCyclic at least as good as a fixed axis on the train mean: {better} of {num_seeds}")


#: Angles of an arm's twelve joints, as shares of a full turn.
ARM = reals([f"joint{one}" for one in range(12)], [0.0] * 12, [1.0] * 12)
RASTRIGIN = reals([f"x{one}" for one in range(10)], [-5.12] * 10, [5.12] * 10)
GENERATION, GENERATIONS = 100, 100
#: Values of the arm: how even its joints are, then where it reaches.
REACH = tuple(Axis(of="objective", place=one, limits=(0.0, 1.0)) for one in (1, 2))
PLACE = tuple(Axis(of="gene", place=one, limits=(-5.12, 5.12)) for one in (0, 1))


def arm(genomes: Array) -> Array:
    """Reaches of planar arms (Cully et al. 2015): 1 - variance of the angles, x, y; (arms, 3)."""
    angles = 2 * np.pi * (genomes - 0.5)
    turned = np.cumsum(angles, axis=1)
    reach = np.stack([np.cos(turned).mean(axis=1), np.sin(turned).mean(axis=1)], axis=1)
    return np.column_stack([1.0 - genomes.var(axis=1), (reach + 1) / 2])


def rastrigin(genomes: Array) -> Array:
    """Share of the way from the worst value of Rastrigin's function to its best; (points, 1)."""
    lost = (genomes**2 - 10 * np.cos(2 * np.pi * genomes) + 10).sum(axis=1)
    return np.asarray(1.0 - lost / (genomes.shape[1] * (5.12**2 + 20)))[:, None]


@dataclass(frozen=True)
class Problem:
    """A function with niches: what is found is counted by this archive."""

    name: str
    genes: Genes
    function: Callable[[Array], Array]
    archive: MapElites
    floor: float = 0.0


PROBLEMS = (
    Problem(
        "arm, grid 30 x 30",
        ARM,
        arm,
        MapElites(population_size=GENERATION, archive=Grid(bins=30), axes=REACH),
    ),
    Problem(
        "arm, tessellation of 900",
        ARM,
        arm,
        MapElites(population_size=GENERATION, archive=Cvt(cells=900, points=20_000), axes=REACH),
    ),
    Problem(
        "Rastrigin in 10 dimensions, grid 30 x 30",
        RASTRIGIN,
        rastrigin,
        MapElites(population_size=GENERATION, archive=Grid(bins=30), axes=PLACE),
    ),
)


def measured(problem: Problem, genomes: Sequence[Sequence[float]], first: int) -> list[Evaluated]:
    """Returns candidates of these genomes, numbered from `first`."""
    values = problem.function(np.asarray(genomes, dtype=np.float64))
    return [
        Evaluated(
            candidate=f"s{first + place}",
            number=first + place,
            genome=tuple(map(float, genome)),
            fitness=float(row[0]),
            values=tuple(map(float, row)),
        )
        for place, (genome, row) in enumerate(zip(genomes, values, strict=True))
    ]


def ours(problem: Problem, algorithm: Algorithm, seed: int) -> list[list[Evaluated]]:
    """Returns the generations of a search."""
    memory, generations = Memory(), list[list[Evaluated]]()
    for generation in range(GENERATIONS):
        rng = np.random.default_rng([seed, generation])
        asked = [one.genome for one in algorithm.ask(problem.genes, memory, rng)]
        generations.append(measured(problem, asked, 1 + generation * GENERATION))
        memory = algorithm.tell(memory, generations[-1])
    return generations


def of_peer(problem: Problem, seed: int) -> list[list[Evaluated]]:
    """Returns the generations of pyribs' MAP-Elites with iso+line, on its own grid."""
    from ribs.archives import CVTArchive, GridArchive
    from ribs.emitters import IsoLineEmitter
    from ribs.schedulers import Scheduler

    genes, kind = problem.genes, problem.archive.archive
    ranges = [axis.limits for axis in problem.archive.axes]
    facts: Any = {"solution_dim": len(genes.lower), "ranges": ranges, "seed": seed}
    if isinstance(kind, Cvt):
        archive = CVTArchive(centroids=kind.centroids(2), **facts)
    else:
        archive = GridArchive(dims=[30, 30], **facts)
    first = genes.sample(np.random.default_rng([seed, 0]), GENERATION)
    width = genes.upper[0] - genes.lower[0]
    emitter = IsoLineEmitter(
        archive,
        iso_sigma=problem.archive.iso_sigma * width,
        line_sigma=problem.archive.line_sigma,
        initial_solutions=np.asarray(first),
        bounds=list(zip(genes.lower, genes.upper, strict=True)),
        batch_size=GENERATION,
        seed=seed,
    )
    scheduler, generations = Scheduler(archive, [emitter]), list[list[Evaluated]]()
    for generation in range(GENERATIONS):
        asked = scheduler.ask()
        born = measured(problem, asked.tolist(), 1 + generation * GENERATION)
        numbers = [[axis.number(one) for axis in problem.archive.axes] for one in born]
        scheduler.tell([one.fitness for one in born], numbers)
        generations.append(born)
    return generations


def compare_functions(num_seeds: int) -> None:
    """Prints what every search filled of each problem's archive, mean over the seeds."""
    searches: dict[str, Callable[[Problem, int], list[list[Evaluated]]]] = {
        "random search": lambda problem, seed: ours(
            problem, RandomSearch(population_size=GENERATION), seed
        ),
        "genetic, for its best alone": lambda problem, seed: ours(
            problem,
            Genetic(population_size=GENERATION, crossover=Sbx(), mutation=Polynomial(), elites=0),
            seed,
        ),
        "**map_elites**": lambda problem, seed: ours(problem, problem.archive, seed),
        "map_elites, SBX and mutation": lambda problem, seed: ours(
            problem, replace(problem.archive, variation="operators"), seed
        ),
    }
    if importlib.util.find_spec("ribs") is not None:
        searches["pyribs, iso+line"] = of_peer
    print("| problem | search | coverage at 2,000 | at 10,000 | QD score | best | s a run |")
    print("| --- | --- | ---: | ---: | ---: | ---: | ---: |")
    for problem in PROBLEMS:
        for name, search in searches.items():
            ends, early, begun = list[Filled](), list[Filled](), time.perf_counter()
            runs = [search(problem, seed) for seed in range(num_seeds)]
            seconds = (time.perf_counter() - begun) / num_seeds
            for run in runs:
                course = over_time(problem.archive, run, problem.floor)
                early.append(course[GENERATIONS // 5 - 1])
                ends.append(course[-1])
            print(
                f"| {problem.name} | {name} | {mean(early, 'coverage'):.3f} "
                f"| {mean(ends, 'coverage'):.3f} | {mean(ends, 'qd_score'):.0f} "
                f"| {mean(ends, 'best'):.3f} | {seconds:.1f} |"
            )


def mean(found: Sequence[Filled], name: str) -> float:
    """Returns the mean of one number."""
    return statistics.fmean(getattr(one, name) for one in found)


def main() -> None:
    """Runs what the command line says."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("what", choices=("models", "functions"))
    parser.add_argument("--seeds", type=int, default=6)
    parser.add_argument("--base-steps", type=int, default=BASE_STEPS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.what == "models":
        compare_models(arguments.seeds, arguments.base_steps)
    else:
        compare_functions(arguments.seeds)


if __name__ == "__main__":
    main()
