"""Grid search: everything once, and then the end."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from orchestrator.algorithms.base import Evaluated, Memory, check_genes
from orchestrator.algorithms.genetic import Genetic
from orchestrator.algorithms.grid import Grid
from orchestrator.campaign.fold import handle, start
from orchestrator.campaign.state import Campaign, Limits
from orchestrator.spaces.genes import Bit, Categorical, Genes, Integer, Permutation, Real, reals

MIXED = Genes(
    (
        Real(name="rate", low=0.01, high=1.0, log=True),
        Integer(name="layers", low=1, high=3),
        Categorical(name="method", choices=("linear", "ties")),
        Bit(name="normalize", when={"method": ("ties",)}),
        Permutation(name="order", size=3),
    )
)


def all_of(grid: Grid, genes: Genes) -> list:
    memory, found = Memory(), []
    for _ in range(10_000):
        proposals = grid.ask(genes, memory, np.random.default_rng(0))
        if not proposals:
            return found
        told = [
            Evaluated(candidate=f"s{n}", number=n, genome=one.genome, fitness=None)
            for n, one in enumerate(proposals, start=1 + len(found))
        ]
        found += [one.genome for one in proposals]
        memory = grid.tell(memory, told[::-1])
        memory = Memory(memory.members, json.loads(json.dumps(dict(memory.state))))
    raise AssertionError("the grid has no end")


@pytest.mark.parametrize("population_size", [1, 7, 10_000])
def test_every_combination_is_asked_for_once(population_size):
    found = all_of(Grid(population_size=population_size, points=3), MIXED)
    # Three rates, three numbers of layers, linear or ties with two ways to normalize, six orders.
    assert len(found) == len(set(found)) == 3 * 3 * (1 + 2) * 6
    values = [MIXED.values(genome) for genome in found]
    assert sorted({one["rate"] for one in values}) == pytest.approx([0.01, 0.1, 1.0])
    assert {one["layers"] for one in values} == {1, 2, 3}
    assert len({tuple(sorted(one.items(), key=str)) for one in values}) == len(found)
    assert all(MIXED.repair(np.asarray(genome)) == genome for genome in found)


def test_a_gene_can_have_points_of_its_own():
    genes = reals(("x", "y"), (0.0, -1.0), (1.0, 3.0))
    found = all_of(Grid(points=4, points_of={"y": 1}), genes)
    assert found == [(x, 1.0) for x in np.linspace(0, 1, 4).tolist()]
    with pytest.raises(ValueError, match=r"points_of: no gene is called 'z'; there are \['x', 'y'"):
        Grid(points_of={"z": 2}).check(genes)


@pytest.mark.parametrize(
    ("genes", "size"),
    [
        (reals([f"x{n}" for n in range(9)], [0.0] * 9, [1.0] * 9), "1,953,125"),
        (reals([f"x{n}" for n in range(5000)], [0.0] * 5000, [1.0] * 5000), "about 10^3494"),
        (Genes((Permutation(name="tour", size=400),)), "about 10^868"),
    ],
)
def test_a_grid_that_would_hardly_end_is_refused_at_once(genes, size):
    with pytest.raises(ValueError, match="more than most") as refused:
        check_genes(Grid(), genes)
    assert f"has {size} genomes" in str(refused.value)
    check_genes(Genetic(population_size=4), genes)


@pytest.mark.parametrize("control", [False, True])
def test_a_campaign_ends_when_the_grid_does(fake_space, score, control):
    campaign = Campaign(
        space=fake_space(dim=2),
        algorithm=Grid(population_size=4, points=3),
        seed=1,
        limits=Limits(evaluations=1000),
        control=control,
    )
    step = start(campaign)
    jobs, state = list(step.jobs), step.state
    for _ in range(200):
        if not jobs:
            break
        step = handle(campaign, state, score(jobs.pop()))
        state = step.state
        jobs += step.jobs
    assert (state.phase, state.stop, state.proposed) == ("done", "exhausted", 9)
    assert state.generation == 3, "four, four and one"
    assert math.isclose(state.best["search"].fitness, -0.5), "the middle of the grid is at 0.5"
