"""Every merge method against what mergekit makes of the same tensors (see tests/data/mergekit).

Distances are counted in steps of bfloat16, as wide as they are at the larger of the two numbers and
the models' own ones there (sums that cancel lose the digits that these do not have): 1 is one
rounding. In float32, where both compute and nothing is rounded, far less is allowed.
"""

from __future__ import annotations

import json
import math
from functools import cache
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from workers.merging.combine import carry_out
from workers.merging.inputs import TensorInputs
from workers.methods.registry import METHODS

FOLDER = Path(__file__).resolve().parents[1] / "data" / "mergekit"
RECIPES = json.loads((FOLDER / "manifest.json").read_text(encoding="utf-8"))["recipes"]
SEEDS = json.loads((FOLDER / "manifest.json").read_text(encoding="utf-8"))["seeds"]

#: Steps of float32, wide as above, that sums in another order may take.
FLOAT32_STEPS = 8

#: What mergekit does where a recipe says nothing, where ours differs.
DEFAULTS = {
    "ties": {"normalize": True},
    "dare_linear": {"rescale": True},
    "dare_ties": {"rescale": True},
    "della_linear": {"rescale": True},
    "della": {"normalize": True, "rescale": True},
}
#: As the fixtures name them.
MODELS = ("base", "a", "b", "c")
RESCALE = {True: "l1", False: "none"}


@cache
def held(file):
    return load_file(FOLDER / file)


def is_plain(config):
    """Whether a recipe merges whole models by the same numbers everywhere."""
    given = [model.get("parameters", {}) for model in config.get("models", [])]
    numbers = [*config.get("parameters", {}).values(), *(v for one in given for v in one.values())]
    return "models" in config and not any(isinstance(number, list) for number in numbers)


def reading(config):
    """Returns (letters of the sources, values, options) of a recipe for whole models."""
    method = config["merge_method"]
    facts = METHODS.facts(method)
    shared = {**DEFAULTS.get(method, {}), **config.get("parameters", {})}
    letters = [model["model"].strip("{}") for model in config["models"]]
    own = {
        letter: model.get("parameters", {})
        for letter, model in zip(letters, config["models"], strict=True)
    }
    base = config.get("base_model", "").strip("{}")
    if method == "slerp":
        letters.sort(key=lambda letter: letter != base)
    elif method != "linear":
        letters = [letter for letter in letters if letter != base]
    values = {}
    for parameter in facts.parameters:
        name, default = parameter.name, shared.get(parameter.name, parameter.default)
        holders = letters if parameter.per == "source" else letters[:1]
        values[name] = tuple(float(own[one].get(name, default)) for one in holders)
    options = {name: shared.get(name, default) for name, default in facts.options.items()}
    if "rescale" in options:
        options["rescale"] = RESCALE.get(options["rescale"], options["rescale"])
    if "use_base" in options:
        options["use_base"] = bool(base)
    return letters, values, options


def merged(config, name, dtype, *, seed=0, block_entries=None):
    """Returns our merge of one tensor."""
    letters, values, options = reading(config)
    models = {one: held("inputs.safetensors")[f"{one}/{name}"].to(dtype) for one in MODELS}
    inputs = TensorInputs(
        name=name,
        sources=[models[letter] for letter in letters],
        base=models["base"],
        identities=letters,
        base_identity="base",
        values=values,
        options=options,
        seed=seed,
        block_entries=block_entries,
    )
    plan = METHODS.load(config["merge_method"])().plan(inputs)
    out = torch.empty(models["base"].shape, dtype=dtype)
    assert carry_out(plan, inputs, out)
    return out, inputs


def names(recipe):
    return [
        key.removeprefix("float32/")
        for key in held(RECIPES[recipe]["file"])
        if key.startswith("float32/model.")
    ]


def steps(ours, theirs, inputs, bits):
    """Returns the distance in steps of numbers of `bits` bits after the leading one."""
    known = [
        inputs.model(index).view(ours.shape).double() for index in range(-1, inputs.num_sources)
    ]
    sizes = torch.stack([ours.double(), theirs.double(), *known]).abs().amax(0)
    width = torch.exp2(torch.floor(torch.log2(sizes.clamp_min(1e-30))) - bits)
    return (ours.double() - theirs.double()).abs() / width


def is_settled(recipe):
    """Whether our method takes the recipe's numbers, and draws none at random."""
    entry = RECIPES[recipe]
    return is_plain(entry["config"]) and not entry["random"] and recipe not in REFUSED


#: What ours refuses: weights that sum to zero where they are divided by, and a density of 0.
REFUSED = {
    "task_arithmetic-zero-sum": "sum to 0",
    "nuslerp-opposite-weights": "sum to 0",
    "ties-sparse": "density",
}
#: Multi-SLERP's `eps` of 0.01 also shortens mergekit's result by the factor cos(0.01). Model Stock
#: divides by 1 + (N - 1) c, which is small for a row whose changes nearly cancel.
WIDER = {
    "multislerp-eps": (1 - math.cos(0.01)) * 2**24 + FLOAT32_STEPS,
    "model_stock-filter-wise": 4 * FLOAT32_STEPS,
}

settled = pytest.mark.parametrize("recipe", sorted(filter(is_settled, RECIPES)))
drawn = pytest.mark.parametrize(
    "recipe", sorted(name for name, entry in RECIPES.items() if entry["random"])
)


def is_too_small(method, inputs):
    """Whether mergekit's guards against division by zero, or its rounding, change the result.

    They take effect where the changes are about 1e-4, as they are in real fine-tuning.
    """
    places = range(inputs.num_sources)
    if method == "model_stock":
        norms = [math.sqrt(inputs.delta_dot(place, place)) for place in places]
        return any(0 < a * b < 1e-6 for a in norms for b in norms)
    if method == "sce":
        entries = inputs.shape[0] * inputs.shape[1]
        return sum(inputs.delta_dot(place, place) for place in places) / entries < 1e-6
    if method == "arcee_fusion":  # its divergence is 1e-9, of terms with float32's error of 1e-8
        return 0 < inputs.delta_dot(0, 0) < 1e-6
    return False


def compared(recipe, precision, dtype):
    """Yields (tensor's name, ours, theirs, inputs, positions that are not settled)."""
    entry = RECIPES[recipe]
    results = held(entry["file"])
    for name in names(recipe):
        ours, inputs = merged(entry["config"], name, dtype)
        unsettled = results.get(f"{precision}/unsettled/{name}", torch.zeros(ours.shape))
        yield name, ours, results[f"{precision}/{name}"], inputs, unsettled.bool()


@settled
def test_a_merge_in_float32_is_mergekits_but_for_the_order_of_sums(recipe):
    method = RECIPES[recipe]["config"]["merge_method"]
    for name, ours, theirs, inputs, unsettled in compared(recipe, "float32", torch.float32):
        if not is_too_small(method, inputs):
            distance = steps(ours, theirs, inputs, 23).masked_fill(unsettled, 0)
            assert float(distance.max()) <= WIDER.get(recipe, FLOAT32_STEPS), name


@settled
def test_a_merge_of_bfloat16_models_is_mergekits_within_one_rounding(recipe):
    method = RECIPES[recipe]["config"]["merge_method"]
    for name, ours, theirs, inputs, unsettled in compared(recipe, "upcast", torch.bfloat16):
        if not is_too_small(method, inputs):
            distance = steps(ours, theirs.to(ours.dtype), inputs, 7).masked_fill(unsettled, 0)
            assert float(distance.max()) <= 1, name


@pytest.mark.parametrize("recipe", ["model_stock", "model_stock-pair", "sce", "arcee_fusion"])
def test_only_one_tensor_has_changes_too_small_for_mergekit(recipe):
    found = [
        name
        for name, _, _, inputs, _ in compared(recipe, "float32", torch.float32)
        if is_too_small(RECIPES[recipe]["config"]["merge_method"], inputs)
    ]
    assert found == ["model.layers.1.post_attention_layernorm.weight"]


@pytest.mark.parametrize(("recipe", "problem"), sorted(REFUSED.items()))
def test_what_mergekit_makes_of_undefined_numbers_is_refused(recipe, problem):
    config = RECIPES[recipe]["config"]
    _, values, _ = reading(config)
    facts = METHODS.facts(config["merge_method"])
    if problem == "density":
        assert not all(facts.parameter("density").accepts(value) for value in values["density"])
    else:
        with pytest.raises(ValueError, match=problem):
            merged(config, "model.norm.weight", torch.float32)


def test_every_method_of_mergekit_is_compared():
    compared_ones = {
        entry["config"]["merge_method"]
        for name, entry in RECIPES.items()
        if entry["random"] or is_settled(name)
    }
    assert compared_ones == set(METHODS.addresses)


#: Rows of whole numbers of 1/256, many of them alike in size, and a single row of ordinary ones.
SAMPLE = ("model.layers.0.self_attn.q_proj.weight", "model.layers.1.input_layernorm.weight")


@drawn
def test_random_masks_have_mergekits_density_and_mean_entry_by_entry(recipe):
    """Six standard errors of the difference, entry by entry, over as many seeds as mergekit's."""
    entry = RECIPES[recipe]
    results = held(entry["file"])
    for name in SAMPLE:
        base = held("inputs.safetensors")[f"base/{name}"]
        runs = torch.stack(
            [merged(entry["config"], name, torch.float32, seed=seed)[0] for seed in range(SEEDS)]
        ).double()
        mean, std, changed = (
            results[f"float32/{what}/{name}"].double() for what in ("mean", "std", "changed")
        )
        error = ((runs.var(0) + std**2) / SEEDS).sqrt()
        assert bool(((runs.mean(0) - mean).abs() <= 6 * error + 1e-6).all()), name
        rate = (runs != base).double().mean(0)
        both = (rate + changed) / 2
        error = (both * (1 - both) * 2 / SEEDS).sqrt()
        assert bool(((rate - changed).abs() <= 6 * error + 1e-3).all()), name  # stored as float16
        total = float(error.square().sum().sqrt())
        assert abs(float((rate - changed).mean())) <= 6 * total / rate.numel() + 1e-3, name
