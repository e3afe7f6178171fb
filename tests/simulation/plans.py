"""The campaigns that are simulated, and what each of them is without any fault."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any, TypeAlias

from evaluators.base import Rows
from orchestrator.algorithms.base import Algorithm, as_asynchronous
from orchestrator.algorithms.genetic import Genetic
from orchestrator.algorithms.nsga2 import Nsga2
from orchestrator.algorithms.nsga3 import Nsga3
from orchestrator.algorithms.random_search import RandomSearch
from orchestrator.campaign import fold as campaigns
from orchestrator.campaign.state import Branch, Campaign, Candidate, Limits, Rules, State
from orchestrator.measurement.regime import Regime
from orchestrator.objectives import Judge, Objectives
from orchestrator.spaces.genes import Genome
from tests.conftest import FAKE_TASKS, ContrastingSpace, FakeSpace, fake_regime, recipe_of, scored
from tests.simulation.fleet import MAX_ATTEMPTS, Fates, failure
from workers.job import Job, Outcome, Scored
from workers.recipe import MergeRecipe

#: Candidate, rows, block: what is measured once.
Place: TypeAlias = tuple[str, str, int]


@dataclass(frozen=True)
class CoarseSpace(FakeSpace):
    """A space in which different genomes often mean the same recipe."""

    def decode(self, genome: Genome) -> MergeRecipe:
        return recipe_of([float(round(gene)) for gene in genome])


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """A campaign and what its candidates are worth; a value, so that it is known by itself."""

    algorithm: Algorithm
    seed: int = 1
    generations: int | None = None
    evaluations: int | None = None
    control: bool = False
    #: Kinds of rows beside the search rows.
    reported: frozenset[Rows] = frozenset()
    #: How much of the search rows candidates are measured on, as the fakes name it.
    regime: str = "all rows"
    #: What is aimed at beside the fitness; None for nothing.
    objectives: Objectives | None = None
    finalists: int = 2
    coarse: bool = False
    #: Whether the winner is compared with what is made of it.
    contrasting: bool = False
    #: Whether equal evaluations are copied.
    reuse: bool = False
    fates: Fates = field(default_factory=Fates)
    #: So many failures stop it, which depends on the order of outcomes; no other plan stops.
    max_failure_fraction: float = 1.0
    history: tuple[Branch, ...] = ()

    @property
    def asynchronous(self) -> bool:
        return as_asynchronous(self.algorithm) is not None

    @property
    def ordered(self) -> bool:
        """Whether the order of outcomes may change the search."""
        return self.asynchronous or self.max_failure_fraction < 1.0

    @property
    def space(self) -> FakeSpace:
        """Returns the space that is searched."""
        if self.coarse:
            return CoarseSpace()
        return ContrastingSpace() if self.contrasting else FakeSpace()

    @property
    def judge(self) -> Judge | None:
        """Returns how objectives and constraints say what a candidate is worth."""
        if self.objectives is None:
            return None
        tasks = ("sphere",) if regime_of(self.regime).layout is None else tuple(FAKE_TASKS)
        return self.objectives.judge(dict.fromkeys(tasks, 1.0), ("size",), FakeSpace().references)

    def campaign(self) -> Campaign:
        return Campaign(
            space=self.space,
            algorithm=self.algorithm,
            seed=self.seed,
            limits=Limits(
                generations=self.generations,
                evaluations=self.evaluations,
                max_attempts=MAX_ATTEMPTS,
                max_failure_fraction=self.max_failure_fraction,
            ),
            control=self.control,
            kinds=self.reported | {"search"},
            regime=regime_of(self.regime),
            judge=self.judge,
            finalists=self.finalists,
            history=self.history,
        )

    def smaller(self) -> Plan | None:
        """Returns the plan with less of a budget, if that is still one."""
        if self.generations is not None:
            return replace(self, generations=self.generations - 1)
        if self.evaluations is not None:
            return replace(self, evaluations=self.evaluations - 5)
        return None

    def larger(self) -> Plan:
        """Returns the plan with more of a budget."""
        if self.generations is not None:
            return replace(self, generations=self.generations + 1)
        assert self.evaluations is not None
        return replace(self, evaluations=self.evaluations + 5)

    def forked(self, history: Sequence[Mapping[str, Any]]) -> Plan:
        """Returns the plan with what it has from its ancestor, as the store keeps it."""
        return replace(
            self,
            history=tuple(
                Branch(
                    until=one["until"],
                    rules=Rules(algorithm=self.algorithm, seed=one["seed"], control=self.control),
                )
                for one in history
            ),
        )

    def search_settings(self) -> Mapping[str, Any]:
        """What the store and the snapshots know the search by; limits are no part of it."""
        mode = "async" if self.asynchronous else "generational"
        return {
            "search": {"mode": mode, "algorithm": repr(self.algorithm)},
            "seed": self.seed,
            "control": self.control,
            "coarse": self.coarse,
            "regime": self.regime,
            "objectives": repr(self.objectives),
        }


@cache
def regime_of(kind: str) -> Regime:
    """Returns how much of the search rows candidates are measured on."""
    return fake_regime(kind)


def evaluation_of(job: Job) -> bytes:
    """What a score depends on: the recipe, the rows, and which documents of them."""
    text = f"{job.recipe.digest()} {job.rows} {job.documents}"
    return hashlib.blake2b(text.encode(), digest_size=16).digest()


_TEST: frozenset[Rows] = frozenset({"test"})
_SELECTION: frozenset[Rows] = frozenset({"selection", "test"})

SHAPES: Mapping[str, Plan] = {
    "genetic": Plan(
        algorithm=Genetic(population_size=4, elites=1),
        generations=3,
        control=True,
        reported=_TEST,
    ),
    "budget": Plan(
        algorithm=Genetic(population_size=4, elites=2),
        evaluations=11,
        reported=_TEST,
        contrasting=True,
    ),
    "random": Plan(algorithm=RandomSearch(population_size=5), generations=2, reported=_TEST),
    "async": Plan(
        algorithm=Genetic(population_size=4, mode="async"),
        evaluations=10,
        control=True,
        reported=_TEST,
        contrasting=True,
    ),
    "async generations": Plan(
        algorithm=Genetic(population_size=4, mode="async"), generations=3, reuse=True
    ),
    "coarse": Plan(
        algorithm=Genetic(population_size=5, elites=1),
        generations=3,
        coarse=True,
        reuse=True,
        reported=_TEST,
    ),
    "sick": Plan(
        algorithm=Genetic(population_size=4, elites=1),
        generations=4,
        fates=Fates(broken=60, poison=15),
        max_failure_fraction=0.5,
    ),
    "selection": Plan(
        algorithm=Genetic(population_size=4, elites=1),
        generations=2,
        control=True,
        reported=_SELECTION | {"control"},
        contrasting=True,
    ),
    "race": Plan(
        algorithm=RandomSearch(population_size=3),
        generations=3,
        coarse=True,
        reuse=True,
        reported=_TEST,
        regime="race",
    ),
    "fresh": Plan(algorithm=Genetic(population_size=3, elites=1), evaluations=8, regime="fresh"),
    "race, fresh": Plan(
        algorithm=Genetic(population_size=3, elites=1),
        generations=2,
        control=True,
        reported=_SELECTION,
        contrasting=True,
        regime="race, fresh",
    ),
    "async race": Plan(
        algorithm=Genetic(population_size=3, mode="async"),
        evaluations=8,
        reported=_SELECTION,
        regime="race, fresh",
    ),
    "bank": Plan(
        algorithm=Genetic(population_size=3, elites=1),
        generations=3,
        reported=_TEST,
        regime="bank",
    ),
    "async bank": Plan(
        algorithm=Genetic(population_size=3, mode="async"),
        evaluations=6,
        reported=frozenset({"selection"}),
        regime="bank",
    ),
}
_FRONT = ("sphere", "-size")
_TASKS = tuple(FAKE_TASKS)
#: Those that aim at more than one number, or have something to keep.
AIMING: Mapping[str, Plan] = {
    "front": Plan(
        algorithm=Nsga2(population_size=4),
        generations=3,
        control=True,
        reported=_SELECTION,
        contrasting=True,
        objectives=Objectives(kind="pareto", of=_FRONT, constraints=("size <= 3",)),
    ),
    "front, parents": Plan(
        algorithm=Nsga3(population_size=3),
        generations=3,
        reported=_TEST,
        regime="fresh",
        objectives=Objectives(
            kind="pareto", of=_TASKS, constraints=("one >= parent - 0.1", "two >= base + 0.4")
        ),
    ),
    "async front": Plan(
        algorithm=Nsga2(population_size=4, mode="async"),
        evaluations=10,
        reported=_TEST,
        objectives=Objectives(kind="pareto", of=_FRONT, constraints=("sphere >= parent + 2",)),
    ),
    "order": Plan(
        algorithm=Genetic(population_size=4, elites=1),
        evaluations=9,
        coarse=True,
        reuse=True,
        reported=_SELECTION,
        objectives=Objectives(kind="lexicographic", of=_FRONT, tolerance=(0.5, 0.0)),
    ),
    "bounded race": Plan(
        algorithm=Genetic(population_size=3, elites=1),
        generations=3,
        control=True,
        reported=_TEST,
        regime="race",
        objectives=Objectives(kind="weighted", constraints=("one >= parent",)),
    ),
    "bounded bank": Plan(
        algorithm=Genetic(population_size=3, mode="async"),
        evaluations=6,
        reported=_TEST,
        regime="bank",
        objectives=Objectives(kind="weighted", constraints=("two >= base + 0.3",)),
    ),
}
#: Seeds of the search and of the fates; few, so that most fault-free runs are known already.
_SEEDS = (1, 2)
_LUCK = (0, 1, 2)


#: Every fourth seed tells of a campaign that aims at more than one number.
_AIMING = (4, 1)


def draw(seed: int, random: Any) -> Plan:
    """Returns a plan of one of the shapes."""
    every, rest = _AIMING
    shapes = AIMING if seed % every == rest else SHAPES
    shape = random.choice(list(shapes.values()))
    fates = replace(shape.fates, luck=random.choice(_LUCK))
    return replace(shape, seed=random.choice(_SEEDS), fates=fates)


@dataclass(frozen=True, slots=True)
class Search:
    """A whole search: its candidates and what became of each."""

    candidates: Mapping[str, Candidate]
    #: What was measured -> its fitness alone, or None where it failed.
    accepted: Mapping[Place, float | None]
    state: State


@cache
def without_faults(plan: Plan) -> Search:
    """Returns the search as it is where nothing goes wrong and everything comes in order."""
    campaign = plan.campaign()
    step = campaigns.start(campaign)
    candidates, queue = list(step.candidates), deque(step.jobs)
    accepted: dict[Place, float | None] = {}
    while step.state.phase != "done":
        job = queue.popleft()
        outcome = answer(plan.fates, job)
        step = campaigns.handle(campaign, step.state, outcome)
        candidates += step.candidates
        queue.extend(step.jobs)
        if isinstance(outcome, Scored):
            accepted[job.key[:3]] = outcome.score.fitness
        elif step.final:
            accepted[job.key[:3]] = None
    return Search({one.id: one for one in candidates}, accepted, step.state)


def answer(fates: Fates, job: Job) -> Outcome:
    """The outcome of a job on a good day."""
    fate = fates.of(job)
    if fate == "score":
        return scored(job)
    return failure(job, "lost" if fate == "poison" else "error")
