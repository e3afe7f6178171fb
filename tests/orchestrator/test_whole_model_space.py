"""The space of whole models: what genes and parents mean, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest

from orchestrator import config
from orchestrator.spaces.whole_model import WholeModel
from workers.lineage import Cross, Mix

NAMES = ("examples/models/a", "examples/models/b", "examples/models/base")


@pytest.fixture
def space(request, monkeypatch):
    monkeypatch.chdir(request.config.rootpath)

    def open_(**settings):
        return WholeModel(**{"sources": NAMES, "dtype": "float32", **settings}).open(seed=1)

    return open_


def test_founders_are_the_sources_as_they_are_and_measured_once(space):
    made = space()
    founders = [made.decode(genome) for genome in made.genes.founders]
    assert [one.sources for one in founders] == [(name,) for name in NAMES]
    assert not any(one.steps for one in founders)
    references = {one.name: one.recipe.digest() for one in made.references}
    assert [references[name] for name in NAMES] == [one.digest() for one in founders]
    assert "uniform merge" in references


def test_without_parents_two_sources_are_crossed(space):
    made = space()
    rng = np.random.default_rng(0)
    for genome in made.genes.sample(rng, 50):
        recipe = made.decode(genome)
        (step,) = recipe.steps
        assert isinstance(step, Cross)
        assert len(set(recipe.sources)) == 2
        assert recipe.sources[0] == NAMES[int(genome[0])]
        assert (step.cuts[0].weight, step.cuts[0].split) == genome[2:]


def test_with_parents_the_first_genes_say_nothing(space):
    made = space()
    a, b, base = (made.decode(genome) for genome in made.genes.founders)
    child = made.descend((2.0, 2.0, 0.25, 0.5), [a, b])
    assert child == made.descend((0.0, 1.0, 0.25, 0.5), [a, b])
    grandchild = made.descend((0.0, 0.0, 0.75, 0.1), [base, child])
    assert [step.parents for step in grandchild.steps] == [(1, 2), (0, 3)]
    assert made.descend((0.0, 0.0, 0.75, 0.1), [child]) == child
    assert made.descend((0.0, 0.0, 0.75, 0.1), [child, child]) == child


def test_attention_is_cut_apart_from_the_rest(space):
    made = space(parts="attention_and_rest", angle="whole", noise=0.01)
    assert made.genes.names[2:] == (
        "attention weight", "attention split", "rest weight", "rest split",
    )  # fmt: skip
    a, b, _ = (made.decode(genome) for genome in made.genes.founders)
    (step,) = made.descend((0.0, 0.0, 0.1, 0.2, 0.3, 0.4), [a, b]).steps
    assert (step.angle, step.sigma) == ("whole", 0.01)
    attention, rest = step.cuts
    assert (attention.weight, attention.split) == (0.1, 0.2)
    assert (rest.weight, rest.split, rest.filters) == (0.3, 0.4, ())
    name = "model.layers.0.self_attn.q_proj.weight"
    assert any(one in name for one in attention.filters)
    norm = "model.layers.0.post_attention_layernorm.weight"
    assert not any(one in norm for one in attention.filters)


def test_without_a_split_there_is_no_gene_for_it(space):
    made = space(split=False)
    assert made.genes.names == ("first", "second", "weight")
    assert [made.decode(genome).steps for genome in made.genes.founders] == [()] * 3
    (step,) = made.decode((0.0, 1.0, 0.3)).steps
    assert step.cuts[0].split == 0.0, "all lies after the cut: a share 0.7 of the way"


BASE = "examples/models/base"
LINEAR = {"sources": NAMES[:2], "base": BASE, "crossover": "task_vectors"}


def test_task_vectors_are_mixed_by_weights_that_are_normal_about_1(space):
    made = space(**LINEAR, singular_values=(0.7, 1.3))
    rng, weights = np.random.default_rng(0), []
    for genome in made.genes.sample(rng, 2000):
        recipe = made.decode(genome)
        (step,) = recipe.steps
        assert isinstance(step, Mix)
        assert (step.factors, recipe.base) == ((0.7, 1.3), BASE)
        weights += step.weights
    assert np.mean(weights) == pytest.approx(1.0, abs=0.02)
    assert np.std(weights) == pytest.approx(0.3, abs=0.01)
    quarter = np.quantile(weights, 0.25)
    assert quarter == pytest.approx(1.0 - 0.3 * 0.6745, abs=0.03), "as a normal distribution has it"


def test_weights_that_cancel_out_count_alike(space):
    made = space(**LINEAR, omega_sigma=2.0)
    a, b = (made.decode(genome) for genome in made.genes.founders)
    (step,) = made.descend((0.0, 1.0, 0.9, 0.02), [a, b]).steps
    assert abs(sum(step.weights)) > 0.1
    assert min(step.weights) < 0, "a weight may be negative"
    (step,) = made.descend((0.0, 1.0, 0.5, 0.3085375), [a, b]).steps
    assert step.weights[1] == pytest.approx(0.0, abs=1e-4)
    (step,) = made.descend((0.0, 1.0, 0.5, 0.1586553), [a, b]).steps
    assert step.weights == (1.0, 1.0), "1 and -1 would be a division by nothing"


def test_what_is_drawn_for_a_child_follows_from_seed_genome_and_parents_and_is_in_its_recipe(space):
    made = space(**LINEAR, singular_values=(0.0, 2.0), noise=0.001)
    a, b = (made.decode(genome) for genome in made.genes.founders)
    genome = (0.0, 1.0, 0.4, 0.6)
    child = made.descend(genome, [a, b])
    seeds = {
        child.steps[0].seed,
        made.descend(genome, [b, a]).steps[0].seed,
        made.descend((0.0, 1.0, 0.4, 0.61), [a, b]).steps[0].seed,
        WholeModel(**LINEAR, singular_values=(0.0, 2.0)).open(seed=2).descend(genome, [a, b])
        .steps[0].seed,
    }  # fmt: skip
    assert len(seeds) == 4
    assert made.descend(genome, [a, b]) == child
    assert type(child).from_dict(child.as_dict()) == child
    assert child.steps[0].sigma == 0.001


def test_a_parent_alone_has_a_mutated_child_where_there_is_a_mutation(space):
    genome = (0.0, 1.0, 0.4, 0.6)
    plain, mutating = space(**LINEAR), space(**LINEAR, singular_values=(0.5, 1.5))
    a = plain.decode(plain.genes.founders[0])
    assert plain.descend(genome, [a, a]) == a
    (step,) = mutating.descend(genome, [a, a]).steps
    assert (step.parents, step.weights, step.factors) == ((0,), (1.0,), (0.5, 1.5))


def test_the_weighted_mean_of_some_models_is_one_step_more(space):
    made = space(**LINEAR)
    a, b = (made.decode(genome) for genome in made.genes.founders)
    child = made.descend((0.0, 1.0, 0.4, 0.6), [a, b])
    mean = made.aggregate([child, b], [0.7, 0.3])
    assert mean.steps[:-1] == child.steps
    assert (mean.steps[-1].parents, mean.steps[-1].weights) == ((2, 1), (0.7, 0.3))


def test_references_say_which_is_the_base_and_constraints_can_ask_for_measures(space):
    for made, base, sources in (
        (space(**LINEAR), BASE, set(NAMES[:2])),
        (space(), NAMES[0], set(NAMES)),
        (space(base=NAMES[1]), NAMES[1], set(NAMES)),
    ):
        assert [one.name for one in made.references if one.is_base] == [base]
        assert {one.name for one in made.references if one.is_source} == sources
        assert made.references[0].recipe.base == base
        measured = made.measures(made.references[0].recipe)
        assert measured == {"size": 462_240.0, "layers": 4.0}


def test_constraints_may_refer_to_the_base_and_to_the_size(request):
    file = request.config.rootpath / "examples" / "cycle_qd.yaml"
    wanted = "{kind: weighted, constraints: [skill_a_search >= base - 0.5, size <= 8e9]}"
    found = config.read(file, [f"objectives={wanted}"])
    assert found.objectives.constraints[0].startswith("skill_a_search >= base")


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"crossover": "task_vectors"}, "base: expected the model that task vectors begin at"),
        ({**LINEAR, "angle": "whole"}, "angle: has no part in crossover: task_vectors"),
        ({**LINEAR, "split": False}, "split: has no part"),
        ({"singular_values": (0.5, 1.5)}, "singular_values: has no part in crossover: spherical"),
        ({"omega_sigma": 0.1}, "omega_sigma: has no part"),
        ({**LINEAR, "singular_values": (1.5, 0.5)}, "singular_values: expected factors 0 <= least"),
    ],
)
def test_settings_without_effect_or_sense_are_refused(settings, said):
    with pytest.raises(ValueError, match=said):
        WholeModel(**{"sources": NAMES, **settings})


def test_what_cannot_be_crossed_is_refused(space):
    with pytest.raises(ValueError, match="named twice"):
        WholeModel(sources=(NAMES[0], NAMES[0]))
    with pytest.raises(ValueError, match=r"sources: .*no-such-model"):
        space(sources=(NAMES[0], "no-such-model"))


def test_an_estimator_and_natural_niches_do_not_go_together(request):
    file = request.config.rootpath / "examples" / "whole_model.yaml"
    assert config.read(file).space.sources == NAMES[:2]
    with pytest.raises(ValueError, match=r"estimator: .*what each document scored"):
        config.read(file, ["estimator={kind: irt, documents: 10}"])
