"""Whatever search proposes them: children of machines go on from their first parents."""

import numpy as np
import pytest

from evaluators.base import Score, TaskScore
from evaluators.ctm.parity import Parity
from orchestrator.algorithms.genetic import Genetic
from orchestrator.algorithms.islands import Islands
from orchestrator.algorithms.map_elites import Axis, MapElites
from orchestrator.algorithms.nsga2 import Nsga2
from orchestrator.algorithms.nsga3 import Nsga3
from orchestrator.algorithms.portfolio import Portfolio
from orchestrator.algorithms.random_search import RandomSearch
from orchestrator.campaign.fold import handle, start
from orchestrator.campaign.state import Campaign, Limits
from orchestrator.spaces.ctm import CtmSpace
from workers.job import Scored

SPACE = CtmSpace(task=Parity(length=3), steps=10, inherit=True).open(seed=4)
SEARCHES = {
    "genetic": Genetic(population_size=6),
    "genetic, asynchronous": Genetic(population_size=6, mode="async"),
    "genetic, on islands": Genetic(population_size=9, islands=Islands(count=3, every=1)),
    "MAP-Elites": MapElites(population_size=6, axes=(Axis(of="gene", place=1),)),
    "portfolio": Portfolio(
        population_size=6, algorithms=(Genetic(population_size=6), RandomSearch(population_size=6))
    ),
    "NSGA-II": Nsga2(population_size=6),
    "NSGA-III": Nsga3(population_size=6),
}


def scored(job) -> Scored:
    """A score that follows from the recipe alone."""
    luck = np.random.default_rng(int(job.recipe.digest()[:8], 16)).random()
    task = TaskScore(value=luck, stderr=0.1, documents=3, per_document=())
    return Scored(
        candidate=job.candidate,
        attempt=job.attempt,
        rows=job.rows,
        score=Score(fitness=luck, tasks={"t": task}),
        seconds=0.1,
        worker="fake",
    )


@pytest.mark.parametrize("search", SEARCHES)
def test_children_go_on_from_their_first_parents(search):
    campaign = Campaign(
        space=SPACE, algorithm=SEARCHES[search], seed=1, limits=Limits(evaluations=36)
    )
    step = start(campaign)
    jobs, known = list(step.jobs), {one.id: one for one in step.candidates}
    while jobs:
        step = handle(campaign, step.state, scored(jobs.pop()))
        known |= {one.id: one for one in step.candidates}
        jobs += step.jobs
    searched = [one for one in known.values() if one.role == "search"]
    assert len(searched) == 36
    for one in searched:
        expected = known[one.parents[0]].recipe if one.parents else None
        assert one.recipe.parent == expected
        seeds = [each.training.seed for each in one.recipe.lineage]
        assert len(set(seeds)) == len(seeds)
    assert max(len(one.recipe.ancestors) for one in searched) > 2
