"""The space of whole models: what genes and parents mean, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest

from orchestrator import config
from orchestrator.spaces.whole_model import WholeModel
from workers.lineage import Cross

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
