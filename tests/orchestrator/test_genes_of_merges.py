"""Whatever searches: the method and the models of a merge are chosen, and what follows is right."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest

from orchestrator import assemble
from orchestrator.algorithms.base import ALGORITHMS, as_asynchronous
from orchestrator.algorithms.cma_es import CmaEs
from orchestrator.algorithms.genetic import Genetic
from orchestrator.algorithms.optuna_sampler import OptunaSampler
from orchestrator.algorithms.random_search import RandomSearch
from orchestrator.campaign.fold import handle, start
from orchestrator.campaign.state import Campaign, Limits
from orchestrator.operators.crossover import CROSSOVERS
from orchestrator.operators.mutation import MUTATIONS
from orchestrator.spaces.chained import Chained
from orchestrator.spaces.genes import reals
from orchestrator.spaces.merge import Merge
from orchestrator.spaces.pool import Pool
from orchestrator.storage.gene_columns import read_genes
from tests.conftest import ROOT

BASE, A, B = (str(ROOT / "examples" / "models" / name) for name in ("base", "a", "b"))
POOL = (BASE, A, B)
#: Algorithms whose plainest settings search any space of a few genes.
PLAIN = {name: {} for name in ALGORITHMS.addresses if name != "grid"} | {"grid": {"points": 2}}


def settings(**changes) -> Merge:
    """Two methods over a pool of three models: one takes some of them, the other always two."""
    given = {"method": ("ties", "slerp"), "sources": Pool(pool=POOL, choose=(1, 3))}
    return Merge(base=BASE, dtype="float32", **{**given, **changes})


@pytest.fixture(scope="module")
def space():
    return settings().open(7)


def worth(recipe) -> float:
    """Highest for the two specialists by TIES, both with a weight of 0.7 and a density of 0.4."""
    found = -1.0 * (recipe.method != "ties")
    found -= len(set(recipe.sources) ^ {A, B})
    for part in recipe.slices:
        for name, best in (("weight", 0.7), ("density", 0.4)):
            values = part.settings[0].values.get(name, ())
            found -= math.fsum((value - best) ** 2 for value in values) / len(recipe.slices)
    return found


def run(space, algorithm, score, *, evaluations=48, seed=1):
    """Proposals of a campaign, and the best fitness that it came to."""
    limits = Limits(evaluations=evaluations)
    campaign = Campaign(space=space, algorithm=algorithm, seed=seed, limits=limits)
    step = start(campaign)
    jobs, state, proposed = list(step.jobs), step.state, list(step.candidates)
    while jobs:
        job = jobs.pop()
        step = handle(campaign, state, score(job, worth(job.recipe)))
        state = step.state
        jobs += step.jobs
        proposed += step.candidates
    return [one for one in proposed if one.role == "search"], state.best["search"].fitness


def algorithms():
    for name, more in PLAIN.items():
        part = ALGORITHMS.load(name)
        yield pytest.param(part(population_size=8, **more), id=name)
        if hasattr(part, "ask_one"):
            yield pytest.param(part(population_size=8, mode="async", **more), id=f"{name} async")


@pytest.mark.parametrize("algorithm", list(algorithms()))
def test_every_algorithm_proposes_merges_of_a_pool_by_several_methods(algorithm, space, score):
    proposed, best = run(space, algorithm, score, evaluations=32)
    assert len(proposed) == 32
    assert math.isfinite(best)
    for one in proposed:
        assert space.genes.repair(np.array(one.genome)) == one.genome
        assert one.recipe.digest() == space.decode(one.genome).digest()
        least, most = (2, 2) if one.recipe.method == "slerp" else (1, 3)
        assert least <= len(one.recipe.sources) <= most
    if as_asynchronous(algorithm) is None:
        assert len({one.recipe.digest() for one in proposed}) > 16


@pytest.mark.parametrize("algorithm", [Genetic(population_size=12, elites=2), CmaEs()])
def test_a_search_of_method_and_models_does_better_than_random_search(algorithm, score):
    opened = settings(layer_groups=4).open(7)

    def mean(searches) -> float:
        found = [run(opened, searches, score, evaluations=320, seed=seed)[1] for seed in range(4)]
        return float(np.mean(found))

    assert mean(algorithm) > mean(RandomSearch(population_size=8)) + 0.05


def test_optuna_is_told_of_the_genes_that_exist_and_suggests_no_others(space, score):
    optuna = pytest.importorskip("optuna")
    told = []

    class Listening(optuna.samplers.RandomSampler):
        def after_trial(self, study, trial, state, values): ...

        def infer_relative_search_space(self, study, trial):
            told.extend(one for one in study.get_trials(deepcopy=False) if one.values)
            return {}

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(optuna.samplers, "RandomSampler", Listening)
        run(space, OptunaSampler(population_size=8, sampler="random"), score, evaluations=24)
    assert told
    for one in told:
        kinds = {name: type(held).__name__ for name, held in one.distributions.items()}
        assert kinds["method"] == kinds[f"presence {A}"] == "CategoricalDistribution"
        taken = {model for model in POOL if one.params[f"presence {model}"]}
        names = {name.split()[0] for name in one.params}
        assert names == {"method", "presence", *(("t",) if one.params["method"] == "slerp" else
                                                 ("weight", "density"))}  # fmt: skip
        weights = {name.split()[1] for name in one.params if name.startswith("weight")}
        assert weights == (taken if one.params["method"] == "ties" else set())


def test_cma_es_comes_to_try_every_method_and_every_model(space, score):
    proposed, _ = run(space, CmaEs(), score, evaluations=60)
    assert {one.recipe.method for one in proposed} == {"ties", "slerp"}
    assert {model for one in proposed for model in one.recipe.sources} == set(POOL)
    assert len({len(one.recipe.sources) for one in proposed}) > 1


@pytest.mark.parametrize("part", [CROSSOVERS.load(name) for name in CROSSOVERS.addresses])
def test_no_crossover_mixes_methods_or_invents_a_model(part):
    methods = ("linear", "slerp", "ties", "dare_ties", "task_arithmetic")
    genes = settings(method=methods).open(7).genes
    rng = np.random.default_rng(0)
    head = ~genes.numeric
    for _ in range(200):
        a, b = (np.array(one) for one in genes.sample(rng, 2))
        child = part(probability=1.0)(a, b, genes, rng)
        assert np.all((child == a) | (child == b) | ~head)


@pytest.mark.parametrize("part", [MUTATIONS.load(name) for name in MUTATIONS.addresses])
def test_mutation_leads_from_a_method_to_any_other(part):
    methods = ("linear", "slerp", "ties", "dare_ties")
    genes = settings(method=methods).open(7).genes
    rng = np.random.default_rng(0)
    (genome,) = genes.sample(rng, 1)
    found = [genes.repair(part()(np.array(genome), genes, rng))[0] for _ in range(600)]
    changed = [one for one in found if one != genome[0]]
    counts = [changed.count(float(place)) for place in range(4) if place != genome[0]]
    assert min(counts) > 0.4 * max(counts), "methods have no order, so none is nearer"


def test_a_chained_space_chooses_its_merges_method_and_models(score):
    opened = Chained(merge=settings(), sources=(B,), scaling="slot").open(7)
    for one in opened.genes.sample(np.random.default_rng(3), 40):
        merged = opened.decode(one).sources[0]
        assert len(merged.sources) == 2 or merged.method == "ties"
        other = opened.genes.sample(np.random.default_rng(4), 1)[0]
        mixed = tuple(np.where(opened.genes.active(one), one, other).tolist())
        assert opened.decode(mixed).digest() == opened.decode(one).digest()
    assert opened.genes.active(opened.genes.start).sum() < len(opened.genes)


def test_a_table_has_methods_by_name_and_nothing_where_a_gene_does_not_exist(space):
    recorded = json.loads(json.dumps(space.genes.as_dict()))
    columns = read_genes(recorded, {})
    kinds = columns.columns
    assert (kinds["method"], kinds[f"presence {A}"]) == ("text", "flag")
    for genome in space.genes.sample(np.random.default_rng(5), 60):
        cells = dict(columns.cells(genome))
        assert cells == space.genes.values(genome)
    once = {key: held for key, held in recorded.items() if key != "when"}
    genome = space.genes.start
    assert len(dict(read_genes(once, {}).cells(genome))) == len(genome), "as it was recorded"


def test_a_campaign_whose_genes_were_others_is_not_gone_on_with(space):
    now = {"seed": 7, "genes": space.genes.as_dict()}
    names = space.genes.names
    once = reals(names, [0.0] * len(names), [2.0, *[1.0] * (len(names) - 1)])
    before = {"seed": 7, "genes": json.loads(json.dumps(once.as_dict()))}
    lines = ["genes.method: real [0, 2] -> categorical of ties, slerp"]
    assert assemble.changed_search(before, now) == lines
    assert assemble.changed_measure(before, now) == lines
    assert assemble.changed_search(json.loads(json.dumps(now)), now) == []
    assert assemble.changed_search({"seed": 7}, now) == []


def test_plain_merges_have_the_genes_that_stores_know():
    opened = replace(settings(), method="ties", sources=(A, B)).open(7)
    assert set(opened.genes.as_dict()) == {"names", "lower", "upper"}
    assert opened.genes.is_real
