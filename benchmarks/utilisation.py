"""How busy many evaluators are kept: asynchronous search beside generations, in virtual time.

    python benchmarks/utilisation.py [--evaluators 64] [--evaluations 6400] [--seeds 5]

The campaign is the real one (`orchestrator.campaign.fold`): it is told outcomes in the order in
which they end and gives the next jobs. Evaluations take times with a coefficient of variation of 1
(exponential). Utilisation is the share of evaluator-time that is spent evaluating: until the last
job was handed out, and to the very end, when the last ones are waited for with nothing left to do.
Prints Markdown.
"""

from __future__ import annotations

import argparse
import heapq
import math
import statistics
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from evaluators.base import Score, TaskScore
from orchestrator.algorithms.base import Algorithm
from orchestrator.algorithms.genetic import Genetic
from orchestrator.campaign import fold
from orchestrator.campaign.state import Campaign, Limits
from orchestrator.spaces.vector import Vector
from orchestrator.spaces.vector_genes import Reals
from workers.job import Job, Scored
from workers.values import ValuesRecipe


@dataclass
class Fleet:
    """Evaluators that run jobs in virtual time."""

    evaluators: int
    rng: np.random.Generator
    now: float = 0.0
    #: When each evaluation began and ended.
    spans: list[tuple[float, float]] = field(default_factory=list)
    _waiting: deque[Job] = field(default_factory=deque)
    _running: list[tuple[float, int, Job]] = field(default_factory=list)

    def add(self, jobs: Sequence[Job]) -> None:
        """Queues jobs, and starts as many as evaluators are free."""
        self._waiting.extend(jobs)
        while self._waiting and len(self._running) < self.evaluators:
            end = self.now + float(self.rng.exponential())
            self.spans.append((self.now, end))
            heapq.heappush(self._running, (end, len(self.spans), self._waiting.popleft()))

    def next(self) -> Job:
        """Goes on to when the next job ends, and returns it."""
        self.now, _, job = heapq.heappop(self._running)
        return job

    def busy(self, until: float) -> float:
        """Returns the share of the evaluators' time until then that they were evaluating."""
        spent = math.fsum(min(end, until) - begin for begin, end in self.spans if begin < until)
        return spent / (self.evaluators * until)


@dataclass(frozen=True, kw_only=True)
class Utilisation:
    """What one campaign came to."""

    #: Until the last job was handed out, and to the end.
    handing_out: float
    whole: float
    #: Virtual time that the campaign took, in mean evaluation times.
    took: float


def measure(algorithm: Algorithm, *, evaluators: int, evaluations: int, seed: int) -> Utilisation:
    """Runs a campaign in virtual time."""
    campaign = Campaign(
        space=Vector(genes=(Reals(name="x", count=10, low=-5.0, high=5.0),)).open(seed),
        algorithm=algorithm,
        seed=seed,
        limits=Limits(evaluations=evaluations),
    )
    fleet = Fleet(evaluators, np.random.default_rng([seed, 1]))
    step = fold.start(campaign)
    while step.state.phase != "done":
        fleet.add(step.jobs)
        step = fold.handle(campaign, step.state, _outcome(fleet.next()))
    last = max(begin for begin, _ in fleet.spans)
    return Utilisation(handing_out=fleet.busy(last), whole=fleet.busy(fleet.now), took=fleet.now)


def _outcome(job: Job) -> Scored:
    assert isinstance(job.recipe, ValuesRecipe)
    worth = -math.fsum(one * one for one in job.recipe.values["x"])
    score = Score(fitness=worth, tasks={"sphere": TaskScore(value=worth, stderr=None, documents=1)})
    return Scored(
        candidate=job.candidate,
        attempt=job.attempt,
        rows=job.rows,
        score=score,
        seconds=0.0,
        worker="virtual",
    )


def main() -> None:
    """Reads the command line and prints the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--evaluators", type=int, default=64)
    parser.add_argument("--evaluations", type=int, default=6_400)
    parser.add_argument("--seeds", type=int, default=5)
    given = parser.parse_args()
    size = given.evaluators
    searches: dict[str, Algorithm] = {
        f"async, {size} members": Genetic(population_size=size, mode="async"),
        f"generations of {size}": Genetic(population_size=size),
        f"generations of {4 * size}": Genetic(population_size=4 * size),
    }
    print("| search | busy until the last job | busy to the end | time, in mean evaluations |")
    print("| --- | ---: | ---: | ---: |")
    for name, algorithm in searches.items():
        found = [
            measure(algorithm, evaluators=size, evaluations=given.evaluations, seed=seed)
            for seed in range(1, given.seeds + 1)
        ]
        handing, whole, took = (
            statistics.median(getattr(one, key) for one in found)
            for key in ("handing_out", "whole", "took")
        )
        print(f"| {name} | {handing:.1%} | {whole:.1%} | {took:.0f} |")


if __name__ == "__main__":
    main()
