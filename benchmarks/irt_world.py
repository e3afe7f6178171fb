"""Merges of small digit classifiers, and searches for the best of them.

Four experts of three or two digits each are trained a little from a weak common base; a merge adds
their weighted task vectors to it, with weights of their own for each of two layers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import irt_models as models
import numpy as np
import torch

from evaluators.base import Score, TaskFacts, TaskScore
from orchestrator.algorithms.base import Algorithm, Evaluated, Memory
from orchestrator.algorithms.genetic import Genetic
from orchestrator.algorithms.random_search import RandomSearch
from orchestrator.measurement.item_bank import ItemBank
from orchestrator.measurement.item_memory import ItemMemory
from orchestrator.operators.crossover import Sbx
from orchestrator.operators.mutation import Polynomial
from orchestrator.spaces.genes import Genome, reals

Array: TypeAlias = np.ndarray[Any, Any]
#: Fitness and genome of a candidate.
Born: TypeAlias = tuple[float, Genome]

GROUPS = ((0, 1, 2), (3, 4, 5), (6, 7), (8, 9))
GENES = 2 * len(GROUPS)
GENES = reals(
    names=tuple(f"gene{index}" for index in range(GENES)),
    lower=(0.0,) * GENES,
    upper=(1.0,) * GENES,
    start=(1.0 / len(GROUPS),) * GENES,
)
GENETIC = Genetic(population_size=16, crossover=Sbx(), mutation=Polynomial(), elites=1)
RANDOM = RandomSearch(population_size=15)
GENERATIONS = 14
TOP = 5
DOCUMENTS = 20


@dataclass(frozen=True)
class World:
    """A base and experts of it, search digits and test digits that none of them was trained on."""

    base: models.Stack
    experts: models.Stack
    search: torch.Tensor
    test: torch.Tensor

    @classmethod
    def of(cls, seed: int) -> World:
        """Trains them."""
        generator = torch.Generator().manual_seed(seed)
        order = torch.tensor(np.random.default_rng(seed).permutation(models.NUM_DIGITS))
        few = order[:60]
        start = models.fresh(1, generator)
        base = models.train(start, few, torch.ones(1, 60), (3,), 0.003)
        rows, num = order[:600], len(GROUPS)
        copies = [part.repeat(num, 1, 1) for part in base]
        experts = models.train(copies, rows, models.of_classes(rows, GROUPS), (6,) * num, 0.002)
        return cls(base, experts, order[600:1400], order[1400:])

    def answers(self, genomes: Sequence[Genome], rows: torch.Tensor) -> Array:
        """Returns what merges get right: (merges, rows)."""
        merges = models.weighted_merges(self.base, self.experts, np.array(genomes))
        return models.right(merges, rows)

    def references(self) -> list[tuple[str, Score]]:
        """The base, the experts and their plain average, measured in full."""
        alone = np.tile(np.eye(len(GROUPS)), 2)
        genomes = [(0.0,) * GENES, *(tuple(one) for one in alone.tolist()), GENES.start or ()]
        answers = self.answers(genomes, self.search)
        return [(f"r{index + 1}", score(one)) for index, one in enumerate(answers)]


def score(answers: Array) -> Score:
    """Returns what an evaluator would."""
    values = tuple(answers.tolist())
    mean = float(answers.mean())
    task = TaskScore(value=mean, stderr=None, documents=len(values), per_document=values)
    return Score(fitness=mean, tasks={"digits": task})


def begin(settings: ItemBank, world: World, seed: int) -> ItemMemory:
    """Returns the memory once the references have been measured."""
    facts = TaskFacts(documents=len(world.search), rows="", is_mean=True)
    memory = settings.start({"digits": facts}, {"digits": 1.0}, seed)
    return settings.learn(memory, [], world.references())


def evolve(
    algorithm: Algorithm, seed: int, measure: Callable[[Sequence[Genome]], Sequence[float]]
) -> list[Born]:
    """Returns all candidates with their fitness, in the order in which they were proposed."""
    memory: Memory = ()
    born: list[Born] = []
    for generation in range(GENERATIONS):
        rng = np.random.default_rng([seed, generation])
        genomes = [proposal.genome for proposal in algorithm.ask(GENES, memory, rng)]
        evaluated = []
        for genome, fitness in zip(genomes, measure(genomes), strict=True):
            evaluated.append(
                Evaluated(candidate="", number=len(born), genome=genome, fitness=float(fitness))
            )
            born.append((float(fitness), genome))
        memory = algorithm.tell(memory, evaluated)
    return born


@dataclass
class Run:
    """One search in one world, and the digits that it spends."""

    world: World
    seed: int
    spent: int = 0

    def in_full(self, genomes: Sequence[Genome]) -> Sequence[float]:
        """Measures candidates on all search digits."""
        answers = self.world.answers(genomes, self.world.search)
        self.spent += answers.size
        return list(answers.mean(axis=1))

    def by_means(self) -> Callable[[Sequence[Genome]], Sequence[float]]:
        """Measures each candidate on random digits of its own."""
        rng = np.random.default_rng([self.seed, 99])

        def measure(genomes: Sequence[Genome]) -> Sequence[float]:
            answers = self.world.answers(genomes, self.world.search)
            self.spent += len(genomes) * DOCUMENTS
            return [float(rng.choice(one, DOCUMENTS, replace=False).mean()) for one in answers]

        return measure

    def by_estimates(self) -> Callable[[Sequence[Genome]], Sequence[float]]:
        """Measures candidates by an item bank, which learns of each generation."""
        settings = ItemBank(documents=DOCUMENTS)
        memory = begin(settings, self.world, self.seed)
        self.spent += sum(one.num_documents for _, one in self.world.references())
        number = 0

        def measure(genomes: Sequence[Genome]) -> Sequence[float]:
            nonlocal memory, number
            answers = self.world.answers(genomes, self.world.search)
            rows, found = [], []
            for one in answers:
                documents = settings.choose(memory, number)
                measured = score(one[list(documents["digits"])])
                found.append(settings.estimate(memory, measured, documents, []).fitness)
                rows.append((f"s{number}", documents, measured))
                self.spent += measured.num_documents
                number += 1
            memory = settings.learn(memory, rows)
            return found

        return measure

    def winner(self, born: list[Born]) -> Born:
        """Measures the best candidates in full, and returns the best of them."""
        best = [genome for _, genome in sorted(born, key=lambda one: -one[0])[:TOP]]
        return max(zip(self.in_full(best), best, strict=True), key=lambda one: one[0])

    def on_test(self, born: Born) -> float:
        """Returns a candidate's accuracy on digits that no search has seen."""
        return float(self.world.answers([born[1]], self.world.test).mean())


def searches(seed: int) -> dict[str, tuple[float, float]]:
    """Returns accuracy on test digits and search digits spent, of each kind of search."""
    world, found = World.of(seed), {}
    for algorithm, label in ((GENETIC, "genetic"), (RANDOM, "random")):
        full, estimated, plain = (Run(world, seed) for _ in range(3))
        all_in_full = evolve(algorithm, seed, full.in_full)
        found[f"{label}, in full"] = (full.on_test(max(all_in_full)), float(full.spent))
        best = estimated.winner(evolve(algorithm, seed, estimated.by_estimates()))
        found[f"{label}, gmp-IRT"] = (estimated.on_test(best), float(estimated.spent))
        best = plain.winner(evolve(algorithm, seed, plain.by_means()))
        found[f"{label}, plain mean"] = (plain.on_test(best), float(plain.spent))
        few = all_in_full[: estimated.spent // len(world.search)]
        if algorithm is RANDOM:
            spent = float(len(few) * len(world.search))
            found["random, in full, digits as gmp-IRT"] = (full.on_test(max(few)), spent)
    return found
