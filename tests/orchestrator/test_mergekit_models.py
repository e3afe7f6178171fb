"""Models built from mergekit's configurations are those that mergekit builds.

`tests/data/mergekit` holds what mergekit 0.1.5 made of every configuration there, stacks, filters
and gradients included.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from orchestrator import mergekit, yaml_file
from workers.merging.residence import Residence
from workers.merging.tensors import TensorMerge
from workers.merging.workshop import Workshop
from workers.models.files import ModelPolicy
from workers.models.library import inspect
from workers.recipe import MergeRecipe, Part, Setting, Slice

FOLDER = Path(__file__).resolve().parents[1] / "data" / "mergekit"
MANIFEST = json.loads((FOLDER / "manifest.json").read_text(encoding="utf-8"))
#: mergekit computes them where we see a mistake: weights that sum to zero, a `t` beyond the models.
REFUSED = ("slerp-beyond", "nuslerp-opposite-weights", "task_arithmetic-zero-sum")
RECIPES = [
    name
    for name, recipe in MANIFEST["recipes"].items()
    if not recipe["random"] and name not in REFUSED
]
#: How far sums in another order may lie apart; each method's own test is far stricter.
TOLERANCE = 1e-4


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """The folder of the models `base`, `a`, `b` and `c`."""
    folder = tmp_path_factory.mktemp("models")
    tensors = load_file(FOLDER / "inputs.safetensors")
    for model in ("base", "a", "b", "c"):
        own = {
            name.removeprefix(f"{model}/"): tensor
            for name, tensor in tensors.items()
            if name.startswith(f"{model}/")
        }
        (folder / model).mkdir()
        save_file(own, folder / model / "model.safetensors", metadata={"format": "pt"})
        (folder / model / "config.json").write_text(json.dumps(MANIFEST["model"]), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def build():
    workshop = Workshop(ModelPolicy(), Residence("cpu"))

    def built(recipe):
        merge = TensorMerge(recipe, workshop)
        return {name: merge.tensor(name) for name in merge.names()}

    return built


@cache
def facts(model):
    found = inspect(model, ModelPolicy())
    return found.num_layers, found.dtype


def filled(value, models):
    """Returns a configuration with folders for its placeholders."""
    if isinstance(value, str):
        return str(models / value[1:-1]) if value.startswith("{") else value
    if isinstance(value, list):
        return [filled(one, models) for one in value]
    if isinstance(value, dict):
        return {key: filled(one, models) for key, one in value.items()}
    return value


def read(name, models):
    return mergekit.read(filled(MANIFEST["recipes"][name]["config"], models), facts)


def again(recipe):
    return mergekit.read(yaml_file.parse(yaml_file.dump(mergekit.write(recipe))), facts)


def assert_same(built, expected):
    assert built.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(built[name], tensor), name


@pytest.mark.parametrize("name", RECIPES)
def test_a_configuration_builds_what_mergekit_built(name, models, build):
    held = load_file(FOLDER / MANIFEST["recipes"][name]["file"])
    unsettled = "float32/unsettled/"
    expected = {
        key.removeprefix("float32/"): tensor
        for key, tensor in held.items()
        if key.startswith("float32/") and not key.startswith(unsettled)
    }
    built = build(read(name, models))
    assert built.keys() == expected.keys()
    for tensor, value in expected.items():
        chance = held.get(unsettled + tensor, torch.zeros_like(value)).bool()
        distance = (built[tensor] - value).abs().masked_fill(chance, 0.0)
        assert distance.max() <= TOLERANCE, tensor


@pytest.mark.parametrize("name", RECIPES)
def test_a_written_recipe_builds_the_same_model(name, models, build):
    recipe = read(name, models)
    if any(isinstance(source, MergeRecipe) for source in recipe.sources):
        with pytest.raises(mergekit.RecipeError, match="itself a merge"):
            mergekit.write(recipe)
        return
    assert_same(build(again(recipe)), build(recipe))


def test_every_recorded_configuration_is_read(models):
    for name in MANIFEST["recipes"]:
        assert read(name, models).num_layers >= 2, name


def test_a_path_through_layers_of_several_models_builds_the_same_model(models, build):
    def scaled(scale, module="o_proj"):
        return (
            Setting(filter=module, values={"scale": (scale,)}),
            Setting(filter=None, values={"scale": (1.0,)}),
        )

    hops = ((0, 0), (1, 1), (0, 1), (0, 0))
    recipe = MergeRecipe(
        method="passthrough",
        sources=(str(models / "a"), str(models / "b")),
        base=str(models / "base"),
        slices=tuple(
            Slice(
                start=layer,
                stop=layer + 1,
                settings=scaled(1 + layer / 4),
                sources=(place,),
                origins=(origin,),
            )
            for layer, (place, origin) in enumerate(hops)
        ),
        before=Part(settings=scaled(1.0), sources=(1,)),
        after=Part(settings=scaled(-1.0, "model.norm"), sources=(0,)),
        dtype="float32",
    )
    built = build(recipe)
    sources = [load_file(models / one / "model.safetensors") for one in "ab"]
    assert torch.equal(built["model.embed_tokens.weight"], sources[1]["model.embed_tokens.weight"])
    assert torch.equal(built["model.norm.weight"], -sources[0]["model.norm.weight"])
    for layer, (place, origin) in enumerate(hops):
        own = sources[place][f"model.layers.{origin}.self_attn.o_proj.weight"]
        name = f"model.layers.{layer}.self_attn.o_proj.weight"
        assert torch.equal(built[name], own * (1 + layer / 4))
    assert_same(build(again(recipe)), built)


def test_parts_and_layers_of_their_own_build_the_same_model(models, build):
    def settings(weight):
        return (
            Setting(filter="mlp", values={"weight": (weight, 0.5), "density": (0.4, weight)}),
            Setting(filter=None, values={"weight": (0.3, weight), "density": (weight, 1.0)}),
        )

    recipe = MergeRecipe(
        method="ties",
        sources=tuple(str(models / one) for one in "abc"),
        base=str(models / "base"),
        slices=(
            Slice(start=0, stop=1, settings=settings(0.6), sources=(2, 0), origins=(1, 0, 1)),
            Slice(start=1, stop=2, settings=settings(0.7), sources=(0, 1)),
            Slice(start=2, stop=3, settings=settings(0.8), sources=(0, 1), origins=(0, 0, 0)),
        ),
        before=Part(settings=settings(0.2), sources=(0, 2)),
        options={"normalize": True, "lambda": 0.9},
        dtype="bfloat16",
    )
    assert_same(build(again(recipe)), build(recipe))
