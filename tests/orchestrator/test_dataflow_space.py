"""The spaces of paths: what genes mean, whatever they are, and what is refused."""

from __future__ import annotations

import json
import math
import shutil
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from orchestrator import config
from orchestrator.spaces.base import SPACES
from orchestrator.spaces.chained import Chained
from orchestrator.spaces.dataflow import Dataflow
from orchestrator.spaces.merge import Merge
from orchestrator.spaces.routes import Routes, RouteSettings
from workers.models.library import ModelError
from workers.paths import Hop
from workers.recipe import MergeRecipe

ROOT = Path(__file__).resolve().parents[2]
MODELS = ROOT / "examples" / "models"
BASE, A, B = (str(MODELS / name) for name in ("base", "a", "b"))
SCALINGS = ("none", "slot", "pair", "network")


@st.composite
def routes(draw):
    """Any settings of paths, over any numbers of layers."""
    keep_ends = draw(st.booleans())
    settings = RouteSettings(
        repeats=draw(st.integers(1, 3)),
        scaling=draw(st.sampled_from(SCALINGS)),
        hidden=draw(st.integers(1, 3)),
        scale_bounds=draw(st.sampled_from([(0.5, 1.5), (1.0, 3.0), (-2.0, 1.0), (0.0, 2.0)])),
        max_layers=draw(st.none() | st.integers(2 if keep_ends else 1, 12)),
        keep_ends=keep_ends,
        indicators=draw(st.sampled_from(["bits", "real"])),
    )
    settings.check()
    layers = draw(st.lists(st.integers(1, 5), min_size=1, max_size=3))
    return settings, Routes(settings, [f"m{place}" for place in range(len(layers))], layers), layers


@st.composite
def genomes(draw):
    settings, found, layers = draw(routes())
    bounds = zip(found.genes.lower, found.genes.upper, strict=True)
    genome = found.genes.repair(np.array([draw(st.floats(*both)) for both in bounds]))
    return settings, found, layers, genome


@given(genomes())
def test_any_genes_are_a_path_of_known_layers_that_is_neither_empty_nor_too_long(case):
    settings, found, layers, genome = case
    hops = found.hops(genome)
    assert 1 <= len(hops) <= found.max_layers
    assert all(0 <= hop.layer < layers[hop.source] for hop in hops)
    low, high = settings.scale_bounds
    assert all(low - 1e-12 <= hop.scale <= high + 1e-12 for hop in hops)
    assert hops == found.hops(genome)


@given(genomes())
def test_paths_that_keep_their_ends_have_those_of_the_first_model(case):
    settings, found, layers, genome = case
    hops = found.hops(genome)
    if settings.keep_ends:
        assert (hops[0].source, hops[0].layer) == (0, 0)
        assert (hops[-1].source, hops[-1].layer) == (0, layers[0] - 1)


@given(genomes())
def test_a_path_goes_through_the_row_of_layers_no_more_often_than_it_is_repeated(case):
    settings, found, layers, genome = case
    row = [(source, layer) for source, count in enumerate(layers) for layer in range(count)]
    places = [row.index((hop.source, hop.layer)) for hop in found.hops(genome)]
    turns = sum(after <= before for before, after in pairwise(places))
    assert turns <= settings.repeats - 1 + (1 if settings.keep_ends else 0)


@given(genomes())
def test_a_path_is_the_slots_whose_indicators_are_positive(case):
    settings, found, layers, genome = case
    row = [(source, layer) for source, count in enumerate(layers) for layer in range(count)]
    used = [row[slot % len(row)] for slot, one in enumerate(genome[: found.num_slots]) if one > 0]
    path = [(hop.source, hop.layer) for hop in found.hops(genome)]
    if not settings.keep_ends and 1 <= len(used) <= found.max_layers:
        assert path == used
    if settings.keep_ends and len(used) <= found.max_layers - 2:
        inner = path[:] if not used or used[0] == path[0] else path[1:]
        assert inner[: len(used)] == used


@given(routes())
def test_the_start_is_the_first_model_as_it_is(case):
    _, found, layers = case
    if found.max_layers >= layers[0]:
        hops = found.hops(found.genes.start)
        assert hops == [Hop(source=0, layer=layer) for layer in range(layers[0])]
        assert hops == found.identity


@given(st.permutations(range(8)), st.integers(1, 8))
def test_what_is_too_long_keeps_the_slots_that_are_wanted_most(ranks, most):
    settings = RouteSettings(repeats=2, max_layers=most, keep_ends=False)
    hops = Routes(settings, ["a"], [4]).hops(tuple((rank + 1) / 8 for rank in ranks))
    kept = [slot % 4 for slot in range(8) if ranks[slot] >= 8 - most]
    assert [hop.layer for hop in hops] == kept


def test_no_slot_at_all_takes_the_one_that_is_wanted_most():
    free = Routes(RouteSettings(repeats=1, keep_ends=False), ["a", "b"], [2, 2])
    assert free.hops((-0.9, -0.3, -0.2, -0.5)) == [Hop(source=1, layer=0)]
    kept = Routes(RouteSettings(repeats=1), ["a", "b"], [2, 2])
    assert kept.hops((-1.0, -1.0, -1.0, -1.0)) == [Hop(source=0, layer=0), Hop(source=0, layer=1)]


def test_a_scale_belongs_to_a_slot_or_to_a_pair_of_layers():
    path = (1.0, -1.0, 1.0, 1.0)  # layers 0 and 2 of one model, then 3
    slot = Routes(RouteSettings(repeats=1, scaling="slot"), ["a"], [4])
    assert [hop.scale for hop in slot.hops((*path, 0.6, 0.7, 0.8, 0.9))] == [0.6, 0.8, 0.9]
    pair = Routes(RouteSettings(repeats=1, scaling="pair"), ["a"], [4])
    table = np.arange(16).reshape(4, 4) / 10
    found = pair.hops((*path, *table.flatten().tolist()))
    assert [hop.scale for hop in found] == [1.0, table[0, 2], table[2, 3]]


@given(genomes(), st.randoms(use_true_random=False))
def test_a_scale_of_a_slot_that_is_not_taken_is_dormant(case, random):
    settings, found, _, genome = case
    active = found.genes.active(genome)
    assert active.all() or (settings.scaling, settings.indicators) == ("slot", "bits")
    other = found.genes.sample(np.random.default_rng(random.randrange(99)), 1)[0]
    mixed = tuple(np.where(active, genome, other).tolist())
    assert found.hops(mixed) == found.hops(genome)
    assert found.genes.canonical(mixed) == found.genes.canonical(genome)
    off = [slot for slot in range(found.num_slots) if genome[slot] == 0]
    ends = {0, found.num_slots - 1} if settings.keep_ends else {0}
    if not active.all():
        asleep = {place - found.num_slots for place in np.flatnonzero(~active)}
        assert asleep <= set(off)
        assert len(set(off) - asleep) <= len(ends)


def test_the_network_is_the_one_its_genes_describe():
    settings = RouteSettings(repeats=2, scaling="network", hidden=2, scale_bounds=(0.5, 3.0))
    found = Routes(settings, ["a"], [3])
    assert len(found.genes) == 6 + 2 * 5 + 1
    first, second, bias = (0.3, -0.4, 0.5, 0.1, 0.8), (-1.0, 0.2, 0.7, -0.6, 1.5), 0.25
    hops = found.hops((1.0, -1.0, 1.0, 1.0, -1.0, 1.0, *first, *second, bias))
    slots = (0, 2, 3, 5)
    assert [hop.layer for hop in hops] == [slot % 3 for slot in slots]
    expected = [1.0]
    for before, slot in pairwise(slots):
        seen = (before % 3 - 1.0, slot % 3 - 1.0, 2 * slot / 5 - 1.0)
        answer = bias
        for unit in (first, second):
            inner = sum(weight * one for weight, one in zip(unit, seen, strict=False))
            answer += unit[4] * math.tanh(inner + unit[3])
        answer = math.tanh(answer)
        expected.append(1 + answer * (2.0 if answer > 0 else 0.5))
    assert [hop.scale for hop in hops] == pytest.approx(expected, rel=1e-12)


@pytest.fixture(scope="module")
def space():
    return Dataflow(sources=(A, B), scaling="slot", dtype="float32", delete_one=True).open(3)


@pytest.fixture(scope="module")
def chained():
    merge = Merge(base=BASE, sources=(A, B), method="ties", dtype="float32")
    return Chained(merge=merge, sources=(B,), scaling="pair").open(3)


@pytest.mark.parametrize("name", ["space", "chained"])
def test_any_genome_of_the_box_has_a_recipe_that_json_can_hold(name, request):
    opened = request.getfixturevalue(name)
    for genome in opened.genes.sample(np.random.default_rng(0), 50):
        recipe = opened.decode(genome)
        assert MergeRecipe.from_dict(json.loads(recipe.text())) == recipe
        assert recipe == opened.decode(genome)


@pytest.mark.parametrize("name", ["space", "chained"])
def test_any_genome_and_every_reference_can_be_built(name, request):
    opened = request.getfixturevalue(name)
    builder = opened.builder.open("cpu")
    recipes = [opened.decode(one) for one in opened.genes.sample(np.random.default_rng(1), 4)]
    for recipe in (*recipes, *(one.recipe for one in opened.references)):
        model = builder.build(recipe).model
        with torch.no_grad():
            assert model(torch.arange(12)[None]).logits.isfinite().all()
        assert model.config.num_hidden_layers == recipe.num_layers


@pytest.mark.parametrize("name", ["space", "chained"])
def test_the_measures_of_a_recipe_are_those_of_its_model(name, request):
    opened = request.getfixturevalue(name)
    builder = opened.builder.open("cpu")
    recipes = [opened.decode(one) for one in opened.genes.sample(np.random.default_rng(2), 3)]
    for recipe in (*recipes, *(one.recipe for one in opened.references)):
        model = builder.build(recipe).model
        assert opened.measures(recipe) == {
            "layers": model.config.num_hidden_layers,
            "size": sum(one.numel() for one in model.parameters()),
        }


def test_the_models_that_constraints_may_refer_to_are_marked(space, chained):
    for opened, base in ((space, A), (chained, BASE)):
        assert [one.name for one in opened.references if one.is_base] == [base]
        assert {one.name for one in opened.references if one.is_source} == {A, B}


def test_the_search_starts_at_the_first_model_and_measures_every_model_once(space):
    names = [one.name for one in space.references]
    assert names == [A, B, *(f"{A} without layer {layer}" for layer in range(4))]
    assert space.references[0].recipe == space.decode(space.genes.start)
    assert set(space.revisions) == {A, B}
    assert [one.recipe.num_layers for one in space.references] == [4, 4, 3, 3, 3, 3]


def test_the_chained_search_starts_at_the_merge_and_has_its_references(chained):
    merge = Merge(base=BASE, sources=(A, B), method="ties", dtype="float32").open(3)
    start = chained.decode(chained.genes.start)
    assert start.sources[0] == merge.decode(merge.genes.start)
    builder = chained.builder.open("cpu")
    found = {name: one.clone() for name, one in builder.build(start).model.state_dict().items()}
    expected = builder.build(start.sources[0]).model.state_dict()
    assert all(torch.equal(found[name], one) for name, one in expected.items())
    assert [one.name for one in chained.references] == [BASE, A, B, "uniform merge"]
    assert len(chained.genes.names) == len(merge.genes.names) + 16 + 64


def test_what_is_said_before_a_run_names_genes_slots_and_memory(space, chained):
    said = space.describe()
    assert (said["genes"], said["slots"], said["max_layers"]) == (32, 16, 8)
    assert said["genes_by_kind"] == {"indicator": 16, "scale": 16}
    assert said["model_bytes"] > 1.5 * 4 * said["parameters"]  # 8 layers in place of 4
    assert "16 slots, 2 times 4 layers of" in said["summary"]["path"]
    both = chained.describe()
    assert both["genes_by_kind"] == {"weight": 2, "density": 2, "indicator": 16, "scale": 64}
    assert {"method", "path"} <= set(both["summary"])


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"scale_bounds": (1.2, 1.5)}, "scale_bounds: expected .* low <= 1 <= high"),
        ({"scale_bounds": (1.0, 1.0)}, "scale_bounds: "),
        ({"scale_bounds": (0.5, math.inf)}, "scale_bounds: "),
        ({"max_layers": 1}, "max_layers: a path that keeps both ends has at least 2"),
        ({"sources": (A, A)}, "sources: a model is named twice"),
    ],
)
def test_settings_that_mean_nothing_are_refused(values, message):
    with pytest.raises(ValueError, match=message):
        Dataflow(**{"sources": (A, B), **values})


def copy_with(tmp_path, **changes):
    """A copy of a model whose configuration says something else."""
    folder = Path(shutil.copytree(A, tmp_path / "changed"))
    file = folder / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))
    return str(folder)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"architectures": ["MistralForCausalLM"]}, "differ in architecture: MistralForCausalLM"),
        ({"hidden_size": 128}, "differ in hidden_size: 128 and 96"),
        ({"num_attention_heads": 8}, "num_attention_heads 8, its layers get 4"),
        ({"hidden_act": "gelu"}, "hidden_act gelu, its layers get silu"),
    ],
)
def test_models_whose_layers_do_not_fit_are_refused_by_name(tmp_path, changes, message):
    with pytest.raises(ModelError, match=f"sources: .*changed.*{message}"):
        Dataflow(sources=(A, copy_with(tmp_path, **changes))).open(0)


def test_lists_of_what_layers_are_must_be_alike(tmp_path):
    full, sliding = ["full_attention"] * 4, ["full_attention", "sliding_attention"] * 2
    first = copy_with(tmp_path / "first", layer_types=full)
    other = copy_with(tmp_path / "other", layer_types=sliding)
    with pytest.raises(ModelError, match="differ in layer_types"):
        Dataflow(sources=(first, other)).open(0)


def test_what_layers_get_of_the_first_model_in_place_of_their_own_is_said(tmp_path):
    other = copy_with(tmp_path, rms_norm_eps=1e-5)
    (line,) = Dataflow(sources=(A, other)).open(0).describe()["config_differences"]
    assert "rms_norm_eps 1e-05, its layers get 1e-06" in line


def two_thirds_of(genes):
    return genes.repair((np.array(genes.lower) + 2 * np.array(genes.upper)) / 3)


@pytest.mark.parametrize(
    ("architecture", "settings"),
    [
        ("Gemma2ForCausalLM", {}),
        ("GemmaForCausalLM", {"scale_bounds": (-1.0, 1.0)}),
        ("LlamaForCausalLM", {"fold": "never"}),
    ],
)
def test_scales_that_are_not_folded_are_left_to_the_model(tmp_path, architecture, settings):
    folder = copy_with(tmp_path, architectures=[architecture])
    space = Dataflow(sources=(folder,), scaling="slot", **settings).open(0)
    genome = two_thirds_of(space.genes)
    recipe = space.decode(genome)
    assert len(recipe.input_scales) == recipe.num_layers
    assert set(recipe.input_scales) != {1.0}
    assert "brings code" in space.describe()["summary"]["scaling"]
    assert {held.values["scale"] for part in recipe.slices for held in part.settings} == {(1.0,)}


def test_scales_are_folded_where_they_can_be(tmp_path):
    space = Dataflow(sources=(BASE,), scaling="slot").open(0)
    genome = two_thirds_of(space.genes)
    assert space.decode(genome).input_scales == ()
    assert "folded into weights" in space.describe()["summary"]["scaling"]


def test_a_chained_space_says_which_part_of_it_is_wrong(tmp_path):
    missing = Merge(base=BASE, sources=(str(tmp_path / "nothing"), B), method="linear")
    with pytest.raises(ValueError, match=r"^merge: sources: .*nothing"):
        Chained(merge=missing, sources=(B,)).open(0)
    union = Merge(base=BASE, sources=(A, B), method="linear", tokenizer="union")
    with pytest.raises(ValueError, match=r"^merge\.tokenizer: "):
        Chained(merge=union)


CHAINED = {
    "kind": "chained",
    "merge": {"base": BASE, "sources": [A, B], "method": "ties", "layer_groups": 2},
    "sources": [B],
    "repeats": 3,
    "scale_bounds": [0.5, 2.0],
}


def campaign(space, **more):
    tasks = [{"name": "skill_a_search", "metric": "acc", "weight": 1.0}]
    return {
        "name": "paths",
        "seed": 1,
        "space": space,
        "search": {"kind": "genetic", "population_size": 4},
        "evaluate": {"kind": "lm_harness", "tasks": tasks},
        "budget": {"generations": 1},
        **more,
    }


def test_the_registry_lists_the_spaces_of_paths():
    assert SPACES.load("dataflow") is Dataflow
    assert SPACES.load("chained") is Chained


def test_a_section_within_a_section_is_read_and_written_back():
    settings = config.from_dict(campaign(CHAINED))
    assert isinstance(settings.space, Chained)
    assert isinstance(settings.space.merge, Merge)
    assert settings.space.merge.layer_groups == 2
    plain = config.as_dict(settings)
    assert "kind" not in plain["space"]["merge"]
    assert config.from_dict(json.loads(json.dumps(plain))) == settings


@pytest.mark.parametrize(
    ("merge", "message"),
    [
        ({**CHAINED["merge"], "methud": "ties"}, "space.merge.methud: unknown key"),
        ({**CHAINED["merge"], "layer_groups": 0}, "space.merge.layer_groups: "),
        ({"base": BASE, "method": "ties"}, "space.merge: sources is missing: Models to mix"),
    ],
)
def test_a_mistake_in_a_section_within_a_section_is_placed_there(merge, message):
    with pytest.raises(config.ConfigError, match=message):
        config.from_dict(campaign({**CHAINED, "merge": merge}))


def test_inherited_settings_are_documented_in_the_schema():
    spaces = config.schema()["properties"]["space"]["oneOf"]
    for kind in ("dataflow", "chained"):
        (found,) = (one for one in spaces if one["properties"]["kind"].get("const") == kind)
        undocumented = [
            name for name, one in found["properties"].items() if not one.get("description")
        ]
        assert undocumented == ["kind"]
